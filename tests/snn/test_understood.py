"""What is no layer that we know is refused by name, or computed right: the one rule of `understood`."""

import ctypes
import gc

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ttfs import TTFSActivation, convert, energy, quantization_report
from keras_ttfs.snn import CodedNetwork, SpikingNetwork, check_equivalence, codings, plots, understood

L = keras.layers
X = np.random.default_rng(0).uniform(size=(8, 6)).astype("float32")


def relu(values):
    return keras.ops.clip(values, 0, 0.2)


def softmax(values):
    return values


def ttfs(*layers, shape=(6,)):
    return keras.Sequential([keras.Input(shape), TTFSActivation(), *layers])


def twin(*layers):
    return keras.Sequential([keras.Input((6,)), L.Dense(5), *layers])


class Doubled(L.ReLU):
    def call(self, values):
        return 2 * super().call(values)


class Untouched(L.ReLU):
    pass


class AlwaysDrops(L.Dropout):
    def call(self, values, training=None):
        return super().call(values, training=True)


class LargerDense(L.Dense):
    def call(self, values, training=None):
        return super().call(values) + 1


class LargerSequential(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return 3 * super().call(inputs, training=training, mask=mask)


class LargerModel(keras.Model):
    def call(self, inputs, training=None, mask=None):
        return 3 * super().call(inputs, training=training, mask=mask)


class OwnPredict(keras.Model):
    def predict_step(self, data):
        return 3 * super().predict_step(data)


def patched(layer):
    layer.call = lambda values, training=None: values * 2
    return layer


def patched_convolution():
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), TTFSActivation(), L.Conv2D(2, 3, name="c"), L.Flatten(), L.Dense(2)]
    )
    model.get_layer("c").convolution_op = lambda values, kernel: 0 * values[:, 1:-1, 1:-1]
    return model


def quantized():
    model = ttfs(L.Dense(5, name="q"), TTFSActivation(), L.Dense(3))
    model.get_layer("q").quantize("int8")
    return model


def called_with_mask():
    inputs = keras.Input((6,))
    mask = keras.ops.greater(inputs, 0.5)
    return keras.Model(inputs, L.Dense(2)(L.BatchNormalization(name="b")(TTFSActivation()(inputs), mask=mask)))


def nested():
    inner = LargerSequential([keras.Input((6,)), L.Dense(6)])
    return ttfs(inner, TTFSActivation(), L.Dense(2))


REFUSED = {
    "dropout": (lambda: ttfs(AlwaysDrops(0.5, name="d"), L.Dense(2)), "'d' .AlwaysDrops.*subclass of Dropout"),
    "dense": (lambda: ttfs(LargerDense(4, name="d"), TTFSActivation(), L.Dense(2)), "'d' .LargerDense"),
    "softmax by name": (
        lambda: ttfs(L.Dense(4, activation=softmax, name="d")),
        "'d' with activation 'softmax of module",
    ),
    "patched": (lambda: ttfs(patched(L.Dense(6, name="d")), L.Dense(2)), "the methods of Dense.*'d'.* its own call"),
    "patched part": (patched_convolution, "'c' .Conv2D. with its own convolution_op"),
    "nested model": (nested, "its graph of layers.*with its own call"),
    "quantized": (quantized, "not quantized.*'q'.*'int8'"),
    "mask": (called_with_mask, "'greater' .Greater"),
    "integers": (lambda: ttfs(L.Flatten(dtype="int32", name="f"), L.Dense(2)), "'f'.*dtype 'int32'"),
    "masking": (lambda: ttfs(L.Masking(name="m"), L.Dense(2)), "'m' .Masking"),
    "lambda": (lambda: ttfs(L.Lambda(lambda v: 2 * v, name="l"), L.Dense(2)), "'l' .Lambda"),
    "spectral": (lambda: ttfs(L.SpectralNormalization(L.Dense(3), name="s"), L.Dense(2)), "'s' .SpectralNorm"),
    "crop": (lambda: ttfs(L.RandomCrop(4, 4, name="r"), L.Flatten(), L.Dense(2), shape=(6, 6, 1)), "'r' .RandomCrop"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_change_numbers_is_refused_by_name(case):
    make, message = REFUSED[case]
    model = make()
    for read in (
        SpikingNetwork.from_model,
        lambda model: check_equivalence(model, np.zeros((1, *model.input_shape[1:]))),
    ):
        with pytest.raises(ValueError, match=f"(?s)^Expected .*Received.*{message}|^Expected.*{message}"):
            read(model)


def test_models_that_predict_something_else_are_refused():
    source = ttfs(L.Dense(2))
    with pytest.raises(ValueError, match="with its own predict_step"):
        SpikingNetwork.from_model(OwnPredict(source.inputs, source.outputs))
    with pytest.raises(ValueError, match="LargerModel. with its own call"):
        SpikingNetwork.from_model(LargerModel(source.inputs, source.outputs))
    source.call = lambda inputs, training=None, mask=None: inputs
    with pytest.raises(ValueError, match="with its own call"):
        SpikingNetwork.from_model(source)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (L.Activation(relu, name="r"), "'r' with activation 'relu of module"),
        (Doubled(name="r"), "'r' .Doubled"),
        (Untouched(name="r"), "'r' .Untouched.*subclass of ReLU"),
        (L.ReLU(threshold=0.1, name="r"), "'r' with activation 'ReLU with negative_slope, threshold or"),
        (L.Dense(4, activation=L.ReLU(negative_slope=0.1), name="r"), "'r' with activation 'ReLU with options"),
    ],
)
def test_only_relu_is_relu(layer, message):
    model = twin(layer, L.Dense(3))
    for read in (lambda: convert(model), lambda: CodedNetwork.from_model(model, codings.RateCoding(), X)):
        with pytest.raises(ValueError, match=f"(?s)^Expected.*Received.*{message}"):
            read()


