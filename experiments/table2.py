"""Table 2 on one network: `python -m experiments.table2 --model=RELU.keras --ttfs=TTFS.keras --workdir=runs/table2`.

Every coding simulates the same trained network: a ReLU model is converted, TTFS models are simulated as they were trained.
Beside them stands a network trained in the spike-time domain, which knows no time steps. What is finished is not simulated
again, and a row that was interrupted goes on with the images that are left.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from experiments import command, paper, table2_text
from experiments.files import REMEDY, sha256, write_text
from experiments.lock import locked
from experiments.runs import Job, run_jobs
from experiments.stored import CODING, read_any, read_result
from experiments.sums import Sums
from experiments.workdir import check_made, pattern_of, remove_leftovers

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_ttfs.snn import CodedNetwork, SpikingNetwork
    from keras_ttfs.snn.codings import Coding


# Rows whose every time step costs as much as a forward pass, and there are a thousand.
SLOW_ROWS = ("rate", "phase", "burst")
# T2FSNN's T in time constants before the fit.
STEPS_OF_TAU = 4
# A model that makes 1 of a larger intensity is not for intensities in [0, 1] [1].
LARGEST_INTENSITY = 4.0


class Images(NamedTuple):
    """What a row is simulated on: inputs in [0, 1]."""

    calibration: "np.ndarray"
    test: "np.ndarray"
    labels: "np.ndarray"


class Curve(NamedTuple):
    """A simulation, time step by time step.

    Attributes:
        network: what was simulated.
        time_steps: that one pass takes [steps].
        decision_step: at which the answer is there [steps].
        accuracy: after each step [1].
        spikes: of hidden layers in each step, mean per image.
    """

    network: "CodedNetwork | SpikingNetwork"
    time_steps: int
    decision_step: int
    accuracy: "np.ndarray"
    spikes: "np.ndarray"


def define_flags() -> None:
    command.define_shared_flags("workdir", "model", "data_dir", dataset="cifar10", calibration_images=5000)
    command.define_shared_flags("batch_size")
    flags.DEFINE_multi_string("ttfs", [], "Trained TTFS model, a .keras file; repeat the flag for several.")
    flags.DEFINE_string(
        "spike_time", None, "Model trained with --model=spike_time_vgg6, or that of experiments.zhou, a .keras file."
    )
    flags.DEFINE_list("rows", list(paper.TABLE2_ROWS), "Conversions of the ReLU twin to simulate.")
    flags.DEFINE_integer("test_images", 0, "First so many test images [images]; 0: all.", lower_bound=0)
    flags.DEFINE_integer(
        "slow_images", 2000, f"First so many of them for {', '.join(SLOW_ROWS)} [images]; 0: all.", lower_bound=0
    )
    flags.DEFINE_integer("time_window", 80, "T of TTFS by conversion [steps].", lower_bound=2)
    flags.DEFINE_integer("time_steps", None, "H of rate, phase, burst [steps]; their own if not given.", lower_bound=1)


def coding_of(row: str) -> "Coding | None":
    """The coding of a row, which a CodedNetwork simulates; None of other rows."""
    from keras_ttfs.snn import codings

    kinds = {
        "rate": codings.RateCoding,
        "phase": codings.PhaseCoding,
        "burst": codings.BurstCoding,
        "tsc": codings.TemporalSwitchCoding,
    }
    return kinds[row]() if row in kinds else None


def simulate_conversion(
    row: str,
    model: "keras.Model",
    images: Images,
    batch_size: int,
    time_steps: int | None = None,
    sums: Sums | None = None,
) -> Curve:
    """A converted coding. Codings with windows, and all where `time_steps` is None, take their own number of steps."""
    from keras_ttfs.snn import CodedNetwork

    coding = coding_of(row)
    network = CodedNetwork.from_model(model, coding, images.calibration)
    steps = network.time_steps if coding.time_window else time_steps or network.time_steps

    def run(x):
        return network.run(x, None if coding.time_window else steps, batch_size=batch_size, verbose=0)

    return Curve(network, steps, steps, *_summed(run, images.test, images.labels, batch_size, sums or Sums()))


def simulate_ttfs(
    model: "keras.Model",
    images: "np.ndarray",
    labels: "np.ndarray",
    batch_size: int,
    early_firing: int = 0,
    sums: Sums | None = None,
) -> Curve:
    """A TTFS model."""
    from keras_ttfs.snn import SpikingNetwork

    network = SpikingNetwork.from_model(model, early_firing=early_firing)

    def run(x):
        return network.run(x, mode="clock", batch_size=batch_size, verbose=0)

    summed = _summed(run, images, labels, batch_size, sums or Sums())
    return Curve(network, network.time_steps, network.decision_step, *summed)


def _summed(run: Callable, images: "np.ndarray", labels: "np.ndarray", batch_size: int, sums: Sums) -> tuple:
    """`(accuracy after each step, spikes of each step per image)`; the images that `sums` knows are not simulated again."""
    from keras_ttfs.snn.network import progress_bar

    bar = progress_bar(len(images), "image", 1)
    if sums.images:
        bar.add(sums.images)
    # Batch by batch: all spike times at once would fill the memory.
    for first in range(sums.images, len(images), batch_size):
        x, y = (values[first : first + batch_size] for values in (images, labels))
        result = run(x)
        sums.add(result.predictions_per_step == y[:, None], result.spikes_per_step)
        bar.add(len(x))
    return sums.correct / len(images), sums.spikes / len(images)


def evaluate_spike_times(path: str, images: "np.ndarray", labels: "np.ndarray", batch_size: int) -> dict[str, Any]:
    """A model of `keras_ttfs.spike_time_layers`, whose spike times are real numbers: its result, without steps and curve."""
    import keras

    from experiments import saved_model
    from keras_ttfs.spike_time_layers import SpikeTimeOutput

    model = saved_model.load(path)
    if not any(isinstance(layer, SpikeTimeOutput) for layer in model.layers):
        raise ValueError(f"Expected --spike_time to be a model with a SpikeTimeOutput. Received: {path}")
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    logs = model.evaluate(images, labels, batch_size=batch_size, return_dict=True, verbose=1)
    own = {"label": paper.ZHOU_LABEL} if model.name == "zhou" and not _training_run(path) else {}
    return {
        **own,
        "accuracy": float(logs["accuracy"]),
        "model_accuracy": float(logs["accuracy"]),
        "time_steps": None,
        "decision_step": None,
        "spikes": float(logs["spikes"]),
        "neurons": model.neurons,
        "curve": [],
    }


def simulate(
    row: str, path: str, images: Images, batch_size: int, time_window: int, time_steps: int | None, sums: Sums
) -> dict[str, Any]:
    """The result of one row. `path` is that of the ReLU twin, or of a row's own trained model."""
    if row == "spike_time":
        result = evaluate_spike_times(path, images.test, images.labels, batch_size)
    else:
        result = simulate_steps(row, path, images, batch_size, time_window, time_steps, sums)
    training = _training_run(path)
    known = {key: training[key] for key in ("config", "epochs", "wall_time")} if training else None
    return {"row": row, "label": label(row, path), **result, "training": known, "seconds": sums.seconds}


