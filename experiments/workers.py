"""Several workers that train one run: the same command on each of them, with TensorFlow's TF_CONFIG.

    TF_CONFIG='{"cluster": {"worker": ["one:12345", "two:12345"]}, "task": {"type": "worker", "index": 0}}'

Each worker knows all addresses and its own index. A global batch is shared equally. Worker 0 writes the workdir. The others
work in a temporary directory of their own, which begins with a copy of worker 0's checkpoint: so a run of which any worker
was killed goes on when the command is started again on all of them.
"""

import contextlib
import dataclasses
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

# How long a worker waits for the others before it begins [s].
SECONDS_TO_MEET = 50.0
# What TensorFlow needs at the least to begin together, when all have met [s].
LEAST_TO_BEGIN = 10.0
VARIABLE = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["one:12345", "two:12345"]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What TF_CONFIG tells.

    Attributes:
        addresses: `host:port` of each worker.
        index: which of them this process is.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def told(self) -> str:
        """This worker, in words."""
        return f"worker {self.index} of {len(self.addresses)}"


def cluster() -> Cluster | None:
    """The cluster that TF_CONFIG tells of; None without it, or where it tells of one worker alone.

    Raises:
        ValueError: "Expected TF_CONFIG to be like ... Received: ...".
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        told = json.loads(text)
        jobs, task = told["cluster"], told["task"]
        addresses, index = tuple(jobs["worker"]), int(task["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise _wrong(text, f"{type(error).__name__}: {error}") from None
    if set(jobs) != {"worker"} or task.get("type") != "worker":
        raise _wrong(text, "jobs or a task other than worker")
    if not 0 <= index < len(addresses):
        raise _wrong(text, f"index {index} of {len(addresses)} workers")
    for address in addresses:
        host, _, port = str(address).rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise _wrong(text, f"the address {address!r}")
        # Which of its addresses TensorFlow listens at is not known.
        if ":" in host:
            raise _wrong(text, f"{address!r}, an IPv6 address where the name of the machine is needed")
    if len(set(addresses)) < len(addresses):
        raise _wrong(text, "an address twice")
    return Cluster(addresses, index) if len(addresses) > 1 else None


def _wrong(text, what):
    return ValueError(f"Expected {VARIABLE} to be like {EXAMPLE}. Received: {what} in {text}")


def refuse(command: str) -> None:
    """Raises ValueError where TF_CONFIG tells of several workers and a command trains on one alone."""
    if found := cluster():
        raise ValueError(
            f"Expected {command} to run in one process. Received: {VARIABLE} of {len(found.addresses)} workers. "
            "python -m experiments.cifar trains a single run on several, which begins from no other run"
        )


@contextlib.contextmanager
def joined(workdir: str) -> Iterator[tuple[Any, str]]:
    """Joins the cluster: yields `(strategy, workdir)`, the default strategy and the same workdir where there is none.

    Call it before TensorFlow computes anything.

    Raises:
        ConnectionError: where another worker does not come, or ends while this one is at work.
    """
    import tensorflow as tf

    found = cluster()
    if found is None:
        yield tf.distribute.get_strategy(), workdir
        return
    end = time.monotonic() + SECONDS_TO_MEET
    meet(found)
    # It tells of every single collective operation.
    tf.get_logger().setLevel("ERROR")
    left = max(end - time.monotonic(), LEAST_TO_BEGIN)
    with within(left, f"Expected all workers to begin. Received: one that has ended before {found.told} met it."):
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    try:
        if found.index == 0:
            yield strategy, workdir
        else:
            with tempfile.TemporaryDirectory() as own:
                yield strategy, os.path.join(own, "run")
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise ConnectionError(
            f"Expected all workers to be at work. Received: one that has ended; its output tells why. {found.told} ends too. "
            "Start the command again on all of them: it goes on behind the last whole epoch."
        ) from error


@contextlib.contextmanager
def within(seconds: float, message: str) -> Iterator[None]:
    """Ends the process where TensorFlow waits for longer, which nothing else can interrupt."""

    def end():
        print(f"ConnectionError: {message}", file=sys.stderr, flush=True)
        os._exit(1)

    watch = threading.Timer(seconds, end)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def meet(cluster: Cluster, seconds: float = SECONDS_TO_MEET) -> None:
    """Returns when every worker listens at its address.

    Raises:
        ConnectionError: where one does not within so many seconds, and where this worker cannot listen at its own.
    """
    host, _, port = cluster.addresses[cluster.index].rpartition(":")
    missing = [address for place, address in enumerate(cluster.addresses) if place != cluster.index]
    print(f"{cluster.told} waits for {', '.join(missing)}", flush=True)
    try:
        door = socket.create_server(("", int(port)))
    except OSError as error:
        raise ConnectionError(f"Expected to listen at port {port} of {host}. Received: {error.strerror}.") from error
    met = threading.Event()
    door.settimeout(0.1)
    answering = threading.Thread(target=_answer, args=(door, met), daemon=True)
    answering.start()
    end = time.monotonic() + seconds
    found: set[str] = set()
    # All at once, because an address that nobody answers takes its time.
    asking = [threading.Thread(target=_ask, args=(address, end, found), daemon=True) for address in missing]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(max(0.0, end - time.monotonic()))
    missing = [address for address in missing if address not in found]
    met.set()
    # TensorFlow listens at the same port, when nobody else does any more.
    answering.join()
    door.close()
    if missing:
        raise ConnectionError(
            f"Expected every worker at its address within {seconds:g} seconds. Received: nothing from {', '.join(missing)}."
        )


def _answer(door, met):
    while not met.is_set():
        with contextlib.suppress(TimeoutError):
            door.accept()[0].close()


def _ask(address, end, found):
    """Adds the address to `found` when somebody answers there; gives up at the end."""
    host, _, port = address.rpartition(":")
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            found.add(address)
            return
        time.sleep(0.1)


def is_first() -> bool:
    """Whether this process is worker 0, or works alone."""
    found = cluster()
    return found is None or found.index == 0


def share_folder(strategy: Any, folder: str) -> None:
    """Gives every worker the files that worker 0 has in a folder."""
    found = cluster()
    if found is None:
        return
    ours = _read(folder) if found.index == 0 else []
    listed = _share(strategy, json.dumps([[name, len(content)] for name, content in ours]).encode())
    everything = _share(strategy, b"".join(content for _, content in ours))
    if found.index == 0:
        return
    start = 0
    for name, size in json.loads(listed.rstrip(b"\0")):
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, os.path.basename(name)), "wb") as file:
            file.write(everything[start : start + size])
        start += size


def _read(folder):
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if os.path.isdir(folder) else ():
        if entry.is_file(follow_symlinks=False):
            with open(entry.path, "rb") as file:
                found.append((entry.name, file.read()))
    return found


def _share(strategy, content):
    """The bytes of worker 0, on every worker, zeros behind them. Others give none."""
    import numpy as np
    import tensorflow as tf

    # As whole numbers, because no collective operation takes bytes. The others add zeros.
    numbers = np.frombuffer(content + b"\0" * (8 - len(content) % 8), "int64")
    sizes = strategy.gather(tf.constant([len(numbers)], tf.int64), axis=0).numpy()
    numbers = numbers if is_first() else np.zeros(sizes[0], "int64")
    return strategy.reduce(tf.distribute.ReduceOp.SUM, tf.constant(numbers), axis=None).numpy().tobytes()
