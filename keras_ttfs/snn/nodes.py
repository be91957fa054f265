"""What a spiking network is made of: nodes, each a frozen dataclass that names the nodes it takes values from.

A network is a list of nodes in the order of computation, the input first. Nothing in a node changes once it is made, so
several networks may share one list. What a network adds to its nodes (the phases of its populations, the scales of a
coding) it keeps itself. To teach the simulators a new layer: name its class in the table of `understood` that fits
(WEIGHTED, NORMS, AFFINE, SUMS, ROUTES or NOTHING_AT_INFERENCE). A layer of another kind also needs a class of nodes
here, with `function` and what else differs, and its place in `reader._Reader._add_layer`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import temporal_kernel
from keras_ttfs.noise import channel_free_axes
from keras_ttfs.snn.copies import bare_copy, settings_of
from keras_ttfs.snn.understood import AVERAGES, DEPTHWISE, MERGES, SEPARABLE, TRANSPOSED


class Phase(NamedTuple):
    """The fire phase of a population: its global first step and its length [steps]."""

    start: int
    time_window: int

    @property
    def end(self) -> int:
        """Global step after the last of the phase [steps]."""
        return self.start + self.time_window


class Operations(NamedTuple):
    """Counts of arithmetic operations.

    Attributes:
        multiply_adds: products of a weight and a value, each added to a sum.
        additions: of two values, without a weight.
        multiplications: by a number that the architecture gives, the 1/n of an average.
    """

    multiply_adds: int = 0
    additions: int = 0
    multiplications: int = 0

    @property
    def total(self) -> int:
        """All operations, each counted once."""
        return sum(self)

    def plus(self, other: "Operations") -> "Operations":
        """The sums of the counts."""
        return Operations(*(mine + theirs for mine, theirs in zip(self, other)))


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One node of a network. A subclass gives `function`, and overrides what else differs.

    Attributes:
        name: of the layer that the node stands for.
        inputs: the nodes whose values it takes.
        shape: of its value, per sample.
    """

    name: str
    inputs: tuple["Node", ...]
    shape: tuple[int, ...]

    @property
    def spiking(self) -> bool:
        """Whether each number in the node's value is carried by a single spike."""
        return False

    @property
    def size(self) -> int:
        """Numbers in the node's value, per sample."""
        return int(np.prod(self.shape))

    def function(self, dtype: str) -> Callable:
        """The function that gives the node's value from the values of its inputs, computed in `dtype`."""
        raise NotImplementedError

    def linear(self, dtype: str) -> Callable:
        """The same as `function` without bias: what spikes add to a potential."""
        return self.function(dtype)

    def paths(self) -> Callable:
        """The same as `function` in float64 with weights of 1 and no bias: counts the ways from a spike to a neuron."""
        return self.function("float64")

    def operations(self, values: list) -> Operations:
        """Operations on input values that are 1 where there is something to add, else 0."""
        return Operations(multiply_adds=_total(self.paths()(*values)))


@dataclasses.dataclass(frozen=True, eq=False)
class Input(Node):
    """The model's input: an analog current, until neurons encode it.

    Attributes:
        dtype: that the model casts its inputs to.
    """

    dtype: str = "float32"


@dataclasses.dataclass(frozen=True, eq=False)
class Population(Node):
    """A population of integrate-and-fire neurons. But for `windows` it has one for each element of its input.

    Attributes:
        max_value: float or None: where the activation that it stands for is cut off [1].
    """

    max_value: float | None = dataclasses.field(default=None, kw_only=True)

    @property
    def spiking(self) -> bool:
        return True

    @property
    def membranes(self) -> int:
        """Potentials that integrate, per sample. `size` is the number of neurons, which may fire."""
        return self.inputs[0].size


