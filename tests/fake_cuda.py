"""A GPU without a GPU: tensors that are on "cuda" by name, and whose operations run on shapes, types and layouts alone.

An operation that mixes devices raises, as it would on a GPU, and so does one whose result has a size that only the
values tell. Each time the host would wait for the device is noted. Gradients are zeros, as torch's engine asks for a
driver; the backward passes of this project's own functions are to be called by hand.
"""

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

SOURCES = {"callbacks", "lightning_modules", "datamodules"}
CUDA = torch.device("cuda", 0)
FAKES = FakeTensorMode(allow_non_fake_inputs=True)  # one for all tests: what code caches is of this mode
aten = torch.ops.aten


class FakeCuda(TorchDispatchMode):
    """Notes where the host waits for the device, and stands in for kernels that torch has no fakes of.

    Attributes:
        waits: For each wait what was asked for, and the line of this project that did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def note(self, what: str) -> None:
        """Notes a wait."""
        paths = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_stack()]
        ours = [f"{path.name}:{line}" for path, line in paths if SOURCES & {path.parent.name, path.parent.parent.name}]
        self.waits.append(f"{what} in {ours[-1] if ours else 'the test'}")

    def read(self, tensor: Tensor, what: str = "a value") -> Any:
        """Returns the values of a tensor as if all of them were 1."""
        if tensor.is_cuda:
            self.note(what)
        kind = float if tensor.is_floating_point() else bool if tensor.dtype == torch.bool else int
        return np.ones(tensor.shape, kind).tolist()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operation."""
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            try:
                return func(*args)  # a number that was written in the program
            except DataDependentOutputException:
                return self.read(args[0])
        if func in (aten.equal.default, aten.allclose.default):
            return bool(self.read(args[0], "whether tensors are equal") or True)
        if func in KERNELS:
            return stand_in(func, *args)
        result = func(*args, **kwargs)
        if func in (aten._to_copy.default, aten.copy_.default):
            source = args[0] if func is aten._to_copy.default else args[1]
            waiting = not (kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2]))
            if waiting and source.device != result.device:
                self.note(f"a copy from {source.device.type} to {result.device.type}")
        return result


def stand_in(func: Any, *args: Any) -> Any:
    """Stands in for a kernel of SyncBatchNorm, and checks what it is given.

    That is features and perhaps their gradient, which lie alike, statistics per channel, and perhaps a count.
    """
    tensors = [value for value in args if isinstance(value, Tensor)]
    features, others = [tensor for tensor in tensors if tensor.ndim == 4], [one for one in tensors if one.ndim < 4]
    x = features[-1]
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    assert all(tensor.is_cuda and tensor.is_contiguous() for tensor in others)
    assert all(one.is_cuda and one.dtype == x.dtype and one.stride() == x.stride() for one in features), features
    assert x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last), f"strides {x.stride()}"
    for statistic in others:
        if statistic.dtype == torch.int32:
            assert statistic.shape == (1,)
        else:
            assert statistic.shape == (x.shape[1],) and statistic.dtype == kind, f"statistics of {x.dtype}: {statistic}"
    if func in (aten.batch_norm_elemt.default, aten.batch_norm_backward_elemt.default):
        return torch.empty_like(x)
    wanted = (args[5], *args[5:]) if func is aten.batch_norm_backward_reduce.default else (True, True)
    return tuple(x.new_empty(x.shape[1], dtype=kind) if one else None for one in wanted)


PARTS = ("stats", "elemt", "backward_reduce", "backward_elemt")
KERNELS = {getattr(aten, f"batch_norm_{part}").default for part in PARTS}


def draw_gradients(
    outputs: Tensor | Sequence[Tensor], inputs: Sequence[Tensor], *_: Any, **options: Any
) -> tuple[Tensor | None, ...]:
    """Stands in for `torch.autograd.grad`, whose engine asks for a driver: zeros of the right shape and layout."""
    (output,) = [outputs] if isinstance(outputs, Tensor) else outputs
    assert output.requires_grad, "there is nothing to differentiate"
    return tuple(torch.zeros_like(tensor) for tensor in inputs)


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Lets tensors be on a GPU that is not there within a ``with`` block."""
    mode = FakeCuda()
    clock = {"synchronize": lambda: mode.note("the time"), "elapsed_time": lambda other: 1.0}
    event = SimpleNamespace(record=lambda stream=None: None, **clock)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "current_device": lambda: 0,
            "device": lambda device=None: nullcontext(),
            "manual_seed": lambda seed: None,
            "current_stream": lambda device=None: None,
            "Event": lambda **_: event,
            "get_device_name": lambda device=None: "a GPU that is not there",
            "get_rng_state": lambda device="cuda": torch.zeros(16, dtype=torch.uint8, device="cpu"),
            "set_rng_state": lambda state, device="cuda": None,
            "is_bf16_supported": lambda: True,
            "mem_get_info": lambda device=None: (2**34, 2**35),
            "synchronize": lambda device=None: mode.note("everything"),
            "amp.common.amp_definitely_not_available": lambda: False,  # or autocast turns itself off
        }.items():
            patch.setattr(f"torch.cuda.{name}", value)
        patch.setattr("callbacks.blended_norm._served", {})  # what is found out here says nothing of a real device
        patch.setattr("callbacks.blended_norm._find_fault", lambda *_: None)  # its results have no values to compare
        patch.setattr(torch.autograd, "grad", draw_gradients)
        patch.setattr(nn.Module, "to", move(nn.Module.to))
        patch.setattr(FakeTensor, "tolist", lambda self: mode.read(self, "values"))
        patch.setattr(FakeTensor, "__deepcopy__", lambda self, memo: self.clone(), raising=False)
        patch.setattr(FakeTensor, "numpy", to_numpy, raising=False)
        try:
            with FAKES, mode:
                yield mode
        finally:
            # A tensor without values must not meet a real device later.
            for name, module in list(sys.modules.items()):
                if name.partition(".")[0] in ("callbacks", "lightning_modules"):
                    for value in vars(module).values():
                        if hasattr(value, "cache_clear"):
                            value.cache_clear()


def move(original: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `Module.to` that leaves alone a network that is there already: its tensors have no values."""

    def chosen(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        kinds = {(tensor.device, tensor.dtype) for tensor in self.parameters()}
        there = all(kind == (device or kind[0], dtype or kind[1]) for kind in kinds)
        return self if kinds and there else original(self, *args, **kwargs)

    return chosen


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Returns zeros in place of the values that a tensor on the CPU does not have."""
    if tensor.is_cuda:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")
    return np.zeros(tensor.shape, str(tensor.dtype).removeprefix("torch."))
