"""Copies of layers that are understood, from class and settings alone. Nothing is serialised.

`bare_copy` sums for a node, `trainable_copy` goes into a converted model, `computing_copy` computes what the layer computes.
"""

import inspect
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import temporal_kernel
from keras_ttfs.layers import TemporalKernelDecode, TTFSActivation, TTFSEncode
from keras_ttfs.snn.understood import (
    DEPTHWISE,
    LINEAR,
    NORMS,
    NOTHING_AT_INFERENCE,
    SEPARABLE,
    SETTINGS,
    WEIGHTED,
    Function,
    function_of,
)

# What Keras calls the activations that a layer of a TTFS model may have.
_NAMES: dict[Function | None, str | None] = {LINEAR: None, Function("softmax"): "softmax"}
_UNUSED_AT_INFERENCE = ("lora_rank", "lora_alpha", "quantization_config")


def weights_of(layer: Any) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
    """`(kernels, bias)` of a layer of WEIGHTED, copied. Kernels are those in effect, with what LoRA adds."""
    names = ("depthwise_kernel", "pointwise_kernel") if type(layer) in SEPARABLE else ("kernel",)
    kernels = tuple(np.array(keras.ops.convert_to_numpy(getattr(layer, name))) for name in names)
    bias = getattr(layer, "bias", None)
    return kernels, None if bias is None else np.array(keras.ops.convert_to_numpy(bias))


def settings_of(layer: Any) -> dict[str, Any]:
    """The settings of a layer of SETTINGS that change its numbers."""
    return {name: getattr(layer, name) for name in SETTINGS[type(layer)]}


def bare_copy(layer: Any, dtype: Any, **options: Any) -> keras.layers.Layer:
    """An unbuilt copy of a layer of SETTINGS that computes in `dtype`, with neither bias nor activation of its own.

    Initializers, regularizers and constraints stay behind, because they change no number. The copy bears the layer's
    name, because TensorFlow keeps something of every name that a variable has ever had.
    """
    options.setdefault("name", layer.name)
    if type(layer) in WEIGHTED:
        # Zeros, because random ones would move the state of the random numbers of whoever calls.
        names = ("depthwise", "pointwise") if type(layer) in SEPARABLE else ("kernel",)
        names = ("depthwise",) if type(layer) in DEPTHWISE else names
        options = {"use_bias": False, **{f"{name}_initializer": "zeros" for name in names}, **options}
    settings = settings_of(layer)
    if type(layer) is keras.layers.Normalization:
        settings |= {name: np.array(settings[name]).ravel() for name in ("mean", "variance")}
        # Keras makes () of axis=None.
        if settings["mean"].size == 1 and not layer.axis:
            settings |= {name: settings[name][0] for name in ("mean", "variance")}
    return type(layer)(**settings, dtype=dtype, **options)


def trainable_copy(layer: Any, kind: type | None = None, **options: Any) -> keras.layers.Layer:
    """An unbuilt copy of a layer with all its settings, without LoRA, and linear.

    Initializers, regularizers and constraints are carried over as the objects that they are.

    Args:
        layer: layer that `check_layer` accepts.
        kind: class of the copy. None: the layer's own.
        **options: of the copy, in the place of the layer's.
    """
    options = {"dtype": layer.dtype_policy, "trainable": layer.trainable, **options}
    if type(layer) in NOTHING_AT_INFERENCE:
        config = {**layer.get_config(), **options}
        return type(layer).from_config(config)
    if type(layer) not in {**WEIGHTED, **NORMS}:
        return bare_copy(layer, options.pop("dtype"), **options)
    signature = keras.layers.BatchNormalization if type(layer) in NORMS else type(layer)
    known = inspect.signature(signature.__init__).parameters
    settings = {name: getattr(layer, name) for name in known if hasattr(layer, name)}
    settings = {name: value for name, value in settings.items() if name not in _UNUSED_AT_INFERENCE}
    settings |= {"activation": None} if "activation" in settings else {}
    return (kind or type(layer))(**{**settings, **options})


class Quantizer:
    """What a TTFSActivation or a TTFSEncode computes at inference, in the precision of a dtype policy.

    No layer, because a layer counts spikes and holds a generator of random numbers, of which TensorFlow keeps something.
    """

    def __init__(self, layer: TTFSEncode, policy: Any):
        self.compute_dtype = policy.compute_dtype
        kernel_dtype = "float64" if policy.variable_dtype == "float64" else "float32"
        self.tau, self.t_d = (tf.cast(tf.convert_to_tensor(value), kernel_dtype) for value in (layer.tau, layer.t_d))
        self.time_window, self.rounding = layer.time_window, layer.rounding
        self.encodes = type(layer) is TTFSEncode

    def __call__(self, z: Any) -> Any:
        kernel = self.tau, self.t_d, self.time_window
        if self.encodes:
            return (
                temporal_kernel.encode(tf.cast(z, self.compute_dtype), *kernel, rounding=self.rounding),
                self.tau,
                self.t_d,
            )
        return temporal_kernel.quantize(tf.cast(z, self.compute_dtype), *kernel, rounding=self.rounding)


def computing_copy(layer: Any, dtype: Any, input_shape: Any, softmax: bool = True) -> Any:
    """A built copy of a layer that computes the same in `dtype`, with the same weights, from class and settings alone.

    Without `softmax` a layer that ends in one is copied without it.
    """
    kind = type(layer)
    if kind in WEIGHTED:
        kernels, bias = weights_of(layer)
        function = function_of(layer) if softmax else LINEAR
        copy = bare_copy(layer, dtype, use_bias=bias is not None, activation=_NAMES[function])
        copy.build(input_shape)
        copy.set_weights([*kernels, *([] if bias is None else [bias])])
    elif kind in (TTFSActivation, TTFSEncode):
        copy = Quantizer(layer, keras.dtype_policies.get(dtype))
    elif kind in NORMS:
        copy = keras.layers.BatchNormalization(**settings_of(layer), dtype=dtype, name=layer.name)
        copy.build(input_shape)
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        for name in names:
            if getattr(layer, name) is not None:
                getattr(copy, name).assign(getattr(layer, name))
    elif kind is TemporalKernelDecode:
        copy = kind(layer.time_window, dtype=dtype, name=layer.name)
    elif kind in SETTINGS:
        copy = bare_copy(layer, dtype)
    elif kind is keras.layers.Softmax:
        copy = keras.layers.Softmax(layer.axis, dtype=dtype, name=layer.name)
    elif kind is keras.layers.Activation:
        copy = keras.layers.Activation(layer.activation, dtype=dtype, name=layer.name)
    else:
        copy = keras.layers.Identity(dtype=dtype, name=layer.name) if kind in NOTHING_AT_INFERENCE else layer
    return copy
