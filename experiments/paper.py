"""The numbers that the paper prints, and our names of its rows. Nothing measured by us."""

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
    "tsc": ("TSC", "TSC"),
    "t2fsnn": ("T2FSNN", "TTFS"),
    "t2fsnn_early": ("T2FSNN, early firing", "TTFS"),
}
# Table 2 on CIFAR-10: method, training, coding, accuracy [%], time steps, S [10^6].
TABLE2 = (
    ("Han et al. 2020, RMP-SNN", "conversion", "rate", 93.39, 512, 2.612),
    ("Kim et al. 2018, weighted spikes", "conversion", "phase", 91.21, 1500, 35.196),
    ("Park et al. 2019, burst spikes", "conversion", "burst", 91.41, 1125, 6.920),
    ("Han & Roy 2020, TSC", "conversion", "TSC", 93.57, 512, 0.193),
    ("Park et al. 2020, T2FSNN", "conversion", "TTFS", 91.43, 680, 0.069),
    ("Zhou et al. 2021", "direct", "TTFS", 92.68, None, None),
    ("Park & Yoon, lambda_TB = 1e-5", "direct", "TTFS", 91.90, 544, 0.067),
    ("Park & Yoon, lambda_TB = 1e-4", "direct", "TTFS", 91.49, 544, 0.049),
)
# VGG-16 at full width.
NEURONS = 280586
# Zhou et al., whose S the paper does not print [%].
ZHOU_SPIKES_PER_NEURON = "62.00"
