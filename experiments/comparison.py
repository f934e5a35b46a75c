"""Every method and every network side by side on StreetScenes, each trained by the same short recipe: docs/results.md.

Trains each network once on StreetScenes' source (the first one with three seeds, for the ensembles), chooses alpha, the
learning rates and the other free settings on the development domain, then tests on haze, dusk and dust. What is done
already is not done again: started again in the same folder, it goes on where it stopped.
"""

import argparse
import json
import logging
import os
import platform
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_SILENT", "true")

import torch

from callbacks.run.records import to_plain, write_file
from callbacks.temperature import TemperatureSearch
from experiments.command_line import to_path
from experiments.demo import PUBLISHED_SEED, QUICK
from experiments.pages import insert_report
from experiments.study import Study, describe_method
from main import main

CONFIGS = Path(__file__).parent.parent / "configs"
SCALES = [0.5, 0.75, 1.0]  # at these small sizes; chosen on the development domain when the demo was written
SEG_TTT_RATES = (0.02, 0.05, 0.1)
TENT_RATES = (0.0003, 0.001, 0.003, 0.01)
PRIORS = (1.0, 4.0, 16.0, 64.0)
BATCH = 10  # images of a target that AdaBN sees at once
MEMBERS = 3
TARGETS = ("haze", "dusk", "dust")
REFERENCE = "t-BN"


@dataclass(frozen=True)
class Contender:
    """A network and how it is trained.

    Attributes:
        name: For the tables and folders.
        model: Name of its file in configs/model.
        arguments: More arguments that make it what it is.
        batch_norm: Whether IaBN has something to adapt.
        seed: Of the training.
    """

    name: str
    model: str = "deeplabv1_resnet10_small"
    arguments: tuple[str, ...] = field(default=())
    batch_norm: bool = True
    seed: int = 0


def change(name: str, value: str) -> tuple[str, ...]:
    """Returns the arguments that set one argument of the network."""
    return (f"--model.network.init_args.{name}={value}",)


BASE = Contender("DeepLabv1")
OTHER_SEEDS = [Contender(f"DeepLabv1, seed {seed}", seed=seed) for seed in range(1, MEMBERS)]
DROPOUT = Contender("DeepLabv1, dropout", arguments=change("dropout", "0.1"))
OTHERS = [
    Contender("DeepLabv1, SN", arguments=change("norm", "switchable"), batch_norm=False),
    Contender("DeepLabv1, BIN", arguments=change("norm", "batch_instance")),
    Contender("DeepLabv1, IBN-a", arguments=change("norm", "ibn_a")),
    Contender("DeepLabv1, IBN-b", arguments=change("norm", "ibn_b")),
    Contender("DeepLabv3+, stride 8", "deeplabv3plus_resnet10_small"),
    Contender("DeepLabv3+, stride 16", "deeplabv3plus_resnet10_small", change("output_stride", "16")),
    Contender("FCN, ResNet-10", "fcn_resnet10_small"),
    Contender("FCN-8s, VGG-16 with BN", "fcn_vgg16_bn_small"),
    Contender("HRNet-W18-small", "hrnet_w18_small"),
    Contender("Segmenter, small ViT", "segmenter_small", batch_norm=False),
]


def train(contender: Contender, folder: Path, options: Sequence[str]) -> tuple[Study, dict[str, Any]]:
    """Trains a network, unless that is done.

    Returns:
        Its study, and ``seconds`` of training, ``parameters`` and ``checkpoint``.
    """
    place = folder / contender.name.lower().replace(",", "").replace(" ", "_").replace("(", "").replace(")", "")
    common = [f"--config={CONFIGS / 'experiment' / 'street_scenes.yaml'}"]
    common += [f"--model={CONFIGS / 'model' / contender.model}.yaml", *contender.arguments]
    common += [f"--seed_everything={contender.seed}", f"--data.seed={contender.seed}", *options]
    common += [f"--data.target_seed={PUBLISHED_SEED}"]
    common += ["--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false"]
    done = place / "training.json"
    if not done.exists():
        print(f"Training {contender.name} ...", flush=True)
        shutil.rmtree(place, ignore_errors=True)  # an interrupted training starts again
        logger = "pytorch_lightning.loggers.CSVLogger"
        saved = [f"--trainer.logger={logger}", f"--trainer.logger.save_dir={place}", "--trainer.logger.name=training"]
        start = time.perf_counter()
        fitted = main(["fit", *common, *saved, "--trainer.logger.version=run"])
        report = {
            "seconds": time.perf_counter() - start,
            "parameters": sum(parameter.numel() for parameter in fitted.model.network.parameters()),
            "checkpoint": fitted.trainer.checkpoint_callback.best_model_path,  # type: ignore[union-attr]
        }
        write_file(done, json.dumps(report).encode())
    report = json.loads(done.read_text(encoding="utf-8"))
    common += [f"--ckpt_path={report['checkpoint']}", "--verbose=false", "--trainer.logger=false"]
    return Study(place, [*common, "--results.panels=0"]), report


