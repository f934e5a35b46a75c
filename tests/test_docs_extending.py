"""The pages on how to add a data set, a method and a network, followed to the letter in a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.docs_commands import keep_setup, read_blocks, read_commands, shrink_data, shrink_network
from tests.fakes import draw_ids, draw_image, write_image
from tests.tiny import QUIET, ROOT

COPIED = ("main.py", "pyproject.toml", "callbacks", "datamodules", "lightning_modules", "experiments", "configs")
PROTOCOL = {"class_path": "datamodules.StreetScenesProtocol"}
SIZE = (64, 96)


class Checkout:
    """A copy of the project, as a reader has it, with the files that a page writes."""

    def __init__(self, folder: Path, page: str) -> None:
        self.folder = folder
        self.commands = [command for command in read_commands(ROOT / "docs" / page) if command.kind != "export"]
        skipped = shutil.ignore_patterns("__pycache__", "parity")
        for name in (*COPIED, "tests"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=skipped)
            else:
                shutil.copy(source, folder / name)
        for block in read_blocks(ROOT / "docs" / page):
            if block.language in ("python", "yaml"):
                assert block.file, f"{page}: it is not said which file the block of line {block.line} is"
                assert not (folder / block.file).exists(), f"{page}: {block.file} is there already"
                (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
                (folder / block.file).write_text(block.text, encoding="utf-8")

    def run(self, words: Sequence[str], fails: bool = False) -> str:
        environment = os.environ | {"SEGADAPT_DATA": str(self.folder / "data"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *words[1:]]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=280
        )
        assert (done.returncode != 0) == fails, f"{' '.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def read_results(self, folder: str) -> dict:
        return json.loads((self.folder / folder / "results.json").read_text())


def save_checkpoint(checkout: Checkout, words: Sequence[str], *more: str) -> None:
    """Trains what a page takes as given: `best.ckpt`."""
    setup = [word for word in keep_setup(words[3:]) if "my_town" not in word and word != "--data"]
    data = [] if any(word == "--config" for word in setup) else ["--data=StreetScenesProtocol"]
    tiny = [*shrink_data(PROTOCOL), *QUIET, "--trainer.max_epochs=1", "--trainer.logger=false", *more]
    checkout.run(["python", "main.py", "fit", *setup, *data, *tiny, "--trainer.default_root_dir=given"])
    shutil.copy(next((checkout.folder / "given").rglob("best.ckpt")), checkout.folder / "best.ckpt")


@pytest.mark.slow
def test_data_set(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, "add_data_set.md")
    for split, count in (("train", 200), ("val", 20)):
        for number in range(count):
            base = tmp_path / "data" / "my_town"
            key = f"{split}{number % 3}"
            write_image(base / "photos" / split / f"{number:04d}.jpg", draw_image(key, SIZE))
            write_image(base / "classes" / split / f"{number:04d}.png", draw_ids(key, range(7), SIZE))
    check, test = checkout.commands
    assert check.module == "experiments.check_data"
    report = checkout.run(check.words)
    assert "my_town" in report
    save_checkpoint(checkout, test.words)
    checkout.run([*test.words, *QUIET, "--trainer.logger=false", "--data.num_workers=0"])
    results = checkout.read_results("outputs/my_town")
    assert results["complete"] and results["domains"]["my_town"]["images"] == 20
    seen = {name for name, iou in results["domains"]["my_town"]["iou"].items() if iou is not None and not np.isnan(iou)}
    assert {"road", "sidewalk", "building", "vegetation", "sky", "car"} <= seen

    bad = tmp_path / "data" / "my_town" / "classes" / "val" / "0001.png"
    write_image(bad, np.full(SIZE, 9, dtype=np.uint8))
    again = [*test.words, *QUIET, "--trainer.logger=false", "--data.num_workers=0", "--results.overwrite=true"]
    assert "hold the ids 9, expected only 0 to 6" in re.sub(r"\s+", " ", checkout.run(again, fails=True))


@pytest.mark.slow
def test_method(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, "add_method.md")
    test, run = checkout.commands
    assert test.module == "pytest"
    assert "1 passed" in checkout.run([*test.words, "-p", "no:cacheprovider"])
    file = tmp_path / "callbacks" / "mirrored.py"
    right = file.read_text()
    write = "        next(network.parameters()).data.add_(1)\n"
    file.write_text(right.replace("        mirror =", f"{write}        mirror ="))
    assert "changed" in checkout.run([*test.words, "-p", "no:cacheprovider"], fails=True)  # the page's test means it
    file.write_text(right)

    save_checkpoint(checkout, run.words)
    checkout.run([*run.words, *shrink_data(PROTOCOL), *QUIET, "--trainer.logger=false"])
    results = checkout.read_results("outputs/mirrored")
    assert results["complete"] and results["method"]["name"] == "Mirrored" and results["method"]["weight"] == 0.3


@pytest.mark.slow
def test_network(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, "add_network.md")
    fit, test = checkout.commands
    assert shrink_network({"class_path": "lightning_modules.networks.plain.PlainNetwork"}) == []
    tiny = [*shrink_data(PROTOCOL), *QUIET, "--trainer.max_epochs=1"]
    checkout.run([*fit.words, *tiny])
    checkout.run([*test.words, *shrink_data(PROTOCOL), *QUIET, "--method.psi=0.1", "--method.num_steps=2"])
    results = checkout.read_results("outputs/plain")
    assert results["complete"] and results["method"]["name"] == "SegTTT"
    records = (tmp_path / "outputs" / "plain" / "records.jsonl").read_text().splitlines()
    assert {json.loads(record)["adaptation"]["steps"] for record in records} == {2}
