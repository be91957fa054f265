"""What is understood of a Keras model: the one rule by which every reader accepts a layer, or refuses it by name.

`inputs = check_call(layer, args, kwargs, "ttfs")` raises "Expected ... Received: ..." for a layer that is not understood.
A layer is understood if its exact class stands in the tables below, if nothing of it is replaced, and if all settings
that change its numbers are known. Nothing is recognised by its name. A subclass is another class, whatever it is called.

To teach the readers a layer: name its class in the table that fits, with its settings. `reader` has a node for each table.
"""

import dataclasses
import functools
import inspect
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import keras_internals
from keras_ttfs.batch_norm import TKBatchNorm
from keras_ttfs.layers import TemporalKernelDecode, TTFSActivation, TTFSEncode
from keras_ttfs.models import FunctionalTTFSModel

_CONVOLUTION = ("kernel_size", "strides", "padding", "data_format", "dilation_rate")
_POOLING = ("pool_size", "strides", "padding", "data_format")
_TRANSPOSED = ("filters", "kernel_size", "strides", "padding", "output_padding", "data_format", "dilation_rate")
# `{class: the settings that a copy needs}`. Trained weights.
WEIGHTED: dict[type, tuple[str, ...]] = {
    keras.layers.Conv1D: ("filters", *_CONVOLUTION, "groups"),
    keras.layers.Conv2D: ("filters", *_CONVOLUTION, "groups"),
    keras.layers.Conv1DTranspose: _TRANSPOSED,
    keras.layers.Conv2DTranspose: _TRANSPOSED,
    keras.layers.DepthwiseConv1D: ("depth_multiplier", *_CONVOLUTION),
    keras.layers.DepthwiseConv2D: ("depth_multiplier", *_CONVOLUTION),
    keras.layers.SeparableConv1D: ("filters", "depth_multiplier", *_CONVOLUTION),
    keras.layers.SeparableConv2D: ("filters", "depth_multiplier", *_CONVOLUTION),
    keras.layers.Dense: ("units",),
}
TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
NORMS: dict[type, tuple[str, ...]] = dict.fromkeys(
    (keras.layers.BatchNormalization, TKBatchNorm), ("axis", "epsilon", "center", "scale")
)
# The same multiplication and addition for every sample, given by the data.
AFFINE: dict[type, tuple[str, ...]] = {
    keras.layers.Rescaling: ("scale", "offset"),
    keras.layers.Normalization: ("axis", "mean", "variance", "invert"),
}
# Sums with fixed weights.
SUMS: dict[type, tuple[str, ...]] = {
    keras.layers.AveragePooling1D: _POOLING,
    keras.layers.AveragePooling2D: _POOLING,
    keras.layers.GlobalAveragePooling1D: ("data_format", "keepdims"),
    keras.layers.GlobalAveragePooling2D: ("data_format", "keepdims"),
    keras.layers.Add: (),
}
AVERAGES = tuple(kind for kind in SUMS if kind is not keras.layers.Add)
# In each window the earliest spike, which has the largest level, goes on.
WINDOWED_MAXIMA: dict[type, tuple[str, ...]] = {
    keras.layers.MaxPooling1D: _POOLING,
    keras.layers.MaxPooling2D: _POOLING,
}
GLOBAL_MAXIMA: dict[type, tuple[str, ...]] = {
    keras.layers.GlobalMaxPooling1D: ("data_format", "keepdims"),
    keras.layers.GlobalMaxPooling2D: ("data_format", "keepdims"),
}
MAXIMA = {**WINDOWED_MAXIMA, **GLOBAL_MAXIMA}
# The averages over the same windows.
AVERAGE_OF: dict[type, type] = {
    keras.layers.MaxPooling1D: keras.layers.AveragePooling1D,
    keras.layers.MaxPooling2D: keras.layers.AveragePooling2D,
    keras.layers.GlobalMaxPooling1D: keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalMaxPooling2D: keras.layers.GlobalAveragePooling2D,
}
# A spike stays a spike on its way through these.
ROUTES: dict[type, tuple[str, ...]] = {
    **MAXIMA,
    keras.layers.Flatten: ("data_format",),
    keras.layers.Reshape: ("target_shape",),
    keras.layers.Permute: ("dims",),
    keras.layers.ZeroPadding1D: ("padding", "data_format"),
    keras.layers.ZeroPadding2D: ("padding", "data_format"),
    keras.layers.Cropping1D: ("cropping",),
    keras.layers.Cropping2D: ("cropping", "data_format"),
    keras.layers.UpSampling1D: ("size",),
    keras.layers.UpSampling2D: ("size", "data_format", "interpolation"),
    keras.layers.Concatenate: ("axis",),
}
MERGES = (keras.layers.Add, keras.layers.Concatenate)
# At inference these return their input. Of the random layers only those that are no function of the image then.
NOTHING_AT_INFERENCE = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
    keras.layers.RandomBrightness,
    keras.layers.RandomContrast,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomShear,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
)
SETTINGS = {**WEIGHTED, **NORMS, **AFFINE, **SUMS, **ROUTES}
OWN = (TTFSActivation, TTFSEncode, TemporalKernelDecode)
# What a model's populations stand for.
ACTIVATIONS: dict[str, tuple[type, ...]] = {"ttfs": OWN, "relu": (keras.layers.ReLU,)}
KINDS = (*SETTINGS, *NOTHING_AT_INFERENCE, *OWN, keras.layers.ReLU, keras.layers.Activation, keras.layers.Softmax)
CONVERT = " keras_ttfs.convert turns a ReLU model into a TTFS model."

