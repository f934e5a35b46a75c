import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.scenery import DOMAINS, SPLITS, draw_scene
from datamodules.scenery.domains import TrainId
from datamodules.scenery.optics import add_air, draw_exposure
from tests import programs

SCENES = 32
# Least share of scenes with at least LEAST_PIXELS of the class, at 128x256.
LEAST_SHARE = 0.08
LEAST_PIXELS = 12
ROOT = Path(__file__).resolve().parents[2]


def fingerprint(*arguments: str | int) -> str:
    image, labels = draw_scene(*arguments)
    return hashlib.sha256(image.tobytes() + labels.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def scenes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    drawn = {}
    for domain in DOMAINS:
        pairs = [draw_scene(domain, "train", index, 3, 128, 256) for index in range(SCENES)]
        drawn[domain] = np.stack([image for image, _ in pairs]), np.stack([labels for _, labels in pairs])
    return drawn


def test_names() -> None:
    assert list(DOMAINS) == ["source", "development", "haze", "dusk", "dust"]
    assert SPLITS == ("train", "val", "test")
    assert all(domain.name == name for name, domain in DOMAINS.items())


@pytest.mark.parametrize("domain", DOMAINS)
def test_same_arguments_give_same_pixels_in_any_order(domain: str) -> None:
    indices = [0, 1, 2, 3]
    forward = {index: fingerprint(domain, "val", index, 5, 96, 192) for index in indices}
    backward = {index: fingerprint(domain, "val", index, 5, 96, 192) for index in reversed(indices)}
    assert forward == backward


@pytest.mark.slow
def test_same_arguments_give_same_pixels_in_another_process(tmp_path: Path) -> None:
    calls = [(domain, "test", 7, 2, 96, 192) for domain in DOMAINS]
    program = (
        "import hashlib\n"
        "from datamodules.scenery import draw_scene\n"
        f"for call in {calls[::-1]!r}:\n"
        "    image, labels = draw_scene(*call)\n"
        "    print(hashlib.sha256(image.tobytes() + labels.tobytes()).hexdigest())\n"
    )
    done = programs.run(["-c", program], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[::-1] == [fingerprint(*call) for call in calls]


def test_pixels_do_not_depend_on_threads_or_global_generators() -> None:
    before = fingerprint("dust", "train", 3, 0, 128, 256)
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        cv2.setRNGSeed(99)
        np.random.seed(99)
        assert fingerprint("dust", "train", 3, 0, 128, 256) == before
    finally:
        cv2.setNumThreads(threads)


def test_domain_split_index_and_seed_each_change_the_scene() -> None:
    base = ("source", "train", 0, 0, 96, 192)
    others = [("dusk", *base[1:]), ("source", "val", *base[2:]), (*base[:2], 1, *base[3:]), (*base[:3], 1, *base[4:])]
    layouts = [draw_scene(*arguments)[1] for arguments in (base, *others)]
    for labels in layouts[1:]:
        assert (labels != layouts[0]).mean() > 0.05


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_class_appears_often_enough(domain: str, scenes: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    _, labels = scenes[domain]
    shares = {label.name: ((labels == label).sum(axis=(1, 2)) >= LEAST_PIXELS).mean() for label in TrainId}
    assert {name: share for name, share in shares.items() if share < LEAST_SHARE} == {}


@pytest.mark.parametrize("domain", DOMAINS)
def test_scenes_are_images_with_train_ids(domain: str, scenes: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    images, labels = scenes[domain]
    assert images.dtype == labels.dtype == np.uint8
    assert images.shape == (SCENES, 128, 256, 3)
    assert labels.shape == (SCENES, 128, 256)
    assert labels.max() <= 18
    assert (images.std(axis=(1, 2, 3)) > 15).all(), "an image is nearly empty"


@pytest.mark.parametrize(
    ("height", "width"), [(32, 64), (128, 256), (127, 253), (200, 200), (256, 171), (130, 420), (1024, 2048)]
)
def test_any_size(height: int, width: int) -> None:
    for domain in ("source", "dust") if height < 1000 else ("dust",):
        image, labels = draw_scene(domain, "train", 4, 0, height, width)
        assert image.shape == (height, width, 3)
        assert labels.shape == (height, width)
        assert image.flags.c_contiguous and labels.flags.c_contiguous
        assert labels.max() <= 18


@pytest.mark.parametrize("index", range(6))
def test_same_layout_at_two_sizes(index: int) -> None:
    _, small = draw_scene("source", "val", index, 1, 128, 256)
    _, large = draw_scene("source", "val", index, 1, 512, 1024)
    shrunk = cv2.resize(large, (256, 128), interpolation=cv2.INTER_NEAREST)
    assert (shrunk == small).mean() > 0.9


def test_looks_differ_from_source(scenes: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    colour = {domain: images.mean(axis=(0, 1, 2)) for domain, (images, _) in scenes.items()}
    contrast = {domain: images.std(axis=(1, 2, 3)).mean() for domain, (images, _) in scenes.items()}
    assert all(contrast[domain] < 0.92 * contrast["source"] for domain in DOMAINS if domain != "source")
    red, green, blue = colour["haze"] - colour["source"]
    assert green > red and blue > red
    assert colour["dusk"].mean() < colour["source"].mean() - 15
    assert colour["dusk"][2] > colour["dusk"][1]
    assert colour["dust"][0] - colour["dust"][2] > colour["source"][0] - colour["source"][2] + 20


def test_far_surfaces_fade_into_the_air() -> None:
    exposure = draw_exposure(np.random.default_rng(0), DOMAINS["haze"].looks[0])
    image = np.zeros((1, 4, 3), np.uint8)
    nearness = 1 / np.array([[1, 10, 50, 200]], np.float32)
    faded = add_air(image, nearness, exposure) / np.array(exposure.air)
    np.testing.assert_allclose(faded[0, :, 1], 1 - np.exp(-exposure.haze / nearness[0]), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "found", "expected"),
    [
        (("moon", "train", 0, 0, 128, 256), "'moon'", "source, development, haze, dusk, dust"),
        (("source", "dev", 0, 0, 128, 256), "'dev'", "train, val, test"),
        (("source", "train", -1, 0, 128, 256), "index is -1", "0 or more"),
        (("source", "train", 0, -2, 128, 256), "seed is -2", "0 or more"),
        (("source", "train", 0, 0, 31, 64), "31x64", "32x64"),
        (("source", "train", 0, 0, 32, 63), "32x63", "32x64"),
    ],
)
def test_bad_input(arguments: tuple, found: str, expected: str) -> None:
    with pytest.raises(ValueError) as error:
        draw_scene(*arguments)
    assert found in str(error.value)
    assert expected in str(error.value)
