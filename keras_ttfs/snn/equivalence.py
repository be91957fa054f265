"""Does the spiking network fire the very spikes that its trained model promises? Neuron by neuron.

`print(check_equivalence(model, x[:100]))` prints a table, layer by layer. With `strict=True` it raises EquivalenceError
if spikes differ.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_ttfs import checks
from keras_ttfs.snn import copies
from keras_ttfs.snn.graph import Graph, Surrogate
from keras_ttfs.snn.network import MODES, SpikingNetwork, batches_of, progress_bar
from keras_ttfs.snn.nodes import Node
from keras_ttfs.snn.reader import spiking_calls
from keras_ttfs.snn.results import SimulationResult
from keras_ttfs.snn.samples import inputs

# What `strict` allows in float32, as a share of the spikes and as a distance from the threshold. In float64 nothing.
FLOAT32_SHARE = 1e-5
FLOAT32_ULP = 4
# How far `predict` may be from the graph of layers in the same precision, as a share of the largest output: rounding, and a
# spike that it moves. Half precision rounds more.
PREDICT_TOLERANCE = {"float64": 1e-9, "float32": 1e-3}
HALF_PRECISION_TOLERANCE = 0.05


class EquivalenceError(AssertionError):
    """The spiking network fires other spikes than the model promises."""


@dataclasses.dataclass
class LayerEquivalence:
    """Spikes of one layer in one mode compared with the model's, all samples together.

    Attributes:
        layer: name of the activation layer.
        mode: `"event"` or `"clock"`.
        neurons: neurons of the layer.
        spikes: spikes of the surrogate, over all samples.
        mismatches: spike times that differ, over neurons and samples.
        inherited: mismatches in samples where an earlier layer already differed.
        ulp: for the mismatches that are not inherited, the largest distance of a pre-activation from the threshold
            between the two spike times, in units in the last place of that threshold.
    """

    layer: str
    mode: str
    neurons: int
    spikes: int = 0
    mismatches: int = 0
    inherited: int = 0
    ulp: float = 0.0


@dataclasses.dataclass
class EquivalenceReport:
    """Outcome of `check_equivalence`; prints as a table.

    Attributes:
        layers: list of LayerEquivalence, one for each layer and mode.
        samples: number of inputs compared.
        dtype: of network and surrogate.
        logit_difference: `{mode: largest difference of a logit}` [1].
        changed_predictions: `{mode: number of samples whose largest logit is another}`.
        model_dtype: dtype policy of the model that was given.
        model_changed_predictions: number of samples where the model as given predicts another class than its copy in
            `dtype`.
        model_disagreements: number of samples where `predict` of the model as given returns something else than its
            graph of layers gives in the same precision, beyond rounding.
        model_difference: largest difference between the two [1].
    """

    layers: list[LayerEquivalence]
    samples: int
    dtype: str
    logit_difference: dict[str, float]
    changed_predictions: dict[str, int]
    model_dtype: str
    model_changed_predictions: int
    model_disagreements: int = 0
    model_difference: float = 0.0

    @property
    def mismatches(self) -> int:
        """Spike times that differ, over all layers and modes."""
        return sum(row.mismatches for row in self.layers)

    @property
    def equivalent(self) -> bool:
        """Whether not one spike time differs, and `predict` returns what the graph of layers gives."""
        return self.mismatches == 0 and self.model_disagreements == 0

    def check(self) -> None:
        """Raises EquivalenceError if too many spikes differ: in float64 any, in float32 more than 1e-5 in a mode.

        In float32 also if a mismatch that is not inherited lies more than 4 ulp from its threshold. In any precision if
        `predict` returns something else than the graph of layers.

        Raises:
            EquivalenceError: "Expected the spikes of the model. Received: ... mismatches in mode ...", or "Expected predict
                to return what the graph of layers gives. Received: ...".
        """
        if self.model_disagreements:
            raise EquivalenceError(
                f"Expected predict to return what the graph of layers gives. Received: {self.model_disagreements} "
                f"samples that differ by up to {self.model_difference:.3g}\n{self}"
            )
        for mode in self.logit_difference:
            rows = [row for row in self.layers if row.mode == mode]
            mismatches, spikes = sum(row.mismatches for row in rows), sum(row.spikes for row in rows)
            allowed = FLOAT32_SHARE * spikes if self.dtype == "float32" else 0
            if mismatches > allowed or max(row.ulp for row in rows) > FLOAT32_ULP:
                raise EquivalenceError(
                    f"Expected the spikes of the model. Received: {mismatches} mismatches in mode {mode!r}\n{self}"
                )

    def __str__(self) -> str:
        head = (
            f"{'mode':<6} {'layer':<28} {'neurons':>9} {'spikes':>12} {'mismatches':>11} {'inherited':>10} {'ulp':>9}"
        )
        lines = [f"{self.samples} samples in {self.dtype}", head]
        for row in self.layers:
            lines.append(
                f"{row.mode:<6} {row.layer:<28} {row.neurons:>9,} {row.spikes:>12,} {row.mismatches:>11,} "
                f"{row.inherited:>10,} {row.ulp:>9.3g}"
            )
        for mode, difference in self.logit_difference.items():
            changed = self.changed_predictions[mode]
            lines.append(f"{mode}: largest logit difference {difference:.3g}, changed predictions {changed}")
        lines.append(
            f"The model as given ({self.model_dtype}) and in {self.dtype}: "
            f"changed predictions {self.model_changed_predictions}"
        )
        lines.append(
            f"predict and the graph of layers in the model's own precision: largest difference "
            f"{self.model_difference:.3g}, samples that disagree {self.model_disagreements}"
        )
        return "\n".join(lines)


def check_equivalence(
    model: keras.Model,
    x: Any,
    *,
    modes: str | Iterable[str] = MODES,
    dtype: str = "float64",
    batch_size: int = 100,
    strict: bool = False,
    network: SpikingNetwork | None = None,
    verbose: Any = "auto",
) -> EquivalenceReport:
    """Compares the spikes of a model's spiking network with those of the model itself, neuron by neuron.

    The surrogate is the model, rebuilt in `dtype` with the same weights and evaluated by Keras. The surrogate's spike
    time of a neuron is that of its pre-activation. The spiking network simulates from the input on, so a difference in
    one layer goes on into the next, and is counted there as inherited. What `predict` returns is compared with the
    model's graph of layers, rebuilt in its own precision, so that nothing between the two stays hidden.

    >>> model = keras.Sequential([keras.Input((4,)), TTFSActivation(), keras.layers.Dense(2)])
    >>> check_equivalence(model, np.random.default_rng(0).uniform(size=(3, 4))).equivalent
    True

    Args:
        model: Functional or built Sequential model, as `SpikingNetwork.from_model` takes.
        x: array `(samples, ...)` of inputs, finite [1]; or a data set, generator or list of batches.
        modes: which of `("event", "clock")` to simulate; a str or several.
        dtype: `"float64"` or `"float32"`, of network and surrogate.
        batch_size: int >= 1: samples at a time.
        strict: bool: whether to call the report's `check`, which raises.
        network: SpikingNetwork to compare in the place of the model's own: of the same architecture, with perturbed
            weights or temporal kernels for example.
        verbose: `"auto"` (a progress bar on terminals), 0 or 1.

    Returns:
        An EquivalenceReport.

    Raises:
        EquivalenceError: if `strict`, "Expected the spikes of the model. Received: ... mismatches".
        ValueError: "Expected ... Received: ..." for a wrong argument or a model that has no spiking network.
    """
    modes = _checked_modes(modes)
    checks.batch(batch_size)
    checks.one_of("dtype", dtype, checks.DTYPES)
    own = SpikingNetwork.from_model(model)
    network = own.untraced() if network is None else _same_architecture(network, own)
    x = inputs(x, network.nodes, dtype)
    surrogate = Surrogate(model, dtype)
    # The same layers in the model's own precision, with its softmax.
    graph = Graph(model, None)
    report = _empty_report(network, modes, dtype, len(x))
    bar = progress_bar(len(x), "sample", verbose)
    names = spiking_calls(model)
    for _, samples, batch in batches_of(x, batch_size):
        logits, promised = surrogate(batch, samples)
        _add_predictions(
            report,
            keras.tree.flatten(model.predict_on_batch(batch))[0][:samples],
            graph.output(batch)[:samples],
            logits,
        )
        for mode in modes:
            result = network.run(batch, mode=mode, dtype=dtype, batch_size=len(batch), verbose=0)
            _add_to(report, mode, result, logits, dict(zip(names, promised, strict=True)))
        if bar:
            bar.add(samples)
    if strict:
        report.check()
    return report


def _checked_modes(modes):
    given = modes
    modes = (modes,) if isinstance(modes, str) else modes
    modes = tuple(modes) if isinstance(modes, Iterable) else ()
    if not modes or any(mode not in MODES for mode in modes):
        raise ValueError(f"Expected modes among {MODES}. Received: modes={given!r}")
    return modes


def _same_architecture(network, own):
    """The network, if it differs from `own` in weights and temporal kernels alone."""
    if not isinstance(network, SpikingNetwork):
        raise ValueError(f"Expected network to be a SpikingNetwork. Received: network={network!r:.60}")
    theirs, ours = (_architecture(each.nodes) for each in (network, own))
    for node, (found, expected) in zip(network.nodes, zip(theirs, ours)):
        if found != expected:
            raise ValueError(
                "Expected a network of the model's own architecture. "
                f"Received: node {node.name!r} with {_first_difference(found, expected)}"
            )
    if len(theirs) != len(ours):
        raise ValueError(
            f"Expected a network of the model's own architecture, {len(ours)} nodes. Received: {len(theirs)} nodes"
        )
    return network


def _architecture(nodes: list[Node]) -> list[dict]:
    """What each node is, but for its name, weights and temporal kernel."""
    places = {node: place for place, node in enumerate(nodes)}
    descriptions = []
    for node in nodes:
        layer = getattr(node, "layer", None)
        description: dict[str, Any] = {
            "kind": type(node).__name__,
            "shape": node.shape,
            "inputs": tuple(places[source] for source in node.inputs),
            "layer": None if layer is None else type(layer).__name__,
            "batch normalisations": len(getattr(node, "norms", ())),
            "bias": getattr(node, "bias", None) is not None,
        }
        if layer is not None:
            description |= copies.settings_of(layer)
        for place, window in enumerate(getattr(node, "windows", ())):
            description[f"window {place}"] = type(window).__name__, copies.settings_of(window)
        for name in ("time_window", "rounding", "dtype"):
            description[name] = getattr(node, name, None)
        descriptions.append(description)
    return descriptions


def _first_difference(found, expected):
    name = next(name for name in (*found, *expected) if found.get(name) != expected.get(name))
    return f"{name} {found.get(name)!r} in the place of {expected.get(name)!r}"


def _add_predictions(report, given, graph, logits):
    """Adds what the model as given predicts for a batch, and what its graph of layers gives in its own precision."""
    report.model_changed_predictions += int((given.argmax(-1) != logits.argmax(-1)).sum())
    precision = given.dtype.name if given.dtype.name == "float64" else report.model_dtype
    tolerance = PREDICT_TOLERANCE.get(precision, HALF_PRECISION_TOLERANCE)
    given, graph = (values.astype("float64").reshape(len(values), -1) for values in (given, graph))
    difference = np.abs(given - graph).max(axis=1)
    differs = ~(difference <= tolerance * max(1e-30, float(np.abs(graph).max())))
    report.model_disagreements += int(differs.sum())
    report.model_difference = max(report.model_difference, float(difference.max()))


def _empty_report(network, modes, dtype, samples):
    return EquivalenceReport(
        layers=[
            LayerEquivalence(population.name, mode, population.size)
            for mode in modes
            for population in network.populations
        ],
        samples=samples,
        dtype=dtype,
        logit_difference=dict.fromkeys(modes, 0.0),
        changed_predictions=dict.fromkeys(modes, 0),
        model_dtype=", ".join(sorted({population.policy for population in network.populations})),
        model_changed_predictions=0,
    )


def _add_to(
    report: EquivalenceReport,
    mode: str,
    result: SimulationResult,
    logits: np.ndarray,
    promised: dict[str | None, tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> None:
    """Adds a batch, simulated in a mode, to the report. `logits` and `promised` are what the surrogate returns."""
    differs = np.zeros(len(logits), bool)
    for row in report.layers:
        if row.mode == mode:
            compare_layer(row, result.spike_times[row.layer][: len(logits)], *promised[row.layer], differs)
    ours = result.logits[: len(logits)]
    report.logit_difference[mode] = max(report.logit_difference[mode], float(np.abs(ours - logits).max()))
    report.changed_predictions[mode] += int((ours.argmax(-1) != logits.argmax(-1)).sum())


def compare_layer(
    row: LayerEquivalence,
    times: np.ndarray,
    expected: np.ndarray,
    potential: np.ndarray,
    thresholds: np.ndarray,
    differs: np.ndarray,
) -> None:
    """Adds a batch's spikes and mismatches of one layer to its row. Marks in `differs` the samples that now differ.

    Args:
        row: of the layer.
        times: spike times found `(samples, ...)` [steps].
        expected: those that the model promises.
        potential: the model's pre-activations [1].
        thresholds: of the layer's steps [1].
        differs: bool `(samples,)`: whether an earlier layer differs.
    """
    wrong = expected != times
    row.spikes += int(np.count_nonzero(expected < len(thresholds)))
    by_sample = wrong.reshape(len(wrong), -1).sum(1)
    row.mismatches += int(by_sample.sum())
    row.inherited += int(by_sample[differs].sum())
    own = wrong & ~differs.reshape(-1, *[1] * (wrong.ndim - 1))
    if own.any():
        between = thresholds[np.minimum(expected[own], times[own])]
        row.ulp = max(row.ulp, float((np.abs(potential[own] - between) / np.spacing(between)).max()))
    differs |= by_sample > 0