def choose(study: Study, name: str, method: str, settings: dict[str, Any], key: str, values: Sequence[float]) -> float:
    """Returns the value of one setting with the best mean IoU on the development domain; the smallest of equals."""
    miou = {}
    for value in values:
        arguments = describe_method(method, settings | {key: value})
        arguments += [f"--data.eval_batch_size={BATCH}"] if method == "AdaBN" else []
        miou[value] = study.validate(f"{name}_{key}_{value:g}", arguments)["mean"]["miou"]
    return max(values, key=lambda value: miou[value])


def choose_shared(contender: Contender, study: Study) -> dict[str, float]:
    """Chooses what every network has: alpha (0 without BatchNorm) and the learning rate of Seg-TTT."""
    alpha = 0.0
    if contender.batch_norm:
        miou = study.search_alpha()
        alpha = max(miou, key=lambda value: miou[value])
    settings = {"alpha": alpha, "scales": SCALES}
    return {"alpha": alpha, "lr": choose(study, "Seg-TTT", "SegTTT", settings, "lr", SEG_TTT_RATES)}


def list_shared(contender: Contender, chosen: dict[str, float]) -> dict[str, list[str]]:
    """Lists the methods that every network is tested with, and their arguments."""
    views = {"alpha": chosen["alpha"], "scales": SCALES}
    methods: dict[str, list[str]] = {REFERENCE: []}
    if contender.batch_norm:
        methods["IaBN"] = describe_method("IaBN", {"alpha": chosen["alpha"]})
    methods["TTA"] = describe_method("TTA", views)
    methods["Seg-TTT"] = describe_method("SegTTT", views | {"lr": chosen["lr"]})
    return methods


def list_all(study: Study, chosen: dict[str, float], members: Sequence[str]) -> dict[str, list[str]]:
    """Lists every method for the first network, and chooses what only they have on the development domain.

    Args:
        study: Of the first network.
        chosen: What was chosen before; gets more.
        members: Checkpoints of the ensembles.
    """
    alpha, lr = chosen["alpha"], chosen["lr"]
    iabn, seg_ttt = {"alpha": alpha}, {"alpha": alpha, "lr": lr}
    chosen["tent_lr"] = choose(study, "Tent", "Tent", {}, "lr", TENT_RATES)
    chosen["tent_online_lr"] = choose(
        study, "Tent-online", "Tent", {"episodic": False, "num_steps": 1}, "lr", TENT_RATES
    )
    chosen["prior"] = choose(study, "AdaBN", "AdaBN", {}, "prior", PRIORS)
    chosen["temperature"] = fit_temperature(study, "t-BN", [])
    chosen["seg_ttt_temperature"] = fit_temperature(
        study, "Seg-TTT", describe_method("SegTTT", seg_ttt | {"scales": SCALES})
    )
    batch = [f"--data.eval_batch_size={BATCH}"]
    tent = {"lr": chosen["tent_online_lr"], "episodic": False, "num_steps": 1}
    methods = {
        "t-BN, temperature": [f"--model.temperature={chosen['temperature']}"],
        "p-BN": describe_method("IaBN", {"alpha": 1.0}),
        f"AdaBN, batches of {BATCH}": [*describe_method("AdaBN", {}), *batch],
        f"AdaBN, batches of {BATCH}, prior": [*describe_method("AdaBN", {"prior": chosen["prior"]}), *batch],
        "Tent": describe_method("Tent", {"lr": chosen["tent_lr"]}),
        "Tent, online": describe_method("Tent", tent),
        "Ensemble": describe_method("Ensemble", {"checkpoints": list(members), "alpha": 0.0}),
        "Ensemble, IaBN": describe_method("Ensemble", {"checkpoints": list(members), **iabn}),
        "Ensemble, TTA": describe_method(
            "Ensemble", {"checkpoints": list(members), **iabn, "tta": True, "scales": SCALES}
        ),
    }
    plain = {"scales": [1.0], "flip": False, "grayscale": False}
    augmentations = {
        "no augmentation": plain,
        "scales": plain | {"scales": SCALES},
        "flip": plain | {"flip": True},
        "grayscale": plain | {"grayscale": True},
        "scales, flip": plain | {"scales": SCALES, "flip": True},
        "scales, grayscale": plain | {"scales": SCALES, "grayscale": True},
    }
    for name, views in augmentations.items():
        if name != "no augmentation":  # that is IaBN
            methods[f"TTA, {name}"] = describe_method("TTA", iabn | views)
        methods[f"Seg-TTT, {name}"] = describe_method("SegTTT", seg_ttt | views)
    for names in (["head"], ["layer4", "head"]):
        moving = {"trainable": names, "scales": SCALES}
        methods[f"Seg-TTT, {' + '.join(names)}"] = describe_method("SegTTT", seg_ttt | moving)
    released = {"semantics": "released", "scales": SCALES}
    methods["Seg-TTT, released semantics"] = describe_method("SegTTT", seg_ttt | released)
    calibrated = describe_method("SegTTT", seg_ttt | {"scales": SCALES})
    methods["Seg-TTT, temperature"] = [*calibrated, f"--model.temperature={chosen['seg_ttt_temperature']}"]
    return methods


