"""The page that reports are made of: one HTML file that needs no network and no other file."""

import io
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from callbacks.run.records import write_file

WIDE = 7.0  # inches
TEMPLATE = "report.html.j2"


def write_page(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes a page, whole or not at all, with the run's config at its end; returns its path.

    Args:
        path: Of the page, in the folder of the run.
        content: What the template fills in, as it says at its top.
    """
    import jinja2  # only a page needs it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    footer = f"Made by segadapt on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. This page loads nothing else."
    config = path.with_name("config.yaml")
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    write_file(path, environment.get_template(TEMPLATE).render(content, config=text, footer=footer).encode())
    return path


def embed(figure: Figure, caption: str = "") -> dict[str, Any]:
    """Turns a figure into what the template shows: wide ones get a line of their own."""
    return {"svg": encode_svg(figure), "caption": caption, "wide": figure.get_figwidth() > WIDE}


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


def format_number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """Writes a number, with a + before it if asked to, or a dash if it is not known."""
    return "–" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"
