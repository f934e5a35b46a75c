"""Beyond the paper: what each piece adds to Seg-TTT on one image, and how many images it hurts.

For each training seed: trains on generated scenes, chooses alpha, learns one alpha per layer from source images, and
chooses by conformal risk control how far the best row is trusted, all without a target; then tests every row on the
targets. What is done already is not done again.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.command_line import parse
from experiments.generalization import WORLDS, World, format_spread, make_world_parser
from experiments.learn_alpha import learn_file
from experiments.pages import describe_machine, format_markdown, insert_report, write_json
from experiments.study import describe_method

REFERENCE, BEST = "IaBN", "Seg-TTT, labels of both, final views (best)"
FINAL = {"scales": [0.75, 1.0, 1.25], "flip": True, "grayscale": False}  # chosen on StreetScenes' development domain
MOST_HURT = {"street_scenes": 0.03, "photographs": 0.05}  # share of images; the latter has 26 to choose on
# Of each world: enough development images for that, and target images that nobody has looked at.
OPTIONS = {
    "street_scenes": ("--data.num_val=99", "--data.target_seed=4242", "--data.num_test=33"),
    "photographs": (),
}


def list_rows(world: World, alpha: float, by_layer: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Lists the rows: the class of each method and its settings.

    Args:
        world: Whose settings of Seg-TTT are the starting point.
        alpha: Chosen on the development set.
        by_layer: File with one alpha per layer.
    """
    given = {"alpha": alpha, **world.seg_ttt}
    both = [{"scales": world.seg_ttt["scales"], "flip": True, "grayscale": True}, FINAL]
    best = given | {"label_views": both, "final_views": FINAL}
    return {
        REFERENCE: ("IaBN", {"alpha": alpha}),
        "TTA": ("TTA", {"alpha": alpha, "scales": world.seg_ttt["scales"]}),
        "TTA, final views (fast)": ("TTA", {"alpha": alpha, **FINAL}),
        "Seg-TTT": ("SegTTT", given),
        "Seg-TTT, final views": ("SegTTT", given | {"final_views": FINAL}),
        BEST: ("SegTTT", best),
        "IaBN, alpha by layer": ("IaBN", {"alpha": by_layer}),
        "best, alpha by layer": ("SegTTT", best | {"alpha": by_layer}),
    }


def run_seed(name: str, seed: int, folder: Path, options: Sequence[str], most_hurt: float) -> dict[str, Any]:
    """Trains with one seed, chooses, and tests every row; returns what came out.

    Args:
        name: Of the world.
        seed: Of the training.
        folder: Where to write.
        options: More arguments of every command.
        most_hurt: Share of images that the best row may make worse by more than a point.
    """
    world = WORLDS[name]
    arguments = [*world.list_arguments(seed), *OPTIONS[name], *options]
    print(f"[seed {seed}] Training ...", flush=True)
    study = world.open_study(folder, arguments)
    alpha = study.choose_alpha()["best"]["values"]["alpha"]
    by_layer = folder / "alpha.yaml"
    if not by_layer.exists():
        learn_file(world.config, folder / "checkpoints" / "best.ckpt", by_layer, arguments)
    rows = list_rows(world, alpha, str(by_layer))
    method, settings = rows[BEST]
    risk = study.choose_trust(method, settings, most_hurt)
    rows["best, trusted as chosen"] = method, settings | {"trust": risk["trust"]}
    found: dict[str, Any] = {"seed": seed, "alpha": alpha, "risk": risk, "rows": {}}
    for row, (method, settings) in rows.items():
        print(f"[seed {seed}] Testing {row} ...", flush=True)
        summary = study.test(row, describe_method(method, settings))
        differences = study.compare_images(REFERENCE, row)
        found["rows"][row] = {
            "miou": {domain: scores["miou"] for domain, scores in summary["domains"].items()},
            "ece": summary["mean"]["ece"], "ms": summary["mean"]["ms_per_image"],
            "worse": 100 * sum(value < -1 for value in differences) / len(differences),
            "gain": statistics.mean(differences),
        }  # fmt: skip
    return found


def format_report(seeds: Sequence[Mapping[str, Any]]) -> str:
    """Formats the rows as a Markdown table: mean and standard deviation over seeds, in percent."""
    domains = list(seeds[0]["rows"][REFERENCE]["miou"])
    heads = ["method", *domains, "mean", "over Seg-TTT", "worse by > 1", "gain per image", "ECE", "time of Seg-TTT's"]
    lines = []
    for row in seeds[0]["rows"]:
        own = [seed["rows"][row] for seed in seeds]
        usual = [seed["rows"]["Seg-TTT"] for seed in seeds]
        means = [statistics.mean(one["miou"].values()) for one in own]
        gains = [mean - statistics.mean(other["miou"].values()) for mean, other in zip(means, usual, strict=True)]
        times = [one["ms"] / other["ms"] for one, other in zip(own, usual, strict=True)]
        cells = [format_spread([one["miou"][domain] for one in own]) for domain in domains]
        cells += [format_spread(means), f"{statistics.mean(gains):+.1f}"]
        cells += [f"{statistics.mean(one['worse'] for one in own):.1f} %"]
        cells += [
            f"{statistics.mean(one['gain'] for one in own):+.1f}",
            f"{statistics.mean(one['ece'] for one in own):.1f}",
        ]
        lines.append([row, *cells, f"{statistics.mean(times):.2f}"])
    return format_markdown(heads, lines, numbers=range(1, len(heads)))


def run_beyond(args: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the command line; returns what came out of each seed, which is also written as JSON."""
    arguments = parse(make_world_parser("beyond", __doc__), args)
    folder = arguments.folder or Path("outputs/beyond") / arguments.world
    options = [*(WORLDS[arguments.world].quick if arguments.quick else ()), *arguments.options]
    most_hurt = 0.5 if arguments.quick else MOST_HURT[arguments.world]
    seeds = []
    for seed in arguments.seeds:
        seeds.append(run_seed(arguments.world, seed, folder / f"seed_{seed}", options, most_hurt))
        write_json(folder / "report.json", {"seeds": seeds, "world": arguments.world, **describe_machine()})
    print(f"\n{format_report(seeds)}\n\nWritten to {folder}", flush=True)
    if arguments.page:
        insert_report(arguments.page, format_report(seeds) + "\n", f"beyond {arguments.world}")
    return seeds


if __name__ == "__main__":
    try:
        run_beyond()
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
