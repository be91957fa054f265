"""The simulator of codings: who stops when, scales, poolings, arguments."""

import keras
import numpy as np
import pytest

from keras_ttfs.snn import CodedNetwork, coded, codings, gating, reader
from tests.networks import relu_model

L = keras.layers


@pytest.mark.slow
def test_samples_that_stop_fire_no_more(digits, relu_on_digits):
    model, (x, _) = relu_on_digits, digits
    network = CodedNetwork.from_model(model, codings.RateCoding(), x[:200])
    images = x[1400:1413]
    whole = network.run(images, time_steps=120, batch_size=8, verbose=0)
    stopped = network.run(images, time_steps=120, batch_size=8, stop_after=20, verbose=0)
    # When the first spike reaches the output.
    first = network.run(images, time_steps=120, batch_size=8, stop_after=1, verbose=0).stopped_at - 1
    assert stopped.stopped_at.min() < 60 and (whole.stopped_at == 120).all()
    curves = whole.predictions_per_step, stopped.predictions_per_step
    for full, part, end, begun in zip(*curves, stopped.stopped_at, first):
        np.testing.assert_array_equal(full[:end], part[:end])
        assert (part[end:] == part[end - 1]).all()
        assert end == 120 or len(set(part[end - 20 : end])) == 1
        assert not any(len(set(full[now - 20 : now])) == 1 for now in range(begun + 20, end))
    fired = [network.run(image[None], time_steps=int(end), verbose=0) for image, end in zip(images, stopped.stopped_at)]
    np.testing.assert_allclose(sum(run.hidden_spikes for run in fired) / 13, stopped.hidden_spikes, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate([run.logits for run in fired]), stopped.logits, atol=1e-5)


@pytest.mark.parametrize("stop_after", [1, 5])
def test_samples_whose_spikes_have_not_reached_the_output_do_not_stop(stop_after):
    model = relu_model()
    network = CodedNetwork.from_model(model, codings.RateCoding(), np.eye(4))
    dim = network.run(np.full((3, 4), 1e-3), time_steps=50, stop_after=stop_after, verbose=0)
    assert (dim.stopped_at == 50).all() and dim.hidden_spikes == 0


@pytest.mark.slow
def test_scales_are_the_largest_percentile_of_any_neuron(digits, relu_on_digits):
    model, (x, _) = relu_on_digits, digits
    nodes, _ = reader.read(model, "relu")
    scales = coded.activation_scales(nodes, x[:300], batch_size=77)
    for layer, name in (
        (model.layers[2], model.layers[2].name),
        (model.layers[4], f"{model.layers[4].name}_activation"),
    ):
        activations = keras.Model(model.inputs, layer.output)(x[:300]).numpy()
        assert scales[name] == pytest.approx(np.percentile(activations, 99.9, axis=0).max(), rel=1e-5)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("size", "strides"), [((2, 2), (2, 2)), ((3, 2), (2, 1))])
def test_of_a_pooling_window_the_neuron_that_sent_most_is_heard(size, strides, padding):
    rng = np.random.default_rng(0)
    before, sent = (
        rng.integers(0, 3, (2, 7, 6, 3)).astype("float64"),
        rng.integers(1, 9, (2, 7, 6, 3)).astype("float64"),
    )
    total, heard = (value.numpy() for value in gating._gated_pooling(before, sent, size, strides, padding))
    np.testing.assert_array_equal(total, before + sent)
    rows, columns = L.MaxPooling2D(size, strides, padding, dtype="float64")(sent).shape[1:3]
    missing = [max(0, (n - 1) * s + k - m) for n, s, k, m in zip((rows, columns), strides, size, (7, 6))]
    top, left = (m // 2 if padding == "same" else 0 for m in missing)
    for sample, r, c, k in np.ndindex(2, rows, columns, 3):
        window = [
            (y, x)
            for y in range(r * strides[0] - top, r * strides[0] - top + size[0])
            for x in range(c * strides[1] - left, c * strides[1] - left + size[1])
            if 0 <= y < 7 and 0 <= x < 6
        ]
        y, x = max(window, key=lambda place: total[sample, *place, k])  # The first of equals.
        assert heard[sample, r, c, k] == sent[sample, y, x, k]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_steps": 0}, "Expected time_steps to be an integer >= 1 .* Received: time_steps=0"),
        ({"stop_after": 1.5}, "Expected stop_after to be an integer >= 1 .* Received: stop_after=1.5"),
        ({"batch_size": 0}, "Expected batch_size"),
        ({"dtype": "float16"}, "Expected dtype"),
    ],
)
def test_wrong_arguments(arguments, message):
    network = CodedNetwork.from_model(relu_model(), codings.RateCoding(), np.eye(4))
    with pytest.raises(ValueError, match=message):
        network.run(np.eye(4), **arguments)


def test_what_is_refused():
    with pytest.raises(ValueError, match="Expected no time_steps for a coding with windows: .* Received: time_steps=5"):
        CodedNetwork.from_model(relu_model(), codings.TemporalSwitchCoding(), np.eye(4)).run(np.eye(4), time_steps=5)
    with pytest.raises(ValueError, match="Expected a model with ReLU activations"):
        CodedNetwork.from_model(keras.Sequential([keras.Input((4,)), L.Dense(2)]), codings.RateCoding(), np.eye(4))
    with pytest.raises(ValueError, match=r"Expected an output of shape \(classes,\). Received: shape \(4, 4, 2\)"):
        model = keras.Sequential([keras.Input((4, 4, 1)), L.ReLU(), L.Conv2D(2, 1)])
        CodedNetwork.from_model(model, codings.RateCoding(), np.ones((3, 4, 4, 1)))
    with pytest.raises(ValueError, match="Expected some neuron of every layer to be active .*'hidden_activation'"):
        CodedNetwork.from_model(relu_model(), codings.RateCoding(), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="Expected no activation but ReLU. Received: layer 'hidden' .*'tanh'"):
        model = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="tanh", name="hidden"), L.Dense(2)])
        CodedNetwork.from_model(model, codings.RateCoding(), np.eye(4))
    for coding, message in (
        (lambda: codings.PhaseCoding(0), "Expected period to be an integer >= 1"),
        (lambda: codings.BurstCoding(threshold=0.0), r"Expected threshold in \(0, 1\]"),
        (lambda: codings.BurstCoding(factor=0.5), "Expected factor >= 1"),
        (lambda: codings.TemporalSwitchCoding(True), "Expected time_window to be an integer >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            coding()