@pytest.mark.parametrize("activation", [keras.activations.relu, keras.ops.relu, L.ReLU(), "relu"])
def test_relu_by_whatever_object(activation):
    model = keras.Sequential([keras.Input((6,)), L.Dense(5, activation=activation), L.Dense(3)])
    converted = convert(model, data=X, time_window=2000, tau_0=200.0)
    np.testing.assert_allclose(converted.predict(X, verbose=0), model.predict(X, verbose=0), atol=0.03)


@pytest.mark.parametrize("function", [keras.activations.relu, keras.ops.relu])
def test_relu_as_a_function_of_tensors(function):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(3)(function(L.Dense(5)(inputs))))
    converted = convert(model, data=X, time_window=2000, tau_0=200.0)
    np.testing.assert_allclose(converted.predict(X, verbose=0), model.predict(X, verbose=0), atol=0.03)
    with pytest.raises(ValueError, match="keras_ttfs.convert"):
        SpikingNetwork.from_model(model)


def test_lora_computes_with_the_effective_kernel():
    rng = np.random.default_rng(0)
    for activation in (L.ReLU(), TTFSActivation()):
        model = keras.Sequential([keras.Input((6,)), L.Dense(8), activation, L.Dense(2)])
        model.layers[0].enable_lora(2)
        model.layers[0].lora_kernel_b.assign(rng.normal(size=(2, 8)))
        if isinstance(activation, TTFSActivation):
            np.testing.assert_allclose(
                SpikingNetwork.from_model(model).run(X).logits, model.predict(X, verbose=0), atol=1e-5
            )
            assert check_equivalence(model, X).equivalent
        else:
            converted = convert(model, data=X, time_window=2000, tau_0=200.0)
            np.testing.assert_allclose(converted.predict(X, verbose=0), model.predict(X, verbose=0), atol=0.05)


def test_training_is_what_predict_says():
    inputs = keras.Input((6,))
    x = L.Dropout(0.5)(TTFSActivation()(inputs), training=True)
    x = L.BatchNormalization()(L.Dense(4)(x), training=True)
    report = check_equivalence(keras.Model(inputs, L.Dense(3)(TTFSActivation()(x))), X)
    assert report.equivalent and report.model_disagreements == 0


@pytest.mark.parametrize("kind", understood.NOTHING_AT_INFERENCE)
def test_nothing_at_inference(kind):
    arguments = {
        L.Identity: (),
        L.ActivityRegularization: (0.1,),
        L.RandomFlip: (),
        L.RandomTranslation: (0.3, 0.3),
    }.get(kind, (0.3,))
    x = np.random.default_rng(0).normal(scale=300, size=(2, 5, 5, 3)).astype("float32")
    x = x[:, 0] if kind is L.SpatialDropout1D else x
    np.testing.assert_array_equal(
        keras.Sequential([keras.Input(x.shape[1:]), kind(*arguments)]).predict(x, verbose=0), x
    )


