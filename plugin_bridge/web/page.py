"""The page's end in the audio's process: starts the server, tells it how things are, and does what pages say."""

from __future__ import annotations

import math
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

from dsp.ring import AudioRing
from plugin_bridge.companion import Companion, CompanionError, is_loopback
from plugin_bridge.control import ControlSurface
from plugin_bridge.parameters import PARAMETERS

NEEDED = ("starlette", "uvicorn", "websockets")
RING_SECONDS = 2.0
TELL_SECONDS = 0.04  # 25 pictures a second
STATUS_SECONDS = 0.5
MOST_REFUSALS = 64  # that wait to be told


class PageError(ValueError):
    """There can be no page; the message is one sentence."""


class Page:
    """Serves the page of a `ControlSurface` until it is closed; a server that ended is started again.

    Parameters
    ----------
    surface : ControlSurface
    host : str
        The interface to listen on.
    port : int
        0 for any that is free.
    token : str
        With which the page's address must end where others than this computer reach it; a new one if empty.
    tell : callable
        Takes sentences for the performer.

    Attributes
    ----------
    tap : AudioRing
        For the audio thread.
    port : int
    token : str
        Empty where none is asked for.

    Raises
    ------
    PageError
        If what it needs is not installed, or it cannot listen there.
    """

    def __init__(
        self,
        surface: ControlSurface,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            raise PageError(f"the page needs {' and '.join(missing)}: install what is missing with pip install {' '.join(NEEDED)}")
        self._surface, self._host = surface, host
        self.token = "" if is_loopback(host) else token or secrets.token_urlsafe(16)
        self.tap = AudioRing(surface.path.channels, int(RING_SECONDS * surface.path.sample_rate))
        self.port = port
        self._refusals: deque[dict[str, Any]] = deque(maxlen=MOST_REFUSALS)
        self._told: Connection | None = None  # the server that was told `_said`
        self._said: dict[str, Any] = {}
        self._status_due = 0.0
        try:
            self._server = Companion(
                "the page's server",
                _serve,
                arguments=lambda: ((host, self.port, is_loopback(host)), self.token, surface.path.sample_rate),
                started=self._started,
                listen=self._listen,
                talk=self._say,
                talk_seconds=TELL_SECONDS,
                tell=tell,
            )
        except CompanionError as error:
            raise PageError(f"the page cannot be served on {host} port {port}: {error}") from None

    @property
    def address(self) -> str:
        """To open in a browser, here or, if it is open to the network, elsewhere."""
        host = _reachable(self._host)
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def close(self) -> None:
        """Stop; the port is free afterwards."""
        self._server.close()

    def _started(self, answer: dict[str, Any]) -> None:
        self.port = answer["port"]

    # To the pages.

    def _say(self, connection: Connection) -> None:
        if connection is not self._told:  # a new server knows nothing
            self._told, self._said, self._status_due = connection, {}, 0.0
        state = self._state()
        if state != self._said:
            connection.send(("state", state))
            self._said = state
        if time.monotonic() >= self._status_due and self._surface.status is not None:
            self._status_due = time.monotonic() + STATUS_SECONDS
            connection.send(("status", _plain(vars(self._surface.status()))))
        while self._refusals:
            connection.send(("refused", self._refusals.popleft()))
        audio = self.tap.pull()[1]
        if audio.size:
            connection.send(("audio", audio))

    def _state(self) -> dict[str, Any]:
        values = {name: self._surface.value(name) for name in PARAMETERS}
        return {"values": values, "preset": self._surface.preset}

    # From the pages.

    def _listen(self, commands: list[dict[str, Any]], connection: Connection) -> None:
        for command in commands:
            try:
                with self._surface.changing:
                    gesture = self._surface.ready_command(command)
                    if gesture is not None:
                        self._surface.post(gesture)
            except (ValueError, TypeError, OSError) as error:
                self._refusals.append({"client": command["client"], "reason": str(error)})
            except Exception as error:  # a defect of ours: said, and survived
                self._refusals.append({"client": command.get("client"), "reason": f"it failed: {error!r}"})


def _serve(*arguments: Any) -> None:
    """The other process, which alone loads the server."""
    from plugin_bridge.web.server import run

    run(*arguments)


def _plain(status: dict[str, Any]) -> dict[str, Any]:
    """Without what JSON cannot say."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in status.items()}


def _reachable(host: str) -> str:
    """An address of this computer at which others find what listens on `host`."""
    if host not in ("", "0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing; the system says by which interface it would
        return str(probe.getsockname()[0])
    return socket.gethostname()
