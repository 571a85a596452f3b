"""Evaluation: figures are those of textbooks, intervals are of patients, and no labelled ECG is lost without a word."""

import json
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rich.console import Console
from scipy import optimize, stats
from typer.testing import CliRunner, Result

from ecgbatch import bundle, cli, parts, score, synth
from ecgbatch.bundle import Bundle
from ecgbatch.errors import OutputError, UsageError
from ecgbatch.train import evaluation, evaluation_card, labels, metrics, reliability, scored
from ecgbatch.train.calibrate import Rule
from ecgbatch.train.cells import Cells, logits
from ecgbatch.train.scored import Scored


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def simulated(n: int, *, n_values: int | None = None, shift: float = -1.0) -> tuple[np.ndarray, np.ndarray]:
    """Truths and honest float32 probabilities, (record,)."""
    rng = np.random.default_rng(11)
    z = rng.normal(size=n) * 1.5 + shift
    if n_values:
        z = np.round(z / z.std() * n_values / 6) / n_values * 6
    p = 1 / (1 + np.exp(-z))
    return (rng.random(n) < p).astype(np.float32), p.astype(np.float32)


def gathered(truth: np.ndarray, probability: np.ndarray, **others: Any) -> Scored:
    """One label, or several, as if joined from a run."""
    truth, probability = np.atleast_2d(truth.T).T, np.atleast_2d(probability.T).T
    n, n_labels = truth.shape
    columns = {
        "patients": np.arange(n).astype(str),
        "groups": pl.DataFrame({"row": np.arange(n)}),
        "facts": {},
        "model": {"name": "m"},
        "labels": tuple({"code": f"L{at}", "name": f"label {at}", "threshold": 0.3} for at in range(n_labels)),
    }
    return Scored(probability=probability, is_positive=truth, **{**columns, **others})


@pytest.fixture(params=[None, 12], ids=["few-ties", "many-ties"])
def known(request) -> tuple[np.ndarray, np.ndarray]:
    return simulated(400, n_values=request.param)


def test_the_auc_is_the_one_of_mann_whitney(known):
    truth, p = known
    pairs = int(truth.sum()) * int((1 - truth).sum())

    assert Cells.of(truth, p).auc()[0] == pytest.approx(
        stats.mannwhitneyu(p[truth == 1].astype(float), p[truth == 0].astype(float)).statistic / pairs, abs=1e-12
    )


def test_sensitivity_and_specificity_are_shares_of_those_called(known):
    truth, p = known
    threshold = float(np.sort(p)[200])  # a score itself: it is called
    cells = Cells.of(truth, p)

    assert cells.sensitivity(threshold)[0] == pytest.approx((p[truth == 1] >= threshold).mean())
    assert cells.specificity(threshold)[0] == pytest.approx((p[truth == 0] < threshold).mean())


@pytest.mark.parametrize("specificity", [0.5, 0.9, 0.95, 0.999])
def test_the_sensitivity_at_a_specificity_is_that_of_the_best_threshold(known, specificity):
    truth, p = known
    allowed = [t for t in [*np.unique(p), 2.0] if (p[truth == 0] < t).mean() >= specificity]

    assert Cells.of(truth, p).sensitivity_at(specificity)[0] == pytest.approx(
        max((p[truth == 1] >= t).mean() for t in allowed)
    )


def test_the_brier_score_and_its_skill_are_those_of_squared_errors(known):
    truth, p = known
    brier = np.mean((p.astype(np.float64) - truth) ** 2)

    assert Cells.of(truth, p).brier()[0] == pytest.approx(brier)
    assert Cells.of(truth, p).brier_skill()[0] == pytest.approx(1 - brier / np.var(truth))


