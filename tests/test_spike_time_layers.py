"""Direct training in the spike-time domain against potentials summed over time, and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs import TTFSModel, spike_time_layers
from keras_ttfs.spike_time_layers import LATE, NEVER
from tests.registry import SPIKE_TIME_LAYERS

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
    found = spike_time_layers.first_crossing(in_z(times)[None], weights).numpy()[0]
    grid = np.arange(0, 11, STEP)
    for own, z in zip(weights.T, found):
        reached = np.array([potential(t, times, own) >= 1 for t in grid])
        if z >= NEVER:
            assert not reached.any()
        else:
            assert grid[reached.argmax()] - STEP <= np.log(z) <= grid[reached.argmax()]
            assert potential(np.log(z), times, own) == pytest.approx(1.0, abs=1e-9)


def test_inputs_at_the_same_time_and_a_spike_at_an_inputs_time():
    crossing = spike_time_layers.first_crossing
    assert crossing([[1.0, 1.0]], [[0.75], [0.75]]).numpy() == pytest.approx(3.0)
    # The potential is 1 at z = 2 exactly, where the second input has not sent anything yet.
    for second in (-1.5, 0.5):
        z, weights = tf.constant([[1.0, 2.0]]), tf.constant([[2.0], [second]])
        with tf.GradientTape() as tape:
            tape.watch((z, weights))
            out = crossing(z, weights)
        assert out.numpy() == 2.0
        dz, dweights = tape.gradient(out, (z, weights))
        np.testing.assert_allclose(dz, [[2.0, 0.0]])
        np.testing.assert_allclose(dweights, [[-1.0], [0.0]])


@pytest.mark.parametrize("seed", range(4))
def test_gradients_are_finite_differences(seed):
    times, weights = random_neurons(seed)
    others = [random_neurons(seed + 10 * i)[0] for i in (1, 2)]
    z, upstream = in_z(np.stack([times, *others])), np.random.default_rng(seed).normal(size=(3, 5))
    z[1, 3] = z[1, 4]
    inputs = tf.constant(z), tf.constant(weights)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        out = spike_time_layers.first_crossing(*inputs)
    assert (out.numpy() < NEVER).any()
    gradients = [gradient.numpy() for gradient in tape.gradient(out, inputs, upstream)]
    fires = out.numpy() < NEVER

    def loss(z, weights):
        values = spike_time_layers.first_crossing(z, weights).numpy()
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
        out = spike_time_layers.first_crossing(z, weights)
    assert out.numpy() == [[NEVER]]
    assert not any(gradient.numpy().any() for gradient in tape.gradient(out, (z, weights)))


def test_weight_sum_cost():
    weights = np.array([[0.5, 2.0, -1.0], [0.2, -0.5, 0.0]], "float32")
    assert float(spike_time_layers.weight_sum_cost(weights)) == pytest.approx((0.3 + 0.0 + 2.0) / 3)


def test_logits_keep_the_order_of_spikes():
    z = np.array([1.0, 20.0, LATE, 90.0, 5e4, NEVER], "float32")
    logits = spike_time_layers.spike_logits(z).numpy()
    np.testing.assert_array_equal(logits[:3], -z[:3])
    np.testing.assert_allclose(logits[3:], -(LATE + np.log(z[3:] / LATE)), rtol=1e-6)
    assert (np.diff(logits) < 0).all()


def test_encoding_and_pooling():
    x = np.array([[0.0, 0.25, 1.0]], "float32")
    encoder = spike_time_layers.SpikeTimeEncode()
    np.testing.assert_allclose(encoder(x), np.exp(3 * (1 - x)), rtol=1e-6)
    assert encoder.neurons == 3 and float(encoder.spikes.result()) == 3
    np.testing.assert_allclose(spike_time_layers.SpikeTimeEncode(2.0, first="dark")(x), np.exp(2 * x), rtol=1e-6)
    z = np.array([[4.0, NEVER, NEVER, NEVER], [2.0, 3.0, NEVER, NEVER]], "float32").reshape(1, 2, 4, 1)
    np.testing.assert_array_equal(spike_time_layers.SpikeTimePooling2D(2)(z).numpy().ravel(), [2.0, NEVER])


@pytest.mark.parametrize(("layer", "kwargs"), SPIKE_TIME_LAYERS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_generic(layer, kwargs, dtype):
    made = layer(**kwargs, dtype=dtype)
    shape = (6, 4) if "units" in kwargs else (2, 4, 4, 2)
    x = np.exp(np.random.default_rng(0).uniform(0, 1, shape)).astype(dtype)
    outputs = made(x)
    assert outputs.dtype == dtype and made.compute_output_spec(keras.KerasTensor(shape, dtype)).shape == outputs.shape
    copy = layer.from_config(made.get_config())
    assert copy.get_config() == made.get_config()
    copy(x)
    copy.set_weights(made.get_weights())
    np.testing.assert_array_equal(copy(x), outputs)


# Kernel size, strides, output, and the border before and behind rows and columns of 5x4 inputs.
CONVOLUTIONS = [(3, 1, (5, 4), ((1, 1), (1, 1))), (5, 2, (3, 2), ((2, 2), (1, 2))), (2, 3, (2, 2), ((0, 0), (0, 1)))]


@pytest.mark.parametrize(("kernel_size", "strides", "places", "border"), CONVOLUTIONS)
def test_convolution_is_the_dense_layer_at_every_place(kernel_size, strides, places, border):
    """Values, and gradients of inputs and weights."""
    rng = np.random.default_rng(0)
    z, upstream = np.exp(rng.uniform(0, 1, (2, 5, 4, 3))), rng.normal(size=(2, *places, 6))
    layer = spike_time_layers.SpikeTimeConv2D(6, kernel_size, strides, dtype="float64")
    assert layer(z).shape == layer.compute_output_shape(z.shape) == upstream.shape
    assert layer.neurons == 6 * places[0] * places[1]
    layer.kernel.assign(rng.normal(0.15, 0.3, layer.kernel.shape))
    inputs, weights = tf.constant(z), tf.constant(layer.kernel.numpy())
    bordered = np.pad(np.arange(z.size).reshape(z.shape), ((0, 0), *border, (0, 0)), constant_values=z.size)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((inputs, weights))
        whole = layer(inputs)
        flat = tf.concat([tf.reshape(inputs, [-1]), [NEVER]], axis=0)
        crossings = []
        for sample, row, column in np.ndindex(2, *places):
            top, left = strides * row, strides * column
            patch = tf.gather(flat, bordered[sample, top : top + kernel_size, left : left + kernel_size].ravel())
            crossings.append(spike_time_layers.first_crossing(tf.concat([patch, [1.0]], axis=0)[None], weights)[0])
        expected = tf.reshape(tf.stack(crossings), whole.shape)
    assert (whole.numpy() < NEVER).any() and (whole.numpy() >= NEVER).any()
    np.testing.assert_allclose(whole, expected, rtol=1e-9)
    ours = tape.gradient(whole, [inputs, layer.kernel.value], upstream)
    for one, other in zip(ours, tape.gradient(expected, [inputs, weights], upstream)):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def test_a_bias_lets_neurons_fire_whose_inputs_are_silent():
    layer = spike_time_layers.SpikeTimeDense(2)
    layer(np.ones((1, 3), "float32"))
    layer.kernel.assign([[0.5, 0.5]] * 3 + [[3.0, 0.5]])
    np.testing.assert_allclose(layer(np.full((1, 3), NEVER, "float32")), [[1.5, NEVER]])


@pytest.mark.slow
def test_learns_digits_counts_spikes_and_loads_in_a_fresh_process(tmp_path, digits, in_fresh_process):
    x, y = digits
    inputs = keras.Input((8, 8, 1))
    hidden = spike_time_layers.SpikeTimeConv2D(8, seed=0)(spike_time_layers.SpikeTimeEncode()(inputs))
    hidden = keras.layers.Flatten()(spike_time_layers.SpikeTimePooling2D()(hidden))
    outputs = spike_time_layers.SpikeTimeOutput(10, seed=1)(spike_time_layers.SpikeTimeDense(32, seed=2)(hidden))
    model = TTFSModel(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    history = model.fit(x[:1400], y[:1400], epochs=15, batch_size=50, verbose=0).history
    assert not any("spikes" in name for name in history)
    scores = model.evaluate(x[1400:], y[1400:], return_dict=True, verbose=0)
    assert scores["accuracy"] > 0.75
    layers = [layer.output for layer in model.layers if isinstance(layer, spike_time_layers.SpikeTimeConv2D)]
    layers.append(model.layers[-2].output)
    fired = sum((z.numpy() < NEVER).sum() for z in keras.Model(inputs, layers)(x[1400:]))
    assert scores["spikes"] == pytest.approx(fired / len(x[1400:])) and scores["input_spikes"] == 64
    assert model.neurons == 64 + 8 * 64 + 32 + 10
    assert scores["spikes_per_neuron"] == pytest.approx(scores["spikes"] / model.neurons)
    path, expected = str(tmp_path / "model.keras"), model(x[:5]).numpy()
    model.save(path)
    np.save(tmp_path / "x.npy", x[:5])
    script = (
        "import sys, keras, numpy as np, keras_ttfs\n"
        "np.save(sys.argv[2] + '/y.npy', keras.models.load_model(sys.argv[1])(np.load(sys.argv[2] + '/x.npy')))\n"
    )
    in_fresh_process(script, path, tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-6)


def test_wrong_arguments():
    for make, message in (
        (lambda: spike_time_layers.SpikeTimeDense(0), "Expected units to be an integer >= 1. Received: units=0"),
        (
            lambda: spike_time_layers.SpikeTimeConv2D(2.7),
            "Expected filters to be an integer >= 1. Received: filters=2.7",
        ),
        (lambda: spike_time_layers.SpikeTimeEncode(0.0), "Expected scale to be a finite number > 0"),
        (
            lambda: spike_time_layers.SpikeTimeConv2D(3, cost=-1),
            r"Expected cost to be a finite number >= 0 \[1\]. Received: cost=-1",
        ),
        (
            lambda: spike_time_layers.SpikeTimeDense(3, dtype="mixed_bfloat16"),
            "Expected a policy of float32 or float64",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
