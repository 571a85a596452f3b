"""A bundle of one new label from few ECGs: cross-validated, calibrated on what folds left out, then trained on all.

    ecgbatch train finetune cohort.parquet --from foundation --label brugada --out bundles
    ecgbatch train probe runs/2024 labels.csv --label brugada --out bundles

Of depth `head` and `probe` the bundle is a head on its parent's network, which `score` runs once for all its heads.
"""

import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ecgbatch.bundle import Bundle, Label, Parent
from ecgbatch.errors import UsageError
from ecgbatch.network import Network
from ecgbatch.runtimes import eager
from ecgbatch.train import calibrate, export, figures, metrics, place, probe, tuned_card
from ecgbatch.train.arms import Arm, Budget, Known, Pretrained, learn, on_all
from ecgbatch.train.device import chosen
from ecgbatch.train.figures import Figure
from ecgbatch.train.folds import folds
from ecgbatch.train.task import Task
from ecgbatch.train.training import predict

__all__ = ["DEPTHS", "Depth", "Making", "depth", "finetune", "known_of", "pretrained_of", "probe_embeddings"]

Depth = Literal["all", "last", "head", "probe"]
DEPTHS: tuple[Depth, ...] = get_args(Depth)
VERSION = "1.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How a bundle of one label is to be made and called."""

    parent: Bundle
    depth: Depth
    name: str
    title: str
    """What the label stands for."""
    licence: str
    command: str
    n_folds: int = 5
    seed: int = 1

    def __post_init__(self) -> None:
        if self.parent.parent is not None:
            raise UsageError(
                f"model {self.parent.name!r}: is a head on {self.parent.parent.name!r}; start from that one"
            )
        place.require_name(self.name)
        if self.name == self.parent.name:
            raise UsageError(f"name {self.name!r}: its parent's, expected one of its own; give another --name")
        if self.n_folds < 2:
            raise UsageError(f"{self.n_folds} folds, expected at least 2")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Judged:
    """What cross-validation says."""

    logits: np.ndarray
    """(record,): of networks that have not seen the patient."""
    auc: Figure
    precision: Figure
    epochs: list[int]
    rates: list[float]


def depth(asked: str) -> Depth:
    """The depth of that name.

    Raises:
        UsageError: there is none.
    """
    found = next((one for one in DEPTHS if one == asked), None)
    if found is None:
        raise UsageError(f"depth {asked!r}, expected one of {', '.join(DEPTHS)}")
    return found


def pretrained_of(parent: Bundle) -> Pretrained:
    """The network of a bundle, to begin with."""
    return Pretrained(network=eager.load(parent).network, arguments=parent.network, spec=parent.input)


def known_of(task: Task, pretrained: Pretrained) -> Known:
    """The records of a task, with the pre-trained network's embedding of each."""
    return Known(x=task.x, embedding=predict(pretrained.network, [task.x])[1], y=task.y, patients=task.patients)


def finetune(task: Task, making: Making, budget: Budget, out: Path, *, say: Callable[[str], None]) -> Bundle:
    """Write the bundle of a task to `out` / its name.

    Raises:
        UsageError: too few patients for the folds.
        OutputError: the bundle cannot be written there; known before anything is trained.
    """
    place.require(out / making.name)
    for line in task.doubts.lines:
        say(line)
    pretrained = pretrained_of(making.parent)
    known = known_of(task, pretrained)
    arm: Arm = "probe" if making.depth == "probe" else "finetune"
    judged = _judged(arm, pretrained, known, budget, making=making, say=say)
    if arm == "probe":
        network = pretrained.headed(probe.chosen(known.embedding, known.y, known.patients, seed=making.seed))
    else:
        epochs, rate = _epochs(judged.epochs, making.depth), Counter(judged.rates).most_common(1)[0][0]
        say(f"all {len(known.y)} ECGs · {epochs} epochs at rate {rate:g}")
        network = on_all(arm, pretrained, known, budget, rate=rate, epochs=epochs, seed=making.seed)
    facts = {"provenance": task.provenance, "data_sha256": task.sha256, "left_out": task.left_out, **task.doubts.facts}
    return _write(making, known, judged, network, code=task.code, facts=facts, out=out)


def _epochs(chosen: Sequence[int], depth: Depth) -> int:
    """Of the training on all ECGs: the median of those that were chosen in the folds.

    Raises:
        UsageError: mostly none was better than no training; but a head begins as the probe, which may be best.
    """
    median = float(np.median(chosen))
    if depth == "head":
        return round(median)
    if not median:
        raise UsageError("no epoch of training was better than none, expected some; try another --rate or --depth")
    return max(1, round(median))


def probe_embeddings(
    embedding: np.ndarray,
    y: np.ndarray,
    patients: np.ndarray,
    making: Making,
    out: Path,
    *,
    code: str,
    facts: Mapping[str, Any],
    say: Callable[[str], None],
) -> Bundle:
    """The same of depth `probe`, of embeddings (record, feature) that a run has stored."""
    pretrained = pretrained_of(making.parent)
    known = Known(x=np.empty((len(y), 0, 0), np.float32), embedding=embedding, y=y, patients=patients)
    nothing = Budget(epochs=1, rates=(1.0,), depth="head", batch=2, device=chosen("cpu"))  # a probe spends none of it
    judged = _judged("probe", pretrained, known, nothing, making=making, say=say)
    network = pretrained.headed(probe.chosen(embedding, y, patients, seed=making.seed))
    return _write(making, known, judged, network, code=code, facts=facts, out=out)