def test_calibration_is_that_of_a_logistic_regression(known):
    truth, p = known
    z = np.log(p.astype(np.float64) / (1 - p))

    def cost(parameters: np.ndarray) -> float:
        slope, level = parameters
        return float(np.sum(np.logaddexp(0, slope * z + level) - truth * (slope * z + level)))

    slope = optimize.minimize(cost, [1, 0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}).x[0]
    level = optimize.minimize_scalar(lambda level: cost(np.array([1, level])), bracket=(-1, 1)).x
    cells = Cells.of(truth, p)

    assert cells.calibration_slope()[0] == pytest.approx(slope, abs=1e-4)
    assert cells.calibration_intercept()[0] == pytest.approx(level, abs=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_score_that_parts_the_classes_has_the_steepest_slope_there_is(sign):
    p = np.array([0.001, 0.002, 0.01, 0.02, 0.03, 0.2, 0.31, 0.97], np.float32)
    truth = (sign * np.arange(8) > sign * 4.5).astype(np.float32)

    assert Cells.of(truth, p).calibration_slope()[0] == 20 * sign


def test_a_score_that_says_the_same_of_all_has_no_slope():
    assert np.isnan(Cells.of(np.arange(9) % 2, np.full(9, 0.3, np.float32)).calibration_slope()[0])


@pytest.mark.parametrize("seed", range(3))
def test_the_slope_of_classes_that_are_nearly_parted_is_the_likeliest_too(seed):
    rng = np.random.default_rng(seed)
    truth = np.repeat([1.0, 0.0], [6, 90]).astype(np.float32)
    z = np.append(rng.normal(0, 3, 6), rng.normal(-7, 1.5, 90))
    z[0] = np.sort(z[6:])[-2] + 1e-3  # one positive below one negative
    p = (1 / (1 + np.exp(-z))).astype(np.float32)
    x = logits(p)

    def cost(slope: float) -> float:
        least = optimize.minimize_scalar(
            lambda level: np.sum(np.logaddexp(0, slope * x + level) - truth * (slope * x + level))
        )
        return float(least.fun)

    slopes = np.linspace(-20, 20, 401)
    best = slopes[np.argmin([cost(slope) for slope in slopes])]

    assert Cells.of(truth, p).calibration_slope()[0] == pytest.approx(best, abs=0.1)
    assert Cells.drawn(truth, p, np.ones((3, 96), np.uint8)).calibration_slope() == pytest.approx(best, abs=0.1)


def test_the_calibration_error_is_of_ten_bins_of_equal_numbers():
    truth, p = simulated(400)
    bins = np.split(np.argsort(p), 10)
    expected = np.mean([abs(truth[at].mean(dtype=float) - p[at].mean(dtype=float)) for at in bins])

    assert Cells.of(truth, p).calibration_error()[0] == pytest.approx(expected, abs=1e-9)


def test_figures_of_one_class_alone_are_not_numbers():
    cells = Cells.of(np.zeros(50), np.linspace(0.1, 0.9, 50))

    assert all(np.isnan(figure(cells, 0.5)[0]) for name, figure in evaluation.FIGURES.items() if "auc" in name)
    assert np.isnan(cells.calibration_slope()[0])
    assert np.isnan(cells.brier_skill()[0])


@pytest.mark.parametrize("name", [name for name in evaluation.FIGURES if name != "calibration_error"])
def test_every_figure_of_a_draw_is_that_of_the_records_drawn(name):
    truth, p = simulated(120)
    weight = metrics.resamples(np.arange(120) // 2, n_draws=4, seed=3)
    figure = evaluation.FIGURES[name]

    got = figure(Cells.drawn(truth, p, weight, edge=0.3), 0.3)

    for draw, counts in enumerate(weight):
        at = np.repeat(np.arange(120), counts)
        assert got[draw] == pytest.approx(figure(Cells.of(truth[at], p[at]), 0.3)[0], abs=1e-4)


@pytest.mark.parametrize("name", list(evaluation.FIGURES))
def test_cells_of_many_records_change_no_figure_that_matters(name):
    truth, p = simulated(20_000, shift=-4)
    figure = evaluation.FIGURES[name]

    weight = metrics.resamples(np.arange(20_000), n_draws=200, seed=0)
    weight[0] = 1
    draws = figure(Cells.drawn(truth, p, weight, edge=0.3), 0.3)
    low, high = metrics.interval(draws)

    assert abs(draws[0] - figure(Cells.of(truth, p), 0.3)[0]) < 0.1 * (high - low)


def test_intervals_are_of_patients_so_that_copies_of_a_record_tell_nothing_new():
    truth, p = simulated(100)
    once = evaluation.measure(gathered(truth, p))
    copies = evaluation.measure(
        gathered(np.repeat(truth, 5), np.repeat(p, 5), patients=np.repeat(np.arange(100).astype(str), 5))
    )

    for end in ("auc_low", "auc_high", "brier_low", "sensitivity_high", "calibration_slope_low"):
        assert copies.figures[end][0] == pytest.approx(once.figures[end][0], abs=1e-6)


def test_a_share_of_few_patients_has_an_interval_that_is_no_point():
    p = np.append(np.linspace(0.6, 0.9, 6), np.linspace(0.01, 0.2, 60)).astype(np.float32)
    truth = np.repeat([1, 0], [6, 60]).astype(np.float32)
    patients = np.append(["a", "a", "b", "b", "c", "c"], np.arange(60).astype(str))  # three positive patients

    row = evaluation.measure(gathered(truth, p, patients=patients)).figures.row(0, named=True)

    for name, n in (("sensitivity", 3), ("sensitivity_at_specificity_0.95", 3), ("specificity", 60)):
        assert (row[name], row[f"{name}_high"]) == (1, 1)
        assert row[f"{name}_low"] == pytest.approx(stats.binomtest(n, n).proportion_ci(method="wilson").low)


def test_an_interval_of_a_share_holds_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(200):
        called = rng.random(10) < 0.9
        draws = rng.binomial(10, called.mean(), 400) / 10
        low, high = metrics.share_interval(draws, float(called.mean()), 10)
        held.append(low <= 0.9 <= high)

    assert np.mean(held) > 0.9  # of the draws alone, two in three


def test_records_of_their_own_would_seem_surer():
    truth, p = simulated(100)
    copies = gathered(np.repeat(truth, 5), np.repeat(p, 5))

    row = evaluation.measure(copies).figures.row(0, named=True)
    once = evaluation.measure(gathered(truth, p)).figures.row(0, named=True)

    assert row["auc_high"] - row["auc_low"] < 0.6 * (once["auc_high"] - once["auc_low"])


def test_the_slope_of_honest_probabilities_has_one_in_its_interval():
    truth, p = simulated(3000)

    row = evaluation.measure(gathered(truth, p)).figures.row(0, named=True)

    assert row["calibration_slope_low"] < 1 < row["calibration_slope_high"]
    assert row["calibration_intercept_low"] < 0 < row["calibration_intercept_high"]


def test_a_label_of_two_positives_is_counted_and_not_judged():
    truth, p = simulated(60)
    few = np.zeros(60, np.float32)
    few[:2] = 1

    figures = evaluation.measure(gathered(np.stack([truth, few], 1), np.stack([p, p], 1))).figures

    assert figures["n_positive"].to_list() == [int(truth.sum()), 2, None]
    assert np.isnan(figures["auc"][1])
    assert figures["auc"][2] == pytest.approx(figures["auc"][0])


def test_labels_of_few_positives_are_told_of():
    truth, p = simulated(300)
    few = np.zeros(300, np.float32)
    few[:5] = 1

    facts = evaluation.measure(gathered(np.stack([truth, few], 1), np.stack([p, p], 1)), by=["row"]).facts

    assert facts["labels_of_few"] == ["L1"]


def test_an_unknown_label_is_left_out_of_its_own_figures_only():
    truth, p = simulated(80)
    both = np.stack([truth, truth], 1)
    both[:30, 1] = np.nan

    figures = evaluation.measure(gathered(both, np.stack([p, p], 1))).figures

    assert figures["n"].to_list()[:2] == [80, 50]
    assert figures["auc"][1] == pytest.approx(metrics.auc(truth[30:], p[30:]))


def test_the_groups_of_a_column_hold_every_record_once_in_their_order():
    truth, p = simulated(90)
    ages = pl.DataFrame({"age": [*np.linspace(20, 90, 88), None, float("nan")], "sex": ["f", "m", "x"] * 30})

    figures = evaluation.measure(gathered(truth, p, groups=ages), by=["age", "sex"]).figures
    of_age = figures.filter(group="age", label="L0")

    assert of_age["level"].to_list() == ["< 40", "40 to < 60", "60 to < 80", "≥ 80", "unknown"]
    assert of_age["n"].sum() == 90
    assert figures.filter(group="sex", label="L0")["n"].to_list() == [30, 30, 30]
    female = (ages["sex"] == "f").to_numpy()
    assert figures.filter(level="f", label="L0")["auc"][0] == pytest.approx(metrics.auc(truth[female], p[female]))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series("fs_hz", [250.0, 1000.0, 500.0]), ["250", "500", "1000"]),
        (pl.Series("w", np.arange(100.0)), ["< 25", "25 to < 50", "50 to < 74", "≥ 74"]),
        (pl.Series("b", [True, False, None]), ["false", "true", "unknown"]),
        (pl.Series("d", [*"aab", *map(str, range(20))]), [*map(str, range(20)), "a", "b"]),
    ],
    ids=["rates", "numbers", "truths", "words"],
)
def test_levels_have_names_and_an_order(column, expected):
    found = evaluation.levels(column).unique().sort().cast(pl.String).to_list()

    if column.name == "d":
        assert len(found) == 12
        assert {"a", "other"} <= set(found)
    else:
        assert found == [name for name in expected if name in found] == expected