def simulate_steps(
    row: str, path: str, images: Images, batch_size: int, time_window: int, time_steps: int | None, sums: Sums
) -> dict[str, Any]:
    """The result of a row that is simulated step by step."""
    import keras_ttfs

    model = float32(path)
    if row.startswith("ttfs"):
        found = simulate_ttfs(model, images.test, images.labels, batch_size, sums=sums)
    elif row.startswith("t2fsnn"):
        early = time_window // 2 if row == "t2fsnn_early" else 0
        converted = keras_ttfs.convert_t2fsnn(
            model, images.calibration, time_window=time_window, tau_0=time_window / STEPS_OF_TAU
        )
        found = simulate_ttfs(converted, images.test, images.labels, batch_size, early, sums)
    else:
        found = simulate_conversion(row, model, images, batch_size, time_steps, sums)
    surrogate = model.predict(images.test, batch_size=batch_size, verbose=0).argmax(-1)
    return {
        "accuracy": float(found.accuracy[-1]),
        # Of the model that the spikes stand for: the ReLU twin, or the TTFS model itself.
        "model_accuracy": float((surrogate == images.labels).mean()),
        "time_steps": found.time_steps,
        "decision_step": found.decision_step,
        "spikes": float(found.spikes.sum()),
        "neurons": found.network.neurons,
        "curve": thinned(found.accuracy, found.spikes.cumsum()),
    }


def _training_run(path: str) -> dict[str, Any] | None:
    """The result of the run that trained a model, where the model lies beside it."""
    result = pathlib.Path(path).with_name("result.json")
    return read_result(result, REMEDY) if result.exists() else None


def label(row: str, path: str) -> str:
    """Name of a row in the table. A trained model's is that of its run, where it lies beside its result."""
    if row in paper.TABLE2_ROWS:
        return paper.TABLE2_ROWS[row][0]
    training = _training_run(path)
    return training["config"]["row"] if training else pathlib.Path(path).stem


def thinned(accuracy: "np.ndarray", spikes: "np.ndarray", points: int = 200) -> list[list[float]]:
    """`[[step, accuracy, spikes so far], ...]` at about so many steps, the last of them included."""
    import numpy as np

    steps = np.unique(np.linspace(1, len(accuracy), min(points, len(accuracy))).round().astype(int))
    return [[int(step), round(float(accuracy[step - 1]), 4), round(float(spikes[step - 1]), 1)] for step in steps]


def float32(path: str) -> "keras.Model":
    """A saved model in float32, which the simulations are of; it may have been trained in another precision."""
    from experiments import saved_model
    from keras_ttfs.snn import in_dtype

    return in_dtype(saved_model.load(path), "float32")


