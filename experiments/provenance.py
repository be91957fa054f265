"""Where a result comes from: versions, revision of the code, device."""

import importlib.metadata
import os
import platform
import subprocess
from typing import Any

VERSIONED = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "scikit-learn")


def provenance(*packages: str) -> dict[str, Any]:
    """Versions, also of `packages`, git revision and device of this process.

    To be called before the work begins: the code that runs is that of the beginning.
    """
    import tensorflow as tf

    import keras_ttfs

    versions = {"python": platform.python_version(), "keras_ttfs": keras_ttfs.__version__}
    for package in (*VERSIONED, *packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    details = tf.config.experimental.get_device_details
    gpus = [details(gpu)["device_name"] for gpu in tf.config.list_physical_devices("GPU")]
    return {
        "versions": versions,
        "git_revision": _git_revision(),
        "device": ", ".join(gpus) or f"CPU, {_cores()}",
    }


def continued(begun: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The provenance of work that one process began and another goes on with: both revisions, where they differ; None of
    code that nobody knows.
    """
    past, present = begun.get("git_revision"), now.get("git_revision")
    if past is None or present is None:
        return {**begun, "git_revision": None}
    return begun if past.endswith(present) else {**begun, "git_revision": f"{past} then {present}"}


def _cores() -> str:
    """Those that this process may use: fewer than the machine has where it is pinned."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return "1 core" if count == 1 else f"{count} cores"


def _git_revision() -> str | None:
    try:
        revision = _git("describe", "--always", "--dirty", "--abbrev=12")
        # A module that was never committed is code that nobody else has, too.
        added = _git("ls-files", "--others", "--exclude-standard", "--", ":/keras_ttfs/*.py", ":/experiments/*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{revision}-dirty" if added and not revision.endswith("-dirty") else revision


def _git(*arguments: str) -> str:
    here = os.path.dirname(os.path.abspath(__file__))
    return subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, check=True).stdout.strip()
