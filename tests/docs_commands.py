"""Finds the commands of README and docs/.

A block without a language, or with `bash`, is shell. Every command in it has to be a call of main.py, of a program in
experiments/, of pytest, a target of the Makefile, or one of the few in EXCEPTIONS, each with its reason.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.tiny import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = dict(re.findall(r"^([a-z-]+):(?!=).*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE))  # with their recipes
BLOCK = re.compile(r"^ *(?P<fence>`{3,})(?P<language>\S*) *\n(?P<text>.*?)^ *(?P=fence) *$", re.MULTILINE | re.DOTALL)
FILE_OF_BLOCK = re.compile(r"^# ((?:datamodules|callbacks|lightning_modules|configs|tests)/[\w/.]+)$", re.MULTILINE)
FILE_BEFORE_BLOCK = re.compile(r"`([\w/]+\.ya?ml)`:$")
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
    r"wandb (login|sync|sweep|agent)( .+)?": "needs an account; what an agent runs is tested in sweep/test_program.py",
    r"make docs-serve": "serves until it is stopped; `make docs` builds the same pages",
    r"make format": "rewrites the checkout",
    r"make lock": "needs a network, and rewrites constraints.txt",
    r"python -m pytest( .+)?": "runs these tests",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `before` is the last line of text above."""

    path: Path
    line: int
    language: str
    text: str
    before: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that the page says the block is, if it says so."""
        match = FILE_OF_BLOCK.match(self.text)
        match = match or (FILE_BEFORE_BLOCK.search(self.before) if self.language == "yaml" else None)
        return match[1] if match else None


@dataclass(frozen=True)
class Command:
    """A command of a page, without the launcher of several processes."""

    path: Path
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.path.name}:{self.line}"

    @property
    def words(self) -> list[str]:
        words = shlex.split(self.text.replace("$CK", "best.ckpt"), comments=True)
        if words and words[0] == "srun":
            words = words[1:]
        if words and words[0] == "torchrun":
            return ["python", *words[words.index("main.py") :]]
        return ["python", *words[1:]] if words and words[0].endswith("/python") else words

    @property
    def exception(self) -> bool:
        """Whether it is one of those that cannot be run."""
        text = " ".join(re.sub(r"\s#\s.*$", "", self.text).split())
        return any(re.fullmatch(pattern, text) for pattern in EXCEPTIONS)

    def expand_make(self) -> "list[Command]":
        """Returns the programs of experiments/ that a `make` command runs."""
        given = dict(re.findall(r"^(\w+_ARGS) \?= *(.*)$", MAKEFILE, re.MULTILINE))
        given |= dict(word.split("=", 1) for word in self.words[1:] if "=" in word)
        recipes = "".join(TARGETS.get(word, "") for word in self.words[1:])
        lines = re.findall(r"^\t@\$\(BIN\)/(python -m experiments\..*)", recipes, re.MULTILINE)
        filled = (re.sub(r"\$\((\w+_ARGS)\)", lambda match: given.get(match[1], ""), line) for line in lines)
        return [Command(self.path, self.line, line) for line in filled]


def read_blocks(path: Path) -> list[Block]:
    """Reads the fenced blocks of a page."""
    text = path.read_text(encoding="utf-8")
    blocks = []
    for match in BLOCK.finditer(text):
        above = text[: match.start()].split("\n")
        before = next((line.strip() for line in reversed(above) if line.strip()), "")
        blocks.append(Block(path, len(above) + 1, match["language"], match["text"], before))
    assert len(re.findall(r"^ *`{3,}", text, re.MULTILINE)) == 2 * len(blocks), f"{path}: a block has no end"
    return blocks


def read_commands(path: Path) -> list[Command]:
    """Reads the commands of a page's shell blocks, and of its text where it names whole ones."""
    found = []
    for block in read_blocks(path):
        for match in re.finditer(r"(?:.*\\\n)*.+", block.text):  # continued lines are one
            if block.language in ("", "bash") and shlex.split(match[0], comments=True):
                line = block.line + block.text.count("\n", 0, match.start())
                found.append(Command(path, line, match[0].replace("\\\n", "")))
    for line, text in read_inline(path):
        named = re.fullmatch(r"python -m [\w.]+", text)  # a program by its name, without its arguments
        if text.startswith(("python main.py ", "python -m ", "make ")) and not named and not PLACEHOLDER.search(text):
            found.append(Command(path, line, text))
    return found


def read_inline(path: Path) -> Iterator[tuple[int, str]]:
    """Yields what looks like a command or an option in a page's text, with its line."""
    text = BLOCK.sub(lambda match: "\n" * match[0].count("\n"), path.read_text(encoding="utf-8"))
    for number, line in enumerate(text.splitlines(), start=1):
        yield from ((number, match[1]) for match in INLINE.finditer(line))
