"""Burst coding: spikes in a row carry more and more."""

import tensorflow as tf

from keras_ttfs import checks
from keras_ttfs.snn.codings.coding import Coding, soft_reset


class BurstCoding(Coding):
    """Burst coding: the threshold grows by a factor with every spike in a row, and a spike carries its threshold.

    At a step without a spike the threshold goes back to its first value. The reset is soft: the potential loses what
    the spike carries. An activation of 1 means a drive of 1/8 per step, the first threshold by default: in the original
    the input is phase-coded with a period of 8, which sends an activation once in 8 steps, and biases act once in a
    period. So single spikes serve small activations, and bursts serve large ones and what arrives at once.

    Args:
        threshold: float in (0, 1]: of the first spike of a burst, in units of the scale [1].
        factor: float >= 1: growth within a burst [1].

    Raises:
        ValueError: "Expected threshold in (0, 1]. Received: ..." or "Expected factor >= 1, finite. Received: ...".

    Differs from the paper: the input is an analog current, an equal share at each step, not a binary fraction.

    Reference: Park et al., "Fast and efficient information transmission with burst spikes", DAC 2019.
    """

    time_steps = 1125
    current = 1.0 / 8

    def __init__(self, threshold: float = 0.125, factor: float = 2.0):
        self.threshold, self.factor = checks.real(threshold), checks.real(factor)
        if not 0.0 < self.threshold <= 1.0:
            raise ValueError(f"Expected threshold in (0, 1]. Received: threshold={threshold!r}")
        if not 1.0 <= self.factor < float("inf"):
            raise ValueError(f"Expected factor >= 1, finite. Received: factor={factor!r}")

    def state(self, potential: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (tf.fill(tf.shape(potential), tf.constant(self.threshold, potential.dtype)),)

    def fire(
        self, potential: tf.Tensor, state: tuple[tf.Tensor, ...], scale: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor]:
        (threshold,) = state
        potential, sent, fires = soft_reset(potential, scale * threshold)
        first = tf.constant(self.threshold, threshold.dtype)
        return potential, (tf.where(fires, threshold * self.factor, first),), sent, tf.cast(fires, tf.int8)
