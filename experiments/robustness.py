"""What imperfect hardware leaves of a network: `python -m experiments.robustness --network=shipped=cifar10 --workdir=DIR`.

`--network=LABEL=MODEL` may be repeated: a .keras file, or the name of weights that come with fast_vgg. Every kind of
`keras_ttfs.noise` is simulated at every strength, with several seeds. Each point is a file in the workdir, and what is
finished is not simulated again. In the end the table and the picture are drawn from the files.
"""

import os
import statistics
from typing import Any

from absl import flags

from experiments import command
from experiments.files import write_json, write_text
from experiments.lock import locked
from experiments.noises import KINDS, noise_of
from experiments.plots import panels, save
from experiments.stored import read_any
from experiments.tables import markdown, with_deviation

NONE = "none"
TABLE, PICTURE = "robustness.md", "robustness.png"


def define_flags() -> None:
    command.define_shared_flags("workdir", "data_dir", "batch_size", dataset="cifar10", images=1000)
    flags.DEFINE_multi_string(
        "network", None, "LABEL=MODEL: a .keras file, or weights of fast_vgg; repeat it.", required=True
    )
    flags.DEFINE_list("kinds", list(KINDS), f"Which: {', '.join(KINDS)}.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the noise.")


def networks_of(options: flags.FlagValues) -> dict[str, str]:
    """`{label: model}` of --network."""
    found = dict(given.partition("=")[::2] for given in options.network)
    for given, (label, model) in zip(options.network, found.items()):
        if not label.replace("_", "").isalnum() or not model or len(found) != len(options.network):
            raise ValueError(f"Expected --network=LABEL=MODEL, with labels of letters. Received: {given!r}")
    return found


def points(kinds: list[str], seeds: list[int]) -> list[tuple[str, float, int]]:
    """`(kind, strength, seed)` of every simulation; one without noise is the first."""
    wanted = [(kind, strength, seed) for seed in seeds for kind in kinds for strength in KINDS[kind].strengths]
    # Few bits are no draw: another seed changes nothing.
    return [(NONE, 0.0, 0), *(point for point in wanted if point[0] != "bits" or point[2] == seeds[0])]


def main(options: flags.FlagValues) -> None:
    with command.usage_errors():
        command.check_names("kinds", options.kinds, KINDS)
        networks = networks_of(options)
        wanted = points(options.kinds, command.whole_numbers("seeds", options.seeds))
    with locked(options.workdir):
        found = {label: _simulated(label, model, wanted, options) for label, model in networks.items()}
        text = table(found)
        write_text(os.path.join(options.workdir, TABLE), text + "\n")
        draw(found, os.path.join(options.workdir, PICTURE))
    print(f"\n{text}\n\nFiles: {os.path.abspath(options.workdir)}")


def _simulated(label: str, path: str, wanted: list, options: flags.FlagValues) -> list[dict[str, Any]]:
    """The results of all points of a network."""
    from experiments import trained
    from experiments.provenance import provenance
    from keras_ttfs.snn import SpikingNetwork

    shown = trained.load(path, options.dataset, options.data_dir, options.images)
    network = SpikingNetwork.from_model(shown.model)
    settings = {"model": shown.name, "data": shown.data, "images": len(shown.images)}
    results = []
    for number, (kind, strength, seed) in enumerate(wanted, 1):
        file = os.path.join(options.workdir, f"{label}.{kind}={strength:g}.seed{seed}.json")
        if not os.path.exists(file):
            strengths = {} if kind == NONE else {kind: strength}
            how = {"noise": noise_of(strengths), "seed": seed, "batch_size": options.batch_size}
            found = network.run(shown.images, spike_times=False, verbose=0, **how)
            point = {"network": label, "kind": kind, "strength": strength, "seed": seed}
            scores = {"accuracy": float((found.predictions == shown.labels).mean()), "spikes": found.hidden_spikes}
            write_json(file, {**point, **scores, "settings": settings, **provenance()})
        result = read_any(file)
        if result["settings"] != settings:
            raise ValueError(
                f"Expected {file} of {settings}. Received: {result['settings']}. Choose another --workdir."
            )
        print(
            f"[{number}/{len(wanted)}] {label}, {kind} {strength:g}, seed {seed}: {result['accuracy']:.2%}", flush=True
        )
        results.append(result)
    return results


def _own(results: list[dict[str, Any]], kind: str, strength: float) -> list[dict[str, Any]]:
    """The results of a point, one for each seed."""
    return [result for result in results if (result["kind"], result["strength"]) == (kind, strength)]


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A line for each kind and strength: accuracy and spikes of every network, mean and deviation over the seeds."""
    heads = [f"{label}: {what}" for label in found for what in ("accuracy [%]", "spikes")]
    lines = [["noise", "strength", *heads, "seeds"]]
    there = {(r["kind"], r["strength"]) for results in found.values() for r in results}
    weak_to_strong = [(kind, strength) for kind, known in KINDS.items() for strength in known.strengths]
    for kind, strength in [point for point in [(NONE, 0.0), *weak_to_strong] if point in there]:
        cells, seeds = [], 0
        for results in found.values():
            own = _own(results, kind, strength)
            accuracies, spikes = ([r[name] for r in own] for name in ("accuracy", "spikes"))
            cells += [with_deviation([100 * value for value in accuracies], 2), with_deviation(spikes, 0)]
            seeds = max(seeds, len(own))
        named = [KINDS[kind].strength, f"{strength:g}"] if kind in KINDS else [kind, "-"]
        lines.append([*named, *cells, str(seeds)])
    return markdown(lines)


def draw(found: dict[str, list[dict[str, Any]]], path: str) -> None:
    """Accuracy over strength, a panel for each kind, a line for each network."""
    kinds = [kind for kind in KINDS if any(r["kind"] == kind for results in found.values() for r in results)]
    figure, axes = panels(len(kinds), sharey=True, width=2.6, height=3.0, squeeze=False)
    for axis, kind in zip(axes[0], kinds):
        for label, results in found.items():
            curve = {strength: _own(results, kind, strength) for strength in KINDS[kind].strengths}
            spread = {at: [100 * result["accuracy"] for result in own] for at, own in curve.items() if own}
            means = [statistics.mean(values) for values in spread.values()]
            errors = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in spread.values()]
            axis.errorbar(list(spread), means, errors, fmt="o-", ms=3, capsize=2, label=label)
        axis.set(xlabel=KINDS[kind].strength)
        axis.grid(alpha=0.3)
        if kind == "bits":
            axis.invert_xaxis()
    axes[0][0].set(ylabel="accuracy [%]")
    axes[0][0].legend(fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    define_flags()
    command.run(main)
