"""Distillation: the term by hand in float64, its gradient, its one place in the loss, and that the teacher stays outside."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs import TKBatchNorm, TTFSActivation, TTFSModel
from keras_ttfs.distillation import distillation

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(12, 4)).astype("float32")
Y = RNG.integers(0, 3, 12)


def term(logits, teacher, temperature):
    """Of each sample, straight from the definition."""
    found = []
    for ours, theirs in zip(np.float64(logits), np.float64(teacher)):
        q, p = (np.exp(values / temperature) / np.exp(values / temperature).sum() for values in (ours, theirs))
        found.append(temperature**2 * sum(p * np.log(p / q)))
    return np.array(found)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_term_is_the_definition_and_its_gradient_that_of_finite_differences(temperature):
    logits, teacher = RNG.normal(size=(2, 5, 4)) * 2
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        watched = tf.Variable(teacher)
        ours = distillation(variable, watched, temperature)
        total = tf.reduce_sum(ours)
    np.testing.assert_allclose(ours, term(logits, teacher, temperature), rtol=1e-12)
    gradient, of_teacher = tape.gradient(total, [variable, watched])
    assert of_teacher is None
    h = 1e-6
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[place] = h
        change = term(logits + step, teacher, temperature) - term(logits - step, teacher, temperature)
        assert float(gradient[place]) == pytest.approx(change.sum() / (2 * h), abs=1e-7)
    np.testing.assert_allclose(distillation(logits, logits + 7.0, temperature), np.zeros(5), atol=1e-14)


def test_half_precision_and_large_logits_are_finite():
    for dtype in ("float16", "bfloat16", "float32"):
        values = tf.constant([[1000.0, -1000.0, 0.0]], dtype)
        found = distillation(values, -values, 1.0)
        assert found.dtype == tf.float32 and float(found[0]) == pytest.approx(2000.0, rel=1e-2)


def network(name="student", outputs=3, activation=None, seed=0):
    inputs = keras.Input((4,))
    weights = (keras.initializers.GlorotUniform(seed=seed + place) for place in range(2))
    hidden = TKBatchNorm()(keras.layers.Dense(6, kernel_initializer=next(weights))(inputs))
    hidden = TTFSActivation(name="hidden")(hidden)
    head = keras.layers.Dense(outputs, activation=activation, kernel_initializer=next(weights), name="logits")
    return inputs, head(hidden), name


def student(teacher=None, seed=0, **options):
    inputs, outputs, name = network(seed=seed)
    return TTFSModel(inputs, outputs, lambda_tr=0.0, lambda_tb=0.0, teacher=teacher, name=name, **options)


def a_teacher():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(keras.layers.Dense(9, "relu")(inputs)))
    return keras.Model(inputs, keras.layers.Dense(3)(hidden), name="teacher")


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_has_the_term_once_weighted_as_keras_weighs(weighted):
    teacher = a_teacher()
    model = student(teacher, lambda_kd=0.7, temperature=3.0)
    model.compile(keras.optimizers.SGD(0.0), LOSS)
    weight = np.linspace(0.1, 2.0, 12).astype("float32") if weighted else None
    logits = np.float64(model(X, training=True))
    each = term(logits, teacher(X, training=False), 3.0)
    crossentropy = np.log(np.exp(logits).sum(1)) - logits[np.arange(12), Y]
    by = np.ones(12) if weight is None else weight
    logs = model.train_on_batch(X, Y, sample_weight=weight, return_dict=True)
    assert logs["kd"] == pytest.approx(np.mean(by * each), rel=1e-5)
    assert logs["loss"] == pytest.approx(np.mean(by * (crossentropy + 0.7 * each)), rel=1e-5)
    if weighted:
        model.compile(keras.optimizers.SGD(0.0), LOSS)
        again = model.train_on_batch(X, Y, sample_weight=weight[:, None], return_dict=True)
        assert again["loss"] == pytest.approx(logs["loss"], rel=1e-5)


def test_only_training_has_the_term():
    model, plain = student(a_teacher(), lambda_kd=5.0), student()
    for one in (model, plain):
        one.compile(keras.optimizers.SGD(0.0), LOSS, metrics=["accuracy"])
    history = model.fit(X, Y, validation_data=(X, Y), epochs=2, verbose=0).history
    other = plain.fit(X, Y, validation_data=(X, Y), epochs=2, verbose=0).history
    assert history.keys() - other.keys() == {"kd"} and other.keys() <= history.keys()
    assert history["val_loss"] == other["val_loss"] and history["loss"] != other["loss"]
    assert "kd" not in model.evaluate(X, Y, verbose=0, return_dict=True)


def test_a_student_becomes_its_teacher():
    teacher = student(seed=5)
    model = student(teacher, lambda_kd=1.0, temperature=2.0)
    # No other loss.
    model.compile(keras.optimizers.Adam(0.02), lambda y, logits: 0.0 * tf.reduce_sum(logits, axis=-1))
    x = RNG.uniform(size=(256, 4)).astype("float32")
    before = np.mean(term(model(x), teacher(x), 2.0))
    model.fit(x, np.zeros(256), epochs=60, batch_size=64, verbose=0)
    assert np.mean(term(model(x), teacher(x), 2.0)) < 0.1 * before


def test_the_teacher_is_no_part_of_the_model(tmp_path, in_fresh_process):
    teacher = a_teacher()
    model, plain = student(teacher, lambda_kd=1.0), student()
    before = [np.array(variable) for variable in teacher.variables]
    paths = [variable.path for variable in plain.variables]
    assert [variable.path.split("/")[-1] for variable in model.variables] == [path.split("/")[-1] for path in paths]
    assert model.count_params() == plain.count_params() and len(model.layers) == len(plain.layers)
    assert model.get_config().keys() == plain.get_config().keys()
    model.compile("adam", LOSS)
    model.fit(X, Y, epochs=2, verbose=0)
    for ours, theirs in zip(teacher.variables, before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    model.save(tmp_path / "model.keras")
    script = (
        "import sys, warnings\n"
        "warnings.simplefilter('error', UserWarning)\n"
        "import keras, keras_ttfs\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "print(model.teaching, [layer.name for layer in model.layers][-1])\n"
    )
    assert in_fresh_process(script, tmp_path / "model.keras").split() == ["None", "logits"]
    assert keras.models.clone_model(model).teaching is None
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(X), model(X))


def test_a_teacher_comes_and_goes():
    model = student()
    model.compile(keras.optimizers.SGD(0.0), LOSS)
    assert "kd" not in model.fit(X, Y, verbose=0).history
    model(X)
    model.learn_from(a_teacher(), lambda_kd=2.0, temperature=4.0)
    assert model.fit(X, Y, verbose=0).history["kd"][0] > 0
    model.learn_from(None)
    assert "kd" not in model.fit(X, Y, verbose=0).history


def test_subclassed_models_learn_too():
    class Subclassed(TTFSModel):
        def __init__(self, **options):
            super().__init__(**options)
            self.body = keras.layers.Dense(3)

        def call(self, x, training=None):
            return self.body(x)

    # Labels pull elsewhere.
    model = Subclassed(teacher=a_teacher(), lambda_kd=5.0)
    model.compile(keras.optimizers.SGD(0.1), LOSS)
    history = model.fit(X, Y, epochs=30, verbose=0).history["kd"]
    assert history[-1] < history[0]
    wrong = Subclassed(teacher=keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), lambda_kd=1.0)
    wrong.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="Expected teacher_logits of the shape of logits"):
        wrong.train_on_batch(X, Y)


@pytest.mark.parametrize("activation", ["softmax", keras.ops.softmax, keras.layers.Softmax, "nested"])
def test_probabilities_are_refused(activation):
    inputs = keras.Input((4,))
    logits = keras.layers.Dense(3)(inputs)
    if activation == "softmax":
        outputs = keras.layers.Dense(3, "softmax")(inputs)
    elif activation == "nested":
        outputs = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Softmax()])(inputs)
    else:
        outputs = (activation() if isinstance(activation, type) else activation)(logits)
    message = "Expected a teacher whose outputs are logits. Received: 'wise', which ends in softmax"
    with pytest.raises(ValueError, match=message):
        student(keras.Model(inputs, outputs, name="wise"), lambda_kd=1.0)
    with pytest.raises(ValueError, match="Expected a model with a teacher whose outputs are logits. Received: 'wise'"):
        TTFSModel(inputs, outputs, teacher=a_teacher(), lambda_kd=1.0, name="wise")


def test_errors_of_teachers():
    wide = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)], name="wide")
    message = (
        r"Expected a teacher with the one output of its student. Received: 'wide' with outputs of .* \[\(None, 4\)\]"
    )
    with pytest.raises(ValueError, match=message):
        student(wide, lambda_kd=1.0)
    with pytest.raises(ValueError, match="Expected lambda_kd=0 without a teacher. Received: lambda_kd=1.0"):
        student(lambda_kd=1.0)
    with pytest.raises(ValueError, match="Expected teacher to be a keras.Model. Received: teacher='model.keras'"):
        student("model.keras", lambda_kd=1.0)
    with pytest.raises(ValueError, match="Expected temperature to be a finite number > 0"):
        student(a_teacher(), lambda_kd=1.0, temperature=0.0)
    with pytest.raises(ValueError, match="Expected teacher_logits of the shape of logits"):
        distillation(np.zeros((2, 3)), np.zeros((2, 4)))


def test_a_teacher_with_spikes_keeps_its_counts_to_itself():
    teacher, model = student(seed=3), student()
    model.learn_from(teacher, lambda_kd=1.0)
    model.compile("sgd", LOSS)
    logs = model.fit(X, Y, validation_data=(X, Y), verbose=0).history
    assert logs["val_spikes"] == [pytest.approx(float(np.mean(np.sum(hidden(model) > 0, axis=1))))]


def hidden(model):
    return np.array(keras.Model(model.inputs[0], model.get_layer("hidden").output)(X))
