"""What a coding of ReLU activations is: how neurons fire, and what a spike carries."""

import tensorflow as tf


class Coding:
    """How integrate-and-fire neurons that stand for ReLU fire. A `CodedNetwork` simulates it.

    A neuron's activation is given in units of its layer's `scale`: weight normalisation, with the scale at the threshold
    and at the weight of a spike instead of in every synapse.

    Attributes:
        time_steps: default length of a simulation [steps].
        current: share of bias and analog input that enters a neuron at each step; None: all of it, before it fires.
        time_window: length of a window that each layer has for itself, after that of the layers before it [steps]; None:
            all layers integrate and fire at every step.
    """

    time_steps = None
    current = 1.0
    time_window = None

    def state(self, potential):
        """What a neuron remembers beside its potential, at the start: a tuple of tensors of the potential's shape."""
        return ()

    def fire(self, potential, state, scale, step):
        """Fires one step of a population.

        Args:
            potential: float tensor `(samples, ...)`, inputs of this step included [1].
            state: as `state` gives.
            scale: float scalar tensor: activation that the coding calls 1.
            step: int32 scalar tensor: of the simulation, or of the layer's window.

        Returns:
            `(potential, state, sent, spikes)`: `sent` `(samples, ...)` is what synapses multiply, 0 where nothing is
            sent; `spikes` the number that each neuron fires.
        """
        raise NotImplementedError


def soft_reset(potential, threshold):
    """`(potential, sent, fires)`: neurons at the threshold fire and keep the rest; a spike carries the threshold."""
    fires = potential >= threshold
    sent = tf.where(fires, threshold, tf.zeros_like(potential))
    return potential - sent, sent, fires
