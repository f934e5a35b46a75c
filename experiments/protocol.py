"""The paper's protocol in one command: train, choose on the development set, freeze the choice, test it on the targets.

Trains on the source and keeps the checkpoint that is best on the development set at any alpha; chooses on that set, in
one pass each, alpha, then Seg-TTT's scales and psi, then its learning rate and number of steps; freezes the choice in
`selection.yaml`; and tests t-BN, IaBN, TTA and Seg-TTT with it. If interrupted, run the same command again: finished
steps are skipped.

Source: paper, Sec. 5 (evaluation protocol), Sec. 5.1-5.2 and Appendix B (what is chosen, and on what).
"""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from callbacks import SegTTT
from callbacks.run.folder import MANIFEST
from callbacks.run.records import find_commit, to_plain, write_file
from callbacks.run.selection import Selection
from callbacks.run.settings import check_settings
from experiments.command_line import make_parser, parse, run_program, to_path
from experiments.scores import COST, flatten_summary, format_scores, list_columns
from experiments.study import ROOT, SETTINGS, Study, list_paper_methods, read_json

CHOOSE_ALPHA = ROOT / "configs" / "trainer" / "choose_alpha.yaml"
HEADING = """\
# Chosen on the development set by `python -m experiments.protocol`, and frozen: a test that names this file by
# --results.selection must use these values, and its results.json holds the file's SHA-256.
"""
GRIDS: dict[str, Sequence[Any]] = {  # values of Seg-TTT's settings to try
    "scales": ((0.25, 0.5, 0.75), (0.5, 0.75, 1.0)),
    "psi": (0.5, 0.6, 0.7, 0.8, 0.9),
    "num_steps": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10),  # trying all costs no more than the largest alone
    "lr": (0.01, 0.02, 0.05, 0.1),
}
TOGETHER = (("scales", "psi"), ("lr", "num_steps"))  # settings chosen together, in one pass
METHODS = ("t-BN", "IaBN", "TTA", "Seg-TTT")


