"""In-place compilation of a network, which runs uncompiled if the compiler fails."""

from typing import Any, Literal, get_args

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import nn

Compilation = Literal["none", "default", "reduce-overhead"]

# One variant per view size, with and without gradients, with and without IaBN; torch's default limit is 8.
RECOMPILE_LIMIT = 64


def compile_network(network: nn.Module, mode: Compilation = "default") -> None:
    """Makes a network compile at its first call for each image size; parameter names and tensors do not change.

    If the compiler fails, the network runs uncompiled from then on, with a warning. The mode ``reduce-overhead``
    replays CUDA graphs, one per image size; ``none`` undoes an earlier call.
    """
    if mode not in get_args(Compilation):
        raise ValueError(f"compile is {mode!r}: expected one of {', '.join(get_args(Compilation))}")
    if mode == "none":
        network._compiled_call_impl = None
        return
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    compiled = torch.compile(network._call_impl, mode=mode, dynamic=False)

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise errors of any type
            output = network._call_impl(*args, **kwargs)  # raises again if the input is at fault
            network._compiled_call_impl = None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            rank_zero_warn(f"{type(network).__name__} runs without torch.compile, which failed: {reason}")
            return output

    network._compiled_call_impl = call
