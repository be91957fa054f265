"""Simulates the spiking network of a trained model: `python -m experiments.simulate --model=runs/digits/model.keras`."""

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import command, paper
from experiments.files import write_json
from experiments.lock import locked
from experiments.stored import SIMULATION, read_any
from experiments.workdir import (
    SIMULATION_FILES,
    check_removable,
    made_here,
    pattern_of,
    remove,
    remove_leftovers,
)

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_ttfs.energy import EnergyReport
    from keras_ttfs.snn import SimulationResult, SpikingNetwork

# All that may be in an output_dir whose simulation is replaced.
OURS_IN_OUTPUT = {"": pattern_of(SIMULATION_FILES)}
Histograms = dict[str, "np.ndarray"]


def define_flags() -> None:
    command.define_shared_flags("model", "dataset", "data_dir", "images", "batch_size", "overwrite")
    flags.DEFINE_enum(
        "mode", "event", ("event", "clock"), "event: each layer once; clock: one time step after the other."
    )
    flags.DEFINE_enum("dtype", "float32", ("float32", "float64"), "Precision of weights, potentials and thresholds.")
    flags.DEFINE_integer(
        "check_images",
        100,
        "Compare every spike of the first so many images with the model's [images]; 0: none.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "output_dir", None, "Directory of result and pictures; by default simulation_MODE beside the model."
    )


def simulate(
    network: "SpikingNetwork", images: "np.ndarray", labels: "np.ndarray", *, mode: str, dtype: str, batch_size: int
) -> tuple["SimulationResult", Histograms, float]:
    """Runs a spiking network over images.

    Returns:
        `(total, histograms, accuracy)`: the SimulationResult of all images, with logits and spike times of the first batch
        only, and `{layer: spikes at each local step}`.
    """
    import numpy as np

    from keras_ttfs.snn.network import progress_bar

    bar = progress_bar(len(images), "image", "auto")
    parts, histograms, correct = [], {}, 0
    for at in range(0, len(images), batch_size):
        x, y = images[at : at + batch_size], labels[at : at + batch_size]
        part = network.run(x, mode=mode, dtype=dtype, batch_size=batch_size, verbose=0)
        correct += int((part.predictions == y).sum())
        for name, counts in part.count_spike_times().items():
            histograms[name] = histograms.get(name, 0) + counts
        # The raster needs spike times of the first batch; all of them would fill the memory.
        parts.append(part if not parts else dataclasses.replace(part, spike_times={}))
        if bar:
            bar.add(len(x))
    total = dataclasses.replace(
        parts[0],
        spike_counts={
            name: np.concatenate([part.spike_counts[name] for part in parts]) for name in parts[0].spike_counts
        },
        synaptic_operations=sum(part.synaptic_operations * len(part.logits) for part in parts) / len(images),
    )
    return total, histograms, correct / len(images)


def energy_report(network: "SpikingNetwork", total: "SimulationResult", dataset: str) -> "EnergyReport":
    """The energy of a simulation, normalised to TSC on the paper's data set."""
    from keras_ttfs import energy

    return energy.report(network, total, paper.ENERGY_REFERENCES[dataset])


def summary(network: "SpikingNetwork", total: "SimulationResult", dataset: str) -> dict[str, Any]:
    """Spikes, time, operations and energy of a simulation, for JSON."""

    return {
        "neurons": network.neurons,
        "membranes": network.membranes,
        "spikes": total.hidden_spikes,
        "input_spikes": sum(total.spikes[name] for name in total.input_encoders),
        "spikes_per_neuron": total.hidden_spikes / network.neurons,
        "time_steps": total.time_steps,
        "decision_step": total.decision_step,
        "dense_operations": network.dense_operations,
        "energy": dataclasses.asdict(energy_report(network, total, dataset)),
        "layers": [
            {
                "layer": name,
                "neurons": total.neurons[name],
                "membranes": total.membrane_counts[name],
                "spikes": spikes,
                "start": total.phases[name][0],
                "time_window": total.phases[name][1],
            }
            for name, spikes in total.spikes.items()
        ],
    }


def check(model: "keras.Model", images: "np.ndarray", mode: str, dtype: str, batch_size: int) -> dict[str, Any]:
    """Compares every spike with the model's, prints the comparison and returns it for JSON."""
    from keras_ttfs.snn import check_equivalence

    found = check_equivalence(model, images, modes=mode, dtype=dtype, batch_size=batch_size, verbose="auto")
    print(found)
    return dataclasses.asdict(found) | {"mismatches": found.mismatches}


