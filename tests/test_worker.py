"""Work in other processes: the same results in the same order, whatever ends early, and nothing left behind."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from threading import Timer

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal

from ecgbatch import archive, formats, pack, score, synth
from ecgbatch.errors import FeedError, MissingExtraError, RecordError
from ecgbatch.feed import ahead, batch, payload
from ecgbatch.feed.worker import Memory, Worker, can_start
from ecgbatch.plan import Shard
from ecgbatch.record import Reason

pytestmark = pytest.mark.skipif(not can_start(), reason="needs memory without a file, as Linux has it")

WORK = '''
import os, time
import numpy as np
from ecgbatch.errors import MissingExtraError, RecordError

class Odd(Exception):
    """One that cannot be pickled."""
    def __init__(self, one, two):
        super().__init__("odd")

def array(n): return np.arange(n)
def pair(n): return {"empty": np.empty((0, 3)), "turned": np.arange(6.0).reshape(2, 3).T, "n": n}
def process(_): return os.getpid()
def slow(n):
    time.sleep(0.02)
    return n
def fails(n):
    if n == 3: raise MissingExtraError("this", "that")
    if n == 4: raise Odd(1, 2)
    return n
def ends(n):
    if n == 3: os._exit(7)
    return n
def waits(_): time.sleep(60)
'''
"""What the processes are to do; they import it as this one does."""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "ecgbatch_work.py").write_text(WORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        import ecgbatch_work

        yield ecgbatch_work


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes start for the fewest items."""
    monkeypatch.setattr(ahead, "_FEW", 1)


def children() -> set[int]:
    """The workers among the children of this process."""
    pids = {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}
    return {int(pid) for pid in pids if b"ecgbatch.feed" in _command(pid)}


def _command(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("workers", [2, 3])
def test_results_come_in_order_from_processes_of_their_own(work, workers):
    pids = list(ahead.ahead(work.process, range(20), workers))

    assert list(ahead.ahead(work.slow, range(20), workers)) == list(range(20))
    assert len(set(pids)) == workers
    assert os.getpid() not in pids
    assert pids == pids[:workers] * (20 // workers) + pids[: 20 % workers]


def test_a_little_work_starts_no_process(work):
    assert set(ahead.ahead(work.process, range(10), 3)) == {os.getpid()}


def test_a_system_without_such_memory_works_in_threads(work, monkeypatch):
    monkeypatch.delattr(os, "memfd_create")

    assert set(ahead.ahead(work.process, range(100), 2)) == {os.getpid()}


@pytest.mark.usefixtures("at_once")
def test_a_system_that_has_no_more_says_what_to_do(work):
    n_before = len(list(Path("/proc/self/fd").iterdir()))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_before + 20, limits[1]))
    try:
        with pytest.raises(FeedError, match="Too many open files; take fewer --workers"):
            list(ahead.ahead(work.process, range(9), 40))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert len(list(Path("/proc/self/fd").iterdir())) == n_before


