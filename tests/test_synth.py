import base64
import csv
import hashlib
import io
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
from lxml import etree
from scipy.ndimage import uniform_filter1d
from scipy.signal import find_peaks

from ecgbatch import archive, formats, synth
from ecgbatch.errors import UsageError
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Reason, Record
from ecgbatch.synth.decimals import decimals
from ecgbatch.synth.rhythm import RATE_BPM

with warnings.catch_warnings():  # wfdb calls what its pandas has deprecated
    warnings.simplefilter("ignore")
    import wfdb

MUSE = ("muse-xml",)
WFDB = ("wfdb",)
PINNED = "e84f932848cfc36884a191fbdcae1257d8f054eee4926d58482b8504599758e4"


PINNED_ARCHIVE = "51b7820bcd7728a8db63558245ff50e4a9c2bb64ed7a94cfc2a2390d0dde5d31"

WRITERS: Mapping[str, Callable[[Record], bytes]] = {
    "hl7-aecg": synth.aecg_xml,
    "cardiosoft-xml": synth.cardiosoft_xml,
    "dicom": synth.dicom_file,
    "edf": synth.edf_file,
    "mortara-xml": synth.mortara_xml,
    "philips-xml": synth.philips_xml,
    "schiller-xml": synth.schiller_xml,
}
XML_SAMPLES: Mapping[str, tuple[str, Callable[[etree._Element], object]]] = {
    "hl7-aecg": (
        "/*/*[local-name()='component']/*/*[local-name()='component']//*[local-name()='digits']",
        lambda digits: list(map(int, digits.text.split())),
    ),
    "cardiosoft-xml": (
        "/CardiologyXML/StripData/WaveformData",
        lambda lead: list(map(int, lead.text.split(","))),
    ),
    "mortara-xml": ("/ECG/CHANNEL", lambda lead: np.frombuffer(base64.b64decode(lead.get("DATA")), "<i2")),
    "schiller-xml": (
        "//wavedata[type='ECG_RHYTHMS']/channel/data",
        lambda data: list(map(int, data.text.rstrip(",").split(","))),
    ),
}
"""Where the samples of a rhythm lie, and how to read them."""


def decoded(content: bytes) -> Record:
    return formats.decode(content, "ecg", lambda name: pytest.fail(f"asked for {name!r}"))


def lead_uv(record: Record, lead: str) -> np.ndarray:
    row = record.leads.index(lead)
    return record.counts[row] * record.uv_per_count[row]


def steepness(record: Record) -> np.ndarray:
    """Of all leads together, over 20 ms: a whole turn of the mains, so that hum does not count."""
    step = round(0.02 * record.fs_hz)
    smooth = uniform_filter1d(record.counts.astype(float), step, axis=1)
    return np.abs(smooth[:, step:] - smooth[:, :-step]).sum(axis=0)


def qrs_s(record: Record) -> np.ndarray:
    """Times of the QRS complexes: where the leads are steepest."""
    steep = uniform_filter1d(steepness(record), round(0.08 * record.fs_hz))
    peaks, _ = find_peaks(steep, height=0.3 * np.quantile(steep, 0.97), distance=round(0.3 * record.fs_hz))
    return peaks / record.fs_hz


def at_qrs(record: Record, lead: str, after_s: float) -> float:
    """Median over beats of a lead's level `after_s` after the QRS complex, against the level before its P wave."""
    uv = lead_uv(record, lead)
    beats = [t for t in qrs_s(record) if 0.3 < t < record.seconds - 0.3]
    return float(np.median([uv[round((t + after_s) * record.fs_hz)] for t in beats]) - np.median(uv))


def read_muse(document: bytes) -> tuple[etree._Element, dict[str, np.ndarray]]:
    """The tree, and the rhythm's samples by lead, with every redundant field checked."""
    tree = etree.fromstring(document, etree.XMLParser(load_dtd=False, resolve_entities=False, no_network=True))
    (rhythm,) = tree.xpath("Waveform[WaveformType='Rhythm']")
    leads = {}
    for lead in rhythm.findall("LeadData"):
        samples = base64.b64decode(lead.findtext("WaveFormData"))
        assert int(lead.findtext("LeadDataCRC32")) == zlib.crc32(samples)
        assert int(lead.findtext("LeadByteCountTotal")) == len(samples)
        assert int(lead.findtext("LeadSampleCountTotal")) == len(samples) // 2
        leads[lead.findtext("LeadID")] = np.frombuffer(samples, "<i2")
    assert int(rhythm.findtext("NumberofLeads")) == len(leads)
    return tree, leads


