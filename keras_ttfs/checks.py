"""Checks of arguments: each function returns its value, or raises ValueError "Expected ... Received: ...".

`self.period = checks.integer("period", period, unit="steps")`. A unit is printed in brackets behind what was expected.
Numbers may be NumPy's, 0-dimensional arrays too. They are returned as Python numbers, so that a config can hold them.
`CheckedLayer` does the same for a layer's keywords and inputs.
"""

import difflib
import functools
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

Function = TypeVar("Function", bound=Callable)
DTYPES = ("float32", "float64")
# Keras draws from seeds modulo about 2**31: two larger ones may be the same.
SEEDS = 2**31
# Beyond it float32 cannot hold the time of a spike to half a step.
LONGEST_WINDOW = 2**20
# Of every layer that is not told another [steps].
DEFAULT_TAU_0 = 10.0
TABULAR = (tf.RaggedTensor, tf.SparseTensor, tf.IndexedSlices)


def real(value: Any) -> float:
    """`value` as a float if it is a real number, NaN for anything else: no comparison with it is true."""
    own = _number_in(value)
    if not isinstance(own, numbers.Real) or isinstance(own, bool):
        return math.nan
    try:
        return float(own)
    except OverflowError:
        return math.inf


def integer(name: str, value: Any, least: int = 1, unit: str | None = None, most: int | None = None) -> int:
    """`value` as an int, if it is an integer >= `least`, and <= `most` if that is given."""
    own = _number_in(value)
    is_integer = isinstance(own, numbers.Integral) and not isinstance(own, (bool, np.bool_))
    if not is_integer or own < least or (most is not None and own > most):
        bound = f" >= {least}" + (f" and <= {most}" if most is not None else "")
        raise ValueError(f"Expected {name} to be an integer{bound}{_in(unit)}. Received: {name}={value!r}")
    return int(own)


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    unit: str | None = None,
    owner: str = "",
) -> float:
    """`value` as a float, if it is a finite number, > `above`, >= `least` and < `below` if these are given.

    `owner` says whose the number is. The message ends in it.
    """
    own = real(value)
    in_range = (above is None or own > above) and (least is None or own >= least) and (below is None or own < below)
    if not (math.isfinite(own) and in_range):
        bounds = [
            f" {sign} {bound:g}" for sign, bound in ((">", above), (">=", least), ("<", below)) if bound is not None
        ]
        wanted = "a finite number" + " and".join(bounds) + _in(unit)
        raise ValueError(f"Expected {name} to be {wanted}. Received: {name}={value!r}{owner}")
    return own


def share(name: str, value: Any) -> float:
    """`value` as a float, if it is a number in [0, 1]."""
    own = real(value)
    if not 0.0 <= own <= 1.0:
        raise ValueError(f"Expected {name} in [0, 1]. Received: {name}={value!r}")
    return own


def amount(name: str, value: Any, *, above: float | None = None) -> Any:
    """`value`, if it is a number or array of finite numbers >= 0, > `above` if that is given. Tensors stay as they are.

    The values of a tensor are often not known yet. What they have of NaN or infinity stays in the results.
    """
    if tf.is_tensor(value):
        return value
    own = _array_of(value)
    real = own.dtype.kind in "iuf" and own.size > 0 and not isinstance(value, (list, tuple))
    if not (real and np.isfinite(own).all() and (own > above if above is not None else own >= 0).all()):
        bound = f"> {above:g}" if above is not None else ">= 0"
        raise ValueError(f"Expected {name} to be finite and {bound}. Received: {name}={value!r}")
    return value


def seed(value: Any, below: int = SEEDS) -> int | None:
    """`value` as an int, if it is an integer >= 0, < `below`; or None."""
    return None if value is None else integer("seed", value, least=0, most=below - 1)


