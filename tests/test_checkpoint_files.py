"""Files of weights: other programs' are read, what is none is told apart; and a full disk spoils no file."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.run.checks import check_checkpoint, loads_weights
from callbacks.run.records import write_file
from lightning_modules.checkpoints import CheckpointReader
from lightning_modules.networks.checkpoints import check_weights, fit_weights, read_checkpoint


@pytest.mark.parametrize(
    ("prefix", "under"),
    [("", ""), ("", "model"), ("module.", ""), ("_orig_mod.", "state_dict"), ("model._orig_mod.module.", "state_dict")],
)
def test_weights_of_other_programs_are_read(prefix: str, under: str, tmp_path: Path) -> None:
    own = {"network.head.weight": torch.ones(2), "network.head.bias": torch.zeros(2)}
    weights = {prefix + name.removeprefix("network."): value for name, value in own.items()}
    torch.save({under: weights, "epoch": 3} if under else weights, tmp_path / "w.pth")
    state = fit_weights(own, read_checkpoint(tmp_path / "w.pth")["state_dict"])
    assert state.keys() == own.keys() and all(torch.equal(value, own[name]) for name, value in state.items())


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("lightning_modules.networks.DeepLabV1", {"weights": "imagenet"}, False),
        ("torchvision.models.segmentation.FCN", {"weights": "DEFAULT"}, True),
        ("torchvision.models.segmentation.FCN", {"weights": None}, False),
        ("mine.Network", {"pretrained": True}, True),
    ],
)
def test_weights_that_a_network_brings_itself(name: str, arguments: dict[str, Any], expected: bool) -> None:
    network = {"class_path": name, "init_args": arguments}
    assert loads_weights(network) is expected
    wrapper = {"class_path": "lightning_modules.networks.RoundedSizes", "init_args": {"network": network}}
    assert loads_weights(wrapper) is expected


def test_other_weights_in_a_file_are_named(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2)}
    torch.save({"model": state, "model_ema": state, "optimizer": {}, "epoch": 3}, tmp_path / "two.pth")
    with pytest.warns(UserWarning, match="using the weights under model; the file also contains model_ema"):
        assert list(read_checkpoint(tmp_path / "two.pth")["state_dict"]) == ["weight"]
    torch.save({"n_averaged": torch.tensor(3), "module.weight": torch.ones(2)}, tmp_path / "averaged.pth")
    assert list(read_checkpoint(tmp_path / "averaged.pth")["state_dict"]) == ["module.weight"]
    own = {"network.weight": torch.ones(2)}
    with pytest.raises(ValueError, match=r"second copy of the network's weights, with names that begin with ema\."):
        check_weights(own, own | {"ema.weight": torch.ones(2)})
    check_weights(own, own | {"other.bias": torch.ones(2)})  # of another network, which is said elsewhere


class Dangerous:
    def __reduce__(self) -> tuple:
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"PK\x03\x04 torn", "truncated"),
        (b"notes", "not a torch.save file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b'\x40\x00\x00\x00\x00\x00\x00\x00{"weight":{"dtype":"F32"}}', "a safetensors file"),
        (torch.nn.Conv2d(3, 3, 1), r"contains a pickled module.*state_dict\(\)"),
        ({"a": Dangerous()}, "contains a pickled module, or other objects"),
        ({}, "contains nothing"),
        ({"epoch": 3, "loss": 0.1}, "contains epoch, loss: expected weights, or weights under one of state_dict, "),
        ([torch.ones(1)], "contains list: expected"),
    ],
)
def test_files_that_are_no_checkpoints_are_told_apart(
    content: Any, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "best.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
        kind = rf"best.ckpt cannot be read, it is {kind}.*: expected one that `fit` wr"
        with pytest.raises(ValueError, match=kind):
            check_checkpoint(path)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=kind):
        read_checkpoint(path)
    assert "executed" not in capsys.readouterr().out


def test_what_a_checkpoint_may_be(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    for legacy in (False, True):  # torch writes zips; it wrote pickles
        torch.save({"state_dict": {}}, path, _use_new_zipfile_serialization=not legacy)
        check_checkpoint(path)
    check_checkpoint(tmp_path / "nothing.ckpt")  # the reader says that it is not there
    with pytest.raises(FileNotFoundError, match=r"is a folder: expected a file, e\.g\. .*checkpoints/last\.ckpt"):
        check_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="is a URL: expected a file"):
        read_checkpoint(f"https://example.org/best.ckpt?signature={'a' * 300}")


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, checkpoint, other = CheckpointReader(), tmp_path / "best.ckpt", tmp_path / "file"
    reader.save_checkpoint({"state_dict": {"weight": torch.ones(2)}}, checkpoint)
    write_file(other, b"old")

    def fill(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[:2])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", fill)
    monkeypatch.setattr(torch, "save", lambda value, path: fill(path, b"half"))
    with pytest.raises(OSError, match=r"file cannot be written \(No space left on device\).*free some space"):
        write_file(other, b"new")
    with pytest.raises(OSError, match="No space left"):
        reader.save_checkpoint({"state_dict": {"weight": torch.zeros(2)}}, checkpoint)
    assert sorted(tmp_path.iterdir()) == [checkpoint, other]
    assert other.read_bytes() == b"old" and read_checkpoint(checkpoint)["state_dict"]["weight"].tolist() == [1, 1]
