"""Formats the printed report: tables of splits and classes, messages on the findings, and advice."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.labels import format_ids
from datamodules.reading.census import format_size, name_id
from datamodules.reading.pairs import NOT_READ
from experiments.check_data.checks import KINDS, DataSetCheck, SplitCheck

SHOWN = 3  # printed problems of a kind; the JSON file has all
SIZES = 3  # printed image sizes
IDS = 40  # printed ids with their classes
COLUMNS = 8  # splits side by side in the table of class frequencies


def format_overview(found: Sequence[DataSetCheck]) -> str:
    """Formats the table of all splits."""
    header = ["data set", "split", "images", "official", "read", *(heading for heading, _ in KINDS.values())]
    header += ["known broken", "verdict"]
    rows = []
    for data_set in found:
        name = f"{data_set.name} ({data_set.release})" if data_set.release else data_set.name
        if data_set.error:
            verdict = "NOT FOUND" if data_set.failed else "not found"
            rows.append([name, *["-"] * (len(header) - 2), verdict])
        for check in data_set.checks:
            official = "-" if check.official is None else f"{check.official:,}"
            numbers = ["-" if check.absent else f"{check.count(kind):,}" for kind in KINDS]
            row = [name, ", ".join([check.split, *check.same]), f"{check.images:,}", official, f"{check.census.read:,}"]
            rows.append([*row, *numbers, f"{len(check.known) or '-'}", check.verdict])
    return align_columns(header, rows, left=(0, 1, len(header) - 1))


def format_frequencies(checks: Sequence[SplitCheck]) -> str:
    """Formats tables of the percentage of pixels per class in each split; empty without labels."""
    groups: dict[tuple[str, ...], list[tuple[str, dict[str, float]]]] = {}
    for check in checks:
        if shares := check.measure_frequencies():
            groups.setdefault(tuple(shares), []).append((check.name, shares))
    tables = []
    for names, columns in groups.items():
        for first in range(0, len(columns), COLUMNS):
            titles, shown = zip(*columns[first : first + COLUMNS], strict=True)
            rows = [
                [name, *(f"{100 * shares[name]:.2f}" if shares[name] else "-" for shares in shown)] for name in names
            ]
            tables.append(align_columns(["class", *titles], rows, left=(0,)))
    return "\n\n".join(tables)


def align_columns(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Formats a table with aligned columns; those whose index is in `left` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, ["-" * width for width in widths], *rows):
        sides = ["<" if column in left else ">" for column in range(len(row))]
        cells = (f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def describe_contents(found: Sequence[DataSetCheck]) -> str:
    """Formats what the user's own files contain and how it is interpreted; empty for official data sets."""
    blocks = []
    for data_set in found:
        own = [check for check in data_set.checks if check.own and check.census.read]
        blocks += ["\n".join([f"{check.name}:", *(f"  {line}" for line in describe_split(check))]) for check in own]
        if own and data_set.passed_over:
            files = ", ".join(
                f"{len(names):,} {suffix or 'without suffix'} (e.g. {names[0]}"
                f"{', which cannot be read: convert them to JPEG or PNG' if suffix in NOT_READ else ''})"
                for suffix, names in data_set.passed_over.items()
            )
            blocks.append(f"{data_set.name}: not part of any pair: {files}.")
    return "\n\n".join(blocks)


def describe_split(check: SplitCheck) -> list[str]:
    """Returns lines on a split's images and labels, and on the classes that label ids map to."""
    census = check.census
    images = [f"{number:,} {kind}" for kind, number in census.images.most_common()]
    sizes = [f"{number:,} of {format_size(size)}" for size, number in census.sizes.most_common(SIZES)]
    more = [f"{len(census.sizes) - SIZES} other sizes"] if len(census.sizes) > SIZES else []
    lines = [f"images: {', '.join(images)}; {', '.join([*sizes, *more])} pixels (WxH)"]
    if census.labels:
        kinds = [f"{number:,} {kind}" for kind, number in census.labels.most_common()]
        if len(census.ids) > 1:
            held = [format_ids(sorted(census.ids[kind])) for kind, _ in census.labels.most_common()]
            kinds = [f"{kind} (ids {ids})" for kind, ids in zip(kinds, held, strict=True)]
        lines.append(f"labels: {', '.join(kinds)}")
    if census.ids and not getattr(check.module, "coloured", False):
        table, names = check.dataset.table, check.module.class_names
        mapping = [f"{value}: {name_id(value, table, names)}" for value in sorted(census.all_ids)]
        lines.append(f"ids map to: {', '.join(mapping[:IDS])}{', ...' if len(mapping) > IDS else ''}")
    return lines + [note.removeprefix(f"{check.name}: ") for note in check.find_notes()]


