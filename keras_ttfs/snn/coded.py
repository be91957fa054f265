"""Simulates a trained ReLU network as integrate-and-fire neurons of any coding, one time step after the other.

    network = CodedNetwork.from_model(relu_model, codings.RateCoding(), training_images)
    result = network.run(images)
    result.predictions, result.hidden_spikes, result.spikes_per_step    see `snn.results`

A new neural code is a file in `codings/`: a subclass of `Coding` that says how its neurons fire. Nothing here changes.
"""

import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import checks
from keras_ttfs.snn import gating, operations
from keras_ttfs.snn.codings.coding import Coding
from keras_ttfs.snn.network import batches_of, progress_bar
from keras_ttfs.snn.nodes import (
    Node,
    Operations,
    Phase,
    Population,
    Route,
    Synapse,
    encodes_input,
    functions_of,
    populations_of,
    propagate,
)
from keras_ttfs.snn.reader import read, schedule
from keras_ttfs.snn.results import CodedResult, new_identity
from keras_ttfs.snn.samples import inputs
from keras_ttfs.snn.understood import MAXIMA
from keras_ttfs.tracing import compiled

PERCENTILE = 99.9
OUTPUT = ""  # No layer has this name.


def activation_scales(nodes: list[Node], data: np.ndarray, batch_size: int = 100) -> dict[str, float]:
    """`{population: scale}`: the largest of its neurons' 99.9th-percentile ReLU activations on `data`.

    Args:
        nodes: list of nodes, as `reader.read` gives.
        data: array `(samples, ...)`: training inputs [1].
        batch_size: int >= 1: samples computed at a time.

    A ReLU that is cut off has the cut as its scale, where neurons that send at most their scale are cut off as well.

    Raises:
        ValueError: "Expected some neuron of every layer to be active ... Received: ..." if a layer's scale is 0.
    """
    rank = PERCENTILE / 100 * (len(data) - 1)
    kept = len(data) - int(rank)
    largest: dict = {}  # `{population: (kept, ...)}`: the largest activations of each neuron.

    def activate(population, potential):
        activations = np.clip(potential, 0.0, population.max_value)
        candidates = np.concatenate([largest.get(population.name, activations[:0]), activations])
        largest[population.name] = np.partition(candidates, -min(kept, len(candidates)), axis=0)[-kept:]
        return activations

    functions = functions_of(nodes, "float32")
    for first in range(0, len(data), batch_size):
        propagate(nodes, functions, tf.constant(data[first : first + batch_size], "float32"), activate)
    scales = {name: float(_interpolated(values, rank % 1).max()) for name, values in largest.items()}
    for population in populations_of(nodes):
        if population.max_value is not None:
            scales[population.name] = population.max_value
    for name, scale in scales.items():
        if not scale > 0:
            raise ValueError(
                f"Expected some neuron of every layer to be active on the data. Received: none of {name!r} is"
            )
    return scales


def _interpolated(largest, share):
    """The number at `share` of the way from the smallest to the second smallest of each column."""
    low, high = np.sort(largest, axis=0)[[0, min(1, len(largest) - 1)]]
    return low + share * (high - low)


