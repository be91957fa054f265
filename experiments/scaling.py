"""What several workers bring, and what ImageNet networks cost: `python -m experiments.scaling --output=DIR`.

`workers` times one worker and two, of one thread each, in turn. `norms` times a training step with synchronised norms and
without. `networks` takes the memory of training steps of VGG-16 and ResNet-50 at 224 x 224, and counts their operations: what
a training costs on GPUs of a stated speed follows from these. Each part writes one JSON file.
"""

import concurrent.futures
import json
import math
import os
import statistics
import time
from typing import Any

from absl import flags

from experiments import command, ports
from experiments.benchmark import interleaved
from experiments.lock import locked
from experiments.processes import in_new_process
from experiments.runs import Job, run_jobs

# Training steps before the clock runs, and those that are timed.
WARM_UP, TIMED = 4, 30
IMAGENET = ("VGG16", "ResNet50")
SIDE = 224


def define_flags() -> None:
    command.define_shared_flags("overwrite", batch_size=64)
    flags.DEFINE_string("output", None, "Directory of the result files.", required=True)
    flags.DEFINE_list("parts", list(PARTS), f"What to measure: {', '.join(PARTS)}.")
    flags.DEFINE_float("width", 0.5, "workers, norms: factor on fast_vgg's channel counts [1].", lower_bound=0.01)
    flags.DEFINE_integer("rounds", 3, "Times that each is measured.", lower_bound=1)
    flags.DEFINE_list("batch_sizes", ["4", "8"], f"networks: two batches at {SIDE} x {SIDE} [images].")


def _compiled(width: float, synchronized: bool) -> Any:
    """fast_vgg, its batch normalisations synchronised or not, ready to train."""
    import keras

    from keras_ttfs import TKBatchNorm, applications

    def swap(layer):
        changes = {"synchronized": synchronized} if type(layer) is TKBatchNorm else {}
        return type(layer).from_config({**layer.get_config(), **changes})

    model = keras.models.clone_model(applications.fast_vgg(width=width), clone_function=swap)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def _random_batches(batch_size: int) -> Any:
    import tensorflow as tf

    x = tf.random.stateless_uniform((batch_size, 32, 32, 3), seed=(0, 0))
    y = tf.random.stateless_uniform((batch_size,), seed=(0, 1), maxval=10, dtype=tf.int32)
    return tf.data.Dataset.from_tensors((x, y)).repeat()


