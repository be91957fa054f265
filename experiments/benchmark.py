"""Times the spiking simulations against the ReLU twin: `python -m experiments.benchmark --output=benchmark.json`.

Runs are interleaved in one process, so that whatever else the machine does falls on all alike; ratios are of medians.
"""

import multiprocessing
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from absl import app, flags


def _networks(width, time_window, images=64):
    """VGG-16 as ReLU model and as SpikingNetwork. Batch statistics of random images make the activity a real one."""
    import keras
    import numpy as np

    from keras_ttfs import applications
    from keras_ttfs.snn import SpikingNetwork

    keras.utils.set_random_seed(0)
    options = {"width": width, "gamma_0": 0.5, "bn_momentum": 0.0}
    relu = applications.vgg16(activation="relu", **options)
    ttfs = applications.vgg16(time_window=time_window, tau_0=time_window / 3.2, **options)
    images = np.random.default_rng(0).uniform(size=(images, 32, 32, 3)).astype("float32")
    for model in (relu, ttfs):
        model(images, training=True)
    return relu, SpikingNetwork.from_model(ttfs)


def simulations(width, time_window, images, clock_images, batch_size, rounds):
    """Seconds per image of `predict`, the event simulation (keeping spike times, and counts only) and the clock simulation.

    Interleaved; the first round warms up.
    """
    import numpy as np

    relu, network = _networks(width, time_window)
    x = np.random.default_rng(1).uniform(size=(images, 32, 32, 3)).astype("float32")
    ways = {
        "predict": (images, lambda: relu.predict(x, batch_size=batch_size, verbose=0)),
        "event": (images, lambda: network.run(x, batch_size=batch_size, verbose=0)),
        "event_counts": (images, lambda: network.run(x, batch_size=batch_size, spike_times=False, verbose=0)),
        "clock": (clock_images, lambda: network.run(x[:clock_images], mode="clock", batch_size=batch_size, verbose=0)),
    }
    seconds = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, (count, way) in ways.items():
            start = time.perf_counter()
            way()
            took = (time.perf_counter() - start) / count
            if number:
                seconds[name].append(took)
            print(
                f"{'warm-up' if not number else f'round {number}'} {name:<12} {1e3 * took:9.2f} ms per image",
                flush=True,
            )
    return seconds


def _peak(width, time_window, batch_size, queue):
    import numpy as np

    _, network = _networks(width, time_window, images=4)
    x = np.random.default_rng(1).uniform(size=(batch_size, 32, 32, 3)).astype("float32")
    network.run(x, mode="clock", batch_size=batch_size, verbose=0)
    queue.put(_peak_memory())


def _peak_memory():
    """Of this process [MiB]. Not getrusage's: a child inherits its parent's there. Linux only; elsewhere NaN."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    except OSError:
        return float("nan")


def clock_memory(width, time_window, batch_size):
    """Peak memory of a process that does a clock simulation of one batch [MiB], TensorFlow included."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(width, time_window, batch_size, queue))
    process.start()
    peak = queue.get()
    process.join()
    return peak


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    import statistics

    from experiments.files import write_json
    from experiments.train import provenance

    options = flags.FLAGS
    if os.path.exists(options.output) and not options.overwrite:
        raise SystemExit(f"FileExistsError: Expected a new --output. Received: {options.output}. Pass --overwrite.")
    arguments = options.width, options.time_window
    seconds = simulations(*arguments, options.images, options.clock_images, options.batch_size, options.rounds)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "width": options.width,
        "time_window": options.time_window,
        "batch_size": options.batch_size,
        "images": options.images,
        "clock_images": options.clock_images,
        "seconds_per_image": seconds,
        "median_to_predict": {name: median[name] / median["predict"] for name in median},
        "fastest_to_predict": {name: min(values) / min(seconds["predict"]) for name, values in seconds.items()},
        "clock_memory": [
            {
                "time_window": window,
                "batch_size": batch,
                "mebibytes": round(clock_memory(options.width, window, batch), 1),
            }
            for window in (options.time_window // 4, options.time_window)
            for batch in (options.batch_size, 4 * options.batch_size)
        ],
        **provenance(),
    }
    write_json(options.output, result)
    for name in ("event", "event_counts", "clock"):
        ratios = result["median_to_predict"][name], result["fastest_to_predict"][name]
        print(f"{name} / predict: {ratios[0]:.2f} of the medians, {ratios[1]:.2f} of the fastest rounds")
    for row in result["clock_memory"]:
        print(f"clock, T = {row['time_window']:<4} batch {row['batch_size']:<4} {row['mebibytes']:8.0f} MiB")


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "Result file (JSON).")
    flags.DEFINE_float("width", 1.0, "Factor on VGG-16's hidden channel counts [1].", lower_bound=0.01)
    flags.DEFINE_integer("time_window", 32, "T, steps of one phase [steps].", lower_bound=4)
    flags.DEFINE_integer("images", 1000, "Images that predict and the event simulation take [images].", lower_bound=1)
    flags.DEFINE_integer("clock_images", 100, "Images that the clock simulation takes [images].", lower_bound=1)
    flags.DEFINE_integer("batch_size", 100, "Images at a time [images].", lower_bound=4)
    flags.DEFINE_integer("rounds", 5, "Times that each is measured, after one warm-up.", lower_bound=1)
    flags.DEFINE_boolean("overwrite", False, "Replace the result file.")
    flags.mark_flag_as_required("output")
    app.run(main)
