"""Temporal-switch coding (TSC): the time between two spikes of a neuron."""

import tensorflow as tf

from keras_ttfs import checks
from keras_ttfs.snn.codings.coding import Coding


class TemporalSwitchCoding(Coding):
    """Temporal-switch coding: a neuron's first spike switches its synapses on, its second switches them off.

    The steps between the two spikes are its activation. A neuron whose potential is at least half of `scale / T`
    switches on at step 0 of its layer's window of T steps. Each step that it is on adds `weight * scale / T` behind its
    synapses and takes `scale / T` from its own potential. It switches off when less than half of `scale / T` is left,
    at the latest when the window ends. So it fires two spikes, or none.

    Args:
        time_window: int >= 1: T [steps]. VGG-16 with T = 32 answers after the paper's 512 steps.

    Raises:
        ValueError: "Expected time_window to be an integer >= 1 [steps]. Received: ...".

    Differs from the paper: only what the reproduced paper says of TSC was at hand. The dynamics of the neurons are
    ours: one window after the other, layer by layer, so that a neuron knows its activation before it switches on. The
    answer is there when the last window ends. The first window is the input's, as in TTFS coding. An analog input
    leaves it idle.

    Reference: Han and Roy, "Deep spiking neural network: energy efficiency through time based coding", ECCV 2020.
    """

    saturates = True
    current = None
    time_window: int

    def __init__(self, time_window: int = 32):
        self.time_window = checks.integer("time_window", time_window, unit="steps", most=checks.LONGEST_WINDOW)

    def state(self, potential: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (tf.zeros(tf.shape(potential), tf.bool),)

    def fire(
        self, potential: tf.Tensor, state: tuple[tf.Tensor, ...], scale: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor]:
        (was_on,) = state
        unit = scale / self.time_window
        on = potential >= unit / 2
        sent = tf.where(on, unit, tf.zeros_like(potential))
        # A neuron that is still on at the window's end switches off there.
        switches = tf.cast(on != was_on, tf.int8) + tf.cast(on & (step == self.time_window - 1), tf.int8)
        return potential - sent, (on,), sent, switches
