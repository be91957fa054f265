"""Direct training in the spike-time domain (Zhou et al. 2021), to compare with: no temporal kernels, no windows.

A neuron integrates currents that decay exponentially and fires once, when its potential reaches 1. Layers pass on
`z = exp(t / tau)` in the place of every spike time t, because the z of a neuron is a closed form of the earlier z of
its inputs. A network begins with SpikeTimeEncode and ends in SpikeTimeOutput, whose values are logits for a softmax:

>>> inputs = keras.Input((8, 8, 1))
>>> x = SpikeTimeConv2D(4)(SpikeTimeEncode()(inputs))
>>> x = keras.layers.Flatten()(SpikeTimePooling2D(2)(x))
>>> model = keras.Model(inputs, SpikeTimeOutput(10)(SpikeTimeDense(16)(x)))
"""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_ttfs import checks
from keras_ttfs.layers import neurons_of
from keras_ttfs.metrics import MeanSpikes
from keras_ttfs.tracing import compiled, differentiable

# z of a neuron that stays silent.
NEVER = 1e5
# Logits of output spikes after this fall with the logarithm only, so that one late spike does not drown all others.
LATE = 50.0


def first_crossing(z: Any, weights: Any) -> tf.Tensor:
    """When neurons reach their threshold of 1, in the z-domain: `z = exp(t / tau)` of spike times t.

    Forward: `z_out = sum(w z) / (sum(w) - 1)` over the causal set, the inputs before z_out. The result is the earliest
    such z_out, and NEVER without one.

    Backward: `dz_out/dz = w / (sum(w) - 1)` and `dz_out/dw = (z - z_out) / (sum(w) - 1)` in the causal set. The
    gradient is 0 outside that set, and for a neuron that stays silent.

    >>> float(first_crossing([[1.0, 2.0, 9.0]], [[1.0], [1.0], [1.0]])[0, 0])
    3.0

    Args:
        z: tensor `(rows, inputs)` >= 1 [1]; NEVER for an input that is silent. Below 1 it is a time before 0. What is
            no time, `z <= 0` or not finite, makes its row NaN.
        weights: tensor `(inputs, outputs)` [1]. What is not finite makes its column NaN.

    Returns:
        Tensor `(rows, outputs)` [1]. Time grows with rows * inputs * outputs, memory with rows * (inputs + outputs).

    Raises:
        ValueError: "Expected z (rows, inputs) and weights (inputs, outputs) ...".

    Reference: Zhou et al., "Temporal-coded deep spiking neural network with easy training and robust performance", AAAI
    2021; Mostafa, IEEE TNNLS 29, 2018.
    """

    z = checks.tensor("z", z)
    weights = tf.cast(checks.tensor("weights", weights), z.dtype)
    ranks = z.shape.rank in (2, None) and weights.shape.rank in (2, None)
    if not ranks or 0 in weights.shape or not z.shape[1:].is_compatible_with(weights.shape[:1]):
        raise ValueError(
            "Expected z (rows, inputs) and weights (inputs, outputs) of as many inputs, at least one. "
            f"Received: z {z.shape}, weights {weights.shape}"
        )

    @differentiable
    def crossing(z, weights):
        # Without stop_gradient TensorFlow would keep every turn of the loop for a gradient of its own.
        times, fixed = tf.stop_gradient(z), tf.stop_gradient(weights)
        # Sorted outside the compiled function, because XLA's sort takes three times as long.
        z_out, excess = _crossing(times, fixed, tf.argsort(times, axis=1))
        return z_out, lambda upstream: _crossing_gradient(z, weights, z_out, excess, upstream)

    return crossing(z, weights)


@compiled
def _crossing(z, weights, order):
    """`(z_out, sum(w) - 1 of the causal set)`: the inputs join one after the other, in `order`, the earliest first."""
    rows, inputs = tf.unstack(tf.shape(z))
    early = tf.transpose(tf.gather(z, order, batch_dims=1))
    late = tf.concat([early[1:], tf.fill((1, rows), tf.constant(NEVER, z.dtype))], axis=0)
    order = tf.transpose(order)
    silent = tf.fill((rows, tf.shape(weights)[1]), tf.constant(NEVER, z.dtype))

    def join(place, weighted, excess, z_out, excess_out):
        now, own = early[place][:, None], tf.gather(weights, order[place])
        weighted += own * now
        excess += own
        candidate = weighted / tf.where(excess > 0, excess, tf.ones_like(excess))
        # The candidate cannot lie before the input that has just joined: the potential was below the threshold there.
        crosses = (z_out >= NEVER) & (excess > 0) & (candidate <= late[place][:, None]) & (now < NEVER)
        return place + 1, weighted, excess, tf.where(crosses, candidate, z_out), tf.where(crosses, excess, excess_out)

    zero = tf.zeros_like(silent)
    *_, z_out, excess = tf.while_loop(lambda place, *_: place < inputs, join, (0, zero, zero - 1.0, silent, zero))
    are_times = tf.reduce_all((z > 0) & tf.math.is_finite(z), axis=1)
    defined = are_times[:, None] & tf.reduce_all(tf.math.is_finite(weights), axis=0)
    return tf.where(defined, z_out, tf.constant(float("nan"), z.dtype)), excess


