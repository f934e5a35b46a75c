"""The paper's tables: the printed numbers, cells from results, formats, and a tiny run."""

import csv
import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytorch_lightning.utilities.exceptions import SIGTERMException

from experiments.tables import execution
from experiments.tables.build import build_table
from experiments.tables.command import list_all_runs, make_plan, parse_arguments, run_tables
from experiments.tables.execution import Task, list_departures, list_tasks, run_tasks
from experiments.tables.formats import escape_latex, format_csv, format_latex, format_markdown
from experiments.tables.paper import MEAN, METRICS, NAMES, Table, read_part, read_table
from experiments.tables.results import check_method, is_same, read_results
from experiments.tables.runs import WORLDS, Plan, Run, read_method
from tests.processes import is_alive, list_children, wait_for
from tests.tiny import ROOT

TABLES = [read_table(name) for name in NAMES]
PARTS = [(table, part) for table in TABLES for part in table.parts]
ROWS = [(table, part, row) for table, part in PARTS for row in part.rows]


def plan_of(*args: str) -> Plan:
    return make_plan(parse_arguments(["all", *args]))


# The printed numbers


def test_every_table_is_named_and_placed() -> None:
    assert [table.label for table in TABLES[:9]] == [f"Table {number}" for number in range(1, 10)]
    for table in TABLES:
        assert 1 <= table.page <= 21 and table.section and table.title


def test_every_printed_mean_is_that_of_its_columns() -> None:
    checked = 0
    for table, part, row in ROWS:
        numbers = dict(zip(part.list_cells(), row.paper, strict=False))
        for metric in part.metrics:
            printed = numbers.get((metric, MEAN))
            if printed is None:
                continue
            columns = [numbers[metric, column] for column in part.domains]
            decimals = METRICS[metric].decimals
            mean = sum(columns) / len(columns)  # type: ignore[arg-type]
            doubted = MEAN in row.doubtful or set(row.doubtful) & set(part.columns)
            assert abs(mean - printed) < 10**-decimals or doubted, (table.name, row, mean)
            checked += 1
    assert checked == 6 + 3 + 12 + 6 + 6 + 8


def test_every_printed_difference_is_that_of_its_pair() -> None:
    checked = 0
    for table, part in PARTS:
        for before, row in zip(part.rows, part.rows[1:], strict=False):
            for low, high, gain in zip(before.paper, row.paper, row.gain, strict=False):
                if gain is not None:
                    assert high - low == pytest.approx(gain, abs=1e-6), (table.name, row)  # type: ignore[operator]
                    checked += 1
    assert checked == 28 + 21  # of Tables 4 and 9


def test_the_same_cell_has_the_same_number_in_every_table() -> None:
    plan, seen = plan_of(), {}
    for table, part, row in ROWS:
        for (metric, column), value in zip(part.list_cells(), row.paper, strict=False):
            run = plan.find_run(row, column)
            if run is None or value is None or row.decimals is not None:
                continue
            earlier = seen.setdefault((run, metric, column), value)
            assert earlier == value, (table.name, row, column)


def test_every_row_is_cited_or_can_be_run() -> None:
    for world in WORLDS.values():
        plan = Plan(world, world.policy, Path("nowhere"))
        for table in TABLES:
            for run in plan.list_runs(table):
                config = world.find_config(run.experiment)
                assert config.is_file(), (table.name, run)
                assert yaml.safe_load(config.read_text())["data"]
                members = world.list_members(run.experiment) if run.is_ensemble else []
                assert all(world.find_config(member).is_file() for member in members)
                if run.method is not None:
                    read_method(run.method)


def test_runs_of_one_name_have_one_meaning() -> None:
    for args in ([], ["--settings", "selected"], ["--world", "street_scenes"]):
        plan = plan_of(*args)
        folders: dict[Path, Run] = {}
        for run in list_all_runs(plan, TABLES, None):
            assert folders.setdefault(plan.find_results(run), run) == run


def test_every_number_of_the_old_page_is_there() -> None:
    known = {value for _, _, row in ROWS for value in row.paper}
    numbers = re.findall(r"(?<![\d.-])\d\d\.\d\d?(?![\d.])", (ROOT / "docs" / "paper.md").read_text())
    assert len(numbers) > 150
    assert not {number for number in numbers if float(number) not in known}


