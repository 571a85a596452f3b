"""The compiled kernels do what their slow twins do, and refuse what they cannot."""

import base64
import binascii
import itertools
import re
import string
import zlib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from ecgbatch import _kernels, waveform
from ecgbatch.bundle import InputSpec
from ecgbatch.errors import RecordError
from ecgbatch.feed import host
from ecgbatch.record import INDEPENDENT_LEADS, INVALID, LEADS, Reason, Record

MODEL_INPUT_TOLERANCE = 2e-5
"""Of ±20: float32 sums of some twenty products, in another order than NumPy's."""
ALPHABET = (string.ascii_letters + string.digits + "+/").encode()


def decoded(text: bytes, *, before: int = 0) -> bytes | None:
    """What the kernel makes of base64 that starts `before` bytes into its text; None where it is refused."""
    spans = [(before, before + len(text))]
    out = np.empty((1, len(text) + 4), np.uint8)
    ((n_bytes, crc),) = _kernels.base64_blocks(b"<" * before + text + b"</WaveFormData>", spans, out)
    if n_bytes < 0:
        return None
    assert crc == zlib.crc32(out[0, :n_bytes])
    return out[0, :n_bytes].tobytes()


def wrapped(raw: bytes, *, width: int | None, newline: bytes, is_padded: bool) -> bytes:
    text = base64.b64encode(raw)
    text = text if is_padded else text.rstrip(b"=")
    return text if width is None else newline.join(text[i : i + width] for i in range(0, len(text), width))


def test_crc32_is_zlibs_for_every_length_up_to_several_folds(rng):
    raw = rng.bytes(700)

    assert [_kernels.crc32(raw[:n]) for n in range(700)] == [zlib.crc32(raw[:n]) for n in range(700)]


@pytest.mark.parametrize("n_bytes", [5_000, 10_000, 65_537, 1_000_003])
def test_crc32_is_zlibs_for_a_whole_lead(rng, n_bytes):
    raw = rng.bytes(n_bytes)

    assert _kernels.crc32(raw) == zlib.crc32(raw)


@settings(deadline=None, max_examples=300)
@given(
    raw=st.binary(max_size=600),
    width=st.sampled_from([None, 4, 64, 68, 76]),
    newline=st.sampled_from([b"\n", b"\r\n", b"\n\t\t", b" \r\n      "]),
    is_padded=st.booleans(),
    before=st.integers(0, 33),
)
def test_base64_is_binasciis_whatever_the_lines_and_the_padding(raw, width, newline, is_padded, before):
    text = b"\n\t" + wrapped(raw, width=width, newline=newline, is_padded=is_padded) + newline

    assert decoded(text, before=before) == raw


def test_each_character_outside_the_alphabet_is_damage():
    text = base64.b64encode(bytes(range(96)))
    illegal = [c for c in range(256) if c not in ALPHABET + b" \t\r\n="]

    assert [c for c in illegal if decoded(text[:70] + bytes([c]) + text[71:]) is not None] == []


def test_damage_is_found_at_every_position(rng):
    text = wrapped(rng.bytes(210), width=68, newline=b"\n", is_padded=True)
    at = [i for i, character in enumerate(text) if character in ALPHABET]

    assert [i for i in at if decoded(text[:i] + b"!" + text[i + 1 :]) is not None] == []


@pytest.mark.parametrize(
    "text",
    [b"AAAA=", b"AAA==", b"AA===", b"=", b"====", b"A", b"AAAAA", b"AA=", b"AA==AA==", b"AA==A", b"A=AA", b"AA=A="],
    ids=bytes.decode,
)
def test_padding_in_the_wrong_place_and_half_a_byte_are_damage(text):
    assert decoded(text) is None


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="AZaz09+/=\n \t\r!-_", max_size=120))
def test_only_whole_groups_with_or_without_their_padding_are_base64(text):
    raw = text.encode()
    plain = b"".join(raw.split())
    is_whole = re.fullmatch(rb"(?:[\w+/]{4})*(?:[\w+/]{2}(?:==)?|[\w+/]{3}=?)?", plain) and b"_" not in plain
    expected = binascii.a2b_base64(plain.rstrip(b"=") + b"=" * (-len(plain.rstrip(b"=")) % 4)) if is_whole else None

    assert decoded(raw) == expected


