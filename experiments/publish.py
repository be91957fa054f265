"""Puts the weights of a run into the package: `python -m experiments.publish --model=runs/x/model.keras --weights=cifar10`.

The file is keras_ttfs/weights/{network}_{weights}.npz, with kernels as float16. What is published is what the file scores: it
is loaded as users load it, and simulated on the whole test split. The run's result.json beside the model names the network's
arguments and the data set.
"""

import inspect
import os
from typing import Any

from absl import flags

from experiments import command
from experiments.files import replaced, write_json
from experiments.stored import read_result

# The arguments of a network that decide its weights or what they compute, and tau_0, to which further training pulls.
DECIDING = (
    "input_shape",
    "classes",
    "width",
    "time_window",
    "rounding",
    "input_coding",
    "activation",
    "pooling",
    "tau_0",
    "steps_per_octave",
)


def define_flags() -> None:
    command.define_shared_flags("model", "data_dir", "batch_size", "overwrite")
    flags.DEFINE_string("weights", None, "Name of the weights, as in fast_vgg(weights=...).")
    flags.DEFINE_string("output", None, "JSON file for what the published weights score.")
    flags.DEFINE_integer(
        "check_images", 200, "Compare every spike of so many images in float64 [images].", lower_bound=1
    )
    flags.mark_flags_as_required(["weights", "output"])


def main(options: flags.FlagValues) -> None:
    from keras_ttfs import applications, pretrained

    command.existing_model(options.model)
    run = read_result(command.beside_model(options.model, "result.json"), "Publish the model of a finished run.")
    network = run["config"]["model"]
    if "weights" not in inspect.signature(getattr(applications, network)).parameters:
        raise ValueError(f"Expected the run of a network with an argument weights. Received: {network}")
    path = pretrained.FOLDER / f"{network}_{options.weights}.npz"
    for made in (str(path), options.output):
        if os.path.lexists(made) and not options.overwrite:
            raise FileExistsError(f"Expected a file that is not there yet. Received: {made}. Pass --overwrite.")
    result = publish(options, run, network, path)
    write_json(options.output, result)
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, {100 * result['accuracy']:.2f} % of {result['test_images']:,} images, "
        f"{result['spikes']:,.0f} spikes, {result['equivalence']['mismatches']} other spikes than the model's"
    )


def publish(options: flags.FlagValues, run: dict[str, Any], network: str, path: Any) -> dict[str, Any]:
    """Writes the file of weights with its scores, and returns them with all that a result file tells."""
    from experiments import data as data_module
    from experiments import saved_model, simulate, train
    from experiments.provenance import provenance
    from keras_ttfs import applications, pretrained
    from keras_ttfs.snn import SpikingNetwork

    origin = provenance()
    trained = saved_model.load(options.model)
    data = data_module.load(run["config"]["dataset"], options.data_dir)
    function = getattr(applications, network)
    defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    given = {**defaults, **run["config"], "input_shape": trained.input_shape[1:], "classes": data.classes}
    arguments = {name: given[name] for name in DECIDING if name in defaults}
    model = function(**arguments)
    with replaced(str(path)) as temporary:
        pretrained.save(trained, temporary, arguments, {})
        pretrained.read_into(model, temporary)
        test = data.test()
        images = data_module.scale(test.images).numpy()
        spiking = SpikingNetwork.from_model(model)
        how = {"mode": "event", "dtype": "float32"}
        total, _, accuracy = simulate.simulate(spiking, images, test.labels, batch_size=options.batch_size, **how)
        result = {"data": data.description, "test_images": len(test), "accuracy": accuracy, **how}
        result |= simulate.summary(spiking, total, run["config"]["dataset"])
        with train.dtype_policy("float64"):
            exact = function(**arguments)
            exact.set_weights(model.get_weights())
            checked = images[: options.check_images]
            result["equivalence"] = simulate.check(exact, checked, "event", "float64", options.batch_size)
        scores = {name: result[name] for name in ("data", "accuracy", "spikes", "time_steps", "neurons")}
        pretrained.save(trained, temporary, arguments, scores)
    return {**result, "training": run, "weights": path.name, **origin}


if __name__ == "__main__":
    define_flags()
    command.run(main)
