"""Converts a trained ReLU model at several windows and reports accuracy: `python -m experiments.convert --model=...`."""

import dataclasses
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from absl import app, flags

from experiments.config import CHOICES


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    import keras

    import keras_ttfs
    from experiments import data as data_module
    from experiments.files import write_json
    from experiments.train import provenance

    options = flags.FLAGS
    path = options.output or os.path.join(os.path.dirname(os.path.abspath(options.model)), "conversion.json")
    try:
        if os.path.exists(path) and not options.overwrite:
            raise FileExistsError(f"Expected a new --output. Received: {path}. Pass --overwrite.")
        if not os.path.isfile(options.model):
            raise FileNotFoundError(f"Expected --model to be a .keras file. Received: {options.model}")
        source = keras.models.load_model(options.model, compile=False)
        data = data_module.load(options.dataset, options.data_dir)
        test = data.test()
        chosen = slice(options.images or None)
        x, y = data_module.scale(test.images[chosen]).numpy(), test.labels[chosen]
        calibration = data_module.scale(data.train.images[: options.calibration_images]).numpy()
        # In float32 whatever the model was trained in: conversion loses, not rounding.
        source = keras_ttfs.snn.in_dtype(source, "float32")

        def accuracy(model):
            logits = model.predict(x, batch_size=options.batch_size, verbose=0)
            return float((logits.argmax(-1) == y).mean())

        result = {
            "data": data.description,
            "test_images": len(y),
            "calibration_images": len(calibration),
            "rounding": options.rounding,
            "relu_accuracy": accuracy(source),
            "rows": [],
            **provenance(),
        }
        print(f"ReLU: {100 * result['relu_accuracy']:.2f} %, {len(y):,} images")
        for time_window in map(int, options.time_windows):
            for calibrate in (False, True):
                model, report = keras_ttfs.convert(
                    source,
                    time_window=time_window,
                    rounding=options.rounding,
                    data=calibration,
                    calibrate=calibrate,
                    batch_size=options.batch_size,
                )
                model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
                logs = model.evaluate(x, y, batch_size=options.batch_size, verbose=0, return_dict=True)
                row = {
                    "time_window": time_window,
                    "calibrated": calibrate,
                    "accuracy": logs["accuracy"],
                    "spikes": float(logs["spikes"]),
                    "spikes_per_neuron": float(logs["spikes_per_neuron"]),
                    "layers": [dataclasses.asdict(layer) for layer in report],
                }
                result["rows"].append(row)
                print(
                    f"T = {time_window:<3} {'calibrated' if calibrate else 'as it is':<11} {100 * row['accuracy']:6.2f} %, "
                    f"{row['spikes']:,.0f} spikes, {100 * row['spikes_per_neuron']:.1f} % per neuron",
                    flush=True,
                )
                if options.report:
                    print(report)
        write_json(path, result)
    except (OSError, ImportError, ValueError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(f"\nFile: {path}")


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "Trained ReLU model, a .keras file.")
    flags.DEFINE_enum(
        "dataset", "digits", CHOICES["dataset"], "Data set: test split for accuracy, training for calibration."
    )
    flags.DEFINE_string("data_dir", None, "Directory of tensorflow-datasets; its own default if not given.")
    flags.DEFINE_list("time_windows", ["32", "16", "8"], "Windows T to convert at [steps].")
    flags.DEFINE_enum("rounding", "ceil", CHOICES["rounding"], "Q of Eq. 4: how a spike time is rounded.")
    flags.DEFINE_integer("images", 0, "Only the first so many test images [images]; 0: all.", lower_bound=0)
    flags.DEFINE_integer(
        "calibration_images", 500, "Training images for calibration and report [images].", lower_bound=1
    )
    flags.DEFINE_integer("batch_size", 100, "Images at a time [images].", lower_bound=1)
    flags.DEFINE_boolean("report", False, "Print what each layer prunes, quantises and clips.")
    flags.DEFINE_string("output", None, "Result file; by default conversion.json beside the model.")
    flags.DEFINE_boolean("overwrite", False, "Replace the result file.")
    flags.mark_flag_as_required("model")
    app.run(main)
