"""Progress of a run on stderr: a live bar on a terminal, a plain line now and then elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ecgbatch.tally import Tally, spaced

__all__ = ["building", "shown"]

_PLAIN_EVERY_S = 10.0


@contextmanager
def shown(work: str) -> Iterator[Callable[[Tally], None]]:
    """A function that shows a tally as often as makes sense; `work` says what is being done."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(
            TextColumn(work),
            BarColumn(),
            TextColumn("{task.percentage:.0f} % · {task.fields[rate]} ECG/s · {task.fields[rejects]} rejects"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        ) as progress:
            yield _bar(progress)
    else:
        yield _lines()


def _bar(progress: Progress) -> Callable[[Tally], None]:
    task = progress.add_task("", total=None, rate="-", rejects=0)

    def show(tally: Tally) -> None:
        rate = spaced(round(_rate(tally)))
        progress.update(task, total=tally.n_entries, completed=tally.n_done, rate=rate, rejects=tally.n_rejected)

    return show


def _lines() -> Callable[[Tally], None]:
    shown_at = monotonic()

    def show(tally: Tally) -> None:
        nonlocal shown_at
        now = monotonic()
        if now - shown_at < _PLAIN_EVERY_S:
            return
        shown_at = now
        rate = _rate(tally)
        left_s = (tally.n_entries - tally.n_done) / max(rate, 1e-9)
        print(
            f"{spaced(tally.n_done)} of {spaced(tally.n_entries)} · rejected {spaced(tally.n_rejected)}"
            f" · {spaced(round(rate))} ECG/s · {left_s:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    return show


def _rate(tally: Tally) -> float:
    """Entries a second since everything was planned."""
    return (tally.n_done - tally.n_before) / max(monotonic() - tally.begun_at_s, 1e-9)


@contextmanager
def building(work: str) -> Iterator[Callable[[str, int, int], None]]:
    """A function that shows how many steps of how many a phase of a build has taken; phases may overlap."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _build_lines(work)
        return
    columns = (TextColumn(work), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, step: int, n_steps: int) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase)
            progress.update(tasks[phase], total=n_steps, completed=step)

        yield show


def _build_lines(work: str) -> Callable[[str, int, int], None]:
    shown_at = monotonic()

    def show(phase: str, step: int, n_steps: int) -> None:
        nonlocal shown_at
        now = monotonic()
        if step < n_steps and now - shown_at < _PLAIN_EVERY_S:
            return
        shown_at = now
        print(f"{work}: {phase} {step} of {n_steps}", file=sys.stderr, flush=True)

    return show
