"""The pages on how to add a data set, a method and a network: their code works as it stands.

Their commands are parsed and run with those of the other pages, in test_docs_commands.py.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from callbacks import IaBN, SegTTT
from tests.docs_commands import read_blocks
from tests.fakes import Snapshot, make_images
from tests.tiny import ROOT
from tests.trees import draw_ids, draw_image, write_image

SIZE = (64, 96)
TEST = "test_mirrored_predicts_and_leaves_the_network_as_it_was"


def load_block(page: str, file: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a module of a page's block."""
    (block,) = [block for block in read_blocks(ROOT / "docs" / page) if block.file == file]
    name = file.removesuffix(".py").replace("/", ".")
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(block.text, file, "exec"), module.__dict__)
    return module


def test_method_of_the_page_leaves_the_network_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    load_block("add_method.md", "callbacks/mirrored.py", monkeypatch)
    getattr(load_block("add_method.md", "tests/callbacks/test_mirrored.py", monkeypatch), TEST)()


def test_network_of_the_page_suits_the_methods(monkeypatch: pytest.MonkeyPatch) -> None:
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