class CodedNetwork:
    """A trained ReLU model whose neurons speak in spikes of a coding (rate, phase, burst, temporal switch).

    Batch normalisation is folded into the synapses. Each layer's activations are measured in units of its scale (weight
    normalisation). The input is an analog current. The output integrates, and its potentials are the logits. Max
    pooling listens to one neuron of each window: the one that has sent the most so far. A second pooling behind it
    listens to the place from which it has heard the most. In a coding with windows max pooling takes the largest of
    what is sent at each step, because the last neuron to switch off has the largest activation.

    >>> relu = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(2)])
    >>> x = np.random.default_rng(0).uniform(size=(8, 4)).astype("float32")
    >>> from keras_ttfs.snn.codings import RateCoding
    >>> result = CodedNetwork.from_model(relu, RateCoding(), x).run(x, time_steps=100)
    >>> bool(np.allclose(result.logits, relu(x), atol=0.1))
    True

    Args:
        nodes: list of nodes, as `reader.read` gives. They are not changed, so several networks may share them.
        output: the node whose value is the logits, as `reader.read` gives.
        coding: a Coding.
        scales: `{population: the activation that is sent as 1}`, as `activation_scales` gives [1].

    Attributes:
        populations: the Population nodes, in the order of computation.
        phases: `{population: Phase}` of a coding with windows [steps]. None: all neurons may fire at every step.
        time_steps: default of H [steps]: that of the coding, or the end of the last window.
        identity: str that no other network has, but copies of this one. Results of `run` carry it.

    Reference: section 6, Table 2.
    """

    def __init__(self, nodes: list[Node], output: Node, coding: Coding, scales: dict[str, float]):
        self.nodes = nodes
        self.output = output
        self.coding = coding
        self.scales = scales
        self.identity = new_identity()
        self.populations: list[Population] = populations_of(nodes)
        self.phases: dict[Population, Phase] | None = None
        self.time_steps: int = coding.time_steps  # type: ignore[assignment]  # None only in a coding with windows.
        if coding.time_window is not None:
            self.phases = schedule(nodes, dict.fromkeys(self.populations, coding.time_window))
            self.time_steps = max(phase.end for phase in self.phases.values())
        self._simulations: dict = {}

    @classmethod
    def from_model(cls, model: keras.Model, coding: Coding, data: Any, batch_size: int = 100) -> "CodedNetwork":
        """The network of a Functional or built Sequential ReLU model, with the weights that it has now.

        Args:
            model: of the layers that `SpikingNetwork.from_model` takes, with ReLU in the place of TTFSActivation.
            coding: a Coding.
            data: array `(samples, ...)` of training inputs, or a data set, generator or list of batches, from which the
                scales are measured [1]. Below a thousand samples the percentile is about the maximum.
            batch_size: int >= 1: samples of `data` at a time.

        Raises:
            ValueError: "Expected ... Received: ..." naming the layer that cannot be turned into spikes.
        """
        if not isinstance(coding, Coding):
            raise ValueError(f"Expected coding to be a Coding, RateCoding() say. Received: coding={coding!r:.60}")
        nodes, output = read(model, "relu")
        if not populations_of(nodes):
            raise ValueError("Expected a model with ReLU activations. Received: none before its output")
        if len(output.shape) != 1:
            raise ValueError(
                f"Expected an output of shape (classes,). Received: shape {output.shape} of {output.name!r}"
            )
        for population in populations_of(nodes):
            if population.max_value is not None and not coding.saturates:
                raise ValueError(
                    "Expected ReLU without max_value, because the neurons of this coding are not cut off at their scale. "
                    f"Received: {population.name!r} with max_value={population.max_value}, {type(coding).__name__}"
                )
        checks.batch(batch_size)
        scales = activation_scales(nodes, inputs(data, nodes, "float32"), batch_size)
        return cls(nodes, output, coding, scales)

    @functools.cached_property
    def neurons(self) -> int:
        """N: inputs, hidden neurons and outputs."""
        return operations.neurons_of(self.nodes, self.output)

    @property
    def membranes(self) -> int:
        """Potentials that integrate, as many as `neurons`: max pooling of a CodedNetwork hears spikes."""
        return self.neurons

    @functools.cached_property
    def fan_out(self) -> dict[Node, list]:
        """`operations.fan_out` of the network: `{node that spikes enter: [array (...) for each of its inputs]}`."""
        return operations.fan_out(self.nodes, self.output)

    @functools.cached_property
    def dense_counts(self) -> Operations:
        """`operations.dense_counts` of the network: operations of the ReLU model per sample, by their kind."""
        return operations.dense_counts(self.nodes)

    @functools.cached_property
    def analog_counts(self) -> Operations:
        """`operations.analog_counts` of the network: operations on the analog input per sample, by their kind."""
        return operations.analog_counts(self.nodes)

    @functools.cached_property
    def input_encoders(self) -> tuple[str, ...]:
        """Names of the populations on the input itself."""
        return tuple(population.name for population in self.populations if encodes_input(population))

    def run(
        self,
        x: Any,
        time_steps: int | None = None,
        dtype: str = "float32",
        batch_size: int = 100,
        stop_after: int | None = None,
        record: Mapping | None = None,
        verbose: Any = "auto",
    ) -> CodedResult:
        """Simulates the network on a batch of inputs. Memory does not grow with the time steps, but for `record`.

        Args:
            x: array `(samples, ...)` of the model's input shape, finite [1]; or a data set, generator or list of batches.
            time_steps: int >= 1: H [steps]. None: the coding's own. Codings with windows take no other.
            dtype: `"float32"` or `"float64"`.
            batch_size: int >= 1: samples simulated at a time.
            stop_after: int >= 1 or None: a sample stops when its prediction has not changed for so many steps, counted
                from its first spike at the output [steps]. A stopped sample fires no more. Codings with windows do not
                stop before their last step.
            record: `{layer: flat indices of neurons}` whose spikes to keep at every step, for `plots.spike_raster`.
            verbose: `"auto"` (a progress bar on terminals), 0 or 1.

        Returns:
            A CodedResult.

        Raises:
            ValueError: "Expected ... Received: ..." for a wrong argument.
        """
        checks.batch(batch_size)
        x = inputs(x, self.nodes, dtype)
        time_steps = self._checked_steps(time_steps, stop_after)
        record = checks.recorded(
            record, {population.name: population.size for population in self.populations}, "neurons"
        )
        bar = progress_bar(-(-len(x) // min(batch_size, len(x))) * time_steps, "step", verbose)
        simulation = self._simulation(dtype)
        runs = [
            simulation.run(batch, samples, time_steps, stop_after, record, bar)
            for _, samples, batch in batches_of(x, batch_size)
        ]
        logits, predictions, counts, synaptic_operations, stopped_at, trains = zip(*runs)
        spikes = sum(counts) / len(x)
        hidden = [population.name not in self.input_encoders for population in self.populations]
        return CodedResult(
            logits=np.concatenate(logits),
            predictions_per_step=np.concatenate(predictions),
            spikes_per_step=spikes[:, hidden].sum(1),
            spikes={population.name: float(count) for population, count in zip(self.populations, spikes.sum(0))},
            neurons={population.name: population.size for population in self.populations},
            input_encoders=self.input_encoders,
            stopped_at=np.concatenate(stopped_at),
            time_steps=time_steps,
            synaptic_operations=sum(synaptic_operations) / len(x),
            recorded=record,
            spike_trains={name: np.concatenate([part[name] for part in trains]) for name in record},
            network=self.identity,
        )

    def _checked_steps(self, time_steps, stop_after):
        for name, value in (("time_steps", time_steps), ("stop_after", stop_after)):
            if value is not None:
                checks.integer(name, value, unit="steps")
        if self.phases is None:
            return int(time_steps or self.time_steps)
        for name, value in (("time_steps", time_steps), ("stop_after", stop_after)):
            if value not in (None, self.time_steps):
                raise ValueError(
                    f"Expected no {name} for a coding with windows: it answers after {self.time_steps} steps. "
                    f"Received: {name}={value!r}"
                )
        return self.time_steps

    def _simulation(self, dtype):
        if dtype not in self._simulations:
            self._simulations[dtype] = _Simulation(self, dtype)
        return self._simulations[dtype]


class _Simulation:
    """The simulator: one loop over time for every coding.

    `memory[name]` holds what a node remembers from one time step to the next: `(potential, state)` for a population,
    the potential for the output, and for a max pooling what each neuron before it has sent so far. In a coding with
    windows a max pooling remembers where it passed something on.
    """

    def __init__(self, network, dtype):
        self.network = network
        self.coding = network.coding
        self.dtype = dtype
        self.affine = functions_of(network.nodes, dtype)
        self.linear = {node: node.linear(dtype) for node in self.affine}
        self.scales = {name: tf.constant(scale, dtype) for name, scale in network.scales.items()}
        self.routes = {node: node.function("float64") for node in network.nodes if isinstance(node, Route)}
        # In windows all that fire switch on together and the last to switch off is the largest, so no pooling is gated.
        self.pools = [node for node in self.routes if type(node.layer) in MAXIMA and node.spiking]
        self.gated = self.pools if network.phases is None else []
        self.fan_out = [
            (node.inputs[place], tf.constant(network.fan_out[node][place][None], tf.float64))
            for node, place in operations.spike_entries(network.nodes)
        ]
        self.drive = tf.function(self._drive, autograph=False)
        self.advance = tf.function(self._advance, autograph=False)

    def run(self, batch, samples, time_steps, stop_after, record, progress):
        network = self.network
        trains = {name: np.zeros((samples, len(places), time_steps), "int8") for name, places in record.items()}
        drive = self.drive(tf.constant(batch))
        memory = self._start(drive, len(batch))
        rows = np.arange(len(batch))  # Which sample's memory is at each place of the batch.
        alive = rows < samples
        counts, synaptic_operations = np.zeros((time_steps, len(network.populations))), 0.0
        predictions = np.zeros((samples, time_steps), "int32")
        logits = np.zeros((samples, *network.output.shape), self.dtype)
        changed, stopped_at = np.zeros(samples, int), np.full(samples, time_steps)
        answered = np.zeros(samples, bool)  # Whether a spike has ever reached the output.
        for now in range(time_steps):
            firing = self._firing(now)
            memory, count, caused, potential, arrives, recorded = self.advance(
                firing, tf.constant(now), drive, memory, tf.constant(alive), record
            )
            counts[now] = count.numpy()
            synaptic_operations += float(caused)
            places, potential = np.flatnonzero(alive), potential.numpy()
            living = rows[places]
            for name, fired in recorded.items():
                trains[name][living, :, now] = fired.numpy()[places]
            predictions[living, now:] = potential[places].argmax(-1)[:, None]
            logits[living] = potential[places] / self._elapsed(now)
            changes = ~answered[living] | (predictions[living, now] != predictions[living, now - 1])
            changed[living] = np.where(changes, now, changed[living])
            answered[living] |= arrives.numpy()[places]
            if progress:
                progress.add(1)
            if stop_after is None:
                continue
            done = living[answered[living] & (now + 1 - changed[living] >= stop_after)]
            stopped_at[done] = now + 1
            alive[places] &= ~np.isin(living, done)
            if not alive.any():
                if progress:
                    progress.add(time_steps - now - 1)
                break
            if alive.sum() <= len(alive) // 2:
                # The other samples go on in a batch of half the size, which costs half.
                kept = np.argsort(~alive, kind="stable")[: len(alive) // 2]
                rows, alive = rows[kept], alive[kept]
                drive, memory = tf.nest.map_structure(lambda value, kept=kept: tf.gather(value, kept), (drive, memory))
        return logits, predictions, counts, synaptic_operations, stopped_at, trains

    def _elapsed(self, now):
        """How often an activation has been sent by the end of a step."""
        return 1.0 if self.coding.current is None else self.coding.current * (now + 1)

    def _firing(self, now):
        """Names of the populations that may fire at a step."""
        phases = self.network.phases
        if phases is None:
            return tuple(population.name for population in self.network.populations)
        return tuple(population.name for population, phase in phases.items() if phase.start <= now < phase.end)

    def _drive(self, batch):
        """`{name: potential}` of populations and output without any spike: biases, and the analog input."""
        drive: dict[str, Any] = {}

        def stay_silent(population, potential):
            drive[population.name] = potential
            return tf.zeros_like(potential)

        values = propagate(self.network.nodes, self.affine, batch, stay_silent)
        drive[OUTPUT] = values[self.network.output]
        share = 1.0 if self.coding.current is None else self.coding.current
        return {name: value * tf.constant(share, self.dtype) for name, value in drive.items()}

    def _start(self, drive, samples):
        initial = tf.identity if self.coding.current is None else tf.zeros_like
        memory = {OUTPUT: initial(drive[OUTPUT])}
        for population in self.network.populations:
            first = self.coding.initial_potential * self.scales[population.name]
            potential = initial(drive[population.name]) + first
            memory[population.name] = potential, self.coding.state(potential)
        for node in self.gated:
            memory[node.name] = tf.zeros((samples, *node.inputs[0].shape), self.dtype)
        if not self.gated:
            memory |= {node.name: tf.zeros((samples, *node.shape), tf.bool) for node in self.pools}
        return memory

    def _advance(self, firing, now, drive, memory, alive, record=None):
        """One time step of the living samples.

        Returns:
            `(memory, spikes of each population, synaptic operations, potentials of the output, whether a spike reached
            it, spikes of the recorded neurons)`. The last two are told for each sample.
        """
        values: dict[Node, Any] = {}
        spikes: dict[Node, Any] = {}  # At each place, of the living samples together.
        after: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        drive = dict.fromkeys(drive) if self.coding.current is None else drive
        for node in self.network.nodes:
            inputs = [values[source] for source in node.inputs]
            if isinstance(node, Population):
                potential, state = memory[node.name]
                potential = _sum(potential, inputs[0], drive[node.name])
                values[node], spikes[node] = None, None
                if node.name in firing:
                    local = now if self.network.phases is None else now - self.network.phases[node].start
                    fire = compiled(self.coding.fire, each_shape=True)
                    potential, state, values[node], fired = fire(potential, state, self.scales[node.name], local)
                    spikes[node] = gating.at_each_place(fired, alive)
                    if node.name in (record or {}):
                        flat = tf.reshape(fired, (-1, node.size))
                        kept[node.name] = tf.gather(flat, record[node.name], axis=1)
                after[node.name] = potential, state
            elif all(value is None for value in inputs):
                values[node], spikes[node] = None, None
            elif node in self.pools:
                after[node.name], values[node], spikes[node] = self._pooled(node, memory[node.name], inputs[0], alive)
            else:
                values[node] = self._passed_on(node, inputs)
                if node in self.routes:
                    zeros = (tf.zeros((1, *source.shape), tf.float64) for source in node.inputs)
                    places = [spikes.get(source) for source in node.inputs]
                    spikes[node] = self.routes[node](*(z if p is None else p for z, p in zip(zeros, places)))
        sent = values[self.network.output]
        after[OUTPUT] = _sum(memory[OUTPUT], sent, drive[OUTPUT])
        arrives = tf.zeros_like(alive) if sent is None else tf.reduce_any(sent != 0, axis=1)
        after |= {node.name: memory[node.name] for node in self.pools if node.name not in after}
        zero = tf.constant(0.0, tf.float64)
        fired = [spikes[population] for population in self.network.populations]
        counts = [zero if places is None else tf.reduce_sum(places) for places in fired]
        caused = [tf.reduce_sum(spikes[source] * ways) for source, ways in self.fan_out if spikes[source] is not None]
        return after, tf.stack(counts), tf.add_n([zero, *caused]), after[OUTPUT], arrives, kept

    def _pooled(self, node, memory, sent, alive):
        """`(memory, passed on, spikes at each place)` of a max pooling."""
        if node in self.gated:
            memory, heard = gating.gated(node.layer, memory, sent)
            heard = tf.reshape(heard, (-1, *node.shape))
            return memory, heard, gating.at_each_place(heard != 0, alive)
        passed = self.linear[node](sent)
        on = passed != 0
        # Switched on once, and off once.
        return on, passed, 2 * gating.at_each_place(on & ~memory, alive)

    def _passed_on(self, node, inputs):
        """What a node makes of the spikes that its inputs send. An input that sends none counts as 0."""
        sent = next(value for value in inputs if value is not None)
        samples = tf.shape(sent)[0]
        inputs = [
            tf.zeros((samples, *source.shape), self.dtype) if value is None else value
            for source, value in zip(node.inputs, inputs)
        ]
        if not isinstance(node, Synapse):
            return self.linear[node](*inputs)
        (sent,) = inputs
        silence = tf.zeros((samples, *node.shape), self.dtype)
        # A layer that heard nothing costs nothing.
        return tf.cond(tf.reduce_any(sent != 0), lambda: self.linear[node](sent), lambda: silence)


def _sum(*values):
    return sum(value for value in values if value is not None)
