"""What predict writes, and when it goes on, begins anew or refuses to."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning import Callback

from callbacks import AdaBN, IaBN, SegTTT, Tent
from callbacks.predictions import Predictions
from callbacks.report.panels import draw_overlay, encode_png, make_palette
from callbacks.run.prediction_folder import WAITING, PredictionFolder, Writers
from callbacks.run.records import write_file
from datamodules import FolderDataModule, TargetsDataModule
from datamodules.labels import LabelSpace
from lightning_modules.segmentation import SegmentationModule
from tests.callbacks.runs import Stop, make_module, read_files, read_json
from tests.fakes import FakeDataModule, make_trainer

SIZES = {"a": (37, 53), "UPPER": (40, 31), "sub/gray": (33, 64), "sub/deep/alpha": (48, 35)}  # height, width
SIZES |= {"sub/sixteen": (34, 50), "turned": (52, 36), "dotted.name": (32, 32)}


def draw(height: int, width: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """One image of each kind; sizes are those seen upright."""
    folder = tmp_path / "photos"
    (folder / "sub" / "deep").mkdir(parents=True)
    pictures = {name: Image.fromarray(draw(*size, seed)) for seed, (name, size) in enumerate(SIZES.items())}
    pictures["a"].save(folder / "a.jpg", quality=95)
    pictures["UPPER"].save(folder / "UPPER.JPEG")
    pictures["sub/gray"].getchannel(0).save(folder / "sub" / "gray.PNG")
    pictures["sub/deep/alpha"].convert("RGBA").save(folder / "sub" / "deep" / "alpha.png")
    sixteen = np.asarray(pictures["sub/sixteen"].getchannel(0)).astype(np.uint16) * 257
    Image.fromarray(sixteen).save(folder / "sub" / "sixteen.png")
    lying = pictures["turned"].rotate(90, expand=True)
    exif = lying.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    lying.save(folder / "turned.jpg", exif=exif, quality=95)
    pictures["dotted.name"].save(folder / "dotted.name.tiff")
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    return read_json(folder / "predictions.json")


def open_photos(folder: Path) -> FolderDataModule:
    return FolderDataModule(str(folder), num_workers=0)


def predict(
    folder: Path,
    data: Any,
    *callbacks: Callback,
    module: SegmentationModule | None = None,
    outputs: Any = ("labels", "train_ids", "overlays"),
    overwrite: bool = False,
    **kwargs: Any,
) -> Any:
    own = Predictions(str(folder), outputs, overwrite)
    trainer = make_trainer(folder.parent, callbacks=[*callbacks, own], **kwargs)
    return trainer.predict(module or make_module(), datamodule=data)


def list_predicted(folder: Path, data: Any, *callbacks: Callback, **kwargs: Any) -> list[str]:
    """Predicts; returns the names of the images that were not done before."""
    stop = Stop()
    predict(folder, data, *callbacks, stop, **kwargs)
    return stop.names


def test_every_kind_of_image_keeps_its_name_and_size_in_every_kind_of_output(photos: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "out", open_photos(photos)
    outputs = ["labels", "train_ids", "overlays", "confidence"]
    predicted = {output["name"][0]: output for output in predict(out, data, IaBN(0.3), outputs=outputs)}
    dataset, palette = data.predict_dataloader().dataset, make_palette(19, data.colours)
    assert predicted.keys() == SIZES.keys() == {dataset.name(index) for index in range(len(dataset))}
    for index in range(len(dataset)):
        name, photograph = dataset.name(index), dataset.load_image(index)
        labels, confidence = (predicted[name][key][0].numpy() for key in ("labels", "confidence"))
        assert labels.shape == SIZES[name]
        with Image.open(out / "labels" / "photos" / f"{name}.png") as picture:
            assert picture.mode == "P" and np.array_equal(np.asarray(picture), labels)
            own_palette = np.array(picture.getpalette("RGB")).reshape(-1, 3)
        assert np.array_equal(own_palette[:19], LabelSpace.of_size(19).colours)
        with Image.open(out / "train_ids" / "photos" / f"{name}.png") as picture:
            assert picture.mode == "L" and np.array_equal(np.asarray(picture), labels)
        expected = 0.65 * palette[labels] + 0.35 * photograph
        with Image.open(out / "overlays" / "photos" / f"{name}.jpg") as picture:
            assert picture.mode == "RGB" and picture.size == labels.shape[::-1]
            # JPEG blurs the colours at the edges of labels: what is left in the mean is small
            assert np.abs(np.asarray(picture) - expected).mean() < 8, name
        assert np.abs(draw_overlay(photograph, labels, palette) - expected).max() <= 0.5 + 1e-6
        with Image.open(out / "confidence" / "photos" / f"{name}.png") as picture:
            found = np.asarray(picture)
            assert picture.mode == "L" and np.abs(found / 255 - confidence).max() <= 0.5 / 255 + 1e-6
        assert (found >= 255 / 19 - 1).all() and len(np.unique(found)) > 5
    assert len(read_files(out)) == 4 * len(SIZES) + 1


def test_a_run_that_stopped_goes_on_and_ends_as_one_that_did_not(photos: Path, tmp_path: Path) -> None:
    method = SegTTT(num_steps=1, scales=(0.5,))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    predict(whole, open_photos(photos), method)
    first = Stop(3)
    with pytest.raises(RuntimeError, match="stopped"):
        predict(cut, open_photos(photos), method, first)
    manifest = read_manifest(cut)
    assert (manifest["complete"], manifest["images"], manifest["domains"]["photos"]["expected"]) == (False, 3, 7)
    (cut / "overlays" / "photos" / f"{first.names[0]}.jpg").unlink()  # so that this image is not done
    times = {path: path.stat().st_mtime_ns for path in (cut / "labels").rglob("*.png")}
    assert sorted(list_predicted(cut, open_photos(photos), method)) == sorted(SIZES.keys() - set(first.names[1:]))
    assert read_files(cut) == read_files(whole)
    assert sum(path.stat().st_mtime_ns == when for path, when in times.items()) == 2
    manifest = read_manifest(cut)
    assert manifest["complete"] is True and manifest["images"] == len(SIZES)
    assert [run["found"] for run in manifest["runs"]] == [0, 2]
    assert manifest["settings"] == read_manifest(whole)["settings"]


def test_only_what_is_new_or_replaced_is_read_and_predicted(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, path, other = tmp_path / "out", photos / "a.jpg", Image.fromarray(draw(33, 40, 9))
    predict(out, open_photos(photos))
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(b"?" * path.stat().st_size)  # as it lies there it would be an error
    os.utime(path, ns=times)
    other.save(photos / "new.png")
    assert list_predicted(out, open_photos(photos)) == ["new"]
    assert read_manifest(out)["images"] == len(SIZES) + 1
    other.save(path)
    with monkeypatch.context() as killed:
        killed.setattr(Predictions, "_write", lambda *_: None)  # the kill comes before its files are written
        predict(out, open_photos(photos))
    assert list_predicted(out, open_photos(photos)) == ["a"]
    path.unlink()
    for name in ("newer", "newest"):  # those that are gone do not make up for others
        other.save(photos / f"{name}.png")
    predict(out, open_photos(photos), limit_predict_batches=1)
    manifest = read_manifest(out)
    assert manifest["images"] == len(SIZES) + 2 and manifest["complete"] is False
    assert {path.name for path in out.glob("*/")} == {"labels", "train_ids", "overlays"}  # by default


def test_a_run_with_nothing_left_ends_well(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    data, module = TargetsDataModule([FakeDataModule("near", 2), FakeDataModule("far", 1)]), make_module()
    predict(tmp_path / "out", data)
    before = read_files(tmp_path / "out")
    assert list_predicted(tmp_path / "out", data, module=module) == [] and read_files(tmp_path / "out") == before
    assert read_manifest(tmp_path / "out")["complete"] is True
    assert not [warning for warning in recwarn if "across ranks is zero" in str(warning.message)]
    assert module.allow_zero_length_dataloader_with_multiple_devices is False
    assert [len(loader) for loader in data.predict_dataloader()] == [2, 1]  # outside of the run nothing is left out


def test_data_that_cannot_leave_out_what_is_done_are_not_written_again(tmp_path: Path) -> None:
    loader = FakeDataModule(length=3).predict_dataloader()
    for _ in range(2):
        trainer = make_trainer(tmp_path, callbacks=[Predictions(str(tmp_path / "out"))])
        trainer.predict(make_module(), dataloaders=loader)
        times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "labels").rglob("*.png")}
        assert len(times) == 3 and read_manifest(tmp_path / "out")["complete"]
    earlier = max(times.values())
    assert earlier < (tmp_path / "out" / "predictions.json").stat().st_mtime_ns
    assert [run["found"] for run in read_manifest(tmp_path / "out")["runs"]] == [0, 3]


COLOURED = FakeDataModule()
COLOURED.colours = [(1, 2, 3), *COLOURED.colours[1:]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": SegTTT(num_steps=2, scales=(0.5,))}, r"method\.num_steps was 1, is now 2\. Expected"),
        ({"module": make_module(seed=1)}, r"weights was \w{12}, is now \w{12}\. Expected"),
        ({"outputs": ["labels"]}, r"outputs was .*overlays.*, is now \['labels'\]"),
        ({"data": FakeDataModule(evaluation_resize="none")}, r"evaluation_resize was protocol, is now none"),
        ({"data": COLOURED}, r"colours was .*#804080.*, is now .*#010203"),
    ],
)
def test_other_settings_are_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    out, settings = tmp_path / "out", {"outputs": ["overlays", "labels"], "data": FakeDataModule()}
    method, changed = SegTTT(num_steps=1, scales=(0.5,)), settings | changed
    predict(out, settings.pop("data"), method, limit_predict_batches=2, **settings)
    manifest, before = read_manifest(out), read_files(out)
    with pytest.raises(ValueError, match=message) as caught:
        predict(out, changed.pop("data"), changed.pop("method", method), **changed)
    assert "--results.overwrite=true" in str(caught.value) and str(out) in str(caught.value)
    assert read_manifest(out) == manifest and read_files(out) == before


def test_overwriting_replaces_predictions_and_nothing_else_also_if_it_is_stopped(tmp_path: Path) -> None:
    out, again = tmp_path / "out", {"outputs": ["labels", "overlays"]}
    predict(out, FakeDataModule(length=4), IaBN(0.9))
    strangers = [out / "labels" / "mine.png", out / "labels" / "blocks" / "mine.png", out / "confidence" / "mine.png"]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    with pytest.raises(RuntimeError, match="stopped"):
        predict(out, FakeDataModule(length=3), IaBN(0.1), Stop(2), overwrite=True, **again)
    predict(out, FakeDataModule(length=3), IaBN(0.1), **again)  # goes on
    predict(tmp_path / "fresh", FakeDataModule(length=3), IaBN(0.1), **again)
    expected = read_files(tmp_path / "fresh")
    assert read_files(out) == expected | {path.relative_to(out).as_posix(): b"mine" for path in strangers}
    manifest = read_manifest(out)
    assert manifest["settings"]["method"]["alpha"] == 0.1 and manifest["images"] == 3 and len(manifest["runs"]) == 2


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        ("labels/blocks/blocks_1.png", "mine", r"files like labels/blocks/blocks_1\.png but no predictions\.json"),
        ("predictions.json", "", r"predictions\.json is not a manifest of predictions"),
        ("predictions.json", '{"settings": {}', r"predictions\.json is not a manifest of predictions"),
    ],
)
def test_a_folder_without_a_manifest_is_not_overwritten_unasked(
    place: str, text: str, message: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / place).parent.mkdir(parents=True)
    (out / place).write_text(text)
    with pytest.raises((FileExistsError, ValueError), match=message):
        predict(out, FakeDataModule())
    assert [path for path in out.rglob("*") if path.is_file()] == [out / place] and (out / place).read_text() == text
    predict(out, FakeDataModule(), overwrite=True)
    with Image.open(out / "labels" / "blocks" / "blocks_1.png") as picture:
        assert picture.size == (36, 24)
    manifest = read_manifest(out)
    assert manifest["complete"] is True and manifest["images"] == 5


def test_data_sets_of_one_name_and_lost_knowledge_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 data sets are named twin"):
        predict(tmp_path / "out", TargetsDataModule([FakeDataModule("twin"), FakeDataModule("twin")]))
    assert not list(tmp_path.glob("out/*/*"))
    tent = Tent(num_steps=1, episodic=False)
    predict(tmp_path / "tent", FakeDataModule(), tent, limit_predict_batches=2)
    with pytest.raises(ValueError, match="keeps knowledge between images, which is lost, so it cannot be resumed"):
        predict(tmp_path / "tent", FakeDataModule(), tent)


@pytest.mark.parametrize("inside", [".", "sub/out"])
def test_results_among_the_images_are_refused(inside: str, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(photos)
    before = sorted(photos.rglob("*"))
    for data in (FolderDataModule("."), TargetsDataModule([FakeDataModule(), FolderDataModule(str(photos))])):
        with pytest.raises(ValueError, match="from which images are read"):
            predict(Path(inside), data)
    assert [path for path in sorted(photos.rglob("*")) if "lightning_logs" not in path.parts] == before


def test_fallbacks_are_counted_over_all_runs(tmp_path: Path) -> None:
    out, method = tmp_path / "out", SegTTT(num_steps=1, scales=(0.5,))
    with pytest.warns(UserWarning, match="falling back"), pytest.raises(RuntimeError, match="stopped"):
        predict(out, FakeDataModule("spoilt", 4, spoilt=1), method, Stop(3))
    assert read_manifest(out)["domains"]["spoilt"]["fallbacks"] == 1
    predict(out, FakeDataModule("spoilt", 4, spoilt=1), method)
    counts = read_manifest(out)["domains"]["spoilt"]
    assert (counts["images"], counts["fallbacks"], counts["images_with_notes"]) == (4, 1, 1)
    assert counts["notes"] == ["the image contains NaN or infinity"] and counts["images_not_finite"] == 0
    predict(tmp_path / "plain", FakeDataModule(length=3, spoilt=1), outputs=["overlays", "confidence"])
    assert read_manifest(tmp_path / "plain")["domains"]["blocks"]["images_not_finite"] == 1


def test_overlay_of_an_image_that_the_network_saw_smaller_has_the_size_on_disk() -> None:
    photograph = np.zeros((10, 20, 3), dtype=np.uint8)
    photograph[:, 10:] = 200
    overlay = draw_overlay(photograph, np.ones((30, 60), dtype=np.uint8), make_palette(2, [(0, 0, 0), (100, 0, 40)]))
    assert overlay.shape == (30, 60, 3)
    assert (overlay[:, :28] == [65, 0, 26]).all() and (overlay[:, 32:] == [135, 70, 96]).all()


def test_a_batch_is_written_as_its_images(tmp_path: Path) -> None:
    for size in (1, 3):
        predict(tmp_path / str(size), FakeDataModule(eval_batch_size=size), IaBN())
    assert read_files(tmp_path / "1") == read_files(tmp_path / "3")


def test_batches_of_a_run_that_goes_on_are_those_of_a_whole_run(tmp_path: Path) -> None:
    """AdaBN looks at the whole batch: where part of one is done, it is predicted again, and what is there stays."""
    cut, data = tmp_path / "cut", FakeDataModule(length=8, eval_batch_size=3)
    predict(tmp_path / "whole", data, AdaBN())
    predict(cut, data, AdaBN(), limit_predict_batches=2)
    (cut / "labels" / "blocks" / "blocks_4.png").unlink()
    assert list_predicted(cut, data, AdaBN()) == [f"blocks_{number}" for number in (3, 4, 5, 6, 7)]
    assert read_files(cut) == read_files(tmp_path / "whole")


def test_what_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "overlays").write_text("a file in the place of the folder")
    with pytest.raises(OSError, match=r"overlays/blocks/blocks_0\.jpg cannot be written \((File|Not a directory)"):
        predict(out, FakeDataModule())
    assert read_manifest(out)["complete"] is False


# The folder alone.


def test_lines_that_a_kill_cut_off_and_those_of_other_processes_are_merged(tmp_path: Path) -> None:
    others = '{"domain": "d", "name": "a", "n": 2}\n{"domain": "d", "name": "b", "n": 3}\n'
    (tmp_path / "predictions.jsonl").write_text('{"domain": "d", "name": "b", "n": 1}\n{"domain": "d", "na')
    (tmp_path / "predictions.rank1.jsonl").write_text(others)
    folder = PredictionFolder(tmp_path, ["labels"])
    folder.merge_records()
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
    records = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [(record["name"], record["n"]) for record in records] == [("a", 2), ("b", 3)]
    write_file(folder.paths("d", "b")["labels"], encode_png(np.zeros((2, 3), dtype=np.uint8)))
    assert folder.find_done() == {"d": {"b"}}


def test_writers_let_few_jobs_wait() -> None:
    writers, gate = Writers(), threading.Event()
    for _ in range(WAITING):
        writers.add(gate.wait, 10)
    adding = threading.Thread(target=writers.add, args=(gate.wait, 10))
    adding.start()
    adding.join(0.2)
    assert adding.is_alive()
    gate.set()
    adding.join(10)
    writers.finish()
    assert not adding.is_alive()


@pytest.mark.parametrize(("domain", "name"), [("a", "/b"), ("a", ""), ("a/b", "c"), ("..", "c"), ("a", "b/../../c")])
def test_names_do_not_lead_out_of_the_folder(domain: str, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a file"):
        PredictionFolder(Path("out"), ["labels"]).paths(domain, name)
