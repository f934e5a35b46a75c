"""Finds the commands of README and docs/, and makes tiny ones of them.

A block without a language, or with `bash`, is shell. Every command in it has to be covered by a rule: a call of
main.py, of a program in experiments/, of pytest, a target of the Makefile, or one of the few in EXCEPTIONS, each with
its reason.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.tiny import DATA, NO_LOGGER, QUIET, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)(`{3,})(\S*)\s*$")
FILE_OF_BLOCK = re.compile(r"^# ((?:datamodules|callbacks|lightning_modules|configs|tests)/[\w/.]+)$")
FILE_BEFORE_BLOCK = re.compile(r"`([\w/]+\.ya?ml)`:$")
NAMED = re.compile(r"python -m (experiments\.\w+)")
INLINE = re.compile(r"(?<!`)`((?:python |make |--)[^`]+)`(?!`)")
PLACEHOLDER = re.compile(r" \.\.\.|\b(NAME|TARGET|ARGUMENT|VALUE|CLASS)\b")  # a way to write commands, not one of them

# Commands that cannot be run by a test, and why. Everything else has to be.
EXCEPTIONS = {
    r"source \.venv/bin/activate": "changes the reader's shell",
    r"\.venv/bin/pre-commit install": "writes into .git of this checkout",
    r"(python -m )?pip install .+": "would change the environment of the tests; .ci/run installs by `make setup`",
    r"bash \.ci/run": "runs these tests",
    r"cd /path/to/segadapt": "the reader's own path",
    r"for gpu in 0 1 2 3; do CUDA_VISIBLE_DEVICES=\$gpu wandb agent .+ & done; wait": "needs an account",
    r"for i in 1 2 3; do sbatch --dependency=singleton job\.sbatch; done": "needs Slurm",
    r"wandb (login|sync|sweep|agent)( .+)?": "needs an account; what an agent runs is tested in test_sweep.py",
    r"make docs-serve": "serves until it is stopped; `make docs` builds the same pages",
    r"make format": "rewrites the checkout",
    r"make lock": "needs a network, and rewrites constraints.txt",
    r"python -m pytest -m cuda": "is `make test` on a machine with a GPU",
}
# Programs whose run takes minutes even when it is tiny: the test that runs them.
TESTED = {
    "benchmark": "test_benchmark.py",
    "comparison": "test_comparison.py",
    "demo": "test_demo.py",
    "describe": "test_situations.py",
    "gpu_check": "test_gpu_check.py",
    "real_photographs": "test_configs.py",  # its experiment, configs/experiment/camvid.yaml
    "sweep": "test_sweep.py",
    "tables": "test_tables.py",
    "protocol": "test_protocol.py",
    "report": "callbacks/test_report.py",
    "tradeoffs": "test_tradeoffs.py",
}
# The others, with what makes them tiny.
TINY = {
    "check_data": ["--quick", "--threads", "1"],
    "contact_sheets": ["--rows", "1", "--count", "1", "--height", "64", "--width", "128", "--folder", "sheets"],
    "list_presets": [],
}
WIDE = {"DeepLabV1", "DeepLabV3Plus", "FCN", "FCN8s"}  # networks that an argument `width` makes small


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is that of its first line, `before` the last line of text above."""

    path: Path
    line: int
    language: str
    text: str
    before: str

    @property
    def file(self) -> str | None:
        """The file that the page says the block is, if it says so."""
        match = FILE_OF_BLOCK.match(self.text.splitlines()[0]) if self.text.strip() else None
        match = match or (FILE_BEFORE_BLOCK.search(self.before) if self.language == "yaml" else None)
        return match[1] if match else None


@dataclass(frozen=True)
class Command:
    """A command of a page."""

    path: Path
    line: int
    text: str
    words: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    @property
    def exception(self) -> str | None:
        """Why it is not run, if it is not."""
        text = " ".join(self.text.split())
        return next((reason for pattern, reason in EXCEPTIONS.items() if re.fullmatch(pattern, text)), None)

    @property
    def module(self) -> str | None:
        """The X of `python -m X`."""
        return self.words[2] if self.words[:2] == ("python", "-m") and len(self.words) > 2 else None

    @property
    def kind(self) -> str:
        """Which rule covers it; empty if none does."""
        if self.exception:
            return "exception"
        if self.words[:2] == ("python", "main.py"):
            return "main"
        if self.module and self.module.startswith("experiments."):
            return "experiment"
        if self.module == "pytest":
            return "pytest"
        return self.words[0] if self.words[0] in ("make", "export") else ""


def read_blocks(path: Path) -> list[Block]:
    """Reads the fenced blocks of a page."""
    blocks: list[Block] = []
    start, language, fence, lines, before = 0, "", "", [], ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = FENCE.match(line)
        if not fence and match:
            start, language, fence, lines = number + 1, match[3], match[2], []
        elif fence and match and match[2] == fence and not match[3]:
            blocks.append(Block(path, start, language, "\n".join(lines) + "\n", before))
            fence = ""
        elif fence:
            lines.append(line)
        elif line.strip():
            before = line.strip()
    assert not fence, f"{path}: the block from line {start} has no end"
    return blocks


def read_commands(path: Path) -> list[Command]:
    """Reads the commands of a page's shell blocks, and of its text where it names whole ones."""
    found = []
    for block in read_blocks(path):
        if block.language in ("", "bash", "sh", "shell", "console"):
            found += split_commands(block)
    for number, text in read_inline(path):
        named = re.fullmatch(r"python -m [\w.]+", text)  # a program by its name, without its arguments
        if text.startswith(("python main.py ", "python -m ", "make ")) and not named and not PLACEHOLDER.search(text):
            found.append(make_command(path, number, text))
    return found


