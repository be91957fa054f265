"""convert: a ReLU model becomes a TTFS model, and the report of what it loses."""

import keras
import numpy as np
import pytest

from keras_ttfs import (
    TKBatchNorm,
    TTFSActivation,
    TTFSModel,
    applications,
    conversion,
    convert,
    convert_t2fsnn,
    quantization_report,
)
from keras_ttfs.snn import SpikingNetwork, check_equivalence
from keras_ttfs.snn.windows import WindowPopulation
from tests import reference

L = keras.layers
X = np.random.default_rng(2).uniform(size=(60, 8, 8, 1)).astype("float32")


def random_weights(model, seed=0):
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, size=weight.shape) for weight in layer.get_weights()])
        elif layer.weights:
            fan = np.prod(layer.get_weights()[0].shape[:-1])
            layer.set_weights([rng.normal(scale=1.5 / np.sqrt(fan), size=w.shape) for w in layer.get_weights()])
    return model


def plain():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(6, 3, activation="relu", name="c"),
            L.MaxPooling2D(),
            L.Flatten(),
            L.Dense(12, name="d"),
            L.ReLU(name="r"),
            L.Dense(4, activation="softmax", name="out"),
        ]
    )


def residual():
    inputs = keras.Input((8, 8, 1))
    x = L.ReLU()(L.BatchNormalization(scale=False)(L.Conv2D(6, 3, padding="same")(inputs)))
    y = L.ReLU()(L.BatchNormalization(center=False)(L.Conv2D(6, 3, padding="same", use_bias=False)(x)))
    x = L.ReLU()(L.Add()([L.Conv2D(6, 3, padding="same")(y), x]))
    y = L.BatchNormalization()(L.AveragePooling2D(2)(x))
    x = L.ReLU()(L.Add()([y, L.AveragePooling2D(2)(x)]))
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x)))


def concatenated():
    inputs = keras.Input((8, 8, 1))
    x = L.SeparableConv2D(5, 3, padding="same", depth_multiplier=2, activation="relu")(inputs)
    a = L.Activation("relu")(L.DepthwiseConv2D(3, padding="same")(x))
    b = L.Conv2D(3, 1, activation="relu")(x)
    x = L.ZeroPadding2D()(L.Concatenate()([a, b]))
    x = L.BatchNormalization()(x)
    x = L.Dropout(0.5)(L.ReLU()(x))
    return keras.Model(inputs, L.Dense(4)(L.Flatten()(x)))


def global_average_of_spikes():
    inputs = keras.Input((8, 8, 1))
    x = L.ReLU()(L.Conv2D(5, 3)(inputs))
    return keras.Model(inputs, L.Softmax()(L.Conv2D(5, 1)(L.GlobalAveragePooling2D(keepdims=True)(x))))


@pytest.mark.slow
@pytest.mark.parametrize("make", [plain, residual, concatenated, global_average_of_spikes])
def test_converted_model_tends_to_the_relu_model_as_the_window_grows(make):
    source = random_weights(make())
    before = [weight.copy() for weight in source.get_weights()]
    expected = source.predict(X, verbose=0)
    errors = []
    for time_window in (16, 64, 1024):
        # The range widens with the window, so that pruning vanishes as well.
        tau_0 = time_window / (3 + 0.004 * time_window)
        model = convert(source, time_window=time_window, tau_0=tau_0, rounding="nearest", data=X)
        errors.append(np.abs(model.predict(X, verbose=0) - expected).max() / np.abs(expected).max())
        assert all(row.clipped < 0.02 for row in quantization_report(model, X))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.012
    assert all((a == b).all() for a, b in zip(before, source.get_weights())), "the source stays as it is"


@pytest.mark.parametrize(
    "make", [plain, *(pytest.param(make, marks=pytest.mark.slow) for make in (residual, concatenated))]
)
def test_converted_model_has_a_spiking_network_with_the_same_spikes(make):
    model = convert(random_weights(make()), time_window=16, data=X)
    assert check_equivalence(model, X[:20]).equivalent


