"""Table 2 on one network: `python -m experiments.table2 --model=RELU.keras --ttfs=TTFS.keras --workdir=runs/table2`.

Every coding simulates the same trained network (a ReLU model, converted; TTFS models as they were trained); beside them,
a network trained in the spike-time domain, which knows no time steps. What is finished is not simulated again.
"""

import hashlib
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from absl import app, flags

from experiments import report, runs
from experiments.config import CHOICES, differences
from experiments.files import read_json, replaced, write_json


def simulate_conversion(row, model, calibration, images, labels, batch_size, time_steps):
    """A converted coding: `(network, time steps, decision step, accuracy by step, spikes by step)`.

    Codings with windows, and all where `time_steps` is None, take their own number of steps.
    """
    from keras_ttfs.snn import CodedNetwork, codings

    kinds = {
        "rate": codings.RateCoding,
        "phase": codings.PhaseCoding,
        "burst": codings.BurstCoding,
        "tsc": codings.TemporalSwitchCoding,
    }
    coding = kinds[row]()
    network = CodedNetwork.from_model(model, coding, calibration)
    steps = time_steps if coding.time_window is None else None
    result = network.run(images, steps, batch_size=batch_size, verbose=1)
    correct = (result.predictions == labels[:, None]).mean(0)
    return network, result.time_steps, result.time_steps, correct, result.spikes_per_step


def simulate_ttfs(model, images, labels, batch_size, early_firing=0):
    """A TTFS model, step by step; as `simulate_conversion`."""
    import keras
    import numpy as np

    from keras_ttfs.snn import SpikingNetwork, plots

    network = SpikingNetwork.from_model(model, early_firing=early_firing)
    output, steps = network.output.name, network.decision_step
    bar = keras.utils.Progbar(len(images), unit_name="image")
    spikes, correct = np.zeros(steps), np.zeros(steps)
    # Batch by batch: all spike times at once would fill the memory.
    for first in range(0, len(images), batch_size):
        x, y = (values[first : first + batch_size] for values in (images, labels))
        record = {output: range(network.output.shape[0])}
        result = network.run(x, mode="clock", batch_size=batch_size, record=record, verbose=0)
        for name, counts in plots.count_spike_times(result).items():
            if name not in result.input_layers:
                start, window = result.phases[name]
                spikes[start : start + window] += counts
        # A step's potentials are those that its spikes are compared with: its spikes arrive after it.
        correct[:-1] += (result.membranes[output][..., 1:].argmax(1) == y[:, None]).sum(0)
        correct[-1] += (result.logits.argmax(-1) == y).sum()
        bar.add(len(x))
    return network, network.time_steps, steps, correct / len(images), spikes / len(images)


def evaluate_spike_times(path, images, labels, batch_size):
    """A model of `keras_ttfs.spike_time`, whose spike times are real numbers: its result, without steps and curve."""
    import keras

    from keras_ttfs.spike_time import SpikeTimeOutput

    model = keras.models.load_model(path, compile=False)
    if not any(isinstance(layer, SpikeTimeOutput) for layer in model.layers):
        raise ValueError(f"Expected --spike_time to be a model with a SpikeTimeOutput. Received: {path}")
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    logs = model.evaluate(images, labels, batch_size=batch_size, return_dict=True, verbose=1)
    return {
        "accuracy": float(logs["accuracy"]),
        "model_accuracy": float(logs["accuracy"]),
        "time_steps": None,
        "decision_step": None,
        "spikes": float(logs["spikes"]),
        "neurons": model.neurons,
        "curve": [],
    }


def _training(path):
    """What is known of how a model was trained, where it lies beside its run's result."""
    result = pathlib.Path(path).with_name("result.json")
    return {key: read_json(result)[key] for key in ("config", "epochs", "wall_time")} if result.exists() else None


def simulate(row, path, data, batch_size, time_window, time_steps):
    """The result of one row, a dict; `path` is that of the ReLU twin, or of the trained model of a row."""
    begun = time.monotonic()
    if row == "spike_time":
        result = evaluate_spike_times(path, *data[1:], batch_size)
    else:
        result = simulate_steps(row, path, data, batch_size, time_window, time_steps)
    seconds = round(time.monotonic() - begun, 1)
    return {"row": row, "label": label(row, path), **result, "training": _training(path), "seconds": seconds}


def simulate_steps(row, path, data, batch_size, time_window, time_steps):
    """The result of a row that is simulated step by step."""
    import keras_ttfs

    calibration, images, labels = data
    model = float32(path)
    if row.startswith("ttfs"):
        outcome = simulate_ttfs(model, images, labels, batch_size)
    elif row.startswith("t2fsnn"):
        early = time_window // 2 if row == "t2fsnn_early" else 0
        converted = keras_ttfs.convert_t2fsnn(model, calibration, time_window=time_window)
        outcome = simulate_ttfs(converted, images, labels, batch_size, early)
    else:
        outcome = simulate_conversion(row, model, calibration, images, labels, batch_size, time_steps)
    network, time_steps, decision_step, accuracy, spikes = outcome
    surrogate = model.predict(images, batch_size=batch_size, verbose=0).argmax(-1)
    return {
        "accuracy": float(accuracy[-1]),
        # Of the model that the spikes stand for: the ReLU twin, or the TTFS model itself.
        "model_accuracy": float((surrogate == labels).mean()),
        "time_steps": time_steps,
        "decision_step": decision_step,
        "spikes": float(spikes.sum()),
        "neurons": network.neurons,
        "curve": curve(accuracy, spikes.cumsum()),
    }


