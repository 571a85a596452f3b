"""What a network to be trained looks like, and how one is asked for on the command line."""

from collections.abc import Mapping, Sequence
from typing import Any

from ecgbatch.errors import UsageError
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, lead_name

__all__ = ["ARCHITECTURE", "leads_of", "numbers", "shaped"]

ARCHITECTURE: Mapping[str, Any] = {
    "widths": [32, 64, 96, 128, 160],
    "depths": [2, 2, 2, 1],
    "kernel": 7,
    "stem_kernel": 15,
    "squeezed": [False, False, True, True],
    "dropout": 0.1,
}
"""Arguments of `network.Network` beyond leads and labels."""


def shaped(widths: Sequence[int], depths: Sequence[int], *, stem_stride: int = 2) -> Mapping[str, Any]:
    """`ARCHITECTURE` with other channels of stem and stages, and other blocks of each stage; late stages are squeezed.

    Raises:
        UsageError: there is not one width more than depths, or one of them is too small.
    """
    if stem_stride not in (1, 2, 4):
        raise UsageError(f"stem stride {stem_stride}, expected 1, 2 or 4")
    if len(widths) != len(depths) + 1 or min(depths, default=0) < 1 or min(widths) < 8:
        raise UsageError(
            f"widths {_listed(widths)} and depths {_listed(depths)}, expected one width more than depths, "
            "widths of at least 8 and depths of at least 1"
        )
    squeezed = [2 * stage >= len(depths) for stage in range(len(depths))]
    shape = {"widths": list(widths), "depths": list(depths), "squeezed": squeezed, "stem_stride": stem_stride}
    return {**ARCHITECTURE, **shape}


def leads_of(text: str) -> tuple[str, ...]:
    """The leads that `8`, `12` or `I,II,V1` names, in the usual order.

    Raises:
        UsageError: one of them is none of the twelve.
    """
    if text in ("8", "12"):
        return INDEPENDENT_LEADS if text == "8" else LEADS
    named = {lead_name(part): part for part in text.split(",")}
    if None in named:
        raise UsageError(f"leads {text!r}, expected 8, 12, or some of {','.join(LEADS)}")
    return tuple(lead for lead in LEADS if lead in named)


def numbers(name: str, text: str) -> list[int]:
    """The whole numbers in `1,2,3`.

    Raises:
        UsageError: there is something else in it.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{name} {text!r}, expected whole numbers with commas between them") from None


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
