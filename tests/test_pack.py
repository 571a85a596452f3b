"""Packs: decoded once, scored like the loose files to the bit, gone on with after a kill, opened by anyone."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from ecgbatch import archive, cli, formats, gate, pack, score, synth
from ecgbatch.archive import Entry
from ecgbatch.errors import ArchiveError, FeedError, OutputError
from ecgbatch.feed import batch, host
from ecgbatch.feed.batch import batches
from ecgbatch.formats import pack as parts
from ecgbatch.formats import pack_layout as layout
from ecgbatch.plan import Shard
from ecgbatch.record import INDEPENDENT_LEADS, INVALID, LEADS, Quality, Reason, Record, Reject

N = 150
N_KILLS = 12
PACKED_AS = {"record_id", "source_path"}
"""Columns of scores that say where an ECG lies, so differ between the pack and the loose files."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """ECGs in every container that synth writes, some folders packed, some files damaged."""
    root = tmp_path_factory.mktemp("pack") / "archive"
    synth.write_archive(root, N, seed=3, formats=synth.FORMATS, damaged=0.15, packed=0.3)
    return root


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory) -> Path:
    """A pack of it in five parts."""
    out = tmp_path_factory.mktemp("packed") / "pack"
    pack.run([folder], out, pack.Options(shard_size=37))
    return out


@pytest.fixture
def copy(packed, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(packed, tmp_path / "pack"))


def scan(*sources: Path) -> list[Entry]:
    return list(archive.scan(sources, companions=formats.companions, skip=Path("/nonexistent")))


def rows(out: Path, kind: str = "records") -> pl.DataFrame:
    return pl.concat([pl.read_parquet(part) for part in sorted((out / kind).glob("part-*.parquet"))])


def reasons(entries: list[Entry]) -> dict[str, Reason]:
    found = {entry.member: batch.read(entry) for entry in entries}
    return {member: outcome.reason for member, outcome in found.items() if isinstance(outcome, Reject)}


def invoke(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def original(record_id: str) -> str:
    """What a record of a pack was called in the source that was packed."""
    return record_id.partition("#")[2]


def command(folder: Path, out: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "ecgbatch.cli", "pack", str(folder), "--out", str(out), "--shard-size", "37"]


def assert_same_pack(out: Path, expected: Path) -> None:
    for kind in ("records", "rejects"):
        assert sorted(part.name for part in (out / kind).iterdir()) == sorted(
            part.name for part in (expected / kind).iterdir()
        )
        assert_frame_equal(rows(out, kind), rows(expected, kind))


def rewritten(part: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write the part again with other rows; its size and modification are others too."""
    table = pq.read_table(part)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), part, compression="lz4")


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def test_every_record_comes_out_of_a_pack_as_it_went_in(folder, packed):
    loose = {entry.record_id: batch.read(entry) for entry in scan(folder)}
    kept = {entry.member: batch.read(entry) for entry in scan(packed)}
    whole = {record_id: record for record_id, record in loose.items() if isinstance(record, Record)}

    assert list(kept) == list(whole)
    assert {record.format for record in whole.values()} == {*synth.FORMATS, "hdf5-code15"}
    for record_id, record in whole.items():
        found = kept[record_id]
        for name in ("format", "fs_hz", "leads", "uv_per_count", "zero_counts", "acquired_at", "device_model"):
            assert getattr(found, name) == getattr(record, name), (record_id, name)
        assert_array_equal(host.nanovolts(found, record.leads), host.nanovolts(record, record.leads))
        assert batch.waveform_hash(host.nanovolts(found, INDEPENDENT_LEADS), 1.0) == batch.waveform_hash(
            host.nanovolts(record, INDEPENDENT_LEADS), 1.0
        )


