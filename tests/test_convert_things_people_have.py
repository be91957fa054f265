"""Data and layers that people have: data sets and generators, ReLU6, preprocessing, one-dimensional layers, pooling first."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs import convert, convert_t2fsnn, quantization_report
from keras_ttfs.snn import CodedNetwork, SpikingNetwork, check_equivalence, codings

# Every layer in every network takes seconds.
pytestmark = pytest.mark.slow

L = keras.layers
X = np.random.default_rng(0).uniform(size=(12, 8, 8, 2)).astype("float32")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[4 * index : 4 * index + 4], np.zeros(4)


def relu_model():
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(3, 3, activation="relu"), L.MaxPooling2D(), L.Flatten(), L.Dense(4)]
    return keras.Sequential([keras.Input(X.shape[1:]), *layers])


DATA = {
    "tensor": lambda: tf.constant(X),
    "data set of batches": lambda: tf.data.Dataset.from_tensor_slices(X).batch(5),
    "data set of samples": lambda: tf.data.Dataset.from_tensor_slices(X),
    "data set of pairs": lambda: tf.data.Dataset.from_tensor_slices((X, np.zeros(12))).batch(5),
    "PyDataset": lambda: Batches(),
    "generator": lambda: (X[at : at + 4] for at in (0, 4, 8)),
    "generator of pairs": lambda: ((X[at : at + 4], np.zeros(4)) for at in (0, 4, 8)),
    "list of batches": lambda: [X[:5], X[5:]],
    "list of samples": lambda: list(X),
    "pair": lambda: (X, np.zeros(12)),
}


@pytest.mark.parametrize("kind", DATA)
def test_data_of_every_kind_counts_as_its_array(kind):
    model, data = relu_model(), DATA[kind]
    converted = convert(model, data=data())
    for ours, theirs in zip(converted.get_weights(), convert(model, data=X).get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    assert quantization_report(converted, data()) == quantization_report(converted, X)
    network = SpikingNetwork.from_model(converted)
    np.testing.assert_array_equal(network.run(data()).logits, network.run(X).logits)
    assert check_equivalence(converted, data(), modes="event").equivalent
    coded = CodedNetwork.from_model(model, codings.RateCoding(), data())
    np.testing.assert_array_equal(coded.run(data(), time_steps=3).logits, coded.run(X, time_steps=3).logits)


def test_data_of_every_kind_for_t2fsnn():
    ours = convert_t2fsnn(relu_model(), DATA["data set of pairs"]())
    np.testing.assert_array_equal(ours.encoders[1].tau, convert_t2fsnn(relu_model(), X).encoders[1].tau)


WRONG = {
    "endless": lambda: tf.data.Dataset.from_tensor_slices(X).batch(4).repeat(),
    "empty data set": lambda: tf.data.Dataset.from_tensor_slices(X[:0]).batch(4),
    "empty generator": lambda: iter(()),
    "none": lambda: None,
    "dict": lambda: {"x": X},
    "data set of dicts": lambda: tf.data.Dataset.from_tensor_slices({"x": X}).batch(4),
    "text": lambda: np.full(X.shape, "a"),
    "a word": lambda: "abc",
    "complex": lambda: X.astype(complex),
    "objects": lambda: X.astype(object),
    "ragged": lambda: [X[0], X[1, :4]],
    "a number": lambda: 5.0,
    "rank 1": lambda: X.ravel(),
    "one sample": lambda: X[0],
    "nan": lambda: X * np.nan,
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_data_are_refused(kind):
    model = relu_model()
    converted = convert(model)
    for use in (
        lambda x: quantization_report(converted, x),
        SpikingNetwork.from_model(converted).run,
        lambda x: check_equivalence(converted, x),
        lambda x: CodedNetwork.from_model(model, codings.RateCoding(), x),
        lambda x: convert_t2fsnn(model, x),
        *(() if kind == "none" else (lambda x: convert(model, data=x),)),
    ):
        with pytest.raises(ValueError, match="(?s)^Expected .*Received: "):
            use(WRONG[kind]())


def test_images_in_0_to_255_are_refused_where_intensities_are_expected():
    images = np.random.default_rng(0).integers(0, 256, X.shape).astype("uint8")
    with pytest.raises(ValueError, match=r"intensities in \[0, 1\].*values in \[0, 255\]"):
        convert(relu_model(), data=images)
    for x in (images, images.astype("float32")):
        with pytest.raises(ValueError, match="images in 0..255 need dividing by 255. Received: values up to 255"):
            SpikingNetwork.from_model(convert(relu_model())).run(x)


def nearly(source, x, T=3000, atol=0.02, **options):
    """Whether the converted model gives the ReLU model's numbers, and spikes those of the converted model."""
    converted = convert(source, time_window=T, tau_0=T / 12, rounding="nearest", data=x, **options)
    expected = source.predict(x, verbose=0)
    np.testing.assert_allclose(converted.predict(x, verbose=0), expected, atol=atol * np.abs(expected).max())
    assert check_equivalence(convert(source, data=x, **options), x, modes="event").equivalent
    return converted


