"""A model's graph of layers as functions of its own: in another precision, and with the spike times that it promises."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import checks, temporal_kernel, topology
from keras_ttfs.layers import TTFSEncode
from keras_ttfs.snn import copies, understood


def value_of(args: tuple, kwargs: dict) -> Any:
    """What a layer is called on: its first argument, or `inputs`."""
    return args[0] if args else kwargs["inputs"]


class Graph:
    """A model's graph of layers, each copied from its class and settings: nothing else of the model takes part.

    Args:
        model: Keras model that `understood.check_model` accepts.
        dtype: in which each copy computes; None for the layer's own.
    """

    softmax = True

    def __init__(self, model: keras.Model, dtype: str | None):
        self.dtype = dtype
        self.copies: dict[Any, Any] = {}
        topology.walk(model, list(model.inputs), self._copy)
        self.model = model
        self.input_dtype = dtype or keras.backend.standardize_dtype(model.inputs[0].dtype)

    def _copy(self, layer, *args, **kwargs):
        if isinstance(layer, keras.layers.Layer) and layer not in self.copies:
            shape = keras.tree.map_structure(lambda value: tuple(value.shape), value_of(args, kwargs))
            self.copies[layer] = copies.computing_copy(layer, self.dtype or layer.dtype_policy, shape, self.softmax)
        # Not a call, which would leave nodes in the model given.
        return layer.compute_output_spec(*args, **kwargs)

    def output(self, batch: Any) -> np.ndarray:
        """What the graph of layers gives for a batch, an array."""
        return self.compute(tf.cast(batch, self.input_dtype)).numpy()

    def compute(self, batch: tf.Tensor) -> Any:
        """As `output`, of a tensor of the `input_dtype`."""
        # Not in a tf.function with gradients, whose graph TensorFlow would keep for ever.
        return keras.tree.flatten(topology.walk(self.model, [batch], self.visit))[0]

    def visit(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """What the copy of a layer gives in a call."""
        # Without `training`, which `predict` overrides.
        values = args or (kwargs["inputs"],)
        return self.copies.get(layer, layer)(*values)


class Surrogate(Graph):
    """The model, rebuilt in another precision.

    A call with a batch gives `(logits, [(spike times, pre-activations, thresholds) of each call of a spiking layer])` of its
    first samples, in the order of `reader.spiking_calls`. Logits are the inputs of a softmax at the output.
    """

    softmax = False

    def __call__(self, batch: Any, samples: int) -> tuple[np.ndarray, list]:
        logits, promised = self.compute(tf.cast(batch, self.input_dtype))
        promised = [(times.numpy()[:samples], z.numpy()[:samples], limits.numpy()) for times, z, limits in promised]
        return logits.numpy()[:samples], promised

    def compute(self, batch: tf.Tensor) -> Any:
        self.promised: list = []
        logits = super().compute(batch)
        return logits, self.promised

    def visit(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, TTFSEncode):
            copy, z = self.copies[layer], value_of(args, kwargs)
            # Tensors, because a compiled function would keep a trace for each layer that it has ever seen.
            kernel = tf.convert_to_tensor(copy.tau), tf.convert_to_tensor(copy.t_d), copy.time_window
            times, _ = temporal_kernel.fire(z, *kernel, rounding=copy.rounding)
            thresholds = temporal_kernel.thresholds(*kernel, rounding=copy.rounding, dtype=self.dtype)
            self.promised.append((times, z, thresholds))
        if understood.is_activation(layer) and not self.softmax:
            return value_of(args, kwargs)
        return super().visit(layer, *args, **kwargs)


def in_dtype(model: keras.Model, dtype: str) -> keras.Model:
    """A copy of a model with the same weights in which every layer computes in `dtype`.

    Raises:
        ValueError: "Expected ... Received: ..." for what is no model, and for a dtype that a layer cannot have.
    """
    checks.one_of("dtype", dtype, ("float32", "float64", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"))
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a keras.Model. Received: {model!r}")
    copy = keras.saving.deserialize_keras_object(_with_dtype(keras.saving.serialize_keras_object(model), dtype))
    copy.set_weights(model.get_weights())
    return copy


def _with_dtype(config, dtype):
    if isinstance(config, (list, tuple)):
        return type(config)(_with_dtype(value, dtype) for value in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") in ("InputLayer", "__keras_tensor__"):
        # Dtypes, not policies; and integers stay integers.
        own, policy = config["config"]["dtype"], keras.dtype_policies.get(dtype)
        own = policy.variable_dtype if keras.backend.is_float_dtype(own) else own
        return {**config, "config": {**config["config"], "dtype": own}}
    return {
        key: dtype if key == "dtype" else None if key == "compile_config" else _with_dtype(value, dtype)
        for key, value in config.items()
    }
