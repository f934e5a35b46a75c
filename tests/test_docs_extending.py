"""The pages on how to add a data set, a method and a network, followed to the letter in a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.docs_commands import Block, keep_setup, read_blocks, read_commands, shrink_data
from tests.fakes import draw_ids, draw_image, write_image
from tests.tiny import QUIET, ROOT

COPIED = [
    "main.py",
    "pyproject.toml",
    "configs",
    "callbacks",
    "datamodules",
    "lightning_modules",
    "experiments",
    "tests",
]
TINY = [*shrink_data({"class_path": "datamodules.StreetScenesProtocol"}), *QUIET]
NO_LOGGER = "--trainer.logger=false"
SIZE = (64, 96)
# Runs several commands in one process, as importing takes longer than anything they do; prints the exit code of each.
DRIVER = """
import json, runpy, shutil, sys
from pathlib import Path
for words in json.loads(sys.argv[1]):
    sys.argv, code = words[2:] if words[1] == "-m" else words[1:], 0
    try:
        if words[0] == "keep":
            shutil.copy(next(Path(words[1]).rglob("best.ckpt")), "best.ckpt")
        elif words[1:3] == ["-m", "pytest"]:
            import pytest
            code = int(pytest.main([*words[3:], "-q", "-p", "no:cacheprovider", "--rootdir=."]))
        elif words[1] == "-m":
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[1], run_name="__main__")
    except SystemExit as exit:
        code = exit.code or 0
    print(f"<<{code}>>", flush=True)
"""


class Checkout:
    """A copy of the project, as a reader has it, with the files that a page writes."""

    def __init__(self, folder: Path, page: str) -> None:
        self.folder = folder
        self.commands = [command for command in read_commands(ROOT / "docs" / page) if command.kind != "export"]
        for name in COPIED:
            if (ROOT / name).is_dir():
                skipped = shutil.ignore_patterns("__pycache__", "parity")
                shutil.copytree(ROOT / name, folder / name, ignore=skipped)
            else:
                shutil.copy(ROOT / name, folder / name)
        for block in read_blocks(ROOT / "docs" / page):
            if block.language in ("python", "yaml"):
                assert block.file, f"{page}: it is not said which file the block of line {block.line} is"
                assert not (folder / block.file).exists(), f"{page}: {block.file} is there already"
                (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
                (folder / block.file).write_text(block.text, encoding="utf-8")

    def run(self, *commands: Sequence[str]) -> list[str]:
        """Runs commands one after the other; returns what each printed, with its exit code or its error at the end."""
        environment = os.environ | {"SEGADAPT_DATA": str(self.folder / "data"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps([list(words) for words in commands])],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:]
        return re.findall(r".*?<<.*?>>", done.stdout, re.DOTALL)

    def train(self, words: Sequence[str]) -> list[list[str]]:
        """Returns the commands that train what a page takes as given: `best.ckpt`."""
        setup = [word for word in keep_setup(words[3:]) if "my_town" not in word and word != "--data"]
        data = [] if "--config" in setup else ["--data=StreetScenesProtocol"]
        place = ["--trainer.max_epochs=1", NO_LOGGER, "--trainer.default_root_dir=given"]
        return [["python", "main.py", "fit", *setup, *data, *TINY, *place], ["keep", "given"]]

    def read_results(self, folder: str) -> dict:
        return json.loads((self.folder / folder / "results.json").read_text())


def check_codes(printed: list[str], count: int) -> None:
    assert [text.rpartition("<<")[2] for text in printed] == ["0>>"] * count, "\n".join(printed)[-4000:]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_data_set(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, "add_data_set.md")
    town = tmp_path / "data" / "my_town"
    for split, count in (("train", 200), ("val", 20)):
        for number in range(count):
            key = f"{split}{number % 3}"
            write_image(town / "photos" / split / f"{number:04d}.jpg", draw_image(key, SIZE))
            write_image(town / "classes" / split / f"{number:04d}.png", draw_ids(key, range(7), SIZE))
    write_image(tmp_path / "spoilt" / "my_town" / "photos" / "val" / "1.jpg", draw_image("a", SIZE))
    write_image(tmp_path / "spoilt" / "my_town" / "classes" / "val" / "1.png", np.full(SIZE, 9, dtype=np.uint8))
    check, test = checkout.commands
    tiny = [*test.words, *QUIET, NO_LOGGER, "--data.num_workers=0"]
    spoilt = [*tiny, f"--data.root={tmp_path / 'spoilt'}", "--results.folder=outputs/spoilt"]
    *printed, last = checkout.run(check.words, *checkout.train(test.words), tiny, spoilt)
    check_codes(printed, 4)
    assert "my_town" in printed[0]
    assert "hold the ids 9, expected only 0-6" in re.sub(r"\s+", " ", last) and "<<0>>" not in last
    results = checkout.read_results("outputs/my_town")
    assert results["complete"] and results["domains"]["my_town"]["images"] == 20
    seen = {name for name, iou in results["domains"]["my_town"]["iou"].items() if iou is not None and not np.isnan(iou)}
    assert {"road", "sidewalk", "building", "vegetation", "sky", "car"} <= seen


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_method(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, "add_method.md")
    test, run = checkout.commands
    assert test.module == "pytest"
    printed = checkout.run(test.words, *checkout.train(run.words), [*run.words, *TINY, NO_LOGGER])
    check_codes(printed, 4)
    assert "1 passed" in printed[0]
    results = checkout.read_results("outputs/mirrored")
    assert results["complete"] and results["method"] == {"name": "Mirrored", "weight": 0.3}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_network(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, "add_network.md")
    fit, test = checkout.commands
    steps = ["--method.psi=0.1", "--method.num_steps=2"]
    check_codes(checkout.run([*fit.words, *TINY, "--trainer.max_epochs=1"], [*test.words, *TINY, *steps]), 2)
    results = checkout.read_results("outputs/plain")
    assert results["complete"] and results["method"]["name"] == "SegTTT"
    records = (tmp_path / "outputs" / "plain" / "records.jsonl").read_text().splitlines()
    assert {json.loads(record)["adaptation"]["steps"] for record in records} == {2}


# Quick: the code of the pages alone.


def load_block(page: str, file: str, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str] = ("", "")) -> Any:
    """Makes a module of a page's block."""
    (block,) = [block for block in read_blocks(ROOT / "docs" / page) if block.file == file]
    assert isinstance(block, Block) and change[0] in block.text
    name = file.removesuffix(".py").replace("/", ".")
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(block.text.replace(*change), file, "exec"), module.__dict__)
    return module


