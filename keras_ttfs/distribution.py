"""Training on several devices or machines: what all of them must share, and what each of them adds.

A TTFSModel that was made in the scope of a `tf.distribute.MirroredStrategy` (the devices of one machine) or of a
`MultiWorkerMirroredStrategy` (several machines) fits, evaluates and predicts as it does in one process: with
`TKBatchNorm(synchronized=True)` it learns the same weights. Unless norms are synchronised, each replica normalises by its own
samples; and it draws noise and dropout of its own samples. A replica is a device, a worker is a process.
"""

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import keras_internals

# By name, because the class of the default strategy has none that is public.
UNDERSTOOD = (
    "_DefaultDistributionStrategy",
    "OneDeviceStrategy",
    "MirroredStrategy",
    "CollectiveAllReduceStrategy",
    "MultiWorkerMirroredStrategy",
)


def check_fit(model: keras.Model, arguments: Mapping[str, Any], check_inputs: Callable[[], None]) -> None:
    """Refuses a `fit` that would not train as one process does.

    Args:
        model: a compiled model.
        arguments: of `keras.Model.fit`, by name.
        check_inputs: raises ValueError where the inputs are of the wrong kind.

    Raises:
        ValueError: of `check_inputs`; "Expected a MirroredStrategy or MultiWorkerMirroredStrategy. Received: ..."; for
            batches that the replicas cannot share, arrays that every worker would shuffle in its own way, generators on
            several workers, and an optimizer that clips, scales or gathers the gradients of each replica; and as
            `check_equal`.
    """
    strategy, wrong, facts = model.distribute_strategy, None, dict.fromkeys(FACTS)
    if type(strategy).__name__ not in UNDERSTOOD:
        raise ValueError(
            f"Expected a MirroredStrategy or MultiWorkerMirroredStrategy. Received: {type(strategy).__name__}"
        )
    try:
        check_inputs()
        if strategy.num_replicas_in_sync > 1:
            _check_batches(strategy, arguments)
            _check_optimizer(model.optimizer)
        if keras_internals.several_workers(strategy):
            facts = _facts(model, arguments)
    except Exception as error:
        if not keras_internals.several_workers(strategy):
            raise
        wrong = error
    # Before an error of this worker is raised, because the others wait for it.
    check_equal(strategy, facts, wrong)


