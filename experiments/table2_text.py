"""Table 2 as text: our rows beside the paper's, of each data set, and why they differ."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from experiments import paper
from experiments.tables import Result, markdown

COLUMNS = (
    "row", "training", "coding", "neurons", "images", "accuracy [%]", "of its model [%]", "minutes", "answer at step",
    "time steps", "spikes [10^4]", "spike rate [%]", "spikes per neuron [%]", "energy TN", "energy SN",
    "the paper's accuracy [%]", "time steps", "spikes per neuron [%]",
)  # fmt: skip
PAPER_COLUMNS = (
    "method", "training", "coding", "accuracy [%]", "time steps", "spikes [10^4]", "spike rate [%]",
    "spikes per neuron [%]", "energy TN", "energy SN",
)  # fmt: skip
# Rows that differ by more, in accuracy [points] or in spikes per neuron [1], have a reason.
POINTS, FACTOR = 2.0, 1.5

# Folder of a Table 2: its data set, whose models, and why rows differ from the paper's: `{row: sentence}`.
GROUPS: dict[str, tuple[str, str, dict[str, str]]] = {
    "table2_cifar10": (
        "cifar10",
        "conversions of one ReLU twin, fast_vgg of seed 0, and the TTFS networks that began from it",
        {
            "phase": "the twin itself is more accurate than the paper's row, and phase coding keeps all of it, as rate "
            "coding does; the paper's phase row is below its rate row.",
            "burst": "as phase coding: the twin is more accurate, and burst coding keeps all of it.",
            "spike_time": "it is the authors' small network, the only one for CIFAR-10 whose weights they publish. The "
            "paper's row is of their large network. Their program prints running means over batches, of which the accuracy "
            "stands in a supplement that we have not seen.",
        },
    ),
    "table2_cifar100": (
        "cifar100",
        "the same of CIFAR-100, one seed",
        {
            "phase": "the twin itself is more accurate than the paper's row, and phase coding keeps all of it. It takes the "
            "1,500 steps of CIFAR-10, not the paper's 8,950, and so fires fewer spikes.",
            "burst": "the twin itself is more accurate, and burst coding loses less than a point of it. It takes 1,125 "
            "steps, not 3,100, and so fires fewer spikes.",
            "t2fsnn_early": "the twin itself is above every row of the paper's, and T2FSNN loses a point and a half of it.",
            "ttfs_0": "it begins from that twin and is taught by it.",
        },
    ),
}


def table2(results: Sequence[Result], dataset: str) -> str:
    """Table 2 of the results of `experiments.table2`. Energies are normalised to the TSC row of the paper."""
    from keras_ttfs import energy

    reference = energy.REFERENCES[paper.ENERGY_REFERENCES[dataset]]
    lines = [list(COLUMNS)]
    for result in results:
        training = "conversion" if result["row"] in paper.TABLE2_ROWS else "direct"
        coding = paper.TABLE2_ROWS.get(result["row"], ("", "TTFS"))[1]
        time_steps, *numbers = _numbers(result["spikes"], steps(result), result["neurons"], reference)
        images = result["settings"]["test_images"]
        answer = f"{result['decision_step']:,}" if result["decision_step"] else "-"
        own = [f"{result['neurons']:,}", f"{images:,}", with_error(result["accuracy"], images)]
        own += [f"{100 * result['model_accuracy']:.2f}", f"{result['seconds'] / 60:.0f}", answer]
        lines.append([result["label"], training, coding, *own, time_steps, *numbers, *_printed(result, dataset)])
    return markdown(lines)


def steps(result: Result) -> int | None:
    """L of a row [steps]: as the paper counts, of T2FSNN until the answer, of the others until all is silent."""
    return result["decision_step"] if result["row"].startswith("t2fsnn") else result["time_steps"]


def in_order(results: Iterable[Result]) -> list[Result]:
    """Results in the order of the table, our trained models last."""
    order = [*paper.TABLE2_ROWS, "spike_time"]
    return sorted(results, key=lambda r: order.index(r["row"]) if r["row"] in order else len(order))


def with_error(share: float, images: int) -> str:
    """An accuracy [%] and its standard error, that of `images` independent draws."""
    return f"{100 * share:.2f} ± {100 * math.sqrt(share * (1 - share) / images):.2f}"


def printed(result: Result, dataset: str) -> tuple[float, int | None, float] | None:
    """`(accuracy [%], steps, spikes per neuron [1])` that the paper prints beside a row of ours; None where it has none."""
    row, window = result["row"], result["settings"].get("time_window")
    known = paper.TABLE2.get(dataset, {}).get(row)
    if known is None or (row.startswith("t2fsnn") and window != paper.T2FSNN_WINDOW):
        return None
    *_, accuracy, time_steps, spikes = known
    per_neuron = paper.ZHOU_SPIKES_PER_NEURON if spikes is None else 1e6 * spikes / paper.NEURONS[dataset]
    return accuracy, time_steps, per_neuron


def _printed(result: Result, dataset: str) -> list[str]:
    found = printed(result, dataset)
    if found is None:
        return ["-", "-", "-"]
    return [f"{found[0]:.2f}", f"{found[1]:,}" if found[1] else "-", f"{100 * found[2]:,.2f}"]


def differing(results: Iterable[Result], dataset: str) -> list[str]:
    """Rows that differ from the paper's by more than POINTS or FACTOR."""
    rows = []
    for result in results:
        if known := printed(result, dataset):
            factor = result["spikes"] / result["neurons"] / known[2]
            if abs(100 * result["accuracy"] - known[0]) > POINTS or not 1 / FACTOR <= factor <= FACTOR:
                rows.append(result["row"])
    return rows


