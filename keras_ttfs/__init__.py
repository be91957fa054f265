"""Deep spiking neural networks with time-to-first-spike coding, as ordinary Keras 3 layers."""

from keras_ttfs import applications, energy, regularizers, snn, spike_time, temporal_kernel
from keras_ttfs.callbacks import RelaxationSchedule, TemporalKernelHistory
from keras_ttfs.conversion import coding_report, convert
from keras_ttfs.layers import TemporalKernelDecode, TKBatchNorm, TTFSActivation, TTFSEncode
from keras_ttfs.metrics import MeanSpikes, spike_rate, spikes_per_neuron
from keras_ttfs.models import TTFSModel
from keras_ttfs.snn.codings.t2fsnn import convert_t2fsnn

__version__ = "0.7.0"

__all__ = [
    "MeanSpikes",
    "RelaxationSchedule",
    "TKBatchNorm",
    "TTFSActivation",
    "TTFSEncode",
    "TTFSModel",
    "TemporalKernelDecode",
    "TemporalKernelHistory",
    "applications",
    "coding_report",
    "convert",
    "convert_t2fsnn",
    "energy",
    "regularizers",
    "snn",
    "spike_time",
    "spike_rate",
    "spikes_per_neuron",
    "temporal_kernel",
]
