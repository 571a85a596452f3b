"""The command line: one thin function a command. stdout is data, everything else goes to stderr."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Exit, Option

from ecgbatch import cli_engines
from ecgbatch.errors import EcgbatchError, MissingExtraError, RecordError, UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train = typer.Typer(help="Train models from labelled ECGs.", no_args_is_help=True)
app.add_typer(train, name="train")
cli_engines.add_commands(app)

_MANY = 2**31
_CONTAINERS = (
    "muse-xml, wfdb, hl7-aecg, cardiosoft-xml, dicom, edf, mortara-xml, philips-xml, schiller-xml, or all; "
    "several are mixed."
)
_RECORD_COLUMN = "Column that names the ECGs; record_id, source_path or path by default."
_PATIENT_COLUMN = "Column that tells patients apart; patient_id by default."
_LABEL_COLUMN = "A label's column, or the one column of codes; repeat it. By default, what looks like it."
_WIDE = 1000
_EXTRAS = {
    "train": {
        "lightning_fabric",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "safetensors",
        "tensorboard",
        "tomli_w",
        "torch",
    }
}
"""The libraries that an extra brings."""


def main() -> None:
    """Entry point of the `ecgbatch` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may speak ASCII only
    app()


@contextmanager
def report_errors(path: Path | None = None) -> Iterator[None]:
    """What ecgbatch raises on purpose becomes one line on stderr and an exit code; `path` is the only record's."""
    try:
        yield
    except EcgbatchError as err:
        label = f"{path}: {err.reason}: " if isinstance(err, RecordError) else ""
        say(f"error: {label}{err}")
        raise Exit(2 if isinstance(err, UsageError) else 3 if isinstance(err, RecordError) else 1) from err
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        raise Exit(1) from None


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """A library that is not installed becomes the name of the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in _EXTRAS[extra]:
            raise
        raise MissingExtraError(f"this command ({err.name})", extra) from err


def say(line: str) -> None:
    """Print a message for the person at the terminal."""
    print(line, file=sys.stderr, flush=True)


def spoken() -> str:
    """The command as it was given, without the folders of its paths."""
    return shlex.join(["ecgbatch", *(word.rpartition("/")[2] or word for word in sys.argv[1:])])


def print_version(is_asked: bool) -> None:
    """Print the version and leave, where that is all that was asked for."""
    if is_asked:
        print(f"ecgbatch {version('ecgbatch')}")
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
    model: Annotated[list[str], Option(help="Shipped bundle or bundle folder; several are scored in one pass.")] = [  # noqa: B006
        "foundation"
    ],
    device: Annotated[str, Option(help="auto, cpu, cuda, or several GPUs: cuda:0,1.")] = "auto",
    precision: Annotated[str, Option(help="auto (the fastest that is within its limits), fp32 or int8.")] = "auto",
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
    workers: Annotated[int, Option(help="Threads that read and decode.", min=1, max=_MANY)] = 2,
    deduplicate: Annotated[
        bool, Option("--deduplicate", help="At the end, move all but the first record of each waveform to duplicates/.")
    ] = False,
) -> None:
    """Score every ECG in an archive, or go on with a run that was stopped.

    Example: ecgbatch score /data/2024 --out runs/2024
    """
    with report_errors():
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
    workers: Annotated[int, Option(help="Threads that read and decode.", min=1, max=_MANY)] = 2,
) -> None:
    """Decode every ECG in an archive once into Parquet, which `score` takes like any source.

    Example: ecgbatch pack /data/2024 --out packs/2024
    """
    with report_errors():
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


@app.command("evaluate")
def evaluate_command(
    run: Annotated[Path, Argument(help="Folder of a finished run.", readable=False)],
    labels: Annotated[
        Path, Argument(help="CSV or Parquet: a row an ECG, labels as columns of 0 and 1 or a column of codes.")
    ],
    model: Annotated[str | None, Option(help="Name of the model in the run; needed where there are several.")] = None,
    by: Annotated[
        list[str] | None, Option(help="Column of the labels or the scores to tell groups by; repeat it.")
    ] = None,
    threshold: Annotated[
        str | None, Option(help="youden, sensitivity:SHARE or specificity:SHARE in place of the model's thresholds.")
    ] = None,
    out: Annotated[Path | None, Option(help="Write all figures to this .json, .parquet or .md.")] = None,
    plot: Annotated[Path | None, Option(help="Draw predicted against observed frequencies into this .svg.")] = None,
    record_column: Annotated[str | None, Option(help=_RECORD_COLUMN)] = None,
    patient_column: Annotated[str | None, Option(help=_PATIENT_COLUMN)] = None,
    label: Annotated[list[str] | None, Option(help=_LABEL_COLUMN)] = None,
) -> None:
    """Compare the scores of a run with labels: AUC, sensitivity, specificity and calibration, with intervals.

    Example: ecgbatch evaluate runs/2024 labels.csv --by sex --by age --out report.json
    """
    with report_errors():
        from rich.console import Console

        from ecgbatch.train import evaluation, evaluation_card, reliability, scored
        from ecgbatch.train.calibrate import Rule

        rule = Rule.parsed(threshold) if threshold else None
        found = scored.read(
            run,
            labels,
            model=model,
            record_column=record_column,
            patient_column=patient_column,
            label_columns=label or (),
        )
        measured = evaluation.measure(found, rule=rule, by=by or ())
        if out:
            evaluation_card.write(measured, out)
        if plot:
            reliability.write(reliability.panels(found.codes, found.is_positive, found.probability), plot)
        Console(width=_WIDE).print(evaluation_card.table(measured))  # as wide as it is: nothing is cut off
        for line in evaluation_card.notes(measured.facts):
            say(line)
    say(f"evaluated {measured.facts['n_records']} ECGs of {measured.facts['n_patients']} patients")


@app.command("calibrate")
def calibrate_command(
    run: Annotated[Path, Argument(help="Folder of a finished run.", readable=False)],
    labels: Annotated[Path, Argument(help="CSV or Parquet, as for evaluate.")],
    out: Annotated[Path, Option(help="Folder of the new bundle.")],
    model: Annotated[str | None, Option(help="Shipped bundle or bundle folder that the run was scored with.")] = None,
    threshold: Annotated[str, Option(help="youden, sensitivity:SHARE or specificity:SHARE.")] = "youden",
    record_column: Annotated[str | None, Option(help=_RECORD_COLUMN)] = None,
    patient_column: Annotated[str | None, Option(help=_PATIENT_COLUMN)] = None,
    label: Annotated[list[str] | None, Option(help=_LABEL_COLUMN)] = None,
) -> None:
    """Fit probabilities and thresholds of a model to labels of your own, and write it as a new bundle.

    Example: ecgbatch calibrate runs/2024 labels.csv --out models/foundation-here
    """
    with report_errors():
        from ecgbatch.train import evaluation_card, site
        from ecgbatch.train.calibrate import Rule

        made = site.calibrate(
            run,
            labels,
            out,
            model=model,
            rule=Rule.parsed(threshold),
            record_column=record_column,
            patient_column=patient_column,
            label_columns=label or (),
        )
        for line in evaluation_card.notes(made.facts):
            say(line)
        say(made.summary)
    print(out)


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
        from ecgbatch import bundle, inspection

        kind = inspection.kind_of(path)
        if (samples or draw) and kind != "record":
            raise UsageError(f"{path}: a {kind}; --samples and --draw take an ECG file")
        facts: dict[str, Any]
        if kind == "bundle":
            found = bundle.find(str(path))
            facts, text = inspection.bundle_facts(found), inspection.bundle_text(found)
        elif kind == "run":
            facts, text = inspection.run_facts(path), inspection.run_text(path)
        elif kind == "pack":
            facts, text = inspection.pack_facts(path), inspection.pack_text(path)
        else:
            record = inspection.record_of(path)
            facts = inspection.describe(record)
            text = inspection.record_text(facts)
            if draw:  # before the samples: it refuses what it cannot draw into
                from ecgbatch import drawing

                drawing.draw(inspection.leads_uv(record), record.fs_hz, draw, caption=record.format)
            if samples:
                inspection.write_samples(record, samples)
    print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else text)


@app.command("models")
def models_command() -> None:
    """List the bundles that come with ecgbatch.

    Example: ecgbatch models
    """
    with report_errors():
        from ecgbatch import bundle

        for found in bundle.shipped():
            print(f"{found.name:<16}{found.version:<10}{len(found.labels):>4} labels  {found.licence}")


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


@train.command("pretrain")
def pretrain_command(
    source: Annotated[
        list[str],
        Argument(help="Tables of ECGs (Parquet), the folder of PTB-XL; with --labels, anything that score reads."),
    ],
    out: Annotated[Path, Option(help="Folder for the checkpoint and, at the end, the bundle.")],
    labels: Annotated[
        Path | None, Option(help="Table with a record_id, a patient_id and labels (CSV, Parquet).")
    ] = None,
    label: Annotated[
        list[str] | None, Option(help="Column to take as a label, several times; by default all that look like one.")
    ] = None,
    folds: Annotated[str | None, Option(help="Folds that train, choose and report, such as 1-7/8/9.")] = None,
    name: Annotated[str, Option(help="Name of the bundle.")] = "foundation",
    leads: Annotated[str, Option(help="8, 12, or a list such as I,II,V1.")] = "8",
    widths: Annotated[str, Option(help="Channels of the stem, then of each stage.")] = "32,64,96,128,160",
    depths: Annotated[str, Option(help="Residual blocks of each stage.")] = "2,2,2,1",
    stem_stride: Annotated[int, Option(help="What the stem divides the rate by: 1, 2 or 4.")] = 2,
    epochs: Annotated[int, Option(help="Passes over the training side, at most.")] = 60,
    batch: Annotated[int, Option(help="ECGs a step.")] = 64,
    lr: Annotated[float, Option(help="Peak of the learning rate.")] = 2e-3,
    seed: Annotated[int, Option(help="The same seed gives the same split and network.", min=0)] = 1,
    min_positives: Annotated[int, Option(help="Training positives that a label needs.", min=1)] = 20,
    balanced: Annotated[bool, Option("--balanced", help="Weigh a label's positives as much as its negatives.")] = False,
    licence: Annotated[str, Option(help="Licence of the data, which the weights carry.")] = "not stated",
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
    checkpoint_minutes: Annotated[float, Option(help="Time between checkpoints within an epoch.", min=0)] = 5,
    resume: Annotated[bool, Option("--resume", help="Go on from the checkpoint in --out.")] = False,
) -> None:
    """Train a foundation model and write it as a bundle that `score` takes.

    Example: ecgbatch train pretrain ptbxl.parquet --out training
    """
    with report_errors(), needs("train"):
        from ecgbatch.train import labels as tables
        from ecgbatch.train.pretrain import leads_of, numbers, pretrain, shaped
        from ecgbatch.train.training import Recipe

        made = pretrain(
            source,
            out,
            labels=tables.read(labels, label_columns=label or ()) if labels else None,
            columns=label or (),
            folds=folds,
            name=name,
            leads=leads_of(leads),
            architecture=shaped(numbers("widths", widths), numbers("depths", depths), stem_stride=stem_stride),
            recipe=Recipe(epochs=epochs, batch=batch, seed=seed, learning_rate=lr, is_balanced=balanced),
            n_positives=min_positives,
            licence=licence,
            command=spoken(),
            on=device,
            checkpoint_s=60 * checkpoint_minutes,
            is_resumed=resume,
            say=say,
        )
    print(made.folder)


@train.command("finetune")
def finetune_command(
    source: Annotated[list[str], Argument(help="A table of ECGs (Parquet); with --labels, anything that score reads.")],
    label: Annotated[str, Option(help="Column of 0 and 1, code, or COLUMN=VALUE of the positives.")],
    out: Annotated[Path, Option(help="Folder that gets the bundle, in a folder of its name.")],
    from_: Annotated[str, Option("--from", help="Bundle, or training or checkpoint, to begin with.")] = "foundation",
    against: Annotated[str | None, Option(help="Value of the negatives; all others by default.")] = None,
    labels: Annotated[
        Path | None, Option(help="Table with record_id, patient_id and the label (CSV, Parquet).")
    ] = None,
    depth: Annotated[str, Option(help="all, last (stages), head, or probe (a logistic regression).")] = "all",
    name: Annotated[str | None, Option(help="Name of the bundle; the label by default.")] = None,
    title: Annotated[str | None, Option(help="What the label stands for; the label by default.")] = None,
    licence: Annotated[str, Option(help="Licence of the data, which the weights carry.")] = "not stated",
    epochs: Annotated[int, Option(help="Passes over the training patients, at most.", min=1)] = 30,
    rate: Annotated[list[float] | None, Option(help="Learning rate to try; repeat it for several.")] = None,
    folds: Annotated[int, Option(help="Folds of the cross-validation.", min=2)] = 5,
    batch: Annotated[int, Option(help="ECGs a step.", min=2)] = 32,
    seed: Annotated[int, Option(help="The same seed gives the same bundle.", min=0)] = 1,
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Make a bundle of one new label from a few ECGs and a bundle that knows ECGs.

    Example: ecgbatch train finetune brugada.parquet --label brugada=1 --against 0 --from foundation --out bundles
    """
    with report_errors(), needs("train"):
        from ecgbatch.train import checkpoint, finetune, task
        from ecgbatch.train.arms import budget

        meaning = task.Meaning.of(label, against)
        making = finetune.Making(
            parent=checkpoint.find(from_),
            depth=finetune.depth(depth),
            name=name or meaning.code,
            title=title or meaning.code,
            licence=licence,
            command=spoken(),
            n_folds=folds,
            seed=seed,
        )
        spent = budget(epochs=epochs, rates=rate, depth=depth, batch=batch, device=device)
        known = task.read(source, making.parent.input, meaning, labels_path=labels)
        made = finetune.finetune(known, making, spent, out, say=say)
    print(made.folder)


