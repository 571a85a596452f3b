"""The command line: what cannot be done ends in one line that says what, and `inspect` shows what is there."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal
from typer.testing import CliRunner, Result

from ecgbatch import cli, console, inspection, record_report, run_report, synth
from ecgbatch.bundle import Bundle
from ecgbatch.errors import BundleError, MissingExtraError
from ecgbatch.feed import host
from ecgbatch.record import LEADS, Record
from ecgbatch.runtimes import cpu

TOO_LONG = "x" * 300
"""No file system takes such a name; to ask for it is an error of another kind than that nothing is there."""
HUGE = "9" * 23


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "archive"
    synth.write_archive(folder, 30, damaged=0.2)
    return folder


@pytest.fixture(scope="module")
def run_folder(archive: Path, tiny_bundle: Bundle) -> Path:
    """A finished run of three shards."""
    folder = archive.parent / "run"
    done = invoke("score", archive, "--out", folder, "--model", tiny_bundle.folder, "--shard-size", 10)
    assert done.exit_code == 3
    return folder


@pytest.fixture(scope="module")
def ecg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ecg") / "ecg.xml"
    path.write_bytes(synth.muse_xml(synth.record(seed=7, rhythm="sinus")))
    return path


@pytest.fixture
def copied(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of a bundle, to be damaged."""
    return Path(shutil.copytree(tiny_bundle.folder, tmp_path / "copy"))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def error_of(*arguments: object, exit_code: int = 1) -> str:
    """The only line of a command that fails on purpose."""
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (exit_code, ""), done.output
    (line,) = done.stderr.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_drawing_that_cannot_be_written_is_one_line(ecg_file, tmp_path, suffix):
    target = tmp_path / "nodir" / f"a.{suffix}"

    assert error_of("inspect", ecg_file, "--draw", target) == f"{target}: cannot be written: No such file or directory"


def test_a_path_that_cannot_be_looked_at_is_one_line():
    assert error_of("inspect", TOO_LONG, exit_code=3) == f"{TOO_LONG}: unreadable: File name too long"


def test_a_model_that_cannot_be_looked_at_is_one_line(archive, tmp_path):
    line = error_of("score", archive, "--out", tmp_path / "run", "--model", f"{tmp_path}/{TOO_LONG}")

    assert "no such bundle folder, nor a shipped bundle" in line


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("fs_hz = 250", 'fs_hz = "250"'),
        ("clip = 20.0", 'clip = "wide"'),
        ("seconds = 10.0", "seconds = inf"),
        ("[hashes]", "[[hashes]]"),
        ("[input]", "[[input]]"),
    ],
    ids=["text-for-a-number", "text-compared", "no-end", "hashes-a-list", "input-a-list"],
)
def test_a_bundle_with_a_value_of_the_wrong_kind_is_named(copied, good, bad):
    text = (copied / "bundle.toml").read_text("utf-8")
    assert good in text
    (copied / "bundle.toml").write_text(text.replace(good, bad, 1), "utf-8")

    with pytest.raises(BundleError, match="bundle 'copy'"):
        Bundle.load(copied)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [("AFIB,", "NORM,", "'NORM' is listed more than once"), (",0.5,", ",half,", "'half'")],
    ids=["listed-twice", "no-number"],
)
def test_a_bundle_whose_labels_make_no_sense_is_named(copied, good, bad, message):
    labels, toml = copied / "labels.csv", copied / "bundle.toml"
    before = hashlib.sha256(labels.read_bytes()).hexdigest()
    labels.write_bytes(labels.read_bytes().replace(good.encode(), bad.encode(), 1))
    after = hashlib.sha256(labels.read_bytes()).hexdigest()
    toml.write_text(toml.read_text("utf-8").replace(before, after), "utf-8")

    with pytest.raises(BundleError, match=rf"bundle 'copy': .*{message}"):
        Bundle.load(copied)


