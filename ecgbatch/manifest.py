"""Manifests: tables that name the files of an archive in a column `path`."""

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from ecgbatch.errors import ArchiveError

__all__ = ["listed"]


def listed(source: Path) -> Iterator[tuple[str, str]]:
    """(record_id, path) of each file, relative ones from the manifest's folder; `.hea` may be left off.

    Raises:
        ArchiveError: it cannot be read, has no such column, or names a file twice or not at all.
    """
    paths = _paths(source)
    if n_wrong := paths.null_count() + int(paths.is_duplicated().sum()):
        raise ArchiveError(f"{source}: {n_wrong} rows with an empty or repeated path, expected every file once")
    folder = os.path.abspath(source.parent)
    seen = set()
    for name in paths:
        path = os.path.join(folder, name)
        if not os.path.exists(path) and os.path.exists(path + ".hea"):
            path += ".hea"
        if os.path.normpath(path) in seen:
            raise ArchiveError(f"{source}: {name!r} is a file listed before, expected every file once")
        seen.add(os.path.normpath(path))
        yield os.path.relpath(path, folder) if path.startswith(folder + "/") else path, path


def _paths(source: Path) -> pl.Series:
    try:
        table = (
            pl.scan_csv(source, infer_schema=False, glob=False)
            if source.suffix.lower() == ".csv"
            else pl.scan_parquet(source, glob=False)
        )
        if "path" not in table.collect_schema().names():
            raise ArchiveError(f"{source}: no column 'path', expected a manifest of ECG files")
        return table.select(pl.col("path").cast(pl.String)).collect()["path"]
    except (pl.exceptions.PolarsError, OSError):  # Polars may quote a cell, and that may be a name
        detail = "not a readable manifest, expected CSV in UTF-8, or Parquet, with a column 'path'"
        raise ArchiveError(f"{source}: {detail}") from None
