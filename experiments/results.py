"""Readers of the result files that the commands collect. Nothing in here draws or prints."""

import math
import os
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.files import REMEDY
from experiments.paper import TABLE1_ROWS
from experiments.stored import (
    FAILURE_FILE,
    read_any,
    read_benchmark,
    read_distributions,
    read_failure,
    read_history,
    read_kernels,
    read_result,
)

Result = dict[str, Any]
# Of each row of a table, the result of each seed.
Rows = dict[str, list[Result]]
ROOT = pathlib.Path(__file__).resolve().parent.parent
# The committed results; each folder is one group of runs that belong together.
RESULTS = ROOT / "experiments" / "results"


def result_files(folder: str | os.PathLike[str], runs: str) -> list[pathlib.Path]:
    """Paths of the results of runs that a pattern names."""
    paths = pathlib.Path(folder).glob(f"{runs}.json")
    return sorted(path for path in paths if not path.name.endswith((".distributions.json", f".{FAILURE_FILE}")))


def read_group(group: str, pattern: str = "*") -> list[Result]:
    """The committed results of a group that a pattern names, in the order of their files' names."""
    return [read_any(path) for path in sorted((RESULTS / group).glob(f"{pattern}.json"))]


def read_benchmarks(pattern: str) -> list[Result]:
    """The committed results of parts of the benchmark, by the names of their files."""
    return [read_benchmark(path) for path in sorted((RESULTS / "benchmark").glob(f"{pattern}.json"))]


def read_runs(folder: str | os.PathLike[str], rows: Iterable[str], seed: int = 0) -> dict[str, dict[str, Any]]:
    """`{row: {"result", "history", "kernels", "distributions"}}` of one seed, of those rows that are there.

    The result of a run that ended in a loss that is not finite is what its `failure.json` tells. It has no distributions,
    and is not there where it has no whole epoch.
    """
    runs = {}
    for row in rows:
        base = os.path.join(folder, f"{row}.seed{seed}")
        if os.path.exists(f"{base}.json"):
            more = {"distributions": read_distributions(f"{base}.distributions.json", REMEDY)}
            result = read_result(f"{base}.json", REMEDY)
        elif os.path.exists(ended := f"{base}.{FAILURE_FILE}") and (result := read_failure(ended))["epochs"]:
            more = {}
        else:
            continue
        runs[row] = {
            "result": result,
            "history": read_history(f"{base}.history.csv", REMEDY),
            "kernels": read_kernels(f"{base}.kernels.csv", REMEDY),
            **more,
        }
    return runs


def read_points(folder: str | os.PathLike[str]) -> dict[str, Result]:
    """`{"row,flag=value": result}` of the sweeps in a folder."""
    return {path.name.removesuffix(".json"): read_result(path, REMEDY) for path in result_files(folder, "*")}


def table1_results(group: str) -> Rows:
    """The committed runs of Table 1, all of one data set."""
    found = {
        row: [read_result(path, REMEDY) for path in paths]
        for row in TABLE1_ROWS
        if (paths := result_files(RESULTS / group, f"{row}.seed*"))
    }
    check_one_value(group, "data", [run["data"] for runs in found.values() for run in runs])
    return found


def table1_failures(group: str) -> Rows:
    """What is told of the committed runs of Table 1 whose loss was not finite, but for those that have a result since."""

    def ended(row):
        paths = sorted((RESULTS / group).glob(f"{row}.seed*.{FAILURE_FILE}"))
        return [path for path in paths if not path.with_name(path.name.replace(FAILURE_FILE, "json")).exists()]

    return {row: list(map(read_failure, paths)) for row in TABLE1_ROWS if (paths := ended(row))}


def sweep_results(group: str) -> dict[str, Result]:
    """`{"row,flag=value": result}` of the committed sweeps, in the order of rows, flags and values."""

    def place(name):
        row, point = name.split(",", 1)
        flag, _, value = point.partition("=")
        number = float(value) if value.replace(".", "").replace("e-", "").isdigit() else 0.0
        rank = list(TABLE1_ROWS).index(row) if row in TABLE1_ROWS else len(TABLE1_ROWS)
        return rank, row, flag, number, value

    found = read_points(RESULTS / group)
    return {name: found[name] for name in sorted(found, key=place)}


def last_epoch_mean(group: str, row: str, column: str) -> float:
    """A column of the histories' last epoch, its mean over the seeds that are finished."""
    histories = [path.with_suffix(".history.csv") for path in result_files(RESULTS / group, f"{row}.seed*")]
    return statistics.mean(read_history(path, REMEDY)[-1][column] for path in histories)


def paired(ours: list[Result], theirs: list[Result]) -> list[tuple[Result, Result]]:
    """The results of two rows, side by side, over the seeds that both have."""
    by_seed = [{result["config"]["seed"]: result for result in row} for row in (ours, theirs)]
    return [(by_seed[0][seed], by_seed[1][seed]) for seed in sorted(by_seed[0].keys() & by_seed[1].keys())]


def accuracy_differences(ours: list[Result], theirs: list[Result]) -> list[float]:
    """Accuracy of a row minus that of another, seed by seed [points]."""
    return [100 * (our["accuracy"] - their["accuracy"]) for our, their in paired(ours, theirs)]


def spike_changes(ours: list[Result], theirs: list[Result]) -> list[float]:
    """Spikes of a row against those of another, seed by seed [%]; an empty list where one of them has no spikes."""
    pairs = paired(ours, theirs)
    return [
        100 * (our["spikes"] / their["spikes"] - 1) for our, their in pairs if "spikes" in our and "spikes" in their
    ]


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of two or more values."""
    return statistics.stdev(values) / math.sqrt(len(values))


def changes_from_zero(points: dict[str, Result], row: str, flag: str) -> list[tuple[float, float, float]]:
    """`[(value, change of spikes [%], of accuracy [points]), ...]` of a sweep's points against its point at 0."""
    found = sorted(
        (result["config"][flag], result)
        for name, result in points.items()
        if name.startswith((f"{row},{flag}=", f"{row},base"))
    )
    if not found or found[0][0] != 0:
        return []
    (_, without), *others = found
    return [
        (value, 100 * (r["spikes"] / without["spikes"] - 1), 100 * (r["accuracy"] - without["accuracy"]))
        for value, r in others
    ]


def check_one_value(group: str, name: str, values: Iterable[Any]) -> None:
    """Raises ValueError where the values differ."""
    if len(found := {str(value) for value in values}) > 1:
        raise ValueError(f"Expected one {name} in {group}. Received: {', '.join(sorted(found))}")