@pytest.mark.slow
def test_layers_and_weights_of_the_converted_model(tmp_path):
    source = random_weights(residual())
    model = convert(source, time_window=20, rounding="nearest", z_max_0=1.5, lambda_tb=0.5, name="mine")
    assert isinstance(model, TTFSModel)
    assert (model.name, model.lambda_tb) == ("mine", 0.5)
    relus = [layer.name for layer in source.layers if isinstance(layer, L.ReLU)]
    assert [encoder.name for encoder in model.encoders] == ["input_activation", *relus]
    for encoder in model.encoders:
        assert (encoder.time_window, encoder.rounding) == (20, "nearest")
        assert float(np.array(encoder.tau)) == pytest.approx(20 / 3.2)
        assert float(encoder.z_max) == pytest.approx(1.5)
    for layer in source.layers:
        if isinstance(layer, L.Conv2D):
            for ours, theirs in zip(model.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        if isinstance(layer, L.BatchNormalization):
            assert isinstance(model.get_layer(layer.name), TKBatchNorm)
    report = quantization_report(model, X)
    assert [row.layer for row in report] == [encoder.name for encoder in model.encoders]
    assert str(report).splitlines()[1].startswith("input_activation")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, np.arange(60) % 4, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


def test_analog_input_is_injected():
    source = random_weights(plain())
    model = convert(source, input_coding="analog", data=X - 0.5)
    assert [encoder.name for encoder in model.encoders] == ["c_activation", "r"]
    assert SpikingNetwork.from_model(model).input_encoders == ()


@pytest.mark.slow
def test_relu_twin_of_our_own_networks():
    relu = random_weights(applications.vgg6(width=0.25, activation="relu"))
    model, plain = convert(relu, data=X), convert(relu)
    twin = applications.vgg6(width=0.25)
    assert [encoder.name for encoder in model.encoders] == [encoder.name for encoder in twin.encoders]
    assert model.neurons == twin.neurons
    # Every layer but the input's has a scale of its own.
    reports = quantization_report(model, X)[1:], quantization_report(plain, X)[1:]
    assert all(ours.clipped != theirs.clipped or ours.pruned != theirs.pruned for ours, theirs in zip(*reports))


def test_report_counts_the_regions_of_a_known_layer():
    model = keras.Sequential([keras.Input((500,)), TTFSActivation(16, 5.0, 1.0, name="a"), L.Dense(2)])
    z = np.random.default_rng(0).normal(0.3, 0.8, size=(20, 500)).astype("float32")
    (row,) = quantization_report(model, z, batch_size=7)
    t = reference.spike_time(z, 5.0, 1.0, 16)
    lowest, highest = np.exp(-(15 - 1.0) / 5.0), np.exp(1.0 / 5.0)
    assert row.silent == pytest.approx((z <= 0).mean())
    assert row.pruned == pytest.approx(((z > 0) & (t == 16)).mean())
    assert row.clipped == pytest.approx((z > highest).mean())
    assert row.silent + row.pruned + row.quantised + row.clipped == pytest.approx(1.0)
    active = z[z > 0].astype("float64")
    assert row.maximum_error == pytest.approx(np.maximum(active - highest, 0).mean(), rel=1e-6)
    assert row.minimum_error == pytest.approx(np.maximum(lowest - active, 0).mean(), rel=1e-6)
    inside = (active >= lowest) & (active <= highest)
    levels = reference.level(reference.spike_time(active, 5.0, 1.0, 16), 5.0, 1.0, 16)
    assert row.precision_error == pytest.approx(np.where(inside, active - levels, 0).mean(), rel=1e-6)


@pytest.fixture(scope="module")
def relu_vgg6(digits):
    x, y = digits
    keras.utils.set_random_seed(0)
    relu = applications.vgg6(width=0.5, activation="relu", bn_momentum=0.9)
    relu.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    relu.fit(x[:1400], y[:1400], epochs=6, batch_size=50, verbose=0)
    return relu


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
def test_calibration_helps_on_digits(rounding, digits, relu_vgg6):
    (x, y), relu = digits, relu_vgg6

    def accuracy(model):
        return (model.predict(x[1400:], verbose=0).argmax(-1) == y[1400:]).mean()

    assert accuracy(relu) > 0.9
    found = {}
    for calibrate in (False, True):
        model = convert(relu, time_window=16, rounding=rounding, data=x[:300], calibrate=calibrate)
        found[calibrate] = accuracy(model)
    # Two standard errors of 397 images: which of them move depends on the processor's order of summation.
    assert found[True] >= accuracy(relu) - 0.027
    assert found[True] > found[False]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            L.Dense(3, activation="gelu", name="d"),
            "Expected ReLU activations. Received: layer 'd' with activation 'gelu'",
        ),
        (L.Activation("tanh", name="t"), "layer 't' with activation 'tanh'"),
        (L.ReLU(threshold=0.5, name="high"), "layer 'high' with activation 'ReLU with negative_slope, threshold or"),
        (L.ReLU(negative_slope=0.1, name="leaky"), "layer 'leaky'"),
        (L.LeakyReLU(name="l"), "Received: layer 'l' .LeakyReLU."),
        (L.LayerNormalization(name="n"), "Received: layer 'n'"),
    ],
)
def test_unsupported_layers_are_named(layer, message):
    model = keras.Sequential([keras.Input((5,)), L.Dense(4, activation="relu"), layer, L.Dense(2)])
    with pytest.raises(ValueError, match=message):
        convert(model)


