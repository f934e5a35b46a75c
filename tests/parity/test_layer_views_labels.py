"""The parts of the methods against numbers recorded from the authors' released code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from callbacks.iabn import InstanceAdaptiveBatchNorm2d
from callbacks.pseudo_labels import fuse_views, pseudo_labels
from callbacks.views import IMAGENET, Resampling, make_views
from datamodules.labels import LabelSpace
from datamodules.transforms import EvaluationTransform

HERE = Path(__file__).parent
LAYER = dict(np.load(HERE / "iabn.npz"))
LABELS = dict(np.load(HERE / "pseudo_labels.npz"))
IMAGE = torch.from_numpy(LABELS["image_normalised"])[None]
VIEWS = make_views((0.25, 0.5, 0.75), flip=True, grayscale=True)
precisions = pytest.mark.parametrize("precision", ["f32", "f64"])


def make_layer(batch: str, alpha: float, precision: str) -> tuple[InstanceAdaptiveBatchNorm2d, Tensor]:
    """The recorded layer and its input."""
    dtype = torch.float32 if precision == "f32" else torch.float64
    layer = nn.BatchNorm2d(8, eps=float(LAYER["eps"]), momentum=float(LAYER["momentum"])).to(dtype).eval()
    for name in ("running_mean", "running_var", "weight", "bias"):
        getattr(layer, name).data.copy_(torch.from_numpy(LAYER[f"{batch}_{name}"]))
    return InstanceAdaptiveBatchNorm2d.from_batch_norm(layer, alpha), torch.from_numpy(LAYER[f"{batch}_x"]).to(dtype)


def largest_difference(ours: Tensor, recorded: np.ndarray) -> float:
    return float(np.abs(ours.detach().double().numpy() - recorded).max())


def assert_recorded(ours: Tensor, recorded: np.ndarray) -> None:
    """Asserts a difference of at most 1e-6, in float32 relative to the largest value: at 39 it steps by 4e-6."""
    largest = 1.0 if ours.dtype == torch.float64 else max(1.0, float(np.abs(recorded).max()))
    assert largest_difference(ours, recorded) <= 1e-6 * largest


@precisions
@pytest.mark.parametrize(
    ("batch", "alpha", "recorded"),
    [
        *(("B1", alpha, f"eval_alpha{alpha}_{{}}") for alpha in ("0", "0.1", "0.5", "1")),
        ("B2", "0", "eval_alpha0_{}"),
        ("B2", "0.1", "eval_alpha0.1_PERSAMPLE_f32"),
    ],
)
def test_iabn_layer_gives_the_recorded_output(batch: str, alpha: str, recorded: str, precision: str) -> None:
    layer, x = make_layer(batch, float(alpha), precision)
    assert layer(x).dtype == x.dtype
    assert_recorded(layer(x), LAYER[f"{batch}_{recorded.format(precision)}"])


def test_iabn_layer_is_per_sample_unlike_the_authors_pooled_statistics() -> None:
    layer, x = make_layer("B2", 0.1, "f64")
    assert largest_difference(layer(x), LAYER["B2_eval_alpha0.1_f64"]) > 1e-3


@precisions
@pytest.mark.parametrize("batch", ["B1", "B2"])
def test_iabn_layer_in_training_mode_gives_and_moves_what_is_recorded(batch: str, precision: str) -> None:
    layer, x = make_layer(batch, 0.1, precision)
    recorded = LAYER[f"{batch}_train_{precision}"]
    assert largest_difference(layer.train()(x), recorded) <= 1e-6 * max(1.0, float(np.abs(recorded).max()))
    for name in ("running_mean", "running_var"):
        assert largest_difference(getattr(layer, name), LAYER[f"{batch}_train_{name}_after_{precision}"]) <= 1e-6


@pytest.mark.parametrize("number", range(6))
def test_a_view_and_its_softmax_brought_back_are_the_recorded_ones(number: int) -> None:
    view, levels = VIEWS[number], LABELS[f"view{number}_uint8_hwc"].astype(np.float64)
    _, _, width, height, flip, gray = LABELS[f"view{number}_transform_ijwh_flip_gray"].tolist()
    assert (view.flip, view.grayscale) == (bool(flip), bool(gray))
    assert (int(view.scale * 96), int(view.scale * 160)) == (height, width)
    by_pillow = view.apply(IMAGE, resampling="pillow")
    assert largest_difference(by_pillow[0], LABELS[f"view{number}_input_f32"]) <= 1e-6
    found = [(IMAGENET.undo(ours)[0] * 255).numpy().transpose(1, 2, 0) for ours in (by_pillow, view.apply(IMAGE))]
    assert np.array_equal(found[0].round(), levels)
    assert np.abs(found[1] - found[1].round()).max() < 1e-3  # whole grey levels
    off = np.abs(found[1].round() - levels)
    assert off.max() <= 1 and (off > 0).mean() < 0.01  # on the device one grey level off at most, and seldom
    undone = view.invert(torch.from_numpy(LABELS[f"view{number}_softmax_f32"])[None], (96, 160))[0]
    assert largest_difference(undone, LABELS[f"view{number}_softmax_unflipped_up_f32"]) <= 1e-6


def fuse(resampling: Resampling) -> Tensor:
    network = nn.Conv2d(3, 5, 3, padding=1)
    network.load_state_dict({name: torch.from_numpy(LABELS[f"conv_{name}"]) for name in ("weight", "bias")})
    return fuse_views(network.requires_grad_(False), IMAGE, VIEWS, IMAGENET, resampling)[0]


def test_mean_probabilities_of_the_views_are_the_recorded_ones() -> None:
    assert largest_difference(fuse("pillow"), LABELS["mean_softmax_f32"]) <= 1e-6
    assert largest_difference(fuse("device"), LABELS["mean_softmax_f32"]) <= 2e-3


@pytest.mark.parametrize("psi", ["0.5", "0.7", "0.9", "1"])
def test_pseudo_labels_are_the_recorded_ones(psi: str) -> None:
    for precision in ("f32", "f64"):
        ours = pseudo_labels(torch.from_numpy(LABELS[f"mean_softmax_{precision}"]), float(psi), strict=True)
        assert np.array_equal(ours.numpy(), LABELS[f"pseudo_psi{psi}_{precision}"])
    end_to_end = pseudo_labels(fuse("pillow"), float(psi), strict=True)
    assert np.array_equal(end_to_end.numpy(), LABELS[f"pseudo_psi{psi}_f32"])


def test_evaluation_transform_normalises_as_recorded() -> None:
    image, _ = EvaluationTransform()(LABELS["image"], np.zeros((96, 160), np.uint8), 0)
    assert largest_difference(image, LABELS["image_normalised"]) <= 1e-6


@pytest.mark.parametrize("target", ["cityscapes", "gta", "bdd", "idd", "mapillary", "wilddash"])
def test_16_classes_follow_from_19_as_recorded(target: str) -> None:
    recorded = json.loads((HERE / "label_tables.json").read_text(encoding="utf-8"))
    from_raw_to_19 = np.array(recorded[f"gta->{target}"], dtype=np.uint8)
    from_raw_to_16 = np.array(recorded[f"synthia->{target}"], dtype=np.uint8)
    assert np.array_equal(LabelSpace.of_size(16).from_train_ids[from_raw_to_19], from_raw_to_16)
