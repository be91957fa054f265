"""Energy of other codings, and operations of every layer against weights that are written out."""

import keras
import numpy as np
import pytest

from keras_ttfs import TTFSActivation, energy
from keras_ttfs.snn import CodedNetwork, SpikingNetwork, codings

L = keras.layers


def test_addition_is_no_multiplication():
    inputs = keras.Input((4,))
    x = TTFSActivation()(inputs)
    x = L.Add()([L.Dense(4)(x), x])
    network = SpikingNetwork.from_model(keras.Model(inputs, L.Dense(2)(TTFSActivation()(x))))
    twin = energy.report(network, network.run(np.ones((1, 4)))).costs[0]
    assert (twin.operations, network.dense_counts) == (28, (24, 4, 0))
    assert twin.compute == pytest.approx((24 * 4.6 + 4 * 0.9) * 1e-12)
    assert twin.memory == pytest.approx((24 * 8 + 4 * 4) * 2.5e-12)


def test_an_average_adds_and_multiplies_once():
    layers = [
        keras.Input((4, 4, 1)),
        TTFSActivation(),
        L.AveragePooling2D(2),
        TTFSActivation(),
        L.Flatten(),
        L.Dense(1),
    ]
    network = SpikingNetwork.from_model(keras.Sequential(layers))
    assert network.dense_counts == (4, 12, 4)


LAYERS = {
    "Conv1D": (lambda: L.Conv1D(3, 3, 2, "same"), (7, 2)),
    "DepthwiseConv1D": (lambda: L.DepthwiseConv1D(3, depth_multiplier=2), (7, 2)),
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(2, 3, 2, "same"), (5, 2)),
    "Conv2DTranspose": (lambda: L.Conv2DTranspose(2, 3, 2), (3, 4, 2)),
    "AveragePooling1D": (lambda: L.AveragePooling1D(3, 2, "same"), (7, 2)),
    "GlobalAveragePooling1D": (lambda: L.GlobalAveragePooling1D(), (5, 2)),
    "Dense": (lambda: L.Dense(3), (4, 2)),
    "UpSampling2D": (lambda: L.UpSampling2D(2), (2, 3, 1)),
    "Cropping2D": (lambda: L.Cropping2D(1), (4, 4, 2)),
    "Permute": (lambda: L.Permute((2, 1)), (4, 3)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_fan_out_is_the_number_of_weights(kind):
    make, shape = LAYERS[kind]
    layer = make()
    inputs = keras.Input(shape)
    x = layer(TTFSActivation()(inputs))
    for weight in layer.weights:
        weight.assign(np.random.default_rng(0).uniform(0.5, 1.0, weight.shape) if "kernel" in weight.name else weight)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(TTFSActivation()(x))))
    network = SpikingNetwork.from_model(model)
    size = int(np.prod(shape))
    # One row for each neuron that a spike comes from: what it does to every neuron behind.
    matrix = np.asarray(layer(np.eye(size, dtype="float32").reshape(size, *shape))).reshape(size, -1)
    (first, *_), (last, *_) = (next(iter(network.fan_out.values())), list(network.fan_out.values())[-1])
    arrives = (matrix != 0).sum(1)
    if kind in ("UpSampling2D", "Cropping2D", "Permute"):
        assert first.sum() == first.size and first.size == matrix.shape[1]
    else:
        np.testing.assert_array_equal(first.ravel(), arrives)
    assert (last == 2).all()


def images():
    return np.random.default_rng(0).uniform(size=(5, 6, 6, 1)).astype("float32")


CODINGS = [codings.RateCoding(), codings.PhaseCoding(), codings.BurstCoding(), codings.TemporalSwitchCoding(8)]


@pytest.mark.parametrize("coding", CODINGS)
def test_synaptic_operations_are_spikes_times_fan_out(coding):
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(2, 3, activation="relu", name="c"), L.Flatten(), L.Dense(5, "relu", name="d"), L.Dense(3)]
    network = CodedNetwork.from_model(keras.Sequential([keras.Input((6, 6, 1)), *layers]), coding, images())
    steps = None if coding.time_window else 40
    result = network.run(images(), time_steps=steps, batch_size=2)
    expected = 5 * result.spikes["c_activation"] + 3 * result.spikes["d_activation"]
    assert result.synaptic_operations == pytest.approx(expected, rel=1e-12) and expected > 10
    report = energy.report(network, result)
    assert report.synaptic_operations == result.synaptic_operations
    assert report.analog_operations == 16 * 2 * 9
    assert [cost.name for cost in report.costs] == ["ReLU twin, float32", "spiking, float32", "spiking, 8-bit weights"]
    window = 2 * coding.time_window if coding.time_window else 40
    assert report.chips["loihi"][1] == pytest.approx(37 * window * 81e-12)
    additions = 37 * (coding.time_window or 40)
    compute = (expected + 288 + additions) * 0.9e-12 + 288 * 3.7e-12
    assert report.costs[1].compute == pytest.approx(compute)
    assert "synaptic operations" in str(report)


@pytest.mark.parametrize("pool", [L.MaxPooling2D(2), L.GlobalMaxPooling2D()])
@pytest.mark.parametrize("coding", [codings.RateCoding(), codings.TemporalSwitchCoding(8)])
def test_behind_pooling_the_spikes_that_it_passes_on_count(coding, pool):
    # One image that is brightest at one place: that neuron alone is heard.
    model = keras.Sequential([keras.Input((2, 2, 1)), L.Conv2D(1, 1, use_bias=False), L.ReLU(name="r"), pool, L.Flatten(),
                              L.Dense(3)])  # fmt: skip
    model.layers[0].set_weights([np.ones((1, 1, 1, 1))])
    image = np.array([1.0, 0.6, 0.3, 0.0], "float32").reshape(1, 2, 2, 1)
    network = CodedNetwork.from_model(model, coding, image)
    result = network.run(image, time_steps=None if coding.time_window else 10)
    heard = 2 if coding.time_window else 10
    assert result.spikes["r"] > heard
    assert result.synaptic_operations == 3 * heard


def test_many_classes():
    model = keras.Sequential([keras.Input((2,)), L.Dense(2, "relu"), L.Dense(40_000)])
    model.layers[1].bias.assign(np.arange(40_000) == 39_999)
    x = np.ones((1, 2), "float32") * 1e-3
    model.layers[0].set_weights([np.ones((2, 2)), np.zeros(2)])
    model.layers[1].kernel.assign(np.zeros((2, 40_000)))
    assert CodedNetwork.from_model(model, codings.RateCoding(), x).run(x, time_steps=2).predictions[0] == 39_999


@pytest.mark.parametrize("reference", [(0, 1), (1,), None, "ab", (-1, 5), (float("nan"), 5)])
def test_wrong_references(reference):
    with pytest.raises(ValueError, match="Expected .*Received: "):
        energy.normalized_energy(1.0, 1, reference=reference)
