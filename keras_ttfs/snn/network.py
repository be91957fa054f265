"""The spiking network of a trained model, and its two simulations."""

import dataclasses
import functools
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import temporal_kernel
from keras_ttfs.snn import graph
from keras_ttfs.snn.codings.coding import check_steps
from keras_ttfs.snn.graph import Input, Neurons

MODES = ("event", "clock")
DTYPES = ("float32", "float64")


@dataclasses.dataclass(frozen=True)
class SimulationResult:
    """What a simulation saw. `time_window`, `start` and the spike times of a layer are in steps.

    Attributes:
        logits: `(samples, classes)`: membrane potentials of the output at `decision_step` [1].
        spike_times: `{layer: integer array (samples, ...)}`, local to the layer's window; T means silent. Empty where
            `run(spike_times=False)`.
        spike_counts: `{layer: integer array (samples,)}` [spikes].
        synaptic_operations: `(samples' mean)` spikes times fan-out [operations per sample], borders included.
        phases: `{layer: (start, time_window)}`: global first step and length of each fire phase [steps].
        neurons: `{layer: neurons}`.
        decision_step: global step at which the last spike can have arrived at the output [steps].
        time_steps: H, with the idle window of the output [steps].
        membranes: `{layer: array (samples, chosen neurons, decision_step)}`: potentials at each global step as compared
            with the threshold [1]; only where `run(record=...)`.
        recorded: `{layer: flat indices of the chosen neurons}`.
        thresholds: `{layer: array (time_window,)}` [1].
        input_layers: names of the layers that encode the input; they count as input spikes, not as hidden ones.
    """

    logits: np.ndarray
    spike_times: dict
    spike_counts: dict
    synaptic_operations: float
    phases: dict
    neurons: dict
    decision_step: int
    time_steps: int
    membranes: dict
    recorded: dict
    thresholds: dict
    input_layers: tuple

    @property
    def spikes(self):
        """`{layer: mean spikes per sample}`."""
        return {name: float(counts.mean()) for name, counts in self.spike_counts.items()}

    @property
    def hidden_spikes(self):
        """S: mean spikes per sample of the hidden layers."""
        return sum(spikes for name, spikes in self.spikes.items() if name not in self.input_layers)


def shows_progress(verbose):
    """Whether `verbose` (`"auto"`, 0 or 1) asks for a progress bar here."""
    return sys.stdout.isatty() if verbose == "auto" else bool(verbose)


