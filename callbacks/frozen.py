"""Computes what the frozen part of a network says about an image once, and replays it in every later pass.

While a few layers of a network move, all that lies before them gives the same output in every step. Which modules these
are is found out while the network runs, so it works for any network: a module is replayed if nothing in it moves and it
is called, for the n-th time in a pass, with the very inputs that it had before.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from callbacks.batch_statistics import BatchStatistics, logging_statistics

SIMPLE = (int, float, str, bool, torch.Size, torch.dtype, torch.device, type(None))


@dataclass
class Call:
    """One call of a frozen module, as it was in the first pass.

    Attributes:
        inputs: Tensors and other values that it was called with, each with the version that a tensor had after it.
        structure: How the inputs were nested.
        in_place: Whether it changed its input, which is the only one then.
        outputs: Tensors and other values that it returned.
        returned: How these were nested.
        statistics: What it adds to running statistics, in order.
        buffers: All other buffers of the module, each with its version.
    """

    inputs: list[tuple[Any, int]]
    structure: TreeSpec
    in_place: bool
    outputs: list[Any]
    returned: TreeSpec
    statistics: list[BatchStatistics]
    buffers: list[tuple[Tensor, int]]


class Replay:
    """The calls of the frozen modules of a network in its first pass, and what they returned.

    A call is replayed only if that is what the module would do: its inputs are the tensors of the first pass, or equal
    ones that code between the modules made anew; it draws no random numbers from torch's generators, changes none of
    its attributes and moves no buffer but running statistics (which are moved here); and what it returned has not been
    changed by anything but frozen modules, or been read before these changed it. A frozen module that changes its input
    has to be called in every pass, as it is in the first.

    Args:
        idle: Whether there is nothing to replay, so that no pass need be watched.

    Attributes:
        replayed: How many calls were replayed.
    """

    def __init__(self, idle: bool = False) -> None:
        self.replayed = 0
        self._calls: dict[tuple[nn.Module, int], Call] = {}
        self._numbers: dict[nn.Module, int] = {}
        self._returned: dict[int, Tensor] = {}  # by id, so that no id is given to another tensor
        self._versions: dict[int, int] = {}  # of these, after the frozen modules that change them in place
        self._reads: dict[int, int] = {}  # the version at which they were first read
        self._made_from: dict[int, list[Any]] = {}  # what the modules that change them in place returned
        self._began = idle
        self._watching = False
        self._busy = False
        self._watch = _Watch(self)

    @contextmanager
    def next_pass(self) -> Iterator[None]:
        """Surrounds each pass of the network; the first one is kept, and what is done between its calls is watched."""
        self._numbers.clear()
        if self._began:
            yield
            return
        self._began = self._watching = True
        try:
            with self._watch:
                yield
        finally:
            self._watching = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Replays nothing within a ``with`` block: what runs in there is no pass."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def call(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls a module, or replays what it returned."""
        if self._busy:
            return forward(*args, **kwargs)
        inputs, structure = _flatten((args, kwargs))
        key = (module, self._numbers.get(module, 0))
        self._numbers[module] = key[1] + 1
        if any(isinstance(value, Tensor) and value.requires_grad for value in inputs):
            return forward(*args, **kwargs)
        if self._watching:
            return self._make(key, inputs, structure, args, kwargs)
        known = self._calls.get(key)
        if known is None or known.structure != structure or not self._fits(known, inputs):
            self._calls.pop(key, None)
            return forward(*args, **kwargs)
        self.replayed += 1
        for statistics in known.statistics:
            statistics.move()
        return tree_unflatten(known.outputs, known.returned)

    def note_reads(self, values: Iterable[Any]) -> None:
        """Notes that code between the frozen modules reads tensors."""
        for value in values:
            if not self._busy and isinstance(value, Tensor) and id(value) in self._returned:
                self._reads.setdefault(id(value), _version(value))

    def _fits(self, known: Call, inputs: list[Any]) -> bool:
        return (
            all(map(self._is_intact, known.outputs))
            and all(_version(buffer) == version for buffer, version in known.buffers)
            and len(inputs) == len(known.inputs)
            and all(
                self._is_same(value, *before, by_value=not known.in_place)
                for value, before in zip(inputs, known.inputs, strict=True)
            )
        )

    def _is_intact(self, value: Any) -> bool:
        """Returns whether a returned tensor, and what in-place modules made from it, are as they are to be replayed."""
        if not isinstance(value, Tensor):
            return True
        now = _version(value)
        return (
            now == self._versions[id(value)]
            and now == self._reads.get(id(value), now)
            and all(self._is_intact(made) for made in self._made_from.get(id(value), ()) if made is not value)
        )

    def _is_same(self, value: Any, known: Any, version: int, by_value: bool) -> bool:
        if not isinstance(value, Tensor):
            return value is known or (isinstance(value, SIMPLE) and type(value) is type(known) and value == known)
        if not isinstance(known, Tensor):
            return False
        if value is known and id(value) in self._returned:
            return True  # whether it was changed is known where it was returned
        if _version(known) != version:
            return False
        same = value.shape == known.shape and value.dtype == known.dtype and value.device == known.device
        return value is known or (by_value and same and torch.equal(value, known))

    def _make(self, key: tuple[nn.Module, int], inputs: list[Any], structure: TreeSpec, args: Any, kwargs: Any) -> Any:
        """Calls a module in the first pass, and keeps the call if it can be replayed."""
        module = key[0]
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        versions, random, attributes = list(map(_version, tensors)), _random_state(tensors), _list_attributes(module)
        buffers, copies = [(buffer, _version(buffer)) for buffer in module.buffers()], _copy_uncounted(module)
        self._busy = True
        try:
            with logging_statistics(module) as statistics, self._watch.paused():
                output = module.forward(*args, **kwargs)  # the logger's, if the module is a BatchNorm itself
        finally:
            self._busy = False
        outputs, returned = _flatten(output)
        changed = [tensor for tensor, version in zip(tensors, versions, strict=True) if _version(tensor) != version]
        moved = {id(buffer) for one in statistics for buffer in one.layer.buffers(recurse=False)}
        after, structure_after = _flatten((args, kwargs))
        fixed = [(buffer, version) for buffer, version in buffers if id(buffer) not in moved]
        if (
            all(isinstance(value, (Tensor, *SIMPLE)) for value in outputs)
            and not any(isinstance(value, Tensor) and value.requires_grad for value in outputs)
            and all(torch.equal(*pair) for pair in zip(random, _random_state(tensors), strict=True))
            and _are_same(attributes, _list_attributes(module))
            and list(map(id, module.buffers())) == [id(buffer) for buffer, _ in buffers]
            and all(_version(buffer) == version for buffer, version in fixed)
            and all(torch.equal(*pair) for pair in copies)
            and structure_after == structure
            and all(value is before for value, before in zip(after, inputs, strict=True))  # in the same lists
            and (not changed or (len(inputs) == 1 and id(changed[0]) in self._returned))
        ):
            for tensor in (*changed, *(value for value in outputs if isinstance(value, Tensor))):
                self._returned[id(tensor)] = tensor
                self._versions[id(tensor)] = _version(tensor)
            for tensor in changed:
                self._made_from.setdefault(id(tensor), []).extend(outputs)
            kept = [(value, _version(value) if isinstance(value, Tensor) else 0) for value in inputs]
            self._calls[key] = Call(kept, structure, bool(changed), outputs, returned, statistics, fixed)
        self.note_reads(tensor for tensor in tensors if all(tensor is not other for other in changed))
        return output


