import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import callbacks.report.gallery
from callbacks.report.gallery import Gallery, locate_pictures
from callbacks.report.panels import make_palette
from callbacks.report.summary import rank_extremes
from tests.fakes import make_images

CLASSES = 5
PALETTE = make_palette(CLASSES)
LAYERS = ("truth", "baseline", "prediction")


def add(gallery: Gallery, domain: str, name: str, score: float) -> None:
    probabilities = torch.eye(CLASSES)[torch.randint(0, CLASSES, (8, 12))].permute(2, 0, 1)
    truth, image = torch.full((8, 12), 255), make_images(1, 8, 12)[0]
    gallery.add(domain, name, score, image, dict(zip(LAYERS, (truth, probabilities, probabilities), strict=True)))


def list_names(root: Path, domain: str) -> set[str]:
    folder = root / "gallery" / domain
    return {path.relative_to(folder).as_posix().removesuffix(".image.jpg") for path in folder.rglob("*.image.jpg")}


def list_files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def draw_scores(count: int, seed: int, domains: tuple[str, ...] = ("near", "far")) -> dict[tuple[str, str], float]:
    generator = random.Random(seed)  # few values, so that many are equal
    return {(domain, f"{number:02d}"): generator.randint(0, 8) for domain in domains for number in range(count)}


def choose(scores: Mapping[tuple[str, str], float], domain: str, first: int) -> set[str]:
    """What is to be kept, the plain way."""
    names = [name for key, name in scores if key == domain]
    ranked = sorted(names, key=lambda name: (scores[domain, name], name))
    return {*names[:first], *ranked[:3], *ranked[-3:]}


@pytest.mark.parametrize(("count", "first"), [(30, 4), (30, 0), (5, 1), (2, 4)])
def test_first_best_and_worst_of_each_domain_are_kept(tmp_path: Path, count: int, first: int) -> None:
    scores = draw_scores(count, seed=count + first)
    gallery = Gallery(tmp_path, first, PALETTE)
    for key, score in scores.items():
        add(gallery, *key, score)
    before = list_files(tmp_path)
    for domain in ("near", "far"):
        assert list_names(tmp_path, domain) == choose(scores, domain, first)
    gallery.trim(scores)
    assert list_files(tmp_path) == before


def test_image_without_a_score_is_kept_among_the_first_only(tmp_path: Path) -> None:
    gallery, scores = Gallery(tmp_path, 1, PALETTE), {("near", name): float("nan") for name in "ab"}
    for key, score in scores.items():
        add(gallery, *key, score)
    gallery.trim(scores)
    assert list_names(tmp_path, "near") == {"a"}


