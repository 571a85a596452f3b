"""Seeds of every campaign: small files as the synthetic writers and the tests make them, and real ones if at hand."""

import base64
import io
import os
import re
import struct
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from entries import SEPARATOR

from ecgbatch import synth
from ecgbatch.record import LEADS, Record

ROOT = Path(__file__).parents[1]
MOST_BYTES = 40_000
LAYOUT = f'fs_hz = 500\nunit = "uV"\nleads = {list(LEADS)}\norientation = "lead,time"\nvariable = "val"\n'.encode()


def main(folder: Path) -> None:
    """Write the seeds of each target into a folder of its name."""
    for n, (target, content) in enumerate([*entries(), *kernels()]):
        if len(content) <= MOST_BYTES:
            (folder / target).mkdir(parents=True, exist_ok=True)
            (folder / target / f"{n:03}").write_bytes(content)


def entries() -> Iterator[tuple[str, bytes]]:
    """Of the targets that take an entry, or an archive of entries."""
    for name, (raw, *beside) in files():
        yield "decode", SEPARATOR.join([name + raw, *beside])
    members = {"a.xml": synth.mortara_xml(ecg()), **synth.wfdb_files(ecg(), "b"), "../c/d.csv": b"1,2\n3,4\n"}
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        yield "container", b"z" + zipped(members, kind)
    for mode, form in (("w", tarfile.USTAR_FORMAT), ("w", tarfile.PAX_FORMAT), ("w:gz", tarfile.GNU_FORMAT)):
        yield "container", b"t" + tarred(members | {"long/" * 30 + "é": b"x"}, mode, form)


def files() -> Iterator[tuple[bytes, list[bytes]]]:
    """The byte that stands for an entry's name, the entry, and what lies beside it."""
    twelve, eight = ecg(leads=LEADS), ecg()
    yield b"x", [synth.muse_xml(eight, overrides={"LeadDataCRC32": None})]
    yield b"x", [synth.muse_xml(eight, encoding="utf-16")]
    for write in (synth.aecg_xml, synth.cardiosoft_xml, synth.mortara_xml, synth.schiller_xml, synth.philips_xml):
        yield b"x", [write(twelve)]
    yield b"x", [synth.dicom_file(twelve)]
    yield b"x", [synth.edf_file(ecg(uv_per_count=2.5, seconds=1.0))]
    for fmt in synth.SAMPLE_BITS:
        half = 2 ** (synth.SAMPLE_BITS[fmt] - 1) - 1
        made = ecg(uv_per_count=20.0)
        made.counts.clip(-half, half, out=made.counts)
        yield b"h", [*synth.wfdb_files(made, "r", fmt=fmt).values()]
    table = io.StringIO()
    np.savetxt(table, twelve.counts, "%d", ",")
    yield b"c", [table.getvalue().encode(), LAYOUT]
    for array in (twelve.counts, twelve.counts / 100):
        stored = io.BytesIO()
        np.save(stored, array)
        yield b"n", [stored.getvalue(), LAYOUT]
    yield from of_the_tests(twelve)
    yield from real()


def of_the_tests(twelve: Record) -> Iterator[tuple[bytes, list[bytes]]]:
    """Of the containers that the tests alone write."""
    sys.path.insert(0, str(ROOT / "tests"))
    import test_ishne
    import test_mat
    import test_mfer
    import test_scp

    yield b"x", [test_ishne.made(twelve.counts.T, crc=0)]
    yield b"x", [test_mfer.made(twelve.counts)]
    for compressed in (False, True):
        yield b"m", [test_mat.mat({"val": twelve.counts, "s": {"val": twelve.counts}}, compressed=compressed), LAYOUT]
    for coder in test_scp.CODERS:
        for order in (0, 1, 2):
            yield b"x", [test_scp.without_crcs(test_scp.written(coder=coder, order=order))]
    yield from ((b"x", [test_scp.without_crcs(raw)]) for raw in test_scp.CRCS)


def real() -> Iterator[tuple[bytes, list[bytes]]]:
    """Short files of the optional data folder."""
    samples = Path(os.environ.get("ECGBATCH_DATA", ROOT.parent / "shared")) / "formats" / "samples"
    for path in sorted(samples.glob("*/*")):
        raw = path.read_bytes()
        if path.suffix == ".hea":
            beside = [file.read_bytes() for file in sorted(samples.glob(f"wfdb/{path.stem}*")) if file != path]
            yield b"h", [raw, *beside]
        elif path.parent.name not in ("wfdb", "hdf5_code15"):
            yield b"x", [raw]


