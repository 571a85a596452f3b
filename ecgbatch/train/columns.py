"""What a message may say of the names in a user's table, of its columns and its codes.

Of a file whose first row holds no names, the columns are called by the cells of that row, which may be a patient's name
or birthday; codes are cells themselves. So only names that ecgbatch knows are told, and how many there are.
"""

from collections.abc import Collection

from ecgbatch.train.statements import NAMES

__all__ = ["CODES", "NO_LABELS", "PATIENT", "RECORD", "told"]

RECORD = ("record_id", "source_path", "path")
PATIENT = "patient_id"
CODES = ("scp_codes", "codes", "labels", "statements")
"""Names by which a column of codes is known in a CSV file, where nothing else tells it from text."""
NO_LABELS = {"age", "sex", "gender", "fold", "fs_hz", "uv_per_count", "seconds", "n_samples", "device", "leads"}
"""Columns that look like labels and are none, unless they are named as such."""
_KNOWN = {*RECORD, PATIENT, *CODES, *NO_LABELS, *NAMES, "ecg_id", "samples", "format", "device_model"}


def told(names: Collection[str], noun: str = "column") -> str:
    """How many names there are, and which of them are known."""
    known = ", ".join(name for name in names if name in _KNOWN)
    many = f"{len(names)} {noun}{'s' * (len(names) != 1)}"
    return f"{many}, of known names: {known or 'none'}"
