"""Philips XML: the XLI that is stored is what is decoded, calibration and unused channels are not the ECG."""

import base64
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from ecgbatch import _kernels, formats, synth, waveform
from ecgbatch.errors import RecordError
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Reason, Record

SAMPLES = (
    "129DYPRG.XML",
    "2020-5-18_15-48-11.xml",
    "3191723_ZZDEMOPTONLY_1-04_orig.xml",
    "ad4d3d80-d165_1-04_orig.xml",
    "repbeats_example.xml",
)
FS_HZ = 500


def decode(document: bytes) -> Record:
    return formats.decode(document, "ecg.xml", no_sibling)


def no_sibling(name: str) -> bytes:
    raise AssertionError(f"a Philips file has no sibling, asked for {name!r}")


def refusal(document: bytes) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(document)
    assert "\n" not in defect.value.detail
    return Reason(defect.value.reason)


def lzw(data: bytes) -> bytes:
    """Codes of ten bits, 1023 at their end."""
    table = {bytes([byte]): byte for byte in range(256)}
    codes, held = [], b""
    for byte in data:
        longer = held + bytes([byte])
        if longer in table:
            held = longer
            continue
        codes.append(table[held])
        if len(table) <= 1022:
            table[longer] = len(table)
        held = bytes([byte])
    bits = "".join(f"{code:010b}" for code in (*codes, table[held], 1023))
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))


def as_chunk(codes: bytes, start: int = 0) -> bytes:
    return len(codes).to_bytes(4, "little") + b"\1\0" + start.to_bytes(2, "little", signed=True) + codes


def chunk(samples: np.ndarray) -> bytes:
    """XLI of one lead."""
    x = samples.astype(int)
    d = np.full(len(x), 64)
    d[:2] = x[:2]
    bends = x[2:] - 2 * x[1:-1] + x[:-2]
    d[2:-1] -= bends[1:]
    codes = lzw((d >> 8 & 0xFF).astype(np.uint8).tobytes() + (d & 0xFF).astype(np.uint8).tobytes())
    return as_chunk(codes, -int(bends[0]) if len(bends) else 0)


def xli(channels: Iterable[np.ndarray]) -> bytes:
    return b"".join(map(chunk, channels))


JUNK = as_chunk(lzw(b"\x7f" * 1000 + b"\0" * 1000))
"""An unused channel as some exports have it: its samples run away."""


def residuals(counts: np.ndarray) -> np.ndarray:
    """Twelve leads in standard order as they are stored: each limb lead as its difference from the prediction."""
    i, ii, iii, avr, avl, avf = counts[:6].astype(int)
    stored = counts.copy()
    stored[2] = ii - i - iii
    stored[3] = -avr - (i + ii) // 2
    stored[4] = (i - iii) // 2 - avl
    stored[5] = (ii + iii) // 2 - avf
    return stored


def twelve(seconds: float = 2.0, *, fs_hz: int = FS_HZ) -> np.ndarray:
    """Counts of the twelve leads, each limb lead up to two counts from what I and II say."""
    ecg = synth.record(seed=3, seconds=seconds, fs_hz=fs_hz, leads=LEADS)
    assert ecg.leads == LEADS
    return ecg.counts.astype(np.int16)


def calibration(fs_hz: int = FS_HZ, resolution_uv: float = 5.0) -> np.ndarray:
    second = np.zeros(fs_hz, np.int16)
    second[round(0.7 * fs_hz) : round(0.9 * fs_hz)] = round(1000 / resolution_uv)
    return second


def calibrated(counts: np.ndarray, **options: float) -> np.ndarray:
    """The same with the device's last second: 0.6 s of ECG more, silence, and 1 mV."""
    tail = np.tile(calibration(**options), (len(counts), 1))
    tail[:, : round(0.6 * tail.shape[1])] = counts[:, : round(0.6 * tail.shape[1])]
    return np.hstack([counts, tail])


