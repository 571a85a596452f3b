"""Training: what is trained can be killed and resumed, is split by patient, and says of itself what is true."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from typer.main import get_command
from typer.testing import CliRunner

from ecgbatch import golden, score, synth
from ecgbatch.bundle import Bundle
from ecgbatch.cli import app
from ecgbatch.errors import BundleError, OutputError, UsageError
from ecgbatch.output import exclusive
from ecgbatch.record import LEADS

torch = pytest.importorskip("torch", reason="training needs the extra 'train'")

from ecgbatch.feed import host  # noqa: E402
from ecgbatch.runtimes import eager  # noqa: E402
from ecgbatch.train import augment, calibrate, card, checkpoint, evaluation, metrics  # noqa: E402
from ecgbatch.train.pretrain import card_of, pretrain  # noqa: E402
from ecgbatch.train.scored import Scored  # noqa: E402
from ecgbatch.train.training import Recipe, Training  # noqa: E402

TINY = {
    "widths": [8, 8, 16],
    "depths": [1, 1],
    "kernel": 3,
    "stem_kernel": 5,
    "squeezed": [False, True],
    "dropout": 0.1,
}
CODES = {"sinus": "SR", "afib": "AFIB"}
RECIPE = Recipe(epochs=2, seed=3, batch=8)
SETTINGS: dict[str, Any] = {"name": "tiny", "recipe": RECIPE, "architecture": TINY, "n_positives": 5}


def write_cohort(path: Path, *, patients: list[str] | None = None) -> Path:
    """45 synthetic ECGs in nine folds, sinus rhythm and atrial fibrillation by turns."""
    rows = []
    for at in range(45):
        rhythm = ("sinus", "afib")[at % 2]
        ecg = synth.record(seed=at, rhythm=rhythm, fs_hz=500, uv_per_count=1.0)
        rows.append(
            {
                "patient_id": patients[at] if patients else f"p{at}",
                "fold": at % 9 + 1,
                "scp_codes": [{"code": CODES[rhythm], "likelihood": 0.0}],
                "fs_hz": 500,
                "uv_per_count": 1.0,
                "leads": list(ecg.leads),
                "samples": ecg.counts.astype(np.int16).ravel(),
            }
        )
    pl.DataFrame(rows, schema_overrides={"samples": pl.List(pl.Int16)}).write_parquet(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of a network this small wait for each other most of the time."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def cohort_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort") / "cohort.parquet")


@pytest.fixture(scope="module")
def tiny(cohort_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of an undisturbed training of two epochs."""
    return pretrain([cohort_path], tmp_path_factory.mktemp("training"), **SETTINGS)


def auc_by_pairs(is_positive: np.ndarray, score: np.ndarray) -> float:
    """The definition: every positive against every negative."""
    above = score[is_positive == 1][:, None] - score[is_positive == 0][None, :]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


@pytest.mark.parametrize("n_values", [3, 1000], ids=["many-ties", "few-ties"])
def test_the_auc_is_the_share_of_pairs_in_order(n_values):
    rng = np.random.default_rng(1)
    truth, score = rng.integers(0, 2, 200), rng.integers(0, n_values, 200).astype(np.float32)

    assert metrics.auc(truth, score) == pytest.approx(auc_by_pairs(truth, score), abs=1e-12)


def test_the_auc_of_one_class_alone_is_not_a_number():
    assert np.isnan(metrics.auc(np.ones(5), np.arange(5.0)))


def test_a_bootstrap_draw_is_the_auc_of_the_patients_drawn():
    rng = np.random.default_rng(2)
    truth, score = rng.integers(0, 2, (40, 2)), rng.normal(size=(40, 2))
    patients = np.array([f"p{at // 2}" for at in range(40)])
    drawn = np.random.default_rng(5).multinomial(20, np.full(20, 1 / 20), size=3)

    got = metrics.bootstrap_auc(truth, score, patients=patients, n_draws=3, seed=5)

    names = np.unique(patients)
    for draw, counts in enumerate(drawn):
        at = np.concatenate([np.flatnonzero(patients == name) for name in np.repeat(names, counts)])
        expected = [auc_by_pairs(truth[at, label], score[at, label]) for label in range(2)]
        assert_allclose(got[draw], expected, atol=1e-12)


@pytest.mark.parametrize("n_values", [4, 1000], ids=["many-ties", "few-ties"])
def test_average_precision_is_the_precision_at_each_threshold_weighted_by_recall_gained(n_values):
    rng = np.random.default_rng(3)
    truth, score = rng.integers(0, 2, 100), rng.integers(0, n_values, 100).astype(np.float64)
    expected, recall = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        called = score >= threshold
        gained = truth[called].sum() / truth.sum() - recall
        expected, recall = expected + gained * truth[called].mean(), recall + gained

    assert metrics.average_precision(truth, score) == pytest.approx(expected, abs=1e-12)


