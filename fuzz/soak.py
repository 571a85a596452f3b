"""Long campaigns against every decoder: build the targets under sanitisers, run them, and say what they found.

Exits with 1 where anything was: a crash, a leak, an input that took a second or far more memory than it justifies.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import atheris
import nanobind

ROOT = Path(__file__).parents[1]
FUZZ, BUILD = ROOT / "fuzz", ROOT / "build" / "soak"
PYTHON_TARGETS = ("decode", "container")
SANITISERS = "-g -fno-omit-frame-pointer -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all"
NOT_IN_ATHERIS = "-fno-sanitize=function,vptr"  # whose runtime is another version of clang's
LIMITS = ("-timeout=5", "-report_slow_units=1", "-malloc_limit_mb=256", "-rss_limit_mb=4096", "-max_len=40000")
"""A second is reported as slow; it takes five to end the campaign, for other tenants' load counts too."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a campaign came to."""

    target: str
    n_runs: int
    n_edges: int
    seconds: float
    findings: Counter[str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="of each campaign")
    parser.add_argument("--jobs", type=int, default=2, help="campaigns at once")
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    options = parser.parse_args()
    build_targets()
    build_module()
    run(sys.executable, FUZZ / "seeds.py", BUILD / "seeds")
    targets = options.target or [*PYTHON_TARGETS, *sorted(path.name for path in (BUILD / "bin").iterdir())]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda target: campaign(target, options.seconds), targets))
    print(table(results))
    return 1 if any(result.findings for result in results) else 0


def build_targets() -> None:
    """`build/soak/bin`: a program a kernel."""
    configure(FUZZ, BUILD / "targets", f"-DCMAKE_RUNTIME_OUTPUT_DIRECTORY={BUILD / 'bin'}")


def build_module() -> None:
    """`build/soak/python`: the package over kernels under sanitisers."""
    package = BUILD / "python" / "ecgbatch"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "ecgbatch", package, ignore=shutil.ignore_patterns("*.so", "engines", "__pycache__"))
    configure(
        ROOT,
        BUILD / "module",
        f"-DCMAKE_CXX_FLAGS={SANITISERS} {NOT_IN_ATHERIS}",
        f"-Dnanobind_DIR={nanobind.cmake_dir()}",
        f"-DPython_EXECUTABLE={sys.executable}",
    )
    run("cmake", "--install", BUILD / "module", "--prefix", BUILD / "python")


def configure(source: Path, build: Path, *definitions: str) -> None:
    run("cmake", "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_CXX_COMPILER={clang()}", *definitions)
    run("cmake", "--build", build, "--parallel", "2")


def clang() -> str:
    """The newest clang++ at hand."""
    names = ("clang++", *(f"clang++-{version}" for version in range(21, 13, -1)))
    if found := next(filter(None, map(shutil.which, names)), None):
        return found
    sys.exit("soak: no clang++, expected one with libFuzzer; install clang")


def campaign(target: str, seconds: int) -> Result:
    """One target, from its seeds and what earlier campaigns kept of it on."""
    corpus, findings, log = BUILD / "corpus" / target, BUILD / "findings" / target, BUILD / "logs" / f"{target}.txt"
    for folder in (corpus, findings, log.parent, BUILD / "seeds" / target):
        folder.mkdir(parents=True, exist_ok=True)
    options = [*LIMITS, f"-max_total_time={seconds}", "-print_final_stats=1", f"-artifact_prefix={findings}/"]
    arguments = [*map(str, (corpus, BUILD / "seeds" / target)), *options]
    started = perf_counter()
    with log.open("w") as lines:
        if target in PYTHON_TARGETS:
            command = [sys.executable, str(FUZZ / "target.py"), target, *arguments]
            status = subprocess.run(command, env=sanitised(), stdout=lines, stderr=lines, check=False).returncode
        else:
            status = subprocess.run(
                [BUILD / "bin" / target, *arguments], stdout=lines, stderr=lines, check=False
            ).returncode
    took_s = perf_counter() - started
    text = log.read_text("utf-8", "replace")
    kinds = Counter(path.name.rpartition("-")[0] for path in findings.iterdir())
    if status and not kinds:
        kinds["failed"] = 1
    if target in PYTHON_TARGETS:
        kinds["memory"] = wasteful(target, corpus)
    edges = [int(n) for n in re.findall(r"\bcov: (\d+)", text)]
    runs = [int(n) for n in re.findall(r"^#(\d+)\s", text, re.MULTILINE)]
    return Result(target, max(runs, default=0), max(edges, default=0), took_s, +kinds)


def wasteful(target: str, corpus: Path) -> int:
    """How many inputs of a corpus take more memory than they justify."""
    found = run(sys.executable, FUZZ / "memory.py", target, corpus)
    print(found, end="", file=sys.stderr)
    return len(found.splitlines())


def sanitised() -> dict[str, str]:
    """The environment of a Python whose kernels are under sanitisers."""
    runtime = Path(atheris.path()) / "asan_with_fuzzer.so"
    own = {"LD_PRELOAD": str(runtime), "PYTHONMALLOC": "malloc", "PYTHONPATH": str(BUILD / "python")}
    # Python itself keeps what it has, so leaks are sought in the kernels' own targets; and while a large process finds
    # names for the addresses of a crash, the alarm that ends slow inputs may end it, before the input is kept.
    return {**os.environ, **own, "ASAN_OPTIONS": "detect_leaks=0:symbolize=0"}


def run(*command: object) -> str:
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"soak: {command[0]} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def table(results: list[Result]) -> str:
    """One row a target, as docs/hostile.md shows it."""
    rows = [
        f"| {result.target} | {_spaced(result.n_runs)} | {_spaced(result.n_edges)} | {result.seconds:.0f} s | "
        f"{', '.join(f'{n} {kind}' for kind, n in sorted(result.findings.items())) or 'none'} |"
        for result in results
    ]
    return "\n".join(["| target | inputs | edges | time | findings |", "| --- | ---: | ---: | ---: | --- |", *rows])


def _spaced(n: int) -> str:
    return f"{n:,}".replace(",", " ")


if __name__ == "__main__":
    sys.exit(main())
