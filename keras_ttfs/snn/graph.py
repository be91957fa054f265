"""Reads a Keras model as a graph of neurons, the synapses between them, and the routes that spikes take."""

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import temporal_kernel, topology
from keras_ttfs.layers import TemporalKernelDecode, TKBatchNorm, TTFSActivation, TTFSEncode

WEIGHTED = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.Dense,
)
NORMS = (keras.layers.BatchNormalization, TKBatchNorm)
# Sums with fixed weights.
SUMS = (keras.layers.AveragePooling2D, keras.layers.GlobalAveragePooling2D, keras.layers.Add)
# A spike stays a spike on its way through these; of each pooling window the earliest one goes on.
ROUTES = (
    keras.layers.MaxPooling2D,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.ZeroPadding2D,
    keras.layers.Concatenate,
)
NOTHING_AT_INFERENCE = (keras.layers.Dropout, keras.layers.Identity)
SUPPORTED = (
    "Conv2D, DepthwiseConv2D, SeparableConv2D, Dense, BatchNormalization, TKBatchNorm, TTFSActivation, TTFSEncode, "
    "TemporalKernelDecode, MaxPooling2D, AveragePooling2D, GlobalAveragePooling2D, Flatten, Reshape, ZeroPadding2D, "
    "Dropout, Identity, Add, Concatenate, and a softmax at the output"
)


def activation_of(layer):
    """Name of a layer's own activation, None where it has none."""
    activation = getattr(layer, "activation", None)
    return None if activation in (None, keras.activations.linear) else getattr(activation, "__name__", str(activation))


def is_softmax(layer):
    """Whether a layer is nothing but a softmax over classes."""
    if isinstance(layer, keras.layers.Softmax):
        return True
    return type(layer) is keras.layers.Activation and activation_of(layer) == "softmax"


def bare_copy(layer, dtype):
    """A copy of a layer, unbuilt, in `dtype`, with neither bias nor activation of its own."""
    config = {**layer.get_config(), "dtype": dtype}
    config |= {name: None for name in config if name.endswith("_regularizer") or name == "activation"}
    if "use_bias" in config:
        config["use_bias"] = False
    return type(layer).from_config(config)


class Step:
    """One node of the network: takes the values of the steps `inputs`, gives a value of `shape` (per sample)."""

    spiking = False  # Whether its values are those of single spikes.

    def __init__(self, name, inputs, shape):
        self.name = name
        self.inputs = inputs
        self.shape = shape

    def made(self, dtype):
        """The function of the inputs' values, computed in `dtype`."""
        raise NotImplementedError

    def linear(self, dtype):
        """As `made` without bias: what spikes add to a potential."""
        return self.made(dtype)

    def paths(self):
        """As `made("float64")`, with every weight 1 and no bias: counts the ways from a spike to a neuron."""
        return self.made("float64")

    def operations(self, values):
        """Multiply-accumulates, or additions, on inputs that are 1 where there is something to add, else 0."""
        return int(tf.reduce_sum(self.paths()(*values)))


class Input(Step):
    """The model's input: an analog current until neurons encode it."""


class Population(Step):
    """A population of integrate-and-fire neurons. Where it has a window of its own, that begins at the step `start`."""

    spiking = True

    def __init__(self, name, inputs, shape, time_window=None):
        super().__init__(name, inputs, shape)
        self.size = int(np.prod(shape))
        self.time_window = time_window
        self.start = None

    @property
    def end(self):
        """Global step after the last of the fire phase."""
        return self.start + self.time_window


