"""A TTFS model as a tf.Module of plain operations, from which `exporting` writes files."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import qonnx_files, temporal_kernel, tracing
from keras_ttfs.layers import TTFSActivation, TTFSEncode
from keras_ttfs.snn import copies
from keras_ttfs.snn.graph import Graph, value_of
from keras_ttfs.snn.reader import spiking_calls

# What a file returns: the model's output, and the spike times of each layer.
OUTPUT, SPIKE_TIME = "output", "spike_time_"


class PlainModel(tf.Module):
    """A model as plain operations in float32, with its spike times. Its weights are constants.

    Args:
        model: as `export` takes.
        quantizers: bool: whether activations are the marked operations of `qonnx_files`, without spike times.
        samples: of a call; None: any number.
    """

    def __init__(self, model: keras.Model, quantizers: bool, samples: int | None):
        super().__init__()
        self._graph = (_QuantizerGraph if quantizers else _PlainGraph)(model)
        self._names = tuple(spiking_calls(model))
        layers = [copy for copy in self._graph.copies.values() if isinstance(copy, keras.layers.Layer)]
        values = [(weight, keras.ops.convert_to_numpy(weight)) for layer in layers for weight in layer.weights]

        def serve(inputs):
            # Constants, because the runtimes differ in when they initialise variables.
            weights = [(weight, tf.constant(value)) for weight, value in values]
            with tracing.plain_operations(), keras.StatelessScope(state_mapping=weights):
                output = self._graph.compute(inputs)
            named = zip(self._names, self._graph.times, strict=True) if not quantizers else ()
            return {OUTPUT: output, **{f"{SPIKE_TIME}{name}": tf.cast(t, tf.int32) for name, t in named if name}}

        dtype = self._graph.input_dtype
        signature = [tf.TensorSpec((samples, *model.inputs[0].shape[1:]), dtype, name="inputs")]
        self.serve = tf.function(serve, input_signature=signature, autograph=False)

    @property
    def activations(self) -> list[tuple]:
        """`(layer, thresholds, levels or None)` of the marked operations of a `_QuantizerGraph`, once it is traced."""
        return [(name, *parts) for name, parts in zip(self._names, self._graph.quantizers, strict=True)]


class _PlainGraph(Graph):
    """A Graph in float32 that remembers the spike times of its last computation."""

    def __init__(self, model):
        super().__init__(model, "float32")
        self.potentials: list = []
        entry = keras.backend.standardize_dtype(model.inputs[0].dtype)
        self.input_dtype = "float32" if keras.backend.is_float_dtype(entry) else entry
        self.kernels = {
            layer: (float(copy.tau), float(copy.t_d), copy.time_window)
            for layer, copy in self.copies.items()
            if isinstance(copy, copies.Quantizer)
        }
        for layer, copy in self.copies.items():
            if type(copy) is keras.layers.Normalization:
                # Arrays: a graph would capture the tensors of a layer that is built, in the place of constants.
                copy.mean, copy.variance, copy.built = np.array(layer.mean), np.array(layer.variance), True
        self.times: list = []
        self.quantizers: list = []

    def compute(self, batch: tf.Tensor) -> Any:
        self.times, self.quantizers, self.potentials = [], [], []
        return super().compute(batch)

    def visit(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(layer, TTFSEncode):
            return super().visit(layer, *args, **kwargs)
        tau, t_d, _ = self.kernels[layer]
        spike_time, z_hat = self.fire(layer, value_of(args, kwargs))
        if type(layer) is TTFSActivation:
            return z_hat
        return tf.cast(spike_time, tf.float32), *map(tf.constant, (tau, t_d))

    def fire(self, layer: TTFSEncode, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`(spike times, levels)` of a layer's potentials."""
        spike_time, z_hat = temporal_kernel.fire(z, *self.kernels[layer], rounding=layer.rounding)
        self.times.append(spike_time)
        return spike_time, z_hat


class _QuantizerGraph(_PlainGraph):
    """A _PlainGraph whose activations are the marked operations of `qonnx_files`. Files of these have no spike times."""

    def fire(self, layer: TTFSEncode, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.init_scope():
            tau, t_d = map(tf.constant, self.kernels[layer][:2])
            tables = temporal_kernel.tables(tau, t_d, layer.time_window, layer.rounding)
            thresholds, levels = (table.numpy() for table in tables)
        if any(z is other and np.array_equal(thresholds, theirs) for other, theirs in self.potentials):
            # tf2onnx makes one operation of two that are equal, and with it one layer.
            raise ValueError(
                "Expected no two spiking layers with equal thresholds on the same values with format='qonnx'. Received: "
                f"layer {layer.name!r} is the second one. Use the outputs of the first one twice."
            )
        self.potentials.append((z, thresholds))
        self.quantizers.append((thresholds, levels[:-1] if type(layer) is TTFSActivation else None))
        count = qonnx_files.count_of_thresholds(z, thresholds, len(self.quantizers) - 1)
        return layer.time_window - count, tf.gather(tf.constant(levels[::-1]), count)
