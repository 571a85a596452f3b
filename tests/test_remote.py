"""Object stores: what lies behind a URL is scored as it lies, whatever the store does meanwhile."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partialmethod
from pathlib import Path
from typing import ClassVar

import polars as pl
import pytest

from ecgbatch import archive, formats, remote, score, synth
from ecgbatch.archive import Entry
from ecgbatch.errors import ArchiveError
from ecgbatch.feed import batch
from ecgbatch.record import MAX_BYTES, Reason, Record, Reject

boto3 = pytest.importorskip("boto3")
pytest.importorskip("moto")

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Store:
    """An S3 server in a process of its own."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def fill(self, bucket: str, files: dict[str, bytes]) -> None:
        self._client.create_bucket(Bucket=bucket)
        for key, content in files.items():
            self._client.put_object(Bucket=bucket, Key=key, Body=content)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def stores() -> Iterator[Callable[[dict[str, bytes]], tuple[str, Store]]]:
    """A function that fills a new bucket of a running server, and gives its URL."""
    before = dict(os.environ)
    port = free_port()
    os.environ |= ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    store = Store(port)
    n = 0

    def filled(files: dict[str, bytes]) -> tuple[str, Store]:
        nonlocal n
        n += 1
        store.fill(f"bucket{n}", files)
        return f"s3://bucket{n}", store

    yield filled
    store.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def files(ecg) -> dict[str, bytes]:
    wfdb = {f"a/b/{name}": content for name, content in synth.wfdb_files(ecg, "w", n_files=2).items()}
    return {"a/1.xml": synth.muse_xml(ecg), "a/2.xml": b"junk", "c.xml": synth.muse_xml(ecg), **wfdb}


def filled(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def scan(*sources: Path | str) -> list[Entry]:
    return list(archive.scan(sources, companions=formats.companions, skip=Path("/nonexistent")))


def rejected(entries: Sequence[Entry]) -> list[Reason]:
    return [found.reason for found in map(batch.read, entries) if isinstance(found, Reject)]


def test_a_bucket_is_listed_as_the_same_folder_would_be(stores, files, tmp_path):
    url, _ = stores(files)
    filled(tmp_path, files)

    assert [(entry.record_id, entry.n_bytes) for entry in scan(url)] == [
        (entry.record_id, entry.n_bytes) for entry in scan(tmp_path)
    ]
    assert [entry.path for entry in scan(f"{url}/a/")] == [f"{url}/a/1.xml", f"{url}/a/2.xml", f"{url}/a/b/w.hea"]


def test_a_bucket_gives_the_scores_of_the_same_folder(stores, files, tmp_path, tiny_bundle):
    url, _ = stores(files)
    filled(tmp_path / "archive", files)
    for run, source in (("far", url), ("near", tmp_path / "archive")):
        tally = score.run([source], tmp_path / run, [tiny_bundle], score.Options())
        assert (tally.n_scored, tally.n_rejected) == (3, 1)
    far, near = (
        pl.read_parquet(tmp_path / run / "scores" / "*.parquet").drop("source_path") for run in ("far", "near")
    )

    assert far.equals(near)


def test_a_run_over_a_bucket_goes_on_only_with_the_same_bucket(stores, files, tmp_path, tiny_bundle):
    url, _ = stores(files)
    other, _ = stores(files)
    score.run([url], tmp_path / "run", [tiny_bundle], score.Options())

    assert score.run([url], tmp_path / "run", [tiny_bundle], score.Options()).n_scored == 3
    with pytest.raises(Exception, match="another run"):
        score.run([other], tmp_path / "run", [tiny_bundle], score.Options())


def test_an_object_that_changed_since_the_plan_is_not_read(stores, files):
    url, store = stores(files)
    entries = scan(f"{url}/a/b")
    store.fill(url.removeprefix("s3://"), {"a/b/w_0.dat": b"other"})

    assert rejected(entries) == [Reason.SOURCE_CHANGED]


def test_objects_that_are_gone_or_too_large_are_rejects(stores, files):
    url, store = stores({**files, "big.xml": bytes(MAX_BYTES + 1)})
    entries = {entry.record_id: entry for entry in scan(url)}
    store._client.delete_object(Bucket=url.removeprefix("s3://"), Key="a/b/w_1.dat")
    store._client.delete_object(Bucket=url.removeprefix("s3://"), Key="c.xml")

    assert rejected([entries["big.xml"]]) == [Reason.TOO_LARGE]
    assert rejected([entries["c.xml"]]) == [Reason.SOURCE_CHANGED]
    assert rejected([entries["a/b/w.hea"]]) == [Reason.SOURCE_CHANGED]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://no-such-bucket", "no such file or folder|cannot be looked at"),
        ("s3://key:secret@bucket/a", "credentials"),
        ("s3://key:sec/secret@bucket/a", "credentials"),
        ("s3://:secret@bucket", "credentials"),
        ("https://secret@host/a", "credentials"),
        ("s3://bucket/a?secret_key=secret", "credentials"),
        ("s3://bucket?secret_key=secret", "credentials"),
        ("nowhere://a/b", "no place that can be reached"),
        ("nowhere://a@b:9000/c@d", "no place that can be reached"),
        ("lacking://a/b", "no place that can be reached: .*import failed"),
    ],
)
def test_a_place_that_cannot_be_had_is_one_clear_line(stores, url, message):
    pytest.importorskip("fsspec").register_implementation("lacking", "no_such_driver.Files", clobber=True)
    with pytest.raises(ArchiveError, match=message) as refused:
        scan(url)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_secret_in_a_url_reaches_no_plan(scored, tmp_path):
    with pytest.raises(ArchiveError, match="credentials"):
        scored("s3://key:secret@bucket/a")
    assert not (tmp_path / "run").exists()


