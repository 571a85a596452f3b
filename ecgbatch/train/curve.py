"""A learning curve as SVG: figures with their intervals over numbers on a logarithmic axis."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from ecgbatch.train.figures import Figure

__all__ = ["Point", "drawn"]

WIDTH, HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 150, 20, 50
_COLOURS = ("#0b6fa4", "#c8502d", "#5a8f3c")
_INK, _GRID = "#202020", "#dddddd"


@dataclass(frozen=True, slots=True)
class Point:
    """A figure at a number, of a line of that name."""

    line: str
    x: int
    figure: Figure


@dataclass(frozen=True, slots=True)
class _Axes:
    """Where numbers lie on the page."""

    x_low: float
    x_high: float
    y_low: float

    def x(self, value: float) -> float:
        span = math.log(self.x_high / self.x_low) or 1.0
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * math.log(value / self.x_low) / span

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - self.y_low) / (1 - self.y_low)


def drawn(points: Sequence[Point], *, x_name: str, y_name: str) -> str:
    """The page; figures that could not be had are left out."""
    known = [point for point in points if not math.isnan(point.figure.low)]
    lowest = min((point.figure.low for point in known), default=0.5)
    numbers = sorted({point.x for point in known}) or [1]
    axes = _Axes(numbers[0], numbers[-1], max(0.0, math.floor(lowest * 10) / 10))
    body = [*_scales(axes, numbers, x_name, y_name)]
    for at, line in enumerate(dict.fromkeys(point.line for point in known)):
        body += _line(axes, [point for point in known if point.line == line], at)
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    font = 'font-family="Helvetica, Arial, sans-serif" font-size="13"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font} fill="{_INK}">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>', *body, "</svg>", ""])


def _scales(axes: _Axes, numbers: Sequence[int], x_name: str, y_name: str) -> Iterator[str]:
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    for tenth in range(round(axes.y_low * 10), 11):
        y = axes.y(tenth / 10)
        yield f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="{_GRID}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tenth / 10:.1f}</text>'
    for number in numbers:
        yield f'<text x="{axes.x(number):.1f}" y="{bottom + 18}" text-anchor="middle">{number}</text>'
    middle = (_LEFT + right) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_name)}</text>'
    yield f'<text transform="translate(18 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>'


def _line(axes: _Axes, points: Sequence[Point], at: int) -> Iterator[str]:
    """A line with its intervals, a few pixels beside those of the others, and its name."""
    colour, aside = _COLOURS[at % len(_COLOURS)], 3 * (at - 1)
    ordered = sorted(points, key=lambda point: point.x)
    places = [(axes.x(point.x) + aside, axes.y(point.figure.value)) for point in ordered]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for (x, y), point in zip(places, ordered, strict=True):
        low, high = axes.y(point.figure.low), axes.y(point.figure.high)
        yield f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{colour}" stroke-width="1.2"/>'
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
    top = _TOP + 12 + 20 * at
    yield f'<text x="{WIDTH - _RIGHT + 18}" y="{top}" fill="{colour}">{escape(ordered[0].line)}</text>'
