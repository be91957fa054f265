"""The paper's figures from result files: `python -m experiments.figures --runs=DIR --sweeps=DIR --output=DIR`.

The directories are those that `experiments.table1` and `experiments.sweeps` collect. A figure whose files are not there is
left out, and the command says so.
"""

import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from absl import flags

from experiments import command
from experiments.lock import check_folder
from experiments.plots import panels, save
from experiments.results import read_points, read_runs
from experiments.workdir import check_made, pattern_of, remove_leftovers

# Rows whose training is compared over epochs, as in the paper's figures.
CONFIGURATIONS = {
    "sm_1": "SM (1)",
    "sm_2": "SM (2)",
    "sm_sr": "SM+SR",
    "sm_sr_tr": "SM+SR+TR",
    "sm_sr_tr_tb_1e-5": "SM+SR+TR+TB (1e-5)",
    "sm_sr_tr_tb_1e-4": "SM+SR+TR+TB (1e-4)",
}
COLORS = dict(zip(CONFIGURATIONS, ("C7", "C0", "C1", "C2", "C3", "C4")))
SHOWN_LAYERS = ("conv4_1_activation", "dense1_activation")
# Of each row: what `experiments.results.read_runs` reads. Of each point of a sweep: its result.
Runs = dict[str, dict[str, Any]]
Points = dict[str, dict[str, Any]]


class Missing(Exception):
    """What a figure needs is not among the files."""


def _chosen(runs: Runs, rows: Iterable[str]) -> Runs:
    """The runs of some rows; raises Missing where one is not there."""
    if missing := [row for row in rows if row not in runs]:
        raise Missing(f"runs of {', '.join(missing)}")
    return {row: runs[row] for row in rows}


def _by_epoch(run: dict[str, Any], value: Callable[[dict], float]) -> tuple[list[float], list[list[float]]]:
    """Epochs, and for each the list over layers of `value(row of kernels.csv)`."""
    epochs = sorted({row["epoch"] for row in run["kernels"]})
    return [e + 1 for e in epochs], [[value(row) for row in run["kernels"] if row["epoch"] == e] for e in epochs]


def _over_training(runs: Runs, path: str, left: tuple, right: tuple) -> None:
    """Two panels of `(value of a layer, ylabel)` over epochs: the mean over layers, and dotted the largest."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """Labels at the same places, as plain numbers."""

        def __call__(self, x, pos=None):
            return f"{x:g}" if super().__call__(x, pos) else ""

    figure, axes = panels(2)
    for axis, (value, label) in zip(axes, (left, right)):
        for row, run in runs.items():
            epochs, values = _by_epoch(run, value)
            axis.plot(epochs, list(map(statistics.mean, values)), color=COLORS[row], label=CONFIGURATIONS[row])
            axis.plot(epochs, list(map(max, values)), ":", color=COLORS[row], lw=1)
        # One layer's can be a hundred times the others'.
        axis.set(xlabel="epoch", ylabel=label, yscale="log")
        axis.yaxis.set_major_formatter(Plain())
        axis.yaxis.set_minor_formatter(Plain(labelOnlyBase=False))
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7)
    save(figure, path)


def _column(name: str) -> Callable[[dict], float]:
    return lambda row: row[name]


def figure_2(runs: Runs, sweeps: Points, path: str) -> None:
    """Sum of the three kernel errors, and the range of representation, over training."""
    errors = ("maximum_error", "minimum_error", "precision_error")
    _over_training(
        runs,
        path,
        (lambda row: sum(row[name] for name in errors), "kernel error [1]"),
        (lambda row: row["z_max"] - row["z_min"], r"$\hat z_M - \hat z_m$ [1]"),
    )


def figure_3(runs: Runs, sweeps: Points, path: str) -> None:
    """Accuracy against spikes for initial largest levels and time constants."""
    figure, axes = panels(2)
    if "sm_sr,base" in sweeps:
        axes[0].plot(*_spikes_and_accuracy(sweeps["sm_sr,base"]), "*", color="C3", label="1 with SR")
    _scatter(axes[0], sweeps, "z_max_0", r"SM, $\hat z_{M,0}$")
    _scatter(axes[1], sweeps, "tau_0", r"SM+SR, $\tau_0$")
    save(figure, path)


def figure_8(runs: Runs, sweeps: Points, path: str) -> None:
    """Accuracy against spikes for weights of the two regularisation terms."""
    figure, axes = panels(2)
    _scatter(axes[0], sweeps, "lambda_tr", r"$\lambda_{TR}$")
    _scatter(axes[1], sweeps, "lambda_tb", r"$\lambda_{TB}$")
    save(figure, path)


def _scatter(axis: Any, sweeps: Points, flag: str, label: str) -> None:
    """One point per value of a flag, the base run's value included, labelled."""
    import matplotlib

    rows = {name.split(",")[0] for name in sweeps if f",{flag}=" in name}
    points = [
        result for name, result in sweeps.items() if name.split(",")[0] in rows and (flag in name or "base" in name)
    ]
    if not points:
        raise Missing(f"the sweep over {flag}")
    points.sort(key=lambda result: result["config"][flag])
    spikes, accuracy = zip(*map(_spikes_and_accuracy, points))
    axis.plot(spikes, accuracy, color="0.8", zorder=0)
    colors = matplotlib.colormaps["viridis"].resampled(len(points))
    for number, (x, y, result) in enumerate(zip(spikes, accuracy, points)):
        axis.plot(x, y, "o", color=colors(number), label=f"{result['config'][flag]:g}")
    axis.set(xlabel="spikes per image [10^4]", ylabel="test accuracy [%]")
    axis.legend(title=label)
    axis.grid(alpha=0.3)


