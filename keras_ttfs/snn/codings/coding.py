"""What a coding of ReLU activations is: how neurons fire, and what a spike carries.

To add a coding: subclass Coding in a file of its own, give it `time_steps` (or a `time_window`) and `fire`, and name it
in `codings/__init__.py`. `state` is needed only if neurons remember more than their potential. The simulator,
`CodedNetwork`, stays as it is:

    class HalfThresholdCoding(Coding):
        time_steps = 256

        def fire(self, potential, state, scale, step):
            potential, sent, fires = soft_reset(potential, scale / 2)
            return potential, state, sent, tf.cast(fires, tf.int8)

    result = CodedNetwork.from_model(relu_model, HalfThresholdCoding(), training_images).run(images)
"""

from typing import Any

import tensorflow as tf


class Coding:
    """How integrate-and-fire neurons that stand for ReLU fire. A `CodedNetwork` simulates them.

    The unit of a neuron's activation is its layer's `scale` (weight normalisation). The scale multiplies the threshold
    and the weight of a spike, and the synapses keep their weights.

    Attributes:
        saturates: bool: whether a neuron sends exactly its scale if its activation is larger. Then a ReLU may be cut off.
        time_steps: int >= 1: default length of a simulation [steps]. None only in a coding with windows.
        initial_potential: float >= 0: potential of every neuron at the start, in units of the scale [1].
        current: float: share of bias and analog input that enters a neuron at each step [1]. None: all of it enters
            before the neuron fires.
        time_window: int >= 1: length of the window that each layer has for itself, after the windows of the layers
            before it [steps]. None: all layers integrate and fire at every step.
    """

    saturates: bool = False
    time_steps: int | None = None
    initial_potential: float = 0.0
    current: float | None = 1.0
    time_window: int | None = None

    def state(self, potential: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """What a neuron remembers beside its potential, at the start: a tuple of tensors of the potential's shape."""
        return ()

    def fire(
        self, potential: tf.Tensor, state: tuple[tf.Tensor, ...], scale: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor]:
        """Fires one step of a population. XLA compiles it.

        Args:
            potential: float tensor `(samples, ...)`, with the inputs of this step [1].
            state: tuple of tensors, as `state` gives.
            scale: float scalar tensor > 0: activation that the coding calls 1 [1].
            step: int32 scalar tensor >= 0: of the simulation, or of the layer's window [steps].

        Returns:
            `(potential, state, sent, spikes)`. `sent` `(samples, ...)` is what synapses multiply [1], 0 where nothing
            is sent. `spikes` is the number of spikes that each neuron fires, an integer tensor `(samples, ...)`.
        """
        raise NotImplementedError


def soft_reset(potential: Any, threshold: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`(potential, sent, fires)`: neurons at the threshold fire and keep the rest; a spike carries the threshold.

    Args:
        potential: float tensor [1].
        threshold: float tensor > 0 that broadcasts to the potential [1].
    """
    fires = potential >= threshold
    sent = tf.where(fires, threshold, tf.zeros_like(potential))
    return potential - sent, sent, fires
