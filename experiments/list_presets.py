"""Lists all files in configs/ by kind, with the first sentence of each, as in docs/configs.md.

python -m experiments.list_presets --write docs/configs.md
"""

import argparse
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from experiments.command_line import to_path
from experiments.pages import format_markdown, insert_report

CONFIGS = Path(__file__).parent.parent / "configs"
KINDS = {  # in the order of docs/configs.md; other folders follow
    "experiment": "Complete runs, named after what they reproduce",
    "data": "`--data configs/data/NAME.yaml`",
    "model": "`--model configs/model/NAME.yaml`",
    "method": "`--method configs/method/NAME.yaml`",
    "training": "`--training configs/training/NAME.yaml`",
    "recipe": "`--trainer configs/recipe/NAME.yaml`",
    "trainer": "`--config configs/trainer/NAME.yaml`; `default` applies to every run",
}
MARKS = "presets"
SENTENCE_END = re.compile(r"\.\s+(?=[A-Z])")


def describe_preset(path: Path) -> str:
    """Returns the first sentence of the comment at the top of a YAML file, or an empty string."""
    comment = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    return SENTENCE_END.split(text)[0].strip().removesuffix(".").replace("|", "\\|")


def list_presets() -> str:
    """Returns the list as Markdown: a heading and a table for each folder."""
    folders = {path.parent.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")}
    parts = []
    for kind in [*KINDS, *sorted(folders - set(KINDS))]:
        rows = [[f"`{path.stem}`", describe_preset(path)] for path in sorted((CONFIGS / kind).glob("*.yaml"))]
        intro = [f"{KINDS[kind]}:"] if kind in KINDS else []
        parts += [f"### {kind}", *intro, format_markdown(["file", "what it is"], rows)]
    return "\n\n".join(parts) + "\n"


def main(args: Sequence[str] | None = None) -> None:
    """Prints the list, or inserts it into a page."""
    parser = argparse.ArgumentParser(description="List every file in configs/ with its first sentence.")
    parser.add_argument("--write", type=to_path, help="a Markdown file to write to, between its begin and end marks")
    options = parser.parse_args(args)
    if options.write is None:
        print(list_presets(), end="")
    else:
        insert_report(options.write, list_presets(), MARKS)


if __name__ == "__main__":
    main()
