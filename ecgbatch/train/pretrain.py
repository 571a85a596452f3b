"""A foundation bundle from labelled ECGs, the whole way: data, training, calibration, report, bundle.

On the command line:

    ecgbatch train pretrain ptbxl.parquet --out training --name foundation --epochs 100 --seed 1 --batch 64

which is no more than

    bundle = pretrain(data, out, name=name, epochs=epochs, seed=seed, batch=batch, is_resumed=resume, say=say)

`out` holds `checkpoint.safetensors` while it lasts, and the bundle in a folder of its name at the end.
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
LICENCE = "CC-BY-4.0"


def pretrain(
    data: Path,
    out: Path,
    *,
    name: str = "foundation",
    epochs: int = 100,
    seed: int = 1,
    batch: int = 64,
    architecture: Mapping[str, Any] = ARCHITECTURE,
    n_positives: int = N_POSITIVES,
    is_resumed: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Train a network on a cohort's training folds and write its bundle to `out / name`.

    The epoch, the calibration and the thresholds are chosen on fold 8, and fold 9 is scored once, at the end.

    Raises:
        UsageError: the cohort cannot be trained on, or `out` holds a training and `is_resumed` says otherwise.
    """
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.exists() != is_resumed:
        found = (
            "holds a training; resume it or choose another folder" if checkpoint.exists() else "holds none to resume"
        )
        raise UsageError(f"{out}: {found}")
    out.mkdir(parents=True, exist_ok=True)
    ecgs = cohort.read(data)
    spec = _input_spec(ecgs)
    codes = cohort.codes(ecgs, n_positives=n_positives)
    if not codes:
        raise UsageError(f"{data.name}: no statement has {n_positives} training positives")
    x, y = cohort.inputs(ecgs, spec), cohort.targets(ecgs, codes)
    arguments = {"n_leads": len(spec.leads), "n_labels": len(codes), **architecture}

    recipe = Recipe(epochs=epochs, batch=batch, seed=seed, data_sha256=ecgs.sha256)
    training = Training(arguments, recipe)
    if is_resumed:
        training.resume(checkpoint)
    _run(training, _split(ecgs, x, y, spec), checkpoint, say)

    facts = _facts(ecgs, recipe, training, data, n_positives)
    facts["command"] = (
        f"ecgbatch train pretrain {data.name} --out DIR --name {name} --epochs {epochs} --seed {seed} --batch {batch}"
    )
    network = training.best_network()
    labels, report = _labels(ecgs, codes, x, y, network)
    bundle = Bundle(
        folder=out / name,
        name=name,
        version=VERSION,
        licence=LICENCE,
        input=spec,
        labels=labels,
        network=arguments,
        training=facts,
        hashes={},
    )
    say(f"macro AUC on fold 9: {report.macro}")
    return export.write(bundle, network, card=card.text(bundle, report, size=_size(network, spec)))


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
    while len(training.history) < training.recipe.epochs:
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


def _facts(ecgs: Cohort, recipe: Recipe, training: Training, data: Path, n_positives: int) -> dict[str, Any]:
    """The bundle's [training] table."""
    return {
        "data": data.name,
        "provenance": ecgs.provenance,
        "n_train": int(ecgs.side(TRAIN_FOLDS).sum()),
        "n_choose": int(ecgs.side(CHOOSE_FOLDS).sum()),
        "n_report": int(ecgs.side(REPORT_FOLDS).sum()),
        "n_positives": n_positives,
        **asdict(recipe),
        "best_epoch": training.best_epoch,
        "macro_auc_choose": round(training.history[training.best_epoch - 1]["auc_choose"], 4),
        "python": platform.python_version(),
        **{library: version(library) for library in ("torch", "numpy", "onnxscript")},
    }


def _size(network: Network, spec: InputSpec) -> dict[str, float]:
    gflop = gflop_per_ecg(network, n_leads=len(spec.leads), n_samples=spec.samples)
    return {"n_parameters": sum(weights.numel() for weights in network.parameters()), "gflop": gflop}


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))