def test_wrong_arguments():
    source = plain()
    with pytest.raises(
        ValueError, match=r"Expected input_coding to be one of \('ttfs', 'analog'\). Received: input_coding='rate'"
    ):
        convert(source, input_coding="rate")
    with pytest.raises(ValueError, match=r"Expected data of intensities in \[0, 1\] .* values in \[-"):
        convert(source, data=X - 1)
    with pytest.raises(ValueError, match=r"values in \[0, 255\]"):
        convert(source, data=np.uint8([[[[0]] * 8] * 8, [[[255]] * 8] * 8]))
    for batch_size in (0, -1):
        with pytest.raises(ValueError, match="Expected batch_size to be an integer >= 1"):
            convert(source, data=X, batch_size=batch_size)
        with pytest.raises(ValueError, match="Expected batch_size to be an integer >= 1"):
            quantization_report(convert(source), X, batch_size=batch_size)
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="one input and one output"):
        convert(keras.Model(inputs, [L.Dense(2)(inputs), L.Dense(3)(inputs)]))
    with pytest.raises(ValueError, match="Write keras.layers.Add"):
        convert(keras.Model(inputs, L.Dense(2)(L.ReLU()(inputs + inputs))))
    with pytest.raises(ValueError, match="Expected time_window to be an integer"):
        convert(source, time_window=0)


@pytest.mark.slow
def test_names_that_several_layers_bear():
    def block(name, features):
        layers = [L.Conv2D(3, 3, padding="same", activation="relu", name="conv"), L.ReLU(name="input_activation")]
        return keras.Sequential([keras.Input((8, 8, features)), *layers], name=name)

    inputs = keras.Input((8, 8, 1))
    relu = L.ReLU(name="re_lu")
    x = block("two", 3)(block("one", 1)(inputs))
    x = relu(L.Dense(4, name="re_lu_1")(relu(L.Flatten()(x))))
    source = random_weights(keras.Model(inputs, L.Dense(3)(x)))
    model = convert(source, time_window=2000, tau_0=200.0, data=X)
    report = quantization_report(model, X)
    assert len({row.layer for row in report}) == len(report) == 7
    np.testing.assert_allclose(model.predict(X, verbose=0), source.predict(X, verbose=0), atol=0.05)
    assert len(convert_t2fsnn(source, X).encoders) == 7


@pytest.mark.parametrize("kind", [L.BatchNormalization, TKBatchNorm])
@pytest.mark.parametrize("without", ["scale", "center"])
def test_batch_normalisation_without_scale_or_shift(kind, without):
    norm = kind(**{without: False}, gamma_initializer=keras.initializers.Constant(0.3), beta_initializer="ones")
    source = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(4, 3), norm, L.ReLU(), L.Flatten(), L.Dense(3)])
    model = convert(source, time_window=2000, tau_0=200.0, data=X)
    np.testing.assert_allclose(model.predict(X, verbose=0), source.predict(X, verbose=0), atol=0.02)


def test_activations_are_sampled_from_every_channel():
    # Of many channels one is silent: a sample that met it alone would be empty.
    model = keras.Sequential(
        [keras.Input((16, 16, 1)), L.Conv2D(32, 1, activation="relu", use_bias=False), L.Flatten(), L.Dense(2)]
    )
    kernel = np.ones((1, 1, 1, 32))
    kernel[..., 0] = 0.0
    model.layers[0].set_weights([kernel])
    x = np.random.default_rng(0).uniform(0.1, 1.0, (500, 16, 16, 1))
    ttfs = convert(model, data=x[:2])
    found = conversion.sampled_activations(ttfs, x, 100)[f"{model.layers[0].name}_activation"]
    assert len(found) == pytest.approx(31 / 32 * conversion.SAMPLED_ACTIVATIONS, rel=0.01)


def pooled_behind():
    inputs = keras.Input((8, 8, 1))
    x = L.MaxPooling2D(3, 2, "same")(L.Conv2D(6, 3, activation="relu", name="c")(inputs))
    x = L.MaxPooling2D(2, 1)(L.ReLU(name="r")(L.BatchNormalization()(L.Conv2D(5, 2, name="d")(x))))
    return keras.Model(inputs, L.Dense(4)(L.Flatten()(L.Dropout(0.2)(x))))