def document(payload: bytes, n_samples: int, *, encoding: str = "utf-8", **changes: str | None) -> bytes:
    """A 1.04 document; each change replaces an attribute or element by its name, or leaves it out."""
    attributes = {
        "dataencoding": "Base64",
        "compression": "XLI",
        "numberofleads": "12",
        "leadlabels": " ".join(LEADS),
        "durationperchannel": f"{n_samples * 1000 // FS_HZ}",
        "samplespersecond": "500",
        "resolution": "5",
        "signaloffset": "0",
        "signalsigned": "True",
        "bitspersample": "16",
        "hipass": "0.05",
    }
    return written(payload, attributes, {"samplingrate": "500", "resolution": "5"}, encoding, changes)


def document_103(payload: bytes, n_samples: int, **changes: str | None) -> bytes:
    attributes = {
        "compressflag": "True",
        "compressmethod": "XLI",
        "filterflag": "True",
        "dataencoding": "Base64",
        "durationperchannel": f"{n_samples * 1000 // FS_HZ}",
        "nbitspersample": "16",
    }
    signal = {
        "samplingrate": "500",
        "signalresolution": "5",
        "signaloffset": "0",
        "signalsigned": "True",
        "acquisitiontype": "STD-12",
        "numberchannelsallocated": "12",
        "numberchannelsvalid": "12",
    }
    return written(payload, attributes, signal, "utf-8", changes)


def written(
    payload: bytes, attributes: dict[str, str], signal: dict[str, str], encoding: str, changes: dict[str, str | None]
) -> bytes:
    values: dict[str, str | None] = {"date": "2024-02-29", "time": "23:59:58", "machine": "PageWriter TC", **changes}
    attributes = {name: kept for name, value in attributes.items() if (kept := values.get(name, value)) is not None}
    signal = {name: kept for name, value in signal.items() if (kept := values.get("signal_" + name, value)) is not None}
    added = values.get("attributes") or ""
    text = f"""<?xml version="1.0" encoding="{encoding}"?>
<restingecgdata status="New" lang="en" xmlns="http://www3.medical.philips.com">
  <documentinfo><documenttype>PhilipsECG</documenttype><documentversion>1.04.01</documentversion></documentinfo>
  <dataacquisition date="{values["date"]}" time='{values["time"]}' statflag="False">
    <machine machineid="US12345678" detaildescription="Philips:860315:A.07">{values["machine"]}</machine>
    <signalcharacteristics>{"".join(f"<{name}>{value}</{name}>" for name, value in signal.items())}
    </signalcharacteristics>
  </dataacquisition>
  <patient><generalpatientdata><name><lastname>SYNTHÉTIQUE</lastname></name></generalpatientdata></patient>
  <waveforms>
    <parsedwaveforms {" ".join(f'{name}="{value}"' for name, value in attributes.items())}{added}>
{base64.encodebytes(payload).decode()}</parsedwaveforms>
    <repbeats dataencoding="Base64" samplespersec="1000" resolution="1.0"><repbeat leadname="I">
      <waveform duration="1200">{base64.encodebytes(bytes(4800)).decode()}</waveform></repbeat></repbeats>
  </waveforms>
</restingecgdata>
"""
    return text.encode(encoding)


def as_digits(write: Callable[..., bytes], samples: np.ndarray, n_samples: int = 1000, **changes: str | None) -> bytes:
    """A document as sierra-ecg-tools writes it again, lead after lead in lines of decimal numbers."""
    digits = [str(count) + (" " if i % 25 else "\n") for i, count in enumerate(samples.ravel().tolist())]
    empty = write(b"", n_samples, dataencoding="Plain", **changes)
    return empty.replace(b"\n</parsedwaveforms>", "".join(digits).encode() + b"</parsedwaveforms>")


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    return twelve()


@pytest.fixture(scope="module")
def payload(counts: np.ndarray) -> bytes:
    return xli(residuals(counts))


@pytest.fixture(scope="module")
def good(payload: bytes) -> bytes:
    return document(payload, 1000)


