"""Records as WFDB writes them: a text header and signal files of interleaved samples."""

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from ecgbatch.errors import UsageError
from ecgbatch.record import Record

__all__ = ["SAMPLE_BITS", "wfdb_files"]

SAMPLE_BITS: Mapping[int, int] = MappingProxyType(
    {16: 16, 24: 24, 32: 32, 61: 16, 80: 8, 160: 16, 212: 12, 310: 10, 311: 10}
)
"""Resolution of each signal format that can be written; the most negative number means "no sample"."""

_MAT_BYTES = 24


def wfdb_files(
    record: Record,
    name: str,
    *,
    fmt: int = 16,
    container: str = "dat",
    n_files: int = 1,
    patient_id: str = "SYNTH-0000000",
) -> dict[str, bytes]:
    """File name -> content: `<name>.hea`, and `n_files` signal files that share the leads.

    `container` is `dat`, or `mat` for the layout of the CinC challenges: format 16 behind a MATLAB 4 header.

    Raises:
        UsageError: no such format or container, or samples that the format cannot hold.
    """
    if fmt not in SAMPLE_BITS or container not in ("dat", "mat") or (container == "mat" and (fmt, n_files) != (16, 1)):
        known = ", ".join(map(str, SAMPLE_BITS))
        raise UsageError(f"WFDB format {fmt} in {n_files} {container!r}, expected one of {known}, or one 'mat' of 16")
    half = 2 ** (SAMPLE_BITS[fmt] - 1)
    if record.counts.min() < -half or record.counts.max() >= half:
        raise UsageError(f"WFDB format {fmt}: samples beyond ±{half}, expected fewer counts a millivolt")
    lines = [f"{name} {len(record.leads)} {record.fs_hz:g} {record.n_samples}{_when(record)}"]
    files = {}
    for number, rows in enumerate(np.array_split(np.arange(len(record.leads)), n_files)):
        file = f"{name}.{container}" if n_files == 1 else f"{name}_{number}.{container}"
        interleaved = np.ascontiguousarray(record.counts[rows].T).reshape(-1)
        files[file] = _mat_head(len(rows), record) * (container == "mat") + _PACK[fmt](interleaved)
        lines += [_signal_line(record, row, file, fmt, container) for row in rows.tolist()]
    lines += ["# Age: 61", "# Sex: Female", f"# Patient: {patient_id}", ""]
    return {f"{name}.hea": "\n".join(lines).encode("ascii"), **files}


def _when(record: Record) -> str:
    return f" {record.acquired_at:%H:%M:%S %d/%m/%Y}" if record.acquired_at else ""


def _signal_line(record: Record, row: int, file: str, fmt: int, container: str) -> str:
    counts = record.counts[row]
    layout = f"16x1+{_MAT_BYTES}" if container == "mat" else f"{fmt}"
    gain = f"{1000 / record.uv_per_count[row]:.10g}({record.zero_counts[row]:.0f})/mV"
    checksum = (int(counts.sum(dtype=np.int64)) + 2**15) % 2**16 - 2**15
    return f"{file} {layout} {gain} {SAMPLE_BITS[fmt]} 0 {counts[0]} {checksum} 0 {record.leads[row]}"


def _mat_head(n_leads: int, record: Record) -> bytes:
    """MATLAB 4: type 30 is int16, column by column; then rows, columns, no imaginary part, the name `val`."""
    return struct.pack("<5i4s", 30, n_leads, record.n_samples, 0, 4, b"val")


def _pack_24(x: np.ndarray) -> bytes:
    return x.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def _pack_212(x: np.ndarray) -> bytes:
    """Two 12-bit samples in three bytes; the middle byte has the high bits of both."""
    low, high = np.append(x, x[:0] if x.size % 2 == 0 else [0]).astype(np.int32).reshape(-1, 2).T & 0xFFF
    return np.column_stack([low & 0xFF, (low >> 8) | (high >> 8 << 4), high & 0xFF]).astype(np.uint8).tobytes()


def _triples(x: np.ndarray) -> np.ndarray:
    """uint32 (3, word) of 10-bit samples, zeros after the last."""
    return np.append(x, np.zeros(-x.size % 3, x.dtype)).astype(np.int32).reshape(-1, 3).T.astype(np.uint32) & 0x3FF


def _pack_310(x: np.ndarray) -> bytes:
    """Samples in bits 1-10 and 17-26 of a word; the third one's low half in bits 11-15, its high half in 27-31."""
    a, b, c = _triples(x)
    return bytes((a << 1 | (c & 0x1F) << 11 | b << 17 | c >> 5 << 27).astype("<u4").tobytes())


def _pack_311(x: np.ndarray) -> bytes:
    """Samples in bits 0-9, 10-19 and 20-29 of a word."""
    a, b, c = _triples(x)
    return bytes((a | b << 10 | c << 20).astype("<u4").tobytes())


_PACK: Mapping[int, Callable[[np.ndarray], bytes]] = MappingProxyType(
    {
        16: lambda x: x.astype("<i2").tobytes(),
        24: _pack_24,
        32: lambda x: x.astype("<i4").tobytes(),
        61: lambda x: x.astype(">i2").tobytes(),
        80: lambda x: (x.astype(np.int32) + 128).astype(np.uint8).tobytes(),
        160: lambda x: (x.astype(np.int32) + 32768).astype("<u2").tobytes(),
        212: _pack_212,
        310: _pack_310,
        311: _pack_311,
    }
)
