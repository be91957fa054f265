"""The nodes of a network: what they compute, and what they refuse."""

import keras
import numpy as np
import pytest

from keras_ttfs import TTFSActivation
from keras_ttfs.snn import SpikingNetwork
from tests.networks import vgg6_to_simulate

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