def _check_batches(strategy, arguments):
    replicas, size, x = strategy.num_replicas_in_sync, arguments.get("batch_size"), arguments.get("x")
    several = keras_internals.several_workers(strategy)
    if isinstance(x, tf.distribute.DistributedDataset):
        # Who made it has shared it already.
        return
    if isinstance(x, tf.data.Dataset):
        shapes = [getattr(spec, "shape", None) for spec in tf.nest.flatten(x.element_spec)]
        # Only a data set that drops the remainder says how large its batches are.
        sizes = {shape[0] for shape in shapes if shape is not None and shape.rank}
        # Each replica takes as many, the last one what is left.
        if wrong := sorted(size for size in sizes if size and size <= (replicas - 1) * -(-size // replicas)):
            raise ValueError(
                f"Expected batches with samples for each of {replicas} replicas. Received: batches of {wrong[0]}"
            )
        return
    arrays = _arrays(x)
    if not arrays:
        if several:
            raise ValueError(
                "Expected arrays or a tf.data.Dataset, of which every worker takes its share. Received: "
                f"x={type(x).__name__}"
            )
        return
    size = size or 32  # Keras makes batches of so many where it is not told.
    if size % replicas:
        raise ValueError(f"Expected a batch_size that {replicas} replicas share equally. Received: batch_size={size}")
    # Keras trains on the first part, and validates on the rest.
    split = 0.0 if arguments.get("validation_data") is not None else arguments.get("validation_split") or 0.0
    samples = math.floor(len(arrays[0]) * (1.0 - split))
    if 0 < (rest := samples % size) <= size - size // replicas:
        raise ValueError(
            f"Expected samples for each of {replicas} replicas in every batch. Received: {rest} in the last one of {samples} "
            f"samples with batch_size={size}"
        )
    if several and arguments.get("shuffle", True):
        raise ValueError(
            "Expected shuffle=False, or a tf.data.Dataset that is shuffled with a seed: every worker would shuffle arrays in "
            "its own way. Received: arrays and shuffle=True"
        )


def _arrays(x):
    """The arrays of a structure, empty where it holds anything else."""
    leaves = [leaf for leaf in keras.tree.flatten(x) if leaf is not None]
    return leaves if all(hasattr(leaf, "shape") for leaf in leaves) else []


def _check_optimizer(optimizer):
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "Expected float32, float64 or mixed_bfloat16 with several replicas: each would scale its loss by what overflows "
            "in its own gradients. Received: a LossScaleOptimizer, as mixed_float16 has"
        )
    for name in ("clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps"):
        if getattr(optimizer, name, None) is not None:
            raise ValueError(
                f"Expected an optimizer without {name}: Keras uses it on the gradients of each replica, before it adds them "
                f"up. Received: {name}={getattr(optimizer, name)}"
            )


def check_step(model: keras.Model, y_pred: Any, training: bool) -> None:
    """Refuses a step whose loss is not that of one process, in a step of several replicas.

    Args:
        model: compiled, and called on the batch.
        y_pred: its outputs.
        training: whether it trains.

    Raises:
        ValueError: "Expected outputs without a mask ...", "Expected no activity_regularizer and no add_loss ...", and, when
            the loss is computed, as `check_loss`.
    """
    if any(keras_internals.is_masked(output) for output in keras.tree.flatten(y_pred)):
        raise ValueError(
            "Expected outputs without a mask with several replicas: Keras divides by the entries of each. Received: a mask"
        )
    if training:
        _check_layer_losses(model)
    keras_internals.observe_losses(model, check_loss)


def _check_layer_losses(model):
    """The replicas of one process are threads, which take turns at every synchronised norm."""
    below = keras_internals.layers_below(model)
    takes_turns = any(isinstance(layer, keras.layers.BatchNormalization) and layer.synchronized for layer in below)
    if not takes_turns or len(tf.distribute.get_strategy().extended.worker_devices) == 1:
        return
    if layers := keras_internals.layers_with_losses(model):
        raise ValueError(
            "Expected no activity_regularizer and no add_loss beside synchronised norms on several devices of one process, "
            f"which would take each other's losses. Received: layer {layers[0].name!r}"
        )


def check_loss(loss: keras.losses.Loss, values: Any) -> None:
    """Refuses a loss that Keras does not divide by the replicas.

    Args:
        loss: as Keras resolved what `compile` was given.
        values: what its `call` returned, of each sample; None before it was called.

    Raises:
        ValueError: "Expected a loss that is the mean over its samples ... Received: ...".
    """
    told = ""
    if type(loss).__call__ is not keras.losses.Loss.__call__:
        told = " with a __call__ of its own"
    elif loss.reduction not in ("sum_over_batch_size", "mean"):
        told = f" with reduction={loss.reduction!r}"
    elif values is None or len(values.shape):
        return
    raise ValueError(
        f"Expected a loss that is the mean over its samples with several replicas. Received: {loss.name}{told}"
    )


DATA = ("x", "y", "sample_weight")
# What all workers must have the same of, by names that tell them where to look.
FACTS = (
    "layers",
    "settings of the model",
    "compile",
    "arguments of fit",
    "callbacks",
    "weights",
    *DATA,
)


def _facts(model, arguments):
    """The values of FACTS."""
    given = {name: _simple(value) for name, value in arguments.items() if name not in ("verbose", *DATA, "callbacks")}
    given["validated"] = arguments.get("validation_data") is not None
    ours = {name: getattr(model, name, None) for name in ("lambda_tr", "lambda_tb", "noise", "temporal_kernels_frozen")}
    if teaching := getattr(model, "teaching", None):
        ours["teaching"] = teaching.lambda_kd, teaching.temperature, weights_of(teaching.teacher)
    if draws := getattr(model, "weight_draws", None):
        ours["draws of noise"] = np.asarray(draws.seed.state).tolist()
    layers = [(type(layer).__name__, _config(layer)) for layer in keras_internals.layers_below(model)]
    values = (
        [(variable.path, variable.shape, variable.dtype) for variable in model.variables] + layers,
        ours,
        model.get_compile_config(),
        given,
        [_steers(callback) for callback in _steering(arguments.get("callbacks"))],
        weights_of(model),
        *(_data(arguments.get(name)) for name in DATA),
    )
    return dict(zip(FACTS, values, strict=True))


# Callbacks of Keras that decide what is trained. Others may write to places of their own on each worker.
STEERING = tuple(
    getattr(keras.callbacks, name)
    for name in ("EarlyStopping", "LearningRateScheduler", "ReduceLROnPlateau", "SwapEMAWeights", "TerminateOnNaN")
)


def _kind(callback):
    """The class of STEERING or of this library that a callback is of, or None."""
    package = __name__.split(".")[0]
    kinds = (kind for kind in type(callback).__mro__ if kind in STEERING or kind.__module__.split(".")[0] == package)
    return next(kinds, None)


def _steering(callbacks):
    """The callbacks that have a `_kind`."""
    callbacks = getattr(callbacks, "callbacks", callbacks)
    callbacks = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    return [each for each in callbacks if _kind(each)]


def _steers(callback):
    """What a callback was made with, and the numbers of a subclass, whose texts may be paths of files of its own."""
    kind = _kind(callback)
    compared = {name: getattr(callback, name, None) for name in inspect.signature(kind).parameters}
    numbers = (bool, int, float, np.ndarray, np.generic)
    compared |= {name: value for name, value in vars(callback).items() if isinstance(value, numbers)}
    return kind.__name__, _simple(compared)


class _EqualRates(keras.callbacks.Callback):
    """Refuses learning rates of an epoch that are not the same on every worker. Only then are those of schedules known."""

    def on_epoch_begin(self, epoch, logs=None):
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        check_equal(self.model.distribute_strategy, {"learning rate": rate})


def with_equal_rates(callbacks: Any) -> Any:
    """Callbacks of `fit`, and behind them one that compares the learning rates of all workers."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        if not any(isinstance(each, _EqualRates) for each in callbacks.callbacks):
            callbacks.append(_EqualRates())
        return callbacks
    return [*keras.tree.flatten([] if callbacks is None else callbacks), _EqualRates()]


def _simple(value):
    """What of a value is the same in every process, in words: numbers, texts and arrays in any structure."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return _fingerprint(np.asarray(value))
    if isinstance(value, Mapping):
        return sorted((str(name), _simple(each)) for name, each in value.items() if name != "verbose")
    if isinstance(value, (list, tuple)):
        return [_simple(each) for each in value]
    return type(value).__name__


def _config(layer):
    """The config of a layer. One that cannot be saved has none, and can be trained."""
    try:
        return layer.get_config()
    except (NotImplementedError, TypeError):
        return _simple({name: value for name, value in vars(layer).items() if not name.startswith("_")})


def _data(value):
    """What tells data apart: arrays themselves, of a data set the shapes and how many there are."""
    if value is not None and (arrays := _arrays(value)):
        return [_fingerprint(np.asarray(array)) for array in arrays]
    if isinstance(value, tf.data.Dataset):
        return value.element_spec, int(value.cardinality())
    return type(value).__name__


def check_equal(strategy: tf.distribute.Strategy, facts: Mapping[str, Any], wrong: Exception | None = None) -> None:
    """Refuses, on every worker, what is not the same on all of them.

    Args:
        strategy: any; only one of several workers compares anything.
        facts: `{name: value}`, of the same names on all workers; a value is bytes, an array, or what `repr` tells in full.
        wrong: an error of this worker, which it raises when the others know of it.

    Raises:
        ValueError: "Expected the same ... on every worker. Received: ...".
    """
    if not keras_internals.several_workers(strategy):
        return
    facts = {"answer": None if wrong is None else str(wrong), **facts}
    own = tf.constant([[_fingerprint(value) for value in facts.values()]], tf.int64)
    everyone = strategy.gather(own, axis=0).numpy()
    if wrong is not None:
        raise wrong
    others = {
        name: np.flatnonzero(column != column[0]) for name, column in zip(facts, everyone.T) if len(set(column)) > 1
    }
    if "answer" in others:
        raise ValueError("Expected every worker to begin. Received: an error of another one; its output tells which.")
    if others:
        told = ", ".join(f"{name} of worker {list(map(int, workers))}" for name, workers in others.items())
        raise ValueError(
            f"Expected the same {' and '.join(others)} on every worker. Received: different from worker 0's: {told}"
        )


def _fingerprint(value):
    """A number that tells values apart."""
    if isinstance(value, np.ndarray):
        value = repr((value.shape, value.dtype.name)).encode() + np.ascontiguousarray(value).tobytes()
    data = value if isinstance(value, bytes) else repr(value).encode()
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big", signed=True)


def weights_of(model: keras.Model) -> bytes:
    """A digest of all weights of a model and its optimizer, seeds of random numbers included."""
    digest = hashlib.sha256()
    optimizer = getattr(model, "optimizer", None)
    for variable in [*model.variables, *(optimizer.variables if optimizer else ())]:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return digest.digest()


def share_of(samples: tf.Tensor) -> tf.Tensor | float:
    """The part of a global batch that this replica has, of the number of its samples; in a training step.

    Keras gives every replica the same part of the loss. With this one, the loss of an unequal last batch is weighted
    correctly.

    Raises:
        tf.errors.InvalidArgumentError: "Expected samples for every replica ...", in the step, where one has none.
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return 1.0
    samples = tf.cast(samples, tf.float64)
    total, empty = tf.unstack(
        replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([samples, tf.cast(samples == 0, tf.float64)]))
    )
    # Every replica fails, so that none waits for another.
    refused = tf.debugging.assert_equal(
        empty,
        tf.zeros_like(empty),
        "Expected samples for every replica in each training step. Received: a last batch of fewer samples than replicas "
        "need. Batch the data with drop_remainder=True",
    )
    with tf.control_dependencies([refused] if refused is not None else []):
        return samples / total


def average_statistics(layers: Iterable[keras.layers.Layer], share: tf.Tensor | float) -> None:
    """Gives all replicas the mean of their moving statistics, at the end of a training step.

    A batch normalisation that is not synchronised follows the samples of its own replica. Left to themselves, the replicas
    would evaluate and save different models.

    Args:
        layers: of a model.
        share: `share_of` this replica.
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized]
    moving = [
        variable for norm in norms for variable in norm.variables if variable.name.startswith(("moving", "renorm"))
    ]
    if moving:
        sizes = [math.prod(variable.shape) for variable in moving]
        own = tf.concat([tf.cast(tf.reshape(variable, [-1]), tf.float64) for variable in moving], axis=0)
        means = tf.split(replica.all_reduce(tf.distribute.ReduceOp.SUM, share * own), sizes)
        for variable, mean in zip(moving, means):
            variable.assign(tf.cast(tf.reshape(mean, variable.shape), variable.dtype))


def agreed(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    """A tensor that every worker has computed of the same weights: the mean, where machines round differently."""
    if not keras_internals.several_workers(strategy):
        return value
    return strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)


def on_all_replicas(strategy: tf.distribute.Strategy, function: Callable, *args: Any) -> float:
    """The mean over the replicas of what a function returns there, a number; the same on every worker.

    A count of spikes is no variable that all replicas share, so only a replica can add to it.
    """
    return float(strategy.reduce(tf.distribute.ReduceOp.MEAN, strategy.run(function, args=args), axis=None))
