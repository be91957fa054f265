"""Every private name of Keras that `keras_internals` uses, with real Keras objects. A failure says what breaks without it."""

import ast
import functools
import importlib
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs import TTFSEncode, TTFSModel, keras_internals

L = keras.layers
# What keras.Model(inputs, outputs) returns has no public name, and none is written in keras_internals.
CLASS = "the class of keras.Model(inputs, outputs)"
PINNED = {}


def pins(name, breaks):
    """A test of what Keras means by a private name, and what breaks in the library when it means something else."""

    def decorated(test):
        @functools.wraps(test)
        def told(*args, **kwargs):
            try:
                test(*args, **kwargs)
            except Exception as error:
                raise AssertionError(f"Keras has renamed or changed {name}. {breaks}") from error

        PINNED[name] = told
        return told

    return decorated


def dense_model():
    inputs = keras.Input((3,))
    return keras.Model(inputs, L.Dense(2)(inputs))


@pins(CLASS, "FunctionalTTFSModel has the wrong base: TTFSModel(inputs, outputs) cannot be built, saved or loaded.")
def test_class_of_functional_models():
    model = dense_model()
    assert type(model) is keras_internals.Functional and issubclass(keras_internals.Functional, keras.Model)
    inputs = keras.Input((3,))
    ours = TTFSModel(inputs, L.Dense(2)(inputs))
    assert isinstance(ours, keras_internals.Functional) and ours.inputs[0] is inputs


@pins("__bases__", "Subclasses of TTFSModel that give inputs and outputs to super().__init__ cannot be built.")
def test_functional_subclasses_are_rebased_and_their_base_is_not():
    before = TTFSModel.__bases__

    class Own(TTFSModel):
        def __init__(self, units):
            inputs = keras.Input((3,))
            super().__init__(inputs, L.Dense(units)(inputs))

    class Below(Own):
        pass

    for kind in (Below, Own):
        model = kind(2)
        assert isinstance(model, keras_internals.Functional) and model(np.ones((4, 3))).shape == (4, 2)
    assert TTFSModel.__bases__ == before and not issubclass(TTFSModel, keras_internals.Functional)


@pins(
    "_functional",
    "topology.walk refuses Sequential models: no SpikingNetwork, no convert, and no pairs for P_TB in blocks.",
)
def test_graph_of_a_sequential_model():
    unbuilt = keras.Sequential([L.Dense(2)])
    assert keras_internals.functional_of(unbuilt) is None
    unbuilt.build((None, 3))
    graph = keras_internals.functional_of(unbuilt)
    assert isinstance(graph, keras_internals.Functional) and graph.inputs == unbuilt.inputs
    model = dense_model()
    assert keras_internals.functional_of(model) is model
    assert keras_internals.functional_of(L.Dense(2)) is None


@pins(
    "_run_through_graph",
    "topology.walk is lost, and with it SpikingNetwork, CodedNetwork, convert, check_equivalence and TTFSModel.neurons.",
)
def test_calls_of_a_graph_in_their_order():
    inputs = [keras.Input((2,), name=name) for name in ("x", "y")]
    branches = [L.Identity(name=name)(end) for name, end in zip(("a", "b"), inputs)]
    model = keras.Model(inputs, L.Add(name="sum")([*branches, inputs[0]]))

    def operation_of(layer):
        return lambda *args, **kwargs: f"{layer.name}({', '.join(keras.tree.flatten((args, kwargs)))})"

    graph = keras_internals.functional_of(model)
    assert graph is model
    assert keras_internals.run_through_graph(graph, ["x", "y"], operation_of) == "sum(a(x), b(y), x)"


@pins(
    "_inputs_struct", "Nested models that are called with a dict of their inputs' names are walked in the wrong order."
)
def test_models_of_named_inputs():
    ends = {name: keras.Input((2,), name=name) for name in ("b", "a")}
    total = L.Add()(list(ends.values()))
    assert keras_internals.takes_named_inputs(keras.Model(ends, total))
    assert not keras_internals.takes_named_inputs(keras.Model(list(ends.values()), total))


