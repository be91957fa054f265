import pytest

from keras_ttfs import energy, spike_rate, spikes_per_neuron

# Table 2: spikes [10^6] as printed, time steps, TrueNorth, SpiNNaker.
CIFAR10 = [
    ("2.612", 512, "6.01", "9.01"),
    ("35.196", 1500, "75", "118"),
    ("6.920", 1125, "16", "24"),
    ("0.193", 512, "1.00", "1.00"),
    ("0.069", 680, "0.94", "0.71"),
    ("0.067", 544, "0.78", "0.60"),
    ("0.049", 544, "0.74", "0.54"),
]
CIFAR100 = [
    ("2.048", 512, "5.42", "8.07"),
    ("258", 8950, "619", "979"),
    ("25", 3100, "63", "97"),
    ("0.170", 512, "1.00", "1.00"),
    ("0.084", 680, "0.99", "0.79"),
    ("0.078", 544, "0.82", "0.68"),
]


def half_unit(printed):
    return 0.5 * 10.0 ** -len(printed.partition(".")[2])


@pytest.mark.parametrize("platform", ["truenorth", "spinnaker"])
@pytest.mark.parametrize(
    ("row", "reference"),
    [(row, energy.TSC_CIFAR10) for row in CIFAR10] + [(row, energy.TSC_CIFAR100) for row in CIFAR100],
)
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


def test_ratios_of_table_2():
    assert 100 * spikes_per_neuron(67_000, 280_586) == pytest.approx(23.88, abs=0.005)
    assert 100 * spike_rate(67_000, 280_586, 544) == pytest.approx(0.04, abs=0.005)
