"""The folder that predictions are written to."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from callbacks.report.panels import encode_png
from callbacks.run.prediction_folder import WAITING, PredictionFolder, Writers
from callbacks.run.records import write_file


def test_lines_that_a_kill_cut_off_and_those_of_other_processes_are_merged(tmp_path: Path) -> None:
    lines = {
        "predictions.jsonl": '{"domain": "d", "name": "b", "n": 1}\n{"domain": "d", "na',
        "predictions.rank1.jsonl": '{"domain": "d", "name": "a", "n": 2}\n{"domain": "d", "name": "b", "n": 3}\n',
    }
    for name, text in lines.items():
        (tmp_path / name).write_text(text)
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
