"""TTFSModel: Eq. 9 and its gradients, counts of spikes, saving, subclasses."""

import importlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_ttfs
from keras_ttfs import TKBatchNorm, TTFSActivation, TTFSEncode, TTFSModel, noise
from tests import reference
from tests.networks import vgg6_to_train

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(48, 8, 8, 1)).astype("float32")
Y = RNG.integers(0, 10, 48).astype("int32")


def test_loss_is_the_hand_computed_sum_of_eq_9():
    lambda_tr, lambda_tb, l2 = 0.3, 0.02, 1e-3
    model = vgg6_to_train(lambda_tr=lambda_tr, lambda_tb=lambda_tb, l2=l2)
    model.compile(keras.optimizers.SGD(0.0), LOSS)
    for i, encoder in enumerate(model.encoders):
        encoder.tau.assign(10.0 + i)
        encoder.t_d.assign(0.1 * i)
    logits = model(X, training=True).numpy().astype("float64")
    crossentropy = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(48), Y])
    squares = sum(np.sum(np.float64(layer.kernel) ** 2) for layer in model.layers if hasattr(layer, "kernel"))
    reg_tr = sum(i**2 + (0.1 * i) ** 2 for i in range(6))
    p_tb = 0.0
    norms = [layer for layer in model.layers if isinstance(layer, TKBatchNorm)]
    for i, norm in enumerate(norms, 1):
        z_min = np.exp(-(31 - 0.1 * i) / (10.0 + i))
        pairs = zip(np.float64(norm.gamma), np.float64(norm.beta))
        p_tb += sum(reference.pruning_probability(gamma, beta, z_min) for gamma, beta in pairs)
    expected = crossentropy + l2 * squares + lambda_tr * reg_tr - lambda_tb * p_tb
    logs = model.train_on_batch(X, Y, return_dict=True)
    assert logs["reg_tr"] == pytest.approx(reg_tr, rel=1e-5)
    assert logs["p_tb"] == pytest.approx(p_tb, rel=1e-5)
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)


def test_gradients_of_the_two_terms():
    model = vgg6_to_train(lambda_tr=0.5, lambda_tb=2.0)
    model.compile(keras.optimizers.SGD(1.0), lambda y, logits: 0.0 * tf.reduce_sum(logits, axis=-1))
    encoder, norm = model.encoders[2], model.get_layer("conv1_2_norm")
    encoder.tau.assign(11.0)
    gamma, beta = np.float64(norm.gamma), np.float64(norm.beta)
    z_min, h = np.exp(-31 / 11), 1e-6
    model.train_on_batch(X, Y)
    p = reference.pruning_probability
    # SGD of rate 1: lambda_tr * 2 * (tau - tau_0); nothing of P_TB reaches tau, for z_min is a constant there.
    assert float(encoder.tau) == pytest.approx(11.0 - 0.5 * 2 * 1.0, abs=1e-6)
    assert float(encoder.t_d) == 0.0
    dgamma = [(p(g + h, b, z_min) - p(g - h, b, z_min)) / (2 * h) for g, b in zip(gamma, beta)]
    dbeta = [(p(g, b + h, z_min) - p(g, b - h, z_min)) / (2 * h) for g, b in zip(gamma, beta)]
    np.testing.assert_allclose(norm.gamma, gamma + 2.0 * np.array(dgamma), atol=1e-5)
    np.testing.assert_allclose(norm.beta, beta + 2.0 * np.array(dbeta), atol=1e-5)


@pytest.mark.slow
def test_mixed_float16_updates_as_float32():
    updates = {}
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        model = vgg6_to_train(lambda_tr=0.1)
        model.compile(keras.optimizers.SGD(0.1), LOSS)
        model.encoders[0].tau.assign(10.5)
        before = [np.array(weight) for weight in model.trainable_weights]
        model.train_on_batch(X, Y)
        updates[policy] = [np.array(w) - b for w, b in zip(model.trainable_weights, before)]
    size = [np.sqrt(sum(np.sum(np.float64(update) ** 2) for update in updates[policy])) for policy in updates]
    assert size[1] == pytest.approx(size[0], rel=0.05)


def count(model, x):
    """Spikes per sample of each encoder, from the outputs of the activations."""
    outputs = keras.Model(model.inputs, [encoder.output for encoder in model.encoders])(x)
    return [np.count_nonzero(output) / len(x) for output in outputs]


