"""Times training and simulation beside the ReLU twin: `python -m experiments.benchmark --parts=training --output=DIR`.

What is compared runs interleaved in one process, because the other work of the machine then slows all of it alike. Ratios are
of medians. Every part writes one JSON file to the output directory, and a plot where there is something to see.
"""

import gc
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from absl import app, flags

from experiments import command
from experiments.benchmark_networks import NETWORKS, POOLINGS, RELU, TTFS, own_pooling, simulated, training_step
from experiments.lock import locked
from experiments.processes import in_new_process
from experiments.runs import Job, run_jobs
from experiments.stored import read_benchmark
from experiments.workdir import check_made, pattern_of, remove_leftovers

Seconds = dict[str, list[float]]
# Result files of this network and this order of pooling do not name them.
UNNAMED = ("vgg16", "spikes")
# Parts that measure other networks too.
OF_NETWORKS = ("training", "simulation")
TORCH_ROUNDS = 5
WINDOW_ROUNDS = 60
SWEEP = {
    "time_window": (8, 16, 32, 64, 128),
    "width": (0.125, 0.25, 0.5, 1.0),
    "batch_size": (32, 64, 128, 256),
    "depth": (2, 4, 8),
}


def define_flags() -> None:
    command.define_shared_flags("overwrite")
    flags.DEFINE_string("output", None, "Directory of the result files.")
    flags.DEFINE_multi_enum("parts", ["training"], list(PARTS), "What to measure; repeat the flag for several.")
    flags.DEFINE_enum(
        "network", "vgg16", NETWORKS, f"Network of keras_ttfs.applications; {UNNAMED[0]} alone has every part."
    )
    flags.DEFINE_enum(
        "pooling",
        None,
        POOLINGS,
        "training, simulation: spikes pools behind the activation, potential in front of it; the network's own if not given.",
    )
    flags.DEFINE_float("width", 1.0, "Factor on the network's hidden channel counts [1].", lower_bound=0.01)
    flags.DEFINE_enum("dtype_policy", "float32", ["float32", "mixed_bfloat16"], "Precision of training steps.")
    flags.DEFINE_integer("time_window", 32, "simulation: T, steps of one phase [steps].", lower_bound=4)
    flags.DEFINE_integer("images", 1000, "simulation: for predict and event [images].", lower_bound=1)
    flags.DEFINE_integer("clock_images", 100, "simulation: for the clock simulation [images].", lower_bound=1)
    flags.DEFINE_integer("batch_size", 128, "Images at a time [images].", lower_bound=4)
    flags.DEFINE_integer(
        "rounds",
        15,
        "Times that each is measured, after the warm-up; the pipeline a third of them, T 60.",
        lower_bound=1,
    )
    flags.DEFINE_integer("runs", 3, "training: processes, each with networks of its own.", lower_bound=1)
    flags.mark_flag_as_required("output")


