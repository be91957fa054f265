"""What the files of a run hold: readers that refuse damage before anything is trained. No TensorFlow.

Every reader raises ValueError, or FileNotFoundError, with the file's name and the remedy.
"""

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from experiments.config import FLAGFILE, MODEL_FILES, check_values, differences
from experiments.files import (
    COUNT,
    LIST,
    NUMBER,
    OBJECT,
    REMEDY,
    SHARE,
    TEXT,
    PathLike,
    check_fields,
    damaged,
    is_count,
    list_of,
    optional,
    read_csv,
    read_json,
    read_text,
    sha256,
    what_is,
)

WEIGHTS = re.compile(r"epoch-(\d{5})\.weights\.h5")
RUN_AGAIN = "Remove it and the run is trained again, or pass --overwrite where the command has it."
FOREIGN_CONFIG = (
    "It tells whose directory this is, so nothing in there is touched, with --overwrite neither: restore it, choose another "
    "--workdir, or remove the directory yourself."
)
RESULT = {
    "config": OBJECT,
    "data": TEXT,
    "test_images": COUNT,
    "epochs": COUNT,
    "kept_epoch": COUNT,
    "val_accuracy": SHARE,
    "accuracy": SHARE,
    "wall_time": NUMBER,
}
# Of a run that ended in a loss that is not finite, in the place of its result: how many whole epochs, and why it ended.
FAILURE_FILE = "failure.json"
FAILURE = {"config": OBJECT, "data": TEXT, "epochs": COUNT, "reason": TEXT, "wall_time": NUMBER}
# What a result holds where there are spikes, and where there are time steps too.
SPIKES = {"spikes": NUMBER, "spikes_per_neuron": NUMBER, "neurons": COUNT}
# What earlier versions did not write there.
ADDED_SPIKES = {"membranes": COUNT}
ADDED_RESULT = {"multiply_adds": optional(COUNT), "training_images": COUNT, "replicas": COUNT}
TIME_STEPS = {"time_steps": COUNT, "decision_step": COUNT, "truenorth_energy": NUMBER, "spinnaker_energy": NUMBER}
HISTORY = {"epoch": NUMBER, "loss": NUMBER, "accuracy": SHARE, "val_accuracy": SHARE}
KERNELS = {"epoch": NUMBER, "layer": TEXT}
DISTRIBUTIONS = {"samples": COUNT, "edges": list_of(NUMBER), "layers": list_of(OBJECT)}
SIMULATION = {"data": TEXT, "mode": TEXT, "dtype": TEXT, "test_images": COUNT, "accuracy": SHARE, "energy": OBJECT}
CONVERSION = {"data": TEXT, "test_images": COUNT, "rounding": TEXT, "relu_accuracy": SHARE, "rows": list_of(OBJECT)}
CODING = {
    "row": TEXT,
    "label": TEXT,
    "accuracy": SHARE,
    "model_accuracy": SHARE,
    "time_steps": optional(COUNT),
    "decision_step": optional(COUNT),
    "spikes": NUMBER,
    "neurons": COUNT,
    "curve": LIST,
    "settings": OBJECT,
    "seconds": NUMBER,
    "git_revision": optional(TEXT),
    "device": TEXT,
}
NOISY = {
    "network": TEXT,
    "kind": TEXT,
    "strength": NUMBER,
    "seed": COUNT,
    "accuracy": SHARE,
    "spikes": NUMBER,
    "settings": OBJECT,
}
EARLY = {"early_firing": COUNT, "accuracy": list_of(SHARE), "spikes": list_of(NUMBER), "settings": OBJECT}
BENCHMARK = {"versions": OBJECT, "batch_size": COUNT, "width": NUMBER}
EARLIER_BENCHMARK = {"network": "vgg16", "pooling": "spikes"}
# Of a part of the benchmark, what is drawn.
DRAWN = {
    "training": {"dtype_policy": TEXT, "images_per_second": list_of(OBJECT), "throughput_to_relu": list_of(NUMBER)},
    "sweep": {"median_seconds_per_step": OBJECT},
}
STATE = {
    "epochs": COUNT,
    "seconds": NUMBER,
    "last": optional(TEXT),
    "kept": optional(TEXT),
    "generators": list_of(LIST),
    "history": list_of(OBJECT),
    "kernels": list_of(OBJECT),
    "provenance": OBJECT,
}
# Fields of state.json that earlier versions did not write.
ADDED_STATE = {"data": TEXT, "config": OBJECT, "weights_sha256": OBJECT, "spike_budget": OBJECT, "replicas": COUNT}


