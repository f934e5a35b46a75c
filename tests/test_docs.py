"""The documentation: it builds, loads nothing from a network, and says what the code says."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

import callbacks
from experiments.docs_hooks import replace_equations, replace_outward_links
from experiments.list_presets import MARKS, list_presets
from experiments.pages import make_marks, replace_report
from tests.docs_commands import PAGES
from tests.tiny import ROOT

DOCS = ROOT / "docs"
METHODS = [name for name in callbacks.__all__ if name != "Method"]
# What a page or a style sheet loads, and what of it lies elsewhere.
LOADING = re.compile(r"<(?:script|img|iframe|source|video|link(?! [^>]*canonical)) [^>]*>|(?:url\(|@import )[^);]*")
OUTSIDE = re.compile(r"""(?:src=|href=|url\(|@import )["']?((?:https?:)?//[^)"'> ]+)""")
HEADING = re.compile(r"^#{1,6} +(.*?)\s*$", re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: a broken link or anchor ends the build."""
    place = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(place)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return place


@pytest.mark.slow
def test_site_has_every_page_and_loads_nothing_from_a_network(site: Path) -> None:
    pages = list(site.glob("*.html"))
    assert {path.stem for path in DOCS.glob("*.md")} <= {path.stem for path in pages}
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        found = [address for tag in LOADING.findall(text) for address in OUTSIDE.findall(tag)]
        assert not found, f"{path.name} loads {found}"
        assert "mermaid" not in text or path.suffix == ".css"  # the theme would fetch a script for it
    assert all(LOADING.search(path.read_text(encoding="utf-8")) for path in pages)


@pytest.mark.slow
def test_equations_are_mathml(site: Path) -> None:
    text = (site / "methods.html").read_text(encoding="utf-8")
    assert text.count('display="block"') >= 9 and text.count("<math") > 25
    body = re.sub(r"<(code|pre)[^>]*>.*?</\1>", "", text, flags=re.DOTALL)
    assert "arithmatex" not in text and not re.findall(r"\\[a-z]+", body[body.index("<article") :])
    (first,) = re.findall(r"<math.*?</math>", replace_equations(r'<span class="arithmatex">\(\alpha\)</span>'))
    assert "&#x003B1;" in first


def test_links_to_source_files_become_paths() -> None:
    page = "[method](../callbacks/seg_ttt.py), [own](own_data.md), [`main.py`](../main.py), ![x](../docs/demo.png)"
    shown = "method (`callbacks/seg_ttt.py`), [own](own_data.md), `main.py`, ![x](../docs/demo.png)"
    assert replace_outward_links(page, "paper.md") == shown
    missing = "[gone](../callbacks/gone.py)"
    assert replace_outward_links(missing, "paper.md") == missing


def slug(heading: str) -> str:
    """Makes the anchor of a heading as code hosts do."""
    plain = re.sub(r"[^\w\- ]", "", re.sub(r"[*`]|\[|\]\([^)]*\)", "", heading).lower())
    return plain.replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_the_sources_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for address in LINK.findall(text):
        parts = urlsplit(address)
        if parts.scheme:
            continue
        target = (path.parent / parts.path).resolve() if parts.path else path
        assert target.exists(), f"{path.name} links to {address}"
        if parts.fragment:
            headings = {slug(heading) for heading in HEADING.findall(target.read_text(encoding="utf-8"))}
            assert parts.fragment in headings, f"{path.name} links to {address}"


def test_readme_is_one_page_with_one_figure() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text) == ["docs/demo.png"]


# What the pages say is what the code says.


def test_tables_of_arguments_are_the_signatures() -> None:
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    tables = dict(re.findall(r"^Arguments of `(\w+)`:\n\n(?:\|.*\n){2}((?:\|.*\n)+)", text, re.MULTILINE))
    assert sorted(tables) == sorted(METHODS)
    for name, table in tables.items():
        shown = dict(re.findall(r"^\| *`?(\w+)`? *\| *`?(.*?)`? *\|", table, re.MULTILINE))
        signature = inspect.signature(getattr(callbacks, name)).parameters
        assert list(shown) == list(signature), name
        for argument, parameter in signature.items():
            if parameter.default is inspect.Parameter.empty:
                assert shown[argument] == "required"
            else:
                default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
                assert yaml.safe_load(shown[argument]) == default, argument


def test_list_of_presets_is_the_folder() -> None:
    page = (DOCS / "configs.md").read_text(encoding="utf-8")
    how = "run `python -m experiments.list_presets --write docs/configs.md`"
    begin, end = make_marks(MARKS)
    assert replace_report(page, list_presets(), MARKS) == page, how
    assert page.count(begin) == page.count(end) == 1
    files = {path.stem for path in (ROOT / "configs").rglob("*.yaml")}
    assert files == set(re.findall(r"^\| `(\w+)` \|", page[page.index(begin) :], re.MULTILINE))


@pytest.mark.parametrize("name", ["add_data_set", "add_method", "add_network"])
def test_pages_on_extending_are_short(name: str) -> None:
    assert len((DOCS / f"{name}.md").read_text(encoding="utf-8").splitlines()) < 60


def test_every_test_that_the_log_of_situations_names_exists() -> None:
    named = set(re.findall(r"\| (test_\w+) \|", (DOCS / "situations.md").read_text(encoding="utf-8")))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 50 and named <= set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
