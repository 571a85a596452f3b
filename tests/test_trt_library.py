"""What `runtimes/trt.py` calls to build, on NVIDIA's own parser and builder: those of TensorRT for RTX, on a CPU.

TensorRT itself comes from NVIDIA's package index and builds only where a GPU is. Its sibling for RTX comes from PyPI,
has the same calls, and compiles for GPUs that are not there. What it has built runs on RTX GPUs alone, so of running,
and of TensorRT's own choice of kernels, nothing is shown here.
"""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest

library = pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra 'dev'")
onnx = pytest.importorskip("onnx", reason="needs the extra 'train'")

from ecgbatch import bundle  # noqa: E402
from ecgbatch.errors import EngineError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops")  # for RTX

OURS = ("ecgbatch.runtimes.trt", "ecgbatch.runtimes.cuda_slot")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
SHIPPED = {found.name: found for found in bundle.shipped()}
BATCH = 16


@pytest.fixture
def trt(monkeypatch):
    """The module with that library under it, on a machine whose one GPU is only spoken of."""
    core, utils, bindings = ModuleType("cuda.core"), ModuleType("cuda.core.utils"), ModuleType("cuda.bindings")
    for name in ("Buffer", "Device", "Event", "EventOptions", "LegacyPinnedMemoryResource", "Stream"):
        setattr(core, name, object)
    utils.StridedMemoryView, bindings.driver = object, None
    for module in (core, utils, bindings):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    for name in OURS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("ecgbatch.runtimes.trt")
    monkeypatch.setattr(module, "_device", lambda _: SimpleNamespace(set_current=lambda: None))
    yield module
    for name in OURS:
        sys.modules.pop(name, None)


@pytest.fixture
def build(trt):
    def built(found, graph, *, timings=None, observe=lambda *_: None):
        return trt.build(found, graph, index=0, batch=BATCH, timings=timings, observe=observe)

    return built


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SHIPPED)
def test_it_builds_every_shipped_model_in_every_precision(build, trt_graph, name, precision):
    found = SHIPPED[name]

    plan = build(found, trt_graph(found, precision))

    weights = sum(
        onnx.numpy_helper.to_array(each).size for each in onnx.load(found.folder / "model.onnx").graph.initializer
    )
    assert len(plan) > weights  # a byte each at least, and there are profiles


def test_it_tells_how_far_a_build_has_come(build):
    told = []
    build(SHIPPED["foundation"], SHIPPED["foundation"].folder / "model.onnx", observe=lambda *step: told.append(step))

    assert [step for _, step, _ in told] == list(range(len(told)))  # of one phase, the outermost
    assert all(0 <= step <= n_steps for _, step, n_steps in told)
    assert len(told) >= told[0][2]  # of the last step it says nothing


def test_what_is_raised_while_it_builds_ends_the_build(trt, build, monkeypatch):
    plans = []

    def apart(work, device, monitor):
        plans.append(work())
        raise monitor.raised

    def interrupted(*_):
        raise RuntimeError("no room on the screen")

    monkeypatch.setattr(trt, "_apart", apart)

    with pytest.raises(EngineError, match="no room on the screen"):
        build(SHIPPED["foundation"], SHIPPED["foundation"].folder / "model.onnx", observe=interrupted)
    assert plans == [None]


def test_uint8_would_be_read_as_int8_which_ends_at_half_of_it(trt):
    """Why an int8 engine is made of a signed twin of the graph that ships."""
    graph = SHIPPED["foundation"].folder / "model.int8.onnx"
    assert onnx.TensorProto.UINT8 in {each.data_type for each in onnx.load(graph).graph.initializer}
    log = trt._LOG
    network = library.Builder(log).create_network()
    parser = trt._parsed(graph, network, log)  # the network's weights are its

    made = [network.get_layer(at) for at in range(network.num_layers)]
    quantised = [layer.get_output(0).dtype for layer in made if layer.type == library.LayerType.QUANTIZE]

    assert parser
    assert set(quantised) == {library.DataType.INT8}


def test_an_operator_that_it_lacks_is_named(build, tmp_path):
    model = onnx.load(SHIPPED["foundation"].folder / "model.onnx")
    model.graph.node[2].op_type, model.graph.node[2].domain = "NotRelu", "nobody.knows"
    model.opset_import.append(onnx.helper.make_opsetid("nobody.knows", 1))
    onnx.save(model, tmp_path / "model.onnx")

    with pytest.raises(EngineError, match=r"does not take the graph: NotRelu .*: .*Plugin not found"):
        build(SHIPPED["foundation"], tmp_path / "model.onnx")


def test_a_file_that_is_no_graph_is_refused(build, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")

    with pytest.raises(EngineError, match="does not take the graph"):
        build(SHIPPED["foundation"], tmp_path / "model.onnx")
