"""Networks of the paper, ready to train."""

import keras

from keras_ttfs import spike_time
from keras_ttfs.layers import TKBatchNorm, TTFSActivation, _check_number
from keras_ttfs.models import TTFSModel

# Channels of each block of convolutions; 2x2 max pooling ends a block.
VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGG16_DENSE = (512, 512)
VGG6_BLOCKS = ((32, 32), (64, 64))
VGG6_DENSE = (128,)


def vgg16(input_shape=(32, 32, 3), classes=10, **kwargs):
    """VGG-16 of the paper: 13 convolutions and 3 dense layers, each but the last followed by TKBatchNorm and activation.

    conv 64,64,P,128,128,P,256x3,P,512x3,P,512x3,P (3x3, same; P: 2x2 max pooling), dense 512, 512, classes. The output is
    the membrane potential of the last layer: plain logits. At 32x32x3 and 10 classes it has 280,586 neurons.

    >>> vgg16(width=0.25).neurons
    72458

    Args:
        input_shape: `(height, width, channels)`, at least 32x32; intensities in [0, 1].
        classes: int >= 2.
        width: float > 0: factor on every hidden channel count.
        time_window, tau_0, t_d_0, z_max_0, rounding, kernel_gradient: of every TTFSActivation.
        input_coding: `"ttfs"` encodes the input as spikes (the paper); `"analog"` injects it as it is.
        activation: `"ttfs"`; `"relu"` for the ReLU twin: the same layers and the same weights layout, no kernels.
        dropout: float in [0, 1]: factor on the authors' rates (0.3 after the first convolution, 0.4 after each that no
            pooling follows, 0.5 after flattening and each dense layer). 0: none, 1: theirs.
        l2: float >= 0: factor of the squared norm of every weight matrix in the loss.
        gamma_0: float: initial scale of every batch normalisation (Keras: 1). Below 1, pre-activations start inside
            [z_min, z_max].
        bn_momentum: float in [0, 1): of the moving statistics (Keras: 0.99; runs of few steps need less).
        lambda_tr, lambda_tb: of TTFSModel.
        seed: int or None, of relaxation and dropout.
        name: of the model.

    Returns:
        A TTFSModel.

    Raises:
        ValueError: "Expected ... Received: ...".

    Reference: section 6, Table 3.
    """
    return _vgg("vgg16", VGG16_BLOCKS, VGG16_DENSE, input_shape, classes, **kwargs)


def vgg6(input_shape=(8, 8, 1), classes=10, **kwargs):
    """A small network in VGG's manner for small images: conv 32,32,P,64,64,P, dense 128, classes. Arguments as `vgg16`."""
    return _vgg("vgg6", VGG6_BLOCKS, VGG6_DENSE, input_shape, classes, **kwargs)


