"""A process beside that of the audio, for what would hold up the audio: it serves a controller, and says what is wanted."""

from __future__ import annotations

import ipaddress
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from models.interruption import SIGNALS, leave_to_parent

START_SECONDS = 60.0  # a slow computer imports for long
RETRY_SECONDS = 1.0
LONGEST_SAYING = 1 << 18  # bytes at once
# Share of the time that what it says may keep Python busy here: the audio callback needs the interpreter too.
BUSIEST = 0.05
NICENESS = 5  # the audio first


class CompanionError(ValueError):
    """The process cannot do what it is for; the message is why, in a few words."""


class Companion:
    """Starts the process, listens to it and talks to it until it is closed; one that ended is started again.

    It is given pickled objects, and gives back JSON, which can do no harm here. It ends with this process, however that ends.

    Parameters
    ----------
    name : str
        What it is called when it ended.
    run : callable
        A module's function: all that the process does, until its connection, the first argument, is closed. The first thing
        it says is a dict: how it started, or why it did not, as the `problem`.
    arguments : callable
        Gives the other arguments, at every start.
    started : callable
        Takes the first thing said.
    listen : callable
        Takes everything else said, in a thread of its own.
    talk : callable
        Called in another, every `talk_seconds`, with the connection, which is another one after a new start.
    tell : callable
        Takes sentences for the performer.

    Raises
    ------
    CompanionError
        If it does not start.
    """

    def __init__(
        self,
        name: str,
        run: Callable[..., None],
        *,
        arguments: Callable[[], tuple[Any, ...]],
        started: Callable[[dict[str, Any]], None],
        listen: Callable[[Any, Connection], None],
        talk: Callable[[Connection], None],
        talk_seconds: float,
        tell: Callable[[str], None],
    ) -> None:
        self._name, self._run, self._arguments, self._started = name, run, arguments, started
        self._heard, self._talk, self._talk_seconds, self._tell = listen, talk, talk_seconds, tell
        self._closing = threading.Event()
        self._start()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._listen, self._say)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the process."""
        self._closing.set()
        self._stop()  # which wakes the threads up
        for thread in self._threads:
            thread.join()
        self._stop()  # one that was just being started again
        self._connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        connection, theirs = context.Pipe()
        self._process = context.Process(target=self._run, args=(theirs, *self._arguments()), daemon=True)
        answer: dict[str, Any] = {"problem": "its server did not start"}
        try:
            with _signals_blocked():
                self._process.start()
            theirs.close()
            with suppress(EOFError, OSError):
                if connection.poll(START_SECONDS):
                    answer = json.loads(connection.recv_bytes(LONGEST_SAYING))
        except BaseException:  # Ctrl-C: the process would come to find nobody there, and say so
            self._stop()
            raise
        self._connection = connection
        if "problem" in answer:
            self._stop()
            connection.close()
            raise CompanionError(answer["problem"])
        self._started(answer)

    def _stop(self) -> None:
        if self._process.pid is not None:  # it was started
            self._process.kill()  # it has nothing to tidy up, and does not hear SIGTERM
            self._process.join()

    def _listen(self) -> None:
        while not self._closing.is_set():
            connection = self._connection
            try:
                said = json.loads(connection.recv_bytes(LONGEST_SAYING))
            except (EOFError, OSError, ValueError):
                self._restart()
                continue
            begun = time.thread_time()
            with suppress(OSError):  # it ended meanwhile
                self._heard(said, connection)
            busy = time.thread_time() - begun
            self._closing.wait(busy * (1 / BUSIEST - 1))

    def _say(self) -> None:
        while not self._closing.wait(self._talk_seconds):
            with suppress(OSError):  # it ended: `_listen` hears of it
                self._talk(self._connection)

    def _restart(self) -> None:
        if self._closing.is_set():
            return
        self._tell(f"{self._name} ended; starting it again")
        self._stop()
        self._connection.close()
        while not self._closing.wait(RETRY_SECONDS):
            with suppress(CompanionError, OSError):
                self._start()
                return


def stand_back() -> None:
    """In the process, first of all: Ctrl-C and a closed terminal are for the performance, which ends this; audio goes first."""
    leave_to_parent()
    if hasattr(os, "nice"):
        os.nice(NICENESS)


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches what listens on `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process that is started now hears no Ctrl-C, and nothing else that ends all that a terminal or a service runs."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # multiprocessing's own process, whose start would unblock some of them again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
