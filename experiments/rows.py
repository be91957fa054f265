"""A table whose every row is a flagfile: trains rows and seeds one after the other, and prints the table.

What is finished is not trained again, and what was interrupted goes on. A row may begin from another row of the same seed: it
names that row's flagfile.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from absl import app, flags

from experiments import chain, command, runs
from experiments.config import Config
from experiments.files import write_text
from experiments.lock import locked
from experiments.workdir import check_made, pattern_of, remove_leftovers

FLAGFILES = command.ROOT / "experiments" / "flagfiles"


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows that are trained together.

    Attributes:
        folder: of the flagfiles.
        rows: names of the flagfiles, in the table's order. A row stands behind those that it begins from.
        file: name of the table in the workdir.
        text: function of `{row/seedN: result}` and of the command's flags. It returns the table.
    """

    folder: pathlib.Path
    rows: tuple[str, ...]
    file: str
    text: Callable[[runs.Results, flags.FlagValues], str]

    def define_flags(self, values: flags.FlagValues = flags.FLAGS) -> None:
        command.define_config_flags(values)
        command.define_shared_flags("workdir", "data_dir", "download", "collect", values=values)
        folder = self.folder.relative_to(command.ROOT)
        flags.DEFINE_list("rows", list(self.rows), f"Rows, names of flagfiles in {folder}.", flag_values=values)
        flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each row.", flag_values=values)

    def row_config(self, row: str, overrides: dict[str, Any] | None = None) -> Config:
        """The Config of a row's flagfile, some of its fields replaced."""
        return command.config_from_flagfile(self.folder / f"{row}.flags", overrides)

    def begins_from(self, row: str, overrides: dict[str, Any] | None = None) -> dict[str, str]:
        """`{flagfile: row}` of the rows that a row begins from."""
        paths = chain.flagfiles(self.row_config(row, overrides)).values()
        names = {path: pathlib.Path(path).stem for path in paths}
        command.check_names(f"flagfiles that {row} begins from", names.values(), self.rows)
        return names

    def with_their_starts(self, rows: Iterable[str], overrides: dict[str, Any]) -> list[str]:
        """Rows and all those that they begin from, in the table's order."""
        wanted = set(rows)
        for row in reversed(self.rows):
            wanted |= set(self.begins_from(row, overrides).values()) if row in wanted else set()
        return [row for row in self.rows if row in wanted]

    def configs(self, rows: Iterable[str], seeds: Iterable[int], overrides: dict[str, Any]) -> dict[str, Config]:
        """`{row/seedN: Config}`, all rows of the first seed first, with the rows that these begin from."""
        rows = self.with_their_starts(rows, overrides)
        return {
            f"{row}/seed{seed}": self.row_config(row, {**overrides, "seed": seed}) for seed in seeds for row in rows
        }

    def models(self, wanted: dict[str, Config], workdir: str) -> dict[str, dict[str, str]]:
        """`{row/seedN: {flagfile: model}}`: what each run begins from, in the directory of that row and seed."""
        found = {}
        for name, config in wanted.items():
            seed = os.path.basename(name)
            rows = {path: pathlib.Path(path).stem for path in chain.flagfiles(config).values()}
            found[name] = {path: chain.model_in(os.path.join(workdir, row, seed)) for path, row in rows.items()}
        return found

    def main(self, options: flags.FlagValues) -> None:
        overrides = command.changed_fields()
        if {"row", "seed"} & overrides.keys():
            raise app.UsageError("Expected --rows and --seeds. Received: --row or --seed.")
        with command.usage_errors():
            command.check_names("rows", options.rows, self.rows)
            wanted = self.configs(options.rows, command.whole_numbers("seeds", options.seeds), overrides)
        table = os.path.join(options.workdir, self.file)
        with locked(options.workdir):
            check_made([table])
            remove_leftovers(options.workdir, pattern_of([self.file]))
            results, failures = runs.train_all(
                wanted,
                options.workdir,
                data_dir=options.data_dir,
                download=options.download,
                collect=options.collect,
                models=self.models(wanted, options.workdir),
            )
            failed = [f"{name} failed. {message}" for name, message in failures.items()]
            text = "\n\n".join([self.text(results, options), *failed])
            write_text(table, text + "\n")
        print(f"\n{text}\n\nFiles: {os.path.abspath(options.workdir)}")
        command.exit_with_failures(failures)


def by_row(results: runs.Results) -> dict[str, list[Any]]:
    """`{row: [result of each seed]}` of `{row/seedN: result}`."""
    found: dict[str, list[Any]] = {}
    for name, result in results.items():
        found.setdefault(name.split("/")[0], []).append(result)
    return found
