"""The spiking network: equivalence, options, errors, pictures."""

import keras
import numpy as np
import pytest

from keras_ttfs import TemporalKernelDecode, TKBatchNorm, TTFSActivation, TTFSEncode, TTFSModel, applications
from keras_ttfs.snn import EquivalenceError, SpikingNetwork, check_equivalence, plots

L = keras.layers


@pytest.fixture(autouse=True)
def float64():
    yield
    keras.config.set_dtype_policy("float32")
    keras.backend.clear_session(free_memory=False)


def digits(samples=None):
    from sklearn import datasets

    bunch = datasets.load_digits()
    return (bunch.images / 16.0).astype("float32")[:samples, ..., None], bunch.target[:samples]


def block(x, filters, activation=True):
    x = L.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    x = TKBatchNorm(momentum=0.9, gamma_initializer=keras.initializers.Constant(0.5))(x)
    return TTFSActivation()(x) if activation else x


def residual_network():
    inputs = keras.Input((8, 8, 1))
    x = block(TTFSActivation()(inputs), 16)
    x = TTFSActivation()(L.Add()([block(block(x, 16), 16, activation=False), x]))
    x = L.MaxPooling2D()(x)
    skip = L.Conv2D(32, 1)(x)
    x = TTFSActivation()(L.Add()([block(x, 32, activation=False), skip]))
    return TTFSModel(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)))


def concatenate_network():
    inputs = keras.Input((8, 8, 1))
    x = block(TTFSActivation()(inputs), 16)
    wide = TTFSActivation(rounding="nearest")(TKBatchNorm(momentum=0.9)(L.SeparableConv2D(16, 3, padding="same")(x)))
    x = L.Concatenate()([x, wide, block(x, 8)])
    x = L.MaxPooling2D()(x)
    x = L.ZeroPadding2D()(block(x, 16))
    x = L.Dropout(0.1)(L.Flatten()(L.AveragePooling2D(2)(x)))
    return TTFSModel(inputs, L.Dense(10)(x))


@pytest.mark.parametrize("make", [residual_network, concatenate_network])
def test_network_trained_on_digits_fires_the_same_spikes(make):
    keras.utils.set_random_seed(0)
    x, y = digits()
    model = make()
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    model.fit(x[:1400], y[:1400], epochs=6, batch_size=50, verbose=0)
    logs = model.evaluate(x[1400:], y[1400:], verbose=0, return_dict=True)
    assert logs["accuracy"] > 0.8
    report = check_equivalence(model, x[1400:1500], dtype="float64", batch_size=40, strict=True)
    assert report.equivalent
    assert sum(row.spikes for row in report.layers) > 10_000
    assert report.changed_predictions == {"event": 0, "clock": 0}
    check_equivalence(model, x[1400:1500], dtype="float32", batch_size=40, strict=True)
    result = SpikingNetwork.from_model(model).run(x[1400:])
    assert (result.logits.argmax(-1) == y[1400:]).mean() == pytest.approx(logs["accuracy"], abs=1e-6)
    assert result.hidden_spikes == pytest.approx(logs["spikes"], rel=1e-12)


def small_model(**kwargs):
    keras.utils.set_random_seed(1)
    model = applications.vgg6(width=0.25, gamma_0=0.6, **kwargs)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, TKBatchNorm):
            layer.moving_mean.assign(rng.normal(scale=0.1, size=layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.05, 0.4, size=layer.moving_mean.shape))
            layer.beta.assign(rng.normal(0.1, 0.2, size=layer.moving_mean.shape))
    return model


X = np.random.default_rng(5).uniform(size=(23, 8, 8, 1)).astype("float32")


@pytest.mark.parametrize("options", [{"rounding": "nearest"}, {"input_coding": "analog"}, {"time_window": 300}])
def test_options_of_the_layers_reach_the_network(options):
    report = check_equivalence(small_model(**options), X[:5], batch_size=5)
    assert report.equivalent
    assert report.samples == 5


def test_half_precision_model_is_compared_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = small_model()
    report = check_equivalence(model, X, dtype="float32", modes="event")
    assert report.equivalent
    assert report.model_dtype == "mixed_bfloat16"
    assert "mixed_bfloat16" in str(report)


