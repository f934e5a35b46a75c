"""The layers of the project, read from its imports without importing anything.

    main, experiments -> callbacks -> lightning_modules -> torch        datamodules -> torch

Within callbacks: methods -> adaptation; results, predictions, searches -> report -> run. How a method predicts knows
nothing of the files and pages that a run leaves.

The checks are functions from `{path: source}` to sentences about violations, so that the tests at the end can show
each of them failing on a bad source.
"""

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "experiments")

# Which of the project's top-level names each layer may import.
MAY_IMPORT = {
    "datamodules": {"datamodules"},
    "lightning_modules": {"lightning_modules"},
    "callbacks": {"callbacks", "lightning_modules"},
    "main": {"datamodules", "lightning_modules", "callbacks"},
    "experiments": {"datamodules", "lightning_modules", "callbacks", "main", "experiments"},
}
PROJECT = {*MAY_IMPORT, "tests"}

METHOD_BASE = "Method"
# A layer and its converter live beside the method of the same name; other methods may import these, not the method.
SHARES_WITH_METHODS = {"callbacks.iabn"}

ALBUMENTATIONS_HOME = "datamodules/transforms.py"
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
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

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


def module_name(path: str) -> str:
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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


def check_layers(sources: Sources) -> list[str]:
    found = []
    for path, source in sources.items():
        layer = module_name(path).split(".")[0]
        for item in imports(path, source):
            if item.top in PROJECT and item.top not in MAY_IMPORT[layer]:
                found.append(f"{path}:{item.line} imports {item.dotted}, which {layer} must not know")
    return found


def method_classes(sources: Sources) -> dict[str, set[str]]:
    """Module -> names of the classes it defines that descend from Method, directly or through one another."""
    bases: dict[tuple[str, str], set[str]] = {}
    for path, source in sources.items():
        if PurePosixPath(path).parts[0] != "callbacks":
            continue
        for node in ast.walk(ast.parse(source, filename=path)):
            if isinstance(node, ast.ClassDef):
                names = {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}
                bases[module_name(path), node.name] = names
    methods = {METHOD_BASE}
    while True:
        grown = methods | {name for (_, name), parents in bases.items() if parents & methods}
        if grown == methods:
            break
        methods = grown
    found: dict[str, set[str]] = {}
    for module, name in bases:
        if name in methods and name != METHOD_BASE:
            found.setdefault(module, set()).add(name)
    return found


def check_methods(sources: Sources) -> list[str]:
    methods = method_classes(sources)
    all_names = set().union(*methods.values()) if methods else set()
    found = []
    for path, source in sources.items():
        module = module_name(path)
        if module not in methods:
            continue
        for item in imports(path, source):
            if item.top != "callbacks":
                continue
            others = {other for other in methods if other != module}
            if item.dotted in others:
                problem = "a whole module of another method"
            elif item.name in all_names:
                problem = "another method"
            elif item.module in others and (item.module not in SHARES_WITH_METHODS or item.name == "*"):
                problem = "from another method's module; move what two methods share down"
            else:
                continue
            found.append(f"{path}:{item.line} imports {item.dotted}: {problem}")
    return found


def check_rooms(sources: Sources) -> list[str]:
    """Methods and what they share know nothing of a run on disk, and that nothing of its report."""
    methods = {*method_classes(sources), "callbacks.method"}
    found = []
    for path, source in sources.items():
        module = module_name(path)
        if module in methods or module.startswith("callbacks.adaptation"):
            closed = ("callbacks.run", "callbacks.report")
        elif module.startswith("callbacks.run"):
            closed = ("callbacks.report",)
        else:
            continue
        found += [
            f"{path}:{item.line} imports {item.dotted}, which lies in another room"
            for item in imports(path, source)
            if f"{item.dotted}.".startswith(tuple(f"{room}." for room in closed))
        ]
    floor = [path for path in sources if PurePosixPath(path).parent.as_posix() == "callbacks"]
    return found + [f"callbacks has {len(floor)} files on its own floor, expected {FLOOR}"] * (len(floor) > FLOOR)


def check_albumentations(sources: Sources) -> list[str]:
    return [
        f"{path}:{item.line} imports {item.dotted}; only {ALBUMENTATIONS_HOME} may"
        for path, source in sources.items()
        if path != ALBUMENTATIONS_HOME
        for item in imports(path, source)
        if item.top in {"albumentations", "albucore"}
    ]


def check_networks(sources: Sources) -> list[str]:
    """Networks are pure torch: no Lightning, and nothing of the layer around them."""
    home = "lightning_modules.networks"
    found = []
    for path, source in sources.items():
        if not f"{module_name(path)}.".startswith(f"{home}."):
            continue
        for item in imports(path, source):
            outside = item.top == "lightning_modules" and not f"{item.dotted}.".startswith(f"{home}.")
            if item.top in LIGHTNING or outside:
                found.append(f"{path}:{item.line} imports {item.dotted}; networks are pure torch")
    return found


def check_names(sources: Sources) -> list[str]:
    return [
        f"{path}: name it after what it is for, not {part!r}"
        for path in sources
        for part in PurePosixPath(path).with_suffix("").parts
        if part in NAMELESS
    ]


def check_main(sources: Sources) -> list[str]:
    lines = len(sources.get("main.py", "").splitlines())
    return [f"main.py has {lines} lines, expected fewer than {MAIN_LINES}"] if lines >= MAIN_LINES else []


def read(*folders: str) -> Sources:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


@pytest.fixture(scope="module")
def project() -> Sources:
    return {**read(*PACKAGES), "main.py": (ROOT / "main.py").read_text(encoding="utf-8")}


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_found(project: Sources, package: str) -> None:
    assert any(path.startswith(f"{package}/") for path in project)