def test_no_threshold_beats_youdens():
    rng = np.random.default_rng(4)
    truth, score = rng.integers(0, 2, 60), rng.integers(0, 12, 60) / 12

    def gain(threshold: float) -> float:
        return float((score >= threshold)[truth == 1].mean() - (score >= threshold)[truth == 0].mean())

    assert gain(metrics.youden(truth, score)) == pytest.approx(max(gain(value) for value in score))


def overconfident() -> tuple[np.ndarray, np.ndarray]:
    """300 records of 6 labels, common to rare, whose logits are three times too large and shifted."""
    rng = np.random.default_rng(6)
    honest = rng.normal(size=(300, 6)) * 1.5 - np.array([0, 0, 1, 2, 3, 4])
    truth = (rng.random((300, 6)) < 1 / (1 + np.exp(-honest))).astype(np.float32)
    return truth, (3 * honest + 1).astype(np.float32)


def test_calibration_keeps_the_order_of_scores():
    slope, _ = calibrate.platt(*overconfident())

    assert (slope > 0).all()


def test_calibration_improves_the_brier_score_of_every_label():
    truth, logits = overconfident()
    slope, intercept = calibrate.platt(truth, logits)

    before = ((1 / (1 + np.exp(-logits)) - truth) ** 2).mean(0)
    after = ((1 / (1 + np.exp(-(slope * logits + intercept))) - truth) ** 2).mean(0)

    assert (after < before).all()


def test_calibration_finds_the_slope_that_was_lost():
    slope, _ = calibrate.platt(*overconfident())

    assert_allclose(slope, 1 / 3, rtol=0.4)


def test_a_label_without_positives_gets_the_slope_of_the_others():
    truth, logits = overconfident()
    truth[:, 5] = 0

    slope, intercept = calibrate.platt(truth, logits)

    assert np.isfinite(intercept).all()
    assert_allclose(slope[5], np.median(slope), rtol=0.5)


def test_distortion_keeps_shape_and_zeros_only_ends_and_lost_leads():
    x = torch.ones(64, 8, 500)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        got = augment.distort(x, scale_mv=torch.full((8,), 0.2), fs_hz=250)

    assert got.shape == x.shape
    is_zero = (got == 0).numpy()  # (record, lead, time)
    kept = ~is_zero.all(2)
    ends = is_zero.argmax(2) * is_zero.any(2)
    assert ((ends == 0) | (ends >= 250))[kept].all()


def test_a_training_that_was_killed_at_a_step_and_resumed_ends_in_the_same_bits(cohort_path, tiny, tmp_path):
    out = tmp_path / "training"
    program = (
        "import os, signal, pathlib, torch\n"
        "from ecgbatch.train import pretrain\n"
        "from ecgbatch.train.training import Recipe\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "class Deadly(pretrain.Logbook):\n"
        "    def step(self):\n"
        "        super().step()\n"
        "        if (len(self._training.history), self._training.step) == (1, 2):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "pretrain.Logbook = Deadly\n"
        f"pretrain.pretrain([{str(cohort_path)!r}], pathlib.Path({str(out)!r}), checkpoint_s=0, **{SETTINGS!r})\n"
    )
    path = os.pathsep.join(sys.path)
    killed = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "tiny").exists()

    resumed = pretrain([cohort_path], out, is_resumed=True, **SETTINGS)

    assert resumed.hashes == tiny.hashes


def test_a_training_is_not_overwritten_by_another(cohort_path, tiny):
    with pytest.raises(UsageError, match="holds a training"):
        pretrain([cohort_path], tiny.folder.parent, **SETTINGS)


def test_a_training_is_not_resumed_with_another_seed(cohort_path, tiny):
    with pytest.raises(UsageError, match="not a training with seed 4"):
        pretrain([cohort_path], tiny.folder.parent, is_resumed=True, **{**SETTINGS, "recipe": replace(RECIPE, seed=4)})


def test_a_training_that_is_not_resumed_keeps_its_split(cohort_path, tiny):
    kept = (tiny.folder.parent / "split.parquet").read_bytes()

    with pytest.raises(UsageError, match="not a training with split_sha256"):
        pretrain([cohort_path], tiny.folder.parent, is_resumed=True, folds="1-6/7/8", **SETTINGS)
    assert (tiny.folder.parent / "split.parquet").read_bytes() == kept


def test_a_known_label_with_a_cell_that_is_no_truth_is_refused_and_not_left_out(tmp_path):
    (tmp_path / "labels.csv").write_text("record_id,patient_id,AFIB,SR\na.xml,p1,1,maybe\nb.xml,p2,0,1\n")
    words = ["train", "pretrain", str(tmp_path), "--labels", f"{tmp_path}/labels.csv", "--out", f"{tmp_path}/out"]

    done = CliRunner().invoke(app, words)

    assert done.exit_code == 2
    assert "column 'SR' holds other values than 0, 1, true, false and empty" in done.stderr


