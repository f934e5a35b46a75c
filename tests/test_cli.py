"""The real command line drives fit, validate, test and predict."""

import json
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lightning_modules.predictor import predict_plainly
from main import main
from tests import programs
from tests.processes import wait_for
from tests.tiny import ROOT, arguments, predict_arguments, read_results
from tests.trees import draw_image, write_image

DOMAINS = ["haze", "dusk", "dust"]


def test_fit_logs_csv_beside_offline_wandb_and_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", *arguments(tmp_path, "--trainer.max_epochs=1", logger=True)])
    (run,) = (tmp_path / "outputs" / "runs" / "csv").iterdir()
    assert "val/miou" in (run / "metrics.csv").read_text()
    assert "max_epochs: 1" in (run / "config.yaml").read_text()
    assert list((tmp_path / "outputs" / "runs").glob("wandb/offline-run-*"))
    main(["fit", *arguments(tmp_path, "--trainer.max_epochs=1", logger=True)])  # a second run is no conflict
    assert len(list((tmp_path / "outputs" / "runs" / "csv").iterdir())) == 2


@pytest.mark.parametrize("method", [[], ["--method=SegTTT", "--method.psi=0.6"]])
def test_test_scores_every_target(checkpoint: Path, tmp_path: Path, method: list[str]) -> None:
    cli = main(["test", *arguments(tmp_path, f"--ckpt_path={checkpoint}", *method)])
    results = read_results(tmp_path)
    assert list(results["domains"]) == DOMAINS
    assert results["complete"]
    assert [results["domains"][domain]["images"] for domain in DOMAINS] == [3, 3, 3]
    mean = np.mean([results["domains"][domain]["miou"] for domain in DOMAINS])
    assert results["mean"]["miou"] == pytest.approx(mean)
    assert cli.trainer.callback_metrics["test/miou"].item() == pytest.approx(mean, abs=1e-4)
    lines = (tmp_path / "results" / "records.jsonl").read_text().splitlines()
    assert len(lines) == 9
    assert (results["method"] or {"name": None})["name"] == (method[0].removeprefix("--method=") if method else None)
    if "--method.psi=0.6" in method:
        assert results["method"]["psi"] == 0.6
    assert cli.model.predictor is predict_plainly


def test_method_by_file_takes_further_arguments(checkpoint: Path, tmp_path: Path) -> None:
    file = ROOT / "configs" / "method" / "seg_ttt.yaml"
    more = [f"--ckpt_path={checkpoint}", "--method", str(file), "--method.lr=0.01", "--method.num_steps=1"]
    main(["validate", *arguments(tmp_path, *more)])
    results = read_results(tmp_path)
    assert (results["method"]["name"], results["method"]["lr"], results["method"]["num_steps"]) == ("SegTTT", 0.01, 1)
    assert list(results["domains"]) == ["development"]


def make_photos(folder: Path, count: int) -> Path:
    """Writes photographs of odd sizes, some in a sub-folder."""
    for number in range(count):
        name = f"{'street/' if number % 2 else ''}{number:03d}.{'JPG' if number % 3 else 'png'}"
        write_image(folder / name, draw_image(name, (37 + number % 5, 53 + 2 * number % 7)))
    return folder


