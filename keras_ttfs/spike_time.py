"""Direct training in the spike-time domain (Zhou et al. 2021), to compare with: neurons without temporal kernel or window.

A neuron integrates currents that decay exponentially and fires once, when its potential reaches 1. With `z = exp(t / tau)`
in the place of every spike time t, the output's is a closed form of the inputs' that came before it.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs.layers import _check_number
from keras_ttfs.metrics import MeanSpikes
from keras_ttfs.temporal_kernel import compiled

# z of a neuron that stays silent.
NEVER = 1e5
# Of an output spike; a silent one's loss would drown all others'.
LATEST = 50.0


def first_crossing(z, weights):
    """When neurons reach their threshold of 1, in the z-domain.

    Forward: `z_out = sum(w z) / (sum(w) - 1)` over the causal set, the inputs before z_out; the earliest such z_out, NEVER
    where there is none.

    Backward: `dz_out/dz = w / (sum(w) - 1)` and `dz_out/dw = (z - z_out) / (sum(w) - 1)` in the causal set; 0 outside it,
    and where the neuron stays silent.

    >>> float(first_crossing([[1.0, 2.0, 9.0]], [[1.0], [1.0], [1.0]])[0, 0])
    3.0

    Args:
        z: float tensor `(rows, inputs)` >= 1; NEVER where an input is silent [1].
        weights: float tensor `(inputs, outputs)` [1].

    Returns:
        Tensor `(rows, outputs)`. Time grows with rows * inputs * outputs, memory with rows * (inputs + outputs).

    Reference: Zhou et al., "Temporal-coded deep spiking neural network with easy training and robust performance", AAAI
    2021; Mostafa, IEEE TNNLS 29, 2018.
    """

    @tf.custom_gradient
    def crossing(z, weights):
        # Else TensorFlow would keep every turn of the loop for a gradient of its own.
        z_out, excess = _crossing(tf.stop_gradient(z), tf.stop_gradient(weights))
        return z_out, lambda upstream: _crossing_gradient(z, weights, z_out, excess, upstream)

    return crossing(tf.convert_to_tensor(z), tf.convert_to_tensor(weights))


@compiled
def _crossing(z, weights):
    """`(z_out, sum(w) - 1 of the causal set)`: the inputs join one after the other, the earliest first."""
    rows, inputs = tf.unstack(tf.shape(z))
    order = tf.argsort(z, axis=1)
    early = tf.transpose(tf.gather(z, order, batch_dims=1))
    late = tf.concat([early[1:], tf.fill((1, rows), tf.constant(NEVER, z.dtype))], axis=0)
    order = tf.transpose(order)
    silent = tf.fill((rows, tf.shape(weights)[1]), tf.constant(NEVER, z.dtype))

    def join(place, weighted, excess, z_out, excess_out):
        own = tf.gather(weights, order[place])
        excess += own
        weighted += own * early[place][:, None]
        candidate = weighted / tf.where(excess > 0, excess, tf.ones_like(excess))
        inside = (candidate >= early[place][:, None]) & (candidate < late[place][:, None])
        crosses = (z_out >= NEVER) & (excess > 0) & inside
        return place + 1, weighted, excess, tf.where(crosses, candidate, z_out), tf.where(crosses, excess, excess_out)

    zero = tf.zeros_like(silent)
    *_, z_out, excess = tf.while_loop(lambda place, *_: place < inputs, join, (0, zero, zero - 1.0, silent, zero))
    return z_out, excess


@compiled
def _crossing_gradient(z, weights, z_out, excess, upstream):
    fires = z_out < NEVER
    # Silent neurons have no excess to divide by.
    share = tf.where(fires, upstream / tf.where(fires, excess, tf.ones_like(excess)), tf.zeros_like(upstream))
    # XLA keeps none of these three-dimensional tensors.
    causal = tf.where(z[:, :, None] < z_out[:, None, :], share[:, None, :], tf.zeros((), z.dtype))
    dz = tf.reduce_sum(causal * weights, axis=2)
    return dz, tf.reduce_sum(causal * (z[:, :, None] - z_out[:, None, :]), axis=0)


def weight_sum_cost(weights):
    """`sum(max(0, 1 - sum of each neuron's weights))`: what keeps neurons able to fire at all.

    Args:
        weights: float tensor `(inputs, outputs)` [1].
    """
    return tf.reduce_sum(tf.nn.relu(1.0 - tf.reduce_sum(weights, axis=0)))


@keras.saving.register_keras_serializable("keras_ttfs")
class SpikeTimeEncode(keras.layers.Layer):
    """Intensities in [0, 1] as spike times: `z = exp(1 - x)`, NEVER where x is 0; the brightest first.

    Input shape and output shape: `(batch, ...)`.
    """

    def call(self, inputs):
        return tf.where(inputs > 0, tf.exp(1.0 - inputs), tf.fill(tf.shape(inputs), tf.constant(NEVER, inputs.dtype)))

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)


class _SpikeTimeSynapses(keras.layers.Layer):
    """Neurons in the spike-time domain. Weights start with sums around `initial_sum`, so that the neurons fire."""

    def __init__(self, name_of_outputs, outputs, initial_sum=3.0, cost=10.0, **kwargs):
        super().__init__(**kwargs)
        if self.compute_dtype not in ("float32", "float64"):
            raise ValueError(f"Expected a policy of float32 or float64. Received: {self.dtype_policy.name}")
        if isinstance(outputs, bool) or not isinstance(outputs, (int, np.integer)) or outputs < 1:
            raise ValueError(
                f"Expected {name_of_outputs} to be an integer >= 1. Received: {name_of_outputs}={outputs!r}"
            )
        for name, value in (("initial_sum", initial_sum), ("cost", cost)):
            _check_number(name, value, unit="1")
            if value < 0:
                raise ValueError(f"Expected {name} >= 0. Received: {name}={value!r}")
        self.outputs = int(outputs)
        self.initial_sum = float(initial_sum)
        self.cost = float(cost)

    def _build(self, inputs):
        initial = keras.initializers.RandomUniform(0.0, 2.0 * self.initial_sum / inputs)
        self.kernel = self.add_weight(shape=(inputs, self.outputs), initializer=initial, name="kernel")
        self.spikes = MeanSpikes(name=f"{self.name}_spikes")
        self.built = True

    def _fired(self, rows, shape, training):
        weights = tf.convert_to_tensor(self.kernel)
        z = tf.reshape(first_crossing(rows, weights), shape)
        self.add_loss(self.cost * weight_sum_cost(weights))
        if not training:
            self.spikes.update_state(z < NEVER)
        return z


@keras.saving.register_keras_serializable("keras_ttfs")
class SpikeTimeDense(_SpikeTimeSynapses):
    """Densely connected neurons in the spike-time domain. See `first_crossing`.

    Args:
        units: int >= 1: neurons.
        initial_sum: float >= 0: mean of the sum of a neuron's weights at the start [1].
        cost: float >= 0: weight of `weight_sum_cost` in the loss [1].

    Input shape: `(batch, inputs)`. Output shape: `(batch, units)`.

    Raises:
        ValueError: "Expected units to be an integer >= 1. Received: ...".

    Differs from the paper: initial weights and the weight of the cost are ours. Gradients grow without bound where
    `sum(w) - 1` is small: train with an optimizer's `clipnorm`.

    Reference: Zhou et al., AAAI 2021.
    """

    def __init__(self, units, **kwargs):
        super().__init__("units", units, **kwargs)

    def build(self, input_shape):
        self._build(input_shape[-1])

    def call(self, inputs, training=False):
        return self._fired(inputs, (-1, self.outputs), training)

    def compute_output_spec(self, inputs, training=False):
        return keras.KerasTensor((inputs.shape[0], self.outputs), dtype=self.compute_dtype)

    def get_config(self):
        own = {"units": self.outputs, "initial_sum": self.initial_sum, "cost": self.cost}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("keras_ttfs")
class SpikeTimeConv2D(_SpikeTimeSynapses):
    """Neurons of a 3x3 convolution (same padding: silence beyond the border) in the spike-time domain.

    Args:
        filters: int >= 1: output channels.
        initial_sum, cost: as `SpikeTimeDense`.

    Input shape: `(batch, rows, columns, channels)`. Output shape: `(batch, rows, columns, filters)`.
    """

    def __init__(self, filters, **kwargs):
        super().__init__("filters", filters, **kwargs)

    def build(self, input_shape):
        self._build(9 * input_shape[-1])

    def call(self, inputs, training=False):
        bordered = tf.pad(inputs, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=NEVER)
        patches = tf.image.extract_patches(bordered, [1, 3, 3, 1], [1, 1, 1, 1], [1, 1, 1, 1], "VALID")
        rows = tf.reshape(patches, (-1, patches.shape[-1]))
        return self._fired(rows, (-1, *inputs.shape[1:3], self.outputs), training)

    def compute_output_spec(self, inputs, training=False):
        return keras.KerasTensor((*inputs.shape[:3], self.outputs), dtype=self.compute_dtype)

    def get_config(self):
        own = {"filters": self.outputs, "initial_sum": self.initial_sum, "cost": self.cost}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("keras_ttfs")
class SpikeTimePooling2D(keras.layers.MaxPooling2D):
    """Of each window the earliest spike goes on; arguments as MaxPooling2D."""

    def call(self, inputs):
        return -super().call(-inputs)


@keras.saving.register_keras_serializable("keras_ttfs")
class SpikeTimeLogits(keras.layers.Layer):
    """Logits of output spikes, the earliest being the largest: `-z`, of late and silent ones `-LATEST`.

    Input shape and output shape: `(batch, classes)`.
    """

    def call(self, inputs):
        return -tf.minimum(inputs, LATEST)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