def test_a_disagreement_of_predict_is_reported(monkeypatch):
    model = ttfs(L.Dense(5), TTFSActivation(), L.Dense(3))
    right = type(model).predict_on_batch
    monkeypatch.setattr(keras.Sequential, "predict_on_batch", lambda self, x: 1.0 + right(self, x))
    report = check_equivalence(model, X)
    assert report.mismatches == 0 and report.model_disagreements == 8 and not report.equivalent
    with pytest.raises(AssertionError, match="Expected predict to return what the graph of layers gives"):
        report.check()


@pytest.mark.slow
def test_checks_keep_no_memory():
    model = ttfs(L.Dense(5), TTFSActivation(), L.Dense(3))

    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda size: None)

    def resident():
        """[MB], without what the allocator keeps for later."""
        gc.collect()
        trim(0)
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e6

    for _ in range(20):
        check_equivalence(model, X)
    before = resident()
    for _ in range(60):
        check_equivalence(model, X)
    # A trace that is kept takes a megabyte.
    assert resident() - before < 10


def test_results_belong_to_their_network():
    model = ttfs(L.Dense(5), TTFSActivation(), L.Dense(3))
    one, other = SpikingNetwork.from_model(model), SpikingNetwork.from_model(model)
    with pytest.raises(ValueError, match="Expected a result of this network. Received: one of another network"):
        energy.report(one, other.run(X))
    assert energy.report(one, one.run(X)).spikes > 0
    with pytest.raises(ValueError, match="own architecture.*shape .4,. in the place of .5,."):
        wrong = SpikingNetwork.from_model(ttfs(L.Dense(4), TTFSActivation(), L.Dense(3)))
        check_equivalence(model, X, network=wrong)
    silent = one.run(X, spike_times=False)
    for draw in (plots.spike_raster, lambda result: result.count_spike_times()):
        with pytest.raises(ValueError, match="Expected a result with spike times"):
            draw(silent)
    for options in ({"sample": 99}, {"neurons_per_layer": 0}, {"sample": "a"}):
        with pytest.raises(ValueError, match="Expected .* Received: "):
            plots.spike_raster(one.run(X), **options)


def test_keywords_and_models_of_convert():
    model = twin(L.ReLU(), L.Dense(2))
    with pytest.raises(
        ValueError, match=r"Expected a keyword of convert. Received: time_windows. Did you mean time_window\?"
    ):
        convert(model, time_windows=8)
    with pytest.raises(ValueError, match="a TTFS model already"):
        convert(convert(model))
    with pytest.raises(ValueError, match="Received: .* without any"):
        convert(keras.Sequential([keras.Input((6,)), L.Dense(3)]))
    with pytest.raises(ValueError, match="without any.*keras_ttfs.convert"):
        quantization_report(model, X)
    for wrong in (X * np.nan, X[:0], [], X.astype(complex), "a", None, {"x": X}):
        with pytest.raises(ValueError, match="^Expected .*Received: "):
            quantization_report(convert(model), wrong)


CHANGES = ("none", "subclass", "patched", "named relu", "model", "lora", "int8")


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), change=st.sampled_from(CHANGES), depth=st.integers(1, 3))
def test_right_or_refused(seed, change, depth):
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input((6,))
    layers = []
    for place in range(depth):
        kind = LargerDense if change == "subclass" and place == 0 else L.Dense
        # A patched layer returns what it gets, of its own size.
        units = 6 if change == "patched" and place == 0 else int(rng.integers(3, 7))
        layers.append(kind(units, activation=relu if change == "named relu" and place == 0 else None))
        x = layers[-1](x)
        x = L.ReLU()(L.BatchNormalization()(x) if rng.integers(2) else x)
        x = L.Dropout(0.5)(x) if rng.integers(2) else x
    model = (LargerModel if change == "model" else keras.Model)(inputs, L.Dense(3)(x))
    if change == "patched":
        patched(layers[0])
    elif change == "lora":
        layers[0].enable_lora(1)
        layers[0].lora_kernel_b.assign(rng.normal(size=layers[0].lora_kernel_b.shape))
    elif change == "int8":
        layers[0].quantize("int8")
    expected = model.predict(X, verbose=0)
    if change in ("none", "lora"):
        converted = convert(model, data=X, time_window=3000, tau_0=250.0, rounding="nearest")
        np.testing.assert_allclose(converted.predict(X, verbose=0), expected, atol=0.02 * np.abs(expected).max() + 1e-6)
        np.testing.assert_allclose(
            SpikingNetwork.from_model(converted).run(X).logits, converted.predict(X, verbose=0), rtol=1e-3, atol=1e-4
        )
    else:
        with pytest.raises(ValueError, match="^Expected .*Received: "):
            convert(model, data=X)


