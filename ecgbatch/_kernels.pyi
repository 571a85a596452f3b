"""The compiled kernels: they know arrays, not ecgbatch. Sources in `kernels/`."""

import numpy as np
from numpy.typing import NDArray

class Mixer:
    """How leads follow from stored channels: lead = sum over two channels of (counts - zero) * nv_per_count."""

    def __init__(
        self, channel: NDArray[np.int64], nv_per_count: NDArray[np.float64], zero: NDArray[np.float64]
    ) -> None:
        """Tables (lead, 2); nv_per_count is 0 where there is no second channel."""

    def __call__(self, counts: NDArray[np.int16] | NDArray[np.int32], invalid: int, out: NDArray[np.int32]) -> int:
        """Write the leads in nV into out (lead, time); `counts` is (channel, time) of any strides.

        Where a contributing count is `invalid`, out is INT32_MIN. Returns how many samples are.
        """

class ModelInput:
    """Offset, resampling, fit and scaling for records of one rate: `waveform.prepare` of nanovolts."""

    def __init__(
        self,
        up: int,
        down: int,
        half: int,
        taps: NDArray[np.float32],
        per_nv: NDArray[np.float32],
        n_offset: int,
        clip: float,
    ) -> None:
        """The filter of `waveform.polyphase`, and what each lead in nV is multiplied by.

        The mean of a lead's first `n_offset` samples is taken off it; 0 of them take nothing.
        """

    def __call__(self, nv: NDArray[np.int32], out: NDArray[np.float32]) -> None:
        """Write (lead, time) in nV into out (lead, time)."""

class Jobs:
    """Records on their way to one model, each of them a payload, taps and a recipe, as the DALI operator takes them."""

    def __init__(self, payloads: list[tuple[NDArray[np.int16], NDArray[np.float32], bytes]]) -> None: ...
    def __call__(self, clip: float, out: NDArray[np.float32]) -> None:
        """Write out (record, lead, time) as the operator does on a CPU."""

    def by_sample(self, clip: float, out: NDArray[np.float32]) -> None:
        """Write it as a GPU's threads do, one after the other: slow."""

class DicomPaths:
    """Elements wanted from DICOM data sets, by path of tags (group * 65536 + element); an item is 0xFFFEE000.

    Paths that begin with an item are those of a sequence's value.
    """

    def __init__(self, paths: list[list[int]], /) -> None: ...
    def scan(
        self, data: bytes, begin: int, explicit_vr: bool, big_endian: bool
    ) -> tuple[int, int, list[tuple[int, int, int]]]:
        """Status (0 complete, 1 truncated, 2 malformed), the byte where that was known, and the spans from `begin` on.

        A span is (index of the path, begin, end) of a value, in the order of their beginnings.
        """