def pooled_before():
    inputs = keras.Input((8, 8, 1))
    x = L.MaxPooling2D(3, 2, "same")(L.Conv2D(6, 3, name="c")(inputs))
    x = L.BatchNormalization()(L.Conv2D(5, 2, name="d")(L.ReLU(max_value=6.0, name="c_activation")(x)))
    x = L.Flatten()(L.MaxPooling2D(2, 1)(L.Dropout(0.2)(x)))
    return keras.Model(inputs, L.Dense(4)(L.ReLU(name="r")(x)))


def windows_of(model):
    network = SpikingNetwork.from_model(model)
    return [population.name for population in network.populations if isinstance(population, WindowPopulation)]


@pytest.mark.parametrize("make", [pooled_behind, pooled_before])
def test_pooling_of_the_converted_model(make):
    source = random_weights(make())
    orders = {pooling: convert(source, pooling=pooling) for pooling in (None, "spikes", "potential")}
    found = {pooling: windows_of(model) for pooling, model in orders.items()}
    both = ["c_activation", "r"]
    assert found == {None: [] if make is pooled_behind else both, "spikes": [], "potential": both}
    logits = orders["spikes"].predict(X, verbose=0)
    for model in orders.values():
        np.testing.assert_array_equal(model.predict(X, verbose=0), logits)
        assert [encoder.name for encoder in model.encoders] == ["input_activation", *both]
    networks = {name: SpikingNetwork.from_model(model) for name, model in orders.items()}
    spikes = {name: network.run(X, verbose=0).hidden_spikes for name, network in networks.items()}
    assert spikes["potential"] < spikes["spikes"]
    # T2FSNN and other codings pool spikes.
    if make is pooled_behind:
        assert windows_of(convert_t2fsnn(source, X)) == []


@pytest.mark.parametrize("make", [pooled_behind, pooled_before])
def test_calibration_of_pooled_potentials(make):
    source = random_weights(make())
    expected = source.predict(X, verbose=0)
    ours, theirs = (convert(source, pooling=pooling, data=X, time_window=64) for pooling in ("potential", "spikes"))
    assert windows_of(ours) == ["c_activation", "r"] and windows_of(theirs) == []
    assert check_equivalence(ours, X[:10]).equivalent
    for model in (ours, theirs):
        np.testing.assert_allclose(model.predict(X, verbose=0), expected, atol=0.1 * np.abs(expected).max())
    seen = {row.layer: row for row in quantization_report(ours, X)}
    for row in quantization_report(theirs, X):
        # The largest of each window is silent less often than all of it.
        assert row.layer == "input_activation" or seen[row.layer].silent < row.silent


def test_pooling_stays_behind_an_activation_that_others_take():
    def model(kind):
        inputs = keras.Input((8, 8, 1))
        x = L.Conv2D(4, 3, padding="same")(inputs)
        if kind == "activation":  # Spikes that go elsewhere as well.
            x = L.ReLU(name="r")(x)
            ends = [L.MaxPooling2D()(x), L.AveragePooling2D(2)(x)]
        elif kind == "potential":  # Potentials that go elsewhere as well.
            ends = [L.MaxPooling2D()(L.ReLU(name="r")(x)), L.AveragePooling2D(2)(x)]
        elif kind == "before":
            ends = [L.ReLU(name="r")(L.MaxPooling2D()(x)), L.AveragePooling2D(2)(L.ReLU(name="s")(x))]
        else:  # Two of a window each.
            ends = [L.ReLU(name="r")(L.MaxPooling2D(2, 2)(x)), L.ReLU(name="s")(L.MaxPooling2D(3, 2, "same")(x))]
        return random_weights(keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Concatenate()(ends)))))

    for kind in ("activation", "potential", "before", "two"):
        source = model(kind)
        converted = convert(source, pooling="potential")
        assert windows_of(converted) == (["r", "s"] if kind == "two" else [])
        for pooling in (None, "spikes"):
            other = convert(source, pooling=pooling).predict(X, verbose=0)
            np.testing.assert_array_equal(other, converted.predict(X, verbose=0))


def test_pooling_of_the_input_stays_in_front_of_nothing():
    layers = [L.MaxPooling2D(name="p"), L.ReLU(name="r"), L.Conv2D(3, 2), L.ReLU(), L.Flatten(), L.Dense(2)]
    source = random_weights(keras.Sequential([keras.Input((8, 8, 1)), *layers]))
    for pooling in (None, "potential", "spikes"):
        for coding in ("ttfs", "analog"):
            model = convert(source, input_coding=coding, pooling=pooling)
            assert windows_of(model) == [] and check_equivalence(model, X[:5]).equivalent
