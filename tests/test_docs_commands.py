"""Every command of README and docs/ is parsed (quick) and run with tiny data and networks (slow)."""

import argparse
import contextlib
import importlib.util
import inspect
import io
import os
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import callbacks
import datamodules
import main as program
from lightning_modules import networks
from main import main
from tests.docs_commands import (
    NAMED,
    PAGES,
    TESTED,
    TINY,
    Command,
    drop_options,
    expand_make,
    keep_setup,
    load_printed,
    read_blocks,
    read_commands,
    read_inline,
    read_targets,
    shrink,
)
from tests.fakes import draw_ids, draw_image, write_image, write_vendors
from tests.tiny import EXPERIMENT, NO_LOGGER, QUIET, ROOT, arguments

COMMANDS = [command for page in PAGES for command in read_commands(page)]
UNIQUE = list({(command.kind, command.words): command for command in reversed(COMMANDS)}.values())[::-1]
OWN_PACKAGES = ("datamodules", "callbacks", "lightning_modules/networks")
SIZE = (64, 96)


def choose(kind: str) -> list[Any]:
    return [pytest.param(command, id=command.place) for command in UNIQUE if command.kind == kind]


def list_programs() -> list[Any]:
    """The programs of experiments/, called by themselves or by make."""
    commands = [command for command in COMMANDS if command.kind == "experiment"]
    commands += [program for command in COMMANDS if command.kind == "make" for program in expand_make(command)]
    return [
        pytest.param(command, id=f"{command.place}-{command.module}")
        for command in {command.words: command for command in reversed(commands)}.values()
    ]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the commands of the pages find what the pages say is there."""
    place = tmp_path_factory.mktemp("workshop")
    shutil.copytree(ROOT / "configs", place / "configs")
    for block in [block for page in PAGES for block in read_blocks(page)]:
        if block.file and not (ROOT / block.file).exists():
            (place / block.file).parent.mkdir(parents=True, exist_ok=True)
            (place / block.file).write_text(block.text, encoding="utf-8")
    make_data(place)
    packages = [importlib.import_module(name.replace("/", ".")) for name in OWN_PACKAGES]
    for name, package in zip(OWN_PACKAGES, packages, strict=True):
        package.__path__.append(str(place / name))
    before, data = Path.cwd(), os.environ.get("SEGADAPT_DATA")
    os.chdir(place)
    yield place
    os.chdir(before)
    for name, package in zip(OWN_PACKAGES, packages, strict=True):
        package.__path__.remove(str(place / name))
    assert os.environ.get("SEGADAPT_DATA") == data


@pytest.fixture
def vendors(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGADAPT_DATA", str(workshop / "data"))
    return workshop / "data"


def make_data(place: Path) -> None:
    """Writes the data sets that the pages speak of, a few small images each."""
    write_vendors(place / "data")
    for split in ("train", "val", "test"):
        for name in ("0001TP_006690", "Seq05VD_f00000"):
            image, ids = draw_image(f"{split}{name}", SIZE), draw_ids(name, range(12), SIZE)
            write_image(place / "CamVid" / split / f"{name}.png", image)
            write_image(place / "CamVid" / f"{split}annot" / f"{name}.png", ids)
            write_image(place / "data" / "my_town" / "photos" / split / f"{name}.jpg", image)
            write_image(place / "data" / "my_town" / "classes" / split / f"{name}.png", ids % 7)
    for name in ("a", "street/b"):
        write_image(place / "photos" / f"{name}.jpg", draw_image(name, SIZE))
    (place / "outputs" / "sweeps" / "alpha").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "method" / "iabn.yaml", place / "outputs" / "sweeps" / "alpha" / "best.yaml")


def settle(word: str, workshop: Path) -> str:
    """Puts the workshop in place of the reader's folders."""
    return re.sub(r"^(--data\.root=)?/data\b", lambda match: f"{match[1] or ''}{workshop / 'data'}", word)


def test_no_command_is_without_a_rule() -> None:
    forgotten = [f"{command.place}: {command.text}" for command in COMMANDS if not command.kind]
    assert not forgotten, "no rule of tests/docs_commands.py covers\n" + "\n".join(forgotten)
    assert len(COMMANDS) > 80


def test_every_page_has_its_commands_found() -> None:
    found = {command.path.name for command in COMMANDS}
    assert {"README.md", "index.md", "own_data.md", "many_images.md", "data.md", "performance.md"} <= found
    (four_gpus,) = [command for command in COMMANDS if "--nnodes=2" in command.text]
    assert four_gpus.words[:3] == ("python", "main.py", "test") and "--trainer.num_nodes=2" in four_gpus.words


def test_programs_that_are_named_exist() -> None:
    named = {name for page in PAGES for name in NAMED.findall(page.read_text(encoding="utf-8"))} - {"experiments.NAME"}
    assert len(named) > 8
    assert not [name for name in named if importlib.util.find_spec(name) is None]


def print_config(words: list[str]) -> dict[str, Any]:
    """Composes the config of a command line of main.py without running it."""
    output, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            main([*drop_options(words, "--print_config"), "--print_config"])
    except SystemExit as exit:
        assert exit.code == 0, errors.getvalue()
    return load_printed(output.getvalue())


