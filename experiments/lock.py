"""A lock on a directory: one process at a time writes to it.

The lock is that of `flock`, which Linux and macOS have. It ends with its process, however that ends, so that the lock of a
dead process, or of an earlier boot, is taken over. Its file tells who holds it.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from experiments.files import what_is

LOCK = ".keras_ttfs.lock"


def check_folder(folder: str, flag: str) -> None:
    """Raises FileExistsError or ValueError where a directory cannot be at this path."""
    if not folder:
        raise ValueError(f"Expected {flag} to be the path of a directory. Received: {flag}=''")
    place = folder
    while place and not os.path.isdir(place):
        if os.path.lexists(place):
            raise FileExistsError(
                f"Expected {flag} to be a directory. Received: {folder}; {place} is {what_is(place)}."
            )
        place = os.path.dirname(place)


@contextlib.contextmanager
def locked(folder: str, flag: str = "--workdir") -> Iterator[None]:
    """Keeps other processes out of a directory, which is made if it is not there, and removed again if it stays empty.

    Raises:
        FileExistsError: where another process is in there, or where the path is no directory.
        OSError: where it cannot be written to.
    """
    check_folder(folder, flag)
    made = _make(folder, flag)
    path, descriptor = os.path.join(folder, LOCK), None
    try:
        descriptor = _acquire(path, folder, flag)
        yield
    finally:
        if descriptor is not None:
            # Removed while it is held: who waits for it finds that its file is gone, and takes a new one.
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
            os.close(descriptor)
        for place in reversed(made):
            with contextlib.suppress(OSError):
                os.rmdir(place)


def _make(folder: str, flag: str) -> list[str]:
    """Makes a directory. Returns those that were made, the outermost first."""
    missing, place = [], os.path.abspath(folder)
    while not os.path.isdir(place):
        missing.append(place)
        place = os.path.dirname(place)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"Expected {flag} to be a directory that can be made. Received: {folder}: {error.strerror}."
        ) from error
    return missing[::-1]


def _acquire(path: str, folder: str, flag: str) -> int:
    """The open file of a lock that this process holds from now on."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:
            # Who held the lock has just removed the directory with it.
            os.makedirs(folder, exist_ok=True)
            continue
        except OSError as error:
            raise type(error)(
                f"Expected {flag} to be a directory that can be written to. Received: {folder}: {error.strerror}."
            ) from error
        try:
            _claim_lock(descriptor, path, folder, flag)
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _claim_lock(descriptor: int, path: str, folder: str, flag: str) -> None:
    """Takes the lock; raises FileExistsError at once where another process has it, and where the file is not ours."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise OSError(
                f"Expected {flag} on a file system with locks. Received: {folder}: {error.strerror}."
            ) from error
        pid, host = _holder(descriptor)
        raise FileExistsError(
            f"Expected {flag} to be used by one process at a time. Received: {folder}, in which process {pid} on {host} is "
            f"at work. Wait for it, end it (kill {pid}), or choose another {flag}."
        ) from error
    if os.fstat(descriptor).st_size and _content(descriptor) is None:
        raise FileExistsError(f"Expected {path} to be a lock of this project. Received: a file of something else.")


def _is_at(descriptor: int, path: str) -> bool:
    """Whether an open file is the one that is at a path."""
    try:
        there, ours = os.lstat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _content(descriptor: int) -> dict[str, Any] | None:
    """What a lock says of its holder; None where it says nothing of the kind."""
    try:
        found = json.loads(os.pread(descriptor, 1000, 0))
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.keys() == {"pid", "host"} else None


def _holder(descriptor: int) -> tuple[Any, Any]:
    """Process and host of who holds a lock."""
    for _ in range(40):
        # It may still be about to write its name over that of a dead process.
        found = _content(descriptor)
        if found and (found["host"] != socket.gethostname() or is_alive(found["pid"])):
            return found["pid"], found["host"]
        time.sleep(0.025)
    return "of unknown number", "an unknown host"


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OverflowError, TypeError):
        return False
    except PermissionError:
        return True
    return True
