"""The two simulations of a TTFS network: event by event, and step by step. Both fire the same spikes.

`SpikingNetwork.run` builds a simulation and calls it with one batch after the other. Each call returns an Outcome.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ttfs.noise import Disturbance
from keras_ttfs.snn.nodes import Node, Phase, Population, TTFSPopulation, propagate, sources_of
from keras_ttfs.snn.operations import spike_entries
from keras_ttfs.snn.windows import WindowPopulation
from keras_ttfs.tracing import compiled


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A simulated batch, before its spikes are counted.

    Attributes:
        logits: tensor `(batch, classes)` [1].
        spike_times: a tensor `(batch, ...)` for each population [steps].
        arrived: for each of `operations.spike_entries`, how many of the samples sent a spike from each place.
        predictions: int array `(batch, decision_step)`; None if the output has no classes or no step was seen.
        membranes: `{layer: array (batch, chosen membranes, decision_step)}` [1].
    """

    logits: tf.Tensor
    spike_times: list[tf.Tensor]
    arrived: list[tf.Tensor]
    predictions: np.ndarray | None = None
    membranes: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


class EventSimulation:
    """Simulates each layer once, because its potentials are complete when its inputs have fired.

    Args:
        nodes, output: as `reader.read` gives.
        functions: as `nodes.functions_of` gives.
        traced: bool: whether to trace the whole simulation as one function. It is faster, and TensorFlow keeps about a
            megabyte of each trace for ever.
    """

    def __init__(self, nodes: list[Node], output: Node, functions: dict[Node, Callable], traced: bool = True):
        self.nodes = nodes
        self.output = output
        self.functions = functions
        self.traced = traced
        self.simulations: dict = {}  # Compiled functions, by what is disturbed.

    def __call__(
        self,
        batch: np.ndarray,
        samples: int,
        record: Mapping,
        advanced: Callable,
        disturbances: Sequence[Disturbance] = (),
    ) -> Outcome:
        """Simulates a batch, of which the first `samples` count. Calls `advanced(n)` when n samples are done.

        `disturbances` has one for each population, or is empty.
        """
        disturbed = tuple(tuple(field is not None for field in each) for each in disturbances)
        if disturbed not in self.simulations:
            # A partial, because TensorFlow warns of one function that is traced again and again.
            function = functools.partial(self._simulate)
            self.simulations[disturbed] = tf.function(function, autograph=False) if self.traced else function
        outcome = self.simulations[disturbed](tf.constant(batch), tf.constant(samples), tuple(disturbances))
        advanced(samples)
        return Outcome(*outcome)

    def _simulate(self, batch, samples, disturbances):
        times: list[tf.Tensor] = []

        def fire(population, potential):
            if not disturbances:
                spike_time, level = population.fire(potential)
            else:
                spike_time, level = _disturbed(population, potential, disturbances[len(times)])
            times.append(spike_time)
            return level

        values = propagate(self.nodes, self.functions, batch, fire)
        return values[self.output], times, _arrived(self.nodes, values, samples)


