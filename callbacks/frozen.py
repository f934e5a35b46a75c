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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

SIMPLE = (int, float, str, bool, torch.Size, torch.dtype, torch.device, type(None))


@dataclass
class BatchStatistics:
    """What one call of a BatchNorm in training mode adds to its running statistics.

    Attributes:
        layer: The BatchNorm.
        mean: (C,) mean of the batch.
        var: (C,) unbiased variance of the batch.
    """

    layer: _BatchNorm
    mean: Tensor
    var: Tensor

    def move(self) -> None:
        """Moves the running statistics of the layer once, as its forward pass does."""
        layer = self.layer
        assert layer.running_mean is not None and layer.running_var is not None
        momentum = layer.momentum
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked += 1
            if momentum is None:
                momentum = 1.0 / float(layer.num_batches_tracked)
        assert momentum is not None
        for running, new in ((layer.running_mean, self.mean), (layer.running_var, self.var)):
            running.mul_(1 - momentum).add_(new, alpha=momentum)


@dataclass
class Call:
    """One call of a frozen module, as it was in the first pass.

    Attributes:
        inputs: Tensors and other values that it was called with, each with the version that a tensor had after it.
        structure: How the inputs were nested.
        in_place: Whether it changed an input.
        outputs: Tensors and other values that it returned.
        returned: How these were nested.
        statistics: What it adds to running statistics, in order.
    """

    inputs: list[tuple[Any, int]]
    structure: TreeSpec
    in_place: bool
    outputs: list[Any]
    returned: TreeSpec
    statistics: list[BatchStatistics]


