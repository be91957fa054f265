"""Deep spiking neural networks with time-to-first-spike coding, as ordinary Keras 3 layers.

Train: `TTFSActivation` in the place of ReLU, `TKBatchNorm` in the place of BatchNormalization, `TTFSModel` in the place
of keras.Model. Ready networks are in `applications`.
Simulate: `snn.SpikingNetwork.from_model(model).run(x)`. Check the spikes: `snn.check_equivalence(model, x)`.
Convert a trained ReLU model: `convert(model, data=x)`. Say what its spikes lose: `quantization_report(model, x)`.
"""

from keras_ttfs import (
    applications,
    energy,
    initializers,
    noise,
    pretrained,
    regularizers,
    snn,
    spike_time_layers,
    temporal_kernel,
)
from keras_ttfs.batch_norm import TKBatchNorm
from keras_ttfs.callbacks import FreezeTemporalKernels, RelaxationSchedule, TemporalKernelHistory
from keras_ttfs.conversion import convert, quantization_report
from keras_ttfs.exporting import check_export, export
from keras_ttfs.layers import TemporalKernelDecode, TTFSActivation, TTFSEncode
from keras_ttfs.metrics import MeanSpikes, spike_rate, spikes_per_neuron
from keras_ttfs.models import TTFSModel
from keras_ttfs.spike_budget import SpikeBudget
from keras_ttfs.t2fsnn import convert_t2fsnn

__version__ = "0.12.1"

__all__ = [
    "FreezeTemporalKernels",
    "MeanSpikes",
    "RelaxationSchedule",
    "SpikeBudget",
    "TKBatchNorm",
    "TTFSActivation",
    "TTFSEncode",
    "TTFSModel",
    "TemporalKernelDecode",
    "TemporalKernelHistory",
    "applications",
    "check_export",
    "convert",
    "convert_t2fsnn",
    "energy",
    "export",
    "initializers",
    "noise",
    "pretrained",
    "quantization_report",
    "regularizers",
    "snn",
    "spike_rate",
    "spike_time_layers",
    "spikes_per_neuron",
    "temporal_kernel",
]
