"""Keras layers of time-to-first-spike coding. They hold weights; the mathematics is in `temporal_kernel`.

    TTFSActivation         in the place of ReLU
    TKBatchNorm            in the place of BatchNormalization
    TTFSEncode             pre-activations to spike times, the first half of TTFSActivation
    TemporalKernelDecode   spike times to activations, its second half

The first TTFSActivation encodes the input, which holds intensities in [0, 1]. The last layer has none, because its
membrane potentials are the logits. Wrap the layers in `TTFSModel` to train them with the terms of Eq. 9.

>>> inputs = keras.Input((8, 8, 1))
>>> x = TTFSActivation(time_window=32)(inputs)
>>> x = keras.layers.Conv2D(4, 3, use_bias=False)(x)
>>> x = TTFSActivation(time_window=32)(TKBatchNorm()(x))
>>> logits = keras.layers.Dense(10)(keras.layers.Flatten()(x))
"""

import math
import weakref
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import checks, fused, noise, temporal_kernel, tracing
from keras_ttfs.batch_norm import TKBatchNorm as TKBatchNorm
from keras_ttfs.metrics import MeanSpikes


def neurons_of(shape: Any) -> int | None:
    """Numbers per sample of a tensor of this shape, batch first. None if a dimension is unknown."""
    return None if None in tuple(shape[1:]) else math.prod(shape[1:])


