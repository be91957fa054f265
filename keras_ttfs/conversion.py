"""Turns a trained Keras ReLU model into a TTFS model, and reports what the spikes lose of its activations."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import temporal_kernel, topology
from keras_ttfs.layers import TKBatchNorm, TTFSActivation, TTFSEncode
from keras_ttfs.models import TTFSModel
from keras_ttfs.snn import graph
from keras_ttfs.snn.network import check_batch_size

# The paper's tau_0 = 10 at T = 32: the smallest level stays at 4.5 % of the largest.
STEPS_PER_TAU = 3.2
# Calibration looks at this many activations of each layer, and at scales down to 1/16 of the largest one.
SAMPLED_ACTIVATIONS = 1 << 17
SCALES = 2.0 ** -np.arange(0, 4.01, 0.125)


@dataclasses.dataclass
class LayerCoding:
    """What one TTFS layer does to its pre-activations: shares of them in the regions of Fig. 7, and mean errors.

    Attributes:
        layer: name.
        scale: by which calibration divided the pre-activations [1].
        silent: share with z <= 0, which ReLU sets to 0 as well.
        pruned: share with 0 < z below the smallest threshold: no spike.
        quantised: share that fires within the window's range.
        clipped: share above `z_max`.
        maximum_error, minimum_error, precision_error: means of Eqs. 10-12 over pre-activations z > 0 [1].
    """

    layer: str
    scale: float = 1.0
    silent: float = math.nan
    pruned: float = math.nan
    quantised: float = math.nan
    clipped: float = math.nan
    maximum_error: float = math.nan
    minimum_error: float = math.nan
    precision_error: float = math.nan


class CodingReport(list):
    """List of LayerCoding; prints as a table."""

    def __str__(self):
        names = [field.name for field in dataclasses.fields(LayerCoding)]
        lines = [f"{names[0]:<28}" + "".join(f"{name.replace('_error', ' err'):>15}" for name in names[1:])]
        for row in self:
            values = [getattr(row, name) for name in names[1:]]
            lines.append(f"{row.layer:<28}" + "".join("-".rjust(15) if math.isnan(v) else f"{v:15.4f}" for v in values))
        return "\n".join(lines)


def convert(
    keras_model,
    *,
    time_window=32,
    tau_0=None,
    z_max_0=1.0,
    rounding="ceil",
    input_coding="ttfs",
    data=None,
    calibrate=True,
    batch_size=100,
    **model_options,
):
    """Turns a trained ReLU model into a TTFSModel: `ReLU` -> TTFSActivation, BatchNormalization -> TKBatchNorm.

    Weights are copied. Calibration on `data` gives each layer a scale s, folded into weights, batch normalisation and
    biases, so that its activations fit [z_min, z_max], and a scale g by which the next layer takes its levels: s and g
    minimise the squared error `(relu(z) - g * z_hat(z / s))**2`. Layers that meet in Add or Concatenate share theirs. The
    model is ready for `compile` and `fit`, for `SpikingNetwork.from_model`, and to be saved.

    >>> relu = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(2)])
    >>> model, report = convert(relu, time_window=16, data=np.random.default_rng(0).uniform(size=(8, 4)))
    >>> [row.layer for row in report][1:] == [f"{relu.layers[0].name}_activation"]
    True

    Args:
        keras_model: Functional or built Sequential model of the layers that `SpikingNetwork.from_model` takes, with ReLU
            (as a layer, as `Activation("relu")` or as a layer's `activation`) in the place of TTFSActivation.
        time_window: int >= 1: T of every layer [steps].
        tau_0: float > 0: time constant [steps]; `time_window / 3.2` if None, the paper's 10 for T = 32.
        z_max_0: float > 0: largest level [1].
        rounding: `"ceil"` or `"nearest"`.
        input_coding: `"ttfs"` encodes the input, which must be intensities in [0, 1]; `"analog"` injects it as it is.
        data: array `(samples, ...)` of inputs for calibration and report [1]; some hundreds do.
        calibrate: bool: whether to calibrate where there is `data`.
        batch_size: int >= 1: samples of `data` at a time.
        **model_options: of TTFSModel: `lambda_tr`, `lambda_tb`, `name`.

    Returns:
        `(model, report)`: the TTFSModel and a CodingReport on `data` (of scales alone without `data`).

    Raises:
        ValueError: "Expected ReLU activations. Received: ..." naming the layer, and for whatever `from_model` refuses.

    Reference: Fig. 7; Eqs. 10-12.
    """
    if input_coding not in ("ttfs", "analog"):
        raise ValueError(f"Expected input_coding to be 'ttfs' or 'analog'. Received: input_coding={input_coding!r}")
    check_batch_size(batch_size)
    if data is not None:
        data = checked_data(data, input_coding)
    tau_0 = time_window / STEPS_PER_TAU if tau_0 is None else tau_0
    kernel = {"time_window": time_window, "tau_0": tau_0, "z_max_0": z_max_0, "rounding": rounding}
    model = _Rebuilder(keras_model, kernel, input_coding).model(model_options)
    graph.read(model)
    scales = _calibrate(model, data, batch_size) if data is not None and calibrate else {}
    if data is None:
        return model, CodingReport(LayerCoding(encoder.name) for encoder in model.encoders)
    report = coding_report(model, data, batch_size=batch_size)
    for row in report:
        row.scale = scales.get(row.layer, 1.0)
    return model, report


def checked_data(data, input_coding="ttfs"):
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


def coding_report(model, x, *, batch_size=100):
    """What each TTFS layer of a model loses on inputs `x`: shares of pruned, quantised and clipped pre-activations, errors.

    Args:
        model: Functional or Sequential model with TTFSActivation or TTFSEncode layers.
        x: array `(samples, ...)` [1].
        batch_size: int >= 1.

    Returns:
        A CodingReport, one LayerCoding for each layer; a layer that is called several times has one for all calls.

    Raises:
        ValueError: "Expected batch_size to be an integer >= 1 ...", or for a model that is no graph of layers.

    Reference: Fig. 7; Eqs. 10-12.
    """
    check_batch_size(batch_size)
    sums = {}

    def see(layer, z):
        sums[layer] = sums.get(layer, 0) + _regions(z, layer).numpy()

    _pass_through(model, x, batch_size, see)
    rows, names = CodingReport(), topology.labels(sums)
    for layer, (count, silent, pruned, quantised, clipped, *errors) in sums.items():
        active = max(1.0, count - silent)
        shares = [value / count for value in (silent, pruned, quantised, clipped)]
        rows.append(LayerCoding(names[layer], 1.0, *map(float, shares), *(float(error / active) for error in errors)))
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


def _pass_through(model, x, batch_size, see, replace=None):
    """Evaluates a model on x in batches; `see(layer, z)` gets what enters each encoder, `replace(z)` stands for it."""

    def visit(layer, *args, **kwargs):
        if isinstance(layer, TTFSEncode):
            see(layer, args[0])
            if replace:
                return replace(args[0])
        elif any(
            isinstance(inner, TTFSEncode) for inner in getattr(layer, "_flatten_layers", list)(include_self=False)
        ):
            raise graph.unsupported(layer, relu=False)
        return layer(*args, **kwargs)

    for first in range(0, len(x), batch_size):
        topology.walk(model, [tf.convert_to_tensor(x[first : first + batch_size], model.inputs[0].dtype)], visit)


class _Rebuilder:
    """Builds the TTFS model of a ReLU model, layer by layer."""

    def __init__(self, source, kernel, input_coding):
        self.source = source
        self.kernel = kernel
        self.input_coding = input_coding
        self.made = {}
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
        options.setdefault("name", self.source.name)
        model = TTFSModel(inputs, keras.tree.flatten(outputs)[0], **options)
        for layer, copy in self.made.values():
            _copy_weights(layer, copy)
        return model

    def _visit(self, layer, *args, **kwargs):
        if isinstance(layer, keras.layers.InputLayer):
            return args[0]
        if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
            raise graph.unsupported(layer, relu=True)
        if graph.is_relu(layer):
            return self._activation(layer.name, layer.dtype_policy)(args[0])
        if isinstance(layer, keras.layers.Activation) and graph.activation_of(layer) not in (None, "softmax"):
            raise graph.not_relu(layer)
        own = graph.activation_of(layer) if isinstance(layer, graph.WEIGHTED) else None
        if own not in (None, "relu", "softmax"):
            raise graph.not_relu(layer)
        y = self._copy(layer, own)(*args)
        return self._activation(f"{layer.name}_activation", layer.dtype_policy)(y) if own == "relu" else y

    def _activation(self, name, policy):
        return TTFSActivation(**self.kernel, name=topology.unused_name(name, self.names), dtype=policy)

    def _copy(self, layer, own):
        if id(layer) not in self.made:
            config = {**layer.get_config(), "name": topology.unused_name(layer.name, self.names)}
            kind = type(layer)
            if own == "relu":
                config["activation"] = "linear"
            if kind in graph.NORMS:
                # With scale and shift whatever the source has: calibration needs both.
                kind, config = TKBatchNorm, {**config, "scale": True, "center": True}
            self.made[id(layer)] = layer, kind.from_config(config)
        return self.made[id(layer)][1]


def _copy_weights(layer, copy):
    if isinstance(copy, TKBatchNorm):
        for name, without in (("gamma", 1.0), ("beta", 0.0), ("moving_mean", 0.0), ("moving_variance", 1.0)):
            weight, source = getattr(copy, name), getattr(layer, name, None)
            weight.assign(np.full(weight.shape, without) if source is None else source)
    else:
        copy.set_weights(layer.get_weights())


class _Unit:
    """The unit of a signal in the converted model: what 1 stands for in the source model. Signals may share one."""

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


def _calibrate(model, data, batch_size):
    """Chooses the units, folds them into the weights of `model`; returns `{layer: scale of its pre-activations}`."""
    encoders, scaled = _units(model)
    activations = sampled_activations(model, data, batch_size)
    for _, _, unit, _ in encoders:
        unit = unit.root()
        if unit.value is None:
            own = [entry for entry in encoders if entry[2].root() is unit]
            unit.value = _best_scale(
                [(layer, activations[name], after.root() is unit) for name, layer, _, after in own]
            )
    for _, _, before, after in encoders:
        if after.root().value is None:
            own = [(layer, activations[name]) for name, layer, _, other in encoders if other.root() is after.root()]
            after.root().value = _decoding_gain(own, before.root().value)
    for layer, before, after in scaled:
        _fold(layer, before.root().value or 1.0, after.root().value or 1.0)
    return {name: before.root().value for name, _, before, _ in encoders}


def normalize(model, scales):
    """Measures every layer's activations in units of its own, by folding the units into the weights.

    Args:
        model: Functional or Sequential TTFS model; changed in place.
        scales: `{encoder: activation that becomes 1}` [1]. Layers that meet in Add or Concatenate share the largest of
            theirs; the input's is 1.

    Returns:
        `{encoder: the activation that became 1}`.
    """
    encoders, scaled = _units(model)
    for _, _, before, after in encoders:
        before.join(after)
    for _, _, unit, _ in encoders:
        if unit.root().value is None:
            unit.root().value = max(scales[name] for name, _, other, _ in encoders if other.root() is unit.root())
    for layer, before, after in scaled:
        _fold(layer, before.root().value or 1.0, after.root().value or 1.0)
    return {name: unit.root().value for name, _, unit, _ in encoders}


def _units(model):
    """`([(name, encoder, unit before, unit after)], [(layer with weights, unit before, unit after)])`."""
    encoders, scaled = [], {}

    def visit(layer, *args, **kwargs):
        units = [value for value in keras.tree.flatten(args) if isinstance(value, _Unit)]
        if isinstance(layer, TTFSEncode):
            encoders.append((layer.name, layer, units[0], _Unit()))
            return encoders[-1][3]
        if layer.weights:
            if layer in scaled:
                scaled[layer][0].join(units[0])
            else:
                scaled[layer] = units[0], _Unit()
            return scaled[layer][1]
        for unit in units[1:]:
            units[0].join(unit)
        return units[0]

    (output,) = keras.tree.flatten(topology.walk(model, [_Unit(1.0)], visit))
    output.join(_Unit(1.0))
    output.root().value = 1.0
    _tie(encoders)
    return encoders, [(layer, before, after) for layer, (before, after) in scaled.items()]


def _tie(encoders):
    """Joins the units that one choice must serve: a layer whose levels meet others cannot choose their unit freely."""
    changed = True
    while changed:
        changed = False
        for _, _, before, after in encoders:
            for _, _, other_before, other_after in encoders:
                meets = after.root() is other_before.root() or after.root().value is not None
                partner = after if meets else other_before if after.root() is other_after.root() else None
                if partner is not None and partner.root() is not before.root():
                    before.join(partner)
                    changed = True


def sampled_activations(model, data, batch_size):
    """`{encoder: positive pre-activations}` of the model with ReLU in the place of every encoder, a sample of them."""
    found, rng = {}, np.random.default_rng(0)
    most = -(-SAMPLED_ACTIVATIONS // -(-len(data) // batch_size))

    def see(layer, z):
        flat = np.asarray(tf.cast(z, "float32")).ravel()
        # At random: a fixed stride would meet the same channels again and again.
        flat = flat if len(flat) <= most else flat[rng.integers(len(flat), size=most)]
        found.setdefault(layer.name, []).append(flat[flat > 0])

    _pass_through(model, data, batch_size, see, tf.nn.relu)
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
