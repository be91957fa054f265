"""Sums over images, kept in a file after every batch: a simulation of an hour goes on where it was killed."""

import os
import time
from typing import Any

import numpy as np

from experiments.config import differences
from experiments.files import COUNT, NUMBER, OBJECT, list_of, read_json, write_json

FIELDS = {"settings": OBJECT, "images": COUNT, "correct": list_of(COUNT), "spikes": list_of(NUMBER), "seconds": NUMBER}
REMEDY = "Remove the file, and the row begins anew."


class Sums:
    """Correct answers and spikes of each time step, summed over images.

    Args:
        file: JSON file that keeps the sums, read where it is there. None: nothing is kept.
        settings: dict: what the sums are of, code and data included.

    Attributes:
        images: int: so many images were simulated [images].
        correct: array (steps,): images that were answered right after each step [images].
        spikes: array (steps,): spikes of hidden layers in each step [spikes].

    Raises:
        FileExistsError: where the file holds sums of other settings.
        ValueError: where it is damaged.
    """

    def __init__(self, file: str | None = None, settings: dict[str, Any] | None = None):
        self.file, self.settings = file, settings or {}
        self.images, self.correct, self.spikes, self._before = 0, np.int64(0), np.float64(0.0), 0.0
        if file and os.path.lexists(file):
            self._read(file)
        self._begun = time.monotonic()

    def _read(self, file):
        kept = read_json(file, FIELDS, REMEDY)
        if changes := differences(kept["settings"], self.settings):
            raise FileExistsError(f"Expected {file} to be of what is asked for. Received: {changes}. {REMEDY}")
        self.images, self._before = kept["images"], kept["seconds"]
        self.correct, self.spikes = np.array(kept["correct"]), np.array(kept["spikes"])

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
            sums = {"correct": self.correct.tolist(), "spikes": self.spikes.tolist()}
            values = {"settings": self.settings, "images": self.images, **sums, "seconds": self.seconds}
            write_json(self.file, values, indent=None, sealed=True)
