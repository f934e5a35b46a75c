import json
import math
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from callbacks.report.figures import (
    METHOD,
    draw_classes,
    draw_differences,
    draw_domains,
    draw_losses,
    draw_reliability,
    draw_times,
    draw_training,
)
from callbacks.report.page import COLUMNS, write_report, write_training_report
from callbacks.report.run_data import read_run
from callbacks.report.search_figure import draw_search
from callbacks.report.summary import summarize_records
from callbacks.run.records import read_records, to_plain
from experiments import report
from lightning_modules.metrics import Scores, score_image
from tests.fake_results import CLASSES, make_search, write_results

# Figures from known values.


def test_histogram_of_differences_counts_images_and_says_how_many_got_worse() -> None:
    near, far = draw_differences({"near": [-3.0, -1.0, 0.0, 2.0, 2.5, 8.5, 4.0, 6.0], "far": [1.0]}).axes
    assert near.get_title() == "near\n25 % of 8 images worse" and far.get_title() == "far\n0 % of 1 images worse"
    worse, better = (
        {round(bar.get_x(), 6): bar.get_height() for bar in bars if bar.get_height()} for bars in near.containers
    )
    assert worse == {-3.0: 1, -1.0: 1} and better == {0.0: 1, 2.0: 2, 4.0: 1, 6.0: 1, 8.0: 1}
    assert near.get_xlabel() == "mean IoU gained per image (points)" and near.get_ylabel() == "images"


def test_bars_of_domains_are_the_numbers_with_the_method_last() -> None:
    (axes,) = draw_domains({"t-BN": {"near": 30.0, "far": 20.0}, "TTA": {"near": 35.5, "far": 31.25}}).axes
    first, second = axes.containers
    assert [bar.get_height() for bar in (*first, *second)] == [30.0, 20.0, 35.5, 31.25]
    assert {text.get_text() for text in axes.texts} == {"30.0", "20.0", "35.5", "31.2"}
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["near", "far"]
    assert second[0].get_facecolor() == to_rgba(METHOD)


def test_bars_of_classes_leave_out_absent_ones_and_show_their_colours() -> None:
    nan = math.nan
    series = {"t-BN": {"road": 90.0, "sky": nan, "car": 10.0}, "TTA": {"road": 91.0, "sky": nan, "car": 0.0}}
    (axes,) = draw_classes({"near": series}, {"road": (128, 64, 128), "sky": (1, 2, 3), "car": (0, 0, 0)}).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["road", "car"]
    assert [[bar.get_width() for bar in group] for group in axes.containers] == [[90.0, 10.0], [91.0, 0.0]]
    assert np.allclose(axes.collections[0].get_facecolors()[:, :3], np.array([(128, 64, 128), (1, 1, 1)]) / 255)


def test_times_losses_and_training_curves_are_those_given() -> None:
    (axes,) = draw_times({"near": [10.0, 20.0, 60.0]}).axes
    assert axes.get_title() == "near\nmedian 20.0 ms" and axes.lines[0].get_xdata()[0] == 20
    assert sum(bar.get_height() for bar in axes.patches) == 3
    (axes,) = draw_losses({"near": [[1.0, 0.5, 0.2], [3.0, 0.7], []]}).axes
    assert list(axes.lines[0].get_xdata()) == [1, 2, 3]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([2.0, 0.6, 0.2])
    assert axes.get_title() == "near\n2 images"
    low, high = (axes.collections[0].get_paths()[0].get_extents().get_points()[place][1] for place in (0, 1))
    assert (low, high) == pytest.approx((0.2, 2.5))  # the quartiles of 1 and 3 are 1.5 and 2.5
    loss, miou = draw_training(
        {"train/loss": [(0, 2.0), (9, 1.0)], "val/miou": [(4, 30.0), (9, 42.0), (14, 41.0)]}
    ).axes
    assert list(loss.lines[0].get_ydata()) == [2.0, 1.0] and loss.get_ylabel() == "training loss (nats)"
    assert (miou.lines[1].get_xdata()[0], miou.lines[1].get_ydata()[0]) == (9, 42.0)


