"""What a server needs around its app: an address that it can listen on, and a stop that leaves nothing behind."""

import logging
import signal
import socket
from typing import Any


def check_address(host: str, port: int | None) -> None:
    """Check that a server can listen, before Gradio tries a hundred ports and prints an error for each.

    Args:
        port: None for any that is free.

    Raises:
        ValueError: if there is no such port.
        OSError: if it is taken, or the host is not this machine.
    """
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"--port must be in [1, 65535], got {port}.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        place = f"'{host}'" if port is None else f"port {port} of '{host}'"
        raise OSError(f"Cannot listen on {place} ({error.strerror}): pass another --host or --port.") from error


def stop_on_signals() -> None:
    """Let SIGTERM end the main thread as Ctrl-C does, so that everything temporary is deleted."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, _stop)


def _stop(*_: Any) -> None:
    logging.getLogger("uvicorn.error").disabled = True  # it would print a traceback for every page that is open
    raise KeyboardInterrupt
