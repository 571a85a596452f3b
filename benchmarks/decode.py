"""How fast one core turns files in the page cache into normalised batch rows, and what it spends the time on.

    python benchmarks/decode.py --out benchmarks/results/decode.json

Packs of the same records, in each compression, are read beside the files they were made of. Two rates, both on one
core: from file to batch row, which is what the plain script does too; and the feed's own, `ecgbatch.feed.batches` with
one thread, which also takes the waveform's hash and measures its quality. The stages are timed record by record, and
each is held against what the core could do at best with its bytes or multiplications.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import inputs
import limits
import numpy as np
import plain_pytorch
import tables
from inputs import CONTAINERS, SPEC
from measurement import Spread, arguments, interleaved, ratios, spread, write

from ecgbatch import archive, formats, gate, pack
from ecgbatch.archive import Entry
from ecgbatch.feed import host
from ecgbatch.feed.batch import batches, keep_freed_memory, read, waveform_hash
from ecgbatch.formats.pack_layout import COMPRESSIONS
from ecgbatch.plan import Shard
from ecgbatch.record import INDEPENDENT_LEADS, Record
from ecgbatch.waveform import polyphase

BATCH = 32
TARGETS = {"muse-xml": 6000, "wfdb": 10_000, "pack": 15_000}
"""ECG/s on one core."""
PLAIN = {"muse-xml": "lxml + base64 + SciPy", "wfdb": "wfdb + SciPy"}


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--n", type=int, default=800, help="records of each container")
    parser.add_argument("--n-plain", type=int, default=100, help="of them, those that the plain script decodes a round")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})
    keep_freed_memory()
    with TemporaryDirectory() as work:
        archives, packs, packed = {}, {}, {}
        for container in CONTAINERS:
            inputs.write_archive(Path(work) / container, container, args.n)
            archives[container] = inputs.entries(Path(work) / container)
            for compression in COMPRESSIONS:
                out = Path(work) / f"pack-{container}-{compression}"
                tally = pack.run([Path(work) / container], out, pack.Options(compression=compression, workers=1))
                packs[f"{container} {compression}"] = inputs.entries(out)
                packed[f"{container} {compression}"] = tally.rate
        measured = _measure(archives, packs, Path(work), n_plain=args.n_plain, rounds=args.rounds)
    for name, rate in packed.items():
        measured["packs"][name]["packed_ecg_per_s"] = rate
    settings = {"n": args.n, "n_plain": args.n_plain, "rounds": args.rounds, "batch": BATCH, "plain": PLAIN}
    print(tables.render(write(args.out, "decode", settings, measured)))


def _measure(
    archives: dict[str, list[Entry]], packs: dict[str, list[Entry]], work: Path, *, n_plain: int, rounds: int
) -> dict[str, Any]:
    stages: dict[str, dict[str, list[float]]] = {container: defaultdict(list) for container in archives}
    bounds: dict[str, dict[str, list[float]]] = {container: defaultdict(list) for container in archives}

    def staged(container: str) -> float:
        taken = stage_us(archives[container])
        for stage, us in taken.items():
            stages[container][stage].append(us)
        for stage, us in limit_us(archives[container][0], work).items():
            bounds[container][stage].append(us)
        return sum(taken.values())

    subjects: dict[str, Callable[[], float]] = {}
    for container, listed in (archives | packs).items():
        subjects[f"{container} batch"] = partial(batch_rate, listed)
        subjects[f"{container} feed"] = partial(feed_rate, listed)
    for container, listed in archives.items():
        subjects[f"{container} plain"] = partial(plain_rate, listed[:n_plain])
        subjects[f"{container} stages"] = partial(staged, container)
    for subject in subjects.values():
        subject()  # fills the page cache and every cache in the code
    for kept in (*stages.values(), *bounds.values()):
        kept.clear()
    rates = interleaved({**subjects, "fp32": limits.fp32_flop_per_s}, rounds)
    for container, listed in archives.items():
        bounds[container]["model input"] = [n_flop(listed[0]) / rate * 1e6 for rate in rates["fp32"]]
    return {
        "containers": {
            container: {
                **_rates(container, container, listed, rates),
                "plain_ecg_per_s": spread(rates[f"{container} plain"]),
                "ratio": ratios(spread(rates[f"{container} batch"]), spread(rates[f"{container} plain"])),
                "stages": {
                    stage: _stage(spread(us), bounds[container].get(stage)) for stage, us in stages[container].items()
                },
            }
            for container, listed in archives.items()
        },
        "packs": {name: _rates(name, "pack", listed, rates) for name, listed in packs.items()},
    }


def _rates(name: str, target: str, listed: list[Entry], rates: dict[str, list[float]]) -> dict[str, Any]:
    """Bytes on the disk a record, and the two rates."""
    files = {entry.path: entry.n_bytes or 0 for entry in listed}
    return {
        "n_bytes": round(sum(files.values()) / len(listed)),
        "ecg_per_s": spread(rates[f"{name} batch"]),
        "target_ecg_per_s": TARGETS[target],
        "feed_ecg_per_s": spread(rates[f"{name} feed"]),
    }


def _stage(us: Spread, bound_us: list[float] | None) -> dict[str, Any]:
    """A stage's time and, where it has a limit, the share of its rate in the limit's."""
    if bound_us is None:
        return {"us": us}
    return {"us": us, "limit_us": spread(bound_us), "share": ratios(spread(bound_us), us)}


def batch_rate(listed: list[Entry]) -> float:
    """ECG/s from file to batch row."""
    started = perf_counter()
    for start in range(0, len(listed), BATCH):
        x = np.empty((BATCH, len(SPEC.leads), SPEC.samples), np.float32)
        for row, entry in zip(x, listed[start : start + BATCH], strict=False):
            record = read(entry)
            if not isinstance(record, Record):
                raise SystemExit(f"{entry.path}: {record.reason}, expected a good record; the benchmark means nothing")
            host.normalise(record, SPEC, row)
    return len(listed) / (perf_counter() - started)


def feed_rate(listed: list[Entry]) -> float:
    """ECG/s of the feed with one thread, hash and quality columns included."""
    started = perf_counter()
    n = sum(len(batch.rows) for batch in batches([Shard(0, listed)], [SPEC], size=BATCH, workers=1))
    seconds = perf_counter() - started
    if n != len(listed):
        raise SystemExit(f"{n} of {len(listed)} good records scored, expected all; the benchmark means nothing")
    return n / seconds


def plain_rate(listed: list[Entry]) -> float:
    """ECG/s of what people would write: the same model input, without hash, checks and quality."""
    started = perf_counter()
    for entry in listed:
        plain_pytorch.model_input(entry.path, SPEC)
    return len(listed) / (perf_counter() - started)


def stage_us(listed: Sequence[Entry]) -> dict[str, float]:
    """Median µs a record of each stage, in the feed's order."""
    taken: dict[str, list[float]] = defaultdict(list)
    x = np.empty((BATCH, len(SPEC.leads), SPEC.samples), np.float32)
    for index, entry in enumerate(listed):
        times = _one_record(entry, x[index % BATCH])
        for (stage, ended), began in zip(times[1:], (at for _, at in times), strict=False):
            taken[stage].append((ended - began) * 1e6)
    return {stage: median(us) for stage, us in taken.items()}