def test_timing_of_the_phases():
    network = SpikingNetwork.from_model(applications.vgg16(width=0.05))
    assert (network.decision_step, network.time_steps) == (16 * 32, 17 * 32)
    assert [network.phases[population].start for population in network.populations] == list(range(0, 16 * 32, 32))
    analog = SpikingNetwork.from_model(applications.vgg16(width=0.05, input_coding="analog"))
    assert (analog.decision_step, analog.time_steps) == (16 * 32, 17 * 32)
    assert analog.input_encoders == ()
    assert SpikingNetwork.from_model(applications.vgg16()).neurons == 280_586


def test_layers_wait_for_their_slowest_input():
    inputs = keras.Input((4,))
    a = TTFSActivation(5, name="a")(inputs)
    b = TTFSActivation(7, name="b")(L.Dense(4)(a))
    c = TTFSActivation(3, name="c")(L.Dense(4)(L.Add()([a, b])))
    network = SpikingNetwork.from_model(keras.Model(inputs, L.Dense(2)(c)))
    assert {population.name: phase.start for population, phase in network.phases.items()} == {"a": 0, "b": 5, "c": 12}
    assert (network.decision_step, network.time_steps) == (15, 22)


def test_sequential_nested_and_shared_layers():
    inner = keras.Sequential([keras.Input((6,)), L.Dense(6), TTFSActivation(name="inner")])
    shared = TTFSActivation(16, name="twice")
    inputs = keras.Input((6,))
    x = shared(inputs)
    x = inner(x)
    x = shared(L.Dense(6)(x))
    nested = keras.Model(inputs, keras.Sequential([keras.Input((6,)), L.Dense(3)])(x))
    x = np.random.default_rng(0).uniform(size=(9, 6))
    assert list(SpikingNetwork.from_model(nested).run(x).spike_times) == ["twice", "inner", "twice_1"]
    assert check_equivalence(nested, x).equivalent
    sequential = keras.Sequential([keras.Input((6,)), TTFSActivation(), L.Dense(3, activation="softmax")])
    report = check_equivalence(sequential, x)
    assert report.equivalent
    assert max(report.logit_difference.values()) == 0


def test_result_depends_neither_on_batch_size_nor_on_mode():
    network = SpikingNetwork.from_model(small_model())
    whole = network.run(X)
    for options in ({"batch_size": 7}, {"mode": "clock", "batch_size": 10}, {"mode": "clock", "dtype": "float64"}):
        other = network.run(X, **options)
        for name, times in whole.spike_times.items():
            assert times.dtype == np.int16
            np.testing.assert_array_equal(other.spike_times[name], times)
            np.testing.assert_array_equal(other.spike_counts[name], whole.spike_counts[name])
            np.testing.assert_array_equal(whole.spike_counts[name], (times < 32).reshape(len(X), -1).sum(1))
        np.testing.assert_allclose(other.logits, whole.logits, rtol=1e-4, atol=1e-5)
        assert other.synaptic_operations == whole.synaptic_operations
    counted = network.run(X, spike_times=False)
    assert counted.spike_times == {}
    assert counted.spikes == whole.spikes


def test_recorded_potentials_fire_as_the_spikes_say():
    network = SpikingNetwork.from_model(small_model())
    layer, chosen = "conv2_1_activation", list(range(0, 256, 3))
    result = network.run(X[:3], mode="clock", record={layer: chosen, "logits": [1, 9]})
    start, window = result.phases[layer]
    potentials = result.membranes[layer]
    assert potentials.shape == (3, len(chosen), network.decision_step)
    times = result.spike_times[layer].reshape(3, -1)[:, chosen]
    assert 0 < (times < window).mean() < 1
    for sample, neuron in np.ndindex(times.shape):
        trace, t = potentials[sample, neuron], times[sample, neuron]
        above = trace[start : start + window] >= result.thresholds[layer]
        if t == window:
            assert not above.any()
        else:
            assert above[t] and not above[:t].any()
            assert (trace[start + t + 1 :] == 0).all(), "refractory after the first spike"
            assert (trace[start : start + t] == trace[start + t]).all(), "integration is over when firing begins"
    # The logits move in the last phase only.
    last = result.membranes["logits"]
    assert (last[..., : -32 + 1] == last[..., :1]).all()
    assert (last[..., -1] != last[..., 0]).any()


