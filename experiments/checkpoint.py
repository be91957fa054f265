"""A run's work directory: whose it is, and what is saved in it after each epoch, so that a killed run can go on."""

import os
import shutil
import time
from typing import Any

import keras
import numpy as np

from experiments.config import Config, differences
from experiments.data import Data
from experiments.files import PARTIAL, read_json, replaced, write_json
from experiments.provenance import provenance
from keras_ttfs.topology import layers_of


def check_workdir(config: Config, workdir: str, overwrite: bool = False) -> bool:
    """Raises FileExistsError where `workdir` is not free for this config. True if it holds a run to be replaced."""
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
        if os.path.isdir(workdir) and any(not name.startswith(PARTIAL) for name in os.listdir(workdir)):
            raise FileExistsError(
                f"Expected a workdir that is new or empty. Received: {workdir}, which holds other files."
            )
        return False
    changes = differences(read_json(path), config.as_dict())
    finished = os.path.exists(os.path.join(workdir, "result.json"))
    if overwrite or not (changes or finished):
        # An interrupted run of this config goes on, also with --overwrite.
        return bool(changes or finished)
    expected, received = "without a finished run", "result.json"
    if changes:
        expected, received = "that is new or holds this run", f"another run ({changes})"
    raise FileExistsError(
        f"Expected a workdir {expected}. Received: {workdir} with {received}. "
        "Choose another --workdir, or replace the run with --overwrite."
    )


def claim_workdir(config: Config, workdir: str, overwrite: bool = False, data: str | None = None) -> None:
    """Makes `workdir` this config's, as `check_workdir` allows.

    With `overwrite`, an interrupted run of other data than those that `data` describes is replaced too.
    """
    state = os.path.join(workdir, "checkpoint", "state.json")
    begun = read_json(state).get("data") if overwrite and os.path.exists(state) else None
    if check_workdir(config, workdir, overwrite) or begun not in (None, data):
        shutil.rmtree(workdir)
    os.makedirs(workdir, exist_ok=True)
    write_json(os.path.join(workdir, "config.json"), config.as_dict())


def check_data(expected: str, data: Data, whose: str) -> None:
    """Raises ValueError where the description of `data` is not the expected one."""
    if expected != data.description:
        raise ValueError(
            f"Expected the data of {whose}: {expected}. Received: {data.description}. Choose another --workdir."
        )


class Checkpoint(keras.callbacks.Callback):
    """Saves everything a run needs to go on after each epoch, and finds it again.

    First the weights and the optimizer's state go into a file of their own. Then state.json, which names that file and
    holds the rest, is replaced in one step. So state.json and its files agree whenever the process is killed.
    """

    def __init__(self, workdir: str, config: Config, data: Data):
        super().__init__()
        self.data = data
        self.folder = os.path.join(workdir, "checkpoint")
        self.path = os.path.join(self.folder, "state.json")
        self.keep = config.keep
        self.kernels = None
        os.makedirs(self.folder, exist_ok=True)
        self.state: dict[str, Any] = {
            "data": data.description,
            "epochs": 0,
            "seconds": 0.0,
            "last": None,
            "kept": None,
            "generators": [],
            "history": [],
            "kernels": [],
            "provenance": provenance(),
        }

    def restore(self, model: keras.Model) -> None:
        """Puts a model where the interrupted run left it; does nothing where there is none."""
        if os.path.exists(self.path):
            begun, self.state = self.state["provenance"], read_json(self.path)
            check_data(self.state.setdefault("data", self.data.description), self.data, "the interrupted run")
            past, now = str(self.state["provenance"]["git_revision"]), str(begun["git_revision"])
            if not past.endswith(now):
                self.state["provenance"]["git_revision"] = f"{past} then {now}"
            model.load_weights(os.path.join(self.folder, self.state["last"]))
            for generator, state in zip(seed_generators(model), self.state["generators"], strict=True):
                generator.state.assign(state)

    def load_kept(self, model: keras.Model) -> None:
        """Loads the weights of the epoch that counts, by Config.keep."""
        model.load_weights(os.path.join(self.folder, self.state["kept"]))

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        name = weights_file(epoch)
        with replaced(os.path.join(self.folder, name)) as temporary:
            self.model.save_weights(temporary)
        seconds = time.monotonic() - self.started
        row = {"epoch": epoch, "seconds": round(seconds, 2), **{key: float(value) for key, value in logs.items()}}
        earlier = [past["val_accuracy"] for past in self.state["history"]]
        best = self.keep == "last" or all(row["val_accuracy"] > past for past in earlier)
        self.state = {
            **self.state,
            "epochs": epoch + 1,
            "seconds": self.state["seconds"] + seconds,
            "last": name,
            "kept": name if best else self.state["kept"],
            "generators": [np.array(generator.state).tolist() for generator in seed_generators(self.model)],
            "history": self.state["history"] + [row],
            "kernels": self.kernels.rows,
        }
        write_json(self.path, self.state)
        for other in os.listdir(self.folder):
            if other.endswith(".weights.h5") and other not in (self.state["last"], self.state["kept"]):
                os.remove(os.path.join(self.folder, other))

    def remove(self) -> None:
        """Deletes what a finished run needs no more."""
        shutil.rmtree(self.folder)


def weights_file(epoch: int) -> str:
    """Name of the file of an epoch's weights; epochs count from 0."""
    return f"epoch-{epoch + 1:05d}.weights.h5"


def seed_generators(model: keras.Model) -> list[keras.random.SeedGenerator]:
    """The random generators of dropout and relaxation. Keras does not save their states with the weights."""
    found = (getattr(layer, "seed_generator", None) for layer in layers_of(model, keras.layers.Layer))
    return [generator for generator in found if isinstance(generator, keras.random.SeedGenerator)]
