import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ecgbatch import synth
from ecgbatch.drawing import draw
from ecgbatch.errors import UsageError
from ecgbatch.record import LEADS

SVG = "{http://www.w3.org/2000/svg}"
FS_HZ = 500
INK = "#101010"


@pytest.fixture(scope="module")
def leads_uv() -> np.ndarray:
    record = synth.record(seed=1, rhythm="sinus", leads=LEADS)
    return (record.counts * np.array(record.uv_per_count)[:, None]).astype(np.float32)


def texts(path: Path) -> list[str]:
    return [text.text or "" for text in ElementTree.parse(path).iter(f"{SVG}text")]


def traces(path: Path) -> list[np.ndarray]:
    """The inked lines of more than the six points of a calibration pulse, as (point, xy) in mm."""
    lines = [line for line in ElementTree.parse(path).iter(f"{SVG}polyline") if line.get("stroke") == INK]
    points = [np.array([pair.split(",") for pair in line.get("points", "").split()], float) for line in lines]
    return [line for line in points if len(line) > 6]


def test_a_png_has_six_pixels_a_millimetre(leads_uv: np.ndarray, tmp_path: Path) -> None:
    draw(leads_uv, FS_HZ, tmp_path / "ecg.png")
    with Image.open(tmp_path / "ecg.png") as image:
        assert image.format == "PNG"
        assert image.size == (280 * 6, 140 * 6)
        assert image.info["dpi"] == pytest.approx((152.4, 152.4), abs=0.1)


def test_a_png_shows_black_traces_on_pink_paper(leads_uv: np.ndarray, tmp_path: Path) -> None:
    draw(leads_uv, FS_HZ, tmp_path / "ecg.png")
    with Image.open(tmp_path / "ecg.png") as image:
        pixels = np.asarray(image).astype(int)
    dark = pixels.max(axis=2) < 90
    pink = (pixels[..., 0] > 225) & (pixels[..., 0] - pixels[..., 2] > 15)
    assert 0.005 < dark.mean() < 0.05
    assert 0.1 < pink.mean() < 0.7


def test_the_text_is_lead_names_scale_and_caption_only(leads_uv: np.ndarray, tmp_path: Path) -> None:
    draw(leads_uv, FS_HZ, tmp_path / "ecg.svg", caption="SYNTH-3500")
    *names, foot = texts(tmp_path / "ecg.svg")
    assert sorted(names) == sorted([*LEADS, "II"])
    assert foot.split("    ") == ["500 Hz", "25 mm/s", "10 mm/mV", "SYNTH-3500"]


def test_a_caption_cannot_break_the_document(leads_uv: np.ndarray, tmp_path: Path) -> None:
    draw(leads_uv, FS_HZ, tmp_path / "ecg.svg", caption='<script>"&')
    assert texts(tmp_path / "ecg.svg")[-1].endswith('<script>"&')


def test_there_are_twelve_leads_of_two_and_a_half_seconds_and_a_strip_of_ten(
    leads_uv: np.ndarray, tmp_path: Path
) -> None:
    draw(leads_uv, FS_HZ, tmp_path / "ecg.svg")
    assert sorted(len(line) for line in traces(tmp_path / "ecg.svg")) == [1250] * 12 + [5000]


def test_a_second_is_25_mm_and_a_millivolt_10_mm(tmp_path: Path) -> None:
    leads_uv = np.zeros((12, 10 * FS_HZ), np.float32)
    leads_uv[1, 2 * FS_HZ] = 1000
    draw(leads_uv, FS_HZ, tmp_path / "ecg.svg")
    strip = max(traces(tmp_path / "ecg.svg"), key=len)
    spike = strip[2 * FS_HZ]
    assert strip[0, 1] - spike[1] == pytest.approx(10)
    assert spike[0] - strip[0, 0] == pytest.approx(50)


def test_an_offset_does_not_move_a_trace(tmp_path: Path, leads_uv: np.ndarray) -> None:
    draw(leads_uv, FS_HZ, tmp_path / "a.svg")
    draw(leads_uv + 4096, FS_HZ, tmp_path / "b.svg")
    for a, b in zip(traces(tmp_path / "a.svg"), traces(tmp_path / "b.svg"), strict=True):
        assert np.abs(a - b).max() < 0.03


def test_missing_samples_are_a_gap(tmp_path: Path, leads_uv: np.ndarray) -> None:
    gappy = leads_uv.copy()
    gappy[LEADS.index("V6"), 4500:4600] = np.nan
    draw(gappy, FS_HZ, tmp_path / "ecg.svg")
    assert sorted(len(line) for line in traces(tmp_path / "ecg.svg"))[:2] == [400, 750]
    assert not re.search("nan", (tmp_path / "ecg.svg").read_text(), re.IGNORECASE)


def test_a_lead_without_any_sample_is_left_blank(tmp_path: Path, leads_uv: np.ndarray) -> None:
    gappy = leads_uv.copy()
    gappy[LEADS.index("V6")] = np.nan
    draw(gappy, FS_HZ, tmp_path / "ecg.svg")
    draw(gappy, FS_HZ, tmp_path / "ecg.png")
    assert len(traces(tmp_path / "ecg.svg")) == 12


def test_a_huge_deflection_stays_on_the_paper(tmp_path: Path, leads_uv: np.ndarray) -> None:
    draw(leads_uv * 1000, FS_HZ, tmp_path / "ecg.svg")
    points = np.concatenate(traces(tmp_path / "ecg.svg"))
    assert points.min() >= 5
    assert points[:, 1].max() <= 130


@pytest.mark.parametrize("seconds", [1.5, 4, 30])
def test_a_recording_of_another_length_fills_what_it_can(tmp_path: Path, seconds: float) -> None:
    record = synth.record(seed=1, seconds=seconds, leads=LEADS)
    draw(record.counts * np.float32(4.88), record.fs_hz, tmp_path / "ecg.svg")
    strip = max(traces(tmp_path / "ecg.svg"), key=len)
    assert len(strip) == min(10, seconds) * FS_HZ


def test_another_suffix_is_refused(tmp_path: Path, leads_uv: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"'\.pdf', expected '\.svg' or '\.png'"):
        draw(leads_uv, FS_HZ, tmp_path / "ecg.pdf")
    assert not (tmp_path / "ecg.pdf").exists()