@pytest.mark.parametrize("option", ["--limit", "--batch", "--shard-size", "--workers"])
@pytest.mark.parametrize("value", ["0", HUGE], ids=["none", "huge"])
def test_a_number_of_score_out_of_range_is_a_usage_error(archive, tmp_path, option, value):
    done = invoke("score", archive, "--out", tmp_path / "run", option, value)

    assert (done.exit_code, done.stdout) == (2, "")
    assert f"'{option}'" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("option", "value"), [("--seed", "-1"), ("--n", "0"), ("--n", HUGE), ("--damaged", "1.5")])
def test_a_number_of_synth_out_of_range_is_a_usage_error(tmp_path, option, value):
    done = invoke("synth", tmp_path / "archive", option, value)

    assert (done.exit_code, done.stdout) == (2, "")
    assert f"'{option}'" in done.stderr
    assert not (tmp_path / "archive").exists()


def test_a_terminal_that_speaks_ascii_only_gets_escapes(ecg_file):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ecgbatch.cli", "inspect", ecg_file],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ecg_file.parent,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(r"muse-xml \xb7 500 Hz")


def test_a_path_where_nothing_is_fails_with_1(tmp_path):
    assert error_of("inspect", tmp_path / "nosuch.xml") == f"{tmp_path / 'nosuch.xml'}: no such file or folder"


def test_a_link_to_nothing_is_told_from_nothing(tmp_path):
    (tmp_path / "a.xml").symlink_to(tmp_path / "gone.xml")

    assert error_of("inspect", tmp_path / "a.xml") == f"{tmp_path / 'a.xml'}: a link to a file that is not there"


def test_a_folder_of_ecgs_is_not_taken_for_a_run(archive):
    assert error_of("inspect", archive).startswith(f"{archive}: a folder, but no run, pack or bundle")


def test_what_does_not_decode_is_named_with_its_reason_and_fails_with_3(tmp_path):
    (tmp_path / "a.xml").write_bytes(b"")

    assert error_of("inspect", tmp_path / "a.xml", exit_code=3).startswith(f"{tmp_path / 'a.xml'}: empty")


def test_a_training_is_inspected_as_the_bundle_that_it_ended_in(copied, tmp_path):
    training = tmp_path / "training"
    training.mkdir()
    (training / "checkpoint.safetensors").touch()
    assert "no run, pack or bundle" in error_of("inspect", training)

    copied.rename(training / "tiny")

    assert invoke("inspect", training).stdout == invoke("inspect", training / "tiny").stdout != ""


def test_a_shipped_bundle_is_inspected_by_its_name():
    done = invoke("inspect", "foundation")

    assert done.exit_code == 0
    assert done.stdout.startswith("foundation ")


def test_what_is_there_goes_before_a_shipped_bundle(tmp_path, monkeypatch):
    (tmp_path / "foundation").write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    assert error_of("inspect", "foundation", exit_code=3).startswith("foundation: empty")


def test_a_bundle_as_json_has_every_label_and_hash(tiny_bundle):
    found = json.loads(invoke("inspect", tiny_bundle.folder, "--json").stdout)

    assert found["fingerprint"] == tiny_bundle.fingerprint
    assert [label["code"] for label in found["labels"]] == tiny_bundle.codes
    assert found["hashes"] == tiny_bundle.hashes
    assert found["input"]["fs_hz"] == tiny_bundle.input.fs_hz


def test_a_finished_run_as_json_is_what_run_json_says(run_folder):
    assert json.loads(invoke("inspect", run_folder, "--json").stdout) == json.loads(
        (run_folder / "run.json").read_text("utf-8")
    )


@pytest.mark.parametrize("option", ["--draw", "--samples"])
@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_only_an_ecg_is_drawn_or_sampled(run_folder, tiny_bundle, tmp_path, kind, option):
    path = {"run": run_folder, "bundle": tiny_bundle.folder}[kind]

    assert f"a {kind};" in error_of("inspect", path, option, tmp_path / "a.svg", exit_code=2)
    assert not (tmp_path / "a.svg").exists()


