"""Beyond the paper: measures what each extension adds to Seg-TTT on single images, and how many images it makes worse.

For each training seed: trains on generated scenes, chooses alpha, learns one alpha per layer from source images, and
chooses the best row's trust by conformal risk control, all without a target; then tests every row on the targets. On
photographs, a last row takes for each data set the row that is best on the others (leave one set out). If interrupted,
run the same command again: finished steps are skipped.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.command_line import run_program
from experiments.learn_alpha import learn_file
from experiments.scores import Column, find_row, format_scores, list_columns
from experiments.study import Study, describe_method
from experiments.worlds import WORLDS, World, make_world_parser, parse_world, write_world_report

REFERENCE, FAST = "IaBN", "TTA, final views, autocontrast (fast)"
BEST = "Seg-TTT, final views, autocontrast, refined (best)"
TRUSTED = "best, trusted as chosen"
ELSEWHERE = "for each set the row that is best on the others"
FINAL = [0.75, 1.0, 1.25]  # scales that a final prediction is fused over
AUTOCONTRAST = {"flip": True, "grayscale": False, "autocontrast": True}
REFINED = {"refine": 10}


def list_methods(world: World, alpha: float, by_layer: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Lists the rows of a world: title, class of the method, and its settings; `by_layer` is a file of alphas."""
    given = {"alpha": alpha, **world.seg_ttt}
    labels, final = ({"scales": scales, **AUTOCONTRAST} for scales in (world.seg_ttt["scales"], FINAL))
    plain = final | {"autocontrast": False}
    both = {"alpha": alpha, **world.seg_ttt, "label_views": labels, "final_views": final}
    both.pop("scales")  # label_views replaces it
    best = both | REFINED
    return {
        REFERENCE: ("IaBN", {"alpha": alpha}),
        "IaBN, refined": ("IaBN", {"alpha": alpha, **REFINED}),
        "TTA": ("TTA", {"alpha": alpha, "scales": world.seg_ttt["scales"]}),
        "TTA, final views": ("TTA", {"alpha": alpha, **plain}),
        FAST: ("TTA", {"alpha": alpha, **final}),
        "TTA, final views, autocontrast, refined": ("TTA", {"alpha": alpha, **final, **REFINED}),
        "Seg-TTT": ("SegTTT", given),
        "Seg-TTT, final views": ("SegTTT", given | {"final_views": plain}),
        "Seg-TTT, final views, refined": ("SegTTT", given | {"final_views": plain, **REFINED}),
        "Seg-TTT, final views, autocontrast": ("SegTTT", both),
        BEST: ("SegTTT", best),
        "IaBN, alpha by layer": ("IaBN", {"alpha": by_layer}),
        "best, alpha by layer": ("SegTTT", best | {"alpha": by_layer}),
    }


def run_seed(name: str, seed: int, folder: Path, options: Sequence[str], most_hurt: float) -> list[dict[str, Any]]:
    """Trains with one seed, chooses settings on the development set, and tests every row of the named world.

    Returns:
        The rows; the trusted one also has ``risk``, the result of `experiments.risk.choose_trust`.
    """
    world = WORLDS[name]
    arguments = [*world.list_arguments(seed), *world.beyond, *options]
    print(f"[seed {seed}] Training ...", flush=True)
    study = Study(folder, world.config, arguments)
    alpha = study.choose_alpha()["best"]["values"]["alpha"]
    by_layer = folder / "alpha.yaml"
    if not by_layer.exists():
        learn_file(world.config, study.train(), by_layer, arguments)
    methods = list_methods(world, alpha, str(by_layer))
    method, settings = methods[BEST]
    risk = study.choose_trust(method, settings, most_hurt)
    methods[TRUSTED] = method, settings | {"trust": risk["trust"]}
    arguments_of = {title: describe_method(*method) for title, method in methods.items()}
    rows = [{**row, "seed": seed, "alpha": alpha} for row in study.score_all(arguments_of, REFERENCE)]
    rows[-1]["risk"] = risk
    if name != "street_scenes":  # nothing is ever chosen on its targets
        rows.append(choose_elsewhere(rows))
    usual = find_row(rows, method="Seg-TTT")
    assert usual is not None
    for row in rows:
        row["over"] = row["miou.mean"] - usual["miou.mean"]
    return rows


def choose_elsewhere(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Chooses for each data set the row with the best mean over the other sets (leave one set out).

    Returns:
        A row of the chosen rows' scores; ``chosen`` names the chosen method of each data set.
    """
    sets = [key for key in rows[0] if key.startswith("miou.") and key != "miou.mean"]
    chosen = {key: max(rows, key=lambda row: sum(row[other] for other in sets if other != key)) for key in sets}
    scores = {key: row[key] for key, row in chosen.items()}
    scores["miou.mean"] = statistics.mean(scores.values())
    named = {key.removeprefix("miou."): row["method"] for key, row in chosen.items()}
    return {"method": ELSEWHERE, "seed": rows[0]["seed"], **scores, "chosen": named}


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the rows as a Markdown table: means over seeds, in percent."""
    columns = [
        *list_columns(rows[0]),
        Column("over Seg-TTT", "over", "{:+.1f}"),
        Column("worse by > 1", "worse", "{:.1f} %"),
        Column("gain per image", "gain", "{:+.1f}"),
        Column("ECE", "ece"),
    ]
    return format_scores(rows, ["method"], columns)


def run_beyond(args: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the command line; returns the rows of all seeds, which are also written as JSON."""
    given = parse_world(make_world_parser("beyond", __doc__), "beyond", args)
    most_hurt = 0.5 if given.quick else WORLDS[given.world].most_hurt
    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        rows += run_seed(given.world, seed, given.folder / f"seed_{seed}", given.options, most_hurt)
    write_world_report(given, "beyond", rows, format_rows(rows))
    return rows


if __name__ == "__main__":
    run_program(run_beyond)
