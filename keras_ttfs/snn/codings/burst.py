"""Burst coding: spikes in a row carry more and more."""

import tensorflow as tf

from keras_ttfs.snn.codings.coding import Coding, soft_reset


class BurstCoding(Coding):
    """The threshold grows by a factor after each of consecutive spikes, else it goes back; a spike carries its threshold.

    An activation of 1 is 1 per step, several thresholds: what a neuron cannot send in single spikes it sends in bursts.

    Args:
        threshold: float in (0, 1]: of the first spike of a burst [1].
        factor: float >= 1: growth within a burst [1].

    Differs from the paper: the input is an analog current, constant over time.

    Reference: Park et al., "Fast and efficient information transmission with burst spikes", DAC 2019.
    """

    time_steps = 1125

    def __init__(self, threshold=0.125, factor=2.0):
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"Expected threshold in (0, 1]. Received: threshold={threshold!r}")
        if not factor >= 1.0:
            raise ValueError(f"Expected factor >= 1. Received: factor={factor!r}")
        self.threshold = float(threshold)
        self.factor = float(factor)

    def state(self, potential):
        return (tf.fill(tf.shape(potential), tf.constant(self.threshold, potential.dtype)),)

    def fire(self, potential, state, scale, step):
        (threshold,) = state
        potential, sent, fires = soft_reset(potential, scale * threshold)
        first = tf.constant(self.threshold, threshold.dtype)
        return potential, (tf.where(fires, threshold * self.factor, first),), sent, tf.cast(fires, tf.int8)
