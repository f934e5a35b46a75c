"""Trains, chooses on the development set, and tests by main.py; started again, it skips what is finished.

A training is a process of its own, which may use several devices and ends with this one; validations and tests run in
this process.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from callbacks.results import RECORDS, SUMMARY, read_records
from callbacks.run.folder import SEARCH, RunFolder
from callbacks.run.processes import PROGRAM
from callbacks.run.records import find_commit, to_plain, write_json
from callbacks.run.settings import check_settings
from experiments.command_line import drop_options
from experiments.risk import TRUSTS, choose_trust, score_images
from experiments.scores import compare_images, flatten_summary

ROOT = Path(__file__).parent.parent
SETTINGS, TRAINING = "protocol.json", "training.json"
CHECKPOINT = "checkpoints/best.ckpt"
PATIENCE = 30.0  # seconds that a stopped training has to save its state
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
ONLY_SCORES = ("--trainer.logger=false", "--results.panels=0")
# Options for the training alone; everything else runs on one device.
OF_TRAINING = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.sync_batchnorm")
# Options that do not affect the results: a folder may be resumed with other values of them.
WITHOUT_EFFECT = (
    "trainer.accelerator", "trainer.enable_progress_bar", "trainer.enable_model_summary", "data.num_workers", "verbose",
    "results.overwrite",
)  # fmt: skip


class Study:
    """One network in a folder of its own: its training, choices on the development set, and tests; each is done once.

    Args:
        folder: Output folder.
        config: Configuration of the experiment: model, data and training.
        options: Extra arguments of every command; those for several devices apply to the training alone.
        more: Extra arguments of every command but the training.
        development: Arguments that select the development images, if they differ from the data's own.
        checkpoint: Trained weights to use instead of training.

    Attributes:
        fragments: Extra configuration files of the training.
    """

    fragments: Sequence[Path] = ()

    def __init__(
        self,
        folder: Path,
        config: Path,
        options: Sequence[str] = (),
        more: Sequence[str] = ONLY_SCORES,
        development: Sequence[str] = (),
        checkpoint: Path | None = None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.options = list(options)
        self.more = more
        self.development = development
        self.checkpoint = checkpoint

    @property
    def seconds(self) -> float | None:
        """Duration of the training; None if it was resumed."""
        return read_json(self.folder / TRAINING)["seconds"]

    def train(self) -> Path:
        """Trains the network unless it is already trained; resumes an interrupted training from its last epoch.

        Returns:
            The checkpoint that was best on the development set.

        Raises:
            RuntimeError: If the training fails; its output says why.
            ValueError: If the folder belongs to another experiment or other settings, or its checkpoint is missing.
        """
        if self.checkpoint:
            return self.checkpoint
        self._claim_folder()
        done, checkpoints = self.folder / TRAINING, self.folder / "checkpoints"
        if not done.exists():
            last = checkpoints / "last.ckpt"
            resumed = last.exists()
            command = ["fit", *(f"--config={path}" for path in (self.config, *self.fragments))]
            command += [
                f"--trainer.callbacks.dirpath={checkpoints}", "--trainer.logger=pytorch_lightning.loggers.CSVLogger",
                f"--trainer.logger.save_dir={self.folder}", "--trainer.logger.name=training", *self.options,
            ]  # fmt: skip
            command += [f"--ckpt_path={last}"] if resumed else []
            start = time.perf_counter()
            if run_to_exit([sys.executable, str(ROOT / "main.py"), *command]):
                raise RuntimeError(f"the training of {self.config} failed: see its last lines above")
            seconds = None if resumed else time.perf_counter() - start  # the time since resuming alone would mislead
            write_json(done, {"checkpoint": CHECKPOINT, "commit": find_commit(), "seconds": seconds})
        checkpoint = self.folder / CHECKPOINT
        if not checkpoint.exists():
            raise ValueError(
                f"{checkpoint} does not exist, but {done} says that it was trained: delete {done} to train again"
            )
        return checkpoint

    def validate(self, name: str, arguments: Iterable[str]) -> dict[str, Any]:
        """Scores a method on the development set, unless an earlier run did; returns the summary."""
        place = self.folder / "development" / name
        self.run("validate", place, [*self.more, *self.development, *arguments])
        return read_json(place / SUMMARY)

    def test(self, name: str, arguments: Iterable[str]) -> dict[str, Any]:
        """Scores a method on the targets, unless an earlier run did; returns the summary."""
        place = self.folder / "test" / name
        self.run("test", place, [*self.more, *arguments])
        return read_json(place / SUMMARY)

    def choose_alpha(self) -> dict[str, Any]:
        """Chooses alpha (0 for a network without BatchNorm); see `choose`."""
        return self._search("alpha", "alpha_search.AlphaSearch", {"required": False}, [])

    def choose(
        self,
        name: str,
        method: str,
        settings: Mapping[str, Any],
        grid: Mapping[str, Sequence[Any]],
        arguments: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Chooses settings of a method by scoring every combination of a grid in one pass over the development set.

        Args:
            name: Name of the search's folder. A finished search is reused, one of other values set aside and run anew.
            method: Name of a class of `callbacks`.
            settings: Settings that all combinations share.
            grid: Values to try, by argument.
            arguments: Extra command-line arguments.

        Returns:
            Contents of `search.json`: ``points`` (``values`` and ``miou`` in percent of each combination) and ``best``,
            the first of equals.
        """
        wanted = {"method": {"class_path": f"callbacks.{method}", "init_args": settings}, "grid": grid}
        return self._search(name, "method_search.MethodSearch", to_plain(wanted), arguments)

    def choose_in_turn(
        self, prefix: str, method: str, settings: Mapping[str, Any], grids: Iterable[Mapping[str, Sequence[Any]]]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Chooses by one grid after another, each with the best values of those before; see `choose`.

        Returns the settings with the chosen values, and the result of each search, whose folder's name has the prefix.
        """
        chosen, passes = dict(settings), []
        for grid in grids:
            print(f"Choosing {', '.join(grid)} of {method} on the development set ...", flush=True)
            passes.append(self.choose(f"{prefix}{'_'.join(grid)}", method, chosen, grid))
            chosen |= passes[-1]["best"]["values"]
        return chosen, passes

    def choose_trust(self, method: str, settings: Mapping[str, Any], most_hurt: float) -> dict[str, Any]:
        """Chooses the trust in a method on the development set; see `experiments.risk.choose_trust`."""
        refine = settings.get("refine", 0)
        self.choose("trust", method, settings, ({"refine": [0, refine]} if refine else {}) | {"trust": TRUSTS})
        scores = score_images(read_records(self.folder / "development" / "trust" / RECORDS))
        points = list(zip(*scores, strict=True))  # trust varies fastest
        unadapted = {0.0: points[0]}  # nor refined
        return choose_trust(dict(zip(TRUSTS, points[-len(TRUSTS) :], strict=True)) | unadapted, most_hurt)

    def score(self, name: str, arguments: Iterable[str], reference: str | None = None) -> dict[str, Any]:
        """Tests a method; returns its scores, with those of `compare_images` if a tested reference is named."""
        row = flatten_summary(self.test(name, arguments))
        if reference is None:
            return row
        return row | compare_images(*(self.folder / "test" / tested / RECORDS for tested in (reference, name)))

    def score_all(self, methods: Mapping[str, Iterable[str]], reference: str | None = None) -> list[dict[str, Any]]:
        """Tests methods, each given by name and arguments; returns a row for each (see `score`)."""
        if reference is not None:
            self.test(reference, methods[reference])
        rows = []
        for name, arguments in methods.items():
            print(f"Testing {name} on the targets of {self.folder.name} ...", flush=True)
            rows.append({"method": name, **self.score(name, arguments, reference)})
        return rows

    def run(self, command: str, place: Path, arguments: Iterable[str]) -> Any:
        """Runs main.py on the trained network, with results in a folder; returns its command line object.

        It runs also if the results are complete, and compares their settings with these.
        """
        from main import main  # slow to import

        checkpoint = self.train()
        own = reduce(drop_options, OF_TRAINING, self.options)
        common = [f"--config={self.config}", *own, f"--ckpt_path={checkpoint}", "--verbose=false"]
        return main([command, *common, f"--results.folder={place}", *arguments])

    def _search(self, name: str, kind: str, wanted: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
        """Runs one search over the development set, unless it is finished; returns its result."""
        place = self.folder / "development" / name
        search = json.dumps([{"class_path": f"callbacks.{kind}", "init_args": wanted}])
        plain = [*self.more, *ONLY_SCORES, "--method=null", f"--trainer.callbacks={search}", *self.development]
        if is_of_another(RunFolder(place).read_manifest(), wanted):
            plain.append("--results.overwrite=true")
        self.run("validate", place, [*plain, *arguments])
        return read_json(place / SEARCH)

    def _claim_folder(self) -> None:
        """Records the experiment of the folder; raises ValueError if the folder belongs to a different one."""
        if not self.config.is_file():
            raise ValueError(
                f"the config {self.config} does not exist: expected an experiment, such as configs/experiment/NAME.yaml"
            )
        kept = reduce(drop_options, OF_TRAINING + WITHOUT_EFFECT, self.options)
        settings = to_plain({"experiment": read_config(self.config), "options": list(map(shorten_path, kept))})
        path = self.folder / SETTINGS
        if path.exists():
            earlier = read_json(path)
            earlier["options"] = list(map(shorten_path, earlier.get("options", [])))  # in full in earlier revisions
            check_settings(
                self.folder, "the protocol", {key: earlier.get(key) for key in settings}, settings, "another --folder"
            )
        else:
            write_json(path, settings)


def run_to_exit(command: Sequence[str]) -> int:
    """Runs a command and returns its exit code; stops the command if this process is stopped."""
    process = subprocess.Popen(command, env=os.environ | {PROGRAM: str(os.getpid())})  # ends with this process
    try:
        return process.wait()
    except BaseException as reason:
        if not isinstance(reason, KeyboardInterrupt):  # Ctrl-C in a terminal reaches both
            process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


def shorten_path(option: str) -> str:
    """Makes the path of an option relative if it lies in this checkout: moving the checkout changes nothing."""
    return option.replace(f"={ROOT}{os.sep}", "=", 1)


def read_json(path: Path) -> Any:
    """Reads a JSON file; raises a ValueError that names the file if it is not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}): delete it if the folder belongs to this experiment"
        ) from error


