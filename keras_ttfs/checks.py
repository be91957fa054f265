"""Checks of arguments: each function returns its value, or raises ValueError "Expected ... Received: ...".

`self.period = checks.integer("period", period, unit="steps")`. A unit is printed in brackets behind what was expected.
"""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

DTYPES = ("float32", "float64")


def integer(name: str, value: Any, least: int = 1, unit: str | None = None) -> int:
    """`value` as an int, if it is an integer >= `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"Expected {name} to be an integer >= {least}{_in(unit)}. Received: {name}={value!r}")
    return int(value)


def number(
    name: str, value: Any, *, above: float | None = None, least: float | None = None, unit: str | None = None
) -> float:
    """`value` as a float, if it is a finite number, > `above` if that is given, >= `least` if that is given."""
    finite = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)) and math.isfinite(value)
    if not finite or (above is not None and value <= above) or (least is not None and value < least):
        bound = f" > {above:g}" if above is not None else f" >= {least:g}" if least is not None else ""
        raise ValueError(f"Expected {name} to be a finite number{bound}{_in(unit)}. Received: {name}={value!r}")
    return float(value)


def share(name: str, value: Any) -> float:
    """`value` as a float, if it is a number in [0, 1]."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0.0 <= value <= 1.0:
        raise ValueError(f"Expected {name} in [0, 1]. Received: {name}={value!r}")
    return float(value)


def one_of(name: str, value: Any, choices: Iterable) -> Any:
    """`value`, if it is one of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"Expected {name} to be one of {choices}. Received: {name}={value!r}")
    return value


def batch(batch_size: Any) -> int:
    """`batch_size` as an int, if it is an integer >= 1."""
    return integer("batch_size", batch_size, unit="samples")


def inputs(x: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """`x` as an array of `dtype`, if it is finite and made of samples of `shape`."""
    one_of("dtype", dtype, DTYPES)
    x = np.asarray(x, dtype)
    if x.shape[1:] != shape or not len(x):
        raise ValueError(f"Expected inputs of shape (samples, {str(shape)[1:]}. Received: shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("Expected finite inputs. Received: NaN or infinite ones")
    return x


def _in(unit: str | None) -> str:
    return f" [{unit}]" if unit else ""
