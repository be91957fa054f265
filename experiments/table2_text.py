"""Table 2 as text: our rows beside the paper's, of each data set, and why they differ."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from experiments import paper
from experiments.tables import Result, markdown

COLUMNS = (
    "row", "training", "coding", "images", "accuracy [%]", "of its model [%]", "answer at step", "time steps",
    "spikes [10^4]", "spike rate [%]", "spikes per neuron [%]", "energy TN", "energy SN", "the paper's accuracy [%]",
    "spikes per neuron [%]",
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
            "spike_time": "it is the authors' small network, the only one whose weights they publish. The paper's row is of "
            "their large network.",
        },
    ),
}


def table2(results: Sequence[Result], dataset: str) -> str:
    """Table 2 of the results of `experiments.table2`. Energies are normalised to our TSC, if that was measured."""
    tsc = next(((r["spikes"], r["time_steps"]) for r in results if r["row"] == "tsc"), None)
    lines = [list(COLUMNS)]
    for result in results:
        training = "conversion" if result["row"] in paper.TABLE2_ROWS else "direct"
        coding = paper.TABLE2_ROWS.get(result["row"], ("", "TTFS"))[1]
        time_steps, *numbers = _numbers(result["spikes"], result["time_steps"], result["neurons"], tsc)
        images = result["settings"]["test_images"]
        answer = f"{result['decision_step']:,}" if result["decision_step"] else "-"
        own = [f"{images:,}", with_error(result["accuracy"], images), f"{100 * result['model_accuracy']:.2f}", answer]
        lines.append([result["label"], training, coding, *own, time_steps, *numbers, *_printed(result["row"], dataset)])
    return markdown(lines)


def with_error(share: float, images: int) -> str:
    """An accuracy [%] and its standard error, that of `images` independent draws."""
    return f"{100 * share:.2f} ± {100 * math.sqrt(share * (1 - share) / images):.2f}"


def printed(row: str, dataset: str) -> tuple[float, float] | None:
    """`(accuracy [%], spikes per neuron [1])` that the paper prints beside a row of ours; None where there is none."""
    known = paper.TABLE2.get(dataset, {}).get(row)
    if known is None:
        return None
    *_, accuracy, _, spikes = known
    return accuracy, paper.ZHOU_SPIKES_PER_NEURON if spikes is None else 1e6 * spikes / paper.NEURONS


def _printed(row: str, dataset: str) -> list[str]:
    found = printed(row, dataset)
    return [f"{found[0]:.2f}", f"{100 * found[1]:,.2f}"] if found else ["-", "-"]


def differing(results: Iterable[Result], dataset: str) -> list[str]:
    """Rows that differ from the paper's by more than POINTS or FACTOR."""
    rows = []
    for result in results:
        if known := printed(result["row"], dataset):
            factor = result["spikes"] / result["neurons"] / known[1]
            if abs(100 * result["accuracy"] - known[0]) > POINTS or not 1 / FACTOR <= factor <= FACTOR:
                rows.append(result["row"])
    return rows


def paper_table2(dataset: str) -> str:
    """The paper's Table 2 on a data set, its derived columns computed from its S and L; "" where it has none."""
    from keras_ttfs import energy

    if dataset not in paper.TABLE2:
        return ""
    lines = [list(PAPER_COLUMNS)]
    for method, training, coding, accuracy, steps, spikes in paper.TABLE2[dataset].values():
        numbers = ["-", "-", "-", f"{100 * paper.ZHOU_SPIKES_PER_NEURON:.2f}", "-", "-"]
        if spikes is not None:
            numbers = _numbers(1e6 * spikes, steps, paper.NEURONS, energy.REFERENCES[dataset])
        lines.append([method, training, coding, f"{accuracy:.2f}", *numbers])
    return markdown(lines)


def _numbers(spikes: float, time_steps: int | None, neurons: int, reference: tuple[float, int] | None) -> list[str]:
    """The columns of Table 2 from "time steps" to "energy SN"."""
    from keras_ttfs import energy, spike_rate, spikes_per_neuron

    numbers = [
        f"{time_steps:,}" if time_steps else "-",
        f"{spikes / 1e4:,.2f}",
        f"{100 * spike_rate(spikes, neurons, time_steps):.2f}" if time_steps else "-",
        f"{100 * spikes_per_neuron(spikes, neurons):,.2f}",
    ]
    if reference is None or not time_steps:
        return [*numbers, "-", "-"]
    return numbers + [
        f"{energy.normalized_energy(spikes, time_steps, platform, reference):.2f}"
        for platform in ("truenorth", "spinnaker")
    ]


def section(results: Sequence[Result], dataset: str, models: str, picture: str, reasons: dict[str, str]) -> str:
    """One half of Table 2 with its picture, what it was measured on, and a reason for each row that differs."""
    order = [*paper.TABLE2_ROWS, "spike_time"]
    results = sorted(results, key=lambda r: order.index(r["row"]) if r["row"] in order else len(order))
    settings, first = results[0]["settings"], results[0]
    hours = sum(result["seconds"] for result in results) / 3600
    told = [f"- {result['label']}: {reasons[result['row']]}" for result in results if result["row"] in reasons]
    others = [_other_network(result) for result in results if result["time_steps"] is None]
    return (
        f"**Table 2, {settings['data']}**: {models}, {first['neurons']:,} neurons, scales of "
        f"{settings['calibration_images']:,} training images, float32, {first['device']}, {hours:.1f} hours. Behind ± stands "
        "the standard error. Energies are normalised to our TSC row; time steps of TTFS rows count the idle window of the "
        "output, as the paper's 544 do, those of TSC the window of an input that is analog here."
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
