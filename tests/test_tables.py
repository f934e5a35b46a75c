"""The paper's tables: the printed numbers, cells from results, formats; and the runs that they are made of."""

import csv
import io
import os
import re
import signal
import subprocess
import sys
from itertools import cycle, pairwise, product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from pytorch_lightning.utilities.exceptions import SIGTERMException

from experiments.command_line import run_program
from experiments.tables import execution
from experiments.tables.__main__ import list_all_runs, run_tables
from experiments.tables.execution import Task, list_departures, list_tasks, run_tasks
from experiments.tables.figures import draw_figure
from experiments.tables.formats import make_csv, make_latex, make_page
from experiments.tables.paper import MEAN, METRICS, NAMES, Table, average, read_part, read_table
from experiments.tables.results import build_table, is_done, read_results
from experiments.tables.runs import WORLDS, Plan, Run
from tests.fake_results import plan_of, write_planned, write_results
from tests.processes import is_alive, list_children, wait_for
from tests.tiny import ROOT

TABLES = [read_table(name) for name in NAMES]
ROWS = [(table, part, row) for table in TABLES for part in table.parts for row in part.rows]
CHOSEN = {"alpha": 0.3, "scales": [0.5, 0.75, 1.0], "psi": 0.6, "num_steps": 5, "lr": 0.2}
T_BN, IABN = Run("gta_resnet50"), Run("gta_resnet50", "iabn")
CITIES = {"cityscapes": 38.0, "bdd": 32.0, "idd": 34.0}
STREET_SCENES = ("--world", "street_scenes")


def choose(plan: Plan, **values: Any) -> None:
    """Writes what the selection on the development set has chosen for the network of most tests."""
    path = plan.find_selection("gta_resnet50")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"values": values}))


def test_printed_means_and_differences_are_those_of_the_printed_numbers() -> None:
    assert [table.label for table in TABLES[:9]] == [f"Table {number}" for number in range(1, 10)]
    means, gains = 0, 0
    for table in TABLES:
        for part in table.parts:
            for row, metric in product(part.rows, part.metrics):
                if (printed := row.paper.get((metric, MEAN))) is not None:
                    mean = average([row.paper[metric, column] for column in part.domains])
                    assert mean and abs(mean - printed) < 10 ** -METRICS[metric].decimals, (table.name, row, mean)
                    means += 1
            for before, row in pairwise(part.rows):
                for cell, gain in row.gain.items():
                    if gain is not None:
                        assert row.paper[cell] - before.paper[cell] == pytest.approx(gain, abs=1e-6), row  # type: ignore[operator]
                        gains += 1
    assert (means, gains) == (6 + 3 + 12 + 6 + 6 + 8, 28 + 21)  # differences are those of Tables 4 and 9


