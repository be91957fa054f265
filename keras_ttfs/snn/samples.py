"""What people have as data, as one array: arrays, tensors, data sets, generators and lists of batches, with labels or not.

`x = samples("data", tf_dataset, (8, 8, 1))` is an array `(samples, 8, 8, 1)` of finite numbers, integers or floats.
`x = inputs(data, nodes, "float32")` also checks it against the first nodes of a network.
"""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import checks
from keras_ttfs.snn.nodes import Affine, Input, Node, Route, TTFSPopulation, encodes_input

# Of an iterator nobody knows how long it is.
MOST_NUMBERS = 1 << 31
# Inputs so many times the largest level are no intensities. Integers need fewer, because an image of them is in 0..255.
FAR_ABOVE, FAR_ABOVE_INTEGERS = 16, 2


def samples(name: str, data: Any, shape: tuple[int, ...]) -> np.ndarray:
    """`data` as an array `(samples, *shape)` of finite numbers.

    Args:
        name: of the argument, for messages.
        data: array or tensor; a tf.data.Dataset, a keras.utils.PyDataset, a generator or a list of batches or of single
            samples. Of pairs `(x, y)` and triples with weights the first is taken.
        shape: of a sample.

    Raises:
        ValueError: "Expected ... Received: ..." for anything else, for infinite and for empty data.
    """
    expected = f"Expected {name} of shape (samples, {str(tuple(shape))[1:]}"
    if data is None or isinstance(data, (str, bytes, dict)):
        raise ValueError(f"{expected}. Received: {name}={data!r:.60} of type {type(data).__name__}")
    array = _as_array(data)
    if array is not None and (array.shape[1:] == tuple(shape) or not isinstance(data, (list, tuple))):
        return _checked(name, array, shape, expected)
    parts, numbers = [], 0
    for element in [data] if _is_pair(data, shape) else _elements(name, data, expected):
        whole = _as_array(element)
        is_batch = whole is not None and whole.shape[1:] == tuple(shape)
        is_pair = isinstance(element, (list, tuple)) and len(element) and not (isinstance(element, list) and is_batch)
        part = _as_array(element[0]) if is_pair else whole
        if part is None or part.shape[-len(shape) :] != tuple(shape) or part.ndim not in (len(shape), len(shape) + 1):
            found = type(element).__name__ if part is None else f"an element of shape {part.shape}"
            raise ValueError(f"{expected}. Received: {type(data).__name__} with {found}")
        parts.append(part.reshape(-1, *shape))
        numbers += part.size
        if numbers > MOST_NUMBERS:
            raise ValueError(f"Expected finite {name}. Received: {type(data).__name__} of more than {numbers} numbers")
    if not parts:
        raise ValueError(f"{expected}. Received: an empty {type(data).__name__}")
    return _checked(name, np.concatenate(parts), shape, expected)


def _as_array(data):
    """A NumPy array of numbers of any kind; None if `data` are none."""
    try:
        array = np.asarray(data)
    except (TypeError, ValueError, RuntimeError, tf.errors.OpError):
        return None
    if array.dtype == tf.bfloat16.as_numpy_dtype:
        array = array.astype("float32")
    return None if array.dtype == object and not isinstance(data, np.ndarray) else array


def _is_pair(data, shape):
    """Whether `data` is `(x, y)` or `(x, y, weights)`, with all samples in x."""
    if not isinstance(data, tuple) or not 2 <= len(data) <= 3:
        return False
    first, second = _as_array(data[0]), _as_array(data[1])
    if first is None or first.shape[1:] != tuple(shape):
        return False
    return second is None or second.shape[1:] != tuple(shape)


def _elements(name, data, expected):
    if isinstance(data, tf.data.Dataset):
        if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise ValueError(f"Expected finite {name}. Received: an infinite Dataset; take(n) makes it finite")
        return data
    if isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            raise ValueError(f"Expected finite {name}. Received: a {type(data).__name__} without length")
        return (data[number] for number in range(data.num_batches))
    if not isinstance(data, Iterable):
        raise ValueError(f"{expected}. Received: {name}={data!r:.60} of type {type(data).__name__}")
    return data


def _checked(name, array, shape, expected):
    if array.dtype.kind not in "buif":
        raise ValueError(f"Expected {name} to be real numbers. Received: dtype {array.dtype}")
    if array.shape[1:] != tuple(shape) or not len(array):
        raise ValueError(f"{expected}. Received: shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"Expected finite {name}. Received: NaN or infinite ones")
    return array


def inputs(data: Any, nodes: list[Node], dtype: str, name: str = "inputs") -> np.ndarray:
    """`data` as an array of `dtype` that the network of `nodes` can take. See `samples`.

    Raises:
        ValueError: "Expected ... Received: ..." also for fractions where the model casts to integers, and for images
            in 0..255 where a population encodes intensities in [0, 1].
    """
    checks.one_of("dtype", dtype, checks.DTYPES)
    entry = nodes[0]
    assert isinstance(entry, Input)
    x = samples(name, data, entry.shape)
    if not keras.backend.is_float_dtype(entry.dtype) and not np.array_equal(x, x.astype(entry.dtype)):
        raise ValueError(f"Expected {name} of the model's input type, {entry.dtype}. Received: other numbers than that")
    for node in nodes:
        if isinstance(node, TTFSPopulation) and encodes_input(node):
            _check_intensities(name, x, node)
    return x.astype(dtype)


def _check_intensities(name, x, population):
    largest = float(np.exp(population.t_d / population.tau))
    factor = FAR_ABOVE if x.dtype.kind == "f" else FAR_ABOVE_INTEGERS
    entering = before_weights(x, population.inputs[0])
    scale = 0.0 if entering is None else float(entering.max())
    if scale > factor * largest:
        raise ValueError(
            f"Expected {name} that the input's neurons {population.name!r} can encode, up to about {largest:.3g}; images "
            f"in 0..255 need dividing by 255. Received: values up to {scale:.6g}"
        )


def before_weights(x: np.ndarray, node: Node) -> np.ndarray | None:
    """What becomes of inputs on their way to a node that takes them through Affine nodes and Routes; None for others."""
    if isinstance(node, Input):
        return x
    if not isinstance(node, (Affine, Route)):
        return None
    before = [before_weights(x, source) for source in node.inputs]
    if any(value is None for value in before):
        return None
    return np.asarray(node.function("float32")(*(tf.cast(value, "float32") for value in before)))