def test_search_makes_a_curve_a_map_or_a_panel_per_parameter() -> None:
    (curve,) = draw_search(make_search("psi")).axes
    assert list(curve.lines[0].get_xdata()) == pytest.approx([0.0, 0.1, 0.2])
    assert list(curve.lines[0].get_ydata()) == [40.0, 41.0, 42.0] and "best: 0.2 (42.0 %)" in curve.get_title()
    search = make_search("psi", "num_steps")
    search["points"][-2]["miou"] = 44.5
    grid = draw_search(search).axes[0]
    assert (grid.get_xlabel(), grid.get_ylabel()) == ("psi", "num_steps")
    shown = grid.collections[0].get_array().reshape(3, 3).filled(0)
    assert shown.tolist() == [[40, 41, 42], [41, 42, 44.5], [42, 43, 44]]
    assert "best: 0.2, 0.1 (44.5 %)" in grid.get_title()
    panels = draw_search(make_search("psi", "num_steps", "lr")).axes
    assert [axes.get_xlabel() for axes in panels] == ["psi", "num_steps", "lr"]
    assert all(list(axes.lines[1].get_ydata()) == [44.0, 45.0, 46.0] for axes in panels)
    assert all(len(axes.lines[0].get_xdata()) == 27 for axes in panels)


