"""What a TTFSModel's fit, evaluate and predict are given: refuses what has no numbers, warns of images in 0..255."""

import itertools
import types
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import keras_internals, topology
from keras_ttfs.layers import TTFSEncode

# They pass numbers on as they are. Behind any other layer, what enters the encoder is not what enters the model.
ROUTES = (
    keras.layers.InputLayer,
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
)
SAMPLES = 1000


def check_arrays(model: keras.Model, x: Any) -> None:
    """Refuses arrays and tensors that a model of one input cannot compute on. Data sets and generators pass.

    Raises:
        ValueError: "Expected inputs of shape (samples, ...) of real numbers. Received: ...".
    """
    functional = keras_internals.functional_of(model)
    if functional is None or len(functional.inputs) != 1 or getattr(functional.inputs[0], "optional", False):
        return
    shape = tuple(functional.inputs[0].shape[1:])
    expected = f"Expected inputs of shape (samples, {str(shape)[1:]} of real numbers"
    if x is None:
        raise ValueError(f"{expected}. Received: x=None")
    if not isinstance(x, (np.ndarray, tf.Tensor)):
        return
    dtype = getattr(x.dtype, "name", str(x.dtype))
    if not (dtype == "bool" or dtype.startswith(("int", "uint", "float", "bfloat"))):
        raise ValueError(f"{expected}. Received: an array of {dtype}")
    # Keras adds and removes a last axis of 1.
    given = tuple(x.shape[1:])
    candidates = [given, (*given, 1), given[:-1] if given[-1:] == (1,) else given]
    if not any(_fits(shape, candidate) for candidate in candidates) or not len(x.shape) or not x.shape[0]:
        raise ValueError(f"{expected}. Received: shape {tuple(x.shape)}")


def _fits(shape, given):
    return len(shape) == len(given) and all(size in (None, own) for size, own in zip(shape, given))


def raw_encoder(model: keras.Model) -> TTFSEncode | None:
    """The encoder that takes the numbers of the model's only input as they are. None where there is none."""
    functional = keras_internals.functional_of(model)
    if functional is None or len(functional.inputs) != 1:
        return None
    found: list = []

    def visit(layer, *args, **kwargs):
        raw = [value for value in keras.tree.flatten(args) if value == "raw"]
        if raw and isinstance(layer, TTFSEncode):
            found.append(layer)
        return ["raw" if raw and type(layer) in ROUTES else "other"] * keras_internals.output_count(layer)

    topology.walk(model, ["raw"], visit)
    return found[0] if found else None


def watched(x: Any, encoder: TTFSEncode) -> Any:
    """`x` of `fit`, unchanged in what it gives. Warns where the first inputs that it gives exceed the encoder's range.

    Arrays, tensors, PyDatasets, generators and `tf.data` are looked at. An element may be `inputs`, `(inputs, targets)` or
    `(inputs, targets, sample_weight)`. Anything else is passed on.
    """
    if isinstance(x, keras.utils.PyDataset):
        _tell(_inputs_of(x[0]), encoder)
    elif isinstance(x, types.GeneratorType):
        first = next(x, None)
        _tell(_inputs_of(first), encoder)
        return _chained(first, x)
    elif isinstance(x, tf.data.Dataset):
        return _watched_dataset(x, encoder)
    else:
        _tell(x, encoder)
    return x


def _inputs_of(element):
    return element[0] if isinstance(element, (tuple, list)) and element else element


def _chained(first: Any, rest: Iterator) -> Iterator:
    yield from itertools.chain([first] if first is not None else [], rest)


def _watched_dataset(dataset, encoder):
    """The dataset, whose first element is looked at on its way. Another iterator would shuffle the next ones anew."""

    looks = itertools.count()  # Every epoch begins with the dataset's first element.

    def look(number, *element):
        x = _inputs_of(element)
        if not tf.is_tensor(x) or not (x.dtype.is_floating or x.dtype.is_integer):
            return element
        largest = tf.cast(tf.reduce_max(x), tf.float32)

        def tell_once(value):
            if next(looks) == 0:
                _tell(value.numpy(), encoder)

        def tell():
            return tf.py_function(tell_once, [largest], [])

        with tf.control_dependencies([tf.cond(number == 0, lambda: [tell(), True][1], lambda: True)]):
            return (tf.identity(x), *element[1:])

    is_tuple = isinstance(dataset.element_spec, tuple)
    enumerated = dataset.enumerate()
    if is_tuple:
        return enumerated.map(lambda number, element: look(number, *element))
    return enumerated.map(lambda number, element: look(number, element)[0])


def _tell(x, encoder):
    if not isinstance(x, (np.ndarray, np.generic, tf.Tensor, tf.Variable)):
        return
    values = np.asarray(x if np.ndim(x) == 0 else x[:SAMPLES])  # type: ignore[index]  # np.generic has no dimensions.
    if values.dtype.kind not in "fiu" or not values.size:
        return
    largest, limit = float(values.max()), max(1.0, float(encoder.z_max))
    if largest > limit:
        warnings.warn(
            f"Expected inputs of intensities in [0, 1] for {encoder.name!r}. Received: values up to {largest:g}, of which "
            f"those above {float(encoder.z_max):g} all fire at once. Divide images of 0..255 by 255, in the data or by "
            "keras.layers.Rescaling(1 / 255) in front.",
            stacklevel=4,
        )
