"""The regularisation terms, as pure functions of numbers: the two of Eq. 9, which `TTFSModel.penalties` sums over a model,
and the firing probability, by which `SpikeBudget` saves spikes.
"""

import math
from typing import Any

import tensorflow as tf

from keras_ttfs import checks


def temporal_kernel_penalty(tau: Any, t_d: Any, tau_0: Any, t_d_0: Any) -> Any:
    """REG_TR of one temporal kernel: `(tau - tau_0)**2 + (t_d - t_d_0)**2` [steps^2]. Differentiable.

    The loss adds `lambda_tr` times the sum over all kernels.

    Args:
        tau: float > 0, scalar or vector `(kernels,)`: present time constant [steps].
        t_d: float, of the same shape: present delay [steps].
        tau_0: float > 0, of the same shape: initial time constant [steps].
        t_d_0: float, of the same shape: initial delay [steps].

    Reference: section 4 and Eq. 9.
    """
    names = ("tau", "t_d", "tau_0", "t_d_0")
    tau, t_d, tau_0, t_d_0 = _of_one_type(dict(zip(names, (tau, t_d, tau_0, t_d_0))))
    return (tau - tau_0) ** 2 + (t_d - t_d_0) ** 2


def _of_one_type(values):
    """Tensors of the first one's floating type, whose shapes fit each other."""
    names = list(values)
    first = checks.tensor(names[0], values[names[0]])
    tensors = [first, *(checks.as_dtype(_number_or_tensor(name, values[name]), first.dtype) for name in names[1:])]
    try:
        for other in tensors[1:]:
            tf.broadcast_static_shape(first.shape, other.shape)
    except ValueError:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in zip(names, tensors))
        raise ValueError(f"Expected {', '.join(names)} of shapes that fit each other. Received: {shapes}") from None
    return tensors


def _number_or_tensor(name, value):
    # A Python number as it is: a tensor of it would be float32.
    return value if isinstance(value, (int, float)) else checks.tensor(name, value)


def series_range(gamma: Any, z_min: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """`(lowest, highest)` beta per channel between which Eq. 8 falls as beta rises, as the share of pruned values does.

    The two are the zeros of `dP/dbeta`. About -0.53 and 0.54 for `gamma = 1` and `z_min = 0.045`.

    Args:
        gamma: float tensor `(channels,)` [1].
        z_min: float, scalar or `(channels,)` [1].
    """
    gamma, z_min = _of_one_type({"gamma": gamma, "z_min": z_min})
    # Above 0 for every gamma.
    leading = gamma**2 + 3.0 * gamma + 3.0
    root = tf.sqrt(tf.maximum(z_min**2 + leading * (gamma * z_min**2 + 2.0), 0.0))
    return (z_min - root) / leading, (z_min + root) / leading


def pruning_probability(gamma: Any, beta: Any, z_min: Any) -> tf.Tensor:
    """P_TB per channel: the share of batch-normalised pre-activations that fall into the pruning region.

    P_TB is the integral of `1 - (gamma * x + beta)**2 / 2` (Taylor, Eq. 7) from beta to z_min, in closed form:

        (gamma**2 / 3 + gamma + 1) beta**3 / 2 - z_min beta**2 / 2 - (gamma z_min**2 + 2) beta / 2
            - (gamma**2 z_min**2 / 6 - 1) z_min

    Forward: that for beta within `series_range(gamma, z_min)`. Beyond it, the value at the nearer end. P_TB is not clipped to
    [0, 1]: above beta = z_min it is negative, where it still pulls beta down. The loss subtracts `lambda_tb` times its sum
    over channels and layers.

    Backward: the gradient of the closed form within the range. 0 beyond it.

    >>> pruning_probability([1.0, 1.0, 1.0], [0.0, 0.5, 50.0], 0.045).numpy().round(3)
    array([ 0.045, -0.315, -0.318], dtype=float32)

    Args:
        gamma, beta: float tensors `(channels,)`: scale and shift of the batch normalisation [1].
        z_min: float, scalar or `(channels,)`: smallest level of the encoder that follows [1].

    Returns:
        Tensor `(channels,)`.

    Differs from the paper: Eq. 15 misprints dP/dbeta (the first term lacks beta**2). Here the gradient is Eq. 8's. The paper
    uses Eq. 8 for every beta. Its cube turns where the Taylor series ends. Beyond that it rewards ever larger beta, without
    bound, and training diverges.

    Reference: Eqs. 7, 8, 14 and 16.
    """
    z_min = checks.amount("z_min", _number_or_tensor("z_min", z_min))
    gamma, beta, z_min = _of_one_type({"gamma": gamma, "beta": beta, "z_min": z_min})
    lowest, highest = series_range(gamma, z_min)
    inside = (beta >= lowest) & (beta <= highest)
    # Selected before the polynomial, so that nothing overflows; NaN stays NaN.
    end = tf.maximum(tf.minimum(beta, highest), lowest)
    beta = tf.where(inside, beta, tf.stop_gradient(end))
    gamma = tf.where(inside, gamma, tf.stop_gradient(gamma))
    return (
        (gamma**2 / 3.0 + gamma + 1.0) * beta**3 / 2.0
        - z_min * beta**2 / 2.0
        - (gamma * z_min**2 + 2.0) * beta / 2.0
        - (gamma**2 * z_min**2 / 6.0 - 1.0) * z_min
    )


def firing_probability(gamma: Any, beta: Any, threshold: Any) -> tf.Tensor:
    """Share of batch-normalised pre-activations that reach the smallest threshold, per channel: those that make a spike.

    Forward: `Phi((beta - threshold) / |gamma|)`, Phi being the standard normal distribution's cumulative function. It is
    exact where the pre-activations are normal, as Eq. 7 supposes. Eq. 8 is the Taylor series of such an integral, without
    bounds.

    Backward: with `x = (beta - threshold) / |gamma|` and the normal density phi, `dP/dbeta = phi(x) / |gamma|` and
    `dP/dgamma = -phi(x) x / gamma`. 0 where gamma is 0.

    >>> firing_probability([1.0, 0.5, 1.0], [0.0, 0.5, 50.0], 0.0).numpy().round(3)
    array([0.5  , 0.841, 1.   ], dtype=float32)

    Args:
        gamma, beta: float tensors `(channels,)`: scale and shift of the batch normalisation [1].
        threshold: float, scalar or `(channels,)`: smallest one of the encoder that follows [1]. With `rounding="ceil"` it is
            z_min, with `"nearest"` `z_min * exp(-1 / (2 tau))`.

    Returns:
        Tensor `(channels,)` in [0, 1].

    Differs from the paper, which has P_TB only.
    """
    threshold = checks.amount("threshold", _number_or_tensor("threshold", threshold))
    gamma, beta, threshold = _of_one_type({"gamma": gamma, "beta": beta, "threshold": threshold})
    none = gamma == 0.0
    width = tf.where(none, tf.ones_like(gamma), tf.abs(gamma))
    spread = 0.5 * (1.0 + tf.math.erf((beta - threshold) / (width * math.sqrt(2.0))))
    return tf.where(none, tf.cast(beta >= threshold, gamma.dtype), spread)
