"""The commands about engines: building them."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

__all__ = ["add_commands"]


def add_commands(app: Typer) -> None:
    """Have `ecgbatch` know the commands of this module."""
    app.command("build")(build_command)


def build_command(
    model: Annotated[str, Argument(help="Shipped bundle, bundle folder, or folder of a finished training.")],
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, Option(help="auto, fp32 or int8; on a GPU also fp16 or bf16.")] = "auto",
    calibrate: Annotated[
        list[str] | None,
        Option(help="Real ECGs to make and verify an int8 graph with: anything that score reads, or a table of ECGs."),
    ] = None,
    labels: Annotated[
        Path | None, Option(help="Table of labels of those ECGs (CSV, Parquet): verifies the AUC too.")
    ] = None,
    out: Annotated[Path | None, Option(help="Write the bundle with its int8 graph to this folder, or its own.")] = None,
) -> None:
    """Compile a model for this machine, verify it against its fp32 scores, and keep it for `score`.

    Example: ecgbatch build foundation --precision int8 --calibrate /data/2024
    """
    from ecgbatch.cli import needs, report_errors, say

    with report_errors(), needs("train"):
        from ecgbatch import building

        order = building.Order(
            device=device, precision=precision, calibrate=tuple(calibrate or ()), labels=labels, out=out
        )
        made = building.build(building.subject(model), order, say=say)
    print(made)
