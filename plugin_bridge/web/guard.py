"""Who may see the page: checked before any request reaches it."""

from __future__ import annotations

import secrets
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from plugin_bridge.own_names import OwnNames

# Nothing but what this server serves, in no frame of another page, and no address (which may hold the token) told to others.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' {socket}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

# The page's own code is no secret, and asks for the rest with the token of its address.
OPEN_PATHS = frozenset({"/app.js", "/style.css", "/icon.svg"})


class Guard:
    """Lets through what comes by an address of this machine, from a page of its own, with the token if there is one.

    A page of another site cannot steer: browsers say where a request comes from (`Origin`). Nor can it under a name that it
    makes point here: see `OwnNames`. And as nothing here takes a body, who sends one is not listened to.

    Parameters
    ----------
    token : str
        Empty if none is asked for.
    loopback : bool
        Whether it listens to this computer alone.
    """

    def __init__(self, app: ASGIApp, token: str, loopback: bool) -> None:
        self._app = app
        self._token = token.encode()
        self._own_names = OwnNames(loopback)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope)
        if not problem:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)  # before it is accepted: an answer of 403
        else:
            # Closed: else whoever is refused could keep the connection by sending on, and nobody else would find a place.
            await PlainTextResponse(problem, 403, headers={"Connection": "close"})(scope, receive, send)

    def _problem(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        host = headers.getlist("host")
        if len(host) != 1 or not self._own_names.has(host[0]):
            return "This address is not one of this computer's.\n"
        origin = headers.getlist("origin")
        if origin and origin not in ([f"http://{host[0]}"], [f"https://{host[0]}"]):
            return "Only this server's own page may ask.\n"
        if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
            return "Nothing here takes a body.\n"
        if self._token and scope["path"] not in OPEN_PATHS:
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
            if len(given) != 1 or not secrets.compare_digest(given[0].encode(), self._token):
                return "The address must end in the token that plugin-bridge live printed.\n"
        return ""


def security_headers(host: str) -> dict[str, str]:
    """For every answer; `host` is the checked Host header (Safari does not count web sockets to it among 'self')."""
    return {name: value.format(socket=f"ws://{host} wss://{host}") for name, value in SECURITY_HEADERS.items()}
