"""A training that has not come to its end, as a bundle: its best weights so far, not calibrated, judged by nobody."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ecgbatch import bundle
from ecgbatch.bundle import Bundle, InputSpec, Label
from ecgbatch.errors import BundleError
from ecgbatch.network import Network
from ecgbatch.train import export
from ecgbatch.train.statements import NAMES

__all__ = ["bundle_of", "find"]

_FILE = "checkpoint.safetensors"


def find(name: str) -> Bundle:
    """The bundle of that name or folder; of a training, the one it has ended in, or that of its checkpoint.

    Raises:
        BundleError: it is none of these.
    """
    path = Path(name)
    if path.suffix == ".safetensors" and path.is_file():
        return bundle_of(path)
    if bundle.is_bundle(path) or not (path / _FILE).is_file():
        return bundle.find(name)
    ended = bundle.ended_in(path)
    return Bundle.load(ended) if ended else bundle_of(path / _FILE)


def bundle_of(path: Path) -> Bundle:
    """Write the bundle of a checkpoint beside it, in a folder `checkpoint-EPOCH`: heads of it keep their parent.

    Raises:
        BundleError: the file is no checkpoint of `train pretrain`, or no epoch of it has ended.
    """
    try:
        with safe_open(path, "pt") as file:
            told = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            named = [name for name in file.keys() if name.startswith("best/")]  # noqa: SIM118  # no mapping
            best = {name.removeprefix("best/"): file.get_tensor(name) for name in named}
        facts, made, history = told["facts"], told["made"], told["history"]
        spec = InputSpec(**{**facts["input"], **{name: tuple(facts["input"][name]) for name in ("leads", "scale_mv")}})
        arguments = facts["network"]
        network = Network(**arguments)
        network.load_state_dict(best)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as err:
        raise BundleError(f"{path}: not a checkpoint of train pretrain, expected one, or a bundle folder") from err
    if not history:
        raise BundleError(f"{path}: no epoch has ended yet, expected one at least; let the training go on")
    epoch = 1 + int(np.argmax([row["auc_choose"] for row in history]))
    found = Bundle(
        folder=path.parent / f"checkpoint-{epoch}",
        name=f"checkpoint-{epoch}",
        version=f"0.0.{epoch}",
        licence=facts["licence"],
        input=spec,
        labels=tuple(_label(code) for code in facts["codes"]),
        network=arguments,
        training=_training(facts, made, history, epoch),
        hashes={},
    )
    return export.write(found, network.eval(), card=_card(found, epoch))


def _training(
    facts: dict[str, Any], made: dict[str, Any], history: list[dict[str, float]], epoch: int
) -> dict[str, Any]:
    recipe = {name: value for name, value in made.items() if name not in facts["network"] and value is not None}
    return {
        "provenance": facts["provenance"],
        **recipe,
        "best_epoch": epoch,
        "macro_auc_choose": round(history[epoch - 1]["auc_choose"], 4),
        "command": facts["command"],
    }


def _label(code: str) -> Label:
    """A label whose scores nobody has calibrated or judged."""
    return Label(
        code=code,
        name=NAMES.get(code, code),
        threshold=0.5,
        slope=1.0,
        intercept=0.0,
        n_train=0,
        n_test=0,
        auc=float("nan"),
        auc_low=float("nan"),
        auc_high=float("nan"),
    )


def _card(found: Bundle, epoch: int) -> str:
    return f"""# {found.name} {found.version}

The weights that epoch {epoch} of an unfinished training left: a place to begin from, not a model to score with. Their
probabilities are not calibrated, their thresholds are 0.5, and no reporting side has judged them.

{found.training["provenance"]}. Licence: {found.licence}.

## How it was made

    {found.training["command"]}
"""