def test_a_number_too_few_is_a_clear_error() -> None:
    row = {"source": "GTA", "network": "N", "name": "IaBN", "experiment": "gta_resnet50", "method": "iabn"}
    data = {"title": "T", "metrics": ["miou"], "columns": ["bdd", "mean"], "rows": [row | {"paper": [1.0]}]}
    with pytest.raises(ValueError, match=r"t.yaml, row GTA, N, IaBN: 1 numbers, expected 2"):
        read_part(Path("t.yaml"), data)
    with pytest.raises(ValueError, match="exactly one of cited, experiment"):
        read_part(Path("t.yaml"), data | {"rows": [row | {"cited": True, "paper": [1.0, 2.0]}]})


def test_unknown_table_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="unknown table 'table10': expected some of table1"):
        read_table("table10")


# Settings


def test_published_settings() -> None:
    plan = plan_of()
    seg_ttt = plan.describe(Run("gta_resnet101", "seg_ttt"))
    assert seg_ttt is not None and seg_ttt[0] == "SegTTT"
    assert seg_ttt[1]["semantics"] == "released" and seg_ttt[1]["alpha"] == 0.2
    assert plan.describe(Run("gta_resnet101", "p_bn")) == ("IaBN", {"alpha": 1.0})
    assert plan.describe(Run("gta_resnet50", "iabn")) == ("IaBN", {"alpha": 0.1})
    assert "--method.semantics=released" in plan.list_arguments(Run("gta_resnet50", "seg_ttt_flip"))


def test_selected_settings_replace_what_was_chosen_and_nothing_else() -> None:
    plan = plan_of("--world", "street_scenes")
    chosen = {"alpha": 0.3, "scales": [0.5, 0.75, 1.0], "psi": 0.6, "num_steps": 5, "lr": 0.2}
    described = plan.describe(Run("gta_resnet50", "seg_ttt"), chosen)
    assert described is not None
    assert {key: described[1][key] for key in chosen} == chosen
    assert described[1]["semantics"] == "paper"
    curve = plan.describe(Run("gta_resnet50", "seg_ttt", (("num_steps", 3),)), chosen)
    assert curve is not None and curve[1]["num_steps"] == 3 and curve[1]["alpha"] == 0.3
    flip = plan.describe(Run("gta_resnet50", "seg_ttt_flip"), chosen)
    assert flip is not None and flip[1]["scales"] == [1.0]
    assert plan.describe(Run("gta_resnet50", "p_bn"), chosen) == ("IaBN", {"alpha": 1.0})
    assert plan.describe(Run("gta_resnet50", "mc_dropout"), chosen) == ("MCDropout", {"passes": 10, "alpha": 0.0})
    tent = plan.describe(Run("gta_resnet50", "tent"), chosen)
    assert tent is not None and tent[1]["lr"] == 0.001
    assert list_departures(plan, Run("gta_resnet50", "tent"), list(chosen)) == ["alpha", "num_steps", "lr"]
    assert list_departures(plan, Run("gta_resnet50", "ensemble_iabn"), list(chosen)) == ["scales"]
    assert list_departures(plan, Run("gta_resnet50", "seg_ttt_no_views_t_bn"), list(chosen)) == ["alpha", "scales"]
    assert list_departures(plan, Run("gta_resnet50", "seg_ttt"), list(chosen)) == []
    assert list_departures(plan, Run("gta_resnet50"), list(chosen)) == []


def test_points_of_a_curve_that_a_table_has_are_not_run_again() -> None:
    plan = plan_of()
    names = [run.name for figure in ("fig2", "fig4") for run in plan.list_runs(read_table(figure))]
    assert {"seg_ttt", "seg_ttt_num_steps_9", "t_bn", "p_bn", "iabn", "iabn_alpha_0.2"} <= set(names)
    assert not {"seg_ttt_num_steps_10", "iabn_alpha_0.1", "iabn_alpha_0.0", "iabn_alpha_1.0"} & set(names)


def test_published_settings_are_refused_in_the_other_world() -> None:
    with pytest.raises(ValueError, match="--settings paper on street_scenes"):
        plan_of("--world", "street_scenes", "--settings", "paper")


def test_unknown_experiments_are_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"unknown experiments \['vgg'\]: expected some of \['bdd_resnet101'"):
        list_all_runs(plan_of(), TABLES, ["vgg"])


# Cells


