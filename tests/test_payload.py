"""What leaves the host for a device: the payload of a record, and the arithmetic of one thread, run here in a loop."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from ecgbatch import _kernels, waveform
from ecgbatch.bundle import InputSpec
from ecgbatch.errors import RecordError
from ecgbatch.feed import host, payload
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Reason, Record

SPEC = InputSpec(leads=INDEPENDENT_LEADS, fs_hz=250, seconds=4.0, min_seconds=2.0, scale_mv=(0.2, 0.3) * 4, clip=20.0)
CENTRED = replace(SPEC, filter="offset")
TWELVE = replace(SPEC, leads=LEADS, scale_mv=(0.2, 0.3) * 6, fs_hz=100)
RATES_HZ = [100, 128.5, 250, 257, 360, 499.9, 500, 977, 1000]
ROOT = Path(__file__).parents[1]
TOLERANCE = 2e-5
"""Of sums of float32, in another order than the reference's float64."""


def noisy(
    rng,
    *,
    fs_hz: float = 500,
    seconds: float = 4.5,
    leads: tuple[str, ...] = INDEPENDENT_LEADS,
    dtype: type = np.int16,
    layout: str = "planar",
    invalid_count: int | None = None,
) -> Record:
    """Noise of about 1 mV, as a file of that layout would hold it."""
    n = len(leads)
    counts = rng.normal(0, 250, (n, round(fs_hz * seconds))).astype(dtype)
    match layout:
        case "interleaved":
            counts = counts.T.copy().T
        case "some-channels":
            counts = np.repeat(counts, 2, axis=0).T.copy().T[::2]
    return Record(
        format="test",
        fs_hz=fs_hz,
        leads=leads,
        counts=counts,
        uv_per_count=tuple(4.88 + 0.01 * i for i in range(n)),
        zero_counts=tuple(float(3 * i - 7) for i in range(n)),
        invalid_count=invalid_count,
    )


def jobs(records: list[Record], spec: InputSpec, flat: tuple[str, ...] = ()) -> _kernels.Jobs:
    made = [payload.of(record, spec, flat) for record in records]
    return _kernels.Jobs([(one.counts, one.taps, one.recipe.tobytes()) for one in made])


def inputs(records: list[Record], spec: InputSpec, face: str, flat: tuple[str, ...] = ()) -> np.ndarray:
    """Model input (record, lead, time), by whole records as on a CPU, or by sample as on a GPU."""
    out = np.full((len(records), len(spec.leads), spec.samples), np.nan, np.float32)
    batch = jobs(records, spec, flat)
    (batch if face == "by-record" else batch.by_sample)(spec.clip, out)
    return out


def reference(record: Record, spec: InputSpec) -> np.ndarray:
    return waveform.prepare(
        record,
        leads=spec.leads,
        fs_hz=spec.fs_hz,
        samples=spec.samples,
        scale_mv=np.array(spec.scale_mv),
        clip=spec.clip,
        filter=spec.filter,
    )


faces = pytest.mark.parametrize("face", ["by-record", "by-sample"])


@faces
@pytest.mark.parametrize("spec", [SPEC, CENTRED, TWELVE], ids=["eight-leads-250Hz", "centred", "twelve-leads-100Hz"])
def test_a_batch_of_mixed_rates_and_lengths_is_the_references(rng, face, spec):
    lengths_s = [2.0, 2.013, 3.998, 4.0, 4.002, 5.5]
    records = [noisy(rng, fs_hz=fs_hz, seconds=lengths_s[i % 6]) for i, fs_hz in enumerate(RATES_HZ * 2)]

    got = inputs(records, spec, face)

    assert_allclose(got, [reference(record, spec) for record in records], rtol=0, atol=TOLERANCE)


@faces
@pytest.mark.parametrize("layout", ["planar", "interleaved", "some-channels"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32], ids=["int16", "int32"])
@pytest.mark.parametrize(
    "leads",
    [INDEPENDENT_LEADS, LEADS, (*LEADS[6:], "aVF", "aVL"), ("V6", "III", "V1", "I", "V2", "V3", "V4", "V5")],
    ids=["independent", "twelve", "from-augmented", "shuffled"],
)
def test_every_layout_and_set_of_leads_is_the_references(rng, face, leads, dtype, layout):
    records = [noisy(rng, leads=leads, dtype=dtype, layout=layout, seconds=s) for s in (4.5, 2.002)]

    assert_allclose(inputs(records, TWELVE, face), [reference(r, TWELVE) for r in records], rtol=0, atol=TOLERANCE)


