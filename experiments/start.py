"""How a network begins with the weights of a trained one: its ReLU twin, or itself with another time window."""

from typing import Any

import keras
import numpy as np

import keras_ttfs
from experiments import saved_model
from experiments.config import Config
from keras_ttfs import TTFSEncode
from keras_ttfs.topology import layers_of

# Images that choose the scales of the twin's weights. `experiments.convert` takes as many.
CALIBRATION_IMAGES = 500


def begin_with(path: str, model: keras.Model, config: Config, images: np.ndarray) -> None:
    """Gives a TTFS model the weights of the trained model in a file.

    The weights of the ReLU twin are scaled into the window as `keras_ttfs.convert` scales them: into convolutions and
    norms, which stay trainable. The temporal kernels begin as the config says.

    The weights of the same TTFS network are taken as they are, and tau and t_d times `T / its T`. So z_max stays, and half
    the window has every second level. Kernels of base 2, and the initial values to which REG_TR pulls, are the config's.

    Args:
        path: of a .keras file.
        model: TTFS model of the config; changed in place.
        config: of the run.
        images: training images in [0, 1] for the scales.

    Raises:
        ValueError: "Expected start_from ... Received: ..." for any other model, and where the file is damaged.
    """
    source = saved_model.load(path)
    theirs, ours = _layout(source), _layout(model)
    if theirs != ours:
        raise ValueError(
            f"Expected start_from to hold the network of this run. Received: {path} with {_first(theirs, ours)}"
        )
    encoders = {encoder.name: encoder for encoder in layers_of(source, TTFSEncode)}
    if not encoders:
        source = keras_ttfs.convert(
            source,
            time_window=config.time_window,
            **_kernel(config),
            z_max_0=config.z_max_0,
            rounding=config.rounding,
            input_coding=config.input_coding,
            data=images,
        )
    elif encoders.keys() != {encoder.name for encoder in model.encoders}:
        raise ValueError(
            f"Expected start_from to hold a ReLU twin or a network with the encoders {[e.name for e in model.encoders]}. "
            f"Received: {path} with {sorted(encoders)}"
        )
    for name in ours:
        model.get_layer(name).set_weights(source.get_layer(name).get_weights())
    # Kernels of base 2 stay as they are.
    for encoder in (encoder for encoder in model.encoders if encoders and not encoder.base):
        ratio = encoder.time_window / encoders[encoder.name].time_window
        for kernel in ("tau", "t_d"):
            getattr(encoder, kernel).assign(np.array(getattr(encoders[encoder.name], kernel)) * ratio)


def _kernel(config: Config) -> dict[str, Any]:
    """What `convert` is told of the temporal kernels."""
    if config.steps_per_octave:
        return {"base": 2, "steps_per_octave": config.steps_per_octave}
    return {"tau_0": config.tau_0}


def _layout(model: keras.Model) -> dict[str, list[tuple[int, ...]]]:
    """`{layer: shapes of its weights}`, without encoders."""
    layers = [layer for layer in model.layers if layer.weights and not isinstance(layer, TTFSEncode)]
    return {layer.name: [tuple(weight.shape) for weight in layer.weights] for layer in layers}


def _first(theirs: dict, ours: dict) -> str:
    """Where two layouts differ first, in words."""
    name = next(name for name in (*ours, *theirs) if theirs.get(name) != ours.get(name))
    shapes = [f"of shapes {layout[name]}" if name in layout else "missing" for layout in (theirs, ours)]
    return f"layer {name!r} {shapes[0]}, here {shapes[1]}"