def read_config(path: Path) -> Any:
    """Reads a config and replaces the names of YAML files in it with their contents, as the command line does."""

    def fill(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): fill(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [fill(inner) for inner in value]
        if isinstance(value, str) and value.endswith((".yaml", ".yml")) and (path.parent / value).is_file():
            return read_config(path.parent / value)
        return value

    try:
        return fill(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (UnicodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error


def is_of_another(manifest: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Returns whether an earlier search used another grid or other settings than are wanted."""
    found = manifest and manifest["settings"].get("search")
    if not found or "grid" not in wanted:
        return False
    settings = wanted["method"]["init_args"]
    return found["grid"] != wanted["grid"] or any(found["method"].get(key) != settings[key] for key in settings)


def describe_method(method: str, settings: Mapping[str, Any]) -> list[str]:
    """Returns the command-line arguments that select a method with its settings."""
    structured = list | dict | bool
    values = {key: json.dumps(value) if isinstance(value, structured) else value for key, value in settings.items()}
    return [f"--method={method}", *(f"--method.{key}={value}" for key, value in values.items() if value is not None)]


def list_paper_methods(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Lists the paper's methods with one choice of settings, those of Seg-TTT: arguments by name."""
    alpha, plain = settings["alpha"], ["--method=null"]  # no method, even if the experiment has one
    views = {key: settings[key] for key in ("alpha", "scales") if key in settings}
    return {
        "t-BN": plain,
        "p-BN": describe_method("IaBN", {"alpha": 1.0}),
        "IaBN": describe_method("IaBN", {"alpha": alpha}) if alpha else plain,  # alpha 0 is t-BN
        "TTA": describe_method("TTA", views),
        "Seg-TTT": describe_method("SegTTT", settings),
    }
