"""One vocabulary for the results of both networks, and each number of it against the spikes."""

import keras
import numpy as np
import pytest

from keras_ttfs import TTFSActivation
from keras_ttfs.snn import CodedNetwork, SpikingNetwork, codings

L = keras.layers
X = np.random.default_rng(0).uniform(size=(9, 6))


def network_of(activation):
    """Of 6 inputs, 8 and 5 hidden neurons, and 3 classes, with random weights."""
    rng = np.random.default_rng(1)
    layers = [L.Dense(8), activation("first"), L.Dense(5), activation("second"), L.Dense(3, name="logits")]
    before = [activation("input")] if activation is ttfs else []
    model = keras.Sequential([keras.Input((6,)), *before, *layers])
    for layer in model.layers:
        if isinstance(layer, L.Dense):
            layer.set_weights([rng.normal(0.2, 0.5, weight.shape) for weight in layer.get_weights()])
    return model


def ttfs(name):
    window, tau, t_d = {"input": (10, 4.0, 0.0), "first": (12, 4.5, 1.0), "second": (8, 3.0, 1.5)}[name]
    return TTFSActivation(window, tau, t_d, name=name)


def relu(name):
    return L.ReLU(name=name)


def coded(coding, **options):
    return CodedNetwork.from_model(network_of(relu), coding, X).run(X, verbose=0, **options)


RESULTS = {
    "event": lambda: SpikingNetwork.from_model(network_of(ttfs)).run(X),
    "clock": lambda: SpikingNetwork.from_model(network_of(ttfs)).run(X, mode="clock"),
    "clock, early": lambda: SpikingNetwork.from_model(network_of(ttfs), early_firing=4).run(X, mode="clock"),
    "rate": lambda: coded(codings.RateCoding(), time_steps=40),
    "rate, stopped": lambda: coded(codings.RateCoding(), time_steps=60, stop_after=10, batch_size=4),
    "switch": lambda: coded(codings.TemporalSwitchCoding(16)),
}


@pytest.mark.parametrize("name", RESULTS)
def test_both_results_speak_of_the_same(name):
    result = RESULTS[name]()
    samples, names = len(X), ["first", "second"]
    if name in ("event", "clock", "clock, early"):
        names = ["input", *names]
        assert result.input_encoders == ("input",)
    else:
        assert result.input_encoders == ()
    assert result.logits.shape == (samples, 3) and np.isfinite(result.logits).all()
    assert result.predictions.shape == (samples,)
    np.testing.assert_array_equal(result.predictions, result.logits.argmax(-1))
    assert result.neurons == {label: {"input": 6, "first": 8, "second": 5}[label] for label in names}
    assert list(result.spikes) == names and all(spikes > 0 for spikes in result.spikes.values())
    hidden = sum(result.spikes[label] for label in ("first", "second"))
    assert result.hidden_spikes == pytest.approx(hidden, rel=1e-12)
    assert result.spikes_per_step.shape == (result.decision_step,)
    assert result.spikes_per_step.sum() == pytest.approx(result.hidden_spikes, rel=1e-12)
    assert result.stopped_at.shape == (samples,) and np.issubdtype(result.stopped_at.dtype, np.integer)
    assert (result.stopped_at >= 1).all() and (result.stopped_at <= result.decision_step).all()
    assert 0 < result.decision_step <= result.time_steps
    if name == "event":
        assert result.predictions_per_step is None
    else:
        assert result.predictions_per_step.shape == (samples, result.decision_step)
        np.testing.assert_array_equal(result.predictions_per_step[:, -1], result.predictions)
        for curve, end in zip(result.predictions_per_step, result.stopped_at):
            assert (curve[end - 1 :] == curve[-1]).all()
    assert (result.stopped_at < result.decision_step).any() == (name == "rate, stopped")


def test_predictions_at_each_step_are_those_of_the_output_potential():
    """The potential by Eq. 1 from the spike times of the last hidden layer: NumPy, one step after the other."""
    model = network_of(ttfs)
    event, clock = (SpikingNetwork.from_model(model).run(X, mode=mode, dtype="float64") for mode in ("event", "clock"))
    kernel, bias = (weight.astype("float64") for weight in model.layers[-1].get_weights())
    start, window = clock.phases["second"]
    layer = model.get_layer("second")
    tau, t_d = float(layer.tau.numpy()), float(layer.t_d.numpy())
    assert (start, window, clock.decision_step, clock.time_steps) == (22, 8, 30, 42)
    times = event.spike_times["second"].astype(int)
    for step in range(clock.decision_step):
        arrived = (times < window) & (start + times <= step)
        potential = bias + np.where(arrived, np.exp(-(times - t_d) / tau), 0.0) @ kernel
        np.testing.assert_array_equal(clock.predictions_per_step[:, step], potential.argmax(-1), err_msg=str(step))
    np.testing.assert_allclose(clock.logits, potential, rtol=1e-12, atol=1e-12)
    assert len(np.unique(clock.predictions_per_step)) > 1
    assert (clock.predictions_per_step[:, 0] != clock.predictions_per_step[:, -1]).any()
    assert event.predictions_per_step is None


@pytest.mark.parametrize("mode", ["event", "clock"])
def test_spikes_per_step_are_those_of_the_spike_times(mode):
    result = SpikingNetwork.from_model(network_of(ttfs)).run(X, mode=mode)
    expected = np.zeros(result.decision_step)
    for name in ("first", "second"):
        start, window = result.phases[name]
        for time in result.spike_times[name].ravel():
            if time < window:
                expected[start + time] += 1 / len(X)
    np.testing.assert_allclose(result.spikes_per_step, expected, rtol=1e-12)
    for name, times in result.spike_times.items():
        np.testing.assert_array_equal(result.spike_counts[name], (times < result.phases[name].time_window).sum(1))
        assert result.count_spike_times()[name].sum() == result.spike_counts[name].sum()


@pytest.mark.parametrize("mode", ["event", "clock"])
def test_steps_of_spikes_need_spike_times(mode):
    network = SpikingNetwork.from_model(network_of(ttfs))
    result, whole = (network.run(X, mode=mode, spike_times=kept) for kept in (False, True))
    assert result.spike_times == {} and result.spikes == whole.spikes
    assert result.hidden_spikes == whole.hidden_spikes
    with pytest.raises(
        ValueError, match=r"^Expected a result with spike times. Received: one of run\(spike_times=False\)$"
    ):
        result.spikes_per_step  # noqa: B018
