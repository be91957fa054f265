"""Results as Markdown tables. Every function takes results and returns text; nothing in here reads files."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from experiments import paper
from experiments.config import differing
from experiments.noises import KINDS
from experiments.results import Result, Rows, accuracy_differences, paired, spike_changes, standard_error

RESULT_COLUMNS = (
    "row", "accuracy [%]", "spikes", "spikes per neuron [%]", "time steps", "energy TN", "energy SN", "epochs", "seed",
)  # fmt: skip


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown; its first row is the head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_deviation(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation; the mean alone of one value, "-" of none."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):,.{digits}f}{deviation}"


def short(value: float) -> str:
    """A number in two digits, as 2.9e-5."""
    return f"{value:.2g}".replace("e-0", "e-")


def results_table(results: Iterable[Result], links: Iterable[str | None] | None = None) -> str:
    """A row for each result; its name links to its simulation, where there is one."""
    results = list(results)
    rows = [_result_row(result, link) for result, link in zip(results, links or [None] * len(results))]
    return markdown([RESULT_COLUMNS, *rows])


def _result_row(result: Result, link: str | None) -> list[str]:
    """One result as the texts of RESULT_COLUMNS."""
    config = result["config"]
    ends = [str(result["epochs"]), str(config["seed"])]
    head = [f"[{config['row']}]({link})" if link else config["row"], f"{100 * result['accuracy']:.2f}"]
    if "spikes" not in result:
        return head + ["-"] * 5 + ends
    head += [f"{result['spikes']:,.0f}", f"{100 * result['spikes_per_neuron']:.1f}"]
    if "time_steps" not in result:
        return head + ["-"] * 3 + ends
    return [
        *head,
        str(result["time_steps"]),
        f"{result['truenorth_energy']:.2f}",
        f"{result['spinnaker_energy']:.2f}",
        *ends,
    ]


def table1(results: Rows, failures: Rows | None = None) -> str:
    """Table 1 of `{row: [result of each seed]}`: mean and standard deviation, the paper's numbers beside them.

    `failures` are the seeds whose loss was not finite: they are counted, and in no number. Changes are against SM+SR+TR, a
    mean over the seeds that both have: spikes in per cent, accuracy in points.
    """
    lines = [[
        "row", "accuracy [%]", "spikes [10^4]", "spikes per neuron [%]", "change in spikes [%]", "in accuracy", "seeds",
        "paper: accuracy [%]", "spikes [10^4]", "change in spikes [%]", "in accuracy",
    ]]  # fmt: skip
    for row, (name, paper_accuracy, paper_spikes) in paper.TABLE1_ROWS.items():
        runs, failed = results.get(row, []), len((failures or {}).get(row, []))
        if not (runs or failed):
            continue
        accuracy = [100 * run["accuracy"] for run in runs]
        spikes = [run["spikes"] / 1e4 for run in runs if "spikes" in run]
        ratios = [100 * run["spikes_per_neuron"] for run in runs if "spikes" in run]
        changes = _changes(results, row) if row != paper.TABLE1_REFERENCE else ["-", "-"]
        ours = [with_deviation(accuracy, 2), with_deviation(spikes, 3), with_deviation(ratios, 1), *changes]
        seeds = f"{len(runs)}, {failed} not finite" if failed else str(len(runs))
        lines.append([name, *ours, seeds, *_paper_columns(row, paper_accuracy, paper_spikes)])
    return markdown(lines)


def _paper_columns(row: str, accuracy: float | None, spikes: float | None) -> list[str]:
    """The paper's columns of a row of Table 1."""
    if accuracy is None:
        return ["-"] * 4
    _, reference_accuracy, reference_spikes = paper.TABLE1_ROWS[paper.TABLE1_REFERENCE]
    changes = [f"{100 * (spikes / reference_spikes - 1):+.1f}", f"{accuracy - reference_accuracy:+.2f}"]
    return [f"{accuracy:.2f}", f"{spikes:.2f}", *(changes if row != paper.TABLE1_REFERENCE else ["-", "-"])]


def _changes(results: Rows, row: str) -> list[str]:
    """Of a row against SM+SR+TR: spikes in per cent and accuracy in points, "-" where there are none."""
    rows = results.get(row, []), results.get(paper.TABLE1_REFERENCE, [])
    spikes, accuracy = (of(*rows) for of in (spike_changes, accuracy_differences))
    return [
        f"{statistics.mean(values):+.{digits}f}" if values else "-" for values, digits in ((spikes, 1), (accuracy, 2))
    ]


