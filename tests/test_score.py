"""Scoring: one row for every entry, the same scores however they are computed, and exit codes that mean something."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from typer.testing import CliRunner

from ecgbatch import cli, formats, planning, score, synth, waveform
from ecgbatch.bundle import SHIPPED, Bundle
from ecgbatch.errors import ArchiveError, EngineError, OutputError, UsageError
from ecgbatch.feed.ahead import ahead
from ecgbatch.feed.decoded import Chunk
from ecgbatch.record import LEADS, Reason, Reject
from ecgbatch.tally import Tally

N = 60
ORACLE_TOLERANCE = 1e-4
"""In probability, OpenVINO against PyTorch: far below what moves a decision."""
SAME = 1e-5
"""In probability, between two ways to run the same engine."""

COLUMNS = {
    "record_id": pl.String(),
    "source_path": pl.String(),
    "format": pl.String(),
    "waveform_hash": pl.String(),
    "acquired_at": pl.Datetime("us"),
    "device_model": pl.String(),
    "fs_hz": pl.Float64(),
    "seconds": pl.Float64(),
    "leads_derived": pl.List(pl.String()),
    "flat_leads": pl.List(pl.String()),
    "amplitude_uv": pl.Float32(),
    "quality": pl.Float32(),
    "poor_leads": pl.List(pl.String()),
    **dict.fromkeys(("flat_share", "clipped_share", "spike_uv", "wander_uv", "noise_uv", "mains_uv"), pl.Float32()),
    "qrs_uv": pl.Float32(),
    "qrs_agreement": pl.Float32(),
    "amplitude_suspect": pl.Boolean(),
    "limb_residual_uv": pl.Float32(),
    "leads_suspect": pl.Boolean(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Sixty ECGs in both formats at many rates, six of them damaged."""
    root = tmp_path_factory.mktemp("scored") / "archive"
    synth.write_archive(root, N, seed=5, damaged=0.1)
    return root


@pytest.fixture(scope="module")
def reference(folder, tiny_bundle, tmp_path_factory) -> pl.DataFrame:
    """The scores of an ordinary run, by record."""
    run = tmp_path_factory.mktemp("reference") / "run"
    score.run([folder], run, [tiny_bundle], score.Options())
    return pl.read_parquet(run / "scores").sort("record_id")


def labels(frame: pl.DataFrame, name: str = "tiny") -> np.ndarray:
    return frame.select(f"^{name}/[A-Z].*$").to_numpy()


def invoke(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_entry_ends_in_exactly_one_row(scored, folder):
    tally, scores, rejects = scored(folder, shard_size=13, batch=4)
    expected = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".xml", ".hea")}
    orphans = {name for name in rejects["record_id"] if Path(name).suffix in (".dat", ".mat")}
    found = [*scores["record_id"], *rejects["record_id"]]

    assert sorted(found) == sorted(expected | orphans)
    assert (tally.n_entries, tally.n_scored, tally.n_rejected) == (len(found), len(scores), len(rejects))
    assert len(rejects) == 6


def test_the_columns_are_those_that_scripts_rely_on(scored, folder, tiny_bundle):
    _, scores, rejects = scored(folder)

    assert scores.schema == COLUMNS | {f"tiny/{code}": pl.Float32() for code in tiny_bundle.codes}
    assert rejects.schema == dict.fromkeys(("record_id", "source_path", "stage", "reason", "detail"), pl.String())


def test_a_row_says_what_its_file_says(scored, tmp_path, ecg):
    path = tmp_path / "one.xml"
    path.write_bytes(synth.muse_xml(ecg))
    _, scores, _ = scored(path)
    row = scores.row(0, named=True)

    assert (row["record_id"], row["source_path"], row["format"]) == ("one.xml", str(path), "muse-xml")
    assert (row["acquired_at"], row["device_model"]) == (ecg.acquired_at, ecg.device_model)
    assert (row["fs_hz"], row["seconds"], row["flat_leads"]) == (500.0, 10.0, [])
    assert row["leads_derived"] == ["III", "aVR", "aVL", "aVF"]


