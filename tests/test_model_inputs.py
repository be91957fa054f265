"""The warning of images in 0..255, whatever carries them, and that what `fit` sees stays as it was."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ttfs import TTFSActivation, TTFSModel

L = keras.layers
X = np.random.default_rng(0).uniform(size=(12, 4, 4, 1)).astype("float32")
Y = np.zeros((12, 2), "float32")


class Batches(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.x[4 * index : 4 * index + 4], Y[:4]


def generated(x):
    yield from ((x[4 * i : 4 * i + 4], Y[:4]) for i in range(3))


CARRIERS = {
    "array": lambda x: {"x": x, "y": Y},
    "tensor": lambda x: {"x": tf.constant(x), "y": Y},
    "tf.data": lambda x: {"x": tf.data.Dataset.from_tensor_slices((x, Y)).batch(4)},
    "tf.data with weights": lambda x: {"x": tf.data.Dataset.from_tensor_slices((x, Y, np.ones(12))).batch(4)},
    "PyDataset": lambda x: {"x": Batches(x)},
    "generator": lambda x: {"x": generated(x)},
}


def model_of(*layers):
    inputs = z = keras.Input((4, 4, 1))
    for layer in layers:
        z = layer(z)
    model = TTFSModel(inputs, L.Dense(2)(L.Flatten()(TTFSActivation(name="encoder")(z))))
    model.compile("sgd", "mse")
    return model


def warnings_of(model, fit=None, **options):
    """Our warnings of one `fit`, and its losses."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = (fit or model.fit)(**options, verbose=0).history
    return [str(one.message) for one in told if "intensities" in str(one.message)], history["loss"]


@pytest.mark.parametrize("carrier", CARRIERS)
def test_images_of_0_to_255_are_told_once(carrier):
    model = model_of(L.ZeroPadding2D())
    (told,), _ = warnings_of(model, **CARRIERS[carrier](255 * X), epochs=1 if carrier == "generator" else 2)
    assert told.startswith("Expected inputs of intensities in [0, 1] for 'encoder'. Received: values up to 25")
    assert warnings_of(model, **CARRIERS[carrier](255 * X))[0] == []


@pytest.mark.parametrize("carrier", CARRIERS)
def test_intensities_pass_and_training_sees_the_same_batches(carrier):
    losses = []
    for plain in (False, True):
        keras.utils.set_random_seed(0)
        model = model_of()
        told, loss = warnings_of(model, keras.Model.fit.__get__(model) if plain else None, **CARRIERS[carrier](X))
        losses.append(loss)
        assert told == []
    assert losses[0] == losses[1]


def test_shuffled_datasets_keep_their_order():
    losses = []
    for plain in (False, True):
        keras.utils.set_random_seed(0)
        model = model_of()
        y = np.arange(24, dtype="float32").reshape(12, 2)
        data = tf.data.Dataset.from_tensor_slices((X, y)).shuffle(12, seed=3).batch(4)
        fit = keras.Model.fit.__get__(model) if plain else model.fit
        losses.append(fit(data, verbose=0, epochs=3).history["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "layers", [[L.Rescaling(1 / 255)], [L.Normalization(mean=100.0, variance=4.0)], [L.Conv2D(2, 1)]]
)
def test_behind_other_layers_nothing_is_known(layers):
    assert warnings_of(model_of(*layers), x=255 * X, y=Y)[0] == []


def test_a_last_axis_of_1_is_keras_own():
    # A compiled function of Keras takes one rank or the other.
    model, other = model_of(), model_of()
    other.set_weights(model.get_weights())
    np.testing.assert_array_equal(other.predict(X[..., 0], verbose=0), model.predict(X, verbose=0))
    with pytest.raises(
        ValueError, match=r"Expected inputs of shape \(samples, 4, 4, 1\) of real numbers. Received: shape"
    ):
        model.predict(X[:, :3], verbose=0)
