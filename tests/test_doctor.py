"""What `doctor` finds: every engine that this machine can run, tested; what is missing, named with its extra."""

import re
import shutil
import sys
import tomllib
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from ecgbatch import bundle, doctor, engine_cache
from ecgbatch.cli import app
from ecgbatch.parity import Parity
from ecgbatch.runtimes import cpu


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


def test_what_an_extra_brings_is_what_the_package_declares():
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    brought = {"default": [*declared["dependencies"], "ecgbatch"], **declared["optional-dependencies"]}
    told = list(doctor._libraries())

    for extra in ("default", "train", "dali", "gpu", "remote"):
        names = {re.split(r"[^\w-]", each)[0] for each in brought[extra] if not each.startswith("ecgbatch[")}
        assert {name for of, name, _ in told if of == extra} == names


def test_an_int8_engine_that_was_built_here_is_tested_though_none_ships(tiny_bundle, cache):
    names = [check.name for check in doctor._engines(tiny_bundle)]
    told = {
        "parity": asdict(Parity(n_ecgs=3, worst_probability=0.0, flip_share=0.0)),
        "profile": {"batch": 32, "n_streams": 1, "ecg_per_s": 2.0, "ecg_per_s_fp32": 1.0, "n_cores": 2},
    }
    facts = cpu.facts(tiny_bundle, "int8")
    engine_cache.keep(facts, lambda folder: (folder / "model.int8.onnx").write_bytes(b""), told)

    *_, check = doctor._engines(tiny_bundle)

    assert names == ["tiny on cpu in fp32"]
    assert (check.name, check.is_passed) == ("tiny on cpu in int8", False)  # it is empty


def test_a_library_that_fails_is_a_failed_check():
    def fail():
        raise RuntimeError("no kernel\nsecond line")

    assert doctor._tested("engine", fail) == doctor.Check(name="engine", is_passed=False, detail="no kernel")


def test_the_operator_without_dali_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia", None)  # as where it is not installed
    result = CliRunner().invoke(app, ["doctor", "--build-operator"])

    assert result.exit_code == 1
    assert "pip install 'ecgbatch[dali]'" in result.output
