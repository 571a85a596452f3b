"""The DALI operator: compiled once for the DALI and the compilers at hand, kept in the cache, loaded where it fits.

    CACHE/dali/<fingerprint>/operator.so      both backends, or the CPU's alone where there is no nvcc
                             operator.json    facts, sha256 of the library, what each GPU kernel takes

The fingerprint is that of the sources and of everything that compiles them: another one of these is another operator.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ecgbatch import engine_cache
from ecgbatch.errors import EngineError, MissingExtraError
from ecgbatch.files import beside, sha256, sync_all

__all__ = ["ARCHITECTURES", "REMEDY", "Kernel", "Operator", "build", "found", "kernels", "load"]

ARCHITECTURES = (80, 90, 100)
"""Compute capabilities that are compiled for: A100, H100 and B200; the last one's PTX serves those after it."""

REMEDY = "run `ecgbatch doctor --build-operator`"

_SOURCES = Path(__file__).parents[1] / "kernels"
_HEADERS = ("clones.h", "dali_operator.h", "launch.h", "normalise.h", "recipe.h", "sample.h")
_OF_DALI = ("dali_operator_cpu.cc", "dali_operator_gpu.cc")
_OF_GPU = ("dali_operator_gpu.cc", "launch.cu")
_UNITS: Mapping[str, tuple[str, ...]] = {
    "dali_operator_cpu.cc": (),
    "dali_operator_gpu.cc": (),
    "launch.cu": (),
    "normalise.cpp": ("-ffinite-math-only", "-fno-signed-zeros"),
    "recipe.cpp": (),
}
"""What is compiled, with the flags of its own that CMakeLists.txt gives it too."""
_FLAGS = ("-std=c++20", "-O3", "-w")
_HOST_FLAGS = ("-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math")
_LIBRARY, _FACTS = "operator.so", "operator.json"


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the GPU kernel takes on one architecture, as `ptxas` reports it."""

    architecture: str
    registers: int
    """Of a thread; up to 64 leave a multiprocessor half full or more."""
    spilled_bytes: int
    """Stored and loaded because registers did not suffice."""


@dataclass(frozen=True, slots=True)
class Operator:
    """A compiled operator."""

    library: Path
    facts: Mapping[str, str]
    kernels: tuple[Kernel, ...]
    """One an architecture; none where it was compiled without nvcc, for CPUs only."""


def build(*, say: Callable[[str], None] = lambda _: None) -> Operator:
    """The operator for the DALI and compilers at hand, compiled unless it is in the cache already.

    Raises:
        MissingExtraError: DALI is not installed.
        EngineError: there is no compiler, it fails, or the cache cannot be written.
    """
    facts = _facts()
    folder = _folder(facts)
    try:
        return _checked(folder, facts)
    except EngineError:
        say(f"compiling the DALI operator with {facts['compiler']}" + ("" if _has_nvcc(facts) else ", for CPUs only"))
    try:
        with beside(folder) as partial:
            log = _compile(partial / _LIBRARY, has_nvcc=_has_nvcc(facts))
            _write(partial, facts, kernels(log))
            _take_place(partial, folder, facts)
    except OSError as err:
        raise EngineError(f"cache {folder.parent}: cannot be written: {err.strerror}") from err
    return _checked(folder, facts)


def found() -> Operator:
    """The operator for the DALI and compilers at hand, from the cache.

    Raises:
        MissingExtraError: DALI is not installed.
        EngineError: there is none, or it is not as it was built.
    """
    facts = _facts()
    return _checked(_folder(facts), facts)


@cache
def load(library: Path) -> None:
    """Have DALI know the operator; once a process.

    Raises:
        EngineError: DALI does not take it.
    """
    from nvidia.dali import plugin_manager

    try:
        plugin_manager.load_library(str(library))
    except RuntimeError as err:
        raise EngineError(f"DALI operator {library}: {str(err).splitlines()[0]}; {REMEDY}") from err


def kernels(log: str) -> tuple[Kernel, ...]:
    """What `ptxas -v` says of each architecture."""
    per_architecture = re.findall(
        r"Compiling entry function '\S+' for '(sm_\d+)'.*?"
        r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        log,
        re.DOTALL,
    )
    found = [
        Kernel(name, int(registers), int(stored) + int(loaded)) for name, stored, loaded, registers in per_architecture
    ]
    return tuple(sorted(found, key=lambda kernel: int(kernel.architecture.removeprefix("sm_"))))


def _facts() -> dict[str, str]:
    """All that an operator depends on."""
    if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:
        raise MissingExtraError("the DALI feed", "dali")
    import nvidia.dali
    from nvidia.dali import sysconfig

    sources = hashlib.sha256()
    for name in sorted((*_HEADERS, *_UNITS)):
        sources.update(name.encode() + b"\0" + (_SOURCES / name).read_bytes())
    return {
        "sources": sources.hexdigest(),
        "dali": f"{nvidia.dali.__version__} for CUDA {_cuda_major()}",
        "abi": " ".join(flag for flag in sysconfig.get_compile_flags() if flag.startswith("-D")),
        "compiler": _version("g++", r"^(.+)$") or "none",
        "nvcc": _nvcc() or "none",
    }


def _cuda_major() -> str:
    from nvidia.dali import __cuda_version__

    return str(__cuda_version__)[:2]


def _nvcc() -> str | None:
    """Version of an nvcc of DALI's CUDA; another one's code could not share its streams and memory."""
    version = _version("nvcc", r"release [\d.]+, V([\d.]+)")
    return version if version and version.partition(".")[0] == _cuda_major() else None


def _has_nvcc(facts: Mapping[str, str]) -> bool:
    return facts["nvcc"] != "none"


@cache
def _version(program: str, pattern: str) -> str | None:
    if not shutil.which(program):
        return None
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(pattern, said, re.MULTILINE)
    return match[1] if match else None


def _folder(facts: Mapping[str, str]) -> Path:
    return engine_cache.folder() / "dali" / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _checked(folder: Path, facts: Mapping[str, str]) -> Operator:
    """The operator in a folder.

    Raises:
        EngineError: it is not there, not whole, or not the one that was built.
    """
    told = f"DALI {facts['dali']}, {facts['compiler']}, nvcc {facts['nvcc']}"
    try:
        content = json.loads((folder / _FACTS).read_text("utf-8"))
        is_its_own = content["library"] == sha256(folder / _LIBRARY) and content["facts"] == facts
        found_kernels = tuple(Kernel(**kernel) for kernel in content["kernels"])
    except FileNotFoundError:
        raise EngineError(f"DALI operator: none built for {told}; {REMEDY}") from None
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise EngineError(f"DALI operator {folder}: cannot be read: {err}; {REMEDY}") from err
    if not is_its_own:
        raise EngineError(f"DALI operator {folder}: altered since it was built; {REMEDY}")
    return Operator(folder / _LIBRARY, facts, found_kernels)


def _write(folder: Path, facts: Mapping[str, str], found_kernels: tuple[Kernel, ...]) -> None:
    """Facts beside the library, and both on the disk."""
    content = {
        "facts": facts,
        "library": sha256(folder / _LIBRARY),
        "kernels": [asdict(kernel) for kernel in found_kernels],
    }
    (folder / _FACTS).write_text(json.dumps(content, indent=2), "utf-8")
    sync_all(folder)


def _take_place(partial: Path, folder: Path, facts: Mapping[str, str]) -> None:
    """Rename a whole operator into its place, unless another builder was faster; what was altered makes way."""
    while True:
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        else:
            return
        with suppress(EngineError):
            _checked(folder, facts)
            return
        aside = tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent)
        with suppress(FileNotFoundError):  # another builder has moved it
            folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _compile(library: Path, *, has_nvcc: bool) -> str:
    """Compile and link the operator; what the compilers said.

    Raises:
        EngineError: there is no compiler, or it fails.
    """
    from nvidia.dali import sysconfig

    if not shutil.which("g++"):
        raise EngineError("DALI operator: no g++ on the path, expected a compiler of C++20; install one")
    include, *defines = sysconfig.get_compile_flags()
    of_dali = ["-isystem", include.removeprefix("-I"), *defines]
    host = ["g++", *_FLAGS, *_HOST_FLAGS]
    cuda = ["nvcc", *_FLAGS, f"-Xcompiler={','.join(_HOST_FLAGS)}", *_codes()]
    with tempfile.TemporaryDirectory() as scratch:
        commands = []
        for name, own in _UNITS.items():
            if name in _OF_GPU and not has_nvcc:
                continue
            headers = of_dali if name in _OF_DALI else []
            if headers and not has_nvcc:
                headers = [*headers, *_cuda_headers()]
            compiler = cuda if has_nvcc and name in (*_OF_DALI, *_OF_GPU) else host  # nvcc knows where its headers are
            commands.append([*compiler, *own, *headers, "-c", str(_SOURCES / name), "-o", f"{scratch}/{name}.o"])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            said = list(pool.map(_run, commands))
        objects = [command[-1] for command in commands]
        _run(["nvcc" if has_nvcc else "g++", "-shared", *objects, *sysconfig.get_link_flags(), "-o", str(library)])
    return "\n".join(said)


def _codes() -> list[str]:
    machine_codes = [f"-gencode=arch=compute_{at},code=sm_{at}" for at in ARCHITECTURES]
    return [*machine_codes, f"-gencode=arch=compute_{ARCHITECTURES[-1]},code=compute_{ARCHITECTURES[-1]}", "-Xptxas=-v"]


def _cuda_headers() -> list[str]:
    """Where those lie that DALI's include, if there is no nvcc that brings them: in packages of NVIDIA's.

    Raises:
        EngineError: they are not there.
    """
    for place in sys.modules["nvidia"].__path__:
        folder = Path(place) / f"cu{_cuda_major()}" / "include"
        if (folder / "cuda_runtime_api.h").exists():
            return ["-isystem", str(folder), "-isystem", str(folder / "cccl")]
    raise MissingExtraError("compiling the DALI operator (CUDA's headers)", "dali")


def _run(command: list[str]) -> str:
    """What a compiler says.

    Raises:
        EngineError: it fails.
    """
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        errors = [line for line in ran.stderr.splitlines() if "error" in line] or [f"exit code {ran.returncode}"]
        raise EngineError(f"DALI operator: {command[0]} failed: {errors[0]}")
    return ran.stdout + ran.stderr
