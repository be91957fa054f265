import pytest

from keras_ttfs import energy, spike_rate, spikes_per_neuron

# Table 2: spikes [10^6] as printed, time steps, TrueNorth, SpiNNaker, spike rate [%], spikes per neuron [%].
CIFAR10 = [
    ("2.612", 512, "6.01", "9.01", "1.82", "930.91"),
    ("35.196", 1500, "75", "118", "8.36", "12544"),
    ("6.920", 1125, "16", "24", "2.19", "2466"),
    ("0.193", 512, "1.00", "1.00", "0.13", "68.86"),
    ("0.069", 680, "0.94", "0.71", "0.04", "24.59"),
    ("0.067", 544, "0.78", "0.60", "0.04", "23.88"),
    ("0.049", 544, "0.74", "0.54", "0.03", "17.46"),
]
CIFAR100 = [
    ("2.048", 512, "5.42", "8.07", "1.43", "729.77"),
    ("258", 8950, "619", "979", "10.29", "92095"),
    ("25", 3100, "63", "97", "2.88", "8936"),
    ("0.170", 512, "1.00", "1.00", "0.12", "60.57"),
    ("0.084", 680, "0.99", "0.79", "0.04", "29.94"),
    ("0.078", 544, "0.82", "0.68", "0.05", "27.80"),
]
NEURONS = {energy.TSC_CIFAR10: 280586, energy.TSC_CIFAR100: 280676}
ROWS = [(row, energy.TSC_CIFAR10) for row in CIFAR10] + [(row, energy.TSC_CIFAR100) for row in CIFAR100]


def half_unit(printed):
    return 0.5 * 10.0 ** -len(printed.partition(".")[2])


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


@pytest.mark.parametrize(("row", "reference"), ROWS)
def test_every_spike_rate_and_spikes_per_neuron_of_table_2(row, reference):
    spikes, time_steps, _, _, *printed = row
    total, neurons = float(spikes) * 1e6, NEURONS[reference]
    ours = spike_rate(total, neurons, time_steps), spikes_per_neuron(total, neurons)
    for value, cell in zip(ours, printed):
        slack = half_unit(cell) + 100 * value * half_unit(spikes) / float(spikes)
        assert abs(100 * value - float(cell)) <= slack * (1 + 1e-9)


@pytest.fixture(scope="module")
def simulated():
    import keras
    import numpy as np

    from keras_ttfs import TTFSActivation
    from keras_ttfs.snn import SpikingNetwork

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
    import keras
    import numpy as np

    from keras_ttfs import TTFSActivation
    from keras_ttfs.snn import SpikingNetwork

    dense = keras.layers.Dense
    network = SpikingNetwork.from_model(keras.Sequential([keras.Input((20,)), dense(10), TTFSActivation(8), dense(4)]))
    result = network.run(np.random.default_rng(0).uniform(size=(16, 20)))
    costs = {cost.name: cost.compute for cost in energy.report(network, result).costs}
    entering = 200 + 4 * result.hidden_spikes
    assert costs["spiking, float32"] == pytest.approx(entering * 0.9e-12 + (200 + 10 * 8) * 3.7e-12)
    assert costs["spiking, 8-bit weights"] == pytest.approx(entering * 0.1e-12 + 200 * 0.2e-12 + 10 * 8 * 3.1e-12)


def test_skipping_zeros_never_costs_more():
    import keras
    import numpy as np

    from keras_ttfs import TTFSActivation
    from keras_ttfs.snn import SpikingNetwork

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


def test_latency_share_at_the_papers_last_row():
    assert energy.latency_share(0.049e6, 544) == pytest.approx(0.86, abs=0.005)
    with pytest.raises(ValueError, match="Expected platform"):
        energy.latency_share(1.0, 1, "loihi")
