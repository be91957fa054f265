"""Files for other runtimes: they fire the model's spikes, wrong ones are caught, and nothing is broken behind them."""

import dataclasses
import os
import pathlib
import random
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from keras_ttfs import (
    TemporalKernelDecode,
    TKBatchNorm,
    TTFSActivation,
    TTFSEncode,
    TTFSModel,
    applications,
    check_export,
    export,
    exporting,
    runtimes,
)
from keras_ttfs.snn import EquivalenceError, SpikingNetwork, check_equivalence, in_dtype

pytest.importorskip("onnxruntime", reason="the extra export is not installed")
SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "tf_saved_model": ""}
FORMATS = list(SUFFIXES)
SHEETS = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10"
DIGITS = load_digits()
X, Y = (DIGITS.images[..., None] / 16).astype("float32"), DIGITS.target
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


NORM = {"momentum": 0.8, "gamma_initializer": keras.initializers.Constant(0.3)}


def small(**options):
    """Every kind of layer that makes or takes spikes, both orders of pooling, both roundings."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    z = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(TTFSActivation(name="in")(inputs))
    z = TTFSActivation(name="windows", rounding="nearest")(keras.layers.MaxPooling2D()(TKBatchNorm(**NORM)(z)))
    z = keras.layers.MaxPooling2D()(
        TTFSActivation(name="conv", time_window=16, tau_0=5.0)(keras.layers.Conv2D(8, 3)(z))
    )
    z = TKBatchNorm(**NORM)(keras.layers.Dense(32)(keras.layers.Flatten()(z)))
    z = TemporalKernelDecode(200)(TTFSEncode(200, tau_0=40.0, name="code")(z))
    return TTFSModel(inputs, keras.layers.Dense(10)(z), **options)


def trained(model, **options):
    model.compile(keras.optimizers.Adam(3e-3), LOSS, metrics=["accuracy"], **options)
    model.fit(X[1000:], Y[1000:], batch_size=32, epochs=4, verbose=0)
    return model


@pytest.fixture(scope="module")
def model():
    return trained(small())


def path_for(tmp_path, format, name="model"):
    return tmp_path / f"{name}{SUFFIXES[format]}"


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_has_the_spikes_and_the_classes_of_its_model(model, tmp_path, format):
    path = path_for(tmp_path, format)
    weights, spikes = model.get_weights(), int(model.encoders[0].spikes.count)
    report = export(model, path, format, (X[:1000], Y[:1000]), tolerance=1e-3)
    print(report)
    # The model is as it was.
    for ours, theirs in zip(model.get_weights(), weights):
        np.testing.assert_array_equal(ours, theirs)
    assert int(model.encoders[0].spikes.count) == spikes
    assert path.exists() and report.samples == 1000 and report.changed_predictions == 0
    assert [row.layer for row in report.layers] == ["in", "windows", "conv", "code"]
    assert report.mismatches <= 1e-3 * report.spikes and report.spikes > 100_000
    assert [row.neurons for row in report.layers] == [64, 128, 32, 32]
    network = SpikingNetwork.from_model(model).run(X[:1000], verbose=0)
    assert sum(network.spikes.values()) == pytest.approx(report.file_spikes, rel=1e-3)
    right = float((model.predict(X[:1000], verbose=0).argmax(-1) == Y[:1000]).mean())
    assert report.accuracy == {"keras": right, "file": right} and right > 0.5
    assert report.size > 1000 and sum(report.operations.values()) > 20
    assert not {"IfOp", "PartitionedCall", "StatefulPartitionedCall", "VAR_HANDLE"} & report.operations.keys()
    assert check_export(model, path, format, X[:50], tolerance=1e-3).samples == 50
    assert not list(tmp_path.glob(".keras_ttfs*"))


ORDERS = ([*FORMATS, FORMATS[0]], [*FORMATS[::-1], FORMATS[-1]])


@pytest.mark.parametrize("order", [ORDERS[0], pytest.param(ORDERS[1], marks=pytest.mark.slow)], ids="-".join)
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_process_trains_on_behind_every_export(tmp_path, jit_compile, order):
    """Ours and Keras' own, every format behind every other, before and behind a fit, in one process."""
    model = trained(small(), jit_compile=jit_compile)
    for number, format in enumerate(order):
        expected = model.predict(X[:64], verbose=0)
        spikes = model.evaluate(X[:64], Y[:64], verbose=0, return_dict=True)["spikes"]
        export(model, path_for(tmp_path, format, f"ours{number}"), format, X[:16], 1e-2)
        model.export(str(path_for(tmp_path, format, f"keras{number}")), format=format, verbose=False)
        # XLA adds up in another order.
        np.testing.assert_allclose(model(X[:64]), expected, atol=0.2)
        np.testing.assert_array_equal(model.predict(X[:64], verbose=0), expected)
        assert model.evaluate(X[:64], Y[:64], verbose=0, return_dict=True)["spikes"] == spikes
        before = [np.array(weight) for weight in model.trainable_weights]
        model.fit(X[:64], Y[:64], verbose=0)
        for ours, theirs in zip(before, model.trainable_weights):
            assert np.any(ours != np.array(theirs)), theirs.path
    fresh = trained(small(), jit_compile=jit_compile)
    assert fresh.evaluate(X[:64], Y[:64], verbose=0, return_dict=True)["spikes"] > 0


