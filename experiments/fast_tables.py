"""The rows of fast_vgg as tables: what they score, what they cost, and the paper's rows beside them.

The cost of a row is that of its own run and of the runs that it begins from. It is known where those of the same seed are
among the rows.
"""

import pathlib
import statistics
from collections.abc import Iterable
from typing import Any

from experiments import paper
from experiments.files import REMEDY
from experiments.results import RESULTS, accuracy_differences, check_one_value, result_files
from experiments.stored import read_any, read_history, read_result
from experiments.tables import markdown, with_deviation

GROUP = "fast_cifar"
# Where the same rows, and those that start in other ways, are collected at half width.
HALF_GROUP = "fast_half"
# Our rows in the table's order, and the ReLU twin of each.
TWINS = {
    "relu": None,
    "t16": "relu",
    "t8": "relu",
    "budget": "relu",
    "fewest": "relu",
    "base2": "relu",
    "shift": "relu",
    "hardened": "relu",
    "untaught": "relu",
    "scratch": "relu",
    "t8_at_once": "relu",
    "cifar100_relu": None,
    "cifar100_t16": "cifar100_relu",
}
# Validation accuracies whose time of arrival is told.
GOALS = (0.90, 0.92)
# Multiply-adds of a training step in those of a forward pass, counted as two operations each; a teacher's pass is one more.
OPERATIONS_OF_A_STEP, OPERATIONS_OF_A_PASS = 6, 2
COLUMNS = (
    "row", "accuracy [%]", "gap to the twin [points]", "spikes", "spikes per neuron [%]", "neurons", "membranes",
    "time steps", "decision step", "PFLOP to train", *(f"minutes to {100 * goal:.0f} %" for goal in GOALS),
    "to the end", "epochs", "seeds",
)  # fmt: skip
PUBLISHED_COLUMNS = (
    "weights", "data", "accuracy [%]", "spikes", "spikes per neuron [%]", "neurons", "membranes", "time steps",
    "decision step", "spikes that differ in float64", "of images",
)  # fmt: skip
# Of each row, a run for each seed: `{"result": ..., "history": [row of each epoch]}`.
Run = dict[str, Any]
Rows = dict[str, list[Run]]


def read_rows(folder: pathlib.Path = RESULTS / GROUP) -> Rows:
    """The collected runs that are there, in the table's order; those of one data set are of the same data."""
    found: Rows = {}
    for row in TWINS:
        for path in result_files(folder, f"{row}.seed*"):
            history = read_history(path.with_name(f"{path.stem}.history.csv"), REMEDY)
            found.setdefault(row, []).append({"result": read_result(path, REMEDY), "history": history})
    runs = [run["result"] for row in found.values() for run in row]
    for dataset in {run["config"]["dataset"] for run in runs}:
        check_one_value(folder.name, "data", [run["data"] for run in runs if run["config"]["dataset"] == dataset])
    return found


def chain_of(run: Run, rows: Rows) -> list[Run] | None:
    """The runs that a run begins from, the first of them first, and itself; None where one is not among the rows.

    A run names the flagfile or the model that it begins from, in whose path the row's name stands.
    """
    config = run["result"]["config"]
    given = config.get("start_from", "")
    if not given:
        return [run]
    named = [part for part in pathlib.Path(given).with_suffix("").parts if part in TWINS]
    for before in rows.get(named[-1], []) if named else []:
        if before["result"]["config"]["seed"] == config["seed"]:
            earlier = chain_of(before, rows)
            return [*earlier, run] if earlier else None
    return None


def training_operations(result: dict[str, Any]) -> float | None:
    """Floating-point operations of a training run; None of results that do not tell the network's multiply-adds.

    A multiply-add is two operations. The gradients of weights and of values take one forward pass each. A teacher of the
    same network takes one more pass.
    """
    if not result.get("multiply_adds"):
        return None
    passes = OPERATIONS_OF_A_STEP + (OPERATIONS_OF_A_PASS if result["config"].get("teacher") else 0)
    return passes * result["multiply_adds"] * result["training_images"] * result["epochs"]


def petaflop(run: Run, rows: Rows) -> float | None:
    """Cost of a run and of those that it begins from [1e15 operations]."""
    sizes = _known_sizes(rows)
    parts = [part["result"] for part in chain_of(run, rows) or [{"result": {"config": {}}}]]
    costs = [training_operations(sizes.get(_network(part), {}) | part) for part in parts]
    known = [cost for cost in costs if cost is not None]
    return sum(known) / 1e15 if len(known) == len(costs) else None


