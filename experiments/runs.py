"""Trains many configurations one after the other; may be killed at any moment and started again. No flags in here."""

import os
import shutil
import time

from experiments.config import differences
from experiments.files import read_json, replaced
from experiments.processes import in_new_process

# Of a finished run, what is small enough to be committed. The result comes last: with it the others are there.
SMALL_FILES = {name: name for name in ("history.csv", "kernels.csv", "distributions.json")} | {"result.json": "json"}


def run_all(configs, workdir, *, data_dir=None, download=False, collect=None):
    """Trains what is not finished yet of `{name: Config}`, each in `workdir/name`, in a process of its own.

    Returns `(results, failures)`: `{name: result}` of the finished runs, `{name: message}` of those that failed. Small
    files of a finished run are copied to the directory `collect` at once, where given; a run whose files are there is
    finished, wherever it was trained, and its files stay as they are. Raises FileExistsError, before anything is
    trained, where a directory holds a run with another config; ValueError where runs are of different data.
    """
    results = {name: _finished(name, config, workdir, collect) for name, config in configs.items()}
    missing = [name for name, result in results.items() if result is None]
    failures = {}
    data = _common_data(results)
    places = f"{workdir} and {collect}" if collect else workdir
    print(f"{len(configs) - len(missing)} of {len(configs)} runs are finished in {places}", flush=True)
    for name in announced(missing):
        try:
            in_new_process(_train, configs[name], os.path.join(workdir, name), data_dir, download, data)
            results[name] = _finished(name, configs[name], workdir, collect)
            data = _common_data(results)
        except (FloatingPointError, RuntimeError) as error:
            failures[name] = f"{type(error).__name__}: {error}"
            print(f"{name}: {failures[name]}", flush=True)
    return {name: result for name, result in results.items() if result is not None}, failures


def announced(names, title=str):
    """Yields the names, printing before each its title, its place and about how long the rest takes."""
    begun = time.monotonic()
    for number, name in enumerate(names):
        left = (time.monotonic() - begun) / number * (len(names) - number) if number else None
        estimate = f", about {left / 60:.0f} minutes left" if left is not None else ""
        print(f"\n[{number + 1}/{len(names)}] {title(name)}{estimate}", flush=True)
        yield name


def _finished(name, config, workdir, collect):
    """The result of a run, None where it is not finished; what `collect` lacks of it is copied there."""
    folder = os.path.join(workdir, name)
    own = os.path.join(folder, "result.json")
    collected = os.path.join(collect, f"{name.replace(os.sep, '.')}.json") if collect else ""
    claimed = os.path.join(folder, "config.json")
    if os.path.exists(claimed):
        _check_same(read_json(claimed), config, folder)
    for path in (own, collected):
        if os.path.exists(path):
            _check_same(read_json(path)["config"], config, path)
    if collect and os.path.exists(own) and not os.path.exists(collected):
        copy_small_files(folder, collect, name.replace(os.sep, "."))
    return next((read_json(path) for path in (collected, own) if os.path.exists(path)), None)


def _common_data(results):
    """What the finished runs were trained and tested on, None where nothing is finished."""
    data = {result["data"] for result in results.values() if result is not None}
    if len(data) > 1:
        raise ValueError(f"Expected runs of one data set. Received: {', '.join(sorted(data))}")
    return next(iter(data), None)


def _check_same(there, config, place):
    if changes := differences(there, config.as_dict()):
        raise FileExistsError(f"Expected {place} to hold the run that is asked for. Received: {changes}.")


def _train(config, folder, data_dir, download, expected_data):
    import tensorflow as tf

    from experiments.train import train

    try:
        train(config, folder, data_dir=data_dir, download=download, expected_data=expected_data)
    except tf.errors.OpError as error:
        # Out of memory, mostly; the other rows may fit.
        raise RuntimeError(error.message) from error


def copy_small_files(folder, target, name):
    """Copies result, histories and distributions of a finished run to `target/name.*`, replacing older ones."""
    os.makedirs(target, exist_ok=True)
    for file, suffix in SMALL_FILES.items():
        source = os.path.join(folder, file)
        if os.path.exists(source):
            with replaced(os.path.join(target, f"{name}.{suffix}")) as temporary:
                shutil.copyfile(source, temporary)
