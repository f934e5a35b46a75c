"""Formats the report for the terminal: tables of splits and classes, and messages on the findings."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.reading.pairs import NOT_READ
from experiments.check_data.checks import KINDS

SHOWN = 3  # printed problems of a kind, and image sizes; the JSON file has all
IDS = 40  # printed ids with their classes

Found = dict[str, Any]  # what the report has on a data set or a split


def format_overview(data_sets: Sequence[Found]) -> str:
    """Formats the table of all splits."""
    header = ["data set", "split", "images", "official", "read", *(heading for heading, _ in KINDS.values())]
    header += ["known broken", "verdict"]
    rows = []
    for data_set in data_sets:
        name = f"{data_set['name']} ({data_set['release']})" if data_set["release"] else data_set["name"]
        if data_set["error"]:
            rows.append([name, *["-"] * (len(header) - 2), "NOT FOUND" if data_set["failed"] else "not found"])
        for split in data_set["splits"]:
            numbers = [split["images"], split["official"], split["read"]]
            numbers += [None if split["absent"] else split["counts"][kind] for kind in KINDS]
            numbers += [len(split["known_broken"]) or None]
            cells = ["-" if number is None else f"{number:,}" for number in numbers]
            rows.append([name, ", ".join([split["split"], *split["same_as_this"]]), *cells, split["verdict"]])
    return align_columns(header, rows, left=(0, 1, len(header) - 1))


def format_frequencies(data_set: Found) -> str:
    """Formats the table of the percentage of pixels per class in each split; empty without labels."""
    splits = [split for split in data_set["splits"] if split["frequencies"]]
    if not splits:
        return ""
    rows = [
        [name, *(f"{100 * split['frequencies'][name]:.2f}" if split["pixels"][name] else "-" for split in splits)]
        for name in splits[0]["frequencies"]
    ]
    return align_columns(["class", *(split["name"] for split in splits)], rows, left=(0,))


def align_columns(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Formats a table with aligned columns; those whose index is in `left` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, ["-" * width for width in widths], *rows):
        sides = ["<" if column in left else ">" for column in range(len(row))]
        cells = (f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def describe_contents(data_set: Found) -> Iterator[str]:
    """Yields lines on what the user's own files contain and how it is interpreted."""
    for split in data_set["splits"]:
        held = split["holds"]
        if not data_set["own"] or not split["read"]:
            continue
        sizes = [f"{number:,} of {size}" for size, number in held["sizes"].items()]
        more = [f"{len(sizes) - SHOWN} other sizes"] if len(sizes) > SHOWN else []
        yield f"{split['name']}:"
        yield f"  images: {format_counts(held['images'])}; {', '.join([*sizes[:SHOWN], *more])} pixels (WxH)"
        if held["labels"]:
            yield f"  labels: {format_counts(held['labels'])}"
        if mapping := [f"{value}: {name}" for value, name in held["mapping"].items()]:
            yield f"  ids map to: {', '.join(mapping[:IDS])}{', ...' if len(mapping) > IDS else ''}"
        if held["turned"]:
            yield f"  {held['turned']:,} images are turned as their EXIF orientation says"
        if split["resized"]:
            yield f"  {split['resized']:,} images are large and resized for evaluation (see evaluation_resize)"
    for suffix, names in data_set["passed_over"].items():
        remedy = ", which cannot be read: convert them to JPEG or PNG" if suffix in NOT_READ else ""
        yield f"not part of any pair: {len(names):,} {suffix or 'without suffix'} (e.g. {names[0]}{remedy})"


def format_counts(numbers: dict[str, int]) -> str:
    """Formats numbers by kind, e.g. ``2 JPEG RGB, 1 PNG palette``."""
    return ", ".join(f"{number:,} {kind}" for kind, number in numbers.items())


def explain(data_sets: Sequence[Found], path: Path) -> Iterator[str]:
    """Yields messages about all problems; of each kind the first few, as all are in the report at `path`."""
    splits = [split for data_set in data_sets for split in data_set["splits"]]
    for data_set in data_sets:
        if data_set["error"] and data_set["failed"]:
            yield f"{data_set['error']}."
        for split in data_set["splits"]:
            yield from explain_split(split, path)
        yield from advise(data_set)
    if any(split["problems"] for split in splits):
        yield (
            "To use a split as it is: --data.broken=skip reads it once, skips the broken pairs, and lists them "
            "in results.json."
        )


def advise(data_set: Found) -> Iterator[str]:
    """Yields what to do about a data set of a vendor that is incomplete, damaged or has unknown ids."""
    counts = [split["counts"] for split in data_set["splits"]]
    lacking = sum(count["lacking"] for count in counts)
    damaged = any(split["unusable"] for split in data_set["splits"]) or any(
        count["missing"] or count["unreadable"] for count in counts
    )
    if data_set["own"]:
        return
    if lacking or damaged:
        deleted = " (or were known broken pairs deleted?)" if 0 < lacking <= data_set["known_broken"] else ""
        yield f"{data_set['name']} is not complete{deleted}: unpack {data_set['archives']} again."
    if any(count["id"] for count in counts):
        yield (
            f"The unknown ids of {data_set['name']} come from another release, or from a tool that converted the "
            "labels: use the vendor's files."
        )


def explain_split(split: Found, path: Path) -> Iterator[str]:
    """Yields the messages about a split."""
    name, counts, official = split["name"], split["counts"], split["official"]
    if split["verdict"] == "NOT THERE":
        yield f"{name} is missing: {split['absent']}."
    if split["unusable"]:
        yield f"{name} cannot be used: {split['unusable']}."
    for kind, (_, what) in KINDS.items():
        messages = [f"  {problem['message']}" for problem in split["problems"] if problem["kind"] == kind]
        if messages:
            yield f"{name}: {format_count(counts[kind], 'pair')} with {what}:"
            yield from messages[:SHOWN]
        if len(messages) > SHOWN:
            yield f"  ... and {len(messages) - SHOWN:,} more, see {path}"
    if not split["absent"] and official not in (None, split["images"]):
        much = f"{counts['lacking']:,} fewer" if counts["lacking"] else "more"
        yield f"{name}: {format_count(split['images'], 'image')}, {much} than the official {official:,}."
    yield from (f"{warning}." for warning in split["warnings"])
    if known := split["known_broken"]:
        kinds = Counter(problem["kind"] for problem in split["known_problems"])
        seen = ", ".join(f"{number:,} with {KINDS[kind][1]}" for kind, number in kinds.items())
        named = ", ".join(known[:SHOWN]) + (", ..." if len(known) > SHOWN else "")
        broken = f"{format_count(len(known), 'pair')} broken in the official release itself ({named})"
        yield f"{name}: {broken}: {seen or 'can be read, may be blank'}."


def format_count(number: int, noun: str) -> str:
    """Formats a number with its noun: ``1 image``, ``2,975 images``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
