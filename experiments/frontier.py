"""Accuracy over spikes and over time steps on CIFAR-10: `python -m experiments.frontier --overwrite`.

Our rows are drawn from the files that `experiments.fast` collects. The numbers of other works are those that they print, and
are marked so; where they print no spikes or no time steps, their accuracy is a line. Without --results it draws the committed
rows.
"""

import os
import pathlib
import statistics
from typing import Any

from absl import flags

from experiments import command, paper
from experiments.fast_tables import Rows, read_rows
from experiments.lock import check_folder
from experiments.plots import panels, save
from experiments.results import RESULTS
from experiments.workdir import check_made, pattern_of, remove_leftovers

PICTURE = "frontier.png"
DATASET = "cifar10"
# Of each panel: place of its number in a row of paper.OTHERS, and the label of its axis.
PLACES = {"spikes": (2, "spikes per image"), "time_steps": (3, "time steps")}
TICKS = [digit * 10**power for power in range(6) for digit in (1, 2, 5)]


def define_flags() -> None:
    folder = (RESULTS / "fast_cifar").relative_to(command.ROOT)
    flags.DEFINE_string("results", str(folder), "Directory that experiments.fast collected to.")
    flags.DEFINE_string("output", None, f"Directory of the picture {PICTURE}; --results if not given.")
    flags.DEFINE_boolean("overwrite", False, "Replace a picture that this command did not draw.")


def points_of(rows: Rows) -> dict[str, dict[str, tuple[float, float]]]:
    """`{name: {"accuracy" [%], "spikes", "time_steps": (mean, standard deviation over the seeds)}}` of our spiking rows."""
    points = {}
    for row, runs in rows.items():
        results = [run["result"] for run in runs]
        config = results[0]["config"]
        if config["dataset"] == DATASET and "time_steps" in results[0]:
            values = {name: [result[name] for result in results] for name in ("spikes", "time_steps")}
            values["accuracy"] = [100 * result["accuracy"] for result in results]
            points[config["row"] or row] = {name: _spread(found) for name, found in values.items()}
    return points


def _spread(values: list[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def draw(rows: Rows, path: str) -> None:
    """Two panels: accuracy over spikes per image, and over time steps."""
    figure, axes = panels(2, sharey=True, width=6.2, height=4.6)
    points = points_of(rows)
    for axis, what in zip(axes, PLACES):
        for number, (name, point) in enumerate(points.items()):
            (x, x_error), (y, y_error) = point[what], point["accuracy"]
            axis.errorbar(x, y, y_error, x_error, fmt="o", ms=6, capsize=3, color=f"C{number}", label=f"{name}, ours")
        _others(axis, what)
        lowest, highest = _limits([point[what][0] for point in points.values()], what)
        ticks = [tick for tick in TICKS if lowest < tick < highest]
        axis.set(xscale="log", xlim=(lowest, highest), xlabel=PLACES[what][1])
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="accuracy on CIFAR-10 [%]")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    save(figure, path)


def _others(axis: Any, what: str) -> None:
    """What other works print: a point, or a line where the number of this panel is not known."""
    place = PLACES[what][0]
    for number, work in enumerate(paper.OTHERS):
        name, accuracy = work[:2]
        if work[place] is None:
            axis.axhline(accuracy, color="0.6", ls="--", lw=0.9)
            label = f"{name}, {accuracy:.2f}: as printed"
            axis.annotate(
                label, (0.01, accuracy), (0, 2), ("axes fraction", "data"), "offset points", fontsize=6.5, color="0.35"
            )
        else:
            axis.plot(work[place], accuracy, "sD^"[number], color="0.3", ms=6, label=f"{name}: as printed")


def _limits(ours: list[float], what: str) -> tuple[float, float]:
    """Limits of an axis around our numbers and those that others print."""
    place = PLACES[what][0]
    numbers = ours + [work[place] for work in paper.OTHERS if work[place] is not None]
    return min(numbers) / 1.6, max(numbers) * 1.6


def main(options: flags.FlagValues) -> None:
    rows = read_rows(pathlib.Path(options.results))
    if not points_of(rows):
        raise FileNotFoundError(f"Expected results of spiking rows on {DATASET}. Received: --results={options.results}")
    folder = options.output or options.results
    check_folder(folder, "--output")
    path = os.path.join(folder, PICTURE)
    if not options.overwrite:
        check_made([path], "Name another --output, or pass --overwrite.")
    os.makedirs(folder, exist_ok=True)
    remove_leftovers(folder, pattern_of([PICTURE]))
    draw(rows, path)
    print(f"Accuracy over spikes and time steps: {path}")


if __name__ == "__main__":
    define_flags()
    command.run(main)