class _Watch(TorchDispatchMode):
    """Tells a replay which tensors the operations between the modules read."""

    def __init__(self, replay: Replay) -> None:
        super().__init__()
        self._replay = replay

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in (*args, *kwargs.values()) if kwargs else args:
            self._replay.note_reads(value if isinstance(value, list | tuple) else (value,))
        return func(*args, **(kwargs or {}))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Watches nothing within a ``with`` block: each operation that is watched costs some microseconds."""
        if _get_current_dispatch_mode() is not self:  # the network runs under a mode of its own
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()


@contextmanager
def replaying(network: nn.Module, moving: Iterable[Tensor]) -> Iterator[Replay]:
    """Calls the frozen modules of a network through a `Replay` within a ``with`` block.

    Modules keep their names, hooks and tensors; those with hooks inside are called as ever. So is a network that is
    compiled or scripted.

    Args:
        network: Any module, in the mode in which it will run.
        moving: The parameters that move between passes.
    """
    frozen = find_frozen(network, {id(parameter) for parameter in moving})
    replay = Replay(idle=not frozen)
    patched: list[nn.Module] = []
    try:
        for module in frozen:
            object.__setattr__(module, "forward", _Forward(replay, module, module.forward))
            patched.append(module)
        yield replay
    finally:
        for module in patched:
            vars(module).pop("forward", None)


class _Forward:
    """Stands in for the `forward` of a module."""

    def __init__(self, replay: Replay, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._replay = replay
        self._module = module
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._replay.call(self._module, self._forward, args, kwargs)


def find_frozen(network: nn.Module, moving: set[int]) -> list[nn.Module]:
    """Lists the modules in which nothing moves and nothing is random, large ones and those inside them.

    Args:
        network: Any module; never listed itself.
        moving: The ids of the parameters that move.
    """
    if is_compiled(network):
        return []
    return [module for module in list(network.modules())[1:] if _is_constant(module, moving)]


def is_compiled(network: nn.Module) -> bool:
    """Returns whether a network does not run as the Python code of its modules."""
    return isinstance(network, torch.jit.ScriptModule) or any(
        getattr(module, "_compiled_call_impl", None) is not None or "_orig_mod" in module._modules  # by torch.compile
        for module in network.modules()
    )


def _is_constant(module: nn.Module, moving: set[int]) -> bool:
    return (
        "forward" not in vars(module)
        and not any(id(parameter) in moving for parameter in module.parameters())
        and not any(
            isinstance(inner, torch.jit.ScriptModule)
            or (isinstance(inner, _DropoutNd) and inner.training and inner.p > 0)
            or (inner is not module and (inner._forward_hooks or inner._forward_pre_hooks))
            for inner in module.modules()
        )
    )


def _flatten(nested: Any) -> tuple[list[Any], TreeSpec]:
    """Lists what is nested, and how; a size is one thing (put together again, torch would make a tuple of it)."""
    return tree_flatten(nested, is_leaf=lambda value: isinstance(value, torch.Size))


def _version(tensor: Tensor) -> int:
    """Returns how often a tensor was written; inference tensors do not count that, and are not written here."""
    return 0 if tensor.is_inference() else tensor._version


def _list_attributes(module: nn.Module) -> list[tuple[Any, int]]:
    """Lists the plain values and the tensors that a module and those inside it keep as attributes, with versions."""
    return [
        (value, _version(value) if isinstance(value, Tensor) else 0)
        for inner in module.modules()
        for value in vars(inner).values()
        if isinstance(value, (Tensor, *SIMPLE))
    ]


def _are_same(ones: list[tuple[Any, int]], others: list[tuple[Any, int]]) -> bool:
    return len(ones) == len(others) and all(
        version == later and (one is other or (isinstance(one, SIMPLE) and one == other))
        for (one, version), (other, later) in zip(ones, others, strict=True)
    )


def _copy_uncounted(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Copies the buffers that may be written without a new version: `F.batch_norm` moves statistics so."""
    return [
        (buffer, buffer.clone())
        for inner in module.modules()
        if inner.training and not isinstance(inner, _BatchNorm)
        for buffer in inner.buffers(recurse=False)
    ]


def _random_state(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Returns the states of the random number generators that modules may draw from."""
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