def test_a_rule_of_sensitivity_gives_the_highest_threshold_that_has_it(known):
    truth, p = known
    threshold = Rule.parsed("sensitivity:0.9").threshold(truth, p)

    assert (p[truth == 1] >= threshold).mean() >= 0.9
    assert (p[truth == 1] >= np.min(p[p > threshold])).mean() >= 0.9
    assert (p[truth == 1] > np.min(p[p > threshold])).mean() < 0.9


def test_a_rule_of_specificity_gives_the_lowest_threshold_that_has_it(known):
    truth, p = known
    threshold = Rule.parsed("specificity:0.95").threshold(truth, p)

    assert (p[truth == 0] < threshold).mean() >= 0.95
    assert (p[truth == 0] < np.max(p[p < threshold])).mean() < 0.95


def test_a_rule_of_specificity_is_met_by_exactly_its_share():
    p = np.append(np.arange(100), 99.5).astype(np.float32) / 100
    truth = np.append(np.zeros(100), 1).astype(np.float32)

    for percent in range(1, 100):
        threshold = Rule.parsed(f"specificity:{percent / 100}").threshold(truth, p)
        assert (p[truth == 0] < threshold).sum() == percent


@pytest.mark.parametrize("text", ["", "youden:0.5", "sensitivity", "sensitivity:1.5", "specificity:x", "best"])
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(UsageError, match="expected 'youden', 'sensitivity:SHARE' or"):
        Rule.parsed(text)


