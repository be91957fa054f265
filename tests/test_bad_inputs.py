"""No public callable takes a bad value without a word: each row of the table of `bad_inputs` ends in a clear error.

A clear error has the library's form, "Expected ... Received: ...". What is rightly accepted stands in ACCEPTED with its
right value, computed by hand.
"""

import importlib
import inspect
import pkgutil
import re

import keras
import numpy as np
import pytest

import keras_ttfs
from tests import bad_inputs

ROWS = bad_inputs.rows()
CLEAR = re.compile(r"Expected .*Received|unexpected keyword argument '\w+'|takes no arguments", re.DOTALL)
# Keras' own words, before anything of ours is asked. At most 5.
UNCLEAR: set[str] = {"TTFSModel(keras.Input((3,)), keras.Input((3,)))"}

FIRST = [[1, 0, 0, 0, 0, 0]]
LEVELS = [[1, np.exp(-0.7), np.exp(-1.7), 0, 0, 0]]
ONES = [[1, 1, 1, 1, 0, 0]]
NAN = "NaN stays NaN"
ACCEPTED = {
    # Right for the kernel as it is, whose levels are 1, 0, 0 ... or 1, 1, 1 ...
    "drive(TTFSActivation(), 1e-30)": FIRST,
    "drive(TTFSActivation(), 1e30)": FIRST,
    "drive(TTFSEncode(), 1e-30)": [[0, 1, 1, 1, 32, 32]],
    # Integers and bools are numbers.
    "TTFSActivation()(z > 0)": ONES,
    "TTFSEncode()(z > 0)": [[0, 0, 0, 0, 32, 32]],
    "TKBatchNorm()(z > 0)": [[1 / np.sqrt(1.001)] * 4 + [0, 0]],
    "tk.encode(z > 0, 10.0, 0.0, 32)": [[0, 0, 0, 0, 32, 32]],
    "tk.encode([1, 0, 2], 10.0, 0.0, 32)": [0, 32, 0],
    "tk.encode(np.array([1, 0, 2]), 10.0, 0.0, 32)": [0, 32, 0],
    "tk.quantize(z > 0, 10.0, 0.0, 32)": ONES,
    "tk.quantize([1, 0, 2], 10.0, 0.0, 32)": [1, 0, 1],
    "tk.quantize(np.array([1, 0, 2]), 10.0, 0.0, 32)": [1, 0, 1],
    "tk.fire(z > 0, 10.0, 0.0, 32)": [[0, 0, 0, 0, 32, 32]],
    "tk.fire([1, 0, 2], 10.0, 0.0, 32)": [0, 32, 0],
    "tk.fire(np.array([1, 0, 2]), 10.0, 0.0, 32)": [0, 32, 0],
    "st.first_crossing([[1, 2]], [[1], [1]])": [[3]],
    "st.spike_logits([1, 2])": [-1, -2],
    "rg.pruning_probability([1], [0], 0.1)": [0.1 - 0.1**3 / 6],
    "rg.pruning_probability([1.0], [0.0], [0.1, 0.2])": [0.1 - 0.1**3 / 6, 0.2 - 0.2**3 / 6],
    # NumPy's numbers are numbers.
    "TTFSActivation(tau_0=np.float32(10))(z)": LEVELS,
    "TTFSActivation(tau_0=np.int64(10))(z)": LEVELS,
    "TTFSEncode(tau_0=np.float32(10))(z)": [[0, 7, 17, 32, 32, 32]],
    "TTFSEncode(tau_0=np.int64(10))(z)": [[0, 7, 17, 32, 32, 32]],
    "ap.vgg6(classes=np.int64(10)).output_shape[1]": 10,
    # Intensities outside [0, 1] have times of their own: exp(3 (1 - x)).
    "st.SpikeTimeEncode()(-z)": np.exp(3 * (1 + np.array([[1, 0.5, 0.2, 0.01, 0, -1]]))),
    "st.SpikeTimeEncode()(z * 5)": np.exp(3 * (1 - 5 * np.array([[1, 0.5, 0.2, 0.01, 0, -1]]))),
    "st.SpikeTimeEncode()(np.array([[inf, -inf, 1, 0, 0, 0]], 'float32'))": [[0, np.inf, 1, *[np.exp(3)] * 3]],
    # A time after the window is silence.
    "tk.decode(np.array([1e9]), 10.0, 0.0, 32)": [0],
    "rg.temporal_kernel_penalty(nan, 0.0, 10.0, 0.0)": np.nan,
    # What a report says of inputs beyond the window. 17 of the 24 numbers of X are above 0.2.
    "quantization_report(TTFS, X * 5)[0].clipped": 17 / 24,
    "quantization_report(TTFS, -X)[0].silent": 1.0,
    # The clipping error needs no window.
    "tk.maximum_error(z, 10.0, 0.0, None)": [[0] * 6],
    **dict.fromkeys(
        [
            "TTFSActivation()(z * nan)",
            "TTFSEncode()(z * nan)",
            "st.SpikeTimeEncode()(z * nan)",
            "st.SpikeTimeDense(3)(z * nan)",
            "st.SpikeTimeDense(3)(np.array([[inf, -inf, 1, 0, 0, 0]], 'float32'))",
            "st.SpikeTimeDense(3)(z)",
            "st.SpikeTimeDense(3)(-np.exp(z))",
            "st.SpikeTimeDense(3)(np.zeros((2, 6), 'float32'))",
            "st.first_crossing([[nan, 2.0]], [[1.0], [1.0]])",
            "st.first_crossing([[1.0, 2.0]], [[nan], [1.0]])",
            "st.spike_logits([nan])",
            "st.spike_logits([-1.0])",
            "st.weight_sum_cost([[nan]])",
            "tk.encode(z * nan, 10.0, 0.0, 32)",
            "tk.decode(np.array([nan]), 10.0, 0.0, 32)",
            "tk.decode(np.array([-5.0]), 10.0, 0.0, 32)",
            "TTFS.predict(X * nan, verbose=0)",
            "TTFS.evaluate(X * nan, Y, verbose=0)",
            "(lambda m: (m.update_state(z * nan), m.result())[1])(MeanSpikes())",
        ],
        NAN,
    ),
}
# What users do not call: the results that the library makes, and steps of its own computations.
NOT_CALLED = {
    *("SimulationResult", "CodedResult", "EquivalenceReport", "EquivalenceError", "LayerEquivalence"),
    *(
        "ExportReport",
        "Noise",
        "Disturbance",
        "Shapes",
        "Draws",
        "TrainingDraws",
        "EnergyReport",
        "Cost",
        "Chip",
        "QuantizationReport",
        "LayerQuantization",
    ),
    *("as_dtype", "scalars", "check_time_window", "check_rounding", "check_kernel_gradient", "threshold_shift"),
    *("proposed_step", "tables", "level_or_relu", "integer_dtype", "neurons_of", "soft_reset"),
    *(
        "checked_data",
        "check_intensities",
        "normalize",
        "sampled_activations",
        "fit_kernel",
        "of_samples",
        "of_training",
        "kernels_of",
        "straight_through",
        "channel_free_axes",
        "check",
        "FunctionalTTFSModel",
        "spike_time_histogram",
    ),
}