@keras.saving.register_keras_serializable("keras_ttfs")
class TTFSEncode(checks.CheckedLayer, keras.layers.Layer):
    """Encodes pre-activations as spike times. Owns the temporal kernel: weights `tau` and `t_d` [steps].

    Use it with a TemporalKernelDecode if spike times themselves are wanted. Otherwise TTFSActivation does both.
    Outside training the layer counts its spikes in the metric `spikes` (mean per sample), which `evaluate` reports.

    Forward: `t = clip(Q[-tau * ln(max(z, epsilon)) + t_d], 0, T)`; `t = T` means no spike. See
    `temporal_kernel.encode`.

    Backward: `dt/dz = -tau / (z + epsilon)` inside the window, 0 where z is pruned or clipped. The kernel receives its
    gradient from the decoder (`kernel_gradient="decoder"`, Eq. 6) or from encoder and decoder (`"full"`).

    >>> spike_time, tau, t_d = TTFSEncode(time_window=32)(keras.ops.array([[1.0, 0.5, 0.0]]))
    >>> spike_time.numpy()
    array([[ 0.,  7., 32.]], dtype=float32)

    Args:
        time_window: int >= 1, <= 2**20: T, the steps of one phase [steps].
        tau_0: float > 0: initial time constant [steps].
        t_d_0: float: initial delay [steps]. The T levels must be different, normal numbers of float32 (float64 under a
            float64 policy): `t_d_0 < 88 tau_0` and `T - t_d_0 < 87 tau_0`.
        rounding: `"ceil"` (Eq. 4) or `"nearest"`.
        kernel_gradient: `"decoder"` or `"full"`.
        z_max_0: float > 0 or None: largest level at the start [1]. It sets `t_d_0 = tau_0 * ln(z_max_0)`.
        base: None, or 2 for a kernel whose levels are powers of `2**(1 / steps_per_octave)`, exactly. Its tau is
            `steps_per_octave / ln 2` and is not trained, nor is t_d, an integer. With one step an octave every synapse is a
            shift.
        steps_per_octave: int >= 1, <= 2**20, with base 2: steps in which the threshold halves [steps].
        **kwargs: as `keras.layers.Layer`.

    Call arguments:
        inputs: tensor: pre-activations z [1]. Integers and bools are computed in the layer's compute dtype.
        training: bool. Spikes are counted when it is false.
        mask: bool tensor `(batch, ...)` or None. Spikes are counted where it is true.

    Input shape: `(batch, ...)`, of at least 2 dimensions.

    Output shape: `(spike_time, tau, t_d)`: the input's shape [steps] and two scalars [steps]. All are float32, or
    float64 under a float64 policy.

    Raises:
        ValueError: "Expected ... Received: ..." for every argument out of its range, for t_d_0 beside z_max_0, for
            inputs that are no dense tensor of real numbers, and for a call with `tau <= 0` or a tau or t_d that is not
            finite. In the graph of a tf.function, such a tau or t_d gives NaN instead.

    Differs from the paper: Eq. 3 lets a spike at t = T carry a level. Here T means silence.

    Reference: Eqs. 2-5; section 4.
    """

    def __init__(
        self,
        time_window: int = 32,
        tau_0: float = 10.0,
        t_d_0: float = 0.0,
        rounding: str = "ceil",
        kernel_gradient: str = "decoder",
        z_max_0: float | None = None,
        base: int | None = None,
        steps_per_octave: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.time_window = temporal_kernel.check_time_window(time_window)
        self.rounding = temporal_kernel.check_rounding(rounding)
        self.kernel_gradient = temporal_kernel.check_kernel_gradient(kernel_gradient)
        shift = temporal_kernel.threshold_shift(self.rounding)
        tau_0, t_d_0 = checks.base_2(base, steps_per_octave, tau_0, t_d_0, z_max_0)
        self.base = base if base is None else int(base)
        self.steps_per_octave = steps_per_octave if steps_per_octave is None else int(steps_per_octave)
        z_max_0 = z_max_0 if base is None else None
        kernel = tau_0, t_d_0, z_max_0, self.time_window, shift, self._kernel_dtype
        self.tau_0, self.t_d_0 = checks.temporal_kernel(*kernel)
        self.followed_batch_norm: weakref.ref | None = None
        self.observer = None
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        trained = self.base is None
        self.tau = self._add_kernel_weight("tau", self.tau_0, trained)
        self.t_d = self._add_kernel_weight("t_d", self.t_d_0, trained)
        self.neurons = neurons_of(input_shape)
        self.spikes = MeanSpikes(name=f"{self.name}_spikes")
        self.built = True

    def load_own_variables(self, store: Any) -> None:
        """As Keras. Refuses another tau or t_d than those of a kernel of base 2."""
        super().load_own_variables(store)
        self.check_base_2()

    def save_own_variables(self, store: Any) -> None:
        """As Keras. Refuses another tau or t_d than those of a kernel of base 2."""
        self.check_base_2()
        super().save_own_variables(store)

    def check_base_2(self) -> None:
        """Raises ValueError where the weights of a kernel of base 2 hold another tau or t_d, which `set_weights` can do."""
        if self.base:
            exact = [float(np.dtype(self._kernel_dtype).type(value)) for value in (self.tau_0, self.t_d_0)]
            found = [float(weight.numpy()) for weight in (self.tau, self.t_d)]
            if found != exact:
                raise ValueError(
                    f"Expected tau and t_d of a kernel of base 2, {exact} [steps], in layer {self.name!r}. Received: {found}"
                )

    def _add_kernel_weight(self, name, value, trainable=True):
        return self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(value),
            name=name,
            trainable=trainable,
            dtype=self._kernel_dtype,
            autocast=False,
        )

    @property
    def _kernel_dtype(self):
        # Not the policy's variable dtype: bfloat16 would lose the small steps of tau.
        return "float64" if self.variable_dtype == "float64" else "float32"

    @property
    def z_min(self) -> tf.Tensor:
        """Smallest level [1] at the present tau and t_d, a scalar."""
        tau, t_d = self._tau_and_t_d()
        return temporal_kernel.z_min(tau, t_d, self.time_window)

    @property
    def z_max(self) -> tf.Tensor:
        """Largest level [1] at the present tau and t_d, a scalar."""
        return temporal_kernel.z_max(*self._tau_and_t_d())

    def _tau_and_t_d(self):
        if self.base:
            # Whatever the weights hold by now: the levels of base 2 are exact.
            return checks.scalars(self.tau_0, self.t_d_0, self._kernel_dtype, f" of layer {self.name!r}")
        if tracing.is_plain():
            # Numbers, because runtimes differ in when they initialise variables.
            with tf.init_scope():
                tau, t_d = (float(weight.numpy()) for weight in (self.tau, self.t_d))
            return checks.scalars(tau, t_d, self._kernel_dtype, f" of layer {self.name!r}")
        return checks.scalars(self.tau, self.t_d, owner=f" of layer {self.name!r}")

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        inputs = self.floating(inputs)
        tracing.check_precision(self)
        self._observe(inputs)
        tau, t_d = self._tau_and_t_d()
        if self.kernel_gradient == "full":
            spike_time = temporal_kernel.encode(inputs, tau, t_d, self.time_window, rounding=self.rounding)
        else:
            spike_time = temporal_kernel.encode(
                inputs, tf.stop_gradient(tau), tf.stop_gradient(t_d), self.time_window, rounding=self.rounding
            )
        if not training:
            # 0 where silent, NaN where the spike time is.
            self.spikes.update_state(spike_time - self.time_window, mask=mask)
        spike_time._keras_ttfs_time_window = self.time_window
        return spike_time, tau, t_d

    def _observe(self, inputs):
        """Remembers which TKBatchNorm returned `inputs`, for `TTFSModel.batch_norm_pairs`; calls the observer."""
        origin = fused.origin_of(inputs)
        # A weak reference, because Keras would adopt the layer as a sub-layer of this one.
        self.followed_batch_norm = None if origin is None else weakref.ref(origin.batch_norm)
        if self.observer is not None:
            self.observer(self, inputs)

    def compute_output_spec(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        own = keras.backend.standardize_dtype(inputs.dtype)
        own = own if "float" in own else self.compute_dtype
        tau, t_d = (keras.KerasTensor((), dtype=self._kernel_dtype) for _ in range(2))
        spike_time = keras.KerasTensor(inputs.shape, dtype="float64" if own == "float64" else "float32")
        spike_time._keras_ttfs_time_window = self.time_window
        return spike_time, tau, t_d

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape, (), ()

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "time_window": self.time_window,
            "tau_0": self.tau_0,
            "t_d_0": self.t_d_0,
            "rounding": self.rounding,
            "kernel_gradient": self.kernel_gradient,
            **({"base": self.base, "steps_per_octave": self.steps_per_octave} if self.base else {}),
        }


