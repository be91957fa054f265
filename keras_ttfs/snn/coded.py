"""Simulates a trained ReLU network as integrate-and-fire neurons of any coding, one time step after the other."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs.snn import graph
from keras_ttfs.snn.codings.coding import check_steps
from keras_ttfs.snn.graph import Input, Population
from keras_ttfs.snn.network import check_batch_size, check_inputs, shows_progress

PERCENTILE = 99.9
OUTPUT = ""  # No layer has this name.


@dataclasses.dataclass(frozen=True)
class CodedResult:
    """What a simulation of a CodedNetwork saw.

    Attributes:
        logits: `(samples, classes)`: the output's potentials at the end, in the ReLU model's units [1].
        predictions: int16 `(samples, time_steps)`: the class of the largest potential after each step; of a sample that
            stopped, its last.
        spikes_per_step: `(time_steps,)`: mean spikes per sample in each step, hidden layers.
        spikes: `{layer: mean spikes per sample}`.
        neurons: `{layer: neurons}`.
        steps: int `(samples,)`: after how many steps each sample stopped [steps].
        time_steps: H [steps].
    """

    logits: np.ndarray
    predictions: np.ndarray
    spikes_per_step: np.ndarray
    spikes: dict
    neurons: dict
    steps: np.ndarray
    time_steps: int

    @property
    def hidden_spikes(self):
        """S: mean spikes per sample."""
        return sum(self.spikes.values())


def activation_scales(steps, data, batch_size=100):
    """`{population: scale}`: the largest of its neurons' 99.9th-percentile ReLU activations on `data`.

    Args:
        steps: of `graph.read`.
        data: array `(samples, ...)`: training inputs [1].
        batch_size: int >= 1: samples computed at a time.

    Raises:
        ValueError: "Expected some neuron of every layer to be active ..." where a layer's scale is 0.
    """
    rank = PERCENTILE / 100 * (len(data) - 1)
    kept = len(data) - int(rank)
    largest = {}  # Of each neuron, its so many largest activations.
    functions = {step: step.made("float32") for step in steps if not isinstance(step, (Input, Population))}
    for first in range(0, len(data), batch_size):
        values = {}
        for step in steps:
            inputs = [values[source] for source in step.inputs]
            if isinstance(step, Input):
                values[step] = np.asarray(data[first : first + batch_size], "float32")
            elif isinstance(step, Population):
                values[step] = np.maximum(inputs[0], 0.0)
                candidates = np.concatenate([largest.get(step.name, values[step][:0]), values[step]])
                largest[step.name] = np.partition(candidates, -min(kept, len(candidates)), axis=0)[-kept:]
            else:
                values[step] = functions[step](*inputs).numpy()
    scales = {name: float(_interpolated(values, rank % 1).max()) for name, values in largest.items()}
    for name, scale in scales.items():
        if not scale > 0:
            raise ValueError(
                f"Expected some neuron of every layer to be active on the data. Received: none of {name!r} is"
            )
    return scales


def _interpolated(largest, share):
    """Between the smallest and the second smallest of each column, at `share` of the way."""
    low, high = np.sort(largest, axis=0)[[0, min(1, len(largest) - 1)]]
    return low + share * (high - low)


class CodedNetwork:
    """A trained ReLU model whose neurons speak in spikes of a coding (rate, phase, burst, temporal switch).

    Batch normalisation is folded into the synapses; each layer's activations are measured in units of its scale (weight
    normalisation). The input is an analog current. The output integrates, and its potentials are the logits. In the
    window of a max pooling the neuron that has sent the most so far is the one that is heard (behind another pooling: the
    place from which the most was heard).

    >>> relu = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(2)])
    >>> x = np.random.default_rng(0).uniform(size=(8, 4)).astype("float32")
    >>> from keras_ttfs.snn.codings import RateCoding
    >>> result = CodedNetwork.from_model(relu, RateCoding(), x).run(x, time_steps=100)
    >>> bool(np.allclose(result.logits, relu(x), atol=0.1))
    True

    Reference: section 6, Table 2.
    """

    def __init__(self, steps, output, coding, scales):
        self.steps = steps
        self.output = output
        self.coding = coding
        self.scales = scales
        self.populations = [step for step in steps if isinstance(step, Population)]
        if coding.time_window is not None:
            for population in self.populations:
                population.time_window = coding.time_window
            graph.schedule(steps)
        self._made = {}

    @classmethod
    def from_model(cls, model, coding, data, batch_size=100):
        """The network of a Functional or Sequential ReLU model, with the weights that it has now.

        Args:
            model: of the layers that `SpikingNetwork.from_model` takes, with ReLU in the place of TTFSActivation.
            coding: a Coding.
            data: array `(samples, ...)` of training inputs, from which the scales are measured [1]; of fewer
                than a thousand the percentile is about the maximum.
            batch_size: int >= 1: samples of `data` at a time.

        Raises:
            ValueError: "Expected ... Received: ..." naming the layer that cannot be turned into spikes.
        """
        steps, output = graph.read(model, relu=True)
        if not any(isinstance(step, Population) for step in steps):
            raise ValueError("Expected a model with ReLU activations. Received: none before its output")
        if len(output.shape) != 1:
            raise ValueError(
                f"Expected an output of shape (classes,). Received: shape {output.shape} of {output.name!r}"
            )
        check_batch_size(batch_size)
        scales = activation_scales(steps, check_inputs(data, steps[0].shape, "float32"), batch_size)
        return cls(steps, output, coding, scales)

    @property
    def neurons(self):
        """N: inputs, hidden neurons and outputs."""
        ends = np.prod(self.steps[0].shape) + np.prod(self.output.shape)
        return int(ends) + sum(population.size for population in self.populations)

    @property
    def time_steps(self):
        """H by default: the coding's, or that of the windows one after the other [steps]."""
        if self.coding.time_window is None:
            return self.coding.time_steps
        return max(population.end for population in self.populations)

    def run(self, x, time_steps=None, dtype="float32", batch_size=100, stop_after=None, verbose="auto"):
        """Simulates the network on a batch of inputs. Memory does not grow with the time steps.

        Args:
            x: array `(samples, ...)` of the model's input shape, finite [1].
            time_steps: int >= 1: H; the coding's own if None [steps]. Codings with windows take no other.
            dtype: `"float32"` or `"float64"`.
            batch_size: int >= 1: samples simulated at a time.
            stop_after: int >= 1 or None: a sample whose prediction has not changed for so many steps, counted from its
                first spike at the output, stops and fires no more [steps].
            verbose: `"auto"` (a progress bar on terminals), 0 or 1.

        Returns:
            A CodedResult.

        Raises:
            ValueError: "Expected ... Received: ..." for a wrong argument.
        """
        check_batch_size(batch_size)
        x = check_inputs(x, self.steps[0].shape, dtype)
        time_steps = self._checked_steps(time_steps, stop_after)
        batch_size = min(batch_size, len(x))
        total = -(-len(x) // batch_size) * time_steps
        progress = keras.utils.Progbar(total, unit_name="step") if shows_progress(verbose) else None
        simulation = self._simulation(dtype)
        runs = []
        for first in range(0, len(x), batch_size):
            batch = x[first : first + batch_size]
            filled = np.concatenate([batch, np.zeros((batch_size - len(batch), *x.shape[1:]), dtype)])
            runs.append(simulation.run(filled, len(batch), time_steps, stop_after, progress))
        logits, predictions, counts, steps = zip(*runs)
        counts = sum(counts) / len(x)
        return CodedResult(
            logits=np.concatenate(logits),
            predictions=np.concatenate(predictions),
            spikes_per_step=counts.sum(1),
            spikes={population.name: float(count) for population, count in zip(self.populations, counts.sum(0))},
            neurons={population.name: population.size for population in self.populations},
            steps=np.concatenate(steps),
            time_steps=time_steps,
        )

    def _checked_steps(self, time_steps, stop_after):
        for name, value in (("time_steps", time_steps), ("stop_after", stop_after)):
            if value is not None:
                check_steps(name, value)
        if self.coding.time_window is None:
            return int(time_steps or self.time_steps)
        for name, value in (("time_steps", time_steps), ("stop_after", stop_after)):
            if value not in (None, self.time_steps):
                raise ValueError(
                    f"Expected no {name} for a coding with windows: it answers after {self.time_steps} steps. "
                    f"Received: {name}={value!r}"
                )
        return self.time_steps

    def _simulation(self, dtype):
        if dtype not in self._made:
            self._made[dtype] = _Simulation(self, dtype)
        return self._made[dtype]


class _Simulation:
    """The simulator: one loop over time for every coding.

    `memory[name]` holds what a step remembers from one time step to the next: `(potential, state)` of a population, the
    potential of the output, what each neuron has sent so far before a max pooling.
    """

    def __init__(self, network, dtype):
        self.network = network
        self.coding = network.coding
        self.dtype = dtype
        others = (Input, Population)
        self.affine = {step: step.made(dtype) for step in network.steps if not isinstance(step, others)}
        self.linear = {step: step.linear(dtype) for step in self.affine}
        self.scales = {name: tf.constant(scale, dtype) for name, scale in network.scales.items()}
        self.gated = [step for step in network.steps if self._is_gated(step)]
        self.drive = tf.function(self._drive, autograph=False)
        self.advance = tf.function(self._advance, autograph=False)

    def _is_gated(self, step):
        pools = isinstance(getattr(step, "layer", None), keras.layers.MaxPooling2D)
        # In windows, all that fire switch on together: the last to switch off is the largest.
        return pools and step.spiking and self.coding.time_window is None

    def run(self, batch, samples, time_steps, stop_after, progress):
        network = self.network
        drive = self.drive(tf.constant(batch))
        memory = self._start(drive, len(batch))
        rows = np.arange(len(batch))  # Whose memory is at each place of the batch.
        alive = rows < samples
        counts = np.zeros((time_steps, len(network.populations)))
        predictions = np.zeros((samples, time_steps), "int16")
        logits = np.zeros((samples, *network.output.shape), self.dtype)
        changed, steps = np.zeros(samples, int), np.full(samples, time_steps)
        answered = np.zeros(samples, bool)  # Whether a spike has ever reached the output.
        for now in range(time_steps):
            firing = self._firing(now)
            memory, count, potential, arrives = self.advance(
                firing, tf.constant(now), drive, memory, tf.constant(alive)
            )
            counts[now] = count.numpy()
            places, potential = np.flatnonzero(alive), potential.numpy()
            living = rows[places]
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
            steps[done] = now + 1
            alive[places] &= ~np.isin(living, done)
            if not alive.any():
                if progress:
                    progress.add(time_steps - now - 1)
                break
            if alive.sum() <= len(alive) // 2:
                # The rest goes on in a batch of half the size, which costs half.
                kept = np.argsort(~alive, kind="stable")[: len(alive) // 2]
                rows, alive = rows[kept], alive[kept]
                drive, memory = tf.nest.map_structure(lambda value, kept=kept: tf.gather(value, kept), (drive, memory))
        return logits, predictions, counts, steps

    def _elapsed(self, now):
        """How often an activation has been sent by the end of a step."""
        return 1.0 if self.coding.current is None else self.coding.current * (now + 1)

    def _firing(self, now):
        """Names of the populations that may fire at a step."""
        populations = self.network.populations
        if self.coding.time_window is None:
            return tuple(population.name for population in populations)
        return tuple(population.name for population in populations if population.start <= now < population.end)

    def _drive(self, batch):
        """`{name: potential}` of populations and output without any spike: biases, and the analog input."""
        values, drive = {}, {}
        for step in self.network.steps:
            inputs = [values[source] for source in step.inputs]
            if isinstance(step, Input):
                values[step] = batch
            elif isinstance(step, Population):
                drive[step.name] = inputs[0]
                values[step] = tf.zeros_like(inputs[0])
            else:
                values[step] = self.affine[step](*inputs)
        drive[OUTPUT] = values[self.network.output]
        share = 1.0 if self.coding.current is None else self.coding.current
        return {name: value * tf.constant(share, self.dtype) for name, value in drive.items()}

    def _start(self, drive, samples):
        initial = tf.identity if self.coding.current is None else tf.zeros_like
        memory = {OUTPUT: initial(drive[OUTPUT])}
        for population in self.network.populations:
            potential = initial(drive[population.name])
            memory[population.name] = potential, self.coding.state(potential)
        for step in self.gated:
            memory[step.name] = tf.zeros((samples, *step.inputs[0].shape), self.dtype)
        return memory

    def _advance(self, firing, now, drive, memory, alive):
        """One time step: `(memory, spikes of each population, potentials of the output, whether a spike reached it)`.

        Spikes are those of the living samples; the last is for each sample.
        """
        values, counts, after = {}, [], {}
        drive = dict.fromkeys(drive) if self.coding.current is None else drive
        for step in self.network.steps:
            inputs = [values[source] for source in step.inputs]
            if isinstance(step, Population):
                potential, state = memory[step.name]
                potential = _sum(potential, inputs[0], drive[step.name])
                values[step], count = None, tf.constant(0.0, tf.float64)
                if step.name in firing:
                    local = now if step.start is None else now - step.start
                    fire = one_loop(self.coding.fire)
                    potential, state, values[step], spikes = fire(potential, state, self.scales[step.name], local)
                    count = tf.reduce_sum(tf.where(alive, tf.cast(_total(spikes), tf.float64), 0.0))
                after[step.name] = potential, state
                counts.append(count)
            elif all(value is None for value in inputs):
                values[step] = None
            elif step in self.gated:
                after[step.name], values[step] = _gated_pooling(
                    memory[step.name], inputs[0], **_pooling_options(step.layer)
                )
            else:
                values[step] = self._passed_on(step, inputs)
        sent = values[self.network.output]
        after[OUTPUT] = _sum(memory[OUTPUT], sent, drive[OUTPUT])
        arrives = tf.zeros_like(alive) if sent is None else tf.reduce_any(sent != 0, axis=1)
        after |= {step.name: memory[step.name] for step in self.gated if step.name not in after}
        return after, tf.stack(counts), after[OUTPUT], arrives

    def _passed_on(self, step, inputs):
        """What a step makes of spikes; where some of its inputs send none, those are 0."""
        sent = next(value for value in inputs if value is not None)
        samples = tf.shape(sent)[0]
        inputs = [
            tf.zeros((samples, *source.shape), self.dtype) if value is None else value
            for source, value in zip(step.inputs, inputs)
        ]
        if not isinstance(step, graph.Synapse):
            return self.linear[step](*inputs)
        (sent,) = inputs
        silence = tf.zeros((samples, *step.shape), self.dtype)
        # A layer that heard nothing costs nothing.
        return tf.cond(tf.reduce_any(sent != 0), lambda: self.linear[step](sent), lambda: silence)


def _sum(*values):
    return sum(value for value in values if value is not None)


def one_loop(function):
    """A tf.function that XLA makes one loop over memory, compiled for each shape."""
    return tf.function(function, jit_compile=True, autograph=False)


@one_loop
def _total(spikes):
    """Spikes of each sample."""
    return tf.reduce_sum(tf.cast(spikes, tf.float32), axis=list(range(1, spikes.shape.rank)))


def _pooling_options(layer):
    return {"size": tuple(layer.pool_size), "strides": tuple(layer.strides), "padding": layer.padding}


@one_loop
def _gated_pooling(total, sent, size, strides, padding):
    """`(total, heard)`: of each window, what the neuron sends now that has sent the most so far, the first of equals."""
    total = total + sent
    rows, columns = (_window_places(total.shape[1 + i], size[i], strides[i], padding) for i in range(2))
    before = [(0, 0), rows[1], columns[1], (0, 0)]
    most, heard = None, None
    padded, padded_sent = tf.pad(total, before, constant_values=-np.inf), tf.pad(sent, before)
    for i in range(size[0]):
        for j in range(size[1]):
            place = (
                slice(None),
                slice(i, i + strides[0] * (rows[0] - 1) + 1, strides[0]),
                slice(j, j + strides[1] * (columns[0] - 1) + 1, strides[1]),
            )
            other, other_sent = padded[place], padded_sent[place]
            if most is None:
                most, heard = other, other_sent
            else:
                larger = other > most
                most, heard = tf.where(larger, other, most), tf.where(larger, other_sent, heard)
    return total, heard


def _window_places(length, size, stride, padding):
    """`(windows, (padding before, after))` along one axis."""
    if padding == "valid":
        return (length - size) // stride + 1, (0, 0)
    windows = -(-length // stride)
    missing = max(0, (windows - 1) * stride + size - length)
    return windows, (missing // 2, missing - missing // 2)