@train.command("probe")
def probe_command(
    run: Annotated[Path, Argument(help="Run that was scored with --embeddings.", readable=False)],
    labels: Annotated[Path, Argument(help="Table with record_id, patient_id and the label (CSV, Parquet).")],
    label: Annotated[str, Option(help="Column of 0 and 1, code, or COLUMN=VALUE of the positives.")],
    out: Annotated[Path, Option(help="Folder that gets the bundle, in a folder of its name.")],
    model: Annotated[str, Option(help="Bundle whose embedding the run holds.")] = "foundation",
    against: Annotated[str | None, Option(help="Value of the negatives; all others by default.")] = None,
    name: Annotated[str | None, Option(help="Name of the bundle; the label by default.")] = None,
    title: Annotated[str | None, Option(help="What the label stands for; the label by default.")] = None,
    licence: Annotated[str, Option(help="Licence of the data, which the weights carry.")] = "not stated",
    folds: Annotated[int, Option(help="Folds of the cross-validation.", min=2)] = 5,
    seed: Annotated[int, Option(help="The same seed gives the same bundle.", min=0)] = 1,
) -> None:
    """Make a bundle of one new label, in seconds, from the embeddings that a run has stored.

    Example: ecgbatch train probe runs/2024 labels.csv --label brugada --out bundles
    """
    with report_errors(), needs("train"):
        from ecgbatch import bundle
        from ecgbatch.train import finetune, stored, task

        meaning = task.Meaning.of(label, against)
        making = finetune.Making(
            parent=bundle.find(model),
            depth="probe",
            name=name or meaning.code,
            title=title or meaning.code,
            licence=licence,
            command=spoken(),
            n_folds=folds,
            seed=seed,
        )
        made = stored.probe_run(run, labels, meaning, making, out, say=say)
    print(made.folder)


