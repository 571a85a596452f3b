"""What a bundle takes, says and is worth, for a person and for scripts."""

import math
from dataclasses import asdict
from typing import Any

from ecgbatch.bundle import Bundle

__all__ = ["facts", "text"]


def facts(bundle: Bundle) -> dict[str, Any]:
    """A bundle for scripts; None for a figure that its test split could not give."""
    return {
        "name": bundle.name,
        "version": bundle.version,
        "licence": bundle.licence,
        "input": asdict(bundle.input),
        **({"parent": asdict(bundle.parent)} if bundle.parent else {}),
        **(
            {"parity": {precision: asdict(found) for precision, found in bundle.parity.items()}}
            if bundle.parity
            else {}
        ),
        "labels": [
            {
                key: None if isinstance(value, float) and math.isnan(value) else value
                for key, value in asdict(label).items()
            }  # NaN is no JSON
            for label in bundle.labels
        ],
        "fingerprint": bundle.fingerprint,
        "hashes": dict(bundle.hashes),
    }


def text(bundle: Bundle) -> str:
    """A bundle for a person: what it takes, what it says, how well."""
    spec = bundle.input
    lines = [
        f"{bundle.name} {bundle.version} · {len(bundle.labels)} labels · licence {bundle.licence}",
        f"input {', '.join(spec.leads)} · {spec.fs_hz} Hz × {spec.seconds:g} s, at least {spec.min_seconds:g} s"
        + ("" if spec.filter == "none" else f", filter {spec.filter}"),
        f"fingerprint {bundle.fingerprint}",
        *([f"head on {bundle.parent.name}, model.onnx {bundle.parent.sha256}"] if bundle.parent else []),
        *(found.table(precision) for precision, found in bundle.parity.items()),
        "",
        f"{'code':<8}{'AUC':>6}  {'95 % interval':<15}{'cases':>6}{'threshold':>11}  name",
    ]
    for label in bundle.labels:
        known = not math.isnan(label.auc)
        auc, spread = (f"{label.auc:.3f}", f"{label.auc_low:.3f}–{label.auc_high:.3f}") if known else ("-", "-")
        lines.append(f"{label.code:<8}{auc:>6}  {spread:<15}{label.n_test:>6}{label.threshold:>11.3f}  {label.name}")
    return "\n".join(lines)
