"""Every error ecgbatch raises on purpose.

EcgbatchError
├── UsageError      what was asked for makes no sense; exit code 2
├── RecordError     a defect in one record: becomes a reject row, never ends a run
├── ArchiveError    the source cannot be listed
├── BundleError     a model bundle is missing, incomplete or altered
├── FeedError       a process that reads and decodes has ended, or the system has no more processes or files
├── EngineError     a device or precision cannot be had, or an engine is not the model it claims to be
├── OutputError     the run folder cannot be written, or belongs to another run
└── MissingExtraError   an optional dependency is not installed
"""

from typing import Any

__all__ = [
    "ArchiveError",
    "BundleError",
    "EcgbatchError",
    "EngineError",
    "FeedError",
    "MissingExtraError",
    "OutputError",
    "RecordError",
    "UsageError",
]


class EcgbatchError(Exception):
    """Base of everything ecgbatch raises on purpose; the command line prints it and exits with 1."""

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is, whatever its `__init__` takes: one process raises what another one has."""
        return _again, (type(self), self.args), self.__dict__


class UsageError(EcgbatchError):
    """The request itself is wrong; the command line exits with 2."""


class RecordError(EcgbatchError):
    """One record cannot be scored; `reason` is a `record.Reason`, `detail` a line of text without patient data."""

    def __init__(self, reason: str, detail: str) -> None:
        if not detail.isprintable():  # words of a file among ours
            detail = "".join([c if c.isprintable() else "?" for c in detail])
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class ArchiveError(EcgbatchError):
    """A source cannot be listed, so no complete plan can be made of it."""


class BundleError(EcgbatchError):
    """A model bundle is missing, incomplete, or not what its hashes say."""


class EngineError(EcgbatchError):
    """A device or precision cannot be had, or an engine does not reproduce its model."""


class FeedError(EcgbatchError):
    """A process that reads and decodes has ended, killed or over a file, or the system starts or opens no more."""


class OutputError(EcgbatchError):
    """A run folder cannot be written, does not add up, or belongs to another run."""


class MissingExtraError(EcgbatchError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency; pip install 'ecgbatch[{extra}]'")


def _again(kind: type[EcgbatchError], args: tuple[Any, ...]) -> EcgbatchError:
    return kind.__new__(kind, *args)