@pytest.mark.usefixtures("at_once")
def test_a_system_that_starts_no_more_says_what_to_do(work, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("ecgbatch.feed.worker.Popen", refused)
    with pytest.raises(FeedError, match="take fewer --workers"):
        list(ahead.ahead(work.process, range(9), 2))


@pytest.mark.usefixtures("at_once")
def test_a_result_that_memory_has_no_room_for_says_what_to_do(work, capfd):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(FeedError, match="File too large; take fewer --workers"):
            list(ahead.ahead(work.array, [10, 2**14], 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("at_once")
def test_an_interrupt_does_not_wait_for_the_work(work):
    made = ahead.ahead(work.waits, range(9), 2)
    pl.DataFrame({"used": [True]})
    timer = Timer(1, os.kill, (os.getpid(), signal.SIGINT))
    started = time.monotonic()
    timer.start()

    with pytest.raises(KeyboardInterrupt):
        next(made)
    assert time.monotonic() - started < 30
    assert not children()


@pytest.mark.usefixtures("at_once")
def test_items_of_one_kin_go_to_one_process(work):
    kins = [None, "a", "a", "a", None, None, "b", "b", "c", "a"]
    pids = list(ahead.ahead(work.process, range(10), 3, kin=kins.__getitem__))
    places = [sorted(set(pids), key=pids.index).index(pid) for pid in pids]

    assert places == [0, 1, 1, 1, 2, 0, 1, 1, 2, 0]


@pytest.mark.usefixtures("at_once")
def test_arrays_stay_what_they_are_however_many_are_held(work):
    """More results than there are slots: what is still held is never overwritten."""
    sizes = [100_000 + 7 * at for at in range(60)]
    for size, array in zip(sizes, list(ahead.ahead(work.array, sizes, 2)), strict=True):
        assert_array_equal(array, np.arange(size))


@pytest.mark.usefixtures("at_once")
def test_arrays_of_every_shape_come_through(work):
    for at, found in enumerate(ahead.ahead(work.pair, range(5), 2)):
        assert found["n"] == at
        assert found["empty"].shape == (0, 3)
        assert_array_equal(found["turned"], np.arange(6.0).reshape(2, 3).T)


def test_a_slot_is_used_again_once_its_arrays_are_gone(work):
    memory = Memory(2)
    worker = Worker(work.array, memory)
    try:
        places = set()
        for at in range(6):
            worker.start(1000 + at)
            array = worker.result()
            places.add(array.ctypes.data)
            assert len(memory._free) == 1
            del array
            assert len(memory._free) == 2
        assert len(places) == 2
    finally:
        worker.close()
        memory.close()


@pytest.mark.usefixtures("at_once")
def test_work_that_waits_for_others_is_left_to_threads(work):
    assert set(ahead.ahead(work.process, range(10), 2, waits=lambda item: item == 0)) == {os.getpid()}


@pytest.mark.usefixtures("at_once")
def test_work_that_cannot_be_sent_starts_no_process():
    with pytest.raises(AttributeError, match="local object"):
        list(ahead.ahead(lambda item: item, range(9), 2))

    assert not children()


@pytest.mark.usefixtures("at_once")
def test_what_the_work_raises_is_raised_here_and_says_where(work):
    results = ahead.ahead(work.fails, [0, 1, 3], 2)

    assert list(islice(results, 2)) == [0, 1]
    with pytest.raises(MissingExtraError, match=r"ecgbatch\[that\]") as caught:
        next(results)
    assert "in fails" in caught.value.__notes__[0]
    assert not children()


@pytest.mark.usefixtures("at_once")
def test_an_error_that_cannot_be_sent_is_told_in_words(work):
    with pytest.raises(RuntimeError, match="Odd: odd"):
        list(ahead.ahead(work.fails, [0, 4], 2))


def test_an_error_of_a_record_is_the_same_behind_a_pickle():
    import pickle

    error = pickle.loads(pickle.dumps(RecordError(Reason.CHECKSUM, "not\x07printable")))

    assert (error.reason, error.detail, str(error)) == (Reason.CHECKSUM, "not?printable", "not?printable")


@pytest.mark.usefixtures("at_once")
def test_a_process_that_ends_is_named_by_how_it_ended(work):
    with pytest.raises(FeedError, match=r"ended by exit code 7; the same .* a file of the archive may be the cause"):
        list(ahead.ahead(work.ends, range(9), 2))

    assert not children()


@pytest.mark.usefixtures("at_once")
def test_a_killed_process_ends_the_work_and_the_others(work):
    results = ahead.ahead(work.slow, range(1000), 3)
    next(results)
    os.kill(min(children()), signal.SIGKILL)

    with pytest.raises(FeedError, match=r"ended by signal 9 \(Killed\); the same command goes on from here$"):
        list(results)
    assert not children()


@pytest.mark.usefixtures("at_once")
def test_work_that_is_not_wanted_any_more_ends_at_once(work):
    """Here one that waits for a minute."""
    results = ahead.ahead(work.waits, range(9), 2)
    started = time.monotonic()
    Timer(1.0, lambda: os.kill(max(children()), signal.SIGKILL)).start()  # as an interrupt would, it ends our wait
    with pytest.raises(FeedError):
        next(results)

    assert time.monotonic() - started < 30
    assert not children()


def test_processes_end_with_the_one_that_started_them(work):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(work.__file__).parent)!r})\n"
        "import ecgbatch_work as work, os\n"
        "from ecgbatch.feed import ahead\n"
        "ahead._FEW = 1\n"
        "print(*{pid for _, pid in zip(range(4), ahead.ahead(work.process, iter(int, 1), 2))}, flush=True)\n"
        "results = ahead.ahead(work.waits, range(9), 2)\n"
        "import threading, pathlib, signal, time\n"
        "threading.Timer(1.0, lambda: (print(*[pid for task in pathlib.Path('/proc/self/task').iterdir()"
        " for pid in (task / 'children').read_text().split()], flush=True),"
        " os.kill(os.getpid(), signal.SIGKILL))).start()\n"
        "next(results)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    first, then = (line.split() for line in done.stdout.splitlines())

    assert done.returncode == -signal.SIGKILL
    assert len(first) == len(then) == 2
    deadline = time.monotonic() + 20
    while any(Path("/proc", pid).exists() for pid in first + then):
        assert time.monotonic() < deadline, "they go on without it"
        time.sleep(0.1)