RUN = {
    "onnx": "import onnxruntime; s = onnxruntime.InferenceSession(path); y = s.run(None, {s.get_inputs()[0].name: x})[0]",
    "litert": (
        "from ai_edge_litert.interpreter import Interpreter; r = Interpreter(path).get_signature_runner(); "
        "y = r(**{next(iter(r.get_input_details())): x}); y = next(iter(y.values()))"
    ),
    "tf_saved_model": (
        "import tensorflow; m = tensorflow.saved_model.load(path); s = m.signatures['serving_default']; "
        "y = s(**{next(iter(s.structured_input_signature[1])): tensorflow.constant(x)}); y = next(iter(y.values())).numpy()"
    ),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["TTFSModel", "Model", "Sequential"])
def test_keras_own_export_runs_without_this_library(model, tmp_path, format, kind):
    if kind == "Model":
        model = keras.Model(model.inputs, model.outputs)
    if kind == "Sequential":
        layers = [keras.Input((8, 8, 1)), TTFSActivation(), keras.layers.Flatten(), keras.layers.Dense(10)]
        model = keras.Sequential(layers)
    path = str(path_for(tmp_path, format))
    expected = model.predict(X[:8], verbose=0)
    model.export(path, format=format, verbose=False)
    np.save(tmp_path / "x.npy", X[:8])
    code = f"import numpy, sys; path = {path!r}; x = numpy.load({str(tmp_path / 'x.npy')!r}); {RUN[format]}; "
    code += f"numpy.save({str(tmp_path / 'y.npy')!r}, y); assert 'keras_ttfs' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy").argmax(-1), expected.argmax(-1))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=0.05)


def levels_of(onnx, file):
    """The constant in an ONNX file that holds the levels of the layer "conv"."""
    wanted = np.exp(-np.arange(16) / 5.0).astype("float32")
    for constant in file.graph.initializer:
        values = onnx.numpy_helper.to_array(constant)
        if values.shape == (17,) and np.allclose(values[:16], wanted, rtol=0.2):
            return constant, values.copy()
    raise AssertionError("no such levels")


def test_a_damaged_file_is_caught(model, tmp_path):
    import onnx

    path = tmp_path / "model.onnx"
    export(model, path, data=X[:100], tolerance=1e-3)
    file = onnx.load(str(path))
    constant, values = levels_of(onnx, file)
    values[5] *= 1.05
    constant.CopyFrom(onnx.numpy_helper.from_array(values, constant.name))
    onnx.save(file, str(path))
    with pytest.raises(
        EquivalenceError,
        match=r"Received: [\d,]+ spike times that differ of [\d,]+ spikes; [\d,]+ of [\d,]+ arise in layer",
    ):
        check_export(model, path, data=X[:100], tolerance=1e-3)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="Expected a file that its runtime reads. Received: "):
        check_export(model, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda kernel: np.sign(kernel) * 3e38,
            "Expected the outputs of the model. Received: 100 of 100 samples whose outputs are",
        ),
        (lambda kernel: kernel * 3, "Expected the outputs of the model. .* outputs are not finite, or differ"),
        (lambda kernel: kernel[:, ::-1], "Expected the outputs of the model"),
    ],
)
def test_wrong_outputs_are_caught_where_all_spikes_are_right(model, tmp_path, monkeypatch, change, message):
    """The last weights are behind every spike."""
    other = small()
    other.set_weights(model.get_weights())
    last = other.layers[-1]
    last.kernel.assign(change(np.array(last.kernel)))
    plain = exporting.PlainModel
    monkeypatch.setattr(exporting, "PlainModel", lambda _, *how: plain(other, *how))
    for format in FORMATS:
        with pytest.raises(EquivalenceError, match=message):
            export(model, path_for(tmp_path, format), format, X[:100], tolerance=1e-2)


def test_a_file_of_another_architecture_is_named(tmp_path):
    def make(window, units):
        inputs = keras.Input((8, 8, 1))
        z = TTFSActivation(window, name="in")(inputs)
        z = TTFSActivation(name="hid")(keras.layers.Dense(units, bias_initializer="ones")(keras.layers.Flatten()(z)))
        return TTFSModel(inputs, keras.layers.Dense(4)(z))

    path = tmp_path / "model.onnx"
    export(make(40, 6), path, data=X[:20])
    with pytest.raises(
        ValueError, match=r"Expected spike times of layer 'in' in 0..32. Received: int32 from \d+ to 40"
    ):
        check_export(make(32, 6), path, data=X[:20])
    with pytest.raises(ValueError, match="Expected a file of this model, which returns .*Received: one that returns"):
        check_export(make(40, 7), path, data=X[:20])


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_of_another_model_is_caught_and_nothing_is_left(model, tmp_path, format, monkeypatch):
    path = path_for(tmp_path, format)
    other = small()
    other.set_weights([weight + 0.3 for weight in model.get_weights()])
    # A writer that writes another network.
    plain = exporting.PlainModel
    monkeypatch.setattr(exporting, "PlainModel", lambda _, *how: plain(other, *how))
    with pytest.raises(EquivalenceError, match="Expected the spikes of the model"):
        export(model, path, format)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    export(model, path, format, X[:8], 1e-2)
    monkeypatch.setattr(exporting, "PlainModel", lambda _, *how: plain(other, *how))
    with pytest.raises(EquivalenceError):
        export(model, path, format, overwrite=True)
    monkeypatch.undo()
    # What was there is there, whole.
    check_export(model, path, format, X[:8], 1e-2)
    export(model, path, format, X[:8], 1e-2, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]


