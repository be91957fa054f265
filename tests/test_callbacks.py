"""The schedule of the relaxation, and the history of temporal kernels."""

import keras
import numpy as np
import pytest

from experiments.files import write_csv
from keras_ttfs import (
    FreezeTemporalKernels,
    RelaxationSchedule,
    TemporalKernelHistory,
    TKBatchNorm,
    TTFSActivation,
    TTFSModel,
)
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


def _two_layers(**kwargs):
    """A model and what its training is compared by: both kernels move, gamma and beta too."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    z = keras.layers.Dense(12)(keras.layers.Flatten()(TTFSActivation(name="in")(inputs)))
    hidden = TTFSActivation(name="hid", time_window=8, tau_0=3.0)(TKBatchNorm()(z))
    return TTFSModel(inputs, keras.layers.Dense(10)(hidden), **kwargs)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("eager", [False, True])
def test_frozen_kernels_wait_and_the_rest_learns(optimizer, eager):
    def trained(callbacks, lambda_tr, lambda_tb, epochs, model=None, initial_epoch=0):
        model = model or _two_layers(lambda_tr=lambda_tr, lambda_tb=lambda_tb)
        if not model.compiled:
            made = {"adam": keras.optimizers.Adam(0.01), "adamw": keras.optimizers.AdamW(0.01)}
            made["sgd"] = keras.optimizers.SGD(0.1, momentum=0.9)
            model.compile(made[optimizer], LOSS, run_eagerly=eager)
        history = model.fit(
            X, Y, epochs=epochs, initial_epoch=initial_epoch, callbacks=callbacks, verbose=0, shuffle=False,
            validation_data=(X, Y),
        )  # fmt: skip
        return model, history.history

    kernels = TemporalKernelHistory()
    model, logs = trained([FreezeTemporalKernels(2), kernels], 0.1, 0.1, 3)
    tau = kernels.arrays()["tau"]
    np.testing.assert_array_equal(tau[:2], [[10, 3], [10, 3]])
    assert np.all(tau[2] != tau[1]) and not model.temporal_kernels_frozen
    assert np.all(np.array(logs["p_tb"]) != 0)
    # As long as they wait, it is the model without the two terms whose kernels are not trained.
    plain = _two_layers(lambda_tr=0.0, lambda_tb=0.0)
    for encoder in plain.encoders:
        encoder.tau.trainable = encoder.t_d.trainable = False
    plain, expected = trained([], 0.0, 0.0, 2, plain)
    np.testing.assert_allclose(logs["loss"][:2], expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(logs["val_loss"][:2], expected["val_loss"], rtol=1e-6)
    # An interrupted run goes on as it would have.
    two, _ = trained([FreezeTemporalKernels(2)], 0.1, 0.1, 2)
    assert not two.temporal_kernels_frozen
    two, _ = trained([FreezeTemporalKernels(2)], 0.1, 0.1, 3, two, initial_epoch=2)
    for ours, theirs in zip(two.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    # Trained kernels stay too: the optimizer's memory of earlier steps does not move them.
    before = [float(encoder.tau) for encoder in model.encoders]
    model.fit(X, Y, epochs=2, callbacks=[FreezeTemporalKernels(2)], verbose=0)
    assert [float(encoder.tau) for encoder in model.encoders] == before != [10.0, 3.0]
    # An interrupted fit leaves nothing frozen.

    class Interrupts(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=2, callbacks=[FreezeTemporalKernels(2), Interrupts()], verbose=0)
    assert not model.temporal_kernels_frozen
    model.fit(X, Y, verbose=0)
    assert all(float(encoder.tau) != tau for encoder, tau in zip(model.encoders, before))


def test_only_a_ttfs_model_freezes_kernels():
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile("adam", LOSS)
    with pytest.raises(ValueError, match="Expected a TTFSModel. Received: Sequential"):
        model.fit(X, Y, verbose=0, callbacks=[FreezeTemporalKernels(1)])
    with pytest.raises(ValueError, match="Expected epochs to be an integer >= 0 .* Received: epochs=-1"):
        FreezeTemporalKernels(-1)


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