def write_results(plan: Plan, run: Run, miou: dict[str, float], **changes: Any) -> Path:
    """Writes results.json as a run of these settings would, but for what changes."""
    chosen = {"alpha": 0.3, "psi": 0.6, "num_steps": 5, "lr": 0.2}
    described = plan.describe(run, chosen)
    method = None if described is None else {"name": described[0], **described[1]}
    if method is not None and run.is_ensemble:
        method["checkpoints"] = ["a.ckpt"] * plan.world.members
    domains = {
        domain: {"miou": value, "classwise_ece": value / 2, "ms_per_image": 10 * value, "images": 500}
        for domain, value in miou.items()
    }
    summary = {"complete": True, "stage": run.stage, "method": method, "device": "cpu", "domains": domains} | changes
    path = plan.find_results(run) / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary))
    return path


def test_cells_hold_ours_the_papers_and_the_difference(tmp_path: Path) -> None:
    plan = plan_of("--folder", str(tmp_path))
    write_results(plan, Run("gta_resnet50", "iabn"), {"cityscapes": 38.004, "bdd": 32.0, "idd": 34.0})
    built = build_table(plan, read_table("table1"))
    line = built.parts[0].lines[2]
    assert [cell.ours for cell in line.cells] == pytest.approx([38.004, 32.0, 34.0, 104.004 / 3])
    assert [cell.difference for cell in line.cells] == [0.46, -0.79, -0.21, -0.18]
    page = format_markdown(built)
    assert "| GTA | ResNet-50 | IaBN | 38.00 | 37.54 | +0.46 | 32.00 | 32.79 | −0.79 |" in page
    assert "| GTA | ResNet-50 | t-BN | — | 30.95 |  |" in page
    assert f"--results.folder {tmp_path}/gta_resnet50/test/t_bn`" in page
    assert "--ckpt_path gta_resnet50.ckpt --method=configs/method/p_bn.yaml" in page
    assert "500 images of bdd, the protocol has 1000" in page


def test_tables_say_where_and_when_they_were_measured(tmp_path: Path) -> None:
    plan, cities = plan_of("--folder", str(tmp_path)), {"cityscapes": 38.0, "bdd": 32.0, "idd": 34.0}
    write_results(
        plan, Run("gta_resnet50", "iabn"), cities, date="2026-11-26T02:28:36+00:00", versions={"torch": "2.15"}
    )
    page = format_markdown(build_table(plan, read_table("table1")))
    assert "Measured on cpu (torch 2.15, 2026-11-26); images: " in page
    write_results(
        plan, Run("gta_resnet50"), cities, device="H100", date="2026-11-27T00:00:00", versions={"torch": "2.15"}
    )
    assert build_table(plan, read_table("table1")).measured == "H100; cpu (torch 2.15, 2026-11-26 to 2026-11-27)"