GRAPH_CHANGES = ("none", "none", "subclass", "patched", "named relu", "model", "nested model", "lora")


def random_graph(rng, change):
    """A random ReLU network on images, with one change that alters what it computes."""
    inputs = x = keras.Input((6, 6, 2))
    for place in range(int(rng.integers(1, 4))):
        kind = rng.choice(["conv", "depthwise", "separable", "residual", "beside", "block"])
        first = place == 0
        kind = "block" if change == "nested model" and first else kind
        # An Add of the input itself shares the input's scale, 1: larger sums are clipped, as the report says.
        kind = "conv" if kind == "residual" and first else kind
        activation = relu if change == "named relu" and first else None
        if kind == "depthwise":
            y = L.DepthwiseConv2D(3, padding="same", activation=activation)(x)
        elif kind == "separable":
            y = L.SeparableConv2D(3, 3, padding="same", activation=activation)(x)
        else:
            y = L.Conv2D(x.shape[-1], 3, padding="same", activation=activation)(x)
        y = L.ReLU()(L.BatchNormalization()(y) if rng.integers(2) else y)
        if kind == "residual":
            y = L.ReLU()(L.Add()([L.Conv2D(x.shape[-1], 1)(y), x]))
        elif kind == "beside":
            y = L.Concatenate()([y, L.Conv2D(2, 1, activation="relu")(x)])
        elif kind == "block":
            ends = keras.Input(y.shape[1:])
            nested = LargerModel if change == "nested model" and first else keras.Model
            y = nested(ends, L.ReLU()(L.Conv2D(2, 1)(ends)))(y)
        if rng.integers(2) and y.shape[1] >= 4:
            y = rng.choice([L.MaxPooling2D, L.AveragePooling2D])(2)(y)
        x = L.Dropout(0.5)(y) if rng.integers(2) else y
    x = L.GlobalAveragePooling2D()(x) if rng.integers(2) else L.Flatten()(x)
    hidden = LargerDense(4) if change == "subclass" else L.Dense(x.shape[-1] if change == "patched" else 4)
    outputs = L.Dense(3)(L.ReLU()(hidden(x)))
    model = (LargerModel if change == "model" else keras.Model)(inputs, outputs)
    if change == "patched":
        patched(hidden)
    elif change == "lora":
        hidden.enable_lora(1)
        hidden.lora_kernel_b.assign(rng.normal(size=hidden.lora_kernel_b.shape))
    return model


@pytest.mark.slow
@settings(max_examples=24, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), change=st.sampled_from(GRAPH_CHANGES))
def test_graphs_of_images_are_right_or_refused(seed, change):
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    model = random_graph(rng, change)
    x = rng.uniform(size=(8, 6, 6, 2)).astype("float32")
    if change in ("none", "lora"):
        expected = model.predict(x, verbose=0)
        # Levels a thousandth apart, over several layers.
        converted = convert(model, data=x, time_window=12000, tau_0=1000.0, rounding="nearest")
        ours = converted.predict(x, verbose=0)
        np.testing.assert_allclose(ours, expected, atol=0.03 * np.abs(expected).max() + 1e-6)
        np.testing.assert_allclose(SpikingNetwork.from_model(converted).run(x).logits, ours, rtol=1e-3, atol=1e-4)
    else:
        with pytest.raises(ValueError, match="^Expected .*Received: "):
            convert(model, data=x)


def test_pre_activations_that_are_nan_are_no_silence():
    model = ttfs(L.Dense(5), TTFSActivation(name="h"), L.Dense(3))
    model.layers[1].set_weights([np.full((6, 5), np.nan), np.zeros(5)])
    with pytest.raises(ValueError, match="Expected finite pre-activations. Received: NaN or infinite ones in 'h'"):
        quantization_report(model, X)


def test_lists_of_samples_are_samples():
    model = ttfs(L.Dense(3))
    network = SpikingNetwork.from_model(model)
    expected = network.run(X[:4]).logits
    for data in ([list(X[:2]), list(X[2:4])], [X[:2], X[2:4]], [(X[:2], [0, 1]), (X[2:4], [2, 3])]):
        np.testing.assert_allclose(network.run(data).logits, expected, rtol=1e-6)


def test_images_of_0_to_255_are_refused_behind_a_merge():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(3)(TTFSActivation()(L.Concatenate()([inputs, inputs]))))
    with pytest.raises(ValueError, match="images in 0..255 need dividing by 255. Received: values up to"):
        SpikingNetwork.from_model(model).run(255 * X)
