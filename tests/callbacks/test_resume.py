"""Test and validate runs that were interrupted go on, and end as if they had not been."""

import fcntl
import gc
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback
from pytorch_lightning.loggers import CSVLogger

from callbacks import AdaBN, IaBN, Method, SegTTT, Tent
from callbacks.alpha_search import AlphaSearch
from callbacks.method_search import MethodSearch
from callbacks.predictions import Predictions
from callbacks.report.summary import summarize_records
from callbacks.results import Results
from callbacks.run.folder import RunFolder, list_siblings
from callbacks.run.lock import FolderInUseError, FolderLock
from callbacks.run.records import read_records, write_manifest
from callbacks.run.settings import describe_execution, fingerprint_files
from callbacks.temperature import TemperatureSearch
from datamodules import FolderDataModule, TargetsDataModule
from datamodules.labels import LabelSpace
from lightning_modules.metrics import SCORE_FIELDS
from lightning_modules.segmentation import SegmentationModule
from tests import programs
from tests.fakes import FakeDataModule, TinyNetwork, make_trainer
from tests.processes import wait_for

VOLATILE = ("date", "commit")


def make_module(seed: int = 0) -> SegmentationModule:
    return SegmentationModule(TinyNetwork(19, seed=seed), 19, list(LabelSpace.of_size(19).names))


def make_data(**kwargs: Any) -> TargetsDataModule:
    """Nine images over three targets, five on the development set."""
    targets = [FakeDataModule(name, length, **kwargs) for name, length in (("near", 4), ("far", 2), ("wide", 3))]
    return TargetsDataModule(targets, development=FakeDataModule("dev", 5, **kwargs))


class Stop(Callback):
    """Breaks off before the batch of a number; keeps the names of the images that are predicted."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.batches: list[list[str]] = []

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        if len(self.batches) == self.at:
            raise RuntimeError("stopped")
        self.batches.append(batch["name"])

    on_validation_batch_start = on_test_batch_start

    @property
    def names(self) -> list[str]:
        return [name for batch in self.batches for name in batch]


def run(
    folder: Path,
    *callbacks: Callback,
    stage: str = "test",
    data: Any = None,
    module: SegmentationModule | None = None,
    results: dict[str, Any] | None = None,
    verbose: bool = False,
    **kwargs: Any,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Runs; returns what the trainer returns, and what it logged."""
    own = Results(**{"folder": str(folder), "panels": 0, "report": False, **(results or {})})
    trainer = make_trainer(folder.parent, callbacks=[*callbacks, own], **kwargs)
    data = make_data() if data is None else data
    returned = getattr(trainer, stage)(module or make_module(), datamodule=data, verbose=verbose)
    return returned, {key: value.item() for key, value in trainer.callback_metrics.items()}


def stop_run(folder: Path, *callbacks: Callback, at: int, **kwargs: Any) -> list[str]:
    """Runs until the batch of a number; returns the names of the images before."""
    stop = Stop(at)
    with pytest.raises(RuntimeError, match="stopped"):
        run(folder, *callbacks, stop, **kwargs)
    return stop.names


