"""Builds the TTFS model of a ReLU model, layer by layer, with the same weights. `conversion.convert` calibrates it."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_ttfs import calibration, keras_internals, topology
from keras_ttfs.batch_norm import TKBatchNorm
from keras_ttfs.layers import TTFSActivation, TTFSEncode
from keras_ttfs.models import TTFSModel
from keras_ttfs.snn import copies, reader, understood

# Where max pooling stands: as in the ReLU model, behind activations, or in front of them.
POOLING = (None, "spikes", "potential")


class _Value:
    """What stands for a tensor of the source model while its takers are noted."""

    def __init__(self, same: "_Value | None" = None):
        self.takers: list = []
        # Of all values that are the same numbers at inference.
        self.all_takers: list = same.all_takers if same else []


def _takers(model: keras.Model) -> tuple[list[Any], list[_Value]]:
    """`(input, output)` of each call of a layer, in the order of `topology.walk`. None where they are not one value."""
    taken: list[Any] = []
    given: list[_Value] = []

    def visit(layer, *args, **kwargs):
        values = [value for value in keras.tree.flatten((args, kwargs)) if isinstance(value, _Value)]
        is_nothing = type(layer) in understood.NOTHING_AT_INFERENCE
        for value in values:
            value.takers.append(layer)
            if not is_nothing:
                value.all_takers.append(layer)
        taken.append(values[0] if len(values) == 1 else None)
        outputs = [_Value(taken[-1] if is_nothing else None) for _ in range(keras_internals.output_count(layer))]
        given.append(outputs[0])
        return outputs[0] if len(outputs) == 1 else outputs

    for value in keras.tree.flatten(topology.walk(model, [_Value() for _ in model.inputs], visit)):
        for takers in (value.takers, value.all_takers):
            takers.append(None)
    return taken, given


def _are_maxima(layers):
    return all(type(layer) in understood.MAXIMA for layer in layers)


@dataclasses.dataclass(frozen=True)
class _Signal:
    """What stands for a tensor of the source model.

    Attributes:
        tensor: symbolic tensor of the TTFS model.
        spiking: whether spikes carry it.
        pooled: copies of layers that still have to be applied, because max pooling waits for the ReLU behind it.
        pooling: the max pooling among them, and what it pools.
        windowed: whether these layers stay in front of the activation.
        activation: the TTFSActivation that waits for the max pooling behind it. The tensor is what it takes.
        data: whether the numbers have the unit of the data: no weights or neurons but the input's encoder came before.
        raw: whether they may still be encoded.
    """

    tensor: Any
    spiking: bool = False
    pooled: tuple = ()
    pooling: Any = None
    windowed: bool = False
    activation: Any = None
    data: bool = False
    raw: bool = False

    @property
    def shape(self):
        return tuple(self.tensor.shape)


class Rebuilder:
    """Builds the TTFS model of a ReLU model, layer by layer. `limits[encoder]` is where its ReLU cuts off.

    Args:
        source: the ReLU model.
        temporal_kernel_options: dict of options of every TTFSActivation.
        input_coding: `"ttfs"` or `"analog"`.
        calibrates: bool: whether the model will be calibrated.
        pooling: one of POOLING.
    """

    def __init__(
        self,
        source: keras.Model,
        temporal_kernel_options: dict[str, Any],
        input_coding: str,
        calibrates: bool,
        pooling: str | None,
    ):
        self.source = source
        self.pooling = pooling
        self.temporal_kernel_options = temporal_kernel_options
        self.input_coding = input_coding
        self.calibrates = calibrates
        self.limits: dict[str, float] = {}
        self.copies: dict[int, tuple] = {}
        self.names: set[str] = set()
        self.encoded: dict[int, tuple] = {}
        self.relus = 0
        self.calls = -1

    def model(self, options: dict[str, Any]) -> TTFSModel:
        """The TTFSModel, made with these options.

        Raises:
            ValueError: "Expected ReLU activations. Received: ...", and so on for layers that are not understood.
        """
        for encoder in topology.layers_of(self.source, TTFSEncode):
            raise ValueError(
                f"Expected a model with ReLU activations. Received: {self.source.name!r}, which is a TTFS model already: "
                f"layer {encoder.name!r} ({type(encoder).__name__})"
            )
        inputs = keras.Input(self.source.inputs[0].shape[1:], dtype=self.source.inputs[0].dtype)
        if self.input_coding == "ttfs":
            self.names.add("input_activation")
        self.taken, self.given = _takers(self.source)
        signal = _Signal(inputs, data=True, raw=self.input_coding == "ttfs")
        output = keras.tree.flatten(topology.walk(self.source, [signal], self._visit))[0]
        if not self.relus:
            raise ValueError(f"Expected a model with ReLU activations. Received: {self.source.name!r} without any")
        model = TTFSModel(inputs, self._complete(output).tensor, **options)
        for layer, copy in self.copies.values():
            _copy_weights(layer, copy)
        return model

    def _visit(self, layer, *args, **kwargs):
        self.calls += 1
        signals = understood.check_call(layer, args, kwargs, "relu")
        understood.check_axes(layer, len(signals[0].shape))
        if type(layer) is keras.layers.InputLayer:
            return signals[0]
        function = understood.function_of(layer)
        if understood.is_activation(layer):
            return self._apply(function, layer, self._as_spikes(signals[0]), layer.name)
        if function is None:
            raise reader.not_relu(layer)
        if type(layer) in understood.NOTHING_AT_INFERENCE or _stays_raw(layer, signals[0]):
            return self._arranged(layer, signals)
        if type(layer) not in understood.SETTINGS:
            raise understood.unsupported(layer, "relu")
        signals = [self._as_spikes(signal) for signal in signals]
        if type(layer) in understood.ROUTES:
            return self._arranged(layer, signals)
        self._refuse_offsets(layer, signals[0])
        tensors = [self._complete(signal).tensor for signal in signals]
        data = type(layer) in understood.AFFINE and signals[0].data
        softmax = {"activation": "softmax"} if function.kind == "softmax" else {}
        copy = self._copy_of(layer, **softmax)
        signal = _Signal(copy(tensors if type(layer) in understood.MERGES else tensors[0]), data=data)
        return signal if softmax else self._apply(function, layer, signal, f"{layer.name}_activation")

    def _as_spikes(self, signal):
        """The signal behind the input's encoder, if it is the input itself."""
        if not signal.raw:
            return signal
        if id(signal.tensor) not in self.encoded:
            # The name that `model` has set aside.
            name = f"input_activation_{len(self.encoded)}" if self.encoded else "input_activation"
            encoder = TTFSActivation(**self.temporal_kernel_options, name=name)
            self.encoded[id(signal.tensor)] = signal.tensor, encoder(signal.tensor)
        return _Signal(self.encoded[id(signal.tensor)][1], spiking=True, data=True)

    def _apply(self, function, layer, signal, name):
        """What follows from an activation that a layer applies to a signal."""
        if function.kind == "linear":
            return signal
        policy = getattr(layer, "dtype_policy", None)
        if function.kind == "softmax":
            name = topology.unused_name(name, self.names)
            softmax = keras.layers.Activation("softmax", name=name, dtype=policy)
            return _Signal(softmax(self._complete(signal).tensor))
        self.relus += 1
        name, options = topology.unused_name(name, self.names), dict(self.temporal_kernel_options)
        if function.max_value is not None:
            self.limits[name] = function.max_value
            options |= {} if self.calibrates else {"z_max_0": function.max_value}
        activation = TTFSActivation(**options, name=name, dtype=policy)
        before, after = (signal.pooled, ()) if signal.windowed else ((), signal.pooled)
        tensor = _applied(before, signal.tensor)
        if not after and self._waits_for_pooling(layer, signal):
            return _Signal(tensor, activation=activation)
        return _Signal(_applied((activation, *after), tensor), spiking=True)

    def _waits_for_pooling(self, layer, signal):
        """Whether a ReLU gives its potentials to one max pooling, which is to stand in front of the activation."""
        if self.pooling != "potential" or signal.spiking or signal.data:
            return False
        taken, given = self.taken[self.calls], self.given[self.calls]
        alone = not understood.is_activation(layer) or taken.all_takers == [layer]
        return alone and len(given.takers) == 1 and _are_maxima(given.takers)

    def _makes_windows(self, signal):
        """Whether a max pooling in front of a ReLU stays there: nothing but max pooling takes the potentials."""
        potentials = self.taken[self.calls]
        return self.pooling != "spikes" and not signal.data and _are_maxima(potentials.all_takers)

    def _arranged(self, layer, signals):
        """What a layer that does not compute on numbers makes of signals."""
        copy, signal = self._copy_of(layer), signals[0]
        if type(layer) is keras.layers.Concatenate:
            signals = [self._complete(signal) for signal in signals]
            spiking, data = (all(getattr(signal, name) for signal in signals) for name in ("spiking", "data"))
            return _Signal(copy([signal.tensor for signal in signals]), spiking, data=data)
        if signal.activation:
            return _Signal(_applied((copy, signal.activation), signal.tensor), spiking=True)
        waits = signal.pooled or (type(layer) in understood.MAXIMA and not signal.spiking)
        if not waits:
            return dataclasses.replace(signal, tensor=copy(signal.tensor))
        pooled = (*signal.pooled, copy)
        if signal.pooled:
            return dataclasses.replace(signal, pooled=pooled)
        return dataclasses.replace(signal, pooled=pooled, pooling=layer, windowed=self._makes_windows(signal))

    def _complete(self, signal):
        if signal.pooled:
            raise understood.refusal("max pooling behind or in front of a ReLU", signal.pooling, "elsewhere")
        return signal

    def _refuse_offsets(self, layer, signal):
        if type(layer) in understood.AFFINE and not (signal.data or calibration.scales_only(layer)):
            raise understood.refusal(
                f"{type(layer).__name__} in front of the first weights", layer, "behind weights or neurons"
            )

    def _copy_of(self, layer, **options):
        if id(layer) not in self.copies:
            name = topology.unused_name(layer.name, self.names)
            copy = _training_copy(layer, name=name, **options)
            self.copies[id(layer)] = layer, copy
        return self.copies[id(layer)][1]


def _applied(layers, tensor):
    for layer in layers:
        tensor = layer(tensor)
    return tensor


def _stays_raw(layer, signal):
    """Whether a Rescaling stands in front of the input's encoder."""
    if not (signal.raw and type(layer) is keras.layers.Rescaling and calibration.scales_only(layer)):
        return False
    scale = np.asarray(layer.scale)
    return bool((scale > 0).all() and (scale <= 1).all())


def _training_copy(layer, **options):
    if type(layer) in understood.NORMS:
        # Always with scale and shift, because calibration needs both.
        return copies.trainable_copy(layer, kind=TKBatchNorm, scale=True, center=True, **options)
    return copies.trainable_copy(layer, **options)


def _copy_weights(layer, copy):
    if isinstance(copy, TKBatchNorm):
        for name, without in (("gamma", 1.0), ("beta", 0.0), ("moving_mean", 0.0), ("moving_variance", 1.0)):
            weight, source = getattr(copy, name), getattr(layer, name, None)
            weight.assign(np.full(weight.shape, without) if source is None else source)
    elif type(layer) in understood.WEIGHTED:
        kernels, bias = copies.weights_of(layer)
        copy.set_weights([*kernels, *([] if bias is None else [bias])])