@pytest.mark.slow
def test_evaluate_counts_every_spike():
    model = vgg6_to_train()
    model.compile("adam", LOSS, metrics=["accuracy"])
    model.fit(X, Y, epochs=2, batch_size=16, verbose=0)
    logs = model.evaluate(X, Y, batch_size=20, verbose=0, return_dict=True)
    counts = count(model, X)
    assert logs["input_spikes"] == pytest.approx(counts[0], rel=1e-12)
    assert logs["spikes"] == pytest.approx(sum(counts[1:]), rel=1e-12)
    neurons = 64 + sum(encoder.neurons for encoder in model.encoders[1:]) + 10
    assert model.neurons == neurons
    assert logs["spikes_per_neuron"] == pytest.approx(sum(counts[1:]) / neurons, rel=1e-12)
    assert not any(name.endswith("_spikes") for name in logs if name != "input_spikes")
    again = model.evaluate(X, Y, batch_size=20, verbose=0, return_dict=True)
    assert again["spikes"] == logs["spikes"], "counts start anew"


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
def test_half_precision_counts_every_spike(policy):
    model = vgg6_to_train()
    model.compile("adam", LOSS)
    # More samples than bfloat16 holds as integers, more spikes than float16 does.
    x = np.tile(X, (100, *[1] * (X.ndim - 1)))
    logs = model.evaluate(x, np.tile(Y, 100), batch_size=500, verbose=0, return_dict=True)
    assert logs["input_spikes"] == pytest.approx(count(model, x)[0], rel=1e-12)
    assert logs["spikes"] == pytest.approx(sum(count(model, x)[1:]), rel=1e-12)


@pytest.mark.slow
def test_training_logs_have_no_spikes_but_validation_does():
    model = vgg6_to_train()
    model.compile("adam", LOSS)
    history = model.fit(X, Y, epochs=1, validation_data=(X, Y), verbose=0).history
    assert set(history) == {"loss", "reg_tr", "p_tb"} | {
        f"val_{name}" for name in ("loss", "reg_tr", "p_tb", "spikes", "input_spikes", "spikes_per_neuron")
    }


