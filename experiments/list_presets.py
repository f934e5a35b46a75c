"""The list of all files in configs/, by kind, with the first sentence of each: part of docs/configs.md.

python -m experiments.list_presets --write docs/configs.md
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from callbacks.run.records import write_file
from experiments.command_line import to_path

CONFIGS = Path(__file__).parent.parent / "configs"
KINDS = {  # in the order of docs/configs.md; a folder that is not named here comes after
    "experiment": "Complete runs, named after what they reproduce",
    "data": "`--data configs/data/NAME.yaml`",
    "model": "`--model configs/model/NAME.yaml`",
    "method": "`--method configs/method/NAME.yaml`",
    "trainer": "`--config configs/trainer/NAME.yaml`; `default` is under every run",
}
BEGIN, END = "<!-- presets: begin -->", "<!-- presets: end -->"
SENTENCE_END = re.compile(r"\.\s+(?=[A-Z])")


def describe_preset(path: Path) -> str:
    """Returns the first sentence of the comment on top of a YAML file; nothing if there is none."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    sentence = SENTENCE_END.split(" ".join(lines))[0].strip().removesuffix(".")
    return sentence.replace("|", "\\|")


def list_presets(configs: Path = CONFIGS) -> str:
    """Returns the list as Markdown: a heading and a table for each folder."""
    folders = {path.parent.relative_to(configs).as_posix() for path in configs.rglob("*.yaml")}
    order = [*KINDS, *sorted(folders - set(KINDS))]
    parts = []
    for kind in [kind for kind in order if kind in folders]:
        rows = [f"| `{path.stem}` | {describe_preset(path)} |" for path in sorted((configs / kind).glob("*.yaml"))]
        intro = [f"{KINDS[kind]}:", ""] if kind in KINDS else []
        parts.append("\n".join([f"### {kind}", "", *intro, "| file | what it is |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def replace_list(page: str, presets: str) -> str:
    """Returns a page with another list between its marks.

    Raises:
        ValueError: If the page has no marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the list: expected the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{presets}\n\n{END}{after}"


def main(args: Sequence[str] | None = None) -> None:
    """Prints the list, or writes it into a page."""
    parser = argparse.ArgumentParser(description="List every file in configs/ with its first sentence.")
    parser.add_argument("--write", type=to_path, help="a Markdown file to write to, between its marks")
    options = parser.parse_args(args)
    if options.write is None:
        print(list_presets())
        return
    page = options.write.read_text(encoding="utf-8")
    write_file(options.write, replace_list(page, list_presets()).encode())


if __name__ == "__main__":
    main()