def _spikes_and_accuracy(result: dict[str, Any]) -> tuple[float, float]:
    return result["spikes"] / 1e4, 100 * result["accuracy"]


def figure_5(runs: Runs, sweeps: Points, path: str) -> None:
    """tau of every layer over training, with and without regularisation."""
    _bands(path, _chosen(runs, ("sm_sr", "sm_sr_tr")), {"tau": r"$\tau$ [steps]"})


def figure_14(runs: Runs, sweeps: Points, path: str) -> None:
    """Distributions of tau, t_d, beta and gamma over training by the initial largest level."""
    _bands(path, _chosen(runs, ("sm_1", "sm_2", "sm_sr")), _PARAMETERS)


def figure_15(runs: Runs, sweeps: Points, path: str) -> None:
    """Distributions of tau, t_d, beta and gamma over training by method."""
    _bands(path, _chosen(runs, list(CONFIGURATIONS)[2:]), _PARAMETERS)


_PARAMETERS = {"tau": r"$\tau$ [steps]", "t_d": r"$t_d$ [steps]", "beta": r"$\beta$ [1]", "gamma": r"$\gamma$ [1]"}


def _bands(path: str, runs: Runs, parameters: dict[str, str]) -> None:
    """The mean over layers and its bands over epochs: a row of panels per parameter, a column per configuration."""
    figure, axes = panels(len(runs), len(parameters), squeeze=False, sharex=True, sharey="row")
    for axis, row in zip(axes[0], runs):
        axis.set_title(CONFIGURATIONS[row])
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    for row_of_panels, (name, label) in zip(axes, parameters.items()):
        for axis, (row, run) in zip(row_of_panels, runs.items()):
            of_kernel = name in ("tau", "t_d")
            # The encoder of the input follows no batch normalisation.
            lines = [line for line in run["kernels"] if of_kernel or isinstance(line["gamma_mean"], float)]
            shown = {**run, "kernels": lines}
            epochs, values = _by_epoch(shown, _column(name if of_kernel else f"{name}_mean"))
            for low, high, alpha in _lower_and_upper_bounds(shown, name, of_kernel):
                axis.fill_between(epochs, low, high, color=COLORS[row], alpha=alpha, lw=0)
            axis.plot(epochs, [sum(v) / len(v) for v in values], color=COLORS[row])
            axis.grid(alpha=0.3)
        row_of_panels[0].set_ylabel(label)
    save(figure, path)


