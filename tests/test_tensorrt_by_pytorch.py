"""What stands in for TensorRT on a GPU without it, on a CPU: it executes our graphs as they are meant."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
onnx = pytest.importorskip("onnx", reason="needs the extra 'train'")

from ecgbatch import bundle, synth  # noqa: E402
from ecgbatch.feed import host  # noqa: E402
from ecgbatch.runtimes import cpu  # noqa: E402

SCRIPT = Path(__file__).parent / "tensorrt_by_pytorch" / "tensorrt.py"
N = 4


@pytest.fixture(scope="module")
def stand_in():
    spec = importlib.util.spec_from_file_location("stand_in", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.DEVICE = "cpu"
    return module


@pytest.fixture(scope="module")
def foundation():
    return bundle.find("foundation")


@pytest.fixture(scope="module")
def x(foundation):
    x = host.room(N, foundation.input)
    for seed, row in enumerate(x):
        host.normalise(synth.record(seed=seed), foundation.input, row)
    return x


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-3), ("bf16", 1e-2), ("int8", 5e-2)])
def test_a_graph_gives_what_openvino_makes_of_its_float32(stand_in, foundation, x, trt_graph, precision, tolerance):
    engine = stand_in.ICudaEngine([N], onnx.load(trt_graph(foundation, precision)))

    logits = engine.values({"x": torch.from_numpy(x)})["logits"].float().numpy()

    wanted, _ = cpu.load(foundation, batch=N)(x)
    assert np.abs(foundation.probabilities(logits) - foundation.probabilities(wanted)).max() <= tolerance


def test_a_plan_is_read_back_and_a_damaged_one_is_not(stand_in, foundation, trt_graph):
    said = []
    log = stand_in.ILogger()
    log.log = lambda severity, message: said.append((severity.name, message))
    builder = stand_in.Builder(log)
    network, config, profile = builder.create_network(), builder.create_builder_config(), stand_in.Profile()
    config.progress_monitor = SilentMonitor()
    assert stand_in.OnnxParser(network, log).parse_from_file(str(trt_graph(foundation, "fp16")))
    profile.set_shape("x", (N, 8, 2500), (N, 8, 2500), (N, 8, 2500))
    config.add_optimization_profile(profile)

    plan = builder.build_serialized_network(network, config)
    engine = stand_in.Runtime(log).deserialize_cuda_engine(plan)

    assert engine.get_tensor_profile_shape("x", 0)[2] == [N, 8, 2500]
    assert stand_in.Runtime(log).deserialize_cuda_engine(plan[:-1]) is None
    assert said == [("ERROR", "not a plan")]


class SilentMonitor:
    def phase_start(self, phase, parent, n_steps):
        pass

    def step_complete(self, phase, step):
        return True

    def phase_finish(self, phase):
        pass
