"""The page's end in the audio's process: starts the server, tells it how things are, and does what pages say."""

from __future__ import annotations

import ipaddress
import json
import math
import multiprocessing
import secrets
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

from dsp.ring import AudioRing
from plugin_bridge.control import ControlSurface
from plugin_bridge.parameters import PARAMETERS

NEEDED = ("starlette", "uvicorn", "websockets")
RING_SECONDS = 2.0
TELL_SECONDS = 0.04  # 25 pictures a second
STATUS_SECONDS = 0.5
START_SECONDS = 60.0  # a slow computer imports for long
RETRY_SECONDS = 1.0
END_SECONDS = 2.0
MOST_REFUSALS = 64  # that wait to be told
LONGEST_COMMANDS = 1 << 18  # bytes at once
# Share of the time that commands may keep Python busy: the audio callback needs the interpreter too.
BUSIEST = 0.1


class PageError(ValueError):
    """There can be no page; the message is one sentence."""


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches what listens on `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
        self._surface, self._host, self._tell = surface, host, tell
        self.token = "" if is_loopback(host) else token or secrets.token_urlsafe(16)
        self.tap = AudioRing(surface.path.channels, int(RING_SECONDS * surface.path.sample_rate))
        self.port = port
        self._refusals: deque[dict[str, Any]] = deque(maxlen=MOST_REFUSALS)
        self._closing = threading.Event()
        self._start()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._say, self._listen)]
        for thread in self._threads:
            thread.start()

    @property
    def address(self) -> str:
        """To open in a browser, here or, if it is open to the network, elsewhere."""
        host = _reachable(self._host)
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def close(self) -> None:
        """Stop; the port is free afterwards."""
        self._closing.set()
        self._process.terminate()  # which wakes the threads up
        for thread in self._threads:
            thread.join()
        self._end()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        connection, theirs = context.Pipe()
        place = (self._host, self.port, is_loopback(self._host))
        arguments = (theirs, place, self.token, self._surface.path.sample_rate)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        with _interrupts_blocked():
            self._process.start()
        theirs.close()
        self._connection = connection
        answer: dict[str, Any] = {"problem": "its server did not start"}
        with suppress(EOFError, OSError):
            if connection.poll(START_SECONDS):
                answer = json.loads(connection.recv_bytes(LONGEST_COMMANDS))
        if "problem" in answer:
            self._end()
            raise PageError(f"the page cannot be served on {self._host} port {self.port}: {answer['problem']}")
        self.port = answer["port"]

    def _end(self) -> None:
        self._process.terminate()
        self._process.join(END_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._connection.close()

    # To the pages.

    def _say(self) -> None:
        connection: Connection | None = None
        said: dict[str, Any] = {}
        due = 0.0
        while not self._closing.wait(TELL_SECONDS):
            if connection is not self._connection:  # a new server knows nothing
                connection, said, due = self._connection, {}, 0.0
            with suppress(OSError):  # it ended: `_listen` hears of it
                state = self._state()
                if state != said:
                    connection.send(("state", state))
                    said = state
                if time.monotonic() >= due and self._surface.status is not None:
                    due = time.monotonic() + STATUS_SECONDS
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

    def _listen(self) -> None:
        while not self._closing.is_set():
            try:
                commands = json.loads(self._connection.recv_bytes(LONGEST_COMMANDS))
            except (EOFError, OSError):
                self._restart()
                continue
            begun = time.thread_time()
            for command in commands:
                self._obey(command)
            busy = time.thread_time() - begun
            self._closing.wait(busy * (1 / BUSIEST - 1))

    def _restart(self) -> None:
        if self._closing.is_set():
            return
        self._tell("the page's server ended; starting it again")
        self._end()
        while not self._closing.wait(RETRY_SECONDS):
            with suppress(PageError):
                self._start()
                return

    def _obey(self, command: dict[str, Any]) -> None:
        surface = self._surface
        try:
            match command["do"]:
                case "change":
                    surface.change(command["changes"])
                case "panic":
                    surface.change({"panic": True})
                case "load":
                    surface.post(surface.ready_preset(command["preset"]))
                case "step":
                    surface.post(surface.ready_preset(surface.neighbour(command["by"])))
                case "save":
                    surface.save_preset(command["preset"])
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


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process that is started now never hears Ctrl-C: it ends with this one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
