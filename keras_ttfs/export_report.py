"""What a file does beside the model that it was written from: the comparison that `exporting` makes, and its report."""

import collections
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_ttfs import topology
from keras_ttfs.plain_model import OUTPUT, SPIKE_TIME
from keras_ttfs.snn.equivalence import EquivalenceError, LayerEquivalence, compare_layer
from keras_ttfs.snn.graph import Surrogate
from keras_ttfs.snn.reader import spiking_calls

# Samples at a time.
BATCH = 100
# Rounds in which the speeds of file and model are measured in turn.
ROUNDS = 5
# Share of samples that compiled operations may see another class of, because they move single spikes.
MOVED = 0.01
# How far an output may be off where all spikes are the same, as a share of the largest output: rounding.
ROUNDING = 1e-3


@dataclasses.dataclass
class ExportReport:
    """What a file is and does beside the model it was written from; prints as a table.

    Attributes:
        path: of the file, or of the folder of a SavedModel.
        format: `"onnx"`, `"litert"`, `"tf_saved_model"` or `"qonnx"`.
        size: of the file, or of all files in the folder [bytes].
        operations: `{operation of the format: how often}`.
        samples: number of inputs compared.
        layers: list of LayerEquivalence, one for each spiking layer: the spikes of the model in float32, and how many differ.
        quantize: how the weights are quantized, or None.
        changed_predictions: number of samples whose largest output is another.
        output_difference: largest difference of an output [1].
        wrong_outputs: number of samples with outputs that are not finite; that differ by more than rounding although not one
            spike differs (not with quantized weights); or by more than all outputs of the batch differ from one another.
        model_dtype: in which the model as given computes: `"float32"`, or `"mixed"`.
        model_changed_predictions: number of samples where the model as given, in its own precision, sees another class than
            in float32.
        seconds_per_sample: `{"file": ..., "keras": ...}`: of the file, and of `predict_on_batch` of the model as given;
            medians, measured in turn [s].
        file_spikes: mean spikes per sample that the file fires, all layers.
        accuracy: `{"file": ..., "keras": ...}` where labels are known, of the file and of the model in float32 [1].
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
    wrong_outputs: int = 0
    model_dtype: str = "float32"
    model_changed_predictions: int = 0
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
            EquivalenceError: "Expected the spikes of the model. Received: ...", naming the layer with most differences that
                are not inherited, and their number; "Expected the classes ...", "Expected the outputs ..."; where the model
                fired no spike, so that nothing was compared; and where it predicts other classes than its layers, rebuilt
                in the same precision.
        """
        if not self.spikes:
            raise EquivalenceError(
                f"Expected data on which the model fires. Received: no spike in {self.samples:,} samples. Pass data=.\n{self}"
            )
        if tolerance < 1 and self.mismatches > tolerance * self.spikes:
            worst = max(self.layers, key=lambda row: row.mismatches - row.inherited)
            own = worst.mismatches - worst.inherited
            raise EquivalenceError(
                f"Expected the spikes of the model, but for a share of {tolerance:g}. Received: {self.mismatches:,} spike "
                f"times that differ of {self.spikes:,} spikes; {own:,} of {worst.spikes:,} arise "
                f"in layer {worst.layer!r}. Another order of summation moves single spikes: tolerance= allows a share of "
                f"them.\n{self}"
            )
        if self.wrong_outputs:
            raise EquivalenceError(
                f"Expected the outputs of the model. Received: {self.wrong_outputs:,} of {self.samples:,} samples whose "
                f"outputs are not finite, or differ by more than their spikes say, by up to "
                f"{self.output_difference:.3g}.\n{self}"
            )
        if self.model_dtype == "float32" and self.model_changed_predictions > max(1, MOVED * self.samples):
            raise EquivalenceError(
                f"Expected a model that predicts what its layers compute. Received: {self.model_changed_predictions:,} of "
                f"{self.samples:,} samples with other classes than the layers, rebuilt in float32.\n{self}"
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
        if idle := [row.layer for row in self.layers if not row.spikes]:
            lines.append(f"no spikes, so nothing compared in: {', '.join(idle)}")
        if self.model_changed_predictions or self.model_dtype != "float32":
            lines.append(f"the model in its own precision sees {self.model_changed_predictions:,} other classes")
        if self.accuracy:
            lines.append(f"accuracy {self.accuracy['keras']:.2%} (Keras), {self.accuracy['file']:.2%} (file)")
        milliseconds = {name: 1e3 * seconds for name, seconds in self.seconds_per_sample.items()}
        lines.append(f"{milliseconds['keras']:.3g} ms a sample (Keras), {milliseconds['file']:.3g} (file)")
        return "\n".join([*lines, f"operations: {kinds}"])


class _Reference(Surrogate):
    """The model in float32, with its softmax, and the spike times that it promises."""

    softmax = True


def compared(
    model: keras.Model,
    path: pathlib.Path,
    runtime: Any,
    format: str,
    x: np.ndarray,
    labels: np.ndarray | None,
    quantize: str | None,
) -> ExportReport:
    """Runs the file and the model on x.

    Raises:
        ValueError: "Expected a file that its runtime reads. Received: ...", and for the file of another model.
        ImportError: where the runtime is missing.
    """
    calls = spiking_calls(model)
    run, reference = _loaded(runtime, path, x), _Reference(model, "float32")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    report = ExportReport(
        path=str(path),
        format=format,
        size=sum(file.stat().st_size for file in files),
        operations=dict(runtime.operations(path)),
        samples=len(x),
        layers=[LayerEquivalence(name, format, 0) for name in calls if name],
        quantize=quantize,
        model_dtype="float32" if _computes_in_float32(model) else "mixed",
    )
    right: collections.Counter = collections.Counter()
    with _counts_kept(model):
        for first in range(0, len(x), BATCH):
            batch = x[first : first + BATCH]
            output, promised = reference(batch, len(batch))
            found = run(batch)
            _check_outputs(
                report, found, output, {name: each for name, each in zip(calls, promised, strict=True) if name}
            )
            predictions = {"keras": _classes(output), "file": _classes(found[OUTPUT])}
            differing = predictions["keras"] != predictions["file"]
            report.changed_predictions += int(differing.reshape(len(batch), -1).any(1).sum())
            # Each replica of a MirroredStrategy predicts the whole batch.
            given = np.asarray(keras.tree.flatten(model.predict_on_batch(batch))[0])[: len(batch)]
            given = _classes(given) != predictions["keras"]
            report.model_changed_predictions += int(given.reshape(len(batch), -1).any(1).sum())
            if labels is not None:
                classes = labels[first : first + BATCH]
                right.update({name: int((found == classes).sum()) for name, found in predictions.items()})
        if labels is not None:
            report.accuracy = {name: right[name] / len(x) for name in ("keras", "file")}
        timed, rounds = (x[:1], 1) if runtime.samples else (x[:BATCH], ROUNDS)
        report.seconds_per_sample = _speeds(timed, rounds, file=run, keras=model.predict_on_batch)
    return report


def _classes(output):
    """The class of each sample: its largest output, or the sign of its only one."""
    return output.argmax(-1) if output.shape[-1] > 1 else output > 0


def _computes_in_float32(model):
    return all(layer.compute_dtype == "float32" for layer in topology.layers_of(model, keras.layers.Layer))


def _loaded(runtime, path, x):
    """The file as a function, which has run once."""
    try:
        run = runtime.load(path)
        run(x[:1])
    except ImportError:
        raise
    except Exception as error:  # Every runtime has exceptions of its own.
        raise ValueError(
            f"Expected a file that its runtime reads. Received: {type(error).__name__}: {error}"
        ) from error
    return run


def _check_outputs(report, found, output, promised):
    """Adds a batch to the report: what the file returned, the model's outputs, and `{layer: what it promises}`."""
    wanted = {OUTPUT: output.shape} | {f"{SPIKE_TIME}{name}": each[0].shape for name, each in promised.items()}
    shapes = {name: value.shape for name, value in found.items()}
    if shapes != wanted:
        raise ValueError(f"Expected a file of this model, which returns {wanted}. Received: one that returns {shapes}")
    differs = np.zeros(len(output), bool)
    for row in report.layers:
        expected, potential, thresholds = promised[row.layer]
        times = found[f"{SPIKE_TIME}{row.layer}"]
        if times.dtype.kind not in "iu" or times.min() < 0 or times.max() > len(thresholds):
            raise ValueError(
                f"Expected spike times of layer {row.layer!r} in 0..{len(thresholds)}. Received: {times.dtype} from "
                f"{times.min()} to {times.max()}: a file of another model"
            )
        row.neurons = times[0].size
        report.file_spikes += np.count_nonzero(times < len(thresholds)) / report.samples
        compare_layer(row, times, expected, potential, thresholds, differs)
    away = np.abs(found[OUTPUT].astype("float64") - output).reshape(len(output), -1).max(1)
    largest = float(np.abs(output).max())
    rounds = away <= ROUNDING * max(largest, 1e-30)
    # NaN is not within anything.
    finite = np.isfinite(away)
    # A spike that moves changes an output, but not beyond the range of all of them.
    far = away > max(float(np.ptp(output)), largest)
    moved = ~rounds & ~differs if report.quantize is None else False
    report.wrong_outputs += int((~finite | far | moved).sum())
    report.output_difference = max(report.output_difference, float(np.where(finite, away, np.inf).max()))


@contextlib.contextmanager
def _counts_kept(model: keras.Model) -> Iterator[None]:
    """Context after which the spikes that a model has counted are what they were."""
    counts = [variable for layer in topology.counting_layers(model) for variable in layer.spikes.variables]
    before = [variable.numpy() for variable in counts]
    try:
        yield
    finally:
        for variable, value in zip(counts, before):
            variable.assign(value)


def _speeds(batch, rounds, **runs):
    """`{name: median seconds per sample}` of functions of a batch, called in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run(batch)
            if number:  # The first call may trace.
                seconds[name].append((time.perf_counter() - start) / len(batch))
    return {name: float(np.median(values)) for name, values in seconds.items()}
