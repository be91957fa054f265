"""Imperfect hardware: what is left of a network's accuracy with jitter, lost spikes, few bits, and neurons that differ.

    network.run(x, noise=[noise.Jitter(0.5), noise.WeightBits(4)], seed=0)      a simulation, the same draws in both modes
    TTFSModel(inputs, outputs, noise=[noise.Jitter(0.5)])                       training that hardens the network

Each kind is a small frozen dataclass, and any of them go together. What changes a weight or a threshold is drawn once for a
network, what changes a spike once for every sample. In training all of it is drawn anew in every step, and gradients pass
straight through it.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import checks


class Disturbance(NamedTuple):
    """What is wrong with the neurons of a layer, for a batch. None where nothing is.

    Attributes:
        gain: float tensor, of the shape of potentials: how much a potential counts against its threshold [1]. The same for
            every sample.
        shift: int tensor `(batch, ...)`: by how much later each spike comes [steps].
        silent: bool tensor `(batch, ...)`: neurons that send nothing.
        spurious: int tensor `(batch, ...)`: when a neuron fires that has not fired yet; T for never [steps].
    """

    gain: Any = None
    shift: Any = None
    silent: Any = None
    spurious: Any = None

    def disturbed(self, spike_time: Any, time_window: int) -> Any:
        """Spike times as they come [steps]: shifted inside the window, joined by spurious ones, without those lost."""
        if self.shift is not None:
            shifted = tf.clip_by_value(spike_time + tf.cast(self.shift, spike_time.dtype), 0, time_window - 1)
            spike_time = tf.where(spike_time < time_window, shifted, spike_time)
        if self.spurious is not None:
            spike_time = tf.minimum(spike_time, tf.cast(self.spurious, spike_time.dtype))
        if self.silent is not None:
            spike_time = tf.where(self.silent, tf.cast(time_window, spike_time.dtype), spike_time)
        return spike_time


class Shapes(NamedTuple):
    """Shapes of what is drawn for a layer: one sample of its neurons and of its membranes, and its time window [steps]."""

    neurons: tuple
    membranes: tuple
    time_window: int


@dataclasses.dataclass(frozen=True)
class Noise:
    """A kind of noise. A subclass overrides one of the three methods."""

    @property
    def disturbs_weights(self) -> bool:
        """Whether it changes weights."""
        return type(self).weights is not Noise.weights

    @property
    def disturbs_neurons(self) -> bool:
        """Whether it changes thresholds or spikes."""
        return (type(self).of_network, type(self).of_sample) != (Noise.of_network, Noise.of_sample)

    def weights(self, kernel: Any, axes: Sequence[int], random: Any) -> Any:
        """A kernel as the hardware has it. `axes` are all but those of the output channels."""
        return kernel

    def of_network(self, found: Disturbance, shapes: Shapes, random: Any) -> Disturbance:
        """What is wrong with a layer's neurons for every sample."""
        return found

    def of_sample(self, found: Disturbance, shapes: Shapes, random: Any) -> Disturbance:
        """What is wrong with a layer's spikes in one sample."""
        return found


@dataclasses.dataclass(frozen=True)
class _OfShare(Noise):
    share: float

    def __post_init__(self):
        checks.share("share", self.share)


@dataclasses.dataclass(frozen=True)
class _Relative(Noise):
    std: float

    def __post_init__(self):
        checks.number("std", self.std, least=0, unit="1")


@dataclasses.dataclass(frozen=True)
class Jitter(Noise):
    """Spikes come early or late: each neuron's clock is off by a rounded normal number of steps, drawn for every sample.

    A spike stays in its window: one that would leave it comes at its first or last step.

    Args:
        std: float >= 0: standard deviation [steps].
    """

    std: float

    def __post_init__(self):
        checks.number("std", self.std, least=0, unit="steps")

    def of_sample(self, found: Disturbance, shapes: Shapes, random: Any) -> Disturbance:
        # Beyond two windows it makes no difference.
        most = 2 * shapes.time_window
        shift = tf.cast(tf.clip_by_value(tf.round(self.std * random.normal(shapes.neurons)), -most, most), tf.int32)
        return found._replace(shift=shift if found.shift is None else found.shift + shift)


@dataclasses.dataclass(frozen=True)
class DroppedSpikes(_OfShare):
    """Spikes are lost: each neuron is silent with this probability, drawn for every sample.

    Args:
        share: float in [0, 1] [1].
    """

    def of_sample(self, found: Disturbance, shapes: Shapes, random: Any) -> Disturbance:
        return _silenced(found, random.uniform(shapes.neurons) < self.share)


