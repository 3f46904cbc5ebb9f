"""Between packets and the process of the audio: what is wanted goes there a little at a time, what became of it comes back."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TypeAlias

from plugin_bridge.osc_nodes import Command, Standing

# Between two sayings; about a block, as the audio takes what came in between at once anyway.
PACE_SECONDS = 0.005
MOST_WAITING = 256  # packets and questions; more wait in the system's buffer, and are lost when that is full, as datagrams may be
MOST_ECHOES = 64  # for one command: of those that asked for the same thing, one value before the other

Peer: TypeAlias = tuple[str, int]


@dataclass
class Item:
    """A command, the message it came by, and which addresses are to be told to whom when it is done."""

    command: Command
    address: str
    peer: Peer
    echoes: dict[tuple[Peer, str], None] = field(default_factory=dict)

    @property
    def sets(self) -> str:
        """The one thing that it sets, whatever that was before; empty if it does anything else."""
        match self.command["do"]:
            case "change":
                return str(next(iter(self.command["changes"])))
            case "morph":
                return "voice"
            case "load":
                return "preset"
        return ""

    @property
    def is_number(self) -> bool:
        """Whether it sets a number or a switch, which takes no time, and where only the newest counts."""
        return self.sets not in ("", "voice", "preset")

    def takes_place_of(self, other: Item) -> bool:
        """Whether only the newer one counts: of numbers, of mixes of the same voices, and of what is the same anyway.

        Of other voices and presets the older one counts if the newer one cannot be.
        """
        mixed = _mixed(self.command)
        alike = self.is_number or self.command == other.command or (bool(mixed) and mixed == _mixed(other.command))
        return bool(self.sets) and self.sets == other.sets and alike


@dataclass
class Result:
    """What became of the items of one packet."""

    changed: list[str]  # names
    refused: list[tuple[int, str, bool]]  # the place of an item, why, and whether that is a defect of ours


@dataclass
class Question:
    """Wants to know how things stand after all that was put before."""

    asks: set[str]
    answer: Callable[[Standing], None]


class Link:
    """Everybody puts and asks; `forward` says it to the process of the audio, `hear` takes what that answers.

    The newest value of a number, or of the weights in a mix, takes the place of those that still wait: so a flood costs the
    other process no more than a slow hand.

    Parameters
    ----------
    counters : callable
        What has been counted.
    done : callable
        Takes a packet's items and the result, in the thread of `forward`.
    """

    def __init__(
        self,
        connection: Connection,
        counters: Callable[[], list[int]],
        done: Callable[[list[Item], Result], None],
    ) -> None:
        self._connection, self._counters, self._done = connection, counters, done
        self._changed = threading.Condition()
        self._packets: list[list[Item]] = []
        self._questions: list[Question] = []
        self._answers: queue.SimpleQueue[tuple[list[Result], Standing]] = queue.SimpleQueue()

    def put(self, items: list[Item]) -> None:
        """What one packet wants, to be done together. Waits while too much is waiting already, unless it is a panic."""
        with self._changed:
            if _is_panic(items):  # before whatever a controller gone wild wants, which takes its time
                if not (self._packets and _is_panic(self._packets[0]) and _joined(self._packets[0], items)):
                    self._packets.insert(0, items)
                self._changed.notify_all()
                return
            if self._packets and _joined(self._packets[-1], items):
                return
            self._changed.wait_for(self._has_room)
            self._packets.append(items)
            self._changed.notify_all()

    def ask(self, asks: set[str], answer: Callable[[Standing], None]) -> None:
        """Have `answer` called, in the thread of `forward`. Waits while too much is waiting already."""
        with self._changed:
            self._changed.wait_for(self._has_room)
            self._questions.append(Question(asks, answer))
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return len(self._packets) + len(self._questions) < MOST_WAITING

    def hear(self, results: list[Result], standing: Standing) -> None:
        """The answer to what `forward` said."""
        self._answers.put((results, standing))

    def forward(self) -> None:
        """Say what waits, as fast as it is taken; for ever."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._packets or self._questions)
                # One at a time: the longer it takes the longer the other process rests then, which a panic would wait for.
                packets = [self._packets.pop(0)] if self._packets else []
                # Not before all is done that was put before they were asked.
                questions: list[Question] = []
                if not self._packets:
                    questions, self._questions = self._questions, []
                self._changed.notify_all()
            commands = [[item.command for item in items] for items in packets]
            asks = sorted(set[str]().union(*(question.asks for question in questions)))
            said = json.dumps([self._counters(), commands, asks], ensure_ascii=False).encode()
            with suppress(OSError):  # the other process ended: so will this one
                self._connection.send_bytes(said)
            results, standing = self._answers.get()
            for items, result in zip(packets, results, strict=True):
                self._done(items, result)
            for question in questions:
                question.answer(standing)
            time.sleep(PACE_SECONDS)


def add(items: list[Item], item: Item) -> None:
    """Let an item follow others with which it happens together, and take the place of one that sets the same."""
    for place in reversed(range(len(items))):
        other = items[place]
        if not other.sets:
            break  # a preset that is saved is to hold what was set before
        if other.sets == item.sets:
            before = items.pop(place).echoes
            item.echoes = before | item.echoes if len(before) < MOST_ECHOES else before
            break
    items.append(item)


def _mixed(command: Command) -> set[str] | int:
    """The voices of a mix, or how many they are; 0 if it is none."""
    if command["do"] == "morph":
        return len(command["weights"])
    voice = command["changes"].get("voice") if command["do"] == "change" else None
    return set(voice) if isinstance(voice, dict) else 0


def _is_panic(items: list[Item]) -> bool:
    return all(item.sets == "panic" for item in items)


def _joined(waiting: list[Item], items: list[Item]) -> bool:
    """Make `items` part of what waits, if that is the same: the audio takes at once anyway what came meanwhile."""
    if not all(other.sets for other in waiting):
        return False
    if not all(item.is_number or any(map(item.takes_place_of, waiting)) for item in items):
        return False
    for item in items:
        add(waiting, item)
    return True
