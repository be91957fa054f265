"""Batch normalisation as one function, and batch normalisation and TTFS activation as one, for training steps.

Between its convolutions a training step spends its time on reading and writing memory. So this function keeps only
the input x and the output z_hat, and recomputes the normalised potentials z wherever they are needed. Forward, a level
takes one logarithm and one look-up. Backward takes the level from z_hat.

How the two layers find each other: TKBatchNorm attaches an `Origin` to the very tensor that it returns. A layer
TTFSActivation or TTFSEncode called on that tensor reads the record back with `origin_of`. The record has two uses:
TTFSModel pairs the two layers for P_TB in subclassed models, and a TTFSActivation in training computes both at once.

The record is lost, without a warning and without any change of values, wherever a new tensor takes the place of the old
one: behind any layer in between (pooling, dropout), under another dtype policy (Keras casts), in a functional model's
symbolic tensors, and at the border of a tf.function. Its `normalization` is None at inference, with a mask, with `axis`
other than the last, with `renorm`, and in float16 and float64.

Max pooling between the two layers is the exception. In a tf.function `source_of` looks through it, because a
pooled potential is z of the largest x of its window (of the smallest, where gamma < 0). So x is pooled instead of z, and
all but the statistics and the gradient of x is computed for one number of each window.
"""

import dataclasses
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_ttfs import temporal_kernel
from keras_ttfs.temporal_kernel import EPSILON
from keras_ttfs.tracing import compiled

# XLA unrolls a sum over so few rows and vectorises it across the channels. It adds longer sums one number at a time.
ROWS = 8
# Numbers in a row. XLA's innermost loop runs over a row, and 16 channels alone would be too short for it.
ROW_LENGTH = 2048
# Pixels of a window that `_extremes` compares one by one.
LARGEST_WINDOW = 16


