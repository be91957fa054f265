"""Training on several workers is training on one: real processes that reduce gradients over the loopback."""

import os
import pathlib
import re
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_ttfs
from experiments import ports
from keras_ttfs import distribution
from tests import two_workers

pytestmark = pytest.mark.slow
LOSSES_OF_LAYERS = "frozen, with losses of layers"
EXACT = ("plain", two_workers.WATCHED, LOSSES_OF_LAYERS, "taught to a budget")
# On two devices of one process as well.
MIRRORED = (two_workers.WATCHED, "taught to a budget", "fused")
# Each replica has statistics or draws of its own, so that one process learns something else.
OF_REPLICAS = ("unsynchronised", "noise")
OTHER = ("fused", *OF_REPLICAS)
WORKER = pathlib.Path(two_workers.__file__)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """`{case: {"alone" | "0" | "1": what it saved}}` of every case."""
    folder, port = tmp_path_factory.mktemp("workers"), ",".join(map(str, ports.free_ports(2)))
    cases = [*EXACT, *OTHER, *two_workers.OF_KERAS, *two_workers.REFUSED]
    of_each = {"alone": [*EXACT, "fused"], "mirrored": [*MIRRORED, *OF_REPLICAS, LOSSES_OF_LAYERS]}
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parent.parent), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("TF_CONFIG", None)
    started = {
        index: subprocess.Popen(
            [sys.executable, WORKER, index, port, folder, *of_each.get(index, cases)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in ("alone", "mirrored", "0", "1")
    }
    try:
        for index, process in started.items():
            output, _ = process.communicate(timeout=600)
            assert process.returncode == 0, f"worker {index}:\n{output[-4000:]}"
    finally:
        for process in started.values():
            process.kill()
    return {
        case: {path.suffixes[-2][1:]: dict(np.load(path)) for path in folder.glob(f"{case}.*.npz")} for case in cases
    }


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return {name: np.abs(one[name].astype(float) - other[name]).max() for name in one if one[name].size}


@pytest.mark.parametrize("case", EXACT)
def test_two_workers_learn_what_one_process_learns(found, case):
    """24 steps in float64, with synchronised norms: weights, logs, kernels and predictions."""
    for name, difference in largest_difference(found[case]["alone"], found[case]["0"]).items():
        assert difference < 1e-12, name


@pytest.mark.parametrize("case", MIRRORED)
def test_two_devices_learn_what_one_learns(found, case):
    for name, difference in largest_difference(found[case]["alone"], found[case]["mirrored"]).items():
        assert difference < (2e-6 if case == "fused" else 1e-12), name


def test_devices_of_a_process_would_mix_the_losses_of_layers(found):
    error = str(found[LOSSES_OF_LAYERS]["mirrored"]["error"])
    assert "Expected no activity_regularizer and no add_loss beside synchronised norms on several devices" in error
    assert "Received: layer 'conv2d" in error


@pytest.mark.parametrize("case", OF_REPLICAS)
def test_two_devices_learn_what_two_workers_learn(found, case):
    for name, difference in largest_difference(found[case]["mirrored"], found[case]["0"]).items():
        assert difference < 1e-12, name


@pytest.mark.parametrize("case", EXACT + OTHER)
def test_both_workers_end_with_the_same_model(found, case):
    assert not any(largest_difference(found[case]["0"], found[case]["1"]).values())


def test_the_gradient_of_synchronised_norms_is_that_of_the_whole_batch(found):
    """Three steps in float32, where TKBatchNorm and TTFSActivation are one function."""
    for name, difference in largest_difference(found["fused"]["alone"], found["fused"]["0"]).items():
        assert difference < 2e-6, name


def test_spikes_and_terms_are_those_of_one_process(found):
    watched = found[two_workers.WATCHED]["0"]
    logs = {name for name in watched if name.startswith("log ")}
    assert {"log p_tb", "log reg_tr", "log val_spikes", "log val_spikes_per_neuron"} <= logs
    assert np.all(watched["log val_spikes"] > 0)


def test_cases_are_cases(found):
    """Each differs from the plain one, so that a case without its part would be seen."""
    plain = found["plain"]["0"]
    for case in (*EXACT[1:], *OF_REPLICAS):
        other = found[case]["0"]
        assert any(np.any(plain[name] != other[name]) for name in plain if name.startswith("weight")), case


@pytest.mark.parametrize(
    "case, message",
    {
        "settings": "Expected the same settings of the model on every worker.*worker \\[1\\]",
        "arrays": "Expected the same x on every worker",
        "batch": "Expected a batch_size that 2 replicas share equally. Received: batch_size=13",
        "last batch": "Expected samples for each of 2 replicas in every batch. Received: 1 in the last one of 13 samples",
        "shuffled": "Expected shuffle=False, or a tf.data.Dataset that is shuffled with a seed",
        "dict": "Expected shuffle=False, or a tf.data.Dataset that is shuffled with a seed",
        "batch of a data set": "Expected batches with samples for each of 2 replicas. Received: batches of 1",
        "generator": "Expected arrays or a tf.data.Dataset, of which every worker takes its share. Received: x=.*iterator",
        "clipped": "Expected an optimizer without clipnorm: .* Received: clipnorm=1.0",
        "half": "Expected float32, float64 or mixed_bfloat16 with several replicas.* Received: a LossScaleOptimizer",
        "scheduler": "Expected the same learning rate on every worker. Received: .*worker \\[1\\]",
        "scalar": "Expected a loss that is the mean over its samples with several replicas. Received: mean_square",
        "callbacks": "Expected the same callbacks on every worker",
        "own callback": "Expected the same callbacks on every worker",
        "empty": "Expected samples for every replica in each training step",
    }.items(),
)
def test_every_worker_says_what_is_wrong(found, case, message):
    for index in ("0", "1"):
        with pytest.raises(ValueError, match=message):
            raise ValueError(str(found[case][index]["error"]))


@pytest.mark.parametrize(
    "case, message",
    zip(
        two_workers.OF_KERAS,
        ("unsupported type.*PerReplica", "Invalid reduction dimension 0 for input with 0 dimensions"),
    ),
)
def test_keras_still_fails_without_us(found, case, message):
    """Where this fails, Keras has repaired keras#20585: take that half out of `keras_internals.DistributedModel`."""
    error = str(found[case]["0"].get("error", "none"))
    assert re.search(message, error, re.DOTALL), error


def test_an_error_of_one_worker_is_told_to_the_others(found):
    told = [str(found["one alone"][index]["error"]) for index in ("0", "1")]
    assert "Expected every worker to begin. Received: an error of another one" in told[0]
    assert "Expected inputs" in told[1]


def test_other_strategies_are_refused():
    class ParameterServerStrategyV2:
        num_replicas_in_sync = 1

    model = types.SimpleNamespace(distribute_strategy=ParameterServerStrategyV2())
    with pytest.raises(ValueError, match="Expected a MirroredStrategy or MultiWorkerMirroredStrategy. Received: Param"):
        distribution.check_fit(model, {}, lambda: None)


def mean_of_everything(y, outputs):
    return keras.ops.mean(keras.ops.square(outputs))


class OwnLoss(keras.losses.Loss):
    def call(self, y, outputs):
        classes = keras.ops.one_hot(keras.ops.cast(y, "int32"), 3, dtype=outputs.dtype)
        return keras.ops.mean(keras.ops.square(outputs - classes), axis=-1)


class OwnMean(keras.losses.Loss):
    call = staticmethod(mean_of_everything)


class OwnCall(keras.losses.MeanSquaredError):
    def __call__(self, y, outputs, sample_weight=None):
        return mean_of_everything(y, outputs)


SPARSE, TWO = "sparse_categorical_crossentropy", [np.array([0, 2]), np.array([0, 1])]
# `{name: (labels, loss)}`. Labels up to 2 are classes, others are of one output.
MEANS = {
    "binary, labels without an axis": (np.array([0, 1]), "binary_crossentropy"),
    "alias": (np.array([0, 2]), "crossentropy"),
    "function": (np.array([0, 2]), lambda y, outputs: keras.losses.sparse_categorical_crossentropy(y, outputs)),
    "class": (np.array([0, 2]), OwnLoss()),
    "one for two outputs": ([np.array([0, 2]), np.array([1, 2])], SPARSE),
    "a list": (TWO, [SPARSE, "mse"]),
    "names": (dict(zip("ab", TWO)), {"a": SPARSE, "b": "mse"}),
}
NO_MEANS = {
    "function": (np.array([0, 2]), mean_of_everything, "mean_of_everything"),
    "class": (np.array([0, 2]), OwnMean(), "own_mean"),
    "__call__": (np.array([0, 1]), OwnCall(), "mean_squared_error with a __call__ of its own"),
    "one of two": (TWO, [SPARSE, mean_of_everything], "mean_of_everything"),
    **{
        f"reduction {reduction}": (
            TWO,
            [SPARSE, keras.losses.MeanSquaredError(reduction=reduction)],
            f"mean_squared_error with reduction={reduction!r}",
        )
        for reduction in ("sum", "mean_with_sample_weight", None)
    },
}


def check_losses(labels, loss, policy):
    """A step's look at the losses of a model."""
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((5,))
    units = [3 if 2 in y else 1 for y in keras.tree.flatten(labels)]
    outputs = [keras.layers.Dense(number, "sigmoid", name=name)(inputs) for number, name in zip(units, "ab")]
    model = keras_ttfs.TTFSModel(inputs, outputs if len(outputs) > 1 else outputs[0])
    model.compile("sgd", loss, auto_scale_loss=False)
    x = np.ones((2, 5), "float32")
    outputs = model(x)
    distribution.check_step(model, outputs, training=True)
    model.compute_loss(x=x, y=labels, y_pred=outputs)


@pytest.mark.parametrize("policy", ("float32", "mixed_bfloat16"))
@pytest.mark.parametrize("name", MEANS)
def test_losses_that_replicas_share(name, policy):
    check_losses(*MEANS[name], policy)


@pytest.mark.parametrize("name", NO_MEANS)
def test_losses_that_replicas_cannot_share(name):
    labels, loss, told = NO_MEANS[name]
    with pytest.raises(ValueError, match=f"Expected a loss that is the mean.* Received: {told}$"):
        check_losses(labels, loss, "float32")


def test_one_process_shares_with_nobody():
    assert distribution.share_of(tf.constant(3)) == 1.0
    distribution.check_equal(tf.distribute.get_strategy(), {"anything": 1})


RAY = """
import json, os, sys
import numpy as np, ray
from ray.train import ScalingConfig
from ray.train.tensorflow import TensorflowTrainer

root, folder = sys.argv[1:]

def train(config):
    sys.path.insert(0, root)
    import tensorflow as tf
    from tests import two_workers

    index = str(json.loads(os.environ["TF_CONFIG"])["task"]["index"])
    found = two_workers.trained(tf.distribute.MultiWorkerMirroredStrategy(), "plain", index)
    np.savez(os.path.join(folder, index), **found)

ray.init(num_cpus=2, include_dashboard=False)
TensorflowTrainer(train, scaling_config=ScalingConfig(num_workers=2)).fit()
"""


def test_ray_train_ends_with_the_same_model(found, tmp_path):
    pytest.importorskip("ray.train.tensorflow", reason="Ray is not installed")
    command = [sys.executable, "-c", RAY, WORKER.parent.parent, tmp_path]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    for index in ("0", "1"):
        assert not any(largest_difference(dict(np.load(tmp_path / f"{index}.npz")), found["plain"][index]).values())
