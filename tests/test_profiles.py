"""Batch sizes of a TensorRT engine, tails, and what its inspector tells."""

import json

import numpy as np
import pytest

from ecgbatch.errors import EngineError
from ecgbatch.runtimes import layers, profiles


@pytest.mark.parametrize(
    ("batch", "expected"),
    [(1, (1,)), (2, (1, 2)), (4, (1, 4)), (5, (1, 2, 5)), (32, (1, 2, 8, 32)), (256, (4, 16, 64, 256))],
    ids=str,
)
def test_an_engine_is_built_for_quarters_of_its_batch(batch, expected):
    assert profiles.sizes(batch) == expected


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 32, 100, 256, 4096])
def test_a_tail_costs_less_than_four_times_its_work_or_that_of_the_smallest_size(batch):
    sizes = profiles.sizes(batch)
    chosen = [sizes[profiles.size_for(n, sizes)] for n in range(1, batch + 1)]

    assert all(size >= n for n, size in enumerate(chosen, start=1))
    assert all(size < 4 * n or size == sizes[0] for n, size in enumerate(chosen, start=1))


def test_an_empty_batch_takes_the_smallest_size():
    assert profiles.size_for(0, (2, 8)) == 0


def test_a_batch_that_is_too_large_is_refused():
    with pytest.raises(EngineError, match="batch of 9 records, expected at most 8"):
        profiles.size_for(9, (2, 8))


@pytest.mark.parametrize("batch", [0, -1])
def test_no_engine_is_built_for_no_records(batch):
    with pytest.raises(EngineError, match="expected at least 1"):
        profiles.sizes(batch)


def test_a_tail_is_filled_with_zeros_whatever_lay_there():
    out = np.full((4, 2, 3), np.nan, np.float32)
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)

    profiles.fill(x, out)

    assert np.array_equal(out[:2], x)
    assert not out[2:].any()


@pytest.mark.parametrize(
    ("n", "address", "expected"),
    [(8, 512, True), (7, 512, False), (8, 512 + 4, False), (8, 80_000, False)],
    ids=["whole", "tail", "unaligned", "second record of a larger array"],
)
def test_a_device_array_is_used_where_it_lies_if_it_is_whole_and_aligned(n, address, expected):
    assert profiles.fits_in_place(n, 8, address) is expected


@pytest.mark.parametrize("key", ["DataType", "Datatype", "Format/Datatype"])
def test_layers_left_in_float32_are_named(key):
    told = [
        layer("stem", "CaskConvolution", key, "Half"),
        layer("stages.4 mean", "Reduce", key, "Float"),
        layer("reformat", "Reformat", key, "Float"),
        layer("head", "Gemm", key, "Row major linear FP32 format"),
        layer("wide", "CaskConvolution", key, "Channel major FP16 format where C % 8 == 0"),
    ]

    found = layers.in_float32(layers.layers(json.dumps({"Layers": told})))

    assert [each.name for each in found] == ["stages.4 mean", "head"]


@pytest.mark.parametrize(
    "told",
    ["", "[]", '{"Layers": ["names", "only"]}', '{"Layers": [{"Name": "x", "LayerType": "y", "Outputs": [{}]}]}'],
    ids=["nothing", "another shape", "names only", "no types"],
)
def test_an_inspector_that_tells_no_types_is_an_error(told):
    with pytest.raises(EngineError, match="does not tell the types"):
        layers.layers(told)


def layer(name, kind, key, type_):
    return {"Name": name, "LayerType": kind, "Outputs": [{"Name": f"{name} out", "Dimensions": [8, 32], key: type_}]}
