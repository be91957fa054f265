"""Writes the tables of the documents from the committed result files: `python -m experiments.report [--check]`.

What stands between the markers is replaced. `--check` changes nothing, and fails where a document differs. Only measured
numbers are written: what follows from them is prose outside the markers, and a test holds each number that it leans on.
"""

import pathlib
import re
import statistics
from collections.abc import Iterator
from typing import Any

from absl import flags

from experiments import command, paper, scaling_text, table2_text
from experiments.benchmark_text import simulation_section, size_section, training_section
from experiments.config import FIELDS
from experiments.costs import cost_table
from experiments.fast_tables import fast_section, read_rows, search_table, starts_section
from experiments.files import REMEDY, read_json, write_text
from experiments.results import (
    RESULTS,
    ROOT,
    Result,
    Rows,
    changes_from_zero,
    check_one_value,
    last_epoch_mean,
    read_benchmarks,
    read_group,
    sweep_results,
    table1_failures,
    table1_results,
)
from experiments.stored import read_any, read_result
from experiments.tables import (
    anytime_table,
    changes_table,
    differences_table,
    export_table,
    markdown,
    results_table,
    robustness_table,
    short,
    sweep_table,
    table1,
    variants_table,
    with_deviation,
)

BEGIN, END = "<!-- results: written by python -m experiments.report -->", "<!-- end of results -->"
# The run of README's command.
DIGITS = RESULTS / "digits" / "digits.json"
# Rows of fast_vgg that README leaves to RESULTS.md.
ELSEWHERE = ("fewest", "base2", "shift", "hardened", "cifar100_relu")
# Folder of sweeps: what they are for.
SWEEP_GROUPS = {
    "fast_recipe": "The recipe of fast_vgg's ReLU twin, one part at a time",
    "fast_spikes": "What saves spikes in fast_vgg",
    "recipe_converged": "What the recipe of 60 epochs was chosen from",
    "sweeps_small": "Figs. 3 and 8",
}
# Folder of all rows and seeds of Table 1: what it is called.
TABLE1_GROUPS = {"table1_small": "Table 1 at reduced scale", "table1_converged": "Table 1 at convergence"}
# Folder of rows of Table 1 with settings changed: the folder of the rows that they are compared with.
VARIANTS = {
    "table1_small_frozen": "table1_small",
    "table1_small_gamma1": "table1_small",
    "table1_converged_target6": "table1_converged",
    "table1_converged_not_frozen": "table1_converged",
    "table1_converged_lambda_tr": "table1_converged_not_frozen",
}
# Rows of Table 1 that are compared seed by seed: the first against the second.
COMPARED_ROWS = (
    ("sm_1", "relu"),
    ("sm_2", "relu"),
    ("sm_sr_tr", "relu"),
    ("sm_sr_tr_tb_1e-5", "relu"),
    ("sm_sr", "sm_2"),
    ("sm_sr", "sm_1"),
    ("sm_sr_tr", "sm_sr"),
    ("sm_sr_tr_tb_1e-5", "sm_sr_tr"),
    ("sm_sr_tr_tb_1e-4", "sm_sr_tr"),
)


def summary_section() -> str:
    """README's block: one small table."""
    groups = [[run["result"] for run in runs] for row, runs in read_rows().items() if row not in ELSEWHERE]
    groups.append([read_result(DIGITS, REMEDY)])
    columns = (
        "network",
        "row",
        "data",
        "width",
        "epochs",
        "seeds",
        "accuracy [%]",
        "spikes",
        "per neuron [%]",
        "time steps",
    )
    lines = [list(columns), *(_summary_row(runs) for runs in groups)]
    for dataset in sorted(paper.BEST_ROWS.keys() & {runs[0]["config"]["dataset"] for runs in groups}):
        name, accuracy, spikes, time_steps = paper.BEST_ROWS[dataset]
        numbers = f"{accuracy:.2f}", f"{spikes:,.0f}", f"{100 * spikes / paper.NEURONS[dataset]:.1f}", str(time_steps)
        lines.append(["vgg16", f"the paper's: {name}", dataset, "1", f"{paper.EPOCHS[dataset]:,}", "-", *numbers])
    device = ", ".join(sorted({run["device"] for runs in groups for run in runs}))
    return (
        f"{markdown(lines)}\n\nOn the test split, mean ± standard deviation over the seeds; spikes per image; {device}. "
        "The paper's rows are as it prints them. Every table, every picture, and how they were made: "
        "[experiments/RESULTS.md](experiments/RESULTS.md)."
    )