@compiled
def _crossing_gradient(z, weights, z_out, excess, upstream):
    fires = z_out < NEVER
    # Silent neurons have no excess to divide by.
    share = tf.where(fires, upstream / tf.where(fires, excess, tf.ones_like(excess)), tf.zeros_like(upstream))
    times = tf.transpose(z)

    # Input by input, so that nothing three-dimensional is ever in memory.
    def add(place, dz, dweights):
        own = times[place][:, None]
        causal = tf.where(own < z_out, share, tf.zeros_like(share))
        dz = tf.tensor_scatter_nd_update(dz, [[place]], [tf.reduce_sum(causal * weights[place], axis=1)])
        own_dweights = tf.reduce_sum(causal * (own - z_out), axis=0)
        return place + 1, dz, tf.tensor_scatter_nd_update(dweights, [[place]], [own_dweights])

    begin = (0, tf.zeros_like(times), tf.zeros_like(weights))
    _, dz, dweights = tf.while_loop(lambda place, *_: place < tf.shape(z)[1], add, begin)
    return tf.transpose(dz), dweights


def weight_sum_cost(weights: Any) -> tf.Tensor:
    """Mean over neurons of `max(0, 1 - sum of the neuron's weights)`. In the loss it keeps neurons able to fire.

    Args:
        weights: tensor `(inputs, outputs)` [1], of at least one of each.

    Raises:
        ValueError: "Expected weights (inputs, outputs) ... Received: ...".
    """
    weights = checks.tensor("weights", weights)
    if weights.shape.rank not in (2, None) or 0 in weights.shape:
        raise ValueError(f"Expected weights (inputs, outputs), at least one of each. Received: shape {weights.shape}")
    return tf.reduce_mean(tf.nn.relu(1.0 - tf.reduce_sum(weights, axis=0)))


def spike_logits(z: Any) -> tf.Tensor:
    """Logits of output spikes: the earliest spike has the largest, a silent neuron the smallest.

    Forward: `-z` up to LATE = 50, `-(LATE + ln(z / LATE))` above it, NaN where z is no time (`z <= 0`).

    Args:
        z: tensor >= 1 [1].

    Raises:
        ValueError: "Expected z to be a tensor of real numbers ...".
    """
    z = checks.tensor("z", z)
    z = tf.where(z > 0, z, tf.constant(float("nan"), z.dtype))
    return -(tf.minimum(z, LATE) + tf.math.log(tf.maximum(z, LATE) / LATE))


@keras.saving.register_keras_serializable("keras_ttfs")
class SpikeTimeEncode(checks.CheckedLayer, keras.layers.Layer):
    """Encodes intensities in [0, 1] as spike times in the z-domain. Every input fires, the brightest or the darkest first.

    Outside training the layer counts its spikes in the metric `spikes` (mean per sample), which `evaluate` reports.

    Forward: `z = exp(scale * (1 - x))`, or `exp(scale * x)` with `first="dark"`, as in the authors' program. Backward: the
    gradient of that function.

    >>> SpikeTimeEncode()(keras.ops.array([[1.0, 0.0]])).numpy().round(2)
    array([[ 1.  , 20.09]], dtype=float32)

    Args:
        scale: float > 0, < ln(NEVER) = 11.5: when the last input fires [tau].
        first: `"bright"` or `"dark"`: which inputs fire first.
        **kwargs: as `keras.layers.Layer`.

    Call arguments:
        inputs: tensor in [0, 1] [1]. What is outside gets times before 0 or after `scale`. NaN stays NaN.
        training: bool. Spikes are counted when it is false.
        mask: bool tensor `(batch, ...)` or None. Spikes are counted where it is true.

    Input shape: `(batch, ...)`, of at least 2 dimensions.

    Output shape: the input's.

    Raises:
        ValueError: "Expected scale to be ... Received: ...", "Expected scale < 11.5 [tau] ... Received: ...", and for
            inputs that are no dense tensor of real numbers.

    Reference: Zhou et al., AAAI 2021.
    """

    def __init__(self, scale: float = 3.0, first: str = "bright", **kwargs: Any):
        super().__init__(**kwargs)
        self.scale = checks.number("scale", scale, above=0, unit="tau")
        self.first = checks.one_of("first", first, ("bright", "dark"))
        self.supports_masking = True
        if not self.scale < math.log(NEVER):
            raise ValueError(
                f"Expected scale < {math.log(NEVER):.1f} [tau], so that all inputs fire. Received: scale={scale!r}"
            )

    def build(self, input_shape: Any) -> None:
        self.neurons = neurons_of(input_shape)
        self.spikes = MeanSpikes(name=f"{self.name}_spikes")
        self.built = True

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        x = self.floating(inputs)
        z = tf.exp(self.scale * (x if self.first == "dark" else 1.0 - x))
        if not training:
            self.spikes.update_state(z, mask=mask)
        return z

    def compute_output_spec(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "first": self.first}


