"""TTFSModel: a Keras model whose training step adds the temporal-kernel terms of Eq. 9."""

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import checks, keras_internals, metrics, regularizers, topology
from keras_ttfs.layers import TTFSEncode, neurons_of

SPIKE_METRICS = ("spikes", "input_spikes", "spikes_per_neuron")


@keras.saving.register_keras_serializable("keras_ttfs")
class TTFSModel(keras.Model):
    """Functional or subclassed Keras model trained with `L = L_CE + L2 + lambda_tr * REG_TR - lambda_tb * P_TB`.

    `L_CE` is the compiled loss and `L2` whatever regularisers the layers carry. REG_TR sums over all temporal kernels,
    P_TB over the channels of every TKBatchNorm that an encoder follows. Training logs `reg_tr` and `p_tb`; `evaluate`
    adds `spikes` (mean per sample, hidden layers), `input_spikes` (of encoders before the first synapse) and
    `spikes_per_neuron` (`spikes` over all neurons, inputs and outputs included; the paper's "sparsity", lower is sparser).

    >>> x = keras.Input((8,))
    >>> model = TTFSModel(x, keras.layers.Dense(2)(TTFSEncode()(x)[0]), lambda_tr=1e-5)
    >>> model.neurons
    10

    In a functional model P_TB's batch normalisation may be separated from its encoder by layers without weights (pooling,
    dropout, reshaping) and by the borders of nested models; an encoder encodes the input where nothing with weights, no
    average pooling and no merging but Concatenate precedes it. In a subclassed model the encoder must be called on the
    normalisation's very output, and encoders of the input are named by `self.input_encoders = [layer, ...]`. A layer called
    several times counts its spikes each time; called on the input and on hidden values, all of them as hidden.

    Args:
        *args, **kwargs: as `keras.Model`.
        lambda_tr: float >= 0: weight of REG_TR [1/steps^2].
        lambda_tb: float >= 0: weight of P_TB [1].

    Raises:
        ValueError: "Expected lambda_tr to be ... Received: ...".

    Reference: Eq. 9.
    """

    def __new__(cls, *args, **kwargs):
        # As keras.Model does. Left to itself, Keras would rebase TTFSModel, and later subclasses could not be built.
        if cls is TTFSModel and (args or "inputs" in kwargs):
            cls = FunctionalTTFSModel
        return super().__new__(cls, *args, **kwargs)

    def __init__(self, *args, lambda_tr=1e-5, lambda_tb=1e-5, **kwargs):
        if (args or "inputs" in kwargs) and not isinstance(self, FunctionalTTFSModel):
            keras_internals.make_functional(type(self), TTFSModel, FunctionalTTFSModel)
        checks.number("lambda_tr", lambda_tr, least=0, unit="1/steps^2")
        checks.number("lambda_tb", lambda_tb, least=0, unit="1")
        super().__init__(*args, **kwargs)
        self.lambda_tr = float(lambda_tr)
        self.lambda_tb = float(lambda_tb)
        self._reg_tr = keras.metrics.Mean(name="reg_tr")
        self._p_tb = keras.metrics.Mean(name="p_tb")
        # What `test_step` has seen: samples; spikes and neurons of all of them.
        names = ("samples", "neurons", "spikes", "input_spikes")
        self._seen = {name: keras.metrics.Sum(name=f"keras_ttfs_{name}", dtype="int64") for name in names}
        self._tested = False

    @property
    def encoders(self) -> list:
        """Every TTFSEncode and TTFSActivation of the model, nested ones included."""
        return topology.layers_of(self, TTFSEncode)

    def batch_norm_pairs(self):
        """`[(TKBatchNorm, encoder that follows it), ...]`; a subclassed model must have been called."""
        return list(dict.fromkeys((norm, call.layer) for call in self._spiking_calls() for norm in call.norms))

    def _spiking_calls(self, shapes=False):
        return topology.spiking_calls(self, getattr(self, "input_encoders", ()), shapes)

    def _counting_hidden(self, calls):
        """The layers that count their spikes, but for those that encode the input, and nothing else, in these calls."""
        inner, outer = ({call.layer for call in calls if call.encodes_input is is_input} for is_input in (False, True))
        return [layer for layer in topology.counting_layers(self) if layer not in outer - inner]

    def penalties(self):
        """`(REG_TR, P_TB)` of the model's present weights, two scalars."""
        # All layers' numbers in one vector: hundreds of small operations would cost as much as a convolution.
        encoders, pairs = self.encoders, self.batch_norm_pairs()
        reg_tr = p_tb = tf.constant(0.0)
        if encoders:
            tau, t_d = (tf.stack([tf.convert_to_tensor(getattr(e, name)) for e in encoders]) for name in ("tau", "t_d"))
            tau_0, t_d_0 = (np.array([getattr(e, name) for e in encoders]) for name in ("tau_0", "t_d_0"))
            reg_tr = tf.reduce_sum(regularizers.temporal_kernel_penalty(tau, t_d, tau_0, t_d_0))
        if pairs:
            gamma, beta = (tf.concat(vectors, axis=0) for vectors in zip(*(norm.affine() for norm, _ in pairs)))
            z_min = tf.repeat([encoder.z_min for _, encoder in pairs], [tf.size(norm.moving_mean) for norm, _ in pairs])
            gamma, beta = tf.cast(gamma, z_min.dtype), tf.cast(beta, z_min.dtype)
            p_tb = tf.reduce_sum(regularizers.pruning_probability(gamma, beta, tf.stop_gradient(z_min)))
        return reg_tr, p_tb

    def _step_loss(self, x, y, y_pred, sample_weight, training):
        """Eq. 9, the one place. Updates the trackers of the loss and of its two terms."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        reg_tr, p_tb = self.penalties()
        # Keras divides its own loss by the replicas, whose gradients are then summed.
        loss += tf.cast(self.lambda_tr * reg_tr - self.lambda_tb * p_tb, loss.dtype) / replicas
        batch = tf.shape(keras.tree.flatten(x)[0])[0]
        keras_internals.track_loss(self, loss * replicas, batch)
        self._reg_tr.update_state(reg_tr)
        self._p_tb.update_state(p_tb)
        return loss

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self._step_loss(x, y, y_pred, sample_weight, training=True)
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return {name: value for name, value in logs.items() if name not in SPIKE_METRICS}

    def test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        before = self._counted()
        y_pred = self(x, training=False)
        self._step_loss(x, y, y_pred, sample_weight, training=False)
        self._count(before, keras.tree.flatten((x, y_pred)))
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _counted(self):
        """`{layer: (spikes, neurons)}` counted so far; a layer that is not built yet has counted none."""
        return {
            layer: (tf.convert_to_tensor(layer.spikes.count), tf.convert_to_tensor(layer.spikes.neurons))
            for layer in topology.counting_layers(self)
        }

    def _count(self, before, ends):
        """Adds a batch: `before` as `_counted` at its begin, `ends` its inputs and outputs."""
        none = (tf.zeros((), tf.int64),) * 2
        hidden = self._counting_hidden(self._spiking_calls())
        self._seen["samples"].update_state(tf.shape(ends[0], out_type=tf.int64)[0])
        self._seen["neurons"].update_state(tf.add_n([tf.size(leaf, out_type=tf.int64) for leaf in ends]))
        for layer, counts in self._counted().items():
            spikes, neurons = (now - past for now, past in zip(counts, before.get(layer, none)))
            self._seen["spikes" if layer in hidden else "input_spikes"].update_state(spikes)
            if layer in hidden:
                self._seen["neurons"].update_state(neurons)
        self._tested = True

    def get_metrics_result(self):
        logs = super().get_metrics_result()
        layers = topology.counting_layers(self)
        for metric in [*self._seen.values(), *(layer.spikes for layer in layers)]:
            logs.pop(metric.name, None)
        if layers and self._tested:
            samples, neurons, spikes, input_spikes = (tf.cast(m.result(), tf.float64) for m in self._seen.values())
            logs["spikes"], logs["input_spikes"] = spikes / samples, input_spikes / samples
            logs["spikes_per_neuron"] = metrics.spikes_per_neuron(spikes, neurons)
        return logs

    @property
    def neurons(self):
        """Neurons of a functional model, inputs and outputs included (N).

        Raises:
            ValueError: "Expected fixed shapes ... Received: ...".
        """
        calls = self._spiking_calls(shapes=True)
        hidden = self._counting_hidden(calls)
        neurons = [neurons_of(tensor.shape) for tensor in self.inputs + self.outputs]
        neurons += [call.neurons for call in calls if call.layer in hidden]
        if None in neurons:
            raise ValueError(f"Expected fixed shapes. Received: {self.name!r} with inputs of shape {self.input_shape}")
        return sum(neurons)

    def get_config(self):
        return {**super().get_config(), "lambda_tr": self.lambda_tr, "lambda_tb": self.lambda_tb}


@keras.saving.register_keras_serializable("keras_ttfs")
class FunctionalTTFSModel(TTFSModel, keras_internals.Functional):
    """What `TTFSModel(inputs, outputs)` returns."""
