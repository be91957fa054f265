"""Reads a Keras model as nodes: neurons, the synapses between them, and the routes that spikes take.

`nodes, output = read(model)` gives the nodes in the order of computation; `schedule` gives each population its phase.
`understood` says which layers and calls there are nodes for. This module says which nodes.
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_ttfs import topology
from keras_ttfs.layers import TemporalKernelDecode, TTFSActivation, TTFSEncode
from keras_ttfs.snn import copies, understood
from keras_ttfs.snn.nodes import (
    Affine,
    Input,
    Node,
    Norm,
    Phase,
    Population,
    Route,
    Sum,
    Synapse,
    TTFSPopulation,
    sources_of,
)
from keras_ttfs.snn.understood import AFFINE, MAXIMA, NORMS, NOTHING_AT_INFERENCE, ROUTES, WEIGHTED, refusal
from keras_ttfs.snn.windows import WindowPopulation


def read(model: keras.Model, activations: str = "ttfs") -> tuple[list[Node], Node]:
    """`(nodes, output)` of a model: nodes in the order of computation, the first of them the input.

    Batch normalisation is folded into the synapses.

    Args:
        model: Functional or built Sequential model with one input and one output.
        activations: `"ttfs"` reads TTFSActivation and TTFSEncode as TTFSPopulation. One behind max pooling of
            potentials is read as WindowPopulation. `"relu"` reads ReLU (a layer, `Activation("relu")`, a function or a
            layer's `activation`) as Population. A ReLU behind max pooling becomes a Population in front of it, because
            that gives the same values, and pools spikes.

    Raises:
        ValueError: "Expected ... Received: ..." naming the layer and what is supported.
    """
    reader = _Reader(model, activations)
    return fold(reader.nodes, reader.output)


def spiking_calls(model: keras.Model) -> list[str | None]:
    """The names of the populations of a TTFS model in the order in which `topology.walk` visits their layers.

    None stands for a call that leads nowhere, in a nested model of several outputs.
    """
    reader = _Reader(model, "ttfs")
    kept = set(reader.nodes)
    return [population.name if population in kept else None for population in reader.populations]


@dataclasses.dataclass(frozen=True)
class _SpikeTimes:
    """What stands for an encoder's spike time, tau and t_d until a decoder takes them."""

    population: TTFSPopulation


class _Reader:
    def __init__(self, model, activations):
        self.activations = activations
        self.nodes: list[Node] = []
        self.names: set[str] = set()
        self.populations: list[TTFSPopulation] = []
        self.softmax: str | None = None
        understood.check_model(model, activations)
        (entry,) = model.inputs
        shape = tuple(entry.shape[1:])
        if None in shape:
            raise ValueError(f"Expected a fixed input shape. Received: {(None, *shape)}")
        self.nodes.append(Input("", (), shape, keras.backend.standardize_dtype(entry.dtype)))
        values = topology.walk(model, list(self.nodes), self._visit)
        self.output = keras.tree.flatten(values)[0]
        if isinstance(self.output, _SpikeTimes) or self.output.spiking or not self.output.inputs:
            raise ValueError(
                "Expected the model to end in membrane potentials (Dense, say). "
                f"Received: {model.name!r}, which ends in {getattr(self.output, 'name', 'spike times')!r}"
            )
        self._leave_out_what_leads_nowhere()

    def _leave_out_what_leads_nowhere(self):
        """Keeps the nodes that the output needs. Refuses max pooling of currents that go elsewhere than into neurons."""
        needed = {self.nodes[0], self.output}
        for node in reversed(self.nodes):
            if node in needed:
                needed.update(node.inputs)
        self.nodes = [node for node in self.nodes if node in needed]
        windowed = {node.inputs[0]: node.windows[0] for node in self.nodes if isinstance(node, WindowPopulation)}
        for node in self.nodes:
            if isinstance(node, Route) and type(node.layer) in MAXIMA and not node.spiking:
                raise _pooling_of_currents(node.layer, node.inputs[0])
            pooled = [source for source in node.inputs if source in windowed]
            if pooled and not isinstance(node, WindowPopulation):
                raise _pooling_of_currents(windowed[pooled[0]], pooled[0], f", and {node.name!r} takes it as well")
        if self.output in windowed:
            raise _pooling_of_currents(windowed[self.output], self.output, ", which is the output as well")

    def _add(self, kind, name, *fields, **more):
        node = kind(topology.unused_name(name, self.names), *fields, **more)
        self.nodes.append(node)
        return node

    def _visit(self, layer, *args, **kwargs):
        inputs = understood.check_call(layer, args, kwargs, self.activations)
        if self.softmax is not None:
            raise ValueError(f"Expected a softmax at the output only. Received: layer {self.softmax!r}")
        if type(layer) is keras.layers.InputLayer:
            return inputs[0]
        if type(layer) is TemporalKernelDecode:
            return _decoded(layer, inputs)
        if any(isinstance(value, _SpikeTimes) for value in inputs):
            raise ValueError(
                f"Expected spike times to go into a TemporalKernelDecode. Received: layer {layer.name!r} "
                f"({type(layer).__name__})"
            )
        understood.check_axes(layer, len(inputs[0].shape) + 1)
        if type(layer) in NOTHING_AT_INFERENCE:
            return inputs[0]
        function = understood.function_of(layer)
        if type(layer) in (TTFSActivation, TTFSEncode) and self.activations == "ttfs":
            population = self._add_population(layer, tuple(inputs))
            self.populations.append(population)
            return population if type(layer) is TTFSActivation else (_SpikeTimes(population),) * 3
        if understood.is_activation(layer):
            return self._apply(function, layer, inputs[0], layer.name)
        if type(layer) not in understood.SETTINGS:
            raise self._not_understood(layer, function)
        if function is None:
            raise self._not_understood(layer, function)
        node = self._add_layer(layer, tuple(inputs))
        return self._apply(function, layer, node, f"{layer.name}_activation")

    def _apply(self, function, layer, node, name):
        """What follows from an activation that a layer applies to a node's value."""
        if function.kind == "linear":
            return node
        if function.kind == "softmax":
            self.softmax = layer.name
            return node
        if self.activations != "relu":
            raise self._not_understood(layer, function)
        below, above = _commuting(node)
        moved = self._add(Population, name, (below,), below.shape, max_value=function.max_value)
        for route in above:
            moved = self._add(Route, route.name, (moved,), route.shape, route.layer)
        return moved

    def _not_understood(self, layer, function):
        if type(layer) in WEIGHTED or (type(layer) is keras.layers.Activation and self.activations == "ttfs"):
            expected = "ReLU" if self.activations == "relu" else "TTFSActivation"
            advice = understood.CONVERT if function is not None and function.kind == "relu" else ""
            return ValueError(
                f"Expected no activation but {expected}. Received: layer {layer.name!r} with "
                f"activation {understood.activation_name(layer)!r}.{advice}"
            )
        if self.activations == "relu" and type(layer) in (keras.layers.ReLU, keras.layers.Activation):
            return not_relu(layer)
        return understood.unsupported(layer, self.activations)

    def _add_layer(self, layer, inputs):
        kind = type(layer)
        shapes = [(None, *node.shape) for node in inputs]
        shape = tuple(layer.compute_output_shape(shapes if len(shapes) > 1 else shapes[0])[1:])
        if kind in NORMS:
            return self._add(Synapse, layer.name, inputs, shape, norms=(Norm.of(layer),))
        if kind in AFFINE:
            return self._add_affine(layer, inputs)
        if kind in WEIGHTED:
            return self._add(Synapse, layer.name, inputs, shape, layer, *copies.weights_of(layer))
        return self._add(Route if kind in ROUTES else Sum, layer.name, inputs, shape, layer)

    def _add_affine(self, layer, inputs):
        node = Affine.of(topology.unused_name(layer.name, self.names), inputs, layer)
        if np.broadcast_shapes(node.scale.shape, node.offset.shape, (1, *node.shape)) != (1, *node.shape):
            raise refusal("numbers that broadcast to the inputs", layer, f"with inputs of shape {node.shape}")
        self.nodes.append(node)
        return node

    def _add_population(self, encoder, inputs):
        (node,) = inputs
        kind: type[TTFSPopulation] = TTFSPopulation
        options: dict[str, Any] = {}
        _, above = _commuting(node)
        first = next((number for number, route in enumerate(above) if type(route.layer) in MAXIMA), None)
        if first is not None and not _is_current_of_input(above[first]):
            kind, inputs = WindowPopulation, above[first].inputs
            options["windows"] = tuple(route.layer for route in above[first:])
        return self._add(
            kind,
            encoder.name,
            inputs,
            node.shape,
            **options,
            time_window=encoder.time_window,
            tau=float(keras.ops.convert_to_numpy(encoder.tau)),
            t_d=float(keras.ops.convert_to_numpy(encoder.t_d)),
            rounding=encoder.rounding,
            policy=encoder.dtype_policy.name,
        )


def not_relu(layer: Any) -> ValueError:
    """The ValueError "Expected ReLU activations. Received: ..." that names a layer and its activation."""
    name = understood.activation_name(layer)
    return ValueError(f"Expected ReLU activations. Received: layer {layer.name!r} with activation {name!r}")


def _commuting(node):
    """`(node below, routes above it)` of a current: routes with one input from the last to an activation's input.

    The routes commute with the activation. There are none without max pooling among them, and none of spikes.
    """
    above: list[Route] = []
    below = node
    while isinstance(below, Route) and len(below.inputs) == 1:
        above.insert(0, below)
        below = below.inputs[0]
    if node.spiking or not any(type(route.layer) in MAXIMA for route in above):
        return node, []
    return below, above


def _pooling_of_currents(layer, source, found=""):
    return ValueError(
        "Expected max pooling of spikes, or of membrane potentials that go into activations alone, through pooling. "
        f"Received: layer {layer.name!r}, which pools {source.name or 'the input'!r}{found}"
    )


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
        elif not isinstance(node, (Input, Route, Affine)) and any(map(_is_current_of_input, node.inputs)):
            ready[node] = max(ready[node], longest)
    return phases


def _is_current_of_input(node):
    """Whether a node gives an analog current of the input, arranged by routes or scaled, before any weights."""
    passes = isinstance(node, (Route, Affine)) and any(map(_is_current_of_input, node.inputs))
    return isinstance(node, Input) or passes
