"""The frozen configuration of one training run, and its checks. No flags, no TensorFlow.

A hyper-parameter is one field of `Config`. Its help, range and choices stand beside its default; the checks are here, and
`experiments.command` makes the flag. A field with `network=True` is an argument of the network of the same name, to which
`experiments.train` passes it.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

from experiments import noises


@dataclasses.dataclass(frozen=True)
class Range:
    """Values that a field may have, in words and as a function."""

    text: str
    holds: Callable[[float], bool]


POSITIVE = Range("> 0", lambda value: value > 0)
NOT_NEGATIVE = Range(">= 0", lambda value: value >= 0)
SHARE = Range("in [0, 1]", lambda value: 0 <= value <= 1)
BELOW_ONE = Range("< 1", lambda value: value < 1)
NOT_BELOW_MINUS_ONE = Range(">= -1", lambda value: value >= -1)


def _field(
    default: Any,
    help: str,
    *ranges: Range,
    choices: tuple[str, ...] = (),
    flag_choices: tuple[str, ...] = (),
    network: bool = False,
) -> Any:
    """A field of `Config` with all that is known of it. `flag_choices` are values of its flag that stand for a choice."""
    metadata = {"help": help, "ranges": ranges, "choices": choices, "flag_choices": flag_choices, "network": network}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result of a run. Defaults: the offline run on digits."""

    dataset: str = _field(
        "digits",
        "Data set; cifar10 and cifar100 through tensorflow-datasets.",
        choices=("digits", "cifar10", "cifar100"),
    )
    row: str = _field("", "Name of the run in tables.")
    model: str = _field(
        "vgg6",
        "Network; spike_time_vgg6 is trained in the spike-time domain, without kernels (Zhou et al.).",
        choices=("vgg16", "vgg6", "fast_vgg", "spike_time_vgg6"),
    )
    width: float = _field(1.0, "Factor on every hidden channel count [1].", POSITIVE, network=True)
    activation: str = _field("ttfs", "ttfs; relu for the ReLU twin.", choices=("ttfs", "relu"), network=True)
    input_coding: str = _field(
        "ttfs", "ttfs encodes intensities as spikes, analog injects them.", choices=("ttfs", "analog"), network=True
    )
    pooling: str = _field(
        "spikes",
        "spikes pools behind the activation (the paper), potential in front of it.",
        choices=("spikes", "potential"),
        network=True,
    )
    kernel_initializer: str = _field(
        "glorot",
        "Initial weights; dirac lets every convolution but the first begin by passing its input through.",
        choices=("glorot", "he", "dirac"),
        network=True,
    )
    whiten: bool = _field(
        False, "Begin with filters that whiten the training images, in the first convolution, instead of random ones."
    )
    time_window: int = _field(32, "T, steps of one phase [steps].", POSITIVE, network=True)
    tau_0: float = _field(10.0, "Initial time constant of every temporal kernel [steps].", POSITIVE, network=True)
    z_max_0: float = _field(1.0, "Initial largest level [1]; t_d_0 = tau_0 * ln(z_max_0).", POSITIVE, network=True)
    steps_per_octave: int = _field(
        0,
        "Steps in which thresholds halve, of temporal kernels of base 2, which are not trained [steps]; 0: base e, trained.",
        NOT_NEGATIVE,
        network=True,
    )
    rounding: str = _field(
        "ceil", "Q of Eq. 4: how a spike time is rounded.", choices=("ceil", "nearest"), network=True
    )
    kernel_gradient: str = _field(
        "decoder",
        "Gradient of tau and t_d: the decoder's (Eq. 6), or through encoder and decoder.",
        choices=("decoder", "full"),
        network=True,
    )
    lambda_tr: float = _field(
        1e-5, "Weight of the temporal-kernel regularisation REG_TR [1/steps^2].", NOT_NEGATIVE, network=True
    )
    lambda_tb: float = _field(1e-5, "Weight of the pruning probability P_TB [1].", NOT_NEGATIVE, network=True)
    spike_budget: float = _field(
        0.0,
        "Budget of spikes of hidden layers, on validation images [spikes per image]; 0: none.",
        NOT_NEGATIVE,
    )
    noise: str = _field(
        "",
        f"Noise that training hardens against, like jitter=1,dropped=0.05, of {', '.join(noises.KINDS)}; none if empty.",
    )
    relaxation: bool = _field(True, "Stochastic relaxation until target_epoch.")
    target_epoch: int = _field(0, "e_tar of the stochastic relaxation [epochs]; 0: no relaxation.", NOT_NEGATIVE)
    frozen_epochs: int = _field(
        0,
        "First epochs in which temporal kernels are frozen and REG_TR and P_TB are left out of the loss [epochs]; 0: none.",
        NOT_NEGATIVE,
    )
    gamma_0: float = _field(1.0, "Initial scale of batch normalisation [1].", network=True)
    bn_momentum: float = _field(
        0.99, "Momentum of the moving statistics of batch normalisation [1].", SHARE, BELOW_ONE, network=True
    )
    dropout: float = _field(0.0, "Factor on the authors' dropout rates [1]; 0: none.", SHARE, network=True)
    l2: float = _field(0.0, "Factor of the squared norm of the weights [1].", NOT_NEGATIVE, network=True)
    start_from: str = _field(
        "",
        "Model to begin with, a .keras file: the trained ReLU twin, or the same network of any time_window; or a flagfile, "
        "whose run is trained first; empty: none.",
    )
    start_from_sha256: str = _field("", "SHA-256 of the file start_from; empty: that of the file that is there.")
    teacher: str = _field(
        "",
        "Model whose outputs are learned too, a .keras file of the same inputs and classes; or a flagfile, whose run is "
        "trained first; empty: none.",
    )
    teacher_sha256: str = _field("", "SHA-256 of the file teacher; empty: that of the file that is there.")
    lambda_kd: float = _field(0.0, "Weight of the distance from the teacher's outputs in the loss [1].", NOT_NEGATIVE)
    temperature: float = _field(1.0, "Temperature at which outputs are compared with the teacher's [1].", POSITIVE)
    label_smoothing: float = _field(0.0, "Label smoothing [1].", SHARE)
    logit_scale: float = _field(
        1.0, "Factor on the logits in the loss [1]. Below 1, training begins with unsure answers.", POSITIVE
    )
    optimizer: str = _field("adam", "sgd has Nesterov momentum.", choices=("adam", "sgd"))
    momentum: float = _field(0.9, "Momentum of sgd [1].", SHARE)
    bias_rate: float = _field(1.0, "Factor on the learning rate of biases and of beta [1].", POSITIVE)
    learning_rate: float = _field(1e-3, "Learning rate, the peak of a schedule [1].", POSITIVE)
    schedule: str = _field(
        "constant",
        "Learning rate over the run; triangular and cosine rise first, then fall to 0.",
        choices=("constant", "triangular", "cosine"),
    )
    warmup: float = _field(0.2, "Share of the run in which the learning rate rises [1].", SHARE)
    batch_size: int = _field(64, "Images of one batch [images].", POSITIVE)
    epochs: int = _field(1, "Passes over the training images [epochs].", POSITIVE)
    keep: str = _field(
        "best",
        "Which epoch's weights are tested and saved: best validation accuracy, or the last.",
        choices=("best", "last"),
    )
    augment: bool = _field(True, "Shift images at random; flip too on CIFAR.")
    flip: str = _field(
        "random",
        "Which images are flipped: half of them at random, or each image in every second epoch (alternating).",
        choices=("random", "alternating"),
    )
    translation: int = _field(
        -1, "Largest shift of an image [pixels]; -1: 4 on CIFAR, 1 on digits.", NOT_BELOW_MINUS_ONE
    )
    border: str = _field("zeros", "What shifts in at the border of an image.", choices=("zeros", "reflect"))
    cutout: int = _field(
        0, "Size of a square at a random place that gets the mean colour [pixels]; 0: none.", NOT_NEGATIVE
    )
    train_images: int = _field(0, "Use only the first so many training images [images]; 0: all.", NOT_NEGATIVE)
    validation_images: int = _field(
        0,
        "Images held back from training for validation [images]; 0: the data set's own, 5,000 of CIFAR.",
        NOT_NEGATIVE,
    )
    seed: int = _field(0, "Seed of weights, order, augmentation, dropout and relaxation.", NOT_NEGATIVE, network=True)
    dtype_policy: str = _field(
        "float32",
        "Keras dtype policy; auto: mixed_bfloat16 where the processor has units for it, else float32.",
        choices=("float32", "mixed_bfloat16", "mixed_float16", "float64"),
        flag_choices=("auto",),
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), field.metadata["choices"]
            if choices and value not in choices:
                raise ValueError(f"Expected {field.name} to be one of {choices}. Received: {field.name}={value!r}")
            for allowed in field.metadata["ranges"]:
                if not allowed.holds(value):
                    raise ValueError(f"Expected {field.name} {allowed.text}. Received: {field.name}={value!r}")
        for name in AUGMENTATION:
            value = getattr(self, name)
            if not self.augment and value != FIELDS[name].default:
                raise ValueError(f"Expected augment=True where {name} is given. Received: {name}={value!r}")
        for name, needed in NEEDED.items():
            value = getattr(self, name)
            if value != FIELDS[name].default and not getattr(self, needed):
                raise ValueError(f"Expected {needed} where {name} is given. Received: {name}={value!r}")
        noises.parsed(self.noise)
        for name in ("start_from", "noise"):
            if getattr(self, name) and self.activation != "ttfs":
                raise ValueError(f"Expected activation='ttfs' with {name}. Received: activation={self.activation!r}")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# Fields that say how images are augmented.
