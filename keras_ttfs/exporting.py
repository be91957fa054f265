"""Writes a TTFS model as a file for another runtime, and proves that the file fires the model's spikes.

`print(export(model, "model.onnx"))` writes the file, runs it in its own runtime, and prints how many spikes differ.
`check_export(model, path)` checks a file that is there.

A file takes the model's inputs. It returns `output`, what the model returns, and for every spiking layer
`spike_time_{layer}`, integers `(samples, ...)` [steps], where the layer's time window means silence.
"""

import collections
import dataclasses
import os
import pathlib
import shutil
import tempfile
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import checks, qonnx_files, runtimes, temporal_kernel, topology, tracing
from keras_ttfs.layers import TTFSActivation, TTFSEncode
from keras_ttfs.snn import copies, reader
from keras_ttfs.snn.equivalence import EquivalenceError, LayerEquivalence, compare_layer
from keras_ttfs.snn.graph import Graph, in_dtype
from keras_ttfs.snn.network import SpikingNetwork
from keras_ttfs.snn.nodes import Input, TTFSPopulation
from keras_ttfs.snn.samples import inputs

FORMATS: dict[str, Any] = {
    "onnx": runtimes.Onnx(),
    "litert": runtimes.LiteRT(),
    "tf_saved_model": runtimes.SavedModel(),
    "qonnx": qonnx_files.Qonnx(),
}
QUANTIZATIONS = ("dynamic_range",)
SPIKE_TIME = "spike_time_"
# Samples of the batch that a file is checked on without data, and samples at a time.
DRAWN, BATCH = 32, 100
# Rounds in which the speeds of file and model are measured in turn.
ROUNDS = 5


@dataclasses.dataclass
class ExportReport:
    """What a file is and does beside the model it was written from; prints as a table.

    Attributes:
        path: of the file, or of the folder of a SavedModel.
        format: `"onnx"`, `"litert"`, `"tf_saved_model"` or `"qonnx"`.
        size: of the file, or of all files in the folder [bytes].
        operations: `{operation of the format: how often}`.
        samples: number of inputs compared.
        layers: list of LayerEquivalence, one for each spiking layer: the spikes of the model, and how many differ.
        quantize: how the weights are quantized, or None.
        changed_predictions: number of samples whose largest output is another.
        output_difference: largest difference of an output [1].
        seconds_per_sample: `{"file": ..., "keras": ...}`, medians, measured in turn [s].
        file_spikes: mean spikes per sample that the file fires, all layers.
        accuracy: `{"file": ..., "keras": ...}` where labels are known [1].
    """

    path: str
    format: str
    size: int
    operations: dict[str, int]
    samples: int
    layers: list[LayerEquivalence]
    quantize: str | None = None
    changed_predictions: int = 0
    output_difference: float = 0.0
    seconds_per_sample: dict[str, float] = dataclasses.field(default_factory=dict)
    file_spikes: float = 0.0
    accuracy: dict[str, float] | None = None

    @property
    def mismatches(self) -> int:
        """Spike times that differ, over all layers and samples."""
        return sum(row.mismatches for row in self.layers)

    @property
    def spikes(self) -> int:
        """Spikes of the model, over all layers and samples."""
        return sum(row.spikes for row in self.layers)

    def check(self, tolerance: float = 0.0) -> None:
        """Raises EquivalenceError where the file fires other spikes than the model, or sees other classes.

        Args:
            tolerance: float in [0, 1]: largest share of spike times that may differ, of the model's spikes [1].

        Raises:
            EquivalenceError: "Expected the spikes of the model. Received: ...", naming the layer with most differences.
        """
        if self.mismatches > tolerance * self.spikes:
            worst = max(self.layers, key=lambda row: row.mismatches - row.inherited)
            raise EquivalenceError(
                f"Expected the spikes of the model, but for a share of {tolerance:g}. Received: {self.mismatches:,} spike "
                f"times that differ of {self.spikes:,} spikes, most of them in layer {worst.layer!r}. Another order of "
                f"summation moves single spikes: tolerance= allows a share of them.\n{self}"
            )
        if self.changed_predictions and not self._quantized(tolerance):
            raise EquivalenceError(
                f"Expected the classes of the model. Received: {self.changed_predictions:,} of {self.samples:,} samples "
                f"with other ones.\n{self}"
            )

    def _quantized(self, tolerance):
        """Whether the file computes with weights of its own, whose classes may differ as its spikes may."""
        return self.quantize is not None and self.changed_predictions <= tolerance * self.samples

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.operations.items()))
        quantized = f", weights quantized ({self.quantize})" if self.quantize else ""
        lines = [
            f"{self.path}: {self.format}{quantized}, {self.size / 1e6:,.2f} MB, {self.samples:,} samples compared",
            f"{'layer':<28} {'neurons':>9} {'spikes':>12} {'mismatches':>11} {'inherited':>10} {'ulp':>9}",
        ]
        lines += [
            f"{row.layer:<28} {row.neurons:>9,} {row.spikes:>12,} {row.mismatches:>11,} {row.inherited:>10,} "
            f"{row.ulp:>9.3g}"
            for row in self.layers
        ]
        lines.append(
            f"largest difference of an output {self.output_difference:.3g}, changed predictions "
            f"{self.changed_predictions:,}, spikes per sample {self.spikes / self.samples:,.1f} (Keras), "
            f"{self.file_spikes:,.1f} (file)"
        )
        if self.accuracy:
            lines.append(f"accuracy {self.accuracy['keras']:.2%} (Keras), {self.accuracy['file']:.2%} (file)")
        milliseconds = {name: 1e3 * seconds for name, seconds in self.seconds_per_sample.items()}
        lines.append(f"{milliseconds['keras']:.3g} ms a sample (Keras), {milliseconds['file']:.3g} (file)")
        return "\n".join([*lines, f"operations: {kinds}"])


