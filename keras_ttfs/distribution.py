"""Training on several devices or machines: what all of them must share, and what each of them adds.

A TTFSModel that was made in the scope of a `tf.distribute.MirroredStrategy` (the devices of one machine) or of a
`MultiWorkerMirroredStrategy` (several machines) fits, evaluates and predicts as it does in one process. A replica is a
device, a worker is a process.
"""

import hashlib
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


def check_fit(model: keras.Model, arguments: Mapping[str, Any]) -> None:
    """Refuses a `fit` that would not train as one process does.

    Args:
        model: a compiled model.
        arguments: of `keras.Model.fit`, by name.

    Raises:
        ValueError: "Expected a MirroredStrategy or MultiWorkerMirroredStrategy. Received: ...", "Expected a batch_size that
            ... replicas share equally. Received: ...", or as `check_equal`.
    """
    strategy = model.distribute_strategy
    if type(strategy).__name__ not in UNDERSTOOD:
        raise ValueError(
            f"Expected a MirroredStrategy or MultiWorkerMirroredStrategy. Received: {type(strategy).__name__}"
        )
    replicas, size = strategy.num_replicas_in_sync, arguments.get("batch_size")
    if size is None and hasattr(arguments.get("x"), "shape"):
        size = 32  # Keras makes batches of so many where it is not told.
    if size is not None and size % replicas:
        raise ValueError(f"Expected a batch_size that {replicas} replicas share equally. Received: batch_size={size}")
    if keras_internals.several_workers(strategy):
        check_equal(strategy, _facts(model, arguments))


def _facts(model, arguments):
    """What all workers must have the same of, by names that tell them where to look."""
    given = {name: value for name, value in arguments.items() if isinstance(value, (int, float, str))}
    given.pop("verbose", None)
    ours = {name: getattr(model, name, None) for name in ("lambda_tr", "lambda_tb", "noise", "teaching")}
    if ours["teaching"]:
        ours["teaching"] = ours["teaching"].lambda_kd, ours["teaching"].temperature
    optimizer = model.optimizer.get_config() if model.optimizer else None
    arrays = {name: arguments.get(name) for name in ("x", "y", "sample_weight")}
    return {
        "layers": [(variable.path, variable.shape, variable.dtype) for variable in model.variables],
        "settings of the model": ours,
        "optimizer": optimizer,
        "arguments of fit": given,
        "weights": weights_of(model),
        **{name: np.asarray(value) for name, value in arrays.items() if hasattr(value, "shape")},
    }


def check_equal(strategy: tf.distribute.Strategy, facts: Mapping[str, Any]) -> None:
    """Refuses, on every worker, what is not the same on all of them.

    Args:
        strategy: any; only one of several workers compares anything.
        facts: `{name: value}`, of the same names on all workers; a value is bytes, an array, or what `repr` tells in full.

    Raises:
        ValueError: "Expected the same ... on every worker. Received: ...".
    """
    if not keras_internals.several_workers(strategy):
        return
    own = tf.constant([[_fingerprint(value) for value in facts.values()]], tf.int64)
    everyone = strategy.gather(own, axis=0).numpy()
    others = {
        name: np.flatnonzero(column != column[0]) for name, column in zip(facts, everyone.T) if len(set(column)) > 1
    }
    if others:
        told = ", ".join(f"{name} of worker {list(map(int, workers))}" for name, workers in others.items())
        raise ValueError(
            f"Expected the same {' and '.join(others)} on every worker. Received: others than worker 0's: {told}"
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

    Keras gives every replica the same part of the loss. The last batch of an epoch may be shared unequally, and counts right
    with this one.

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


def average_statistics(layers: Iterable[keras.layers.Layer]) -> None:
    """Gives all replicas the mean of their moving statistics, at the end of a training step.

    A batch normalisation that is not synchronised follows the samples of its own replica. Left to themselves, the replicas
    would evaluate and save different models.
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized]
    moving = [variable for norm in norms for variable in (norm.moving_mean, norm.moving_variance)]
    if moving:
        sizes = [math.prod(variable.shape) for variable in moving]
        own = tf.concat([tf.cast(tf.reshape(variable, [-1]), tf.float64) for variable in moving], axis=0)
        means = tf.split(replica.all_reduce(tf.distribute.ReduceOp.MEAN, own), sizes)
        for variable, mean in zip(moving, means):
            variable.assign(tf.cast(tf.reshape(mean, variable.shape), variable.dtype))


def on_all_replicas(strategy: tf.distribute.Strategy, function: Callable, *args: Any) -> float:
    """The mean over the replicas of what a function returns there, a number; the same on every worker.

    A count of spikes is no variable that all replicas share, so only a replica can add to it.
    """
    return float(strategy.reduce(tf.distribute.ReduceOp.MEAN, strategy.run(function, args=args), axis=None))
