"""What `bench` measures: every stage, in figures that agree with each other, and what cannot be had named."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from ecgbatch import archive, bench, bench_report, formats, pack, synth
from ecgbatch.bundle import Parent, find
from ecgbatch.cli import app
from ecgbatch.errors import EngineError, UsageError
from ecgbatch.runtimes import limits

SHORT = bench.Order(n=12, rounds=1, seconds=0.05, batches=(4, 8), precisions=("fp32", "fp8"), watts=200.0, price=2.0)


@pytest.fixture(scope="module")
def found(tiny_bundle) -> dict:
    return bench.measure(tiny_bundle, SHORT)


def test_every_stage_has_a_rate_and_an_engine_that_of_its_best_batch(found):
    feed, engine = found["feed"], found["devices"]["cpu"]["engines"]["fp32"]

    assert all(rate > 0 for rate in feed["ecg_per_s_one_core"].values())
    assert feed["ecg_per_s_one_core"]["read"] > feed["ecg_per_s_one_core"]["read and decode"]
    assert engine["ecg_per_s"] == max(engine["ecg_per_s_by_batch"].values())
    assert set(engine["ecg_per_s_by_batch"]) == {"4", "8"}
    assert set(found["whole"]["cpu"]["fp32"]["ecg_per_s"]) == {"archive", "pack"}


def test_a_run_is_as_long_as_was_asked_for_or_takes_some_seconds(found, monkeypatch, tiny_bundle):
    """Workers need a second to start: a shorter run measures that."""
    assert found["whole"]["cpu"]["fp32"]["n_ecgs"] == {"archive": 12, "pack": 12}
    rates = {"ecg_per_s_by_workers": {"1": 400.0, "2": 900.0}}
    assert bench._n_in_seconds(rates, {"ecg_per_s": 2000.0}) == 900 * bench._WHOLE_S
    assert bench._n_in_seconds(rates, {"ecg_per_s": 5.0}) == bench._N_LISTED
    assert bench._n_in_seconds({"ecg_per_s_by_workers": {"1": 1e9}}, {"ecg_per_s": 1e9}) == bench._N_MOST

    monkeypatch.setattr(bench, "_N_LISTED", 20)
    monkeypatch.setattr(bench, "_n_in_seconds", lambda *_: 53)
    longer = bench.measure(tiny_bundle, replace(SHORT, n=None))

    assert longer["n_ecgs"] == 20
    assert longer["whole"]["cpu"]["fp32"]["n_ecgs"] == {"archive": 53, "pack": 53}


def test_a_precision_that_cannot_be_had_is_named_with_the_reason(found):
    assert "fp8" in found["devices"]["cpu"]["absent"]["fp8"]
    assert "cpu fp8: not measured: " in bench_report.table(found)
    with pytest.raises(EngineError, match="fp8"):
        bench._device(find("foundation"), "cpu", replace(SHORT, precisions=("fp8",)))


def test_a_pack_whose_members_are_never_read_by_themselves_has_no_rate_of_reading(tiny_bundle, tmp_path):
    for seed in range(4):
        (tmp_path / f"{seed}.xml").write_bytes(synth.muse_xml(synth.record(seed=seed)))
    pack.run([tmp_path], tmp_path / "pack", pack.Options())
    entries = list(archive.scan([str(tmp_path / "pack")], companions=formats.companions, skip=tmp_path / "none"))
    loose = list(archive.scan([str(tmp_path / "0.xml")], companions=formats.companions, skip=tmp_path / "none"))

    assert len(entries) == 4
    assert "read" not in bench._stages(tiny_bundle, entries)
    assert bench._stages(tiny_bundle, [*loose, *(entries * 20)])["read"] < 1e6  # of one file, not of 81


def test_a_head_is_refused_and_its_parent_named(tiny_bundle):
    head = replace(tiny_bundle, parent=Parent(name="trunk", sha256="0" * 64))

    with pytest.raises(UsageError, match="a head, expected the model it is on; measure 'trunk'"):
        bench.measure(head, SHORT)


def test_what_a_million_cost_follows_from_the_rate(found):
    run = found["whole"]["cpu"]["fp32"]
    rate, cost = run["ecg_per_s"]["pack"], run["pack_cost"]

    assert cost["ecg_per_hour"] == pytest.approx(3600 * rate)
    assert cost["hours_per_million"] == pytest.approx(1e6 / rate / 3600)
    assert cost["kwh_per_million"] == pytest.approx(0.2 * cost["hours_per_million"])
    assert cost["price_per_million"] == pytest.approx(2 * cost["hours_per_million"])


def test_the_share_of_the_limit_is_of_the_product_that_was_measured(found):
    engine = found["devices"]["cpu"]["engines"]["fp32"]

    assert engine["operations_per_s"] == pytest.approx(engine["operations"] * engine["ecg_per_s"])
    share = engine["operations_per_s"] / engine["product_operations_per_s"]
    assert engine["share_of_product"] == pytest.approx(share)


def test_the_operations_of_a_graph_are_those_that_its_network_counts():
    pytest.importorskip("torch", reason="the network needs the extra 'train'")
    from ecgbatch.network import Network, gflop_per_ecg

    model = find("foundation")
    expected = gflop_per_ecg(Network(**model.network), n_leads=len(model.input.leads), n_samples=model.input.samples)

    cost = limits.workload(model, model.folder / "model.onnx", "fp32")
    assert cost.operations == pytest.approx(1e9 * expected, rel=1e-6)
    assert limits.workload(model, model.folder / "model.onnx", "int8").bytes == cost.bytes / 4


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_product_of_matrices_has_a_rate(precision):
    assert limits.Product(precision).rate(0.01) > 1e8


def test_copying_memory_has_a_rate():
    assert limits.bytes_per_s(0.02) > 1e7


def test_the_command_writes_table_figures_and_picture(tiny_bundle, tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    for seed in range(5):
        (archive / f"{seed}.xml").write_bytes(synth.muse_xml(synth.record(seed=seed)))
    figures, picture = tmp_path / "bench.json", tmp_path / "bench.svg"
    options = ["--precision", "fp32", "--batch", "4", "--n", "5", "--rounds", "1", "--seconds", "0.1"]
    files = ["--json", str(figures), "--plot", str(picture), "--model", str(tiny_bundle.folder)]
    result = CliRunner().invoke(app, ["bench", str(archive), *options, *files])

    assert result.exit_code == 0, result.output
    assert "cpu openvino fp32, from the pack" in result.stdout
    assert json.loads(figures.read_text("utf-8"))["n_ecgs"] == 5
    assert picture.read_text("utf-8").startswith("<svg")


def test_an_archive_of_rejects_has_no_rates(tiny_bundle, tmp_path):
    (tmp_path / "note.txt").write_text("no ECG", "utf-8")

    with pytest.raises(UsageError, match="every ECG is rejected"):
        bench.measure(tiny_bundle, replace(SHORT, sources=(str(tmp_path),)))


@pytest.mark.parametrize("options", [["--batch", "8,few"], ["--batch", "0"]], ids=["words", "zero"])
def test_a_batch_that_makes_no_sense_is_one_line(options):
    result = CliRunner().invoke(app, ["bench", *options])

    assert result.exit_code == 2
    assert result.output.count("\n") == 1
