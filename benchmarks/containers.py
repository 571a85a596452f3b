"""How fast one core turns files of each container into normalised batch rows.

    python benchmarks/containers.py --out benchmarks/results/containers.json [--files DIR]...

Synthetic records in every container that `ecgbatch synth` writes, those of its most frequent shape; and real files,
where `--files` names a folder of them, by container and shape, each read over and over. From file in the page cache to
batch row with one thread, as `decode.py` measures it.
"""

import os
from collections import defaultdict
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tables
from decode import batch_rate
from inputs import SPEC
from measurement import Spread, arguments, interleaved, spread, write

from ecgbatch import archive, formats, synth
from ecgbatch.archive import Entry
from ecgbatch.errors import RecordError
from ecgbatch.feed import host
from ecgbatch.feed.batch import keep_freed_memory, read
from ecgbatch.record import Record

TARGETS = {
    "philips-xml": 1500,
    "hl7-aecg": 1000,
    "cardiosoft-xml": 2000,
    "scp-ecg": 1000,
    "dicom": 3000,
    "edf": 4000,
    "muse-xml": 6000,
    "wfdb": 10_000,
}
"""ECG/s on one core."""


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--n", type=int, default=300, help="records of each container a round")
    parser.add_argument("--files", type=Path, action="append", default=[], help="a folder of real files")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})
    keep_freed_memory()
    with TemporaryDirectory() as work:
        groups = {}
        for container in synth.FORMATS:
            folder = Path(work) / container
            synth.write_archive(folder, args.n, formats=(container,), workers=1)
            grouped = _grouped(_entries([folder]), "synthetic")
            key = max(grouped, key=lambda key: len(grouped[key]))
            groups[key] = grouped[key]
        groups |= _grouped(_entries(args.files), "real") if args.files else {}
        subjects = {key: partial(batch_rate, list(islice(cycle(listed), args.n))) for key, listed in groups.items()}
        for subject in subjects.values():
            subject()  # fills the page cache and every cache in the code
        rates = interleaved(subjects, args.rounds)
        measured = [_described(key.split(" ")[1], groups[key], spread(values)) for key, values in sorted(rates.items())]
    settings = {"n": args.n, "rounds": args.rounds, "files": len(args.files)}
    print(tables.render(write(args.out, "containers", settings, {"containers": measured})))


def _entries(folders: list[Path]) -> list[Entry]:
    return list(archive.scan(folders, companions=formats.companions, skip=Path("/nonexistent")))


def _grouped(listed: list[Entry], origin: str) -> dict[str, list[Entry]]:
    """Entries that give a model input, by container, origin, leads, rate and length."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in listed:
        record = read(entry)
        if isinstance(record, Record) and _fits(record):
            shape = f"{len(record.leads)}x{record.fs_hz:g}x{record.seconds:.1f}"
            groups[f"{record.format} {origin} {shape}"].append(entry)
    return groups


def _fits(record: Record) -> bool:
    try:
        host.normalise(record, SPEC, np.empty((len(SPEC.leads), SPEC.samples), np.float32))
    except RecordError:
        return False
    return True


def _described(origin: str, listed: list[Entry], rate: Spread) -> dict[str, Any]:
    record = read(listed[0])
    assert isinstance(record, Record)
    sizes = [entry.n_bytes or 0 for entry in listed]
    return {
        "format": record.format,
        "origin": origin,
        "n_leads": len(record.leads),
        "fs_hz": record.fs_hz,
        "seconds": record.seconds,
        "n_bytes": sum(sizes) / len(sizes),
        "ecg_per_s": rate,
        "target_ecg_per_s": TARGETS.get(record.format),
    }


if __name__ == "__main__":
    main()
