"""P_TB against its integral, its gradients against finite differences, and REG_TR."""

import math

import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs import regularizers
from keras_ttfs.regularizers import pruning_probability, series_range, temporal_kernel_penalty
from tests import reference


def slope(gamma, beta, z_min, h=1e-6):
    p = reference.pruning_probability
    return (p(gamma, beta + h, z_min) - p(gamma, beta - h, z_min)) / (2 * h)


def test_pruning_probability_is_the_integral_wherever_it_falls():
    rng = np.random.default_rng(1)
    inside = 0
    for gamma, beta, z_min in zip(rng.uniform(-2, 2, 200), rng.uniform(-2, 2, 200), rng.uniform(0.01, 0.5, 200)):
        g, b = tf.constant([gamma], tf.float64), tf.constant([beta], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch([g, b])
            ours = pruning_probability(g, b, z_min)
        gradients = tape.gradient(ours, [g, b])
        if slope(gamma, beta, z_min) <= 0:
            inside += 1
            assert abs(float(ours[0]) - reference.pruning_probability(gamma, beta, z_min)) < 1e-10
            assert float(gradients[1][0]) == pytest.approx(slope(gamma, beta, z_min), abs=1e-7)
        else:
            # The value where the fall ends, and no pull.
            assert [float(gradient[0]) for gradient in gradients] == [0.0, 0.0]
            lowest, highest = (float(end[0]) for end in series_range(np.float64([gamma]), z_min))
            end = highest if beta > highest else lowest
            assert float(ours[0]) == pytest.approx(reference.pruning_probability(gamma, end, z_min), abs=1e-10)
            assert slope(gamma, end, z_min) == pytest.approx(0, abs=1e-6)
    assert 60 < inside < 140
    assert float(pruning_probability(np.float64([0.8]), np.float64([-0.3]), 0.04)[0]) == pytest.approx(
        0.311205, abs=1e-6
    )


def test_range_of_the_series_at_gamma_1():
    # 3.5 beta^2 - z_min beta - (z_min^2 + 2) / 2 = 0.
    lowest, highest = series_range([1.0], 0.045)
    assert float(highest[0]) == pytest.approx((0.045 + np.sqrt(0.045**2 + 14 * 1.0010125)) / 7, rel=1e-6)
    assert float(lowest[0]) == pytest.approx((0.045 - np.sqrt(0.045**2 + 14 * 1.0010125)) / 7, rel=1e-6)
    assert float(highest[0]) == pytest.approx(0.541, abs=5e-4) and float(lowest[0]) == pytest.approx(-0.528, abs=5e-4)


def test_pruning_probability_of_any_number_is_bounded_and_nan_stays_nan():
    gamma = np.float32([1e30, -1e18, 1.0, 1.0, 0.0, -3.0])
    beta = np.float32([1e30, -1e18, 1e30, -np.inf, np.inf, 0.2])
    values = pruning_probability(gamma[2:], beta[2:], 0.045).numpy()
    assert np.isfinite(values).all() and (np.abs(values) < 2).all()
    assert np.isnan(pruning_probability([np.nan, 1.0, 1.0], [0.1, np.nan, 0.1], 0.045).numpy()).tolist() == [
        True, True, False,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="Expected z_min to be finite and >= 0. Received: z_min=nan"):
        pruning_probability([1.0], [0.1], np.nan)
    traced = tf.function(lambda z_min: pruning_probability([1.0], [0.1], z_min))
    assert np.isnan(traced(tf.constant(np.nan)).numpy()).all()


def test_pruning_probability_gradients_and_the_misprint_of_eq_15():
    gamma, beta, z_min = 0.8, -0.3, 0.04
    g, b = tf.constant([gamma], tf.float64), tf.constant([beta], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([g, b])
        p = pruning_probability(g, b, z_min)
    dgamma, dbeta = (float(gradient[0]) for gradient in tape.gradient(p, [g, b]))
    h = 1e-6
    p = reference.pruning_probability
    assert dbeta == pytest.approx((p(gamma, beta + h, z_min) - p(gamma, beta - h, z_min)) / (2 * h), abs=1e-8)
    assert dgamma == pytest.approx((p(gamma + h, beta, z_min) - p(gamma - h, beta, z_min)) / (2 * h), abs=1e-8)
    assert dbeta == pytest.approx(-0.717, abs=5e-4)
    printed = 1.5 * (gamma**2 / 3 + gamma + 1) - z_min * beta - 0.5 * (gamma * z_min**2 + 2)
    assert printed == pytest.approx(2.03, abs=0.01)
    eq_16 = -(z_min**3 - beta**3) * gamma / 3 - (z_min**2 - beta**2) * beta / 2
    assert dgamma == pytest.approx(eq_16, abs=1e-12), "Eq. 16 is right"


def test_temporal_kernel_penalty():
    assert temporal_kernel_penalty(12.0, -1.0, 10.0, 0.5) == 4.0 + 2.25


def test_firing_probability_is_the_share_of_normal_potentials():
    rng = np.random.default_rng(0)
    gamma, beta = rng.normal(size=50), rng.normal(size=50)
    ours = regularizers.firing_probability(tf.constant(gamma), tf.constant(beta), 0.1).numpy()
    wanted = [0.5 * (1 + math.erf((b - 0.1) / (abs(g) * math.sqrt(2)))) for g, b in zip(gamma, beta)]
    np.testing.assert_allclose(ours, wanted, rtol=1e-12)
    draws = gamma * rng.normal(size=(200_000, 50)) + beta
    np.testing.assert_allclose(ours, (draws >= 0.1).mean(0), atol=5e-3)


def test_gradient_of_the_firing_probability():
    gamma, beta = tf.constant([0.7, -0.4, 1.5], tf.float64), tf.constant([0.2, -0.3, 0.05], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([gamma, beta])
        share = regularizers.firing_probability(gamma, beta, 0.05)
    gradients = tape.gradient(share, [gamma, beta])
    for place, gradient in enumerate(gradients):
        step = [tf.constant(1e-6 if i == place else 0.0, tf.float64) for i in range(2)]
        sides = [regularizers.firing_probability(gamma + s * step[0], beta + s * step[1], 0.05) for s in (1.0, -1.0)]
        np.testing.assert_allclose(gradient, (sides[0] - sides[1]) / 2e-6, rtol=1e-6)


def test_a_channel_without_spread_fires_always_or_never():
    gamma = tf.constant([0.0, 0.0])
    with tf.GradientTape() as tape:
        tape.watch(gamma)
        share = regularizers.firing_probability(gamma, [0.2, 0.01], 0.05)
    np.testing.assert_array_equal(share, [1.0, 0.0])
    np.testing.assert_array_equal(tape.gradient(share, gamma), [0.0, 0.0])
