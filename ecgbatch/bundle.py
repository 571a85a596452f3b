"""A model bundle: a folder that holds a model and everything known about it."""

import csv
import hashlib
import os
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ecgbatch import files
from ecgbatch.errors import BundleError
from ecgbatch.parity import Parity
from ecgbatch.record import LEADS

__all__ = [
    "SHIPPED",
    "VARIANTS",
    "Bundle",
    "InputSpec",
    "Label",
    "Parent",
    "ended_in",
    "find",
    "is_bundle",
    "shipped",
    "trunk_of",
]

SHIPPED = Path(__file__).parent / "engines"
_HASHED = ("labels.csv", "weights.safetensors", "model.onnx", "golden.parquet")
_KEYS = {"name", "version", "licence", "input", "network", "training", "hashes"}
_OPTIONAL_KEYS = {"parent", "parity"}
VARIANTS = {"int8": "model.int8.onnx"}
"""Other graphs of the same model that a bundle may hold, by precision; each with its parity to `model.onnx`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What a model demands of its input; the kernels turn any record into it."""

    leads: tuple[str, ...]
    fs_hz: int
    seconds: float
    """The first so many seconds of a longer record; a shorter one is padded with zeros at its end."""
    min_seconds: float
    """A record shorter than this is a reject."""
    scale_mv: tuple[float, ...]
    """Each lead's divisor in mV, so that inputs have roughly unit variance and amplitude survives."""
    clip: float
    """Scaled values are limited to ± this."""
    filter: str = "none"
    """What is done beyond the resampler's own low-pass: `none`, or `offset`, which takes off each lead's mean over the
    seconds that the model looks at."""

    def __post_init__(self) -> None:
        if unknown := [lead for lead in self.leads if lead not in LEADS]:
            raise BundleError(f"input leads {unknown}, expected some of {', '.join(LEADS)}")
        if len(self.scale_mv) != len(self.leads) or min(self.scale_mv, default=0) <= 0:
            raise BundleError(f"input scale_mv {self.scale_mv!r}, expected one positive number a lead")
        if self.samples < 1 or self.samples != self.seconds * self.fs_hz:
            raise BundleError(f"input of {self.seconds} s at {self.fs_hz} Hz is not a whole number of samples")
        if not 0 < self.min_seconds <= self.seconds or self.clip <= 0:
            raise BundleError(f"input min_seconds {self.min_seconds}, clip {self.clip}, expected positive and in range")
        if self.filter not in ("none", "offset"):
            raise BundleError(f"input filter {self.filter!r}, expected 'none' or 'offset'")

    @property
    def samples(self) -> int:
        return round(self.seconds * self.fs_hz)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One output of a model: probability = sigmoid(slope * logit + intercept)."""

    code: str
    name: str
    threshold: float
    """Probability at and above which the label is called."""
    slope: float
    """Calibration; positive, so that the order of scores is kept."""
    intercept: float
    n_train: int
    """Positives in the training split."""
    n_test: int
    """Positives in the split that the figures below come from."""
    auc: float
    """NaN where the test split has too few positives."""
    auc_low: float
    auc_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The bundle whose embedding a head-only bundle reads."""

    name: str
    sha256: str
    """Of the parent's `model.onnx`."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.sha256, str) or {"/", "\\"} & {*self.name}:
            raise BundleError(f"parent {self.name!r}, expected the name of a bundle and the sha256 of its model.onnx")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model that can be scored with: input, labels, calibration and provenance."""

    folder: Path
    name: str
    version: str
    licence: str
    input: InputSpec
    labels: tuple[Label, ...]
    network: Mapping[str, Any]
    """Arguments of `network.Network`, which loads `weights.safetensors`; of a head, those of `network.head`."""
    training: Mapping[str, Any]
    hashes: Mapping[str, str]
    """sha256 of each file the figures depend on."""
    parent: Parent | None = None
    """Where the bundle is a head only: its `model.onnx` maps the parent's embedding to logits."""
    parity: Mapping[str, Parity] = field(default_factory=dict)
    """By precision, of each of `VARIANTS` that the folder holds."""

    @classmethod
    def load(cls, folder: Path) -> "Bundle":
        """Read and check a bundle folder.

        Raises:
            BundleError: not a bundle, an unknown key, a value of the wrong kind, a file missing or altered.
        """
        raw = _read_toml(folder / "bundle.toml")
        try:
            return cls._checked(folder, raw)
        except (TypeError, ValueError, ArithmeticError, AttributeError, KeyError) as err:
            raise BundleError(f"bundle {folder.name!r}: a value of the wrong kind: {err}") from err

    @classmethod
    def _checked(cls, folder: Path, raw: Mapping[str, Any]) -> "Bundle":
        _same_keys(f"bundle {folder.name!r}", raw, _KEYS | (_OPTIONAL_KEYS & set(raw)))
        parity = {precision: Parity(**found) for precision, found in raw.get("parity", {}).items()}
        _same_keys(
            f"bundle {folder.name!r}, parity", parity, {p for p, name in VARIANTS.items() if name in raw["hashes"]}
        )
        for name in (*_HASHED, *(VARIANTS[precision] for precision in parity)):
            found = _sha256(folder / name)
            if found != raw["hashes"].get(name):
                raise BundleError(f"bundle {folder.name!r}: {name} is not the file its hash was taken of")
        _same_keys(f"bundle {folder.name!r}, input", raw["input"], {f.name for f in fields(InputSpec)})
        spec = raw["input"]
        labels = tuple(_read_labels(folder / "labels.csv"))
        if twice := [code for code, n in Counter(label.code for label in labels).items() if n > 1]:
            raise BundleError(f"bundle {folder.name!r}: label {twice[0]!r} is listed more than once")
        return cls(
            folder=folder,
            name=raw["name"],
            version=raw["version"],
            licence=raw["licence"],
            input=InputSpec(**{**spec, "leads": tuple(spec["leads"]), "scale_mv": tuple(spec["scale_mv"])}),
            labels=labels,
            network=raw["network"],
            training=raw["training"],
            hashes=raw["hashes"],
            parent=Parent(**raw["parent"]) if "parent" in raw else None,
            parity=parity,
        )

    @property
    def codes(self) -> list[str]:
        return [label.code for label in self.labels]

    @property
    def fingerprint(self) -> str:
        """Changes with anything that can change a score in fp32; a run states its precision beside it."""
        hashes = sorted(item for item in self.hashes.items() if item[0] not in VARIANTS.values())
        made_of = (self.name, self.version, self.input, hashes)
        return hashlib.sha256(repr(made_of if self.parent is None else (*made_of, self.parent)).encode()).hexdigest()

    @cached_property
    def _calibration(self) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.array([label.slope for label in self.labels], np.float32),
            np.array([label.intercept for label in self.labels], np.float32),
        )

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated float32 (record, label) of float32 logits (record, label)."""
        slope, intercept = self._calibration
        return 1 / (1 + np.exp(-(slope * logits + intercept)))


def find(name: str) -> Bundle:
    """The bundle of that folder, the shipped one of that name, or the one that a training in that folder ended in.

    Raises:
        BundleError: there is none.
    """
    folder = Path(name)
    places = [folder] if "/" in name else [folder, SHIPPED / name]
    for place in (*places, ended_in(folder)):
        if place is not None and is_bundle(place):
            return Bundle.load(place)
    known = ", ".join(bundle.name for bundle in shipped()) or "none"
    raise BundleError(f"model {name!r}: no such bundle folder, nor a shipped bundle (there are: {known})")


def ended_in(training: Path) -> Path | None:
    """The bundle that a training in that folder has ended in; none where there are several, and none of checkpoints."""
    if not os.path.isfile(training / "checkpoint.safetensors"):  # noqa: PTH113  # Path.is_file raises where it may not look
        return None
    made = [found.parent for found in training.glob("*/bundle.toml")]
    ended = [folder for folder in made if not folder.name.startswith((".", "checkpoint-"))]
    return ended[0] if len(ended) == 1 else None


def trunk_of(bundle: Bundle, others: Sequence[Bundle] = ()) -> Bundle:
    """The bundle whose network makes the embedding: itself, or a head's parent.

    A parent is looked for among the others, in the folder that the head's folder lies in, and among the shipped ones.

    Raises:
        BundleError: the parent is nowhere, is another one than the head was trained on, or a head itself.
    """
    if bundle.parent is None:
        return bundle
    wanted = bundle.parent
    found = [other for other in others if other.name == wanted.name]
    found += [Bundle.load(at / wanted.name) for at in (bundle.folder.parent, SHIPPED) if is_bundle(at / wanted.name)]
    where = f"bundle {bundle.name!r}: its parent {wanted.name!r}"
    if not found:
        raise BundleError(f"{where} is not shipped, nor beside it, nor another model; name its folder as a model too")
    same = [parent for parent in found if parent.hashes["model.onnx"] == wanted.sha256]
    if not same:
        has, expected = found[0].hashes["model.onnx"][:12], wanted.sha256[:12]
        raise BundleError(f"{where} has model.onnx {has}…, expected {expected}…; name that one as a model")
    if same[0].parent is not None or same[0].input != bundle.input:
        raise BundleError(f"{where} is a head or takes another input, expected the whole network it was trained on")
    return same[0]


def is_bundle(folder: Path) -> bool:
    """Whether that folder can be seen to claim to be a bundle."""
    return os.path.isfile(folder / "bundle.toml")  # noqa: PTH113  # Path.is_file raises where it may not look


def shipped() -> Iterator[Bundle]:
    """The bundles that come with the package, by name."""
    for path in sorted(SHIPPED.glob("*/bundle.toml")):
        yield Bundle.load(path.parent)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise BundleError(f"bundle {path.parent.name!r}: bundle.toml cannot be read: {err}") from err


def _same_keys(where: str, found: Mapping[str, Any], expected: set[str]) -> None:
    if wrong := set(found) ^ expected:
        raise BundleError(
            f"{where}: unknown or missing {', '.join(sorted(wrong))}, expected {', '.join(sorted(expected))}"
        )


def _sha256(path: Path) -> str:
    try:
        return files.sha256(path)
    except OSError as err:
        raise BundleError(f"bundle {path.parent.name!r}: {path.name} cannot be read: {err.strerror}") from err


def _read_labels(path: Path) -> Iterator[Label]:
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines)
        _same_keys(
            f"bundle {path.parent.name!r}, labels.csv",
            dict.fromkeys(rows.fieldnames or ()),
            {f.name for f in fields(Label)},
        )
        for row in rows:
            label = Label(**{f.name: f.type(row[f.name]) for f in fields(Label)})  # type: ignore[operator]
            if not label.slope > 0:
                raise BundleError(
                    f"bundle {path.parent.name!r}: label {label.code!r} has slope {label.slope}, expected > 0"
                )
            yield label