def check_batch_size(batch_size):
    """Raises ValueError where `batch_size` is no integer >= 1."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"Expected batch_size to be an integer >= 1 [samples]. Received: batch_size={batch_size!r}")


def check_inputs(x, shape, dtype):
    """`x` as an array of `dtype`, if it is a finite one of samples of `shape`."""
    if dtype not in DTYPES:
        raise ValueError(f"Expected dtype to be one of {DTYPES}. Received: dtype={dtype!r}")
    x = np.asarray(x, dtype)
    if x.shape[1:] != shape or not len(x):
        raise ValueError(f"Expected inputs of shape (samples, {str(shape)[1:]}. Received: shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("Expected finite inputs. Received: NaN or infinite ones")
    return x


class SpikingNetwork:
    """Integrate-and-fire neurons that fire the spikes which a trained model's activations stand for.

    A neuron's membrane potential is `u(t) = b + sum_i w_i * kappa(t_i)` over the presynaptic spikes that arrived by t
    (Eq. 1), `kappa(t) = exp(-(t - t_d) / tau)` in the sender's window (Eq. 3). When all its inputs have had their window,
    its own begins: it fires at the first local step t with `u >= kappa(t)` (Eq. 2, theta_0 = 1; half a step later for
    `rounding="nearest"`) and is refractory from then on. Max pooling passes on the earliest spike of its window. The
    output layer only integrates: its potentials are the logits.

    >>> model = keras.Sequential([keras.Input((4,)), TTFSActivation(name="in"), keras.layers.Dense(2)])
    >>> network = SpikingNetwork.from_model(model)
    >>> result = network.run(np.array([[1.0, 0.5, 0.01, 0.0]]))
    >>> result.spike_times["in"]
    array([[ 0,  7, 32, 32]], dtype=int16)
    >>> result.decision_step, result.time_steps
    (32, 64)

    Reference: Eqs. 1-3, Fig. 9.
    """

    def __init__(self, steps, output, early_firing=0):
        self.steps = steps
        self.early_firing = early_firing
        self.output = output
        self.populations = [step for step in steps if isinstance(step, Neurons)]
        if not self.populations:
            raise ValueError(
                "Expected a model with TTFSActivation or TTFSEncode layers. Received: none before its output"
            )
        self.decision_step = max(neurons.end for neurons in self.populations)
        self.time_steps = self.decision_step + max(neurons.time_window for neurons in self.populations) - early_firing
        self._made = {}

    @classmethod
    def from_model(cls, model, early_firing=0):
        """The spiking network of a Functional or Sequential model, with the weights that it has now.

        Batch normalisation is folded into the synapses. A softmax at the output is left out: `logits` are before it.

        Args:
            model: of Conv2D, DepthwiseConv2D, SeparableConv2D, Dense, BatchNormalization, TKBatchNorm, TTFSActivation,
                TTFSEncode with TemporalKernelDecode, MaxPooling2D, AveragePooling2D, GlobalAveragePooling2D, Flatten,
                Reshape, ZeroPadding2D, Dropout, Identity, Add and Concatenate, nested models included.
            early_firing: int >= 0, less than every window: by how much a fire phase begins before its inputs have all
                fired [steps]. The answer comes sooner; a neuron that later inputs would have kept silent, or made fire
                sooner, errs. A spike arrives before the next step. Only the clock simulates it.

        Raises:
            ValueError: "Expected ... Received: ..." naming the layer that cannot be turned into spikes.
        """
        check_steps("early_firing", early_firing, least=0)
        network = cls(*graph.read(model, early_firing=early_firing), early_firing)
        shortest = min(neurons.time_window for neurons in network.populations)
        if early_firing >= shortest:
            raise ValueError(
                f"Expected early_firing < {shortest}, the shortest window. Received: early_firing={early_firing}"
            )
        return network

    @property
    def neurons(self):
        """N: inputs, hidden neurons and outputs."""
        hidden = sum(neurons.size for neurons in self.populations if neurons.name not in self.input_layers)
        return int(np.prod(self.steps[0].shape)) + hidden + int(np.prod(self.output.shape))

    @functools.cached_property
    def input_layers(self):
        """Names of the populations that encode the input itself."""

        def of_input(step):
            return isinstance(step, Input) or (isinstance(step, graph.Route) and all(map(of_input, step.inputs)))

        return tuple(neurons.name for neurons in self.populations if of_input(neurons.inputs[0]))

    def _sources(self, step):
        """Populations whose spikes reach a step without passing other neurons."""
        found = set()
        for source in step.inputs:
            found |= {source} if isinstance(source, Neurons) else self._sources(source)
        return found

    @functools.cached_property
    def fan_out(self):
        """`{step that spikes enter: [array (...) for each of its inputs]}`: synapses behind each place that sends there.

        None for inputs that are no spikes. Counted along every way from the spike to a neuron; the folded batch
        normalisation costs none.
        """
        values, sent = (
            {},
            {entry: tf.zeros((1, *entry[0].inputs[entry[1]].shape), "float64") for entry in self._entries},
        )
        reached = []
        with tf.GradientTape() as tape:
            tape.watch(list(sent.values()))
            for step in self.steps:
                if isinstance(step, Input):
                    values[step] = tf.zeros((1, *step.shape), "float64")
                    continue
                arguments = [sent.get((step, i), values[source]) for i, source in enumerate(step.inputs)]
                if isinstance(step, Neurons):
                    reached += [] if step.name in self.input_layers else [tf.reduce_sum(arguments[0])]
                    values[step] = tf.zeros_like(arguments[0])
                else:
                    values[step] = step.paths()(*arguments)
            total = tf.add_n([*reached, tf.reduce_sum(values[self.output])])
        counts = tape.gradient(total, list(sent.values()), unconnected_gradients="zero")
        table = {step: [None] * len(step.inputs) for step, _ in self._entries}
        for (step, place), count in zip(self._entries, counts):
            table[step][place] = count.numpy()[0]
        return table

    @functools.cached_property
    def dense_operations(self):
        """Operations of the same network without spikes (its ReLU twin) per sample, borders included.

        Multiply-accumulates of synapses, additions of average pooling and Add, layer by layer. `fan_out` counts every way
        through successive layers instead, for between them no neurons hold a sum: more, behind a separable convolution or
        an average.
        """
        return sum(
            step.operations([tf.ones((1, *source.shape), "float64") for source in step.inputs])
            for step in self.steps
            if not isinstance(step, (Input, Neurons))
        )

    @functools.cached_property
    def analog_operations(self):
        """Of these, the ones on an analog input and its sums: they are no synaptic operations."""
        total, analog = 0, {}
        for step in self.steps:
            analog[step] = (tf.ones if isinstance(step, Input) else tf.zeros)((1, *step.shape), "float64")
            values = [analog[source] for source in step.inputs]
            if isinstance(step, graph.Route):
                analog[step] = step.paths()(*values)
            elif not isinstance(step, (Input, Neurons)):
                total += step.operations(values)
                analog[step] = tf.zeros_like(analog[step]) if self._sources(step) else tf.ones_like(analog[step])
        return total

    @functools.cached_property
    def _entries(self):
        """`[(step, place), ...]`: where a spike becomes a postsynaptic potential: an input of a step that spikes take."""
        sums = [step for step in self.steps if isinstance(step, Neurons) or not step.spiking]
        return [(step, place) for step in sums for place, source in enumerate(step.inputs) if source.spiking]

    def upstream(self, targets):
        """Steps whose values the targets' potentials need, senders included, in order."""
        needed, frontier = set(), [source for target in targets for source in self._own(target)]
        while frontier:
            step = frontier.pop()
            if step not in needed:
                needed.add(step)
                frontier += [] if isinstance(step, Neurons) else step.inputs
        return [step for step in self.steps if step in needed]

    def _own(self, target):
        return target.inputs if isinstance(target, Neurons) else (target,)

    @functools.cached_property
    def senders(self):
        """`{population or output: the populations whose spikes reach it}`."""
        return {target: self._sources(target) for target in self.populations + [self.output]}

    def run(self, x, mode="event", dtype="float32", batch_size=100, spike_times=True, record=None, verbose="auto"):
        """Simulates the network on a batch of inputs.

        `"clock"` is literal: one global time step after the other for all layers, with a membrane potential for every
        neuron at every step. `"event"` uses that integration ends before firing starts, and does each layer once. Both
        give the same result.

        Args:
            x: array `(samples, ...)` of the model's input shape, finite [1].
            mode: `"event"` or `"clock"`.
            dtype: `"float32"` or `"float64"`, of weights, potentials and thresholds.
            batch_size: int >= 1: samples simulated at a time; memory grows with it, not with the time steps.
            spike_times: bool: whether the result holds every spike time (2 bytes per neuron and sample).
            record: `{layer: flat indices of neurons}` whose membrane potentials to keep at every step; `"clock"` only.
            verbose: `"auto"` (a progress bar on terminals), 0 or 1.

        Returns:
            A SimulationResult.

        Raises:
            ValueError: "Expected ... Received: ..." for a wrong argument.
        """
        x = self._checked(x, mode, dtype, batch_size, record)
        simulate = self._simulation(mode, dtype)
        batch_size = min(batch_size, len(x))
        # Filled batch by batch: joining them at the end would hold all spike times twice.
        times = {
            neurons.name: np.empty((len(x), *neurons.shape), neurons.silent.dtype.as_numpy_dtype)
            for neurons in (self.populations if spike_times else ())
        }
        progress = keras.utils.Progbar(len(x), unit_name="sample") if shows_progress(verbose) else None
        advanced = progress.add if progress else lambda samples: None
        parts = []
        for first in range(0, len(x), batch_size):
            batch = x[first : first + batch_size]
            # The last batch is filled up, so that one compiled simulation serves all.
            filled = np.concatenate([batch, np.zeros((batch_size - len(batch), *x.shape[1:]), dtype)])
            parts.append(self._part(simulate(filled, len(batch), record or {}, advanced), len(batch), times, first))
        return self._result(parts, times, dtype, record or {})

    def _checked(self, x, mode, dtype, batch_size, record):
        if mode not in MODES:
            raise ValueError(f"Expected mode to be one of {MODES}. Received: mode={mode!r}")
        if self.early_firing and mode != "clock":
            raise ValueError(f"Expected mode='clock' for early firing. Received: mode={mode!r}")
        check_batch_size(batch_size)
        x = check_inputs(x, self.steps[0].shape, dtype)
        if record and mode != "clock":
            raise ValueError(f"Expected mode='clock' to record membrane potentials. Received: mode={mode!r}")
        sizes = {step.name: int(np.prod(step.shape)) for step in self.populations + [self.output]}
        for name, places in (record or {}).items():
            if name not in sizes:
                raise ValueError(f"Expected the layers to record among {tuple(sizes)}. Received: {name!r}")
            if not all(0 <= place < sizes[name] for place in places):
                raise ValueError(f"Expected neurons of {name!r} in 0..{sizes[name] - 1}. Received: {list(places)}")
        return x

    def _part(self, outcome, samples, kept, first):
        """The first samples of a batch's outcome, spikes counted; spike times go to their place in `kept`."""
        logits, times, arrived, membranes = outcome
        counts = {}
        for neurons, time in zip(self.populations, times):
            time = time.numpy()[:samples]
            counts[neurons.name] = np.array([np.count_nonzero(row < neurons.time_window) for row in time])
            if kept:
                kept[neurons.name][first : first + samples] = time
        operations = sum(
            float((count.numpy().astype("float64") * self.fan_out[step][place]).sum())
            for (step, place), count in zip(self._entries, arrived)
        )
        membranes = {name: values[:samples] for name, values in membranes.items()}
        return logits.numpy()[:samples], counts, operations, membranes

    def _result(self, parts, times, dtype, record):
        def joined(place):
            return {name: np.concatenate([part[place][name] for part in parts]) for name in parts[0][place]}

        return SimulationResult(
            logits=(logits := np.concatenate([part[0] for part in parts])),
            spike_times=times,
            spike_counts=joined(1),
            synaptic_operations=sum(part[2] for part in parts) / len(logits),
            phases={neurons.name: (neurons.start, neurons.time_window) for neurons in self.populations},
            neurons={neurons.name: neurons.size for neurons in self.populations},
            decision_step=self.decision_step,
            time_steps=self.time_steps,
            membranes=joined(3),
            recorded={name: np.asarray(places) for name, places in record.items()},
            thresholds={neurons.name: neurons.thresholds(dtype).numpy() for neurons in self.populations},
            input_layers=self.input_layers,
        )

    def _simulation(self, mode, dtype):
        """The function `(batch, samples, record) -> (logits, spike times, arrived, membranes)`, made once."""
        if (mode, dtype) not in self._made:
            if dtype not in self._made:
                others = (Input, Neurons)
                self._made[dtype] = {step: step.made(dtype) for step in self.steps if not isinstance(step, others)}
            simulation = _EventSimulation if mode == "event" else _ClockSimulation
            self._made[mode, dtype] = simulation(self, self._made[dtype], dtype)
        return self._made[mode, dtype]

    def _arrived(self, values, samples):
        """For each entry, how many of the first samples sent a spike from each place."""
        return [_spikes_at_each_place(values[step.inputs[place]], samples) for step, place in self._entries]