def asks_for_help(words: tuple[str, ...]) -> bool:
    return any(re.match(r"--([\w.]+\.)?help\b", word) for word in words)


@pytest.mark.parametrize("command", choose("main"))
def test_command_line_of_main_is_understood(command: Command, workshop: Path, vendors: Path) -> None:
    words = [settle(word, workshop) for word in command.words[2:]]
    if not asks_for_help(command.words):
        assert print_config(words)["trainer"]
        return
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == 0
    assert "--" in output.getvalue()


class Understood(BaseException):
    """A program has read its arguments."""


def run_program(command: Command, more: list[str], code: int = 0) -> None:
    """Runs `python -m experiments.X`, which is to end with an exit code."""
    assert command.module
    before = sys.argv
    sys.argv = [command.module, *command.words[3:], *more]
    ended: Any = 0
    try:
        runpy.run_module(command.module, run_name="__main__", alter_sys=True)
    except SystemExit as exit:
        ended = exit.code or 0
    finally:
        sys.argv = before
    assert ended == code, f"{command.place}: {command.text} ended with {ended}"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", list_programs())
def test_arguments_of_a_program_are_understood(command: Command, workshop: Path, vendors: Path) -> None:
    read = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        read(parser, *args, **kwargs)
        raise Understood

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        if asks_for_help(command.words):
            run_program(command, [])
            return
        with pytest.raises(Understood):
            run_program(command, [])


@pytest.mark.parametrize("command", choose("make"))
def test_target_of_make_is_there_and_run(command: Command) -> None:
    targets, ci = read_targets(), (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for word in command.words[1:]:
        if "=" in word:
            name = word.partition("=")[0]
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert f"$({name})" in makefile or f"$(or $({name})" in makefile, f"{command.place}: make knows no {name}"
        else:
            assert word in targets, f"{command.place}: make has no target {word}"
            in_ci = re.search(rf"^make {word}\b", ci, re.MULTILINE)
            runs = expand_make(command)
            assert in_ci or runs or word == "docs", f"{command.place}: neither .ci/run nor a test runs make {word}"


@pytest.mark.parametrize("command", choose("export"))
def test_variable_means_something(command: Command) -> None:
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("datamodules", "experiments", "configs")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".yaml")
    )
    for word in command.words[1:]:
        assert word.partition("=")[0] in sources, f"{command.place}: nothing reads {word}"


@pytest.mark.parametrize("command", list_programs())
def test_program_is_run_by_a_test(command: Command) -> None:
    name = (command.module or "").removeprefix("experiments.")
    assert name in TINY or name in TESTED, f"{command.place}: no rule says how to run {command.text}"
    if name in TESTED and name != "real_photographs":
        source = (ROOT / "tests" / TESTED[name]).read_text(encoding="utf-8")
        assert re.search(rf"from experiments(\.{name}\b| import .*\b{name}\b)", source), f"{TESTED[name]}: not {name}"


# The rest is slow.


