"""Steering over OSC: the end, in the process of the audio, of a server that is a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from multiprocessing.connection import Connection
from typing import Any

from plugin_bridge.companion import Companion, CompanionError
from plugin_bridge.control import ControlSurface
from plugin_bridge.midi_control import MidiControl
from plugin_bridge.midi_osc import obey_midi, read_midi
from plugin_bridge.osc_link import Peer, Result
from plugin_bridge.osc_nodes import Command, Standing
from plugin_bridge.osc_server import ECHOES_PER_SECOND, Counters, run
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.signal_path import Changes, Gesture

MIDI_COMMANDS = ("learn", "forget")


class OscServer:
    """Listens for OSC over UDP, and for OSCQuery on the same port of TCP, and steers a `ControlSurface`, until it is closed.

    Packets are taken, read, checked and answered in another process; what reaches this one are a few checked changes at a
    time, however many packets come. A server that ended is started again. Neither touches the audio: values go into the path's
    mailbox.

    Parameters
    ----------
    surface : ControlSurface
    host : str
        The interface to listen on. Whoever reaches it may steer: there are no passwords in OSC.
    port : int
        0 for any that is free.
    midi : MidiControl, optional
        To be taught.
    tell : callable
        Takes sentences for the performer.

    Attributes
    ----------
    address : (str, int)
        Host and port that it listens on.
    query_problem : str
        Why there is no OSCQuery, if so.
    counters : Counters
        As of the last thing wanted or asked.

    Raises
    ------
    OSError
        If the port is taken, or the host is not one of this machine.
    """

    def __init__(
        self,
        surface: ControlSurface,
        host: str = "127.0.0.1",
        port: int = 0,
        midi: MidiControl | None = None,
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._surface, self._midi = surface, midi
        self.address: Peer = (host, port)
        self.query_problem = ""
        self.counters = Counters()
        self._news: dict[str, None] = {}  # names that changed since the server was told
        self._noting = threading.Lock()  # of `_news`: whoever changes something never waits for the server
        self._talking = threading.Lock()
        try:
            self._server = Companion(
                "the OSC server",
                run,
                arguments=lambda: (self.address, midi is not None, standing_of(surface)),
                started=self._started,
                listen=self._listen,
                talk=self._talk,
                talk_seconds=1 / ECHOES_PER_SECOND,
                tell=tell,
            )
        except CompanionError as error:
            raise OSError(str(error)) from None
        surface.listeners.append(self._heard)

    def close(self) -> None:
        """Stop; the port is free afterwards."""
        self._surface.listeners.remove(self._heard)
        self._server.close()

    def _started(self, answer: dict[str, Any]) -> None:
        self.address, self.query_problem = (answer["host"], answer["port"]), answer["query_problem"]

    # To the server.

    def _heard(self, changes: Changes) -> None:
        with self._noting:
            self._news |= dict.fromkeys(changes)

    def _talk(self, connection: Connection) -> None:
        if self._news:
            self._say(connection, None, ())

    def _say(self, connection: Connection, results: list[Result] | None, asks: Collection[str]) -> None:
        with self._talking:
            with self._noting:
                news, self._news = self._news, {}
            connection.send((results, standing_of(self._surface, self._midi, asks), list(news)))

    # From the server.

    def _listen(self, said: tuple[list[int], list[list[Command]], list[str]], connection: Connection) -> None:
        counters, packets, asks = said
        self.counters = Counters(*counters)
        results: list[Result] = []
        for commands in packets:
            with self._surface.changing:
                results.append(self._do(commands))
        self._say(connection, results, asks)

    def _do(self, commands: list[Command]) -> Result:
        together: Gesture | None = None
        changed: dict[str, None] = {}
        refused: list[tuple[int, str, bool]] = []
        for place, command in enumerate(commands):
            if command["do"] == "save" and together is not None:  # what is kept is what the messages before it asked for
                self._surface.post(together)
                together = None
            try:
                gesture = self._ready(command)
            except (ValueError, TypeError, OSError) as error:
                refused.append((place, str(error), False))
                continue
            except Exception as error:  # a defect of ours: said, and survived
                refused.append((place, f"it failed: {error!r}", True))
                continue
            if gesture is not None:
                together = gesture if together is None else together.then(gesture)
                changed |= dict.fromkeys(gesture.changes)
        if together is not None:
            self._surface.post(together)
        return Result(list(changed), refused)

    def _ready(self, command: Command) -> Gesture | None:
        if self._midi is not None and command["do"] in MIDI_COMMANDS:
            obey_midi(self._midi, command)
            return None
        return self._surface.ready_command(command)


def standing_of(surface: ControlSurface, midi: MidiControl | None = None, asks: Collection[str] = ()) -> Standing:
    """How things stand, with what is asked for ("status", "midi") if it is there."""
    path = surface.path
    return Standing(
        values={name: surface.value(name) for name in (*PARAMETERS, "ramp_ms")},
        preset=surface.preset,
        reached=not path.posted,
        latency_samples=path.latency_samples,
        latency_ms=1000 * path.latency_samples / path.sample_rate,
        status=vars(surface.status()) if "status" in asks and surface.status is not None else None,
        midi=read_midi(midi) if "midi" in asks and midi is not None else None,
    )
