"""Head-only bundles: they find their parent or say why not, and share its one pass."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ecgbatch import bundle as bundles
from ecgbatch import synth, trunk
from ecgbatch.bundle import Bundle, Parent, trunk_of
from ecgbatch.errors import BundleError, EngineError, UsageError

torch = pytest.importorskip("torch", reason="making a bundle needs the extra 'train'")

from ecgbatch.runtimes import cpu, eager  # noqa: E402
from ecgbatch.train import export  # noqa: E402


def made_head(parent: Bundle, folder: Path, *, seed: int) -> Bundle:
    """A head of two labels with random weights on a parent's network."""
    network = eager.load(parent).network
    head = torch.nn.Linear(network.head.in_features, 2)
    with torch.no_grad():
        head.weight.normal_(0, 2, generator=torch.Generator().manual_seed(seed))
    network.head = head
    bundle = replace(
        parent,
        folder=folder,
        name=folder.name,
        labels=tuple(replace(label, slope=0.7, intercept=0.1) for label in parent.labels[:2]),
        network={"n_features": head.in_features, "n_labels": 2},
        hashes={},
        parent=Parent(name=parent.name, sha256=parent.hashes["model.onnx"]),
    )
    return export.write(bundle, network, card="untrained")


@pytest.fixture(scope="module")
def heads(tiny_bundle: Bundle) -> tuple[Bundle, Bundle]:
    """Two heads that lie beside their parent."""
    beside = tiny_bundle.folder.parent
    return made_head(tiny_bundle, beside / "rare", seed=5), made_head(tiny_bundle, beside / "rarer", seed=6)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    synth.write_archive(folder, 45, seed=3, formats=("muse-xml",), workers=1)
    return folder


def test_a_head_is_small_and_says_whose_it_is(heads, tiny_bundle):
    head = Bundle.load(heads[0].folder)

    assert head.parent == Parent(name="tiny", sha256=tiny_bundle.hashes["model.onnx"])
    assert (head.folder / "weights.safetensors").stat().st_size < 1000
    assert head.fingerprint != replace(head, parent=Parent(name="tiny", sha256="0" * 64)).fingerprint


def test_a_heads_graph_says_what_its_network_says(heads, tiny_bundle):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the check runs the graph in ONNX Runtime")
    x = np.random.default_rng(1).normal(size=(5, 8, 2500)).astype(np.float32)
    expected, embedding = eager.load(heads[0])(x)
    session = onnxruntime.InferenceSession(heads[0].folder / "model.onnx", providers=["CPUExecutionProvider"])

    assert_allclose(session.run(["logits"], {"embedding": embedding})[0], expected, atol=1e-5)
    assert_array_equal(embedding, eager.load(tiny_bundle)(x)[1])


def test_a_parent_among_the_other_models_comes_before_one_beside(heads, tiny_bundle, tmp_path):
    elsewhere = Bundle.load(Path(shutil.copytree(tiny_bundle.folder, tmp_path / "tiny")))

    assert trunk_of(heads[0], [elsewhere]).folder == elsewhere.folder
    assert trunk_of(heads[0]).folder == tiny_bundle.folder
    assert trunk_of(tiny_bundle) is tiny_bundle


def test_a_head_of_a_shipped_parent_finds_it(tmp_path):
    foundation = bundles.find("foundation")

    assert trunk_of(made_head(foundation, tmp_path / "rare", seed=1)).fingerprint == foundation.fingerprint


def test_a_head_without_its_parent_is_refused_in_one_line(heads, tmp_path):
    alone = Bundle.load(Path(shutil.copytree(heads[0].folder, tmp_path / "rare")))

    with pytest.raises(BundleError, match=r"^bundle 'rare': its parent 'tiny' is not shipped.*name its folder.*$"):
        trunk_of(alone)


def test_a_head_beside_another_network_of_its_parents_name_is_refused(heads, other_bundle, tmp_path):
    alone = Bundle.load(Path(shutil.copytree(heads[0].folder, tmp_path / "rare")))
    shutil.copytree(other_bundle.folder, tmp_path / "tiny")

    with pytest.raises(BundleError, match=r"^bundle 'rare': its parent 'tiny' has model.onnx \w{12}…, expected"):
        trunk_of(alone)


