"""The studies: what they choose and write, how far they trust, and a tiny run of each, which does nothing twice."""

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import callbacks
from callbacks import SegTTT
from callbacks.run.folder import MANIFEST
from experiments import beyond, comparison, generalization
from experiments.comparison import run_comparison
from experiments.demo import METHODS, average_runs, format_runs, run_demo
from experiments.generalization import run_generalization
from experiments.pages import escape_latex, format_markdown, insert_report, make_marks
from experiments.risk import TRUSTS, choose_trust, score_images
from experiments.scores import Column, compare_images, format_scores
from experiments.study import Study
from experiments.tradeoffs import CURVES, GRID, choose_preset, format_shares, measure_shares, resolve_factors
from experiments.worlds import WORLDS, list_training
from lightning_modules.metrics import Scores
from tests.tiny import EXPERIMENT, ROOT, when_written

TINY = ["--data.height=64", "--data.width=128", "--data.num_train=8", "--data.num_test=1"]
USUAL = {"alpha": 0.3, "lr": 0.1, "scales": [0.5]}


def make_row(miou: float, **more: Any) -> dict[str, Any]:
    return {"miou.haze": miou, "miou.dusk": miou + 2, "miou.mean": miou + 1, **more}


# What they choose from, and how.


def test_networks_and_trainings_have_configs() -> None:
    for contender in (comparison.BASE, comparison.DROPOUT, *comparison.OTHERS):
        assert (ROOT / "configs" / "model" / f"{contender.model}.yaml").is_file(), contender.name
    for world in WORLDS.values():
        words = [word for name in world.trainings for word in list_training(name) if word.startswith("--training=")]
        assert len(words) == len(set(world.trainings) - {"plain"})
        assert all(Path(file).is_file() for file in (world.config, *(word.partition("=")[2] for word in words)))


def test_unknown_networks_and_trainings_are_clear_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_comparison(["--folder", str(tmp_path), "--only", "VGG"])
    assert re.search("invalid choice: 'VGG' .choose from '?DeepLabv1", capsys.readouterr().err)
    with pytest.raises(ValueError, match=r"unknown trainings \['asg'\]: expected some of \['plain', 'photometric'"):
        run_generalization(["street_scenes", "--folder", str(tmp_path), "--only", "asg"])


def test_the_preset_is_the_most_accurate_that_is_good_and_fast_enough() -> None:
    tried = ((48.9, 1, 1.0), (49.2, 2, 1.0), (49.4, 2, 2.0), (50.0, 3, 1.0))
    rows = [{"miou": miou, "settings": {"num_steps": steps, "lr": lr}} for miou, steps, lr in tried]
    shares = {1: 0.2, 2: 0.3, 3: 0.4}
    assert choose_preset(rows, iabn=40, full=50, shares=shares) is rows[2]
    assert choose_preset(rows[:1], iabn=40, full=50, shares=shares) is None  # 89 % of the gain
    assert choose_preset(rows[3:], iabn=40, full=50, shares=shares) is None  # too slow


def test_factors_are_of_the_usual_rate_and_time() -> None:
    resolved = resolve_factors({"lr": 2.0, "time_budget_ms": 0.5}, USUAL, milliseconds=300)
    assert resolved == {"alpha": 0.3, "lr": 0.2, "scales": [0.5], "time_budget_ms": 150}
    for way in (*(way for ways in CURVES.values() for way in ways), *GRID):
        SegTTT(**resolve_factors(way, USUAL, 300))


def test_fewer_steps_take_a_smaller_share_of_the_time() -> None:
    shares = measure_shares((1, 5), (64, 64), "resnet10")
    assert 0 < shares[1] < shares[5] < 1.5
    assert format_shares({1: 0.2, 3: 0.391}) == "1 step takes 0.20, 3 steps take 0.39"


def test_nothing_is_chosen_where_it_is_scored() -> None:
    first = {"method": "A", "seed": 0, "miou.x": 90.0, "miou.y": 10.0, "miou.z": 30.0, "miou.mean": 43.3}
    second = {"method": "B", "seed": 0, "miou.x": 10.0, "miou.y": 20.0, "miou.z": 40.0, "miou.mean": 23.3}
    row = beyond.choose_elsewhere([first, second])
    assert row["chosen"] == {"x": "B", "y": "A", "z": "A"}  # by y + z, x + z, x + y
    assert [row[key] for key in ("miou.x", "miou.y", "miou.z")] == [10, 10, 30]
    assert row["miou.mean"] == pytest.approx(50 / 3)


