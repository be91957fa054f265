"""TTFSModel: a Keras model whose training step adds the temporal-kernel terms of Eq. 9.

Use it as keras.Model: functional, `TTFSModel(inputs, outputs)`, or subclassed. Everything else stays as Keras has it:
`compile`, `fit`, `evaluate`, `save`. `RelaxationSchedule` and `TemporalKernelHistory` are callbacks for `fit`.

>>> inputs = keras.Input((8, 8, 1))
>>> x = keras.layers.Flatten()(TTFSActivation(name="input")(inputs))
>>> x = TTFSActivation(name="hidden")(TKBatchNorm()(keras.layers.Dense(16)(x)))
>>> model = TTFSModel(inputs, keras.layers.Dense(10)(x), lambda_tr=1e-5, lambda_tb=1e-5)
>>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
>>> model.compile("adam", loss, metrics=["accuracy"])
>>> model.neurons, len(model.encoders), len(model.batch_norm_pairs())
(90, 2, 1)
"""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import (
    checks,
    distribution,
    hardening,
    keras_internals,
    metrics,
    model_inputs,
    regularizers,
    temporal_kernel,
    topology,
    tracing,
)
from keras_ttfs import noise as noises
from keras_ttfs.batch_norm import TKBatchNorm
from keras_ttfs.distillation import Teaching
from keras_ttfs.layers import TTFSActivation, TTFSEncode, neurons_of

SPIKE_METRICS = ("spikes", "input_spikes", "spikes_per_neuron")


