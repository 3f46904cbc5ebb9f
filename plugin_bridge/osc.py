"""Steering over OSC: an address space made from the table of parameters, and a server that outlives any packet."""

from __future__ import annotations

import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.parsing import osc_types

from plugin_bridge.control import ControlSurface
from plugin_bridge.converter import Voice
from plugin_bridge.parameters import PARAMETERS, Parameter
from plugin_bridge.preset import PresetError, presets
from plugin_bridge.signal_path import LONGEST_RAMP_MS, Changes, Gesture
from plugin_bridge.voices import find_voice, voices

PREFIX = "/vc"
ECHOES_PER_SECOND = 30
ERRORS_PER_SECOND = 100  # answers to what is refused; a flood of nonsense is not worth a flood of answers
MOST_DEPTH = 8  # of bundles in bundles
MOST_MESSAGES = 512  # in one packet; all of 7 parameters in both forms are 14
MOST_ARGUMENTS = 64
MOST_SUBSCRIBERS = 32
MOST_LISTENERS = 64  # senders whose echoes are under way
LONGEST_TEXT = 200  # of an answer's reason

# Share of the time that packets may keep Python busy, and the seconds saved up before a pause: the audio callback needs the
# interpreter too. What comes faster waits in the system's buffer, and is lost when that is full, as datagrams may be.
BUSIEST = 0.1
LONGEST_BURST_SECONDS = 0.001

Argument: TypeAlias = "float | int | str | bool | None"
Peer: TypeAlias = tuple[str, int]


class MalformedPacketError(ValueError):
    """A packet is not OSC, or more than any controller sends."""


class RefusedError(ValueError):
    """A message is not obeyed; the text says why."""


@dataclass(frozen=True)
class Message:
    """An OSC message; `unknown` is the first type tag that is not understood, if one is not."""

    address: str
    arguments: tuple[Argument, ...] = ()
    unknown: str = ""


def decode(packet: bytes) -> list[Message]:
    """The messages of a packet, those in bundles in order and without their time: they are applied on arrival.

    Raises
    ------
    MalformedPacketError
    """
    messages: list[Message] = []
    waiting = [(packet, 0)]
    while waiting:
        data, depth = waiting.pop()
        if not data.startswith(b"#bundle\0"):
            if len(messages) == MOST_MESSAGES:
                raise MalformedPacketError(f"more than {MOST_MESSAGES} messages in a packet")
            messages.append(_decode_message(data))
            continue
        if depth == MOST_DEPTH or len(data) < 16:
            raise MalformedPacketError("a bundle too deep, or cut short")
        elements: list[tuple[bytes, int]] = []
        index = 16  # after the name and the time
        while index < len(data):
            if index + 4 > len(data) or len(elements) == MOST_MESSAGES:
                raise MalformedPacketError("a bundle cut short, or of too many elements")
            size = int(struct.unpack_from(">i", data, index)[0])
            if size <= 0 or size % 4 or index + 4 + size > len(data):
                raise MalformedPacketError(f"an element of {size} bytes in a bundle")
            elements.append((data[index + 4 : index + 4 + size], depth + 1))
            index += 4 + size
        waiting += reversed(elements)
        if len(waiting) > MOST_MESSAGES:
            raise MalformedPacketError(f"more than {MOST_MESSAGES} elements in a packet")
    return messages


def _decode_message(data: bytes) -> Message:
    if len(data) % 4:
        raise MalformedPacketError(f"a message of {len(data)} bytes, which is not a multiple of 4")
    try:
        address, index = osc_types.get_string(data, 0)
        if not address.startswith("/"):
            raise MalformedPacketError("an address must begin with /")
        if index >= len(data):
            return Message(address)  # old senders leave the type tags out
        tags, index = osc_types.get_string(data, index)
        if not tags.startswith(",") or len(tags) > MOST_ARGUMENTS + 1:
            raise MalformedPacketError("type tags must begin with a comma and be few")
        arguments: list[Argument] = []
        for tag in tags[1:]:
            value: Argument
            if tag in _CONSTANTS:
                value = _CONSTANTS[tag]
            elif tag in _READERS:
                value, index = _READERS[tag](data, index)
            else:
                return Message(address, (), tag)
            arguments.append(value)
    except (osc_types.ParseError, UnicodeError, struct.error, IndexError) as error:
        raise MalformedPacketError(str(error)) from None
    return Message(address, tuple(arguments))