def counts_of(rng, dtype, *, n_leads: int, layout: str) -> np.ndarray:
    info = np.iinfo(dtype)
    shape = (n_leads, 1003) if layout == "planar" else (1003, n_leads)
    counts = rng.integers(max(info.min, -(2**20)), min(info.max, 2**20), shape, dtype=dtype, endpoint=True)
    return counts if layout == "planar" else counts.T


def record_of(counts: np.ndarray, leads: tuple[str, ...], **changes) -> Record:
    n = len(leads)
    fields = {
        "format": "test",
        "fs_hz": 500.0,
        "uv_per_count": tuple(4.88 + 0.01 * i for i in range(n)),
        "zero_counts": tuple(float(3 * i - 7) for i in range(n)),
    }
    return Record(**{**fields, "leads": leads, "counts": counts, **changes})


@pytest.mark.parametrize("layout", ["planar", "interleaved"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32], ids=["int16", "int32"])
@pytest.mark.parametrize(
    "leads",
    [INDEPENDENT_LEADS, LEADS, (*LEADS[6:], "aVF", "aVL"), ("V6", "III", "V1", "I", "V2", "V3", "V4", "V5")],
    ids=["independent", "twelve", "from-augmented", "shuffled"],
)
def test_nanovolts_are_the_references_to_a_nanovolt(rng, leads, dtype, layout):
    record = record_of(counts_of(rng, dtype, n_leads=len(leads), layout=layout), leads)

    assert_allclose(host.nanovolts(record, LEADS), waveform.nanovolts(record, LEADS), rtol=0, atol=1)


@pytest.mark.parametrize("uv_per_count", [1e-9, 1e-7, 0.0005, 1 / 3, 2.5, 4.88, 1000.0, 1e6], ids=str)
@pytest.mark.parametrize("zero", [0.0, -7.0, 0.5, 2.0**31], ids=str)
@pytest.mark.parametrize("dtype", [np.int16, np.int32], ids=["int16", "int32"])
def test_no_gain_and_no_zero_make_nanovolts_differ_from_the_references(rng, dtype, zero, uv_per_count):
    counts = counts_of(rng, dtype, n_leads=8, layout="interleaved").copy()
    counts[:, :2] = np.iinfo(dtype).min, np.iinfo(dtype).max
    record = record_of(counts, INDEPENDENT_LEADS, uv_per_count=(uv_per_count,) * 8, zero_counts=(zero,) * 8)

    assert_allclose(host.nanovolts(record, LEADS), waveform.nanovolts(record, LEADS), rtol=0, atol=1)


def test_the_missing_samples_are_counted(rng):
    counts = counts_of(rng, np.int16, n_leads=8, layout="interleaved").copy()
    counts[0, :100], counts[7, 1000:] = -32768, -32768
    record = record_of(counts, INDEPENDENT_LEADS, invalid_count=-32768)
    nv, n_missing = host.measured(record, LEADS)

    assert n_missing == np.count_nonzero(nv == INVALID) > 0


@pytest.mark.parametrize("dtype", [np.int16, np.int32], ids=["int16", "int32"])
def test_a_missing_sample_is_missing_in_every_lead_that_it_would_have_made(rng, dtype):
    counts = counts_of(rng, dtype, n_leads=8, layout="interleaved").copy()
    mark = int(np.iinfo(dtype).min)
    counts[0, 10], counts[1, 20], counts[5, 30] = mark, mark, mark
    record = record_of(counts, INDEPENDENT_LEADS, invalid_count=mark)

    missing = host.nanovolts(record, LEADS) == INVALID

    assert_array_equal(missing, waveform.nanovolts(record, LEADS) == INVALID)
    assert missing.any(axis=1).sum() == 7  # I, II, the four sums of them, and V4


def test_without_a_mark_no_count_is_missing():
    record = record_of(np.full((8, 50), -32768, np.int16), INDEPENDENT_LEADS)

    assert INVALID not in host.nanovolts(record, LEADS)


