"""Networks of the paper: neurons, weights, the authors' dropout rates, errors; the network in the spike-time domain."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs import applications, spike_time_layers
from keras_ttfs.applications import fast_vgg, spike_time_vgg6, vgg6, vgg16
from keras_ttfs.initializers import Dirac
from keras_ttfs.snn import SpikingNetwork


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
        (
            {"pooling": "average"},
            r"Expected pooling to be one of \('spikes', 'potential'\). Received: pooling='average'",
        ),
        (
            {"kernel_initializer": "zeros"},
            "Expected kernel_initializer to be one of .* Received: kernel_initializer='zeros'",
        ),
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


def multiply_adds(model):
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    return sum(int(np.prod(layer.kernel.shape)) * int(np.prod(layer.output.shape[1:-1])) for layer in layers)


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def test_fast_vgg_is_what_its_docstring_says():
    model = fast_vgg()
    assert model.neurons == 85_802 <= 90_000
    assert model.membranes == 189_962
    assert multiply_adds(model) == 114_821_952 <= 120e6
    assert SpikingNetwork.from_model(model).dense_counts.multiply_adds == 99_119_484
    assert len(model.encoders) == 7 == len(model.batch_norm_pairs())
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    channels = [applications.FAST_VGG_FIRST, *(filters for block in applications.FAST_VGG_BLOCKS for filters in block)]
    assert [layer.filters for layer in convolutions] == channels == [20, 64, 64, 192, 192, 288, 288]
    assert convolutions[0].kernel_size == (2, 2)
    assert fast_vgg((8, 8, 1), classes=3, width=0.1).output_shape == (None, 3)
    with pytest.raises(ValueError, match=r"Expected input_shape \(height, width, channels\) of at least 8x8"):
        fast_vgg((7, 8, 1))


def test_the_relu_twin_of_fast_vgg_has_its_weights():
    model, twin = fast_vgg((8, 8, 1), width=0.1), fast_vgg((8, 8, 1), width=0.1, activation="relu")
    shapes = [(w.path.split("/", 1)[-1], w.shape) for w in model.weights if "activation" not in w.path]
    assert shapes == [(w.path.split("/", 1)[-1], w.shape) for w in twin.weights]
    assert twin.encoders == [] and len(fast_vgg((8, 8, 1), width=0.1, input_coding="ttfs").encoders) == 8


def test_max_pooling_of_potentials_gives_the_outputs_of_max_pooling_of_spikes():
    x = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype("float32")
    for network, behind_norm in ((fast_vgg, 4), (vgg6, 2)):  # Global max pooling is one of the four.
        before, behind = (network((8, 8, 1), width=0.25, seed=1, pooling=place) for place in ("potential", "spikes"))
        for model, follower, count in ((before, "TKBatchNorm", behind_norm), (behind, "TTFSActivation", behind_norm)):
            names = kinds(model)
            places = [place for place, name in enumerate(names) if "MaxPooling2D" in name]
            assert len(places) == count and {names[place - 1] for place in places} == {follower}
        assert len(before.weights) == len(behind.weights) and before.neurons < behind.neurons
        for ours, theirs in zip(before.trainable_weights, behind.trainable_weights):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(before(x), behind(x))


def test_dropout_of_fast_vgg():
    found = dropout_after(fast_vgg((8, 8, 1), width=0.1, dropout=0.5))
    # The last one stands behind global max pooling.
    expected = {"conv0": 0.15, "conv1_2": 0.2, "conv2_2": 0.2, "conv3_2": 0.25}
    assert found == pytest.approx(expected)


def test_weights_of_a_seed_stay_what_they_were():
    """Part k with random numbers has the seed 1000 * seed + k: encoders of relaxation, weights, dropout."""
    model = vgg6(seed=7)
    expected = {"conv1_1": 7001, "conv1_2": 7003, "conv2_1": 7005, "conv2_2": 7007, "dense1": 7009, "logits": 7011}
    for name, seed in expected.items():
        kernel = model.get_layer(name).kernel
        np.testing.assert_array_equal(kernel, keras.initializers.GlorotUniform(seed=seed)(kernel.shape))


def test_dirac_passes_channels_through():
    for channels, filters in ((4, 6), (6, 4)):
        kernel = np.array(Dirac(seed=3)((3, 3, channels, filters)))
        passing = np.zeros((3, 3, channels, 4))
        for i in range(4):
            passing[1, 1, i, i] = 1
        np.testing.assert_array_equal(kernel[..., :4], passing)
        he = np.array(keras.initializers.HeNormal(seed=3)((3, 3, channels, filters)))
        np.testing.assert_array_equal(kernel[..., 4:], he[..., 4:])
    x = np.random.default_rng(0).normal(size=(1, 5, 5, 6)).astype("float32")
    convolved = tf.nn.conv2d(x, Dirac(seed=3)((3, 3, 6, 4)), 1, "SAME")
    np.testing.assert_array_equal(convolved, x[..., :4])
    assert Dirac(seed=3)((1, 4, 6), dtype="float64").dtype == "float64"


def test_initial_weights(tmp_path):
    def standard_deviation(model, name):
        return float(np.std(model.get_layer(name).kernel))

    for name in ("glorot", "he", "dirac"):
        model = fast_vgg((8, 8, 1), seed=1, kernel_initializer=name)
        kernel = model.get_layer("conv2_1").kernel
        fan_in, fan_out = 9 * kernel.shape[2], 9 * kernel.shape[3]
        first, head = (4, 4 * model.get_layer("conv0").filters), (model.get_layer("conv3_2").filters, 10)
        if name == "glorot":
            wanted = [(2 / sum(fans)) ** 0.5 for fans in (first, (fan_in, fan_out), head)]
        else:
            wanted = [(2 / fans[0]) ** 0.5 for fans in (first, (fan_in, fan_out), head)]
        found = [standard_deviation(model, layer) for layer in ("conv0", "conv2_1", "logits")]
        if name == "dirac":
            np.testing.assert_array_equal(kernel[1, 1, :, : kernel.shape[2]], np.eye(kernel.shape[2]))
            assert float(model.get_layer("conv3_2").kernel[0, 0, 0, 0]) == 0.0
            found[1] = wanted[1]
        assert found == pytest.approx(wanted, rel=0.1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").get_layer("conv2_1")
    assert isinstance(loaded.kernel_initializer, Dirac)
    np.testing.assert_array_equal(loaded.kernel, kernel)
