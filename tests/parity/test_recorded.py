"""Parts of the methods, whole methods and scores against numbers recorded from the authors' released code."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks import TTA, IaBN, Method, SegTTT
from callbacks.iabn import InstanceAdaptiveBatchNorm2d
from callbacks.pseudo_labels import fuse_views, pseudo_labels
from callbacks.views import IMAGENET, Resampling, make_views
from datamodules.labels import LabelSpace
from datamodules.transforms import EvaluationTransform
from lightning_modules.metrics import Scores, count_confusion, score_image

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
    assert_recorded(layer.train()(x), LAYER[f"{batch}_train_{precision}"])
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


# Whole methods on a small network, and scores.


class RecordedNetwork(nn.Module):
    """The network the numbers were recorded with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(16)
        self.mid = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.mid_bn = nn.BatchNorm2d(32)
        self.top = nn.Conv2d(32, 48, 3, padding=2, dilation=2, bias=False)
        self.top_bn = nn.BatchNorm2d(48)
        self.head = nn.Conv2d(48, 19, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(image)))
        x = F.relu(self.mid_bn(self.mid(x)))
        x = F.relu(self.top_bn(self.top(x)))
        return F.interpolate(self.head(x), size=image.shape[-2:], mode="bilinear", align_corners=True)


def released(num_steps: int) -> SegTTT:
    return SegTTT(num_steps=num_steps, trainable=["top", "top_bn", "head"], semantics="released")


METHODS: dict[str, Method] = {
    "alpha0": IaBN(0.0),
    "iabn_alpha0.1": IaBN(0.1),
    "tta_alpha0.1": TTA(0.1, resampling="pillow"),
    "segttt_n1": released(1),
    "segttt_n10": released(10),
}
TINY = dict(np.load(HERE / "seg_ttt_tiny.npz"))
SCORES = dict(np.load(HERE / "scores.npz"))
IMAGES = IMAGENET.apply(torch.from_numpy(TINY["images"]).permute(0, 3, 1, 2).float() / 255)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    network = RecordedNetwork()
    weights = {k.removeprefix("weights/"): torch.from_numpy(v) for k, v in TINY.items() if k.startswith("weights/")}
    network.load_state_dict(weights)
    return network.eval()


def total_score(predictions: Iterable[Tensor], masks: Tensor, classes: int) -> Scores:
    return sum((score_image(*pair) for pair in zip(predictions, masks, strict=True)), Scores.zeros(classes))


@pytest.mark.parametrize("name", METHODS)
def test_labels_probabilities_and_scores_are_the_recorded_ones(network: nn.Module, name: str) -> None:
    predictions = METHODS[name].predict(network, IMAGES)
    assert np.array_equal(predictions.argmax(dim=1).numpy(), TINY[f"{name}/final_labels"])
    masks = torch.from_numpy(TINY["labels_train_ids"]).long()
    recorded = json.loads((HERE / "seg_ttt_tiny.json").read_text(encoding="utf-8"))[name]
    ours = total_score(predictions, masks, 19).summarize()
    for key in ("miou", "accuracy"):
        assert ours[key] == pytest.approx(recorded[key], abs=1e-4), key
    if name.startswith("tta"):
        on_device = TTA(0.1).predict(network, IMAGES)
        mean = torch.from_numpy(TINY[f"{name}/mean_probabilities_every_4th_pixel"])
        for found, tolerance in ((predictions, 1e-6), (on_device, 2e-3)):
            assert (found[:, :, ::4, ::4] - mean).abs().max().item() <= tolerance
        # Their script takes the softmax of TTA's probabilities once more: a bug, not a target.
        ours = total_score(predictions.softmax(dim=1), masks, 19).summarize()
    else:
        logits = torch.from_numpy(TINY[f"{name}/final_logits_every_4th_pixel"])
        assert (predictions.log()[:, :, ::4, ::4] - logits.log_softmax(dim=1)).abs().max().item() <= 1e-4
    assert ours["classwise_ece"] == pytest.approx(recorded["classwise_ece"], abs=1e-4)


def test_every_loss_is_the_recorded_one(network: nn.Module) -> None:
    method, recorded = released(10), TINY["segttt_n10/losses"]
    method.predict(network, IMAGES)
    for adaptation, losses in zip(method.adaptations, recorded, strict=True):
        np.testing.assert_allclose(adaptation.losses, losses, rtol=0, atol=1e-5)
    np.testing.assert_allclose(TINY["segttt_n1/losses"][:, 0], recorded[:, 0], atol=1e-7)


def test_paper_semantics_departs_from_the_recorded_released_semantics(network: nn.Module) -> None:
    labels = released(10).vary({"semantics": "paper"}).predict(network, IMAGES).argmax(dim=1).numpy()
    assert (labels != TINY["segttt_n10/final_labels"]).any()


def test_scores_of_recorded_logits_are_the_recorded_ones() -> None:
    logits, masks = torch.from_numpy(SCORES["logits"]), torch.from_numpy(SCORES["labels"])[:, 0].long()
    total = total_score(logits.softmax(dim=1), masks, 6)
    ours = total.summarize()
    assert ours["miou"] == pytest.approx(float(SCORES["miou"]), abs=1e-4)
    assert ours["classwise_ece"] == pytest.approx(float(SCORES["ece"]), abs=1e-4)
    np.testing.assert_allclose(ours["iou"], SCORES["iou"], atol=1e-4)
    gap = SCORES["ece_per_class_unnormalised"][:, 0]
    np.testing.assert_allclose(total.class_gap.numpy(), gap, rtol=1e-4, atol=1e-6)
    assert np.array_equal(total.pixels.numpy(), SCORES["class_pixels"][:, 0])
    truth = torch.where(masks == 255, 6, masks)
    assert np.array_equal(count_confusion(logits.argmax(dim=1), truth, 6).numpy(), SCORES["confusion"])
