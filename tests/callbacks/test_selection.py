"""A test run keeps to the frozen selection, or says where it departs."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from callbacks import IaBN, Method, SegTTT
from callbacks.results import Results
from callbacks.run.selection import Selection
from callbacks.run.settings import fingerprint_weights
from tests.callbacks import runs
from tests.callbacks.runs import make_module, make_targets, read_results


@pytest.fixture(autouse=True)
def digest(tmp_path: Path) -> str:
    """The hash of a selection that is written for the usual network."""
    content = {
        "checkpoint": "best.ckpt",
        "weights": fingerprint_weights(make_module().network),
        "values": {"alpha": 0.3, "psi": 0.7, "num_steps": 1, "scales": [0.5]},
        "semantics": "paper",
        "development": {"miou": 40.0},
    }
    path = tmp_path / "selection.yaml"
    path.write_text(yaml.safe_dump(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(tmp_path: Path, *methods: Method, module: Any = None, **results: Any) -> dict[str, Any]:
    chosen = {"selection": str(tmp_path / "selection.yaml"), **results}
    runs.run(tmp_path / "out", *methods, module=module, data=make_targets(), results=chosen)
    return read_results(tmp_path / "out")


def test_results_carry_the_hash_of_the_selection_and_other_weights_are_refused(tmp_path: Path, digest: str) -> None:
    module = make_module()
    summary = run(tmp_path, SegTTT(alpha=0.3, num_steps=1, scales=[0.5]), module=module)
    expected = {"file": str(tmp_path / "selection.yaml"), "sha256": digest, "departures": []}
    assert summary["complete"] and summary["selection"] == expected
    assert run(tmp_path, overwrite=True)["selection"] == expected  # t-BN has nothing that was chosen
    module.network.head.weight.data[0] += 1
    with pytest.raises(ValueError, match=r"weights of this run are not those of .*--ckpt_path=best\.ckpt"):
        run(tmp_path, module=module, overwrite=True)


@pytest.mark.parametrize(
    "method, message",
    [
        (IaBN(0.4), r"IaBN has alpha=0\.4, .*selection\.yaml chose 0\.3: expected the chosen value"),
        (SegTTT(0.3, num_steps=1, scales=[0.5], semantics="released"), r"semantics=released, .* chose paper"),
        (SegTTT(alpha=0.3, num_steps=1), r"SegTTT has scales=\[0\.25, 0\.5, 0\.75\]"),
    ],
)
def test_other_settings_are_refused_before_the_first_image(method: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, method)
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_a_departure_that_is_named_is_noted(tmp_path: Path) -> None:
    released, named = SegTTT(1.0, num_steps=1, scales=[0.5], semantics="released"), ["alpha", "semantics"]
    assert run(tmp_path, released, departures=named)["selection"]["departures"] == named
    message = r"departures names beta, which .* does not choose: expected some of alpha, num_steps"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, IaBN(1.0), departures=["beta"], overwrite=True)
    with pytest.raises(ValueError, match=r"departures is set, but results\.selection is not"):
        Results(departures=["alpha"])


@pytest.mark.parametrize("text", [None, "", "a: 1", "weights: x\nvalues: 3\ndevelopment: {}", "{", "\x00"])
def test_what_is_no_selection_is_refused(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "selection.yaml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"the selection .*selection\.yaml .*experiments\.protocol"):
        Selection.read(path)
