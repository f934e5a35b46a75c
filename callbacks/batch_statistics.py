"""What BatchNorm layers in training mode add to their running statistics, logged so that it can be added again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


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


@contextmanager
def logging_statistics(module: nn.Module) -> Iterator[list[BatchStatistics]]:
    """Logs what BatchNorm layers in training mode add to their running statistics within a ``with`` block."""
    log: list[BatchStatistics] = []
    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm)
        and layer.training
        and layer.track_running_stats
        and layer.running_mean is not None
        and layer.running_var is not None
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
        origin = getattr(layer, "layer", None)  # an adaptive twin may call the layer that it stands for
        twins = (layer, *origin) if isinstance(origin, tuple) else (layer,)
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