def label(row, path):
    """Name of a row in the table; a trained model's is that of its run, where it lies beside its result."""
    if row in report.TABLE2_ROWS:
        return report.TABLE2_ROWS[row][0]
    result = pathlib.Path(path).with_name("result.json")
    return read_json(result)["config"]["row"] if result.exists() else pathlib.Path(path).stem


def curve(accuracy, spikes, points=200):
    """`[[step, accuracy, spikes so far], ...]` at about so many steps, the last of them included."""
    import numpy as np

    steps = np.unique(np.linspace(1, len(accuracy), min(points, len(accuracy))).round().astype(int))
    return [[int(step), round(float(accuracy[step - 1]), 4), round(float(spikes[step - 1]), 1)] for step in steps]


def float32(path):
    """A model of whatever precision as one of float32, which the simulations are of."""
    import keras

    from keras_ttfs.snn import in_dtype

    return in_dtype(keras.models.load_model(path, compile=False), "float32")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    options = flags.FLAGS
    try:
        results = run_all(options)
    except (OSError, ImportError, ValueError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    from experiments import plots

    plots.codings(results, os.path.join(options.workdir, "codings.png"))
    text = f"{report.table2(results)}\n\nThe paper's:\n\n{report.paper_table2()}"
    with replaced(os.path.join(options.workdir, "table2.md")) as temporary:
        pathlib.Path(temporary).write_text(text + "\n")
    print(f"\n{text}\n\nFiles: {os.path.abspath(options.workdir)}")


def run_all(options):
    """Every row's result, in the table's order; simulates those that `workdir` does not hold yet."""
    from experiments import data as data_module
    from experiments.train import provenance

    paths = dict.fromkeys(options.rows, options.model)
    if options.spike_time:
        paths["spike_time"] = options.spike_time
    paths |= {f"ttfs_{number}": path for number, path in enumerate(options.ttfs)}
    unknown = set(options.rows) - set(report.TABLE2_ROWS)
    if unknown:
        raise ValueError(f"Expected rows of {', '.join(report.TABLE2_ROWS)}. Received: {', '.join(sorted(unknown))}")
    for path in paths.values():
        if not os.path.isfile(path):
            raise FileNotFoundError(f"Expected .keras files. Received: {path}")
    data = data_module.load(options.dataset, options.data_dir)
    test = data.test()
    count = options.test_images or len(test)
    images = data.train.images[: options.calibration_images], test.images[:count]
    parts = *(data_module.scale(split).numpy() for split in images), test.labels[:count]
    settings = {
        "data": data.description,
        "test_images": len(parts[2]),
        "calibration_images": len(parts[0]),
        "time_window": options.time_window,
        "time_steps": options.time_steps,
    }
    asked = {row: {**settings, "model_sha256": _sha256(path)} for row, path in paths.items()}
    files = {row: os.path.join(options.workdir, f"{row}.json") for row in paths}
    missing = [row for row, file in files.items() if not _finished(file, asked[row])]
    os.makedirs(options.workdir, exist_ok=True)
    for row in runs.announced(missing, lambda row: label(row, paths[row])):
        result = simulate(row, paths[row], parts, options.batch_size, options.time_window, options.time_steps)
        write_json(files[row], {**result, "settings": asked[row], **provenance()})
    return [read_json(file) for file in files.values()]


def _finished(file, asked):
    if not os.path.exists(file):
        return False
    if changes := differences(read_json(file)["settings"], asked):
        raise FileExistsError(f"Expected {file} to hold what is asked for. Received: {changes}.")
    return True


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "Trained ReLU twin, a .keras file.")
    flags.DEFINE_multi_string("ttfs", [], "Trained TTFS model, a .keras file; repeat the flag for several.")
    flags.DEFINE_string("spike_time", None, "Model trained with --activation=spike_time, a .keras file.")
    flags.DEFINE_list("rows", list(report.TABLE2_ROWS), "Conversions of the ReLU twin to simulate.")
    flags.DEFINE_string("workdir", None, "Directory of results, table and plot; resumes what it holds.")
    flags.DEFINE_enum("dataset", "cifar10", CHOICES["dataset"], "Data set of the models.")
    flags.DEFINE_string("data_dir", None, "Directory of tensorflow-datasets; its own default if not given.")
    flags.DEFINE_integer("test_images", 1000, "First so many test images [images]; 0: all.", lower_bound=0)
    flags.DEFINE_integer("calibration_images", 5000, "First so many training images [images].", lower_bound=1)
    flags.DEFINE_integer("time_window", 40, "T of TTFS by conversion [steps].", lower_bound=2)
    flags.DEFINE_integer("time_steps", None, "H of rate, phase, burst [steps]; their own if not given.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 100, "Images simulated at a time [images].", lower_bound=1)
    flags.mark_flags_as_required(["model", "workdir"])
    app.run(main)
