"""Keras' own layer test, for every public layer, and what the layers promise beside it, in numbers computed by hand.

`run_layer_test` is private to Keras (`keras.src.testing`). It is the test that Keras' own layers pass: serialisation,
symbolic and eager calls, shapes and dtypes, one training step, mixed precision. No public name offers it.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.testing import TestCase

from keras_ttfs import MeanSpikes, TemporalKernelDecode, TKBatchNorm, TTFSActivation, TTFSEncode, TTFSModel
from keras_ttfs import spike_time_layers as st
from keras_ttfs import temporal_kernel as tk

pytestmark = pytest.mark.slow

Z = np.array([[1.0, 0.5, 0.2, -1.0], [0.3, 0.0, 2.0, 0.05]], "float32")
TIMES = np.exp(np.random.default_rng(0).uniform(0, 2, (2, 4, 4, 3))).astype("float32")
TRIPLE = (np.array([[0.0, 7.0, 32.0]], "float32"), np.float32(10), np.float32(0))
# A SpikeTimeDense, Conv2D or Output refuses half precision. An encoder's outputs have three shapes, so that no loss of
# the suite can sum them, and a decoder's `call` has no `training`.
SUITE = [
    (TTFSEncode, {}, {"input_data": Z, "expected_output_shape": ((2, 4), (), ()), "run_training_check": False}),
    (TTFSActivation, {"relaxation": 0.5, "seed": 1}, {"input_shape": (2, 3, 4), "expected_output_shape": (2, 3, 4)}),
    (TTFSActivation, {"time_window": 8}, {"input_shape": (2, 4), "input_dtype": "uint8", "supports_masking": True}),
    (
        TemporalKernelDecode,
        {},
        {"input_data": tuple(map(tf.constant, TRIPLE)), "expected_output_shape": (1, 3), "run_training_check": False},
    ),
    (TKBatchNorm, {}, {"input_shape": (5, 4), "expected_output_shape": (5, 4), "supports_masking": True}),
    (TKBatchNorm, {"axis": 1, "scale": False}, {"input_shape": (5, 2, 3), "expected_output_shape": (5, 2, 3)}),
    (st.SpikeTimeEncode, {"scale": 2.0}, {"input_shape": (2, 4), "expected_output_shape": (2, 4)}),
    (st.SpikeTimePooling2D, {}, {"input_data": TIMES, "expected_output_shape": (2, 2, 2, 3)}),
    (st.SpikeTimeConv2D, {"filters": 5, "seed": 1}, {"input_data": TIMES, "expected_output_shape": (2, 4, 4, 5)}),
    (st.SpikeTimeDense, {"units": 5, "seed": 1}, {"input_data": TIMES[:, 0, 0], "expected_output_shape": (2, 5)}),
    (st.SpikeTimeOutput, {"units": 5, "seed": 1}, {"input_data": TIMES[:, 0, 0], "expected_output_shape": (2, 5)}),
]


@pytest.mark.parametrize(("layer", "arguments", "options"), SUITE, ids=lambda value: getattr(value, "__name__", ""))
def test_suite_of_keras(layer, arguments, options):
    half = not issubclass(layer, (st.SpikeTimeDense, st.SpikeTimeConv2D))
    TestCase().run_layer_test(layer, arguments, run_mixed_precision_check=half, **options)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool"])
def test_integers_are_the_same_numbers(dtype):
    """z_max = 8: the level below 5 of exp(-t / 10) * 8 is 4.852 at t = 5."""
    x = np.array([[0, 1, 5, 7]]).astype(dtype)
    for layer in (TTFSActivation(z_max_0=8.0), TKBatchNorm(), st.SpikeTimeEncode()):
        np.testing.assert_array_equal(layer(x), layer(x.astype("float32")))
        assert layer(x).dtype == layer(keras.Input((4,), dtype=dtype)).dtype == "float32"
    if dtype != "bool":
        assert float(TTFSActivation(z_max_0=8.0)(x)[0, 2]) == pytest.approx(8 * np.exp(-0.5))
    image = keras.Input((4, 4, 1), dtype=dtype)
    model = keras.Model(image, keras.layers.Conv2D(2, 3)(TTFSActivation()(image)))
    assert model.predict(np.ones((1, 4, 4, 1), dtype), verbose=0).shape == (1, 2, 2, 2)


@pytest.mark.parametrize("tau", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("kernel_gradient", ["decoder", "full"])
def test_a_bad_tau_is_an_error_that_names_the_layer_and_nan_in_a_graph(tau, kernel_gradient):
    inputs = keras.Input((4,))
    activation = TTFSActivation(name="culprit", kernel_gradient=kernel_gradient)
    hidden = activation(TKBatchNorm()(inputs))
    model = TTFSModel(inputs, keras.layers.Dense(2)(hidden))
    model.compile("sgd", "mse")
    activation.tau.assign(tau)
    with pytest.raises(ValueError, match="Expected tau to be a finite number > 0 .steps.. Received: .*'culprit'"):
        model(Z)
    assert np.isnan(model.predict(Z, verbose=0)).all()
    assert np.isnan(model.fit(Z, np.zeros((2, 2)), verbose=0).history["loss"][0])
    activation.tau.assign(10.0)
    activation.t_d.assign(np.nan)
    with pytest.raises(ValueError, match="Expected t_d to be a finite number .steps.. Received: .*'culprit'"):
        model(Z)
    assert np.isnan(model.predict(Z, verbose=0)).all()


@pytest.mark.parametrize(("tau", "t_d"), [(0.0, 0.0), (-1.0, 0.0), (np.nan, 0.0), (np.inf, 0.0), (9.0, np.inf)])
def test_pure_functions_give_nan_in_a_graph(tau, t_d):
    z = tf.constant(Z)
    functions = [tk.encode, tk.decode, tk.quantize, tk.maximum_error, tk.minimum_error, tk.precision_error]
    for function in functions:
        traced = tf.function(lambda tau, t_d, function=function: function(z, tau, t_d, 32))
        assert np.isnan(traced(tf.constant(tau), tf.constant(t_d))[:, :3]).all(), function
    traced = tf.function(lambda tau, t_d: (tk.levels(tau, t_d, 4), tk.z_max(tau, t_d), tk.fire(z, tau, t_d, 4)[1]))
    assert all(np.isnan(values).all() for values in traced(tf.constant(tau), tf.constant(t_d)))


def test_nan_in_a_graph_has_no_level():
    spike_time, z_hat = tf.function(lambda z: tk.fire(z, 10.0, 0.0, 32))(tf.constant([np.nan, 1.0]))
    np.testing.assert_array_equal(spike_time, [32, 0])
    np.testing.assert_array_equal(z_hat, [np.nan, 1.0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
def test_levels_far_below_epsilon_are_told_apart(dtype, rounding):
    """Smallest level exp(-85) = 1.2e-37, ten times the epsilon. A clock compares `z >= threshold` and nothing else."""
    kernel = 1.0, 0.0, 86
    thresholds = tk.thresholds(*kernel, rounding=rounding, dtype=dtype).numpy()
    below = np.nextafter(thresholds, np.zeros((), dtype))
    for z, expected in ((thresholds, np.arange(86)), (below, np.arange(1, 87))):
        np.testing.assert_array_equal(tk.encode(z, *kernel, rounding=rounding), expected)
        np.testing.assert_array_equal(tk.fire(z, *kernel, rounding=rounding)[0], expected)
        levels = np.append(tk.levels(*kernel, dtype=dtype).numpy(), 0)
        np.testing.assert_array_equal(tk.quantize(z, *kernel, rounding=rounding), levels[expected])


@pytest.mark.parametrize("time_window", [2**20, 40_000])
def test_the_longest_window_tells_every_level(time_window):
    tau = time_window / 3.2
    levels = tk.levels(tau, 0.0, time_window)
    np.testing.assert_array_equal(tk.encode(levels, tau, 0.0, time_window), np.arange(time_window))


KEPT = [(32, 10.0, 0.0), (40_000, 12_500.0, 0.3), (2000, 200.0, 0.0), (64, 1.0, -10.0), (1, 10.0, 0.0), (32, 1.0, 10.0)]
# Refused: infinite or zero levels, levels that are all one, smallest level exp(-31 / 0.35) = 3e-39, no normal float32.
REFUSED = [(32, 1e-30, 0), (32, 1e-3, 0), (32, 1e30, 0), (32, 1e308, 0), (32, 10, 1e4), (32, 10, -1e4), (32, 0.35, 0)]


def test_kernels_at_construction():
    for kernel in KEPT:
        assert TTFSActivation(*kernel).tau_0 == kernel[1]
    for kernel in REFUSED:
        with pytest.raises(ValueError, match="Expected a temporal kernel of 32 different levels .* Received: levels"):
            TTFSActivation(*kernel)
    for z_max_0 in (1e300, 1e-300):
        with pytest.raises(ValueError, match="Expected a temporal kernel .* Received: .* z_max_0=1e"):
            TTFSActivation(z_max_0=z_max_0)
    # exp(-31 / 0.35) is a normal float64.
    assert TTFSActivation(32, 0.35, dtype="float64").tau_0 == 0.35


def test_a_decoder_refuses_another_window_when_the_model_is_built():
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="Expected the time_window of the encoder, 16 .* Received: time_window=32"):
        TemporalKernelDecode()(TTFSEncode(time_window=16)(inputs))
    with pytest.raises(ValueError, match="Expected the time_window of the encoder"):
        TemporalKernelDecode()(TTFSEncode(time_window=16)(Z))
    encoder = keras.Model(inputs, TTFSEncode(time_window=16)(inputs))
    with pytest.raises(ValueError, match="Expected the time_window of the encoder"):
        TemporalKernelDecode()(encoder(Z))
    model = keras.Model(inputs, TemporalKernelDecode(16)(TTFSEncode(time_window=16)(inputs)))
    assert not model(np.zeros((1, 4), "float32")).numpy().any()


def test_spikes_of_masked_steps_are_not_counted():
    """Two samples of 3 and 1 steps of 2 numbers: 8 numbers are not masked, and all of them spike."""
    x = np.array([[[0.5, 1.0]] * 3, [[0.5, 1.0], [0, 0], [0, 0]]], "float32")
    inputs = keras.Input((3, 2))
    masked = keras.layers.Masking()(inputs)
    biased = keras.layers.Dense(2, kernel_initializer="zeros", bias_initializer="ones")
    for layer in (TTFSActivation(), TTFSEncode(), st.SpikeTimeEncode()):
        model = keras.Model(inputs, layer(biased(masked)))
        model(x)
        assert (float(layer.spikes.result()), int(layer.spikes.neurons)) == (4.0, 8)
    inner = TTFSActivation()
    keras.Model(inputs, keras.layers.TimeDistributed(inner)(biased(masked)))(x)
    # Per sample and call: three calls of two samples each.
    assert (int(inner.spikes.count), int(inner.spikes.neurons), int(inner.spikes.samples)) == (8, 8, 6)
    dense = st.SpikeTimeDense(2, initial_sum=8.0, seed=0)
    dense(np.ones((2, 3), "float32"), mask=np.array([True, False]))
    assert (int(dense.spikes.count), int(dense.spikes.neurons), int(dense.spikes.samples)) == (2, 2, 2)


def test_nan_is_no_spike_and_no_silence():
    metric = MeanSpikes()
    metric.update_state([[1.0, 0.5, 0.0], [0.0, 0.0, 0.2]])
    assert float(metric.result()) == 1.5
    metric.update_state([[1.0, np.nan, 0.0]])
    assert np.isnan(metric.result()) and int(metric.count) == 5
    metric.update_state([[1.0, 0.5, 0.0]])
    assert np.isnan(metric.result())
    metric.reset_state()
    metric.update_state([[1.0, np.nan, 0.0]], mask=[[True, False, True]])
    assert (float(metric.result()), int(metric.neurons)) == (1.0, 2)
    for layer in (TTFSEncode(), TTFSActivation(), st.SpikeTimeEncode(), st.SpikeTimeDense(2)):
        layer(np.full((1, 3), np.nan, "float32"))
        assert np.isnan(layer.spikes.result()), layer


def test_first_crossing_keeps_nan_where_it_belongs():
    """Rows with what is no time and columns with what is no weight are NaN; the other is 3, as 1 + 2 over 2 - 1."""
    z, weights = [[1.0, 2.0], [np.nan, 2.0], [-1.0, 2.0], [np.inf, 2.0]], [[1.0, np.nan], [1.0, 1.0]]
    expected = np.full((4, 2), np.nan)
    expected[0, 0] = 3.0
    np.testing.assert_array_equal(st.first_crossing(z, weights), expected)


def test_sizes_of_spike_time_layers():
    dense, convolution = st.SpikeTimeDense(3), st.SpikeTimeConv2D(3)
    dense(np.ones((2, 6), "float32"))
    convolution(np.ones((2, 4, 4, 2), "float32"))
    for layer, shape in ((dense, (2, 7)), (convolution, (2, 4, 4, 3))):
        with pytest.raises(
            ValueError, match=r"Expected inputs \(\.\.\., \d\), for which .* was built. Received: shape"
        ):
            layer(np.ones(shape, "float32"))
    assert dense.compute_output_shape((None, 6)) == (None, 3)
    assert convolution.compute_output_shape((None, 5, 4, 2)) == (None, 5, 4, 3)
    assert st.SpikeTimeEncode().compute_output_shape((None, 5)) == (None, 5)
    anywhere = keras.Input((None, None, 2))
    model = keras.Model(anywhere, st.SpikeTimeConv2D(3)(anywhere))
    assert model.predict(np.ones((1, 5, 4, 2)), verbose=0).shape == (1, 5, 4, 3)


def test_numbers_of_numpy_are_kept_as_pythons():
    import json

    layers = [
        TTFSActivation(np.int64(16), np.float32(5), np.float64(0.5), relaxation=np.array(0.25), seed=np.uint8(3)),
        TKBatchNorm(momentum=np.float32(0.5), epsilon=np.float32(0.5)),
        st.SpikeTimeDense(np.int64(3), initial_sum=np.float32(2), cost=np.array(1), seed=np.int32(1)),
        st.SpikeTimeEncode(np.float32(2)),
    ]
    for layer in layers:
        config = {name: value for name, value in layer.get_config().items() if not isinstance(value, dict)}
        assert json.loads(json.dumps(config)) == config
    assert layers[0].get_config()["tau_0"] == 5.0 and layers[0].get_config()["seed"] == 3


def test_epsilon_is_far_below_every_level():
    """The smallest threshold of tau = 10, T = 32 is above exp(-3.2) = 0.0408; a thousandth of it is 4.08e-5."""
    assert float(tk.encode([0.5], 10.0, 0.0, 32, epsilon=4e-5)[0]) == 7
    with pytest.raises(ValueError, match=r"Expected epsilon <= 4\.076\S* \[1\], .* Received: epsilon=4.1e-05"):
        tk.encode([0.5], 10.0, 0.0, 32, epsilon=4.1e-5)
    traced = tf.function(lambda tau: tk.quantize([0.5], tau, 0.0, 32, epsilon=1e-3))
    assert np.isnan(traced(tf.constant(10.0))).all()
