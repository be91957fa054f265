"""Networks ready to train: the paper's VGG-16, small VGGs for small images and for fast runs, and one of spike-time layers.

Each function returns an uncompiled TTFSModel. Every argument of a network stands in its signature.

>>> model = vgg6(input_shape=(8, 8, 1), classes=10, seed=0)
>>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
>>> model.compile("adam", loss, metrics=["accuracy"])
"""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_ttfs import checks, pretrained
from keras_ttfs.batch_norm import TKBatchNorm
from keras_ttfs.initializers import Dirac
from keras_ttfs.layers import TTFSActivation
from keras_ttfs.models import TTFSModel
from keras_ttfs.spike_time_layers import (
    SpikeTimeConv2D,
    SpikeTimeDense,
    SpikeTimeEncode,
    SpikeTimeOutput,
    SpikeTimePooling2D,
)

# Channels of each block of convolutions; 2x2 max pooling ends a block.
VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGG16_DENSE = (512, 512)
VGG6_BLOCKS = ((32, 32), (64, 64))
VGG6_DENSE = (128,)
# Channels of the first convolution, 2x2, and of each block; 2x2 max pooling belongs to a block's first convolution, global
# max pooling to the very last one.
FAST_VGG_FIRST = 20
FAST_VGG_BLOCKS = ((64, 64), (192, 192), (288, 288))
INITIALIZERS = ("glorot", "he", "dirac")
POOLINGS = ("spikes", "potential")


def vgg16(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    *,
    width: float = 1.0,
    time_window: int = 32,
    tau_0: float = 10.0,
    t_d_0: float = 0.0,
    z_max_0: float | None = None,
    steps_per_octave: int = 0,
    rounding: str = "ceil",
    kernel_gradient: str = "decoder",
    input_coding: str = "ttfs",
    activation: str = "ttfs",
    pooling: str = "spikes",
    dropout: float = 0.0,
    l2: float = 0.0,
    gamma_0: float = 1.0,
    bn_momentum: float = 0.99,
    kernel_initializer: str = "glorot",
    lambda_tr: float = 1e-5,
    lambda_tb: float = 1e-5,
    seed: int | None = None,
    name: str = "vgg16",
) -> TTFSModel:
    """VGG-16 of the paper: 13 convolutions and 3 dense layers. TKBatchNorm and activation follow each but the last.

    The layers are conv 64,64,P,128,128,P,256x3,P,512x3,P,512x3,P (3x3, same; P: 2x2 max pooling) and dense 512, 512,
    classes. The output is the membrane potential of the last layer: plain logits. At 32x32x3 and 10 classes the network
    has 280,586 neurons.

    >>> vgg16(width=0.25).neurons
    72458

    Args:
        input_shape: `(height, width, channels)`, at least 32x32; intensities in [0, 1].
        classes: int >= 2.
        width: float > 0: factor on every hidden channel count [1].
        time_window, tau_0, t_d_0, z_max_0, rounding, kernel_gradient: as `TTFSActivation`, for every one of them.
        steps_per_octave: int >= 0: above 0 the temporal kernels have base 2 and so many steps an octave; they are not
            trained, and `tau_0` is not used [steps].
        input_coding: `"ttfs"` encodes the input as spikes (the paper); `"analog"` injects it as it is.
        activation: `"ttfs"`, or `"relu"` for the ReLU twin: the same layers and the same layout of weights, but no
            temporal kernels.
        pooling: `"spikes"` pools behind the activation (the paper). `"potential"` pools between normalisation and
            activation: the same logits and the same layout of weights, with fewer neurons and spikes.
        dropout: float in [0, 1]: factor on the authors' rates [1], 0 for no dropout. The rates are 0.3 after the first
            convolution, 0.4 after each other one that no pooling follows, 0.5 after flattening and each hidden dense
            layer.
        l2: float >= 0: factor of the squared norm of every weight matrix in the loss [1].
        gamma_0: float: initial scale of every batch normalisation (Keras: 1) [1]. Below 1, pre-activations start inside
            [z_min, z_max].
        bn_momentum: float in [0, 1): momentum of the moving statistics (Keras: 0.99) [1]. Runs of few steps need less.
        kernel_initializer: of every weight matrix: `"glorot"` (uniform), `"he"` (normal), or `"dirac"`, which is
            `initializers.Dirac` in every convolution but the first, and `"he"` elsewhere.
        lambda_tr: float >= 0: weight of REG_TR in the loss [1/steps^2].
        lambda_tb: float >= 0: weight of P_TB in the loss [1].
        seed: int >= 0, < 2**31 / 1000, or None: of weights, relaxation and dropout.
        name: str: of the model.

    Returns:
        A TTFSModel.

    Raises:
        ValueError: "Expected ... Received: ...".

    Differs from the paper, which gives neither dropout rates nor an L2 factor. The rates are from the authors' code.

    Reference: section 6, Table 3.
    """
    return _vgg(VGG16_BLOCKS, VGG16_DENSE, **locals())


