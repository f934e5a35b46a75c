"""The weights that the paper's authors released, e.g. `resnet50_gta_alpha_0.1.pth`, as tensors of `DeepLabV1`.

A file is a flat state dict. Every name starts with ``module.``; every BatchNorm is wrapped (``bn1.batch_norm.weight``)
and has its IaBN weight beside it (``bn1.alpha``); the classifier is ``cls_head``; the ImageNet classifier ``fc`` is
included, but unused.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lightning_modules.networks.checkpoints import read_checkpoint

DEPTHS = {6: "resnet50", 23: "resnet101"}  # by the number of blocks of layer3
UNUSED = ("backbone.fc.weight", "backbone.fc.bias")


@dataclass(frozen=True)
class ReleasedWeights:
    """The content of a released file.

    Attributes:
        path: Path of the file.
        backbone: ``resnet50`` or ``resnet101``.
        num_classes: Number of classes K: 19 from GTA, 16 from SYNTHIA.
        alpha: IaBN's weight, chosen for these weights; None if it differs between layers.
        state: Tensors by their names in `DeepLabV1`.
    """

    path: Path
    backbone: str
    num_classes: int
    alpha: float | None
    state: dict[str, Tensor]


def read_released(path: str | Path) -> ReleasedWeights:
    """Reads a file that the authors released.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file; the message says what it contains.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"the released weights {path} do not exist: expected a file such as resnet50_gta_alpha_0.1.pth, downloaded "
            "from the link in the authors' README"
        )
    saved = read_checkpoint(path)["state_dict"]
    state: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for key, value in saved.items():
        name = key.removeprefix("module.").replace(".batch_norm.", ".")
        if name.endswith(".alpha"):
            alphas[name] = float(value)
        elif name not in UNUSED:
            state["head" + name.removeprefix("cls_head") if name.startswith("cls_head.") else name] = value
    blocks = {name.split(".")[2] for name in state if name.startswith("backbone.layer3.")}
    if "head.weight" not in state or len(blocks) not in DEPTHS:
        examples = ", ".join(list(saved)[:3]) or "nothing"
        head = "a" if "head.weight" in state else "no"
        raise ValueError(
            f"{path} contains {len(saved)} tensors ({examples}, ...), with {len(blocks)} blocks in layer3 and {head} "
            "cls_head: expected a released DeepLabv1 on ResNet-50 or ResNet-101"
        )
    values = {round(alpha, 6) for alpha in alphas.values()}
    return ReleasedWeights(
        path=path,
        backbone=DEPTHS[len(blocks)],
        num_classes=len(state["head.weight"]),
        alpha=values.pop() if len(values) == 1 else None,
        state=state,
    )
