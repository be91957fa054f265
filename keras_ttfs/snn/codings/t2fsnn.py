"""TTFS coding by conversion: T2FSNN, whose kernels are fitted to the activations of a trained ReLU network."""

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import conversion, temporal_kernel
from keras_ttfs.snn import coded, graph

SAMPLED_ACTIVATIONS = 1 << 15
ITERATIONS = 300
LEARNING_RATE = 0.05


def convert_t2fsnn(keras_model, data, *, time_window=40, tau_0=10.0, batch_size=100, **model_options):
    """Turns a trained ReLU model into a TTFSModel by weight normalisation, and fits every temporal kernel.

    Layer by layer, tau and t_d go down the gradient of three losses on the normalised activations z of the ReLU model:

        L_precision = mean((z - z_hat)**2) / 2         by tau
        L_minimum   = (min(z) - z_min)**2 / 2          by tau, min(z) the smallest activation > 0
        L_maximum   = (max(z) - z_max)**2 / 2          by t_d

    `SpikingNetwork.from_model(model, early_firing=...)` simulates it, with the fire phases overlapping the integration.

    Args:
        keras_model: as `keras_ttfs.convert`.
        data: array `(samples, ...)` of training inputs, intensities in [0, 1]; some hundreds do.
        time_window: int >= 1: T [steps].
        tau_0: float > 0: time constant before the fit [steps].
        batch_size: int >= 1: samples of `data` at a time.
        **model_options: of TTFSModel.

    Returns:
        The TTFSModel.

    Raises:
        ValueError: as `keras_ttfs.convert`.

    Differs from the paper: the losses are computed on a sample of all activations, not batch by batch, and minimised by
    Adam; T = 40 is Table 2's 680 = 17 T, where the T2FSNN paper overlaps windows of 80 by 40.

    Reference: Park et al., "T2FSNN", DAC 2020; section 6, Table 2.
    """
    data = conversion.checked_data(data).astype("float32")
    model, _ = conversion.convert(keras_model, time_window=time_window, tau_0=tau_0, **model_options)
    steps, _ = graph.read(keras_model, relu=True)
    scales = coded.activation_scales(steps, data, batch_size)
    activations = conversion.sampled_activations(model, data, batch_size)
    conversion.normalize(model, scales)
    for encoder in model.encoders:
        z = activations[encoder.name] / scales.get(encoder.name, 1.0)
        if len(z):
            tau, t_d = fit_kernel(z[:: max(1, len(z) // SAMPLED_ACTIVATIONS)], tau_0, time_window)
            encoder.tau.assign(tau)
            encoder.t_d.assign(t_d)
    return model


def fit_kernel(z, tau_0, time_window):
    """`(tau, t_d)` [steps] that T2FSNN's three losses lead to from `(tau_0, 0)`, for activations z > 0 [1]."""
    z = tf.constant(z, "float32")
    smallest, largest = tf.reduce_min(z), tf.reduce_max(z)
    tau, t_d = keras.Variable(tau_0), keras.Variable(0.0)
    optimizer = keras.optimizers.Adam(LEARNING_RATE)

    @tf.function(autograph=False)
    def descend():
        with tf.GradientTape() as tape:
            fixed_tau, fixed_t_d = (tf.stop_gradient(tf.convert_to_tensor(value)) for value in (tau, t_d))
            z_hat = temporal_kernel.quantize(z, tau, fixed_t_d, time_window)
            precision = tf.reduce_mean((z - z_hat) ** 2) / 2
            minimum = (smallest - temporal_kernel.z_min(tau, fixed_t_d, time_window)) ** 2 / 2
            maximum = (largest - temporal_kernel.z_max(fixed_tau, t_d)) ** 2 / 2
            loss = precision + minimum + maximum
        optimizer.apply(tape.gradient(loss, [tau.value, t_d.value]), [tau, t_d])

    optimizer.build([tau, t_d])
    for _ in range(ITERATIONS):
        descend()
    return float(np.asarray(tau)), float(np.asarray(t_d))
