"""How every benchmark here measures: what is compared takes turns in one run, and no single value is thrown away."""

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Spread", "arguments", "interleaved", "ratios", "spread", "write"]

_LIBRARIES = (
    "ecgbatch",
    "cuda-core",
    "lxml",
    "numpy",
    "nvidia-dali-cuda130",
    "onnx",
    "openvino",
    "polars",
    "pyarrow",
    "scipy",
    "tensorrt",
    "torch",
    "wfdb",
    "xxhash",
)

Spread = dict[str, Any]
"""`median`, `min`, `max` and `all` of a quantity's values, one a round."""


def arguments(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="values of each quantity (default %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file for the result, e.g. benchmarks/results/NAME.json")
    return parser


def interleaved(subjects: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """One value of every subject a round; each round begins with another one, so that none is always first."""
    values: dict[str, list[float]] = {name: [] for name in subjects}
    order = list(subjects)
    for at in range(rounds):
        for name in order[at % len(order) :] + order[: at % len(order)]:
            values[name].append(subjects[name]())
    return {name: values[name] for name in order}


def spread(values: Iterable[float]) -> Spread:
    """Median and range of some values, and the values."""
    kept = list(values)
    return {"median": median(kept), "min": min(kept), "max": max(kept), "all": kept}


def ratios(one: Spread, other: Spread) -> Spread:
    """`one / other`, round by round: what slows a whole round down cancels out."""
    return spread(a / b for a, b in zip(one["all"], other["all"], strict=True))


def write(path: Path | None, name: str, settings: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """The result of benchmark `name` with everything about its circumstances, also as JSON in `path`."""
    result = {
        "benchmark": name,
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu(),
            "instructions": _instructions(),
            "cores": os.cpu_count(),
            "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "settings": dict(settings),
        **measured,
    }
    result = _rounded(result)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return result


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _instructions() -> str:
    """The widest that the kernels and the engines may use; empty where none is known."""
    flags = set(Path("/proc/cpuinfo").read_text("utf-8").split())
    known = {"avx512_vnni": "AVX-512 VNNI", "avx512f": "AVX-512", "avx_vnni": "AVX2 VNNI", "avx2": "AVX2"}
    return next((name for flag, name in known.items() if flag in flags), "")


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _rounded(value: Any) -> Any:
    """Six significant digits: more than any measurement has, and files that a person can read."""
    match value:
        case float():
            return float(f"{value:.6g}")
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
    return value
