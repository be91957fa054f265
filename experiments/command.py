"""What every command of `experiments` shares: its environment, its flags, and how it ends.

A command defines its flags, and then calls `run(main)`. Import this module before TensorFlow: it sets TensorFlow's
environment. It does not import TensorFlow, so that `--help` and errors in flags come at once.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from absl import app, flags

from experiments import config
from experiments.stored import with_digests

# A flag belongs to the command that calls the functions below, so that `--help` lists it.
flags.disclaim_key_flags()

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEFINE_BY_TYPE = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_boolean,
}
# What Linux calls a processor's units for bfloat16.
BFLOAT16_UNITS = ("avx512_bf16", "amx_bf16")
# What goes wrong with data, files and settings. Anything else is a mistake in the code and shows its traceback.
EXPECTED_ERRORS = (OSError, ImportError, ValueError, FloatingPointError)


@dataclasses.dataclass(frozen=True)
class SharedFlag:
    """A flag of several commands. Each of them may have its own default."""

    kind: type
    default: Any
    help: str
    lower_bound: int | None = None
    choices: tuple[str, ...] = ()
    required: bool = False


SHARED_FLAGS = {
    "workdir": SharedFlag(
        str, None, "Directory of everything that the command makes; resumes what it holds.", required=True
    ),
    "model": SharedFlag(str, None, "Trained model, a .keras file.", required=True),
    "dataset": SharedFlag(str, "digits", "Data set of the model.", choices=config.choices("dataset")),
    "data_dir": SharedFlag(str, None, "Directory of tensorflow-datasets; its own default if not given."),
    "download": SharedFlag(bool, False, "Download and prepare the data set if it is not there."),
    "overwrite": SharedFlag(
        bool,
        False,
        "Replace what is there: finished results, damaged ones, or those of other settings. An interrupted run of the "
        "same settings goes on. Only files that the command writes are removed; where anything else is there, nothing is.",
    ),
    "collect": SharedFlag(
        str, None, "Directory to copy the small files of finished runs to; what is there is not trained again."
    ),
    "images": SharedFlag(int, 0, "Only the first so many test images [images]; 0: all.", lower_bound=0),
    "calibration_images": SharedFlag(
        int, 500, "First so many training images, for the scales of a conversion [images].", lower_bound=1
    ),
    "batch_size": SharedFlag(int, 100, "Images at a time [images].", lower_bound=1),
    "rounding": SharedFlag(str, "ceil", config.FIELDS["rounding"].metadata["help"], choices=config.choices("rounding")),
}


def define_shared_flags(*names: str, values: flags.FlagValues = flags.FLAGS, **defaults: Any) -> None:
    """Defines flags of SHARED_FLAGS in `values`: those that are named, and those for which a default is given."""
    for name in (*names, *defaults):
        flag = SHARED_FLAGS[name]
        default = defaults.get(name, flag.default)
        if flag.choices:
            flags.DEFINE_enum(name, default, flag.choices, flag.help, flag_values=values)
        elif flag.lower_bound is not None:
            flags.DEFINE_integer(name, default, flag.help, lower_bound=flag.lower_bound, flag_values=values)
        else:
            DEFINE_BY_TYPE[flag.kind](name, default, flag.help, flag_values=values)
        if flag.required:
            flags.mark_flag_as_required(name, values)


def define_config_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """One flag for each field of Config, in the absl FlagValues `values`."""
    for name, field in config.FIELDS.items():
        text = field.metadata["help"]
        if choices := field.metadata["choices"]:
            choices = (*choices, *field.metadata["flag_choices"])
            flags.DEFINE_enum(name, field.default, choices, text, flag_values=values)
        else:
            DEFINE_BY_TYPE[type(field.default)](name, field.default, text, flag_values=values)


def config_from_flags(values: flags.FlagValues = flags.FLAGS) -> config.Config:
    return config.Config(**_resolved({name: values[name].value for name in config.FIELDS}))


def changed_fields(values: flags.FlagValues = flags.FLAGS) -> dict[str, Any]:
    """The fields of Config that the command line or its flagfiles set, with their values."""
    return _resolved({name: values[name].value for name in config.FIELDS if values[name].present})


def config_from_flagfile(path: str | os.PathLike[str], overrides: dict[str, Any] | None = None) -> config.Config:
    """The Config that a flagfile describes, some of its fields replaced.

    A path that is not there is one from the project's root. So are those of the flagfiles that it includes, wherever we are.
    """
    path = pathlib.Path(path)
    path = path if path.is_file() else ROOT / path
    values = flags.FlagValues()
    define_config_flags(values)
    values([path.stem, *_flags_in(path)])
    return dataclasses.replace(config_from_flags(values), **(overrides or {}))


def _flags_in(path: pathlib.Path) -> Iterator[str]:
    """The flags in a flagfile, those of the flagfiles that it includes in their places."""
    for line in path.read_text().splitlines():
        if line.startswith("--flagfile="):
            yield from _flags_in(ROOT / line.partition("=")[2])
        elif line.startswith("--"):
            yield line


def _resolved(values: dict[str, Any]) -> dict[str, Any]:
    """The fields that values of flags stand for."""
    if values.get("dtype_policy") == "auto":
        values["dtype_policy"] = automatic_dtype_policy()
    return with_digests(values)


@functools.cache
def automatic_dtype_policy() -> str:
    """The dtype policy that suits this processor. Says once what was chosen and why.

    Where bfloat16 is emulated, it is several times slower than float32.
    """
    if units := bfloat16_units():
        policy, reason = "mixed_bfloat16", f"the processor has {' and '.join(units)}"
    else:
        policy, reason = "float32", f"the processor has none of {', '.join(BFLOAT16_UNITS)}"
    print(f"dtype_policy: {policy}, because {reason}", flush=True)
    return policy


def bfloat16_units(path: str = "/proc/cpuinfo") -> list[str]:
    """Which of BFLOAT16_UNITS the processor has, by Linux' description of it; none where there is no description."""
    try:
        with open(path) as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    found = {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}
    return [unit for unit in BFLOAT16_UNITS if unit in found]


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turns ValueErrors of the flags' values into the usage message of absl."""
    try:
        yield
    except ValueError as error:
        raise app.UsageError(str(error)) from error


def check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises ValueError where a list flag names something unknown."""
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"Expected {what} of {', '.join(known)}. Received: {', '.join(unknown)}")


def whole_numbers(name: str, texts: Iterable[str]) -> list[int]:
    """The values of a list flag; raises ValueError where one is no whole number, or none is given."""
    texts = list(texts)
    if wrong := [text for text in texts or [""] if not text.isdecimal()]:
        raise ValueError(f"Expected --{name} of whole numbers. Received: {', '.join(map(repr, wrong))}")
    return [int(text) for text in texts]


def existing_model(path: str) -> str:
    """The path of a model; raises FileNotFoundError where there is no file."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected --model to be a .keras file. Received: {path}")
    return path


def beside_model(path: str, name: str) -> str:
    """The path `name` in the directory of a model."""
    return os.path.join(os.path.dirname(os.path.abspath(path)), name)


def exit_with_failures(failures: dict[str, str]) -> None:
    """Ends the command where runs failed, with all their messages."""
    if failures:
        raise SystemExit("Failed: " + "; ".join(f"{name}: {message}" for name, message in failures.items()))


def run(main: Callable[[flags.FlagValues], None]) -> None:
    """Parses the flags and calls `main` with them. Expected errors end the command with one line."""

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
        try:
            main(flags.FLAGS)
        except EXPECTED_ERRORS as error:
            raise SystemExit(f"{type(error).__name__}: {error}") from error

    app.run(guarded)