def read_outputs(folder: Path) -> dict[str, bytes]:
    """Returns what was written for images, and their lines."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "predictions.json"}


def read_manifest(folder: Path) -> dict:
    return json.loads((folder / "predictions.json").read_text())


@pytest.fixture(scope="module")
def uninterrupted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Photographs, and what is written for them."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    photos = make_photos(folder / "photos", 40)
    cli = main(predict_arguments(photos, folder, f"--ckpt_path={checkpoint}", "--method=SegTTT"))
    assert cli.trainer.predict_loop.return_predictions is False  # they are on disk, and would fill the memory
    return photos, read_outputs(folder / "results")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_an_interrupted_prediction_goes_on(
    checkpoint: Path, uninterrupted: tuple[Path, dict[str, bytes]], tmp_path: Path, number: int, code: int
) -> None:
    (photos, whole), out = uninterrupted, tmp_path / "results"
    args = predict_arguments(photos, tmp_path, f"--ckpt_path={checkpoint}", "--method=SegTTT")
    process = programs.start(["main.py", *args], tmp_path)
    wait_for(lambda: len(list(out.glob("labels/photos/**/*.png"))) >= 3)
    time.sleep(random.random() * 0.2)  # any moment will do
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    manifest, kept = read_manifest(out), {}
    assert manifest["complete"] is False and manifest["runs"][0]["checkpoint"] == str(checkpoint)
    for name, data in read_outputs(out).items():
        if name.endswith((".png", ".jpg")):
            with Image.open(out / name) as picture:
                picture.load()  # no half file
            kept[name] = data
    assert 3 <= len(list(out.glob("labels/photos/**/*.png"))) < 40
    if number != signal.SIGKILL:
        assert manifest["images"] == len(list(out.glob("overlays/photos/**/*.jpg")))
    copy = shutil.copy(checkpoint, tmp_path / "copy.ckpt")
    main([*args, f"--ckpt_path={copy}"])  # the same weights, wherever they lie
    assert read_manifest(out)["complete"] is True and read_manifest(out)["runs"][1]["found"] >= 2
    assert read_outputs(out) == whole
    assert kept.items() <= whole.items()


TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.mark.slow
def test_two_processes_predict_as_one(checkpoint: Path, tmp_path: Path) -> None:
    """Five images over two gloo processes, then a sixth (none is left for the second process), then none."""
    photos, out = make_photos(tmp_path / "photos", 6), tmp_path / "two" / "results"
    own = [f"--ckpt_path={checkpoint}", "--method=SegTTT", "--method.num_steps=2", "--method.scales=[0.75]"]
    args = predict_arguments(photos, out.parent, *own, *TWO)
    late = (photos / "street" / "005.JPG").rename(tmp_path / "late.jpg")
    for step in range(3):
        if step == 1:
            late.rename(photos / "street" / "005.JPG")
        programs.run(["main.py", *args], tmp_path)
        manifest = read_manifest(out)
        assert manifest["complete"] is True and manifest["images"] == (5 if step == 0 else 6)
    assert [run["found"] for run in manifest["runs"]] == [0, 5, 6]
    main(predict_arguments(photos, tmp_path / "one", *own))
    assert read_outputs(out) == read_outputs(tmp_path / "one" / "results")
    done = programs.run(["main.py", *args, "--method.psi=0.1"], tmp_path, code=1)
    assert "method.psi was 0.7, is now 0.1" in done.stderr


@pytest.mark.slow
def test_an_error_in_a_worker_process_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 2)
    (photos / "broken.png").write_bytes((photos / "000.png").read_bytes()[:60])
    args = predict_arguments(photos, tmp_path, f"--ckpt_path={checkpoint}", "--data.num_workers=1")
    done = programs.run(["main.py", *args], tmp_path, code=1)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {photos / 'broken.png'} (60 bytes) cannot be decoded: expected an image")
    assert "Traceback" not in done.stderr and not read_manifest(tmp_path / "results")["complete"]


class Stranger(nn.Module):
    """A network that is not ours: no BatchNorm, no num_classes, no layer names that we know."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(depth)))
        self.classifier = nn.Conv2d(3, 19, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.trunk(image))


def test_a_strangers_network_is_tested_and_a_method_that_refuses_it_leaves_results_alone(tmp_path: Path) -> None:
    network = ["--model.network=tests.test_cli.Stranger", "--model.network.depth=1"]
    method = ["--method=SegTTT", "--method.alpha=0", "--method.trainable=[classifier]"]
    main(["test", *arguments(tmp_path, *method, *network)])
    before = sorted((tmp_path / "results").rglob("*"))
    with pytest.raises(ValueError, match="Stranger has no 2d BatchNorm"):
        main(["test", *arguments(tmp_path, "--method=IaBN", *network)])
    assert sorted((tmp_path / "results").rglob("*")) == before
    assert read_results(tmp_path)["complete"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--training=IWS"], r"unknown training 'IWS': expected one of ASG, CSG, .*omit --training"),
        (["--method=Tnet"], r"unknown method 'Tnet': expected one of TTA, AdaBN, Ensemble, IaBN, .*SegTTT"),
        (["--method=IaBN", "--method=TTA"], r"--method is given 2 times \(IaBN, TTA\): expected one"),
        (["--data.targets=[haze,mars]"], r"unknown domain 'mars'"),
        (["--results.folder="], r"results.folder is empty"),
        (["--method=SegTTT", "--method.psi=-1"], r"psi is -1.*: expected .* \[0, 1\]"),
        (["--method=SegTTT", "--method.trainable=[layer9]"], r"layer9.* match no parameter"),
        (["--model.network.backbone=resnet50"], r"checkpoint is from a different network"),
        (["--ckpt_path=nowhere.ckpt"], r"nowhere\.ckpt"),
        (["--data.height=16", "--data.width=16"], r"16"),
    ],
)
def test_bad_input_is_a_clear_error(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError, SystemExit)) as caught:
        main(["test", *arguments(tmp_path, f"--ckpt_path={checkpoint}", *wrong)])
    assert re.search(message, str(caught.value) + capsys.readouterr().err, re.DOTALL)


@pytest.mark.slow
def test_a_search_on_two_processes_counts_as_one(checkpoint: Path, tmp_path: Path) -> None:
    """Five images over two gloo processes: unpadded, each scored once, the same sums."""
    method = {"method": {"class_path": "callbacks.IaBN"}, "grid": {"alpha": [0.1, 0.5]}}
    search = {"class_path": "callbacks.method_search.MethodSearch", "init_args": method}
    more = [f"--ckpt_path={checkpoint}", "--data.num_val=5", f"--trainer.callbacks+={json.dumps(search)}"]
    found = []
    for processes in ([], TWO):
        folder = tmp_path / str(len(processes))
        programs.run(["main.py", "validate", *arguments(folder, *more, *processes)], tmp_path)
        found.append(json.loads((folder / "results" / "search.json").read_text()))
        assert found[-1]["images"] == 5 and found[-1].pop("seconds") > 0
    assert found[0] == found[1]
