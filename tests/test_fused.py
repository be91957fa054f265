"""Batch normalisation and activation in one function, against the two layers and against float64 closed forms."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs import TKBatchNorm, TTFSActivation, TTFSModel, fused
from tests import reference

# Row counts with and without a remainder of the partial sums, one channel, and more channels than ROW_LENGTH.
MORE_SHAPES = [(2, 6, 5, 16), (5, 3, 2, 1), (2, 2, 3, 4, 3), (16, 3, 3000)]
SHAPES = [(33, 5), (3, 7, 4), *(pytest.param(shape, marks=pytest.mark.slow) for shape in MORE_SHAPES)]


def layers(shape, norm=None, **kwargs):
    """A batch normalisation with weights that clip some potentials and prune others, and an activation, both built."""
    rng = np.random.default_rng(0)
    norm, activation = TKBatchNorm(**(norm or {})), TTFSActivation(time_window=20, tau_0=6.0, t_d_0=1.3, **kwargs)
    norm.build(shape)
    activation.build(shape)
    for weight, low, high in ((norm.gamma, 0.3, 1.2), (norm.beta, -0.2, 0.6)):
        if weight is not None:
            weight.assign(rng.uniform(low, high, weight.shape))
    return norm, activation


def trained(norm, activation, x, upstream, separate):
    """`(z_hat, gradients of x and of all weights)` of a training step, with or without a tensor of z between the two."""

    @tf.function
    def train(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = norm(x, training=True)
            z_hat = activation(tf.identity(z) if separate else z, training=True)
        weights = [weight.value for weight in norm.trainable_variables + activation.trainable_variables]
        return z_hat, tape.gradient(z_hat, [x, *weights], upstream)

    return train(x, upstream)


def sample(shape, dtype="float32"):
    rng = np.random.default_rng(1)
    return (tf.constant(rng.normal(0.4, 2.0, shape), dtype), tf.constant(rng.normal(size=shape), dtype))


@pytest.mark.parametrize("relaxation", [0.0, 1.0])
@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"], indirect=True)
def test_equals_the_two_layers(shape, rounding, relaxation, policy):
    half = policy == "mixed_bfloat16"
    x, upstream = sample(shape, "bfloat16" if half else "float32")
    norm, activation = layers(shape, rounding=rounding, relaxation=relaxation)
    (one, gradients), (other, wanted) = (trained(norm, activation, x, upstream, separate) for separate in (0, 1))
    assert one.dtype == x.dtype
    np.testing.assert_array_equal(np.float64(one), np.float64(other))
    moving = [norm.moving_mean.numpy(), norm.moving_variance.numpy()]
    plain = keras.layers.BatchNormalization()
    for _ in range(2):
        plain(x, training=True)
    np.testing.assert_array_equal(moving, [plain.moving_mean, plain.moving_variance])
    for ours, theirs in zip(gradients, wanted, strict=True):
        ours, theirs = np.float64(ours), np.float64(theirs)
        # The layers between round dz and z_hat to bfloat16, this function does not.
        np.testing.assert_allclose(ours, theirs, atol=(2e-2 if half else 2e-5) * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
def test_gradients_are_the_closed_forms(rounding):
    shape, tau, t_d, time_window = (64, 4, 4, 6), 6.0, 1.3, 20
    x, upstream = sample(shape)
    norm, activation = layers(shape, rounding=rounding)
    _, gradients = trained(norm, activation, x, upstream, separate=False)
    x, upstream = (value.numpy().astype("float64").reshape(-1, 6) for value in (x, upstream))
    gamma, beta = np.float64(norm.gamma), np.float64(norm.beta)
    inverse = 1 / np.sqrt(x.var(0) + norm.epsilon)
    x_hat = (x - x.mean(0)) * inverse
    z = gamma * x_hat + beta
    assert (z > np.exp(t_d / tau)).mean() > 0.05 and ((z > 0) & (z < 0.04)).any() and (z < 0).mean() > 0.05
    dz, dtau, dt_d = (
        upstream * partial for partial in reference.gradients(z, tau, t_d, time_window, rounding, "decoder")
    )
    dgamma, dbeta = (dz * x_hat).sum(0), dz.sum(0)
    dx = gamma * inverse * (dz - dz.mean(0) - x_hat * (dz * x_hat).mean(0))
    wanted = [dx.reshape(shape), dgamma, dbeta, dtau.sum(), dt_d.sum()]
    for ours, exact in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=2e-5 * np.abs(exact).max())


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "epsilon": 0.1}])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"], indirect=True)
def test_the_norm_alone_equals_that_of_keras(shape, options, policy):
    half = policy == "mixed_bfloat16"
    x, upstream = sample(shape, "bfloat16" if half else "float32")
    results = []
    for norm in (TKBatchNorm(**options), keras.layers.BatchNormalization(**options)):
        norm.build(shape)
        for weight, at in zip(norm.trainable_variables, (0, 1)):
            weight.assign(np.random.default_rng(at).uniform(-0.5, 1.5, weight.shape))

        @tf.function
        def step(x, upstream, norm=norm):
            with tf.GradientTape() as tape:
                tape.watch(x)
                z = norm(x, training=True)
            return z, tape.gradient(z, [x, *(weight.value for weight in norm.trainable_variables)], upstream)

        results.append(step(x, upstream))
    (one, ours), (other, theirs) = results
    assert one.dtype == x.dtype and one.shape == x.shape
    np.testing.assert_array_equal(np.float64(one), np.float64(other))
    for our, their in zip(ours, theirs, strict=True):
        our, their = np.float64(our), np.float64(their)
        np.testing.assert_allclose(our, their, atol=(2e-2 if half else 2e-5) * max(1.0, np.abs(their).max()))
    x, upstream = (np.float64(value).reshape(-1, shape[-1]) for value in (x, upstream))
    weights = {weight.name: np.float64(weight) for weight in norm.trainable_variables}
    inverse = 1 / np.sqrt(x.var(0) + norm.epsilon)
    x_hat = (x - x.mean(0)) * inverse
    dbeta, dgamma = upstream.sum(0), (upstream * x_hat).sum(0)
    dx = weights.get("gamma", 1.0) * inverse * (upstream - dbeta / len(x) - x_hat * dgamma / len(x))
    exact = {"gamma": dgamma, "beta": dbeta}
    for our, their in zip(ours, [dx.reshape(shape), *(exact[name] for name in weights)], strict=True):
        scale = np.abs(their).max() + 1e-3
        np.testing.assert_allclose(np.float64(our), their, atol=(1e-2 if half else 2e-5) * scale)


def test_the_gradient_of_the_norms_gradient_is_refused():
    x, _ = sample((8, 4))
    norm = TKBatchNorm()

    def second(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                z = tf.reduce_sum(norm(x, training=True) ** 3)
            first = inner.gradient(z, x)
        return outer.gradient(first, x)

    assert np.abs(second(x)).max() > 0
    with pytest.raises(ValueError, match="Expected first derivatives of a TKBatchNorm in a tf.function"):
        tf.function(second)(x)


@pytest.mark.parametrize("norm", [{"scale": False}, {"center": False}, {"scale": False, "center": False}])
def test_without_scale_or_shift(norm):
    x, upstream = sample((8, 3, 4))
    made = layers((8, 3, 4), norm)
    (one, gradients), (other, wanted) = (trained(*made, x, upstream, separate) for separate in (False, True))
    np.testing.assert_array_equal(one, other)
    for ours, theirs in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_special_values_of_the_normalised_potential():
    """Infinite and undefined potentials, from weights that are."""
    x, upstream = sample((16, 4))
    norm, activation = layers((16, 4))
    norm.gamma.assign([np.inf, np.nan, 1e30, 0.0])
    (one, _), (other, _) = (trained(norm, activation, x, upstream, separate) for separate in (False, True))
    np.testing.assert_array_equal(one, other)
    assert np.isnan(one[:, 1]).all() and np.isfinite(one[:, 2]).all()


def test_potentials_that_others_use_too():
    """A residual branch takes z itself beside the activation."""
    x, upstream = sample((8, 6, 6, 4))
    results = []
    for separate in (False, True):
        norm, activation = layers(x.shape)
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = norm(x, training=True)
            y = z + activation(tf.identity(z) if separate else z, training=True)
        results.append(tape.gradient(y, [x, norm.gamma.value, norm.beta.value], upstream))
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


CASES = {
    "training": (True, {}, {}, {}),
    "inference": (False, {}, {}, {"training": False}),
    "frozen": (False, {"trainable": False}, {}, {}),
    "channels first": (False, {"axis": 1}, {}, {}),
    "last axis by number": (True, {"axis": 3}, {}, {}),
    "renormalised": (False, {"renorm": True}, {}, {}),
    "synchronised": (True, {"synchronized": True}, {}, {}),
    "full kernel gradient": (False, {}, {"kernel_gradient": "full"}, {}),
    "float64": (False, {"dtype": "float64"}, {"dtype": "float64"}, {}),
    "float16": (False, {"dtype": "mixed_float16"}, {"dtype": "mixed_float16"}, {}),
    "another precision": (False, {"dtype": "mixed_bfloat16"}, {"dtype": "float32"}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_where_it_applies(case, monkeypatch):
    applies, norm, activation, call = CASES[case]
    calls = []
    real = fused.normalize_and_quantize
    monkeypatch.setattr(
        fused, "normalize_and_quantize", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs)
    )
    x = np.random.default_rng(0).normal(size=(4, 3, 3, 2)).astype("float32")
    z = TKBatchNorm(**norm)(x, **{"training": True, **call})
    TTFSActivation(**activation)(z, **{"training": True, **call})
    assert bool(calls) == applies


def test_masked_batches_are_left_to_the_two_layers():
    x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype("float32")
    z = TKBatchNorm()(x, training=True, mask=np.array([[True, True, False]] * 4))
    assert fused.origin_of(z).normalization is None


def test_layers_between_break_the_bond():
    x, _ = sample((4, 8, 8, 2))
    z = TKBatchNorm()(x, training=True)
    assert fused.origin_of(z).normalization is not None
    assert fused.origin_of(keras.layers.MaxPooling2D()(z)) is None
    assert fused.origin_of(keras.layers.Dropout(0.5)(z, training=True)) is None


@pytest.mark.slow
def test_the_whole_step_compiled_by_xla_learns_the_same():
    """As on a GPU, where Keras compiles the step by default. One layer: a deeper one would pass on a last bit as a step."""
    x = np.random.default_rng(0).uniform(size=(24, 12)).astype("float32")
    learnt = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        hidden = [keras.layers.Dense(16), TKBatchNorm(), TTFSActivation(tau_0=7.0)]
        model = TTFSModel(inputs := keras.Input((12,)), keras.layers.Dense(3)(keras.Sequential(hidden)(inputs)))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=jit_compile)
        before = [np.array(weight) for weight in model.trainable_weights]
        model.train_on_batch(x, np.arange(24) % 3)
        learnt.append([np.array(new) - old for new, old in zip(model.trainable_weights, before)])
    for plain, compiled in zip(*learnt, strict=True):
        assert np.any(plain != 0)
        np.testing.assert_allclose(compiled, plain, rtol=1e-3, atol=1e-6)


def pooled_twice(norm, activation, x, upstream, pool):
    """`[(z_hat, gradients), ...]` of max pooling between the layers: computed at once, and with a tensor between them."""
    pooling = keras.layers.MaxPooling2D(pool)

    def trained_step(separate):
        @tf.function
        def train(x, upstream):
            with tf.GradientTape() as tape:
                tape.watch(x)
                z = norm(x, training=True)
                z_hat = activation(pooling(tf.identity(z) if separate else z), training=True)
            weights = [weight.value for weight in norm.trainable_variables + activation.trainable_variables]
            return z_hat, tape.gradient(z_hat, [x, *weights], upstream)

        return train(x, upstream)

    return trained_step(False), trained_step(True)


@pytest.mark.parametrize("relaxation", [0.0, 1.0])
@pytest.mark.parametrize("pool", [2, (2, 3), (1, 4)])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"], indirect=True)
def test_pooling_between_the_layers(pool, relaxation, policy, monkeypatch):
    windows = []
    one_pass = fused.normalize_and_quantize
    monkeypatch.setattr(
        fused, "normalize_and_quantize", lambda *a, **k: windows.append(k["window"]) or one_pass(*a, **k)
    )
    shape = (5, 4, 12, 3)
    pool = (pool, pool) if isinstance(pool, int) else pool
    x, _ = sample(shape, "bfloat16" if policy == "mixed_bfloat16" else "float32")
    upstream = tf.cast(np.random.default_rng(2).normal(size=(5, 4 // pool[0], 12 // pool[1], 3)), x.dtype)
    norm, activation = layers(shape, rounding="nearest", relaxation=relaxation)
    norm.gamma.assign([0.9, -0.7, 0.0])
    (one, gradients), (other, wanted) = pooled_twice(norm, activation, x, upstream, pool)
    assert windows == [pool]
    np.testing.assert_array_equal(np.float64(one), np.float64(other))
    for ours, theirs in list(zip(gradients, wanted, strict=True)) if policy == "float32" else ():
        ours, theirs = np.float64(ours), np.float64(theirs)
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize("gamma, places", [(1.0, [(0, 0), (0, 3)]), (-1.0, [(0, 0), (0, 2)])])
def test_equal_potentials_share_no_gradient(gamma, places):
    """Half precision makes ties frequent: one x of a window, the first of equals, receives its gradient."""
    x = np.float32([[1, 1, 0.5, 2], [1, 1, 2, 2]])
    norm = [tf.constant([value]) for value in (0.0, 1.0, gamma, 3.0)]
    with tf.GradientTape() as tape:
        potentials = tf.constant(x[None, :, :, None])
        tape.watch(potentials)
        normalization = fused.Normalization(potentials, *norm, 0.0)
        options = {"dtype": tf.float32, "relaxed": True, "window": (2, 2)}
        z_hat = fused.normalize_and_quantize(normalization, tf.constant(10.0), tf.constant(0.0), 32, **options)
    dz = np.zeros_like(x)
    for place in places:
        dz[place] = 1.0
    closed_form = gamma * (dz - dz.mean() - x * (dz * x).mean())
    np.testing.assert_allclose(tape.gradient(z_hat, potentials)[0, ..., 0], closed_form, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"pool_size": 3},
        {"pool_size": 1},
        {"pool_size": 8},
        {"pool_size": 2, "strides": 1},
        {"pool_size": 3, "strides": 2, "padding": "same"},
    ],
)
def test_other_poolings_are_computed_separately(options):
    shape = (3, 8, 8, 2)
    x, _ = sample(shape)
    norm, activation = layers(shape)
    pooling = keras.layers.MaxPooling2D(**options)
    found = []

    @tf.function
    def train(x):
        pooled = pooling(norm(x, training=True))
        found.append(fused.source_of(pooled))
        return activation(pooled, training=True)

    train(x)
    assert found == [None]
