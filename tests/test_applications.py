"""The networks of the paper: their neurons, their weights and their errors."""

import numpy as np
import pytest

from keras_ttfs.applications import spike_time_vgg6, vgg16


def test_vgg16_is_the_papers():
    model = vgg16()
    assert model.neurons == 280_586
    assert len(model.encoders) == 16
    assert len(model.batch_norm_pairs()) == 15
    assert vgg16(width=0.25).neurons == 72_458
    twin = vgg16(activation="relu")
    kernels = {"tau", "t_d"}
    shapes = [(w.path.split("/", 1)[-1], w.shape) for w in model.trainable_weights if w.name not in kernels]
    assert shapes == [(w.path.split("/", 1)[-1], w.shape) for w in twin.trainable_weights]
    assert twin.encoders == []
    assert len(vgg16(input_coding="analog").encoders) == 15


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"input_shape": (16, 16, 3)}, "Expected input_shape .* at least 32x32. Received: .*16"),
        ({"classes": 1}, "Expected classes to be an integer >= 2. Received: classes=1"),
        ({"width": 0}, "Expected width .* Received: width=0"),
        ({"input_coding": "rate"}, "Expected input_coding to be one of .* Received: input_coding='rate'"),
        ({"activation": "gelu"}, "Expected activation to be one of .* Received: activation='gelu'"),
        ({"dropout": 2}, r"Expected dropout in \[0, 1\]. Received: dropout=2"),
        ({"l2": -1}, "Expected l2 >= 0. Received: l2=-1"),
    ],
)
def test_bad_vgg_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        vgg16(**kwargs)


def test_vgg_of_spike_times():
    model = spike_time_vgg6(width=0.25, seed=1)
    assert model.neurons == 64 + 2 * 8 * 64 + 2 * 16 * 16 + 32 + 10
    again = spike_time_vgg6(width=0.25, seed=1)
    for one, other in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(one, other)
    for wrong in ("l2", "dropout", "input_coding", "tau_0"):
        with pytest.raises(TypeError, match=wrong):
            spike_time_vgg6(**{wrong: 0.5})
