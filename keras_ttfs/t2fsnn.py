"""TTFS coding by conversion: T2FSNN, whose kernels are fitted to the activations of a trained ReLU network.

`model = convert_t2fsnn(relu_model, training_images)` is a TTFSModel. With early firing it answers sooner:
`SpikingNetwork.from_model(model, early_firing=40).run(images, mode="clock")`.
"""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import calibration, checks, conversion, temporal_kernel
from keras_ttfs.models import TTFSModel
from keras_ttfs.snn import coded, reader, understood
from keras_ttfs.snn.nodes import Population
from keras_ttfs.snn.samples import samples

SAMPLED_ACTIVATIONS = 1 << 15
ITERATIONS = 600
LEARNING_RATE = 0.1
SMALLEST_TAU = 1.0  # With a smaller tau, neighbouring levels differ by more than a factor of e.


@checks.known_keywords
def convert_t2fsnn(
    keras_model: keras.Model,
    data: Any,
    *,
    time_window: int = 80,
    tau_0: float = 20.0,
    rounding: str = "ceil",
    batch_size: int = 100,
    lambda_tr: float = 1e-5,
    lambda_tb: float = 1e-5,
) -> TTFSModel:
    """Turns a trained ReLU model into a TTFSModel by weight normalisation, and fits every temporal kernel.

    Layer by layer, the fit minimises three losses on the normalised activations z of the ReLU model:

        L_precision = mean((z - z_hat)**2) / 2         by the gradient of tau
        L_minimum   = (min(z) - z_min)**2 / 2          by the gradient of tau, min(z) the smallest activation > 0
        L_maximum   = (max(z) - z_max)**2 / 2          by t_d = tau ln(max(z)), which makes the loss 0

    `SpikingNetwork.from_model(model, early_firing=...)` simulates the model with fire phases that begin before the
    integration ends.

    Args:
        keras_model: Functional or built Sequential ReLU model, as `keras_ttfs.convert` takes. Max pooling is of spikes.
        data: array `(samples, ...)` of training inputs, intensities in [0, 1] [1]; or a data set, generator or list of
            batches. Below a thousand samples the
            percentile that scales a layer is about its maximum.
        time_window: int >= 1: T [steps].
        tau_0: float > 0: time constant before the fit [steps].
        rounding: `"ceil"`, as the paper's Eq. 4, or `"nearest"`.
        batch_size: int >= 1: samples of `data` at a time.
        lambda_tr: float >= 0: weight of REG_TR, for fine-tuning [1/steps^2].
        lambda_tb: float >= 0: weight of P_TB, for fine-tuning [1].

    Returns:
        The TTFSModel.

    Raises:
        ValueError: "Expected ... Received: ..." as `keras_ttfs.convert`, and for a layer that is silent on `data`.

    Differs from the paper: the losses are computed on a random sample of all activations, not batch by batch. Adam
    descends. t_d is not learnt but computed from tau. Table 2's 680 steps are those after which VGG-16 answers with
    T = 80 and early firing by 40, half a window. Without early firing it answers after 1,280.

    Reference: Park et al., "T2FSNN", DAC 2020; section 6, Table 2.
    """
    checks.batch(batch_size)
    understood.check_model(keras_model, "relu")
    data = samples("data", data, tuple(keras_model.inputs[0].shape[1:]))
    options: dict[str, Any] = {
        "time_window": time_window,
        "tau_0": tau_0,
        "rounding": rounding,
        "lambda_tr": lambda_tr,
        "lambda_tb": lambda_tb,
    }
    for node in reader.read(keras_model, "relu")[0]:
        if isinstance(node, Population) and node.max_value is not None:
            raise ValueError(f"Expected ReLU without max_value. Received: {node.name!r} with {node.max_value}")
    model = conversion.convert(keras_model, pooling="spikes", **options)
    nodes, _ = reader.read(model)
    conversion.check_intensities(nodes, data)
    data = data.astype("float32")
    scales = coded.activation_scales(nodes, data, batch_size)
    activations = conversion.sampled_activations(model, data, batch_size)
    units = calibration.normalize(model, scales)
    for encoder in model.encoders:
        z = activations[encoder.name] / units[encoder.name]
        if len(z):
            tau, t_d = fit_kernel(z[:: max(1, len(z) // SAMPLED_ACTIVATIONS)], tau_0, time_window, rounding)
            encoder.tau.assign(tau)
            encoder.t_d.assign(t_d)
    return model


def fit_kernel(z: Any, tau_0: float, time_window: int, rounding: str = "ceil") -> tuple[float, float]:
    """`(tau, t_d)` [steps] to which T2FSNN's three losses lead from `(tau_0, 0)`.

    Args:
        z: float array of activations > 0 [1].
        tau_0: float > 0: time constant at the start [steps].
        time_window: int >= 1: T [steps].
        rounding: `"ceil"` or `"nearest"`.

    Reference: Park et al., "T2FSNN", DAC 2020.
    """
    z = tf.constant(z, "float32")
    smallest, largest = tf.reduce_min(z), tf.reduce_max(z)
    tau = keras.Variable(tau_0)
    best_tau, least = keras.Variable(tau_0), tf.Variable(math.inf)
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build([tau])

    @tf.function(autograph=False)
    def descend():
        with tf.GradientTape() as tape:
            # t_d is a function of tau, so the gradient of tau contains that of t_d.
            t_d = tau * tf.math.log(largest)
            levels = temporal_kernel.quantize(z, tau, t_d, time_window, rounding=rounding)
            precision = tf.reduce_mean((z - levels) ** 2) / 2
            minimum = (smallest - temporal_kernel.z_min(tau, t_d, time_window)) ** 2 / 2
            loss = precision + minimum
        # The gradient does not see that spikes move to other steps, so the descent may lead past the least loss.
        better = loss < least
        best_tau.assign(tf.where(better, tau.value, best_tau.value))
        least.assign(tf.where(better, loss, least))
        optimizer.apply([tape.gradient(loss, tau.value)], [tau])
        tau.assign(tf.maximum(tau, SMALLEST_TAU))

    for _ in range(ITERATIONS):
        descend()
    tau = float(np.asarray(best_tau))
    return tau, tau * math.log(largest)