def interleaved(
    ways: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 2, settle: int = 0, label: str = ""
) -> Seconds:
    """`{name: [seconds of each round]}` of functions called in turn. Each round begins with the next of them.

    Each function is called `settle` times before it is timed, where what ran before must not disturb it.
    """
    names, seconds = list(ways), {name: [] for name in ways}
    for number in range(-warm_up, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            for _ in range(settle):
                ways[name]()
            start = time.perf_counter()
            ways[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        print(f"{label}{name:<24} {1e3 * statistics.median(values):9.1f} ms", flush=True)
    return seconds


def peak_memory() -> float:
    """Peak memory of this process [MiB]. Linux only; elsewhere NaN.

    Not from getrusage, because a child inherits its parent's peak there.
    """
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    except OSError:
        return float("nan")


def _training_run(
    network: str, pooling: str, width: float, batch_size: int, policy: str, rounds: int
) -> dict[str, Any]:
    import keras

    from experiments import benchmark_torch

    keras.config.set_dtype_policy(policy)
    options = {"network": network, "pooling": pooling, "width": width, "batch_size": batch_size}
    ways = {name: training_step(name, **options) for name in (RELU, TTFS)}
    seconds = interleaved(ways, rounds)
    compared = (network, pooling) == UNNAMED
    torch = benchmark_torch.training_steps(width, batch_size, policy == "mixed_bfloat16") if compared else {}
    # Two frameworks take turns: the first step of a turn finds caches and threads as the other left them.
    if torch:
        ways = {TTFS: ways[TTFS], **torch}
        seconds["beside PyTorch"] = interleaved(ways, TORCH_ROUNDS, warm_up=0, settle=1, label="beside PyTorch: ")
    return seconds


def _training_memory(
    name: str, network: str, pooling: str, width: float, batch_size: int, policy: str
) -> dict[str, float]:
    """Peak of TensorFlow's allocator over some training steps, weights included, and of the process [MiB]."""
    import keras
    import tensorflow as tf

    keras.config.set_dtype_policy(policy)
    step = training_step(name, network=network, pooling=pooling, width=width, batch_size=batch_size)
    for _ in range(3):
        step()
    gc.collect()
    device = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
    tf.config.experimental.reset_memory_stats(device)
    # The executor's order, and with it the peak, differs from one training step to the next.
    for _ in range(20):
        step()
    return {"tensors": tf.config.experimental.get_memory_info(device)["peak"] / 2**20, "process": peak_memory()}


def training(options: flags.FlagValues) -> dict[str, Any]:
    """Interleaved training steps, each run in a new process, and the peak memory of each network's steps."""
    from experiments import benchmark_torch

    arguments = *network_of(options), options.width, options.batch_size, options.dtype_policy
    runs = [in_new_process(_training_run, *arguments, options.rounds) for _ in range(options.runs)]
    peaks = {name: in_new_process(_training_memory, name, *arguments) for name in (RELU, TTFS)}
    memory = {kind: {name: round(peaks[name][kind], 1) for name in peaks} for kind in ("tensors", "process")}
    median = [{name: statistics.median(run[name]) for name in (RELU, TTFS)} for run in runs]
    result = {
        "width": options.width,
        "batch_size": options.batch_size,
        "dtype_policy": options.dtype_policy,
        "images_per_second": [{name: options.batch_size / value for name, value in run.items()} for run in median],
        "throughput_to_relu": [run[RELU] / run[TTFS] for run in median],
        "peak_memory_mebibytes": memory,
        # TensorFlow counts no tensors below 256 KiB on a CPU.
        "memory_to_relu": {kind: values[TTFS] / values[RELU] for kind, values in memory.items() if values[RELU]},
        "seconds_per_step": runs,
    }
    if "beside PyTorch" in runs[0]:
        beside = [{name: statistics.median(values) for name, values in run["beside PyTorch"].items()} for run in runs]
        result["torch_images_per_second"] = [
            {name: options.batch_size / value for name, value in run.items()} for run in beside
        ]
        result["torch_versions"] = benchmark_torch.versions()
        result["throughput_to_torch"] = [
            {name: run[name] / run[TTFS] for name in run if name != TTFS} for run in beside
        ]
    print("TTFS / ReLU throughput:", ", ".join(f"{ratio:.3f}" for ratio in result["throughput_to_relu"]))
    print("TTFS / ReLU peak memory:", {kind: f"{ratio:.3f}" for kind, ratio in result["memory_to_relu"].items()})
    for ratios in result.get("throughput_to_torch", []):
        print("TTFS against", {name: f"{ratio:.2f}x" for name, ratio in ratios.items()})
    return result


def _sweep_run(what: str, width: float, batch_size: int, policy: str, rounds: int) -> Seconds:
    import keras

    keras.config.set_dtype_policy(policy)
    base = {"width": width, "batch_size": batch_size}
    ways = {}
    for value in SWEEP[what]:
        for name in (RELU, TTFS):
            if what == "time_window" and name == RELU:
                continue
            ways[f"{name}, {what} = {value}"] = training_step(name, **{**base, what: value})
    return interleaved(ways, WINDOW_ROUNDS if what == "time_window" else rounds)


def sweep(options: flags.FlagValues) -> dict[str, Any]:
    """Seconds per training step over T, width, batch size and depth, one process each, everything in it interleaved.

    T has more rounds than the others, because its claim is about a difference of two per cent.
    """
    arguments = options.width, options.batch_size, options.dtype_policy, options.rounds
    seconds = {what: in_new_process(_sweep_run, what, *arguments) for what in SWEEP}
    median = {what: {name: statistics.median(v) for name, v in runs.items()} for what, runs in seconds.items()}
    # Each round by itself, because the machine's speed drifts by more than T could change it.
    windows = seconds["time_window"]
    rounds = [statistics.mean(values) for values in zip(*windows.values())]
    relative = {
        name: statistics.median(value / mean for value, mean in zip(values, rounds)) for name, values in windows.items()
    }
    spread = max(relative.values()) / min(relative.values())
    print(f"T from 8 to 128: slowest / fastest training step {spread:.3f}")
    return {
        "width": options.width,
        "batch_size": options.batch_size,
        "dtype_policy": options.dtype_policy,
        "time_window_to_mean_of_its_round": relative,
        "slowest_to_fastest_time_window": spread,
        "median_seconds_per_step": median,
        "seconds_per_step": seconds,
    }


def _pipeline_run(width: float, batch_size: int, policy: str, rounds: int) -> Seconds:
    import keras
    import numpy as np

    from experiments import data

    keras.config.set_dtype_policy(policy)
    # The cost of a batch does not depend on what the images show.
    rng = np.random.default_rng(0)
    split = data.Split(
        rng.integers(0, 256, (50000, 32, 32, 3)).astype("uint8"), rng.integers(0, 10, 50000).astype("int32")
    )
    images = data.Data(split, split, None, classes=10, description="random", flip=True, padding=4)
    batches = iter(data.training_batches(images, batch_size, 1000, 0))
    step = training_step(TTFS, width=width, batch_size=batch_size)
    many = 50
    ways = {
        "pipeline alone": lambda: [next(batches) for _ in range(many)],
        "steps alone": lambda: [step() for _ in range(many // 5)],
        "steps on the pipeline": lambda: [step(batches) for _ in range(many // 5)],
    }
    seconds = interleaved(ways, rounds, warm_up=1)
    counts = {"pipeline alone": many}
    return {name: [value / counts.get(name, many // 5) for value in values] for name, values in seconds.items()}


def pipeline(options: flags.FlagValues) -> dict[str, Any]:
    """Seconds per batch: of the input pipeline, of a training step on a constant batch, and of both sharing the cores."""
    seconds = in_new_process(
        _pipeline_run, options.width, options.batch_size, options.dtype_policy, max(3, options.rounds // 3)
    )
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = median["steps alone"] / median["pipeline alone"]
    print(f"the pipeline is {ratio:.1f}x as fast as the training step")
    return {
        "width": options.width,
        "batch_size": options.batch_size,
        "dtype_policy": options.dtype_policy,
        "pipeline_to_step": ratio,
        "steps_on_the_pipeline_to_steps": median["steps on the pipeline"] / median["steps alone"],
        "median_seconds_per_batch": median,
        "seconds_per_batch": seconds,
    }


def _simulation_run(
    network_of_run: tuple[str, str],
    width: float,
    time_window: int,
    images: int,
    clock_images: int,
    batch_size: int,
    rounds: int,
) -> Seconds:
    import numpy as np

    relu, ttfs, network = simulated(*network_of_run, width, time_window)
    x = np.random.default_rng(1).uniform(size=(images, 32, 32, 3)).astype("float32")
    ways = {
        "predict": lambda: relu.predict(x, batch_size=batch_size, verbose=0),
        "predict_ttfs": lambda: ttfs.predict(x, batch_size=batch_size, verbose=0),
        "event": lambda: network.run(x, batch_size=batch_size, verbose=0),
        "event_counts": lambda: network.run(x, batch_size=batch_size, spike_times=False, verbose=0),
        "clock": lambda: network.run(x[:clock_images], mode="clock", batch_size=batch_size, verbose=0),
    }
    seconds = interleaved(ways, rounds, warm_up=1)
    counts = {"clock": clock_images}
    return {name: [value / counts.get(name, images) for value in values] for name, values in seconds.items()}


def _clock_memory(network_of_run: tuple[str, str], width: float, time_window: int, batch_size: int) -> float:
    import numpy as np

    _, _, network = simulated(*network_of_run, width, time_window, images=4)
    x = np.random.default_rng(1).uniform(size=(batch_size, 32, 32, 3)).astype("float32")
    network.run(x, mode="clock", batch_size=batch_size, verbose=0)
    return peak_memory()


def simulation(options: flags.FlagValues) -> dict[str, Any]:
    """Seconds per image of `predict` and of the simulations; peak memory of a process that runs one clock batch."""
    size = options.batch_size
    images, clock_images, rounds = options.images, options.clock_images, options.rounds
    network, width = network_of(options), options.width
    seconds = in_new_process(_simulation_run, network, width, options.time_window, images, clock_images, size, rounds)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    memory = [
        {
            "time_window": window,
            "batch_size": batch,
            "mebibytes": round(in_new_process(_clock_memory, network, width, window, batch), 1),
        }
        for window in (options.time_window // 4, options.time_window)
        for batch in (size, 4 * size)
    ]
    for row in memory:
        print(f"clock, T = {row['time_window']:<4} batch {row['batch_size']:<4} {row['mebibytes']:8.0f} MiB")
    return {
        "width": options.width,
        "time_window": options.time_window,
        "batch_size": size,
        "images": images,
        "clock_images": clock_images,
        "median_to_predict": {name: median[name] / median["predict"] for name in median},
        "fastest_to_predict": {name: min(values) / min(seconds["predict"]) for name, values in seconds.items()},
        "clock_memory": memory,
        "seconds_per_image": seconds,
    }


# A part of the benchmark is the name of its result file.
PARTS = {"training": training, "sweep": sweep, "pipeline": pipeline, "simulation": simulation}


def network_of(options: flags.FlagValues) -> tuple[str, str]:
    """Name and order of pooling of the network that the flags ask for."""
    return options.network, options.pooling or own_pooling(options.network)


def result_name(part: str, options: flags.FlagValues) -> str:
    """Name of a part's result file, without its ending."""
    of_network = [] if network_of(options) == UNNAMED else list(network_of(options))
    setting = [options.dtype_policy, f"{options.width:g}"] if part == "training" else []
    return "_".join([part, *of_network, *setting])


def check_parts(options: flags.FlagValues) -> None:
    """Raises app.UsageError where a part is asked for that has one network alone, with another one."""
    others = [part for part in options.parts if part not in OF_NETWORKS]
    if others and network_of(options) != UNNAMED:
        raise app.UsageError(
            f"Expected parts of {', '.join(OF_NETWORKS)} with another network than {' and pooling of '.join(UNNAMED)}. "
            f"Received: {', '.join(others)}"
        )


def jobs(options: flags.FlagValues) -> list[Job]:
    """A job for each part."""
    from experiments.provenance import provenance

    origin = provenance()
    network, pooling = network_of(options)

    def job(part):
        return Job(
            part,
            os.path.join(options.output, f"{result_name(part, options)}.json"),
            lambda results: {"network": network, "pooling": pooling, **PARTS[part](options), **origin},
            read=read_benchmark,
            overwrite=options.overwrite,
            title=f"{part}: {network}, pooling of {pooling}, width {options.width:g}, batch {options.batch_size}, "
            f"{options.dtype_policy}",
        )

    return [job(part) for part in dict.fromkeys(options.parts)]


def main(options: flags.FlagValues) -> None:
    check_parts(options)
    pictures = [os.path.join(options.output, name) for name in ("training.png", "sweep.png")]
    with locked(options.output, "--output"):
        asked = jobs(options)
        others = [*pathlib.Path(options.output).glob("training_*.json"), os.path.join(options.output, "sweep.json")]
        results = [path for path in others if os.path.lexists(path)]
        for path in results:
            read_benchmark(path, "It would be drawn beside the new results: restore it, or move it away.")
        check_made(pictures)
        remove_leftovers(options.output, pattern_of(map(os.path.basename, pictures)))
        run_jobs(asked, options.output)
        from experiments import plots

        plots.benchmark(options.output)


if __name__ == "__main__":
    define_flags()
    command.run(main)
