"""Parts of training: the loss of a batch, checks of precision and divergence, and the learning rate after resuming.

Source: paper, Sec. 5 (implementation details) and Appendix A.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim.lr_scheduler import PolynomialLR

from lightning_modules.metrics import IGNORED
from lightning_modules.predictor import predict_logits

CPU_INFO = Path("/proc/cpuinfo")
KEYS = {"lr": "initial_lr", "momentum": "momentum", "weight_decay": "weight_decay"}  # in parameter groups


def warn_of_slow_bf16(precision: str) -> None:
    """Warns that bf16 is slow if this CPU has no instructions for it, as far as the system tells."""
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = [name for name, able in torch.cpu.get_capabilities().items() if able]
    else:  # an older torch, on Linux
        capabilities = CPU_INFO.read_text(encoding="utf-8").split() if CPU_INFO.exists() else []
    if capabilities and not any("bf16" in name for name in capabilities):
        rank_zero_warn(
            f"trainer.precision is {precision}, which is slower than float32 on this CPU: expected one with "
            "AVX512-BF16 or AMX. Scores are unaffected; to save time set trainer.precision=32-true"
        )


def continue_schedule(schedule: PolynomialLR, steps: int, power: float, settings: Mapping[str, float]) -> None:
    """Applies this run's length and settings to a schedule restored from a checkpoint; logs the settings that changed.

    Settings are ``lr``, ``momentum`` and ``weight_decay``; steps are those of the whole training.
    """
    groups = schedule.optimizer.param_groups
    was = {name: groups[0][key] for name, key in KEYS.items()}
    changed = [f"{name} was {was[name]:g}, is now {now:g}" for name, now in settings.items() if was[name] != now]
    if changed:
        rank_zero_info(f"Continuing with settings that differ from the checkpoint's: {', '.join(changed)}")
    elif schedule.total_iters == steps:
        return
    schedule.total_iters = steps
    schedule.base_lrs = [settings["lr"]] * len(groups)
    share = max(0.0, 1 - schedule.last_epoch / steps) ** power
    for group in groups:
        group.update({key: settings[name] for name, key in KEYS.items()}, lr=settings["lr"] * share)


def predict_in_training(network: nn.Module, image: Tensor) -> Tensor:
    """Returns the (B, K, H, W) logits of a batch; an error if a BatchNorm needs several images says so."""
    try:
        return predict_logits(network, image)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"the batch has {len(image)} image, but {type(network).__name__} has a BatchNorm over one value "
            "per image, which needs several: expected 2 images or more. Set data.batch_size to 2"
        ) from error


def compute_training_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Computes the mean cross-entropy of (B, K, H, W) logits over the labelled pixels; 0 if there are none.

    The (B, H, W) int64 mask holds labels in [0, K), or 255 where ignored.
    """
    labelled = (mask != IGNORED).sum().clamp_min(1)
    return F.cross_entropy(logits.float(), mask, ignore_index=IGNORED, reduction="sum") / labelled


def check_finite(loss: Tensor, parameters: Iterable[Tensor], epoch: int, lr: float) -> None:
    """Raises ValueError if the latest loss or the weights are NaN or infinite."""
    if not torch.stack([tensor.isfinite().all() for tensor in (loss, *parameters)]).all():
        raise ValueError(
            f"training diverged in epoch {epoch}: its loss ({loss.item():g}) or weights are NaN or infinite. Lower the "
            f"learning rate (model.lr is {lr}), and train again"
        )
