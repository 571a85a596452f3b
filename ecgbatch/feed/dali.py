"""The DALI feed: records decoded and judged on the host, made model input by one graph, on a CPU or a GPU.

Only records that are to be scored enter the graph, as payloads: an operator that fails ends a DALI pipeline for good,
so nothing in it may. The samples of a MUSE file are out of their base64 by then, for hash and quality gate need them.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from ecgbatch.bundle import InputSpec
from ecgbatch.errors import EngineError
from ecgbatch.feed import dali_operator, payload
from ecgbatch.feed.batch import Batch, batches
from ecgbatch.feed.payload import Payload
from ecgbatch.plan import Shard

__all__ = ["Graph", "opened"]

_AHEAD = 2
"""Batches in the graph while the engine has one."""


def opened(
    specs: Sequence[InputSpec], *, device: str, size: int, workers: int, least_quality: float | None = None
) -> Callable[[Iterable[Shard]], Generator[Batch, None, None]]:
    """`batch.batches`, but for the model input, which is computed on that device and lies there.

    Raises:
        MissingExtraError: DALI is not installed.
        EngineError: its operator has not been built, or the device cannot be had.
    """
    graph = Graph(specs, device=device, size=size, workers=workers)
    made = partial(batches, specs=specs, size=size, workers=workers, least_quality=least_quality, inputs=payload)
    return lambda shards: graph.filled(made(shards))


class Graph:
    """A DALI pipeline that takes payloads and gives the input of every spec; for one run, which may end early."""

    def __init__(self, specs: Sequence[InputSpec], *, device: str, size: int, workers: int) -> None:
        operator = dali_operator.found()
        kind, _, index = device.partition(":")
        if kind not in ("cpu", "cuda") or not (index or "0").isdecimal():
            raise EngineError(f"device {device!r}, expected 'cpu', 'cuda' or 'cuda:<index>'")
        if kind == "cuda" and not operator.kernels:
            raise EngineError(
                "DALI operator: compiled for CPUs only; with nvcc on the path, `ecgbatch doctor --build-operator`"
            )
        dali_operator.load(operator.library)
        self.specs = tuple(specs)
        self.device = device
        self._pipeline = _pipeline(self.specs, None if kind == "cpu" else int(index or 0), size=size, workers=workers)
        with _told(device):
            self._pipeline.build()

    def filled(self, made: Iterable[Batch]) -> Generator[Batch, None, None]:
        """The same batches, in order, with model input in place of the payloads that `made` gives.

        Raises:
            EngineError: the device fails.
        """
        running: deque[Batch] = deque()
        for batch in made:
            self._start(batch)
            running.append(batch)
            if len(running) > _AHEAD:
                yield self._finished(running.popleft())
        while running:
            yield self._finished(running.popleft())

    def _start(self, batch: Batch) -> None:
        if not batch.rows:
            return
        of_specs: list[list[Payload]] = [list(batch.x[spec][:, 0]) for spec in self.specs]
        with _told(self.device):
            self._pipeline.feed_input("index", np.arange(len(batch.rows)))
            self._pipeline.feed_input("counts", [each.counts for each in of_specs[0]])
            for at, payloads in enumerate(of_specs):
                self._pipeline.feed_input(f"taps {at}", [each.taps for each in payloads])
                self._pipeline.feed_input(f"recipe {at}", [each.recipe for each in payloads])
            self._pipeline.schedule_run()

    def _finished(self, batch: Batch) -> Batch:
        if not batch.rows:
            batch.x = {spec: np.empty((0, len(spec.leads), spec.samples), np.float32) for spec in self.specs}
            return batch
        with _told(self.device):
            index, *x = self._pipeline.outputs()
        rows = index.as_array().tolist()
        assert rows == list(range(len(batch.rows))), "a row of the graph is the row of its record"
        batch.x = {spec: _array(each) for spec, each in zip(self.specs, x, strict=True)}
        return batch


def _pipeline(specs: Sequence[InputSpec], gpu: int | None, *, size: int, workers: int) -> Any:
    from nvidia.dali import Pipeline, fn, types

    plugin: Any = fn  # DALI's own stubs know its own operators only

    # A queue of one: a longer one would be filled by the first run, with batches that may never come.
    pipeline = Pipeline(batch_size=size, num_threads=workers, device_id=gpu, prefetch_queue_depth=1)
    with pipeline:

        def fed(name: str, dtype: types.DALIDataType, ndim: int) -> Any:
            return fn.external_source(name=name, dtype=dtype, ndim=ndim)

        def there(node: Any) -> Any:
            return node if gpu is None else node.gpu()

        counts = there(fed("counts", types.INT16, 1))
        x = [
            plugin.ecg_model_input(
                counts,
                there(fed(f"taps {at}", types.FLOAT, 2)),
                fed(f"recipe {at}", types.UINT8, 1),
                n_leads=len(spec.leads),
                samples=spec.samples,
                clip=float(spec.clip),
                device="cpu" if gpu is None else "gpu",
            )
            for at, spec in enumerate(specs)
        ]
        pipeline.set_outputs(fed("index", types.INT64, 0), *x)
    return pipeline


def _array(x: Any) -> Any:
    """A batch as one array, where it lies: NumPy's on a CPU, on a GPU one that speaks DLPack."""
    from nvidia.dali.tensors import TensorListCPU

    return np.asarray(x.as_tensor()) if isinstance(x, TensorListCPU) else x.as_tensor()


@contextmanager
def _told(device: str) -> Iterator[None]:
    """What DALI raises, as an EngineError of one line."""
    try:
        yield
    except RuntimeError as err:
        lines = [line for line in str(err).splitlines() if line.strip()]
        raise EngineError(f"dali on {device}: {lines[0] if lines else type(err).__name__}") from err
