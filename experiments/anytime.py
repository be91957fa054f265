"""Answers before the end: `python -m experiments.anytime --model=cifar10 --dataset=cifar10 --workdir=runs/anytime`.

A TTFS network answers when its last layer has fired. Early firing lets each layer begin before the one in front of it has
ended: the answer comes sooner, and some neurons err. The command simulates the network with early firing by 0, a quarter, a
half and three quarters of its shortest window, step by step, and shows what one gets by stopping at each step.
"""

import os
from typing import Any

import numpy as np
from absl import flags

from experiments import command
from experiments.files import write_json, write_text
from experiments.lock import locked
from experiments.plots import panels, save
from experiments.tables import markdown

SHARES = (0.0, 0.25, 0.5, 0.75)
COLUMNS = (
    "early firing [steps]",
    "answer at step",
    "accuracy [%]",
    "standard error",
    "spikes",
    "accuracy 4 steps before",
    "8 steps before",
)
RESULT, TABLE, PICTURE = "anytime.json", "anytime.md", "anytime.png"


def define_flags() -> None:
    command.define_shared_flags("workdir", "dataset", "data_dir", "batch_size", "overwrite", images=1000)
    flags.DEFINE_string(
        "model", None, "Trained TTFS model, a .keras file; or the name of weights of fast_vgg.", required=True
    )


def main(options: flags.FlagValues) -> None:
    path = os.path.join(options.workdir, RESULT)
    with locked(options.workdir):
        if os.path.lexists(path) and not options.overwrite:
            raise FileExistsError(f"Expected a file that is not there yet. Received: {path}. Pass --overwrite.")
        result = simulated(options)
        write_json(path, result)
        write_text(os.path.join(options.workdir, TABLE), table(result) + "\n")
        draw(result, os.path.join(options.workdir, PICTURE))
    print(f"\n{table(result)}\n\nFiles: {os.path.abspath(options.workdir)}")


def simulated(options: flags.FlagValues) -> dict[str, Any]:
    """Of each early firing: accuracy after every step, and spikes in every step."""
    from experiments import trained
    from experiments.provenance import provenance
    from keras_ttfs.snn import SpikingNetwork

    shown = trained.load(options.model, options.dataset, options.data_dir, options.images)
    x, labels, count = shown.images, shown.labels, len(shown.images)
    shortest = min(encoder.time_window for encoder in shown.model.encoders)
    rows = {}
    for early in dict.fromkeys(int(share * shortest) for share in SHARES):
        network = SpikingNetwork.from_model(shown.model, early_firing=early)
        correct, spikes = np.zeros(network.decision_step), np.zeros(network.decision_step)
        for first in range(0, count, options.batch_size):
            batch = slice(first, first + options.batch_size)
            found = network.run(x[batch], "clock", batch_size=options.batch_size, verbose=0)
            correct += (found.predictions_per_step == labels[batch, None]).sum(0)
            spikes += found.spikes_per_step * len(x[batch])
        rows[str(early)] = {"accuracy": (correct / count).tolist(), "spikes": (spikes / count).tolist()}
        print(f"early firing by {early}: {correct[-1] / count:.2%} at step {network.decision_step}", flush=True)
    return {"model": shown.name, "data": shown.data, "images": count, "rows": rows, **provenance()}


def table(result: dict[str, Any]) -> str:
    """A line for each early firing."""
    lines = [list(COLUMNS)]
    for early, row in result["rows"].items():
        accuracy = row["accuracy"]
        error = 100 * (accuracy[-1] * (1 - accuracy[-1]) / result["images"]) ** 0.5
        before = [f"{100 * accuracy[-1 - steps]:.2f}" if len(accuracy) > steps else "-" for steps in (4, 8)]
        ends = [f"{100 * accuracy[-1]:.2f}", f"{error:.2f}", f"{sum(row['spikes']):,.0f}", *before]
        lines.append([early, str(len(accuracy)), *ends])
    return markdown(lines)


def draw(result: dict[str, Any], path: str) -> None:
    """Accuracy over time steps, and over the spikes so far."""
    figure, axes = panels(2, sharey=True)
    for early, row in result["rows"].items():
        accuracy = 100 * np.array(row["accuracy"])
        label = f"early firing by {early}" if early != "0" else "no early firing"
        axes[0].plot(np.arange(1, len(accuracy) + 1), accuracy, label=label)
        axes[1].plot(np.cumsum(row["spikes"]), accuracy, label=label)
    axes[0].set(xlabel="time step", ylabel="accuracy so far [%]")
    axes[1].set(xlabel="spikes so far, per image")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    define_flags()
    command.run(main)
