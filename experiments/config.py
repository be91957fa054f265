"""The frozen configuration of one training run, and its checks. No flags, no TensorFlow."""

import dataclasses

CHOICES = {
    "dataset": ("digits", "cifar10", "cifar100"),
    "model": ("vgg16", "vgg6"),
    "optimizer": ("adam", "sgd"),
    "schedule": ("constant", "triangular", "cosine"),
    "rounding": ("ceil", "nearest"),
    "kernel_gradient": ("decoder", "full"),
    "input_coding": ("ttfs", "analog"),
    "activation": ("ttfs", "relu", "spike_time"),
    "dtype_policy": ("float32", "mixed_bfloat16", "mixed_float16", "float64"),
    "keep": ("best", "last"),
}
# What the name of a flag that must be positive counts.
POSITIVE = ("width", "time_window", "tau_0", "z_max_0", "learning_rate", "batch_size", "epochs")
NOT_NEGATIVE = ("l2", "lambda_tr", "lambda_tb", "target_epoch", "seed")
SHARES = ("dropout", "label_smoothing", "bn_momentum", "warmup", "momentum")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result of a run. Defaults: the offline run on digits."""

    dataset: str = "digits"
    row: str = ""
    model: str = "vgg6"
    width: float = 1.0
    activation: str = "ttfs"
    input_coding: str = "ttfs"
    time_window: int = 32
    tau_0: float = 10.0
    z_max_0: float = 1.0
    rounding: str = "ceil"
    kernel_gradient: str = "decoder"
    lambda_tr: float = 1e-5
    lambda_tb: float = 1e-5
    relaxation: bool = True
    target_epoch: int = 0
    gamma_0: float = 1.0
    bn_momentum: float = 0.99
    dropout: float = 0.0
    l2: float = 0.0
    label_smoothing: float = 0.0
    optimizer: str = "adam"
    momentum: float = 0.9
    learning_rate: float = 1e-3
    schedule: str = "constant"
    warmup: float = 0.2
    batch_size: int = 64
    epochs: int = 1
    keep: str = "best"
    augment: bool = True
    train_images: int = 0
    seed: int = 0
    dtype_policy: str = "float32"
    jit_compile: bool = False

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"Expected {name} to be one of {choices}. Received: {name}={getattr(self, name)!r}")
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected {name} > 0. Received: {name}={getattr(self, name)!r}")
        for name in NOT_NEGATIVE + ("train_images",):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Expected {name} >= 0. Received: {name}={getattr(self, name)!r}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Expected {name} in [0, 1]. Received: {name}={getattr(self, name)!r}")
        if self.bn_momentum == 1:
            raise ValueError("Expected bn_momentum < 1. Received: bn_momentum=1")

    def as_dict(self):
        return dataclasses.asdict(self)


def differences(there, wanted):
    """Where two configs, as dicts, differ, in words; an empty text where they do not."""
    names = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
    return ", ".join(f"{name}: {there.get(name)!r} there, {wanted.get(name)!r} asked" for name in names)
