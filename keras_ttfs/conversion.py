"""Turns a trained Keras ReLU model into a TTFS model, and reports what the spikes lose of its activations.

`model = convert(relu_model, time_window=32, data=training_images[:500])` is ready to be trained, saved and simulated:
`SpikingNetwork.from_model(model).run(images)`. `print(quantization_report(model, training_images[:500]))` shows layer
by layer which share of the activations is pruned, quantised and clipped.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import calibration, checks, rebuilding, temporal_kernel, topology
from keras_ttfs.layers import TTFSEncode
from keras_ttfs.models import TTFSModel
from keras_ttfs.snn import reader, understood
from keras_ttfs.snn.nodes import Node, TTFSPopulation, encodes_input, populations_of
from keras_ttfs.snn.samples import before_weights, samples

# The paper's tau_0 = 10 at T = 32: the smallest level stays at 4.5 % of the largest.
STEPS_PER_TAU = 3.2
# Calibration looks at this many activations of each layer.
SAMPLED_ACTIVATIONS = 1 << 17
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


@checks.known_keywords
def convert(
    keras_model: keras.Model,
    *,
    time_window: int = 32,
    tau_0: float | None = None,
    z_max_0: float = 1.0,
    base: int | None = None,
    steps_per_octave: int | None = None,
    rounding: str = "ceil",
    input_coding: str = "ttfs",
    pooling: str | None = None,
    data: Any = None,
    calibrate: bool = True,
    batch_size: int = 100,
    lambda_tr: float = 1e-5,
    lambda_tb: float = 1e-5,
    name: str | None = None,
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
            ReLU (a layer, `Activation("relu")`, a function or a layer's `activation`) in the place of TTFSActivation. A
            ReLU may be cut off (ReLU6): the largest level is then exactly there.
        time_window: int >= 1: T of every layer [steps].
        tau_0: float > 0: time constant [steps]. None: `time_window / 3.2`, which is the paper's 10 for T = 32.
        z_max_0: float > 0: largest level [1].
        base, steps_per_octave: as `TTFSActivation`; with base 2 and without steps_per_octave, the integer whose tau is
            nearest to that of `tau_0=None`.
        rounding: `"ceil"` or `"nearest"`.
        input_coding: `"ttfs"` encodes the input, which must be intensities in [0, 1]; `"analog"` injects it as it is.
            The encoder stands in front of all layers but random augmentation and a Rescaling without offset by at most 1:
            so images in 0..255 in front of `Rescaling(1 / 255)` are encoded behind it.
        pooling: `"spikes"` puts every max pooling behind the activation, `"potential"` in front of it, where it makes
            winner-take-all windows: fewer neurons and spikes. None: the order of the ReLU model. Both orders give the same
            values without calibration. Calibration looks at what enters the activation. `"potential"` moves a max pooling
            that directly follows a ReLU, if nothing else takes what the ReLU takes or gives. Max pooling of what other
            layers take as well, or of the input, is always behind the activation.
        data: array `(samples, ...)` of inputs for calibration [1]; some hundreds do; or a data set, generator or list of
            batches, see `snn.samples`. None: nothing is calibrated.
        calibrate: bool: whether to calibrate if there is `data`.
        batch_size: int >= 1: samples of `data` at a time.
        lambda_tr, lambda_tb: float >= 0: of TTFSModel.
        name: str: of the TTFSModel. None: that of the ReLU model.

    Returns:
        The TTFSModel.

    Raises:
        ValueError: "Expected ReLU activations. Received: ..." naming the layer, for data out of [0, 1] with
            `input_coding="ttfs"`, and for layers that `SpikingNetwork.from_model` refuses.

    Reference: Fig. 7; Eqs. 10-12.
    """
    checks.one_of("input_coding", input_coding, INPUT_CODINGS)
    checks.one_of("pooling", pooling, rebuilding.POOLING)
    checks.one_of("calibrate", calibrate, (True, False))
    checks.batch(batch_size)
    temporal_kernel.check_time_window(time_window)
    understood.check_model(keras_model, "relu")
    if data is not None:
        data = samples("data", data, tuple(keras_model.inputs[0].shape[1:]))
    options = {"time_window": time_window, "z_max_0": z_max_0, "rounding": rounding}
    options |= _kernel_options(time_window, tau_0, base, steps_per_octave)
    calibrates = data is not None and bool(calibrate)
    rebuilder = rebuilding.Rebuilder(keras_model, options, input_coding, calibrates, pooling)
    model = rebuilder.model({"name": name or keras_model.name, "lambda_tr": lambda_tr, "lambda_tb": lambda_tb})
    if base is not None and rebuilder.limits:
        raise ValueError(
            "Expected ReLUs without an upper limit with base=2, whose largest levels are powers of 2. "
            f"Received: {keras_model.name!r} with ReLU6, or ReLU(max_value=)"
        )
    nodes, _ = reader.read(model)
    if data is not None:
        check_intensities(nodes, data)
    if calibrates:
        activations = sampled_activations(model, data, batch_size, rebuilder.limits)
        calibration.calibrate(model, activations, rebuilder.limits)
    return model


