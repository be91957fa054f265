"""What a run saves after each epoch, so that a killed run can go on, and where its loss is not finite."""

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experiments.config import Config
from experiments.data import Data
from experiments.files import check_space, damaged, replaced, sha256, write_csv, write_json
from experiments.provenance import continued, provenance
from experiments.stored import FAILURE_FILE, HISTORY_FILES, WEIGHTS, read_state, weights_file
from keras_ttfs.topology import layers_of


def check_data(expected: str, data: Data, whose: str) -> None:
    """Raises ValueError where the description of `data` is not the expected one."""
    if expected != data.description:
        raise ValueError(
            f"Expected the data of {whose}: {expected}. Received: {data.description}. Choose another --workdir."
        )


class Checkpoint(keras.callbacks.Callback):
    """Saves everything a run needs to go on after each epoch, and finds it again.

    First the weights and the optimizer's state go into a file of their own. Then state.json, which names that file and
    holds the rest, is replaced in one step. So state.json and its files agree whenever the process is killed. It holds the
    digests of these files too, so that a damaged one is found before training goes on.
    """

    def __init__(self, workdir: str, config: Config, data: Data, replicas: int = 1):
        super().__init__()
        self.data = data
        self.folder = os.path.join(workdir, "checkpoint")
        self.path = os.path.join(self.folder, "state.json")
        self.config = config
        self.kernels = None
        self.spike_budget = None
        os.makedirs(self.folder, exist_ok=True)
        self.state: dict[str, Any] = {
            "config": config.as_dict(),
            "data": data.description,
            "epochs": 0,
            "seconds": 0.0,
            "last": None,
            "kept": None,
            "weights_sha256": {},
            "generators": [],
            "history": [],
            "kernels": [],
            "spike_budget": {},
            "replicas": replicas,
            "provenance": provenance(),
        }

    def restore(self, model: keras.Model) -> None:
        """Puts a model where the interrupted run left it; does nothing where there is none.

        Raises ValueError, or FileNotFoundError, where a file of the checkpoint is damaged, or of another run, or of another
        number of workers.
        """
        found = read_state(self.folder, self.config.as_dict())
        if found is None:
            return
        check_data(found.setdefault("data", self.data.description), self.data, "the interrupted run")
        # Norms that are not synchronised, and all random numbers, are those of a replica.
        if (before := found.setdefault("replicas", 1)) != (now := self.state["replicas"]):
            raise ValueError(
                f"Expected as many replicas as the interrupted run has: {before}. Received: {now}. Start it on as many, or "
                "choose another --workdir."
            )
        begun, self.state = self.state["provenance"], {**self.state, **found}
        self.state["provenance"] = continued(self.state["provenance"], begun)
        if self.state["epochs"]:
            names = {self.state["kept"], self.state["last"]}
            # Earlier versions saved no digests.
            self.state["weights_sha256"] = {name: sha256(os.path.join(self.folder, name)) for name in names}
            # Now, because a damaged one would be found at the end of training only.
            self.load_kept(model)
            self._load(model, self.state["last"])
            self._set_generators(model)

    def load_kept(self, model: keras.Model) -> None:
        """Loads the weights of the epoch that counts, by Config.keep."""
        self._load(model, self.state["kept"])

    def _load(self, model: keras.Model, name: str) -> None:
        path = os.path.join(self.folder, name)
        try:
            model.load_weights(path)
        # All that Keras and h5py raise where a file is damaged or of another network.
        except Exception as error:
            raise damaged(path, "the weights of this network", error, self._remedy()) from error

    def _set_generators(self, model: keras.Model) -> None:
        """Puts the random generators where they were."""
        ours, theirs = seed_generators(model), self.state["generators"]
        shapes = [tuple(generator.state.shape) for generator in ours]
        if [np.shape(state) for state in theirs] != shapes:
            expected = f"states of {len(ours)} random generators"
            raise damaged(self.path, expected, f"{len(theirs)} states", self._remedy())
        for generator, state in zip(ours, theirs):
            try:
                generator.state.assign(state)
            except (OverflowError, TypeError, ValueError) as error:
                raise damaged(self.path, "states of random generators", error, self._remedy()) from error

    def _remedy(self) -> str:
        return f"Remove {self.folder} and the run begins anew, or pass --overwrite where the command has it."

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        name = weights_file(epoch)
        # HDF5 ends the process where the disk is full.
        check_space(self.folder, saved_bytes(self.model))
        with replaced(os.path.join(self.folder, name)) as temporary:
            self.model.save_weights(temporary)
            digest = sha256(temporary)
        seconds = time.monotonic() - self.started
        row = {"epoch": epoch, "seconds": round(seconds, 2), **{key: float(value) for key, value in logs.items()}}
        earlier = [past["val_accuracy"] for past in self.state["history"]]
        best = self.config.keep == "last" or all(row["val_accuracy"] > past for past in earlier)
        kept = name if best else self.state["kept"]
        digests = {**self.state["weights_sha256"], name: digest}
        self.state = {
            **self.state,
            "epochs": epoch + 1,
            "seconds": self.state["seconds"] + seconds,
            "last": name,
            "kept": kept,
            "weights_sha256": {file: digests[file] for file in (kept, name) if file in digests},
            "generators": [np.array(generator.state).tolist() for generator in seed_generators(self.model)],
            "history": self.state["history"] + [row],
            "kernels": self.kernels.rows,
            "spike_budget": self.spike_budget.state if self.spike_budget else {},
        }
        write_json(self.path, self.state, sealed=True)
        self._remove_weights(but=(name, kept))

    def _remove_weights(self, but: tuple[str, ...] = ()) -> None:
        """Removes weights of epochs that count no more. Only what bears the name of ours is removed."""
        for name in os.listdir(self.folder):
            path = os.path.join(self.folder, name)
            if WEIGHTS.fullmatch(name) and name not in but and os.path.isfile(path) and not os.path.islink(path):
                os.remove(path)

    def remove(self) -> None:
        """Removes what a finished run needs no more; the directory stays where something else is in it."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path)
        self._remove_weights()
        with contextlib.suppress(OSError):
            os.rmdir(self.folder)


@contextlib.contextmanager
def failure_told(workdir: str, checkpoint: Checkpoint) -> Iterator[None]:
    """Writes what the run came to where its loss is not finite: the histories of its whole epochs, and why it ended."""
    try:
        yield
    except FloatingPointError as error:
        state = checkpoint.state
        write_histories(workdir, state)
        told = {name: state[name] for name in ("config", "data", "epochs", "replicas")}
        ended = {"reason": str(error), "wall_time": round(state["seconds"], 1), **state["provenance"]}
        failure = {**told, **ended, "files_sha256": digests_of(workdir, HISTORY_FILES)}
        write_json(os.path.join(workdir, FAILURE_FILE), failure, sealed=True)
        raise


def write_histories(workdir: str, state: dict[str, Any]) -> None:
    """Writes the epochs of a state as history.csv and kernels.csv."""
    # failure.json of an earlier attempt names the histories that are replaced here.
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(workdir, FAILURE_FILE))
    write_csv(os.path.join(workdir, "history.csv"), state["history"])
    write_csv(os.path.join(workdir, "kernels.csv"), state["kernels"])


def digests_of(workdir: str, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of those files of a directory that are there."""
    paths = {name: os.path.join(workdir, name) for name in names}
    return {name: sha256(path) for name, path in paths.items() if os.path.exists(path)}


def check_room(workdir: str, model: keras.Model) -> None:
    """Raises OSError where there is no room for all that a run of `model` saves, beside what it has saved already."""
    folder = os.path.join(workdir, "checkpoint")
    there = filter(WEIGHTS.fullmatch, os.listdir(folder) if os.path.isdir(folder) else ())
    # The weights of two epochs, those that are being written, and the model.
    check_space(workdir, (4 - min(2, len(list(there)))) * saved_bytes(model))


def saved_bytes(model: keras.Model) -> int:
    """Size of a model's weights and its optimizer's state [bytes]."""
    variables = {id(v): v for v in (*model.variables, *model.optimizer.variables)}.values()
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)


def seed_generators(model: keras.Model) -> list[keras.random.SeedGenerator]:
    """The random generators of dropout, relaxation and noise. Keras does not save their states with the weights."""
    found = [getattr(layer, "seed_generator", None) for layer in layers_of(model, keras.layers.Layer)]
    draws = getattr(model, "weight_draws", None)
    found.append(draws.seed if draws else None)
    return [generator for generator in found if isinstance(generator, keras.random.SeedGenerator)]
