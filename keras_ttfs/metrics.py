"""Spike counts as Keras metrics, and the ratios that the field reports.

Every spiking layer holds a `MeanSpikes`. `spikes_per_neuron` and `spike_rate` turn its result into S/N and S/(N·H).
"""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("keras_ttfs")
class MeanSpikes(keras.metrics.Metric):
    """Mean number of spikes per sample and call (S for a layer that is called once), counted exactly.

    `update_state(values)` takes decoded activations `(batch, ...)`. It adds the non-zero ones to the integer variable
    `count`, all of them to `neurons`, and the batch size to `samples`.

    >>> metric = MeanSpikes()
    >>> metric.update_state([[1.0, 0.5, 0.0], [0.0, 0.0, 0.2]])
    >>> float(metric.result())
    1.5

    Args:
        name: str.
        dtype: as `keras.metrics.Metric`. The counts are integers and the result is float64 in any case.
        **kwargs: as `keras.metrics.Metric`.
    """

    def __init__(self, name: str = "spikes", dtype: Any = None, **kwargs: Any):
        super().__init__(name=name, dtype=dtype, **kwargs)
        # Integers, because Keras rounds floating-point variables that a half-precision layer reads inside its call.
        self.count = self.add_variable(shape=(), initializer="zeros", name="count", dtype="int64")
        self.neurons = self.add_variable(shape=(), initializer="zeros", name="neurons", dtype="int64")
        self.samples = self.add_variable(shape=(), initializer="zeros", name="samples", dtype="int64")

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Counts a batch of values. Weights of samples are ignored."""
        self.count.assign_add(tf.math.count_nonzero(values))
        self.neurons.assign_add(tf.size(values, out_type=tf.int64))
        self.samples.assign_add(tf.shape(values, out_type=tf.int64)[0])

    def result(self) -> tf.Tensor:
        """Spikes per sample and call, a float64 scalar; 0 before any sample."""
        count, samples = (tf.cast(tf.convert_to_tensor(value), "float64") for value in (self.count, self.samples))
        return tf.math.divide_no_nan(count, samples)


def spikes_per_neuron(spikes: Any, neurons: Any) -> Any:
    """S/N [spikes per neuron and sample]: the paper's "sparsity". LOWER is sparser.

    Args:
        spikes: float >= 0: S, mean spikes per sample.
        neurons: int >= 1: N.
    """
    return spikes / neurons


def spike_rate(spikes: Any, neurons: Any, time_steps: Any) -> Any:
    """S/(N·H) [spikes per neuron and step].

    Args:
        spikes: float >= 0: S, mean spikes per sample.
        neurons: int >= 1: N.
        time_steps: int >= 1: H [steps].
    """
    return spikes / (neurons * time_steps)
