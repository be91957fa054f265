"""Reads a Keras model as nodes: neurons, the synapses between them, and the routes that spikes take.

`nodes, output = read(model)` gives the nodes in the order of computation; `schedule` gives each population its phase.
The tuples below name the Keras layers that are understood, by the node that stands for them.
"""

import dataclasses
from typing import Any

import keras

from keras_ttfs import topology
from keras_ttfs.layers import TemporalKernelDecode, TKBatchNorm, TTFSActivation, TTFSEncode
from keras_ttfs.snn.nodes import Input, Node, Norm, Phase, Population, Route, Sum, Synapse, TTFSPopulation, sources_of

WEIGHTED = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.Dense,
)
NORMS = (keras.layers.BatchNormalization, TKBatchNorm)
# Sums with fixed weights.
SUMS = (keras.layers.AveragePooling2D, keras.layers.GlobalAveragePooling2D, keras.layers.Add)
# A spike stays a spike on its way through these. In each pooling window the earliest one goes on.
ROUTES = (
    keras.layers.MaxPooling2D,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.ZeroPadding2D,
    keras.layers.Concatenate,
)
NOTHING_AT_INFERENCE = (keras.layers.Dropout, keras.layers.Identity)
# What a model's populations stand for.
ACTIVATIONS = {"ttfs": (TTFSActivation, TTFSEncode, TemporalKernelDecode), "relu": (keras.layers.ReLU,)}
CONVERT = " keras_ttfs.convert turns a ReLU model into a TTFS model."


def supported_layers(activations: str) -> str:
    """The layers that `read` understands, in words."""
    kinds = WEIGHTED + NORMS + ACTIVATIONS[activations] + SUMS + ROUTES + NOTHING_AT_INFERENCE
    return ", ".join(kind.__name__ for kind in kinds) + ", and a softmax at the output"


def activation_of(layer: Any) -> str | None:
    """Name of a layer's own activation; None if it is linear or the layer has none."""
    activation = getattr(layer, "activation", None)
    return None if activation in (None, keras.activations.linear) else getattr(activation, "__name__", str(activation))


def is_softmax(layer: Any) -> bool:
    """Whether a layer is nothing but a softmax over classes."""
    if isinstance(layer, keras.layers.Softmax):
        return True
    return type(layer) is keras.layers.Activation and activation_of(layer) == "softmax"


def is_relu(layer: Any) -> bool:
    """Whether a layer is nothing but a ReLU.

    Raises:
        ValueError: "Expected ReLU activations. Received: ..." for a ReLU with other options than Keras' defaults.
    """
    if isinstance(layer, keras.layers.ReLU):
        if layer.max_value is not None or layer.negative_slope or layer.threshold:
            raise not_relu(layer)
        return True
    return isinstance(layer, keras.layers.Activation) and activation_of(layer) == "relu"


def not_relu(layer: Any) -> ValueError:
    """The ValueError "Expected ReLU activations. Received: ..." that names a layer and its activation."""
    activation = activation_of(layer) or "ReLU with max_value, negative_slope or threshold"
    return ValueError(f"Expected ReLU activations. Received: layer {layer.name!r} with activation {activation!r}")


def unsupported(layer: Any, activations: str) -> ValueError:
    """The ValueError "Expected layers of ... Received: ..." that names a layer and what is supported.

    Args:
        layer: layer, or operation of keras.ops.
        activations: `"ttfs"` or `"relu"`, as `read` takes.
    """
    advice = ""
    if not isinstance(layer, keras.layers.Layer):
        advice = (
            " Write keras.layers.Add or keras.layers.Concatenate instead of an operator or a function of keras.ops."
        )
    elif activations == "relu" and isinstance(layer, TTFSEncode):
        advice = " Its spikes are those of SpikingNetwork.from_model."
    elif isinstance(layer, keras.layers.ReLU) or activation_of(layer) == "relu":
        advice = CONVERT
    return ValueError(
        f"Expected layers of {supported_layers(activations)}. "
        f"Received: layer {layer.name!r} ({type(layer).__name__}).{advice}"
    )


