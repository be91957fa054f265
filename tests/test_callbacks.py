"""The schedule of the relaxation, and the history of temporal kernels."""

import keras
import numpy as np
import pytest

from experiments.files import write_csv
from keras_ttfs import RelaxationSchedule, TemporalKernelHistory, TTFSActivation, TTFSModel
from tests import reference
from tests.networks import vgg6_to_train

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).uniform(size=(48, 8, 8, 1)).astype("float32")
Y = np.arange(48) % 10


def test_relaxation_schedule():
    schedule = RelaxationSchedule(target_epoch=4)
    assert [schedule.probability(epoch) for epoch in range(6)] == [0.75, 0.5, 0.25, 0.0, 0.0, 0.0]
    inner = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4), TTFSActivation()])
    inputs = keras.Input((8, 8, 1))
    model = TTFSModel(inputs, keras.layers.Dense(10)(inner(TTFSActivation()(inputs))))
    model.compile("adam", LOSS)
    traces, seen, traced = [], [], []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            traced.append(len(traces))
            seen.append([float(encoder.relaxation) for encoder in model.encoders])

    train_step = model.train_step
    model.train_step = lambda data: (traces.append(1), train_step(data))[1]
    model.fit(X, Y, epochs=5, verbose=0, batch_size=16, callbacks=[schedule, Watch()])
    np.testing.assert_allclose(seen, [[p, p] for p in (0.75, 0.5, 0.25, 0.0, 0.0)])
    assert traced[-1] == traced[0], "nothing is traced again after the first epoch"
    with pytest.raises(ValueError, match="Expected target_epoch to be an integer >= 1 .* Received: target_epoch=0"):
        RelaxationSchedule(0)


@pytest.mark.slow
def test_temporal_kernel_history(tmp_path):
    history = TemporalKernelHistory(X[:10])
    model = vgg6_to_train()
    model.compile("adam", LOSS)
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[history])
    arrays = history.arrays()
    assert arrays["tau"].shape == (3, 6)
    assert list(arrays["layer"]) == [encoder.name for encoder in model.encoders]
    np.testing.assert_array_equal(arrays["tau"][-1], [float(encoder.tau) for encoder in model.encoders])
    np.testing.assert_array_equal(arrays["z_min"][-1], [float(encoder.z_min) for encoder in model.encoders])
    assert np.all(np.isnan(arrays["gamma_mean"][:, 0])), "no batch normalisation before the input's encoder"
    gamma = np.array(model.get_layer("dense1_norm").gamma)
    assert arrays["gamma_max"][-1, -1] == gamma.max()
    z = np.array(keras.Model(model.inputs, model.encoders[3].input)(X[:10]), "float64")
    tau, t_d = float(model.encoders[3].tau), float(model.encoders[3].t_d)
    z_min, z_max = np.exp(-(31 - t_d) / tau), np.exp(t_d / tau)
    np.testing.assert_allclose(arrays["minimum_error"][-1, 3], np.mean(np.maximum(z_min - z, 0)), rtol=1e-5)
    np.testing.assert_allclose(arrays["maximum_error"][-1, 3], np.mean(np.maximum(z - z_max, 0)), rtol=1e-5, atol=1e-7)
    z_hat = reference.level(reference.spike_time(z, tau, t_d, 32), tau, t_d, 32)
    precision = np.where((z >= z_min) & (z <= z_max), z - z_hat, 0).mean()
    np.testing.assert_allclose(arrays["precision_error"][-1, 3], precision, rtol=1e-4)
    path = tmp_path / "kernels.csv"
    write_csv(str(path), history.rows)
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + 3 * 6
    assert lines[0].startswith("epoch,layer,tau,t_d,z_min,z_max,")