def text(name: str, value: Any) -> str:
    """`value`, if it is a str that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"Expected {name} to be a str. Received: {name}={value!r}")
    return value


def one_of(name: str, value: Any, choices: Iterable) -> Any:
    """`value`, if it is one of `choices`."""
    choices = tuple(choices)
    if not any(isinstance(value, type(choice)) and value == choice for choice in choices):
        raise ValueError(f"Expected {name} to be one of {choices}. Received: {name}={value!r}")
    return value


def recorded(record: Any, sizes: Mapping[str, int], unit: str) -> dict[str, np.ndarray]:
    """`{layer: flat indices}` of what a simulation keeps, of the `sizes` of its layers. `unit` is neurons or membranes."""
    if record is not None and not isinstance(record, Mapping):
        raise ValueError(f"Expected record to be {{layer: flat indices of {unit}}}. Received: record={record!r}")
    found = {}
    for name, places in (record or {}).items():
        if name not in sizes:
            raise ValueError(f"Expected the layers to record among {tuple(sizes)}. Received: {name!r}")
        own = np.asarray(list(places) if isinstance(places, Iterable) else places)
        fits = own.ndim == 1 and len(own) and np.issubdtype(own.dtype, np.integer)
        if not fits or own.min() < 0 or own.max() >= sizes[name]:
            raise ValueError(f"Expected {unit} of {name!r} in 0..{sizes[name] - 1}. Received: {places!r:.80}")
        found[name] = own
    return found


def batch(batch_size: Any) -> int:
    """`batch_size` as an int, if it is an integer >= 1."""
    return integer("batch_size", batch_size, unit="samples")


def array(name: str, value: Any) -> np.ndarray:
    """`value` as an array of at least one sample `(samples, ...)`, if it is made of finite real numbers."""
    own = _array_of(value)
    if not (_is_real(own.dtype) and own.ndim > 1 and own.size):
        received = f"an array of {own.dtype} of shape {own.shape}" if own.ndim else repr(value)
        raise ValueError(f"Expected {name} to be an array of numbers (samples, ...). Received: {received}")
    if not np.isfinite(own).all():
        raise ValueError(f"Expected {name} to be finite. Received: NaN or infinite numbers")
    return own


def inputs(x: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """`x` as an array of `dtype`, if it is finite and made of samples of `shape`."""
    one_of("dtype", dtype, DTYPES)
    x = _array_of(x)
    if x.shape[1:] != shape or not len(x):
        raise ValueError(f"Expected inputs of shape (samples, {str(shape)[1:]}. Received: shape {x.shape}")
    if not _is_real(x.dtype):
        raise ValueError(f"Expected inputs of real numbers. Received: an array of {x.dtype}")
    x = x.astype(dtype, copy=False)
    if not np.isfinite(x).all():
        raise ValueError("Expected finite inputs. Received: NaN or infinite ones")
    return x


def tensor(name: str, value: Any, dtype: Any = tf.float32) -> tf.Tensor:
    """`value` as a floating-point tensor: as it is, if it is floating-point; integers and bools as `dtype`."""
    try:
        own = tf.convert_to_tensor(value)
    except (TypeError, ValueError):
        raise ValueError(f"Expected {name} to be a tensor of real numbers. Received: {name}={value!r}") from None
    if not _is_real(own.dtype):
        raise ValueError(f"Expected {name} to be a tensor of real numbers. Received: {name} of {own.dtype.name}")
    return own if own.dtype.is_floating else tf.cast(own, dtype)


def floating_dtype(name: str, value: Any) -> tf.DType:
    """`value` as a TensorFlow dtype, if it is a floating-point one."""
    try:
        own = tf.as_dtype(None if isinstance(value, int) else value)
    except TypeError:
        own = tf.string
    if not own.is_floating:
        raise ValueError(f"Expected {name} to be a floating-point dtype. Received: {name}={value!r}")
    return own


def flag(name: str, value: Any) -> Any:
    """`value`, if it is a bool or a scalar tensor of bool."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if not tf.is_tensor(value) or value.dtype != tf.bool or value.shape.rank not in (0, None):
        raise ValueError(f"Expected {name} to be a bool, a scalar. Received: {name}={value!r}")
    return value


def keywords(owner: type, given: Iterable[str]) -> None:
    """Refuses keywords that no `__init__` of a class knows, and names the nearest that one knows."""
    known = ["input_shape", "input_dim"] if issubclass(owner, keras.layers.Layer) else []
    for parent in owner.__mro__:
        if "__init__" in vars(parent):
            parameters = inspect.signature(vars(parent)["__init__"]).parameters.values()
            known += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in given:
        if name not in known:
            raise ValueError(f"Expected a keyword of {owner.__name__}. Received: {name}.{_nearest(name, known)}")


def known_keywords(function: Function) -> Function:
    """The same function, which refuses keywords that it does not have and names the nearest that it has."""
    known = [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind.value != 2]

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in known:
                raise ValueError(f"Expected a keyword of {function.__name__}. Received: {name}.{_nearest(name, known)}")
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


def _nearest(name, known):
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f" Did you mean {near[0]}?" if near else ""