def models_of_rows(options: flags.FlagValues) -> dict[str, str]:
    """`{row: path of its model}`, in the order of the table."""
    command.check_names("rows", options.rows, paper.TABLE2_ROWS)
    paths = dict.fromkeys(options.rows, options.model)
    if options.spike_time:
        paths["spike_time"] = options.spike_time
    paths |= {f"ttfs_{number}": path for number, path in enumerate(options.ttfs)}
    for path in paths.values():
        if not os.path.isfile(path):
            raise FileNotFoundError(f"Expected .keras files. Received: {path}")
    return paths


def check_model(path: str, dataset: str, shape: tuple[int, ...], classes: int) -> None:
    """Refuses a model of another data set, of other inputs, of another range of inputs or of other classes."""
    from experiments import saved_model

    training = _training_run(path)
    if training and training["config"]["dataset"] != dataset:
        raise ValueError(
            f"Expected a model of --dataset={dataset}. Received: {path} of {training['config']['dataset']}"
        )
    model = saved_model.load(path)
    ends = [*(getattr(model, "inputs", None) or ()), *(getattr(model, "outputs", None) or ())]
    shapes = [tuple(tensor.shape[1:]) for tensor in ends]
    if shapes != [tuple(shape), (classes,)]:
        raise ValueError(
            f"Expected a model of inputs {shape} and {classes} classes, as {dataset} has. "
            f"Received: {path} of inputs and outputs {shapes}"
        )
    for layer, most in ranges_of(model):
        if most > LARGEST_INTENSITY:
            raise ValueError(
                f"Expected a model of intensities in [0, 1]. Received: {path}, whose {layer!r} is for intensities up to "
                f"{most:g}, or around it"
            )


def ranges_of(model: "keras.Model") -> list[tuple[str, float]]:
    """`[(layer, the intensity that it makes 1, or that its data have on average), ...]` of layers that scale the input."""
    import keras
    import numpy as np

    from keras_ttfs import keras_internals, model_inputs, topology

    found = []

    def visit(layer, *args, **kwargs):
        raw = "raw" in keras.tree.flatten(args)
        if raw and isinstance(layer, keras.layers.Rescaling):
            found.append((layer.name, float(np.max((1.0 - np.asarray(layer.offset)) / np.asarray(layer.scale)))))
        if raw and isinstance(layer, keras.layers.Normalization):
            found.append((layer.name, float(np.max(layer.mean))))
        return ["raw" if raw and type(layer) in model_inputs.ROUTES else "other"] * keras_internals.output_count(layer)

    topology.walk(model, ["raw"], visit)
    return found


def jobs(options: flags.FlagValues) -> list[Job]:
    """A job for each row."""
    paths = models_of_rows(options)
    from experiments import data as data_module
    from experiments.provenance import provenance

    data = data_module.load(options.dataset, options.data_dir)
    for path in dict.fromkeys(paths.values()):
        check_model(path, options.dataset, data.train.images.shape[1:], data.classes)
    test = data.test().first(options.test_images)
    calibration = data.train.first(options.calibration_images)
    inputs, images = (data_module.scale(split.images).numpy() for split in (calibration, test))
    settings = {
        "data": data.description,
        "calibration_images": len(calibration),
        "time_window": options.time_window,
        "time_steps": options.time_steps,
    }

    def make(row, asked, results):
        count = asked["test_images"]
        given = Images(inputs, images[:count], test.labels[:count])
        sums = Sums(sums_file(options.workdir, row), {**asked, **provenance()})
        result = simulate(row, paths[row], given, options.batch_size, options.time_window, options.time_steps, sums)
        return {**result, "settings": asked, **provenance()}

    def job(row):
        few = min(options.slow_images or len(test), len(test)) if row in SLOW_ROWS else len(test)
        asked = {**settings, "test_images": few, "model_sha256": sha256(paths[row])}
        if coding := coding_of(row):
            asked |= {"current": coding.current, "initial_potential": coding.initial_potential}
        file = os.path.join(options.workdir, f"{row}.json")
        return Job(
            row,
            file,
            functools.partial(make, row, asked),
            asked,
            read=lambda path: read_any(path, CODING),
            title=label(row, paths[row]),
        )

    return [job(row) for row in paths]


def sums_file(workdir: str, row: str) -> str:
    """Where a row that is not finished keeps its sums."""
    return os.path.join(workdir, f"{row}.sums.json")


def main(options: flags.FlagValues) -> None:
    picture, table = (os.path.join(options.workdir, name) for name in ("codings.png", "table2.md"))
    with locked(options.workdir):
        asked = jobs(options)
        check_made([table, picture])
        kept = [sums_file(options.workdir, job.name) for job in asked]
        remove_leftovers(options.workdir, pattern_of([os.path.basename(path) for path in (picture, table, *kept)]))
        found, _ = run_jobs(asked, options.workdir)
        for path in filter(os.path.exists, kept):
            os.remove(path)
        results = list(found.values())
        from experiments import plots

        plots.codings(results, picture)
        text = table2_text.table2(results, options.dataset)
        if printed := table2_text.paper_table2(options.dataset):
            text += f"\n\nThe paper's:\n\n{printed}"
        write_text(table, text + "\n")
    print(f"\n{text}\n\nFiles: {os.path.abspath(options.workdir)}")


if __name__ == "__main__":
    define_flags()
    command.run(main)
