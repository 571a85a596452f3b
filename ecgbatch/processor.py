"""The processor, as the system names it and what it can do."""

import platform
from pathlib import Path

__all__ = ["facts", "flags", "name"]


def facts() -> dict[str, str]:
    """What Linux tells of the first core, by its own names; nothing on another system."""
    try:
        told = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in told.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def name() -> str:
    """The model, or else the architecture."""
    return facts().get("model name") or platform.machine()


def flags() -> set[str]:
    """Instruction sets and the like by Linux's names: `avx512_vnni`, `asimddp`."""
    told = facts()
    return {*told.get("flags", told.get("Features", "")).split()}
