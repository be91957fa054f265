"""Training steps with the weights of imperfect hardware. What is wrong with neurons, layers know themselves."""

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_ttfs import noise, topology
from keras_ttfs.noise import straight_through


def outputs_with_noise(model: keras.Model, x: Any, kinds: Iterable[noise.Noise], draws: noise.TrainingDraws) -> Any:
    """The outputs of a model in training, with the weights that noise leaves of its own.

    Forward: the layers compute with disturbed kernels, drawn anew. Backward: gradients go straight to the kernels.

    Args:
        model: whose layers are called.
        x: its inputs.
        kinds: of noise that disturb weights, in their order.
        draws: random numbers of this step.
    """
    if not model.built:
        # Not in the scope below, where weights would be made that nothing trains.
        model(keras.tree.map_structure(lambda value: keras.KerasTensor(value.shape, value.dtype.name), x))
    disturbed = []
    for layer in topology.layers_of(model, keras.layers.Layer):
        for kernel, axes in noise.kernels_of(layer):
            exact = value = tf.cast(tf.convert_to_tensor(kernel), kernel.dtype)
            for each in kinds:
                value = each.weights(value, axes, draws)
            disturbed.append((kernel, straight_through(value, exact)))
    with keras.StatelessScope(state_mapping=disturbed, collect_losses=True) as scope:
        outputs = model(x, training=True)
    kernels = {id(kernel) for kernel, _ in disturbed}
    for variable in model.variables:
        value = scope.get_current_value(variable)
        if value is not None and id(variable) not in kernels:
            variable.assign(value)
    if scope.losses:
        # Of activity regularisers and add_loss; those of weights are of the exact ones. A Functional has no method for it.
        keras.layers.Layer.add_loss(model, scope.losses)
    return outputs