def _judged(
    arm: Arm, pretrained: Pretrained, known: Known, budget: Budget, *, making: Making, say: Callable[[str], None]
) -> _Judged:
    """Cross-validate the whole procedure, its choices included."""
    fold = folds(known.y, known.patients, n_folds=making.n_folds, seed=making.seed)
    told = np.empty(len(known.y))
    epochs, rates, aucs, precisions = [], [], [], []
    weight = figures.resamples(known.patients)
    for at in range(making.n_folds):
        seen, judged = known.only(fold != at), fold == at
        assert not set(seen.patients) & set(known.patients[judged])
        learnt = learn(arm, pretrained, seen, budget, seed=making.seed + at)
        told[judged] = learnt.logits(known.only(judged))
        epochs.append(learnt.epochs)
        rates.append(learnt.rate)
        truth = known.y[judged]
        aucs.append(figures.auc(truth, told[judged], weight[:, judged]))
        precisions.append(figures.average_precision(truth, told[judged], weight[:, judged]))
        how = f"penalty {learnt.rate:g}" if arm == "probe" else f"{learnt.epochs} epochs at rate {learnt.rate:g}"
        say(f"fold {at + 1} of {making.n_folds} · AUC {aucs[-1][0]:.3f} · {how}")
    return _Judged(
        logits=told,
        auc=figures.figure(figures.mean(aucs)),
        precision=figures.figure(figures.mean(precisions)),
        epochs=epochs,
        rates=rates,
    )


def _write(
    making: Making,
    known: Known,
    judged: _Judged,
    network: Network,
    *,
    code: str,
    facts: Mapping[str, Any],
    out: Path,
) -> Bundle:
    parent = making.parent
    is_head = making.depth in ("head", "probe")
    truth, told = known.y[:, None].astype(np.float32), judged.logits[:, None]
    (slope,), (intercept,) = calibrate.platt(truth, told)
    probability = 1 / (1 + np.exp(-(slope * told + intercept)))
    threshold = float(calibrate.thresholds(truth, probability)[0])
    n_positive = int(known.y.sum())
    label = Label(
        code=code,
        name=making.title,
        threshold=threshold,
        slope=float(slope),
        intercept=float(intercept),
        n_train=n_positive,
        n_test=n_positive,
        auc=judged.auc.value,
        auc_low=judged.auc.low,
        auc_high=judged.auc.high,
    )
    bundle = Bundle(
        folder=out / making.name,
        name=making.name,
        version=VERSION,
        licence=making.licence,
        input=parent.input,
        labels=(label,),
        network={"n_features": network.head.in_features, "n_labels": 1}
        if is_head
        else {**parent.network, "n_labels": 1},
        training=_facts(making, known, judged, facts),
        hashes={},
        parent=Parent(name=parent.name, sha256=parent.hashes["model.onnx"]) if is_head else None,
    )
    is_called = probability[:, 0] >= threshold
    weight = figures.resamples(known.patients)
    card = tuned_card.text(
        bundle,
        parent,
        auc=judged.auc,
        precision=judged.precision,
        sensitivity=_share(is_called, known.patients, weight, known.y),
        specificity=_share(~is_called, known.patients, weight, ~known.y),
        brier=float(((probability - truth) ** 2).mean()),
    )
    return export.write(bundle, network, card=card)


def _share(is_hit: np.ndarray, patients: np.ndarray, weight: np.ndarray, of: np.ndarray) -> Figure:
    """Of some records, the share that are hits."""
    draws = figures.share(is_hit[of], weight[:, of])
    value = float(draws[0])
    return Figure(value, *metrics.share_interval(draws[1:], value, len(np.unique(patients[of]))))


def _facts(making: Making, known: Known, judged: _Judged, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the bundle's [training] table says."""
    choices = {"penalties": judged.rates} if making.depth == "probe" else _schedule(judged.epochs, judged.rates)
    return {
        **facts,
        "parent_name": making.parent.name,
        "parent_version": making.parent.version,
        "parent_fingerprint": making.parent.fingerprint,
        "parent_provenance": str(making.parent.training.get("provenance", "not stated")),
        "depth": making.depth,
        "n_records": len(known.y),
        "n_patients": len(set(known.patients)),
        "n_positive": int(known.y.sum()),
        "n_folds": making.n_folds,
        "seed": making.seed,
        **choices,
        "python": platform.python_version(),
        **{library: version(library) for library in ("torch", "numpy", "ecgbatch")},
        "command": making.command,
    }


def _schedule(epochs: Sequence[int], rates: Sequence[float]) -> dict[str, Any]:
    return {"epochs": list(epochs), "rates": list(rates)}
