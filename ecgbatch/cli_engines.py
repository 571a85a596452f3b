"""The commands about engines: building them, measuring them, and asking what this machine can do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option, Typer

from ecgbatch.console import needs, report_errors, say, show

if TYPE_CHECKING:
    from ecgbatch.bundle import Bundle

__all__ = ["add_commands"]


def add_commands(app: Typer) -> None:
    """Have `ecgbatch` know the commands of this module."""
    app.command("build")(build_command)
    app.command("bench")(bench_command)
    app.command("doctor")(doctor_command)


def build_command(
    model: Annotated[str, Argument(help="Shipped bundle, bundle folder, or training or checkpoint.")],
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
    with report_errors(), needs("train"):
        from ecgbatch import building

        order = building.Order(
            device=device, precision=precision, calibrate=tuple(calibrate or ()), labels=labels, out=out
        )
        made = building.build(_found(model), order, say=say)
    show(made)


def _found(model: str) -> "Bundle":
    """The bundle of that name, or of that training or checkpoint, which takes the libraries of training to read."""
    from ecgbatch import bundle

    if bundle.is_bundle(Path(model)) or not Path(model).exists():
        return bundle.find(model)
    from ecgbatch.train import checkpoint

    return checkpoint.find(model)


def bench_command(
    source: Annotated[list[str] | None, Argument(help="Archive to read; synthetic MUSE XML files by default.")] = None,
    model: Annotated[str, Option(help="Shipped bundle, or bundle folder.")] = "foundation",
    device: Annotated[str, Option(help="Devices: cpu,cuda:0,1 is the CPU, and two GPUs together.")] = "cpu",
    precision: Annotated[str, Option(help="Precisions to measure; those that cannot be had are named.")] = "fp32,int8",
    batch: Annotated[str, Option(help="Batch sizes to measure the engines with.")] = "8,16,32,64",
    n: Annotated[
        int | None, Option("--n", help="ECGs of a whole run, at most; by default what takes some seconds.", min=1)
    ] = None,
    rounds: Annotated[int, Option(help="Values of each rate; the median counts.", min=1)] = 3,
    seconds: Annotated[float, Option(help="Of each measurement of an engine or limit.", min=0.1)] = 1.0,
    watts: Annotated[float | None, Option(help="What the machine draws while it scores: adds the energy.")] = None,
    price: Annotated[float | None, Option(help="Of an hour of the machine: adds the price.")] = None,
    json_file: Annotated[Path | None, Option("--json", help="Write all figures to this file.")] = None,
    plot: Annotated[Path | None, Option(help="Write the rates as a picture to this SVG file.")] = None,
) -> None:
    """Measure how fast this machine scores, stage by stage, and how near that is to what it can do.

    Takes minutes; fewer with a smaller --n, --rounds and --seconds.

    Example: ecgbatch bench --json bench.json --plot bench.svg --watts 250
    """
    with report_errors():
        from ecgbatch import bench, bench_report, bundle
        from ecgbatch.runtimes import placement

        order = bench.Order(
            sources=tuple(source or ()),
            devices=tuple(placement.listed(device)),
            precisions=tuple(precision.split(",")),
            batches=bench_report.whole_numbers("--batch", batch),
            n=n,
            rounds=rounds,
            seconds=seconds,
            watts=watts,
            price=price,
        )
        found = bench.measure(bundle.find(model), order, say=say)
        show(bench_report.table(found))
        if json_file is not None:
            bench_report.write(json_file, found)
        if plot is not None:
            bench_report.draw(plot, found)


def doctor_command(
    build_operator: Annotated[
        bool, Option("--build-operator", help="Compile the DALI operator for the DALI and CUDA at hand.")
    ] = False,
) -> None:
    """Say what is installed and what this machine can do, and test every engine and feed that it can run.

    Example: ecgbatch doctor
    """
    with report_errors():
        from ecgbatch import doctor

        if build_operator:
            say(doctor.build_operator(say=say))
        found = doctor.examined()
    show(doctor.told(found))
    raise Exit(1 if any(check.is_passed is False for check in found.checks) else 0)
