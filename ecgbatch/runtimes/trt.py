"""TensorRT on an NVIDIA GPU: build a plan from an ONNX graph, and run it on several streams.

What can be decided without the library is in profiles, placement, engine_file and layers; here are its calls, and in
cuda_slot those of memory. Precision is the graph's: TensorRT 11 knows no other. Memory, streams and events are
`cuda.core`'s: NVIDIA's own, typed, and no more than that, where CuPy would bring kernels and a pool of its own.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, siginterrupt
from tempfile import NamedTemporaryFile
from typing import Any, SupportsInt, TypeVar

import numpy as np

from ecgbatch.bundle import Bundle
from ecgbatch.errors import EngineError
from ecgbatch.runtimes import engine_file, layers, placement, profiles

try:
    import tensorrt as trt
    from cuda.bindings import driver
    from cuda.core import Device, Event, Stream
    from cuda.core.utils import StridedMemoryView

    from ecgbatch.runtimes.cuda_slot import Slot
except (ImportError, OSError) as err:  # OSError: a shared library of theirs is missing
    missing = f"device 'cuda' needs TensorRT and cuda-core ({err}); pip install 'ecgbatch[gpu]'"
    raise EngineError(missing) from err

__all__ = ["Observer", "TrtEngine", "build", "facts", "load", "n_gpus"]

T = TypeVar("T")
Observer = Callable[[str, int, int], None]
"""Told of a build's phase, the step that it has come to, and of how many."""

_STREAMS = 2
"""One copies while the other computes."""
_SLOTS = 2
"""Buffers of each stream: one is filled by the host while the device works on the other."""


def n_gpus() -> int:
    """How many GPUs this machine lets us use.

    Raises:
        EngineError: there is no driver.
    """
    with _told("cuda"):
        return len(Device.get_all_devices())


def facts(bundle: Bundle, *, index: int, precision: str, batch: int) -> dict[str, str]:
    """All that an engine of `bundle` on GPU `index` depends on.

    Raises:
        EngineError: there is no such GPU, or no driver.
    """
    device = _device(index)
    with _told(f"cuda:{index}"):
        _, cuda = driver.cuDriverGetVersion()  # `cuda.core.system` asks NVML for it, which a container may lack
        gpu = engine_file.Gpu(
            name=device.name,
            architecture=f"sm_{device.arch}",
            driver=f"{cuda // 1000}.{cuda % 1000 // 10}",
            tensorrt=trt.__version__,
        )
    return engine_file.facts(bundle, gpu, precision=precision, sizes=profiles.sizes(batch))


def build(bundle: Bundle, graph: Path, *, index: int, batch: int, timings: Path | None, observe: Observer) -> bytes:
    """A plan: the ONNX graph of `bundle`, compiled for GPU `index`, with a profile for each size.

    `timings` keeps what builds on the same GPU have measured; it is read where it exists, and written.

    Raises:
        EngineError: TensorRT does not take the graph, or cannot build it.
    """
    device = _device(index)
    log = _LOG
    log.taken()
    with _told(f"cuda:{index}, {graph.name}", log):
        builder = trt.Builder(log)
        network = builder.create_network()
        parser = _parsed(graph, network, log)  # owns the network's weights, so it lives until the plan is there
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default: float32 with 10 bits, which nobody asked for
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector tells no types
        config.progress_monitor = monitor = _Progress(observe)
        for size in profiles.sizes(batch):
            profile = builder.create_optimization_profile()
            shape = (size, len(bundle.input.leads), bundle.input.samples)
            profile.set_shape("x", shape, shape, shape)
            _require(config.add_optimization_profile(profile) >= 0, log, f"refuses batches of {size}")
        _use_timings(timings, config, log)
        plan = _apart(lambda: builder.build_serialized_network(network, config), device, monitor)
        del parser
        _require(plan is not None, log, "cannot build the engine")
        if timings:
            _replace(timings, bytes(memoryview(config.get_timing_cache().serialize())))
        return bytes(memoryview(plan))


