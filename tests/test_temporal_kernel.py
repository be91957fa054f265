"""The temporal kernel's formulas against closed forms, exact arithmetic and finite differences."""

import decimal

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ttfs import temporal_kernel as tk
from tests import reference

KERNELS = [(10.0, 0.0, 32), (10.0, 6.93, 32), (2.5, -0.7, 8), (7.3, 1.25, 128), (40.0, 0.0, 300), (10.0, 0.0, 1)]
ROUNDINGS = ["ceil", "nearest"]


def grid(tau, t_d, time_window):
    rng = np.random.default_rng(0)
    top = np.exp(t_d / tau)
    return np.concatenate(
        [rng.uniform(-0.5, 2.0, 500) * top, top * np.exp(-rng.uniform(-2, time_window + 5, 500) / tau)]
    )


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(("tau", "t_d", "time_window"), KERNELS)
def test_encode_and_decode_closed_forms(tau, t_d, time_window, rounding):
    z = grid(tau, t_d, time_window)
    t = tk.encode(z, tau, t_d, time_window, rounding=rounding).numpy()
    assert t.dtype == np.float64
    np.testing.assert_array_equal(t, reference.spike_time(z, tau, t_d, time_window, rounding))
    z_hat = tk.decode(t, tau, t_d, time_window).numpy()
    np.testing.assert_allclose(z_hat, reference.level(t, tau, t_d, time_window), rtol=1e-14)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(("tau", "t_d", "time_window"), KERNELS)
def test_every_float32_spike_satisfies_the_integer_definition(tau, t_d, time_window, rounding):
    """Exact arithmetic decides; only a z within one float32 ulp of a threshold may fall on its other side."""
    tau, t_d = np.float32(tau), np.float32(t_d)
    exact = reference.exact_thresholds(float(tau), float(t_d), time_window, 0 if rounding == "ceil" else 0.5)
    near = np.array([np.float32(threshold) for threshold in exact])
    around = [near]
    for direction in (np.float32(0), np.float32(np.inf)):
        z = near
        for _ in range(4):
            z = np.nextafter(z, direction)
            around.append(z)
    fine = np.linspace(0, 1.2 * near[0], 20000, dtype=np.float32)[1:]
    z = np.concatenate([*around, fine])
    descending = np.array(exact)
    wanted = np.array([np.searchsorted(-descending, -decimal.Decimal(float(value))) for value in z])
    for encoded in (
        tk.encode(z, tau, t_d, time_window, rounding=rounding).numpy(),
        spike_time_of(tk.quantize(z, tau, t_d, time_window, rounding=rounding).numpy(), tau, t_d, time_window),
    ):
        wrong = np.flatnonzero(encoded != wanted)
        for i in wrong:
            distance = min(abs(decimal.Decimal(float(z[i])) - threshold) for threshold in exact)
            assert distance <= decimal.Decimal(float(np.spacing(z[i])))
        # Only a threshold itself, where float32 rounds it down, can be on the wrong side: measured 0 to T/2.
        assert len(wrong) <= time_window
        print(f"tau={tau} t_d={t_d} T={time_window} {rounding}: {len(wrong)} of {len(z)} within an ulp")


def spike_time_of(z_hat, tau, t_d, time_window):
    """Step of each emitted level, which must be one of the table, bit for bit."""
    table = np.append(tk.levels(tau, t_d, time_window).numpy(), np.float32(0))
    step = np.searchsorted(-table, -z_hat)
    np.testing.assert_array_equal(table[step], z_hat)
    return step


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
def test_special_values(dtype):
    z = tf.cast([np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1.0, 0.5], dtype)
    for rounding in ROUNDINGS:
        t = tk.encode(z, 10.0, 0.0, 32, rounding=rounding).numpy()
        np.testing.assert_array_equal(t, [np.nan, 0, 32, 32, 32, 32, 0, 7])
        assert t.dtype == (np.float64 if dtype == tf.float64 else np.float32)
        z_hat = tk.quantize(z, 10.0, 0.0, 32, rounding=rounding)
        assert z_hat.dtype == dtype
        np.testing.assert_array_equal(np.isnan(np.float64(z_hat)), [True] + [False] * 7)
        np.testing.assert_array_equal(np.float64(z_hat)[1:7], [1, 0, 0, 0, 0, 1])


def test_spike_times_beyond_256_are_exact_for_bfloat16():
    z = tf.cast(tf.exp(-tf.range(0.0, 500.0) / 50.0), tf.bfloat16)
    t = tk.encode(z, 50.0, 0.0, 512).numpy()
    np.testing.assert_array_equal(t, reference.spike_time(np.float64(z), 50.0, 0.0, 512))
    assert len(np.unique(t[t > 256])) > 50


def test_epsilon_leaves_every_level_untouched():
    levels = tk.levels(10.0, 0.0, 128)
    np.testing.assert_array_equal(tk.encode(levels, 10.0, 0.0, 128), np.arange(128))


@settings(max_examples=50, deadline=None)
@given(
    tau=st.floats(1.0, 60.0, width=32),
    t_d=st.floats(-10.0, 10.0, width=32),
    time_window=st.integers(1, 64),
    z=st.lists(st.floats(allow_nan=False, width=32), min_size=2, max_size=40),
    rounding=st.sampled_from(ROUNDINGS),
)
def test_encode_properties(tau, t_d, time_window, z, rounding):
    z = np.sort(np.float32(z))
    t = tk.encode(z, tau, t_d, time_window, rounding=rounding).numpy()
    assert np.all(np.isin(t, np.arange(time_window + 1)))
    assert np.all(np.diff(t) <= 0), "a larger potential never fires later"
    z_hat = tk.decode(t, tau, t_d, time_window).numpy()
    if rounding == "ceil":
        assert np.all(z_hat <= np.maximum(z, 0))
    levels = tk.levels(tau, t_d, time_window)
    again = tk.encode(levels, tau, t_d, time_window, rounding=rounding)
    np.testing.assert_array_equal(again, np.arange(time_window))
    np.testing.assert_array_equal(tk.decode(again, tau, t_d, time_window), levels)