def differences_table(results: Rows, pairs: Iterable[tuple[str, str]]) -> str:
    """How one row of Table 1 differs from another, seed by seed over the seeds that both have: mean ± standard error."""
    lines = [["row", "against", "accuracy [points]", "seeds where it is higher", "spikes [%]", "seeds"]]
    for row, other in pairs:
        both = results.get(row, []), results.get(other, [])
        if not (gaps := accuracy_differences(*both)):
            continue
        names = [paper.TABLE1_ROWS[name][0] for name in (row, other)]
        numbers = (
            _with_error(gaps, 2),
            str(sum(gap > 0 for gap in gaps)),
            _with_error(spike_changes(*both), 1),
        )
        lines.append([*names, *numbers, str(len(gaps))])
    return markdown(lines)


def _with_error(values: Sequence[float], digits: int) -> str:
    """Mean ± standard error, with a sign; the mean alone of one value, "-" of none."""
    if not values:
        return "-"
    error = f" ± {standard_error(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):+.{digits}f}{error}"


def variants_table(groups: dict[tuple[str, str], tuple[Rows, Rows]]) -> str:
    """Of `{(folder, other folder): (rows with settings changed, rows without)}`: differences seed by seed.

    Raises ValueError where a changed row has a seed that the other lacks, or other settings are changed in another seed.
    """
    columns = (
        "runs", "against", "row", "changed", "epochs", "accuracy [%]", "spikes [10^4]", "change in accuracy [points]",
        "in spikes [%]", "seeds",
    )  # fmt: skip
    lines = [list(columns)]
    for names, (changed, base) in groups.items():
        for row, runs in changed.items():
            both = runs, base.get(row, [])
            lines.append([
                *names,
                paper.TABLE1_ROWS[row][0],
                _common_change(names[0], row, *both),
                str(runs[0]["epochs"]),
                with_deviation([100 * run["accuracy"] for run in runs], 2),
                with_deviation([run["spikes"] / 1e4 for run in runs if "spikes" in run], 3),
                _with_error(accuracy_differences(*both), 2),
                _with_error(spike_changes(*both), 1),
                str(len(runs)),
            ])  # fmt: skip
    return markdown(lines)


def _common_change(group: str, row: str, changed: list[Result], base: list[Result]) -> str:
    """The settings in which runs differ from those of the same seeds, in words."""
    pairs = paired(base, changed)
    if len(pairs) < len(changed):
        raise ValueError(f"Expected {row} of the same seeds without the change of {group}. Received: {len(pairs)}")
    found = [differing(without["config"], run["config"]) for without, run in pairs]
    if any(change != found[0] for change in found):
        raise ValueError(f"Expected the same change in every seed of {row} in {group}. Received: {found}")
    return ", ".join(f"{name} = {value}" for name, (_, value) in found[0].items())


def changes_table(flag: str, changes: Iterable[tuple[float, float, float]]) -> str:
    """What the values of a flag change, as `experiments.results.changes_from_zero` gives it."""
    lines = [[flag, "change in spikes [%]", "in accuracy [points]"]]
    lines += [[short(value), f"{spikes:+.1f}", f"{accuracy:+.2f}"] for value, spikes, accuracy in changes]
    return markdown(lines)


def sweep_table(results: dict[str, Result]) -> str:
    """A row for each point of `{row,flag=value: result}`."""
    columns = (
        "row and flag",
        "accuracy [%]",
        "validation [%]",
        "spikes [10^4]",
        "spikes per neuron [%]",
        "epochs",
        "seed",
    )
    lines = [list(columns)]
    for name, result in results.items():
        row, point = name.split(",", 1)
        spikes: tuple[str, ...] = ("-", "-")
        if "spikes" in result:
            spikes = (f"{result['spikes'] / 1e4:.3f}", f"{100 * result['spikes_per_neuron']:.1f}")
        ends = (str(result["epochs"]), str(result["config"]["seed"]))
        accuracies = (f"{100 * result[split]:.2f}" for split in ("accuracy", "val_accuracy"))
        known = row in paper.TABLE1_ROWS
        method = paper.TABLE1_ROWS[row][0].split(" (")[0].split(",")[0] if known else result["config"]["row"]
        lines.append([f"{method}, {point}", *accuracies, *spikes, *ends])
    return markdown(lines)


