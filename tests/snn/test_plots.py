"""Every picture of a simulation."""

import numpy as np
import pytest

from keras_ttfs.snn import SpikingNetwork, plots
from tests.networks import IMAGES, vgg6_to_simulate


def test_pictures(tmp_path):
    network = SpikingNetwork.from_model(vgg6_to_simulate())
    result = network.run(IMAGES[:2], mode="clock", record={"conv1_1_activation": [0, 5, 9], "logits": [2]})
    figures = [
        plots.spike_raster(result, sample=1),
        plots.membrane_potentials(result, "conv1_1_activation"),
        plots.membrane_potentials(result, "logits"),
        plots.spikes_per_neuron(result),
        plots.spike_time_histogram(result.count_spike_times(), result.phases),
    ]
    for number, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 5_000
    spikes = {name: counts.sum() for name, counts in result.count_spike_times().items()}
    assert spikes == {name: counts.sum() for name, counts in result.spike_counts.items()}
    with pytest.raises(ValueError, match="Expected a recorded layer among"):
        plots.membrane_potentials(result, "conv1_2_activation")


def test_a_dot_marks_the_winner_of_a_window_and_crosses_the_others():
    network = SpikingNetwork.from_model(vgg6_to_simulate(pooling="potential"))
    layer = "conv1_2_activation"
    times = network.run(IMAGES[:1], verbose=0).spike_times[layer].ravel()
    fired, silent = int(np.flatnonzero((times > 4) & (times < 32))[0]), int(np.flatnonzero(times == 32)[0])
    marks = {}
    for neuron in (fired, silent):
        record = {layer: network.membranes_of(layer, neuron)}
        result = network.run(IMAGES[:1], mode="clock", record=record, verbose=0)
        (axis,) = plots.membrane_potentials(result, layer).axes
        labels = axis.get_legend_handles_labels()[1]
        assert [label for label in labels if "membrane" in label] == [f"membrane {place}" for place in record[layer]]
        lines = [line for line in axis.lines if line.get_marker() in ("o", "x")]
        marks[neuron] = [(line.get_marker(), int(line.get_xdata()[0])) for line in lines]
    step = result.phases[layer].start + int(times[fired])
    assert sorted(marks[fired]) == [("o", step), *[("x", step)] * 3] and marks[silent] == []
