"""What became of the entries of a run or a pack, for a person and for scripts."""

import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from ecgbatch import parts
from ecgbatch.errors import OutputError
from ecgbatch.facts import told
from ecgbatch.formats import pack
from ecgbatch.tally import outcome, spaced

__all__ = ["pack_facts", "pack_text", "run_facts", "run_text"]

_WIDTH = 120
_RECORDS = 10
"""Of a run whose called labels are shown."""
_CALLED = 3
"""Labels shown a record: so many fit a line."""


def run_facts(folder: Path) -> dict[str, Any]:
    """A run for scripts: `run.json`, but with the counts of the parts that are there now.

    Raises:
        OutputError: the folder holds no readable run.
    """
    with _reading(folder):
        facts: dict[str, Any] = json.loads((folder / "run.json").read_text("utf-8"))
        return {**facts, "counts": {**facts["counts"], **told(parts.counts(folder))}}


def run_text(folder: Path) -> str:
    """A run for a person: how far it got, what became of its entries, and what was called in the first records.

    Raises:
        OutputError: the folder holds no readable run.
    """
    facts = run_facts(folder)
    with _reading(folder):
        counts = facts["counts"]
        became = outcome(counts["scored"], counts["rejected"], counts["duplicate"])
        lines = [
            f"{_status(facts)} · {became} · of {spaced(counts['entries'])}",
            f"engine {facts['engine']} · models {', '.join(model['name'] for model in facts['models'])}",
            *_listed("scored from", _formats(folder)),
            *_listed("rejected", counts["rejects"]),
        ]
        for model in facts["models"]:
            lines += ["", f"{model['name']}: labels called, likeliest first, as probability (≥ the label's threshold)"]
            lines += _called(folder, model)
    return "\n".join(lines)


def pack_facts(folder: Path) -> dict[str, Any]:
    """A pack for scripts: `pack.json`, but with what its parts hold now.

    Raises:
        OutputError: the folder holds no readable pack.
    """
    with _reading(folder):
        facts: dict[str, Any] = json.loads((folder / "pack.json").read_text("utf-8"))
        there = _parts(folder)
        return {
            **facts,
            "counts": {**facts["counts"], **told(parts.counts(folder), verb="packed")},
            "formats": _formats(folder),
            "parts": len(there),
            "bytes": sum(part.stat().st_size for part in there),
        }


def pack_text(folder: Path) -> str:
    """A pack for a person: how far it got, what it holds, and what became of the other entries.

    Raises:
        OutputError: the folder holds no readable pack.
    """
    facts = pack_facts(folder)
    with _reading(folder):
        counts = facts["counts"]
        became = outcome(counts["packed"], counts["rejected"], 0, verb="packed")
        plural = "part" if facts["parts"] == 1 else "parts"
        return "\n".join(
            [
                f"{_status(facts)} · {became} · of {spaced(counts['entries'])}",
                f"{spaced(facts['parts'])} {plural} · {facts['bytes'] / 1e6:.1f} MB · {facts['encoding']}",
                *_listed("packed from", facts["formats"]),
                *_listed("rejected", counts["rejects"]),
            ]
        )


def _status(facts: dict[str, Any]) -> str:
    return "running or stopped" if facts["status"] == "running" else str(facts["status"])


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        pa.ArrowException,
        pl.exceptions.PolarsError,
    ) as err:
        kind = "pack" if pack.is_pack(folder) else "run"
        raise OutputError(f"{folder}: no readable {kind}, expected a {kind} folder of ecgbatch") from err


def _listed(what: str, counts: dict[str, int]) -> list[str]:
    """Lines that say how many there are of each, broken between them."""
    each = [f"{name} {spaced(n)}".replace(" ", "\u00a0") for name, n in counts.items()]
    lines = textwrap.wrap(f"{what} {', '.join(each) or 'none'}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return [line.replace("\u00a0", " ") for line in lines]


def _formats(folder: Path) -> dict[str, int]:
    """How many scored or packed ECGs came from which container."""
    there = _parts(folder)
    if not there:
        return {}
    return dict(pl.scan_parquet(there, glob=False).group_by("format").len().sort("format").collect().iter_rows())


def _parts(folder: Path) -> list[Path]:
    return [folder / parts.ledger(folder) / parts.name(shard) for shard in sorted(parts.committed(folder))]


def _called(folder: Path, model: dict[str, Any]) -> Iterator[str]:
    """A line a record with the labels called in it."""
    columns = {f"{model['name']}/{label['code']}": label for label in model["labels"]}
    scores, shown_columns = _parts(folder), ("record_id", "format", *columns)
    rows = (
        pl.scan_parquet(scores, glob=False).select(shown_columns).head(_RECORDS).collect() if scores else pl.DataFrame()
    )
    for row in rows.iter_rows(named=True):
        called = [(row[column], label) for column, label in columns.items() if row[column] >= label["threshold"]]
        called.sort(key=lambda found: -found[0])
        shown = [f"{label['code']} {_share(p)} (≥ {_share(label['threshold'])})" for p, label in called[:_CALLED]]
        if len(called) > _CALLED:
            shown.append(f"+{len(called) - _CALLED}")
        yield f"{row['record_id']:<29} {row['format']:<14} {' · '.join(shown) or 'none'}"


def _share(p: float) -> str:
    """Two decimals, or two digits of what is so rare that these would be zeros."""
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"
