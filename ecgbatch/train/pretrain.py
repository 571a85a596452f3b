"""A foundation bundle from labelled ECGs, the whole way: data, split, training, calibration, report, bundle.

On the command line:

    ecgbatch train pretrain ptbxl.parquet --out DIR --name foundation --epochs 60 --seed 1 --batch 64

`out` holds `split.parquet`, `checkpoint.safetensors`, `tensorboard/`, and at the end the bundle in a folder so named.
"""

import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric

from ecgbatch.bundle import Bundle, InputSpec, Label
from ecgbatch.errors import UsageError
from ecgbatch.network import Network, gflop_per_ecg
from ecgbatch.output import exclusive
from ecgbatch.record import INDEPENDENT_LEADS
from ecgbatch.runtimes import eager
from ecgbatch.train import calibrate, card, device, evaluation, export, metrics, place, processes, sources, split
from ecgbatch.train.architecture import ARCHITECTURE
from ecgbatch.train.cohort import Cohort, Doubts, commonest, n_unknown_patients, one_person
from ecgbatch.train.evaluation import Evaluation
from ecgbatch.train.labels import Labels
from ecgbatch.train.logbook import Logbook
from ecgbatch.train.scored import Scored
from ecgbatch.train.split import Split
from ecgbatch.train.statements import NAMES
from ecgbatch.train.stream import Inputs, Stream
from ecgbatch.train.survey import survey
from ecgbatch.train.training import Recipe, Training, predict

__all__ = ["calibrated", "card_of", "prepared", "pretrain"]

FS_HZ = 250
SECONDS = 10.0
MIN_SECONDS = 5.0
"""Training cuts records down to this; below it, rates and rhythms are guesses from a handful of beats."""
CLIP = 20.0
"""Standard deviations: 3.2 to 6.6 mV, above the largest QRS complexes; only artefacts are cut."""
N_POSITIVES = 20
CHECKPOINT_S = 300.0
VERSION = "1.0.0"
_KEPT = (".lock", "checkpoint.safetensors", "split.parquet", "tensorboard")
"""What stands beside the bundle."""
GROUPS = ("sex", "age", "device", "device_model")
"""Columns of a cohort whose groups the card tells apart."""


def _unsaid(_: str) -> None:
    """Say nothing."""


def pretrain(
    data: Sequence[str | Path],
    out: Path,
    *,
    labels: Labels | None = None,
    columns: Sequence[str] = (),
    folds: str | None = None,
    name: str = "foundation",
    leads: tuple[str, ...] = INDEPENDENT_LEADS,
    architecture: Mapping[str, Any] = ARCHITECTURE,
    recipe: Recipe,
    n_positives: int = N_POSITIVES,
    licence: str = "not stated",
    command: str = "not stated",
    on: str = "auto",
    checkpoint_s: float = CHECKPOINT_S,
    is_resumed: bool = False,
    say: Callable[[str], None] = _unsaid,
) -> Bundle:
    """Train a network on the training side of a cohort and write its bundle to `out / name`.

    The epoch, the calibration and the thresholds are chosen on the choosing side, and the reporting side is scored
    once, at the end. `licence` is that of the data, which the weights carry. On several devices `say` is pickled.

    Raises:
        UsageError: the cohort cannot be trained on, or `out` holds a training and `is_resumed` says otherwise.
        OutputError: the bundle cannot be written there, or another process trains there, which is known before
            anything is read or trained; or the disk has become full.
    """
    place.require_name(name)
    if name in _KEPT:
        raise UsageError(f"name {name!r}: what a training keeps beside its bundle is called so; give another --name")
    where = device.chosen(on, recipe.devices)
    checkpoint = _checkpoint(out, is_resumed)
    place.require(out / name)
    with exclusive(out):
        parts, spec = prepared(
            sources.read(data, labels=labels, columns=columns), leads, folds, recipe.seed, n_positives
        )
        if not is_resumed:
            parts.write(out / "split.parquet")
        for line in Doubts(n_without_patient=n_unknown_patients(parts.cohort.patients)).lines:
            say(line)
        say(f"{_summary(parts)} · {where}")
        _require_enough(parts, recipe, n_devices=where.n)
        train, choose = (Inputs(parts.of(side), spec) for side in ("train", "choose"))
        recipe = replace(recipe, data_sha256=parts.cohort.sha256, split_sha256=parts.sha256)
        arguments = {"n_leads": len(leads), "n_labels": len(parts.cohort.codes), **architecture}
        facts = {
            "provenance": parts.cohort.provenance,
            "licence": licence,
            "command": command,
            "input": asdict(spec),
            "codes": parts.cohort.codes,
        }
        begin = partial(Training, arguments, recipe, facts=facts)
        from_ = checkpoint if is_resumed else None
        train_on = partial(_trained, begin, train, choose, out, checkpoint_s=checkpoint_s, from_=from_, say=say)
        if where.n == 1:
            training = train_on(where.fabric())
        else:
            processes.launch(where.fabric(), train_on)
            training = begin()
            training.resume(checkpoint)
        told = {
            "data": ", ".join(Path(source).name for source in data),
            "folds": folds or ("the cohort's own" if parts.cohort.folds is not None else "by patient, stratified"),
            "n_positives": n_positives,
            **_facts(parts, training),
            "device": str(where),
            "command": command,
        }
        return _written(out / name, training, parts, choose, told=told, licence=licence, say=say)


