"""Bundles: a folder that does not hold what it claims is refused, and the shipped ones hold it."""

import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from ecgbatch import bundle as bundles
from ecgbatch import golden
from ecgbatch.bundle import Bundle, InputSpec
from ecgbatch.errors import BundleError
from ecgbatch.feed import host

DATA = Path(os.environ.get("ECGBATCH_DATA", Path(__file__).parents[2] / "shared")) / "data" / "ptbxl.parquet"
SPEC = {
    "leads": ("I", "II"),
    "fs_hz": 250,
    "seconds": 10.0,
    "min_seconds": 5.0,
    "scale_mv": (0.2, 0.16),
    "clip": 20.0,
}


@pytest.fixture(scope="module")
def foundation() -> Bundle:
    return bundles.find("foundation")


@pytest.fixture
def copied(foundation: Bundle, tmp_path: Path) -> Path:
    """A copy of the shipped bundle, to be damaged."""
    return Path(shutil.copytree(foundation.folder, tmp_path / "copy"))


def fed(bundle: Bundle, records: list) -> np.ndarray:
    x = np.empty((len(records), len(bundle.input.leads), bundle.input.samples), np.float32)
    for record, out in zip(records, x, strict=True):
        host.normalise(record, bundle.input, out)
    return x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leads": ("I", "X9")}, "X9"),
        ({"scale_mv": (0.2,)}, "one positive number a lead"),
        ({"scale_mv": (0.2, 0.0)}, "one positive number a lead"),
        ({"seconds": 10.001}, "whole number of samples"),
        ({"min_seconds": 11.0}, "min_seconds"),
        ({"clip": 0.0}, "clip"),
        ({"filter": "notch"}, "notch"),
    ],
    ids=["unknown-lead", "scale-missing", "scale-zero", "odd-length", "minimum-beyond-length", "no-range", "filter"],
)
def test_an_input_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(BundleError, match=message):
        InputSpec(**{**SPEC, **change})


@pytest.mark.parametrize("name", ["labels.csv", "weights.safetensors", "model.onnx", "golden.parquet"])
def test_a_bundle_with_an_altered_file_is_refused(copied, name):
    with (copied / name).open("ab") as file:
        file.write(b"\0")

    with pytest.raises(BundleError, match=name):
        Bundle.load(copied)


def test_a_bundle_with_an_unknown_key_is_refused(copied):
    text = (copied / "bundle.toml").read_text("utf-8")
    (copied / "bundle.toml").write_text('tresholds = "low"\n' + text, "utf-8")

    with pytest.raises(BundleError, match="tresholds"):
        Bundle.load(copied)


def test_a_folder_without_a_bundle_is_refused_and_the_shipped_ones_are_named(tmp_path):
    with pytest.raises(BundleError, match=r"no such bundle folder.*foundation"):
        bundles.find(str(tmp_path))


def test_the_folder_of_a_training_stands_for_the_bundle_that_it_ended_in(foundation, copied, tmp_path):
    training = tmp_path / "training"
    for name in ("foundation", "checkpoint-3", ".other.partial"):
        shutil.copytree(copied, training / name)
    (training / "checkpoint.safetensors").touch()

    assert bundles.find(str(training)).folder == training / "foundation"


def test_neither_a_bundle_nor_a_shipped_name_gives_way_to_what_a_folder_holds(
    foundation, copied, tmp_path, monkeypatch
):
    outer = tmp_path / "foundation"
    shutil.copytree(copied, outer / "foundation")
    (outer / "checkpoint.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    shipped = bundles.find("foundation").folder
    shutil.copytree(copied, outer, dirs_exist_ok=True)

    assert shipped == foundation.folder
    assert bundles.find(str(outer)).folder == outer


def test_a_folder_of_several_bundles_stands_for_none(copied, tmp_path):
    for name in ("one", "other"):
        shutil.copytree(copied, tmp_path / "several" / name)
    (tmp_path / "several" / "checkpoint.safetensors").touch()

    with pytest.raises(BundleError, match="no such bundle folder"):
        bundles.find(str(tmp_path / "several"))


def test_the_fingerprint_changes_with_any_hash(foundation, copied):
    text = (copied / "bundle.toml").read_text("utf-8")
    (copied / "bundle.toml").write_text(text.replace('version = "', 'version = "9'), "utf-8")

    assert Bundle.load(copied).fingerprint != foundation.fingerprint


def test_every_shipped_bundle_loads():
    assert "foundation" in [bundle.name for bundle in bundles.shipped()]


def test_calibration_keeps_the_order_of_every_label(foundation):
    assert all(label.slope > 0 for label in foundation.labels)


def test_every_label_of_the_foundation_has_the_positives_it_was_promised(foundation):
    assert min(label.n_train for label in foundation.labels) >= foundation.training["n_positives"] == 20


def test_the_foundation_is_small_enough_to_ship(foundation):
    assert sum(path.stat().st_size for path in foundation.folder.iterdir()) < 12e6


def test_the_graph_holds_no_path_of_the_machine_that_made_it(foundation):
    raw = (foundation.folder / "model.onnx").read_bytes()

    assert b"stack_trace" not in raw
    assert b"site-packages" not in raw


def test_the_foundation_reproduces_its_golden_scores(foundation):
    pytest.importorskip("torch", reason="the oracle needs the extra 'train'")
    from ecgbatch.runtimes import eager

    records, expected = golden.load(foundation)

    assert_allclose(foundation.probabilities(eager.load(foundation)(fed(foundation, records))[0]), expected, atol=1e-5)


def test_an_argument_that_no_network_has_is_a_broken_bundle(copied):
    pytest.importorskip("torch", reason="the oracle needs the extra 'train'")
    from ecgbatch.runtimes import eager

    text = (copied / "bundle.toml").read_text("utf-8")
    (copied / "bundle.toml").write_text(text.replace("[network]\n", "[network]\ndepht = 1\n"), "utf-8")

    with pytest.raises(BundleError, match="depht"):
        eager.load(Bundle.load(copied))


@pytest.mark.skipif(not DATA.exists(), reason=f"needs the labelled ECGs of {DATA.name} (set ECGBATCH_DATA)")
def test_the_foundations_macro_auc_is_the_one_on_its_card(foundation):
    pytest.importorskip("torch", reason="the oracle needs the extra 'train'")
    from ecgbatch.runtimes import eager
    from ecgbatch.train import metrics, table

    ecgs = table.read(DATA).labelled(foundation.codes)
    judged = ecgs.only(np.flatnonzero(ecgs.folds == 9))
    x = fed(foundation, list(judged.read(np.arange(len(judged)))))
    engine = eager.load(foundation)
    logits = np.concatenate([engine(part)[0] for part in np.array_split(x, 8)])

    macro = metrics.macro_auc(judged.targets, foundation.probabilities(logits))

    assert f"| **{macro:.3f} (" in (foundation.folder / "CARD.md").read_text("utf-8")
    stated = pl.Series([label.auc for label in foundation.labels])
    assert macro == pytest.approx(stated.fill_nan(None).mean(), abs=5e-4)
