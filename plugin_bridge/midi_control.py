"""Steering by MIDI: what a performer touches moves what it was taught to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from plugin_bridge.control import ControlSurface
from plugin_bridge.midi import Message, MidiPort
from plugin_bridge.midi_map import (
    ADDRESSES,
    LOAD,
    NEXT,
    PANIC,
    PREVIOUS,
    Binding,
    Kind,
    MidiError,
    MidiMap,
    Source,
    make_binding,
    read_map,
    save_map,
    user_file,
)
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.signal_path import Change, Changes, Gesture
from plugin_bridge.voices import parse_voice, voices

POLL_SECONDS = 0.005  # about a block; more often is of no use, and each look costs the interpreter some microseconds
LOOK_SECONDS = 2.0  # between two looks for a port that went away, each of which makes a client of JACK for a moment


class MidiControl:
    """Listens to a MIDI port, in a thread of its own, and steers a `ControlSurface`. Any thread may use it.

    Parameters
    ----------
    surface : ControlSurface
    wanted : str
        As `MidiPort` takes it.
    tell : callable
        Takes sentences for the performer.
    wait : bool
        A port that is not there is waited for.
    path : Path, optional
        Of the bindings; the user's own file by default.

    Raises
    ------
    MidiError
        If there is no such port, or the file is not valid.
    """

    def __init__(
        self,
        surface: ControlSurface,
        wanted: str,
        tell: Callable[[str], None],
        *,
        wait: bool = False,
        path: Path | None = None,
    ) -> None:
        self._surface, self._wanted, self._tell = surface, wanted, tell
        self._path = path or user_file()
        self._lock = threading.Lock()  # of the map and the lessons
        self._keep(read_map(self._path))
        self._lessons: list[tuple[str, tuple[object, ...]]] = []
        self._levels: dict[Source, float] = {}
        self._problem = ""
        self._port: MidiPort | None = None
        try:
            self._port = MidiPort(wanted)
        except MidiError:
            if not wait:
                raise
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @property
    def port(self) -> str:
        """Name of the port; empty while it is not there."""
        port = self._port
        return "" if port is None else port.name

    @property
    def bindings(self) -> MidiMap:
        """What is bound now."""
        return self._map

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        self._thread.join()
        self._close_port()

    # Learning.

    @property
    def learning(self) -> str:
        """The address that the next touch will be bound to; empty if none."""
        with self._lock:
            return self._lessons[0][0] if self._lessons else ""

    def learn(self, address: str, *arguments: object) -> None:
        """Bind what is touched next to an address; several lessons wait for a touch each, in order.

        Parameters
        ----------
        address : str
            One of `midi_map.ADDRESSES`.
        arguments
            None, the value of a button, or low and high of a controller. A button for a number, a voice or a preset has by
            default the one that is on.

        Raises
        ------
        MidiError
            If nothing can be bound so.
        """
        problems: list[MidiError] = []
        kinds: tuple[Kind, ...] = ("note", "control")  # what one of them can be bound to; the wheel moves what a controller does
        for kind in kinds:
            try:
                self._binding((kind, 1, 0), address, arguments)
            except MidiError as error:
                problems.append(error)
        if len(problems) == len(kinds):
            raise problems[-1]
        with self._lock:
            self._lessons.append((address, arguments))

    def cancel(self) -> None:
        """Learn no more."""
        with self._lock:
            self._lessons.clear()

    def forget(self, address: str) -> None:
        """Remove what is bound to an address; MidiError if there is none of that name, FileError if it cannot be saved."""
        if address not in ADDRESSES:
            raise MidiError(f"{address[:80]!r} is nothing that MIDI steers, there are {', '.join(ADDRESSES)}")
        with self._lock:
            self._keep(self._map.without(address))
            save_map(self._path, self._map)

    def _binding(self, source: Source, address: str, arguments: tuple[object, ...]) -> Binding:
        if not arguments and source[0] in ("note", "program"):
            arguments = self._present(address)
        return make_binding(source, address, arguments)

    def _present(self, address: str) -> tuple[object, ...]:
        """What is on, as the value of a button."""
        if address == LOAD:
            return (self._surface.preset,) if self._surface.preset else ()
        if address == PARAMETERS["voice"].osc:
            return (self._surface.voice_text,)
        return tuple(
            self._surface.value(name)
            for name, parameter in PARAMETERS.items()
            if parameter.osc == address and parameter.kind == "number"
        )

    def _keep(self, bindings: MidiMap) -> None:
        self._map, self._by_source = bindings, {binding.source: binding for binding in bindings.bindings}

    # The thread that listens.

    def _listen(self) -> None:
        looked = time.monotonic()
        while not self._closed.wait(POLL_SECONDS):
            if self._port is not None:
                with self._told():
                    self._poll(self._port)
            if time.monotonic() - looked > LOOK_SECONDS:
                with self._told():
                    self._look()
                looked = time.monotonic()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An error is told, once, and ends nothing."""
        try:
            yield
        except Exception as error:
            sentence = f"MIDI: {error if isinstance(error, (ValueError, TypeError, OSError)) else repr(error)}"
            if sentence != self._problem:
                self._tell(sentence)
            self._problem = sentence

    def _look(self) -> None:
        if self._port is None:
            with suppress(MidiError):
                self._port = MidiPort(self._wanted)
                self._tell(f"MIDI: {self._port.name} is there")
        elif not self._port.is_there:
            self._tell(f"MIDI: {self._port.name} went away; trying to get it back")
            self._close_port()

    def _close_port(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.close()

    def _poll(self, port: MidiPort) -> None:
        moved: dict[str, Change] = {}  # of a fast hand only where it is now
        for message in port.messages():
            before = self._levels.get(message.source, 0.0)
            if message.source[0] == "control":  # a key is told when it is pressed, each time
                self._levels[message.source] = message.level
            with self._told():
                if not self._learned(message):
                    moved |= self._obey(message, before)
        for name, value in moved.items():
            with self._told():  # each alone: what is refused must not take along what else moved
                self._surface.change({name: value})

    def _learned(self, message: Message) -> bool:
        """Whether the message was the touch that a lesson waited for."""
        with self._lock:
            if not self._lessons:
                return False
            address, arguments = self._lessons[0]
            binding = self._binding(message.source, address, arguments)
            self._lessons.pop(0)
            self._keep(self._map.bound(binding))
            following = f"; touch what is to steer {self._lessons[0][0]}" if self._lessons else ""
            save_map(self._path, self._map)
        self._tell(f"MIDI: {binding}{following}")
        return True

    def _obey(self, message: Message, before: float) -> Changes:
        """Do what a button says, or return what else moves; `before` is where a controller was."""
        binding = self._by_source.get(message.source)
        if binding is None:
            return {}
        on = message.level >= 0.5
        crossed = on != (before >= 0.5)
        parameter = binding.parameter
        if binding.is_button:
            if on and crossed:
                with self._surface.changing:
                    self._surface.post(self._pressed(binding))
            return {}
        assert parameter is not None, "anything else is a button"
        if parameter.kind == "number":
            return {parameter.name: binding.at(message.level)}
        if parameter.kind == "switch":
            return {parameter.name: on} if crossed else {}
        names = voices()
        name = names[round(message.level * (len(names) - 1))]
        return {} if name == self._surface.value(parameter.name) else {parameter.name: name}

    def _pressed(self, binding: Binding) -> Gesture:
        surface, value = self._surface, binding.value
        if binding.address == PANIC:
            return surface.ready({"panic": True})
        if binding.address in (NEXT, PREVIOUS):
            return surface.ready_neighbour(1 if binding.address == NEXT else -1)
        if binding.address == LOAD:
            return surface.ready_preset(str(value))
        parameter = binding.parameter
        assert parameter is not None, "there is nothing else"
        if isinstance(value, str):
            return surface.ready({parameter.name: parse_voice(value)})
        return surface.ready({parameter.name: not surface.value(parameter.name) if value is None else value})
