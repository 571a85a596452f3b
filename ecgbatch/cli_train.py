"""The commands about models: evaluating, calibrating and training them."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from ecgbatch.console import AGAIN, needs, report_errors, say, show, spoken

__all__ = ["add_commands"]

_RECORD_COLUMN = "Column that names the ECGs; record_id, source_path or path by default."
_PATIENT_COLUMN = "Column that tells patients apart; patient_id by default."
_LABEL_COLUMN = "A label's column, or the one column of codes; repeat it. By default, what looks like it."
_WIDE = 1000

train = typer.Typer(help="Train models from labelled ECGs.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Have `ecgbatch` know the commands of this module."""
    app.command("evaluate")(evaluate_command)
    app.command("calibrate")(calibrate_command)
    app.add_typer(train, name="train")


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
        if out:
            evaluation_card.require_suffix(out)
        if plot:
            reliability.require_suffix(plot)
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
        console = Console(width=_WIDE, color_system=None)  # as wide as it is: nothing is cut off
        with console.capture() as table:
            console.print(evaluation_card.table(measured))
        show(table.get().rstrip("\n"))
        for line in evaluation_card.notes(measured.facts):
            say(line)
    say(f"evaluated {measured.facts['n_records']} ECGs of {measured.facts['n_patients']} patients")


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
    show(out)


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
    devices: Annotated[int, Option(help="GPUs, or processes of a CPU, that share each batch.")] = 1,
    checkpoint_minutes: Annotated[float, Option(help="Time between checkpoints within an epoch.", min=0)] = 5,
    resume: Annotated[bool, Option("--resume", help="Go on from the checkpoint in --out.")] = False,
) -> None:
    """Train a foundation model and write it as a bundle that `score` takes.

    Example: ecgbatch train pretrain ptbxl.parquet --out training
    """
    with report_errors(way_on="--resume goes on from the last checkpoint, if there is one"), needs("train"):
        from ecgbatch.train import labels as tables
        from ecgbatch.train.architecture import leads_of, numbers, shaped
        from ecgbatch.train.pretrain import pretrain
        from ecgbatch.train.statements import NAMES
        from ecgbatch.train.training import Recipe

        made = pretrain(
            source,
            out,
            labels=tables.read(labels, label_columns=label or (), known_codes=NAMES) if labels else None,
            columns=label or (),
            folds=folds,
            name=name,
            leads=leads_of(leads),
            architecture=shaped(numbers("widths", widths), numbers("depths", depths), stem_stride=stem_stride),
            recipe=Recipe(
                epochs=epochs, batch=batch, seed=seed, learning_rate=lr, is_balanced=balanced, devices=devices
            ),
            n_positives=min_positives,
            licence=licence,
            command=spoken(),
            on=device,
            checkpoint_s=60 * checkpoint_minutes,
            is_resumed=resume,
            say=say,
        )
    show(made.folder)


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
    rate: Annotated[
        list[float] | None, Option(help="Learning rate to try; repeat it for several. By default 0.0005 and 0.002.")
    ] = None,
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
    show(made.folder)


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
    show(made.folder)


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
    rate: Annotated[
        list[float] | None,
        Option(help="Learning rate every arm tries; repeat it for several. By default 0.0005 and 0.002."),
    ] = None,
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
    with report_errors(way_on=AGAIN), needs("train"):
        from ecgbatch.errors import UsageError
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
        if depth == "probe":
            raise UsageError("--depth probe, expected all, last or head; --arms probe compares a probe")
        spent = budget(epochs=epochs, rates=rate, depth=depth, batch=batch, device=device)
        meaning = task.Meaning.of(label, against)
        known = task.read(source, parent.input, meaning, labels_path=labels, confounders=plan.confounders)
        report = compare.compare(known, parent, plan, spent, out, say=say)
    show(report)


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
        from ecgbatch.train import checkpoint, pretrain, transfer, variant
        from ecgbatch.train import labels as tables
        from ecgbatch.train.statements import NAMES

        made = checkpoint.find(model)
        compared = [transfer.read(folder, made) for folder in comparison or ()]
        if data:
            given = tables.read(labels, label_columns=label or (), known_codes=NAMES) if labels else None
            text = pretrain.card_of(made, data, labels=given, columns=label or ())
            for precision, found in made.parity.items():
                text = variant.card(text, precision, found)
        else:
            text = transfer.card(made)
        path = transfer.added(made, text, compared)
    show(path)


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
    show(made)