@keras.saving.register_keras_serializable("keras_ttfs")
class TemporalKernelDecode(checks.CheckedLayer, keras.layers.Layer):
    """Decodes spike times with the temporal kernel that encoded them. Holds no weights.

    Use it behind a TTFSEncode: `TemporalKernelDecode(T)(TTFSEncode(T)(z))` has the values of `TTFSActivation(T)(z)`.

    Forward: `z_hat = exp(-(t - t_d) / tau)`, 0 where `t >= T`, and NaN where `t < 0`.

    Backward: `dz_hat/dt = -z_hat / tau`, `dz_hat/dtau = z_hat (t - t_d) / tau**2`, `dz_hat/dt_d = z_hat / tau`.

    >>> triple = TTFSEncode(time_window=32)(keras.ops.array([[1.0, 0.5, 0.0]]))
    >>> TemporalKernelDecode(time_window=32)(triple).numpy().round(4)
    array([[1.    , 0.4966, 0.    ]], dtype=float32)

    Args:
        time_window: int >= 1, <= 2**20: T of the encoder [steps]. A decoder called on what an encoder returned compares
            the two. Behind a layer in between, or on numbers of one's own, it cannot.
        **kwargs: as `keras.layers.Layer`.

    Call arguments:
        inputs: the triple `(spike_time, tau, t_d)` of a TTFSEncode, tensors or arrays [steps].

    Input shape: `(batch, ...)` and two scalars.

    Output shape: the shape of `spike_time`, in the layer's compute dtype [1].

    Raises:
        ValueError: "Expected time_window ..." or "Expected the triple (spike_time, tau, t_d) ...". As TTFSEncode, for a
            tau or t_d out of its range.

    Differs from the paper: `dz_hat/dt_d` has the factor 1 / tau, where Eq. 6 misprints t_d / tau.

    Reference: Eqs. 3, 5 and 6.
    """

    def __init__(self, time_window: int = 32, **kwargs: Any):
        # Spike times and kernel stay as they come, because a cast to half precision would move them.
        super().__init__(autocast=False, **kwargs)
        self.time_window = temporal_kernel.check_time_window(time_window)
        self.built = True

    def build(self, input_shape: Any) -> None:
        if not isinstance(input_shape, (list, tuple)) or len(input_shape) != 3 or isinstance(input_shape[0], int):
            raise ValueError(f"Expected the triple (spike_time, tau, t_d) of a TTFSEncode. Received: {input_shape}")

    def check_inputs(self, inputs: Any) -> None:
        """Refuses anything but the triple of an encoder with this window."""
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 3:
            raise ValueError(f"Expected the triple (spike_time, tau, t_d) of a TTFSEncode. Received: {inputs}")
        for part, rank in zip(inputs, (None, 0, 0)):
            checks.layer_inputs(part, rank)
        window = getattr(inputs[0], "_keras_ttfs_time_window", self.time_window)
        if window != self.time_window:
            raise ValueError(
                f"Expected the time_window of the encoder, {window} [steps], in the decoder {self.name!r}. "
                f"Received: time_window={self.time_window}"
            )

    def call(self, inputs: tuple[Any, Any, Any]) -> Any:
        self.check_inputs(inputs)
        tau, t_d = checks.scalars(*inputs[1:], owner=f" of the inputs of layer {self.name!r}")
        spike_time = self.floating(inputs[0])
        return tf.cast(temporal_kernel.decode(spike_time, tau, t_d, self.time_window), self.compute_dtype)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs[0].shape, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "time_window": self.time_window}