@cache
def by_sierraecg(path: Path) -> dict[str, np.ndarray]:
    """All samples of each lead, as an independent reader has them."""
    sierraecg = pytest.importorskip("sierraecg")
    return {lead.label: lead.samples for lead in sierraecg.read_file(str(path)).leads}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_real_file_gives_the_counts_that_sierraecg_gives(data, name):
    path = data / "formats" / "samples" / "philips_xml" / name
    record = decode(path.read_bytes())

    assert (record.format, record.fs_hz, record.uv_per_count) == ("philips-xml", 500.0, (5.0,) * 12)
    assert record.leads == tuple(by_sierraecg(path)) == LEADS
    assert_array_equal(record.counts, [samples[:5000] for samples in by_sierraecg(path).values()])


@pytest.mark.parametrize("name", SAMPLES)
def test_the_second_that_is_cut_from_a_real_file_ends_in_the_calibration_pulse(data, name):
    samples = by_sierraecg(data / "formats" / "samples" / "philips_xml" / name)

    assert_array_equal([lead[5325:] for lead in samples.values()], np.tile(calibration()[325:], (12, 1)))


@pytest.mark.parametrize("name", SAMPLES)
def test_the_limb_leads_of_a_real_file_are_those_of_einthoven_within_rounding(data, name):
    record = decode((data / "formats" / "samples" / "philips_xml" / name).read_bytes())
    i, ii, iii, avr, avl, avf = record.counts[:6].astype(int)

    assert max(np.abs(i - ii + iii).max(), np.abs(2 * avr + i + ii).max() // 2) <= 2
    assert max(np.abs(avl - (i - iii) / 2).max(), np.abs(avf - (ii + iii) / 2).max()) <= 2


@pytest.mark.parametrize(
    ("name", "moment", "device"),
    [
        ("129DYPRG.XML", datetime(2011, 12, 1, 7, 27, 34), "HeartstartMRx"),
        ("2020-5-18_15-48-11.xml", datetime(2020, 5, 18, 15, 48, 11), "PageWriter TC"),
        ("3191723_ZZDEMOPTONLY_1-04_orig.xml", datetime(2010, 1, 19, 15, 19, 22), "PageWriter Touch"),
        ("ad4d3d80-d165_1-04_orig.xml", datetime(2008, 12, 23, 19, 44, 46), "PageWriter Touch"),
    ],
)
def test_a_real_file_says_when_and_by_what_it_was_recorded(data, name, moment, device):
    record = decode((data / "formats" / "samples" / "philips_xml" / name).read_bytes())

    assert (record.acquired_at, record.device_model) == (moment, device)


def test_a_real_file_is_decoded_whatever_its_unused_channels_hold(data):
    raw = (data / "formats" / "samples" / "philips_xml" / "129DYPRG.XML").read_bytes()
    start, end = raw.index(b'nbitspersample="16">') + 20, raw.index(b"</parsedwaveforms>")
    stored = base64.b64decode(raw[start:end])
    junk = raw[:start] + base64.encodebytes(stored[: -4 * (8 + 276)] + b"\xff" * 500) + raw[end:]

    assert_array_equal(decode(junk).counts, decode(raw).counts)


def test_what_is_written_is_what_is_read(good, counts):
    record = decode(good)

    assert (record.leads, record.fs_hz, record.uv_per_count) == (LEADS, 500.0, (5.0,) * 12)
    assert (record.zero_counts, record.invalid_count) == ((0.0,) * 12, None)
    assert (record.acquired_at, record.device_model) == (datetime(2024, 2, 29, 23, 59, 58), "PageWriter TC")
    assert_array_equal(record.counts, counts)


def test_a_document_of_1_03_says_the_same_in_other_places(payload, counts):
    record = decode(document_103(payload, 1000))

    assert (record.leads, record.fs_hz, record.uv_per_count) == (LEADS, 500.0, (5.0,) * 12)
    assert_array_equal(record.counts, counts)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "iso-8859-1", "utf-16", "utf-16-le", "utf-16-be"])
def test_every_encoding_gives_the_same_record(payload, counts, encoding):
    record = decode(document(payload, 1000, encoding=encoding, machine="Gerät &lt;5&gt; &amp; Co"))

    assert record.device_model == "Gerät <5> & Co"
    assert_array_equal(record.counts, counts)


