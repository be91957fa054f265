"""Writes the tables of the READMEs from the committed result files: `python -m experiments.report [--check]`.

Everything between the markers is replaced; `--check` changes nothing and fails where README differs.
"""

import math
import pathlib
import statistics
import sys

from absl import app, flags

from experiments import figures, plots
from experiments.files import read_json, replaced

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results"
BEGIN, END = "<!-- results: written by python -m experiments.report -->", "<!-- end of results -->"
COLUMNS = (
    "row", "accuracy [%]", "spikes", "spikes per neuron [%]", "time steps", "energy TN", "energy SN", "epochs", "seed",
)  # fmt: skip
# Order of rows; the folder is the group.
GROUPS = {
    "digits": ("digits",),
    "vgg16_width1": ("relu.seed0", "sm_sr_tr_tb_1e-5.seed0"),
}

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
REFERENCE = "sm_sr_tr"

# Table 2, conversions: our name, coding.
TABLE2_ROWS = {
    "rate": ("RMP-SNN", "rate"),
    "phase": ("weighted spikes", "phase"),
    "burst": ("burst spikes", "burst"),
    "tsc": ("TSC", "TSC"),
    "t2fsnn": ("T2FSNN", "TTFS"),
    "t2fsnn_early": ("T2FSNN, early firing", "TTFS"),
}
# The paper's Table 2 on CIFAR-10: method, training, coding, accuracy [%], time steps, S [10^6].
PAPER_TABLE2 = (
    ("Han et al. 2020, RMP-SNN", "conversion", "rate", 93.39, 512, 2.612),
    ("Kim et al. 2018, weighted spikes", "conversion", "phase", 91.21, 1500, 35.196),
    ("Park et al. 2019, burst spikes", "conversion", "burst", 91.41, 1125, 6.920),
    ("Han & Roy 2020, TSC", "conversion", "TSC", 93.57, 512, 0.193),
    ("Park et al. 2020, T2FSNN", "conversion", "TTFS", 91.43, 680, 0.069),
    ("Zhou et al. 2021", "direct", "TTFS", 92.68, None, None),
    ("Park & Yoon, lambda_TB = 1e-5", "direct", "TTFS", 91.90, 544, 0.067),
    ("Park & Yoon, lambda_TB = 1e-4", "direct", "TTFS", 91.49, 544, 0.049),
)
PAPER_NEURONS = 280586
# Printed without S.
ZHOU_SPIKES_PER_NEURON = "62.00"


def cells(result, link=None):
    """One result as the texts of COLUMNS; the row's name links to its simulation."""
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


def table(results, links=None):
    """Results as a Markdown table."""
    rows = [cells(result, link) for result, link in zip(results, links or [None] * len(results))]
    return _markdown([list(COLUMNS), *rows])


def _markdown(rows):
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table1(results):
    """Table 1 as Markdown of `{row: [result of each seed]}`: mean and standard deviation, the paper's numbers beside them.

    Changes are those of the means against SM+SR+TR, over the seeds that both have: spikes in per cent, accuracy in points.
    """
    lines = [[
        "row", "accuracy [%]", "spikes [10^4]", "spikes per neuron [%]", "change in spikes [%]", "in accuracy", "seeds",
        "paper: accuracy [%]", "spikes [10^4]", "change in spikes [%]", "in accuracy",
    ]]  # fmt: skip
    for row, (name, paper_accuracy, paper_spikes) in TABLE1_ROWS.items():
        if row not in results:
            continue
        runs = results[row]
        accuracy = [100 * run["accuracy"] for run in runs]
        spikes = [run["spikes"] / 1e4 for run in runs if "spikes" in run]
        ratios = [100 * run["spikes_per_neuron"] for run in runs if "spikes" in run]
        changes = _changes(runs, results.get(REFERENCE, [])) if row != REFERENCE else ["-", "-"]
        ours = [_with_deviation(accuracy, 2), _with_deviation(spikes, 3), _with_deviation(ratios, 1), *changes]
        lines.append([name, *ours, str(len(runs)), *_paper_cells(row, paper_accuracy, paper_spikes)])
    return _markdown(lines)


def _paper_cells(row, accuracy, spikes):
    if accuracy is None:
        return ["-"] * 4
    _, reference_accuracy, reference_spikes = TABLE1_ROWS[REFERENCE]
    changes = [f"{100 * (spikes / reference_spikes - 1):+.1f}", f"{accuracy - reference_accuracy:+.2f}"]
    return [f"{accuracy:.2f}", f"{spikes:.2f}", *(changes if row != REFERENCE else ["-", "-"])]


