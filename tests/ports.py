"""Ports for processes that talk to each other."""

import random
import socket

_random = random.SystemRandom()


def two_free_ports():
    """A free port and the one behind it."""
    while True:
        port = _random.randrange(20000, 60000)
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("", port))
                other.bind(("", port + 1))
                return port, port + 1
            except OSError:
                continue
