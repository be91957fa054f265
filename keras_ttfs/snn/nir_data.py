"""Spike trains as NIR data, the event lists of the Neuromorphic Intermediate Representation, which other simulators read.

A layer is a node with one observable, `spikes`. An event is a neuron's flat index and the time of its spike, of the network's
global time.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_ttfs import checks, runtimes

SPIKES = "spikes"
NO_EVENT = -1


def nir() -> Any:
    """The package nir.

    Raises:
        ImportError: "Expected the package nir ... Received: none."
    """
    return runtimes.package("nir", "NIR data")


def graph_data(spike_times: Mapping[str, np.ndarray], phases: Mapping[str, Any], steps: int, dt: float) -> Any:
    """A nir.NIRGraphData of the spike times of layers.

    Args:
        spike_times: `{layer: integer array (samples, ...)}`, local to the layer's phase [steps].
        phases: `{layer: its Phase}`.
        steps: of the recording [steps].
        dt: float > 0: duration of a step [s].
    """
    dt = checks.number("dt", dt, above=0, unit="s")
    nodes = {name: _events(times, phases[name], steps, dt) for name, times in spike_times.items()}
    return nir().NIRGraphData(nodes={name: nir().NIRNodeData({SPIKES: events}) for name, events in nodes.items()})


def _events(times, phase, steps, dt):
    times = times.reshape(len(times), -1).astype("int64")
    fires = times < phase.time_window
    most = int(fires.sum(1).max(initial=0))
    # Spikes by time, the silent neurons behind them.
    order = np.argsort(times, axis=1, kind="stable")[:, :most]
    there = np.take_along_axis(fires, order, axis=1)
    at = (np.take_along_axis(times, order, axis=1) + phase.start) * dt
    return nir().EventData(
        idx=np.where(there, order, NO_EVENT),
        time=np.where(there, at, np.inf),
        n_neurons=times.shape[1],
        t_max=steps * dt,
    )


def spike_times(data: Any, layers: Mapping[str, tuple], steps: int, dt: float) -> dict[str, np.ndarray]:
    """The spike times that `graph_data` wrote: `{layer: integer array (samples, ...)}`, local to the layer's phase [steps].

    Args:
        data: a nir.NIRGraphData.
        layers: `{layer: (shape, Phase, dtype)}`.
        steps: of the recording [steps].
        dt: float > 0: duration of a step [s].

    Raises:
        ValueError: "Expected ... Received: ..." for data of other layers, of other neurons or of other times.
    """
    dt = checks.number("dt", dt, above=0, unit="s")
    found = getattr(data, "nodes", None)
    if not isinstance(found, dict) or found.keys() != layers.keys():
        raise ValueError(f"Expected NIR data of the layers {sorted(layers)}. Received: {sorted(found or [])}")
    times = {}
    for name, layer in layers.items():
        observables = getattr(found[name], "observables", {})
        if not isinstance(observables.get(SPIKES), nir().EventData):
            raise ValueError(
                f"Expected events {SPIKES!r} of layer {name!r}. Received: observables {sorted(observables)}"
            )
        times[name] = _times(name, observables[SPIKES], layer, steps, dt)
    samples = {name: len(found) for name, found in times.items()}
    if len(set(samples.values())) > 1:
        raise ValueError(f"Expected as many samples of every layer. Received: {samples}")
    return times


def _times(name, events, layer, steps_in_all, dt):
    shape, phase, dtype = layer
    neurons = int(np.prod(shape))
    idx = np.asarray(events.idx)
    if idx.ndim != 2 or idx.dtype.kind not in "iu" or np.shape(events.time) != idx.shape:
        raise ValueError(
            f"Expected idx (samples, events), integers, and time of its shape, of layer {name!r}. Received: {idx.dtype} of "
            f"shape {idx.shape}, and time of shape {np.shape(events.time)}"
        )
    if events.n_neurons != neurons:
        raise ValueError(f"Expected {neurons} neurons of layer {name!r}. Received: {events.n_neurons}")
    t_max = checks.number(f"t_max of layer {name!r}", events.t_max, above=0, unit="s")
    if abs(t_max - steps_in_all * dt) > 1e-6 * t_max:
        raise ValueError(
            f"Expected a recording of {steps_in_all} steps of {dt} s. Received: t_max={events.t_max} s of layer {name!r}"
        )
    samples, places = np.nonzero(events.idx != NO_EVENT)
    fired = events.idx[samples, places]
    pairs = np.stack([samples, fired], axis=1)
    if not ((fired >= 0) & (fired < neurons)).all() or len(np.unique(pairs, axis=0)) != len(pairs):
        raise ValueError(
            f"Expected one spike at most of each neuron 0..{neurons - 1} of layer {name!r}. Received: others"
        )
    steps = events.time[samples, places] / dt - phase.start
    local = np.rint(steps)
    if not ((local >= 0) & (local < phase.time_window) & (np.abs(steps - local) < 1e-3)).all():
        raise ValueError(
            f"Expected spikes of layer {name!r} at whole steps {phase.start}..{phase.end - 1} of {dt} s. "
            f"Received: times from {events.time[samples, places].min()} to {events.time[samples, places].max()} s"
        )
    times = np.full((len(events.idx), neurons), phase.time_window, dtype)
    times[samples, fired] = local
    return times.reshape(-1, *shape)