class Neurons(Population):
    """A population with one temporal kernel.

    A neuron integrates while its inputs fire. From the global step `start` on it fires at the first local step t with
    `u >= thresholds[t]` (and u > 0), once; then it is refractory.
    """

    def __init__(self, name, inputs, shape, encoder):
        super().__init__(name, inputs, shape, encoder.time_window)
        self.tau = float(np.asarray(encoder.tau))
        self.t_d = float(np.asarray(encoder.t_d))
        if not (np.isfinite(self.t_d) and 0 < self.tau < np.inf):
            raise ValueError(
                f"Expected a finite tau > 0 and a finite t_d [steps]. Received: tau={self.tau}, t_d={self.t_d} of {name!r}"
            )
        self.rounding = encoder.rounding
        self.policy = encoder.dtype_policy.name
        # Its spike time when it stays silent; the type of all its spike times.
        self.silent = tf.constant(self.time_window, tf.int16 if self.time_window <= tf.int16.max else tf.int32)

    def thresholds(self, dtype):
        return temporal_kernel.thresholds(self.tau, self.t_d, self.time_window, rounding=self.rounding, dtype=dtype)

    def levels(self, dtype):
        return temporal_kernel.levels(self.tau, self.t_d, self.time_window, dtype=dtype)


class Route(Step):
    """Pooling by the earliest spike, or another way of arranging spikes; on currents, of arranging currents."""

    def __init__(self, name, inputs, shape, layer):
        super().__init__(name, inputs, shape)
        self.layer = layer
        self.spiking = all(step.spiking for step in inputs)

    def made(self, dtype):
        layer = bare_copy(self.layer, dtype)
        return lambda *values: layer(list(values) if isinstance(layer, keras.layers.Concatenate) else values[0])

    def operations(self, values):
        return 0


class Sum(Step):
    """Average pooling or Add: synapses whose weights are given by the architecture."""

    def __init__(self, name, inputs, shape, layer):
        super().__init__(name, inputs, shape)
        self.layer = layer

    def made(self, dtype):
        layer = bare_copy(self.layer, dtype)
        return lambda *values: layer(list(values) if isinstance(layer, keras.layers.Add) else values[0])

    def paths(self):
        if isinstance(self.layer, keras.layers.Add):
            return self.made("float64")
        if isinstance(self.layer, keras.layers.GlobalAveragePooling2D):
            return lambda value: tf.reshape(tf.reduce_sum(value, axis=(1, 2)), (-1, *self.shape))
        config = self.layer.get_config()
        window = tf.ones((*config["pool_size"], 1, 1), "float64")
        options = {"strides": config["strides"], "padding": config["padding"], "data_format": "channels_last"}

        def sums(value):
            # Each channel as an image of its own: a depthwise convolution would admit equal strides only.
            channels = tf.reshape(tf.transpose(value, (0, 3, 1, 2)), (-1, *value.shape[1:3], 1))
            pooled = keras.ops.conv(channels, window, **options)[..., 0]
            return tf.transpose(tf.reshape(pooled, (-1, self.shape[-1], *self.shape[:-1])), (0, 2, 3, 1))

        return sums