def _summary_row(runs: list[dict[str, Any]]) -> list[str]:
    """One network, its mean over seeds."""
    config = runs[0]["config"]
    spikes = [run["spikes"] for run in runs if "spikes" in run]
    count = f"{statistics.mean(spikes):,.0f}" if spikes else "-"
    share = f"{100 * statistics.mean(run['spikes_per_neuron'] for run in runs):.1f}" if spikes else "-"
    time_steps = str(runs[0]["time_steps"]) if spikes else "-"
    seeds = ", ".join(str(run["config"]["seed"]) for run in runs)
    head = [
        config["model"],
        config["row"],
        runs[0]["data"],
        f"{config['width']:g}",
        str(runs[0]["epochs"]),
        seeds,
    ]
    return [*head, with_deviation([100 * run["accuracy"] for run in runs], 2), count, share, time_steps]


def results_section() -> str:
    """The block of experiments/RESULTS.md: every table but the sweeps'."""
    return "\n\n".join(
        [
            *fast_section(),
            *export_section(),
            *robustness_section(),
            *anytime_section(),
            *scaling_section(),
            digits_section(),
            *(part for group in TABLE1_GROUPS for part in table1_section(group)),
            *spiking_section(),
            *table2_section(),
            *training_section(),
            size_section(),
            *(simulation_section(result) for result in read_benchmarks("simulation*")),
        ]
    )


def sweeps_section() -> str:
    """The block of experiments/README.md: how everything was made, the sweeps, and more of Table 1."""
    return "\n\n".join(
        [
            cost_table(),
            search_table(),
            *starts_section(),
            *(_sweep_tables(group) for group in SWEEP_GROUPS),
            comparison_section(),
            *variants_section(),
        ]
    )


def digits_section() -> str:
    """The run of README's command."""
    result = read_result(DIGITS, REMEDY)
    config = result["config"]
    return (
        f"**{result['data']}**, {config['model']} at width {config['width']:g}, T = {config['time_window']}, "
        f"{config['dtype_policy']}, {result['test_images']:,} test images, {result['device']} (training took "
        f"{result['wall_time'] / 60:.1f} minutes).\n\n"
        f"{results_table([result], [_link(DIGITS.with_suffix('.simulation.json'))])}"
    )


def _link(path: pathlib.Path) -> str:
    """A path as the documents in experiments/ link to it."""
    return path.relative_to(ROOT / "experiments").as_posix()


def export_section(group: str = "export") -> list[str]:
    """The files of trained weights in other runtimes, an empty list where none were measured."""
    results = [read_json(path) for path in sorted((RESULTS / group).glob("*.json"))]
    return [
        f"**{result['network']} in other runtimes**: {result['data']}, the first test images; {result['device']}. The file "
        "and Keras' `predict` measured in turn, batches of up to 100 images; QONNX by the executor of the package qonnx, "
        f"which is meant for checks.\n\n{export_table(result)}"
        for result in results
    ]


def table1_section(group: str) -> list[str]:
    """Table 1 of the committed runs and how its rows differ seed by seed, an empty list where there are none."""
    results, failures = table1_results(group), table1_failures(group)
    if not results:
        return []
    runs = [run for row in results.values() for run in row]
    seeds = sorted({run["config"]["seed"] for run in runs})
    named = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}, mean ± standard deviation"
    return [
        f"**{TABLE1_GROUPS[group]}**: {_settings_in_words(group, runs)}; {named}. The paper's columns: VGG-16 at full width, "
        f"2,000 epochs.\n\n{table1(results, failures)}",
        *[f"The loss of {row} was not finite after {told}." for row, told in _ends(failures)],
        "The same runs, compared seed by seed: mean ± standard error over the seeds that both rows have.\n\n"
        f"{differences_table(results, COMPARED_ROWS)}",
    ]


def _settings_in_words(group: str, runs: list[Result]) -> str:
    """What the runs of Table 1 in a folder have in common; raises ValueError where they do not."""

    def common(name, among=runs):
        # An earlier version's config may lack a field.
        values = {run[name] if name in run else run["config"].get(name, FIELDS[name].default) for run in among}
        check_one_value(group, name, values)
        return max(values, default=0)

    regularised = [run for run in runs if run["config"]["lambda_tr"]]
    frozen = common("frozen_epochs")
    parts = (
        common("data"),
        f"{common('model')} at width {common('width'):g}",
        f"T = {common('time_window')}",
        f"gamma_0 = {common('gamma_0'):g}",
        f"lambda_TR = {short(common('lambda_tr', regularised))}",
        f"{common('optimizer')} with rate {common('learning_rate'):g}",
        f"{common('epochs')} epochs",
        f"relaxation until epoch {common('target_epoch')}",
        *([f"temporal kernels frozen until epoch {frozen}"] if frozen else []),
        # Those of the machines that shared the rows.
        ", ".join(sorted({run["config"]["dtype_policy"] for run in runs})),
        f"{common('test_images'):,} test images",
        ", ".join(sorted({run["device"] for run in runs})),
    )
    return ", ".join(parts)