def _lower_and_upper_bounds(run: dict[str, Any], name: str, of_kernel: bool) -> Iterator[tuple[Any, Any, float]]:
    """Of each band over epochs: its lower end, its upper end, and how opaque it is. The wide band comes first.

    The wide band holds the extremes. The narrow one holds the quartiles over layers where `of_kernel`, else a standard
    deviation over channels on either side of the mean.
    """
    import numpy as np

    if of_kernel:
        values = np.array(_by_epoch(run, _column(name))[1])
        yield values.min(1), values.max(1), 0.2
        yield *np.quantile(values, (0.25, 0.75), axis=1), 0.35
        return
    columns = {key: np.array(_by_epoch(run, _column(f"{name}_{key}"))[1]) for key in ("min", "max", "mean", "std")}
    yield columns["min"].min(1), columns["max"].max(1), 0.2
    deviation = np.sqrt((columns["std"] ** 2 + columns["mean"] ** 2).mean(1) - columns["mean"].mean(1) ** 2)
    yield columns["mean"].mean(1) - deviation, columns["mean"].mean(1) + deviation, 0.35


def figure_7(runs: Runs, sweeps: Points, path: str) -> None:
    """Pre-activations of CONV4-1 and FC1 after training."""
    _distributions(runs, path, SHOWN_LAYERS)


def figure_17(runs: Runs, sweeps: Points, path: str) -> None:
    """Pre-activations of the other layers after training."""
    _distributions(runs, path)


def _distributions(runs: Runs, path: str, layers: Sequence[str] = ()) -> None:
    """Histograms of pre-activations: a row of panels per layer, a column per configuration.

    Without `layers`, those of the first configuration that are not in SHOWN_LAYERS.
    """
    import numpy as np

    if ended := [row for row, run in runs.items() if "distributions" not in run]:
        raise Missing(f"distributions of {', '.join(ended)}")
    first = next(iter(runs.values()))["distributions"]["layers"]
    layers = layers or [layer["layer"] for layer in first if layer["layer"] not in SHOWN_LAYERS]
    figure, axes = panels(len(runs), len(layers), squeeze=False, sharex="row", height=1.6, width=2.9)
    ends = {}
    for axis, name in zip(axes[:, 0], layers):
        axis.set_ylabel(name.removesuffix("_activation"), fontsize=8)
    for column, (row, run) in zip(axes.T, runs.items()):
        found = run["distributions"]
        centers = np.linspace(*found["edges"], len(found["layers"][0]["counts"]) + 1)
        centers = (centers[1:] + centers[:-1]) / 2
        by_name = {layer["layer"]: layer for layer in found["layers"]}
        if missing := [name for name in layers if name not in by_name]:
            raise Missing(f"layers {', '.join(missing)}")
        for axis, name in zip(column, layers):
            layer = by_name[name]
            counts = np.array(layer["counts"], float)
            axis.fill_between(centers, counts / counts.sum(), step="mid", color="C0", alpha=0.5, lw=0)
            for place, color in ((layer["beta"], "k"), (layer["z_min"], "r"), (layer["z_max"], "purple")):
                if place is not None:
                    axis.axvline(place, color=color, lw=1)
            axis.set_ylim(0, 1.15 * np.sort(counts)[-2] / counts.sum())
            shares = counts.cumsum() / counts.sum()
            bulk = centers[np.searchsorted(shares, (0.001, 0.999))]
            # A kernel that ran away has its largest level far beyond the histogram.
            ends.setdefault(name, []).extend([*bulk, min(layer["z_max"], 2 * found["edges"][1]), 0.0])
            axis.set_xlim(min(ends[name]) - 0.1, max(ends[name]) + 0.1)
            axis.tick_params(labelsize=6)
        column[0].set_title(CONFIGURATIONS[row], fontsize=8)
        column[-1].set_xlabel("z [1]", fontsize=8)
    save(figure, path)


def figure_10(runs: Runs, sweeps: Points, path: str) -> None:
    """The three errors of a value z for several kernels."""
    import numpy as np

    from keras_ttfs import temporal_kernel

    figure, axes = panels(2, sharey=True)
    z = np.geomspace(0.001, 2.6, 8000)
    for axis, kernels, fixed in (
        (axes[0], [(5.0, 0.0), (10.0, 0.0), (20.0, 0.0)], r"$t_d = 0$"),
        (axes[1], [(10.0, 0.0), (10.0, 4.0), (10.0, 6.93)], r"$\tau = 10$"),
    ):
        for tau, t_d in kernels:
            error = sum(
                np.asarray(getattr(temporal_kernel, name)(z, tau, t_d, 32))
                for name in ("maximum_error", "minimum_error", "precision_error")
            )
            axis.plot(z, error, lw=1, label=rf"$\tau$ = {tau:g}, $t_d$ = {t_d:g}")
        axis.set(xlabel="z [1]", title=f"T = 32, {fixed}", xscale="log")
        axis.legend()
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="error [1]", yscale="log", ylim=(1e-4, None))
    save(figure, path)


