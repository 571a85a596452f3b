"""What the benchmarks are fed: archives of good synthetic records of one size, and a network that costs nothing."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from ecgbatch import archive, formats
from ecgbatch.archive import Entry
from ecgbatch.bundle import Bundle, InputSpec, Label
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Record
from ecgbatch.synth import muse_xml, record, wfdb_files

__all__ = ["CONTAINERS", "SPEC", "entries", "linked_archive", "tiny_bundle", "write_archive"]

CONTAINERS = ("muse-xml", "wfdb")
SPEC = InputSpec(
    leads=INDEPENDENT_LEADS, fs_hz=250, seconds=10.0, min_seconds=5.0, scale_mv=(0.2,) * len(INDEPENDENT_LEADS), clip=20
)
"""Input of the shipped model in all that costs time: 500 Hz records come down to 8 leads of 2500 samples."""

_N_DISTINCT = 400
"""Records that are computed; the others are copies in files of their own, as cold to the processor's caches."""
_PER_FOLDER = 1000


def write_archive(folder: Path, container: str, n: int) -> None:
    """Write `n` records of 10 s at 500 Hz: MUSE XML of 8 leads, or WFDB format 16 of 12."""
    for index in range(n):
        parent = folder / f"{index // _PER_FOLDER:03}"
        parent.mkdir(parents=True, exist_ok=True)
        for name, content in _files(container, f"r{index:06}", seed=index % _N_DISTINCT).items():
            (parent / name).write_bytes(content)


def into_page_cache(folder: Path) -> None:
    """Read every file once."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def entries(folder: Path) -> list[Entry]:
    """The entries of an archive, as a run plans them."""
    return list(archive.scan([folder], companions=formats.companions, skip=folder / "none"))


def linked_archive(folder: Path, n: int) -> None:
    """`n` entries of small MUSE XML files (5 s at 100 Hz), all of them links to a few hundred."""
    originals = []
    for index in range(n):
        path = folder / f"{index // _PER_FOLDER:03}" / f"r{index:06}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index < _N_DISTINCT:
            path.write_bytes(muse_xml(record(seed=index, fs_hz=100, seconds=5)))
            originals.append(path)
        else:
            os.link(originals[index % _N_DISTINCT], path)


def tiny_bundle(folder: Path) -> Bundle:
    """A bundle with the shipped model's input and number of outputs, and a network of next to no operations."""
    import torch

    from ecgbatch.network import Network
    from ecgbatch.train import export

    codes = [f"LABEL{index}" for index in range(40)]
    arguments: dict[str, Any] = {
        "n_leads": len(SPEC.leads),
        "n_labels": len(codes),
        "widths": [8, 8, 16],
        "depths": [1, 1],
        "kernel": 3,
        "stem_kernel": 5,
        "squeezed": [False, True],
        "dropout": 0.0,
    }
    torch.manual_seed(0)
    network = Network(**arguments).eval()
    bundle = Bundle(
        folder=folder,
        name="tiny",
        version="0",
        licence="none",
        input=SPEC,
        labels=tuple(_label(code) for code in codes),
        network=arguments,
        training={"data": "none"},
        hashes={},
    )
    return export.write(bundle, network, card="Random weights, for load tests.\n")


def _files(container: str, stem: str, *, seed: int) -> dict[str, bytes]:
    if container == "wfdb":
        return wfdb_files(_record(seed, LEADS), stem)
    return {f"{stem}.xml": muse_xml(_record(seed, INDEPENDENT_LEADS))}


@lru_cache(maxsize=_N_DISTINCT)
def _record(seed: int, leads: tuple[str, ...]) -> Record:
    return record(seed=seed, fs_hz=500, seconds=10, leads=leads)


def _label(code: str) -> Label:
    nan = float("nan")
    return Label(
        code=code,
        name=code,
        threshold=0.5,
        slope=1.0,
        intercept=0.0,
        n_train=0,
        n_test=0,
        auc=nan,
        auc_low=nan,
        auc_high=nan,
    )
