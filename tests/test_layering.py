"""The layers of the project, read from its imports without importing anything.

    main, experiments -> callbacks -> lightning_modules -> torch        datamodules -> torch

Within callbacks: methods -> adaptation; results, predictions, searches -> report -> run. How a method predicts knows
nothing of the files and pages that a run leaves.

The checks are functions from `{path: source}` to sentences about violations, so that the tests at the end can show
each of them failing on a bad source.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "experiments")

# A layer or a room -> what it must not import, and what of that it may.
CLOSED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "datamodules": (("lightning_modules", "callbacks", "main", "experiments", "tests"), ()),
    "lightning_modules": (("datamodules", "callbacks", "main", "experiments", "tests"), ()),
    "callbacks": (("datamodules", "main", "experiments", "tests"), ()),
    "main": (("experiments", "tests"), ()),
    "experiments": (("tests",), ()),
    "lightning_modules.networks": (  # pure torch
        ("lightning", "pytorch_lightning", "lightning_fabric", "lightning_modules"),
        ("lightning_modules.networks",),
    ),
    "callbacks.adaptation": (("callbacks.run", "callbacks.report"), ()),
    "callbacks.method": (("callbacks.run", "callbacks.report"), ()),
    "callbacks.run": (("callbacks.report",), ()),
}
OF_METHODS = ("callbacks.run", "callbacks.report")
ALBUMENTATIONS, ALBUMENTATIONS_HOME = ("albumentations", "albucore"), "datamodules.transforms"

METHOD_BASE = "Method"
# A layer and its converter live beside the method of the same name; other methods may import these, not the method.
SHARES_WITH_METHODS = {"callbacks.iabn"}

NAMELESS = {"util", "utils", "helper", "helpers", "misc"}
MAIN_LINES = 100
FLOOR = 20  # files of callbacks that lie in no folder below it

Sources = dict[str, str]


class Import(NamedTuple):
    """One imported thing: `name` is None for `import module`."""

    module: str
    name: str | None
    line: int

    @property
    def dotted(self) -> str:
        return self.module if self.name is None else f"{self.module}.{self.name}"


def module_name(path: str) -> str:
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def lies_in(module: str, rooms: Iterable[str]) -> bool:
    return f"{module}.".startswith(tuple(f"{room}." for room in rooms))


def imports(path: str, source: str) -> Iterator[Import]:
    """All imports of a file, also those inside functions, with relative ones resolved."""
    package = module_name(path).split(".")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(source, filename=path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(module, alias.name, node.lineno)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in {"__import__", "import_module", "importlib.import_module"}:
                yield Import(str(node.args[0].value), None, node.lineno)


def method_classes(sources: Sources) -> dict[str, set[str]]:
    """Module -> names of the classes it defines that descend from Method, directly or through one another."""
    bases: dict[tuple[str, str], set[str]] = {}
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source, filename=path)):
            if path.startswith("callbacks/") and isinstance(node, ast.ClassDef):
                names = {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}
                bases[module_name(path), node.name] = names
    methods, count = {METHOD_BASE}, 0
    while len(methods) > count:
        count = len(methods)
        methods |= {name for (_, name), parents in bases.items() if parents & methods}
    found: dict[str, set[str]] = {}
    for module, name in bases:
        if name in methods - {METHOD_BASE}:
            found.setdefault(module, set()).add(name)
    return found


def check_imports(sources: Sources) -> list[str]:
    """Layers and rooms import only what lies below them."""
    closed = CLOSED | dict.fromkeys(method_classes(sources), (OF_METHODS, ()))
    found = []
    for path, source in sources.items():
        module = module_name(path)
        rules = [rule for room, rule in closed.items() if lies_in(module, [room])]
        if module != ALBUMENTATIONS_HOME:
            rules.append((ALBUMENTATIONS, ()))
        for item in imports(path, source):
            if any(lies_in(item.dotted, never) and not lies_in(item.dotted, but) for never, but in rules):
                found.append(f"{path}:{item.line} imports {item.dotted}, which {module} must not know")
    return found


def check_methods(sources: Sources) -> list[str]:
    """Methods never import each other."""
    methods = method_classes(sources)
    names = {name for classes in methods.values() for name in classes}
    found = []
    for path, source in sources.items():
        others = methods.keys() - {module_name(path)}
        if len(others) == len(methods):
            continue  # it holds no method
        for item in imports(path, source):
            shared = item.module in SHARES_WITH_METHODS and item.name != "*"
            of_callbacks = lies_in(item.module, ["callbacks"])
            whole, method = item.dotted in others, of_callbacks and item.name in names
            if whole or method or (item.module in others and not shared):
                found.append(f"{path}:{item.line} imports {item.dotted}: move what two methods share down")
    return found


def check_names(sources: Sources) -> list[str]:
    """Files are named after what they are for."""
    parts = {path: {*PurePosixPath(path).with_suffix("").parts} for path in sources}
    return [f"{path}: name it after what it is for" for path in sources if parts[path] & NAMELESS]


def check_sizes(sources: Sources) -> list[str]:
    """main.py stays short, and the floor of callbacks can be overlooked."""
    lines = len(sources.get("main.py", "").splitlines())
    floor = [path for path in sources if PurePosixPath(path).parent.as_posix() == "callbacks"]
    return [f"main.py has {lines} lines, expected fewer than {MAIN_LINES}"] * (lines >= MAIN_LINES) + [
        f"callbacks has {len(floor)} files on its own floor, expected {FLOOR}"
    ] * (len(floor) > FLOOR)


def read(*folders: str) -> Sources:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


@pytest.mark.parametrize("check", [check_imports, check_methods, check_names, check_sizes])
def test_project(check) -> None:
    project = {**read(*PACKAGES), "main.py": (ROOT / "main.py").read_text(encoding="utf-8")}
    assert all(any(path.startswith(f"{package}/") for path in project) for package in PACKAGES)
    assert {"callbacks.iabn", "callbacks.tta", "callbacks.seg_ttt"} <= set(method_classes(project))
    assert check(project) == []
    assert check_names(read("tests")) == []


# The checks themselves, on sources made up for them.

METHODS = {
    "callbacks/method.py": "class Method: ...",
    "callbacks/iabn.py": (
        "from callbacks.method import Method\n"
        "class InstanceAdaptiveBatchNorm2d: ...\n"
        "def convert_batch_norm(): ...\n"
        "class IaBN(Method): ..."
    ),
    "callbacks/tta.py": "from callbacks import method\nclass TTA(method.Method): ...",
    "callbacks/child.py": "from somewhere import TTA\nclass Child(TTA): ...",
    "callbacks/views.py": "def views(): ...",
}


def test_method_classes_are_found_by_descent() -> None:
    found = {"callbacks.iabn": {"IaBN"}, "callbacks.tta": {"TTA"}, "callbacks.child": {"Child"}}
    assert method_classes(METHODS) == found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("datamodules/base.py", "import lightning_modules"),
        ("datamodules/base.py", "def f():\n    import callbacks.iabn"),
        ("datamodules/base.py", "import importlib\nimportlib.import_module('callbacks')"),
        ("datamodules/base.py", "import albumentations as A"),
        ("lightning_modules/segmentation.py", "from datamodules.labels import LabelSpace"),
        ("lightning_modules/networks/deeplab.py", "from ...callbacks import results"),
        ("lightning_modules/networks/deeplab.py", "import pytorch_lightning as pl"),
        ("lightning_modules/networks/deeplab.py", "from lightning.pytorch import LightningModule"),
        ("lightning_modules/networks/deeplab.py", "from ..segmentation import SegmentationModule"),
        ("lightning_modules/networks/deeplab.py", "from lightning_modules import metrics"),
        ("callbacks/results.py", "from datamodules import labels"),
        ("callbacks/results.py", "import main"),
        ("callbacks/tta.py", "from callbacks.run.records import write_file"),
        ("callbacks/method.py", "from callbacks import report"),
        ("callbacks/adaptation/steps.py", "import callbacks.report.page"),
        ("callbacks/run/folder.py", "from callbacks.report.gallery import GALLERY"),
        ("main.py", "from experiments import demo"),
        ("experiments/demo.py", "import tests.fakes"),
    ],
)
def test_check_imports_finds(path: str, source: str) -> None:
    assert len(check_imports(METHODS | {path: f"{source}\n{METHODS.get(path, '')}"})) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("datamodules/gta.py", "import torch\nfrom .base import SegmentationDataset\nfrom . import labels"),
        ("datamodules/gta.py", '"""import callbacks"""  # import callbacks'),
        ("datamodules/transforms.py", "from albumentations.pytorch import ToTensorV2"),
        ("lightning_modules/networks/__init__.py", "import torch\nfrom .resnet import R"),
        ("callbacks/iabn.py", "from lightning_modules.metrics import mean_iou\nfrom callbacks.method import Method"),
        ("callbacks/results.py", "from callbacks.report.page import write_page\nimport callbacks.run.records"),
        ("main.py", "import callbacks, datamodules, lightning_modules"),
        ("experiments/demo.py", "from main import main\nfrom experiments import tables\nimport datamodules"),
    ],
)
def test_check_imports_allows(path: str, source: str) -> None:
    assert check_imports({path: source}) == []


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("import callbacks.tta", 1),
        ("from . import tta", 1),
        ("from .tta import fuse", 1),
        ("from callbacks import TTA", 1),
        ("from callbacks.iabn import IaBN", 1),
        ("from callbacks.iabn import *", 1),
        ("import callbacks.iabn", 1),
        ("from callbacks.iabn import InstanceAdaptiveBatchNorm2d, convert_batch_norm", 0),
        ("from callbacks import views", 0),
        ("from lightning_modules.metrics import TTA", 0),
    ],
)
def test_check_methods(line: str, count: int) -> None:
    method = f"from callbacks.method import Method\n{line}\nclass Tent(Method): ..."
    assert len(check_methods(METHODS | {"callbacks/tent.py": method})) == count
    assert check_methods(METHODS | {"callbacks/__init__.py": line}) == []  # which is no method


@pytest.mark.parametrize("path", ["callbacks/utils.py", "datamodules/helpers/io.py", "tests/misc.py"])
def test_check_names(path: str) -> None:
    assert len(check_names({path: ""})) == 1


def test_check_sizes() -> None:
    assert check_sizes({"main.py": "pass\n" * 99}) == []
    assert len(check_sizes({"main.py": "pass\n" * 100})) == 1
    assert len(check_sizes({f"callbacks/file_{number}.py": "" for number in range(FLOOR + 1)})) == 1