def test_the_same_signal_has_the_same_hash_in_every_container(scored, tmp_path, ecg):
    (tmp_path / "a.xml").write_bytes(synth.muse_xml(ecg))
    twelve = synth.record(seed=7, rhythm="sinus", leads=LEADS)
    for name, content in {**synth.wfdb_files(ecg, "b"), **synth.wfdb_files(twelve, "c", container="mat")}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "d.xml").write_bytes(synth.muse_xml(synth.record(seed=8)))
    _, scores, _ = scored(tmp_path, out=tmp_path / "run")

    hashes = dict(scores.select("record_id", "waveform_hash").iter_rows())
    assert hashes["a.xml"] == hashes["b.hea"] == hashes["c.hea"] != hashes["d.xml"]
    assert len(hashes["a.xml"]) == 32


def test_scores_are_those_of_the_oracle_fed_by_the_reference(folder, reference, tiny_bundle):
    eager = pytest.importorskip("ecgbatch.runtimes.eager", reason="needs the extra 'train'")
    spec = tiny_bundle.input
    rows = reference.sample(12, seed=1)
    x = []
    for path in map(Path, rows["source_path"]):
        record = formats.decode(path.read_bytes(), path.name, lambda other, at=path: (at.parent / other).read_bytes())
        x.append(
            waveform.prepare(
                record,
                leads=spec.leads,
                fs_hz=spec.fs_hz,
                samples=spec.samples,
                scale_mv=np.array(spec.scale_mv),
                clip=spec.clip,
            )
        )
    expected = tiny_bundle.probabilities(eager.load(tiny_bundle)(np.stack(x))[0])

    assert_allclose(labels(rows), expected, rtol=0, atol=ORACLE_TOLERANCE)
    assert np.ptp(expected) > 0.5  # a model that says the same of everything would prove nothing


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 1},
        {"batch": 7},
        {"batch": 7, "workers": 5, "shard_size": 3},
        {"batch": 64, "shard_size": 1},
        {"shard_size": 9, "workers": 1},
        {"embeddings": True},
    ],
    ids=str,
)
def test_a_score_does_not_depend_on_how_it_was_computed(scored, folder, reference, options):
    _, scores, _ = scored(folder, **options)
    scores = scores.sort("record_id")

    assert_array_equal(scores["record_id"], reference["record_id"])
    assert_array_equal(scores["waveform_hash"], reference["waveform_hash"])
    assert_allclose(labels(scores), labels(reference), rtol=0, atol=SAME)


def test_a_score_does_not_depend_on_the_order_of_the_archive(scored, tmp_path, reference):
    shuffled = reference.sample(fraction=1, shuffle=True, seed=3)
    shuffled.select(path="source_path").write_csv(tmp_path / "list.csv")
    _, scores, _ = scored(tmp_path / "list.csv", batch=5)

    assert_array_equal(scores["source_path"], shuffled["source_path"])
    assert_allclose(labels(scores), labels(shuffled), rtol=0, atol=SAME)


def test_two_models_in_one_pass_score_as_each_alone(scored, folder, reference, tiny_bundle, other_bundle, tmp_path):
    _, alone, _ = scored(folder, out=tmp_path / "alone", bundles=(other_bundle,))
    _, both, _ = scored(folder, out=tmp_path / "both", bundles=(tiny_bundle, other_bundle), batch=6)
    both = both.sort("record_id")

    assert_allclose(labels(both), labels(reference), rtol=0, atol=SAME)
    assert_allclose(labels(both, "other"), labels(alone.sort("record_id"), "other"), rtol=0, atol=SAME)


def test_embeddings_are_the_oracles(scored, folder, tiny_bundle):
    eager = pytest.importorskip("ecgbatch.runtimes.eager", reason="needs the extra 'train'")
    _, scores, _ = scored(folder, embeddings=True, batch=8)
    embedding = np.array(scores["tiny/embedding"].to_list(), np.float32)
    network = eager.load(tiny_bundle).network
    logits = embedding @ network.head.weight.detach().numpy().T + network.head.bias.detach().numpy()

    assert scores.schema["tiny/embedding"] == pl.List(pl.Float32)
    assert_allclose(tiny_bundle.probabilities(logits), labels(scores), rtol=0, atol=ORACLE_TOLERANCE)


