"""Energy of a spiking network from its spikes, synaptic operations and time steps. Every constant names its source.

`normalized_energy` is the paper's measure, Table 2: relative to a reference network, from spikes and time steps alone.
`report` sets absolute estimates beside it, on three chips and in 45 nm CMOS, with the ReLU twin to compare with:

    network = keras_ttfs.snn.SpikingNetwork.from_model(model)
    print(keras_ttfs.energy.report(network, network.run(x)))
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from keras_ttfs import checks

# (E_d, E_s): dynamic and static share, of TrueNorth (Merolla et al. 2014) and SpiNNaker (Furber et al. 2014) as used by
# Park et al. 2020 (T2FSNN). They give every energy cell of Table 2.
COEFFICIENTS = {"truenorth": (0.4, 0.6), "spinnaker": (0.64, 0.36)}
# (spikes per sample, time steps) of TSC coding (Han & Roy 2020), Table 2's reference on each data set.
TSC_CIFAR10 = (0.193e6, 512)
TSC_CIFAR100 = (0.170e6, 512)
REFERENCES = {"cifar10": TSC_CIFAR10, "cifar100": TSC_CIFAR100}

PICOJOULE = 1e-12


@dataclasses.dataclass(frozen=True)
class Chip:
    """Energies of a neuromorphic chip, and their source.

    Attributes:
        synaptic_operation: energy of one synaptic operation [J].
        update: energy of one neuron's update in one time step [J]; None if no source gives it apart from the rest.
        source: where both numbers are published.
        disagreement: what other sources, or the same one elsewhere, say.
    """

    synaptic_operation: float
    update: float | None
    source: str
    disagreement: str


CHIPS = {
    "truenorth": Chip(
        26 * PICOJOULE,
        None,
        "Merolla et al., Science 345, 2014: 26 pJ per synaptic event, the whole chip's power included",
        "the same paper's 46 GSOPS/W are 21.7 pJ, its 400 GSOPS/W at best 2.5 pJ",
    ),
    "loihi": Chip(
        23.6 * PICOJOULE,
        81 * PICOJOULE,
        "Davies et al., IEEE Micro 38(1), 2018, Table 2: 23.6 pJ per synaptic operation, 81 pJ per active neuron update",
        "simulated before the silicon; an inactive update is given as 52 pJ",
    ),
    "spinnaker": Chip(
        13.3e-9,
        26e-9,
        "Hoeppner et al., arXiv:1903.08941, 2019: 13.3 nJ per synaptic event, 26 nJ per neuron update",
        "Sharp et al., J. Neurosci. Methods 210, 2012, measure 43 nJ per postsynaptic potential and 100 nJ per neuron and ms",
    ),
}

# Horowitz, "Computing's energy problem", ISSCC 2014, 45 nm at 0.9 V [J].
FLOAT32_MULTIPLY, FLOAT32_ADD = 3.7 * PICOJOULE, 0.9 * PICOJOULE
INT8_MULTIPLY, INT32_MULTIPLY, INT32_ADD = 0.2 * PICOJOULE, 3.1 * PICOJOULE, 0.1 * PICOJOULE
# One byte from a 32 kB SRAM: 20 pJ for 8 bytes.
SRAM_BYTE = 2.5 * PICOJOULE
HOROWITZ = (
    "Horowitz, ISSCC 2014, 45 nm: float32 multiply 3.7 and add 0.9 pJ, int8 multiply 0.2, int32 multiply 3.1 and add 0.1, "
    "8 bytes from 32 kB SRAM 20 pJ"
)


def normalized_energy(
    spikes: float, time_steps: float, platform: str = "truenorth", reference: tuple[float, float] | str = TSC_CIFAR10
) -> float:
    """Energy relative to a reference network: `E = E_d * S / S_ref + E_s * H / H_ref` [1].

    E_d and E_s are the dynamic and the static share of the platform, `COEFFICIENTS`.

    >>> round(normalized_energy(0.067e6, 544), 2), round(normalized_energy(0.078e6, 544, reference="cifar100"), 2)
    (0.78, 0.82)

    Args:
        spikes: float >= 0: S, mean spikes per sample of the hidden layers.
        time_steps: int >= 1: H [steps].
        platform: `"truenorth"` or `"spinnaker"`.
        reference: `(spikes, time_steps)` of the network that has energy 1, or the data set of the paper on which TSC coding
            has it, `"cifar10"` or `"cifar100"`.

    Raises:
        ValueError: "Expected platform to be one of ... Received: ...", and for numbers out of their range.

    Reference: section 6.2, Table 2.
    """
    dynamic, static = _coefficients(platform)
    reference = _checked_reference(reference)
    checks.number("spikes", spikes, least=0)
    checks.number("time_steps", time_steps, least=1, unit="steps")
    return dynamic * spikes / reference[0] + static * time_steps / reference[1]


def latency_share(
    spikes: float, time_steps: float, platform: str = "truenorth", reference: tuple[float, float] | str = TSC_CIFAR10
) -> float:
    """Share of `normalized_energy` that the time steps cost, whether or not neurons spike [1]: `E_s * H / H_ref / E`.

    >>> round(latency_share(0.049e6, 544), 2)
    0.86

    Args and Raises: as `normalized_energy`.
    """
    _, static = _coefficients(platform)
    reference = _checked_reference(reference)
    return static * time_steps / reference[1] / normalized_energy(spikes, time_steps, platform, reference)


def _coefficients(platform):
    return COEFFICIENTS[checks.one_of("platform", platform, COEFFICIENTS)]


def _checked_reference(reference):
    """`(spikes, time_steps)` of the network that has energy 1, both > 0."""
    if isinstance(reference, str):
        return REFERENCES[checks.one_of("reference", reference, REFERENCES)]
    if not isinstance(reference, Sequence) or len(reference) != 2:
        raise ValueError(f"Expected reference to be (spikes, time_steps). Received: reference={reference!r}")
    return tuple(checks.number("reference", value, above=0) for value in reference)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one way of computing the same function costs per sample.

    Attributes:
        name: of the way.
        operations: those of the ReLU twin, or synaptic operations and operations of an analog input.
        compute: energy of arithmetic [J].
        memory: energy of reading weights, and of reading and writing activations or potentials [J].
        state: memory that holds activations or potentials [bytes].
    """

    name: str
    operations: float
    compute: float
    memory: float
    state: float