@pytest.mark.parametrize("parameters", [["views"], ["views", "psi"], ["views", "psi", "lr"]])
def test_values_that_are_no_numbers_are_named_on_the_axis(parameters: list[str]) -> None:
    sets = [None, ["head"], {"scales": [0.5, 1.0], "autocontrast": True}, [{"scales": [1.25]}, {"scales": [0.5]}]]
    points = [{"values": {"views": one, "psi": psi, "lr": 0.1}, "miou": 40.0} for one in sets for psi in (0.5, 0.7)]
    axes = draw_search({"parameters": parameters, "points": points}).axes[0]
    names = ["none", "head", "0.5 1 flip\nautocontrast", "1.25 flip +\n0.5 flip"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == names


@pytest.mark.parametrize("domains", [{"haze": 2.0}, {"a": 0.1, "b": 3.0, "c": 30.0, "d": 1.0, "e": 1.0}])
def test_bars_are_accuracy_gap_and_share_of_each_bin_that_is_not_empty(domains: dict[str, float]) -> None:
    records = [{"domain": "none", **Scores.zeros(5).to_record()}]
    for number, (domain, deviation) in enumerate(domains.items()):
        generator = torch.Generator().manual_seed(number)
        logits = deviation * torch.randn(5, 20, 30, generator=generator)
        mask = torch.randint(0, 5, (20, 30), generator=generator)
        records.append({"domain": domain, **score_image(logits.softmax(dim=0), mask).to_record()})
    records = [{"name": "0", "milliseconds": 1.0, "adaptation": None, **record} for record in records]
    summaries = json.loads(json.dumps(to_plain(summarize_records(records, list("abcde"))["domains"])))
    figure = draw_reliability(summaries)  # as results.json holds them
    del summaries["none"]  # without labels it has no diagram
    assert len(figure.axes) == 2 * len(domains)
    for number, (domain, summary) in enumerate(summaries.items()):
        accuracy, share = figure.axes[2 * number : 2 * number + 2]
        assert accuracy.get_title() == f"{domain}\nECE {summary['ece']:.1f} %"
        (bars, gaps), (shares,) = accuracy.containers, share.containers
        bins = [values for values in zip(*summary["reliability"].values(), range(15), strict=True) if values[0]]
        total = 0.0
        for (pixels, confidence, right, place), bar, gap, part in zip(bins, bars, gaps, shares, strict=True):
            for patch in (bar, gap, part):
                assert patch.get_x() + patch.get_width() / 2 == pytest.approx((place + 0.5) * 100 / 15)
            assert bar.get_height() == gap.get_y() == pytest.approx(100 * right)
            assert gap.get_y() + gap.get_height() == pytest.approx(100 * confidence)
            assert part.get_height() == pytest.approx(100 * pixels / 600)
            total += part.get_height() / 100 * abs(gap.get_height())
        assert total == pytest.approx(summary["ece"])


# The page.


class Page:
    """A report that loads nothing: its text, the lines of its tables by their first cell, its cards and pictures."""

    def __init__(self, path: Path) -> None:
        self.source = path.read_text(encoding="utf-8")
        body = re.sub(r"<(script|style).*?</\1>", "", self.source, flags=re.DOTALL)
        self.text = self.read(body)
        lines = [re.findall(r"<t[dh]>(.*?)</t[dh]>", line) for line in re.findall(r"<tr.*?</tr>", body, re.DOTALL)]
        self.table = {self.read(first): list(map(self.read, rest)) for first, *rest in lines}
        self.cards = [
            tuple(map(unescape, found)) for found in re.findall(r'data-pictures="(.*?)" data-name="(.*?)"', body)
        ]
        self.pictures = {
            found[1]: json.loads(found[2]) for found in re.finditer(r'id="(picture-\d+)">(.*?)</script>', self.source)
        }
        assert "default-src 'none'; img-src data:" in self.source
        assert not re.findall(r"https?://|<(?:link|iframe|object|embed|base)\b|@import|fetch\(", self.source)

    @staticmethod
    def read(source: str) -> str:
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", source)).split())

    def lacks(self, *words: str) -> list[str]:
        return [word for word in words if word not in self.text]


def show(folder: Path) -> Page:
    return Page(write_report(read_run(folder)))


def test_report_has_the_numbers_of_the_results_and_loads_nothing(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "run", selection={"file": "selection.yaml", "sha256": "ab12cd"})
    (folder / "search.json").write_text(json.dumps(make_search("psi")), encoding="utf-8")
    page, data = show(folder), read_run(folder)
    domains = json.loads((folder / "results.json").read_text(encoding="utf-8"))["domains"]
    for scores in domains.values():
        scores["gain"] = scores["miou"] - scores["baseline_miou"]
    mean = {key: sum(scores[key] for scores in domains.values()) / 2 for key, *_ in COLUMNS.values()}
    for name, scores in {**domains, "mean": mean | {"images": 18, "fallbacks": 0}}.items():
        written = [f"{scores[key]:{sign}.{digits}f}" for key, digits, sign in COLUMNS.values()]
        assert page.table[name] == written
    best = sorted(data.domains["near"].rows, key=lambda row: (row.baseline_miou or 0) - row.miou)
    assert data.domains["near"].rank() == (best[:3], best[::-1][:3])
    gain = f"mean IoU {best[0].baseline_miou:.1f} → {best[0].miou:.1f} % ({best[0].gain:+.1f})"
    known = ["Seg-TTT on near, far", "0123456789abcdef", "32-true", "cpu, 1 threads", "outputs/best.ckpt", gain]
    assert not page.lacks(*known, "near: first images", "far: gained most", "gained least, or lost", "best: psi = 0.2")
    assert page.table["psi"] == ["0.7"] and page.table["selection.sha256"] == ["ab12cd"]
    assert page.table["scales"] == ["0.5, 1.0"]
    assert {name for _, name in page.cards} == {row.name for row in data.rows if data.pictures(row)}
    assert {number for number, _ in page.cards} == set(page.pictures)  # each once, though some have two cards
    for layers in page.pictures.values():
        assert sorted(layers) == ["baseline", "image", "prediction", "truth"]
        assert all(re.match("data:image/(png|jpeg);base64,", source) for source in layers.values())
    assert page.source.count("<svg role=") == 1 + 2 + 1 + 2 + 2 + 2 + 2  # per domain all but the means and the search
    assert page.source.count('class="notes"') == 1  # that of <noscript> alone


def test_names_are_escaped_and_their_dollars_begin_no_formula(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    hostile = f"<b onclick='x'>\"{evil}&é雪$x^^y$"
    folder = write_results(
        tmp_path / "run",
        domains=["<img src=x> a$b$^^"],
        images=3,
        names="a'\"&é_{}<i>/b",
        class_names=[hostile, "sky", "car", "person", "rider"],
        method={"name": evil, "lr": 0.1},
        commit=evil,
    )
    (folder / "config.yaml").write_text(f"name: {evil}\n", encoding="utf-8")
    page = show(folder)
    assert page.source.count("<script>") == 1 and not re.search("<b |<img src|<i>/b", page.source)
    assert not page.lacks(evil, hostile)
    assert {name for _, name in page.cards} == {f"a'\"&é_{number}<i>/b" for number in range(3)}


def test_interrupted_run_says_how_far_it_came(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "run", images=4, expected=10)
    page = show(folder)
    assert not page.lacks("Incomplete: 8 of 20 images. Run the same command again to resume")
    assert page.table["near"][9] == "4 of 10"
    (folder / "results.json").unlink()  # as after a kill
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join(lines[:3]) + lines[3][:40], encoding="utf-8")
    page = show(folder)
    assert not page.lacks("Incomplete: 3 of 20 images", "the run has not ended", "Seg-TTT on near")
    assert "mean" not in page.table  # of one of two domains
    (folder / "records.rank1.jsonl").write_text(lines[5], encoding="utf-8")
    page = show(folder)
    assert not page.lacks("Incomplete: 4 of 20 images") and "mean" in page.table


PLAIN = {"method": None, "baseline": False}


@pytest.mark.parametrize(
    ("options", "files", "words"),
    [
        ({"baseline": False, "first": 0}, {}, ["(t-BN) was not scored", "no pictures"]),
        (PLAIN, {}, ["t-BN on near, far", "near: highest mean IoU"]),
        ({}, {"records.jsonl": ""}, ["records.jsonl is missing", "mean IoU, mean over domains", "gain over t-BN"]),
        ({}, {"run.json": "{"}, ["run.json is missing", "4 images", "near: gained most"]),
        (PLAIN, {"results.json": "{"}, ["on near, far"]),
        ({"images": 0, "expected": 3}, {}, ["Incomplete: 0 of 6 images", "Seg-TTT on no image yet"]),
        ({}, {"search.json": '{"parameters": '}, ["Seg-TTT on near, far"]),
        ({}, {"search.json": '{"parameters": ["psi"], "points": [{"miou": null}]}'}, ["Seg-TTT on near, far"]),
    ],
)
def test_report_says_what_is_missing(
    options: dict[str, Any], files: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    folder = write_results(tmp_path / "run", **{"images": 2, **options})
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    assert not show(folder).lacks(*words)


def test_a_results_json_that_was_copied_alone_gives_the_same_scores(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "run", images=2)
    whole = show(folder)
    (tmp_path / "copy").mkdir()
    shutil.copy(folder / "results.json", tmp_path / "copy")
    alone = show(tmp_path / "copy")
    assert [alone.table[name] for name in ("near", "far", "mean")] == [
        whole.table[name] for name in ("near", "far", "mean")
    ]
    assert alone.source.count("<svg role=") == 1 + 2 + 2  # mean IoU, classes, calibration
    assert not alone.lacks("Seg-TTT on near, far", "run.json is missing", "records.jsonl is missing", "4 images")
    assert "Fingerprints" not in alone.source
    summary = json.loads((folder / "results.json").read_text())
    for scores in summary["domains"].values():
        del scores["reliability"]  # which earlier revisions did not write
    (tmp_path / "copy" / "results.json").write_text(json.dumps(summary))
    assert show(tmp_path / "copy").table["mean"] == whole.table["mean"]


def test_a_run_whose_records_were_partly_lost_is_called_incomplete(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "run", images=2)
    assert "Incomplete" not in show(folder).source
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join(lines[:-1]), encoding="utf-8")
    assert "Incomplete: 3 of 4 images" in show(folder).source


def test_images_without_labels_have_no_scores(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "run", **{**PLAIN, "images": 2})
    records, zeros = read_records(folder / "records.jsonl"), Scores.zeros(len(CLASSES)).to_record()
    lines = [json.dumps(to_plain({**record, **zeros})) + "\n" for record in records[:2]]
    (folder / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    assert not show(folder).lacks("near – – – – – – – – 10.5 2 0 –")


def test_report_of_a_training(tmp_path: Path) -> None:
    curves = tmp_path / "metrics.csv"
    assert write_training_report(tmp_path) is None
    curves.write_text("epoch,step,test/miou\n0,0,31.5\n", encoding="utf-8")
    assert write_training_report(tmp_path) is None and not (tmp_path / "training.html").exists()
    curves.write_text("epoch,step,train/loss,val/miou\n0,0,2.5,\n0,4,,30\n1,9,,42.25\n1,9,1.25,\n2,14,,41\n")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"x")
    (tmp_path / "config.yaml").write_text("num_train: 8\n")
    assert report.main([str(tmp_path)]) == 0
    words = ["42.25 % best mean IoU (development), step 9", "41.00 % last", "1.250 last", "2 logged steps, to step 9"]
    assert not Page(tmp_path / "training.html").lacks(*words, "checkpoints/last.ckpt", "num_train: 8")


def test_several_folders_and_wrong_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_results(tmp_path / "good", images=1)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("x")
    version, curves, empty = (shutil.copytree(good, tmp_path / name) for name in ("version", "curves", "empty"))
    records = read_records(version / "records.jsonl")
    (version / "records.jsonl").write_text("".join(json.dumps({**r, "nll": None}) + "\n" for r in records))
    (curves / "metrics.csv").write_text("epoch,step,train/loss\n0,0,1.2e-\n")
    for name in ("records.jsonl", "results.json"):
        (empty / name).write_text("")
    wrong = {
        tmp_path / "nowhere": "nowhere is no folder: expected the folder of a test or validate run",
        other: "other contains notes.txt: expected",
        other / "notes.txt": "notes.txt is no folder: expected",
        version: "version contains files that cannot be read as those of a run",
        curves: "curves contains files that cannot be read",
    }
    assert report.main([str(path) for path in (empty, *wrong, good)]) == 1
    printed = capsys.readouterr()
    assert printed.out.split() == [str(folder / "report.html") for folder in (empty, good)]
    for words, error in zip(wrong.values(), printed.err.strip().splitlines(), strict=True):
        assert words in error
