"""Sums over images, kept in a file after every batch: a simulation of an hour goes on where it was killed."""

import contextlib
import os
import time
from typing import Any

import numpy as np

from experiments.config import differences
from experiments.files import COUNT, NUMBER, OBJECT, damaged, list_of, read_json, write_json
from experiments.provenance import continued

FIELDS = {
    "settings": OBJECT,
    "provenance": OBJECT,
    "images": COUNT,
    "correct": list_of(COUNT),
    "spikes": list_of(NUMBER),
    "seconds": NUMBER,
}
REMEDY = "Remove the file, and the row begins anew."


class Sums:
    """Correct answers and spikes of each time step, summed over images.

    Args:
        file: file that keeps the sums, read where it is there. None: nothing is kept.
        settings: dict: what the sums are of.
        provenance: dict: by which code, of which machine. Of sums that are there, theirs stays, and the revision tells
            both where they differ.

    Attributes:
        images: int: so many images were simulated [images].
        correct: array (steps,): images that were answered right after each step [images].
        spikes: array (steps,): spikes of hidden layers in each step [spikes].

    Raises:
        FileExistsError: where the file holds sums of other settings.
        ValueError: where it is damaged.
    """

    def __init__(
        self,
        file: str | None = None,
        settings: dict[str, Any] | None = None,
        provenance: dict[str, Any] | None = None,
    ):
        self.file, self.settings, self.provenance = file, settings or {}, provenance or {}
        self.images, self.correct, self.spikes, self._before = 0, np.int64(0), np.float64(0.0), 0.0
        if file and os.path.lexists(file):
            self._read(file)
        self._begun = time.monotonic()

    def _read(self, file):
        kept = read_json(file, FIELDS, REMEDY)
        if changes := differences(kept["settings"], self.settings):
            raise FileExistsError(f"Expected {file} to be of what is asked for. Received: {changes}. {REMEDY}")
        self.images, self._before = kept["images"], kept["seconds"]
        self.provenance = continued(kept["provenance"], self.provenance)
        self.correct, self.spikes = np.array(kept["correct"]), np.array(kept["spikes"])
        if self.correct.shape != self.spikes.shape or np.any(self.correct > self.images):
            raise damaged(file, "sums of one length over its images", f"those of {self.images} images", REMEDY)

    @property
    def seconds(self) -> float:
        """How long the simulation takes so far, in all processes that took part [s]."""
        return round(self._before + time.monotonic() - self._begun, 1)

    def add(self, correct: np.ndarray, spikes: np.ndarray) -> None:
        """Adds images: `correct`, bool array (images, steps), and `spikes`, mean per image of each step (steps,)."""
        self.images += len(correct)
        self.correct = self.correct + correct.sum(0)
        self.spikes = self.spikes + spikes * len(correct)
        if self.file:
            os.makedirs(os.path.dirname(os.path.abspath(self.file)), exist_ok=True)
            sums = {"correct": self.correct.tolist(), "spikes": self.spikes.tolist(), "seconds": self.seconds}
            values = {"settings": self.settings, "provenance": self.provenance, "images": self.images, **sums}
            write_json(self.file, values, indent=None, sealed=True)

    def remove(self) -> None:
        """Removes the file, whose row is finished."""
        if self.file:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.file)