def test_a_run_of_rejects_only_has_the_columns_of_any_other(scored, tmp_path, folder):
    (tmp_path / "empty.xml").write_bytes(b"")
    _, nothing, rejects = scored(tmp_path / "empty.xml", out=tmp_path / "a", embeddings=True)
    _, scores, _ = scored(folder, out=tmp_path / "b", embeddings=True)

    assert nothing.schema == scores.schema
    assert (len(nothing), len(rejects)) == (0, 1)


def test_an_empty_archive_is_refused_and_leaves_no_run(tiny_bundle, tmp_path):
    (tmp_path / "archive").mkdir()
    done = invoke("score", tmp_path / "archive", "--out", tmp_path / "run", "--model", tiny_bundle.folder)

    assert done.exit_code == 1
    assert "holds no file" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_finished_run_keeps_its_facts_when_it_is_asked_for_again(scored, folder, tmp_path):
    scored(folder, out=tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    tally, *_ = scored(folder, out=tmp_path / "run")

    assert tally.n_done == tally.n_entries
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_facts_that_a_killed_run_left_unfinished_are_finished(scored, folder, tmp_path):
    scored(folder, out=tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_text(path.read_text().replace('"finished"', '"running"'))
    scored(folder, out=tmp_path / "run")

    assert json.loads(path.read_text())["status"] == "finished"


def test_a_run_that_is_stopped_says_so_with_what_it_committed(tiny_bundle, folder, tmp_path):
    def stop(tally):
        if tally.n_done >= 16:
            raise KeyboardInterrupt

    options = score.Options(shard_size=8, batch=8)
    with pytest.raises(KeyboardInterrupt):
        score.run([folder], tmp_path / "run", [tiny_bundle], options, observe=stop)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())

    assert facts["status"] == "stopped"
    assert facts["counts"]["scored"] + facts["counts"]["rejected"] == 16
    told = facts["invocation"]
    assert told["ecg_per_s"] == pytest.approx(told["entries"] / told["seconds"], rel=0.05)
    assert sum(told["stage_s"][stage] for stage in ("wait-feed", "wait-engine", "write")) <= told["seconds"] + 0.002


@pytest.mark.parametrize("feed", ["host", "dali"])
def test_how_far_leads_lie_from_zero_does_not_move_the_scores_of_a_model_that_ships(scored, tmp_path, feed, request):
    if feed == "dali":
        request.getfixturevalue("operator")
    for level in (0, 400, -700):  # of counts of about 5 µV
        record = synth.record(seed=3, rhythm="sinus")
        record.counts[:, :] += level
        (tmp_path / f"{level}.xml").write_bytes(synth.muse_xml(record))
    _, scores, _ = scored(*sorted(tmp_path.glob("*.xml")), bundles=[Bundle.load(SHIPPED / "foundation")], feed=feed)

    told = scores.select(pl.col("^foundation/.*$")).to_numpy()
    assert len(told) == 3
    assert_allclose(told, np.broadcast_to(told[:1], told.shape), atol=ORACLE_TOLERANCE)


def test_what_cannot_be_written_is_not_counted():
    tally = Tally("cpu")
    reject = Reject(record_id="a.xml", source_path="a.xml", stage="read", reason=Reason.EMPTY, detail="0 bytes")
    chunk = Chunk(shard=0, is_last=True, rows=[{}, {}], rejects=[reject], decode_s=3.0, prepare_s=2.0)
    with pytest.raises(OutputError), tally.written(chunk):
        raise OutputError("the disk is full")
    assert (tally.n_done, dict(tally.stage_s)) == (0, {})

    with tally.written(chunk):
        pass
    assert (tally.n_scored, tally.n_rejected) == (2, 1)
    assert (tally.stage_s["decode"], tally.stage_s["prepare"]) == (3.0, 2.0)


def test_a_shard_whose_rejects_cannot_be_written_is_not_committed(scored, folder, tmp_path):
    scored(folder, shard_size=20)
    scores, rejects = (tmp_path / "run" / kind / "part-000000.parquet" for kind in ("scores", "rejects"))
    scores.unlink()
    rejects.unlink()
    rejects.mkdir()

    with pytest.raises(OutputError, match=r"rejects/part-000000\.parquet: cannot be written"):
        scored(folder, shard_size=20)
    assert not scores.exists()


def test_a_limit_scores_the_first_entries_only(scored, folder):
    tally, scores, rejects = scored(folder, limit=7)

    assert tally.n_entries == len(scores) + len(rejects) == 7
    assert max([*scores["record_id"], *rejects["record_id"]]) < "site1/2015/05"


def test_every_part_carries_the_fingerprint_of_its_run(scored, folder, tmp_path):
    scored(folder, shard_size=20)
    facts = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    parts = sorted((tmp_path / "run").glob("*/part-*.parquet"))
    found = {json.loads(pq.read_metadata(part).metadata[b"ecgbatch"])["run"] for part in parts}

    assert len(parts) == 2 * -(-facts["counts"]["entries"] // 20)
    assert found == {facts["fingerprint"]}


def test_run_json_says_how_the_scores_came_to_be(scored, folder, tiny_bundle, tmp_path):
    tally, scores, rejects = scored(folder)
    facts = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))

    assert facts["status"] == "finished"
    assert facts["engine"] == "cpu openvino fp32"
    assert facts["counts"] == {
        "entries": tally.n_entries,
        "scored": len(scores),
        "rejected": len(rejects),
        "duplicate": 0,
        "rejects": dict(sorted(rejects["reason"].value_counts().iter_rows())),
    }
    (model,) = facts["models"]
    assert (model["name"], model["fingerprint"]) == ("tiny", tiny_bundle.fingerprint)
    assert [label["code"] for label in model["labels"]] == tiny_bundle.codes
    assert facts["settings"]["source"] == [str(folder)]
    assert {"ecgbatch", "numpy", "openvino", "polars"} <= set(facts["versions"])
    assert facts["invocation"]["entries"] == tally.n_entries
    assert facts["invocation"]["slowest"] in ("feed", "engine", "write")
    assert {"decode", "prepare", "write"} <= set(facts["invocation"]["stage_ecg_per_s"])