def test_a_drawing_of_another_kind_is_refused_before_anything_is_written(ecg_file, tmp_path):
    line = error_of("inspect", ecg_file, "--draw", tmp_path / "a.jpg", "--samples", tmp_path / "a.npy", exit_code=2)

    assert "expected '.svg' or '.png'" in line
    assert not list(tmp_path.iterdir())


def test_no_lead_of_an_inspected_ecg_is_derived_from_a_flat_one(rng):
    one, two = rng.integers(-400, 400, (2, 500)) * 2
    counts = np.stack([np.zeros(500), two, two - one, *rng.integers(-900, 900, (6, 500))]).astype(np.int16)
    leads = ("I", "II", "III", *LEADS[6:])
    record = Record(
        format="test", fs_hz=500.0, leads=leads, counts=counts, uv_per_count=(1.0,) * 9, zero_counts=(0.0,) * 9
    )

    shown = dict(zip(LEADS, record_report.leads_uv(record), strict=True))

    assert not shown["I"].any()
    assert_array_equal(shown["III"], two - one)
    assert_array_equal(shown["aVR"], -(one + two) / 2)


def test_the_derived_leads_of_an_inspected_ecg_are_the_scores_column(scored, tmp_path):
    record = synth.record(seed=7, rhythm="sinus", leads=LEADS)
    record.counts[LEADS.index("aVR")] = 0  # flat, so that the engine derives it
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.xml").write_bytes(synth.muse_xml(record))

    facts = record_report.facts(inspection.record_of(tmp_path / "in" / "a.xml"))
    _, scores, _ = scored(tmp_path / "in")

    assert facts["leads_derived"] == scores["leads_derived"].to_list()[0] == ["aVR"]
    assert facts["flat_leads"] == scores["flat_leads"].to_list()[0] == ["aVR"]


def test_a_drawing_says_the_rate_once(ecg_file, tmp_path):
    assert invoke("inspect", ecg_file, "--draw", tmp_path / "a.svg").exit_code == 0
    text = (tmp_path / "a.svg").read_text("utf-8")

    assert text.count("500 Hz") == 1
    assert "muse-xml" in text


def test_the_counts_of_a_run_are_those_of_its_committed_parts(run_folder, tmp_path):
    stopped = Path(shutil.copytree(run_folder, tmp_path / "run"))
    (stopped / "scores" / "part-000002.parquet").unlink()  # its rejects are there, but not committed
    n_scored, n_rejected = (
        sum(pl.read_parquet(stopped / kind / f"part-00000{shard}.parquet").height for shard in (0, 1))
        for kind in ("scores", "rejects")
    )

    assert n_scored + n_rejected == 20
    assert f"scored {n_scored} · rejected {n_rejected} · of 30\n" in invoke("inspect", stopped).stdout


def test_a_run_says_how_many_ecgs_came_from_which_container(run_folder):
    formats = pl.read_parquet(run_folder / "scores" / "*.parquet")["format"].to_list()
    n_muse, n_wfdb = formats.count("muse-xml"), formats.count("wfdb")

    assert f"\nscored from muse-xml {n_muse}, wfdb {n_wfdb}\n" in invoke("inspect", run_folder).stdout


def test_a_run_without_a_scored_ecg_came_from_nowhere(run_folder, tmp_path):
    stopped = Path(shutil.copytree(run_folder, tmp_path / "run"))
    shutil.rmtree(stopped / "scores")

    assert "\nscored from none\n" in invoke("inspect", stopped).stdout


def test_lines_of_many_counts_break_between_them():
    lines = run_report._listed("rejected", {f"reason-{n}": 1_000_000 for n in range(9)})

    assert len(lines) == 2
    assert max(map(len, lines)) <= 120
    assert all("1 000 000" in part for line in lines for part in line.removesuffix(",").split(", "))