class Synapse(Step):
    """Trained synapses, batch normalisation folded in: `u = gain * sum(weight * x) + bias`.

    The folded weight of a synapse is `gain * weight` (see `folded`). Simulations multiply the sum instead of every
    weight, as the surrogate does, so that even float32 rounds the potential to the same number.
    """

    def __init__(self, name, inputs, shape, layer=None, norm=None):
        super().__init__(name, inputs, shape)
        self.layer = layer  # For its options. Weights are copied: the network keeps those that the model has now.
        self.kernels, self.bias = [], None
        if layer is not None:
            self.kernels = layer.get_weights()
            self.bias = self.kernels.pop() if layer.use_bias else None
        self.norms = [] if norm is None else [_norm_values(norm)]
        values = [*self.kernels, self.bias, *(value for norm in self.norms for value in norm)]
        if not all(np.isfinite(value).all() for value in values if value is not None):
            raise ValueError(f"Expected finite weights. Received: layer {name!r} with NaN or infinite weights")

    def affine(self, dtype):
        """`(gain, bias)` per output channel, tensors of `dtype`; None stands for 1 and 0."""
        gain, bias = None, None if self.bias is None else tf.cast(self.bias, dtype)
        for gamma, beta, mean, variance, epsilon in self.norms:
            # In the order of tf.nn.batch_normalization.
            inverse = tf.math.rsqrt(tf.cast(variance, dtype) + tf.constant(epsilon, dtype))
            if gamma is not None:
                inverse = inverse * tf.cast(gamma, dtype)
            shift = -tf.cast(mean, dtype) * inverse
            if beta is not None:
                shift = tf.cast(beta, dtype) + shift
            gain = inverse if gain is None else gain * inverse
            bias = shift if bias is None else bias * inverse + shift
        return gain, bias

    def made(self, dtype):
        # Variables, for TensorFlow would multiply constants into each other and round them anew.
        gain, bias = (None if value is None else tf.Variable(value) for value in self.affine(dtype))
        layer = self._summing_layer(dtype, self.kernels)

        def potential(value):
            total = value if layer is None else layer(value)
            total = total if gain is None else total * gain
            return total if bias is None else total + bias

        return potential

    def linear(self, dtype):
        weights, _ = self.folded(dtype)
        return self._summing_layer(dtype, weights) or (lambda value: value * weights[0])

    def paths(self):
        layer = self._summing_layer("float64", [np.ones(kernel.shape) for kernel in self.kernels])
        return layer or (lambda value: value)

    def operations(self, values):
        ways = super().operations(values)
        if type(self.layer) is not keras.layers.SeparableConv2D or not ways:
            return ways
        # Its two stages one after the other, not every way through both.
        depthwise, pointwise = self.kernels
        return ways // pointwise.shape[-1] + int(np.prod(self.shape[:-1])) * pointwise.size

    def folded(self, dtype="float64"):
        """`(weights, bias)` with batch normalisation folded in: NumPy arrays, those of a neuromorphic chip.

        `weights` is a list: the kernel, for SeparableConv2D the depthwise and the pointwise kernel, for a batch
        normalisation that no synapse precedes the diagonal. `bias` has one number per output channel.
        """
        gain, bias = (None if value is None else value.numpy() for value in self.affine(dtype))
        gain = np.ones(self.shape[-1:], dtype) if gain is None else gain
        weights = [kernel.astype(dtype) for kernel in self.kernels]
        if not weights:
            weights = [gain]
        elif type(self.layer) is keras.layers.DepthwiseConv2D:
            weights[0] = weights[0] * gain.reshape(weights[0].shape[2:])
        else:
            weights[-1] = weights[-1] * gain
        return weights, np.zeros(self.shape[-1:], dtype) if bias is None else bias

    def _summing_layer(self, dtype, weights):
        if self.layer is None:
            return None
        layer = bare_copy(self.layer, dtype)
        layer.build((None, *self.inputs[0].shape))
        layer.set_weights(weights)
        return layer


