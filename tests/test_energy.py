"""Energy estimates: every cell of Table 2, and reports of small networks."""

import keras
import numpy as np
import pytest

from experiments import simulate
from keras_ttfs import TTFSActivation, energy
from keras_ttfs.snn import SpikingNetwork
from tests.table_2 import ROWS, half_unit


@pytest.mark.parametrize("platform", ["truenorth", "spinnaker"])
@pytest.mark.parametrize(("row", "reference"), ROWS)
def test_every_energy_cell_of_table_2(row, reference, platform):
    spikes, time_steps, *printed = row
    cell = printed[platform == "spinnaker"]
    dynamic, _ = energy.COEFFICIENTS[platform]
    # The printed S, and that of the reference, are rounded too.
    ours = energy.normalized_energy(float(spikes) * 1e6, time_steps, platform, reference)
    relative = half_unit(spikes) / float(spikes) + half_unit("0.193") / (reference[0] / 1e6)
    slack = half_unit(cell) + dynamic * float(spikes) * 1e6 / reference[0] * relative
    assert abs(ours - float(cell)) <= slack * (1 + 1e-9)


def test_unknown_platform():
    with pytest.raises(ValueError, match="Expected platform to be one of .* Received: platform='loihi'"):
        energy.normalized_energy(1.0, 1, "loihi")


@pytest.fixture(scope="module")
def simulated():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((20,)),
            TTFSActivation(8, name="input"),
            keras.layers.Dense(10),
            TTFSActivation(8, 2.5, name="hidden"),
            keras.layers.Dense(4),
        ]
    )
    network = SpikingNetwork.from_model(model)
    return network, network.run(np.random.default_rng(0).uniform(size=(16, 20)))


def test_report_of_a_known_network(simulated):
    network, result = simulated
    report = energy.report(network, result, reference=(100.0, 48))
    hidden, entering = result.spikes["hidden"], result.spikes["input"]
    assert 0 < hidden < 10
    assert report.spikes == hidden
    assert report.time_steps == 24
    operations = entering * 10 + hidden * 4
    assert report.synaptic_operations == pytest.approx(operations)
    assert report.normalized["truenorth"][0] == pytest.approx(0.4 * hidden / 100 + 0.6 * 24 / 48)
    assert report.normalized["truenorth"][1] == pytest.approx(0.3 / report.normalized["truenorth"][0])
    assert report.chips["loihi"] == (pytest.approx(operations * 23.6e-12), pytest.approx(30 * 2 * 8 * 81e-12))
    assert report.chips["truenorth"] == (pytest.approx(operations * 26e-12), None)
    costs = {cost.name: cost for cost in report.costs}
    assert costs["ReLU twin, float32"].operations == 240
    assert costs["ReLU twin, float32"].compute == pytest.approx(240 * 4.6e-12)
    assert costs["quantised, 4-bit levels"].compute == pytest.approx(240 * 0.3e-12)
    assert costs["quantised, 4-bit levels"].state == 10 / 2
    spiking = costs["spiking, float32"]
    assert spiking.compute == pytest.approx(operations * 0.9e-12 + 10 * 8 * 3.7e-12)
    assert spiking.memory == pytest.approx(operations * 12 * 2.5e-12)
    for text in ("Horowitz", "Merolla", "Davies", "Hoeppner", "latency", "but "):
        assert text in str(report)


def test_an_analog_input_multiplies():
    dense = keras.layers.Dense
    network = SpikingNetwork.from_model(keras.Sequential([keras.Input((20,)), dense(10), TTFSActivation(8), dense(4)]))
    result = network.run(np.random.default_rng(0).uniform(size=(16, 20)))
    costs = {cost.name: cost.compute for cost in energy.report(network, result).costs}
    entering = 200 + 4 * result.hidden_spikes
    assert costs["spiking, float32"] == pytest.approx(entering * 0.9e-12 + (200 + 10 * 8) * 3.7e-12)
    assert costs["spiking, 8-bit weights"] == pytest.approx(entering * 0.1e-12 + 200 * 0.2e-12 + 10 * 8 * 3.1e-12)


def test_skipping_zeros_never_costs_more():
    layers = keras.layers
    network = SpikingNetwork.from_model(
        keras.Sequential([keras.Input((8, 8, 4)), TTFSActivation(), layers.SeparableConv2D(32, 3), layers.Flatten(),
                          TTFSActivation(), layers.Dense(10)])
    )  # fmt: skip
    result = network.run(np.ones((1, 8, 8, 4)))
    # Every way of a spike through both stages of the convolution, which no neurons part.
    assert result.synaptic_operations > network.dense_operations == 36 * (9 * 4 + 4 * 32) + 36 * 32 * 10
    costs = {cost.name: cost.operations for cost in energy.report(network, result).costs}
    assert costs["quantised, 6-bit levels, zeros skipped"] == costs["quantised, 6-bit levels"]


def test_reports_are_relative_to_the_papers_row_of_their_data(simulated):
    network, result = simulated
    for dataset, reference in (
        ("digits", energy.TSC_CIFAR10),
        ("cifar10", energy.TSC_CIFAR10),
        ("cifar100", energy.TSC_CIFAR100),
    ):
        report = simulate.energy_report(network, result, dataset)
        wanted = energy.normalized_energy(result.spikes["hidden"], 24, "spinnaker", reference)
        assert report.reference == reference and report.normalized["spinnaker"][0] == pytest.approx(wanted)


def test_latency_share_at_the_papers_last_row():
    assert energy.latency_share(0.049e6, 544) == pytest.approx(0.86, abs=0.005)
    with pytest.raises(ValueError, match="Expected platform"):
        energy.latency_share(1.0, 1, "loihi")


def test_a_reference_by_the_name_of_its_data_set():
    # The paper's own CIFAR-100 row, 0.78 with the reference of CIFAR-10.
    for platform, printed in (("truenorth", 0.82), ("spinnaker", 0.68)):
        named = energy.normalized_energy(0.078e6, 544, platform, "cifar100")
        assert named == energy.normalized_energy(0.078e6, 544, platform, energy.TSC_CIFAR100)
        assert named == pytest.approx(printed, abs=0.005)
        share = energy.latency_share(0.078e6, 544, platform, "cifar100")
        assert share == energy.latency_share(0.078e6, 544, platform, energy.TSC_CIFAR100)
        assert share == pytest.approx(energy.normalized_energy(0.0, 544, platform, "cifar100") / named)
    assert energy.normalized_energy(1.0, 1, reference="cifar10") == energy.normalized_energy(1.0, 1)
    for function in (energy.normalized_energy, energy.latency_share):
        with pytest.raises(ValueError, match="Expected reference to be one of"):
            function(1.0, 1, reference="cifar")
