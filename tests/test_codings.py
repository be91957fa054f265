"""Rate, phase, burst and temporal-switch coding against literal neurons, and what they promise."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs import conversion, convert, convert_t2fsnn, t2fsnn
from keras_ttfs.snn import CodedNetwork, SpikingNetwork, check_equivalence, coded, codings, reader
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


@pytest.fixture(autouse=True)
def float64():
    yield
    keras.config.set_dtype_policy("float32")
    keras.backend.clear_session(free_memory=False)


@pytest.mark.parametrize("seed", range(4))
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
    result = network.run(np.stack([both.x, others[0]]), dtype="float64", verbose=0, time_steps=steps)
    alone = network.run(both.x[None], dtype="float64", verbose=0, time_steps=steps)
    np.testing.assert_array_equal(alone.spikes_per_step, sum(record.sum(1) for record in spikes))
    assert list(alone.spikes.values()) == [record.sum() for record in spikes]
    elapsed = 1.0 if network.coding.current is None else network.coding.current * steps
    np.testing.assert_allclose(result.logits[0], potentials / elapsed, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(result.predictions_per_step[0], alone.predictions_per_step[0])
    assert result.predictions[0] == result.predictions_per_step[0, -1] == potentials.argmax()


@pytest.fixture(scope="module")
def digits():
    """A ReLU network trained on digits, with max pooling, and its data."""
    from sklearn import datasets

    keras.utils.set_random_seed(0)
    data = datasets.load_digits()
    x, y = (data.images / 16).astype("float32")[..., None], data.target
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(16, 3, padding="same", use_bias=False),
            L.BatchNormalization(),
            L.ReLU(),
            L.MaxPooling2D(),
            L.Conv2D(32, 3, padding="same", activation="relu"),
            L.Flatten(),
            L.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x[:1400], y[:1400], epochs=15, verbose=0)
    return model, x, y


@pytest.mark.parametrize("name", ["rate", "phase", "burst", "temporal switch"])
def test_reaches_the_accuracy_of_its_relu_network(digits, name):
    model, x, y = digits
    coding = codings.TemporalSwitchCoding() if name == "temporal switch" else CODINGS[name][0]()
    network = CodedNetwork.from_model(model, coding, x[:200])
    result = network.run(x[1400:], batch_size=200, time_steps=None if coding.time_window else 256, verbose=0)
    accuracy = (result.predictions == y[1400:]).mean()
    relu = (np.asarray(model(x[1400:])).argmax(-1) == y[1400:]).mean()
    assert relu > 0.93 and abs(accuracy - relu) <= 0.01
    assert result.time_steps == (96 if coding.time_window else 256)
    assert network.neurons == 64 + 1024 + 512 + 10


def test_error_of_rates_falls_with_time(digits):
    model, x, _ = digits
    network = CodedNetwork.from_model(model, codings.RateCoding(), x[:200])
    expected = np.asarray(model(x[1400:1420]))
    errors = [
        np.abs(network.run(x[1400:1420], time_steps=steps, verbose=0).logits - expected).mean() for steps in (32, 512)
    ]
    assert errors[1] < errors[0] / 4


def test_temporal_switch_fires_two_spikes_or_none(digits):
    model, x, _ = digits
    network = CodedNetwork.from_model(model, codings.TemporalSwitchCoding(), x[:200])
    result = network.run(x[:1], verbose=0)
    # Of the first layer, whose potentials are the model's.
    first = keras.Model(model.inputs, model.layers[2].output)(x[:1]).numpy()
    active = int((first >= network.scales[model.layers[2].name] / 64).sum())
    assert result.spikes[model.layers[2].name] == 2 * active
    assert all(spikes % 2 == 0 for spikes in result.spikes.values())


def test_a_strong_neuron_bursts():
    model = keras.Sequential([keras.Input((1,)), L.Dense(1, activation="relu"), L.Dense(1)])
    model.set_weights([np.ones((1, 1)), np.zeros(1), np.ones((1, 1)), np.zeros(1)])
    network = CodedNetwork.from_model(model, codings.BurstCoding(), np.ones((2, 1)))
    result = network.run(np.full((1, 1), 0.9), time_steps=2000, verbose=0)
    assert result.logits[0, 0] == pytest.approx(0.9, abs=0.01)
    # More than two thresholds of 0.125 a spike: single spikes would carry one.
    assert 2000 * result.logits[0, 0] / result.hidden_spikes > 0.25


def test_samples_that_stop_fire_no_more(digits):
    model, x, _ = digits
    network = CodedNetwork.from_model(model, codings.RateCoding(), x[:200])
    images = x[1400:1413]
    whole = network.run(images, time_steps=120, batch_size=8, verbose=0)
    stopped = network.run(images, time_steps=120, batch_size=8, stop_after=20, verbose=0)
    # When the first spike reaches the output.
    first = network.run(images, time_steps=120, batch_size=8, stop_after=1, verbose=0).stopped_at - 1
    assert stopped.stopped_at.min() < 60 and (whole.stopped_at == 120).all()
    curves = whole.predictions_per_step, stopped.predictions_per_step
    for full, part, end, begun in zip(*curves, stopped.stopped_at, first):
        np.testing.assert_array_equal(full[:end], part[:end])
        assert (part[end:] == part[end - 1]).all()
        assert end == 120 or len(set(part[end - 20 : end])) == 1
        assert not any(len(set(full[now - 20 : now])) == 1 for now in range(begun + 20, end))
    fired = [network.run(image[None], time_steps=int(end), verbose=0) for image, end in zip(images, stopped.stopped_at)]
    np.testing.assert_allclose(sum(run.hidden_spikes for run in fired) / 13, stopped.hidden_spikes, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate([run.logits for run in fired]), stopped.logits, atol=1e-5)


@pytest.mark.parametrize("stop_after", [1, 5])
def test_samples_whose_spikes_have_not_reached_the_output_do_not_stop(stop_after):
    model = relu_model()
    network = CodedNetwork.from_model(model, codings.RateCoding(), np.eye(4))
    dim = network.run(np.full((3, 4), 1e-3), time_steps=50, stop_after=stop_after, verbose=0)
    assert (dim.stopped_at == 50).all() and dim.hidden_spikes == 0


def test_scales_are_the_largest_percentile_of_any_neuron(digits):
    model, x, _ = digits
    nodes, _ = reader.read(model, "relu")
    scales = coded.activation_scales(nodes, x[:300], batch_size=77)
    for layer, name in (
        (model.layers[2], model.layers[2].name),
        (model.layers[4], f"{model.layers[4].name}_activation"),
    ):
        activations = keras.Model(model.inputs, layer.output)(x[:300]).numpy()
        assert scales[name] == pytest.approx(np.percentile(activations, 99.9, axis=0).max(), rel=1e-5)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("size", "strides"), [((2, 2), (2, 2)), ((3, 2), (2, 1))])
def test_of_a_pooling_window_the_neuron_that_sent_most_is_heard(size, strides, padding):
    rng = np.random.default_rng(0)
    before, sent = (
        rng.integers(0, 3, (2, 7, 6, 3)).astype("float64"),
        rng.integers(1, 9, (2, 7, 6, 3)).astype("float64"),
    )
    total, heard = (value.numpy() for value in coded._gated_pooling(before, sent, size, strides, padding))
    np.testing.assert_array_equal(total, before + sent)
    rows, columns = L.MaxPooling2D(size, strides, padding, dtype="float64")(sent).shape[1:3]
    missing = [max(0, (n - 1) * s + k - m) for n, s, k, m in zip((rows, columns), strides, size, (7, 6))]
    top, left = (m // 2 if padding == "same" else 0 for m in missing)
    for sample, r, c, k in np.ndindex(2, rows, columns, 3):
        window = [
            (y, x)
            for y in range(r * strides[0] - top, r * strides[0] - top + size[0])
            for x in range(c * strides[1] - left, c * strides[1] - left + size[1])
            if 0 <= y < 7 and 0 <= x < 6
        ]
        y, x = max(window, key=lambda place: total[sample, *place, k])  # The first of equals.
        assert heard[sample, r, c, k] == sent[sample, y, x, k]


def relu_model():
    return keras.Sequential([keras.Input((4,)), L.Dense(3, activation="relu", name="hidden"), L.Dense(2)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_steps": 0}, "Expected time_steps to be an integer >= 1 .* Received: time_steps=0"),
        ({"stop_after": 1.5}, "Expected stop_after to be an integer >= 1 .* Received: stop_after=1.5"),
        ({"batch_size": 0}, "Expected batch_size"),
        ({"dtype": "float16"}, "Expected dtype"),
    ],
)
def test_wrong_arguments(arguments, message):
    network = CodedNetwork.from_model(relu_model(), codings.RateCoding(), np.eye(4))
    with pytest.raises(ValueError, match=message):
        network.run(np.eye(4), **arguments)


def test_what_is_refused():
    with pytest.raises(ValueError, match="Expected no time_steps for a coding with windows: .* Received: time_steps=5"):
        CodedNetwork.from_model(relu_model(), codings.TemporalSwitchCoding(), np.eye(4)).run(np.eye(4), time_steps=5)
    with pytest.raises(ValueError, match="Expected a model with ReLU activations"):
        CodedNetwork.from_model(keras.Sequential([keras.Input((4,)), L.Dense(2)]), codings.RateCoding(), np.eye(4))
    with pytest.raises(ValueError, match=r"Expected an output of shape \(classes,\). Received: shape \(4, 4, 2\)"):
        model = keras.Sequential([keras.Input((4, 4, 1)), L.ReLU(), L.Conv2D(2, 1)])
        CodedNetwork.from_model(model, codings.RateCoding(), np.ones((3, 4, 4, 1)))
    with pytest.raises(ValueError, match="Expected some neuron of every layer to be active .*'hidden_activation'"):
        CodedNetwork.from_model(relu_model(), codings.RateCoding(), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="Expected no activation but ReLU. Received: layer 'hidden' .*'tanh'"):
        model = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="tanh", name="hidden"), L.Dense(2)])
        CodedNetwork.from_model(model, codings.RateCoding(), np.eye(4))
    for coding, message in (
        (lambda: codings.PhaseCoding(0), "Expected period to be an integer >= 1"),
        (lambda: codings.BurstCoding(threshold=0.0), r"Expected threshold in \(0, 1\]"),
        (lambda: codings.BurstCoding(factor=0.5), "Expected factor >= 1"),
        (lambda: codings.TemporalSwitchCoding(True), "Expected time_window to be an integer >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            coding()


def test_t2fsnn_reaches_its_relu_network_and_answers_sooner_with_early_firing(digits):
    model, x, y = digits
    converted = convert_t2fsnn(model, x[:200], time_window=40)
    relu = (np.asarray(model(x[1400:])).argmax(-1) == y[1400:]).mean()
    network = SpikingNetwork.from_model(converted)
    result = network.run(x[1400:], verbose=0)
    assert relu - (result.logits.argmax(-1) == y[1400:]).mean() <= 0.02
    assert (result.decision_step, result.time_steps) == (120, 160)
    early = SpikingNetwork.from_model(converted, early_firing=20).run(x[1400:], mode="clock", verbose=0)
    assert relu - (early.logits.argmax(-1) == y[1400:]).mean() <= 0.03
    assert (early.decision_step, early.time_steps) == (80, 100)
    check_equivalence(converted, x[:20], strict=True, verbose=0)


def test_fitted_kernels_lower_the_three_losses():
    z = np.random.default_rng(0).gamma(1.0, 0.25, 20000)
    z = z[z < 1.4].astype("float32")

    def losses(tau, t_d):
        levels = np.exp((t_d - np.arange(40)) / tau)
        below = np.searchsorted(-levels, -z.astype("float64"))  # The first level that z reaches.
        z_hat = np.append(levels, 0.0)[below]
        return ((z - z_hat) ** 2).mean() / 2, (z.min() - levels[-1]) ** 2 / 2, (z.max() - levels[0]) ** 2 / 2

    tau, t_d = t2fsnn.fit_kernel(z, 20.0, 40)
    before, after = losses(20.0, 0.0), losses(tau, t_d)
    assert sum(after) < 0.2 * sum(before)
    assert np.exp(t_d / tau) == pytest.approx(z.max(), rel=0.02)


@pytest.mark.parametrize("time_window", [2, 4, 8])
def test_kernels_of_short_windows_reach_further_down(time_window):
    z = np.random.default_rng(0).gamma(1.0, 0.25, 20000).astype("float32")
    z = z[z < 1.2]
    tau, t_d = t2fsnn.fit_kernel(z, 10.0, time_window)
    assert 1.0 <= tau < 10.0
    assert np.exp(t_d / tau) == pytest.approx(z.max(), rel=1e-5)


def test_t2fsnn_fits_kernels_in_the_units_that_layers_share():
    # Two layers meet whose activations differ eightfold: the smaller one's kernel must reach down to it.
    inputs = keras.Input((6,))
    small, large = L.Dense(5, activation="relu", name="small"), L.Dense(5, activation="relu", name="large")
    model = keras.Model(inputs, L.Dense(2)(L.Add()([small(inputs), large(inputs)])))
    rng = np.random.default_rng(0)
    kernel = rng.uniform(0.1, 1.0, (6, 5))
    small.set_weights([kernel / 8, np.zeros(5)])
    large.set_weights([kernel, np.zeros(5)])
    converted = convert_t2fsnn(model, rng.uniform(0.2, 1, (200, 6)))
    largest = {encoder.name: float(encoder.z_max) for encoder in converted.encoders}
    assert largest["small_activation"] == pytest.approx(largest["large_activation"] / 8, rel=0.05)


def test_activations_are_sampled_from_every_channel():
    # Of many channels one is silent: a sample that met it alone would be empty.
    model = keras.Sequential(
        [keras.Input((16, 16, 1)), L.Conv2D(32, 1, activation="relu", use_bias=False), L.Flatten(), L.Dense(2)]
    )
    kernel = np.ones((1, 1, 1, 32))
    kernel[..., 0] = 0.0
    model.layers[0].set_weights([kernel])
    x = np.random.default_rng(0).uniform(0.1, 1.0, (500, 16, 16, 1))
    ttfs = convert(model, data=x[:2])
    found = conversion.sampled_activations(ttfs, x, 100)[f"{model.layers[0].name}_activation"]
    assert len(found) == pytest.approx(31 / 32 * conversion.SAMPLED_ACTIVATIONS, rel=0.01)


def test_t2fsnn_wants_intensities(digits):
    with pytest.raises(ValueError, match=r"Expected data of intensities in \[0, 1\] .*values in \[-1.0, -1.0\]"):
        convert_t2fsnn(digits[0], -np.ones((2, 8, 8, 1)))
