"""What a comparison found, on a bundle's card: the figures of its folder, a row a disease, written once."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecgbatch.bundle import Bundle
from ecgbatch.cli import app
from ecgbatch.errors import UsageError
from ecgbatch.train import transfer

AUC = {
    "finetune": {"value": 0.883, "low": 0.85, "high": 0.91},
    "scratch": {"value": 0.689, "low": 0.62, "high": 0.75},
    "finetune - scratch": {"value": 0.194, "low": 0.12, "high": 0.27},
}
CARD = "# a model\n\nwords\n\n## How it was made\n\n    a command\n"


def comparison(
    folder: Path, label: str, auc: dict[str, dict[str, float]], *, begun: str, seconds: float | None = None
) -> Path:
    folder.mkdir()
    few = {"n_positives": 4, "arm": "finetune", "auc": {"value": 0.5, "low": 0.4, "high": 0.6}}
    facts = {"n_records": 363, "n_patients": 360, "n_positive": 69, "n_folds": 5, "n_repeats": 1, "n_seeds": 2}
    facts |= {
        "from": f"tiny {begun[:16]}",
        "epochs": 25,
        "rates": [0.002],
        "seconds": seconds,
        "told": {"site": {"value": 0.9, "low": 0.8, "high": 1.0}},
    }
    rows = [few, *({"n_positives": None, "arm": arm, "auc": figure} for arm, figure in auc.items())]
    (folder / "figures.json").write_text(
        json.dumps({"label": label, **facts, "provenance": "made up", "figures": rows}), "utf-8"
    )
    return folder


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    folder = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "bundle"))
    (folder / "CARD.md").write_text(CARD, "utf-8")
    return Bundle.load(folder)


def test_the_card_has_a_row_a_disease_of_what_all_positives_gave(bundle, tmp_path):
    diseases = ("constriction", "doming")
    folders = [comparison(tmp_path / name, name, AUC, begun=bundle.fingerprint) for name in diseases]
    text = transfer.added(bundle, CARD, [transfer.read(folder, bundle) for folder in folders]).read_text("utf-8")

    row = "| 363 | 69 | 0.883 (0.850 to 0.910) | 0.689 (0.620 to 0.750) | +0.194 (+0.120 to +0.270) | – |"
    assert f"| constriction {row}\n| doming {row}\n" in text
    assert (
        "5 folds by patient of 360 patients, 1 partition, 2 trainings of each fold, at most 25 epochs at 0.002." in text
    )
    assert text.count("the score also tells site (AUC 0.90) among negatives") == 2
    assert text.startswith("# a model\n\nwords\n\n")
    assert text.endswith("\n## How it was made\n\n    a command\n")


def test_the_card_says_where_a_part_of_each_ecg_was_looked_at(bundle, tmp_path):
    folder = comparison(tmp_path / "one", "one", AUC, begun=bundle.fingerprint, seconds=7.3)

    assert "at 0.002. Of each ECG, only the first 7.3 s were looked at. made up." in transfer.section(
        [transfer.read(folder, bundle)]
    )


def test_a_card_written_again_has_the_new_part_only(bundle, tmp_path):
    old, new = (comparison(tmp_path / name, name, AUC, begun=bundle.fingerprint) for name in ("old", "new"))
    transfer.added(bundle, CARD, [transfer.read(old, bundle)])
    args = ["train", "card", str(bundle.folder), "--comparison", str(new)]

    assert CliRunner().invoke(app, args).exit_code == 0
    text = (bundle.folder / "CARD.md").read_text("utf-8")
    assert "| new |" in text
    assert "| old |" not in text
    assert CliRunner().invoke(app, args[:3]).exit_code == 0
    assert (bundle.folder / "CARD.md").read_text("utf-8") == CARD


def test_a_comparison_without_training_from_scratch_has_no_place_on_a_card(bundle, tmp_path):
    folder = comparison(tmp_path / "one", "constriction", {"finetune": AUC["finetune"]}, begun=bundle.fingerprint)

    with pytest.raises(UsageError, match="compares finetune, expected finetune and scratch"):
        transfer.read(folder, bundle)
    with pytest.raises(UsageError, match="expected a folder of train compare; give its command again"):
        transfer.read(tmp_path, bundle)


def test_figures_that_an_older_version_wrote_are_asked_for_again(bundle, tmp_path):
    path = comparison(tmp_path / "one", "constriction", AUC, begun=bundle.fingerprint) / "figures.json"
    found = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({name: value for name, value in found.items() if name != "told"}), "utf-8")

    with pytest.raises(UsageError, match="give its command again"):
        transfer.read(path.parent, bundle)


def test_another_models_comparison_has_no_place_on_a_card(bundle, tmp_path):
    folder = comparison(tmp_path / "one", "constriction", AUC, begun="0" * 16)

    with pytest.raises(UsageError, match=r"began with tiny 0+, expected 'tiny' or its parent"):
        transfer.read(folder, bundle)


def test_a_card_that_cannot_be_read_is_one_line(bundle):
    (bundle.folder / "CARD.md").write_bytes(b"\xff")

    result = CliRunner().invoke(app, ["train", "card", str(bundle.folder)])
    assert result.exit_code == 1
    assert "CARD.md cannot be read" in result.output
