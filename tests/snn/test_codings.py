"""Rate, phase, burst and temporal-switch coding against literal neurons, and what they promise."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs.snn import CodedNetwork, codings, plots
from tests import literal, literal_codings

L = keras.layers
WINDOW = 6
CODINGS = {
    "rate": (codings.RateCoding, literal_codings.Rate),
    "phase": (codings.PhaseCoding, literal_codings.Phase),
    "burst": (codings.BurstCoding, literal_codings.Burst),
    "temporal switch": (lambda: codings.TemporalSwitchCoding(WINDOW), lambda: literal_codings.Switch(WINDOW)),
}


class Both:
    """Builds one random ReLU network twice: as a Keras model, and for the literal simulator."""

    def __init__(self, seed, shape=(4, 5, 2)):
        self.rng = np.random.default_rng(seed)
        self.x = self.rng.uniform(size=shape)
        self.keras = self.input = keras.Input(shape, dtype="float64")
        self.literal = literal.Current.analog(self.x)
        self.populations = []

    def weighted(self, layer):
        self.keras = layer(self.keras)
        layer.set_weights([self.rng.normal(0.1, 0.6, weight.shape) for weight in layer.get_weights()])
        return layer.get_weights()

    def current(self):
        return self.literal.current() if isinstance(self.literal, literal.Spikes) else self.literal

    def conv(self, filters, norm=True):
        self.weights = self.weighted(L.Conv2D(filters, 3, padding="same", use_bias=not norm))
        bias = np.zeros(filters) if norm else self.weights[1]
        self.literal = self.current().convolved(self.weights[0], bias, 1, "same")
        if norm:
            layer = L.BatchNormalization()
            self.keras = layer(self.keras)
            values = [self.rng.uniform(0.3, 1.2, weight.shape) for weight in layer.get_weights()]
            layer.set_weights(values)
            gain = values[0] / np.sqrt(values[3] + layer.epsilon)
            self.literal = self.literal.scaled(gain, values[1] - values[2] * gain)

    def relu(self, own_layer=True):
        if own_layer:
            self.keras = L.ReLU()(self.keras)
        population = literal_codings.Population(self.current(), None, 1 + len(self.populations))
        wires = np.empty(self.literal.shape, object)
        for number, place in enumerate(np.ndindex(wires.shape)):
            wires[place] = literal.Wire([(population, number)])
        self.populations.append(population)
        self.literal = literal.Spikes(wires)

    def model(self, seed):
        self.conv(2)
        self.relu()
        skip = self.keras, self.literal
        self.conv(2, norm=False)
        if seed == 1:
            self.keras = L.Add()([self.keras, skip[0]])
            self.literal = self.current().plus(skip[1].current())
        elif seed == 2:
            # Currents of the image itself meet those of spikes.
            ours = self.keras, self.current()
            self.keras, self.literal = self.input, literal.Current.analog(self.x)
            self.conv(2, norm=False)
            self.keras = L.Add()([ours[0], self.keras])
            self.literal = ours[1].plus(self.literal)
        self.relu()
        if seed == 3:
            first = self.keras, self.literal
            self.keras, self.literal = skip
            self.conv(1)
            self.relu()
            self.populations[-1].depth = 2
            self.keras = L.Concatenate()([first[0], self.keras])
            self.literal = first[1].beside(self.literal)
        if seed:
            self.keras = L.MaxPooling2D(2, 1 + seed % 2)(self.keras)
            self.literal = self.literal.earliest(2, 1 + seed % 2)
        else:
            self.keras = L.AveragePooling2D(2, 2, "same")(self.keras)
            self.literal = self.current().averaged(2, 2, "same")
        self.keras, self.literal = L.Flatten()(self.keras), self.literal.flat()
        kernel, bias = self.weighted(L.Dense(4, activation="relu"))
        self.literal = self.current().dense(kernel, bias)
        self.relu(own_layer=False)
        self.populations[-1].depth = 3
        kernel, bias = self.weighted(L.Dense(3))
        self.literal = self.current().dense(kernel, bias)
        return keras.Model(self.input, self.keras)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
@pytest.mark.parametrize("name", CODINGS)
def test_agrees_spike_for_spike_with_literal_neurons(name, seed):
    keras.config.set_dtype_policy("float64")
    make, literal_neurons = CODINGS[name]
    both = Both(seed)
    model = both.model(seed)
    others = np.random.default_rng(seed).uniform(size=(20, *both.x.shape))
    network = CodedNetwork.from_model(model, make(), others)
    for literal_population, population in zip(both.populations, network.populations):
        literal_population.scale = network.scales[population.name]
    steps = network.time_steps if network.coding.time_window else 40
    spikes, hidden, potentials = literal_codings.run(both.populations, both.literal, literal_neurons, steps)
    assert sum(record.sum() for record in spikes) > 20
    # Every neuron at every step: its potential after it has fired, or not.
    simulation = network._simulation("float64")
    drive = simulation.drive(tf.constant(both.x[None]))
    memory = simulation._start(drive, 1)
    for now in range(steps):
        memory, *_ = simulation.advance(simulation._firing(now), tf.constant(now), drive, memory, tf.constant([True]))
        for population, expected in zip(network.populations, hidden):
            potential = memory[population.name][0].numpy().ravel() / network.scales[population.name]
            np.testing.assert_allclose(potential, expected[now], rtol=1e-9, atol=1e-10)
    every = {population.name: range(population.size) for population in network.populations}
    result = network.run(np.stack([both.x, others[0]]), dtype="float64", verbose=0, time_steps=steps, record=every)
    for population, expected in zip(network.populations, spikes):
        np.testing.assert_array_equal(result.spike_trains[population.name][0], expected.T)
        assert result.spike_trains[population.name].shape == (2, population.size, steps)
    alone = network.run(both.x[None], dtype="float64", verbose=0, time_steps=steps)
    np.testing.assert_array_equal(alone.spikes_per_step, sum(record.sum(1) for record in spikes))
    assert list(alone.spikes.values()) == [record.sum() for record in spikes]
    elapsed = 1.0 if network.coding.current is None else network.coding.current * steps
    np.testing.assert_allclose(result.logits[0], potentials / elapsed, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(result.predictions_per_step[0], alone.predictions_per_step[0])
    assert result.predictions[0] == result.predictions_per_step[0, -1] == potentials.argmax()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rate", "phase", "burst", "temporal switch"])
def test_reaches_the_accuracy_of_its_relu_network(digits, relu_on_digits, name):
    model, (x, y) = relu_on_digits, digits
    coding = codings.TemporalSwitchCoding() if name == "temporal switch" else CODINGS[name][0]()
    network = CodedNetwork.from_model(model, coding, x[:200])
    result = network.run(x[1400:], batch_size=200, time_steps=None if coding.time_window else 256, verbose=0)
    accuracy = (result.predictions == y[1400:]).mean()
    relu = (np.asarray(model(x[1400:])).argmax(-1) == y[1400:]).mean()
    assert relu > 0.93 and abs(accuracy - relu) <= 0.01
    assert result.time_steps == (96 if coding.time_window else 256)
    assert network.neurons == 64 + 1024 + 512 + 10


@pytest.mark.slow
def test_burst_needs_a_fraction_of_the_spikes_of_phase(digits, relu_on_digits):
    """At the drive of an eighth a step; with a drive of 1 burst needs more than half as many as phase."""
    model, (x, _) = relu_on_digits, digits
    spikes = []
    for coding in (codings.PhaseCoding(), codings.BurstCoding()):
        network = CodedNetwork.from_model(model, coding, x[:200])
        spikes.append(network.run(x[1400:1450], time_steps=512, verbose=0).hidden_spikes)
    assert spikes[0] / spikes[1] > 2.5


@pytest.mark.slow
def test_error_of_rates_falls_with_time(digits, relu_on_digits):
    model, (x, _) = relu_on_digits, digits
    network = CodedNetwork.from_model(model, codings.RateCoding(), x[:200])
    expected = np.asarray(model(x[1400:1420]))
    errors = [
        np.abs(network.run(x[1400:1420], time_steps=steps, verbose=0).logits - expected).mean() for steps in (32, 512)
    ]
    assert errors[1] < errors[0] / 4


@pytest.mark.slow
def test_temporal_switch_fires_two_spikes_or_none(digits, relu_on_digits):
    model, (x, _) = relu_on_digits, digits
    network = CodedNetwork.from_model(model, codings.TemporalSwitchCoding(), x[:200])
    result = network.run(x[:1], verbose=0)
    # Of the first layer, whose potentials are the model's.
    first = keras.Model(model.inputs, model.layers[2].output)(x[:1]).numpy()
    active = int((first >= network.scales[model.layers[2].name] / 64).sum())
    assert result.spikes[model.layers[2].name] == 2 * active
    assert all(spikes % 2 == 0 for spikes in result.spikes.values())


def one_neuron(coding):
    model = keras.Sequential([keras.Input((1,)), L.Dense(1, activation="relu"), L.Dense(1)])
    model.set_weights([np.ones((1, 1)), np.zeros(1), np.ones((1, 1)), np.zeros(1)])
    return CodedNetwork.from_model(model, coding, np.ones((2, 1)))


@pytest.mark.parametrize("activation, bursts", [(0.4, False), (2.0, True)])
def test_a_strong_neuron_bursts(activation, bursts):
    result = one_neuron(codings.BurstCoding()).run(np.full((1, 1), activation), time_steps=2000, verbose=0)
    assert result.logits[0, 0] == pytest.approx(activation, rel=0.01)
    # What a spike carries on average: single spikes carry one threshold, 0.125. The drive is an eighth of the activation.
    carried = 2000 / 8 * result.logits[0, 0] / result.hidden_spikes
    assert carried > 0.25 if bursts else carried == pytest.approx(0.125, rel=0.01)


def test_trains_of_samples_that_stop_are_as_long_as_the_others():
    network = one_neuron(codings.RateCoding())
    (name,) = (population.name for population in network.populations)
    x = np.array([[0.9], [0.0], [0.5], [0.4]])
    whole = network.run(x, time_steps=40, record={name: [0]}, verbose=0)
    result = network.run(x, time_steps=40, stop_after=5, record={name: [0]}, verbose=0)
    assert result.stopped_at.min() < 20 and list(result.recorded[name]) == [0]
    for train, expected, stopped in zip(result.spike_trains[name], whole.spike_trains[name], result.stopped_at):
        np.testing.assert_array_equal(train[:, :stopped], expected[:, :stopped])
        assert not train[:, stopped:].any()
    drawn = plots.spike_raster(whole).axes[0].lines[0]
    np.testing.assert_array_equal(drawn.get_xdata(), np.flatnonzero(whole.spike_trains[name][0, 0]))
    for record, message in (
        ([0], "Expected record to be"),
        ({"none": [0]}, "Expected the layers to record among"),
        ({name: [1]}, "Expected neurons of .* in 0..0"),
    ):
        with pytest.raises(ValueError, match=message):
            network.run(x, time_steps=4, record=record, verbose=0)
    with pytest.raises(ValueError, match="Expected a result with spike trains"):
        plots.spike_raster(network.run(x, time_steps=4, verbose=0))


@pytest.mark.parametrize("share", [0.2, 0.24, 0.26, 0.3])
def test_rates_are_rounded_to_the_nearest_count(share):
    result = one_neuron(codings.RateCoding()).run(np.full((1, 1), share / 10), time_steps=100, verbose=0)
    assert result.hidden_spikes == np.floor(10 * share + 0.5)
