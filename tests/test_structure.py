"""Imports run one way, public examples run, and importing the library stays light."""

import ast
import doctest
import importlib
import pathlib

import keras
import numpy
import pytest

import keras_ttfs

ROOT = pathlib.Path(__file__).parent.parent
# A module may import modules of lower rank only.
FLOORS = (
    ("checks", "keras_internals", "energy", "snn.plots"),
    ("temporal_kernel",),
    ("fused", "metrics", "regularizers"),
    ("layers",),
    ("topology", "spike_time_layers"),
    ("models", "callbacks", "snn.nodes", "snn.codings.coding"),
    ("applications", "snn.reader", "snn.operations", "snn.results"),
    ("snn.codings.rate", "snn.codings.phase", "snn.codings.burst", "snn.codings.temporal_switch", "snn.simulation"),
    ("snn.network", "snn.codings"),
    ("snn.equivalence", "snn.coded"),
    ("snn",),
    ("conversion",),
    ("t2fsnn",),
    ("keras_ttfs",),
)
RANK = {module: rank for rank, floor in enumerate(FLOORS) for module in floor}
FORBIDDEN = {"absl", "tensorflow_datasets", "matplotlib", "sklearn", "experiments"}
# The pictures of a simulation import matplotlib, an extra, when they are drawn.
ALLOWED = {"snn.plots": {"matplotlib"}}
MODULES = sorted((ROOT / "keras_ttfs").rglob("*.py"))


def module_name(path):
    """Dotted name below keras_ttfs, "keras_ttfs" for the package itself."""
    parts = path.relative_to(ROOT / "keras_ttfs").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "keras_ttfs"


def imported(path):
    """Dotted names that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_run_one_way(path):
    own = module_name(path)
    for name in imported(path):
        assert name.split(".")[0] not in FORBIDDEN - ALLOWED.get(own, set())
        assert not name.startswith(("keras.src", "tensorflow.python")), "private modules change without notice"
        below = name.removeprefix("keras_ttfs.")
        # `from package import name` gives "package" and "package.name": the longest that is a module counts.
        if below != name and below in RANK and not (below == "snn" and own.startswith("snn")):
            assert RANK[below] < RANK[own], name


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_docstring_examples(path):
    name = module_name(path)
    module = importlib.import_module("keras_ttfs" if name == "keras_ttfs" else f"keras_ttfs.{name}")
    extra = {"np": numpy, "keras": keras, "TTFSActivation": keras_ttfs.TTFSActivation}
    assert doctest.testmod(module, extraglobs={**extra, **vars(module)}).failed == 0


@pytest.mark.slow
def test_import_is_light_and_registers_every_class(in_fresh_process):
    script = (
        "import sys, keras, numpy, tensorflow\n"
        "before = set(sys.modules)\n"
        "import keras_ttfs\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "assert new == {'keras_ttfs'}, new\n"
        "for name in ('TTFSEncode', 'TTFSActivation', 'TemporalKernelDecode', 'TKBatchNorm', 'TTFSModel', 'MeanSpikes'):\n"
        "    assert keras.saving.get_registered_object(f'keras_ttfs>{name}') is getattr(keras_ttfs, name)\n"
        "for name in ('Encode', 'Dense', 'Conv2D', 'Pooling2D', 'Output'):\n"
        "    assert keras.saving.get_registered_object(f'keras_ttfs>SpikeTime{name}')\n"
    )
    in_fresh_process(script)


def test_everything_public_exists_and_is_documented():
    for name in keras_ttfs.__all__:
        assert getattr(keras_ttfs, name).__doc__, name


def test_every_module_has_its_floor():
    assert {module_name(path) for path in MODULES} == RANK.keys()


def test_readme_examples_run_one_after_the_other():
    text = (ROOT / "README.md").read_text()
    names = {}
    for example in text.split("```python\n")[1:]:
        exec(example.split("```")[0], names)
    assert names["model"].count_params() > 0
    assert names["result"].logits.shape == (8, 10)
    assert len(names["report"]) == 2