def test_exit_code_0_means_that_every_ecg_was_scored(tiny_bundle, tmp_path):
    synth.write_archive(tmp_path / "archive", 4)
    done = invoke("score", tmp_path / "archive", "--out", tmp_path / "run", "--model", tiny_bundle.folder)

    assert (done.exit_code, done.stdout) == (0, "")


def test_exit_code_3_means_finished_with_rejects_and_the_last_line_is_the_tally(folder, tiny_bundle, tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ecgbatch.cli", "score", folder, "--out", "run", "--model", tiny_bundle.folder],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1].startswith("scored 54 · rejected 6 · ")
    assert done.stderr.splitlines()[-1].endswith(" ECG/s · cpu openvino fp32")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--batch", "0"],
        ["--shard-size", "-1"],
        ["--limit", "0"],
        ["--workers", "0"],
        ["--device", "gpu"],
        ["--device", "cuda:0,0"],
        ["--precision", "int3"],
        ["--frobnicate"],
        ["--batch", "x"],
    ],
    ids=" ".join,
)
def test_exit_code_2_means_that_the_request_makes_no_sense(folder, tiny_bundle, tmp_path, arguments):
    done = invoke("score", folder, "--out", tmp_path / "run", "--model", tiny_bundle.folder, *arguments)

    assert (done.exit_code, done.stdout) == (2, "")
    assert not (tmp_path / "run").exists()


def test_two_models_of_one_name_are_refused(folder, tiny_bundle, tmp_path):
    with pytest.raises(UsageError, match="two models of one name"):
        score.run([folder], tmp_path / "run", [tiny_bundle, tiny_bundle], score.Options())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nonesuch"], "nonesuch"),
        (["--device", "cuda"], "cuda"),
        (["--precision", "fp16"], "fp16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_exit_code_1_means_that_the_run_failed_and_one_line_says_why(folder, tiny_bundle, tmp_path, arguments, message):
    chosen = ["--model", tiny_bundle.folder] if "--model" not in arguments else []
    done = invoke("score", folder, "--out", tmp_path / "run", *chosen, *arguments)
    (line,) = done.stderr.splitlines()

    assert (done.exit_code, done.stdout) == (1, "")
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "run").exists()


