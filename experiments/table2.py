"""Table 2 on one network: `python -m experiments.table2 --model=RELU.keras --ttfs=TTFS.keras --workdir=runs/table2`.

Every coding simulates the same trained network: a ReLU model is converted, TTFS models are simulated as they were trained.
Beside them stands a network trained in the spike-time domain, which knows no time steps. What is finished is not simulated
again, and a row that was interrupted goes on behind its last whole batch.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from experiments import command, paper, table2_text
from experiments.files import sha256, write_json, write_text
from experiments.lock import locked
from experiments.runs import Job, run_jobs
from experiments.stored import CODING, read_any
from experiments.sums import Sums
from experiments.table2_models import check_model, training_run
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
    command.define_shared_flags("workdir", "data_dir", "batch_size", dataset="cifar10", calibration_images=5000)
    flags.DEFINE_string("model", None, "Trained ReLU model, a .keras file: the twin of all conversions.", required=True)
    flags.DEFINE_multi_string("ttfs", [], "Trained TTFS model, a .keras file; repeat the flag for several.")
    flags.DEFINE_string(
        "spike_time", None, "Model trained with --model=spike_time_vgg6, or that of experiments.zhou, a .keras file."
    )
    flags.DEFINE_list(
        "rows", list(paper.TABLE2_ROWS), f"Conversions of the ReLU twin, of {', '.join(paper.TABLE2_ROWS)}."
    )
    flags.DEFINE_integer("test_images", 0, "First so many test images [images]; 0: all.", lower_bound=0)
    flags.DEFINE_integer(
        "slow_images", 2000, f"First so many of them for {', '.join(SLOW_ROWS)} [images]; 0: all.", lower_bound=0
    )
    flags.DEFINE_integer("time_window", 80, "T of T2FSNN [steps]; the paper's is 80.", lower_bound=2)
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

    model = saved_model.load(path)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    logs = model.evaluate(images, labels, batch_size=batch_size, return_dict=True, verbose=1)
    own = {"label": paper.ZHOU_LABEL} if model.name == paper.ZHOU_NAME and not training_run(path) else {}
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
    training = training_run(path)
    known = {key: training[key] for key in ("config", "epochs", "wall_time")} if training else None
    named = {"row": row, "label": label(row, path, time_window)}
    return {**named, **result, "training": known, "seconds": sums.seconds}


def simulate_steps(
    row: str, path: str, images: Images, batch_size: int, time_window: int, time_steps: int | None, sums: Sums
) -> dict[str, Any]:
    """The result of a row that is simulated step by step."""
    import keras_ttfs

    model = float32(path)
    if row.startswith("ttfs"):
        found = simulate_ttfs(model, images.test, images.labels, batch_size, sums=sums)
    elif row.startswith("t2fsnn"):
        options, early = t2fsnn_settings(row, time_window)
        converted = keras_ttfs.convert_t2fsnn(model, images.calibration, **options)
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


def t2fsnn_settings(row: str, time_window: int) -> tuple[dict[str, Any], int]:
    """`(arguments of convert_t2fsnn, early firing [steps])` of a T2FSNN row."""
    options = {"time_window": time_window, "tau_0": time_window / STEPS_OF_TAU}
    return options, time_window // 2 if row == "t2fsnn_early" else 0


def label(row: str, path: str, time_window: int = paper.T2FSNN_WINDOW) -> str:
    """Name of a row in the table. A trained model's is that of its run, where it lies beside its result."""
    if row in paper.TABLE2_ROWS:
        of_ours = row.startswith("t2fsnn") and time_window != paper.T2FSNN_WINDOW
        return f"{paper.TABLE2_ROWS[row][0]}{f', T = {time_window}' if of_ours else ''}"
    training = training_run(path)
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
    if not paths:
        raise ValueError("Expected at least one row, of --rows, --spike_time or --ttfs. Received: none")
    for path in paths.values():
        if not os.path.isfile(path):
            raise FileNotFoundError(f"Expected .keras files. Received: {path}")
    return paths


def flag_of(row: str) -> str:
    """The flag, of KINDS, that names the model of a row."""
    return "model" if row in paper.TABLE2_ROWS else "spike_time" if row == "spike_time" else "ttfs"


