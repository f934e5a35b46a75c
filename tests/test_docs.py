"""The documentation: it builds, loads nothing from a network, and says what the code says."""

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import callbacks
from callbacks.run.choice import check_method
from experiments.docs_hooks import replace_equations, replace_outward_links
from experiments.list_presets import MARKS, list_presets
from experiments.pages import make_marks, replace_report
from tests.docs_commands import PAGES, read_blocks
from tests.tiny import ROOT

DOCS = ROOT / "docs"
METHODS = [name for name in callbacks.__all__ if name != "Method"]
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "video": "src"}
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


class Page(HTMLParser):
    """What a page loads, links to, and the anchors it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if named.get("id"):
            self.anchors.add(str(named["id"]))
        if tag == "a" and named.get("href"):
            self.links.append(str(named["href"]))
        address = named.get(LOADING.get(tag, ""))
        if address and not (tag == "link" and named.get("rel") == "canonical"):
            self.loads.append(address)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_page_is_on_the_site(site: Path) -> None:
    assert {path.stem for path in DOCS.glob("*.md")} <= {path.stem for path in site.glob("*.html")}


@pytest.mark.slow
def test_site_loads_nothing_from_a_network(site: Path, pages: dict[Path, Page]) -> None:
    assert len(pages) > 15
    for path, page in pages.items():
        assert page.loads
        outside = [address for address in page.loads if urlsplit(address).netloc]
        assert not outside, f"{path.name} loads {outside}"
        assert "mermaid" not in path.read_text(encoding="utf-8")  # the theme would fetch a script for it
    for path in site.rglob("*.css"):
        found = re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^)\"' ]+)", path.read_text(encoding="utf-8"))
        assert not found, f"{path.name} loads {found}"


@pytest.mark.slow
def test_links_and_anchors_of_the_site_lead_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    checked = 0
    for path, page in pages.items():
        for address in page.links if path.name != "404.html" else []:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.name} links to {address}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors | {"__toc"}, f"{path.name} links to {address}"
            checked += 1
    assert checked > 500


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


def read_arguments() -> dict[str, dict[str, str]]:
    """Reads the tables under `Arguments of X` in docs/methods.md: the default of each argument."""
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    tables = re.findall(r"^Arguments of `(\w+)`:\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    return {
        name: {
            cells[1].strip().strip("`"): cells[2].strip().strip("`")
            for cells in (row.split("|") for row in table.splitlines()[2:])
        }
        for name, table in tables
    }


def test_tables_of_arguments_are_the_signatures() -> None:
    tables = read_arguments()
    assert sorted(tables) == sorted(METHODS)
    for name, table in tables.items():
        signature = inspect.signature(getattr(callbacks, name)).parameters
        assert list(table) == list(signature), name
        for argument, shown in table.items():
            default = signature[argument].default
            if default is inspect.Parameter.empty:
                assert shown == "required"
            else:
                assert yaml.safe_load(shown) == (list(default) if isinstance(default, tuple) else default), argument


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


# Error messages.


def read_messages() -> list[str]:
    return [block.text.strip() for block in read_blocks(DOCS / "faq.md") if block.language == "text"]


def list_source_messages() -> Iterator[str]:
    """Yields what the code can say, as regular expressions: the text of its strings, anything for their values."""
    folders = ("callbacks", "datamodules", "lightning_modules", "experiments")
    paths = [ROOT / "main.py", *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*?" for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 30:
                yield re.escape(node.value)


@pytest.fixture(scope="module")
def sayable() -> list[re.Pattern[str]]:
    found = {text for text in list_source_messages() if len(text.replace(".*?", "")) >= 30}
    return [re.compile(text, re.DOTALL) for text in found]


@pytest.mark.parametrize("message", read_messages(), ids=lambda message: message[:40])
def test_message_is_one_of_the_code(message: str, sayable: list[re.Pattern[str]]) -> None:
    # A message may be put together from several strings: the longest of them has to make up most of it.
    longest = max(
        (match[0] for pattern in sayable if (match := pattern.search(message)) is not None), key=len, default=""
    )
    assert len(longest) >= 0.6 * len(message), f"no error says {message!r}; the nearest has {longest!r}"


def matches_page(error: str) -> bool:
    """Whether a message is one of those on the page, `...` standing for anything."""
    return any(
        re.match(".*?".join(re.escape(part) for part in message.split("...")), error, re.DOTALL)
        for message in read_messages()
    )


def provoke_target() -> None:
    from datamodules import CityscapesDataModule

    CityscapesDataModule(root=str(ROOT)).val_dataloader()


def provoke_place() -> None:
    from datamodules import CityscapesDataModule

    CityscapesDataModule().find_root()


def provoke_shape() -> None:
    import torch

    from tests.fakes import TinyNetwork

    callbacks.IaBN().predict(TinyNetwork(), torch.zeros(3, 8, 8))


def provoke_norm() -> None:
    from tests.fakes import TinyNetwork

    callbacks.IaBN().check_network(TinyNetwork(norm=None))


def provoke_dropout() -> None:
    from tests.fakes import TinyNetwork

    callbacks.MCDropout().check_network(TinyNetwork())


def provoke_trainable() -> None:
    from tests.fakes import TinyNetwork

    callbacks.SegTTT(trainable=["nothing"]).check_network(TinyNetwork())


def provoke_ensemble() -> None:
    from tests.fakes import TinyNetwork

    callbacks.Ensemble(["gone.ckpt"]).check_network(TinyNetwork())


def provoke_small_image() -> None:
    import torch

    from lightning_modules.networks import DeepLabV1

    DeepLabV1("resnet10", 5, width=4)(torch.zeros(1, 3, 4, 4))


def provoke_output() -> None:
    import torch
    from torch import nn

    callbacks.IaBN(0.0).predict(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()), torch.zeros(1, 3, 8, 8))


def provoke_label() -> None:
    import torch

    from lightning_modules.metrics import confusion_matrix

    confusion_matrix(torch.zeros(4, dtype=torch.int64), torch.full((4,), 9), 5)


@pytest.mark.parametrize(
    "provoke",
    [
        lambda: check_method(["--method", "SegTT"]),
        lambda: check_method(["--method", "IaBN", "--method=TTA"]),
        lambda: callbacks.SegTTT(trainable="head"),  # type: ignore[arg-type]
        provoke_target,
        provoke_place,
        provoke_shape,
        provoke_norm,
        provoke_dropout,
        provoke_trainable,
        provoke_ensemble,
        provoke_small_image,
        provoke_output,
        provoke_label,
    ],
)
def test_message_of_the_page_comes_up(provoke: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGADAPT_DATA", raising=False)
    with pytest.raises((ValueError, TypeError, OSError)) as raised:
        provoke()
    assert matches_page(str(raised.value)), f"docs/faq.md does not have: {raised.value}"


def test_every_test_that_the_log_of_situations_names_exists() -> None:
    named = set(re.findall(r"\| (test_\w+) \|", (DOCS / "situations.md").read_text(encoding="utf-8")))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 50 and named <= set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