def test_neighbours_in_a_part_are_read_from_it_as_it_is_at_the_first_of_them(packed, monkeypatch):
    entries = scan(packed)
    looked_at = []
    records = batch.formats.records

    def counted(path):
        looked_at.append(path)
        return records(path)

    monkeypatch.setattr(batch.formats, "records", counted)
    outcomes = list(batch.read_all(entries))

    assert len(outcomes) == len(entries) > 2
    assert looked_at == list(dict.fromkeys(entry.path for entry in entries))


def test_scores_from_a_pack_are_those_of_the_loose_files_to_the_bit(scored, folder, packed, tmp_path):
    _, loose, loose_rejects = scored(folder, out=tmp_path / "loose")
    _, kept, kept_rejects = scored(packed, out=tmp_path / "kept", batch=32, shard_size=50)
    prepared = loose_rejects.filter(pl.col("stage") == "prepare")

    assert [original(record_id) for record_id in kept["record_id"]] == loose["record_id"].to_list()
    assert_frame_equal(kept.drop(PACKED_AS), loose.drop(PACKED_AS), check_exact=True)
    assert [original(record_id) for record_id in kept_rejects["record_id"]] == prepared["record_id"].to_list()
    assert_frame_equal(kept_rejects.drop(PACKED_AS), prepared.drop(PACKED_AS))


def test_the_rejects_of_a_pack_are_those_of_a_run_but_for_what_only_a_model_asks(scored, folder, packed):
    _, _, rejects = scored(folder)

    assert_frame_equal(rows(packed, "rejects"), rejects.filter(pl.col("stage") != "prepare"))


def test_hash_and_quality_in_a_pack_are_those_of_the_scores(scored, folder, packed):
    _, scores, _ = scored(folder)
    names = ["record_id", "waveform_hash", *(field.name for field in fields(Quality))]
    kept = scores.select("record_id").join(rows(packed).select(names), on="record_id", maintain_order="left")

    assert_frame_equal(kept.cast(scores.select(names).schema), scores.select(names), check_exact=True)


def test_what_the_pack_knows_is_not_found_out_again(scored, packed, monkeypatch):
    _, scores, _ = scored(packed)
    monkeypatch.setattr(gate, "measure", None)
    monkeypatch.setattr(batch, "waveform_hash", None)

    assert_frame_equal(scored(packed)[1], scores)


def test_another_gate_judges_anew(scored, packed, tmp_path, monkeypatch):
    _, scores, _ = scored(packed, out=tmp_path / "one")
    shipped = gate.shipped()
    another = replace(shipped, version="another", intercept=shipped.intercept + 1)
    monkeypatch.setattr(gate, "shipped", lambda: another)
    parts._opened.cache_clear()
    _, found, _ = scored(packed, out=tmp_path / "other")
    parts._opened.cache_clear()

    assert (found["quality"] > scores["quality"]).all()
    assert_frame_equal(found.drop("quality"), scores.drop("quality"))


def test_every_entry_ends_in_one_row_and_the_report_says_how_many(folder, packed):
    report = json.loads((packed / "pack.json").read_text())
    counts = report["counts"]

    assert report["status"] == "finished"
    assert counts["entries"] == counts["packed"] + counts["rejected"] == len(scan(folder))
    assert (counts["packed"], counts["rejected"]) == (len(rows(packed)), len(rows(packed, "rejects")))
    assert sum(counts["rejects"].values()) == counts["rejected"] > 0


def test_the_command_tells_what_it_did_and_exits_as_score_does(folder, tmp_path):
    done = invoke("pack", folder, "--out", tmp_path / "pack", "--limit", "40", "--workers", "1")
    report = json.loads((tmp_path / "pack" / "pack.json").read_text())["counts"]

    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1].startswith(f"packed {report['packed']} · rejected {report['rejected']} · ")
    assert report["packed"] + report["rejected"] == 40


