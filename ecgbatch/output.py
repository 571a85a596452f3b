"""The run folder: what a row of it holds, the commit of a shard's rows, and the hold on the folder.

RUN/plan.parquet  written once, before the first score
RUN/scores/       Parquet parts, one a shard; so are RUN/rejects/ and RUN/duplicates/: see parts.py
RUN/run.json      a report
"""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ecgbatch import files, parts
from ecgbatch.bundle import Bundle
from ecgbatch.errors import OutputError
from ecgbatch.record import Reject, Row

__all__ = ["Output", "Outputs", "exclusive", "write_json", "write_rejects"]

_ROW_SCHEMA = {
    "record_id": pl.String(),
    "source_path": pl.String(),
    "format": pl.String(),
    "waveform_hash": pl.String(),
    "acquired_at": pl.Datetime("us"),
    "device_model": pl.String(),
    "fs_hz": pl.Float64(),
    "seconds": pl.Float64(),
    "leads_derived": pl.List(pl.String()),
}
_QUALITY_SCHEMA = {
    "flat_leads": pl.List(pl.String()),
    "amplitude_uv": pl.Float32(),
    "quality": pl.Float32(),
    "poor_leads": pl.List(pl.String()),
    "flat_share": pl.Float32(),
    "clipped_share": pl.Float32(),
    "spike_uv": pl.Float32(),
    "wander_uv": pl.Float32(),
    "noise_uv": pl.Float32(),
    "mains_uv": pl.Float32(),
    "qrs_uv": pl.Float32(),
    "qrs_agreement": pl.Float32(),
    "amplitude_suspect": pl.Boolean(),
    "limb_residual_uv": pl.Float32(),
    "leads_suspect": pl.Boolean(),
}
_SCHEMA = _ROW_SCHEMA | _QUALITY_SCHEMA
_REJECT_SCHEMA = dict.fromkeys(("record_id", "source_path", "stage", "reason", "detail"), pl.String())

Outputs = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""By bundle name: probabilities (record, label) and embedding (record, feature), both float32."""


class Output:
    """The parts of one run: gathers a shard's rows, then commits them as one pair of files."""

    def __init__(self, folder: Path, bundles: Sequence[Bundle], *, fingerprint: str, embeddings: Sequence[str]) -> None:
        """`embeddings` names the networks whose embedding is written."""
        self.folder = folder
        self._bundles = bundles
        self._fingerprint = fingerprint
        self._embeddings = embeddings
        self._rows: list[Row] = []
        self._rejects: list[Reject] = []
        self._outputs: list[Outputs] = []
        for kind in ("scores", "rejects"):
            files.made(folder / kind)
        parts.discard_partials(folder)

    def add(self, rows: Sequence[Row], rejects: Sequence[Reject], outputs: Outputs) -> None:
        """Rows of the shard that is being gathered; row i of each output belongs to `rows[i]`."""
        self._rows.extend(rows)
        self._rejects.extend(rejects)
        if rows:
            self._outputs.append(outputs)

    def commit(self, shard: int) -> None:
        """Write what was gathered as the pair of `shard`.

        Raises:
            OutputError: the disk is full or not writable; the shard is not committed, and no partial file stays.
        """
        write_rejects(self._rejects, self.folder, shard, fingerprint=self._fingerprint)
        parts.write(self._scores(), self.folder / "scores" / parts.name(shard), fingerprint=self._fingerprint)
        self._rows, self._rejects, self._outputs = [], [], []

    def _scores(self) -> pl.DataFrame:
        columns = [_column(name, [getattr(row, name) for row in self._rows]) for name in _ROW_SCHEMA]
        columns += [_column(name, [getattr(row.quality, name) for row in self._rows]) for name in _QUALITY_SCHEMA]
        frame = pl.DataFrame(columns)
        frame = frame.with_columns(series for bundle in self._bundles for series in self._model_columns(bundle))
        unscored = [name for name in self._embeddings if f"{name}/embedding" not in frame.columns]  # heads' parents
        return frame.with_columns(self._embedding(name) for name in unscored)

    def _model_columns(self, bundle: Bundle) -> Iterator[pl.Series]:
        n_labels = len(bundle.labels)
        gathered = [outputs[bundle.name] for outputs in self._outputs]
        probabilities = np.concatenate([p for p, _ in gathered]) if gathered else np.empty((0, n_labels), np.float32)
        for column, code in enumerate(bundle.codes):
            yield pl.Series(f"{bundle.name}/{code}", np.ascontiguousarray(probabilities[:, column]), pl.Float32)
        if bundle.name in self._embeddings:
            yield self._embedding(bundle.name)

    def _embedding(self, name: str) -> pl.Series:
        gathered = [outputs[name][1] for outputs in self._outputs]
        values = np.concatenate(gathered) if gathered else np.empty((0, 1), np.float32)
        return pl.Series(f"{name}/embedding", values).cast(pl.List(pl.Float32))


def _column(name: str, values: Sequence[Any]) -> pl.Series:
    """A column of `_SCHEMA`; lists go through Arrow, which makes them faster than Polars does."""
    dtype = _SCHEMA[name]
    if isinstance(dtype, pl.List):
        return pl.Series(name, pa.array(values, pa.large_list(pa.large_string())))
    return pl.Series(name, values, dtype)


def write_rejects(rejects: Sequence[Reject], folder: Path, shard: int, *, fingerprint: str) -> None:
    """Write the rejects part of a shard, also where there are none.

    Raises:
        OutputError: the disk is full or not writable.
    """
    frame = pl.DataFrame([asdict(reject) for reject in rejects], schema=_REJECT_SCHEMA)
    parts.write(frame, folder / "rejects" / parts.name(shard), fingerprint=fingerprint)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the run folder for one process; the hold ends with the process, however that ends.

    Raises:
        OutputError: another process holds it.
    """
    files.made(folder)
    with files.writing(folder):
        lock = (folder / ".lock").open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise OutputError(
                f"{folder}: another process is writing this run; wait for it, or use another --out"
            ) from err
        except OSError as err:
            raise OutputError(f"{folder}: cannot be locked: {files.cause(err)}; use an --out on a local disk") from err
        yield


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a report; the file is replaced whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with files.writing(path), files.replaced(path) as partial:
        partial.write_text(text, "utf-8", "backslashreplace")  # a file name may hold what UTF-8 cannot; JSON can