def test_a_rescaling_of_images_stands_in_front_of_the_encoder():
    images = np.random.default_rng(0).integers(0, 256, X.shape).astype("uint8")
    inputs = keras.Input(X.shape[1:], dtype="uint8")
    x = L.RandomFlip()(L.Rescaling(1 / 255)(inputs))
    x = L.Flatten()(L.Conv2D(3, 3, activation="relu")(x))
    model = keras.Model(inputs, L.Dense(4)(x))
    converted = nearly(model, images)
    network = SpikingNetwork.from_model(converted)
    assert network.input_encoders == ("input_activation",)
    with pytest.raises(ValueError, match=r"values in \[0.0, 255.0\]"):
        convert(keras.Sequential([keras.Input((2,)), L.Rescaling(2 / 255, -1), L.Dense(3, "relu"), L.Dense(2)]),
                data=np.array([[0.0, 255.0]]))  # fmt: skip


def test_normalization_stands_behind_the_encoder():
    norm = L.Normalization()
    norm.adapt(X)
    model = keras.Sequential([keras.Input(X.shape[1:]), norm, L.Conv2D(3, 3), L.ReLU(), L.Flatten(), L.Dense(4)])
    nearly(model, X)
    nearly(model, X * 5 - 2, input_coding="analog")
    coded = CodedNetwork.from_model(model, codings.RateCoding(), X)
    np.testing.assert_allclose(coded.run(X, time_steps=2000).logits, model.predict(X, verbose=0), atol=0.02)


SIX = {
    "layer": lambda: L.ReLU(6.0),
    "other": lambda: L.ReLU(max_value=0.7),
    "name": lambda: L.Activation("relu6"),
    "function": lambda: keras.activations.relu6,
}


@pytest.mark.parametrize("kind", SIX)
def test_relu_that_is_cut_off(kind):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(X.shape[1:])
    x = SIX[kind]()(L.Conv2D(3, 3, kernel_initializer="random_normal", name="c")(inputs))
    model = keras.Model(inputs, L.Dense(4)(L.Flatten()(x)))
    model.get_layer("c").set_weights([100 * model.get_layer("c").get_weights()[0], np.zeros(3)])
    converted = nearly(model, X)
    limit = 0.7 if kind == "other" else 6.0
    original = np.abs(model.get_layer("c").get_weights()[0]).max()
    scale = original / np.abs(converted.get_layer("c").get_weights()[0]).max()
    assert scale * float(converted.encoders[1].z_max) == pytest.approx(limit, rel=0.01)
    assert float(convert(model).encoders[1].z_max) == pytest.approx(limit)
    for coding in (codings.RateCoding(), codings.TemporalSwitchCoding(1000)):
        steps = None if coding.time_window else 1000
        coded = CodedNetwork.from_model(model, coding, X).run(X, time_steps=steps)
        expected = model.predict(X, verbose=0)
        np.testing.assert_allclose(coded.logits, expected, atol=0.02 * np.abs(expected).max())
    with pytest.raises(ValueError, match="without max_value.*BurstCoding"):
        CodedNetwork.from_model(model, codings.BurstCoding(), X)
    with pytest.raises(ValueError, match="without max_value"):
        convert_t2fsnn(model, X)


@pytest.mark.parametrize("pool", [L.MaxPooling2D, L.GlobalMaxPooling2D])
def test_max_pooling_in_front_of_a_relu(pool):
    layers = [L.Conv2D(3, 3, name="c"), pool(name="p"), L.Flatten(), L.ReLU(name="r"), L.Dense(4)]
    model = keras.Sequential([keras.Input(X.shape[1:]), *layers])
    converted = nearly(model, X)
    assert [encoder.name for encoder in converted.encoders] == ["input_activation", "r"]
    coded = CodedNetwork.from_model(model, codings.RateCoding(), X)
    # A pooling hears a spike too many whenever another neuron of its window takes the lead.
    np.testing.assert_allclose(coded.run(X, time_steps=3000).logits, model.predict(X, verbose=0), atol=0.1)
    norm = keras.Sequential(
        [keras.Input(X.shape[1:]), L.Conv2D(3, 3), pool(name="p"), L.BatchNormalization(), L.ReLU()]
    )
    with pytest.raises(ValueError, match="'p'"):
        convert(keras.Sequential([norm, L.Flatten(), L.Dense(2)]))


