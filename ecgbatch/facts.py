"""The facts of a run or pack, as `run.json` or `pack.json` keeps them."""

import json
import platform
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ecgbatch import parts
from ecgbatch.bundle import Bundle
from ecgbatch.errors import OutputError
from ecgbatch.output import write_json
from ecgbatch.plan import Plan
from ecgbatch.tally import Tally

__all__ = ["Facts", "is_finished", "recount", "told"]

_LIBRARIES = ("ecgbatch", "numpy", "openvino", "polars", "pyarrow")


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything a reader of scores or packed records may ask about how they came to be."""

    folder: Path
    plan: Plan
    bundles: Sequence[Bundle] | None
    """The models of a run; None of a pack."""
    tally: Tally
    feed: str | None = None
    """Who made model input of the records of a run; None of a pack."""

    def write(self, status: str, counts: Counter[str]) -> None:
        """Write the report; `counts` are those of `parts.counts`."""
        write_json(
            _report(self.folder),
            {
                "status": status,
                "written_at": _now(),
                "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
                "fingerprint": self.plan.fingerprint,
                "settings": dict(self.plan.settings),
                **self._work(),
                "versions": {name: version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
                "counts": {"entries": self.plan.n_entries, **told(counts, verb=self.tally.verb)},
                "invocation": self._invocation(),
            },
        )

    @contextmanager
    def kept(self, counts: Counter[str]) -> Iterator[None]:
        """Tell in the report how the work within goes and ends, and check then that every entry has its row."""
        self.write("running", counts)
        try:
            yield
        except BaseException:
            self.tally.end()
            with suppress(OutputError):
                self.write("stopped", parts.counts(self.folder))
            raise
        self.tally.end()
        found = parts.counts(self.folder)
        self.write("finished" if parts.n_rows(found) == self.plan.n_entries else "failed", found)
        parts.reconcile(self.folder, self.plan, found)

    def _work(self) -> dict[str, Any]:
        if self.bundles is None:
            return {"encoding": self.tally.engine}
        return {"engine": self.tally.engine, "feed": self.feed, "models": [_model(bundle) for bundle in self.bundles]}

    def _invocation(self) -> dict[str, Any]:
        """Rates of this invocation: of each stage by itself, and the stage that held it back."""
        n = self.tally.n_done - self.tally.n_before
        return {
            "entries": n,
            "seconds": round(self.tally.seconds, 3),
            "ecg_per_s": round(self.tally.rate, 1),
            "stage_s": {stage: round(s, 3) for stage, s in self.tally.stage_s.items()},
            "stage_ecg_per_s": {stage: round(n / s, 1) for stage, s in self.tally.stage_s.items() if s > 0},
            "slowest": self.tally.slowest,
        }


def is_finished(folder: Path) -> bool:
    """Whether a report is there that tells of a finished run or pack; else it is to be written again."""
    try:
        return bool(json.loads(_report(folder).read_text("utf-8"))["status"] == "finished")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def recount(folder: Path, plan: Plan, counts: Counter[str]) -> None:
    """Have the `run.json` of a finished run tell these counts; it is left alone where it does."""
    facts = json.loads((folder / "run.json").read_text("utf-8"))
    current = {"entries": plan.n_entries, **told(counts)}
    if facts.get("counts") != current:
        write_json(folder / "run.json", {**facts, "written_at": _now(), "counts": current})


def told(counts: Counter[str], *, verb: str = "scored") -> dict[str, Any]:
    """`parts.counts` as a report tells them; a pack has no duplicates."""
    return {
        verb: counts["scored"],
        "rejected": counts["rejected"],
        **({"duplicate": counts["duplicate"]} if verb == "scored" else {}),
        "rejects": {k.removeprefix("reason:"): n for k, n in sorted(counts.items()) if k.startswith("reason:")},
    }


def _report(folder: Path) -> Path:
    return folder / ("pack.json" if parts.ledger(folder) == "records" else "run.json")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _model(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "version": bundle.version,
        "licence": bundle.licence,
        "fingerprint": bundle.fingerprint,
        **({"parent": asdict(bundle.parent)} if bundle.parent else {}),
        "labels": [{"code": label.code, "name": label.name, "threshold": label.threshold} for label in bundle.labels],
    }