def _changes(runs, reference):
    """Of spikes in per cent and of accuracy in points, between the means over common seeds; "-" where there are none."""
    ours, theirs = ({run["config"]["seed"]: run for run in group} for group in (runs, reference))
    pairs = [(ours[seed], theirs[seed]) for seed in ours.keys() & theirs.keys()]
    if not pairs:
        return ["-", "-"]
    accuracy = f"{100 * statistics.mean(our['accuracy'] - their['accuracy'] for our, their in pairs):+.2f}"
    if any("spikes" not in run for pair in pairs for run in pair):
        return ["-", accuracy]
    ratio = sum(our["spikes"] for our, _ in pairs) / sum(their["spikes"] for _, their in pairs)
    return [f"{100 * (ratio - 1):+.1f}", accuracy]


def _with_deviation(values, digits):
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def _table1_results(group):
    """`{row: [result of each seed]}` of the committed runs, all of one data set."""
    results = {}
    for row in TABLE1_ROWS:
        for path in figures.result_files(RESULTS / group, f"{row}.seed*"):
            results.setdefault(row, []).append(read_json(path))
    _check_same(group, "data", [run["data"] for runs in results.values() for run in runs])
    return results


def _check_same(group, name, values):
    if len(found := {str(value) for value in values}) > 1:
        raise ValueError(f"Expected one {name} in {group}. Received: {', '.join(sorted(found))}")


def table1_section(group="table1_small"):
    """Table 1 of the committed runs, an empty list where there are none."""
    results = _table1_results(group)
    if not results:
        return []
    runs = [run for row in results.values() for run in row]
    first = runs[0]
    config = first["config"]
    seeds = sorted({run["config"]["seed"] for run in runs})
    named = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}, mean ± standard deviation"
    epochs = ", ".join(str(epochs) for epochs in sorted({run["epochs"] for run in runs}))
    return [
        f"**Table 1 at reduced scale**: {first['data']}, {config['model']} at width {config['width']:g}, T = "
        f"{config['time_window']}, gamma_0 = {config['gamma_0']:g}, {epochs} epochs, {config['dtype_policy']}, "
        f"{first['test_images']:,} test images, {first['device']}; {named}. The paper's "
        f"columns: full width, 2,000 epochs, the original images.\n\n{table1(results)}"
    ]


# Folder of sweeps: what they are for.
SWEEP_GROUPS = {
    "recipe_small": "What the reduced recipe was chosen from",
    "sweeps_small": "Figs. 3 and 8",
}


def sweep_section():
    """The sweeps' tables for experiments/README.md, and Table 1 where batch normalisation starts as Keras' does."""
    parts = [part for group in SWEEP_GROUPS for part in _sweep_tables(group)]
    return "\n\n".join([*parts, orders(), *table1_section("table1_gamma1")])


def _sweep_results(group):
    """`{"row,flag=value": result}` of the committed sweeps, in the order of rows, flags and values."""

    def place(name):
        row, point = name.split(",", 1)
        flag, _, value = point.partition("=")
        number = float(value) if value.replace(".", "").replace("e-", "").isdigit() else 0.0
        return list(TABLE1_ROWS).index(row), flag, number, value

    results = figures.load_sweeps(RESULTS / group)
    return {name: results[name] for name in sorted(results, key=place)}


def orders(group="table1_small", sweeps="sweeps_small"):
    """How far the orders of Table 1 hold at reduced scale, in words."""
    results = _table1_results(group)
    loss, penalty = (
        {row: _final_mean(group, row, name) for row in ("sm_sr", "sm_sr_tr")} for name in ("loss", "reg_tr")
    )
    config = results["sm_sr_tr"][0]["config"]
    tied = _differences(results, "sm_sr_tr", "sm_sr")
    parts = [
        f"**The orders of Table 1 at reduced scale.** SM stays below SM+SR in {_below(results, 'sm_2')} at z_max_0 = 2 "
        f"and in {_below(results, 'sm_1')} at z_max_0 = 1.",
        f"SM+SR+TR minus SM+SR is {_with_deviation(tied, 2)} points over the seeds, which is no difference: REG_TR ends at "
        f"{penalty['sm_sr']:.1f} without TR and {penalty['sm_sr_tr']:.1f} with it [steps^2], so that lambda_TR = "
        f"{_short(config['lambda_tr'])} makes of it {_short(config['lambda_tr'] * penalty['sm_sr_tr'])} in a loss of "
        f"{loss['sm_sr_tr']:.2f}. The kernels have no time to spread in {config['epochs']} epochs.",
        "TB takes spikes as in the paper, and less of them: each channel's beta is moved by lambda_TB dP/dbeta a step, over "
        f"{config['epochs']} epochs instead of 2,000.",
    ]
    changes = _sweep_changes(_sweep_results(sweeps), "sm_sr_tr_tb_1e-5", "lambda_tb")
    if changes:
        parts.append(
            "What larger values do here, in spikes and accuracy against lambda_TB = 0 (the sweep above): "
            + "; ".join(
                f"{_short(value)}: {spikes:+.1f} %, {accuracy:+.2f} points" for value, spikes, accuracy in changes
            )
            + "."
        )
    return " ".join(parts)


