"""Files that appear whole or not at all, and how they are read."""

import contextlib
import csv
import json
import os
from collections.abc import Iterator
from typing import Any

# Begin of the names of files that a killed process may leave behind.
PARTIAL = ".partial-"
PathLike = str | os.PathLike[str]


@contextlib.contextmanager
def replaced(path: PathLike) -> Iterator[str]:
    """Yields a temporary path beside `path`, with its suffix; on success it takes the place of `path`."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f"{PARTIAL}{os.getpid()}-{name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def write_text(path: PathLike, text: str) -> None:
    with replaced(path) as temporary, open(temporary, "w") as file:
        file.write(text)


def write_json(path: PathLike, value: Any, indent: int | None = 1) -> None:
    write_text(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: PathLike) -> Any:
    with open(path) as file:
        return json.load(file)


def write_csv(path: PathLike, rows: list[dict[str, Any]]) -> None:
    """Writes dicts as lines of a CSV file. Columns stand in the order of their first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replaced(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: PathLike) -> list[dict[str, float | str]]:
    """The lines of a CSV file as dicts, numbers as floats."""
    with open(path, newline="") as file:
        return [{name: _number_or_text(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
