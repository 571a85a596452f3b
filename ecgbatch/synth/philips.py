"""Records as Philips cardiographs write them (schema 1.04): all leads in one payload, a calibration pulse behind them.

XLI is what the devices compress with: of each lead the second differences, their high bytes before their low ones, in
LZW codes of ten bits; of III, aVR, aVL and aVF, what other leads do not predict.
"""

import struct
from binascii import b2a_base64
from itertools import islice
from xml.sax.saxutils import escape

import numpy as np

from ecgbatch.record import Record

__all__ = ["philips_xml"]

_PREDICTED_FROM = {"III": ("I", "II"), "aVR": ("I", "II"), "aVL": ("I", "III"), "aVF": ("II", "III")}
_FLAT = 64
"""The stored second difference of a straight line."""
_CODE_BITS = 10
_END = 1023
"""The code that ends a lead; the table never grows so far."""


def philips_xml(record: Record, *, encoding: str = "utf-8", patient_id: str = "SYNTH-0000000") -> bytes:
    """The document of a record of int16 counts, of one gain and with 0 µV at count 0.

    `encoding` is a Python codec (`utf-16` writes a mark first). The identity in it is plainly made up.
    """
    counts = np.hstack([record.counts, _calibration(record)])
    moment = f' date="{record.acquired_at:%Y-%m-%d}" time="{record.acquired_at:%H:%M:%S}"' if record.acquired_at else ""
    lines = [
        f'<?xml version="1.0" encoding="{encoding.upper()}"?>',
        '<restingecgdata xmlns="http://www3.medical.philips.com" status="Unconfirmed" lang="en">',
        "<documentinfo><documenttype>PhilipsECG</documenttype><documentversion>1.04</documentversion></documentinfo>",
        f'<dataacquisition{moment} statflag="False">',
        f'<machine machineid="{patient_id}">{escape(record.device_model or "Unknown")}</machine>',
        "<signalcharacteristics>",
        f"<samplingrate>{record.fs_hz:g}</samplingrate><resolution>{record.uv_per_count[0]:g}</resolution>",
        "<bitspersample>16</bitspersample><signaloffset>0</signaloffset><signalsigned>True</signalsigned>",
        f"<acquisitiontype>STD-12</acquisitiontype><numberchannelsvalid>{len(counts)}</numberchannelsvalid>",
        "</signalcharacteristics>",
        "</dataacquisition>",
        f"<patient><generalpatientdata><patientid>{patient_id}</patientid><name><lastname>SYNTHÉTIQUE</lastname>",
        "<firstname>PERSONNE</firstname></name></generalpatientdata></patient>",
        "<waveforms>",
        f'<parsedwaveforms dataencoding="Base64" compression="XLI" numberofleads="{len(counts)}"',
        f'leadlabels="{" ".join(record.leads)}" durationperchannel="{counts.shape[1] * 1000 / record.fs_hz:g}"',
        f'samplespersecond="{record.fs_hz:g}" resolution="{record.uv_per_count[0]:g}"',
        'signaloffset="0" signalsigned="True" bitspersample="16">',
        b2a_base64(_xli(record, counts)).decode("ascii") + "</parsedwaveforms>",
        "</waveforms>",
        "</restingecgdata>",
        "",
    ]
    return "\n".join(lines).encode(encoding)


def _calibration(record: Record) -> np.ndarray:
    """int16 (lead, time) of the device's own last second: silence, and 1 mV from 0.7 to 0.9 s."""
    second = np.zeros((len(record.leads), round(record.fs_hz)), np.int16)
    second[:, round(0.7 * record.fs_hz) : round(0.9 * record.fs_hz)] = round(1000 / record.uv_per_count[0])
    return second


def _xli(record: Record, counts: np.ndarray) -> bytes:
    row = dict(zip(record.leads, counts.astype(np.int32), strict=True))
    stored = []
    for lead in record.leads:
        a, b = _PREDICTED_FROM.get(lead, ("", ""))
        stored.append(_residual(lead, row[a], row[b], row[lead]) if a in row and b in row else row[lead])
    longer = [0] * (_END << 8)
    return b"".join([_chunk(samples, longer) for samples in stored])


def _residual(lead: str, a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What is left of a limb lead once its sources have predicted it, in whole counts."""
    match lead:
        case "III":
            return b - a - x
        case "aVR":
            return -x - (a + b) // 2
        case "aVL":
            return (a - b) // 2 - x
    return (a + b) // 2 - x


def _chunk(samples: np.ndarray, longer: list[int]) -> bytes:
    """XLI of one lead, int32 (time,): its size, its first second difference, its codes."""
    differences = np.full(samples.size, _FLAT)
    differences[:2] = samples[:2]
    bends = np.diff(samples, 2)
    differences[2:-1] -= bends[1:]
    halves = (differences >> 8).astype(np.uint8).tobytes() + differences.astype(np.uint8).tobytes()
    packed = _lzw(halves, longer)
    return struct.pack("<iHH", len(packed), 1, -int(bends[0]) & 0xFFFF) + packed


def _lzw(data: bytes, longer: list[int]) -> bytes:
    """Codes of a lead; `longer` has room for what each code becomes with each byte behind it, and is left empty."""
    codes = []
    pairs = []
    free, held = 256 << 8, data[0] << 8
    for byte in islice(data, 1, None):
        if known := longer[held | byte]:
            held = known
            continue
        codes.append(held >> 8)
        if free < _END << 8:
            longer[held | byte] = free
            pairs.append(held | byte)
            free += 1 << 8
        held = byte << 8
    for pair in pairs:
        longer[pair] = 0
    bits = np.unpackbits(np.array([*codes, held >> 8, _END], ">u2").view(np.uint8)).reshape(-1, 16)[:, -_CODE_BITS:]
    return np.packbits(bits).tobytes()
