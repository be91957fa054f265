"""Imports run one way, public examples run, and importing the library stays light."""

import ast
import doctest
import importlib
import pathlib
import subprocess
import sys

import pytest

import keras_ttfs

ROOT = pathlib.Path(__file__).parent.parent
# A module may import modules of lower rank only.
RANK = {"temporal_kernel": 0, "energy": 0, "regularizers": 1, "metrics": 1, "layers": 2, "models": 3, "callbacks": 3}
RANK |= {"applications": 4, "__init__": 5}
FORBIDDEN = {"absl", "tensorflow_datasets", "matplotlib", "sklearn", "experiments"}
MODULES = sorted((ROOT / "keras_ttfs").glob("*.py"))


def imported(path):
    """Dotted names that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_run_one_way(path):
    for name in imported(path):
        assert name.split(".")[0] not in FORBIDDEN
        assert not name.startswith(("keras.src", "tensorflow.python")), "private modules change without notice"
        if name.startswith("keras_ttfs."):
            below = name.split(".")[1]
            if below in RANK:
                assert RANK[below] < RANK[path.stem]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_docstring_examples(path):
    name = "keras_ttfs" if path.stem == "__init__" else f"keras_ttfs.{path.stem}"
    module = importlib.import_module(name)
    assert doctest.testmod(module, extraglobs=dict(vars(module))).failed == 0


def test_import_is_light_and_registers_every_class():
    script = (
        "import sys, keras, numpy, tensorflow\n"
        "before = set(sys.modules)\n"
        "import keras_ttfs\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "assert new == {'keras_ttfs'}, new\n"
        "for name in ('TTFSEncode', 'TTFSActivation', 'TemporalKernelDecode', 'TKBatchNorm', 'TTFSModel', 'MeanSpikes'):\n"
        "    assert keras.saving.get_registered_object(f'keras_ttfs>{name}') is getattr(keras_ttfs, name)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_everything_public_exists_and_is_documented():
    for name in keras_ttfs.__all__:
        assert getattr(keras_ttfs, name).__doc__, name


def test_readme_example_runs():
    text = (ROOT / "README.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    names = {}
    exec(example, names)
    assert names["model"].count_params() > 0
