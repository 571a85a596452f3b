"""Declared layouts: what `layout.toml` says of the bare arrays in its folder, which say nothing of themselves."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ecgbatch.errors import RecordError
from ecgbatch.record import INVALID, RATES_HZ, Reason, Record, lead_name

__all__ = ["FILE", "Layout", "declared", "record"]

FILE = "layout.toml"

_REQUIRED = ("fs_hz", "unit", "leads", "orientation")
_KEYS = (*_REQUIRED, "variable")
_UV_PER_UNIT = {"uV": 1.0, "mV": 1000.0, "V": 1e6, "nV": 1e-3}
_ORIENTATIONS = ("lead,time", "time,lead")
_UV_PER_COUNT = 1e-3
"""Of what floating point becomes: 1 nV, the step of everything that follows (`waveform.nanovolts`)."""
_MAX_BYTES = 2**12  # a few lines; the memory that tomllib takes for dotted keys grows with their square
_ADVICE = (
    f"a bare array, expected {FILE} beside it with fs_hz, unit ('uV', 'mV', 'V' or 'nV'), leads (a list), "
    "orientation ('lead,time' or 'time,lead'), and variable for .mat"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the arrays of a folder hold."""

    fs_hz: float
    uv_per_unit: float
    leads: tuple[str | None, ...]
    """One a row or column, None for a channel that is not one of the twelve."""
    is_lead_first: bool
    variable: str | None
    """Name of the array in a MATLAB file."""


def declared(sibling: Callable[[str], bytes]) -> Layout:
    """The layout declared in the folder that `sibling` reads from.

    Raises:
        RecordError: there is none, or it makes no sense.
    """
    try:
        raw = sibling(FILE)
    except RecordError as err:
        if err.reason != Reason.MISSING_SIGNAL:
            raise
        raise RecordError(Reason.UNKNOWN_GAIN, _ADVICE) from err
    return _parsed(raw)


def record(array: np.ndarray, layout: Layout, *, container: str) -> Record:
    """An array of two axes as the record that its layout makes of it.

    Integers stay the counts that they are, one unit each. Floating point becomes int32 counts of 1 nV, NaN a missing
    sample.

    Raises:
        RecordError: shape or values are not what the layout declares.
    """
    wanted = "lead" if layout.is_lead_first else "time", "time" if layout.is_lead_first else "lead"
    if array.ndim != 2 or array.shape[wanted.index("lead")] != len(layout.leads) or not array.size:
        detail = f"shape {array.shape}, expected ({', '.join(wanted)}) of {len(layout.leads)} leads"
        raise RecordError(Reason.MALFORMED, detail)
    rows = [row for row, lead in enumerate(layout.leads) if lead]
    stored = array if layout.is_lead_first else array.T
    if len(rows) < len(layout.leads):
        stored = stored[rows]
    is_float = stored.dtype.kind == "f"
    return Record(
        format=container,
        fs_hz=layout.fs_hz,
        leads=tuple([lead for lead in layout.leads if lead]),
        counts=_nanovolts(stored, layout.uv_per_unit) if is_float else _counts(stored),
        uv_per_count=(_UV_PER_COUNT if is_float else layout.uv_per_unit,) * len(rows),
        zero_counts=(0.0,) * len(rows),
        invalid_count=INVALID if is_float else None,
    )


@lru_cache(maxsize=64)
def _parsed(raw: bytes) -> Layout:
    table = _table(raw)
    if unknown := [key for key in table if key not in _KEYS]:
        raise _wrong(f"unknown key {unknown[0][:40]!r}, expected only {', '.join(_KEYS)}")
    if absent := [key for key in _REQUIRED if key not in table]:
        raise _wrong(f"no key {absent[0]!r}")
    fs_hz, unit, names, orientation = [table[key] for key in _REQUIRED]
    if type(fs_hz) not in (int, float) or not RATES_HZ[0] <= fs_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, f"{FILE}: fs_hz is not a sampling rate")
    if not isinstance(unit, str) or unit not in _UV_PER_UNIT:
        raise RecordError(Reason.UNKNOWN_GAIN, f"{FILE}: unit is not one of {', '.join(_UV_PER_UNIT)}")
    if orientation not in _ORIENTATIONS:
        raise _wrong(f"orientation is neither {' nor '.join(map(repr, _ORIENTATIONS))}")
    if not isinstance(table.get("variable", ""), str):
        raise _wrong("variable is not a name")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _wrong("leads is not a list of names")
    return Layout(
        fs_hz=float(fs_hz),
        uv_per_unit=_UV_PER_UNIT[unit],
        leads=_leads(names),
        is_lead_first=orientation == "lead,time",
        variable=table.get("variable"),
    )


def _table(raw: bytes) -> dict[str, Any]:
    if len(raw) > _MAX_BYTES:
        raise _wrong(f"{len(raw)} bytes, expected a few lines")
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as err:
        raise _wrong("not TOML") from err


def _leads(names: list[str]) -> tuple[str | None, ...]:
    leads = [lead_name(name) for name in names]
    found = [lead for lead in leads if lead]
    if not found:
        raise RecordError(Reason.MISSING_LEADS, f"{FILE}: leads names no standard lead")
    if twice := [lead for lead in found if found.count(lead) > 1]:
        raise RecordError(Reason.DUPLICATE_LEAD, f"{FILE}: lead {twice[0]} is declared twice")
    return tuple(leads)


def _nanovolts(stored: np.ndarray, uv_per_unit: float) -> np.ndarray:
    """int32 nV of floating point, INVALID where it is NaN."""
    nv = stored.astype(np.float64) * (1000 * uv_per_unit)
    missing = np.isnan(nv)
    nv[missing] = 0
    if (widest := float(np.abs(nv).max())) > -INVALID - 1:
        raise RecordError(Reason.MALFORMED, f"a value of {widest:g} nV, expected at most 2 V; is the unit right?")
    counts = np.rint(nv).astype(np.int32)
    counts[missing] = INVALID
    return counts


def _counts(stored: np.ndarray) -> np.ndarray:
    """int16 or int32 of whole numbers of any width."""
    if stored.dtype.kind not in "iu":
        raise RecordError(Reason.MALFORMED, f"an array of {stored.dtype.str}, expected numbers")
    if stored.dtype.itemsize * 8 - (stored.dtype.kind == "i") > 31 and (
        stored.min() < INVALID or stored.max() >= 2**31
    ):
        raise RecordError(Reason.MALFORMED, "a value beyond any sample")
    return stored.astype(np.int16 if stored.dtype.kind == "i" and stored.dtype.itemsize <= 2 else np.int32)


def _wrong(what: str) -> RecordError:
    return RecordError(Reason.MALFORMED, f"{FILE}: {what}")