def test_a_pack_of_good_files_exits_with_0_and_a_second_call_has_nothing_left(tmp_path, ecg):
    (tmp_path / "a.xml").write_bytes(synth.muse_xml(ecg))
    first = invoke("pack", tmp_path / "a.xml", "--out", tmp_path / "pack")
    before = (tmp_path / "pack" / "records" / "part-000000.parquet").stat().st_mtime_ns
    second = invoke("pack", tmp_path / "a.xml", "--out", tmp_path / "pack")

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "nothing left to pack" in second.stderr
    assert (tmp_path / "pack" / "records" / "part-000000.parquet").stat().st_mtime_ns == before


def test_a_pack_of_a_pack_holds_the_same_records(scored, packed, tmp_path):
    pack.run([packed], tmp_path / "again", pack.Options())
    first, second = rows(packed), rows(tmp_path / "again")

    assert [original(record_id) for record_id in second["record_id"]] == first["record_id"].to_list()
    assert_frame_equal(second.drop(PACKED_AS), first.drop(PACKED_AS))


@pytest.mark.parametrize("inside", [False, True], ids=["pack", "folder-with-a-pack"])
def test_of_a_pack_its_records_are_entries_and_nothing_else(packed, tmp_path, ecg, inside):
    source = packed
    if inside:
        source = tmp_path / "archive"
        shutil.copytree(packed, source / "b")
        (source / "c.xml").write_bytes(synth.muse_xml(ecg))
    ids = rows(packed)["record_id"].to_list()
    entries = scan(source)
    of_pack = [entry for entry in entries if entry.member]

    assert [entry.member for entry in of_pack] == ids
    assert of_pack[0].record_id == f"{'b/' if inside else ''}records/part-000000.parquet#{ids[0]}"
    assert [entry.record_id for entry in entries if not entry.member] == (["c.xml"] if inside else [])


def test_a_part_alone_is_a_source(scored, packed):
    part = packed / "records" / "part-000001.parquet"
    _, scores, rejects = scored(part)

    assert len(scores) + len(rejects) == pq.read_metadata(part).num_rows
    assert scores["source_path"][0].startswith(f"{part}#")


def test_a_manifest_in_parquet_is_still_one(scored, tmp_path, ecg):
    (tmp_path / "a.xml").write_bytes(synth.muse_xml(ecg))
    pl.DataFrame({"path": ["a.xml"]}).write_parquet(tmp_path / "list.parquet")
    _, scores, _ = scored(tmp_path / "list.parquet")

    assert scores["record_id"].to_list() == ["a.xml"]


def test_an_unfinished_pack_is_no_source_but_goes_on_to_one(folder, packed, copy, tmp_path):
    (copy / "records" / "part-000002.parquet").unlink()
    done = invoke("score", copy, "--out", tmp_path / "run")

    assert done.exit_code == 1
    assert "a pack with 4 of 5 parts; finish it" in done.stderr
    assert not (tmp_path / "run").exists()
    pack.run([folder], copy, pack.Options(shard_size=37))
    assert_same_pack(copy, packed)