def _short(value):
    return f"{value:.2g}".replace("e-0", "e-")


def _final_mean(group, row, column):
    """A column of the histories' last epoch, its mean over the seeds."""
    histories = (RESULTS / group).glob(f"{row}.seed*.history.csv")
    return statistics.mean(figures.read_rows(path)[-1][column] for path in histories)


def _differences(results, row, other):
    """Points of accuracy between two rows, seed by seed."""
    ours, theirs = ({run["config"]["seed"]: 100 * run["accuracy"] for run in results[name]} for name in (row, other))
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def _below(results, row):
    gaps = _differences(results, "sm_sr", row)
    return f"{sum(gap > 0 for gap in gaps)} of {len(gaps)} seeds (by {_with_deviation(gaps, 2)} points)"


def _sweep_changes(results, row, flag):
    """`[(value, change of spikes [%], of accuracy [points]), ...]` of a sweep's points against its 0."""
    points = sorted(
        (result["config"][flag], result)
        for name, result in results.items()
        if name.startswith((f"{row},{flag}=", f"{row},base"))
    )
    if not points or points[0][0] != 0:
        return []
    _, without = points[0]
    return [
        (value, 100 * (r["spikes"] / without["spikes"] - 1), 100 * (r["accuracy"] - without["accuracy"]))
        for value, r in points[1:]
    ]


def _sweep_tables(group):
    results = _sweep_results(group)
    if not results:
        return []
    first = next(iter(results.values()))
    config = first["config"]
    return [
        f"**{SWEEP_GROUPS[group]}**: {first['data']}, {config['model']} at width {config['width']:g}, T = "
        f"{config['time_window']}, {config['dtype_policy']}, {first['test_images']:,} test images, {first['device']}. ONE "
        f"seed each: differences under about a point mean little.\n\n{sweep_table(results)}"
    ]


def sweep_table(results):
    """Markdown of `{row,flag=value: result}`."""
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
        spikes = (f"{result['spikes'] / 1e4:.3f}", f"{100 * result['spikes_per_neuron']:.1f}")
        ends = (str(result["epochs"]), str(result["config"]["seed"]))
        accuracies = (f"{100 * result[split]:.2f}" for split in ("accuracy", "val_accuracy"))
        method = TABLE1_ROWS[row][0].split(" (")[0].split(",")[0]
        lines.append([f"{method}, {point}", *accuracies, *spikes, *ends])
    return _markdown(lines)


def table2(results):
    """Table 2 as Markdown of the results of `experiments.table2`, energies normalised to our TSC, if that was measured."""
    tsc = next(((r["spikes"], r["time_steps"]) for r in results if r["row"] == "tsc"), None)
    lines = [[*_TABLE2_COLUMNS[:4], "of its model [%]", "answer at step", *_TABLE2_COLUMNS[4:], "seconds per image"]]
    for result in results:
        training = "conversion" if result["row"] in TABLE2_ROWS else "direct"
        coding = TABLE2_ROWS.get(result["row"], ("", "TTFS"))[1]
        numbers = _table2_cells(result["spikes"], result["time_steps"], result["neurons"], tsc)
        accuracies = (f"{100 * result[name]:.2f}" for name in ("accuracy", "model_accuracy"))
        answer = f"{result['decision_step']:,}" if result["decision_step"] else "-"
        seconds = f"{result['seconds'] / result['settings']['test_images']:.2g}"
        lines.append([result["label"], training, coding, *accuracies, answer, *numbers, seconds])
    return _markdown(lines)


