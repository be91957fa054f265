"""Trains one configuration in a work directory that survives being killed. No flags in here.

A work directory holds config.json, checkpoint/ while the run is under way, and in the end history.csv, kernels.csv,
distributions.json, model.keras, the plots and, last of all, result.json: a run is finished when that file is there.
"""

import datetime
import importlib.metadata
import math
import os
import platform
import shutil
import subprocess
import time

import keras
import numpy as np
import tensorflow as tf

import keras_ttfs
from experiments import data as data_module
from experiments import plots
from experiments.config import differences
from experiments.files import PARTIAL, read_json, replaced, write_json
from keras_ttfs.callbacks import write_csv

KERNEL_SAMPLES = 256
EVALUATION_BATCH = 500
VERSIONED = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "scikit-learn")


def train(
    config, workdir, *, data_dir=None, download=False, expected_data=None, overwrite=False, tensorboard=False, verbose=2
):
    """Trains, evaluates on the test split and returns the result (a dict, also in `workdir/result.json`).

    Resumes what an earlier, interrupted call with the same config left in `workdir`. Nothing there is written or deleted
    before data and model are ready. Raises FileExistsError where the directory holds a finished or a different run,
    unless `overwrite`; ValueError where the description of the data is not `expected_data` (if given) or not that of the
    interrupted run; FloatingPointError when the loss is not finite.
    """
    check_workdir(config, workdir, overwrite)
    keras.utils.set_random_seed(config.seed)
    # A resumed run must compute what the uninterrupted one does.
    tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(config.dtype_policy)
    data = data_module.load(config.dataset, data_dir, download, config.train_images)
    if expected_data is not None:
        _check_data(expected_data, data, "the runs beside this one")
    steps = data_module.steps_per_epoch(data, config.batch_size)
    model = build(config, data)
    claim_workdir(config, workdir, overwrite, data.description)
    checkpoint = Checkpoint(workdir, config, data)
    checkpoint.restore(model)
    fit_callbacks = [LearningRate(config, steps), StopOnNonFinite()]
    if config.relaxation and config.target_epoch:
        fit_callbacks.append(keras_ttfs.RelaxationSchedule(config.target_epoch))
    kernels = keras_ttfs.TemporalKernelHistory(
        data_module.scale(data.validation.images[:KERNEL_SAMPLES]).numpy(), rows=checkpoint.state["kernels"]
    )
    checkpoint.kernels = kernels
    fit_callbacks += [kernels, checkpoint]
    if tensorboard:
        fit_callbacks.append(keras.callbacks.TensorBoard(os.path.join(workdir, "tensorboard")))
    first = checkpoint.state["epochs"]
    if first < config.epochs:
        model.fit(
            data_module.training_batches(
                data, config.batch_size, config.epochs, config.seed, augment=config.augment, initial_epoch=first
            ),
            steps_per_epoch=steps,
            initial_epoch=first,
            epochs=config.epochs,
            validation_data=data_module.evaluation_batches(data.validation, EVALUATION_BATCH),
            callbacks=fit_callbacks,
            shuffle=False,  # The data set brings its own order.
            verbose=verbose,
        )
    checkpoint.load_kept(model)
    result = evaluate(config, model, data, checkpoint.state)
    images = data_module.scale(data.test().images[:KERNEL_SAMPLES])
    _write(workdir, model, result, checkpoint.state, distributions(model, images))
    return result


def check_workdir(config, workdir, overwrite=False):
    """Raises FileExistsError where `workdir` is not free for this config. True if it holds a run to be replaced."""
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
        if os.path.isdir(workdir) and any(not name.startswith(PARTIAL) for name in os.listdir(workdir)):
            raise FileExistsError(
                f"Expected a workdir that is new or empty. Received: {workdir}, which holds other files."
            )
        return False
    changes = differences(read_json(path), config.as_dict())
    finished = os.path.exists(os.path.join(workdir, "result.json"))
    if overwrite or not (changes or finished):
        # An interrupted run of this config goes on, also with --overwrite.
        return bool(changes or finished)
    expected, received = "without a finished run", "result.json"
    if changes:
        expected, received = "that is new or holds this run", f"another run ({changes})"
    raise FileExistsError(
        f"Expected a workdir {expected}. Received: {workdir} with {received}. "
        "Choose another --workdir, or replace the run with --overwrite."
    )


def claim_workdir(config, workdir, overwrite=False, data=None):
    """Makes `workdir` this config's, as `check_workdir` allows; an interrupted run of other data is replaced too."""
    state = os.path.join(workdir, "checkpoint", "state.json")
    begun = read_json(state).get("data") if overwrite and os.path.exists(state) else None
    if check_workdir(config, workdir, overwrite) or begun not in (None, data):
        shutil.rmtree(workdir)
    os.makedirs(workdir, exist_ok=True)
    write_json(os.path.join(workdir, "config.json"), config.as_dict())


def _check_data(expected, data, whose):
    if expected != data.description:
        raise ValueError(
            f"Expected the data of {whose}: {expected}. Received: {data.description}. Choose another --workdir."
        )


