"""Trained models as the commands read them. A damaged file is told in one line."""

import zipfile
from typing import TYPE_CHECKING

from experiments.files import damaged

if TYPE_CHECKING:
    import keras


def load(path: str) -> "keras.Model":
    """The model in a .keras file, not compiled.

    Raises ValueError where the file is damaged, or no model that Keras and keras_ttfs know.
    """
    import keras

    import keras_ttfs  # noqa: F401  Registers its layers.

    remedy = "Name another file, or train it again."
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise damaged(path, "a model, as Keras saves it", error, remedy) from error
    if broken:
        raise damaged(path, "a model, as Keras saves it", f"{broken}, whose checksum is wrong", remedy)
    try:
        return keras.models.load_model(path, compile=False)
    # All that Keras and h5py raise: they have no errors of their own.
    except Exception as error:
        raise damaged(path, "a model that Keras can load", error, remedy) from error