def load(
    bundle: Bundle, plan: bytes, *, index: int, variant: str, batch: int, at_once: int | None = None
) -> "TrtEngine":
    """The engine of a plan that was built for `batch` on a GPU like `index`, ready to run there.

    It takes `at_once` records at once, by default `batch`, and has no more memory than these need.

    Raises:
        EngineError: TensorRT does not take it here, its tensors are not the bundle's, it was built for another batch or
            for fewer at once, or the GPU has no memory for it.
    """
    where = f"model {bundle.name!r} on cuda:{index}"
    device = _device(index)
    log = _LOG
    log.taken()
    with _told(where, log):
        runtime = trt.Runtime(log)
        compiled = runtime.deserialize_cuda_engine(plan)
        _require(compiled is not None, log, "does not take the plan")
        sizes = profiles.sizes(batch)
        engine_file.refuse_tensors(_tensors(compiled), _sizes(compiled), bundle, sizes=sizes)
        sizes = sizes[: profiles.size_for(at_once or batch, sizes) + 1]
        loaded = (runtime, compiled)
        return TrtEngine(bundle, loaded, device, log, variant=variant, batch=at_once or batch, sizes=sizes)


class TrtEngine:
    """A compiled model on one GPU; owns its streams and buffers, so one caller at a time."""

    def __init__(
        self,
        bundle: Bundle,
        plan: tuple[trt.Runtime, trt.ICudaEngine],
        device: Device,
        log: "_Log",
        *,
        variant: str,
        batch: int,
        sizes: Sequence[int],
    ) -> None:
        self.bundle = bundle
        self.batch = batch
        self.variant = variant
        self._device = device
        self._log = log
        self._runtime, self._compiled = _, compiled = plan  # the runtime must outlive what it has read
        lanes = [_Lane(compiled, device, log, n_profiles=len(sizes)) for _ in range(_STREAMS)]
        row = (len(bundle.input.leads), bundle.input.samples)
        widths = {name: _shape(compiled.get_tensor_shape(name))[-1] for name in ("logits", "embedding")}
        self._slots = [Slot(lane, device, row, widths, sizes) for _ in range(_SLOTS) for lane in lanes]

    def __str__(self) -> str:
        return f"cuda:{self._device.device_id} tensorrt {self.precision}"

    @property
    def precision(self) -> str:
        """The first word of `variant`, which has the hash of the graph too."""
        return self.variant.partition(" ")[0]

    def __call__(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Logits (record, label) and embedding (record, feature) of normalised float32 x (record, lead, time).

        x lies on the host, or on the engine's GPU (DLPack or `__cuda_array_interface__`); the results on the host.
        """
        parts = [x[start : start + self.batch] for start in range(0, max(len(x), 1), self.batch)]
        results = [result for _, *result in self.stream((None, part) for part in parts)]
        return np.concatenate([logits for logits, _ in results]), np.concatenate([emb for _, emb in results])

    def stream(self, inputs: Iterable[tuple[T, Any]]) -> Iterator[tuple[T, np.ndarray, np.ndarray]]:
        """Logits and embedding of each (tag, x), in order; x holds at most `batch` records, and several run at once.

        x lies on the host or on the engine's GPU, and may be written again as soon as the next one is asked for.
        """
        idle = deque(self._slots)
        running: deque[tuple[T, Slot]] = deque()
        try:
            for tag, x in inputs:
                if not idle:
                    yield self._finish(running, idle)
                with self._running():
                    idle[0].start(x)
                running.append((tag, idle.popleft()))
            while running:
                yield self._finish(running, idle)
        finally:
            with self._running():
                for _, slot in running:
                    slot.wait()  # the device writes into its buffers until then

    def on_device(self, x: Any) -> tuple[StridedMemoryView, StridedMemoryView]:
        """Logits and embedding of at most `batch` records on the GPU, left there: DLPack in and out, no copy of either.

        A batch that is no profile's size, or not aligned, is copied once, on the GPU.
        """
        with self._running():
            return self._slots[0].on_device(x)

    def send(self, x: np.ndarray) -> None:
        """Copy at most `batch` records to the GPU and wait until they are there; nothing is computed of them."""
        with self._running():
            self._slots[0].send(x)

    def left_in_float32(self) -> list[str]:
        """Names of the layers that compute in float32, whatever precision was asked for.

        Raises:
            EngineError: the inspector does not tell.
        """
        with self._running():
            inspector = self._compiled.create_engine_inspector()
            told = layers.layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
            return [f"{layer.kind} {layer.name}" for layer in layers.in_float32(told)]

    def _finish(self, running: "deque[tuple[T, Slot]]", idle: "deque[Slot]") -> tuple[T, np.ndarray, np.ndarray]:
        tag, slot = running[0]
        with self._running():
            logits, embedding = slot.results()
        running.popleft()
        idle.append(slot)
        return tag, logits, embedding

    @contextmanager
    def _running(self) -> Iterator[None]:
        """This engine's GPU is the thread's; another engine's may have been since the last call."""
        with _told(f"model {self.bundle.name!r} on {self}", self._log):
            self._device.set_current()
            yield


class _Lane:
    """A stream, and the context that runs the first so many profiles on it."""

    def __init__(self, compiled: trt.ICudaEngine, device: Device, log: "_Log", *, n_profiles: int) -> None:
        self._log = log
        self.stream: Stream = device.create_stream()
        self.handle: int = self.stream.__cuda_stream__()[1]
        # A context that has memory of its own has it for the largest profile, whichever are run.
        self._context = compiled.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        _require(self._context is not None, log, "cannot make a context")
        n_bytes = max(compiled.get_device_memory_size_for_profile_v2(at) for at in range(n_profiles))
        if n_bytes:
            self._memory = device.allocate(n_bytes, stream=self.stream)
            self._context.set_device_memory(int(self._memory.handle), n_bytes)
        self._profile = -1

    def run(self, profile: int, shape: tuple[int, ...], addresses: Mapping[str, int], consumed: Event) -> None:
        """Enqueue one batch of that profile; the event is reached when its input has been read."""
        if profile != self._profile:
            switched = self._context.set_optimization_profile_async(profile, self.handle)
            _require(switched, self._log, f"has no profile {profile}")
            _require(self._context.set_input_shape("x", shape), self._log, f"does not take {shape}")
            self._profile = profile
        for name, address in addresses.items():
            _require(self._context.set_tensor_address(name, address), self._log, f"does not take {name}'s address")
        _require(self._context.set_input_consumed_event(int(consumed.handle)), self._log, "takes no event")
        _require(self._context.execute_async_v3(self.handle), self._log, "cannot run the batch")


class _Log(trt.ILogger):
    """Keeps what TensorRT says of errors, which its calls only report as None or False."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(msg)

    def taken(self) -> str:
        """The errors since the last call, in one line."""
        text = "; ".join(" ".join(error.split()) for error in self.errors)
        self.errors.clear()
        return text or "it does not say why"


_LOG = _Log()
"""Of the whole process: TensorRT keeps the first one that it is given, and may use it when all else is gone."""


class _Progress(trt.IProgressMonitor):
    """Passes the outermost phases of a build on, and ends it once something has been raised.

    What these functions raise themselves, TensorRT prints and forgets.
    """

    def __init__(self, observe: Observer) -> None:
        trt.IProgressMonitor.__init__(self)
        self._observe = observe
        self._steps: dict[str, int] = {}
        self.raised: BaseException | None = None

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: SupportsInt) -> None:
        if not parent_phase:
            self._steps[phase_name] = int(num_steps)
            self._tell(phase_name, 0)

    def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
        """Tell how far a phase has come; True lets the build go on."""
        self._tell(phase_name, int(step) + 1)
        return self.raised is None

    def phase_finish(self, phase_name: str) -> None:
        self._steps.pop(phase_name, None)

    def _tell(self, phase: str, step: int) -> None:
        n_steps = self._steps.get(phase)
        if n_steps is None or self.raised:
            return
        try:
            self._observe(phase, step, n_steps)
        except Exception as err:  # raised again where the build has ended
            self.raised = err


def _device(index: int) -> Device:
    placement.require_present([index], n_gpus())
    with _told(f"cuda:{index}"):
        device = Device(index)
        device.set_current()
        return device


def _parsed(graph: Path, network: trt.INetworkDefinition, log: _Log) -> trt.OnnxParser:
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        errors: list[trt.ParserError] = [parser.get_error(at) for at in range(parser.num_errors)]
        raise EngineError("TensorRT does not take the graph: " + "; ".join(map(_said, errors)))
    return parser


def _said(error: trt.ParserError) -> str:
    node = f"{error.node_operator()} {error.node_name()}: " if error.node_operator() else ""
    return f"{node}{error.desc()}"


def _apart(work: Callable[[], T], device: Device, monitor: _Progress) -> T:
    """What the work returns, done on a thread of its own: an interrupt is for this one, and TensorRT loses it.

    It calls back for every line of its log; an interrupt would mostly come while one of these calls runs.
    """
    siginterrupt(SIGINT, True)  # Polars, once it is used, has a wait go on after an interrupt
    with ThreadPoolExecutor(1, initializer=device.set_current) as pool:
        running = pool.submit(work)
        try:
            made = running.result()
        except BaseException as err:
            monitor.raised = err
            raise
    if monitor.raised:
        raise monitor.raised
    return made


def _use_timings(path: Path | None, config: trt.IBuilderConfig, log: _Log) -> None:
    """Start from the timings at `path`, or from none where they are another GPU's or version's."""
    known = path.read_bytes() if path and path.exists() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        log.taken()  # what it says of them is no error of this build
        cache = config.create_timing_cache(b"")
        _require(config.set_timing_cache(cache, ignore_mismatch=False), log, "keeps no timings")


def _tensors(compiled: trt.ICudaEngine) -> dict[str, engine_file.Tensor]:
    names = [compiled.get_tensor_name(at) for at in range(compiled.num_io_tensors)]
    return {
        name: engine_file.Tensor(
            is_input=compiled.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            dtype=compiled.get_tensor_dtype(name).name,
            shape=_shape(compiled.get_tensor_shape(name)),
        )
        for name in names
    }


def _sizes(compiled: trt.ICudaEngine) -> list[int]:
    """The largest batch of each profile."""
    every = range(compiled.num_optimization_profiles)
    return [_shape(compiled.get_tensor_profile_shape("x", at)[2])[0] for at in every]


def _shape(dims: trt.Dims) -> tuple[int, ...]:
    return tuple(dims[at] for at in range(len(dims)))


def _require(is_done: Any, log: _Log, failure: str) -> None:
    if not is_done:
        raise EngineError(f"TensorRT {failure}: {log.taken()}")


@contextmanager
def _told(where: str, log: _Log | None = None) -> Iterator[None]:
    """What CUDA or TensorRT raises, as an EngineError that says where.

    `cuda.core` keeps its error class to itself, so everything is taken that is not ours; the cause stays with it.
    """
    try:
        yield
    except EngineError as err:
        raise EngineError(f"{where}: {err}") from err
    except Exception as err:
        said = f"; TensorRT: {log.taken()}" if log and log.errors else ""
        raise EngineError(f"{where}: {type(err).__name__}: {err}{said}") from err


def _replace(path: Path, content: bytes) -> None:
    """Two builds may write it at once: whole, and the last one's stays."""
    partial = NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115
    try:
        with partial:
            partial.write(content)
        Path(partial.name).replace(path)
    finally:
        Path(partial.name).unlink(missing_ok=True)  # where it has not taken its place