def paper_table2():
    """The paper's Table 2 on CIFAR-10, its derived columns computed from its S and L."""
    from keras_ttfs import energy

    lines = [list(_TABLE2_COLUMNS)]
    for method, training, coding, accuracy, steps, spikes in PAPER_TABLE2:
        numbers = ["-", "-", "-", ZHOU_SPIKES_PER_NEURON, "-", "-"]
        if spikes is not None:
            numbers = _table2_cells(1e6 * spikes, steps, PAPER_NEURONS, energy.TSC_CIFAR10)
        lines.append([method, training, coding, f"{accuracy:.2f}", *numbers])
    return _markdown(lines)


_TABLE2_COLUMNS = (
    "method", "training", "coding", "accuracy [%]", "time steps", "spikes [10^4]", "spike rate [%]",
    "spikes per neuron [%]", "energy TN", "energy SN",
)  # fmt: skip


def _table2_cells(spikes, steps, neurons, reference):
    from keras_ttfs import energy, spike_rate, spikes_per_neuron

    cells = [
        f"{steps:,}" if steps else "-",
        f"{spikes / 1e4:,.2f}",
        f"{100 * spike_rate(spikes, neurons, steps):.2f}" if steps else "-",
        f"{100 * spikes_per_neuron(spikes, neurons):,.2f}",
    ]
    if reference is None or not steps:
        return [*cells, "-", "-"]
    return cells + [
        f"{energy.normalized_energy(spikes, steps, platform, reference):.2f}" for platform in ("truenorth", "spinnaker")
    ]


# Why conversions stay behind their model, as their runs of more steps show (folder of the table, with "_long").
TABLE2_REASONS = {
    "rate": "has not settled at the end",
    "t2fsnn": "rounds activations down, to levels exp(1/tau) apart, in every layer",
}
# Folder of a Table 2: whose models.
TABLE2_GROUPS = {
    "table2_small": "ReLU twin and TTFS models trained again as Table 1 at reduced scale, seed 0",
    "table2_width1": "ReLU twin at full width, for the time that a simulation takes",
}


def table2_sections():
    """Table 2 of the committed results and the paper's, an empty list where there are none."""
    parts = [part for group, models in TABLE2_GROUPS.items() for part in _table2_of(group, models)]
    if not parts:
        return []
    return [
        *parts,
        f"The paper's Table 2 (CIFAR-10, VGG-16 at full width); its last four columns computed from its spikes and "
        f"steps, but for Zhou et al.:\n\n{paper_table2()}",
    ]


def _table2_of(group, models):
    order = {row: number for number, row in enumerate(TABLE2_ROWS)}
    results = [read_json(path) for path in sorted((RESULTS / group).glob("*.json"))]
    results.sort(key=lambda result: order.get(result["row"], len(order)))
    if not results:
        return []
    first = results[0]
    settings = first["settings"]
    for name in ("data", "test_images", "calibration_images", "time_window"):
        _check_same(group, name, [result["settings"][name] for result in results])
    minutes = sum(result["seconds"] for result in results) / 60
    error = max(math.sqrt(r["accuracy"] * (1 - r["accuracy"]) / settings["test_images"]) for r in results)
    others = [
        f" {result['label']} is another network, of {result['neurons']:,} neurons, trained in "
        f"{_epochs(result['training'])} and {result['training']['wall_time'] / 60:.0f} minutes; its spike times are real "
        "numbers, without steps."
        for result in results
        if result["time_steps"] is None and result["training"]
    ]
    longer_runs = [read_json(path) for path in sorted((RESULTS / f"{group}_long").glob("*.json"))]
    _check_same(group, "ReLU twin", [result["settings"]["model_sha256"] for result in (first, *longer_runs)])
    for longer in longer_runs:
        others.append(
            f" {longer['label']} {TABLE2_REASONS[longer['row']]}: in {longer['time_steps']:,} steps it reaches "
            f"{100 * longer['accuracy']:.1f} % of the first {longer['settings']['test_images']:,} images, its model "
            f"{100 * longer['model_accuracy']:.1f} %."
        )
    if trained := first.get("training"):
        models += f" (trained in {_epochs(trained)})"
    return [
        f"**Table 2 on one network**: {settings['data']}, {models}, {first['neurons']:,} neurons, first "
        f"{settings['test_images']:,} test images (standard error of an accuracy: up to {100 * error:.1f} points), scales "
        f"of {settings['calibration_images']:,} training images, float32, {first['device']}, {minutes:.0f} minutes. "
        "Energies are normalised to our TSC row; time steps of TTFS rows count the idle window of the output, as the "
        f"paper's 544 and 680 do, those of TSC the window of an input that is analog here. Seconds include conversion and "
        f"calibration.{''.join(others)}\n\n{table2(results)}\n\n"
        f"![Accuracy over time steps and over spikes](experiments/results/{group}/codings.png)"
    ]