def _network(result: dict[str, Any]) -> tuple[Any, ...]:
    """What decides the multiply-adds of a run's network, and its training images."""
    return tuple(
        result["config"].get(name) for name in ("model", "width", "dataset", "train_images", "validation_images")
    )


def _known_sizes(rows: Rows) -> dict[tuple[Any, ...], dict[str, int]]:
    """`{network: multiply-adds and training images}`. Runs of version 0.8 did not tell them: their twins do."""
    results = [run["result"] for runs in rows.values() for run in runs]
    names = "multiply_adds", "training_images"
    return {_network(r): {name: r[name] for name in names} for r in results if all(r.get(name) for name in names)}


def minutes(run: Run, rows: Rows, goal: float | None = None) -> float | None:
    """Minutes of a run, and of those that it begins from, to a validation accuracy [1], or to the end.

    None where the run does not reach it.
    """
    chain = chain_of(run, rows)
    if chain is None:
        return None
    seconds = sum(epoch["seconds"] for before in chain[:-1] for epoch in before["history"])
    for epoch in run["history"]:
        seconds += epoch["seconds"]
        if goal is not None and epoch["val_accuracy"] >= goal:
            return seconds / 60
    return seconds / 60 if goal is None else None


def fast_table(rows: Rows) -> str:
    """A line for each row, mean and standard deviation over its seeds; the paper's lines behind full width on its data."""
    lines = [list(COLUMNS), *(_line(row, rows) for row in TWINS if row in rows)]
    configs = [run["result"]["config"] for runs in rows.values() for run in runs]
    whole = {config["dataset"] for config in configs if config["width"] == 1}
    for dataset, (name, accuracy, spikes, time_steps) in paper.BEST_ROWS.items():
        if dataset in whole:
            numbers = [f"{accuracy:.2f}", "-", f"{spikes:,.0f}", f"{100 * spikes / paper.NEURONS[dataset]:.1f}"]
            ends = [str(time_steps), *["-"] * (1 + 1 + len(GOALS) + 1), f"{paper.EPOCHS[dataset]:,}", "-"]
            lines.append([f"paper: {name}", *numbers, f"{paper.NEURONS[dataset]:,}", "-", *ends])
    return markdown(lines)


def _line(row: str, rows: Rows) -> list[str]:
    """One row as the texts of COLUMNS."""
    runs = rows[row]
    results = [run["result"] for run in runs]
    accuracy = with_deviation([100 * result["accuracy"] for result in results], 2)
    epochs = ", ".join(str(count) for count in sorted({result["epochs"] for result in results}))
    seeds = ", ".join(str(result["config"]["seed"]) for result in results)
    costs = [_mean([petaflop(run, rows) for run in runs], 2)]
    costs += [_mean([minutes(run, rows, goal) for run in runs], 0) for goal in (*GOALS, None)]
    return [
        _name(row, results[0]), accuracy, with_deviation(_gaps(row, rows), 2), *_spiking(results), *costs, epochs, seeds,
    ]  # fmt: skip


def _name(row: str, result: dict[str, Any]) -> str:
    return result["config"]["row"] or row


def _spiking(results: list[dict[str, Any]]) -> list[str]:
    """From "spikes" to "decision step"."""
    if "time_steps" not in results[0]:
        return ["-"] * 6
    share = with_deviation([100 * result["spikes_per_neuron"] for result in results], 1)
    counts = [f"{results[0][name]:,}" for name in ("neurons", "membranes", "time_steps", "decision_step")]
    return [with_deviation([result["spikes"] for result in results], 0), share, *counts]


def _gaps(row: str, rows: Rows) -> list[float]:
    """Accuracy minus that of the twin, over the seeds that both have [points]."""
    if not (twin := TWINS[row]):
        return []
    return accuracy_differences(*([run["result"] for run in rows.get(name, [])] for name in (row, twin)))


def _mean(values: Iterable[float | None], digits: int) -> str:
    """The mean; "-" where a value is not known."""
    values = list(values)
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):,.{digits}f}" if known and len(known) == len(values) else "-"