@dataclasses.dataclass(frozen=True)
class EnergyReport:
    """Outcome of `report`; prints as text. All numbers are per sample.

    Attributes:
        spikes: S, mean spikes of the hidden layers.
        time_steps: H [steps].
        neurons: N, the units that may fire: inputs, hidden neurons and outputs.
        membranes: potentials that integrate, as many as neurons where no max pooling stands in front of an activation.
        synaptic_operations: mean synaptic operations.
        analog_operations: operations on an analog input.
        normalized: `{platform: (energy relative to the reference [1], latency share [1])}`.
        reference: `(spikes, time_steps)` of the network that has energy 1.
        chips: `{chip: (energy of synaptic operations [J], energy of neuron updates [J] or None)}`.
        costs: list of Cost in 45 nm CMOS: the ReLU twin, the bit-matched quantised network (of TTFS networks only), the
            spiking network.
    """

    spikes: float
    time_steps: int
    neurons: int
    membranes: int
    synaptic_operations: float
    analog_operations: int
    normalized: dict[str, tuple[float, float]]
    reference: tuple[float, ...]
    chips: dict[str, tuple[float, float | None]]
    costs: list[Cost]

    def __str__(self) -> str:
        lines = [
            f"{self.spikes:,.0f} spikes, {self.time_steps} time steps, {self.synaptic_operations:,.0f} synaptic operations "
            f"and {self.analog_operations:,} of an analog input, per sample",
            f"{self.neurons:,} neurons that may fire, {self.membranes:,} membranes that integrate",
            f"normalised to {self.reference[0]:,.0f} spikes in {self.reference[1]} steps (E = S E_d + H E_s):",
        ]
        for platform, (energy, share) in self.normalized.items():
            lines.append(f"  {platform:<12} {energy:8.3f}   {100 * share:.0f} % of it latency")
        lines.append(f"{'on chips [uJ]:':<28}{'synaptic':>12}{'updates':>12}")
        for name, (synaptic, updates) in self.chips.items():
            text = "-" if updates is None else f"{1e6 * updates:.4g}"
            lines.append(f"  {name:<26}{1e6 * synaptic:>12.4g}{text:>12}   {CHIPS[name].source};")
            lines.append(f"{'':<55}but {CHIPS[name].disagreement}")
        lines.append(
            f"{'in 45 nm CMOS:':<44}{'operations':>15}{'compute [uJ]':>14}{'memory [uJ]':>13}{'state [kB]':>12}"
        )
        for cost in self.costs:
            lines.append(
                f"  {cost.name:<42}{cost.operations:>15,.0f}{1e6 * cost.compute:>14.4g}{1e6 * cost.memory:>13.4g}"
                f"{cost.state / 1e3:>12.4g}"
            )
        return "\n".join([*lines, f"  ({HOROWITZ})"])