_CONSTANTS: dict[str, Argument] = {"T": True, "F": False, "N": None, "I": True}


def _reader(layout: str) -> Callable[[bytes, int], tuple[Argument, int]]:
    """Of a number of fixed size; python-osc's own takes a float that is cut short for one that ends in zeros."""
    number = struct.Struct(layout)
    return lambda data, index: (number.unpack_from(data, index)[0], index + number.size)


_READERS: dict[str, Callable[[bytes, int], tuple[Argument, int]]] = {
    "i": _reader(">i"),
    "h": _reader(">q"),
    "f": _reader(">f"),
    "d": _reader(">d"),
    "s": osc_types.get_string,
    "S": osc_types.get_string,
}


def encode(address: str, arguments: Sequence[Argument]) -> bytes:
    """A message as a datagram; switches go as 0 and 1, which every controller understands."""
    builder = OscMessageBuilder(address)
    for value in arguments:
        builder.add_arg(int(value) if isinstance(value, bool) else value)
    return builder.build().dgram


@dataclass(frozen=True)
class Node:
    """One address.

    Attributes
    ----------
    types : str
        OSC type tags of the arguments; empty if they vary.
    minimum, maximum : float or None
        Of every argument.
    names : callable, optional
        The strings there are to choose from.
    read : callable, optional
        The present arguments: the answer to a message without any.
    write : callable, optional
        What a message with arguments does, which may be a gesture; RefusedError, ValueError or TypeError if not.
    triggered : bool
        A message without arguments acts, too; a number below 0.5 (a button let go) does not.
    """

    address: str
    description: str
    types: str = ""
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    names: Callable[[], list[str]] | None = None
    read: Callable[[], tuple[Argument, ...]] | None = None
    write: Callable[[tuple[Argument, ...], Peer], Gesture | None] | None = None
    triggered: bool = False


@dataclass
class Counters:
    """What came in, since the start."""

    packets: int = 0
    messages: int = 0
    malformed: int = 0
    refused: int = 0
    failed: int = 0


@dataclass
class _Debtor:
    """Where echoes go."""

    until: float = 0.0  # of a subscription, on the monotonic clock
    owed: dict[str, None] = field(default_factory=dict)  # addresses, in order