def read(model: keras.Model, activations: str = "ttfs") -> tuple[list[Node], Node]:
    """`(nodes, output)` of a model: nodes in the order of computation, the first of them the input.

    Batch normalisation is folded into the synapses.

    Args:
        model: Functional or built Sequential model with one input and one output.
        activations: `"ttfs"` reads TTFSActivation and TTFSEncode as TTFSPopulation. `"relu"` reads ReLU (a layer,
            `Activation("relu")` or a layer's `activation`) as Population.

    Raises:
        ValueError: "Expected ... Received: ..." naming the layer and what is supported.
    """
    reader = _Reader(model, activations)
    return fold(reader.nodes, reader.output)


@dataclasses.dataclass(frozen=True)
class _SpikeTimes:
    """What stands for an encoder's spike time, tau and t_d until a decoder takes them."""

    population: TTFSPopulation


class _Reader:
    def __init__(self, model, activations):
        self.activations = activations
        self.nodes: list[Node] = []
        self.names: set[str] = set()
        self.softmax: str | None = None
        inputs = model.inputs if hasattr(model, "inputs") and model.inputs else []
        if len(inputs) != 1 or len(model.outputs) != 1:
            raise ValueError(
                "Expected a Functional or built Sequential model with one input and one output. "
                f"Received: {type(model).__name__} {model.name!r}"
            )
        shape = tuple(inputs[0].shape[1:])
        if None in shape:
            raise ValueError(f"Expected a fixed input shape. Received: {(None, *shape)}")
        self.nodes.append(Input("", (), shape))
        values = topology.walk(model, list(self.nodes), self._visit)
        self.output = keras.tree.flatten(values)[0]
        if isinstance(self.output, _SpikeTimes) or self.output.spiking or not self.output.inputs:
            raise ValueError(
                "Expected the model to end in membrane potentials (Dense, say). "
                f"Received: {model.name!r}, which ends in {getattr(self.output, 'name', 'spike times')!r}"
            )

    def _add(self, kind, name, *fields, **more):
        node = kind(topology.unused_name(name, self.names), *fields, **more)
        self.nodes.append(node)
        return node

    def _visit(self, layer, *args, **kwargs):
        inputs = [value for value in keras.tree.flatten(args) if isinstance(value, (Node, _SpikeTimes))]
        if self.softmax is not None:
            raise ValueError(f"Expected a softmax at the output only. Received: layer {self.softmax!r}")
        if isinstance(layer, keras.layers.InputLayer):
            return inputs[0]
        if type(layer) is TemporalKernelDecode:
            return _decoded(layer, inputs)
        if any(isinstance(value, _SpikeTimes) for value in inputs):
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
        shapes = [(None, *node.shape) for node in inputs]
        if self.activations == "relu" and is_relu(layer):
            return self._add(Population, layer.name, inputs, inputs[0].shape)
        if kind in (TTFSActivation, TTFSEncode) and self.activations == "ttfs":
            population = self._add_population(layer, inputs)
            return population if kind is TTFSActivation else (_SpikeTimes(population),) * 3
        if kind not in WEIGHTED + NORMS + SUMS + ROUTES:
            raise unsupported(layer, self.activations)
        own = activation_of(layer) if kind in WEIGHTED else None
        _check_options(layer, inputs, own, self.activations)
        shape = tuple(layer.compute_output_shape(shapes if len(shapes) > 1 else shapes[0])[1:])
        if kind in NORMS:
            return self._add(Synapse, layer.name, inputs, shape, norms=(Norm.of(layer),))
        if kind in WEIGHTED:
            return self._add_synapse(layer, inputs, shape, own)
        return self._add(Route if kind in ROUTES else Sum, layer.name, inputs, shape, layer)

    def _add_population(self, encoder, inputs):
        return self._add(
            TTFSPopulation,
            encoder.name,
            inputs,
            inputs[0].shape,
            time_window=encoder.time_window,
            tau=float(keras.ops.convert_to_numpy(encoder.tau)),
            t_d=float(keras.ops.convert_to_numpy(encoder.t_d)),
            rounding=encoder.rounding,
            policy=encoder.dtype_policy.name,
        )

    def _add_synapse(self, layer, inputs, shape, own_activation):
        kernels = layer.get_weights()
        bias = kernels.pop() if layer.use_bias else None
        synapse = self._add(Synapse, layer.name, inputs, shape, layer, tuple(kernels), bias)
        if own_activation == "softmax":
            self.softmax = layer.name
        if own_activation == "relu":
            return self._add(Population, f"{layer.name}_activation", (synapse,), shape)
        return synapse


