"""A trained network, and the test images on which a command measures it."""

from typing import Any, NamedTuple

import keras
import numpy as np

import keras_ttfs
from experiments import command, saved_model
from experiments import data as data_module
from experiments.files import sha256


class Trained(NamedTuple):
    """What is measured.

    Attributes:
        model: trained model.
        name: of the weights that come with fast_vgg, or the SHA-256 of the model's file.
        data: what the images are.
        images: test images in [0, 1].
        labels: theirs.
    """

    model: keras.Model
    name: str
    data: str
    images: np.ndarray
    labels: np.ndarray


def load(given: str, dataset: str, data_dir: str | None, images: int) -> Trained:
    """A model in a .keras file, or weights that come with fast_vgg; and the first so many test images, 0: all."""
    data = data_module.load(dataset, data_dir)
    if given.endswith(".keras"):
        command.existing_model(given)
        model, name = saved_model.load(given), sha256(given)
    else:
        model, name = keras_ttfs.applications.fast_vgg(classes=data.classes, weights=given), given
    test = data.test()
    count = min(images or len(test), len(test))
    x: Any = data_module.scale(test.images[:count])
    return Trained(model, name, data.description, x.numpy(), test.labels[:count])
