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
    choose_width,
    draw_classes,
    draw_differences,
    draw_domains,
    draw_losses,
    draw_search,
    draw_times,
    draw_training,
)
from callbacks.report.page import encode_svg
from callbacks.report.run_data import read_run
from callbacks.report.write import write_report, write_training_report
from callbacks.run.records import read_records, to_plain
from experiments import report
from lightning_modules.metrics import Scores
from main import main
from tests.fake_results import CLASSES, make_search, write_results
from tests.tiny import arguments

# Figures from known values.


def test_histogram_of_differences_counts_images_and_says_how_many_got_worse() -> None:
    figure = draw_differences({"near": [-3.0, -1.0, 0.0, 2.0, 2.5, 8.5, 4.0, 6.0], "far": []})
    near, far = figure.axes
    assert near.get_title() == "near\n25 % of 8 images worse" and far.get_title() == "far\nno image"
    bars = {round(bar.get_x(), 6): bar.get_height() for group in near.containers for bar in group if bar.get_height()}
    assert bars == {-3.0: 1, -1.0: 1, 0.0: 1, 2.0: 2, 4.0: 1, 6.0: 1, 8.0: 1}
    assert list(near.lines[0].get_xdata()) == [0, 0]
    assert near.get_xlabel() == "mean IoU gained per image (points)" and near.get_ylabel() == "images"
    worse = [bar for bar in near.containers[0] if bar.get_height()]
    assert all(bar.get_x() + bar.get_width() <= 1e-9 for bar in worse) and len(worse) == 2


@pytest.mark.parametrize(("largest", "width"), [(9.0, 1.0), (0.3, 0.05), (100.0, 10.0), (0.0, 1e-7)])
def test_bins_have_round_widths(largest: float, width: float) -> None:
    assert choose_width(largest, 12) == pytest.approx(width)


def test_bars_of_domains_are_the_numbers_with_the_method_last() -> None:
    figure = draw_domains({"t-BN": {"near": 30.0, "far": 20.0}, "TTA": {"near": 35.5, "far": 31.25}})
    (axes,) = figure.axes
    first, second = axes.containers
    assert [bar.get_height() for bar in first] == [30.0, 20.0] and [bar.get_height() for bar in second] == [35.5, 31.25]
    assert {text.get_text() for text in axes.texts} == {"30.0", "20.0", "35.5", "31.2"}
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["near", "far"]
    assert second[0].get_facecolor() == to_rgba(METHOD) and axes.get_ylabel() == "mean IoU (%)"


def test_bars_of_classes_leave_out_absent_ones_and_show_their_colours() -> None:
    nan = math.nan
    series = {"t-BN": {"road": 90.0, "sky": nan, "car": 10.0}, "TTA": {"road": 91.0, "sky": nan, "car": 40.0}}
    figure = draw_classes({"near": series}, {"road": (128, 64, 128), "sky": (1, 2, 3), "car": (0, 0, 0)})
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["road", "car"]
    assert [[bar.get_width() for bar in group] for group in axes.containers] == [[90.0, 10.0], [91.0, 40.0]]
    bars = {id(bar) for group in axes.containers for bar in group}
    swatches = [patch.get_facecolor()[:3] for patch in axes.patches if id(patch) not in bars]
    assert np.allclose(swatches, [(128 / 255, 64 / 255, 128 / 255), (1 / 255,) * 3])
    (present,) = draw_classes({"near": {"TTA": {"sky": 0.0}}}).axes
    assert [tick.get_text() for tick in present.get_yticklabels()] == ["sky"]  # present, but never right


