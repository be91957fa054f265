"""Spike counts, and the ratios of Table 2."""

import numpy as np
import pytest

from keras_ttfs import MeanSpikes, spike_rate, spikes_per_neuron
from tests.table_2 import NEURONS, ROWS, half_unit


@pytest.mark.parametrize(("row", "reference"), ROWS)
def test_every_spike_rate_and_spikes_per_neuron_of_table_2(row, reference):
    spikes, time_steps, _, _, *printed = row
    total, neurons = float(spikes) * 1e6, NEURONS[reference]
    ours = spike_rate(total, neurons, time_steps), spikes_per_neuron(total, neurons)
    for value, cell in zip(ours, printed):
        slack = half_unit(cell) + 100 * value * half_unit(spikes) / float(spikes)
        assert abs(100 * value - float(cell)) <= slack * (1 + 1e-9)


def test_spikes_of_several_calls_are_counted_exactly():
    metric = MeanSpikes()
    assert float(metric.result()) == 0.0
    metric.update_state(np.array([[0.0, 0.5, 1.0], [0.0, 0.0, 0.25]]))
    metric.update_state(np.array([[True, False, False]]))
    assert (int(metric.count), int(metric.neurons), int(metric.samples)) == (4, 9, 3)
    assert float(metric.result()) == pytest.approx(4 / 3, rel=1e-15)
    metric.reset_state()
    assert (int(metric.count), int(metric.neurons), int(metric.samples)) == (0, 0, 0)
