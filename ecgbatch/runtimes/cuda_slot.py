"""Memory of one batch on its way through a GPU: pinned on the host, and on the device."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from cuda.core import Buffer, Device, Event, EventOptions, LegacyPinnedMemoryResource, Stream
from cuda.core.utils import StridedMemoryView

from ecgbatch.errors import EngineError
from ecgbatch.runtimes import profiles

__all__ = ["Lane", "Slot"]

_F32 = np.dtype(np.float32)


class Lane(Protocol):
    """A stream, and a model that runs on it."""

    stream: Stream
    handle: int

    def run(self, profile: int, shape: tuple[int, ...], addresses: Mapping[str, int], consumed: Event) -> None:
        """Enqueue a batch of that profile and shape, whose tensors lie at these addresses of the device.

        `consumed` is reached as soon as the input has been read.
        """
        ...


class Slot:
    """Buffers of one batch, on the host (pinned) and on the device, of a lane."""

    def __init__(
        self, lane: Lane, device: Device, row: tuple[int, int], widths: Mapping[str, int], sizes: Sequence[int]
    ) -> None:
        self._lane = lane
        self._device = device
        self._row = row
        self._widths = widths
        self._sizes = sizes
        self._n = 0
        self._done, self._consumed = (_event(device) for _ in range(2))
        pinned = LegacyPinnedMemoryResource()
        n_bytes = {"x": row[0] * row[1] * _F32.itemsize} | {k: n * _F32.itemsize for k, n in widths.items()}
        self._row_bytes = n_bytes
        self._host = {name: pinned.allocate(sizes[-1] * n) for name, n in n_bytes.items()}
        self._buffers = {name: device.allocate(sizes[-1] * n, stream=lane.stream) for name, n in n_bytes.items()}
        self._arrays = {name: _array(buffer) for name, buffer in self._host.items()}

    def start(self, x: Any) -> None:
        """Enqueue x and the way back of its results; what x lies in may be written again on return.

        The feed does so: its next batch may lie where this one does. Of an x on the device this takes until the first
        layer has read it, of one on the host until it has been copied.
        """
        size = self._run(x, {name: self._buffers[name] for name in self._widths})
        for name in self._widths:
            host = self._part(self._host[name], name, size)
            self._part(self._buffers[name], name, size).copy_to(host, stream=self._lane.stream)
        self._lane.stream.record(self._done)
        if not isinstance(x, np.ndarray):
            self._consumed.sync()

    def results(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits and embedding of the batch that was started; rows of padding are left behind."""
        self.wait()
        logits, embedding = (
            self._arrays[name].reshape(-1, width)[: self._n].copy() for name, width in self._widths.items()
        )
        return logits, embedding

    def on_device(self, x: Any) -> tuple[StridedMemoryView, StridedMemoryView]:
        """The same, in new memory of the device."""
        stream = self._lane.stream
        out = {
            name: self._device.allocate(self._sizes[-1] * self._row_bytes[name], stream=stream) for name in self._widths
        }
        self._run(x, out)
        stream.record(self._done)
        self.wait()
        logits, embedding = (
            StridedMemoryView.from_buffer(out[name], (self._n, width), dtype=_F32)
            for name, width in self._widths.items()
        )
        return logits, embedding

    def send(self, x: np.ndarray) -> None:
        """Copy x of the host to the device as `start` does, into pinned memory first, and wait; nothing runs on it."""
        self._from_host(x, self._sizes[profiles.size_for(len(x), self._sizes)])
        self._lane.stream.record(self._done)
        self.wait()

    def wait(self) -> None:
        """Until the device has done all that was enqueued."""
        self._done.sync()

    def _run(self, x: Any, out: Mapping[str, Buffer]) -> int:
        """Enqueue x; the batch size it was padded to."""
        if not isinstance(x, np.ndarray):  # the lane's stream will wait for whoever made x
            x = StridedMemoryView.from_any_interface(x, stream_ptr=self._lane.handle)
        self._n = x.shape[0]
        profile = profiles.size_for(self._n, self._sizes)
        size = self._sizes[profile]
        address = self._from_host(x, size) if isinstance(x, np.ndarray) else self._from_device(x, size)
        addresses = {"x": address} | {name: int(buffer.handle) for name, buffer in out.items()}
        self._lane.run(profile, (size, *self._row), addresses, self._consumed)
        return size

    def _from_host(self, x: np.ndarray, size: int) -> int:
        profiles.fill(x, self._arrays["x"].reshape(-1, *self._row)[:size])
        pinned = self._part(self._host["x"], "x", size)
        pinned.copy_to(self._part(self._buffers["x"], "x", size), stream=self._lane.stream)
        return int(self._buffers["x"].handle)

    def _from_device(self, view: StridedMemoryView, size: int) -> int:
        """Where the device finds the batch: where it lies, if it can be used there."""
        _require_like(view, (self._n, *self._row), self._device.device_id)
        if profiles.fits_in_place(self._n, size, view.ptr):
            return view.ptr
        own = self._part(self._buffers["x"], "x", size)
        own.fill(0, stream=self._lane.stream)
        if self._n:
            rows = Buffer.from_handle(view.ptr, self._n * self._row_bytes["x"], owner=view)
            rows.copy_to(self._part(own, "x", self._n), stream=self._lane.stream)
        return int(own.handle)

    def _part(self, buffer: Buffer, name: str, n: int) -> Buffer:
        """The first n rows of a buffer."""
        return Buffer.from_handle(buffer.handle, n * self._row_bytes[name], owner=buffer)


def _event(device: Device) -> Event:
    """An event that is waited for asleep: to spin would cost a decoder its core."""
    return device.create_event(EventOptions(blocking_sync=True))


def _array(buffer: Buffer) -> np.ndarray:
    """Pinned memory as float32; it lives as long as the buffer."""
    return np.ctypeslib.as_array((ctypes.c_float * (buffer.size // _F32.itemsize)).from_address(buffer.handle))


def _require_like(view: StridedMemoryView, shape: tuple[int, ...], index: int) -> None:
    dense = (shape[1] * shape[2], shape[2], 1)
    strides = dense if view.strides is None else view.strides
    is_dense = all(found == step for found, step, n in zip(strides, dense, shape, strict=False) if n > 1)
    if view.shape != shape or view.dtype != _F32 or not is_dense or view.device_id != index:
        what = f"{view.dtype} {view.shape} on device {view.device_id}"
        raise EngineError(f"batch of {what}, expected dense float32 {shape} on device {index}")
