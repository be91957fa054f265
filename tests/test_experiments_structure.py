"""Modules of `experiments` import downwards only, stay short, and lean on nothing private."""

import ast
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "experiments"
MODULES = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")
# A module may import modules of lower rank only.
RANK = {
    "noises": -2,
    **dict.fromkeys(
        (
            "config",
            "files",
            "processes",
            "paper",
            "provenance",
            "data",
            "benchmark_torch",
            "benchmark_networks",
            "ports",
        ),
        -1,
    ),
    **dict.fromkeys(("lock", "stored", "saved_model", "sums"), 0),
    **dict.fromkeys(("command", "optimizers", "plots", "results", "start", "workdir", "workers"), 1),
    **dict.fromkeys(("tables", "checkpoint"), 2),
    "train": 3,
    "trained": 3,
    "fast_tables": 3,
    "table2_text": 3,
    "table2_models": 3,
    "scaling_text": 3,
    "benchmark_text": 3,
    "costs": 3,
    "runs": 4,
    "chain": 5,
    "rows": 6,
    **dict.fromkeys(
        (
            "table2",
            "simulate",
            "convert",
            "benchmark",
            "figures",
            "frontier",
            "report",
            "export",
            "robustness",
            "anytime",
        ),
        7,
    ),
    **dict.fromkeys(("cifar", "table1", "fast", "zhou"), 7),
    **dict.fromkeys(("sweeps", "publish", "scaling"), 8),
}
COMMANDS = sorted(name for name, rank in RANK.items() if rank >= 7)


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_run_one_way(path):
    for name in imported(ast.parse(path.read_text())):
        assert not name.startswith(("keras.src", "tensorflow.python")), "private modules change without notice"
        below = name.removeprefix("experiments.").split(".")[0]
        if name.startswith("experiments.") and below in RANK:
            assert RANK[below] < RANK[path.stem], name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_private_and_nothing_long(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            allowed = isinstance(node.value, ast.Name) and (node.value.id, node.attr) in {("os", "_exit")}
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            assert allowed or own, node.attr


def test_help_comes_without_tensorflow():
    script = (
        "import importlib, sys\n"
        f"for name in {COMMANDS}:\n"
        "    module = importlib.import_module(f'experiments.{name}')\n"
        "    assert module.main and module.define_flags and module.__doc__, name\n"
        "heavy = {'tensorflow', 'keras', 'keras_ttfs', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=FOLDER.parent)
