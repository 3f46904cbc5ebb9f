"""MIDI as it comes in: ports, and what their messages say."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from plugin_bridge.doctor import midi_remedy
from plugin_bridge.midi_map import Kind, MidiError, Source

CLIENT = "plugin_bridge"
PORT = "control"
VIRTUAL = "virtual"
MOST_MESSAGES = 256  # in one look; more wait for the next


@dataclass(frozen=True)
class Message:
    """What a source says: `level` is 0 to 1, of a controller's or wheel's way; a key or program is pressed at 1."""

    source: Source
    level: float


def decode(data: Sequence[int]) -> Message | None:
    """A message that something can be bound to, else None: keys let go, pressure, clocks, and all that is not MIDI."""
    if not data or not all(0 <= byte < 256 for byte in data):
        return None
    status, values = data[0] & 0xF0, data[1:]
    channel = (data[0] & 0x0F) + 1
    if any(value > 127 for value in values) or len(values) != {0x90: 2, 0xB0: 2, 0xC0: 1, 0xE0: 2}.get(status):
        return None
    kinds: dict[int, Kind] = {0x90: "note", 0xB0: "control", 0xC0: "program", 0xE0: "bend"}
    if status == 0xE0:
        return Message(("bend", channel, 0), _share(values[0] + 128 * values[1], 1 << 14))
    source = (kinds[status], channel, values[0])
    if status == 0xC0:
        return Message(source, 1.0)
    if (status == 0x90 and not values[1]) or (status == 0xB0 and values[0] >= 120):
        return None  # a key let go, and what is called a mode rather than a controller
    return Message(source, 1.0 if status == 0x90 else _share(values[1], 128))


def _share(value: int, steps: int) -> float:
    """0 to 1 such that the middle, where a wheel rests (64 of 128 steps), is exactly 0.5, though the top has a step less."""
    middle = steps // 2
    return value / steps if value <= middle else 0.5 + 0.5 * (value - middle) / (middle - 1)


def load_rtmidi() -> ModuleType:
    """The library; MidiError says how to get it."""
    try:
        return importlib.import_module("rtmidi")
    except ImportError as error:
        raise MidiError(f"MIDI needs python-rtmidi ({error}): {midi_remedy()}") from None


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what the system's MIDI libraries print where there is no sequencer or server, as if that were an error."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _inputs() -> Iterator[Any]:
    """A closed input of each of the system's kinds of MIDI (ALSA, JACK, ...) that is there."""
    rtmidi = load_rtmidi()
    for api in rtmidi.get_compiled_api():
        with _hushed(), suppress(rtmidi.RtMidiError):
            yield rtmidi.MidiIn(api, name=CLIENT)


def list_ports() -> list[str]:
    """Names of the ports there are to listen to."""
    names: list[str] = []
    for midi_in in _inputs():
        names += midi_in.get_ports()
        midi_in.delete()
    return names


class MidiPort:
    """An open input.

    What arrives waits in a queue of the library's until it is fetched: its callback would have JACK's audio thread wait for
    the interpreter.

    Parameters
    ----------
    wanted : str
        A number in `list_ports`, or part of a name (case does not matter); the first that fits is taken. "virtual" is a port
        of ours, to which other programs connect.

    Raises
    ------
    MidiError
        If there is none.
    """

    def __init__(self, wanted: str) -> None:
        names: list[str] = []
        for midi_in in _inputs():
            here = midi_in.get_ports()
            if self._opened(midi_in, wanted, here, len(names)):
                self._midi_in = midi_in
                return
            names += here
            midi_in.delete()
        there_are = f"there are {', '.join(names)}" if names else "there are none"
        raise MidiError(f"{wanted!r} is no MIDI port, {there_are}, and {VIRTUAL!r} where the system has that")

    def _opened(self, midi_in: Any, wanted: str, here: list[str], first: int) -> bool:
        self.name = VIRTUAL
        with suppress(load_rtmidi().RtMidiError, NotImplementedError):
            if wanted == VIRTUAL:
                midi_in.open_virtual_port(PORT)
                return True
            for number, name in enumerate(here):
                if wanted == str(first + number) or (not wanted.isdecimal() and wanted.lower() in name.lower()):
                    self.name = name
                    midi_in.open_port(number, PORT)
                    return True
        return False

    @property
    def is_there(self) -> bool:
        """Whether the device is still there."""
        return self.name == VIRTUAL or self.name in self._midi_in.get_ports()

    def messages(self) -> Iterator[Message]:
        """What came since the last look, at most `MOST_MESSAGES`."""
        for _ in range(MOST_MESSAGES):
            arrived = self._midi_in.get_message()
            if arrived is None:
                return
            message = decode(arrived[0])
            if message is not None:
                yield message

    def close(self) -> None:
        """Let go of the device."""
        self._midi_in.close_port()
        self._midi_in.delete()
