"""The networks that `experiments.benchmark` times, and their training steps.

A network is a name of `keras_ttfs.applications` and an order of pooling. Without an order, it has its own.
"""

import gc
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

    import keras_ttfs

RELU, TTFS = "Keras ReLU", "TTFS"
NETWORKS = ("vgg16", "fast_vgg")
POOLINGS = ("spikes", "potential")


def own_pooling(network: str) -> str:
    """The order of pooling that a network has where none is given."""
    from keras_ttfs import applications

    return inspect.signature(getattr(applications, network)).parameters["pooling"].default


def plain_keras(model: "keras.Model") -> "keras.Model":
    """A ReLU twin without anything of this library: keras.Model, keras.layers.BatchNormalization, Keras' own step."""
    import keras

    from keras_ttfs import TKBatchNorm

    def swap(layer):
        kind = keras.layers.BatchNormalization if type(layer) is TKBatchNorm else type(layer)
        return kind.from_config(layer.get_config())

    return keras.models.clone_model(keras.Model(model.inputs, model.outputs), clone_function=swap)


def _stack(depth: int, activation: str, width: float, time_window: int) -> "keras_ttfs.TTFSModel":
    """`depth` 3x3 convolutions of 64 channels at 32x32."""
    import keras

    from keras_ttfs import TKBatchNorm, TTFSActivation, TTFSModel

    inputs = x = keras.Input((32, 32, 3))
    for _ in range(depth):
        x = keras.layers.Conv2D(max(1, round(64 * width)), 3, padding="same", use_bias=False)(x)
        x = TKBatchNorm(gamma_initializer=keras.initializers.Constant(0.3))(x)
        x = TTFSActivation(time_window)(x) if activation == "ttfs" else keras.layers.ReLU()(x)
    return TTFSModel(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


def training_step(
    name: str,
    *,
    width: float,
    batch_size: int,
    time_window: int | None = None,
    depth: int | None = None,
    network: str = "vgg16",
    pooling: str = "spikes",
) -> Callable[..., float]:
    """A function that does one training step of a network, or of `depth` convolutions, and returns the loss.

    It takes an iterator over batches. Without one, it trains on the same batch of random images each time.
    """
    import keras
    import tensorflow as tf

    from keras_ttfs import applications

    activation = "relu" if name == RELU else "ttfs"
    if depth is None:
        window = {} if time_window is None else {"time_window": time_window}
        options = {"width": width, "activation": activation, "pooling": pooling, "gamma_0": 0.3, **window}
        model = getattr(applications, network)(**options)
    else:
        model = _stack(depth, activation, width, time_window or 32)
    if name == RELU:
        model = plain_keras(model)
        gc.collect()
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    model.make_train_function()
    batch = tf.random.uniform((batch_size, 32, 32, 3)), tf.random.uniform((batch_size,), maxval=10, dtype=tf.int32)
    return lambda data=None: float(model.train_function(iter([batch]) if data is None else data)["loss"])


def simulated(
    network: str, pooling: str, width: float, time_window: int, images: int = 64
) -> tuple["keras_ttfs.TTFSModel", "keras_ttfs.TTFSModel", "keras_ttfs.snn.SpikingNetwork"]:
    """A network as ReLU model, as TTFS model and as SpikingNetwork. Batch statistics of random images make them active."""
    import keras
    import numpy as np

    from keras_ttfs import applications
    from keras_ttfs.snn import SpikingNetwork

    keras.utils.set_random_seed(0)
    options: dict[str, Any] = {"width": width, "pooling": pooling, "gamma_0": 0.5, "bn_momentum": 0.0}
    function = getattr(applications, network)
    relu = function(activation="relu", **options)
    ttfs = function(time_window=time_window, tau_0=time_window / 3.2, **options)
    images = np.random.default_rng(0).uniform(size=(images, 32, 32, 3)).astype("float32")
    for model in (relu, ttfs):
        model(images, training=True)
    return relu, ttfs, SpikingNetwork.from_model(ttfs)