def weights_file(epoch: int) -> str:
    """Name of the file of an epoch's weights; epochs count from 0."""
    return f"epoch-{epoch + 1:05d}.weights.h5"


def read_config(path: PathLike) -> dict[str, Any]:
    """A run's config.json, of this version or of an earlier one."""
    values = read_json(path, remedy=FOREIGN_CONFIG)
    try:
        check_values(values)
    except ValueError as error:
        raise damaged(path, "the config of a run", error, FOREIGN_CONFIG) from error
    return values


def with_digests(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of a Config, with the SHA-256 of each model that they name. A flagfile names a model that may not be there yet.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is not the one of the SHA-256 that is given.
    """
    found = dict(values)
    for name in MODEL_FILES:
        if (path := values.get(name)) and not path.endswith(FLAGFILE):
            if not os.path.isfile(path):
                raise FileNotFoundError(f"Expected {name} to be a .keras file. Received: {path}, {what_is(path)}")
            digest, wanted = sha256(path), values.get(f"{name}_sha256")
            if wanted not in ("", None, digest):
                raise ValueError(f"Expected {name} of SHA-256 {wanted}. Received: {path} of SHA-256 {digest}")
            found[f"{name}_sha256"] = digest
    return found


def _with_known_config(path: PathLike, fields: dict[str, Any], remedy: str) -> dict[str, Any]:
    """What a JSON file holds, the config of a run among it."""
    found = read_json(path, fields, remedy)
    try:
        check_values(found["config"])
    except ValueError as error:
        raise damaged(path, "the config of a run", error, remedy) from error
    return found


def read_failure(path: PathLike, remedy: str = REMEDY) -> dict[str, Any]:
    """What a run came to whose loss was not finite."""
    found = _with_known_config(path, FAILURE, remedy)
    if found["epochs"] >= found["config"]["epochs"]:
        raise damaged(path, f"epochs < {found['config']['epochs']}", f"epochs={found['epochs']}", remedy)
    return found


def read_result(path: PathLike, remedy: str = RUN_AGAIN) -> dict[str, Any]:
    """The result of a training run."""
    result = _with_known_config(path, RESULT, remedy)
    if not 0 < result["kept_epoch"] <= result["epochs"] <= result["config"]["epochs"]:
        found = f"kept_epoch={result['kept_epoch']}, epochs={result['epochs']}"
        raise damaged(path, f"kept_epoch <= epochs <= {result['config']['epochs']}", found, remedy)
    check_fields(path, result, {name: kind for name, kind in ADDED_RESULT.items() if name in result}, remedy)
    if "spikes" in result:
        added = {name: kind for name, kind in ADDED_SPIKES.items() if name in result}
        check_fields(path, result, SPIKES | added, remedy)
    if "time_steps" in result:
        check_fields(path, result, TIME_STEPS, remedy)
    return result


def read_history(path: PathLike, remedy: str = RUN_AGAIN) -> list[dict[str, Any]]:
    """Loss and accuracy, a row for each epoch."""
    rows = read_csv(path, HISTORY, remedy)
    check_history(path, rows, remedy)
    return rows


def check_history(path: PathLike, rows: list[dict[str, Any]], remedy: str) -> None:
    for number, row in enumerate(rows):
        check_fields(path, row, HISTORY, remedy, f"row {number + 1}")
    if [row["epoch"] for row in rows] != list(range(len(rows))):
        raise damaged(path, "the epochs one after the other", [row["epoch"] for row in rows], remedy)


def read_kernels(path: PathLike, remedy: str = RUN_AGAIN) -> list[dict[str, Any]]:
    """The temporal kernels, a row for each epoch and layer; none of a network without them."""
    return read_csv(path, KERNELS, remedy)


def read_distributions(path: PathLike, remedy: str = RUN_AGAIN) -> dict[str, Any]:
    """The histograms of pre-activations."""
    found = read_json(path, DISTRIBUTIONS, remedy)
    for layer in found["layers"]:
        check_fields(path, layer, {"layer": TEXT, "counts": list_of(COUNT)}, remedy, "layers")
    return found


SMALL_READERS = {
    "history.csv": read_history,
    "kernels.csv": read_kernels,
    "distributions.json": read_distributions,
}
# What a run leaves whose loss is not finite, beside FAILURE_FILE.
HISTORY_FILES = ("history.csv", "kernels.csv")


def check_small_files(
    result_path: PathLike,
    paths: dict[str, str],
    remedy: str = RUN_AGAIN,
    read: Callable[[PathLike, str], dict[str, Any]] = read_result,
) -> dict[str, Any]:
    """What `read` finds at `result_path`, once it and the small files `{name: path}` that are there are found whole."""
    result = read(result_path, remedy)
    digests = result.get("files_sha256", {})
    for name, path in paths.items():
        if os.path.lexists(path):
            rows = SMALL_READERS[name](path, remedy)
            if name in digests and sha256(path) != digests[name]:
                raise damaged(path, f"what the run wrote (SHA-256 {digests[name]})", "other content", remedy)
            if name == "history.csv" and len(rows) != result["epochs"]:
                raise damaged(path, f"{result['epochs']} epochs", f"{len(rows)} epochs", remedy)
        elif name in digests:
            raise FileNotFoundError(f"Expected {path}, which {result_path} names. Received: no such file. {remedy}")
    return result


def check_run(workdir: str, config: dict[str, Any]) -> None:
    """Raises ValueError or FileNotFoundError where a file of the run in `workdir` is damaged."""
    paths = {name: os.path.join(workdir, name) for name in SMALL_READERS}
    result = os.path.join(workdir, "result.json")
    if os.path.lexists(result):
        found = check_small_files(result, paths)["config"]
        if changes := differences(found, config):
            raise damaged(result, "the result of the config beside it", changes, RUN_AGAIN)
        return
    failure = os.path.join(workdir, FAILURE_FILE)
    if os.path.lexists(failure):
        remedy = f"Remove {FAILURE_FILE} and the histories beside it, and the run goes on."
        check_small_files(failure, {name: paths[name] for name in HISTORY_FILES}, remedy, read_failure)
    for name, path in paths.items():
        if os.path.lexists(path):
            SMALL_READERS[name](path, RUN_AGAIN)
    read_state(os.path.join(workdir, "checkpoint"), config)


def read_state(folder: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """What the interrupted run of `config` saved last, its files of weights verified; None where there is nothing."""
    path = os.path.join(folder, "state.json")
    remedy = f"Remove {folder} and the run begins anew, or pass --overwrite where the command has it."
    if not os.path.lexists(path):
        # Of the first epoch, the weights are there before the state.
        names = filter(WEIGHTS.fullmatch, os.listdir(folder) if os.path.isdir(folder) else ())
        if later := sorted(name for name in names if name != weights_file(0)):
            raise FileNotFoundError(f"Expected {path} beside {', '.join(later)}. Received: no such file. {remedy}")
        return None
    state = read_json(path, STATE, remedy)
    if unknown := state.keys() - STATE.keys() - ADDED_STATE.keys():
        raise damaged(path, f"{', '.join(STATE)} alone", ", ".join(sorted(unknown)), remedy)
    check_fields(path, state, {name: kind for name, kind in ADDED_STATE.items() if name in state}, remedy)
    if changes := differences(state.get("config", config), config):
        raise damaged(path, "the state of the config beside it", changes, remedy)
    check_history(path, state["history"], remedy)
    epochs, rows = state["epochs"], len(state["history"])
    if epochs > config["epochs"] or rows != epochs:
        raise damaged(path, f"at most {config['epochs']} epochs, each in the history", f"{epochs}, {rows} rows", remedy)
    for number, row in enumerate(state["kernels"]):
        kinds = {
            "epoch": (f"a whole number < {epochs}", lambda value: is_count(value) and value < epochs),
            "layer": TEXT,
        }
        check_fields(path, row, kinds, remedy, f"row {number + 1} of kernels")
    if not all(is_count(value) for row in state["generators"] for value in row):
        raise damaged(path, "whole numbers as generators", state["generators"], remedy)
    if epochs:
        _check_names(path, state, remedy)
        _check_weights(folder, state, remedy)
    return state


def _check_names(path: str, state: dict[str, Any], remedy: str) -> None:
    """Raises ValueError where the names of weights are not those of epochs that the run has behind it."""
    for key, wanted in (("last", {state["epochs"]}), ("kept", set(range(1, state["epochs"] + 1)))):
        name = WEIGHTS.fullmatch(state[key] or "")
        if not name or int(name[1]) not in wanted:
            expected = f"the weights of an epoch up to {state['epochs']} as {key}"
            raise damaged(path, expected, f"{key}={state[key]!r}", remedy)
        if not isinstance(state.get("weights_sha256", {name[0]: ""}).get(name[0]), str):
            raise damaged(path, f"the digest of {name[0]}", f"digests of {sorted(state['weights_sha256'])}", remedy)


def _check_weights(folder: str, state: dict[str, Any], remedy: str) -> None:
    """Raises where a file of weights is not what was saved. Earlier versions saved no digests: it must be readable."""
    digests, layouts = state.get("weights_sha256"), []
    for name in dict.fromkeys((state["last"], state["kept"])):
        path = os.path.join(folder, name)
        if not os.path.isfile(path) or os.path.islink(path):
            raise FileNotFoundError(f"Expected {path}, a file of weights. Received: {what_is(path)}. {remedy}")
        if digests is None:
            layouts.append(_layout(path, remedy))
            if layouts[-1] != layouts[0]:
                raise damaged(path, "weights of the same network as the last epoch's", "others", remedy)
        elif sha256(path) != digests[name]:
            raise damaged(path, f"the weights that were saved (SHA-256 {digests[name]})", "others", remedy)


def _layout(path: str, remedy: str) -> dict[str, tuple[int, ...]]:
    """`{name: shape}` of a file of weights, all of which is read."""
    import h5py

    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].shape

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    # h5py has no error of its own.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise damaged(path, "weights in HDF5", error, remedy) from error
    return found


def read_benchmark(path: PathLike, remedy: str = REMEDY) -> dict[str, Any]:
    """The result of a part of the benchmark, whose name is the file's. Earlier versions measured one network alone."""
    part = re.split(r"[_.]", os.path.basename(path))[0]
    result = EARLIER_BENCHMARK | read_any(path, BENCHMARK, DRAWN.get(part, {}), remedy=remedy)
    check_fields(path, result, dict.fromkeys(EARLIER_BENCHMARK, TEXT), remedy)
    return result


def read_any(path: PathLike, *fields: dict[str, Any], remedy: str = REMEDY) -> dict[str, Any]:
    """A result file that holds all of these fields."""
    return read_json(path, {name: kind for part in fields for name, kind in part.items()}, remedy)


def first_line_is(path: PathLike, starts: Iterable[str]) -> bool:
    """Whether a text begins with one of `starts`."""
    try:
        return read_text(path).startswith(tuple(starts))
    except ValueError:
        return False