def _ends(failures: Rows) -> Iterator[tuple[str, str]]:
    """Of each row with runs whose loss was not finite: its name, and where each seed ended."""
    for row, runs in failures.items():
        ends = [f"epoch {run['epochs']} of {run['config']['epochs']} (seed {run['config']['seed']})" for run in runs]
        yield paper.TABLE1_ROWS[row][0], " and ".join(ends)


def variants_section() -> list[str]:
    """Rows of Table 1 with settings changed, beside the rows as they are."""
    groups = {names: tuple(map(table1_results, names)) for names in VARIANTS.items()}
    return [
        "**Rows of Table 1 with settings changed**: mean ± standard deviation over the seeds; changes against the same "
        f"rows and seeds without them, mean ± standard error.\n\n{variants_table(groups)}",
        *[
            f"In {group}, the loss of {row} was not finite after {told}."
            for group in VARIANTS
            for row, told in _ends(table1_failures(group))
        ],
    ]


def comparison_section(sweeps: str = "sweeps_small") -> str:
    """How large REG_TR is, and what lambda_TB changes."""
    lines = [["runs", "row", "REG_TR at the end [steps^2]", "lambda_TR", "their product [1]", "loss at the end [1]"]]
    for group, title in TABLE1_GROUPS.items():
        for row, runs in table1_results(group).items():
            if row in ("sm_sr", "sm_sr_tr"):
                reg_tr, loss = (last_epoch_mean(group, row, name) for name in ("reg_tr", "loss"))
                weight = runs[0]["config"]["lambda_tr"]
                numbers = [f"{reg_tr:.1f}", short(weight), short(weight * reg_tr), f"{loss:.2f}"]
                lines.append([title, paper.TABLE1_ROWS[row][0], *numbers])
    changes = changes_from_zero(sweep_results(sweeps), "sm_sr_tr_tb_1e-5", "lambda_tb")
    return (
        f"**REG_TR in these runs**, mean over the seeds.\n\n{markdown(lines)}\n\n"
        "**lambda_TB against lambda_TB = 0**, of the sweep above, one seed.\n\n"
        f"{changes_table('lambda_TB', changes)}"
    )


def robustness_section(group: str = "robustness") -> list[str]:
    """What noise leaves of networks, an empty list where nothing was measured."""
    results = read_group(group)
    if not results:
        return []
    for name in ("data", "images"):
        check_one_value(group, name, [result["settings"][name] for result in results])
    # Our weights before those that were trained on with noise.
    labels = sorted({result["network"] for result in results}, reverse=True)
    found = {label: [result for result in results if result["network"] == label] for label in labels}
    for label, own in found.items():
        check_one_value(f"{group} of {label}", "model", [result["settings"]["model"] for result in own])
    first = results[0]
    return [
        f"**Imperfect hardware**: fast_vgg, {first['settings']['data']}, the first {first['settings']['images']:,} test "
        f"images, {first['device']}. Mean ± standard deviation over the seeds of the noise. Dotted lines are without "
        f"noise.\n\n{robustness_table(found)}\n\n"
        f"![Accuracy over the strength of the noise]({_link(RESULTS / group / 'robustness.png')})"
    ]


def anytime_section(group: str = "anytime") -> list[str]:
    """What one gets by stopping early, an empty list where nothing was measured."""
    results = read_group(group)
    if not results:
        return []
    settings = results[0]["settings"]
    network = f"fast_vgg('{settings['model']}')" if len(settings["model"]) < 20 else "a network of one's own"
    return [
        f"**Answers before the end**: {network}, {settings['data']}, the first "
        f"{settings['images']:,} test images, {results[0]['device']}.\n\n{anytime_table(results)}\n\n"
        f"![Accuracy over time steps and over spikes]({_link(RESULTS / group / 'anytime.png')})"
    ]


def scaling_section(group: str = "scaling") -> list[str]:
    """What several workers bring, and what ImageNet costs; an empty list where not all of it is measured."""
    parts = {path.stem: read_any(path) for path in (RESULTS / group).glob("*.json")}
    return [scaling_text.section(parts)] if len(parts) == 3 else []


def _sweep_tables(group: str) -> str:
    """The table of a folder of sweeps."""
    results = sweep_results(group)
    first = next(iter(results.values()))
    config = first["config"]
    return (
        f"**{SWEEP_GROUPS[group]}**: {first['data']}, {config['model']} at width {config['width']:g}, T = "
        f"{config['time_window']}, {config['dtype_policy']}, {first['test_images']:,} test images, {first['device']}, one "
        f"seed each.\n\n{sweep_table(results)}"
    )