@dataclasses.dataclass(frozen=True)
class SpuriousSpikes(_OfShare):
    """Neurons fire for no reason: with this probability, at a random step of the window unless they have fired before.

    Args:
        share: float in [0, 1] [1].
    """

    def of_sample(self, found: Disturbance, shapes: Shapes, random: Any) -> Disturbance:
        # One number says whether and when.
        draw = random.uniform(shapes.neurons)
        step = tf.cast(tf.floor(draw * (shapes.time_window / max(self.share, 1e-30))), tf.int32)
        spurious = tf.where(draw < self.share, tf.minimum(step, shapes.time_window - 1), shapes.time_window)
        return found._replace(spurious=spurious if found.spurious is None else tf.minimum(found.spurious, spurious))


@dataclasses.dataclass(frozen=True)
class DeadNeurons(_OfShare):
    """Neurons that never fire, the same ones for every sample.

    Args:
        share: float in [0, 1] [1].
    """

    def of_network(self, found: Disturbance, shapes: Shapes, random: Any) -> Disturbance:
        return _silenced(found, random.uniform(shapes.neurons) < self.share)


@dataclasses.dataclass(frozen=True)
class ThresholdMismatch(_Relative):
    """Every membrane has a threshold of its own: the layer's times `1 + std * n`, n normal, the same for every sample.

    In training, where max pooling of potentials comes before the layer, every window has one.

    Args:
        std: float >= 0: relative standard deviation [1]. Factors below 0.01 count as 0.01.
    """

    def of_network(self, found: Disturbance, shapes: Shapes, random: Any) -> Disturbance:
        gain = 1.0 / tf.maximum(1.0 + self.std * random.normal(shapes.membranes), 0.01)
        return found._replace(gain=gain if found.gain is None else found.gain * gain)


@dataclasses.dataclass(frozen=True)
class WeightBits(Noise):
    """Weights of few bits: of every output channel, the nearest of `2**bits - 1` numbers from -max|w| to max|w|.

    Biases, and the shifts of batch normalisation, stay as they are.

    Args:
        bits: int >= 2, <= 16.
    """

    bits: int

    def __post_init__(self):
        checks.integer("bits", self.bits, least=2, most=16)

    def weights(self, kernel: Any, axes: Sequence[int], random: Any) -> Any:
        largest = tf.reduce_max(tf.abs(kernel), axis=axes, keepdims=True)
        step = largest / (2 ** (self.bits - 1) - 1)
        return tf.where(largest > 0, tf.round(tf.math.divide_no_nan(kernel, step)) * step, kernel)


@dataclasses.dataclass(frozen=True)
class WeightMismatch(_Relative):
    """Every weight of a kernel is off: times `1 + std * n`, n normal, the same for every sample.

    Biases, and the shifts of batch normalisation, stay as they are.

    Args:
        std: float >= 0: relative standard deviation [1].
    """

    def weights(self, kernel: Any, axes: Sequence[int], random: Any) -> Any:
        return kernel * (1.0 + self.std * tf.cast(random.normal(tuple(kernel.shape)), kernel.dtype))


def _silenced(found, silent):
    return found._replace(silent=silent if found.silent is None else found.silent | silent)


def channel_free_axes(layer: Any, number: int, rank: int) -> list[int]:
    """The axes of a layer's kernel `number` that are not its output channels'."""
    kinds = keras.layers
    if isinstance(layer, (kinds.Conv1DTranspose, kinds.Conv2DTranspose)):
        channels = {rank - 2}
    elif isinstance(layer, (kinds.DepthwiseConv1D, kinds.DepthwiseConv2D)) or (_is_separable(layer) and number == 0):
        channels = {rank - 2, rank - 1}
    else:
        channels = {rank - 1}
    return [axis for axis in range(rank) if axis not in channels]


def _is_separable(layer):
    return isinstance(layer, (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D))


def kernels_of(layer: Any) -> list[tuple[Any, list[int]]]:
    """`(weight, axes that are not its output channels')` of the kernels of a layer with weights."""
    names = ("depthwise_kernel", "pointwise_kernel") if _is_separable(layer) else ("kernel",)
    kernels = [weight for name in names for weight in layer.weights if weight.name == name]
    return [(kernel, channel_free_axes(layer, i, len(kernel.shape))) for i, kernel in enumerate(kernels)]


