"""Functions in a process of their own, which ends when its parent does, however that ends."""

import multiprocessing
import os
import threading


def in_new_process(function, *arguments, **keywords):
    """What `function(*arguments, **keywords)` returns, or raises, in a process of its own, whose memory is its own too."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, function, arguments, keywords), daemon=True)
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


def _run(sender, function, arguments, keywords):
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        outcome = function(*arguments, **keywords), None
    except Exception as error:
        outcome = None, error
    sender.send(outcome)


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
