"""A slow, obvious simulator of integrate-and-fire neurons with first-spike coding, from Eqs. 1-3. NumPy only.

Synapses are an explicit weight for every pair of neurons; at every global step each neuron is looked at by itself, and
each spike is delivered to each target. Imports nothing of keras_ttfs and no TensorFlow.
"""

import math

import numpy as np


class Population:
    """Neurons of one kernel. `membranes[neuron]` are the potentials of which the first to reach the threshold fires it."""

    def __init__(self, tau, t_d, window, rounding, membranes):
        self.tau, self.t_d, self.window, self.membranes = tau, t_d, window, membranes
        self.half = 0.5 if rounding == "nearest" else 0.0
        self.listeners = []  # wires that carry its spikes

    def kernel(self, t):
        return math.exp(-(t - self.t_d) / self.tau)

    def threshold(self, t):
        return math.exp(-(t + self.half - self.t_d) / self.tau)


class Wire:
    """One line on which spikes travel: fires once, with the first of the neurons `sources` = [(population, index)]."""

    def __init__(self, sources):
        self.sources = sources
        self.used = False
        self.targets = []  # (potentials, index, weight)
        self.ways = 0


class Spikes:
    """An array of wires."""

    def __init__(self, wires):
        self.wires = wires

    def earliest(self, size, stride):
        """Max pooling without padding."""
        height, width, channels = self.wires.shape
        rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
        pooled = np.empty((rows, columns, channels), object)
        for r, c, k in np.ndindex(pooled.shape):
            window = self.wires[r * stride : r * stride + size, c * stride : c * stride + size, k].ravel()
            pooled[r, c, k] = Wire([source for wire in window for source in wire.sources])
        return Spikes(pooled)

    def zero_padded(self, margin):
        shape = (self.wires.shape[0] + 2 * margin, self.wires.shape[1] + 2 * margin, self.wires.shape[2])
        padded = np.empty(shape, object)
        for place in np.ndindex(shape):
            padded[place] = Wire([])
        padded[margin:-margin, margin:-margin] = self.wires
        return Spikes(padded)

    def flat(self):
        return Spikes(self.wires.reshape(-1))

    def beside(self, other):
        return Spikes(np.concatenate([self.wires, other.wires], axis=-1))

    def current(self):
        """The postsynaptic current of one synapse of weight 1 for each wire."""
        weights = [{wire: (1.0, 1)} for wire in self.wires.ravel()]
        return Current(weights, np.zeros(self.wires.size), self.wires.shape)


