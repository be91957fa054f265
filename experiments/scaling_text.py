"""What `experiments.scaling` measured, as text; and what a training on ImageNet costs, which follows from it."""

from typing import Any

from experiments.tables import markdown

# ImageNet's training images, and the epochs of the usual recipe.
IMAGES, EPOCHS = 1_281_167, 90
# Operations of a training step in multiply-adds of a forward pass: two each, forward once and backward twice.
OPERATIONS = 6
# What a GPU sustains [TFLOP/s], images of its share of a batch, and numbers of GPUs.
TFLOPS, SHARE, GPUS = 100.0, 64, (8, 64)
BYTES_OF_A_NUMBER = 4
REDUCED = ("gradient", "moving_statistics", "synchronised_norm")
COLUMNS = (
    "network", "parameters [10^6]", "multiply-adds [10^9]", "spiking neurons [10^6]", "MiB per image", "MiB beside",
    "PFLOP", *(f"hours on {count} GPUs" for count in GPUS), "MB that a GPU sends in a step", "TB in the training",
)  # fmt: skip


def pflop(row: dict[str, Any]) -> float:
    """Operations of the training [10^15]."""
    return OPERATIONS * row["multiply_adds"] * IMAGES * EPOCHS / 1e15


def hours(row: dict[str, Any], gpus: int) -> float:
    """Of the training on so many GPUs, as long as nobody waits for the others [h]."""
    return pflop(row) * 1e3 / (TFLOPS * gpus) / 3600


def sent(row: dict[str, Any], gpus: int) -> float:
    """Bytes that a GPU sends in a step of a ring all-reduce of the gradients."""
    return 2 * (gpus - 1) / gpus * row["parameters"] * BYTES_OF_A_NUMBER


def steps(gpus: int) -> int:
    """Of the training."""
    return IMAGES * EPOCHS // (SHARE * gpus)


def section(parts: dict[str, dict[str, Any]]) -> str:
    """The tables of all three parts."""
    return f"{_measured(parts['workers'], parts['norms'])}\n\n{_costs(parts['networks'])}"


def _measured(workers, norms):
    rates = [["workers of one thread", "images per second, each time"]]
    rates += [
        [count, ", ".join(f"{value:,.0f}" for value in values)]
        for count, values in workers["images_per_second"].items()
    ]
    kilobytes = {name: f"{workers[f'{name}_bytes'] / 1e3:,.1f} kB" for name in REDUCED}
    return (
        f"**Several workers**: fast_vgg at width {workers['width']:g}, {workers['batch_size_of_a_worker']} random images a "
        f"worker, {workers['dtype_policy']}, two processes on the loopback of {workers['device']}, in turn with one. The "
        f"efficiency of two is {workers['efficiency']:.2f}. In a step they add up {kilobytes['gradient']} of gradients, and "
        f"{kilobytes['moving_statistics']} of moving statistics or {kilobytes['synchronised_norm']} for synchronised norms."
        f"\n\n{markdown(rates)}\n\nOn one worker, a training step with synchronised norms has "
        f"{norms['synchronised_to_own']:.2f} of the throughput of one without (interleaved, medians of "
        f"{len(norms['seconds_per_step']['own'])} steps)."
    )


def _costs(networks):
    lines, most = [list(COLUMNS)], GPUS[-1]
    for name, row in networks["rows"].items():
        numbers = [row["parameters"] / 1e6, row["multiply_adds"] / 1e9, row["neurons"] / 1e6]
        memory = [f"{row[key]:,.0f}" for key in ("mebibytes_per_image", "other_mebibytes")]
        costs = [f"{pflop(row):,.0f}", *(f"{hours(row, count):,.1f}" for count in GPUS)]
        volume = [f"{sent(row, most) / 1e6:,.0f}", f"{sent(row, most) * steps(most) / 1e12:,.1f}"]
        lines.append([name, *(f"{value:.1f}" for value in numbers), *memory, *costs, *volume])
    side = networks["side"]
    return (
        f"**What ImageNet costs**: memory of TTFS training steps at {side} x {side} ({networks['dtype_policy']}, from two "
        f"batch sizes), and what {EPOCHS} epochs of {IMAGES:,} images take on GPUs that sustain {TFLOPS:g} TFLOP/s, with "
        f"{SHARE} images each. The last two columns are of {most} GPUs and a ring all-reduce.\n\n{markdown(lines)}"
    )
