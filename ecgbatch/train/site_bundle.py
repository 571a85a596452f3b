"""The folder of a bundle that is calibrated for a site: a copy with other labels, golden scores, hashes and card."""

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ecgbatch import files
from ecgbatch.bundle import Bundle, Label
from ecgbatch.train import markdown, place, reliability
from ecgbatch.train.reliability import Panel

__all__ = ["write"]

_HEADING = "## Local calibration"
_STATED = (
    "model",
    "model_version",
    "model_fingerprint",
    "run",
    "run_fingerprint",
    "labels",
    "labels_sha256",
    "n_records",
    "n_patients",
    "n_without_patient",
    "n_saturated",
    "n_folds",
    "threshold_rule",
    "ecgbatch",
)
"""Facts that `bundle.toml` keeps under [training.calibration]."""


def write(
    old: Bundle,
    labels: Sequence[Label],
    out: Path,
    *,
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    panels: Sequence[Panel],
) -> Bundle:
    """Write the bundle with these labels, whole or not at all, and load it.

    Raises:
        OutputError: the folder cannot be written.
    """
    calibration = {name: facts[name] for name in _STATED} | {"labels_calibrated": _calibrated(rows)}
    new = replace(
        old,
        folder=out,
        version=f"{old.version.partition('+')[0]}+local.{hashlib.sha256(_csv(labels)).hexdigest()[:8]}",
        labels=tuple(labels),
        training={**old.training, "calibration": calibration},
    )
    with place.filled(out) as folder:
        for path in filter(Path.is_file, old.folder.iterdir()):
            shutil.copyfile(path, folder / path.name)  # without the mode: what ships may be read-only
        _write_content(new, folder, _card(old, new, facts, rows), panels)
    return Bundle.load(out)


def _write_content(new: Bundle, folder: Path, card: str, panels: Sequence[Panel]) -> None:
    (folder / "labels.csv").write_bytes(_csv(new.labels))
    golden = pl.read_parquet(folder / "golden.parquet", glob=False)
    probabilities = new.probabilities(np.array(golden["logits"].to_list(), np.float32))
    scores = pl.Series("probabilities", list(probabilities), pl.List(pl.Float32))
    golden.with_columns(scores).write_parquet(folder / "golden.parquet", compression_level=19)
    (folder / "CARD.md").write_text(card, "utf-8")
    (folder / "reliability.svg").write_text(reliability.svg(panels), "utf-8")
    changed = {name: files.sha256(folder / name) for name in ("labels.csv", "golden.parquet")}
    content = {
        "name": new.name,
        "version": new.version,
        "licence": new.licence,
        **({"parent": asdict(new.parent)} if new.parent else {}),
        "input": asdict(new.input),
        "network": new.network,
        "training": new.training,
        "hashes": {**new.hashes, **changed},
        # Of the graph, whatever its logits are calibrated to; the golden scores are compared anew at every start.
        **({"parity": {precision: asdict(found) for precision, found in new.parity.items()}} if new.parity else {}),
    }
    (folder / "bundle.toml").write_text("\n".join(_toml(content)) + "\n", "utf-8")


def _csv(labels: Sequence[Label]) -> bytes:
    lines = StringIO()
    table = csv.DictWriter(lines, [field.name for field in fields(Label)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(label) for label in labels)
    return lines.getvalue().encode()


def _toml(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Lines of a table and those within it; a string, number or list of them reads the same in TOML as in JSON."""
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    yield from (f"{_key(key)} = {_literal(value)}" for key, value in table.items() if key not in inner)
    for key, value in inner.items():
        name = f"{path}{_key(key)}"
        yield from ("", f"[{name}]", *_toml(value, f"{name}."))


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else json.dumps(key, ensure_ascii=False)


def _literal(value: Any) -> str:
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _calibrated(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [row["label"] for row in rows if row["method"] != "kept"]


def _card(old: Bundle, new: Bundle, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The old card with the new version, and this calibration in place of an earlier one."""
    try:
        text = (old.folder / "CARD.md").read_text("utf-8")
    except FileNotFoundError:
        text = f"# {old.name} {old.version}\n"
    text = text.replace(f"# {old.name} {old.version}", f"# {new.name} {new.version}", 1)
    before, _, rest = text.partition(f"\n{_HEADING}\n")
    after = re.search(r"^## ", rest, re.MULTILINE)
    others = "\n" + rest[after.start() :] if after else ""
    return f"{before.rstrip()}\n{others}\n{_section(old, facts, rows)}"


def _section(old: Bundle, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    no_patient = "" if not facts["n_without_patient"] else " Records of unknown patients count as one patient each."
    told = ("Brier score", "calibration slope", "in the large", "sensitivity", "specificity")
    table = markdown.table(("label", "positives", "fitted", *told), "lrllllll", map(_cells, rows))
    kept = [code for code in old.codes if code not in _calibrated(rows)]
    return f"""{_HEADING}

Slopes, intercepts and thresholds of {len(_calibrated(rows))} labels were fitted to {facts["n_records"]} ECGs of
{facts["n_patients"]} patients (labels {facts["labels"]}, run {facts["run"]}), starting from {old.name} {old.version}.
Network, weights and the order of scores are those of that bundle, so every AUC is too; sections above tell of it, and
their thresholds and calibration are no longer in force. Thresholds: {facts["threshold_rule"]}.{no_patient}

Figures are before → after. Those after are out of fold: each patient's scores and calls come from a fit to the other
{facts["n_folds"] - 1} of {facts["n_folds"]} parts of the patients. 95 % intervals are of a bootstrap over patients.
A slope of 1 and 0 in the large are calibrated. Labels with few positives share one slope.
`reliability.svg` shows the same.

{table}

Kept as they were: {", ".join(kept) or "none"}.
"""


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    figures = ("brier", "calibration_slope", "calibration_intercept", "sensitivity", "specificity")
    told = (f"{_value(row['before'], name)} → {_value(row['after'], name)}" for name in figures)
    return row["label"], f"{row['n_positive']} of {row['n']}", row["method"], *told


def _value(figures: Mapping[str, float], name: str) -> str:
    value, low, high = (figures[name + end] for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "–"
    return f"{value:.4f}" if name == "brier" else f"{value:z.2f} ({low:z.2f} to {high:z.2f})"
