"""The twelve leads on ECG paper, as cardiologists read them: 25 mm/s, 10 mm/mV, 3 rows of 4 leads and a rhythm strip.

One geometry in millimetres (`_page`), two writers (`_svg`, `_png`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from ecgbatch import files
from ecgbatch.errors import UsageError
from ecgbatch.record import LEADS

__all__ = ["draw"]

MM_PER_S = 25.0
MM_PER_MV = 10.0
SECONDS = 10.0

_ROWS = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"), ("II",))
_LEFT_MM, _TOP_MM, _ROW_MM, _FOOT_MM = 5.0, 5.0, 30.0, 10.0
_PULSE_MM = 15.0
"""Room for the calibration pulse before the traces."""
_GRID_MM = (_PULSE_MM + SECONDS * MM_PER_S + 5, len(_ROWS) * _ROW_MM + 5)
_PAGE_MM = (_GRID_MM[0] + 2 * _LEFT_MM, _GRID_MM[1] + _TOP_MM + _FOOT_MM)

_INK, _BOLD, _FINE = "#101010", "#ecaaaa", "#f9dede"
_PX_PER_MM = 6
_OVERSAMPLING = 3
"""The PNG is drawn this much larger and averaged down: Pillow's lines have hard edges."""


@dataclass(frozen=True, slots=True)
class _Stroke:
    """A line through `points_mm` (point, xy); y grows downwards."""

    points_mm: np.ndarray
    width_mm: float
    colour: str


@dataclass(frozen=True, slots=True)
class _Label:
    """Text whose baseline starts at (x, y)."""

    x_mm: float
    y_mm: float
    text: str
    size_mm: float


def draw(leads_uv: np.ndarray, fs_hz: float, path: Path, *, caption: str = "") -> None:
    """Write the first ten seconds of (lead, time) in µV, leads in the order of LEADS, as `.svg` or `.png`.

    Each lead is centred on its median, as a device's high-pass would; NaN is a gap in the trace. `caption` is printed
    in the foot line after rate, speed and gain.

    Raises:
        UsageError: the suffix is neither `.svg` nor `.png`.
        OutputError: the file cannot be written.
    """
    assert leads_uv.shape[0] == len(LEADS)
    suffix = path.suffix.lower()
    if suffix not in (".svg", ".png"):
        raise UsageError(f"{path}: suffix {path.suffix!r}, expected '.svg' or '.png'")
    strokes, labels = _page(leads_uv, fs_hz, caption)
    with files.writing(path):
        if suffix == ".svg":
            path.write_text(_svg(strokes, labels), encoding="utf-8")
        else:
            _png(strokes, labels, path)


def _page(leads_uv: np.ndarray, fs_hz: float, caption: str) -> tuple[list[_Stroke], list[_Label]]:
    """Everything on the page, back to front."""
    strokes = [*_grid()]
    labels = []
    trace = {lead: _centred_mm(row[: round(SECONDS * fs_hz)]) for lead, row in zip(LEADS, leads_uv, strict=True)}
    for row, leads in enumerate(_ROWS):
        base_mm = _TOP_MM + (row + 0.5) * _ROW_MM + 5
        strokes.append(_pulse(base_mm))
        column_mm = SECONDS * MM_PER_S / len(leads)
        for column, lead in enumerate(leads):
            left_mm = _LEFT_MM + _PULSE_MM + column * column_mm
            shown = slice(*(round((column + end) * SECONDS / len(leads) * fs_hz) for end in (0, 1)))
            strokes += _trace(trace[lead][shown], fs_hz, left_mm, base_mm)
            if column:
                strokes.append(_line((left_mm, base_mm - 3), (left_mm, base_mm + 3), 0.25, _INK))
            labels.append(_Label(left_mm + 1.5, base_mm - 12, lead, 3.6))
    foot = [f"{fs_hz:g} Hz", f"{MM_PER_S:g} mm/s", f"{MM_PER_MV:g} mm/mV", caption]
    labels.append(_Label(_LEFT_MM, _PAGE_MM[1] - 3.6, "    ".join(filter(None, foot)), 3.4))
    return strokes, labels


