"""The command-line parser: reports an error in one sentence, and accepts functions that build networks."""

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml
from jsonargparse import Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser

NOISE = "Does not validate against|Subtypes: |Errors:$|Given value type: |Expected a path but"  # useless to a user
NO_CLASS = "(?:Expected a dot import path string|Unexpected import path format): (.*)"


class Parser(LightningArgumentParser):
    """Reports an error as option, value found and value expected, without printing the usage of all options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exits with a message; in the parser of a nested class, raises the error instead."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        text = shorten_message(message, getattr(parser, "files", []))
        print(f"error: {text}\nAll options: python {parser.prog.replace(' [options]', '')} --help", file=sys.stderr)
        sys.exit(2)

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Parses a command line; refuses YAML files with repeated keys, and expands ``~/``."""
        for argument in (args and args[0]) or ():
            path = Path(str(argument).partition("=")[2] or str(argument))
            if path.suffix in (".yaml", ".yml") and path.is_file():
                refuse_repeated_keys(path)
        return expand_home(super().parse_args(*args, **kwargs))

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parses a YAML file, and remembers its path for error messages."""
        self.files = [*getattr(self, "files", []), Path(cfg_path)]
        return super().parse_path(cfg_path, *args, **kwargs)

    def instantiate_classes(self, *args: Any, **kwargs: Any) -> Any:
        """Instantiates the objects of a configuration; shortens jsonargparse's errors, not those of constructors."""
        try:
            return super().instantiate_classes(*args, **kwargs)
        except ValueError as error:
            if re.search(NOISE, str(error)):
                raise ValueError(shorten_message(str(error))) from error
            raise

    def add_function_arguments(
        self, function: Callable[..., Any], *args: Any, linked_targets: set[str] | None = None, **kwargs: Any
    ) -> list[str]:
        """Adds the arguments of a function; those that are link targets get their values later, as for classes."""
        return super().add_function_arguments(function, *args, **kwargs)


def shorten_message(message: str, files: Sequence[Path] = ()) -> str:
    """Shortens a jsonargparse error to one sentence: option, value found, value expected, and YAML file if any.

    Args:
        message: The error's nested lines, with one for each type that the option accepts.
        files: The YAML files that were read.
    """
    keys: list[str] = []
    values: list[str] = []
    types: list[str] = []
    said: list[str] = []
    owner = ""
    for line in message.splitlines():
        line = line.strip().removeprefix("- ")
        if match := re.match(r'Parser key "(.*?)":\s*', line):
            keys.append(match[1])
            line = line[match.end() :]
        if match := re.match(r"Problem with given class_path '(.*)':", line):
            owner = f" ({match[1]})"
            continue
        type_ = re.match(r"Expected an? (?:<class '|typing.|<enum ')(.*?)(?:'>|\. Got|$)", line)
        value = re.search(r"(?:Got|Given) value: (.*)", line)
        if type_:
            types.append(type_[1])
        if value:
            values.append(value[1])
        if line and not (type_ or value or re.match(NOISE, line)):
            said.append(re.sub(NO_CLASS, r"\1 is neither a class (package.module.Class) nor a file", line))
    option, kinds = ".".join(keys), [kind for kind in dict.fromkeys(types) if kind != "NoneType"]
    if kinds and values:
        said.insert(0, f"{option}{owner} is {values[0]}, expected {' or '.join(kinds)}")
        if values[0] in ("True", "False", "None") and "str" in kinds:
            said.append("quote words that YAML does not read as text, such as no, yes, on and null")
    elif option:
        said.insert(0, option + owner)
    line = "^$"  # pattern of the option's line in a file
    if match := re.search(r"[Oo]ption '(.*?)'", message):
        line = rf"{re.escape(match[1])}\W*:"
    elif values:
        line = rf"{re.escape(option.split('.')[-1])}\W*:\W*{re.escape(values[0])}"
    places = [str(file) for file in files if re.search(rf"\b{line}", file.read_text(encoding="utf-8"))]
    text = ": ".join(dict.fromkeys(said)).replace('"<unicode string>"', str(files[-1]) if files else "the argument")
    return text + (f" (in {places[-1]})" if places else "")


class UniqueKeyLoader(yaml.SafeLoader):
    """Raises ValueError if a map repeats a key, of which YAML would keep the last; 010 equals 8 in YAML."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Reads a map and looks at its keys, before those of other maps are merged into it."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            name = self.construct_object(key)
            if name in seen:
                read = "" if str(name) == key.value else f" (YAML reads it as {name})"
                raise ValueError(
                    f"{self.name}, line {key.start_mark.line + 1}: the key {key.value} occurs twice{read}: expected it "
                    "once, because YAML would keep only the last"
                )
            seen.add(name)
        return node


def refuse_repeated_keys(path: Path) -> None:
    """Raises ValueError if a map in a YAML file repeats a key."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError), path.open(encoding="utf-8") as file:  # reported later
        UniqueKeyLoader(file).get_single_node()


def expand_home(value: Any) -> Any:
    """Expands a leading ``~/`` in every string of a configuration."""
    if isinstance(value, str):
        return str(Path(value).expanduser()) if value.startswith("~/") else value
    if isinstance(value, list):
        return [expand_home(item) for item in value]
    if isinstance(value, dict):
        return {key: expand_home(item) for key, item in value.items()}
    if isinstance(value, Namespace):
        vars(value).update({key: expand_home(item) for key, item in vars(value).items()})
    return value


def read_whole_numbers() -> None:
    """Makes the parser read ``limit_test_batches: 1`` as the integer 1 (one batch), not as 1.0 (all batches).

    Trainer's type is ``int | float``, and which of the two is tried first depends on what else was imported, because
    Python caches one ``Union`` for both orders.
    """
    hints = Trainer.__init__.__annotations__
    for name, hint in hints.items():
        if {int, float} <= {*get_args(hint)}:
            hints[name] = reduce(or_, get_args(hint), int)
