"""What MkDocs does besides: equations become MathML, and links to source files become their paths.

The pages in docs/ are read in two places. On a code host equations are `$...$` and links may lead to any file of the
repository; the site needs no script for the former and has no such files for the latter.
"""

import html
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).parent.parent
# What pymdownx.arithmatex (generic) leaves in a page: \(...\) in a span, \[...\] in a div.
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
OUTWARD_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>\.\./[^)#\s]*)(?:#[^)\s]*)?\)")

log = logging.getLogger("mkdocs.hooks.segadapt")  # a warning here ends a strict build


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replaces links that leave docs/ by their text and the path of the file; called by MkDocs for every page."""
    return replace_outward_links(markdown, page.file.src_uri)


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Replaces equations by MathML; called by MkDocs for the HTML of every page."""
    try:
        return replace_equations(content)
    except Exception as error:  # the converter raises whatever it comes across
        log.warning("%s has an equation that cannot be converted: %s", page.file.src_uri, error)
        return content


def replace_equations(content: str) -> str:
    """Replaces every equation in a page's HTML, as arithmatex marks them, by MathML."""

    def convert_match(match: re.Match[str]) -> str:
        latex = html.unescape(match[2]).strip()
        return convert(latex) if match[1] == "span" else f"<p>{convert(latex, display='block')}</p>"

    return EQUATION.sub(convert_match, content)


def replace_outward_links(markdown: str, source: str) -> str:
    """Replaces links from a page (its path is relative to docs/) to files outside of docs/ by their text and path.

    A link to a file that does not exist is kept, with a warning.
    """

    def name_file(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(source), match["target"]))
        if path.startswith("docs/"):
            return match[0]
        if not (ROOT / path).exists():
            log.warning("%s has a link to %s, which does not exist", source, path)
            return match[0]
        text = match["text"]
        return text if text.strip("`") == path else f"{text} (`{path}`)"

    return OUTWARD_LINK.sub(name_file, markdown)