def layer_inputs(value: Any, rank: int | None = None, axis: int = -1) -> None:
    """Refuses what a layer cannot compute on: anything but a dense tensor or array of real numbers, batch first.

    Args:
        value: what the layer was called with.
        rank: the only rank that the layer takes. None: any from 2 on.
        axis: an axis that the layer needs.
    """
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is None or shape is None or isinstance(value, TABULAR):
        raise ValueError(f"Expected a tensor or an array of real numbers. Received: {value!r}")
    if not _is_real(dtype) or getattr(value, "sparse", False) or getattr(value, "ragged", False):
        kind = "a ragged or sparse tensor" if _is_real(dtype) else f"an array of {getattr(dtype, 'name', dtype)}"
        raise ValueError(f"Expected a tensor or an array of real numbers. Received: {kind}")
    shape = tf.TensorShape(shape)
    if shape.rank is None:
        return
    if shape.rank != rank if rank is not None else not max(1, axis, -axis - 1) < shape.rank:
        wanted = f"{rank}" if rank is not None else f"at least {max(2, axis + 1, -axis)}"
        raise ValueError(f"Expected inputs of {wanted} dimensions, (batch, ...). Received: shape {tuple(shape)}")
    if 0 in shape.as_list()[1:]:
        raise ValueError(f"Expected inputs with numbers in every sample. Received: shape {tuple(shape)}")


def as_dtype(value: Any, dtype: Any) -> tf.Tensor:
    """`tf.cast` that does not take a Python number through float32."""
    return tf.constant(value, dtype) if isinstance(value, (int, float)) else tf.cast(value, dtype)


def scalars(tau: Any, t_d: Any, dtype: Any = None, owner: str = "") -> tuple[tf.Tensor, tf.Tensor]:
    """`(tau, t_d)` as scalar tensors, if tau is finite and > 0 and t_d is finite.

    In the graph of a tf.function their values are not known yet. There tau becomes NaN if it or t_d is out of range, so
    that everything computed from it is NaN.

    Args:
        tau, t_d: float, scalars [steps].
        dtype: floating-point dtype of both; None for that of tau, at least float32.
        owner: whose they are, for the message.

    Raises:
        ValueError: "Expected tau to be a finite number > 0 [steps]. Received: tau=0.0 ...".
    """
    tau = _scalar("tau", tau, dtype, owner, above=0, unit="steps")
    t_d = _scalar("t_d", t_d, tau.dtype, owner, unit="steps")
    if not tf.executing_eagerly():
        in_range = (tau > 0) & (tau < float("inf")) & tf.math.is_finite(t_d)
        tau = tf.where(in_range, tau, tf.constant(float("nan"), tau.dtype))
    return tau, t_d


def _scalar(name, value, dtype, owner, **bounds):
    own = tensor(name, value) if hasattr(value, "dtype") else number(name, value, **bounds)
    if dtype is None:
        dtype = tf.float64 if getattr(own, "dtype", None) == tf.float64 else tf.float32
    own = as_dtype(own, dtype)
    if own.shape.rank not in (0, None):
        raise ValueError(f"Expected {name} to be a scalar [steps]. Received: {name} of shape {own.shape}{owner}")
    if tf.executing_eagerly():
        number(name, float(own), owner=owner, **bounds)
    return own


def temporal_kernel(
    tau_0: Any, t_d_0: Any, z_max_0: Any, time_window: int, shift: float, dtype: str
) -> tuple[float, float]:
    """`(tau_0, t_d_0)` of a layer. Refuses a kernel with which neurons never fire, always fire, or send no number.

    In `dtype`, its levels and thresholds must be finite, normal numbers, and each level smaller than the one before.
    In float32 that is `t_d_0 < 88 tau_0`, `time_window - t_d_0 < 87 tau_0` and tau_0 up to about 10**7.

    Args:
        tau_0, t_d_0, z_max_0: as `TTFSActivation`.
        time_window: int >= 1 [steps].
        shift: float: how much later than the levels the thresholds are [steps].
        dtype: `"float32"` or `"float64"`.
    """
    received = f"time_window={time_window}, tau_0={tau_0!r}, t_d_0={t_d_0!r}, z_max_0={z_max_0!r}"
    tau_0, t_d_0 = number("tau_0", tau_0, above=0, unit="steps"), number("t_d_0", t_d_0, unit="steps")
    if z_max_0 is not None:
        z_max_0 = number("z_max_0", z_max_0, above=0, unit="1")
        if t_d_0 != 0.0:
            raise ValueError(f"Expected either t_d_0 or z_max_0, not both. Received: {received}")
        t_d_0 = tau_0 * math.log(z_max_0)
    with np.errstate(all="ignore"):
        tau, t_d = (float(np.dtype(dtype).type(value)) for value in (tau_0, t_d_0))
        steps = np.append(np.arange(time_window), time_window - 1 + shift)
        exact = np.exp(np.divide(t_d - steps, tau))
        held = exact.astype(dtype)
    if not (np.isfinite(held[0]) and held[-1] >= np.finfo(dtype).tiny and (np.diff(held[:-1]) < 0).all()):
        raise ValueError(
            f"Expected a temporal kernel of {time_window} different levels that are normal {dtype} numbers [1]. "
            f"Received: levels from {exact[0]:.3g} to {exact[-2]:.3g} of {received}"
        )
    return tau_0, t_d_0


