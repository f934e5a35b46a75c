"""Compiling a network in place, with a way back when that fails."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import nn

Compilation = Literal["none", "default", "reduce-overhead"]

# Variants of a network: per view size, with and without gradients, with and without IaBN. torch would stop at 8.
RECOMPILE_LIMIT = 64


def check_compilation(mode: str) -> None:
    """Raises ValueError if there is no such way to compile."""
    if mode not in get_args(Compilation):
        raise ValueError(f"compile is {mode!r}: expected one of {', '.join(get_args(Compilation))}")


def compile_network(network: nn.Module, mode: Compilation = "default") -> None:
    """Has a network compiled at its first call for each image size; names and tensors stay.

    Should the compiler fail, the network runs as it is written from then on, with a warning.

    Args:
        network: Any module; changed in place. ``none`` undoes an earlier call.
        mode: ``default``, or ``reduce-overhead``, which replays CUDA graphs, one per image size; or ``none``.

    Raises:
        ValueError: If there is no such mode.
    """
    check_compilation(mode)
    if mode == "none":
        network._compiled_call_impl = None
        return
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    network._compiled_call_impl = _Fallback(network, torch.compile(network._call_impl, mode=mode, dynamic=False))


class _Fallback:
    """Calls a compiled network; when that fails, the network itself, from then on."""

    def __init__(self, network: nn.Module, compiled: Callable[..., Any]) -> None:
        self._network = network
        self._compiled = compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._compiled(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise whatever they come across
            output = self._network._call_impl(*args, **kwargs)  # if the input is to blame this raises, too
            self._network._compiled_call_impl = None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            rank_zero_warn(f"{type(self._network).__name__} runs without torch.compile, which failed: {reason}")
            return output