def read_summary(folder: Path) -> dict[str, Any]:
    """Reads a summary without what no two runs share."""
    summary = json.loads((folder / "results.json").read_text())
    for domain in (*summary["domains"].values(), summary["mean"]):
        domain.pop("ms_per_image", None)
    return {key: value for key, value in summary.items() if key not in VOLATILE}


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Reads the records without the measured time; checks that no other files of records are left."""
    assert not list(folder.glob("records.rank*")) and not list(folder.glob(".*"))
    return [record | {"milliseconds": None} for record in read_records(folder / "records.jsonl")]


def read_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def list_found(folder: Path) -> list[int]:
    return [earlier["found"] for earlier in read_manifest(folder)["runs"]]


@pytest.mark.parametrize(
    ("stage", "method", "at"),
    [
        ("test", None, 0),
        ("test", SegTTT(num_steps=2, scales=(0.5,)), 4),
        ("validate", SegTTT(num_steps=2, scales=(0.5,)), 1),
        ("validate", None, 4),
    ],
)
def test_a_run_that_stopped_goes_on_and_ends_as_one_that_did_not(
    stage: str, method: Method | None, at: int, tmp_path: Path
) -> None:
    methods = [method] if method else []
    expected = run(tmp_path / "whole", *methods, stage=stage)
    kept = stop_run(tmp_path / "cut", *methods, stage=stage, at=at)
    assert read_summary(tmp_path / "cut")["complete"] is False
    rest = Stop()
    assert run(tmp_path / "cut", *methods, rest, stage=stage) == expected
    whole = read_all(tmp_path / "whole")
    assert kept + rest.names == [record["name"] for record in whole] and len(kept) == at
    assert read_all(tmp_path / "cut") == whole
    assert read_summary(tmp_path / "cut") == read_summary(tmp_path / "whole")
    assert list_found(tmp_path / "cut") == [0, at]
    assert read_manifest(tmp_path / "cut")["settings"] == read_manifest(tmp_path / "whole")["settings"]


@pytest.mark.parametrize("at", [1, 5])
def test_the_table_on_the_screen_is_that_of_a_whole_run(
    at: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "whole", verbose=True)
    expected = capsys.readouterr().out
    stop_run(tmp_path / "cut", at=at)
    capsys.readouterr()
    run(tmp_path / "cut", verbose=True)
    assert capsys.readouterr().out == expected and "test/near/miou" in expected and "DataLoader 2" in expected


@pytest.mark.parametrize("stage", ["test", "validate"])
def test_a_run_that_is_finished_predicts_nothing_again(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = run(tmp_path / "out", stage=stage, verbose=True)
    table = capsys.readouterr().out
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != "run.json"}
    stop, data = Stop(), make_data()
    assert run(tmp_path / "out", stop, stage=stage, data=data, verbose=True) == expected
    assert not stop.batches and capsys.readouterr().out == table
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*(p.name for p in before), "run.json"])
    loaders = data.test_dataloader() if stage == "test" else [data.val_dataloader()]
    assert [len(loader) for loader in loaders] == ([4, 2, 3] if stage == "test" else [5])  # nothing is left out after


def test_a_kill_before_the_summary_only_costs_the_summary(tmp_path: Path) -> None:
    expected = run(tmp_path / "out")
    whole = read_summary(tmp_path / "out")
    (tmp_path / "out" / "results.json").unlink()
    stop = Stop()
    assert run(tmp_path / "out", stop) == expected and not stop.batches
    assert read_summary(tmp_path / "out") == whole


def test_a_line_that_was_cut_off_or_spoilt_is_predicted_again(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    stop_run(tmp_path / "cut", at=6)
    path = tmp_path / "cut" / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0\0\0\n" + b"".join(lines[2:5]) + lines[5][:50])
    stop = Stop()
    run(tmp_path / "cut", stop)
    assert stop.names == ["near_1", "far_1", "wide_0", "wide_1", "wide_2"]
    assert read_all(tmp_path / "cut") == read_all(tmp_path / "whole")
    assert read_summary(tmp_path / "cut") == read_summary(tmp_path / "whole")


def test_a_kill_while_the_files_of_processes_are_merged_neither_loses_nor_doubles(tmp_path: Path) -> None:
    expected = run(tmp_path / "whole")
    stop_run(tmp_path / "cut", at=6)
    path = tmp_path / "cut" / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    (tmp_path / "cut" / "records.rank1.jsonl").write_bytes(b"".join(lines[3:]))  # merged, but not removed yet
    (tmp_path / "cut" / ".records.jsonl.part").write_bytes(b"half")
    path.write_bytes(b"".join(lines[:5]))
    stop = Stop()
    assert run(tmp_path / "cut", stop) == expected
    assert stop.names == ["wide_0", "wide_1", "wide_2"]
    assert read_all(tmp_path / "cut") == read_all(tmp_path / "whole")
    assert read_summary(tmp_path / "cut") == read_summary(tmp_path / "whole")


def test_an_interrupted_run_sums_up_what_all_processes_have(tmp_path: Path) -> None:
    stop_run(tmp_path / "out", at=2)
    (tmp_path / "out" / "records.jsonl").rename(tmp_path / "out" / "records.rank3.jsonl")
    stop_run(tmp_path / "out", at=3)
    assert read_summary(tmp_path / "out")["domains"]["far"]["images"] == 1
    assert read_summary(tmp_path / "out")["mean"] == {}


@pytest.mark.parametrize("method", [None, AdaBN(), IaBN(0.3)], ids=["plain", "AdaBN", "IaBN"])
def test_batches_are_those_of_a_whole_run(method: Method | None, tmp_path: Path) -> None:
    """A prediction depends on its batch: where part of one was kept, the whole batch is predicted again."""
    methods, data = ([method] if method else []), {"eval_batch_size": 3}
    whole = Stop()
    run(tmp_path / "whole", *methods, whole, data=make_data(**data))
    stop_run(tmp_path / "cut", *methods, at=3, data=make_data(**data))
    path = tmp_path / "cut" / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:1], *lines[2:]]))  # as if the kill had come while the first batch was written
    rest = Stop()
    run(tmp_path / "cut", *methods, rest, data=make_data(**data))
    assert rest.batches == [whole.batches[0], whole.batches[3]] and list_found(tmp_path / "cut") == [0, 3]
    assert read_all(tmp_path / "cut") == read_all(tmp_path / "whole")
    assert read_summary(tmp_path / "cut") == read_summary(tmp_path / "whole")


@pytest.mark.parametrize(("limit", "at"), [(3, 1), (2, 3), (0.5, 3), (0.75, 1)])
def test_a_limited_run_goes_on_to_its_limit(limit: int | float, at: int, tmp_path: Path) -> None:
    whole, rest = Stop(), Stop()
    limits = {"limit_test_batches": limit}
    expected = run(tmp_path / "whole", whole, **limits)
    kept = stop_run(tmp_path / "cut", at=at, **limits)
    trainer = make_trainer(tmp_path, callbacks=[rest, Results(str(tmp_path / "cut"), panels=0)], **limits)
    assert trainer.test(make_module(), datamodule=make_data(), verbose=False) == expected[0]
    assert kept + rest.names == whole.names and trainer.limit_test_batches == limit
    assert read_all(tmp_path / "cut") == read_all(tmp_path / "whole")
    assert read_summary(tmp_path / "cut") == read_summary(tmp_path / "whole")
    assert read_summary(tmp_path / "cut")["complete"] is True
    with pytest.raises(ValueError, match=rf"limit_batches was {limit}, is now 1\.0"):
        run(tmp_path / "cut")


def test_the_number_of_panels_holds_over_all_runs(tmp_path: Path) -> None:
    panels = {"panels": 3}
    stop_run(tmp_path / "out", at=2, results=panels)
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    run(tmp_path / "out", results=panels)
    names = [path.stem for path in sorted((tmp_path / "out" / "panels").rglob("*.png"))]
    assert names == ["far_0", "far_1", "near_0", "near_1", "near_2", "wide_0", "wide_1", "wide_2"]
    kept = {path: when for path, when in drawn.items() if path.parent.name == "near"}
    assert len(kept) == 2 and all(path.stat().st_mtime_ns == when for path, when in kept.items())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": IaBN(0.2)}, r"method\.alpha was 0\.1, is now 0\.2\. Expected the same settings"),
        ({"method": SegTTT(num_steps=1)}, r"method\.name was IaBN, is now SegTTT"),
        ({"method": None}, r"method\.name was IaBN, is now None"),
        ({"module": make_module(seed=1)}, r"weights was \w{64}, is now \w{64}\. Expected"),
        ({"precision": "bf16-mixed"}, r"precision was 32-true, is now bf16-mixed"),
        ({"data": make_data(evaluation_resize="none")}, r"near\.evaluation_resize was protocol, is now none"),
        ({"data": make_data(eval_batch_size=2)}, r"data\.near\.eval_batch_size was 1, is now 2"),
        ({"data": FakeDataModule("near", 4)}, r"data\.far\.\w+ was"),
        ({"data": TargetsDataModule([FakeDataModule("near", 5)])}, r"data\.near\.images was 4, is now 5"),
        ({"stage": "validate"}, r"stage was test, is now validate"),
        ({"limit_test_batches": 2}, r"limit_batches was 1\.0, is now 2"),
    ],
)
def test_other_settings_are_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    out, settings = tmp_path / "out", {"method": IaBN(0.1), "module": make_module()}
    at = None if "method" in changed else 2  # finished, or not

    def go(*callbacks: Callback, **kwargs: Any) -> None:
        given = settings | kwargs
        method = given.pop("method")
        run(out, *([method] if method else []), *callbacks, **given)

    if at is None:
        go()
    else:
        with pytest.raises(RuntimeError, match="stopped"):
            go(Stop(at))
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match=message) as caught:
        go(**changed)
    assert "another results.folder, or --results.overwrite=true" in str(caught.value) and str(out) in str(caught.value)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    stop = Stop()
    go(stop)  # the same settings go on
    assert len(stop.names) == (0 if at is None else 7)


def test_a_temperature_is_a_setting(tmp_path: Path) -> None:
    stop_run(tmp_path / "out", at=1)
    module = make_module()
    module.temperature = 2.0
    with pytest.raises(ValueError, match=r"temperature was 1\.0, is now 2\.0"):
        run(tmp_path / "out", module=module)


def test_how_a_network_is_run_is_a_setting_if_it_is_unusual() -> None:
    network = TinyNetwork(19)
    assert describe_execution(network) == {}
    network.channels_last = True
    network._compiled_call_impl = network._call_impl
    assert describe_execution(network) == {"compiled": True, "channels_last": True}


@pytest.mark.cuda
def test_a_run_on_a_gpu_goes_on(tmp_path: Path) -> None:
    cuda = {"accelerator": "cuda"}
    expected = run(tmp_path / "whole", IaBN(0.3), **cuda)
    stop_run(tmp_path / "cut", IaBN(0.3), at=5, **cuda)
    for _ in range(2):
        assert run(tmp_path / "cut", IaBN(0.3), **cuda) == expected
        assert read_all(tmp_path / "cut") == read_all(tmp_path / "whole")


@pytest.mark.cuda
def test_seg_ttt_on_a_gpu_goes_on(tmp_path: Path) -> None:
    """Its steps differ there from run to run, so that only what was kept is the same."""
    cuda, method = {"accelerator": "cuda"}, SegTTT(scales=(0.5,), num_steps=2)
    _, expected = run(tmp_path / "whole", method, **cuda)
    stop_run(tmp_path / "cut", SegTTT(scales=(0.5,), num_steps=2), at=5, **cuda)
    kept = read_records(tmp_path / "cut" / "records.jsonl")
    _, found = run(tmp_path / "cut", SegTTT(scales=(0.5,), num_steps=2), **cuda)
    assert kept and [record for record in read_records(tmp_path / "cut" / "records.jsonl") if record in kept] == kept
    assert found["test/miou"] == pytest.approx(expected["test/miou"], abs=1.0)


def test_settings_without_a_record_bind_nobody(tmp_path: Path) -> None:
    stop_run(tmp_path / "out", at=0)
    run(tmp_path / "out", IaBN(0.3))
    assert read_summary(tmp_path / "out")["method"]["alpha"] == 0.3 and list_found(tmp_path / "out") == [0]


def write_files(folder: Path, count: int) -> Path:
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 36, 3), dtype=np.uint8)
        for kind, values in (("images", pixels), ("labels", pixels[..., 0] % 19)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / kind / f"{number}.png")
    return folder


@pytest.mark.parametrize("change", ["touch image", "touch labels", "new", "gone", "renamed"])
def test_files_that_changed_are_refused(change: str, tmp_path: Path) -> None:
    root = write_files(tmp_path / "data", 4)
    stop_run(tmp_path / "out", at=2, data=FolderDataModule(str(root), num_workers=0))
    if change == "new":
        write_files(root, 5)
    for kind in ("images", "labels"):
        path = root / kind / "3.png"
        if change == "gone":
            path.unlink()
        elif change == "renamed":
            path.rename(path.with_name("4.png"))
        elif change == f"touch {kind.removesuffix('s')}" or change == f"touch {kind}":
            os.utime(path, (1, 1))
    with pytest.raises(ValueError, match=r"data\.data\.fingerprint was \w{64}, is now \w{64}"):
        run(tmp_path / "out", data=FolderDataModule(str(root), num_workers=0))


def test_files_that_did_not_change_go_on_without_being_read_again(tmp_path: Path) -> None:
    root = write_files(tmp_path / "data", 4)
    stop_run(tmp_path / "out", at=2, data=FolderDataModule(str(root), num_workers=0))
    stop, opened = Stop(), []

    class Counted(FolderDataModule):
        def make_dataset(self, *args: Any) -> Any:
            opened.append(args[0])
            return super().make_dataset(*args)

    run(tmp_path / "out", stop, data=Counted(str(root), num_workers=0, broken="error"))
    assert stop.names == ["2", "3"] and opened == ["test"]


def test_files_that_settings_name_count_by_their_content(tmp_path: Path) -> None:
    path = tmp_path / "member.ckpt"
    path.write_bytes(b"weights")
    settings = {"name": "Ensemble", "checkpoints": [str(path), str(tmp_path / "nowhere")], "alpha": 0.1}
    before = fingerprint_files(settings)
    assert list(before) == [str(path)]
    os.utime(path, (1, 1))
    assert fingerprint_files(settings) == before
    path.write_bytes(b"others")
    assert fingerprint_files(settings) != before and fingerprint_files(None) == {}


def test_results_without_a_manifest_are_set_aside(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "records.jsonl").write_text('{"domain": "near", "name": "near_0"}\n')
    (out / "results.json").write_text('{"complete": true}\n')
    stop = Stop()
    run(out, stop)
    assert len(stop.names) == 9 and (out / "records.1.jsonl").exists() and (out / "results.1.json").exists()
    (out / "run.json").write_text("no manifest")
    run(out)
    assert (out / "run.2.json").read_text() == "no manifest" and (out / "records.2.jsonl").exists()


def test_overwriting_begins_anew_and_loses_nothing(tmp_path: Path) -> None:
    out, panels = tmp_path / "out", {"panels": 1}
    run(out, IaBN(0.1), results=panels)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    panel = (out / "panels" / "near" / "near_0.png").read_bytes()
    stop = Stop()
    run(out, IaBN(0.9), stop, results=panels | {"overwrite": True})
    assert len(stop.names) == 9 and read_summary(out)["method"]["alpha"] == 0.9
    for name, data in before.items():
        stem, suffix = name.rsplit(".", 1)
        assert (out / f"{stem}.1.{suffix}").read_bytes() == data
    assert (
        (out / "panels.1" / "near" / "near_0.png").read_bytes()
        == panel
        != (out / "panels/near/near_0.png").read_bytes()
    )


def test_online_tent_begins_anew_and_says_so(tmp_path: Path) -> None:
    tent = {"num_steps": 1, "episodic": False}
    run(tmp_path / "whole", Tent(**tent))
    stop_run(tmp_path / "cut", Tent(**tent), at=4)
    stop = Stop()
    with pytest.warns(UserWarning, match=r"4 images are scored, but Tent KEEPS KNOWLEDGE .* predicted anew"):
        run(tmp_path / "cut", Tent(**tent), stop)
    assert len(stop.names) == 9 and len(read_records(tmp_path / "cut" / "records.1.jsonl")) == 4
    assert read_all(tmp_path / "cut") == read_all(tmp_path / "whole")
    stop = Stop()
    run(tmp_path / "cut", Tent(**tent), stop)
    assert not stop.names  # what is finished needs no knowledge
    stop_run(tmp_path / "episodic", Tent(num_steps=1), at=4)
    run(tmp_path / "episodic", Tent(num_steps=1), stop)
    assert len(stop.names) == 5


def test_predictions_of_online_tent_do_not_go_on(tmp_path: Path) -> None:
    tent = Tent(num_steps=1, episodic=False)

    def predict(**kwargs: Any) -> None:
        trainer = make_trainer(tmp_path, callbacks=[tent, Predictions(str(tmp_path / "out"), ["labels"])], **kwargs)
        trainer.predict(make_module(), datamodule=make_data())

    predict(limit_predict_batches=2)
    with pytest.raises(ValueError, match="keeps knowledge between images, which is lost: it cannot go on"):
        predict()


@pytest.mark.parametrize("at", [2, None], ids=["unfinished", "finished"])
def test_a_search_for_the_temperature_sees_every_image(at: int | None, tmp_path: Path) -> None:
    search = TemperatureSearch()
    expected = run(tmp_path / "whole", search, stage="validate")
    if at is None:
        run(tmp_path / "out", stage="validate")
    else:
        stop_run(tmp_path / "out", at=at, stage="validate")
    stop = Stop()
    with pytest.warns(UserWarning, match=rf"{type(search).__name__} needs every image in the run: all are predicted"):
        assert run(tmp_path / "out", search, stop, stage="validate") == expected
    assert len(stop.names) == 5 and (tmp_path / "out" / "records.1.jsonl").exists()


@pytest.mark.parametrize(
    ("search", "at"),
    [
        (AlphaSearch([0.0, 0.5]), 4),
        (MethodSearch(SegTTT(scales=(0.5,)), {"psi": [0.5, 0.9], "num_steps": [0, 2]}), 0),
        (MethodSearch(SegTTT(scales=(0.5,)), {"psi": [0.5, 0.9], "num_steps": [0, 2]}), 2),
    ],
    ids=["alpha", "grid-0", "grid-2"],
)
def test_a_search_that_stopped_goes_on_with_the_images_that_are_left(
    search: MethodSearch, at: int, tmp_path: Path
) -> None:
    def read_search(folder: Path) -> dict[str, Any]:
        return json.loads((folder / "search.json").read_text()) | {"seconds": None}

    expected = run(tmp_path / "whole", search, stage="validate")
    kept = stop_run(tmp_path / "cut", search, at=at, stage="validate")
    assert not (tmp_path / "cut" / "search.json").exists()
    rest = Stop()
    assert run(tmp_path / "cut", search, rest, stage="validate") == expected
    assert sorted(kept + rest.names) == sorted(record["name"] for record in read_all(tmp_path / "whole"))
    assert read_search(tmp_path / "cut") == read_search(tmp_path / "whole")
    assert read_search(tmp_path / "cut")["images"] == 5
    nothing = Stop()
    assert run(tmp_path / "cut", search, nothing, stage="validate") == expected and nothing.names == []


def test_a_search_with_another_grid_is_another_run(tmp_path: Path) -> None:
    stop_run(tmp_path / "out", AlphaSearch([0.0, 0.5]), at=2, stage="validate")
    with pytest.raises(ValueError, match=r"search\.grid\.alpha was \[0\.0, 0\.5\], is now \[0\.0, 0\.6\]"):
        run(tmp_path / "out", AlphaSearch([0.0, 0.6]), stage="validate")


def test_a_search_in_the_config_does_not_keep_a_test_from_going_on(tmp_path: Path) -> None:
    stop_run(tmp_path / "out", AlphaSearch(), at=2)
    stop = Stop()
    run(tmp_path / "out", AlphaSearch(), stop)
    assert len(stop.names) == 7


def test_data_that_cannot_leave_out_what_is_done_begin_anew(tmp_path: Path) -> None:
    twins = TargetsDataModule([FakeDataModule("twin", 2), FakeDataModule("twin", 2)])
    for number in range(2):
        stop = Stop()
        run(tmp_path / "twins", stop, data=twins)
        assert len(stop.names) == 4
        loaders = make_trainer(tmp_path, callbacks=[Results(str(tmp_path / "loaders"))])
        loaders.test(make_module(), dataloaders=FakeDataModule(length=3).test_dataloader(), verbose=False)
        assert len(list((tmp_path / "loaders").glob("records.*jsonl"))) == number + 1
    assert len(list((tmp_path / "twins").glob("records.*jsonl"))) == 2


def run_logged(folder: Path, *callbacks: Callback, at: int | None = None, **results: Any) -> list[str]:
    """Runs with a logger that numbers its folders, as main.py does; returns the names of what was predicted."""
    stop, logger = Stop(at), CSVLogger(folder, name="csv")
    trainer = make_trainer(folder, callbacks=[*callbacks, stop, Results(panels=0, **results)], logger=logger)
    try:
        trainer.test(make_module(), datamodule=make_data(), verbose=False)
    except RuntimeError:
        assert at is not None
    return stop.names


@pytest.mark.slow
def test_without_a_folder_the_newest_unfinished_run_goes_on(tmp_path: Path) -> None:
    csv = tmp_path / "csv"
    assert len(run_logged(tmp_path)) == 9  # finished: version_0
    assert len(run_logged(tmp_path, at=2)) == 2  # version_1, which does not go on from the finished one
    assert len(run_logged(tmp_path, IaBN(0.2), at=3)) == 3  # another run: version_2
    assert len(run_logged(tmp_path)) == 7  # goes on with version_1
    assert list_found(csv / "version_1") == [0, 2] and read_all(csv / "version_1") == read_all(csv / "version_0")
    assert not (csv / "version_3" / "run.json").exists()
    assert len(run_logged(tmp_path, IaBN(0.2), overwrite=True)) == 9
    assert list_found(csv / "version_2") == [0]
    assert len(run_logged(tmp_path)) == 9  # all of this command are finished: a new one
    assert read_summary(max(csv.glob("version_*/results.json"), key=os.path.getmtime).parent) == read_summary(
        csv / "version_0"
    )
    lock = FolderLock(csv / "version_2")
    lock.acquire()
    assert len(run_logged(tmp_path, IaBN(0.2))) == 9  # the unfinished one is still going on elsewhere
    lock.release()
    assert len(run_logged(tmp_path, IaBN(0.2))) == 6


def test_siblings_are_the_numbered_folders_newest_first(tmp_path: Path) -> None:
    for name in ("version_2", "version_10", "version_x", "other", "version_9"):
        (tmp_path / name).mkdir()
    assert [path.name for path in list_siblings(tmp_path / "version_9")] == ["version_10", "version_2"]
    assert list_siblings(tmp_path / "other") == [] == list_siblings(tmp_path / "nowhere" / "version_3")


def test_a_folder_that_nobody_chose_is_set_aside_for_other_settings(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "outputs" / "results"
    for method, expected in ((IaBN(0.1), 9), (IaBN(0.2), 9), (IaBN(0.2), 9)):
        stop = Stop()
        run(tmp_path / "x", method, stop, results={"folder": None})
        assert len(stop.names) == expected
    assert [json.loads((place / f"results{n}.json").read_text())["method"]["alpha"] for n in (".1", ".2", "")] == [
        0.1,
        0.2,
        0.2,
    ]


@pytest.mark.parametrize("stage", ["test", "validate", "predict"])
def test_a_folder_that_another_run_writes_into_is_refused(stage: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hold = "import sys, time; from pathlib import Path; from callbacks.run.lock import FolderLock\n"
    hold += "lock = FolderLock(Path(sys.argv[1])); lock.acquire(); Path('held').touch(); time.sleep(60)"
    holder = programs.start(["-c", hold, str(out)], tmp_path)
    try:
        wait_for((tmp_path / "held").exists)
        message = rf"another run is writing into {out}: process {holder.pid} on .*another results.folder"
        for _ in range(2):
            with pytest.raises(FolderInUseError, match=message):
                trainer = make_trainer(tmp_path, callbacks=[Results(str(out))])
                getattr(trainer, stage)(make_module(), datamodule=make_data())
        assert [path.name for path in out.iterdir()] == [".lock"]
    finally:
        holder.kill()
        holder.wait()
    trainer = make_trainer(tmp_path, callbacks=[Results(str(out))])
    getattr(trainer, stage)(make_module(), datamodule=make_data())
    assert not (out / ".lock").exists()


def test_a_lock_ends_with_its_run_and_is_not_inherited(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(FolderInUseError, match=f"process {os.getpid()} on"):
        second.acquire()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        first.release()
        second.acquire()  # though the child, like a loader's worker, lives on
        second.release()
        second.release()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked"):
        run(tmp_path / "out")
    assert read_summary(tmp_path / "out")["complete"] is True


def test_after_an_error_the_folder_is_unlocked_and_the_trainer_as_before(tmp_path: Path) -> None:
    stop_run(tmp_path / "out", at=2, limit_test_batches=3)
    assert not (tmp_path / "out" / ".lock").exists()
    data, stop = make_data(), Stop(1)
    trainer = make_trainer(tmp_path, callbacks=[stop, Results(str(tmp_path / "out"), panels=0)], limit_test_batches=3)
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.test(make_module(), datamodule=data)
    assert trainer.limit_test_batches == 3 and len(data.test_dataloader()[0]) == 4
    assert not (tmp_path / "out" / ".lock").exists()


def test_records_are_merged_in_order_and_only_written_if_need_be(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_manifest(tmp_path / "run.json", {"settings": {}, "runs": []})
    assert folder.merge([]) == [] and (tmp_path / "records.jsonl").read_bytes() == b""
    texts = [json.dumps({"domain": "d", "name": name}) + "\n" for name in "abc"]
    (tmp_path / "records.jsonl").write_text(texts[0] + texts[2])
    (tmp_path / "records.rank1.jsonl").write_text(texts[1] + '{"domain": "d", "na')
    merged = folder.merge(sorted(folder.locate()))
    assert (tmp_path / "records.jsonl").read_text() == "".join(texts) and not (
        tmp_path / "records.rank1.jsonl"
    ).exists()
    written = (tmp_path / "records.jsonl").stat().st_ino
    assert folder.merge(merged) == merged and (tmp_path / "records.jsonl").stat().st_ino == written
    assert folder.merge(merged[:2]) == merged[:2] and (tmp_path / "records.jsonl").read_text() == "".join(texts[:2])


def measure_memory() -> int:
    """Returns the memory that this process uses now, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Memory(Callback):
    """Measures memory after every hundredth batch, and when the summary is written."""

    def __init__(self) -> None:
        self.used: list[int] = []

    def on_test_batch_end(self, *hook: Any) -> None:
        if hook[4] % 100 == 99:
            self.used.append(measure_memory())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured by Linux's /proc")
def test_a_run_over_a_thousand_images_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, peaks = Memory(), []

    def summarize(records: Any, *args: Any) -> Any:
        def watch() -> Iterator[Any]:
            for number, record in enumerate(records):
                yield record
                if number % 500 == 499:
                    peaks.append(measure_memory())

        return summarize_records(watch(), *args)

    monkeypatch.setattr("callbacks.results.summarize_records", summarize)
    run(tmp_path / "out", memory, data=FakeDataModule("long", 1500, (16, 24)))
    assert len(memory.used) == 15 and read_summary(tmp_path / "out")["domains"]["long"]["images"] == 1500
    allowed = 1e6  # the records of 1000 images, parsed, take 3 MB
    assert memory.used[-1] - memory.used[2] < allowed
    assert len(peaks) == 3 and peaks[-1] - peaks[0] < allowed


def test_records_have_all_scores(tmp_path: Path) -> None:
    run(tmp_path / "out")
    for record in read_all(tmp_path / "out"):
        assert set(SCORE_FIELDS) <= record.keys()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
