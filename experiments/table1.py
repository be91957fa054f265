"""Table 1, every row and seed, and the table: `python -m experiments.table1 --workdir=runs/table1 [--seeds=0,1,2]`.

Flags of `experiments.cifar` change every row, so `--flagfile=experiments/flagfiles/table1/small.flags` gives the reduced
scale. What is finished is not trained again; what was interrupted goes on.
"""

import dataclasses
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from absl import app, flags

from experiments import cifar, report, runs
from experiments.config import Config
from experiments.files import replaced

FLAGFILES = pathlib.Path(__file__).resolve().parent / "flagfiles" / "table1"


def row_config(row, overrides=None):
    """The Config of a row's flagfile, some of its fields replaced."""
    values = flags.FlagValues()
    cifar.define_config_flags(values)
    values(["table1", *_lines(FLAGFILES / f"{row}.flags")])
    return dataclasses.replace(cifar.config_from_flags(values), **(overrides or {}))


def _lines(path):
    """Flags of a flagfile. It includes others by their paths from the project's root, wherever we are."""
    root = FLAGFILES.parent.parent.parent
    lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
    return [line.replace("--flagfile=", f"--flagfile={root}/") for line in lines]


def overrides_from_flags():
    """Fields of Config that the command line or its flagfiles set."""
    return {
        field.name: flags.FLAGS[field.name].value
        for field in dataclasses.fields(Config)
        if flags.FLAGS[field.name].present
    }


def define_run_flags():
    cifar.define_config_flags()
    flags.DEFINE_string("workdir", None, "Directory of the runs; resumes what it holds.")
    flags.DEFINE_string("data_dir", None, "Directory of tensorflow-datasets; its own default if not given.")
    flags.DEFINE_boolean("download", False, "Download and prepare the data set if it is not there.")
    flags.DEFINE_string(
        "collect", None, "Directory to copy the small files of finished runs to; what is there is not trained again."
    )
    flags.mark_flag_as_required("workdir")


def configs(rows, seeds, overrides):
    """`{row/seedN: Config}`, all rows of the first seed first."""
    return {f"{row}/seed{seed}": row_config(row, {**overrides, "seed": seed}) for seed in seeds for row in rows}


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    options = flags.FLAGS
    overrides = overrides_from_flags()
    if {"row", "seed"} & overrides.keys():
        raise app.UsageError("Expected --rows and --seeds. Received: --row or --seed.")
    unknown = set(options.rows) - set(report.TABLE1_ROWS)
    if unknown:
        raise app.UsageError(
            f"Expected rows of {', '.join(report.TABLE1_ROWS)}. Received: {', '.join(sorted(unknown))}"
        )
    try:
        wanted = configs(options.rows, [int(seed) for seed in options.seeds], overrides)
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    try:
        results, failures = runs.run_all(
            wanted, options.workdir, data_dir=options.data_dir, download=options.download, collect=options.collect
        )
    except (OSError, ImportError, ValueError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    by_row = {}
    for name, result in results.items():
        by_row.setdefault(name.split("/")[0], []).append(result)
    text = report.table1(by_row)
    os.makedirs(options.workdir, exist_ok=True)
    with replaced(os.path.join(options.workdir, "table1.md")) as temporary:
        pathlib.Path(temporary).write_text(text + "\n")
    print(f"\n{text}\n\nFiles: {os.path.abspath(options.workdir)}")
    if failures:
        raise SystemExit("Failed: " + "; ".join(f"{name}: {message}" for name, message in failures.items()))


if __name__ == "__main__":
    define_run_flags()
    flags.adopt_module_key_flags(cifar)
    flags.DEFINE_list("rows", list(report.TABLE1_ROWS), "Rows, names of flagfiles in experiments/flagfiles/table1.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each row.")
    app.run(main)