def unused_output():
    """A nested model of two spiking outputs, of which one leads nowhere."""
    inner = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inner)
    first = TTFSActivation(name="y")(keras.layers.Dense(10, bias_initializer="ones")(flat))
    second = TTFSActivation(name="z")(keras.layers.Dense(10)(flat))
    nested = keras.Model(inner, [first, second], name="two")
    inputs = keras.Input((8, 8, 1))
    return TTFSModel(inputs, keras.layers.Dense(3)(nested(TTFSActivation(name="in")(inputs))[1]))


class Subclass(TTFSModel):
    """A functional model of a class of one's own, which nobody has registered."""


def subclass():
    inputs = keras.Input((8, 8, 1))
    return Subclass(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(TTFSActivation()(inputs))))


def named_output():
    inputs = keras.Input((8, 8, 1))
    return TTFSModel(inputs, {"classes": keras.layers.Dense(3)(keras.layers.Flatten()(TTFSActivation()(inputs)))})


def normalized():
    inputs = keras.Input((8, 8, 1))
    norm = keras.layers.Normalization(axis=None)
    norm.adapt(X[:100])
    z = keras.layers.Dense(20)(keras.layers.Flatten()(norm(inputs)))
    return TTFSModel(inputs, keras.layers.Dense(3)(TTFSActivation()(z)))


def in_bytes():
    inputs = keras.Input((8, 8, 1))
    z = TTFSActivation()(keras.layers.Rescaling(1 / 255)(inputs))
    return TTFSModel(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(z)))


@pytest.mark.parametrize("make", [unused_output, subclass, named_output, normalized, in_bytes])
def test_models_that_people_have(make, tmp_path):
    keras.utils.set_random_seed(0)
    model = make()
    for format in (*FORMATS, "qonnx"):
        path = tmp_path / f"{format}{SUFFIXES.get(format, '.onnx')}"
        report = export(model, path, format, tolerance=1e-2)
        assert report.spikes > 100 and report.changed_predictions == 0
        if format in SUFFIXES:
            drawn = exporting._samples(model, None)[0]
            run = exporting.FORMATS[format].load(path)(drawn)
            simulated = SpikingNetwork.from_model(model).run(drawn, verbose=0).spike_times
            assert run.keys() == {"output", *(f"spike_time_{name}" for name in simulated)}
            for name, times in simulated.items():
                assert np.mean(run[f"spike_time_{name}"] != times) < 1e-2
    assert check_equivalence(model, exporting._samples(model, None)[0][:5], verbose=0).equivalent


def test_data_on_which_nothing_fires_prove_nothing(model, tmp_path):
    with pytest.raises(
        EquivalenceError, match="Expected data on which the model fires. Received: no spike in 5 samples"
    ):
        export(in_bytes(), tmp_path / "model.onnx", data=X[:5])
    inputs = keras.Input((8, 8, 1))
    z = TTFSActivation(name="never")(
        keras.layers.Dense(4, bias_initializer=keras.initializers.Constant(-99))(TTFSActivation()(inputs))
    )
    idle = TTFSModel(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(z)))
    assert "no spikes, so nothing compared in: never" in str(export(idle, tmp_path / "idle.onnx"))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "bool"])
def test_inputs_of_integers_and_bools(dtype, tmp_path):
    inputs = keras.Input((8, 8, 1), dtype=dtype)
    z = TTFSActivation()(keras.layers.Rescaling(1.0 if dtype == "bool" else 1 / 127)(inputs))
    model = TTFSModel(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(z)))
    assert export(model, tmp_path / "model.onnx").mismatches == 0


@pytest.mark.parametrize(
    "labels", [np.eye(10)[Y[:50]], Y[:50].astype("float32"), Y[:49], Y[:50] - 1, Y[:50] + 1, np.stack([Y[:50]] * 2, 1)]
)
def test_labels_that_are_refused(model, tmp_path, labels):
    with pytest.raises(ValueError, match=r"Expected labels \(samples,\), integers in 0..9"):
        export(model, tmp_path / "model.onnx", data=(X[:50], labels))


