import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image
from wandb.proto import wandb_internal_pb2

from callbacks.report.dashboard import log_dashboard
from callbacks.report.gallery import locate_pictures
from callbacks.report.run_data import read_run
from tests.fake_results import CLASSES, make_search, write_results
from tests.processes import wait_for

BLOCK = 32768  # bytes of LevelDB's log format, in which offline runs are written
BLOCK_HEADER, FILE_HEADER = 7, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_messages(path: Path) -> Iterator[bytes]:
    """Yields the messages in the file of an offline run, put together from their parts."""
    data, place, message = path.read_bytes(), FILE_HEADER, b""
    assert data[:4] == b":W&B"
    while place + BLOCK_HEADER <= len(data):
        if BLOCK - place % BLOCK < BLOCK_HEADER:  # the rest of a block, too small for a header
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + BLOCK_HEADER])
        if place + BLOCK_HEADER + length > len(data):
            return  # it is being written
        message += data[place + BLOCK_HEADER : place + BLOCK_HEADER + length]
        place += BLOCK_HEADER + length
        if kind in (FULL, LAST):
            yield message
            message = b""


def has_ended(path: Path) -> bool:
    """Whether the record that ends a run is there: on a busy machine W&B writes on when it says that it is done."""
    records = (wandb_internal_pb2.Record.FromString(message) for message in read_messages(path))
    return path.stat().st_size > FILE_HEADER and any(record.WhichOneof("record_type") == "exit" for record in records)


