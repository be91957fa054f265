"""Table 2 of the paper as printed, and how exactly a printed number is known."""

from keras_ttfs import energy

# Spikes [10^6], time steps, TrueNorth, SpiNNaker, spike rate [%], spikes per neuron [%].
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
