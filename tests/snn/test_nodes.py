"""The nodes of a network: frozen, shared by several networks; what they compute, and what they refuse."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_ttfs import TTFSActivation
from keras_ttfs.snn import CodedNetwork, SpikingNetwork, coded, codings, nodes, reader
from tests.networks import relu_model, vgg6_to_simulate

L = keras.layers


def test_folded_convolutions_give_the_potentials():
    rng = np.random.default_rng(3)
    inputs = keras.Input((5, 5, 2))
    x = TTFSActivation()(inputs)
    outputs = []
    for layer in (L.DepthwiseConv2D(3, depth_multiplier=2), L.SeparableConv2D(4, 3), L.Conv2D(4, 3)):
        norm = L.BatchNormalization()
        outputs.append(L.Flatten()(TTFSActivation()(norm(layer(x)))))
        norm.set_weights([rng.uniform(0.3, 1.0, size=weight.shape) for weight in norm.get_weights()])
        layer.bias.assign(rng.normal(size=layer.bias.shape))
    model = keras.Model(inputs, L.Dense(2)(L.Concatenate()(outputs)))
    values = rng.uniform(size=(3, 5, 5, 2)).astype("float32")
    network = SpikingNetwork.from_model(model)
    for node in network.nodes:
        if getattr(node, "layer", None) is None or len(node.shape) != 3:
            continue
        weights, bias = node.folded("float32")
        if isinstance(node.layer, L.DepthwiseConv2D):
            found = keras.ops.depthwise_conv(values, weights[0])
        elif isinstance(node.layer, L.SeparableConv2D):
            found = keras.ops.separable_conv(values, *weights)
        else:
            found = keras.ops.conv(values, weights[0])
        np.testing.assert_allclose(found + bias, node.function("float32")(values), rtol=1e-4, atol=1e-5)


def test_infinite_weights_are_refused():
    model = vgg6_to_simulate()
    model.get_layer("conv1_2").kernel.assign(np.full(model.get_layer("conv1_2").kernel.shape, np.nan))
    with pytest.raises(ValueError, match="Expected finite weights. Received: layer 'conv1_2'"):
        SpikingNetwork.from_model(model)


@pytest.mark.parametrize(("name", "value"), [("tau", np.nan), ("tau", 0.0), ("t_d", np.inf)])
def test_impossible_kernels_are_refused(name, value):
    model = vgg6_to_simulate()
    getattr(model.encoders[1], name).assign(value)
    with pytest.raises(
        ValueError, match=f"Expected a finite tau > 0 and a finite t_d .* of '{model.encoders[1].name}'"
    ):
        SpikingNetwork.from_model(model)


def relu_network():
    """Of every kind of node: normalised convolutions, max pooling, an average, a sum."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input((6, 6, 2))
    x = L.MaxPooling2D()(L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(inputs))))
    x = L.Add()([L.ReLU()(L.Conv2D(4, 3, padding="same")(x)), x])
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(L.AveragePooling2D(2, 1)(x))))


def fields_of(network_nodes):
    """Every field of every node: the objects themselves."""
    return [[getattr(node, field.name) for field in dataclasses.fields(node)] for node in network_nodes]


def same_objects(one, other):
    return all(a is b for a, b in zip(sum(one, []), sum(other, []), strict=True))


@pytest.mark.parametrize("make", [vgg6_to_simulate, relu_network])
def test_nodes_are_frozen(make):
    found, _ = reader.read(make(), "ttfs" if make is vgg6_to_simulate else "relu")
    for node in found:
        for field in dataclasses.fields(node):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(node, field.name, None)
        with pytest.raises(dataclasses.FrozenInstanceError):
            node.start = 3


SHARING = {
    "switch 8": lambda: codings.TemporalSwitchCoding(8),
    "switch 32": lambda: codings.TemporalSwitchCoding(32),
    "rate": codings.RateCoding,
}


def assert_same_coded_results(one, other):
    np.testing.assert_array_equal(one.logits, other.logits)
    np.testing.assert_array_equal(one.predictions_per_step, other.predictions_per_step)
    np.testing.assert_array_equal(one.spikes_per_step, other.spikes_per_step)
    np.testing.assert_array_equal(one.stopped_at, other.stopped_at)
    assert one.spikes == other.spikes and one.neurons == other.neurons
    assert (one.time_steps, one.input_encoders) == (other.time_steps, other.input_encoders)