class Logged:
    """What an offline run has written: the entries of its history, its summary, its config, its files and tables.

    Pictures in tables lie in artifacts: `tables` has their files by their places in there, for each table.
    """

    def __init__(self, folder: Path) -> None:
        self.history: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        (path,) = folder.rglob("*.wandb")
        self.files = path.parent / "files"
        self.tables: dict[str, dict[str, Path]] = {}
        wait_for(lambda: has_ended(path), 30)
        for message in read_messages(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            if record.artifact.type == "run_table":
                places = {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
                (table,) = [place for place in places if place.endswith(".table.json")]
                self.tables[table.removesuffix(".table.json")] = places
            for items, found in (
                (record.history.item, self.history),
                (record.summary.update, self.summary),
                (record.config.update, self.config),
                (record.run.config.update, self.config),
            ):
                for item in items:
                    *outer, last = item.nested_key or [item.key]
                    inner = found
                    for key in outer:
                        inner = inner.setdefault(key, {})
                    inner[last] = json.loads(item.value_json)

    def read_table(self, key: str) -> list[dict[Any, Any]]:
        """Returns the lines of a table by column."""
        assert self.history[key]["_type"] == "table-file"
        table = json.loads(self.tables[key][f"{key}.table.json"].read_text(encoding="utf-8"))
        return [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Logged]:
    def write(folder: Path, **kwargs: Any) -> Logged:
        place = tmp_path / "logged"
        place.mkdir()
        run = wandb.init(project="segadapt", mode="offline", dir=str(place), reinit="finish_previous")
        log_dashboard(run, folder, **kwargs)
        run.finish()
        return Logged(place)

    return write


def test_run_shows_scores_charts_and_masks(tmp_path: Path, log: Callable[..., Logged]) -> None:
    selection = {"file": "selection.yaml", "sha256": "ab12"}
    folder = write_results(tmp_path / "results", images=8, selection=selection)
    (folder / "search.json").write_text(json.dumps(make_search("psi")), encoding="utf-8")
    logged, data = log(folder, class_names=CLASSES), read_run(folder)
    summary = json.loads((folder / "results.json").read_text(encoding="utf-8"))

    for domain in ("near", "far"):
        for key in ("miou", "ece", "classwise_ece", "accuracy", "ms_per_image"):
            assert logged.summary[f"results/{domain}/{key}"] == pytest.approx(summary["domains"][domain][key])
        baseline = data.domains[domain].baseline
        assert baseline is not None
        assert logged.summary[f"results/{domain}/baseline_miou"] == pytest.approx(baseline["miou"])
        gain = summary["domains"][domain]["miou"] - baseline["miou"]
        assert logged.summary[f"results/{domain}/gain"] == pytest.approx(gain)
        assert logged.summary[f"results/{domain}/iou/car"] == pytest.approx(summary["domains"][domain]["iou"]["car"])
        assert f"results/{domain}/iou/rider" not in logged.summary  # absent
    assert logged.summary["results/mean/miou"] == pytest.approx(summary["mean"]["miou"])
    assert logged.config["provenance"]["commit"] == "0123456789abcdef"
    assert logged.config["provenance"]["selection"] == selection
    assert logged.config["provenance"]["method"]["psi"] == 0.7

    lines = logged.read_table("results/class_iou")
    assert len(lines) == 2 * len(CLASSES)
    sky = next(line for line in lines if (line["domain"], line["class"]) == ("far", "sky"))
    assert sky["Seg-TTT"] == pytest.approx(summary["domains"]["far"]["iou"]["sky"])
    assert [line["Seg-TTT"] for line in lines if line["class"] == "rider"] == [None, None]
    assert len(logged.read_table("results/reliability")) == 2 * 15

    for domain in ("near", "far"):
        for key, values in (
            (f"results/difference/{domain}", data.domains[domain].differences),
            (f"results/milliseconds/{domain}", [row.milliseconds for row in data.domains[domain].rows]),
        ):
            histogram = logged.history[key]
            assert histogram["_type"] == "histogram" and sum(histogram["values"]) == len(values) == 8
            assert histogram["bins"][0] == pytest.approx(min(values))
            assert histogram["bins"][-1] == pytest.approx(max(values))
    for key in ("miou", "class_iou", "difference", "milliseconds", "reliability", "loss_per_step", "search"):
        with Image.open(logged.files / logged.history[f"results/{key}_figure"]["path"]) as picture:
            assert min(picture.size) > 100
    losses = logged.read_table("results/loss_per_step_table")
    means = [sum(1.0 / (step + 1) + 0.01 * number for number in range(8)) / 8 for step in range(3)]
    near = [line["lineVal"] for line in losses if line["lineKey"] == "near"]
    assert near == pytest.approx(means)
    search = logged.read_table("results/search")
    assert [line["psi"] for line in search] == pytest.approx([0.0, 0.1, 0.2])
    assert [line["mean IoU (%)"] for line in search] == [40.0, 41.0, 42.0]
    assert "results/search_line_table" in logged.history and "results/class_iou_bars_table" in logged.history

    rows = {(row.domain, row.name): row for domain in data.domains.values() for row in domain.rows}
    images = logged.read_table("results/images")
    assert {(line["domain"], line["name"]) for line in images} == {key for key in rows if data.pictures(rows[key])}
    labels = {**dict(enumerate(CLASSES)), 255: "ignored"}
    for line in images:
        key = (line["domain"], line["name"])
        assert line["delta"] == pytest.approx(rows[key].difference)
        assert line["mIoU Seg-TTT"] == pytest.approx(rows[key].miou)
        assert line["mIoU t-BN"] == pytest.approx(rows[key].baseline_miou)
        paths, places = locate_pictures(folder, *key), logged.tables["results/images"]
        assert line["image"]["_type"] == "image-file" and "masks" not in line["image"]
        assert places[line["image"]["path"]].read_bytes() == paths["image"].read_bytes()
        for column, layer in (("truth", "truth"), ("t-BN", "baseline"), ("Seg-TTT", "prediction")):
            ((title, mask),) = line[column]["masks"].items()
            assert title == column and line[column]["path"] == line["image"]["path"]
            check_mask(places[mask["path"]], paths[layer])
            classes = json.loads(places[line[column]["classes"]["path"]].read_text(encoding="utf-8"))
            assert {item["id"]: item["name"] for item in classes["class_set"]} == labels
    for name, place in (("best", 0), ("worst", 1)):
        names = [(line["domain"], line["name"]) for line in logged.read_table(f"results/{name}")]
        expected = [(row.domain, row.name) for domain in data.domains.values() for row in domain.rank()[place]]
        assert names == expected and len(names) == 6

    shown = logged.history["results/pictures/far"]
    expected_names = [row.name for row in data.domains["far"].rows if data.pictures(row)]
    assert shown["captions"] == expected_names and len(expected_names) > 6
    for name, masks in zip(expected_names, shown["all_masks"], strict=True):
        paths = locate_pictures(folder, "far", name)
        for title, layer in (("truth", "truth"), ("t-BN", "baseline"), ("Seg-TTT", "prediction")):
            check_mask(logged.files / masks[title]["path"], paths[layer])


def check_mask(written: Path, ours: Path) -> None:
    with Image.open(written) as one, Image.open(ours) as other:
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_results_without_method_baseline_losses_and_pictures_are_shown_too(
    tmp_path: Path, log: Callable[..., Logged]
) -> None:
    folder = write_results(
        tmp_path / "results", images=2, method=None, baseline=False, losses=False, first=0, manifest=False
    )
    logged = log(folder)
    assert "results/near/miou" in logged.summary and "results/near/gain" not in logged.summary
    assert {"results/class_iou", "results/reliability", "results/milliseconds/far"} <= logged.history.keys()
    assert not {key for key in logged.history if "difference" in key or "loss" in key or "images" in key}
    assert set(logged.read_table("results/class_iou")[0]) == {"domain", "class", "t-BN"}


def test_summary_alone_is_shown(tmp_path: Path, log: Callable[..., Logged]) -> None:
    folder = write_results(tmp_path / "results", images=2)
    (folder / "records.jsonl").unlink()
    logged = log(folder)
    assert not math.isnan(logged.summary["results/far/miou"]) and "results/class_iou" in logged.history


def test_other_folder_is_an_error(tmp_path: Path, log: Callable[..., Logged]) -> None:
    with pytest.raises(FileNotFoundError, match="expected the folder of a test or validate run"):
        log(tmp_path / "nowhere")
