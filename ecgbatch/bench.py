"""How fast this machine scores, stage by stage, how near that is to what it can do, and what holds it back.

Every rate is of ECGs. Those of reading, decoding and preparing are of one core, of the engine and the whole of all;
what is compared takes turns, a round after the other, and the median counts.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ecgbatch import archive, formats, pack, processor, score, synth
from ecgbatch.archive import Entry
from ecgbatch.bundle import Bundle
from ecgbatch.cores import n_cores
from ecgbatch.errors import EngineError, RecordError, UsageError
from ecgbatch.feed import host
from ecgbatch.feed.batch import batches
from ecgbatch.plan import Shard
from ecgbatch.runtimes import BATCH, Engine, open_engine, placement

if TYPE_CHECKING:
    from ecgbatch.runtimes.trt import TrtEngine

__all__ = ["Order", "measure"]

_N_DISTINCT = 200
"""Synthetic ECGs that are written; others are links to them."""
_PER_FOLDER = 1000
_N_LISTED = 2000
"""ECGs that are listed, where no number was asked for."""
_N_FED = 4096
"""ECGs for each worker of the feed, at least: several batches, after all of them have started."""
_WHOLE_S = 5.0
"""What a whole run takes, where no number of ECGs was asked for: workers need one second to start."""
_N_MOST = 200_000
"""Of a whole run then: to write and list so many links takes as long as to score them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be measured."""

    sources: Sequence[str] = ()
    """Archive to read; synthetic MUSE XML files by default."""
    devices: Sequence[str] = ("cpu",)
    precisions: Sequence[str] = ("fp32", "int8")
    batches: Sequence[int] = (8, 16, 32, 64)
    n: int | None = None
    """ECGs of a whole run, at most; by default as many as take some seconds, as far as there are so many."""
    rounds: int = 3
    seconds: float = 1.0
    """Of each measurement of an engine or limit."""
    watts: float | None = None
    """What the machine draws while it scores."""
    price: float | None = None
    """Of an hour of the machine, in any currency."""

    def __post_init__(self) -> None:
        if min(1 if self.n is None else self.n, self.rounds, *self.batches) < 1 or self.seconds <= 0:
            raise UsageError("bench: expected at least one ECG, round and record a batch, and a time above 0")


def measure(bundle: Bundle, order: Order, *, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """All rates of a model on these devices, for `bench_report`.

    Raises:
        UsageError: the model is a head, or there is no ECG to measure with.
        EcgbatchError: the archive cannot be read, or a device or precision cannot be had.
    """
    if bundle.parent is not None:
        raise UsageError(f"model {bundle.name!r}: a head, expected the model it is on; measure {bundle.parent.name!r}")
    with TemporaryDirectory() as name:
        work = Path(name)
        n_listed = order.n or _N_LISTED
        sources = list(order.sources) or [str(_synthetic(work / "archive", range(n_listed)))]
        entries = list(islice(archive.scan(sources, companions=formats.companions, skip=work), n_listed))
        if not entries:
            raise UsageError(f"{', '.join(sources)}: no ECG, expected some to measure with")
        say("feed")
        feed = _feed(bundle, entries, order.rounds)
        devices = {}
        for device in order.devices:
            say(f"engines on {device}")
            devices[device] = _device(bundle, device, order)
        say("whole runs")
        pack.run(sources, work / "packs" / "0", pack.Options(limit=n_listed))
        n_whole = {
            (device, precision): order.n or _n_in_seconds(feed, engine)
            for device, found in devices.items()
            for precision, engine in found["engines"].items()
        }
        most = max(n_whole.values(), default=0)
        if not order.sources:
            _synthetic(work / "archive", range(n_listed, most))
            _link_pack(work / "packs", -(-most // n_listed))
        whole: dict[str, dict[str, Any]] = {device: {} for device in devices}
        for (device, precision), n in n_whole.items():
            whole[device][precision] = _whole(bundle, sources, work, order, n=n, device=device, precision=precision)
    return {
        "model": bundle.name,
        "version": bundle.version,
        "machine": {"processor": processor.name(), "cores": n_cores()},
        "settings": asdict(order) | {"sources": "given" if order.sources else "synthetic MUSE XML"},
        "n_ecgs": len(entries),
        "feed": feed,
        "devices": devices,
        "whole": whole,
    }


def _synthetic(folder: Path, numbers: range) -> Path:
    """An archive of MUSE XML files of 10 s at 500 Hz, to which those of these numbers are added."""
    for at in numbers:
        path = _place(folder, at)
        path.parent.mkdir(parents=True, exist_ok=True)
        if at < _N_DISTINCT:
            path.write_bytes(synth.muse_xml(synth.record(seed=at)))
        else:
            os.link(_place(folder, at % _N_DISTINCT), path)
    return folder


def _place(folder: Path, at: int) -> Path:
    return folder / f"{at // _PER_FOLDER:03}" / f"r{at:06}.xml"


def _link_pack(packs: Path, n: int) -> None:
    """Have `n` packs in the folder, which are that of number 0 again and again."""
    for at in range(1, n):
        shutil.copytree(packs / "0", packs / str(at), copy_function=os.link)


def _n_in_seconds(feed: Mapping[str, Any], engine: Mapping[str, Any]) -> int:
    """How many ECGs a run should have, by the slower of its feed and its engine."""
    rate = min(engine["ecg_per_s"], max(feed["ecg_per_s_by_workers"].values()))
    return round(min(max(rate * _WHOLE_S, _N_LISTED), _N_MOST))


def _feed(bundle: Bundle, entries: Sequence[Entry], rounds: int) -> dict[str, Any]:
    """ECG/s of one core that reads, decodes, prepares and normalises; and of the whole feed by 1, 2, … workers."""
    kept: dict[str, list[float]] = {}
    workers: dict[int, list[float]] = {n: [] for n in _doubled(n_cores())}
    for _ in range(rounds):
        for name, rate in _stages(bundle, entries).items():
            kept.setdefault(name, []).append(rate)
        for n, rates in workers.items():
            rates.append(_fed_per_s(bundle, entries, n))
    return {
        "ecg_per_s_one_core": {name: median(rates) for name, rates in kept.items()},
        "ecg_per_s_by_workers": {str(n): median(rates) for n, rates in workers.items()},
    }


def _fed_per_s(bundle: Bundle, entries: Sequence[Entry], workers: int) -> float:
    """ECG/s of the feed once all of it is at work: processes have started, and some batches have come."""
    many = list(islice(cycle(entries), max(len(entries), _N_FED * workers)))
    feed = _batches(bundle, many, workers=workers)
    deque(islice(feed, len(many) // BATCH // 4), maxlen=0)
    started = perf_counter()
    return sum(len(batch.rows) for batch in feed) / (perf_counter() - started)


def _doubled(most: int) -> list[int]:
    """1, 2, 4 and so on, and the most."""
    return sorted({1, most, *(2**k for k in range(8) if 2**k < most)})


def _batches(bundle: Bundle, entries: Sequence[Entry], *, workers: int) -> Iterator[Any]:
    shard = Shard(index=0, entries=list(entries))
    return batches([shard], [bundle.input], size=BATCH, workers=workers)


def _stages(bundle: Bundle, entries: Sequence[Entry]) -> dict[str, float]:
    """ECG/s of each stage by itself: the time of one thread in it."""
    loose = [entry.path for entry in entries if entry.member is None]  # members are read as they are decoded
    started = perf_counter()
    for path in loose:
        with suppress(RecordError):  # the feed makes a reject of it
            archive.read(path)
    read_s = perf_counter() - started
    decode_s = prepare_s = 0.0
    n = 0
    for batch in _batches(bundle, entries, workers=1):
        decode_s, prepare_s, n = decode_s + batch.decode_s, prepare_s + batch.prepare_s, n + len(batch.rows)
    if not n:
        raise UsageError("bench: every ECG is rejected, expected some that can be scored")
    record = synth.record(seed=1)
    out = np.empty((len(bundle.input.leads), bundle.input.samples), np.float32)
    started = perf_counter()
    for _ in range(_N_DISTINCT):
        host.normalise(record, bundle.input, out)
    normalise_s = (perf_counter() - started) / _N_DISTINCT
    seconds = {
        **({"read": read_s / len(loose)} if loose else {}),
        "read and decode": decode_s / n,
        "hash, quality, normalise": prepare_s / n,
        "normalise alone": normalise_s,
    }
    return {name: 1 / max(each, 1e-9) for name, each in seconds.items()}


def _device(bundle: Bundle, device: str, order: Order) -> dict[str, Any]:
    """ECG/s of every engine by batch size, beside the limits of the device; precisions that cannot be had are named."""
    names = placement.split(device)
    engines: dict[str, dict[int, list[Engine]]] = {}
    absent: dict[str, str] = {}
    for precision in order.precisions:
        try:
            engines[precision] = {
                n: [open_engine(bundle, each, precision, batch=n) for each in names] for n in order.batches
            }
        except EngineError as err:
            absent[precision] = str(err).splitlines()[0]
    if not engines:
        raise EngineError("; ".join(absent.values()))
    limits = _Limits(device, list(engines))
    x = np.random.default_rng(1).normal(size=(max(order.batches), len(bundle.input.leads), bundle.input.samples))
    x = x.astype(np.float32)
    rates: dict[tuple[str, int], list[float]] = {}
    for at in range(order.rounds + 1):
        for precision, by_batch in engines.items():
            for n, together in by_batch.items():
                rate = _ecg_per_s(together, x[:n], order.seconds)
                if at:  # the first round warms up
                    rates.setdefault((precision, n), []).append(rate)
        limits.measure(order.seconds)
    told = {}
    for precision, by_batch in engines.items():
        by_size = {str(n): median(rates[precision, n]) for n in by_batch}
        told[precision] = {
            "engine": ", ".join(map(str, next(iter(by_batch.values())))),
            "ecg_per_s_by_batch": by_size,
            "ecg_per_s": max(by_size.values()),
            **limits.shares(bundle, precision, max(by_size.values())),
        }
    return {
        "engines": told,
        "absent": absent,
        "threads": _by_threads(bundle, device, list(engines), x, order),
        "gpus": _by_gpus(engines, x, order) if len(names) > 1 else {},
        "transfer": _transfer(names, engines, x, order) if device.startswith("cuda") else {},
    }


def _by_gpus(
    engines: Mapping[str, Mapping[int, Sequence[Engine]]], x: np.ndarray, order: Order
) -> dict[str, dict[str, float]]:
    """ECG/s of the first 1, 2, … GPUs together, in batches of the largest size."""
    largest = {precision: by_batch[len(x)] for precision, by_batch in engines.items()}
    return {
        precision: {str(n): _ecg_per_s(each[:n], x, order.seconds) for n in range(1, len(each) + 1)}
        for precision, each in largest.items()
    }


def _transfer(
    names: Sequence[str], engines: Mapping[str, Mapping[int, Sequence[Engine]]], x: np.ndarray, order: Order
) -> dict[str, dict[str, float]]:
    """What one GPU at a time is sent a second of batches of the largest size, each waited for; x is float32 for all."""
    told = {}
    for name, engine in zip(names, next(iter(engines.values()))[len(x)], strict=True):
        rate = median([_sent_per_s(cast("TrtEngine", engine), x, order.seconds) for _ in range(order.rounds)])
        told[name] = {"batch": len(x), "ecg_per_s": rate, "bytes_per_s": rate * x[0].nbytes}
    return told


def _sent_per_s(engine: "TrtEngine", x: np.ndarray, seconds: float) -> float:
    engine.send(x)  # the first one touches the memory
    n_done = 0
    started = perf_counter()
    while perf_counter() - started < seconds:
        engine.send(x)
        n_done += len(x)
    return n_done / (perf_counter() - started)


def _by_threads(
    bundle: Bundle, device: str, precisions: Sequence[str], x: np.ndarray, order: Order
) -> dict[str, dict[str, float]]:
    """ECG/s of the engines on 1, 2, … cores of a CPU."""
    if device != "cpu":
        return {}
    from ecgbatch.runtimes import choice

    counts = _doubled(n_cores())
    return {
        precision: {
            str(n): _ecg_per_s(
                [choice.on_cpu(bundle, precision, batch=BATCH, default=BATCH, n_threads=n)], x[:BATCH], order.seconds
            )
            for n in counts
        }
        for precision in precisions
    }


class _Limits:
    """Products of large matrices and copies of memory, measured in turn with the engines of a CPU."""

    def __init__(self, device: str, precisions: Sequence[str]) -> None:
        from ecgbatch.runtimes import limits

        self._limits = limits
        known = [precision for precision in precisions if device == "cpu" and precision in ("fp32", "int8")]
        self._products = {precision: limits.Product(precision) for precision in known}
        self._rates: dict[str, list[float]] = {precision: [] for precision in known}
        self._moved: list[float] = []
        self._is_cpu = device == "cpu"

    def measure(self, seconds: float) -> None:
        for precision, product in self._products.items():
            self._rates[precision].append(product.rate(seconds))
        if self._is_cpu:
            self._moved.append(self._limits.bytes_per_s(seconds))

    def shares(self, bundle: Bundle, precision: str, ecg_per_s: float) -> dict[str, float]:
        """What an engine of that rate does a second, and of what the device can do."""
        cost = self._limits.workload(bundle, bundle.folder / "model.onnx", precision)
        told = {"operations": cost.operations, "operations_per_s": cost.operations * ecg_per_s}
        if self._rates.get(precision):
            product = median(self._rates[precision][1:])
            told |= {"product_operations_per_s": product, "share_of_product": told["operations_per_s"] / product}
        if self._moved:
            moved = median(self._moved[1:])
            told |= {
                "bytes": cost.bytes,
                "memory_bytes_per_s": moved,
                "share_of_memory": cost.bytes * ecg_per_s / moved,
            }
        return told


def _ecg_per_s(engines: Sequence[Engine], x: np.ndarray, seconds: float) -> float:
    """ECGs a second of engines that work at the same time, each with its next batch at hand."""
    started = perf_counter()

    def supply() -> Iterator[tuple[None, np.ndarray]]:
        while perf_counter() - started < seconds:
            yield None, x

    streams = [engine.stream(supply()) for engine in engines]
    together = placement.merged(streams) if len(streams) > 1 else enumerate(streams[0])
    n_done = sum(len(logits) for _, (_, logits, _) in together)
    return n_done / (perf_counter() - started)


def _whole(
    bundle: Bundle, sources: Sequence[str], work: Path, order: Order, *, n: int, device: str, precision: str
) -> dict[str, Any]:
    """ECG/s from the plan to the last commit, from the archive as it lies and from packs of it."""
    n_done: dict[str, int] = {}
    rates: dict[str, list[float]] = {"archive": [], "pack": []}
    write: list[float] = []
    slowest: dict[str, list[str]] = {"archive": [], "pack": []}
    for _ in range(order.rounds):
        for name, given in (("archive", list(sources)), ("pack", [str(work / "packs")])):
            run = work / "run"
            shutil.rmtree(run, ignore_errors=True)
            options = score.Options(device=device, precision=precision, limit=n)
            tally = score.run(given, run, [bundle], options)
            n_done[name] = tally.n_done
            rates[name].append(tally.n_done / tally.seconds)
            write.append(tally.n_done / max(tally.stage_s["write"], 1e-9))
            slowest[name].append(tally.slowest)
    return {
        "n_ecgs": n_done,
        "ecg_per_s": {name: median(each) for name, each in rates.items()},
        "write_ecg_per_s": median(write),
        "held_back_by": {name: max(each, key=each.count) for name, each in slowest.items()},
        **{f"{name}_cost": _cost(median(each), order) for name, each in rates.items()},
    }


def _cost(ecg_per_s: float, order: Order) -> Mapping[str, float]:
    """What a million ECGs take."""
    hours = 1e6 / ecg_per_s / 3600
    told = {"ecg_per_hour": 3600 * ecg_per_s, "hours_per_million": hours}
    if order.watts is not None:
        told["kwh_per_million"] = hours * order.watts / 1000
    if order.price is not None:
        told["price_per_million"] = hours * order.price
    return told