# Functions and operations, by identity.
_LINEAR = (None, keras.activations.linear)
_RELU = (keras.activations.relu, keras.ops.relu, tf.nn.relu)
_RELU6 = (keras.activations.relu6, keras.ops.relu6, tf.nn.relu6)
_SOFTMAX = (keras.activations.softmax, keras.ops.softmax, tf.nn.softmax)

# Keras wraps these two of every layer. A built layer uses neither.
_WRAPPED_BY_KERAS = {"build", "quantize", "loss"}
_CALLS = {kind: (kind.call, kind.__call__) for kind in KINDS}
# Public methods of a model that say what `predict` returns.
_PREDICTING = ("call", "__call__", "predict", "predict_step", "predict_on_batch", "make_predict_function")


@dataclasses.dataclass(frozen=True)
class Function:
    """What an activation computes.

    Attributes:
        kind: `"linear"`, `"relu"` or `"softmax"`.
        max_value: float or None: where a ReLU is cut off [1].
    """

    kind: str
    max_value: float | None = None


@functools.cache
def _operation(function: Any) -> type:
    # When it is first needed, because it adds a node to a graph, and Keras numbers the names of all nodes.
    return keras_internals.operation_type(function)


LINEAR = Function("linear")


def function_of(layer: Any) -> Function | None:
    """The activation that a layer or operation applies to what it computes; None if it is not understood.

    `Function("linear")` stands for a layer without activation.
    """
    kind = type(layer)
    if not isinstance(layer, keras.layers.Layer):
        return _function_of_operation(layer)
    if kind is keras.layers.ReLU:
        return _relu_with_options(layer)
    if kind is keras.layers.Softmax:
        return Function("softmax")
    if kind is not keras.layers.Activation and kind not in WEIGHTED:
        return LINEAR
    return _named_function(layer.activation)


def _function_of_operation(operation):
    kind = type(operation)
    if kind is _operation(keras.activations.relu):
        return _relu_with_options(operation)
    for function, meaning in (
        (keras.ops.relu, Function("relu")),
        (keras.ops.relu6, Function("relu", 6.0)),
        (keras.ops.softmax, Function("softmax")),
    ):
        if kind is _operation(function):
            return meaning
    return None


def _relu_with_options(layer):
    if layer.negative_slope or layer.threshold or (layer.max_value is not None and not layer.max_value > 0):
        return None
    return Function("relu", None if layer.max_value is None else float(layer.max_value))


