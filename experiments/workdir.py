"""A directory that a command writes to: whose it is, and what may be removed from it. No TensorFlow.

Nothing is removed but files that a run writes, by the closed list of their names below, and only where config.json tells that
the directory is a run's. One file that is not on the list, or one symbolic link, and nothing at all is removed.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable
from typing import Any

from experiments.config import Config, differences
from experiments.files import LEFTOVER, PICTURE_MARK, what_is, write_json
from experiments.lock import LOCK, check_folder, is_alive, locked
from experiments.stored import FAILURE_FILE, WEIGHTS, check_run, first_line_is, read_config, read_state

SIMULATION_FILES = (
    "simulation.json",
    "spike_raster.png",
    "spikes_per_neuron.png",
    "spike_times.png",
    "membrane_potentials.png",
)
RUN_FILES = (
    # Removed in this order: a run whose result is gone is no finished one.
    "result.json",
    FAILURE_FILE,
    "history.csv",
    "kernels.csv",
    "distributions.json",
    "model.keras",
    "learning_curves.png",
    "spikes_by_layer.png",
    "kernels.png",
    # Of `experiments.convert`, which writes beside the model.
    "conversion.json",
    "config.json",
)
_EVENTS = r"events\.out\.tfevents\..+"
# Of each directory that a run may hold, as a path from the workdir: a pattern of the files that are ours.
OURS = {
    "": "|".join(map(re.escape, RUN_FILES)),
    "checkpoint": rf"state\.json|{WEIGHTS.pattern}",
    "simulation_event": "|".join(map(re.escape, SIMULATION_FILES)),
    "simulation_clock": "|".join(map(re.escape, SIMULATION_FILES)),
    "tensorboard": "(?!)",
    "tensorboard/train": _EVENTS,
    "tensorboard/validation": _EVENTS,
}
# Directories in that of a run, with the runs that it begins from. They stay where the run is replaced.
STARTING_RUNS = ("start", "teacher")
TABLE_BEGINS = ("| row |", "| method |", "| noise |", "| early firing [steps] |")


def pattern_of(names: Iterable[str]) -> str:
    """A pattern of exactly these names."""
    return "|".join(map(re.escape, names)) or "(?!)"


def remove_leftovers(folder: str, pattern: str) -> None:
    """Removes temporary files of dead processes from `folder`: those of files whose names the pattern knows."""
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        found, path = LEFTOVER.fullmatch(name), os.path.join(folder, name)
        ours = found and re.fullmatch(pattern, found[2]) and not is_alive(int(found[1]))
        if ours and os.path.isfile(path) and not os.path.islink(path):
            os.remove(path)


def _is_temporary(name: str, pattern: str) -> bool:
    """Whether a name is that of a lock, or of a temporary file of ours."""
    found = LEFTOVER.fullmatch(name)
    return name == LOCK or bool(found and re.fullmatch(pattern, found[2]))


@dataclasses.dataclass
class Contents:
    """What is in a directory.

    Attributes:
        files: paths of files that we write, in the order of their removal.
        folders: paths of directories that we make, the innermost last.
        foreign: everything else, as paths from that directory.
    """

    files: list[str] = dataclasses.field(default_factory=list)
    folders: list[str] = dataclasses.field(default_factory=list)
    foreign: list[str] = dataclasses.field(default_factory=list)


def contents(workdir: str, ours: dict[str, str] = OURS, at: str = "") -> Contents:
    """What is in a run's directory. Symbolic links are not followed: they are foreign."""
    found, folder, pattern = Contents(), os.path.join(workdir, at), ours[at]
    for entry in sorted(os.scandir(folder), key=_removal_order):
        below = f"{at}/{entry.name}" if at else entry.name
        if below in STARTING_RUNS and _is_starting_run(folder, entry.name):
            continue
        if entry.is_dir(follow_symlinks=False) and below in ours:
            inner = contents(workdir, ours, below)
            found.files += inner.files
            found.folders += [entry.path, *inner.folders]
            found.foreign += inner.foreign
        elif not entry.is_file(follow_symlinks=False):
            found.foreign.append(below)
        elif re.fullmatch(pattern, entry.name):
            found.files.append(entry.path)
        elif not _is_temporary(entry.name, pattern):
            found.foreign.append(below)
    return found


def _is_starting_run(folder: str, name: str) -> bool:
    """Whether a name in a run's directory is that of a directory with a run that it begins from."""
    place = os.path.join(folder, name)
    return name in STARTING_RUNS and os.path.isdir(place) and not os.path.islink(place)


def _removal_order(entry: os.DirEntry) -> tuple[int, str]:
    known = RUN_FILES.index(entry.name) if entry.name in RUN_FILES else 0
    # Without state.json there is no checkpoint.
    return known, "" if entry.name == "state.json" else entry.name


def check_removable(folder: str, ours: dict[str, str], flag: str) -> Contents:
    """What is in a directory; raises FileExistsError where there is anything that we do not write."""
    if os.path.islink(os.path.normpath(folder)):
        raise FileExistsError(
            f"Expected {flag} to be a directory itself where something is replaced. Received: {folder}, "
            f"{what_is(os.path.normpath(folder))}. Name the directory."
        )
    found = contents(folder, ours)
    if found.foreign:
        more = f" and {len(found.foreign) - 5} more" if len(found.foreign) > 5 else ""
        raise FileExistsError(
            f"Expected {flag} to hold nothing but files of ours where --overwrite replaces them. Received: {folder} with "
            f"{', '.join(found.foreign[:5])}{more}. Nothing was removed. Move that away, or choose another {flag}."
        )
    if sealed := [place for place in (folder, *found.folders) if not os.access(place, os.W_OK | os.X_OK)]:
        raise PermissionError(f"Expected to write in {flag}. Received: {', '.join(sealed)}. Nothing was removed.")
    return found


