"""The paper's protocol in one command: train, choose on the development set, freeze the choice, test it on the targets.

Trains on the source and keeps the checkpoint that is best on the development set at any alpha; chooses there alpha,
then the scales and psi, then the number of steps and the learning rate of Seg-TTT, each in one pass; freezes what was
chosen into `selection.yaml`; and tests t-BN, IaBN, TTA and Seg-TTT with exactly that. What is done already is not done
again: started again in the same folder, it goes on where it stopped.

Source: paper, Sec. 5 (evaluation protocol), Sec. 5.1-5.2 and Appendix B (what is chosen, and on what).
"""

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_SILENT", "true")

import yaml

from callbacks import SegTTT
from callbacks.run.folder import MANIFEST, SEARCH
from callbacks.run.records import find_commit, read_manifest, to_plain, write_file
from callbacks.run.selection import Selection
from callbacks.run.settings import check_settings
from experiments.command_line import drop_options, split_arguments, to_path
from experiments.parent_death import end_with_parent
from experiments.study import Study, describe_method

ROOT = Path(__file__).parent.parent
CHOOSE_ALPHA = ROOT / "configs" / "trainer" / "choose_alpha.yaml"
SELECTION = "selection.yaml"
SETTINGS = "protocol.json"
PATIENCE = 30.0  # seconds for a training that is stopped to write what it has
HEADING = """\
# Chosen on the development set by `python -m experiments.protocol`, and frozen: a test that names this file by
# --results.selection has to keep to it, and its results.json holds the file's SHA-256.
"""
# Of the training alone; all else runs on one device.
OF_TRAINING = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.sync_batchnorm")
# What changes nothing of the outcome, so that a folder may go on with another.
WITHOUT_EFFECT = (
    "trainer.accelerator", "trainer.enable_progress_bar", "trainer.enable_model_summary", "data.num_workers", "verbose",
)  # fmt: skip
METHODS = ("t-BN", "IaBN", "TTA", "Seg-TTT")
ALPHA_SEARCH = {"class_path": "callbacks.alpha_search.AlphaSearch", "init_args": {"required": False}}


@dataclass(frozen=True)
class Grids:
    """What is tried on the development set for Seg-TTT.

    Attributes:
        scales: Sets of scales of the views.
        psi: Confidence thresholds.
        num_steps: Numbers of steps, N_t; all of them cost one run of steps.
        lr: Learning rates, eta.

    Raises:
        ValueError: If Seg-TTT does not take a value.
    """

    scales: Sequence[Sequence[float]] = ((0.25, 0.5, 0.75), (0.5, 0.75, 1.0))
    psi: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9)
    num_steps: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    lr: Sequence[float] = (0.01, 0.02, 0.05, 0.1)

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            if not values:
                raise ValueError(f"there is no {name} to try: expected one value or more")
            for value in values:
                SegTTT(**{name: value})  # refuses what is out of range, before anything is trained


