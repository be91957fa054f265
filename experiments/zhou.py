"""Zhou et al.'s published network: `python -m experiments.zhou --weights=DIR --model=runs/zhou/model.keras`.

DIR holds weight_CFAR1.npy to weight_CFAR5.npy of the folder CIFAR10 in their public repository
zbs881314/Temporal-Coded-Deep-SNN: a small network for CIFAR-10, whose weights are theirs and are not kept here. The model is
measured by `python -m experiments.table2 --spike_time=runs/zhou/model.keras ...`.
"""

import os
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from experiments import command
from experiments.files import damaged, replaced, sha256
from experiments.paper import ZHOU_NAME

if TYPE_CHECKING:
    import keras
    import numpy as np

# Their files, and the SHA-256 of each as it is published.
FILES = {
    "weight_CFAR1.npy": "d58b98aac9c4838879442931880fb60863b92efacfd4c8bb059e773f3bf7f59f",
    "weight_CFAR2.npy": "f4b30b9fbc7f3c1378d9b70593ff66a16b33c25be9c2cf0c0f401ff2c6941da6",
    "weight_CFAR3.npy": "2e20a1f92ed268d71e53e20878066de715f31805f8a72dab2b41912bc5788e0c",
    "weight_CFAR4.npy": "c95a0ddba4162f546d6242ed50fd3764624e1e42aabf760c59e775caf9203950",
    "weight_CFAR5.npy": "023a608cb49bb75f3e84a2b34d9e032aca97755c25bad842f2957e286b7c702f",
}
# Channels of the convolutions (5x5, strides of 2), and neurons of the hidden dense layer.
FILTERS, UNITS = (64, 32, 16), 64


def define_flags() -> None:
    flags.DEFINE_string("weights", None, f"Directory of {', '.join(FILES)}.")
    flags.DEFINE_string("model", None, "The .keras file to write.")
    flags.DEFINE_boolean("overwrite", False, "Replace --model, where this command has made it.")
    flags.mark_flags_as_required(["weights", "model"])


def network() -> "keras.Model":
    """Their small network, untrained: intensities in [0, 1], the darkest pixels first, as their program has it."""
    import keras

    from keras_ttfs import TTFSModel
    from keras_ttfs.spike_time_layers import SpikeTimeConv2D, SpikeTimeDense, SpikeTimeEncode, SpikeTimeOutput

    inputs = keras.Input((32, 32, 3))
    x = SpikeTimeEncode(scale=3.0, first="dark", name="encode")(inputs)
    for number, filters in enumerate(FILTERS, 1):
        x = SpikeTimeConv2D(filters, kernel_size=5, strides=2, name=f"conv{number}")(x)
    x = SpikeTimeDense(UNITS, name="dense")(keras.layers.Flatten(name="flatten")(x))
    return TTFSModel(inputs, SpikeTimeOutput(10, name="logits")(x), lambda_tr=0.0, lambda_tb=0.0, name=ZHOU_NAME)


def with_weights(folder: str) -> "keras.Model":
    """Their network with the weights in a directory. Raises where a file is missing, damaged or of another shape."""
    model = network()
    layers = [layer for layer in model.layers if layer.weights and hasattr(layer, "kernel")]
    for layer, name in zip(layers, FILES, strict=True):
        weights = _read(pathlib.Path(folder) / name)
        if weights.shape != tuple(layer.kernel.shape):
            raise ValueError(f"Expected {name} of shape {tuple(layer.kernel.shape)}. Received: shape {weights.shape}")
        layer.kernel.assign(weights)
    return model


def _read(path: pathlib.Path) -> "np.ndarray":
    import numpy as np

    if not path.is_file():
        raise FileNotFoundError(f"Expected {path.name} of their repository. Received: no file {path}")
    try:
        weights = np.load(path, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise damaged(str(path), "an array of weights", error, "Fetch it again.") from error
    if not isinstance(weights, np.ndarray):
        raise damaged(str(path), "an array of weights", type(weights).__name__, "Fetch it again.")
    return weights


def check_published(folder: str) -> None:
    """Raises ValueError where a file is not the published one."""
    for name, digest in FILES.items():
        if (found := sha256(pathlib.Path(folder) / name)) != digest:
            raise ValueError(
                f"Expected {name} as it is published, SHA-256 {digest}. Received: {found}. Fetch it again."
            )


def check_place(path: str, overwrite: bool) -> None:
    """Raises FileExistsError where the model would replace anything, but one of ours with `overwrite`."""
    from experiments import saved_model

    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"Expected a file that is not there yet. Received: {path}. Pass --overwrite.")
    if os.path.lexists(path) and saved_model.load(path).name != ZHOU_NAME:
        raise FileExistsError(f"Expected a model that this command has made. Received: {path}. Move it away.")


def main(options: flags.FlagValues) -> None:
    check_place(options.model, options.overwrite)
    model = with_weights(options.weights)
    check_published(options.weights)
    os.makedirs(os.path.dirname(os.path.abspath(options.model)), exist_ok=True)
    with replaced(options.model) as temporary:
        model.save(temporary)
    print(f"{options.model}: {model.count_params():,} weights, {model.neurons:,} neurons")


if __name__ == "__main__":
    define_flags()
    command.run(main)