@keras.saving.register_keras_serializable("keras_ttfs")
class TTFSModel(keras_internals.DistributedModel):
    """Functional or subclassed Keras model trained with `L = L_CE + L2 + lambda_tr * REG_TR - lambda_tb * P_TB`.

    With a teacher, `fit` adds `lambda_kd * distillation(logits, teacher's logits, temperature)`, its mean over the batch,
    and logs it without its weight as `kd`. `evaluate` does not. The teacher is called on the same inputs with
    `training=False`. It is no part of the model: it is neither trained nor saved, and a loaded or cloned model has none.
    `learn_from` gives it one.

    `L_CE` is the compiled loss. `L2` is the sum of the layers' own regularisers. REG_TR sums over all temporal kernels.
    P_TB sums over the channels of every TKBatchNorm that an encoder follows.

    `fit` logs `reg_tr` and `p_tb`. `evaluate` adds three numbers: `spikes` (mean per sample, hidden layers),
    `input_spikes` (mean per sample, encoders of the input) and `spikes_per_neuron` (`spikes` over all neurons, inputs
    and outputs included; the paper's "sparsity", where lower is sparser).

    In a functional model, layers without weights (pooling, dropout, reshaping) and the borders of nested models may lie
    between a TKBatchNorm and its encoder. An encoder encodes the input if nothing with weights, no average pooling and
    no merging but Concatenate precedes it. In a subclassed model the encoder must be called on the very output of the
    TKBatchNorm, and `self.input_encoders = [layer, ...]` names the encoders of the input. A layer that is called
    several times counts its spikes each time. If only some of its calls encode the input, all its spikes are hidden.

    Forward and backward: those of `keras.Model`; the gradient of the loss includes the two added terms.

    >>> x = keras.Input((8,))
    >>> model = TTFSModel(x, keras.layers.Dense(2)(TTFSEncode()(x)[0]), lambda_tr=1e-5)
    >>> model.neurons
    10

    Args:
        *args, **kwargs: as `keras.Model`.
        lambda_tr: float >= 0: weight of REG_TR [1/steps^2].
        lambda_tb: float >= 0: weight of P_TB [1].
        teacher: keras.Model of the same output, logits of the same inputs; or None.
        lambda_kd: float >= 0: weight of the distillation [1]; 0 without a teacher.
        temperature: float > 0: of the distillation [1].
        noise: objects of `keras_ttfs.noise`, in a list, or one of them: `fit` hardens the model against them. Spikes,
            thresholds and weights are disturbed anew in every step, and gradients pass straight through. `evaluate` and a
            saved model know nothing of it.

    Call arguments:
        inputs: tensor or structure of tensors, as the model was made for.
        training: bool or None: passed to the layers.
        mask: as `keras.Model`.

    Input shape: the shape that the model was made for.

    Output shape: the shape of its outputs.

    Raises:
        ValueError: "Expected lambda_tr to be a finite number >= 0 [1/steps^2]. Received: ...", and so for lambda_tb; and as
            `learn_from`.

    Differs from the paper: the gradients are the mathematical ones, where Eqs. 6 and 15 are misprinted.

    Reference: Eq. 9.
    """

    def __new__(cls, *args: Any, **kwargs: Any):
        # As keras.Model does. Left to itself, Keras would rebase TTFSModel, and later subclasses could not be built.
        if cls is TTFSModel and (args or "inputs" in kwargs):
            cls = FunctionalTTFSModel
        return super().__new__(cls, *args, **kwargs)

    def __init__(
        self,
        *args: Any,
        lambda_tr: float = 1e-5,
        lambda_tb: float = 1e-5,
        teacher: keras.Model | None = None,
        lambda_kd: float = 0.0,
        temperature: float = 1.0,
        noise: Any = (),
        **kwargs: Any,
    ):
        if (args or "inputs" in kwargs) and not isinstance(self, FunctionalTTFSModel):
            keras_internals.make_functional(type(self), TTFSModel, FunctionalTTFSModel)
        checks.keywords(type(self), kwargs)
        checks.number("lambda_tr", lambda_tr, least=0, unit="1/steps^2")
        checks.number("lambda_tb", lambda_tb, least=0, unit="1")
        options = {"lambda_tr": lambda_tr, "lambda_tb": lambda_tb} | keras_internals.options_of_clone((args, kwargs))
        super().__init__(*args, **kwargs)
        self.lambda_tr = float(options["lambda_tr"])
        self.lambda_tb = float(options["lambda_tb"])
        self._reg_tr = keras.metrics.Mean(name="reg_tr")
        self._p_tb = keras.metrics.Mean(name="p_tb")
        # What `test_step` has seen: samples, and the spikes and neurons of all of them.
        names = ("samples", "neurons", "spikes", "input_spikes")
        self._seen = {name: keras.metrics.Sum(name=f"keras_ttfs_{name}", dtype="int64") for name in names}
        self._tested = False
        self._range_seen = False
        self.temporal_kernels_frozen = False
        self.teaching: Teaching | None = None
        self.learn_from(teacher, lambda_kd=lambda_kd, temperature=temperature)
        self.harden(noise)

    def harden(self, noise: Any) -> None:
        """Makes `fit` disturb the model from now on; with an empty list not any more.

        Args:
            noise: as for the model.

        Raises:
            ValueError: "Expected noise to be objects of keras_ttfs.noise ... Received: ...", and for encoders that are no
                TTFSActivation.
        """
        self.noise = noises.check(noise)
        self._give_noise_to_encoders()
        self._weight_noise = tuple(each for each in self.noise if each.disturbs_weights)
        # Public for who resumes a fit. Not a SeedGenerator itself, which would be saved with the model.
        # In the scope, so that all replicas draw the same.
        with self.distribute_strategy.scope():
            self.weight_draws = noises.TrainingDraws(keras.random.SeedGenerator()) if self._weight_noise else None
        # A traced step would go on with what it was traced with.
        self.train_function = None

    def _give_noise_to_encoders(self):
        """Gives the layers what disturbs them. A subclassed model may have made them after its __init__."""
        kinds = tuple(each for each in self.noise if each.disturbs_neurons)
        for encoder in self.encoders:
            if kinds and not isinstance(encoder, TTFSActivation):
                raise ValueError(
                    f"Expected every encoder to be a TTFSActivation in a model with noise. Received: layer {encoder.name!r} "
                    f"({type(encoder).__name__})"
                )
            if isinstance(encoder, TTFSActivation):
                encoder.noise = kinds
        return kinds

    def learn_from(self, teacher: keras.Model | None, *, lambda_kd: float = 0.0, temperature: float = 1.0) -> None:
        """Makes `fit` distil a teacher from now on; with None, no teacher any more.

        Args:
            teacher, lambda_kd, temperature: as for the model.

        Raises:
            ValueError: "Expected a teacher ... Received: ..." for outputs of another shape or behind a softmax, where that
                is known; "Expected lambda_kd=0 without a teacher. Received: ..."; and for a wrong number.
        """
        checks.number("lambda_kd", lambda_kd, least=0, unit="1")
        checks.number("temperature", temperature, above=0, unit="1")
        if teacher is None and lambda_kd:
            raise ValueError(f"Expected lambda_kd=0 without a teacher. Received: lambda_kd={lambda_kd}")
        teaching = None if teacher is None else Teaching(teacher, float(lambda_kd), float(temperature))
        if teaching:
            teaching.check_student(self)
        self.teaching = teaching
        # A traced step would go on with what it was traced with.
        self.train_function = None

    def freeze_temporal_kernels(self, frozen: bool) -> None:
        """While frozen, `fit` leaves every tau and t_d as it is, and the loss is without REG_TR and P_TB.

        It is a state of training: it is not saved. The callback `FreezeTemporalKernels` sets it for the first epochs.

        Raises:
            ValueError: "Expected frozen to be a bool. Received: ...".
        """
        if checks.flag("frozen", frozen) == self.temporal_kernels_frozen:
            return
        self.temporal_kernels_frozen = frozen
        # Steps that are traced would go on as they were traced.
        if self.train_function is not None:
            self.make_train_function(force=True)
        if self.test_function is not None:
            self.make_test_function(force=True)

    @property
    def metrics(self) -> list:
        """As `keras.Model.metrics`, with the mean of the distillation."""
        return [*super().metrics, *([self.teaching.mean] if self.teaching else [])]

    @property
    def encoders(self) -> list[TTFSEncode]:
        """Every TTFSEncode and TTFSActivation of the model, nested ones included."""
        return topology.layers_of(self, TTFSEncode)

    def batch_norm_pairs(self) -> list[tuple[TKBatchNorm, TTFSEncode]]:
        """`[(TKBatchNorm, encoder that follows it), ...]`. A subclassed model must have been called before."""
        return list(dict.fromkeys((norm, call.layer) for call in self._spiking_calls() for norm in call.norms))

    def _spiking_calls(self, shapes=False):
        return topology.spiking_calls(self, getattr(self, "input_encoders", ()), shapes)

    def _counting_hidden(self, calls):
        """The layers that count their spikes, without those that only encode the input in these calls."""
        inner, outer = ({call.layer for call in calls if call.encodes_input is is_input} for is_input in (False, True))
        return [layer for layer in topology.counting_layers(self) if layer not in outer - inner]

    def penalties(self) -> tuple[tf.Tensor, tf.Tensor]:
        """`(REG_TR, P_TB)` of the model's present weights, two scalars [steps^2], [1]."""
        # All layers' numbers in one vector, because hundreds of small operations would cost as much as a convolution.
        encoders, pairs = self.encoders, self.batch_norm_pairs()
        # Layers may have policies of their own.
        dtype = tf.float64 if any(encoder.variable_dtype == "float64" for encoder in encoders) else tf.float32
        reg_tr = p_tb = tf.constant(0.0, dtype)
        if encoders:
            tau, t_d = (tf.stack([tf.cast(getattr(e, name), dtype) for e in encoders]) for name in ("tau", "t_d"))
            tau_0, t_d_0 = (np.array([getattr(e, name) for e in encoders]) for name in ("tau_0", "t_d_0"))
            reg_tr = tf.reduce_sum(regularizers.temporal_kernel_penalty(tau, t_d, tau_0, t_d_0))
        if pairs:
            affine = [[tf.cast(vector, dtype) for vector in norm.affine()] for norm, _ in pairs]
            gamma, beta = (tf.concat(vectors, axis=0) for vectors in zip(*affine))
            channels = [tf.size(norm.moving_mean) for norm, _ in pairs]
            z_min = tf.repeat([tf.cast(encoder.z_min, dtype) for _, encoder in pairs], channels)
            p_tb = tf.reduce_sum(regularizers.pruning_probability(gamma, beta, tf.stop_gradient(z_min)))
        return reg_tr, p_tb

    def firing_probability(self, affine: Mapping | None = None) -> tf.Tensor:
        """R: the sum over all pairs of `batch_norm_pairs` of the mean firing probability of the channels [1], a scalar.

        A layer weighs as many times as its neurons exceed those of the mean layer, because a neuron is a spike at most:
        R is the number of pairs times the expected spikes per neuron. Each layer weighs 1 in models of unknown shapes.
        The probability is that of single potentials, also where max pooling stands between the two.

        Args:
            affine: `{TKBatchNorm: (gamma, beta)}` to compute it of, or None: those that the layers have.
        """
        neurons: dict[tuple, int] = {}
        for call in self._spiking_calls():
            for norm in call.norms:
                neurons[norm, call.layer] = neurons.get((norm, call.layer), 0) + (call.neurons or 0)
        average = sum(neurons.values()) / len(neurons) if all(neurons.values()) and neurons else None
        means = []
        for (norm, encoder), count in neurons.items():
            # The smallest threshold. With rounding="nearest" it lies half a step below the smallest level.
            late = temporal_kernel.threshold_shift(encoder.rounding) / encoder.tau
            threshold = tf.stop_gradient(encoder.z_min * tf.exp(-late))
            gamma, beta = affine[norm] if affine else norm.affine()
            mean = tf.reduce_mean(regularizers.firing_probability(gamma, beta, tf.cast(threshold, gamma.dtype)))
            # Layers may have policies of their own.
            means.append(tf.cast(mean, tf.float32) * (count / average if average else 1.0))
        return tf.add_n(means) if means else tf.constant(0.0)

    def count_spikes(self, x: Any) -> dict[str, tf.Tensor]:
        """`{layer: mean spikes per sample}` of the hidden layers on one batch, at inference.

        Args:
            x: inputs of the model, a batch.
        """
        before = self._counted()
        self(x, training=False)
        after, none = self._counted(), (tf.zeros((), tf.int64),)
        samples = tf.cast(tf.shape(_given(x)[0])[0], tf.float32)
        hidden = topology.labels(self._counting_hidden(self._spiking_calls()))
        return {
            label: tf.cast(after[layer][0] - before.get(layer, none)[0], tf.float32) / samples
            for layer, label in hidden.items()
        }

    def _step_loss(self, x, y, y_pred, sample_weight, terms, training):
        """The one place that adds Eq. 9, and the distillation. Updates the trackers of the loss and of its terms.

        `terms` is `penalties()`.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1:
            distribution.check_step(self, y_pred, training)
        # Keras divides its own loss by the replicas.
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training) * replicas
        reg_tr, p_tb = terms
        if not self.temporal_kernels_frozen:
            loss += tf.cast(self.lambda_tr * reg_tr - self.lambda_tb * p_tb, loss.dtype)
        if self.teaching and training:
            kd = self.teaching.loss(x, y_pred, sample_weight)
            loss += tf.cast(self.teaching.lambda_kd * kd, loss.dtype)
        batch = tf.shape(_given(x)[0])[0]
        if replicas > 1 and not training:
            # The mean of no samples is not a number.
            loss = tf.where(batch > 0, loss, tf.zeros_like(loss))
        keras_internals.track_loss(self, loss, batch)
        self._reg_tr.update_state(reg_tr)
        self._p_tb.update_state(p_tb)
        return loss

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.fit`, of several devices or machines too. Warns once where an encoder of the input receives more
        than intensities in [0, 1].

        Raises:
            ValueError: "Expected inputs of shape (samples, ...) of real numbers. Received: ..."; for a strategy other than
                MirroredStrategy and MultiWorkerMirroredStrategy; as `distribution.check_fit` and `check_step`; and on every
                worker where workers were given other settings or arrays, or models that differ in more than their shapes, at
                which TensorFlow waits. Of a tf.data.Dataset the specification and the number of batches are compared.

        With several replicas a `compute_loss` of one's own divides what it returns by their number, as that of Keras does.
        """
        bound = inspect.signature(super().fit).bind(x, *args, **kwargs)
        distribution.check_fit(self, bound.arguments, lambda: model_inputs.check_arrays(self, x))
        if not self._range_seen:
            self._range_seen = True
            encoder = model_inputs.raw_encoder(self)
            bound.arguments["x"] = x if encoder is None or not encoder.built else model_inputs.watched(x, encoder)
        if keras_internals.several_workers(self.distribute_strategy):
            bound.arguments["callbacks"] = distribution.with_equal_rates(bound.arguments.get("callbacks"))
        frozen = self.temporal_kernels_frozen
        try:
            return super().fit(*bound.args, **bound.kwargs)
        finally:
            # An interrupted fit calls no callback.
            self.freeze_temporal_kernels(frozen)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`, with the counts of spikes.

        Raises: as `fit` for inputs of the wrong kind, and for losses that several replicas do not share.
        """
        model_inputs.check_arrays(self, x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.predict`. Raises as `fit` for inputs of the wrong kind."""
        model_inputs.check_arrays(self, x)
        return super().predict(x, *args, **kwargs)

    def export(self, filepath: Any, format: str = "tf_saved_model", *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.export`. Of half precision it writes a SavedModel alone: other runtimes cannot run such files.

        Raises:
            ValueError: "Expected layers in float32 ... Received: ..." for a layer in half precision.
        """
        if format != "tf_saved_model":
            for layer in [self, *topology.layers_of(self, keras.layers.Layer)]:
                # A graph and its inputs compute nothing themselves.
                if keras_internals.functional_of(layer) is None and not isinstance(layer, keras.layers.InputLayer):
                    tracing.check_precision(layer, traced=False)
        super().export(filepath, format, *args, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of `fit` with the loss of Eq. 9; returns the logs, without counts of spikes."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if self._give_noise_to_encoders() and not self.encoders:
            raise ValueError(f"Expected a model with a TTFSActivation for noise of neurons. Received: {self.name!r}")
        with tf.GradientTape() as tape:
            if self.weight_draws:
                y_pred = hardening.outputs_with_noise(self, x, self._weight_noise, self.weight_draws)
            else:
                y_pred = self(x, training=True)
            terms = self.penalties()
            loss = self._step_loss(x, y, y_pred, sample_weight, terms, training=True)
            # The gradients of all replicas are summed.
            share = distribution.share_of(tf.shape(_given(x)[0])[0])
            loss *= tf.cast(share, loss.dtype)
            loss = self.optimizer.scale_loss(loss)
        if self.trainable_weights:
            # Eq. 9 pulls the kernels to their initial values. Weight decay would pull them to 0.
            kernels = [weight for encoder in self.encoders for weight in (encoder.tau, encoder.t_d)]
            keras_internals.exclude_from_weight_decay(self.optimizer, kernels)
            gradients = tape.gradient(loss, self.trainable_weights)
            # No gradient flows through z_min in P_TB. So TensorFlow would let kernels be updated before P_TB reads them.
            with tf.control_dependencies([loss, *terms]):
                gradients = [None if gradient is None else tf.identity(gradient) for gradient in gradients]
            if not self.temporal_kernels_frozen:
                self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
            else:
                self._apply_but_to(kernels, gradients)
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        distribution.average_statistics(topology.layers_of(self, keras.layers.Layer), share)
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return {name: value for name, value in logs.items() if name not in SPIKE_METRICS}

    def _apply_but_to(self, frozen, gradients):
        """Applies gradients to all weights but the frozen ones."""
        held = {id(weight): tf.identity(weight) for weight in frozen}
        pairs = zip(gradients, self.trainable_weights)
        gradients = [tf.zeros_like(weight) if id(weight) in held else value for value, weight in pairs]
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
        # The momentum of earlier steps moves a weight whose gradient is 0.
        for weight in frozen:
            weight.assign(held[id(weight)])

    def test_step(self, data: Any) -> dict[str, Any]:
        """One step of `evaluate` with the loss of Eq. 9; counts spikes and returns the logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        before = self._counted()
        y_pred = self(x, training=False)
        self._step_loss(x, y, y_pred, sample_weight, self.penalties(), training=False)
        self._count(before, _given((x, y_pred)))
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return {name: value for name, value in logs.items() if not (self.teaching and name == "kd")}

    def _counted(self):
        """`{layer: (spikes, neurons)}` counted so far, of the layers that are built."""
        return {
            layer: (tf.convert_to_tensor(layer.spikes.count), tf.convert_to_tensor(layer.spikes.neurons))
            for layer in topology.counting_layers(self)
        }

    def _count(self, before, ends):
        """Adds a batch: `before` is `_counted` at its begin, `ends` are its inputs and outputs."""
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

    def get_metrics_result(self) -> dict[str, Any]:
        """The logs of `fit` and `evaluate`; after a `test_step` with the counts of spikes."""
        logs = super().get_metrics_result()
        layers = topology.counting_layers(self)
        for metric in [*self._seen.values(), *(layer.spikes for layer in layers)]:
            logs.pop(metric.name, None)
        if layers and self._tested:
            samples, neurons, spikes, input_spikes = (tf.cast(m.result(), tf.float64) for m in self._seen.values())
            # A MeanSpikes that has seen NaN counts its samples below 0.
            has_nan = tf.reduce_any([tf.convert_to_tensor(layer.spikes.samples) < 0 for layer in layers])
            samples = tf.where(has_nan, tf.constant(float("nan"), tf.float64), samples)
            neurons = tf.where(has_nan, tf.constant(float("nan"), tf.float64), neurons)
            logs["spikes"], logs["input_spikes"] = spikes / samples, input_spikes / samples
            logs["spikes_per_neuron"] = metrics.spikes_per_neuron(spikes, neurons)
        return logs

    @property
    def neurons(self) -> int:
        """N: neurons of a functional model, the units that may fire, inputs and outputs included.

        Raises:
            ValueError: "Expected fixed shapes ... Received: ...", or "Expected a functional model ...".
        """
        return self._units("neurons")

    @property
    def membranes(self) -> int:
        """Potentials that integrate: as `neurons`, with all those that a max pooling in front of an activation pools.

        Raises: as `neurons`.
        """
        return self._units("membranes")

    def _units(self, kind):
        """Inputs, outputs, and the sum of an attribute of the hidden calls."""
        if keras_internals.functional_of(self) is None:
            raise ValueError(f"Expected a functional model. Received: {self.name!r}, whose layers have no known calls")
        calls = self._spiking_calls(shapes=True)
        hidden = self._counting_hidden(calls)
        units: list[Any] = [neurons_of(tensor.shape) for tensor in self.inputs + self.outputs]
        units += [getattr(call, kind) for call in calls if call.layer in hidden]
        if None in units:
            raise ValueError(f"Expected fixed shapes. Received: {self.name!r} with inputs of shape {self.input_shape}")
        return sum(units)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "lambda_tr": self.lambda_tr, "lambda_tb": self.lambda_tb}


@keras.saving.register_keras_serializable("keras_ttfs")
class FunctionalTTFSModel(TTFSModel, keras_internals.CloneableFunctional):
    """The class of `TTFSModel(inputs, outputs)`: a TTFSModel with a graph of layers. Not to be called by this name."""

    def clone_options(self) -> dict[str, Any]:
        return {"lambda_tr": self.lambda_tr, "lambda_tb": self.lambda_tb}


# Keras' older format, a whole model as .h5, knows classes by their bare names.
keras.saving.get_custom_objects()["FunctionalTTFSModel"] = FunctionalTTFSModel


def _given(tensors):
    """The leaves of a structure of tensors, without those of optional inputs that are not given."""
    return [leaf for leaf in keras.tree.flatten(tensors) if leaf is not None]
