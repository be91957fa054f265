"""The noise kit: each kind against what it says, both simulations with the same draws, training that hardens."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs import TKBatchNorm, TTFSActivation, TTFSEncode, TTFSModel, applications, hardening, noise
from keras_ttfs.snn import SpikingNetwork, check_equivalence
from keras_ttfs.snn.nodes import Synapse
from tests import reference

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
KINDS = [
    noise.Jitter(1.3),
    noise.Jitter(40.0),
    noise.DroppedSpikes(0.2),
    noise.SpuriousSpikes(0.1),
    noise.DeadNeurons(0.2),
    noise.ThresholdMismatch(0.2),
    noise.WeightBits(4),
    noise.WeightMismatch(0.2),
]
NOTHING = [
    noise.Jitter(0.0),
    noise.DroppedSpikes(0.0),
    noise.SpuriousSpikes(0.0),
    noise.DeadNeurons(0.0),
    noise.ThresholdMismatch(0.0),
    noise.WeightMismatch(0.0),
]
X = np.random.default_rng(0).uniform(size=(25, 8, 8, 1))


def vgg(pooling="spikes", rounding="ceil"):
    """Untrained, but normalised, so that neurons fire in every layer."""
    options = {"time_window": 12, "tau_0": 4.0, "gamma_0": 0.5, "bn_momentum": 0.1, "width": 0.3, "seed": 0}
    model = applications.vgg6(pooling=pooling, rounding=rounding, **options)
    for _ in range(3):
        model(X, training=True)
    return model


@pytest.fixture(scope="module", params=["spikes", "potential"])
def network(request):
    return SpikingNetwork.from_model(vgg(request.param, "nearest" if request.param == "potential" else "ceil"))


def spikes(network, kinds, x=X, **options):
    return network.run(x, dtype="float64", noise=kinds, verbose=0, **options).spike_times


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), KINDS, KINDS[::-1]], ids=str)
def test_both_simulations_and_any_batches_see_the_same_draws(network, kinds):
    event = network.run(X, dtype="float64", noise=kinds, seed=5, verbose=0)
    clock = network.run(X, "clock", dtype="float64", noise=kinds, seed=5, verbose=0, batch_size=7)
    part = network.run(X[:10], dtype="float64", noise=kinds, seed=5, verbose=0, batch_size=4)
    assert set(event.spike_times) == set(clock.spike_times)
    for name, times in event.spike_times.items():
        np.testing.assert_array_equal(clock.spike_times[name], times)
        np.testing.assert_array_equal(part.spike_times[name], times[:10])
    np.testing.assert_allclose(clock.logits, event.logits, atol=1e-12)
    assert event.synaptic_operations == clock.synaptic_operations
    other = spikes(network, kinds, seed=6)
    exact = spikes(network, ())
    deterministic = all(isinstance(kind, noise.WeightBits) for kind in kinds)
    assert deterministic or any(np.any(other[name] != times) for name, times in event.spike_times.items())
    assert any(np.any(exact[name] != times) for name, times in event.spike_times.items())
    assert all(np.mean(times < 12) > 0.1 for times in exact.values()), "every layer fires"


def test_no_strength_is_no_noise(network):
    exact = spikes(network, ())
    for kinds in (*([kind] for kind in NOTHING), NOTHING):
        for mode in ("event", "clock"):
            for name, times in spikes(network, kinds, mode=mode).items():
                np.testing.assert_array_equal(times, exact[name])


@pytest.fixture(scope="module")
def encoder():
    """One layer of 4,000 neurons on intensities, and its exact spike times on 50 inputs."""
    inputs = keras.Input((4000,))
    model = TTFSModel(inputs, keras.layers.Dense(2)(TTFSActivation(20, 6.0, name="in")(inputs)))
    network = SpikingNetwork.from_model(model)
    x = np.random.default_rng(1).uniform(0, 1.1, (50, 4000))
    x[:, :400] = 0.0  # Silent neurons.
    return network, x, spikes(network, (), x)["in"].astype(int)


def within(share, expected, count):
    """Whether a share of so many independent draws is within five standard errors."""
    return abs(share - expected) < 5 * np.sqrt(max(expected * (1 - expected), 1e-9) / count)


def test_jitter(encoder):
    network, x, exact = encoder
    found = spikes(network, noise.Jitter(1.7), x)["in"].astype(int)
    fires = exact < 20
    np.testing.assert_array_equal(found[~fires], 20)
    assert found[fires].min() == 0 and found[fires].max() == 19
    inside = fires & (exact > 9) & (exact < 11)  # Nothing of 5 standard deviations leaves the window there.
    shift = (found - exact)[inside]
    count = shift.size
    variance = 1.7**2 + 1 / 12  # Rounding adds its own.
    assert abs(shift.mean()) < 5 * np.sqrt(variance / count) and abs(shift.var() / variance - 1) < 5 * np.sqrt(
        2 / count
    )
    # The same draws again, shift by shift: the clip is the only other thing.
    draws = np.stack([noise.Draws(0, 1, 0, sample).normal((4000,)) for sample in range(50)])
    expected = np.clip(exact + np.rint(np.float32(1.7) * draws).astype(int), 0, 19)
    np.testing.assert_array_equal(found[fires], expected[fires])


def test_dropped_and_dead(encoder):
    network, x, exact = encoder
    fires = exact < 20
    dropped = spikes(network, noise.DroppedSpikes(0.3), x)["in"]
    assert np.all((dropped == exact) | (dropped == 20))
    lost = (dropped != exact)[fires]
    assert within(lost.mean(), 0.3, lost.size)
    dead = spikes(network, noise.DeadNeurons(0.3), x)["in"] == 20
    never = dead.all(axis=0)
    assert within(never[400:].mean(), 0.3, 3600)
    np.testing.assert_array_equal(dead[:, ~never], ~fires[:, ~never])
    assert (spikes(network, noise.DroppedSpikes(1.0), x)["in"] == 20).all()
    assert (spikes(network, noise.DeadNeurons(1.0), x)["in"] == 20).all()


def test_spurious(encoder):
    network, x, exact = encoder
    found = spikes(network, noise.SpuriousSpikes(0.2), x)["in"].astype(int)
    assert np.all(found <= exact)
    silent = exact == 20
    fired = found[silent] < 20
    assert within(fired.mean(), 0.2, fired.size)
    counts = np.bincount(found[silent][fired], minlength=20)
    assert counts.min() > 0 and all(within(count / fired.sum(), 1 / 20, fired.sum()) for count in counts)
    late = exact == 19
    assert within((found[late] < 19).mean(), 0.2 * 19 / 20, late.sum())


def test_threshold_mismatch(encoder):
    network, x, _ = encoder
    found = spikes(network, noise.ThresholdMismatch(0.25), x)["in"].astype(int)
    factor = np.maximum(1 + np.float32(0.25) * noise.Draws(0, 0, 0).normal((4000,)), 0.01)
    thresholds = np.exp(-np.arange(20) / 6.0)
    # The first step at which the intensity reaches the neuron's own threshold.
    reaches = x[..., None] >= factor[:, None] * thresholds
    expected = np.where(reaches.any(-1), reaches.argmax(-1), 20)
    assert np.mean(found != expected) < 1e-4, "but for rounding"
    assert abs(factor.mean() - 1) < 5 * 0.25 / np.sqrt(4000) and abs(factor.std() / 0.25 - 1) < 0.06


LAYERS = [
    (lambda: keras.layers.Dense(5), (6,), [1]),
    (lambda: keras.layers.Conv2D(5, 3), (8, 8, 3), [3]),
    (lambda: keras.layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 3), [2, 3]),
    (lambda: keras.layers.SeparableConv2D(5, 3), (8, 8, 3), None),
    (lambda: keras.layers.Conv2DTranspose(5, 3), (8, 8, 3), [2]),
    (lambda: keras.layers.Conv1D(5, 3), (8, 3), [2]),
    (lambda: keras.layers.Conv1DTranspose(5, 3), (8, 3), [1]),
    (lambda: keras.layers.DepthwiseConv1D(3), (8, 3), [1, 2]),
]


@pytest.mark.parametrize(("make", "shape", "channels"), LAYERS)
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_weight_bits(make, shape, channels, bits):
    """Every output channel has at most 2**bits - 1 weights, evenly spaced, each the nearest."""
    layer = make()
    layer.build((None, *shape))
    pairs = noise.kernels_of(layer)
    assert len(pairs) == (2 if channels is None else 1)
    for number, (kernel, axes) in enumerate(pairs):
        own = channels or [[2, 3], [3]][number]
        assert axes == [axis for axis in range(len(kernel.shape)) if axis not in own]
        exact = np.array(kernel)
        found = noise.WeightBits(bits).weights(tf.constant(exact), axes, None).numpy()
        exact, found = (np.moveaxis(array, own, range(len(own))) for array in (exact, found))
        size = int(np.prod(exact.shape[: len(own)]))
        for before, after in zip(exact.reshape(size, -1), found.reshape(size, -1)):
            step = np.abs(before).max() / (2 ** (bits - 1) - 1)
            assert len(np.unique(np.round(after / step))) <= 2**bits - 1
            np.testing.assert_allclose(after / step, np.round(after / step), atol=1e-4)
            assert np.abs(after - before).max() <= step * 0.50001
            assert np.isclose(np.abs(after).max(), np.abs(before).max())


def test_weights_of_a_network_are_disturbed_and_its_own_stay():
    network = SpikingNetwork.from_model(vgg())
    before = [kernel.copy() for node in network.nodes if isinstance(node, Synapse) for kernel in node.kernels]
    exact = network.run(X, verbose=0).logits
    noisy = network.run(X, noise=noise.WeightMismatch(0.3), verbose=0).logits
    assert np.abs(noisy - exact).max() > 1e-3
    np.testing.assert_array_equal(network.run(X, verbose=0).logits, exact)
    after = [kernel for node in network.nodes if isinstance(node, Synapse) for kernel in node.kernels]
    for ours, theirs in zip(before, after, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    ratios = []
    for node, other in zip(network.nodes, network._with_weights((noise.WeightMismatch(0.3),), 0).nodes):
        if isinstance(node, Synapse):
            ratios += [(theirs / ours).ravel() for ours, theirs in zip(node.kernels, other.kernels)]
    ratios = np.concatenate(ratios)
    assert abs(ratios.mean() - 1) < 5 * 0.3 / np.sqrt(ratios.size) and abs(ratios.std() / 0.3 - 1) < 0.05


def test_early_firing_and_records_know_noise():
    network = SpikingNetwork.from_model(vgg(), early_firing=5)
    result = network.run(X[:4], "clock", noise=KINDS, record={"conv1_1_activation": [0, 1]}, verbose=0)
    assert result.membranes["conv1_1_activation"].shape == (4, 2, result.decision_step)
    assert check_equivalence(vgg(), X[:3], verbose=0).equivalent


def hidden_model(kinds=(), relaxation=0.0):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    z = keras.layers.Dense(8, name="weights")(inputs)
    hidden = TTFSActivation(12, 4.0, relaxation=relaxation, name="hid", seed=1)(TKBatchNorm()(z))
    return TTFSModel(inputs, keras.layers.Dense(3, name="logits")(hidden), noise=kinds, lambda_tr=0.0, lambda_tb=0.0)


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS if kind.disturbs_neurons), KINDS], ids=str)
@pytest.mark.parametrize("kernel_gradient", ["decoder", "full"])
@pytest.mark.parametrize("rounding", ["ceil", "nearest"])
def test_noisy_neurons_in_closed_form(kinds, rounding, kernel_gradient):
    """Forward: levels of the disturbed spike times. Backward: the gradients of the exact ones. Both in NumPy."""
    tau, t_d, window = 4.0, 1.0, 12
    how = {"rounding": rounding, "kernel_gradient": kernel_gradient, "dtype": "float64"}
    layer = TTFSActivation(window, tau, t_d, seed=3, **how)
    numbers = np.random.default_rng(0)
    # Silent neurons, neurons in the window, and neurons that fire at once.
    z, upstream = numbers.uniform(-0.3, 2.0, (20, 30)), numbers.normal(size=(20, 30))
    layer.build(z.shape)
    layer.noise = tuple(kinds)
    before = np.array(layer.seed_generator.state)
    with tf.GradientTape() as tape:
        inputs = tf.Variable(z)
        loss = tf.reduce_sum(layer(inputs, training=True) * upstream)
    weights = [layer.tau, layer.t_d]
    found = [np.array(g) for g in tape.gradient(loss, [inputs, *(weight.value for weight in weights)])]
    layer.seed_generator.state.assign(before)
    outputs = np.array(layer(z, training=True))
    # The same draws again, behind that of the relaxation.
    layer.seed_generator.state.assign(before)
    keras.random.uniform((), seed=layer.seed_generator)
    wrong = noise.of_training(kinds, z.shape, window, layer.seed_generator)
    shift, silent, spurious, gain = (
        plain if value is None else np.array(value)
        for value, plain in zip((wrong.shift, wrong.silent, wrong.spurious, wrong.gain), (0, False, window, 1.0))
    )
    times = reference.spike_time(z * gain, tau, t_d, window, rounding)
    times = np.where(times < window, np.clip(times + shift, 0, window - 1), times)
    times = np.where(silent, window, np.minimum(times, spurious))
    np.testing.assert_allclose(outputs, reference.level(times, tau, t_d, window), rtol=1e-12)
    assert np.any(times != reference.spike_time(z, tau, t_d, window, rounding))
    dz, dtau, dt_d = reference.gradients(z, tau, t_d, window, rounding, kernel_gradient)
    np.testing.assert_allclose(found[0], dz * upstream, rtol=1e-12)
    np.testing.assert_allclose(found[1:], [(dtau * upstream).sum(), (dt_d * upstream).sum()], rtol=1e-10)


@pytest.mark.parametrize("kind", [noise.WeightBits(4), noise.WeightMismatch(0.2)], ids=str)
def test_noisy_weights_in_closed_form(kind):
    """Two layers: products with the disturbed kernels, and their gradients as if these were the kernels. In NumPy."""
    inputs = keras.Input((6,), dtype="float64")
    hidden = keras.layers.Dense(5, bias_initializer="normal", dtype="float64")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, dtype="float64")(hidden))
    numbers = np.random.default_rng(0)
    x, upstream = numbers.normal(size=(9, 6)), numbers.normal(size=(9, 3))
    draws = noise.TrainingDraws(keras.random.SeedGenerator(1))
    before = np.array(draws.seed.state)
    with tf.GradientTape() as tape:
        outputs = hardening.outputs_with_noise(model, tf.constant(x), [kind], draws)
        loss = tf.reduce_sum(outputs * upstream)
    first, bias, second, _ = model.trainable_variables
    found = tape.gradient(loss, [weight.value for weight in (first, bias, second)])
    draws.seed.state.assign(before)
    disturbed = []
    for kernel in (np.array(first), np.array(second)):
        if isinstance(kind, noise.WeightBits):
            step = np.abs(kernel).max(0) / 7
            disturbed.append(np.round(kernel / step) * step)
        else:
            disturbed.append(kernel * (1 + 0.2 * np.array(draws.normal(kernel.shape), "float64")))
    one, two = disturbed
    assert np.abs(one - np.array(first)).max() > 1e-3
    middle = x @ one + np.array(bias)
    np.testing.assert_allclose(np.array(outputs), middle @ two, rtol=1e-10, atol=1e-12)
    wanted = [x.T @ (upstream @ two.T), (upstream @ two.T).sum(0), middle.T @ upstream]
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.array(ours), theirs, rtol=1e-7, atol=1e-9)


def test_hardened_weights_all_learn():
    """With every kind at once, in a training step of a model: finite, and nothing is cut off, tau and t_d neither."""
    model = hidden_model(KINDS)
    x, y = tf.constant(np.random.default_rng(0).normal(size=(64, 6)), tf.float32), tf.constant(np.arange(64) % 3)
    model.compile(keras.optimizers.SGD(1.0), LOSS)
    before = [np.array(weight) for weight in model.trainable_weights]
    assert np.isfinite(np.asarray(model.train_on_batch(x, y))).all()
    moved = {w.path: np.abs(np.array(w) - b).max() for w, b in zip(model.trainable_weights, before)}
    # The norm takes the mean, and with it the bias before it.
    assert all(0 < change < 1e3 for path, change in moved.items() if "weights/bias" not in path), moved


def test_training_with_noise_differs_and_evaluation_knows_nothing_of_it(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(64, 6)).astype("float32"), np.arange(64) % 3
    for kind in KINDS:
        model, plain = hidden_model(kind), hidden_model()
        np.testing.assert_array_equal(model(x), plain(x))
        outputs = [np.array(model(x, training=True)) for _ in range(2)] if kind.disturbs_neurons else None
        assert outputs is None or np.any(outputs[0] != outputs[1])
        model.compile(keras.optimizers.SGD(0.1), LOSS)
        model.fit(x, y, verbose=0, epochs=2)
        # A saved model, and a clone, know nothing of it either.
        path = str(tmp_path / "model.keras")
        model.save(path)
        loaded = keras.saving.load_model(path)
        assert loaded.noise == () and len(loaded.variables) == len(plain.variables)
        np.testing.assert_array_equal(loaded(x), model(x))
        model.harden(())
        np.testing.assert_array_equal(model(x, training=True), model(x, training=True))


class OwnModel(TTFSModel):
    """A subclassed model, whose layers are made behind `super().__init__`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.hidden, self.last = keras.layers.Dense(8), TTFSActivation(12, 4.0), keras.layers.Dense(3)

    def call(self, x, training=False):
        return self.last(self.hidden(self.first(x), training=training))


