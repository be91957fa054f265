"""Which models Table 2 takes: of the kind, the data and the range of intensities that a row is simulated on."""

import pathlib
from typing import TYPE_CHECKING, Any

from experiments.files import REMEDY
from experiments.stored import read_result

if TYPE_CHECKING:
    import keras

    from experiments.data import Data

# What a model is, by the flag that takes it.
KINDS = {
    "model": "a model without spikes",
    "ttfs": "a TTFS model",
    "spike_time": "a model with a SpikeTimeOutput",
}
# A model that makes 1 of a larger intensity is not for intensities in [0, 1] [1].
LARGEST_INTENSITY = 4.0
# More than chance makes of the accuracy on 256 images [1].
CLEARLY = 0.15


def check_model(path: str, flag: str, dataset: str, data: "Data") -> None:
    """Raises ValueError for a model of another kind than its flag asks for, of other data, inputs, intensities or classes."""
    from experiments import saved_model

    training = training_run(path)
    if training and (training["config"]["dataset"], training["data"]) != (dataset, data.description):
        raise ValueError(
            f"Expected a model of --dataset={dataset}, {data.description}. Received: {path} of "
            f"{training['config']['dataset']}, {training['data']}"
        )
    model = saved_model.load(path)
    if (kind := kind_of(model)) != flag:
        raise ValueError(f"Expected --{flag} to be {KINDS[flag]}. Received: {path}, {KINDS[kind]}")
    ends = [*(getattr(model, "inputs", None) or ()), *(getattr(model, "outputs", None) or ())]
    shapes, wanted = [tuple(tensor.shape[1:]) for tensor in ends], tuple(data.train.images.shape[1:])
    if shapes != [wanted, (data.classes,)]:
        raise ValueError(
            f"Expected a model of inputs {wanted} and {data.classes} classes, as {dataset} has. "
            f"Received: {path} of inputs and outputs {shapes}"
        )
    for layer, most in ranges_of(model):
        if most > LARGEST_INTENSITY:
            raise ValueError(
                f"Expected a model of intensities in [0, 1]. Received: {path}, whose {layer!r} is for intensities up to "
                f"{most:g}, or around it"
            )
    right, in_bytes = (accuracy_on(model, data, factor) for factor in (1.0, 255.0))
    if in_bytes > right + CLEARLY:
        raise ValueError(
            f"Expected a model of intensities in [0, 1]. Received: {path}, which is right for {right:.0%} of the first "
            f"training images, and for {in_bytes:.0%} of them in 0 to 255"
        )


def accuracy_on(model: "keras.Model", data: "Data", factor: float, images: int = 256) -> float:
    """Share of the first training images that a model answers right, their intensities multiplied by `factor`."""
    from experiments import data as data_module

    few = data.train.first(images)
    answers = model.predict(factor * data_module.scale(few.images).numpy(), verbose=0).argmax(-1)
    return float((answers == few.labels).mean())


def kind_of(model: "keras.Model") -> str:
    """The flag, of KINDS, that a model is for."""
    import keras

    from keras_ttfs import TTFSActivation, TTFSEncode, topology
    from keras_ttfs.spike_time_layers import SpikeTimeOutput

    layers = topology.layers_of(model, keras.layers.Layer)
    if any(isinstance(layer, SpikeTimeOutput) for layer in layers):
        return "spike_time"
    return "ttfs" if any(isinstance(layer, TTFSActivation | TTFSEncode) for layer in layers) else "model"


def ranges_of(model: "keras.Model") -> list[tuple[str, float]]:
    """`[(layer, intensity), ...]` of layers that scale the input: what they make 1, or how their data are spread."""
    import keras
    import numpy as np

    from keras_ttfs import keras_internals, model_inputs, topology

    found = []

    def visit(layer, *args, **kwargs):
        raw = "raw" in keras.tree.flatten(args)
        if raw and isinstance(layer, keras.layers.Rescaling):
            scale, offset = np.asarray(layer.scale, float), np.asarray(layer.offset, float)
            found.append((layer.name, float(max(np.max((1.0 - offset) / scale), np.max(1.0 / np.abs(scale))))))
        if raw and isinstance(layer, keras.layers.Normalization):
            found.append((layer.name, float(max(np.max(layer.mean), np.sqrt(np.max(layer.variance))))))
        return ["raw" if raw and type(layer) in model_inputs.ROUTES else "other"] * keras_internals.output_count(layer)

    topology.walk(model, ["raw"], visit)
    return found


def training_run(path: str) -> dict[str, Any] | None:
    """The result of the run that trained a model, where the model lies beside it."""
    result = pathlib.Path(path).with_name("result.json")
    return read_result(result, REMEDY) if result.exists() else None
