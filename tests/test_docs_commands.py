"""Every command of README and docs/ is parsed; the first steps and the code on how to add a part are run.

What the commands choose is run elsewhere: every preset in test_configs.py, every program in a test of its own.
"""

import argparse
import contextlib
import importlib.util
import inspect
import io
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

import callbacks
import datamodules
import main as program
from callbacks import IaBN, SegTTT
from lightning_modules import networks, training
from main import main
from tests.docs_commands import MAKEFILE, PAGES, TARGETS, Block, Command, read_blocks, read_commands, read_inline
from tests.fakes import TinyNetwork, make_images, unchanged
from tests.tiny import DATA, QUIET, ROOT, arguments
from tests.trees import draw_ids, draw_image, write_image

BLOCKS = [block for page in PAGES for block in read_blocks(page)]
COMMANDS = [command for page in PAGES for command in read_commands(page)]
NAMED = re.compile(r"python -m (experiments\.\w+)")


def list_commands() -> list[Any]:
    """Every command once: those of the pages that can be run, and those that a target of make runs."""
    expanded = (called for command in COMMANDS for called in (command, *command.expand_make()))
    first = {tuple(command.words): command for command in expanded if not command.exception}
    return [pytest.param(command, id=f"{command.place} {' '.join(command.words[:3])}") for command in first.values()]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the commands of the pages find what the pages say is there."""
    place = tmp_path_factory.mktemp("workshop")
    shutil.copytree(ROOT / "configs", place / "configs")
    for block in BLOCKS:
        if block.file and not (ROOT / block.file).exists():
            (place / block.file).parent.mkdir(parents=True, exist_ok=True)
            (place / block.file).write_text(block.text, encoding="utf-8")
    for name in ("a", "street/b"):
        write_image(place / "photos" / f"{name}.jpg", draw_image(name, (128, 192)))
    (place / "outputs" / "sweeps" / "alpha").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "method" / "iabn.yaml", place / "outputs" / "sweeps" / "alpha" / "best.yaml")
    with pytest.MonkeyPatch.context() as patch:
        for package in (datamodules, callbacks, networks):
            patch.setattr(package, "__path__", [*package.__path__, str(place / package.__name__.replace(".", "/"))])
        patch.setenv("SEGADAPT_DATA", str(place / "data"))
        patch.chdir(place)
        yield place


def test_programs_that_are_named_exist() -> None:
    assert len(COMMANDS) > 80
    named = {name for page in PAGES for name in NAMED.findall(page.read_text(encoding="utf-8"))} - {"experiments.NAME"}
    assert len(named) > 8
    assert not [name for name in named if importlib.util.find_spec(name) is None]


UNDERSTOOD = 77  # the exit code of a program that has read its arguments here


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", list_commands())
def test_a_command_is_understood(
    command: Command, workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command.words
    asks_for_help = any(re.match(r"--([\w.]+\.)?help\b", word) for word in words)
    if words[:2] == ["python", "main.py"]:
        asked = [word for word in words[2:] if word != "--print_config"]
        with pytest.raises(SystemExit) as ended:
            main(asked if asks_for_help else [*asked, "--print_config"])
        output, errors = capsys.readouterr()
        assert ended.value.code == 0, errors
        assert "--" in output if asks_for_help else yaml.safe_load(output)["trainer"]
    elif words[:2] == ["python", "-m"] and words[2].startswith("experiments."):
        read = argparse.ArgumentParser.parse_args

        def stop(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
            read(parser, *args, **kwargs)
            sys.exit(UNDERSTOOD)

        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
        monkeypatch.setattr(sys, "argv", words[2:])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        assert ended.value.code == (0 if asks_for_help else UNDERSTOOD)
    elif words[0] == "make":
        ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
        for word in words[1:]:
            name, assigned, _ = word.partition("=")
            if assigned:
                assert re.search(rf"\$\((or \$\()?{name}\)", MAKEFILE), f"make knows no {name}"
            else:
                assert word in TARGETS, f"make has no target {word}"
                run = re.search(rf"^make {word}\b", ci, re.MULTILINE) or command.expand_make() or word == "docs"
                assert run, f"neither .ci/run nor a test runs make {word}"
    elif words[0] == "export":
        paths = [path for folder in ("datamodules", "experiments", "configs") for path in (ROOT / folder).rglob("*.*")]
        sources = "".join(path.read_text(encoding="utf-8") for path in paths if path.suffix in (".py", ".yaml"))
        assert all(word.partition("=")[0] in sources for word in words[1:]), "nothing reads it"
    else:
        pytest.fail(f"{command.place}: nothing here reads {command.text}")


@pytest.mark.slow
def test_the_first_steps_work(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader types them: with the loggers on, and the checkpoint where the page says it is."""
    for name in ("configs", "photos"):
        (tmp_path / name).symlink_to(workshop / name)
    monkeypatch.chdir(tmp_path)
    steps = [command for command in read_commands(ROOT / "docs" / "index.md") if "main.py" in command.words][:5]
    assert [step.words[2] for step in steps] == ["fit", "test", "test", "validate", "predict"]
    scenes = [*DATA, "--data.num_val=1", "--data.num_test=1", "--data.repeats=1"]
    for step in steps:
        data = ["--data.num_workers=0"] if "--data" in step.words else scenes  # of another data set
        main([*step.words[2:], *QUIET, "--trainer.max_epochs=1", *data])
    runs = tmp_path / "outputs" / "runs"
    assert (runs / "csv" / "version_0" / "checkpoints" / "best.ckpt").exists()
    assert list(runs.glob("wandb/offline-run-*"))
    assert (tmp_path / "outputs" / "seg_ttt" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "python" and not one.file], ids=str)
