"""Converts a trained ReLU model at several windows and reports accuracy: `python -m experiments.convert --model=...`."""

import dataclasses
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import command
from experiments.runs import Job, run_jobs
from experiments.stored import CONVERSION, read_any

if TYPE_CHECKING:
    import keras
    import numpy as np


def define_flags() -> None:
    command.define_shared_flags(
        "model", "dataset", "data_dir", "images", "calibration_images", "batch_size", "rounding", "overwrite"
    )
    flags.DEFINE_list("time_windows", ["32", "16", "8"], "Windows T to convert at [steps].")
    flags.DEFINE_boolean("report", False, "Print what each layer prunes, quantises and clips.")
    flags.DEFINE_string("output", None, "Result file; by default conversion.json beside the model.")


def conversions(options: flags.FlagValues) -> dict[str, Any]:
    """The result of all windows, as it is and calibrated."""
    import keras_ttfs
    from experiments import data as data_module
    from experiments import saved_model
    from experiments.provenance import provenance

    origin = provenance()
    source = saved_model.load(options.model)
    data = data_module.load(options.dataset, options.data_dir)
    test = data.test().first(options.images)
    images = data_module.scale(test.images).numpy()
    calibration = data_module.scale(data.train.first(options.calibration_images).images).numpy()
    # In float32 even if it was trained in another precision: what is lost is lost by conversion, not by rounding.
    source = keras_ttfs.snn.in_dtype(source, "float32")
    logits = source.predict(images, batch_size=options.batch_size, verbose=0)
    result = {
        "data": data.description,
        "test_images": len(test),
        "calibration_images": len(calibration),
        "rounding": options.rounding,
        "relu_accuracy": float((logits.argmax(-1) == test.labels).mean()),
        "rows": [],
        **origin,
    }
    print(f"ReLU: {100 * result['relu_accuracy']:.2f} %, {len(test):,} images")
    for time_window in map(int, options.time_windows):
        for calibrate in (False, True):
            result["rows"].append(
                conversion(source, (images, test.labels), calibration, time_window, calibrate, options)
            )
    return result


def conversion(
    source: "keras.Model",
    test: tuple["np.ndarray", "np.ndarray"],
    calibration: "np.ndarray",
    time_window: int,
    calibrate: bool,
    options: flags.FlagValues,
) -> dict[str, Any]:
    """The result of one conversion."""
    import keras

    import keras_ttfs

    model = keras_ttfs.convert(
        source,
        time_window=time_window,
        rounding=options.rounding,
        data=calibration,
        calibrate=calibrate,
        batch_size=options.batch_size,
    )
    report = keras_ttfs.quantization_report(model, calibration, batch_size=options.batch_size)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    logs = model.evaluate(*test, batch_size=options.batch_size, verbose=0, return_dict=True)
    row = {
        "time_window": time_window,
        "calibrated": calibrate,
        "accuracy": logs["accuracy"],
        "spikes": float(logs["spikes"]),
        "spikes_per_neuron": float(logs["spikes_per_neuron"]),
        "layers": [dataclasses.asdict(layer) for layer in report],
    }
    print(
        f"T = {time_window:<3} {'calibrated' if calibrate else 'as it is':<11} {100 * row['accuracy']:6.2f} %, "
        f"{row['spikes']:,.0f} spikes, {100 * row['spikes_per_neuron']:.1f} % per neuron",
        flush=True,
    )
    if options.report:
        print(report)
    return row


def main(options: flags.FlagValues) -> None:
    path = options.output or command.beside_model(options.model, "conversion.json")
    with command.usage_errors():
        command.whole_numbers("time_windows", options.time_windows)
    command.existing_model(options.model)
    job = Job(
        "conversion",
        path,
        lambda results: conversions(options),
        read=lambda file: read_any(file, CONVERSION),
        overwrite=options.overwrite,
    )
    run_jobs([job], path)
    print(f"\nFile: {path}")


if __name__ == "__main__":
    define_flags()
    command.run(main)