def _named_function(activation):
    for functions, meaning in (
        (_LINEAR, LINEAR),
        (_RELU, Function("relu")),
        (_RELU6, Function("relu", 6.0)),
        (_SOFTMAX, Function("softmax")),
    ):
        if any(activation is function for function in functions):
            return meaning
    if type(activation) in (keras.layers.ReLU, keras.layers.Activation) and not replaced(activation):
        return function_of(activation)
    return None


def is_activation(layer: Any) -> bool:
    """Whether a layer or operation is nothing but an activation that is understood."""
    alone = (keras.layers.ReLU, keras.layers.Softmax, keras.layers.Activation)
    return (type(layer) in alone or not isinstance(layer, keras.layers.Layer)) and function_of(layer) is not None


def activation_name(layer: Any) -> str:
    """A layer's activation, for a message."""
    if hasattr(layer, "negative_slope"):
        return "ReLU with negative_slope, threshold or max_value <= 0"
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", None)
    if name is None:
        name = f"{type(activation).__name__} with options" if isinstance(activation, keras.layers.Layer) else activation
    known = (keras.activations, keras.ops)
    same = any(getattr(module, str(name), None) is activation for module in known)
    return str(name) if same or not inspect.isroutine(activation) else f"{name} of module {activation.__module__}"


def supported_layers(activations: str) -> str:
    """The layers that are understood, in words."""
    kinds = [*WEIGHTED, *NORMS, *ACTIVATIONS[activations], *SUMS, *ROUTES, *AFFINE, *NOTHING_AT_INFERENCE]
    return ", ".join(kind.__name__ for kind in kinds) + ", and a softmax at the output"


def unsupported(layer: Any, activations: str) -> ValueError:
    """The ValueError "Expected layers of ... Received: ..." that names a layer and what is supported.

    Args:
        layer: layer, or operation of keras.ops.
        activations: `"ttfs"` or `"relu"`.
    """
    advice = ""
    if not isinstance(layer, keras.layers.Layer):
        advice = (
            CONVERT
            if activations == "ttfs" and is_activation(layer)
            else " Write keras.layers.Add or keras.layers.Concatenate instead of an operator or a function of keras.ops."
        )
    elif activations == "relu" and type(layer) in OWN:
        advice = " Its spikes are those of SpikingNetwork.from_model."
    elif is_activation(layer) and activations == "ttfs":
        advice = CONVERT
    elif isinstance(layer, KINDS):
        advice = f" A subclass of {next(k for k in type(layer).__mro__ if k in KINDS).__name__} may compute anything."
    return ValueError(
        f"Expected layers of {supported_layers(activations)}. "
        f"Received: layer {layer.name!r} ({type(layer).__name__}).{advice}"
    )


def refusal(what: str, layer: Any, found: str) -> ValueError:
    """The ValueError "Expected {what}. Received: layer ... {found}"."""
    return ValueError(f"Expected {what}. Received: layer {layer.name!r} ({type(layer).__name__}) {found}")


def replaced(layer: Any) -> list[str]:
    """Names of a layer's or model's methods and properties that are replaced on the instance or on the class."""
    names = [
        name
        for name in vars(layer)
        if name not in _WRAPPED_BY_KERAS and _is_method(inspect.getattr_static(type(layer), name, None))
    ]
    kind = type(layer)
    if kind in _CALLS and (kind.call, kind.__call__) != _CALLS[kind]:
        names.append("call")
    return names


def _is_method(attribute):
    return inspect.isroutine(attribute) or isinstance(attribute, property)


def check_model(model: Any, activations: str) -> None:
    """Refuses what is no graph of layers from one input to one output, and models that compute anything else.

    Raises:
        ValueError: "Expected a Functional or built Sequential model ... Received: ...", or naming the model and the
            method by which it computes something else than its graph.
    """
    ends = [getattr(model, end, None) or [] for end in ("inputs", "outputs")]
    if not isinstance(model, keras.Model) or any(len(end) != 1 for end in ends):
        raise ValueError(
            "Expected a Functional or built Sequential model with one input and one output. "
            f"Received: {type(model).__name__} {getattr(model, 'name', model)!r}"
        )
    for inner in (model, *keras_internals.layers_below(model)):
        if isinstance(inner, keras.Model) and keras_internals.functional_of(inner) is not None:
            found = replaced(inner) + _overridden(inner)
            if found:
                raise refusal("a model that computes what its graph of layers says", inner, f"with its own {found[0]}")


