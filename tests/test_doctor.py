"""What `doctor` finds: every engine that this machine can run, tested; what is missing, named with its extra."""

import shutil
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from ecgbatch import bundle, doctor
from ecgbatch.cli import app


@pytest.fixture(scope="module")
def found() -> doctor.Examination:
    return doctor.examined()


def test_every_shipped_bundle_is_tested_on_the_cpu_in_every_precision_it_has(found):
    names = {check.name for check in found.checks}

    for shipped in bundle.shipped():
        if shipped.parent is None:
            assert {f"{shipped.name} on cpu in {precision}" for precision in ("fp32", *shipped.parity)} <= names
    assert not [check for check in found.checks if check.is_passed is False]
    assert [check for check in found.checks if check.is_passed]


def test_what_is_not_installed_is_named_with_its_extra(found):
    text = doctor.told(found)

    for extra, name, version in found.libraries:
        assert f"{name} {version}" in text if version else f"pip install 'ecgbatch[{extra}]'" in text
    assert any(line.startswith("cpu: ") for line in found.devices)
    assert any(line.startswith("cuda") for line in found.devices)


def test_an_engine_that_does_not_say_what_it_should_is_a_failed_check(tiny_bundle, tmp_path, monkeypatch):
    broken = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "engines" / "tiny"))
    shutil.copytree(bundle.SHIPPED / "foundation", tmp_path / "engines" / "foundation")
    golden, toml = broken / "golden.parquet", broken / "bundle.toml"
    before = sha256(golden.read_bytes()).hexdigest()
    flipped = pl.read_parquet(golden).with_columns(pl.col("probabilities").list.eval(1 - pl.element()))
    flipped.write_parquet(golden)
    after = sha256(golden.read_bytes()).hexdigest()
    toml.write_text(toml.read_text("utf-8").replace(before, after), "utf-8")
    monkeypatch.setattr(bundle, "SHIPPED", tmp_path / "engines")
    result = CliRunner().invoke(app, ["doctor"])

    assert result.exit_code == 1
    assert "FAILED  tiny on cpu in fp32: model 'tiny'" in result.stdout
    assert "passed  foundation on cpu in fp32" in result.stdout


@pytest.mark.skipif(find_spec("nvidia") is not None, reason="DALI is installed")
def test_the_operator_without_dali_is_one_line_that_names_the_extra():
    result = CliRunner().invoke(app, ["doctor", "--build-operator"])

    assert result.exit_code == 1
    assert "'gpu'" in result.output
