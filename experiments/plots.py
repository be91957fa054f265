"""Pictures of training runs, of the codings and of the benchmark. matplotlib is imported when a picture is drawn."""

import os
import pathlib
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.files import replaced
from experiments.stored import read_benchmark

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = list[dict[str, Any]]


def panels(
    columns: int = 1, rows: int = 1, *, width: float = 5.2, height: float = 3.6, **kwargs: Any
) -> tuple["Figure", Any]:
    """A figure and its panels, each of `width` x `height` inches; further arguments as those of `Figure.subplots`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, **kwargs)


def save(figure: "Figure", path: str) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=120)


def learning_curves(history: Rows, path: str) -> None:
    """Loss and accuracy of training and validation over epochs."""
    figure, axes = panels(2)
    epochs = [row["epoch"] + 1 for row in history]
    for axis, name in zip(axes, ("loss", "accuracy")):
        axis.plot(epochs, [row[name] for row in history], "o-", ms=3, label="training")
        axis.plot(epochs, [row[f"val_{name}"] for row in history], "o-", ms=3, label="validation")
        axis.set(xlabel="epoch", ylabel=name)
        axis.grid(alpha=0.3)
        axis.legend()
    save(figure, path)


def spikes_by_layer(layers: Rows, path: str) -> None:
    """Spikes per neuron of each layer, on the test split."""
    figure, axis = panels()
    names = [layer["layer"].removesuffix("_activation") for layer in layers]
    axis.bar(names, [layer["spikes"] / layer["neurons"] for layer in layers])
    axis.set(ylabel="spikes per neuron", ylim=(0, 1))
    axis.tick_params(axis="x", rotation=60)
    axis.grid(axis="y", alpha=0.3)
    save(figure, path)


def kernels(rows: Rows, path: str) -> None:
    """tau, and the range [z_min, z_max], of each layer over training."""
    import matplotlib

    figure, axes = panels(2)
    names = list(dict.fromkeys(row["layer"] for row in rows))
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(names)))
    for name, color in zip(names, colors):
        mine = [row for row in rows if row["layer"] == name]
        epochs = [row["epoch"] + 1 for row in mine]
        label = name.removesuffix("_activation")
        axes[0].plot(epochs, [row["tau"] for row in mine], color=color, label=label)
        axes[1].plot(epochs, [row["z_max"] for row in mine], color=color)
        axes[1].plot(epochs, [row["z_min"] for row in mine], color=color, ls="--")
    axes[0].set(xlabel="epoch", ylabel=r"$\tau$ [steps]")
    axes[1].set(xlabel="epoch", ylabel=r"$\hat z_{max}$ (solid), $\hat z_{min}$ (dashed)", yscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=6, ncols=2)
    save(figure, path)


def activation(path: str) -> None:
    """What the activation does to a pre-activation (Fig. 1b), and the threshold over the window, with three spikes."""
    from keras_ttfs import temporal_kernel

    tau, t_d, time_window = 4.0, 0.0, 12
    figure, axes = panels(2)
    z = np.linspace(-0.15, 1.3, 1500)
    spike_time = temporal_kernel.encode(z, tau, t_d, time_window)
    lowest = float(temporal_kernel.z_min(tau, t_d, time_window))
    axes[0].plot(z, np.maximum(z, 0), color="0.7", label="ReLU")
    axes[0].plot(z, temporal_kernel.decode(spike_time, tau, t_d, time_window), label="TTFS")
    for left, right, label in ((-0.15, lowest, "pruned"), (lowest, 1.0, "quantised"), (1.0, 1.3, "clipped")):
        axes[0].axvspan(left, right, alpha=0.08, color={"quantised": "C2"}.get(label, "C3"))
        axes[0].text((left + right) / 2, 1.32, label, ha="center", fontsize=8)
    axes[0].set(xlabel="pre-activation z", ylabel=r"$\hat z$", ylim=(-0.05, 1.42))
    axes[0].legend(loc="center left")
    steps = np.arange(time_window)
    threshold = temporal_kernel.thresholds(tau, t_d, time_window)
    axes[1].step(steps, threshold, where="mid", color="k", label="threshold")
    for potential, color in ((0.8, "C0"), (0.3, "C1"), (0.1, "C2")):
        fires = float(temporal_kernel.encode(potential, tau, t_d, time_window))
        axes[1].hlines(potential, 0, fires, color=color)
        axes[1].plot(fires, potential, "o", color=color, label=f"z = {potential}: fires at {fires:.0f}")
    axes[1].set(xlabel="step t of the window", ylabel="membrane potential")
    axes[1].legend()
    save(figure, path)


def saved_spikes(points: dict[str, dict[str, Any]], path: str) -> None:
    """Accuracy over spikes, of sweeps of one row: `{"row,flag=value": result}`; `row,base` is a point of each."""
    figure, axis = panels()
    curves: dict[str, list[tuple[float, float]]] = {}
    base = [(point["spikes"], 100 * point["accuracy"]) for name, point in points.items() if name.endswith(",base")]
    for name, point in points.items():
        flag, is_point, _ = name.partition(",")[2].partition("=")
        if is_point:
            curves.setdefault(flag, list(base)).append((point["spikes"], 100 * point["accuracy"]))
    for flag, found in curves.items():
        axis.plot(*zip(*sorted(found)), "o-", ms=4, label=flag)
    axis.plot(*zip(*base), "ks", ms=6, label="neither")
    axis.set(xlabel="spikes per image", ylabel="accuracy [%]")
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)


def codings(results: Rows, path: str) -> None:
    """Accuracy over time steps and over spikes of every coding of `experiments.table2`.

    A coding without time steps is a point.
    """
    figure, axes = panels(2, sharey=True)
    for number, result in enumerate(results):
        style = {"color": f"C{number}", "label": result["label"], "lw": 1.3}
        if not result["curve"]:
            axes[0].plot([], [], "o", ms=4, color=style["color"], label=result["label"])
            axes[1].plot(result["spikes"], 100 * result["accuracy"], "o", ms=4, color=style["color"])
            continue
        steps, accuracy, spikes = np.array(result["curve"]).T
        axes[0].plot(steps, 100 * accuracy, **style)
        axes[0].plot(steps[-1], 100 * accuracy[-1], "o", ms=4, color=style["color"])
        fired = spikes > 0
        axes[1].plot(spikes[fired], 100 * accuracy[fired], **style)
        axes[1].plot(spikes[-1], 100 * accuracy[-1], "o", ms=4, color=style["color"])
    axes[0].set(xlabel="time step", ylabel="accuracy [%]")
    # What comes before is chance.
    fewest = min(result["spikes"] for result in results)
    axes[1].set(xlabel="spikes per image so far", xscale="log", xlim=(fewest / 10, None))
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7, loc="lower right")
    save(figure, path)


def benchmark(folder: str) -> None:
    """What `experiments.benchmark` measured: training.png and sweep.png, where there are results to draw."""
    results = [read_benchmark(path) for path in sorted(pathlib.Path(folder).glob("training_*.json"))]
    if results:
        _throughput(results, os.path.join(folder, "training.png"))
    path = os.path.join(folder, "sweep.json")
    if os.path.exists(path):
        _training_step_sizes(read_benchmark(path), os.path.join(folder, "sweep.png"))


def _throughput(results: Rows, path: str) -> None:
    """Images per second in training, beside the twins; a panel for each result."""
    figure, axes = panels(len(results), squeeze=False)
    for axis, result in zip(axes[0], results):
        bars = _medians(result["images_per_second"])
        for name, speed in _medians(result.get("torch_images_per_second", [])).items():
            # TTFS was measured in both: its bar is the one beside the ReLU twin.
            bars.setdefault(name, speed)
        labels = [name.replace(", ", ",\n") for name in bars]
        axis.barh(labels, list(bars.values()), color=["C1" if label == "TTFS" else "0.7" for label in labels])
        axis.invert_yaxis()
        title = (
            f"{result['network']}, pooling of {result['pooling']},\nwidth {result['width']:g}, {result['dtype_policy']}"
        )
        axis.set(title=title, xlabel="images per second, training")
        axis.bar_label(axis.containers[0], fmt="%.0f", padding=2)
        axis.margins(x=0.15)
    save(figure, path)


def _medians(runs: Rows) -> dict[str, float]:
    """`{name: median over the runs}`, empty without runs."""
    return {name: statistics.median(run[name] for run in runs) for name in (runs[0] if runs else ())}


def _training_step_sizes(result: dict[str, Any], path: str) -> None:
    """Time of a training step over T, width, batch size and depth; a panel for each."""
    sweeps = result["median_seconds_per_step"]
    figure, axes = panels(len(sweeps))
    for axis, (what, runs) in zip(axes, sweeps.items()):
        for kind in ("Keras ReLU", "TTFS"):
            points = [(float(name.split("= ")[1]), 1e3 * v) for name, v in runs.items() if name.startswith(kind)]
            if points:
                axis.plot(*zip(*points), "o-", ms=4, color="C1" if kind == "TTFS" else "0.5", label=kind)
        axis.set(xlabel=_SIZES[what], xscale="log")
        sizes = sorted({float(name.split("= ")[1]) for name in runs})
        axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axis.minorticks_off()
        axis.set_ylim(0, 1.1 * 1e3 * max(runs.values()))
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="ms per training step")
    axes[-1].legend()
    save(figure, path)


_SIZES = {
    "time_window": "T [steps]",
    "width": "width of VGG-16",
    "batch_size": "batch size [images]",
    "depth": "depth [convolutions of 64 channels]",
}