def test_batch_normalisation_is_folded():
    model = small_model()
    network = SpikingNetwork.from_model(model)
    assert not any("norm" in node.name for node in network.nodes)
    node = next(node for node in network.nodes if node.name == "dense1")
    (weights,), bias = node.folded()
    x = np.random.default_rng(0).uniform(size=(4, 256 // 4))
    expected = model.get_layer("dense1_norm")(model.get_layer("dense1")(x))
    np.testing.assert_allclose(x @ weights + bias, expected, rtol=1e-4, atol=1e-5)


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
    assert network.dense_operations == analog + second + 2 * 2 * 8 * 2 + 2 * 2 * 8 + 8 * 10


def test_analog_operations_beside_spikes():
    inputs = keras.Input((8,))
    x = L.Dense(4)(L.Concatenate()([inputs, TTFSActivation()(inputs)]))
    network = SpikingNetwork.from_model(keras.Model(inputs, L.Dense(2)(TTFSActivation()(x))))
    assert network.analog_operations == 32
    assert network.dense_operations == 72
    result = network.run(np.ones((1, 8)))
    assert result.synaptic_operations == 32 + 2 * result.hidden_spikes


def test_check_finds_what_differs():
    model = small_model()
    network = SpikingNetwork.from_model(model)
    first = next(node for node in network.nodes if node.name == "conv1_1")
    kernel = first.kernels[0].copy()
    kernel[1, 1, 0, 2] += 1e-3
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    other.get_layer("conv1_1").set_weights([kernel])
    report = check_equivalence(model, X, network=SpikingNetwork.from_model(other))
    rows = {(row.mode, row.layer): row for row in report.layers}
    for mode in ("event", "clock"):
        assert rows[mode, "input_activation"].mismatches == 0
        assert rows[mode, "conv1_1_activation"].mismatches > rows[mode, "conv1_1_activation"].inherited == 0
        assert rows[mode, "conv1_1_activation"].ulp > 1e6
        assert rows[mode, "conv1_2_activation"].inherited > 0
    assert not report.equivalent
    with pytest.raises(EquivalenceError, match=r"Expected the spikes of the model. Received: \d+ mismatches"):
        report.check()
    with pytest.raises(EquivalenceError, match="conv1_1_activation"):
        check_equivalence(model, X, network=SpikingNetwork.from_model(other), dtype="float32", strict=True)


def test_distance_of_a_mismatch_is_in_units_of_the_threshold():
    def made(t_d_0):
        return keras.Sequential([keras.Input((1,)), TTFSActivation(t_d_0=t_d_0, name="a", dtype="float64"), L.Dense(2)])

    model, shifted = made(0.0), made(1e-14)
    network = SpikingNetwork.from_model(model)
    threshold = network.populations[0].thresholds("float64").numpy()[5]
    x = np.array([[threshold + 3 * np.spacing(threshold)], [0.9]])
    report = check_equivalence(model, x, network=SpikingNetwork.from_model(shifted), modes="event")
    assert report.layers[0].mismatches == 1
    assert report.layers[0].ulp == 3
    with pytest.raises(EquivalenceError):
        report.check()


def test_network_of_a_saved_model_in_a_fresh_process(tmp_path):
    import subprocess
    import sys

    model = small_model()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", X)
    script = (
        "import sys, numpy, keras_ttfs\nfrom keras.models import load_model\n"
        "network = keras_ttfs.snn.SpikingNetwork.from_model(load_model(sys.argv[1]))\n"
        "numpy.save(sys.argv[3], network.run(numpy.load(sys.argv[2])).logits)\n"
    )
    paths = [str(tmp_path / name) for name in ("model.keras", "x.npy", "logits.npy")]
    subprocess.run([sys.executable, "-c", script, *paths], check=True)
    np.testing.assert_array_equal(np.load(paths[2]), SpikingNetwork.from_model(model).run(X).logits)


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
    (
        lambda: ends(TTFSActivation(), L.Conv2D(2, 3), L.MaxPooling2D(name="m"), TTFSActivation(), L.Dense(2)),
        "max pooling of",
    ),
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


@pytest.mark.parametrize("mode", ["event", "clock"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
def test_potential_at_the_threshold_fires_and_one_float_below_waits(mode, dtype, rounding):
    model = keras.Sequential([keras.Input((64,)), TTFSActivation(32, 7.3, -0.4, rounding, name="a"), L.Dense(2)])
    network = SpikingNetwork.from_model(model)
    thresholds = network.populations[0].thresholds(dtype).numpy()
    below = np.nextafter(thresholds, np.zeros(1, dtype))
    times = network.run(np.concatenate([thresholds, below])[None], mode=mode, dtype=dtype).spike_times["a"][0]
    np.testing.assert_array_equal(times, np.concatenate([np.arange(32), np.arange(1, 33)]))


def test_network_keeps_the_weights_it_was_made_with():
    model = small_model()
    network = SpikingNetwork.from_model(model)
    twin = SpikingNetwork.from_model(model)
    before = network.run(X)
    for weight in model.weights:
        weight.assign(weight * 1.1 if "float" in str(weight.dtype) else weight)
    np.testing.assert_array_equal(twin.run(X).logits, before.logits)
    assert (SpikingNetwork.from_model(model).run(X).logits != before.logits).any()


def test_infinite_weights_are_refused():
    model = small_model()
    model.get_layer("conv1_2").kernel.assign(np.full(model.get_layer("conv1_2").kernel.shape, np.nan))
    with pytest.raises(ValueError, match="Expected finite weights. Received: layer 'conv1_2'"):
        SpikingNetwork.from_model(model)


@pytest.mark.parametrize(("name", "value"), [("tau", np.nan), ("tau", 0.0), ("t_d", np.inf)])
def test_impossible_kernels_are_refused(name, value):
    model = small_model()
    getattr(model.encoders[1], name).assign(value)
    with pytest.raises(
        ValueError, match=f"Expected a finite tau > 0 and a finite t_d .* of '{model.encoders[1].name}'"
    ):
        SpikingNetwork.from_model(model)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (X, {"mode": "both"}, "Expected mode to be one of"),
        (X, {"dtype": "float16"}, "Expected dtype to be one of"),
        (X, {"batch_size": 0}, "Expected batch_size to be an integer >= 1"),
        (X[0], {}, r"Expected inputs of shape \(samples, 8, 8, 1\). Received: shape \(8, 8, 1\)"),
        (X[:0], {}, "Expected inputs of shape"),
        (np.full_like(X, np.nan), {}, "Expected finite inputs"),
        (X, {"record": {"logits": [0]}}, "Expected mode='clock' to record"),
        (X, {"mode": "clock", "record": {"nobody": [0]}}, "Expected the layers to record among .*'nobody'"),
        (X, {"mode": "clock", "record": {"logits": [10]}}, r"Expected neurons of 'logits' in 0..9. Received: \[10\]"),
    ],
)
def test_wrong_arguments_of_run(x, options, message):
    with pytest.raises(ValueError, match=message):
        SpikingNetwork.from_model(small_model()).run(x, **options)


def test_wrong_arguments_of_check():
    with pytest.raises(ValueError, match="Expected modes among"):
        check_equivalence(small_model(), X, modes="fast")
    with pytest.raises(ValueError, match="Expected dtype to be one of"):
        check_equivalence(small_model(), X, dtype="int8")
    # A range of negative steps is empty: nothing would be compared.
    for batch_size in (-1, 0):
        with pytest.raises(ValueError, match="Expected batch_size to be an integer >= 1"):
            check_equivalence(small_model(), X, batch_size=batch_size)
    for wrong in (X[:0], X[:, 1:]):
        with pytest.raises(ValueError, match="Expected inputs of shape"):
            check_equivalence(small_model(), wrong)


def test_pictures(tmp_path):
    network = SpikingNetwork.from_model(small_model())
    result = network.run(X[:2], mode="clock", record={"conv1_1_activation": [0, 5, 9], "logits": [2]})
    figures = [
        plots.spike_raster(result, sample=1),
        plots.membrane_potentials(result, "conv1_1_activation"),
        plots.membrane_potentials(result, "logits"),
        plots.spikes_per_neuron(result),
        plots.spike_time_histogram(result.count_spike_times(), result.phases),
    ]
    for number, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 5_000
    spikes = {name: counts.sum() for name, counts in result.count_spike_times().items()}
    assert spikes == {name: counts.sum() for name, counts in result.spike_counts.items()}
    with pytest.raises(ValueError, match="Expected a recorded layer among"):
        plots.membrane_potentials(result, "conv1_2_activation")
