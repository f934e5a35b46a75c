"""Ensembles: the mean softmax of several trained networks, each with IaBN and optionally TTA.

Source: Hansen and Salamon (1990); paper, Sec. 5.3 and Fig. 2, 5.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from callbacks.adaptation.alpha import Alpha, read_alpha
from callbacks.iabn import adaptive_batch_norm, check_batch_norm
from callbacks.method import Method
from callbacks.pseudo_labels import fuse_views
from callbacks.views import Normalization, make_views
from lightning_modules.checkpoints import check_classes
from lightning_modules.networks.checkpoints import check_weights, find_difference, read_checkpoint, rename_weights
from lightning_modules.predictor import predict_logits, predict_plainly
from lightning_modules.segmentation import SegmentationModule


class Ensemble(Method):
    """Averages the predictions of several networks.

    The members are exactly the checkpoints given. The run's own network only provides the architecture of those that
    fit it, and does not predict. A checkpoint of another architecture is built from the config.yaml in the folder of
    its training run. All are loaded once, at the start of a run.

    Args:
        checkpoints: Paths of the checkpoints, usually two or more, of networks for the same classes.
        alpha: Weight of the test image's statistics in [0, 1]; 0 turns IaBN off and accepts any network.
        tta: Whether each member predicts with test-time augmentation.
        scales: TTA's factors on the image's size, each above 0.
        flip: Whether TTA's second view of each scale is mirrored.
        grayscale: Whether TTA's second view of each scale is gray.
        normalization: Mean and standard deviation used to normalise images; None means ImageNet's.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        checkpoints: Sequence[str],
        alpha: Alpha = 0.1,
        tta: bool = False,
        scales: Sequence[float] = (0.25, 0.5, 0.75),
        flip: bool = True,
        grayscale: bool = True,
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__()
        if isinstance(checkpoints, str | Path) or len(checkpoints) == 0:
            raise ValueError(
                f"checkpoints is {checkpoints!r}: expected a list of paths, one per member, e.g. [a.ckpt, b.ckpt]"
            )
        self.checkpoints = [str(path) for path in checkpoints]
        self.alpha = read_alpha(alpha)
        self.tta = tta
        self.flip = flip
        self.grayscale = grayscale
        self.normalization = normalization or Normalization()
        self.views = make_views(scales, flip, grayscale)
        self.scales = tuple(scales)
        self.members: list[nn.Module] = []

    def check_network(self, network: nn.Module) -> None:
        """Loads the members; raises ValueError if one does not fit, or if alpha is above 0 and one has no BatchNorm."""
        with torch.inference_mode(False):
            self.members = [load_member(Path(path), network) for path in self.checkpoints]
        for member in self.members:
            check_batch_norm(member, self.alpha)

    def adapt(self, network: nn.Module, image: Tensor) -> Tensor:
        """Predicts one image; see `Method.adapt`."""
        if not self.members:  # used without a trainer
            self.check_network(network)
        total: Any = None
        for path, member in zip(self.checkpoints, self.members, strict=True):
            member.to(next(network.parameters()))  # device and dtype; does something for the first image only
            with adaptive_batch_norm(member, self.alpha):
                if self.tta:
                    predict = partial(predict_logits, member)
                    probabilities = fuse_views(predict, image, self.views, self.normalization)
                else:
                    probabilities = predict_plainly(member, image)
            if total is not None and total.shape != probabilities.shape:
                raise ValueError(
                    f"{path} predicts {probabilities.shape[1]} classes, but the members before it {total.shape[1]}: "
                    "expected networks for the same classes"
                )
            total = probabilities if total is None else total.add_(probabilities)
        return total.div_(len(self.members))

    def _install(self, module: SegmentationModule) -> None:
        for path in self.checkpoints:
            check_classes(module, read_checkpoint(path), path)
        super()._install(module)

    def _remove(self, module: SegmentationModule) -> None:
        self.members = []
        super()._remove(module)


def load_member(path: Path, like: nn.Module) -> nn.Module:
    """Loads a member in evaluation mode, on the CPU: a copy of `like` if the weights fit, else built from config.yaml.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no checkpoint, or has another architecture and no config.yaml that fits.
    """
    saved = read_checkpoint(path)["state_dict"]
    fits = find_difference(like.state_dict(), rename_weights(like.state_dict(), saved)) is None
    member = deepcopy(like).cpu() if fits else build_network(path, like)
    state = rename_weights(member.state_dict(), saved)
    difference = find_difference(member.state_dict(), state)
    if difference is not None:
        raise ValueError(f"{path} does not fit the network in the config.yaml of its run: {difference}")
    check_weights(member.state_dict(), state)
    member.load_state_dict(state)
    return member.eval().requires_grad_(False)


def build_network(path: Path, like: nn.Module) -> nn.Module:
    """Builds the network of a checkpoint from its training run's config.yaml; raises ValueError if that fails."""
    from jsonargparse import ArgumentError, ArgumentParser  # here, so that methods do not need it

    configs = [folder / "config.yaml" for folder in path.resolve().parents[:2]]
    config = next((config for config in configs if config.is_file()), None)
    if config is None:
        raise ValueError(
            f"{path} has a different architecture from {type(like).__name__} of this run, and there is no config.yaml "
            f"in its folder or the one above: expected it in the folder of its training run, as `fit` wrote it"
        )
    try:
        network: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["network"]
        arguments = dict(network.get("init_args") or {})
        name = network["class_path"]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{config} has no network under model.network: expected the config of a `fit` run") from error
    if "weights" in arguments:
        arguments["weights"] = None  # the checkpoint has the weights
    if hasattr(like, "num_classes"):  # a run takes it from the data, so it is not in the config
        arguments.setdefault("num_classes", like.num_classes)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    try:
        chosen = parser.parse_object({"network": {"class_path": name, "init_args": arguments}})
        return parser.instantiate(chosen).network
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"the network {name} of {config} cannot be built: {error}") from error
