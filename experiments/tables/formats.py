"""Tables as Markdown, CSV and LaTeX."""

from experiments.pages import format_csv, format_latex, format_markdown
from experiments.tables.build import BuiltLine, BuiltPart, BuiltTable, name_column
from experiments.tables.paper import METRICS
from experiments.tables.results import read_selection

DASH, MARK = "—", "†"
WORDS = 3  # columns before the numbers: source, network, method
CSV_HEADS = (
    "table", "part", "source", "network", "method", "metric", "unit", "column", "ours", "paper", "difference",
    "paper_real_data_mean", "doubtful", "status",
)  # fmt: skip
CONSTRUCTED = (
    "**A constructed demonstration, not evidence for the paper.** StreetScenes is drawn by this project, its targets "
    "are haze, dusk and dust, its networks are small and trained for a few minutes. The paper's numbers are of real "
    "photographs and large networks: they stand beside for orientation, without a difference."
)


def format_number(value: float | None, decimals: int) -> str:
    """Writes a number; a dash if there is none."""
    return DASH if value is None else f"{value:.{decimals}f}"


def format_difference(value: float | None, decimals: int) -> str:
    """Writes a difference with its sign; empty if there is none."""
    if value is None:
        return ""
    text = f"{value:+.{decimals}f}"
    return text.replace("-", "−")


def list_heads(built: BuiltTable, part: BuiltPart) -> list[str]:
    """Lists the titles of the columns."""
    heads = ["source", "network", "method"]
    for key in part.part.metrics:
        metric = METRICS[key]
        several = len(part.part.metrics) > 1
        unit = f"{metric.title}, {metric.unit}" if several else metric.unit
        for column in part.part.columns:
            name = f"{name_column(built.plan, column)} ({unit})"
            heads += [name] if built.plan.world.targets or not has_paper(part) else [name, "paper", "difference"]
        if has_real(part):
            heads.append(f"paper (real data, {unit})" if several else "paper (real data)")
    return heads


def has_paper(part: BuiltPart) -> bool:
    """Returns whether the paper prints numbers of a part."""
    return any(line.row.paper for line in part.lines)


def has_real(part: BuiltPart) -> bool:
    """Returns whether the paper's means on real images stand beside."""
    return any(value is not None for line in part.lines for value in line.real.values())


def list_words(built: BuiltTable, part: BuiltPart, line: BuiltLine) -> list[str]:
    """Lists the text of the cells of a row."""
    words = [line.row.source, line.row.network, name_line(line)]
    decimals = choose_decimals(built)
    for key in part.part.metrics:
        for cell in line.cells:
            if cell.metric.key != key:
                continue
            own = decimals.get(key, cell.metric.decimals)
            words.append(format_number(cell.ours, own))
            if not built.plan.world.targets and has_paper(part):
                mark = f" {MARK}" if cell.doubtful else ""
                words.append(format_number(cell.paper, cell.metric.decimals) + mark)
                words.append(format_difference(cell.difference, cell.metric.decimals))
        if has_real(part):
            printed = next(cell.metric.decimals for cell in line.cells if cell.metric.key == key)
            words.append(format_number(line.real.get(key), printed) + (f" {MARK}" if line.row.doubtful else ""))
    return words


def name_line(line: BuiltLine) -> str:
    """Names the method of a row, and the point on the curve."""
    if line.point is None:
        return line.row.name
    if line.row.sweep == "alpha":
        return f"{line.row.name}, alpha {line.point:g}"
    return f"{line.row.name}, {line.point} step{'' if line.point == 1 else 's'}"


def choose_decimals(built: BuiltTable) -> dict[str, int]:
    """Returns how many decimals our numbers have, where not as many as the paper's: few images, fewer decimals."""
    return {"miou": 1, "classwise_ece": 1} if built.plan.world.targets else {}


def list_footnotes(built: BuiltTable) -> list[str]:
    """Lists why printed numbers are doubtful."""
    notes = []
    for part in built.parts:
        for line in part.lines:
            for column, reason in line.row.doubtful.items():
                notes.append(f"{line.row.source}, {line.row.network}, {line.row.name}, {column}: {reason}")
    return list(dict.fromkeys(notes))