def test_voltages_beyond_int32_saturate_short_of_the_mark():
    counts = np.array([[-(2**31), 2**31 - 1]] * 8, np.int32)
    nv = host.nanovolts(record_of(counts, INDEPENDENT_LEADS), INDEPENDENT_LEADS)

    assert_array_equal(np.unique(nv), [-(2**31) + 1, 2**31 - 1])


@pytest.mark.parametrize("pair", list(itertools.combinations(LEADS[:6], 2)), ids="-".join)
def test_any_two_limb_leads_give_the_other_four(rng, pair):
    one, two = rng.integers(-1000, 1000, (2, 500)) * 12
    limb = np.stack([one, two, two - one, -(one + two) // 2, one - two // 2, two - one // 2])
    stored = limb[[LEADS.index(lead) for lead in pair]].astype(np.int32)
    record = record_of(stored, pair, zero_counts=(0.0,) * 2, uv_per_count=(1.0,) * 2)

    assert_array_equal(waveform.nanovolts(record, LEADS[:6]), limb * 1000)
    assert_array_equal(host.nanovolts(record, LEADS[:6]), limb * 1000)


def test_a_flat_limb_lead_is_derived_from_the_others(rng):
    counts = counts_of(rng, np.int16, n_leads=12, layout="planar")
    counts[LEADS.index("I")] = 0
    record = record_of(counts, LEADS, zero_counts=(0.0,) * 12, uv_per_count=(1.0,) * 12)

    (nv,) = host.nanovolts(record, ("I",), flat=("I",))

    assert_allclose(nv, (counts[1].astype(np.int64) - counts[2]) * 1000)


SPEC = InputSpec(leads=INDEPENDENT_LEADS, fs_hz=250, seconds=10.0, min_seconds=5.0, scale_mv=(0.2, 0.3) * 4, clip=20.0)


def noisy(rng, *, fs_hz: float, seconds: float) -> Record:
    """Noise of about 1 mV that is neither flat nor small at its ends."""
    counts = rng.normal(0, 250, (8, round(fs_hz * seconds))).astype(np.int16)
    return record_of(counts, INDEPENDENT_LEADS, fs_hz=fs_hz)


def model_input(record: Record, spec: InputSpec) -> np.ndarray:
    out = np.full((len(spec.leads), spec.samples), np.nan, np.float32)
    host.normalise(record, spec, out)
    return out


RATES_HZ = [100, 125, 128.5, 200, 240, 249.89, 250, 257, 360, 400, 499.9, 500, 512, 977, 1000]


@pytest.mark.parametrize("seconds", [5.013, 9.998, 12.5], ids=lambda s: f"{s}s")
@pytest.mark.parametrize("fs_hz", RATES_HZ, ids=lambda f: f"{f}Hz")
def test_model_input_is_scipys_polyphase_resampling(rng, fs_hz, seconds):
    signal = pytest.importorskip("scipy.signal")
    record = noisy(rng, fs_hz=fs_hz, seconds=seconds)
    ratio = Fraction(SPEC.fs_hz / fs_hz).limit_denominator(4096)
    x_mv = waveform.nanovolts(record, SPEC.leads) * 1e-6
    if ratio != 1:
        window = ("kaiser", 5.0)
        x_mv = signal.resample_poly(x_mv, ratio.numerator, ratio.denominator, axis=1, padtype="edge", window=window)
    expected = waveform.scale(waveform.fit(x_mv, SPEC.samples), np.array(SPEC.scale_mv), SPEC.clip)

    assert_allclose(model_input(record, SPEC), expected, rtol=0, atol=MODEL_INPUT_TOLERANCE)


@pytest.mark.parametrize("n_samples", [0, 1, 3, 500, 3000], ids=lambda n: f"{n}-samples-beyond-5s")
@pytest.mark.parametrize("to_hz", [100, 250, 500], ids=lambda f: f"to-{f}Hz")
@pytest.mark.parametrize("fs_hz", [128.5, 257, 500], ids=lambda f: f"from-{f}Hz")
@pytest.mark.parametrize("filtered", ["none", "offset"])
def test_model_input_is_the_references(rng, filtered, fs_hz, to_hz, n_samples):
    spec = replace(SPEC, fs_hz=to_hz, filter=filtered)
    record = noisy(rng, fs_hz=fs_hz, seconds=(5 * fs_hz + 1 + n_samples) // 1 / fs_hz)
    expected = waveform.prepare(
        record,
        leads=spec.leads,
        fs_hz=spec.fs_hz,
        samples=spec.samples,
        scale_mv=np.array(spec.scale_mv),
        clip=spec.clip,
        filter=spec.filter,
    )

    assert_allclose(model_input(record, spec), expected, rtol=0, atol=MODEL_INPUT_TOLERANCE)


@pytest.mark.parametrize("seconds", [6.0, 10.0, 25.0], ids=lambda s: f"{s:g}s")
@pytest.mark.parametrize("fs_hz", [250, 500, 1000], ids=lambda f: f"{f}Hz")
def test_how_far_a_lead_lies_from_zero_is_taken_off(rng, fs_hz, seconds):
    spec = replace(SPEC, filter="offset")
    record = noisy(rng, fs_hz=fs_hz, seconds=seconds)
    moved = replace(record, zero_counts=tuple(zero + 3000.0 * (-1) ** at for at, zero in enumerate(record.zero_counts)))

    centred = model_input(record, spec)

    assert_allclose(model_input(moved, spec), centred, rtol=0, atol=MODEL_INPUT_TOLERANCE)
    seen = centred[:, : min(spec.samples, round(seconds * spec.fs_hz))]
    assert_allclose(seen.mean(1), 0, atol=0.05)
    assert not centred[:, seen.shape[1] :].any()
    assert np.abs(model_input(moved, SPEC) - model_input(record, SPEC)).max() > 10


@pytest.mark.parametrize("to_hz", [100, 250, 500], ids=lambda f: f"to-{f}Hz")
def test_no_rate_shifts_a_beat_by_more_than_a_millisecond_and_a_third_in_ten_seconds(to_hz):
    for fs_hz in [to_hz * times + off_hz for times in (1, 2, 3, 7) for off_hz in (0.01, 0.1, 1 / 3)]:
        bank = waveform.polyphase(fs_hz, to_hz)

        assert abs(bank.up / bank.down * fs_hz / to_hz - 1) < 1.3e-4


def test_what_lies_above_the_models_band_does_not_fold_into_it():
    t_s = np.arange(5000) / 500
    counts = np.round(1000 * np.sin(2 * np.pi * 200 * t_s)).astype(np.int16)
    x = model_input(record_of(np.tile(counts, (8, 1)), INDEPENDENT_LEADS, zero_counts=(0.0,) * 8), SPEC)

    assert np.abs(x[:, 50:-50]).max() < 0.01 * 4.88 / 0.2


def test_a_short_record_ends_in_exact_zeros(rng):
    x = model_input(noisy(rng, fs_hz=500, seconds=6), SPEC)

    assert not x[:, 1500:].any()
    assert x[:, 1499].all()


def test_values_beyond_the_clip_are_limited_to_it(rng):
    record = replace(noisy(rng, fs_hz=500, seconds=10), uv_per_count=(1000.0,) * 8)

    assert np.abs(model_input(record, SPEC)).max() == SPEC.clip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"counts": np.ones((8, 2499), np.int16)}, Reason.TOO_SHORT),
        ({"invalid_count": 1, "counts": np.ones((8, 5000), np.int16)}, Reason.INVALID_SAMPLES),
        ({"counts": np.repeat([[7] * 5000 + [8] * 2500], 8, axis=0).astype(np.int16)}, Reason.NO_SIGNAL),
    ],
    ids=["short", "missing-samples", "signal-only-later"],
)
def test_a_record_that_a_model_cannot_take_is_refused_with_its_reason(change, reason):
    record = record_of(np.zeros((8, 5000), np.int16), INDEPENDENT_LEADS)

    with pytest.raises(RecordError) as defect:
        model_input(replace(record, **change), SPEC)
    assert defect.value.reason == reason