def test_logits_of_saturated_scores_are_finite_and_in_order():
    p = np.array([0, 1e-45, 1e-30, 0.5, 1 - 2**-24, 1], np.float32)

    assert np.isfinite(logits(p)).all()
    assert (np.diff(logits(p)) > 0).all()


def test_the_plot_is_valid_and_has_a_panel_a_judged_label():
    from xml.etree import ElementTree

    truth, p = simulated(200)
    none = np.zeros(200, np.float32)
    drawn = reliability.panels(["A<B", "none"], np.stack([truth, none], 1), np.stack([p, p], 1))
    tree = ElementTree.fromstring(reliability.svg(drawn))

    assert len(tree.findall(".//{*}circle")) == 10
    assert str(next(tree.iterfind(".//{*}text")).text).startswith("A<B · ")


@pytest.mark.parametrize(("n", "share"), [(20, 0.0), (20, 0.25), (1000, 0.99)])
def test_the_intervals_of_the_plot_are_wilsons(n, share):
    expected = stats.binomtest(round(n * share), n).proportion_ci(method="wilson")

    assert_allclose(metrics.wilson(np.array([n]), np.array([share])), np.array([[expected.low], [expected.high]]))


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 ECGs, some of them damaged, and of copies of three, set aside as duplicates."""
    folder = tmp_path_factory.mktemp("evaluate")
    archive = folder / "archive"
    synth.write_archive(archive, 60, damaged=0.15, formats=["muse-xml"])
    score.run([archive], folder / "first", [tiny_bundle], score.Options())
    scores = pl.read_parquet(folder / "first" / "scores" / "*.parquet")
    for at, path in enumerate(scores["source_path"][:3]):
        shutil.copy(path, archive / f"z{at}.xml")
    score.run([archive], folder / "run", [tiny_bundle], score.Options(shard_size=20, deduplicate=True))
    return folder / "run"


def rows_of(run: Path, kind: str) -> pl.DataFrame:
    return pl.read_parquet(run / kind / "*.parquet")


def table_of(run: Path, path: Path, *, but: int = 0, **columns: Any) -> Path:
    """A table with labels of everything in the run `but` so many scores, and of two ECGs that are not in it."""
    ids = [*rows_of(run, "scores")["record_id"][but:]]
    for kind in ("duplicates", "rejects"):
        ids += rows_of(run, kind)["record_id"].to_list()
    ids += ["not/there.xml", "nor/this.xml"]
    truth = np.random.default_rng(5).integers(0, 2, (len(ids), 2))
    frame = {"record_id": ids, "patient_id": [f"p{at // 2}" for at in range(len(ids))]}
    frame |= {"AFIB": truth[:, 0], "PVC": truth[:, 1], "EXTRA": truth[:, 0], **columns}
    pl.DataFrame(frame).write_csv(path)
    return path


def test_every_labelled_ecg_is_scored_rejected_duplicate_or_absent(run, tmp_path):
    facts = scored.read(run, table_of(run, tmp_path / "labels.csv", but=4)).facts

    assert facts["n_rejected"] == rows_of(run, "rejects").height > 0
    assert facts["n_duplicate"] == 3
    assert facts["n_absent"] == 2
    assert facts["n_scored"] == rows_of(run, "scores").height - 4
    assert facts["n_labelled"] == sum(facts[f"n_{name}"] for name in ("scored", "rejected", "duplicate", "absent"))
    assert sum(facts["rejects"].values()) == facts["n_rejected"]
    assert facts["labels_without_scores"] == ["EXTRA"]
    assert set(facts["scores_without_labels"]) == {"NORM", "LBBB", "STE"}


def test_a_run_in_a_folder_whose_name_looks_like_a_pattern_is_read_itself(run, tiny_bundle, tmp_path):
    """`run[1]` would match a folder `run1`, were it taken for one."""
    plain, bracketed = tmp_path / "run1", tmp_path / "run[1]"
    shutil.copytree(run, plain)
    synth.write_archive(tmp_path / "in", 9, seed=8, formats=["muse-xml"])
    first = min((tmp_path / "in").rglob("*.xml"))
    shutil.copy(first, tmp_path / "in" / "again.xml")  # listed before it, so it is the one that stays
    score.run([tmp_path / "in"], bracketed, [tiny_bundle], score.Options(deduplicate=True))
    table = tmp_path / "labels[1].csv"
    table.write_text("record_id,patient_id,AFIB\nagain.xml,p,1\n")
    (tmp_path / "labels1.csv").write_text("record_id,patient_id,AFIB\nnone,p,0\n")

    assert parts.counts(bracketed)["scored"] == 9
    assert parts.counts(bracketed)["duplicate"] == 1
    assert scored.read(bracketed, table).facts["n_absent"] == 0
    assert parts.counts(plain) == parts.counts(run)


def test_listed_statements_gain_the_superclasses_that_the_model_has():
    listed = labels.Labels(
        record_ids=("a", "b", "c"),
        patients=np.array(["p", "q", "r"]),
        n_without_patient=0,
        codes=("IMI", "AMI", "LVH", "SEHYP"),
        is_positive=np.array([[0, 1, 0, 0], [0, 0, 1, 0], [np.nan] * 4], np.float32),
        groups=pl.DataFrame({"row": [0, 1, 2]}),
        folder="/",
        sha256="",
        is_listed=True,
    )

    known = scored._with_superclasses(listed, ["AMI", "MI"])

    assert known.codes == (*listed.codes, "MI")
    assert_array_equal(known.is_positive[:, -1], [1, 0, np.nan])


def test_scores_are_joined_to_their_own_labels(run, tmp_path):
    table = table_of(run, tmp_path / "labels.csv")
    found = scored.read(run, table)
    truth = pl.read_csv(table)
    rows = rows_of(run, "scores").join(truth, on="record_id", maintain_order="left")
    copied = rows_of(run, "duplicates")["duplicate_of"].to_list()
    own = ~rows["record_id"].is_in(copied).to_numpy()

    assert found.codes == ["AFIB", "PVC"]
    assert_allclose(found.probability[own, 0], rows["tiny/AFIB"].to_numpy()[own])
    assert_allclose(found.is_positive[own, 1], rows["PVC"].to_numpy()[own])


@pytest.mark.parametrize(
    ("kept", "copy", "merged"),
    [("1", "1", 1), ("0", "", 0), ("", "1", 1), ("1", "0", np.nan)],
    ids=["same", "copy-unknown", "kept-unknown", "contradicted"],
)
def test_a_duplicate_hands_its_label_to_the_record_that_stayed(run, tmp_path, kept, copy, merged):
    pair = rows_of(run, "duplicates").row(0, named=True)
    others = rows_of(run, "scores").filter(pl.col("record_id") != pair["duplicate_of"])["record_id"][:10]
    lines = [f"{pair['record_id']},{copy},1", f"{pair['duplicate_of']},{kept},1", *(f"{name},0,0" for name in others)]
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["record_id,AFIB,PVC", *lines]))

    found = scored.read(run, path)
    at = int(np.flatnonzero(found.is_positive[:, 1])[0])

    assert len(found.patients) == 11
    assert_allclose(found.is_positive[at, 0], merged)
    assert found.facts["n_contradicted"] == np.isnan(merged)


def test_a_label_of_the_duplicate_alone_counts_for_the_record_that_stayed(run, tmp_path):
    pair = rows_of(run, "duplicates").row(0, named=True)
    (tmp_path / "labels.csv").write_text(f"record_id,AFIB\n{pair['record_id']},1\n")

    found = scored.read(run, tmp_path / "labels.csv")
    row = rows_of(run, "scores").filter(record_id=pair["duplicate_of"])

    assert found.probability[0, 0] == row["tiny/AFIB"][0]
    assert found.facts["n_scored"] == 0
    assert found.facts["n_records"] == 1


def test_copies_that_were_not_set_aside_are_told_of(run, tiny_bundle, tmp_path):
    again = tmp_path / "again"
    score.run([run.parent / "archive"], again, [tiny_bundle], score.Options())

    found = scored.read(again, table_of(run, tmp_path / "labels.csv"))

    assert found.facts["n_repeated_waveforms"] == 3
    ids = rows_of(again, "scores").select("waveform_hash", at=pl.int_range(pl.len()))
    for at in ids.group_by("waveform_hash").agg("at").filter(pl.col("at").list.len() > 1)["at"]:
        assert len(set(found.patients[at.to_list()])) == 1  # whatever the table says


@pytest.mark.parametrize("suffix", [".json", ".parquet", ".md"])
def test_a_report_holds_every_label(run, tmp_path, suffix):
    report = tmp_path / f"report{suffix}"
    done = invoke("evaluate", run, table_of(run, tmp_path / "labels.csv"), "--out", report, "--by", "format")

    assert done.exit_code == 0
    assert "AFIB" in done.stdout
    if suffix == ".json":
        content = json.loads(report.read_text("utf-8"))
        rows, facts = content["figures"], content
        assert "NaN" not in report.read_text("utf-8")
    elif suffix == ".parquet":
        rows = pl.read_parquet(report).to_dicts()
        facts = json.loads(pl.read_parquet_metadata(report)["ecgbatch"])
    else:
        assert "| format muse-xml · AFIB |" in report.read_text("utf-8")
        assert scored.run_of(run)["models"][0]["fingerprint"] in report.read_text("utf-8")
        return
    assert [row["label"] for row in rows] == ["AFIB", "PVC", "macro"] * 2
    assert facts["n_absent"] == 2
    assert facts["labels_sha256"]
    assert facts["model_fingerprint"] == scored.run_of(run)["models"][0]["fingerprint"]
    assert facts["engine"] == scored.run_of(run)["engine"]
    assert facts["ecgbatch"]


def test_the_table_goes_to_stdout_and_all_else_to_stderr(run, tmp_path):
    done = invoke("evaluate", run, table_of(run, tmp_path / "labels.csv"))

    assert done.stdout.splitlines()[1].split()[:2] == ["label", "ECGs"]
    assert "3 duplicates, 2 not in the run" in done.stderr
    assert "no score for 1 label, of known names: none" in done.stderr  # EXTRA, which a cell may have named
    assert done.stderr.splitlines()[-1].startswith("evaluated ")


@pytest.mark.parametrize("level", ["MAC 55 [v2]", "ward [/3]", "[red]", ":heart:"])
def test_the_name_of_a_group_is_shown_as_it_is_written(level):
    truth, p = simulated(60)
    wards = pl.DataFrame({"ward": [level] * 60})
    console = Console(width=1000, file=StringIO(), force_terminal=True)

    console.print(evaluation_card.table(evaluation.measure(gathered(truth, p, groups=wards), by=["ward"])))

    assert f"ward {level} · L0" in console.file.getvalue()


def test_the_name_of_a_group_stays_in_its_cell_of_a_report(run, tmp_path):
    labels = table_of(run, tmp_path / "labels.csv")
    pl.read_csv(labels).with_columns(ward=pl.lit("ICU|west")).write_csv(labels)

    assert invoke("evaluate", run, labels, "--out", tmp_path / "report.md", "--by", "ward").exit_code == 0

    rows = [line for line in (tmp_path / "report.md").read_text("utf-8").splitlines() if line.startswith("|")]
    assert any(row.startswith("| ward ICU\\|west · AFIB |") for row in rows)
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1


def test_thresholds_chosen_on_the_records_themselves_are_told_to_be(run, tmp_path):
    found = scored.read(run, table_of(run, tmp_path / "labels.csv"))

    chosen = evaluation.measure(found, rule=Rule.parsed("sensitivity:0.9"))

    assert chosen.facts["thresholds"] == "sensitivity:0.9, chosen on these records"
    flattered = "thresholds: sensitivity:0.9, chosen on these records, which flatters sensitivity and specificity"
    assert flattered in evaluation_card.notes(chosen.facts)
    assert "flatters" not in " ".join(evaluation_card.notes(evaluation.measure(found).facts))
    assert chosen.figures["sensitivity"].drop_nulls().min() >= 0.9
    assert evaluation.measure(found).figures["threshold"].to_list()[:2] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "other"], "model 'other', expected 'tiny'"),
        (["--by", "height"], "no column 'height' to tell groups by among 4 columns, of known names: format"),
        (["--label", "AVB"], "no column 'AVB'"),
        (["--threshold", "0.5"], "threshold '0.5', expected 'youden'"),
        (["--out", "report.txt"], "suffix '.txt', expected '.json', '.parquet' or '.md'"),
        (["--plot", "plot.png"], "suffix '.png', expected '.svg'"),
        (["--label", "EXTRA"], "no label of model 'tiny': the table has 1 label, of known names: none"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_evaluated_is_one_line(run, tmp_path, options, expected):
    done = invoke("evaluate", run, table_of(run, tmp_path / "labels.csv"), *options)

    assert done.exit_code == 2
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("where", "name"), [(evaluation_card, "report.txt"), (evaluation_card, "report"), (reliability, "plot.png")]
)
def test_a_suffix_is_refused_without_anything_to_write(tmp_path, where, name):
    with pytest.raises(UsageError, match=r"suffix '.*', expected '"):
        where.require_suffix(tmp_path / name)
    for good in ("a.json", "a.MD", "a.parquet") if where is evaluation_card else ("a.SVG",):
        where.require_suffix(tmp_path / good)


@pytest.mark.parametrize(("option", "name"), [("--out", "report.txt"), ("--plot", "plot.png")], ids=["report", "plot"])
def test_a_wrong_suffix_is_told_before_anything_is_read(tmp_path, option, name):
    done = invoke("evaluate", tmp_path / "gone", tmp_path / "gone.csv", option, tmp_path / name)

    assert done.exit_code == 2
    assert "suffix" in done.stderr


def test_a_folder_that_is_no_run_is_refused(run, tmp_path):
    done = invoke("evaluate", tmp_path, table_of(run, tmp_path / "labels.csv"))

    assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)
    assert "no plan.parquet" in done.stderr


def test_an_unfinished_run_is_refused(run, tmp_path):
    half = Path(shutil.copytree(run, tmp_path / "half"))
    (half / "scores" / "part-000001.parquet").unlink()

    with pytest.raises(OutputError, match=r"\d+ of \d+ shards are done, expected a finished run"):
        scored.read(half, table_of(run, tmp_path / "labels.csv"))


def test_labels_of_other_ecgs_are_refused(run, tmp_path):
    (tmp_path / "labels.csv").write_text("record_id,AFIB\nx,1\n")

    with pytest.raises(UsageError, match="none of its 1 records was scored"):
        scored.read(run, tmp_path / "labels.csv")


def test_evaluation_and_calibration_need_no_training_library():
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'onnxscript', 'safetensors', 'tomli_w', 'scipy', 'sklearn'):\n"
        "    sys.modules[name] = None\n"
        "from ecgbatch.train import evaluation, evaluation_card, reliability, scored, site\n"
    )

    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_the_figures_of_the_shipped_model_come_out_again_from_a_run(data, tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    ecgs = pl.read_parquet(data / "data" / "ptbxl.parquet").filter(fold=9)
    leads = ecgs["leads"][0].to_list()
    layout = ["fs_hz = 500", 'unit = "uV"', f"leads = {json.dumps(leads)}", 'orientation = "lead,time"']
    (archive / "layout.toml").write_text("\n".join(layout))
    for ecg_id, samples in ecgs.select("ecg_id", "samples").iter_rows():
        np.save(archive / f"{ecg_id}.npy", np.array(samples, np.int16).reshape(len(leads), -1))
    table = tmp_path / "labels.parquet"
    ecgs.select(pl.format("{}.npy", "ecg_id").alias("record_id"), "patient_id", "scp_codes").write_parquet(table)
    foundation = bundle.find("foundation")
    score.run([archive], tmp_path / "run", [foundation], score.Options(precision="fp32"))

    figures = evaluation.measure(scored.read(tmp_path / "run", table)).figures.filter(pl.col("label") != "macro")
    assert figures["label"].to_list() == foundation.codes  # superclasses among them
    expected = {label.code: (label.n_test, label.auc) for label in foundation.labels}

    for code, n_positive, auc in figures.select("label", "n_positive", "auc").iter_rows():
        assert n_positive == expected[code][0]
        assert auc == pytest.approx(expected[code][1], abs=2e-3, nan_ok=True)