class Protocol(Study):
    """One experiment, from training to test with the settings chosen on the development set.

    Args:
        folder: Output folder; steps finished in it are skipped.
        config: Configuration of the experiment: model, data and training.
        options: Extra arguments of every command; those for several devices apply to the training alone.
        grids: Values to try in place of those of `GRIDS`.
        semantics: Semantics of Seg-TTT, ``paper`` or ``released``.
        trainable: Names of the modules that Seg-TTT updates; None for the network's own.
        most_hurt: Share of images in (0, 1) that Seg-TTT may make worse by over a point; None: trust is not chosen.

    Raises:
        ValueError: If there are no values for a setting, Seg-TTT rejects one, or `most_hurt` is out of range.
    """

    fragments = (CHOOSE_ALPHA,)

    def __init__(
        self,
        folder: Path,
        config: Path,
        options: Sequence[str] = (),
        grids: Mapping[str, Sequence[Any]] | None = None,
        semantics: str = "paper",
        trainable: Sequence[str] | None = None,
        most_hurt: float | None = None,
    ) -> None:
        super().__init__(folder, config, options, more=())
        self.selection = folder / "selection.yaml"
        self.grids = GRIDS | dict(grids or {})
        self.given = {"semantics": semantics, "trainable": trainable}
        self.most_hurt = most_hurt
        for name, values in self.grids.items():
            if not values:
                raise ValueError(f"no {name} to try: expected at least one value")
            for value in values:
                SegTTT(**{name: value})  # rejects values out of range before anything is trained
        if most_hurt is not None and not 0 < most_hurt < 1:
            raise ValueError(f"--most-hurt is {most_hurt}: expected a share of images above 0 and below 1, e.g. 0.03")

    def select(self) -> Selection:
        """Chooses on the development set and freezes the choice, or reads a frozen one; trains first if needed.

        Raises:
            ValueError: If the frozen choice was made among other values.
        """
        checkpoint = self.train()
        tried = to_plain({"grids": self.grids, **self.given, "most_hurt": self.most_hurt})
        if self.selection.exists():
            selection = Selection.read(self.selection)
            frozen = yaml.safe_load(self.selection.read_text(encoding="utf-8"))
            earlier = frozen.get("tried") or tried | read_json(self.folder / SETTINGS)  # where it was in old folders
            known = {key: earlier[key] for key in tried}
            check_settings(self.folder, "a frozen choice", known, tried, "another --folder")
            return selection
        alphas = self.choose_alpha()
        together = [{name: self.grids[name] for name in names} for names in TOGETHER]
        chosen, passes = self.choose_in_turn("", "SegTTT", self.given | alphas["best"]["values"], together)
        values = {name: value for name, value in chosen.items() if name != "semantics" and value is not None}
        settings = read_json(self.folder / "development" / "alpha" / MANIFEST)["settings"]
        development = {"miou": passes[-1]["best"]["miou"], "data": settings["data"], "passes": [alphas, *passes]}
        if self.most_hurt is not None:
            development["risk"] = self.choose_trust("SegTTT", self.given | values, self.most_hurt)
            values["trust"] = development["risk"]["trust"]
        content = {
            "checkpoint": str(checkpoint),
            "weights": settings["weights"],
            "values": values,
            "semantics": self.given["semantics"],
            "development": development,
            "tried": tried,
            "config": str(self.config),
            "options": self.options,
            "commit": find_commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        text = yaml.safe_dump(to_plain(content), sort_keys=False, width=120, default_flow_style=None)
        write_file(self.selection, (HEADING + text).encode())
        return Selection.read(self.selection)

    def test_selected(self, name: str, arguments: Sequence[str]) -> dict[str, Any]:
        """Tests a method on all targets with the chosen weights, or reads an earlier test; returns its results.json.

        Args:
            name: Name of its folder in `test`.
            arguments: Arguments that select the method. Settings must equal the chosen ones, or be listed in
                ``--results.departures=[...]``.

        Raises:
            ValueError: If it was already tested with another selection, or a setting differs from the chosen one.
        """
        selection = self.select()
        summary = self.test(name, [f"--results.selection={selection.path}", *arguments])
        used = (summary.get("selection") or {}).get("sha256")
        if used != selection.sha256:
            place = self.folder / "test"
            raise ValueError(
                f"{place / name} was tested with another selection (SHA-256 {used}), {selection.path} has "
                f"{selection.sha256}: restore that file, or delete {place} to test again with this one"
            )
        return summary

    def describe_chosen(self, method: str) -> list[str]:
        """Returns the arguments that select one of `METHODS` with its chosen settings."""
        chosen = {**Selection.read(self.selection).values, "semantics": self.given["semantics"]}
        return list_paper_methods(chosen)[method]


def format_summaries(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats a Markdown table: mean IoU per target and on average, and ECE, all in percent; ms per image."""
    rows = [{"method": name, **flatten_summary(summary)} for name, summary in summaries.items()]
    return format_scores(rows, ["method"], [*list_columns(rows[0]), *COST])


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = make_parser("protocol", __doc__, quick=False)
    add = parser.add_argument
    add("config", type=to_path, help="the experiment, e.g. configs/experiment/street_scenes.yaml")
    add("--folder", type=to_path, help="where to write (default: outputs/protocol/NAME)")
    add("--psi", type=float, nargs="+", default=GRIDS["psi"], help="thresholds to try (default: %(default)s)")
    add("--lr", type=float, nargs="+", default=GRIDS["lr"], help="learning rates to try (default: %(default)s)")
    steps = "numbers of steps to try (default: %(default)s)"
    add("--num-steps", type=int, nargs="+", default=GRIDS["num_steps"], help=steps)
    scales = "sets of scales to try (default: 0.25,0.5,0.75 0.5,0.75,1)"
    add("--scales", type=parse_scales, nargs="+", default=GRIDS["scales"], help=scales)
    semantics = "Seg-TTT as in the paper's text, or as in the authors' code (default: %(default)s)"
    add("--semantics", choices=("paper", "released"), default="paper", help=semantics)
    hurt = "choose trust so that at most this share of images gets worse by more than one point, e.g. 0.03"
    add("--most-hurt", type=float, metavar="SHARE", help=hurt)
    trainable = "names of the modules that Seg-TTT trains, for a network that does not define them"
    add("--trainable", nargs="+", metavar="MODULE", help=trainable)
    return parse(parser, args)


def name_experiment(config: Path) -> str:
    """Names an experiment's folder after its file, prefixed by the file's subfolder of configs/experiment."""
    within = [] if config.parent.name in ("", "experiment") else [config.parent.name]
    return "_".join([*within, config.stem])


def parse_scales(text: str) -> list[float]:
    """Parses comma-separated scales such as ``0.25,0.5,0.75``."""
    return [float(part) for part in text.split(",")]


def run_protocol(args: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Runs the protocol; returns the results of each method."""
    given = parse_arguments(args)
    folder = given.folder or Path("outputs/protocol") / name_experiment(given.config)
    grids = {name: getattr(given, name) for name in GRIDS}
    choice = (grids, given.semantics, given.trainable, given.most_hurt)
    protocol = Protocol(folder, given.config, given.options, *choice)
    selection = protocol.select()
    chosen = ", ".join(f"{name} {value}" for name, value in selection.values.items())
    print(f"Chosen: {chosen}\nFrozen: {selection.path} (SHA-256 {selection.sha256})", flush=True)
    summaries = {}
    for name in METHODS:
        print(f"Testing {name} on the targets ...", flush=True)
        summaries[name] = protocol.test_selected(name, protocol.describe_chosen(name))
    table = format_summaries(summaries)
    write_file(folder / "table.md", f"{table}\n".encode())
    print(f"\nMean IoU and ECE in percent\n\n{table}\n\nResults and reports: {folder / 'test'}")
    return summaries


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # 128 + SIGTERM; the training ends too
    run_program(run_protocol)
