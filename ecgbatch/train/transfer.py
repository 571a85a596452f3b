"""The part of a bundle's CARD.md that says what fine-tuning gained over training from scratch, a row a disease."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgbatch import files
from ecgbatch.bundle import Bundle
from ecgbatch.errors import BundleError, UsageError
from ecgbatch.train import markdown

__all__ = ["added", "card", "read", "section"]

_HEADING = "## Does it help where cases are few?"
_BEFORE = "## How it was made"
"""The heading of every card that the part stands before."""


def read(folder: Path, bundle: Bundle) -> dict[str, Any]:
    """The figures of a comparison that began with this bundle, or with its parent, as `compare` has written them.

    Raises:
        UsageError: there are none, they are another model's, or nothing was fine-tuned or trained from scratch on all
            positives.
    """
    try:
        found: dict[str, Any] = json.loads((folder / "figures.json").read_text("utf-8"))
        arms, begun = _arms(found), found["from"].split()[-1]
        _how(found)  # an older version wrote less
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UsageError(
            f"{folder}: no whole figures.json, expected a folder of train compare; give its command again"
        ) from err
    if not {"finetune", "scratch", "finetune - scratch"} <= set(arms):
        raise UsageError(f"{folder}: compares {', '.join(arms)}, expected finetune and scratch on all positives")
    own = {bundle.fingerprint, str(bundle.training.get("parent_fingerprint", ""))}
    if not any(fingerprint.startswith(begun) for fingerprint in own):
        raise UsageError(f"{folder}: began with {found['from']}, expected {bundle.name!r} or its parent")
    return found


def card(bundle: Bundle) -> str:
    """The card of a bundle.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        return (bundle.folder / "CARD.md").read_text("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise BundleError(f"bundle {bundle.name!r}: CARD.md cannot be read: {err}") from err


def section(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The part in Markdown, of what `read` returns."""
    heads = ("disease", "ECGs", "positive", "AUC fine-tuned", "AUC from scratch", "difference", "linear probe")
    rows = []
    for found in comparisons:
        arms = _arms(found)
        cells = [_shown(arms[arm]) for arm in ("finetune", "scratch")]
        cells += [_shown(arms["finetune - scratch"], sign="+"), _shown(arms.get("probe"))]
        rows.append((found["label"], found["n_records"], found["n_positive"], *cells))
    return f"""{_HEADING}

{markdown.table(heads, "lrrllll", rows)}

{chr(10).join(_how(found) for found in comparisons)}

All arms see the same patients of the same folds, with the same budget, and nothing is chosen by those who judge. The
difference is paired; intervals are 95 % of bootstrap draws of patients.
"""


def added(bundle: Bundle, text: str, comparisons: Sequence[Mapping[str, Any]]) -> Path:
    """Write the card of a bundle: this text, with the part on comparisons put in or replaced; returns its path.

    Raises:
        OutputError: it cannot be written.
    """
    before, found, after = text.partition(_HEADING)
    if found:
        text = before + _BEFORE + after.partition(_BEFORE)[2]
    if comparisons:
        before, _, after = text.partition(_BEFORE)
        text = f"{before}{section(comparisons)}\n{_BEFORE}{after}"
    path = bundle.folder / "CARD.md"
    with files.writing(path), files.replaced(path) as partial:
        partial.write_text(text, "utf-8")
    return path


def _arms(found: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """The AUC of each arm that trained on all positives, and of their differences."""
    return {row["arm"]: row["auc"] for row in found["figures"] if row["n_positives"] is None}


def _shown(auc: Mapping[str, float] | None, *, sign: str = "") -> str:
    return "–" if auc is None else f"{auc['value']:{sign}.3f} ({auc['low']:{sign}.3f} to {auc['high']:{sign}.3f})"


def _how(found: Mapping[str, Any]) -> str:
    return (
        f"* {found['label']}: {found['n_folds']} folds by patient of {found['n_patients']} patients, "
        f"{_times(found['n_repeats'], 'partition')}, {_times(found['n_seeds'], 'training')} of each fold, at most "
        f"{found['epochs']} epochs at {_listed(found['rates'])}.{_cut(found['seconds'])} "
        f"{found['provenance']}.{_fewer(found)}{_told(found['told'])}"
    )


def _cut(seconds: float | None) -> str:
    return "" if seconds is None else f" Of each ECG, only the first {seconds:g} s were looked at."


def _fewer(found: Mapping[str, Any]) -> str:
    """What is left of both, and of the difference, with fewer positives to train on."""
    by_number: dict[int, dict[str, Mapping[str, float]]] = {}
    for row in found["figures"]:
        if row["n_positives"] is not None:
            by_number.setdefault(row["n_positives"], {})[row["arm"]] = row["auc"]
    return "".join(
        f" With {n} positive patients to train on, {_shown(arms['finetune'])} fine-tuned and "
        f"{_shown(arms['scratch'])} from scratch: {_shown(arms['finetune - scratch'], sign='+')}."
        for n, arms in sorted(by_number.items(), reverse=True)
        if {"finetune", "scratch", "finetune - scratch"} <= set(arms)
    )


def _told(confounders: Mapping[str, Mapping[str, float]]) -> str:
    """What else the fine-tuned score tells apart among those without the disease, surely better than chance."""
    sure = [f"{name} (AUC {told['value']:.2f})" for name, told in confounders.items() if told["low"] > 0.5]
    return f" **Mind: the score also tells {', '.join(sure)} among negatives, which lifts its AUC.**" if sure else ""


def _times(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _listed(rates: Sequence[float]) -> str:
    return " or ".join(f"{rate:g}" for rate in rates)
