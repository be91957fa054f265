"""Phase coding: weighted spikes."""

import tensorflow as tf

from keras_ttfs import checks
from keras_ttfs.snn.codings.coding import Coding, soft_reset

LONGEST_PERIOD = 126


class PhaseCoding(Coding):
    """Phase coding: a spike in phase k of a period carries `2**-(1 + k)` in units of the scale, k from 0.

    The threshold in phase k is the same number, and the reset is soft: the potential loses what the spike carries. A
    period sends an activation as a binary fraction, its most significant bit first.

    Args:
        period: int >= 1, <= 126: phases of a period [steps]. `2**-126` is the smallest normal float32.

    Raises:
        ValueError: "Expected period to be an integer >= 1 [steps]. Received: ...".

    Differs from the paper: the input is an analog current, an equal share at each phase, not a binary fraction.

    Reference: Kim et al., "Deep neural networks with weighted spikes", Neurocomputing 311, 2018.
    """

    time_steps = 1500

    def __init__(self, period: int = 8):
        self.period = checks.integer("period", period, unit="steps", most=LONGEST_PERIOD)
        self.current = 1.0 / self.period

    def fire(
        self, potential: tf.Tensor, state: tuple[tf.Tensor, ...], scale: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor]:
        weight = tf.pow(tf.constant(0.5, scale.dtype), tf.cast(1 + step % self.period, scale.dtype))
        potential, sent, fires = soft_reset(potential, scale * weight)
        return potential, state, sent, tf.cast(fires, tf.int8)
