"""Direct training in the spike-time domain against potentials summed over time, and finite differences."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs import spike_time
from keras_ttfs.spike_time import NEVER

STEP = 1e-3


def potential(t, times, weights):
    """Of a neuron at time t: each spike before it has sent a current that decays with time constant 1."""
    before = times < t
    return (weights[before] * (1 - np.exp(-(t - times[before])))).sum()


def random_neurons(seed, inputs=7, outputs=5):
    rng = np.random.default_rng(seed)
    times = rng.uniform(0, 3, inputs)
    times[rng.uniform(size=inputs) < 0.2] = np.inf
    return times, rng.normal(0.4, 0.7, (inputs, outputs))


def in_z(times):
    return np.where(np.isinf(times), NEVER, np.exp(times))


@pytest.mark.parametrize("seed", range(8))
def test_first_crossing_is_when_the_potential_first_reaches_the_threshold(seed):
    times, weights = random_neurons(seed)
    found = spike_time.first_crossing(in_z(times)[None], weights).numpy()[0]
    grid = np.arange(0, 11, STEP)
    for own, z in zip(weights.T, found):
        reached = np.array([potential(t, times, own) >= 1 for t in grid])
        if z >= NEVER:
            assert not reached.any()
        else:
            assert grid[reached.argmax()] - STEP <= np.log(z) <= grid[reached.argmax()]
            assert potential(np.log(z), times, own) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_gradients_are_finite_differences(seed):
    times, weights = random_neurons(seed)
    z, upstream = in_z(times)[None], np.random.default_rng(seed).normal(size=(1, 5))
    inputs = tf.constant(z), tf.constant(weights)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        out = spike_time.first_crossing(*inputs)
    assert (out.numpy() < NEVER).any()
    gradients = [gradient.numpy() for gradient in tape.gradient(out, inputs, upstream)]
    fires = out.numpy() < NEVER

    def loss(z, weights):
        values = spike_time.first_crossing(z, weights).numpy()
        return (np.where(fires, values, 0.0) * upstream).sum()

    for which, value in enumerate((z, weights)):
        for place in np.ndindex(value.shape):
            if which == 0 and value[place] >= NEVER:
                assert gradients[0][place] == 0
                continue
            change = np.zeros_like(value)
            change[place] = 1e-6
            ends = [
                loss(*(v + sign * change if i == which else v for i, v in enumerate((z, weights)))) for sign in (1, -1)
            ]
            assert gradients[which][place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6)


def test_silent_neurons_and_silent_inputs_get_no_gradient():
    z, weights = tf.constant([[1.0, 2.0, NEVER]]), tf.constant([[0.4], [0.4], [9.0]])
    with tf.GradientTape() as tape:
        tape.watch((z, weights))
        out = spike_time.first_crossing(z, weights)
    assert out.numpy() == [[NEVER]]
    assert not any(gradient.numpy().any() for gradient in tape.gradient(out, (z, weights)))


def test_weight_sum_cost():
    weights = np.array([[0.5, 2.0, -1.0], [0.2, -0.5, 0.0]], "float32")
    assert float(spike_time.weight_sum_cost(weights)) == pytest.approx(0.3 + 0.0 + 2.0)


def test_convolution_is_the_dense_layer_at_every_place():
    rng = np.random.default_rng(0)
    z = np.exp(rng.uniform(0, 1, (2, 5, 4, 3))).astype("float32")
    layer = spike_time.SpikeTimeConv2D(6)
    whole = layer(z).numpy()
    assert whole.shape == (2, 5, 4, 6) and (whole < NEVER).any()
    bordered = np.pad(z, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=NEVER)
    for sample, row, column in np.ndindex(2, 5, 4):
        patch = bordered[sample, row : row + 3, column : column + 3].reshape(1, -1)
        expected = spike_time.first_crossing(patch, layer.kernel.numpy())
        np.testing.assert_allclose(whole[sample, row, column], expected[0], rtol=1e-5)


def network():
    inputs = keras.Input((8, 8, 1))
    x = spike_time.SpikeTimeEncode()(inputs)
    x = spike_time.SpikeTimePooling2D()(spike_time.SpikeTimeConv2D(8)(x))
    x = spike_time.SpikeTimeDense(32)(keras.layers.Flatten()(x))
    return keras.Model(inputs, spike_time.SpikeTimeLogits()(spike_time.SpikeTimeDense(10)(x)))


def test_learns_digits_counts_spikes_and_loads_in_a_fresh_process(tmp_path):
    from sklearn import datasets

    keras.utils.set_random_seed(0)
    data = datasets.load_digits()
    x, y = (data.images / 16).astype("float32")[..., None], data.target
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9, clipnorm=0.5), loss, metrics=["accuracy"])
    model.fit(x[:1400], y[:1400], epochs=15, batch_size=50, verbose=0)
    scores = model.evaluate(x[1400:], y[1400:], return_dict=True, verbose=0)
    assert scores["accuracy"] > 0.75
    convolution = model.layers[2]
    fired = keras.Model(model.inputs, convolution.output)(x[1400:]).numpy() < NEVER
    assert 0 < scores[convolution.spikes.name] == pytest.approx(fired.sum() / len(fired), rel=1e-6)
    path, expected = str(tmp_path / "model.keras"), model(x[:5]).numpy()
    model.save(path)
    np.save(tmp_path / "x.npy", x[:5])
    script = (
        "import sys, keras, numpy as np, keras_ttfs\n"
        "np.save(sys.argv[2] + '/y.npy', keras.models.load_model(sys.argv[1])(np.load(sys.argv[2] + '/x.npy')))\n"
    )
    subprocess.run([sys.executable, "-c", script, path, str(tmp_path)], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-6)


def test_wrong_arguments():
    for make, message in (
        (lambda: spike_time.SpikeTimeDense(0), "Expected units to be an integer >= 1. Received: units=0"),
        (lambda: spike_time.SpikeTimeConv2D(2.7), "Expected filters to be an integer >= 1. Received: filters=2.7"),
        (lambda: spike_time.SpikeTimeConv2D(3, cost=-1), "Expected cost >= 0. Received: cost=-1"),
        (lambda: spike_time.SpikeTimeDense(3, dtype="mixed_bfloat16"), "Expected a policy of float32 or float64"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