def base64_blocks(text: bytes, spans: list[tuple[int, int]], out: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Decode text[begin:end] of each span into a row of out; the bytes each gave (-1: damaged) and their CRC-32."""

def digits(text: bytes, spans: list[tuple[int, int]], out: NDArray[np.int32]) -> list[int]:
    """Write the decimal integers in text[begin:end] of each span into out, one span's after another's.

    Returns how many each span gave, -1 where it holds anything that is no integer. White space, a comma or both
    lie between two; a comma may follow the last; a fraction of zeros is part of an integer. `out` has room for
    (end - begin) // 2 + 1 of every span.
    """

def read_file(path: bytes, most: int) -> tuple[int, bytes | None, int, int]:
    """Errno, and content, size and modification time in ns of a file, the last two as they are once it was read.

    No content where there is an errno, where the file is not a regular one (size -1), or where it has more than `most`
    bytes. Opening does not wait, as it would for a FIFO.
    """

def edf_rows(
    data: bytes,
    offset: int,
    n_bytes: int,
    begins: list[int],
    n_samples: int,
    out: NDArray[np.int16] | NDArray[np.int32],
) -> None:
    """Gather signals from data records of `n_bytes`, the first at `offset`, into out (signal, time).

    A signal has `n_samples` in every record, from the byte in `begins` on: of 16 bits where out is int16, of 24 where
    it is int32.
    """

def edf_onsets(data: bytes, offset: int, n_bytes: int, begin: int, n_wanted: int, out: NDArray[np.float64]) -> None:
    """When each data record starts, in s, by the annotation in its `n_wanted` bytes from `begin` on; NaN if none."""

def crc16(data: bytes, begin: int, end: int) -> int:
    """CRC-CCITT of data[begin:end], as EN 1064 and ISHNE have it."""

def crc32(data: bytes, /) -> int: ...

class ScpTables:
    """Huffman tables of an SCP-ECG record."""

def scp_leads(
    data: bytes,
    begin: int,
    end: int,
    tables: ScpTables | None,
    encoding: int,
    leads: list[tuple[int, int, int]],
    out: NDArray[np.int16],
) -> int:
    """Decode leads that lie one after the other in data[begin:end]: bit streams, or int16 where there are no tables.

    A lead is (samples, bytes modulo 65536, row of out), the row negative for one to leave alone. The samples are
    amplitudes (encoding 0) or their first (1) or second (2) differences. Returns how many leads were sound, which is
    the index of the first that is not.
    """

def scp_tables(section: bytes) -> ScpTables | None:
    """The tables in the content of section 2; None where it holds no set of tables that can be told apart."""

def wfdb_bytes(fmt: int, n: int) -> int:
    """Bytes that `n` samples take in a packed WFDB format; 0 for any other format."""

def wfdb_header(text: bytes) -> tuple[bytes, list[bytes], list[int], bytes, list[int], list[int]]:
    """The lines of a WFDB header that are no comments, cut into their fields.

    The record line; for each run of signal lines that name one file, its name, and their number; a line of format,
    gain, zero and description, tabs between, for every signal; initial values; checksums modulo 65536.
    An absent checksum is 2**63 - 1, what is not a number -2**63.
    """

def wfdb_unpack(fmt: int, data: bytes, offset: int, out: NDArray[np.int32]) -> None:
    """As many samples as out holds, from data[offset:]; format 8's differences are left as they are."""

def flat_channels(counts: NDArray[np.int16] | NDArray[np.int32]) -> list[int]:
    """The channels of (channel, time), of any strides, whose samples are all equal."""

def lead_measures(nv: NDArray[np.int32], fs_hz: float, out: NDArray[np.float32]) -> None:
    """Write (measure, lead) of (8, time) nanovolts: `quality.lead_measures`."""

class Gate:
    """A logit of the measures of eight leads: `quality.features` times weights."""

    def __init__(self, weights: list[tuple[bool, bool, float, float]], intercept: float) -> None:
        """For each measure whether its worst is its least, and whether log10(1 + value) is weighed.

        Then the weights of its worst and of its middle lead.
        """

    def __call__(self, measures: NDArray[np.float32]) -> tuple[float, list[float]]:
        """The logit of (measure, lead), and each measure in its worst lead."""

def limb_residuals(nv: NDArray[np.int32], first: int, weights: list[tuple[float, float]], fs_hz: float) -> list[float]:
    """How far rows of (lead, time) from `first` on lie from sums a I + b II of the first two rows, in nV.

    The largest difference in a fifth of a second; in nine of ten fifths it is no larger.
    """

def frame_sums(frames: NDArray[np.int16]) -> list[int]:
    """Sum of each column of (time, channel), modulo 65536."""

def xli_leads(
    text: bytes, span: tuple[int, int], rows: list[int], limbs: list[int], out: NDArray[np.int16]
) -> tuple[int, int]:
    """Decode the base64 of XLI chunks in text[span], a chunk a lead, into out (lead, time).

    Lead k goes to row rows[k], nowhere if that is negative. `limbs` are the rows of I, II, III, aVR, aVL and aVF,
    negative where absent; the last four hold residuals, and are restored. Returns the status and the lead where that
    was known: 0 complete, 1 the payload ends early, 2 corrupt, 3 another number of samples than out's, 4 not base64.
    """

def table_numbers(text: bytes, separator: str, out: NDArray[np.float64]) -> tuple[int, int]:
    """Write the decimal numbers of equally long lines into out; lines and numbers a line.

    A separator of " " is any number of blanks; blank lines do not count. (0, 0) where a field is no number, lines
    differ in length, or out has no room for all.
    """

def xml_root(text: bytes) -> tuple[int, int, bytes]:
    """Status and byte as of `XmlPaths.scan`, and the name of the root element."""

class XmlPaths:
    """Elements wanted from XML documents, by path from the root.

    A namespace's prefix that the root has is no part of any name in the document.
    """

    def __init__(self, paths: list[str], /) -> None: ...
    def scan(self, text: bytes) -> tuple[int, int, list[tuple[int, int, int]]]:
        """Spans in a document, with its status and the byte where that was known.

        The status is 0 complete, 1 truncated, 2 malformed, 3 entities. A span is (index of the path, begin, end) of
        an element's content, in the order of the start tags.
        """

    def table(
        self, text: bytes, n_columns: int
    ) -> tuple[int, int, list[tuple[int, int, int]], list[tuple[bytes, int, int, int]]]:
        """The same with the first `n_columns` paths as a table, a row for each element at the first of them.

        The spans are those of all other paths, counted from 0. A row holds the contents of the elements at the paths
        between first and last column, NUL between them, empty where absent; where the row's content begins; and where
        the content of the last column begins and ends (0, 0 where absent).
        """

    def tags(self, text: bytes) -> tuple[int, int, list[tuple[int, int, int, int]]]:
        """As `scan`, with where the start tag begins: (index of the path, tag, begin, end).

        text[tag:begin] is the start tag with its attributes.
        """
