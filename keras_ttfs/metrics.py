"""Spike counts as Keras metrics, and the ratios that the field reports.

Every spiking layer holds a `MeanSpikes`. `spikes_per_neuron` and `spike_rate` turn its result into S/N and S/(N·H).
"""

from typing import Any

import keras
import tensorflow as tf

from keras_ttfs import checks, tracing

# Added to the samples of a batch with NaN. No evaluation has so many samples that the sum is positive again.
NAN_SEEN = -(2**40)


@keras.saving.register_keras_serializable("keras_ttfs")
class MeanSpikes(keras.metrics.Metric):
    """Mean number of spikes per sample and call (S for a layer that is called once), counted exactly.

    `update_state(values)` takes decoded activations `(batch, ...)`. It adds the non-zero ones to the integer variable
    `count`, all of them to `neurons`, and the batch size to `samples`. NaN is no spike and no silence: after it the
    result is NaN, and `samples` is negative, until the state is reset.

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
        checks.keywords(type(self), kwargs)
        super().__init__(name=name, dtype=dtype, **kwargs)
        # Integers, because Keras rounds floating-point variables that a half-precision layer reads inside its call.
        self.count = self.add_variable(shape=(), initializer="zeros", name="count", dtype="int64")
        self.neurons = self.add_variable(shape=(), initializer="zeros", name="neurons", dtype="int64")
        self.samples = self.add_variable(shape=(), initializer="zeros", name="samples", dtype="int64")

    def update_state(self, values: Any, sample_weight: Any = None, mask: Any = None) -> None:
        """Counts a batch of values, those where `mask` `(batch, ...)` is true if it is given. Ignores sample weights.

        In a graph that is traced for a file nothing is counted.
        """
        if tracing.is_plain():
            return
        values = checks.tensor("values", values)
        if values.shape.rank == 0:
            raise ValueError("Expected values (batch, ...). Received: a scalar")
        neurons, samples = tf.size(values, out_type=tf.int64), tf.shape(values, out_type=tf.int64)[0]
        if mask is not None:
            seen = _spread(mask, values)
            neurons, values = tf.math.count_nonzero(seen), tf.where(seen, values, tf.zeros_like(values))
        nan = tf.reduce_any(tf.math.is_nan(values))
        self.count.assign_add(tf.math.count_nonzero(values))
        self.neurons.assign_add(neurons)
        self.samples.assign_add(tf.where(nan, tf.constant(NAN_SEEN, tf.int64), samples))

    def result(self) -> tf.Tensor:
        """Spikes per sample and call, a float64 scalar; 0 before any sample, NaN after NaN."""
        count, samples = (tf.cast(tf.convert_to_tensor(value), "float64") for value in (self.count, self.samples))
        mean = tf.math.divide_no_nan(count, samples)
        return tf.where(samples < 0, tf.constant(float("nan"), tf.float64), mean)


def _spread(mask, values):
    """A mask `(batch, ...)` in the shape of values with more dimensions."""
    mask = tf.cast(mask, tf.bool)
    missing = values.shape.rank - mask.shape.rank
    shape = tf.concat([tf.shape(mask), tf.ones(missing, tf.int32)], axis=0)
    return tf.broadcast_to(tf.reshape(mask, shape), tf.shape(values))


def spikes_per_neuron(spikes: Any, neurons: Any) -> Any:
    """S/N [spikes per neuron and sample]: the paper's "sparsity". LOWER is sparser.

    Args:
        spikes: float >= 0: S, mean spikes per sample.
        neurons: int >= 1: N.

    Raises:
        ValueError: "Expected ... Received: ...", as `spike_rate`.
    """
    return checks.amount("spikes", spikes) / checks.amount("neurons", neurons, above=0)


def spike_rate(spikes: Any, neurons: Any, time_steps: Any) -> Any:
    """S/(N·H) [spikes per neuron and step].

    Args:
        spikes: float >= 0: S, mean spikes per sample.
        neurons: int >= 1: N.
        time_steps: int >= 1: H [steps].

    Raises:
        ValueError: "Expected spikes to be finite and >= 0. Received: ...", and so for the others. Tensors are not checked.
    """
    neurons, time_steps = checks.amount("neurons", neurons, above=0), checks.amount("time_steps", time_steps, above=0)
    return checks.amount("spikes", spikes) / (neurons * time_steps)