@dataclasses.dataclass(frozen=True, eq=False)
class TTFSPopulation(Population):
    """A population with one temporal kernel.

    A neuron integrates while its inputs fire. Then its own phase begins. It fires at the first local step t with
    `u >= thresholds[t]` and u > 0, once. After that it is refractory.

    Attributes:
        time_window: int >= 1: T [steps].
        tau: float > 0: time constant of the temporal kernel [steps].
        t_d: float: delay of the temporal kernel [steps].
        rounding: `"ceil"` or `"nearest"`.
        policy: name of the dtype policy of the layer.

    Raises:
        ValueError: "Expected a finite tau > 0 and a finite t_d [steps]. Received: ...".
    """

    time_window: int
    tau: float
    t_d: float
    rounding: str
    policy: str

    def __post_init__(self):
        if not (np.isfinite(self.t_d) and 0 < self.tau < np.inf):
            raise ValueError(
                f"Expected a finite tau > 0 and a finite t_d [steps]. "
                f"Received: tau={self.tau}, t_d={self.t_d} of {self.name!r}"
            )

    @functools.cached_property
    def silent(self) -> tf.Tensor:
        """T, the spike time of a silent neuron, in the integer type of the population's spike times [steps]."""
        return tf.constant(self.time_window, temporal_kernel.integer_dtype(self.time_window))

    def thresholds(self, dtype: str) -> tf.Tensor:
        """Threshold at each step of the window, shape `(time_window,)` [1]."""
        return temporal_kernel.thresholds(self.tau, self.t_d, self.time_window, rounding=self.rounding, dtype=dtype)

    def levels(self, dtype: str) -> tf.Tensor:
        """Level that a spike at each step of the window carries, shape `(time_window,)` [1]."""
        return temporal_kernel.levels(self.tau, self.t_d, self.time_window, dtype=dtype)

    def fire(self, potential: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """`(spike times [steps], levels [1])` of complete potentials [1]."""
        return temporal_kernel.fire(potential, self.tau, self.t_d, self.time_window, rounding=self.rounding)


@dataclasses.dataclass(frozen=True, eq=False)
class Route(Node):
    """Pooling by the earliest spike, or another way of arranging spikes (or currents) without computing on them.

    Attributes:
        layer: the Keras layer, of a class in `understood.ROUTES`.
    """

    layer: keras.layers.Layer

    @property
    def spiking(self) -> bool:
        return all(node.spiking for node in self.inputs)

    def function(self, dtype: str) -> Callable:
        layer = bare_copy(self.layer, dtype)
        return lambda *values: layer(list(values) if type(layer) in MERGES else values[0])

    def operations(self, values: list) -> Operations:
        return Operations()


@dataclasses.dataclass(frozen=True, eq=False)
class Affine(Node):
    """Rescaling or Normalization: `x * scale + offset`, or `(x - offset) / scale` if `divides`, element by element.

    Attributes:
        scale, offset: arrays that broadcast to the shape, copied.
        divides: bool: which of the two forms.

    Raises:
        ValueError: "Expected finite numbers. Received: ...".
    """

    scale: np.ndarray
    offset: np.ndarray
    divides: bool = False

    def __post_init__(self):
        if not (np.isfinite(self.scale).all() and np.isfinite(self.offset).all()):
            raise ValueError(f"Expected finite numbers. Received: layer {self.name!r} with NaN or infinite ones")

    @classmethod
    def of(cls, name: str, inputs: tuple[Node, ...], layer: keras.layers.Layer) -> "Affine":
        """The node of a Keras layer."""
        shape = inputs[0].shape
        if type(layer) is keras.layers.Rescaling:
            return cls(name, inputs, shape, np.array(layer.scale), np.array(layer.offset))
        scale = np.maximum(np.sqrt(np.array(layer.variance, "float64")), keras.config.epsilon())
        return cls(name, inputs, shape, scale, np.array(layer.mean), divides=not layer.invert)

    def function(self, dtype: str) -> Callable:
        scale, offset = tf.cast(self.scale, dtype), tf.cast(self.offset, dtype)
        if self.divides:
            return lambda value: (tf.cast(value, dtype) - offset) / scale
        return lambda value: tf.cast(value, dtype) * scale + offset

    def linear(self, dtype: str) -> Callable:
        scale = tf.cast(self.scale, dtype)
        return lambda value: value / scale if self.divides else value * scale

    def paths(self) -> Callable:
        return lambda value: value


@dataclasses.dataclass(frozen=True, eq=False)
class Sum(Node):
    """Average pooling or Add: synapses whose weights are given by the architecture.

    Attributes:
        layer: the Keras layer.
    """

    layer: keras.layers.Layer

    def function(self, dtype: str) -> Callable:
        layer = bare_copy(self.layer, dtype)
        return lambda *values: layer(list(values) if type(layer) in MERGES else values[0])

    def paths(self) -> Callable:
        if type(self.layer) is keras.layers.Add:
            return self.function("float64")
        axes = tuple(range(1, len(self.inputs[0].shape)))  # Of the places, without batch and channels.
        if not hasattr(self.layer, "pool_size"):
            return lambda value: tf.reshape(tf.reduce_sum(value, axis=axes), (-1, *self.shape))
        settings = settings_of(self.layer)
        window = tf.ones((*settings.pop("pool_size"), 1, 1), "float64")

        def sums(value):
            # Each channel as an image of its own, because a depthwise convolution admits equal strides only.
            channels = tf.reshape(tf.transpose(value, (0, len(axes) + 1, *axes)), (-1, *value.shape[1:-1], 1))
            pooled = keras.ops.conv(channels, window, **settings)[..., 0]
            pooled = tf.reshape(pooled, (-1, self.shape[-1], *self.shape[:-1]))
            return tf.transpose(pooled, (0, *(axis + 1 for axis in axes), 1))

        return sums

    def operations(self, values: list) -> Operations:
        arriving = self.paths()(*values)
        additions = _total(tf.maximum(arriving - 1, 0))
        averages = _total(tf.cast(arriving > 0, "float64")) if type(self.layer) in AVERAGES else 0
        return Operations(additions=additions, multiplications=averages)


class Norm(NamedTuple):
    """Numbers of a batch normalisation, copied. gamma and beta are None if the layer has none."""

    gamma: np.ndarray | None
    beta: np.ndarray | None
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float

    @classmethod
    def of(cls, layer: keras.layers.BatchNormalization) -> "Norm":
        """The numbers of a Keras layer."""
        gamma, beta = (None if weight is None else np.array(weight) for weight in (layer.gamma, layer.beta))
        return cls(gamma, beta, np.array(layer.moving_mean), np.array(layer.moving_variance), layer.epsilon)


@dataclasses.dataclass(frozen=True, eq=False)
class Synapse(Node):
    """Trained synapses, batch normalisation folded in: `u = gain * sum(weight * x) + bias`.

    The folded weight of a synapse is `gain * weight` (see `folded`). Simulations multiply the sum instead of every
    weight, as the surrogate does, so that even float32 rounds the potential to the same number.

    Attributes:
        layer: the Keras layer with weights, for its options. None for a batch normalisation that stands alone.
        kernels: the layer's weight arrays without the bias. They are copies, so later training changes no network.
        bias: array `(channels,)`, or None.
        norms: the batch normalisations behind the layer, in their order.

    Raises:
        ValueError: "Expected finite weights. Received: ...".
    """

    layer: keras.layers.Layer | None = None
    kernels: tuple[np.ndarray, ...] = ()
    bias: np.ndarray | None = None
    norms: tuple[Norm, ...] = ()

    def __post_init__(self):
        values = [*self.kernels, self.bias, *(value for norm in self.norms for value in norm)]
        if not all(np.isfinite(value).all() for value in values if value is not None):
            raise ValueError(f"Expected finite weights. Received: layer {self.name!r} with NaN or infinite weights")

    def affine(self, dtype: str) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        """`(gain, bias)` per output channel, tensors of `dtype`. None stands for a gain of 1 or a bias of 0."""
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

    def function(self, dtype: str) -> Callable:
        # Variables, because TensorFlow multiplies constants into each other and rounds them anew.
        gain, bias = (None if value is None else tf.Variable(value) for value in self.affine(dtype))
        layer = self._summing_layer(dtype, self.kernels)

        def potential(value):
            total = value if layer is None else layer(value)
            total = total if gain is None else total * gain
            return total if bias is None else total + bias

        return potential

    def linear(self, dtype: str) -> Callable:
        weights, _ = self.folded(dtype)
        return self._summing_layer(dtype, weights) or (lambda value: value * weights[0])

    def paths(self) -> Callable:
        layer = self._summing_layer("float64", [np.ones(kernel.shape) for kernel in self.kernels])
        return layer or (lambda value: value)

    def disturbed_kernels(self, noise: Iterable, random: Any) -> tuple[np.ndarray, ...]:
        """The kernels as hardware has them, by the `weights` of each kind of noise, one after the other."""
        found = []
        for number, kernel in enumerate(self.kernels):
            axes, value = channel_free_axes(self.layer, number, kernel.ndim), tf.constant(kernel)
            for each in noise:
                value = each.weights(value, axes, random)
            found.append(value.numpy())
        return tuple(found)

    def operations(self, values: list) -> Operations:
        ways = super().operations(values).multiply_adds
        if type(self.layer) in SEPARABLE and ways:
            # Its two stages one after the other, not every way through both.
            _, pointwise = self.kernels
            ways = ways // pointwise.shape[-1] + int(np.prod(self.shape[:-1])) * pointwise.size
        return Operations(multiply_adds=ways)

    def folded(self, dtype: str = "float64") -> tuple[list[np.ndarray], np.ndarray]:
        """`(weights, bias)` with batch normalisation folded in: NumPy arrays, as a neuromorphic chip would hold them.

        `weights` is a list of one array, the kernel. For a separable convolution it holds the depthwise and the pointwise
        kernel. For a batch normalisation that no synapse precedes it holds the diagonal. `bias` has one number per
        output channel.
        """
        gain, bias = (None if value is None else value.numpy() for value in self.affine(dtype))
        gain = np.ones(self.shape[-1:], dtype) if gain is None else gain
        weights = [kernel.astype(dtype) for kernel in self.kernels]
        if not weights:
            weights = [gain]
        elif type(self.layer) in DEPTHWISE:
            weights[0] = weights[0] * gain.reshape(weights[0].shape[-2:])
        elif type(self.layer) in TRANSPOSED:
            weights[0] = weights[0] * gain[:, None]
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


def _total(values):
    return int(tf.reduce_sum(values))


def functions_of(nodes: Iterable[Node], dtype: str) -> dict[Node, Callable]:
    """`{node: its function in dtype}` for every node that is neither the input nor a population."""
    return {node: node.function(dtype) for node in nodes if not isinstance(node, (Input, Population))}


def propagate(
    nodes: Iterable[Node], functions: dict[Node, Callable], at_input: Any, at_population: Callable
) -> dict[Node, Any]:
    """`{node: value}`: one pass through the nodes, in their order.

    Args:
        nodes: what to compute. A population may be among them without the node that it takes its potential from.
        functions: `{node: function of the inputs' values}`, as `functions_of` gives.
        at_input: value of the input.
        at_population: `(population, potential) -> value`. The potential is None if its node is not among `nodes`.
    """
    values: dict[Node, Any] = {}
    for node in nodes:
        if isinstance(node, Input):
            values[node] = at_input
        elif isinstance(node, Population):
            values[node] = at_population(node, values.get(node.inputs[0]))
        else:
            values[node] = functions[node](*(values[source] for source in node.inputs))
    return values


def populations_of(nodes: Iterable[Node], kind: type = Population) -> list:
    """The populations among the nodes, in their order."""
    return [node for node in nodes if isinstance(node, kind)]


def encodes_input(population: Node) -> bool:
    """Whether nothing but Routes and Affine nodes lies between a population and the network's input."""

    def is_input(node):
        return isinstance(node, Input) or (isinstance(node, (Route, Affine)) and all(map(is_input, node.inputs)))

    return is_input(population.inputs[0])


def sources_of(node: Node) -> set[Population]:
    """Populations whose spikes reach a node without passing other neurons."""
    found: set[Population] = set()
    for source in node.inputs:
        found |= {source} if isinstance(source, Population) else sources_of(source)
    return found
