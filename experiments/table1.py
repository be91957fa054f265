"""Table 1, every row and seed, and the table: `python -m experiments.table1 --workdir=runs/table1 [--seeds=0,1,2]`.

Flags of `experiments.cifar` change every row, so `--flagfile=experiments/flagfiles/table1/small.flags` gives the reduced
scale. What is finished is not trained again; what was interrupted goes on.
"""

from experiments import command, paper, tables
from experiments.rows import FLAGFILES as ALL_FLAGFILES
from experiments.rows import Table, by_row

FLAGFILES = ALL_FLAGFILES / "table1"
TABLE = Table(FLAGFILES, tuple(paper.TABLE1_ROWS), "table1.md", lambda results, options: tables.table1(by_row(results)))
define_flags, main, row_config, configs = TABLE.define_flags, TABLE.main, TABLE.row_config, TABLE.configs


if __name__ == "__main__":
    define_flags()
    command.run(main)