@train.command("compare")
def compare_command(
    source: Annotated[list[str], Argument(help="A table of ECGs (Parquet); with --labels, anything that score reads.")],
    label: Annotated[str, Option(help="Column of 0 and 1, code, or COLUMN=VALUE of the positives.")],
    out: Annotated[Path, Option(help="Folder of the comparison: new, or one to go on with.")],
    from_: Annotated[str, Option("--from", help="Bundle, or training or checkpoint, to begin with.")] = "foundation",
    against: Annotated[str | None, Option(help="Value of the negatives; all others by default.")] = None,
    labels: Annotated[
        Path | None, Option(help="Table with record_id, patient_id and the label (CSV, Parquet).")
    ] = None,
    depth: Annotated[str, Option(help="How deep fine-tuning goes: all, last (stages) or head.")] = "all",
    arms: Annotated[str, Option(help="What is compared.")] = "finetune,scratch,probe",
    positives: Annotated[str, Option(help="Positive patients to train on, such as 5,10,20,40,all.")] = "all",
    folds: Annotated[int, Option(help="Folds of each cross-validation.", min=2)] = 5,
    repeats: Annotated[int, Option(help="Cross-validations, each of another partition.", min=1)] = 2,
    seeds: Annotated[int, Option(help="Trainings of each fold.", min=1)] = 1,
    epochs: Annotated[int, Option(help="Passes over the training patients, at most.", min=1)] = 30,
    rate: Annotated[list[float] | None, Option(help="Learning rate every arm tries; repeat it for several.")] = None,
    batch: Annotated[int, Option(help="ECGs a step.", min=2)] = 32,
    seed: Annotated[int, Option(help="Of the first partition into folds; each repeat's is one more.", min=0)] = 0,
    seconds: Annotated[
        float | None, Option(help="Look at so many seconds of each ECG only, so that their length tells nothing.")
    ] = None,
    confounder: Annotated[
        list[str] | None, Option(help="Column that may leak the label, also seconds and fs_hz; repeat it.")
    ] = None,
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Compare fine-tuning with training from scratch, and with a probe, on the same folds.

    Example: ecgbatch train compare brugada.parquet --label brugada=1 --against 0 --out comparison
    """
    with report_errors(), needs("train"):
        from ecgbatch.train import checkpoint, compare, task
        from ecgbatch.train.arms import budget

        parent = checkpoint.find(from_)
        plan = compare.Plan(
            arms=compare.arms_of(arms),
            n_folds=folds,
            n_repeats=repeats,
            n_seeds=seeds,
            positives=compare.positives_of(positives),
            confounders=tuple(confounder or ()),
            seconds=seconds,
            seed=seed,
        )
        spent = budget(epochs=epochs, rates=rate, depth=depth, batch=batch, device=device)
        meaning = task.Meaning.of(label, against)
        known = task.read(source, parent.input, meaning, labels_path=labels, confounders=plan.confounders)
        report = compare.compare(known, parent, plan, spent, out, say=say)
    print(report)


@train.command("card")
def card_command(
    model: Annotated[str, Argument(help="Bundle folder whose CARD.md is written anew.")],
    data: Annotated[list[str] | None, Argument(help="What it was pre-trained on: its figures are taken anew.")] = None,
    labels: Annotated[Path | None, Option(help="Table of labels that it was pre-trained with.")] = None,
    label: Annotated[list[str] | None, Option(help="Label columns that it was pre-trained with; repeat it.")] = None,
    comparison: Annotated[list[Path] | None, Option(help="Folder of train compare to show; repeat it.")] = None,
) -> None:
    """Write a bundle's card anew: figures taken again from its weights, and what comparisons found.

    Example: ecgbatch train card bundles/foundation ptbxl.parquet --comparison cmp-brugada --comparison cmp-chagas
    """
    with report_errors(), needs("train"):
        from ecgbatch.train import checkpoint, pretrain, transfer
        from ecgbatch.train import labels as tables

        made = checkpoint.find(model)
        compared = [transfer.read(folder, made) for folder in comparison or ()]
        if data:
            given = tables.read(labels, label_columns=label or ()) if labels else None
            text = pretrain.card_of(made, data, labels=given, columns=label or ())
        else:
            text = transfer.card(made)
        path = transfer.added(made, text, compared)
    print(path)


@train.command("gate")
def gate_command(
    data: Annotated[Path, Argument(help="Parquet of ECGs with a column 'quality': acceptable or unacceptable.")],
    out: Annotated[Path, Option(help="Folder for gate.toml and its card.")],
) -> None:
    """Train the quality gate, with figures by cross-validation on its card.

    Example: ecgbatch train gate cinc2011_quality.parquet --out engines/quality
    """
    with report_errors(), needs("train"):
        from ecgbatch.train import quality_gate

        made = quality_gate.train(data, out)
    print(made)


if __name__ == "__main__":
    main()
