"""The paper estimate counts what the network costs, and names the stage that binds."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra 'train'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from ecgbatch.bundle import find  # noqa: E402

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("paper_estimate", BENCHMARKS / "paper_estimate.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.fixture(scope="module")
def estimate(script):
    return script.estimate(find("foundation"), "fp16")


def test_operations_are_those_that_the_network_counts(estimate):
    pytest.importorskip("torch", reason="needs the extra 'train'")
    from ecgbatch.network import Network, gflop_per_ecg

    counted = gflop_per_ecg(Network(**find("foundation").network), n_leads=8, n_samples=2500)

    assert estimate["gflop_per_ecg"] == pytest.approx(counted, rel=1e-3)


def test_a_small_graph_costs_what_one_counts_by_hand(script):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 3], pads=[0, 1, 0, 1]),
        helper.make_node("Add", ["y", "x"], ["z"]),
        helper.make_node("Relu", ["z"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], keepdims=0),
    ]
    shape = ["record", 2, 1, 10]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    out = [helper.make_tensor_value_info("m", TensorProto.FLOAT, ["record", 2])]
    weights = [
        numpy_helper.from_array(np.ones((2, 2, 1, 3), np.float32), "w"),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
    ]
    model = helper.make_model(helper.make_graph(nodes, "small", ends, out, weights))

    flop, values, n_weights = script.costs(model)

    assert flop == 2 * 20 * 2 * 3
    assert values == (20 + 20) + 20 + (20 + 2)  # the convolution, the addition's other operand, the mean
    assert n_weights == 12 + 2


def test_every_bound_is_peak_over_cost_and_the_least_binds(estimate):
    stages = estimate["stages"]
    passed = ("pcie-in", "pcie-out", "memory-fp16", "matrix-fp16")

    assert all(stage["ecg_per_s"] == pytest.approx(stage["peak"] / stage["cost"]) for stage in stages.values())
    assert stages["pcie-in"]["cost"] == 8 * 2500 * 4
    assert stages["pcie-out"]["cost"] == (36 + 320) * 4
    assert stages["memory-fp32"]["cost"] == pytest.approx(2 * stages["memory-fp16"]["cost"])
    assert estimate["binding"] == min(passed, key=lambda name: stages[name]["ecg_per_s"])


def test_what_the_int8_graph_leaves_in_float32_is_counted_in_float32(script, estimate):
    bundle = find("foundation")
    stem = 2 * bundle.network["widths"][0] * 8 * bundle.network["stem_kernel"] * 1250
    head = 2 * 320 * len(bundle.labels)
    held = estimate["stages"]["matrix-held-int8"]

    assert stem + head < held["cost"] < 1.01 * (stem + head)  # and the little of squeeze-and-excitation
    assert held["peak"] == estimate["stages"]["matrix-fp32"]["peak"]
    whole = script.in_float32(onnx.load(bundle.folder / "model.onnx"))
    assert whole == pytest.approx(1e9 * estimate["gflop_per_ecg"])


def test_in_float32_arithmetic_binds(script):
    assert script.estimate(find("foundation"), "fp32")["binding"] == "matrix-fp32"


def test_the_kept_result_is_what_the_script_computes(estimate):
    kept = json.loads((BENCHMARKS / "results" / "paper_estimate.json").read_text())

    assert kept["binding"] == estimate["binding"]
    assert kept["decoding_cores"] == pytest.approx(estimate["decoding_cores"], rel=1e-5)  # of results/decode.json
    for name, stage in estimate["stages"].items():
        assert kept["stages"][name]["ecg_per_s"] == pytest.approx(stage["ecg_per_s"], rel=1e-5)


def test_the_script_prints_its_table_and_says_that_nothing_was_measured():
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "paper_estimate.py"], capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("| one H100 SXM, at most |")
    assert "computed, not measured" in done.stdout
    assert "medians" not in done.stdout
