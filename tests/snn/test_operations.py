"""Synapses behind a spike, and operations of the same network without spikes, counted by hand."""

import keras
import numpy as np

from keras_ttfs import TTFSActivation
from keras_ttfs.snn import SpikingNetwork

L = keras.layers


def test_operations_of_a_known_network():
    inputs = keras.Input((4, 4, 1))
    x = TTFSActivation()(inputs)
    x = TTFSActivation()(L.Conv2D(3, 3, padding="same")(x))
    network = SpikingNetwork.from_model(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))))
    # Of the 9 taps, a corner's neuron reaches 4 places, a border's 6.
    ways = np.array([[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]])[..., None] * 3
    first, second = [counts[0] for counts in network.fan_out.values()]
    np.testing.assert_array_equal(first, ways)
    np.testing.assert_array_equal(second, np.full(48, 2))
    assert network.dense_operations == ways.sum() + 96
    assert network.analog_operations == 0
    one = np.zeros((2, 4, 4, 1))
    one[0, 0, 1] = 1.0
    result = network.run(one)
    hidden = result.spikes[network.populations[1].name]
    assert result.synaptic_operations == 6 * 3 / 2 + 2 * hidden


def test_operations_without_spikes_are_those_of_each_layer():
    inputs = keras.Input((4, 4, 3))
    x = TTFSActivation()(L.Conv2D(4, 1)(L.SeparableConv2D(5, 3, depth_multiplier=2)(inputs)))
    x = TTFSActivation()(L.SeparableConv2D(8, 3, padding="same")(x))
    x = L.GlobalAveragePooling2D()(L.Add()([x, x]))
    network = SpikingNetwork.from_model(keras.Model(inputs, L.Dense(10)(x)))
    analog = 2 * 2 * (9 * 3 * 2 + 6 * 5) + 2 * 2 * 5 * 4
    # Of a window of 3x3 at a corner of 2x2, four taps are inside.
    second = 2 * 2 * (4 * 4 + 4 * 8)
    assert network.analog_operations == analog
    assert network.dense_operations == analog + second + 2 * 2 * 8 + 2 * 2 * 8 + 8 * 10


def test_analog_operations_beside_spikes():
    inputs = keras.Input((8,))
    x = L.Dense(4)(L.Concatenate()([inputs, TTFSActivation()(inputs)]))
    network = SpikingNetwork.from_model(keras.Model(inputs, L.Dense(2)(TTFSActivation()(x))))
    assert network.analog_operations == 32
    assert network.dense_operations == 72
    result = network.run(np.ones((1, 8)))
    assert result.synaptic_operations == 32 + 2 * result.hidden_spikes