def spike_time_vgg6(input_shape=(8, 8, 1), classes=10, *, width=1.0, seed=None, name="spike_time_vgg6"):
    """The blocks of `vgg6`, of neurons in the spike-time domain: without temporal kernel, time window and normalisation.

    conv 32,32,P,64,64,P, dense 128, classes, of the layers of Zhou et al. The logits say how early each output neuron
    fires. Spike times are real numbers, so there are no time steps. The layers sort their inputs and add them one by one,
    which takes far longer than a convolution.

    >>> spike_time_vgg6(width=0.25).neurons
    1642

    Args:
        input_shape: `(height, width, channels)`, at least 4x4; intensities in [0, 1].
        classes: int >= 2.
        width: float > 0: factor on every hidden channel count [1].
        seed: int or None, of the initial weights.
        name: str, of the model.

    Returns:
        A TTFSModel.

    Raises:
        ValueError: "Expected ... Received: ...".

    Reference: Zhou et al., "Temporal-coded deep spiking neural network with easy training and robust performance", AAAI
    2021.
    """
    _check_size(input_shape, 2 ** len(VGG6_BLOCKS), classes, width)
    next_seed = _seeds(seed)
    inputs = keras.Input(input_shape)
    x = spike_time.SpikeTimeEncode(name="encode")(inputs)
    for i, block in enumerate(VGG6_BLOCKS, 1):
        for j, filters in enumerate(block, 1):
            filters = max(1, round(width * filters))
            x = spike_time.SpikeTimeConv2D(filters, seed=next_seed(), name=f"conv{i}_{j}")(x)
        x = spike_time.SpikeTimePooling2D(2, name=f"pool{i}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for i, units in enumerate(VGG6_DENSE, 1):
        x = spike_time.SpikeTimeDense(max(1, round(width * units)), seed=next_seed(), name=f"dense{i}")(x)
    logits = spike_time.SpikeTimeOutput(classes, seed=next_seed(), name="logits")(x)
    return TTFSModel(inputs, logits, lambda_tr=0.0, lambda_tb=0.0, name=name)


def _vgg(
    name,
    blocks,
    dense,
    input_shape,
    classes,
    *,
    width=1.0,
    time_window=32,
    tau_0=10.0,
    t_d_0=0.0,
    z_max_0=None,
    rounding="ceil",
    kernel_gradient="decoder",
    input_coding="ttfs",
    activation="ttfs",
    dropout=0.0,
    l2=0.0,
    gamma_0=1.0,
    bn_momentum=0.99,
    lambda_tr=1e-5,
    lambda_tb=1e-5,
    seed=None,
    **kwargs,
):
    _check_vgg(input_shape, 2 ** len(blocks), classes, width, input_coding, activation, dropout, l2, gamma_0)
    if not 0.0 <= bn_momentum < 1.0:
        raise ValueError(f"Expected bn_momentum in [0, 1). Received: bn_momentum={bn_momentum!r}")
    kwargs.setdefault("name", name)
    next_seed = _seeds(seed)

    def activate(x, label):
        if activation == "relu" and label != "input":
            return keras.layers.ReLU(name=f"{label}_activation")(x)
        return TTFSActivation(
            time_window,
            tau_0,
            t_d_0,
            rounding,
            kernel_gradient,
            z_max_0=z_max_0,
            seed=next_seed(),
            name=f"{label}_activation",
        )(x)

    def synapse(x, layer, units, label):
        regularizer = keras.regularizers.L2(l2) if l2 else None
        initializer = keras.initializers.GlorotUniform(seed=next_seed())
        options = {"use_bias": False, "kernel_regularizer": regularizer, "kernel_initializer": initializer}
        x = layer(max(1, round(width * units)), **options, name=label)(x)
        initial = keras.initializers.Constant(gamma_0)
        x = TKBatchNorm(momentum=bn_momentum, gamma_initializer=initial, name=f"{label}_norm")(x)
        return activate(x, label)

    def drop(x, rate):
        return keras.layers.Dropout(rate * dropout, seed=next_seed())(x) if dropout else x

    inputs = keras.Input(input_shape)
    x = activate(inputs, "input") if input_coding == "ttfs" and activation == "ttfs" else inputs
    for i, block in enumerate(blocks, 1):
        for j, filters in enumerate(block, 1):
            x = synapse(x, _convolution, filters, f"conv{i}_{j}")
            if j < len(block):
                x = drop(x, 0.3 if (i, j) == (1, 1) else 0.4)
        x = keras.layers.MaxPooling2D(2, name=f"pool{i}")(x)
    x = drop(keras.layers.Flatten(name="flatten")(x), 0.5)
    for i, units in enumerate(dense, 1):
        x = drop(synapse(x, keras.layers.Dense, units, f"dense{i}"), 0.5)
    head = keras.layers.Dense(
        classes,
        kernel_regularizer=keras.regularizers.L2(l2) if l2 else None,
        kernel_initializer=keras.initializers.GlorotUniform(seed=next_seed()),
        dtype=_head_dtype(),
        name="logits",
    )
    return TTFSModel(inputs, head(x), lambda_tr=lambda_tr, lambda_tb=lambda_tb, **kwargs)


def _seeds(seed):
    """A function that gives the next layer's seed, None if `seed` is."""
    seeds = iter(range(seed * 1000, (seed + 1) * 1000)) if seed is not None else None
    return lambda: next(seeds) if seeds is not None else None


def _head_dtype():
    """Logits stay in the variables' precision under a mixed policy."""
    return keras.config.dtype_policy().variable_dtype


def _convolution(filters, **kwargs):
    return keras.layers.Conv2D(filters, 3, padding="same", **kwargs)


def _check_size(input_shape, smallest, classes, width):
    if len(input_shape) != 3 or any(size is None or size < smallest for size in input_shape[:2]):
        raise ValueError(
            f"Expected input_shape (height, width, channels) of at least {smallest}x{smallest}. "
            f"Received: input_shape={input_shape}"
        )
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise ValueError(f"Expected classes to be an integer >= 2. Received: classes={classes!r}")
    _check_number("width", width, positive=True, unit="1")


def _check_vgg(input_shape, smallest, classes, width, input_coding, activation, dropout, l2, gamma_0):
    _check_size(input_shape, smallest, classes, width)
    _check_number("gamma_0", gamma_0, unit="1")
    for name, value, choices in (
        ("input_coding", input_coding, ("ttfs", "analog")),
        ("activation", activation, ("ttfs", "relu")),
    ):
        if value not in choices:
            raise ValueError(f"Expected {name} to be one of {choices}. Received: {name}={value!r}")
    if not 0.0 <= dropout <= 1.0:
        raise ValueError(f"Expected dropout in [0, 1]. Received: dropout={dropout!r}")
    if not l2 >= 0.0:
        raise ValueError(f"Expected l2 >= 0. Received: l2={l2!r}")
