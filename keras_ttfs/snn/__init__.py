"""Trained networks as spiking networks of integrate-and-fire neurons.

`SpikingNetwork.from_model(model).run(x)` simulates a TTFS model, event by event or step by step.
`CodedNetwork.from_model(relu_model, coding, data).run(x)` simulates a ReLU model in another of the `codings`.
`check_equivalence(model, x)` says whether the spikes are those that the model promises. `plots` draws a simulation.
"""

from keras_ttfs.snn import codings, plots
from keras_ttfs.snn.coded import CodedNetwork
from keras_ttfs.snn.equivalence import EquivalenceError, EquivalenceReport, check_equivalence
from keras_ttfs.snn.graph import in_dtype
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
