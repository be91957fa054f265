"""The rate of biases: by hand in NumPy, and what is saved."""

import keras
import numpy as np
import pytest

import keras_ttfs
from experiments import optimizers
from experiments.config import Config


def network(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    hidden = keras_ttfs.TKBatchNorm(momentum=0.5)(keras.layers.Dense(3, use_bias=False)(inputs))
    return keras_ttfs.TTFSModel(inputs, keras.layers.Dense(2)(keras_ttfs.TTFSActivation()(hidden)))


def compiled(config):
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizers.make_optimizer(config), loss, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return model


X = np.random.default_rng(0).uniform(size=(16, 4)).astype("float32")
Y = np.arange(16) % 2


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_biases_and_beta_have_a_rate_of_their_own(optimizer):
    settings = {"optimizer": optimizer, "learning_rate": 0.001}
    before = compiled(Config(**settings)).trainable_variables
    before = {weight.path: np.array(weight) for weight in before}
    one, other = compiled(Config(**settings)), compiled(Config(**settings, bias_rate=8.0))
    changed = []
    for model in (one, other):
        model.train_on_batch(X, Y)
        changed.append([np.array(w) - old for w, old in zip(model.trainable_variables, before.values())])
    factors = {}
    for path, once, more in zip(before, *changed):
        moved = np.abs(once) > 1e-6
        factors.setdefault(path.split("/")[-1], []).append(
            np.median(more[moved] / once[moved]) if moved.any() else None
        )
    for name, found in factors.items():
        wanted = 8 if name in ("bias", "beta") else 1
        known = [factor for factor in found if factor is not None]
        assert known and known == pytest.approx([wanted] * len(known), rel=1e-2), name


def test_the_defaults_are_keras_own_optimizers():
    for name, kind in (("sgd", keras.optimizers.SGD), ("adam", keras.optimizers.Adam)):
        assert type(optimizers.make_optimizer(Config(optimizer=name))) is kind


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"], indirect=True)
def test_a_saved_model_needs_nothing_of_experiments(optimizer, policy, tmp_path, in_fresh_process):
    model = compiled(Config(optimizer=optimizer, learning_rate=0.01, bias_rate=2.0))
    for _ in range(3):
        model.train_on_batch(X, Y)
    assert len({variable.path for variable in model.optimizer.variables}) == len(model.optimizer.variables)
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    kinds = {"sgd": ("momentums",), "adam": ("_momentums", "_velocities")}[optimizer]
    state = {kind: [np.array(variable) for variable in getattr(inner, kind)] for kind in kinds}
    assert all(any(variable.any() for variable in variables) for variables in state.values())
    optimizers.compile_to_save(model, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    for kind, values in state.items():
        for variable, value in zip(getattr(inner, kind), values, strict=True):
            np.testing.assert_array_equal(variable, value)
    model.save(tmp_path / "model.keras")
    script = (
        "import sys, keras, keras_ttfs, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "assert 'experiments' not in sys.modules\n"
        "inner = getattr(model.optimizer, 'inner_optimizer', model.optimizer)\n"
        "print(type(inner).__module__.split('.')[0], type(inner).__name__, int(inner.iterations.numpy()))\n"
    )
    printed = in_fresh_process(script, tmp_path / "model.keras")
    assert printed.split()[-3:] == ["keras", {"sgd": "SGD", "adam": "Adam"}[optimizer], "3"]
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), model(X))