AUGMENTATION = ("flip", "translation", "border", "cutout")
# Models that a run begins with, and fields that mean nothing without another one.
MODEL_FILES = ("start_from", "teacher")
NEEDED = {"start_from_sha256": "start_from", "teacher_sha256": "teacher"}
NEEDED |= {"teacher": "lambda_kd", "lambda_kd": "teacher", "temperature": "teacher"}
# What ends the path of a run's description, which may stand where a model is named.
FLAGFILE = ".flags"
# Of each field, by its name: default and metadata.
FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def with_models(config: Config, models: dict[str, str]) -> Config:
    """The config with models in place of the flagfiles that its MODEL_FILES name: `{flagfile: path of the model}`.

    A run keeps the flagfile in its own config, because the same run has its models elsewhere on another machine.

    Raises:
        ValueError: where a flagfile has no model.
        FileNotFoundError: where a model is not there.
    """
    found = {}
    for name in MODEL_FILES:
        given = getattr(config, name)
        if given.endswith(FLAGFILE) and given not in models:
            raise ValueError(f"Expected a trained model of {name}. Received: {name}={given!r}")
        found[name] = models.get(given, given)
        if found[name] and not os.path.isfile(found[name]):
            raise FileNotFoundError(
                f"Expected {found[name]}, the model of {name}={given!r}. Received: no such file. Train that run in this "
                "--workdir: the collected files of a run hold no model."
            )
    return dataclasses.replace(config, **found)