def test_killed_at_random_moments_a_pack_ends_with_the_rows_of_an_undisturbed_one(folder, packed, tmp_path):
    moments = random.Random(12)
    out, n_kills, n_runs = tmp_path / "pack-0", 0, 0
    while n_kills < N_KILLS:
        process = subprocess.Popen(command(folder, out), stderr=subprocess.DEVNULL)
        goal = moments.choice([0, 1, 1, 2])
        before = len(list(out.glob("records/part-*.parquet")))
        while process.poll() is None and not (
            (out / "plan.parquet").exists() and len(list(out.glob("records/part-*.parquet"))) >= before + goal
        ):
            time.sleep(0.001)
        time.sleep(moments.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            n_kills += 1
        else:
            assert_same_pack(out, packed)
            n_runs += 1
            out = tmp_path / f"pack-{n_runs}"
    done = subprocess.run(command(folder, out), check=False, capture_output=True, text=True)

    assert done.returncode == 3, done.stderr
    assert_same_pack(out, packed)
    assert list(out.rglob("*.partial")) == []


def test_what_a_killed_commit_leaves_is_overwritten(folder, packed, copy):
    (copy / "records" / "part-000001.parquet").unlink()
    (copy / "records" / "part-000001.parquet.partial").write_bytes(b"PAR1 half a part")
    (copy / "rejects" / "part-000001.parquet").write_bytes(b"rejects whose records were never committed")
    pack.run([folder], copy, pack.Options(shard_size=37))

    assert_same_pack(copy, packed)
    assert list(copy.rglob("*.partial")) == []


@pytest.mark.parametrize("compression", layout.COMPRESSIONS)
def test_compression_changes_the_size_and_not_the_records(folder, packed, tmp_path, compression):
    pack.run([folder], tmp_path / "pack", pack.Options(shard_size=37, compression=compression))
    part = pq.read_metadata(tmp_path / "pack" / "records" / "part-000000.parquet").row_group(0)
    kept = {part.column(at).path_in_schema: part.column(at).compression.lower() for at in range(part.num_columns)}

    assert kept["counts"] == {"none": "uncompressed"}.get(compression, compression)
    assert kept["record_id"] == "lz4"
    assert_same_pack(tmp_path / "pack", packed)
    assert len(reasons(scan(tmp_path / "pack"))) == 0


def test_a_compression_that_is_not_offered_is_a_usage_error(folder, tmp_path):
    done = invoke("pack", folder, "--out", tmp_path / "pack", "--compression", "gzip")

    assert done.exit_code == 2
    assert "expected none, lz4, zstd" in done.stderr
    assert not (tmp_path / "pack").exists()


def test_other_settings_on_an_existing_pack_are_refused(folder, copy, tmp_path, scored, tiny_bundle):
    with pytest.raises(OutputError, match="shard-size 37, not 38"):
        pack.run([folder], copy, pack.Options(shard_size=38))
    with pytest.raises(
        OutputError, match="holds a pack with compression none, not zstd; use another --out for another pack"
    ):
        pack.run([folder], copy, pack.Options(shard_size=37, compression="zstd"))
    with pytest.raises(OutputError, match="holds a pack, expected a new folder or a run"):
        score.run([folder], copy, [tiny_bundle], score.Options())
    scored(folder, out=tmp_path / "run")
    with pytest.raises(OutputError, match="holds a run, expected a new folder or a pack"):
        pack.run([folder], tmp_path / "run", pack.Options())


def test_a_folder_of_something_else_is_left_alone(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    done = invoke("pack", folder, "--out", tmp_path / "out")

    assert done.exit_code == 1
    assert "thesis.txt" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_full_disk_ends_it_in_one_line_and_more_room_lets_it_go_on(folder, packed, small_disk):
    out = small_disk / "pack"
    done = subprocess.run(command(folder, out), check=False, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]

    assert done.returncode == 1
    assert last.startswith(f"error: {out}/records/part-000000.parquet: cannot be written: No space left on device")
    assert "Traceback" not in done.stderr
    assert list(out.rglob("*.partial")) == []
    subprocess.run(["mount", "-o", "remount,size=256m", small_disk], check=True)
    assert subprocess.run(command(folder, out), check=False, capture_output=True).returncode == 3
    assert_same_pack(out, packed)


def test_a_file_that_may_not_grow_ends_it_in_one_line(folder, tmp_path):
    if shutil.which("prlimit") is None:
        pytest.skip("needs prlimit")
    line = ["prlimit", "--fsize=200000", *command(folder, tmp_path / "pack")]
    done = subprocess.run(line, check=False, capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/pack/records/part-000000.parquet: cannot be")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.rglob("*.partial")) == []


def flipped(part: Path, record_id: str) -> None:
    """One bit of a record's samples changed, as a disk does it: size and modification stay."""
    table = pq.read_table(part)
    counts = table["counts"].to_pylist()
    at = table["record_id"].to_pylist().index(record_id)
    counts[at] = bytes([counts[at][0] ^ 4]) + counts[at][1:]
    rewritten(part, lambda table: with_column(table, "counts", counts))


def test_a_sample_that_is_not_what_was_packed_is_a_reject_and_its_neighbours_are_not(copy):
    part = copy / "records" / "part-000000.parquet"
    victim = pl.read_parquet(part)["record_id"][3]
    flipped(part, victim)

    assert reasons(scan(copy)) == {victim: Reason.CHECKSUM}


def test_a_part_that_changed_since_the_plan_is_not_read(copy):
    entries = scan(copy / "records" / "part-000001.parquet")
    rewritten(copy / "records" / "part-000001.parquet", lambda table: table.slice(1))

    assert set(reasons(entries).values()) == {Reason.SOURCE_CHANGED}
    assert len(reasons(entries)) == len(entries)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet at all" * 100], ids=["empty", "cut", "other"])
def test_a_part_replaced_by_anything_since_the_plan_is_not_read(copy, content):
    entries = scan(copy)
    (copy / "records" / "part-000001.parquet").write_bytes(content)

    gone = [entry.member for entry in entries if entry.path.endswith("part-000001.parquet")]
    assert reasons(entries) == dict.fromkeys(gone, Reason.SOURCE_CHANGED)


def test_a_part_that_is_gone_since_the_plan_is_unreadable(copy):
    entries = scan(copy)
    (copy / "records" / "part-000001.parquet").unlink()

    assert set(reasons(entries).values()) == {Reason.UNREADABLE}


@pytest.mark.parametrize("n", [0, 4, 1000, -1, -8, -500])
def test_a_part_cut_before_the_plan_is_one_reject(copy, n):
    part = copy / "records" / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:n])
    entries = [entry for entry in scan(copy) if entry.path == str(part)]

    assert [entry.member for entry in entries] == [None]
    assert reasons(entries) == {None: Reason.EMPTY if n == 0 else Reason.MALFORMED}


@pytest.mark.parametrize("method", ["read", "read_row_group"], ids=["facts", "samples"])
def test_where_there_is_no_more_memory_no_record_of_a_pack_is_rejected_for_it(copy, tmp_path, monkeypatch, method):
    entry = scan(copy)[0]

    def read_without(n_bytes: int) -> Record | Reject:
        def fail(*_: object, **__: object) -> None:
            raise pa.ArrowMemoryError(f"malloc of size {n_bytes} failed")

        unopened = str(shutil.copy2(entry.path, tmp_path / f"{n_bytes}.parquet"))
        with monkeypatch.context() as patch:
            patch.setattr(pq.ParquetFile, method, fail)
            return batch.read(entry._replace(path=unopened))

    with pytest.raises(FeedError, match="no memory for 1048576 bytes of a pack; take fewer --workers"):
        read_without(2**20)
    assert isinstance(read_without(2**40), Reject)  # only a damaged file asks for that much


def test_bytes_damaged_anywhere_give_rejects_or_the_same_records(copy, rng):
    part = copy / "records" / "part-000000.parquet"
    whole, good = part.read_bytes(), {entry.member: batch.read(entry) for entry in scan(part.parent / part.name)}
    for at in rng.integers(0, len(whole), 60):
        part.write_bytes(whole[:at] + bytes([whole[at] ^ int(rng.integers(1, 256))]) + whole[at + 1 :])
        for entry in scan(part.parent):
            found = batch.read(entry) if entry.path == str(part) else None
            if isinstance(found, Record):
                expected = good[entry.member]
                assert_array_equal(found.counts, expected.counts)
                assert (found.fs_hz, found.uv_per_count) == (expected.fs_hz, expected.uv_per_count)


def lists(table: pa.Table, name: str, value: list) -> pa.Table:
    return with_column(table, name, [value, *table[name].to_pylist()[1:]])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda table: lists(table, "fs_hz", 0.0), Reason.UNKNOWN_RATE),
        (lambda table: lists(table, "uv_per_count", [float("nan")] * 8), Reason.MALFORMED),
        (lambda table: lists(table, "uv_per_count", [float("nan")] * len(LEADS)), Reason.UNKNOWN_GAIN),
        (lambda table: lists(table, "leads", ["I"] * len(LEADS)), Reason.DUPLICATE_LEAD),
        (lambda table: lists(table, "leads", ["X", *LEADS[1:]]), Reason.MALFORMED),
        (lambda table: lists(table, "n_samples", 2**30), Reason.MALFORMED),
        (lambda table: lists(table, "n_samples", -1), Reason.MALFORMED),
        (lambda table: lists(table, "count_bits", 8), Reason.MALFORMED),
        (lambda table: lists(table, "waveform_hash", "Jane Doe"), Reason.MALFORMED),
        (lambda table: lists(table, "quality", None), Reason.MALFORMED),
        (lambda table: lists(table, "poor_leads", ["Jane Doe"]), Reason.MALFORMED),
    ],
    ids=[
        *("rate", "gains", "gain", "leads-twice", "leads", "too-many", "negative", "bits"),
        *("hash", "no-quality", "poor-leads"),
    ],
)
def test_a_row_that_contradicts_itself_is_a_reject(tmp_path, change, reason):
    (tmp_path / "a.xml").write_bytes(synth.muse_xml(synth.record(seed=1, leads=LEADS)))
    pack.run([tmp_path / "a.xml"], tmp_path / "pack", pack.Options())
    rewritten(tmp_path / "pack" / "records" / "part-000000.parquet", change)

    assert reasons(scan(tmp_path / "pack")) == {"a.xml": reason}


