"""A process of tests/test_distribution.py: `python two_workers.py INDEX PORTS FOLDER CASE ...` trains each case.

INDEX 0 and 1 are two workers, `alone` trains as one process, and `mirrored` on two devices of one process.
"""

import functools
import json
import os
import sys

import numpy as np

# What Keras cannot do, which `keras_internals.DistributedModel` makes up for.
OF_KERAS = ("keras builds", "keras reduces")
# What both workers must refuse. The last leaves nothing behind that another case could use.
REFUSED = (
    "settings", "arrays", "batch", "batch of a data set", "last batch", "shuffled", "dict", "generator", "clipped", "half",
    "callbacks", "own callback", "scheduler", "scalar", "one alone", "empty",
)  # fmt: skip
# The one that validates, and predicts.
WATCHED = "relaxed, with a remainder"
CLASSES, SAMPLES, BATCH, EPOCHS = 4, 96, 12, 3


def main():
    index, ports, folder, *cases = sys.argv[1:]
    if index in ("0", "1"):
        addresses = [f"127.0.0.1:{port}" for port in ports.split(",")]
        task = {"type": "worker", "index": int(index)}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    if index == "mirrored":
        (processor,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    else:
        strategy = tf.distribute.get_strategy() if index == "alone" else tf.distribute.MultiWorkerMirroredStrategy()
    for case in cases:
        try:
            found = trained(strategy, case, index)
        except (ValueError, tf.errors.OpError) as error:
            found = {"error": str(error)}
        np.savez(os.path.join(folder, f"{case}.{index}.npz"), **found)


def trained(strategy, case, index):
    """Weights, and the logs of every epoch, after a `fit` with what the case asks for."""
    import keras
    import tensorflow as tf

    import keras_ttfs

    precision = "float32" if case == "fused" else "float64"
    keras.config.set_floatx(precision)
    keras.config.set_dtype_policy(precision)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        # What is refused leaves a model as it is.
        model = untrained() if case in REFUSED[1:-1] else network(case, index)
        model.compile(*compiled(), metrics=["accuracy"])
    if case == "noise":
        # Outside of the scope, where its random numbers would be those of each replica.
        model.harden([keras_ttfs.noise.DroppedSpikes(0.1), keras_ttfs.noise.WeightMismatch(0.1)])
    x, y = images(SAMPLES)
    x, y = (
        values[: len(values) - {"relaxed, with a remainder": 5, "empty": BATCH - 1}.get(case, 0)] for values in (x, y)
    )
    if case in REFUSED[1:-1]:
        return fit_of_arrays(case, model, x, y, index)
    if case in OF_KERAS:
        return fit_of_keras(case, model, x, y)
    callbacks = callbacks_of(case, x, index)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    # Rounding in float32 moves single spikes, and with them everything, after a few steps.
    data = data.take(1) if case == "fused" else data
    # Each traces a function of its own.
    watched = case == WATCHED
    validation = data.take(2) if watched else None
    history = model.fit(data, epochs=EPOCHS, validation_data=validation, verbose=0, callbacks=callbacks)
    logs = {f"log {name}": np.array(values) for name, values in history.history.items()}
    rows = {
        f"row {name}": np.array([row[name] for row in callback.rows])
        for callback in callbacks
        for name in (callback.rows[0] if hasattr(callback, "rows") else ())
        if name != "layer"
    }
    predicted = {"predict": model.predict(x[:BATCH], batch_size=BATCH, verbose=0)} if watched else {}
    return {**{f"weight {n}": w for n, w in enumerate(model.get_weights())}, **logs, **rows, **predicted}


def fit_of_arrays(case, model, x, y, index):
    """`fit` with something wrong: with both workers, or with the second."""
    import keras
    import tensorflow as tf

    import keras_ttfs

    options = {"batch_size": BATCH, "verbose": 0, "shuffle": case == "shuffled"}
    if case == "arrays":
        x = x + (index == "1")
    if case == "batch":
        options["batch_size"] += 1
    if case == "last batch":
        x, y, options["validation_split"] = x[: BATCH + 1], y[: BATCH + 1], None
    with model.distribute_strategy.scope():
        model.compile(*compiled_as(case))
    if case == "callbacks":
        options["callbacks"] = [keras_ttfs.RelaxationSchedule(3 if index == "1" else 2)]
    if case == "own callback":
        callback = Relaxed()
        callback.share = 0.5 + float(index)
        options["callbacks"] = callback
    if case == "scheduler":
        rate = 0.5 if index == "1" else 0.1
        options["callbacks"] = [keras.callbacks.LearningRateScheduler(lambda epoch: rate)]
    if case == "one alone" and index == "1":
        x = x.astype(str)
    if case == "dict":
        x, options["shuffle"] = {"image": x, "not given": None}, True
    if case == "generator":
        batches, y = [(x[:BATCH], y[:BATCH])] * 2, None
        x = iter(batches)
    if case == "batch of a data set":
        x, y = tf.data.Dataset.from_tensor_slices((x, y)).batch(1, drop_remainder=True), None
        options = {"verbose": 0}
    model.fit(x, y, **options)
    return {}


def compiled_as(case):
    """Optimizer and loss, one of them of a kind that replicas cannot share."""
    import keras

    optimizer, loss = compiled()
    if case == "clipped":
        optimizer = keras.optimizers.SGD(0.1, clipnorm=1.0)
    if case == "half":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer, mean_square if case == "scalar" else loss


def mean_square(y, outputs):
    """A loss that says nothing of single samples."""
    import keras

    return keras.ops.mean(keras.ops.square(outputs))


def fit_of_keras(case, model, x, y):
    """`fit` without one of the two repairs."""
    import keras

    from keras_ttfs import keras_internals

    if case == "keras builds":
        with model.distribute_strategy.scope():
            model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
            model.compile(*compiled())
    real = keras_internals.several_workers
    keras_internals.several_workers = lambda strategy: False
    try:
        model.fit(x, y, batch_size=BATCH, verbose=0)
    finally:
        keras_internals.several_workers = real
    return {}


def compiled():
    import keras

    return keras.optimizers.SGD(0.05, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@functools.cache
def untrained():
    return network("refused", index=None)


def network(case, index):
    """A network of two convolutions, pooled behind the activation and before it, with what the case asks for."""
    import keras

    import keras_ttfs

    x = inputs = keras.Input((8, 8, 1))
    x = keras_ttfs.TTFSActivation(name="input")(x)
    options = {"padding": "same", "use_bias": False, "kernel_regularizer": keras.regularizers.L2(1e-3)}
    if case == "frozen, with losses of layers":
        options["activity_regularizer"] = keras.regularizers.L2(1e-2)
    for width, after in ((4, False), (6, True)):
        x = keras.layers.Conv2D(width, 3, **options)(x)
        x = keras_ttfs.TKBatchNorm(synchronized=case != "unsynchronised")(x)
        x = keras.layers.MaxPooling2D()(x) if after else x
        x = keras_ttfs.TTFSActivation()(x)
        x = x if after else keras.layers.MaxPooling2D()(x)
    outputs = keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x))
    options = {"lambda_tr": 2e-3 if case == "settings" and index == "1" else 1e-3, "lambda_tb": 1e-3}
    if case == "taught to a budget":
        teacher = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
        options |= {"teacher": teacher, "lambda_kd": 1.0, "temperature": 2.0}
    return keras_ttfs.TTFSModel(inputs, outputs, **options)


