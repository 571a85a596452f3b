"""Calibration for a site: order and AUC stay, what is stated is out of sample, and the bundle scores what it says."""

import shutil
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from typer.testing import CliRunner, Result

from ecgbatch import cli, score, synth
from ecgbatch.bundle import Bundle
from ecgbatch.errors import UsageError
from ecgbatch.train import evaluation, metrics, site
from ecgbatch.train.calibrate import YOUDEN, Rule, platt, sigmoid
from ecgbatch.train.cells import logits


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def foreign(n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truths, logits too bold by half and shifted, and patients of two ECGs each: four labels, common to rare."""
    rng = np.random.default_rng(21)
    honest = rng.normal(size=(n, 4)) * 1.5 - np.array([0, 1, 2, 3])
    truth = (rng.random((n, 4)) < sigmoid(honest)).astype(np.float32)
    return truth, 1.5 * honest + 0.7, (np.arange(n) // 2).astype(str)


@pytest.mark.parametrize("rule", ["sensitivity:0.99", "specificity:0.99"])
def test_a_threshold_beyond_all_scores_keeps_its_promise_in_float32(rule):
    kept = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        z = rng.normal(-1, 1.5, (60, 1)).astype(np.float32)
        truth = (rng.random((60, 1)) < sigmoid(z)).astype(np.float32)
        truth[z.argmin()], truth[z.argmax()] = 1, 0
        fitted = site.fit(truth, z, np.array(["own slope"]), Rule.parsed(rule))
        called = sigmoid(fitted.slope.astype(np.float32) * z + fitted.intercept.astype(np.float32)) >= fitted.threshold
        kept += called[truth == 1].all() if rule.startswith("sens") else not called[truth == 0].any()

    assert kept == 20


def test_no_auc_is_changed_at_all():
    truth, z, _ = foreign()
    p = sigmoid(z).astype(np.float32)
    fitted = site.fit(truth, logits(p), site.methods(truth), YOUDEN)

    for label in range(4):
        calibrated = fitted.slope[label] * logits(p[:, label]) + fitted.intercept[label]
        assert metrics.auc(truth[:, label], calibrated) == metrics.auc(truth[:, label], p[:, label])


def test_a_greater_score_stays_the_greater():
    truth, z, _ = foreign()
    fitted = site.fit(truth, z, site.methods(truth), YOUDEN)
    scores = np.linspace(-17, 17, 400)[:, None].repeat(4, axis=1)

    assert (fitted.slope > 0).all()
    assert (np.diff(fitted.probability(scores), axis=0) > 0).all()


def test_scores_are_calibrated_out_of_sample_where_they_were_not_before():
    truth, z, patients = foreign()
    probability, _ = site.out_of_fold(truth, z, site.methods(truth), YOUDEN, patients)
    weight = evaluation.draws_of(patients)

    for label in range(4):
        before, _ = evaluation.figures_of(truth[:, label], sigmoid(z[:, label]), patients, weight, 0.5)
        after, _ = evaluation.figures_of(truth[:, label], probability[:, label], patients, weight, 0.5)
        assert before["calibration_slope_high"] < 1
        assert after["calibration_slope_low"] < 1 < after["calibration_slope_high"]
        assert after["calibration_intercept_low"] < 0 < after["calibration_intercept_high"]
        assert after["brier"] < before["brier"]


def test_what_is_stated_of_a_patient_does_not_depend_on_the_patients_own_labels():
    truth, z, patients = foreign(400)
    method = site.methods(truth)
    own = patients == patients[10]
    other = truth.copy()
    other[own] = 1 - other[own]

    first, first_called = site.out_of_fold(truth, z, method, YOUDEN, patients)
    second, second_called = site.out_of_fold(other, z, method, YOUDEN, patients)

    assert_allclose(first[own], second[own], rtol=0, atol=0)
    assert (first_called[own] == second_called[own]).all()
    assert not np.array_equal(first, second)


def test_a_label_is_calibrated_by_what_its_counts_allow():
    truth = np.zeros((50, 5), np.float32)
    for label, n_positive in enumerate((0, 2, 3, 9, 10)):
        truth[:n_positive, label] = 1

    assert site.methods(truth).tolist() == ["kept", "kept", "common slope", "common slope", "own slope"]
    assert site.methods(1 - truth).tolist() == site.methods(truth).tolist()


def test_a_label_of_too_few_positives_is_kept_as_it_was():
    truth, z, _ = foreign()
    truth[:, 3] = 0
    truth[:2, 3] = 1

    fitted = site.fit(truth, z, site.methods(truth), YOUDEN)

    assert (fitted.slope[3], fitted.intercept[3]) == (1, 0)
    assert np.isnan(fitted.threshold[3])


def test_labels_of_few_positives_share_one_slope():
    truth, z, _ = foreign()
    slope, _ = platt(truth, z, has_own_slope=np.array([True, True, False, False]))

    assert slope[2] == pytest.approx(slope[3], rel=1e-6)
    assert slope[0] != pytest.approx(slope[3], rel=1e-6)


def test_records_of_unknown_label_say_nothing():
    truth, z, _ = foreign(600)
    unknown = np.full((300, 4), np.nan, np.float32)
    far = np.full((300, 4), 9.0)

    for one, other in zip(
        platt(np.concatenate([truth, unknown]), np.concatenate([z, far])), platt(truth, z), strict=True
    ):
        assert_allclose(one, other, rtol=1e-6)


def test_saturated_scores_do_no_harm():
    truth, z, _ = foreign()
    p = sigmoid(z).astype(np.float32)
    p[:3, 0], p[3:6, 0] = 0, 1
    truth[:3, 0], truth[3:6, 0] = 0, 1

    fitted = site.fit(truth, logits(p), site.methods(truth), YOUDEN)

    assert fitted.slope[0] == pytest.approx(site.fit(truth, z, site.methods(truth), YOUDEN).slope[0], rel=0.1)


@pytest.mark.parametrize("rule", ["sensitivity:0.9", "specificity:0.95"])
def test_a_rule_holds_out_of_fold_as_nearly_as_chance_allows(rule):
    truth, z, patients = foreign()
    _, called = site.out_of_fold(truth, z, site.methods(truth), Rule.parsed(rule), patients)
    name, _, share = rule.partition(":")
    of = 1 if name == "sensitivity" else 0

    for label in range(4):
        right = called[truth[:, label] == of, label] == of
        assert right.mean() == pytest.approx(float(share), abs=4 * np.sqrt(0.09 / len(right)))


# --- bundles ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    synth.write_archive(folder / "archive", 80, formats=["muse-xml"])
    score.run([folder / "archive"], folder / "run", [tiny_bundle], score.Options())
    return folder / "run"


@pytest.fixture(scope="module")
def table(run: Path) -> Path:
    """Labels of what was scored: two that the scores can tell, one of two positives."""
    scores = pl.read_parquet(run / "scores" / "*.parquet")
    noise = np.random.default_rng(3).normal(size=(scores.height, 2))
    z = np.stack([logits(scores[f"tiny/{code}"].to_numpy()) for code in ("AFIB", "PVC")], 1)
    truth = ((z - np.median(z, 0)) / z.std(0) + noise > 0.5).astype(int)
    rare = np.zeros(scores.height, int)
    rare[:2] = 1
    path = run.parent / "labels.csv"
    columns = {"AFIB": truth[:, 0], "PVC": truth[:, 1], "LBBB": rare}
    patients = [f"p{at // 2}" for at in range(scores.height)]
    pl.DataFrame({"record_id": scores["record_id"], "patient_id": patients, **columns}).write_csv(path)
    return path


@pytest.fixture(scope="module")
def made(run: Path, table: Path, tiny_bundle: Bundle) -> site.Calibrated:
    return site.calibrate(run, table, run.parent / "here", model=str(tiny_bundle.folder), rule=YOUDEN)


def test_the_new_bundle_scores_what_its_calibration_says(run, made, tiny_bundle):
    """An engine is admitted only if the golden scores are those of the new calibration."""
    again = run.parent / "again"
    score.run([run.parent / "archive"], again, [made.bundle], score.Options())
    before, after = (pl.read_parquet(folder / "scores" / "*.parquet") for folder in (run, again))

    for old, new in zip(tiny_bundle.labels, made.bundle.labels, strict=True):
        p, q = before[f"tiny/{old.code}"].to_numpy(), after[f"tiny/{old.code}"].to_numpy()
        raw = (logits(p) - old.intercept) / old.slope
        assert_allclose(q, sigmoid(new.slope * raw + new.intercept), atol=2e-5)
        assert (np.argsort(p, kind="stable") == np.argsort(q, kind="stable")).mean() > 0.95  # but for float32's ties


def test_only_labels_golden_scores_card_and_provenance_differ(made, tiny_bundle):
    new = made.bundle

    assert {name for name in new.hashes if new.hashes[name] != tiny_bundle.hashes[name]} == {
        "labels.csv",
        "golden.parquet",
    }
    assert (new.name, new.licence, new.input, new.network) == (
        tiny_bundle.name,
        tiny_bundle.licence,
        tiny_bundle.input,
        tiny_bundle.network,
    )
    assert new.version.startswith("0+local.")
    assert new.fingerprint != tiny_bundle.fingerprint
    assert {key: value for key, value in new.training.items() if key != "calibration"} == tiny_bundle.training


def test_labels_that_were_not_fitted_are_as_they_were(made, tiny_bundle):
    for old, new in zip(tiny_bundle.labels, made.bundle.labels, strict=True):
        assert (new == old) == (old.code not in ("AFIB", "PVC"))


def test_the_bundle_says_what_it_was_calibrated_on(run, made, table):
    import hashlib

    told = tomllib.loads((made.bundle.folder / "bundle.toml").read_text("utf-8"))["training"]["calibration"]

    assert told["labels_sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    assert told["labels_calibrated"] == ["AFIB", "PVC"]
    assert (told["n_records"], told["n_patients"]) == (80, 40)
    assert told["model_version"] == "0"


def test_the_card_states_figures_before_and_after(made):
    card = (made.bundle.folder / "CARD.md").read_text("utf-8")
    after = made.rows[[row["label"] for row in made.rows].index("AFIB")]["after"]

    assert card.startswith("untrained\n")
    assert "## Local calibration" in card
    assert f"→ {after['brier']:.4f} |" in card
    assert "Kept as they were: NORM, LBBB, STE." in card


def test_calibrating_again_replaces_the_section_and_not_the_card(made, table, tmp_path):
    again = tmp_path / "run"
    score.run([made.bundle.folder.parent / "archive"], again, [made.bundle], score.Options())
    rule = Rule.parsed("sensitivity:0.8")

    second = site.calibrate(again, table, tmp_path / "new", model=str(made.bundle.folder), rule=rule).bundle
    card = (second.folder / "CARD.md").read_text("utf-8")

    assert card.count("## Local calibration") == 1
    assert card.startswith("untrained\n")
    assert second.version.count("+local.") == 1
    assert_allclose([label.slope for label in second.labels], [label.slope for label in made.bundle.labels], rtol=0.1)


def test_a_bundle_that_is_read_only_can_be_calibrated(run, table, tiny_bundle, tmp_path):
    copy = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "copy"))
    for path in copy.iterdir():
        path.chmod(0o444)
    copy.chmod(0o555)

    made = site.calibrate(run, table, tmp_path / "deep" / "new", model=str(copy), rule=YOUDEN)

    assert (made.bundle.folder / "labels.csv").stat().st_mode & 0o200


def test_the_command_prints_the_folder_and_nothing_else_on_stdout(run, table, tiny_bundle, tmp_path):
    done = invoke("calibrate", run, table, "--out", tmp_path / "new", "--model", tiny_bundle.folder)

    assert done.exit_code == 0
    assert done.stdout == f"{tmp_path / 'new'}\n"
    assert "calibrated 2 of 5 labels on 80 ECGs of 40 patients" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob(".new*"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "{other}"], "model 'other', expected 'tiny'"),
        (["--model", "{made}"], "not scored with tiny 0+local"),
        (["--threshold", "mean"], "threshold 'mean', expected"),
        (["--label", "LBBB"], "no label with 3 positives"),
        (["--out", "{made}"], "is there already"),
    ],
    ids=["another-model", "another-version", "no-rule", "too-few", "there-already"],
)
def test_what_cannot_be_calibrated_is_one_line(
    run, table, made, tiny_bundle, other_bundle, tmp_path, options, expected
):
    folders = {"other": other_bundle.folder, "made": made.bundle.folder}
    given = [option.format(**folders) for option in options]
    defaults = {"--out": tmp_path / "new", "--model": tiny_bundle.folder}
    others = [part for name, value in defaults.items() if name not in given for part in (name, value)]

    done = invoke("calibrate", run, table, *given, *others)

    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert expected in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_model_that_is_not_shipped_is_asked_for(run, table, tmp_path):
    done = invoke("calibrate", run, table, "--out", tmp_path / "new")

    assert done.exit_code == 1
    assert "model 'tiny': no such bundle folder" in done.stderr


def test_fewer_patients_than_folds_are_refused():
    truth, z, _ = foreign(40)

    with pytest.raises(UsageError, match="of 4 patients, expected at least 5"):
        site.out_of_fold(truth, z, site.methods(truth), YOUDEN, (np.arange(40) % 4).astype(str))