def test_limb_leads_are_restored_from_any_residuals(rng):
    counts = rng.integers(-300, 300, (12, 400)).astype(np.int16)

    assert_array_equal(decode(document(xli(residuals(counts)), 400)).counts, counts)


@pytest.mark.parametrize("n_samples", [1, 2, 3, 4, 500])
def test_a_lead_of_any_length_is_decoded(rng, n_samples):
    counts = rng.integers(-8000, 8000, (1, n_samples)).astype(np.int16)
    made = document(
        xli(counts), 0, numberofleads="1", leadlabels="V1", samplespersecond="1000", durationperchannel=f"{n_samples}"
    )

    assert_array_equal(decode(made).counts, counts)


@given(st.lists(st.integers(-8000, 8000), min_size=3, max_size=60), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_the_kernel_decodes_whatever_the_encoder_wrote(samples, n_repeats):
    counts = np.tile(np.array(samples, np.int16), n_repeats)[np.newaxis]
    out = np.empty_like(counts)
    text = base64.b64encode(xli(counts))

    assert _kernels.xli_leads(text, (0, len(text)), [0], [-1] * 6, out) == (0, 1)
    assert_array_equal(out, counts)


@pytest.mark.parametrize("behind", [4 * JUNK, b"\xff" * 999, b""], ids=["channels", "junk", "nothing"])
def test_what_stands_behind_the_valid_leads_is_no_part_of_the_ecg(payload, counts, behind):
    assert_array_equal(decode(document(payload + behind, 1000)).counts, counts)


def test_of_fifteen_leads_the_twelve_standard_ones_are_taken(payload, counts):
    labels = " ".join((*LEADS, "V3R", "V4R", "V7"))
    record = decode(document(payload + 3 * JUNK, 1000, numberofleads="15", leadlabels=labels))

    assert record.leads == LEADS
    assert_array_equal(record.counts, counts)


def test_leads_are_taken_by_name_in_any_order(counts):
    order = [11, 3, 0, 6, 4, 2, 7, 1, 8, 5, 9, 10]
    labels = " ".join(LEADS[row] for row in order)
    stored = JUNK + xli(residuals(counts)[order])
    record = decode(document(stored, 1000, numberofleads="13", leadlabels=f"V9 {labels}"))

    assert record.leads == tuple(LEADS[row] for row in order)
    assert_array_equal(record.counts, counts[order])


def test_chest_leads_have_two_names(payload, counts):
    labels = " ".join(LEADS).replace("V", "C").replace("aCR aCL aCF", "aVR aVL aVF")
    record = decode(document(payload, 1000, leadlabels=labels))

    assert record.leads == LEADS
    assert_array_equal(record.counts, counts)


def test_a_residual_without_the_leads_of_its_prediction_is_left_alone(counts):
    kept = [row for row, lead in enumerate(LEADS) if lead != "II"]
    labels = " ".join(LEADS[row] for row in kept)
    record = decode(document(xli(residuals(counts)[kept]), 1000, numberofleads="11", leadlabels=labels))

    assert record.leads == ("I", "V1", "V2", "V3", "V4", "V5", "V6")


@pytest.mark.parametrize("resolution", ["5", "2.5", "1.25", "10"])
@pytest.mark.parametrize("fs_hz", [250, 500, 1000])
def test_a_second_that_ends_in_the_calibration_pulse_is_cut(fs_hz, resolution):
    counts = twelve(fs_hz=fs_hz)
    whole = calibrated(counts, fs_hz=fs_hz, resolution_uv=float(resolution))
    changes = {"durationperchannel": "3000", "samplespersecond": f"{fs_hz}", "resolution": resolution}

    assert_array_equal(decode(document(xli(residuals(whole)), 0, **changes)).counts, counts)


def test_eleven_seconds_without_the_pulse_are_all_rhythm():
    counts = twelve(11.0)

    assert_array_equal(decode(document(xli(residuals(counts)), 5500)).counts, counts)


@pytest.mark.parametrize("lead", LEADS)
def test_a_second_is_cut_only_if_every_lead_has_the_pulse(counts, lead):
    whole = calibrated(counts)
    whole[LEADS.index(lead), -1] = 5

    assert decode(document(xli(residuals(whole)), 1500)).n_samples == 1500


def test_nothing_is_left_of_no_more_than_a_pulse_but_the_pulse():
    whole = np.tile(calibration(), (12, 1))

    assert decode(document(xli(residuals(whole)), 500)).n_samples == 500


@pytest.mark.parametrize(
    "changes", [{"compression": None}, {"compression": "", "signal_samplingrate": None}], ids=["absent", "empty"]
)
def test_without_compression_lead_stands_after_lead(counts, changes):
    record = decode(document(counts.tobytes(), 1000, **changes))

    assert record.leads == INDEPENDENT_LEADS
    assert_array_equal(record.counts, counts[[LEADS.index(lead) for lead in INDEPENDENT_LEADS]])


def test_without_compression_the_calibration_is_cut_and_further_channels_are_left_alone(counts):
    whole = np.vstack([calibrated(counts), np.full((4, 1500), 77, np.int16)])
    record = decode(document_103(whole.tobytes(), 1500, compressflag="False"))

    assert_array_equal(record.counts, counts[[LEADS.index(lead) for lead in INDEPENDENT_LEADS]])


@pytest.mark.parametrize(
    ("write", "changes"),
    [
        (document, {"compression": None}),
        (document, {}),
        (document_103, {"compressflag": "False"}),
        (document_103, {}),
    ],
    ids=["1.04", "1.04 with the compression it had", "1.03", "1.03 with the compression it had"],
)
def test_a_document_that_was_decoded_into_decimal_numbers_is_read(counts, write, changes):
    whole = np.vstack([calibrated(counts), np.full((4, 1500), 77, np.int16)])
    record = decode(as_digits(write, whole, 1500, **changes))

    assert record.leads == INDEPENDENT_LEADS
    assert_array_equal(record.counts, counts[[LEADS.index(lead) for lead in INDEPENDENT_LEADS]])


def test_an_offset_is_subtracted_and_predictions_with_it_are_not_guessed(payload, counts):
    record = decode(document(payload, 1000, signaloffset="12"))

    assert record.leads == INDEPENDENT_LEADS
    assert_array_equal(waveform.nanovolts(record, ("V1",)), (counts[6:7] - 12.0) * 5000)


def test_an_offset_of_the_device_is_one_of_the_samples_in_1_03_only(payload):
    later = document(payload, 1000, signaloffset=None).replace(
        b"<resolution>", b"<signaloffset>12</signaloffset><resolution>"
    )

    assert decode(later).zero_counts == (0.0,) * 12
    assert decode(document_103(payload, 1000, signal_signaloffset="12")).zero_counts == (12.0,) * 8


@pytest.mark.parametrize(
    ("changes", "uv_per_count"),
    [
        ({"resolution": "5.00"}, 5.0),
        ({"resolution": "1.25", "signal_resolution": "5"}, 1.25),
        ({"resolution": None, "signal_resolution": "2.5"}, 2.5),
    ],
)
def test_the_gain_is_the_waveforms_own_else_the_devices(payload, changes, uv_per_count):
    assert decode(document(payload, 1000, **changes)).uv_per_count == (uv_per_count,) * 12


@pytest.mark.parametrize(
    ("changes", "fs_hz"),
    [
        ({"samplespersecond": "500.0"}, 500),
        ({"samplespersecond": "250", "durationperchannel": "4000"}, 250),
        ({"samplespersecond": None, "signal_samplingrate": "1000", "durationperchannel": "1000"}, 1000),
    ],
)
def test_the_rate_is_the_waveforms_own_else_the_devices(payload, changes, fs_hz):
    assert decode(document(payload, 1000, **changes)).fs_hz == fs_hz


@pytest.mark.parametrize(
    ("date", "time", "moment"),
    [
        ("2024-02-29", "", datetime(2024, 2, 29)),
        ("2024-02-29", "07:08:09.250", datetime(2024, 2, 29, 7, 8, 9)),
        ("2024-02-29", "07:08:09+01:00", datetime(2024, 2, 29, 7, 8, 9)),
        ("2024-02-30", "07:08:09", None),
        ("29.02.2024", "07:08:09", None),
        ("0024-02-29", "07:08:09", None),
        ("2024-02-29", "25:00:00", None),
        ("", "", None),
    ],
)
def test_a_moment_that_is_none_is_unknown_and_harms_nothing(payload, date, time, moment):
    assert decode(document(payload, 1000, date=date, time=time)).acquired_at == moment


@pytest.mark.parametrize(("machine", "model"), [("", None), ("Unknown", None), (" x\n" + "y" * 99, "x " + "y" * 62)])
def test_a_machine_without_a_name_is_unknown(payload, machine, model):
    assert decode(document(payload, 1000, machine=machine)).device_model == model


def test_attributes_are_read_whatever_their_quotes_and_neighbours(payload, counts):
    made = document(payload, 1000, leadlabels=None, otherinfo=None, attributes=" title='a > b &quot;' ")
    made = made.replace(b"title=", b"leadlabels = 'I&#32;II III aVR aVL aVF V1 V2 V3 V4 V5 V6'\n title=")

    assert_array_equal(decode(made).counts, counts)


def with_codes(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """The payload with the first lead's codes changed."""

    def changed(payload: bytes) -> bytes:
        end = 8 + int.from_bytes(payload[:4], "little")
        codes = change(payload[8:end])
        return len(codes).to_bytes(4, "little") + payload[4:8] + codes + payload[end:]

    return changed


def of(**changes: str | None) -> Callable[[bytes], bytes]:
    return lambda payload: document(payload, 1000, **changes)


def of_103(**changes: str | None) -> Callable[[bytes], bytes]:
    return lambda payload: document_103(payload, 1000, **changes)


def stored(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda payload: document(change(payload), 1000)


def edited(pattern: bytes, by: bytes) -> Callable[[bytes], bytes]:
    def change(payload: bytes) -> bytes:
        made, n = re.subn(pattern, by, document(payload, 1000), flags=re.DOTALL)
        assert n, pattern
        return made

    return change


REFUSALS: dict[str, tuple[Callable[[bytes], bytes], Reason]] = {
    "average beats only": (edited(rb"<parsedwaveforms.*</parsedwaveforms>", b""), Reason.NO_RHYTHM),
    "no waveforms": (edited(rb"<waveforms>.*</waveforms>", b""), Reason.NO_RHYTHM),
    "samples in another file": (edited(rb"parsedwaveforms", b"unparsedwaveforms"), Reason.NO_RHYTHM),
    "two rhythms": (edited(rb"<parsedwaveforms", b"<parsedwaveforms/><parsedwaveforms"), Reason.NO_RHYTHM),
    "rate absent": (of(samplespersecond=None, signal_samplingrate=None), Reason.UNKNOWN_RATE),
    "rate 0": (of(samplespersecond="0"), Reason.UNKNOWN_RATE),
    "rate a word": (of(samplespersecond="fast"), Reason.UNKNOWN_RATE),
    "rate nan": (of(samplespersecond="nan"), Reason.UNKNOWN_RATE),
    "rate beyond all": (of(samplespersecond="1e300"), Reason.UNKNOWN_RATE),
    "rate absent in 1.03": (of_103(signal_samplingrate=None), Reason.UNKNOWN_RATE),
    "gain absent": (of(resolution=None, signal_resolution=None), Reason.UNKNOWN_GAIN),
    "gain 0": (of(resolution="0"), Reason.UNKNOWN_GAIN),
    "gain a word": (of(resolution="5 uV"), Reason.UNKNOWN_GAIN),
    "gain infinite": (of(resolution="inf"), Reason.UNKNOWN_GAIN),
    "gain absent in 1.03": (of_103(signal_signalresolution=None), Reason.UNKNOWN_GAIN),
    "duration absent": (of(durationperchannel=None), Reason.MALFORMED),
    "duration a word": (of(durationperchannel="Unknown"), Reason.MALFORMED),
    "duration 0": (of(durationperchannel="0"), Reason.MALFORMED),
    "duration of a day": (of(durationperchannel="86400000"), Reason.MALFORMED),
    "duration of half an hour": (of(durationperchannel="1800000"), Reason.MALFORMED),
    "duration of another sample": (of(durationperchannel="2002"), Reason.MALFORMED),
    "duration of a sample less": (of(durationperchannel="1998"), Reason.MALFORMED),
    "offset a word": (of(signaloffset="x"), Reason.MALFORMED),
    "offset beyond all": (of(signaloffset="1e9"), Reason.MALFORMED),
    "14 bits": (of(bitspersample="14"), Reason.MALFORMED),
    "24 bits in 1.03": (of_103(nbitspersample="24"), Reason.MALFORMED),
    "unsigned": (of(signalsigned="False"), Reason.MALFORMED),
    "base64 called digits": (of(dataencoding="Plain"), Reason.CORRUPT_PAYLOAD),
    "an unknown encoding": (of(dataencoding="Hex"), Reason.MALFORMED),
    "digits of a lead less": (lambda _: as_digits(document, np.zeros((11, 1000), int)), Reason.MALFORMED),
    "digits of part of a channel": (lambda _: as_digits(document, np.zeros((12, 1001), int)), Reason.MALFORMED),
    "another compression": (of(compression="Huffman"), Reason.MALFORMED),
    "compressed, and not how": (of_103(compressmethod=None), Reason.MALFORMED),
    "more leads than labels": (of(numberofleads="13"), Reason.MALFORMED),
    "no lead": (of(numberofleads="0"), Reason.MALFORMED),
    "half a lead": (of(numberofleads="11.5"), Reason.MALFORMED),
    "leads a word": (of(numberofleads="all"), Reason.MALFORMED),
    "lead twice": (of(leadlabels="I II III aVR aVL aVF V1 V2 V3 V4 V5 C5"), Reason.DUPLICATE_LEAD),
    "no standard lead": (of(leadlabels="X Y Z 4 5 6 7 8 9 10 11 12"), Reason.MISSING_LEADS),
    "residuals only": (of(leadlabels="III aVR aVL aVF", numberofleads="4"), Reason.MISSING_LEADS),
    "labels empty": (of(leadlabels=""), Reason.MALFORMED),
    "labels absent": (of(leadlabels=None), Reason.MISSING_LEADS),
    "another acquisition": (of_103(signal_acquisitiontype="EASI"), Reason.MISSING_LEADS),
    "one of twelve channels invalid": (of_103(signal_numberchannelsvalid="11"), Reason.MISSING_LEADS),
    "more leads than channels": (
        of(leadlabels=" ".join((*LEADS[:11], "V7", "V6")), numberofleads="13"),
        Reason.TRUNCATED,
    ),
    "payload absent": (edited(rb'(hipass="0.05")>[^<]*</parsedwaveforms>', rb"\1/>"), Reason.MALFORMED),
    "payload cut": (stored(lambda payload: payload[:-30]), Reason.TRUNCATED),
    "payload cut in a chunk's header": (
        stored(lambda payload: payload[: 12 + int.from_bytes(payload[:4], "little")]),
        Reason.TRUNCATED,
    ),
    "chunk of negative length": (stored(lambda payload: b"\xff\xff\xff\xff" + payload[4:]), Reason.CORRUPT_PAYLOAD),
    "chunk longer than the payload": (stored(lambda payload: b"\xff\xff\xff\x7f" + payload[4:]), Reason.TRUNCATED),
    "not base64": (edited(rb'(hipass="0.05">\s*.{50}).', rb"\1#"), Reason.CORRUPT_PAYLOAD),
    "markup in the payload": (edited(rb'(hipass="0.05">\s*.{50})', rb"\1<!-- x -->"), Reason.CORRUPT_PAYLOAD),
    "code without a string": (stored(with_codes(lambda codes: b"\x7f" + codes[1:])), Reason.CORRUPT_PAYLOAD),
    "codes that end early": (stored(with_codes(lambda codes: codes[:-20] + b"\xff\xff")), Reason.MALFORMED),
    "no codes": (stored(with_codes(lambda _: b"")), Reason.MALFORMED),
    "samples beyond 16 bits": (lambda payload: document(JUNK + payload, 1000), Reason.CORRUPT_PAYLOAD),
    "a limb lead beyond 16 bits": (
        lambda _: document(
            xli([np.int16([-30_000] * 9), np.int16([30_000] * 9), np.zeros(9, np.int16)]),
            0,
            durationperchannel="18",
            numberofleads="3",
        ),
        Reason.CORRUPT_PAYLOAD,
    ),
    "plain samples cut": (
        lambda _: document(bytes(2 * 12 * 1000 - 2), 1000, compression=None),
        Reason.MALFORMED,
    ),
    "plain samples and part of a channel": (
        lambda _: document(bytes(2 * 12 * 1000 + 2), 1000, compression=None),
        Reason.MALFORMED,
    ),
    "plain samples not base64": (
        lambda _: document(bytes(24_000), 1000, compression=None).replace(b"AAAA", b"AA#A", 1),
        Reason.CORRUPT_PAYLOAD,
    ),
    "entities": (edited(rb"\?>", b'?><!DOCTYPE x [<!ENTITY a "b">]>'), Reason.UNSAFE_XML),
    "a NUL among the fields": (of(signal_samplingrate="5\x0000"), Reason.MALFORMED),
    "closed too early": (edited(rb"</machine>", b""), Reason.MALFORMED),
    "cut": (lambda payload: document(payload, 1000)[:3000], Reason.TRUNCATED),
    "another root": (edited(rb"restingecgdata", b"RestingEcgData"), Reason.UNKNOWN_FORMAT),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_file_that_cannot_be_trusted_is_refused_for(payload, case):
    make, reason = REFUSALS[case]

    assert refusal(make(payload)) == reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_file_cut_anywhere_is_refused_or_whole(payload, counts, encoding):
    made = document(payload, 1000, encoding=encoding)
    for length in range(1, len(made), 10):
        try:
            record = decode(made[:length])
        except RecordError:
            continue
        assert length > len(made) - 10
        assert_array_equal(record.counts, counts)


def test_a_payload_cut_anywhere_is_refused(payload):
    for length in range(0, len(payload), 10):
        assert refusal(document(payload[:length], 1000)) in (Reason.TRUNCATED, Reason.MALFORMED, Reason.CORRUPT_PAYLOAD)


SMALL = xli(residuals(twelve()[:, 100:160]))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8), st.booleans())
@settings(max_examples=300, deadline=None)
def test_whatever_bytes_are_altered_a_record_or_a_reason_comes_out(flips, in_payload):
    altered = bytearray(SMALL if in_payload else document(SMALL, 60))
    for at, byte in flips:
        altered[at % len(altered)] = byte
    started = process_time()
    with suppress(RecordError):
        record = decode(document(bytes(altered), 60) if in_payload else bytes(altered))
        assert set(record.leads) <= set(LEADS)
        assert record.counts.shape[0] == len(record.leads) == len(record.uv_per_count)
    assert process_time() - started < 1


@pytest.mark.parametrize(
    ("span", "rows", "limbs"),
    [
        ((0, 9), [0], [-1] * 6),
        ((5, 4), [0], [-1] * 6),
        ((-1, 4), [0], [-1] * 6),
        ((0, 8), [1], [-1] * 6),
        ((0, 8), [0], [-1] * 5),
        ((0, 8), [0], [-1, -1, 0, -1, -1, -1]),
        ((0, 8), [0], [0, 0, -1, -1, 0, -1]),
        ((0, 8), [0], [0, 1, -1, -1, -1, -1]),
    ],
)
def test_the_kernel_refuses_spans_and_rows_that_are_not_there(span, rows, limbs):
    with pytest.raises(ValueError, match=r"span|row|limb"):
        _kernels.xli_leads(b"AAAAAAAA", span, rows, limbs, np.empty((1, 4), np.int16))