def callbacks_of(case, x, index):
    import keras

    import keras_ttfs

    class WithFile(keras_ttfs.TemporalKernelHistory):
        """Writes, as it were, to a place of this worker."""

        def __init__(self, data, path):
            super().__init__(data)
            self.path = path

    asked = []

    def rate(epoch):
        asked.append(epoch)
        # Nobody else asks it.
        return 0.05 if asked == list(range(epoch + 1)) else float("nan")

    found = [WithFile(x[:4], f"worker {index}"), keras.callbacks.LearningRateScheduler(rate)]
    if case == "relaxed, with a remainder":
        found.append(Relaxed())
    if case == "frozen, with losses of layers":
        found.append(keras_ttfs.FreezeTemporalKernels(1))
    if case == "taught to a budget":
        found.append(keras_ttfs.SpikeBudget(60, x[:8], every=2, ramp=0.5))
    return found


def Relaxed():
    """Relaxation by 0.5 in every epoch."""
    import keras_ttfs

    class Half(keras_ttfs.RelaxationSchedule):
        def probability(self, epoch):
            return 0.5

    return Half(1)


def images(count):
    random = np.random.default_rng(0)
    return random.random((count, 8, 8, 1)), random.integers(0, CLASSES, count)


if __name__ == "__main__":
    main()
