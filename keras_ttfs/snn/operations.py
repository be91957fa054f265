"""Counts of neurons and of operations: how many synapses a spike reaches, and what the network costs without spikes.

Where each spike is counted: a population's spikes in `network.SpikingNetwork._counted`, their synaptic operations there
too, from `fan_out` here; the spikes of a coding in `coded._Simulation._advance`.
"""

import tensorflow as tf

from keras_ttfs.snn.nodes import Input, Node, Operations, Population, Route, encodes_input, populations_of, sources_of


def neurons_of(nodes: list[Node], output: Node) -> int:
    """N of a network, the units that may fire: inputs, hidden neurons and outputs."""
    return _units(nodes, output, [population.size for population in _hidden(nodes)])


def membranes_of(nodes: list[Node], output: Node) -> int:
    """Potentials that integrate: as `neurons_of`, with all potentials of each winner-take-all window."""
    return _units(nodes, output, [population.membranes for population in _hidden(nodes)])


def _units(nodes, output, hidden):
    return nodes[0].size + sum(hidden) + output.size


def _hidden(nodes):
    return [population for population in populations_of(nodes) if not encodes_input(population)]


def spike_entries(nodes: list[Node]) -> list[tuple[Node, int]]:
    """`[(node, place), ...]`: where a spike becomes a postsynaptic potential, an input of a node that takes spikes."""
    takers = [node for node in nodes if isinstance(node, Population) or not node.spiking]
    return [(node, place) for node in takers for place, source in enumerate(node.inputs) if source.spiking]


def fan_out(nodes: list[Node], output: Node) -> dict[Node, list]:
    """`{node that spikes enter: [array (...) for each of its inputs]}`: synapses behind each place that sends there.

    The array is None for an input that is no spikes. Synapses are counted along every way from the spike to a membrane.
    A folded batch normalisation costs none. Where max pooling stands, before an activation or behind it, changes no
    count: the same potentials integrate, and of a window only the first spike is ever passed on.
    """
    entries = spike_entries(nodes)
    values: dict = {}
    arriving = {(node, place): tf.zeros((1, *node.inputs[place].shape), "float64") for node, place in entries}
    reached = []
    with tf.GradientTape() as tape:
        tape.watch(list(arriving.values()))
        for node in nodes:
            if isinstance(node, Input):
                values[node] = tf.zeros((1, *node.shape), "float64")
                continue
            arguments = [arriving.get((node, i), values[source]) for i, source in enumerate(node.inputs)]
            if isinstance(node, Population):
                reached += [] if encodes_input(node) else [tf.reduce_sum(arguments[0])]
                values[node] = tf.zeros((1, *node.shape), "float64")
            else:
                values[node] = node.paths()(*arguments)
        total = tf.add_n([*reached, tf.reduce_sum(values[output])])
    counts = tape.gradient(total, list(arriving.values()), unconnected_gradients="zero")
    table: dict = {node: [None] * len(node.inputs) for node, _ in entries}
    for (node, place), count in zip(entries, counts):
        table[node][place] = count.numpy()[0]
    return table


def dense_counts(nodes: list[Node]) -> Operations:
    """Operations of the same network without spikes (its ReLU twin) per sample, borders included.

    A synapse multiplies and adds. An Add of n inputs takes n - 1 additions. An average over n values takes n - 1
    additions and one multiplication. They are counted layer by layer. `fan_out` counts every way through successive
    layers instead, because no neurons hold a sum between the layers. So `fan_out` counts more behind a separable
    convolution or an average.
    """
    counts = Operations()
    for node in nodes:
        if not isinstance(node, (Input, Population)):
            counts = counts.plus(
                node.operations([tf.ones((1, *source.shape), "float64") for source in node.inputs]),
            )
    return counts


def analog_counts(nodes: list[Node]) -> Operations:
    """Operations on analog values, per sample. They are not synaptic operations, because no spike causes them.

    Analog values are an analog input and its sums.
    """
    counts, analog = Operations(), {}
    for node in nodes:
        analog[node] = (tf.ones if isinstance(node, Input) else tf.zeros)((1, *node.shape), "float64")
        values = [analog[source] for source in node.inputs]
        if isinstance(node, Route):
            analog[node] = node.paths()(*values)
        elif not isinstance(node, (Input, Population)):
            counts = counts.plus(node.operations(values))
            analog[node] = tf.zeros_like(analog[node]) if sources_of(node) else tf.ones_like(analog[node])
    return counts