def test_times_and_losses_are_those_of_the_images() -> None:
    (axes,) = draw_times({"near": [10.0, 20.0, 60.0]}).axes
    assert axes.get_title() == "near\nmedian 20.0 ms" and axes.lines[0].get_xdata()[0] == 20
    assert sum(bar.get_height() for bar in axes.patches) == 3
    (axes,) = draw_losses({"near": [[1.0, 0.5, 0.2], [3.0, 0.7], []]}).axes
    assert list(axes.lines[0].get_xdata()) == [1, 2, 3]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([2.0, 0.6, 0.2])
    assert axes.get_title() == "near\n2 images"
    low, high = (axes.collections[0].get_paths()[0].get_extents().get_points()[place][1] for place in (0, 1))
    assert (low, high) == pytest.approx((0.2, 2.5))  # the quartiles of 1 and 3 are 1.5 and 2.5


def test_training_curves_mark_the_best_epoch() -> None:
    figure = draw_training({"train/loss": [(0, 2.0), (9, 1.0)], "val/miou": [(4, 30.0), (9, 42.0), (14, 41.0)]})
    loss, miou = figure.axes
    assert list(loss.lines[0].get_ydata()) == [2.0, 1.0] and loss.get_ylabel() == "training loss (nats)"
    assert (miou.lines[1].get_xdata()[0], miou.lines[1].get_ydata()[0]) == (9, 42.0)
    assert miou.get_xlabel() == "step"


def test_search_makes_a_curve_a_map_or_a_panel_per_parameter() -> None:
    (curve,) = draw_search(make_search("psi")).axes
    assert list(curve.lines[0].get_xdata()) == pytest.approx([0.0, 0.1, 0.2])
    assert list(curve.lines[0].get_ydata()) == [40.0, 41.0, 42.0] and "best: 0.2 (42.0 %)" in curve.get_title()
    grid = draw_search(make_search("psi", "num_steps")).axes[0]
    assert (grid.get_xlabel(), grid.get_ylabel()) == ("psi", "num_steps")
    shown = np.ma.getdata(grid.collections[0].get_array()).reshape(3, 3)
    assert shown.tolist() == [[40, 41, 42], [41, 42, 43], [42, 43, 44]]
    frame = next(patch for patch in grid.patches if not patch.get_fill())
    assert frame.get_xy() == (2.0, 2.0)
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
    for broken in ({"parameters": ["psi"], "points": []}, {"parameters": [], "points": search["points"]}):
        with pytest.raises(ValueError, match="expected one or more of each"):
            draw_search(broken)


# The page.

VOID = {"meta", "img", "input", "br", "link", "path", "use", "rect"}
LOADING = {"src", "href", "xlink:href", "srcset", "data", "poster", "action", "background"}


