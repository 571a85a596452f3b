"""What `runtimes/trt.py` calls of TensorRT, computed by PyTorch: for a machine that has a GPU and no TensorRT.

    python benchmarks/gpu_report.py --without-tensorrt --out report.json

puts this folder before the installed packages. Streams, events, memory and device arrays are the real ones then, and so
is what runs on them, in order, without waiting for the host; graphs are executed node by node, int8 as its rounding in
float32. Of TensorRT itself it shows nothing.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch
from torch.nn import functional

__version__ = f"0 (PyTorch {torch.__version__} in its place)"
ALIGNMENT_BYTES = 256
_N_BEFORE_CAPTURE = 3
"""Batches in the same memory; the last of them is captured as a CUDA graph."""
DEVICE = "cuda"

BuilderFlag = Enum("BuilderFlag", ["TF32"])
ExecutionContextAllocationStrategy = Enum("ExecutionContextAllocationStrategy", ["USER_MANAGED"])
LayerInformationFormat = Enum("LayerInformationFormat", ["JSON"])
ProfilingVerbosity = Enum("ProfilingVerbosity", ["DETAILED"])
TensorIOMode = Enum("TensorIOMode", ["INPUT", "OUTPUT"])
Dims = IBuilderConfig = INetworkDefinition = ParserError = object  # annotations only

torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


class ILogger:
    Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])


class IProgressMonitor:
    pass


class OnnxParser:
    def __init__(self, network, log):
        self._network, self._errors = network, []

    def parse_from_file(self, path: str) -> bool:
        model = onnx.load(path)
        unknown = {node.op_type for node in model.graph.node} - OPERATORS.keys()
        self._errors = [
            SimpleNamespace(desc=lambda: "no importer", node_operator=lambda op=op: op, node_name=str)
            for op in sorted(unknown)
        ]
        self._network.graph = Path(path).read_bytes()
        return not unknown

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, at: int):
        return self._errors[at]


class Builder:
    def __init__(self, log):
        pass

    def create_network(self):
        return SimpleNamespace(graph=b"")

    def create_builder_config(self):
        sizes: list[int] = []
        return SimpleNamespace(
            sizes=sizes,
            clear_flag=lambda flag: None,
            add_optimization_profile=lambda profile: sizes.append(profile.size) or len(sizes) - 1,
            create_timing_cache=lambda content: content,
            set_timing_cache=lambda cache, *, ignore_mismatch: True,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"no timings"),
        )

    def create_optimization_profile(self) -> "Profile":
        return Profile()

    def build_serialized_network(self, network, config) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("build", None, 1)
        goes_on = monitor.step_complete("build", 0)
        monitor.phase_finish("build")
        plan = json.dumps(config.sizes).encode() + b"\n" + network.graph
        return sha256(plan).digest() + plan if goes_on else None


class Profile:
    def set_shape(self, name: str, least: Sequence[int], best: Sequence[int], most: Sequence[int]) -> None:
        self.size = most[0]


class Runtime:
    def __init__(self, log):
        self._log = log

    def deserialize_cuda_engine(self, plan: bytes) -> "ICudaEngine | None":
        digest, plan = plan[:32], plan[32:]
        if sha256(plan).digest() != digest:
            self._log.log(ILogger.Severity.ERROR, "not a plan")
            return None
        sizes, graph = plan.split(b"\n", 1)
        return ICudaEngine(json.loads(sizes), onnx.load_model_from_string(graph))


class ICudaEngine:
    def __init__(self, sizes: Sequence[int], model: onnx.ModelProto):
        self.sizes, self._graph = sizes, model.graph
        self._ends = {end.name: end.type.tensor_type for end in (*model.graph.input, *model.graph.output)}
        self._weights = {tensor.name: _tensor(tensor) for tensor in model.graph.initializer}
        self._nodes = [(node, OPERATORS[node.op_type], _attributes(node)) for node in model.graph.node]
        self.num_io_tensors, self.num_optimization_profiles = len(self._ends), len(sizes)

    def get_tensor_name(self, at: int) -> str:
        return list(self._ends)[at]

    def get_tensor_mode(self, name: str):
        return TensorIOMode.INPUT if name == "x" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str):
        return SimpleNamespace(name=onnx.TensorProto.DataType.Name(self._ends[name].elem_type))

    def get_tensor_shape(self, name: str) -> list[int]:
        return [dim.dim_value or -1 for dim in self._ends[name].shape.dim]

    def get_tensor_profile_shape(self, name: str, at: int) -> list[list[int]]:
        return [[self.sizes[at], *self.get_tensor_shape(name)[1:]]] * 3

    def get_device_memory_size_for_profile_v2(self, at: int) -> int:
        """What PyTorch takes of itself is besides; this much is asked for, that it has to be there."""
        return 500_000 * self.sizes[at]

    def create_execution_context(self, strategy) -> "IExecutionContext":
        return IExecutionContext(self)

    def create_engine_inspector(self):
        shape = self.get_tensor_profile_shape("x", 0)[0]
        values = self.values({"x": torch.zeros(shape, device=DEVICE)})
        layers = [
            {"Name": node.name, "LayerType": node.op_type, "Outputs": [{"DataType": _NAMES[values[end].dtype]}]}
            for node in self._graph.node
            for end in node.output[:1]
        ]
        return SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": layers}))

    def values(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Every tensor of the graph, by name, computed on the current stream."""
        values |= self._weights
        for node, work, attributes in self._nodes:
            values[node.output[0]] = work(*(values[name] for name in node.input), **attributes)
        return values