def choices(name: str) -> tuple[str, ...]:
    """The values that a field may have."""
    return FIELDS[name].metadata["choices"]


# Fields that configs of earlier versions lack, where runs were as the default says; and values that others had.
ADDED_FIELDS = frozenset(
    {"relaxation", "pooling", "kernel_initializer", "whiten", "logit_scale", "spike_budget", "bias_rate"}
    | {"frozen_epochs", "steps_per_octave", "noise"}
    | {"validation_images", *AUGMENTATION, *MODEL_FILES, *NEEDED}
)
# A field that configs of earlier versions have. It did nothing: Keras leaves out XLA where operations are deterministic.
REMOVED_FIELDS = frozenset({"jit_compile"})
EARLIER_CHOICES = {"activation": ("spike_time",)}


def check_values(values: Any) -> None:
    """Raises ValueError where `values` are not those of a config of this version or of an earlier one."""
    if not isinstance(values, dict):
        raise ValueError(f"Expected the fields of a run. Received: {type(values).__name__}")
    values = _of_today(values)
    missing, unknown = FIELDS.keys() - values.keys(), values.keys() - FIELDS.keys()
    if unknown or missing - ADDED_FIELDS:
        told = [f"without {', '.join(sorted(missing))}"] if missing else []
        told += [f"with {', '.join(sorted(unknown))}"] if unknown else []
        raise ValueError(f"Expected the fields of a run. Received: fields {' and '.join(told)}")
    known = {}
    for name, value in values.items():
        kind = type(FIELDS[name].default)
        # JSON does not tell 1 from 1.0.
        allowed = (int, float) if kind is float else (kind,)
        if type(value) not in allowed or (kind is float and not math.isfinite(value)):
            raise ValueError(f"Expected {name} to be a finite {kind.__name__}. Received: {name}={value!r}")
        if value not in EARLIER_CHOICES.get(name, ()):
            known[name] = value
    Config(**known)


def differing(there: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """`{name: (there, wanted)}` of the settings in which two dicts differ, by name.

    A field of Config that an earlier version lacked counts as its default.
    """
    defaults = {name: FIELDS[name].default for name in ADDED_FIELDS}
    there, wanted = defaults | _of_today(there), defaults | _of_today(wanted)
    pairs = {name: (there.get(name), wanted.get(name)) for name in sorted(there.keys() | wanted.keys())}
    return {name: (ours, theirs) for name, (ours, theirs) in pairs.items() if ours != theirs}


def differences(there: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What `differing` finds, in words; an empty text where two dicts of settings do not differ."""
    found = differing(there, wanted)
    return ", ".join(f"{name}: {ours!r} there, {theirs!r} asked" for name, (ours, theirs) in found.items())


def _of_today(values: dict[str, Any]) -> dict[str, Any]:
    """Settings without the fields that there are no more."""
    return {name: value for name, value in values.items() if name not in REMOVED_FIELDS}
