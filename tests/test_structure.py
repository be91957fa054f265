"""Imports run one way, private names of Keras stay in one file, public examples run, the public interface is annotated."""

import ast
import doctest
import importlib
import inspect
import json
import pathlib
import re

import keras
import numpy
import pytest

import keras_ttfs

ROOT = pathlib.Path(__file__).parent.parent
# A module may import modules of lower rank only.
FLOORS = (
    ("checks", "keras_internals"),
    ("tracing", "runtimes"),
    ("qonnx_files",),
    ("temporal_kernel", "energy", "noise", "snn.plots"),
    ("fused", "initializers", "metrics", "regularizers", "snn.codings.coding"),
    ("batch_norm",),
    ("layers", "snn.codings.rate", "snn.codings.phase", "snn.codings.burst", "snn.codings.temporal_switch"),
    ("topology", "spike_time_layers", "snn.codings"),
    ("model_inputs", "callbacks", "distillation", "distribution", "hardening", "pretrained"),
    ("spike_budget",),
    ("models",),
    ("applications", "snn.understood"),
    ("snn.copies", "snn.gating", "snn.nir_data"),
    ("snn.nodes",),
    ("snn.windows", "snn.operations", "snn.results", "snn.samples"),
    ("snn.reader",),
    ("snn.simulation",),
    ("snn.network", "snn.graph"),
    ("snn.equivalence", "snn.coded"),
    ("snn",),
    ("plain_model",),
    ("export_report",),
    ("exporting",),
    ("calibration",),
    ("rebuilding",),
    ("conversion",),
    ("t2fsnn",),
    ("keras_ttfs",),
)
RANK = {module: rank for rank, floor in enumerate(FLOORS) for module in floor}
FORBIDDEN = {"absl", "tensorflow_datasets", "matplotlib", "sklearn", "experiments"}
# The pictures of a simulation import matplotlib, an extra, when they are drawn.
ALLOWED = {"snn.plots": {"matplotlib"}}
MODULES = sorted((ROOT / "keras_ttfs").rglob("*.py"))
# Where private names of Keras may stand.
PRIVATE_NAMES = {"keras_ttfs/keras_internals.py", "tests/test_keras_internals.py"}
SOURCES = sorted(
    path
    for folder, kind in (("keras_ttfs", "py"), ("experiments", "py"), ("tests", "py"), ("notebooks", "ipynb"))
    for path in (ROOT / folder).rglob(f"*.{kind}")
    if ".ipynb_checkpoints" not in path.parts
)


def module_name(path):
    """Dotted name below keras_ttfs, "keras_ttfs" for the package itself."""
    parts = path.relative_to(ROOT / "keras_ttfs").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "keras_ttfs"