@pytest.fixture(scope="module")
def alone():
    """`(model, inputs, {coding: result})`, each of a network that has its nodes for itself."""
    model, x = relu_network(), np.random.default_rng(0).uniform(size=(3, 6, 6, 2))
    results = {name: run_coded(coded_network(name, *reader.read(model, "relu"), x), x) for name in SHARING}
    assert len({result.time_steps for result in results.values()}) == len(SHARING)
    return model, x, results


def coded_network(name, found, output, x):
    return CodedNetwork(found, output, SHARING[name](), coded.activation_scales(found, x))


def run_coded(network, x):
    return network.run(x, time_steps=None if network.coding.time_window else 12, verbose=0)


@pytest.mark.parametrize("order", [1, -1])
def test_networks_of_several_codings_share_nodes(order, alone):
    model, x, expected = alone
    found, output = reader.read(model, "relu")
    before = fields_of(found)
    networks = {name: coded_network(name, found, output, x) for name in list(SHARING)[::order]}
    assert all(network.nodes is found for network in networks.values())
    # Once more, after all the others have run.
    for name, network in [*networks.items(), *networks.items()]:
        assert_same_coded_results(run_coded(network, x), expected[name])
    assert same_objects(fields_of(found), before)


@pytest.mark.parametrize("early", [(0, 5), (5, 0)])
def test_networks_of_several_schedules_share_nodes(early):
    hidden = [L.Dense(9), TTFSActivation(12), L.Dense(7), TTFSActivation(12)]
    model = keras.Sequential([keras.Input((6,)), TTFSActivation(12), *hidden, L.Dense(3)])
    x = np.random.default_rng(0).uniform(size=(5, 6))

    def run(network):
        return network.run(x, mode="clock", verbose=0)

    alone = {steps: run(SpikingNetwork(*reader.read(model), steps)) for steps in early}
    found, output = reader.read(model)
    before = fields_of(found)
    networks = {steps: SpikingNetwork(found, output, steps) for steps in early}
    for steps, network in [*networks.items(), *networks.items()]:
        result = run(network)
        np.testing.assert_array_equal(result.logits, alone[steps].logits)
        np.testing.assert_array_equal(result.predictions_per_step, alone[steps].predictions_per_step)
        for name, times in result.spike_times.items():
            np.testing.assert_array_equal(times, alone[steps].spike_times[name])
        assert result.phases == alone[steps].phases and result.decision_step == alone[steps].decision_step
    assert same_objects(fields_of(found), before)
    assert alone[0].decision_step > alone[5].decision_step
    assert alone[0].hidden_spikes > 0


def test_propagation_is_a_loop_over_the_nodes():
    rng = np.random.default_rng(0)
    inputs = keras.Input((3,))
    first, second, head = L.Dense(4), L.Dense(4, use_bias=False), L.Dense(2)
    a = L.ReLU(name="a")(first(inputs))
    b = L.ReLU(name="b")(second(a))
    model = keras.Model(inputs, head(L.Concatenate()([L.Add()([a, b]), b])))
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    found, output = reader.read(model, "relu")
    x, heard = rng.normal(size=(5, 3)), []

    def fire(population, potential):
        heard.append(population.name)
        return np.maximum(potential, 0.0) * 2.0

    values = nodes.propagate(found, nodes.functions_of(found, "float64"), x, fire)
    weights = [weight.astype("float64") for weight in model.get_weights()]
    of_a = np.maximum(x @ weights[0] + weights[1], 0.0) * 2.0
    of_b = np.maximum(of_a @ weights[2], 0.0) * 2.0
    expected = np.concatenate([of_a + of_b, of_b], axis=1) @ weights[3] + weights[4]
    assert heard == ["a", "b"] and list(values) == found
    np.testing.assert_array_equal(values[found[0]], x)
    for population, levels in zip(nodes.populations_of(found), (of_a, of_b)):
        np.testing.assert_allclose(values[population], levels, rtol=1e-12)
    np.testing.assert_allclose(values[output], expected, rtol=1e-12)


def test_propagation_from_populations_whose_potentials_are_not_wanted():
    found, output = reader.read(relu_model(), "relu")
    (last,) = nodes.populations_of(found)
    potentials = []

    def level(population, potential):
        potentials.append(potential)
        return np.ones((1, *population.shape))

    values = nodes.propagate([last, output], nodes.functions_of([output], "float64"), None, level)
    assert potentials == [None] and list(values) == [last, output]
    weights, bias = output.folded()
    np.testing.assert_allclose(values[output][0], weights[0].sum(0) + bias, rtol=1e-12)
