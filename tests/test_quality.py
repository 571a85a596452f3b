"""Signal quality: kernel and definition agree, each measure sees the defect it names, the gate refuses when asked."""

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from ecgbatch import _kernels, cli, gate, quality, score, synth, waveform
from ecgbatch.bundle import SHIPPED
from ecgbatch.errors import BundleError, OutputError, UsageError
from ecgbatch.feed import batch, host
from ecgbatch.quality import MEASURES
from ecgbatch.record import INDEPENDENT_LEADS, INVALID, LEADS, Record

FLOAT32 = {"rtol": 2e-3, "atol": 2e-3}
"""Sums of some thousand float32; in µV, or of shares and correlations."""
V3 = INDEPENDENT_LEADS.index("V3")


def measured(nv: np.ndarray, fs_hz: float) -> np.ndarray:
    out = np.empty((len(MEASURES), 8), np.float32)
    _kernels.lead_measures(np.ascontiguousarray(nv), fs_hz, out)
    return out


def clean(*, seed: int = 3, fs_hz: float = 500, seconds: float = 10) -> np.ndarray:
    """float64 µV (8, time) of a sinus rhythm without the noise that recordings have."""
    record = synth.record(seed=seed, rhythm="sinus", fs_hz=fs_hz, seconds=seconds)
    return host.nanovolts(record, INDEPENDENT_LEADS) * 1e-3


def worst_of(uv: np.ndarray, fs_hz: float = 500) -> dict[str, float]:
    worst = quality.worst(measured(np.rint(uv * 1000).astype(np.int32), fs_hz))
    return dict(zip(MEASURES, worst.tolist(), strict=True))


def quality_of(record: Record):
    flat = host.flat_leads(record)
    compared = gate.comparable(record.leads, flat)
    nv = host.measured(record, INDEPENDENT_LEADS + compared, flat)[0]
    return gate.measure(nv, record.fs_hz, flat, compared)


def with_limb(record: Record, lead: str, counts: np.ndarray) -> Record:
    changed = record.counts.copy()
    changed[record.leads.index(lead)] = counts
    return replace(record, counts=changed)


@pytest.mark.parametrize("fs_hz", [100, 240, 250, 257, 360, 400, 500, 977.6, 1000, 2000])
def test_the_kernel_measures_what_the_definition_says_at_every_rate(fs_hz):
    nv = np.rint(clean(fs_hz=fs_hz, seconds=9.7) * 1000).astype(np.int32)

    assert_allclose(measured(nv, fs_hz), quality.lead_measures(nv, fs_hz), **FLOAT32)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 3000),
    fs_hz=st.sampled_from([50.0, 125.0, 250.0, 500.0, 1000.0, 4000.0]),
    gaps=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)
def test_the_kernel_measures_what_the_definition_says_whatever_the_signal(seed, n, fs_hz, gaps):
    rng = np.random.default_rng(seed)
    nv = rng.integers(-2_000_000, 2_000_000, (8, n), dtype=np.int32) // 5000 * 5000
    nv[rng.random(8) < 0.2] = 7
    nv[rng.random((8, n)) < gaps] = INVALID

    assert_allclose(measured(nv, fs_hz), quality.lead_measures(nv, fs_hz), rtol=5e-3, atol=0.05)


def test_real_ecgs_good_and_poor_are_measured_as_defined(data):
    frame = pl.read_parquet(data / "data" / "cinc2011_quality.parquet").sample(40, seed=1)
    at = [LEADS.index(lead) for lead in INDEPENDENT_LEADS]
    for samples in frame["samples"]:
        nv = np.array(samples, np.int32).reshape(12, -1)[at] * 5000

        assert_allclose(measured(nv, 500), quality.lead_measures(nv, 500), rtol=5e-3, atol=0.05)


def test_measures_of_the_largest_and_smallest_signals_are_finite():
    extreme = np.full((8, 5000), INVALID + 1, np.int32)
    extreme[:, ::2] = -(INVALID + 1)

    assert np.isfinite(measured(extreme, 500)).all()
    assert np.isfinite(measured(np.full((8, 5000), INVALID, np.int32), 500)).all()


