"""The parts of a run or pack: one file of each kind a shard, each put in its place whole, and what they add up to.

RUN/rejects/part-000000.parquet     renamed into place first,
RUN/scores/part-000000.parquet      the scores last, even when empty: this is the commit and the only ledger
RUN/duplicates/part-000000.parquet  rows taken out of that scores part later, where there are any: written before it is
                                    rewritten, so a row that stands in both has not been taken out yet

A pack has records/ in the place of scores/, and no duplicates/.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ecgbatch import files
from ecgbatch.errors import OutputError
from ecgbatch.plan import Plan

__all__ = [
    "committed",
    "counts",
    "discard_partials",
    "ledger",
    "moved",
    "n_rows",
    "name",
    "readable",
    "reconcile",
    "shards",
    "write",
    "writing",
]

_PART = re.compile(r"part-(\d+)\.parquet")


def name(shard: int) -> str:
    return f"part-{shard:06}.parquet"


def shards(folder: Path) -> set[int]:
    """The shards that have a part in a folder; none where there is no folder.

    Raises:
        OutputError: it cannot be listed.
    """
    try:
        names = [part.name for part in folder.iterdir()]
    except FileNotFoundError:
        return set()
    except OSError as err:
        raise OutputError(f"{folder}: cannot be listed: {files.cause(err)}") from err
    return {int(found[1]) for name in names if (found := _PART.fullmatch(name))}


def committed(run: Path) -> set[int]:
    """The shards whose scores or records part is in place."""
    return shards(run / ledger(run))


def ledger(run: Path) -> str:
    """The kind of parts that commit a shard: `records` in a pack, `scores` in a run."""
    return "records" if (run / "records").is_dir() else "scores"


def counts(run: Path) -> Counter[str]:
    """Rows in all committed parts: `scored`, `rejected`, `duplicate`, and the rejects by reason as `reason:<name>`.

    Of a pack, `scored` are the rows in its records.

    Raises:
        OutputError: a part cannot be read.
    """
    found: Counter[str] = Counter(scored=0, rejected=0, duplicate=0)
    for shard in committed(run):
        found.update(_counts(run, shard))
    return found


def n_rows(found: Counter[str]) -> int:
    return found["scored"] + found["rejected"] + found["duplicate"]


def reconcile(run: Path, plan: Plan, found: Counter[str]) -> None:
    """Check the sum that must hold: every entry has one row. `found` is what `counts` gives.

    Raises:
        OutputError: it does not.
    """
    if n_rows(found) == plan.n_entries:
        return
    wrong = (shard for shard in sorted(committed(run)) if n_rows(_counts(run, shard)) != plan.n_entries_of(shard))
    kind = ledger(run)
    done, report = ("packed", "pack.json") if kind == "records" else ("scored", "run.json")
    advice = "".join(f"delete {kind}/{name(shard)} to have the shard done again, and " for shard in list(wrong)[:1])
    raise OutputError(
        f"{run}: {plan.n_entries} entries, but {found['scored']} {done}, {found['rejected']} rejected and "
        f"{found['duplicate']} duplicates; {advice}please report this with {report}"
    )


def moved(run: Path, shard: int, scores: pl.DataFrame, *, columns: list[str] | None = None) -> pl.DataFrame:
    """The rows of a duplicates part that do not stand in the `scores` of its shard any more, if it has such a part."""
    part = run / "duplicates" / name(shard)
    if not part.exists():
        return pl.DataFrame()
    return pl.read_parquet(part, columns=columns, glob=False).join(
        scores, on="record_id", how="anti", maintain_order="left"
    )


def write(frame: pl.DataFrame, part: Path, *, fingerprint: str) -> None:
    """Put a part in its place, on the disk itself; its footer carries the fingerprint of the run.

    Raises:
        OutputError: the disk is full or not writable; what was there stays, and no partial file does.
    """
    content = BytesIO()  # Polars on a full disk may tell of broken Parquet
    frame.write_parquet(content, metadata={"ecgbatch": json.dumps({"run": fingerprint})})
    with writing(part), files.replaced(part) as partial:
        partial.write_bytes(content.getbuffer())


def writing(part: Path) -> AbstractContextManager[None]:
    """Have what goes wrong while a part is written say what to do."""
    return files.writing(part, advice="; the same command goes on from here")


def discard_partials(run: Path) -> None:
    """Remove what a process was writing when it was killed."""
    for kind in ("scores", "records", "rejects", "duplicates"):
        for partial in (run / kind).glob("*.partial"):
            try:
                partial.unlink()
            except OSError as err:
                raise OutputError(f"{partial}: cannot be removed: {files.cause(err)}") from err


@contextmanager
def readable(run: Path, shard: int) -> Iterator[None]:
    """Have what goes wrong while the parts of a shard are read say what to do."""
    try:
        yield
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as err:
        found = f"{run}: the parts {name(shard)} are not a readable pair"
        raise OutputError(f"{found}; delete {ledger(run)}/{name(shard)} to have the shard done again") from err


def _counts(run: Path, shard: int) -> Counter[str]:
    with readable(run, shard):
        n_scored, n_moved = pq.read_metadata(run / ledger(run) / name(shard)).num_rows, 0
        reasons = pl.read_parquet(run / "rejects" / name(shard), columns=["reason"], glob=False)["reason"].to_list()
        if (run / "duplicates" / name(shard)).exists():
            scores = pl.read_parquet(run / "scores" / name(shard), columns=["record_id"], glob=False)
            n_scored, n_moved = scores.height, moved(run, shard, scores, columns=["record_id"]).height
    found = Counter(f"reason:{reason}" for reason in reasons)
    return found + Counter(scored=n_scored, rejected=len(reasons), duplicate=n_moved)