def vgg6(
    input_shape: tuple[int, int, int] = (8, 8, 1),
    classes: int = 10,
    *,
    width: float = 1.0,
    time_window: int = 32,
    tau_0: float = 10.0,
    t_d_0: float = 0.0,
    z_max_0: float | None = None,
    steps_per_octave: int = 0,
    rounding: str = "ceil",
    kernel_gradient: str = "decoder",
    input_coding: str = "ttfs",
    activation: str = "ttfs",
    pooling: str = "spikes",
    dropout: float = 0.0,
    l2: float = 0.0,
    gamma_0: float = 1.0,
    bn_momentum: float = 0.99,
    kernel_initializer: str = "glorot",
    lambda_tr: float = 1e-5,
    lambda_tb: float = 1e-5,
    seed: int | None = None,
    name: str = "vgg6",
) -> TTFSModel:
    """A small network in VGG's manner for small images: conv 32,32,P,64,64,P, dense 128, classes.

    Args, Returns and Raises: as `vgg16`, but `input_shape` of at least 4x4.

    >>> vgg6().neurons
    6346
    """
    return _vgg(VGG6_BLOCKS, VGG6_DENSE, **locals())


def fast_vgg(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    *,
    width: float = 1.0,
    time_window: int = 16,
    tau_0: float = 6.0,
    t_d_0: float = 0.0,
    z_max_0: float | None = None,
    steps_per_octave: int = 0,
    rounding: str = "nearest",
    kernel_gradient: str = "decoder",
    input_coding: str = "analog",
    activation: str = "ttfs",
    pooling: str = "potential",
    dropout: float = 0.0,
    l2: float = 0.0,
    gamma_0: float = 0.4,
    bn_momentum: float = 0.99,
    kernel_initializer: str = "dirac",
    lambda_tr: float = 1e-5,
    lambda_tb: float = 1e-5,
    weights: str | None = None,
    seed: int | None = None,
    name: str = "fast_vgg",
) -> TTFSModel:
    """A VGG of seven convolutions and one dense layer that trains in an evening on a laptop and spikes little.

    The layers are conv 20 (2x2), then 64,P,64, 192,P,192, 288,P,288,G (3x3; same; P: 2x2 max pooling, G: global max
    pooling) and dense, classes. TKBatchNorm and activation follow each convolution, pooling stands between the two. The
    first convolution has few channels, because spikes are where neurons are, and neurons are where pixels are. The output
    is the membrane potential of the dense layer: plain logits.

    At 32x32x3 and 10 classes the network has 85,802 neurons and 9 time windows. 189,962 membranes integrate (inputs and
    outputs included in both numbers). One image takes 115 million multiply-adds, 99 million without those on the zeros
    beyond the borders.

    >>> fast_vgg(width=0.25).neurons
    23762

    Args:
        input_shape: `(height, width, channels)`, at least 8x8; intensities in [0, 1].
        pooling: `"potential"` or `"spikes"`, as `vgg16`.
        input_coding: `"analog"` injects the input as it is, as the paper's authors' code does. `"ttfs"` encodes it as spikes
            (the paper's text): T levels of a pixel hide the small differences of neighbours that 2x2 filters see, and
            cost accuracy where T is small.
        dropout: float in [0, 1]: factor on the rates [1], 0 for no dropout. The rates are 0.3 after the first convolution
            and 0.4 after each other one that no pooling follows, and 0.5 in front of the dense layer.
        classes, width, time_window, tau_0, t_d_0, z_max_0, steps_per_octave, rounding, kernel_gradient, activation, l2,
            gamma_0, bn_momentum, kernel_initializer, lambda_tr, lambda_tb, seed, name: as `vgg16`.
        weights: name of trained weights that come with the package (`pretrained.names("fast_vgg")`), or None. They are read
            offline. What they score is `pretrained.describe("fast_vgg", weights)`. They need intensities pixel / 255, and
            the arguments with which they were trained: `classes` (10 of `"cifar10"`, 100 of `"cifar100"`), `time_window`,
            `tau_0` and others. tau and t_d are weights.

    Returns:
        A TTFSModel.

    Raises:
        ValueError: "Expected ... Received: ...", also for weights that were trained with other arguments.

    Differs from the paper, which has no such network.
    """
    arguments = dict(locals())
    arguments.pop("weights")
    if weights is not None:
        pretrained.check_arguments("fast_vgg", weights, arguments)
    model = _fast_vgg(**arguments)
    if weights is not None:
        pretrained.load(model, "fast_vgg", weights)
    return model


