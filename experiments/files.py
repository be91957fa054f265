"""Files that appear whole or not at all."""

import contextlib
import json
import os

# What a killed process may leave behind.
PARTIAL = ".partial-"


@contextlib.contextmanager
def replaced(path):
    """Yields a temporary path beside `path`, with its suffix; on success it takes the place of `path`."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f"{PARTIAL}{os.getpid()}-{name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def write_json(path, value, indent=1):
    with replaced(path) as temporary, open(temporary, "w") as file:
        json.dump(value, file, indent=indent)
        file.write("\n")


def read_json(path):
    with open(path) as file:
        return json.load(file)
