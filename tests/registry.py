"""Every public layer once: how to make it and what it takes. The generic tests loop over this list."""

import numpy as np

from keras_ttfs import TemporalKernelDecode, TKBatchNorm, TTFSActivation, TTFSEncode, spike_time_layers

KERNEL = {"time_window": 16, "tau_0": 5.0, "rounding": "nearest", "kernel_gradient": "full", "z_max_0": 1.5}
LAYERS = [
    (TTFSEncode, KERNEL),
    (TTFSActivation, {**KERNEL, "relaxation": 0.25, "seed": 3}),
    (TemporalKernelDecode, {"time_window": 16}),
    (TKBatchNorm, {"momentum": 0.9, "epsilon": 1e-4, "scale": True}),
]
# In float32 and float64 only; their inputs are spike times, but for the encoder's.
SPIKE_TIME_LAYERS = [
    (spike_time_layers.SpikeTimeEncode, {"scale": 2.0}),
    (spike_time_layers.SpikeTimeConv2D, {"filters": 3, "kernel_size": 2, "strides": 2, "initial_sum": 3.0, "seed": 1}),
    (spike_time_layers.SpikeTimePooling2D, {"pool_size": 2}),
    (spike_time_layers.SpikeTimeDense, {"units": 3, "cost": 1.0, "seed": 2}),
    (spike_time_layers.SpikeTimeOutput, {"units": 3}),
]


def sample(layer, shape=(6, 4)):
    """Input for a layer: pre-activations, or for the decoder what an encoder makes of them."""
    z = np.random.default_rng(0).uniform(-0.5, 1.8, shape).astype("float32")
    return TTFSEncode(**KERNEL)(z) if isinstance(layer, TemporalKernelDecode) else z
