"""Initial values of weights that Keras lacks."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import checks


@keras.saving.register_keras_serializable("keras_ttfs")
class Dirac(keras.initializers.HeNormal):
    """Convolutions that begin by passing their input through: of the first filters, each passes one channel; He elsewhere.

    Forward: with `n = min(input channels, filters)`, filter i < n is 1 at its centre in channel i and 0 everywhere else.
    The other filters are drawn from He's normal distribution, `sqrt(2 / fan_in)` wide.

    >>> Dirac(seed=0)((3, 3, 2, 2))[1, 1].numpy()
    array([[1., 0.],
           [0., 1.]], dtype=float32)

    Args:
        seed: int or None: of the other filters.

    Call arguments:
        shape: `(height, width, ..., input channels, filters)` of a kernel, odd in space.
        dtype: of the kernel. None: Keras' own default.

    Raises:
        ValueError: "Expected a kernel ... Received: ..." for a shape that is none of a convolution, or even in space.

    Reference: Zagoruyko and Komodakis, "DiracNets: training very deep neural networks without skip-connections", 2017.
    """

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        sizes = shape if isinstance(shape, (tuple, list, tf.TensorShape)) else ()
        *space, channels, filters = sizes if len(sizes) > 2 else (0, 0, 0)
        if not all(size % 2 for size in space):
            raise ValueError(f"Expected the shape of a convolution's kernel, odd in space. Received: shape={shape!r}")
        drawn = super().__call__(shape, dtype=dtype)
        through = min(channels, filters)
        passing = np.zeros((*space, channels, through))
        passing[(*(size // 2 for size in space), range(through), range(through))] = 1.0
        passing = keras.ops.cast(passing, drawn.dtype)
        return keras.ops.concatenate([passing, drawn[..., through:]], axis=-1)


def whitening_filters(images: Any, shape: tuple[int, int, int, int], epsilon: float = 5e-4) -> np.ndarray:
    """First weights of a network that make its input white: uncorrelated numbers of equal variance.

    Forward: the filters are the eigenvectors of the covariance of all patches of the images, each divided by
    `sqrt(eigenvalue + epsilon)`, in the order of falling eigenvalues. Each stands there twice, with both signs, because an
    activation passes one sign only. Behind a batch normalisation their scale does not matter.

    >>> images = np.random.default_rng(0).uniform(size=(8, 6, 6, 3))
    >>> whitening_filters(images, (2, 2, 3, 48)).shape
    (2, 2, 3, 24)

    Args:
        images: array `(samples, height, width, channels)` of training inputs [1]. A thousand are enough.
        shape: `(height, width, channels, filters)` of the kernel.
        epsilon: float >= 0: added to each eigenvalue [1]. The noise of small ones is amplified less.

    Returns:
        Float32 array `(height, width, channels, n)`, with n = 2 height width channels, or `filters` if they are fewer.

    Raises:
        ValueError: "Expected ... Received: ..." for images that are no finite numbers, have other channels than the kernel,
            or are smaller than it.
    """
    images = checks.array("images", images)
    sizes = tuple(shape) if isinstance(shape, (tuple, list, tf.TensorShape)) else ()
    if len(sizes) != 4 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(
            f"Expected the shape (height, width, channels, filters) of a kernel. Received: shape={shape!r}"
        )
    height, width, channels, filters = sizes
    epsilon = checks.number("epsilon", epsilon, least=0, unit="1")
    if images.ndim != 4 or images.shape[3] != channels or images.shape[1] < height or images.shape[2] < width:
        raise ValueError(
            f"Expected images (samples, height, width, {channels}) of at least {height}x{width}. "
            f"Received: images of shape {images.shape}"
        )
    windows = np.lib.stride_tricks.sliding_window_view(images.astype("float64"), (height, width), axis=(1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, height * width * channels)
    eigenvalues, eigenvectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    white = (eigenvectors / np.sqrt(np.maximum(eigenvalues, 0.0) + epsilon))[:, ::-1]
    both = np.stack([white, -white], axis=-1).reshape(height, width, channels, -1)
    return both[..., :filters].astype("float32")