class ClockSimulation:
    """Simulates one global time step after the other.

    `sent[population]` is what a population has sent so far: the level of each neuron that has fired, and 0 for the
    others. A population's potentials are computed anew from all of `sent` at each step at which it may fire or is
    recorded, the output's at each step. So they are the integral of Eq. 1 up to that step, and their rounding does not grow
    with the steps. Layers that nothing has reached since keep their potentials. In a population of winner-take-all windows
    every membrane integrates, and its windows fire.

    Args:
        nodes, output: as `reader.read` gives.
        functions: as `nodes.functions_of` gives, in `dtype`.
        dtype: `"float32"` or `"float64"`.
        phases: `{population: Phase}`, as `reader.schedule` gives [steps].
        traced: bool: whether to trace each set of layers as one function.
    """

    def __init__(
        self,
        nodes: list[Node],
        output: Node,
        functions: dict[Node, Callable],
        dtype: str,
        phases: dict[TTFSPopulation, Phase],
        traced: bool = True,
    ):
        self.traced = traced
        self.nodes = nodes
        self.output = output
        self.dtype = dtype
        self.phases = phases
        self.populations: list[TTFSPopulation] = list(phases)
        self.decision_step = max(phase.end for phase in phases.values())
        self.functions = functions
        self.tables = {population: population.thresholds(dtype) for population in phases}
        self.thresholds = {population: tf.unstack(table) for population, table in self.tables.items()}
        self.levels = {population: tf.unstack(population.levels(dtype)) for population in phases}
        # For each population and the output: the populations whose spikes reach it.
        self.senders = {target: sources_of(target) for target in [*self.populations, output]}
        # Of populations of windows: the functions of `largest` and `silencing`.
        self.windows = {p: (p.largest(dtype), p.silencing()) for p in phases if isinstance(p, WindowPopulation)}
        self.fire = {population: self._firing_of(population) for population in phases}
        self.integrations: dict = {}  # Compiled functions, by the nodes whose potentials they compute.

    def __call__(
        self,
        batch: np.ndarray,
        samples: int,
        record: Mapping,
        advanced: Callable,
        disturbances: Sequence[Disturbance] = (),
    ) -> Outcome:
        """As that of EventSimulation."""
        wrong = dict(zip(self.populations, disturbances))
        targets = [*self.populations, self.output]
        shapes = {population: (len(batch), *population.shape) for population in self.populations}
        sent = {population: tf.zeros(shape, self.dtype) for population, shape in shapes.items()}
        times = {population: tf.fill(shape, population.silent) for population, shape in shapes.items()}
        x = tf.constant(batch)
        potential: dict = {}
        stale = set(targets)  # Those that spikes have reached since their potentials were computed.
        membranes: dict = {name: [] for name in record}
        predictions = np.zeros((len(batch), self.decision_step), int) if len(self.output.shape) == 1 else None
        for now in range(self.decision_step):
            firing = [population for population, (start, window) in self.phases.items() if 0 <= now - start < window]
            recorded = [target for target in targets if target.name in record]
            looked_at = [target for target in targets if target in stale and (target in firing or target in recorded)]
            potential |= self._integrated(x, sent, looked_at)
            for target in recorded:
                flat = tf.reshape(potential[target], (len(batch), -1))
                membranes[target.name].append(tf.gather(flat, record[target.name], axis=1).numpy())
            for population in firing:
                local = now - self.phases[population].start
                state = potential[population], times[population], sent[population]
                step = tf.constant(local, population.silent.dtype), population.silent
                level = self.levels[population][local]
                if population in wrong:
                    state = self._fire_disturbed(population, *state, level, *step, wrong[population])
                else:
                    state = self.fire[population](*state, self.thresholds[population][local], level, *step)
                potential[population], times[population], sent[population] = state
            reached = {target for target, senders in self.senders.items() if senders.intersection(firing)}
            stale = (stale - set(looked_at)) | reached
            if self.output in stale:
                potential |= self._integrated(x, sent, [self.output])
                stale.remove(self.output)
            if predictions is not None and (now == 0 or self.output in reached):
                predictions[:, now:] = potential[self.output].numpy().argmax(-1)[:, None]
            advanced(samples * (now + 1) // self.decision_step - samples * now // self.decision_step)
        return Outcome(
            potential[self.output],
            list(times.values()),
            self._count_arrived(x, list(sent.values()), tf.constant(samples)),
            predictions,
            {name: np.stack(values, axis=-1) for name, values in membranes.items()},
        )

    def _firing_of(self, population):
        """`fire_one_step` of a population."""
        if population not in self.windows:
            return fire_one_step
        largest, silence = self.windows[population]

        def fire_windows(potential, times, *others):
            _, after, sent = fire_one_step(largest(potential), times, *others)
            return silence(potential, after != times, after == population.silent), after, sent

        return tf.function(fire_windows, autograph=False) if self.traced else fire_windows

    def _fire_disturbed(self, population, potential, times, sent, level, step, silent, found):
        """One local step of a population with a Disturbance."""
        counted = potential if found.gain is None else potential * tf.cast(found.gain, potential.dtype)
        largest, silence = self.windows.get(population, (None, None))
        if largest:
            counted = largest(counted)
        after, sent = fire_disturbed_step(
            counted,
            times,
            sent,
            self.tables[population],
            level,
            step,
            silent,
            0 if found.shift is None else found.shift,
            False if found.silent is None else found.silent,
            -1 if found.spurious is None else found.spurious,
        )
        fires = after != times
        if silence:
            return silence(potential, fires, after == silent), after, sent
        return tf.where(fires, tf.zeros_like(potential), potential), after, sent

    def _integrated(self, batch, sent, targets):
        """`{target: membrane potential}` after the spikes sent so far."""
        if not targets:
            return {}
        key = tuple(targets)
        if key not in self.integrations:
            needed = self._upstream(targets)
            function = functools.partial(self._potentials, needed, key)
            senders = [node for node in needed if isinstance(node, Population)]
            self.integrations[key] = tf.function(function, autograph=False) if self.traced else function, senders
        function, senders = self.integrations[key]
        return dict(zip(targets, function(batch, [sent[sender] for sender in senders])))

    def _upstream(self, targets):
        """Nodes whose values the targets' potentials need, senders included, in order."""
        needed, frontier = set(), [_potential_node(target) for target in targets]
        while frontier:
            node = frontier.pop()
            if node not in needed:
                needed.add(node)
                frontier += () if isinstance(node, Population) else node.inputs
        return [node for node in self.nodes if node in needed]

    def _potentials(self, needed, targets, batch, sent):
        remaining = iter(sent)
        values = propagate(needed, self.functions, batch, lambda population, potential: next(remaining))
        return [values[_potential_node(target)] for target in targets]

    def _count_arrived(self, batch, sent, samples):
        remaining = iter(sent)
        spiking = [node for node in self.nodes if node.spiking]
        values = propagate(spiking, self.functions, batch, lambda population, potential: next(remaining))
        return _arrived(self.nodes, values, samples)


def _disturbed(population, potential, found):
    """`(spike times, levels)` of a population's complete potentials, with a Disturbance."""
    if found.gain is not None:
        potential = potential * tf.cast(found.gain, potential.dtype)
    spike_time, _ = population.fire(potential)
    spike_time = found.disturbed(spike_time, population.time_window)
    levels = tf.concat([population.levels(potential.dtype.name), tf.zeros(1, potential.dtype)], axis=0)
    return spike_time, tf.gather(levels, tf.cast(spike_time, tf.int32))


def _potential_node(target: Node) -> Node:
    """The node whose value is a target's potential."""
    return target.inputs[0] if isinstance(target, Population) else target


def _arrived(nodes: list[Node], values: dict, samples: Any) -> list[tf.Tensor]:
    return [_spikes_at_each_place(values[node.inputs[place]], samples) for node, place in spike_entries(nodes)]


@functools.partial(compiled, each_shape=True)
def _spikes_at_each_place(values, samples):
    counted = tf.reshape(tf.range(values.shape[0]) < samples, (-1, *[1] * (len(values.shape) - 1)))
    return tf.reduce_sum(tf.cast((values > 0) & counted, tf.float32), axis=0)


@functools.partial(compiled, each_shape=True)
def fire_one_step(
    potential: Any, times: Any, sent: Any, threshold: Any, level: Any, step: Any, silent: Any
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Fires one local step of a population: `(potential, times, sent)` after the step."""
    fires = (potential >= threshold) & (potential > 0) & (times == silent)
    # Refractory, because the reset takes the potential below every threshold, and the neuron has its spike time.
    potential = tf.where(fires, tf.zeros_like(potential), potential)
    return potential, tf.where(fires, step, times), tf.where(fires, level, sent)


@functools.partial(compiled, each_shape=True)
def fire_disturbed_step(
    potential: Any,
    times: Any,
    sent: Any,
    thresholds: Any,
    level: Any,
    step: Any,
    silent: Any,
    shift: Any,
    never: Any,
    spurious: Any,
) -> tuple[tf.Tensor, tf.Tensor]:
    """One local step of a population with a Disturbance: `(times, sent)` after the step.

    A neuron's threshold comes `shift` steps late. At the last step of the window all that have not fired have the last one.
    """
    now, last = tf.cast(step, tf.int32), tf.size(thresholds) - 1
    place = tf.where(now == last, last, tf.clip_by_value(now - shift, -1, last))
    # Before its threshold has begun to fall a neuron does not fire.
    table = tf.concat([tf.constant([float("inf")], thresholds.dtype), thresholds], axis=0)
    fires = (potential >= tf.gather(table, place + 1)) & (potential > 0)
    fires = (fires | (spurious == now)) & (times == silent) & ~tf.convert_to_tensor(never)
    return tf.where(fires, step, times), tf.where(fires, level, sent)
