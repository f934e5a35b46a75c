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
from experiments.tables.formats import make_csv, make_latex, make_page
from experiments.tables.paper import MEAN, METRICS, NAMES, Table, read_part, read_table
from experiments.tables.results import check_method, read_results
from experiments.tables.runs import WORLDS, Plan, Run
from tests.processes import is_alive, list_children, wait_for
from tests.tiny import ROOT

TABLES = [read_table(name) for name in NAMES]
PARTS = [(table, part) for table in TABLES for part in table.parts]
ROWS = [(table, part, row) for table, part in PARTS for row in part.rows]
CHOSEN = {"alpha": 0.3, "scales": [0.5, 0.75, 1.0], "psi": 0.6, "num_steps": 5, "lr": 0.2}
IABN = Run("gta_resnet50", "iabn")


def plan_of(*args: str) -> Plan:
    return make_plan(parse_arguments(["all", *args]))


def describe(plan: Plan, run: Run) -> dict[str, Any]:
    described = plan.describe(run, CHOSEN)
    assert described is not None
    return {"name": described[0], **described[1]}


# The printed numbers


def test_every_table_is_named_and_placed() -> None:
    assert [table.label for table in TABLES[:9]] == [f"Table {number}" for number in range(1, 10)]
    assert all(1 <= table.page <= 21 and table.section and table.title for table in TABLES)


def test_every_printed_mean_is_that_of_its_columns() -> None:
    checked = 0
    for table, part, row in ROWS:
        numbers = dict(zip(part.list_cells(), row.paper, strict=False))
        for metric in part.metrics:
            printed = numbers.get((metric, MEAN))
            if printed is None:
                continue
            columns = [numbers[metric, column] for column in part.domains]
            mean = sum(columns) / len(columns)  # type: ignore[arg-type]
            doubted = MEAN in row.doubtful or set(row.doubtful) & set(part.columns)
            assert abs(mean - printed) < 10 ** -METRICS[metric].decimals or doubted, (table.name, row, mean)
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
            theirs = row.name.startswith("No adaptation of")  # another recipe than this project's
            if run is not None and value is not None and row.decimals is None and not theirs:
                assert seen.setdefault((run, metric, column), value) == value, (table.name, row, column)


@pytest.mark.parametrize("args", [[], ["--settings", "selected"], ["--world", "street_scenes"]], ids=str)
def test_every_row_can_be_run_and_its_name_has_one_meaning(args: list[str]) -> None:
    plan = plan_of(*args)
    folders: dict[Path, Run] = {}
    for run in list_all_runs(plan, TABLES, None):
        assert folders.setdefault(plan.find_results(run), run) == run
        described = plan.describe(run, CHOSEN)  # reads the file of the method
        assert (described is None) == (run.method is None)
        for experiment in {run.experiment, *(plan.world.list_members(run.experiment) if run.is_ensemble else ())}:
            config = plan.world.find_config(experiment)
            parts = yaml.safe_load(config.read_text())
            for part in (parts["model"], parts["data"]):
                assert not isinstance(part, str) or (config.parent / part).is_file(), (config, part)


def test_every_number_of_the_old_page_is_there() -> None:
    known = {value for _, _, row in ROWS for value in row.paper}
    numbers = re.findall(r"(?<![\d.-])\d\d\.\d\d?(?![\d.])", (ROOT / "docs" / "paper.md").read_text())
    assert len(numbers) > 150 and not {number for number in numbers if float(number) not in known}