def _require_enough(parts: Split, recipe: Recipe, *, n_devices: int) -> None:
    """Nothing, where there are ECGs to train on for each device, and some to choose the epoch by.

    Raises:
        UsageError: there are not.
    """
    if (n_train := int((parts.side == "train").sum())) < n_devices:
        raise UsageError(f"training: {n_train} ECGs to train on, expected one at least for each of {n_devices} devices")
    targets = parts.of("choose").targets
    if recipe.epochs > 1 and np.isnan(metrics.macro_auc(targets, np.zeros_like(targets))):
        few = f"no label has {metrics.JUDGED} positives and a negative on the side that chooses the epoch"
        raise UsageError(f"cohort: {few}, expected one at least; give more ECGs, other --folds, or --epochs 1")


def _written(
    folder: Path,
    training: Training,
    parts: Split,
    choose: Inputs,
    *,
    told: Mapping[str, Any],
    licence: str,
    say: Callable[[str], None],
) -> Bundle:
    """The bundle of the best network, calibrated on the choosing side and judged on the reporting side."""
    network = training.best_network()
    bundle = Bundle(
        folder=folder,
        name=folder.name,
        version=VERSION,
        licence=licence,
        input=choose.spec,
        labels=calibrated(parts, choose, network),
        network=training.network_arguments,
        training=told,
        hashes={},
    )
    report = _judged(bundle, parts, network)
    say(f"macro AUC of the reporting side: {card.macro(report)}")
    bundle = replace(bundle, labels=_with_figures(bundle.labels, report))
    return export.write(bundle, network, card=_card(bundle, network, report))


def _trained(
    begin: Callable[..., Training],
    train: Inputs,
    choose: Inputs,
    out: Path,
    fabric: Fabric,
    *,
    checkpoint_s: float,
    from_: Path | None,
    say: Callable[[str], None],
) -> Training:
    """A training at its end, whose checkpoint, events and progress the first of all processes keeps and tells."""
    training = begin(fabric=fabric)
    recipe, share = training.recipe, slice(fabric.global_rank, None, fabric.world_size)
    stream = Stream(train, batch=recipe.batch, seed=recipe.seed, share=share)
    if from_ is not None:
        training.resume(from_)
    if fabric.global_rank > 0:
        while not training.is_finished:
            training.run_epoch(stream, choose)
        return training
    with closing(Logbook(training, stream.n_steps, out, checkpoint_s=checkpoint_s, say=say)) as logbook:
        while not training.is_finished:
            training.run_epoch(stream, choose, after_step=logbook.step)
            logbook.epoch()
    return training


def card_of(
    bundle: Bundle, data: Sequence[str | Path], *, labels: Labels | None = None, columns: Sequence[str] = ()
) -> str:
    """The card of a bundle that `pretrain` made, its figures taken anew from its weights and the data it came from.

    Raises:
        UsageError: the bundle was not made of these data, or not by `pretrain`.
    """
    facts = bundle.training
    where = f"bundle {bundle.name!r}"
    if not {"folds", "split_sha256"} <= set(facts) or "calibration" in facts:
        raise UsageError(f"{where}: calibrated again, or not the end of a training, expected one of train pretrain")
    folds = facts["folds"] if re.match(r"\d", facts["folds"]) else None
    cohort = sources.read(data, labels=labels, columns=columns)
    parts, _ = prepared(cohort, bundle.input.leads, folds, facts["seed"], facts["n_positives"])
    made_of = {name: facts[name] for name in ("data_sha256", "split_sha256")}
    if made_of != {"data_sha256": parts.cohort.sha256, "split_sha256": parts.sha256} or (
        list(parts.cohort.codes) != bundle.codes
    ):
        raise UsageError(f"{where}: was made of other data, or of another split of them")
    network = eager.load(bundle).network
    return _card(bundle, network, _judged(bundle, parts, network))


def _judged(bundle: Bundle, parts: Split, network: Network) -> Evaluation:
    """What calibrated scores are worth on the reporting side."""
    judge = Inputs(parts.of("report"), bundle.input, cached_bytes=0)  # it is read once
    judged = judge.cohort
    scored = Scored(
        model={},
        labels=tuple({"code": each.code, "name": each.name, "threshold": each.threshold} for each in bundle.labels),
        probability=bundle.probabilities(predict(network, judge.each(judge.blocks))[0]),
        is_positive=judged.targets,
        patients=judged.patients,
        groups=judged.columns,
        facts={},
    )
    return evaluation.measure(scored, by=[name for name in GROUPS if name in judged.columns.columns])