def fit_temperature(study: Study, name: str, arguments: Sequence[str]) -> float:
    """Returns the temperature with the lowest negative log-likelihood on the development domain."""
    path = study.folder / "development" / f"temperature_{name}.json"
    if not path.exists():
        search = "--trainer.callbacks+=callbacks.temperature.TemperatureSearch"
        place = f"--results.folder={study.folder / 'development' / f'temperature_{name}'}"
        cli = main(["validate", *study.common, place, search, *arguments])
        callback = next(item for item in cli.trainer.callbacks if isinstance(item, TemperatureSearch))  # type: ignore[attr-defined]
        path.write_text(json.dumps(callback.best_temperature), encoding="utf-8")
    return float(json.loads(path.read_text(encoding="utf-8")))


def score_methods(contender: Contender, study: Study, methods: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Tests a network with some methods; returns a row each."""
    rows = []
    for name, arguments in methods.items():
        print(f"Testing {contender.name}: {name} ...", flush=True)
        summary = study.test(name, arguments)
        differences = study.compare_images(REFERENCE, name)
        worse = None if name == REFERENCE else 100 * sum(value < 0 for value in differences) / len(differences)
        row = {"network": contender.name, "method": name, "mean": summary["mean"], "worse": worse}
        rows.append(row | {"miou": {target: summary["domains"][target]["miou"] for target in TARGETS}})
    return rows


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Formats the results as a Markdown table."""
    titles = ["network", "method", *TARGETS, "mean", "ECE", "class-wise ECE", "Brier", "NLL", "ms/image", "worse"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        mean = row["mean"]
        cells = [row["network"], row["method"], *(f"{row['miou'][target]:.1f}" for target in TARGETS)]
        cells += [f"{mean[key]:.1f}" for key in ("miou", "ece", "classwise_ece")]
        cells += [f"{mean[key]:.3f}" for key in ("brier", "nll")]
        cells += [f"{mean['ms_per_image']:.0f}", "" if row["worse"] is None else f"{row['worse']:.0f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def format_networks(networks: Sequence[dict[str, Any]]) -> str:
    """Formats what was trained and chosen as a Markdown table."""
    lines = ["| network | parameters | training (s) | chosen on `development` |", "|---|---|---|---|"]
    for network in networks:
        chosen = ", ".join(f"{key} {value:.3g}" for key, value in network["chosen"].items())
        lines.append(f"| {network['name']} | {network['parameters']:,} | {network['seconds']:.0f} | {chosen} |")
    return "\n".join(lines)


def format_report(report: dict[str, Any]) -> str:
    """Formats the whole page."""
    machine = f"{report['machine']}, torch {report['torch']}, {report['date']}"
    return f"""`make comparison` ({machine}). Written by `experiments/comparison.py`; do not edit.

**This world is a constructed demonstration, not evidence for the paper.** Every network is trained once, by the same
short recipe (`configs/experiment/street_scenes.yaml`: 16 epochs over 400 generated images of 128x256 pixels), whether
it suits the network or not: compare methods within a network, not networks. Every setting is chosen on the
`development` domain (below); the targets were tested once. One training seed, so that differences of about a point
between methods are within noise; the README's table has three seeds.

Mean IoU per target and their mean in percent; the usual ECE (15 bins) and the paper's class-wise ECE in percent, the
Brier score and the negative log-likelihood (nats per pixel), all averaged over targets, lower is better; ms per image
on this machine, which does other things at the same time; and `worse`, the share of images with a lower mean IoU
than with the same network's t-BN (for ensembles: than with its first member's).

{format_rows(report["rows"])}

AdaBN sees {BATCH} images of a target at once, which the protocol of single images does not allow; online Tent keeps
what it learned from the images before; both are here for comparison. An ensemble is {MEMBERS} trainings of the first
network.

### What was trained and chosen

{format_networks(report["networks"])}

Tried on `development`: alpha in steps of 0.1; the learning rate of Seg-TTT in {SEG_TTT_RATES}, of Tent in
{TENT_RATES}; the prior of AdaBN in {PRIORS}; the temperature by the negative log-likelihood. The scales {SCALES} and
psi 0.7 as in the demo.
"""


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    name, summary = "python -m experiments.comparison", __doc__.split("\n\n")[0]
    parser = argparse.ArgumentParser(prog=name, description=summary)
    parser.add_argument(
        "--folder",
        type=to_path,
        default=Path("outputs/comparison"),
        help="where to write, and to go on (%(default)s)",
    )
    parser.add_argument("--page", type=to_path, help="also write the page here, e.g. docs/results.md")
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="names of networks, e.g. DeepLabv1")
    parser.add_argument("--quick", action="store_true", help="a tiny budget: shows that all works, not how well")
    return parser.parse_args(args)


def run_comparison(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the comparison; returns its report, which is also written as JSON and as a page.

    Raises:
        ValueError: If a network named does not exist.
    """
    arguments = parse_arguments(args)
    contenders = [BASE, DROPOUT, *OTHERS]
    known = [contender.name for contender in contenders]
    unknown = sorted(set(arguments.only or ()) - set(known))
    if unknown:
        raise ValueError(f"unknown networks {unknown}: expected some of {known}")
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    options = QUICK if arguments.quick else ()
    report: dict[str, Any] = {"networks": [], "rows": [], "quick": arguments.quick, "torch": torch.__version__}
    report |= {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": name_machine()}
    for contender in contenders:
        if arguments.only and contender.name not in arguments.only:
            continue
        study, trained = train(contender, arguments.folder, options)
        chosen = choose_shared(contender, study)
        methods = list_shared(contender, chosen)
        if contender is BASE:
            others = [train(other, arguments.folder, options)[1]["checkpoint"] for other in OTHER_SEEDS]
            methods |= list_all(study, chosen, [trained["checkpoint"], *others])
        if contender is DROPOUT:
            methods["MC dropout"] = describe_method("MCDropout", {"alpha": 0.0})
            methods["MC dropout, IaBN"] = describe_method("MCDropout", {"alpha": chosen["alpha"]})
        report["rows"] += score_methods(contender, study, methods)
        report["networks"].append({"name": contender.name, **trained, "chosen": chosen})
        write_file(arguments.folder / "report.json", json.dumps(to_plain(report), indent=1).encode())
        write_file(arguments.folder / "results.md", format_report(report).encode())  # after each: nothing is lost
        if arguments.page:
            insert_report(arguments.page, format_report(report), "comparison")
    print(f"\n{format_rows(report['rows'])}\n\nWritten to {arguments.folder}", flush=True)
    return report


def name_machine() -> str:
    """Describes what this runs on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}, no GPU), {threads} thread{'s' if threads > 1 else ''}"


if __name__ == "__main__":
    run_comparison()
