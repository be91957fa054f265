"""Simulates the spiking network of a trained model: `python -m experiments.simulate --model=runs/digits/model.keras`."""

import dataclasses
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from absl import app, flags

from experiments.config import CHOICES


def simulate(model, images, labels, *, mode="event", dtype="float32", batch_size=100, check_images=100, verbose="auto"):
    """Runs a model's spiking network over images.

    Returns:
        `(result, network, total, histograms)`: a dict for JSON, the SpikingNetwork, the SimulationResult of all images
        (logits and spike times of the first batch only), and `{layer: spikes at each local step}`.
    """
    import keras
    import numpy as np

    import keras_ttfs
    from keras_ttfs.snn import SpikingNetwork, check_equivalence, plots
    from keras_ttfs.snn.network import shows_progress

    network = SpikingNetwork.from_model(model)
    bar = keras.utils.Progbar(len(images), unit_name="image") if shows_progress(verbose) else None
    results, histograms, correct = [], {}, 0
    for at in range(0, len(images), batch_size):
        x, y = images[at : at + batch_size], labels[at : at + batch_size]
        whole = network.run(x, mode=mode, dtype=dtype, batch_size=batch_size, verbose=0)
        correct += int((whole.logits.argmax(-1) == y).sum())
        for name, counts in plots.count_spike_times(whole).items():
            histograms[name] = histograms.get(name, 0) + counts
        # Spike times of the first batch are kept for the raster, of the others only their counts.
        results.append(whole if not results else dataclasses.replace(whole, spike_times={}))
        if bar:
            bar.add(len(x))
    total = dataclasses.replace(
        results[0],
        spike_counts={
            name: np.concatenate([part.spike_counts[name] for part in results]) for name in results[0].spike_counts
        },
        synaptic_operations=sum(part.synaptic_operations * len(part.logits) for part in results) / len(images),
    )
    energy = keras_ttfs.energy.report(network, total)
    result = {
        "mode": mode,
        "dtype": dtype,
        "test_images": len(images),
        "accuracy": correct / len(images),
        "neurons": network.neurons,
        "spikes": total.hidden_spikes,
        "input_spikes": sum(total.spikes[name] for name in total.input_layers),
        "spikes_per_neuron": total.hidden_spikes / network.neurons,
        "time_steps": total.time_steps,
        "decision_step": total.decision_step,
        "dense_operations": network.dense_operations,
        "energy": dataclasses.asdict(energy),
        "layers": [
            {"layer": name, "neurons": total.neurons[name], "spikes": spikes, "start": total.phases[name][0],
             "time_window": total.phases[name][1]}
            for name, spikes in total.spikes.items()
        ],
    }  # fmt: skip
    if check_images:
        check = check_equivalence(
            model, images[:check_images], modes=mode, dtype=dtype, batch_size=batch_size, verbose=verbose
        )
        result["equivalence"] = dataclasses.asdict(check) | {"mismatches": check.mismatches}
        print(check)
    return result, network, total, histograms


def draw(network, images, total, histograms, folder):
    """Writes the pictures of a simulation into `folder`."""
    from experiments.files import replaced
    from keras_ttfs.snn import plots

    def save(figure, name):
        with replaced(os.path.join(folder, name)) as temporary:
            figure.savefig(temporary, dpi=120)

    save(plots.spike_raster(total), "spike_raster.png")
    save(plots.spikes_per_neuron(total), "spikes_per_neuron.png")
    save(plots.spike_time_histogram(histograms, total.phases), "spike_times.png")
    layer = next((name for name in total.spike_times if name not in total.input_layers), None)
    if layer is not None:
        times, window = total.spike_times[layer][0].ravel(), total.phases[layer][1]
        # Two that fire, early and late, and one that stays silent.
        order = times.argsort(kind="stable")
        fired = order[times[order] < window]
        chosen = [int(place) for place in (*fired[: len(fired) : max(1, len(fired) // 2)][:2], order[-1])]
        traced = network.run(images[:1], mode="clock", record={layer: list(dict.fromkeys(chosen))}, verbose=0)
        save(plots.membrane_potentials(traced, layer), "membrane_potentials.png")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    import keras

    import keras_ttfs
    from experiments import data as data_module
    from experiments.files import write_json
    from experiments.train import provenance

    options = flags.FLAGS
    folder = options.output_dir or os.path.join(
        os.path.dirname(os.path.abspath(options.model)), f"simulation_{options.mode}"
    )
    path = os.path.join(folder, "simulation.json")
    try:
        if os.path.exists(path) and not options.overwrite:
            raise FileExistsError(f"Expected an output_dir without a simulation. Received: {path}. Pass --overwrite.")
        if not os.path.isfile(options.model):
            raise FileNotFoundError(f"Expected --model to be a .keras file. Received: {options.model}")
        model = keras.models.load_model(options.model, compile=False)
        data = data_module.load(options.dataset, options.data_dir)
        test = data.test()
        chosen = slice(options.images or None)
        images, labels = data_module.scale(test.images[chosen]).numpy(), test.labels[chosen]
        result, network, total, histograms = simulate(
            model,
            images,
            labels,
            mode=options.mode,
            dtype=options.dtype,
            batch_size=options.batch_size,
            check_images=options.check_images,
        )
        result = {"data": data.description, **result, **provenance()}
        os.makedirs(folder, exist_ok=True)
        draw(network, images, total, histograms, folder)
        write_json(path, result)
    except (OSError, ImportError, ValueError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(keras_ttfs.energy.report(network, total))
    print(
        f"\naccuracy {100 * result['accuracy']:.2f} % of {result['test_images']:,} images, {result['spikes']:,.0f} spikes "
        f"({100 * result['spikes_per_neuron']:.1f} % per neuron), decision at step {result['decision_step']} of "
        f"{result['time_steps']}\n\nFiles: {folder}"
    )
    wrong = result.get("equivalence", {}).get("mismatches", 0)
    if wrong:
        raise SystemExit(
            f"The spiking network fires other spikes than the model: {wrong:,} mismatches, see the table above."
        )


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "Trained model, a .keras file of keras_ttfs layers.")
    flags.DEFINE_enum("dataset", "digits", CHOICES["dataset"], "Data set; its test split is simulated.")
    flags.DEFINE_string("data_dir", None, "Directory of tensorflow-datasets; its own default if not given.")
    flags.DEFINE_enum(
        "mode", "event", ("event", "clock"), "event: each layer once; clock: one time step after the other."
    )
    flags.DEFINE_enum("dtype", "float32", ("float32", "float64"), "Precision of weights, potentials and thresholds.")
    flags.DEFINE_integer("images", 0, "Simulate only the first so many test images [images]; 0: all.", lower_bound=0)
    flags.DEFINE_integer("batch_size", 100, "Images simulated at a time [images].", lower_bound=1)
    flags.DEFINE_integer(
        "check_images", 100, "Compare every spike of the first so many images with the model's [images]; 0: none.",
        lower_bound=0,
    )  # fmt: skip
    flags.DEFINE_string(
        "output_dir", None, "Directory of result and pictures; by default simulation_MODE beside the model."
    )
    flags.DEFINE_boolean("overwrite", False, "Replace the simulation that output_dir holds.")
    flags.mark_flag_as_required("model")
    app.run(main)