# --- the feed ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """ECGs in every container, some folders packed, some files damaged, and a pack of them."""
    root = tmp_path_factory.mktemp("mixed") / "archive"
    synth.write_archive(root, 80, seed=5, formats=synth.FORMATS, damaged=0.1, packed=0.4, workers=1)
    pack.run([root], root.parent / "pack", pack.Options())
    return root


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("source", ["archive", "pack"])
@pytest.mark.parametrize("inputs", [batch.host, payload], ids=["host", "dali"])
def test_processes_feed_what_threads_feed(mixed, tiny_bundle, source, inputs):
    entries = list(archive.scan([mixed.parent / source], companions=formats.companions, skip=Path("/nonexistent")))
    shards = [Shard(0, entries[:50]), Shard(3, entries[50:])]

    def fed(workers: int) -> list[batch.Batch]:
        return list(batch.batches(shards, [tiny_bundle.input], size=13, workers=workers, inputs=inputs))

    for one, other in zip(fed(1), fed(2), strict=True):
        assert (one.shard, one.is_last, one.rows, one.rejects) == (
            other.shard,
            other.is_last,
            other.rows,
            other.rejects,
        )
        x, y = one.x[tiny_bundle.input], other.x[tiny_bundle.input]
        if inputs is payload:
            x, y = ([value for (each,) in rows for value in (each.counts, each.taps, each.recipe)] for rows in (x, y))
        assert len(x) == len(y)
        for left, right in zip(x, y, strict=True):
            assert_array_equal(left, right)


@pytest.mark.usefixtures("at_once")
def test_a_pack_by_processes_is_the_pack_by_one_thread(mixed, tmp_path):
    for workers in (1, 3):
        pack.run([mixed], tmp_path / str(workers), pack.Options(workers=workers, shard_size=30))

    parts = [sorted((tmp_path / name / "records").glob("*.parquet")) for name in ("1", "3")]
    assert len(parts[0]) == 3
    assert [part.read_bytes() for part in parts[0]] == [part.read_bytes() for part in parts[1]]


@pytest.mark.usefixtures("at_once")
def test_a_run_whose_process_was_killed_loses_nothing(mixed, tiny_bundle, tmp_path):
    """It fails with one line, keeps what was committed, and the same call goes on."""
    options = score.Options(shard_size=10, workers=2, batch=8)

    def kill_one(tally) -> None:
        if tally.n_done >= 10 and (pids := children()):
            os.kill(min(pids), signal.SIGKILL)

    with pytest.raises(FeedError, match="signal 9"):
        score.run([mixed], tmp_path / "run", [tiny_bundle], options, observe=kill_one)
    assert not children()
    with pytest.raises(ZeroDivisionError) as held:  # and with it the frames that were at work
        score.run([mixed], tmp_path / "run", [tiny_bundle], options, observe=lambda _: 1 / 0)
    assert not children(), held
    n_before = len(list((tmp_path / "run" / "scores").glob("*.parquet")))
    tally = score.run([mixed], tmp_path / "run", [tiny_bundle], options)

    assert n_before >= 1
    assert tally.n_done == tally.n_entries == 80