def kernels() -> Iterator[tuple[str, bytes]]:
    """Of the targets that are one kernel each, as `fuzz/*.cpp` take them apart."""
    eight, twelve = ecg(), ecg(leads=LEADS)
    seeds = {**texts(eight, twelve), **samples(eight.counts.tobytes()), "dicom": dicom(twelve)}
    yield from ((target, content) for target, contents in seeds.items() for content in contents)
    yield from (("xli", content) for content in philips(twelve))
    yield from (("scp", content) for content in scp(eight))


def texts(eight: Record, twelve: Record) -> dict[str, list[bytes]]:
    digits = ",".join(map(str, eight.counts.ravel().tolist())).encode()
    coded = base64.encodebytes(eight.counts.tobytes())
    markup = b'<?xml version="1.0"?><!DOCTYPE a [<!ELEMENT a>]><a x="1>2"><!-- \' --><b><![CDATA[<c>]]></b></a>'
    marks = (b";", b",", b"\t", b" ")
    return {
        "base64": [coded, coded.replace(b"\n", b""), coded.replace(b"\n", b"\r\n\t ") + b"=="],
        "base64_avx2": [coded],
        "digits": [digits, digits.replace(b",", b" "), b"+1, -12.000,\n2147483647 -2147483648"],
        "table": [bytes([k]) + b"1%b2\n-3e5%bnan\n" % (mark, mark) for k, mark in enumerate(marks)],
        "wfdb_header": [synth.wfdb_files(twelve, "r", fmt=fmt)["r.hea"] for fmt in (16, 212)],
        "xml": [synth.muse_xml(eight), synth.aecg_xml(twelve)[:4000], markup],
    }


def samples(raw: bytes) -> dict[str, list[bytes]]:
    onsets = b"".join(b"+%d\x14\x14".ljust(33, b"\0") % n for n in range(20))
    recipes = [struct.pack("<40H", *[k] * 40) + raw for k in range(1, 9)]
    return {
        "checksums": [raw[:n] for n in (7, 63, 256, 300)],
        "checksums_avx2": [raw],
        "edf": [
            struct.pack("<12H", 0, 397, 99, 7, *range(0, 200, 25)) + raw,
            struct.pack("<5H", 0, 29, 14, 0, 0) + onsets,
        ],
        "normalise": [struct.pack("<20H", *[7 * k] * 20) + raw for k in range(4)],
        "quality": [bytes([rate, is_narrow]) + raw for rate in range(16) for is_narrow in (0, 1)],
        "recipe": recipes,
        "recipe_avx2": recipes,
        "wfdb": [bytes([k]) + raw for k in range(10)],
    }


def dicom(twelve: Record) -> list[bytes]:
    """A data set as it is and as another encoding, and channel definitions."""
    file = synth.dicom_file(twelve)
    data = file[file.index(b"\x08\x00", 132) :]
    channels = file[file.index(b"\xfe\xff\x00\xe0", file.index(b"\x3a\x00\x00\x02")) :]
    return [bytes([1]) + data, bytes([0]) + data, bytes([1 | 4]) + channels]


def philips(twelve: Record) -> Iterator[bytes]:
    """Payloads of XLI, and where their leads go."""
    document = synth.philips_xml(twelve)
    payload = base64.b64decode(re.search(rb"<parsedwaveforms[^>]*>([^<]*)<", document)[1])
    n = int(twelve.n_samples + twelve.fs_hz)
    plain = struct.pack("<20H", n - 1, 11, *range(1, 13), *[0] * 6)
    restored = struct.pack("<20H", n - 1, 11, *range(1, 13), *range(1, 7))
    yield from (head + payload for head in (plain, restored))


def scp(eight: Record) -> Iterator[bytes]:
    """Tables and streams as sections 2 and 6 hold them."""
    sys.path.insert(0, str(ROOT / "tests"))
    import test_scp

    for coder in test_scp.CODERS.values():
        for order in (0, 1, 2):
            streams = [test_scp.stream(row, coder, order) for row in eight.counts]
            places = b"".join(struct.pack("<3H", k + 1, 0, len(stream)) for k, stream in enumerate(streams))
            tables = coder[0] or b""
            head = struct.pack("<4H", order, eight.n_samples, 7, 7) + places + struct.pack("<H", len(tables))
            yield head + tables + b"".join(streams)


def zipped(members: dict[str, bytes], kind: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return file.getvalue()


def tarred(members: dict[str, bytes], mode: str, form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=form) as packed:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return file.getvalue()


def ecg(**changes: object) -> Record:
    """An ECG of few bytes."""
    return synth.record(**{"seed": 11, "rhythm": "sinus", "fs_hz": 100, "seconds": 0.5, **changes})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
