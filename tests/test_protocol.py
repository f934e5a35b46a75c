"""The protocol in one command: trained, chosen, frozen and tested, and going on where it stopped."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from callbacks.results import SUMMARY
from callbacks.run.folder import MANIFEST
from experiments import protocol, study
from experiments.protocol import Protocol, format_summaries, run_protocol
from experiments.risk import TRUSTS
from experiments.study import Study, describe_method, is_of_another
from tests import programs
from tests.processes import wait_for
from tests.tiny import DATA, EXPERIMENT, QUIET, ROOT, when_written

OPTIONS = [*DATA, *QUIET, "--trainer.max_epochs=2"]
SMALL = ["--psi", "0.6", "0.8", "--lr", "0.05", "--num-steps", "1", "2", "--scales", "0.5,1"]


def pretend_trained(folder: Path) -> Path:
    """Makes a folder look as if the training were done; returns the checkpoint."""
    best = folder / "checkpoints" / "best.ckpt"
    best.parent.mkdir(parents=True, exist_ok=True)
    best.touch()
    (folder / "training.json").write_text("{}")
    return best


def write_selection(folder: Path, **more: Any) -> Path:
    values = {"alpha": 0.0, "scales": [1.0], "psi": 0.7, "lr": 0.1, "num_steps": 3}
    content = {"checkpoint": "best.ckpt", "weights": "0", "values": values, "development": {}, **more}
    (folder / "selection.yaml").write_text(yaml.safe_dump(content))
    return folder / "selection.yaml"


@pytest.mark.slow
def test_the_protocol_trains_chooses_freezes_and_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "protocol"
    arguments = [str(EXPERIMENT), "--folder", str(folder), *SMALL, "--", *OPTIONS]
    monkeypatch.chdir(tmp_path)  # loggers write here
    summaries = run_protocol(arguments)
    assert list(summaries) == ["t-BN", "IaBN", "TTA", "Seg-TTT"]
    selection = folder / "selection.yaml"
    content = yaml.safe_load(selection.read_text())
    assert list(content["values"]) == ["alpha", "scales", "psi", "lr", "num_steps"] and content["semantics"] == "paper"
    digest = hashlib.sha256(selection.read_bytes()).hexdigest()
    for summary in summaries.values():
        assert summary["complete"] and list(summary["domains"]) == ["haze", "dusk", "dust"]
        assert summary["selection"] == {"file": str(selection), "sha256": digest, "departures": []}
    method = summaries["Seg-TTT"]["method"]
    assert all(method[name] == value for name, value in content["values"].items())

    alphas, shared, steps = content["development"]["passes"]
    assert [point["values"]["alpha"] for point in alphas["points"]] == pytest.approx([n / 10 for n in range(11)])
    assert len(shared["points"]) == 2 and len(steps["points"]) == 2
    for name, found in (("alpha", alphas), ("psi", shared), ("num_steps", steps)):
        best = max(found["points"], key=lambda point: point["miou"])
        assert content["values"][name] == best["values"][name]
    assert shared["settings"]["alpha"] == content["values"]["alpha"]
    assert steps["settings"]["psi"] == content["values"]["psi"]
    data = content["development"]["data"]["development"]
    assert data["role"] == "development" and len(data["fingerprint"]) == 64 and data["images"] == 2
    assert content["commit"] and len(content["weights"]) == 64

    written = when_written(selection, *(path for path in folder.rglob("*.json*") if path.name != MANIFEST))
    run_protocol(arguments)  # nothing is done again
    assert when_written(*written) == written

    edited = {**content, "values": {**content["values"], "psi": 0.123}}  # by hand, after the choice
    selection.write_text(yaml.safe_dump(edited))
    grids = {"scales": [[0.5, 1.0]], "psi": [0.6, 0.8], "num_steps": [1, 2], "lr": [0.05]}
    with pytest.raises(ValueError, match=r"SegTTT has psi=.* chose 0\.123: expected the chosen value"):
        Protocol(folder, EXPERIMENT, OPTIONS, grids).test_selected("more", describe_method("SegTTT", content["values"]))


@pytest.mark.slow
def test_the_protocol_chooses_how_far_seg_ttt_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(EXPERIMENT), "--folder", str(tmp_path / "protocol"), *SMALL]
    with pytest.raises(ValueError, match="has 2 labelled images: expected 33 or more"):
        run_protocol([*given, "--most-hurt", "0.03", "--", *OPTIONS])
    summaries = run_protocol([*given, "--most-hurt", "0.5", "--", *OPTIONS])  # goes on with what was trained
    content = yaml.safe_load((tmp_path / "protocol" / "selection.yaml").read_text())
    risk = content["development"]["risk"]
    assert risk["images"] == 2 and risk["most_hurt"] == 0.5 and risk["trust"] == content["values"]["trust"]
    assert list(risk["tried"]) == [str(trust) for trust in TRUSTS]
    assert summaries["Seg-TTT"]["method"]["trust"] == risk["trust"]


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    command = ["-m", "experiments.protocol", str(EXPERIMENT), "--folder", str(folder), "--"]
    running = programs.start([*command, *DATA, *QUIET, "--trainer.max_epochs=200"], ROOT, new_session=True)
    last = folder / "checkpoints" / "last.ckpt"
    try:
        wait_for(lambda: last.exists() or running.poll() is not None)
    finally:
        os.killpg(running.pid, 9)
        running.wait()
    assert last.exists() and not (folder / "training.json").exists()
    versions = list((folder / "training").glob("version_*"))
    (folder / "protocol.json").unlink()  # so that a shorter training may end it
    resumed = Protocol(folder, EXPERIMENT, [*DATA, *QUIET, "--trainer.max_epochs=3"])
    assert resumed.train() == folder / "checkpoints" / "best.ckpt" and resumed.train().exists()
    assert len(list((folder / "training").glob("version_*"))) == len(versions) + 1 > 1
    assert resumed.seconds is None  # of a part it says nothing


def test_a_training_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "run_to_exit", lambda command: programs.run(command[1:], tmp_path, None).returncode)
    with pytest.raises(RuntimeError, match=r"the training of .*street_scenes\.yaml failed"):
        Study(tmp_path, EXPERIMENT, ["--data.height=1"]).train()
    assert not (tmp_path / "training.json").exists()


def test_a_training_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "PATIENCE", 0.1)
    wait, stopped = subprocess.Popen.wait, []

    def interrupt(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout is None:
            stopped.append(process)
            raise KeyboardInterrupt  # in this process alone
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        study.run_to_exit(["sleep", "100"])
    assert wait(stopped[0], 10) == -signal.SIGKILL


def test_several_devices_are_for_the_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("main.main", list)
    checkpoint = pretend_trained(tmp_path)
    for devices in (["--trainer.devices=2"], ["--trainer.devices", "2"]):
        options = [*devices, "--trainer.strategy=ddp", "--trainer.precision=bf16-mixed", "--data.seed=1"]
        command = Study(tmp_path, EXPERIMENT, options).run("test", tmp_path, [])
        assert command[2:5] == ["--trainer.precision=bf16-mixed", "--data.seed=1", f"--ckpt_path={checkpoint}"]


def test_what_is_gone_or_spoilt_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the config .*nothing\.yaml does not exist: expected an experiment"):
        Study(tmp_path, tmp_path / "nothing.yaml").train()
    pretend_trained(tmp_path).unlink()
    with pytest.raises(ValueError, match=r"best\.ckpt does not exist, but .*training\.json says .* delete"):
        Study(tmp_path, EXPERIMENT).train()
    (tmp_path / "protocol.json").write_text('{"experiment":')
    with pytest.raises(ValueError, match=r"protocol\.json cannot be read .*: delete it"):
        Study(tmp_path, EXPERIMENT).train()


def test_a_folder_of_another_experiment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_trained(tmp_path)
    model, config = tmp_path / "model.yaml", tmp_path / "experiment.yaml"
    model.write_text("lr: 0.1")
    config.write_text("model: model.yaml\nseed_everything: 0")
    for root in (ROOT, tmp_path / "elsewhere"):  # moved, and with other options that do not count
        monkeypatch.setattr(study, "ROOT", root)
        quiet = ["--trainer.enable_progress_bar=false", "--trainer.devices=2"] if root == ROOT else []
        Study(tmp_path, config, [f"--training={root / 'a.yaml'}", *quiet]).train()
    own = [f"--training={tmp_path}/elsewhere/a.yaml"]
    settings = tmp_path / study.SETTINGS
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"options": own}))  # as earlier revisions did
    Study(tmp_path, config, own).train()
    with pytest.raises(ValueError, match=r"options was \['--training=a\.yaml'\], is now"):
        Study(tmp_path, config, ["--data.seed=2"]).train()
    with pytest.raises(ValueError, match=r"the protocol from different settings.*another --folder"):
        Study(tmp_path, EXPERIMENT, own).train()
    model.write_text("lr: 0.2")  # in a file that the config names
    with pytest.raises(ValueError, match=r"experiment\.model\.lr was 0\.1, is now 0\.2"):
        Study(tmp_path, config, own).train()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grids": {"psi": [0.5]}}, r"grids\.psi was .* is now \[0\.5\]"),
        ({"semantics": "released"}, "semantics was paper, is now released"),
        ({"trainable": ["head"]}, r"trainable was None, is now \['head'\]"),
        # Before the training:
        ({"grids": {"psi": [0.5, 2.0]}}, r"psi is 2\.0: expected a confidence threshold in \[0, 1\]"),
        ({"grids": {"scales": [[0.5], [0.0]]}}, "scale"),
        ({"grids": {"lr": []}}, "no lr to try: expected at least one value"),
        ({"most_hurt": 3.0}, r"--most-hurt is 3\.0: expected a share of images"),
    ],
)
def test_what_cannot_be_tried_or_was_frozen_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    pretend_trained(tmp_path)
    grids = json.loads(json.dumps(protocol.GRIDS))
    tried = {"grids": grids, "semantics": "paper", "trainable": None, "most_hurt": None}
    write_selection(tmp_path, tried=tried)
    found = Protocol(tmp_path, EXPERIMENT)
    assert found.select().values["psi"] == 0.7
    assert found.describe_chosen("IaBN") == found.describe_chosen("t-BN") == ["--method=null"]  # there is no BatchNorm
    assert "--method.alpha=0.0" in found.describe_chosen("Seg-TTT")
    with pytest.raises(ValueError, match=message):
        Protocol(tmp_path, EXPERIMENT, **changes).select()
    write_selection(tmp_path)  # earlier revisions wrote what was tried to another file
    settings = tmp_path / study.SETTINGS
    settings.write_text(json.dumps(json.loads(settings.read_text()) | tried))
    with pytest.raises(ValueError, match=message):
        Protocol(tmp_path, EXPERIMENT, **changes).select()


def test_finished_results_are_reused_for_the_same_settings_alone(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copy(checkpoint, pretend_trained(tmp_path))
    run, iabn = Study(tmp_path, EXPERIMENT, [*DATA, *QUIET, "--results.report=false"]), {"alpha": 0.1}
    summary = run.test("IaBN", describe_method("IaBN", iabn))
    written = when_written(tmp_path / "test" / "IaBN" / SUMMARY)
    assert run.test("IaBN", describe_method("IaBN", iabn)) == summary and when_written(*written) == written
    with pytest.raises(ValueError, match=r"method\.alpha was 0\.1, is now 0\.3"):
        run.test("IaBN", describe_method("IaBN", {"alpha": 0.3}))


def test_a_search_of_other_values_is_known_for_one() -> None:
    found = {"settings": {"search": {"method": {"name": "SegTTT", "alpha": 0.1, "lr": 0.05}, "grid": {"psi": [0.5]}}}}
    for alpha, grid, other in ((0.1, [0.5], False), (0.2, [0.5], True), (0.1, [0.5, 0.6], True)):
        wanted = {"method": {"init_args": {"alpha": alpha}}, "grid": {"psi": grid}}
        assert is_of_another(found, wanted) is other and is_of_another(None, wanted) is False
    assert not is_of_another(found, {"required": False})


def test_results_of_another_selection_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_trained(tmp_path)
    monkeypatch.setattr("main.main", lambda args: None)  # it finds nothing left to score
    selection = write_selection(tmp_path)
    digest = hashlib.sha256(selection.read_bytes()).hexdigest()
    results = tmp_path / "test" / "TTA" / SUMMARY
    results.parent.mkdir(parents=True)
    results.write_text(json.dumps({"complete": True, "selection": {"sha256": digest}}))
    assert Protocol(tmp_path, EXPERIMENT).test_selected("TTA", ["--method=TTA"])["complete"]
    selection.write_text(selection.read_text() + "# edited\n")
    with pytest.raises(ValueError, match=f"was tested with another selection .SHA-256 {digest}.*delete"):
        Protocol(tmp_path, EXPERIMENT).test_selected("TTA", ["--method=TTA"])


def test_a_score_that_there_is_none_of_is_a_dash() -> None:
    scores = {"miou": None, "ece": None, "ms_per_image": 3.2}
    table = format_summaries({"t-BN": {"domains": {"haze": scores}, "mean": scores}})
    assert table.splitlines()[-1] == "| t-BN | - | - | - | 3 |"
