"""`predict` on a folder of photographs as people have them: broken, tiny, unreadable, oddly named."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from main import main
from tests.tiny import predict_arguments
from tests.trees import draw_image, write_image


def make_photographs(folder: Path, *names: str, size: tuple[int, int] = (48, 64)) -> Path:
    for name in names:
        write_image(folder / f"{name}.png", draw_image(name, size))
    return folder


def predict(root: Path, folder: Path, *more: str) -> dict[str, Any]:
    """Predicts a folder of photographs with a tiny network; returns the manifest."""
    network = ["--model.network.init_args.backbone=resnet10", "--model.network.init_args.width=8"]
    main(predict_arguments(root, folder, *network, "--seed_everything=0", *more))
    return yaml.safe_load((folder / "results" / "predictions.json").read_text(encoding="utf-8"))


def test_a_broken_photograph_is_left_out_of_a_prediction_where_asked(tmp_path: Path) -> None:
    photographs = make_photographs(tmp_path / "data", "0", "1", "2")
    (photographs / "1.png").write_bytes(b"")
    (photographs / "2.png").write_bytes((photographs / "2.png").read_bytes()[:60])
    manifest = predict(photographs, tmp_path, "--data.broken=skip")
    assert (manifest["images"], manifest["complete"], manifest["left_out"]) == (1, True, ["1", "2"])


def test_photographs_that_cannot_be_read_and_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = make_photographs(tmp_path / "data", "0")
    for name in ("1.heic", "2.AVIF", "3.gif"):
        (photographs / name).touch()
    (photographs / "again").symlink_to(photographs)
    with pytest.warns(UserWarning, match=r"skipped 3 files that cannot be read \(1\.heic, 2\.AVIF, 3\.gif\)"):
        assert predict(photographs, tmp_path)["images"] == 1
    (photographs / "locked").mkdir()
    scan = os.scandir

    def refuse(path: Any = ".") -> Any:  # as of a folder of another user: those who run tests may read any
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"data/locked cannot be listed: Permission denied\. Expected a folder that"):
        predict(photographs, tmp_path)


def test_a_photograph_that_is_too_small_is_left_out_where_asked(tmp_path: Path) -> None:
    make_photographs(tmp_path / "data", "fine", size=(64, 96))
    make_photographs(tmp_path / "data", "tiny", size=(5, 9))
    method = ["--method=SegTTT", "--method.scales=[0.5]", "--method.num_steps=1"]
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"skipped tiny: .*use a larger image"):
            manifest = predict(tmp_path / "data", tmp_path, *method, "--data.broken=skip")
        assert (manifest["images"], manifest["complete"], manifest["left_out"]) == (1, True, ["tiny"])
    with pytest.raises(ValueError, match=r"tiny: .*use a larger image"):
        predict(tmp_path / "data", tmp_path, *method)


def test_a_photograph_of_the_longest_name_is_predicted_and_found_again(tmp_path: Path) -> None:
    photographs = make_photographs(tmp_path / "data", "x" * 251, "x" * 250 + "y", "ä" * 120, "short")
    assert predict(photographs, tmp_path)["images"] == 4
    (labels,) = (tmp_path / "results" / "labels").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in labels.iterdir()}
    assert len(before) == 4 and "short.png" in before
    make_photographs(photographs, "short", size=(64, 96))  # replaced: predicted anew
    manifest = predict(photographs, tmp_path)
    assert manifest["complete"] and manifest["runs"][-1]["found"] == 3
    after = {path.name: path.stat().st_mtime_ns for path in labels.iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["short.png"]