def test_functions_of_ones_own_are_refused_while_exporting_and_stay_as_they_are(tmp_path):
    """A tf.function within a model that is first traced in an export would keep what it was traced with."""

    @keras.saving.register_keras_serializable("tests")
    class Wrapped(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.spikes = TTFSActivation()
            self.function = tf.function(lambda z: self.spikes(z), reduce_retracing=True)

        def build(self, shape):
            self.spikes.build(shape)

        def call(self, z):
            return self.function(z)

        def compute_output_shape(self, shape):
            return shape

    inputs = keras.Input((8, 8, 1))
    layer = Wrapped()
    model = keras.Model(inputs, layer(inputs))
    model(X[:1])
    layer.function = tf.function(lambda z: layer.spikes(z), reduce_retracing=True)
    with pytest.raises(
        ValueError, match="Expected layers outside of tf.functions of one's own in a model that is exported"
    ):
        model.export(str(tmp_path / "model.onnx"), format="onnx", verbose=False)
    before = np.array(model(X[:3]))
    layer.spikes.tau.assign(3.0)
    assert np.any(before != np.array(model(X[:3])))


def test_what_was_there_comes_back_where_the_last_step_fails(model, tmp_path, monkeypatch):
    path = tmp_path / "model"
    export(model, path, "tf_saved_model", X[:8], 1e-2)
    before = sorted(file.name for file in path.rglob("*"))
    real = os.replace

    def fails(source, target):
        if pathlib.Path(target) == path:
            raise OSError("no space")
        return real(source, target)

    monkeypatch.setattr(exporting.os, "replace", fails)
    with pytest.raises(OSError, match="no space"):
        export(model, path, "tf_saved_model", X[:8], 1e-2, overwrite=True)
    monkeypatch.undo()
    assert sorted(file.name for file in path.rglob("*")) == before and list(tmp_path.iterdir()) == [path]
    # What appears in the meantime is not replaced, and links are not followed.
    write = runtimes.Onnx.write

    def slow(self, module, made, quantize):
        write(self, module, made, quantize)
        (tmp_path / "late.onnx").write_text("another's")

    monkeypatch.setattr(runtimes.Onnx, "write", slow)
    with pytest.raises(ValueError, match="Expected a path where nothing is"):
        export(model, tmp_path / "late.onnx", data=X[:8], tolerance=1e-2)
    monkeypatch.undo()
    assert (tmp_path / "late.onnx").read_text() == "another's"
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ValueError, match="which is something else"):
        export(model, tmp_path / "link", "tf_saved_model", overwrite=True)


def test_mixed_precision_is_written_in_float32(tmp_path):
    source = trained(small())
    half = in_dtype(source, "mixed_bfloat16")
    report = export(half, tmp_path / "model.onnx", data=X[:200], tolerance=1e-3)
    assert report.changed_predictions == 0 and half.layers[2].compute_dtype == "bfloat16"
    whole = export(source, tmp_path / "whole.onnx", data=X[:200], tolerance=1e-3)
    assert (whole.spikes, whole.file_spikes) == (report.spikes, report.file_spikes)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("format", ["onnx", "litert"])
@pytest.mark.parametrize("half", ["in", "last", "all", "a plain model's"])
def test_what_keras_itself_exports_of_half_precision_is_refused(tmp_path, format, policy, half):
    """onnxruntime and LiteRT cannot run such files, and Keras reports success."""
    policies = {name: policy if half in (name, "all", "a plain model's") else "float32" for name in ("in", "last")}
    inputs = keras.Input((8, 8, 1))
    z = keras.layers.Flatten()(TTFSActivation(name="in", dtype=policies["in"])(inputs))
    kind = keras.Model if half == "a plain model's" else TTFSModel
    model = kind(inputs, keras.layers.Dense(3, name="last", dtype=policies["last"])(z))
    model(X[:1])
    with pytest.raises(
        ValueError, match="Expected layers in float32 in a model that is exported. Received: layer '(in|last)' in"
    ):
        model.export(str(path_for(tmp_path, format)), format=format, verbose=False)
    assert export(model, path_for(tmp_path, format, "ours"), format).model_dtype == "mixed"
    assert np.isfinite(model.predict(X[:5], verbose=0)).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
@pytest.mark.parametrize("container", [lambda layers: keras.Sequential(layers), lambda layers: graph(layers)])
def test_layers_of_float32_are_exported_by_keras_under_a_policy_of_half_precision(tmp_path, container, policy):
    """Inputs and graphs have the policy, and compute nothing."""
    inner = container([keras.layers.Flatten(dtype="float32"), TTFSActivation(name="in", dtype="float32")])
    inputs = keras.Input((8, 8, 1))
    model = TTFSModel(inputs, keras.layers.Dense(3, dtype="float32")(inner(inputs)))
    for of_float32 in (model, in_dtype(model, "float32")):
        expected = of_float32.predict(X[:32], verbose=0)
        of_float32.export(str(tmp_path / "model.onnx"), format="onnx", verbose=False)
        found = exporting.FORMATS["onnx"].load(tmp_path / "model.onnx")(X[:32])
        np.testing.assert_allclose(next(iter(found.values())), expected, atol=1e-5)