@pytest.mark.parametrize("what", ["columns", "version"])
def test_a_pack_of_another_version_is_not_read(copy, what):
    part = copy / "records" / "part-000001.parquet"
    if what == "columns":
        rewritten(part, lambda table: table.drop_columns(["zero_counts"]))
    else:
        pq.write_table(pq.read_table(part).replace_schema_metadata({"ecgbatch": json.dumps({"pack": 1})}), part)

    assert set(reasons([entry for entry in scan(copy) if entry.path == str(part)]).values()) == {Reason.UNKNOWN_FORMAT}


def test_parquet_of_something_else_is_an_unknown_format(tmp_path):
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "a.parquet")

    assert reasons(scan(tmp_path)) == {None: Reason.UNKNOWN_FORMAT}


@pytest.mark.parametrize(
    ("values", "invalid", "bits"),
    [
        ([-32767, 0, 32767], None, 16),
        ([-32767, INVALID, 32767], INVALID, 16),
        ([INVALID, INVALID, INVALID], INVALID, 16),
        ([-32768, 0, 1], None, 32),
        ([0, 0, 32768], None, 32),
        ([INVALID, 0, 40000], INVALID, 32),
    ],
    ids=["fit", "fit-with-gap", "only-gaps", "too-low", "too-high", "too-high-with-gap"],
)
def test_int32_counts_are_kept_as_int16_only_where_that_loses_nothing(values, invalid, bits):
    counts = np.array([values], np.int32)
    record = Record(
        format="npy",
        fs_hz=500.0,
        leads=("I",),
        counts=counts,
        uv_per_count=(1.0,),
        zero_counts=(0.0,),
        invalid_count=invalid,
    )
    row = layout.row("a", "/a", record, None)
    kept = np.frombuffer(row["counts"], f"<i{bits // 8}")

    assert row["count_bits"] == bits
    assert_array_equal(kept == row["invalid_count"], counts[0] == invalid)
    assert_array_equal(kept[counts[0] != invalid], counts[0][counts[0] != invalid])