def report(network: Any, result: Any, reference: tuple[float, float] | str = TSC_CIFAR10) -> EnergyReport:
    """Energy of a simulated network, with its ReLU twin and the bit-matched quantised network beside it.

    A TTFS network computes the function of a ReLU network whose activations are quantised to T levels and 0: the
    bit-matched network. The levels of that network are those of the temporal kernel, found in a table. It may skip the
    work of zero activations as the spiking network does. Counted per sample:

    - ReLU twin, float32: a multiply and an add for each synapse. Weight and activation are read, 4 bytes each. Add and
      average pooling take additions, and each average one multiply by 1/n. Each of these reads one activation.
    - quantised, 8-bit weights: an int8 multiply and an int32 add for each synapse. Weight and activation are read,
      1 byte each. One row computes the zeros, another skips them. The second row computes them too if skipping would
      be more work, which happens because spikes count every way through successive layers (see
      `operations.dense_counts`).
    - spiking, float32 and 8-bit weights: an add for each synaptic operation. It reads the weight, and reads and writes
      a potential of 4 bytes. Each operation of an analog input takes one multiply more. The decay of the temporal
      kernel takes one multiply for each hidden membrane and step of its integration.
    - other codings: a synaptic operation for each spike and synapse, however many spikes a neuron fires. What a spike
      carries is a shift of the weight. In place of the decay each hidden neuron takes one addition in each step that it
      may fire in, for its constant current or its reset.

    Neuron updates on chips: each membrane of a neuron that can spike, in its integration and its fire phase, 2 T steps.
    In a coding without windows, in every step. Idle layers cost nothing there, which favours the chip. Only TrueNorth's 26 pJ
    contain traffic between cores and static power.

    Max pooling in front of an activation changes no synaptic operation (see `operations.fan_out`). It saves spikes and
    neurons. As many membranes integrate, so state, decay and updates of the spiking network stay the same. The ReLU twin
    and the quantised network keep one activation for each neuron.

    Args:
        network: SpikingNetwork or CodedNetwork.
        result: what `run` of this very network, or of a copy of it, returned.
        reference: as of `normalized_energy`: the data set's name, where the paper has it.

    Returns:
        An EnergyReport.

    Raises:
        ValueError: "Expected a result of this network. Received: ...", and for a wrong argument.

    Reference: section 6.2; sources in `CHIPS` and `HOROWITZ`.
    """
    if not hasattr(network, "identity"):
        raise ValueError(f"Expected network to be a SpikingNetwork or CodedNetwork. Received: network={network!r:.60}")
    if getattr(result, "network", None) != network.identity:
        found = "one of another network" if hasattr(result, "network") else f"result={result!r:.60}"
        raise ValueError(f"Expected a result of this network. Received: {found}")
    known = _checked_reference(reference)
    spikes, steps = result.hidden_spikes, result.time_steps
    activity = _activity(network, result)
    analog = network.analog_counts.total
    arguments = spikes, steps
    return EnergyReport(
        spikes=spikes,
        time_steps=steps,
        neurons=network.neurons,
        membranes=network.membranes,
        synaptic_operations=result.synaptic_operations,
        analog_operations=analog,
        normalized={
            platform: (
                normalized_energy(*arguments, platform, known),
                latency_share(*arguments, platform, known),
            )
            for platform in COEFFICIENTS
        },
        reference=known,
        chips={
            name: (
                (result.synaptic_operations + analog) * chip.synaptic_operation,
                None if chip.update is None else activity.updates * chip.update,
            )
            for name, chip in CHIPS.items()
        },
        costs=_costs(network, result, activity),
    )