def test_one_lead_that_changes_once_where_the_model_looks_is_a_signal():
    counts = np.zeros((8, 7500), np.int16)
    counts[5, 4999] = 1

    assert model_input(record_of(counts, INDEPENDENT_LEADS), SPEC)[5].any()


def test_a_missing_sample_beyond_what_the_model_sees_does_not_matter(rng):
    record = noisy(rng, fs_hz=500, seconds=15)
    later = record.counts.copy()
    later[3, 6000] = -32768

    assert_array_equal(
        model_input(replace(record, counts=later, invalid_count=-32768), SPEC), model_input(record, SPEC)
    )


@pytest.mark.parametrize("n_channels", [1, 2, 3, 8, 12, 15, 33])
@pytest.mark.parametrize("n_frames", [0, 1, 31, 32, 33, 5000])
def test_frame_sums_are_those_of_numpy_modulo_2_to_the_16(rng, n_frames, n_channels):
    frames = rng.integers(-32768, 32767, (n_frames, n_channels), dtype=np.int16, endpoint=True)

    assert_array_equal(_kernels.frame_sums(frames), frames.sum(axis=0, dtype=np.int64) % 65536)


def bits(value: int, first: int, n: int) -> int:
    """`n` bits of an integer from bit `first` on, as a signed number."""
    field = value >> first & (1 << n) - 1
    return field - (1 << n) if field >> (n - 1) else field