def _epochs(training):
    return f"{training['epochs']} epoch{'s' if training['epochs'] != 1 else ''}"


def spiking_section(group="spiking_small"):
    """What the spiking networks of Table 1's models do, and `convert` of the ReLU twin; empty where there are no files."""
    parts = [_simulated(path) for path in sorted((RESULTS / group).glob("*.simulation.json"))]
    for path in sorted((RESULTS / group).glob("conversion_*.json")):
        result = read_json(path)
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
            f"`convert` without fine-tuning: the ReLU twin ({100 * result['relu_accuracy']:.2f} % in float32), "
            f"{result['data']}, {result['test_images']:,} test images, rounding `{result['rounding']}`, calibrated on "
            f"{result['calibration_images']} training images.\n\n{_markdown(rows)}"
        )
    return parts


def _simulated(path):
    """A simulation in words."""
    row, seed, *_ = path.name.split(".")
    result = read_json(path)
    check = result["equivalence"]
    return (
        f"The spiking network of {TABLE1_ROWS[row][0]}, {seed.replace('seed', 'seed ')} (mode `{result['mode']}`, "
        f"{result['dtype']}, {result['test_images']:,} test images): {100 * result['accuracy']:.2f} %, "
        f"{result['spikes']:,.0f} spikes and {result['energy']['synaptic_operations']:,.0f} synaptic operations per image, "
        f"where a network that skips nothing takes {result['dense_operations']:,}. Spikes that differ from the model's in "
        f"{check['dtype']}, over {check['samples']} images: {check['mismatches']:,}. "
        f"[All of it]({path.relative_to(ROOT).as_posix()})."
    )


def training_section():
    """Training steps beside the ReLU twin, PyTorch and SpikingJelly."""
    results = [read_json(path) for path in sorted((RESULTS / "benchmark").glob("training_*.json"))]
    rows = [
        [
            "width",
            "precision",
            "Keras ReLU",
            "TTFS",
            "TTFS / ReLU, each run",
            "peak of tensors, TTFS / ReLU",
            "of process",
        ]
    ]
    rivals = [["width", "precision", "PyTorch ReLU", "SpikingJelly IF, T = 4", "TTFS", "TTFS / SpikingJelly, each run"]]
    for result in sorted(results, key=lambda result: (-result["width"], result["dtype_policy"])):
        head = [f"{result['width']:g}", result["dtype_policy"]]
        speed = _medians(result["images_per_second"])
        memory = [f"{result['memory_to_relu'][kind]:.2f}" for kind in ("tensors", "process")]
        ratios = _listed(result["throughput_to_relu"])
        rows.append([*head, *(f"{speed[name]:,.0f}" for name in ("Keras ReLU", "TTFS")), ratios, *memory])
        if "torch_images_per_second" in result:
            speed = _medians(result["torch_images_per_second"])
            columns = ("PyTorch ReLU", "SpikingJelly IF, T = 4", "TTFS")
            ratios = _listed([run["SpikingJelly IF, T = 4"] for run in result["throughput_to_torch"]])
            rivals.append([*head, *(f"{speed[name]:,.0f}" for name in columns), ratios])
    first = results[0]
    versions = f"TensorFlow {first['versions']['tensorflow']}, Keras {first['versions']['keras']}"
    parts = [
        f"**Training VGG-16**, images per second, batches of {first['batch_size']}, random images, {first['device']}, "
        f"{versions}. Interleaved in one process, medians of {len(first['throughput_to_relu'])} processes. The twin is plain "
        f"Keras: its BatchNormalization, its ReLU, its training step.\n\n{_markdown(rows)}"
    ]
    if len(rivals) > 1:
        parts.append(
            f"Interleaved in the same processes with PyTorch {first['torch_versions']['torch']} and SpikingJelly "
            f"{first['torch_versions']['spikingjelly']} (`IFNode()`, back-propagation through time):\n\n{_markdown(rivals)}"
        )
    return parts