@keras.saving.register_keras_serializable("tests")
class Subclassed(TTFSModel):
    def __init__(self, units=6, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.input_coding = TTFSActivation()
        self.input_encoders = [self.input_coding]
        self.hidden = keras.layers.Dense(units)
        self.norm = TKBatchNorm()
        self.activation = TTFSActivation()
        self.head = keras.layers.Dense(10)

    def call(self, x, training=False):
        x = keras.ops.reshape(self.input_coding(x, training=training), (-1, 64))
        x = self.norm(self.hidden(x), training=training)
        return self.head(self.activation(x, training=training))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@pytest.mark.slow
def test_subclassed_model_after_functional_ones(tmp_path):
    vgg6_to_train()
    model = Subclassed(lambda_tr=0.25, lambda_tb=0.5)
    model.compile("adam", LOSS)
    logs = model.fit(X, Y, epochs=1, verbose=0, validation_data=(X, Y)).history
    assert model.batch_norm_pairs() == [(model.norm, model.activation)]
    z_min = float(model.activation.z_min)
    p_tb = sum(
        reference.pruning_probability(g, b, z_min) for g, b in zip(model.norm.gamma.numpy(), model.norm.beta.numpy())
    )
    assert logs["val_p_tb"][0] == pytest.approx(p_tb, rel=1e-5)
    assert logs["val_input_spikes"][0] == pytest.approx(np.count_nonzero(model.input_coding(X)) / 48)
    assert logs["val_spikes_per_neuron"][0] == pytest.approx(logs["val_spikes"][0] / (64 + 6 + 10))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert (loaded.lambda_tr, loaded.lambda_tb) == (0.25, 0.5)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


def test_pairs_are_found_through_layers_without_weights():
    inputs = keras.Input((8, 8, 1))
    x = TKBatchNorm(name="norm")(keras.layers.Conv2D(4, 3)(inputs))
    x = TTFSActivation(name="act")(keras.layers.Dropout(0.1)(keras.layers.MaxPooling2D()(x)))
    x = TKBatchNorm(name="last")(keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    model = TTFSModel(inputs, x)
    assert [(norm.name, encoder.name) for norm, encoder in model.batch_norm_pairs()] == [("norm", "act")]


@pytest.mark.slow
def test_fresh_process_loads_what_was_saved(tmp_path, in_fresh_process):
    model = vgg6_to_train(lambda_tr=0.125, lambda_tb=0.25, z_max_0=2.0)
    model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"])
    model.fit(X, Y, epochs=3, batch_size=16, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    script = (
        "import json, sys, numpy as np, keras_ttfs, keras\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "x, y = np.load(sys.argv[2]), np.load(sys.argv[3])\n"
        "out = {'class': type(model).__name__, 'lambdas': [model.lambda_tr, model.lambda_tb],\n"
        "       'tau': [float(e.tau) for e in model.encoders], 't_d': [float(e.t_d) for e in model.encoders],\n"
        "       'optimizer': [np.array(v).tolist() for v in model.optimizer.variables],\n"
        "       'predictions': model.predict(x, verbose=0).tolist(),\n"
        "       'evaluation': model.evaluate(x, y, verbose=0, return_dict=True),\n"
        "       'next': model.train_on_batch(x, y, return_dict=True)['loss'] * 1.0}\n"
        "print('JSON' + json.dumps(out))\n"
    )
    there = json.loads(in_fresh_process(script, path, tmp_path / "x.npy", tmp_path / "y.npy").split("JSON")[1])
    assert there["lambdas"] == [0.125, 0.25]
    assert there["tau"] == [float(encoder.tau) for encoder in model.encoders]
    assert there["t_d"] == [float(encoder.t_d) for encoder in model.encoders]
    for ours, theirs in zip(model.optimizer.variables, there["optimizer"], strict=True):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs, ours.dtype))
    np.testing.assert_array_equal(model.predict(X, verbose=0), np.float32(there["predictions"]))
    evaluation = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert there["evaluation"] == pytest.approx(evaluation, rel=1e-6)
    assert there["next"] == pytest.approx(float(model.train_on_batch(X, Y, return_dict=True)["loss"]), rel=1e-6)


@pytest.mark.parametrize("name", ["lambda_tr", "lambda_tb"])
def test_bad_lambdas(name):
    x = keras.Input((2,))
    for value in (-1.0, "x", float("nan")):
        with pytest.raises(ValueError, match=f"Expected {name} to be .* Received: {name}={value!r}"):
            TTFSModel(x, x, **{name: value})


def test_encoder_layer_counts_as_spikes_in_a_pair_network():
    inputs = keras.Input((8,))
    coded = keras_ttfs.TemporalKernelDecode()(TTFSEncode(name="in")(inputs))
    hidden = keras_ttfs.TemporalKernelDecode()(TTFSEncode(name="hidden")(keras.layers.Dense(5)(coded)))
    model = TTFSModel(inputs, keras.layers.Dense(10)(hidden))
    model.compile("adam", LOSS)
    x = X[:, 0, :, 0]
    model.fit(x, Y, epochs=1, verbose=0)
    logs = model.evaluate(x, Y, verbose=0, return_dict=True)
    values = keras.Model(inputs, [coded, hidden])(x)
    assert logs["input_spikes"] == pytest.approx(np.count_nonzero(values[0]) / 48)
    assert logs["spikes"] == pytest.approx(np.count_nonzero(values[1]) / 48)


@pytest.mark.slow
def test_an_exported_model_predicts_the_same_without_this_library(tmp_path, in_fresh_process):
    model = vgg6_to_train()
    model(X, training=True)
    model.export(str(tmp_path / "model"), verbose=False)
    np.save(tmp_path / "x.npy", X)
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "np.save(sys.argv[3], model.serve(np.load(sys.argv[2])))\n"
        "assert 'keras_ttfs' not in sys.modules\n"
    )
    in_fresh_process(script, tmp_path / "model", tmp_path / "x.npy", tmp_path / "y.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model(X, training=False))


@pytest.mark.slow
def test_a_model_in_pure_half_precision_trains():
    keras.config.set_dtype_policy("bfloat16")
    model = vgg6_to_train()
    model.compile("sgd", LOSS)
    logs = model.fit(X, Y, epochs=1, verbose=0, validation_data=(X, Y)).history
    assert np.isfinite(logs["loss"][0]) and logs["val_spikes"][0] > 0


def dense_model(kind=TTFSModel, policies=(None, None), **options):
    inputs = keras.Input((4,))
    z = TTFSActivation(dtype=policies[0])(inputs)
    z = TTFSActivation()(TKBatchNorm(dtype=policies[1])(keras.layers.Dense(4)(z)))
    return kind(inputs, keras.layers.Dense(2)(TTFSActivation()(TKBatchNorm()(keras.layers.Dense(4)(z)))), **options)


def test_clones_are_trained_with_the_same_loss():
    model = dense_model(lambda_tr=0.002, lambda_tb=0.003)
    model.compile("adam", "mse")
    clone = keras.models.clone_model(model)
    assert type(clone) is type(model) and (clone.lambda_tr, clone.lambda_tb) == (0.002, 0.003)
    block = dense_model(lambda_tr=0.5)
    inputs = keras.Input((4,))
    nested = keras.models.clone_model(TTFSModel(inputs, block(inputs), lambda_tr=0.25))
    assert nested.lambda_tr == 0.25
    assert [layer.lambda_tr for layer in nested.layers if isinstance(layer, TTFSModel)] == [0.5]


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "Lion", "LossScale"])
def test_weight_decay_leaves_the_kernels_alone(kind):
    optimizers = keras.optimizers
    make = {
        "AdamW": lambda: optimizers.AdamW(0.01, weight_decay=0.1),
        "SGD": lambda: optimizers.SGD(0.01, weight_decay=0.1),
        "Lion": lambda: optimizers.Lion(0.01, weight_decay=0.1),
        "LossScale": lambda: optimizers.LossScaleOptimizer(optimizers.AdamW(0.01, weight_decay=0.1)),
    }[kind]
    inputs = keras.Input((4,))
    encoder, head = TTFSActivation(), keras.layers.Dense(2, kernel_initializer="zeros", bias_initializer="ones")
    model = TTFSModel(inputs, head(encoder(inputs)), lambda_tr=0.0, lambda_tb=0.0)
    model.compile(make(), lambda y, y_pred: 0.0 * keras.ops.sum(y_pred, axis=-1))
    model.fit(np.ones((8, 4)), np.zeros((8, 2)), epochs=20, verbose=0)
    assert (float(encoder.tau), float(encoder.t_d)) == (10.0, 0.0)
    # What else decays decays.
    assert float(head.bias[0]) < 1.0