def test_samples_of_any_strides_are_kept_lead_after_lead(rng):
    counts = rng.integers(-500, 500, (100, 3)).astype(np.int16)
    record = Record(
        format="wfdb",
        fs_hz=500.0,
        leads=("I", "II", "V1"),
        counts=counts.T,
        uv_per_count=(1.0,) * 3,
        zero_counts=(0.0,) * 3,
    )
    row = layout.row("a", "/a", record, None)

    assert_array_equal(np.frombuffer(row["counts"], "<i2").reshape(3, 100), counts.T)


def test_row_groups_are_small_and_a_large_part_is_written_in_several(tmp_path, ecg):
    content = synth.muse_xml(ecg)
    (tmp_path / "archive").mkdir()
    for at in range(150):
        (tmp_path / "archive" / f"{at:03}.xml").write_bytes(content)
    pack.run([tmp_path / "archive"], tmp_path / "pack", pack.Options())
    metadata = pq.read_metadata(tmp_path / "pack" / "records" / "part-000000.parquet")

    assert [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)] == [64, 64, 22]


def test_many_threads_read_a_part_as_one_does(packed):
    entries = scan(packed)
    spec = []

    def hashes(workers: int) -> list[str]:
        found = batches([Shard(0, entries)], spec, size=7, workers=workers)
        return [row.waveform_hash for part in found for row in part.rows]

    assert hashes(8) == hashes(1)