def _overridden(model):
    bases = (keras.Sequential, FunctionalTTFSModel, keras_internals.Functional)
    base = next(base for base in bases if isinstance(model, base))
    names = [*_PREDICTING, *filter(keras_internals.is_private_method, dir(base))]
    return [
        name
        for name in names
        if _is_method(inspect.getattr_static(base, name, None))
        and inspect.getattr_static(type(model), name) is not inspect.getattr_static(base, name)
    ]


def check_call(layer: Any, args: tuple, kwargs: dict, activations: str) -> list:
    """What a layer is called on, if the call is understood.

    `training` is ignored, because `predict` passes its own, False, to every layer of a graph.

    Args:
        layer: layer or operation.
        args, kwargs: of the call.
        activations: `"ttfs"` or `"relu"`.

    Raises:
        ValueError: "Expected ... Received: ..." naming the layer.
    """
    if not isinstance(layer, keras.layers.Layer):
        if not is_activation(layer) or kwargs:
            raise unsupported(layer, activations)
        return list(args)
    if type(layer) is not keras.layers.InputLayer:
        check_layer(layer, activations)
    kwargs = {name: value for name, value in kwargs.items() if value is not None and name != "training"}
    args = tuple(value for value in (*args, kwargs.pop("inputs", None)) if value is not None)
    if kwargs:
        raise refusal("a call without further arguments", layer, f"called with {next(iter(kwargs))}=...")
    if len(args) != 1:
        raise refusal("a call on one input", layer, f"called with {len(args)} of them")
    values = keras.tree.flatten(args)
    if len(values) != 1 and type(layer) not in (*MERGES, TemporalKernelDecode):
        raise refusal("a call on one tensor", layer, f"called on {len(values)} of them")
    return values


def check_layer(layer: Any, activations: str) -> None:
    """Refuses a layer that is not understood.

    Raises:
        ValueError: "Expected ... Received: ..." naming the layer.
    """
    kind = type(layer)
    if kind not in KINDS:
        raise unsupported(layer, activations)
    found = replaced(layer)
    if found:
        raise refusal(f"the methods of {kind.__name__}", layer, f"with its own {found[0]}")
    if isinstance(layer, TTFSEncode):
        layer.check_base_2()
    if layer.quantization_mode is not None:
        raise refusal("layers that are not quantized", layer, f"with quantization_mode={layer.quantization_mode!r}")
    if not keras.backend.is_float_dtype(layer.compute_dtype):
        raise refusal("layers that compute in floating point", layer, f"with dtype {layer.compute_dtype!r}")
    if getattr(layer, "data_format", None) not in (None, "channels_last"):
        raise refusal("data_format='channels_last'", layer, f"with data_format={layer.data_format!r}")
    if kind is keras.layers.UpSampling2D and layer.interpolation != "nearest":
        raise refusal("interpolation='nearest'", layer, f"with interpolation={layer.interpolation!r}")
    arrays = kind is keras.layers.Rescaling and np.ndim(layer.scale) + np.ndim(layer.offset)
    if arrays and keras.config.image_data_format() != "channels_last":
        raise refusal("a scale and an offset that are numbers", layer, "with arrays, channels first")


def check_axes(layer: Any, rank: int) -> None:
    """Refuses axes other than the understood ones of a layer whose inputs have `rank` axes, the batch included."""
    kind = type(layer)
    if kind in NORMS and layer.axis not in (-1, rank - 1):
        raise refusal("axis=-1", layer, f"with axis={layer.axis}")
    function = function_of(layer)
    if function is not None and function.kind == "softmax" and getattr(layer, "axis", -1) not in (-1, rank - 1):
        raise refusal("axis=-1", layer, f"with axis={layer.axis}")
    if kind is keras.layers.Concatenate and layer.axis % rank == 0:
        raise refusal("an axis that is not the batch", layer, f"with axis={layer.axis}")
