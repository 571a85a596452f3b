"""The network: its cost, its shapes, and that a record's score is its own."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

torch = pytest.importorskip("torch", reason="the network needs the extra 'train'")

from ecgbatch.network import Network, gflop_per_ecg  # noqa: E402
from ecgbatch.train.architecture import ARCHITECTURE  # noqa: E402

TINY = {
    "widths": [8, 8, 16],
    "depths": [1, 1],
    "kernel": 3,
    "stem_kernel": 5,
    "squeezed": [False, True],
    "dropout": 0.1,
}


@pytest.fixture(scope="module")
def network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(n_leads=8, n_labels=32, **ARCHITECTURE).eval()


def test_an_ecg_costs_at_most_half_a_gflop(network):
    assert 0.3 < gflop_per_ecg(network, n_leads=8, n_samples=2500) <= 0.5


def test_the_cost_of_a_small_network_is_what_a_person_counts():
    tiny = Network(n_leads=8, n_labels=3, **TINY)
    stem = 8 * 8 * 5 * 50  # out, in, kernel, time after stride 2
    first = 8 * 8 * 3 * 25 * 2 + 8 * 8 * 25  # two convolutions and the shortcut
    second = (8 * 16 * 3 + 16 * 16 * 3 + 8 * 16) * 13
    squeeze = 16 * 2 * 2
    head = 32 * 3

    got = gflop_per_ecg(tiny, n_leads=8, n_samples=100)

    assert got == pytest.approx(2 * (stem + first + second + squeeze + head) / 1e9)


def test_counting_the_cost_leaves_a_network_in_training():
    tiny = Network(n_leads=8, n_labels=3, **TINY).train()

    gflop_per_ecg(tiny, n_leads=8, n_samples=100)

    assert tiny.training


@pytest.mark.parametrize("n_records", [1, 3], ids=lambda n: f"{n}-records")
def test_it_gives_a_logit_a_label_and_two_features_a_channel(network, n_records):
    with torch.inference_mode():
        logits, embedding = network(torch.zeros(n_records, 8, 2500))

    assert logits.shape == (n_records, 32)
    assert embedding.shape == (n_records, 2 * ARCHITECTURE["widths"][-1])


def test_the_score_of_an_ecg_does_not_depend_on_its_neighbours(
    network,
):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 8, 2500)).astype(np.float32))

    with torch.inference_mode():
        together = network(x)[0]
        alone = torch.cat([network(ecg[None])[0] for ecg in x])

    assert_allclose(alone, together, atol=1e-5)


def test_an_argument_that_no_network_has_is_an_error():
    with pytest.raises(TypeError, match="depht"):
        Network(n_leads=8, n_labels=3, depht=[1, 1], **TINY)


def test_widths_that_do_not_go_with_the_depths_are_an_error():
    with pytest.raises(ValueError, match="3 widths, 1 depths"):
        Network(n_leads=8, n_labels=3, **{**TINY, "depths": [1]})
