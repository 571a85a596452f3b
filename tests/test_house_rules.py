"""The rules of the house that a reader relies on, held by a test."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

import ecgbatch
from ecgbatch import console
from ecgbatch.cli import app
from ecgbatch.errors import EcgbatchError
from ecgbatch.record import Reason

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "ecgbatch"
MODULES = sorted(path.relative_to(ROOT) for path in SOURCE.rglob("*.py"))

TIERS = (
    {"cores", "errors", "files", "processor", "_kernels"},
    {"record", "waveform", "drawing"},
    {
        "archive",
        "bundle",
        "container",
        "engine_cache",
        "formats",
        "gate",
        "golden",
        "manifest",
        "network",
        "parity",
        "plan",
        "quality",
        "remote",
        "tally",
    },
    {"feed", "runtimes", "output", "parts"},
    {
        "bench",
        "bench_report",
        "doctor",
        "score",
        "train",
        "pack",
        "planning",
        "synth",
        "admission",
        "building",
        "trunk",
        "duplicates",
        "facts",
        "inspection",
        "bundle_report",
        "record_report",
        "run_report",
        "progress",
    },
    {"console"},
    {"cli_engines", "cli_train"},
    {"cli"},
)
"""From the bottom up: a module imports its own tier and those below it, never one above."""
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TIER = {name: level for level, tier in enumerate(TIERS) for name in tier}
TRAINING_ONLY = {"torch", "ml_dtypes", "onnx", "onnxscript", "onnxruntime", "safetensors", "tomli_w"}


def documented() -> str:
    """What the user is told."""
    return "\n".join(path.read_text("utf-8") for path in DOCUMENTS)


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names that a module imports."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def part(dotted: str) -> str | None:
    """The part of ecgbatch that a dotted name belongs to: `feed` for `ecgbatch.feed.host`."""
    pieces = dotted.split(".")
    return pieces[1] if pieces[0] == "ecgbatch" and len(pieces) > 1 and pieces[1] in TIER else None


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_down_only(path):
    own = part(".".join(path.with_suffix("").parts))
    if own is None:
        assert path.name == "__init__.py"
        return
    above = {name for name in map(part, imports(path)) if name and TIER[name] > TIER[own]}

    assert not above


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_only_the_oracle_and_training_import_training_libraries(path):
    if path.parts[1] == "train" or path.name in ("network.py", "eager.py"):
        return

    assert not {name.split(".")[0] for name in imports(path)} & TRAINING_ONLY


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "__init__.py"], ids=str)
def test_all_is_sorted_and_names_what_is_there(path):
    if path.parts[1] == "train" or path.name in ("network.py", "eager.py"):
        pytest.importorskip("torch")
    if path.name in ("trt.py", "cuda_slot.py"):
        pytest.importorskip("tensorrt", reason="needs the extra 'gpu'")
        pytest.importorskip("cuda.core", reason="needs the extra 'gpu'")
    module = importlib.import_module(".".join(path.with_suffix("").parts))
    constants = sorted(name for name in module.__all__ if name.isupper())
    classes = sorted(name for name in module.__all__ if name[0].isupper() and not name.isupper())
    functions = sorted(name for name in module.__all__ if name[0].islower())

    assert list(module.__all__) == constants + classes + functions
    assert not [name for name in module.__all__ if not hasattr(module, name)]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_path_of_the_users_is_never_a_pattern(path):
    """Polars would read `run1` where it is told of `run[1]`."""
    calls = [node for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))) if isinstance(node, ast.Call)]
    reading = [
        call for call in calls if re.fullmatch(r"pl\.(read|scan)_(?!parquet_metadata)\w+", ast.unparse(call.func))
    ]

    assert not [ast.unparse(call) for call in reading if "glob=False" not in ast.unparse(call)]


def test_every_error_stands_in_the_drawn_tree():
    drawing = (SOURCE / "errors.py").read_text("utf-8").split('"""')[1]

    assert {error.__name__ for error in EcgbatchError.__subclasses__()} <= set(re.findall(r"\w+Error", drawing))


def commands(group, prefix=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield " ".join((*prefix, name)), command


@pytest.mark.parametrize(
    ("name", "command"), list(commands(get_command(app))), ids=lambda x: x if isinstance(x, str) else ""
)
def test_every_command_has_help_an_example_and_a_place_in_the_documents(name, command):
    assert f"Example: ecgbatch {name}" in command.help
    assert all(getattr(option, "help", None) for option in command.params if option.name != "help")
    assert f"ecgbatch {name}" in documented()


def test_every_reason_stands_in_the_documents():
    assert not [reason for reason in Reason if f"`{reason}`" not in documented()]


def test_every_extra_that_an_error_names_is_declared_and_stands_in_the_documents():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    brought = set(re.findall(r"pip install '[^']*\[([\w,]+)\]'", documented()))
    named = {
        name
        for path in MODULES
        for name in re.findall(
            r"ecgbatch\[(\w+)\]|MissingExtraError\([^\n]*, \"(\w+)\"\)", (ROOT / path).read_text("utf-8")
        )
    }
    extras = {one or other for one, other in named}

    assert {"dali", "gpu", "remote"} <= extras <= set(declared)
    assert extras <= {extra for each in brought for extra in each.split(",")}


def test_what_training_imports_is_declared_and_named_where_it_is_missing():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    def libraries(requirements: list[str]) -> set[str]:
        return {re.match(r"[\w-]+", one)[0].replace("-", "_") for one in requirements}

    training = [path for path in MODULES if path.parts[1] == "train"] + [SOURCE / "network.py"]
    imported = {name.split(".")[0] for path in training for name in imports(path)}
    extra = libraries(project["optional-dependencies"]["train"])

    assert imported - {*sys.stdlib_module_names, "ecgbatch"} <= extra | libraries(project["dependencies"])
    assert console._EXTRAS["train"] == extra


def test_the_documents_are_filled_in():
    assert not re.findall(r"^[A-Z]{4,}$", documented(), re.MULTILINE)
    assert not re.findall(r"<!-- bench:\S+ -->\n<!-- /bench -->", documented())


def anchors(document: Path) -> set[str]:
    """What its headings are called in a link."""
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_in_a_document_leads_somewhere(document):
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text("utf-8"))
    found = [((document.parent / path) if path else document, anchor) for path, anchor in links]

    assert not [str(path) for path, _ in found if not path.exists()]
    assert not [f"{path}#{anchor}" for path, anchor in found if anchor and anchor not in anchors(path)]


def test_the_tables_in_the_documents_are_those_of_the_measurements():
    check = [sys.executable, ROOT / "benchmarks" / "tables.py", "--check"]

    assert subprocess.run(check, check=False).returncode == 0


def test_help_imports_no_heavy_library():
    code = (
        "import sys, ecgbatch.cli; print(sorted({'torch', 'openvino', 'polars', 'pyarrow', 'numpy'} & {*sys.modules}))"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_package_is_installed_under_one_top_level_name():
    from importlib.metadata import files

    top = {file.parts[0] for file in files("ecgbatch") if file.parts[0] != ".."}

    assert {name for name in top if not name.endswith(".dist-info")} == {"ecgbatch"}
    assert Path(ecgbatch.__file__).parent.name == "ecgbatch"


def test_the_text_of_the_project_names_no_machine():
    private = ("/wo" + "rk/", "/fa" + "rm/")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    texts = [ROOT / name for name in tracked if not name.endswith((".bin", ".parquet", ".onnx", ".safetensors"))]

    assert not [str(path) for path in texts if path.exists() and any(p in path.read_text("utf-8") for p in private)]
