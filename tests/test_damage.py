"""Damaged input: each file ends as the reject that it must be, and its neighbours never notice."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from ecgbatch import archive, formats, gate, synth, waveform
from ecgbatch.errors import RecordError
from ecgbatch.feed import batch
from ecgbatch.plan import Shard
from ecgbatch.record import INDEPENDENT_LEADS, INVALID, LEADS, Reason, Record

BILLION_LAUGHS = b"""<?xml version="1.0"?>
<!DOCTYPE RestingECG [
  <!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">
  <!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;"><!ENTITY e "&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;">
]>
<RestingECG><Waveform>&e;</Waveform></RestingECG>
"""
EXTERNAL_ENTITY = b"""<?xml version="1.0"?>
<!DOCTYPE RestingECG [<!ENTITY secret SYSTEM "file:///etc/passwd">]><RestingECG><Waveform>&secret;</Waveform></RestingECG>
"""


def small(**changes) -> Record:
    """An ECG of few bytes, for tests that damage every one of them."""
    return synth.record(**{"seed": 11, "rhythm": "sinus", "fs_hz": 100, "seconds": 5.0, **changes})


def outcome(files: dict[str, bytes], name: str) -> Record | RecordError:
    """What becomes of an entry whose folder holds `files`; anything but a record or its defect is our bug."""

    def sibling(other: str) -> bytes:
        if other not in files:
            raise RecordError(Reason.MISSING_SIGNAL, "no such file")
        return files[other]

    try:
        return formats.decode(files[name], name, sibling)
    except RecordError as defect:
        return defect


def is_defect_or_same(found: Record | RecordError, expected: Record) -> bool:
    if isinstance(found, RecordError):
        return True
    try:
        nv = waveform.nanovolts(found, INDEPENDENT_LEADS)
    except RecordError:  # leads are missing: a reject when it is prepared
        return True
    return found.fs_hz == expected.fs_hz and np.array_equal(nv, waveform.nanovolts(expected, INDEPENDENT_LEADS))


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "utf-8-sig", "utf-16"])
def test_a_muse_file_cut_at_every_tenth_byte_is_a_reject_or_the_same_ecg(encoding):
    ecg = small()
    document = synth.muse_xml(ecg, encoding=encoding)
    found = {n: outcome({"x.xml": document[:n]}, "x.xml") for n in range(0, len(document), 10)}

    assert [n for n, result in found.items() if not is_defect_or_same(result, ecg)] == []
    defects = {result.reason for result in found.values() if isinstance(result, RecordError)}
    assert defects == {Reason.EMPTY, Reason.TRUNCATED}


@pytest.mark.parametrize("leads", [INDEPENDENT_LEADS, LEADS], ids=["8 leads", "12 leads"])
@pytest.mark.parametrize("fmt", [16, 24, 212, 310])
def test_a_wfdb_record_with_a_file_cut_at_any_byte_is_a_reject_or_the_same_ecg(fmt, leads):
    ecg = small(leads=leads, uv_per_count=20)
    ecg = replace(ecg, counts=ecg.counts.clip(-500, 500))
    files = synth.wfdb_files(ecg, "r", fmt=fmt)
    cut_header = [{**files, "r.hea": files["r.hea"][:n]} for n in range(len(files["r.hea"]))]
    cut_signal = [{**files, "r.dat": files["r.dat"][:n]} for n in range(0, len(files["r.dat"]), 10)]

    assert [f for f in [*cut_header, *cut_signal] if not is_defect_or_same(outcome(f, "r.hea"), ecg)] == []
    assert {outcome(f, "r.hea").reason for f in cut_signal} == {Reason.TRUNCATED}


def test_a_signal_file_cut_where_the_header_states_no_length_fails_its_checksum():
    files = synth.wfdb_files(small(), "r")
    files["r.hea"] = re.sub(rb"^(r 8 100) .*", rb"\1", files["r.hea"])

    reasons = {outcome({**files, "r.dat": files["r.dat"][:n]}, "r.hea").reason for n in range(0, 7000, 10)}

    assert reasons == {Reason.TRUNCATED, Reason.CHECKSUM}  # an empty file, and any other


EXTREMES = [
    "",
    " ",
    "0",
    "-0",
    "-1",
    "1",
    "2",
    "9" * 12,
    "9" * 25,
    "9" * 5000,
    "1e999",
    "-1e308",
    "1e-320",
    "nan",
    "inf",
    "0x10",
    "1_000",
    "٣",
    "\0",
    "é",
    "I",
    "r.dat",
    ".",
    "..",
    "/",
    "~",
    "<",
    "&amp;",
    "16x0",
    "16x99999999",
    "16:99999",
    "16+9",
    "8",
    "212",
    "516",
    "200(9)/uV",
    "500/3",
    "r/2",
    "01-01-99999999999",
    "9999999999:00:00",
    "01/01/99999999999",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def ends_as_one_row(folder: Path, files: dict[str, bytes], name: str, spec) -> None:
    """Put one entry through all that the feed does with it."""
    for other, content in files.items():
        (folder / other).write_bytes(content)
    path = str(folder / name)
    belongings = formats.companions(files[name], name)
    entry = archive.Entry(name, path, *archive.stamp(path, belongings))
    (result,) = batch.batches([Shard(0, [entry])], [spec], size=1, workers=1)
    assert len(result.rows) + len(result.rejects) == 1
    for row in result.rows:
        assert np.isfinite(result.x[spec]).all()
        assert np.isfinite(row.quality.amplitude_uv)
    for reject in result.rejects:
        assert reject.reason in Reason
        assert "\n" not in reject.detail


quick = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)


def flipped(raw: bytes, flips: list[tuple[float, int]]) -> bytes:
    damaged = bytearray(raw)
    for share, value in flips:
        damaged[int(share * len(raw))] = value
    return bytes(damaged)


MUSE = synth.muse_xml(small())
WFDB = synth.wfdb_files(small(leads=LEADS), "r")
MUSE_TEXTS = [found.span(1) for found in re.finditer(rb"<\w+>([^<]{0,40})</", MUSE)]


@quick
@given(flips=FLIPS)
def test_wrong_bytes_in_a_muse_file_end_as_one_row(folder, tiny_bundle, flips):
    ends_as_one_row(folder, {"x.xml": flipped(MUSE, flips)}, "x.xml", tiny_bundle.input)


@quick
@given(at=st.sampled_from(MUSE_TEXTS), text=st.sampled_from(EXTREMES), everywhere=st.booleans())
def test_extreme_values_in_a_muse_file_end_as_one_row(folder, tiny_bundle, at, text, everywhere):
    begin, end = at
    tag = re.search(rb"<(\w+)>$", MUSE[:begin])[1]
    damaged = MUSE[:begin] + text.encode() + MUSE[end:]
    if everywhere:
        damaged = re.sub(rb"(?<=<%s>)[^<]{0,40}(?=</)" % tag, lambda _: text.encode(), MUSE)
    ends_as_one_row(folder, {"x.xml": damaged}, "x.xml", tiny_bundle.input)


@quick
@given(flips=FLIPS, in_header=st.booleans())
def test_wrong_bytes_in_a_wfdb_record_end_as_one_row(folder, tiny_bundle, flips, in_header):
    name = "r.hea" if in_header else "r.dat"
    ends_as_one_row(folder, {**WFDB, name: flipped(WFDB[name], flips)}, "r.hea", tiny_bundle.input)


@settings(quick, max_examples=500)
@given(line=st.integers(0, 12), field=st.integers(0, 8), text=st.sampled_from(EXTREMES), everywhere=st.booleans())
def test_extreme_values_in_a_wfdb_header_end_as_one_row(folder, tiny_bundle, line, field, text, everywhere):
    lines = WFDB["r.hea"].decode().splitlines()
    for i in range(1, 13) if everywhere and line else [line]:
        fields = lines[i].split(" ")
        fields[min(field, len(fields) - 1)] = text
        lines[i] = " ".join(fields)
    files = {**WFDB, "r.hea": "\n".join(lines).encode()}
    ends_as_one_row(folder, files, "r.hea", tiny_bundle.input)


@quick
@given(raw=st.binary(max_size=300), name=st.sampled_from(["x.xml", "x.hea", "x.dat", "x"]))
def test_junk_of_any_name_ends_as_one_row(folder, tiny_bundle, raw, name):
    ends_as_one_row(folder, {name: raw}, name, tiny_bundle.input)


def test_a_prolog_of_a_thousand_blanks_takes_no_time():
    hostile = b"<?xml version='1.0'?>" + b" " * 2000 + b"<!-- -->" * 200 + b"<!"

    assert isinstance(outcome({"x.xml": hostile}, "x.xml"), RecordError)


DAMAGED: dict[str, tuple[dict[str, bytes], Reason]] = {}


def damaged_files() -> dict[str, tuple[dict[str, bytes], Reason]]:
    """Name of an entry -> its files, and the reason it must be rejected for."""
    ecg = small()
    document = synth.muse_xml(ecg)
    wfdb = {name: synth.wfdb_files(ecg, name) for name in ("crc", "cut", "count", "lost", "zero", "more")}
    nan = ecg.counts.copy()
    nan[4, 100:200] = -32768

    def head(name: str, pattern: bytes, by: bytes) -> dict[str, bytes]:
        files = wfdb[name]
        return {**files, f"{name}.hea": re.sub(pattern, by, files[f"{name}.hea"], flags=re.MULTILINE)}

    def with_leads(rows: list[int], names: tuple[str, ...]) -> Record:
        n = len(rows)
        return replace(ecg, leads=names, counts=ecg.counts[rows], uv_per_count=(4.88,) * n, zero_counts=(0.0,) * n)

    three = with_leads([0, 1, 6], ("I", "II", "V5"))
    twice = with_leads([*range(8), 2], (*INDEPENDENT_LEADS, "V1"))
    flat = replace(ecg, counts=np.full_like(ecg.counts, 3))
    return {
        "cut.xml": ({"cut.xml": document[:7000]}, Reason.TRUNCATED),
        "crc.xml": ({"crc.xml": synth.muse_xml(ecg, overrides={"LeadDataCRC32": "123"})}, Reason.CHECKSUM),
        "base64.xml": (
            {"base64.xml": re.sub(rb"(<WaveFormData>\s*.{50}).", rb"\1*", document)},
            Reason.CORRUPT_PAYLOAD,
        ),
        "laughs.xml": ({"laughs.xml": BILLION_LAUGHS}, Reason.UNSAFE_XML),
        "external.xml": ({"external.xml": EXTERNAL_ENTITY}, Reason.UNSAFE_XML),
        "utf16-laughs.xml": ({"utf16-laughs.xml": BILLION_LAUGHS.decode().encode("utf-16")}, Reason.UNSAFE_XML),
        "deep.xml": ({"deep.xml": b"<RestingECG>" + b"<a>" * 100_000}, Reason.MALFORMED),
        "bytes.xml": ({"bytes.xml": synth.muse_xml(ecg, overrides={"LeadByteCountTotal": "800"})}, Reason.MALFORMED),
        "samples.xml": (
            {"samples.xml": synth.muse_xml(ecg, overrides={"LeadSampleCountTotal": "9"})},
            Reason.MALFORMED,
        ),
        "rate.xml": ({"rate.xml": synth.muse_xml(ecg, overrides={"SampleBase": "0"})}, Reason.UNKNOWN_RATE),
        "gain.xml": (
            {"gain.xml": synth.muse_xml(ecg, overrides={"LeadAmplitudeUnitsPerBit": None})},
            Reason.UNKNOWN_GAIN,
        ),
        "median.xml": ({"median.xml": synth.muse_xml(ecg, waveforms=("Median",))}, Reason.NO_RHYTHM),
        "three.xml": ({"three.xml": synth.muse_xml(three)}, Reason.MISSING_LEADS),
        "twice.xml": ({"twice.xml": synth.muse_xml(twice)}, Reason.DUPLICATE_LEAD),
        "flat.xml": ({"flat.xml": synth.muse_xml(flat)}, Reason.NO_SIGNAL),
        "short.xml": ({"short.xml": synth.muse_xml(small(seconds=4.99))}, Reason.TOO_SHORT),
        "other.xml": ({"other.xml": b"<html/>"}, Reason.UNKNOWN_FORMAT),
        "empty.xml": ({"empty.xml": b""}, Reason.EMPTY),
        "junk.bin": ({"junk.bin": bytes(range(256)) * 9}, Reason.UNKNOWN_FORMAT),
        "letter.txt": ({"letter.txt": b"Dear colleague,\n"}, Reason.UNKNOWN_FORMAT),
        "crc.hea": (head("crc", rb"-?\d+ 0 I$", b"12345 0 I"), Reason.CHECKSUM),
        "cut.hea": ({**wfdb["cut"], "cut.dat": wfdb["cut"]["cut.dat"][:-2]}, Reason.TRUNCATED),
        "count.hea": (head("count", rb"^count 8", b"count 9"), Reason.TRUNCATED),
        "more.hea": (head("more", rb"^more 8 100 500", b"more 8 100 501"), Reason.TRUNCATED),
        "lost.hea": ({"lost.hea": wfdb["lost"]["lost.hea"]}, Reason.MISSING_SIGNAL),
        "zero.hea": (head("zero", rb"^zero 8 100", b"zero 8 0"), Reason.UNKNOWN_RATE),
        "nan.hea": (synth.wfdb_files(replace(ecg, counts=nan), "nan"), Reason.INVALID_SAMPLES),
        "flat.hea": (synth.wfdb_files(flat, "flat"), Reason.NO_SIGNAL),
        "gone.hea": (synth.wfdb_files(replace(ecg, counts=np.full_like(nan, -32768)), "gone"), Reason.NO_SIGNAL),
        "three.hea": (synth.wfdb_files(three, "three"), Reason.MISSING_LEADS),
        "twice.hea": (synth.wfdb_files(twice, "twice"), Reason.DUPLICATE_LEAD),
        "orphan.dat": ({"orphan.dat": b"\0\1" * 999}, Reason.ORPHAN_SIGNAL),
        "orphan.mat": ({"orphan.mat": synth.wfdb_files(ecg, "o", container="mat")["o.mat"]}, Reason.ORPHAN_SIGNAL),
        "words.hea": ({"words.hea": b"no header at all"}, Reason.UNKNOWN_FORMAT),
        "empty.hea": ({"empty.hea": b""}, Reason.EMPTY),
    }


def good_files() -> dict[str, bytes]:
    made: dict[str, bytes] = {}
    for seed in range(12):
        ecg = synth.record(seed=seed, fs_hz=(500, 250)[seed % 2])
        made |= {f"g{seed:02}.xml": synth.muse_xml(ecg)} if seed % 3 else synth.wfdb_files(ecg, f"g{seed:02}")
    return made


def test_in_one_archive_every_bad_file_is_its_reject_and_every_good_one_scores_as_alone(scored, tmp_path):
    good, bad = good_files(), damaged_files()
    alone, mixed = tmp_path / "alone", tmp_path / "mixed"
    for folder, contents in ((alone, [good]), (mixed, [good, *(files for files, _ in bad.values())])):
        folder.mkdir()
        for files in contents:
            for name, content in files.items():
                (folder / name).write_bytes(content)
    with (mixed / "huge.xml").open("wb") as file:
        file.write(b'<?xml version="1.0"?><RestingECG>')
        file.truncate(2**30)

    _, expected, _ = scored(alone, out=tmp_path / "a")
    tally, scores, rejects = scored(mixed, out=tmp_path / "b", batch=5, shard_size=13)

    reasons = dict(rejects.select("record_id", "reason").iter_rows())
    assert reasons == {name: reason for name, (_, reason) in bad.items()} | {"huge.xml": Reason.TOO_LARGE}
    assert tally.n_entries == len(scores) + len(rejects)
    labels = [name for name in scores.columns if name.startswith("tiny/")]
    assert scores["record_id"].to_list() == expected["record_id"].to_list()
    assert scores["waveform_hash"].to_list() == expected["waveform_hash"].to_list()
    assert_allclose(scores.select(labels).to_numpy(), expected.select(labels).to_numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", synth.FORMATS)
def test_every_kind_of_damage_that_synth_knows_is_rejected_for_its_reason(scored, tmp_path, kind):
    written = synth.write_archive(tmp_path / "archive", len(synth.DAMAGE[kind]), formats=[kind], damaged=1.0)

    _, _, rejects = scored(tmp_path / "archive")

    assert {w.damage for w in written} == set(synth.DAMAGE[kind])
    assert dict(rejects.select("record_id", "reason").iter_rows()) == {w.record_id: w.expected for w in written}


def test_an_archive_of_packs_is_scored_and_rejected_as_it_was_written(scored, tmp_path):
    written = synth.write_archive(tmp_path / "archive", 72, formats=synth.FORMATS, damaged=0.5, packed=1.0, seed=3)

    tally, scores, rejects = scored(tmp_path / "archive")

    assert tally.n_entries == 72
    assert dict(rejects.select("record_id", "reason").iter_rows()) == {
        w.record_id: w.expected for w in written if w.expected
    }
    assert dict(scores.select("record_id", "format").iter_rows()) == {
        w.record_id: w.format for w in written if not w.expected
    }
    told = str(scores.rows() + rejects.rows())
    assert not [
        secret for secret in ("SYNTHÉTIQUE", "SYNTHETIQUE", "PERSONNE", "SYNTH-00", "19000101") if secret in told
    ]


def test_nothing_that_names_a_patient_leaves_the_file(tiny_bundle, tmp_path):
    secrets = ("Zaphod", "Beeblebrox", "PID-424242", "12-31-1901")
    names = {"PatientFirstName": secrets[0], "PatientLastName": secrets[1], "DateofBirth": secrets[3]}
    folder = tmp_path / "archive"
    folder.mkdir()
    ecg = small()
    breaks = {
        "good": {},
        "rate": {"SampleBase": "0"},
        "crc": {"LeadDataCRC32": "1"},
        "crc-text": {"LeadDataCRC32": secrets[2]},
        "gain": {"LeadAmplitudeUnits": secrets[1]},
        "type": {"WaveformType": None},
        "lead": {"LeadID": secrets[2]},
        "bytes": {"LeadByteCountTotal": secrets[2]},
    }
    for name, overrides in breaks.items():
        document = synth.muse_xml(ecg, patient_id=secrets[2], overrides={**names, **overrides})
        (folder / f"{name}.xml").write_bytes(document)
    (folder / "cut.xml").write_bytes(document[:2000])
    files = synth.wfdb_files(ecg, "r", patient_id=secrets[2])
    files["r.hea"] += f"# Name: {secrets[0]} {secrets[1]}\n".encode()
    for name, content in files.items():
        (folder / name).write_bytes(content)

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ecgbatch.cli",
            "score",
            folder,
            "--out",
            tmp_path / "run",
            "--model",
            tiny_bundle.folder,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    tables = [pl.read_parquet(part).write_json() for part in (tmp_path / "run").rglob("*.parquet")]
    everything = "\n".join([done.stdout, done.stderr, (tmp_path / "run" / "run.json").read_text("utf-8"), *tables])

    assert done.returncode == 3
    assert "good.xml" in everything
    assert [secret for secret in secrets if secret in everything] == []


def test_a_record_with_missing_samples_beyond_the_models_window_has_a_true_amplitude(scored, tmp_path):
    ecg = synth.record(seed=4, seconds=12.0)
    counts = ecg.counts.copy()
    counts[:, 5600:] = -32768
    for name, content in synth.wfdb_files(replace(ecg, counts=counts), "late").items():
        (tmp_path / name).write_bytes(content)

    _, scores, _ = scored(tmp_path / "late.hea")

    spans_uv = (ecg.counts[:, :5600].max(axis=1) - ecg.counts[:, :5600].min(axis=1).astype(int)) * 4.88
    assert scores["amplitude_uv"].item() == pytest.approx(spans_uv.max(), rel=1e-5)


def test_a_flat_lead_that_cannot_be_derived_is_named_flat_but_not_derived(scored, tmp_path):
    ecg = small(leads=LEADS)
    counts = ecg.counts.copy()
    counts[[LEADS.index("V3"), LEADS.index("aVF")]] = 0
    (tmp_path / "flat.xml").write_bytes(synth.muse_xml(replace(ecg, counts=counts)))

    _, scores, _ = scored(tmp_path / "flat.xml")

    assert scores["flat_leads"].item().to_list() == ["aVF", "V3"]
    assert scores["leads_derived"].item().to_list() == ["aVF"]


def test_a_lead_without_any_sample_has_no_part_in_the_amplitude(rng):
    nv = rng.integers(-900_000, 900_000, (8, 5000), np.int32)
    nv[2] *= 3
    with_widest = gate.measure(nv, 500.0, ()).amplitude_uv
    nv[2] = INVALID

    assert with_widest == pytest.approx(np.ptp(nv[0]) * 3e-3, rel=0.01)
    assert gate.measure(nv, 500.0, ()).amplitude_uv == pytest.approx(np.ptp(nv[0]) * 1e-3, rel=0.01)