@pytest.fixture(scope="module")
def names():
    keras.utils.set_random_seed(0)
    return bad_inputs.namespace()


def outcome(row, names):
    """`(how a row ends, what it gave)`: "refused", "unclear" or "accepted"."""
    keras.utils.set_random_seed(0)
    try:
        return "accepted", eval(row, names)
    except Exception as error:
        clear = isinstance(error, (ValueError, TypeError)) and CLEAR.search(str(error))
        return "refused" if clear else "unclear", f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("row", ROWS)
def test_row(row, names):
    how, what = outcome(row, names)
    expected = "accepted" if row in ACCEPTED else "unclear" if row in UNCLEAR else "refused"
    assert how == expected, what
    if row not in ACCEPTED:
        return
    first = np.asarray(keras.tree.flatten(what)[0])
    if ACCEPTED[row] is NAN:
        assert np.isnan(first).any()
    else:
        np.testing.assert_allclose(first, ACCEPTED[row], rtol=1e-5, atol=1e-7)


def test_the_table_is_large_and_has_no_idle_exceptions():
    assert len(ROWS) >= 600
    assert ACCEPTED.keys() <= set(ROWS)
    assert set(ROWS) >= UNCLEAR and len(UNCLEAR) <= 5


def public_names():
    """Every class and function that a public module of the library defines."""
    modules = [importlib.import_module(f"keras_ttfs.{name}") for name in ("snn", "snn.codings", *PUBLIC_MODULES)]
    assert {
        "snn",
        "fused",
        "checks",
        "topology",
        "keras_internals",
        "model_inputs",
        "calibration",
        "rebuilding",
        "pretrained",
        "qonnx_files",
        "runtimes",
        "tracing",
        "batch_norm",
        "plain_model",
        "export_report",
        "distribution",
        "hardening",
    } | set(PUBLIC_MODULES) == {module.name for module in pkgutil.iter_modules(keras_ttfs.__path__)}
    names = {name for module in modules for name, value in vars(module).items() if is_public(name, value, module)}
    return names | {name for name in keras_ttfs.__all__ if callable(getattr(keras_ttfs, name))}


PUBLIC_MODULES = ["applications", "callbacks", "conversion", "energy", "layers", "metrics", "models", "regularizers"]
PUBLIC_MODULES += [
    "spike_time_layers",
    "t2fsnn",
    "temporal_kernel",
    "initializers",
    "distillation",
    "spike_budget",
    "exporting",
    "noise",
]


def is_public(name, value, module):
    listed = getattr(module, "__all__", None)
    here = name in listed if listed else getattr(value, "__module__", "") == module.__name__
    return here and callable(value) and not name.startswith("_") and (inspect.isclass(value) or callable(value))


def test_every_public_name_has_rows():
    text = " ".join(ROWS)
    without = {name for name in public_names() if not re.search(rf"\b{name}\b", text)}
    assert without <= NOT_CALLED, without - NOT_CALLED


def test_the_nearest_keyword_is_named():
    for call, near in (
        (lambda: keras_ttfs.TTFSActivation(tua_0=3.0), "tau_0"),
        (lambda: keras_ttfs.TKBatchNorm(momentun=0.5), "momentum"),
        (lambda: keras_ttfs.MeanSpikes(dtyp="float32"), "dtype"),
        (lambda: keras_ttfs.spike_time_layers.SpikeTimeDense(3, inital_sum=2.0), "initial_sum"),
        (lambda: keras_ttfs.spike_time_layers.SpikeTimePooling2D(pool_sise=2), "pool_size"),
    ):
        with pytest.raises(ValueError, match=rf"Expected a keyword of .* Received: \w+. Did you mean {near}\?"):
            call()