def unpacked(fmt: int, raw: bytes, i: int) -> int:
    """Sample `i` as signal(5) of the WFDB manual defines it, one integer at a time."""

    def group(n_bytes: int, at: int) -> int:
        return int.from_bytes(raw[at * n_bytes : (at + 1) * n_bytes].ljust(n_bytes, b"\0"), "little")

    match fmt:
        case 8:
            return bits(raw[i], 0, 8)
        case 80:
            return raw[i] - 128
        case 16 | 24 | 32:
            return bits(group(fmt // 8, i), 0, fmt)
        case 61:
            return bits(int.from_bytes(raw[2 * i : 2 * i + 2], "big"), 0, 16)
        case 160:
            return group(2, i) - 32768
        case 212:
            value = group(3, i // 2)
            return bits(value, 0, 12) if i % 2 == 0 else bits((value >> 12 & 0xF) << 8 | value >> 16, 0, 12)
        case 310:
            value = group(4, i // 3)
            return [bits(value, 1, 10), bits(value, 17, 10), bits(value >> 27 << 5 | value >> 11 & 0x1F, 0, 10)][i % 3]
        case 311:
            return bits(group(4, i // 3), 10 * (i % 3), 10)
    raise AssertionError(fmt)


PACKED = [8, 16, 24, 32, 61, 80, 160, 212, 310, 311]


@pytest.mark.parametrize("fmt", PACKED)
def test_samples_are_unpacked_as_the_manual_defines_them(rng, fmt):
    for n in (1, 2, 3, 4, 5, 6, 100, 101):
        raw = rng.bytes(_kernels.wfdb_bytes(fmt, n))
        out = np.empty(n, np.int32)
        _kernels.wfdb_unpack(fmt, b"\xff" * 3 + raw, 3, out)

        assert out.tolist() == [unpacked(fmt, raw, i) for i in range(n)]


@pytest.mark.parametrize("fmt", [fmt for fmt in PACKED if fmt != 8])
def test_samples_are_unpacked_as_wfdb_python_does(rng, fmt, tmp_path):
    wfdb = pytest.importorskip("wfdb")
    raw = rng.bytes(_kernels.wfdb_bytes(fmt, 6 * 50))
    if fmt == 311:  # wfdb-python wants the two spare bits of each word to be zero
        raw = (np.frombuffer(raw, "<u4") & 0x3FFFFFFF).tobytes()
    (tmp_path / "r.dat").write_bytes(raw)
    lines = "".join(f"r.dat {fmt} 200 12 0 0 0 0 ch{i}\n" for i in range(6))
    (tmp_path / "r.hea").write_text(f"r 6 250 50\n{lines}", "ascii")
    out = np.empty(300, np.int32)
    _kernels.wfdb_unpack(fmt, raw, 0, out)

    expected = wfdb.rdrecord(str(tmp_path / "r"), physical=False).d_signal

    assert_array_equal(out.reshape(50, 6), expected)


NAMES = st.sampled_from(["a", "b", "c", "bb"])
TEXT = st.text(alphabet="ab <>&'\"=/!?-]\n\t é", max_size=12)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("]]>", "]]&gt;").replace("\r", " ")


COMMENT = TEXT.map(lambda text: f"<!--{text.replace('-', '')}<a><b>-->")
CDATA = TEXT.map(lambda text: f"<![CDATA[{text.replace(']]', '')}<b></a>]]>")
INSTRUCTION = TEXT.map(lambda text: f"<?go {text.replace('?', '')}<a>?>")
ATTRIBUTES = st.lists(TEXT.map(lambda t: _escaped(t).replace('"', "'")), max_size=2).map(
    lambda values: "".join(f' x{i}="{value}>"' for i, value in enumerate(values))
)


def _element(name: str, attributes: str, space: str, content: list[str]) -> str:
    if not content:
        return f"<{name}{attributes}{space}/>"
    return f"<{name}{attributes}{space}>{''.join(content)}</{name}{space}>"


ELEMENTS = st.recursive(
    st.one_of(TEXT.map(_escaped), COMMENT, CDATA, INSTRUCTION),
    lambda inner: st.builds(_element, NAMES, ATTRIBUTES, st.sampled_from(["", " ", "\n"]), st.lists(inner, max_size=4)),
    max_leaves=14,
)
PROLOGS = st.lists(
    st.one_of(
        COMMENT,
        INSTRUCTION,
        st.sampled_from([" ", "\n", '<!DOCTYPE a SYSTEM "a>.dtd">', "<!DOCTYPE a [<!ELEMENT a ANY>]>"]),
    ),
    max_size=3,
).filter(lambda parts: sum("DOCTYPE" in part for part in parts) < 2)
DOCUMENTS = st.builds(
    lambda start, prolog, content, end: f"{start}{''.join(prolog)}<a>{''.join(content)}</a>{end}",
    st.sampled_from(["", '<?xml version="1.0"?>', '<?xml version="1.0" encoding="UTF-8"?>\n']),
    PROLOGS,
    st.lists(ELEMENTS, max_size=5),
    st.sampled_from(["", "\n", "<!-- <a> -->\n"]),
)
WANTED = ["a", "a/b", "a/b/c", "a/bb"]


def _inner(etree, source: bytes) -> bytes:
    """Content of an element in canonical form, comments and instructions left out."""
    parser = etree.XMLParser(remove_comments=True, remove_pis=True)
    return bytes(etree.tostring(etree.fromstring(b"<x>" + source + b"</x>", parser), method="c14n"))


@settings(deadline=None, max_examples=300)
@given(DOCUMENTS)
def test_elements_lie_where_lxml_finds_them(document):
    etree = pytest.importorskip("lxml.etree")
    text = document.encode()
    root = etree.fromstring(text, etree.XMLParser(remove_comments=True, remove_pis=True))
    expected = []
    for element in root.iter(etree.Element):
        path = "/".join([*(parent.tag for parent in reversed(list(element.iterancestors()))), element.tag])
        if path in WANTED:
            bare = etree.fromstring(etree.tostring(element, with_tail=False))
            bare.tag = "x"
            for name in list(bare.attrib):
                del bare.attrib[name]
            expected.append((WANTED.index(path), etree.tostring(bare, method="c14n")))

    status, _, spans = _kernels.XmlPaths(WANTED).scan(text)

    assert status == 0
    assert [(path, _inner(etree, text[begin:end])) for path, begin, end in spans] == expected


@settings(deadline=None, max_examples=200)
@given(DOCUMENTS, st.data())
def test_a_document_that_ends_early_is_never_complete(document, data):
    text = document.rstrip().removesuffix("<!-- <a> -->").encode()
    cut = text[: data.draw(st.integers(0, len(text) - 1))]

    assert _kernels.XmlPaths(WANTED).scan(cut)[0] in (1, 2)


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(st.binary(max_size=200), st.text(alphabet="<>/!?[]-'\"= abDOCTYPECDATA", max_size=200).map(str.encode))
)
def test_spans_lie_within_the_text_whatever_it_holds(text):
    _, stopped_at, spans = _kernels.XmlPaths(WANTED).scan(text)

    assert 0 <= stopped_at <= len(text)
    assert all(0 <= begin <= end <= len(text) for _, begin, end in spans)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>", 3),
        (b"<!DOCTYPE a [<!ENTITY % e SYSTEM 'file:///etc/passwd'> %e;]><a/>", 3),
        (b"<!DOCTYPE a [ <!ELEMENT a ANY> <!ENTITY", 3),
        (b"<a>" * 257 + b"</a>" * 257, 2),
        (b"<a>" * 500_000, 2),
        (b"<a></b>", 2),
        (b"<a/><a/>", 2),
        (b"<a/>text", 2),
        (b"text<a/>", 2),
        (b"</a>", 2),
        (b"<>x</>", 2),
        (b"<a><!DOCTYPE a></a>", 2),
        (b"<a x='>", 1),
        (b"<a><!-- </a>", 1),
        (b"<a><![CDATA[ </a>", 1),
        (b"", 1),
        (b"<", 1),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else str(value),
)
def test_a_document_that_is_unsafe_or_broken_is_told_apart(text, status):
    assert _kernels.XmlPaths(WANTED).scan(text)[0] == status


def test_a_table_has_a_row_for_each_element_and_the_place_of_its_payload():
    text = b"<a><b><c>1</c><f>4</f><d>22</d></b><e>x</e><b><d>3</d></b><b/></a>"
    status, _, spans, rows = _kernels.XmlPaths(["a/b", "a/b/c", "a/b/f", "a/b/d", "a/e"]).table(text, 4)

    assert status == 0
    assert [contents for contents, *_ in rows] == [b"1\x004", b"\0", b"\0"]
    assert [text[begin:end] for *_, begin, end in rows] == [b"22", b"3", b""]
    assert [text[begin:].startswith(b"<") for _, begin, *_ in rows] == [True, True, True]
    assert [(path, text[begin:end]) for path, begin, end in spans] == [(0, b"x")]


def test_a_table_without_a_payload_is_refused():
    with pytest.raises(ValueError, match="payload"):
        _kernels.XmlPaths(["a"]).table(b"<a/>", 1)


def test_as_many_elements_as_nest_in_real_documents_are_followed():
    assert _kernels.XmlPaths(WANTED).scan(b"<a>" * 256 + b"</a>" * 256)[0] == 0


def converted(**changes):
    tables = {"channel": i64(2, 2), "nv_per_count": np.zeros((2, 2)), "zero": np.zeros((2, 2))}
    arrays = {"counts": np.zeros((3, 9), np.int16), "out": i32(2, 9)}
    mixer = _kernels.Mixer(**{name: changes.get(name, table) for name, table in tables.items()})
    mixer(**{name: changes.get(name, array) for name, array in arrays.items()}, invalid=2**40)


def resampled(*, nv, out, up=1, half=0, taps=None, n_leads=2):
    taps = f32(1, 1) if taps is None else taps
    _kernels.ModelInput(up, 1, half, taps, f32(n_leads), 0, 1.0)(nv, out)


def test_a_call_with_arrays_that_fit_is_taken():
    converted()
    resampled(nv=i32(2, 9), out=f32(2, 9))


def i64(*shape):
    return np.zeros(shape, np.int64)


def f32(*shape):
    return np.zeros(shape, np.float32)


def i32(*shape):
    return np.zeros(shape, np.int32)


@pytest.mark.parametrize(
    "call",
    [
        lambda: resampled(nv=i32(2, 9), out=f32(2, 9), n_leads=1),
        lambda: resampled(nv=i32(2, 9), out=f32(3, 9)),
        lambda: resampled(nv=i32(2, 0), out=f32(2, 9)),
        lambda: resampled(nv=i32(2, 9), out=f32(2, 9), up=0),
        lambda: resampled(nv=i32(2, 9), out=f32(2, 9), up=2, half=20, taps=f32(2, 3)),
        lambda: resampled(nv=i32(9), out=f32(2, 9)),
        lambda: resampled(nv=i64(2, 9), out=f32(2, 9)),
        lambda: resampled(nv=i32(2, 9), out=np.zeros((2, 9))),
        lambda: resampled(nv=i32(2, 9), out=f32(2, 18)[:, ::2]),
        lambda: converted(counts=np.zeros((3, 9), np.int64)),
        lambda: converted(counts=np.zeros((3, 9), np.float32)),
        lambda: converted(counts=np.zeros(9, np.int16)),
        lambda: converted(channel=i64(1, 2)),
        lambda: converted(channel=i64(2, 3)),
        lambda: converted(channel=i64(2, 2) + 3),
        lambda: converted(channel=i64(2, 2) - 1),
        lambda: converted(nv_per_count=np.zeros((3, 2))),
        lambda: converted(nv_per_count=f32(2, 2)),
        lambda: converted(zero=np.zeros((2, 1))),
        lambda: converted(out=i32(2, 8)),
        lambda: converted(out=i32(4, 9)[::2]),
        lambda: converted(out=f32(2, 9)),
        lambda: _kernels.base64_blocks(b"AAAA", [(0, 5)], np.zeros((1, 8), np.uint8)),
        lambda: _kernels.base64_blocks(b"AAAA", [(-1, 4)], np.zeros((1, 8), np.uint8)),
        lambda: _kernels.base64_blocks(b"AAAA", [(3, 2)], np.zeros((1, 8), np.uint8)),
        lambda: _kernels.base64_blocks(b"AAAA", [(0, 4)], np.zeros((2, 8), np.uint8)),
        lambda: _kernels.base64_blocks("AAAA", [(0, 4)], np.zeros((1, 8), np.uint8)),
        lambda: _kernels.wfdb_unpack(16, b"\0" * 9, 0, i32(5)),
        lambda: _kernels.wfdb_unpack(16, b"\0" * 9, 10, i32(0)),
        lambda: _kernels.wfdb_unpack(17, b"\0" * 90, 0, i32(5)),
        lambda: _kernels.wfdb_unpack(16, b"\0" * 90, -1, i32(5)),
        lambda: _kernels.wfdb_unpack(16, b"\0" * 90, 0, i64(5)),
        lambda: _kernels.frame_sums(i32(5, 8)),
        lambda: _kernels.frame_sums(np.zeros((8, 5), np.int16).T),
        lambda: _kernels.crc32("text"),
        lambda: _kernels.XmlPaths(["a"]).scan("<a/>"),
        lambda: _kernels.XmlPaths(["a"]).scan(b"<a/>", 3, 2),
        lambda: _kernels.XmlPaths(["a"]).scan(b"<a/>", 5),
    ],
)
def test_a_call_with_arrays_that_do_not_fit_is_refused(call):
    with pytest.raises((TypeError, ValueError)):
        call()


def test_more_bytes_than_a_row_holds_are_counted_but_not_written():
    out = np.full((2, 3), 7, np.uint8)
    (n_bytes, _), _ = _kernels.base64_blocks(b"AAAAAAAA", [(0, 8), (8, 8)], out)

    assert n_bytes == 6
    assert out.tolist() == [[0, 0, 0], [7, 7, 7]]


HEADER_LINES = st.lists(
    st.text(alphabet="ab1 \t-+/.16()#", max_size=40).filter(lambda line: not line.startswith("+-")), max_size=6
)


@settings(deadline=None, max_examples=300)
@given(HEADER_LINES, st.sampled_from(["\n", "\r\n"]))
def test_a_wfdb_header_is_cut_as_splitting_its_lines_cuts_it(lines, line_end):
    text = line_end.join(["r 9 500 5000", *lines])
    cut = [line.split(None, 8) for line in lines if line.strip() and not line.startswith("#")][:9]
    nine = [fields + [""] * (9 - len(fields)) for fields in cut]
    record, files, n_signals, layout, initial, checksums = _kernels.wfdb_header(text.encode())

    assert record == b"r 9 500 5000"
    assert [name.decode() for name, n in zip(files, n_signals, strict=True) for _ in range(n)] == [f[0] for f in nine]
    assert layout.decode().split("\n") == ["\t".join([f[1], f[2], f[4], f[8]]) for f in nine] or not nine
    assert initial == [_number(f[5] or f[4] or "0") for f in nine]
    assert checksums == [2**63 - 1 if not f[6] else _number(f[6], modulo=65536) for f in nine]


def _number(text: str, modulo: int | None = None) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        return -(2**63)
    return int(text) % modulo if modulo else int(text)
