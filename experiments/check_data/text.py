"""What is printed: tables of splits and classes, and sentences about what was found and what to do."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datamodules.base import ProblemKind
from datamodules.labels import format_ids
from datamodules.reading.census import format_size, name_id
from datamodules.reading.folders import NOT_READ
from experiments.check_data.checks import KINDS, DataSetCheck, SplitCheck

SHOWN = 3  # problems of a kind that are written out on the screen; the JSON file has all
SIZES = 3  # of images that are named
IDS = 40  # whose classes are named
COLUMNS = 8  # splits beside each other in the table of class frequencies


def format_overview(found: Sequence[DataSetCheck]) -> str:
    """Formats the table of all splits."""
    header = ["data set", "split", "images", "official", "read"]
    header += [heading for heading, _ in KINDS.values()] + ["known broken", "verdict"]
    rows = []
    for data_set in found:
        release = getattr(data_set.module, "release", None)
        name = f"{data_set.name} ({release})" if release else data_set.name
        if data_set.error:
            verdict = "NOT FOUND" if data_set.failed else "not found"
            rows.append([name, *["-"] * (len(header) - 2), verdict])
        for check in data_set.checks:
            official = "-" if check.official is None else f"{check.official:,}"
            numbers = [f"{check.count(kind):,}" if not check.absent else "-" for kind in KINDS]
            known = f"{len(check.known)}" if check.known else "-"
            split = ", ".join([check.split, *check.same])
            row = [name, split, f"{check.images:,}", official, f"{check.read:,}", *numbers, known, check.verdict]
            rows.append(row)
    return format_table(header, rows, left=(0, 1, len(header) - 1))


def format_frequencies(found: Sequence[DataSetCheck]) -> str:
    """Formats the percent of pixels of each class in each split, some splits beside each other; may be empty."""
    checks = [check for data_set in found for check in data_set.checks if check.measure_frequencies()]
    groups: dict[tuple[str, ...], list[SplitCheck]] = {}
    for check in checks:
        groups.setdefault(tuple(check.module.class_names), []).append(check)
    tables = []
    for members in groups.values():
        for first in range(0, len(members), COLUMNS):
            shown = members[first : first + COLUMNS]
            shares = [check.measure_frequencies() for check in shown]
            rows = [
                [name, *(f"{100 * share[name]:.2f}" if share[name] else "-" for share in shares)] for name in shares[0]
            ]
            tables.append(format_table(["class", *(check.name for check in shown)], rows, left=(0,)))
    return "\n\n".join(tables)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Formats a table in columns; those that `left` names are flush left, the others flush right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def format_row(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([format_row(header), format_row(["-" * width for width in widths]), *map(format_row, rows)])


def describe_contents(found: Sequence[DataSetCheck]) -> str:
    """Formats what the files of one's own hold, and what is made of it; empty of data sets of vendors."""
    blocks = []
    for data_set in found:
        for check in data_set.checks:
            if check.own and check.read:
                blocks.append("\n".join([f"{check.name}:", *(f"  {line}" for line in describe_split(check))]))
        if blocks and data_set.passed_over:
            files = ", ".join(
                f"{len(names):,} {suffix or 'without suffix'} (e.g. {names[0]}{explain_suffix(suffix)})"
                for suffix, names in data_set.passed_over.items()
            )
            blocks.append(f"{data_set.name}: not part of any pair: {files}.")
    return "\n\n".join(blocks)


def describe_split(check: SplitCheck) -> list[str]:
    """Returns lines on the images, the labels and what their ids count as."""
    census, table, names = check.census, check.dataset.table if check.dataset else None, check.module.class_names
    sizes = [f"{number:,} of {format_size(size)}" for size, number in census.sizes.most_common(SIZES)]
    more = [f"{len(census.sizes) - SIZES} other sizes"] if len(census.sizes) > SIZES else []
    lines = [f"images: {format_counts(census.images)}; {', '.join([*sizes, *more])} pixels (WxH)"]
    if census.labels:
        several = len(census.labels) > 1
        kinds = [
            f"{number:,} {kind}" + (f" (ids {format_ids(sorted(census.ids[kind]))})" if several else "")
            for kind, number in census.labels.most_common()
        ]
        lines.append(f"labels: {', '.join(kinds)}")
    if census.ids and table is not None and not getattr(check.module, "label_colours", None):
        mapping = [f"{value}: {name_id(value, table, names)}" for value in sorted(census.all_ids)]
        lines.append(f"ids count as: {', '.join(mapping[:IDS])}{', ...' if len(mapping) > IDS else ''}")
    return lines + [note.removeprefix(f"{check.name}: ") for note in check.find_notes()]


