"""The rows of fast_vgg, one after the other: `python -m experiments.fast --rows=relu,t16 --workdir=runs/fast --data_dir=DIR`.

A row is a flagfile in experiments/flagfiles/fast. TTFS rows begin from another row of the same seed, as their flagfiles say,
and that row is trained first. Flags of `experiments.cifar` change every row. Resumes as `experiments.table1` does.
"""

import os

from absl import flags

from experiments import command, fast_tables, runs
from experiments.files import REMEDY
from experiments.rows import FLAGFILES, Table
from experiments.stored import read_history


def _text(results: runs.Results, options: flags.FlagValues) -> str:
    """The table of `{row/seedN: result}`. The histories are in the workdir, or where they were collected."""
    found: fast_tables.Rows = {}
    for name, result in results.items():
        row, _, seed = name.partition("/")
        paths = [os.path.join(options.workdir, row, seed, "history.csv")]
        paths += [os.path.join(options.collect, f"{row}.{seed}.history.csv")] if options.collect else []
        path = next((path for path in paths if os.path.exists(path)), paths[-1])
        found.setdefault(row, []).append({"result": result, "history": read_history(path, REMEDY)})
    return fast_tables.fast_table(found)


TABLE = Table(FLAGFILES / "fast", tuple(fast_tables.TWINS), "fast.md", _text)
define_flags, main, row_config, configs = TABLE.define_flags, TABLE.main, TABLE.row_config, TABLE.configs


if __name__ == "__main__":
    define_flags()
    command.run(main)
