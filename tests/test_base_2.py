"""Temporal kernels of base 2: exact powers, frozen, and trained around as any other."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from keras_ttfs import TTFSActivation, TTFSEncode, applications, convert, temporal_kernel
from keras_ttfs.snn import SpikingNetwork, check_equivalence

DIGITS = load_digits()
X, Y = (DIGITS.images[..., None] / 16).astype("float32"), DIGITS.target
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def powers(steps_per_octave, time_window, t_d=0, shift=0.0):
    """2**(-(t + shift - t_d) / k), octave by octave."""
    exponents = [t_d - t - shift for t in range(time_window)]
    wholes = [int(np.floor(exponent / steps_per_octave)) for exponent in exponents]
    return np.array(
        [2.0**whole * 2.0 ** ((e - whole * steps_per_octave) / steps_per_octave) for e, whole in zip(exponents, wholes)]
    )


@pytest.mark.parametrize("kind", [TTFSActivation, TTFSEncode])
@pytest.mark.parametrize("steps_per_octave", [1, 2, 3, 4, 7, 10, 50])
@pytest.mark.parametrize("octaves", [0, 2])
def test_levels_and_thresholds_are_exact(kind, steps_per_octave, octaves):
    layer = kind(
        20 + steps_per_octave, base=2, steps_per_octave=steps_per_octave, z_max_0=2.0**octaves, rounding="nearest"
    )
    layer.build((None, 3))
    kernel = layer.tau.value, layer.t_d.value, layer.time_window
    for dtype in ("float32", "float64"):
        levels = temporal_kernel.levels(*kernel, dtype=dtype).numpy()
        expected = powers(steps_per_octave, layer.time_window, octaves * steps_per_octave)
        np.testing.assert_allclose(levels, expected.astype(dtype), rtol=0 if dtype == "float32" else 2e-15)
        whole = levels[::steps_per_octave]
        np.testing.assert_array_equal(whole, 2.0 ** (octaves - np.arange(len(whole))))
        thresholds = temporal_kernel.thresholds(*kernel, rounding="nearest", dtype=dtype).numpy()
        expected = powers(steps_per_octave, layer.time_window, octaves * steps_per_octave, 0.5)
        np.testing.assert_allclose(thresholds, expected.astype(dtype), rtol=0 if dtype == "float32" else 2e-15)


def test_every_z_falls_to_the_power_below():
    """k = 1 and the ceiling: the level of z is 2**floor(log2 z), also where z is a power and just below one."""
    exact = 2.0 ** -np.arange(15)
    z = np.concatenate([exact, np.nextafter(exact.astype("float32"), 0), np.nextafter(exact.astype("float32"), 2)])
    z = np.concatenate([z, np.random.default_rng(0).uniform(0, 1.2, 10_000)]).astype("float32")
    layer = TTFSActivation(15, base=2, steps_per_octave=1)
    mantissa, exponent = np.frexp(z)
    expected = np.minimum(np.ldexp(0.5, exponent), 1.0)
    expected = np.where(expected >= 2.0**-14, expected, 0.0)
    np.testing.assert_array_equal(layer(z[None])[0], expected)
    assert mantissa.min() >= 0.5


def test_a_natural_kernel_is_as_it_was():
    for tau in (10.0, 5.0, 6.0, 20.0, 1.4427, 2.885):
        exact = np.exp(-np.arange(32) / np.float64(np.float32(tau)))
        np.testing.assert_array_equal(temporal_kernel.levels(np.float32(tau), 0.0, 32), exact.astype("float32"))


@pytest.mark.slow
def test_a_network_trains_around_kernels_that_stay(tmp_path):
    keras.utils.set_random_seed(0)
    model = applications.vgg6(steps_per_octave=2, time_window=16, gamma_0=0.3, bn_momentum=0.9, tau_0=99.0)
    model.compile(keras.optimizers.Adam(3e-3), LOSS, metrics=["accuracy"])
    model.fit(X[:1400], Y[:1400], epochs=3, batch_size=32, verbose=0)
    assert model.evaluate(X[1400:], Y[1400:], verbose=0, return_dict=True)["accuracy"] > 0.8
    tau = np.float32(2 / np.log(2))
    assert {float(encoder.tau) for encoder in model.encoders} == {tau} and not any(float(e.t_d) for e in model.encoders)
    assert not any(weight is encoder.tau for encoder in model.encoders for weight in model.trainable_weights)
    assert float(model.penalties()[0]) == 0
    for dtype in ("float32", "float64"):
        assert check_equivalence(model, X[:30], dtype=dtype, verbose=0).equivalent
    path = str(tmp_path / "model.keras")
    model.save(path)
    program = f"import keras, keras_ttfs, numpy; model = keras.saving.load_model({path!r}); "
    program += "e = model.encoders[1]; print(e.base, e.steps_per_octave, e.tau.trainable, float(e.tau)); "
    program += "print(model(numpy.full((1, 8, 8, 1), 0.5)).numpy().tolist())"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    kernel, logits = done.stdout.strip().splitlines()
    assert kernel == f"2 2 False {float(tau)}"
    np.testing.assert_array_equal(eval(logits), model(np.full((1, 8, 8, 1), 0.5)))


def test_weights_of_another_kernel_are_refused(tmp_path):
    def make(**kernel):
        return keras.Sequential([keras.Input((4,)), TTFSActivation(16, name="in", **kernel), keras.layers.Dense(2)])

    path = str(tmp_path / "w.weights.h5")
    make(tau_0=5.0).save_weights(path)
    with pytest.raises(
        ValueError, match=r"Expected tau and t_d of a kernel of base 2, .* in layer 'in'. Received: \[5.0"
    ):
        make(base=2, steps_per_octave=4).load_weights(path)
    make(base=2, steps_per_octave=4).save_weights(path, overwrite=True)
    make(base=2, steps_per_octave=4).load_weights(path)


def test_the_gradient_reaches_the_largest_level():
    for steps_per_octave in range(1, 40):
        layer = TTFSActivation(64, base=2, steps_per_octave=steps_per_octave, z_max_0=2.0)
        z = tf.constant([[2.0, 1.0]])
        with tf.GradientTape() as tape:
            tape.watch(z)
            z_hat = layer(z)
        np.testing.assert_array_equal(z_hat, z)
        assert float(layer.z_max) == 2.0
        np.testing.assert_allclose(tape.gradient(z_hat, z), [[1.0, 1.0]], rtol=1e-6)


def relu(max_value=None):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(40),
            keras.layers.ReLU(max_value),
            keras.layers.Dense(10),
        ]
    )


def test_convert():
    keras.utils.set_random_seed(0)
    source = relu()
    source.compile("adam", LOSS)
    source.fit(X[:1000], Y[:1000], epochs=3, verbose=0)
    for steps_per_octave, wanted in ((None, 7), (1, 1), (4, 4)):
        model = convert(source, data=X[:200], base=2, steps_per_octave=steps_per_octave)
        assert {(e.base, e.steps_per_octave, float(e.t_d)) for e in model.encoders} == {(2, wanted, 0.0)}
        thresholds = SpikingNetwork.from_model(model).run(X[:5], verbose=0).thresholds[model.encoders[-1].name]
        np.testing.assert_array_equal(thresholds, powers(wanted, 32).astype("float32"))
    agree = convert(source, data=X[:200], base=2).predict(X, verbose=0).argmax(-1) == source.predict(
        X, verbose=0
    ).argmax(-1)
    assert agree.mean() > 0.95
    with pytest.raises(ValueError, match="Expected ReLUs without an upper limit with base=2"):
        convert(relu(6.0), data=X[:50], base=2)
    with pytest.raises(ValueError, match="Expected no tau_0 with base=2. Received: tau_0=5.0"):
        convert(source, base=2, tau_0=5.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": 3}, r"Expected base to be one of \(None, 2\). Received: base=3"),
        ({"base": 2}, "Expected steps_per_octave to be an integer >= 1 .* Received: steps_per_octave=None"),
        ({"steps_per_octave": 2}, "Expected base=2 with steps_per_octave. Received: steps_per_octave=2"),
        ({"base": 2, "steps_per_octave": 2, "tau_0": 3.0}, "Expected no tau_0 with base=2, .* Received: tau_0=3.0"),
        ({"base": 2, "steps_per_octave": 2, "z_max_0": 3.0}, "Expected a largest level that is a power of 2"),
        ({"base": 2, "steps_per_octave": 2, "t_d_0": 0.5}, "Expected a largest level that is a power of 2"),
        (
            {"base": 2, "steps_per_octave": 2, "z_max_0": 2.0, "t_d_0": 1.0},
            "Expected either t_d_0 or z_max_0, not both",
        ),
        ({"base": 2, "steps_per_octave": 1, "time_window": 200}, "Expected a temporal kernel of 200 different levels"),
    ],
)
def test_what_is_refused(options, message):
    for kind in (TTFSActivation, TTFSEncode):
        with pytest.raises(ValueError, match=message):
            kind(**options)


def test_weights_of_another_kernel_change_no_level_and_are_refused(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    spikes = TTFSActivation(12, base=2, steps_per_octave=4, name="in")
    model = keras.Model(inputs, keras.layers.Dense(2)(spikes(inputs)))
    x = np.random.default_rng(0).uniform(size=(20, 6)).astype("float32")
    before = spikes(x).numpy()
    spikes.set_weights([np.float32(5), *spikes.get_weights()[1:]])
    np.testing.assert_array_equal(spikes(x), before)
    for refused in (
        lambda: model.save(tmp_path / "model.keras"),
        lambda: SpikingNetwork.from_model(model),
        lambda: check_equivalence(model, x),
    ):
        with pytest.raises(
            ValueError, match="Expected tau and t_d of a kernel of base 2, .* in layer 'in'. Received: .5.0"
        ):
            refused()
