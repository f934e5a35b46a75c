"""Compares all methods and networks on StreetScenes, every network trained by the same short recipe: docs/results.md.

Trains each network once on StreetScenes' source (the first one with three seeds, for the ensembles), chooses alpha, the
learning rates and the other free settings on the development domain, then tests on haze, dusk and dust. If interrupted,
run the same command again: finished steps are skipped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from callbacks.run.records import write_json
from experiments.command_line import make_parser, parse, run_program
from experiments.demo import CONFIG, QUICK, SCALES, list_options
from experiments.pages import describe_machine, format_markdown, write_findings
from experiments.scores import Column, format_scores, list_columns
from experiments.study import QUIET, ROOT, Study, describe_method, list_paper_methods, read_json
from lightning_modules.networks.checkpoints import read_checkpoint

SEG_TTT_RATES = (0.02, 0.05, 0.1)
TENT_RATES = (0.0003, 0.001, 0.003, 0.01)
PRIORS = (1.0, 4.0, 16.0, 64.0)
BATCH = 10  # target images per batch of AdaBN
IN_BATCHES = (f"--data.eval_batch_size={BATCH}",)
MEMBERS = 3
REFERENCE = "t-BN"
PLAIN = {"scales": [1.0], "flip": False, "grayscale": False}
AUGMENTATIONS = {
    "no augmentation": PLAIN,
    "scales": PLAIN | {"scales": SCALES},
    "flip": PLAIN | {"flip": True},
    "grayscale": PLAIN | {"grayscale": True},
    "scales, flip": PLAIN | {"scales": SCALES, "flip": True},
    "scales, grayscale": PLAIN | {"scales": SCALES, "grayscale": True},
}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class Contender(NamedTuple):
    """A network and how it is trained."""

    name: str  # in tables and folders
    model: str = "deeplabv1_resnet10_small"  # file in configs/model
    changes: Sequence[str] = ()  # constructor arguments of the network that differ from the file
    batch_norm: bool = True  # whether it has BatchNorm layers that IaBN can adapt
    seed: int = 0


BASE = Contender("DeepLabv1")
OTHER_SEEDS = [Contender(f"DeepLabv1, seed {seed}", seed=seed) for seed in range(1, MEMBERS)]
DROPOUT = Contender("DeepLabv1, dropout", changes=["dropout=0.1"])
OTHERS = [
    Contender("DeepLabv1, SN", changes=["norm=switchable"], batch_norm=False),
    Contender("DeepLabv1, BIN", changes=["norm=batch_instance"]),
    Contender("DeepLabv1, IBN-a", changes=["norm=ibn_a"]),
    Contender("DeepLabv1, IBN-b", changes=["norm=ibn_b"]),
    Contender("DeepLabv3+, stride 8", "deeplabv3plus_resnet10_small"),
    Contender("DeepLabv3+, stride 16", "deeplabv3plus_resnet10_small", ["output_stride=16"]),
    Contender("FCN, ResNet-10", "fcn_resnet10_small"),
    Contender("FCN-8s, VGG-16 with BN", "fcn_vgg16_bn_small"),
    Contender("HRNet-W18-small", "hrnet_w18_small"),
    Contender("Segmenter, small ViT", "segmenter_small", batch_norm=False),
]


def open_contender(contender: Contender, folder: Path, options: Sequence[str]) -> Study:
    """Trains a network unless it is already trained; returns its study."""
    place = folder / contender.name.lower().replace(",", "").replace(" ", "_")
    model = f"--model={ROOT / 'configs' / 'model' / contender.model}.yaml"
    changes = [f"--model.network.init_args.{change}" for change in contender.changes]
    study = Study(place, CONFIG, [model, *changes, *QUIET, *list_options(contender.seed, more=options)])
    print(f"Training {contender.name} (skipped if finished) ...", flush=True)
    study.train()
    return study


def choose(
    study: Study, name: str, method: str, settings: dict[str, Any], key: str, values: Sequence[float], *more: str
) -> float:
    """Returns the value of one setting with the best mean IoU on the development domain."""
    return study.choose(f"{name}_{key}", method, settings, {key: values}, more)["best"]["values"][key]


def choose_shared(study: Study) -> dict[str, float]:
    """Chooses the settings that every network needs: alpha (0 without BatchNorm) and Seg-TTT's learning rate."""
    alpha = study.choose_alpha()["best"]["values"]["alpha"]
    views = {"alpha": alpha, "scales": SCALES}
    return {"alpha": alpha, "lr": choose(study, "Seg-TTT", "SegTTT", views, "lr", SEG_TTT_RATES)}