class Protocol:
    """One experiment, from training to test, in a folder of its own.

    Args:
        config: Of the experiment: model, data and training.
        folder: Where everything is written; what is done in there is not done again.
        options: More arguments of every command; those of several devices are for the training alone.
        grids: What is tried.
        semantics: Of Seg-TTT, ``paper`` or ``released``.
        trainable: Names of the modules that Seg-TTT moves; None is the network's own choice.

    Raises:
        ValueError: If there is no such config.
    """

    def __init__(
        self,
        config: Path,
        folder: Path,
        options: Sequence[str] = (),
        grids: Grids | None = None,
        semantics: str = "paper",
        trainable: Sequence[str] | None = None,
    ) -> None:
        if not config.is_file():
            raise ValueError(
                f"there is no config {config}: expected an experiment, such as configs/experiment/NAME.yaml"
            )
        self.config = config
        self.folder = folder
        self.options = list(options)
        self.grids = grids or Grids()
        self.semantics = semantics
        self.trainable = None if trainable is None else list(trainable)

    def train(self) -> Path:
        """Trains, unless that is done; goes on from the last epoch of a training that was interrupted.

        Returns:
            The checkpoint that was best on the development set.

        Raises:
            RuntimeError: If the training fails; it has said why.
            ValueError: If the folder is that of another experiment or of other settings.
        """
        self._check_folder()
        done, checkpoints = self.folder / "training.json", self.folder / "checkpoints"
        if not done.exists():
            last = checkpoints / "last.ckpt"
            logger = "pytorch_lightning.loggers.CSVLogger"
            command = ["fit", f"--config={self.config}", f"--config={CHOOSE_ALPHA}"]
            command += [f"--trainer.callbacks.dirpath={checkpoints}", f"--trainer.logger={logger}"]
            command += [f"--trainer.logger.save_dir={self.folder}", "--trainer.logger.name=training", *self.options]
            command += [f"--ckpt_path={last}"] if last.exists() else []
            if run_training([sys.executable, str(ROOT / "main.py"), *command]):
                raise RuntimeError(f"the training of {self.config} failed: its last lines above say why")
            write_file(done, json.dumps({"checkpoint": "checkpoints/best.ckpt", "commit": find_commit()}).encode())
        checkpoint = checkpoints / "best.ckpt"
        if not checkpoint.exists():
            raise ValueError(f"{checkpoint} is gone, but {done} says that it was trained: delete {done} to train again")
        return checkpoint

    def select(self) -> Selection:
        """Chooses on the development set and freezes the choice, unless that is done; trains before, if need be."""
        path = self.folder / SELECTION
        if not path.exists():
            study = self._open_study(["--trainer.logger=false", "--results.panels=0"])
            values, passes = self._choose(study)
            alpha_run = json.loads((study.folder / "development" / "alpha" / MANIFEST).read_text(encoding="utf-8"))
            settings = alpha_run["settings"]
            content = {
                "checkpoint": str(self.train()),
                "weights": settings["weights"],
                "values": values,
                "semantics": self.semantics,
                "development": {"miou": passes[-1]["best"]["miou"], "data": settings["data"], "passes": passes},
                "config": str(self.config),
                "options": self.options,
                "commit": find_commit(),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            write_file(
                path,
                (
                    HEADING + yaml.safe_dump(to_plain(content), sort_keys=False, width=120, default_flow_style=None)
                ).encode(),
            )
        return Selection.read(path)

    def test(self, name: str, arguments: Sequence[str]) -> dict[str, Any]:
        """Tests a method on all targets with the chosen weights, unless that is done; returns its results.json.

        Args:
            name: Of the folder in `test`.
            arguments: That pick the method. Settings that were chosen have to be as chosen, or be named by
                ``--results.departures=[...]``.

        Raises:
            ValueError: If it was tested with another selection already, or a setting is not as chosen.
        """
        selection = self.select()
        summary = self._open_study([f"--results.selection={selection.path}"]).test(name, arguments)
        used = (summary.get("selection") or {}).get("sha256")
        if used != selection.sha256:
            place = self.folder / "test"
            raise ValueError(
                f"{place / name} was tested with another selection (SHA-256 {used}), {selection.path} has "
                f"{selection.sha256}: put that file back, or delete {place} to test anew with this one"
            )
        return summary

    def describe_chosen(self, method: str) -> list[str]:
        """Returns the arguments that pick one of `METHODS` as it was chosen."""
        values = self.select().values
        views = {"alpha": values["alpha"], "scales": values["scales"]}
        steps = {name: values[name] for name in ("psi", "num_steps", "lr", "trainable") if name in values}
        plain = ["--method=null"]  # none, or that of the experiment; alpha 0 is t-BN, and needs no BatchNorm
        return {
            "t-BN": plain,
            "IaBN": describe_method("IaBN", {"alpha": values["alpha"]}) if values["alpha"] else plain,
            "TTA": describe_method("TTA", views),
            "Seg-TTT": describe_method("SegTTT", views | steps | {"semantics": self.semantics}),
        }[method]

    def _open_study(self, more: Sequence[str]) -> Study:
        """Returns the study of the trained network, with more arguments for every command."""
        options = reduce(drop_options, OF_TRAINING, self.options)
        common = [f"--config={self.config}", *options, f"--ckpt_path={self.train()}", "--verbose=false", *more]
        return Study(self.folder, common)

    def _check_folder(self) -> None:
        """Writes what this protocol is into its folder; raises ValueError if another one lies there.

        What is tried may change until the choice is frozen; what was trained has to stay.
        """
        trained = {
            "experiment": read_config(self.config),
            "options": reduce(drop_options, (*OF_TRAINING, *WITHOUT_EFFECT), self.options),
        }
        tried = {"grids": asdict(self.grids), "semantics": self.semantics, "trainable": self.trainable}
        settings = to_plain(trained | tried)
        path = self.folder / SETTINGS
        earlier = read_json(path) if path.exists() else {}
        if earlier:
            compared = [*trained, *(tried if (self.folder / SELECTION).exists() else ())]
            before, now = ({key: part.get(key) for key in compared} for part in (earlier, settings))
            check_settings(self.folder, "the protocol", before, now, "another --folder")
        if earlier != settings:
            write_file(path, json.dumps(settings, indent=1).encode())

    def _choose(self, study: Study) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Returns the chosen values, and what each pass over the development set has found."""
        grids = to_plain(asdict(self.grids))
        passes = [self._search(study, "alpha", ALPHA_SEARCH)]
        values = {"alpha": passes[0]["best"]["values"]["alpha"]}
        given = {"semantics": self.semantics, "trainable": self.trainable}
        for names in (("scales", "psi"), ("lr", "num_steps")):
            method = {"class_path": "callbacks.SegTTT", "init_args": given | values}
            arguments = {"method": method, "grid": {name: grids[name] for name in names}}
            search = {"class_path": "callbacks.method_search.MethodSearch", "init_args": arguments}
            passes.append(self._search(study, "_".join(names), search))
            values |= passes[-1]["best"]["values"]
        return values | ({} if self.trainable is None else {"trainable": self.trainable}), passes

    def _search(self, study: Study, name: str, search: Mapping[str, Any]) -> dict[str, Any]:
        """Runs one pass over the development set; returns what it has found. One of other settings is put aside."""
        print(f"Choosing {name.replace('_', ', ', 1)} on the development set ...", flush=True)
        place = study.folder / "development" / name
        arguments = ["--method=null", f"--trainer.callbacks={json.dumps([search])}"]
        study.validate(name, arguments, anew=is_of_another(read_manifest(place / MANIFEST), search["init_args"]))
        return json.loads((place / SEARCH).read_text(encoding="utf-8"))


def is_of_another(manifest: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Returns whether a search that lies there tried other values than are wanted, or with other settings."""
    found = manifest and manifest["settings"].get("search")
    if not found or "grid" not in wanted:
        return False
    settings = wanted["method"]["init_args"]
    return found["grid"] != wanted["grid"] or any(found["method"].get(key) != settings[key] for key in settings)


def read_json(path: Path) -> Any:
    """Reads a file of JSON; raises ValueError that names it if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}): delete it, if the folder is that of this experiment"
        ) from error


def read_config(path: Path) -> Any:
    """Reads a config with the files that it names in place of their names, as the command line reads it."""

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
        raise ValueError(f"{path} is no YAML: {str(error).splitlines()[0]}") from error


def run_training(command: Sequence[str]) -> int:
    """Runs a command to its end and returns its exit code; if this process is stopped, so is the command."""
    process = subprocess.Popen(command, preexec_fn=end_with_parent())
    try:
        return process.wait()
    except BaseException as reason:
        if not isinstance(reason, KeyboardInterrupt):  # Ctrl-C in a terminal reaches both
            process.terminate()
        try:
            process.wait(PATIENCE)  # it writes what it has
        except subprocess.TimeoutExpired:
            process.kill()
        raise


def tabulate(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats results as a Markdown table: mean IoU per target and their mean, ECE, all in percent; ms per image."""
    domains = list(next(iter(summaries.values()))["domains"])
    lines = [f"| method | {' | '.join(domains)} | mean | ECE | ms/image |", "|---" + "|---:" * (len(domains) + 3) + "|"]
    for name, summary in summaries.items():
        scores = [*(summary["domains"][domain]["miou"] for domain in domains), summary["mean"]["miou"]]
        scores.append(summary["mean"]["ece"])
        cells = ["-" if score is None else f"{score:.1f}" for score in scores]  # None: no labelled pixel
        lines.append(f"| {name} | {' | '.join(cells)} | {summary['mean']['ms_per_image']:.0f} |")
    return "\n".join(lines)


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.protocol", description=__doc__.split("\n\n")[0])
    parser.add_argument("config", type=to_path, help="the experiment, e.g. configs/experiment/street_scenes.yaml")
    parser.add_argument("--folder", type=to_path, help="where to write (outputs/protocol/NAME)")
    grids = Grids()
    parser.add_argument("--psi", type=float, nargs="+", default=grids.psi, help="thresholds to try (%(default)s)")
    parser.add_argument("--lr", type=float, nargs="+", default=grids.lr, help="learning rates to try (%(default)s)")
    steps = "numbers of steps to try (%(default)s)"
    parser.add_argument("--num-steps", type=int, nargs="+", default=grids.num_steps, help=steps)
    scales = "sets of scales to try, e.g. 0.25,0.5,0.75 0.5,0.75,1 (these two)"
    parser.add_argument("--scales", type=parse_scales, nargs="+", default=grids.scales, help=scales)
    semantics = "of Seg-TTT: as the paper's text says, or as the authors' code does (%(default)s)"
    parser.add_argument("--semantics", choices=("paper", "released"), default="paper", help=semantics)
    trainable = "names of the modules that Seg-TTT moves, for a network that does not say so itself"
    parser.add_argument("--trainable", nargs="+", metavar="MODULE", help=trainable)
    parser.epilog = "What follows -- are more arguments for main.py, e.g. -- --trainer.devices=2"
    own, more = split_arguments(args)
    arguments = parser.parse_args(own)
    arguments.options = more
    return arguments


def name_folder(config: Path) -> str:
    """Names the folder of an experiment: like its file, behind the folder in configs/experiment that it lies in."""
    within = [] if config.parent.name in ("", "experiment") else [config.parent.name]
    return "_".join([*within, config.stem])


def parse_scales(text: str) -> list[float]:
    """Parses ``0.25,0.5,0.75``."""
    return [float(part) for part in text.split(",")]


def run_protocol(args: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Runs the protocol; returns the results of each method."""
    arguments = parse_arguments(args)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    folder = arguments.folder or Path("outputs/protocol") / name_folder(arguments.config)
    grids = Grids(arguments.scales, arguments.psi, arguments.num_steps, arguments.lr)
    protocol = Protocol(arguments.config, folder, arguments.options, grids, arguments.semantics, arguments.trainable)
    protocol.train()
    selection = protocol.select()
    chosen = ", ".join(f"{name} {value}" for name, value in selection.values.items())
    print(f"Chosen: {chosen}\nFrozen: {selection.path} (SHA-256 {selection.sha256})", flush=True)
    summaries = {}
    for name in METHODS:
        print(f"Testing {name} on the targets ...", flush=True)
        summaries[name] = protocol.test(name, protocol.describe_chosen(name))
    write_file(folder / "table.md", (tabulate(summaries) + "\n").encode())
    print(f"\nMean IoU and ECE in percent\n\n{tabulate(summaries)}\n\nResults and reports: {folder / 'test'}")
    return summaries


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # 128 + SIGTERM; the training ends too
    try:
        run_protocol()
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
