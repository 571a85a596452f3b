"""What every command does alike: speak to the person, turn errors into a line and an exit code, name missing extras."""

import errno
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread

from typer import Exit

from ecgbatch.errors import EcgbatchError, MissingExtraError, RecordError, UsageError
from ecgbatch.files import cause

__all__ = ["AGAIN", "needs", "report_errors", "say", "show", "spoken"]

_EXTRAS = {
    "train": {
        "lightning_fabric",
        "ml_dtypes",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "safetensors",
        "tensorboard",
        "tomli_w",
        "torch",
    }
}
"""The libraries that an extra brings."""


AGAIN = "the same command goes on from here"
"""The way on of a command that keeps what it has done."""

_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}
"""What a terminal would act on: a file may be called so."""


@contextmanager
def report_errors(path: Path | None = None, *, way_on: str | None = None) -> Iterator[None]:
    """What ecgbatch raises on purpose becomes one line on stderr and an exit code; `path` is the only record's.

    `way_on` says how one goes on with work that was interrupted, where one can.
    """
    try:
        with _ended_as_by_hand():
            yield
    except EcgbatchError as err:
        label = f"{path}: {err.reason}: " if isinstance(err, RecordError) else ""
        say(f"error: {label}{err}")
        raise Exit(2 if isinstance(err, UsageError) else 3 if isinstance(err, RecordError) else 1) from err
    except KeyboardInterrupt:
        say(f"interrupted; {way_on}" if way_on else "interrupted")
        raise Exit(1) from None


@contextmanager
def _ended_as_by_hand() -> Iterator[None]:
    """SIGTERM, by which schedulers and systems that shut down end a command, is an interrupt."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """A library that is not installed becomes the name of the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in _EXTRAS[extra]:
            raise
        raise MissingExtraError(f"this command ({err.name})", extra) from err


def say(line: str) -> None:
    """Print a message for the person at the terminal."""
    print(line.translate(_CONTROLS), file=sys.stderr, flush=True)


def show(answer: object) -> None:
    """Print what was asked for.

    Raises:
        Exit: it cannot be written, which is said.
    """
    try:
        print(str(answer).translate(_CONTROLS), flush=True)
    except OSError as err:
        if err.errno == errno.EPIPE:  # whoever reads it has enough
            raise
        say(f"error: standard output: cannot be written: {cause(err)}")
        raise Exit(1) from err


def spoken() -> str:
    """The command as it was given, without the folders of its paths."""
    return shlex.join(["ecgbatch", *(word.rpartition("/")[2] or word for word in sys.argv[1:])])