def test_what_others_put_into_a_new_run_folder_outlives_a_plan_that_fails(tiny_bundle, tmp_path):
    run, archive = tmp_path / "run", tmp_path / "archive"
    archive.mkdir()

    def written_meanwhile(_: str) -> None:
        run.mkdir()
        (run / "notes.txt").write_text("kept")

    with pytest.raises(ArchiveError, match="holds no file"):
        score.run([archive], run, [tiny_bundle], score.Options(), say=written_meanwhile)

    assert [path.name for path in run.iterdir()] == ["notes.txt"]


def test_a_source_that_is_not_there_leaves_no_run_behind(tiny_bundle, tmp_path):
    done = invoke("score", tmp_path / "nothing", "--out", tmp_path / "run", "--model", tiny_bundle.folder)

    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == f"error: {tmp_path / 'nothing'}: no such file or folder"
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_removed_hides_no_error(tmp_path):
    (tmp_path / "archive").mkdir()
    settings = {"source": ["archive"], "limit": None, "shard_size": 4}

    with pytest.raises(ArchiveError, match="holds no file"):
        planning.planned(tmp_path / "gone", [tmp_path / "archive"], settings, existed=False, say=print)


def test_a_listing_that_takes_long_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_TOLD_EVERY_S", -1.0)
    for name in "abc":
        (tmp_path / f"{name}.xml").touch()
    told: list[str] = []
    settings = {"source": [str(tmp_path)], "limit": None, "shard_size": 4}
    (tmp_path / "run").mkdir()

    planning.planned(tmp_path / "run", [tmp_path], settings, existed=True, say=told.append)

    assert told == [f"listing: {n} entries so far" for n in range(3)]


def resumable(scored, folder: Path, run: Path, redo: range) -> None:
    """A finished run of shards of four, of which `redo` are to be done again."""
    scored(folder, out=run, shard_size=4)
    for shard in redo:
        (run / "scores" / f"part-{shard:06}.parquet").unlink()


def test_an_entry_that_changed_after_planning_is_a_reject(scored, tmp_path, ecg):
    folder, run = tmp_path / "archive", tmp_path / "run"
    folder.mkdir()
    for i in range(8):
        (folder / f"{i}.xml").write_bytes(synth.muse_xml(ecg))
    for name, content in synth.wfdb_files(ecg, "w").items():
        (folder / name).write_bytes(content)
    resumable(scored, folder, run, range(3))
    (folder / "1.xml").write_bytes(synth.muse_xml(ecg) + b"\n")
    os.utime(folder / "3.xml", ns=(1, 1))
    (folder / "5.xml").unlink()
    (folder / "w.dat").write_bytes((folder / "w.dat").read_bytes() + b"\0\0")

    _, scores, rejects = scored(folder, out=run, shard_size=4)

    assert scores["record_id"].to_list() == ["0.xml", "2.xml", "4.xml", "6.xml", "7.xml"]
    assert dict(rejects.select("record_id", "reason").iter_rows()) == dict.fromkeys(
        ("1.xml", "3.xml", "5.xml", "w.hea"), "source-changed"
    )


def test_a_run_that_goes_on_lists_nothing_again(scored, tmp_path, ecg):
    folder, run = tmp_path / "archive", tmp_path / "run"
    synth.write_archive(folder, 10)
    resumable(scored, folder, run, range(1, 3))
    (folder / "aaa.xml").write_bytes(synth.muse_xml(ecg))
    (folder / "site1" / "new.xml").write_bytes(synth.muse_xml(ecg))
    tally, scores, _ = scored(folder, out=run, shard_size=4)

    assert (tally.n_entries, len(scores)) == (10, 10)
    assert tally.n_before == 4