def test_methods_are_found(project: Sources) -> None:
    assert {"callbacks.iabn", "callbacks.tta", "callbacks.seg_ttt"} <= set(method_classes(project))


@pytest.mark.parametrize(
    "check", [check_layers, check_methods, check_rooms, check_albumentations, check_networks, check_names, check_main]
)
def test_project(project: Sources, check) -> None:
    assert check(project) == []


def test_names_of_tests() -> None:
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


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("datamodules/base.py", "import lightning_modules"),
        ("datamodules/base.py", "from lightning_modules.networks import DeepLabV1"),
        ("datamodules/base.py", "def f():\n    import callbacks.iabn"),
        ("datamodules/base.py", "import importlib\nimportlib.import_module('callbacks')"),
        ("lightning_modules/segmentation.py", "from datamodules.labels import LabelSpace"),
        ("lightning_modules/segmentation.py", "from callbacks import results"),
        ("lightning_modules/networks/deeplab.py", "from ...callbacks import results"),
        ("callbacks/results.py", "from datamodules import labels"),
        ("callbacks/results.py", "import main"),
        ("callbacks/results.py", "from tests import fakes"),
        ("main.py", "from experiments import demo"),
        ("experiments/demo.py", "import tests.fakes"),
    ],
)
def test_check_layers_finds(path: str, source: str) -> None:
    assert len(check_layers({path: source})) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("datamodules/gta.py", "import torch\nfrom .base import SegmentationDataset\nfrom . import labels"),
        ("callbacks/iabn.py", "from lightning_modules.metrics import mean_iou\nfrom callbacks.method import Method"),
        ("main.py", "import callbacks, datamodules, lightning_modules"),
        ("experiments/demo.py", "from main import main\nfrom experiments import tables\nimport datamodules"),
        ("datamodules/gta.py", '"""import callbacks"""  # import callbacks'),
    ],
)
def test_check_layers_allows(path: str, source: str) -> None:
    assert check_layers({path: source}) == []


def test_method_classes_are_found_by_descent() -> None:
    assert method_classes(METHODS) == {
        "callbacks.iabn": {"IaBN"},
        "callbacks.tta": {"TTA"},
        "callbacks.child": {"Child"},
    }


@pytest.mark.parametrize(
    "line",
    [
        "import callbacks.tta",
        "from callbacks import tta",
        "from . import tta",
        "from callbacks.tta import TTA",
        "from callbacks.tta import fuse",
        "from .tta import fuse",
        "from callbacks import TTA",
        "from callbacks.iabn import IaBN",
        "from callbacks.iabn import *",
        "import callbacks.iabn",
    ],
)
def test_check_methods_finds(line: str) -> None:
    sources = METHODS | {"callbacks/tent.py": f"from callbacks.method import Method\n{line}\nclass Tent(Method): ..."}
    assert len(check_methods(sources)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "from callbacks.iabn import InstanceAdaptiveBatchNorm2d, convert_batch_norm",
        "from callbacks.views import views",
        "from callbacks import views",
        "from lightning_modules.metrics import TTA",
    ],
)
def test_check_methods_allows(line: str) -> None:
    sources = METHODS | {"callbacks/tent.py": f"from callbacks.method import Method\n{line}\nclass Tent(Method): ..."}
    assert check_methods(sources) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("callbacks/tta.py", "from callbacks.run.records import write_file"),
        ("callbacks/method.py", "from callbacks import report"),
        ("callbacks/adaptation/steps.py", "import callbacks.report.page"),
        ("callbacks/run/folder.py", "from callbacks.report.gallery import GALLERY"),
    ],
)
def test_check_rooms_finds(path: str, line: str) -> None:
    assert len(check_rooms(METHODS | {path: f"{line}\n{METHODS.get(path, '')}"})) == 1
    assert (
        check_rooms(METHODS | {"callbacks/results.py": line, "callbacks/report/page.py": line.replace("report", "run")})
        == []
    )


def test_check_rooms_counts_the_floor() -> None:
    assert len(check_rooms({f"callbacks/file_{number}.py": "" for number in range(FLOOR + 1)})) == 1


def test_check_methods_lets_others_import_methods() -> None:
    assert check_methods(METHODS | {"callbacks/__init__.py": "from callbacks.tta import TTA"}) == []


@pytest.mark.parametrize("source", ["import albumentations as A", "from albumentations.pytorch import ToTensorV2"])
def test_check_albumentations(source: str) -> None:
    assert len(check_albumentations({"datamodules/base.py": source})) == 1
    assert check_albumentations({ALBUMENTATIONS_HOME: source}) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pytorch_lightning as pl",
        "from lightning.pytorch import LightningModule",
        "from ..segmentation import SegmentationModule",
        "from lightning_modules import metrics",
    ],
)
def test_check_networks(source: str) -> None:
    assert len(check_networks({"lightning_modules/networks/deeplab.py": source})) == 1
    assert check_networks({"lightning_modules/segmentation.py": source}) == []


def test_check_networks_allows() -> None:
    source = "import torch\nfrom .resnet import ResNet\nfrom lightning_modules.networks import deeplab"
    assert check_networks({"lightning_modules/networks/__init__.py": source.replace(".resnet", ".r")}) == []
    assert check_networks({"lightning_modules/networks/deeplab.py": source}) == []


@pytest.mark.parametrize("path", ["callbacks/utils.py", "datamodules/helpers/io.py", "tests/misc.py"])
def test_check_names(path: str) -> None:
    assert len(check_names({path: ""})) == 1


def test_check_main() -> None:
    assert check_main({"main.py": "pass\n" * 99}) == []
    assert len(check_main({"main.py": "pass\n" * 100})) == 1