def _decoded(layer, inputs):
    populations = {value.population if isinstance(value, _SpikeTimes) else value for value in inputs}
    if len(populations) != 1 or not all(isinstance(value, _SpikeTimes) for value in inputs):
        raise ValueError(f"Expected the triple of one TTFSEncode. Received: other inputs of layer {layer.name!r}")
    (population,) = populations
    if layer.time_window != population.time_window:
        raise ValueError(
            f"Expected the time_window of the encoder, {population.time_window}. "
            f"Received: time_window={layer.time_window} of layer {layer.name!r}"
        )
    return population


def _check_options(layer, inputs, own, activations):
    """Refuses options that have no meaning in spikes. `own` is the name of the layer's own activation."""
    relu = activations == "relu"
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


def fold(nodes: list[Node], output: Node) -> tuple[list[Node], Node]:
    """`(nodes, output)` with every batch normalisation folded into the synapse before it, if it alone follows that."""
    takers = {node: [other for other in nodes if node in other.inputs] for node in nodes}
    folded: list = []
    successor: dict = {}  # What stands for each node now.
    for node in nodes:
        inputs = tuple(successor[source] for source in node.inputs)
        before = node.inputs[0] if node.inputs else None
        norm = node if isinstance(node, Synapse) and node.layer is None else None
        if norm and isinstance(before, Synapse) and len(takers[before]) == 1 and before is not output:
            synapse = successor[before]
            successor[node] = dataclasses.replace(synapse, norms=synapse.norms + norm.norms)
            folded[folded.index(synapse)] = successor[node]
        else:
            successor[node] = dataclasses.replace(node, inputs=inputs)
            folded.append(successor[node])
    return folded, successor[output]


def schedule(nodes: list[Node], windows: dict[Any, int], early_firing: int = 0) -> dict[Any, Phase]:
    """`{population: Phase}`: when each population fires. A phase begins when all populations that feed it have fired.

    An analog input takes one window of its own, the longest of all, as an encoded input takes its window.

    Args:
        nodes: list of nodes, as `read` gives.
        windows: `{population: its time_window}` [steps].
        early_firing: int >= 0: by how much the phases of populations that hear spikes begin earlier [steps].
    """
    longest = max(windows.values(), default=1)
    phases: dict[Any, Phase] = {}
    ready: dict[Node, int] = {}  # The step at which the value of each node is complete.
    for node in nodes:
        ready[node] = max((ready[source] for source in node.inputs), default=0)
        if isinstance(node, Population):
            hears_spikes = bool(sources_of(node))
            phases[node] = Phase(ready[node] - (early_firing if hears_spikes else 0), windows[node])
            ready[node] = phases[node].end
        elif not isinstance(node, (Input, Route)) and any(map(_is_current_of_input, node.inputs)):
            ready[node] = max(ready[node], longest)
    return phases


def _is_current_of_input(node):
    """Whether a node gives an analog current of the input, arranged by routes alone."""
    return isinstance(node, Input) or (isinstance(node, Route) and any(map(_is_current_of_input, node.inputs)))
