"""Zip and tar archives: every member is an entry of its own, in place, and no archive can hurt the run."""

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from ecgbatch import archive, container, formats, synth, waveform
from ecgbatch.archive import Entry
from ecgbatch.errors import RecordError
from ecgbatch.feed import batch
from ecgbatch.plan import Plan, Shard
from ecgbatch.record import INDEPENDENT_LEADS, MAX_BYTES, Reason, Record, Reject

from .conftest import TINY_SPEC

KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tgz"]


def pack(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in files:
                packed.NameToInfo.pop(name, None)  # a name may occur twice, whatever zipfile thinks of it
                packed.writestr(name, content, zipfile.ZIP_DEFLATED)
    else:
        with tarfile.open(path, "w:" if path.suffix == ".tar" else "w:gz") as packed:
            for name, content in files:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                packed.addfile(info, io.BytesIO(content))
    return path


def scan(source: Path) -> list[Entry]:
    return list(archive.scan([source], companions=formats.companions, skip=Path("/nonexistent")))


def outcomes(source: Path) -> Mapping[str, Record | Reject]:
    return {entry.record_id: batch.read(entry) for entry in scan(source)}


def reasons(source: Path) -> list[Reason]:
    return [found.reason for found in outcomes(source).values() if isinstance(found, Reject)]


def survivors(source: Path, ecg: Record) -> int:
    """How many records are read from it, each of which is the ECG."""
    records = [found for found in outcomes(source).values() if isinstance(found, Record)]
    assert all(is_same(record, ecg) for record in records)
    return len(records)


def is_same(found: Record | Reject, ecg: Record) -> bool:
    assert isinstance(found, Record), found
    nv = waveform.nanovolts(found, INDEPENDENT_LEADS)
    return np.array_equal(nv, waveform.nanovolts(ecg, INDEPENDENT_LEADS))


@pytest.fixture
def members(ecg) -> list[tuple[str, bytes]]:
    """Two MUSE files, a WFDB record whose signals stand around its header, and a text."""
    wfdb = synth.wfdb_files(ecg, "w", n_files=2)
    header, *signals = wfdb.items()
    loose = [("x/1.xml", synth.muse_xml(ecg)), ("x/2.xml", synth.muse_xml(ecg)), ("README.txt", b"no ECG")]
    return [
        *loose[:1],
        ("y/" + signals[0][0], signals[0][1]),
        *[("y/" + n, c) for n, c in (header, *signals[1:])],
        *loose[1:],
    ]


@pytest.mark.parametrize("name", KINDS)
def test_every_member_is_an_entry_and_is_read_in_place(tmp_path, ecg, members, name):
    found = outcomes(pack(tmp_path / name, members))

    assert list(found) == [f"{name}#{member}" for member in ("x/1.xml", "y/w.hea", "x/2.xml", "README.txt")]
    assert [is_same(record, ecg) for record in list(found.values())[:3]] == [True] * 3
    assert reasons(tmp_path / name) == [Reason.UNKNOWN_FORMAT]


@pytest.mark.parametrize("name", KINDS)
def test_an_archive_in_a_folder_stands_among_its_files(tmp_path, ecg, members, name):
    pack(tmp_path / name, members)
    (tmp_path / "z.xml").write_bytes(synth.muse_xml(ecg))

    assert [entry.record_id for entry in scan(tmp_path)][-2:] == [f"{name}#README.txt", "z.xml"]
    assert scan(tmp_path)[0].source_path == f"{tmp_path / name}#x/1.xml"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("workers", [1, 3])
def test_members_are_read_by_several_threads(tmp_path, ecg, name, workers):
    n, content = 100, synth.muse_xml(ecg)
    pack(tmp_path / name, ((f"{i:03}.xml", content) for i in range(n)))
    shards = [Shard(0, scan(tmp_path / name))]
    read = list(batch.batches(shards, [TINY_SPEC], size=8, workers=workers))

    assert [row.record_id for found in read for row in found.rows] == [f"{name}#{i:03}.xml" for i in range(n)]


@pytest.mark.parametrize("name", KINDS)
def test_members_are_found_whatever_the_order_in_which_they_are_asked_for(tmp_path, ecg, members, name):
    entries = scan(pack(tmp_path / name, members))

    assert [isinstance(batch.read(entry), Record) for entry in (*reversed(entries), *entries)] == [
        *(False, True, True, True),
        *(True, True, True, False),
    ]


@pytest.mark.parametrize("name", KINDS)
def test_names_that_occur_twice_are_told_apart(tmp_path, ecg, name):
    source = pack(tmp_path / name, [("a.xml", synth.muse_xml(ecg)), ("a.xml", b"junk"), ("a.xml", b"")])

    assert list(outcomes(source)) == [f"{name}#a.xml", f"{name}#a.xml#2", f"{name}#a.xml#3"]
    assert reasons(source) == [Reason.UNKNOWN_FORMAT, Reason.EMPTY]


@pytest.mark.parametrize("name", KINDS)
def test_a_name_that_points_out_of_the_archive_reads_nothing_outside(tmp_path, ecg, name):
    (tmp_path / "secret.dat").write_bytes(b"x")
    wfdb = synth.wfdb_files(ecg, "w")
    header = wfdb["w.hea"].replace(b"w.dat", b"secret.dat")
    source = pack(tmp_path / name, [("../w.hea", header), ("/etc/w.hea", header)])

    assert reasons(source) == [Reason.MISSING_SIGNAL] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "secret.dat"])