def test_the_same_cell_has_the_same_number_in_every_table(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    seen: dict[tuple[Run, str, str], float] = {}
    for table, part, row in ROWS:
        theirs = row.name.startswith("No adaptation of")  # another recipe than this project's
        for metric, column in product(part.metrics, part.domains):
            value = row.paper.get((metric, column))
            if value is not None and row.decimals is None and not theirs:
                cell = (plan.find_run(row, column), metric, column)
                assert seen.setdefault(cell, value) == value, (table.name, row, column)


@pytest.mark.parametrize("args", [(), ("--settings", "selected"), STREET_SCENES], ids=str)
def test_every_row_can_be_run_and_its_name_has_one_meaning(args: tuple[str, ...], tmp_path: Path) -> None:
    plan = plan_of(tmp_path, *args)
    folders: dict[Path, Run] = {}
    for run in list_all_runs(plan, TABLES):
        assert folders.setdefault(plan.find_results(run), run) == run
        assert (plan.describe(run) is None) == (run.method is None)  # reads the file of the method
        for experiment in {run.experiment, *(plan.world.list_members(run.experiment) if run.is_ensemble else ())}:
            config = plan.world.find_config(experiment)
            parts = yaml.safe_load(config.read_text())
            for part in (parts["model"], parts["data"]):
                assert not isinstance(part, str) or (config.parent / part).is_file(), (config, part)


def test_every_number_of_the_old_page_is_there() -> None:
    known = {value for _, _, row in ROWS for value in row.paper.values()}
    numbers = re.findall(r"(?<![\d.-])\d\d\.\d\d?(?![\d.])", (ROOT / "docs" / "paper.md").read_text())
    assert len(numbers) > 150 and not {number for number in numbers if float(number) not in known}


def test_a_file_that_does_not_hold_together_is_a_clear_error() -> None:
    row = {"source": "GTA", "network": "N", "name": "IaBN", "experiment": "gta_resnet50", "method": "iabn"}
    for more, message in (
        ({"paper": [1.0]}, r"t.yaml, row GTA, N, IaBN: 1 numbers, expected 2"),
        ({"paper": [1.0, 2.0], "in_domain": "resnet50"}, "expected exactly one of experiment and in_domain"),
    ):
        data = {"title": "T", "metrics": ["miou"], "columns": ["bdd", "mean"], "rows": [row | more]}
        with pytest.raises(ValueError, match=message):
            read_part(Path("t.yaml"), data)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["table10"], "unknown table 'table10': expected some of table1"),
        (["all", "--world", "street_scenes", "--settings", "paper"], "--settings paper on street_scenes"),
        (["all", "--experiments", "vgg"], r"unknown experiments \['vgg'\]: expected some of \['bdd_resnet101'"),
    ],
)
def test_what_is_not_there_is_a_clear_error(args: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_tables(args)


@pytest.mark.parametrize(
    ("args", "run", "settings", "departures"),
    [
        ((), Run("gta_resnet101", "seg_ttt"), {"name": "SegTTT", "semantics": "released", "alpha": 0.2}, None),
        ((), Run("gta_resnet101", "p_bn"), {"name": "IaBN", "alpha": 1.0}, None),
        (STREET_SCENES, Run("gta_resnet50", "seg_ttt"), CHOSEN | {"semantics": "paper"}, []),
        (STREET_SCENES, Run("gta_resnet50", "seg_ttt", (("num_steps", 3),)), CHOSEN | {"num_steps": 3}, ["num_steps"]),
        (STREET_SCENES, Run("gta_resnet50", "seg_ttt_flip"), CHOSEN | {"scales": [1.0]}, ["scales"]),
        (STREET_SCENES, Run("gta_resnet50", "seg_ttt_no_views_t_bn"), {"alpha": 0.0}, ["alpha", "scales"]),
        (STREET_SCENES, Run("gta_resnet50", "p_bn"), {"alpha": 1.0}, ["alpha"]),
        (STREET_SCENES, Run("gta_resnet50", "mc_dropout"), {"passes": 10, "alpha": 0.0}, ["alpha"]),
        (STREET_SCENES, Run("gta_resnet50", "tent"), {"lr": 0.001}, ["alpha", "lr", "num_steps"]),
        (STREET_SCENES, Run("gta_resnet50", "ensemble_iabn"), {"alpha": 0.3}, ["scales"]),
        (STREET_SCENES, Run("gta_resnet50"), {}, []),
    ],
)
def test_settings_are_the_published_ones_or_what_was_chosen_and_nothing_else(
    args: tuple[str, ...], run: Run, settings: dict[str, Any], departures: list[str] | None, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, *args)
    choose(plan, **CHOSEN)
    assert settings.items() <= (plan.describe(run) or {}).items()
    if departures is not None:
        assert sorted(list_departures(plan, run)) == departures


def test_points_of_a_curve_that_a_table_has_are_not_run_again(tmp_path: Path) -> None:
    runs = list_all_runs(plan_of(tmp_path), [read_table("fig2"), read_table("fig4")])
    names = {run.name for run in runs}
    assert {"seg_ttt", "seg_ttt_num_steps_9", "t_bn", "p_bn", "iabn", "iabn_alpha_0.2"} <= names
    assert not {"seg_ttt_num_steps_10", "iabn_alpha_0.1", "iabn_alpha_0.0", "iabn_alpha_1.0"} & names


def test_cells_hold_ours_the_papers_and_the_difference(tmp_path: Path) -> None:
    plan, versions = plan_of(tmp_path), {"torch": "2.15"}
    write_planned(plan, IABN, CITIES | {"cityscapes": 38.004}, date="2026-11-26T02:28:36", versions=versions)
    built = build_table(plan, read_table("table1"))
    assert list(built.parts[0].rows[2].ours.values()) == pytest.approx([38.004, 32.0, 34.0, 104.004 / 3])
    page = make_page(built)
    cells = "38.00 | 37.54 | +0.46 | 32.00 | 32.79 | −0.79 | 34.00 | 34.21 | −0.21 | 34.67 | 34.85 | −0.18"
    assert f"IaBN | {cells} |" in page
    assert "| GTA | ResNet-50 | t-BN | — | 30.95 |  |" in page
    assert f"--results.folder {tmp_path}/gta_resnet50/test/t_bn`" in page
    assert "--ckpt_path gta_resnet50.ckpt --method=IaBN --method.alpha=1.0 --results.folder" in page
    assert "--method.semantics=released" in plan.list_arguments(Run("gta_resnet50", "seg_ttt_flip"))
    assert "500 images of bdd, the protocol has 1000" in page
    assert built.measured == "cpu (torch 2.15, 2026-11-26)"
    write_planned(plan, T_BN, CITIES, device="H100", date="2026-11-27T00:00:00", versions=versions)
    assert build_table(plan, read_table("table1")).measured == "H100; cpu (torch 2.15, 2026-11-26 to 2026-11-27)"


def test_a_column_without_results_is_named_and_its_mean_is_missing(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    write_planned(plan, IABN, {"cityscapes": 38.0, "bdd": 32.0})
    built = build_table(plan, read_table("table1"))
    assert list(built.parts[0].rows[2].ours.values()) == [38.0, 32.0, None, None]
    problem, command = built.missing[IABN]
    assert problem == f"{tmp_path}/gta_resnet50/test/iabn has no idd" and "--results.overwrite=true" in command
    assert problem in make_page(built)


@pytest.mark.parametrize(
    ("method", "changes", "problem"),
    [
        ("iabn", {"complete": False}, "the run was interrupted"),
        ("iabn", {"stage": "validate"}, "stage is validate, expected test"),
        ("iabn", {"method": None}, "method is none (t-BN), expected IaBN"),
        ("iabn", {"settings": {"name": "TTA"}}, "method is TTA, expected IaBN"),
        (None, {"method": {"name": "TTA"}}, "method is TTA, expected none (t-BN)"),
        ("iabn", {"settings": {"alpha": 0.3}}, "alpha is 0.3, expected 0.1"),
        ("iabn", {"temperature": 1.3}, "temperature is 1.3, expected 1.0"),
        ("iabn", {"precision": "bf16-mixed"}, "precision is bf16-mixed, expected 32-true"),
        ("iabn", {"data": {"targets": [{"domain": "bdd", "classes": 16}]}}, "classes of bdd is 16, expected 19"),
        ("iabn", {"domains": None}, "cannot be read as results"),
        ("iabn", {"domains": {"bdd": {"miou": float("nan"), "images": 1}}}, "NaN is not a finite number"),
        # Settings that no file of the method names are compared, too.
        ("seg_ttt", {"settings": {"resampling": "pillow", "num_steps": 10.0}}, ""),
        ("seg_ttt", {"settings": {"trainable": ["head"]}}, "trainable is ['head'], expected None"),
        ("seg_ttt", {"settings": {"refine": 5}}, "refine is 5, expected"),
        ("seg_ttt", {"settings": {"time_budget_ms": 500}}, "time_budget_ms is 500, expected"),
        ("seg_ttt_flip", {"settings": {"lr": 1}}, "lr is 1, expected"),
        ("ensemble", {"settings": {"checkpoints": ["a.ckpt"]}}, "networks is 1, expected 10"),
    ],
)
def test_other_results_are_not_used(method: str | None, changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    plan, run = plan_of(tmp_path), Run("gta_resnet50", method)
    path = write_planned(plan, run, {"cityscapes": 38.0}, **changes)
    if not problem:
        assert read_results(plan, run)["domains"]["cityscapes"]["images"] == 500
        path.write_text("{")
        problem = "cannot be read as results (JSONDecodeError"
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{re.escape(problem)}"):
        read_results(plan, run)
    assert not is_done(plan, run)


def test_precision_is_that_of_the_row_or_of_the_command_line(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "--", "--trainer.precision=bf16-mixed")
    row = Run("gta_resnet50", "iabn", options=("--trainer.precision=16-mixed",))
    for run in (IABN, row):
        write_planned(plan, run, CITIES, precision="bf16-mixed")
    assert is_done(plan, IABN) and not is_done(plan, row)


def test_selected_settings_need_the_selection(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, *STREET_SCENES)
    write_planned(plan, IABN, {"haze": 30.0}, settings={"alpha": 0.3})
    with pytest.raises(ValueError, match=r"selection\.yaml"):
        read_results(plan, IABN)
    choose(plan, alpha=0.2)
    with pytest.raises(ValueError, match=r"alpha is 0\.3, expected 0\.2"):
        read_results(plan, IABN)
    choose(plan, alpha=0.3)
    assert is_done(plan, IABN)


def test_the_other_world_has_its_own_columns_and_no_differences(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, *STREET_SCENES)
    write_planned(plan, T_BN, {"haze": 30.0, "dusk": 31.0, "dust": 32.96})
    page = make_page(build_table(plan, read_table("table1")))
    assert "constructed demonstration, not evidence" in page and "difference |" not in page
    assert "| source | network | method | haze (%) | dusk (%) | dust (%) | mean (%) | paper (real data) |" in page
    assert "| GTA | ResNet-50 | t-BN | 30.0 | 31.0 | 33.0 | 31.3 | 30.75 |" in page
    bound = make_page(build_table(plan, read_table("table4")))
    assert "haze_resnet50/test/t_bn" in bound and "| 62.72 |" in bound  # mean of 71.23, 58.39, 58.53
    assert "| GTA | ResNet-50, FCN | Yue et al., trained here | — | — | — | — | 34.56 |" in bound
    doubt = "GTA, ResNet-50, DeepLabv1, IBN-Net (Pan et al.), trained here, cityscapes: restored"
    assert " † |" in bound and f"† doubtful in the text of the paper's PDF: {doubt}" in bound


@pytest.mark.parametrize(("table", "world"), list(zip(TABLES, cycle(WORLDS), strict=False)), ids=NAMES)
def test_formats_are_well_formed(table: Table, world: str, tmp_path: Path) -> None:
    built = build_table(plan_of(tmp_path, "--world", world), table)
    lines = list(csv.DictReader(io.StringIO(make_csv(built))))
    assert len(lines) == sum(len(row.ours) for part in built.parts for row in part.rows)
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
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert {"table2.md", "table2.csv", "table2.tex", "fig4.png", "fig4.svg", "tables/fig4.png"} <= written
    assert "results missing, listed above" in capsys.readouterr().out
    text = page.read_text()
    assert "## Table 2" in text and "](tables/fig4.png)" in text and text.endswith("after\n")


def test_figures_show_what_single_images_gain(tmp_path: Path) -> None:
    plan, run = plan_of(tmp_path, *STREET_SCENES), Run("gta_resnet50", "seg_ttt")
    choose(plan, **CHOSEN)
    write_results(plan.find_results(run), ["haze", "dusk"], images=3, first=1)
    write_planned(plan, run, {"haze": 30.0, "dusk": 31.0})
    gains, pictures = (build_table(plan, read_table(name)) for name in ("fig10", "qualitative"))
    for built, names in ((gains, ["fig10"]), (pictures, ["qualitative_fig3", "qualitative_fig9"])):
        draw_figure(built)
        assert built.pictures == names and all((tmp_path / f"{name}.png").exists() for name in names)
    assert re.search(r"\| largest gain \(points\) \| -?\d+\.\d \| .* \| up to 35 points \|", make_page(gains))


# The runs of the tables: in order, once, to the end whatever fails


def when_written(folder: Path, *names: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name in names}


def test_everything_is_planned_once_and_in_an_order_that_works(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "--world", "street_scenes")
    tasks = list_tasks(plan, list_all_runs(plan, TABLES))
    assert len(tasks) == len(set(tasks))
    for number, task in enumerate(tasks):
        assert set(task.list_needed(plan)) <= set(tasks[:number])
    trained = {task.experiment for task in tasks if task.kind == "train"}
    assert {"gta_resnet50_seed2", "haze_resnet101", "synthia_resnet101_dropout"} <= trained
    without = {"haze_resnet50", "gta_resnet50_switchable"}
    assert not {task.experiment for task in tasks if task.kind == "select"} & without


def test_members_of_an_ensemble_share_a_config_and_have_a_seed_each() -> None:
    world = WORLDS["licensed"]
    members = world.list_members("gta_resnet50")
    assert len(set(members)) == 10 and {world.find_config(one).name for one in members} == {"gta_resnet50.yaml"}
    seeds = [[f"--seed_everything={number}"] for number in range(1, 10)]
    assert [world.list_arguments(member) for member in members] == [[], *seeds]


def test_a_failure_stops_only_what_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, done = plan_of(tmp_path), []

    def perform(plan: Plan, task: Task) -> str | None:
        done.append((task.kind, task.experiment))
        return "no data" if task == Task("train", "gta_resnet50") else None

    monkeypatch.setattr(execution, "perform", perform)
    other = Run("gta_resnet101", "iabn")
    failed = run_tasks(plan, list_tasks(plan, [IABN, other]), jobs=1)
    assert done == [("train", "gta_resnet101"), ("train", "gta_resnet50"), ("test", "gta_resnet101")]
    assert failed == ["gta_resnet50: training: no data", "gta_resnet50: testing iabn: a step that it needs failed"]
    write_planned(plan, other, {"cityscapes": 38.0})
    assert list_tasks(plan, [other]) == []  # it has results


def kill_self(plan: Plan, task: Task) -> str | None:
    """Ends its own process, as the system does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)
    return None


@pytest.mark.slow
def test_a_killed_process_fails_its_step_not_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "perform", kill_self)
    tasks = [Task("train", name) for name in ("gta_resnet50", "gta_resnet101")]
    failed = run_tasks(plan_of(tmp_path), tasks, jobs=2)
    assert failed and all("training: its process, or that of a parallel step, was killed" in line for line in failed)


@pytest.mark.parametrize("error", [SystemExit(1), SIGTERMException()], ids=["ctrl-c", "sigterm"])
def test_an_interrupt_ends_all_steps(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if type(error) is SystemExit:
        error.__context__ = KeyboardInterrupt()  # from which Lightning exits
    train = Mock(side_effect=error)
    monkeypatch.setattr(execution, "make_protocol", lambda *_: Mock(train=train))
    with pytest.raises(SystemExit):
        run_tasks(plan_of(tmp_path), [Task("train", "gta_resnet50"), Task("train", "gta_resnet101")], 1)
    assert train.call_count == 1


def test_ctrl_c_says_that_what_was_finished_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_program(Mock(side_effect=KeyboardInterrupt))
    assert ended.value.code == 130 and "finished steps are kept" in capsys.readouterr().err


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
    trained = when_written(tmp_path, "training.json")
    assert trained
    (built,) = run_tables(args)
    assert built.missing == {} and all(None not in row.ours.values() for row in built.parts[0].rows)
    assert "constructed demonstration" in (tmp_path / "table2.md").read_text()
    found = when_written(tmp_path, "results.json", "best.ckpt")
    assert len(found) >= 6
    run_tables(args)  # nothing is done twice
    assert when_written(tmp_path, "results.json", "best.ckpt") == found
    assert trained.items() <= when_written(tmp_path, "training.json").items()
