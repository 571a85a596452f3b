"""Figures of a run for a person: a table, lines on what they are of, and files."""

from collections.abc import Iterator, Mapping
from io import BytesIO
from json import dumps
from math import isnan
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ecgbatch import files
from ecgbatch.errors import UsageError
from ecgbatch.output import write_json
from ecgbatch.train import markdown
from ecgbatch.train.columns import told
from ecgbatch.train.evaluation import CHOSEN, Evaluation
from ecgbatch.train.metrics import FEW

__all__ = ["notes", "require_suffix", "table", "write"]

_SHOWN = {
    "auc": "AUC (95 %)",
    "average_precision": "average\nprecision",
    "sensitivity": "sensi-\ntivity",
    "specificity": "speci-\nficity",
    "brier_skill": "Brier\nskill",
    "calibration_slope": "calibration\nslope (95 %)",
    "calibration_intercept": "in the\nlarge",
    "calibration_error": "calibr.\nerror",
}
"""Columns of the table for a person; the others stand in the report."""
_SUFFIXES = (".json", ".parquet", ".md")
_WITH_INTERVAL = {"auc", "calibration_slope"}


def notes(facts: Mapping[str, Any]) -> list[str]:
    """Lines on what the figures are of, for a person."""
    where = (
        f"labels of {facts['n_labelled']} ECGs: {facts['n_scored']} scored, {facts['n_rejected']} rejected, "
        f"{facts['n_duplicate']} duplicates, {facts['n_absent']} not in the run; "
        f"{facts['n_unlabelled']} scored ECGs have no labels"
    )
    lines = [where]
    if facts["n_duplicate"]:
        lines.append(f"labels of duplicates went to the record that stayed; {facts['n_contradicted']} contradict it")
    if facts["n_repeated_waveforms"]:
        again = f"{facts['n_repeated_waveforms']} ECGs have the waveform of another and count again, as of one patient"
        lines.append(f"{again}; ecgbatch deduplicate sets them aside")
    if facts["n_without_patient"]:
        lines.append(f"{facts['n_without_patient']} ECGs are of no known patient, and each counts as one")
    if CHOSEN in (rule := facts.get("thresholds", "")):
        lines.append(f"thresholds: {rule}, which flatters sensitivity and specificity")
    if few := facts.get("labels_of_few"):
        many = f"{len(few)} label{'s' * (len(few) != 1)}"
        lines.append(f"{many} of fewer than {FEW} positives or negatives: the intervals of their AUC are too narrow")
    if facts["labels_without_scores"]:
        lines.append(f"no score for {told(facts['labels_without_scores'], 'label')}")
    if facts["scores_without_labels"]:
        lines.append(f"no labels for {', '.join(facts['scores_without_labels'])}")
    return lines


def table(evaluation: Evaluation) -> Table:
    """The main figures for a person."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    heads, rows = _shown(evaluation)
    for at, head in enumerate(heads):
        shown.add_column(head, justify="left" if at == 0 else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*map(Text, row))  # a group's name may look like Rich's markup
    return shown


def _shown(evaluation: Evaluation) -> tuple[list[str], Iterator[list[str]]]:
    """Heads and rows of the table."""
    heads = ["label", "ECGs", "posi-\ntives", *_SHOWN.values()]
    return heads, (_told(row) for row in evaluation.figures.iter_rows(named=True))


def _told(row: Mapping[str, Any]) -> list[str]:
    of = f"{row['group']} {row['level']} · " if row["group"] else ""
    n_positive = "–" if row["n_positive"] is None else str(row["n_positive"])
    return [f"{of}{row['label']}", str(row["n"]), n_positive, *(_number(row, name) for name in _SHOWN)]


def _number(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if value is None or isnan(value):
        return "–"
    interval = f" ({row[f'{name}_low']:z.2f}–{row[f'{name}_high']:z.2f})" if name in _WITH_INTERVAL else ""
    return f"{value:.3f}{interval}" if name == "auc" else f"{value:z.2f}{interval}"


def require_suffix(path: Path) -> None:
    """Nothing, where `write` knows the suffix: better known before minutes of bootstrap are spent.

    Raises:
        UsageError: it is none of `.json`, `.parquet` and `.md`.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{path}: suffix {path.suffix!r}, expected '.json', '.parquet' or '.md'")


def write(evaluation: Evaluation, path: Path) -> None:
    """Write all figures as `.json`, `.parquet` or `.md`.

    Raises:
        UsageError: the suffix is none of these.
        OutputError: the file cannot be written.
    """
    require_suffix(path)
    figures = evaluation.figures
    match path.suffix.lower():
        case ".json":
            rows = [{k: v for k, v in row.items() if v is not None} for row in figures.fill_nan(None).to_dicts()]
            write_json(path, {**evaluation.facts, "figures": rows})
            return
        case ".parquet":
            content = BytesIO()
            figures.write_parquet(content, metadata={"ecgbatch": dumps(evaluation.facts)})
            raw = content.getvalue()
        case _:
            raw = _markdown(evaluation).encode()
    with files.writing(path):
        path.write_bytes(raw)


def _markdown(evaluation: Evaluation) -> str:
    facts = evaluation.facts
    heads, rows = _shown(evaluation)
    of = (
        f"{facts['n_records']} ECGs of {facts['n_patients']} patients; thresholds: {facts['thresholds']}. "
        f"Intervals are 95 % of {facts['n_draws']} bootstrap draws of patients, {facts['n_draws_groups']} for groups."
    )
    lines = [
        f"# {facts['model']} {facts['model_version']} on {facts['labels']}",
        "",
        of,
        "",
        *(f"* {line}" for line in notes(facts)),
        f"* {_made_of(facts)}",
        "",
        markdown.table([_one_line(head) for head in heads], "l" + "r" * (len(heads) - 1), rows),
    ]
    return "\n".join(lines) + "\n"


def _made_of(facts: Mapping[str, Any]) -> str:
    """What the figures follow from."""
    return (
        f"model {facts['model_fingerprint']}, run {facts['run']} {facts['run_fingerprint']} ({facts['engine']}), "
        f"labels {facts['labels_sha256']}, ecgbatch {facts['ecgbatch']}"
    )


def _one_line(head: str) -> str:
    return head.replace("-\n", "").replace("\n", " ")