@dataclasses.dataclass(frozen=True)
class _Activity:
    """What neurons do beside their synapses, per sample.

    Attributes:
        neurons: hidden neurons.
        membranes: their membranes.
        updates: updates of membranes of neurons that can spike, on a chip that skips idle layers.
        decays: multiplications by which the temporal kernel decays.
        additions: of a constant current, or of a reset.
        bits: of a quantised activation with the same levels, or None.
    """

    neurons: int
    membranes: int
    updates: int
    decays: int
    additions: int
    bits: int | None


def _activity(network, result):
    phases = getattr(result, "phases", None)
    windows = (
        dict.fromkeys(result.neurons, network.coding.time_window or result.time_steps)
        if phases is None
        else {name: window for name, (_, window) in phases.items()}
    )
    membranes = {population.name: population.membranes for population in network.populations}
    hidden = {name: count for name, count in membranes.items() if name not in result.input_encoders}
    in_window = sum(count * windows[name] for name, count in hidden.items())
    # A layer with a window of its own integrates in the window before it.
    phases_of_a_layer = 1 if phases is None and network.coding.time_window is None else 2
    return _Activity(
        neurons=sum(result.neurons[name] for name in hidden),
        membranes=sum(hidden.values()),
        updates=sum(count * phases_of_a_layer * windows[name] for name, count in membranes.items()),
        decays=0 if phases is None else in_window,
        additions=in_window if phases is None else 0,
        bits=None if phases is None else max(math.ceil(math.log2(window + 1)) for window in windows.values()),
    )


def _costs(network, result, activity):
    dense, analog = network.dense_counts, network.analog_counts
    synaptic, state = result.synaptic_operations, 4 * activity.membranes
    twin = Cost(
        "ReLU twin, float32",
        dense.total,
        _arithmetic(dense, FLOAT32_MULTIPLY, FLOAT32_ADD),
        _reads(dense, 4),
        4 * activity.neurons,
    )
    costs = [twin] if activity.bits is None else [twin, *_quantised(network, result, activity)]
    for name, multiply, add, decay, weight in (
        ("spiking, float32", FLOAT32_MULTIPLY, FLOAT32_ADD, FLOAT32_MULTIPLY, 4),
        ("spiking, 8-bit weights", INT8_MULTIPLY, INT32_ADD, INT32_MULTIPLY, 1),
    ):
        compute = (
            synaptic * add + _arithmetic(analog, multiply, add) + activity.decays * decay + activity.additions * add
        )
        # Each reads and writes a potential. A constant current is read as well.
        touched = (synaptic + analog.total + activity.additions) * 8
        read = (synaptic + analog.multiply_adds) * weight + activity.additions * 4
        costs.append(Cost(name, synaptic + analog.total, compute, (touched + read) * SRAM_BYTE, state))
    return costs


def _quantised(network, result, activity):
    """The bit-matched network, with its zeros computed and with its zeros skipped."""
    dense = network.dense_counts
    share = min(1.0, (result.synaptic_operations + network.analog_counts.total) / dense.total)
    name, state = f"quantised, {activity.bits}-bit levels", activity.bits / 8 * activity.neurons
    compute, memory = _arithmetic(dense, INT8_MULTIPLY, INT32_ADD), _reads(dense, 1)
    return [
        Cost(name, dense.total, compute, memory, state),
        Cost(f"{name}, zeros skipped", share * dense.total, share * compute, share * memory, state),
    ]


def _arithmetic(counts, multiply, add):
    """Energy of Operations [J]."""
    multiplications = counts.multiply_adds + counts.multiplications
    return multiplications * multiply + (counts.multiply_adds + counts.additions) * add


def _reads(counts, width):
    """Energy of reading an activation for each operation, and a weight for each multiply-add, each `width` bytes [J]."""
    return (counts.total + counts.multiply_adds) * width * SRAM_BYTE