def table2_section() -> list[str]:
    """The halves of Table 2 of the committed results, and the paper's."""
    parts = []
    for group, (dataset, models, reasons) in table2_text.GROUPS.items():
        results = read_group(group)
        for name in ("data", "calibration_images", "time_window"):
            check_one_value(group, name, [result["settings"][name] for result in results])
        twins = [r["settings"]["model_sha256"] for r in results if r["row"] in paper.TABLE2_ROWS]
        check_one_value(group, "ReLU twin", twins)
        if wrong := set(table2_text.differing(results, dataset)) ^ reasons.keys():
            raise ValueError(
                f"Expected reasons for the rows that differ from the paper's, and for no others. Received: {wrong}"
            )
        picture = _link(RESULTS / group / "codings.png")
        parts.append(table2_text.section(results, dataset, models, picture, reasons))
    for dataset in paper.TABLE2:
        parts.append(
            f"The paper's Table 2 ({dataset}, VGG-16 at full width). Its last four columns are computed from its spikes and "
            f"steps, except those of Zhou et al.:\n\n{table2_text.paper_table2(dataset)}"
        )
    return parts


def spiking_section(group: str = "spiking_small") -> list[str]:
    """What the spiking networks of Table 1's models do, and `convert` of the ReLU twin."""
    parts = [_simulated(path) for path in sorted((RESULTS / group).glob("*.simulation.json"))]
    for path in sorted((RESULTS / group).glob("relu.*.conversion_*.json")):
        result = read_any(path)
        rows = [["T", "as it is [%]", "calibrated [%]", "spikes per neuron, calibrated [%]"]]
        for plain, calibrated in zip(result["rows"][::2], result["rows"][1::2]):
            rows.append(
                [
                    str(plain["time_window"]),
                    f"{100 * plain['accuracy']:.2f}",
                    f"{100 * calibrated['accuracy']:.2f}",
                    f"{100 * calibrated['spikes_per_neuron']:.1f}",
                ]
            )
        parts.append(
            f"`convert` without fine-tuning: {_row_and_seed(path)} ({100 * result['relu_accuracy']:.2f} % in float32), "
            f"{result['data']}, {result['test_images']:,} test images, rounding `{result['rounding']}`, calibrated on "
            f"{result['calibration_images']} training images.\n\n{markdown(rows)}"
        )
    return parts


def _row_and_seed(path: pathlib.Path) -> str:
    """What stands in front of a file's name, in words."""
    row, seed, *_ = path.name.split(".")
    return f"{paper.TABLE1_ROWS[row][0]}, {seed.replace('seed', 'seed ')}"


def _simulated(path: pathlib.Path) -> str:
    """A simulation in words."""
    result = read_json(path)
    check = result["equivalence"]
    return (
        f"The spiking network of {_row_and_seed(path)} (mode `{result['mode']}`, "
        f"{result['dtype']}, {result['test_images']:,} test images): {100 * result['accuracy']:.2f} %, "
        f"{result['spikes']:,.0f} spikes and {result['energy']['synaptic_operations']:,.0f} synaptic operations per image, "
        f"where a network that skips nothing takes {result['dense_operations']:,}. Spikes that differ from the model's in "
        f"{check['dtype']}, over {check['samples']} images: {check['mismatches']:,}. "
        f"[All of it]({_link(path)})."
    )


DOCUMENTS = {
    "README.md": summary_section,
    "experiments/RESULTS.md": results_section,
    "experiments/README.md": sweeps_section,
}


def updated(text: str, content: str) -> str:
    """A document's text with what stands between the markers made anew."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def check_clean(folder: pathlib.Path) -> None:
    """Raises ValueError where a result was measured by code that was not committed: nobody can measure it again."""
    for path in sorted(folder.rglob("*.json")):
        if dirty := re.search(r'"git_revision": (null|"[^"]*-dirty[^"]*")', path.read_text()):
            raise ValueError(
                f"Expected results of committed code. Received: {path.relative_to(folder)} of revision {dirty[1]}. Commit, "
                "and measure it again."
            )


def define_flags() -> None:
    flags.DEFINE_boolean("check", False, "Only compare; exit with 1 where a document differs.")


def main(options: flags.FlagValues) -> None:
    check_clean(RESULTS)
    for name, content in DOCUMENTS.items():
        path = ROOT / name
        text = path.read_text()
        wanted = updated(text, content())
        if wanted == text:
            continue
        if options.check:
            raise SystemExit(f"{name} differs from the committed results: run python -m experiments.report")
        write_text(path, wanted)
    if not options.check:
        from experiments import plots

        plots.activation(str(RESULTS / "activation.png"))
        plots.saved_spikes(sweep_results("fast_spikes"), str(RESULTS / "fast_spikes" / "saved_spikes.png"))


if __name__ == "__main__":
    define_flags()
    command.run(main)
