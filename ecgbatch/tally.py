"""The tally of a run: what became of the entries, and where the time went."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Protocol, TypeVar

__all__ = ["Fed", "Tally", "outcome", "spaced"]

T = TypeVar("T")


class Fed(Protocol):
    """What a feed has made of some entries: a batch or a chunk."""

    @property
    def rows(self) -> Sized: ...
    @property
    def rejects(self) -> Sized: ...
    @property
    def decode_s(self) -> float: ...
    @property
    def prepare_s(self) -> float: ...


@dataclass(slots=True)
class Tally:
    """Counts and seconds; `str` is the last line of a run."""

    engine: str
    """Device, library and precision, e.g. `cpu openvino fp32`; of a pack, its encoding."""
    verb: str = "scored"
    """What is done to an entry that is no reject: `scored` or `packed`."""
    n_entries: int = 0
    n_scored: int = 0
    """Or packed, as `verb` says."""
    n_rejected: int = 0
    n_duplicates: int = 0
    """Scored, and taken out of the scores since: an earlier entry has the same waveform."""
    n_before: int = 0
    """Entries that an earlier invocation had finished."""
    begun_at_s: float = 0.0
    """By the monotonic clock, when everything was planned."""
    seconds: float = 0.0
    """Of this invocation, planning left out."""
    stage_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """`decode` and `prepare`: seconds of the feed's workers, waits among them. `wait-feed`, `wait-engine`, `write`:
    seconds of the main thread; where it waits longest is what holds the run back."""

    def begin(self, n_entries: int, rows: Mapping[str, int]) -> None:
        """Start from what an earlier invocation has done of all entries."""
        self.begun_at_s = monotonic()
        self.n_entries = n_entries
        self.count(rows)
        self.n_before = self.n_done

    def count(self, rows: Mapping[str, int]) -> None:
        """Take over what the parts of the run hold now."""
        self.n_scored, self.n_rejected, self.n_duplicates = (rows[kind] for kind in ("scored", "rejected", "duplicate"))

    def end(self) -> None:
        """Note how long it took since `begin`."""
        self.seconds = monotonic() - self.begun_at_s

    @property
    def n_done(self) -> int:
        return self.n_scored + self.n_rejected + self.n_duplicates

    @property
    def rate(self) -> float:
        """Entries a second in this invocation."""
        return (self.n_done - self.n_before) / max(self.seconds, 1e-9)

    @property
    def slowest(self) -> str:
        """The stage that the main thread waited for longest: `feed`, `engine` or `write`."""
        waits = {stage: self.stage_s.get(stage, 0.0) for stage in ("wait-feed", "wait-engine", "write")}
        return max(waits, key=lambda stage: waits[stage]).removeprefix("wait-")

    @contextmanager
    def written(self, fed: Fed) -> Iterator[None]:
        """Count what was fed once it is written; the time that this takes within is booked on `write`."""
        started = perf_counter()
        yield
        self.stage_s["write"] += perf_counter() - started
        self.stage_s["decode"] += fed.decode_s
        self.stage_s["prepare"] += fed.prepare_s
        self.n_scored += len(fed.rows)
        self.n_rejected += len(fed.rejects)

    def timed(self, items: Iterable[T], stage: str) -> Iterator[T]:
        """The same items; the time it takes to get each is booked on `stage`."""
        source = iter(items)
        while True:
            started = perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            finally:
                self.stage_s[stage] += perf_counter() - started
            yield item

    def __str__(self) -> str:
        parts = (
            outcome(self.n_scored, self.n_rejected, self.n_duplicates, verb=self.verb),
            f"{self.seconds:.0f} s" if self.seconds >= 10 else f"{self.seconds:.1f} s",
            f"{spaced(round(self.rate))} ECG/s",
            self.engine,
        )
        return " · ".join(parts)


def outcome(n_scored: int, n_rejected: int, n_duplicates: int, *, verb: str = "scored") -> str:
    """What became of the entries; duplicates only where there are any."""
    duplicates = f" · duplicates {spaced(n_duplicates)}" if n_duplicates else ""
    return f"{verb} {spaced(n_scored)} · rejected {spaced(n_rejected)}{duplicates}"


def spaced(n: int) -> str:
    """A number with a space between thousands."""
    return f"{n:,}".replace(",", " ")