class _PlainModel(tf.Module):
    """A model as plain operations in float32, with its spike times. Its weights are constants."""

    def __init__(self, model: keras.Model, format: str):
        super().__init__()
        self._graph = (_QuantizerGraph if format == "qonnx" else _PlainGraph)(model)
        self._names = tuple(_populations(model))
        layers = [copy for copy in self._graph.copies.values() if isinstance(copy, keras.layers.Layer)]
        values = [(weight, keras.ops.convert_to_numpy(weight)) for layer in layers for weight in layer.weights]

        def serve(inputs):
            # Constants, because the runtimes differ in when they initialise variables.
            weights = [(weight, tf.constant(value)) for weight, value in values]
            with tracing.plain_operations(), keras.StatelessScope(state_mapping=weights):
                output = self._graph.compute(inputs)
            times = {f"{SPIKE_TIME}{name}": tf.cast(t, tf.int32) for name, t in zip(self._names, self._graph.times)}
            return {"output": output, **times}

        dtype = self._graph.input_dtype
        signature = [tf.TensorSpec((FORMATS[format].samples, *model.inputs[0].shape[1:]), dtype, name="inputs")]
        self.serve = tf.function(serve, input_signature=signature, autograph=False)

    @property
    def activations(self) -> list[tuple]:
        """`(layer, thresholds, levels or None)` of the marked operations of a `_QuantizerGraph`, once it is traced."""
        return [(name, *parts) for name, parts in zip(self._names, self._graph.quantizers)]


