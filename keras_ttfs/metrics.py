"""Spike counts as Keras metrics, and the ratios that the field reports."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("keras_ttfs")
class MeanSpikes(keras.metrics.Metric):
    """Mean number of spikes per sample and call (S for a layer that is called once), counted exactly.

    `update_state(values)` takes decoded activations `(batch, ...)` and counts the non-zero ones, `count`, and all,
    `neurons`.
    """

    def __init__(self, name="spikes", dtype=None, **kwargs):
        super().__init__(name=name, dtype=dtype, **kwargs)
        # Integers: inside a half-precision layer's call Keras would round floating-point variables as it reads them.
        self.count = self.add_variable(shape=(), initializer="zeros", name="count", dtype="int64")
        self.neurons = self.add_variable(shape=(), initializer="zeros", name="neurons", dtype="int64")
        self.samples = self.add_variable(shape=(), initializer="zeros", name="samples", dtype="int64")

    def update_state(self, values, sample_weight=None):
        self.count.assign_add(tf.math.count_nonzero(values))
        self.neurons.assign_add(tf.size(values, out_type=tf.int64))
        self.samples.assign_add(tf.shape(values, out_type=tf.int64)[0])

    def result(self):
        count, samples = (tf.cast(tf.convert_to_tensor(value), "float64") for value in (self.count, self.samples))
        return tf.math.divide_no_nan(count, samples)


def spikes_per_neuron(spikes, neurons):
    """S/N [spikes per neuron and sample]: the paper's "sparsity". LOWER is sparser."""
    return spikes / neurons


def spike_rate(spikes, neurons, time_steps):
    """S/(N·H) [spikes per neuron and step]."""
    return spikes / (neurons * time_steps)
