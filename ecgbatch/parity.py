"""Parity: how far the scores of an engine may lie, and do lie, from those of its model in fp32."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ecgbatch.errors import EngineError

__all__ = ["LIMITS", "Limits", "Parity", "compared", "require"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an engine must keep to be trusted."""

    worst_probability: float
    """Largest difference of any probability."""
    flip_share: float
    """Of all calls (record, label), those that fall on the other side of the label's threshold; one always may."""
    auc_change: float
    """Of the macro AUC, either way."""
    label_auc_change: float
    """Of the AUC of any label, either way."""


LIMITS: Mapping[str, Limits] = {
    # A hundred times what engines in fp32 differ by, and far below what moves a decision.
    "fp32": Limits(worst_probability=1e-3, flip_share=0.001, auc_change=0.0005, label_auc_change=0.005),
    # 11 bits of mantissa: logits to a thousandth.
    "fp16": Limits(worst_probability=1e-2, flip_share=0.002, auc_change=0.001, label_auc_change=0.01),
    # 8 bits of mantissa, as many as int8 has, but for every layer.
    "bf16": Limits(worst_probability=5e-2, flip_share=0.005, auc_change=0.002, label_auc_change=0.02),
    # Calls further than a tenth from their threshold cannot flip, and half a hundredth of all may; 0.002 is a
    # fifteenth of the interval of a macro AUC on 330 ECGs (0.896 to 0.926). Plain min-max ranges of every layer from
    # 64 ECGs missed by 0.49.
    "int8": Limits(worst_probability=1e-1, flip_share=0.005, auc_change=0.002, label_auc_change=0.02),
}
"""By precision. The same worst probability admits an engine to the reference scores at every start.

The AUC of one label may change more than their mean: it is stated from three positives up, and on 330 ECGs one of
three that falls behind 20 others moves it by 0.02.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """What was found where an engine and its model in fp32 scored the same ECGs."""

    n_ecgs: int
    worst_probability: float
    flip_share: float | None
    """None where there were too few ECGs to tell."""
    n_calls: int = 0
    """That the share is of; 0 where it was not told."""
    auc_change: Mapping[str, float] = field(default_factory=dict)
    """By label code; of the labels that the ECGs have enough positives of, none where the labels are not known."""

    @property
    def macro_auc_change(self) -> float:
        """Mean over the labels; 0 where there are none."""
        return float(np.mean(list(self.auc_change.values()))) if self.auc_change else 0.0

    @property
    def label_auc_change(self) -> float:
        """Of the label whose AUC changed most, without the sign; 0 where there are none."""
        return float(np.abs(list(self.auc_change.values())).max()) if self.auc_change else 0.0

    def rows(self, limits: Limits) -> list[tuple[str, float, float]]:
        """What was measured, how much it is, and how much it may be."""
        rows = [("worst probability difference", self.worst_probability, limits.worst_probability)]
        if self.flip_share is not None:
            one = 1 / self.n_calls if self.n_calls else 0.0
            rows.append(("share of calls flipped", self.flip_share, max(limits.flip_share, one)))
        if self.auc_change:
            rows.append(("macro AUC change", abs(self.macro_auc_change), limits.auc_change))
            rows.append(("worst AUC change of a label", self.label_auc_change, limits.label_auc_change))
        return rows

    def keeps(self, limits: Limits) -> bool:
        """Whether every figure is within its limit; one that is not a number is not."""
        return all(found <= limit for _, found, limit in self.rows(limits))

    def table(self, precision: str) -> str:
        """The figures beside their limits, a line each, and below them the labels whose AUC moved most."""
        rows = self.rows(LIMITS[precision])
        lines = [f"{precision} against fp32 on {self.n_ecgs} ECGs"]
        lines += [
            f"  {name:<30} {found:.4f}  at most {limit:.4f}{'' if found <= limit else '  missed'}"
            for name, found, limit in rows
        ]
        moved = sorted(self.auc_change.items(), key=lambda each: -abs(each[1]))[:5]
        if moved:
            lines.append(f"  AUC of a label, most moved     {' · '.join(f'{code} {by:+.4f}' for code, by in moved)}")
        return "\n".join(lines)


def compared(
    expected: np.ndarray, found: np.ndarray, thresholds: Sequence[float], *, auc_change: Mapping[str, float]
) -> Parity:
    """The parity of probabilities (record, label) with the expected ones."""
    limit = np.asarray(thresholds)
    return Parity(
        n_ecgs=len(expected),
        worst_probability=float(np.abs(found - expected).max()),
        flip_share=float(((found >= limit) != (expected >= limit)).mean()),
        n_calls=expected.size,
        auc_change=dict(auc_change),
    )


def require(parity: Parity, precision: str, *, where: str) -> None:
    """Nothing, for a parity within the limits of its precision.

    Raises:
        EngineError: it is not; the message is the table.
    """
    if not parity.keeps(LIMITS[precision]):
        raise EngineError(
            f"{where}: not within its limits, expected each kept; nothing was kept\n{parity.table(precision)}"
        )
