"""How the Space listens: who may ask it, a start that waits, and a stop that leaves nothing behind."""

import atexit
import contextlib
import ipaddress
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from gradio import http_server
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from modeling_splip.search.service import stop_on_signals

START_SECONDS = 300  # Gradio gives up after 5, which a busy machine needs to start a thread


class Guard:
    """Answers requests by a known name of this server, from its own pages or from programs, and refuses all others.

    A page of another site can make a browser ask any server that the browser reaches. It either shows where it comes
    from, or uses a name that it lets point to this server. An address in numbers points nowhere else.

    Args:
        app: what answers.
        names: host names by which the server is known, and from whose pages it may be asked, in lower case.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]):
        self.app, self.names = app, frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a sentence."""
        wrong = self._why_not(HTTPConnection(scope)) if scope["type"] in ("http", "websocket") else ""
        if not wrong:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse(wrong, 403)(scope, receive, send)

    def _why_not(self, request: HTTPConnection) -> str:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        name = _name(f"//{host}")
        if not (name in self.names or _is_number(name)):
            return f"This server is not known as '{name}': start it with --allow-host {name} if it should be."
        forwarded = request.headers.get("x-forwarded-host")  # which no page can set on another site's request
        if origin is None or origin.partition("://")[2] in (host, forwarded) or _name(origin) in self.names - LOCAL:
            return ""
        return "This server answers its own pages and programs only, and the request comes from a page elsewhere."


LOCAL = frozenset({"localhost"})


def known_names(host: str | None, more: Iterable[str] = ()) -> set[str]:
    """Return the names by which a server is known: this machine's, the one it listens on, a hosted Space's, and `more`.

    Args:
        host: what it listens on, None for this machine only.
    """
    known = {*LOCAL, host or "", os.environ.get("SPACE_HOST", ""), *more}
    if host is not None:  # others reach it
        known |= {socket.gethostname(), socket.getfqdn()}
    return {name.lower().rstrip(".") for name in known if name}


def serve(app: gr.Blocks, names: Iterable[str], **options: Any) -> None:
    """Serve an app until the process is told to stop; then nothing temporary is left of it.

    Args:
        app: the app.
        names: host names by which the server is known (`known_names`).
        **options: of `gr.Blocks.launch`.
    """
    http_server.Server.run_in_thread = _start  # type: ignore[method-assign]
    kwargs = options.pop("app_kwargs", {})
    kwargs = kwargs | {"middleware": [*kwargs.get("middleware", ()), Middleware(Guard, names=names)]}
    stop_on_signals()  # before anybody can be told that it runs
    try:
        app.launch(prevent_thread_lock=True, app_kwargs=kwargs, **options)
        while app.is_running:
            time.sleep(0.1)
    except KeyboardInterrupt:
        app.close(verbose=False)
        _leave()


@contextlib.contextmanager
def upload_folder() -> Iterator[None]:
    """Let Gradio keep what it stores, uploads above all, in a folder that is removed in the end."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    if before:
        os.makedirs(before, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="splip-space-", dir=before, ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield
        finally:
            os.environ.pop("GRADIO_TEMP_DIR") if before is None else os.environ.update(GRADIO_TEMP_DIR=before)


def _start(server: http_server.Server) -> None:
    """Start Gradio's server in a thread and wait until it answers."""
    server.config.timeout_graceful_shutdown = 1  # otherwise it waits for every open page
    server.thread = threading.Thread(target=server.run, daemon=True)
    server.thread.start()
    for _ in range(100 * START_SECONDS):
        if server.started:
            return
        if not server.thread.is_alive():
            break
        time.sleep(0.01)
    raise OSError("The server did not start: pass another --host or --port.")


def _leave() -> None:
    """Remove what is temporary and end the process, whatever its threads still work on.

    Ending it in Python's own way waits for them, and takes apart every library first, which takes seconds.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_number(name: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False
