"""Test and validate runs that were interrupted go on, and end as if they had not been."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch_lightning import Callback

from callbacks import AdaBN, IaBN, Method, SegTTT, Tent
from callbacks.alpha_search import AlphaSearch
from callbacks.method_search import MethodSearch
from callbacks.report.summary import collect_domains
from callbacks.results import Results
from callbacks.run.folder import RunFolder
from callbacks.run.records import read_records
from callbacks.run.scoring import ScoringRun
from callbacks.run.settings import describe_execution
from callbacks.temperature import TemperatureSearch
from datamodules import FolderDataModule, TargetsDataModule
from tests.callbacks.runs import (
    Stop,
    check_same,
    list_found,
    make_data,
    make_module,
    read_all,
    read_files,
    read_json,
    read_results,
    read_summary,
    run,
    stop_run,
)
from tests.fakes import FakeDataModule, TinyNetwork, make_trainer
from tests.trees import write_image


@pytest.mark.parametrize(
    ("stage", "methods", "at", "options"),
    [
        ("test", [SegTTT(num_steps=2, scales=(0.5,))], 5, {}),
        ("validate", [], 1, {}),
        pytest.param("test", [IaBN(0.3)], 5, {"accelerator": "cuda"}, marks=pytest.mark.cuda),
    ],
)
def test_a_run_that_stopped_goes_on_and_ends_as_one_that_did_not(
    stage: str, methods: list[Method], at: int, options: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"stage": stage, **options}
    expected = run(tmp_path / "whole", *methods, verbose=True, **options)
    table = capsys.readouterr().out
    kept = stop_run(tmp_path / "cut", *methods, at=at, **options)
    assert read_summary(tmp_path / "cut")["complete"] is False
    rest = Stop()
    capsys.readouterr()
    assert run(tmp_path / "cut", *methods, rest, verbose=True, **options) == expected
    assert capsys.readouterr().out == table and "miou" in table
    assert kept + rest.names == [record["name"] for record in read_all(tmp_path / "whole")] and len(kept) == at
    check_same(tmp_path / "cut", tmp_path / "whole")
    assert list_found(tmp_path / "cut") == [0, at]


@pytest.mark.parametrize("stage", ["test", "validate"])
def test_a_run_that_is_finished_predicts_nothing_again(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    expected, table = run(out, stage=stage, verbose=True), capsys.readouterr().out
    before, whole = read_files(out), read_summary(out)
    stop, data = Stop(), make_data()
    assert run(out, stop, stage=stage, data=data, verbose=True) == expected
    assert not stop.batches and capsys.readouterr().out == table
    assert read_files(out) == before
    loaders = data.test_dataloader() if stage == "test" else [data.val_dataloader()]
    assert [len(loader) for loader in loaders] == ([4, 2, 3] if stage == "test" else [5])  # nothing is left out after
    (out / "results.json").unlink()  # as if a kill had come before the summary
    assert run(out, stop, stage=stage) == expected and not stop.batches and read_summary(out) == whole


def cut_off(folder: Path, lines: list[bytes]) -> None:
    """Spoils one line and cuts another off, as a kill or a bad disk does."""
    (folder / "records.jsonl").write_bytes(lines[0] + b"\0\0\0\n" + b"".join(lines[2:5]) + lines[5][:50])


def cut_off_line_break(folder: Path, lines: list[bytes]) -> None:
    (folder / "records.jsonl").write_bytes(b"".join(lines)[:-1])


def merge_halfway(folder: Path, lines: list[bytes]) -> None:
    """Leaves the files of a kill while those of two processes are merged: one is not removed yet."""
    (folder / "records.rank1.jsonl").write_bytes(b"".join(lines[3:]))
    (folder / ".records.jsonl.part").write_bytes(b"half")
    (folder / "records.jsonl").write_bytes(b"".join(lines[:5]))


@pytest.mark.parametrize(
    ("damage", "lost"), [(cut_off, ["near_1", "far_1"]), (cut_off_line_break, ["far_1"]), (merge_halfway, [])]
)
def test_records_that_a_kill_left_damaged_are_neither_lost_nor_doubled(
    damage: Callable[[Path, list[bytes]], None], lost: list[str], tmp_path: Path
) -> None:
    expected, rest = run(tmp_path / "whole"), Stop()
    stop_run(tmp_path / "cut", at=6)
    damage(tmp_path / "cut", (tmp_path / "cut" / "records.jsonl").read_bytes().splitlines(keepends=True))
    assert run(tmp_path / "cut", rest) == expected
    assert rest.names == [*lost, "wide_0", "wide_1", "wide_2"]
    check_same(tmp_path / "cut", tmp_path / "whole")


def test_an_interrupted_run_sums_up_what_all_processes_have(tmp_path: Path) -> None:
    stop_run(tmp_path / "out", at=2)
    (tmp_path / "out" / "records.jsonl").rename(tmp_path / "out" / "records.rank3.jsonl")
    stop_run(tmp_path / "out", at=3)
    assert read_summary(tmp_path / "out")["domains"]["far"]["images"] == 1
    assert read_summary(tmp_path / "out")["mean"] == {}


def test_records_of_images_without_distinct_names_stay_in_order_if_one_process_wrote_them(tmp_path: Path) -> None:
    lines = [b'{"domain": "a", "name": "%s", "n": %d}\n' % (name, n) for n, name in enumerate((b"z", b"y", b"z", b"y"))]
    run = ScoringRun([], 0, resumable=False, folder=RunFolder(tmp_path))
    run.folder.records(0).write_bytes(b"".join(lines))
    assert [record["n"] for record in run.read()] == [0, 1, 2, 3]
    run.folder.records(1).write_bytes(lines[0])
    assert [record["n"] for record in run.read()] == [1, 3, 0, 2, 0]


def test_batches_are_those_of_a_whole_run(tmp_path: Path) -> None:
    """A prediction depends on its batch: where part of one was kept, the whole batch is predicted again."""
    whole, rest, data = Stop(), Stop(), make_data(eval_batch_size=3)
    run(tmp_path / "whole", AdaBN(), whole, data=data)
    stop_run(tmp_path / "cut", AdaBN(), at=3, data=data)
    path = tmp_path / "cut" / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:1], *lines[2:]]))  # as if the kill had come while the first batch was written
    run(tmp_path / "cut", AdaBN(), rest, data=data)
    assert rest.batches == [whole.batches[0], whole.batches[3]] and list_found(tmp_path / "cut") == [0, 3]
    check_same(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize(("limit", "at"), [(3, 1), (0.5, 3)])
def test_a_limited_run_goes_on_to_its_limit(limit: int | float, at: int, tmp_path: Path) -> None:
    whole, rest = Stop(), Stop()
    limits = {"limit_test_batches": limit}
    expected = run(tmp_path / "whole", whole, **limits)
    kept = stop_run(tmp_path / "cut", at=at, **limits)
    trainer = make_trainer(tmp_path, callbacks=[rest, Results(str(tmp_path / "cut"), panels=0, report=False)], **limits)
    assert trainer.test(make_module(), datamodule=make_data(), verbose=False) == expected[0]
    assert kept + rest.names == whole.names and trainer.limit_test_batches == limit
    check_same(tmp_path / "cut", tmp_path / "whole")
    assert read_summary(tmp_path / "cut")["complete"] is True
    with pytest.raises(ValueError, match=rf"limit_batches was {limit}( batches)?, is now 1\.0"):
        run(tmp_path / "cut")


def test_the_number_of_panels_holds_over_all_runs(tmp_path: Path) -> None:
    stop_run(tmp_path / "out", at=2, results={"panels": 3})
    run(tmp_path / "out", results={"panels": 3})
    names = [path.stem for path in sorted((tmp_path / "out" / "panels").rglob("*.png"))]
    assert names == ["far_0", "far_1", "near_0", "near_1", "near_2", "wide_0", "wide_1", "wide_2"]


DILATED = make_module()
DILATED.network.layer4[0].dilation = DILATED.network.layer4[0].padding = (1, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": [IaBN(0.2)]}, r"method\.alpha was 0\.1, is now 0\.2\. Expected the same settings"),
        ({"method": []}, r"method\.name was IaBN, is now None"),
        ({"module": make_module(seed=1)}, r"weights was \w{12}, is now \w{12}\. Expected"),
        ({"module": make_module(temperature=2.0)}, r"temperature was 1\.0, is now 2\.0"),
        ({"module": DILATED}, r"layers was \w{12}, is now \w{12}\. Expected"),
        ({"results": {"baseline": False}}, "baseline was True, is now False"),
        ({"precision": "bf16-mixed"}, r"precision was 32-true, is now bf16-mixed"),
        ({"data": make_data(eval_batch_size=2)}, r"data\.near\.eval_batch_size was 1, is now 2"),
        ({"data": FakeDataModule("near", 4)}, r"data\.far\.\w+ was"),
        ({"stage": "validate"}, r"stage was test, is now validate"),
        ({"limit_test_batches": 1}, r"limit_batches was 1\.0, is now 1 batch;"),
    ],
)
def test_other_settings_are_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    out, given = tmp_path / "out", {"method": [IaBN(0.1)], **changed}
    if "method" in changed:  # refused in a finished run, too
        run(out, IaBN(0.1))
    else:
        stop_run(out, IaBN(0.1), at=2)
    before, manifest = read_files(out), read_json(out / "run.json")
    with pytest.raises(ValueError, match=message) as caught:
        run(out, *given.pop("method"), **given)
    assert "another results.folder, or --results.overwrite=true" in str(caught.value) and str(out) in str(caught.value)
    assert read_files(out) == before and read_json(out / "run.json") == manifest


def test_how_a_network_is_run_is_a_setting_if_it_is_unusual() -> None:
    network = TinyNetwork(19)
    assert describe_execution(network) == {}
    network.channels_last = True
    network._compiled_call_impl = network._call_impl
    assert describe_execution(network) == {"compiled": True, "channels_last": True}


def test_settings_without_a_record_bind_nobody(tmp_path: Path) -> None:
    stop_run(tmp_path / "out", at=0)
    run(tmp_path / "out", IaBN(0.3))
    assert read_summary(tmp_path / "out")["method"]["alpha"] == 0.3 and list_found(tmp_path / "out") == [0]


def write_pair(root: Path, number: int) -> None:
    pixels = np.random.default_rng(number).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    write_image(root / "images" / f"{number}.png", pixels)
    write_image(root / "labels" / f"{number}.png", pixels[..., 0] % 19)


def rename_pair(root: Path) -> None:
    for kind in ("images", "labels"):
        (root / kind / "3.png").rename(root / kind / "4.png")


@pytest.mark.parametrize(
    "change",
    [lambda root: os.utime(root / "labels" / "3.png", (1, 1)), lambda root: write_pair(root, 4), rename_pair],
    ids=["touched", "new", "renamed"],
)
def test_files_that_changed_are_refused_and_others_go_on_without_being_read_again(change: Any, tmp_path: Path) -> None:
    root, opened = tmp_path / "data", []
    for number in range(4):
        write_pair(root, number)
    stop_run(tmp_path / "out", at=2, data=FolderDataModule(str(root), num_workers=0))
    stop = Stop()

    class Counted(FolderDataModule):
        def make_dataset(self, *args: Any) -> Any:
            opened.append(args[0])
            return super().make_dataset(*args)

    run(tmp_path / "out", stop, data=Counted(str(root), num_workers=0, broken="error"))
    assert stop.names == ["2", "3"] and opened == ["test"]
    change(root)
    with pytest.raises(ValueError, match=r"fingerprint was \w{12}, is now \w{12} \(other images, or changed files\)"):
        run(tmp_path / "out", data=FolderDataModule(str(root), num_workers=0))


def test_online_tent_begins_anew_and_says_so(tmp_path: Path) -> None:
    tent = {"num_steps": 1, "episodic": False}
    run(tmp_path / "whole", Tent(**tent))
    stop_run(tmp_path / "cut", Tent(**tent), at=4)
    stop = Stop()
    with pytest.warns(UserWarning, match=r"4 images are already scored, but Tent KEEPS KNOWLEDGE .* predicted again"):
        run(tmp_path / "cut", Tent(**tent), stop)
    assert len(stop.names) == 9 and len(read_records(tmp_path / "cut" / "records.1.jsonl")) == 4
    assert read_all(tmp_path / "cut") == read_all(tmp_path / "whole")
    stop = Stop()
    run(tmp_path / "cut", Tent(**tent), stop)
    assert not stop.names  # what is finished needs no knowledge
    stop_run(tmp_path / "episodic", Tent(num_steps=1), at=4)
    run(tmp_path / "episodic", Tent(num_steps=1), stop)
    assert len(stop.names) == 5


def test_a_search_for_the_temperature_sees_every_image(tmp_path: Path) -> None:
    expected = run(tmp_path / "whole", TemperatureSearch(), stage="validate")
    run(tmp_path / "out", stage="validate")
    stop = Stop()
    with pytest.warns(UserWarning, match="TemperatureSearch needs every image in the run: all are predicted"):
        assert run(tmp_path / "out", TemperatureSearch(), stop, stage="validate") == expected
    assert len(stop.names) == 5 and (tmp_path / "out" / "records.1.jsonl").exists()


def read_search(folder: Path) -> dict[str, Any]:
    return read_json(folder / "search.json") | {"seconds": None}


def test_the_last_search_goes_on_with_the_images_that_are_left(tmp_path: Path) -> None:
    other = AlphaSearch([0.1, 0.2])
    search = MethodSearch(SegTTT(scales=(0.5,)), {"psi": [0.5, 0.9], "num_steps": [0, 2]})
    expected = run(tmp_path / "whole", other, search, stage="validate")
    kept = stop_run(tmp_path / "cut", other, search, at=2, stage="validate")
    assert not (tmp_path / "cut" / "search.json").exists()
    rest, nothing = Stop(), Stop()
    assert run(tmp_path / "cut", other, search, rest, stage="validate") == expected
    assert sorted(kept + rest.names) == sorted(record["name"] for record in read_all(tmp_path / "whole"))
    assert read_search(tmp_path / "cut") == read_search(tmp_path / "whole")
    assert read_search(tmp_path / "cut")["images"] == 5 and len(search.miou) == 4
    assert run(tmp_path / "cut", other, search, nothing, stage="validate") == expected and nothing.names == []
    assert not other.miou and not any("alpha" in name for name in expected[1])


def test_a_search_over_online_tent_begins_anew_and_remembers_nothing(tmp_path: Path) -> None:
    search = MethodSearch(Tent(num_steps=1, episodic=False), {"lr": [0.001, 0.1]})
    module = make_module()  # one for all: what a search learned on it would still be there
    run(tmp_path / "whole", search, stage="validate", module=module)
    stop_run(tmp_path / "cut", search, at=2, stage="validate", module=module)
    stop = Stop()
    with pytest.warns(UserWarning, match="2 images are already scored, but MethodSearch KEEPS KNOWLEDGE"):
        run(tmp_path / "cut", search, stop, stage="validate", module=module)
    assert len(stop.names) == 5 and read_search(tmp_path / "cut") == read_search(tmp_path / "whole")


def test_data_that_cannot_leave_out_what_is_done_begin_anew(tmp_path: Path) -> None:
    twins = TargetsDataModule([FakeDataModule("twin", 2), FakeDataModule("twin", 2)])
    for number in range(2):
        stop = Stop()
        run(tmp_path / "twins", stop, data=twins)
        assert len(stop.names) == 4
        trainer = make_trainer(tmp_path, callbacks=[Results(str(tmp_path / "loaders"), report=False)])
        trainer.test(make_module(), dataloaders=FakeDataModule(length=3).test_dataloader(), verbose=False)
        assert read_results(tmp_path / "loaders")["data"] is None
        for name in ("twins", "loaders"):
            assert len(list((tmp_path / name).glob("records.*jsonl"))) == number + 1


def measure_memory() -> int:
    """Returns the memory that this process uses now, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured by Linux's /proc")
def test_a_run_over_a_thousand_images_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used, peaks = [], []

    class Memory(Callback):
        def on_test_batch_end(self, *hook: Any) -> None:
            if hook[4] % 100 == 99:
                used.append(measure_memory())

    def collect(records: Any, *args: Any) -> Any:
        def watch() -> Iterator[Any]:
            for number, record in enumerate(records):
                yield record
                if number % 500 == 499:
                    peaks.append(measure_memory())

        return collect_domains(watch(), *args)

    monkeypatch.setattr("callbacks.report.finish.collect_domains", collect)
    method = SegTTT(num_steps=1, scales=(0.5,), semantics="released")
    run(tmp_path / "out", method, Memory(), data=FakeDataModule("long", 1500, (16, 24)))
    assert len(used) == 15 and read_summary(tmp_path / "out")["domains"]["long"]["images"] == 1500
    allowed = 1e6  # the records of 1000 images, parsed, take 3 MB
    assert used[-1] - used[2] < allowed
    assert len(peaks) == 3 and peaks[-1] - peaks[0] < allowed
