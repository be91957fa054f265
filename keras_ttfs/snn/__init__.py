"""Trained networks as spiking networks of integrate-and-fire neurons."""

from keras_ttfs.snn import codings, plots
from keras_ttfs.snn.coded import CodedNetwork
from keras_ttfs.snn.equivalence import EquivalenceError, EquivalenceReport, check_equivalence, in_dtype
from keras_ttfs.snn.network import SpikingNetwork
from keras_ttfs.snn.results import CodedResult, SimulationResult

__all__ = [
    "CodedNetwork",
    "CodedResult",
    "EquivalenceError",
    "EquivalenceReport",
    "SimulationResult",
    "SpikingNetwork",
    "check_equivalence",
    "codings",
    "in_dtype",
    "plots",
]
