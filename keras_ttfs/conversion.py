"""Turns a trained Keras ReLU model into a TTFS model, and reports what the spikes lose of its activations.

`model = convert(relu_model, time_window=32, data=training_images[:500])` is ready to be trained, saved and simulated:
`SpikingNetwork.from_model(model).run(images)`. `print(quantization_report(model, training_images[:500]))` shows layer
by layer which share of the activations is pruned, quantised and clipped.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import checks, temporal_kernel, topology
from keras_ttfs.layers import TKBatchNorm, TTFSActivation, TTFSEncode
from keras_ttfs.models import TTFSModel
from keras_ttfs.snn import reader

# The paper's tau_0 = 10 at T = 32: the smallest level stays at 4.5 % of the largest.
STEPS_PER_TAU = 3.2
# Calibration looks at this many activations of each layer, and at scales down to 1/16 of the largest one.
SAMPLED_ACTIVATIONS = 1 << 17
SCALES = 2.0 ** -np.arange(0, 4.01, 0.125)
INPUT_CODINGS = ("ttfs", "analog")


@dataclasses.dataclass(frozen=True)
class LayerQuantization:
    """What one TTFS layer does to its pre-activations z: shares in the regions of Fig. 7, and mean errors.

    Attributes:
        layer: name of the layer.
        silent: share of z <= 0, which ReLU sets to 0 as well [1].
        pruned: share of z > 0 below the smallest threshold: no spike [1].
        quantised: share of z that fire and are not above `z_max` [1].
        clipped: share of z above `z_max` [1].
        maximum_error, minimum_error, precision_error: means of Eqs. 10-12 over z > 0 [1].
    """

    layer: str
    silent: float
    pruned: float
    quantised: float
    clipped: float
    maximum_error: float
    minimum_error: float
    precision_error: float


class QuantizationReport(list):
    """List of LayerQuantization; prints as a table."""

    def __str__(self) -> str:
        names = [field.name for field in dataclasses.fields(LayerQuantization)]
        lines = [f"{names[0]:<28}" + "".join(f"{name.replace('_error', ' err'):>15}" for name in names[1:])]
        for row in self:
            lines.append(f"{row.layer:<28}" + "".join(f"{getattr(row, name):15.4f}" for name in names[1:]))
        return "\n".join(lines)


def convert(
    keras_model: keras.Model,
    *,
    time_window: int = 32,
    tau_0: float | None = None,
    z_max_0: float = 1.0,
    rounding: str = "ceil",
    input_coding: str = "ttfs",
    data: Any = None,
    calibrate: bool = True,
    batch_size: int = 100,
    **model_options: Any,
) -> TTFSModel:
    """Turns a trained ReLU model into a TTFSModel: ReLU -> TTFSActivation, BatchNormalization -> TKBatchNorm.

    Weights are copied. Calibration on `data` gives each layer two scales: its pre-activations are divided by s, so that
    they fit [z_min, z_max], and the next layer takes its levels times g. The scales minimise the squared error
    `(relu(z) - g * z_hat(z / s))**2` and are folded into weights, batch normalisation and biases. Layers that meet in
    Add or Concatenate share their scales. The model is ready to be trained, simulated and saved.

    >>> relu = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(2)])
    >>> model = convert(relu, time_window=16, data=np.random.default_rng(0).uniform(size=(8, 4)))
    >>> [encoder.name for encoder in model.encoders][1:] == [f"{relu.layers[0].name}_activation"]
    True

    Args:
        keras_model: Functional or built Sequential model of the layers that `SpikingNetwork.from_model` takes, with
            ReLU (a layer, `Activation("relu")` or a layer's `activation`) in the place of TTFSActivation.
        time_window: int >= 1: T of every layer [steps].
        tau_0: float > 0: time constant [steps]. None: `time_window / 3.2`, which is the paper's 10 for T = 32.
        z_max_0: float > 0: largest level [1].
        rounding: `"ceil"` or `"nearest"`.
        input_coding: `"ttfs"` encodes the input, which must be intensities in [0, 1]; `"analog"` injects it as it is.
        data: array `(samples, ...)` of inputs for calibration [1]; some hundreds do. None: nothing is calibrated.
        calibrate: bool: whether to calibrate if there is `data`.
        batch_size: int >= 1: samples of `data` at a time.
        **model_options: of TTFSModel: `lambda_tr`, `lambda_tb`, `name`.

    Returns:
        The TTFSModel.

    Raises:
        ValueError: "Expected ReLU activations. Received: ..." naming the layer, for data out of [0, 1] with
            `input_coding="ttfs"`, and for layers that `SpikingNetwork.from_model` refuses.

    Reference: Fig. 7; Eqs. 10-12.
    """
    checks.one_of("input_coding", input_coding, INPUT_CODINGS)
    checks.batch(batch_size)
    if data is not None:
        data = checked_data(data, input_coding)
    tau_0 = time_window / STEPS_PER_TAU if tau_0 is None else tau_0
    temporal_kernel_options = {"time_window": time_window, "tau_0": tau_0, "z_max_0": z_max_0, "rounding": rounding}
    model = _Rebuilder(keras_model, temporal_kernel_options, input_coding).model(model_options)
    reader.read(model)
    if data is not None and calibrate:
        _calibrate(model, data, batch_size)
    return model


def checked_data(data: Any, input_coding: str = "ttfs") -> np.ndarray:
    """`data` as an array, if an encoder of `input_coding` can take it.

    Raises:
        ValueError: "Expected data of intensities in [0, 1] ... Received: ...".
    """
    data = np.asarray(data)
    if not len(data) or (input_coding == "ttfs" and not (data.min() >= 0 and data.max() <= 1)):
        raise ValueError(
            f"Expected data of intensities in [0, 1] for input_coding='ttfs'. Received: shape {data.shape}"
            + (f", values in [{data.min()}, {data.max()}]" if len(data) else "")
        )
    return data


def quantization_report(model: keras.Model, data: Any, *, batch_size: int = 100) -> QuantizationReport:
    """What each TTFS layer of a model loses: shares of silent, pruned, quantised and clipped z, and mean errors.

    >>> model = keras.Sequential([keras.Input((4,)), TTFSActivation(name="in"), keras.layers.Dense(2)])
    >>> (row,) = quantization_report(model, np.array([[1.5, 0.5, 0.01, 0.0]]))
    >>> row.layer, row.clipped, row.quantised, row.pruned, row.silent
    ('in', 0.25, 0.25, 0.25, 0.25)

    Args:
        model: Functional or Sequential model with TTFSActivation or TTFSEncode layers.
        data: array `(samples, ...)` of inputs [1].
        batch_size: int >= 1: samples at a time.

    Returns:
        A QuantizationReport, one LayerQuantization for each layer, over all its calls.

    Raises:
        ValueError: "Expected batch_size to be an integer >= 1 ...", or for a model that is no graph of layers.

    Reference: Fig. 7; Eqs. 10-12.
    """
    checks.batch(batch_size)
    sums: dict = {}

    def add(layer, z):
        sums[layer] = sums.get(layer, 0) + _regions(z, layer).numpy()

    _pass_through(model, data, batch_size, add)
    rows, names = QuantizationReport(), topology.labels(sums)
    for layer, (count, silent, pruned, quantised, clipped, *errors) in sums.items():
        active = max(1.0, count - silent)
        shares = [float(value / count) for value in (silent, pruned, quantised, clipped)]
        rows.append(LayerQuantization(names[layer], *shares, *(float(error / active) for error in errors)))
    return rows


def _regions(z, layer):
    """Sums over a batch: elements, silent, pruned, quantised, clipped, and the three errors where z > 0."""
    z = tf.cast(z, "float64")
    kernel = tf.cast(layer.tau, "float64"), tf.cast(layer.t_d, "float64")
    spike_time = temporal_kernel.encode(z, *kernel, layer.time_window, rounding=layer.rounding)
    fires = spike_time < layer.time_window
    clipped = z > temporal_kernel.z_max(*kernel)
    active = z > 0
    masks = [tf.ones_like(active), ~active, active & ~fires, fires & ~clipped, clipped]
    errors = [
        temporal_kernel.maximum_error(z, *kernel),
        temporal_kernel.minimum_error(z, *kernel, layer.time_window),
        temporal_kernel.precision_error(z, *kernel, layer.time_window, rounding=layer.rounding),
    ]
    sums = [tf.reduce_sum(tf.cast(mask, "float64")) for mask in masks]
    return tf.stack(sums + [tf.reduce_sum(tf.where(active, error, tf.zeros_like(z))) for error in errors])


def _pass_through(model, x, batch_size, observe, activation=None):
    """Evaluates a model on x in batches and calls `observe(layer, z)` with what enters each encoder.

    If `activation` is given, `activation(z)` stands for every encoder.
    """

    def visit(layer, *args, **kwargs):
        if isinstance(layer, TTFSEncode):
            observe(layer, args[0])
            if activation:
                return activation(args[0])
        elif topology.layers_of(layer, TTFSEncode):
            raise reader.unsupported(layer, "ttfs")
        return layer(*args, **kwargs)

    for first in range(0, len(x), batch_size):
        topology.walk(model, [tf.convert_to_tensor(x[first : first + batch_size], model.inputs[0].dtype)], visit)


class _Rebuilder:
    """Builds the TTFS model of a ReLU model, layer by layer."""

    def __init__(self, source, temporal_kernel_options, input_coding):
        self.source = source
        self.temporal_kernel_options = temporal_kernel_options
        self.input_coding = input_coding
        self.copies = {}
        self.names = set()

    def model(self, options):
        if any(len(getattr(self.source, ends, None) or []) != 1 for ends in ("inputs", "outputs")):
            raise ValueError(
                "Expected a Functional or built Sequential model with one input and one output. "
                f"Received: {type(self.source).__name__} {self.source.name!r}"
            )
        inputs = keras.Input(self.source.inputs[0].shape[1:], dtype=self.source.inputs[0].dtype)
        x = self._activation("input_activation", None)(inputs) if self.input_coding == "ttfs" else inputs
        outputs = topology.walk(self.source, [x], self._visit)
        model = TTFSModel(inputs, keras.tree.flatten(outputs)[0], **{"name": self.source.name, **options})
        for layer, copy in self.copies.values():
            _copy_weights(layer, copy)
        return model

    def _visit(self, layer, *args, **kwargs):
        if isinstance(layer, keras.layers.InputLayer):
            return args[0]
        if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
            raise reader.unsupported(layer, "relu")
        if reader.is_relu(layer):
            return self._activation(layer.name, layer.dtype_policy)(args[0])
        if isinstance(layer, keras.layers.Activation) and reader.activation_of(layer) not in (None, "softmax"):
            raise reader.not_relu(layer)
        own = reader.activation_of(layer) if isinstance(layer, reader.WEIGHTED) else None
        if own not in (None, "relu", "softmax"):
            raise reader.not_relu(layer)
        y = self._copy_of(layer, own)(*args)
        return self._activation(f"{layer.name}_activation", layer.dtype_policy)(y) if own == "relu" else y

    def _activation(self, name, policy):
        name = topology.unused_name(name, self.names)
        return TTFSActivation(**self.temporal_kernel_options, name=name, dtype=policy)

    def _copy_of(self, layer, own_activation):
        if id(layer) not in self.copies:
            config = {**layer.get_config(), "name": topology.unused_name(layer.name, self.names)}
            kind = type(layer)
            if own_activation == "relu":
                config["activation"] = "linear"
            if kind in reader.NORMS:
                # Always with scale and shift, because calibration needs both.
                kind, config = TKBatchNorm, {**config, "scale": True, "center": True}
            self.copies[id(layer)] = layer, kind.from_config(config)
        return self.copies[id(layer)][1]


def _copy_weights(layer, copy):
    if isinstance(copy, TKBatchNorm):
        for name, without in (("gamma", 1.0), ("beta", 0.0), ("moving_mean", 0.0), ("moving_variance", 1.0)):
            weight, source = getattr(copy, name), getattr(layer, name, None)
            weight.assign(np.full(weight.shape, without) if source is None else source)
    else:
        copy.set_weights(layer.get_weights())


class _SharedScale:
    """The activation of the source model that 1 stands for in the converted model. Signals may share one."""

    def __init__(self, value=None):
        self.parent = None
        self.value = value

    def root(self):
        return self if self.parent is None else self.parent.root()

    def join(self, other):
        mine, theirs = self.root(), other.root()
        if mine is not theirs:
            theirs.parent = mine
            mine.value = theirs.value if mine.value is None else mine.value

    def is_shared_with(self, other):
        return self.root() is other.root()


@dataclasses.dataclass(frozen=True)
class _ScaledCall:
    """One call of an encoder, or one layer with weights, with the scales of what enters and of what leaves."""

    layer: keras.layers.Layer
    before: _SharedScale
    after: _SharedScale


def _calibrate(model, data, batch_size):
    """Chooses the scales and folds them into the weights of `model`."""
    encoders, weighted = _shared_scales(model)
    activations = sampled_activations(model, data, batch_size)
    for call in encoders:
        scale = call.before.root()
        if scale.value is None:
            members = [other for other in encoders if other.before.is_shared_with(scale)]
            scale.value = _best_scale(
                [(own.layer, activations[own.layer.name], own.after.is_shared_with(scale)) for own in members]
            )
    for call in encoders:
        if call.after.root().value is None:
            members = [other for other in encoders if other.after.is_shared_with(call.after)]
            pairs = [(other.layer, activations[other.layer.name]) for other in members]
            call.after.root().value = _decoding_gain(pairs, call.before.root().value)
    _fold_all(weighted)


def normalize(model: keras.Model, scales: dict[str, float]) -> dict[str, float]:
    """Measures every layer's activations in units of its own, by folding the units into the weights.

    Args:
        model: Functional or Sequential TTFS model; changed in place.
        scales: `{encoder: activation that becomes 1}` [1]. Layers that meet in Add or Concatenate share the largest of
            their scales. The scale of the input is 1.

    Returns:
        `{encoder: the activation that became 1}`.
    """
    encoders, weighted = _shared_scales(model)
    for call in encoders:
        call.before.join(call.after)
    for call in encoders:
        scale = call.before.root()
        if scale.value is None:
            scale.value = max(scales[other.layer.name] for other in encoders if other.before.is_shared_with(scale))
    _fold_all(weighted)
    return {call.layer.name: call.before.root().value for call in encoders}


def _shared_scales(model):
    """`(calls of encoders, layers with weights)` of a model, each a _ScaledCall."""
    encoders: list = []
    weighted: dict = {}

    def visit(layer, *args, **kwargs):
        scales = [value for value in keras.tree.flatten(args) if isinstance(value, _SharedScale)]
        if isinstance(layer, TTFSEncode):
            encoders.append(_ScaledCall(layer, scales[0], _SharedScale()))
            return encoders[-1].after
        if layer.weights:
            if layer in weighted:
                weighted[layer].before.join(scales[0])
            else:
                weighted[layer] = _ScaledCall(layer, scales[0], _SharedScale())
            return weighted[layer].after
        for scale in scales[1:]:
            scales[0].join(scale)
        return scales[0]

    (output,) = keras.tree.flatten(topology.walk(model, [_SharedScale(1.0)], visit))
    output.join(_SharedScale(1.0))
    output.root().value = 1.0
    _join_where_levels_meet(encoders)
    return encoders, list(weighted.values())


def _join_where_levels_meet(encoders):
    """Joins the scales that one choice must serve, because levels that meet other levels must have their unit."""
    changed = True
    while changed:
        changed = False
        for call in encoders:
            for other in encoders:
                meets = call.after.is_shared_with(other.before) or call.after.root().value is not None
                shares = call.after.is_shared_with(other.after)
                partner = call.after if meets else other.before if shares else None
                if partner is not None and not partner.is_shared_with(call.before):
                    call.before.join(partner)
                    changed = True


def _fold_all(weighted):
    for call in weighted:
        _fold(call.layer, call.before.root().value or 1.0, call.after.root().value or 1.0)


def sampled_activations(model: keras.Model, data: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """`{encoder: sample of its positive pre-activations}` of the model with ReLU in the place of every encoder."""
    found: dict = {}
    rng = np.random.default_rng(0)
    most = -(-SAMPLED_ACTIVATIONS // -(-len(data) // batch_size))

    def sample(layer, z):
        flat = np.asarray(tf.cast(z, "float32")).ravel()
        # At random, because a fixed stride would meet the same channels again and again.
        flat = flat if len(flat) <= most else flat[rng.integers(len(flat), size=most)]
        found.setdefault(layer.name, []).append(flat[flat > 0])

    _pass_through(model, data, batch_size, sample, tf.nn.relu)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _levels(layer, z):
    """Decoded levels of pre-activations, in float64."""
    kernel = tf.cast(layer.tau, "float64"), tf.cast(layer.t_d, "float64")
    return temporal_kernel.quantize(tf.cast(z, "float64"), *kernel, layer.time_window, rounding=layer.rounding).numpy()


def _decoding_gain(members, scale):
    """The g that minimises `(z - g * z_hat(z / scale))**2` over `[(layer, z), ...]`."""
    levels = [_levels(layer, z / scale) for layer, z in members]
    square = sum(float((z_hat**2).sum()) for z_hat in levels)
    return sum(float((z * z_hat).sum()) for (_, z), z_hat in zip(members, levels)) / square if square else scale


def _best_scale(members):
    """The scale s of least squared error, for layers that share it: `[(layer, z, whether g must be s), ...]`."""
    largest = max((float(z.max()) for _, z, _ in members if len(z)), default=1.0)

    def error(scale):
        total = 0.0
        for layer, z, tied in members:
            gain = scale if tied else _decoding_gain([(layer, z)], scale)
            total += float(((z - gain * _levels(layer, z / scale)) ** 2).sum())
        return total

    return min((largest * float(scale) for scale in SCALES), key=error)


def _fold(layer, before, after):
    """Makes a layer take inputs in units of `before` and give outputs in units of `after`."""
    if isinstance(layer, keras.layers.BatchNormalization):
        mean, variance = np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)
        narrower = variance / before**2
        gain = before * np.sqrt(narrower + layer.epsilon) / np.sqrt(variance + layer.epsilon)
        layer.moving_mean.assign(mean / before)
        layer.moving_variance.assign(narrower)
        layer.gamma.assign(np.asarray(layer.gamma) * gain / after)
        layer.beta.assign(np.asarray(layer.beta) / after)
        return
    kernel = layer.pointwise_kernel if isinstance(layer, keras.layers.SeparableConv2D) else layer.kernel
    kernel.assign(np.asarray(kernel) * (before / after))
    if layer.bias is not None:
        layer.bias.assign(np.asarray(layer.bias) / after)
