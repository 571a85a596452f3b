"""Synthetic ECGs: realistic, reproducible by seed, of nobody.

heart (the beat) ── rhythm (when) ── noise ──► ecg.record ── muse, wfdb (bytes) ── damage ──► archive
"""

from ecgbatch.synth.archive import FORMATS, Written, write_archive, write_truth
from ecgbatch.synth.damage import MUSE_DAMAGE, WFDB_DAMAGE
from ecgbatch.synth.ecg import DEVICES, Device, record
from ecgbatch.synth.muse import muse_xml
from ecgbatch.synth.rhythm import RHYTHMS
from ecgbatch.synth.wfdb import SAMPLE_BITS, wfdb_files

__all__ = [
    "DEVICES",
    "FORMATS",
    "MUSE_DAMAGE",
    "RHYTHMS",
    "SAMPLE_BITS",
    "WFDB_DAMAGE",
    "Device",
    "Written",
    "muse_xml",
    "record",
    "wfdb_files",
    "write_archive",
    "write_truth",
]
