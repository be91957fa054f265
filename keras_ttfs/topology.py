"""What follows what in a Keras model: the calls of its layers in order, and what is known of those that fire spikes."""

import dataclasses

import keras

from keras_ttfs.layers import TKBatchNorm, TTFSEncode, _neurons
from keras_ttfs.metrics import MeanSpikes

AVERAGES = (
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)


def unused_name(name, names):
    """`name`, with a number where the set `names` has it already; adds what it returns."""
    own, repeats = name, 1
    while own in names:
        own = f"{name}_{repeats}"
        repeats += 1
    names.add(own)
    return own


def labels(layers):
    """`{layer: its name}`, numbered where layers of nested models bear the same."""
    names = set()
    return {layer: unused_name(layer.name, names) for layer in layers}


def functional_of(layer):
    """The graph of a Functional or built Sequential model; None for every other layer, and for what is none."""
    functional = getattr(layer, "_functional", None) or layer
    return functional if hasattr(functional, "_run_through_graph") else None


def walk(model, values, visit):
    """Calls `visit(layer, *args, **kwargs)` for every call of a layer in the order of the graph, nested models opened.

    Args:
        model: Functional or built Sequential model.
        values: whatever stands for the inputs; what `visit` returns stands for a layer's output.

    Returns:
        What stands for the outputs.

    Raises:
        ValueError: "Expected a Functional or a built Sequential model. Received: ...".
    """
    functional = functional_of(model)
    if functional is None:
        raise ValueError(
            f"Expected a Functional or a built Sequential model. Received: {type(model).__name__} {model.name!r}"
        )

    def operation_of(layer):
        if isinstance(layer, keras.Model) and functional_of(layer):
            return lambda *args, **kwargs: walk(layer, args[0] if args else kwargs["inputs"], visit)
        return lambda *args, **kwargs: visit(layer, *args, **kwargs)

    return functional._run_through_graph(_in_order(functional, values), operation_of)


def _in_order(functional, values):
    """A model of listed inputs may be called with a dict of their names."""
    named = isinstance(values, dict) and not isinstance(functional._inputs_struct, dict)
    return [values[tensor.name] for tensor in functional.inputs] if named else values


@dataclasses.dataclass(frozen=True)
class SpikingCall:
    """One call of a layer that fires spikes.

    Attributes:
        layer: TTFSEncode, TTFSActivation or a layer of `spike_time`.
        norms: the TKBatchNorm layers whose output it takes, through layers without weights.
        of_input: whether it encodes the model's input: nothing that has weights, averages, or adds up lies before it.
        neurons: int, or None where a dimension is unknown.
    """

    layer: keras.layers.Layer
    norms: tuple
    of_input: bool
    neurons: int | None


@dataclasses.dataclass(frozen=True)
class _Signal:
    """What stands for a tensor: its symbolic tensor where shapes are wanted, and what lies before it."""

    tensor: keras.KerasTensor | None = None
    norms: tuple = ()
    of_input: bool = False


def spiking_calls(model, input_encoders=(), shapes=False):
    """A SpikingCall for every call of a spiking layer in a model.

    Calls are known of Functional and built Sequential models, nested ones included. Of any other container (a subclassed
    model, a layer of layers) each spiking layer counts as called once, on the TKBatchNorm whose very output it took last;
    those that encode the input are named by `input_encoders`.

    Args:
        model: Keras model.
        input_encoders: layers.
        shapes: bool: whether to follow the shapes, for a layer's neurons at each call; else they are those of the first.
    """
    calls = []

    def visit(layer, *args, **kwargs):
        signals = [value for value in keras.tree.flatten((args, kwargs)) if isinstance(value, _Signal)]
        norms = tuple(dict.fromkeys(norm for signal in signals for norm in signal.norms))
        of_input = bool(signals) and all(signal.of_input for signal in signals)
        tensors = _outputs(layer, args, kwargs, shapes)
        if _fires(layer):
            of_input = of_input and (isinstance(layer, TTFSEncode) or not layer.weights)
            neurons = _neurons(tensors[0].shape) if shapes else layer.neurons
            calls.append(SpikingCall(layer, norms, of_input, neurons))
            norms, of_input = (), False
        elif isinstance(layer, TKBatchNorm):
            norms, of_input = (layer,), False
        elif getattr(layer, "weights", ()) and not isinstance(layer, keras.layers.Normalization):
            calls.extend(_inside(layer, input_encoders))
            norms, of_input = (), False
        elif isinstance(layer, AVERAGES) or (len(signals) > 1 and not isinstance(layer, keras.layers.Concatenate)):
            of_input = False
        outputs = [_Signal(tensor, norms, of_input) for tensor in tensors]
        return outputs if len(outputs) > 1 else outputs[0]

    graph = functional_of(model)
    if graph is None:
        return list(_inside(model, input_encoders))
    walk(model, [_Signal(tensor, of_input=True) for tensor in graph.inputs], visit)
    return calls


def _outputs(layer, args, kwargs, shapes):
    """A call's symbolic outputs; None for each where `shapes` are not wanted."""
    if not shapes:
        return [None] * (len(layer._inbound_nodes[0].output_tensors) if layer._inbound_nodes else 1)
    symbols = keras.tree.map_structure(lambda value: getattr(value, "tensor", value), (args, kwargs))
    return keras.tree.flatten(layer.compute_output_spec(*symbols[0], **symbols[1]))


def _fires(layer):
    return isinstance(getattr(layer, "spikes", None), MeanSpikes) or isinstance(layer, TTFSEncode)


def _inside(container, input_encoders):
    """Of a container whose calls are unknown: what is known of the layers in it."""
    for layer in container._flatten_layers(include_self=False, recursive=False):
        if _fires(layer):
            calls = [SpikingCall(layer, (), False, getattr(layer, "neurons", None))]
        elif isinstance(layer, keras.Model) and functional_of(layer):
            calls = spiking_calls(layer)
        else:
            yield from _inside(layer, input_encoders)
            continue
        for call in calls:
            named = any(call.layer is other for other in input_encoders)
            yield SpikingCall(call.layer, call.norms or _followed_batch_norm(call.layer), named, call.neurons)


def _followed_batch_norm(layer):
    reference = getattr(layer, "followed_batch_norm", None)
    norm = None if reference is None else reference()
    return () if norm is None else (norm,)