class Checkpoints:
    """A tiny checkpoint for each network and data that the commands name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[tuple[str, ...], Path] = {}

    def make(self, command: str, words: list[str]) -> Path:
        setup = keep_setup(words)
        tiny = shrink(print_config([command, *setup]))
        key = (command, *setup, *tiny)
        if key not in self.made:
            path = self.folder / f"{len(self.made)}.ckpt"
            place = [f"--results.folder={path.with_suffix('')}", f"--trainer.default_root_dir={path.with_suffix('')}"]
            main([command, *setup, *tiny, *place]).trainer.save_checkpoint(path)
            self.made[key] = path
        return self.made[key]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.mark.slow
@pytest.mark.parametrize("command", choose("main"))
def test_command_line_of_main_runs(
    command: Command, workshop: Path, vendors: Path, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    subcommand, *words = [settle(word, workshop) for word in command.words[2:]]
    if asks_for_help(command.words) or "--print_config" in words:
        return  # done above
    restored = words != drop_options(words, "--ckpt_path")
    words = drop_options(words, "--ckpt_path", "--results.folder", "--results.overwrite", "--results.selection")
    released = words != drop_options(words, "--model.released")
    words = drop_options(words, "--model.released")  # read in tests/lightning_modules/test_released.py
    tiny = shrink(print_config([subcommand, *words]))
    place = [f"--results.folder={tmp_path / 'results'}", f"--trainer.default_root_dir={tmp_path}"]
    if restored:
        place.append(f"--ckpt_path={checkpoints.make(subcommand, words)}")
        if subcommand == "fit":
            tiny += ["--trainer.max_epochs=2", "--trainer.max_steps=2"]
    cli = main([subcommand, *words, *tiny, *place, *(["--model.released=null"] if released else [])])
    if subcommand == "fit":
        assert cli.trainer.global_step >= 1
    elif subcommand == "predict":
        assert list((tmp_path / "results" / "labels").rglob("*.png"))
    else:
        assert "miou" in (tmp_path / "results" / "results.json").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(
    "command", [param for param in list_programs() if param.values[0].module.rpartition(".")[2] in TINY]
)
def test_program_runs(command: Command, workshop: Path, vendors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if asks_for_help(command.words):
        return
    shutil.copytree(ROOT / "docs", workshop / "docs", dirs_exist_ok=True)  # so that pages are written there
    name = (command.module or "").removeprefix("experiments.")
    # The trees here are smaller than the official data sets, which the check has to find; one's own have no such size.
    own = any(folder in command.text for folder in ("camvid", "photos"))
    run_program(command, TINY[name], code=1 if name == "check_data" and not own else 0)
    assert name != "check_data" or (workshop / "outputs" / "check_data.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_steps_work_one_after_the_other(
    page: str, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a reader types them: with the loggers on, and the checkpoint where the page says it is."""
    for name in ("configs", "photos"):
        (tmp_path / name).symlink_to(workshop / name)
    monkeypatch.chdir(tmp_path)
    steps = [command for command in read_commands(ROOT / page) if command.kind == "main"][:5]
    assert [step.words[2] for step in steps] == ["fit", "test", "test", "validate", "predict"]
    for step in steps:
        words = list(step.words[2:])
        whole = {*NO_LOGGER, "--trainer.max_steps=1"}  # an epoch, or there is no best checkpoint
        tiny = [argument for argument in shrink(print_config(words)) if argument not in whole]
        main([*words, *tiny])
    runs = tmp_path / "outputs" / "runs"
    assert (runs / "csv" / "version_0" / "checkpoints" / "best.ckpt").exists()
    assert list(runs.glob("wandb/offline-run-*"))
    assert (tmp_path / "outputs" / "seg_ttt" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{block.path.name}:{block.line}")
        for page in PAGES
        for block in read_blocks(page)
        if block.language == "python" and not block.file
    ],
)
def test_python_of_the_pages_runs(block: Any, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes import TinyNetwork, make_images  # what a reader brings along

    tiny = [*arguments(workshop / "python", "--data.repeats=1"), *QUIET]
    monkeypatch.setattr(program, "main", lambda words: main([*words, *tiny]))
    monkeypatch.setenv("SEGADAPT_DATA", str(workshop / "data"))
    names: dict[str, Any] = {"network": TinyNetwork(), "image": make_images(1)}
    exec(compile(block.text, f"{block.path.name}:{block.line}", "exec"), names)
    if "probabilities" in names:
        assert names["probabilities"].shape == (1, 5, 32, 48)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{block.path.name}:{block.line}")
        for page in PAGES
        for block in read_blocks(page)
        if block.language == "yaml"
    ],
)
def test_yaml_of_the_pages_is_that_of_the_repository(block: Any) -> None:
    content = yaml.safe_load(block.text)
    assert content
    if block.file and (ROOT / block.file).exists():
        assert content == yaml.safe_load((ROOT / block.file).read_text(encoding="utf-8"))
    assert EXPERIMENT.exists()


def list_arguments(classes: list[type]) -> set[str]:
    """The names of all arguments of classes and of those they derive from."""
    found = {base for cls in classes for base in cls.__mro__ if base is not object}
    return {name for cls in found for name in inspect.signature(cls.__init__).parameters} - {"self", "args", "kwargs"}


@pytest.fixture(scope="module")
def options() -> set[str]:
    """All options that there are: of main.py, with those of every method, data set and network, and of the programs."""
    output = io.StringIO()
    for subcommand in ("fit", "test", "predict"):
        with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
            main([subcommand, "--help"])
    found = set(re.findall(r"--[\w.]+", output.getvalue()))
    methods = [getattr(callbacks, name) for name in callbacks.__all__]
    found |= {f"--method.{name}" for name in list_arguments(methods)}
    found |= {f"--data.{name}" for name in list_arguments([getattr(datamodules, name) for name in datamodules.__all__])}
    found |= {
        f"--model.network.init_args.{name}" for name in list_arguments([getattr(networks, n) for n in networks.__all__])
    }
    for path in (ROOT / "experiments").rglob("*.py"):
        found |= set(re.findall(r'"(--[a-z][a-z-]*)"', path.read_text(encoding="utf-8")))
    return found


OF_OTHERS = {"--nodes", "--ntasks-per-node", "--trainer.callbacks+", "--print_config"}  # Slurm's, jsonargparse's


@pytest.mark.parametrize(
    "number, page, text",
    [
        pytest.param(number, page, text, id=f"{page.name}:{number}:{text[:30]}")
        for page in PAGES
        for number, text in read_inline(page)
        if text.startswith("--")
    ],
)
def test_option_named_in_the_text_exists(number: int, page: Path, text: str, options: set[str]) -> None:
    for name in re.findall(r"(?:^| )(--[\w.+-]+)", text):
        inner = re.sub(r"^--data\.(source|development)\.init_args\.", "--data.", name)
        if inner in OF_OTHERS or re.match(r"--(data|method|model\.network)\.help$|--trainer\.callbacks\.", inner):
            continue
        if re.search(r"ARGUMENT|NAME", inner):
            continue
        assert inner in options, f"{page.name}:{number}: nothing knows {name} ({text})"