class Page(HTMLParser):
    """Reads a report: its text, its scripts' data, and everything that would be loaded."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.loads: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.pictures: dict[str, dict[str, str]] = {}
        self._open = ""
        self._id = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.append((tag, values))
        self.loads += [(tag, values[key]) for key in LOADING & values.keys()]
        self._open, self._id = tag, values.get("id", "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self._open == "script" and self._id.startswith("picture-"):
            self.pictures[self._id] = json.loads(data)
        elif self._open in ("td", "th") and self.rows:
            self.rows[-1][-1] += data
        if self._open not in ("script", "style"):
            self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def contains(self, text: str) -> bool:
        return text in " ".join(" ".join(self.text).split())


def find_row(page: Page, name: str) -> list[str]:
    (row,) = [row for row in page.rows if row[0] == name]
    return row


def check_self_contained(page: Page) -> None:
    assert all(value.startswith("#") for _, value in page.loads), page.loads
    assert not re.findall(r"https?://|url\((?!#|\"\$)|@import|fetch\(|XMLHttpRequest|import\(", page.source)
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed", "base")]
    assert "default-src 'none'" in page.source
    sources = [value for layers in page.pictures.values() for value in layers.values()]
    assert all(value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for value in sources)


def test_report_has_the_numbers_of_the_results_and_loads_nothing(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "run", selection={"file": "selection.yaml", "sha256": "ab12cd"})
    (folder / "search.json").write_text(json.dumps(make_search("psi")), encoding="utf-8")
    path = write_report(folder)
    assert path == folder / "report.html"
    page, summary = Page(path), json.loads((folder / "results.json").read_text(encoding="utf-8"))
    check_self_contained(page)
    table = {row[0]: row[1:] for row in page.rows}
    baselines, gains = {}, {}
    for name in ("near", "far"):
        scores = summary["domains"][name]
        records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        own = [record for record in records if record["domain"] == name]
        sums = sum((Scores.from_record(record["baseline"]) for record in own), Scores.zeros(len(CLASSES)))
        baselines[name] = 100 * sums.summarize()["miou"]
        gains[name] = scores["miou"] - baselines[name]
        lost = [
            Scores.from_record(r).summarize()["miou"] < Scores.from_record(r["baseline"]).summarize()["miou"]
            for r in own
        ]
        assert table[name] == [
            f"{scores['miou']:.2f}",
            f"{baselines[name]:.2f}",
            f"{gains[name]:+.2f}",
            f"{scores['accuracy']:.2f}",
            f"{scores['ece']:.2f}",
            f"{scores['classwise_ece']:.2f}",
            f"{scores['brier']:.4f}",
            f"{scores['nll']:.4f}",
            f"{scores['ms_per_image']:.1f}",
            "9",
            "0",
            f"{100 * sum(lost) / 9:.1f}",
        ]
    assert table["mean"][:3] == [
        f"{summary['mean']['miou']:.2f}",
        f"{sum(baselines.values()) / 2:.2f}",
        f"{sum(gains.values()) / 2:+.2f}",
    ]
    for text in (
        "Seg-TTT on near, far",
        "0123456789abcdef",
        "ab12cd",
        "32-true",
        "cpu, 1 threads",
        "outputs/best.ckpt",
    ):
        assert page.contains(text), text
    assert table["psi"] == ["0.7"] and table["selection.sha256"] == ["ab12cd"] and table["scales"] == ["0.5, 1.0"]
    for text in ("near: first images", "far: gained most", "near: gained least, or lost", "best: psi = 0.2"):
        assert page.contains(text), text
    data = read_run(folder)
    shown = {row.name for row in data.domains["far"].rows if data.pictures(row)}
    cards = [values for tag, values in page.tags if "data-pictures" in values]
    assert {card["data-name"] for card in cards} >= shown
    assert {card["data-pictures"] for card in cards} == set(page.pictures)  # each once, though some have two cards
    assert all(set(layers) == {"image", "truth", "baseline", "prediction"} for layers in page.pictures.values())
    assert page.source.count("<svg") == 1 + 2 + 1 + 2 + 2 + 2 + 2  # per domain all but the means and the search
    row = data.domains["near"].rank()[0][0]
    assert page.contains(f"mean IoU {row.baseline_miou:.1f} → {row.miou:.1f} % ({row.difference:+.1f})")
    assert not data.missing and not page.contains("Incomplete")


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    hostile = f"<b onclick='x'>\"{evil}&é雪"
    folder = write_results(
        tmp_path / "run",
        domains=["<img src=x>"],
        images=3,
        names="a'\"&é_{}<i>/b",
        class_names=[hostile, "sky", "car", "person", "rider"],
        method={"name": evil, "lr": 0.1},
        commit=evil,
    )
    (folder / "config.yaml").write_text(f"name: {evil}\n", encoding="utf-8")
    page = Page(write_report(folder))
    check_self_contained(page)
    assert page.source.count("<script>") == 1 and "alert(1)" in page.source  # ours; and as text
    assert {tag for tag, _ in page.tags} & {"b", "i"} <= {"b", "i"}
    assert [values for tag, values in page.tags if tag == "b" and "onclick" in values] == []
    assert not [values for tag, values in page.tags if tag == "img" and values.get("src")]
    assert page.contains(evil) and page.contains(hostile)
    assert {values["data-name"] for _, values in page.tags if "data-name" in values} == {
        f"a'\"&é_{number}<i>/b" for number in range(3)
    }


def test_dollars_in_names_begin_no_formula(tmp_path: Path) -> None:
    names = ["$x^^y$", "sky", "car", "person", "rider"]
    page = Page(write_report(write_results(tmp_path / "run", domains=["a$b$^^"], class_names=names, images=2)))
    assert page.contains("a$b$^^") and page.contains("$x^^y$")


def test_interrupted_run_says_how_far_it_came(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "run", images=4, expected=10)
    page = Page(write_report(folder))
    assert page.contains("Incomplete: 8 of 20 images. The same command again goes on from here")
    assert find_row(page, "near")[10] == "4 of 10"
    (folder / "results.json").unlink()  # as after a kill
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join(lines[:3]) + lines[3][:40], encoding="utf-8")
    page = Page(write_report(folder))
    assert page.contains("Incomplete: 3 of 20 images") and page.contains("the run has not ended")
    assert page.contains("Seg-TTT on near") and "mean" not in [row[0] for row in page.rows]  # of one of two domains
    (folder / "records.rank1.jsonl").write_text(lines[5], encoding="utf-8")
    page = Page(write_report(folder))
    assert page.contains("Incomplete: 4 of 20 images") and "mean" in [row[0] for row in page.rows]


def test_old_and_minimal_folders_get_a_report_that_says_what_is_missing(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "old", images=2, baseline=False, losses=False, first=0)
    page = Page(write_report(folder))
    for text in ("The unadapted network (t-BN) was not scored", "losses of single steps were not", "no pictures"):
        assert page.contains(text), text
    assert find_row(page, "near")[2:4] == ["–", "–"] and not page.pictures
    folder = write_results(tmp_path / "plain", images=2, method=None, baseline=False, manifest=False)
    page = Page(write_report(folder))
    assert page.contains("t-BN on near, far") and page.contains("near: highest mean IoU")
    assert page.contains("run.json is not there") and not page.contains("was not scored")
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(folder / "results.json", only)
    page = Page(write_report(only))
    assert page.contains("records.jsonl is not there") and find_row(page, "far")
    shutil.copy(folder / "records.jsonl", only / "records.jsonl")
    (only / "results.json").write_text("{", encoding="utf-8")
    assert Page(write_report(only)).contains("on near, far")
    shutil.copy(folder / "results.json", only)
    lines = (only / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (only / "records.jsonl").write_text("".join([*lines[:2], lines[2][:100]]), encoding="utf-8")
    assert Page(write_report(only)).contains("Incomplete: 2 of 4 images")  # by results.json


def test_nothing_scored_yet_and_nothing_labelled(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "empty", images=0, expected=3)
    page = Page(write_report(folder))
    assert page.contains("Seg-TTT on no image yet") and page.contains("Incomplete: 0 of 6 images")
    folder = write_results(tmp_path / "unlabelled", images=2, baseline=False)
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    zeros = Scores.zeros(len(CLASSES)).to_record()
    lines = [json.dumps(to_plain({**record, **zeros})) + "\n" for record in records]
    (folder / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    assert find_row(Page(write_report(folder)), "near")[1] == "–"


def test_search_without_a_point_is_left_out_with_a_note(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "run", domains=["near"], images=2)
    for content in ({"parameters": ["psi"], "points": []}, {"points": [1]}, {"parameters": ["psi"], "points": [{}]}):
        (folder / "search.json").write_text(json.dumps(content), encoding="utf-8")
        data = read_run(folder)
        assert data.search is None and "search.json holds no point with a mean IoU" in data.missing[0]
    assert Page(write_report(folder)).contains("search.json holds no point with a mean IoU")


def test_figures_in_a_page_take_the_colour_of_its_ink_and_name_nothing_outside() -> None:
    text = encode_svg(draw_domains({"a < b": {"near": 30.0}}))
    assert text.startswith("<svg role=") and "http" not in text and "#000000" not in text
    assert "currentColor" in text and "a &lt; b" not in text.split("<text")[0] and "viewBox" in text


# Real runs.


def test_report_of_a_real_run_and_of_its_training(tmp_path: Path) -> None:
    logger = [
        f"--trainer.logger={{class_path: pytorch_lightning.loggers.CSVLogger, init_args: {{save_dir: {tmp_path}}}}}"
    ]
    fit = arguments(
        tmp_path, "--results.report=true", "--trainer.max_epochs=1", "--trainer.log_every_n_steps=1", logger=True
    )
    cli = main(["fit", *fit, *logger])
    training = Path(cli.trainer.log_dir or "")
    path = write_training_report(training)
    assert path == training / "training.html"
    page = Page(path)
    check_self_contained(page)
    miou = float(cli.trainer.callback_metrics["val/miou"])
    assert page.contains(f"{miou:.2f} %") and page.contains("best mean IoU (development), step")
    assert page.contains("checkpoints/last.ckpt") and page.contains("num_train: 8")
    checkpoint = training / "checkpoints" / "last.ckpt"
    method = ["--method=SegTTT", "--method.num_steps=2", "--method.scales=[0.5]"]
    main(
        [
            "test",
            *arguments(tmp_path, f"--ckpt_path={checkpoint}", "--results.report=true", "--results.panels=1", *method),
        ]
    )
    folder = tmp_path / "results"
    summary = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert report.main([str(folder), str(training)]) == 0
    page = Page(folder / "report.html")
    check_self_contained(page)
    for name, scores in summary["domains"].items():
        row = find_row(page, name)
        assert row[1] == f"{scores['miou']:.2f}" and row[9] == f"{scores['ms_per_image']:.1f}" and row[10] == "3"
    assert page.contains("Seg-TTT on haze, dusk, dust") and page.contains(str(checkpoint))
    assert find_row(page, "num_steps") == ["num_steps", "2"]


def test_folder_without_a_training_has_no_training_report(tmp_path: Path) -> None:
    assert write_training_report(tmp_path) is None
    (tmp_path / "metrics.csv").write_text("epoch,step,test/miou\n0,0,31.5\n", encoding="utf-8")
    assert write_training_report(tmp_path) is None and not (tmp_path / "training.html").exists()


def test_several_folders_and_wrong_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [write_results(tmp_path / name, images=1) for name in ("one", "two")]
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("x")
    wrong = [tmp_path / "nowhere", other, other / "notes.txt"]
    assert report.main([str(path) for path in (good[0], *wrong, good[1])]) == 1
    printed = capsys.readouterr()
    assert printed.out.split() == [str(folder / "report.html") for folder in good]
    errors = printed.err.strip().splitlines()
    assert "nowhere does not exist: expected the folder of a test or validate run" in errors[0]
    assert "other holds notes.txt: expected" in errors[1] and "notes.txt is a file: expected" in errors[2]
    spoilt = [write_results(tmp_path / name, images=2) for name in ("version", "curves", "empty")]
    records = read_records(spoilt[0] / "records.jsonl")
    spoilt[0].joinpath("records.jsonl").write_text("".join(json.dumps({**r, "nll": None}) + "\n" for r in records))
    spoilt[1].joinpath("metrics.csv").write_text("epoch,step,train/loss\n0,0,1.2e-\n")
    for name in ("records.jsonl", "run.json", "results.json"):
        spoilt[2].joinpath(name).write_text("")
    assert report.main([str(path) for path in (*spoilt, good[1])]) == 1
    printed = capsys.readouterr()
    assert str(good[1] / "report.html") in printed.out
    assert "version holds files that cannot be read as those of a run" in printed.err and "curves holds" in printed.err


def test_rows_tell_what_each_image_gained(tmp_path: Path) -> None:
    data: Any = read_run(write_results(tmp_path / "run", images=7))
    for domain in data.domains.values():
        best, worst = domain.rank()
        ordered = sorted(domain.rows, key=lambda row: row.miou - row.baseline_miou)
        assert worst == ordered[:3] and best == ordered[::-1][:3]
        assert domain.gain == pytest.approx(domain.scores["miou"] - domain.baseline["miou"])