def check(noise: Any) -> tuple[Noise, ...]:
    """`noise` as a tuple.

    Raises:
        ValueError: "Expected noise to be objects of keras_ttfs.noise ... Received: ...".
    """
    given = (noise,) if isinstance(noise, Noise) else noise
    given = tuple(given) if isinstance(given, Iterable) and not isinstance(given, (str, dict)) else (given,)
    for each in given:
        if not isinstance(each, Noise):
            raise ValueError(f"Expected noise to be objects of keras_ttfs.noise, in a list. Received: noise={noise!r}")
    return given


class Draws:
    """The random numbers of one place and one sample, by a seed: the same in every mode and for every batch size."""

    def __init__(self, seed: int, *place: int):
        self.generator = np.random.default_rng([seed, *place])

    def normal(self, shape: tuple) -> Any:
        """Standard normal numbers, float32."""
        return self.generator.standard_normal(shape, "float32")

    def uniform(self, shape: tuple) -> Any:
        """Numbers in [0, 1), float32."""
        return self.generator.random(shape, "float32")


def straight_through(noisy: Any, exact: Any) -> Any:
    """`noisy` forward, to the last bit; backward the gradient goes to `exact`."""
    return tf.stop_gradient(noisy) + (exact - tf.stop_gradient(exact))


class TrainingDraws:
    """Random numbers of a training step, anew in every step, by a keras.random.SeedGenerator.

    They are the same in all replicas of a distribution strategy; but not with `own`, for samples, of which each has its own.
    """

    def __init__(self, seed: keras.random.SeedGenerator, own: bool = False):
        self.seed = seed
        self.own = own

    def _next(self):
        replica = tf.distribute.get_replica_context()
        seed = tf.cast(tf.convert_to_tensor(self.seed.next()), tf.int64)
        if not self.own or replica is None:
            return seed
        return seed + tf.stack([tf.zeros((), tf.int64), tf.cast(replica.replica_id_in_sync_group, tf.int64)])

    def normal(self, shape: Any) -> Any:
        """Standard normal numbers, float32."""
        return tf.random.stateless_normal(shape, self._next())

    def uniform(self, shape: Any) -> Any:
        """Numbers in [0, 1), float32."""
        return tf.random.stateless_uniform(shape, self._next())


def of_training(kinds: Iterable[Noise], shape: Any, time_window: int, seed: keras.random.SeedGenerator) -> Disturbance:
    """What is wrong with a layer in one training step.

    Args:
        kinds: of noise, in their order.
        shape: int tensor, that of the layer's potentials, batch first.
        time_window: of the layer [steps].
        seed: of the draws.

    Raises:
        ValueError: "Expected thresholds that are the same for every sample ...", for noise of one's own.
    """
    found, shared, own = Disturbance(), TrainingDraws(seed), TrainingDraws(seed, own=True)
    one, all_samples = Shapes(shape[1:], shape[1:], time_window), Shapes(shape, shape, time_window)
    for each in kinds:
        network = each.of_network(found, one, shared)
        found = each.of_sample(network, all_samples, own)
        _check_gain(found, network)
    return found


def of_samples(noise: Iterable[Noise], shapes: Shapes, seed: int, place: int, samples: Iterable[int]) -> Disturbance:
    """What is wrong with a layer, for some samples of a simulation.

    Args:
        noise: kinds, in their order.
        shapes: of the layer.
        seed: int >= 0.
        place: number of the layer in its network.
        samples: their numbers in the data.

    Raises: as `of_training`.
    """
    noise = tuple(noise)
    random = Draws(seed, 0, place)
    network = Disturbance()
    for each in noise:
        network = each.of_network(network, shapes, random)
    rows = []
    for sample in samples:
        # A threshold is the network's. What else is wrong with it, each sample adds to.
        found, random = network, Draws(seed, 1, place, sample)
        for each in noise:
            found = each.of_sample(found, shapes, random)
        _check_gain(found, network)
        rows.append(found._replace(gain=None))
    columns = Disturbance(*(None if values[0] is None else tf.stack(values) for values in zip(*rows)))
    return columns._replace(gain=network.gain)


def _check_gain(of_sample, of_network):
    if of_sample.gain is not of_network.gain:
        raise ValueError("Expected thresholds that are the same for every sample. Received: a gain of of_sample")
