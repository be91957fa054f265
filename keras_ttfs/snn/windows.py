"""Winner-take-all windows: max pooling of membrane potentials, in front of a threshold.

The order Conv2D -> TKBatchNorm -> MaxPooling2D -> TTFSActivation gives the values of pooling behind the activation, because
the activation is monotone. The network needs one neuron for a window in the place of one for each potential, and fires
one spike in the place of those that the pooling would not have passed on.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs.snn.copies import bare_copy, settings_of
from keras_ttfs.snn.nodes import TTFSPopulation
from keras_ttfs.snn.understood import AVERAGE_OF, MERGES


@dataclasses.dataclass(frozen=True, eq=False)
class WindowPopulation(TTFSPopulation):
    """A population with one neuron for each window of potentials.

    All potentials of a window integrate: its membranes. The first of them to reach the threshold fires for the window.
    Then the window is refractory. A membrane is silenced, as a neuron that has fired, when all windows that hear it have
    fired.

    Its `inputs[0]` gives the membranes. `shape` is that of the neurons.

    Attributes:
        windows: the layers between membranes and threshold, in their order. The first is max pooling. More of it may
            follow, and other layers of `understood.ROUTES` with one input.
    """

    windows: tuple[keras.layers.Layer, ...]

    def largest(self, dtype: str) -> Callable:
        """The function that gives the largest potential of each window from the membranes, in `dtype`."""
        return _chain([bare_copy(layer, dtype) for layer in self.windows])

    def fire(self, potential: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """`(spike times [steps], levels [1])` of the windows of complete membrane potentials [1]."""
        return super().fire(self.largest(potential.dtype.name)(potential))

    def heard_by(self, places: Sequence[int]) -> list[np.ndarray]:
        """For each of some membranes, by their flat indices, the flat indices of the windows that hear it."""
        membranes = np.zeros((len(places), self.membranes), "float32")
        membranes[np.arange(len(places)), np.asarray(places, int)] = 1
        heard = self._averages()(tf.reshape(tf.constant(membranes), (-1, *self.inputs[0].shape)))
        return [np.flatnonzero(row) for row in heard.numpy()]

    def silencing(self) -> Callable:
        """The function `(potential, fires, waits) -> potential` that silences membranes.

        `fires` and `waits` are Boolean tensors of windows. A membrane is silenced that a firing window hears, and no
        waiting one.
        """
        heard = self._heard()

        def silence(potential, fires, waits):
            return tf.where(heard(fires) & ~heard(waits), tf.zeros_like(potential), potential)

        return silence

    def hears(self, window: int) -> np.ndarray:
        """Flat indices of the membranes that a window hears, which has a flat index itself."""
        windows = tf.reshape(tf.range(self.size) == int(window), (1, *self.shape))
        return np.flatnonzero(self._heard()(windows).numpy())

    def _heard(self):
        """The function of a Boolean tensor of windows that tells which membranes one of them hears."""
        averages = self._averages()

        def heard(windows):
            membranes = tf.zeros((windows.shape[0], *self.inputs[0].shape))
            with tf.GradientTape() as tape:
                tape.watch(membranes)
                means = averages(membranes)
            return tape.gradient(means, membranes, tf.cast(windows, means.dtype)) > 0

        return heard

    def _averages(self):
        """The same layers with averages for maxima: above 0 where a window hears a membrane above 0."""
        kinds = [AVERAGE_OF.get(type(layer), type(layer)) for layer in self.windows]
        return _chain([kind(**settings_of(layer), dtype="float32") for kind, layer in zip(kinds, self.windows)])


def _chain(layers):
    def pass_through(value):
        for layer in layers:
            value = layer([value] if type(layer) in MERGES else value)
        return value

    return pass_through
