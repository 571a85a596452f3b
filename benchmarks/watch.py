"""A command and its resident memory, read from /proc ten times a second."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter, sleep

__all__ = ["watched"]

_EVERY_S = 0.1


def watched(
    command: Sequence[str], *, expected: int = 0, environment: Mapping[str, str] | None = None
) -> tuple[list[tuple[float, float]], float]:
    """(seconds, MiB) again and again while a command runs, and its peak in MiB; the benchmark ends if it fails."""
    readings, peak_mib = [], 0.0
    started = perf_counter()
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            fields = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
            if "VmRSS" in fields:  # a process that has ended has none
                readings.append((perf_counter() - started, int(fields["VmRSS"].split()[0]) / 1024))
                peak_mib = max(peak_mib, int(fields["VmHWM"].split()[0]) / 1024)
            sleep(_EVERY_S)
        assert process.stderr is not None
        said = process.stderr.read()
    if process.returncode != expected:
        raise SystemExit(f"{command[3:5]}: exit code {process.returncode}: {said.strip()[-2000:]}")
    return readings, peak_mib
