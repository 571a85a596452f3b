"""Which GPUs, whose shard, and the joint stream of several devices."""

import threading
from itertools import count

import pytest

from ecgbatch.errors import EngineError, UsageError
from ecgbatch.plan import Shard
from ecgbatch.runtimes.placement import gpus, listed, merged, own_shards, require_present, split


@pytest.mark.parametrize(("device", "expected"), [("cuda", (0,)), ("cuda:3", (3,)), ("cuda:2,0,1", (2, 0, 1))])
def test_a_device_names_its_gpus(device, expected):
    assert gpus(device) == expected


@pytest.mark.parametrize("device", ["cuda:", "cuda:x", "cuda:0,", "cuda:-1", "cuda0", "gpu", "cuda:0 "])
def test_what_names_no_gpu_is_refused(device):
    with pytest.raises(UsageError, match="expected 'cuda', 'cuda:<index>'"):
        gpus(device)


def test_a_gpu_named_twice_is_refused():
    with pytest.raises(UsageError, match="names a GPU twice"):
        gpus("cuda:0,1,0")


@pytest.mark.parametrize(
    ("device", "expected"),
    [("auto", ["auto"]), ("cpu", ["cpu"]), ("cuda", ["cuda:0"]), ("cuda:1,0", ["cuda:1", "cuda:0"])],
)
def test_a_device_of_several_gpus_is_several_devices(device, expected):
    assert split(device) == expected


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("cpu", ["cpu"]),
        ("cpu,cuda", ["cpu", "cuda"]),
        ("cpu,cuda:0,1", ["cpu", "cuda:0,1"]),
        ("cuda:0,1,cpu", ["cuda:0,1", "cpu"]),
        ("cuda:0,cuda:1", ["cuda:0", "cuda:1"]),
    ],
)
def test_a_list_of_devices_keeps_gpus_that_work_together_together(devices, expected):
    assert listed(devices) == expected


@pytest.mark.parametrize(("n", "said"), [(0, "no GPU"), (1, "cuda:0 only"), (2, "cuda:0 to cuda:1")], ids=str)
def test_a_gpu_that_is_not_there_is_refused(n, said):
    with pytest.raises(EngineError, match=f"device 'cuda:2', but this machine has {said}"):
        require_present((2,), n)
    require_present((2,), 3)


@pytest.mark.parametrize("n_devices", [1, 2, 3, 8])
def test_every_shard_is_one_devices_whichever_are_done(n_devices):
    left = [Shard(index, []) for index in range(20) if index not in (3, 4, 11)]
    shares = [[shard.index for shard in own_shards(left, at, n_devices)] for at in range(n_devices)]

    assert sorted(index for own in shares for index in own) == [shard.index for shard in left]
    assert [own for own in shares if own != sorted(own)] == []
    assert all(index % n_devices == at for at, own in enumerate(shares) for index in own)


def test_merged_streams_keep_their_own_order_and_lose_nothing():
    found = list(merged([(n for n in range(100)), (n for n in range(7)), (n for n in ())]))

    assert [n for at, n in found if at == 0] == list(range(100))
    assert [n for at, n in found if at == 1] == list(range(7))
    assert len(found) == 107


def test_merged_streams_run_at_the_same_time():
    both = threading.Barrier(2, timeout=10)

    def wait():
        yield both.wait()

    assert {n for _, n in merged([wait(), wait()])} == {0, 1}


def test_an_error_in_one_stream_ends_all_and_is_raised():
    closed = threading.Event()

    def endless():
        try:
            yield from count()
        finally:
            closed.set()

    def fails():
        yield 1
        raise EngineError("lost")

    with pytest.raises(EngineError, match="lost"):
        list(merged([endless(), fails()]))
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if "_pump" in thread.name]


def test_streams_that_are_left_early_are_closed():
    closed = []

    def endless(name):
        try:
            yield from count()
        finally:
            closed.append(name)

    stream = merged([endless("a"), endless("b")])
    next(stream)
    stream.close()

    assert sorted(closed) == ["a", "b"]
