"""Networks of the paper: neurons, weights, the authors' dropout rates, errors; the network in the spike-time domain."""

import keras
import numpy as np
import pytest

from keras_ttfs import applications, spike_time_layers
from keras_ttfs.applications import spike_time_vgg6, vgg6, vgg16


def dropout_after(model):
    """`{layer: rate}`: which layer with weights, or which Flatten, each Dropout follows."""
    rates, last = {}, None
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            rates[last] = layer.rate
        elif isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense, keras.layers.Flatten)):
            last = layer.name
    return rates


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_dropout_rates_are_the_authors(factor):
    convolutions = {
        "conv1_1": 0.3,
        "conv2_1": 0.4,
        **{f"conv{block}_{place}": 0.4 for block in (3, 4, 5) for place in (1, 2)},
    }
    dense = {"flatten": 0.5, "dense1": 0.5, "dense2": 0.5}
    found = dropout_after(vgg16(width=0.02, dropout=factor))
    assert found == pytest.approx({name: factor * rate for name, rate in {**convolutions, **dense}.items()})
    found = dropout_after(vgg6(dropout=factor))
    small = {"conv1_1": 0.3, "conv2_1": 0.4, "flatten": 0.5, "dense1": 0.5}
    assert found == pytest.approx({name: factor * rate for name, rate in small.items()})


def test_dropout_follows_the_spikes_and_not_the_pooling():
    layers = [type(layer).__name__ for layer in vgg6(dropout=1.0).layers]
    before = [layers[place - 1] for place, name in enumerate(layers) if name == "Dropout"]
    assert before == ["TTFSActivation", "TTFSActivation", "Flatten", "TTFSActivation"]


def test_no_dropout_by_default():
    for network in (vgg16(width=0.02), vgg6(), spike_time_vgg6()):
        assert dropout_after(network) == {}


def test_spike_time_vgg6_has_the_blocks_of_vgg6():
    model = spike_time_vgg6(width=0.25)
    assert model.name == "spike_time_vgg6"
    assert [type(layer).__name__ for layer in model.layers[1:]] == [
        "SpikeTimeEncode",
        *("SpikeTimeConv2D", "SpikeTimeConv2D", "SpikeTimePooling2D") * 2,
        "Flatten",
        "SpikeTimeDense",
        "SpikeTimeOutput",
    ]
    # 64 inputs, two convolutions of 8 and two of 16 channels, 32 and 10 neurons.
    assert model.neurons == 64 + 2 * 8 * 64 + 2 * 16 * 16 + 32 + 10
    assert model.neurons == vgg6(width=0.25).neurons
    assert spike_time_vgg6((12, 8, 2), classes=3).output_shape == (None, 3)


def test_spike_time_vgg6_draws_its_weights_from_the_seed():
    """Layer k has the seed 1000 * seed + k, so that committed runs can be repeated."""
    model = spike_time_vgg6(width=0.25, seed=7)
    shapes = [weight.shape for weight in model.get_weights()]
    layers = [
        spike_time_layers.SpikeTimeConv2D(8, seed=7000),
        spike_time_layers.SpikeTimeConv2D(8, seed=7001),
        spike_time_layers.SpikeTimeConv2D(16, seed=7002),
        spike_time_layers.SpikeTimeConv2D(16, seed=7003),
        spike_time_layers.SpikeTimeDense(32, seed=7004),
        spike_time_layers.SpikeTimeOutput(10, seed=7005),
    ]
    inputs = [(None, 8, 8, 1), (None, 8, 8, 8), (None, 4, 4, 8), (None, 4, 4, 16), (None, 64), (None, 32)]
    for layer, shape, ours in zip(layers, inputs, model.get_weights(), strict=True):
        layer.build(shape)
        np.testing.assert_array_equal(layer.kernel.numpy(), ours)
    other = spike_time_vgg6(width=0.25, seed=8)
    assert [weight.shape for weight in other.get_weights()] == shapes
    assert not np.array_equal(other.get_weights()[0], model.get_weights()[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input_shape": (3, 8, 1)}, r"Expected input_shape \(height, width, channels\) of at least 4x4. Received: "),
        ({"classes": 1}, "Expected classes to be an integer >= 2. Received: classes=1"),
        ({"width": 0.0}, "Expected width to be a finite number > 0"),
    ],
)
def test_errors_of_spike_time_vgg6(wrong, message):
    with pytest.raises(ValueError, match=message):
        spike_time_vgg6(**wrong)


def test_the_activation_of_a_vgg_is_not_the_spike_time():
    with pytest.raises(ValueError, match=r"Expected activation to be one of \('ttfs', 'relu'\). Received: "):
        applications.vgg6(activation="spike_time")


def test_vgg16_is_the_papers():
    model = vgg16()
    assert model.neurons == 280_586
    assert len(model.encoders) == 16
    assert len(model.batch_norm_pairs()) == 15
    assert vgg16(width=0.25).neurons == 72_458
    twin = vgg16(activation="relu")
    kernels = {"tau", "t_d"}
    shapes = [(w.path.split("/", 1)[-1], w.shape) for w in model.trainable_weights if w.name not in kernels]
    assert shapes == [(w.path.split("/", 1)[-1], w.shape) for w in twin.trainable_weights]
    assert twin.encoders == []
    assert len(vgg16(input_coding="analog").encoders) == 15


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"input_shape": (16, 16, 3)}, "Expected input_shape .* at least 32x32. Received: .*16"),
        ({"classes": 1}, "Expected classes to be an integer >= 2. Received: classes=1"),
        ({"width": 0}, "Expected width .* Received: width=0"),
        ({"input_coding": "rate"}, "Expected input_coding to be one of .* Received: input_coding='rate'"),
        ({"activation": "gelu"}, "Expected activation to be one of .* Received: activation='gelu'"),
        ({"dropout": 2}, r"Expected dropout in \[0, 1\]. Received: dropout=2"),
        ({"l2": -1}, "Expected l2 >= 0. Received: l2=-1"),
    ],
)
def test_bad_vgg_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        vgg16(**kwargs)


def test_vgg_of_spike_times():
    model = spike_time_vgg6(width=0.25, seed=1)
    assert model.neurons == 64 + 2 * 8 * 64 + 2 * 16 * 16 + 32 + 10
    again = spike_time_vgg6(width=0.25, seed=1)
    for one, other in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(one, other)
    for wrong in ("l2", "dropout", "input_coding", "tau_0"):
        with pytest.raises(TypeError, match=wrong):
            spike_time_vgg6(**{wrong: 0.5})