def graph(layers):
    x = inputs = keras.Input((8, 8, 1))
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_saved_model_of_half_precision_is_keras_own(tmp_path, policy):
    model = in_dtype(trained(small()), policy)
    expected = model.predict(X[:32], verbose=0)
    model.export(str(tmp_path / "model"), verbose=False)
    (found,) = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"](tf.constant(X[:32])).values()
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
    assert model.predict(X[:32], verbose=0).tolist() == expected.tolist()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("last", [keras.layers.Softmax, lambda: keras.layers.Activation("softmax")])
def test_a_softmax_of_half_precision_is_written_in_float32(tmp_path, policy, last):
    inputs = keras.Input((8, 8, 1))
    z = keras.layers.Flatten()(TTFSActivation(name="in")(inputs))
    model = in_dtype(TTFSModel(inputs, last()(keras.layers.Dense(3)(z))), policy)
    for format in FORMATS:
        path = path_for(tmp_path, format)
        export(model, path, format, X[:50])
        found = exporting.FORMATS[format].load(path)(X[:5])["output"]
        assert found.dtype == "float32"
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


def test_outputs_far_away_are_caught_also_of_quantized_weights_and_of_one_output(tmp_path, monkeypatch):
    def make(outputs, factor=1.0):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 1))
        z = keras.layers.Dense(300)(keras.layers.Flatten()(TTFSActivation(name="in")(inputs)))
        model = TTFSModel(inputs, keras.layers.Dense(outputs)(TTFSActivation(name="hid")(z)))
        model.layers[-1].kernel.assign(factor * model.layers[-1].kernel)
        return model

    plain = exporting.PlainModel
    for outputs, factor in ((3, 100.0), (1, -100.0)):
        model, wrong = make(outputs), make(outputs, factor)
        path = tmp_path / f"{outputs}.tflite"
        export(model, path, "litert", X[:100], 1.0, quantize="dynamic_range", overwrite=True)
        monkeypatch.setattr(exporting, "PlainModel", lambda _, *how, wrong=wrong: plain(wrong, *how))
        for quantize in (None, "dynamic_range"):
            with pytest.raises(EquivalenceError, match="Expected the outputs of the model"):
                export(model, path, "litert", X[:100], 1.0, quantize=quantize, overwrite=True)
        monkeypatch.undo()
    # The class of one output is its sign.
    model = make(1)
    report = export(model, tmp_path / "one.onnx", data=X[:100], tolerance=1e-2)
    assert report.changed_predictions == report.model_changed_predictions == 0
    report.changed_predictions = 1
    with pytest.raises(EquivalenceError, match="Expected the classes of the model"):
        report.check(1e-2)


def test_a_model_that_predicts_something_else_than_its_layers_is_told(model, tmp_path):
    report = export(model, tmp_path / "model.onnx", data=X[:100], tolerance=1e-2)
    report.model_changed_predictions = 2
    with pytest.raises(
        EquivalenceError, match="Expected a model that predicts what its layers compute. Received: 2 of 100"
    ):
        report.check(1e-2)
    # Half precision has other classes, and the report says how many.
    report.model_dtype = "mixed"
    report.check(1e-2)
    assert "the model in its own precision sees 2 other classes" in str(report)


def test_a_folder_that_fills_in_the_meantime_is_not_replaced(model, tmp_path, monkeypatch):
    path = tmp_path / "model"
    export(model, path, "tf_saved_model", X[:8], 1e-2)
    write = runtimes.SavedModel.write

    def slow(self, module, made, quantize):
        write(self, module, made, quantize)
        (path / "thesis.txt").write_text("years of work")

    monkeypatch.setattr(runtimes.SavedModel, "write", slow)
    with pytest.raises(ValueError, match="Expected a file of format='tf_saved_model' to replace. .* something else"):
        export(model, path, "tf_saved_model", X[:8], 1e-2, overwrite=True)
    assert (path / "thesis.txt").read_text() == "years of work" and (path / "saved_model.pb").exists()


def test_a_model_of_several_replicas(tmp_path, in_fresh_process):
    """Each replica of a MirroredStrategy predicts the whole batch."""
    code = """
import keras, numpy, tensorflow as tf
(processor,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras_ttfs
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    inputs = keras.Input((8, 8, 1))
    z = keras.layers.Flatten()(keras_ttfs.TTFSActivation()(inputs))
    model = keras_ttfs.TTFSModel(inputs, keras.layers.Dense(3)(z))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
x, y = numpy.random.default_rng(0).random((40, 8, 8, 1), "float32"), numpy.arange(40) % 3
model.fit(x, y, batch_size=8, verbose=0)
for format, path in {"onnx": "model.onnx", "tf_saved_model": "model"}.items():
    report = keras_ttfs.export(model, f"FOLDER/{path}", format, (x, y))
    assert report.samples == 40 and report.changed_predictions == 0 and report.model_changed_predictions == 0
model.fit(x, y, batch_size=8, verbose=0)
print("trains on")
"""
    assert in_fresh_process(code.replace("FOLDER", str(tmp_path))).endswith("trains on\n")


