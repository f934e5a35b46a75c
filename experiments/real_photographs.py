"""From generated scenes to real photographs: train on StreetScenes alone, adapt to each photograph of CamVid.

Trains on StreetScenes' source (or takes a checkpoint), chooses alpha and every setting of Seg-TTT, one after the other,
on some of CamVid's train photographs as the development set, then tests once on its val photographs. Also measures
where the pseudo labels are better than the network's own prediction. If interrupted, run the same command again:
finished steps are skipped.

Four sets of photographs, several training seeds, and what goes beyond the paper: `experiments.beyond photographs`.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from callbacks.iabn import adaptive_batch_norm
from callbacks.method import evaluating
from callbacks.pseudo_labels import IGNORED, fuse_views, pseudo_labels
from callbacks.views import make_views
from experiments.command_line import make_parser, parse, run_program, to_path
from experiments.pages import write_findings
from experiments.scores import Column, format_scores, list_columns
from experiments.study import ONLY_SCORES, QUIET, ROOT, Study, describe_method, list_paper_methods
from lightning_modules.predictor import predict_logits

CONFIG = ROOT / "configs" / "experiment" / "camvid.yaml"
SCALES = ([0.25, 0.5, 0.75], [0.5, 0.75, 1.0], [0.75, 1.0, 1.25], [1.0, 1.25, 1.5])
CHANGED = [Column("worse by > 1", "worse", "{:.0f} %"), Column("better by > 1", "better", "{:.0f} %")]
# Chosen in this order, each with the best values of those before; the first value is the paper's.
SETTINGS: dict[str, tuple[Any, ...]] = {
    "scales": SCALES,
    "lr": (0.05, 0.01, 0.1),
    "psi": (0.7, 0.5, 0.9),
    "trainable": (None, ["head"], ["neck", "head"], ["backbone", "neck", "head"]),
    "semantics": ("paper", "released"),
    "num_steps": (10, 3),
}


def measure_labels(study: Study, alpha: float, psi: float) -> list[dict[str, Any]]:
    """Compares pseudo labels at a confidence threshold psi with IaBN's own prediction, for each choice of scales.

    Returns:
        A row per choice of scales, in percent: ``kept``, the share of labelled pixels that get a pseudo label; among
        these pixels, the accuracy of the pseudo labels (``right``) and of the network's own prediction
        (``right_before``), and the share of pixels where the two differ (``news``); the accuracy of the pseudo labels
        at pixels where they differ (``news_right``).
    """
    place = study.folder / "development" / "labels"
    cli = study.run("validate", place, [*study.more, *study.development, "--results.overwrite=true"])
    network = cli.model.network.cpu()
    rows = []
    for scales in SCALES:
        counts = torch.zeros(6, dtype=torch.float64)
        for batch in cli.datamodule.val_dataloader():  # all images, even if the run skipped some
            image, mask = batch["image"], batch["mask"]
            with torch.no_grad(), evaluating(network), adaptive_batch_norm(network, alpha):
                own = predict_logits(network, image).argmax(dim=1)
                views = make_views(scales, flip=True, grayscale=True)
                labels = pseudo_labels(fuse_views(partial(predict_logits, network), image, views), psi)
            labelled, right = mask != IGNORED, labels == mask
            kept = labelled & (labels != IGNORED)
            news = kept & (labels != own)
            tested = (labelled, kept, kept & right, kept & (own == mask), news, news & right)
            counts += torch.tensor([selected.sum().item() for selected in tested])
        of_labelled, of_kept, of_news = counts[0], counts[1], counts[4].clamp_min(1)
        shares = {"kept": of_kept / of_labelled, "right": counts[2] / of_kept, "right_before": counts[3] / of_kept}
        shares |= {"news": counts[4] / of_kept, "news_right": counts[5] / of_news}
        rows.append({"scales": str(scales), **{key: 100 * share.item() for key, share in shares.items()}})
    return rows


def list_photographs(root: Path, every: int, path: Path) -> None:
    """Writes a list file that names every N-th train photograph, N being `every`."""
    names = sorted(photograph.name for photograph in (root / "images" / "train").iterdir())
    if not names:
        raise FileNotFoundError(
            f"{root}/images/train is empty: expected CamVid's photographs, see docs/real_photographs.md"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names[::every]) + "\n", encoding="utf-8")


def run_study(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the study; returns its report, which is also written as JSON and Markdown."""
    parser = make_parser("real_photographs", __doc__, folder="outputs/real_photographs", quick=False)
    root = "CamVid: images/{train,val}/*, labels/{train,val}/*.png, see docs/real_photographs.md"
    add = parser.add_argument
    add("root", type=to_path, help=root)
    add("--checkpoint", type=to_path, help="a trained network to use instead of training one")
    add("--every", type=int, default=15, metavar="N", help="choose on every Nth photograph (default: %(default)s)")
    add("--seed", type=int, default=0, help="training seed (default: %(default)s)")
    given = parse(parser, args)
    root, photographs = given.root.resolve(), given.folder.resolve() / "development.txt"
    list_photographs(root, given.every, photographs)
    development = [f"--data.development.init_args.splits={json.dumps({'val': str(photographs)})}"]
    print("Training on generated scenes (skipped if finished) ...", flush=True)
    options = [f"--data.root={root}", f"--seed_everything={given.seed}", *QUIET, *given.options]
    study = Study(given.folder, CONFIG, options, ONLY_SCORES, development, given.checkpoint)
    alphas = study.choose_alpha()
    alpha = alphas["best"]["values"]["alpha"]
    views = study.choose("TTA", "TTA", {"alpha": alpha}, {"scales": SCALES})
    paper = {"alpha": alpha, **{key: values[0] for key, values in SETTINGS.items()}}
    grids = [{key: values} for key, values in SETTINGS.items()]
    chosen, passes = study.choose_in_turn("Seg-TTT_", "SegTTT", paper, grids)
    print(f"Chosen: {chosen}", flush=True)
    methods = list_paper_methods(chosen) | {
        "TTA": describe_method("TTA", {"alpha": alpha, **views["best"]["values"]}),
        "Seg-TTT, the paper's settings": describe_method("SegTTT", paper),
    }
    labels = measure_labels(study, alpha, chosen["psi"])
    rows = study.score_all(methods, "IaBN")
    points = [point for found in (alphas, views, *passes) for point in found["points"]]
    tried = [{"tried on development": str(point["values"]), "miou": point["miou"]} for point in points]
    tables = [
        format_scores(rows, ["method"], [*list_columns(rows[0]), *CHANGED]),
        format_scores(tried, ["tried on development"], [Column("mean IoU", "miou", "{:.2f}")]),
        format_scores(labels, ["scales"], [Column(key, key) for key in labels[0] if key != "scales"]),
    ]
    report = {"searches": [alphas, views, *passes], "chosen": chosen, "labels": labels, "rows": rows}
    write_findings(given.folder, report, "\n\n".join(tables) + "\n")
    print(f"\n{tables[0]}\n\nWritten to {given.folder}", flush=True)
    return report


if __name__ == "__main__":
    run_program(run_study)
