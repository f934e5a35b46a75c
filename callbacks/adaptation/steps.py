"""In-place training steps on a network; values, gradients, buffers and flags are restored even after an error."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from callbacks.adaptation.outcome import Adaptation
from callbacks.stages import stage

HALF_LOSS_SCALES = (2.0**12, 2.0**6, 1.0)  # keep gradients of single pixels from underflowing in float16


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Sets a network to evaluation mode within a ``with`` block; restores its flags and buffers after it."""
    with stage("restore"):
        flags = [(module, module.training) for module in network.modules()]
        required = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
        buffers = [
            (module._buffers, name, buffer, None if buffer is None else buffer.clone())
            for module in network.modules()
            for name, buffer in module._buffers.items()
            if buffer is None or not buffer.is_inference()
        ]
    try:
        network.eval()
        yield
    finally:
        with stage("restore"):
            for module, training in flags:
                module.training = training
            for parameter, requires_grad in required:
                if parameter.requires_grad != requires_grad:
                    parameter.requires_grad_(requires_grad)
            for own, name, buffer, saved in buffers:
                own[name] = buffer  # a forward pass may have replaced it
                if buffer is not None and saved is not None:
                    buffer.copy_(saved)


@contextmanager
def moving(network: nn.Module, names: Sequence[str], buffers: bool = False) -> Iterator[list[nn.Parameter]]:
    """Makes parameters trainable within a ``with`` block; restores their values and gradients after it.

    In the block only these parameters require gradients, and autocast's weight cache is off: a cached cast would be
    stale after an update. `evaluating` restores the ``requires_grad`` flags.

    Args:
        network: Any module.
        names: Full names of the parameters.
        buffers: Whether to restore buffers too, which training mode changes.

    Raises:
        ValueError: If a parameter was created in inference mode, so that torch cannot train it.
    """
    named = dict(network.named_parameters())
    parameters = [named[name] for name in names]
    inference = [name for name in names if named[name].is_inference()]
    if inference:
        raise ValueError(
            f"{inference[0]} of {type(network).__name__} was created in torch.inference_mode(), so it cannot be "
            "adapted: create the network outside of it"
        )
    tensors: list[Tensor] = [*parameters, *(network.buffers() if buffers else ())]
    values, gradients = [tensor.detach().clone() for tensor in tensors], [tensor.grad for tensor in parameters]
    chosen = set(map(id, parameters))
    kind = parameters[0].device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    with torch.autocast(kind, dtype, enabled, cache_enabled=False):
        try:
            for parameter in network.parameters():
                if parameter.requires_grad != (id(parameter) in chosen):
                    parameter.requires_grad_(id(parameter) in chosen)
            for parameter in parameters:
                parameter.grad = None
            yield parameters
        finally:
            restore(tensors, values)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient


@torch.no_grad()
def restore(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copies values into tensors, bit for bit."""
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def take_step(loss: Tensor, parameters: Sequence[Tensor], optimizer: Optimizer, scale: float = 1.0) -> None:
    """Takes one step of an optimizer of these parameters on a () loss; never waits for the device.

    The backward pass runs on the loss times `scale`; gradients are divided by it.
    """
    gradients = torch.autograd.grad(loss * scale, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient if gradient is None or scale == 1 else gradient / scale
    optimizer.step()


def in_float16(device: torch.device) -> bool:
    """Returns whether autocast uses float16, where small gradients underflow and large ones may overflow."""
    return torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16


def try_loss_scales(adapt: Callable[[float], Iterable[Adaptation]], device: torch.device) -> Iterator[Adaptation]:
    """Adapts with the largest loss scale that gives finite outcomes; outside float16, once with scale 1."""
    if in_float16(device):
        for scale in HALF_LOSS_SCALES[:-1]:
            outcomes = list(adapt(scale))
            if all(outcome.is_finite() for outcome in outcomes):
                yield from outcomes
                return
    yield from adapt(1.0)


@contextmanager
def seeded(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Seeds random numbers (for dropout) within a ``with`` block, so that no image depends on another."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.default_generator.manual_seed(seed)
        for one in cuda:  # not `torch.manual_seed`, which seeds all devices
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield
