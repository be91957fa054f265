"""Trains many configurations one after the other; may be killed at any moment and started again. No flags in here."""

import os
import shutil
import time

from experiments.config import differences
from experiments.files import read_json, replaced
from experiments.processes import in_new_process

# Of a finished run, what is small enough to be committed.
SMALL_FILES = {"result.json": "json", "history.csv": "history.csv", "kernels.csv": "kernels.csv"}
SMALL_FILES["distributions.json"] = "distributions.json"


def run_all(configs, workdir, *, data_dir=None, download=False, collect=None):
    """Trains what is not finished yet of `{name: Config}`, each in `workdir/name`, in a process of its own.

    Returns `(results, failures)`: `{name: result}` of the finished runs, `{name: message}` of those that failed. Small
    files of a finished run are copied to the directory `collect` at once, where given. Raises FileExistsError, before
    anything is trained, where a directory holds a run with another config.
    """
    missing = [name for name, config in configs.items() if not _finished(config, os.path.join(workdir, name))]
    failures, begun = {}, time.monotonic()
    for name in configs.keys() - missing if collect else ():
        copy_small_files(os.path.join(workdir, name), collect, name.replace(os.sep, "."))
    print(f"{len(configs) - len(missing)} of {len(configs)} runs are finished in {workdir}", flush=True)
    for number, name in enumerate(missing):
        left = (time.monotonic() - begun) / number * (len(missing) - number) if number else None
        estimate = f", about {left / 60:.0f} minutes left" if left is not None else ""
        print(f"\n[{number + 1}/{len(missing)}] {name}{estimate}", flush=True)
        try:
            in_new_process(_train, configs[name], os.path.join(workdir, name), data_dir, download)
            if collect:
                copy_small_files(os.path.join(workdir, name), collect, name.replace(os.sep, "."))
        except (FloatingPointError, RuntimeError) as error:
            failures[name] = f"{type(error).__name__}: {error}"
            print(f"{name}: {failures[name]}", flush=True)
    names = [name for name in configs if name not in failures]
    return {name: read_json(os.path.join(workdir, name, "result.json")) for name in names}, failures


def _finished(config, folder):
    path = os.path.join(folder, "config.json")
    if os.path.exists(path) and (changes := differences(read_json(path), config.as_dict())):
        raise FileExistsError(f"Expected {folder} to hold the run that is asked for. Received: {changes}.")
    return os.path.exists(os.path.join(folder, "result.json"))


def _train(config, folder, data_dir, download):
    from experiments.train import train

    train(config, folder, data_dir=data_dir, download=download)


def copy_small_files(folder, target, name):
    """Copies result, histories and distributions of a finished run to `target/name.*`, replacing older ones."""
    os.makedirs(target, exist_ok=True)
    for file, suffix in SMALL_FILES.items():
        source = os.path.join(folder, file)
        if os.path.exists(source):
            with replaced(os.path.join(target, f"{name}.{suffix}")) as temporary:
                shutil.copyfile(source, temporary)
