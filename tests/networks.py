"""Small networks that several files of tests use."""

import keras
import numpy as np

from keras_ttfs import TKBatchNorm
from keras_ttfs.applications import vgg6

# For `vgg6_to_simulate`.
IMAGES = np.random.default_rng(5).uniform(size=(23, 8, 8, 1)).astype("float32")


def vgg6_to_train(**kwargs):
    """As a first epoch finds it: with initial weights."""
    keras.utils.set_random_seed(0)
    return vgg6(width=0.125, seed=0, gamma_0=0.5, **kwargs)


def vgg6_to_simulate(**kwargs):
    """As a training leaves it: with statistics in its batch normalisations."""
    keras.utils.set_random_seed(1)
    model = vgg6(width=0.25, gamma_0=0.6, **kwargs)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, TKBatchNorm):
            layer.moving_mean.assign(rng.normal(scale=0.1, size=layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.05, 0.4, size=layer.moving_mean.shape))
            layer.beta.assign(rng.normal(0.1, 0.2, size=layer.moving_mean.shape))
    return model


def relu_model():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, activation="relu", name="hidden"), keras.layers.Dense(2)]
    )
