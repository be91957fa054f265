"""Max pooling of spikes that come again and again: it listens to one neuron of each window. `CodedNetwork` uses it."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ttfs.snn.understood import GLOBAL_MAXIMA
from keras_ttfs.tracing import compiled


@functools.partial(compiled, each_shape=True)
def at_each_place(spikes: tf.Tensor, alive: tf.Tensor) -> tf.Tensor:
    """Spikes at each place, of the living samples together, shape `(1, ...)`."""
    alive = tf.reshape(alive, (-1, *[1] * (len(spikes.shape) - 1)))
    return tf.cast(tf.reduce_sum(tf.where(alive, tf.cast(spikes, tf.float32), 0.0), axis=0, keepdims=True), tf.float64)


def gated(layer: Any, total: tf.Tensor, sent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`(total, heard)`: what each neuron has sent in all, and what a max pooling hears now.

    In each window the neuron that has sent the most (of equals the first) is heard.

    Args:
        layer: Keras layer of max pooling.
        total: float tensor `(samples, ...)`: sent so far [1].
        sent: float tensor `(samples, ...)`: sent now [1].
    """
    if type(layer) in GLOBAL_MAXIMA:
        return _gated_maximum(total, sent)
    return _gated_pooling(total, sent, tuple(layer.pool_size), tuple(layer.strides), layer.padding)


@functools.partial(compiled, each_shape=True)
def _gated_maximum(total, sent):
    """One window for the whole map."""
    total = total + sent
    totals, values = (tf.reshape(value, (tf.shape(value)[0], -1, value.shape[-1])) for value in (total, sent))
    most = tf.argmax(totals, axis=1, output_type=tf.int32)[:, None]
    places = tf.range(tf.shape(totals)[1], dtype=tf.int32)[None, :, None]
    return total, tf.reduce_sum(tf.where(places == most, values, tf.zeros_like(values)), axis=1)


@functools.partial(compiled, each_shape=True)
def _gated_pooling(total, sent, size, strides, padding):
    total = total + sent
    axes = range(len(size))
    windows = [_window_places(total.shape[1 + i], size[i], strides[i], padding) for i in axes]
    before = [(0, 0), *(padding for _, padding in windows), (0, 0)]
    most, heard = None, None
    padded, padded_sent = tf.pad(total, before, constant_values=-np.inf), tf.pad(sent, before)
    for place in np.ndindex(*size):
        slices = [
            slice(at, at + stride * (count - 1) + 1, stride) for at, stride, (count, _) in zip(place, strides, windows)
        ]
        at_place = (slice(None), *slices)
        other, other_sent = padded[at_place], padded_sent[at_place]
        if most is None:
            most, heard = other, other_sent
        else:
            larger = other > most
            most, heard = tf.where(larger, other, most), tf.where(larger, other_sent, heard)
    return total, heard


def _window_places(length, size, stride, padding):
    """`(windows, (padding before, after))` along one axis."""
    if padding == "valid":
        return (length - size) // stride + 1, (0, 0)
    windows = -(-length // stride)
    missing = max(0, (windows - 1) * stride + size - length)
    return windows, (missing // 2, missing - missing // 2)
