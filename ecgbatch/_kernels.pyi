"""The compiled kernels: they know arrays, not ecgbatch. Sources in `kernels/`."""

import numpy as np
from numpy.typing import NDArray

def nanovolts(
    counts: NDArray[np.int16] | NDArray[np.int32],
    channel: NDArray[np.int64],
    nv_per_count: NDArray[np.float64],
    zero: NDArray[np.float64],
    invalid: int,
    out: NDArray[np.int32],
    extent: NDArray[np.int32],
) -> None:
    """Leads of a record in nV: out[lead] = sum over two channels of (counts - zero) * nv_per_count.

    `counts` is (channel, time) of any strides, the tables are (lead, 2). Where a contributing count equals
    `invalid`, out is INT32_MIN. `extent` (lead, 3) gets the smallest and
    largest value that is not, and how many are.
    """

def model_input(
    nv: NDArray[np.int32],
    up: int,
    down: int,
    half: int,
    taps: NDArray[np.float32],
    per_nv: NDArray[np.float32],
    clip: float,
    out: NDArray[np.float32],
) -> None:
    """Resample, fit and scale (lead, time) in nV into out (lead, time): `waveform.resample`, `fit`, `scale`."""

def model_input_by_sample(
    nv: NDArray[np.int32],
    up: int,
    down: int,
    half: int,
    taps: NDArray[np.float32],
    per_nv: NDArray[np.float32],
    clip: float,
    out: NDArray[np.float32],
) -> None:
    """The same through the function of one output sample that a GPU thread runs: for tests, slow."""

def base64_blocks(text: bytes, spans: NDArray[np.int64], out: NDArray[np.uint8]) -> tuple[list[int], list[int]]:
    """Decode text[begin:end] of each span into a row of out; the bytes each gave (-1: damaged) and their CRC-32."""

def crc32(data: bytes, /) -> int: ...
def wfdb_bytes(fmt: int, n: int) -> int:
    """Bytes that `n` samples take in a packed WFDB format; 0 for any other format."""

def wfdb_unpack(fmt: int, data: bytes, offset: int, out: NDArray[np.int32]) -> None:
    """As many samples as out holds, from data[offset:]; format 8's differences are left as they are."""

def flat_channels(counts: NDArray[np.int16] | NDArray[np.int32]) -> list[int]:
    """The channels of (channel, time), of any strides, whose samples are all equal."""

def frame_sums(frames: NDArray[np.int16]) -> list[int]:
    """Sum of each column of (time, channel), modulo 65536."""

def xml_root(text: bytes) -> tuple[int, int, bytes]:
    """Status and byte as of `XmlPaths.scan`, and the name of the root element."""

class XmlPaths:
    """Elements wanted from XML documents, by path from the root."""

    def __init__(self, paths: list[str], /) -> None: ...
    def scan(self, text: bytes) -> tuple[int, int, list[tuple[int, int, int]]]:
        """Spans in a document, with its status and the byte where that was known.

        The status is 0 complete, 1 truncated, 2 malformed, 3 entities. A span is (index of the path, begin, end) of
        an element's content, in the order of the start tags.
        """

    def table(
        self, text: bytes, n_columns: int
    ) -> tuple[int, int, list[tuple[int, int, int]], list[list[bytes]], list[tuple[int, int, int]]]:
        """The same with the first `n_columns` paths as a table, a row for each element at the first of them.

        The spans are those of all other paths, counted from 0; a row holds the contents of the elements at the paths
        between first and last column (empty where absent), and its place is where the row's content begins, and
        where the content of the last column begins and ends (0, 0 where absent).
        """
