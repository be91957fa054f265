"""Every picture of a simulation."""

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
