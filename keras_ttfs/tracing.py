"""How the functions of this library are traced: as loops that XLA compiles, or as plain operations for a file.

A file that another runtime is to read can hold neither functions compiled by XLA nor gradients nor counters. While a model
is exported, `is_plain()` is true: `compiled` and `differentiable` leave the bare operations, and MeanSpikes counts nothing.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from keras_ttfs import keras_internals

_plain = contextvars.ContextVar("keras_ttfs_plain", default=False)


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """Context in which graphs are traced as plain operations."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def is_plain() -> bool:
    """Whether a graph is traced for a file: in `plain_operations`, and in `export` of any Keras model.

    Raises:
        ValueError: "Expected layers outside of tf.functions of one's own ...", where such a function is traced for the first
            time in an export. It would keep the plain operations for ever. One that was traced before goes into the file as
            it is, and no other runtime reads that.
    """
    if tf.executing_eagerly() or not (_plain.get() or keras_internals.exporters()):
        return False
    if keras_internals.is_inner_function(tf.compat.v1.get_default_graph()):
        raise ValueError(
            "Expected layers outside of tf.functions of one's own in a model that is exported. Received: a spiking layer in "
            "a tf.function within the model. Call the layers without it, or use keras_ttfs.export."
        )
    return True


def check_precision(layer: keras.layers.Layer, traced: bool = True) -> None:
    """Raises ValueError for a layer in half precision of which a file is written that onnxruntime or LiteRT cannot run.

    Args:
        layer: Keras layer.
        traced: whether this is called while a graph may be traced. Otherwise the layer is to be in such a file.
    """
    if layer.compute_dtype not in ("float16", "bfloat16"):
        return
    # TensorFlow runs a SavedModel in every precision.
    if traced and (not is_plain() or all(name.startswith("saved_model") for name in keras_internals.exporters())):
        return
    raise ValueError(
        f"Expected layers in float32 in a model that is exported. Received: layer {layer.name!r} in {layer.compute_dtype}. "
        "keras_ttfs.export writes float32 whatever the policy, and in_dtype(model, 'float32') makes a model of float32."
    )


def differentiable(function: Callable) -> Callable:
    """`tf.custom_gradient` of a function that returns `(value, gradient)`; the value alone in a plain graph."""
    return (lambda *args: function(*args)[0]) if is_plain() else tf.custom_gradient(function)


def compiled(function: Callable, *, each_shape: bool = False) -> Callable:
    """A tf.function that XLA makes one loop over memory. As separate operations it would cost several times more.

    One trace serves inputs of any shape. With `each_shape` every shape has its own trace, in which all sizes are known. In a
    plain graph it is the function itself.
    """
    options = {"jit_compile": True, "autograph": False, "reduce_retracing": not each_shape}

    @functools.cache
    def traced(known: tuple) -> Callable:
        # TensorFlow warns of one code object that is traced again and again: each kind of arguments has its own here.
        return tf.function(functools.partial(function), **options)

    @functools.wraps(function)
    def call(*args, **kwargs):
        if is_plain():
            return function(*args, **kwargs)
        return traced(tuple(_known(leaf, each_shape) for leaf in tf.nest.flatten((args, kwargs))))(*args, **kwargs)

    return call


def _known(argument, each_shape):
    """What a trace is for: of a tensor its type and its rank, or its shape; any other value itself."""
    if not hasattr(argument, "dtype"):
        return type(argument), argument
    shape = tf.TensorShape(argument.shape)
    return str(argument.dtype), str(shape if each_shape else shape.rank)
