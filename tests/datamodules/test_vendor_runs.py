"""Runs of the command line on the data sets of vendors, and the roles that these have in the protocol."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from cityscapesscripts.helpers.labels import labels as official_labels
from torch import nn

from datamodules import (
    BDDDataModule,
    CityscapesDataModule,
    GTADataModule,
    IDDDataModule,
    MapillaryDataModule,
    TargetsDataModule,
    WildDashDataModule,
)
from datamodules.base import ProtocolError
from main import main
from tests import trees
from tests.tiny import NO_LOGGER, QUIET, read_results

TARGETS = [CityscapesDataModule, BDDDataModule, IDDDataModule, MapillaryDataModule]

# Trees of two or three images have fewer than the official number, and say so each time.
pytestmark = pytest.mark.filterwarnings("ignore:.*the official number is:UserWarning")


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All seven data sets below one folder; not to be changed."""
    return trees.write_vendors(tmp_path_factory.mktemp("data"))


def run(stage: str, folder: Path, *more: str) -> Any:
    place = [f"--trainer.default_root_dir={folder}", f"--results.folder={folder / 'results'}", "--results.panels=0"]
    return main([stage, *QUIET, *NO_LOGGER, *place, "--model.network=tests.fakes.TinyNetwork", *more])


def test_a_run_says_what_was_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.write_old_bdd(tmp_path / "data" / "bdd", unpaired=True)
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path / "data"))
    run("test", tmp_path, "--data=BDDDataModule", "--data.broken=skip", "--data.num_workers=0")
    results = read_results(tmp_path)
    (scores,) = results["domains"].values()
    assert results["complete"] and scores["images"] == len(trees.BDD.keys["val"])
    left_out = results["data"]["left_out"]["val"]
    assert [entry["name"] for entry in left_out] == list(trees.BDD_UNPAIRED) and left_out[0]["why"] == "missing"
    assert results["data"]["role"] == "target" and not results["data"]["choose_on_target"]


def choose(name: str, root: Path) -> list[str]:
    """Returns the arguments of a small run on a data set, which lies in a folder of data sets."""
    small = ["--data.num_workers=0", "--data.batch_size=2", "--data.crop_size=[16,16]"]
    return [f"--data={name}DataModule", f"--data.root={root}", *small]


def test_choosing_on_a_target_is_refused(data_sets: Path, tmp_path: Path) -> None:
    said = r"target.*source.*development.*choose_on_target=true"
    for stage in ("validate", "fit"):
        with pytest.raises(ProtocolError, match=said):
            run(stage, tmp_path, *choose("Cityscapes", data_sets))
        for module in TARGETS:
            data = module(str(data_sets))
            with pytest.raises(ProtocolError, match=said):
                data.val_dataloader() if stage == "validate" else data.train_dataloader()
    for place in ("development", "source"):
        with pytest.raises(ProtocolError, match=f"idd is a target.*as the {place} data set.*choose_on_target"):
            TargetsDataModule([CityscapesDataModule()], **{place: IDDDataModule()})
    TargetsDataModule([CityscapesDataModule()], source=GTADataModule(), development=WildDashDataModule())
    TargetsDataModule([CityscapesDataModule()], development=BDDDataModule(choose_on_target=True))


@pytest.mark.slow
@pytest.mark.parametrize(("source", "num_classes"), [("GTADataModule", 19), ("SYNTHIADataModule", 16)])
def test_the_whole_protocol_in_one_file(source: str, num_classes: int, data_sets: Path, tmp_path: Path) -> None:
    settings = {"num_classes": num_classes, "num_workers": 0, "batch_size": 2, "crop_size": [16, 16]}
    names = [source, "WildDashDataModule", *(module.__name__ for module in TARGETS)]
    first, second, *others = [{"class_path": name, "init_args": settings} for name in names]
    data = {"root": str(data_sets), "source": first, "development": second, "targets": others}
    config = tmp_path / "protocol.yaml"
    config.write_text(yaml.safe_dump({"data": {"class_path": "TargetsDataModule", "init_args": data}}))
    cli = run("fit", tmp_path, f"--config={config}", "--trainer.max_epochs=1")
    assert cli.trainer.global_step == 2 and 0 <= cli.trainer.callback_metrics["val/miou"].item() <= 1
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    run("test", tmp_path, f"--config={config}", f"--ckpt_path={checkpoint}", "--data.broken=skip")  # of all data sets
    results = read_results(tmp_path)
    found = results["data"]
    assert results["complete"] and [scores["images"] for scores in results["domains"].values()] == [3, 2, 2, 2]
    assert all(len(scores["iou"]) == num_classes for scores in results["domains"].values())
    assert [(target["role"], target["broken"]) for target in found["targets"]] == [("target", "skip")] * 4
    assert (found["source"]["role"], found["development"]["role"]) == ("source", "development")


class NearestColour(nn.Module):
    """A network of a stranger: each pixel has the class whose colour, drawn at random, is nearest."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Parameter(torch.randn(1, 19, 3, 1, 1, generator=torch.Generator().manual_seed(0)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return -(image[:, None] - self.colours).square().sum(dim=2)


def test_mean_iou_is_that_of_the_official_evaluation(tmp_path: Path) -> None:
    evaluation = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    root = trees.write_cityscapes(tmp_path / "data")
    network = f"--model.network={__name__}.NearestColour"
    cli = run("test", tmp_path, *choose("Cityscapes", root), network)
    (ours,) = read_results(tmp_path)["domains"].values()
    ids = {label.trainId: label.id for label in official_labels}
    predictions, truths, seen = [], [], set()
    for batch in cli.datamodule.test_dataloader():
        with torch.no_grad():
            labels = cli.model.network.eval()(batch["image"])[0].argmax(dim=0).numpy()
        path = tmp_path / "predictions" / f"{batch['name'][0]}.png"
        trees.write_image(path, np.vectorize(ids.get)(labels).astype(np.uint8))
        predictions.append(str(path))
        truths.extend(map(str, (root / "gtFine" / "val").rglob(f"{path.stem}_gtFine_labelIds.png")))
        seen |= set(labels.ravel().tolist())
    assert len(seen) > 12 and len(truths) == len(predictions)
    evaluation.args.quiet, evaluation.args.JSONOutput, evaluation.args.evalInstLevelScore = True, False, False
    theirs = evaluation.evaluateImgLists(predictions, truths, evaluation.args)
    assert ours["miou"] == pytest.approx(100 * theirs["averageScoreClasses"], abs=1e-9)
    for name, iou in ours["iou"].items():
        assert iou == pytest.approx(100 * theirs["classScores"][name], abs=1e-9, nan_ok=True)


def test_a_sweep_may_not_test_a_target(data_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    target = choose("Cityscapes", data_sets)
    with pytest.raises(ProtocolError, match=r"sweep.*development"):
        run("test", tmp_path, *target)
    for stage in ("validate", "test"):  # nor on purpose
        with pytest.raises(ProtocolError, match="in a sweep there is no other way"):
            run(stage, tmp_path, *target, "--data.choose_on_target=true")
    run("validate", tmp_path, *choose("WildDash", data_sets))
    assert read_results(tmp_path)["complete"]
