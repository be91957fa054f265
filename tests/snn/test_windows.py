"""Winner-take-all windows: the order of pooling and activation changes spikes and neurons, and no logit."""

import keras
import numpy as np
import pytest

from keras_ttfs import TemporalKernelDecode, TKBatchNorm, TTFSActivation, TTFSEncode, TTFSModel, applications, energy
from keras_ttfs.snn import SpikingNetwork, check_equivalence, windows
from tests.networks import IMAGES, vgg6_to_simulate

L = keras.layers
X = np.random.default_rng(3).uniform(size=(6, 9, 8, 2)).astype("float32")

POOLINGS = {
    "2D": lambda: [L.MaxPooling2D()],
    "overlapping": lambda: [L.MaxPooling2D(3, 1)],
    "overlapping, padded": lambda: [L.MaxPooling2D(3, 2, "same")],
    "leaves a rest": lambda: [L.MaxPooling2D((2, 3))],
    "strides beyond the window": lambda: [L.MaxPooling2D(1, 2)],
    "global": lambda: [L.GlobalMaxPooling2D(keepdims=True)],
    "two": lambda: [L.MaxPooling2D(2, 1), L.Dropout(0.5), L.MaxPooling2D()],
    "arranged": lambda: [L.MaxPooling2D(), L.Permute((2, 1, 3)), L.Flatten(), L.Reshape((2, -1))],
    "cut and repeated": lambda: [L.MaxPooling2D(), L.Cropping2D(((1, 0), (0, 1))), L.UpSampling2D(), L.ZeroPadding2D()],
}