@pytest.mark.parametrize("name", KINDS)
def test_a_member_larger_than_any_ecg_is_not_unpacked(tmp_path, monkeypatch, name):
    source = pack(tmp_path / name, [("bomb.xml", bytes(MAX_BYTES + 1)), ("b.txt", b"b")])

    assert reasons(source) == [Reason.TOO_LARGE, Reason.UNKNOWN_FORMAT]


def test_a_stream_that_unpacks_without_end_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "_FREE", 2**20)
    source = pack(tmp_path / "a.tgz", [("1.txt", b"1"), ("bomb.xml", bytes(2**24)), ("2.txt", b"2")])

    assert [entry.record_id for entry in scan(source)] == ["a.tgz#1.txt", "a.tgz#bomb.xml", "a.tgz"]


@pytest.mark.parametrize("name", KINDS)
def test_an_archive_cut_anywhere_ends_in_rows_for_what_is_left_of_it(tmp_path, ecg, members, name):
    whole = pack(tmp_path / name, members).read_bytes()
    cut = tmp_path / f"cut-{name}"
    n_survivors = []
    for n in range(0, len(whole), len(whole) // 40):
        cut.write_bytes(whole[:n])
        n_survivors.append(survivors(cut, ecg))

        assert isinstance(outcomes(cut)[cut.name], Reject)
    assert n_survivors == sorted(n_survivors)
    assert n_survivors[-1] == (0 if name == "a.zip" else 2)  # what is in a zip stands at its end


@pytest.mark.parametrize("name", KINDS)
def test_wrong_bytes_in_an_archive_never_give_another_ecg(tmp_path, ecg, rng, members, name):
    whole = bytearray(pack(tmp_path / name, members).read_bytes())
    n_survivors = set()
    for at in rng.integers(0, len(whole), 60):
        damaged = whole.copy()
        damaged[at] ^= 0x55
        (tmp_path / name).write_bytes(damaged)
        n_survivors.add(survivors(tmp_path / name, ecg))

    assert 2 in n_survivors  # of the three, what the wrong byte is not in


def test_an_encrypted_member_is_unreadable(tmp_path, ecg):
    raw = pack(tmp_path / "a.zip", [("1.xml", synth.muse_xml(ecg))]).read_bytes()
    flags = raw.index(b"PK\x01\x02") + 8
    (tmp_path / "a.zip").write_bytes(raw[:flags] + b"\x01" + raw[flags + 1 :])

    assert reasons(tmp_path / "a.zip") == [Reason.UNREADABLE]


@pytest.mark.parametrize("name", KINDS)
def test_an_archive_that_changed_since_the_plan_is_not_read(tmp_path, ecg, members, name):
    entries = scan(pack(tmp_path / name, members))
    pack(tmp_path / name, [*members, ("more.xml", synth.muse_xml(ecg))])

    assert {batch.read(entry).reason for entry in entries} == {Reason.SOURCE_CHANGED}


@pytest.mark.parametrize("name", KINDS)
def test_an_archive_that_is_gone_since_the_plan_is_unreadable(tmp_path, members, name):
    entries = scan(pack(tmp_path / name, members))
    (tmp_path / name).unlink()

    assert {batch.read(entry).reason for entry in entries} == {Reason.UNREADABLE}


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_an_empty_archive_is_one_reject(tmp_path, name):
    assert len(reasons(pack(tmp_path / name, []))) == 1


def test_an_archive_inside_another_is_one_reject(tmp_path, members):
    inner = pack(tmp_path / "inner.zip", members).read_bytes()

    assert reasons(pack(tmp_path / "a.zip", [("inner.zip", inner)])) == [Reason.MALFORMED]


def test_a_file_that_was_packed_alone_is_refused_with_what_to_do():
    with pytest.raises(RecordError, match="unpack others") as defect:
        formats.decode(gzip.compress(b"<RestingECG/>"), "1.xml.gz", lambda _: b"")

    assert defect.value.reason == Reason.MALFORMED


def test_the_plan_keeps_the_member(tmp_path, members):
    entries = scan(pack(tmp_path / "a.zip", members))
    plan = Plan.write(tmp_path / "plan.parquet", entries, shard_size=3, settings={"shard_size": 3, "source": ["x"]})

    assert [entry for shard in plan.shards(done=()) for entry in shard.entries] == entries


def test_a_link_in_a_tar_is_a_reject_beside_what_it_points_to(tmp_path, ecg):
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        info = tarfile.TarInfo("1.xml")
        content = synth.muse_xml(ecg)
        info.size = len(content)
        packed.addfile(info, io.BytesIO(content))
        for name, kind in (("2.xml", tarfile.LNKTYPE), ("3.xml", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "1.xml"
            packed.addfile(info)

    assert list(outcomes(tmp_path / "a.tar")) == ["a.tar#1.xml", "a.tar#2.xml", "a.tar#3.xml"]
    assert reasons(tmp_path / "a.tar") == [Reason.UNREADABLE] * 2


@pytest.mark.parametrize("name", KINDS)
def test_a_numbered_name_that_is_taken_already_costs_no_entry(tmp_path, ecg, name):
    content = synth.muse_xml(ecg)
    found = outcomes(pack(tmp_path / name, [("1.xml", content), ("1.xml#2", b"junk"), ("1.xml", content)]))

    assert list(found) == [f"{name}#1.xml", f"{name}#1.xml#2", f"{name}#1.xml#3"]
    assert isinstance(found[f"{name}#1.xml#3"], Record)


def test_a_member_whose_name_is_not_utf_8_is_read(tmp_path, ecg):
    path = pack(tmp_path / "a.tar", [(b"M\xfcller.xml".decode("utf-8", "surrogateescape"), synth.muse_xml(ecg))])
    plan = Plan.write(tmp_path / "plan.parquet", iter(scan(path)), shard_size=10, settings={"shard_size": 10})
    (shard,) = plan.shards(done=set())

    assert is_same(batch.read(shard.entries[0]), ecg)


def test_arrays_in_a_tar_share_their_layout_without_another_pass(tmp_path, monkeypatch):
    arrays = [(f"{at}.csv", b"1,2\n" * 9) for at in range(20)]
    passes = []
    begun = container._tar
    monkeypatch.setattr(container, "_tar", lambda plain: passes.append(1) or begun(plain))
    for files in (arrays, [("layout.toml", b"fs_hz = 500"), *arrays], [*arrays, ("layout.toml", b"fs_hz = 500")]):
        path = pack(tmp_path / f"{len(passes)}.tar.gz", files)
        before = len(passes)

        assert len(reasons(path)) == 20
        assert len(passes) - before <= 4


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("is_resumed", [False, True], ids=["just-listed", "gone-on-with"])
def test_what_a_cut_tar_does_not_hold_costs_no_pass_each(tmp_path, ecg, rng, monkeypatch, name, is_resumed):
    header = synth.wfdb_files(ecg, "w")["w.hea"]
    headers = [(f"{at}.hea", header.replace(b"w.dat", b"%d.dat" % at)) for at in range(40)]
    others = [(f"cut{at}.hea", header.replace(b"w.dat", b"cut.dat")) for at in range(10)]
    path = pack(tmp_path / name, [*headers, *others, ("cut.dat", rng.bytes(100_000))])
    path.write_bytes(path.read_bytes()[:-60_000])
    entries = scan(path)
    if is_resumed:
        container._opened.cache_clear()
    passes = []
    begun = container._tar
    monkeypatch.setattr(container, "_tar", lambda plain: passes.append(1) or begun(plain))

    assert [batch.read(entry).reason for entry in entries[:-1]] == [Reason.TRUNCATED] * 50
    assert len(passes) <= 4


def test_what_is_passed_twice_is_counted_once(tmp_path):
    tar = container.opened(str(pack(tmp_path / "a.tar", ((f"{at}.txt", bytes(1000)) for at in range(5)))))
    for _ in range(3):
        tar.read("4.txt", Reason.UNREADABLE)  # the last one: to ask for it again is to pass all others again

    assert tar._passed_bytes == sum(map(len, tar._passed.values())) == 4000


def test_a_pipe_named_as_an_archive_does_not_hold_up_the_plan(tmp_path):
    for name in ("a.zip", "a.tar", "a.h5"):
        os.mkfifo(tmp_path / name)

    assert reasons(tmp_path) == [Reason.UNREADABLE] * 3