def split_commands(block: Block) -> Iterator[Command]:
    """Splits a shell block: continued lines are joined, comments left out."""
    joined, start = "", block.line
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        if not joined:
            start = number
        joined += line
        if joined.endswith("\\"):
            joined = joined[:-1]
            continue
        if shlex.split(joined, comments=True):
            yield make_command(block.path, start, joined)
        joined = ""


def make_command(path: Path, line: int, text: str) -> Command:
    """Makes a command; launchers of several processes are left out, as their program is the same."""
    words = shlex.split(text.replace("$CK", "best.ckpt"), comments=True)
    shown = re.sub(r"\s#\s.*$", "", text).strip()
    while words and (words[0] == "srun" or words[0].endswith("/python")):
        words = words[1:] if words[0] == "srun" else ["python", *words[1:]]
    if words and words[0] == "torchrun":
        words = ["python", *words[words.index("main.py") :]]
    return Command(path, line, shown, tuple(words))


def read_inline(path: Path) -> Iterator[tuple[int, str]]:
    """Yields what looks like a command or an option in a page's text, with its line."""
    fenced = {
        number
        for block in read_blocks(path)
        for number in range(block.line - 1, block.line + len(block.text.splitlines()) + 1)
    }
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if number not in fenced:
            yield from ((number, match[1]) for match in INLINE.finditer(line))


def read_targets() -> dict[str, str]:
    """Returns the recipes of the Makefile by target, variables of the user left as they are."""
    recipes: dict[str, str] = {}
    target = ""
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([a-z-]+):(?!=)", line):
            target = match[1]
            recipes[target] = ""
        elif line.startswith("\t"):
            recipes[target] = f"{recipes.get(target, '')}{line.strip()}\n"
    return recipes


def expand_make(command: Command) -> list[Command]:
    """Returns the programs of experiments/ that a `make` command runs."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    given = dict(re.findall(r"^(\w+_ARGS) \?= *(.*)$", makefile, re.MULTILINE))
    given |= dict(word.split("=", 1) for word in command.words[1:] if "=" in word)
    found = []
    for target in [word for word in command.words[1:] if "=" not in word]:
        for line in read_targets()[target].splitlines():
            expanded = re.sub(r"\$\((\w+_ARGS)\)", lambda match: given.get(match[1], ""), line)
            if match := re.match(r"@\$\(BIN\)/(python -m experiments\..*)", expanded):
                found.append(make_command(command.path, command.line, match[1]))
    return found


def drop_options(words: Sequence[str], *names: str) -> list[str]:
    """Leaves out options with their values, in both spellings."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in names:
            skip = True
        elif not any(word.startswith(f"{name}=") for name in names):
            kept.append(word)
    return kept


def keep_setup(words: Sequence[str]) -> list[str]:
    """Keeps the options that say what network and data a run has."""
    kept: list[str] = []
    value = False
    for word in words:
        setup = word.startswith(("--config", "--model", "--data")) and not word.startswith("--model.temperature")
        if setup or (value and not word.startswith("--")):
            kept.append(word)
        value = setup and "=" not in word
    return kept


def shrink(config: Mapping[str, Any]) -> list[str]:
    """Returns the options that make a run tiny.

    Args:
        config: Of the run, as `--print_config` prints it.
    """
    args = [*QUIET, *NO_LOGGER, "--trainer.max_epochs=1", "--trainer.max_steps=1"]
    trainer = config["trainer"]
    if trainer["devices"] not in (1, "auto") or trainer["num_nodes"] != 1 or trainer["sync_batchnorm"]:
        args += ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
        args += ["--trainer.sync_batchnorm=false"]
    return args + shrink_data(config["data"]) + shrink_network(config["model"]["network"]) + shrink_method(config)


def shrink_data(data: Mapping[str, Any]) -> list[str]:
    name, given = short_name(data), data.get("init_args") or {}
    loading = ["batch_size=2", "num_workers=0", "crop_size=[32,32]", "repeats=4"]
    if name == "StreetScenesProtocol":
        return [*DATA, "--data.num_val=1", "--data.num_test=1", "--data.repeats=1"]
    if name != "TargetsDataModule":
        return [f"--data.{argument}" for argument in loading]
    args = []
    if given.get("source"):
        if short_name(given["source"]) == "StreetScenesDataModule":
            loading += ["num_train=4", "height=64", "width=128"]
        args += [f"--data.source.init_args.{argument}" for argument in loading]
    if given.get("development"):
        args.append("--data.development.init_args.num_workers=0")
    return args


def shrink_network(network: Mapping[str, Any]) -> list[str]:
    changes = {"weights": "null"} if (network.get("init_args") or {}).get("weights") else {}
    if short_name(network) in WIDE:
        changes["width"] = "8"
    elif short_name(network) == "HRNet":
        changes["backbone"] = "hrnet_w18_small"
    return [f"--model.network.init_args.{argument}={value}" for argument, value in changes.items()]


def shrink_method(config: Mapping[str, Any]) -> list[str]:
    method = config.get("method")
    if not method:
        return []
    given = method.get("init_args") or {}
    tiny = {"num_steps": "1", "scales": "[0.5,1.0]", "psi": "0.1"}  # the images here are too small for a quarter
    args = [f"--method.{name}={value}" for name, value in tiny.items() if name in given]
    return args + (["--model.network.init_args.dropout=0.1"] if short_name(method) == "MCDropout" else [])


def short_name(chosen: Mapping[str, Any]) -> str:
    return chosen["class_path"].rsplit(".", 1)[-1]


def load_printed(text: str) -> dict[str, Any]:
    """Reads what `--print_config` printed."""
    config = yaml.safe_load(text)
    assert isinstance(config, dict), f"no config was printed: {text[:200]}"
    return config
