"""Pictures of a simulation; each function returns a matplotlib Figure: `spike_raster(result).savefig("raster.png")`.

matplotlib is an extra, which is imported when a picture is drawn.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_ttfs import checks

if TYPE_CHECKING:
    import matplotlib.figure


def _figure(width=7.0, height=4.2, rows=1, **kwargs):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Pictures need matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, **kwargs)


def _label(name):
    return name.removesuffix("_activation")


def _check_result(result, attribute):
    if not hasattr(result, attribute):
        raise ValueError(f"Expected a SimulationResult. Received: {type(result).__name__}")


def _check_spike_times(result):
    _check_result(result, "spike_times")
    if not result.spike_times:
        raise ValueError("Expected a result with spike times. Received: one of run(spike_times=False)")


def _check_sample(result, sample):
    checks.integer("sample", sample, least=0)
    if sample >= len(result.logits):
        raise ValueError(f"Expected sample < {len(result.logits)}, the number of samples. Received: sample={sample}")


def spike_raster(result: Any, sample: int = 0, neurons_per_layer: int = 60) -> "matplotlib.figure.Figure":
    """Spikes of one sample over global time, layer by layer. Each layer's fire phase is shaded (Fig. 9).

    Args:
        result: SimulationResult with spike times, or CodedResult of `run(record=...)`, whose recorded neurons are drawn.
        sample: int >= 0: index of the sample.
        neurons_per_layer: int >= 1: how many neurons of a layer to draw, evenly spaced.

    Returns:
        A matplotlib Figure.

    Raises:
        ValueError: "Expected ... Received: ..." for a result without spike times and for an argument out of its range.
    """
    coded = hasattr(result, "spike_trains")
    if coded and not result.spike_trains:
        raise ValueError("Expected a result with spike trains. Received: one of run(record=None)")
    if not coded:
        _check_spike_times(result)
    checks.integer("neurons_per_layer", neurons_per_layer)
    _check_sample(result, sample)
    names = list(result.spike_trains if coded else result.spike_times)
    figure, axis = _figure(8.0, 1.0 + 0.42 * len(names))
    for row, name in enumerate(names):
        if not coded:
            start, window = result.phases[name]
            axis.fill_between([start, start + window], row - 0.45, row + 0.45, color="0.92", lw=0)
        neurons, steps, drawn = _spikes_of(result, name, sample, neurons_per_layer, coded)
        axis.plot(steps, row - 0.4 + 0.8 * neurons / max(1, drawn - 1), ".", ms=2.5, color=f"C{row % 10}")
    axis.axvline(result.decision_step, color="k", ls="--", lw=1)
    axis.text(result.decision_step, -0.5, "decision ", ha="right", va="top", fontsize=8)
    axis.set_yticks(range(len(names)), [_label(name) for name in names], fontsize=8)
    axis.set(xlabel="global time [steps]", xlim=(0, result.time_steps), ylim=(len(names) - 0.4, -0.6))
    return figure


def _spikes_of(result, name, sample, most, coded):
    """`(which of the drawn neurons, global step of each of its spikes, how many neurons are drawn)` of a layer."""
    spikes = result.spike_trains[name][sample] if coded else result.spike_times[name][sample].ravel().astype(int)
    chosen = np.unique(np.linspace(0, len(spikes) - 1, most).astype(int))
    if coded:
        neurons, steps = np.nonzero(spikes[chosen])
        return neurons, steps, len(chosen)
    start, window = result.phases[name]
    (neurons,) = np.nonzero(spikes[chosen] < window)
    return neurons, start + spikes[chosen][neurons], len(chosen)


def membrane_potentials(result: Any, layer: str, sample: int = 0) -> "matplotlib.figure.Figure":
    """Recorded membrane potentials of a layer over global time, until they are reset, and their threshold.

    A dot marks where a membrane reaches the threshold. A cross marks where it is silenced, because another membrane of
    its winner-take-all window has reached the threshold.

    Args:
        result: SimulationResult of `run(mode="clock", record={layer: membranes})`.
        layer: str: name of a recorded layer.
        sample: int >= 0: index of the sample.

    Returns:
        A matplotlib Figure.

    Raises:
        ValueError: "Expected a recorded layer among ... Received: ...".
    """
    if not isinstance(layer, str) or layer not in getattr(result, "membranes", ()):
        _check_result(result, "membranes")
        raise ValueError(f"Expected a recorded layer among {tuple(result.membranes)}. Received: layer={layer!r}")
    _check_sample(result, sample)
    figure, axis = _figure()
    potentials = result.membranes[layer][sample]
    last = result.decision_step
    if layer in result.phases:
        start, window = result.phases[layer]
        last = start + window
        axis.step(start + np.arange(window), result.thresholds[layer], "k--", where="mid", label="threshold")
        axis.axvspan(start - 0.5, last - 0.5, color="0.93", label="fire phase")
    unit = "membrane" if _has_windows(result, layer) else "neuron"
    for index, (place, potential) in enumerate(zip(result.recorded[layer], potentials)):
        color, end = f"C{index % 10}", last
        fired, silenced = _ends(result, layer, sample, index, potential)
        for step in fired:
            axis.plot(step, potential[step], "o", color=color)
        if silenced is not None:
            end = silenced + 1
            if silenced not in fired:
                axis.plot(silenced, potential[silenced], "x", color=color)
        axis.step(np.arange(end), potential[:end], where="mid", color=color, label=f"{unit} {place}")
    changes = np.flatnonzero((potentials != potentials[:, :1]).any(0))
    first = max(0, (changes[0] if len(changes) else 0) - 5)
    axis.set(xlabel="global time [steps]", ylabel="membrane potential", title=_label(layer), xlim=(first, last))
    axis.legend(fontsize=8)
    return figure


def _has_windows(result, layer):
    return layer in result.phases and result.neurons[layer] != result.membrane_counts[layer]


def _ends(result, layer, sample, index, potential):
    """`(global steps at which a recorded membrane fired, the one at which it was reset or None)`."""
    if layer not in result.phases or not result.spike_times:
        return [], None
    start, window = result.phases[layer]
    times = result.spike_times[layer][sample].ravel()[result.heard_by[layer][index]]
    heard = sorted({int(time) for time in times if time < window})
    fired = [start + time for time in heard if potential[start + time] >= result.thresholds[layer][time]]
    silenced = start + heard[-1] if len(times) and (times < window).all() else None
    return fired, silenced


def spikes_per_neuron(result: Any) -> "matplotlib.figure.Figure":
    """Mean spikes per neuron of each layer, as bars. At 1, every neuron fires for every sample.

    Args:
        result: SimulationResult.

    Returns:
        A matplotlib Figure.

    Raises:
        ValueError: "Expected a SimulationResult. Received: ...".
    """
    _check_result(result, "spike_counts")
    figure, axis = _figure()
    names = list(result.spike_counts)
    axis.bar([_label(name) for name in names], [result.spikes[name] / result.neurons[name] for name in names])
    axis.set(ylabel="spikes per neuron", ylim=(0, 1))
    axis.tick_params(axis="x", rotation=60)
    axis.grid(axis="y", alpha=0.3)
    return figure


def spike_time_histogram(
    histograms: Mapping[str, np.ndarray], phases: Mapping[str, tuple[int, int]]
) -> "matplotlib.figure.Figure":
    """Share of a layer's spikes at each step of its window.

    Args:
        histograms: `{layer: counts (time_window,)}`, as `SimulationResult.count_spike_times` gives.
        phases: `{layer: (start, time_window)}`, as `SimulationResult.phases` [steps].

    Returns:
        A matplotlib Figure.

    Raises:
        ValueError: "Expected histograms ... Received: ..." for none, or for a layer without a phase of that length.
    """
    if not isinstance(histograms, Mapping) or not histograms:
        raise ValueError(f"Expected histograms of one layer at least. Received: histograms={histograms!r:.60}")
    for name, counts in histograms.items():
        if name not in phases or len(np.shape(counts)) != 1 or len(counts) != phases[name][1]:
            raise ValueError(
                f"Expected histograms of layers among {tuple(phases)}, with a count for each step of their phase. "
                f"Received: {name!r} with counts of shape {np.shape(counts)}"
            )
    figure, axes = _figure(8.0, 0.8 + 0.62 * len(histograms), rows=len(histograms), sharex=True, squeeze=False)
    for axis, (name, counts) in zip(axes[:, 0], histograms.items()):
        axis.bar(np.arange(phases[name][1]), counts / max(1, counts.sum()), width=0.9)
        axis.set_ylabel(_label(name), rotation=0, ha="right", va="center", fontsize=8)
        axis.set_yticks([])
    axes[-1, 0].set_xlabel("local spike time [steps]: share of the layer's spikes")
    return figure