def read_wfdb(folder: Path, files: dict[str, bytes]) -> wfdb.Record:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return wfdb.rdrecord(str(folder / next(iter(files)).removesuffix(".hea")), physical=False)


def tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


# one ECG


def test_the_same_arguments_give_the_same_samples() -> None:
    first, second = synth.record(seed=7), synth.record(seed=7)
    assert first.counts.tobytes() == second.counts.tobytes()
    assert (first.acquired_at, first.device_model) == (second.acquired_at, second.device_model)


def test_the_samples_of_a_seed_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(synth.record(seed=7, rhythm="sinus").counts.astype("<i2").tobytes())
    assert digest.hexdigest() == PINNED


def test_another_seed_is_another_ecg() -> None:
    assert len({synth.record(seed=seed).counts.tobytes() for seed in range(20)}) == 20


@pytest.mark.parametrize("fs_hz", [100, 240, 250, 360, 400, 500, 1000])
@pytest.mark.parametrize("seconds", [0.5, 2.5, 10, 15])
def test_a_record_has_the_asked_rate_and_length(fs_hz: float, seconds: float) -> None:
    record = synth.record(seed=1, fs_hz=fs_hz, seconds=seconds)
    assert record.counts.shape == (8, round(fs_hz * seconds))
    assert record.counts.dtype == np.int16
    assert record.fs_hz == fs_hz


@pytest.mark.parametrize("rhythm", synth.RHYTHMS)
def test_limb_leads_obey_einthoven_and_goldberger(rhythm: str) -> None:
    record = synth.record(seed=3, rhythm=rhythm, leads=LEADS)
    i, ii, iii, avr, avl, avf = record.counts[:6].astype(float)
    assert np.array_equal(iii, ii - i)
    for derived, exact in ((avr, -(i + ii) / 2), (avl, i - ii / 2), (avf, ii - i / 2)):
        assert np.abs(derived - exact).max() <= 0.5


def test_the_leads_of_twelve_are_those_of_eight() -> None:
    twelve, eight = synth.record(seed=3, leads=LEADS), synth.record(seed=3)
    for row, lead in enumerate(INDEPENDENT_LEADS):
        assert np.array_equal(twelve.counts[LEADS.index(lead)], eight.counts[row])


def test_leads_come_in_the_asked_order() -> None:
    record = synth.record(seed=3, leads=("V2", "aVF", "I"))
    assert np.array_equal(record.counts[2], synth.record(seed=3).counts[0])


def test_the_gain_changes_counts_and_not_microvolts() -> None:
    coarse, fine = synth.record(seed=3, uv_per_count=5), synth.record(seed=3, uv_per_count=1)
    assert np.abs(coarse.counts * 5.0 - fine.counts).max() <= 3


@pytest.mark.parametrize("rhythm", synth.RHYTHMS)
def test_the_rate_of_a_rhythm_is_in_its_range(rhythm: str) -> None:
    low, high = RATE_BPM[rhythm]
    for seed in range(6):
        times = qrs_s(synth.record(seed=seed, rhythm=rhythm, seconds=20))
        bpm = 60 / np.diff(times).mean()
        assert 0.88 * low <= bpm <= 1.12 * high, (seed, bpm)


def test_fibrillation_is_irregular_and_sinus_rhythm_is_not() -> None:
    def irregularity(seed: int, rhythm: str) -> float:
        rr_s = np.diff(qrs_s(synth.record(seed=seed, rhythm=rhythm, seconds=20)))
        return float(rr_s.std() / rr_s.mean())

    assert max(irregularity(seed, "sinus") for seed in range(8)) < 0.07
    assert min(irregularity(seed, "afib") for seed in range(8)) > 0.10


