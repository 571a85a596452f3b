"""Leads of SCP-ECG: the table of section 3, the Huffman tables of section 2, and the streams of sections 5 and 6."""

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.record import Reason

__all__ = ["LeadTable", "Streams", "has_tables", "lead_table", "read_streams", "streams"]

_LEAD_NAMES = {1: "I", 2: "II", **{2 + n: f"V{n}" for n in range(1, 7)}, 61: "III", 62: "aVR", 63: "aVL", 64: "aVF"}
"""Of EN 1064's lead codes."""
_LEAD = Struct("<IIB")
_HEADER = Struct("<HHBB")
_SUBTRACTS_BEATS = 0x01
_MAX_LEADS_BYTES = 2 + 255 * _LEAD.size  # of section 3
_MAX_TABLES_BYTES = 2**16  # the default table, written out, takes 175
_NO_TABLES = b"\0\0"


class LeadTable(NamedTuple):
    """The leads as stored, and the standard ones among them."""

    first: tuple[int, ...]
    """Number of each stored lead's first sample: from 1, though some devices count from 0."""
    last: tuple[int, ...]
    rows: tuple[int, ...]
    """Of each stored lead, its place in `leads`; -1 where it is not a standard one."""
    leads: tuple[str, ...]
    span: tuple[int, int]
    """First and last sample of every standard lead."""
    subtracts_beats: bool
    """Whether the rhythm is what was left when the reference beat had been subtracted."""


class Streams(NamedTuple):
    """Where the streams of section 5 or 6 lie, and what they hold."""

    nv_per_count: int
    interval_us: int
    encoding: int
    """0 amplitudes, 1 first differences, 2 second differences."""
    is_bimodal: bool
    n_bytes: tuple[int, ...]
    """Of each lead, modulo 65536: a long one overflows."""
    begin: int
    end: int


def lead_table(section: bytes) -> LeadTable:
    """From the content of section 3.

    Raises:
        RecordError: no standard lead, one stored twice, or leads that were not recorded together.
    """
    return _lead_table(section[:_MAX_LEADS_BYTES])


@lru_cache(maxsize=1024)
def _lead_table(section: bytes) -> LeadTable:
    """Kept, for an archive holds few different ones."""
    n_leads = section[0] if section else 0
    if len(section) < 2 + n_leads * _LEAD.size:
        raise RecordError(Reason.MALFORMED, f"section 3 ends before its {n_leads} leads")
    stored = [_LEAD.unpack_from(section, 2 + i * _LEAD.size) for i in range(n_leads)]
    names = [_LEAD_NAMES.get(code) for _, _, code in stored]
    leads = tuple([name for name in names if name])
    if not leads:
        raise RecordError(Reason.MISSING_LEADS, f"no standard lead among {n_leads}")
    if twice := [lead for lead in leads if leads.count(lead) > 1]:
        raise RecordError(Reason.DUPLICATE_LEAD, f"lead {twice[0]} is stored twice")
    spans = {(first, last) for (first, last, _), name in zip(stored, names, strict=True) if name}
    if len(spans) > 1:
        raise RecordError(Reason.MALFORMED, "leads of different length or start, expected simultaneous leads")
    span = spans.pop()
    if span[1] < max(span[0], 1):
        raise RecordError(Reason.MALFORMED, "leads that end before they begin")
    return LeadTable(
        tuple([first for first, _, _ in stored]),
        tuple([last for _, last, _ in stored]),
        tuple([leads.index(name) if name else -1 for name in names]),
        leads,
        span,
        bool(section[1] & _SUBTRACTS_BEATS),
    )


def streams(raw: bytes, begin: int, end: int, n_leads: int, *, has_bimodal: bool) -> Streams:
    """What the content of section 5 or 6, raw[begin:end], says of its streams."""
    if end - begin < _HEADER.size + 2 * n_leads:
        raise RecordError(Reason.MALFORMED, "a section of samples that ends before the lengths of its leads")
    nv_per_count, interval_us, encoding, bimodal = _HEADER.unpack_from(raw, begin)
    if encoding > 2:
        raise RecordError(Reason.MALFORMED, f"encoding {encoding}, expected 0, 1 or 2")
    lengths = Struct(f"<{n_leads}H")
    n_bytes = lengths.unpack_from(raw, begin + _HEADER.size)
    at = begin + _HEADER.size + lengths.size
    return Streams(nv_per_count, interval_us, encoding, has_bimodal and bimodal != 0, n_bytes, at, end)


def has_tables(section: bytes) -> bool:
    """Whether the content of section 2 names Huffman tables; without, samples are plain int16."""
    return len(section) >= 2 and section[:2] != _NO_TABLES


def read_streams(raw: bytes, found: Streams, tables: bytes, table: LeadTable, n_samples: Sequence[int]) -> np.ndarray:
    """int16 (lead, time) of the standard leads; `tables` is the content of section 2, empty where there is none.

    Raises:
        RecordError: the streams do not hold as many samples, of each stored lead, as they must.
    """
    n_bytes = found.end - found.begin
    if sum(n_samples) > 8 * n_bytes:
        raise RecordError(Reason.MALFORMED, f"{sum(n_samples)} samples declared, and {n_bytes} bytes of them")
    huffman = _tables(tables) if has_tables(tables) else None
    counts = np.empty((len(table.leads), n_samples[table.rows.index(0)]), np.int16)
    layout = list(zip(n_samples, found.n_bytes, table.rows, strict=True))
    n_sound = _kernels.scp_leads(raw, found.begin, found.end, huffman, found.encoding, layout, counts)
    if n_sound < len(layout):
        expected, length, _ = layout[n_sound]
        detail = f"stored lead {n_sound + 1}: {length} bytes that are not the code of {expected} samples"
        raise RecordError(Reason.CORRUPT_PAYLOAD, detail)
    return counts


@lru_cache(maxsize=16)
def _tables(section: bytes) -> _kernels.ScpTables:
    """Kept, for making a table takes longer than decoding an ECG with it."""
    found = _kernels.scp_tables(section) if len(section) <= _MAX_TABLES_BYTES else None
    if found is None:
        raise RecordError(Reason.MALFORMED, "section 2 does not hold Huffman tables that can be told apart")
    return found