class Current:
    """For each target: `{wire: (total weight, ways from the wire to the target)}`, and a constant."""

    def __init__(self, weights, constant, shape):
        self.weights, self.constant, self.shape = weights, np.asarray(constant, float), tuple(shape)

    @classmethod
    def analog(cls, x):
        return cls([{} for _ in range(x.size)], x.ravel(), x.shape)

    def mixed(self, terms, constant, shape):
        """Targets that are weighted sums of these: `terms[target] = [(index, weight), ...]`."""
        weights, constants = [], []
        for own, extra in zip(terms, np.ravel(constant)):
            total, one = float(extra), {}
            for index, weight in own:
                total += weight * self.constant[index]
                for wire, (value, ways) in self.weights[index].items():
                    before = one.get(wire, (0.0, 0))
                    one[wire] = before[0] + weight * value, before[1] + ways
            weights.append(one)
            constants.append(total)
        return Current(weights, constants, shape)

    def scaled(self, gain, shift):
        """Batch normalisation: per channel, the last axis."""
        channels = self.shape[-1]
        terms = [[(index, gain[index % channels])] for index in range(len(self.weights))]
        return self.mixed(terms, [shift[index % channels] for index in range(len(self.weights))], self.shape)

    def plus(self, other):
        none = 0.0, 0
        pairs = zip(self.weights, other.weights)
        weights = [{wire: tuple(np.add(a.get(wire, none), b.get(wire, none))) for wire in {**a, **b}} for a, b in pairs]
        return Current(weights, self.constant + other.constant, self.shape)

    def dense(self, kernel, bias):
        terms = [[(i, kernel[i, j]) for i in range(kernel.shape[0])] for j in range(kernel.shape[1])]
        return self.mixed(terms, bias, (kernel.shape[1],))

    def windows(self, size, stride, padding):
        """`(rows, columns, {(row, column): [(input row, input column, kernel row, kernel column), ...]})`."""
        height, width, _ = self.shape

        def along(length):
            if padding == "valid":
                return (length - size) // stride + 1, 0
            count = -(-length // stride)
            return count, max((count - 1) * stride + size - length, 0) // 2

        (rows, top), (columns, left) = along(height), along(width)
        places = {}
        for r, c in np.ndindex(rows, columns):
            places[r, c] = [
                (r * stride + i - top, c * stride + j - left, i, j)
                for i in range(size)
                for j in range(size)
                if 0 <= r * stride + i - top < height and 0 <= c * stride + j - left < width
            ]
        return rows, columns, places

    def pooled(self, size, stride, padding):
        """The membranes of each window of a max pooling: an array (rows, columns, channels) of lists of indices."""
        rows, columns, places = self.windows(size, stride, padding)
        pooled = np.empty((rows, columns, self.shape[2]), object)
        for r, c, k in np.ndindex(pooled.shape):
            pooled[r, c, k] = [self.index(y, x, k) for y, x, _, _ in places[r, c]]
        return pooled

    def pooled_globally(self):
        """As `pooled`, with one window for each channel."""
        pooled = np.empty(self.shape[2], object)
        for k in range(self.shape[2]):
            pooled[k] = list(range(k, len(self.weights), self.shape[2]))
        return pooled

    def index(self, *place):
        return int(np.ravel_multi_index(place, self.shape))

    def convolved(self, kernel, bias, stride, padding):
        rows, columns, places = self.windows(kernel.shape[0], stride, padding)
        terms = [
            [(self.index(y, x, k), kernel[i, j, k, f]) for y, x, i, j in places[r, c] for k in range(kernel.shape[2])]
            for r in range(rows)
            for c in range(columns)
            for f in range(kernel.shape[3])
        ]
        return self.mixed(terms, np.tile(bias, rows * columns), (rows, columns, kernel.shape[3]))

    def depthwise(self, kernel, stride, padding):
        rows, columns, places = self.windows(kernel.shape[0], stride, padding)
        inputs, multiplier = kernel.shape[2:]
        terms = [
            [(self.index(y, x, k), kernel[i, j, k, m]) for y, x, i, j in places[r, c]]
            for r in range(rows)
            for c in range(columns)
            for k in range(inputs)
            for m in range(multiplier)
        ]
        return self.mixed(terms, np.zeros(len(terms)), (rows, columns, inputs * multiplier))

    def averaged(self, size, stride, padding):
        rows, columns, places = self.windows(size, stride, padding)
        terms = [
            [(self.index(y, x, k), 1.0 / len(places[r, c])) for y, x, _, _ in places[r, c]]
            for r in range(rows)
            for c in range(columns)
            for k in range(self.shape[2])
        ]
        return self.mixed(terms, np.zeros(len(terms)), (rows, columns, self.shape[2]))

    def averaged_globally(self):
        size = self.shape[0] * self.shape[1]
        terms = [
            [(index, 1.0 / size) for index in range(k, len(self.weights), self.shape[2])] for k in range(self.shape[2])
        ]
        return self.mixed(terms, np.zeros(len(terms)), (self.shape[2],))

    def flat(self):
        return Current(self.weights, self.constant, (len(self.weights),))


class Simulator:
    """Populations with the currents that they integrate, run over global time."""

    def __init__(self, analog_window=None):
        self.populations = []
        self.analog_window = analog_window

    def populate(self, current, tau, t_d, window, rounding, membranes=None):
        """A population that integrates `current`; returns its spikes. `membranes` is an array of lists of indices."""
        if membranes is None:
            membranes = np.empty(current.shape, object)
            for number, place in enumerate(np.ndindex(current.shape)):
                membranes[place] = [number]
        population = Population(tau, t_d, window, rounding, list(membranes.ravel()))
        population.current = current
        wires = np.empty(membranes.shape, object)
        for number, place in enumerate(np.ndindex(membranes.shape)):
            wires[place] = Wire([(population, number)])
        population.start = self.ready(current)
        self.populations.append(population)
        return Spikes(wires)

    def ready(self, current):
        """When everything that the current depends on has arrived."""
        senders = {source[0] for weights in current.weights for wire in weights for source in wire.sources}
        first = 0 if self.analog_window is None else self.analog_window
        return max(
            (sender.start + sender.window for sender in senders), default=first if self.populations or first else 0
        )

    def run(self, output):
        """`(spike times of each population, output potentials, synaptic events, decision step)`."""
        receivers = [population.current for population in self.populations] + [output]
        for current in receivers:
            current.potential = current.constant.copy()
            for target, weights in enumerate(current.weights):
                for wire, (weight, ways) in weights.items():
                    wire.targets.append((current.potential, target, weight))
                    wire.ways += int(ways)
        for population in self.populations:
            population.times = np.full(len(population.membranes), population.window)
        wires = list(dict.fromkeys(wire for current in receivers for weights in current.weights for wire in weights))
        wires_of = {}
        for wire in wires:
            for source in wire.sources:
                wires_of.setdefault(source, []).append(wire)
        end = max(population.start + population.window for population in self.populations)
        events = 0
        for now in range(end):
            arriving = []  # A spike arrives before the next step.
            for population in self.populations:
                t = now - population.start
                if not 0 <= t < population.window:
                    continue
                for neuron, membranes in enumerate(population.membranes):
                    if population.times[neuron] < population.window:
                        continue
                    reached = [population.current.potential[membrane] for membrane in membranes]
                    if not any(u > 0 and u >= population.threshold(t) for u in reached):
                        continue
                    population.times[neuron] = t
                    for wire in wires_of.get((population, neuron), []):
                        if not wire.used:
                            wire.used = True
                            events += wire.ways
                            arriving += [(*target, population.kernel(t)) for target in wire.targets]
            for potential, target, weight, carried in arriving:
                potential[target] += weight * carried
        return [population.times for population in self.populations], output.potential, events, end
