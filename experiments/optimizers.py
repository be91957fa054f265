"""Optimizers of a run: Keras' own, with averaged weights and another learning rate for biases where the config asks for it.

Averages are part of the optimizer's state, so that a run resumes with them. A saved model has an optimizer of Keras: it
loads without this module.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

import keras_ttfs
from experiments.config import Config
from keras_ttfs.topology import layers_of

BIASES = ("bias", "beta")


class _Extended:
    """Mixed into an optimizer of Keras.

    Forward: after step n, counted from 1, `average += (1 - m) * (weight - average)` with `m = min(ema, 1 - 1 / n)`: the
    plain mean of all steps until so many are behind the run that `ema` forgets the first. Keras' own `use_ema` has
    `m = ema` from step 2 on, so that the first step weighs most in short runs. It averages no statistics of batch
    normalisation either. Here they are averaged as the weights are, because those of the last steps belong to other weights.

    Args:
        model: whose weights are averaged.
        ema: momentum of the averages per step [1]; 0: none.
        bias_rate: factor on the learning rate of biases and of beta [1].
    """

    def __init__(self, *args: Any, model: keras.Model, ema: float, bias_rate: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.ema = ema
        self.bias_rate = bias_rate
        norms = layers_of(model, keras.layers.BatchNormalization)
        statistics = [weight for norm in norms for weight in (norm.moving_mean, norm.moving_variance)]
        averaged = [*model.trainable_variables, *statistics] if ema else []
        # A function, because Keras takes the variables of a list for the optimizer's own.
        self.averaged_variables = lambda: averaged

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.averages = [self.add_variable_from_reference(v, name="average") for v in self.averaged_variables()]
        for variable, average in zip(self.averaged_variables(), self.averages):
            average.assign(variable)

    def update_step(self, gradient, variable, learning_rate):
        # TensorFlow's variable is called bias:0.
        is_bias = variable.name.split("/")[-1].split(":")[0] in BIASES
        super().update_step(gradient, variable, learning_rate * self.bias_rate if is_bias else learning_rate)

    def apply(self, grads, trainable_variables=None):
        super().apply(grads, trainable_variables)
        if self.ema:
            steps = tf.cast(self.iterations.value, tf.float32)
            weight = 1.0 - tf.minimum(self.ema, 1.0 - 1.0 / steps)
            for variable, average in zip(self.averaged_variables(), self.averages):
                average.assign_add(tf.cast(weight, average.dtype) * (variable - average))

    def swap(self) -> None:
        """Puts the averages in the place of the weights, and the weights in theirs. Exact: twice changes nothing."""
        for variable, average in zip(self.averaged_variables(), self.averages):
            weight = tf.identity(variable.value)
            variable.assign(average)
            average.assign(weight)


class ExtendedSGD(_Extended, keras.optimizers.SGD):
    """SGD with what `_Extended` adds."""

    keras_class = keras.optimizers.SGD


class ExtendedAdam(_Extended, keras.optimizers.Adam):
    """Adam with what `_Extended` adds."""

    keras_class = keras.optimizers.Adam


def make_optimizer(config: Config, model: keras.Model) -> keras.optimizers.Optimizer:
    """The optimizer of a config, for the weights of a model. Keras' own where the config asks for no more."""
    options = {"momentum": config.momentum, "nesterov": True} if config.optimizer == "sgd" else {}
    if config.ema == 0.0 and config.bias_rate == 1.0:
        kind = keras.optimizers.SGD if config.optimizer == "sgd" else keras.optimizers.Adam
    else:
        kind = ExtendedSGD if config.optimizer == "sgd" else ExtendedAdam
        options |= {"model": model, "ema": config.ema, "bias_rate": config.bias_rate}
    return kind(config.learning_rate, **options)


def _extended(model: keras.Model) -> _Extended | None:
    """The extended optimizer that a model is compiled with, if it is one."""
    # Under mixed_float16, Keras wraps the optimizer.
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return optimizer if isinstance(optimizer, _Extended) else None


def use_averages(model: keras.Model) -> None:
    """Swaps the weights of a model for their averages, where it has some."""
    if optimizer := _extended(model):
        optimizer.swap()


@contextlib.contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """A model with averaged weights, where it has some."""
    use_averages(model)
    try:
        yield
    finally:
        use_averages(model)


class AveragedWeights(keras.callbacks.Callback):
    """Validates with averaged weights, where the model has some."""

    def on_test_begin(self, logs=None):
        use_averages(self.model)

    def on_test_end(self, logs=None):
        use_averages(self.model)


class KernelHistory(keras_ttfs.TemporalKernelHistory):
    """The history of the kernels that are tested: averaged ones, where the model has some."""

    def on_epoch_end(self, epoch, logs=None):
        with averaged(self.model):
            super().on_epoch_end(epoch, logs)


def compile_to_save(model: keras.Model, loss: keras.losses.Loss) -> None:
    """Compiles a model anew with nothing of `experiments`. The optimizer keeps its state, but for averages."""
    if extended := _extended(model):
        before, settings = model.optimizer, extended.get_config()
        model.compile(extended.keras_class.from_config({**settings, "name": None}))
        model.optimizer.build(model.trainable_variables)
        # Averages come last.
        for variable, state in zip(model.optimizer.variables, before.variables):
            variable.assign(state)
    # What wraps the optimizer under mixed_float16 is saved only where it is passed.
    model.compile(model.optimizer, loss, metrics=["accuracy"])