def _kernel_options(time_window, tau_0, base, steps_per_octave):
    """The options of a TTFSActivation that say how fast its threshold falls."""
    usual = time_window / STEPS_PER_TAU
    if base is None:
        return {"tau_0": usual if tau_0 is None else tau_0, "steps_per_octave": steps_per_octave}
    if tau_0 is not None:
        raise ValueError(f"Expected no tau_0 with base={base!r}. Received: tau_0={tau_0!r}")
    own = max(1, round(usual * math.log(2.0))) if steps_per_octave is None else steps_per_octave
    return {"base": base, "steps_per_octave": own}


def check_intensities(nodes: list[Node], data: np.ndarray) -> None:
    """Refuses data that are no intensities in [0, 1] where a population encodes the input.

    Raises:
        ValueError: "Expected data of intensities in [0, 1] ... Received: ...".
    """
    for population in populations_of(nodes, TTFSPopulation):
        values = before_weights(data, population.inputs[0]) if encodes_input(population) else None
        if values is not None and not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(
                "Expected data of intensities in [0, 1] for input_coding='ttfs', behind leading Rescaling layers without "
                f"offset. Received: shape {data.shape}, values in [{values.min()}, {values.max()}]"
            )


@checks.known_keywords
def quantization_report(model: keras.Model, data: Any, *, batch_size: int = 100) -> QuantizationReport:
    """What each TTFS layer of a model loses: shares of silent, pruned, quantised and clipped z, and mean errors.

    >>> model = keras.Sequential([keras.Input((4,)), TTFSActivation(name="in"), keras.layers.Dense(2)])
    >>> (row,) = quantization_report(model, np.array([[1.5, 0.5, 0.01, 0.0]]))
    >>> row.layer, row.clipped, row.quantised, row.pruned, row.silent
    ('in', 0.25, 0.25, 0.25, 0.25)

    Args:
        model: Functional or Sequential model with TTFSActivation or TTFSEncode layers.
        data: array `(samples, ...)` of inputs, finite [1]; or a data set, generator or list of batches.
        batch_size: int >= 1: samples at a time.

    Returns:
        A QuantizationReport, one LayerQuantization for each layer, over all its calls.

    Raises:
        ValueError: "Expected ... Received: ..." for a model that is no graph of layers or has no TTFS layers, and for a
            wrong argument.

    Reference: Fig. 7; Eqs. 10-12.
    """
    checks.batch(batch_size)
    understood.check_model(model, "ttfs")
    if not topology.layers_of(model, TTFSEncode):
        raise ValueError(
            f"Expected a model with TTFSActivation or TTFSEncode layers. Received: {model.name!r} without any."
            + understood.CONVERT
        )
    data = samples("data", data, tuple(model.inputs[0].shape[1:]))
    sums: dict = {}

    def add(layer, z):
        if not bool(tf.reduce_all(tf.math.is_finite(z))):
            raise ValueError(f"Expected finite pre-activations. Received: NaN or infinite ones in {layer.name!r}")
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


def _pass_through(
    model: keras.Model, x: np.ndarray, batch_size: int, observe: Callable, activation: Callable | None = None
) -> None:
    """Evaluates a model on x in batches and calls `observe(layer, z)` with what enters each encoder.

    If `activation` is given, `activation(layer, z)` stands for every encoder.
    """

    def visit(layer, *args, **kwargs):
        if isinstance(layer, TTFSEncode):
            if type(layer) not in understood.OWN:
                raise understood.unsupported(layer, "ttfs")
            observe(layer, args[0])
            if activation:
                return activation(layer, args[0])
        elif topology.layers_of(layer, TTFSEncode):
            raise understood.unsupported(layer, "ttfs")
        if type(layer) in understood.NOTHING_AT_INFERENCE:
            return args[0]
        if isinstance(layer, keras.layers.Layer):
            # As `predict` passes it: without it some layers would be at random.
            return layer(*args, **kwargs | ({"training": False} if _takes_training(layer) else {}))
        return layer(*args, **kwargs)

    dtype = model.inputs[0].dtype
    for first in range(0, len(x), batch_size):
        topology.walk(model, [tf.cast(x[first : first + batch_size], dtype)], visit)


def _takes_training(layer: keras.layers.Layer) -> bool:
    """Whether Keras passes `training` to a layer."""
    return "training" in inspect.signature(layer.call).parameters


def sampled_activations(
    model: keras.Model, data: np.ndarray, batch_size: int, limits: Mapping[str, float] = MappingProxyType({})
) -> dict[str, np.ndarray]:
    """`{encoder: sample of its positive activations}` of the model with ReLU in the place of every encoder.

    `limits` is `{encoder: activation at which its ReLU cuts off}` [1].
    """
    found: dict = {}
    rng = np.random.default_rng(0)
    most = -(-SAMPLED_ACTIVATIONS // -(-len(data) // batch_size))

    def sample(layer, z):
        flat = np.asarray(tf.cast(z, "float32")).ravel()
        # At random, because a fixed stride would meet the same channels again and again.
        flat = flat if len(flat) <= most else flat[rng.integers(len(flat), size=most)]
        found.setdefault(layer.name, []).append(np.minimum(flat[flat > 0], limits.get(layer.name, np.inf)))

    def relu(layer, z):
        positive = tf.nn.relu(z)
        return tf.minimum(positive, tf.cast(limits[layer.name], z.dtype)) if layer.name in limits else positive

    _pass_through(model, data, batch_size, sample, relu)
    return {name: np.concatenate(parts) for name, parts in found.items()}
