"""Exports a trained network in every format: `python -m experiments.export --weights=cifar10 --files=runs/export`.

`--model=runs/x/model.keras --dataset=digits` exports a model of one's own. Each file is run by its runtime on test images,
and its spikes are compared with the model's. FILES/export.json tells all of it. Run it alone: it measures speed.
"""

import os
from typing import Any

from absl import app, flags

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


def define_flags() -> None:
    command.define_shared_flags("dataset", "data_dir", "overwrite", images=1000)
    flags.DEFINE_string("model", None, "Trained model, a .keras file.")
    flags.DEFINE_string("weights", None, "Instead of --model: name of weights that come with fast_vgg.")
    flags.DEFINE_string("files", None, "Directory for the files and for export.json.")
    flags.DEFINE_float(
        "tolerance", 1e-3, "Share of spike times that may differ, unless weights are quantized [1].", 0.0, 1.0
    )
    flags.DEFINE_list("rows", list(ROWS), f"Which: {', '.join(ROWS)}.")
    flags.mark_flag_as_required("files")


def main(options: flags.FlagValues) -> None:
    if (options.model is None) == (options.weights is None):
        raise app.UsageError("Expected one of --model and --weights. Received: both or none.")
    with command.usage_errors():
        command.check_names("rows", options.rows, ROWS)
    summary = os.path.join(options.files, "export.json")
    if os.path.lexists(summary) and not options.overwrite:
        raise FileExistsError(f"Expected a file that is not there yet. Received: {summary}. Pass --overwrite.")
    os.makedirs(options.files, exist_ok=True)
    result = measured(options)
    write_json(summary, result)
    print(f"\n{export_table(result)}\n\nFiles: {os.path.abspath(options.files)}")


def measured(options: flags.FlagValues) -> dict[str, Any]:
    """What every file of the rows is and does."""
    import keras_ttfs
    from experiments import data as data_module
    from experiments import saved_model
    from experiments.provenance import provenance

    dataset = options.weights or options.dataset
    data = data_module.load(dataset, options.data_dir)
    if options.weights:
        model = keras_ttfs.applications.fast_vgg(classes=data.classes, weights=options.weights)
    else:
        command.existing_model(options.model)
        model = saved_model.load(options.model)
    test = data.test()
    x, labels = data_module.scale(test.images).numpy(), test.labels
    rows = {}
    for row in options.rows:
        format, quantize, most = ROWS[row]
        count = min(options.images or len(x), most or len(x))
        path = os.path.join(options.files, row + keras_ttfs.exporting.FORMATS[format].suffix)
        tolerance = 1.0 if quantize else options.tolerance
        report = keras_ttfs.export(
            model, path, format, (x[:count], labels[:count]), tolerance, quantize=quantize, overwrite=options.overwrite
        )
        print(f"\n{report}", flush=True)
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
    network = f"fast_vgg({options.weights!r})" if options.weights else os.path.basename(os.path.dirname(options.model))
    return {"network": network, "data": data.description, "rows": rows, **provenance()}


if __name__ == "__main__":
    define_flags()
    command.run(main)
