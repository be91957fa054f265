"""The layers of TTFS coding: values, gradients, weights, options and errors."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs import TemporalKernelDecode, TKBatchNorm, TTFSActivation, TTFSEncode
from tests import reference
from tests.registry import LAYERS, sample

EDGES = np.concatenate([[-np.inf, -1, 0, 1e-30, np.inf], np.exp(-np.arange(-3, 36) / 10), np.linspace(-0.5, 1.5, 300)])[
    None
]


def pair(time_window=32, **kwargs):
    encoder = TTFSEncode(time_window, **kwargs)
    decoder = TemporalKernelDecode(time_window, dtype=kwargs.get("dtype"))
    return encoder, lambda z: decoder(encoder(z))


def value_and_gradients(call, layer, z):
    z = tf.convert_to_tensor(z)
    layer(z)
    upstream = tf.constant(np.random.default_rng(1).normal(size=z.shape), z.dtype)
    with tf.GradientTape() as tape:
        tape.watch(z)
        z_hat = call(z)
    return [z_hat, *tape.gradient(z_hat, [z, layer.tau.value, layer.t_d.value], upstream)]


@pytest.mark.parametrize(("layer", "kwargs"), LAYERS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16", "float64"], indirect=True)
def test_generic(layer, kwargs, policy):
    made = layer(**kwargs)
    x = sample(made)
    outputs = made(x)
    copy = layer.from_config(made.get_config())
    assert copy.get_config() == made.get_config()
    copy(x)
    copy.set_weights(made.get_weights())
    for ours, theirs in zip(keras.tree.flatten(outputs), keras.tree.flatten(copy(x))):
        np.testing.assert_array_equal(ours, theirs)
    spec = made.compute_output_spec(*[keras.tree.map_structure(lambda t: keras.KerasTensor(t.shape, t.dtype), x)])
    shapes = keras.tree.map_structure(lambda t: tuple(t.shape), outputs)
    assert keras.tree.map_structure(lambda t: tuple(t.shape), spec) == shapes
    if layer is not TTFSEncode:
        assert outputs.dtype == made.compute_dtype == spec.dtype
    for weight in made.weights:
        assert weight.dtype == made.variable_dtype


@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
@pytest.mark.parametrize("kernel_gradient", ["decoder", "full"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activation_equals_the_pair_bit_for_bit(rounding, kernel_gradient, dtype):
    for tau_0, z_max_0 in ((10.0, None), (6.5, 2.0)):
        options = {"tau_0": tau_0, "z_max_0": z_max_0, "rounding": rounding, "kernel_gradient": kernel_gradient}
        activation = TTFSActivation(**options, dtype=dtype)
        encoder, decoded = pair(**options, dtype=dtype)
        z = EDGES[np.isfinite(EDGES)][None].astype(dtype)
        ours = value_and_gradients(activation, activation, z)
        theirs = value_and_gradients(decoded, encoder, z)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(activation(EDGES.astype(dtype)), decoded(EDGES.astype(dtype)))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
def test_activation_equals_the_pair_in_half_precision(policy):
    activation, (_, decoded) = TTFSActivation(tau_0=7.3), pair(tau_0=7.3)
    np.testing.assert_array_equal(activation(EDGES).numpy(), decoded(EDGES).numpy())


@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
@pytest.mark.parametrize("kernel_gradient", ["decoder", "full"])
@pytest.mark.parametrize("region", ["clipped", "quantised", "pruned", "negative", "zero"])
@pytest.mark.parametrize("kind", ["activation", "pair"])
def test_gradients_by_region_in_float64(rounding, kernel_gradient, region, kind):
    tau, t_d, time_window = 9.0, 3.0, 20
    lowest, highest = np.exp(-(time_window - 1 - t_d) / tau), np.exp(t_d / tau)
    z = {
        "clipped": np.linspace(highest * 1.001, 5, 40),
        "quantised": np.linspace(lowest * 1.001, highest * 0.999, 40),
        "pruned": np.linspace(1e-6, lowest * 0.9, 40),
        "negative": np.linspace(-3, -1e-6, 40),
        "zero": np.zeros(3),
    }[region][None]
    options = {"tau_0": tau, "t_d_0": t_d, "rounding": rounding, "kernel_gradient": kernel_gradient, "dtype": "float64"}
    if kind == "activation":
        layer = call = TTFSActivation(time_window, **options)
    else:
        layer, call = pair(time_window, **options)
    z_hat, dz, dtau, dt_d = value_and_gradients(call, layer, z)
    upstream = np.random.default_rng(1).normal(size=z.shape)
    exact = reference.gradients(z, tau, t_d, time_window, rounding, kernel_gradient)
    np.testing.assert_allclose(dz, upstream * exact[0], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(dtau, np.sum(upstream * exact[1]), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(dt_d, np.sum(upstream * exact[2]), rtol=1e-6, atol=1e-12)
    fires = region in ("clipped", "quantised")
    assert np.any(z_hat.numpy() != 0) == fires
    assert np.any(dz.numpy() != 0) == (region == "quantised")
    if region == "quantised" and kernel_gradient == "full":
        np.testing.assert_allclose(dt_d, 0, atol=1e-12)


def test_float32_gradients_are_those_of_float64():
    z = np.linspace(-0.2, 1.2, 1001)[None]
    results = []
    for dtype in ("float32", "float64"):
        layer = TTFSActivation(dtype=dtype)
        results.append(value_and_gradients(layer, layer, z.astype("float32").astype(dtype)))
    for single, double in zip(*results):
        np.testing.assert_allclose(single, double, rtol=2e-4, atol=1e-6)


def test_relaxation_extremes_and_inference():
    z = tf.constant([[-1.0, 0.3, 3.0]])
    quantised = TTFSActivation()(z)
    always, never = TTFSActivation(relaxation=1.0), TTFSActivation(relaxation=0.0)
    np.testing.assert_array_equal(always(z, training=True), tf.nn.relu(z))
    np.testing.assert_array_equal(always(z, training=False), quantised)
    for _ in range(20):
        np.testing.assert_array_equal(never(z, training=True), quantised)


@pytest.mark.slow
def test_relaxation_draws_once_per_layer_and_batch():
    z = tf.random.uniform((8, 5), maxval=2.0)
    quantised, relaxed = TTFSActivation()(z).numpy(), z.numpy()
    rates = []
    for seed in range(3):
        layer = TTFSActivation(relaxation=0.3, seed=seed)
        outputs = [layer(z, training=True).numpy() for _ in range(300)]
        hits = [np.array_equal(output, relaxed) for output in outputs]
        assert all(hit or np.array_equal(output, quantised) for hit, output in zip(hits, outputs))
        rates.append(np.mean(hits))
    # Three standard deviations of 900 draws.
    assert abs(np.mean(rates) - 0.3) < 3 * np.sqrt(0.3 * 0.7 / 900)


def test_relaxed_batch_has_the_gradient_of_relu():
    layer = TTFSActivation(relaxation=1.0)
    z = tf.constant([[-1.0, 0.001, 0.3, 3.0]])
    layer(z)
    with tf.GradientTape() as tape:
        tape.watch(z)
        z_hat = layer(z, training=True)
    dz, dtau = tape.gradient(z_hat, [z, layer.tau.value])
    np.testing.assert_array_equal(dz, [[0, 1, 1, 1]])
    assert float(dtau) == 0


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_ranks_and_unknown_batch(rank):
    shape = (3, 2, 4, 2)[: rank - 1]
    inputs = keras.Input(shape)
    normalized = TKBatchNorm()(inputs)
    activated = TTFSActivation()(normalized)
    decoded = TemporalKernelDecode()(TTFSEncode()(normalized))
    model = keras.Model(inputs, [activated, decoded])
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype("float32")
    one, other = model.predict(x, batch_size=2, verbose=0)
    assert one.shape == x.shape
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_plain_keras_fit_learns_and_reports_spikes(jit_compile):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(256, 8)).astype("float32")
    y = (x[:, 0] > x[:, 1]).astype("int32")
    layers = [keras.layers.Dense(16), TKBatchNorm(momentum=0.5), TTFSActivation(relaxation=0.3), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"], jit_compile=jit_compile)
    losses = model.fit(x, y, epochs=8, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < 0.6 * losses[0]
    logs = model.evaluate(x, y, batch_size=100, verbose=0, return_dict=True)
    hidden = keras.Sequential(layers[:3])(x).numpy()
    assert logs[f"{layers[2].name}_spikes"] == pytest.approx(np.count_nonzero(hidden) / 256, rel=1e-12)


def test_kernel_learns():
    layer = TTFSActivation()
    model = keras.Sequential([layer])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    z = np.random.default_rng(0).uniform(0.1, 2.0, (64, 4)).astype("float32")
    model.fit(z, z, epochs=3, verbose=0)
    assert float(layer.t_d) > 0.01, "values above z_max pull it up"
    assert float(layer.tau) != 10.0


def test_z_max_0_stands_for_t_d_0():
    layer = TTFSEncode(tau_0=10.0, z_max_0=2.0)
    layer.build((None, 3))
    assert float(layer.t_d) == pytest.approx(6.9314718, abs=1e-6)
    assert float(layer.z_max) == pytest.approx(2.0, abs=1e-6)
    assert float(layer.z_min) == pytest.approx(2 * np.exp(-3.1), abs=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"time_window": 0}, "Expected time_window to be an integer >= 1 .* Received: time_window=0"),
        ({"time_window": True}, "Expected time_window .* Received: time_window=True"),
        ({"tau_0": 0.0}, "Expected tau_0 to be a finite number > 0 .* Received: tau_0=0.0"),
        ({"tau_0": "10"}, "Expected tau_0 .* Received: tau_0='10'"),
        ({"t_d_0": float("nan")}, "Expected t_d_0 to be a finite number .* Received: t_d_0=nan"),
        ({"rounding": "floor"}, "Expected rounding .* Received: rounding='floor'"),
        ({"kernel_gradient": None}, "Expected kernel_gradient .* Received: kernel_gradient=None"),
        ({"z_max_0": -1.0}, "Expected z_max_0 to be a finite number > 0 .* Received: z_max_0=-1.0"),
        ({"z_max_0": 2.0, "t_d_0": 1.0}, "Expected either t_d_0 or z_max_0"),
        ({"relaxation": 1.5}, r"Expected relaxation in \[0, 1\]. Received: relaxation=1.5"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TTFSActivation(**kwargs)


def test_decoder_wants_the_triple():
    with pytest.raises(ValueError, match=r"Expected the triple \(spike_time, tau, t_d\)"):
        TemporalKernelDecode()(np.zeros((2, 3), "float32"))


def test_batch_norm_is_keras_batch_normalization():
    ours = inspect.signature(TKBatchNorm.__init__).parameters
    assert list(ours) == list(inspect.signature(keras.layers.BatchNormalization.__init__).parameters)
    rng = np.random.default_rng(0)
    for kwargs in ({}, {"momentum": 0.7, "epsilon": 1e-2, "scale": False}, {"axis": 1, "center": False}):
        layers = [kind(**kwargs) for kind in (TKBatchNorm, keras.layers.BatchNormalization)]
        for _ in range(4):
            x = rng.normal(1.0, 3.0, (16, 5, 5, 4)).astype("float32")
            np.testing.assert_array_equal(*(layer(x, training=True) for layer in layers))
        np.testing.assert_array_equal(*(layer(x, training=False) for layer in layers))
        for one, other in zip(*(layer.weights for layer in layers), strict=True):
            np.testing.assert_array_equal(one, other)


def test_pruning_probability_of_a_layer():
    layer = TKBatchNorm(beta_initializer=keras.initializers.Constant(-0.3), dtype="float64")
    layer.build((None, 3))
    layer.gamma.assign([0.8, 1.0, -0.5])
    z_min = tf.constant(0.04, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(z_min)
        p = layer.pruning_probability(z_min)
    np.testing.assert_allclose(p, [reference.pruning_probability(g, -0.3, 0.04) for g in (0.8, 1.0, -0.5)], atol=1e-12)
    assert tape.gradient(p, z_min) is None
    bare = TKBatchNorm(center=False, scale=False)
    bare.build((None, 2))
    np.testing.assert_allclose(bare.pruning_probability(0.04), reference.pruning_probability(1, 0, 0.04), rtol=1e-6)


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_kernel_of_a_half_precision_layer_moves_in_small_steps(policy):
    layer = TTFSActivation(dtype=policy, relaxation=0.5)
    z_hat = layer(tf.constant([[1.0, 0.5, 0.0]], policy), training=True)
    assert z_hat.dtype == policy and {weight.dtype for weight in layer.weights} == {"float32"}
    layer.tau.assign_add(1e-3)
    assert float(layer.tau) == pytest.approx(10.001)
    spike_time, tau, t_d = TTFSEncode(dtype=policy)(keras.Input((3,), dtype=policy))
    assert (spike_time.dtype, tau.dtype, t_d.dtype) == ("float32",) * 3
