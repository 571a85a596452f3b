"""Which engine `auto` is on a CPU, and where the graph of a precision comes from."""

import re
from pathlib import Path

from ecgbatch import engine_cache, parity
from ecgbatch.bundle import SHIPPED, VARIANTS, Bundle
from ecgbatch.cores import n_cores
from ecgbatch.engine_cache import Kept
from ecgbatch.errors import EngineError
from ecgbatch.parity import LIMITS
from ecgbatch.runtimes import cpu

__all__ = ["multiplies_int8", "on_cpu"]

_INT8 = re.compile(r"\b(?:avx2|i8mm)\b")
"""Instructions that multiply and add bytes; without them int8 may well be slower than fp32.

With AVX2 alone, int8 is still twice as fast as fp32; sums are of 16 bits there, hence `train.quantise.STEPS`.
"""


def multiplies_int8(processor: str) -> bool:
    """Whether a processor of these instruction sets has some for int8."""
    return bool(_INT8.search(processor))


def on_cpu(
    bundle: Bundle, precision: str, *, batch: int | None, default: int, n_threads: int | None = None
) -> cpu.CpuEngine:
    """The engine of that precision, or the fastest for `auto`; what `build` has kept comes before what ships.

    A precision with the beginning of a graph's sha256 behind it is that graph and no other. With `n_threads` it uses
    only so many cores, on as many streams as suit them.

    Raises:
        EngineError: it cannot be had, or is not to be trusted.
    """
    asked, _, sha256 = precision.partition(" ")
    if asked not in ("auto", "fp32", "int8"):
        raise EngineError(f"precision {precision!r} on cpu, expected 'auto', 'fp32' or 'int8'")
    chosen = _fastest(bundle) if asked == "auto" else asked
    kept = engine_cache.kept(cpu.facts(bundle, chosen), name=_called(bundle))
    profile = kept.profile if kept and kept.profile and kept.profile.n_cores == n_cores() else None
    return cpu.load(
        bundle,
        batch=batch or (profile.batch if profile else default),
        precision=chosen,
        graph=bundle.folder / "model.onnx" if chosen == "fp32" else _graph(bundle, kept, sha256),
        n_streams=profile.n_streams if profile and n_threads is None else None,
        n_threads=n_threads,
    )


def _called(bundle: Bundle) -> str:
    """What the command line calls it."""
    return bundle.name if bundle.folder.parent == SHIPPED else str(bundle.folder)


def _fastest(bundle: Bundle) -> str:
    """What was measured to be; of a graph that ships and was not measured here, what the processor lets expect."""
    facts = cpu.facts(bundle, "int8")
    kept = engine_cache.kept(facts, name=_called(bundle))
    if kept is not None and kept.profile is not None:
        return "int8" if kept.profile.ecg_per_s > kept.profile.ecg_per_s_fp32 else "fp32"
    shipped = bundle.parity.get("int8")
    is_good = shipped is not None and shipped.keeps(LIMITS["int8"]) and multiplies_int8(facts["processor"])
    return "int8" if is_good else "fp32"


def _graph(bundle: Bundle, kept: Kept | None, sha256: str) -> Path:
    """Where the int8 graph lies whose sha256 begins so, once its parity is seen to be within the limits.

    Raises:
        EngineError: there is none, or it is not.
    """
    name = VARIANTS["int8"]
    if kept is not None and kept.files[name].startswith(sha256):
        return kept.path(name)
    if not bundle.hashes.get(name, "none").startswith(sha256):
        raise EngineError(f"model {bundle.name!r}: its int8 graph is another one, expected that of sha256 {sha256}…")
    if "int8" not in bundle.parity:
        build = f"build one with `ecgbatch build {_called(bundle)} --precision int8 --calibrate SOURCE`"
        raise EngineError(f"model {bundle.name!r}: no int8 graph ships with it nor was built here; {build}")
    parity.require(bundle.parity["int8"], "int8", where=f"model {bundle.name!r}")
    return bundle.folder / name