@faces
@pytest.mark.parametrize("spec", [CENTRED, replace(TWELVE, filter="offset")], ids=["eight", "twelve"])
def test_each_record_has_offsets_of_its_own(rng, face, spec):
    records = [noisy(rng, leads=LEADS, dtype=dtype) for dtype in (np.int16, np.int16, np.int32)]
    moved = [replace(one, zero_counts=tuple(rng.normal(0, 2000, len(LEADS)).tolist())) for one in records]

    assert_allclose(inputs(moved, spec, face), [reference(one, spec) for one in moved], rtol=0, atol=TOLERANCE)


@faces
def test_int16_and_int32_records_share_a_batch(rng, face):
    records = [noisy(rng, dtype=dtype, seconds=2.002) for dtype in (np.int16, np.int32, np.int16)]

    assert_allclose(inputs(records, SPEC, face), [reference(r, SPEC) for r in records], rtol=0, atol=TOLERANCE)


@faces
def test_int32_counts_at_an_odd_address_are_read_as_they_are(rng, face):
    record = noisy(rng, dtype=np.int32, layout="interleaved")
    one = payload.of(record, SPEC)
    shifted = np.concatenate([np.zeros(1, np.int16), one.counts])[1:]
    out = np.empty((1, 8, SPEC.samples), np.float32)
    batch = _kernels.Jobs([(shifted, one.taps, one.recipe.tobytes())])
    (batch if face == "by-record" else batch.by_sample)(SPEC.clip, out)

    assert_allclose(out[0], reference(record, SPEC), rtol=0, atol=TOLERANCE)


@faces
def test_a_flat_lead_is_derived_as_on_the_host(rng, face):
    record = noisy(rng, leads=LEADS)
    record.counts[LEADS.index("II")] = 5
    expected = np.empty((8, SPEC.samples), np.float32)
    host.normalise(record, SPEC, expected)

    assert_allclose(inputs([record], SPEC, face, flat=("II",))[0], expected, rtol=0, atol=TOLERANCE)
    assert expected[1].std() > 0.1


@faces
def test_what_is_marked_missing_behind_the_models_view_does_not_matter(rng, face):
    record = noisy(rng, invalid_count=-32768, seconds=8)
    expected = reference(record, SPEC)
    record.counts[:, -100:] = -32768

    assert_allclose(inputs([record], SPEC, face)[0], expected, rtol=0, atol=TOLERANCE)


@faces
def test_a_marked_sample_is_missing_and_not_a_voltage(rng, face):
    record = noisy(rng, fs_hz=250, invalid_count=0)
    record.counts[0, 7] = 0
    (x,) = inputs([record], SPEC, face)

    assert x[0, 7] == -SPEC.clip


@faces
@pytest.mark.parametrize("n_records", [1, 3, 7])
def test_all_of_a_batch_is_written_whether_or_not_it_fills_its_blocks(rng, face, n_records):
    spec = replace(SPEC, leads=("V1",), scale_mv=(0.5,))
    records = [noisy(rng, seconds=2.5) for _ in range(n_records)]

    assert_allclose(inputs(records, spec, face), [reference(r, spec) for r in records], rtol=0, atol=TOLERANCE)
    assert n_records * spec.samples % 256


def test_counts_are_not_copied_where_they_lie_in_one_piece(rng):
    for layout in ("planar", "interleaved"):
        record = noisy(rng, layout=layout)
        assert np.shares_memory(payload.of(record, SPEC).counts, record.counts)


def test_records_of_one_device_share_a_recipe(rng):
    first, second = (payload.of(noisy(rng), SPEC) for _ in range(2))

    assert first.recipe is second.recipe
    assert first.taps is second.taps


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seconds": 1.9}, Reason.TOO_SHORT),
        ({"leads": INDEPENDENT_LEADS[:7]}, Reason.MISSING_LEADS),
    ],
    ids=["too-short", "missing-lead"],
)
@pytest.mark.parametrize("spec", [SPEC, TWELVE], ids=["eight-leads", "twelve-leads"])
def test_a_record_that_a_model_cannot_take_never_becomes_a_payload(rng, changes, reason, spec):
    assert refusal(noisy(rng, **changes), spec) == reason


@pytest.mark.parametrize("spec", [SPEC, TWELVE], ids=["eight-leads", "twelve-leads"])
def test_a_record_with_samples_missing_in_the_models_view_never_becomes_a_payload(rng, spec):
    record = noisy(rng, invalid_count=-32768)
    record.counts[3, 40] = -32768

    assert refusal(record, spec) == Reason.INVALID_SAMPLES


