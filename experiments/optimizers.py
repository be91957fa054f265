"""Optimizers of a run: Keras' own, with another learning rate for biases where the config asks for it.

A saved model has an optimizer of Keras: it loads without this module.
"""

from typing import Any

import keras

from experiments.config import Config

BIASES = ("bias", "beta")


class _FasterBiases:
    """Mixed into an optimizer of Keras.

    Args:
        bias_rate: factor on the learning rate of biases and of beta [1].
    """

    def __init__(self, *args: Any, bias_rate: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.bias_rate = bias_rate

    def update_step(self, gradient, variable, learning_rate):
        # TensorFlow's variable is called bias:0.
        is_bias = variable.name.split("/")[-1].split(":")[0] in BIASES
        super().update_step(gradient, variable, learning_rate * self.bias_rate if is_bias else learning_rate)


class FasterBiasesSGD(_FasterBiases, keras.optimizers.SGD):
    """SGD with a learning rate of their own for biases."""

    keras_class = keras.optimizers.SGD


class FasterBiasesAdam(_FasterBiases, keras.optimizers.Adam):
    """Adam with a learning rate of their own for biases."""

    keras_class = keras.optimizers.Adam


def make_optimizer(config: Config) -> keras.optimizers.Optimizer:
    """The optimizer of a config. Keras' own where the config asks for no more."""
    options = {"momentum": config.momentum, "nesterov": True} if config.optimizer == "sgd" else {}
    if config.bias_rate == 1.0:
        kind = keras.optimizers.SGD if config.optimizer == "sgd" else keras.optimizers.Adam
    else:
        kind = FasterBiasesSGD if config.optimizer == "sgd" else FasterBiasesAdam
        options["bias_rate"] = config.bias_rate
    return kind(config.learning_rate, **options)


def compile_to_save(model: keras.Model, loss: keras.losses.Loss) -> None:
    """Compiles a model anew with nothing of `experiments`. The optimizer keeps its state."""
    # Under mixed_float16, Keras wraps the optimizer.
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if isinstance(inner, _FasterBiases):
        before = model.optimizer
        model.compile(inner.keras_class.from_config({**inner.get_config(), "name": None}))
        model.optimizer.build(model.trainable_variables)
        for variable, state in zip(model.optimizer.variables, before.variables, strict=True):
            variable.assign(state)
    # What wraps the optimizer under mixed_float16 is saved only where it is passed.
    model.compile(model.optimizer, loss, metrics=["accuracy"])