def paper_table2(dataset: str) -> str:
    """The paper's Table 2 on a data set, its derived columns computed from its S and L; "" where it has none."""
    from keras_ttfs import energy

    if dataset not in paper.TABLE2:
        return ""
    lines = [list(PAPER_COLUMNS)]
    for method, training, coding, accuracy, time_steps, spikes in paper.TABLE2[dataset].values():
        numbers = ["-", "-", "-", f"{100 * paper.ZHOU_SPIKES_PER_NEURON:.2f}", "-", "-"]
        if spikes is not None:
            numbers = _numbers(1e6 * spikes, time_steps, paper.NEURONS[dataset], energy.REFERENCES[dataset])
        lines.append([method, training, coding, f"{accuracy:.2f}", *numbers])
    return markdown(lines)


def _numbers(spikes: float, time_steps: int | None, neurons: int, reference: tuple[float, int]) -> list[str]:
    """The columns of Table 2 from "time steps" to "energy SN"."""
    from keras_ttfs import energy, spike_rate, spikes_per_neuron

    numbers = [
        f"{time_steps:,}" if time_steps else "-",
        f"{spikes / 1e4:,.2f}",
        f"{100 * spike_rate(spikes, neurons, time_steps):.2f}" if time_steps else "-",
        f"{100 * spikes_per_neuron(spikes, neurons):,.2f}",
    ]
    if not time_steps:
        return [*numbers, "-", "-"]
    return numbers + [
        f"{energy.normalized_energy(spikes, time_steps, platform, reference):.2f}"
        for platform in ("truenorth", "spinnaker")
    ]


def section(results: Sequence[Result], dataset: str, models: str, picture: str, reasons: dict[str, str]) -> str:
    """One half of Table 2 with its picture, what it was measured on, and a reason for each row that differs."""
    results = in_order(results)
    settings, first = results[0]["settings"], results[0]
    hours = sum(result["seconds"] for result in results) / 3600
    told = [f"- {result['label']}: {reasons[result['row']]}" for result in results if result["row"] in reasons]
    others = [_other_network(result) for result in results if result["time_steps"] is None]
    return (
        f"**Table 2, {settings['data']}**: {models}, scales of {settings['calibration_images']:,} training images, float32, "
        f"{first['device']}, {hours:.1f} hours. Behind ± stands the standard error. The energy of the paper's TSC row is 1. "
        "Time steps are counted as the paper does: of T2FSNN until the answer, as its 680; of TTFS with the idle window of "
        "the output, as its 544; those of TSC with the window of an input that is analog here."
        f"{''.join(f' {text}' for text in others)}\n\n{table2(results, dataset)}\n\n"
        f"![Accuracy over time steps and over spikes]({picture})"
        + (
            f"\n\nWhere a row is more than {POINTS:g} points or a factor of {FACTOR} from the paper's:\n\n"
            if told
            else ""
        )
        + "\n".join(told)
    )


def _other_network(result: dict[str, Any]) -> str:
    trained = (
        "with the weights that its authors publish" if result["label"] == paper.ZHOU_LABEL else "trained elsewhere"
    )
    if training := result["training"]:
        trained = f"trained in {training['epochs']} epochs and {training['wall_time'] / 60:.0f} minutes"
    return (
        f"{result['label']} is another network, of {result['neurons']:,} neurons, {trained}; its spike times are real "
        "numbers, without steps."
    )