def test_all_containers_are_written_where_all_are_asked_for(tmp_path):
    assert invoke("synth", tmp_path / "a", "--n", 9, "--format", "all").exit_code == 0
    assert {path.suffix for path in (tmp_path / "a").rglob("*.*")} >= {".dcm", ".edf", ".hea", ".xml"}


def test_every_container_that_synth_writes_stands_in_its_help():
    assert not [name for name in synth.FORMATS if name not in cli._CONTAINERS]


def test_large_counts_are_spaced(run_folder, tmp_path):
    run = Path(shutil.copytree(run_folder, tmp_path / "run"))
    facts = json.loads((run / "run.json").read_text("utf-8"))
    facts["counts"]["entries"] = 1_000_000
    (run / "run.json").write_text(json.dumps(facts), "utf-8")

    assert " · of 1 000 000\n" in invoke("inspect", run).stdout


def test_a_called_label_is_shown_with_its_threshold(run_folder, tiny_bundle):
    first = pl.read_parquet(run_folder / "scores" / "part-000000.parquet").row(0, named=True)
    called = [(first[f"tiny/{label.code}"], label.code) for label in tiny_bundle.labels]
    shown = [f"{code} {p:.2f} (≥ 0.50)" for p, code in sorted(called, reverse=True) if p >= 0.5]
    shown[3:] = [f"+{len(shown) - 3}"] * (len(shown) > 3)
    lines = invoke("inspect", run_folder).stdout.splitlines()

    assert f"{first['record_id']:<29} {first['format']:<14} {' · '.join(shown) or 'none'}" in lines
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", ["torch", "onnx.helper"])
def test_a_missing_library_of_the_extra_is_named(name):
    with pytest.raises(MissingExtraError, match="train"), console.needs("train"):
        raise ModuleNotFoundError(name=name)


def test_any_other_missing_module_is_a_bug_and_propagates():
    with pytest.raises(ModuleNotFoundError, match="nosuch"), console.needs("train"):
        import ecgbatch.nosuch  # noqa: F401


def test_the_version_is_that_of_the_package():
    assert invoke("--version").stdout == f"ecgbatch {version('ecgbatch')}\n"


def test_an_engine_whose_stream_was_abandoned_scores_as_before(tiny_bundle, ecg):
    engine = cpu.load(tiny_bundle, batch=4)
    x = np.empty((4, len(tiny_bundle.input.leads), tiny_bundle.input.samples), np.float32)
    for out in x:
        host.normalise(ecg, tiny_bundle.input, out)
    expected, _ = engine(x)

    stream = engine.stream((None, x.copy()) for _ in range(50))
    next(stream)
    stream.close()

    np.testing.assert_array_equal(engine(x)[0], expected)


@pytest.mark.parametrize("words", [["--version"], ["models"], ["inspect", "foundation"]], ids=" ".join)
def test_standard_output_that_cannot_be_written_is_one_line(words):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:  # noqa: PTH123  # a device
        done = subprocess.run(
            [sys.executable, "-P", "-c", "from ecgbatch.cli import app; app()", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert done.stderr == "error: standard output: cannot be written: No space left on device\n"


def test_nothing_that_a_file_is_called_steers_a_terminal(capsys):
    console.say("error: a\x1b[2J\x9b.xml: no such file")
    console.show("a\x07\x1b]0;title\x07.xml\tMUSE\nb.xml")

    said = capsys.readouterr()
    assert said.err == "error: a\\u001b[2J\\u009b.xml: no such file\n"
    assert said.out == "a\\u0007\\u001b]0;title\\u0007.xml\tMUSE\nb.xml\n"


def test_with_stderr_closed_nothing_of_it_is_on_stdout(tmp_path):
    line = [sys.executable, "-m", "ecgbatch.cli", "score", tmp_path / "none", "--out", tmp_path / "run"]
    done = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *line], stdout=subprocess.PIPE, check=False)

    assert (done.returncode, done.stdout) == (1, b"")
