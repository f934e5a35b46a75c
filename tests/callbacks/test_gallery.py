import random
from collections.abc import Mapping
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.report.gallery import ENDINGS, Gallery, locate_pictures
from callbacks.report.panels import make_palette
from callbacks.report.summary import rank_extremes
from callbacks.run.records import write_file
from tests.fakes import make_images

CLASSES = 5
PALETTE = make_palette(CLASSES)
DOMAINS = ("near", "far")
LAYERS = ("truth", "baseline", "prediction")


def add(gallery: Gallery, domain: str, name: str, score: float) -> None:
    probabilities = torch.eye(CLASSES)[torch.randint(0, CLASSES, (8, 12))].permute(2, 0, 1)
    truth, image = torch.full((8, 12), 255), make_images(1, 8, 12)[0]
    gallery.add(domain, name, score, image, dict(zip(LAYERS, (truth, probabilities, probabilities), strict=True)))


def list_files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def draw_scores(count: int, seed: int) -> dict[tuple[str, str], float]:
    generator = random.Random(seed)  # few values, so that many are equal
    return {(domain, f"{number:02d}"): generator.randint(0, 8) for domain in DOMAINS for number in range(count)}


def list_expected(scores: Mapping[tuple[str, str], float], first: int) -> set[str]:
    """Lists the files to keep, found the plain way."""
    expected = set()
    for domain in DOMAINS:
        names = [name for key, name in scores if key == domain]
        ranked = sorted(names, key=lambda name: (scores[domain, name], name))
        for name in {*names[:first], *ranked[:3], *ranked[-3:]}:
            expected |= {f"gallery/{domain}/{name}{ending}" for ending in ENDINGS.values()}
    return expected


@pytest.mark.parametrize(("count", "first"), [(30, 4), (30, 0), (5, 1)])
def test_first_best_and_worst_of_each_domain_are_kept(tmp_path: Path, count: int, first: int) -> None:
    scores = draw_scores(count, seed=count + first)
    gallery = Gallery(tmp_path, first, PALETTE)
    for key, score in scores.items():
        add(gallery, *key, score)
    assert list_files(tmp_path) == list_expected(scores, first)
    gallery.trim(scores)
    assert list_files(tmp_path) == list_expected(scores, first)


def test_files_hold_photograph_and_labels_at_its_size(tmp_path: Path) -> None:
    image = make_images(1, 32, 48)[0]
    truth = torch.arange(4).repeat_interleave(32).repeat(64, 1)  # (64, 128): four upright stripes
    truth[:32, :32] = 255
    coarse = torch.full((CLASSES, 8, 12), 0.02)
    coarse[2, :, :6] = coarse[4, :, 6:] = 0.92
    baseline = torch.eye(CLASSES)[1][:, None, None].expand(-1, 32, 48)
    maps = dict(zip(LAYERS, (truth, baseline, coarse), strict=True))
    Gallery(tmp_path, 1, PALETTE).add("near", "city/street_1.v2", 0.0, image, maps)
    paths = locate_pictures(tmp_path, "near", "city/street_1.v2")
    assert paths["truth"] == tmp_path / "gallery/near/city/street_1.v2.truth.png"
    stripes = np.arange(4).repeat(12)[None].repeat(32, axis=0)
    stripes[:16, :12] = 255
    halves = np.array([2, 4]).repeat(24)[None].repeat(32, axis=0)
    for layer, expected in zip(LAYERS, (stripes, np.ones((32, 48)), halves), strict=True):
        with Image.open(paths[layer]) as picture:
            assert picture.mode == "P" and np.array_equal(np.asarray(picture), expected)
            assert picture.getpalette()[: 3 * CLASSES] == PALETTE[:CLASSES].flatten().tolist()
    with Image.open(paths["image"]) as picture:
        assert (picture.format, picture.size) == ("JPEG", (48, 32))
        levels = image * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        levels = 255 * (levels + torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        assert np.abs(np.asarray(picture, dtype=float) - levels.permute(1, 2, 0).numpy()).mean() < 8


def test_wide_pictures_become_1024_pixels_wide(tmp_path: Path) -> None:
    maps = {"truth": torch.zeros(300, 3000).long(), "prediction": torch.ones(CLASSES, 150, 1500)}
    Gallery(tmp_path, 1, PALETTE).add("near", "a", 0.0, make_images(1, 150, 1500)[0], maps)
    for path in list_files(tmp_path):
        with Image.open(tmp_path / path) as picture:
            assert picture.size == (1024, 102)
    assert len(list_files(tmp_path)) == 3


class KilledError(Exception):
    """Stands for SIGKILL: nothing is tidied up."""


@pytest.mark.parametrize("seed", range(3))
def test_processes_killed_at_any_moment_end_with_the_pictures_of_one(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, scores = random.Random(seed), draw_scores(25, seed)
    left = 0  # files that may be written before the kill

    def write(path: Path, data: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.part").write_bytes(data[:10])
            raise KilledError
        write_file(path, data)

    monkeypatch.setattr("callbacks.report.gallery.write_file", write)
    recorded: dict[tuple[str, str], float] = {}
    kills = 0
    for processes in cycle((2, 3, 1)):  # another number resumes
        missing = [key for key in scores if key not in recorded]
        for rank in range(processes):
            gallery, left = Gallery(tmp_path, 4, PALETTE), generator.randint(3, 40)
            with suppress(KilledError):
                for key in missing[rank::processes]:
                    add(gallery, *key, scores[key])
                    if generator.random() < 0.05:
                        break  # killed between the pictures and the record
                    recorded[key] = scores[key]
            kills += left < 0
        if len(recorded) == len(scores):
            break
    assert kills > 1
    gallery.trim({key: recorded[key] for key in scores})
    assert list_files(tmp_path) == list_expected(scores, 4)


def test_trim_removes_half_images_but_no_other_files(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, 1, PALETTE)
    scores = {("near", "a"): float("nan"), ("near", "b"): float("nan"), ("near", "deep/down"): 2.0}
    add(gallery, "near", "a", float("nan"))
    add(gallery, "near", "b", float("nan"))  # neither the first nor among the extremes
    half = locate_pictures(tmp_path, "near", "deep/down")["truth"]
    half.parent.mkdir()
    half.write_bytes(b"x")
    (tmp_path / "gallery" / "note.txt").write_bytes(b"mine")
    gallery.trim(scores)
    assert list_files(tmp_path) == {"gallery/note.txt", *(f"gallery/near/a{ending}" for ending in ENDINGS.values())}
    Gallery(tmp_path / "nothing", 1, PALETTE).trim({})


def test_extremes_are_ordered_and_never_both() -> None:
    scores = {"a": 1.0, "b": 3.0, "c": 2.0, "d": float("nan")}
    assert rank_extremes(scores) == (["b", "c"], ["a"])
    assert rank_extremes({"b": 1.0, "a": 1.0}) == (["b"], ["a"])
    assert rank_extremes({}) == ([], [])
