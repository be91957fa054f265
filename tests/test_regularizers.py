"""P_TB against its integral, its gradients against finite differences, and REG_TR."""

import numpy as np
import pytest
import tensorflow as tf

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
