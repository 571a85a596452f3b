"""`build`: an engine is verified against fp32 before it is kept, and taken only while it is to be trusted."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from ecgbatch import admission, building, engine_cache, parity, synth, trunk
from ecgbatch.bundle import Bundle, Parent, find
from ecgbatch.cores import n_cores
from ecgbatch.engine_cache import Profile
from ecgbatch.errors import BundleError, EngineError, OutputError, UsageError
from ecgbatch.parity import LIMITS, Parity
from ecgbatch.runtimes import BATCH, cpu, open_engine
from ecgbatch.runtimes.choice import multiplies_int8

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

import tomli_w  # noqa: E402

from ecgbatch.train import int8_ecgs, metrics, variant  # noqa: E402

GOOD = Parity(n_ecgs=8, worst_probability=0.02, flip_share=0.001, auc_change={"AFIB": 0.001})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of 80 ECGs, some of which no model takes."""
    folder = tmp_path_factory.mktemp("calibration")
    synth.write_archive(folder, 80, seed=4, formats=("muse-xml",), damaged=0.1, workers=1)
    return folder


@pytest.fixture(scope="module")
def int8_bundle(tiny_bundle: Bundle, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with an int8 graph, made by `build`."""
    out = tmp_path_factory.mktemp("built") / "tiny"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ECGBATCH_CACHE", str(out.parent / "cache"))
        order = building.Order(precision="int8", calibrate=(str(source),), out=out)
        return Bundle.load(building.build(tiny_bundle, order))


def test_a_built_bundle_is_the_same_model_with_a_graph_and_its_parity_more(int8_bundle, tiny_bundle):
    assert set(int8_bundle.hashes) == {*tiny_bundle.hashes, "model.int8.onnx"}
    assert int8_bundle.fingerprint == tiny_bundle.fingerprint
    found = int8_bundle.parity["int8"]
    assert found.keeps(LIMITS["int8"])
    assert found.n_ecgs > len(admission.reference(tiny_bundle)[0])
    assert found.worst_probability > 0
    assert "## In int8" in (int8_bundle.folder / "CARD.md").read_text()


def test_the_shipped_graph_is_taken_by_auto_without_building(int8_bundle, tiny_bundle, cache):
    engine = open_engine(int8_bundle, "cpu", "int8")
    has_int8 = multiplies_int8(cpu.facts(int8_bundle, "int8")["processor"])

    assert engine.variant == f"int8 {int8_bundle.hashes['model.int8.onnx'][:16]}"
    assert str(open_engine(int8_bundle, "auto", "auto")) == f"cpu openvino {'int8' if has_int8 else 'fp32'}"
    assert str(open_engine(int8_bundle, "cpu", "fp32")) == "cpu openvino fp32"
    assert str(open_engine(tiny_bundle, "auto", "auto")) == "cpu openvino fp32"
    assert not cache.exists()


@pytest.mark.parametrize(
    ("processor", "has_int8"),
    [
        ("Xeon avx avx2 avx512_vnni avx512f", True),
        ("Core avx2 avx_vnni", True),
        ("EPYC avx avx2", True),
        ("Neoverse asimd i8mm", True),
        ("Xeon avx", False),
        ("Cortex asimd bf16", False),
        ("unknown", False),
    ],
    ids=lambda value: value.split()[-1] if isinstance(value, str) else "",
)
def test_int8_is_expected_to_be_faster_only_where_a_processor_multiplies_it(processor, has_int8):
    assert multiplies_int8(processor) == has_int8


def test_without_ecgs_flips_are_not_judged_for_there_are_too_few_calls(int8_bundle, cache):
    building.build(int8_bundle, building.Order(precision="int8"))

    kept = engine_cache.kept(cpu.facts(int8_bundle, "int8"))
    assert kept is not None
    assert kept.parity.flip_share is None
    assert "flipped" not in kept.parity.table("int8")


def test_a_bundle_copied_without_ecgs_keeps_the_parity_of_its_graph(int8_bundle, tmp_path, cache):
    out = building.build(int8_bundle, building.Order(precision="int8", out=tmp_path / "new"))

    assert Bundle.load(out).parity == int8_bundle.parity


def test_only_calls_near_a_threshold_are_likely_to_flip(tiny_bundle):
    far, one_side, other_side = (np.full((4, 5), probability) for probability in (0.9, 0.49, 0.51))

    assert building._flip_share_nearby(tiny_bundle, far, far - 0.1) == 0
    assert building._flip_share_nearby(tiny_bundle, one_side, one_side) == 0
    assert 0.05 < building._flip_share_nearby(tiny_bundle, one_side, other_side) < 0.2


def test_calls_at_the_ends_of_probability_never_flip(tiny_bundle):
    ends = replace(tiny_bundle, labels=tuple(replace(label, threshold=1.0) for label in tiny_bundle.labels))
    none = replace(tiny_bundle, labels=tuple(replace(label, threshold=0.0) for label in tiny_bundle.labels))

    for bundle in (ends, none):
        assert building._flip_share_nearby(bundle, np.full((1, 5), 0.4), np.full((1, 5), 0.6)) == 0


def test_an_int8_graph_that_was_altered_is_no_bundle(int8_bundle, tmp_path):
    folder = shutil.copytree(int8_bundle.folder, tmp_path / "tiny")
    with (folder / "model.int8.onnx").open("ab") as graph:
        graph.write(b"\0")

    with pytest.raises(BundleError, match=r"model\.int8\.onnx is not the file"):
        Bundle.load(folder)


def test_an_int8_graph_without_parity_is_no_bundle(int8_bundle, tmp_path):
    folder = shutil.copytree(int8_bundle.folder, tmp_path / "tiny")
    toml = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(toml.partition("[parity")[0])

    with pytest.raises(BundleError, match="parity"):
        Bundle.load(folder)


@pytest.fixture
def bad_bundle(int8_bundle: Bundle, other_graph: Path, tmp_path: Path) -> Bundle:
    """A bundle whose int8 graph is another network's, under a hash and a parity that claim otherwise."""
    folder = shutil.copytree(int8_bundle.folder, tmp_path / "bad")
    shutil.copyfile(other_graph, folder / "model.int8.onnx")
    return rewritten(replace(int8_bundle, folder=folder), GOOD)


@pytest.fixture(scope="session")
def other_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of the tiny bundle's shapes and of other weights."""
    from tests.conftest import TINY_SPEC, made_bundle

    return made_bundle(tmp_path_factory.mktemp("others") / "tiny", TINY_SPEC, seed=9).folder / "model.onnx"


def rewritten(bundle: Bundle, found: Parity) -> Bundle:
    """The bundle with another parity, and the hash that its int8 graph has now."""
    import tomllib

    path = bundle.folder / "bundle.toml"
    content = tomllib.loads(path.read_text())
    content["parity"]["int8"] = asdict(found)
    content["hashes"]["model.int8.onnx"] = sha256((bundle.folder / "model.int8.onnx").read_bytes()).hexdigest()
    path.write_text(tomli_w.dumps(content))
    return Bundle.load(bundle.folder)


def test_an_engine_outside_its_limits_is_not_built_and_the_table_says_why(bad_bundle, cache):
    with pytest.raises(EngineError, match=r"worst probability difference .* missed"):
        building.build(bad_bundle, building.Order(precision="int8"))

    assert not list(cache.iterdir())


def test_an_int8_engine_that_misses_the_reference_scores_does_not_score(bad_bundle):
    engine = open_engine(bad_bundle, "cpu", "int8")

    with pytest.raises(EngineError, match=r"reference scores missed by .*, expected at most 0\.1"):
        admission.admitted(engine)


def test_a_shipped_graph_outside_its_limits_is_refused_and_not_taken_by_auto(int8_bundle, tmp_path):
    folder = shutil.copytree(int8_bundle.folder, tmp_path / "tiny")
    bundle = rewritten(replace(int8_bundle, folder=folder), replace(GOOD, flip_share=0.006))

    assert str(open_engine(bundle, "auto", "auto")) == "cpu openvino fp32"
    with pytest.raises(EngineError, match="share of calls flipped"):
        open_engine(bundle, "cpu", "int8")


def test_int8_where_there_is_no_graph_says_how_to_make_one(tiny_bundle, cache):
    with pytest.raises(EngineError, match=r"ecgbatch build /\S+/tiny --precision int8 --calibrate"):
        open_engine(tiny_bundle, "cpu", "int8")
    with pytest.raises(UsageError, match="give --calibrate"):
        building.build(tiny_bundle, building.Order(precision="int8"))


def test_a_kept_engine_is_taken_with_its_streams_and_batch(tiny_bundle, int8_bundle, cache):
    keep(
        tiny_bundle,
        int8_bundle.folder / "model.int8.onnx",
        Profile(batch=24, n_streams=1, ecg_per_s=3, ecg_per_s_fp32=1, n_cores=n_cores()),
    )

    engine = open_engine(tiny_bundle, "auto", "auto")

    assert (str(engine), engine.batch, engine.n_streams) == ("cpu openvino int8", 24, 1)
    assert open_engine(tiny_bundle, "auto", "auto", batch=5).batch == 5


def test_on_another_number_of_cores_the_engine_is_taken_without_its_streams_and_batch(tiny_bundle, int8_bundle, cache):
    profile = Profile(batch=24, n_streams=7, ecg_per_s=3, ecg_per_s_fp32=1, n_cores=n_cores() + 1)
    keep(tiny_bundle, int8_bundle.folder / "model.int8.onnx", profile)

    engine = open_engine(tiny_bundle, "auto", "auto")

    assert (str(engine), engine.batch) == ("cpu openvino int8", BATCH)
    assert engine.n_streams <= n_cores()


def test_auto_takes_fp32_where_int8_was_measured_to_be_slower(tiny_bundle, int8_bundle, cache):
    keep(
        tiny_bundle,
        int8_bundle.folder / "model.int8.onnx",
        Profile(batch=24, n_streams=1, ecg_per_s=1, ecg_per_s_fp32=3, n_cores=n_cores()),
    )

    assert str(open_engine(tiny_bundle, "auto", "auto")) == "cpu openvino fp32"
    assert str(open_engine(tiny_bundle, "auto", "int8")) == "cpu openvino int8"


def keep(bundle: Bundle, graph: Path, profile: Profile, **facts: str) -> Path:
    """Put an int8 engine into the cache, as `build` does."""
    return engine_cache.keep(
        {**cpu.facts(bundle, "int8"), **facts},
        lambda folder: shutil.copyfile(graph, folder / "model.int8.onnx"),
        {"parity": asdict(GOOD), "profile": asdict(profile)},
    ).folder


def test_an_engine_of_another_processor_is_refused_also_by_auto(tiny_bundle, int8_bundle, cache):
    profile = Profile(batch=32, n_streams=1, ecg_per_s=3, ecg_per_s_fp32=1, n_cores=n_cores())
    keep(tiny_bundle, int8_bundle.folder / "model.int8.onnx", profile, processor="another")

    remedy = rf"`ecgbatch build {tiny_bundle.folder} --device cpu --precision int8 .*delete {cache}/"
    with pytest.raises(EngineError, match=f"built with processor another, expected .*{remedy}"):
        open_engine(tiny_bundle, "auto", "auto")
    assert str(open_engine(tiny_bundle, "auto", "fp32")) == "cpu openvino fp32"


def test_a_run_scores_in_int8_and_says_so(scored, int8_bundle, tiny_bundle, source, tmp_path):
    tally, int8, _ = scored(source, bundles=(int8_bundle,), out=tmp_path / "int8")
    _, fp32, _ = scored(source, bundles=(tiny_bundle,), out=tmp_path / "fp32")

    facts = json.loads((tmp_path / "int8" / "run.json").read_text())
    assert facts["engine"] == tally.engine == "cpu openvino int8"
    assert facts["settings"]["precision"] == f"int8 {int8_bundle.hashes['model.int8.onnx'][:16]}"
    names = [name for name in int8.columns if name.startswith("tiny/")]
    found, expected = (each.sort("record_id").select(names).to_numpy() for each in (int8, fp32))
    assert 0 < np.abs(found - expected).max() <= LIMITS["int8"].worst_probability


@pytest.mark.parametrize(("first", "then"), [("int8", "fp32"), ("fp32", "int8")])
def test_a_run_is_not_gone_on_with_in_another_precision(scored, int8_bundle, source, first, then):
    scored(source, bundles=(int8_bundle,), precision=first)

    with pytest.raises(OutputError, match=f"holds a run with precision .*go on with --precision {first}"):
        scored(source, bundles=(int8_bundle,), precision=then)


@pytest.mark.parametrize("first", ["fp32", "int8"])
def test_auto_goes_on_with_a_run_in_the_graph_it_was_begun_with(
    scored, int8_bundle, other_bundle, source, tmp_path, cache, first
):
    bundles = (int8_bundle, other_bundle) if first == "fp32" else (int8_bundle,)
    scored(source, bundles=bundles, precision=first)
    graph = tmp_path / "other.onnx"
    graph.write_bytes(other_bytes(int8_bundle.folder / "model.int8.onnx"))
    rates = {"fp32": (3, 1), "int8": (1, 3)}[first]  # auto would choose the other precision
    keep(
        int8_bundle,
        graph,
        Profile(batch=32, n_streams=1, ecg_per_s=rates[0], ecg_per_s_fp32=rates[1], n_cores=n_cores()),
    )

    tally, *_ = scored(source, bundles=bundles)

    assert tally.engine == f"cpu openvino {first}"


def test_auto_cannot_go_on_with_a_graph_that_is_gone(scored, tiny_bundle, int8_bundle, source):
    scored(source, bundles=(int8_bundle,), precision="int8")

    with pytest.raises(OutputError, match="go on with --precision int8, or use another --out"):
        scored(source, bundles=(tiny_bundle,))


def test_a_run_is_not_gone_on_with_by_another_int8_graph(scored, int8_bundle, source, tmp_path, cache):
    scored(source, bundles=(int8_bundle,), precision="int8")
    graph = tmp_path / "other.onnx"
    graph.write_bytes(other_bytes(int8_bundle.folder / "model.int8.onnx"))
    keep(int8_bundle, graph, Profile(batch=32, n_streams=1, ecg_per_s=3, ecg_per_s_fp32=1, n_cores=n_cores()))

    with pytest.raises(OutputError, match=r"have the int8 graph of then built again, or use another --out"):
        scored(source, bundles=(int8_bundle,), precision="int8")


def other_bytes(graph: Path) -> bytes:
    """The same graph, by another producer."""
    import onnx

    model = onnx.load(graph)
    model.producer_name = "another"
    content: bytes = model.SerializeToString()
    return content


def test_a_head_is_not_built_but_its_parent_is_named(int8_bundle):
    head = replace(int8_bundle, parent=Parent(name="parent", sha256="0" * 64))

    with pytest.raises(UsageError, match="build 'parent'"):
        building.build(head, building.Order())


def test_a_head_on_a_parent_in_int8_is_admitted_within_the_limits_of_int8(int8_bundle):
    from tests.test_heads import made_head

    head = made_head(int8_bundle, int8_bundle.folder.parent / "rare", seed=5)
    (opened,) = trunk.opened([head], "cpu", "int8", batch=None)

    assert opened.engine.precision == "int8"
    (by_auto,) = trunk.opened([head], "cpu", "auto", batch=None)
    assert by_auto.engine.precision == "fp32"  # its parity in int8 was never measured
    x, expected = admission.reference(head)
    worst = np.abs(head.probabilities(opened.heads[0](opened.engine(x)[1])) - expected).max()
    assert LIMITS["fp32"].worst_probability < worst <= LIMITS["int8"].worst_probability


def test_what_ships_is_admitted_in_each_precision_and_within_its_limits():
    foundation = find("foundation")

    for precision in ("fp32", *foundation.parity):
        assert admission.admitted(open_engine(foundation, "cpu", precision)).precision == precision
    assert all(found.keeps(LIMITS[precision]) for precision, found in foundation.parity.items())


def test_the_int8_graph_that_ships_keeps_its_limits_on_ecgs_it_was_not_made_of(data):
    foundation = find("foundation")
    if "int8" not in foundation.parity:
        pytest.skip("foundation ships no int8 graph")
    ecgs = int8_ecgs.read([str(data / "data" / "ptbxl.parquet")], foundation)  # verified is fold 9
    probability = {
        precision: foundation.probabilities(open_engine(foundation, "cpu", precision)(ecgs.verified)[0])
        for precision in ("fp32", "int8")
    }

    found = parity.compared(
        probability["fp32"], probability["int8"], [label.threshold for label in foundation.labels], auc_change={}
    )
    change = [metrics.macro_auc(ecgs.targets, probability[precision]) for precision in ("fp32", "int8")]
    assert found.keeps(LIMITS["int8"])
    assert abs(change[1] - change[0]) <= LIMITS["int8"].auc_change


def test_out_is_refused_before_anything_is_done(tiny_bundle, source, tmp_path, cache):
    with pytest.raises(UsageError, match="is there already"):
        building.build(tiny_bundle, building.Order(precision="int8", calibrate=(str(source),), out=tmp_path))
    with pytest.raises(UsageError, match="holds its fp32 graph"):
        building.build(tiny_bundle, building.Order(precision="fp32", out=tmp_path / "new"))


@pytest.mark.parametrize(
    ("precision", "out", "error", "said"),
    [
        ("int8", "new", UsageError, "--out on cuda, expected --device cpu"),
        ("auto", "new", UsageError, "--out on cuda, expected --device cpu"),
        ("int4", None, UsageError, "precision 'int4' on cuda, expected 'auto' or one of int8, fp16, bf16, fp32"),
    ],
)
def test_what_a_gpu_build_cannot_do_is_refused_before_anything_is_done(
    tiny_bundle, tmp_path, precision, out, error, said
):
    order = building.Order(
        device="cuda", precision=precision, out=out and tmp_path / out, calibrate=(str(tmp_path / "none"),)
    )

    with pytest.raises(error, match=said):
        building.build(tiny_bundle, order)


def test_fp32_is_verified_measured_and_kept_too(tiny_bundle, cache):
    lines: list[str] = []
    folder = building.build(tiny_bundle, building.Order(precision="fp32"), say=lines.append)

    told = json.loads((folder / "engine.json").read_text())["told"]
    assert 0 < told["parity"]["worst_probability"] <= LIMITS["fp32"].worst_probability
    assert told["profile"]["batch"] == open_engine(tiny_bundle, "cpu", "fp32").batch
    assert "fp32 against fp32" in lines[0]


def test_fp32_is_verified_against_what_the_model_said_when_it_was_exported(tiny_bundle, tmp_path, cache):
    folder = shutil.copytree(tiny_bundle.folder, tmp_path / "tiny")
    golden = pl.read_parquet(folder / "golden.parquet")
    nudged = golden.with_columns(pl.col("probabilities").list.eval(pl.element() + 5e-4))
    nudged.write_parquet(folder / "golden.parquet")
    toml = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(
        toml.replace(tiny_bundle.hashes["golden.parquet"], sha256((folder / "golden.parquet").read_bytes()).hexdigest())
    )

    made = building.build(Bundle.load(folder), building.Order(precision="fp32"))

    told = json.loads((made / "engine.json").read_text())["told"]["parity"]
    assert told["worst_probability"] == pytest.approx(5e-4, rel=0.05)


def test_another_calibration_or_shipped_graph_is_another_engine(int8_bundle, tiny_bundle):
    facts = cpu.facts(int8_bundle, "int8")
    relabelled = replace(int8_bundle, hashes={**int8_bundle.hashes, "labels.csv": "0" * 64})

    assert cpu.facts(relabelled, "int8") != facts
    assert cpu.facts(tiny_bundle, "int8") != facts


def test_a_new_graph_that_ships_comes_before_an_engine_kept_beside_the_old_one(int8_bundle, tmp_path, cache):
    keep(
        int8_bundle,
        int8_bundle.folder / "model.int8.onnx",
        Profile(batch=24, n_streams=1, ecg_per_s=3, ecg_per_s_fp32=1, n_cores=n_cores()),
    )
    folder = shutil.copytree(int8_bundle.folder, tmp_path / "tiny")
    (folder / "model.int8.onnx").write_bytes(other_bytes(int8_bundle.folder / "model.int8.onnx"))
    updated = rewritten(replace(int8_bundle, folder=folder), GOOD)

    assert open_engine(updated, "cpu", "int8").variant.split()[1] == updated.hashes["model.int8.onnx"][:16]
    assert open_engine(int8_bundle, "cpu", "int8").batch == 24


def test_an_engine_of_another_calibration_does_not_stand_in_the_way(int8_bundle, cache):
    graph = int8_bundle.folder / "model.int8.onnx"
    profile = Profile(batch=24, n_streams=1, ecg_per_s=3, ecg_per_s_fp32=1, n_cores=n_cores())
    keep(int8_bundle, graph, profile, labels="0" * 64)

    assert open_engine(int8_bundle, "cpu", "int8").batch != 24

    keep(int8_bundle, graph, replace(profile, batch=8))

    assert open_engine(int8_bundle, "cpu", "int8").batch == 8


@pytest.mark.parametrize("device", ["tpu", "cpu:3", "cudax", "cuda:", "auto:1"])
def test_a_device_that_there_is_not_is_refused_everywhere(tiny_bundle, cache, device):
    with pytest.raises(UsageError, match=f"device '{device}'"):
        open_engine(tiny_bundle, device, "fp32")
    with pytest.raises(UsageError, match=f"device '{device}'"):
        building.build(tiny_bundle, building.Order(device=device))
    assert not cache.exists()


def test_what_a_gpu_cannot_do_is_refused_first(tiny_bundle, tmp_path, cache):
    with pytest.raises(UsageError, match="precision 'int4' on cuda"):
        building.build(tiny_bundle, building.Order(device="cuda", precision="int4"))
    with pytest.raises(UsageError, match="--out on cuda"):
        building.build(tiny_bundle, building.Order(device="cuda", precision="int8", out=tmp_path / "new"))
    with pytest.raises(UsageError, match="--precision int8 on cuda, expected --calibrate SOURCE: TensorRT"):
        building.build(tiny_bundle, building.Order(device="cuda", precision="int8"))
    assert not cache.exists()


def test_a_full_disk_is_an_error_of_the_build(tiny_bundle, source, small_disk, cache, monkeypatch):
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(1024)):
            pass
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))

    with pytest.raises(EngineError, match=r"cannot be built: No space left"):
        building.build(tiny_bundle, building.Order(precision="int8", calibrate=(str(source),)))