class OscServer:
    """Listens for OSC over UDP and steers a `ControlSurface`.

    It works in two threads of its own: one takes packets, one sends echoes. Neither touches the audio: values go into the
    path's mailbox. Addresses are looked up as they are; patterns are refused.

    Parameters
    ----------
    surface : ControlSurface
    host : str
        The interface to listen on. Whoever reaches it may steer: there are no passwords in OSC.
    port : int
        0 for any that is free.
    more : sequence of Node
        Addresses besides those of the surface.

    Attributes
    ----------
    nodes : dict of str to Node
        The address space.
    counters : Counters

    Raises
    ------
    OSError
        If the port is taken, or the host is not one of this machine.
    """

    def __init__(self, surface: ControlSurface, host: str = "127.0.0.1", port: int = 0, more: Sequence[Node] = ()) -> None:
        self.surface = surface
        self.counters = Counters()
        self.nodes = {node.address: node for node in (*self._nodes(), *more)}
        self._debtors: dict[Peer, _Debtor] = {}
        self._syncs: list[tuple[Peer, int]] = []
        self._wake = threading.Condition()
        self._closed = False
        self._errors_left, self._errors_since = ERRORS_PER_SECOND, 0.0
        self._busy = 0.0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        # Not blocking for ever: closing a socket does not wake a thread that waits in it.
        self._socket.settimeout(0.2)
        surface.listeners.append(self._heard)
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._receive, self._send)]
        for thread in self._threads:
            thread.start()

    @property
    def address(self) -> Peer:
        """Host and port that it listens on."""
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Stop; the port is free afterwards."""
        self.surface.listeners.remove(self._heard)
        with self._wake:
            self._closed = True
            self._wake.notify()
        with suppress(OSError):  # else the thread that receives wakes up by itself, a little later
            self._socket.sendto(b"", self.address)
        for thread in self._threads:
            thread.join()
        self._socket.close()

    # The address space.

    def _nodes(self) -> list[Node]:
        surface = self.surface
        nodes: list[Node] = []
        for parameter in PARAMETERS.values():
            nodes += self._voice_nodes(parameter) if parameter.kind == "voice" else self._number_nodes(parameter)
        trigger = {"types": "i", "minimum": 0.0, "maximum": 1.0, "triggered": True}
        nodes += [
            Node(f"{PREFIX}/voice/list", "Names of the voices; /vc/voice takes their numbers, from 0.", read=_listed(voices)),
            Node(
                f"{PREFIX}/morph",
                "A mix of voices of one pack: names and weights in turn, or the weights of all voices of the present pack.",
                read=self._read_morph,
                write=self._write_morph,
            ),
            Node(
                f"{PREFIX}/ramp",
                "Time in which numbers glide to what is sent.",
                "f",
                0.0,
                LONGEST_RAMP_MS,
                "ms",
                read=lambda: (cast(float, surface.value("ramp_ms")),),
                write=lambda given, peer: surface.ready({"ramp_ms": _number(given)}),
            ),
            Node(
                f"{PREFIX}/panic",
                "Silence at once, and a fresh start.",
                write=lambda given, peer: surface.ready({"panic": True}),
                **trigger,  # type: ignore[arg-type]
            ),
            Node(
                f"{PREFIX}/preset/load",
                "The preset of this name.",
                "s",
                names=presets,
                read=lambda: (surface.preset,),
                write=lambda given, peer: surface.ready_preset(_text(given)),
            ),
            Node(f"{PREFIX}/preset/save", "Keep what is on under this name.", "s", write=self._write_save),
            Node(
                f"{PREFIX}/preset/next",
                "The next preset.",
                write=lambda given, peer: surface.ready_preset(surface.neighbour(1)),
                **trigger,  # type: ignore[arg-type]
            ),
            Node(
                f"{PREFIX}/preset/prev",
                "The preset before.",
                write=lambda given, peer: surface.ready_preset(surface.neighbour(-1)),
                **trigger,  # type: ignore[arg-type]
            ),
            Node(f"{PREFIX}/preset/list", "Names of the presets.", read=_listed(presets)),
            Node(
                f"{PREFIX}/subscribe",
                "Send every change to this port of the sender's machine, for so many seconds (0 ends it); without a port, "
                "to where this message came from.",
                write=self._write_subscribe,
                triggered=True,
            ),
            Node(f"{PREFIX}/status", "How the conversion is doing: names and values in turn.", read=self._read_status),
            Node(
                f"{PREFIX}/latency",
                "Of the converter and its effects: samples, and milliseconds.",
                "if",
                read=lambda: (surface.path.latency_samples, 1000 * surface.path.latency_samples / surface.path.sample_rate),
            ),
            Node(f"{PREFIX}/ping", "Answered by /vc/pong with the same arguments.", write=self._write_ping, triggered=True),
            Node(
                f"{PREFIX}/sync",
                "Answered by /vc/synced with the same number once all that came before has reached the sound.",
                "i",
                write=self._write_sync,
            ),
        ]
        return nodes

    def _number_nodes(self, parameter: Parameter) -> list[Node]:
        surface, name = self.surface, parameter.name
        low, span = parameter.minimum, parameter.maximum - parameter.minimum
        switch = parameter.kind == "switch"

        def read() -> tuple[Argument, ...]:
            return (cast("float | bool", surface.value(name)),)

        def write(given: tuple[Argument, ...], peer: Peer) -> Gesture:
            number = _number(given)
            if switch and not 0 <= number <= 1:
                raise RefusedError(f"{name} must be 0 or 1, got {number:g}")
            return surface.ready({name: number >= 0.5 if switch else number})

        def read_share() -> tuple[Argument, ...]:
            return ((float(cast("float | bool", surface.value(name))) - low) / span,)

        def write_share(given: tuple[Argument, ...], peer: Peer) -> Gesture:
            number = _share(given)
            return surface.ready({name: number >= 0.5 if switch else low + span * number})

        return [
            Node(
                parameter.osc,
                parameter.description,
                "i" if switch else "f",
                low,
                parameter.maximum,
                parameter.unit,
                read=read,
                write=write,
            ),
            Node(f"{parameter.osc}/n", parameter.description, "f", 0.0, 1.0, read=read_share, write=write_share),
        ]

    def _voice_nodes(self, parameter: Parameter) -> list[Node]:
        surface = self.surface

        def write(given: tuple[Argument, ...], peer: Peer) -> Gesture:
            if len(given) == 1 and isinstance(given[0], str):
                return surface.ready({"voice": _bare_name(given[0])})
            number = _number(given)
            names = voices()
            if number != int(number) or not 0 <= number < len(names):
                raise RefusedError(f"a voice's number must be a whole one from 0 to {len(names) - 1}, got {number:g}")
            return surface.ready({"voice": names[int(number)]})

        def read_share() -> tuple[Argument, ...]:
            names, voice = voices(), surface.value("voice")
            return (names.index(voice) / max(1, len(names) - 1) if isinstance(voice, str) and voice in names else 0.0,)

        def write_share(given: tuple[Argument, ...], peer: Peer) -> Gesture:
            names = voices()
            return surface.ready({"voice": names[round(_share(given) * (len(names) - 1))]})

        return [
            Node(
                parameter.osc,
                f"{parameter.description} A name, or a number.",
                "s",
                names=voices,
                read=lambda: (surface.voice_text,),
                write=write,
            ),
            Node(
                f"{parameter.osc}/n",
                "Target voice by its place in the list.",
                "f",
                0.0,
                1.0,
                read=read_share,
                write=write_share,
            ),
        ]

    def _read_morph(self) -> tuple[Argument, ...]:
        voice = cast("Voice", self.surface.value("voice"))
        shares: Mapping[str, float] = {voice: 1.0} if isinstance(voice, str) else voice
        return tuple(part for pair in shares.items() for part in pair)

    def _write_morph(self, given: tuple[Argument, ...], peer: Peer) -> Gesture:
        if any(isinstance(value, str) for value in given):
            names = [_bare_name(value) if isinstance(value, str) else "" for value in given[::2]]
            if len(given) % 2 or "" in names or len(set(names)) < len(names):
                raise RefusedError("names and weights must come in turn, and each name once")
            weights = dict(zip(names, (_number((value,)) for value in given[1::2]), strict=True))
        else:
            voice = cast("Voice", self.surface.value("voice"))
            pack = find_voice(voice if isinstance(voice, str) else next(iter(voice))).pack
            names = [card.name for card in pack.manifest.voices]
            if len(given) != len(names):
                raise RefusedError(f"the pack has {len(names)} voices ({', '.join(names)}), got {len(given)} weights")
            weights = dict(zip(names, (_number((value,)) for value in given), strict=True))
        # A voice without weight would say that it is in the mix.
        return self.surface.morph({name: weight for name, weight in weights.items() if weight != 0})

    def _write_save(self, given: tuple[Argument, ...], peer: Peer) -> None:
        self.surface.save_preset(_text(given))
        self._owe(peer, [f"{PREFIX}/preset/load"])

    def _write_subscribe(self, given: tuple[Argument, ...], peer: Peer) -> None:
        port = _number(given[:1]) if given else peer[1]
        seconds = _number(given[1:2]) if len(given) > 1 else math.inf
        if port != int(port) or not 1 <= port <= 65535 or seconds < 0 or len(given) > 2:
            raise RefusedError("the port must be 1 to 65535 and the seconds not negative")
        subscriber = (peer[0], int(port))
        with self._wake:
            if seconds == 0:
                self._debtors.pop(subscriber, None)
                return
            now = time.monotonic()
            others = sum(debtor.until > now for known, debtor in self._debtors.items() if known != subscriber)
            if others >= MOST_SUBSCRIBERS:
                raise RefusedError(f"there are {others} subscribers already")
            self._debtors.setdefault(subscriber, _Debtor()).until = now + seconds
        self._owe(subscriber, [address for parameter in PARAMETERS.values() for address in _both(parameter.osc)])

    def _read_status(self) -> tuple[Argument, ...]:
        if self.surface.status is None:
            raise RefusedError("no audio is running")
        status = vars(self.surface.status())
        return tuple(part for name, value in status.items() for part in (name, value))

    def _write_ping(self, given: tuple[Argument, ...], peer: Peer) -> None:
        self._reply(peer, f"{PREFIX}/pong", given)

    def _write_sync(self, given: tuple[Argument, ...], peer: Peer) -> None:
        number = _number(given)
        if number != int(number) or not -(2**31) <= number < 2**31:
            raise RefusedError("a whole number of 32 bits is needed")
        with self._wake:
            if len(self._syncs) >= MOST_LISTENERS:
                raise RefusedError("too many are waiting already")
            self._syncs.append((peer, int(number)))
            self._wake.notify()

    # Packets in.

    def _receive(self) -> None:
        while not self._closed:
            try:
                packet, peer = self._socket.recvfrom(65_535)
            except OSError:  # the time is up, or the last answer reached nobody
                self._busy = 0.0
                continue
            begun = time.thread_time()
            try:
                self._take(packet, (str(peer[0]), int(peer[1])))
            except Exception:  # nothing that anybody sends may end this thread
                self.counters.failed += 1
            self._busy += time.thread_time() - begun
            if self._busy > LONGEST_BURST_SECONDS:
                time.sleep(self._busy * (1 / BUSIEST - 1))
                self._busy = 0.0

    def _take(self, packet: bytes, peer: Peer) -> None:
        self.counters.packets += 1
        try:
            messages = decode(packet)
        except MalformedPacketError:
            self.counters.malformed += 1
            return
        together: Gesture | None = None
        echoes: list[str] = []
        for message in messages:
            self.counters.messages += 1
            try:
                gesture = self._obey(message, peer)
            except (ValueError, TypeError, OSError) as error:
                self._refuse(message, peer, str(error))
                continue
            except Exception as error:  # a defect of ours: said, and survived
                self.counters.failed += 1
                self._refuse(message, peer, f"it failed: {error!r}")
                continue
            if gesture is not None:
                together = gesture if together is None else together.then(gesture)
                echoes.append(message.address)
        if together is not None:
            self._owe(peer, [*echoes, *_addresses_of(together.changes)])
            self.surface.post(together)

    def _obey(self, message: Message, peer: Peer) -> Gesture | None:
        node = self.nodes.get(message.address)
        if node is None:
            raise RefusedError("there is no such address")
        if message.unknown:
            raise RefusedError(f"arguments of type {message.unknown!r} are not understood")
        if not message.arguments and not node.triggered:
            if node.read is None:
                raise RefusedError("an argument is needed")
            self._reply(peer, node.address, node.read())
            return None
        if node.write is None:
            raise RefusedError("this can only be asked for, without arguments")
        if node.triggered and node.types and message.arguments and _number(message.arguments) < 0.5:
            return None  # a button let go
        return node.write(message.arguments, peer)

    def _refuse(self, message: Message, peer: Peer, reason: str) -> None:
        self.counters.refused += 1
        now = time.monotonic()
        if now - self._errors_since >= 1:
            self._errors_left, self._errors_since = ERRORS_PER_SECOND, now
        if self._errors_left:
            self._errors_left -= 1
            self._reply(peer, f"{PREFIX}/error", (message.address[:LONGEST_TEXT], reason[:LONGEST_TEXT]))

    # Messages out.

    def _reply(self, peer: Peer, address: str, arguments: Sequence[Argument]) -> None:
        try:
            self._socket.sendto(encode(address, arguments), peer)
        except OSError:
            return  # nobody there, or the network is full: as with every datagram

    def _heard(self, changes: Changes) -> None:
        addresses = _addresses_of(changes)
        now = time.monotonic()
        with self._wake:
            for debtor in self._debtors.values():
                if debtor.until > now:
                    debtor.owed |= dict.fromkeys(addresses)
            self._wake.notify()

    def _owe(self, peer: Peer, addresses: list[str]) -> None:
        with self._wake:
            if peer not in self._debtors and len(self._debtors) >= MOST_SUBSCRIBERS + MOST_LISTENERS:
                return
            debtor = self._debtors.setdefault(peer, _Debtor())
            readable = (address for address in addresses if self.nodes[address].read is not None)
            debtor.owed |= dict.fromkeys(readable)
            self._wake.notify()

    def _send(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._syncs or any(d.owed for d in self._debtors.values()))
                if self._closed:
                    return
                now = time.monotonic()
                owed = [(peer, list(debtor.owed)) for peer, debtor in self._debtors.items()]
                for debtor in self._debtors.values():
                    debtor.owed.clear()
                self._debtors = {peer: debtor for peer, debtor in self._debtors.items() if debtor.until > now}
                reached = not self.surface.path.posted
                synced, self._syncs = (self._syncs, []) if reached else ([], self._syncs)
            for peer, addresses in owed:
                for address in addresses:
                    read = self.nodes[address].read
                    assert read is not None, "only these are owed"
                    try:
                        self._reply(peer, address, read())
                    except Exception:  # as in _receive
                        self.counters.failed += 1
            for peer, number in synced:
                self._reply(peer, f"{PREFIX}/synced", (number,))
            time.sleep(1 / ECHOES_PER_SECOND)


def _both(address: str) -> tuple[str, str]:
    return address, f"{address}/n"


def _addresses_of(changes: Changes) -> list[str]:
    """Where changes can be read."""
    addresses: list[str] = []
    for name in changes:
        if name in PARAMETERS:
            addresses += _both(PARAMETERS[name].osc)
        if name == "voice":
            addresses.append(f"{PREFIX}/morph")
        elif name == "ramp_ms":
            addresses.append(f"{PREFIX}/ramp")
        elif name == "chain":
            addresses.append(f"{PREFIX}/preset/load")
    return addresses


def _listed(names: Callable[[], list[str]]) -> Callable[[], tuple[Argument, ...]]:
    return lambda: tuple(names())


def _number(given: tuple[Argument, ...]) -> float:
    if len(given) != 1 or not isinstance(given[0], (int, float)):
        raise RefusedError(f"one number is needed, got {_shown(given)}")
    number = float(given[0])
    if not math.isfinite(number):
        raise RefusedError(f"a finite number is needed, got {number}")
    return number


def _share(given: tuple[Argument, ...]) -> float:
    number = _number(given)
    if not 0 <= number <= 1:
        raise RefusedError(f"a number from 0 to 1 is needed, got {number:g}")
    return number


def _text(given: tuple[Argument, ...]) -> str:
    if len(given) != 1 or not isinstance(given[0], str):
        raise RefusedError(f"one name is needed, got {_shown(given)}")
    if "/" in given[0] or "\\" in given[0] or "." in given[0]:
        raise PresetError(f"a name is needed, not a path, got {given[0][:80]!r}")
    return given[0]


def _bare_name(text: str) -> str:
    """A voice's name: over the network no file is opened by its path."""
    names = voices()
    if text not in names:
        raise RefusedError(f"no voice is called {text[:80]!r}, there are {', '.join(names)}")
    return text


def _shown(given: tuple[Argument, ...]) -> str:
    return repr(given[0])[:80] if len(given) == 1 else f"{len(given)} arguments"
