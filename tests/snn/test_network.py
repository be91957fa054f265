"""The spiking network of a model: its timing, its weights, its arguments."""

import numpy as np
import pytest

from keras_ttfs import applications
from keras_ttfs.snn import SpikingNetwork
from tests.networks import IMAGES, vgg6_to_simulate


def test_timing_of_the_phases():
    network = SpikingNetwork.from_model(applications.vgg16(width=0.05))
    assert (network.decision_step, network.time_steps) == (16 * 32, 17 * 32)
    assert [network.phases[population].start for population in network.populations] == list(range(0, 16 * 32, 32))
    analog = SpikingNetwork.from_model(applications.vgg16(width=0.05, input_coding="analog"))
    assert (analog.decision_step, analog.time_steps) == (16 * 32, 17 * 32)
    assert analog.input_encoders == ()
    assert SpikingNetwork.from_model(applications.vgg16()).neurons == 280_586


@pytest.mark.slow
def test_network_of_a_saved_model_in_a_fresh_process(tmp_path, in_fresh_process):
    model = vgg6_to_simulate()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", IMAGES)
    script = (
        "import sys, numpy, keras_ttfs\nfrom keras.models import load_model\n"
        "network = keras_ttfs.snn.SpikingNetwork.from_model(load_model(sys.argv[1]))\n"
        "numpy.save(sys.argv[3], network.run(numpy.load(sys.argv[2])).logits)\n"
    )
    paths = [tmp_path / name for name in ("model.keras", "x.npy", "logits.npy")]
    in_fresh_process(script, *paths)
    np.testing.assert_array_equal(np.load(paths[2]), SpikingNetwork.from_model(model).run(IMAGES).logits)


def test_network_keeps_the_weights_it_was_made_with():
    model = vgg6_to_simulate()
    network = SpikingNetwork.from_model(model)
    twin = SpikingNetwork.from_model(model)
    before = network.run(IMAGES)
    for weight in model.weights:
        weight.assign(weight * 1.1 if "float" in str(weight.dtype) else weight)
    np.testing.assert_array_equal(twin.run(IMAGES).logits, before.logits)
    assert (SpikingNetwork.from_model(model).run(IMAGES).logits != before.logits).any()


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (IMAGES, {"mode": "both"}, "Expected mode to be one of"),
        (IMAGES, {"dtype": "float16"}, "Expected dtype to be one of"),
        (IMAGES, {"batch_size": 0}, "Expected batch_size to be an integer >= 1"),
        (IMAGES[0], {}, r"Expected inputs of shape \(samples, 8, 8, 1\). Received: shape \(8, 8, 1\)"),
        (IMAGES[:0], {}, "Expected inputs of shape"),
        (np.full_like(IMAGES, np.nan), {}, "Expected finite inputs"),
        (IMAGES, {"record": {"logits": [0]}}, "Expected mode='clock' to record"),
        (IMAGES, {"mode": "clock", "record": {"nobody": [0]}}, "Expected the layers to record among .*'nobody'"),
        (
            IMAGES,
            {"mode": "clock", "record": {"logits": [10]}},
            r"Expected membranes of 'logits' in 0..9. Received: \[10\]",
        ),
    ],
)
def test_wrong_arguments_of_run(x, options, message):
    with pytest.raises(ValueError, match=message):
        SpikingNetwork.from_model(vgg6_to_simulate()).run(x, **options)
