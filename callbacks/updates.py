"""Gradient steps on stand-ins for a network's parameters, so that its own are never written."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from callbacks.stages import stage
from callbacks.substitution import substituted

HALF_LOSS_SCALES = (2.0**12, 2.0**6, 1.0)  # lift the gradients of single pixels above the smallest float16

State = dict[str, Tensor]


def copy_state(network: nn.Module, moving: Sequence[str] = ()) -> State:
    """Makes the stand-ins of a network: copies of what moves, as leaves that require gradients, and of all buffers.

    Args:
        network: Any module.
        moving: Full names of the parameters that are to move.

    Returns:
        A tensor for every parameter and buffer; parameters that do not move are the network's own, detached.
    """
    state = {name: parameter.detach() for name, parameter in network.named_parameters()}
    state |= {name: buffer.clone() for name, buffer in network.named_buffers()}
    return state | {name: state[name].clone().requires_grad_() for name in moving}


def take_steps(
    network: nn.Module,
    state: Mapping[str, Tensor],
    optimizer: Optimizer,
    compute_loss: Callable[[], Tensor | None],
    num_steps: int,
    scale: float = 1.0,
) -> Tensor:
    """Minimises a loss over the stand-ins that require gradients.

    Args:
        network: Any module.
        state: Its stand-ins; those that require gradients, and buffers that the network itself moves, are written.
        optimizer: Over these.
        compute_loss: Runs the network, which has its stand-ins in place then; returns a scalar, or None to end early.
        num_steps: Number of steps at most.
        scale: On the loss in the backward pass; gradients are scaled back.

    Returns:
        (S,) losses, each before its step; S is ``num_steps`` unless ended early. Nothing here waits for the device.
    """
    moving = [tensor for tensor in state.values() if tensor.requires_grad]
    device = next(iter(state.values())).device.type
    losses = []
    # A cast that autocast kept from the step before would be of weights that have moved since: no cache.
    enabled = torch.is_autocast_enabled(device)
    with torch.autocast(device, torch.get_autocast_dtype(device), enabled, cache_enabled=False):
        for _ in range(num_steps):
            with stage("step"):
                with torch.enable_grad(), substituted(network, state):
                    loss = compute_loss()
                    if loss is None:
                        break
                    gradients = torch.autograd.grad(loss * scale, moving, allow_unused=True)
                losses.append(loss.detach())
                for tensor, gradient in zip(moving, gradients, strict=True):
                    tensor.grad = gradient if gradient is None or scale == 1 else gradient / scale
                optimizer.step()
    optimizer.zero_grad()
    return torch.stack(losses) if losses else torch.empty(0)


def loss_scales(device: torch.device) -> tuple[float, ...]:
    """Lists the scales to try: float16 autocast loses small gradients and may overflow on large ones, others do not."""
    half = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16
    return HALF_LOSS_SCALES if half else (1.0,)