@pytest.mark.parametrize(("preset", "row"), [("best", beyond.BEST), ("fast", beyond.FAST)])
def test_presets_say_what_the_study_measures(preset: str, row: str) -> None:
    name, settings = beyond.list_methods(WORLDS["street_scenes"], 0.1, "alpha.yaml")[row]
    content = yaml.safe_load((ROOT / "configs" / "method" / f"{preset}.yaml").read_text())
    assert content["class_path"] == f"callbacks.{name}"
    known = inspect.signature(getattr(callbacks, name)).parameters
    defaults = {key: parameter.default for key, parameter in known.items()}
    assert defaults | content["init_args"] == defaults | settings


# What they tabulate: means over seeds.


def test_tables_of_the_comparison_and_of_what_goes_beyond() -> None:
    means = {"network": "N", "ece": 5.0, "classwise_ece": 20.0, "brier": 0.4, "nll": 1.0, "ms_per_image": 7.4}
    rows = [make_row(38, method="A", **means), make_row(38, method="B", lower=12, **means)]
    lines = comparison.format_rows(rows).splitlines()
    assert lines[2] == "| N | A | 38.0 | 40.0 | 39.0 | 5.0 | 20.0 | 0.400 | 1.000 | 7 |  |"
    assert lines[3].endswith("| 7 | 12 % |")
    scores = ((47, {"over": 3, "worse": 1, "gain": 7}), (48, {"over": 3, "worse": 2, "gain": 8}))
    line = beyond.format_rows([make_row(miou, method="best", ece=5.0, **more) for miou, more in scores]).splitlines()[2]
    assert line == "| best | 47.5 ± 0.7 | 49.5 ± 0.7 | 48.5 ± 0.7 | +3.0 | 1.5 % | +7.5 | 5.0 |"


def test_table_of_trainings_is_beside_plain_training() -> None:
    rows = []
    for training, seed, miou in (("plain", 1, 30), ("plain", 2, 32), ("isw", 1, 33), ("isw", 2, 31)):
        own = {"alpha": 0.1 * seed, "development": 40.0, "seconds": 60 + miou}
        rows.append(make_row(miou, training=training, seed=seed, method="IaBN", **own))
    alone = rows[-1:]
    generalization.compare_with_plain(alone)
    assert "| isw | IaBN | 31.0 | 33.0 | 32.0 |  |" in generalization.format_rows(alone)  # nothing to compare with
    generalization.compare_with_plain(rows)
    lines = generalization.format_rows(rows).splitlines()
    assert lines[2] == "| plain | IaBN | 31.0 ± 1.4 | 33.0 ± 1.4 | 32.0 ± 1.4 | +0.0 | 0.15 | 40.0 ± 0.0 | 1.0 |"
    assert lines[3] == "| isw | IaBN | 32.0 ± 1.4 | 34.0 ± 1.4 | 33.0 ± 1.4 | +1.0 | 0.15 | 40.0 ± 0.0 | 1.0 |"


def test_table_of_the_demo() -> None:
    means = [{"miou": miou, "ece": 1.0, "ms_per_image": 2.0} for miou in (40.0, 44.0)]
    runs = [{"methods": {name: {"domains": {"haze": mean}, "mean": mean} for name in METHODS}} for mean in means]
    rows = average_runs(runs)
    assert rows[0]["miou"] == {"haze": 42.0, "mean": 42.0}
    assert rows[0]["miou_spread"]["haze"] == pytest.approx(2.828, abs=1e-3)
    assert "| t-BN | 42.0 ± 2.8 | 42.0 ± 2.8 | 1.0 | 2 |" in format_runs(runs)


# Tiny runs.


