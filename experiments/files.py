"""Files that appear whole or not at all, and readers that find damage.

A writer replaces a file in one step. A reader raises one error for whatever is wrong with a file: it names the file, what
was expected of it, what it holds, and the remedy. A sealed JSON file carries the SHA-256 of its content, so that a single
byte that changed is found.
"""

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

# Begin of the names of files that a killed process may leave behind: `.partial-PID-NAME`.
PARTIAL = ".partial-"
LEFTOVER = re.compile(rf"{re.escape(PARTIAL)}(\d+)-(.+)")
SEAL = "sha256"
# What matplotlib writes into a picture: one of our names is replaced by a later one.
PICTURE_MARK = "Software\0Matplotlib version"
REMEDY = "Restore the file, or remove it to have it made again."
# More than the tensors take: names and shapes of a file of weights.
SPACE_FACTOR, SPACE_MARGIN = 1.1, 2**20
PathLike = str | os.PathLike[str]
# What a value must be, in words and as a function.
Kind = tuple[str, Callable[[Any], bool]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    """Whether a value is a whole number >= 0."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


NUMBER: Kind = ("a finite number", _is_number)
SHARE: Kind = ("a number in [0, 1]", lambda value: _is_number(value) and 0 <= value <= 1)
COUNT: Kind = ("a whole number >= 0", is_count)
TEXT: Kind = ("a text", lambda value: isinstance(value, str))
OBJECT: Kind = ("an object", lambda value: isinstance(value, dict))
LIST: Kind = ("a list", lambda value: isinstance(value, list))


def optional(kind: Kind) -> Kind:
    """The kind, or null."""
    return f"{kind[0]} or null", lambda value: value is None or kind[1](value)


def list_of(kind: Kind) -> Kind:
    return f"a list of which each is {kind[0]}", lambda value: isinstance(value, list) and all(map(kind[1], value))


def damaged(path: PathLike, expected: str, received: Any, remedy: str = REMEDY) -> ValueError:
    """The error of a file that is not what it should be."""
    text = str(received).strip().splitlines() or [type(received).__name__]
    return ValueError(f"Expected {os.fspath(path)} to hold {expected}. Received: {_short(text[0])}. {remedy}")


def _short(text: str) -> str:
    text = text.rstrip(".")
    return text if len(text) <= 300 else f"{text[:300]}..."


@contextlib.contextmanager
def replaced(path: PathLike) -> Iterator[str]:
    """Yields a temporary path beside `path`, with its suffix; on success it takes the place of `path`.

    Only a file is replaced: a symbolic link or a directory of that name is not ours.
    """
    folder, name = os.path.split(path)
    if os.path.islink(path) or os.path.isdir(path):
        raise FileExistsError(f"Expected {path} to be a file, or nothing. Received: {what_is(path)}.")
    temporary = os.path.join(folder, f"{PARTIAL}{os.getpid()}-{name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # A full disk is told without the name of the file.
        if error.filename is None and error.errno == errno.ENOSPC:
            message = f"Expected room for the file. Received: {error.strerror}"
            raise OSError(error.errno, message, os.fspath(path)) from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def what_is(path: PathLike) -> str:
    """In words, what stands at a path."""
    if os.path.islink(path):
        return f"a symbolic link to {os.readlink(path)}"
    if os.path.isdir(path):
        return "a directory"
    if os.path.isfile(path):
        return "a file"
    return "something else" if os.path.lexists(path) else "nothing"


def check_space(folder: PathLike, size: int) -> None:
    """Raises OSError where the disk of `folder` has no room for `size` bytes, names and margin included."""
    place = os.path.abspath(folder)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    usage = shutil.disk_usage(place)
    needed = int(size * SPACE_FACTOR) + SPACE_MARGIN
    # Some file systems do not tell their size.
    if usage.total and usage.free < needed:
        raise OSError(
            f"Expected {needed / 2**20:,.1f} MiB of free disk space in {folder}. Received: {usage.free / 2**20:,.1f} MiB. "
            "Make room and start the command again: what is finished is kept."
        )


def sha256(path: PathLike) -> str:
    """Digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: PathLike, text: str) -> None:
    with replaced(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def write_json(path: PathLike, value: Any, indent: int | None = 1, sealed: bool = False) -> None:
    """Writes JSON. A `sealed` dict carries the digest of its content, which `read_json` checks and takes off."""
    if sealed:
        value = {**value, SEAL: _digest(value)}
    write_text(path, json.dumps(value, indent=indent) + "\n")


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_text(path: PathLike, remedy: str = REMEDY) -> str:
    """The text of a file, its line ends as they are; ValueError where it is empty or no text."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"Expected {path}. Received: no such file. {remedy}")
    if not os.path.isfile(path):
        raise damaged(path, "text", what_is(path), remedy)
    with open(path, "rb") as file:
        content = file.read()
    if not content.strip(b"\0 \t"):
        raise damaged(path, "text", f"{len(content)} bytes without content", remedy)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, "text", f"bytes that are no UTF-8 at {error.start}", remedy) from error


def read_json(path: PathLike, fields: dict[str, Kind] | None = None, remedy: str = REMEDY) -> Any:
    """The value of a JSON file, its seal checked. With `fields`, it is an object whose values are of their kinds.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: where it is damaged: no JSON, another shape, or other content than was sealed.
    """
    text = read_text(path, remedy)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, "JSON", f"{len(text)} characters, {error}", remedy) from error
    if isinstance(value, dict) and SEAL in value:
        seal = value.pop(SEAL)
        if seal != _digest(value):
            raise damaged(path, f"what was written (SHA-256 {seal})", "other content", remedy)
    if fields is not None:
        check_fields(path, value, fields, remedy)
    return value


def check_fields(path: PathLike, value: Any, fields: dict[str, Kind], remedy: str = REMEDY, where: str = "") -> None:
    """Raises ValueError where a value of a file is no object with these fields; others may be there too."""
    inside = f" in {where}" if where else ""
    if not isinstance(value, dict):
        raise damaged(path, f"an object{inside}", f"{type(value).__name__} {_short(repr(value))}", remedy)
    if missing := [name for name in fields if name not in value]:
        raise damaged(path, f"{', '.join(missing)}{inside}", _short(", ".join(map(repr, value))) or "{}", remedy)
    for name, (expected, holds) in fields.items():
        if not holds(value[name]):
            raise damaged(path, f"{expected} as {name}{inside}", f"{name}={_short(repr(value[name]))}", remedy)


def write_csv(path: PathLike, rows: list[dict[str, Any]]) -> None:
    """Writes dicts as lines of a CSV file. Columns stand in the order of their first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replaced(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: PathLike, columns: dict[str, Kind] | None = None, remedy: str = REMEDY) -> list[dict[str, Any]]:
    """The lines of a CSV file as dicts, numbers as floats. With `columns`, their values are of these kinds.

    Raises FileNotFoundError and ValueError as `read_json` does; a file whose last line is cut is damaged.
    """
    text = read_text(path, remedy)
    if not text.endswith("\n"):
        raise damaged(path, "whole lines", "a last line that is cut", remedy)
    try:
        head, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    except csv.Error as error:
        raise damaged(path, "comma-separated lines", error, remedy) from error
    rows = []
    for number, line in enumerate(lines):
        if len(line) != len(head):
            raise damaged(path, f"{len(head)} values in line {number + 2}", len(line), remedy)
        row = {name: _number_or_text(value) for name, value in zip(head, line)}
        check_fields(path, row, columns or {}, remedy, f"line {number + 2}")
        rows.append(row)
    return rows


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