class _SpikeTimeSynapses(checks.CheckedLayer, keras.layers.Layer):
    """Neurons in the spike-time domain, each with one more input, its bias, that fires at time 0 (z = 1).

    Weights start between 0 and twice their mean, so that the neurons fire. Weights of the biases start at 0.
    """

    COUNTED = True

    def __init__(
        self,
        name_of_outputs: str,
        outputs: int,
        initial_sum: float = 4.0,
        cost: float = 100.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if self.compute_dtype not in ("float32", "float64"):
            raise ValueError(f"Expected a policy of float32 or float64. Received: {self.dtype_policy.name}")
        self.name_of_outputs = name_of_outputs
        self.outputs = checks.integer(name_of_outputs, outputs)
        self.initial_sum = checks.number("initial_sum", initial_sum, least=0, unit="1")
        self.cost = checks.number("cost", cost, least=0, unit="1")
        self.seed = checks.seed(seed)
        self.supports_masking = True

    def check_inputs(self, inputs: Any) -> None:
        """Refuses inputs of the wrong kind, or of another size than the layer was built for."""
        super().check_inputs(inputs)
        if self.built and inputs.shape[-1] not in (self.channels, None):
            raise ValueError(
                f"Expected inputs (..., {self.channels}), for which {self.name!r} was built. "
                f"Received: shape {tuple(inputs.shape)}"
            )

    def _build(self, channels, inputs_of_each, neurons):
        if not channels:
            raise ValueError(f"Expected inputs of a known size > 0. Received: {channels} as the last dimension")
        self.channels, self.neurons = channels, neurons
        inputs = channels * inputs_of_each
        weights = keras.initializers.RandomUniform(0.0, 2.0 * self.initial_sum / inputs, seed=self.seed)

        def initial(shape, dtype=None):
            return tf.pad(weights((inputs, self.outputs), dtype), [[0, 1], [0, 0]])

        self.kernel = self.add_weight(shape=(inputs + 1, self.outputs), initializer=initial, name="kernel")
        if self.COUNTED:
            self.spikes = MeanSpikes(name=f"{self.name}_spikes")
        self.built = True

    def _fired(self, rows, shape, training, mask):
        weights = tf.convert_to_tensor(self.kernel)
        rows = tf.pad(rows, [[0, 0], [0, 1]], constant_values=1.0)
        z = tf.reshape(first_crossing(rows, weights), shape)
        self.add_loss(self.cost * weight_sum_cost(weights))
        if self.COUNTED and not training:
            # 0 where silent, NaN where z is.
            self.spikes.update_state(tf.minimum(z - NEVER, 0.0), mask=mask)
        return z

    def get_config(self) -> dict[str, Any]:
        own = {"initial_sum": self.initial_sum, "cost": self.cost, "seed": self.seed}
        return {**super().get_config(), self.name_of_outputs: self.outputs, **own}


@keras.saving.register_keras_serializable("keras_ttfs")
class SpikeTimeDense(_SpikeTimeSynapses):
    """Densely connected neurons in the spike-time domain.

    Outside training the layer counts its spikes in the metric `spikes` (mean per sample), which `evaluate` reports.
    Gradients grow without bound where `sum(w) - 1` is small: train with Adam, or with an optimizer's `clipnorm`.

    Forward and backward: `first_crossing` of the inputs and one more input at time 0, whose weights are the biases.
    `cost * weight_sum_cost` is added to the loss.

    Args:
        units: int >= 1: neurons.
        initial_sum: float >= 0: mean of the sum of a neuron's weights at the start [1], 4 by default.
        cost: float >= 0: weight of `weight_sum_cost` in the loss [1], 100 by default.
        seed: int >= 0, < 2**31, or None: of the initial weights.
        **kwargs: as `keras.layers.Layer`.

    Call arguments:
        inputs: tensor >= 1: spike times in the z-domain [1]. `first_crossing` says what others give.
        training: bool. Spikes are counted when it is false.
        mask: bool tensor `(batch, ...)` or None. Spikes are counted where it is true.

    Input shape: `(batch, inputs)`.

    Output shape: `(batch, units)`.

    Raises:
        ValueError: "Expected ... Received: ..." for every argument out of its range, for a policy other than float32 or
            float64, and for inputs of another size than at the first call.

    Differs from the paper: in a pooling window the earliest spike goes on, not the latest, and there is no L2 cost.
    What the paper leaves open follows its authors' program.

    Reference: Zhou et al., AAAI 2021.
    """

    INPUT_RANK = 2

    def __init__(self, units: int, **kwargs: Any):
        super().__init__("units", units, **kwargs)

    def build(self, input_shape: Any) -> None:
        self._build(input_shape[-1], 1, self.outputs)

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        return self._fired(self.floating(inputs), (-1, self.outputs), training, mask)

    def compute_output_spec(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0], self.outputs


@keras.saving.register_keras_serializable("keras_ttfs")
class SpikeTimeOutput(SpikeTimeDense):
    """The last layer: a SpikeTimeDense that returns the `spike_logits` of its neurons. Their spikes are not counted.

    Args, Call arguments, Input shape, Output shape and Raises: as `SpikeTimeDense`.
    """

    COUNTED = False

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        return spike_logits(super().call(inputs, training, mask))


@keras.saving.register_keras_serializable("keras_ttfs")
class SpikeTimeConv2D(_SpikeTimeSynapses):
    """Neurons of a convolution in the spike-time domain, with same padding: inputs beyond the border are silent.

    Outside training the layer counts its spikes in the metric `spikes` (mean per sample), which `evaluate` reports.

    Args:
        filters: int >= 1: output channels.
        kernel_size: int >= 1: height and width of the window [pixels].
        strides: int >= 1: distance of two windows, in rows and in columns [pixels].
        initial_sum: float >= 0: mean of the sum of a neuron's weights at the start [1], 4 by default.
        cost: float >= 0: weight of `weight_sum_cost` in the loss [1], 100 by default.
        seed: int >= 0, < 2**31, or None: of the initial weights.
        **kwargs: as `keras.layers.Layer`.

    Call arguments:
        inputs: tensor >= 1: spike times in the z-domain [1]. `first_crossing` says what others give.
        training: bool. Spikes are counted when it is false.
        mask: bool tensor `(batch, ...)` or None. Spikes are counted where it is true.

    Input shape: `(batch, rows, columns, channels)`.

    Output shape: `(batch, rows, columns, filters)`; rows and columns divided by `strides`, rounded up.

    Raises:
        ValueError: "Expected ... Received: ..." for every argument out of its range, for a policy other than float32 or
            float64, and for inputs of another size than at the first call.

    Reference: Zhou et al., AAAI 2021.
    """

    INPUT_RANK = 4

    def __init__(self, filters: int, kernel_size: int = 3, strides: int = 1, **kwargs: Any):
        super().__init__("filters", filters, **kwargs)
        self.kernel_size = checks.integer("kernel_size", kernel_size, unit="pixels")
        self.strides = checks.integer("strides", strides, unit="pixels")

    def build(self, input_shape: Any) -> None:
        self._build(input_shape[-1], self.kernel_size**2, neurons_of(self.compute_output_shape(input_shape)))

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        inputs = self.floating(inputs)
        if mask is not None and mask.shape.rank != 1 and self.strides > 1:
            raise ValueError(
                f"Expected no mask of places with strides={self.strides}, whose windows are others. "
                f"Received: a mask of shape {mask.shape}"
            )
        sizes = [known or tf.shape(inputs)[axis] for axis, known in ((1, inputs.shape[1]), (2, inputs.shape[2]))]
        windows = [-(-size // self.strides) for size in sizes]
        # As "same" padding of TensorFlow: where the border is not even, the larger half is behind.
        beyond = [
            tf.maximum((count - 1) * self.strides + self.kernel_size - size, 0) for count, size in zip(windows, sizes)
        ]
        border = [[0, 0], *([both // 2, both - both // 2] for both in beyond), [0, 0]]
        bordered = tf.pad(inputs, border, constant_values=NEVER)
        size, step = [1, self.kernel_size, self.kernel_size, 1], [1, self.strides, self.strides, 1]
        patches = tf.image.extract_patches(bordered, size, step, [1, 1, 1, 1], "VALID")
        rows = tf.reshape(patches, (-1, self.kernel_size**2 * self.channels))
        return self._fired(rows, (-1, *windows, self.outputs), training, mask)

    def compute_output_spec(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        sides = (None if side is None else -(-side // self.strides) for side in input_shape[1:3])
        return (input_shape[0], *sides, self.outputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kernel_size": self.kernel_size, "strides": self.strides}


@keras.saving.register_keras_serializable("keras_ttfs")
class SpikeTimePooling2D(checks.CheckedLayer, keras.layers.MaxPooling2D):
    """Pooling of spike times: the earliest of each window goes on. All arguments as `keras.layers.MaxPooling2D`."""

    INPUT_RANK = 4

    def call(self, inputs: Any) -> Any:
        return -super().call(-self.floating(inputs))
