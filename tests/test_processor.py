"""The processor, as Linux on different ones tells of it, and where there is no Linux."""

import platform
from pathlib import Path

import pytest

from ecgbatch import processor

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Processor @ 2.10GHz
flags\t\t: fpu sse4_2 avx512_vnni
vmx flags\t: vnmi tsc_offset
bugs\t\t: gds

processor\t: 1
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimddp i8mm\nCPU implementer\t: 0x41\n"


def unknown(*_, **__):
    raise FileNotFoundError


@pytest.mark.parametrize(
    ("told", "name", "flags"),
    [
        (lambda *_, **__: X86, "Intel(R) Xeon(R) Processor @ 2.10GHz", {"fpu", "sse4_2", "avx512_vnni"}),
        (lambda *_, **__: ARM, platform.machine(), {"fp", "asimddp", "i8mm"}),
        (unknown, platform.machine(), set()),
    ],
    ids=["x86", "arm", "no-linux"],
)
def test_a_processor_has_a_name_and_flags(monkeypatch, told, name, flags):
    monkeypatch.setattr(Path, "read_text", told)

    assert processor.name() == name
    assert processor.flags() == flags