def test_layers_called_by_the_name_of_their_argument(tmp_path):
    inputs = keras.Input((8, 8, 1))
    z = keras.layers.Flatten()(TTFSActivation(name="in")(inputs=inputs))
    model = TTFSModel(inputs, keras.layers.Dense(3)(inputs=z))
    for format in (*FORMATS, "qonnx"):
        path = tmp_path / f"{format}{SUFFIXES.get(format, '.onnx')}"
        assert export(model, path, format, X[:10]).mismatches == 0
    assert check_equivalence(model, X[:5], verbose=0).equivalent


def test_what_a_format_cannot_hold_is_told(tmp_path):
    inputs = keras.Input((8, 8, 2))
    z = keras.layers.Conv2D(4, 3, groups=2)(TTFSActivation(name="in")(inputs))
    groups = TTFSModel(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(z)))
    for format in ("onnx", "qonnx"):
        with pytest.raises(ValueError, match="Expected a (model that a )?file (of format=|that its runtime reads)"):
            export(groups, tmp_path / "model.onnx", format)
    inputs = keras.Input((8,))
    twice = [TTFSActivation(name=name)(inputs) for name in ("one", "two")]
    model = TTFSModel(inputs, keras.layers.Dense(3)(keras.layers.Concatenate()(twice)))
    with pytest.raises(
        ValueError, match="Expected no two spiking layers with equal thresholds .* layer 'two' is the second"
    ):
        export(model, tmp_path / "model.onnx", "qonnx")
    assert not list(tmp_path.iterdir())
    assert export(model, tmp_path / "model.onnx").mismatches == 0


def test_a_column_of_labels_beside_inputs_of_one_number(tmp_path):
    inputs = keras.Input((1,))
    model = TTFSModel(inputs, keras.layers.Dense(2)(TTFSActivation(name="in")(inputs)))
    x, y = np.linspace(0, 1, 6)[:, None].astype("float32"), np.arange(6)[:, None] % 2
    report = export(model, tmp_path / "model.onnx", data=(x, y))
    assert report.samples == 6 and report.accuracy is not None


def test_random_numbers_go_on_as_without_an_export(model, tmp_path):
    def draws():
        return random.random(), float(keras.layers.Dense(1).kernel_initializer((1, 1))[0, 0])

    keras.utils.set_random_seed(3)
    wanted = draws()
    keras.utils.set_random_seed(3)
    export(model, tmp_path / "model.onnx", data=X[:5], tolerance=1e-2)
    check_equivalence(model, X[:2], verbose=0)
    assert draws() == wanted


def test_nothing_of_a_runtime_is_imported_before_it_is_needed():
    packages = "tf2onnx", "onnx", "onnxruntime", "ai_edge_litert", "qonnx", "nir"
    code = f"import sys, keras_ttfs, keras_ttfs.snn; assert not [p for p in {packages} if p in sys.modules]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bytes_as_inputs(tmp_path):
    inputs = keras.Input((8, 8, 1), dtype="uint8")
    z = TTFSActivation(name="in")(keras.layers.Rescaling(1 / 255)(inputs))
    model = TTFSModel(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(z)))
    for format in FORMATS:
        report = export(model, path_for(tmp_path, format), format)
        assert report.mismatches == 0 and report.spikes > 1000


def test_softmax_and_what_the_file_returns(model, tmp_path):
    import onnxruntime

    inputs = keras.Input((8, 8, 1))
    probabilities = TTFSModel(inputs, keras.layers.Softmax()(model(inputs)))
    path = tmp_path / "model.onnx"
    export(probabilities, path, data=X[:32], tolerance=1e-2)
    session = onnxruntime.InferenceSession(str(path))
    assert [output.name for output in session.get_outputs()][0] == "output"
    found = dict(zip((output.name for output in session.get_outputs()), session.run(None, {"inputs": X[:5]})))
    np.testing.assert_allclose(found.pop("output").sum(-1), 1, rtol=1e-5)
    simulated = SpikingNetwork.from_model(model).run(X[:5], verbose=0).spike_times
    assert found.keys() == {f"spike_time_{name}" for name in simulated}
    for name, times in simulated.items():
        assert np.mean(found[f"spike_time_{name}"] != times) < 0.01 and found[f"spike_time_{name}"].dtype == "int32"


def test_quantized_weights_say_what_they_cost(model, tmp_path):
    path = tmp_path / "model.tflite"
    report = export(model, path, "litert", (X[:300], Y[:300]), tolerance=1.0, quantize="dynamic_range")
    print(report)
    whole = export(model, tmp_path / "whole.tflite", "litert", (X[:300], Y[:300]), tolerance=1e-3)
    assert report.accuracy["keras"] == whole.accuracy["keras"] and "quantized (dynamic_range)" in str(report)
    assert "accuracy" in str(report) and f"{report.file_spikes:,.1f} (file)" in str(report)
    # Layers of so few weights stay as they are, so a larger one is needed to see a difference.
    inputs = keras.Input((8, 8, 1))
    z = keras.layers.Dense(256)(keras.layers.Flatten()(TTFSActivation(name="in")(inputs)))
    wide = trained(TTFSModel(inputs, keras.layers.Dense(10)(TTFSActivation(name="hid")(z))))
    with pytest.raises(EquivalenceError, match="in layer 'hid'"):
        export(wide, path, "litert", X[:300], 1e-3, quantize="dynamic_range", overwrite=True)
    sizes = {
        quantize: export(wide, path, "litert", X[:300], 1.0, quantize=quantize, overwrite=True).size
        for quantize in (None, "dynamic_range")
    }
    assert sizes["dynamic_range"] < 0.5 * sizes[None]


