"""The spikes of a network against those that its model promises."""

import keras
import numpy as np
import pytest

from keras_ttfs import TKBatchNorm, TTFSActivation, TTFSModel
from keras_ttfs.snn import EquivalenceError, SpikingNetwork, check_equivalence
from tests.networks import IMAGES, vgg6_to_simulate

L = keras.layers


def block(x, filters, activation=True):
    x = L.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    x = TKBatchNorm(momentum=0.9, gamma_initializer=keras.initializers.Constant(0.5))(x)
    return TTFSActivation()(x) if activation else x


def residual_network():
    inputs = keras.Input((8, 8, 1))
    x = block(TTFSActivation()(inputs), 16)
    x = TTFSActivation()(L.Add()([block(block(x, 16), 16, activation=False), x]))
    x = L.MaxPooling2D()(x)
    skip = L.Conv2D(32, 1)(x)
    x = TTFSActivation()(L.Add()([block(x, 32, activation=False), skip]))
    return TTFSModel(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)))


def concatenate_network():
    inputs = keras.Input((8, 8, 1))
    x = block(TTFSActivation()(inputs), 16)
    wide = TTFSActivation(rounding="nearest")(TKBatchNorm(momentum=0.9)(L.SeparableConv2D(16, 3, padding="same")(x)))
    x = L.Concatenate()([x, wide, block(x, 8)])
    x = L.MaxPooling2D()(x)
    x = L.ZeroPadding2D()(block(x, 16))
    x = L.Dropout(0.1)(L.Flatten()(L.AveragePooling2D(2)(x)))
    return TTFSModel(inputs, L.Dense(10)(x))


@pytest.mark.slow
@pytest.mark.parametrize("make", [residual_network, concatenate_network])
def test_network_trained_on_digits_fires_the_same_spikes(make, digits):
    keras.utils.set_random_seed(0)
    x, y = digits
    model = make()
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    model.fit(x[:1400], y[:1400], epochs=6, batch_size=50, verbose=0)
    logs = model.evaluate(x[1400:], y[1400:], verbose=0, return_dict=True)
    assert logs["accuracy"] > 0.8
    report = check_equivalence(model, x[1400:1500], dtype="float64", batch_size=40, strict=True)
    assert report.equivalent
    assert sum(row.spikes for row in report.layers) > 10_000
    assert report.changed_predictions == {"event": 0, "clock": 0}
    check_equivalence(model, x[1400:1500], dtype="float32", batch_size=40, strict=True)
    result = SpikingNetwork.from_model(model).run(x[1400:])
    assert (result.logits.argmax(-1) == y[1400:]).mean() == pytest.approx(logs["accuracy"], abs=1e-6)
    assert result.hidden_spikes == pytest.approx(logs["spikes"], rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"rounding": "nearest"}, {"input_coding": "analog"}, {"time_window": 300}])
def test_options_of_the_layers_reach_the_network(options):
    report = check_equivalence(vgg6_to_simulate(**options), IMAGES[:5], batch_size=5)
    assert report.equivalent
    assert report.samples == 5


@pytest.mark.slow
def test_half_precision_model_is_compared_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = vgg6_to_simulate()
    report = check_equivalence(model, IMAGES, dtype="float32", modes="event")
    assert report.equivalent
    assert report.model_dtype == "mixed_bfloat16"
    assert "mixed_bfloat16" in str(report)


def test_sequential_nested_and_shared_layers():
    inner = keras.Sequential([keras.Input((6,)), L.Dense(6), TTFSActivation(name="inner")])
    shared = TTFSActivation(16, name="twice")
    inputs = keras.Input((6,))
    x = shared(inputs)
    x = inner(x)
    x = shared(L.Dense(6)(x))
    nested = keras.Model(inputs, keras.Sequential([keras.Input((6,)), L.Dense(3)])(x))
    x = np.random.default_rng(0).uniform(size=(9, 6))
    assert list(SpikingNetwork.from_model(nested).run(x).spike_times) == ["twice", "inner", "twice_1"]
    assert check_equivalence(nested, x).equivalent
    sequential = keras.Sequential([keras.Input((6,)), TTFSActivation(), L.Dense(3, activation="softmax")])
    report = check_equivalence(sequential, x)
    assert report.equivalent
    assert max(report.logit_difference.values()) == 0


@pytest.mark.slow
def test_check_finds_what_differs():
    model = vgg6_to_simulate()
    network = SpikingNetwork.from_model(model)
    first = next(node for node in network.nodes if node.name == "conv1_1")
    kernel = first.kernels[0].copy()
    kernel[1, 1, 0, 2] += 1e-3
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    other.get_layer("conv1_1").set_weights([kernel])
    report = check_equivalence(model, IMAGES, network=SpikingNetwork.from_model(other))
    rows = {(row.mode, row.layer): row for row in report.layers}
    for mode in ("event", "clock"):
        assert rows[mode, "input_activation"].mismatches == 0
        assert rows[mode, "conv1_1_activation"].mismatches > rows[mode, "conv1_1_activation"].inherited == 0
        assert rows[mode, "conv1_1_activation"].ulp > 1e6
        assert rows[mode, "conv1_2_activation"].inherited > 0
    assert not report.equivalent
    with pytest.raises(EquivalenceError, match=r"Expected the spikes of the model. Received: \d+ mismatches"):
        report.check()
    with pytest.raises(EquivalenceError, match="conv1_1_activation"):
        check_equivalence(model, IMAGES, network=SpikingNetwork.from_model(other), dtype="float32", strict=True)


def test_distance_of_a_mismatch_is_in_units_of_the_threshold():
    def made(t_d_0):
        return keras.Sequential([keras.Input((1,)), TTFSActivation(t_d_0=t_d_0, name="a", dtype="float64"), L.Dense(2)])

    model, shifted = made(0.0), made(1e-14)
    network = SpikingNetwork.from_model(model)
    threshold = network.populations[0].thresholds("float64").numpy()[5]
    x = np.array([[threshold + 3 * np.spacing(threshold)], [0.9]])
    report = check_equivalence(model, x, network=SpikingNetwork.from_model(shifted), modes="event")
    assert report.layers[0].mismatches == 1
    assert report.layers[0].ulp == 3
    with pytest.raises(EquivalenceError):
        report.check()


def test_wrong_arguments_of_check():
    with pytest.raises(ValueError, match="Expected modes among"):
        check_equivalence(vgg6_to_simulate(), IMAGES, modes="fast")
    with pytest.raises(ValueError, match="Expected dtype to be one of"):
        check_equivalence(vgg6_to_simulate(), IMAGES, dtype="int8")
    # A range of negative steps is empty: nothing would be compared.
    for batch_size in (-1, 0):
        with pytest.raises(ValueError, match="Expected batch_size to be an integer >= 1"):
            check_equivalence(vgg6_to_simulate(), IMAGES, batch_size=batch_size)
    for wrong in (IMAGES[:0], IMAGES[:, 1:]):
        with pytest.raises(ValueError, match="Expected inputs of shape"):
            check_equivalence(vgg6_to_simulate(), wrong)