class _EventSimulation:
    """Each layer once: when its inputs have fired, its potentials are complete."""

    def __init__(self, network, functions, dtype):
        self.network = network
        self.functions = functions
        self.simulate = tf.function(self._simulate, autograph=False)

    def __call__(self, batch, samples, record, advanced):
        outcome = self.simulate(tf.constant(batch), tf.constant(samples))
        advanced(samples)
        return *outcome, {}

    def _simulate(self, batch, samples):
        values, times = {}, []
        for step in self.network.steps:
            arguments = [values[source] for source in step.inputs]
            if isinstance(step, Input):
                values[step] = batch
            elif isinstance(step, Neurons):
                time, values[step] = temporal_kernel.fire(
                    arguments[0], step.tau, step.t_d, step.time_window, rounding=step.rounding
                )
                times.append(time)
            else:
                values[step] = self.functions[step](*arguments)
        return values[self.network.output], times, self.network._arrived(values, samples)


class _ClockSimulation:
    """One global time step after the other.

    `carried[neurons]` is what a population has sent so far: the level of each neuron that has fired, else 0. Summing
    these at every step gives the integral of Eq. 1 up to that step without rounding that grows with the steps. Layers
    that nothing reaches at a step keep their potentials.
    """

    def __init__(self, network, functions, dtype):
        self.network = network
        self.functions = functions
        self.dtype = dtype
        self.potentials = {}  # Compiled functions, by the steps that they compute.
        self.thresholds = {neurons: tf.unstack(neurons.thresholds(dtype)) for neurons in network.populations}
        self.levels = {neurons: tf.unstack(neurons.levels(dtype)) for neurons in network.populations}
        self.arrived = tf.function(self._arrived, autograph=False)

    def __call__(self, batch, samples, record, advanced):
        network, output = self.network, self.network.output
        shapes = {neurons: (len(batch), *neurons.shape) for neurons in network.populations}
        carried = {neurons: tf.zeros(shapes[neurons], self.dtype) for neurons in network.populations}
        times = {neurons: tf.fill(shapes[neurons], neurons.silent) for neurons in network.populations}
        batch = tf.constant(batch)
        potential = self._integrated(batch, carried, network.populations + [output])
        recorded = {name: [] for name in record}
        for now in range(network.decision_step):
            for step in network.populations + [output]:
                if step.name in record:
                    flat = tf.reshape(potential[step], (len(batch), -1))
                    recorded[step.name].append(tf.gather(flat, record[step.name], axis=1).numpy())
            firing = [neurons for neurons in network.populations if neurons.start <= now < neurons.end]
            for neurons in firing:
                potential[neurons], times[neurons], carried[neurons] = self._fired(
                    neurons, now - neurons.start, potential[neurons], times[neurons], carried[neurons]
                )
            reached = [target for target, senders in network.senders.items() if senders.intersection(firing)]
            potential |= self._integrated(batch, carried, reached)
            advanced(samples * (now + 1) // network.decision_step - samples * now // network.decision_step)
        arrived = self.arrived(batch, [carried[neurons] for neurons in network.populations], tf.constant(samples))
        membranes = {name: np.stack(values, axis=-1) for name, values in recorded.items()}
        return potential[output], [times[neurons] for neurons in network.populations], arrived, membranes

    def _fired(self, neurons, step, potential, times, carried):
        """Fires one local step of a population: `(potential, times, carried)` after it."""
        threshold, level = self.thresholds[neurons][step], self.levels[neurons][step]
        return _fire_one_step(
            potential, times, carried, threshold, level, tf.constant(step, times.dtype), neurons.silent
        )

    def _integrated(self, batch, carried, targets):
        """`{target: membrane potential}` after the spikes carried so far."""
        if not targets:
            return {}
        key = tuple(targets)
        if key not in self.potentials:
            needed = self.network.upstream(targets)
            function = functools.partial(self._values_of, needed, key)
            self.potentials[key] = tf.function(function, autograph=False), [step for step in needed if step in carried]
        function, senders = self.potentials[key]
        return dict(zip(targets, function(batch, [carried[sender] for sender in senders])))

    def _values_of(self, needed, targets, batch, sent):
        sent = iter(sent)
        values = {}
        for step in needed:
            if isinstance(step, Input):
                values[step] = batch
            elif isinstance(step, Neurons):
                values[step] = next(sent)
            else:
                values[step] = self.functions[step](*[values[source] for source in step.inputs])
        return [values[target.inputs[0] if isinstance(target, Neurons) else target] for target in targets]

    def _arrived(self, batch, sent, samples):
        sent, values = iter(sent), {}
        for step in self.network.steps:
            if isinstance(step, Input):
                values[step] = batch
            elif isinstance(step, Neurons):
                values[step] = next(sent)
            elif step.spiking:
                values[step] = self.functions[step](*[values[source] for source in step.inputs])
        return self.network._arrived(values, samples)


@tf.function(autograph=False, jit_compile=True)
def _spikes_at_each_place(values, samples):
    counted = tf.reshape(tf.range(values.shape[0]) < samples, (-1, *[1] * (len(values.shape) - 1)))
    return tf.reduce_sum(tf.cast((values > 0) & counted, tf.float32), axis=0)


@tf.function(autograph=False, jit_compile=True)
def _fire_one_step(potential, times, carried, threshold, level, step, silent):
    fires = (potential >= threshold) & (potential > 0) & (times == silent)
    # Refractory: the reset takes the potential below every threshold, and the neuron has its spike time.
    potential = tf.where(fires, tf.zeros_like(potential), potential)
    return potential, tf.where(fires, step, times), tf.where(fires, level, carried)