class Replay:
    """The calls of the frozen modules of a network in its first pass, and what they returned.

    A call is replayed only if that is what the module would do: its inputs are the tensors of the first pass, or equal
    ones that code between the modules made anew; it draws no random numbers and moves no buffer but running statistics
    (which are moved here); and what it returned has not been changed by anything but frozen modules, or been read
    before these changed it.

    Attributes:
        replayed: How many calls were replayed.
    """

    def __init__(self) -> None:
        self.replayed = 0
        self._calls: dict[tuple[nn.Module, int], Call] = {}
        self._numbers: dict[nn.Module, int] = {}
        self._returned: dict[int, Tensor] = {}  # by id, so that no id is given to another tensor
        self._versions: dict[int, int] = {}  # of these, after the frozen modules that change them in place
        self._reads: dict[int, int] = {}  # the version at which code between the modules first read them
        self._began = False
        self._watching = False
        self._busy = False

    @contextmanager
    def next_pass(self) -> Iterator[None]:
        """Surrounds each pass of the network; the first one is kept, and what is done between its calls is watched."""
        self._numbers.clear()
        if self._began:
            yield
            return
        self._began = self._watching = True
        try:
            with _Watch(self):
                yield
        finally:
            self._watching = False

    def call(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls a module, or replays what it returned."""
        inputs, structure = tree_flatten((args, kwargs))
        if self._busy or any(isinstance(value, Tensor) and value.requires_grad for value in inputs):
            return forward(*args, **kwargs)
        key = (module, self._numbers.get(module, 0))
        self._numbers[module] = key[1] + 1
        if self._watching:
            return self._make(key, inputs, structure, lambda: forward(*args, **kwargs))
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
        for tensor in known.outputs:
            if isinstance(tensor, Tensor):
                now = _version(tensor)
                if now != self._versions[id(tensor)] or now != self._reads.get(id(tensor), now):
                    return False
        return len(inputs) == len(known.inputs) and all(
            self._is_same(value, *before, by_value=not known.in_place)
            for value, before in zip(inputs, known.inputs, strict=True)
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

    def _make(self, key: tuple[nn.Module, int], inputs: list[Any], structure: TreeSpec, forward: Callable) -> Any:
        """Calls a module in the first pass, and keeps the call if it can be replayed."""
        module = key[0]
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        versions, random = list(map(_version, tensors)), _random_state(tensors)
        buffers = [(buffer, _version(buffer)) for buffer in module.buffers()]
        self._busy = True
        try:
            with _logging_statistics(module) as statistics:
                output = forward()
        finally:
            self._busy = False
        outputs, returned = tree_flatten(output)
        changed = [tensor for tensor, version in zip(tensors, versions, strict=True) if _version(tensor) != version]
        moved = {id(buffer) for one in statistics for buffer in one.layer.buffers(recurse=False)}
        if (
            all(isinstance(value, (Tensor, *SIMPLE)) for value in outputs)
            and not any(isinstance(value, Tensor) and value.requires_grad for value in outputs)
            and all(torch.equal(*pair) for pair in zip(random, _random_state(tensors), strict=True))
            and all(_version(buffer) == version or id(buffer) in moved for buffer, version in buffers)
            and all(id(tensor) in self._returned for tensor in changed)
        ):
            for tensor in (*changed, *(value for value in outputs if isinstance(value, Tensor))):
                self._returned[id(tensor)] = tensor
                self._versions[id(tensor)] = _version(tensor)
            kept = [(value, _version(value) if isinstance(value, Tensor) else 0) for value in inputs]
            self._calls[key] = Call(kept, structure, bool(changed), outputs, returned, statistics)
        return output


class _Watch(TorchDispatchMode):
    """Tells a replay which tensors the operations between the modules read."""

    def __init__(self, replay: Replay) -> None:
        super().__init__()
        self._replay = replay

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._replay.note_reads(tree_leaves((args, kwargs)))
        return func(*args, **(kwargs or {}))


@contextmanager
def replaying(network: nn.Module, moving: Iterable[Tensor]) -> Iterator[Replay]:
    """Calls the frozen modules of a network through a `Replay` within a ``with`` block.

    Modules keep their names, hooks and tensors; those with hooks inside are called as ever. So is a network that is
    compiled or scripted.

    Args:
        network: Any module, in the mode in which it will run.
        moving: The parameters that move between passes.
    """
    replay = Replay()
    patched: list[nn.Module] = []
    try:
        for module in find_frozen(network, {id(parameter) for parameter in moving}):
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
        getattr(module, "_compiled_call_impl", None) is not None for module in network.modules()
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


@contextmanager
def _logging_statistics(module: nn.Module) -> Iterator[list[BatchStatistics]]:
    """Logs what BatchNorm layers in training mode add to their running statistics within a ``with`` block."""
    log: list[BatchStatistics] = []
    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm) and layer.training and layer.track_running_stats
    ]
    originals = [(layer, layer.forward) for layer in layers]
    outer = {layer: vars(layer).get("forward") for layer in layers}
    try:
        for layer, forward in originals:
            object.__setattr__(layer, "forward", _StatisticsLogger(layer, forward, log))
        yield log
    finally:
        for layer in layers:
            if outer[layer] is None:
                vars(layer).pop("forward", None)
            else:
                object.__setattr__(layer, "forward", outer[layer])


class _StatisticsLogger:
    """Stands in for the `forward` of a BatchNorm: a momentum of 1 leaves the batch's statistics in the buffers."""

    def __init__(self, layer: _BatchNorm, forward: Callable[..., Any], log: list[BatchStatistics]) -> None:
        self._layer = layer
        self._forward = forward
        self._log = log

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        layer = self._layer
        twins = (layer, *getattr(layer, "layer", ()))  # an adaptive twin may call the layer that it stands for
        momenta = [twin.momentum for twin in twins]
        buffers = dict(layer._buffers)
        try:
            for name, buffer in buffers.items():
                layer._buffers[name] = None if buffer is None else buffer.clone()
            for twin in twins:
                twin.momentum = 1.0
            output = self._forward(*args, **kwargs)
            mean, var = layer.running_mean, layer.running_var
        finally:
            layer._buffers.update(buffers)
            for twin, momentum in zip(twins, momenta, strict=True):
                twin.momentum = momentum
        assert mean is not None and var is not None
        self._log.append(BatchStatistics(layer, mean, var))
        self._log[-1].move()
        return output


def _version(tensor: Tensor) -> int:
    """Returns how often a tensor was written; inference tensors do not count that, and are not written here."""
    return 0 if tensor.is_inference() else tensor._version


def _random_state(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Returns the states of the random number generators that modules may draw from."""
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
