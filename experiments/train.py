"""Trains one configuration in a work directory that survives being killed. No flags in here.

A work directory holds config.json, and checkpoint/ and a lock while the run is under way. In the end it holds history.csv,
kernels.csv, distributions.json, model.keras, the plots and, last of all, result.json: a run is finished when that file is
there. A run whose loss is not finite leaves its histories and failure.json; it can be tried again.
"""

import contextlib
import datetime
import inspect
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_ttfs
from experiments import data as data_module
from experiments import noises, paper, plots, saved_model, workers
from experiments.checkpoint import (
    Checkpoint,
    check_data,
    check_room,
    digests_of,
    failure_told,
    saved_bytes,
    write_histories,
)
from experiments.config import AUGMENTATION, FIELDS, Config, with_models
from experiments.data import Augmentation, Data
from experiments.files import check_space, replaced, write_json
from experiments.lock import locked
from experiments.optimizers import compile_to_save, make_optimizer
from experiments.provenance import provenance
from experiments.start import CALIBRATION_IMAGES, begin_with
from experiments.stored import SMALL_READERS, weights_file, with_digests
from experiments.workdir import check_workdir, claim_workdir
from keras_ttfs import distribution
from keras_ttfs.snn import operations, reader
from keras_ttfs.topology import layers_of, observed

KERNEL_SAMPLES = 256
EVALUATION_BATCH = 500
# Validation images on which SpikeBudget counts [images].
COUNTED = 500
# Images whose patches whiten the input [images].
WHITENED = 2000


def make_deterministic() -> None:
    """Makes TensorFlow's operations deterministic for the rest of this process.

    A resumed run then computes what the uninterrupted one does. TensorFlow has no public way back. So a command calls this
    in a process that it owns, and `train` does not: it leaves the process as it was.
    """
    tf.config.experimental.enable_op_determinism()


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """The dtype policy of the process is `name` here, and what it was before behind it."""
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(name)
        yield
    finally:
        keras.config.set_dtype_policy(before)


def train(
    config: Config,
    workdir: str,
    *,
    data_dir: str | None = None,
    download: bool = False,
    expected_data: str | None = None,
    models: dict[str, str] | None = None,
    overwrite: bool = False,
    tensorboard: bool = False,
    verbose: int = 2,
) -> dict[str, Any] | None:
    """Trains, evaluates on the test split and returns the result, which is also in `workdir/result.json`.

    With a TF_CONFIG of several workers (`experiments.workers`) it is one of them; all but worker 0 return None.

    Resumes what an earlier, interrupted call with the same config left in `workdir`; bit for bit, where the process is
    deterministic (`make_deterministic`). Nothing in `workdir` is written or deleted before data and model are ready, but for
    a lock, which keeps other processes out and is gone in the end. The dtype policy of the process is in the end what it
    was before. `models` is `{flagfile: model}`, as `experiments.config.with_models` takes it.

    Raises:
        FileExistsError: where `workdir` holds a finished or a different run, unless `overwrite`; where `overwrite` finds
            something that no run writes; and where another process is at work in `workdir`.
        ValueError: where the description of the data is not `expected_data`, if that is given, or not that of the
            interrupted run; where the network does not take what the config asks for; and where a file of the run is
            damaged.
        FileNotFoundError: where a file of the interrupted run is missing, or a model that the config names.
        OSError: where the disk has no room for the run.
        FloatingPointError: when the loss is not finite; `workdir` then holds the histories, and `failure.json`.
    """
    config = Config(**with_digests(config.as_dict()))
    with workers.joined(workdir) as (strategy, workdir), locked(workdir), dtype_policy(config.dtype_policy):
        check_workdir(config, workdir, overwrite)
        located = with_models(config, models or {})
        keras.utils.set_random_seed(config.seed)
        data = data_of(config, data_dir, download, expected_data)
        check_workers(strategy, config, data)
        with strategy.scope():
            model = build(located, data)
        check_room(workdir, model)
        claim_workdir(config, workdir, overwrite, data.description)
        workers.share_folder(strategy, os.path.join(workdir, "checkpoint"))
        checkpoint = Checkpoint(workdir, config, data, strategy.num_replicas_in_sync)
        checkpoint.restore(model)
        more = [keras.callbacks.TensorBoard(os.path.join(workdir, "tensorboard"))] if tensorboard else []
        with failure_told(workdir, checkpoint):
            _fit(config, model, data, checkpoint, more, verbose)
        if not workers.is_first():
            return None
        # Worker 0 evaluates and saves alone, so nothing in the model may ask the others.
        model = model if strategy is tf.distribute.get_strategy() else build(located, data)
        checkpoint.load_kept(model)
        result = evaluate(config, model, data, checkpoint.state)
        images = data_module.scale(data.test().images[:KERNEL_SAMPLES])
        _write(workdir, model, result, checkpoint.state, distributions(model, images))
        checkpoint.remove()
    return result