def test_python_of_the_pages_runs(block: Block, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = [*arguments(workshop / "python", "--data.repeats=1"), *QUIET]
    monkeypatch.setattr(program, "main", lambda words: main([*words, *tiny]))
    names: dict[str, Any] = {"network": TinyNetwork(), "image": make_images(1)}  # what a reader brings along
    exec(compile(block.text, str(block), "exec"), names)
    if "probabilities" in names:
        assert names["probabilities"].shape == (1, 5, 32, 48)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_yaml_of_the_pages_is_that_of_the_repository(block: Block) -> None:
    content = yaml.safe_load(block.text)
    assert content
    if block.file and (ROOT / block.file).exists():
        assert content == yaml.safe_load((ROOT / block.file).read_text(encoding="utf-8"))


def load_block(page: str, file: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a module of a page's block."""
    (block,) = [block for block in BLOCKS if block.path.name == page and block.file == file]
    name = file.removesuffix(".py").replace("/", ".")
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(block.text, file, "exec"), module.__dict__)
    return module


def test_method_of_the_page_leaves_the_network_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    load_block("add_method.md", "callbacks/mirrored.py", monkeypatch)
    test = load_block("add_method.md", "tests/callbacks/test_mirrored.py", monkeypatch)
    test.test_mirrored_predicts_and_leaves_the_network_as_it_was()


def test_network_of_the_page_suits_the_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_block("add_network.md", "lightning_modules/networks/plain.py", monkeypatch).PlainNetwork(5, width=8)
    with unchanged(network.eval()):
        for method in (IaBN(0.5), SegTTT(num_steps=1, psi=0.1)):
            assert method.predict(network, make_images(1)).shape == (1, 5, 32, 48)


def test_data_set_of_the_page_says_what_it_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "val" / "1.jpg", draw_image("a", (64, 96)))
    write_image(tmp_path / "classes" / "val" / "1.png", draw_ids("a", range(7), (64, 96)))
    data = load_block("add_data_set.md", "datamodules/my_town.py", monkeypatch).MyTownDataModule(root=str(tmp_path))
    with pytest.warns(UserWarning, match="the official number is 20"):
        dataset = data.make_dataset("val", data.evaluation_transform)
    assert sorted(np.unique(dataset[0]["mask"]).tolist()) == [0, 1, 2, 8, 10, 13, 255]


@pytest.fixture(scope="module")
def options() -> set[str]:
    """All options that there are: of main.py, with those of every method, data set and network, and of the programs."""
    output = io.StringIO()
    for subcommand in ("fit", "test", "predict"):
        with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
            main([subcommand, "--help"])
    found = set(re.findall(r"--[\w.]+", output.getvalue()))
    prefixes = ("--method", "--data", "--model.network.init_args", "--training")
    for prefix, package in zip(prefixes, (callbacks, datamodules, networks, training), strict=True):
        bases = {base for name in package.__all__ for base in getattr(package, name).__mro__ if base is not object}
        found |= {f"{prefix}.{name}" for base in bases for name in inspect.signature(base.__init__).parameters}
    for path in (ROOT / "experiments").rglob("*.py"):
        found |= set(re.findall(r'"(--[a-z][a-z-]*)"', path.read_text(encoding="utf-8")))
    return found


# Slurm's, jsonargparse's, and ways to write an option.
OF_OTHERS = re.compile(
    r"--(nodes|ntasks-per-node|print_config|trainer\.callbacks\+?(\..*)?|(data|method|training|model\.network)\.help)"
    r"|.*(ARGUMENT|NAME).*"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_named_in_the_text_exist(page: Path, options: set[str]) -> None:
    for number, text in read_inline(page):
        for name in re.findall(r"(?:^| )(--[\w.+-]+)", text if text.startswith("--") else ""):
            inner = re.sub(r"^--data\.(source|development)\.init_args\.", "--data.", name)
            known = inner in options or OF_OTHERS.fullmatch(inner)
            assert known, f"{page.name}:{number}: nothing knows {name} ({text})"