def build(config, data):
    """The compiled model of a config."""
    network = getattr(keras_ttfs.applications, config.model)
    model = network(
        data.train.images.shape[1:],
        data.classes,
        width=config.width,
        time_window=config.time_window,
        tau_0=config.tau_0,
        z_max_0=config.z_max_0,
        rounding=config.rounding,
        kernel_gradient=config.kernel_gradient,
        input_coding=config.input_coding,
        activation=config.activation,
        dropout=config.dropout,
        l2=config.l2,
        gamma_0=config.gamma_0,
        bn_momentum=config.bn_momentum,
        lambda_tr=config.lambda_tr,
        lambda_tb=config.lambda_tb,
        seed=config.seed,
    )
    if config.optimizer == "adam":
        optimizer = keras.optimizers.Adam(config.learning_rate)
    else:
        optimizer = keras.optimizers.SGD(config.learning_rate, momentum=config.momentum, nesterov=True)
    if config.label_smoothing:
        loss = SmoothedCrossentropy(data.classes, config.label_smoothing)
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=config.jit_compile)
    model.optimizer.build(model.trainable_variables)
    return model


class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy with label smoothing, of integer labels (Keras has it for one-hot labels only)."""

    def __init__(self, classes, smoothing):
        super().__init__(name="crossentropy")
        self.classes = classes
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        target = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), self.classes)
        return keras.losses.categorical_crossentropy(target, y_pred, from_logits=True, label_smoothing=self.smoothing)


class LearningRate(keras.callbacks.Callback):
    """Sets the learning rate of every step from the step's number alone, so that a resumed run goes on exactly."""

    def __init__(self, config, steps):
        super().__init__()
        self.config = config
        self.steps = steps
        self.epoch = 0

    def rate(self, step):
        config, total = self.config, self.config.epochs * self.steps
        if config.schedule == "constant":
            return config.learning_rate
        rise = config.warmup * total
        if step < rise:
            return config.learning_rate * (step + 1) / (rise + 1)
        past = (step - rise) / max(1.0, total - rise)
        if config.schedule == "triangular":
            return config.learning_rate * (1 - past)
        return config.learning_rate * (1 + math.cos(math.pi * past)) / 2

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate.assign(self.rate(self.epoch * self.steps + batch))


