"""A bundle with a graph in another precision beside its own: the same folder, one file and its parity more."""

import fcntl
import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import tomli_w

from ecgbatch import files
from ecgbatch.bundle import VARIANTS, Bundle
from ecgbatch.errors import OutputError
from ecgbatch.parity import Parity
from ecgbatch.train import place

__all__ = ["add", "card"]


def add(bundle: Bundle, precision: str, graph: Path, parity: Parity, out: Path) -> Bundle:
    """Write the bundle with this graph to `out` and load it.

    `out` is new, and then whole or not at all, or the bundle's own folder, which is a bundle at every moment.

    Raises:
        OutputError: the folder cannot be written, or another process is writing it.
    """
    out = out.resolve()
    with files.writing(out):
        if out.exists() and out.samefile(bundle.folder):
            with _alone(out):
                _add_content(out, precision, graph, parity)
        else:
            _write_new(bundle, precision, graph, parity, out)
    return Bundle.load(out)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder for one process, without a file in it."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as err:
        raise OutputError(f"{folder}: another process is writing this bundle; wait for it") from err
    finally:
        os.close(held)


def _write_new(bundle: Bundle, precision: str, graph: Path, parity: Parity, out: Path) -> None:
    with place.filled(out) as folder:
        for path in filter(Path.is_file, bundle.folder.iterdir()):
            shutil.copyfile(path, folder / path.name)  # without the mode: what ships may be read-only
        _add_content(folder, precision, graph, parity)


def _add_content(folder: Path, precision: str, graph: Path, parity: Parity) -> None:
    """Add the graph; before it takes the place of another one, the bundle no longer claims that."""
    name, toml, page = VARIANTS[precision], folder / "bundle.toml", folder / "CARD.md"
    raw = graph.read_bytes()
    content = tomllib.loads(toml.read_text("utf-8"))
    others = {each: found for each, found in content.get("parity", {}).items() if each != precision}
    if content["hashes"].pop(name, None) is not None:
        _replace(toml, tomli_w.dumps({**content, "parity": others}).encode())
    _replace(folder / name, raw)
    content["hashes"][name] = files.sha256(folder / name)
    _replace(toml, tomli_w.dumps({**content, "parity": {**others, precision: asdict(parity)}}).encode())
    if page.exists():
        _replace(page, card(page.read_text("utf-8"), precision, parity).encode())


def _replace(path: Path, content: bytes) -> None:
    with files.replaced(path) as partial:
        partial.write_bytes(content)


def card(text: str, precision: str, parity: Parity) -> str:
    """The card with this parity in place of an earlier one."""
    heading = f"## In {precision}"
    before, _, rest = text.partition(f"\n{heading}\n")
    after = re.search(r"^## ", rest, re.MULTILINE)
    others = "\n" + rest[after.start() :].rstrip() + "\n" if after else ""
    return f"{before.rstrip()}\n{others}\n{heading}\n\n```\n{parity.table(precision)}\n```\n"
