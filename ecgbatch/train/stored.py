"""Embeddings that a run of `score --embeddings` has stored, and labels for them."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from ecgbatch import parts
from ecgbatch.bundle import Bundle
from ecgbatch.errors import OutputError, UsageError
from ecgbatch.train import labels, place
from ecgbatch.train.cohort import Doubts, one_person
from ecgbatch.train.finetune import Making, probe_embeddings
from ecgbatch.train.scored import run_of
from ecgbatch.train.task import LEAST, Meaning

__all__ = ["probe_run"]


def probe_run(
    run: Path, table: Path, meaning: Meaning, making: Making, out: Path, *, say: Callable[[str], None]
) -> Bundle:
    """Write the bundle of a probe of what a run stored, with the labels of a table.

    Raises:
        OutputError: the run cannot be read, or the bundle cannot be written.
        UsageError: it holds no embedding of this model, or too few of its records have the label.
    """
    place.require(out / making.name)
    stored = _stored(run, making.parent)
    listed = labels.read(table, may_lack_labels=True)
    targets = meaning.of_labels(str(table), listed)
    row = listed.rows_of(stored.select("record_id", "source_path"))
    known = (row >= 0) & ~np.isnan(targets[row])
    y, patients = targets[row[known]] == 1, listed.patients[row[known]]
    n_absent = len(listed.record_ids) - int((row >= 0).sum())
    absent = f"; {n_absent} rows of the table were not scored" if n_absent else ""
    say(f"{known.sum()} of {len(known)} ECGs have the label, {y.sum()} positive{absent}")
    waveforms = stored.filter(pl.Series(known))["waveform_hash"].to_numpy().astype(str)
    doubts = Doubts.of(patients, waveforms)
    for line in doubts.lines:
        say(line)
    patients = one_person(patients, waveforms)
    for side in (True, False):
        if (n := len(set(patients[y == side]))) < LEAST:
            kind = "positive" if side else "negative"
            raise UsageError(f"label {meaning.code!r}: {n} {kind} patients in the run, expected at least {LEAST}")
    vectors = stored.filter(pl.Series(known))["embedding"]
    embedding = vectors.to_arrow().flatten().to_numpy().reshape(len(vectors), -1)  # (record, feature)
    facts = {
        "provenance": "not stated",
        "data_sha256": hashlib.sha256(listed.sha256.encode() + embedding.tobytes()).hexdigest(),
        "left_out": {
            "without labels": int((row < 0).sum()),
            "label unknown": int((row[~known] >= 0).sum()),
            "labels without a score": n_absent,
        },
        **doubts.facts,
    }
    return probe_embeddings(embedding, y, patients, making, out, code=meaning.code, facts=facts, say=say)


def _stored(run: Path, parent: Bundle) -> pl.DataFrame:
    """record_id, source_path and embedding of every scored record of a run."""
    facts = run_of(run)
    try:
        scores = [run / "scores" / parts.name(shard) for shard in sorted(parts.committed(run))]
        column = f"{parent.name}/embedding"
        names = pl.scan_parquet(scores[0], glob=False).collect_schema()
    except (OSError, ValueError, KeyError, IndexError, TypeError, pl.exceptions.PolarsError) as err:
        raise OutputError(f"{run}: no readable run, expected a run folder of ecgbatch") from err
    if column not in names:
        raise UsageError(f"{run}: no column {column}; score with --embeddings, and with this model or a head on it")
    models = facts["models"]
    made_by = {model["fingerprint"] for model in models} | {model.get("parent", {}).get("sha256") for model in models}
    if not {parent.fingerprint, parent.hashes["model.onnx"]} & made_by:
        raise UsageError(f"{run}: was scored by another {parent.name!r} than this one; name its folder with --model")
    return pl.read_parquet(scores, columns=["record_id", "source_path", "waveform_hash", column], glob=False).rename(
        {column: "embedding"}
    )