def test_decode_between_steps_and_its_gradient():
    t, tau, t_d = tf.constant([0.25, 3.5, 30.9, 31.99, 32.0, 40.0], tf.float64), 10.0, 1.0
    z_hat = tk.decode(t, tau, t_d, 32)
    np.testing.assert_allclose(z_hat, reference.level(t.numpy(), tau, t_d, 32), rtol=1e-14)
    with tf.GradientTape() as tape:
        tape.watch(t)
        z_hat = tk.decode(t, tau, t_d, 32)
    h = 1e-6
    difference = (reference.level(t[:4] + h, tau, t_d, 32) - reference.level(t[:4] - h, tau, t_d, 32)) / (2 * h)
    np.testing.assert_allclose(tape.gradient(z_hat, t)[:4], difference, rtol=1e-8)


def test_decoder_gradients_by_finite_differences():
    t = tf.constant([0.0, 3.0, 31.0, 32.0], tf.float64)
    tau, t_d, h = tf.constant(9.0, tf.float64), tf.constant(1.5, tf.float64), 1e-6
    for i in range(4):
        with tf.GradientTape() as tape:
            tape.watch([tau, t_d])
            z_hat = tk.decode(t[i : i + 1], tau, t_d, 32)
        dtau, dt_d = tape.gradient(z_hat, [tau, t_d])
        level = lambda tau, t_d, i=i: reference.level(t[i], tau, t_d, 32)  # noqa: E731
        np.testing.assert_allclose(dtau, (level(9.0 + h, 1.5) - level(9.0 - h, 1.5)) / (2 * h), atol=1e-9)
        np.testing.assert_allclose(dt_d, (level(9.0, 1.5 + h) - level(9.0, 1.5 - h)) / (2 * h), atol=1e-9)
        if i == 1:
            assert abs(dt_d - z_hat[0] / 9.0) < 1e-12, "1 / tau"
            assert abs(dt_d - z_hat[0] * 1.5 / 9.0) > 1e-3, "not t_d / tau, as Eq. 6 prints"


def test_range_and_errors():
    tau, t_d, time_window = 10.0, 2.0, 32
    lowest, highest = np.exp(-(31 - 2.0) / 10), np.exp(0.2)
    np.testing.assert_allclose(tk.z_min(np.float64(tau), t_d, time_window), lowest, rtol=1e-14)
    np.testing.assert_allclose(tk.z_max(np.float64(tau), t_d), highest, rtol=1e-14)
    z = np.array([-1.0, 0.0, lowest / 2, 0.3, 1.0, highest + 0.5, np.nan])
    maximum = tk.maximum_error(z, tau, t_d, time_window).numpy()
    minimum = tk.minimum_error(z, tau, t_d, time_window).numpy()
    precision = tk.precision_error(z, tau, t_d, time_window).numpy()
    np.testing.assert_allclose(maximum, [0, 0, 0, 0, 0, 0.5, np.nan], atol=1e-14)
    np.testing.assert_allclose(minimum, [lowest + 1, lowest, lowest / 2, 0, 0, 0, np.nan], atol=1e-14)
    z_hat = reference.level(reference.spike_time(z, tau, t_d, time_window), tau, t_d, time_window)
    np.testing.assert_allclose(precision[:6], [0, 0, 0, 0.3 - z_hat[3], 1.0 - z_hat[4], 0], atol=1e-14)
    assert np.isnan(precision[6])
    widest = tk.maximum_precision_error(np.float64(tau), t_d).numpy()
    np.testing.assert_allclose(widest, np.exp(0.2) - np.exp(0.1), rtol=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: tk.encode([1.0], 10.0, 0.0, 0),
            "Expected time_window to be an integer >= 1 .* Received: time_window=0",
        ),
        (lambda: tk.decode([1.0], 10.0, 0.0, 2.5), "Expected time_window .* Received: time_window=2.5"),
        (lambda: tk.encode([1.0], 10.0, 0.0, 8, rounding="floor"), "Expected rounding .* Received: rounding='floor'"),
        (
            lambda: tk.quantize([1.0], 10.0, 0.0, 8, kernel_gradient="no"),
            "Expected kernel_gradient .* Received: .*'no'",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
def test_fire_is_encode_and_decode_whatever_came_before(dtype, rounding):
    for time_window in (1, 8, 32, 300, 40_000):
        kernel = time_window / 3.2, 0.3, time_window
        for size in (5, 700):
            z = tf.constant(np.random.default_rng(size).normal(0.2, 0.8, size), dtype)
            spike_time, z_hat = tk.fire(z, *kernel, rounding=rounding)
            expected = tk.encode(z, *kernel, rounding=rounding)
            assert spike_time.dtype == (tf.int16 if time_window < 40_000 else tf.int32)
            np.testing.assert_array_equal(spike_time, expected)
            np.testing.assert_array_equal(z_hat, tk.decode(expected, *kernel))


def test_thresholds_are_what_the_encoder_compares_with():
    for rounding in ("ceil", "nearest"):
        thresholds = tk.thresholds(10.0, 1.0, 32, rounding=rounding).numpy()
        at, below = thresholds, np.nextafter(thresholds, np.float32(0))
        np.testing.assert_array_equal(tk.encode(at, 10.0, 1.0, 32, rounding=rounding), np.arange(32))
        np.testing.assert_array_equal(tk.encode(below, 10.0, 1.0, 32, rounding=rounding), np.arange(1, 33))