def _grid() -> Iterator[_Stroke]:
    """Millimetre paper: fine lines first, every fifth one bold over them."""
    right_mm, bottom_mm = _LEFT_MM + _GRID_MM[0], _TOP_MM + _GRID_MM[1]
    for step, width_mm, colour in ((1, 0.10, _FINE), (5, 0.18, _BOLD)):
        for x_mm in np.arange(_LEFT_MM, right_mm + 0.5, step).tolist():
            yield _line((x_mm, _TOP_MM), (x_mm, bottom_mm), width_mm, colour)
        for y_mm in np.arange(_TOP_MM, bottom_mm + 0.5, step).tolist():
            yield _line((_LEFT_MM, y_mm), (right_mm, y_mm), width_mm, colour)


def _pulse(base_mm: float) -> _Stroke:
    """1 mV for 0.2 s, the scale that every printout begins with."""
    x_mm = _LEFT_MM + 4 + np.array([0, 1.5, 1.5, 6.5, 6.5, 8])
    y_mm = base_mm - MM_PER_MV * np.array([0, 0, 1, 1, 0, 0])
    return _Stroke(np.column_stack([x_mm, y_mm]), 0.3, _INK)


def _line(start_mm: tuple[float, float], end_mm: tuple[float, float], width_mm: float, colour: str) -> _Stroke:
    return _Stroke(np.array([start_mm, end_mm]), width_mm, colour)


def _centred_mm(lead_uv: np.ndarray) -> np.ndarray:
    """Heights above the baseline; NaN stays NaN."""
    known = lead_uv[np.isfinite(lead_uv)]
    middle_uv = float(np.median(known)) if known.size else 0.0
    return (lead_uv.astype(np.float64) - middle_uv) * (MM_PER_MV / 1000)


def _trace(height_mm: np.ndarray, fs_hz: float, left_mm: float, base_mm: float) -> Iterator[_Stroke]:
    """The trace, one stroke a run of known samples, kept on the paper."""
    x_mm = left_mm + np.arange(height_mm.size) * (MM_PER_S / fs_hz)
    y_mm = np.clip(base_mm - height_mm, _TOP_MM, _TOP_MM + _GRID_MM[1])
    known = np.flatnonzero(np.isfinite(height_mm))
    for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        if run.size:
            yield _Stroke(np.column_stack([x_mm[run], y_mm[run]]), 0.3, _INK)


def _svg(strokes: list[_Stroke], labels: list[_Label]) -> str:
    width_mm, height_mm = _PAGE_MM
    size = f'width="{width_mm:g}mm" height="{height_mm:g}mm" viewBox="0 0 {width_mm:g} {height_mm:g}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f'<rect width="{width_mm:g}" height="{height_mm:g}" fill="#ffffff"/>',
        '<g fill="none" stroke-linejoin="round">',
    ]
    for stroke in strokes:
        points = " ".join(f"{x:.2f},{y:.2f}" for x, y in stroke.points_mm.tolist())
        lines.append(f'<polyline points="{points}" stroke="{stroke.colour}" stroke-width="{stroke.width_mm:g}"/>')
    lines.append(f'</g>\n<g font-family="Helvetica, Arial, sans-serif" fill="{_INK}" xml:space="preserve">')
    for label in labels:
        where = f'x="{label.x_mm:.2f}" y="{label.y_mm:.2f}" font-size="{label.size_mm:g}"'
        lines.append(f"<text {where}>{escape(label.text)}</text>")
    return "\n".join([*lines, "</g>", "</svg>", ""])


def _png(strokes: list[_Stroke], labels: list[_Label], path: Path) -> None:
    from PIL import Image, ImageDraw, ImageFont  # a tenth of a second that only drawing needs

    scale = _PX_PER_MM * _OVERSAMPLING
    large = Image.new("RGB", (round(_PAGE_MM[0] * scale), round(_PAGE_MM[1] * scale)), "#ffffff")
    pen = ImageDraw.Draw(large)
    for stroke in strokes:
        points = [(x, y) for x, y in (stroke.points_mm * scale).tolist()]
        pen.line(points, fill=stroke.colour, width=max(1, round(stroke.width_mm * scale)), joint="curve")
    for label in labels:
        font = ImageFont.load_default(size=label.size_mm * scale)
        pen.text((label.x_mm * scale, label.y_mm * scale), label.text, fill=_INK, font=font, anchor="ls")
    large.reduce(_OVERSAMPLING).save(path, format="PNG", dpi=(_PX_PER_MM * 25.4, _PX_PER_MM * 25.4))