def figure_11(runs: Runs, sweeps: Points, path: str) -> None:
    """Error by the largest level, and the largest level, over training."""
    right = (_column("z_max"), r"$\hat z_M$ [1]")
    _over_training(runs, path, (_column("maximum_error"), "maximum error [1]"), right)


def figure_12(runs: Runs, sweeps: Points, path: str) -> None:
    """Error by the smallest level, and the smallest level, over training."""
    right = (_column("z_min"), r"$\hat z_m$ [1]")
    _over_training(runs, path, (_column("minimum_error"), "minimum error [1]"), right)


def figure_13(runs: Runs, sweeps: Points, path: str) -> None:
    """Precision error, and the largest precision error (Eq. 13), over training."""
    right = (_column("maximum_precision_error"), "largest precision error [1]")
    _over_training(runs, path, (_column("precision_error"), "precision error [1]"), right)


def figure_16(runs: Runs, sweeps: Points, path: str) -> None:
    """Training and validation loss, without the terms of Eq. 9 in which the rows differ."""
    figure, axes = panels(2)
    for axis, prefix, label in ((axes[0], "", "training loss"), (axes[1], "val_", "validation loss")):
        for row, run in runs.items():
            history, config = run["history"], run["result"]["config"]
            epochs = [line["epoch"] + 1 for line in history]
            losses = [_without_regularisers(line, prefix, config) for line in history]
            axis.plot(epochs, losses, color=COLORS[row], label=CONFIGURATIONS[row])
        axis.set(xlabel="epoch", ylabel=f"{label} without TR and TB")
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7)
    save(figure, path)


def _without_regularisers(line: dict[str, float], prefix: str, config: dict[str, Any]) -> float:
    """The loss of an epoch without lambda_TR REG_TR and -lambda_TB P_TB, which are in it once kernels are trained."""
    loss = line[f"{prefix}loss"]
    if line["epoch"] < config.get("frozen_epochs", 0):
        return loss
    return loss - config["lambda_tr"] * line[f"{prefix}reg_tr"] + config["lambda_tb"] * line[f"{prefix}p_tb"]


FIGURES = {str(number): globals()[f"figure_{number}"] for number in (2, 3, 5, 7, 8, *range(10, 18))}


def define_flags() -> None:
    flags.DEFINE_string("runs", "experiments/results/table1_small", "Directory that experiments.table1 collected to.")
    flags.DEFINE_string("sweeps", "experiments/results/sweeps_small", "Directory that experiments.sweeps collected to.")
    flags.DEFINE_integer("seed", 0, "Seed of the runs that are drawn.")
    flags.DEFINE_list("figures", list(FIGURES), "Numbers of the paper's figures to draw.")
    flags.DEFINE_string("output", "experiments/results/figures", "Directory of the pictures.")
    flags.DEFINE_boolean("overwrite", False, "Replace figure_*.png that this command did not draw.")


def main(options: flags.FlagValues) -> None:
    runs, sweeps = read_runs(options.runs, CONFIGURATIONS, options.seed), read_points(options.sweeps)
    if not runs:
        raise FileNotFoundError(f"Expected runs of seed {options.seed}. Received: --runs={options.runs}")
    with command.usage_errors():
        command.check_names("figures", options.figures, FIGURES)
    paths = {number: os.path.join(options.output, f"figure_{number}.png") for number in options.figures}
    check_folder(options.output, "--output")
    if not options.overwrite:
        check_made(paths.values(), "Name another --output, or pass --overwrite.")
    os.makedirs(options.output, exist_ok=True)
    remove_leftovers(options.output, pattern_of(map(os.path.basename, paths.values())))
    for number, path in paths.items():
        draw = FIGURES[number]
        try:
            draw(runs, sweeps, path)
            print(f"figure {number}: {draw.__doc__}")
        except Missing as error:
            print(f"figure {number}: left out, without {error}")


if __name__ == "__main__":
    define_flags()
    command.run(main)
