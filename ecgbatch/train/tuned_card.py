"""CARD.md of a bundle that was fine-tuned on, or probes, another one: data, licence, split, figures, limits."""

from collections.abc import Mapping

from ecgbatch.bundle import Bundle
from ecgbatch.train import markdown
from ecgbatch.train.card import centred, doubts
from ecgbatch.train.figures import DRAWS, Figure

__all__ = ["text"]

_HOW = {
    "all": "All of the network, trained further from the weights",
    "last": "The last two stages of the network and a new head, trained further from the weights",
    "head": "A new head, trained by gradient descent on augmented ECGs, on the unchanged network",
    "probe": "A linear probe, a logistic regression on the embedding of the unchanged network",
}


def text(
    bundle: Bundle,
    parent: Bundle,
    *,
    auc: Figure,
    precision: Figure,
    sensitivity: Figure,
    specificity: Figure,
    brier: float,
) -> str:
    """The card in Markdown; figures are of cross-validation."""
    facts, label, spec = bundle.training, bundle.labels[0], bundle.input
    n, n_positive = facts["n_records"], facts["n_positive"]
    prevalence = n_positive / n
    return f"""# {bundle.name} {bundle.version}

{_HOW[facts["depth"]]} of
`{parent.name}` {parent.version}. One label: **{label.code}**, {label.name}. It reads
{spec.seconds:g} s of {len(spec.leads)} leads ({", ".join(spec.leads)}) at {spec.fs_hz} Hz{centred(spec)}.
{_shared(bundle)}
| {facts["n_folds"]}-fold cross-validation by patient, {n} ECGs, {n_positive} positive | 95 % interval |
|---|---|
| **AUC** | **{auc}** |
| average precision | {precision} |
| sensitivity at the threshold of {label.threshold:.3f} | {sensitivity} |
| specificity there | {specificity} |

## Limits

* **For research only. Not a medical device; not to be used in the care of patients.**
* {n_positive} positive ECGs are few: mind the intervals. They say nothing of other hospitals, devices and populations.
* Cases and controls were collected, not met as they come: among other patients, with other diseases, more will be
  called that should not be. Where positives are rarer than {prevalence:.1%}, the probability is too high.
* What tells the cases from the controls may be how or where they were recorded: check with
  `ecgbatch train compare --confounder`.
* The threshold was chosen on the same held-out scores that its sensitivity and specificity are stated of, which
  flatters them a little; AUC and average precision need no threshold.
* Records of less than {spec.min_seconds:g} s are refused.
{doubts(facts)}
## Data and split

{facts["provenance"]}.

{_left_out(facts.get("left_out", {}))}The parent, licensed {parent.licence}, was trained on:
{facts["parent_provenance"]}.

The weights are derived from these data and licensed {bundle.licence}.

{facts["n_folds"]} folds by patient: {facts["n_patients"]} patients, nobody on two sides. In each, what there was to
choose ({_chosen(facts)}) was chosen among the training patients alone; the AUC is that of the left-out
patients of each fold, averaged. Calibration and threshold are of all left-out scores. The weights that ship were then
trained on all {n} ECGs, {_finally(facts)}; they themselves were judged on none.
Intervals are of {DRAWS} bootstrap draws of patients; those of sensitivity and specificity are at least Wilson's.

## Calibration

Platt's, on the left-out logits: slope {label.slope:.3f}, intercept {label.intercept:.3f}. Brier score {brier:.4f};
{prevalence * (1 - prevalence):.4f} for always saying the label's frequency.

## How it was made

    {facts["command"]}

{_table(bundle)}
"""


def _shared(bundle: Bundle) -> str:
    if bundle.parent is None:
        return ""
    return f"""
A head only: it needs `{bundle.parent.name}` with the `model.onnx` of sha256 `{bundle.parent.sha256[:16]}…`, whose
network `score` runs once for all models that share it.
"""


def _left_out(reasons: dict[str, int]) -> str:
    told = ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n)
    return f"Not among them: {told}.\n\n" if told else ""


def _chosen(facts: Mapping[str, object]) -> str:
    return "the penalty" if facts["depth"] == "probe" else "epoch and learning rate"


def _finally(facts: Mapping[str, object]) -> str:
    if facts["depth"] == "probe":
        return "with a penalty chosen among these"
    return "for the median number of epochs at the rate that was chosen most often"


def _table(bundle: Bundle) -> str:
    hidden = {"command", "provenance", "parent_provenance", "left_out"}
    return markdown.table(("", ""), "ll", [item for item in bundle.training.items() if item[0] not in hidden])
