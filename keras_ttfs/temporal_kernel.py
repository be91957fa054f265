"""The temporal kernel: time-to-first-spike encoding and decoding as pure functions.

A layer's kernel has a time constant `tau` and a delay `t_d`, both in steps, and a window of `T = time_window` steps. A
spike at the local step `t` in {0..T-1} carries the level `exp(-(t - t_d) / tau)`; `t = T` means that the neuron stays
silent and carries 0. A neuron of membrane potential `z` fires at the first step whose threshold it reaches:

    threshold(t) = exp(-(t - t_d) / tau)          rounding="ceil" (Eq. 4)
    threshold(t) = exp(-(t + 1/2 - t_d) / tau)    rounding="nearest"

That definition, not a rounded logarithm, decides every spike here: the T levels and thresholds are computed in float64,
rounded once to the working precision, and compared. A spiking neuron that compares with the same numbers fires at the
very same step. Layers call `quantize`, which is `decode(encode(z))` in one pass; simulators call `fire`.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ttfs import checks
from keras_ttfs.checks import as_dtype as as_dtype
from keras_ttfs.checks import scalars
from keras_ttfs.tracing import compiled, differentiable

ROUNDINGS = ("ceil", "nearest")
KERNEL_GRADIENTS = ("decoder", "full")
LN_2 = math.log(2.0)
# The smallest normal float32: it leaves every level untouched and keeps the logarithm finite.
EPSILON = float(np.finfo(np.float32).tiny)


def _operands(z, tau, t_d, name="z"):
    """All as tensors of one floating dtype: float64 if z is, float32 otherwise; tau and t_d by `scalars`."""
    z = checks.tensor(name, z)
    z = tf.cast(z, tf.float64 if z.dtype == tf.float64 else tf.float32)
    return z, *scalars(tau, t_d, z.dtype)


def check_time_window(time_window: Any) -> int:
    """`time_window` as an int, if it is an integer in [1, 2**20]. Spike times beyond it would not be exact."""
    return checks.integer("time_window", time_window, unit="steps", most=checks.LONGEST_WINDOW)


def check_rounding(rounding: Any) -> str:
    """`rounding`, if it is one of ROUNDINGS."""
    return checks.one_of("rounding", rounding, ROUNDINGS)


def threshold_shift(rounding: str) -> float:
    """How much later than the level of its step a threshold is [steps]."""
    return 0.5 if rounding == "nearest" else 0.0


def check_kernel_gradient(kernel_gradient: Any) -> str:
    """`kernel_gradient`, if it is one of KERNEL_GRADIENTS."""
    return checks.one_of("kernel_gradient", kernel_gradient, KERNEL_GRADIENTS)


def levels(tau: Any, t_d: Any, time_window: int, *, shift: float = 0.0, dtype: Any = "float32") -> tf.Tensor:
    """Every level of a kernel, from the largest to the smallest: `exp(-(t + shift - t_d) / tau)` for t = 0..T-1.

    Levels are computed in float64 and rounded once, so each is the floating-point number nearest to the exact level. A tau of
    k / ln 2, k an integer, as float32 says it, makes kernels of base 2: their levels are those of
    `2**(-(t + shift - t_d) / k)`, exact powers of 2 where k divides the time. (Another tau that is so near to it in float64
    has the same levels.)

    Args:
        tau: float > 0, scalar [steps].
        t_d: float, scalar [steps].
        time_window: int >= 1 [steps].
        shift: float [steps]. 1/2 gives the thresholds of `rounding="nearest"`.
        dtype: of the result, a floating-point one.

    Returns:
        A tensor of shape `(time_window,)`, decreasing.

    Raises:
        ValueError: "Expected ... Received: ..." for every argument out of its range.

    Reference: Eq. 3.
    """
    check_time_window(time_window)
    shift, dtype = checks.number("shift", shift, unit="steps"), checks.floating_dtype("dtype", dtype)
    tau, t_d = scalars(tau, t_d, tf.float64)
    steps = tf.range(time_window, dtype=tf.float64)
    return tf.cast(_kernel(t_d - (steps + shift), tau), dtype)


def _kernel(time, tau):
    """`exp(time / tau)`. It is `2**(time / k)` where tau is k / ln 2 as float32 can say it, k an integer."""
    octave = tf.cast(tau, tf.float64) * LN_2
    steps_per_octave = tf.maximum(tf.round(octave), 1.0)
    base_2 = tf.abs(octave - steps_per_octave) <= 2.0**-24 * steps_per_octave
    # Long windows have many levels: a graph computes both forms, because it does not know tau.
    if tf.executing_eagerly() and not bool(base_2):
        return tf.exp(time / tau)
    octaves = tf.cast(time, tf.float64) / steps_per_octave
    # Whole octaves apart, because powers of 2 are then exact.
    whole = tf.floor(octaves)
    power = tf.pow(tf.constant(2.0, tf.float64), whole) * tf.exp(LN_2 * (octaves - whole))
    return tf.where(base_2, tf.cast(tf.stop_gradient(power), time.dtype), tf.exp(time / tau))


def thresholds(tau: Any, t_d: Any, time_window: int, *, rounding: str = "ceil", dtype: Any = "float32") -> tf.Tensor:
    """The dynamic threshold of a firing neuron (theta_0 = 1) at each step of its window, shape `(time_window,)`.

    A neuron whose membrane potential is z fires at the first step t with `z >= thresholds[t]`.

    Args and Raises: as `levels`; `rounding` is `"ceil"` or `"nearest"`.

    Reference: Eqs. 2 and 4, `theta(t) = theta_0 * kappa(t)`.
    """
    check_rounding(rounding)
    return levels(tau, t_d, time_window, shift=threshold_shift(rounding), dtype=dtype)


def proposed_step(z: Any, tau: Any, t_d: Any, time_window: int, rounding: str, epsilon: float) -> tf.Tensor:
    """A step t in {0..T-1} such that the spike, if there is one, is at t or t + 1; of the smallest integer type."""
    shift = threshold_shift(rounding)
    # The logarithm only proposes the nearest threshold; `_spike_time` compares with it and decides.
    step = tf.round(t_d - shift - tau * tf.math.log(tf.maximum(z, epsilon)))
    last = time_window - 1
    # Comparisons with NaN are false, so NaN lands on the last step instead of an undefined integer.
    step = tf.where(step < last, tf.maximum(step, 0.0), tf.cast(last, z.dtype))
    return tf.cast(step, next(dtype for dtype in (tf.int8, tf.int16, tf.int32) if last <= dtype.max))


def _spike_time(z, step, thresholds, time_window):
    """The spike time, an int32: the proposed step or the next; T where silent. The spike time of NaN is undefined."""
    step = tf.cast(step, tf.int32)
    spike_time = tf.where(z >= tf.gather(thresholds, step), step, step + 1)
    return tf.where(z > 0, spike_time, time_window)


def _encode_gradient(upstream, z, spike_time, tau, largest, time_window, epsilon):
    """Gradient of the spike time: straight through the rounding, inside the window only. `largest` is z_max."""
    inside = (spike_time < time_window) & (z <= largest)
    # Selected after the product: the quotient is infinite where z is 0.
    return tf.where(inside, upstream * (-tau / (tf.maximum(z, 0.0) + epsilon)), tf.zeros_like(upstream)), inside


def encode(
    z: Any, tau: Any, t_d: Any, time_window: int, *, rounding: str = "ceil", epsilon: float = EPSILON
) -> tf.Tensor:
    """Spike time of each pre-activation: the first step of the window at which z reaches the threshold.

    Forward: `t = clip(Q[-tau * ln(max(z, epsilon)) + t_d], 0, T)`, Q the ceiling (or the nearest integer); an integer
    in {0..T-1}, exactly T where the neuron stays silent. NaN gives NaN, +inf gives 0, and z <= 0 is silent.

    Backward, straight through Q: `dt/dz = -tau / (z + epsilon)`, `dt/dtau = -ln(z + epsilon)` and `dt/dt_d = 1` inside
    the window; 0 where z is pruned (silent) or clipped (`z > z_max`).

    >>> encode([1.0, 0.5, 0.01, -1.0], tau=10.0, t_d=0.0, time_window=32).numpy()
    array([ 0.,  7., 32., 32.], dtype=float32)

    Args:
        z: tensor of any shape [1]. float16, bfloat16, integers and bools are computed in float32.
        tau: float > 0, scalar: time constant [steps].
        t_d: float, scalar: delay [steps].
        time_window: int >= 1, <= 2**20: T [steps].
        rounding: `"ceil"` (Eq. 4) or `"nearest"`.
        epsilon: float >= 0 [1], at most a thousandth of the smallest level. It keeps logarithm and gradient finite, and
            no spike depends on it.

    Returns:
        Spike times local to the window [steps], of z's shape: float64 for float64 input, float32 otherwise, because
        bfloat16 holds integers only up to 256.

    Raises:
        ValueError: "Expected ... Received: ..." for every argument out of its range. A tau, t_d or epsilon whose value
            is not known yet, in the graph of a tf.function, gives NaN instead.

    Differs from the paper: Eq. 3 lets a spike at t = T carry a level. Here T means silence: a phase has only T steps.

    Reference: Eqs. 2, 4 and 5.
    """
    check_time_window(time_window)
    check_rounding(rounding)
    z, tau, t_d = _operands(z, tau, t_d)
    epsilon, tau = _far_below(epsilon, tau, t_d, time_window)

    @differentiable
    def straight_through(z, tau, t_d):
        table = thresholds(tau, t_d, time_window, rounding=rounding, dtype=z.dtype)
        step = proposed_step(z, tau, t_d, time_window, rounding, epsilon)
        spike_time = tf.cast(_spike_time(z, step, table, time_window), z.dtype)
        undefined = tf.math.is_nan(z) | tf.math.is_nan(tau)
        spike_time = tf.where(undefined, tf.constant(float("nan"), z.dtype), spike_time)

        def gradient(upstream):
            largest = _kernel(t_d, tau)
            dz, inside = _encode_gradient(upstream, z, spike_time, tau, largest, time_window, epsilon)
            passed = tf.where(inside, upstream, tf.zeros_like(upstream))
            log_z = tf.math.log(tf.maximum(z, 0.0) + epsilon)
            return dz, -tf.reduce_sum(tf.math.multiply_no_nan(log_z, passed)), tf.reduce_sum(passed)

        return spike_time, gradient

    return straight_through(z, tau, t_d)


def _far_below(epsilon, tau, t_d, time_window):
    """`(epsilon, tau)`: refuses an epsilon that is not far below the smallest level; in a graph tau becomes NaN."""
    epsilon = checks.number("epsilon", epsilon, least=0, unit="1")
    if epsilon <= EPSILON:
        return epsilon, tau
    most = tf.exp((t_d - time_window) / tau) / 1000
    if not tf.executing_eagerly():
        return epsilon, tf.where(epsilon <= most, tau, tf.constant(float("nan"), tau.dtype))
    if not epsilon <= float(most):
        raise ValueError(f"Expected epsilon <= {float(most):g} [1], far below every level. Received: epsilon={epsilon}")
    return epsilon, tau


def decode(spike_time: Any, tau: Any, t_d: Any, time_window: int) -> tf.Tensor:
    """Value that a spike carries: the temporal kernel at its spike time.

    Forward: `z_hat = exp(-(t - t_d) / tau)`, 0 where `t >= T` (no spike), and NaN where `t < 0`.

    Backward: `dz_hat/dt = -z_hat / tau`, `dz_hat/dtau = z_hat * (t - t_d) / tau**2`, `dz_hat/dt_d = z_hat / tau`.

    >>> decode([0.0, 7.0, 32.0], tau=10.0, t_d=0.0, time_window=32).numpy().round(4)
    array([1.    , 0.4966, 0.    ], dtype=float32)

    Args:
        spike_time: tensor >= 0 [steps], local to the window, of any shape.
        tau: float > 0, scalar: time constant [steps].
        t_d: float, scalar: delay [steps].
        time_window: int >= 1: T [steps].

    Returns:
        Decoded activations [1] of the same shape: float64 for float64 input, float32 otherwise.

    Raises: as `encode`.

    Differs from the paper: `dz_hat/dt_d` has the factor 1 / tau, where Eq. 6 misprints t_d / tau.

    Reference: Eqs. 3, 5 and 6.
    """
    check_time_window(time_window)

    @differentiable
    def kernel(spike_time, tau, t_d):
        table = levels(tau, t_d, time_window, dtype=spike_time.dtype)
        step = tf.clip_by_value(tf.floor(spike_time), 0.0, time_window - 1.0)
        step = tf.where(tf.math.is_nan(step), tf.zeros_like(step), step)
        # An integer time takes its level from the table as it is: the factor beside it is exactly 1.
        z_hat = tf.gather(table, tf.cast(step, tf.int32)) * tf.exp((step - spike_time) / tau)
        # 0 * tau is NaN where tau is out of its range.
        z_hat = tf.where(spike_time >= time_window, 0.0 * tau, z_hat)
        z_hat = tf.where(spike_time < 0, tf.constant(float("nan"), z_hat.dtype), z_hat)

        def gradient(upstream):
            return _decode_gradient(upstream, z_hat, spike_time, tau, t_d)

        return z_hat, gradient

    return kernel(*_operands(spike_time, tau, t_d, "spike_time"))


def _decode_gradient(upstream, z_hat, spike_time, tau, t_d):
    weighted = upstream * z_hat
    dtau = tf.reduce_sum(weighted * (spike_time - t_d)) / tau**2
    return upstream * (-z_hat / tau), dtau, tf.reduce_sum(weighted) / tau


def z_min(tau: Any, t_d: Any, time_window: int) -> tf.Tensor:
    """Smallest level that a spike can carry, `exp(-(T - 1 - t_d) / tau)` [1]. Differentiable, but of base 2: no gradient.

    Differs from the paper, which prints `exp(-(T - t_d) / tau)`, the level of the step after the last.
    """
    check_time_window(time_window)
    tau, t_d = scalars(tau, t_d)
    return _kernel(t_d - (time_window - 1.0), tau)


def z_max(tau: Any, t_d: Any) -> tf.Tensor:
    """Largest level that a spike can carry, `exp(t_d / tau)` [1], at t = 0. Differentiable as `z_min` is."""
    return _kernel(*reversed(scalars(tau, t_d)))


def maximum_error(z: Any, tau: Any, t_d: Any, time_window: int | None = None) -> tf.Tensor:
    """Error of clipping: `z - z_max` where `z > z_max`, 0 elsewhere (Eq. 10). Per element [1].

    `time_window` is not needed; it is accepted so that the three errors can be called alike.
    """
    if time_window is not None:
        check_time_window(time_window)
    z, tau, t_d = _operands(z, tau, t_d)
    error = z - z_max(tau, t_d)
    return tf.where(error < 0, tf.zeros_like(error), error)


def minimum_error(z: Any, tau: Any, t_d: Any, time_window: int) -> tf.Tensor:
    """Error of pruning: `z_min - z` where `z < z_min`, 0 elsewhere (Eq. 11). Per element [1]."""
    z, tau, t_d = _operands(z, tau, t_d)
    error = z_min(tau, t_d, time_window) - z
    return tf.where(error < 0, tf.zeros_like(error), error)


def precision_error(z: Any, tau: Any, t_d: Any, time_window: int, *, rounding: str = "ceil") -> tf.Tensor:
    """Error of quantisation: `z - z_hat` where `z_min <= z <= z_max`, 0 elsewhere (Eq. 12). Per element [1]."""
    z, tau, t_d = _operands(z, tau, t_d)
    z_hat = decode(encode(z, tau, t_d, time_window, rounding=rounding), tau, t_d, time_window)
    outside = (z < z_min(tau, t_d, time_window)) | (z > z_max(tau, t_d))
    return tf.where(outside, tf.zeros_like(z), z - z_hat)


def maximum_precision_error(tau: Any, t_d: Any) -> tf.Tensor:
    """Width of the widest quantisation step, `exp(t_d / tau) - exp((t_d - 1) / tau)` [1] (Eq. 13)."""
    tau, t_d = scalars(tau, t_d)
    return tf.exp(t_d / tau) - tf.exp((t_d - 1.0) / tau)


def quantize(
    z: Any,
    tau: Any,
    t_d: Any,
    time_window: int,
    *,
    rounding: str = "ceil",
    kernel_gradient: str = "decoder",
    relaxed: Any = False,
    epsilon: float = EPSILON,
) -> tf.Tensor:
    """`decode(encode(z))` with only z and the result kept in memory: the same values and gradients, bit for bit.

    Forward: the level of the first spike, 0 where the neuron stays silent; see `encode` and `decode`. If relaxed,
    `relu(z)`.

    Backward: `dz_hat/dz = z_hat / (z + epsilon)` inside the window and 0 outside. With `kernel_gradient="decoder"` tau
    and t_d receive the decoder's partial derivatives (Eq. 6). With `"full"` they receive the encoder's as well; the two
    nearly cancel. If relaxed, z receives the gradient of ReLU, and tau and t_d receive 0.

    Args and Raises: as `encode`; `kernel_gradient` is `"decoder"` or `"full"`; `relaxed` is a bool, scalar (Fig. 4).

    Returns:
        Decoded activations [1] of z's shape and dtype, float32 for integers and bools.
    """
    check_time_window(time_window)
    check_rounding(rounding)
    check_kernel_gradient(kernel_gradient)
    relaxed, z = checks.flag("relaxed", relaxed), checks.tensor("z", z)
    compute = tf.float64 if z.dtype == tf.float64 else tf.float32
    tau, t_d = scalars(tau, t_d, compute)
    epsilon, tau = _far_below(epsilon, tau, t_d, time_window)
    if kernel_gradient == "full" or compute == tf.float64:
        kernel = (tau, t_d) if kernel_gradient == "full" else (tf.stop_gradient(tau), tf.stop_gradient(t_d))
        spike_time = encode(z, *kernel, time_window, rounding=rounding, epsilon=epsilon)
        z_hat = tf.cast(decode(spike_time, tau, t_d, time_window), z.dtype)
        # Not tf.cond: with it, two runs of one seed drifted apart in the last bits.
        return z_hat if relaxed is False else tf.where(relaxed, tf.nn.relu(z), z_hat)

    @differentiable
    def fused(z, tau, t_d):
        kernel_tables = tables(tau, t_d, time_window, rounding)
        step = _quantize_propose(z, tau, t_d, time_window, rounding, epsilon)
        z_hat = _quantize_decide(z, step, *kernel_tables, relaxed, time_window)

        def gradient(upstream):
            # What was kept is rounded to half precision, if z is.
            exact = z_hat
            if z.dtype != tau.dtype:
                exact = _quantize_decide(tf.cast(z, tau.dtype), step, *kernel_tables, relaxed, time_window)
            dz, weighted, late = _quantize_backward(
                upstream, z, exact, tau, t_d, _kernel(t_d, tau), relaxed, time_window, epsilon
            )
            spiking = tf.where(relaxed, 0.0, 1.0)
            return (
                dz,
                tf.math.multiply_no_nan(tf.reduce_sum(late) / tau**2, spiking),
                tf.math.multiply_no_nan(tf.reduce_sum(weighted) / tau, spiking),
            )

        return z_hat, gradient

    return fused(z, tau, t_d)


def fire(z: Any, tau: Any, t_d: Any, time_window: int, *, rounding: str = "ceil") -> tuple[tf.Tensor, tf.Tensor]:
    """`(spike_time, z_hat)` of neurons with membrane potentials z: `encode` and `decode` at once, without gradients.

    >>> spike_time, z_hat = fire([1.0, 0.5, 0.0], tau=10.0, t_d=0.0, time_window=32)
    >>> spike_time.numpy(), z_hat.numpy().round(4)
    (array([ 0,  7, 32], dtype=int16), array([1.    , 0.4966, 0.    ], dtype=float32))

    Args: as `encode`.

    Returns:
        Spike times [steps] as int16 (int32 for windows beyond it), T where silent, and the levels [1] they carry.

    Raises:
        ValueError: as `encode`; "Expected z to have no NaN ...", because an integer cannot be NaN. In the graph of a
            tf.function, NaN gives the spike time T and the level NaN.
    """
    check_time_window(time_window)
    check_rounding(rounding)
    z, tau, t_d = _operands(z, tau, t_d)
    if tf.executing_eagerly() and bool(tf.reduce_any(tf.math.is_nan(z))):
        raise ValueError("Expected z to have no NaN, because spike times are integers. Received: NaN in z")
    step = _quantize_propose(z, tau, t_d, time_window, rounding, EPSILON)
    return _fire(z, step, *tables(tau, t_d, time_window, rounding), time_window)


def tables(tau: Any, t_d: Any, time_window: int, rounding: str) -> tuple[tf.Tensor, tf.Tensor]:
    """`(thresholds of the steps 0..T-1, levels of the steps 0..T)`. The level of T, where a neuron is silent, is 0.

    All are NaN where `scalars` made tau NaN, the level of silence too.
    """
    own = levels(tau, t_d, time_window, dtype=tau.dtype)
    own_thresholds = thresholds(tau, t_d, time_window, rounding=rounding, dtype=tau.dtype)
    return own_thresholds, tf.concat([own, [0.0 * tau]], axis=0)


# Two functions, not one: XLA does not vectorise a logarithm in a loop that looks up a table.
@compiled
def _quantize_propose(z, tau, t_d, time_window, rounding, epsilon):
    return proposed_step(tf.cast(z, tau.dtype), tau, t_d, time_window, rounding, epsilon)


@compiled
def _quantize_decide(z, step, thresholds, levels, relaxed, time_window):
    z_hat = level_or_relu(tf.cast(z, thresholds.dtype), step, thresholds, levels, relaxed, time_window)
    return tf.cast(z_hat, z.dtype)


def level_or_relu(z: Any, step: Any, thresholds: Any, levels: Any, relaxed: Any, time_window: int) -> tf.Tensor:
    """z_hat of potentials z: the level of the first spike, given its `proposed_step`, or `relu(z)` if relaxed."""
    z_hat = tf.gather(levels, _spike_time(z, step, thresholds, time_window))
    return tf.where(relaxed, tf.nn.relu(z), tf.where(tf.math.is_nan(z), z, z_hat))


@compiled
def _fire(z, step, thresholds, levels, time_window):
    spike_time = _spike_time(z, step, thresholds, time_window)
    z_hat = tf.where(tf.math.is_nan(z), z, tf.gather(levels, spike_time))
    return tf.cast(spike_time, integer_dtype(time_window)), z_hat


def integer_dtype(time_window: int) -> tf.DType:
    """The type of integer spike times: int16, or int32 for windows that do not fit it."""
    return tf.int16 if time_window <= tf.int16.max else tf.int32


@compiled
def _quantize_backward(upstream, z, z_hat, tau, t_d, largest, relaxed, time_window, epsilon):
    dtype = z.dtype
    z, upstream = tf.cast(z, tau.dtype), tf.cast(upstream, tau.dtype)
    spike_time = tf.where(z_hat > 0, tf.round(t_d - tau * tf.math.log(z_hat)), tf.cast(time_window, z.dtype))
    weighted = upstream * z_hat
    dz, _ = _encode_gradient(upstream * (-z_hat / tau), z, spike_time, tau, largest, time_window, epsilon)
    dz = tf.where(relaxed, tf.where(z > 0, upstream, tf.zeros_like(upstream)), dz)
    return tf.cast(dz, dtype), weighted, weighted * (spike_time - t_d)
