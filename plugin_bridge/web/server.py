"""The server of the page: a process of its own, so that nothing in it can hold up the audio."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from importlib.resources import files
from multiprocessing.connection import Connection
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from uvicorn.protocols.http.h11_impl import H11Protocol

from plugin_bridge.companion import stand_back
from plugin_bridge.web.guard import Guard, security_headers
from plugin_bridge.web.hub import Hub
from plugin_bridge.web.messages import LONGEST_MESSAGE, parameter_table

MOST_CONNECTIONS = 64  # a browser opens some six
LONGEST_REQUEST_SECONDS = 5.0  # until it is there and answered; a byte now and then does not make it longer
KEPT_SECONDS = 2  # a connection for the next request, for which enough of those are left then
MOST_HEADER_BYTES = 16_384

PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Connections(H11Protocol):
    """HTTP with bounds: uvicorn itself waits for ever for a request that never comes, and for an answer to be taken."""

    deadline: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.deadline = self.loop.call_later(LONGEST_REQUEST_SECONDS, transport.abort)
        if len(self.connections) > MOST_CONNECTIONS:
            # The one that has been waited for the longest goes: who asks at once has long been answered.
            slowest = min((one for one in self.connections if isinstance(one, Connections)), key=lambda one: one.deadline.when())
            self.connections.discard(slowest)
            slowest.transport.abort()

    def on_response_complete(self) -> None:
        self.deadline.cancel()
        self.deadline = self.loop.call_later(LONGEST_REQUEST_SECONDS, self.transport.abort)  # for the next
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self.deadline.cancel()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadline.cancel()
        super().connection_lost(exc)


def application(hub: Hub, token: str, loopback: bool) -> Starlette:
    """The page, its files, the parameters and the web socket."""
    contents = {path: (files(__package__).joinpath(name).read_bytes(), kind) for path, (name, kind) in PAGE_FILES.items()}

    async def page(request: Request) -> Response:
        content, kind = contents[request.url.path]
        return Response(content, media_type=kind, headers=security_headers(request.headers["host"]))

    async def parameters(request: Request) -> Response:
        return JSONResponse(parameter_table(), headers=security_headers(request.headers["host"]))

    return Starlette(
        routes=[
            *(Route(path, page) for path in contents),
            Route("/parameters", parameters),
            WebSocketRoute("/socket", hub.serve),
        ],
        middleware=[Middleware(Guard, token=token, loopback=loopback)],
    )


def run(connection: Connection, place: tuple[str, int, bool], token: str, sample_rate: float) -> None:
    """The process: serve until the other end of `connection` is closed.

    `place` is host, port and whether that is this computer alone. The first message back is the port, or why there is none.
    """
    host, port, loopback = place
    stand_back()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port is free at once after its last server
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        connection.send_bytes(json.dumps({"problem": error.strerror or str(error)}).encode())
        return
    hub = Hub(connection, sample_rate)
    app = application(hub, token, loopback)
    loop = asyncio.new_event_loop()
    # In a thread of its own: in the main one uvicorn would take Ctrl-C for itself.
    threading.Thread(target=_run_loop, args=(loop, _serve(hub, app, listener)), daemon=True).start()
    connection.send_bytes(json.dumps({"port": listener.getsockname()[1]}).encode())
    with suppress(EOFError, OSError):
        while True:
            kind, content = connection.recv()
            loop.call_soon_threadsafe(hub.hear, kind, content)


def _run_loop(loop: asyncio.AbstractEventLoop, server: Coroutine[Any, Any, None]) -> None:
    try:
        loop.run_until_complete(server)
    finally:
        os._exit(1)  # without the server the process is of no use, and is started again


async def _serve(hub: Hub, app: Starlette, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app,
        http=Connections,
        ws_max_size=LONGEST_MESSAGE,
        ws_per_message_deflate=False,
        timeout_keep_alive=KEPT_SECONDS,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        lifespan="off",
        log_config=None,
        log_level="critical",  # nothing is printed between the lines of a performance
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    await asyncio.gather(hub.forward(), hub.look(), hub.measure(), uvicorn.Server(config).serve(sockets=[listener]))