def _one_record(entry: Entry, row: np.ndarray) -> list[tuple[str, float]]:
    """When each stage of one record ended."""
    times = [("start", perf_counter())]
    files, raw, siblings = _files(entry)
    times.append(("read", perf_counter()))
    record = formats.decode(raw, files.name, siblings.__getitem__)
    times.append(("decode", perf_counter()))
    files.stamp(tuple(siblings))
    times.append(("stamp", perf_counter()))
    flat = host.flat_leads(record)
    compared = gate.comparable(record.leads, flat)
    all_nv, n_missing = host.measured(record, INDEPENDENT_LEADS + compared, flat)
    nv = all_nv[: len(INDEPENDENT_LEADS)]
    times.append(("nanovolts", perf_counter()))
    host.model_input(nv, record.fs_hz, SPEC, row, has_gaps=n_missing > 0)
    times.append(("model input", perf_counter()))
    waveform_hash(nv, record.fs_hz)
    times.append(("hash", perf_counter()))
    host.leads_derived(record, flat)
    gate.measure(all_nv, record.fs_hz, flat, compared)
    times.append(("quality", perf_counter()))
    return times


def limit_us(entry: Entry, work: Path) -> dict[str, float]:
    """What a stage would take if it did no more than copy its bytes."""
    files, raw, siblings = _files(entry)
    record = formats.decode(raw, files.name, siblings.__getitem__)
    n_file = len(raw) + sum(map(len, siblings.values()))
    n_counts = len(INDEPENDENT_LEADS) * record.n_samples * record.counts.itemsize
    n_nv = len(INDEPENDENT_LEADS) * record.n_samples * 4
    seconds = {
        "read": limits.read_s(work, n_file),
        "decode": limits.copy_s(n_file),
        "nanovolts": limits.copy_s((n_counts + n_nv) // 2),  # a copy both reads and writes its bytes
        "hash": limits.copy_s(n_nv // 2),
    }
    return {stage: s * 1e6 for stage, s in seconds.items()}


def n_flop(entry: Entry) -> float:
    """Operations of resampling a record: two for each tap of each output sample, a tap of zero left out."""
    files, raw, siblings = _files(entry)
    bank = polyphase(formats.decode(raw, files.name, siblings.__getitem__).fs_hz, SPEC.fs_hz)
    return 2 * len(SPEC.leads) * SPEC.samples * np.count_nonzero(bank.taps) / bank.up


def _files(entry: Entry) -> tuple[archive.Files, bytes, dict[str, bytes]]:
    """An entry's files, the content of its own, and that of those that belong to it."""
    files = archive.Files(entry.path)
    raw = files.read(files.name)
    return files, raw, {other: files.read(other) for other in formats.companions(raw, files.name)}


if __name__ == "__main__":
    main()