def test_losses_of_layers_count_with_noise_too():
    """Of activity regularisers and add_loss."""
    losses = []
    for kinds in ([], [noise.Jitter(0.0)], [noise.WeightMismatch(0.0)]):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        z = keras.layers.ActivityRegularization(l2=10.0)(keras.layers.Dense(5, kernel_regularizer="l2")(inputs))
        model = TTFSModel(inputs, keras.layers.Dense(3)(TTFSActivation()(z)), noise=kinds)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        x, y = np.random.default_rng(0).random((8, 6)), np.arange(8) % 3
        losses.append([float(np.ravel(model.train_on_batch(x, y))[0]) for _ in range(3)])
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-5)
    assert losses[0][0] > 5


def test_noise_of_ones_own(network):
    """What `of_network` says of spikes holds for every sample, as in training; thresholds are never those of a sample."""

    @dataclasses.dataclass(frozen=True)
    class Late(noise.Noise):
        def of_network(self, found, shapes, random):
            return found._replace(shift=tf.fill(shapes.neurons, 3))

    @dataclasses.dataclass(frozen=True)
    class Wrong(noise.Noise):
        def of_sample(self, found, shapes, random):
            return found._replace(gain=tf.ones(shapes.membranes))

    first = next(iter(spikes(network, [Late()])))
    exact, late = (spikes(network, kinds)[first].astype(int) for kinds in ([], [Late()]))
    window = network.populations[0].time_window
    np.testing.assert_array_equal(late, np.where(exact < window, np.minimum(exact + 3, window - 1), exact))
    with pytest.raises(ValueError, match="Expected thresholds that are the same for every sample"):
        spikes(network, [Wrong()])
    with pytest.raises(ValueError, match="Expected thresholds that are the same for every sample"):
        noise.of_training([Wrong()], tf.constant([2, 4]), 8, keras.random.SeedGenerator(0))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_subclassed_model_is_hardened_too(jit_compile):
    x, y = np.random.default_rng(0).normal(size=(64, 6)).astype("float32"), np.arange(64) % 3
    losses = {}
    for name, kinds in (("plain", ()), ("hardened", [noise.DroppedSpikes(1.0), noise.WeightBits(4)])):
        keras.utils.set_random_seed(0)
        model = OwnModel(noise=kinds)
        model.compile(keras.optimizers.SGD(0.0), LOSS, jit_compile=jit_compile)
        losses[name] = model.fit(x, y, verbose=0, batch_size=64).history["loss"][0]
    # Without any spike all classes are alike.
    assert losses["hardened"] == pytest.approx(np.log(3), rel=1e-5) != losses["plain"]
    # All weights learn, from the very first step on.
    model = OwnModel(noise=[noise.Jitter(0.5), noise.WeightBits(4)])
    model.compile(keras.optimizers.SGD(1.0), LOSS, jit_compile=jit_compile)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(x, y, verbose=0, batch_size=64)
    assert all(np.any(layer.bias.numpy() != 0) for layer in (model.first, model.last))