def jobs(options: flags.FlagValues) -> list[Job]:
    """A job for each row; what takes minutes comes before what takes an hour."""
    paths = models_of_rows(options)
    from experiments import data as data_module
    from experiments.provenance import provenance

    data = data_module.load(options.dataset, options.data_dir)
    for flag, path in dict.fromkeys((flag_of(row), path) for row, path in paths.items()):
        check_model(path, flag, options.dataset, data)
    test = data.test().first(options.test_images)
    calibration = data.train.first(options.calibration_images)
    inputs, images = (data_module.scale(split.images).numpy() for split in (calibration, test))
    settings = {
        "data": data.description,
        "calibration_images": len(calibration),
        "time_window": options.time_window,
        "time_steps": options.time_steps,
    }
    # Of the code that is loaded, not of what stands there in an hour.
    begun_with = provenance()

    def sums(row, asked):
        return Sums(os.path.join(options.workdir, f"{row}.sums"), asked, begun_with)

    def make(row, asked, file, results):
        count = asked["test_images"]
        given, kept = Images(inputs, images[:count], test.labels[:count]), sums(row, asked)
        result = simulate(row, paths[row], given, options.batch_size, options.time_window, options.time_steps, kept)
        os.makedirs(options.workdir, exist_ok=True)
        write_json(file, {**result, "settings": asked, **kept.provenance}, sealed=True)
        kept.remove()

    def job(row):
        few = min(options.slow_images or len(test), len(test)) if row in SLOW_ROWS else len(test)
        asked = {**settings, "test_images": few, "model_sha256": sha256(paths[row])}
        asked["coding"] = settings_of(row, options.time_window)
        file = os.path.join(options.workdir, f"{row}.json")
        return Job(
            row,
            file,
            functools.partial(make, row, asked, file),
            asked,
            read=lambda path: read_any(path, CODING),
            # Sums that cannot be gone on with are found before anything is simulated.
            check=lambda: sums(row, asked).remove() if os.path.exists(file) else sums(row, asked),
            title=label(row, paths[row], options.time_window),
        )

    return [job(row) for row in sorted(paths, key=lambda row: row in SLOW_ROWS)]


def settings_of(row: str, time_window: int) -> dict[str, Any]:
    """What a row's coding is told, its defaults included."""
    if coding := coding_of(row):
        own = {name: value for name, value in vars(coding).items() if not name.startswith("_")}
        return {**own, "current": coding.current, "initial_potential": coding.initial_potential}
    if row.startswith("t2fsnn"):
        options, early = t2fsnn_settings(row, time_window)
        return {**options, "early_firing": early}
    return {}


def other_rows(workdir: str, asked: list[Job]) -> list[dict[str, Any]]:
    """Finished rows in the workdir that this call does not ask for, of the same data and the same ReLU twin."""
    names, settings = [job.name for job in asked], asked[0].settings or {}
    twins = {job.settings["model_sha256"] for job in asked if job.settings and job.name in paper.TABLE2_ROWS}
    others = []
    for path in sorted(pathlib.Path(workdir).glob("*.json")):
        row = path.stem
        if row in names or not (row in (*paper.TABLE2_ROWS, "spike_time") or row.startswith("ttfs_")):
            continue
        other = read_any(path, CODING)
        of_twin = row not in paper.TABLE2_ROWS or not twins or other["settings"]["model_sha256"] in twins
        if of_twin and all(other["settings"][name] == settings[name] for name in ("data", "calibration_images")):
            others.append(other)
    return others


def main(options: flags.FlagValues) -> None:
    picture, table = (os.path.join(options.workdir, name) for name in ("codings.png", "table2.md"))
    with locked(options.workdir):
        asked = jobs(options)
        check_made([table, picture])
        names = [os.path.basename(path) for path in (picture, table)]
        remove_leftovers(options.workdir, pattern_of([*names, *(f"{job.name}.sums" for job in asked)]))
        others = other_rows(options.workdir, asked)
        found, _ = run_jobs(asked, options.workdir)
        results = table2_text.in_order([*found.values(), *others])
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