def rows_section(title: str, folder: pathlib.Path) -> list[str]:
    """The table of a folder of collected rows, and what they were measured on. An empty list where nothing is there."""
    rows = read_rows(folder)
    results = [run["result"] for runs in rows.values() for run in runs]
    if not results:
        return []
    data = ", ".join(dict.fromkeys(result["data"] for result in results))
    check_one_value(folder.name, "width", [result["config"]["width"] for result in results])
    devices = "; ".join(dict.fromkeys(f"{result['device']}, {result['config']['dtype_policy']}" for result in results))
    return [
        f"**{title}**: {data}, width {results[0]['config']['width']:g}, {results[0]['test_images']:,} test images, "
        f"{devices}. Mean ± standard deviation over the seeds. PFLOP and minutes include the runs that a row begins "
        "from. Products with the zeros beyond a border are not counted. Minutes are those to a validation accuracy, at "
        f"the end of an epoch.\n\n{fast_table(rows)}"
    ]


def fast_section(folder: pathlib.Path = RESULTS / GROUP) -> list[str]:
    """Tables of our rows and of the published weights, and the figure. An empty list where nothing is there."""
    parts = rows_section("fast_vgg, beside the paper's VGG-16", folder)
    if parts and (folder / "frontier.png").exists():
        parts.append(f"![Accuracy over spikes and over time steps](results/{folder.name}/frontier.png)")
    if published := [read_any(path) for path in sorted(folder.glob("published_*.json"))]:
        parts.append(
            "**Weights that come with the package**, as they are loaded (kernels in float16), simulated on the whole test "
            f"split.\n\n{published_table(published)}"
        )
    return parts


def starts_section(folder: pathlib.Path = RESULTS / HALF_GROUP) -> list[str]:
    """The table of the ways to start, at half width."""
    return rows_section("Ways to start a TTFS network, in as many epochs", folder)


def published_table(results: Iterable[dict[str, Any]]) -> str:
    """A line for each file that `experiments.publish` wrote."""
    lines = [list(PUBLISHED_COLUMNS)]
    for result in results:
        check = result["equivalence"]
        lines.append([
            f"`{result['weights']}`", result["data"], f"{100 * result['accuracy']:.2f}", f"{result['spikes']:,.0f}",
            f"{100 * result['spikes_per_neuron']:.1f}", f"{result['neurons']:,}", f"{result['membranes']:,}",
            str(result["time_steps"]), str(result["decision_step"]), f"{check['mismatches']:,}", str(check["samples"]),
        ])  # fmt: skip
    return markdown(lines)


# What a trial of the search does not name is this.
USUAL = {
    "learning_rate": 0.1, "bias_rate": 1, "label_smoothing": 0.2, "logit_scale": 0.111, "weight_decay": 5e-4, "whiten": 1,
    "first_kernel": 3, "ema": 0, "lookahead": 0, "distilled_share": 0, "spike_budget": 0, "tau_0": 5.0, "analog": 0,
    "input_time_window": 16,
}  # fmt: skip


def search_table(path: pathlib.Path = RESULTS / "fast_search" / "trials.json") -> str:
    """The trials from which fast_vgg and its recipe were chosen."""
    found = read_any(path)
    lines = [
        ["trial", "convolutions", "activation", "10^6 multiply-adds", "epochs", "but for", "validation [%]", "spikes"]
    ]
    for trial in found["trials"]:
        settings = trial["settings"]
        told = [f"{name}={settings[name]:g}" for name, usual in USUAL.items() if settings.get(name, usual) != usual]
        told += [f"penalty={settings['penalty']}"] if settings["spike_budget"] else []
        told += [f"from {settings['begins_from']}"] if settings["begins_from"] else []
        size = f"{trial['multiply_adds'] / 1e6:.1f}"
        accuracy = trial["val_accuracy"]
        ends = ["loss not finite" if accuracy is None else f"{100 * accuracy:.2f}"]
        ends[0] += f" (without averages {100 * trial['raw_val_accuracy']:.2f})" if "raw_val_accuracy" in trial else ""
        ends += [f"{trial['spikes']:,.0f}" if "spikes" in trial else "-"]
        network = [settings["layout"].replace(",", " "), settings["activation"], size, f"{settings['epochs']:g}"]
        lines.append([trial["name"], *network, ", ".join(told), *ends])
    return (
        f"**What fast_vgg was chosen from**: {found['data']}, {found['validation_images']:,} validation images, "
        f"{found['device']}. P: 2x2 max pooling between norm and activation; S: strides of 2.\n\n{markdown(lines)}"
    )
