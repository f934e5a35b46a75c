"""MkDocs hooks: convert equations to MathML, and links to source files to plain paths.

The pages in docs/ are also read on a code host, which renders `$...$` and can follow links to any file of the
repository. The site uses no script to render equations, and does not contain those files.
"""

import html
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).parent.parent
# Markup that pymdownx.arithmatex (generic) writes: \(...\) in a span, \[...\] in a div.
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
OUTWARD_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>\.\./[^)#\s]*)(?:#[^)\s]*)?\)")

log = logging.getLogger("mkdocs.hooks.segadapt")  # a warning here fails a strict build


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replaces links that leave docs/ with their text and the file's path; called by MkDocs for every page."""
    return replace_outward_links(markdown, page.file.src_uri)


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Replaces equations with MathML; called by MkDocs for the HTML of every page."""
    try:
        return replace_equations(content)
    except Exception as error:  # the converter raises exceptions of many types
        log.warning("%s has an equation that cannot be converted: %s", page.file.src_uri, error)
        return content


def replace_equations(content: str) -> str:
    """Replaces every equation that arithmatex has marked in a page's HTML with MathML."""

    def convert_match(match: re.Match[str]) -> str:
        latex = html.unescape(match[2]).strip()
        return convert(latex) if match[1] == "span" else f"<p>{convert(latex, display='block')}</p>"

    return EQUATION.sub(convert_match, content)


def replace_outward_links(markdown: str, source: str) -> str:
    """Replaces a page's links to files outside docs/ with their text and path; `source` is its path within docs/.

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