def _norm_values(norm):
    """`(gamma, beta, mean, variance, epsilon)` of a batch normalisation, copied; None where it has none."""
    weights = (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    return *(None if weight is None else np.array(weight) for weight in weights), norm.epsilon


class Encoded:
    """What stands for an encoder's spike time, tau and t_d until its decoder takes them."""

    def __init__(self, neurons):
        self.neurons = neurons


def read(model, relu=False, early_firing=0):
    """`(steps, output)` of a model: steps in the order of computation, the first of them the input.

    Args:
        relu: bool: whether populations stand for ReLU (as a layer, as `Activation("relu")` or as a layer's `activation`),
            with no window yet, instead of for TTFSActivation and TTFSEncode.
        early_firing: as `schedule`.

    Raises:
        ValueError: "Expected ... Received: ..." naming the layer and what is supported.
    """
    reader = _Reader(model, relu)
    steps, output = _folded(reader.steps, reader.output)
    if not relu:
        schedule(steps, early_firing)
    return steps, output


class _Reader:
    def __init__(self, model, relu):
        self.relu = relu
        self.steps = []
        self.names = set()
        self.softmax = None
        inputs = model.inputs if hasattr(model, "inputs") and model.inputs else []
        if len(inputs) != 1 or len(model.outputs) != 1:
            raise ValueError(
                "Expected a Functional or built Sequential model with one input and one output. "
                f"Received: {type(model).__name__} {model.name!r}"
            )
        shape = tuple(inputs[0].shape[1:])
        if None in shape:
            raise ValueError(f"Expected a fixed input shape. Received: {(None, *shape)}")
        self.steps.append(Input("", (), shape))
        values = topology.walk(model, list(self.steps), self._visit)
        self.output = keras.tree.flatten(values)[0]
        if isinstance(self.output, Encoded) or self.output.spiking or not self.output.inputs:
            raise ValueError(
                "Expected the model to end in membrane potentials (Dense, say). "
                f"Received: {model.name!r}, which ends in {getattr(self.output, 'name', 'spike times')!r}"
            )

    def _add(self, step):
        step.name = topology.unused_name(step.name, self.names)
        self.steps.append(step)
        return step

    def _visit(self, layer, *args, **kwargs):
        inputs = [value for value in keras.tree.flatten(args) if isinstance(value, (Step, Encoded))]
        if self.softmax is not None:
            raise ValueError(f"Expected a softmax at the output only. Received: layer {self.softmax!r}")
        if isinstance(layer, keras.layers.InputLayer):
            return inputs[0]
        if type(layer) is TemporalKernelDecode:
            return _decoded(layer, inputs)
        if any(isinstance(value, Encoded) for value in inputs):
            raise ValueError(
                f"Expected spike times to go into a TemporalKernelDecode. Received: layer {layer.name!r} "
                f"({type(layer).__name__})"
            )
        if isinstance(layer, NOTHING_AT_INFERENCE) or (
            type(layer) is keras.layers.Activation and activation_of(layer) is None
        ):
            return inputs[0]
        if is_softmax(layer):
            self.softmax = layer.name
            return inputs[0]
        return self._add_layer(layer, tuple(inputs))

    def _add_layer(self, layer, inputs):
        kind = type(layer)
        shapes = [(None, *step.shape) for step in inputs]
        if self.relu and is_relu(layer):
            return self._add(Population(layer.name, inputs, inputs[0].shape))
        if kind in (TTFSActivation, TTFSEncode) and not self.relu:
            neurons = self._add(Neurons(layer.name, inputs, inputs[0].shape, layer))
            return neurons if kind is TTFSActivation else (Encoded(neurons),) * 3
        if kind not in WEIGHTED + NORMS + SUMS + ROUTES:
            raise unsupported(layer, self.relu)
        own = activation_of(layer) if kind in WEIGHTED else None
        _check_options(layer, inputs, own, self.relu)
        shape = tuple(layer.compute_output_shape(shapes if len(shapes) > 1 else shapes[0])[1:])
        if kind in NORMS:
            return self._add(Synapse(layer.name, inputs, shape, norm=layer))
        if kind in WEIGHTED:
            if own == "softmax":
                self.softmax = layer.name
            synapse = self._add(Synapse(layer.name, inputs, shape, layer))
            return self._add(Population(f"{layer.name}_activation", (synapse,), shape)) if own == "relu" else synapse
        return self._add((Route if kind in ROUTES else Sum)(layer.name, inputs, shape, layer))


def _decoded(layer, inputs):
    neurons = {value.neurons if isinstance(value, Encoded) else value for value in inputs}
    if len(neurons) != 1 or not all(isinstance(value, Encoded) for value in inputs):
        raise ValueError(f"Expected the triple of one TTFSEncode. Received: other inputs of layer {layer.name!r}")
    (neurons,) = neurons
    if layer.time_window != neurons.time_window:
        raise ValueError(
            f"Expected the time_window of the encoder, {neurons.time_window}. "
            f"Received: time_window={layer.time_window} of layer {layer.name!r}"
        )
    return neurons


def is_relu(layer):
    """Whether a layer is nothing but a ReLU.

    Raises:
        ValueError: "Expected ReLU activations. Received: ..." for a ReLU with other options than Keras' defaults.
    """
    if isinstance(layer, keras.layers.ReLU):
        if layer.max_value is not None or layer.negative_slope or layer.threshold:
            raise not_relu(layer)
        return True
    return isinstance(layer, keras.layers.Activation) and activation_of(layer) == "relu"


def not_relu(layer):
    """The ValueError that names a layer and its activation."""
    activation = activation_of(layer) or "ReLU with max_value, negative_slope or threshold"
    return ValueError(f"Expected ReLU activations. Received: layer {layer.name!r} with activation {activation!r}")


CONVERT = " keras_ttfs.convert turns a ReLU model into a TTFS model."


def unsupported(layer, relu):
    """The ValueError that names a layer and what is supported; `relu` as `read`."""
    advice = ""
    if not isinstance(layer, keras.layers.Layer):
        advice = (
            " Write keras.layers.Add or keras.layers.Concatenate instead of an operator or a function of keras.ops."
        )
    elif relu and isinstance(layer, TTFSEncode):
        advice = " Its spikes are those of SpikingNetwork.from_model."
    elif isinstance(layer, keras.layers.ReLU) or activation_of(layer) == "relu":
        advice = CONVERT
    supported = SUPPORTED.replace("TTFSActivation, TTFSEncode, TemporalKernelDecode", "ReLU") if relu else SUPPORTED
    return ValueError(
        f"Expected layers of {supported}. Received: layer {layer.name!r} ({type(layer).__name__}).{advice}"
    )


def _check_options(layer, inputs, own, relu):
    """Options of supported layers that have no meaning in spikes; `own` is the name of a layer's own activation."""
    if own not in (None, "softmax") and not (relu and own == "relu"):
        raise ValueError(
            f"Expected no activation but {'ReLU' if relu else 'TTFSActivation'}. Received: layer {layer.name!r} with "
            f"activation {own!r}.{CONVERT if own == 'relu' else ''}"
        )
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise ValueError(f"Expected data_format='channels_last'. Received: layer {layer.name!r} with another")
    if isinstance(layer, keras.layers.BatchNormalization) and layer.axis not in (-1, len(inputs[0].shape)):
        raise ValueError(f"Expected axis=-1. Received: layer {layer.name!r} with axis={layer.axis}")
    if isinstance(layer, keras.layers.MaxPooling2D) and not inputs[0].spiking:
        raise ValueError(
            "Expected max pooling of spikes (behind the activation; before it, it gives the same values). "
            f"Received: layer {layer.name!r}, which pools {inputs[0].name!r}"
        )


def _folded(steps, output):
    """Steps with every batch normalisation folded into the synapse before it, where that feeds nothing else."""
    consumers = {step: [other for other in steps if step in other.inputs] for step in steps}
    kept = []
    replaced = {}
    for step in steps:
        step.inputs = tuple(replaced.get(source, source) for source in step.inputs)
        source = step.inputs[0] if step.inputs else None
        is_norm = isinstance(step, Synapse) and step.layer is None
        if is_norm and isinstance(source, Synapse) and len(consumers[source]) == 1 and source is not output:
            source.norms += step.norms
            consumers[source] = consumers[step]
            replaced[step] = source
        else:
            kept.append(step)
    return kept, replaced.get(output, output)


def schedule(steps, early_firing=0):
    """Sets the start of every population: when all populations that feed it have fired, or `early_firing` steps before.

    An analog input takes one window of its own, as an encoded one does.
    """
    window = max((step.time_window for step in steps if isinstance(step, Population)), default=1)
    ready, analog, of_spikes = {}, set(), set()
    for step in steps:
        ready[step] = max((ready[source] for source in step.inputs), default=0)
        of_input = isinstance(step, Input) or any(source in analog for source in step.inputs)
        if isinstance(step, Population) or of_spikes.intersection(step.inputs):
            of_spikes.add(step)
        if isinstance(step, Population):
            step.start = ready[step] - (early_firing if of_spikes.intersection(step.inputs) else 0)
            ready[step] = step.end
        elif of_input and isinstance(step, (Input, Route)):
            analog.add(step)
        elif of_input:
            ready[step] = max(ready[step], window)