def _checkpoint(out: Path, is_resumed: bool) -> Path:
    """Where the training is kept."""
    path = out / "checkpoint.safetensors"
    is_there = os.path.exists(path)  # noqa: PTH110  # Path.exists raises where it may not look
    if is_there and not is_resumed:
        raise UsageError(f"{out}: holds a training, expected none; resume it or choose another folder")
    if is_resumed and not is_there:
        raise UsageError(f"{out}: holds no training, expected one to resume")
    return path


def prepared(
    cohort: Cohort, leads: tuple[str, ...], folds: str | None, seed: int, n_positives: int
) -> tuple[Split, InputSpec]:
    """The records that can be used and their sides, with the labels that are common enough; and the model's input."""
    spec = InputSpec(
        leads=leads,
        fs_hz=FS_HZ,
        seconds=SECONDS,
        min_seconds=MIN_SECONDS,
        scale_mv=(1.0,) * len(leads),
        clip=CLIP,
        filter="offset",
    )
    surveyed = survey(cohort.known(), spec)
    usable = surveyed.cohort
    if not len(usable):
        raise UsageError(f"cohort: no ECG can be used; left out: {_left_out(usable)}")
    if folds is not None or usable.folds is not None:
        given = split.by_folds(usable, folds)
        side = split.once(given, surveyed.waveforms)
        repeated = {"standing on a later side too": int((side != given).sum())}
        usable = replace(usable, left_out={**usable.left_out, **repeated})
        patients, used = usable.patients.copy(), side != ""  # of which no waveform is on two sides
        patients[used] = one_person(patients[used], surveyed.waveforms[used])
        usable = replace(usable, patients=patients)
    else:
        usable = replace(usable, patients=one_person(usable.patients, surveyed.waveforms))
        side = split.stratified(usable, seed=seed)
    codes = commonest(usable.only(np.flatnonzero(side == "train")), n_positives=n_positives)
    if not codes:
        raise UsageError(f"cohort: no label has {n_positives} training positives; ask for less with --min-positives")
    scale_mv = surveyed.scale_mv(np.flatnonzero(side == "train"))
    return Split(usable.labelled(codes), side), replace(spec, scale_mv=scale_mv)


def _summary(parts: Split) -> str:
    cohort = parts.cohort
    sides = ", ".join(f"{int((parts.side == side).sum())} {side}" for side in split.SIDES)
    return (
        f"{len(cohort)} ECGs of {len(set(cohort.patients))} patients: {sides} · {len(cohort.codes)} labels"
        f" · left out: {_left_out(cohort)}"
    )


def _left_out(cohort: Cohort) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in cohort.left_out.items() if n) or "none"


def _card(bundle: Bundle, network: Network, report: Evaluation) -> str:
    n_parameters = sum(weights.numel() for weights in network.parameters())
    gflop = gflop_per_ecg(network, n_leads=len(bundle.input.leads), n_samples=bundle.input.samples)
    return card.text(bundle, report, n_parameters=n_parameters, gflop=gflop)


def calibrated(parts: Split, choose: Inputs, network: Network) -> tuple[Label, ...]:
    """The labels, calibrated on the choosing side, without figures yet."""
    chosen = choose.cohort
    logits = predict(network, choose.each(choose.blocks))[0]
    slope, intercept = calibrate.platt(chosen.targets, logits)
    threshold = calibrate.thresholds(chosen.targets, calibrate.sigmoid(slope * logits + intercept))
    n_train = np.nansum(parts.of("train").targets, axis=0)
    return tuple(
        Label(
            code=code,
            name=NAMES.get(code, code),
            threshold=float(threshold[at]),
            slope=float(slope[at]),
            intercept=float(intercept[at]),
            n_train=int(n_train[at]),
            n_test=0,
            auc=float("nan"),
            auc_low=float("nan"),
            auc_high=float("nan"),
        )
        for at, code in enumerate(chosen.codes)
    )


def _with_figures(labels: Sequence[Label], report: Evaluation) -> tuple[Label, ...]:
    figures = zip(labels, card.labels(report), strict=True)
    return tuple(
        replace(label, n_test=row["n_positive"], auc=row["auc"], auc_low=row["auc_low"], auc_high=row["auc_high"])
        for label, row in figures
    )


def _facts(parts: Split, training: Training) -> dict[str, Any]:
    """What the bundle's [training] table says of the cohort, the recipe, the choice of epoch and the libraries."""
    return {
        "provenance": parts.cohort.provenance,
        **{f"n_{side}": int((parts.side == side).sum()) for side in split.SIDES},
        "left_out": _left_out(parts.cohort),
        **Doubts(n_without_patient=n_unknown_patients(parts.cohort.patients)).facts,
        **asdict(training.recipe),
        "best_epoch": training.best_epoch,
        "macro_auc_choose": round(training.history[training.best_epoch - 1]["auc_choose"], 4),
        "python": platform.python_version(),
        **{library: version(library) for library in ("torch", "numpy", "onnxscript", "ecgbatch")},
    }
