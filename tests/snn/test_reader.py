"""Keras models read as nodes: what waits for what, what is folded, what is refused."""

import keras
import numpy as np
import pytest

from keras_ttfs import TemporalKernelDecode, TTFSActivation, TTFSEncode
from keras_ttfs.snn import SpikingNetwork
from tests.networks import vgg6_to_simulate

L = keras.layers


def test_layers_wait_for_their_slowest_input():
    inputs = keras.Input((4,))
    a = TTFSActivation(5, name="a")(inputs)
    b = TTFSActivation(7, name="b")(L.Dense(4)(a))
    c = TTFSActivation(3, name="c")(L.Dense(4)(L.Add()([a, b])))
    network = SpikingNetwork.from_model(keras.Model(inputs, L.Dense(2)(c)))
    assert {population.name: phase.start for population, phase in network.phases.items()} == {"a": 0, "b": 5, "c": 12}
    assert (network.decision_step, network.time_steps) == (15, 22)


def test_batch_normalisation_is_folded():
    model = vgg6_to_simulate()
    network = SpikingNetwork.from_model(model)
    assert not any("norm" in node.name for node in network.nodes)
    node = next(node for node in network.nodes if node.name == "dense1")
    (weights,), bias = node.folded()
    x = np.random.default_rng(0).uniform(size=(4, 256 // 4))
    expected = model.get_layer("dense1_norm")(model.get_layer("dense1")(x))
    np.testing.assert_allclose(x @ weights + bias, expected, rtol=1e-4, atol=1e-5)


def ends(*layers, shape=(8, 8, 2)):
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


REFUSED = [
    (lambda: ends(L.Dense(3)), "Expected a model with TTFSActivation or TTFSEncode layers"),
    (lambda: ends(TTFSActivation(), L.LayerNormalization(name="ln"), L.Dense(3)), "Received: layer 'ln'"),
    (lambda: ends(TTFSActivation(), L.Dense(3), L.ReLU(name="r"), L.Dense(2)), "layer 'r' .*keras_ttfs.convert"),
    (
        lambda: ends(TTFSActivation(), L.Dense(3, "relu", name="d"), L.Dense(2)),
        "layer 'd' with activation 'relu'.*convert",
    ),
    (lambda: ends(TTFSActivation(), L.Dense(3, "gelu", name="d"), L.Dense(2)), "layer 'd' with activation 'gelu'"),
    (lambda: ends(TTFSActivation(), L.Dense(3, "softmax", name="d"), L.Dense(2)), "softmax at the output only.*'d'"),
    (
        lambda: ends(TTFSActivation(), L.Conv2D(2, 3), L.MaxPooling2D(name="m"), TTFSActivation(), L.Dense(2)),
        "max pooling of",
    ),
    (lambda: ends(L.Conv2D(2, 3), TTFSActivation(name="last")), "end in membrane potentials .*'last'"),
    (lambda: ends(TTFSActivation(), lambda x: x + x, L.Dense(2)), "Write keras.layers.Add"),
    (lambda: ends(TTFSActivation(), L.Dense(2), shape=(None, 8, 2)), "Expected a fixed input shape"),
    (lambda: ends(TTFSActivation(), L.BatchNormalization(axis=1, name="b"), L.Dense(2)), "Expected axis=-1.*'b'"),
    (lambda: keras.Sequential([TTFSActivation(), L.Dense(2)]), "Functional or built Sequential model"),
    (lambda: ends(TTFSEncode(8), TemporalKernelDecode(9, name="t"), L.Dense(2)), "time_window of the encoder, 8.*'t'"),
    (
        lambda: ends(TTFSEncode(8, name="e"), lambda triple: L.Dense(2, name="d")(triple[0])),
        "TemporalKernelDecode.*'d'",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_models_without_a_spiking_network_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=f"(?s)Expected.*{message}|{message}"):
        SpikingNetwork.from_model(make())
