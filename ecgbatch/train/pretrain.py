"""A foundation bundle from labelled ECGs, the whole way: data, training, calibration, report, bundle.

On the command line:

    ecgbatch train pretrain ptbxl.parquet --out DIR --name foundation --epochs 60 --seed 1 --batch 64

which is no more than

    bundle = pretrain(data, out, name=name, epochs=epochs, seed=seed, batch=batch, is_resumed=resume, say=say)

`out` holds `checkpoint.safetensors`, written after each epoch, and at the end the bundle in a folder of its name.
"""

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ecgbatch.bundle import Bundle, InputSpec, Label
from ecgbatch.errors import UsageError
from ecgbatch.network import Network, gflop_per_ecg
from ecgbatch.record import INDEPENDENT_LEADS
from ecgbatch.train import calibrate, card, cohort, export
from ecgbatch.train.cohort import CHOOSE_FOLDS, REPORT_FOLDS, TRAIN_FOLDS, Cohort
from ecgbatch.train.report import Report, measure
from ecgbatch.train.statements import NAMES
from ecgbatch.train.training import Recipe, Split, Training, predict

__all__ = ["ARCHITECTURE", "pretrain"]

ARCHITECTURE: Mapping[str, Any] = {
    "widths": [32, 64, 96, 128, 160],
    "depths": [2, 2, 2, 1],
    "kernel": 7,
    "stem_kernel": 15,
    "squeezed": [False, False, True, True],
    "dropout": 0.3,
}
"""Arguments of `network.Network` beyond leads and labels."""

FS_HZ = 250
SECONDS = 10.0
MIN_SECONDS = 5.0
"""Training cuts records down to this; below it, rates and rhythms are guesses from a handful of beats."""
CLIP = 20.0
"""Standard deviations: 3.2 to 6.6 mV, above the largest QRS complexes; only artefacts are cut."""
N_POSITIVES = 20
VERSION = "1.0.0"


