"""What a simulation saw, in one vocabulary for `SpikingNetwork` (TTFS) and `CodedNetwork` (other codings).

`run` of a SpikingNetwork returns a SimulationResult, `run` of a CodedNetwork a CodedResult:

| name | what it is | `SimulationResult` | `CodedResult` |
|---|---|---|---|
| `logits` | potentials of the output at the end | yes | yes |
| `predictions` | class of the largest potential at the end | yes | yes |
| `predictions_per_step` | class of the largest potential after each step | `mode="clock"` only | yes |
| `spikes`, `hidden_spikes` | mean spikes per sample, by layer and in all | yes | yes |
| `spikes_per_step` | mean spikes per sample in each step | unless `spike_times=False` | yes |
| `stopped_at` | steps until each sample's answer was final | yes | yes |
| `decision_step`, `time_steps` | steps until the last answer, and in all | yes | yes |
"""

import dataclasses
import uuid
from typing import Any

import numpy as np

from keras_ttfs.snn import nir_data
from keras_ttfs.snn.nodes import Phase


def new_identity() -> str:
    """A string by which a network's results are known. Copies and pickles of a network keep it."""
    return uuid.uuid4().hex


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulationResult:
    """What a simulation of a SpikingNetwork saw. Spike times of a layer are local to its fire phase.

    Attributes:
        logits: `(samples, classes)`: membrane potentials of the output at `decision_step` [1].
        predictions_per_step: int `(samples, decision_step)`: the class of the output's largest potential after each
            global step. None in mode `"event"`, which does not see the steps.
        spike_times: `{layer: integer array (samples, ...)}` [steps]; `time_window` means silent. Empty after
            `run(spike_times=False)`.
        spike_counts: `{layer: integer array (samples,)}` [spikes].
        synaptic_operations: mean over samples of spikes times fan-out, borders included [operations per sample].
        phases: `{layer: Phase(start, time_window)}`: global first step and length of each fire phase [steps].
        neurons: `{layer: neurons}`, the units that may fire.
        membrane_counts: `{layer: membranes}`, the potentials that integrate: more than the neurons where max pooling of
            potentials makes winner-take-all windows.
        input_encoders: names of the layers that encode the input. Their spikes are input spikes, not hidden ones.
        decision_step: after how many global steps the last spike can have arrived at the output [steps].
        time_steps: H, with the idle window of the output [steps].
        membranes: `{layer: array (samples, chosen membranes, decision_step)}`: potentials at each global step as
            compared with the threshold [1]. Only of the layers in `run(record=...)`.
        recorded: `{layer: flat indices of the chosen membranes}`.
        heard_by: `{layer: [flat indices of the neurons that hear it, for each chosen membrane]}`. A membrane of a layer
            without windows is heard by its own neuron.
        thresholds: `{layer: array (time_window,)}`: threshold at each local step [1].
        network: `identity` of the network.
    """

    logits: np.ndarray
    predictions_per_step: np.ndarray | None
    spike_times: dict[str, np.ndarray]
    spike_counts: dict[str, np.ndarray]
    synaptic_operations: float
    phases: dict[str, Phase]
    neurons: dict[str, int]
    membrane_counts: dict[str, int]
    input_encoders: tuple[str, ...]
    decision_step: int
    time_steps: int
    membranes: dict[str, np.ndarray]
    recorded: dict[str, np.ndarray]
    heard_by: dict[str, list[np.ndarray]]
    thresholds: dict[str, np.ndarray]
    network: str = ""

    @property
    def predictions(self) -> np.ndarray:
        """Int `(samples,)`: the class of the output's largest potential at `decision_step`."""
        return self.logits.argmax(-1)

    @property
    def spikes(self) -> dict[str, float]:
        """`{layer: mean spikes per sample}`."""
        return {name: float(counts.mean()) for name, counts in self.spike_counts.items()}

    @property
    def hidden_spikes(self) -> float:
        """S: mean spikes per sample of the hidden layers."""
        return hidden_spikes(self.spikes, self.input_encoders)

    @property
    def spikes_per_step(self) -> np.ndarray:
        """`(decision_step,)`: mean spikes per sample in each global step, hidden layers.

        Raises:
            ValueError: "Expected a result with spike times. Received: ...".
        """
        counts = np.zeros(self.decision_step)
        for name, of_steps in self.count_spike_times().items():
            if name not in self.input_encoders:
                start, time_window = self.phases[name]
                counts[start : start + time_window] += of_steps
        return counts / len(self.logits)

    @property
    def stopped_at(self) -> np.ndarray:
        """Int `(samples,)`: steps until the answer of each sample was final, `decision_step` for all [steps]."""
        return np.full(len(self.logits), self.decision_step)

    def count_spike_times(self) -> dict[str, np.ndarray]:
        """`{layer: counts (time_window,)}`: spikes at each local step, over all samples.

        Raises:
            ValueError: "Expected a result with spike times. Received: ...".
        """
        if self.spike_counts and not self.spike_times:
            raise ValueError("Expected a result with spike times. Received: one of run(spike_times=False)")
        return {
            name: np.bincount(times.ravel(), minlength=self.phases[name].time_window + 1)[:-1]
            for name, times in self.spike_times.items()
        }

    def to_nir(self, dt: float = 1.0) -> Any:
        """Every spike as NIR data, a nir.NIRGraphData: `nir.write_data(path, result.to_nir())` writes it.

        A layer is a node with the observable `spikes`, a nir.EventData: flat indices of neurons, and times from the begin of
        the simulation. `SpikingNetwork.spike_times_from_nir` reads them back. The network itself has no form in NIR, see
        `keras_ttfs.export`.

        Args:
            dt: float > 0: duration of a time step [s].

        Raises:
            ValueError: "Expected a result with spike times. Received: ...", or for a wrong dt.
            ImportError: "Expected the package nir ...".
        """
        self.count_spike_times()
        return nir_data.graph_data(self.spike_times, self.phases, self.decision_step, dt)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodedResult:
    """What a simulation of a CodedNetwork saw.

    Attributes:
        logits: `(samples, classes)`: potentials of the output at the end, or when the sample stopped, in the ReLU
            model's units [1].
        predictions_per_step: int `(samples, time_steps)`: the class of the output's largest potential after each step.
            A sample that stopped keeps its last class.
        spikes: `{layer: mean spikes per sample}`.
        spikes_per_step: `(time_steps,)`: mean spikes per sample in each step, hidden layers.
        neurons: `{layer: neurons}`.
        input_encoders: names of the layers on the input itself. Their spikes are input spikes, not hidden ones.
        stopped_at: int `(samples,)`: after how many steps each sample stopped [steps].
        time_steps: H [steps].
        synaptic_operations: mean over samples of spikes times fan-out, borders included [operations per sample]. Behind
            max pooling the spikes that it passes on count.
        spike_trains: `{layer: int8 array (samples, chosen neurons, time_steps)}`: spikes in each step. Only of the layers
            in `run(record=...)`.
        recorded: `{layer: flat indices of the chosen neurons}`.
        network: `identity` of the network.
    """

    logits: np.ndarray
    predictions_per_step: np.ndarray
    spikes: dict[str, float]
    spikes_per_step: np.ndarray
    neurons: dict[str, int]
    input_encoders: tuple[str, ...]
    stopped_at: np.ndarray
    time_steps: int
    synaptic_operations: float = 0.0
    spike_trains: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    recorded: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    network: str = ""

    @property
    def predictions(self) -> np.ndarray:
        """Int `(samples,)`: the class of the output's largest potential at the end."""
        return self.predictions_per_step[:, -1]

    @property
    def hidden_spikes(self) -> float:
        """S: mean spikes per sample of the hidden layers."""
        return hidden_spikes(self.spikes, self.input_encoders)

    @property
    def decision_step(self) -> int:
        """After how many steps the answer of every sample is there: `time_steps` [steps]."""
        return self.time_steps


def hidden_spikes(spikes: dict[str, float], input_encoders: tuple[str, ...]) -> float:
    """S of `{layer: mean spikes per sample}`: the sum over the layers that do not encode the input."""
    return sum(count for name, count in spikes.items() if name not in input_encoders)