def test_sinus_intervals_vary_with_the_breath() -> None:
    rr_s = np.diff(qrs_s(synth.record(seed=2, rhythm="sinus", seconds=60)))
    assert 0.005 < rr_s.std() / rr_s.mean() < 0.07
    assert np.corrcoef(rr_s[1:], rr_s[:-1])[0, 1] > 0.3


def test_an_extrasystole_comes_early_and_is_followed_by_a_pause() -> None:
    for seed in range(5):
        rr_s = np.diff(qrs_s(synth.record(seed=seed, rhythm="pvc", seconds=20)))
        assert rr_s.min() < 0.8 * np.median(rr_s)
        assert rr_s.max() > 1.2 * np.median(rr_s)


def test_the_r_wave_grows_from_v1_to_v5() -> None:
    peaks = np.median([synth.record(seed=seed, rhythm="sinus").counts.max(axis=1) for seed in range(15)], axis=0)
    v1, _, v3, v4, v5, _ = peaks[2:]
    assert v1 < v3 < v4 < v5


def test_amplitudes_are_those_of_people() -> None:
    for seed in range(30):
        uv = synth.record(seed=seed).counts * 4.88
        assert 300 < np.ptp(uv, axis=1).max() < 12_000


def test_hypertrophy_reaches_the_voltage_criterion_and_a_normal_heart_does_not() -> None:
    def sokolow_lyon_mv(seed: int, rhythm: str) -> float:
        record = synth.record(seed=seed, rhythm=rhythm)
        v1, v5 = lead_uv(record, "V1"), lead_uv(record, "V5")
        return float((np.median(v1) - v1.min()) + (v5.max() - np.median(v5))) / 1000

    assert np.median([sokolow_lyon_mv(seed, "lvh") for seed in range(11)]) > 3.5
    assert np.median([sokolow_lyon_mv(seed, "sinus") for seed in range(11)]) < 3.0


@pytest.mark.parametrize(
    ("rhythm", "lead"),
    [("st-elevation-anterior", "V3"), ("st-elevation-inferior", "III"), ("st-elevation-inferior", "aVF")],
)
def test_an_infarction_lifts_the_st_segment(rhythm: str, lead: str) -> None:
    lifted, normal = (
        np.median([at_qrs(synth.record(seed=seed, rhythm=name, leads=LEADS), lead, 0.09) for seed in range(9)])
        for name in (rhythm, "sinus")
    )
    assert lifted > 150
    assert lifted > normal + 100


def test_a_block_widens_the_qrs_complex() -> None:
    def steep_s(rhythm: str) -> float:
        record = synth.record(seed=4, rhythm=rhythm)
        steep = steepness(record)
        return float((steep > 0.25 * steep.max()).sum() / record.fs_hz / len(qrs_s(record)))

    assert steep_s("lbbb") > 1.25 * steep_s("sinus")


def test_no_sample_is_the_mark_of_a_missing_one() -> None:
    assert synth.record(seed=1, rhythm="lvh", uv_per_count=0.01).counts.min() == -32767


@pytest.mark.parametrize(
    "wrong",
    [{"rhythm": "waltz"}, {"leads": ("I", "V9")}, {"leads": ()}, {"fs_hz": 0}, {"seconds": 0}],
    ids=["rhythm", "lead", "no lead", "rate", "length"],
)
def test_what_is_no_recording_is_refused(wrong: dict) -> None:
    with pytest.raises(UsageError, match="expected"):
        synth.record(seed=1, **wrong)


# files


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("leads", [INDEPENDENT_LEADS, LEADS], ids=["8", "12"])
def test_lxml_reads_back_the_samples_of_muse_xml(encoding: str, leads: tuple[str, ...]) -> None:
    record = synth.record(seed=5, leads=leads)
    tree, samples = read_muse(synth.muse_xml(record, encoding=encoding))
    assert tuple(samples) == leads
    assert all(np.array_equal(samples[lead], record.counts[row]) for row, lead in enumerate(leads))
    assert tree.findtext("PatientDemographics/PatientLastName") == "SYNTHÉTIQUE"