def explain(found: Sequence[DataSetCheck], path: Path) -> Iterator[str]:
    """Yields messages about all problems, the first few of each kind, and about known broken pairs."""
    for data_set in found:
        if data_set.lost:
            yield f"{data_set.error}."
        for check in data_set.checks:
            yield from explain_split(check, path)


def explain_split(check: SplitCheck, path: Path) -> Iterator[str]:
    """Yields the messages about a split; `path` is that of the report."""
    problems = check.find_problems()
    if check.absent and check.required:
        yield f"{check.name} is missing: {check.absent}."
    if check.void and not problems:
        files = format_count(check.census.labels.total(), "label file")
        held = f"they contain the ids {format_ids(sorted(check.census.all_ids))}"
        yield f"{check.name} cannot be used: no pixel of its {files} belongs to a class, {held}."
    if check.unusable:
        yield f"{check.name} cannot be used: {check.unusable}."
    for kind, (_, what) in KINDS.items():
        messages = [f"  {problem.message}" for problem in problems if problem.kind == kind]
        if messages:
            yield f"{check.name}: {format_count(check.count(kind), 'pair')} with {what}:"
            yield from messages[:SHOWN]
        if len(messages) > SHOWN:
            yield f"  ... and {len(messages) - SHOWN:,} more, see {path}"
    if not check.absent and check.official not in (None, check.images):
        much = f"{check.lacking:,} fewer" if check.lacking else "more"
        yield f"{check.name}: {format_count(check.images, 'image')}, {much} than the official {check.official:,}."
    for warning in check.find_warnings():
        yield f"{warning}."
    if check.known:
        kinds = Counter(problem.kind for problem in check.find_problems(known=True))
        seen = ", ".join(f"{number:,} with {KINDS[kind][1]}" for kind, number in kinds.items())
        named = ", ".join(check.known[:SHOWN]) + (", ..." if len(check.known) > SHOWN else "")
        broken = f"{format_count(len(check.known), 'pair')} broken in the official release itself ({named})"
        yield f"{check.name}: {broken}: {seen or 'can be read, may be blank'}."


def format_count(number: int, noun: str) -> str:
    """Formats a number with its noun: ``1 image``, ``2,975 images``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def advise(found: Sequence[DataSetCheck]) -> Iterator[str]:
    """Yields advice on the problems found."""
    checks = [check for data_set in found for check in data_set.checks]
    for data_set in found:
        lacking = sum(check.lacking for check in data_set.checks)
        damaged = any(
            check.unusable or check.count("missing") or check.count("unreadable") for check in data_set.checks
        )
        if (lacking or damaged) and data_set.module.counts:
            deleted = 0 < lacking <= len(data_set.module.known_broken)
            why = " (or were known broken pairs deleted?)" if deleted else ""
            yield f"{data_set.name} is not complete{why}: unpack {data_set.module.archives} again."
    if any(check.count("id") for check in checks):
        yield (
            "Unknown ids come from another release or encoding, or from a tool that converted the labels: use the "
            "vendor's files, or set ids for your own."
        )
    if any(data_set.lost for data_set in found):
        yield "A data set that was not found may be elsewhere: rename its folder as expected, or set root in its YAML."
    if any(check.unpaired or check.census.problems for check in checks):
        yield (
            "To use a split as it is: --data.broken=skip reads it once, skips the broken pairs, and lists them "
            "in results.json."
        )
