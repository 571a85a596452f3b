"""What `bench` has measured, for a person, a program and a page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from ecgbatch import files
from ecgbatch.errors import UsageError
from ecgbatch.output import write_json
from ecgbatch.tally import spaced

__all__ = ["draw", "table", "whole_numbers", "write"]

_WIDTH, _BAR, _NAMES = 720, 22, 260
_COLOURS = {"feed": "#5a8f3c", "engine": "#0b6fa4", "whole": "#c8502d"}


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers in `8,16,32`.

    Raises:
        UsageError: there is something else in it.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r}, expected whole numbers with commas between them") from None


def table(found: Mapping[str, Any]) -> str:
    """All rates, aligned, a paragraph for the feed, each device, and the whole."""
    return "\n\n".join("\n".join(part) for part in _parts(found))


def _parts(found: Mapping[str, Any]) -> Iterator[list[str]]:
    machine = found["machine"]
    where = f"{machine['processor']}, {_counted(machine['cores'], 'core')}"
    what = f"{spaced(found['n_ecgs'])} ECGs, {found['settings']['sources']}"
    yield [f"{found['model']} {found['version']} · {where} · {what}"]
    feed = found["feed"]
    yield _aligned(
        [("feed", "ECG/s"), *((f"{name}, one core", _rate(rate)) for name, rate in feed["ecg_per_s_one_core"].items())]
        + [
            (f"whole feed, {_counted(int(n), 'worker')}", _rate(rate))
            for n, rate in feed["ecg_per_s_by_workers"].items()
        ]
    )
    for device, told in found["devices"].items():
        yield _aligned([("engines", "ECG/s", "operations/s", "of a matrix product", "of memory"), *_engines(told)])
        if told["transfer"]:
            yield _aligned([("transfer to the device", "ECG/s", "GB/s"), *_transfer(told["transfer"])])
        if told["gpus"]:
            yield _aligned([("GPUs", *told["gpus"]), *_threads(told["gpus"])])
        if told["threads"]:
            yield _aligned([("cores", *told["threads"]), *_threads(told["threads"])])
        for precision, why in told["absent"].items():
            yield [f"{device} {precision}: not measured: {why}"]
    yield _aligned(list(_whole(found)))


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _engines(told: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for engine in told["engines"].values():
        for batch, rate in engine["ecg_per_s_by_batch"].items():
            share = rate / engine["ecg_per_s"]
            yield (
                f"{engine['engine']}, batch {batch}",
                _rate(rate),
                f"{share * engine['operations_per_s'] / 1e9:.0f} G",
                f"{share * engine['share_of_product']:.0%}" if "share_of_product" in engine else "–",
                f"{share * engine['share_of_memory']:.0%}" if "share_of_memory" in engine else "–",
            )
        if "product_operations_per_s" in engine:
            yield ("  its matrix product, 2048³", "–", f"{engine['product_operations_per_s'] / 1e9:.0f} G", "100%", "–")


def _transfer(by_device: Mapping[str, Mapping[str, float]]) -> Iterator[Sequence[str]]:
    for device, sent in by_device.items():
        yield f"{device}, batch {sent['batch']}", _rate(sent["ecg_per_s"]), f"{sent['bytes_per_s'] / 1e9:.2f}"


def _threads(by_precision: Mapping[str, Mapping[str, float]]) -> Iterator[Sequence[str]]:
    for n in next(iter(by_precision.values())):
        yield (n, *(_rate(by_cores[n]) for by_cores in by_precision.values()))


def _whole(found: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    costs = {"kwh_per_million": "kWh a million", "price_per_million": "price a million"}
    known = next(iter(next(iter(found["whole"].values())).values()))["archive_cost"]
    shown = {name: head for name, head in costs.items() if name in known}
    yield (
        "whole runs",
        "ECGs",
        "ECG/s",
        "of the engine",
        "held back by",
        "ECG an hour",
        "hours a million",
        *shown.values(),
    )
    for device, by_precision in found["whole"].items():
        for precision, run in by_precision.items():
            engine = found["devices"][device]["engines"][precision]
            for name in ("archive", "pack"):
                cost = run[f"{name}_cost"]
                yield (
                    f"{engine['engine']}, from the {name}",
                    spaced(run["n_ecgs"][name]),
                    _rate(run["ecg_per_s"][name]),
                    f"{run['ecg_per_s'][name] / engine['ecg_per_s']:.0%}",
                    run["held_back_by"][name],
                    spaced(round(cost["ecg_per_hour"])),
                    f"{cost['hours_per_million']:.2f}",
                    *(f"{cost[each]:.2f}" for each in shown),
                )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _rate(ecg_per_s: float) -> str:
    return spaced(round(ecg_per_s))


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write all figures as JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    write_json(path, dict(found))


def draw(path: Path, found: Mapping[str, Any]) -> None:
    """Write a bar for each rate as SVG.

    Raises:
        OutputError: the file cannot be written.
    """
    bars = list(_bars(found))
    most = max(rate for *_, rate in bars)
    height = _BAR * (len(bars) + 2)
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="Helvetica, Arial, sans-serif" font-size="13">'
    ]
    lines.append(f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>')
    for at, (kind, name, rate) in enumerate(bars):
        y = _BAR * (at + 1)
        length = (_WIDTH - _NAMES - 90) * rate / most
        lines.append(f'<text x="{_NAMES - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        lines.append(
            f'<rect x="{_NAMES}" y="{y + 3}" width="{length:.1f}" height="{_BAR - 6}" fill="{_COLOURS[kind]}"/>'
        )
        lines.append(f'<text x="{_NAMES + length + 6:.1f}" y="{y + 14}">{_rate(rate)}</text>')
    lines.append(f'<text x="{_NAMES}" y="{height - 8}">ECG a second</text></svg>')
    with files.writing(path):
        path.write_text("\n".join(lines) + "\n", "utf-8")


def _bars(found: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    for n, rate in found["feed"]["ecg_per_s_by_workers"].items():
        yield "feed", f"feed, {n} workers", rate
    for device, by_precision in found["whole"].items():
        for precision, run in by_precision.items():
            engine = found["devices"][device]["engines"][precision]
            yield "engine", str(engine["engine"]), engine["ecg_per_s"]
            for name, rate in run["ecg_per_s"].items():
                yield "whole", f"{precision} whole, from the {name}", rate