class StopOnNonFinite(keras.callbacks.Callback):
    """Raises FloatingPointError when the loss is NaN or infinite, looking every 20 steps and after each epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if batch % 20 == 0:
            self._check(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._check("end", logs)

    def _check(self, batch, logs):
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"Expected a finite loss. Received: loss={loss} in epoch {self.epoch + 1}, step {batch}. The last whole "
                "epoch is kept. Lower --learning_rate, in another --workdir or with --overwrite."
            )


class Checkpoint(keras.callbacks.Callback):
    """Saves everything a run needs to go on after each epoch, and finds it again.

    The weights, with the optimizer's state, go into a file of their own; then state.json, replaced in one step, names it
    and holds the rest: whatever the moment of a kill, state.json and its files agree.
    """

    def __init__(self, workdir, config, data):
        super().__init__()
        self.data = data
        self.folder = os.path.join(workdir, "checkpoint")
        self.path = os.path.join(self.folder, "state.json")
        self.keep = config.keep
        self.kernels = None
        os.makedirs(self.folder, exist_ok=True)
        self.state = {
            "data": data.description,
            "epochs": 0,
            "seconds": 0.0,
            "last": None,
            "kept": None,
            "generators": [],
            "history": [],
            "kernels": [],
            "provenance": provenance(),
        }

    def restore(self, model):
        if os.path.exists(self.path):
            begun, self.state = self.state["provenance"], read_json(self.path)
            _check_data(self.state.setdefault("data", self.data.description), self.data, "the interrupted run")
            past, now = str(self.state["provenance"]["git_revision"]), str(begun["git_revision"])
            if not past.endswith(now):
                self.state["provenance"]["git_revision"] = f"{past} then {now}"
            model.load_weights(os.path.join(self.folder, self.state["last"]))
            for generator, state in zip(_generators(model), self.state["generators"], strict=True):
                generator.state.assign(state)

    def load_kept(self, model):
        model.load_weights(os.path.join(self.folder, self.state["kept"]))

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        name = f"epoch-{epoch + 1:05d}.weights.h5"
        with replaced(os.path.join(self.folder, name)) as temporary:
            self.model.save_weights(temporary)
        seconds = time.monotonic() - self.started
        row = {"epoch": epoch, "seconds": round(seconds, 2), **{key: float(value) for key, value in logs.items()}}
        earlier = [past["val_accuracy"] for past in self.state["history"]]
        best = self.keep == "last" or all(row["val_accuracy"] > past for past in earlier)
        self.state = {
            **self.state,
            "epochs": epoch + 1,
            "seconds": self.state["seconds"] + seconds,
            "last": name,
            "kept": name if best else self.state["kept"],
            "generators": [np.array(generator.state).tolist() for generator in _generators(self.model)],
            "history": self.state["history"] + [row],
            "kernels": self.kernels.rows,
        }
        write_json(self.path, self.state)
        for other in os.listdir(self.folder):
            if other.endswith(".weights.h5") and other not in (self.state["last"], self.state["kept"]):
                os.remove(os.path.join(self.folder, other))


def _generators(model):
    """The random generators of dropout and relaxation, whose states Keras does not save with the weights."""
    return [layer.seed_generator for layer in model._flatten_layers() if hasattr(layer, "seed_generator")]


def evaluate(config, model, data, state):
    """The result of a trained model on the test split: accuracy, spikes, steps, energy, and where it comes from."""
    test = data.test()
    logs = model.evaluate(data_module.evaluation_batches(test, EVALUATION_BATCH), return_dict=True, verbose=0)
    kept = next(row for row in state["history"] if f"epoch-{row['epoch'] + 1:05d}" in state["kept"])
    result = {
        "config": config.as_dict(),
        "data": data.description,
        "test_images": len(test),
        "epochs": state["epochs"],
        "kept_epoch": kept["epoch"] + 1,
        "val_accuracy": kept["val_accuracy"],
        "accuracy": logs["accuracy"],
        "loss": logs["loss"],
        "neurons": model.neurons if "spikes" in logs else None,
        "wall_time": round(state["seconds"], 1),
        **state["provenance"],
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if "spikes" in logs:
        spikes = float(logs["spikes"])
        result.update(
            spikes=spikes,
            input_spikes=float(logs["input_spikes"]),
            spikes_per_neuron=float(logs["spikes_per_neuron"]),
        )
    if model.encoders:
        network = keras_ttfs.snn.SpikingNetwork.from_model(model)
        time_steps = network.time_steps
        result.update(
            spike_rate=keras_ttfs.spike_rate(spikes, model.neurons, time_steps),
            time_steps=time_steps,
            decision_step=network.decision_step,
            truenorth_energy=keras_ttfs.energy.normalized_energy(spikes, time_steps, "truenorth"),
            spinnaker_energy=keras_ttfs.energy.normalized_energy(spikes, time_steps, "spinnaker"),
            layers=[
                {"layer": encoder.name, "neurons": encoder.neurons, "spikes": float(encoder.spikes.result())}
                for encoder in model.encoders
            ],
        )
    return result


def provenance():
    """Versions, git revision and device of this process: of the code that a run begins with."""
    versions = {"python": platform.python_version(), "keras_ttfs": keras_ttfs.__version__}
    for package in VERSIONED:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    details = tf.config.experimental.get_device_details
    gpus = [details(gpu)["device_name"] for gpu in tf.config.list_physical_devices("GPU")]
    return {
        "versions": versions,
        "git_revision": _git_revision(),
        "device": ", ".join(gpus) or f"CPU, {os.cpu_count()} cores",
    }


def _git_revision():
    here = os.path.dirname(os.path.abspath(__file__))
    command = ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def distributions(model, images):
    """Of each encoder: the histogram of its pre-activations z over images, beta, and the range of its kernel (Fig. 7)."""
    edges = np.linspace(-3.0, 5.0, 201)
    layers = []

    def observe(encoder, z):
        # Overflow goes into the outermost bins.
        inside = np.clip(np.asarray(tf.cast(z, tf.float32)), edges[0], edges[-1])
        norm = norms.get(encoder.name)
        layers.append(
            {
                "layer": encoder.name,
                "counts": np.histogram(inside, edges)[0].tolist(),
                "beta": float(tf.reduce_mean(norm.beta)) if norm is not None else None,
                "z_min": float(encoder.z_min),
                "z_max": float(encoder.z_max),
            }
        )

    norms = {encoder.name: norm for norm, encoder in model.batch_norm_pairs()}
    for encoder in model.encoders:
        encoder.observer = observe
    try:
        model(images, training=False)
    finally:
        for encoder in model.encoders:
            encoder.observer = None
    return {"samples": len(images), "edges": [float(edges[0]), float(edges[-1])], "layers": layers}


def _write(workdir, model, result, state, distribution):
    # The optimizer's state is in the model; the loss is recompiled by name so that loading needs keras_ttfs alone.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(model.optimizer, loss, metrics=["accuracy"])
    with replaced(os.path.join(workdir, "model.keras")) as temporary:
        model.save(temporary)
    write_csv(os.path.join(workdir, "history.csv"), state["history"])
    write_csv(os.path.join(workdir, "kernels.csv"), state["kernels"])
    plots.learning_curves(state["history"], os.path.join(workdir, "learning_curves.png"))
    if model.encoders:
        plots.spikes_by_layer(result["layers"], os.path.join(workdir, "spikes_by_layer.png"))
        plots.kernels(state["kernels"], os.path.join(workdir, "kernels.png"))
        write_json(os.path.join(workdir, "distributions.json"), distribution, indent=None)
    write_json(os.path.join(workdir, "result.json"), result)
    shutil.rmtree(os.path.join(workdir, "checkpoint"))
