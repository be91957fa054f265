"""SpikeBudget on a toy: the number that is asked for, exact resumption, and what it refuses."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs import SpikeBudget, TKBatchNorm, TTFSActivation, TTFSModel

SAMPLES, STEPS, EPOCHS = 512, 16, 12


def toy(seed=0):
    """A classification that 200 steps learn, `(model, x, y)`."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    centres, y = rng.uniform(size=(4, 16)), rng.integers(0, 4, SAMPLES)
    x = np.clip(centres[y] + 0.15 * rng.normal(size=(SAMPLES, 16)), 0, 1).astype("float32")
    inputs = keras.Input((16,))
    z = TTFSActivation(16, 5.0, name="input")(inputs)
    for i in range(2):
        z = keras.layers.Dense(64, use_bias=False)(z)
        norm = TKBatchNorm(momentum=0.9, gamma_initializer=keras.initializers.Constant(0.4))
        z = TTFSActivation(16, 5.0, name=f"hidden{i}")(norm(z))
    model = TTFSModel(inputs, keras.layers.Dense(4)(z), lambda_tb=0.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
    return model, x, y


def fit(model, x, y, callbacks, **options):
    return model.fit(
        x, y, batch_size=SAMPLES // STEPS, shuffle=False, verbose=0, callbacks=callbacks, **{"epochs": EPOCHS} | options
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_budget_is_met(seed):
    model, x, y = toy(seed)
    free = sum(float(count) for count in model.count_spikes(x).values())
    budget = SpikeBudget(0.6 * free, x[:128], every=4)
    fit(model, x, y, [budget])
    logs = model.evaluate(x, y, return_dict=True, verbose=0)
    assert 0.54 * free < logs["spikes"] < 0.66 * free
    assert logs["accuracy"] > 0.95
    assert budget.rows[0]["target"] == pytest.approx(budget.rows[0]["spikes"])
    assert budget.rows[-1]["target"] == budget.spikes


def test_a_network_within_its_budget_is_left_alone():
    (model, x, y), (other, *_) = toy(), toy()
    budget = SpikeBudget(1000, x[:64], every=4)
    fit(model, x, y, [budget], epochs=2)
    fit(other, x, y, [], epochs=2)
    assert all(row["expected"] < 1000 == row["target"] for row in budget.rows)
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)


def drive(budget, model, counts, epochs, steps=16):
    """Runs a budget over epochs of `steps` training steps, in a run of 4. `{step: spikes}` stands for what is counted."""
    budget.set_model(model)
    budget.set_params({"epochs": 4, "steps": steps})
    budget.on_train_begin()
    for epoch in epochs:
        budget.on_epoch_begin(epoch)
        for batch in range(steps):
            # As many while nothing moves; a move takes as large a share of them as of their probability.
            ratio = counts.get(epoch * steps + batch, 0.0) / float(model.firing_probability())
            budget._count = lambda ratio=ratio: ratio * float(model.firing_probability())
            budget.on_train_batch_begin(batch)
    return budget


@pytest.mark.parametrize("every", [1, 3, 4, 20])
def test_a_resumed_run_goes_on_exactly(every):
    counts = dict(enumerate(np.linspace(40, 15, 64) + np.random.default_rng(0).normal(size=64)))
    (model, *_), (other, *_) = toy(), toy()
    whole = drive(SpikeBudget(20, np.ones((2, 16)), every=every), model, counts, range(4))
    assert [row["step"] for row in whole.rows] == list(range(0, 64, every))
    first = drive(SpikeBudget(20, np.ones((2, 16)), every=every), other, counts, range(2))
    rest = drive(SpikeBudget(20, np.ones((2, 16)), every=every, state=first.state), other, counts, range(2, 4))
    assert first.rows + rest.rows == whole.rows and rest.state == whole.state
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_targets_and_the_moving_average_by_hand():
    model, *_ = toy()
    counts = {0: 100.0, 8: 104.0, 16: 60.0}
    first = float(model.firing_probability())
    budget = drive(SpikeBudget(50, np.ones((2, 16)), every=8, ramp=0.5), model, counts, [0], steps=17)
    # The target at a share s of the run is 100 - 50 s / 0.5.
    targets = [100.0, 100 - 100 * 8 / (4 * 17), 100 - 100 * 16 / (4 * 17)]
    ratios = [100 / first]
    ratios.append(ratios[0] + 0.1 * (104 / first - ratios[0]))
    # The second count leads to a large cut, and to new counts of as many spikes per probability as it had itself.
    moved = targets[1] / (104 / first)
    ratios.append(104 / first + 0.1 * (60 / moved - 104 / first))
    assert [row["target"] for row in budget.rows] == pytest.approx(targets)
    assert [row["expected"] for row in budget.rows] == pytest.approx(
        [100.0, ratios[1] * first, ratios[2] * moved], rel=2e-4
    )
    # The average of the third leads to a large cut too, whose first move shows that the spikes are few enough.
    assert float(model.firing_probability()) == pytest.approx(0.95 * moved, rel=2e-3)


def test_scales_and_shifts_move_down_the_gradient_of_the_firing_probability():
    model, *_ = toy()
    pairs = model.batch_norm_pairs()
    thresholds = [float(encoder.z_min) for _, encoder in pairs]

    def read():
        """`[gamma of layer 1, of layer 2, beta of layer 1, of layer 2]`: all channels of the toy begin and move alike."""
        return np.array(
            [norm.gamma.numpy()[0] for norm, _ in pairs] + [norm.beta.numpy()[0] for norm, _ in pairs], float
        )

    def probability(v):
        z = (v[2:] - thresholds) / v[:2]
        return sum(0.5 * (1 + math.erf(each / math.sqrt(2))) for each in z)

    before = read()
    budget = drive(SpikeBudget(97, np.ones((2, 16)), ramp=0.0), model, {0: 100.0}, [0], steps=1)
    assert budget.rows == [{"step": 0, "spikes": 100.0, "expected": pytest.approx(100.0), "target": 97.0}]
    now = probability(before)
    slopes = [(probability(before + 1e-6 * step) - probability(before - 1e-6 * step)) / 2e-6 for step in np.eye(4)]
    wanted = -0.03 * now * np.array(slopes) / np.square(slopes).sum()
    np.testing.assert_allclose(read() - before, wanted, rtol=0.05)
    assert probability(read()) == pytest.approx(0.97 * now, rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_budget_at_once_is_counted_move_by_move(seed):
    """Of a network that has not been trained, whose moving statistics are far from those of its data."""
    model, x, _ = toy(seed)
    free = sum(float(count) for count in model.count_spikes(x).values())
    budget = SpikeBudget(0.3 * free, x, ramp=0.0)
    budget.set_model(model)
    budget.set_params({"epochs": 1, "steps": 1})
    budget.on_train_begin()
    budget.on_epoch_begin(0)
    budget.on_train_batch_begin(0)
    left = sum(float(count) for count in model.count_spikes(x).values())
    assert 0.2 * free < left < 0.31 * free


def test_what_is_frozen_stays_and_a_budget_out_of_reach_is_told():
    model, x, y = toy()
    first, second = (norm for norm, _ in model.batch_norm_pairs())
    first.trainable = False
    model.compile("sgd", model.loss)
    before = [weight.numpy() for weight in (first.gamma, first.beta)]
    with pytest.warns(UserWarning, match="Expected 1 spikes per sample at the end of training. Received: "):
        fit(model, x, y, [SpikeBudget(1, x[:64], every=4)], epochs=2)
    for weight, then in zip((first.gamma, first.beta), before):
        np.testing.assert_array_equal(weight.numpy(), then)
    assert (second.beta.numpy() < 0).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_other_precisions(policy):
    keras.config.set_dtype_policy(policy)
    model, x, y = toy()
    free = sum(float(count) for count in model.count_spikes(x).values())
    fit(model, x, y, [SpikeBudget(0.6 * free, x[:128], every=4)])
    assert sum(float(count) for count in model.count_spikes(x).values()) < 0.68 * free


def test_a_layer_of_another_precision():
    inputs = keras.Input((8,))
    z = TTFSActivation(16, 5.0)(TKBatchNorm()(keras.layers.Dense(8)(inputs)))
    z = TTFSActivation(16, 5.0, dtype="float64")(
        TKBatchNorm(dtype="float64")(keras.layers.Dense(8, dtype="float64")(z))
    )
    model = TTFSModel(inputs, keras.layers.Dense(2)(z))
    drive(SpikeBudget(90, np.ones((2, 8)), ramp=0.0), model, {0: 100.0}, [0], steps=1)
    assert float(model.firing_probability()) < 2.0


def test_in_the_scope_of_a_strategy():
    with tf.distribute.MirroredStrategy().scope():
        model, x, y = toy()
        free = sum(float(count) for count in model.count_spikes(x).values())
        fit(model, x, y, [SpikeBudget(0.6 * free, x[:128], every=4)])
    assert sum(float(count) for count in model.count_spikes(x).values()) < 0.68 * free


def test_the_firing_probability_is_the_share_of_normal_potentials_that_fire():
    for rounding in ("ceil", "nearest"):
        inputs = keras.Input((50,))
        norm, encoder = TKBatchNorm(epsilon=0.0), TTFSActivation(16, 5.0, rounding=rounding, name="hidden")
        outputs = keras.layers.Dense(2)(encoder(norm(keras.layers.Dense(50, kernel_initializer="identity")(inputs))))
        model = TTFSModel(inputs, outputs)
        norm.gamma.assign(np.full(50, 0.3))
        norm.beta.assign(np.linspace(-0.3, 0.4, 50))
        x = np.random.default_rng(0).normal(size=(40_000, 50)).astype("float32")
        fired = float(model.count_spikes(x)["hidden"]) / 50
        assert fired == pytest.approx(float(model.firing_probability()), abs=1e-3)


def test_layers_weigh_by_their_neurons():
    """One layer of 8x8x2 = 128 neurons, one of 32: 1.6 and 0.4 of the mean layer's 80."""
    inputs = keras.Input((8, 8, 1))
    norms = [TKBatchNorm(epsilon=0.0), TKBatchNorm(epsilon=0.0)]
    z = TTFSActivation(16, 5.0)(norms[0](keras.layers.Conv2D(2, 3, padding="same")(inputs)))
    z = TTFSActivation(16, 5.0)(norms[1](keras.layers.Dense(32)(keras.layers.Flatten()(z))))
    model = TTFSModel(inputs, keras.layers.Dense(2)(z))
    threshold = np.exp(-15 / 5.0)
    shares = []
    for norm, gamma, beta in zip(norms, (0.3, 0.2), (0.1, -0.1)):
        norm.gamma.assign(np.full(norm.gamma.shape, gamma))
        norm.beta.assign(np.full(norm.beta.shape, beta))
        shares.append(0.5 * (1 + math.erf((beta - threshold) / gamma / math.sqrt(2))))
    assert float(model.firing_probability()) == pytest.approx(1.6 * shares[0] + 0.4 * shares[1], rel=1e-5)


def test_steps_that_keras_does_not_tell_are_counted():
    model, x, y = toy()
    model.compile("sgd", model.loss, steps_per_execution=7)
    budget = SpikeBudget(5, x[:64], every=4)
    fit(model, x, y, [budget], epochs=4)
    assert len(budget.rows) >= 8 and budget.rows[-1]["step"] >= 56


def test_refuses_an_unknown_number_of_steps():
    model, x, y = toy()
    batches = ((x[:8], y[:8]) for _ in range(4))
    with pytest.raises(ValueError, match="Expected a known number of training steps"):
        model.fit(batches, verbose=0, callbacks=[SpikeBudget(5, x[:64])])


def test_counts_are_those_of_evaluate():
    model, x, y = toy()
    counts = tf.function(model.count_spikes)(x)
    assert set(counts) == {"hidden0", "hidden1"}
    spikes = model.evaluate(x, y, return_dict=True, verbose=0)["spikes"]
    assert sum(float(count) for count in counts.values()) == pytest.approx(spikes, rel=1e-6)


def test_refuses_models_without_scales_and_shifts():
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(2)(TTFSActivation()(inputs))
    frozen, plain = TKBatchNorm(trainable=False), TKBatchNorm(center=False, scale=False)
    others = [keras.layers.Dense(2)(TTFSActivation()(norm(keras.layers.Dense(4)(inputs)))) for norm in (frozen, plain)]
    x, y = np.ones((8, 4), "float32"), np.zeros(8)
    for model in (keras.Model(inputs, outputs), *(TTFSModel(inputs, found) for found in (outputs, *others))):
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        with pytest.raises(ValueError, match="Expected a TTFSModel with a trainable TKBatchNorm"):
            model.fit(x, y, verbose=0, callbacks=[SpikeBudget(10, x)])


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"spikes": 0}, "Expected spikes"),
        ({"data": np.full((2, 2), np.nan)}, "Expected data"),
        ({"every": 0}, "Expected every"),
        ({"ramp": 2}, "Expected ramp"),
        ({"state": {"first": 1.0}}, "Expected the state"),
    ],
)
def test_refuses_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        SpikeBudget(**{"spikes": 10, "data": np.ones((2, 2))} | wrong)
