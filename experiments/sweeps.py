"""One setting after the other: `python -m experiments.sweeps --workdir=runs/sweeps [--sweeps=lambda_tb,tau_0]`.

Each point is a row of Table 1 with one flag changed; flags of `experiments.cifar` change all of them. Resumes as
`experiments.table1` does.
"""

import os
from collections.abc import Iterable
from typing import Any

from absl import flags

from experiments import command, runs, table1, tables
from experiments.config import Config
from experiments.lock import locked

# Sweep: (row of Table 1, flag, values).
SWEEPS = {
    # Fig. 3.
    "z_max_0": ("sm_2", "z_max_0", (1.0, 1.5, 2.0, 3.0, 4.0)),
    "tau_0": ("sm_sr", "tau_0", (5.0, 8.0, 10.0, 15.0, 20.0)),
    # Fig. 8.
    "lambda_tr": ("sm_sr_tr", "lambda_tr", (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)),
    "lambda_tb": ("sm_sr_tr_tb_1e-5", "lambda_tb", (0.0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3)),
    # What small.flags was chosen from.
    "learning_rate": ("sm_sr_tr", "learning_rate", (0.03, 0.1, 0.2)),
    "schedule": ("sm_sr_tr", "schedule", ("constant", "triangular", "cosine")),
    "batch_size": ("sm_sr_tr", "batch_size", (64, 128)),
    "gamma_0": ("sm_sr_tr", "gamma_0", (0.2, 0.3, 0.5, 1.0)),
    "target_epoch": ("sm_sr_tr", "target_epoch", (0, 1, 2)),
    "label_smoothing": ("sm_sr_tr", "label_smoothing", (0.0, 0.1)),
    "l2": ("sm_sr_tr", "l2", (0.0, 2.5e-4, 5e-4, 1e-3)),
}


DEFAULT_SWEEPS = ("z_max_0", "tau_0", "lambda_tr", "lambda_tb")


def define_flags() -> None:
    command.define_config_flags()
    command.define_shared_flags("workdir", "data_dir", "download", "collect")
    flags.DEFINE_list("sweeps", list(DEFAULT_SWEEPS), f"Which: {', '.join(SWEEPS)}.")


def configs(sweeps: Iterable[str], overrides: dict[str, Any]) -> dict[str, Config]:
    """`{row,flag=value: Config}`. The point that several sweeps of a row share is one run, `row,base`."""
    wanted = {}
    for sweep in sweeps:
        row, flag, values = SWEEPS[sweep]
        base = table1.row_config(row, overrides)
        for value in values:
            shown = f"{value:g}" if isinstance(value, float) else value
            name = f"{row},base" if getattr(base, flag) == value else f"{row},{flag}={shown}"
            wanted[name] = table1.row_config(row, {**overrides, flag: value})
    return wanted


def main(options: flags.FlagValues) -> None:
    with command.usage_errors():
        command.check_names("sweeps", options.sweeps, SWEEPS)
    wanted = configs(options.sweeps, command.changed_fields())
    with locked(options.workdir):
        results, failures = runs.train_all(
            wanted, options.workdir, data_dir=options.data_dir, download=options.download, collect=options.collect
        )
    print(f"\n{tables.sweep_table(results)}\n\nFiles: {os.path.abspath(options.workdir)}")
    command.exit_with_failures(failures)


if __name__ == "__main__":
    define_flags()
    command.run(main)