def test_a_head_calibrated_for_a_site_still_knows_its_parent(heads, tmp_path):
    from ecgbatch.train import site_bundle

    site_bundle._write_content(heads[0], Path(shutil.copytree(heads[0].folder, tmp_path / "rare")), "card", [])

    assert Bundle.load(tmp_path / "rare").parent == heads[0].parent


def test_a_head_is_no_parent(heads):
    on_a_head = replace(heads[1], parent=Parent(name="rare", sha256=heads[0].hashes["model.onnx"]))

    with pytest.raises(BundleError, match="is a head or takes another input"):
        trunk_of(on_a_head, heads)


def test_a_parent_that_leads_out_of_the_folder_is_refused():
    with pytest.raises(BundleError, match="expected the name of a bundle"):
        Parent(name="../tiny", sha256="0" * 64)


def test_a_head_whose_scores_are_not_its_golden_ones_is_not_admitted(heads, tiny_bundle, tmp_path):
    folder = Path(shutil.copytree(heads[0].folder, tmp_path / "rare"))
    shutil.copy(heads[1].folder / "golden.parquet", folder)
    text = (folder / "bundle.toml").read_text("utf-8")
    text = text.replace(heads[0].hashes["golden.parquet"], heads[1].hashes["golden.parquet"])
    (folder / "bundle.toml").write_text(text, "utf-8")

    with pytest.raises(EngineError, match=r"'rare'.*reference scores missed"):
        trunk.opened([Bundle.load(folder), tiny_bundle], "cpu", "fp32", batch=8)


class Counted:
    """An engine that counts the records it is given."""

    n_records = 0

    def __init__(self, engine: cpu.CpuEngine) -> None:
        self.bundle, self.batch, self._engine = engine.bundle, engine.batch, engine
        self.variant, self.precision = engine.variant, engine.precision

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._engine(x)

    def stream(self, inputs: Iterable) -> Iterator:
        def counted() -> Iterator:
            for tag, x in inputs:
                Counted.n_records += len(x)
                yield tag, x

        return self._engine.stream(counted())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    """Every engine that `score` opens counts what it scores."""
    opened = trunk.open_engine
    monkeypatch.setattr(trunk, "open_engine", lambda *asked, batch: Counted(opened(*asked, batch=batch)))
    Counted.n_records = 0
    return Counted


@pytest.mark.parametrize("with_parent", [True, False], ids=["parent-scored-too", "two-heads-only"])
def test_a_shared_network_runs_once_for_all_models(scored, sources, heads, tiny_bundle, counted, with_parent):
    asked = (heads[0], tiny_bundle, heads[1]) if with_parent else heads

    _, scores, _ = scored(sources, bundles=asked, batch=16)

    assert counted.n_records == len(scores) == 45
    assert [name for name in scores.columns if name.endswith("/NORM")] == [f"{bundle.name}/NORM" for bundle in asked]


def test_models_in_one_pass_say_what_each_says_alone(scored, sources, heads, tiny_bundle, other_bundle, tmp_path):
    asked = (*heads, tiny_bundle, other_bundle)
    _, together, _ = scored(sources, bundles=asked, batch=16, embeddings=True)

    for bundle in asked:
        _, alone, _ = scored(sources, bundles=(bundle,), batch=16, embeddings=True, out=tmp_path / bundle.name)
        columns = [f"{bundle.name}/{code}" for code in bundle.codes]
        assert together.select(columns).equals(alone.select(columns))
        trunks_own = f"{trunk_of(bundle).name}/embedding"
        assert together[trunks_own].equals(alone[trunks_own])


def test_a_heads_scores_are_those_of_its_whole_network(scored, sources, heads):
    _, scores, _ = scored(sources, bundles=heads[:1], embeddings=True)
    embedding = np.stack(scores["tiny/embedding"].to_numpy())
    logits = eager.load(heads[0]).network.head(torch.from_numpy(embedding)).detach().numpy()

    found = scores.select([f"rare/{code}" for code in heads[0].codes]).to_numpy()
    assert_allclose(found, heads[0].probabilities(logits), atol=1e-5)
    assert isinstance(scores.schema["tiny/embedding"], pl.List)
    assert "rare/embedding" not in scores.columns


def test_another_model_of_the_parents_name_is_refused(scored, sources, heads, other_bundle):
    named_alike = replace(other_bundle, name="tiny")

    with pytest.raises(UsageError, match="two models of one name"):
        scored(sources, bundles=(heads[0], named_alike))