def list_shared(contender: Contender, chosen: dict[str, float]) -> dict[str, list[str]]:
    """Lists the methods that every network is tested with, and their arguments."""
    names = [REFERENCE, *(["IaBN"] if contender.batch_norm else []), "TTA", "Seg-TTT"]
    methods = list_paper_methods({"alpha": chosen["alpha"], "scales": SCALES, "lr": chosen["lr"]})
    return {name: methods[name] for name in names}


def choose_others(study: Study, chosen: dict[str, float]) -> dict[str, float]:
    """Chooses the settings that only the methods of `list_others` need, on the development domain."""
    online = {"episodic": False, "num_steps": 1}
    return {
        "tent_lr": choose(study, "Tent", "Tent", {}, "lr", TENT_RATES),
        "tent_online_lr": choose(study, "Tent-online", "Tent", online, "lr", TENT_RATES),
        "prior": choose(study, "AdaBN", "AdaBN", {}, "prior", PRIORS, *IN_BATCHES),
        "temperature": fit_temperature(study, "t-BN", []),
        "seg_ttt_temperature": fit_temperature(study, "Seg-TTT", list_shared(BASE, chosen)["Seg-TTT"]),
    }


def fit_temperature(study: Study, name: str, arguments: Sequence[str]) -> float:
    """Returns the temperature with the lowest negative log-likelihood on the development domain."""
    place = study.folder / "development" / f"temperature_{name}"
    path = place.with_suffix(".json")
    if not path.exists():
        search = "--trainer.callbacks+=callbacks.temperature.TemperatureSearch"
        cli = study.run("validate", place, [*study.more, search, *arguments])
        write_json(path, float(cli.trainer.callback_metrics["val/best_temperature"]))
    return float(read_json(path))


def list_others(chosen: dict[str, float], members: Sequence[Path]) -> dict[str, list[str]]:
    """Lists the methods that only the first network is tested with; `members` are checkpoints of the ensembles."""
    iabn = {"alpha": chosen["alpha"]}
    seg_ttt, scales = iabn | {"lr": chosen["lr"]}, {"scales": SCALES}
    ensemble = {"checkpoints": [str(member) for member in members]}
    online = {"lr": chosen["tent_online_lr"], "episodic": False, "num_steps": 1}
    methods = {
        "t-BN, temperature": [f"--model.temperature={chosen['temperature']}"],
        "p-BN": describe_method("IaBN", {"alpha": 1.0}),
        f"AdaBN, batches of {BATCH}": [*describe_method("AdaBN", {}), *IN_BATCHES],
        f"AdaBN, batches of {BATCH}, prior": [*describe_method("AdaBN", {"prior": chosen["prior"]}), *IN_BATCHES],
        "Tent": describe_method("Tent", {"lr": chosen["tent_lr"]}),
        "Tent, online": describe_method("Tent", online),
        "Ensemble": describe_method("Ensemble", ensemble | {"alpha": 0.0}),
        "Ensemble, IaBN": describe_method("Ensemble", ensemble | iabn),
        "Ensemble, TTA": describe_method("Ensemble", ensemble | iabn | {"tta": True} | scales),
    }
    for name, views in AUGMENTATIONS.items():
        if name != "no augmentation":  # that is IaBN
            methods[f"TTA, {name}"] = describe_method("TTA", iabn | views)
        methods[f"Seg-TTT, {name}"] = describe_method("SegTTT", seg_ttt | views)
    for names in (["head"], ["layer4", "head"]):
        methods[f"Seg-TTT, {' + '.join(names)}"] = describe_method("SegTTT", seg_ttt | scales | {"trainable": names})
    methods["Seg-TTT, released semantics"] = describe_method("SegTTT", seg_ttt | scales | {"semantics": "released"})
    temperature = f"--model.temperature={chosen['seg_ttt_temperature']}"
    methods["Seg-TTT, temperature"] = [*describe_method("SegTTT", seg_ttt | scales), temperature]
    return methods