def describe_origin(built: BuiltTable) -> str:
    """Says what the table is, and on what it was measured."""
    table, plan = built.table, built.plan
    where = f"{table.label} of the paper, page {table.page}, Sec. {table.section}".replace("Sec. Appendix", "Appendix")
    if plan.policy == "paper":
        settings = "the published ones, Seg-TTT as the authors' code does it (`semantics: released`)"
    else:
        settings = "chosen for each network on the development set, Seg-TTT as the paper's text says"
    lines = [f"{where}. Settings: {settings}."]
    if built.measured:
        images = ", ".join(f"{count} of {name_column(plan, domain)}" for domain, count in sorted(built.images.items()))
        lines.append(f"Measured on {built.measured}; images: {images}.")
    if any("ms_per_image" in part.part.metrics for part in built.parts):
        lines.append("Runtimes: ours is the median per image on that device, the paper's a GeForce RTX 2080.")
    if plan.world.targets and any((run.method or "").startswith("ensemble") for run in plan.list_runs(table)):
        lines.append(f"Ensembles are {plan.world.members} networks here, 10 in the paper.")
    return " ".join(lines)


def make_page(built: BuiltTable, level: int = 1, place: str = "") -> str:
    """Makes the Markdown page of a table.

    Args:
        built: The table.
        level: Of its heading.
        place: Folder of the pictures, relative to the page, with a slash at its end.
    """
    heading = "#" * level
    blocks = [f"{heading} {built.table.label}: {built.table.title}"]
    if built.plan.world.targets:
        blocks.append(CONSTRUCTED)
    blocks.append(describe_origin(built))
    for part in built.parts:
        if built.table.kind == "qualitative":
            picture = f"{built.table.name}_{part.part.name}"
            shown = f"![{part.part.title}]({place}{picture}.png)" if picture in built.pictures else f"{DASH} is missing"
            blocks += [f"**{part.part.title}**", shown]
            continue
        title = f"({part.part.name}) {part.part.title}" if part.part.name else part.part.title
        blocks.append(f"**{title}**")
        heads = list_heads(built, part)
        rows = [list_words(built, part, line) for line in part.lines]
        blocks.append(format_markdown(heads, rows, numbers=range(WORDS, len(heads))))
    blocks += built.extra
    if built.table.kind != "qualitative":
        blocks += [f"![{built.table.title}]({place}{picture}.png)" for picture in built.pictures]
    footnotes = list_footnotes(built)
    if footnotes:
        blocks.append("\n".join(f"{MARK} doubtful in the text of the paper's PDF: {note}." for note in footnotes))
    blocks += [f"Note: {note}." for note in built.notes]
    if built.missing:
        lines = [f"{DASH} is missing. All that is missing: `python -m experiments.tables {built.table.name} --run"]
        lines[0] += f" --world {built.plan.world.name}`" + (". One by one:" if level == 1 else "")
        for run, (problem, command) in built.missing.items() if level == 1 else ():  # on a page with others, one line
            unknown = built.plan.needs_selection(run) and read_selection(built.plan, run.experiment) is None
            more = ", with the settings that `experiments.protocol` chooses for this network" if unknown else ""
            lines.append(f"- {problem}. Make it by{more}:\n  `{command}`")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def make_csv(built: BuiltTable) -> str:
    """Formats a table as CSV: one number per line."""
    rows = []
    for part in built.parts:
        for line in part.lines:
            words = [built.table.name, part.part.name, line.row.source, line.row.network, name_line(line)]
            for cell in line.cells:
                status = "missing" if cell.ours is None else "measured"
                found = (cell.ours, cell.paper, cell.difference, line.real.get(cell.metric.key))
                numbers = ["" if number is None else f"{number:.6g}" for number in found]
                where = [cell.metric.key, cell.metric.unit, cell.column]
                rows.append([*words, *where, *numbers, cell.doubtful, status])
    return format_csv(CSV_HEADS, rows)


def make_latex(built: BuiltTable) -> str:
    """Formats a table as LaTeX with booktabs: one `table` environment per part, for `input`."""
    blocks = ["% needs \\usepackage{booktabs,graphicx}"]
    remark = ""
    if built.plan.world.targets:
        blocks.append("% A constructed demonstration on StreetScenes, not evidence for the paper.")
        remark = " (a constructed demonstration on StreetScenes, not evidence for the paper)"
    for part in built.parts if built.table.kind != "qualitative" else ():
        rows = [list_words(built, part, line) for line in part.lines]
        title = f"{built.table.label}: {built.table.title}. {part.part.title}{remark}"
        blocks.append(format_latex(list_heads(built, part), rows, title, WORDS))
    blocks += [f"% {note}" for note in list_footnotes(built)]
    return "\n\n".join(blocks) + "\n"