def test_spikes_of_nan_are_nan():
    model = dense_model()
    model.compile("adam", "mse")
    x = np.ones((4, 4))
    x[1, 2] = np.nan
    logs = model.evaluate(x, np.ones((4, 2)), verbose=0, return_dict=True)
    assert np.isnan([logs["spikes"], logs["input_spikes"], logs["spikes_per_neuron"]]).all()
    logs = model.evaluate(np.ones((4, 4)), np.ones((4, 2)), verbose=0, return_dict=True)
    assert logs["input_spikes"] == 4.0


def test_a_model_with_nothing_to_train_is_fitted_as_a_keras_model_is():
    for kind in (keras.Model, TTFSModel):
        model = dense_model(kind)
        model.trainable = False
        model.compile("adam", "mse")
        before = model.get_weights()
        with pytest.warns(UserWarning, match="does not have any trainable weights"):
            logs = model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0).history
        assert np.isfinite(logs["loss"]).all()
        for old, new in zip(before[:4], model.get_weights()[:4]):
            np.testing.assert_array_equal(old, new)


@pytest.mark.slow
@pytest.mark.parametrize("policies", [("float64", "float32"), ("float32", "bfloat16"), ("float64", "bfloat16")])
def test_layers_with_policies_of_their_own_train(policies):
    model = dense_model(policies=policies)
    model.compile("adam", "mse")
    logs = model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0).history
    assert np.isfinite([logs[name][0] for name in ("loss", "reg_tr", "p_tb")]).all()


@pytest.mark.parametrize("policy", ["float64"], indirect=True)
def test_float64_without_batch_normalisation(policy):
    inputs = keras.Input((4,))
    model = TTFSModel(inputs, keras.layers.Dense(2)(TTFSActivation()(inputs)))
    model.compile("adam", "mse")
    assert np.isfinite(model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0).history["loss"]).all()


