"""Mistakes on the command line and in YAML files: one sentence first; and what the parser reads as it is meant."""

from pathlib import Path

import pytest

from callbacks.run.parser import refuse_repeated_keys
from main import main
from tests.tiny import arguments

FUNCTION = "torchvision.models.segmentation.lraspp_mobilenet_v3_large"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--method=SegTTT", "--method.psi=much"], "method.psi (callbacks.SegTTT) is much, expected float"),
        (["--method=SegTTT", "--method.steps=3"], "method (callbacks.SegTTT): Option 'steps' is not accepted"),
        (["--trainer.epochs=3"], "unrecognized arguments: --trainer.epochs=3"),
        (["--results.outputs=[masks]"], "results.outputs is masks, expected Literal"),
        (["--data=Foo"], "data: Foo is neither a class (package.module.Class) nor a file"),
        (["--model.network=lightning_modules.networks.Lab"], "model.network (lightning_modules.networks.Lab): module"),
    ],
)
def test_a_mistake_is_one_sentence(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["test", *arguments(tmp_path, *wrong)])
    first, second = capsys.readouterr().err.strip().splitlines()[-2:]
    assert caught.value.code == 2
    assert first.startswith(f"error: {message}") and len(first) < 300
    assert second.startswith("All options: python") and second.endswith("--help")


def test_what_a_constructor_says_is_passed_on_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^alpha is 1\.5: expected the weight of [^\n]*$"):
        main(["test", *arguments(tmp_path, "--method=IaBN", "--method.alpha=1.5")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: {max_epochs: many}", "trainer.max_epochs is many, expected int (in FILE)"),
        ("modle: 3", "does not accept option 'modle' (in FILE)"),
        ("trainer: [1\nx: }", "in FILE"),
        ("trainer:\n  max_epochs: 1\n  max_epochs: 2\n", "FILE, line 3: the key max_epochs occurs twice"),
        ("a: [{8: sky, 010: road}]", "FILE, line 1: the key 010 occurs twice (YAML reads it as 8)"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    with pytest.raises((SystemExit, ValueError)) as caught:
        main(["test", *arguments(tmp_path), f"--config={tmp_path / 'own.yaml'}"])
    said = f"{caught.value}{capsys.readouterr().err}"
    assert message.replace("FILE", str(tmp_path / "own.yaml")) in said


def test_a_key_that_replaces_a_merged_one_is_no_repetition_and_a_date_is_text(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("a: &a {x: 0}\nb: {c: &c {<<: *a, x: 1}}\nd: {<<: *c, x: 2}\nday: 2024-02-30\n", encoding="utf-8")
    refuse_repeated_keys(path)


def test_one_batch_in_a_file_is_one_batch(tmp_path: Path) -> None:
    for value, expected in (("1", [1, 1, 1]), ("1.0", [2, 2, 2])):
        (tmp_path / "own.yaml").write_text(f"trainer: {{limit_test_batches: {value}}}", encoding="utf-8")
        more = ["--data.num_test=2", f"--config={tmp_path / 'own.yaml'}"]
        assert main(["test", *arguments(tmp_path / value, *more)]).trainer.num_test_batches == expected


def test_a_function_makes_a_network_of_the_datas_classes(tmp_path: Path) -> None:
    network = [f"--model.network={FUNCTION}", "--model.network.weights_backbone=null", "--data.num_classes=16"]
    cli = main(["test", *arguments(tmp_path, *network, "--trainer.limit_test_batches=1")])
    assert cli.model.network.classifier.low_classifier.out_channels == 16


def test_home_is_found_in_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("results: {folder: ~/out}\nckpt_path: ~/none.ckpt", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/none.ckpt"):
        main(["test", *arguments(tmp_path), f"--config={tmp_path / 'own.yaml'}"])
    (tmp_path / "own.yaml").write_text("results: {folder: ~/out}\nckpt_path: null", encoding="utf-8")
    cli = main(["test", *arguments(tmp_path), "--config=~/own.yaml"])
    assert cli.config.test.results.folder == str(tmp_path / "out")
    assert (tmp_path / "out" / "results.json").exists() and not (tmp_path / "~").exists()
