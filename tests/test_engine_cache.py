"""The cache of engines: what is in it is whole and what its facts say, or it is refused by name."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ecgbatch import engine_cache
from ecgbatch.errors import EngineError
from ecgbatch.parity import Parity

FACTS = {"model": "ab" * 32, "precision": "int8", "device": "cpu", "processor": "a", "openvino": "2026.4"}
TOLD = {
    "parity": {"n_ecgs": 8, "worst_probability": 0.02, "flip_share": 0.0, "auc_change": {}},
    "profile": {"batch": 32, "n_streams": 2, "ecg_per_s": 300.0, "ecg_per_s_fp32": 100.0, "n_cores": 2},
}


def write(folder: Path, content: bytes = b"graph") -> None:
    (folder / "model.int8.onnx").write_bytes(content)


def test_a_kept_engine_is_found_with_what_its_builder_told(cache):
    made = engine_cache.keep(FACTS, write, TOLD)

    found = engine_cache.kept(FACTS)

    assert found == made
    assert found.path("model.int8.onnx").read_bytes() == b"graph"
    assert found.told == TOLD
    assert found.parity == Parity(n_ecgs=8, worst_probability=0.02, flip_share=0.0)
    assert found.profile.n_streams == 2
    assert found.folder.parent == cache


def test_an_engine_that_was_never_built_is_none(cache):
    engine_cache.keep({**FACTS, "precision": "fp32"}, write, TOLD)
    engine_cache.keep({**FACTS, "model": "cd" * 32}, write, TOLD)

    assert engine_cache.kept(FACTS) is None


@pytest.mark.parametrize("name", sorted(FACTS))
def test_the_key_changes_with_every_fact(name):
    assert engine_cache.key({**FACTS, name: "other"}) != engine_cache.key(FACTS)


@pytest.mark.parametrize(
    ("name", "claim"),
    [("openvino", "built with openvino 2025.1, expected 2026.4"), ("processor", "built with processor b, expected a")],
    ids=["stale-library", "foreign-processor"],
)
def test_an_engine_built_by_or_for_something_else_is_refused_by_name(cache, name, claim):
    engine_cache.keep({**FACTS, name: {"openvino": "2025.1", "processor": "b"}[name]}, write, TOLD)

    with pytest.raises(EngineError, match=claim) as refused:
        engine_cache.kept(FACTS)

    again = "`ecgbatch build MODEL --device cpu --precision int8 [--calibrate SOURCE]`"
    assert f"build it again with {again}, or delete {cache / cache_name(cache)}" in str(refused.value)
    assert "\n" not in str(refused.value)


def cache_name(cache: Path) -> str:
    """Of the only engine in it."""
    (folder,) = cache.iterdir()
    return folder.name


def tampered(folder: Path) -> None:
    (folder / "model.int8.onnx").write_bytes(b"other")


def lost(folder: Path) -> None:
    (folder / "model.int8.onnx").unlink()


def added(folder: Path) -> None:
    (folder / "more").touch()


def garbled(folder: Path) -> None:
    (folder / "engine.json").write_text('{"facts": 1}')


def copied_under_another_key(folder: Path) -> None:
    content = json.loads((folder / "engine.json").read_text())
    content["facts"]["openvino"] = "2025.1"
    (folder / "engine.json").write_text(json.dumps(content))


def measured_better(folder: Path) -> None:
    content = json.loads((folder / "engine.json").read_text())
    content["told"]["parity"]["worst_probability"] = 0.0
    (folder / "engine.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage",
    [tampered, lost, added, garbled, copied_under_another_key, measured_better],
    ids=lambda damage: damage.__name__,
)
def test_an_altered_engine_is_refused_until_it_is_built_again(cache, damage):
    damage(engine_cache.keep(FACTS, write, TOLD).folder)

    with pytest.raises(EngineError, match="build it again"):
        engine_cache.kept(FACTS)
    engine_cache.keep(FACTS, write, TOLD)

    assert engine_cache.kept(FACTS).path("model.int8.onnx").read_bytes() == b"graph"


@pytest.mark.parametrize(
    ("told", "claim"),
    [
        ({}, "cannot be read"),
        ({"parity": TOLD["parity"], "profile": {}}, "cannot be read"),
        ({"parity": {**TOLD["parity"], "auc_change": 1}}, "cannot be read"),
        ({"parity": {**TOLD["parity"], "worst_probability": "0"}}, "cannot be read"),
        ({"parity": TOLD["parity"], "profile": {**TOLD["profile"], "batch": 3.5}}, "cannot be read"),
        ({"parity": TOLD["parity"], "profile": {**TOLD["profile"], "ecg_per_s": "fast"}}, "cannot be read"),
        ({"parity": {**TOLD["parity"], "worst_probability": 0.11}}, "missed"),
    ],
    ids=["no-parity", "empty-profile", "auc-number", "text", "half-an-ecg", "no-rate", "outside-its-limits"],
)
def test_an_engine_that_tells_nonsense_or_is_outside_its_limits_is_refused(cache, told, claim):
    folder = engine_cache.keep(FACTS, write, TOLD).folder
    content = json.loads((folder / "engine.json").read_text())
    del content["sha256"]
    content["told"] = told
    (folder / "engine.json").write_text(json.dumps({**content, "sha256": engine_cache.key(content)}))

    with pytest.raises(EngineError, match=claim):
        engine_cache.kept(FACTS)


BUILDER = """
import json, os, signal, sys
from ecgbatch import engine_cache
facts = json.loads(sys.argv[1])
def write(folder):
    (folder / "model.int8.onnx").write_bytes(sys.argv[2].encode())
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
for _ in range(int(sys.argv[3])):
    engine_cache.keep(facts, write, {**json.loads(sys.argv[4]), "by": sys.argv[2]})