@keras.saving.register_keras_serializable("keras_ttfs")
class TTFSActivation(TTFSEncode):
    """Time-to-first-spike activation, the drop-in for ReLU: encode and decode in one, with stochastic relaxation.

    The layer owns its temporal kernel, the weights `tau` and `t_d` [steps]. It equals
    `TemporalKernelDecode(T)(TTFSEncode(T)(z))` bit for bit, in value and gradient, in one pass over memory. Outside
    training it counts its spikes in the metric `spikes` (mean per sample), which `evaluate` reports.

    Forward: `z_hat = exp(-(t - t_d) / tau)`, where t is the first step of the window with `z >= exp(-(t - t_d) / tau)`;
    0 without a spike. In training, with probability `relaxation`, the whole layer is `relu(z)` for this batch instead:
    one draw per layer and batch.

    Backward: `dz_hat/dz = z_hat / (z + epsilon)` inside the window, 0 where z is pruned or clipped; tau and t_d by
    Eq. 6 (`kernel_gradient="decoder"`) or through encoder and decoder (`"full"`). In a relaxed batch the gradient of
    ReLU.

    >>> TTFSActivation()(keras.ops.array([[1.0, 0.5, 0.0]])).numpy().round(4)
    array([[1.    , 0.4966, 0.    ]], dtype=float32)

    Args:
        time_window: int >= 1, <= 2**20: T, the steps of one phase [steps].
        tau_0: float > 0: initial time constant [steps].
        t_d_0: float: initial delay [steps]. The T levels must be different, normal numbers of float32 (float64 under a
            float64 policy): `t_d_0 < 88 tau_0` and `T - t_d_0 < 87 tau_0`.
        rounding: `"ceil"` (Eq. 4) or `"nearest"`, with thresholds half a step later.
        kernel_gradient: `"decoder"` or `"full"`.
        relaxation: float in [0, 1]: initial p of Fig. 4 [1]. It is kept in the non-trainable weight `relaxation`, which
            the callback `RelaxationSchedule` drives.
        z_max_0: float > 0 or None: largest level at the start [1]. It sets `t_d_0 = tau_0 * ln(z_max_0)`.
        base: None, or 2 for a kernel whose levels are powers of `2**(1 / steps_per_octave)`, exactly. Its tau is
            `steps_per_octave / ln 2` and is not trained, nor is t_d, an integer. With one step an octave every synapse is a
            shift.
        steps_per_octave: int >= 1, <= 2**20, with base 2: steps in which the threshold halves [steps].
        seed: int >= 0, < 2**31, or None: of the relaxation's draws.
        **kwargs: as `keras.layers.Layer`.

    Call arguments:
        inputs: tensor: pre-activations z [1]. Integers and bools are computed in the layer's compute dtype.
        training: bool. The layer relaxes only when it is true, and counts spikes only when it is false.
        mask: bool tensor `(batch, ...)` or None. Spikes are counted where it is true.

    Input shape: `(batch, ...)`, of at least 2 dimensions.

    Output shape: the input's, in the layer's compute dtype [1].

    Raises:
        ValueError: "Expected ... Received: ..." for every argument out of its range, for t_d_0 beside z_max_0, for
            inputs that are no dense tensor of real numbers, and for a call with `tau <= 0` or a tau or t_d that is not
            finite. In the graph of a tf.function, such a tau or t_d gives NaN instead.

    Differs from the paper: Eq. 3 lets a spike at t = T carry a level, and Eq. 6 misprints `dz_hat/dt_d`. Here T means
    silence, and the factor is 1 / tau.

    Reference: Eqs. 2-6; section 4, Fig. 4.
    """

    def __init__(
        self,
        time_window: int = 32,
        tau_0: float = 10.0,
        t_d_0: float = 0.0,
        rounding: str = "ceil",
        kernel_gradient: str = "decoder",
        relaxation: float = 0.0,
        z_max_0: float | None = None,
        seed: int | None = None,
        base: int | None = None,
        steps_per_octave: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            time_window, tau_0, t_d_0, rounding, kernel_gradient, z_max_0, base, steps_per_octave, **kwargs
        )
        self.relaxation_0 = checks.share("relaxation", relaxation)
        self.initial_relaxation = self.relaxation_0
        self.seed = checks.seed(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        # Kinds of keras_ttfs.noise in training, which a TTFSModel sets.
        self.noise: tuple[noise.Noise, ...] = ()

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.relaxation = self._add_kernel_weight("relaxation", self.initial_relaxation, trainable=False)

    def set_relaxation(self, probability: float) -> None:
        """Sets p of Fig. 4, in [0, 1]: at once if the layer is built, otherwise when it is built."""
        self.initial_relaxation = checks.share("relaxation", probability)
        if self.built:
            self.relaxation.assign(self.initial_relaxation)

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        inputs = self.floating(inputs)
        tracing.check_precision(self)
        self._observe(inputs)
        tau, t_d = self._tau_and_t_d()
        if not training:
            z_hat = self._quantize(inputs, tau, t_d)
            self.spikes.update_state(z_hat, mask=mask)
            return z_hat
        draw = keras.random.uniform((), seed=self.seed_generator, dtype=self._kernel_dtype)
        relaxed = draw < tf.convert_to_tensor(self.relaxation)
        z_hat = self._quantize(inputs, tau, t_d, relaxed=relaxed)
        if not self.noise:
            return z_hat
        return noise.straight_through(tf.where(relaxed, z_hat, self._disturbed(inputs, tau, t_d)), z_hat)

    def _disturbed(self, z, tau, t_d):
        """Levels of the spikes as noisy neurons send them, drawn anew."""
        found = noise.of_training(self.noise, tf.shape(z), self.time_window, self.seed_generator)
        z = tf.cast(z, tau.dtype)
        z = z if found.gain is None else z * tf.cast(found.gain, z.dtype)
        spike_time = temporal_kernel.encode(z, tau, t_d, self.time_window, rounding=self.rounding)
        spike_time = found.disturbed(spike_time, self.time_window)
        return tf.cast(temporal_kernel.decode(spike_time, tau, t_d, self.time_window), self.compute_dtype)

    def _quantize(self, inputs, tau, t_d, relaxed=False):
        source = fused.source_of(inputs) if self.kernel_gradient == "decoder" else None
        if source is not None:
            options = {"rounding": self.rounding, "relaxed": relaxed, "dtype": inputs.dtype, "window": source.window}
            return fused.normalize_and_quantize(source.normalization, tau, t_d, self.time_window, **options)
        options = {"rounding": self.rounding, "kernel_gradient": self.kernel_gradient, "relaxed": relaxed}
        return temporal_kernel.quantize(inputs, tau, t_d, self.time_window, **options)

    def compute_output_spec(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "relaxation": self.relaxation_0, "seed": self.seed}