def draw(
    network: "SpikingNetwork", images: "np.ndarray", total: "SimulationResult", histograms: Histograms, folder: str
) -> None:
    """Writes the pictures of a simulation into `folder`."""
    from experiments.plots import save
    from keras_ttfs.snn import plots

    save(plots.spike_raster(total), os.path.join(folder, "spike_raster.png"))
    save(plots.spikes_per_neuron(total), os.path.join(folder, "spikes_per_neuron.png"))
    save(plots.spike_time_histogram(histograms, total.phases), os.path.join(folder, "spike_times.png"))
    layer = next((name for name in total.spike_times if name not in total.input_encoders), None)
    if layer is None:
        return
    times, window = total.spike_times[layer][0].ravel(), total.phases[layer][1]
    # Two that fire, early and late, and one that stays silent.
    order = times.argsort(kind="stable")
    fired = order[times[order] < window]
    chosen = [int(place) for place in (*fired[: len(fired) : max(1, len(fired) // 2)][:2], order[-1])]
    membranes = [place for neuron in chosen for place in network.membranes_of(layer, neuron)]
    traced = network.run(images[:1], mode="clock", record={layer: list(dict.fromkeys(membranes))}, verbose=0)
    save(plots.membrane_potentials(traced, layer), os.path.join(folder, "membrane_potentials.png"))


def check_output(folder: str, overwrite: bool) -> None:
    """Raises where the files of a simulation cannot be written to `folder`; with `overwrite`, where others are there."""
    there = [name for name in SIMULATION_FILES if os.path.lexists(os.path.join(folder, name))]
    path = os.path.join(folder, "simulation.json")
    if not overwrite:
        # Pictures that a killed simulation of ours left are replaced.
        if there := [name for name in there if not (name.endswith(".png") and made_here(os.path.join(folder, name)))]:
            received = path if os.path.lexists(path) else os.path.join(folder, there[0])
            raise FileExistsError(
                f"Expected an output_dir without a simulation. Received: {received}. Pass --overwrite."
            )
        return
    if there:
        check_removable(folder, OURS_IN_OUTPUT, "--output_dir")
    if os.path.lexists(path):
        read_any(
            path,
            SIMULATION,
            remedy="It tells whose directory this is: remove it yourself, or name another --output_dir.",
        )


def main(options: flags.FlagValues) -> None:
    command.existing_model(options.model)
    folder = options.output_dir or command.beside_model(options.model, f"simulation_{options.mode}")
    with locked(folder, "--output_dir"):
        check_output(folder, options.overwrite)
        run(options, folder)


def run(options: flags.FlagValues, folder: str) -> None:
    """Simulates, and writes result and pictures into `folder`, in place of those that are there."""
    import keras_ttfs
    from experiments import data as data_module
    from experiments import saved_model
    from experiments.provenance import provenance

    origin = provenance()
    model = saved_model.load(options.model)
    data = data_module.load(options.dataset, options.data_dir)
    test = data.test().first(options.images)
    images = data_module.scale(test.images).numpy()
    how = {"mode": options.mode, "dtype": options.dtype}
    network = keras_ttfs.snn.SpikingNetwork.from_model(model)
    total, histograms, accuracy = simulate(network, images, test.labels, batch_size=options.batch_size, **how)
    result = {
        "data": data.description,
        **how,
        "test_images": len(test),
        "accuracy": accuracy,
        **summary(network, total, options.dataset),
    }
    if options.check_images:
        result["equivalence"] = check(model, images[: options.check_images], batch_size=options.batch_size, **how)
    if options.overwrite and any(os.path.lexists(os.path.join(folder, name)) for name in SIMULATION_FILES):
        remove(folder, OURS_IN_OUTPUT, "--output_dir")
    remove_leftovers(folder, pattern_of(SIMULATION_FILES))
    draw(network, images, total, histograms, folder)
    write_json(os.path.join(folder, "simulation.json"), {**result, **origin}, sealed=True)
    print(energy_report(network, total, options.dataset))
    print(
        f"\naccuracy {100 * result['accuracy']:.2f} % of {result['test_images']:,} images, {result['spikes']:,.0f} spikes "
        f"({100 * result['spikes_per_neuron']:.1f} % per neuron), decision at step {result['decision_step']} of "
        f"{result['time_steps']}\n\nFiles: {folder}"
    )
    if wrong := result.get("equivalence", {}).get("mismatches", 0):
        raise SystemExit(
            f"The spiking network fires other spikes than the model: {wrong:,} mismatches, see the table above."
        )


if __name__ == "__main__":
    define_flags()
    command.run(main)
