"""Runs that other runs begin from. A config names them by their flagfiles, in `start_from` and `teacher`.

`train_first` trains them where they are not finished: that of `start_from` in WORKDIR/start, that of `teacher` in
WORKDIR/teacher, and what these begin from in directories of the same names in there.
"""

import os

from experiments import command, runs
from experiments.config import FLAGFILE, MODEL_FILES, Config
from experiments.workdir import STARTING_RUNS, check_workdir

# Fields in which a run agrees with the one that it begins from, whatever the flagfile says. A teacher may be wider.
IMAGES = ("train_images", "validation_images")
AGREEING = {"start_from": ("seed", *IMAGES, "width"), "teacher": ("seed", *IMAGES)}
PLACES = dict(zip(MODEL_FILES, STARTING_RUNS))


def flagfiles(config: Config) -> dict[str, str]:
    """`{field: flagfile}` of the fields that name one."""
    given = {name: getattr(config, name) for name in MODEL_FILES}
    return {name: path for name, path in given.items() if path.endswith(FLAGFILE)}


def model_in(workdir: str) -> str:
    """Path of the model that a run leaves in its directory."""
    return os.path.join(workdir, "model.keras")


def runs_before(config: Config, workdir: str) -> tuple[dict[str, Config], dict[str, dict[str, str]]]:
    """`({name: Config}, {name: {flagfile: model}})` of all runs that a run begins from, in the order of training.

    Names are paths from `workdir`. That of the run itself, which is among the models alone, is "".

    Raises ValueError where a run begins from itself.
    """
    configs: dict[str, Config] = {}
    models: dict[str, dict[str, str]] = {}

    def add(name: str, config: Config, above: tuple[str, ...]) -> None:
        models[name] = {}
        for field, path in flagfiles(config).items():
            if path in above:
                raise ValueError(f"Expected runs that begin from others. Received: {field}={path!r} of itself")
            if path in models[name]:  # The run of start_from is the teacher too.
                continue
            agreeing = {shared: getattr(config, shared) for shared in AGREEING[field]}
            wanted = command.config_from_flagfile(path, agreeing)
            # A run that another one has begun from is not trained twice.
            same = next((place for place, planned in configs.items() if planned == wanted), None)
            if same is not None:
                models[name][path] = model_in(os.path.join(workdir, same))
                continue
            place = os.path.join(name, PLACES[field])
            models[name][path] = model_in(os.path.join(workdir, place))
            add(place, wanted, (*above, path))
        if name:
            configs[name] = config

    add("", config, ())
    return configs, models


def train_first(
    config: Config, workdir: str, *, data_dir: str | None = None, download: bool = False, overwrite: bool = False
) -> dict[str, str]:
    """Trains what a run begins from, unless it is finished, and returns `{flagfile: model}` for `train`.

    Raises as `train` and `runs.train_all`, and RuntimeError where such a run fails.
    """
    configs, models = runs_before(config, workdir)
    if configs:
        check_workdir(config, workdir, overwrite)
        _, failures = runs.train_all(configs, workdir, data_dir=data_dir, download=download, models=models)
        command.exit_with_failures(failures)
    return models[""]
