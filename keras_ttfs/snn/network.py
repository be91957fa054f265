"""The spiking network of a trained TTFS model.

    network = SpikingNetwork.from_model(model)                 batch normalisation folded in, weights copied
    result = network.run(x)                                    event by event
    result = network.run(x[:10], mode="clock")                 step by step, the same spikes
    result.predictions, result.hidden_spikes, result.spikes_per_step    see `snn.results`
    network.dense_operations                                   operations of the ReLU twin

`snn.reader` turns the model into nodes (`snn.nodes`), `snn.simulation` holds the two simulations, and `snn.operations`
counts synaptic operations. `snn.equivalence` compares the spikes with those of the model.
"""

import copy
import dataclasses
import functools
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_ttfs import checks
from keras_ttfs.noise import Draws, Shapes, of_samples
from keras_ttfs.noise import check as check_noise
from keras_ttfs.snn import nir_data, operations
from keras_ttfs.snn.nodes import (
    Node,
    Operations,
    Synapse,
    TTFSPopulation,
    encodes_input,
    functions_of,
    populations_of,
)
from keras_ttfs.snn.reader import read, schedule
from keras_ttfs.snn.results import SimulationResult, new_identity
from keras_ttfs.snn.samples import inputs
from keras_ttfs.snn.simulation import ClockSimulation, EventSimulation
from keras_ttfs.snn.windows import WindowPopulation

MODES = ("event", "clock")


def shows_progress(verbose: Any) -> bool:
    """Whether `verbose` (`"auto"`, 0 or 1) asks for a progress bar here."""
    return sys.stdout.isatty() if verbose == "auto" else bool(verbose)


def progress_bar(total: int, unit: str, verbose: Any) -> keras.utils.Progbar | None:
    """A progress bar over `total` units; None if `verbose` (`"auto"`, 0 or 1) asks for none."""
    return keras.utils.Progbar(total, unit_name=unit) if shows_progress(verbose) else None


def batches_of(x: np.ndarray, batch_size: int) -> Iterable[tuple[int, int, np.ndarray]]:
    """`(first, samples, batch)` of each batch of x: the index of its first sample, and how many samples count.

    The last batch is filled up with zeros, so that one compiled simulation serves all.
    """
    batch_size = min(batch_size, len(x))
    for first in range(0, len(x), batch_size):
        batch = x[first : first + batch_size]
        filling = np.zeros((batch_size - len(batch), *x.shape[1:]), x.dtype)
        yield first, len(batch), np.concatenate([batch, filling])


