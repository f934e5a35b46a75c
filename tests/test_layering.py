"""The layers of the project, read from its imports.

    main, experiments -> callbacks -> lightning_modules -> torch        datamodules -> torch

Within callbacks: methods -> adaptation; results, predictions, searches -> report -> run. How a method predicts knows
nothing of the files and pages that a run leaves.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

import callbacks
from tests.tiny import ROOT

PACKAGES = ("datamodules", "lightning_modules", "callbacks", "experiments")
OF_RUNS = ("callbacks.run", "callbacks.report")

# What lies in a module or below it must not import these.
CLOSED = {
    "datamodules": ("lightning_modules", "callbacks", "main", "experiments", "tests"),
    "lightning_modules": ("datamodules", "callbacks", "main", "experiments", "tests"),
    "callbacks": ("datamodules", "main", "experiments", "tests"),
    "main": ("experiments", "tests"),
    "experiments": ("tests",),
    "lightning_modules.networks": ("lightning", "pytorch_lightning", "lightning_fabric", "lightning_modules"),
    "callbacks.adaptation": OF_RUNS,
    "callbacks.method": OF_RUNS,
    "callbacks.run": ("callbacks.report",),
}
METHODS = {getattr(callbacks, name).__module__: name for name in callbacks.__all__ if name != "Method"}


def lies_in(module: str, rooms: tuple[str, ...]) -> bool:
    return f"{module}.".startswith(tuple(f"{room}." for room in rooms))


def list_imports(path: str, source: str) -> Iterator[str]:
    """Yields what a file imports, also inside functions, as `module` or `module.name`; relative ones are resolved."""
    package = PurePosixPath(path).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield from (word.value for word in node.args[:1] if isinstance(word, ast.Constant))


def find_violations(path: str, source: str) -> list[str]:
    """Lists what a file imports although it lies above it, and what one method imports of another."""
    module, found = ".".join(PurePosixPath(path).with_suffix("").parts).removesuffix(".__init__"), []
    closed = CLOSED | dict.fromkeys(METHODS, OF_RUNS)
    never = [room for place, rooms in closed.items() if lies_in(module, (place,)) for room in rooms]
    if module != "datamodules.transforms":
        never += "albumentations", "albucore"
    others = {other: name for other, name in METHODS.items() if module in METHODS and other != module}
    networks = ("lightning_modules.networks",)
    for name in list_imports(path, source):
        last = name.split(".")[-1]
        inside = lies_in(module, networks) and lies_in(name, networks)
        # A layer and its converter lie beside the method of the same name; other methods may import these, not it.
        shared = lies_in(name, ("callbacks.iabn",)) and last not in ("iabn", "*", "IaBN")
        of_callbacks = lies_in(name, ("callbacks",)) and last in others.values()
        if lies_in(name, tuple(never)) and not inside:
            found.append(f"{path} imports {name}, which {module} must not know")
        if of_callbacks or (lies_in(name, tuple(others)) and not shared):
            found.append(f"{path} imports {name}: move what two methods share down")
    return found


def test_layers() -> None:
    paths = [ROOT / "main.py", *(path for folder in PACKAGES for path in sorted((ROOT / folder).rglob("*.py")))]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    assert [violation for path, source in sources.items() for violation in find_violations(path, source)] == []
    assert len(sources["main.py"].splitlines()) < 100
    assert sum(PurePosixPath(path).parent.as_posix() == "callbacks" for path in sources) <= 20  # others lie in folders


def test_files_are_named_after_what_they_are_for() -> None:
    paths = [path.relative_to(ROOT) for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py")]
    nameless = {"util", "utils", "helper", "helpers", "misc"}
    assert [path for path in paths if nameless & {*path.with_suffix("").parts}] == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("datamodules/base.py", "def f(): import callbacks.views"),
        ("datamodules/base.py", "importlib.import_module('callbacks')"),
        ("lightning_modules/networks/fcn.py", "from ..segmentation import SegmentationModule"),
        ("callbacks/run/folder.py", "from callbacks.report.gallery import GALLERY"),
        ("callbacks/tta.py", "from callbacks import SegTTT"),
        ("callbacks/tta.py", "from callbacks.iabn import IaBN"),
    ],
)
def test_bad_imports_are_found(path: str, line: str) -> None:
    assert len(find_violations(path, line)) == 1


@pytest.mark.slow
def test_starting_loads_nothing_that_only_some_runs_need() -> None:
    seldom = {"albumentations", "jinja2", "optuna", "timm", "wandb"}
    code = f"import main, sys; assert not {seldom!r} & sys.modules.keys(), {seldom!r} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
