"""Table 1, every row and seed, and the table: `python -m experiments.table1 --workdir=runs/table1 [--seeds=0,1,2]`.

Flags of `experiments.cifar` change every row, so `--flagfile=experiments/flagfiles/table1/small.flags` gives the reduced
scale. What is finished is not trained again; what was interrupted goes on.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from absl import app, flags

from experiments import command, paper, runs, tables
from experiments.config import Config
from experiments.files import write_text
from experiments.lock import locked
from experiments.workdir import check_made, pattern_of, remove_leftovers

FLAGFILES = pathlib.Path(__file__).resolve().parent / "flagfiles" / "table1"


def define_flags() -> None:
    command.define_config_flags()
    command.define_shared_flags("workdir", "data_dir", "download", "collect")
    flags.DEFINE_list("rows", list(paper.TABLE1_ROWS), "Rows, names of flagfiles in experiments/flagfiles/table1.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each row.")


def row_config(row: str, overrides: dict[str, Any] | None = None) -> Config:
    """The Config of a row's flagfile, some of its fields replaced."""
    values = flags.FlagValues()
    command.define_config_flags(values)
    values(["table1", *_lines(FLAGFILES / f"{row}.flags")])
    return dataclasses.replace(command.config_from_flags(values), **(overrides or {}))


def _lines(path: pathlib.Path) -> list[str]:
    """Flags of a flagfile. It includes others by their paths from the project's root, wherever we are."""
    root = FLAGFILES.parent.parent.parent
    lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
    return [line.replace("--flagfile=", f"--flagfile={root}/") for line in lines]


def configs(rows: Iterable[str], seeds: Iterable[int], overrides: dict[str, Any]) -> dict[str, Config]:
    """`{row/seedN: Config}`, all rows of the first seed first."""
    return {f"{row}/seed{seed}": row_config(row, {**overrides, "seed": seed}) for seed in seeds for row in rows}


def main(options: flags.FlagValues) -> None:
    overrides = command.changed_fields()
    if {"row", "seed"} & overrides.keys():
        raise app.UsageError("Expected --rows and --seeds. Received: --row or --seed.")
    with command.usage_errors():
        command.check_names("rows", options.rows, paper.TABLE1_ROWS)
        wanted = configs(options.rows, command.whole_numbers("seeds", options.seeds), overrides)
    table = os.path.join(options.workdir, "table1.md")
    with locked(options.workdir):
        check_made([table])
        remove_leftovers(options.workdir, pattern_of(["table1.md"]))
        results, failures = runs.train_all(
            wanted, options.workdir, data_dir=options.data_dir, download=options.download, collect=options.collect
        )
        by_row = {}
        for name, result in results.items():
            by_row.setdefault(name.split("/")[0], []).append(result)
        text = tables.table1(by_row)
        write_text(table, text + "\n")
    print(f"\n{text}\n\nFiles: {os.path.abspath(options.workdir)}")
    command.exit_with_failures(failures)


if __name__ == "__main__":
    define_flags()
    command.run(main)
