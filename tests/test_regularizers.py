"""P_TB against its integral, its gradients against finite differences, and REG_TR."""

import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs.regularizers import pruning_probability, temporal_kernel_penalty
from tests import reference


def test_pruning_probability_is_the_integral():
    rng = np.random.default_rng(1)
    for gamma, beta, z_min in zip(rng.uniform(-2, 2, 50), rng.uniform(-2, 2, 50), rng.uniform(0.01, 0.5, 50)):
        ours = float(pruning_probability(np.float64([gamma]), np.float64([beta]), z_min)[0])
        assert abs(ours - reference.pruning_probability(gamma, beta, z_min)) < 1e-10
    assert float(pruning_probability(np.float64([0.8]), np.float64([-0.3]), 0.04)[0]) == pytest.approx(
        0.311205, abs=1e-6
    )


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