# What `experiments.export` writes.
EXPORTS = {
    "onnx": "ONNX, onnxruntime",
    "litert": "LiteRT",
    "litert_int8": "LiteRT, int8 weights",
    "tf_saved_model": "SavedModel",
    "qonnx": "QONNX",
}
EXPORT_COLUMNS = (
    "file", "size [MB]", "images", "accuracy, Keras [%]", "file [%]", "spikes per image, Keras", "file",
    "spike times that differ", "of spikes", "other classes", "ms per image, Keras", "file",
)  # fmt: skip
# The kind of a simulation without noise.
NO_NOISE = "none"
ANYTIME_COLUMNS = (
    "early firing [steps]", "stop after step", "accuracy [%]", "standard error", "spikes of hidden layers so far",
)  # fmt: skip


def export_table(result: dict[str, Any]) -> str:
    """A line for each file that `experiments.export` has written and run."""
    lines = [list(EXPORT_COLUMNS)]
    for row, values in result["rows"].items():
        accuracies = [f"{100 * values['accuracy'][name]:.2f}" for name in ("keras", "file")]
        spikes = [f"{values['spikes'][name]:,.1f}" for name in ("keras", "file")]
        counts = [f"{values[name]:,}" for name in ("mismatches", "all_spikes", "changed_predictions")]
        speeds = [f"{1e3 * values['seconds_per_image'][name]:.2f}" for name in ("keras", "file")]
        size = f"{values['size'] / 1e6:.2f}"
        lines.append([EXPORTS[row], size, f"{values['images']:,}", *accuracies, *spikes, *counts, *speeds])
    return markdown(lines)


def noisy_results(results: Iterable[Result], kind: str, strength: float) -> list[Result]:
    """Of results of `experiments.robustness`, those of a kind and strength of noise, one for each seed."""
    return [result for result in results if (result["kind"], result["strength"]) == (kind, strength)]


def robustness_table(found: dict[str, list[Result]]) -> str:
    """A line for each kind and strength: accuracy and spikes of every network, mean and deviation over the seeds."""
    heads = [f"{label}: {what}" for label in found for what in ("accuracy [%]", "spikes")]
    lines = [["noise", "strength", *heads, "seeds"]]
    there = {(r["kind"], r["strength"]) for results in found.values() for r in results}
    weak_to_strong = [(kind, strength) for kind, known in KINDS.items() for strength in known.strengths]
    for kind, strength in [point for point in [(NO_NOISE, 0.0), *weak_to_strong] if point in there]:
        cells, seeds = [], 0
        for results in found.values():
            own = noisy_results(results, kind, strength)
            accuracies, spikes = ([r[name] for r in own] for name in ("accuracy", "spikes"))
            cells += [with_deviation([100 * value for value in accuracies], 2), with_deviation(spikes, 0)]
            seeds = max(seeds, len(own))
        named = [KINDS[kind].strength, f"{strength:g}"] if kind in KINDS else [kind, "-"]
        lines.append([*named, *cells, str(seeds)])
    return markdown(lines)


def anytime_table(results: Iterable[Result]) -> str:
    """For each early firing that `experiments.anytime` has simulated: stopped 1, 2, 4, ... steps into the last window."""
    lines = [list(ANYTIME_COLUMNS)]
    for result in sorted(results, key=lambda result: result["early_firing"]):
        accuracy, images = result["accuracy"], result["settings"]["images"]
        first = first_answers(accuracy)
        doubled = [first + 2**power - 1 for power in range(len(accuracy).bit_length())]
        for step in [*(step for step in doubled if step < len(accuracy)), len(accuracy)]:
            share = accuracy[step - 1]
            error = 100 * (share * (1 - share) / images) ** 0.5
            numbers = [f"{100 * share:.2f}", f"{error:.2f}", f"{sum(result['spikes'][:step]):,.0f}"]
            lines.append([str(result["early_firing"]), str(step), *numbers])
    return markdown(lines)


def first_answers(accuracy: Sequence[float]) -> int:
    """The first step, from 1, behind which the output is no longer what it is without any spike."""
    return next((step for step, share in enumerate(accuracy, 1) if share != accuracy[0]), len(accuracy))
