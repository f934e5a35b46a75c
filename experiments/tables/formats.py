"""Formats the tables as Markdown, CSV and LaTeX."""

from experiments.pages import format_csv, format_latex, format_markdown
from experiments.tables.paper import METRICS, Part, TableRow
from experiments.tables.results import BuiltTable, name_column
from experiments.tables.runs import Plan

DASH, MARK = "—", "†"
WORDS = ("source", "network", "method")  # columns before the numbers
CSV_HEADS = (
    "table", "part", "source", "network", "method", "metric", "unit", "column", "ours", "paper", "difference",
    "paper_real_data_mean", "doubtful", "status",
)  # fmt: skip
FEW_IMAGES = {"miou": 1, "classwise_ece": 1}  # decimals of our numbers on generated scenes
CONSTRUCTED = (
    "**A constructed demonstration, not evidence for the paper.** StreetScenes is drawn by this project, its targets "
    "are haze, dusk and dust, its networks are small and trained for a few minutes. The paper's numbers are from "
    "real photographs and large networks: they are shown for orientation only, without differences."
)


def format_score(value: float | None, decimals: int, doubtful: object = "") -> str:
    """Formats a number, or a dash if it is missing; marks it if doubtful."""
    return (DASH if value is None else f"{value:.{decimals}f}") + (f" {MARK}" if doubtful else "")


def compare_with_paper(
    built: BuiltTable, row: TableRow, metric: str, column: str
) -> tuple[float | None, float | None, str]:
    """Returns the paper's number, the difference of ours to it as displayed, and why the paper's number is doubtful.

    On generated scenes, or without a printed number, these are None, None and an empty text.
    """
    ours, paper = row.ours[metric, column], row.paper.get((metric, column))
    if paper is None or built.plan.world.targets:
        return None, None, ""
    decimals = row.find_decimals(metric)
    difference = None if ours is None else round(round(ours, decimals) - round(paper, decimals), decimals)
    return paper, difference, row.doubtful.get(column, "")


def format_part(built: BuiltTable, part: Part) -> tuple[list[str], list[list[str]]]:
    """Returns a part's column titles and the text of its cells."""
    numbers = [list_numbers(built, part, row) for row in part.rows]
    words = [[row.source, row.network, name_row(row)] for row in part.rows]
    rows = [[*named, *(text for _, text in own)] for named, own in zip(words, numbers, strict=True)]
    return [*WORDS, *(title for title, _ in numbers[0])], rows


def list_numbers(built: BuiltTable, part: Part, row: TableRow) -> list[tuple[str, str]]:
    """Lists (column title, text) of a row's numeric cells."""
    constructed, several = bool(built.plan.world.targets), len(part.metrics) > 1
    printed = any(other.paper for other in part.rows)
    found = []
    for metric in part.metrics:
        unit = f"{METRICS[metric].title}, {METRICS[metric].unit}" if several else METRICS[metric].unit
        decimals = row.find_decimals(metric)
        own = FEW_IMAGES.get(metric, decimals) if constructed else decimals
        for column in part.columns:
            title = f"{name_column(built.plan, column)} ({unit})"
            found.append((title, format_score(row.ours[metric, column], own)))
            if printed and not constructed:
                paper, difference, doubtful = compare_with_paper(built, row, metric, column)
                signed = "" if difference is None else f"{difference:+.{decimals}f}".replace("-", "−")
                found += [("paper", format_score(paper, decimals, doubtful)), ("difference", signed)]
        if printed and constructed:
            title = f"paper (real data, {unit})" if several else "paper (real data)"
            found.append((title, format_score(row.find_printed_mean(metric), decimals, row.doubtful)))
    return found


def name_row(row: TableRow) -> str:
    """Returns the name of a row's method, with its point if it is part of a curve."""
    if row.point is None:
        return row.name
    if row.sweep == "alpha":
        return f"{row.name}, alpha {row.point:g}"
    return f"{row.name}, {row.point} step{'' if row.point == 1 else 's'}"


def list_footnotes(built: BuiltTable) -> list[str]:
    """Lists the reasons why printed numbers are doubtful, without duplicates."""
    rows = [row for part in built.parts for row in part.rows]
    notes = [
        f"{row.source}, {row.network}, {row.name}, {column}: {reason}"
        for row in rows
        for column, reason in row.doubtful.items()
    ]
    return list(dict.fromkeys(notes))


def describe_policy(plan: Plan) -> str:
    """Describes the settings that all tables of a plan use."""
    if plan.policy == "paper":
        return "Settings: the published ones, Seg-TTT as the authors' code does it (`semantics: released`)."
    return "Settings: chosen for each network on the development set, Seg-TTT as the paper's text says."