def pretrain(
    data: Path,
    out: Path,
    *,
    name: str = "foundation",
    epochs: int = 60,
    seed: int = 1,
    batch: int = 64,
    architecture: Mapping[str, Any] = ARCHITECTURE,
    n_positives: int = N_POSITIVES,
    licence: str = "CC-BY-4.0",
    is_resumed: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Train a network on a cohort's training folds and write its bundle to `out / name`.

    The epoch, the calibration and the thresholds are chosen on fold 8, and fold 9 is scored once, at the end. The
    default licence is that of PTB-XL; weights made from other data carry those data's.

    Raises:
        UsageError: the cohort cannot be trained on, or `out` holds a training and `is_resumed` says otherwise.
    """
    checkpoint = _checkpoint(out, is_resumed)
    ecgs = cohort.read(data)
    codes = cohort.codes(ecgs, n_positives=n_positives)
    if not codes:
        raise UsageError(f"{data.name}: no statement has {n_positives} training positives")
    spec = _input_spec(ecgs)
    x, y = cohort.inputs(ecgs, spec), cohort.targets(ecgs, codes)

    recipe = Recipe(epochs=epochs, batch=batch, seed=seed, data_sha256=ecgs.sha256)
    training = Training({"n_leads": len(spec.leads), "n_labels": len(codes), **architecture}, recipe)
    if is_resumed:
        training.resume(checkpoint)
    _run(training, _split(ecgs, x, y, spec), checkpoint, say)

    labels, report = _labels(ecgs, codes, x, y, training.best_network())
    say(f"macro AUC on fold 9: {report.macro}")
    facts = {"data": data.name, "n_positives": n_positives, **_facts(ecgs, training)}
    facts["command"] = (
        f"ecgbatch train pretrain {data.name} --out DIR --name {name} --epochs {epochs} --seed {seed} --batch {batch}"
    )
    bundle = Bundle(
        folder=out / name,
        name=name,
        version=VERSION,
        licence=licence,
        input=spec,
        labels=labels,
        network=training.network_arguments,
        training=facts,
        hashes={},
    )
    return _export(bundle, training.best_network(), report)


def _checkpoint(out: Path, is_resumed: bool) -> Path:
    """Where the training is kept, in a folder that exists."""
    path = out / "checkpoint.safetensors"
    if path.exists() and not is_resumed:
        raise UsageError(f"{out}: holds a training, expected none; resume it or choose another folder")
    if is_resumed and not path.exists():
        raise UsageError(f"{out}: holds no training, expected one to resume")
    out.mkdir(parents=True, exist_ok=True)
    return path


def _export(bundle: Bundle, network: Network, report: Report) -> Bundle:
    n_parameters = sum(weights.numel() for weights in network.parameters())
    gflop = gflop_per_ecg(network, n_leads=len(bundle.input.leads), n_samples=bundle.input.samples)
    return export.write(bundle, network, card=card.text(bundle, report, n_parameters=n_parameters, gflop=gflop))


def _input_spec(ecgs: Cohort) -> InputSpec:
    return InputSpec(
        leads=INDEPENDENT_LEADS,
        fs_hz=FS_HZ,
        seconds=SECONDS,
        min_seconds=MIN_SECONDS,
        scale_mv=cohort.scale_mv(ecgs, INDEPENDENT_LEADS),
        clip=CLIP,
    )


def _split(ecgs: Cohort, x: np.ndarray, y: np.ndarray, spec: InputSpec) -> Split:
    train, choose = ecgs.side(TRAIN_FOLDS), ecgs.side(CHOOSE_FOLDS)
    return Split(
        x_train=x[train],
        y_train=y[train],
        x_choose=x[choose],
        y_choose=y[choose],
        scale_mv=spec.scale_mv,
        fs_hz=spec.fs_hz,
    )


def _run(training: Training, split: Split, checkpoint: Path, say: Callable[[str], None]) -> None:
    """Train the epochs that are left, each of them kept before the next begins."""
    while not training.is_finished:
        started_s = time.monotonic()
        training.run_epoch(split)
        training.save(checkpoint)
        row, best = training.history[-1], training.history[training.best_epoch - 1]
        say(
            f"epoch {len(training.history)}/{training.recipe.epochs} · loss {row['loss']:.4f}"
            f" · macro AUC on fold 8 {row['auc_choose']:.4f} (best {best['auc_choose']:.4f} in {training.best_epoch})"
            f" · {time.monotonic() - started_s:.0f} s"
        )


def _labels(
    ecgs: Cohort, codes: list[str], x: np.ndarray, y: np.ndarray, network: Network
) -> tuple[tuple[Label, ...], Report]:
    """The labels, calibrated on the choosing fold, and what they achieve on the reporting one."""
    train, choose, judged = ecgs.side(TRAIN_FOLDS), ecgs.side(CHOOSE_FOLDS), ecgs.side(REPORT_FOLDS)
    logits = predict(network, x[choose])[0]
    slope, intercept = calibrate.platt(y[choose], logits)
    threshold = calibrate.thresholds(y[choose], _sigmoid(slope * logits + intercept))
    report = measure(
        y[judged],
        _sigmoid(slope * predict(network, x[judged])[0] + intercept),
        codes=codes,
        statements=[ecgs.statements[at] for at in np.flatnonzero(judged)],
        patients=ecgs.patients[judged],
    )
    labels = tuple(
        Label(
            code=code,
            name=NAMES.get(code, code),
            threshold=float(threshold[at]),
            slope=float(slope[at]),
            intercept=float(intercept[at]),
            n_train=int(y[train, at].sum()),
            n_test=report.labels[code].n_positive,
            auc=report.labels[code].auc,
            auc_low=report.labels[code].low,
            auc_high=report.labels[code].high,
        )
        for at, code in enumerate(codes)
    )
    return labels, report


def _facts(ecgs: Cohort, training: Training) -> dict[str, Any]:
    """What the bundle's [training] table says of the cohort, the recipe, the choice of epoch and the libraries."""
    return {
        "provenance": ecgs.provenance,
        "n_train": int(ecgs.side(TRAIN_FOLDS).sum()),
        "n_choose": int(ecgs.side(CHOOSE_FOLDS).sum()),
        "n_report": int(ecgs.side(REPORT_FOLDS).sum()),
        **asdict(training.recipe),
        "best_epoch": training.best_epoch,
        "macro_auc_choose": round(training.history[training.best_epoch - 1]["auc_choose"], 4),
        "python": platform.python_version(),
        **{library: version(library) for library in ("torch", "numpy", "onnxscript")},
    }


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    probability: np.ndarray = 1 / (1 + np.exp(-logits))
    return probability