@pins(
    "_inbound_nodes",
    "TTFSEncode's triple counts as one tensor: pairs and neurons of networks with TTFSEncode are wrong.",
)
def test_number_of_a_layers_outputs():
    inputs = keras.Input((3,))
    encode, dense = TTFSEncode(), L.Dense(2)
    assert keras_internals.output_count(dense) == 1, "never called"
    dense(encode(inputs)[0])
    assert (keras_internals.output_count(encode), keras_internals.output_count(dense)) == (3, 1)


@pins(
    "_flatten_layers", "Encoders of nested models are not found: no relaxation, no REG_TR, no history of their kernels."
)
def test_layers_of_nested_models():
    inner = keras.Sequential([keras.Input((3,)), L.Dense(3, name="deep")], name="inner")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, L.Dense(2, name="head")(inner(inputs)))

    def names(**options):
        found = keras_internals.layers_below(model, **options)
        return {layer.name for layer in found if not isinstance(layer, L.InputLayer)}

    # A Sequential model may hold its own graph as one more layer.
    assert names() >= {"inner", "deep", "head"} and model.name not in names()
    assert names(recursive=False) == {"inner", "head"}
    assert keras_internals.layers_below(lambda x: x) == []


@pins("_loss_tracker", "fit and evaluate log a `loss` without the terms of Eq. 9, or fail.")
def test_loss_of_an_epoch_is_the_mean_over_samples():
    model = dense_model()
    model.compile("sgd", "mse")
    keras_internals.track_loss(model, 1.0, samples=3)
    keras_internals.track_loss(model, 5.0, samples=1)
    assert float(model.get_metrics_result()["loss"]) == 2.0
    model.reset_metrics()
    keras_internals.track_loss(model, 7.0, samples=2)
    assert float(model.get_metrics_result()["loss"]) == 7.0


@pins("_compile_loss", "Losses that several replicas do not share are not seen, or `fit` fails with several.")
@pins("_flat_losses", "Losses that several replicas do not share are not seen, or `fit` fails with several.")
def test_losses_are_observed():
    def told(seen, loss, values):
        seen.append((loss, getattr(values, "shape", None)))

    class Own(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)

    for built in (False, True):
        model, given, seen = dense_model(), Own(), []
        given.call = functools.partial(lambda own, *args: 10 * Own.call(own, *args), given)
        model.compile("sgd", given)
        batch = {"x": np.ones((4, 3)), "y": np.ones((4, 2))}
        batch["y_pred"] = model(batch["x"])
        expected = pytest.approx(10 * float(Own()(batch["y"], batch["y_pred"])))
        if built:
            assert float(model.compute_loss(**batch)) == expected
        for _ in range(2):
            keras_internals.observe_losses(model, functools.partial(told, seen))
            assert float(model.compute_loss(**batch)) == expected
        assert seen == [(given, None), (given, (4,)), (given, (4,))]
        # The user's own is what it was.
        assert float(given(batch["y"], batch["y_pred"])) == expected and len(seen) == 3


@pins("_keras_mask", "Masked outputs, whose loss several replicas do not share, are not refused.")
def test_outputs_with_a_mask():
    inputs = keras.Input((3, 2))
    model = keras.Model(inputs, [L.Dense(2)(L.Masking()(inputs)), L.Dense(2)(inputs)])
    assert [keras_internals.is_masked(output) for output in model(np.zeros((4, 3, 2)))] == [True, False]


@pins("_losses", "Losses of layers are mixed up by several devices of one process, or `fit` fails on them.")
def test_layers_with_losses():
    inputs = keras.Input((3,))
    model = keras.Model(
        inputs, L.Dense(2, kernel_regularizer="l2")(L.Dense(2, activity_regularizer="l2", name="one")(inputs))
    )
    model(np.ones((4, 3)))
    assert [layer.name for layer in keras_internals.layers_with_losses(model)] == ["one"]