def test_a_finished_run_is_left_alone(scored, folder, tmp_path):
    scored(folder)
    before = snapshot(tmp_path / "run")
    tally, _, _ = scored(folder)
    after = snapshot(tmp_path / "run")

    assert tally.n_before == tally.n_entries
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {"run.json", ".lock"}


@pytest.mark.parametrize(
    "options",
    [{"shard_size": 5}, {"limit": 5}, {"embeddings": True}, {"source": "b"}, {"bundles": "other"}],
    ids=lambda options: next(iter(options)),
)
def test_other_settings_on_an_existing_run_are_refused_and_change_nothing(
    scored, folder, tmp_path, other_bundle, options
):
    run = tmp_path / "run"
    scored(folder, out=run, shard_size=16)
    before = snapshot(run)
    source = folder / "site1" if options.pop("source", None) else folder
    bundles = (other_bundle,) if options.pop("bundles", None) else ()

    with pytest.raises(OutputError, match="holds a run with"):
        scored(source, out=run, bundles=bundles, **{"shard_size": 16, **options})
    assert snapshot(run) == before


def test_other_batches_and_workers_go_on_with_an_existing_run(scored, folder, tmp_path, reference):
    run = tmp_path / "run"
    resumable(scored, folder, run, range(3, 9))
    _, scores, _ = scored(folder, out=run, shard_size=4, batch=3, workers=4)

    assert_allclose(labels(scores.sort("record_id")), labels(reference), rtol=0, atol=SAME)


def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_was(scored, folder, tmp_path):
    run = tmp_path / "documents"
    run.mkdir()
    (run / "letter.txt").write_text("dear")
    before = sorted(run.iterdir())

    with pytest.raises(OutputError, match="letter"):
        scored(folder, out=run)
    assert sorted(run.iterdir()) == before


def test_a_file_in_the_place_of_the_run_folder_is_refused(scored, folder, tmp_path):
    (tmp_path / "run").write_text("dear")

    with pytest.raises(OutputError, match="run"):
        scored(folder, out=tmp_path / "run")


def test_a_run_inside_its_own_archive_does_not_score_itself(scored, tmp_path, ecg):
    (tmp_path / "a.xml").write_bytes(synth.muse_xml(ecg))
    for _ in range(2):
        tally, _, rejects = scored(tmp_path, out=tmp_path / "run")

        assert (tally.n_entries, len(rejects)) == (1, 0)


def test_a_source_whose_name_is_not_utf8_is_scored(scored, tmp_path, ecg):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "a.xml").write_bytes(synth.muse_xml(ecg))
    tally, _, rejects = scored(folder)

    assert tally.n_entries == 1
    assert rejects["reason"].to_list() == ["unreadable"]
    assert json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["status"] == "finished"


def test_an_engine_that_does_not_reproduce_the_reference_scores_is_not_admitted(tiny_bundle, tmp_path):
    import hashlib
    import shutil

    copy = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "tiny"))
    golden = pl.read_parquet(copy / "golden.parquet")
    golden = golden.with_columns(pl.col("probabilities").list.eval(1 - pl.element()))
    golden.write_parquet(copy / "golden.parquet")
    digest = hashlib.sha256((copy / "golden.parquet").read_bytes()).hexdigest()
    text = (copy / "bundle.toml").read_text("utf-8")
    (copy / "bundle.toml").write_text(text.replace(tiny_bundle.hashes["golden.parquet"], digest), "utf-8")

    with pytest.raises(EngineError, match="reference scores missed"):
        score.run([tmp_path], tmp_path / "run", [Bundle.load(copy)], score.Options())
    assert not (tmp_path / "run").exists()


def test_scoring_loads_no_usage_statistics():
    code = "import ecgbatch.runtimes.cpu, sys; print(sys.modules['openvino_telemetry'])"

    assert (
        subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
        == "None\n"
    )


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="needs Linux's scheduler")
def test_the_feeds_threads_take_long_turns_and_no_others_do():
    policies = set(ahead(lambda _: os.sched_getscheduler(0), range(8), 2))

    assert policies == {os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