class IExecutionContext:
    def __init__(self, engine: ICudaEngine):
        self._engine, self._at, self._profile, self._n_bytes = engine, {}, 0, 0
        self._n_done: Counter[tuple] = Counter()
        self._captured: dict[tuple, torch.cuda.CUDAGraph] = {}

    def set_device_memory(self, address: int, n_bytes: int) -> None:
        self._n_bytes = n_bytes

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self._profile, self._shape = profile, None
        return profile < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        self._shape = tuple(shape)
        return list(shape) == self._engine.get_tensor_profile_shape(name, self._profile)[0]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._at[name] = address
        return address % ALIGNMENT_BYTES == 0

    def set_input_consumed_event(self, event: int) -> bool:
        self._consumed = event
        return True

    @torch.inference_mode()
    def execute_async_v3(self, stream: int) -> bool:
        """Enqueue the batch: node by node, or at once where the same memory was used before, as TensorRT does."""
        assert self._n_bytes >= self._engine.get_device_memory_size_for_profile_v2(self._profile)
        on = torch.cuda.ExternalStream(stream)
        work = (self._shape, *sorted(self._at.items()))
        self._n_done[work] += 1
        if self._n_done[work] == _N_BEFORE_CAPTURE:
            self._captured[work] = graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=on, capture_error_mode="thread_local"):
                self._compute()
        with torch.cuda.stream(on):
            if work in self._captured:
                self._captured[work].replay()
            else:
                self._compute()
        from cuda.bindings import driver

        (error,) = driver.cuEventRecord(self._consumed, stream)
        return error == driver.CUresult.CUDA_SUCCESS

    def _compute(self) -> None:
        values = self._engine.values({"x": _at(self._at["x"], self._shape)})
        for name in self._at.keys() - {"x"}:
            _at(self._at[name], tuple(values[name].shape)).copy_(values[name])


def _at(address: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The float32 array that lies there on the current device."""
    interface = {"shape": shape, "typestr": "<f4", "data": (address, False), "version": 3, "strides": None}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device=DEVICE)


def _tensor(tensor: onnx.TensorProto) -> torch.Tensor:
    array = onnx.numpy_helper.to_array(tensor)
    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(DEVICE)
    found = torch.from_numpy(np.array(array))
    return found if found.dtype == torch.int64 else found.to(DEVICE)  # axes and shapes are for the host


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def _conv(x, weight, bias=None, *, pads, strides, group, dilations, **_):
    half = len(pads) // 2
    assert pads[:half] == pads[half:]
    return functional.conv2d(x, weight, bias, stride=strides, padding=pads[:half], groups=group, dilation=dilations)


def _average_pool(x, *, kernel_shape, strides, pads, ceil_mode=0, count_include_pad=0, **_):
    assert not any(pads)
    return functional.avg_pool2d(
        x, kernel_shape, strides, ceil_mode=bool(ceil_mode), count_include_pad=bool(count_include_pad)
    )


def _gemm(x, weight, bias, **attributes):
    assert (attributes["transA"], attributes["transB"], attributes["alpha"], attributes["beta"]) == (0, 1, 1.0, 1.0)
    return functional.linear(x, weight, bias)


def _per_axis(scale, x, axis):
    return scale if scale.ndim == 0 else scale.reshape([-1 if at == axis else 1 for at in range(x.ndim)])


def _quantise(x, scale, zero, *, axis=1, **_):
    assert zero.dtype == torch.int8
    return (x / _per_axis(scale, x, axis)).round().clamp(-128, 127).to(zero.dtype)


def _dequantise(x, scale, zero, *, axis=1, **_):
    return x * _per_axis(scale, x, axis)


def _reduced(reduce: Callable) -> Callable:
    return lambda x, axes, *, keepdims=1, **_: reduce(x, dim=tuple(axes.tolist()), keepdim=bool(keepdims))


def _unsqueezed(x, axes):
    for axis in sorted(axes.tolist()):
        x = x.unsqueeze(axis)
    return x


_TYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
}
_NAMES = {torch.float32: "Float", torch.float16: "Half", torch.bfloat16: "BFloat16", torch.int8: "Int8"}
OPERATORS: Mapping[str, Callable] = {
    "Add": torch.add,
    "AveragePool": _average_pool,
    "Cast": lambda x, *, to, **_: x.to(_TYPES[to]),
    "Concat": lambda *x, axis: torch.cat(x, dim=axis),
    "Conv": _conv,
    "DequantizeLinear": _dequantise,
    "Gemm": _gemm,
    "Mul": torch.mul,
    "QuantizeLinear": _quantise,
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Squeeze": lambda x, axes: x.squeeze(tuple(axes.tolist())),
    "Unsqueeze": _unsqueezed,
}
"""Of ONNX: those of our graphs."""
