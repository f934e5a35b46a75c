"""The layers of the project, read from its imports without importing anything.

    main, experiments -> callbacks -> lightning_modules -> torch        datamodules -> torch

Within callbacks: methods -> adaptation; results, predictions, searches -> report -> run. How a method predicts knows
nothing of the files and pages that a run leaves.

The checks are functions from `{path: source}` to sentences about violations, so that the tests at the end can show
them failing on bad sources.
"""

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
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
ALBUMENTATIONS, ALBUMENTATIONS_HOME = ("albumentations", "albucore"), "datamodules.transforms"
# A layer and its converter lie beside the method of the same name; other methods may import these, not the method.
SHARES_WITH_METHODS = "callbacks.iabn"
NAMELESS = {"util", "utils", "helper", "helpers", "misc"}
MAIN_LINES = 100
FLOOR = 20  # files of callbacks that lie in no folder below it

Sources = dict[str, str]


def module_name(path: str) -> str:
    return ".".join(PurePosixPath(path).with_suffix("").parts).removesuffix(".__init__")


def lies_in(module: str, rooms: tuple[str, ...]) -> bool:
    return f"{module}.".startswith(tuple(f"{room}." for room in rooms))


def list_imports(path: str, source: str) -> Iterator[str]:
    """Yields what a file imports, also inside functions, as `module` or `module.name`; relative ones are resolved."""
    package = PurePosixPath(path).parent.parts
    for node in ast.walk(ast.parse(source, filename=path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield from (word.value for word in node.args[:1] if isinstance(word, ast.Constant))


def find_methods(sources: Sources) -> dict[str, str]:
    """Returns the modules that define a class that descends from Method, and the class."""
    classes = {
        (module_name(path), node.name): {ast.unparse(base).split(".")[-1] for base in node.bases}
        for path, source in sources.items()
        if path.startswith("callbacks/")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    }
    known = {"Method"}
    while more := {name for (_, name), bases in classes.items() if bases & known} - known:
        known |= more
    return {module: name for module, name in classes if name in known - {"Method"}}


def check_imports(sources: Sources) -> list[str]:
    """Layers and rooms import only what lies below them, and methods never import each other."""
    methods = find_methods(sources)
    closed = CLOSED | dict.fromkeys(methods, OF_RUNS)
    found = []
    for path, source in sources.items():
        module = module_name(path)
        never = [room for place, rooms in closed.items() if lies_in(module, (place,)) for room in rooms]
        if module != ALBUMENTATIONS_HOME:
            never += ALBUMENTATIONS
        for name in list_imports(path, source):
            inside = lies_in(module, ("lightning_modules.networks",)) and lies_in(name, ("lightning_modules.networks",))
            if lies_in(name, tuple(never)) and not inside:
                found.append(f"{path} imports {name}, which {module} must not know")
            others = methods.keys() - {module} if module in methods else set()
            classes = [methods[other] for other in others]
            shared = lies_in(name, (SHARES_WITH_METHODS,)) and name.split(".")[-1] not in ("iabn", "*", "IaBN")
            of_callbacks = lies_in(name, ("callbacks",)) and name.split(".")[-1] in classes
            if of_callbacks or (lies_in(name, tuple(others)) and not shared):
                found.append(f"{path} imports {name}: move what two methods share down")
    return found


def check_names_and_sizes(sources: Sources) -> list[str]:
    """Files are named after what they are for, main.py stays short, and callbacks can be overlooked."""
    found = [
        f"{path}: name it after what it is for" for path in sources if NAMELESS & {*Path(path).with_suffix("").parts}
    ]
    if len(sources.get("main.py", "").splitlines()) >= MAIN_LINES:
        found.append(f"main.py has {MAIN_LINES} lines or more")
    if sum(PurePosixPath(path).parent.as_posix() == "callbacks" for path in sources) > FLOOR:
        found.append(f"callbacks has more than {FLOOR} files on its own floor")
    return found


def read(*folders: str) -> Sources:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_project() -> None:
    project = {**read(*PACKAGES), "main.py": (ROOT / "main.py").read_text(encoding="utf-8")}
    assert {"callbacks.iabn", "callbacks.tta", "callbacks.seg_ttt"} <= find_methods(project).keys()
    assert check_imports(project) == [] == check_names_and_sizes(project)
    assert check_names_and_sizes(read("tests")) == []


METHODS = {
    "callbacks/iabn.py": "from callbacks.method import Method\nclass Layer: ...\nclass IaBN(Method): ...",
    "callbacks/tta.py": "from callbacks import method\nclass TTA(method.Method): ...",
    "callbacks/child.py": "from somewhere import TTA\nclass Child(TTA): ...",
}


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("datamodules/base.py", "def f(): import callbacks.views"),
        ("datamodules/base.py", "importlib.import_module('callbacks')"),
        ("datamodules/base.py", "import albumentations as A"),
        ("lightning_modules/networks/deeplab.py", "import pytorch_lightning as pl"),
        ("lightning_modules/networks/deeplab.py", "from ..segmentation import SegmentationModule"),
        ("callbacks/child.py", "from callbacks.run.records import write_file"),
        ("callbacks/run/folder.py", "from callbacks.report.gallery import GALLERY"),
        ("callbacks/child.py", "from . import tta"),
        ("callbacks/child.py", "from callbacks import TTA"),
        ("callbacks/child.py", "from callbacks.iabn import IaBN"),
    ],
)
def test_bad_imports_are_found(path: str, line: str) -> None:
    assert len(check_imports(METHODS | {path: f"{line}\n{METHODS.get(path, '')}"})) == 1
    good = "from callbacks.iabn import Layer\n" if path == "callbacks/child.py" else ""
    assert check_imports(METHODS | {path: good + METHODS.get(path, "")}) == []


def test_bad_names_and_sizes_are_found() -> None:
    assert len(check_names_and_sizes({"callbacks/utils.py": "", "tests/helpers/io.py": "", "tests/fine.py": ""})) == 2
    assert len(check_names_and_sizes({"main.py": "pass\n" * MAIN_LINES})) == 1
    assert len(check_names_and_sizes({f"callbacks/file_{number}.py": "" for number in range(FLOOR + 1)})) == 1
