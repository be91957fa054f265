"""What several files of tests share: Keras as it was, digits, a ReLU network trained on them, a fresh process."""

import pathlib
import subprocess
import sys

import keras
import pytest
from sklearn import datasets

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def keras_as_found():
    """After every test: the policy float32, and names of layers that count from the beginning."""
    yield
    keras.backend.clear_session(free_memory=False)
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def policy(request):
    """The dtype policy that a test is run under: `@pytest.mark.parametrize("policy", [...], indirect=True)`."""
    keras.config.set_dtype_policy(request.param)
    return request.param


@pytest.fixture(scope="session")
def digits():
    """`(images (1797, 8, 8, 1) in [0, 1], labels)`. Tests train on the first 1400."""
    data = datasets.load_digits()
    return (data.images / 16).astype("float32")[..., None], data.target


@pytest.fixture(scope="session")
def relu_on_digits(digits):
    """A ReLU network with max pooling, trained on digits. Not to be changed."""
    x, y = digits
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x[:1400], y[:1400], epochs=15, verbose=0)
    return model


@pytest.fixture(scope="session")
def in_fresh_process():
    """`run(script, *arguments) -> its output`, in a Python of its own that has imported nothing yet."""

    def run(script, *arguments):
        command = [sys.executable, "-c", script, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
