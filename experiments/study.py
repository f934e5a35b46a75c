"""Trains, chooses on the development set, and tests by main.py; started again, it skips what is finished.

A training is a process of its own, which may use several devices and ends with this one; validations and tests run in
this process.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from callbacks.report.summary import score_record
from callbacks.results import RECORDS, SUMMARY, read_records
from callbacks.run.folder import SEARCH, RunFolder
from callbacks.run.processes import PROGRAM
from callbacks.run.records import find_commit, to_plain, write_json
from callbacks.run.settings import check_settings
from experiments.command_line import drop_options
from experiments.risk import MARGIN, TRUSTS, choose_trust, score_images
from experiments.scores import flatten_summary

ROOT = Path(__file__).parent.parent
SETTINGS, TRAINING, SELECTION = "protocol.json", "training.json", "selection.yaml"
CHECKPOINT = "checkpoints/best.ckpt"
PATIENCE = 30.0  # seconds that a stopped training has to save its state
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
# Options for the training alone; everything else runs on one device.
OF_TRAINING = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.sync_batchnorm")
# Options that do not affect the results: a folder may be resumed with other values of them.
WITHOUT_EFFECT = (
    "trainer.accelerator", "trainer.enable_progress_bar", "trainer.enable_model_summary", "data.num_workers", "verbose",
    "results.overwrite",
)  # fmt: skip


def train(
    folder: Path,
    config: Path,
    options: Sequence[str] = (),
    fragments: Sequence[Path] = (),
    tried: Mapping[str, Any] | None = None,
) -> Path:
    """Trains a network unless it is already trained; resumes an interrupted training from its last epoch.

    Args:
        folder: Folder of everything written for this network.
        config: Configuration of the experiment: model, data and training.
        options: Extra arguments of main.py.
        fragments: Extra configuration files, for the training alone.
        tried: Values to try on the development set; they may change until the choice is frozen.

    Returns:
        The checkpoint that was best on the development set.

    Raises:
        RuntimeError: If the training fails; its output says why.
        ValueError: If the folder belongs to another experiment or other settings, or its checkpoint is missing.
    """
    claim_folder(folder, config, options, tried or {})
    done, checkpoints = folder / TRAINING, folder / "checkpoints"
    if not done.exists():
        last = checkpoints / "last.ckpt"
        command = ["fit", *(f"--config={path}" for path in (config, *fragments))]
        command += [
            f"--trainer.callbacks.dirpath={checkpoints}",
            "--trainer.logger=pytorch_lightning.loggers.CSVLogger",
        ]
        command += [f"--trainer.logger.save_dir={folder}", "--trainer.logger.name=training", *options]
        resumed = last.exists()
        command += [f"--ckpt_path={last}"] if resumed else []
        start = time.perf_counter()
        if run_to_exit([sys.executable, str(ROOT / "main.py"), *command]):
            raise RuntimeError(f"the training of {config} failed: see its last lines above")
        seconds = None if resumed else time.perf_counter() - start  # the time since resuming alone would mislead
        report = {"checkpoint": CHECKPOINT, "commit": find_commit(), "seconds": seconds}
        write_json(done, report)
    checkpoint = folder / CHECKPOINT
    if not checkpoint.exists():
        raise ValueError(
            f"{checkpoint} does not exist, but {done} says that it was trained: delete {done} to train again"
        )
    return checkpoint


def run_to_exit(command: Sequence[str]) -> int:
    """Runs a command and returns its exit code; stops the command if this process is stopped."""
    process = subprocess.Popen(command, env=os.environ | {PROGRAM: str(os.getpid())})  # ends with this process
    try:
        return process.wait()
    except BaseException as reason:
        if not isinstance(reason, KeyboardInterrupt):  # Ctrl-C in a terminal reaches both
            process.terminate()
        try:
            process.wait(PATIENCE)  # time to save its state
        except subprocess.TimeoutExpired:
            process.kill()
        raise


def claim_folder(folder: Path, config: Path, options: Sequence[str], tried: Mapping[str, Any]) -> None:
    """Records the experiment of a folder; raises ValueError if the folder belongs to a different one."""
    kept = reduce(drop_options, OF_TRAINING + WITHOUT_EFFECT, options)
    trained = {"experiment": read_config(config), "options": list(map(shorten_path, kept))}
    settings = to_plain({**trained, **tried})
    path = folder / SETTINGS
    earlier = read_json(path) if path.exists() else {}
    if earlier:
        earlier["options"] = list(map(shorten_path, earlier.get("options", [])))  # in full in earlier revisions
        fixed = settings if (folder / SELECTION).exists() else trained
        before, now = ({key: part.get(key) for key in fixed} for part in (earlier, settings))
        check_settings(folder, "the protocol", before, now, "another --folder")
    if earlier != settings:
        write_json(path, settings)


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


def open_study(
    folder: Path,
    config: Path,
    options: Sequence[str],
    more: Sequence[str] = ("--trainer.logger=false", "--results.panels=0"),
    development: Sequence[str] = (),
    checkpoint: Path | None = None,
) -> "Study":
    """Opens the study of a network; trains the network first if needed.

    Args:
        folder: Output folder.
        config: Configuration of the experiment.
        options: Extra arguments of every command; those for several devices apply to the training alone.
        more: Extra arguments of every command but the training.
        development: See `Study`.
        checkpoint: Trained weights to use instead of training.
    """
    checkpoint = checkpoint or train(folder, config, options)
    own = reduce(drop_options, OF_TRAINING, list(options))
    common = [f"--config={config}", *own, f"--ckpt_path={checkpoint}", "--verbose=false", *more]
    return Study(folder, common, development)


class Study:
    """One trained network, the choices made for it on the development set, and its tests; each is run only once.

    Args:
        folder: Output folder.
        common: Arguments of every command.
        development: Arguments that select the development images, if they differ from the data's own.
    """

    def __init__(self, folder: Path, common: Sequence[str], development: Sequence[str] = ()) -> None:
        self.folder = folder
        self.common = list(common)
        self.development = list(development)

    def validate(self, name: str, arguments: Iterable[str]) -> dict[str, Any]:
        """Scores a method on the development set, unless an earlier run did; returns the summary."""
        return self._run("validate", self.folder / "development" / name, [*self.development, *arguments])

    def test(self, name: str, arguments: Iterable[str]) -> dict[str, Any]:
        """Scores a method on the targets, unless an earlier run did; returns the summary."""
        return self._run("test", self.folder / "test" / name, arguments)

    def choose_alpha(self) -> dict[str, Any]:
        """Chooses alpha (0 for a network without BatchNorm); see `choose`."""
        search = {"class_path": "callbacks.alpha_search.AlphaSearch", "init_args": {"required": False}}
        return self._search("alpha", search, [])

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
            name: Name of the search's folder.
            method: Name of a class of `callbacks`.
            settings: Settings that all combinations share.
            grid: Values to try, by argument.
            arguments: Extra command-line arguments.

        Returns:
            Contents of `search.json`: ``points`` (``values`` and ``miou`` in percent of each combination) and ``best``,
            the first of equals. A finished search is reused; one that tried other values is set aside and run anew.
        """
        init_args = {"method": {"class_path": f"callbacks.{method}", "init_args": settings}, "grid": grid}
        search = {"class_path": "callbacks.method_search.MethodSearch", "init_args": init_args}
        return self._search(name, to_plain(search), arguments)

    def choose_in_turn(
        self, prefix: str, method: str, settings: Mapping[str, Any], grids: Iterable[Mapping[str, Sequence[Any]]]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Chooses by one grid after another, each with the best values of those before; see `choose`.

        Args:
            prefix: Prefix of the folders' names.
            method: Name of a class of `callbacks`.
            settings: Initial settings.
            grids: Grids in their order; the values of each are tried in all combinations.

        Returns:
            The settings with the chosen values, and the result of each search.
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
        """Tests a method and returns its scores; see `flatten_summary`.

        Args:
            name: Name of the method, and of its folder.
            arguments: Arguments that select it.
            reference: Name of a tested method to compare with, image by image: adds ``gain``, the mean difference in
                points of mean IoU, and the percentages of images that are ``lower``, and that are ``worse`` or
                ``better`` by more than a point.
        """
        row = flatten_summary(self.test(name, arguments))
        differences = np.array([] if reference is None else self.compare_images(reference, name))
        if not differences.size:  # no reference, or no image with a labelled pixel
            return row
        changed = {"lower": differences < 0, "worse": differences < -MARGIN, "better": differences > MARGIN}
        return row | {
            "gain": float(differences.mean()),
            **{key: 100 * float(hit.mean()) for key, hit in changed.items()},
        }

    def score_all(self, methods: Mapping[str, Iterable[str]], reference: str | None = None) -> list[dict[str, Any]]:
        """Tests methods, each given by name and arguments; returns a row for each (see `score`)."""
        if reference is not None:
            self.test(reference, methods[reference])
        rows = []
        for name, arguments in methods.items():
            print(f"Testing {name} on the targets of {self.folder.name} ...", flush=True)
            rows.append({"method": name, **self.score(name, arguments, reference)})
        return rows

    def compare_images(self, name: str, other: str) -> list[float]:
        """Returns by how many points mean IoU rises from one method to the other on each labelled test image."""
        before, after = (
            {(record["domain"], record["name"]): score_record(record) for record in read_records(place / RECORDS)}
            for place in (self.folder / "test" / name, self.folder / "test" / other)
        )
        differences = [after[image] - before[image] for image in before]
        return [difference for difference in differences if not math.isnan(difference)]  # NaN without a labelled pixel

    def _search(self, name: str, search: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
        """Runs one search over the development set, unless it is finished; returns its result."""
        place = self.folder / "development" / name
        anew = is_of_another(RunFolder(place).read_manifest(), search["init_args"])
        callbacks = f"--trainer.callbacks={json.dumps([search])}"
        self._run("validate", place, [*self.development, "--method=null", callbacks, *arguments], anew)
        return json.loads((place / SEARCH).read_text(encoding="utf-8"))

    def _run(self, command: str, place: Path, arguments: Iterable[str], anew: bool = False) -> dict[str, Any]:
        """Runs main.py even if the results are complete: it compares their settings, weights and images with these."""
        from main import main  # slow to import

        more = ["--results.overwrite=true"] if anew else []
        main([command, *self.common, f"--results.folder={place}", *more, *arguments])
        return json.loads((place / SUMMARY).read_text(encoding="utf-8"))


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