class _PlainGraph(Graph):
    """A Graph in float32 that remembers the spike times of its last computation."""

    def __init__(self, model):
        super().__init__(model, "float32")
        entry = keras.backend.standardize_dtype(model.inputs[0].dtype)
        self.input_dtype = "float32" if keras.backend.is_float_dtype(entry) else entry
        self.kernels = {
            layer: (float(copy.tau), float(copy.t_d), copy.time_window)
            for layer, copy in self.copies.items()
            if isinstance(copy, copies.Quantizer)
        }
        self.times: list = []
        self.quantizers: list = []

    def compute(self, batch: tf.Tensor) -> Any:
        self.times, self.quantizers = [], []
        return super().compute(batch)

    def visit(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(layer, TTFSEncode):
            return super().visit(layer, *args, **kwargs)
        tau, t_d, _ = self.kernels[layer]
        spike_time, z_hat = self.fire(layer, args[0] if args else kwargs["inputs"])
        if type(layer) is TTFSActivation:
            return z_hat
        return tf.cast(spike_time, tf.float32), *map(tf.constant, (tau, t_d))

    def fire(self, layer: TTFSEncode, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`(spike times, levels)` of a layer's potentials."""
        spike_time, z_hat = temporal_kernel.fire(z, *self.kernels[layer], rounding=layer.rounding)
        self.times.append(spike_time)
        return spike_time, z_hat


class _QuantizerGraph(_PlainGraph):
    """A _PlainGraph whose activations are the marked operations of `qonnx_files`. Files of these have no spike times."""

    def fire(self, layer: TTFSEncode, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.init_scope():
            tau, t_d = map(tf.constant, self.kernels[layer][:2])
            tables = temporal_kernel.tables(tau, t_d, layer.time_window, layer.rounding)
            thresholds, levels = (table.numpy() for table in tables)
        self.quantizers.append((thresholds, levels[:-1] if type(layer) is TTFSActivation else None))
        count = qonnx_files.count_of_thresholds(z, thresholds, len(self.quantizers) - 1)
        return layer.time_window - count, tf.gather(tf.constant(levels[::-1]), count)


def _populations(model):
    nodes, _ = reader.read(model, "ttfs")
    return [node.name for node in nodes if isinstance(node, TTFSPopulation)]


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
            a time and without spike times, for FPGA tools.
        data: what to compare on: array `(samples, ...)` [1], data set, generator or list of batches; or `(x, labels)`, two
            arrays, for the accuracies; None: 32 random inputs in [0, 1], always the same.
        tolerance: float in [0, 1]: largest share of spike times that may differ, of the model's spikes [1]. Runtimes add
            up in other orders, which moves single spikes of large networks. No class may differ, unless the weights are
            quantized: then at most this share of the samples.
        quantize: `"dynamic_range"`: weights as int8, each layer's inputs quantized as they come (LiteRT only); or None.
        overwrite: bool: whether a file that is there may be replaced.

    Returns:
        An ExportReport.

    Raises:
        EquivalenceError: where the file does something else than the model. No file is left.
        ValueError: "Expected ... Received: ..." for a wrong argument, a model that is not understood or that computes in
            float64, a path that exists already or cannot be written, and a file that its runtime refuses.
        ImportError: where a package of the runtime is missing.
    """
    _check_format(format)
    _check_model(model)
    checks.share("tolerance", tolerance)
    _check_quantize(quantize, format)
    place = _checked_path(path, format, overwrite)
    runtimes.check_packages(format, FORMATS[format].packages)
    x, labels = _samples(model, data)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".keras_ttfs_") as folder:
        made = pathlib.Path(folder) / f"model{FORMATS[format].suffix}"
        with runtimes.quiet():
            FORMATS[format].write(_PlainModel(model, format), made, quantize)
        report = _report(model, made, format, x, labels, quantize)
        report.path = str(place)
        report.check(tolerance)
        if place.is_dir() and not place.is_symlink():
            shutil.move(place, pathlib.Path(folder) / "replaced")
        os.replace(made, place)
    return report


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
    _check_format(format)
    _check_model(model)
    checks.share("tolerance", tolerance)
    _check_quantize(quantize, format)
    place = _as_path(path)
    if not place.exists():
        raise ValueError(f"Expected the path of a file that export wrote. Received: path={str(path)!r}: nothing there")
    runtimes.check_packages(format, FORMATS[format].packages)
    x, labels = _samples(model, data)
    report = _report(model, place, format, x, labels, quantize)
    report.check(tolerance)
    return report


def _check_format(format):
    if isinstance(format, str) and format.lower() == "nir":
        raise ValueError(
            f"Expected format to be one of {tuple(FORMATS)}. Received: format={format!r}. No node of NIR has a threshold "
            "that falls, fires inside one window alone, and weighs its spike by its time: a file would run elsewhere and be "
            "wrong. Spike trains can be told: SpikingNetwork.from_model(model).run(x).to_nir()."
        )
    checks.one_of("format", format, tuple(FORMATS))


def _check_quantize(quantize, format):
    if quantize is not None:
        checks.one_of("quantize", quantize, QUANTIZATIONS)
        if format != "litert":
            raise ValueError(f"Expected quantize=None with format={format!r}. Received: quantize={quantize!r}")


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
    if os.path.lexists(path):
        if not overwrite:
            raise ValueError(
                f"Expected a path where nothing is. Received: path={str(path)!r}. overwrite=True replaces it."
            )
        is_model = path.is_dir() and (path / "saved_model.pb").is_file()
        if path.is_dir() != (not suffix) or (path.is_dir() and not is_model):
            raise ValueError(
                f"Expected a file of format={format!r} to replace. Received: path={str(path)!r}, which is something else"
            )
    return path


def _samples(model, data):
    """`(x, labels)`; labels are None where `data` has none."""
    nodes, _ = reader.read(model, "ttfs")
    entry = nodes[0]
    assert isinstance(entry, Input)
    shape, dtype = entry.shape, entry.dtype
    labels = None
    if data is None:
        draws = np.random.default_rng(0).uniform(size=(DRAWN, *shape))
        data = draws if keras.backend.is_float_dtype(dtype) else np.round(255 * draws)
    elif isinstance(data, tuple) and len(data) == 2 and np.ndim(data[1]) in (1, 2) and len(data[0]) == len(data[1]):
        labels = np.asarray(data[1]).reshape(len(data[1]), -1)[:, 0]
    x = inputs(data, nodes, "float32", "data")
    return x if keras.backend.is_float_dtype(dtype) else x.astype(dtype), labels


def _report(model, path, format, x, labels, quantize):
    """Runs the file and the model on x."""
    runtime, names = FORMATS[format], _populations(model)
    try:
        run = runtime.load(path)
        run(x[:1])
    except ImportError:
        raise
    except Exception as error:  # Every runtime has exceptions of its own.
        raise ValueError(
            f"Expected a file that its runtime reads. Received: {type(error).__name__}: {error}"
        ) from error
    reference = _Reference(model)
    report = ExportReport(
        path=str(path),
        format=format,
        size=sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()),
        operations=dict(runtime.operations(path)),
        samples=len(x),
        layers=[LayerEquivalence(name, format, 0) for name in names],
        quantize=quantize,
    )
    right: collections.Counter = collections.Counter()
    for first in range(0, len(x), BATCH):
        batch = x[first : first + BATCH]
        output, promised = reference(batch)
        found = run(batch)
        if set(found) != {"output", *(f"{SPIKE_TIME}{name}" for name in names)}:
            raise ValueError(f"Expected a file that export wrote of {model.name!r}. Received: outputs {sorted(found)}")
        differs = np.zeros(len(batch), bool)
        for row, (expected, potential, thresholds) in zip(report.layers, promised):
            times = found[f"{SPIKE_TIME}{row.layer}"]
            row.neurons = times[0].size
            report.file_spikes += np.count_nonzero(times < len(thresholds)) / len(x)
            compare_layer(row, times, expected, potential, thresholds, differs)
        predictions = {"keras": output.argmax(-1), "file": found["output"].argmax(-1)}
        report.changed_predictions += int((predictions["keras"] != predictions["file"]).sum())
        report.output_difference = max(report.output_difference, float(np.abs(found["output"] - output).max()))
        if labels is not None:
            right_ones = labels[first : first + BATCH]
            right.update({name: int((classes == right_ones).sum()) for name, classes in predictions.items()})
    if labels is not None:
        report.accuracy = {name: right[name] / len(x) for name in ("keras", "file")}
    report.seconds_per_sample = _speeds(x[:BATCH], file=run, keras=reference.model.predict_on_batch)
    return report


class _Reference:
    """The model itself in float32: `(outputs, [(spike times, pre-activations, thresholds) of each layer])` of a batch."""

    def __init__(self, model):
        self.model = in_dtype(model, "float32")

    def __call__(self, batch):
        seen: list = []
        with topology.observed(self.model, lambda encoder, z: seen.append((encoder, z))):
            output = self.model(tf.constant(batch), training=False)
        return output.numpy(), [self._promised(*pair) for pair in seen]

    def _promised(self, encoder, z):
        kernel = encoder.tau.value, encoder.t_d.value, encoder.time_window
        times, _ = temporal_kernel.fire(z, *kernel, rounding=encoder.rounding)
        thresholds = temporal_kernel.thresholds(*kernel, rounding=encoder.rounding, dtype="float32")
        return times.numpy(), np.asarray(z), thresholds.numpy()


def _speeds(batch, **runs):
    """`{name: median seconds per sample}` of functions of a batch, called in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(ROUNDS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run(batch)
            if round_:  # The first call may trace.
                seconds[name].append((time.perf_counter() - start) / len(batch))
    return {name: float(np.median(values)) for name, values in seconds.items()}
