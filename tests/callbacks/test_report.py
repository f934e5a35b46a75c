import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from callbacks.report.figures import (
    METHOD,
    draw_classes,
    draw_differences,
    draw_domains,
    draw_losses,
    draw_times,
    draw_training,
)
from callbacks.report.page import COLUMNS, write_report, write_training_report
from callbacks.report.run_data import read_run
from callbacks.report.search_figure import draw_search
from callbacks.run.records import read_records, to_plain
from experiments import report
from lightning_modules.metrics import Scores
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
    bars = {id(bar) for group in axes.containers for bar in group}
    swatches = [patch.get_facecolor()[:3] for patch in axes.patches if id(patch) not in bars]
    assert np.allclose(swatches, [(128 / 255, 64 / 255, 128 / 255), (1 / 255,) * 3])


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
    grid = draw_search(make_search("psi", "num_steps")).axes[0]
    assert (grid.get_xlabel(), grid.get_ylabel()) == ("psi", "num_steps")
    shown = np.ma.getdata(grid.collections[0].get_array()).reshape(3, 3)
    assert shown.tolist() == [[40, 41, 42], [41, 42, 43], [42, 43, 44]]
    panels = draw_search(make_search("psi", "num_steps", "lr")).axes
    assert [axes.get_xlabel() for axes in panels] == ["psi", "num_steps", "lr"]
    assert all(list(axes.lines[1].get_ydata()) == [44.0, 45.0, 46.0] for axes in panels)
    assert all(len(axes.lines[0].get_xdata()) == 27 for axes in panels)


def test_search_over_names_and_with_gaps() -> None:
    points = [{"values": {"trainable": value}, "miou": miou} for value, miou in ((None, 40.0), (["head"], 38.0))]
    (axes,) = draw_search({"parameters": ["trainable"], "points": points}).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["none", "head"]
    search = make_search("psi", "lr")
    search["points"][-1]["miou"] = None
    search["points"][-2]["miou"] = 42.5  # the other of the two second best
    assert "best: 0.1, 0.2 (43.0 %)" in draw_search(search).axes[0].get_title()


def test_sets_of_views_are_written_so_that_they_fit_an_axis() -> None:
    sets = [None, {"scales": [0.5, 1.0], "flip": False}, [{"scales": [1.25]}, {"scales": [0.5]}]]
    points = [{"values": {"views": one, "psi": psi, "lr": 0.1}, "miou": 40.0} for one in sets for psi in (0.5, 0.7)]
    names = ["none", "0.5 1", "1.25 flip +\n0.5 flip"]
    for parameters in (["views"], ["views", "psi"], ["views", "psi", "lr"]):
        axes = draw_search({"parameters": parameters, "points": points}).axes[0]
        assert [tick.get_text() for tick in axes.get_xticklabels()] == names
    sets[1]["autocontrast"] = True
    figure = draw_search({"parameters": ["views"], "points": points})
    assert figure.axes[0].get_xticklabels()[1].get_text() == "0.5 1\nautocontrast"
    figure.draw_without_rendering()
    assert figure.axes[0].xaxis.label.get_window_extent().y0 > 0  # within the figure


# The page.

LOADING = {"src", "href", "xlink:href", "srcset", "data", "poster", "action", "background"}