@pins("_moments", "TKBatchNorm does not learn a batch's statistics: a training step falls back to the two slow layers.")
def test_moments_of_a_training_step_are_observed():
    seen = []

    class Watched(keras_internals.ObservedBatchNormalization):
        def moments_computed(self, inputs, mask, mean, variance):
            seen.append((inputs, mask, mean.numpy(), variance.numpy()))

    x = np.random.default_rng(0).normal(1.0, 2.0, (6, 3, 2)).astype("float32")
    layer, plain = Watched(), L.BatchNormalization()
    layer(x, training=False)
    assert seen == []
    np.testing.assert_array_equal(layer(x, training=True), plain(x, training=True))
    ((inputs, mask, mean, variance),) = seen
    assert mask is None
    np.testing.assert_array_equal(inputs, x)
    np.testing.assert_allclose(mean, x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(variance, x.var((0, 1)), rtol=1e-5)
    mask = np.array([[True, True, False]] * 6)
    layer(x, training=True, mask=mask)
    np.testing.assert_array_equal(seen[1][1], mask)


DECAY = "Weight decay pulls tau and t_d to 0, where Eq. 9 pulls them to their initial values."


def decayed(optimizer):
    """Three variables after a step without gradient, the second kept out of the decay."""
    variables = [keras.Variable(1.0, name=name) for name in ("a", "b", "c")]
    optimizer.build(variables)
    optimizer.apply([tf.zeros(()) for _ in variables], variables)
    keras_internals.exclude_from_weight_decay(optimizer, variables[1:2])
    before = [float(variable) for variable in variables]
    optimizer.apply([tf.zeros(()) for _ in variables], variables)
    return [float(variable) < old for variable, old in zip(variables, before)]


@pins("_exclude_from_weight_decay", DECAY)
def test_variables_are_kept_out_of_the_decay_of_a_built_optimizer():
    assert decayed(keras.optimizers.AdamW(0.1, weight_decay=0.1)) == [True, False, True]
    assert decayed(keras.optimizers.SGD(0.1, weight_decay=0.1)) == [True, False, True]
    inner = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    inner.exclude_from_weight_decay(var_names=["c"])
    assert decayed(keras.optimizers.LossScaleOptimizer(inner)) == [True, False, False]


@pins("_exclude_from_weight_decay_cache", DECAY)
def test_what_an_optimizer_remembers_of_its_decay_is_forgotten():
    test_variables_are_kept_out_of_the_decay_of_a_built_optimizer()


@pins("_var_key", DECAY)
def test_key_of_a_variable():
    optimizer, one, other = keras.optimizers.AdamW(), keras.Variable(1.0), keras.Variable(1.0)
    assert optimizer._var_key(one) == optimizer._var_key(one) != optimizer._var_key(other)


@pins("_keras_history", "keras.ops.relu and keras.activations.relu as functions are refused as unknown operations.")
def test_operation_behind_a_function():
    assert keras_internals.operation_type(keras.ops.relu).__name__ == "Relu"
    assert keras_internals.operation_type(keras.ops.relu) is not keras_internals.operation_type(keras.ops.relu6)


class SeesExports(L.Layer):
    """A layer that notes whether each of its calls is traced for a file."""

    def build(self, input_shape):
        self.seen = []

    def call(self, inputs):
        self.seen.append(keras_internals.exporters())
        return inputs


@pins("__module__", "Files that Keras exports hold compiled functions and counters, and their runtimes refuse them.")
def test_export_is_recognised(tmp_path):
    layer = SeesExports()
    model = keras.Sequential([keras.Input((3,)), layer])
    model.predict(np.ones((2, 3)), verbose=0)
    assert not any(layer.seen)
    layer.seen = []
    model.export(str(tmp_path / "model"), verbose=False)
    assert layer.seen and all(names and all(name.startswith("saved_model") for name in names) for names in layer.seen)
    for format, suffix in (("onnx", ".onnx"), ("litert", ".tflite")):
        pytest.importorskip({"onnx": "tf2onnx", "litert": "ai_edge_litert"}[format], reason="the extra export")
        layer.seen = []
        model.export(str(tmp_path / f"model{suffix}"), format=format, verbose=False)
        assert layer.seen and all(format in names for names in layer.seen)


@pins("_getframe", "The same: the frames of Python tell who traces a model.")
def test_frames():
    assert not keras_internals.exporters()


@pins("__name__", "A tf.function of a user's own keeps what it was traced with in an export.")
def test_a_function_within_a_function():
    seen = {}

    def note(name):
        seen[name] = keras_internals.is_inner_function(tf.compat.v1.get_default_graph())

    @tf.function
    def inner(x):
        note("inner")
        return x

    @tf.function
    def outer(x):
        note("outer")
        tf.cond(x > 0, lambda: note("branch"), lambda: None)
        return inner(x)

    outer(tf.constant(1.0))
    assert seen == {"outer": False, "branch": False, "inner": True}


@pins("_get_ops_details", "Reports of LiteRT files cannot tell their operations.")
def test_operations_of_a_litert_file():
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    function = tf.function(lambda x: tf.nn.relu(x) + 1.0, input_signature=[tf.TensorSpec((1, 3))])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    loaded = interpreter.Interpreter(model_content=converter.convert())
    assert set(keras_internals.litert_operations(loaded)) >= {"ADD", "RELU"}


class Trained(keras_internals.DistributedModel):
    """What Keras asks of a model in `fit`."""

    def __init__(self):
        super().__init__()
        self.dense, self.asked = L.Dense(2), []

    def call(self, x):
        return self.dense(x)

    def note(self, name, value):
        self.asked.append(name)
        return value


def fit_once():
    model = Trained()
    for name in ("_maybe_symbolic_build", "_make_function", "_get_metrics_result_or_logs"):
        method = getattr(model, name)
        setattr(model, name, lambda *args, name=name, method=method, **kw: model.note(name, method(*args, **kw)))
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    return model


@pins("_maybe_symbolic_build", "`fit` fails under MultiWorkerMirroredStrategy before its first step.")
def test_what_builds_a_model_in_a_strategy():
    assert "_maybe_symbolic_build" in fit_once().asked


@pins("_make_function", "`fit` fails under MultiWorkerMirroredStrategy after its first step.")
def test_what_makes_the_function_of_a_step():
    assert "_make_function" in fit_once().asked


@pins("_get_metrics_result_or_logs", "Logs of several devices are means of what each of them has seen.")
def test_what_makes_the_logs_of_an_epoch():
    assert "_get_metrics_result_or_logs" in fit_once().asked


@pins("_distributed_dataset", "`fit` fails under MultiWorkerMirroredStrategy before its first step.")
def test_the_data_that_a_fit_iterates():
    seen = []

    class Own(Trained):
        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            seen.append(iterator._distributed_dataset.element_spec)

    model = Own()
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    assert [spec.shape[1] for spec in keras.tree.flatten(seen[0])] == [3, 2]


@pins("_value_specs", "`fit` under a strategy builds a model of what it does not get.")
def test_the_specification_of_what_each_replica_gets():
    # What a strategy gives has no public name.
    values = importlib.import_module("tensorflow.python.distribute.values")
    spec = values.PerReplica([tf.ones((2, 3)), tf.ones((2, 3))])._type_spec
    assert spec._value_specs[0].shape == (2, 3)


@pins("_in_multi_worker_mode", "`fit` of several workers is taken for that of one.")
def test_one_worker_is_not_several():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    assert strategy.extended._in_multi_worker_mode() is False
    assert not keras_internals.several_workers(strategy)


def test_clones_keep_their_options():
    inputs = keras.Input((3,))
    model = TTFSModel(inputs, L.Dense(2)(inputs), lambda_tr=0.25, lambda_tb=0.5)
    clone = keras.models.clone_model(model)
    assert (clone.lambda_tr, clone.lambda_tb) == (0.25, 0.5)
    # What the user says of the clone's tensors counts.
    assert TTFSModel(clone.inputs, clone.outputs, lambda_tb=0.125).lambda_tb == 0.125
    other = keras.Input((3,))
    # A model that is called, not cloned, keeps its options to itself.
    assert TTFSModel(other, model(other)).lambda_tr == 1e-5


def test_every_private_name_is_pinned():
    """A name in keras_internals that no test above pins, or a test of a name that it no longer uses."""
    tree = ast.parse(inspect.getsource(keras_internals))
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    # And what every class may have.
    own |= {"_keras_ttfs_clone_options", "__init__"}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    texts = {
        argument.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr")
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }
    methods = {
        method.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, ast.FunctionDef)
    }
    found = {name for name in attributes | texts | methods if isinstance(name, str) and name.startswith("_")} - own
    assert found == PINNED.keys() - {CLASS}


def test_a_changed_name_is_told(monkeypatch):
    monkeypatch.delattr(L.BatchNormalization, "_moments")
    with pytest.raises(AssertionError, match="Keras has renamed or changed _moments. TKBatchNorm does not learn"):
        PINNED["_moments"]()
