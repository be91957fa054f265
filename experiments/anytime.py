"""Answers before the end: `python -m experiments.anytime --model=cifar10 --dataset=cifar10 --workdir=runs/anytime`.

A TTFS network answers when its last layer has fired. Early firing lets each layer begin before the one in front of it has
ended: the answer comes sooner, and some neurons err. The command simulates the network with early firing by 0, a quarter, a
half and three quarters of its shortest window, step by step, and shows what one gets by stopping at each step. Each of them
is a file in the workdir, and what is finished is not simulated again.
"""

import functools
import os
from typing import Any

import numpy as np
from absl import flags

from experiments import command
from experiments.files import write_text
from experiments.lock import locked
from experiments.plots import panels, save
from experiments.runs import Job, run_jobs
from experiments.stored import EARLY, read_any
from experiments.sums import Sums
from experiments.tables import Result, anytime_table, first_answers
from experiments.workdir import check_made, pattern_of, remove_leftovers

SHARES = (0.0, 0.25, 0.5, 0.75)
TABLE, PICTURE = "anytime.md", "anytime.png"


def define_flags() -> None:
    command.define_shared_flags("workdir", "dataset", "data_dir", "batch_size", images=1000)
    flags.DEFINE_string(
        "model", None, "Trained TTFS model, a .keras file; or the name of weights of fast_vgg.", required=True
    )


def jobs(options: flags.FlagValues) -> list[Job]:
    """A job for each early firing."""
    from experiments import trained
    from experiments.provenance import provenance

    begun_with = provenance()
    shown = trained.load(options.model, options.dataset, options.data_dir, options.images)
    settings = {"model": shown.name, "data": shown.data, "images": len(shown.images)}
    if not getattr(shown.model, "encoders", None):
        raise ValueError(f"Expected --model to be a TTFS model. Received: {options.model}, which has no spikes")
    shortest = min(encoder.time_window for encoder in shown.model.encoders)

    def job(early):
        name = f"early_{early}"
        file = os.path.join(options.workdir, f"{name}.json")
        make = functools.partial(simulated, shown, early, options.batch_size, settings, begun_with)
        title = f"early firing by {early} steps"
        return Job(name, file, make, settings, read=lambda path: read_any(path, EARLY), title=title)

    return [job(early) for early in dict.fromkeys(int(share * shortest) for share in SHARES)]


def simulated(shown: Any, early: int, batch_size: int, settings: Result, origin: Result, results: Any) -> Result:
    """Accuracy after every step, and spikes in every step, with early firing by so many steps."""
    from keras_ttfs.snn import SpikingNetwork

    sums, count = Sums(), len(shown.images)
    network = SpikingNetwork.from_model(shown.model, early_firing=early)
    for first in range(0, count, batch_size):
        x, labels = (values[first : first + batch_size] for values in (shown.images, shown.labels))
        found = network.run(x, "clock", batch_size=batch_size, verbose=0)
        sums.add(found.predictions_per_step == labels[:, None], found.spikes_per_step)
    accuracy, spikes = sums.correct / count, sums.spikes / count
    print(f"{accuracy[-1]:.2%} at step {network.decision_step}", flush=True)
    curves = {"accuracy": accuracy.tolist(), "spikes": spikes.tolist()}
    return {"early_firing": early, **curves, "seconds": sums.seconds, "settings": settings, **origin}


def draw(results: list[Result], path: str) -> None:
    """Accuracy over time steps, and over the spikes so far; from the step on at which the first answers are there."""
    figure, axes = panels(2, sharey=True)
    for result in results:
        early, accuracy = result["early_firing"], 100 * np.array(result["accuracy"])
        label = f"early firing by {early}" if early else "no early firing"
        first = first_answers(result["accuracy"]) - 1
        axes[0].plot(np.arange(1, len(accuracy) + 1)[first:], accuracy[first:], "o-", ms=3, label=label)
        axes[1].plot(np.cumsum(result["spikes"])[first:], accuracy[first:], "o-", ms=3, label=label)
    axes[0].set(xlabel="time step", ylabel="accuracy so far [%]")
    axes[1].set(xlabel="spikes of hidden layers so far, per image")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    save(figure, path)


def main(options: flags.FlagValues) -> None:
    table, picture = (os.path.join(options.workdir, name) for name in (TABLE, PICTURE))
    with locked(options.workdir):
        asked = jobs(options)
        check_made([table, picture])
        remove_leftovers(options.workdir, pattern_of([TABLE, PICTURE]))
        results = list(run_jobs(asked, options.workdir)[0].values())
        write_text(table, anytime_table(results) + "\n")
        draw(results, picture)
    print(f"\n{anytime_table(results)}\n\nFiles: {os.path.abspath(options.workdir)}")


if __name__ == "__main__":
    define_flags()
    command.run(main)
