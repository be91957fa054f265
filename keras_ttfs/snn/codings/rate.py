"""Rate coding with a soft reset: the residual membrane potential (RMP) neuron."""

import tensorflow as tf

from keras_ttfs.snn.codings.coding import Coding, soft_reset


class RateCoding(Coding):
    """A neuron fires where its potential reaches the threshold, which is then subtracted: the residue is kept.

    The number of spikes over the simulation is the activation, in steps of `scale / time_steps`.

    Differs from the paper: the input is an analog current, constant over time; the threshold is the 99.9th percentile of
    the activations (as for all codings here), not the balanced one.

    Reference: Han, Srinivasan and Roy, "RMP-SNN", CVPR 2020.
    """

    time_steps = 512

    def fire(self, potential, state, scale, step):
        potential, sent, fires = soft_reset(potential, scale)
        return potential, state, sent, tf.cast(fires, tf.int8)
