"""Writes a TTFS model as a file for another runtime, and proves that the file fires the model's spikes.

`export(model, "model.onnx")` writes the file, runs it in its own runtime, and prints how many spikes differ.
`check_export(model, path)` checks a file that is there.

A file takes the model's inputs. It returns `output`, what the model returns, and for every spiking layer
`spike_time_{layer}`, integers `(samples, ...)` [steps], where the layer's time window means silence.
"""

import os
import pathlib
import shutil
import tempfile
from typing import Any

import keras
import numpy as np

from keras_ttfs import checks, qonnx_files, runtimes, topology
from keras_ttfs.export_report import ExportReport, compared
from keras_ttfs.plain_model import PlainModel
from keras_ttfs.snn import reader
from keras_ttfs.snn.network import SpikingNetwork
from keras_ttfs.snn.nodes import Input, TTFSPopulation, encodes_input
from keras_ttfs.snn.samples import before_weights, inputs

FORMATS: dict[str, Any] = {
    "onnx": runtimes.Onnx(),
    "litert": runtimes.LiteRT(),
    "tf_saved_model": runtimes.SavedModel(),
    "qonnx": qonnx_files.Qonnx(),
}
QUANTIZATIONS = ("dynamic_range",)
# What a SavedModel consists of.
SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra", "keras_metadata.pb"}
# Samples that a file is checked on without data.
DRAWN = 32


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    format: str = "onnx",
    data: Any = None,
    tolerance: float = 0.0,
    *,
    quantize: str | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Writes a TTFS model as a file of another runtime, runs the file, and compares its spikes with the model's.

    The file computes in float32 whatever the model's policy, by plain operations, and counts nothing. It returns `output`
    and `spike_time_{layer}` of every spiking layer. It is written whole or not at all.

    Args:
        model: Functional or built Sequential model, as `SpikingNetwork.from_model` takes. It stays as it is.
        path: of the file, with the ending `.onnx` or `.tflite`; of the folder of a SavedModel.
        format: `"onnx"`, `"litert"`, `"tf_saved_model"`, or `"qonnx"`: ONNX with quantizers as activations, one sample at
            a time and without spike times, for FPGA tools. The executor of qonnx makes 0 of a potential that is a unit in
            the last place below a power of 2 (base 2, one step an octave).
        data: what to compare on: array `(samples, ...)` [1], data set, generator or list of batches; or `(x, labels)`, two
            arrays, for the accuracies; None: 32 random inputs, always the same, that the first neurons take as intensities.
        tolerance: float in [0, 1]: largest share of spike times that may differ, of the model's spikes [1]. Runtimes add
            up in other orders, which moves single spikes of large networks. All layers count together; 1: any may differ. No
            class may differ, unless the weights are quantized: then at most this share of the samples.
        quantize: `"dynamic_range"`: weights as int8, each layer's inputs quantized as they come (LiteRT only); or None.
        overwrite: bool: whether a file that is there may be replaced.

    Returns:
        An ExportReport, which is printed too.

    Raises:
        EquivalenceError: where the file does something else than the model. No new file is left.
        ValueError: "Expected ... Received: ..." for a wrong argument, a model that is not understood or that computes in
            float64, a path that exists already or cannot be written, a layer that the format has no operation for, and a
            file that its runtime refuses.
        ImportError: where a package of the runtime is missing.
    """
    _check_arguments(model, format, tolerance, quantize)
    place = _checked_path(path, format, overwrite)
    runtimes.check_packages(format, FORMATS[format].packages)
    x, labels = _samples(model, data)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".keras_ttfs_") as folder:
        made = pathlib.Path(folder) / f"model{FORMATS[format].suffix}"
        _write(model, format, made, quantize)
        report = compared(model, made, FORMATS[format], format, x, labels, quantize)
        report.path = str(place)
        report.check(tolerance)
        # What is there may have changed in the meantime.
        _check_what_is_there(place, format, overwrite)
        _put(made, place, pathlib.Path(folder) / "replaced")
    print(report)
    return report


def _write(model, format, made, quantize):
    """Writes the file. Raises ValueError for what the format cannot hold."""
    module = PlainModel(model, format == "qonnx", FORMATS[format].samples)
    try:
        with runtimes.quiet():
            FORMATS[format].write(module, made, quantize)
    except (ImportError, MemoryError, OSError):
        raise
    except Exception as error:  # Every converter has exceptions of its own.
        own = str(error).startswith("Expected ")
        told = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise ValueError(
            str(error)
            if own
            else f"Expected a model that a file of format={format!r} can hold. Received: {told:.300}. Try another format, of "
            f"{', '.join(FORMATS)}."
        ) from error


def _put(made, place, aside):
    """Moves what was made to its place. What is there is put aside, and comes back where that fails."""
    there = place.is_dir()
    if there:
        shutil.move(place, aside)
    try:
        os.replace(made, place)
    except BaseException:
        if there:
            shutil.move(aside, place)
        raise


def check_export(
    model: keras.Model,
    path: str | os.PathLike[str],
    format: str = "onnx",
    data: Any = None,
    tolerance: float = 0.0,
    *,
    quantize: str | None = None,
) -> ExportReport:
    """Runs a file that `export` wrote, and compares its spikes with the model's.

    Args, Returns and Raises: as `export`.
    """
    _check_arguments(model, format, tolerance, quantize)
    place = _as_path(path)
    if not place.exists():
        raise ValueError(f"Expected the path of a file that export wrote. Received: path={str(path)!r}: nothing there")
    runtimes.check_packages(format, FORMATS[format].packages)
    x, labels = _samples(model, data)
    report = compared(model, place, FORMATS[format], format, x, labels, quantize)
    report.check(tolerance)
    return report


def _check_arguments(model, format, tolerance, quantize):
    _check_format(format)
    _check_model(model)
    checks.share("tolerance", tolerance)
    if quantize is not None:
        checks.one_of("quantize", quantize, QUANTIZATIONS)
        if format != "litert":
            raise ValueError(f"Expected quantize=None with format={format!r}. Received: quantize={quantize!r}")


def _check_format(format):
    if isinstance(format, str) and format.lower() == "nir":
        raise ValueError(
            f"Expected format to be one of {tuple(FORMATS)}. Received: format={format!r}. No node of NIR has a threshold "
            "that falls, fires inside one window alone, and weighs its spike by its time: a file would run elsewhere and be "
            "wrong. Spike trains can be told: SpikingNetwork.from_model(model).run(x).to_nir()."
        )
    checks.one_of("format", format, tuple(FORMATS))


def _check_model(model):
    """Refuses what no file can say: a network of early firing, layers that are not understood, float64."""
    if isinstance(model, SpikingNetwork):
        early = f" with early_firing={model.early_firing}" if model.early_firing else ""
        raise ValueError(
            f"Expected a keras.Model. Received: a SpikingNetwork{early}. Files of other runtimes have no time in which "
            "neurons could fire early: export the model."
        )
    reader.read(model, "ttfs")
    for layer in topology.layers_of(model, keras.layers.Layer):
        if "float64" in (layer.compute_dtype, layer.variable_dtype):
            raise ValueError(
                f"Expected layers in float32 or in mixed precision. Received: layer {layer.name!r} in float64, whose spikes "
                "float32 moves. in_dtype(model, 'float32') makes a model of float32."
            )


def _as_path(path):
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise ValueError(f"Expected path to be a str or a path. Received: path={path!r}")
    return pathlib.Path(path)


def _checked_path(path, format, overwrite):
    checks.flag("overwrite", overwrite)
    path, suffix = _as_path(path), FORMATS[format].suffix
    if suffix and path.suffix != suffix:
        raise ValueError(f"Expected a path that ends in {suffix} with format={format!r}. Received: path={str(path)!r}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"Expected a path in a folder that can be written. Received: path={str(path)!r}")
    _check_what_is_there(path, format, overwrite)
    return path


def _check_what_is_there(path, format, overwrite):
    """Raises ValueError where something would be replaced, but a file of the format with `overwrite`."""
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise ValueError(f"Expected a path where nothing is. Received: path={str(path)!r}. overwrite=True replaces it.")
    is_folder = path.is_dir()
    names = set(os.listdir(path)) if is_folder and not path.is_symlink() else set()
    is_model = "saved_model.pb" in names and names <= SAVED_MODEL
    if path.is_symlink() or is_folder != (not FORMATS[format].suffix) or (is_folder and not is_model):
        raise ValueError(
            f"Expected a file of format={format!r} to replace. Received: path={str(path)!r}, which is something else"
        )


def _samples(model, data):
    """`(x, labels)`; labels are None where `data` has none."""
    nodes, _ = reader.read(model, "ttfs")
    entry = nodes[0]
    assert isinstance(entry, Input)
    labels = None
    if data is None:
        data = _drawn(nodes)
    elif _is_labelled(data, entry.shape):
        labels = _checked_labels(data, model.outputs[0].shape)
        data = data[0]
    x = inputs(data, nodes, "float32", "data")
    return x if keras.backend.is_float_dtype(entry.dtype) else x.astype(entry.dtype), labels


def _drawn(nodes):
    """Random inputs, always the same: those that the first neurons take as intensities in [0, 1], where that is known."""
    shape, dtype = nodes[0].shape, nodes[0].dtype
    draws = np.random.default_rng(0).uniform(size=(DRAWN, *shape))
    if dtype == "bool":
        return draws < 0.5
    if not keras.backend.is_float_dtype(dtype):
        return np.round(draws * min(255, np.iinfo(dtype).max))
    for node in nodes:
        if isinstance(node, TTFSPopulation) and encodes_input(node):
            # What one becomes on its way to the neurons, behind a Rescaling for example.
            ones = before_weights(np.ones((1, *shape)), node.inputs[0])
            largest = 0.0 if ones is None else float(np.max(ones))
            return draws / largest if largest > 0 else draws
    return draws


def _is_labelled(data, shape):
    """Whether `data` is `(x, labels)`."""
    if not isinstance(data, tuple) or len(data) != 2:
        return False
    first, second = (tuple(getattr(part, "shape", np.shape(part))) for part in data)
    if first[1:] != tuple(shape):
        return False
    # A column of whole numbers beside as many inputs of one number each.
    column = second[:1] == first[:1] and second[1:] in ((), (1,)) and np.asarray(data[1]).dtype.kind in "iu"
    return second[1:] != tuple(shape) or column


def _checked_labels(data, output_shape):
    labels, classes = np.asarray(data[1]), output_shape[-1]
    column = labels.reshape(len(labels)) if labels.shape[1:] in ((), (1,)) else None
    if (
        column is None
        or len(column) != len(data[0])
        or column.dtype.kind not in "iu"
        or len(output_shape) != 2
        or classes < 2
        or column.min(initial=0) < 0
        or column.max(initial=0) >= classes
    ):
        raise ValueError(
            f"Expected labels (samples,), integers in 0..{classes - 1}, of a model with outputs (samples, classes), at least "
            f"two of them. Received: labels of shape {labels.shape} and dtype {labels.dtype} for outputs {output_shape}"
        )
    return column
