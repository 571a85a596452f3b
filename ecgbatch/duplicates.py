"""Duplicates: of the records of one waveform, the first in the plan stays in the scores and the others leave them.

A row that leaves stands in the duplicates part of its shard before the scores part is rewritten without it; a row that
comes back stands in the scores before it goes from the duplicates. So it is in one of them at any moment, and where it
is in both, the scores count. What a kill leaves is half of the change that the next call makes: which row stays depends
only on the order of the plan, never on which others have left.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ecgbatch import files, parts
from ecgbatch.errors import OutputError
from ecgbatch.facts import is_finished, recount
from ecgbatch.output import exclusive
from ecgbatch.plan import Plan, Shard
from ecgbatch.tally import spaced

__all__ = ["deduplicate", "restore", "take_out"]


def deduplicate(run: Path, *, say: Callable[[str], None] = lambda _: None) -> Counter[str]:
    """Take the duplicates out of the scores of a finished run; `parts.counts` of it then.

    Raises:
        OutputError: there is no finished run, another process holds it, or it cannot be written.
    """
    if not (run / "plan.parquet").is_file():
        raise OutputError(f"{run}: no plan.parquet, expected a run folder of ecgbatch")
    if parts.ledger(run) != "scores":
        raise OutputError(f"{run}: a pack, expected a run folder of ecgbatch; score the pack with --deduplicate")
    with exclusive(run):
        plan = Plan.open(run / "plan.parquet")
        n_done = len(parts.committed(run))
        if n_done < plan.n_shards or not is_finished(run):
            state = f"{n_done} of {plan.n_shards} shards are done" if n_done < plan.n_shards else "run.json says no end"
            raise OutputError(f"{run}: {state}, expected a finished run; finish it with the command that began it")
        parts.reconcile(run, plan, parts.counts(run))
        return take_out(run, plan, say=say)


def take_out(run: Path, plan: Plan, *, say: Callable[[str], None]) -> Counter[str]:
    """`deduplicate` for a caller who holds the run and has seen that it is finished and adds up."""
    parts.discard_partials(run)
    n_moved = 0
    for shard, leaving in _leaving(run):
        _move(run, shard, leaving, fingerprint=plan.fingerprint)
        n_moved += leaving.height
    found = parts.counts(run)
    parts.reconcile(run, plan, found)
    recount(run, plan, found)
    say(f"{spaced(n_moved)} rows moved to duplicates" if n_moved else "nothing to move: no two scores of one waveform")
    return found


def restore(run: Path, plan: Plan) -> int:
    """Put all duplicates back in their places in the scores; how many came back.

    A run that is gone on with has none: a shard that is done again may hold the record that another's duplicates were
    left out for, and that record may be a reject by now.
    """
    folder = run / "duplicates"
    n_restored = 0
    try:
        waiting = parts.shards(folder)
        for lost in waiting - parts.committed(run):  # its rows will be made again
            (folder / parts.name(lost)).unlink()
        left_alone = set(range(plan.n_shards)) - parts.shards(folder)
        for shard in plan.shards(done=left_alone):
            n_restored += _put_back(run, shard, fingerprint=plan.fingerprint)
            (folder / parts.name(shard.index)).unlink()
        if waiting:
            files.sync(folder)
    except OSError as err:
        raise OutputError(f"{folder}: cannot be written: {files.cause(err)}") from err
    return n_restored


def _move(run: Path, shard: int, leaving: pl.DataFrame, *, fingerprint: str) -> None:
    """Rewrite both parts of a shard; `leaving` has the `row` in its scores part and the `duplicate_of` of each."""
    with parts.readable(run, shard):
        scores = pl.read_parquet(run / "scores" / parts.name(shard), glob=False)
        left_before = parts.moved(run, shard, scores)
    is_leaving = np.zeros(scores.height, bool)
    is_leaving[leaving["row"]] = True
    moved = scores.filter(is_leaving).with_columns(leaving["duplicate_of"])
    if not (run / "duplicates").exists():
        files.made(run / "duplicates")
        files.sync(run)
    for kind, rows in (
        ("duplicates", pl.concat([left_before, moved], how="diagonal")),
        ("scores", scores.filter(~is_leaving)),
    ):
        parts.write(rows, run / kind / parts.name(shard), fingerprint=fingerprint)


def _put_back(run: Path, shard: Shard, *, fingerprint: str) -> int:
    """Rewrite the scores part of a shard with its duplicates, in the order of the plan; how many they were."""
    part = run / "scores" / parts.name(shard.index)
    with parts.readable(run, shard.index):
        scores = pl.read_parquet(part, glob=False)
        moved = parts.moved(run, shard.index, scores)
    if moved.height:
        place = {entry.record_id: at for at, entry in enumerate(shard.entries)}
        rows = pl.concat([scores, moved.select(scores.columns)])
        rows = rows[np.argsort([place[record_id] for record_id in rows["record_id"]])]
        parts.write(rows, part, fingerprint=fingerprint)
    return moved.height


def _leaving(run: Path) -> Iterator[tuple[int, pl.DataFrame]]:
    """Every shard that has rows to lose, with their `row` in its scores part and `duplicate_of`."""
    shards = sorted(parts.committed(run))
    scores = [run / "scores" / parts.name(shard) for shard in shards]
    try:
        ends = np.cumsum([pq.read_metadata(part).num_rows for part in scores])
        later = _later(scores)
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as err:
        raise OutputError(f"{run / 'scores'}: cannot be read: {files.cause(err)}") from err
    owners = np.searchsorted(ends, later["row"], side="right")
    for (owner,), rows in later.with_columns(owner=owners).partition_by("owner", as_dict=True).items():
        end = int(ends[owner])
        start = int(ends[owner - 1]) if owner else 0
        assert rows["row"].is_between(start, end, closed="left").all()
        yield shards[owner], rows.select(pl.col("row") - start, "duplicate_of")


def _later(scores: list[Path]) -> pl.DataFrame:
    """All rows whose waveform an earlier row has: `row`, counted through all parts, and `duplicate_of`.

    Of each row, only 64 bits are held in memory; everything else only of those whose 64 bits occur more than once.
    """
    rows = pl.scan_parquet(scores, row_index_name="row", glob=False).select("row", "record_id", "waveform_hash")
    key = pl.col("waveform_hash").hash()
    keys = rows.select(key).collect(engine="streaming").to_series().sort()
    repeated = keys.filter(keys == keys.shift(1)).unique()
    alike = rows.filter(key.is_in(repeated.implode())).collect(engine="streaming").sort("row")
    return (
        alike.with_columns(duplicate_of=pl.col("record_id").first().over("waveform_hash"))
        .filter(~pl.col("waveform_hash").is_first_distinct())
        .select("row", "duplicate_of")
    )