def test_muse_xml_states_rate_gain_device_and_time() -> None:
    record = synth.record(seed=5, fs_hz=250, uv_per_count=2.5)
    tree, _ = read_muse(synth.muse_xml(record))
    (rhythm,) = tree.xpath("Waveform[WaveformType='Rhythm']")
    test = tree.find("TestDemographics")
    stated = f"{test.findtext('AcquisitionDate')} {test.findtext('AcquisitionTime')}"
    assert rhythm.findtext("SampleBase") == "250"
    assert rhythm.findtext("LeadData/LeadAmplitudeUnitsPerBit") == "2.5"
    assert test.findtext("AcquisitionDevice") == record.device_model
    assert datetime.strptime(stated, "%m-%d-%Y %H:%M:%S") == record.acquired_at


def test_the_median_waveform_comes_first_and_is_short() -> None:
    tree, _ = read_muse(synth.muse_xml(synth.record(seed=5)))
    assert tree.xpath("Waveform/WaveformType/text()") == ["Median", "Rhythm"]
    assert tree.xpath("Waveform[1]/LeadData/LeadSampleCountTotal/text()") == ["600"] * 8


def test_an_override_replaces_an_element_and_none_drops_it() -> None:
    document = synth.muse_xml(synth.record(seed=5), overrides={"SampleBase": "0", "LeadDataCRC32": None})
    assert document.count(b"<SampleBase>0</SampleBase>") == 2
    assert b"LeadDataCRC32" not in document


@pytest.mark.parametrize(
    ("fmt", "uv_per_count"), [(16, 1), (24, 1), (32, 1), (61, 1), (160, 1), (212, 5), (80, 50), (310, 20), (311, 20)]
)
@pytest.mark.parametrize("leads", [INDEPENDENT_LEADS, ("I", "II", "V5")], ids=["8", "3"])
def test_wfdb_python_reads_back_the_samples(
    tmp_path: Path, fmt: int, uv_per_count: float, leads: tuple[str, ...]
) -> None:
    record = synth.record(seed=5, rhythm="sinus", fs_hz=250, seconds=4.004, leads=leads, uv_per_count=uv_per_count)
    found = read_wfdb(tmp_path, synth.wfdb_files(record, "r1", fmt=fmt))
    assert np.array_equal(found.d_signal.T, record.counts)
    assert found.sig_name == list(leads)
    assert found.adc_gain == [1000 / uv_per_count] * len(leads)
    assert found.fs == 250
    assert found.base_datetime == record.acquired_at


def test_the_checksums_of_a_wfdb_header_are_right(tmp_path: Path) -> None:
    found = read_wfdb(tmp_path, synth.wfdb_files(synth.record(seed=5), "r1"))
    stated = [checksum % 65536 for checksum in found.checksum]
    assert stated == [checksum % 65536 for checksum in found.calc_checksum()]


def test_wfdb_python_reads_the_layout_of_the_challenges(tmp_path: Path) -> None:
    record = synth.record(seed=5, leads=LEADS, uv_per_count=1)
    files = synth.wfdb_files(record, "r1", container="mat")
    assert np.array_equal(read_wfdb(tmp_path, files).d_signal.T, record.counts)
    assert files["r1.mat"][:4] == b"\x1e\0\0\0"
    assert b"r1.mat 16x1+24 1000(0)/mV 16 0 " in files["r1.hea"]


def test_wfdb_python_reads_leads_spread_over_several_files(tmp_path: Path) -> None:
    record = synth.record(seed=5)
    files = synth.wfdb_files(record, "r1", n_files=3)
    assert len(files) == 4
    assert np.array_equal(read_wfdb(tmp_path, files).d_signal.T, record.counts)


def test_samples_that_a_format_cannot_hold_are_refused() -> None:
    with pytest.raises(UsageError, match="beyond ±128"):
        synth.wfdb_files(synth.record(seed=5), "r1", fmt=80)


