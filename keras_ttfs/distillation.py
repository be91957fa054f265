"""Learning from a teacher: one more term of the loss, the distance of a model's outputs from those of another model.

`TTFSModel(..., teacher=relu_model, lambda_kd=1.0, temperature=3.0)` trains with it.
"""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from keras_ttfs import checks, keras_internals, topology


def distillation(logits: Any, teacher_logits: Any, temperature: Any = 1.0) -> tf.Tensor:
    """Distance of each sample's logits from the teacher's, `(samples, ...)` [1].

    Forward: `temperature**2 * KL(p || q)` with `p = softmax(teacher_logits / temperature)`,
    `q = softmax(logits / temperature)` and `KL(p || q) = sum(p * (log p - log q))` over the last axis.

    Backward: `temperature * (q - p)` for the logits. The factor `temperature**2` keeps the gradient's size where the
    temperature grows: it tends to the difference of the centred logits over the number of classes. None for the teacher's.

    >>> distillation([[0.0, 0.0]], [[0.0, 100.0]]).numpy().round(4)
    array([0.6931], dtype=float32)

    Args:
        logits: float tensor `(samples, ..., classes)`. float16 and bfloat16 are computed in float32.
        teacher_logits: float tensor of the same shape.
        temperature: float > 0 [1]: above 1, the teacher's smaller outputs weigh more.

    Returns:
        Tensor `(samples, ...)`, 0 where both say the same.

    Raises:
        ValueError: "Expected teacher_logits of the shape of logits. Received: ...", or for a wrong temperature.

    Reference: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
    """
    temperature = checks.number("temperature", temperature, above=0, unit="1")
    logits = checks.tensor("logits", logits)
    logits = tf.cast(logits, tf.float64 if logits.dtype == tf.float64 else tf.float32)
    theirs = tf.stop_gradient(tf.cast(checks.tensor("teacher_logits", teacher_logits), logits.dtype))
    if logits.shape.rank == 0 or not logits.shape.is_compatible_with(theirs.shape):
        raise ValueError(
            f"Expected teacher_logits of the shape of logits, (samples, ..., classes). Received: logits of shape "
            f"{logits.shape}, teacher_logits of shape {theirs.shape}"
        )
    log_q, log_p = (tf.nn.log_softmax(values / temperature) for values in (logits, theirs))
    return temperature**2 * tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Teaching:
    """What a model learns from: a teacher, and how much.

    A model keeps it beside its layers, so that the teacher is neither trained nor saved with it.

    Attributes:
        teacher: keras.Model whose outputs are logits; called with `training=False`.
        lambda_kd: float >= 0: weight of the term in the loss [1].
        temperature: float > 0 [1].
        mean: metric: the mean of the term, without its weight.
    """

    teacher: keras.Model
    lambda_kd: float
    temperature: float
    mean: keras.metrics.Metric = dataclasses.field(default_factory=lambda: keras.metrics.Mean(name="kd"))

    def __post_init__(self):
        checks.number("lambda_kd", self.lambda_kd, least=0, unit="1")
        checks.number("temperature", self.temperature, above=0, unit="1")
        if not isinstance(self.teacher, keras.Model):
            raise ValueError(f"Expected teacher to be a keras.Model. Received: teacher={self.teacher!r}")

    def check_student(self, student: keras.Model) -> None:
        """Raises ValueError where the outputs of one of the two are not the other's logits, as far as it is known."""
        for role, model in (("a teacher", self.teacher), ("a model with a teacher", student)):
            if _ends_in_softmax(model):
                raise ValueError(
                    f"Expected {role} whose outputs are logits. Received: {model.name!r}, which ends in softmax"
                )
        if any(keras_internals.functional_of(model) is None for model in (self.teacher, student)):
            return
        theirs, ours = (keras.tree.flatten(model.outputs) for model in (self.teacher, student))
        if len(ours) != 1 or [tuple(tensor.shape) for tensor in theirs] != [tuple(tensor.shape) for tensor in ours]:
            raise ValueError(
                f"Expected a teacher with the one output of its student. Received: {self.teacher.name!r} with outputs "
                f"of shapes {[tuple(tensor.shape) for tensor in theirs]}, {student.name!r} with "
                f"{[tuple(tensor.shape) for tensor in ours]}"
            )

    def loss(self, x: Any, logits: tf.Tensor, sample_weight: Any = None) -> tf.Tensor:
        """The term of a batch, without its weight: the mean over the samples, as Keras weighs losses; a scalar."""
        values = distillation(logits, self.teacher(x, training=False), self.temperature)
        if sample_weight is not None:
            weight = tf.cast(sample_weight, values.dtype)
            # `(samples, 1)` too, as Keras takes it.
            if weight.shape.rank == values.shape.rank + 1:
                weight = tf.squeeze(weight, -1)
            values *= tf.reshape(
                weight, tf.concat([tf.shape(weight), [1] * (values.shape.rank - weight.shape.rank)], 0)
            )
        mean = tf.reduce_mean(values)
        self.mean.update_state(mean, sample_weight=tf.shape(values)[0])
        return mean


def _ends_in_softmax(model: keras.Model) -> bool:
    """Whether a graph of layers gives what a softmax returns; False for a model whose graph is not known."""
    functional = keras_internals.functional_of(model)
    if functional is None:
        return False
    operation = keras_internals.operation_type(keras.ops.softmax)

    def visit(layer, *args, **kwargs):
        activation = getattr(layer, "activation", None)
        ends = activation is keras.activations.softmax or isinstance(layer, (keras.layers.Softmax, operation))
        count = keras_internals.output_count(layer)
        return ends if count == 1 else [ends] * count

    found = topology.walk(model, [False] * len(functional.inputs), visit)
    return any(keras.tree.flatten(found))
