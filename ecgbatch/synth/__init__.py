"""Synthetic ECGs: realistic, reproducible by seed, of nobody.

heart (the beat) ── rhythm (when) ── noise ──► ecg.record ── muse, wfdb, … (bytes) ── damage ──► files ──► archive
"""

from ecgbatch.synth.aecg import aecg_xml
from ecgbatch.synth.archive import Written, write_archive, write_truth
from ecgbatch.synth.cardiosoft import cardiosoft_xml
from ecgbatch.synth.code15 import write_code15
from ecgbatch.synth.damage import DAMAGE
from ecgbatch.synth.dicom import dicom_file
from ecgbatch.synth.ecg import DEVICES, Device, record
from ecgbatch.synth.edf import edf_file
from ecgbatch.synth.files import FORMATS
from ecgbatch.synth.mortara import mortara_xml
from ecgbatch.synth.muse import muse_xml
from ecgbatch.synth.philips import philips_xml
from ecgbatch.synth.rhythm import RHYTHMS
from ecgbatch.synth.schiller import schiller_xml
from ecgbatch.synth.wfdb import SAMPLE_BITS, wfdb_files

__all__ = [
    "DAMAGE",
    "DEVICES",
    "FORMATS",
    "RHYTHMS",
    "SAMPLE_BITS",
    "Device",
    "Written",
    "aecg_xml",
    "cardiosoft_xml",
    "dicom_file",
    "edf_file",
    "mortara_xml",
    "muse_xml",
    "philips_xml",
    "record",
    "schiller_xml",
    "wfdb_files",
    "write_archive",
    "write_code15",
    "write_truth",
]