def test_a_training_whose_epoch_nothing_could_choose_is_refused(tmp_path):
    path = write_cohort(tmp_path / "cohort.parquet")
    frame = pl.read_parquet(path)
    is_rare = (frame["fold"] == 8) & (pl.int_range(45, eager=True) % 2 == 0)  # no sinus rhythm is left to choose by
    frame.filter(~is_rare).write_parquet(path)

    with pytest.raises(UsageError, match="no label has 3 positives and a negative on the side that chooses"):
        pretrain([path], tmp_path / "training", **SETTINGS)


def test_a_training_is_not_resumed_on_other_leads(cohort_path, tiny):
    with pytest.raises(UsageError, match="not a training with this input"):
        pretrain([cohort_path], tiny.folder.parent, is_resumed=True, leads=LEADS[4:], **SETTINGS)


@pytest.mark.parametrize(
    ("aucs", "is_finished"),
    [
        ([], False),
        ([0.7, 0.8, 0.8, 0.7], False),
        ([0.7, 0.8, 0.8, 0.7, 0.7], True),
        ([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], True),
    ],
    ids=["not-begun", "still-hopeful", "nothing-better-in-three", "all-epochs-done"],
)
def test_training_ends_after_its_epochs_or_when_nothing_better_comes(aucs, is_finished):
    training = Training({"n_leads": 8, "n_labels": 2, **TINY}, Recipe(epochs=6, batch=8, seed=0, patience=3))
    training.history = [{"loss": 0.1, "auc_choose": auc} for auc in aucs]

    assert training.is_finished == is_finished


def test_an_exported_graph_says_what_the_network_says(tiny):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the check runs the graph in ONNX Runtime")
    x = np.random.default_rng(7).normal(size=(5, 8, 2500)).astype(np.float32)
    session = onnxruntime.InferenceSession(tiny.folder / "model.onnx", providers=["CPUExecutionProvider"])

    for found, expected in zip(session.run(["logits", "embedding"], {"x": x}), eager.load(tiny)(x), strict=True):
        assert_allclose(found, expected, atol=1e-5)


def test_a_bundle_written_over_another_replaces_it_whole(cohort_path, tiny, tmp_path):
    out = tmp_path / "training"
    pretrain([cohort_path], out, **SETTINGS)
    (out / "tiny" / "stray").touch()

    pretrain([cohort_path], out, is_resumed=True, **SETTINGS)

    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "checkpoint.safetensors",
        "split.parquet",
        "tensorboard",
        "tiny",
    ]
    assert not (out / "tiny" / "stray").exists()


def test_a_second_training_in_the_same_folder_is_refused_while_the_first_goes_on(cohort_path, tmp_path):
    out = tmp_path / "training"

    with exclusive(out), pytest.raises(OutputError, match="another process is writing this run; wait for it"):
        pretrain([cohort_path], out, **SETTINGS)

    assert [path.name for path in out.iterdir()] == [".lock"]


def test_the_card_gives_every_label_and_says_what_the_model_is_not(tiny):
    card = (tiny.folder / "CARD.md").read_text("utf-8")

    assert "Not a medical device" in card
    assert all(f"| {label.code} | {label.name} |" in card for label in tiny.labels)


def test_the_card_can_be_had_again_from_weights_and_data(cohort_path, tiny, tmp_path):
    text = (tiny.folder / "CARD.md").read_text("utf-8")
    copied = Path(shutil.copytree(tiny.folder, tmp_path / "tiny"))
    (copied / "CARD.md").unlink()

    assert CliRunner().invoke(app, ["train", "card", str(copied), str(cohort_path)]).exit_code == 0
    assert (copied / "CARD.md").read_text("utf-8") == text


@pytest.mark.parametrize("changed", ["patients", "labels"])
def test_a_card_is_not_made_of_other_data(tiny, tmp_path, changed):
    patients = [f"q{at}" for at in range(45)] if changed == "patients" else None
    other = write_cohort(tmp_path / "other.parquet", patients=patients)
    if changed == "labels":
        frame = pl.read_parquet(other)
        frame.with_columns(pl.concat([frame["scp_codes"][1:], frame["scp_codes"][:1]])).write_parquet(other)

    with pytest.raises(UsageError, match="was made of other data"):
        card_of(tiny, [other])