def data_of(config: Config, data_dir: str | None, download: bool, expected: str | None) -> Data:
    """The data of a config. Raises ValueError where they are not the expected ones, or the config asks too much of them."""
    data = data_module.load(config.dataset, data_dir, download, config.train_images, config.validation_images)
    if expected is not None:
        check_data(expected, data, "the runs beside this one")
    data_module.batches_per_epoch(data, config.batch_size)
    if config.augment:
        augmentation_of(config).of(data)
    return data


def check_workers(strategy: tf.distribute.Strategy, config: Config, data: Data) -> None:
    """Raises ValueError, on every worker, where they were not told to do the same, or cannot share a batch."""
    facts = {"settings": config.as_dict(), "code": provenance()["git_revision"], "data": data.description}
    for name, split in (("training", data.train), ("validation", data.validation)):
        facts |= {f"{name} images": split.images, f"{name} labels": split.labels}
    distribution.check_equal(strategy, facts)
    # Behind it, because now the same error ends all of them.
    replicas = strategy.num_replicas_in_sync
    if config.batch_size % replicas:
        raise ValueError(
            f"Expected a --batch_size that {replicas} workers share equally. Received: batch_size={config.batch_size}"
        )


def _fit(
    config: Config,
    model: keras.Model,
    data: Data,
    checkpoint: Checkpoint,
    more: list[keras.callbacks.Callback],
    verbose: int,
) -> None:
    """Trains from the checkpoint's epoch on."""
    first, batches = checkpoint.state["epochs"], data_module.batches_per_epoch(data, config.batch_size)
    checkpoint.kernels = keras_ttfs.TemporalKernelHistory(
        data_module.scale(data.validation.images[:KERNEL_SAMPLES]).numpy(), rows=checkpoint.state["kernels"]
    )
    if first == config.epochs:
        return
    callbacks = [LearningRate(config, batches), StopOnNonFinite()]
    if config.relaxation and config.target_epoch:
        callbacks.append(keras_ttfs.RelaxationSchedule(config.target_epoch))
    if config.frozen_epochs:
        callbacks.append(keras_ttfs.FreezeTemporalKernels(config.frozen_epochs))
    if config.spike_budget:
        counted = data_module.scale(data.validation.images[:COUNTED]).numpy()
        state = checkpoint.state["spike_budget"] or None
        checkpoint.spike_budget = keras_ttfs.SpikeBudget(config.spike_budget, counted, state=state)
        callbacks.append(checkpoint.spike_budget)
    model.fit(
        data_module.training_batches(
            data,
            config.batch_size,
            config.epochs,
            config.seed,
            augmentation=augmentation_of(config),
            initial_epoch=first,
        ),
        steps_per_epoch=batches,
        initial_epoch=first,
        epochs=config.epochs,
        validation_data=data_module.evaluation_batches(data.validation, EVALUATION_BATCH),
        callbacks=[*callbacks, checkpoint.kernels, checkpoint, *more],
        shuffle=False,  # The data set brings its own order.
        verbose=verbose,
    )


def augmentation_of(config: Config) -> Augmentation | None:
    """How a config has images changed; None where it has not."""
    return Augmentation(**{name: getattr(config, name) for name in AUGMENTATION}) if config.augment else None