class Page(HTMLParser):
    """A report that loads nothing: its text, the lines of its tables by their first cell, and the data of scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.text = ""
        self.lines: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.pictures: dict[str, dict[str, str]] = {}
        self._open, self._id = "", ""
        self.feed(self.source)
        self.text = " ".join(self.text.split())
        self.table = {line[0]: line[1:] for line in self.lines}
        loads = [values[key] for _, values in self.tags for key in LOADING & values.keys()]
        assert all(value.startswith("#") for value in loads), loads
        assert not re.findall(r"https?://|url\((?!#|\"\$)|@import|fetch\(|XMLHttpRequest|import\(", self.source)
        assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in self.tags}
        assert "default-src 'none'" in self.source
        sources = [value for layers in self.pictures.values() for value in layers.values()]
        assert all(value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for value in sources)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.append((tag, values))
        self._open, self._id = tag, values.get("id", "")
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_data(self, data: str) -> None:
        if self._open == "script" and self._id.startswith("picture-"):
            self.pictures[self._id] = json.loads(data)
        elif self._open in ("td", "th"):
            self.lines[-1][-1] += data
        if self._open not in ("script", "style"):
            self.text += f" {data}"

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


def show(folder: Path) -> Page:
    return Page(write_report(folder))


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
    known = ["Seg-TTT on near, far", "0123456789abcdef", "32-true", "cpu, 1 threads", "outputs/best.ckpt"]
    known += ["near: first images", "far: gained most", "near: gained least, or lost", "best: psi = 0.2"]
    row = data.domains["near"].rank()[0][0]
    known.append(f"mean IoU {row.baseline_miou:.1f} → {row.miou:.1f} % ({row.gain:+.1f})")
    assert [text for text in known if text not in page.text] == []
    assert page.table["psi"] == ["0.7"] and page.table["selection.sha256"] == ["ab12cd"]
    assert page.table["scales"] == ["0.5, 1.0"]
    cards = [values for _, values in page.tags if "data-pictures" in values]
    assert {card["data-name"] for card in cards} == {row.name for row in data.rows if data.pictures(row)}
    assert {card["data-pictures"] for card in cards} == set(page.pictures)  # each once, though some have two cards
    assert all(set(layers) == {"image", "truth", "baseline", "prediction"} for layers in page.pictures.values())
    assert page.source.count("<svg role=") == 1 + 2 + 1 + 2 + 2 + 2 + 2  # per domain all but the means and the search
    assert not [values for _, values in page.tags if values.get("class") == "notes"][1:]  # that of <noscript> alone


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
    assert page.source.count("<script>") == 1 and "alert(1)" in page.source  # ours; and as text
    assert not [values for tag, values in page.tags if "onclick" in values or (tag == "img" and values.get("src"))]
    assert evil in page.text and hostile in page.text
    names = {values["data-name"] for _, values in page.tags if "data-name" in values}
    assert names == {f"a'\"&é_{number}<i>/b" for number in range(3)}


def test_interrupted_run_says_how_far_it_came(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "run", images=4, expected=10)
    page = show(folder)
    assert "Incomplete: 8 of 20 images. Run the same command again to resume" in page.text
    assert page.table["near"][9] == "4 of 10"
    (folder / "results.json").unlink()  # as after a kill
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join(lines[:3]) + lines[3][:40], encoding="utf-8")
    page = show(folder)
    assert "Incomplete: 3 of 20 images" in page.text and "the run has not ended" in page.text
    assert "Seg-TTT on near" in page.text and "mean" not in page.table  # of one of two domains
    (folder / "records.rank1.jsonl").write_text(lines[5], encoding="utf-8")
    page = show(folder)
    assert "Incomplete: 4 of 20 images" in page.text and "mean" in page.table


PLAIN = {"method": None, "baseline": False, "manifest": False}
NO_POINT = "search.json has no point with a mean IoU"


@pytest.mark.parametrize(
    ("options", "files", "words"),
    [
        ({"baseline": False, "losses": False, "first": 0}, {}, ["(t-BN) was not scored", "losses of", "no pictures"]),
        (PLAIN, {}, ["run.json is missing", "t-BN on near, far", "near: highest mean IoU"]),
        (PLAIN, {"records.jsonl": ""}, ["records.jsonl is missing"]),
        (PLAIN, {"results.json": "{"}, ["on near, far"]),
        ({"images": 0, "expected": 3}, {}, ["Incomplete: 0 of 6 images", "Seg-TTT on no image yet"]),
        ({}, {"search.json": '{"parameters": ["psi"], "points": [{}]}'}, [NO_POINT]),
        ({}, {"search.json": '{"parameters": ["psi"], "points": []}'}, [NO_POINT]),
        ({}, {"search.json": '{"parameters": '}, [NO_POINT]),
    ],
)
def test_report_says_what_is_missing(
    options: dict[str, Any], files: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    folder = write_results(tmp_path / "run", **{"images": 2, **options})
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    page = show(folder).text
    assert [word for word in words if word not in page] == []


def test_records_that_are_cut_off_do_not_count_and_unlabelled_ones_have_no_scores(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "run", **{**PLAIN, "images": 2})
    records, zeros = read_records(folder / "records.jsonl"), Scores.zeros(len(CLASSES)).to_record()
    lines = [json.dumps(to_plain({**record, **zeros})) + "\n" for record in records[:3]]
    (folder / "records.jsonl").write_text("".join([*lines[:2], lines[2][:100]]), encoding="utf-8")
    page = show(folder).text
    assert "Incomplete: 2 of 4 images" in page  # by results.json
    assert "near – – – – – – – – 10.5 2 0 –" in page


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
    page = Page(tmp_path / "training.html")
    words = ["42.25 % best mean IoU (development), step 9", "41.00 % last", "1.250 last", "2 logged steps, to step 9"]
    words += ["checkpoints/last.ckpt", "num_train: 8"]
    assert [text for text in words if text not in page.text] == []


def test_several_folders_and_wrong_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [write_results(tmp_path / name, images=1) for name in ("one", "two")]
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("x")
    version, curves, empty = (shutil.copytree(good[0], tmp_path / name) for name in ("version", "curves", "empty"))
    records = read_records(version / "records.jsonl")
    (version / "records.jsonl").write_text("".join(json.dumps({**r, "nll": None}) + "\n" for r in records))
    (curves / "metrics.csv").write_text("epoch,step,train/loss\n0,0,1.2e-\n")
    for name in ("records.jsonl", "run.json", "results.json"):
        (empty / name).write_text("")
    wrong = [tmp_path / "nowhere", other, other / "notes.txt", version, curves]
    assert report.main([str(path) for path in (good[0], *wrong, empty, good[1])]) == 1
    printed = capsys.readouterr()
    assert printed.out.split() == [str(folder / "report.html") for folder in (good[0], empty, good[1])]
    expected = [
        "nowhere does not exist: expected the folder of a test or validate run",
        "other contains notes.txt: expected",
        "notes.txt is a file: expected",
        "version contains files that cannot be read as those of a run",
        "curves contains files that cannot be read",
    ]
    for words, error in zip(expected, printed.err.strip().splitlines(), strict=True):
        assert words in error


def test_rows_tell_what_each_image_gained(tmp_path: Path) -> None:
    for domain in read_run(write_results(tmp_path / "run", images=7)).domains.values():
        ordered = sorted(domain.rows, key=lambda row: row.miou - (row.baseline_miou or 0))
        assert domain.rank() == (ordered[::-1][:3], ordered[:3])