ONE_DIMENSIONAL = {
    "Conv1D": lambda: [L.Conv1D(3, 3, padding="causal"), L.ReLU(), L.MaxPooling1D()],
    "DepthwiseConv1D": lambda: [L.DepthwiseConv1D(3, depth_multiplier=2), L.ReLU(), L.AveragePooling1D(2, 1, "same")],
    "SeparableConv1D": lambda: [L.SeparableConv1D(3, 3), L.BatchNormalization(), L.ReLU(), L.UpSampling1D()],
    "Conv1DTranspose": lambda: [L.Conv1DTranspose(3, 3, 2), L.ReLU(), L.ZeroPadding1D(), L.Cropping1D((0, 3))],
    "GlobalMaxPooling1D": lambda: [L.Conv1D(3, 3), L.ReLU(), L.GlobalMaxPooling1D()],
    "GlobalAveragePooling1D": lambda: [L.Conv1D(3, 3), L.ReLU(), L.Permute((2, 1)), L.GlobalAveragePooling1D()],
    "Dense": lambda: [L.Dense(5), L.ReLU()],
}
TWO_DIMENSIONAL = {
    "Conv2DTranspose": lambda: [L.Conv2DTranspose(3, 3, 2, "same"), L.BatchNormalization(), L.ReLU(), L.Cropping2D(1)],
    "UpSampling2D": lambda: [L.Conv2D(3, 3), L.ReLU(), L.UpSampling2D(), L.Permute((3, 1, 2))],
}


@pytest.mark.parametrize("kind", [*ONE_DIMENSIONAL, *TWO_DIMENSIONAL])
def test_layers_in_convert_run_and_energy(kind):
    keras.utils.set_random_seed(0)
    x = X if kind in TWO_DIMENSIONAL else X[:, 0]
    hidden = {**ONE_DIMENSIONAL, **TWO_DIMENSIONAL}[kind]()
    model = keras.Sequential([keras.Input(x.shape[1:]), *hidden, L.Flatten(), L.Dense(4)])
    nearly(model, x)
    coded = CodedNetwork.from_model(model, codings.RateCoding(), x)
    np.testing.assert_allclose(coded.run(x, time_steps=3000).logits, model.predict(x, verbose=0), atol=0.03)


def own_initializer(shape, dtype=None):
    return keras.random.normal(shape, stddev=0.3, seed=1)


def own_penalty(weights):
    return 0.1 * keras.ops.sum(weights**2)


def test_initializers_and_regularizers_of_ones_own():
    options = {"kernel_initializer": own_initializer, "kernel_regularizer": own_penalty, "bias_constraint": lambda w: w}
    model = keras.Sequential([keras.Input((6,)), L.Dense(5, "relu", **options), L.Dense(3, **options)])
    x = X[:, 0, :3].reshape(12, -1)
    converted = nearly(model, x)
    assert float(sum(converted.losses)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "VGG16", "MobileNet", "ResNet50"])
def test_networks_of_keras_applications(name):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None
    )
    x = rng.uniform(size=(8, 32, 32, 3)).astype("float32")
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.gamma.assign(rng.uniform(0.7, 1.3, layer.gamma.shape))
            layer.beta.assign(rng.normal(0, 0.2, layer.beta.shape))
            layer.momentum = 0.0
    model(x, training=True)  # The statistics become those of x.
    expected = model.predict(x, verbose=0)
    errors = []
    # Two of them show that the error falls. A deep network takes half a minute for each.
    coarser = (32_000,) if name == "MobileNetV2" else ()
    for time_window in (*coarser, 256_000):
        options = {"time_window": time_window, "tau_0": time_window / 12, "rounding": "nearest"}
        converted = convert(model, data=x, **options)
        found = converted.predict(x, verbose=0)
        errors.append(np.abs(found - expected).max() / np.abs(expected).max())
    # Random networks this deep make much of a small difference. It falls as the levels come closer.
    assert errors[-1] < 0.04 and (not coarser or errors[1] < max(0.3 * errors[0], 1e-3)), errors
    if name != "MobileNetV2":
        return
    keras.utils.set_random_seed(0)
    with_softmax = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), classes=10)
    with_softmax.set_weights(model.get_weights())
    found = convert(with_softmax, data=x, **options).predict(x, verbose=0)
    np.testing.assert_allclose(found, with_softmax.predict(x, verbose=0), atol=0.05)