def explain_suffix(suffix: str) -> str:
    """Returns why files of a suffix are not read, if they are photographs; empty otherwise."""
    return ", which cannot be read: convert them to JPEG or PNG" if suffix in NOT_READ else ""


def format_counts(counts: Counter[str]) -> str:
    """Writes how many there are of each kind: ``4 JPEG RGB, 2 PNG gray``."""
    return ", ".join(f"{number:,} {kind}" for kind, number in counts.most_common())


def explain(found: Sequence[DataSetCheck], path: Path) -> list[str]:
    """Returns sentences about all that is wrong, the first few of each kind, and about what is known to be."""
    lines = []
    for data_set in found:
        if data_set.error and data_set.failed:
            lines.append(data_set.error + ".")
        for check in data_set.checks:
            if check.absent and check.required:
                lines.append(f"{check.name} is missing: {check.absent}.")
            if check.void and not check.problems:
                files = format_number(check.census.labels.total(), "label file")
                held = f"they hold the ids {format_ids(sorted(check.census.all_ids))}"
                lines.append(f"{check.name} cannot be used: no pixel of its {files} belongs to a class, {held}.")
            if check.unusable:
                lines.append(f"{check.name} cannot be used: {check.unusable}.")
            for kind, (_, what) in KINDS.items():
                lines += explain_kind(check, kind, what, path)
            lines += explain_count(check)
            lines += [f"{warning}." for warning in check.find_warnings()]
            if check.known:
                lines.append(explain_known(check))
    return lines


def explain_kind(check: SplitCheck, kind: ProblemKind, what: str, path: Path) -> list[str]:
    """Returns sentences about the problems of one kind in a split."""
    messages = [problem.message for problem in check.problems if problem.kind == kind]
    if not messages:
        return []
    more = [f"  ... and {len(messages) - SHOWN:,} more, see {path}"] if len(messages) > SHOWN else []
    number = format_number(check.count(kind), "pair")
    return [f"{check.name}: {number} with {what}:", *(f"  {message}" for message in messages[:SHOWN]), *more]


def explain_count(check: SplitCheck) -> list[str]:
    """Returns a sentence about a number of images that is not the official one."""
    if check.absent or check.official in (None, check.images):
        return []
    much = f"{check.lacking:,} fewer" if check.lacking else "more"
    return [f"{check.name}: {format_number(check.images, 'image')}, {much} than the official {check.official:,}."]


def explain_known(check: SplitCheck) -> str:
    """Returns a sentence about pairs that are broken in the official release."""
    kinds = Counter(problem.kind for problem in check.known_problems)
    seen = ", ".join(f"{number:,} with {KINDS[kind][1]}" for kind, number in kinds.items())
    seen = seen or "can be read, may be blank"
    named = ", ".join(check.known[:SHOWN]) + (", ..." if len(check.known) > SHOWN else "")
    number = format_number(len(check.known), "pair")
    return f"{check.name}: {number} broken in the official release itself ({named}): {seen}."


def format_number(number: int, noun: str) -> str:
    """Writes a number of things: ``1 image``, ``2,975 images``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def advise(found: Sequence[DataSetCheck]) -> list[str]:
    """Returns what to do about what was found."""
    checks = [check for data_set in found for check in data_set.checks]
    problems = [problem for check in checks for problem in (*check.problems, *check.known_problems)]
    advice = []
    for data_set in found:
        incomplete = any(
            check.lacking or check.unusable or check.count("missing") or check.count("unreadable")
            for check in data_set.checks
        )
        if incomplete and data_set.module is not None and data_set.module.counts:
            lacking = sum(check.lacking for check in data_set.checks)
            known = 0 < lacking <= len(data_set.module.known_broken)
            deleted = " (or were known broken pairs deleted?)" if known else ""
            advice.append(f"{data_set.name} is not complete{deleted}: unpack {data_set.module.archives} again.")
    if any(check.count("id") for check in checks):
        advice.append(
            "Unknown ids come from another release or encoding, or from a tool that converted the labels: use the "
            "vendor's files, or set ids for your own."
        )
    if any(data_set.error and data_set.failed for data_set in found):
        advice.append(
            "A data set that was not found may be elsewhere: rename its folder as expected, or set root in its YAML."
        )
    if problems:
        advice.append(
            "To use a split as it is: --data.broken=skip reads it once, leaves out the broken pairs, and lists them "
            "in results.json."
        )
    return advice
