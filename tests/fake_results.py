"""Writes small results folders as runs leave them, without a network."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks.report.gallery import Gallery
from callbacks.report.panels import make_palette
from callbacks.report.summary import gain_of_image, summarize_records
from callbacks.run.records import to_plain
from experiments.tables.__main__ import make_plan, parse_arguments
from experiments.tables.runs import Plan, Run
from lightning_modules.metrics import score_image
from tests.fakes import make_images

CLASSES = ("road", "sky", "car", "person", "rider")
METHOD = {
    "name": "SegTTT",
    "alpha": 0.3,
    "psi": 0.7,
    "num_steps": 3,
    "lr": 0.1,
    "scales": [0.5, 1.0],
    "trainable": None,
}


def draw_probabilities(truth: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Draws (K, H, W) probabilities around the truth; the more noise the worse; the last class is never predicted."""
    logits = 4.0 * F.one_hot(truth.clamp(max=len(CLASSES) - 1), len(CLASSES)).permute(2, 0, 1)
    coarse = torch.randn(1, len(CLASSES), 8, 12, generator=generator)
    logits = logits + noise * F.interpolate(coarse, truth.shape, mode="bilinear")[0]
    logits[-1] = -20
    return logits.softmax(dim=0)


def write_results(
    folder: Path,
    domains: Sequence[str] = ("near", "far"),
    images: int = 9,
    names: str = "image_{:02d}",
    size: tuple[int, int] = (32, 48),
    class_names: Sequence[str] = CLASSES,
    method: dict[str, Any] | None = METHOD,
    baseline: bool = True,
    first: int = 2,
    expected: int | None = None,
    **extra: Any,
) -> Path:
    """Writes results.json, records.jsonl, run.json and a gallery; returns the folder.

    Of each domain there are so many images, of which the `first` are in the gallery; the manifest tells of `expected`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    gallery = Gallery(folder, first, make_palette(len(CLASSES)))
    records: list[dict[str, Any]] = []
    gains: dict[tuple[str, str], float] = {}
    for place, domain in enumerate(domains):
        for number in range(images):
            coarse = torch.randint(0, 4, (1, 1, 4, 6), generator=generator).float()
            truth = F.interpolate(coarse, size, mode="nearest")[0, 0].long()
            truth[:2] = 255
            before = draw_probabilities(truth, 3.0 + place, generator)
            after = draw_probabilities(truth, 2.5 + place, generator)
            record: dict[str, Any] = {"domain": domain, "name": names.format(number), "milliseconds": 10.0 + number}
            steps = [1.0 / (step + 1) + 0.01 * number for step in range(3)]
            account = {"steps": 3, "losses": steps, "note": None, "fallback": False}
            record |= {"adaptation": account if method else None, **score_image(after, truth).to_record()}
            if baseline:
                record["baseline"] = score_image(before, truth).to_record()
            records.append(record)
            gain = gains[domain, record["name"]] = gain_of_image(record)
            image = make_images(1, *size, seed=100 * place + number)[0]
            if first:
                shown = {"baseline": before} if baseline else {}
                gallery.add(domain, record["name"], gain, image, {"truth": truth, **shown, "prediction": after})
    gallery.trim(gains)
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    data = {domain: {"domain": domain, "images": expected or images, "root": None} for domain in domains}
    summary = {"complete": expected is None, "stage": "test", "method": method, "checkpoint": "outputs/best.ckpt"}
    summary |= {"date": "2026-11-25T23:10:25+00:00", "commit": "0123456789abcdef", "device": "cpu, 1 threads"}
    summary |= {"precision": "32-true", "temperature": 1.0, **extra}
    summary |= summarize_records(records, list(class_names), domains)
    (folder / "results.json").write_text(json.dumps(to_plain(summary)), encoding="utf-8")
    settings = {"stage": "test", "method": method, "class_names": list(class_names), "limit_batches": 1.0}
    content = {"settings": {**settings, "data": data}, "runs": [{"date": "2026-11-25", "found": 0}]}
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def make_search(*parameters: str) -> dict[str, Any]:
    """Returns a search over these parameters, three values each, as search.json holds it."""
    grid = itertools.product(range(3), repeat=len(parameters))
    points = [{"values": {n: 0.1 * v for n, v in zip(parameters, p, strict=True)}, "miou": 40.0 + sum(p)} for p in grid]
    search = {"method": "SegTTT", "settings": METHOD, "parameters": list(parameters), "points": points}
    return search | {"best": points[-1]}


def plan_of(folder: Path, *args: str) -> Plan:
    """Plans the paper's tables in a folder."""
    return make_plan(parse_arguments(["all", "--folder", str(folder), *args]))


def write_planned(plan: Plan, run: Run, miou: dict[str, float], **changes: Any) -> Path:
    """Writes results.json as a run of these settings would, but for what changes, in `settings` those of the method."""
    method = plan.describe(run)
    if method is not None:
        method |= {"checkpoints": ["a.ckpt"] * plan.world.members} if run.is_ensemble else {}
        method |= changes.pop("settings", {})
    domains = {
        domain: {"miou": value, "classwise_ece": value / 2, "ms_per_image": 10 * value, "images": 500}
        for domain, value in miou.items()
    }
    summary = {"complete": True, "stage": run.stage, "method": method, "device": "cpu", "domains": domains} | changes
    path = plan.find_results(run) / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary))
    return path
