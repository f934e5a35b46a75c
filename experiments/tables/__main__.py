"""Builds the paper's tables and figures from results; with --run, first trains and tests what is missing."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jsonargparse.typing import PositiveInt

from callbacks.run.records import write_file
from experiments.command_line import make_parser, parse, run_program, to_path
from experiments.pages import insert_report
from experiments.tables.execution import QUICK, list_tasks, run_tasks
from experiments.tables.figures import draw_figure
from experiments.tables.formats import CONSTRUCTED, describe_policy, make_csv, make_latex, make_page
from experiments.tables.paper import NAMES, Table, read_table
from experiments.tables.results import BuiltTable, build_table
from experiments.tables.runs import WORLDS, Plan, Run

PICTURES = "tables"  # folder for the pictures, next to the page


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = make_parser("tables", __doc__, page=True)
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME", help=f"{', '.join(NAMES)}, or all")
    add("--run", action="store_true", help="train and test what is missing, each once")
    world = "the paper's data sets, or generated scenes (default: %(default)s)"
    add("--world", choices=list(WORLDS), default="licensed", help=world)
    add("--folder", type=to_path, help="with EXPERIMENT/test/METHOD/results.json (default: outputs/tables/WORLD)")
    add("--experiments", nargs="+", metavar="NAME", help="with --run: only these experiments")
    settings = "paper: published; selected: chosen on the development set (default: paper for licensed, else selected)"
    add("--settings", choices=["paper", "selected"], help=settings)
    add("--jobs", type=PositiveInt, default=1, help="trainings and tests to run in parallel (default: %(default)s)")
    return parse(parser, args)


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Builds the plan from the command line.

    Raises:
        ValueError: If the published settings are requested on generated scenes.
    """
    world = WORLDS[arguments.world]
    policy = arguments.settings or world.policy
    if policy == "paper" and world.targets:
        raise ValueError(
            f"--settings paper on {world.name}: expected selected, as the published settings are for other data"
        )
    folder = arguments.folder or Path("outputs/tables") / (world.name + ("_quick" if arguments.quick else ""))
    return Plan(world, policy, folder, (*(QUICK if arguments.quick else ()), *arguments.options))


def list_all_runs(plan: Plan, tables: Sequence[Table], experiments: Sequence[str] | None = None) -> list[Run]:
    """Lists the runs of all tables without duplicates; only those of `experiments` if given.

    Raises:
        ValueError: If no table uses one of `experiments`.
    """
    runs = list(dict.fromkeys(run for table in tables for run in plan.list_runs(table)))
    known = sorted({run.experiment for run in runs})
    if unknown := sorted(set(experiments or ()) - set(known)):
        raise ValueError(f"unknown experiments {unknown}: expected some of {known}")
    return [run for run in runs if experiments is None or run.experiment in experiments]


def write_table(plan: Plan, table: Table) -> BuiltTable:
    """Builds and draws a table; writes it in all formats, and prints it."""
    built = build_table(plan, table)
    draw_figure(built)
    page = make_page(built)
    for suffix, text in {"md": page, "csv": make_csv(built), "tex": make_latex(built)}.items():
        write_file(plan.folder / f"{table.name}.{suffix}", text.encode())
    print(f"\n{page}", flush=True)
    return built


def write_page(page: Path, tables: Sequence[BuiltTable], plan: Plan) -> None:
    """Inserts all tables between a page's marks and copies their pictures into a folder next to the page."""
    texts = [f"`python -m experiments.tables all --run --world {plan.world.name} --page {page}`\n"]
    texts += [f"{CONSTRUCTED}\n"] if plan.world.targets else []
    texts += [f"{describe_policy(plan)}\n"]
    texts += [make_page(built, level=2, place=f"{PICTURES}/") for built in tables]
    insert_report(page, "\n".join(texts))
    for picture in (f"{name}.png" for built in tables for name in built.pictures):
        write_file(page.parent / PICTURES / picture, (plan.folder / picture).read_bytes())


def run_tables(args: Sequence[str] | None = None) -> list[BuiltTable]:
    """Runs the program; returns the tables that it wrote."""
    arguments = parse_arguments(args)
    plan = make_plan(arguments)
    tables = [read_table(name) for name in dict.fromkeys(NAMES if "all" in arguments.names else arguments.names)]
    runs = list_all_runs(plan, tables, arguments.experiments)
    failed: list[str] = []
    if arguments.run:
        tasks = list_tasks(plan, runs)
        trainings = sum(task.kind == "train" for task in tasks)
        steps = f"{len(tasks)} steps to do, {trainings} of them trainings (skipped if finished)"
        print(f"{steps}, in {plan.folder}", flush=True)
        failed = run_tasks(plan, tasks, arguments.jobs)
    built = [write_table(plan, table) for table in tables]
    if arguments.page:
        write_page(arguments.page, built, plan)
    missing = sum(len(table.missing) for table in built)
    print(f"Written to {plan.folder}; {missing} results missing" + (", listed above" if missing else ""), flush=True)
    for line in failed:
        print(f"failed: {line}", flush=True)
    if arguments.quick:
        print("--quick: the budget is far too small for these numbers to mean anything.", flush=True)
    return built


if __name__ == "__main__":
    run_program(run_tables)