def test_any_other_url_is_read_by_fsspec(files, ecg):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for name, content in files.items():
        memory.pipe(f"/archive/{name}", content)
    entries = scan("memory://archive/a")

    assert [entry.record_id for entry in entries] == ["1.xml", "2.xml", "b/w.hea"]
    assert [isinstance(batch.read(entry), Record) for entry in entries] == [True, False, True]


@pytest.fixture
def odd(ecg) -> dict[str, bytes]:
    """ECGs whose names have a meaning in a URL, a pattern or a shell."""
    names = ("a?b=c.xml", "a#b.xml", "a%20b.xml", "a b.xml", "a[1]{2}.xml", "a@b:c.xml", "d?e#/*.xml")
    wfdb = {f"d?e#/{name}": content for name, content in synth.wfdb_files(ecg, "w", n_files=2).items()}
    return {name: synth.muse_xml(ecg) for name in names} | wfdb


ODD = ["a b.xml", "a#b.xml", "a%20b.xml", "a?b=c.xml", "a@b:c.xml", "a[1]{2}.xml", "d?e#/*.xml", "d?e#/w.hea"]


@pytest.mark.parametrize("place", ["s3", "file", "memory"])
def test_a_name_of_any_characters_is_listed_planned_and_scored(request, odd, tmp_path, scored, place):
    if place == "s3":
        url, _ = request.getfixturevalue("stores")(odd)
    elif place == "file":
        pytest.importorskip("fsspec")
        url = f"file://{filled(tmp_path / 'archive', odd)}"
    else:
        pytest.importorskip("fsspec").filesystem("memory").pipe({f"/odd/{name}": odd[name] for name in odd})
        url = "memory://odd"
    tally, scores, _ = scored(url)

    assert (tally.n_scored, tally.n_rejected) == (len(ODD), 0)
    assert scores["record_id"].to_list() == ODD
    assert scores["source_path"].to_list() == [f"{url}/{name}" for name in ODD]


def test_a_file_url_names_what_its_path_does(files, tmp_path):
    pytest.importorskip("fsspec")
    folder = filled(tmp_path / "archive", files)
    near = [(entry.record_id, entry.n_bytes) for entry in scan(folder)]

    assert [(entry.record_id, entry.n_bytes) for entry in scan(f"file://{folder}/")] == near
    assert [entry.record_id for entry in scan(f"file://{folder}/a/1.xml")] == ["1.xml"]
    assert isinstance(batch.read(scan(f"file://{folder}/a/1.xml")[0]), Record)


def test_the_root_of_a_place_is_a_source(ecg):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/root.xml", synth.muse_xml(ecg))
    entries = {entry.record_id: entry for entry in scan("memory://")}

    assert isinstance(batch.read(entries["root.xml"]), Record)


def test_what_is_no_regular_file_behind_a_url_is_an_entry_too(tmp_path):
    pytest.importorskip("fsspec")
    (tmp_path / "dangling.xml").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.xml")
    entries = scan(f"file://{tmp_path}")

    assert [entry.record_id for entry in entries] == ["dangling.xml", "pipe.xml"]
    assert rejected(entries) == [Reason.UNREADABLE] * 2


def test_objects_that_no_path_reaches_are_a_reject_a_folder(stores, ecg):
    url, _ = stores({name: synth.muse_xml(ecg) for name in ("a//1.xml", "a//2.xml", "//3.xml", "a/4.xml", "5.xml")})
    entries = scan(url)

    assert [entry.record_id for entry in entries] == ["/", "5.xml", "a/4.xml", "a//"]
    assert rejected(entries) == [Reason.UNREADABLE] * 2


