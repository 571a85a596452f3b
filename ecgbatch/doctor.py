"""What is installed, what this machine can do, and whether every engine and feed it can run says what it should."""

import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ecgbatch import admission, archive, bundle, engine_cache, formats, processor, synth
from ecgbatch.bundle import Bundle
from ecgbatch.cores import n_cores
from ecgbatch.errors import EcgbatchError, EngineError
from ecgbatch.plan import Shard
from ecgbatch.runtimes import open_engine, open_head

__all__ = ["Check", "Examination", "build_operator", "examined", "told"]

_EXTRAS = ("default", "train", "dali", "gpu", "remote")
"""Those for users; `default` is there always."""
_REQUIREMENT = re.compile(r"([\w.-]+)[^;]*(?:;.*\bextra == ['\"](\w+)['\"])?")
_FLAGS = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One self-test of what this machine could run."""

    name: str
    is_passed: bool | None
    """None for what could not be tested yet."""
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """All that was found."""

    libraries: tuple[tuple[str, str, str | None], ...]
    """Extra, name and version of each; None where it is not installed."""
    devices: tuple[str, ...]
    checks: tuple[Check, ...]


def examined() -> Examination:
    """Look at everything, and test what can be run."""
    return Examination(libraries=tuple(_libraries()), devices=tuple(_devices()), checks=tuple(_checks()))


def build_operator(*, say: Callable[[str], None]) -> str:
    """Compile the DALI operator; a line that says where it lies and what its GPU kernels take.

    Raises:
        EcgbatchError: DALI or a compiler is missing, or it does not compile.
    """
    from ecgbatch.feed import dali_operator

    made = dali_operator.build(say=say)
    kernels = [
        f"{kernel.architecture}: {kernel.registers} registers, {kernel.spilled_bytes} B spilled"
        for kernel in made.kernels
    ]
    return f"operator: {made.library} ({'; '.join(kernels) or 'CPU only: no nvcc'})"


def told(found: Examination) -> str:
    """The examination for a person."""
    lines = [f"Python {platform.python_version()} · {platform.platform()}", ""]
    for extra in _EXTRAS:
        own = [(name, has) for of, name, has in found.libraries if of == extra]
        listed = " · ".join(f"{name} {has}" for name, has in own if has) or "none"
        absent = [name for name, has in own if not has]
        missing = f"; not installed: {', '.join(absent)} (pip install 'ecgbatch[{extra}]')" if absent else ""
        lines.append(f"{extra:<8} {listed}{missing}")
    lines += ["", *found.devices, ""]
    verdict = {True: "passed", False: "FAILED", None: "not run"}
    lines += [f"{verdict[check.is_passed]:<8}{check.name}: {check.detail}" for check in found.checks]
    return "\n".join(lines)


def _cuda_devices() -> list[str]:
    """Each GPU that the driver knows, as a device: `cuda:0`."""
    return [device for device in (line.partition(",")[0] for line in _gpus()) if device[5:].isdigit()]


def _libraries() -> Iterator[tuple[str, str, str | None]]:
    """What the package itself says that it needs."""
    needed = [found.groups("default") for found in map(_REQUIREMENT.match, requires("ecgbatch") or ()) if found]
    yield "default", "ecgbatch", version("ecgbatch")
    for extra in _EXTRAS:
        for name in sorted(name for name, of in needed if of == extra and name != "ecgbatch"):
            try:
                yield extra, name, version(name)
            except PackageNotFoundError:
                yield extra, name, None


def _devices() -> Iterator[str]:
    """A line for the processor and for each graphics processor."""
    flags = ", ".join(sorted(_FLAGS & processor.flags()))
    yield f"cpu: {processor.name()}, {n_cores()} cores, {flags or 'no vector flags known'}"
    yield from _gpus()


def _gpus() -> list[str]:
    """A line for each NVIDIA GPU, as the driver's own tool tells."""
    if shutil.which("nvidia-smi") is None:
        return ["cuda: no NVIDIA driver"]
    asked = ["nvidia-smi", "--query-gpu=index,name,memory.total,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as err:
        return [f"cuda: nvidia-smi does not answer: {err}"]
    if said.returncode:
        return [f"cuda: nvidia-smi: {(said.stdout or said.stderr).strip().splitlines()[0]}"]
    return [f"cuda:{line}" for line in said.stdout.strip().splitlines()]


def _checks() -> Iterator[Check]:
    for shipped in bundle.shipped():
        if shipped.parent is None:
            yield from _engines(shipped)
        else:
            yield _tested(f"{shipped.name} on cpu", partial(_head, shipped))
    model = bundle.find("foundation")
    if find_spec("torch"):
        yield _tested(f"{model.name} in PyTorch, the oracle", partial(_oracle, model))
    if find_spec("nvidia") and find_spec("nvidia.dali"):
        yield from _dali(model)


def _engines(shipped: Bundle) -> Iterator[Check]:
    for precision in ("fp32", *(("int8",) if _has_int8(shipped) else ())):
        yield _tested(f"{shipped.name} on cpu in {precision}", partial(_engine, shipped, "cpu", precision))
    for device in _cuda_devices():
        yield from _on_gpu(shipped, device)


def _has_int8(shipped: Bundle) -> bool:
    """Whether it ships in int8, or an engine lies in the cache; one that is not to be trusted fails its test."""
    from ecgbatch.runtimes import cpu

    try:
        return "int8" in shipped.parity or engine_cache.kept(cpu.facts(shipped, "int8")) is not None
    except EngineError:
        return True


def _on_gpu(shipped: Bundle, device: str) -> Iterator[Check]:
    """A check of each engine that was built for that GPU; where there is none, what is to be done first."""
    from ecgbatch.runtimes import on_gpu

    name = f"{shipped.name} on {device}"
    try:
        from ecgbatch.runtimes import trt  # noqa: F401
    except EngineError as err:
        yield Check(name=name, is_passed=None, detail=str(err))
        return
    try:
        precisions = list(on_gpu.kept(shipped, device))
    except EngineError as err:
        yield Check(name=name, is_passed=False, detail=str(err))
        return
    if not precisions:
        build = f"`ecgbatch build {shipped.name} --device {device}`"
        yield Check(name=name, is_passed=None, detail=f"no engine was built; run {build}")
    for precision in precisions:
        yield _tested(f"{name} in {precision}", partial(_engine, shipped, device, precision))


def _tested(name: str, test: Callable[[], float]) -> Check:
    """The check of a test that returns the largest difference from the reference scores, or raises."""
    try:
        return Check(name=name, is_passed=True, detail=f"within {test():.1e} of the reference scores")
    except (EcgbatchError, ImportError, OSError, RuntimeError) as err:  # libraries raise the last
        return Check(name=name, is_passed=False, detail=str(err).splitlines()[0])


def _engine(model: Bundle, device: str, precision: str) -> float:
    engine = admission.admitted(open_engine(model, device, precision))
    x, expected = admission.reference(model)
    return _worst(model.probabilities(engine(x)[0]), expected)


def _head(model: Bundle) -> float:
    engine = open_engine(bundle.trunk_of(model), "cpu", "fp32")
    head = admission.admitted_head(open_head(model, engine), engine)
    x, expected = admission.reference(model)
    return _worst(model.probabilities(head(engine(x)[1])), expected)


def _oracle(model: Bundle) -> float:
    from ecgbatch.runtimes import eager

    x, expected = admission.reference(model)
    return _require_near(_worst(model.probabilities(eager.load(model)(x)[0]), expected))


def _dali(model: Bundle) -> Iterator[Check]:
    from ecgbatch.feed import dali_operator

    for device in ("cpu", *_cuda_devices()):
        name = f"feed dali on {device}"
        try:
            kernels = dali_operator.found().kernels
        except EcgbatchError as err:
            yield Check(name=name, is_passed=None, detail=str(err))
            continue
        if device == "cpu" or kernels:
            yield _tested(name, partial(_fed_alike, model, device))
        else:
            yield Check(name=name, is_passed=None, detail="the operator was compiled without nvcc, for CPUs only")


def _fed_alike(model: Bundle, device: str) -> float:
    """The largest difference of DALI's model input from the host's, on synthetic files of two rates."""
    from ecgbatch.feed import open_feed

    with TemporaryDirectory() as name:
        for at, fs_hz in enumerate((500, 250)):
            (Path(name) / f"{at}.xml").write_bytes(synth.muse_xml(synth.record(seed=at, fs_hz=fs_hz)))
        entries = list(archive.scan([name], companions=formats.companions, skip=Path(name) / "none"))
        feeds = [
            open_feed(feed, [model.input], device=on, size=len(entries), workers=1)
            for feed, on in (("host", "cpu"), ("dali", device))
        ]
        host, dali = [next(iter(feed([Shard(index=0, entries=entries)]))).x[model.input] for feed in feeds]
    return _require_near(_worst(host, dali if isinstance(dali, np.ndarray) else np.asarray(dali.as_cpu())))


def _require_near(worst: float) -> float:
    if not worst <= 1e-4:
        raise EngineError(f"reference scores missed by {worst:.2g}, expected at most 1e-4")
    return worst


def _worst(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max())
