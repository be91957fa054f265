"""Writes the results table of README.md from the committed result files: `python -m experiments.report [--check]`.

Everything between the markers is replaced; `--check` changes nothing and fails where README differs.
"""

import pathlib
import statistics
import sys

from absl import app, flags

from experiments import plots
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
    "cifar10_small": ("relu", "sm1", "sm2", "sm_sr", "sm_sr_tr_tb"),
}


def cells(result, link=None):
    """One result as the texts of COLUMNS; the row's name links to its simulation."""
    config = result["config"]
    ends = [str(result["epochs"]), str(config["seed"])]
    head = [f"[{config['row']}]({link})" if link else config["row"], f"{100 * result['accuracy']:.2f}"]
    if "spikes" not in result:
        return head + ["-"] * 5 + ends
    return [
        *head,
        f"{result['spikes']:,.0f}",
        f"{100 * result['spikes_per_neuron']:.1f}",
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


def conversion_section(group):
    """The table of a group's `conversion_*.json`, an empty text where there is none."""
    parts = []
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
        parts += conversion_section(group)
    return "\n\n".join([*parts, *training_section(), size_section(), simulation_section()])


def updated(text):
    """README's text with the results section made anew."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{section()}\n{END}{after}"


def main(argv):
    del argv
    readme = ROOT / "README.md"
    text = readme.read_text()
    wanted = updated(text)
    if flags.FLAGS.check:
        if wanted != text:
            sys.exit("README.md differs from the committed results: run python -m experiments.report")
        return
    with replaced(str(readme)) as temporary:
        pathlib.Path(temporary).write_text(wanted)
    plots.activation(str(RESULTS / "activation.png"))


if __name__ == "__main__":
    flags.DEFINE_boolean("check", False, "Only compare; exit with 1 where README differs.")
    app.run(main)
