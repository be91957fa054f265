"""The two simulations: one result, whatever the batch; potentials that fire as the spikes say; thresholds to the last bit."""

import keras
import numpy as np
import pytest

from keras_ttfs import TTFSActivation
from keras_ttfs.snn import SpikingNetwork
from tests.networks import IMAGES, vgg6_to_simulate

L = keras.layers


def test_result_depends_neither_on_batch_size_nor_on_mode():
    network = SpikingNetwork.from_model(vgg6_to_simulate())
    whole = network.run(IMAGES)
    for options in ({"batch_size": 7}, {"mode": "clock", "batch_size": 10}, {"mode": "clock", "dtype": "float64"}):
        other = network.run(IMAGES, **options)
        for name, times in whole.spike_times.items():
            assert times.dtype == np.int16
            np.testing.assert_array_equal(other.spike_times[name], times)
            np.testing.assert_array_equal(other.spike_counts[name], whole.spike_counts[name])
            np.testing.assert_array_equal(whole.spike_counts[name], (times < 32).reshape(len(IMAGES), -1).sum(1))
        np.testing.assert_allclose(other.logits, whole.logits, rtol=1e-4, atol=1e-5)
        assert other.synaptic_operations == whole.synaptic_operations
    counted = network.run(IMAGES, spike_times=False)
    assert counted.spike_times == {}
    assert counted.spikes == whole.spikes


def test_recorded_potentials_fire_as_the_spikes_say():
    network = SpikingNetwork.from_model(vgg6_to_simulate())
    layer, chosen = "conv2_1_activation", list(range(0, 256, 3))
    result = network.run(IMAGES[:3], mode="clock", record={layer: chosen, "logits": [1, 9]})
    unseen = network.run(IMAGES[:3], mode="clock")
    np.testing.assert_array_equal(result.predictions_per_step, unseen.predictions_per_step)
    np.testing.assert_array_equal(result.logits, unseen.logits)
    start, window = result.phases[layer]
    potentials = result.membranes[layer]
    assert potentials.shape == (3, len(chosen), network.decision_step)
    times = result.spike_times[layer].reshape(3, -1)[:, chosen]
    assert 0 < (times < window).mean() < 1
    for sample, neuron in np.ndindex(times.shape):
        trace, t = potentials[sample, neuron], times[sample, neuron]
        above = trace[start : start + window] >= result.thresholds[layer]
        if t == window:
            assert not above.any()
        else:
            assert above[t] and not above[:t].any()
            assert (trace[start + t + 1 :] == 0).all(), "refractory after the first spike"
            assert (trace[start : start + t] == trace[start + t]).all(), "integration is over when firing begins"
    # The logits move in the last phase only.
    last = result.membranes["logits"]
    assert (last[..., : -32 + 1] == last[..., :1]).all()
    assert (last[..., -1] != last[..., 0]).any()


@pytest.mark.parametrize("mode", ["event", "clock"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
def test_potential_at_the_threshold_fires_and_one_float_below_waits(mode, dtype, rounding):
    model = keras.Sequential([keras.Input((64,)), TTFSActivation(32, 7.3, -0.4, rounding, name="a"), L.Dense(2)])
    network = SpikingNetwork.from_model(model)
    thresholds = network.populations[0].thresholds(dtype).numpy()
    below = np.nextafter(thresholds, np.zeros(1, dtype))
    times = network.run(np.concatenate([thresholds, below])[None], mode=mode, dtype=dtype).spike_times["a"][0]
    np.testing.assert_array_equal(times, np.concatenate([np.arange(32), np.arange(1, 33)]))