def _medians(runs):
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _listed(ratios):
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)


def size_section():
    """What the time of a step depends on, and what the input pipeline takes of it."""
    sweep, pipeline = (read_json(RESULTS / "benchmark" / f"{name}.json") for name in ("sweep", "pipeline"))
    windows = {name.split("= ")[1]: value for name, value in sweep["median_seconds_per_step"]["time_window"].items()}
    times = ", ".join(f"{window}: {1e3 * value:,.0f}" for window, value in windows.items())
    batch = {name: 1e3 * value for name, value in pipeline["median_seconds_per_batch"].items()}
    return (
        f"ms per training step at width {sweep['width']:g} for T = {times} (slowest / fastest, "
        f"round by round, {sweep['slowest_to_fastest_time_window']:.3f}). The input pipeline (crop, flip, scale) takes "
        f"{batch['pipeline alone']:.1f} ms for a batch of {pipeline['batch_size']}, a step at width {pipeline['width']:g} "
        f"{batch['steps alone']:.0f} ms on a constant batch and {batch['steps on the pipeline']:.0f} ms fed by the "
        "pipeline.\n\n"
        "![Training step over T, width, batch size and depth](experiments/results/benchmark/sweep.png)"
    )


def simulation_section():
    """What the simulations cost beside the ReLU twin's `predict`."""
    result = read_json(RESULTS / "benchmark" / "simulation.json")
    rows = [["", "ms per image, median", "to `predict`: medians", "fastest rounds"]]
    names = {
        "predict": "ReLU twin, `predict`",
        "predict_ttfs": "TTFS model, `predict`",
        "event": "`event`, all spike times kept",
        "event_counts": "`event`, spikes counted",
        "clock": "`clock`",
    }
    for key in result["seconds_per_image"]:
        name = names[key]
        ratios = [result[f"{which}_to_predict"][key] for which in ("median", "fastest")]
        milliseconds = 1e3 * statistics.median(result["seconds_per_image"][key])
        rows.append([name, f"{milliseconds:.1f}", *(f"{r:.2f}" for r in ratios)])
    memory = ", ".join(
        f"T = {row['time_window']} and batch {row['batch_size']}: {row['mebibytes']:,.0f}"
        for row in result["clock_memory"]
    )
    return (
        f"**Simulating VGG-16** at width {result['width']:g}, T = {result['time_window']}, batches of "
        f"{result['batch_size']}, random weights and images, float32, {result['device']}, interleaved.\n\n"
        f"{_markdown(rows)}\n\nPeak memory of a `clock` process [MiB]: {memory}."
    )


def _simulation(group, row):
    path = RESULTS / group / f"{row}.simulation.json"
    return path.relative_to(ROOT).as_posix() if path.exists() else None


def section():
    """The results part of README."""
    parts = []
    for group, rows in GROUPS.items():
        rows = [row for row in rows if (RESULTS / group / f"{row}.json").exists()]
        results = [read_json(RESULTS / group / f"{row}.json") for row in rows]
        if not results:
            continue
        first = results[0]
        config = first["config"]
        minutes = ", ".join(f"{result['wall_time'] / 60:.1f}" for result in results)
        parts.append(
            f"**{first['data']}**, {config['model']} at width {config['width']:g}, T = {config['time_window']}, "
            f"{config['dtype_policy']}, {first['test_images']:,} test images, {first['device']} "
            f"(training took {minutes} minutes).\n\n{table(results, [_simulation(group, row) for row in rows])}"
        )
    parts += [*table1_section(), *spiking_section(), *table2_sections()]
    return "\n\n".join([*parts, *training_section(), size_section(), simulation_section()])


DOCUMENTS = {"README.md": section, "experiments/README.md": sweep_section}


def updated(text, content):
    """A document's text with what stands between the markers made anew."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def main(argv):
    del argv
    for name, content in DOCUMENTS.items():
        path = ROOT / name
        text = path.read_text()
        wanted = updated(text, content())
        if wanted == text:
            continue
        if flags.FLAGS.check:
            sys.exit(f"{name} differs from the committed results: run python -m experiments.report")
        with replaced(str(path)) as temporary:
            pathlib.Path(temporary).write_text(wanted)
    if flags.FLAGS.check:
        return
    plots.activation(str(RESULTS / "activation.png"))


if __name__ == "__main__":
    flags.DEFINE_boolean("check", False, "Only compare; exit with 1 where a README differs.")
    app.run(main)