def test_a_mean_of_some_of_the_columns_is_missing(tmp_path: Path) -> None:
    plan = plan_of("--folder", str(tmp_path))
    write_results(plan, Run("gta_resnet50", "iabn"), {"cityscapes": 38.0, "bdd": 32.0})
    line = build_table(plan, read_table("table1")).parts[0].lines[2]
    assert [cell.ours for cell in line.cells] == [38.0, 32.0, None, None]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"complete": False}, "the run was interrupted"),
        ({"stage": "validate"}, "they are of a validate run, expected test"),
        ({"method": None}, "the method is none \\(t-BN\\), expected IaBN"),
        ({"method": {"name": "TTA", "alpha": 0.1}}, "the method is TTA, expected IaBN"),
        ({"method": {"name": "IaBN", "alpha": 0.3}}, "alpha is 0.3, expected 0.1"),
        ({"temperature": 1.3}, "they have temperature 1.3, expected 1.0"),
        ({"precision": "bf16-mixed"}, "precision is bf16-mixed, expected 32-true"),
        ({"data": {"targets": [{"domain": "bdd", "classes": 16}]}}, "bdd has 16 classes, expected 19"),
        ({"domains": None}, "cannot be read as results"),
        ({"domains": {"cityscapes": {"miou": float("nan"), "images": 1}}}, "NaN is no number"),
    ],
)
def test_results_of_another_run_are_named_and_not_used(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    plan, run = plan_of("--folder", str(tmp_path)), Run("gta_resnet50", "iabn")
    path = write_results(plan, run, {"cityscapes": 38.0}, **changes)
    found = read_results(plan, run)
    assert found.summary is None
    assert re.search(problem, found.problem) and str(path) in found.problem


@pytest.mark.parametrize(
    "name, changes",
    [("seg_ttt", {"trainable": ["head"]}), ("seg_ttt", {"time_budget_ms": 500}), ("seg_ttt_flip", {"lr": 1})],
)
def test_settings_that_no_file_of_the_method_names_are_compared_too(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    plan, run = plan_of("--folder", str(tmp_path)), Run("gta_resnet50", name)
    described = plan.describe(run)
    assert described is not None
    method = {"name": described[0], "resampling": "pillow", **described[1]}
    write_results(plan, run, {"cityscapes": 38.0}, method=method)
    assert read_results(plan, run).summary is not None
    write_results(plan, run, {"cityscapes": 38.0}, method=method | changes)
    (key, value) = next(iter(changes.items()))
    assert f"{key} is {value}, expected" in read_results(plan, run).problem


def test_precision_is_that_of_the_row_or_of_the_command_line(tmp_path: Path) -> None:
    half = plan_of("--folder", str(tmp_path), "--", "--trainer.precision=bf16-mixed")
    run = Run("gta_resnet50", "iabn")
    write_results(half, run, {"cityscapes": 38.0}, precision="bf16-mixed")
    assert read_results(half, run).summary is not None
    row = Run("gta_resnet50", "iabn", options=("--trainer.precision=16-mixed",))
    write_results(half, row, {"cityscapes": 38.0}, precision="bf16-mixed")
    assert "precision is bf16-mixed, expected 16-mixed" in read_results(half, row).problem


def test_results_without_a_target_of_the_table_are_named(tmp_path: Path) -> None:
    plan, run = plan_of("--folder", str(tmp_path)), Run("gta_resnet50", "iabn")
    write_results(plan, run, {"cityscapes": 38.0, "bdd": 32.0})
    built = build_table(plan, read_table("table1"))
    problem, command = built.missing[run]
    assert problem == f"{tmp_path}/gta_resnet50/test/iabn has no idd" and "--results.overwrite=true" in command
    assert built.parts[0].lines[2].cells[0].ours == 38.0
    assert problem in format_markdown(built)


def test_spoilt_results_are_named_and_not_used(tmp_path: Path) -> None:
    plan, run = plan_of("--folder", str(tmp_path)), Run("gta_resnet50", "iabn")
    write_results(plan, run, {"cityscapes": 38.0}).write_text("{")
    assert "cannot be read as results (JSONDecodeError" in read_results(plan, run).problem


def test_an_ensemble_of_another_size_is_refused(tmp_path: Path) -> None:
    plan, run = plan_of("--folder", str(tmp_path)), Run("gta_resnet50", "ensemble")
    method = {"name": "Ensemble", "alpha": 0.0, "tta": False, "checkpoints": ["a.ckpt"]}
    write_results(plan, run, {"cityscapes": 38.0}, method=method)
    assert "the ensemble has 1 networks, expected 10" in read_results(plan, run).problem


def test_selected_settings_need_the_selection(tmp_path: Path) -> None:
    plan, run = plan_of("--world", "street_scenes", "--folder", str(tmp_path)), Run("gta_resnet50", "iabn")
    write_results(plan, run, {"haze": 30.0, "dusk": 31.0, "dust": 32.0})
    assert "selection.yaml" in read_results(plan, run).problem
    plan.find_selection("gta_resnet50").write_text(yaml.safe_dump({"values": {"alpha": 0.3}}))
    assert read_results(plan, run).summary is not None
    plan.find_selection("gta_resnet50").write_text(yaml.safe_dump({"values": {"alpha": 0.2}}))
    assert "alpha is 0.3, expected 0.2" in read_results(plan, run).problem


def test_settings_are_compared_by_value() -> None:
    assert is_same((0.25, 1), [0.25, 1.0]) and not is_same([0.25], [0.25, 0.5])
    assert is_same(True, True) and not is_same(False, True) and not is_same(None, 0.1)
    assert check_method(None, {"name": "TTA"}) == "the method is TTA, expected no method (t-BN)"


def test_the_other_world_has_its_own_columns_and_no_differences(tmp_path: Path) -> None:
    plan = plan_of("--world", "street_scenes", "--folder", str(tmp_path))
    write_results(plan, Run("gta_resnet50"), {"haze": 30.0, "dusk": 31.0, "dust": 32.96})
    page = format_markdown(build_table(plan, read_table("table1")))
    assert "constructed demonstration, not evidence" in page
    assert "| source | network | method | haze (%) | dusk (%) | dust (%) | mean (%) | paper (real data) |" in page
    assert "| GTA | ResNet-50 | t-BN | 30.0 | 31.0 | 33.0 | 31.3 | 30.75 |" in page
    assert "difference |" not in page
    bound = format_markdown(build_table(plan, read_table("table4")))
    assert "haze_resnet50/test/t_bn" in bound and "| 62.72 |" in bound  # mean of 71.23, 58.39, 58.53
    assert "| GTA | ResNet-50, FCN | Yue et al. | cited | cited | cited | cited | 34.56 |" in bound


def test_doubtful_numbers_are_marked_and_explained(tmp_path: Path) -> None:
    page = format_markdown(build_table(plan_of("--folder", str(tmp_path)), read_table("table4")))
    assert "| cited | 29.64 † |" in page
    doubt = "GTA, ResNet-50, DeepLabv1, IBN-Net (Pan et al.), cityscapes: restored"
    assert f"† doubtful in the text of the paper's PDF: {doubt}" in page


@pytest.mark.parametrize("table", TABLES, ids=NAMES)
@pytest.mark.parametrize("world", WORLDS)
def test_formats_are_well_formed(table: Table, world: str, tmp_path: Path) -> None:
    built = build_table(plan_of("--world", world, "--folder", str(tmp_path)), table)
    lines = list(csv.DictReader(io.StringIO(format_csv(built))))
    assert len(lines) == sum(len(line.cells) for part in built.parts for line in part.lines)
    assert all(None not in line and None not in line.values() for line in lines)
    tables = re.findall(r"(?:^\|.*\n)+", format_markdown(built), flags=re.MULTILINE)
    for rows in tables:
        assert len({row.count("|") for row in rows.splitlines()}) == 1
    latex = format_latex(built)
    assert latex.isascii()
    for block in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", latex, flags=re.DOTALL):
        spec = re.match(r"\\begin\{tabular\}\{(\w+)\}", block)
        rows = [line for line in block.splitlines() if line.endswith(r"\\")]
        assert spec and {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(spec[1])}
        assert not re.search(r"(?<!\\)[%#]|(?<![\\$])_", "\n".join(rows))
    for begin in re.findall(r"\\begin\{(\w+)\}", latex):
        assert latex.count(f"\\begin{{{begin}}}") == latex.count(f"\\end{{{begin}}}")


def test_latex_is_escaped() -> None:
    assert escape_latex("a_b & 5 % {x} — † −1") == r"a\_b \& 5 \% \{x\} --- $^{\dagger}$ $-$1"


# Running


def test_everything_is_planned_once_and_in_an_order_that_works(tmp_path: Path) -> None:
    plan = plan_of("--world", "street_scenes", "--folder", str(tmp_path))
    tasks = list_tasks(plan, list_all_runs(plan, TABLES, None))
    assert len(tasks) == len(set(tasks))
    for number, task in enumerate(tasks):
        assert task.list_needed(plan) <= set(tasks[:number])
    trained = {task.experiment for task in tasks if task.kind == "train"}
    assert {"gta_resnet50_seed2", "haze_resnet101", "synthia_resnet101_dropout"} <= trained
    assert not {task.experiment for task in tasks if task.kind == "select"} & {
        "haze_resnet50",
        "gta_resnet50_switchable",
    }


def test_members_of_an_ensemble_share_a_config_and_have_a_seed_each() -> None:
    world = WORLDS["licensed"]
    members = world.list_members("gta_resnet50")
    assert len(members) == len(set(members)) == 10
    assert {world.find_config(member).name for member in members} == {"gta_resnet50.yaml"}
    seeds = [f"--seed_everything={number}" for number in range(1, 10)]
    assert [world.list_arguments(member) for member in members] == [[], *([seed] for seed in seeds)]


def test_a_failure_stops_only_what_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("--folder", str(tmp_path))
    done = []

    def perform(plan: Plan, task: Task) -> str | None:
        done.append(task)
        return "no data" if task == Task("train", "gta_resnet50") else None

    monkeypatch.setattr("experiments.tables.execution.perform", perform)
    runs = [Run("gta_resnet50", "iabn"), Run("gta_resnet101", "iabn")]
    failed = run_tasks(plan, list_tasks(plan, runs), jobs=1)
    assert [(task.kind, task.experiment) for task in done] == [
        ("train", "gta_resnet101"), ("test", "gta_resnet101"), ("train", "gta_resnet50"),
    ]  # fmt: skip
    assert failed == ["gta_resnet50: training: no data", "gta_resnet50: testing iabn: what it needs failed"]


def test_what_has_results_is_not_planned(tmp_path: Path) -> None:
    plan, run = plan_of("--folder", str(tmp_path)), Run("gta_resnet50", "iabn")
    write_results(plan, run, {"cityscapes": 38.0})
    assert list_tasks(plan, [run]) == []


def test_tables_are_written_without_any_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: begin -->\n<!-- measured: end -->\nafter\n")
    built = run_tables(["table2", "fig4", "--folder", str(tmp_path), "--page", str(page)])
    assert [table.table.name for table in built] == ["table2", "fig4"]
    written = {path.name for path in tmp_path.iterdir()}
    assert {"table2.md", "table2.csv", "table2.tex", "fig4.png", "fig4.svg"} <= written
    assert "results missing, listed above" in capsys.readouterr().out
    assert "## Table 2" in page.read_text() and page.read_text().endswith("after\n")
    assert "](tables/fig4.png)" in page.read_text() and (tmp_path / "tables" / "fig4.png").exists()


def test_configs_of_stand_ins_are_made_of_files_that_exist() -> None:
    for path in [
        *WORLDS["street_scenes"].experiments.glob("*.yaml"),
        *WORLDS["licensed"].experiments.glob("*_resnet*"),
    ]:
        config = yaml.safe_load(path.read_text())
        for part in (config["model"], config["data"]):
            assert not isinstance(part, str) or (path.parent / part).is_file(), (path, part)
        if path.parent.name == "street_scenes":
            assert (path.parent.parent / path.name).is_file() or path.stem.split("_")[0] in ("haze", "dusk", "dust")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_configs_of_the_tables_parse(capsys: pytest.CaptureFixture[str]) -> None:
    from main import main

    for world in WORLDS.values():
        plan = Plan(world, world.policy, Path("nowhere"))
        runs = list_all_runs(plan, TABLES, None)
        experiments = {member for run in runs for member in world.list_members(run.experiment) if run.is_ensemble}
        for experiment in sorted(experiments | {run.experiment for run in runs}):
            with pytest.raises(SystemExit) as ended:
                main(["fit", f"--config={world.find_config(experiment)}", "--print_config"])
            assert ended.value.code == 0, experiment
            assert "max_epochs" in capsys.readouterr().out


def kill_self(plan: Plan, task: Task) -> str | None:
    """Ends its own process, as the system does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)
    return None


@pytest.mark.slow
def test_a_process_that_is_killed_fails_its_step_and_not_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "perform", kill_self)
    plan = plan_of("--folder", str(tmp_path))
    tasks = [Task("train", name) for name in ("gta_resnet50", "gta_resnet101")]
    failed = run_tasks(plan, tasks, jobs=2)
    assert failed and all(re.match("gta_resnet.*: training: its process was killed", line) for line in failed)


@pytest.mark.parametrize("interrupt", ["ctrl-c", "sigterm"])
def test_an_interrupt_ends_all_steps(interrupt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    class Interrupted:
        def train(self) -> None:
            begun.append(1)
            if interrupt == "sigterm":
                raise SIGTERMException
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                sys.exit(1)  # as Lightning does

    monkeypatch.setattr(execution, "make_protocol", lambda *_: Interrupted())
    with pytest.raises(SystemExit):
        run_tasks(
            plan_of("--folder", str(tmp_path)), [Task("train", "gta_resnet50"), Task("train", "gta_resnet101")], 1
        )
    assert begun == [1]


def test_ctrl_c_says_that_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.tables.command.run_tables", interrupt)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("experiments.tables", run_name="__main__")
    assert ended.value.code == 130 and "the same command goes on" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_started_again_it_goes_on(tmp_path: Path) -> None:
    args = ["table2", "--world", "street_scenes", "--quick", "--folder", str(tmp_path), "--run"]
    command = [sys.executable, "-m", "experiments.tables", *args, "--jobs", "2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "steps left" in line:
                break
        children = list_children(process.pid)
        process.terminate()
    assert len(children) >= 2
    wait_for(lambda: not any(is_alive(child) for child in children), 60)
    trained = find_written(tmp_path, "training.json")
    assert trained
    (built,) = run_tables(args)
    assert built.missing == {} and all(cell.ours is not None for line in built.parts[0].lines for cell in line.cells)
    assert "constructed demonstration" in (tmp_path / "table2.md").read_text()
    found = find_written(tmp_path, "results.json", "best.ckpt")
    assert len(found) >= 6
    run_tables(args)  # nothing is done twice
    assert find_written(tmp_path, "results.json", "best.ckpt") == found
    assert trained.items() <= find_written(tmp_path, "training.json").items()


def find_written(folder: Path, *names: str) -> dict[Path, int]:
    """Returns when the files of these names in a folder were written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name in names}