def test_the_card_tells_subgroups_and_the_calibration_of_labels_with_many_positives(tiny):
    rng = np.random.default_rng(1)
    truth = rng.random((400, 2)) < 0.3
    scored = Scored(
        model={},
        labels=tuple({"code": label.code, "name": label.name, "threshold": 0.5} for label in tiny.labels),
        probability=np.clip(0.3 + 0.4 * (truth - 0.3) + rng.normal(0, 0.1, truth.shape), 0.01, 0.99),
        is_positive=truth.astype(np.float32),
        patients=np.arange(400).astype(str),
        groups=pl.DataFrame({"sex": ["female", "male"] * 200}),
        facts={},
    )
    report = evaluation.measure(scored, by=["sex"])
    text = card.text(tiny, report, n_parameters=1, gflop=0.1)

    figures = report.figures.filter(pl.col("label") == tiny.codes[0], pl.col("group").is_null()).row(0, named=True)
    n, slope = figures["n_positive"], figures["calibration_slope"]
    assert f"| {tiny.codes[0]} | {n} | {slope:.3f} (" in text.partition("## Calibration")[2]
    of_women = report.figures.filter(pl.col("label") == "macro", pl.col("level") == "female").row(0, named=True)
    assert f"| sex | female | 200 | {of_women['auc']:.3f} (" in text


@pytest.mark.parametrize("named", ["", "checkpoint.safetensors"], ids=["folder", "file"])
def test_a_checkpoint_is_a_bundle_to_begin_from_that_says_it_is_not_calibrated(tiny, tmp_path, named):
    (tmp_path / "training").mkdir()
    shutil.copy(tiny.folder.parent / "checkpoint.safetensors", tmp_path / "training")
    found = checkpoint.find(str(tmp_path / "training" / named))
    records, _ = golden.load(tiny)
    x = np.empty((len(records), 8, tiny.input.samples), np.float32)
    for record, out in zip(records, x, strict=True):
        host.normalise(record, tiny.input, out)

    assert_allclose(eager.load(found)(x)[0], eager.load(tiny)(x)[0], atol=1e-6)
    assert (found.codes, found.input, found.parent) == (tiny.codes, tiny.input, None)
    assert {(label.slope, label.intercept, label.threshold) for label in found.labels} == {(1.0, 0.0, 0.5)}
    assert "not calibrated" in (found.folder / "CARD.md").read_text("utf-8")


def test_a_training_that_has_ended_is_the_bundle_it_ended_in(tiny):
    assert checkpoint.find(str(tiny.folder.parent)).fingerprint == tiny.fingerprint


@pytest.mark.parametrize("content", [b"", b"none"], ids=["empty", "other"])
def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path, content):
    (tmp_path / "checkpoint.safetensors").write_bytes(content)

    with pytest.raises(BundleError, match=r"not a checkpoint of train pretrain, expected one, or a bundle"):
        checkpoint.find(str(tmp_path))


def test_golden_records_come_back_as_they_were_scored(tiny):
    records, expected = golden.load(tiny)
    x = np.empty((len(records), 8, 2500), np.float32)
    for record, out in zip(records, x, strict=True):
        host.normalise(record, tiny.input, out)

    assert sorted(record.fs_hz for record in records) == [250, 250, 400, 500, 500, 500, 500, 1000]
    assert_allclose(tiny.probabilities(eager.load(tiny)(x)[0]), expected, atol=1e-6)


def test_an_archive_beside_labels_becomes_a_bundle_that_scores_it(tmp_path, capsys):
    archive = tmp_path / "archive"
    archive.mkdir()
    rows = []
    for at in range(24):
        (archive / f"{at}.xml").write_bytes(synth.muse_xml(synth.record(seed=at, rhythm=("sinus", "afib")[at % 2])))
        rows.append({"record_id": f"{at}.xml", "patient_id": f"secret{at}", "AFIB": at % 2, "SR": 1 - at % 2})
    (archive / "broken.xml").write_text("<RestingECG>")
    rows.append({"record_id": "broken.xml", "patient_id": "secret99", "AFIB": 1, "SR": 0})
    pl.DataFrame(rows).write_csv(tmp_path / "labels.csv")
    out = tmp_path / "training"
    words = f"train pretrain {archive} --labels {tmp_path}/labels.csv --out {out} --name twelve --leads 12"
    words += " --widths 8,16 --depths 1 --epochs 1 --batch 8 --min-positives 3"

    get_command(app).main(words.split(), standalone_mode=False)

    made = Bundle.load(out / "twelve")
    said = capsys.readouterr()
    assert made.input.leads == LEADS
    assert sorted(made.codes) == ["AFIB", "SR"]
    assert made.training["left_out"] in said.err
    assert "1 truncated" in made.training["left_out"]
    assert made.training["split_sha256"]
    assert list((out / "tensorboard").glob("events.*"))
    assert score.run([archive], tmp_path / "run", [made], score.Options()).n_scored == 24
    texts = [(made.folder / name).read_text("utf-8") for name in ("bundle.toml", "labels.csv", "CARD.md")]
    assert "secret" not in said.out + said.err + "".join(texts)
