"""Trained weights that come with the package: a file for each network and data set, small, and loaded offline.

A file `weights/{network}_{name}.npz` holds the weights of a model in the order of `model.weights`, kernels as float16 and
all others as float32, and beside them, as JSON, the arguments that the network must have and what these weights score.
"""

import json
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

FOLDER = pathlib.Path(__file__).parent / "weights"
DESCRIPTION = "description"
# Arguments that files of earlier versions do not tell, and what they were.
ADDED = {"steps_per_octave": 0}


def names(network: str) -> tuple[str, ...]:
    """The names of the weights that come with a network."""
    return tuple(sorted(path.stem.removeprefix(f"{network}_") for path in FOLDER.glob(f"{network}_*.npz")))


def path_of(network: str, name: str) -> pathlib.Path:
    """The file of a network's weights.

    Raises:
        ValueError: "Expected weights to be one of ... Received: ...".
    """
    known = names(network)
    if name not in known:
        raise ValueError(f"Expected weights to be None or one of {known}. Received: weights={name!r}")
    return FOLDER / f"{network}_{name}.npz"


def describe(network: str, name: str) -> dict[str, Any]:
    """What is known of a network's weights: `arguments` of the network, and `result`, what they score on the test split.

    Raises:
        ValueError: as `path_of`.
    """
    with np.load(path_of(network, name), allow_pickle=False) as file:
        return json.loads(str(file[DESCRIPTION]))


def check_arguments(network: str, name: str, arguments: Mapping[str, Any]) -> None:
    """Refuses weights that were trained in another network than the one with these arguments.

    Args:
        network: name of the function in `applications`.
        name: of the weights.
        arguments: of the function.

    Raises:
        ValueError: "Expected {argument}=..., for which the weights ... were trained. Received: ...", or as `path_of`.
    """
    for argument, trained in (ADDED | describe(network, name)["arguments"]).items():
        received = arguments[argument]
        if (list(map(int, received)) if isinstance(received, (tuple, list, np.ndarray)) else received) != trained:
            trained = tuple(trained) if isinstance(trained, list) else trained
            raise ValueError(
                f"Expected {argument}={trained!r}, for which the weights {name!r} were trained. "
                f"Received: {argument}={received!r}"
            )


def load(model: keras.Model, network: str, name: str) -> None:
    """Puts a network's trained weights into a model, whose arguments `check_arguments` has accepted."""
    read_into(model, path_of(network, name))


def read_into(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Puts the weights in a file into a model of the same network.

    Raises:
        ValueError: "Expected as many weights as the model has. Received: ..."; as `set_weights`.
    """
    with np.load(path, allow_pickle=False) as file:
        if len(file.files) - 1 != len(model.weights):
            raise ValueError(
                f"Expected as many weights as the model has, {len(model.weights)}. "
                f"Received: {path} with {len(file.files) - 1}"
            )
        model.set_weights([file[str(i)].astype("float32") for i in range(len(model.weights))])


def save(
    model: keras.Model, path: str | os.PathLike[str], arguments: Mapping[str, Any], result: Mapping[str, Any]
) -> None:
    """Writes the weights of a model as `load` reads them.

    Args:
        model: the trained model.
        path: of the file to write.
        arguments: those of the network that decide its weights and its values, for `check_arguments`.
        result: what the weights score, for `describe`.
    """
    arrays = {}
    for i, weight in enumerate(model.weights):
        value = keras.ops.convert_to_numpy(weight)
        # Scalars (the temporal kernels) and vectors (the norms) are few, and every bit of them moves thresholds.
        with np.errstate(over="ignore"):
            arrays[str(i)] = value.astype("float16" if value.ndim > 1 else "float32")
        if not np.isfinite(arrays[str(i)]).all():
            raise ValueError(f"Expected finite weights within float16. Received: {weight.path!r}")
    description = json.dumps({"arguments": dict(arguments), "result": dict(result)}, sort_keys=True)
    # The same weights give the same bytes: numpy's own writer stamps the time of writing.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in {**arrays, DESCRIPTION: np.array(description)}.items():
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w") as entry:
                np.lib.format.write_array(entry, np.asanyarray(value), allow_pickle=False)