def test_a_file_that_does_not_hold_together_is_a_clear_error() -> None:
    row = {"source": "GTA", "network": "N", "name": "IaBN", "experiment": "gta_resnet50", "method": "iabn"}
    data = {"title": "T", "metrics": ["miou"], "columns": ["bdd", "mean"], "rows": [row | {"paper": [1.0]}]}
    with pytest.raises(ValueError, match=r"t.yaml, row GTA, N, IaBN: 1 numbers, expected 2"):
        read_part(Path("t.yaml"), data)
    with pytest.raises(ValueError, match="expected one of experiment and in_domain"):
        read_part(Path("t.yaml"), data | {"rows": [row | {"in_domain": "resnet50", "paper": [1.0, 2.0]}]})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["table10"], "unknown table 'table10': expected some of table1"),
        (["all", "--world", "street_scenes", "--settings", "paper"], "--settings paper on street_scenes"),
        (["all", "--experiments", "vgg"], r"unknown experiments \['vgg'\]: expected some of \['bdd_resnet101'"),
        (["all", "--jobs", "0"], "--jobs is 0: expected 1 or more"),
    ],
)
def test_what_is_not_there_is_a_clear_error(args: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_tables(args)


# Settings


def test_published_settings() -> None:
    plan = plan_of()
    seg_ttt = describe(plan, Run("gta_resnet101", "seg_ttt"))
    assert (seg_ttt["name"], seg_ttt["semantics"], seg_ttt["alpha"]) == ("SegTTT", "released", 0.2)
    assert describe(plan, Run("gta_resnet101", "p_bn")) == {"name": "IaBN", "alpha": 1.0}
    assert describe(plan, IABN) == {"name": "IaBN", "alpha": 0.1}
    assert "--method.semantics=released" in plan.list_arguments(Run("gta_resnet50", "seg_ttt_flip"))


@pytest.mark.parametrize(
    ("method", "arguments", "settings", "departures"),
    [
        ("seg_ttt", (), CHOSEN | {"semantics": "paper"}, []),
        ("seg_ttt", (("num_steps", 3),), CHOSEN | {"num_steps": 3}, ["num_steps"]),
        ("seg_ttt_flip", (), CHOSEN | {"scales": [1.0]}, ["scales"]),
        ("seg_ttt_no_views_t_bn", (), {"alpha": 0.0}, ["alpha", "scales"]),
        ("p_bn", (), {"alpha": 1.0}, ["alpha"]),
        ("mc_dropout", (), {"passes": 10, "alpha": 0.0}, ["alpha"]),
        ("tent", (), {"lr": 0.001}, ["alpha", "num_steps", "lr"]),
        ("ensemble_iabn", (), {"alpha": 0.3}, ["scales"]),
        (None, (), {}, []),
    ],
)
def test_selected_settings_replace_what_was_chosen_and_nothing_else(
    method: str | None, arguments: Any, settings: dict[str, Any], departures: list[str]
) -> None:
    plan, run = plan_of("--world", "street_scenes"), Run("gta_resnet50", method, arguments)
    assert settings.items() <= (describe(plan, run) if method else {}).items()
    assert list_departures(plan, run, list(CHOSEN)) == departures


def test_points_of_a_curve_that_a_table_has_are_not_run_again() -> None:
    plan = plan_of()
    names = [run.name for figure in ("fig2", "fig4") for run in plan.list_runs(read_table(figure))]
    assert {"seg_ttt", "seg_ttt_num_steps_9", "t_bn", "p_bn", "iabn", "iabn_alpha_0.2"} <= set(names)
    assert not {"seg_ttt_num_steps_10", "iabn_alpha_0.1", "iabn_alpha_0.0", "iabn_alpha_1.0"} & set(names)


# Cells


def write_results(plan: Plan, run: Run, miou: dict[str, float], **changes: Any) -> Path:
    """Writes results.json as a run of these settings would, but for what changes."""
    method = describe(plan, run) if run.method else None
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
    write_results(plan, IABN, {"cityscapes": 38.004, "bdd": 32.0, "idd": 34.0})
    built = build_table(plan, read_table("table1"))
    line = built.parts[0].lines[2]
    assert [cell.ours for cell in line.cells] == pytest.approx([38.004, 32.0, 34.0, 104.004 / 3])
    assert [cell.difference for cell in line.cells] == [0.46, -0.79, -0.21, -0.18]
    page = make_page(built)
    assert "| GTA | ResNet-50 | IaBN | 38.00 | 37.54 | +0.46 | 32.00 | 32.79 | −0.79 |" in page
    assert "| GTA | ResNet-50 | t-BN | — | 30.95 |  |" in page
    assert f"--results.folder {tmp_path}/gta_resnet50/test/t_bn`" in page
    assert "--ckpt_path gta_resnet50.ckpt --method=configs/method/p_bn.yaml" in page
    assert "500 images of bdd, the protocol has 1000" in page


def test_tables_say_where_and_when_they_were_measured(tmp_path: Path) -> None:
    plan, cities = plan_of("--folder", str(tmp_path)), {"cityscapes": 38.0, "bdd": 32.0, "idd": 34.0}
    versions = {"torch": "2.15"}
    write_results(plan, IABN, cities, date="2026-11-26T02:28:36+00:00", versions=versions)
    assert build_table(plan, read_table("table1")).measured == "cpu (torch 2.15, 2026-11-26)"
    write_results(plan, Run("gta_resnet50"), cities, device="H100", date="2026-11-27T00:00:00", versions=versions)
    assert build_table(plan, read_table("table1")).measured == "H100; cpu (torch 2.15, 2026-11-26 to 2026-11-27)"


def test_a_column_without_results_is_named_and_its_mean_is_missing(tmp_path: Path) -> None:
    plan = plan_of("--folder", str(tmp_path))
    write_results(plan, IABN, {"cityscapes": 38.0, "bdd": 32.0})
    built = build_table(plan, read_table("table1"))
    assert [cell.ours for cell in built.parts[0].lines[2].cells] == [38.0, 32.0, None, None]
    problem, command = built.missing[IABN]
    assert problem == f"{tmp_path}/gta_resnet50/test/iabn has no idd" and "--results.overwrite=true" in command
    assert problem in make_page(built)


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
    plan = plan_of("--folder", str(tmp_path))
    path = write_results(plan, IABN, {"cityscapes": 38.0}, **changes)
    found = read_results(plan, IABN)
    assert found.summary is None and re.search(problem, found.problem) and str(path) in found.problem
    path.write_text("{")
    assert "cannot be read as results (JSONDecodeError" in read_results(plan, IABN).problem


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("seg_ttt", {"resampling": "pillow", "num_steps": 10.0}, ""),
        ("seg_ttt", {"trainable": ["head"]}, "trainable is ['head'], expected None"),
        ("seg_ttt", {"time_budget_ms": 500}, "time_budget_ms is 500, expected"),
        ("seg_ttt_flip", {"lr": 1}, "lr is 1, expected"),
        ("ensemble", {"checkpoints": ["a.ckpt"]}, "the ensemble has 1 networks, expected 10"),
    ],
)
def test_settings_that_no_file_of_the_method_names_are_compared_too(
    name: str, changes: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    plan, run = plan_of("--folder", str(tmp_path)), Run("gta_resnet50", name)
    write_results(plan, run, {"cityscapes": 38.0}, method=describe(plan, run) | changes)
    found = read_results(plan, run)
    assert problem in found.problem and (found.summary is None) == bool(problem)
    assert check_method(None, {"name": "TTA"}) == "the method is TTA, expected no method (t-BN)"


def test_precision_is_that_of_the_row_or_of_the_command_line(tmp_path: Path) -> None:
    half = plan_of("--folder", str(tmp_path), "--", "--trainer.precision=bf16-mixed")
    row = Run("gta_resnet50", "iabn", options=("--trainer.precision=16-mixed",))
    for run in (IABN, row):
        write_results(half, run, {"cityscapes": 38.0}, precision="bf16-mixed")
    assert read_results(half, IABN).summary is not None
    assert "precision is bf16-mixed, expected 16-mixed" in read_results(half, row).problem


def test_selected_settings_need_the_selection(tmp_path: Path) -> None:
    plan = plan_of("--world", "street_scenes", "--folder", str(tmp_path))
    write_results(plan, IABN, {"haze": 30.0, "dusk": 31.0, "dust": 32.0})
    assert "selection.yaml" in read_results(plan, IABN).problem
    for alpha, problem in ((0.3, ""), (0.2, "alpha is 0.3, expected 0.2")):
        plan.find_selection("gta_resnet50").write_text(yaml.safe_dump({"values": {"alpha": alpha}}))
        assert problem in read_results(plan, IABN).problem and bool(read_results(plan, IABN).summary) == (not problem)


def test_the_other_world_has_its_own_columns_and_no_differences(tmp_path: Path) -> None:
    plan = plan_of("--world", "street_scenes", "--folder", str(tmp_path))
    write_results(plan, Run("gta_resnet50"), {"haze": 30.0, "dusk": 31.0, "dust": 32.96})
    page = make_page(build_table(plan, read_table("table1")))
    assert "constructed demonstration, not evidence" in page and "difference |" not in page
    assert "| source | network | method | haze (%) | dusk (%) | dust (%) | mean (%) | paper (real data) |" in page
    assert "| GTA | ResNet-50 | t-BN | 30.0 | 31.0 | 33.0 | 31.3 | 30.75 |" in page
    bound = make_page(build_table(plan, read_table("table4")))
    assert "haze_resnet50/test/t_bn" in bound and "| 62.72 |" in bound  # mean of 71.23, 58.39, 58.53
    assert "| GTA | ResNet-50, FCN | Yue et al., trained here | — | — | — | — | 34.56 |" in bound


def test_doubtful_numbers_are_marked_and_explained(tmp_path: Path) -> None:
    page = make_page(build_table(plan_of("--folder", str(tmp_path)), read_table("table4")))
    assert "| — | 29.64 † |" in page
    doubt = "GTA, ResNet-50, DeepLabv1, IBN-Net (Pan et al.), trained here, cityscapes: restored"
    assert f"† doubtful in the text of the paper's PDF: {doubt}" in page


@pytest.mark.parametrize("table", TABLES, ids=NAMES)
@pytest.mark.parametrize("world", WORLDS)
def test_formats_are_well_formed(table: Table, world: str, tmp_path: Path) -> None:
    built = build_table(plan_of("--world", world, "--folder", str(tmp_path)), table)
    lines = list(csv.DictReader(io.StringIO(make_csv(built))))
    assert len(lines) == sum(len(line.cells) for part in built.parts for line in part.lines)
    assert all(None not in line and None not in line.values() for line in lines)
    for rows in re.findall(r"(?:^\|.*\n)+", make_page(built), flags=re.MULTILINE):
        assert len({row.count("|") for row in rows.splitlines()}) == 1
    latex = make_latex(built)
    assert latex.isascii()
    for block in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", latex, flags=re.DOTALL):
        spec = re.match(r"\\begin\{tabular\}\{(\w+)\}", block)
        rows = [line for line in block.splitlines() if line.endswith(r"\\")]
        assert spec and {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(spec[1])}
        assert not re.search(r"(?<!\\)[%#]|(?<![\\$])_", "\n".join(rows))
    for begin in re.findall(r"\\begin\{(\w+)\}", latex):
        assert latex.count(f"\\begin{{{begin}}}") == latex.count(f"\\end{{{begin}}}")


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


# Running


def test_everything_is_planned_once_and_in_an_order_that_works(tmp_path: Path) -> None:
    plan = plan_of("--world", "street_scenes", "--folder", str(tmp_path))
    tasks = list_tasks(plan, list_all_runs(plan, TABLES, None))
    assert len(tasks) == len(set(tasks))
    for number, task in enumerate(tasks):
        assert task.list_needed(plan) <= set(tasks[:number])
    trained = {task.experiment for task in tasks if task.kind == "train"}
    assert {"gta_resnet50_seed2", "haze_resnet101", "synthia_resnet101_dropout"} <= trained
    without = {"haze_resnet50", "gta_resnet50_switchable"}
    assert not {task.experiment for task in tasks if task.kind == "select"} & without


def test_members_of_an_ensemble_share_a_config_and_have_a_seed_each() -> None:
    world = WORLDS["licensed"]
    members = world.list_members("gta_resnet50")
    assert len(members) == len(set(members)) == 10
    assert {world.find_config(member).name for member in members} == {"gta_resnet50.yaml"}
    seeds = [f"--seed_everything={number}" for number in range(1, 10)]
    assert [world.list_arguments(member) for member in members] == [[], *([seed] for seed in seeds)]


def test_a_failure_stops_only_what_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, done = plan_of("--folder", str(tmp_path)), []

    def perform(plan: Plan, task: Task) -> str | None:
        done.append((task.kind, task.experiment))
        return "no data" if task == Task("train", "gta_resnet50") else None

    monkeypatch.setattr(execution, "perform", perform)
    other = Run("gta_resnet101", "iabn")
    failed = run_tasks(plan, list_tasks(plan, [IABN, other]), jobs=1)
    assert done == [("train", "gta_resnet101"), ("train", "gta_resnet50"), ("test", "gta_resnet101")]
    assert failed == ["gta_resnet50: training: no data", "gta_resnet50: testing iabn: what it needs failed"]
    write_results(plan, other, {"cityscapes": 38.0})
    assert list_tasks(plan, [other]) == []  # it has results


def kill_self(plan: Plan, task: Task) -> str | None:
    """Ends its own process, as the system does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)
    return None


@pytest.mark.slow
def test_a_process_that_is_killed_fails_its_step_and_not_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "perform", kill_self)
    tasks = [Task("train", name) for name in ("gta_resnet50", "gta_resnet101")]
    failed = run_tasks(plan_of("--folder", str(tmp_path)), tasks, jobs=2)
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
    tasks = [Task("train", "gta_resnet50"), Task("train", "gta_resnet101")]
    with pytest.raises(SystemExit):
        run_tasks(plan_of("--folder", str(tmp_path)), tasks, 1)
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