def test_files_hold_photograph_and_labels_at_its_size(tmp_path: Path) -> None:
    image = make_images(1, 32, 48)[0]
    truth = torch.arange(4).repeat_interleave(32).repeat(64, 1)  # (64, 128): four upright stripes
    truth[:32, :32] = 255
    coarse = torch.zeros(CLASSES, 8, 12)
    coarse[2, :, :6], coarse[4, :, 6:] = 0.9, 0.9
    coarse += 0.02
    baseline = torch.zeros(CLASSES, 32, 48)
    baseline[1] = 1
    maps = dict(zip(LAYERS, (truth, baseline, coarse), strict=True))
    Gallery(tmp_path, 1, PALETTE).add("near", "city/street_1.v2", 0.0, image, maps)
    paths = locate_pictures(tmp_path, "near", "city/street_1.v2")
    assert paths["truth"] == tmp_path / "gallery/near/city/street_1.v2.truth.png"
    assert list_names(tmp_path, "near") == {"city/street_1.v2"}
    labels = {}
    for layer in LAYERS:
        with Image.open(paths[layer]) as picture:
            assert (picture.mode, picture.size) == ("P", (48, 32))
            assert picture.getpalette()[: 3 * CLASSES] == PALETTE[:CLASSES].flatten().tolist()
            labels[layer] = np.asarray(picture)
    expected = np.arange(4, dtype=np.uint8).repeat(12)[None].repeat(32, axis=0)
    expected[:16, :12] = 255
    assert np.array_equal(labels["truth"], expected)
    assert (labels["baseline"] == 1).all()
    assert (labels["prediction"][:, :24] == 2).all() and (labels["prediction"][:, 24:] == 4).all()
    with Image.open(paths["image"]) as picture:
        assert (picture.format, picture.size) == ("JPEG", (48, 32))
        levels = image * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        levels = 255 * (levels + torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        assert np.abs(np.asarray(picture, dtype=float) - levels.permute(1, 2, 0).numpy()).mean() < 8


def test_wide_pictures_become_1024_pixels_wide(tmp_path: Path) -> None:
    prediction = torch.zeros(CLASSES, 150, 1500)
    prediction[3] = 1
    image = make_images(1, 150, 1500)[0]
    maps = {"truth": torch.zeros(300, 3000).long(), "prediction": prediction}
    Gallery(tmp_path, 1, PALETTE).add("near", "a", 0.0, image, maps)
    assert len(list_files(tmp_path)) == 3
    for path in locate_pictures(tmp_path, "near", "a").values():
        if "baseline" not in path.name:
            with Image.open(path) as picture:
                assert picture.size == (1024, 102)


class KilledError(Exception):
    """Stands for SIGKILL: nothing is tidied up."""


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_it_goes_on_to_the_same_pictures(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, scores = random.Random(seed), draw_scores(20, seed)
    real, budget = callbacks.report.gallery.write_file, [0]

    def write(path: Path, data: bytes) -> None:
        budget[0] -= 1
        if budget[0] < 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.part").write_bytes(data[:10])  # half of it
            raise KilledError
        real(path, data)

    monkeypatch.setattr(callbacks.report.gallery, "write_file", write)
    recorded: dict[tuple[str, str], float] = {}
    kills = 0
    while len(recorded) < len(scores):
        budget[0] = generator.randint(3, 40)
        gallery = Gallery(tmp_path, 2, PALETTE)
        try:
            for key in [key for key in scores if key not in recorded]:
                add(gallery, *key, scores[key])
                if generator.random() < 0.05:
                    raise KilledError  # between the pictures and the record
                recorded[key] = scores[key]
        except KilledError:
            kills += 1
    assert kills > 1
    gallery.trim(recorded)
    kept = {key: choose(scores, key, 2) for key in ("near", "far")}
    endings = [*(f"{layer}.png" for layer in LAYERS), "image.jpg"]
    expected = {f"gallery/{key}/{name}.{end}" for key, names in kept.items() for name in names for end in endings}
    assert list_files(tmp_path) == expected


@pytest.mark.parametrize("seed", range(2))
def test_several_processes_end_with_the_pictures_of_one_also_when_another_number_goes_on(
    tmp_path: Path, seed: int
) -> None:
    generator, scores = random.Random(seed), draw_scores(40, seed, ("near",))
    recorded: dict[tuple[str, str], float] = {}
    for processes in (2, 3, 1):
        galleries = [Gallery(tmp_path, 4, PALETTE) for _ in range(processes)]
        left = [key for key in scores if key not in recorded]
        for rank, gallery in enumerate(galleries):
            own = left[rank::processes]
            done = own if processes == 1 else own[: generator.randint(0, len(own))]  # each stops where it is
            for key in done:
                add(gallery, *key, scores[key])
                recorded[key] = scores[key]
    Gallery(tmp_path, 4, PALETTE).trim(scores)
    assert list_names(tmp_path, "near") == choose(scores, "near", 4)


def test_trim_removes_half_images_and_empty_folders_but_no_other_files(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, 1, PALETTE)
    add(gallery, "near", "a", 1.0)
    half = locate_pictures(tmp_path, "near", "deep/down")["truth"]
    half.parent.mkdir()
    half.write_bytes(b"x")
    (tmp_path / "gallery" / "note.txt").write_bytes(b"mine")
    before = list_files(tmp_path)
    gallery.trim({("near", "a"): 1.0, ("near", "deep/down"): 2.0})
    assert list_files(tmp_path) == before - {"gallery/near/deep/down.truth.png"}
    assert not half.parent.exists()
    Gallery(tmp_path / "nothing", 1, PALETTE).trim({})


def test_extremes_are_ordered_and_never_both() -> None:
    scores = {"a": 1.0, "b": 3.0, "c": 2.0, "d": float("nan")}
    assert rank_extremes(scores) == (["b", "c"], ["a"])
    assert rank_extremes({"b": 1.0, "a": 1.0}) == (["b"], ["a"])
    assert rank_extremes({}) == ([], [])