@pytest.mark.parametrize(
    ("options", "quantizer"),
    [
        ({"steps_per_octave": 1, "time_window": 12}, "FloatQuant"),
        ({"steps_per_octave": 1, "time_window": 15, "z_max_0": 2.0}, "FloatQuant"),
        ({"steps_per_octave": 1, "time_window": 12, "rounding": "nearest"}, "MultiThreshold"),
        ({"steps_per_octave": 3, "time_window": 16}, "MultiThreshold"),
        ({"time_window": 300, "tau_0": 90.0}, "MultiThreshold"),
    ],
)
def test_qonnx_has_quantizers_of_equal_spike_times(tmp_path, options, quantizer):
    keras.utils.set_random_seed(0)
    vgg = applications.vgg6(**options, width=0.25, gamma_0=0.5, bn_momentum=0.1, pooling="potential")
    for _ in range(3):  # Normalised, so that neurons fire in every layer.
        vgg(X[:100], training=True)
    report = export(vgg, tmp_path / "model.onnx", "qonnx", X[:20])
    print(report)
    assert report.mismatches == report.changed_predictions == 0 and report.operations[quantizer] == 6
    assert min(row.spikes for row in report.layers) > 20
    assert ("Log" in report.operations, "Gather" in report.operations) == (False, quantizer == "MultiThreshold")
    assert check_export(vgg, tmp_path / "model.onnx", "qonnx", X[:3]).samples == 3


def test_what_the_executor_does_just_below_a_power_of_2(tmp_path):
    """Known, and told in `qonnx_files`: FloatQuant's logarithm rounds up there. Everywhere else it is exact."""
    inputs = keras.Input((1,))
    model = TTFSModel(inputs, keras.layers.Dense(2)(TTFSActivation(12, base=2, steps_per_octave=1, name="in")(inputs)))
    powers = (2.0 ** -np.arange(12)).astype("float32")
    near = np.concatenate([powers, np.nextafter(powers, np.float32(2)), powers * np.float32(0.999)])[:, None]
    assert export(model, tmp_path / "model.onnx", "qonnx", near).mismatches == 0
    below = np.nextafter(powers[1:], np.float32(0))[:, None]
    with pytest.raises(EquivalenceError, match="Expected the spikes of the model"):
        check_export(model, tmp_path / "model.onnx", "qonnx", below)


def test_qonnx_of_spike_times_and_windows(model, tmp_path):
    report = export(model, tmp_path / "model.onnx", "qonnx", X[:10], tolerance=1e-2)
    assert report.operations["MultiThreshold"] == 4 and report.changed_predictions == 0


def changed(data, **fields):
    """NIR data with other events."""
    import nir

    nodes = {}
    for name, node in data.nodes.items():
        events = node.observables["spikes"]
        new = {field: make(events) for field, make in fields.items()}
        nodes[name] = nir.NIRNodeData({"spikes": dataclasses.replace(events, **new)})
    return nir.NIRGraphData(nodes)


def test_spike_trains_as_nir_data_come_back(model, tmp_path):
    nir = pytest.importorskip("nir")
    network = SpikingNetwork.from_model(model)
    result = network.run(X[:7], verbose=0)
    for dt in (1.0, 1e-3):
        data = result.to_nir(dt)
        path = str(tmp_path / f"spikes_{dt}.nir")
        nir.write_data(path, data)
        read = nir.read_data(path)
        found = network.spike_times_from_nir(read, dt)
        assert found.keys() == result.spike_times.keys()
        for name, times in result.spike_times.items():
            np.testing.assert_array_equal(found[name], times)
            assert found[name].dtype == times.dtype
            events = read.nodes[name].observables["spikes"]
            assert (events.idx >= 0).sum() == (times < result.phases[name].time_window).sum()
            assert np.all(np.diff(np.where(np.isinf(events.time), 1e9, events.time), axis=1) >= 0)
            # The grid of nir's own, neuron by neuron and step by step.
            if dt == 1.0:
                grid = events.to_time_gridded(1.0).data
                fires = times.reshape(7, -1) < result.phases[name].time_window
                np.testing.assert_array_equal(grid.any(axis=1), fires)
                at = grid.argmax(axis=1) - result.phases[name].start
                np.testing.assert_array_equal(at[fires], times.reshape(7, -1)[fires])
    data = result.to_nir(1.0)
    fewer = network.run(X[:5], verbose=0).to_nir(1.0)
    mixed = nir.NIRGraphData({**data.nodes, "conv": fewer.nodes["conv"]})
    for wrong, message in (
        (result.to_nir(0.7), "Expected a recording of .* steps of 1.0 s. Received: t_max="),
        (changed(data, time=lambda events: events.time + 0.5), "Expected spikes of layer .* at whole steps"),
        (
            changed(data, idx=lambda events: np.where(events.idx == 3, 4, events.idx)),
            "Expected one spike at most of each",
        ),
        (
            changed(data, idx=lambda events: np.where(events.idx == 3, 9999, events.idx)),
            "Expected one spike at most of each",
        ),
        (nir.NIRGraphData(dict.fromkeys(data.nodes, nir.NIRNodeData({}))), "Expected events 'spikes' of layer"),
        (changed(data, t_max=lambda events: None), "Expected t_max of layer"),
        (changed(data, idx=lambda events: events.idx.astype("float64")), "Expected idx .* integers"),
        (mixed, "Expected as many samples of every layer. Received: "),
    ):
        with pytest.raises(ValueError, match=message):
            network.spike_times_from_nir(wrong)
    with pytest.raises(ValueError, match="Expected NIR data of the layers"):
        network.spike_times_from_nir(nir.NIRGraphData({}))
    with pytest.raises(ValueError, match=r"Received: one of run\(spike_times=False\)"):
        network.run(X[:2], spike_times=False, verbose=0).to_nir()
    with pytest.raises(ValueError, match="No node of NIR has a threshold that falls"):
        export(model, tmp_path / "model.nir", "nir")