def model_of(layers, before, rounding="ceil", pair=False):
    """Pooling before the activation, or behind it, with the same weights."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(X.shape[1:])
    x = TTFSActivation(12, 4.0, name="input")(inputs)
    norm = TKBatchNorm(beta_initializer=keras.initializers.RandomNormal(stddev=0.3), name="norm")
    x = norm(L.Conv2D(3, 3, padding="same", name="conv")(x))
    options = {"time_window": 12, "tau_0": 4.0, "rounding": rounding, "name": "hidden"}
    encoders = [TTFSEncode(**options), TemporalKernelDecode(12)] if pair else [TTFSActivation(**options)]
    for layer in [*layers, *encoders] if before else [*encoders, *layers]:
        x = layer(x)
    return TTFSModel(inputs, L.Dense(4, name="logits")(L.Flatten()(x)))


def some_are_slow(kinds, *fast):
    return [kind if kind in fast else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


@pytest.mark.parametrize("kind", some_are_slow(POOLINGS, "overlapping, padded", "two"))
def test_both_orders_give_the_same_logits(kind):
    rounding, pair = ("nearest", True) if kind in ("2D", "global", "two") else ("ceil", False)
    pooled, paper = (model_of(POOLINGS[kind](), before, rounding, pair) for before in (True, False))
    np.testing.assert_array_equal(pooled.predict(X, verbose=0), paper.predict(X, verbose=0))
    ours, theirs = SpikingNetwork.from_model(pooled), SpikingNetwork.from_model(paper)
    assert isinstance(ours.populations[1], windows.WindowPopulation)
    assert ours.membranes == theirs.membranes == theirs.neurons
    assert (ours.neurons, ours.membranes) == (pooled.neurons, pooled.membranes)
    assert ours.dense_counts == theirs.dense_counts
    for dtype in ("float32", "float64"):
        event, clock = (ours.run(X, mode=mode, dtype=dtype, verbose=0) for mode in ("event", "clock"))
        expected = theirs.run(X, dtype=dtype, verbose=0)
        np.testing.assert_array_equal(event.logits, expected.logits)
        np.testing.assert_array_equal(clock.logits, expected.logits)
        np.testing.assert_array_equal(clock.spike_times["hidden"], event.spike_times["hidden"])
        assert event.synaptic_operations == clock.synaptic_operations == expected.synaptic_operations > 0
        assert event.hidden_spikes > 0 and event.membrane_counts == theirs.run(X, verbose=0).neurons
        if kind != "cut and repeated":
            assert event.hidden_spikes < expected.hidden_spikes and ours.neurons < theirs.neurons
    assert check_equivalence(pooled, X).equivalent


@pytest.mark.parametrize("pool", [lambda: L.MaxPooling1D(3, 2, "same"), lambda: L.GlobalMaxPooling1D(keepdims=True)])
def test_windows_of_one_dimension(pool):
    def model(before):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((9, 2))
        x = L.Conv1D(4, 3)(TTFSActivation(8, 3.0)(inputs))
        for layer in (pool(), TTFSActivation(8, 3.0)) if before else (TTFSActivation(8, 3.0), pool()):
            x = layer(x)
        return keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))

    ours, theirs = (SpikingNetwork.from_model(model(before)) for before in (True, False))
    expected = theirs.run(X[:, :, 0], verbose=0)
    for mode in ("event", "clock"):
        result = ours.run(X[:, :, 0], mode=mode, verbose=0)
        np.testing.assert_array_equal(result.logits, expected.logits)
    assert result.hidden_spikes < expected.hidden_spikes


def test_who_hears_whom():
    network = SpikingNetwork.from_model(model_of([L.MaxPooling2D(3, 2)], True))
    shape, pooled = (9, 8, 3), (4, 3, 3)
    heard_by = {place: [] for place in range(9 * 8 * 3)}
    for number, (r, c, k) in enumerate(np.ndindex(pooled)):
        members = [np.ravel_multi_index((2 * r + i, 2 * c + j, k), shape) for i in range(3) for j in range(3)]
        assert network.membranes_of("hidden", number) == members
        for place in members:
            heard_by[place].append(number)
    assert network.membranes_of("input", 7) == [7]
    places = [0, 2 * 8 * 3 + 6, 7 * 3, 50, 9 * 8 * 3 - 1]
    assert {len(heard_by[place]) for place in places} == {0, 1, 2, 4}
    recorded = network.run(X[:1], mode="clock", record={"hidden": places, "input": [3]}, verbose=0)
    assert [found.tolist() for found in recorded.heard_by["hidden"]] == [heard_by[place] for place in places]
    assert [found.tolist() for found in recorded.heard_by["input"]] == [[3]]
    for wrong, message in ((("hidden", 36), "a neuron of 'hidden' in 0..35"), (("conv", 0), "layer to be one of")):
        with pytest.raises(ValueError, match=f"Expected {message}"):
            network.membranes_of(*wrong)
    with pytest.raises(ValueError, match="Expected membranes of 'hidden' in 0..215"):
        network.run(X[:1], mode="clock", record={"hidden": [216]}, verbose=0)


def test_a_membrane_is_silenced_when_all_windows_that_hear_it_have_fired():
    network = SpikingNetwork.from_model(model_of([L.MaxPooling2D(3, 2)], True))
    membranes = list(range(network.populations[1].membranes))
    result = network.run(X, mode="clock", record={"hidden": membranes}, verbose=0)
    start, window = result.phases["hidden"]
    silenced = kept = 0
    for sample, place in np.ndindex(len(X), len(membranes)):
        potential = result.membranes["hidden"][sample, place]
        times = result.spike_times["hidden"][sample].ravel()[result.heard_by["hidden"][place]]
        complete = potential[start]
        end = times.max() + 1 if len(times) and times.max() < window else window
        assert (potential[start : start + end] == complete).all()
        assert (potential[start + end : start + window] == 0).all()
        silenced += end < window
        kept += end == window and complete > 0
    assert silenced > 100 and kept > 5


def encoded(*layers):
    x = inputs = keras.Input((6, 6, 2))
    for layer in layers:
        x = layer(x)
    return inputs, x


def two_encoders():
    inputs, x = encoded(TTFSActivation(8), L.Conv2D(3, 3), L.MaxPooling2D())
    x = L.Add()([TTFSActivation(8, 5.0)(x), TTFSActivation(8, 2.0)(L.Dropout(0.1)(x))])
    return TTFSModel(inputs, L.Dense(2)(L.Flatten()(x)))


def two_poolings():
    inputs, x = encoded(TTFSActivation(8), L.Conv2D(3, 3))
    ends = [L.Flatten()(TTFSActivation(8)(pool(x))) for pool in (L.MaxPooling2D(2), L.MaxPooling2D(2, 1))]
    return TTFSModel(inputs, L.Dense(2)(L.Concatenate()(ends)))


def sums_and_averages():
    inputs, x = encoded(TTFSActivation(8), L.Conv2D(2, 3, padding="same"))
    x = TTFSActivation(8)(L.MaxPooling2D()(L.Add()([x, TTFSActivation(8)(inputs)])))
    x = TTFSActivation(8)(L.MaxPooling2D()(L.AveragePooling2D(2, 1)(x)))
    return TTFSModel(inputs, L.Dense(2)(L.Flatten()(x)))


def analog_input():
    inputs, x = encoded(TKBatchNorm(), L.MaxPooling2D(2, 1), TTFSActivation(8), L.Conv2D(3, 3))
    return TTFSModel(inputs, L.Dense(2)(L.Flatten()(TTFSActivation(8)(L.MaxPooling2D()(x)))))


@pytest.mark.parametrize(
    "make", some_are_slow([two_encoders, two_poolings, sums_and_averages, analog_input], two_encoders)
)
def test_graphs_with_windows(make, tmp_path):
    keras.utils.set_random_seed(0)
    model, x = make(), X[:, :6, :6]
    network = SpikingNetwork.from_model(model)
    assert sum(isinstance(population, windows.WindowPopulation) for population in network.populations) > 0
    assert (network.neurons, network.membranes) == (model.neurons, model.membranes)
    assert network.neurons < network.membranes
    assert check_equivalence(model, x).equivalent
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logs = model.evaluate(x, np.zeros(len(x)), verbose=0, return_dict=True)
    assert logs["spikes"] == pytest.approx(network.run(x, verbose=0).hidden_spikes)
    model.save(tmp_path / "model.keras")
    loaded = SpikingNetwork.from_model(keras.models.load_model(tmp_path / "model.keras"))
    for mode in ("event", "clock"):
        np.testing.assert_array_equal(
            loaded.run(x, mode=mode, verbose=0).logits, network.run(x, mode=mode, verbose=0).logits
        )


def pooled_and_used(use):
    inputs, x = encoded(TTFSActivation(8), L.Conv2D(3, 3, name="conv"))
    spikes = L.Flatten()(TTFSActivation(8)(L.MaxPooling2D(name="pool")(x)))
    return keras.Model(inputs, L.Dense(2)(L.Concatenate()([spikes, L.Flatten()(use(x))])))


def ending(*layers):
    return keras.Model(*encoded(TTFSActivation(8), L.Conv2D(3, 3, name="conv"), L.MaxPooling2D(name="pool"), *layers))


REFUSED = {
    "used by an activation": lambda: pooled_and_used(TTFSActivation(8, name="other")),
    "used by weights": lambda: pooled_and_used(L.Conv2D(2, 3, name="other")),
    "the average of pooled potentials": lambda: ending(
        L.AveragePooling2D(1), TTFSActivation(8), L.Flatten(), L.Dense(2)
    ),
    "weights on pooled potentials": lambda: ending(L.Flatten(), L.Dense(2)),
    "normalised pooled potentials": lambda: ending(TKBatchNorm(), TTFSActivation(8), L.Flatten(), L.Dense(2)),
    "pooled potentials at the output": lambda: ending(L.Flatten()),
    "a pooled input": lambda: keras.Model(
        *encoded(L.Rescaling(0.5), L.MaxPooling2D(name="pool"), TTFSActivation(8), L.Flatten(), L.Dense(2))
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_pooling_of_potentials_is_refused_by_name(kind):
    message = "Expected max pooling of spikes, or of membrane potentials .*Received: layer 'pool', which pools "
    source = "'rescaling" if "input" in kind else "'conv'.*'other' takes it as well" if "used" in kind else "'conv'"
    with pytest.raises(ValueError, match=message + source):
        SpikingNetwork.from_model(REFUSED[kind]())


def test_another_window_is_another_architecture():
    model = model_of([L.MaxPooling2D(3, 2, "same")], True)
    other = SpikingNetwork.from_model(model_of([L.MaxPooling2D(2, 2, "same")], True))
    with pytest.raises(ValueError, match="own architecture. Received: node 'hidden' with window 0"):
        check_equivalence(model, X, network=other)


@pytest.mark.parametrize("activation", ["ttfs", "relu"])
def test_weights_of_a_vgg_load_into_the_other_order(activation, tmp_path):
    paper, ours = (vgg6_to_simulate(activation=activation, pooling=order) for order in ("spikes", "potential"))
    assert {layer.name for layer in paper.layers[1:]} == {layer.name for layer in ours.layers[1:]}
    names = [layer.name for layer in ours.layers]
    at = names.index("pool1")
    assert names[at - 1 : at + 2] == ["conv1_2_norm", "pool1", "conv1_2_activation"]
    paper.save_weights(tmp_path / "paper.weights.h5")
    for weight in ours.weights:
        weight.assign(np.zeros(weight.shape))
    ours.load_weights(tmp_path / "paper.weights.h5")
    np.testing.assert_array_equal(ours.predict(IMAGES, verbose=0), paper.predict(IMAGES, verbose=0))
    pairs = [[(norm.name, encoder.name) for norm, encoder in model.batch_norm_pairs()] for model in (paper, ours)]
    assert pairs[0] == pairs[1] and len(pairs[0]) == (5 if activation == "ttfs" else 0)
    if activation == "ttfs":
        assert [float(term) for term in ours.penalties()] == [float(term) for term in paper.penalties()]
    with pytest.raises(ValueError, match="Expected pooling to be one of .* Received: pooling='before'"):
        applications.vgg6(pooling="before")


def test_neurons_and_membranes_of_vgg16():
    model = applications.vgg16(pooling="potential")
    pooled = 3 / 4 * sum(channels * side**2 for channels, side in ((64, 32), (128, 16), (256, 8), (512, 4), (512, 2)))
    assert (model.neurons, model.membranes) == (280_586 - pooled, 280_586)
    assert applications.vgg16(pooling="potential", width=0.25, input_coding="analog").membranes == 72_458


def test_energy_of_both_orders():
    pooled, paper = (SpikingNetwork.from_model(vgg6_to_simulate(pooling=order)) for order in ("potential", "spikes"))
    ours, theirs = (energy.report(network, network.run(IMAGES, verbose=0)) for network in (pooled, paper))
    assert (ours.neurons, ours.membranes, theirs.neurons) == (pooled.neurons, paper.neurons, paper.membranes)
    assert f"{pooled.neurons:,} neurons that may fire, {pooled.membranes:,} membranes" in str(ours)
    assert ours.spikes < theirs.spikes and ours.synaptic_operations == theirs.synaptic_operations
    assert ours.chips == theirs.chips
    for one, other in zip(ours.costs, theirs.costs, strict=True):
        saved = 0 if one.name.startswith("spiking") else pooled.membranes - pooled.neurons
        width = 4 if "float32" in one.name else 6 / 8
        assert (one.operations, one.compute, one.memory) == (other.operations, other.compute, other.memory)
        assert one.state == other.state - width * saved
