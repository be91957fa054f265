"""Weights as package data: what is written comes back, other networks are refused, and what ships is what it says."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_ttfs import pretrained
from keras_ttfs.applications import fast_vgg

ARGUMENTS = {"input_shape": [16, 16, 3], "classes": 5, "width": 0.1, "time_window": 16}
SHIPPED = ("cifar10", "cifar100")


def network(**options):
    return fast_vgg((16, 16, 3), 5, width=0.1, **options)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of weights with one file, `toy`, and the model that it is of."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    model = network(seed=1)
    for encoder in model.encoders:
        encoder.tau.assign(encoder.tau + 0.1)
    pretrained.save(model, tmp_path / "fast_vgg_toy.npz", ARGUMENTS, {"accuracy": 0.5})
    return tmp_path, model


def test_weights_come_back(folder):
    path, model = folder
    assert pretrained.names("fast_vgg") == ("toy",)
    assert pretrained.describe("fast_vgg", "toy") == {"arguments": ARGUMENTS, "result": {"accuracy": 0.5}}
    read = network(weights="toy", seed=2)
    for ours, theirs in zip(read.weights, model.weights, strict=True):
        ours, theirs = (keras.ops.convert_to_numpy(weight) for weight in (ours, theirs))
        wanted = theirs.astype("float16").astype("float32") if theirs.ndim > 1 else theirs
        np.testing.assert_array_equal(ours, wanted)


def test_the_same_weights_give_the_same_bytes(folder):
    path, model = folder
    pretrained.save(model, path / "again.npz", ARGUMENTS, {"accuracy": 0.5})
    assert (path / "again.npz").read_bytes() == (path / "fast_vgg_toy.npz").read_bytes()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"time_window": 8, "tau_0": 2.5}, "Expected time_window=16, for which the weights 'toy' were trained"),
        ({"classes": 4}, "Expected classes=5"),
        ({"width": 0.2}, "Expected width=0.1"),
        ({"input_shape": (8, 8, 3)}, r"Expected input_shape=\(16, 16, 3\)"),
        ({"weights": "imagenet"}, r"Expected weights to be None or one of \('toy',\)"),
    ],
)
def test_refuses_other_networks(folder, wrong, message):
    arguments = {"input_shape": (16, 16, 3), "classes": 5, "width": 0.1, "weights": "toy"} | wrong
    with pytest.raises(ValueError, match=message):
        fast_vgg(**arguments)


def test_refuses_weights_that_float16_cannot_hold(folder):
    path, model = folder
    kernel = next(weight for weight in model.weights if len(weight.shape) > 1)
    kernel.assign(kernel * 1e8)
    with pytest.raises(ValueError, match="Expected finite weights within float16"):
        pretrained.save(model, path / "large.npz", ARGUMENTS, {})


def test_what_ships():
    assert pretrained.names("fast_vgg") == SHIPPED
    for name in SHIPPED:
        assert pretrained.path_of("fast_vgg", name).stat().st_size < 4e6


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_load_offline_in_a_fresh_process(name):
    description = pretrained.describe("fast_vgg", name)
    classes = description["arguments"]["classes"]
    program = (
        "import numpy as np, keras_ttfs\n"
        f"model = keras_ttfs.applications.fast_vgg(classes={classes}, weights={name!r})\n"
        "result = keras_ttfs.snn.SpikingNetwork.from_model(model).run(np.full((2, 32, 32, 3), 0.5), verbose=0)\n"
        "print(result.logits.shape, result.hidden_spikes > 0)\n"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == f"(2, {classes}) True", done.stderr
