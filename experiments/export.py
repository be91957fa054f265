"""Exports a trained network in every format: `python -m experiments.export --model=cifar10 --dataset=cifar10 --files=DIR`.

`--model=runs/x/model.keras --dataset=digits` exports a model of one's own. Each file is run by its runtime on test images,
and its spikes are compared with the model's. FILES/export.json tells all of it. Run it alone: it measures speed.
"""

import os
from typing import Any

from absl import flags

from experiments import command
from experiments.files import write_json
from experiments.tables import export_table

# Row: (format, quantize, images). The executor of QONNX takes seconds for an image of CIFAR.
ROWS = {
    "onnx": ("onnx", None, None),
    "litert": ("litert", None, None),
    "litert_int8": ("litert", "dynamic_range", None),
    "tf_saved_model": ("tf_saved_model", None, None),
    "qonnx": ("qonnx", None, 20),
}
SUMMARY = "export.json"
# What writes and runs the files.
RUNTIMES = ("tf2onnx", "onnx", "onnxruntime", "ai-edge-litert", "qonnx")


def define_flags() -> None:
    command.define_shared_flags("dataset", "data_dir", "overwrite", images=1000)
    flags.DEFINE_string(
        "model", None, "Trained TTFS model, a .keras file; or the name of weights of fast_vgg.", required=True
    )
    flags.DEFINE_string("files", None, "Directory for the files and for export.json.")
    flags.DEFINE_float(
        "tolerance", 1e-3, "Share of spike times that may differ, unless weights are quantized [1].", 0.0, 1.0
    )
    flags.DEFINE_list("rows", list(ROWS), f"Which: {', '.join(ROWS)}.")
    flags.mark_flag_as_required("files")


def main(options: flags.FlagValues) -> None:
    with command.usage_errors():
        command.check_names("rows", options.rows, ROWS)
    summary, names = os.path.join(options.files, SUMMARY), (SUMMARY, *map(file_of, options.rows))
    there = [name for name in names if os.path.lexists(os.path.join(options.files, name))]
    if there and not options.overwrite:
        raise FileExistsError(
            f"Expected files that are not there yet. Received: {', '.join(there)} in {options.files}. Pass --overwrite."
        )
    os.makedirs(options.files, exist_ok=True)
    result = measured(options)
    write_json(summary, result)
    print(f"\n{export_table(result)}\n\nFiles: {os.path.abspath(options.files)}")


def file_of(row: str) -> str:
    """Name of the file, or the folder, of a row."""
    from keras_ttfs import exporting

    return row + exporting.FORMATS[ROWS[row][0]].suffix


def measured(options: flags.FlagValues) -> dict[str, Any]:
    """What every file of the rows is and does."""
    import keras_ttfs
    from experiments import trained
    from experiments.provenance import provenance
    from keras_ttfs.snn import EquivalenceError

    origin = provenance(*RUNTIMES)
    shown = trained.load(options.model, options.dataset, options.data_dir, options.images)
    rows = {}
    for row in options.rows:
        format, quantize, most = ROWS[row]
        count = min(len(shown.images), most or len(shown.images))
        data = shown.images[:count], shown.labels[:count]
        path = os.path.join(options.files, file_of(row))
        tolerance = 1.0 if quantize else options.tolerance
        how = {"quantize": quantize, "overwrite": options.overwrite}
        try:
            report = keras_ttfs.export(shown.model, path, format, data, tolerance, **how)
        except EquivalenceError as error:
            raise ValueError(f"Expected the row {row} to fire the model's spikes. Received: {error}") from error
        rows[row] = {
            "size": report.size,
            "images": report.samples,
            "accuracy": report.accuracy,
            "spikes": {"keras": report.spikes / report.samples, "file": report.file_spikes},
            "mismatches": report.mismatches,
            "all_spikes": report.spikes,
            "changed_predictions": report.changed_predictions,
            "seconds_per_image": report.seconds_per_sample,
            "operations": report.operations,
        }
    folder = os.path.basename(os.path.dirname(os.path.abspath(options.model)))
    network = f"fast_vgg({shown.name!r})" if shown.name == options.model else folder
    return {"network": network, "model": shown.name, "data": shown.data, "rows": rows, **origin}


if __name__ == "__main__":
    define_flags()
    command.run(main)
