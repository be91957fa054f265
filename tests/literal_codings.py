"""Slow, obvious simulators of the codings of ReLU activations: one neuron at a time, thresholds of 1, normalised weights.

The wiring (an explicit weight for every pair of neurons) is that of `literal`. NumPy only; imports nothing of keras_ttfs.
"""

import numpy as np


class Population:
    """Neurons that stand for ReLU. `scale` is the activation that is sent as 1."""

    def __init__(self, current, scale, depth):
        self.current, self.scale, self.depth = current, scale, depth


class Rate:
    share, window, first = 1.0, None, 0.5

    def begin(self, count):
        self.u = np.full(count, self.first)

    def threshold(self, neuron, step):
        return 1.0

    def fire(self, neuron, step):
        """`(sent, spikes)` of one neuron at one step."""
        threshold = self.threshold(neuron, step)
        fires = self.u[neuron] >= threshold
        if fires:
            self.u[neuron] -= threshold
        self.after(neuron, fires)
        return (threshold, 1) if fires else (0.0, 0)

    def after(self, neuron, fires):
        pass


class Phase(Rate):
    share, first = 1 / 8, 0.0

    def threshold(self, neuron, step):
        return 2.0 ** -(1 + step % 8)


class Burst(Rate):
    share, first = 1 / 8, 0.0

    def begin(self, count):
        super().begin(count)
        self.in_a_row = np.zeros(count, int)

    def threshold(self, neuron, step):
        return 0.125 * 2.0 ** self.in_a_row[neuron]

    def after(self, neuron, fires):
        self.in_a_row[neuron] = self.in_a_row[neuron] + 1 if fires else 0


class Switch(Rate):
    share, first = None, 0.0

    def __init__(self, window):
        self.window = window

    def begin(self, count):
        super().begin(count)
        self.on = np.zeros(count, bool)

    def fire(self, neuron, step):
        before, on = self.on[neuron], self.u[neuron] >= 0.5 / self.window
        spikes = int(on and not before) + int(before and not on) + int(on and step == self.window - 1)
        self.on[neuron] = on
        if on:
            self.u[neuron] -= 1 / self.window
        return (1 / self.window if on else 0.0), spikes


def run(populations, output, coding, steps):
    """`(spikes, potentials, output potentials)`; `coding()` makes the state of a population.

    The first two are `(steps, neurons)` of each population, potentials after firing, in units of the layer's scale.
    """
    sent, states = {}, {}
    for population in populations:
        count = len(population.current.weights)
        states[population] = coding()
        states[population].begin(count)
        sent[population] = np.zeros(count), np.zeros(count)  # now, and in all
        if states[population].share is None:
            states[population].u += population.current.constant / population.scale
    share = states[populations[0]].share
    potential = output.constant.copy() if share is None else np.zeros(len(output.weights))

    def heard(wire):
        """What a wire carries now; of several neurons, the one that has sent the most in all is heard."""
        values = [sent[population][1][neuron] * population.scale for population, neuron in wire.sources]
        if not values:
            return 0.0
        population, neuron = wire.sources[int(np.argmax(values))]
        if share is None:
            return max(sent[population][0][neuron] * population.scale for population, neuron in wire.sources)
        return sent[population][0][neuron] * population.scale

    def arrived(current, target):
        constant = 0.0 if share is None else share * current.constant[target]
        return constant + sum(weight * heard(wire) for wire, (weight, _) in current.weights[target].items())

    shapes = [(steps, len(population.current.weights)) for population in populations]
    spikes, potentials = [np.zeros(shape, int) for shape in shapes], [np.zeros(shape) for shape in shapes]
    for now in range(steps):
        for population in populations:
            sent[population][0][:] = 0.0
        for population, record, potentials_now in zip(populations, spikes, (p[now] for p in potentials)):
            own, window = states[population], states[population].window
            local = now if window is None else now - population.depth * window
            for neuron in range(len(own.u)):
                own.u[neuron] += arrived(population.current, neuron) / population.scale
            for neuron in range(len(own.u)) if window is None or 0 <= local < window else ():
                value, record[now, neuron] = own.fire(neuron, local)
                sent[population][0][neuron] = value
                sent[population][1][neuron] += value
            potentials_now[:] = own.u
        for target in range(len(potential)):
            potential[target] += arrived(output, target)
    return spikes, potentials, potential