def test_a_cache_that_cannot_be_written_is_told_before_the_work(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ECGBATCH_CACHE", str(tmp_path / "file" / "cache"))

    with pytest.raises(EngineError, match="engine cache"):
        building.build(tiny_bundle, building.Order(precision="int8", calibrate=(str(tmp_path / "nowhere"),)))


def test_building_what_ships_takes_no_extra(tiny_bundle, cache):
    extras = ("torch", "onnx", "onnxruntime", "onnxscript", "safetensors", "scipy", "tomli_w")
    absent = f"import sys; sys.modules.update(dict.fromkeys({extras})); from ecgbatch.cli import main; main()"
    command = [sys.executable, "-P", "-c", absent, "build", tiny_bundle.folder, "--precision", "fp32"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == cache


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of ECGs with folds 1 to 5 and a label AFIB that is every third ECG's."""
    records = [synth.record(seed=seed) for seed in range(80)]
    rows = [
        {
            "record_id": str(at),
            "patient_id": str(at),
            "fold": 1 + at % 5 if at < 75 else 4,
            "fs_hz": record.fs_hz,
            "uv_per_count": record.uv_per_count[0],
            "leads": list(record.leads),
            "samples": record.counts.astype(np.int16).ravel().tolist(),
            "AFIB": int(at % 3 == 0),
        }
        for at, record in enumerate(records)
    ]
    path = tmp_path / "ecgs.parquet"
    pl.DataFrame(rows, schema_overrides={"samples": pl.List(pl.Int16)}).write_parquet(path)
    return path


def test_the_last_fold_verifies_and_the_last_but_one_is_left_out(table, tiny_bundle):
    ecgs = int8_ecgs.read([str(table)], tiny_bundle)

    assert (len(ecgs.x), len(ecgs.verified)) == (45, 15)
    column = tiny_bundle.codes.index("AFIB")
    assert ecgs.targets[:, column].tolist() == [float(at % 3 == 0) for at in range(4, 75, 5)]
    assert np.isnan(np.delete(ecgs.targets, column, axis=1)).all()


def test_too_few_ecgs_are_refused(tiny_bundle, tmp_path):
    synth.write_archive(tmp_path / "few", 20, formats=("muse-xml",), workers=1)

    with pytest.raises(UsageError, match="expected at least 32"):
        int8_ecgs.read([str(tmp_path / "few")], tiny_bundle)


def test_the_auc_of_each_label_that_is_known_is_verified(table, tiny_bundle, cache):
    folder = building.build(tiny_bundle, building.Order(precision="fp32", calibrate=(str(table),)))

    told = json.loads((folder / "engine.json").read_text())["told"]["parity"]
    assert told["auc_change"] == {"AFIB": pytest.approx(0, abs=0.02)}
    assert told["n_ecgs"] == 15 + 8


@pytest.mark.parametrize(
    ("found", "keeps"),
    [
        (GOOD, True),
        (replace(GOOD, worst_probability=0.11), False),
        (replace(GOOD, flip_share=0.0051), False),
        (replace(GOOD, flip_share=1 / 153, n_calls=153), True),
        (replace(GOOD, flip_share=2 / 153, n_calls=153), False),
        (replace(GOOD, flip_share=0.0051, n_calls=2000), False),
        (replace(GOOD, auc_change={"AFIB": -0.0041, "NORM": 0.0}), False),
        (replace(GOOD, auc_change={"AFIB": -0.0039, "NORM": 0.0}), True),
        (replace(GOOD, auc_change={"AFIB": -0.2, "NORM": 0.2}), False),
        (replace(GOOD, auc_change={"AFIB": -0.019, "NORM": 0.019}), True),
        (replace(GOOD, auc_change={"AFIB": float("nan"), "NORM": 0.0}), False),
        (replace(GOOD, auc_change={}), True),
        (replace(GOOD, worst_probability=float("nan")), False),
    ],
    ids=[
        "good",
        "far",
        "flips",
        "one-call-of-few",
        "two-calls-of-few",
        "flips-of-many",
        "auc",
        "auc-mean-of-labels",
        "auc-of-a-label",
        "auc-of-labels",
        "no-auc",
        "no-labels",
        "not-a-number",
    ],
)
def test_limits_hold_or_the_table_says_which_was_missed(found, keeps):
    assert found.keeps(LIMITS["int8"]) == keeps
    if keeps:
        parity.require(found, "int8", where="here")
    else:
        with pytest.raises(EngineError, match="missed"):
            parity.require(found, "int8", where="here")


def test_parity_counts_what_crosses_the_threshold():
    expected, found = np.array([[0.4, 0.9], [0.6, 0.1]]), np.array([[0.5, 0.8], [0.6, 0.2]])

    compared = parity.compared(expected, found, [0.5, 0.15], auc_change={})

    assert_allclose((compared.worst_probability, compared.flip_share), (0.1, 0.5))
    assert (compared.n_ecgs, compared.n_calls) == (2, 4)


@pytest.mark.parametrize("n_misses", [1, 2, 3])
def test_where_others_miss_the_limits_the_graph_keeps_a_smaller_share_of_them(
    table, tiny_bundle, cache, monkeypatch, n_misses
):
    told: list[str] = []
    found = iter([replace(GOOD, worst_probability=0.2)] * n_misses + [GOOD] * 3)
    monkeypatch.setattr(building, "_verified", lambda *_: next(found))
    order = building.Order(precision="int8", calibrate=(str(table),))

    if n_misses < 3:
        building.build(tiny_bundle, order, say=told.append)
    else:
        with pytest.raises(EngineError, match="missed"):
            building.build(tiny_bundle, order, say=told.append)

    assert sum(line.startswith("held back in fp32: ") for line in told) == min(n_misses + 1, 3)


def test_where_no_graph_keeps_a_smaller_share_the_table_of_the_last_one_is_told(table, tiny_bundle, cache, monkeypatch):
    quantised = building.quantised

    def once(*args: object) -> Iterator[object]:
        yield next(quantised(*args))
        raise EngineError("none can be in int8")

    monkeypatch.setattr(building, "quantised", once)
    monkeypatch.setattr(building, "_verified", lambda *_: replace(GOOD, worst_probability=0.2))

    with pytest.raises(EngineError, match=r"nothing was kept\n.*\n.*0\.2000  at most 0\.1000  missed"):
        building.build(tiny_bundle, building.Order(precision="int8", calibrate=(str(table),)))


KILLED = """
import os, signal, sys
from pathlib import Path
from ecgbatch import building
from ecgbatch.bundle import Bundle
def say(line):
    if "ECG/s" in line:  # measured; what is left is to keep it
        os.kill(os.getpid(), signal.SIGKILL)
building.build(Bundle.load(Path(sys.argv[1])), building.Order(precision="int8"), say=say)
"""


def test_a_build_that_is_killed_leaves_no_engine_and_the_next_one_goes_through(int8_bundle, cache):
    killed = subprocess.run([sys.executable, "-P", "-c", KILLED, int8_bundle.folder], check=False)

    assert killed.returncode == -9
    assert engine_cache.kept(cpu.facts(int8_bundle, "int8")) is None
    building.build(int8_bundle, building.Order(precision="int8"))
    assert engine_cache.kept(cpu.facts(int8_bundle, "int8")) is not None


def test_the_command_prints_where_the_engine_is_and_tells_the_rest_on_stderr(int8_bundle, cache):
    command = [sys.executable, "-P", "-m", "ecgbatch.cli", "build", str(int8_bundle.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert Path(done.stdout.strip()).parent == cache
    assert "int8 against fp32 on 8 ECGs" in done.stderr
    assert "times fp32" in done.stderr


def test_a_gpu_that_cannot_be_had_is_refused(tiny_bundle):
    with pytest.raises(EngineError):
        open_engine(tiny_bundle, "cuda", "auto")


@pytest.fixture(scope="module")
def in_place(int8_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    folder = shutil.copytree(int8_bundle.folder, tmp_path_factory.mktemp("own") / "tiny")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ECGBATCH_CACHE", str(folder.parent / "cache"))
        order = building.Order(precision="int8", out=folder)
        yield Bundle.load(building.build(Bundle.load(folder), order))


def test_a_bundle_may_be_written_over_itself(in_place, int8_bundle):
    assert in_place.hashes == int8_bundle.hashes
    assert in_place.parity == int8_bundle.parity
    assert (in_place.folder / "CARD.md").read_text().count("## In int8") == 1
    assert sorted(path.name for path in in_place.folder.parent.iterdir()) == ["cache", "tiny"]


WRITER = """
import sys
from pathlib import Path
from ecgbatch.bundle import Bundle
from ecgbatch.cores import n_cores
from ecgbatch.errors import BundleError, OutputError
from ecgbatch.parity import Parity
from ecgbatch.train import variant
folder = Path(sys.argv[1])
for at in range(15):
    graph = folder.parent / f"{sys.argv[2]}.onnx"
    graph.write_bytes(f"{sys.argv[2]} {at}".encode())
    try:
        variant.add(Bundle.load(folder), "int8", graph, Parity(n_ecgs=1, worst_probability=0.0, flip_share=0.0), folder)
    except (BundleError, OutputError) as err:
        assert "not the file" in str(err) or "another process" in str(err), err  # it read while the other wrote
"""


def test_a_bundle_that_two_write_over_at_once_stays_a_bundle(int8_bundle, tmp_path):
    folder = shutil.copytree(int8_bundle.folder, tmp_path / "tiny")
    (folder / "notes").mkdir()
    writers = [subprocess.Popen([sys.executable, "-P", "-c", WRITER, folder, name]) for name in ("one", "two")]

    assert [each.wait() for each in writers] == [0, 0]
    Bundle.load(folder)
    assert {path.name for path in folder.iterdir()} == {path.name for path in int8_bundle.folder.iterdir()} | {"notes"}


def test_a_bundle_that_cannot_be_written_over_stays_as_it_is(int8_bundle, tmp_path):
    folder = shutil.copytree(int8_bundle.folder, tmp_path / "tiny")

    with pytest.raises(OutputError, match="cannot be written"):
        variant.add(Bundle.load(folder), "int8", tmp_path / "none.onnx", GOOD, folder)

    assert Bundle.load(folder).parity == int8_bundle.parity
    assert {path.name for path in folder.iterdir()} == {path.name for path in int8_bundle.folder.iterdir()}


KILLED_WRITING = """
import os, shutil, signal, sys
from pathlib import Path
from ecgbatch.bundle import Bundle
from ecgbatch.train import variant
variant._add_content = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
source, out = map(Path, sys.argv[1:])
bundle = Bundle.load(source)
variant.add(bundle, "int8", source / "model.int8.onnx", bundle.parity["int8"], out)
"""


def test_what_a_killed_build_leaves_of_a_new_bundle_goes_with_the_next_one(int8_bundle, tmp_path):
    out = tmp_path / "new"
    killed = subprocess.run([sys.executable, "-P", "-c", KILLED_WRITING, int8_bundle.folder, out], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()

    variant.add(int8_bundle, "int8", int8_bundle.folder / "model.int8.onnx", GOOD, out)

    assert Bundle.load(out).parity["int8"] == GOOD
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_bundle_behind_a_link_is_written_where_it_lies(int8_bundle, tmp_path, monkeypatch):
    folder = shutil.copytree(int8_bundle.folder, tmp_path / "tiny")
    link = tmp_path / "link"
    link.symlink_to(folder)

    variant.add(Bundle.load(link), "int8", int8_bundle.folder / "model.int8.onnx", replace(GOOD, n_ecgs=5), link)
    assert link.is_symlink()
    assert Bundle.load(folder).parity["int8"].n_ecgs == 5
    monkeypatch.chdir(folder)
    variant.add(Bundle.load(Path()), "int8", int8_bundle.folder / "model.int8.onnx", GOOD, Path())
    assert Bundle.load(folder).parity["int8"] == GOOD


def test_the_auc_of_parity_is_that_of_evaluation(rng):
    truth, before, after = rng.integers(0, 2, (50, 5)).astype(np.float32), rng.random((50, 5)), rng.random((50, 5))
    change = [metrics.auc(truth[:, at], after[:, at]) - metrics.auc(truth[:, at], before[:, at]) for at in range(5)]

    found = replace(GOOD, auc_change=dict(zip("abcde", change, strict=True)))

    assert found.macro_auc_change == pytest.approx(metrics.macro_auc(truth, after) - metrics.macro_auc(truth, before))