def imported_by(source):
    """Dotted names that Python source imports, wherever it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_run_one_way(path):
    own = module_name(path)
    for name in imported_by(path.read_text()):
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


README = (ROOT / "README.md").read_text()
EXAMPLES = [example.split("```")[0] for example in README.split("```python\n")[1:]]


def test_readme_is_short():
    assert len(README.splitlines()) <= 180
    assert len(EXAMPLES[0].splitlines()) == 20


@pytest.mark.slow
def test_readme_examples_run_one_after_the_other(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(EXAMPLES[0], names)
    printed = capsys.readouterr().out
    # What README shows. Another processor sums in another order, so that training ends a little elsewhere.
    found, shown = ([float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)] for text in (
        printed, " ".join(re.search(r"It prints `(.+?)` and `(.+?)`", README).groups())
    ))  # fmt: skip
    accuracy, spikes, per_neuron, steps = shown
    assert found == [
        pytest.approx(accuracy, abs=2), pytest.approx(spikes, rel=0.1), pytest.approx(per_neuron, rel=0.1), steps
    ]  # fmt: skip
    for example in EXAMPLES[1:]:
        exec(example, names)
    assert names["model"].count_params() > 0
    assert names["result"].logits.shape == (397, 10)
    assert len(names["ttfs"].encoders) == 2 and names["outcome"].predictions_per_step.shape == (50, 64)


def is_private(name):
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


@pytest.fixture(scope="module")
def names_of_keras():
    """Private names that Keras objects have: those that we subclass, and those that we are handed."""
    L = keras.layers
    inputs = keras.Input((4,))
    hidden, norm = L.Dense(4), L.BatchNormalization()
    model = keras.Model(inputs, hidden(norm(inputs)))
    model.compile("adam", "mse", metrics=["mae"])
    model.build((None, 4))
    sequential = keras.Sequential([keras.Input((4,)), L.Dense(2)])

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    objects = [model, sequential, Subclassed(), hidden, norm, inputs, hidden.kernel, model.optimizer]
    objects += [keras.optimizers.SGD(), keras.metrics.Mean(), keras.metrics.Sum(), keras.losses.MeanSquaredError()]
    objects += [keras.callbacks.Callback(), keras.callbacks.ModelCheckpoint("x.keras"), keras.callbacks.CSVLogger("x")]
    objects += [keras.random.SeedGenerator(0), keras.initializers.Constant(1), keras.regularizers.L2()]
    objects += [keras.dtype_policies.DTypePolicy("float32")]
    objects += [kind for kind in vars(L).values() if isinstance(kind, type)]
    return {name for entry in objects for name in dir(entry) if is_private(name)}


def source_of(path):
    """Python of a file; of a notebook, its cells one below the other, without commands to the notebook itself."""
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = [cell["source"] for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    lines = "\n".join("".join(cell) for cell in cells).split("\n")
    return "\n".join("" if line.startswith(("%", "!")) else line for line in lines)


def private_names(source):
    """`[(line, private name), ...]` in Python source: what is read from or written to any object, by whatever means, what
    a class defines, and what is imported."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                targets = getattr(part, "targets", [getattr(part, "target", None)])
                names += [getattr(part, "name", None), *(getattr(target, "id", None) for target in targets)]
        elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called.endswith(("attr", "attrgetter", "methodcaller")):
                names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
        found += [(node.lineno, name) for name in names if is_private(name)]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_of_keras_stay_in_one_file(path, names_of_keras):
    """A private name that a Keras object has stands nowhere else, on whatever object: there Keras may change what it means,
    and where a class of ours defines it, it may change what Keras does."""
    own = str(path.relative_to(ROOT))
    if own not in PRIVATE_NAMES:
        found = [f"{own}:{line}: {name}" for line, name in private_names(source_of(path)) if name in names_of_keras]
        assert not found, "private names of Keras: use a function of keras_internals, or another name of our own"
        for module in imported_by(source_of(path)):
            own_suite = own == "tests/test_keras_layer_suite.py" and module.startswith("keras.src.testing")
            assert own_suite or not module.startswith(("keras.src", "tensorflow.python")), "private modules change"


def test_private_names_are_found_whatever_they_are_used_for(names_of_keras):
    source = """
model._flatten_layers()
getattr(model, "_functional", None)
monkeypatch.setattr(layer, "_moments", None)
operator.attrgetter("_loss_tracker")
class Own(keras.Model):
    _inbound_nodes = []
    _layers: list = []
    def _run_through_graph(self):
        self._inputs_struct = {}
    def __init__(self):
        self._keras_ttfs_origin = None
def _outputs(layer):
    return "_losses"
"""
    wanted = {"_flatten_layers", "_functional", "_moments", "_loss_tracker", "_inbound_nodes", "_layers"}
    wanted |= {"_run_through_graph", "_inputs_struct"}
    assert {name for _, name in private_names(source)} - {"_keras_ttfs_origin"} == wanted
    assert wanted <= names_of_keras and "_keras_ttfs_origin" not in names_of_keras


def public_callables(module):
    """`{qualified name: function}` of what a module defines for others: functions, methods, properties, `__init__`.

    Methods that a class outside of the library has as well (`call`, `build`, `get_config`, `train_step`) have its
    signature, and are not ours.
    """
    for name, entry in vars(module).items():
        if name.startswith("_") or getattr(entry, "__module__", None) != module.__name__:
            continue
        if not isinstance(entry, type):
            if callable(entry):
                yield name, entry
            continue
        foreign = {
            method
            for base in entry.__mro__
            if not base.__module__.startswith("keras_ttfs") and base is not object
            for method in vars(base)
        } - {"__init__"}
        for method, value in vars(entry).items():
            if method not in foreign and (method == "__init__" or not method.startswith("_")):
                value = value.fget if isinstance(value, property) else getattr(value, "func", value)
                value = getattr(value, "__func__", value)
                if inspect.isfunction(value):
                    yield f"{name}.{method}", value


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_public_functions_are_annotated(path):
    """Every parameter and what is returned."""
    name = module_name(path)
    module = importlib.import_module("keras_ttfs" if name == "keras_ttfs" else f"keras_ttfs.{name}")
    missing = []
    for label, function in public_callables(module):
        if hasattr(function, "__signature__"):
            continue  # TKBatchNorm shows the signature of BatchNormalization, which has no annotations.
        signature = inspect.signature(function)
        bare = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
        ]
        if signature.return_annotation is signature.empty and not label.endswith("__init__"):
            bare.append("return")
        if bare:
            missing.append(f"{name}.{label}: {', '.join(bare)}")
    assert not missing, "\n".join(missing)
