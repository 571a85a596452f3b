"""The TensorRT runtime against the real signatures of the library, which lie in the data folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="needs the extra 'dev'")

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / "ecgbatch" / "runtimes" / "trt.py"
PLANTED = [
    ("trt.BuilderFlag.TF32", "trt.BuilderFlag.FP16", '"type[BuilderFlag]" has no attribute "FP16"'),
    (".execute_async_v3(", ".execute_async_v2(", '"IExecutionContext" has no attribute "execute_async_v2"'),
    (".get_tensor_name(", ".get_binding_name(", '"ICudaEngine" has no attribute "get_binding_name"'),
    ('.set_input_shape("x", shape)', ".set_input_shape(0, shape)", 'No overload variant of "set_input_shape"'),
    (".num_io_tensors", ".num_bindings", '"ICudaEngine" has no attribute "num_bindings"'),
]
"""Calls that TensorRT 11 takes, what TensorRT 8 knew in their place, and what mypy says of that."""


@pytest.fixture(scope="module")
def signatures(data, tmp_path_factory):
    """The stub of TensorRT, less the alias `bool`, which mypy takes for the type of every function that returns one."""
    source = data / "typings" / "tensorrt" / "__init__.pyi"
    if not source.is_file():
        pytest.skip(f"needs TensorRT's signatures, {source}")
    folder = tmp_path_factory.mktemp("typings")
    (folder / "tensorrt").mkdir()
    lines = source.read_text("utf-8").splitlines(keepends=True)
    (folder / "tensorrt" / "__init__.pyi").write_text("".join(line for line in lines if line != "bool: DataType\n"))
    return folder


@pytest.fixture
def checked(signatures, tmp_path):
    """mypy, as the project sets it, on the text of a module: its exit code and what it says."""

    def run(text):
        module = tmp_path / "checked.py"
        module.write_text(text, "utf-8")
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-warn-return-any",
            "--cache-dir",
            signatures / "cache",
            module,
        ]
        environment = os.environ | {"MYPYPATH": f"{signatures}{os.pathsep}{ROOT}"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def test_every_call_is_one_of_the_real_library(checked):
    code, said = checked(RUNTIME.read_text("utf-8"))

    assert code == 0, said
    assert "no issues found" in said


def test_the_real_signatures_were_used(checked):
    code, said = checked(f"{RUNTIME.read_text('utf-8')}\nreveal_type(trt.Builder(_Log()).create_network())\n")

    assert code == 0
    assert 'Revealed type is "tensorrt.INetworkDefinition"' in said


@pytest.mark.parametrize(("call", "removed", "said"), PLANTED, ids=[removed for _, removed, _ in PLANTED])
def test_a_call_that_the_library_does_not_have_is_noticed(checked, call, removed, said):
    text = RUNTIME.read_text("utf-8")
    assert call in text

    code, found = checked(text.replace(call, removed))

    assert code == 1
    assert said in found


def test_the_engine_is_one_that_scoring_takes(checked):
    taken = "from ecgbatch.runtimes import Engine\ndef taken(engine: TrtEngine) -> Engine:\n    return engine\n"
    refused = taken.replace("-> Engine", "-> Path")

    assert checked(RUNTIME.read_text("utf-8") + taken)[0] == 0
    assert checked(RUNTIME.read_text("utf-8") + refused)[0] == 1