class SpikingNetwork:
    """Integrate-and-fire neurons that fire the spikes which a trained model's activations stand for.

    Forward: a neuron's membrane potential is `u(t) = b + sum_i w_i * kappa(t_i)` over the presynaptic spikes that
    arrived by t (Eq. 1). `kappa(t) = exp(-(t - t_d) / tau)` is the sender's kernel, in the sender's window (Eq. 3).
    The neuron's own window begins when all its inputs have had their windows. The neuron fires at the first local step
    t with `u >= kappa(t)` (Eq. 2, theta_0 = 1) and is refractory from then on. With `rounding="nearest"` the threshold
    is `kappa(t + 1/2)`. Max pooling passes on the earliest spike of its window. Max pooling in front of an activation
    makes winner-take-all windows: all potentials of a window integrate, the first to reach the threshold fires for the
    window and silences the others (see `snn.windows`). The output layer only integrates: its potentials are the logits.

    >>> model = keras.Sequential([keras.Input((4,)), TTFSActivation(name="in"), keras.layers.Dense(2)])
    >>> network = SpikingNetwork.from_model(model)
    >>> result = network.run(np.array([[1.0, 0.5, 0.01, 0.0]]))
    >>> result.spike_times["in"]
    array([[ 0,  7, 32, 32]], dtype=int16)
    >>> result.decision_step, result.time_steps
    (32, 64)

    Args:
        nodes: list of nodes, as `reader.read` gives. They are not changed, so several networks may share them.
        output: the node whose value is the logits, as `reader.read` gives.
        early_firing: int >= 0, less than every window: by how much a fire phase begins before its inputs have all fired
            [steps].

    Raises:
        ValueError: "Expected a model with TTFSActivation or TTFSEncode layers. Received: ...".

    Attributes:
        populations: the TTFSPopulation nodes, in the order of computation.
        phases: `{population: Phase}`: when each population fires [steps].
        decision_step: global step at which the last spike can have arrived at the output [steps].
        time_steps: H, with the idle window of the output [steps].
        identity: str that no other network has, but copies of this one. Results of `run` carry it.

    Reference: Eqs. 1-3, Fig. 9.
    """

    def __init__(self, nodes: list[Node], output: Node, early_firing: int = 0):
        self.nodes = nodes
        self.output = output
        self.early_firing = early_firing
        self.identity = new_identity()
        self.populations: list[TTFSPopulation] = populations_of(nodes, TTFSPopulation)
        if not self.populations:
            raise ValueError(
                "Expected a model with TTFSActivation or TTFSEncode layers. Received: none before its output"
            )
        windows = {population: population.time_window for population in self.populations}
        self.phases = schedule(nodes, windows, early_firing)
        self.decision_step = max(phase.end for phase in self.phases.values())
        self.time_steps = self.decision_step + max(windows.values()) - early_firing
        self._traced = True
        self._functions: dict = {}
        self._simulations: dict = {}
        self._disturbed: Any = None

    @classmethod
    def from_model(cls, model: keras.Model, early_firing: int = 0) -> "SpikingNetwork":
        """The spiking network of a Functional or built Sequential model, with the weights that it has now.

        Batch normalisation is folded into the synapses. A softmax at the output is left out: `logits` are its inputs.

        Args:
            model: of the layers in the tables of `snn.understood`: convolutions, Dense, batch normalisation,
                TTFSActivation, TTFSEncode with TemporalKernelDecode, pooling, padding and reshaping, Rescaling and
                Normalization, Add and Concatenate, and what does nothing at inference. Nested models are opened.
            early_firing: int >= 0, less than every window: by how much a fire phase begins before its inputs have all
                fired [steps]. The answer comes sooner. A neuron errs if later inputs would have kept it silent or made
                it fire sooner. A spike arrives before the next step. Only `mode="clock"` simulates early firing.

        Raises:
            ValueError: "Expected ... Received: ..." naming the layer that cannot be turned into spikes.
        """
        checks.integer("early_firing", early_firing, least=0, unit="steps")
        network = cls(*read(model), early_firing)
        shortest = min(population.time_window for population in network.populations)
        if early_firing >= shortest:
            raise ValueError(
                f"Expected early_firing < {shortest}, the shortest window. Received: early_firing={early_firing}"
            )
        return network

    def untraced(self) -> "SpikingNetwork":
        """The same network, for few runs: it computes one operation after the other, and leaves nothing in memory."""
        network = copy.copy(self)
        network._traced, network._simulations, network._disturbed = False, {}, None
        return network

    @functools.cached_property
    def neurons(self) -> int:
        """N, the units that may fire: inputs, hidden neurons and outputs."""
        return operations.neurons_of(self.nodes, self.output)

    @functools.cached_property
    def membranes(self) -> int:
        """Potentials that integrate: as `neurons`, with all potentials of each winner-take-all window."""
        return operations.membranes_of(self.nodes, self.output)

    @functools.cached_property
    def input_encoders(self) -> tuple[str, ...]:
        """Names of the populations that encode the input itself."""
        return tuple(population.name for population in self.populations if encodes_input(population))

    @functools.cached_property
    def fan_out(self) -> dict[Node, list]:
        """`operations.fan_out` of the network: `{node that spikes enter: [array (...) for each of its inputs]}`."""
        return operations.fan_out(self.nodes, self.output)

    @functools.cached_property
    def dense_counts(self) -> Operations:
        """`operations.dense_counts` of the network: operations of its ReLU twin per sample, by their kind."""
        return operations.dense_counts(self.nodes)

    @property
    def dense_operations(self) -> int:
        """Operations of the ReLU twin per sample: multiply-adds, additions and multiplications, each counted once."""
        return self.dense_counts.total

    @functools.cached_property
    def analog_counts(self) -> Operations:
        """`operations.analog_counts` of the network: operations on an analog input per sample, by their kind."""
        return operations.analog_counts(self.nodes)

    @property
    def analog_operations(self) -> int:
        """Operations on an analog input per sample, each counted once."""
        return self.analog_counts.total

    def membranes_of(self, layer: str, neuron: int) -> list[int]:
        """Flat indices of the membranes that a neuron hears, for `run(record=...)`: its own, or those of its window.

        Args:
            layer: str: name of a population.
            neuron: int: flat index of one of its neurons.

        Raises:
            ValueError: "Expected layer to be one of ... Received: ...", or "Expected a neuron of ... Received: ...".
        """
        populations = {population.name: population for population in self.populations}
        population = populations[checks.one_of("layer", layer, tuple(populations))]
        neuron = checks.integer("neuron", neuron, least=0)
        if neuron >= population.size:
            raise ValueError(f"Expected a neuron of {layer!r} in 0..{population.size - 1}. Received: neuron={neuron}")
        return population.hears(neuron).tolist() if isinstance(population, WindowPopulation) else [neuron]

    def spike_times_from_nir(self, data: Any, dt: float = 1.0) -> dict[str, np.ndarray]:
        """The spike times in what `SimulationResult.to_nir` made: `{layer: integer array (samples, ...)}` [steps].

        Args:
            data: a nir.NIRGraphData of this network, from `nir.read_data(path)` for example.
            dt: float > 0: duration of a time step in it [s].

        Raises:
            ValueError: "Expected ... Received: ..." for data of another network, or of other times.
        """
        layers = {p.name: (p.shape, self.phases[p], p.silent.dtype.as_numpy_dtype) for p in self.populations}
        return nir_data.spike_times(data, layers, self.decision_step, dt)

    def run(
        self,
        x: Any,
        mode: str = "event",
        dtype: str = "float32",
        batch_size: int = 100,
        spike_times: bool = True,
        record: Mapping | None = None,
        verbose: Any = "auto",
        noise: Any = (),
        seed: int = 0,
    ) -> SimulationResult:
        """Simulates the network on a batch of inputs.

        `"clock"` is literal: one global time step after the other for all layers. A layer's membrane potentials are
        integrated at each step at which it may fire or is recorded, the output's at every step. `"event"` does each
        layer once, because integration ends before firing starts. Both fire the same spikes.

        Args:
            x: array `(samples, ...)` of the model's input shape, finite [1]; or a data set, generator or list of
                batches, see `snn.samples`.
            mode: `"event"` or `"clock"`.
            dtype: `"float32"` or `"float64"`, of weights, potentials and thresholds.
            batch_size: int >= 1: samples simulated at a time. Memory grows with it, not with the time steps.
            spike_times: bool: whether the result holds every spike time (2 bytes per neuron and sample).
            record: `{layer: flat indices of membranes}` whose potentials to keep at every step; `"clock"` only. A layer
                without winner-take-all windows has one membrane for each neuron.
            verbose: `"auto"` (a progress bar on terminals), 0 or 1.
            noise: objects of `keras_ttfs.noise`, in a list; or one of them. Both modes see the same draws, whatever the batch
                size. `neurons` counts dead neurons too.
            seed: int >= 0: of the noise. Another seed is another copy of the hardware, and other spikes.

        Returns:
            A SimulationResult.

        Raises:
            ValueError: "Expected ... Received: ..." for a wrong argument.
        """
        x, record = self._checked(x, mode, dtype, batch_size, record)
        noise, seed = check_noise(noise), checks.integer("seed", seed, least=0)
        network = self._with_weights(noise, seed)
        simulate = network._simulation(mode, dtype)
        # Filled batch by batch, because joining them at the end would hold all spike times twice.
        times = {
            population.name: np.empty((len(x), *population.shape), population.silent.dtype.as_numpy_dtype)
            for population in (self.populations if spike_times else ())
        }
        bar = progress_bar(len(x), "sample", verbose)
        parts = []
        for first, samples, batch in batches_of(x, batch_size):
            disturbances = self._disturbances(noise, seed, range(first, first + len(batch)))
            outcome = simulate(batch, samples, record, bar.add if bar else lambda samples: None, disturbances)
            parts.append(self._counted(outcome, samples, times, first))
        return self._result(parts, times, dtype, record)

    def _with_weights(self, noise, seed):
        """The network with the weights that the noise leaves of its own; kept, because its simulations are traced."""
        kinds = tuple(each for each in noise if each.disturbs_weights)
        if not kinds:
            return self
        if self._disturbed is None or self._disturbed[0] != (kinds, seed):
            nodes: list[Node] = []
            successor: dict[Node, Node] = {}
            for place, node in enumerate(self.nodes):
                changed: dict[str, Any] = {"inputs": tuple(successor[source] for source in node.inputs)}
                if isinstance(node, Synapse) and node.layer is not None:
                    changed["kernels"] = node.disturbed_kernels(kinds, Draws(seed, 2, place))
                successor[node] = dataclasses.replace(node, **changed)
                nodes.append(successor[node])
            network = SpikingNetwork(nodes, successor[self.output], self.early_firing)
            network._traced = self._traced
            self._disturbed = (kinds, seed), network
        return self._disturbed[1]

    def _disturbances(self, noise, seed, samples):
        """One Disturbance for each population, for the samples of these numbers; none without noise of spikes."""
        if not any(each.disturbs_neurons for each in noise):
            return ()
        found = []
        for place, population in enumerate(self.populations):
            shapes = Shapes(population.shape, population.inputs[0].shape, population.time_window)
            found.append(of_samples(noise, shapes, seed, place, samples))
        return found

    def _checked(self, x, mode, dtype, batch_size, record):
        checks.one_of("mode", mode, MODES)
        if self.early_firing and mode != "clock":
            raise ValueError(f"Expected mode='clock' for early firing. Received: mode={mode!r}")
        checks.batch(batch_size)
        x = inputs(x, self.nodes, dtype)
        if record and mode != "clock":
            raise ValueError(f"Expected mode='clock' to record membrane potentials. Received: mode={mode!r}")
        sizes = {population.name: population.membranes for population in self.populations}
        sizes[self.output.name] = self.output.size
        return x, checks.recorded(record, sizes, "membranes")

    def _counted(self, outcome, samples, kept, first):
        """What the first `samples` of a batch add to the result. Their spike times go into `kept`, from `first` on."""
        counts = {}
        for population, times in zip(self.populations, outcome.spike_times):
            times = times.numpy()[:samples]
            counts[population.name] = np.array([np.count_nonzero(row < population.time_window) for row in times])
            if kept:
                kept[population.name][first : first + samples] = times
        synaptic = sum(
            float((count.numpy().astype("float64") * self.fan_out[node][place]).sum())
            for (node, place), count in zip(operations.spike_entries(self.nodes), outcome.arrived)
        )
        return {
            "logits": outcome.logits.numpy()[:samples],
            "predictions": None if outcome.predictions is None else outcome.predictions[:samples],
            "counts": counts,
            "synaptic_operations": synaptic,
            "membranes": {name: values[:samples] for name, values in outcome.membranes.items()},
        }

    def _result(self, parts, times, dtype, record):
        def joined(name):
            values = [part[name] for part in parts]
            if isinstance(values[0], dict):
                return {key: np.concatenate([value[key] for value in values]) for key in values[0]}
            return None if values[0] is None else np.concatenate(values)

        logits = joined("logits")
        return SimulationResult(
            logits=logits,
            predictions_per_step=joined("predictions"),
            spike_times=times,
            spike_counts=joined("counts"),
            synaptic_operations=sum(part["synaptic_operations"] for part in parts) / len(logits),
            phases={population.name: phase for population, phase in self.phases.items()},
            neurons={population.name: population.size for population in self.populations},
            membrane_counts={population.name: population.membranes for population in self.populations},
            input_encoders=self.input_encoders,
            decision_step=self.decision_step,
            time_steps=self.time_steps,
            membranes=joined("membranes"),
            recorded=record,
            heard_by={
                population.name: _heard_by(population, record[population.name])
                for population in self.populations
                if population.name in record
            },
            thresholds={population.name: population.thresholds(dtype).numpy() for population in self.populations},
            network=self.identity,
        )

    def _simulation(self, mode, dtype):
        """The simulation of a mode and precision, built when it is first needed."""
        if dtype not in self._functions:
            self._functions[dtype] = functions_of(self.nodes, dtype)
        if (mode, dtype) not in self._simulations:
            arguments = self.nodes, self.output, self._functions[dtype]
            self._simulations[mode, dtype] = (
                EventSimulation(*arguments, self._traced)
                if mode == "event"
                else ClockSimulation(*arguments, dtype, self.phases, self._traced)
            )
        return self._simulations[mode, dtype]


def _heard_by(population, places):
    """For each of some membranes the flat indices of the neurons that hear it."""
    if isinstance(population, WindowPopulation):
        return population.heard_by(places)
    return [np.array([place]) for place in places]
