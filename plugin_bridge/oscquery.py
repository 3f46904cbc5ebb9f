"""OSCQuery: the address space as JSON over HTTP, from which controllers build themselves. Read only.

The format is that of Vidvox's OSCQuery proposal: https://github.com/Vidvox/OSCQueryProposal
"""

from __future__ import annotations

import ipaddress
import json
import math
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, SHUT_RDWR, socket
from typing import Any
from urllib.parse import unquote, urlsplit

from plugin_bridge.companion import is_loopback
from plugin_bridge.osc_link import Link, Peer
from plugin_bridge.osc_nodes import Node, RefusedError, Standing
from plugin_bridge.osc_packets import Argument
from plugin_bridge.own_names import OwnNames

MOST_CONNECTIONS = 16
LONGEST_REQUEST_SECONDS = 5.0  # until something comes of it
LONGEST_CONNECTION_SECONDS = 10.0  # however little comes, and however often: an answer is there in milliseconds
HANDOVER_SECONDS = 1.0  # until who is hung up on has made room
ATTRIBUTES = ("FULL_PATH", "CONTENTS", "TYPE", "ACCESS", "VALUE", "RANGE", "DESCRIPTION", "UNIT", "CRITICAL")


class OscQueryServer:
    """Serves the tree of `nodes` on the TCP port of the same number as that of OSC, as long as the process runs.

    Raises
    ------
    OSError
        If the port is taken.
    """

    def __init__(self, place: Peer, nodes: Mapping[str, Node], link: Link) -> None:
        http = _Http(place, nodes, link)
        threading.Thread(target=http.serve_forever, daemon=True).start()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # where many come at once, nobody tries again a second later
    block_on_close = False

    def __init__(self, place: Peer, nodes: Mapping[str, Node], link: Link) -> None:
        self.place, self.nodes, self._link = place, nodes, link
        self.own_names = OwnNames(is_loopback(place[0]))
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._open: dict[socket, float] = {}  # and since when, the oldest first; without those hung up on
        self._lock = threading.Lock()
        self.address_family = AF_INET6 if ":" in place[0] else AF_INET
        super().__init__(place, _Handler)

    def standing(self) -> Standing:
        """How things stand now, with all that can be asked for; queue.Empty if that cannot be learned in time."""
        answers: queue.SimpleQueue[Standing] = queue.SimpleQueue()
        self._link.ask({node.asks for node in self.nodes.values()}, answers.put)
        return answers.get(timeout=LONGEST_REQUEST_SECONDS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own. When all are taken, the oldest connection goes: who asks at once has long been answered."""
        with self._lock:
            if len(self._open) >= MOST_CONNECTIONS:
                self._hang_up(next(iter(self._open)))
        if self._places.acquire(timeout=HANDOVER_SECONDS):
            with self._lock:
                self._open[request] = time.monotonic()
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.pop(request, None)
            self._places.release()

    def service_actions(self) -> None:
        """Twice a second: who sends a byte now and then is not waited for, either."""
        with self._lock:
            for request, since in list(self._open.items()):
                if time.monotonic() - since > LONGEST_CONNECTION_SECONDS:
                    self._hang_up(request)

    def is_open(self, request: socket) -> bool:
        """Whether it has not been hung up on."""
        with self._lock:
            return request in self._open

    def _hang_up(self, request: socket) -> None:
        del self._open[request]
        with suppress(OSError):  # it is closed already
            request.shutdown(SHUT_RDWR)  # its thread hears of it at once

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Say nothing: whoever was there is gone."""


class _Handler(BaseHTTPRequestHandler):
    timeout = LONGEST_REQUEST_SECONDS
    server: _Http

    def do_GET(self) -> None:
        if not self.server.is_open(self.connection):  # half a request is one to the library, when nothing follows
            return
        status, answer = self._answer()
        body = b"" if answer is None else json.dumps(answer, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self) -> tuple[int, dict[str, Any] | None]:
        server = self.server
        # A simple client that names no host is no browser, in which a page of another site could have asked.
        if not all(map(server.own_names.has, self.headers.get_all("Host", []))):
            return 403, None
        try:
            parts = urlsplit(self.path)
            return respond(server.nodes, server.standing(), server.place, unquote(parts.path), parts.query)
        except ValueError:  # no address at all
            return 400, None
        except queue.Empty:
            return 503, None

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed between the lines of a performance."""


def respond(
    nodes: Mapping[str, Node], standing: Standing, place: Peer, path: str, query: str
) -> tuple[int, dict[str, Any] | None]:
    """HTTP status and JSON for a request: 404 for an unknown path, 400 and 204 for attributes unknown or not there."""
    if query == "HOST_INFO":
        host, port = place
        access = {name: name in ATTRIBUTES for name in (*ATTRIBUTES, "LISTEN", "CLIPMODE", "TAGS")}
        # Who listens on every address has none that others could use: without, it is the one that was asked.
        where = {} if ipaddress.ip_address(host).is_unspecified else {"OSC_IP": host}
        return 200, {
            "NAME": "plugin_bridge",
            **where,
            "OSC_PORT": port,
            "OSC_TRANSPORT": "UDP",
            "EXTENSIONS": {name: there for name, there in access.items() if name not in ("FULL_PATH", "CONTENTS", "TYPE")},
        }
    tree = _tree(nodes, standing)
    for name in path.strip("/").split("/") if path.strip("/") else []:
        tree = tree.get("CONTENTS", {}).get(name)
        if tree is None:
            return 404, None
    if not query:
        return 200, tree
    if query not in ATTRIBUTES:
        return 400, None
    return (200, {query: tree[query]}) if query in tree else (204, None)


def _tree(nodes: Mapping[str, Node], standing: Standing) -> dict[str, Any]:
    root: dict[str, Any] = {"FULL_PATH": "/", "ACCESS": 0, "CONTENTS": {}}
    for node in nodes.values():
        here = root
        for name in node.address.strip("/").split("/"):
            full = f"{here['FULL_PATH'].rstrip('/')}/{name}"
            here = here.setdefault("CONTENTS", {}).setdefault(name, {"FULL_PATH": full, "ACCESS": 0})
        here |= _attributes(node, standing)
    return root


def _attributes(node: Node, standing: Standing) -> dict[str, Any]:
    found: dict[str, Any] = {
        "DESCRIPTION": node.description,
        "ACCESS": (1 if node.read else 0) + (2 if node.write else 0),
    }
    if node.read is not None:
        try:
            value = [_plain(argument) for argument in node.read(standing)]
        except RefusedError:  # a status without audio
            value = []
        found["VALUE"] = value
        found["TYPE"] = node.types or "".join(_type(argument) for argument in value)
    elif node.types:
        found["TYPE"] = node.types
    if node.minimum is not None and node.maximum is not None:
        whole = node.types == "i"
        low, high = (int(end) if whole else end for end in (node.minimum, node.maximum))
        found["RANGE"] = [{"MIN": low, "MAX": high}]
    elif node.names is not None:
        found["RANGE"] = [{"VALS": node.names()}]
    if node.unit:
        found["UNIT"] = [node.unit]
    if node.triggered:
        found["CRITICAL"] = True
    return found


def _plain(argument: Argument) -> Argument:
    if isinstance(argument, bool):
        return int(argument)
    return None if isinstance(argument, float) and not math.isfinite(argument) else argument


def _type(argument: Argument) -> str:
    if argument is None:
        return "N"
    return {str: "s", int: "i", float: "f"}[type(argument)]
