"""The spiking network against the literal simulator, on random small networks."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ttfs import TemporalKernelDecode, TKBatchNorm, TTFSActivation, TTFSEncode
from keras_ttfs.snn import SpikingNetwork
from keras_ttfs.snn.windows import WindowPopulation
from tests import literal

L = keras.layers


class Both:
    """Builds one random network twice: as a Keras model, and for the literal simulator."""

    def __init__(self, seed, analog, shape=(4, 5, 2)):
        self.rng = np.random.default_rng(seed)
        self.x = self.rng.uniform(size=shape)
        self.keras = self.input = keras.Input(shape, dtype="float64")
        self.layers = []
        window = int(self.rng.integers(3, 12))
        self.windows = [window]
        self.simulator = literal.Simulator()
        self.literal = literal.Current.analog(self.x)
        self.analog = analog
        if not analog:
            self.fire()

    def layer(self, layer, *inputs):
        y = layer(*inputs or (self.keras,))
        layer.set_weights([self.rng.normal(scale=0.6, size=weight.shape) for weight in layer.get_weights()])
        return layer, y

    def windowed(self):
        """Max pooling of potentials. Their windows, for `fire`."""
        size, stride = int(self.rng.integers(2, 4)), int(self.rng.integers(1, 3))
        padding = str(self.rng.choice(["same", "valid"])) if min(self.keras.shape[1:3]) >= size else "same"
        if self.rng.integers(4) == 0:
            self.keras = L.GlobalMaxPooling2D(keepdims=True)(self.keras)
            return self.current().pooled_globally()[None, None]
        self.keras = L.Dropout(0.5)(L.MaxPooling2D(size, stride, padding)(self.keras))
        return self.current().pooled(size, stride, padding)

    def fire(self, pair=False, membranes=None):
        tau, t_d = self.rng.uniform(1.5, 6.0), self.rng.uniform(-1.0, 2.0)
        window, rounding = int(self.rng.integers(1, 12)), str(self.rng.choice(["ceil", "nearest"]))
        self.windows.append(window)
        options = {"time_window": window, "tau_0": tau, "t_d_0": t_d, "rounding": rounding}
        encoder = (TTFSEncode if pair else TTFSActivation)(**options)
        self.keras = encoder(self.keras)
        if pair:
            self.keras = TemporalKernelDecode(window)(self.keras)
        tau, t_d = float(np.array(encoder.tau)), float(np.array(encoder.t_d))
        self.literal = self.simulator.populate(self.current(), tau, t_d, window, rounding, membranes)

    def current(self):
        return self.literal.current() if isinstance(self.literal, literal.Spikes) else self.literal

    def norm(self, cls):
        layer = cls(scale=bool(self.rng.integers(2)), center=bool(self.rng.integers(2)))
        self.keras = layer(self.keras)
        weights = [self.rng.uniform(0.3, 1.2, size=weight.shape) for weight in layer.get_weights()]
        layer.set_weights(weights)
        mean, variance = weights[-2:]
        gamma = weights[0] if layer.scale else 1.0
        gain = gamma / np.sqrt(variance + layer.epsilon)
        beta = weights[1 if layer.scale else 0] if layer.center else 0.0
        self.literal = self.current().scaled(gain, beta - mean * gain)

    def conv(self, filters=None, stride=None):
        size, padding = int(self.rng.integers(1, 4)), "same"
        stride = int(self.rng.integers(1, 3)) if stride is None else stride
        if self.keras.shape[1] >= 4 and filters is None and self.rng.integers(2):
            padding = "valid"
        filters = filters or int(self.rng.integers(1, 4))
        use_bias = bool(self.rng.integers(2))
        layer, self.keras = self.layer(L.Conv2D(filters, size, stride, padding, use_bias=use_bias))
        kernel, *bias = layer.get_weights()
        self.literal = self.current().convolved(kernel, bias[0] if bias else np.zeros(filters), stride, padding)

    def depthwise(self):
        layer, self.keras = self.layer(L.DepthwiseConv2D(2, 1, "same", depth_multiplier=2))
        kernel, bias = layer.get_weights()
        self.literal = self.current().depthwise(kernel, 1, "same").scaled(np.ones(len(bias)), bias)

    def separable(self):
        layer, self.keras = self.layer(L.SeparableConv2D(2, 3, padding="same"))
        depthwise, pointwise, bias = layer.get_weights()
        self.literal = self.current().depthwise(depthwise, 1, "same").convolved(pointwise, bias, 1, "valid")

    def residual(self):
        skip = self.keras, self.literal
        self.conv(filters=skip[0].shape[-1], stride=1)
        self.norm(TKBatchNorm)
        if self.rng.integers(2):
            self.fire()
            self.conv(filters=skip[0].shape[-1], stride=1)
        self.keras = L.Add()([self.keras, skip[0]])
        other = skip[1].current() if isinstance(skip[1], literal.Spikes) else skip[1]
        self.literal = self.current().plus(other)

    def concat(self):
        start = self.keras, self.literal
        self.conv(stride=1, filters=1)
        self.fire(pair=True)
        first = self.keras, self.literal
        self.keras, self.literal = start
        self.conv(stride=1, filters=2)
        self.fire()
        self.keras = L.Concatenate()([first[0], self.keras])
        self.literal = first[1].beside(self.literal)

    def pool(self):
        kind = self.rng.integers(4)
        if kind == 0 and min(self.keras.shape[1:3]) >= 2 and isinstance(self.literal, literal.Spikes):
            stride = int(self.rng.integers(1, 3))
            self.keras = L.MaxPooling2D(2, stride)(self.keras)
            self.literal = self.literal.earliest(2, stride)
        elif kind == 1:
            self.keras = L.AveragePooling2D(2, 2, "same")(self.keras)
            self.literal = self.current().averaged(2, 2, "same")
        # Of one row, a convolution with strides may see the padding alone, which sends nothing to wait for.
        elif kind == 2 and min(self.keras.shape[1:3]) >= 2 and isinstance(self.literal, literal.Spikes):
            self.keras = L.ZeroPadding2D(1)(self.keras)
            self.literal = self.literal.zero_padded(1)

    def end(self):
        if self.rng.integers(2):
            self.keras = L.GlobalAveragePooling2D()(self.keras)
            self.literal = self.current().averaged_globally()
        else:
            self.keras, self.literal = L.Flatten()(self.keras), self.literal.flat()
        self.keras = L.Dropout(0.5)(self.keras)
        layer, self.keras = self.layer(L.Dense(3))
        self.literal = self.current().dense(*layer.get_weights())
        return keras.Model(self.input, self.keras)


def build(seed, analog, blocks, windows=False):
    """A network of these blocks. With `windows`, max pooling stands in front of some activations."""
    network = Both(seed, analog)
    if analog:
        window = 7
        network.simulator.analog_window = window
    for block in blocks:
        getattr(network, block)()
        if block != "concat":
            if network.rng.integers(2):
                network.norm(L.BatchNormalization)
            membranes = network.windowed() if windows and network.rng.integers(3) else None
            network.fire(bool(network.rng.integers(2)), membranes)
        network.pool()
    return network


BLOCKS = ("conv", "depthwise", "separable", "residual", "concat")


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.booleans(), st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=3), st.booleans())
def test_agrees_spike_for_spike_with_a_literal_simulation(seed, analog, blocks, windows):
    agrees(seed, analog, blocks, windows)


@pytest.mark.parametrize("seed", range(6))
def test_windows_agree_with_a_literal_simulation(seed):
    network = agrees(seed, seed % 3 == 0, ("conv", "residual", "conv")[: 1 + seed % 3], windows=True)
    assert any(isinstance(population, WindowPopulation) for population in network.populations)


def agrees(seed, analog, blocks, windows):
    """The network, after a comparison of both simulations with the literal one."""
    keras.config.set_dtype_policy("float64")
    both = build(seed, analog, blocks, windows)
    model = both.end()
    network = SpikingNetwork.from_model(model)
    assert [population.membranes for population in network.populations] == [
        len(population.current.weights) for population in both.simulator.populations
    ]
    if analog:
        # The window that an analog input takes: as long as the longest.
        shift = max(population.time_window for population in network.populations) - 7
        for population in both.simulator.populations:
            population.start += shift
    times, potentials, events, end = both.simulator.run(both.literal)
    for mode in ("event", "clock"):
        result = network.run(both.x[None], mode=mode, dtype="float64", verbose=0)
        assert list(result.spike_times) == [population.name for population in network.populations]
        for expected, (name, found) in zip(times, result.spike_times.items()):
            np.testing.assert_array_equal(found[0].ravel(), expected, err_msg=f"{mode} {name}")
        np.testing.assert_allclose(result.logits[0], potentials, rtol=1e-10, atol=1e-12)
        assert result.decision_step == end
        assert result.synaptic_operations == events
    return network


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_early_firing_agrees_with_a_literal_simulation(seed, windows):
    keras.config.set_dtype_policy("float64")
    both = build(seed, False, ("conv", "residual", "conv"), windows)
    model = both.end()
    early = min(population.window for population in both.simulator.populations) - 1
    if not early:
        pytest.skip("a window of one step cannot overlap")
    network = SpikingNetwork.from_model(model, early_firing=early)
    for population in both.simulator.populations[1:]:
        population.start = both.simulator.ready(population.current) - early
    times, potentials, _, end = both.simulator.run(both.literal)
    result = network.run(both.x[None], mode="clock", dtype="float64", verbose=0)
    for expected, (name, found) in zip(times, result.spike_times.items()):
        np.testing.assert_array_equal(found[0].ravel(), expected, err_msg=name)
    np.testing.assert_allclose(result.logits[0], potentials, rtol=1e-10, atol=1e-12)
    assert result.decision_step == end < SpikingNetwork.from_model(model).decision_step
    with pytest.raises(ValueError, match="Expected mode='clock' for early firing. Received: mode='event'"):
        network.run(both.x[None], verbose=0)


@pytest.mark.parametrize(
    ("early", "message"), [(-1, "an integer >= 0"), (True, "an integer >= 0"), (8, "< 8, the short")]
)
def test_early_firing_must_fit_the_windows(early, message):
    model = keras.Sequential([keras.Input((4,)), TTFSActivation(8), L.Dense(2)])
    with pytest.raises(ValueError, match=f"Expected early_firing (to be )?{message}"):
        SpikingNetwork.from_model(model, early_firing=early)