"""


def builder(content: str, *, times: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", BUILDER, json.dumps(FACTS), content, str(times), json.dumps(TOLD)]
    )


def test_a_killed_build_leaves_no_half_engine(cache):
    assert builder("killed", times=1).wait() == -signal.SIGKILL
    assert engine_cache.kept(FACTS) is None

    engine_cache.keep(FACTS, write, TOLD)

    assert engine_cache.kept(FACTS).path("model.int8.onnx").read_bytes() == b"graph"


def test_a_build_killed_over_a_kept_engine_leaves_that(cache):
    engine_cache.keep(FACTS, write, {**TOLD, "by": "before"})

    assert builder("killed", times=1).wait() == -signal.SIGKILL

    assert engine_cache.kept(FACTS).told["by"] == "before"


def test_what_a_killed_build_left_is_removed_a_day_later_and_not_before(cache):
    builder("killed", times=1).wait()
    (left,) = cache.iterdir()

    engine_cache.keep(FACTS, write, TOLD)
    assert left.exists()
    os.utime(left, (0, 0))
    engine_cache.keep(FACTS, write, TOLD)

    assert [path.name for path in cache.iterdir()] == [engine_cache.kept(FACTS).folder.name]


def test_builds_at_once_do_not_clash_and_one_whole_engine_stays(cache):
    builders = [builder(name, times=40) for name in ("one", "two", "three")]

    assert [each.wait() for each in builders] == [0, 0, 0]
    found = engine_cache.kept(FACTS)
    assert found.path("model.int8.onnx").read_text() == found.told["by"]
    assert list(cache.iterdir()) == [found.folder]


def test_an_engine_that_is_being_replaced_is_always_found(cache):
    engine_cache.keep(FACTS, write, TOLD)
    at_work, n_looks = builder("other", times=150), 0
    while at_work.poll() is None:
        assert engine_cache.kept(FACTS) is not None
        n_looks += 1

    assert at_work.returncode == 0
    assert n_looks > 50


@pytest.mark.parametrize("name", ["x" * 300, "file/cache"], ids=["too-long", "in-a-file"])
def test_a_cache_that_cannot_be_looked_into_is_refused_by_name(tmp_path, monkeypatch, name):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ECGBATCH_CACHE", str(tmp_path / name))

    with pytest.raises(EngineError, match="ECGBATCH_CACHE"):
        engine_cache.kept(FACTS)
    with pytest.raises(EngineError, match="ECGBATCH_CACHE"):
        engine_cache.require_writable()


def test_a_cache_of_nobody_is_refused_by_name():
    code = "import os; from ecgbatch import engine_cache; os.setuid(54321); engine_cache.folder()"
    if os.getuid():
        pytest.skip("needs the right to be a user without an entry")
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "ECGBATCH_CACHE")}
    environment.pop("XDG_CACHE_HOME", None)

    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=False
    )

    assert "EngineError: engine cache: " in done.stderr
    assert "set ECGBATCH_CACHE" in done.stderr


def test_a_relative_cache_is_a_folder_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ECGBATCH_CACHE", "cache")

    assert engine_cache.folder() == tmp_path / "cache"


def test_a_cache_that_is_no_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ECGBATCH_CACHE", str(tmp_path / "file"))

    with pytest.raises(EngineError, match="ECGBATCH_CACHE"):
        engine_cache.kept(FACTS)


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ECGBATCH_CACHE", str(tmp_path / "file" / "cache"))

    with pytest.raises(EngineError, match="cannot be written"):
        engine_cache.keep(FACTS, write, TOLD)


def test_the_cache_lies_where_the_platform_puts_caches(tmp_path, monkeypatch):
    monkeypatch.delenv("ECGBATCH_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert engine_cache.folder() == tmp_path / "ecgbatch"


def test_an_engine_of_another_folder_is_not_taken_for_it(cache):
    made = engine_cache.keep({**FACTS, "processor": "b"}, write, TOLD).folder
    shutil.copytree(made, cache / engine_cache.keep(FACTS, write, TOLD).folder.name, dirs_exist_ok=True)

    with pytest.raises(EngineError, match="built with processor b"):
        engine_cache.kept(FACTS)