def test_method_of_the_page_leaves_the_network_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    load_block("add_method.md", "callbacks/mirrored.py", monkeypatch)
    test = load_block("add_method.md", "tests/callbacks/test_mirrored.py", monkeypatch)
    test.test_mirrored_predicts_and_leaves_the_network_as_it_was()


def test_test_of_the_page_finds_a_method_that_writes_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "        plain = predict"
    write = f"        next(network.parameters()).data.add_(1)\n{line}"
    load_block("add_method.md", "callbacks/mirrored.py", monkeypatch, (line, write))
    test = load_block("add_method.md", "tests/callbacks/test_mirrored.py", monkeypatch)
    with pytest.raises(AssertionError, match="changed"):
        test.test_mirrored_predicts_and_leaves_the_network_as_it_was()


def test_network_of_the_page_suits_the_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    from callbacks import IaBN, SegTTT
    from tests.fakes import Snapshot, make_images

    network = load_block("add_network.md", "lightning_modules/networks/plain.py", monkeypatch).PlainNetwork(5, width=8)
    network.eval()
    before = Snapshot(network)
    for method in (IaBN(0.5), SegTTT(num_steps=1, psi=0.1)):
        assert method.predict(network, make_images(1)).shape == (1, 5, 32, 48)
    before.check(network)


def test_data_set_of_the_page_says_what_it_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "val" / "1.jpg", draw_image("a", SIZE))
    write_image(tmp_path / "classes" / "val" / "1.png", draw_ids("a", range(7), SIZE))
    data = load_block("add_data_set.md", "datamodules/my_town.py", monkeypatch).MyTownDataModule(root=str(tmp_path))
    with pytest.warns(UserWarning, match="the official number is 20"):
        dataset = data.make_dataset("val", data.evaluation_transform)
    assert sorted(np.unique(dataset[0]["mask"]).tolist()) == [0, 1, 2, 8, 10, 13, 255]
