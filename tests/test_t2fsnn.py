"""Conversion to TTFS by fitted kernels: accuracy, losses of the fit, and the units of layers that meet."""

import math

import keras
import numpy as np
import pytest

from keras_ttfs import convert_t2fsnn, t2fsnn, temporal_kernel
from keras_ttfs.applications import vgg16
from keras_ttfs.snn import SpikingNetwork, check_equivalence
from tests.networks import relu_model

L = keras.layers


@pytest.mark.slow
def test_t2fsnn_reaches_its_relu_network_and_answers_sooner_with_early_firing(digits, relu_on_digits):
    model, (x, y) = relu_on_digits, digits
    converted = convert_t2fsnn(model, x[:200], time_window=40)
    relu = (np.asarray(model(x[1400:])).argmax(-1) == y[1400:]).mean()
    network = SpikingNetwork.from_model(converted)
    result = network.run(x[1400:], verbose=0)
    assert relu - (result.logits.argmax(-1) == y[1400:]).mean() <= 0.02
    assert (result.decision_step, result.time_steps) == (120, 160)
    early = SpikingNetwork.from_model(converted, early_firing=20).run(x[1400:], mode="clock", verbose=0)
    assert relu - (early.logits.argmax(-1) == y[1400:]).mean() <= 0.03
    assert (early.decision_step, early.time_steps) == (80, 100)
    check_equivalence(converted, x[:20], strict=True, verbose=0)


def test_fitted_kernels_lower_the_three_losses():
    z = np.random.default_rng(0).gamma(1.0, 0.25, 20000)
    z = z[z < 1.4].astype("float32")

    def losses(tau, t_d):
        levels = np.exp((t_d - np.arange(40)) / tau)
        below = np.searchsorted(-levels, -z.astype("float64"))  # The first level that z reaches.
        z_hat = np.append(levels, 0.0)[below]
        return ((z - z_hat) ** 2).mean() / 2, (z.min() - levels[-1]) ** 2 / 2, (z.max() - levels[0]) ** 2 / 2

    tau, t_d = t2fsnn.fit_kernel(z, 20.0, 40)
    before, after = losses(20.0, 0.0), losses(tau, t_d)
    assert sum(after) < 0.2 * sum(before)
    assert np.exp(t_d / tau) == pytest.approx(z.max(), rel=0.02)


@pytest.mark.parametrize("time_window", [2, 4, 8])
def test_kernels_of_short_windows_reach_further_down(time_window):
    z = np.random.default_rng(0).gamma(1.0, 0.25, 20000).astype("float32")
    z = z[z < 1.2]
    tau, t_d = t2fsnn.fit_kernel(z, 10.0, time_window)
    assert 1.0 <= tau < 10.0
    assert np.exp(t_d / tau) == pytest.approx(z.max(), rel=1e-5)


def test_rounding_reaches_every_encoder():
    x = np.random.default_rng(0).uniform(size=(20, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), L.Dense(6, "relu"), L.Dense(5, "relu"), L.Dense(3)])
    for rounding in ("ceil", "nearest"):
        converted = convert_t2fsnn(model, x, time_window=8, tau_0=2.0, rounding=rounding)
        assert [encoder.rounding for encoder in converted.encoders] == [rounding] * 3
        assert SpikingNetwork.from_model(converted).run(x, verbose=0).time_steps == 8 * 4


def test_t2fsnn_fits_kernels_in_the_units_that_layers_share():
    # Two layers meet whose activations differ eightfold: the smaller one's kernel must reach down to it.
    inputs = keras.Input((6,))
    small, large = L.Dense(5, activation="relu", name="small"), L.Dense(5, activation="relu", name="large")
    model = keras.Model(inputs, L.Dense(2)(L.Add()([small(inputs), large(inputs)])))
    rng = np.random.default_rng(0)
    kernel = rng.uniform(0.1, 1.0, (6, 5))
    small.set_weights([kernel / 8, np.zeros(5)])
    large.set_weights([kernel, np.zeros(5)])
    converted = convert_t2fsnn(model, rng.uniform(0.2, 1, (200, 6)))
    largest = {encoder.name: float(encoder.z_max) for encoder in converted.encoders}
    assert largest["small_activation"] == pytest.approx(largest["large_activation"] / 8, rel=0.05)


def test_vgg16_answers_at_the_papers_step():
    relu = vgg16((32, 32, 3), width=1 / 64, activation="relu", seed=0)
    converted = convert_t2fsnn(relu, np.random.default_rng(0).uniform(size=(4, 32, 32, 3)))
    assert {(layer.time_window, layer.tau_0) for layer in converted.encoders} == {(80, 20.0)}
    assert SpikingNetwork.from_model(converted, early_firing=40).decision_step == 680
    assert SpikingNetwork.from_model(converted).decision_step == 1280


@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
def test_the_fit_never_ends_above_its_start(rounding):
    """The gradient does not see that spikes move to other steps: descent alone may end anywhere."""

    def loss(z, tau, t_d):
        levels = temporal_kernel.quantize(z, tau, t_d, 80, rounding=rounding).numpy()
        smallest = float(temporal_kernel.z_min(tau, t_d, 80))
        return ((z - levels) ** 2).mean() / 2 + (z.min() - smallest) ** 2 / 2

    for seed in range(3):
        z = np.random.default_rng(seed).gamma(0.4, 0.3, 5000).astype("float32")
        z = z[z < 1.0]
        before = loss(z, 20.0, 20.0 * math.log(z.max()))
        assert loss(z, *t2fsnn.fit_kernel(z, 20.0, 80, rounding)) < before


def test_t2fsnn_wants_intensities():
    with pytest.raises(ValueError, match=r"Expected data of intensities in \[0, 1\] .*values in \[-1.0, -1.0\]"):
        convert_t2fsnn(relu_model(), -np.ones((2, 4)))
