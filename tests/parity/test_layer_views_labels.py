"""The parts of the methods against numbers recorded from the authors' released code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from callbacks.iabn import InstanceAdaptiveBatchNorm2d
from callbacks.pseudo_labels import fuse_views, pseudo_labels
from callbacks.views import IMAGENET, Resampling, View, make_views
from datamodules.labels import LabelSpace
from datamodules.transforms import EvaluationTransform

HERE = Path(__file__).parent
DTYPES = {"f32": torch.float32, "f64": torch.float64}
VIEWS = make_views((0.25, 0.5, 0.75), flip=True, grayscale=True)


@pytest.fixture(scope="module")
def layer() -> dict[str, np.ndarray]:
    return dict(np.load(HERE / "iabn.npz"))


@pytest.fixture(scope="module")
def labels() -> dict[str, np.ndarray]:
    return dict(np.load(HERE / "pseudo_labels.npz"))


def adaptive_layer(golden: dict[str, np.ndarray], batch: str, alpha: float, dtype: torch.dtype):
    batch_norm = nn.BatchNorm2d(8, eps=float(golden["eps"]), momentum=float(golden["momentum"])).to(dtype).eval()
    for name in ("running_mean", "running_var", "weight", "bias"):
        getattr(batch_norm, name).data.copy_(torch.from_numpy(golden[f"{batch}_{name}"]))
    return InstanceAdaptiveBatchNorm2d.from_batch_norm(batch_norm, alpha)


def run_layer(golden: dict[str, np.ndarray], batch: str, alpha: float, dtype: torch.dtype) -> Tensor:
    return adaptive_layer(golden, batch, alpha, dtype)(torch.from_numpy(golden[f"{batch}_x"]).to(dtype)).detach()


def largest_difference(ours: Tensor, recorded: np.ndarray) -> float:
    return float(np.abs(ours.double().numpy() - recorded).max())


def assert_recorded(ours: Tensor, recorded: np.ndarray) -> None:
    """Asserts a difference of at most 1e-6, in float32 relative to the largest value: at 39 it steps by 4e-6."""
    largest = 1.0 if ours.dtype == torch.float64 else max(1.0, float(np.abs(recorded).max()))
    assert largest_difference(ours, recorded) <= 1e-6 * largest


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("alpha", ["0", "0.1", "0.5", "1"])
def test_iabn_layer_gives_the_recorded_output_for_one_image(layer, alpha: str, precision: str) -> None:
    ours = run_layer(layer, "B1", float(alpha), DTYPES[precision])
    assert ours.dtype == DTYPES[precision]
    assert_recorded(ours, layer[f"B1_eval_alpha{alpha}_{precision}"])


@pytest.mark.parametrize("precision", DTYPES)
def test_iabn_layer_at_alpha_0_gives_the_recorded_output_for_two_images(layer, precision: str) -> None:
    assert_recorded(run_layer(layer, "B2", 0.0, DTYPES[precision]), layer[f"B2_eval_alpha0_{precision}"])


def test_iabn_layer_gives_the_recorded_per_sample_output_for_two_images(layer) -> None:
    recorded = layer["B2_eval_alpha0.1_PERSAMPLE_f32"]
    assert largest_difference(run_layer(layer, "B2", 0.1, torch.float64), recorded) <= 1e-6
    assert_recorded(run_layer(layer, "B2", 0.1, torch.float32), recorded)


def test_iabn_layer_is_per_sample_unlike_the_authors_pooled_statistics(layer) -> None:
    assert largest_difference(run_layer(layer, "B2", 0.1, torch.float64), layer["B2_eval_alpha0.1_f64"]) > 1e-3


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("batch", ["B1", "B2"])
def test_iabn_layer_in_training_mode_gives_the_recorded_output_and_moves_the_statistics_as_recorded(
    layer, batch: str, precision: str
) -> None:
    dtype = DTYPES[precision]
    ours = adaptive_layer(layer, batch, 0.1, dtype).train()
    output = ours(torch.from_numpy(layer[f"{batch}_x"]).to(dtype)).detach()
    tolerance = 1e-6 * max(1.0, float(np.abs(layer[f"{batch}_train_{precision}"]).max()))
    assert largest_difference(output, layer[f"{batch}_train_{precision}"]) <= tolerance
    for name in ("running_mean", "running_var"):
        assert largest_difference(getattr(ours, name), layer[f"{batch}_train_{name}_after_{precision}"]) <= 1e-6


def recorded_view(golden: dict[str, np.ndarray], number: int) -> tuple[View, np.ndarray]:
    _, _, width, height, flip, gray = golden[f"view{number}_transform_ijwh_flip_gray"].tolist()
    view = VIEWS[number]
    assert (view.flip, view.grayscale) == (bool(flip), bool(gray))
    assert (int(view.scale * 96), int(view.scale * 160)) == (height, width)
    return view, golden[f"view{number}_uint8_hwc"]


@pytest.mark.parametrize("number", range(6))
def test_view_made_by_pillow_is_the_recorded_one(labels, number: int) -> None:
    view, levels = recorded_view(labels, number)
    ours = view.apply(torch.from_numpy(labels["image_normalised"])[None], resampling="pillow")[0]
    assert largest_difference(ours, labels[f"view{number}_input_f32"]) <= 1e-6
    assert np.array_equal((IMAGENET.undo(ours[None])[0] * 255).round().numpy().transpose(1, 2, 0), levels)


@pytest.mark.parametrize("number", range(6))
def test_view_made_on_the_device_is_at_most_one_grey_level_off_the_recorded_one(labels, number: int) -> None:
    view, levels = recorded_view(labels, number)
    ours = view.apply(torch.from_numpy(labels["image_normalised"])[None], resampling="device")
    grey = (IMAGENET.undo(ours)[0] * 255).numpy().transpose(1, 2, 0)
    assert np.abs(grey - grey.round()).max() < 1e-3  # whole grey levels
    off = np.abs(grey.round() - levels.astype(np.float64))
    assert off.max() <= 1
    assert (off > 0).mean() < 0.01  # and seldom


@pytest.fixture(scope="module")
def convolution(labels) -> nn.Conv2d:
    convolution = nn.Conv2d(3, 5, 3, padding=1)
    convolution.load_state_dict(
        {"weight": torch.from_numpy(labels["conv_weight"]), "bias": torch.from_numpy(labels["conv_bias"])}
    )
    return convolution.requires_grad_(False)


@pytest.mark.parametrize("number", range(6))
def test_softmax_of_a_view_is_brought_back_as_recorded(labels, number: int) -> None:
    undone = VIEWS[number].invert(torch.from_numpy(labels[f"view{number}_softmax_f32"])[None], (96, 160))[0]
    assert largest_difference(undone, labels[f"view{number}_softmax_unflipped_up_f32"]) <= 1e-6


@pytest.mark.parametrize(("resampling", "tolerance"), [("pillow", 1e-6), ("device", 2e-3)])
def test_mean_probabilities_of_the_views_are_the_recorded_ones(
    labels, convolution: nn.Conv2d, resampling: Resampling, tolerance: float
) -> None:
    image = torch.from_numpy(labels["image_normalised"])[None]
    fused = fuse_views(convolution, image, VIEWS, IMAGENET, resampling)[0]
    assert largest_difference(fused, labels["mean_softmax_f32"]) <= tolerance


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("psi", ["0.5", "0.7", "0.9", "1"])
def test_pseudo_labels_of_the_recorded_probabilities_are_the_recorded_ones(labels, psi: str, precision: str) -> None:
    ours = pseudo_labels(torch.from_numpy(labels[f"mean_softmax_{precision}"]), float(psi), strict=True)
    assert np.array_equal(ours.numpy(), labels[f"pseudo_psi{psi}_{precision}"])


@pytest.mark.parametrize("psi", ["0.5", "0.7", "0.9", "1"])
def test_pseudo_labels_end_to_end_by_pillow_are_the_recorded_ones(labels, convolution: nn.Conv2d, psi: str) -> None:
    image = torch.from_numpy(labels["image_normalised"])[None]
    fused = fuse_views(convolution, image, VIEWS, IMAGENET, "pillow")
    assert np.array_equal(pseudo_labels(fused, float(psi), strict=True)[0].numpy(), labels[f"pseudo_psi{psi}_f32"])


def test_evaluation_transform_normalises_as_recorded(labels) -> None:
    image, _ = EvaluationTransform()(labels["image"], np.zeros((96, 160), np.uint8), 0)
    assert largest_difference(image, labels["image_normalised"]) <= 1e-6


@pytest.mark.parametrize("target", ["cityscapes", "gta", "bdd", "idd", "mapillary", "wilddash"])
def test_16_classes_follow_from_19_as_recorded(target: str) -> None:
    recorded = json.loads((HERE / "label_tables.json").read_text(encoding="utf-8"))
    from_raw_to_19 = np.array(recorded[f"gta->{target}"], dtype=np.uint8)
    from_raw_to_16 = np.array(recorded[f"synthia->{target}"], dtype=np.uint8)
    assert np.array_equal(LabelSpace.of_size(16).from_train_ids[from_raw_to_19], from_raw_to_16)