def unsupported():
    inputs = keras.Input((8, 8, 1))
    return TTFSModel(
        inputs, keras.layers.Dense(3)(keras.layers.LayerNormalization(name="own")(TTFSActivation()(inputs)))
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (unsupported, r"Expected layers of .* Received: layer 'own' \(LayerNormalization\)"),
        (lambda: in_dtype(small(), "float64"), r"Expected layers in float32 .* Received: layer '\w+' in float64"),
        (
            lambda: SpikingNetwork.from_model(small(), early_firing=4),
            "Expected a keras.Model. Received: a SpikingNetwork with early_firing=4",
        ),
        (lambda: SpikingNetwork.from_model(small()), "Expected a keras.Model. Received: a SpikingNetwork."),
    ],
)
def test_models_that_no_file_can_say(tmp_path, make, message):
    for format in FORMATS:
        with pytest.raises(ValueError, match=message):
            export(make(), path_for(tmp_path, format), format)
    assert not list(tmp_path.iterdir())


def test_paths_that_are_refused(model, tmp_path):
    for format, suffix in SUFFIXES.items():
        with pytest.raises(ValueError, match=r"Expected a path in a folder that can be written. Received: path='/nowh"):
            export(model, f"/nowhere/model{suffix}", format)
        if suffix:
            with pytest.raises(ValueError, match=rf"Expected a path that ends in {suffix} with format='{format}'"):
                export(model, tmp_path / "model.bin", format)
        there = path_for(tmp_path, format, "there")
        (there.mkdir if not suffix else there.touch)()
        with pytest.raises(ValueError, match="Expected a path where nothing is. .* overwrite=True"):
            export(model, there, format)
    # A folder that is no model is never replaced.
    with pytest.raises(ValueError, match="Expected a file of format='tf_saved_model' to replace. .* something else"):
        export(model, tmp_path / "there", "tf_saved_model", overwrite=True)
    with pytest.raises(ValueError, match="Expected quantize=None with format='onnx'"):
        export(model, tmp_path / "model.onnx", quantize="dynamic_range")
    with pytest.raises(ValueError, match="Expected the path of a file that export wrote. .* nothing there"):
        check_export(model, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("format", "package"),
    [("onnx", "onnxruntime"), ("onnx", "tf2onnx"), ("onnx", "onnx"), ("litert", "ai_edge_litert"), ("qonnx", "qonnx")],
)
def test_a_missing_runtime_is_named(model, tmp_path, monkeypatch, format, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"Expected the package {package} .* pip install 'keras-ttfs\[export\]'"):
        export(model, tmp_path / f"model{SUFFIXES.get(format, '.onnx')}", format)
    assert not list(tmp_path.iterdir())


def test_a_missing_nir_is_named(model, monkeypatch):
    result = SpikingNetwork.from_model(model).run(X[:2], verbose=0)
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ImportError, match=r"Expected the package nir .* pip install 'keras-ttfs\[export\]'"):
        result.to_nir()


@pytest.mark.slow
@pytest.mark.skipif(not SHEETS.is_dir(), reason="no CIFAR-10 beside the project")
@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_fast_vgg_on_real_images(tmp_path, format):
    from PIL import Image

    columns = [np.asarray(Image.open(SHEETS / f"test_00{i}.webp").convert("RGB")) for i in range(2)]
    images = (np.concatenate(columns).reshape(-1, 32, 32, 3) / 255).astype("float32")
    labels = np.load(SHEETS / "test_labels.npy")[:1000]
    report = export(
        applications.fast_vgg(weights="cifar10"), path_for(tmp_path, format), format, (images, labels), tolerance=1e-3
    )
    print(report)
    assert report.samples == 1000 and report.changed_predictions == 0
    assert 0.9 < report.accuracy["file"] == report.accuracy["keras"]
    assert report.mismatches < 1e-3 * report.spikes
