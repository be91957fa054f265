"""Keras models read as nodes: what waits for what, what is folded, what is refused."""

import dataclasses
import re

import keras
import numpy as np
import pytest

import keras_ttfs
from keras_ttfs import TemporalKernelDecode, TTFSActivation, TTFSEncode
from keras_ttfs.snn import SpikingNetwork, nodes, reader, understood
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
    (lambda: ends(TTFSActivation(), L.Conv2D(2, 3), L.MaxPooling2D(name="m"), L.Dense(2)), "max pooling of.*'m'"),
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


def unfolded():
    """Two normalised synapses; the first of them feeds a sum as well, so that its normalisation stays on its own."""
    rng = np.random.default_rng(0)

    def norm(name, source):
        values = [rng.uniform(0.5, 1.5, 3) for _ in range(4)]
        return nodes.Synapse(name, (source,), (3,), norms=(nodes.Norm(*values, 1e-3),))

    start = nodes.Input("", (), (3,))
    layers = [L.Dense(3) for _ in range(2)]
    one = nodes.Synapse("one", (start,), (3,), layers[0], (rng.normal(size=(3, 3)),), rng.normal(size=3))
    one_norm = norm("one_norm", one)
    both = nodes.Sum("both", (one, one_norm), (3,), L.Add())
    two = nodes.Synapse("two", (both,), (3,), layers[1], (rng.normal(size=(3, 3)),))
    two_norm = norm("two_norm", two)
    last = norm("last", two_norm)
    return [start, one, one_norm, both, two, two_norm, last], last


def test_folding_leaves_the_given_nodes_untouched():
    given, output = unfolded()
    listed = list(given)
    fields = [[getattr(node, field.name) for field in dataclasses.fields(node)] for node in given]
    folded, last = reader.fold(given, output)
    assert [node.name for node in folded] == ["", "one", "one_norm", "both", "two"]
    assert last is folded[-1] and len(last.norms) == 2 and len(output.norms) == 1
    assert all(a is b for a, b in zip(given, listed, strict=True))
    for node, own in zip(given, fields):
        assert all(getattr(node, field.name) is value for field, value in zip(dataclasses.fields(node), own))
    x = np.random.default_rng(1).normal(size=(4, 3))
    values = [
        nodes.propagate(some, nodes.functions_of(some, "float64"), x, None)[end]
        for some, end in ((given, output), (folded, last))
    ]
    np.testing.assert_allclose(*values, rtol=1e-12)


def test_supported_layers_are_those_that_the_documentation_names():
    described = re.search(r"model: (.*?)early_firing:", SpikingNetwork.from_model.__doc__, re.DOTALL).group(1)

    def is_layer(name):
        found = getattr(keras_ttfs, name, getattr(L, name, None))
        return isinstance(found, type) and issubclass(found, L.Layer) and not issubclass(found, keras.Model)

    documented = {name for name in re.findall(r"\w+", described) if is_layer(name)}
    supported = understood.supported_layers("ttfs").removesuffix(", and a softmax at the output").split(", ")
    # The documentation names the most common ones, and the page with the tables of all.
    assert documented <= set(supported) and len(documented) >= 6 and "snn.understood" in described
    for kind in (*understood.SETTINGS, *understood.NOTHING_AT_INFERENCE, *understood.OWN):
        assert supported.count(kind.__name__) == 1