def summarize_network(study: Study, name: str, chosen: dict[str, float]) -> dict[str, Any]:
    """Describes a network: number of parameters, seconds of training, and chosen values."""
    weights = read_checkpoint(study.train())["state_dict"]
    parameters = sum(value.numel() for key, value in weights.items() if not key.endswith(BUFFERS))
    return {"name": name, "seconds": study.seconds, "parameters": parameters, "chosen": chosen}


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Formats the results as a Markdown table."""
    columns = [*list_columns(rows[0]), Column("ECE", "ece"), Column("class-wise ECE", "classwise_ece")]
    columns += [Column("Brier", "brier", "{:.3f}"), Column("NLL", "nll", "{:.3f}")]
    columns += [Column("ms/image", "ms_per_image", "{:.0f}"), Column("worse", "lower", "{:.0f} %")]
    return format_scores(rows, ["network", "method"], columns)


def format_comparison(report: dict[str, Any]) -> str:
    """Formats the report for docs/results.md: machine, results, and each network's training and chosen values."""
    rows = []
    for network in report["networks"]:
        chosen = ", ".join(f"{key} {value:.3g}" for key, value in network["chosen"].items())
        seconds = "resumed" if network["seconds"] is None else f"{network['seconds']:.0f}"
        rows.append([network["name"], f"{network['parameters']:,}", seconds, chosen])
    networks = format_markdown(["network", "parameters", "training (s)", "chosen on `development`"], rows)
    return f"""`make comparison` ({report["machine"]}, torch {report["torch"]}, {report["date"]}). \
Written by `experiments/comparison.py`; do not edit.

{format_rows(report["rows"])}

### What was trained and chosen

{networks}
"""


def run_comparison(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the comparison; returns its report, which is also written as JSON and as a page."""
    contenders = {contender.name: contender for contender in (BASE, DROPOUT, *OTHERS)}
    parser = make_parser("comparison", __doc__, folder="outputs/comparison", page=True)
    only = "run only these networks, e.g. DeepLabv1"
    parser.add_argument("--only", nargs="+", metavar="NETWORK", choices=contenders, default=list(contenders), help=only)
    arguments = parse(parser, args)
    options = [*(QUICK if arguments.quick else ()), *arguments.options]
    report: dict[str, Any] = {"networks": [], "rows": [], "quick": arguments.quick, **describe_machine()}
    for name in arguments.only:
        contender = contenders[name]
        study = open_contender(contender, arguments.folder, options)
        chosen = choose_shared(study)
        methods = list_shared(contender, chosen)
        if contender is BASE:
            members = [study, *(open_contender(other, arguments.folder, options) for other in OTHER_SEEDS)]
            chosen |= choose_others(study, chosen)
            methods |= list_others(chosen, [member.train() for member in members])
        if contender is DROPOUT:
            methods["MC dropout"] = describe_method("MCDropout", {"alpha": 0.0})
            methods["MC dropout, IaBN"] = describe_method("MCDropout", {"alpha": chosen["alpha"]})
        report["rows"] += [{"network": contender.name, **row} for row in study.score_all(methods, REFERENCE)]
        report["networks"].append(summarize_network(study, name, chosen))
        text = format_comparison(report)  # of all so far
        write_findings(arguments.folder, report, text, arguments.page, "comparison")
    print(f"\n{format_rows(report['rows'])}\n\nWritten to {arguments.folder}", flush=True)
    return report


if __name__ == "__main__":
    run_program(run_comparison)
