"""Initial values of weights that Keras lacks."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf


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
