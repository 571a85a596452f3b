"""Hostile files: what campaigns and thought have found stays found. `make soak` looks for more."""

import importlib.util
import re
import tracemalloc
from pathlib import Path

import pytest

from ecgbatch import _kernels, synth
from ecgbatch.record import LEADS, Reason

ROOT = Path(__file__).parents[1]
HOSTILE = Path(__file__).parent / "hostile"
JUNK_BYTES = 2**18


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "fuzz" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


entries = load("entries")

EXPECTED = {
    "container-cut-before-second-header": {Reason.UNKNOWN_FORMAT, Reason.MALFORMED},  # the member, and the archive
    "container-long-names-in-a-row": {Reason.MALFORMED},
    "container-lzma-damaged": {Reason.UNREADABLE},
    "container-megabytes-of-names": {Reason.MALFORMED},
    "container-member-without-a-name": {Reason.UNKNOWN_FORMAT},
    "container-member-beyond-the-end": {Reason.MALFORMED},
    "container-second-header-damaged": {Reason.UNKNOWN_FORMAT, Reason.MALFORMED},
    "decode-line-break-in-a-type": Reason.NO_RHYTHM,
    "decode-thousands-of-waveforms": Reason.NO_RHYTHM,
}
"""Of each reproducer, why its entries are refused."""


def test_every_reproducer_is_replayed():
    assert {path.stem for path in HOSTILE.iterdir()} == {*EXPECTED, "xml-root-cut-off"}


def test_every_target_stands_in_the_documents():
    targets = re.findall(r"^add_target\((\w+)", (ROOT / "fuzz" / "CMakeLists.txt").read_text("utf-8"), re.MULTILINE)
    told = re.findall(r"^\| (\w+) \| [\d ]+ \|", (ROOT / "docs" / "hostile.md").read_text("utf-8"), re.MULTILINE)

    assert {*told} == {*targets, *entries.TARGETS}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_hostile_file_ends_as_its_reject(name):
    target = entries.TARGETS[name.partition("-")[0]]

    assert target((HOSTILE / f"{name}.bin").read_bytes()) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_hostile_file_takes_no_more_memory_than_it_justifies(name):
    target, data = entries.TARGETS[name.partition("-")[0]], (HOSTILE / f"{name}.bin").read_bytes()

    assert entries.peak_bytes(target, data) <= entries.most_bytes(len(data))


def test_a_root_element_that_is_cut_off_has_no_name():
    assert _kernels.xml_root((HOSTILE / "xml-root-cut-off.bin").read_bytes()) == (1, 0, b"")


ECG = synth.record(seed=11, rhythm="sinus", fs_hz=100, seconds=1.0, leads=LEADS)
EDF = synth.edf_file(synth.record(seed=11, fs_hz=100, seconds=1.0, uv_per_count=2.5))
LONG = {
    "muse field": (synth.muse_xml(ECG), rb"(?=</LeadTimeOffset>)", b"0"),
    "muse lead": (synth.muse_xml(ECG), rb"(?<=<LeadID>)(?=V6)", b" "),
    "philips signal": (synth.philips_xml(ECG), rb"(?=</samplingrate>)", b" "),
    "schiller rate": (synth.schiller_xml(ECG), rb"(?<=<samplerate><value>)", b"0"),
    "schiller gain": (synth.schiller_xml(ECG), rb"(?<=<unitperbit>)", b"0"),
    "cardiosoft rate": (synth.cardiosoft_xml(ECG), rb"(?<=>)(?=\d+</SampleRate>)", b"0"),
    "cardiosoft gain": (synth.cardiosoft_xml(ECG), rb"(?<=>)(?=[\d.]+</Resolution>)", b"0"),
    "aecg scale": (synth.aecg_xml(ECG), rb'(?<=<scale value=")', b"0"),
    "mortara rate": (synth.mortara_xml(ECG), rb'(?<=<CHANNEL) (?=[^>]*NAME="V6")', b" "),
    "root prefix": (synth.aecg_xml(ECG).replace(b"AnnotatedECG", b":AnnotatedECG"), rb"(?=:AnnotatedECG)", b"a"),
}
"""Of documents that say one thing at length: where, and what of."""


@pytest.mark.parametrize("case", LONG)
def test_what_a_file_says_at_length_does_not_stay_in_memory(case):
    document, place, filler = LONG[case]
    assert re.search(place, document)
    tracemalloc.start()
    try:
        held = []
        for k in range(3):
            long = re.sub(place, filler * (JUNK_BYTES + k), document)
            entries.decoded(b"x" + long)
            del long
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()

    assert held[2] - held[1] < JUNK_BYTES // 4


def test_an_edf_file_of_more_signals_than_any_has_is_refused():
    n = 9999
    head = EDF[:184] + b"%-8d" % (256 * (n + 1)) + EDF[192:252] + b"%-4d" % n
    signal = {"I": 16, "": 80, "uV": 8, "-100": 8, "100": 8, "-99": 8, "99": 8, " ": 80, "1": 8, "  ": 32}
    fields = b"".join(text.encode().ljust(width) * n for text, width in signal.items())

    assert entries.decoded(b"x" + head + fields) == Reason.MALFORMED


def test_a_wfdb_header_of_more_lines_than_any_has_is_refused():
    lines = b"r.dat 16 200 16 0 0 0 0 I\n" * 30_000

    assert entries.decoded(b"hr 30000 500 10\n" + lines + entries.SEPARATOR + bytes(10**6)) == Reason.UNKNOWN_FORMAT


def test_a_layout_of_more_than_a_few_lines_is_refused_before_it_is_parsed():
    data = b"c1,2\n" + entries.SEPARATOR + b"a." * 10_000 + b"a = 1"

    assert entries.decoded(data) == Reason.MALFORMED
    assert entries.peak_bytes(entries.decoded, data) < 10 * len(data)


def test_a_document_of_more_elements_than_any_has_is_refused():
    rhythm = b"<Waveform><WaveformType>Rhythm</WaveformType>" + b"<LeadData/>" * 2**17 + b"</Waveform>"

    assert entries.decoded(b"x<RestingECG>" + rhythm + b"</RestingECG>") == Reason.MALFORMED


@pytest.mark.parametrize(
    "stuffing",
    [
        (rb" />", b"".join(b" a%d=''" % n for n in range(2000)) + b" />"),
        (rb'(?<=DATA=")', b"&#10;" * 40_000),
    ],
    ids=["attributes", "references"],
)
def test_a_tag_of_more_than_any_has_is_refused(stuffing):
    assert entries.decoded(b"x" + re.sub(*stuffing, synth.mortara_xml(ECG))) == Reason.MALFORMED


def test_every_kernel_that_reads_a_file_has_a_target():
    targets = (ROOT / "fuzz" / "CMakeLists.txt").read_text("utf-8")
    kernels = {path.stem for path in (ROOT / "kernels").glob("*.cpp")} - {"module", "file"}

    assert not [kernel for kernel in kernels if not re.search(rf"^add_target\(.*\b{kernel}\b", targets, re.MULTILINE)]
