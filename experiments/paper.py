"""The numbers that the paper and other works print, and our names of its rows. Nothing measured by us."""

# Table 1: our name, the paper's accuracy [%] and spikes [10^4].
TABLE1_ROWS = {
    "relu": ("ReLU twin", None, None),
    "sm_1": ("SM (z_max_0 = 1)", None, None),
    "sm_2": ("SM (z_max_0 = 2)", 87.43, 7.23),
    "sm_sr": ("SM+SR", 91.05, 7.31),
    "sm_sr_tr": ("SM+SR+TR", 91.83, 7.31),
    "sm_sr_tr_tb_1e-5": ("SM+SR+TR+TB, 1e-5", 91.90, 6.74),
    "sm_sr_tr_tb_1e-4": ("SM+SR+TR+TB, 1e-4", 91.49, 4.90),
}
# The row that the changes of the others are against.
TABLE1_REFERENCE = "sm_sr_tr"

# Table 2, conversions: our name, coding.
TABLE2_ROWS = {
    "rate": ("RMP-SNN", "rate"),
    "phase": ("weighted spikes", "phase"),
    "burst": ("burst spikes", "burst"),
    "tsc": ("TSC, neuron of ours", "TSC"),
    "t2fsnn": ("T2FSNN", "TTFS"),
    "t2fsnn_early": ("T2FSNN, early firing", "TTFS"),
}
# Table 2 of each data set. Our row: the paper's method, training, coding, accuracy [%], time steps, S [10^6]. Our first
# TTFS model stands beside the paper's most accurate one.
TABLE2 = {
    "cifar10": {
        "rate": ("Han et al. 2020, RMP-SNN", "conversion", "rate", 93.39, 512, 2.612),
        "phase": ("Kim et al. 2018, weighted spikes", "conversion", "phase", 91.21, 1500, 35.196),
        "burst": ("Park et al. 2019, burst spikes", "conversion", "burst", 91.41, 1125, 6.920),
        "tsc": ("Han & Roy 2020, TSC", "conversion", "TSC", 93.57, 512, 0.193),
        "t2fsnn_early": ("Park et al. 2020, T2FSNN", "conversion", "TTFS", 91.43, 680, 0.069),
        "spike_time": ("Zhou et al. 2021", "direct", "TTFS", 92.68, None, None),
        "ttfs_0": ("Park & Yoon, lambda_TB = 1e-5", "direct", "TTFS", 91.90, 544, 0.067),
        "lambda_tb_1e-4": ("Park & Yoon, lambda_TB = 1e-4", "direct", "TTFS", 91.49, 544, 0.049),
    },
    "cifar100": {
        "rate": ("Han et al. 2020, RMP-SNN", "conversion", "rate", 69.40, 512, 2.048),
        "phase": ("Kim et al. 2018, weighted spikes", "conversion", "phase", 68.66, 8950, 258),
        "burst": ("Park et al. 2019, burst spikes", "conversion", "burst", 68.77, 3100, 25),
        "tsc": ("Han & Roy 2020, TSC", "conversion", "TSC", 70.87, 512, 0.170),
        "t2fsnn_early": ("Park et al. 2020, T2FSNN", "conversion", "TTFS", 68.79, 680, 0.084),
        "ttfs_0": ("Park & Yoon", "direct", "TTFS", 65.98, 544, 0.078),
    },
}
# Of each data set, the one whose TSC row has energy 1.
ENERGY_REFERENCES = {"digits": "cifar10", "cifar10": "cifar10", "cifar100": "cifar100"}
# VGG-16 at full width, outputs included.
NEURONS = {"cifar10": 280586, "cifar100": 280676}
# T of its T2FSNN rows, whose time steps count until the answer.
T2FSNN_WINDOW = 80
# The model that `experiments.zhou` makes, and what their published weights are called in our table.
ZHOU_NAME = "zhou"
ZHOU_LABEL = "Zhou et al., their small network"
# Zhou et al., whose S the paper does not print [1].
ZHOU_SPIKES_PER_NEURON = 0.62

# The paper's most accurate row of each data set, VGG-16: lambda_TB, accuracy [%], spikes, time steps; and its epochs.
# On CIFAR-100 it prints spikes per neuron, 0.278.
BEST_ROWS = {
    "cifar10": (
        "CIFAR-10, lambda_TB = 1e-5",
        TABLE1_ROWS["sm_sr_tr_tb_1e-5"][1],
        1e4 * TABLE1_ROWS["sm_sr_tr_tb_1e-5"][2],
        544,
    ),
    "cifar100": ("CIFAR-100, lambda_TB = 1e-5", 65.98, 0.278 * NEURONS["cifar100"], 544),
}
EPOCHS = {"cifar10": 2000, "cifar100": 3000}

# CIFAR-10, at most one spike per neuron: name, accuracy [%], spikes per image and time steps, None where they are not known.
OTHERS = (
    ("the paper, lambda_TB = 1e-5", *BEST_ROWS["cifar10"][1:]),
    ("the paper, lambda_TB = 1e-4", TABLE1_ROWS["sm_sr_tr_tb_1e-4"][1], 1e4 * TABLE1_ROWS["sm_sr_tr_tb_1e-4"][2], 544),
    # Park et al., DAC 2020, as the paper's Table 2 has it.
    ("T2FSNN", 91.43, 69_000, 680),
    # Che et al., AAAI 2026, parallel TTFS.
    ("Che et al.", 95.06, None, None),
    # Stanojevic et al., Nature Communications 2024, continuous time: below 0.3 spikes per neuron.
    ("Stanojevic et al.", 93.69, None, None),
    # ICCV 2023. Its epoch is chosen on the test split.
    ("DTA-TTFS", 93.05, None, None),
    # Zhou et al., AAAI 2021: 0.62 spikes per neuron.
    ("Zhou et al.", 92.68, None, None),
)