def spike_time_vgg6(
    input_shape: tuple[int, int, int] = (8, 8, 1),
    classes: int = 10,
    *,
    width: float = 1.0,
    seed: int | None = None,
    name: str = "spike_time_vgg6",
) -> TTFSModel:
    """The blocks of `vgg6` of `keras_ttfs.spike_time_layers`: no temporal kernels, windows, batch normalisation.

    The network has no dropout and no L2. Its layers sort their inputs and add them one by one, so they train far slower
    than convolutions: use it for small networks only.

    >>> spike_time_vgg6(width=0.25).neurons
    1642

    Args:
        input_shape: `(height, width, channels)`, at least 4x4; intensities in [0, 1].
        classes: int >= 2.
        width: float > 0: factor on every hidden channel count [1].
        seed: int >= 0, < 2**31 / 1000, or None: of the weights.
        name: str: of the model.

    Returns:
        A TTFSModel whose loss has no terms of temporal kernels.

    Raises:
        ValueError: "Expected ... Received: ...".

    Reference: Zhou et al., "Temporal-coded deep spiking neural network with easy training and robust performance", AAAI
    2021.
    """
    input_shape, classes, width = _check_network(input_shape, 2 ** len(VGG6_BLOCKS), classes, width, name)
    seeds = _seeds(seed)
    inputs = keras.Input(input_shape)
    x = SpikeTimeEncode(name="encode")(inputs)
    for i, block in enumerate(VGG6_BLOCKS, 1):
        for j, filters in enumerate(block, 1):
            x = SpikeTimeConv2D(_units(width, filters), seed=next(seeds), name=f"conv{i}_{j}")(x)
        x = SpikeTimePooling2D(2, name=f"pool{i}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for i, units in enumerate(VGG6_DENSE, 1):
        x = SpikeTimeDense(_units(width, units), seed=next(seeds), name=f"dense{i}")(x)
    logits = SpikeTimeOutput(classes, seed=next(seeds), name="logits")(x)
    return TTFSModel(inputs, logits, lambda_tr=0.0, lambda_tb=0.0, name=name)


def _vgg(blocks, dense, **options):
    """A VGG of these blocks, with the arguments of `vgg16`."""
    part = _VGGParts(2 ** len(blocks), **options)
    x = part.first()
    for i, block in enumerate(blocks, 1):
        for j, filters in enumerate(block, 1):
            last = j == len(block)
            pool = keras.layers.MaxPooling2D(2, name=f"pool{i}") if last else None
            x = part.hidden(x, _convolution, filters, f"conv{i}_{j}", pool)
            if not last:
                x = part.dropped(x, 0.3 if (i, j) == (1, 1) else 0.4)
    x = part.dropped(keras.layers.Flatten(name="flatten")(x), 0.5)
    for i, units in enumerate(dense, 1):
        x = part.dropped(part.hidden(x, keras.layers.Dense, units, f"dense{i}"), 0.5)
    return part.model(x)


def _fast_vgg(**options):
    """The network of `fast_vgg`, with its arguments."""
    part = _VGGParts(2 ** len(FAST_VGG_BLOCKS), **options)
    x = part.dropped(part.hidden(part.first(), _small_convolution, FAST_VGG_FIRST, "conv0"), 0.3)
    for i, (first, second) in enumerate(FAST_VGG_BLOCKS, 1):
        x = part.hidden(x, _convolution, first, f"conv{i}_1", keras.layers.MaxPooling2D(2, name=f"pool{i}"))
        last = i == len(FAST_VGG_BLOCKS)
        x = part.hidden(
            x, _convolution, second, f"conv{i}_2", keras.layers.GlobalMaxPooling2D(name="pool") if last else None
        )
        if not last:
            x = part.dropped(x, 0.4)
    return part.model(part.dropped(x, 0.5))


class _VGGParts:
    """The parts of a VGG, with the options of `vgg16`, for images of at least `smallest` x `smallest`."""

    def __init__(
        self, smallest, *, input_shape, classes, width, name, input_coding, activation, lambda_tr, lambda_tb, **options
    ):
        input_shape, self.classes, self.width = _check_network(input_shape, smallest, classes, width, name)
        self.input_coding = checks.one_of("input_coding", input_coding, ("ttfs", "analog"))
        self.activation = checks.one_of("activation", activation, ("ttfs", "relu"))
        self.model_options = {"lambda_tr": lambda_tr, "lambda_tb": lambda_tb, "name": name}
        self.temporal_kernel_options = self._own_options(**options)
        # Checks the options of a ReLU network too, which has no use for them.
        TTFSActivation(**self.temporal_kernel_options, seed=0, name="checked")
        self.inputs = keras.Input(input_shape)
        self.convolutions = 0

    def _own_options(
        self, *, dropout, l2, gamma_0, bn_momentum, kernel_initializer, seed, pooling, steps_per_octave, **others
    ):
        """Checks and keeps these options; returns the others."""
        self.dropout = checks.share("dropout", dropout)
        self.l2, self.bn_momentum = checks.real(l2), checks.real(bn_momentum)
        if not 0.0 <= self.l2 < float("inf"):
            raise ValueError(f"Expected l2 >= 0. Received: l2={l2!r}")
        if not 0.0 <= self.bn_momentum < 1.0:
            raise ValueError(f"Expected bn_momentum in [0, 1). Received: bn_momentum={bn_momentum!r}")
        self.gamma_0 = checks.number("gamma_0", gamma_0, unit="1")
        self.kernel_initializer = checks.one_of("kernel_initializer", kernel_initializer, INITIALIZERS)
        self.pooling = checks.one_of("pooling", pooling, POOLINGS)
        self.seeds = _seeds(seed)
        if checks.integer("steps_per_octave", steps_per_octave, least=0, unit="steps"):
            others |= {"base": 2, "steps_per_octave": steps_per_octave, "tau_0": checks.DEFAULT_TAU_0}
        return others

    def first(self):
        """The input, encoded as spikes where that is asked for."""
        encodes = self.input_coding == "ttfs" and self.activation == "ttfs"
        return self.spikes(self.inputs, "input") if encodes else self.inputs

    def spikes(self, x, label):
        return TTFSActivation(**self.temporal_kernel_options, seed=next(self.seeds), name=f"{label}_activation")(x)

    def weights(self, passes_through=False):
        """Options of a layer with weights. A layer that `passes_through` may begin as the identity."""
        seed = next(self.seeds)
        if self.kernel_initializer == "glorot":
            initializer = keras.initializers.GlorotUniform(seed=seed)
        else:
            dirac = passes_through and self.kernel_initializer == "dirac"
            initializer = (Dirac if dirac else keras.initializers.HeNormal)(seed=seed)
        return {
            "kernel_regularizer": keras.regularizers.L2(self.l2) if self.l2 else None,
            "kernel_initializer": initializer,
        }

    def hidden(self, x, layer, units, label, pool=None):
        """Weights, norm and activation; a layer `pool` stands behind the activation or in front of it."""
        passes_through = layer is _convolution and self.convolutions > 0
        self.convolutions += layer is not keras.layers.Dense
        x = layer(_units(self.width, units), **self.weights(passes_through), use_bias=False, name=label)(x)
        initial = keras.initializers.Constant(self.gamma_0)
        x = TKBatchNorm(momentum=self.bn_momentum, gamma_initializer=initial, name=f"{label}_norm")(x)
        if pool and self.pooling == "potential":
            x = pool(x)
        x = keras.layers.ReLU(name=f"{label}_activation")(x) if self.activation == "relu" else self.spikes(x, label)
        if pool and self.pooling == "spikes":
            x = pool(x)
        return x

    def dropped(self, x, rate):
        return keras.layers.Dropout(rate * self.dropout, seed=next(self.seeds))(x) if self.dropout else x

    def model(self, x):
        """The model whose last hidden layer gives x."""
        # Logits stay in the variables' precision under a mixed policy.
        dtype = keras.config.dtype_policy().variable_dtype
        logits = keras.layers.Dense(self.classes, **self.weights(), dtype=dtype, name="logits")(x)
        return TTFSModel(self.inputs, logits, **self.model_options)


def _seeds(seed: int | None) -> Iterator[int | None]:
    """A seed for each layer with random numbers, one after the other; None for each if `seed` is None."""
    seed = checks.seed(seed, below=checks.SEEDS // 1000)
    return itertools.repeat(None) if seed is None else iter(range(seed * 1000, (seed + 1) * 1000))


def _units(width: float, units: int) -> int:
    return max(1, round(width * units))


def _convolution(filters: int, **kwargs: Any) -> keras.layers.Layer:
    return keras.layers.Conv2D(filters, 3, padding="same", **kwargs)


def _small_convolution(filters: int, **kwargs: Any) -> keras.layers.Layer:
    return keras.layers.Conv2D(filters, 2, padding="same", **kwargs)


def _check_network(input_shape, smallest, classes, width, name):
    """`(input_shape, classes, width)` as Python numbers."""
    sizes = tuple(input_shape) if isinstance(input_shape, (tuple, list)) else ()
    integers = [size for size in sizes if isinstance(size, (int, np.integer)) and not isinstance(size, bool)]
    if len(sizes) != 3 or len(integers) != 3 or min(sizes[:2]) < smallest or sizes[2] < 1:
        raise ValueError(
            f"Expected input_shape (height, width, channels) of at least {smallest}x{smallest}. "
            f"Received: input_shape={input_shape}"
        )
    checks.text("name", name)
    shape = tuple(int(size) for size in sizes)
    return shape, checks.integer("classes", classes, least=2), checks.number("width", width, above=0, unit="1")