@pytest.mark.slow
def test_demo_writes_its_table_chart_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_demo(["--quick", "--folder", str(tmp_path / "demo")])
    report = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert [row["method"] for row in report["rows"]] == list(METHODS)
    for row in report["rows"]:
        assert list(row["miou"]) == ["haze", "dusk", "dust", "mean"]
        assert row["ms_per_image"] > 0 and 0 <= row["ece"] <= 100
    assert (tmp_path / "demo" / "miou.png").exists()
    for target in ("haze", "dusk", "dust"):
        assert Image.open(tmp_path / "demo" / f"{target}.png").size == (4 * 256 + 3 * 4, 128)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("study", "name", "args", "count"),
    [
        (comparison, "comparison", ["--only", "DeepLabv1, SN"], 3),
        (comparison, "comparison", ["--only", "DeepLabv1, dropout"], 6),
        (comparison, "comparison", ["--only", "DeepLabv1"], 28),
        (beyond, "beyond street_scenes", ["street_scenes"], 14),
        (generalization, "generalization street_scenes", ["street_scenes", "--only", "plain", "isw"], 6),
    ],
    ids=["without BatchNorm", "dropout", "all methods", "beyond", "generalization"],
)
def test_a_study_writes_its_page_and_does_nothing_twice(
    study: Any, name: str, args: list[str], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("\n".join(make_marks(name)))
    images = 2 if study is beyond else 1
    args = [*args, "--quick", "--folder", "out", "--page", "page.md", "--", *TINY, f"--data.num_val={images}"]

    def run() -> list[dict[str, Any]]:
        found = getattr(study, f"run_{name.split()[0]}")(args)
        return found["rows"] if study is comparison else found

    rows = run()
    assert len(rows) == count == len({(row.get("training"), row["method"]) for row in rows})
    assert all({"miou.haze", "miou.dusk", "miou.dust"} <= row.keys() and row["ms_per_image"] > 0 for row in rows)
    assert study.format_rows(rows) in page.read_text()
    if study is beyond:
        assert rows[-1]["method"] == beyond.TRUSTED and rows[-1]["risk"]["images"] == 2
        assert rows[0]["gain"] == rows[0]["worse"] == 0
        assert [row["over"] for row in rows if row["method"] == "Seg-TTT"] == [0]
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".jsonl", ".ckpt")]
    written = when_written(*(path for path in files if path.name not in ("report.json", MANIFEST)))
    assert json.loads(json.dumps(run())) == json.loads(json.dumps(rows))
    assert when_written(*written) == written


# How far an adaptation is trusted, on hand-made scores.


def make_scores(n: int, hurt: dict[float, int]) -> dict[float, list[float]]:
    """Of n images, so many are two points worse at each trust, the others three better."""
    return {0.0: [30.0] * n} | {trust: [28.0] * bad + [33.0] * (n - bad) for trust, bad in hurt.items()}


@pytest.mark.parametrize(
    ("n", "hurt", "most_hurt", "trust"),
    [
        (99, {0.5: 0, 0.8: 2, 1.0: 3}, 0.03, 0.8),
        (40, {0.5: 1, 1.0: 0}, 0.03, 0.0),  # what hurts at a smaller trust is not trusted at a larger one
        (40, {0.5: 1, 1.0: 0}, 0.05, 1.0),
        *((n, {1.0: hurt}, (hurt + 1) / (n + 1), 1.0) for n in (33, 66, 99, 132, 199, 232) for hurt in range(5)),
    ],
)
def test_the_largest_safe_trust_is_chosen(n: int, hurt: dict[float, int], most_hurt: float, trust: float) -> None:
    found = choose_trust(make_scores(n, hurt), most_hurt)
    assert found["trust"] == trust and found["images"] == n
    for tried, bad in hurt.items():
        figures = found["tried"][tried]
        assert figures["hurt"] == bad / n and figures["bound"] == pytest.approx((bad + 1) / (n + 1))
        assert figures["gain"] == pytest.approx((bad * -2 + (n - bad) * 3) / n)


def test_too_few_images_promise_nothing() -> None:
    for unlabelled in ([], [float("nan")]):
        scores = {trust: [*found, *unlabelled] for trust, found in make_scores(32, {1.0: 0}).items()}
        with pytest.raises(ValueError, match=r"has 32 labelled images: expected 33 or more to .* 3 %"):
            choose_trust(scores, 0.03)
    # A point worse is not hurt.
    assert choose_trust({0.0: [30.0] * 33, 1.0: [29.0] * 33}, 0.03)["trust"] == 1.0