def test_kernels_refuse_what_is_no_record_of_eight_leads():
    out = np.empty((len(MEASURES), 8), np.float32)
    nv = np.zeros((8, 100), np.int32)
    for wrong in ((nv[:7], 500.0, out), (nv, 500.0, out[:3]), (nv[:, :0].copy(), 500.0, out), (nv, 0.0, out)):
        with pytest.raises(ValueError, match="is"):
            _kernels.lead_measures(*wrong)
    with pytest.raises(ValueError, match="I and II first"):
        _kernels.limb_residuals(nv, 6, [(1.0, 0.0)] * 3, 500.0)
    with pytest.raises(ValueError, match="a weight for every measure"):
        _kernels.Gate([], 0.0)


def flat(uv: np.ndarray, rng: np.random.Generator) -> None:
    uv[V3, 1000:4500] = uv[V3, 1000]


def clipped(uv: np.ndarray, rng: np.random.Generator) -> None:
    uv[V3] = np.clip(uv[V3], *np.quantile(uv[V3], [0.13, 0.87]))


def spike(uv: np.ndarray, rng: np.random.Generator) -> None:
    uv[V3, 2345] += 6000


def wander(uv: np.ndarray, rng: np.random.Generator) -> None:
    uv[V3] += 1500 * np.sin(2 * np.pi * 0.3 * np.arange(uv.shape[1]) / 500)


def noise(uv: np.ndarray, rng: np.random.Generator) -> None:
    uv[V3] += rng.normal(0, 40, uv.shape[1])


def mains(uv: np.ndarray, rng: np.random.Generator) -> None:
    uv[V3] += 80 * np.sin(2 * np.pi * 50.02 * np.arange(uv.shape[1]) / 500 + 1)


