"""Predicted against observed: a panel a label, where calibrated scores lie on the diagonal, as SVG."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from ecgbatch import files
from ecgbatch.errors import UsageError
from ecgbatch.train.cells import BINS, Cells
from ecgbatch.train.metrics import JUDGED, wilson

__all__ = ["Panel", "panels", "require_suffix", "svg", "write"]

_COLUMNS = 4
_SIDE, _GAP, _HEAD = 150, 50, 30
"""Pixels: of a panel, between two, above the first."""
_INK, _FINE, _OLD = "#101010", "#d0d0d0", "#b07020"
_FOOT = f"Mean score against frequency in {BINS} bins of equal numbers of ECGs, with 95 % intervals (Wilson)."


@dataclass(frozen=True, slots=True)
class Panel:
    """One label: its bins by (n, mean score, frequency), now and, where there was another, with the old calibration."""

    title: str
    bins: tuple[np.ndarray, np.ndarray, np.ndarray]
    before: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None


def panels(
    codes: Sequence[str], is_positive: np.ndarray, probability: np.ndarray, *, before: np.ndarray | None = None
) -> list[Panel]:
    """The panel of each label of (record, label) that has `JUDGED` positives; `before` are its older scores."""
    made = []
    for at, code in enumerate(codes):
        known = ~np.isnan(is_positive[:, at])
        truth = is_positive[known, at]
        if truth.sum() >= JUDGED:
            old = None if before is None else Cells.of(truth, before[known, at]).reliability()
            title = f"{code} · {int(truth.sum())} of {len(truth)}"
            made.append(Panel(title, Cells.of(truth, probability[known, at]).reliability(), old))
    return made


def require_suffix(path: Path) -> None:
    """Nothing, where `write` knows the suffix: better known before minutes of bootstrap are spent.

    Raises:
        UsageError: it is not `.svg`.
    """
    if path.suffix.lower() != ".svg":
        raise UsageError(f"{path}: suffix {path.suffix!r}, expected '.svg'")


def write(drawn: Sequence[Panel], path: Path) -> None:
    """Write the panels as `.svg`.

    Raises:
        UsageError: the suffix is another.
        OutputError: the file cannot be written.
    """
    require_suffix(path)
    with files.writing(path):
        path.write_text(svg(drawn), "utf-8")


def svg(drawn: Sequence[Panel]) -> str:
    """The panels, four a row, each from 0 to its own round limit."""
    width = _COLUMNS * (_SIDE + _GAP) + _GAP
    height = math.ceil(len(drawn) / _COLUMNS) * (_SIDE + _GAP) + 2 * _HEAD
    older = f' <tspan fill="{_OLD}">Before calibration.</tspan>' if any(panel.before for panel in drawn) else ""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<g font-family="Helvetica, Arial, sans-serif" font-size="11" fill="{_INK}">',
    ]
    for at, panel in enumerate(drawn):
        row, column = divmod(at, _COLUMNS)
        lines.append(f'<g transform="translate({_GAP + column * (_SIDE + _GAP)},{_HEAD + row * (_SIDE + _GAP)})">')
        lines += [*_panel(panel), "</g>"]
    return "\n".join([*lines, f'<text x="{_GAP}" y="{height - 12}">{_FOOT}{older}</text>', "</g>", "</svg>", ""])


def _panel(panel: Panel) -> Iterator[str]:
    limit = _limit(panel)
    yield f'<rect width="{_SIDE}" height="{_SIDE}" fill="none" stroke="{_FINE}"/>'
    yield f'<line x1="0" y1="{_SIDE}" x2="{_SIDE}" y2="0" stroke="{_FINE}"/>'
    yield f'<text x="0" y="-5">{escape(panel.title)}</text>'
    yield f'<text x="0" y="{_SIDE + 13}">0</text>'
    yield f'<text x="{_SIDE}" y="{_SIDE + 13}" text-anchor="end">{limit:g}</text>'
    if panel.before:
        yield from _points(panel.before, limit, _OLD)
    yield from _points(panel.bins, limit, _INK)


def _points(bins: tuple[np.ndarray, np.ndarray, np.ndarray], limit: float, colour: str) -> Iterator[str]:
    n, score, frequency = bins
    low, high = wilson(n, frequency)
    to_y = _SIDE / limit
    for x, middle, least, most in zip(score, frequency, low, np.minimum(high, limit), strict=True):
        at = f"{x * to_y:.1f}"
        ends = f'y1="{_SIDE - least * to_y:.1f}" y2="{_SIDE - most * to_y:.1f}"'
        yield f'<line x1="{at}" x2="{at}" {ends} stroke="{colour}" stroke-width="0.8"/>'
        yield f'<circle cx="{at}" cy="{_SIDE - middle * to_y:.1f}" r="2.5" fill="{colour}"/>'


def _limit(panel: Panel) -> float:
    """The axes end at the smallest of 1, 0.5, 0.2, 0.1 … that holds all points."""
    shown = [panel.bins, *([panel.before] if panel.before else [])]
    most = max(float(np.max(part)) for _, *parts in shown for part in parts)
    return next((end for end in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if most <= end), 1.0)