def test_images_are_scored_at_every_point_over_the_classes_that_are_there() -> None:
    overlap = [[[1, 0, 3], [2, 0, 4]], [[0, 0, 4], [4, 0, 4]]]  # 2 points, intersections and unions of 3 classes
    (scores,) = score_images([{"search": {"overlap": overlap}}])
    assert scores == pytest.approx([100 * (1 / 2 + 3 / 4) / 2, 50.0])
    assert torch.tensor(score_images([{"search": {"overlap": [[[0], [0]]]}}])).isnan().all()


def test_a_refined_method_is_compared_with_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grids: list[Any] = []
    monkeypatch.setattr(Study, "choose", lambda self, *given: grids.append(given[-1]))
    scores = [50.0] * len(TRUSTS) + [60.0] * (len(TRUSTS) - 1) + [55.0]  # of refine 0 and 10, by trust
    record = {"domain": "x", "search": {"overlap": [[[score], [100.0]] for score in scores]}}
    place = tmp_path / "development" / "trust"
    place.mkdir(parents=True)
    (place / "records.jsonl").write_text("".join(json.dumps(record | {"name": str(n)}) + "\n" for n in range(40)))
    risk = Study(tmp_path, EXPERIMENT).choose_trust("SegTTT", {"refine": 10}, 0.1)
    assert grids == [{"refine": [0, 10], "trust": TRUSTS}]
    assert risk["trust"] == 1 and risk["tried"][1.0]["gain"] == pytest.approx(5)


# What programs write: tables, and pages whose measured part changes while all else stays.


def test_a_report_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    page, own = tmp_path / "new" / "page.md", "<!-- {0}: begin -->{1}<!-- {0}: end -->\n"
    insert_report(page, "first")  # makes the page
    page.write_text("above\n" + own.format("a", "\nold\n") + page.read_text())
    for report in ("second", "third"):
        insert_report(page, report, "a")
    assert page.read_text() == "above\n" + own.format("a", "\n\nthird\n") + own.format("measured", "\n\nfirst\n")
    page.write_text("mine")
    with pytest.raises(ValueError, match=r"page\.md does not have the lines <!-- measured: begin --> and"):
        insert_report(page, "report")
    assert page.read_text() == "mine"


def test_tables_are_aligned_and_escaped() -> None:
    table = format_markdown(["a", "b"], [["x", "1"]], numbers=range(1, 2))
    assert table == "| a | b |\n|---|---:|\n| x | 1 |"
    assert escape_latex("a_b & 5 % {x} — † −1") == r"a\_b \& 5 \% \{x\} --- $^{\dagger}$ $-$1"


def test_a_line_is_a_mean_over_seeds() -> None:
    rows = [{"method": "A", "miou": 40.0, "ece": None}, {"method": "B", "miou": 1.0}, {"method": "A", "miou": 42.0}]
    columns = [Column("mean", "miou", spread=True), Column("ECE", "ece", "{:.0f}")]
    assert format_scores(rows, ["method"], columns).splitlines()[2:] == ["| A | 41.0 ± 1.4 | - |", "| B | 1.0 |  |"]


def test_images_without_a_labelled_pixel_are_not_compared(tmp_path: Path) -> None:
    def write_records(name: str, *hits: int) -> Path:
        """Writes a record per image, of ten pixels of which so many are right; 0 is an image without labels."""
        records = []
        for number, right in enumerate(hits):
            one = torch.tensor([10 if right else 0])
            scores = replace(Scores.zeros(1), intersection=torch.tensor([right]), union=one, pixels=one)
            records.append(json.dumps({"domain": "x", "name": str(number), **scores.to_record()}))
        (tmp_path / name).write_text("".join(f"{record}\n" for record in records))
        return tmp_path / name

    found = compare_images(write_records("before", 5, 5, 0), write_records("after", 4, 9, 0))
    assert found.pop("gain") == pytest.approx(15) and found == {"lower": 50.0, "worse": 50.0, "better": 50.0}
    assert compare_images(*[write_records("none", 0, 0)] * 2) == {}