def _worker(index: int, addresses: list[str], width: float, batch_size: int) -> dict[str, float]:
    """Images per second of one of several workers of one thread, and what they reduce in a step."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        # A second worker that fails here would leave the first waiting.
        os.sched_setaffinity(0, {cores[index % len(cores)]})
    several = len(addresses) > 1
    if several:
        os.environ["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        )
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.get_logger().setLevel("ERROR")
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if several else tf.distribute.get_strategy()
    with strategy.scope():
        model = _compiled(width, synchronized=False)

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == WARM_UP - 1:
                self.begin = time.perf_counter()
            if batch == WARM_UP + TIMED - 1:
                self.seconds = time.perf_counter() - self.begin

    clock, whole = Clock(), batch_size * len(addresses)
    model.fit(_random_batches(whole), steps_per_epoch=WARM_UP + TIMED, verbose=0, callbacks=[clock])
    return {"images_per_second": whole * TIMED / clock.seconds, **_reduced(model)}


def _reduced(model: Any) -> dict[str, int]:
    """Bytes that the replicas add up in a training step."""
    from keras_ttfs import TKBatchNorm
    from keras_ttfs.topology import layers_of

    channels = sum(norm.moving_mean.shape[0] for norm in layers_of(model, TKBatchNorm))
    return {
        "parameters": model.count_params(),
        "gradient_bytes": sum(
            weight.value.dtype.size * weight.value.shape.num_elements() for weight in model.trainable_weights
        ),
        # Sums, squares and counts forward, three sums backward, in float32.
        "synchronised_norm_bytes": 6 * 4 * channels,
        # Both moving statistics in float64.
        "moving_statistics_bytes": 2 * 8 * channels,
    }


def workers(options: flags.FlagValues) -> dict[str, Any]:
    """One worker and two, in turn, each time in new processes."""
    rates: dict[str, list[float]] = {"1": [], "2": []}
    reduced: dict[str, Any] = {}
    for number in range(options.rounds):
        for count in (1, 2) if number % 2 == 0 else (2, 1):
            addresses = [f"127.0.0.1:{port}" for port in ports.free_ports(count)]
            with concurrent.futures.ThreadPoolExecutor(count) as pool:
                found = [
                    pool.submit(in_new_process, _worker, index, addresses, options.width, options.batch_size)
                    for index in range(count)
                ]
            reduced = found[0].result()
            rates[str(count)].append(reduced.pop("images_per_second"))
            print(f"{count} of one thread: {rates[str(count)][-1]:.0f} images/s", flush=True)
    one, two = (statistics.median(values) for values in rates.values())
    print(f"efficiency of two workers: {two / (2 * one):.2f}")
    setting = {"width": options.width, "batch_size_of_a_worker": options.batch_size, "dtype_policy": "float32"}
    return {**setting, "images_per_second": rates, "efficiency": two / (2 * one), **reduced}


def _norms_run(width: float, batch_size: int, rounds: int) -> dict[str, list[float]]:
    ways = {}
    batches = _random_batches(batch_size)
    for name in ("own", "synchronised"):
        model = _compiled(width, synchronized=name == "synchronised")
        model.make_train_function()
        iterator = iter(batches)
        ways[name] = lambda model=model, iterator=iterator: float(model.train_function(iterator)["loss"])
    return interleaved(ways, 10 * rounds)


def norms(options: flags.FlagValues) -> dict[str, Any]:
    """Training steps of one process, with synchronised norms and without, interleaved."""
    seconds = in_new_process(_norms_run, options.width, options.batch_size, options.rounds)
    ratio = statistics.median(seconds["own"]) / statistics.median(seconds["synchronised"])
    print(f"throughput of synchronised norms: {ratio:.3f} of the others'")
    setting = {"width": options.width, "batch_size": options.batch_size, "dtype_policy": "float32"}
    return {**setting, "synchronised_to_own": ratio, "seconds_per_step": seconds}


def _network(name: str) -> Any:
    """A network of keras.applications as TTFS model that trains."""
    import keras
    import numpy as np

    from keras_ttfs import convert

    keras.utils.set_random_seed(0)
    relu = getattr(keras.applications, name)(weights=None, input_shape=(SIDE, SIDE, 3), classifier_activation=None)
    images = np.random.default_rng(0).uniform(size=(2, SIDE, SIDE, 3)).astype("float32")
    return convert(relu, time_window=16, data=images, rounding="nearest")


def _peak(name: str, batch_size: int) -> float:
    """Peak of TensorFlow's allocator in training steps of a TTFS network [MiB]."""
    import keras
    import tensorflow as tf

    model = _network(name)
    model.compile(
        keras.optimizers.SGD(1e-4, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    x = tf.random.stateless_uniform((batch_size, SIDE, SIDE, 3), seed=(0, 0))
    y = tf.random.stateless_uniform((batch_size,), seed=(0, 1), maxval=1000, dtype=tf.int32)
    model.train_on_batch(x, y)
    device = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
    tf.config.experimental.reset_memory_stats(device)
    for _ in range(3):
        model.train_on_batch(x, y)
    return tf.config.experimental.get_memory_info(device)["peak"] / 2**20


def multiply_adds(model: Any) -> int:
    """Of an image in convolutions and dense layers, those on the zeros beyond a border included: a GPU computes them too."""
    import keras

    from keras_ttfs.topology import layers_of

    layers = [layer for kind in (keras.layers.Conv2D, keras.layers.Dense) for layer in layers_of(model, kind)]
    return sum(math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1]) for layer in layers)


def _counts(name: str) -> dict[str, int]:
    """Multiply-adds of an image, trained parameters, neurons and spiking layers of a network."""
    from keras_ttfs.snn import SpikingNetwork

    model = _network(name)
    network = SpikingNetwork.from_model(model)
    return {
        "multiply_adds": multiply_adds(model),
        "parameters": sum(math.prod(weight.shape) for weight in model.trainable_weights),
        "neurons": network.neurons,
        "layers": len(network.populations),
    }


def networks(options: flags.FlagValues) -> dict[str, Any]:
    """VGG-16 and ResNet-50 at 224 x 224, each measurement in a process of its own."""
    small, large = command.whole_numbers("batch_sizes", options.batch_sizes)
    rows = {}
    for name in IMAGENET:
        peaks = {size: in_new_process(_peak, name, size) for size in (small, large)}
        per_image = (peaks[large] - peaks[small]) / (large - small)
        rows[name] = {
            **in_new_process(_counts, name),
            "peak_mebibytes": peaks,
            "mebibytes_per_image": per_image,
            "other_mebibytes": peaks[small] - small * per_image,
        }
        print(f"{name}: {per_image:.0f} MiB per image, {rows[name]['other_mebibytes']:.0f} MiB beside", flush=True)
    return {"side": SIDE, "dtype_policy": "float32", "rows": rows}


PARTS = {"workers": workers, "norms": norms, "networks": networks}


def main(options: flags.FlagValues) -> None:
    with command.usage_errors():
        command.check_names("parts", options.parts, PARTS)
    with locked(options.output, "--output"):
        from experiments.provenance import provenance

        origin = provenance()
        asked = [
            Job(
                part,
                os.path.join(options.output, f"{part}.json"),
                lambda results, part=part: {**PARTS[part](options), **origin},
                overwrite=options.overwrite,
            )
            for part in options.parts
        ]
        run_jobs(asked, options.output)


if __name__ == "__main__":
    define_flags()
    command.run(main)
