"""Learning a rare label from few ECGs: no patient on two sides, no choice by those who judge, a bundle that scores."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from typer.testing import CliRunner

from ecgbatch import score, synth
from ecgbatch.bundle import Bundle
from ecgbatch.cli import app
from ecgbatch.errors import OutputError, UsageError

torch = pytest.importorskip("torch", reason="training needs the extra 'train'")

from ecgbatch.runtimes import eager  # noqa: E402
from ecgbatch.train import arms, compare, confounding, figures, finetune, labels, metrics, probe, task, tuning  # noqa: E402
from ecgbatch.train.cohort import Doubts  # noqa: E402
from ecgbatch.train.curve import Point, drawn  # noqa: E402
from ecgbatch.train.device import chosen  # noqa: E402
from ecgbatch.train.folds import folds, held_out, thinned  # noqa: E402

N_ECGS = 48


def write_table(path: Path) -> Path:
    """48 synthetic ECGs of 40 patients, each third with atrial fibrillation; `site` knows half of these."""
    rows = []
    for at in range(N_ECGS):
        is_positive = at % 3 == 0
        ecg = synth.record(seed=at, rhythm="afib" if is_positive else "sinus", fs_hz=250, uv_per_count=1.0)
        rows.append(
            {
                "record_id": f"r{at}",
                "patient_id": f"p{at % 40}" if at < 40 else f"p{at - 39}",  # a patient's ECGs are of one kind or mixed
                "rare": (1 if is_positive else 0) if at < 46 else 2,
                "site": "clinic" if at % 6 == 0 else "home",
                "fs_hz": 250,
                "uv_per_count": 1.0,
                "leads": list(ecg.leads),
                "samples": ecg.counts.astype(np.int16).ravel(),
            }
        )
    frame = pl.DataFrame(rows, schema_overrides={"samples": pl.List(pl.Int16)})
    frame.write_parquet(path, metadata={"provenance": "synthetic, of nobody"})
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("cohort") / "rare.parquet")


@pytest.fixture(scope="module")
def known_task(table: Path, tiny_bundle: Bundle) -> task.Task:
    meaning = task.Meaning("rare", "1", "0")
    return task.read([str(table)], tiny_bundle.input, meaning, labels_path=None, confounders=["site"])


def making(parent: Bundle, **changed: object) -> finetune.Making:
    settings = {"depth": "all", "name": "rare", "title": "rare thing", "licence": "CC0", "command": "none"}
    return finetune.Making(parent=parent, n_folds=3, **{**settings, **changed})  # type: ignore[arg-type]


def budget(depth: str = "all", epochs: int = 2) -> arms.Budget:
    return arms.budget(epochs=epochs, rates=[1e-3], depth=depth, batch=16, device="cpu")


# what is known


def test_records_of_another_value_are_left_out(known_task):
    assert len(known_task.y) == 46
    assert known_task.left_out == {"label unknown": 2}
    assert known_task.y.sum() == 16


def test_without_a_negative_value_all_others_are_negative(table, tiny_bundle):
    found = task.read([str(table)], tiny_bundle.input, task.Meaning.of("rare=1", None), labels_path=None)

    assert (len(found.y), found.y.sum()) == (48, 16)


def test_a_column_of_other_values_asks_for_the_positive_one(table, tiny_bundle):
    with pytest.raises(UsageError, match=r"rare.*--label rare=1"):
        task.read([str(table)], tiny_bundle.input, task.Meaning.of("rare", None), labels_path=None)


@pytest.mark.parametrize("n_tables", [1, 2], ids=["a-table", "several-tables"])
@pytest.mark.parametrize(("asked", "n_positive"), [("AFIB", 16), ("AFIB=1", 16), ("AFIB=0", 32), ("AFIB=2", 0)])
@pytest.mark.parametrize("kind", ["codes", "truths"])
def test_a_code_or_truth_may_be_named_by_its_value(table, tmp_path, n_tables, asked, n_positive, kind):
    has_it = pl.Series([at % 3 == 0 for at in range(N_ECGS)])
    column = (
        pl.Series("codes", [["AFIB"] if has else ["SR"] for has in has_it])
        if kind == "codes"
        else has_it.cast(pl.Int8).alias("AFIB")
    )
    frame = pl.read_parquet(table).drop("rare").with_columns(column)
    paths = [str(tmp_path / f"{at}.parquet") for at in range(n_tables)]
    for at, path in enumerate(paths):
        frame[at * N_ECGS // n_tables : (at + 1) * N_ECGS // n_tables].write_parquet(path)

    cohort, _ = task._alone(paths, task.Meaning.of(asked, None))

    assert cohort.targets.sum() == n_positive


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("asked", "against", "expected"),
    [
        ("truth=1", None, [1, 0, 0, np.nan]),
        ("truth=0", "1", [0, 1, 1, np.nan]),
        ("truth=true", None, [1, 0, 0, np.nan]),
        ("grade=2", None, [0, 1, 0, np.nan]),
        ("grade=2", "0", [np.nan, 1, 0, np.nan]),
        ("share=1", "0.0", [0, 1, np.nan, np.nan]),
        ("side=left", None, [1, 0, 0, np.nan]),
        ("ward=left", None, [1, 0, 0, np.nan]),
        ("grade=none", None, [0, 0, 0, np.nan]),
        ("mixed=1", None, [1, 0, 1, np.nan]),
        ("disease=a", None, [1, np.nan, 0, np.nan]),
        ("disease=a", "none", [1, 0, np.nan, np.nan]),
        ("disease=none", None, [0, 1, 0, np.nan]),
        ("side=left", "", [1, np.nan, np.nan, np.nan]),
    ],
)
def test_a_value_is_the_same_in_whatever_table_and_an_empty_cell_is_unknown(tmp_path, suffix, asked, against, expected):
    frame = pl.DataFrame(
        {
            "record_id": ["a", "b", "c", "d"],
            "truth": [True, False, False, None],
            "grade": [1, 2, 0, None],
            "share": [0.0, 1.0, 0.5, float("nan") if suffix == "parquet" else None],
            "side": ["left", "right", "right", ""],
            "ward": ["left", "right", "right", "NA"],
            "mixed": ["1", "unknown", "1.0", None],
            "disease": ["a", "none", "b", "NA"],
        }
    )
    path = tmp_path / f"labels.{suffix}"
    frame.write_csv(path, quote_style="never") if suffix == "csv" else frame.write_parquet(path)

    assert_array_equal(task.Meaning.of(asked, against).of_labels(str(path), labels.read(path)), expected)


def test_ecgs_cut_to_one_length_lie_about_zero_as_scoring_would_have_them(known_task, tiny_bundle):
    x = known_task.x + 3
    x[0, :, 1250:] = 0  # an ECG of 5 s
    cut = replace(known_task, x=x).first_seconds(6.0, replace(tiny_bundle.input, filter="offset")).x

    assert_allclose(cut[0, :, :1250].mean(-1), 0, atol=1e-5)
    assert_allclose(cut[1:, :, :1500].mean(-1), 0, atol=1e-5)
    assert_allclose(np.diff(cut[:, :, :1250]), np.diff(known_task.x[:, :, :1250]), atol=1e-5)
    assert not cut[0, :, 1250:].any()
    assert not cut[:, :, 1500:].any()


def test_ecgs_cut_to_one_length_end_there_and_are_as_they_were_before(known_task, tiny_bundle):
    cut = known_task.first_seconds(6.0, tiny_bundle.input)

    assert_array_equal(cut.x[:, :, :1500], known_task.x[:, :, :1500])
    assert not cut.x[:, :, 1500:].any()
    assert known_task.x[:, :, 1500:].any()
    with pytest.raises(UsageError, match="--seconds 3, expected 5 to 10"):
        known_task.first_seconds(3.0, tiny_bundle.input)


def test_an_unknown_confounder_is_refused_before_training(table, tiny_bundle):
    with pytest.raises(UsageError, match=r"no column 'sight' among 6 columns, of known names: seconds, fs_hz, "):
        task.read(
            [str(table)], tiny_bundle.input, task.Meaning.of("rare=1", None), labels_path=None, confounders=["sight"]
        )


def test_labels_beside_an_archive_are_those_of_its_records(known_task, table, tiny_bundle, tmp_path):
    rows = pl.read_parquet(table, columns=["record_id", "patient_id", "rare", "site"]).filter(pl.col("rare") < 2)
    rows.sample(fraction=1, shuffle=True, seed=1).write_csv(tmp_path / "labels.csv")
    samples = pl.read_parquet(table).drop("rare", "patient_id", "site")
    samples.write_parquet(tmp_path / "samples.parquet")

    found = task.read(
        [str(tmp_path / "samples.parquet")],
        tiny_bundle.input,
        task.Meaning("rare"),
        labels_path=tmp_path / "labels.csv",
    )

    assert_array_equal(found.record_ids, known_task.record_ids)
    assert_array_equal(found.y, known_task.y)
    assert found.column("site").to_list() == known_task.column("site").to_list()
    assert len(set(found.patients)) == len(set(known_task.patients))


def repeated(table: Path, path: Path, **columns: pl.Series) -> Path:
    """The known ECGs of the table, but the last two are the first two again, under patients of their own."""
    frame = pl.read_parquet(table)[:46]
    samples = [*frame["samples"][:44], *frame["samples"][:2]]
    patients = pl.Series([f"p{at}" for at in range(46)])
    frame = frame.with_columns(patients.alias("patient_id"), pl.Series("samples", samples, pl.List(pl.Int16)))
    frame.with_columns(**columns).write_parquet(path)
    return path


def test_patients_who_share_an_ecg_are_one(table, tiny_bundle, tmp_path):
    path = repeated(table, tmp_path / "t.parquet")

    found = task.read([str(path)], tiny_bundle.input, task.Meaning("rare", "1", "0"), labels_path=None)

    assert_array_equal(found.patients[-2:], found.patients[:2])
    assert len(set(found.patients)) == 44
    assert found.doubts.lines == ["4 ECGs have the waveform of another patient's, and those patients count as one"]


def test_a_card_says_what_its_split_could_not_be_sure_of(table, tiny_bundle, tmp_path):
    unknown = pl.Series("patient_id", [f"p{at}" for at in range(40)] + [None] * 6)
    path = repeated(table, tmp_path / "t.parquet", patient_id=unknown)
    found = task.read([str(path)], tiny_bundle.input, task.Meaning("rare", "1", "0"), labels_path=None)
    said: list[str] = []

    made = finetune.finetune(found, making(tiny_bundle, depth="probe"), budget("probe"), tmp_path, say=said.append)

    assert said[:2] == found.doubts.lines
    card = (made.folder / "CARD.md").read_text("utf-8")
    assert "* 6 ECGs are of no known patient, and each counts as one" in card
    assert "* 4 ECGs have the waveform of another patient's" in card
    assert made.training["n_patients"] == 44
    assert made.training["ecgbatch"] == version("ecgbatch")


# splits


@pytest.fixture
def many(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """300 records of 120 patients, a tenth positive."""
    patients = np.array([f"p{one}" for one in rng.integers(0, 120, 300)])
    return rng.random(300) < 0.1, patients


def test_no_patient_is_in_two_folds_and_positives_are_spread(many):
    is_positive, patients = many
    fold = folds(is_positive, patients, n_folds=5, seed=0)

    assert all(len(set(fold[patients == one])) == 1 for one in set(patients))
    has_positive = [len(set(patients[is_positive & (fold == at)])) for at in range(5)]
    assert max(has_positive) - min(has_positive) <= 1


def test_another_seed_is_another_partition(many):
    assert (folds(*many, n_folds=5, seed=0) != folds(*many, n_folds=5, seed=1)).any()


def test_fewer_patients_than_folds_are_refused():
    with pytest.raises(UsageError, match="2 patients of one class"):
        folds(np.arange(20) < 2, np.arange(20).astype(str), n_folds=3, seed=0)


def test_patients_set_aside_have_no_record_left(many):
    is_positive, patients = many
    is_out = held_out(is_positive, patients, parts=4, seed=0)

    assert not set(patients[is_out]) & set(patients[~is_out])
    assert is_positive[is_out].any()
    assert is_positive[~is_out].any()


def test_fewer_positives_are_a_part_of_more_and_all_negatives_stay(many):
    is_positive, patients = many
    few = thinned(is_positive, patients, n_positive=5, seed=3)
    more = thinned(is_positive, patients, n_positive=12, seed=3)
    has_positive = np.isin(patients, patients[is_positive])

    assert len(set(patients[few & has_positive])) == 5
    assert (more | ~few).all()
    assert few[~has_positive].all()


# probe


@pytest.fixture
def features(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=(200, 12)) * np.linspace(0.1, 5, 12) + 3
    return x, rng.random(200) < 1 / (1 + np.exp(-(x[:, 0] - 3) * 8 - (x[:, 11] - 3) / 5))


@pytest.mark.parametrize("penalty", [1.0, 100.0], ids=["loose", "tight"])
def test_a_probe_is_the_minimum_that_scipy_finds(features, penalty):
    optimize = pytest.importorskip("scipy.optimize", reason="the oracle is SciPy")
    x, y = features
    z = (x - x.mean(0)) / x.std(0)

    def cost(w: np.ndarray) -> float:
        logit = z @ w[:-1] + w[-1]
        return float((np.logaddexp(0, logit) - y * logit).sum() + penalty / 2 * (w[:-1] ** 2).sum())

    best = optimize.minimize(cost, np.zeros(13), method="BFGS", options={"gtol": 1e-6})
    found = probe.fit(x, y, penalty)

    assert_allclose(found.logits(x), z @ best.x[:-1] + best.x[-1], atol=1e-4)


def test_a_probe_of_separable_classes_is_finite_and_in_order(rng):
    x = np.concatenate([rng.normal(-5, 0.1, (20, 3)), rng.normal(5, 0.1, (20, 3))])
    found = probe.fit(x, np.arange(40) >= 20, 1.0)

    assert np.isfinite(found.weights).all()
    assert metrics.auc((np.arange(40) >= 20).astype(np.float32), found.logits(x)) == 1


def test_a_feature_that_never_changes_weighs_nothing(features):
    x, y = features
    found = probe.fit(np.column_stack([x, np.full(len(x), 7.7)]), y, 10.0)

    assert found.weights[-1] == 0
    assert_allclose(
        found.logits(np.column_stack([x, np.full(len(x), 7.7)])), probe.fit(x, y, 10.0).logits(x), atol=1e-6
    )


def test_the_penalty_is_large_where_features_say_nothing(rng):
    x, y = rng.normal(size=(80, 40)), np.arange(80) % 2 == 0

    assert probe.chosen(x, y, np.arange(80).astype(str), seed=0).penalty >= 100


# tuning


def test_tuning_the_head_leaves_the_trunk_as_it_was(known_task, tiny_bundle):
    pretrained = finetune.pretrained_of(tiny_bundle)
    before = {name: value.clone() for name, value in pretrained.network.state_dict().items()}
    known = finetune.known_of(known_task, pretrained)

    network = arms.on_all("finetune", pretrained, known, budget("head"), rate=1e-2, epochs=2, seed=1)

    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if not name.startswith("head."))
    started = pretrained.headed(probe.chosen(known.embedding, known.y, known.patients, seed=1))
    assert not torch.equal(after["head.weight"], started.head.weight)


def test_early_stages_change_less_than_late_ones(known_task, tiny_bundle):
    network = finetune.pretrained_of(tiny_bundle).fresh(1)
    recipe = tuning.TuningRecipe(epochs=1, seed=1, learning_rate=1e-3, stage_decay=0.5)
    rates = [group["lr"] for group in tuning.groups(network, recipe)]

    assert_allclose(rates, [2.5e-4, 5e-4, 1e-3])  # stem, stage, head


def test_the_same_seed_trains_the_same_weights(known_task, tiny_bundle):
    pretrained = finetune.pretrained_of(tiny_bundle)
    known = finetune.known_of(known_task, pretrained)
    one, same, other = (arms.learn("finetune", pretrained, known, budget(), seed=seed) for seed in (1, 1, 2))

    assert_array_equal(one.logits(known), same.logits(known))
    assert (one.logits(known) != other.logits(known)).any()


def test_rare_positives_are_drawn_more_often_and_none_twice_before_all_were():
    is_positive = np.arange(60) < 6
    recipe = tuning.TuningRecipe(epochs=1, seed=1, learning_rate=1e-3, batch=20)
    drawn_at = tuning.draws(is_positive, 3, recipe)

    assert drawn_at.shape == (3, 20)
    times = np.bincount(drawn_at.ravel(), minlength=60)
    assert times[:6].sum() == 15
    assert set(times[:6]) == {2, 3}
    assert times[6:].max() == 1


def test_training_ends_with_patience_and_keeps_the_best_epoch(known_task, tiny_bundle):
    pretrained = finetune.pretrained_of(tiny_bundle)
    known = finetune.known_of(known_task, pretrained)
    recipe = tuning.TuningRecipe(epochs=50, seed=1, learning_rate=5.0, patience=2)
    start = pretrained.headed(probe.chosen(known.embedding, known.y, known.patients, seed=1))

    tuned = tuning.tune(start, known.examples, known.examples, recipe, spec=tiny_bundle.input, device=chosen("cpu"))

    assert tuned.epochs < 10
    assert np.isfinite(tuned.loss)


# bundles


@pytest.mark.parametrize("depth", finetune.DEPTHS)
def test_every_depth_makes_a_bundle_that_scores(known_task, tiny_bundle, tmp_path, depth):
    made = finetune.finetune(known_task, making(tiny_bundle, depth=depth), budget(depth), tmp_path, say=lambda _: None)
    synth.write_archive(tmp_path / "archive", 6, seed=1, formats=("muse-xml",), workers=1)

    tally = score.run([tmp_path / "archive"], tmp_path / "run", [made, tiny_bundle], score.Options(batch=8))

    assert tally.n_scored == 6
    assert (made.parent is not None) == (depth in ("head", "probe"))
    assert (made.labels[0].code, made.labels[0].name) == ("rare", "rare thing")
    card = (made.folder / "CARD.md").read_text("utf-8")
    assert "synthetic, of nobody" in card
    assert "46 ECGs, 16 positive" in card
    assert "Not a medical device" in card


def test_a_probe_of_a_stored_run_is_that_of_the_ecgs_themselves(tiny_bundle, tmp_path):
    archive = tmp_path / "archive"
    written = synth.write_archive(archive, 60, seed=4, formats=("muse-xml",), workers=1)
    score.run([archive], tmp_path / "run", [tiny_bundle], score.Options(embeddings=True))
    scores = pl.read_parquet(tmp_path / "run" / "scores" / "*.parquet")
    assert len(written) == 60
    labels = scores.select("record_id").with_columns(rare=pl.int_range(pl.len()) % 3 == 0)
    labels.write_csv(tmp_path / "labels.csv")
    parent = Bundle.load(tiny_bundle.folder)

    result = CliRunner().invoke(
        app,
        [
            "train",
            "probe",
            str(tmp_path / "run"),
            str(tmp_path / "labels.csv"),
            "--label",
            "rare",
            "--folds",
            "3",
            "--model",
            str(parent.folder),
            "--out",
            str(tmp_path / "bundles"),
        ],
    )

    assert result.exit_code == 0, result.output
    made = Bundle.load(tmp_path / "bundles" / "rare")
    embedding = np.stack(scores["tiny/embedding"].to_numpy())
    is_rare = (np.arange(60) % 3) == 0
    expected = probe.chosen(embedding, is_rare, np.array([f"record {one}" for one in scores["record_id"]]), seed=1)
    head = eager.load(made, [parent]).network.head
    assert_allclose(head.weight.detach().numpy()[0], expected.weights, rtol=1e-4, atol=1e-7)


def test_a_probe_of_a_run_without_embeddings_says_what_to_do(tiny_bundle, tmp_path):
    synth.write_archive(tmp_path / "archive", 12, seed=4, formats=("muse-xml",), workers=1)
    score.run([tmp_path / "archive"], tmp_path / "run", [tiny_bundle], score.Options())
    (tmp_path / "labels.csv").write_text("record_id,rare\na,1\nb,0\n", "utf-8")

    result = CliRunner().invoke(
        app,
        [
            "train",
            "probe",
            str(tmp_path / "run"),
            str(tmp_path / "labels.csv"),
            "--label",
            "rare",
            "--model",
            str(tiny_bundle.folder),
            "--out",
            str(tmp_path / "bundles"),
        ],
    )

    assert result.exit_code == 2
    assert "--embeddings" in result.output


@pytest.mark.parametrize("n_positive", [5, 0], ids=["copies", "nothing known"])
def test_patients_of_a_probe_who_are_one_are_counted_once(tiny_bundle, tmp_path, n_positive):
    archive, run = tmp_path / "archive", tmp_path / "run"
    archive.mkdir()
    for at in range(11):
        (archive / f"{at:02}.xml").write_bytes(synth.muse_xml(synth.record(seed=max(at, n_positive))))
    score.run([archive], run, [tiny_bundle], score.Options(embeddings=True))
    rows = [f"{at:02}.xml,p{at},{(at < n_positive) * 1 if n_positive else ''}" for at in range(11)]
    (tmp_path / "labels.csv").write_text("\n".join(["record_id,patient_id,rare", *rows]) + "\n", "utf-8")
    command = ["train", "probe", str(run), str(tmp_path / "labels.csv"), "--label", "rare=1", "--model"]

    result = CliRunner().invoke(app, [*command, str(tiny_bundle.folder), "--out", str(tmp_path / "out")])

    assert result.exit_code == 2
    assert f"{n_positive and 1} positive patients in the run, expected at least 5" in result.output


def test_a_probe_is_of_a_finished_run_only(tiny_bundle, tmp_path):
    synth.write_archive(tmp_path / "archive", 12, seed=4, formats=("muse-xml",), workers=1)
    score.run([tmp_path / "archive"], tmp_path / "run", [tiny_bundle], score.Options(embeddings=True, shard_size=6))
    (tmp_path / "run" / "scores" / "part-000001.parquet").unlink()
    (tmp_path / "labels.csv").write_text("record_id,rare\na,1\nb,0\n", "utf-8")
    command = ["train", "probe", "run", "labels.csv", "--label", "rare", "--model", tiny_bundle.folder, "--out", "out"]
    paths = {"run", "labels.csv", "out"}

    result = CliRunner().invoke(app, [str(tmp_path / part if part in paths else part) for part in command])

    assert result.exit_code == 1
    assert "1 of 2 shards are done" in result.output


# figures


@pytest.mark.parametrize("n_values", [5, 1000], ids=["many-ties", "few-ties"])
def test_weighted_figures_are_those_of_the_records_repeated(rng, n_values):
    y, scored = rng.random(60) < 0.4, rng.integers(0, n_values, 60).astype(np.float64)
    weight = figures.resamples(np.arange(60).astype(str), n_draws=4, seed=1)

    for name, single in (("auc", metrics.auc), ("average_precision", metrics.average_precision)):
        found = getattr(figures, name)(y, scored, weight)
        for row, times in zip(found, weight.astype(int), strict=True):
            assert row == pytest.approx(single(np.repeat(y, times).astype(np.float32), np.repeat(scored, times)))


def test_the_first_draw_is_the_cohort_and_all_of_a_patient_are_drawn_together():
    weight = figures.resamples(np.array(["a", "a", "b", "c"]), n_draws=50)

    assert_array_equal(weight[0], 1)
    assert_array_equal(weight[:, 0], weight[:, 1])
    assert_array_equal(weight[:, [0, 2, 3]].sum(1), 3)


def test_a_score_that_is_the_confounder_is_found_out(known_task):
    site = (known_task.column("site") == "clinic").to_numpy()
    scores = pl.DataFrame(
        {"record": known_task.record_ids, "score": site.astype(np.float32), "repeat": 0, "seed": 0}
    ).with_columns(arm=pl.lit("finetune"), fold=pl.int_range(46) % 2)
    text = confounding.confounding(scores, known_task, "site", arms={"finetune": "fine-tuned"})

    assert "| clinic | 8 | 8 | fine-tuned | – | 1.000 (1.000 to 1.000) | – |" in text
    assert "| home | 38 | 8 | fine-tuned | – | 0.000 (0.000 to 0.000) | " in text


def test_a_column_of_as_many_values_as_ecgs_tells_nothing_by_itself(known_task):
    numbered = replace(known_task, columns=pl.DataFrame({"serial": known_task.record_ids.astype(str)}))
    scores = pl.DataFrame({"record": known_task.record_ids, "score": 0.0, "repeat": 0, "seed": 0, "arm": "finetune"})
    text = confounding.confounding(
        scores.with_columns(fold=pl.int_range(46) % 2), numbered, "serial", arms={"finetune": "fine-tuned"}
    )

    assert "with an AUC of 0.500 (0.500 to 0.500):" in text


def test_numbers_of_many_values_are_parted_at_their_median():
    parted = confounding.strata(pl.Series("seconds", np.arange(20) + 0.5))

    assert [is_in.sum() for is_in in parted.values()] == [10, 10]


def test_a_curve_is_well_formed_and_leaves_out_what_is_not_known():
    from xml.etree import ElementTree

    some = figures.Figure(0.8, 0.7, 0.9)
    nothing = figures.Figure(*[float("nan")] * 3)
    page = drawn([Point("a<b", 5, some), Point("a<b", 40, some), Point("c", 5, nothing)], x_name="n", y_name="AUC")

    assert len(ElementTree.fromstring(page).findall("{*}polyline")) == 1


# the comparison


@pytest.fixture(scope="module")
def compared(known_task: task.Task, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "out"
    compare.compare(known_task, tiny_bundle, plan(), budget(epochs=1), out)
    return out


def plan(**changed: object) -> compare.Plan:
    settings = {"arms": arms.ARMS, "n_folds": 2, "n_repeats": 2, "n_seeds": 1, "positives": (4, None)}
    return compare.Plan(**{**settings, "confounders": ("site",), **changed})  # type: ignore[arg-type]


def test_more_positives_than_there_are_is_all_of_them(known_task, tiny_bundle):
    known = finetune.known_of(known_task, finetune.pretrained_of(tiny_bundle))
    asked = plan(positives=(400, 4, 500, None), n_repeats=1, arms=("probe",))

    assert [unit.n_positives for unit in compare._units(asked, known) if unit.fold == 0] == [None, 4]


def test_every_record_is_judged_once_in_each_cross_validation_of_each_arm(compared, known_task):
    scores = pl.read_parquet(compared / "scores.parquet")

    assert scores.schema == compare.SCHEMA
    counts = scores.group_by("arm", "repeat", "seed", "n_positives", "record").len()
    assert counts["len"].unique().to_list() == [1]
    assert len(scores) == 3 * 2 * 2 * len(known_task.y)
    truth = dict(zip(known_task.record_ids, known_task.y, strict=True))
    assert all(truth[record] == positive for record, positive in scores.select("record", "positive").iter_rows())


def test_the_figures_for_programs_are_those_of_the_report(compared):
    found = json.loads((compared / "figures.json").read_text("utf-8"))
    report = (compared / "REPORT.md").read_text("utf-8")

    shown = {(row["n_positives"], row["arm"]): row["auc"] for row in found["figures"]}
    assert len(shown) == 2 * (3 + 3)
    for arm, name in (("finetune", "fine-tuned"), ("scratch", "from scratch"), ("probe", "linear probe")):
        for n in (4, None):
            auc = shown[n, arm]
            assert f"| {name} | {auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})" in report
    auc = shown[None, "finetune - scratch"]
    assert f"| fine-tuned less from scratch | {auc['value']:+.3f}" in report
    assert f"Begun with {found['from']}, data {found['data']}, seed 0, ecgbatch {found['ecgbatch']}." in report


def test_a_comparison_of_another_seed_is_of_another_partition(compared, known_task, tiny_bundle, tmp_path):
    compare.compare(known_task, tiny_bundle, plan(arms=("probe",), seed=1, n_repeats=1), budget(epochs=1), tmp_path)
    first = ("record", "fold")
    of_second = pl.col("repeat") == 1, pl.col("arm") == "probe"
    own = pl.read_parquet(tmp_path / "scores.parquet").select(first).unique().sort(first)
    whole = pl.read_parquet(compared / "scores.parquet")

    assert own.equals(whole.filter(of_second).select(first).unique().sort(first))
    assert not own.equals(whole.filter(pl.col("repeat") == 0).select(first).unique().sort(first))


def test_arms_are_judged_on_the_same_folds(compared):
    scores = pl.read_parquet(compared / "scores.parquet")
    of_arm = [
        scores.filter(pl.col("arm") == arm).select("repeat", "record", "fold", "n_positives").sort(pl.all())
        for arm in arms.ARMS
    ]

    assert of_arm[0].equals(of_arm[1])
    assert of_arm[0].equals(of_arm[2])


def test_no_arm_is_given_a_patient_who_judges_it(known_task, tiny_bundle, tmp_path, monkeypatch):
    seen: list[set[str]] = []
    learn = arms.learn

    def watched(arm, pretrained, known, spent, *, seed):
        seen.append(set(known.patients))
        return learn(arm, pretrained, known, spent, seed=seed)

    monkeypatch.setattr(compare, "learn", watched)
    compare.compare(known_task, tiny_bundle, plan(arms=("probe",), n_repeats=1), budget(), tmp_path / "out")

    scores = pl.read_parquet(tmp_path / "out" / "scores.parquet")
    patient = dict(zip(known_task.record_ids, known_task.patients, strict=True))
    units = scores.partition_by("fold", "n_positives", maintain_order=True)
    assert len(units) == len(seen) == 4
    for unit, training in zip(units, seen, strict=True):
        assert not training & {patient[record] for record in unit["record"]}


def test_a_comparison_that_was_stopped_goes_on_and_trains_nothing_again(compared, known_task, tiny_bundle, tmp_path):
    out = tmp_path / "out"
    compare.compare(known_task, tiny_bundle, plan(n_repeats=1), budget(epochs=1), out)
    first = {path.name: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}
    next(iter((out / "parts").glob("scratch-*"))).unlink()

    compare.compare(known_task, tiny_bundle, plan(), budget(epochs=1), out)

    kept = {path.name: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}
    assert sum(kept[name] == written for name, written in first.items()) == len(first) - 1
    assert pl.read_parquet(out / "scores.parquet").equals(pl.read_parquet(compared / "scores.parquet"))


def test_a_comparison_of_as_many_other_positives_is_refused(compared, known_task, tiny_bundle):
    other = replace(known_task, y=np.roll(known_task.y, 1))

    with pytest.raises(OutputError, match="holds a comparison with positives"):
        compare.compare(other, tiny_bundle, plan(), budget(epochs=1), compared)


def test_a_comparison_of_other_patients_is_refused(compared, known_task, tiny_bundle):
    other = replace(known_task, patients=np.roll(known_task.patients, 1))

    with pytest.raises(OutputError, match="holds a comparison with patients"):
        compare.compare(other, tiny_bundle, plan(), budget(epochs=1), compared)


@pytest.mark.parametrize("n_shared", [0, 2])
def test_a_comparison_that_said_nothing_of_patients_may_have_split_those_who_share_an_ecg(
    compared, known_task, tiny_bundle, tmp_path, n_shared
):
    folder = shutil.copytree(compared, tmp_path / "older")
    settings = json.loads((folder / "comparison.json").read_text("utf-8"))
    del settings["patients"]
    (folder / "comparison.json").write_text(json.dumps(settings), "utf-8")
    shared = replace(known_task, doubts=Doubts(n_shared_waveforms=n_shared))

    with pytest.raises(OutputError, match="patients not told") if n_shared else nullcontext():
        compare.compare(shared, tiny_bundle, plan(), budget(epochs=1), folder)


def test_a_comparison_of_other_settings_is_refused(compared, known_task, tiny_bundle):
    with pytest.raises(OutputError, match="holds a comparison with epochs 1"):
        compare.compare(known_task, tiny_bundle, plan(), budget(epochs=3), compared)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("comparison.json", "comparison.json: cannot be read: Expecting value"),
        ("parts/probe-all-repeat0-seed0-fold1.parquet", "fold1.parquet: cannot be read.*; delete it to have its fold"),
    ],
    ids=["settings", "part"],
)
def test_a_damaged_file_of_a_comparison_is_one_line(compared, known_task, tiny_bundle, tmp_path, name, message):
    out = Path(shutil.copytree(compared, tmp_path / "out"))
    (out / name).write_bytes(b"damaged")

    with pytest.raises(OutputError, match=message):
        compare.compare(known_task, tiny_bundle, plan(), budget(epochs=1), out)


def test_a_bundle_is_written_whose_command_no_utf_8_can_hold(known_task, tiny_bundle, tmp_path):
    """The bytes of a file name stand in the command as they came."""
    odd = making(tiny_bundle, depth="probe", command="ecgbatch train finetune caf\udce9.parquet")
    made = finetune.finetune(known_task, odd, budget("head"), tmp_path, say=lambda _: None)

    assert made.training["command"] == "ecgbatch train finetune caf?.parquet"


def test_the_report_compares_pairs_and_asks_for_the_confounder(compared):
    report = (compared / "REPORT.md").read_text("utf-8")

    assert "fine-tuned less from scratch" in report
    assert "Is it site that is found?" in report
    assert "## 4 positive patients" in report
    assert (compared / "curve.svg").read_text("utf-8").startswith("<svg")
    assert "p1" not in report


@pytest.mark.parametrize("n_negatives", [30, 27, 21])
def test_the_threshold_is_chosen_among_those_who_trained(known_task, tiny_bundle, n_negatives):
    pretrained = finetune.pretrained_of(tiny_bundle)
    known = finetune.known_of(known_task, pretrained)
    known = known.only(known.y | (np.cumsum(~known.y) <= n_negatives))
    learnt = arms.learn("probe", pretrained, known, budget(), seed=1)
    told = probe.out_of_fold(known.embedding, known.y, known.patients, penalty=learnt.rate, seed=1)

    share = (told[~known.y] < learnt.threshold).mean()
    assert arms.SPECIFICITY <= share < arms.SPECIFICITY + 1 / n_negatives


@pytest.mark.parametrize(
    ("chosen", "depth", "expected"),
    [([9, 11, 10], "all", 10), ([0, 0, 1, 1], "last", 1), ([0, 0, 1], "head", 0), ([2, 0, 3], "head", 2)],
)
def test_the_epochs_on_all_ecgs_are_the_median_of_the_folds(chosen, depth, expected):
    assert finetune._epochs(chosen, depth) == expected


def test_a_network_that_no_training_made_better_is_no_model(known_task, tiny_bundle, tmp_path, monkeypatch):
    nothing = figures.Figure(value=0.5, low=0.4, high=0.6)
    judged = finetune._Judged(
        logits=np.zeros(46), auc=nothing, precision=nothing, epochs=[0, 3, 0, 0, 1], rates=[1e-3] * 5
    )
    monkeypatch.setattr(finetune, "_judged", lambda *_, **__: judged)

    with pytest.raises(UsageError, match="no epoch of training was better than none"):
        finetune.finetune(known_task, making(tiny_bundle, depth="all"), budget("all"), tmp_path, say=lambda _: None)
    assert not list(tmp_path.iterdir())


def test_a_difference_of_two_arms_that_say_the_same_is_nothing(compared, known_task):
    from ecgbatch.train.comparison_report import draws

    scores = pl.read_parquet(compared / "scores.parquet").filter(pl.col("n_positives").is_null())
    one = draws(scores.filter(pl.col("arm") == "probe"), known_task)

    assert figures.figure(one["auc"] - one["auc"]) == figures.Figure(0, 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--depth", "deep"], "depth 'deep', expected one of all, last, head"),
        (["--depth", "probe"], "--depth probe, expected all, last or head"),
        (["--arms", "magic"], "arm 'magic'"),
        (["--positives", "5,few"], "positives 'few'"),
        (["--against", "0", "--label", "rare"], "--label rare=VALUE"),
    ],
    ids=["depth", "depth-of-an-arm", "arm", "positives", "against"],
)
def test_an_option_that_makes_no_sense_is_one_line(table, tiny_bundle, tmp_path, options, message):
    label = [] if "--label" in options else ["--label", "rare=1"]
    result = CliRunner().invoke(
        app,
        [
            "train",
            "compare",
            str(table),
            "--from",
            str(tiny_bundle.folder),
            "--out",
            str(tmp_path / "out"),
            *label,
            *options,
        ],
    )

    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("name", ["brugada", "."], ids=["a-folder-of-ecgs", "the-folder-itself"])
def test_no_folder_of_the_users_is_replaced_by_a_bundle(table, tiny_bundle, tmp_path, name):
    ecg = tmp_path / "out" / "brugada" / "a1.xml"
    ecg.parent.mkdir(parents=True)
    ecg.touch()
    words = ["train", "finetune", str(table), "--label", "rare=1", "--depth", "probe", "--folds", "3", "--name", name]

    result = CliRunner().invoke(app, [*words, "--from", str(tiny_bundle.folder), "--out", str(ecg.parents[1])])

    assert result.exit_code in (1, 2)
    assert len(result.stderr.splitlines()) == 1  # no fold was trained
    assert ecg.exists()


def test_a_bundle_is_not_called_like_its_parent(tiny_bundle):
    with pytest.raises(UsageError, match="name 'tiny'"):
        making(tiny_bundle, name="tiny")


def test_a_head_is_not_fine_tuned(tiny_bundle):
    from ecgbatch.bundle import Parent

    with pytest.raises(UsageError, match="start from that one"):
        making(replace(tiny_bundle, parent=Parent(name="other", sha256="0")))
