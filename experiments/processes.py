"""Functions in a process of their own. It ends when its parent does, even when the parent is killed."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def in_new_process(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """What `function(*arguments, **keywords)` returns, or raises, in a process of its own, whose memory is its own too."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call_and_send, args=(sender, function, arguments, keywords), daemon=True)
    process.start()
    sender.close()
    try:
        value, error = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} ended with exit code {process.exitcode}") from None
    process.join()
    if error is not None:
        raise error
    return value


def _call_and_send(sender: Connection, function: Callable[..., Any], arguments: tuple, keywords: dict) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        outcome = function(*arguments, **keywords), None
    except Exception as error:
        outcome = None, error
    sender.send(outcome)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