def without_qrs(uv: np.ndarray, rng: np.random.Generator) -> None:
    from numpy.fft import irfft, rfft

    phases = np.exp(2j * np.pi * rng.random(uv.shape[1] // 2 + 1))
    uv[V3] = irfft(rfft(uv[V3]) * phases, uv.shape[1])  # the same power at every frequency, but no beats


DEFECTS = {
    flat: (
        "flat_share",
        {"clipped_share", "spike_uv", "amplitude_uv", "qrs_uv", "qrs_agreement", "noise_uv", "wander_uv"},
    ),
    clipped: ("clipped_share", {"amplitude_uv", "flat_share", "qrs_uv", "qrs_agreement", "spike_uv"}),
    spike: ("spike_uv", {"amplitude_uv"}),
    wander: ("wander_uv", {"amplitude_uv"}),
    noise: ("noise_uv", {"mains_uv", "qrs_agreement", "amplitude_uv"}),
    mains: ("mains_uv", {"qrs_agreement", "amplitude_uv"}),
    without_qrs: ("qrs_agreement", {"amplitude_uv", "qrs_uv", "spike_uv", "noise_uv", "wander_uv", "mains_uv"}),
}
"""Each defect with the measure that names it, and those that it cannot but touch."""


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_each_measure_reacts_to_the_defect_it_names_and_to_no_other(defect, seed, rng):
    named, touched = DEFECTS[defect]
    uv = clean(seed=seed)
    before = worst_of(uv)
    defect(uv, rng)
    after = worst_of(uv)
    floor = {
        name: 30 if name in ("spike_uv", "wander_uv") else 5 if name.endswith("_uv") else 0.05 for name in MEASURES
    }
    change = {name: abs(after[name] - before[name]) / floor[name] for name in MEASURES}

    assert change[named] > 4
    assert [name for name in MEASURES if name not in {named, *touched} and change[name] > 1.5] == []


@pytest.mark.parametrize("fs_hz", [250, 360, 500, 1000, 2000])
@pytest.mark.parametrize("mains_hz", [50, 60])
def test_mains_read_their_amplitude_at_every_rate(fs_hz, mains_hz):
    t_s = np.arange(10 * fs_hz) / fs_hz
    worst = worst_of(np.tile(50 * np.sin(2 * np.pi * mains_hz * t_s), (8, 1)), fs_hz)

    assert worst["mains_uv"] == pytest.approx(50, rel=0.05)
    assert worst["noise_uv"] < 3


def test_a_lead_without_signal_is_flat_and_not_clipped():
    uv = clean()
    uv[V3] = 0
    lead = dict(zip(MEASURES, measured(np.rint(uv * 1000).astype(np.int32), 500)[:, V3].tolist(), strict=True))

    assert lead["flat_share"] == 1
    assert [lead[name] for name in MEASURES if name != "flat_share"] == [0] * 8


def test_missing_samples_are_flat():
    nv = np.random.default_rng(0).integers(-1000, 1000, (8, 5000), dtype=np.int32)
    nv[V3, 500:2500] = INVALID

    assert quality.worst(measured(nv, 500))[MEASURES.index("flat_share")] == pytest.approx(0.4, abs=0.01)


def test_the_gates_kernel_weighs_what_the_definition_says(rng):
    shipped = gate.shipped()
    measures = np.stack([measured(np.rint(clean(seed=seed) * 1000).astype(np.int32), 500) for seed in range(5)])
    at = [MEASURES.index(name) for name in gate.WEIGHED]
    features = quality.features(measures)[:, at + [len(MEASURES) + k for k in at]]
    logit = features @ np.array([*shipped.worst, *shipped.middle]) + shipped.intercept

    assert_allclose([shipped(each)[0] for each in measures], 1 / (1 + np.exp(-logit)), rtol=1e-5)
    assert_allclose([shipped(each)[1] for each in measures], quality.worst(measures))


@pytest.mark.parametrize("defect", [flat, spike, wander, noise, mains, without_qrs], ids=lambda defect: defect.__name__)
def test_no_defect_makes_an_ecg_better(defect, rng):
    uv = clean()
    before, _ = gate.shipped()(measured(np.rint(uv * 1000).astype(np.int32), 500))
    defect(uv, rng)
    after, _ = gate.shipped()(measured(np.rint(uv * 1000).astype(np.int32), 500))

    assert after < before


def test_synthetic_ecgs_are_good_at_every_rate():
    found = [
        quality_of(synth.record(seed=seed, fs_hz=fs_hz)).quality for fs_hz in (250, 500, 1000) for seed in range(30)
    ]

    assert np.mean(np.array(found) > 0.8) > 0.95


def test_an_ecg_whose_leads_are_mostly_noise_is_poor(rng):
    record = synth.record(seed=3, rhythm="sinus")
    counts = record.counts.copy()
    counts[2:7] = np.rint(rng.normal(0, 100, (5, record.n_samples)))
    found = quality_of(replace(record, counts=counts))

    assert found.quality < 0.2
    assert found.poor_leads == ("V1", "V2", "V3", "V4", "V5")


@pytest.fixture(scope="module")
def judged(data):
    """The ECGs that readers judged."""
    quality_gate = pytest.importorskip("ecgbatch.train.quality_gate", reason="needs the extra 'train'")
    return quality_gate.read(data / "data" / "cinc2011_quality.parquet")


def test_the_gate_was_right_in_92_of_100_ecgs_it_had_not_seen(judged):
    from ecgbatch.train import quality_gate

    probabilities, _ = quality_gate.cross_validated(judged, n_splits=1)

    assert ((probabilities >= 0.5) == judged.is_good[:, None]).mean() >= 0.92


def test_the_gate_that_ships_is_the_one_that_its_data_give(judged):
    from ecgbatch.train import quality_gate

    shipped = gate.shipped()
    training = tomllib.loads((SHIPPED / "quality" / "gate.toml").read_text("utf-8"))["training"]
    weights = quality_gate.fit(judged.features, judged.is_good, training["ridge"])

    assert judged.sha256 == training["sha256"]
    assert_allclose([*shipped.worst, *shipped.middle, shipped.intercept], weights, rtol=1e-3, atol=1e-3)


def test_the_readme_says_of_the_gate_what_its_card_does():
    card = (SHIPPED / "quality" / "CARD.md").read_text("utf-8")
    accuracy = card.partition("**accuracy** at 0.5 | **")[2].partition("**")[0]

    assert len(accuracy) == len("0.123 (0.123 to 0.123)")
    assert accuracy in (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def test_a_gate_that_weighs_something_else_is_refused(tmp_path):
    (tmp_path / "gate.toml").write_text('version = "1"\nintercept = 0\n[weights]\nnoise_uv = [1, 2]\n')

    with pytest.raises(BundleError, match="expected of flat_share"):
        gate.Gate.load(tmp_path / "gate.toml")


@pytest.mark.parametrize(
    ("stored", "flat", "compared"),
    [
        (INDEPENDENT_LEADS, (), ()),
        (LEADS, (), ("III", "aVR", "aVL", "aVF")),
        (LEADS, ("aVR",), ("III", "aVL", "aVF")),
        (("II", "III", *INDEPENDENT_LEADS[2:]), (), ()),
        (("II", "III", "aVF", *INDEPENDENT_LEADS[2:]), (), ("III", "aVF")),
    ],
    ids=["eight", "twelve", "a flat one", "two limb leads", "three without I"],
)
def test_limb_leads_are_compared_where_they_could_contradict_each_other(stored, flat, compared):
    assert gate.comparable(stored, flat) == compared


@pytest.mark.parametrize("fs_hz", [100, 360, 500])
@pytest.mark.parametrize("missing", [slice(0), slice(30, 50), slice(None)], ids=["none", "some", "all"])
def test_the_residuals_kernel_is_its_twin(fs_hz, missing, rng):
    nv = rng.integers(-2_000_000, 2_000_000, (12, 10 * fs_hz), dtype=np.int32)
    nv[9, missing] = INVALID
    weights = [tuple(row) for row in waveform.mixing(("I", "II"), quality.LIMB_LEADS).tolist()]
    expected = [quality.limb_residual(nv, 8 + at, lead, fs_hz)[0] for at, lead in enumerate(quality.LIMB_LEADS)]

    assert_allclose(_kernels.limb_residuals(nv, 8, weights, fs_hz), expected, rtol=1e-5)


def test_leads_that_obey_einthoven_have_a_residual_of_rounding_only():
    found = quality_of(synth.record(seed=3, leads=LEADS))

    assert 0 < found.limb_residual_uv < 5
    assert not found.leads_suspect


def test_without_stored_limb_leads_there_is_no_residual():
    found = quality_of(synth.record(seed=3))

    assert (found.limb_residual_uv, found.leads_suspect) == (None, False)


@pytest.mark.parametrize(
    "broken",
    [
        lambda x: {"I": x["II"], "II": x["I"]},
        lambda x: {"III": -x["III"]},
        lambda x: {"aVR": -x["aVR"]},
        lambda x: {"aVL": x["V2"]},
        lambda x: {"aVF": 3 * x["aVF"]},
    ],
    ids=["I and II swapped", "III reversed", "aVR reversed", "aVL is V2", "aVF of another gain"],
)
def test_swapped_and_mislabelled_limb_leads_are_suspect(broken):
    record = synth.record(seed=3, rhythm="sinus", leads=LEADS)
    for lead, counts in broken(dict(zip(LEADS, record.counts, strict=True))).items():
        record = with_limb(record, lead, counts)
    found = quality_of(record)

    assert found.leads_suspect
    assert found.limb_residual_uv > gate.RESIDUAL_UV


@pytest.mark.parametrize(("factor", "is_suspect"), [(0.02, True), (1, False), (20, True)])
def test_an_amplitude_that_no_heart_has_is_suspect(factor, is_suspect):
    record = synth.record(seed=3, rhythm="sinus")
    uv_per_count = tuple(factor * gain for gain in record.uv_per_count)

    assert quality_of(replace(record, uv_per_count=uv_per_count)).amplitude_suspect == is_suspect


@pytest.fixture
def mixed(tmp_path, rng):
    """A folder of two good ECGs and one that is noise in five leads."""
    folder = tmp_path / "archive"
    folder.mkdir()
    record = synth.record(seed=3, rhythm="sinus")
    counts = record.counts.copy()
    counts[2:7] = np.rint(rng.normal(0, 100, (5, record.n_samples)))
    (folder / "a.xml").write_bytes(synth.muse_xml(record))
    (folder / "b.xml").write_bytes(synth.muse_xml(replace(record, counts=counts)))
    (folder / "c.xml").write_bytes(synth.muse_xml(synth.record(seed=4, rhythm="sinus")))
    return folder


def test_poor_ecgs_are_scored_where_nothing_else_is_asked(scored, mixed):
    _, scores, rejects = scored(mixed)

    assert len(rejects) == 0
    assert [q > 0.5 for q in scores["quality"]] == [True, False, True]
    assert scores["poor_leads"][1].to_list() == ["V1", "V2", "V3", "V4", "V5"]


def test_poor_ecgs_are_rejects_where_that_is_asked(scored, mixed):
    _, scores, rejects = scored(mixed, reject_poor=0.5)
    (reject,) = rejects.rows(named=True)

    assert scores["record_id"].to_list() == ["a.xml", "c.xml"]
    assert (reject["record_id"], reject["stage"], reject["reason"]) == ("b.xml", "prepare", "poor-quality")
    assert reject["detail"].endswith("poor leads V1, V2, V3, V4, V5, expected at least 0.5")


def test_an_ecg_of_exactly_the_quality_asked_for_is_scored(scored, mixed):
    least = quality_of(synth.record(seed=4, rhythm="sinus")).quality
    _, scores, _ = scored(mixed, reject_poor=least)

    assert "c.xml" in scores["record_id"]


def test_the_gate_leaves_the_scores_of_what_it_lets_through_alone(scored, mixed, tmp_path):
    _, all_of_them, _ = scored(mixed, out=tmp_path / "all")
    _, good, _ = scored(mixed, out=tmp_path / "good", reject_poor=0.5)
    columns = [name for name in good.columns if name.startswith("tiny/")]

    assert_allclose(good[columns].to_numpy(), all_of_them[[0, 2]][columns].to_numpy(), atol=1e-5)


@pytest.mark.parametrize("other", [{}, {"reject_poor": 0.6}], ids=["none", "another"])
def test_another_gate_on_an_existing_run_is_refused(scored, mixed, other):
    scored(mixed, reject_poor=0.5)

    with pytest.raises(OutputError, match="holds a run with reject-poor"):
        scored(mixed, **other)


def test_a_quality_beyond_1_makes_no_sense():
    with pytest.raises(UsageError, match="expected 0 to 1"):
        score.Options(reject_poor=1.5)


def test_the_command_rejects_poor_ecgs_and_says_so(mixed, tiny_bundle, tmp_path):
    arguments = ["score", mixed, "--out", tmp_path / "run", "--model", tiny_bundle.folder, "--reject-poor", "0.5"]
    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    facts = json.loads((tmp_path / "run" / "run.json").read_text())

    assert done.exit_code == 3
    assert facts["counts"]["rejects"] == {"poor-quality": 1}
    assert facts["settings"]["reject_poor"] == f"0.5 (gate {gate.shipped().version})"


def test_the_training_command_writes_a_gate_that_loads_and_a_card(data, tmp_path, monkeypatch):
    quality_gate = pytest.importorskip("ecgbatch.train.quality_gate", reason="needs the extra 'train'")
    frame = pl.read_parquet(data / "data" / "cinc2011_quality.parquet").sample(150, seed=2)
    frame.write_parquet(tmp_path / "judged.parquet")
    monkeypatch.setattr(quality_gate, "N_SPLITS", 1)
    done = CliRunner().invoke(cli.app, ["train", "gate", str(tmp_path / "judged.parquet"), "--out", str(tmp_path)])

    assert done.exit_code == 0
    assert math.isfinite(gate.Gate.load(tmp_path / "gate.toml").intercept)
    assert "150 ECGs, 5-fold cross-validation" in (tmp_path / "CARD.md").read_text("utf-8")


def judged_table(path: Path, verdicts: list[str], **columns: list[Any]) -> Path:
    """ECGs that readers judged so."""
    ecgs = [synth.record(seed=at, fs_hz=250, uv_per_count=1.0) for at in range(len(verdicts))]
    frame = {
        "quality": verdicts,
        "fs_hz": [ecg.fs_hz for ecg in ecgs],
        "uv_per_count": [1.0] * len(ecgs),
        "leads": [list(ecg.leads) for ecg in ecgs],
        "samples": [ecg.counts.astype(np.int16).ravel() for ecg in ecgs],
        **columns,
    }
    pl.DataFrame(frame, schema_overrides={"samples": pl.List(pl.Int16)}).write_parquet(path)
    return path


def test_judged_ecgs_of_no_known_patient_are_of_patients_of_their_own(tmp_path):
    quality_gate = pytest.importorskip("ecgbatch.train.quality_gate", reason="needs the extra 'train'")
    path = judged_table(tmp_path / "judged.parquet", ["acceptable"] * 4, patient_id=["a", "a", None, None])

    patients = quality_gate.read(path).patients

    assert patients[0] == patients[1]
    assert len(set(patients)) == 3


def test_a_gate_that_cannot_be_written_is_one_line_before_it_is_trained(tmp_path):
    pytest.importorskip("ecgbatch.train.quality_gate", reason="needs the extra 'train'")
    (tmp_path / "file").touch()
    words = ["train", "gate", str(tmp_path / "gone.parquet"), "--out", str(tmp_path / "file")]
    done = CliRunner().invoke(cli.app, words)

    assert done.exit_code == 1
    assert done.stderr == f"error: {tmp_path / 'file'}: cannot be made: File exists\n"


def test_a_gate_for_which_there_is_no_room_is_one_line(small_disk, tmp_path, monkeypatch):
    quality_gate = pytest.importorskip("ecgbatch.train.quality_gate", reason="needs the extra 'train'")
    path = judged_table(tmp_path / "judged.parquet", ["acceptable", "unacceptable"] * 20)
    monkeypatch.setattr(quality_gate, "N_SPLITS", 1)
    (small_disk / "full").write_bytes(bytes(160 * 1024))

    with pytest.raises(OutputError, match=r"disk: cannot be written: No space left on device$"):
        quality_gate.train(path, small_disk)


def test_verdicts_that_are_none_are_counted_and_not_quoted(tmp_path):
    pytest.importorskip("ecgbatch.train.quality_gate", reason="needs the extra 'train'")
    path = judged_table(tmp_path / "judged.parquet", ["acceptable", "Jane Doe", "John Doe", "unacceptable"])
    done = CliRunner().invoke(cli.app, ["train", "gate", str(path), "--out", str(tmp_path)])

    assert done.exit_code == 2
    assert "2 ECGs of another quality than 'acceptable' and 'unacceptable'" in done.stderr
    assert "Doe" not in done.output


def test_a_table_without_verdicts_is_refused(tmp_path):
    pytest.importorskip("ecgbatch.train.quality_gate", reason="needs the extra 'train'")
    pl.DataFrame({"fs_hz": [500]}).write_parquet(tmp_path / "judged.parquet")
    done = CliRunner().invoke(cli.app, ["train", "gate", str(tmp_path / "judged.parquet"), "--out", str(tmp_path)])

    assert done.exit_code == 2
    assert "no column quality" in done.stderr


def test_hash_and_quality_change_only_with_the_version_of_the_judgement():
    """A pack keeps them under that version: whoever changes them raises `gate._MEASURED`, and these figures."""
    t = np.arange(5000)
    beats = np.maximum(0, 600 - 60 * np.abs(t % 400 - 10))
    nv = np.stack([1000 * (beats * (k + 1) // 4 + t * t * (k + 1) % 41) for k in range(8)]).astype(np.int32)
    found = gate.measure(nv, 500.0, ())
    figures = {"quality": 0.998494, "amplitude_uv": 1240.0, "clipped_share": 0.0236, "spike_uv": 9.50006}
    figures |= {
        "wander_uv": 48.292,
        "noise_uv": 13.1295,
        "mains_uv": 3.27874,
        "qrs_uv": 146.5,
        "qrs_agreement": 0.956709,
    }

    assert gate.judgement() == "1.0.0/1"
    assert batch.waveform_hash(nv, 500.0) == "90349f4846b8cd6b93c840618e2072db"
    assert_allclose([getattr(found, name) for name in figures], list(figures.values()), rtol=1e-3)
