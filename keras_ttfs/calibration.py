"""Chooses the scales of a converted model, so that its activations fit the levels, and folds them into its weights.

`conversion.convert` and `t2fsnn.convert_t2fsnn` call it on the model that they have built.
"""

import dataclasses
import math
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import temporal_kernel, topology
from keras_ttfs.layers import TTFSEncode
from keras_ttfs.snn import understood

# Scales down to 1/16 of the largest activation are tried.
SCALES = 2.0 ** -np.arange(0, 4.01, 0.125)


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


def calibrate(model: keras.Model, activations: Mapping[str, np.ndarray], limits: Mapping[str, float]) -> None:
    """Chooses the scales and folds them into the weights of `model`.

    Args:
        model: Functional TTFS model; changed in place.
        activations: `{encoder: sample of its positive activations}` [1].
        limits: `{encoder: activation at which the ReLU model cuts off}` [1]. The largest level of such an encoder, times
            its scale, is that number.
    """
    encoders, weighted = _shared_scales(model)
    for call in encoders:
        scale = call.before.root()
        if scale.value is None:
            members = [other for other in encoders if other.before.is_shared_with(scale)]
            most = {limits.get(other.layer.name) for other in members}
            (limit,) = most if len(most) == 1 else (None,)
            scale.value = (
                _best_scale(
                    [(own.layer, activations[own.layer.name], own.after.is_shared_with(scale)) for own in members]
                )
                if limit is None
                else limit / float(call.layer.z_max)
            )
    for call in encoders:
        if call.layer.name in limits:
            _cut_off(call.layer, limits[call.layer.name] / call.before.root().value)
    for call in encoders:
        if call.after.root().value is None:
            members = [other for other in encoders if other.after.is_shared_with(call.after)]
            pairs = [(other.layer, activations[other.layer.name]) for other in members]
            call.after.root().value = _decoding_gain(pairs, call.before.root().value)
    _fold_all(weighted)


def _cut_off(encoder, largest):
    """Makes a number the encoder's largest level."""
    encoder.t_d_0 = float(np.asarray(encoder.tau)) * math.log(largest)
    encoder.t_d.assign(encoder.t_d_0)


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
        if type(layer) in understood.AFFINE and not scales_only(layer):
            # Its numbers have the unit of the data.
            scales[0].join(_SharedScale(1.0))
            return _SharedScale(1.0)
        if type(layer) in {**understood.WEIGHTED, **understood.NORMS}:
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


def scales_only(layer: keras.layers.Layer) -> bool:
    """Whether a layer of `understood.AFFINE` adds nothing."""
    return type(layer) is keras.layers.Rescaling and not np.any(layer.offset)


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
    kernel = layer.pointwise_kernel if type(layer) in understood.SEPARABLE else layer.kernel
    kernel.assign(np.asarray(kernel) * (before / after))
    if layer.bias is not None:
        layer.bias.assign(np.asarray(layer.bias) / after)
