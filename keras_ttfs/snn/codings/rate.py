"""Rate coding with a soft reset: the residual membrane potential (RMP) neuron."""

import tensorflow as tf

from keras_ttfs.snn.codings.coding import Coding, soft_reset


class RateCoding(Coding):
    """Rate coding: a neuron fires when its potential reaches the threshold, which is then subtracted (soft reset).

    The number of spikes over the simulation is the activation, in steps of `scale / time_steps`. The residual potential
    is kept. Every neuron begins with half a threshold, so that it sends the nearest number of spikes, not the next lower
    one.

    Differs from the paper: the input is an analog current, constant over time. The threshold is the 99.9th percentile
    of the activations, as in all codings here, not the balanced one. RMP-SNN's neurons begin with no potential.

    Reference: Han, Srinivasan and Roy, "RMP-SNN", CVPR 2020.
    """

    saturates = True
    time_steps = 512
    initial_potential = 0.5

    def fire(
        self, potential: tf.Tensor, state: tuple[tf.Tensor, ...], scale: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor]:
        potential, sent, fires = soft_reset(potential, scale)
        return potential, state, sent, tf.cast(fires, tf.int8)
