"""Which engine `auto` is on a CPU, and where the graph of a precision comes from."""

from dataclasses import dataclass
from pathlib import Path

from ecgbatch import engine_cache, parity
from ecgbatch.bundle import VARIANTS, Bundle
from ecgbatch.engine_cache import Kept
from ecgbatch.errors import EngineError
from ecgbatch.parity import LIMITS, Parity
from ecgbatch.runtimes import cpu

__all__ = ["Profile", "on_cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How an engine runs fastest on this machine, as `build` has measured it."""

    batch: int
    n_streams: int
    ecg_per_s: float
    ecg_per_s_fp32: float
    """Of the engine in fp32, in the same minute."""


def on_cpu(
    bundle: Bundle, precision: str, *, batch: int | None, default: int, n_threads: int | None = None
) -> cpu.CpuEngine:
    """The engine of that precision, or the fastest for `auto`; what `build` has kept comes before what ships.

    With `n_threads` it uses only so many cores, on as many streams as suit them.

    Raises:
        EngineError: it cannot be had, or is not to be trusted.
    """
    if precision not in ("auto", "fp32", "int8"):
        raise EngineError(f"precision {precision!r} on cpu, expected 'auto', 'fp32' or 'int8'")
    chosen = _fastest(bundle) if precision == "auto" else precision
    kept = engine_cache.kept(cpu.facts(bundle, chosen))
    profile = None if kept is None else Profile(**kept.told["profile"])
    return cpu.load(
        bundle,
        batch=batch or (profile.batch if profile else default),
        precision=chosen,
        graph=bundle.folder / "model.onnx" if chosen == "fp32" else _graph(bundle, kept),
        n_streams=profile.n_streams if profile and n_threads is None else None,
        n_threads=n_threads,
    )


def _fastest(bundle: Bundle) -> str:
    kept = engine_cache.kept(cpu.facts(bundle, "int8"))
    if kept is not None:
        profile = Profile(**kept.told["profile"])
        return "int8" if profile.ecg_per_s > profile.ecg_per_s_fp32 else "fp32"
    shipped = bundle.parity.get("int8")
    return "int8" if shipped is not None and shipped.keeps(LIMITS["int8"]) else "fp32"


def _graph(bundle: Bundle, kept: Kept | None) -> Path:
    """Where the int8 graph lies, once its parity is seen to be within the limits.

    Raises:
        EngineError: there is none, or it is not.
    """
    if kept is not None:
        parity.require(Parity(**kept.told["parity"]), "int8", where=f"engine {kept.folder.name}")
        return kept.path(VARIANTS["int8"])
    if "int8" not in bundle.parity:
        build = "build one with `ecgbatch build --precision int8 --calibrate SOURCE`"
        raise EngineError(f"model {bundle.name!r}: no int8 graph ships with it nor was built here; {build}")
    parity.require(bundle.parity["int8"], "int8", where=f"model {bundle.name!r}")
    return bundle.folder / VARIANTS["int8"]