def test_an_optional_input_may_be_missing():
    class Second(keras.layers.Layer):
        def call(self, inputs):
            first, second = inputs
            return first if second is None else first + second

        def compute_output_spec(self, inputs):
            return keras.KerasTensor(inputs[0].shape, dtype=inputs[0].dtype)

    ends = [keras.Input((4,), name="a"), keras.Input((4,), name="b", optional=True)]
    model = TTFSModel(ends, keras.layers.Dense(2)(TTFSActivation()(Second()(ends))))
    model.compile("adam", "mse")
    x, y = [X[:4, 0, :4, 0], None], np.ones((4, 2))
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert logs["spikes_per_neuron"] == pytest.approx((logs["spikes"] + 0.0) / (4 + 4 + 2), rel=1e-12)


@pytest.mark.slow
def test_p_tb_does_not_pull_where_its_series_has_ended(digits):
    """From beta = 0.6, where the cube of Eq. 8 rewards ever larger beta: 0.7.0 ended in NaN after 25 of these epochs."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    z = TTFSActivation()(inputs)
    for filters in (16, 32):
        norm = TKBatchNorm(beta_initializer=keras.initializers.Constant(0.6))
        z = TTFSActivation()(norm(keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(z)))
        z = keras.layers.MaxPooling2D()(z)
    model = TTFSModel(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(z)), lambda_tb=0.01)
    model.compile(keras.optimizers.SGD(0.1), LOSS, metrics=["accuracy"])
    x, y = digits
    logs = model.fit(x[:1400], y[:1400], batch_size=64, epochs=30, verbose=0).history
    assert np.isfinite(logs["loss"]).all() and logs["accuracy"][-1] > 0.99


def test_whole_models_in_the_older_format(tmp_path):
    model = dense_model(lambda_tr=0.25)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    assert type(loaded) is type(model) and loaded.lambda_tr == 0.25
    np.testing.assert_array_equal(loaded.predict(np.ones((3, 4)), verbose=0), model.predict(np.ones((3, 4)), verbose=0))


def unordered(graph):
    """Variables of an optimised graph of which a read and an update may run in either order."""
    nodes = {node.name: node for node in graph.node}

    def name_of(entry):
        return entry.removeprefix("^").partition(":")[0]

    def reaches(later, earlier):
        waiting, seen = [later], set()
        while waiting:
            node = waiting.pop()
            if node == earlier:
                return True
            if node not in seen and node in nodes:
                seen.add(node)
                waiting += map(name_of, nodes[node].input)
        return False

    reads, updates = {}, {}
    for node in graph.node:
        kinds = reads if node.op == "ReadVariableOp" else updates if node.op.startswith("Assign") else None
        if kinds is not None:
            kinds.setdefault(name_of(node.input[0]), []).append(node.name)
    return [
        (read, update)
        for variable, names in updates.items()
        for update in names
        for read in reads.get(variable, ())
        if not reaches(update, read) and not reaches(read, update)
    ], sum(map(len, updates.values()))


@pytest.mark.parametrize(
    "options", [{}, {"lambda_tr": 0.0}, {"frozen": True}, {"noise": [noise.WeightMismatch(0.1)]}], ids=str
)
def test_every_read_of_a_variable_is_ordered_against_its_updates(options):
    """In the graph that TensorFlow runs, which it has optimised: an update before a read would be another training."""
    # Private, and the one way to that graph.
    context = importlib.import_module("tensorflow.python.eager.context").context()
    options = {"lambda_tr": 1e-3, "lambda_tb": 1e-3, **options}
    frozen = options.pop("frozen", False)
    inputs = keras.Input((6,))
    z = TKBatchNorm()(keras.layers.Dense(5)(TTFSActivation()(inputs)))
    model = TTFSModel(inputs, keras.layers.Dense(3)(TTFSActivation()(z)), **options)
    model.freeze_temporal_kernels(frozen)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    context.enable_run_metadata()
    try:
        model.fit(np.random.default_rng(0).random((8, 6)), np.arange(8) % 3, verbose=0)
        graphs = [each.post_optimization_graph for each in context.export_run_metadata().function_graphs]
    finally:
        context.disable_run_metadata()
    step = max(graphs, key=lambda graph: len(graph.node))
    found, updates = unordered(step)
    assert updates > 10 and not found