@pytest.mark.parametrize("spec", [SPEC, TWELVE], ids=["eight-leads", "twelve-leads"])
def test_a_record_without_signal_in_the_models_view_never_becomes_a_payload(rng, spec):
    record = noisy(rng, seconds=spec.seconds + 2)
    record.counts[:, : round(spec.seconds * record.fs_hz)] = 9

    assert refusal(record, spec) == Reason.NO_SIGNAL


def refusal(record: Record, spec: InputSpec) -> str:
    stored = tuple(lead for lead in INDEPENDENT_LEADS if lead in record.leads)
    nv, n_missing = host.measured(record, stored)
    with pytest.raises(RecordError) as defect:
        payload.put(record, spec, payload.room(1, spec)[0], flat=(), independent_nv=nv, has_gaps=n_missing > 0)
    return defect.value.reason


def recipe_of(record: Record, **changes) -> bytes:
    recipe = payload.of(record, SPEC).recipe.copy()
    layout, leads = recipe[: payload.LAYOUT.itemsize].view(payload.LAYOUT), recipe[payload.LAYOUT.itemsize :]
    for name, value in changes.items():
        (layout if name in payload.LAYOUT.names else leads.view(payload.LEAD))[name] = value
    return recipe.tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"n_samples": 2251},
        {"n_samples": 0},
        {"n_samples": 2**62},
        {"channel_stride": 2251},
        {"channel_stride": -1},
        {"time_stride": 2},
        {"time_stride": 0},
        {"is_wide": 1},
        {"channel": 8},
        {"channel": -1},
        {"channel": 2**61},
        {"up": 2},
        {"up": 0},
        {"down": 0},
        {"down": 2**16 + 1},
        {"half": 21},
        {"half": -1},
        {"n_taps": 40},
        {"nv_per_count": np.nan},
        {"zero_counts": np.inf},
        {"per_nv": np.nan},
    ],
    ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()),
)
def test_a_recipe_that_reaches_beyond_its_payload_is_refused(rng, changes):
    one = payload.of(noisy(rng), SPEC)
    _kernels.Jobs([(one.counts, one.taps, recipe_of(noisy(rng)))])

    with pytest.raises(ValueError, match="reaches nothing but"):
        _kernels.Jobs([(one.counts, one.taps, recipe_of(noisy(rng), **changes))])


@pytest.mark.parametrize("n_bytes", [0, 71, 72, 73, 72 + 55, -1])
def test_a_recipe_of_another_size_is_refused(rng, n_bytes):
    one = payload.of(noisy(rng), SPEC)

    with pytest.raises(ValueError, match="reaches nothing but"):
        _kernels.Jobs([(one.counts, one.taps, one.recipe.tobytes()[:n_bytes])])


def test_a_batch_of_two_models_is_refused(rng):
    both = [payload.of(noisy(rng), spec) for spec in (SPEC, TWELVE)]

    with pytest.raises(ValueError, match="one model"):
        _kernels.Jobs([(one.counts, one.taps, one.recipe.tobytes()) for one in both])


def test_an_output_of_another_shape_is_refused(rng):
    batch = jobs([noisy(rng)], SPEC)

    for shape in ((1, 7, 1000), (2, 8, 1000)):
        for face in (batch, batch.by_sample):
            with pytest.raises(ValueError, match="out is"):
                face(20.0, np.empty(shape, np.float32))


@pytest.mark.parametrize(
    "supported", [None, "(name[3]!='5')", "0"], ids=["all-instructions", "without-avx512", "without-avx2"]
)
def test_no_recipe_reaches_beyond_its_payload_under_sanitisers_and_both_faces_agree(tmp_path, supported):
    compiler = shutil.which("g++") or pytest.skip("needs g++")
    sources = [ROOT / "fuzz" / "recipe.cpp", ROOT / "fuzz" / "once.cpp"]
    sources += [ROOT / "kernels" / "recipe.cpp", ROOT / "kernels" / "normalise.cpp"]
    flags = ["-std=c++20", "-O1", "-w", "-DECG_SANITIZE", "-fno-sanitize-recover=all"]
    if supported is not None:
        flags.append(f"-D__builtin_cpu_supports(name)={supported}")
    checks = "-fsanitize=address,undefined,float-cast-overflow"
    built = subprocess.run(
        [compiler, *flags, checks, *sources, "-o", tmp_path / "once"], capture_output=True, text=True, check=False
    )
    if "cannot find" in built.stderr:
        pytest.skip("needs the sanitisers' libraries")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([tmp_path / "once", "5000"], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stderr) == (0, "")