def describe_table(built: BuiltTable) -> str:
    """Describes a table's place in the paper, and the devices and images that it was measured on."""
    table, plan = built.table, built.plan
    where = f"{table.label} of the paper, page {table.page}, Sec. {table.section}".replace("Sec. Appendix", "Appendix")
    lines = [f"{where}."]
    if built.measured:
        images = ", ".join(f"{count} of {name_column(plan, domain)}" for domain, count in sorted(built.images.items()))
        lines.append(f"Measured on {built.measured}; images: {images}.")
    if any("ms_per_image" in part.metrics for part in built.parts):
        lines.append("Runtimes: ours is the median per image on that device, the paper's a GeForce RTX 2080.")
    if plan.world.targets and any(run.is_ensemble for run in plan.list_runs(table)):
        lines.append(f"Ensembles have {plan.world.members} networks here, 10 in the paper.")
    return " ".join(lines)


def make_page(built: BuiltTable, level: int = 1, place: str = "") -> str:
    """Formats a table as a Markdown page.

    Args:
        built: The table.
        level: Heading level; 1 also says that scenes are generated and which settings are used, and lists a command
            for each missing run.
        place: Folder of the pictures, relative to the page, with a trailing slash.
    """
    alone, gallery = level == 1, built.table.kind == "qualitative"
    blocks = [f"{'#' * level} {built.table.label}: {built.table.title}"]
    blocks += [CONSTRUCTED] if alone and built.plan.world.targets else []
    blocks.append(describe_table(built) + (f" {describe_policy(built.plan)}" if alone else ""))
    for part in built.parts:
        if gallery:
            picture = f"{built.table.name}_{part.name}"
            shown = f"![{part.title}]({place}{picture}.png)" if picture in built.pictures else f"{DASH} is missing"
            blocks += [f"**{part.title}**", shown]
        else:
            heads, rows = format_part(built, part)
            title = f"({part.name}) {part.title}" if part.name else part.title
            blocks += [f"**{title}**", format_markdown(heads, rows, numbers=range(len(WORDS), len(heads)))]
    blocks += built.extra
    blocks += [f"![{built.table.title}]({place}{picture}.png)" for picture in built.pictures if not gallery]
    if footnotes := list_footnotes(built):
        blocks.append("\n".join(f"{MARK} doubtful in the text of the paper's PDF: {note}." for note in footnotes))
    blocks += [f"Note: {note}." for note in built.notes]
    blocks += [describe_missing(built, commands=alone)] if built.missing else []
    return "\n\n".join(blocks) + "\n"


def describe_missing(built: BuiltTable, commands: bool) -> str:
    """Describes how to produce the missing results: one command for all, and if wanted one for each run."""
    again = f"python -m experiments.tables {built.table.name} --run --world {built.plan.world.name}"
    first = f"{DASH} is missing. To produce all missing results: `{again}`"
    if not commands:
        return first
    lines = [f"{first}. One by one:"]
    for run, (problem, command) in built.missing.items():
        unknown = built.plan.needs_selection(run) and built.plan.read_selection(run.experiment) is None
        more = ", with the settings that `experiments.protocol` chooses for this network" if unknown else ""
        lines.append(f"- {problem}. To produce it{more}:\n  `{command}`")
    return "\n".join(lines)


def make_csv(built: BuiltTable) -> str:
    """Formats a table as CSV: one number per line."""
    rows = []
    for part in built.parts:
        for row in part.rows:
            words = [built.table.name, part.name, row.source, row.network, name_row(row)]
            for (metric, column), ours in row.ours.items():
                paper, difference, doubtful = compare_with_paper(built, row, metric, column)
                real = row.find_printed_mean(metric) if built.plan.world.targets else None
                found = ["" if number is None else f"{number:.6g}" for number in (ours, paper, difference, real)]
                status = "missing" if ours is None else "measured"
                rows.append([*words, metric, METRICS[metric].unit, column, *found, doubtful, status])
    return format_csv(CSV_HEADS, rows)


def make_latex(built: BuiltTable) -> str:
    """Formats a table as LaTeX with booktabs: one `table` environment per part, for `input`."""
    blocks, remark = ["% needs \\usepackage{booktabs,graphicx}"], ""
    if built.plan.world.targets:
        remark = " (a constructed demonstration on StreetScenes, not evidence for the paper)"
    for part in built.parts if built.table.kind != "qualitative" else ():
        title = f"{built.table.label}: {built.table.title}. {part.title}{remark}"
        blocks.append(format_latex(*format_part(built, part), title, len(WORDS)))
    blocks += [f"% {note}" for note in list_footnotes(built)]
    return "\n\n".join(blocks) + "\n"
