"""A bundle with a graph in another precision beside its own: the same folder, one file and its parity more."""

import re
import shutil
import tomllib
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import tomli_w

from ecgbatch import parts
from ecgbatch.bundle import VARIANTS, Bundle
from ecgbatch.errors import OutputError
from ecgbatch.parity import Parity

__all__ = ["add"]


def add(bundle: Bundle, precision: str, graph: Path, parity: Parity, out: Path) -> Bundle:
    """Write the bundle with this graph to `out`, whole or not at all, and load it.

    `out` is new, or the bundle's own folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    is_own = out.exists() and out.samefile(bundle.folder)
    partial, old = (out.with_name(f".{out.name}.{state}") for state in ("partial", "old"))
    try:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        for path in filter(Path.is_file, bundle.folder.iterdir()):
            shutil.copyfile(path, partial / path.name)  # without the mode: what ships may be read-only
        _write_content(partial, precision, graph, parity)
        if is_own:
            out.rename(old)
        partial.rename(out)
    except OSError as err:
        raise OutputError(f"{out}: cannot be written: {parts.cause(err)}") from err
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
    return Bundle.load(out)


def _write_content(folder: Path, precision: str, graph: Path, parity: Parity) -> None:
    name, toml, card = VARIANTS[precision], folder / "bundle.toml", folder / "CARD.md"
    shutil.copyfile(graph, folder / name)
    content = tomllib.loads(toml.read_text("utf-8"))
    content["hashes"][name] = sha256(graph.read_bytes()).hexdigest()
    content.setdefault("parity", {})[precision] = asdict(parity)
    toml.write_text(tomli_w.dumps(content), "utf-8")
    if card.exists():
        card.write_text(_card(card.read_text("utf-8"), precision, parity), "utf-8")


def _card(text: str, precision: str, parity: Parity) -> str:
    """The card with this parity in place of an earlier one."""
    heading = f"## In {precision}"
    before, _, rest = text.partition(f"\n{heading}\n")
    after = re.search(r"^## ", rest, re.MULTILINE)
    others = "\n" + rest[after.start() :].rstrip() + "\n" if after else ""
    return f"{before.rstrip()}\n{others}\n{heading}\n\n```\n{parity.table(precision)}\n```\n"
