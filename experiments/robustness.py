"""What imperfect hardware leaves of a network: `python -m experiments.robustness --network=shipped=cifar10 --workdir=DIR`.

`--network=LABEL=MODEL` may be repeated: a .keras file, or the name of weights that come with fast_vgg. Every kind of
`keras_ttfs.noise` is simulated at every strength, with several seeds. Each point is a file in the workdir, and what is
finished is not simulated again. In the end the table and the picture are drawn from the files.
"""

import functools
import os
import statistics
import time
from typing import Any

from absl import flags

from experiments import command
from experiments.files import write_text
from experiments.lock import locked
from experiments.noises import KINDS, noise_of
from experiments.plots import panels, save
from experiments.runs import Job, run_jobs
from experiments.stored import NOISY, read_any
from experiments.tables import NO_NOISE, Result, noisy_results, robustness_table
from experiments.workdir import check_made, pattern_of, remove_leftovers

TABLE, PICTURE = "robustness.md", "robustness.png"
# Panels beside each other in the picture.
COLUMNS = 4


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
    return [(NO_NOISE, 0.0, 0), *(point for point in wanted if point[0] != "bits" or point[2] == seeds[0])]


def jobs(networks: dict[str, str], wanted: list[tuple[str, float, int]], options: flags.FlagValues) -> list[Job]:
    """A job for each network and point."""
    from experiments import trained
    from experiments.provenance import provenance
    from keras_ttfs.snn import SpikingNetwork

    found, begun_with = [], provenance()
    for label, path in networks.items():
        shown = trained.load(path, options.dataset, options.data_dir, options.images)
        network = SpikingNetwork.from_model(shown.model)
        settings = {"model": shown.name, "data": shown.data, "images": len(shown.images)}
        for point in wanted:
            kind, strength, seed = point
            name = f"{label}.{kind}={strength:g}.seed{seed}"
            file = os.path.join(options.workdir, f"{name}.json")
            make = functools.partial(simulated, label, network, shown, point, options.batch_size, settings, begun_with)
            found.append(Job(name, file, make, settings, read=lambda path: read_any(path, NOISY)))
    return found


def simulated(
    label: str,
    network: Any,
    shown: Any,
    point: tuple[str, float, int],
    batch_size: int,
    settings: Result,
    origin: Result,
    results: Any,
) -> Result:
    """Accuracy and spikes of a network under a kind of noise."""
    kind, strength, seed = point
    noise = noise_of({} if kind == NO_NOISE else {kind: strength})
    begun = time.monotonic()
    how = {"noise": noise, "seed": seed, "batch_size": batch_size}
    found = network.run(shown.images, spike_times=False, verbose=0, **how)
    accuracy = float((found.predictions == shown.labels).mean())
    print(f"{accuracy:.2%}, {found.hidden_spikes:,.0f} spikes", flush=True)
    named = {"network": label, "kind": kind, "strength": strength, "seed": seed}
    scores = {"accuracy": accuracy, "spikes": found.hidden_spikes, "seconds": round(time.monotonic() - begun, 1)}
    return {**named, **scores, "settings": settings, **origin}


def draw(found: dict[str, list[Result]], path: str) -> None:
    """A panel for each kind, accuracy over its strength, dotted without noise; in the last one accuracy over spikes."""
    kinds = [kind for kind in KINDS if any(r["kind"] == kind for results in found.values() for r in results)]
    count = len(kinds) + 1
    shape = min(COLUMNS, count), -(-count // COLUMNS)
    figure, axes = panels(*shape, sharey=True, width=3.4, height=2.8, squeeze=False)
    used, unused = axes.flat[:count], axes.flat[count:]
    *over_strength, over_spikes = used
    for axis, kind in zip(over_strength, kinds):
        for label, results in found.items():
            curve = {strength: noisy_results(results, kind, strength) for strength in KINDS[kind].strengths}
            spread = {at: [100 * result["accuracy"] for result in own] for at, own in curve.items() if own}
            means = [statistics.mean(values) for values in spread.values()]
            errors = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in spread.values()]
            (line, *_) = axis.errorbar(list(spread), means, errors, fmt="o-", ms=3, capsize=2, label=label)
            for exact in noisy_results(results, NO_NOISE, 0.0):
                axis.axhline(100 * exact["accuracy"], color=line.get_color(), ls=":", lw=1)
        axis.set(xlabel=KINDS[kind].strength)
        if kind == "bits":
            axis.invert_xaxis()
    for label, results in found.items():
        numbers = [[result["spikes"] for result in results], [100 * result["accuracy"] for result in results]]
        over_spikes.plot(*numbers, "o", ms=3, alpha=0.6, label=label)
    over_spikes.set(xlabel="spikes per image, all of these points")
    over_spikes.legend(fontsize=8)
    for axis in used:
        axis.grid(alpha=0.3)
    for axis in unused:
        axis.remove()
    for row in axes:
        row[0].set(ylabel="accuracy [%]")
    save(figure, path)


def main(options: flags.FlagValues) -> None:
    with command.usage_errors():
        command.check_names("kinds", options.kinds, KINDS)
        networks = networks_of(options)
        wanted = points(options.kinds, command.whole_numbers("seeds", options.seeds))
    table, picture = (os.path.join(options.workdir, name) for name in (TABLE, PICTURE))
    with locked(options.workdir):
        asked = jobs(networks, wanted, options)
        check_made([table, picture])
        remove_leftovers(options.workdir, pattern_of([TABLE, PICTURE]))
        results, _ = run_jobs(asked, options.workdir)
        found = {label: [r for r in results.values() if r["network"] == label] for label in networks}
        text = robustness_table(found)
        write_text(table, text + "\n")
        draw(found, picture)
    print(f"\n{text}\n\nFiles: {os.path.abspath(options.workdir)}")


if __name__ == "__main__":
    define_flags()
    command.run(main)