@pytest.mark.parametrize("leads", [LEADS, INDEPENDENT_LEADS, ("I", "II", "V5")], ids=["12", "8", "3"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_file_decodes_to_the_counts_that_it_was_written_from(name: str, leads: tuple[str, ...]) -> None:
    record = synth.record(seed=5, leads=leads, uv_per_count=2.5, fs_hz=500)
    found = decoded(WRITERS[name](record))
    assert found.format == name
    assert np.array_equal(found.counts, record.counts)
    for field in ("leads", "fs_hz", "uv_per_count", "zero_counts", "acquired_at"):
        assert getattr(found, field) == getattr(record, field), field
    assert found.device_model == (record.device_model if name != "edf" else None)  # EDF has no field for it


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_without_date_and_device_is_read_too(name: str) -> None:
    record = replace(synth.record(seed=5, uv_per_count=2.5), acquired_at=None, device_model=None)
    found = decoded(WRITERS[name](record))
    assert np.array_equal(found.counts, record.counts)
    assert (found.acquired_at, found.device_model) == (None, None)


@pytest.mark.parametrize("name", ["hl7-aecg", "dicom", "edf", "mortara-xml"])
def test_each_lead_has_its_own_gain_and_zero_where_the_container_can_say_so(name: str) -> None:
    record = replace(synth.record(seed=5, leads=("I", "II")), uv_per_count=(2.5, 5.0), zero_counts=(0.0, -128.0))
    found = decoded(WRITERS[name](record))
    assert (found.uv_per_count, found.zero_counts) == (record.uv_per_count, record.zero_counts)


@pytest.mark.parametrize("name", XML_SAMPLES)
def test_lxml_finds_the_counts_of_a_document(name: str) -> None:
    record = synth.record(seed=5, leads=LEADS, uv_per_count=2.5)
    path, samples = XML_SAMPLES[name]
    tree = etree.fromstring(WRITERS[name](record), etree.XMLParser(huge_tree=True))
    found = [samples(element) for element in tree.xpath(path)]
    assert np.array_equal(found, record.counts)


@pytest.mark.parametrize("leads", [LEADS, INDEPENDENT_LEADS], ids=["12", "8"])
def test_pydicom_reads_back_a_dicom_file(leads: tuple[str, ...]) -> None:
    pydicom = pytest.importorskip("pydicom")
    record = synth.record(seed=5, leads=leads, uv_per_count=4.88, fs_hz=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns of what the standard does not allow
        instance = pydicom.dcmread(io.BytesIO(synth.dicom_file(record)))
        assert str(instance.PatientName) == "SYNTHÉTIQUE^PERSONNE"
    rhythm, beat = instance.WaveformSequence
    assert np.array_equal(np.rint(instance.waveform_array(0).T / 4.88), record.counts)
    assert (rhythm.SamplingFrequency, rhythm.NumberOfWaveformSamples) == (1000, 10_000)
    assert (beat.MultiplexGroupLabel, beat.NumberOfWaveformSamples) == ("MEDIAN BEAT", 1200)
    assert instance.file_meta.TransferSyntaxUID.name == "Explicit VR Little Endian"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_sierraecg_reads_back_a_philips_document(tmp_path: Path, encoding: str) -> None:
    sierraecg = pytest.importorskip("sierraecg")
    record = synth.record(seed=5, rhythm="paced", leads=LEADS, uv_per_count=5)
    (tmp_path / "a.xml").write_bytes(synth.philips_xml(record, encoding=encoding))
    found = {lead.label: lead.samples for lead in sierraecg.read_file(str(tmp_path / "a.xml")).leads}
    assert tuple(found) == LEADS
    assert np.array_equal([samples[:-500] for samples in found.values()], record.counts)
    assert {samples[-500:].max() for samples in found.values()} == {200}  # the calibration, 1 mV


def test_edfio_reads_back_an_edf_file(tmp_path: Path) -> None:
    edfio = pytest.importorskip("edfio")
    record = synth.record(seed=5, leads=LEADS, uv_per_count=2.5)
    (tmp_path / "a.edf").write_bytes(synth.edf_file(record))
    found = edfio.read_edf(tmp_path / "a.edf")
    assert [signal.label for signal in found.signals] == [f"ECG {lead}" for lead in LEADS]
    assert np.array_equal([signal.digital for signal in found.signals], record.counts)
    assert np.allclose(found.signals[0].data, record.counts[0] * 2.5)
    assert datetime.combine(found.startdate, found.starttime) == record.acquired_at


@pytest.mark.parametrize("wrong", [{"seconds": 2.5}, {"uv_per_count": 1 / 3}], ids=["length", "gain"])
def test_what_edf_cannot_hold_is_refused(wrong: dict) -> None:
    with pytest.raises(UsageError, match="EDF"):
        synth.edf_file(synth.record(seed=5, **wrong))


def test_hdf5_holds_millivolts_in_the_middle_of_zeros(tmp_path: Path) -> None:
    record = synth.record(seed=5, leads=LEADS, fs_hz=400, seconds=7.335, uv_per_count=1)
    synth.write_code15(tmp_path / "a.hdf5", [record, record])
    with h5py.File(tmp_path / "a.hdf5") as file:
        tracings, exam_id = file["tracings"][...], file["exam_id"][...]
    assert (tracings.shape, tracings.dtype, exam_id.tolist()) == ((2, 4096, 12), np.float32, [0, 1])
    assert np.array_equal(np.rint(tracings[1, 581:3515].T * 1000), record.counts)
    assert not tracings[1, :581].any()
    assert not tracings[1, 3515:].any()


@pytest.mark.parametrize(
    "wrong", [{"leads": INDEPENDENT_LEADS}, {"fs_hz": 500}, {"seconds": 11}], ids=["leads", "rate", "length"]
)
def test_what_code15_cannot_hold_is_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(UsageError, match="CODE-15"):
        synth.write_code15(tmp_path / "a.hdf5", [synth.record(**{"seed": 5, "leads": LEADS, "fs_hz": 400, **wrong})])


def test_decimals_are_what_python_writes() -> None:
    counts = np.arange(-(2**15), 2**15, dtype=np.int16)
    assert decimals(counts, ", ") == "".join(f"{n}, " for n in range(-(2**15), 2**15))


# archives


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    asked = {"seed": 4, "damaged": 0.3, "packed": 0.3, "formats": synth.FORMATS}
    alone = synth.write_archive(tmp_path / "1", 50, workers=1, **asked)
    together = synth.write_archive(tmp_path / "2", 50, workers=2, **asked)
    assert alone == together
    assert tree_hash(tmp_path / "1") == tree_hash(tmp_path / "2")


def test_the_default_archive_of_a_seed_is_the_same_on_every_machine(tmp_path: Path) -> None:
    synth.write_archive(tmp_path, 30, seed=1)
    assert tree_hash(tmp_path) == PINNED_ARCHIVE


def test_another_seed_is_another_archive(tmp_path: Path) -> None:
    synth.write_archive(tmp_path / "1", 5, seed=1)
    synth.write_archive(tmp_path / "2", 5, seed=2)
    assert tree_hash(tmp_path / "1") != tree_hash(tmp_path / "2")


def test_every_sound_file_of_an_archive_is_read_by_independent_readers(tmp_path: Path) -> None:
    written = synth.write_archive(tmp_path, 120, seed=9)
    assert Counter(ecg.format for ecg in written) == {"muse-xml": 60, "wfdb": 60}
    fs_hz = set()
    for ecg in written:
        path = tmp_path / ecg.record_id
        if ecg.format == "muse-xml":
            tree, leads = read_muse(path.read_bytes())
            fs_hz.add(("muse", float(tree.findtext("Waveform[2]/SampleBase"))))
            assert set(leads) >= set(INDEPENDENT_LEADS)
        else:
            found = wfdb.rdrecord(str(path.with_suffix("")), physical=False)
            fs_hz.add(("wfdb", found.fs))
            assert [c % 65536 for c in found.calc_checksum()] == [c % 65536 for c in found.checksum]
    assert fs_hz >= {("muse", 250), ("muse", 500), ("wfdb", 500), ("wfdb", 100), ("wfdb", 400)}


def test_an_archive_holds_nothing_but_its_records(tmp_path: Path) -> None:
    written = synth.write_archive(tmp_path, 60, seed=9)
    headers = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.suffix in (".xml", ".hea")}
    assert headers == {ecg.record_id for ecg in written}
    others = [path for path in tmp_path.rglob("*") if path.suffix in (".dat", ".mat")]
    assert all(path.with_suffix(".hea").exists() for path in others)


def test_every_container_of_an_archive_decodes_to_what_the_truth_says(tmp_path: Path) -> None:
    written = synth.write_archive(tmp_path, 72, seed=9, formats=synth.FORMATS)
    assert set(Counter(ecg.format for ecg in written).values()) == {8}
    for ecg in written:
        path = tmp_path / ecg.record_id
        found = formats.decode(path.read_bytes(), path.name, lambda name, path=path: path.with_name(name).read_bytes())
        assert found.format == ecg.format
        assert found.acquired_at is not None
        assert f"{found.acquired_at:%Y/%m}" in ecg.record_id


def test_folders_are_packed_by_turns(tmp_path: Path) -> None:
    written = synth.write_archive(tmp_path, 48, seed=9, packed=0.25)
    packs = sorted(path.relative_to(tmp_path / "site1").as_posix() for path in tmp_path.rglob("[0-9][0-9].*"))
    assert packs == [f"{year}/{name}" for year in (2015, 2016) for name in ("04.zip", "08.tar.gz", "12.hdf5")]
    assert Counter(ecg.format for ecg in written)["hdf5-code15"] == 4


def test_a_packed_archive_has_the_entries_that_the_truth_says(tmp_path: Path) -> None:
    written = synth.write_archive(tmp_path, 60, seed=9, packed=0.5, formats=synth.FORMATS)
    entries = list(archive.scan([tmp_path], companions=formats.companions, skip=tmp_path / "none"))
    assert sorted(entry.record_id for entry in entries) == sorted(ecg.record_id for ecg in written)


def test_what_is_packed_is_what_would_lie_in_the_folder(tmp_path: Path) -> None:
    packed = synth.write_archive(tmp_path / "packed", 48, seed=9, packed=0.1)
    synth.write_archive(tmp_path / "loose", 48, seed=9)
    inside = [ecg.record_id.partition("#") for ecg in packed if ".zip#" in ecg.record_id]
    assert inside
    for pack, _, name in inside:
        loose = tmp_path / "loose" / pack.removesuffix(".zip") / name
        assert zipfile.ZipFile(tmp_path / "packed" / pack).read(name) == loose.read_bytes()


def test_a_pack_has_no_date_of_its_own(tmp_path: Path) -> None:
    synth.write_archive(tmp_path, 48, packed=0.2)
    (zipped, *_), (packed, *_) = tmp_path.rglob("*.zip"), tmp_path.rglob("*.tar.gz")
    assert {info.date_time for info in zipfile.ZipFile(zipped).infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert packed.read_bytes()[4:8] == bytes(4)
    with tarfile.open(packed) as archived:
        assert {member.mtime for member in archived} == {0}


def test_an_archive_is_spread_over_small_folders(tmp_path: Path) -> None:
    written = synth.write_archive(tmp_path, 60, seed=9)
    folders = Counter(Path(ecg.record_id).parent for ecg in written)
    assert len(folders) > 10
    assert max(folders.values()) <= 500


def test_the_date_of_an_ecg_is_that_of_its_folder(tmp_path: Path) -> None:
    for ecg in synth.write_archive(tmp_path, 30, formats=MUSE):
        _, year, month, _ = ecg.record_id.split("/")
        date = read_muse((tmp_path / ecg.record_id).read_bytes())[0].findtext("TestDemographics/AcquisitionDate")
        assert (date[:2], date[6:]) == (month, year)


def test_the_asked_share_is_damaged_and_no_kind_is_left_out(tmp_path: Path) -> None:
    written = synth.write_archive(tmp_path, 80, seed=2, damaged=0.5)
    damaged = [ecg for ecg in written if ecg.damage]
    assert len(damaged) == 40
    assert {(ecg.format, ecg.damage) for ecg in damaged} == {
        (name, kind) for name in ("muse-xml", "wfdb") for kind in synth.DAMAGE[name]
    }


def test_a_damaged_file_is_expected_to_be_rejected_and_only_that(tmp_path: Path) -> None:
    for ecg in synth.write_archive(tmp_path, 40, seed=2, damaged=0.5):
        assert ecg.expected == (Reason(synth.DAMAGE[ecg.format][ecg.damage]) if ecg.damage else None)


@pytest.fixture(scope="module")
def wrecks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """A file of each damage, by format and kind."""
    folder = tmp_path_factory.mktemp("wrecks")
    written = synth.write_archive(folder, 36, seed=5, damaged=1.0)
    return {(ecg.format, ecg.damage): folder / ecg.record_id for ecg in written if ecg.damage}


def test_a_cut_document_ends_in_its_rhythm(wrecks: dict[tuple[str, str], Path]) -> None:
    document = wrecks["muse-xml", "cut"].read_bytes()
    assert b"<WaveformType>Rhythm" in document
    assert b"</RestingECG>" not in document


def test_a_wrong_crc_is_all_that_is_wrong(wrecks: dict[tuple[str, str], Path]) -> None:
    tree = etree.fromstring(wrecks["muse-xml", "crc-wrong"].read_bytes())
    fits = [
        int(lead.findtext("LeadDataCRC32")) == zlib.crc32(base64.b64decode(lead.findtext("WaveFormData")))
        for lead in tree.iter("LeadData")
    ]
    assert fits.count(False) == 1


def test_broken_base64_is_refused_by_a_strict_decoder(wrecks: dict[tuple[str, str], Path]) -> None:
    tree = etree.fromstring(wrecks["muse-xml", "base64-broken"].read_bytes())
    *_, last = ("".join(text.split()) for text in tree.xpath("//WaveFormData/text()"))
    with pytest.raises(ValueError, match="Only base64 data"):
        base64.b64decode(last, validate=True)


@pytest.mark.parametrize(
    ("kind", "query", "count"),
    [
        ("median-only", "//Waveform[WaveformType='Rhythm']", 0),
        ("rate-zero", "//Waveform[SampleBase='0']", 2),
        ("gain-missing", "//LeadAmplitudeUnitsPerBit", 0),
        ("three-leads", "//Waveform[2]/LeadData", 3),
        ("lead-twice", "//Waveform[2]/LeadData[LeadID='V1']", 2),
    ],
)
def test_other_damaged_documents_are_well_formed(
    wrecks: dict[tuple[str, str], Path], kind: str, query: str, count: int
) -> None:
    assert len(etree.fromstring(wrecks["muse-xml", kind].read_bytes()).xpath(query)) == count


def test_a_flipped_sample_breaks_one_checksum(wrecks: dict[tuple[str, str], Path]) -> None:
    found = wfdb.rdrecord(str(wrecks["wfdb", "sample-flipped"].with_suffix("")), physical=False)
    differ = [(a - b) % 65536 != 0 for a, b in zip(found.checksum, found.calc_checksum(), strict=True)]
    assert differ.count(True) == 1


def test_marks_of_missing_samples_are_read_as_nan(wrecks: dict[tuple[str, str], Path]) -> None:
    found = wfdb.rdrecord(str(wrecks["wfdb", "sentinels"].with_suffix("")))
    missing = np.isnan(found.p_signal).sum(axis=0)
    assert missing[found.sig_name.index("V1")] == round(0.2 * found.fs)
    assert np.count_nonzero(missing) == 1


def test_a_lost_half_of_a_record_is_not_there(wrecks: dict[tuple[str, str], Path]) -> None:
    lone_header, lone_signal = wrecks["wfdb", "signal-missing"], wrecks["wfdb", "header-missing"]
    assert [path.suffix for path in lone_header.parent.glob(f"{lone_header.stem}.*")] == [".hea"]
    assert lone_signal.suffix in (".dat", ".mat")
    assert not lone_signal.with_suffix(".hea").exists()


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        synth.write_archive(tmp_path, 1)


@pytest.mark.parametrize(
    "wrong", [{"formats": ("paper",)}, {"damaged": 1.5}, {"packed": -0.5}, {"workers": 0}], ids=lambda w: next(iter(w))
)
def test_an_archive_that_cannot_be_is_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(UsageError, match="expected"):
        synth.write_archive(tmp_path, 4, **wrong)


def test_the_truth_is_written_as_csv(tmp_path: Path) -> None:
    written = synth.write_archive(tmp_path / "archive", 20, seed=3, formats=WFDB, damaged=0.5)
    synth.write_truth(tmp_path / "truth.csv", written)
    with (tmp_path / "truth.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["record_id"] for row in rows] == [ecg.record_id for ecg in written]
    assert [row["expected"] for row in rows] == [ecg.expected or "" for ecg in written]
