"""Sweeps: what a sweep's file and command line may hold."""

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from experiments.command_line import drop_options
from experiments.sweep.__main__ import check_options
from experiments.sweep.definition import DEFAULT_SWEEP_COMMAND, Parameter, read_definition, read_parameter
from experiments.sweep.trial import build_arguments
from tests.sweep.given import sweep, write_sweep
from tests.tiny import ROOT


@pytest.mark.parametrize(
    ("form", "values"),
    [
        ({"values": [0.1, 0.2]}, [0.1, 0.2]),
        ({"distribution": "categorical", "values": ["a", None, True, 3]}, ["a", None, True, 3]),
        ({"values": [[0.5], [0.5, 1.0]]}, [[0.5], [0.5, 1.0]]),
        ({"min": 1, "max": 3}, [1, 2, 3]),
        ({"distribution": "int_uniform", "min": 1, "max": 2}, [1, 2]),
        ({"min": 0, "max": 1.0}, None),
        ({"distribution": "uniform", "min": 1, "max": 3}, None),
        ({"distribution": "q_uniform", "min": 0.0, "max": 0.3, "q": 0.1}, [0.0, 0.1, 0.2, 0.3]),
        ({"distribution": "q_uniform", "min": 2, "max": 4}, [2, 3, 4]),
        ({"distribution": "q_uniform", "min": 0.1, "max": 0.9, "q": 0.5}, [0.5]),
        ({"distribution": "log_uniform_values", "min": 0.001, "max": 0.1}, None),
        ({"distribution": "q_log_uniform_values", "min": 3, "max": 12, "q": 5}, [5, 10]),
    ],
)
def test_forms_of_parameters(form: dict[str, Any], values: list[Any] | None) -> None:
    parameter = read_parameter("x", form)
    assert isinstance(parameter, Parameter)
    assert getattr(parameter.distribution, "log", False) == ("log" in form.get("distribution", ""))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [parameter.suggest(study.ask()) for _ in range(30)]
    if values is None:
        assert parameter.list_draws() is None and len(set(drawn)) > 10
        assert all(form["min"] <= value <= form["max"] for value in drawn)
    else:
        listed = [parameter.to_value(value) for value in parameter.list_draws() or ()]
        assert repr(listed) == repr(values) and {*map(repr, drawn)} == {*map(repr, values)}
    assert repr(parameter.first) == repr(values[0] if values else float(form["min"]))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (3, "not supported"),
        ({}, "not supported here. Expected {value: V}, {values"),
        ({"distribution": "normal", "mu": 0, "sigma": 1}, "not supported"),
        ({"distribution": ["uniform"], "min": 0, "max": 1}, r"\['uniform'\] is not supported.*log_uniform_values"),
        ({"distribution": "log_uniform", "min": -3, "max": 0}, "'log_uniform' is not supported"),
        ({"parameters": {"a": {"value": 1}}}, "not supported"),
        ({"values": []}, "one or more"),
        ({"values": [1, 1]}, "twice"),
        ({"values": [1, 2], "probabilities": [0.5, 0.5]}, "not supported"),
        ({"min": 1}, "not supported"),
        ({"min": 0.0, "max": 1.0, "q": 0.1}, "uniform has no q"),
        ({"min": 0, "max": 10, "q": 5}, "int_uniform has no q"),
        ({"min": 2, "max": 1}, "not below max"),
        ({"min": 0.0, "max": float("inf")}, "not finite"),
        ({"min": "low", "max": 1}, "not supported"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 2}, "whole numbers"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 2}, "low > 0"),
        ({"distribution": "q_log_uniform_values", "min": 0, "max": 2}, "low >= 1"),
        ({"distribution": "q_uniform", "min": 0, "max": 2, "q": 0}, "q is not above 0"),
        ({"distribution": "q_uniform", "min": 0, "max": 2, "q": float("inf")}, "q is not above 0"),
        ({"distribution": "q_uniform", "min": 0.1, "max": 0.4, "q": 0.5}, "low <= high"),
    ],
)
def test_other_forms_are_refused(form: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"parameters.method.x is .*{message}"):
        read_parameter("method.x", form)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"early_terminate": {"type": "hyperband", "max_iter": 32, "s": 2, "eta": 4}}, {"min_iter": 2, "eta": 4}),
        ({"early_terminate": {"type": "hyperband", "min_iter": 3, "strict": True}}, {"min_iter": 3, "eta": 3}),
        ({"metric": {"name": "val/miou", "goal": "maximize", "target": 50}, "name": 5}, {"name": "5"}),
        ({"command": ["${program}", "validate", 1]}, {"command": ["${program}", "validate", "1"]}),
        ({"command": []}, {"command": DEFAULT_SWEEP_COMMAND}),
    ],
)
def test_other_keys(changes: dict[str, Any], found: dict[str, Any], tmp_path: Path) -> None:
    path = write_sweep(tmp_path, **changes)
    path.write_text(path.read_text().replace("0.2", "1e-3").replace("0.6", "1E+2").replace("[]", "") + "run_cap:\n")
    read = read_definition(path)
    values = vars(read) | (vars(read.early_terminate) if read.early_terminate else {})
    assert {key: values[key] for key in found} == found
    assert [read.chosen[0].to_value(drawn) for drawn in read.chosen[0].list_draws() or ()] == [0.0, 0.001, 0.4, 100.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": {"name": "test/miou", "goal": "maximize"}}, "Nothing is chosen by scores on targets"),
        ({"metric": {"name": "val/miou"}}, "expected goal: maximize"),
        ({"metric": {"name": "val/ece", "goal": "most"}}, "metric.goal is most, expected .*'maximize', 'minimize'"),
        ({"metric": None}, "metric.name"),
        ({"method": "hyperband"}, "method is hyperband, expected .*'grid', 'random', 'bayes'"),
        ({"parameters": {"method": {"values": ["IaBN", "TTA"]}}}, "method cannot be chosen by a sweep"),
        ({"parameters": {"ckpt_path": {"values": ["a", "b"]}}}, "ckpt_path cannot be chosen by a sweep"),
        ({"parameter": {"a": 1}}, "parameter.a.* not accepted"),
        ({"parameters": {"method.alpha": {"value": 0.1}}}, "nothing to choose"),
        ({"parameters": {"data.choose_on_target": {"values": [True, False]}}}, "on the development set alone"),
        ({"run_cap": 0}, "run_cap.*v>0"),
        ({"early_terminate": {"type": "median"}}, "early_terminate.type.* is median, expected .*hyperband"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate: expected min_iter"),
        ({"command": "validate"}, "command is validate, expected list"),
        ({"command": ["${env}", "${interpreter}", "${program}", "test", "${args}"]}, "nothing is chosen on targets"),
        ({"command": ["${env}", "${interpreter}", "${program}", "fit", "${args}"]}, "it trains nothing"),
        ({"command": None}, r"is .*\$\{program\} \$\{args\}: expected .* validate"),
        ({"command": ["${program}", "validate"]}, r"expected .*\$\{args\}"),
        ({"command": ["python", "main.py", "validate", "${args}"]}, r"expected .*\$\{program\}"),
        ({"command": ["${env}", "A=1", "${program}", "validate", "${args}"]}, "A=1.*expected"),
        (
            {"command": ["${program}", "validate", "--config=${envvar:SEGADAPT_EXPERIMENT}", "${args}"]},
            "is not set: expected --experiment EXPERIMENT.yaml, or export SEGADAPT_EXPERIMENT",
        ),
        ({"command": ["${program}", "validate", "--data.root=${envvar:NEVER}", "${args}"]}, "expected export NEVER"),
        ({"program": "nowhere.py"}, "run this command in the folder of main.py"),
        ({"method": "random"}, "the number of random trials is not set"),
        ({"parameters": {"method.alpha": {"min": 0.0, "max": 1.0}}}, "has infinitely many values"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str, tmp_path: Path, calls: Any) -> None:
    write_sweep(tmp_path, **changes)
    error = sweep(tmp_path) or ""
    assert "sweep.yaml" in error and re.search(message, error) and "\n" not in error, error
    assert not calls() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--data.choose_on_target=true", "a sweep never chooses on a target"),
        ("--ckpt_path=none.ckpt", "none.ckpt does not exist"),
        ("--method.alpha=0.4", r"--method.alpha after -- would override .*sweep\.yaml"),
        ("--method.alpha 0.4", "--method.alpha after -- would override"),
        ("--data.seed=1 --method=TTA", "--method after -- would override"),
    ],
)
def test_options_that_would_spoil_the_choice_are_refused(more: str, message: str, tmp_path: Path, calls: Any) -> None:
    write_sweep(tmp_path)
    assert re.search(message, sweep(tmp_path, more=tuple(more.split())) or "") and not calls()


def test_options_may_replace_what_the_sweep_does_not_choose() -> None:
    definition = read_definition(ROOT / "configs" / "sweep" / "psi.yaml")
    options = ["--method.alpha=0.4", "--method.num_steps=5"]
    check_options(definition, options)
    assert build_arguments(definition, {"method.psi": 0.5}, options)[-2:] == options  # the last one counts
    command = ["validate", "--method", "IaBN", "--method.alpha=1", "--methods=2", "--data", "x", "--method.psi", "3"]
    assert drop_options(command, "method") == ["validate", "--methods=2", "--data", "x"]


def test_what_is_no_sweep_and_no_choice(tmp_path: Path) -> None:
    for form in ({"value": 3}, {"distribution": "constant", "value": [1, 2]}):
        assert read_parameter("x", form) == form["value"]
    path = tmp_path / "sweep.yaml"
    for text, message in (("[1, 2]", r"Unexpected config: \[1, 2\]"), ("a: [", "parsing config")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_definition(path)
    path.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        read_definition(path)