def test_relaxed_layers_send_no_spikes_and_have_no_noise():
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    ours, plain = hidden_model([noise.DroppedSpikes(0.5)], relaxation=1.0), hidden_model(relaxation=1.0)
    np.testing.assert_allclose(ours(x, training=True), plain(x, training=True), rtol=1e-6)


def test_weights_in_training_are_the_disturbed_ones_and_moving_averages_move():
    """Weights of two bits: the step's loss is that of a model with these weights, and its statistics are kept."""
    x, y = np.random.default_rng(0).normal(size=(64, 6)).astype("float32"), np.arange(64) % 3
    model, other = hidden_model(noise.WeightBits(2)), hidden_model()
    for layer in (other.get_layer("weights"), other.get_layer("logits")):
        layer.kernel.assign(noise.WeightBits(2).weights(tf.constant(layer.kernel.numpy()), [0], None))
    for each in (model, other):
        each.compile(keras.optimizers.SGD(0.0), LOSS)
    assert model.train_on_batch(x, y) == pytest.approx(other.train_on_batch(x, y), rel=1e-5)
    norms = [next(layer for layer in each.layers if isinstance(layer, TKBatchNorm)) for each in (model, other)]
    np.testing.assert_allclose(norms[0].moving_mean, norms[1].moving_mean, rtol=1e-5)
    assert np.abs(norms[0].moving_mean).max() > 0
    np.testing.assert_array_equal(model.get_layer("weights").kernel, hidden_model().get_layer("weights").kernel)


