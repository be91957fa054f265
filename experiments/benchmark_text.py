"""The measured speed of training and simulation as text."""

import statistics
from typing import Any

from experiments.files import read_json
from experiments.results import RESULTS, read_benchmarks
from experiments.tables import markdown

# Columns of the benchmark's tables that say what was measured.
SETTING = ("network", "pooling of", "width", "precision")


def training_section() -> list[str]:
    """Training steps beside the ReLU twin, PyTorch and SpikingJelly."""
    results = read_benchmarks("training_*")
    results.sort(key=lambda result: (*_order(result), -result["width"], result["dtype_policy"]))
    first = results[0]
    versions = f"TensorFlow {first['versions']['tensorflow']}, Keras {first['versions']['keras']}"
    parts = [
        f"**Training**, images per second, batches of {first['batch_size']}, random images, {first['device']}, "
        f"{versions}. Interleaved in one process, medians of {len(first['throughput_to_relu'])} processes. The twin is plain "
        f"Keras: its BatchNormalization, its ReLU, its training step.\n\n{_twins_table(results)}"
    ]
    if beside := [result for result in results if "torch_images_per_second" in result]:
        packages = beside[0]["torch_versions"]
        parts.append(
            f"Interleaved in the same processes with PyTorch {packages['torch']} and SpikingJelly "
            f"{packages['spikingjelly']} (`IFNode()`, back-propagation through time):\n\n{_rivals_table(beside)}"
        )
    return parts


def _order(result: dict[str, Any]) -> tuple[bool, bool]:
    """The paper's network first, in the paper's order of pooling."""
    return result["network"] != "vgg16", result["pooling"] != "spikes"


def _twins_table(results: list[dict[str, Any]]) -> str:
    names = ("Keras ReLU", "TTFS")
    lines = [[*SETTING, *names, "TTFS / ReLU, each run", "peak of tensors, TTFS / ReLU", "of process"]]
    for result in results:
        memory = [f"{result['memory_to_relu'][kind]:.2f}" for kind in ("tensors", "process")]
        ratios = _listed(result["throughput_to_relu"])
        lines.append([*_setting(result), *_speeds(result["images_per_second"], names), ratios, *memory])
    return markdown(lines)


def _rivals_table(results: list[dict[str, Any]]) -> str:
    names = ("PyTorch ReLU", "SpikingJelly IF, T = 4", "TTFS")
    lines = [[*SETTING, *names, "TTFS / SpikingJelly, each run"]]
    for result in results:
        ratios = _listed([run[names[1]] for run in result["throughput_to_torch"]])
        lines.append([*_setting(result), *_speeds(result["torch_images_per_second"], names), ratios])
    return markdown(lines)


def _setting(result: dict[str, Any]) -> list[str]:
    """The texts of SETTING."""
    return [result["network"], result["pooling"], f"{result['width']:g}", result["dtype_policy"]]


def _speeds(runs: list[dict[str, float]], names: tuple[str, ...]) -> list[str]:
    """Medians over the runs."""
    return [f"{statistics.median(run[name] for run in runs):,.0f}" for name in names]


def _listed(ratios: list[float]) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)


def size_section() -> str:
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
        "![Training step over T, width, batch size and depth](results/benchmark/sweep.png)"
    )


def simulation_section(result: dict[str, Any]) -> str:
    """What the simulations cost beside the ReLU twin's `predict`."""
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
        f"**Simulating {result['network']}**, pooling of {result['pooling']}, at width {result['width']:g}, T = "
        f"{result['time_window']}, batches of {result['batch_size']}, random weights and images, float32, "
        f"{result['device']}, interleaved.\n\n"
        f"{markdown(rows)}\n\nPeak memory of a `clock` process [MiB]: {memory}."
    )