def base_2(base: Any, steps_per_octave: Any, tau_0: Any, t_d_0: Any, z_max_0: Any) -> tuple[Any, Any]:
    """`(tau_0, t_d_0)` of a kernel of base 2; those given where `base` is None. The levels are powers of 2**(1 / k).

    Args:
        base: 2 or None.
        steps_per_octave: int >= 1: k, or None without base [steps].
        tau_0, t_d_0, z_max_0: as `TTFSActivation`.
    """
    if base is None:
        if steps_per_octave is not None:
            raise ValueError(f"Expected base=2 with steps_per_octave. Received: steps_per_octave={steps_per_octave!r}")
        return tau_0, t_d_0
    one_of("base", base, (None, 2))
    own = integer("steps_per_octave", steps_per_octave, unit="steps", most=LONGEST_WINDOW) / math.log(2.0)
    if number("tau_0", tau_0, above=0, unit="steps") not in (DEFAULT_TAU_0, own):
        raise ValueError(
            f"Expected no tau_0 with base=2, where tau is steps_per_octave / ln 2. Received: tau_0={tau_0!r}"
        )
    if z_max_0 is not None:
        if t_d_0 != 0.0:
            raise ValueError(
                f"Expected either t_d_0 or z_max_0, not both. Received: t_d_0={t_d_0!r}, z_max_0={z_max_0!r}"
            )
        t_d_0 = steps_per_octave * math.log2(number("z_max_0", z_max_0, above=0, unit="1"))
    t_d_0 = float(number("t_d_0", t_d_0, unit="steps"))
    if abs(t_d_0 - round(t_d_0)) > 1e-9:
        raise ValueError(
            "Expected a largest level that is a power of 2**(1 / steps_per_octave) with base=2, so that t_d_0 is an integer "
            f"[steps]. Received: t_d_0={t_d_0:.6g}, z_max_0={z_max_0!r}"
        )
    return own, float(round(t_d_0))


def batch_norm(**arguments: Any) -> None:
    """Refuses an axis, momentum or epsilon of a batch normalisation out of its range, if it is given."""
    integer("axis", arguments.get("axis", -1), least=-16)
    share("momentum", arguments.get("momentum", 0.99))
    number("epsilon", arguments.get("epsilon", 1e-3), least=0, unit="1")


def smallest_level(z_min: Any, shape: tuple[int, ...]) -> tf.Tensor:
    """`z_min` as a floating-point tensor, if it is > 0 [1] and a scalar or of this shape."""
    known = tf.is_tensor(z_min) and hasattr(z_min, "numpy")
    own = tensor("z_min", amount("z_min", z_min.numpy() if known else z_min, above=0))
    if own.shape.rank not in (0, None) and own.shape != shape:
        raise ValueError(f"Expected z_min to be a scalar or of shape {shape}. Received: shape {own.shape}")
    return own


class CheckedLayer:
    """Base, before a class of Keras, of layers that refuse unknown keywords and what they cannot compute on.

    A layer that Keras calls from within another, as TimeDistributed does, is not called through `__call__`. So a
    layer's `call` begins with `inputs = self.floating(inputs)`.
    """

    INPUT_RANK: int | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        keywords(type(self), kwargs)
        super().__init__(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args or "inputs" in kwargs:
            self.check_inputs(args[0] if args else kwargs["inputs"])
        return super().__call__(*args, **kwargs)  # type: ignore[misc]

    def check_inputs(self, inputs: Any) -> None:
        """Refuses inputs of the wrong kind or shape."""
        layer_inputs(inputs, self.INPUT_RANK)

    def floating(self, inputs: Any) -> tf.Tensor:
        """The inputs as a floating-point tensor: integers and bools in the layer's compute dtype."""
        return tensor("inputs", inputs, self.compute_dtype)  # type: ignore[attr-defined]


def _array_of(value):
    """`value` as an array; an array of one object if it cannot be one."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        return np.asarray(None)


def _number_in(value):
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0 else value


def _is_real(dtype):
    name = str(getattr(dtype, "name", dtype))
    return name.startswith(("float", "bfloat", "int", "uint", "bool"))


def _in(unit: str | None) -> str:
    return f" [{unit}]" if unit else ""
