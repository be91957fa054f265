"""One setting after the other: `python -m experiments.sweeps --workdir=runs/sweeps [--sweeps=lambda_tb,tau_0]`.

Each point is a row of Table 1, or of `experiments.fast`, with one flag changed; flags of `experiments.cifar` change all of
them. A run that rows begin from is trained first, in WORKDIR/start. Resumes as `experiments.table1` does.
"""

import os
from collections.abc import Iterable
from typing import Any

from absl import flags

from experiments import chain, command, fast, runs, table1, tables
from experiments.config import Config
from experiments.lock import locked

# Sweep: (row of Table 1 or "fast/" and a row of experiments.fast, flag, values).
SWEEPS = {
    # Fig. 3.
    "z_max_0": ("sm_2", "z_max_0", (1.0, 1.5, 2.0, 3.0, 4.0)),
    "tau_0": ("sm_sr", "tau_0", (5.0, 8.0, 10.0, 15.0, 20.0)),
    # Fig. 8.
    "lambda_tr": ("sm_sr_tr", "lambda_tr", (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)),
    "lambda_tb": ("sm_sr_tr_tb_1e-5", "lambda_tb", (0.0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3)),
    # Settings of the reduced recipe.
    "learning_rate": ("sm_sr_tr", "learning_rate", (0.03, 0.1, 0.2)),
    "schedule": ("sm_sr_tr", "schedule", ("constant", "triangular", "cosine")),
    "batch_size": ("sm_sr_tr", "batch_size", (64, 128)),
    "gamma_0": ("sm_sr_tr", "gamma_0", (0.2, 0.3, 0.5, 1.0)),
    "target_epoch": ("sm_sr_tr", "target_epoch", (0, 1, 2)),
    "label_smoothing": ("sm_sr_tr", "label_smoothing", (0.0, 0.1)),
    "l2": ("sm_sr_tr", "l2", (0.0, 2.5e-4, 5e-4, 1e-3)),
    # What the recipe of fast_vgg was chosen from.
    "fast_kernel_initializer": ("fast/relu", "kernel_initializer", ("he", "dirac")),
    "fast_whiten": ("fast/relu", "whiten", (False, True)),
    "fast_logit_scale": ("fast/relu", "logit_scale", (0.111, 1.0)),
    "fast_label_smoothing": ("fast/relu", "label_smoothing", (0.0, 0.2)),
    "fast_bias_rate": ("fast/relu", "bias_rate", (1.0, 16.0)),
    "fast_l2": ("fast/relu", "l2", (2.5e-4, 6.65e-4)),
    "fast_flip": ("fast/relu", "flip", ("random", "alternating")),
    "fast_translation": ("fast/relu", "translation", (0, 2, 4)),
    "fast_border": ("fast/relu", "border", ("zeros", "reflect")),
    "fast_cutout": ("fast/relu", "cutout", (0, 8)),
    # What saves spikes: budgets of half the width.
    "fast_tau_0": ("fast/t16", "tau_0", (5.0, 6.0, 7.0, 8.0, 10.0)),
    "fast_spike_budget": ("fast/t16", "spike_budget", (0.0, 3000.0, 4500.0, 6000.0, 8000.0, 10000.0)),
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
        folder, _, name = row.rpartition("/")
        table = fast.TABLE if folder else table1.TABLE
        base, label = table.row_config(name, overrides), row.replace("/", "_")
        for value in values:
            shown = f"{value:g}" if isinstance(value, float) else value
            point = f"{label},base" if getattr(base, flag) == value else f"{label},{flag}={shown}"
            wanted[point] = table.row_config(name, {**overrides, flag: value})
    return wanted


def starts(wanted: dict[str, Config], workdir: str) -> tuple[dict[str, Config], dict[str, dict[str, str]]]:
    """`({name: Config}, {point: {flagfile: model}})`: what points begin from, in directories of `workdir` that they share."""
    before: dict[str, Config] = {}
    models = {}
    for point, config in wanted.items():
        found, their_models = chain.runs_before(config, workdir)
        if any(before.get(name, other) != other for name, other in found.items()):
            raise ValueError(
                f"Expected sweeps that begin from the same runs. Received: {point}, which begins from others"
            )
        before |= found
        models |= {name or point: paths for name, paths in their_models.items()}
    return before, models


def main(options: flags.FlagValues) -> None:
    with command.usage_errors():
        command.check_names("sweeps", options.sweeps, SWEEPS)
        wanted = configs(options.sweeps, command.changed_fields())
        before, models = starts(wanted, options.workdir)
    data = {"data_dir": options.data_dir, "download": options.download}
    with locked(options.workdir):
        _, failures = runs.train_all(before, options.workdir, **data, models=models)
        if failures:
            command.exit_with_failures(failures)
        results, failures = runs.train_all(wanted, options.workdir, **data, collect=options.collect, models=models)
    print(f"\n{tables.sweep_table(results)}\n\nFiles: {os.path.abspath(options.workdir)}")
    command.exit_with_failures(failures)


if __name__ == "__main__":
    define_flags()
    command.run(main)