def test_no_name_birth_date_or_patient_number_is_in_a_pack(tmp_path):
    secret = "SECRET-4711"
    made = synth.record(seed=3, leads=LEADS)
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "a.xml").write_bytes(synth.muse_xml(made, patient_id=secret))
    (tmp_path / "archive" / "b.dcm").write_bytes(synth.dicom_file(made, patient_id=secret))
    (tmp_path / "archive" / "c.xml").write_bytes(synth.philips_xml(made, patient_id=secret))
    pack.run([tmp_path / "archive"], tmp_path / "pack", pack.Options())

    assert len(rows(tmp_path / "pack")) == 3
    assert not [path for path in (tmp_path / "pack").rglob("*.json") if secret in path.read_text()]
    assert secret not in str(rows(tmp_path / "pack").drop("counts").rows())
    assert list(rows(tmp_path / "pack").columns) == layout.SCHEMA.names


def test_polars_opens_a_pack(packed, folder):
    row = pl.scan_parquet(packed / "records").filter(pl.col("count_bits") == 16).head(1).collect().row(0, named=True)
    counts = np.frombuffer(row["counts"], "<i2").reshape(len(row["leads"]), row["n_samples"])

    assert_array_equal(counts, stored(folder, row["record_id"]).counts)


def test_pandas_opens_a_pack(packed, folder):
    pandas = pytest.importorskip("pandas", reason="needs the extra 'dev'")
    row = pandas.read_parquet(packed / "records").query("count_bits == 16").iloc[0]
    counts = np.frombuffer(row["counts"], "<i2").reshape(len(row["leads"]), row["n_samples"])

    assert_array_equal(counts, stored(folder, row["record_id"]).counts)


def test_duckdb_opens_a_pack(packed, folder):
    duckdb = pytest.importorskip("duckdb", reason="needs the extra 'dev'")
    with duckdb.connect() as connection:
        found = connection.execute(
            f"select record_id, len(leads), n_samples, counts from '{packed}/records/*.parquet' "
            "where count_bits = 16 order by record_id limit 1"
        ).fetchone()
    counts = np.frombuffer(found[3], "<i2").reshape(found[1], found[2])

    assert_array_equal(counts, stored(folder, found[0]).counts)


def stored(folder: Path, record_id: str) -> Record:
    record = next(batch.read(entry) for entry in scan(folder) if entry.record_id == record_id)
    assert isinstance(record, Record)
    return record


def test_inspect_says_what_a_pack_holds(packed):
    done = invoke("inspect", packed)
    facts = json.loads(invoke("inspect", packed, "--json").stdout)
    found = dict(rows(packed)["format"].value_counts().iter_rows())

    assert facts["formats"] == found
    assert facts["counts"]["packed"] == len(rows(packed))
    assert done.stdout.startswith(f"finished · packed {len(rows(packed))} · rejected {len(rows(packed, 'rejects'))}")
    assert all(f"{name} {n}" in done.stdout for name, n in found.items())


