"""The command line: one thin function a command. stdout is data, everything else goes to stderr."""

import json
import os
import sys
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Exit, Option

from ecgbatch import cli_engines, cli_train
from ecgbatch.console import AGAIN, report_errors, say, show
from ecgbatch.errors import UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cli_train.add_commands(app)
cli_engines.add_commands(app)

_MANY = 2**31
_CONTAINERS = (
    "muse-xml, wfdb, hl7-aecg, cardiosoft-xml, dicom, edf, mortara-xml, philips-xml, schiller-xml, or all; "
    "several are mixed."
)


def main() -> None:
    """Entry point of the `ecgbatch` command."""
    if sys.stderr is None:  # closed by whoever started us; print would take stdout in its place
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # open to the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may speak ASCII only
    app()


def print_version(is_asked: bool) -> None:
    """Print the version and leave, where that is all that was asked for."""
    if is_asked:
        show(f"ecgbatch {version('ecgbatch')}")
        raise Exit


@app.callback()
def options_of_all(
    _: Annotated[
        bool, Option("--version", callback=print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Score whole archives of 12-lead ECGs: every record ends in exactly one row."""


@app.command("score")
def score_command(
    source: Annotated[
        list[str],
        Argument(help="Folders, ECG files, archives of them, URLs, or manifests (CSV, Parquet) with a column 'path'."),
    ],
    out: Annotated[Path, Option(help="Run folder: new, or one to go on with.")],
    model: Annotated[list[str], Option(help="Shipped bundle, bundle folder or training; several run in one pass.")] = [  # noqa: B006
        "foundation"
    ],
    device: Annotated[str, Option(help="auto, cpu, cuda, or several GPUs: cuda:0,1.")] = "auto",
    precision: Annotated[
        str, Option(help="auto (the fastest that is within its limits), fp32 or int8; on a GPU also fp16 or bf16.")
    ] = "auto",
    feed: Annotated[
        str, Option(help="Who makes model input of decoded ECGs: host, or dali (on the engine's device).")
    ] = "host",
    batch: Annotated[
        int | None, Option(help="ECGs the engine takes at once; what `build` found best, or 32.", min=1, max=_MANY)
    ] = None,
    shard_size: Annotated[
        int, Option(help="Entries committed together: what a crash can lose.", min=1, max=_MANY)
    ] = 4096,
    embeddings: Annotated[bool, Option("--embeddings", help="Write each model's embedding too.")] = False,
    limit: Annotated[int | None, Option(help="Score only the first so many entries.", min=1, max=_MANY)] = None,
    reject_poor: Annotated[
        float | None, Option(help="Reject ECGs of less quality than this; 0.5 is an even chance.", min=0, max=1)
    ] = None,
    workers: Annotated[
        int | None,
        Option(
            help="Processes that read and decode; a quarter of the cores by default, for a GPU all.", min=1, max=_MANY
        ),
    ] = None,
    deduplicate: Annotated[
        bool, Option("--deduplicate", help="At the end, move all but the first record of each waveform to duplicates/.")
    ] = False,
) -> None:
    """Score every ECG in an archive, or go on with a run that was stopped.

    Example: ecgbatch score /data/2024 --out runs/2024
    """
    with report_errors(way_on=AGAIN):
        from ecgbatch import bundle, progress, score

        options = score.Options(
            device=device,
            precision=precision,
            feed=feed,
            batch=batch,
            shard_size=shard_size,
            embeddings=embeddings,
            limit=limit,
            reject_poor=reject_poor,
            workers=workers,
            deduplicate=deduplicate,
        )
        bundles = [bundle.find(name) for name in model]
        with progress.shown("scoring") as observe:
            tally = score.run(source, out, bundles, options, observe=observe, say=say)
    say(str(tally))
    raise Exit(3 if tally.n_rejected else 0)


@app.command("pack")
def pack_command(
    source: Annotated[
        list[str],
        Argument(help="Folders, ECG files, archives of them, URLs, packs, or manifests with a column 'path'."),
    ],
    out: Annotated[Path, Option(help="Folder of the pack: new, or one to go on with.")],
    shard_size: Annotated[
        int, Option(help="Entries committed together: what a crash can lose.", min=1, max=_MANY)
    ] = 4096,
    compression: Annotated[str, Option(help="Of the samples: none (read fastest), lz4, or zstd (smallest).")] = "none",
    limit: Annotated[int | None, Option(help="Pack only the first so many entries.", min=1, max=_MANY)] = None,
    workers: Annotated[
        int | None, Option(help="Processes that read and decode; as many as cores by default.", min=1, max=_MANY)
    ] = None,
) -> None:
    """Decode every ECG in an archive once into Parquet, which `score` takes like any source.

    Example: ecgbatch pack /data/2024 --out packs/2024
    """
    with report_errors(way_on=AGAIN):
        from ecgbatch import pack, progress

        options = pack.Options(shard_size=shard_size, compression=compression, limit=limit, workers=workers)
        with progress.shown("packing") as observe:
            tally = pack.run(source, out, options, observe=observe, say=say)
    say(str(tally))
    raise Exit(3 if tally.n_rejected else 0)


@app.command("deduplicate")
def deduplicate_command(
    run: Annotated[Path, Argument(help="Folder of a finished run.", readable=False)],
) -> None:
    """Move all but the first record of each waveform from the scores of a run to its duplicates.

    Example: ecgbatch deduplicate runs/2024
    """
    with report_errors():
        from ecgbatch import duplicates
        from ecgbatch.tally import outcome

        rows = duplicates.deduplicate(run, say=say)
    say(outcome(rows["scored"], rows["rejected"], rows["duplicate"]))


@app.command("inspect")
def inspect_command(
    path: Annotated[
        Path,
        Argument(
            help="An ECG file (in a container: container#member), a run, a pack, or a bundle: its folder or name.",
            readable=False,
        ),
    ],
    as_json: Annotated[bool, Option("--json", help="The same for scripts, as JSON.")] = False,
    samples: Annotated[
        Path | None, Option(help="Write the 12 leads in µV as float32 (lead, time) to this .npy.")
    ] = None,
    draw: Annotated[Path | None, Option(help="Draw the 12 leads into this .png or .svg.")] = None,
) -> None:
    """Show what was decoded from an ECG file, or what a bundle, run or pack holds.

    Example: ecgbatch inspect 00231.xml --draw 00231.png
    """
    with report_errors(path):
        from ecgbatch import bundle, bundle_report, inspection, record_report, run_report

        kind = inspection.kind_of(path)
        if (samples or draw) and kind != "record":
            raise UsageError(f"{path}: a {kind}; --samples and --draw take an ECG file")
        facts: dict[str, Any]
        if kind == "bundle":
            found = bundle.find(str(path))
            facts, text = bundle_report.facts(found), bundle_report.text(found)
        elif kind == "run":
            facts, text = run_report.run_facts(path), run_report.run_text(path)
        elif kind == "pack":
            facts, text = run_report.pack_facts(path), run_report.pack_text(path)
        else:
            record = inspection.record_of(path)
            facts = record_report.facts(record)
            text = record_report.text(facts)
            if draw:  # before the samples: it refuses what it cannot draw into
                from ecgbatch import drawing

                drawing.draw(record_report.leads_uv(record), record.fs_hz, draw, caption=record.format)
            if samples:
                record_report.write_samples(record, samples)
    show(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else text)


@app.command("models")
def models_command() -> None:
    """List the bundles that come with ecgbatch.

    Example: ecgbatch models
    """
    with report_errors():
        from ecgbatch import bundle

        for found in bundle.shipped():
            show(f"{found.name:<16}{found.version:<10}{len(found.labels):>4} labels  {found.licence}")


@app.command("synth")
def synth_command(
    folder: Annotated[Path, Argument(help="Folder to write the archive into.")],
    n: Annotated[int, Option("--n", help="How many ECGs.", min=1, max=_MANY)] = 100,
    seed: Annotated[int, Option(help="The same seed gives the same bytes.", min=0)] = 0,
    container: Annotated[list[str], Option("--format", help=_CONTAINERS)] = [  # noqa: B006
        "muse-xml",
        "wfdb",
    ],
    damaged: Annotated[float, Option(help="Share of files that are damaged in documented ways.", min=0, max=1)] = 0.0,
    packed: Annotated[
        float, Option(help="Share of folders that become a .zip, a .tar.gz or an .hdf5, by turns.", min=0, max=1)
    ] = 0.0,
    truth: Annotated[
        Path | None, Option(help="Write what each file holds, and the reject it must become, as CSV.")
    ] = None,
    workers: Annotated[int | None, Option(help="Processes; as many as cores by default.", min=1)] = None,
) -> None:
    """Write a synthetic archive: realistic 12-lead ECGs of nobody, in vendor formats.

    Example: ecgbatch synth archive --n 1000 --format all --packed 0.1 --damaged 0.01 --truth truth.csv
    """
    with report_errors():
        from ecgbatch import synth

        chosen = synth.FORMATS if "all" in container else container
        written = synth.write_archive(
            folder, n, seed=seed, formats=chosen, damaged=damaged, packed=packed, workers=workers
        )
        if truth:
            synth.write_truth(truth, written)
    say(f"wrote {n} ECGs to {folder}")


if __name__ == "__main__":
    main()