def remove(folder: str, ours: dict[str, str], flag: str) -> None:
    """Removes what we write from a directory, or nothing where anything else is in there. The directory stays."""
    found = check_removable(folder, ours, flag)
    with contextlib.ExitStack() as stack:
        for place in found.folders:
            if os.path.basename(place).startswith("simulation_"):
                stack.enter_context(locked(place, "--output_dir"))
        for path in found.files:
            os.remove(path)
        for place in (folder, *found.folders):
            remove_leftovers(place, ours[os.path.relpath(place, folder).replace(os.sep, "/").removeprefix(".")])
    for place in reversed(found.folders):
        # Something else may have come into it by now.
        with contextlib.suppress(OSError):
            os.rmdir(place)


def check_workdir(config: Config, workdir: str, overwrite: bool = False) -> bool:
    """Raises where `workdir` is not free for this config, or damaged. True if it holds a run to be replaced.

    Raises:
        FileExistsError: where it holds other files, another run or a finished one; with `overwrite`, where it holds anything
            that a run does not write.
        ValueError, FileNotFoundError: where a file of the run is damaged.
    """
    check_folder(workdir, "--workdir")
    path = os.path.join(workdir, "config.json")
    if not os.path.lexists(path):
        there = os.listdir(workdir) if os.path.isdir(workdir) else []
        there = [name for name in there if not _is_starting_run(workdir, name)]
        if others := sorted(name for name in there if not _is_temporary(name, OURS[""])):
            raise FileExistsError(
                f"Expected a workdir that is new or empty. Received: {workdir}, which holds other files: "
                f"{', '.join(others[:5])}{' and more' if len(others) > 5 else ''}."
            )
        return False
    if os.path.islink(path):
        raise FileExistsError(f"Expected {path} to be a file. Received: {what_is(path)}. Choose another --workdir.")
    values = config.as_dict()
    changes = differences(read_config(path), values)
    finished = os.path.exists(os.path.join(workdir, "result.json"))
    if overwrite:
        # An interrupted run of this config goes on, also with --overwrite.
        replace = bool(changes or finished or _is_damaged(workdir, values))
        if replace:
            check_removable(workdir, OURS, "--workdir")
        return replace
    if changes:
        _refuse("that is new or holds this run", f"another run in config.json ({changes})", workdir)
    check_run(workdir, values)
    if finished:
        _refuse("without a finished run", "result.json", workdir)
    if blocked := [name for name in (*RUN_FILES, "checkpoint") if not _is_free(workdir, name)]:
        _refuse("in which the run can write", f"{blocked[0]}, {what_is(os.path.join(workdir, blocked[0]))}", workdir)
    return False


def _refuse(expected: str, received: str, workdir: str) -> None:
    raise FileExistsError(
        f"Expected a workdir {expected}. Received: {workdir} with {received}. "
        "Choose another --workdir, or replace the run with --overwrite."
    )


def _is_free(workdir: str, name: str) -> bool:
    """Whether the run can write its file, or its directory `checkpoint`, of that name."""
    path = os.path.join(workdir, name)
    right = os.path.isdir(path) if name == "checkpoint" else os.path.isfile(path)
    return not os.path.lexists(path) or (right and not os.path.islink(path))


def _is_damaged(workdir: str, values: dict[str, Any]) -> bool:
    try:
        check_run(workdir, values)
    except (ValueError, FileNotFoundError):
        return True
    return False


def claim_workdir(config: Config, workdir: str, overwrite: bool = False, data: str | None = None) -> None:
    """Makes `workdir` this config's, as `check_workdir` allows, and removes what killed processes left in it.

    With `overwrite`, an interrupted run of other data than those that `data` describes is replaced too.
    """
    replace = check_workdir(config, workdir, overwrite)
    if overwrite and not replace:
        state = read_state(os.path.join(workdir, "checkpoint"), config.as_dict())
        replace = state is not None and state.get("data") not in (None, data)
    if replace:
        remove(workdir, OURS, "--workdir")
    os.makedirs(workdir, exist_ok=True)
    for folder, pattern in OURS.items():
        place = os.path.join(workdir, folder)
        if not os.path.islink(place):
            remove_leftovers(place, pattern)
    write_json(os.path.join(workdir, "config.json"), config.as_dict())


def made_here(path: str) -> bool:
    """Whether a table is one that a command of ours wrote, and a picture one that matplotlib drew under a name of ours."""
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    if path.endswith(".md"):
        return first_line_is(path, TABLE_BEGINS)
    with open(path, "rb") as file:
        return PICTURE_MARK.encode() in file.read(4096)


def check_made(paths: Iterable[str], remedy: str = "Move it away.") -> None:
    """Raises FileExistsError where a picture or a table would be replaced that no command of ours wrote."""
    for path in paths:
        if os.path.lexists(path) and not made_here(path):
            raise FileExistsError(
                f"Expected {path} to be new, or made by this command. Received: {what_is(path)}. {remedy}"
            )
