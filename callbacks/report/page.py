"""The page that reports are made of: one HTML file that needs no network and no other file."""

import base64
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure

from callbacks.run.records import write_file

TEMPLATE = "report.html.j2"
MIME = {".jpg": "image/jpeg", ".png": "image/png"}


@dataclass
class Page:
    """What the template fills in; see there.

    Attributes:
        title: One line.
        subtitle: One line below it.
        tiles: Each with ``value`` and ``label``.
        notes: Sentences on what is missing or unusual.
        scores: ``columns``, ``lines`` (``cells``, and whether it is the ``mean``) and ``caption``.
        figures: Groups with ``title``, ``text`` and ``figures``, each of ``svg``, ``caption`` and ``wide``.
        galleries: Groups with ``domain``, ``title`` and ``pictures``.
        layers: Those that any picture has.
        left: The layer at the left at first.
        right: The layer at the right at first.
        layer_names: For readers, by layer.
        legend: ``name`` and ``colour`` of each class.
        facts: Tables with ``title`` and ``rows``.
        files: ``name`` and ``text`` of files shown as they are.
        footer: Last line.
    """

    title: str
    subtitle: str
    tiles: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scores: dict[str, Any] | None = None
    figures: list[dict[str, Any]] = field(default_factory=list)
    galleries: list[dict[str, Any]] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    left: str = "image"
    right: str = "prediction"
    layer_names: dict[str, str] = field(default_factory=dict)
    legend: list[dict[str, Any]] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, str]] = field(default_factory=list)
    footer: str = ""

    def write(self, path: Path) -> Path:
        """Writes the page, whole or not at all; returns its path."""
        loader = jinja2.FileSystemLoader(Path(__file__).parent)
        environment = jinja2.Environment(
            loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self.footer = f"Made by segadapt on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. This page loads nothing else."
        write_file(path, environment.get_template(TEMPLATE).render(vars(self)).encode())
        return path


def embed(figure: Figure, caption: str = "", wide: bool = False) -> dict[str, Any]:
    """Turns a figure into what the template shows."""
    return {"svg": encode_svg(figure), "caption": caption, "wide": wide}


def encode_svg(figure: Figure) -> str:
    """Encodes a figure for use inside HTML: no outside names, text as text, black in the colour of the page's ink."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "segadapt"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href").replace("#000000", "currentColor")
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in each figure
    width = figure.get_figwidth() * 96
    opening = f'<svg role="img" style="width: 100%; max-width: {width:.0f}px; height: auto"'
    return re.sub(r'^<svg width="[^"]*" height="[^"]*"', opening, text)


def encode_file(path: Path) -> str:
    """Returns a picture as a data URI."""
    return f"data:{MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def list_files(folder: Path, names: Iterable[str]) -> list[dict[str, str]]:
    """Returns the text files that are there, as they are."""
    paths = [folder / name for name in names if (folder / name).is_file()]
    return [{"name": path.name, "text": path.read_text(encoding="utf-8", errors="replace")} for path in paths]


def format_number(value: float | None, digits: int) -> str:
    """Writes a number, or a dash if it is not known."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def format_signed(value: float | None, digits: int = 2) -> str:
    """Writes a difference with its sign, or a dash if it is not known."""
    return "–" if value is None or math.isnan(value) else f"{value:+.{digits}f}"