def build(config: Config, data: Data) -> keras.Model:
    """The compiled model of a config."""
    network = getattr(keras_ttfs.applications, config.model)
    model = network(data.train.images.shape[1:], data.classes, **network_arguments(config, network))
    if config.whiten:
        whiten(model, data)
    if config.label_smoothing or config.logit_scale != 1.0:
        loss = SmoothedCrossentropy(data.classes, config.label_smoothing, config.logit_scale)
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.harden(noises.noise_of(noises.parsed(config.noise)))
    if config.teacher:
        model.learn_from(saved_model.load(config.teacher), lambda_kd=config.lambda_kd, temperature=config.temperature)
    if config.start_from:
        images = data_module.scale(data.train.images[:CALIBRATION_IMAGES]).numpy()
        begin_with(config.start_from, model, config, images)
    model.compile(make_optimizer(config), loss, metrics=["accuracy"], jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def whiten(model: keras.Model, data: Data) -> None:
    """Puts `initializers.whitening_filters` into the model's first convolution. Filters beyond them stay as they are.

    Raises ValueError where the model has no convolution.
    """
    convolution = next(iter(layers_of(model, keras.layers.Conv2D)), None)
    if convolution is None:
        raise ValueError(f"Expected a network with a convolution for whiten=True. Received: {model.name}")
    images = data_module.scale(data.train.images[:WHITENED]).numpy()
    kernel = keras.ops.convert_to_numpy(convolution.kernel).copy()
    filters = keras_ttfs.initializers.whitening_filters(images, kernel.shape)
    kernel[..., : filters.shape[-1]] = filters
    convolution.kernel.assign(kernel)


def network_arguments(config: Config, network: Callable[..., keras.Model]) -> dict[str, Any]:
    """The fields of a config that its network takes.

    Raises ValueError where a field that the network does not take is not at its default.
    """
    parameters = inspect.signature(network).parameters
    arguments = {}
    for name, field in FIELDS.items():
        value = getattr(config, name)
        if not field.metadata["network"]:
            continue
        if name in parameters:
            arguments[name] = value
        elif value != field.default:
            raise ValueError(
                f"Expected {name}={field.default!r} (its default): {config.model} has no {name}. "
                f"Received: {name}={value!r}"
            )
    return arguments


class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of `scale * logits` with label smoothing, of integer labels (Keras has it for one-hot labels only)."""

    def __init__(self, classes: int, smoothing: float, scale: float = 1.0):
        super().__init__(name="crossentropy")
        self.classes = classes
        self.smoothing = smoothing
        self.scale = scale

    def call(self, y_true, y_pred):
        target = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), self.classes)
        logits = y_pred if self.scale == 1.0 else self.scale * y_pred
        return keras.losses.categorical_crossentropy(target, logits, from_logits=True, label_smoothing=self.smoothing)


class LearningRate(keras.callbacks.Callback):
    """Sets the learning rate of every batch. It depends on the batch's number alone, so a resumed run goes on exactly."""

    def __init__(self, config: Config, batches: int):
        super().__init__()
        self.config = config
        self.batches = batches
        self.epoch = 0

    def rate(self, number: int) -> float:
        """The learning rate of a batch; batches count from 0, over all epochs."""
        config, total = self.config, self.config.epochs * self.batches
        if config.schedule == "constant":
            return config.learning_rate
        rise = config.warmup * total
        if number < rise:
            return config.learning_rate * (number + 1) / (rise + 1)
        past = (number - rise) / max(1.0, total - rise)
        if config.schedule == "triangular":
            return config.learning_rate * (1 - past)
        return config.learning_rate * (1 + math.cos(math.pi * past)) / 2

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate.assign(self.rate(self.epoch * self.batches + batch))


class StopOnNonFinite(keras.callbacks.Callback):
    """Raises FloatingPointError when the loss is NaN or infinite, looking every 20 batches and after each epoch."""

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


def evaluate(config: Config, model: keras.Model, data: Data, state: dict[str, Any]) -> dict[str, Any]:
    """The result of a trained model on the test split: accuracy, spikes, steps, energy, and where it comes from."""
    test = data.test()
    logs = model.evaluate(data_module.evaluation_batches(test, EVALUATION_BATCH), return_dict=True, verbose=0)
    kept = next(row for row in state["history"] if weights_file(row["epoch"]) == state["kept"])
    result = {
        "config": config.as_dict(),
        "data": data.description,
        "training_images": len(data.train),
        "test_images": len(test),
        "multiply_adds": multiply_adds(model),
        "epochs": state["epochs"],
        "kept_epoch": kept["epoch"] + 1,
        "val_accuracy": kept["val_accuracy"],
        "accuracy": logs["accuracy"],
        "loss": logs["loss"],
        "neurons": model.neurons if "spikes" in logs else None,
        "membranes": model.membranes if "spikes" in logs else None,
        "wall_time": round(state["seconds"], 1),
        "replicas": state["replicas"],
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
        reference = paper.ENERGY_REFERENCES[config.dataset]
        result.update(
            spike_rate=keras_ttfs.spike_rate(spikes, model.neurons, time_steps),
            time_steps=time_steps,
            decision_step=network.decision_step,
            truenorth_energy=keras_ttfs.energy.normalized_energy(spikes, time_steps, "truenorth", reference),
            spinnaker_energy=keras_ttfs.energy.normalized_energy(spikes, time_steps, "spinnaker", reference),
            layers=[
                {"layer": encoder.name, "neurons": encoder.neurons, "spikes": float(encoder.spikes.result())}
                for encoder in model.encoders
            ],
        )
    return result


def multiply_adds(model: keras.Model) -> int | None:
    """Multiply-adds of a network, or of the ReLU twin of a TTFS network, for one image.

    None of a network of spike times, whose layers have no nodes.
    """
    if layers_of(model, keras_ttfs.spike_time_layers.SpikeTimeEncode):
        return None
    nodes, _ = reader.read(model, "ttfs" if model.encoders else "relu")
    return operations.dense_counts(nodes).multiply_adds


def distributions(model: keras.Model, images: tf.Tensor) -> dict[str, Any]:
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
    with observed(model, observe):
        model(images, training=False)
    return {"samples": len(images), "edges": [float(edges[0]), float(edges[-1])], "layers": layers}


def _write(
    workdir: str, model: keras.Model, result: dict[str, Any], state: dict[str, Any], distribution: dict[str, Any]
) -> None:
    # With Keras' own loss and optimizer, so that loading needs keras_ttfs alone.
    compile_to_save(model, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    check_space(workdir, saved_bytes(model))
    with replaced(os.path.join(workdir, "model.keras")) as temporary:
        model.save(temporary)
    write_histories(workdir, state)
    plots.learning_curves(state["history"], os.path.join(workdir, "learning_curves.png"))
    if model.encoders:
        plots.spikes_by_layer(result["layers"], os.path.join(workdir, "spikes_by_layer.png"))
        plots.kernels(state["kernels"], os.path.join(workdir, "kernels.png"))
        write_json(os.path.join(workdir, "distributions.json"), distribution, indent=None)
    result["files_sha256"] = digests_of(workdir, SMALL_READERS)
    write_json(os.path.join(workdir, "result.json"), result, sealed=True)