@pytest.fixture
def accounts(ecg) -> list[str]:
    """A store called `accounts://`, whose URL names a container of an account; the accounts it was asked for."""
    fsspec = pytest.importorskip("fsspec")
    asked = []

    class Accounts(type(fsspec.filesystem("memory"))):
        protocol = "accounts"
        store: ClassVar[dict] = {}
        pseudo_dirs: ClassVar[list] = [""]

        def __init__(self, account: str, **options) -> None:
            super().__init__(**options)
            asked.append(account)

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            folder, at, rest = path.removeprefix("accounts://").partition("@")
            return super()._strip_protocol(f"{folder}/{rest.partition('/')[2]}" if at else folder)

        @staticmethod
        def _get_kwargs_from_urls(url: str) -> dict[str, str]:
            return {"account": url.partition("@")[2].partition("/")[0]}

    Accounts("").pipe("/container/x/1.xml", synth.muse_xml(ecg))
    fsspec.register_implementation("accounts", Accounts)
    return asked


def test_a_secret_in_a_url_is_in_no_message_of_a_run_that_is_there(scored, tmp_path):
    synth.write_archive(tmp_path / "in", 2, formats=["muse-xml"])
    scored(tmp_path / "in", out=tmp_path / "run")

    with pytest.raises(ArchiveError, match="credentials") as refused:
        scored("s3://key:secret@bucket/a", out=tmp_path / "run")
    assert "secret" not in str(refused.value)


def test_a_container_of_an_account_is_no_credential(accounts):
    (entry,) = scan("accounts://container@account.example/x")

    assert entry.path == "accounts://container@account.example/x/1.xml"
    assert isinstance(batch.read(entry), Record)
    assert accounts == ["", "account.example"]


def test_a_store_that_is_away_for_a_moment_is_asked_again(tmp_path, ecg, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/flaky/1.xml", synth.muse_xml(ecg))
    (entry,) = scan("memory://flaky")
    failures = iter([OSError("away")] * 2)
    opened = type(memory).open

    def flaky(self, *args, **kwargs):
        for failure in failures:
            raise failure
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(type(memory), "open", flaky)
    monkeypatch.setattr(remote, "_PAUSES_S", (0.0, 0.0))

    assert isinstance(batch.read(entry), Record)


class ClientError(Exception):
    """As those of botocore, aiohttp and paramiko: of no kind that Python knows."""


@pytest.fixture(
    params=[ClientError("AccessDenied\nrequest 7"), TimeoutError(), KeyError("token"), RuntimeError("no loop")],
    ids=lambda failure: type(failure).__name__,
)
def moody(request, ecg, monkeypatch) -> tuple[set[str], Exception]:
    """A store called `moody://`; the calls of it that fail, and what they raise then."""
    fsspec = pytest.importorskip("fsspec")
    failing: set[str] = set()

    def do(self, name: str, *args, **kwargs):
        if name in failing:
            raise request.param
        return getattr(super(Moody, self), name)(*args, **kwargs)

    class Moody(type(fsspec.filesystem("memory"))):
        protocol = "moody"
        store: ClassVar[dict] = {}
        pseudo_dirs: ClassVar[list] = [""]
        cachable = False

        def __init__(self, **options) -> None:
            super().__init__(**options)
            if "__init__" in failing:
                raise request.param

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(path.removeprefix("moody://"))

        info, find, _open = (partialmethod(do, name) for name in ("info", "find", "_open"))

    fsspec.register_implementation("moody", Moody, clobber=True)
    monkeypatch.setattr(remote, "_PAUSES_S", (0.0,))
    remote._reached.cache_clear()
    Moody().pipe(
        {"/a/1.xml": synth.muse_xml(ecg), **{f"/a/{name}": c for name, c in synth.wfdb_files(ecg, "w").items()}}
    )
    return failing, request.param


@pytest.mark.parametrize("call", ["__init__", "info", "find"])
def test_whatever_a_driver_raises_while_a_place_is_listed_is_one_line(moody, call):
    failing, failure = moody
    failing.add(call)

    with pytest.raises(ArchiveError, match=rf"^moody://.*{type(failure).__name__}") as refused:
        scan("moody://a")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("call", ["info", "_open"])
def test_whatever_a_driver_raises_while_an_object_is_read_is_a_reject(moody, call):
    failing, failure = moody
    entries = scan("moody://a")
    failing.add(call)
    outcomes = [batch.read(entry) for entry in entries]

    assert [(found.stage, found.reason) for found in outcomes] == [("read", Reason.UNREADABLE)] * 2
    assert all(type(failure).__name__ in found.detail for found in outcomes)


def test_a_header_alone_that_cannot_be_read_ends_the_plan_in_one_line(moody):
    moody[0].add("_open")

    with pytest.raises(ArchiveError, match=r"^moody://a/w\.hea: cannot be listed: not to be had: "):
        scan("moody://a/w.hea")


def test_a_store_that_stays_away_gives_rejects(ecg, monkeypatch):
    port = free_port()
    for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "_PAUSES_S", ())
    store = Store(port)
    store.fill("gone", {f"{i}.xml": synth.muse_xml(ecg) for i in range(3)})
    entries = scan("s3://gone")
    store.stop()

    assert rejected(entries[:1]) == [Reason.UNREADABLE]