@dataclasses.dataclass(frozen=True)
class Normalization:
    """What a batch normalisation did: `z = (x - mean) / sqrt(variance + epsilon) * gamma + beta`, channels last.

    Attributes:
        x: what was normalised, `(..., channels)`.
        mean, variance: `(channels,)`: of x itself, or of the x of all replicas; not moving averages.
        gamma, beta: `(channels,)`, or None if the layer has none [1].
        epsilon: float >= 0.
        synchronized: bool: whether mean and variance are those of all replicas of a distribution strategy.
    """

    x: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor
    gamma: tf.Tensor | None
    beta: tf.Tensor | None
    epsilon: float
    synchronized: bool = False


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a tensor z comes from.

    Attributes:
        batch_norm: the TKBatchNorm that returned z.
        normalization: how z was computed, or None if that is not known.
    """

    batch_norm: keras.layers.BatchNormalization
    normalization: Normalization | None = None


def attach(z: Any, origin: Origin) -> None:
    """Attaches an Origin to the tensor z, for `origin_of`."""
    z._keras_ttfs_origin = origin


def origin_of(z: Any) -> Origin | None:
    """The Origin that was attached to this very tensor object, or None."""
    return getattr(z, "_keras_ttfs_origin", None)


class Source(NamedTuple):
    """What `normalize_and_quantize` needs to compute an activation from what lies before it.

    Attributes:
        normalization: how the potentials were computed.
        window: `(height, width)` of max pooling of the potentials [pixels], or None.
    """

    normalization: Normalization
    window: tuple[int, int] | None


def source_of(z: Any) -> Source | None:
    """The Source of this very tensor of potentials, or None where it is not known."""
    z, window = _unpooled(z)
    origin = origin_of(z)
    return None if origin is None or origin.normalization is None else Source(origin.normalization, window)


def _unpooled(z):
    """`(tensor, window)`: what max pooling gave z in a tf.function; `(z, None)` if nothing did.

    Windows that overlap, leave pixels out, lie on unknown sizes or have more than LARGEST_WINDOW pixels count as nothing.
    """
    operation = z.op if tf.is_symbolic_tensor(z) else None
    if operation is None or operation.type != "MaxPool" or operation.get_attr("data_format") != b"NHWC":
        return z, None
    below, (_, height, width, depth) = operation.inputs[0], operation.get_attr("ksize")
    apart = operation.get_attr("strides") == [1, height, width, 1] and depth == 1
    whole = None not in below.shape[1:] and below.shape[1] % height == below.shape[2] % width == 0
    few = 1 < height * width <= LARGEST_WINDOW
    return (below, (height, width)) if apart and whole and few else (z, None)


def _columns(shape):
    """How many pixels make a row: as many of the last axis as ROW_LENGTH allows."""
    pixels = shape[-2] if shape.rank > 2 else None
    most = min(pixels or 1, max(1, ROW_LENGTH // shape[-1]))
    return max(columns for columns in range(1, most + 1) if (pixels or 1) % columns == 0)


def normalize_and_quantize(
    normalization: Normalization,
    tau: Any,
    t_d: Any,
    time_window: int,
    *,
    dtype: Any,
    rounding: str = "ceil",
    relaxed: Any = False,
    window: tuple[int, int] | None = None,
) -> tf.Tensor:
    """`temporal_kernel.quantize` of a batch normalisation's output z, from its input x.

    Forward: the value of batch normalisation followed by quantisation, bit for bit. With a `window`, of max pooling
    between the two.

    Backward: the gradients of the two, up to rounding errors. With `dz = upstream * z_hat / z` inside the window
    and 0 outside, and `x_hat = (x - mean) / sqrt(variance + epsilon)`:

        dgamma = sum(dz * x_hat)                dtau = -sum(upstream * z_hat * ln(z_hat)) / tau
        dbeta  = sum(dz)                        dt_d =  sum(upstream * z_hat) / tau
        dx     = gamma / sqrt(variance + epsilon) * (dz - dbeta / n - x_hat * dgamma / n)

    The sums for gamma and beta run over the n rows of a channel. The sums for tau and t_d run over all elements. If
    relaxed, dz is the gradient of ReLU, and tau and t_d receive 0. With a `window`, dz is 0 at all x but the one that
    decides its window: the x of the largest z, the first of equal x. (Where only rounding makes two z equal, x decides.)

    Args:
        normalization: a Normalization by the batch's own statistics; x is float32 or bfloat16 `(..., channels)`.
        tau: float > 0, scalar: time constant [steps].
        t_d: float, scalar: delay [steps].
        time_window: int >= 1: T [steps].
        dtype: of z and of the result: float32 or bfloat16.
        rounding: `"ceil"` or `"nearest"`.
        relaxed: bool, scalar (Fig. 4).
        window: `(height, width)` of max pooling [pixels], or None. x is then `(batch, rows, columns, channels)`, of
            rows and columns that the window divides.

    Returns:
        Decoded activations [1] of x's shape, pooled if there is a `window`.

    Reference: Eqs. 2-7.
    """
    mean = tf.stop_gradient(normalization.mean)
    gamma, beta = _weights(normalization)
    size = tuple(normalization.x.shape[1:])
    shape = size if window is None else (size[0] // window[0], size[1] // window[1], size[2])
    shape = tf.TensorShape([normalization.x.shape[0], *shape])
    columns, channels = _columns(shape), tf.size(mean)
    rows = tf.stack([-1, columns * channels])

    @tf.custom_gradient
    def fused(x, gamma, beta, tau, t_d):
        inverse, scale, affine = _affine(normalization, gamma, beta, columns)
        # What decides the spikes: every x, or one of each window.
        heard, place = (x, None) if window is None else _extremes(x, scale, size, window)
        pooled_shape, heard = tf.shape(heard), tf.reshape(heard, rows)
        step = _propose(heard, *affine, tau, t_d, time_window, rounding, dtype)
        tables = temporal_kernel.tables(tau, t_d, time_window, rounding)
        z_hat = _decide(heard, *affine, step, *tables, relaxed, time_window, dtype)

        def gradient(upstream):
            upstream = tf.reshape(upstream, rows)
            # Infinity, because the slope z_hat / z of a relaxed z is 1 however large z is.
            z_max = tf.where(relaxed, float("inf"), temporal_kernel.z_max(tau, t_d))
            norm_sums, kernel_sums = _partial_sums(
                upstream, heard, z_hat, *affine, *_per_row(columns, mean), z_max, dtype
            )
            dgamma, dbeta, slope, offset = _statistics_gradient(
                norm_sums, mean, inverse, scale, tf.size(x), normalization.synchronized
            )
            if window is None:
                dx = _input_gradient(upstream, heard, z_hat, *affine, z_max, *_per_row(columns, slope, offset), dtype)
            else:
                scaled = _scaled_gradient(upstream, heard, z_hat, *affine, z_max, dtype)
                dx = _window_gradient(x, tf.reshape(scaled, pooled_shape), place, slope, offset, size, window)
            kernel_sum = tf.reduce_sum(kernel_sums)
            dtau = tf.where(relaxed, 0.0, -tf.math.imag(kernel_sum) / tau)
            dt_d = tf.where(relaxed, 0.0, tf.math.real(kernel_sum) / tau)
            return tf.reshape(dx, tf.shape(x)), dgamma, dbeta, dtau, dt_d

        return tf.reshape(z_hat, pooled_shape), gradient

    z_hat = fused(normalization.x, gamma, beta, tau, t_d)
    z_hat.set_shape(shape)
    return z_hat


def normalize(normalization: Normalization, dtype: Any) -> tf.Tensor:
    """The output z of a batch normalisation, for a training step in which nothing else can be joined with it.

    Forward: the value of batch normalisation, bit for bit.

    Backward: its gradients up to rounding errors, by the sums of `normalize_and_quantize` with `dz = upstream`. It reads
    x and upstream twice and keeps nothing else. The operations of Keras read and write a dozen tensors of their size.
    The gradients of these gradients are refused, because mean and variance count as constants in them.

    Args:
        normalization: a Normalization by the batch's own statistics; x is float32 or bfloat16 `(..., channels)`.
        dtype: of z: float32 or bfloat16.

    Returns:
        z [1], of x's shape.
    """
    mean = tf.stop_gradient(normalization.mean)
    gamma, beta = _weights(normalization)
    shape = normalization.x.shape
    columns, channels = _columns(shape), tf.size(mean)
    rows = tf.stack([-1, columns * channels])

    @tf.custom_gradient
    def normalized(x, gamma, beta):
        inverse, scale, affine = _affine(normalization, gamma, beta, columns)
        z = _normalized(tf.reshape(x, rows), *affine, dtype)

        def gradient(upstream):
            dz, flat = tf.reshape(upstream, rows), tf.reshape(x, rows)
            dgamma, dbeta, slope, offset = _statistics_gradient(
                _norm_sums(dz, flat, *_per_row(columns, mean)),
                mean,
                inverse,
                scale,
                tf.size(x),
                normalization.synchronized,
            )
            dx = _normalized_gradient(dz, flat, *_per_row(columns, scale, slope, offset))
            return [_differentiable_once(value) for value in (tf.reshape(dx, tf.shape(x)), dgamma, dbeta)]

        return tf.reshape(z, tf.shape(x)), gradient

    z = normalized(normalization.x, gamma, beta)
    z.set_shape(shape)
    return z


def _weights(normalization):
    """`(gamma, beta)` of a Normalization: 1 and 0 where it has none."""
    gamma, beta, mean = normalization.gamma, normalization.beta, normalization.mean
    return tf.ones_like(mean) if gamma is None else gamma, tf.zeros_like(mean) if beta is None else beta


def _per_row(columns, *vectors):
    """Vectors of the channels, repeated for each of the `columns` pixels in a row."""
    return [tf.tile(vector, [columns]) for vector in vectors]


def _affine(normalization, gamma, beta, columns):
    """`(inverse, scale, affine)`: 1 / sqrt(variance + epsilon), this times gamma, and the arguments of `_potential`."""
    # The operations of tf.nn.batch_normalization, in its order.
    mean, variance = tf.stop_gradient(normalization.mean), tf.stop_gradient(normalization.variance)
    inverse = tf.math.rsqrt(variance + normalization.epsilon)
    scale = inverse * gamma
    return inverse, scale, (*_per_row(columns, scale, beta - mean * scale), tf.constant(float("inf"), tf.float32))


@tf.custom_gradient
def _differentiable_once(value):
    def refuse(*_):
        raise ValueError(
            "Expected first derivatives of a TKBatchNorm in a tf.function, which is one function there. Received: the "
            "gradient of its gradient. Use keras.layers.BatchNormalization, or compute it eagerly"
        )

    return tf.identity(value), refuse


def _statistics_gradient(sums, mean, inverse, scale, size, synchronized):
    """`(dgamma, dbeta, slope, offset)`: what mean and variance add to the gradient of x is `slope * x + offset`.

    Args:
        sums: of dz and of `dz * (x - mean)` over some rows each, as real and imaginary parts.
        mean, inverse, scale: `(channels,)`: mean, 1 / sqrt(variance + epsilon), and this times gamma.
        size: numbers in x.
        synchronized: whether mean and variance are those of all replicas. dgamma and dbeta stay those of this one.
    """
    channels = tf.size(mean)
    sums = tf.reduce_sum(tf.reshape(sums, tf.stack([-1, channels])), axis=0)
    dbeta, dgamma = tf.math.real(sums), tf.math.imag(sums) * inverse
    n = tf.cast(size // channels, tf.float32)
    all_dgamma, all_dbeta = dgamma, dbeta
    if synchronized and (replica := tf.distribute.get_replica_context()):
        together = tf.stack([dgamma, dbeta, tf.fill([channels], n)])
        all_dgamma, all_dbeta, n = tf.unstack(replica.all_reduce(tf.distribute.ReduceOp.SUM, together))
    slope = -scale * inverse * all_dgamma / n
    return dgamma, dbeta, slope, -scale * all_dbeta / n - slope * mean


@compiled
def _extremes(x, scale, size, window):
    """`(extreme, place)` of each window: the x of the largest potential, and its place in the window, the first of equals."""
    # The sizes as arguments, because TensorFlow may merge traces of several shapes into one of unknown shape.
    (rows, columns, channels), (height, width) = size, window
    tiles = tf.reshape(x, (-1, height, columns // width, width * channels))
    extreme, place = tiles[:, 0, :, :channels], tf.zeros((), tf.uint8)
    for i in range(1, height * width):
        at = i % width * channels
        other = tiles[:, i // width, :, at : at + channels]
        ahead = tf.where(scale < 0, other < extreme, (other > extreme) & (scale != 0))
        extreme, place = tf.where(ahead, other, extreme), tf.where(ahead, tf.constant(i, tf.uint8), place)
    shape = -1, rows // height, columns // width, channels
    return tf.reshape(extreme, shape), tf.reshape(place, shape)


def _potential(x, scale, shift, infinity, dtype):
    # The minimum with a number that XLA does not know keeps XLA from contracting product and sum into one rounding.
    z = tf.minimum(tf.cast(x, tf.float32) * scale, infinity) + shift
    return tf.cast(tf.cast(z, dtype), tf.float32)


def _potential_gradient(upstream, x, z_hat, scale, shift, infinity, z_max, dtype):
    z = _potential(x, scale, shift, infinity, dtype)
    z_hat = tf.cast(z_hat, tf.float32)
    inside = (z_hat > 0) & (z <= z_max)
    return tf.where(inside, tf.cast(upstream, tf.float32) * (z_hat / z), 0.0)


@compiled
def _normalized(x, scale, shift, infinity, dtype):
    return tf.cast(_potential(x, scale, shift, infinity, dtype), dtype)


@compiled
def _norm_sums(dz, x, mean):
    dz = tf.cast(dz, tf.float32)
    return _pairs(dz, dz * (tf.cast(x, tf.float32) - mean))


@compiled
def _normalized_gradient(dz, x, scale, slope, offset):
    return tf.cast(scale * tf.cast(dz, tf.float32) + slope * tf.cast(x, tf.float32) + offset, x.dtype)


@compiled
def _propose(x, scale, shift, infinity, tau, t_d, time_window, rounding, dtype):
    z = _potential(x, scale, shift, infinity, dtype)
    return temporal_kernel.proposed_step(z, tau, t_d, time_window, rounding, EPSILON)


@compiled
def _decide(x, scale, shift, infinity, step, thresholds, levels, relaxed, time_window, dtype):
    z = _potential(x, scale, shift, infinity, dtype)
    return tf.cast(temporal_kernel.level_or_relu(z, step, thresholds, levels, relaxed, time_window), dtype)


@compiled
def _partial_sums(upstream, x, z_hat, scale, shift, infinity, mean, z_max, dtype):
    dz = _potential_gradient(upstream, x, z_hat, scale, shift, infinity, z_max, dtype)
    z_hat = tf.cast(z_hat, tf.float32)
    weighted = tf.cast(upstream, tf.float32) * z_hat
    log_level = tf.where(z_hat > 0, tf.math.log(z_hat), 0.0)
    return _pairs(dz, dz * (tf.cast(x, tf.float32) - mean)), _pairs(weighted, weighted * log_level)


def _pairs(one, other):
    """Sums of two tensors over each ROWS rows of a channel, as parts of a complex number: then XLA makes one loop."""
    # Not one.shape, because TensorFlow may merge traces of several shapes into one of unknown shape.
    rows, columns = tf.unstack(tf.shape(one))
    pairs = tf.pad(tf.complex(one, other), ((0, -rows % ROWS), (0, 0)))
    return tf.reduce_sum(tf.reshape(pairs, (ROWS, -1, columns)), axis=0)


@compiled
def _input_gradient(upstream, x, z_hat, scale, shift, infinity, z_max, slope, offset, dtype):
    dz = _potential_gradient(upstream, x, z_hat, scale, shift, infinity, z_max, dtype)
    return tf.cast(scale * dz + slope * tf.cast(x, tf.float32) + offset, x.dtype)


@compiled
def _scaled_gradient(upstream, x, z_hat, scale, shift, infinity, z_max, dtype):
    return scale * _potential_gradient(upstream, x, z_hat, scale, shift, infinity, z_max, dtype)


@compiled
def _window_gradient(x, scaled, place, slope, offset, size, window):
    """The gradient of x. `scaled` goes to the place of each window that decided it."""
    (_, columns, channels), (height, width) = size, window
    tiles = tf.reshape(x, (-1, height, columns // width, width, channels))
    scaled, place = (tf.reshape(value, (-1, 1, columns // width, 1, channels)) for value in (scaled, place))
    places = tf.cast(tf.reshape(tf.range(height * width), (1, height, 1, width, 1)), tf.uint8)
    own = tf.where(place == places, scaled, 0.0)
    return tf.cast(own + slope * tf.cast(tiles, tf.float32) + offset, x.dtype)
