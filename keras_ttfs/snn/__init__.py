"""Trained networks as spiking networks of integrate-and-fire neurons."""

from keras_ttfs.snn import plots
from keras_ttfs.snn.equivalence import EquivalenceError, EquivalenceReport, check_equivalence, in_dtype
from keras_ttfs.snn.network import SimulationResult, SpikingNetwork

__all__ = [
    "EquivalenceError",
    "EquivalenceReport",
    "SimulationResult",
    "SpikingNetwork",
    "check_equivalence",
    "in_dtype",
    "plots",
]
