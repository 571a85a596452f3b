"""Records as EDF (Kemp et al. 1992): a header of fixed widths, then data records of one second, lead after lead."""

from functools import lru_cache

from ecgbatch.errors import UsageError
from ecgbatch.record import Record

__all__ = ["edf_file"]

_RANGE = -(2**15), 2**15 - 1
_WIDTH = 8
"""Characters of a number."""


def edf_file(record: Record, *, patient_id: str = "SYNTH-0000000") -> bytes:
    """The file of a record of int16 counts that lasts whole seconds; the identity in it is plainly made up.

    Raises:
        UsageError: EDF cannot hold the record's length or gain.
    """
    if record.fs_hz % 1 or record.n_samples % int(record.fs_hz):
        raise UsageError(f"EDF: {record.n_samples} samples at {record.fs_hz:g} Hz, expected whole seconds")
    fs, n_leads, n_seconds = int(record.fs_hz), len(record.leads), int(record.seconds)
    fixed = (
        f"{'0':<8}{f'{patient_id} F 01-JAN-1900 SYNTHETIQUE_PERSONNE':<80}{_moment(record)}"
        f"{256 * (n_leads + 1):<8}{'':<44}{n_seconds:<8}{1:<8}{n_leads:<4}"
    )
    signals = _signals(record.leads, record.uv_per_count, record.zero_counts, fs)
    samples = record.counts.astype("<i2").reshape(n_leads, n_seconds, fs).swapaxes(0, 1)
    return (fixed + signals).encode("ascii") + samples.tobytes()


def _moment(record: Record) -> str:
    """The recording's field, and the start's date and time."""
    if record.acquired_at is None:
        return f"{'':<80}01.01.8500.00.00"  # what EDF+ has an anonymous file say
    date = f"{record.acquired_at:%d-%b-%Y}".upper()
    return f"{f'Startdate {date} X X SYNTH':<80}{record.acquired_at:%d.%m.%y%H.%M.%S}"


@lru_cache(maxsize=64)
def _signals(leads: tuple[str, ...], uv_per_count: tuple[float, ...], zero_counts: tuple[float, ...], fs: int) -> str:
    """The header's part on the signals: each field of all of them before the next one."""
    calibrations = list(zip(uv_per_count, zero_counts, strict=True))
    low, high = ([_number((count - zero) * uv) for uv, zero in calibrations] for count in _RANGE)
    digital_low, digital_high = (f"{count:<8}" * len(leads) for count in _RANGE)
    return "".join(
        [
            *[f"{f'ECG {lead}':<16}" for lead in leads],
            f"{'electrode':<80}" * len(leads),
            f"{'uV':<8}" * len(leads),
            *low,
            *high,
            digital_low,
            digital_high,
            f"{'':<80}" * len(leads),
            f"{fs:<8}" * len(leads),
            f"{'':<32}" * len(leads),
        ]
    )


def _number(value: float) -> str:
    text = f"{value:<{_WIDTH}.10g}"
    if len(text) > _WIDTH:
        raise UsageError(f"EDF: {text} µV, expected a gain whose range has {_WIDTH} digits")
    return text
