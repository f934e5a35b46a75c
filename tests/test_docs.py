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
from callbacks.run.records import to_plain
from experiments.docs_hooks import replace_equations, replace_outward_links
from experiments.list_presets import MARKS, list_presets
from experiments.pages import make_marks, replace_report
from tests.docs_commands import PAGES
from tests.tiny import ROOT

DOCS = ROOT / "docs"
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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_the_sources_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for address in LINK.findall(text):
        parts = urlsplit(address)
        if parts.scheme:
            continue
        target = (path.parent / parts.path).resolve() if parts.path else path
        assert target.exists(), f"{path.name} links to {address}"
        if not parts.fragment:
            continue
        headings = re.sub(r"[*`]|\[|\]\([^)]*\)", "", "\n".join(HEADING.findall(target.read_text(encoding="utf-8"))))
        # As code hosts make them.
        anchors = re.sub(r"[^\w\-\n]", "", headings.lower().replace(" ", "-")).splitlines()
        assert parts.fragment in anchors, f"{path.name} links to {address}"


def test_pages_that_are_read_in_one_sitting_are_short() -> None:
    pages = {"README.md": 70, "docs/add_data_set.md": 59, "docs/add_method.md": 59, "docs/add_network.md": 59}
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in pages}
    assert not [page for page, lines in pages.items() if len(texts[page].splitlines()) > lines]
    assert re.findall(r"!\[[^\]]*\]\(([^)]+)\)", texts["README.md"]) == ["docs/demo.png"]


# What the pages say is what the code says.


def test_tables_of_arguments_are_the_signatures() -> None:
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    tables = dict(re.findall(r"^Arguments of `(\w+)`:\n\n(?:\|.*\n){2}((?:\|.*\n)+)", text, re.MULTILINE))
    assert sorted(tables) == sorted(name for name in callbacks.__all__ if name != "Method")
    for name, table in tables.items():
        shown = dict(re.findall(r"^\| *`?(\w+)`? *\| *`?(.*?)`? *\|", table, re.MULTILINE))
        parameters = inspect.signature(getattr(callbacks, name)).parameters
        assert list(shown) == list(parameters), name
        for argument, parameter in parameters.items():
            default, said = parameter.default, shown[argument]
            required = default is inspect.Parameter.empty
            assert said == "required" if required else yaml.safe_load(said) == to_plain(default), argument


def test_list_of_presets_is_the_folder() -> None:
    page = (DOCS / "configs.md").read_text(encoding="utf-8")
    how = "run `python -m experiments.list_presets --write docs/configs.md`"
    assert replace_report(page, list_presets(), MARKS) == page, how
    files = {path.stem for path in (ROOT / "configs").rglob("*.yaml")}
    assert files == set(re.findall(r"^\| `(\w+)` \|", page[page.index(make_marks(MARKS)[0]) :], re.MULTILINE))


def test_every_test_that_the_log_of_situations_names_exists() -> None:
    named = set(re.findall(r"\| (test_\w+) \|", (DOCS / "situations.md").read_text(encoding="utf-8")))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 50 and named <= set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
