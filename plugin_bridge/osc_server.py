"""The OSC server: a process of its own, so that nothing in it can hold up the audio, and one that outlives any packet."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from functools import partial
from multiprocessing.connection import Connection

from plugin_bridge.companion import stand_back
from plugin_bridge.midi_osc import MIDI_NODES
from plugin_bridge.osc_link import Item, Link, Peer, Result, add
from plugin_bridge.osc_nodes import NODES, PARAMETER_ADDRESSES, PREFIX, PRESET, Node, RefusedError, Standing, addresses_of
from plugin_bridge.osc_packets import Argument, MalformedPacketError, Message, decode, encode
from plugin_bridge.oscquery import OscQueryServer

ECHOES_PER_SECOND = 30
ERRORS_PER_SECOND = 100  # answers to what is refused; a flood of nonsense is not worth a flood of answers
MOST_SUBSCRIBERS = 32
MOST_LISTENERS = 64  # senders whose echoes are under way
LONGEST_TEXT = 200  # of an answer's reason

# Share of the time that packets may keep a processor busy, and the seconds they may before a pause: the audio may need it.
# What comes faster waits in the system's buffer, and is lost when that is full, as datagrams may be.
BUSIEST = 0.25
LONGEST_BURST_SECONDS = 0.005


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


class PacketServer:
    """Takes packets, passes on what they want, and answers.

    One thread takes packets, one passes on, one sends echoes. Addresses are looked up as they are; patterns are refused.
    """

    def __init__(self, udp: socket.socket, connection: Connection, nodes: Mapping[str, Node], standing: Standing) -> None:
        self._socket, self._nodes, self._standing = udp, nodes, standing
        self.link = Link(connection, lambda: list(astuple(self._counters)), self._done)
        self._counters = Counters()
        self._debtors: dict[Peer, _Debtor] = {}
        self._wake = threading.Condition()
        self._syncing = 0  # who wait to hear that all has reached the sound
        self._unreached: list[tuple[Peer, int]] = []  # those of them that must be asked for once more
        self._errors_left, self._errors_since = ERRORS_PER_SECOND, 0.0

    def start(self) -> None:
        """From here on packets are taken."""
        for target in (self._receive, self.link.forward, self._send):
            threading.Thread(target=target, daemon=True).start()

    def hear(self, results: list[Result] | None, standing: Standing, changed: Sequence[str]) -> None:
        """News from the process of the audio; `results` if it is an answer."""
        addresses = addresses_of(changed)
        now = time.monotonic()
        with self._wake:
            self._standing = standing
            for debtor in self._debtors.values():
                if debtor.until > now:
                    debtor.owed |= dict.fromkeys(addresses)
            self._wake.notify()
        if results is not None:
            self.link.hear(results, standing)

    # Packets in.

    def _receive(self) -> None:
        debt, before = 0.0, time.monotonic()
        while True:
            try:
                packet, peer = self._socket.recvfrom(65_535)
            except OSError:  # the last answer reached nobody
                continue
            begun = time.thread_time()
            with self._survived():
                self._take(packet, (str(peer[0]), int(peer[1])))
            now = time.monotonic()
            debt = max(0.0, debt - BUSIEST * (now - before)) + time.thread_time() - begun
            before = now
            if debt > LONGEST_BURST_SECONDS:
                time.sleep(debt / BUSIEST)

    @contextmanager
    def _survived(self) -> Iterator[None]:
        """Nothing that anybody sends may end a thread."""
        try:
            yield
        except Exception:
            self._counters.failed += 1

    def _take(self, packet: bytes, peer: Peer) -> None:
        self._counters.packets += 1
        try:
            messages = decode(packet)
        except MalformedPacketError:
            self._counters.malformed += 1
            return
        items: list[Item] = []
        for message in messages:
            self._counters.messages += 1
            try:
                item = self._item(message, peer)
            except (ValueError, TypeError, OSError) as error:
                self._refuse(peer, message.address, str(error))
            except Exception as error:  # a defect of ours: said, and survived
                self._fail(peer, message.address, error)
            else:
                if item is not None:
                    add(items, item)
        if items:
            self.link.put(items)

    def _item(self, message: Message, peer: Peer) -> Item | None:
        """What a message wants of the process of the audio; the rest is done here."""
        node = self._nodes.get(message.address)
        if node is None:
            raise RefusedError("there is no such address")
        if message.unknown:
            raise RefusedError(f"arguments of type {message.unknown!r} are not understood")
        if not message.arguments and not node.triggered:
            if node.read is None:
                raise RefusedError("an argument is needed")
            self.link.ask({node.asks}, partial(self._answer, peer, node))
            return None
        if node.write is None:
            raise RefusedError("this can only be asked for, without arguments")
        if node.is_let_go(message.arguments):
            return None
        command = node.write(message.arguments)
        match command["do"]:
            case "ping":
                self.link.ask(set(), lambda standing: self._reply(peer, f"{PREFIX}/pong", command["arguments"]))
            case "sync":
                self._sync(peer, command["number"])
            case "subscribe":
                self._subscribe((peer[0], command["port"] or peer[1]), command["seconds"])
            case "save":
                return Item(command, node.address, peer, {(peer, PRESET): None})
            case _:
                return Item(command, node.address, peer, {(peer, node.address): None})
        return None

    def _sync(self, peer: Peer, number: int) -> None:
        with self._wake:
            if self._syncing >= MOST_LISTENERS:
                raise RefusedError("too many are waiting already")
            self._syncing += 1
        self.link.ask(set(), partial(self._synced, peer, number))

    def _subscribe(self, subscriber: Peer, seconds: float) -> None:
        with self._wake:
            if seconds == 0:
                self._debtors.pop(subscriber, None)
                return
            now = time.monotonic()
            others = sum(debtor.until > now for known, debtor in self._debtors.items() if known != subscriber)
            if others >= MOST_SUBSCRIBERS:
                raise RefusedError(f"there are {others} subscribers already")
            self._debtors.setdefault(subscriber, _Debtor()).until = now + seconds
        self._owe(subscriber, PARAMETER_ADDRESSES)

    # What became of it, in the thread that passes on.

    def _done(self, items: list[Item], result: Result) -> None:
        for place, reason, failed in result.refused:
            self._counters.failed += failed
            self._refuse(items[place].peer, items[place].address, reason)
        refused = {place for place, _, _ in result.refused}
        changed = addresses_of(result.changed)
        for place, item in enumerate(items):
            if place not in refused:
                for peer, address in item.echoes:
                    self._owe(peer, (address, *changed))

    def _answer(self, peer: Peer, node: Node, standing: Standing) -> None:
        assert node.read is not None, "only these can be asked"
        try:
            arguments = node.read(standing)
        except RefusedError as error:
            self._refuse(peer, node.address, str(error))
        except Exception as error:  # as in `_take`
            self._fail(peer, node.address, error)
        else:
            self._reply(peer, node.address, arguments)

    def _synced(self, peer: Peer, number: int, standing: Standing) -> None:
        with self._wake:
            if not standing.reached:
                self._unreached.append((peer, number))
                self._wake.notify()
                return
            self._syncing -= 1
        self._reply(peer, f"{PREFIX}/synced", (number,))

    # Messages out.

    def _reply(self, peer: Peer, address: str, arguments: Sequence[Argument]) -> None:
        # An OSError: nobody is there, or the network is full, as with every datagram.
        with self._survived(), suppress(OSError):
            self._socket.sendto(encode(address, arguments), peer)

    def _refuse(self, peer: Peer, address: str, reason: str) -> None:
        self._counters.refused += 1
        now = time.monotonic()
        if now - self._errors_since >= 1:
            self._errors_left, self._errors_since = ERRORS_PER_SECOND, now
        if self._errors_left:
            self._errors_left -= 1
            self._reply(peer, f"{PREFIX}/error", (address[:LONGEST_TEXT], reason[:LONGEST_TEXT]))

    def _fail(self, peer: Peer, address: str, error: Exception) -> None:
        self._counters.failed += 1
        self._refuse(peer, address, f"it failed: {error!r}")

    def _owe(self, peer: Peer, addresses: Sequence[str]) -> None:
        with self._wake:
            if peer not in self._debtors and len(self._debtors) >= MOST_SUBSCRIBERS + MOST_LISTENERS:
                return
            debtor = self._debtors.setdefault(peer, _Debtor())
            # What has to be asked for is no part of the standing at hand.
            readable = (address for address in addresses if self._nodes[address].read and not self._nodes[address].asks)
            debtor.owed |= dict.fromkeys(readable)
            self._wake.notify()

    def _send(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._unreached or any(debtor.owed for debtor in self._debtors.values()))
                now = time.monotonic()
                owed = [(peer, list(debtor.owed)) for peer, debtor in self._debtors.items()]
                for debtor in self._debtors.values():
                    debtor.owed.clear()
                self._debtors = {peer: debtor for peer, debtor in self._debtors.items() if debtor.until > now}
                unreached, self._unreached = self._unreached, []
                standing = self._standing
            for peer, addresses in owed:
                for address in addresses:
                    self._answer(peer, self._nodes[address], standing)
            time.sleep(1 / ECHOES_PER_SECOND)
            for peer, number in unreached:
                self.link.ask(set(), partial(self._synced, peer, number))


def run(connection: Connection, place: tuple[str, int], midi: bool, standing: Standing) -> None:
    """The process: serve until the other end of `connection` is closed.

    `place` is host and port; `midi`: there is MIDI to be taught. What is said first is where it listens, and why not for
    OSCQuery, if so; or why there is no server.
    """
    stand_back()
    host, port = place
    udp = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.bind((host, port))
    except OSError as error:
        connection.send_bytes(json.dumps({"problem": error.strerror or str(error)}).encode())
        return
    host, port = udp.getsockname()[:2]
    nodes = {**NODES, **({node.address: node for node in MIDI_NODES} if midi else {})}
    server = PacketServer(udp, connection, nodes, standing)
    problem = ""
    try:
        OscQueryServer((host, port), nodes, server.link)
    except OSError as error:
        problem = error.strerror or str(error)
    connection.send_bytes(json.dumps({"host": host, "port": port, "query_problem": problem}).encode())
    server.start()
    with suppress(EOFError, OSError):
        while True:
            server.hear(*connection.recv())
