"""The facts of a run, as `run.json` keeps them."""

import json
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ecgbatch.bundle import Bundle
from ecgbatch.output import write_json
from ecgbatch.plan import Plan
from ecgbatch.tally import Tally

__all__ = ["Facts", "is_finished", "recount", "told"]

_LIBRARIES = ("ecgbatch", "numpy", "openvino", "polars", "pyarrow")


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything a reader of scores may ask about how they came to be."""

    folder: Path
    plan: Plan
    bundles: Sequence[Bundle]
    tally: Tally

    def write(self, status: str, counts: Counter[str]) -> None:
        """Write `run.json`; `counts` are those of `parts.counts`."""
        write_json(
            self.folder / "run.json",
            {
                "status": status,
                "written_at": _now(),
                "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
                "fingerprint": self.plan.fingerprint,
                "settings": dict(self.plan.settings),
                "engine": self.tally.engine,
                "models": [_model(bundle) for bundle in self.bundles],
                "versions": {name: version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
                "counts": {"entries": self.plan.n_entries, **told(counts)},
                "invocation": self._invocation(),
            },
        )

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
    """Whether a `run.json` is there that tells of a finished run; else it is to be written again."""
    try:
        return bool(json.loads((folder / "run.json").read_text("utf-8"))["status"] == "finished")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def recount(folder: Path, plan: Plan, counts: Counter[str]) -> None:
    """Have the `run.json` of a finished run tell these counts; it is left alone where it does."""
    facts = json.loads((folder / "run.json").read_text("utf-8"))
    current = {"entries": plan.n_entries, **told(counts)}
    if facts.get("counts") != current:
        write_json(folder / "run.json", {**facts, "written_at": _now(), "counts": current})


def told(counts: Counter[str]) -> dict[str, Any]:
    """`parts.counts` as `run.json` tells them."""
    return {
        "scored": counts["scored"],
        "rejected": counts["rejected"],
        "duplicate": counts["duplicate"],
        "rejects": {k.removeprefix("reason:"): n for k, n in sorted(counts.items()) if k.startswith("reason:")},
    }


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
