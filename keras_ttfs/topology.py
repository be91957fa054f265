"""What follows what in a Keras model: the calls of its layers in order, and what is known of the layers that spike.

`walk` is the only walker over Keras models in this library. `layers_of` lists layers; `observed` shows pre-activations;
`spiking_calls` says for each call of a spiking layer what lies before it, and how many neurons and membranes it has.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from keras_ttfs import keras_internals
from keras_ttfs.batch_norm import TKBatchNorm
from keras_ttfs.layers import TemporalKernelDecode, TTFSEncode, neurons_of
from keras_ttfs.metrics import MeanSpikes

AVERAGES = (
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)
MAXIMA = (
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalMaxPooling3D,
)


def unused_name(name: str, names: set[str]) -> str:
    """`name`, with a number if the set `names` holds it already. The returned name is added to the set."""
    own, repeats = name, 1
    while own in names:
        own = f"{name}_{repeats}"
        repeats += 1
    names.add(own)
    return own


def labels(layers: Iterable) -> dict[Any, str]:
    """`{layer: its name}`, with a number behind a name that another layer (of a nested model) has already."""
    names: set[str] = set()
    return {layer: unused_name(layer.name, names) for layer in layers}


def layers_of(model: keras.layers.Layer, kind: type) -> list:
    """Every layer of a class in a model or layer, nested ones included."""
    return [layer for layer in keras_internals.layers_below(model) if isinstance(layer, kind)]


def counting_layers(model: keras.layers.Layer) -> list:
    """Every layer of a model that counts its spikes: encoders, and the layers of `spike_time_layers`."""
    return [layer for layer in layers_of(model, keras.layers.Layer) if _counts_spikes(layer)]


def _counts_spikes(layer):
    return isinstance(getattr(layer, "spikes", None), MeanSpikes)


@contextlib.contextmanager
def observed(model: keras.layers.Layer, observer: Callable) -> Iterator[None]:
    """Context in which every encoder of the model calls `observer(encoder, z)` with its pre-activations z."""
    encoders = layers_of(model, TTFSEncode)
    for encoder in encoders:
        encoder.observer = observer
    try:
        yield
    finally:
        for encoder in encoders:
            encoder.observer = None


def walk(model: keras.Model, values: Any, visit: Callable) -> Any:
    """Calls `visit(layer, *args, **kwargs)` for every call of a layer in the order of the graph, nested models opened.

    Args:
        model: Functional or built Sequential model.
        values: whatever stands for the inputs, in the order of the model's inputs, or a dict by their names.
        visit: function of a layer and of what stands for its inputs. What it returns stands for the layer's output.

    Returns:
        What stands for the outputs.

    Raises:
        ValueError: "Expected a Functional or a built Sequential model. Received: ...".
    """
    functional = keras_internals.functional_of(model)
    if functional is None:
        raise ValueError(
            f"Expected a Functional or a built Sequential model. Received: {type(model).__name__} {model.name!r}"
        )

    def operation_of(layer):
        if _is_graph(layer):
            return lambda *args, **kwargs: walk(layer, args[0] if args else kwargs["inputs"], visit)
        return lambda *args, **kwargs: visit(layer, *args, **kwargs)

    return keras_internals.run_through_graph(functional, _in_order(functional, values), operation_of)


def _is_graph(layer):
    return isinstance(layer, keras.Model) and keras_internals.functional_of(layer) is not None


def _in_order(functional, values):
    """A model of listed inputs may be called with a dict of their names."""
    named = isinstance(values, dict) and not keras_internals.takes_named_inputs(functional)
    return [values[tensor.name] for tensor in functional.inputs] if named else values


@dataclasses.dataclass(frozen=True)
class SpikingCall:
    """One call of a layer that fires spikes.

    Attributes:
        layer: TTFSEncode, TTFSActivation or a layer of `spike_time_layers`.
        norms: the TKBatchNorm layers whose output the call takes, through layers without weights.
        encodes_input: whether the layer encodes the model's input: nothing before it has weights, averages or adds up.
        neurons: int, or None if a dimension is unknown.
        membranes: int: potentials that integrate, more than the neurons behind max pooling of potentials. None if a
            dimension is unknown. Without `shapes` it is the number of neurons.
    """

    layer: keras.layers.Layer
    norms: tuple
    encodes_input: bool
    neurons: int | None
    membranes: int | None


@dataclasses.dataclass(frozen=True)
class _Signal:
    """What stands for a tensor: its symbolic tensor if shapes are wanted, and what lies before it.

    Spikes carry it if `spiking`. `pooled` stands for the potentials of which it is a max pooling, if it is one.
    """

    tensor: keras.KerasTensor | None = None
    norms: tuple = ()
    is_input: bool = False
    spiking: bool = False
    pooled: "_Signal | None" = None


def spiking_calls(model: keras.layers.Layer, input_encoders: Iterable = (), shapes: bool = False) -> list[SpikingCall]:
    """A SpikingCall for every call of a spiking layer in a model.

    The calls in Functional and built Sequential models are known, nested models included. In any other container (a
    subclassed model, a layer of layers) each spiking layer counts as called once, on the TKBatchNorm whose very output
    it took last.

    Args:
        model: Keras model.
        input_encoders: layers that encode the input. Only containers whose calls are unknown need them.
        shapes: bool: whether to follow the shapes, so that each call has its own neurons. Otherwise each call of a
            layer has the neurons of its first call.
    """
    calls: list[SpikingCall] = []

    def visit(layer, *args, **kwargs):
        signals = [value for value in keras.tree.flatten((args, kwargs)) if isinstance(value, _Signal)]
        norms = tuple(dict.fromkeys(norm for signal in signals for norm in signal.norms))
        is_input = bool(signals) and all(signal.is_input for signal in signals)
        spiking = bool(signals) and all(signal.spiking for signal in signals)
        pooled: Any = signals[0].pooled if len(signals) == 1 else None
        tensors = _outputs(layer, args, kwargs, shapes)
        if _fires(layer):
            encodes_input = is_input and (isinstance(layer, TTFSEncode) or not layer.weights)
            neurons = neurons_of(tensors[0].shape) if shapes else layer.neurons
            membranes = neurons_of(pooled.tensor.shape) if shapes and pooled else neurons
            calls.append(SpikingCall(layer, norms, encodes_input, neurons, membranes))
            norms, is_input, spiking, pooled = (), False, True, None
        elif isinstance(layer, TKBatchNorm):
            norms, is_input, spiking, pooled = (layer,), False, False, None
        elif getattr(layer, "weights", ()) and not isinstance(layer, keras.layers.Normalization):
            calls.extend(_times(call, _repetitions(layer, signals)) for call in _calls_inside(layer, input_encoders))
            norms, is_input, spiking, pooled = (), False, False, None
        elif isinstance(layer, AVERAGES) or (len(signals) > 1 and not isinstance(layer, keras.layers.Concatenate)):
            is_input, spiking = False, isinstance(layer, TemporalKernelDecode)
        elif isinstance(layer, MAXIMA) and not (is_input or spiking):
            pooled = pooled or signals[0]
        outputs = [_Signal(tensor, norms, is_input, spiking, pooled) for tensor in tensors]
        return outputs if len(outputs) > 1 else outputs[0]

    functional = keras_internals.functional_of(model)
    if functional is None:
        return list(_calls_inside(model, input_encoders))
    walk(model, [_Signal(tensor, is_input=True) for tensor in functional.inputs], visit)
    return calls


def _repetitions(layer, signals):
    """How often a layer with layers in it calls them on one sample. None where that is not known."""
    if type(layer) is not keras.layers.TimeDistributed:
        return 1
    return signals[0].tensor.shape[1] if signals[0].tensor is not None else None


def _times(call, repetitions):
    known = call.neurons is not None and repetitions is not None
    counts = {name: getattr(call, name) * repetitions if known else None for name in ("neurons", "membranes")}
    return dataclasses.replace(call, **counts)


def _outputs(layer: Any, args: tuple, kwargs: dict, shapes: bool) -> list:
    """A call's symbolic outputs; None for each if `shapes` are not wanted."""
    if not shapes:
        return [None] * keras_internals.output_count(layer)
    symbols = keras.tree.map_structure(lambda value: getattr(value, "tensor", value), (args, kwargs))
    return keras.tree.flatten(layer.compute_output_spec(*symbols[0], **symbols[1]))


def _fires(layer):
    return _counts_spikes(layer) or isinstance(layer, TTFSEncode)


def _calls_inside(container, input_encoders):
    """What is known of the layers in a container whose calls are unknown."""
    for layer in keras_internals.layers_below(container, recursive=False):
        if _fires(layer):
            calls = [SpikingCall(layer, (), False, *[getattr(layer, "neurons", None)] * 2)]
        elif _is_graph(layer):
            calls = spiking_calls(layer)
        else:
            yield from _calls_inside(layer, input_encoders)
            continue
        for call in calls:
            named = any(call.layer is other for other in input_encoders)
            norms = call.norms or _followed_batch_norm(call.layer)
            yield dataclasses.replace(call, norms=norms, encodes_input=named)


def _followed_batch_norm(layer):
    reference = getattr(layer, "followed_batch_norm", None)
    norm = None if reference is None else reference()
    return () if norm is None else (norm,)
