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
from experiments.files import damaged, replaced

if TYPE_CHECKING:
    import keras
    import numpy as np

FILES = tuple(f"weight_CFAR{number}.npy" for number in range(1, 6))
# Channels of the convolutions (5x5, strides of 2), and neurons of the hidden dense layer.
FILTERS, UNITS = (64, 32, 16), 64


def define_flags() -> None:
    flags.DEFINE_string("weights", None, f"Directory of {FILES[0]} to {FILES[-1]}.")
    flags.DEFINE_string("model", None, "The .keras file to write.")
    command.define_shared_flags("overwrite")
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
    return TTFSModel(inputs, SpikeTimeOutput(10, name="logits")(x), lambda_tr=0.0, lambda_tb=0.0, name="zhou")


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
        return np.load(path, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise damaged(str(path), "an array of weights", error, "Fetch it again.") from error


def main(options: flags.FlagValues) -> None:
    if os.path.lexists(options.model) and not options.overwrite:
        raise FileExistsError(f"Expected a file that is not there yet. Received: {options.model}. Pass --overwrite.")
    model = with_weights(options.weights)
    os.makedirs(os.path.dirname(os.path.abspath(options.model)), exist_ok=True)
    with replaced(options.model) as temporary:
        model.save(temporary)
    print(f"{options.model}: {model.count_params():,} weights, {model.neurons:,} neurons")


if __name__ == "__main__":
    define_flags()
    command.run(main)
