"""TKBatchNorm: batch normalisation that knows its P_TB. A TTFSActivation behind it can compute both at once."""

import inspect
from typing import Any

import keras
import tensorflow as tf

from keras_ttfs import checks, fused, keras_internals, regularizers


@keras.saving.register_keras_serializable("keras_ttfs")
class TKBatchNorm(checks.CheckedLayer, keras_internals.ObservedBatchNormalization):
    """Temporal-kernel-aware batch normalisation: a `keras.layers.BatchNormalization` that knows its P_TB.

    Use it in front of a TTFSActivation or TTFSEncode. Training with `TTFSModel` adds `-lambda_tb * P_TB(gamma, beta)`
    to the loss, for the smallest level of that encoder.

    Forward and backward: those of BatchNormalization, exactly. A training step in a tf.function computes them as one
    function (`keras_ttfs.fused`): the same values bit for bit, the same gradients up to rounding errors, in less time and
    memory. In training, a TTFSActivation called on the very output of this layer computes both layers at once, likewise.
    A gradient with respect to the tensor between the two is then None.

    >>> layer = TKBatchNorm()
    >>> layer.build((None, 4))
    >>> layer.pruning_probability(0.045).numpy().round(3)
    array([0.045, 0.045, 0.045, 0.045], dtype=float32)

    Args:
        **kwargs: as `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: tensor. Integers and bools are computed in the layer's compute dtype.
        training: bool or None: whether to normalise by the batch's own statistics.
        mask: bool tensor or None: which elements the statistics are taken from.

    Input shape: `(batch, ..., channels)`; channels on `axis`.

    Output shape: the input's.

    Raises:
        ValueError: "Expected ... Received: ..." for a momentum outside [0, 1], an epsilon < 0, unknown keywords, and
            inputs that are no dense tensor of real numbers; otherwise as `keras.layers.BatchNormalization`. In a
            tf.function, for the gradient of its gradient.

    Reference: section 5, Eqs. 7, 8 and 14-16.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        checks.batch_norm(**dict(zip(("axis", "momentum", "epsilon"), args)), **kwargs)
        super().__init__(*args, **kwargs)

    __init__.__signature__ = inspect.signature(keras.layers.BatchNormalization.__init__)  # type: ignore[attr-defined]

    def check_inputs(self, inputs: Any) -> None:
        """Refuses inputs of the wrong kind, and an axis that they do not have."""
        checks.layer_inputs(inputs, axis=self.axis)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        inputs = self.floating(inputs)
        self._batch_moments: tuple[Any, Any] | None = None
        outputs = super().call(inputs, training=training, mask=mask)
        normalization = None
        if self._batch_moments is not None:
            gamma, beta = (
                None if weight is None else tf.convert_to_tensor(weight) for weight in (self.gamma, self.beta)
            )
            normalization = fused.Normalization(
                inputs, *self._batch_moments, gamma, beta, self.epsilon, self.synchronized
            )
            # In a graph the operations of Keras are dropped, because nothing takes their output.
            if tf.is_symbolic_tensor(inputs):
                outputs = fused.normalize(normalization, outputs.dtype)
        fused.attach(outputs, fused.Origin(self, normalization))
        self._batch_moments = None
        return outputs

    def moments_computed(self, inputs: Any, mask: Any, mean: Any, variance: Any) -> None:
        """Keeps the statistics if `fused` can use them."""
        # z must be a function of its own channel's moments, in a precision that `fused` computes.
        last = self.axis in (-1, len(inputs.shape) - 1)
        known = self.compute_dtype in ("float32", "bfloat16") and self.variable_dtype == inputs.dtype == tf.float32
        if mask is None and last and known and not self.renorm:
            self._batch_moments = mean, variance

    def affine(self) -> tuple[tf.Tensor, tf.Tensor]:
        """`(gamma, beta)` as tensors `(channels,)` [1]: 1 and 0 if the layer has none."""
        moving = tf.convert_to_tensor(self.moving_mean)
        gamma = tf.ones_like(moving) if self.gamma is None else tf.convert_to_tensor(self.gamma)
        beta = tf.zeros_like(moving) if self.beta is None else tf.convert_to_tensor(self.beta)
        return gamma, beta

    def pruning_probability(self, z_min: Any) -> tf.Tensor:
        """P_TB per channel, shape `(channels,)`, for an encoder's smallest level `z_min` [1], taken as a constant."""
        if not self.built:
            raise ValueError(f"Expected a layer that is built. Received: {self.name!r}, which has no weights yet")
        z_min = checks.smallest_level(z_min, self.moving_mean.shape)
        return regularizers.pruning_probability(*self.affine(), tf.stop_gradient(z_min))