@pytest.mark.slow
def test_a_hardened_network_keeps_more(digits):
    x, y = digits
    kinds = [noise.Jitter(1.5), noise.DroppedSpikes(0.1), noise.WeightBits(3)]
    kept = {}
    for name, given in (("plain", ()), ("hardened", kinds)):
        model = applications.vgg6(time_window=16, tau_0=5.0, gamma_0=0.3, bn_momentum=0.9, width=0.5, seed=0)
        model.harden(given)
        model.compile(keras.optimizers.Adam(3e-3), LOSS)
        model.fit(x[:1400], y[:1400], batch_size=64, epochs=10, verbose=0)
        network = SpikingNetwork.from_model(model)
        found = [network.run(x[1400:], noise=kinds, seed=seed, verbose=0).predictions for seed in range(2)]
        kept[name] = np.mean([np.mean(classes == y[1400:]) for classes in found])
    assert kept["hardened"] > kept["plain"] + 0.1


def test_what_is_refused():
    for make, message in (
        (lambda: noise.Jitter(-1), r"Expected std to be a finite number >= 0 \[steps\]. Received: std=-1"),
        (lambda: noise.DroppedSpikes(1.2), "Expected share .* Received: share=1.2"),
        (lambda: noise.WeightBits(1), "Expected bits to be an integer >= 2 and <= 16. Received: bits=1"),
        (lambda: noise.ThresholdMismatch(float("nan")), "Expected std .* Received: std=nan"),
        (lambda: hidden_model([0.5]), "Expected noise to be objects of keras_ttfs.noise"),
        (
            lambda: hidden_model("jitter"),
            "Expected noise to be objects of keras_ttfs.noise, in a list. Received: noise='jitter'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    network = SpikingNetwork.from_model(vgg())
    with pytest.raises(ValueError, match="Expected noise to be objects"):
        network.run(X, noise=[0.3])
    with pytest.raises(ValueError, match="Expected seed to be an integer >= 0"):
        network.run(X, noise=noise.Jitter(1.0), seed=-1)
    inputs = keras.Input((4,))
    with pytest.raises(
        ValueError, match="Expected every encoder to be a TTFSActivation in a model with noise. .* 'code'"
    ):
        TTFSModel(inputs, keras.layers.Dense(2)(TTFSEncode(name="code")(inputs)[0]), noise=noise.Jitter(1.0))