def test_inspect_shows_one_record_of_a_pack_as_it_shows_the_file(packed, folder):
    record_id = next(entry.record_id for entry in scan(folder) if entry.member is None and "muse" in form(entry))
    in_pack = json.loads(invoke("inspect", f"{packed}#{record_id}", "--json").stdout)

    assert in_pack == json.loads(invoke("inspect", folder / record_id, "--json").stdout)


def form(entry: Entry) -> str:
    record = batch.read(entry)
    return record.format if isinstance(record, Record) else ""


def test_inspect_shows_what_the_source_path_of_a_score_names(scored, packed):
    _, scores, _ = scored(packed)
    row = scores.row(-1, named=True)
    done = invoke("inspect", row["source_path"], "--json")

    assert json.loads(done.stdout)["waveform_hash"] == row["waveform_hash"]


def test_inspect_shows_a_member_of_a_zip_in_a_folder_of_any_name(tmp_path, ecg):
    (tmp_path / "a#b").mkdir()
    content = synth.muse_xml(ecg)
    (tmp_path / "one.xml").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a#b" / "c.zip", "w") as zipped:
        zipped.writestr("d/one.xml", content)
    inside = invoke("inspect", tmp_path / "a#b" / "c.zip#d" / "one.xml", "--json")

    assert json.loads(inside.stdout) == json.loads(invoke("inspect", tmp_path / "one.xml", "--json").stdout)


@pytest.mark.parametrize(("suffix", "kind"), [("zip", "zip"), ("tar.gz", "gztar")])
def test_inspect_of_an_archive_says_how_to_name_a_record(tmp_path, suffix, kind):
    synth.write_archive(tmp_path / "in", 5, formats=("wfdb", "muse-xml"))
    shutil.make_archive(str(tmp_path / "all"), kind, tmp_path / "in")
    done = invoke("inspect", tmp_path / f"all.{suffix}")

    assert done.exit_code == 3
    assert "a container of 5 records" in done.stderr
    assert invoke("inspect", done.stderr.strip().rpartition("such as ")[2]).exit_code == 0


def test_inspect_of_what_a_pack_has_not_says_so(packed):
    done = invoke("inspect", f"{packed}#nonesuch.xml")

    assert done.exit_code == 1
    assert "no such file or folder" in done.stderr


def test_a_pack_has_no_duplicates_to_take_out(copy):
    done = invoke("deduplicate", copy)

    assert done.exit_code == 1
    assert "a pack, expected a run folder" in done.stderr


def test_inspect_of_a_part_says_how_to_name_a_record(packed):
    done = invoke("inspect", packed / "records" / "part-000000.parquet")

    assert done.exit_code == 3
    assert "expected one of them, such as" in done.stderr


def test_a_pack_whose_plan_is_gone_is_no_pack(copy):
    (copy / "plan.parquet").unlink()

    assert not parts.is_pack(copy)
    with pytest.raises(OutputError, match=r"holds 'pack\.json' and no plan"):
        pack.run([copy], copy, pack.Options())


def test_a_source_that_is_not_there_makes_no_pack(tmp_path):
    with pytest.raises(ArchiveError, match="no such file or folder"):
        pack.run([tmp_path / "none"], tmp_path / "pack", pack.Options())
    assert not (tmp_path / "pack").exists()


def test_a_footer_that_nests_without_end_is_no_traceback(tmp_path):
    table = pa.table({"path": ["x"]}).replace_schema_metadata({"ecgbatch": "[" * 200_000})
    pq.write_table(table, tmp_path / "deep.parquet")
    (entry,) = scan(tmp_path)

    assert batch.read(entry).reason == Reason.MALFORMED


def test_a_pack_cannot_be_evaluated(packed, tmp_path):
    (tmp_path / "labels.csv").write_text("record_id,AFIB\nx,1\n")
    done = invoke("evaluate", packed, tmp_path / "labels.csv")

    assert done.exit_code == 1
    assert "a pack, which has no scores" in done.stderr
