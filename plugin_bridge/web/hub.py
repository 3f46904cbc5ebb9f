"""Between the pages and the audio's process: what the one says all the others hear."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.websockets import WebSocket, WebSocketDisconnect

from plugin_bridge.engine import SHIFTS
from plugin_bridge.preset import PresetError, find_preset, presets
from plugin_bridge.voices import find_voice, voices
from plugin_bridge.web.messages import Change, MessageError, read_message
from plugin_bridge.web.meters import POINT_SECONDS, PitchMeter, level_db

REFUSABLE = {"voice", *SHIFTS}  # though they are in range
MOST_PAGES = 16
MESSAGES_PER_SECOND = 60  # of a page; who sends more is read later
LONGEST_BURST = 60  # messages
MOST_WAITING = 256  # commands for the audio's process
FORWARD_SECONDS = 1 / 60
LISTS_SECONDS = 2.0  # between two looks for new voices and presets
MOST_METERS = 25  # messages: a second of the trace, for a network that falters
MOST_AUDIO = 12  # pieces that wait to be measured
BUSIEST = 0.25  # share of the time that measuring may take: a computer without spare time draws fewer pictures
LONGEST_REST_SECONDS = 0.5


@dataclass
class Client:
    """A page. Only the newest of each kind waits for it: a slow one misses what is old, and holds nobody up."""

    number: int
    waiting: dict[str, deque[str]] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, kind: str, text: str) -> None:
        """Have JSON sent."""
        self.waiting.setdefault(kind, deque(maxlen=MOST_METERS if kind == "meters" else 1)).append(text)
        self.wake.set()


class Allowance:
    """How long a page that sends too much has to wait."""

    def __init__(self) -> None:
        self._left, self._since = float(LONGEST_BURST), time.monotonic()

    def spend(self) -> float:
        """Account for a message; seconds until the next one may be read."""
        now = time.monotonic()
        self._left = min(LONGEST_BURST, self._left + (now - self._since) * MESSAGES_PER_SECOND) - 1
        self._since = now
        return max(0.0, -self._left / MESSAGES_PER_SECOND)


class Hub:
    """All pages, and the connection to the audio's process.

    Its coroutines run in the server's loop; what the other process says comes in by `hear`, from any thread.
    """

    def __init__(self, connection: Connection, sample_rate: float) -> None:
        self._connection = connection
        self._sample_rate = sample_rate
        self._samples = 0  # of audio heard so far
        self._clients: dict[int, Client] = {}
        self._said: dict[str, str] = {}  # newest of each kind: what a new page is told first
        self._count = 0
        self._commands: list[dict[str, Any]] = []
        self._wake = asyncio.Event()
        self._meters = [PitchMeter(sample_rate), PitchMeter(sample_rate)]
        self._audio: deque[NDArray[np.float32]] = deque(maxlen=MOST_AUDIO)
        self._heard = asyncio.Event()

    def hear(self, kind: str, content: Any) -> None:
        """Something from the audio's process."""
        if kind == "audio":
            self._samples += content.shape[1]
            if self._clients:
                self._audio.append(content)
                self._heard.set()
        elif kind == "refused":
            client = self._clients.get(content["client"])
            if client is not None:
                client.tell("refused", _json("refused", {"reason": content["reason"]}))
        else:
            self._said[kind] = _json(kind, content)
            self._tell_all(kind, self._said[kind])

    def _tell_all(self, kind: str, text: str) -> None:
        for client in self._clients.values():
            client.tell(kind, text)

    async def measure(self) -> None:
        """Have meters and pitch of what was heard sent, as often as there is time for it."""
        loop = asyncio.get_running_loop()
        while True:
            await self._heard.wait()
            self._heard.clear()
            begun, end = time.monotonic(), self._samples / self._sample_rate
            audio = np.concatenate(self._audio, axis=1)
            self._audio.clear()
            measured = await loop.run_in_executor(None, self._measured, audio)
            self._tell_all("meters", _json("meters", {**measured, "end": round(end, 3), "spacing": POINT_SECONDS}))
            await asyncio.sleep(min(LONGEST_REST_SECONDS, (1 / BUSIEST - 1) * (time.monotonic() - begun)))

    def _measured(self, audio: NDArray[np.float32]) -> dict[str, Any]:
        parts = (audio[:1], audio[1:])
        return {
            side: {"level_db": round(level_db(part), 1), "pitch_hz": meter.pitch_hz(part)}
            for side, meter, part in zip(("in", "out"), self._meters, parts, strict=True)
        }

    async def serve(self, websocket: WebSocket) -> None:
        """A page, as long as it is there."""
        await websocket.accept()
        if len(self._clients) >= MOST_PAGES:
            await websocket.close(1013, "too many pages are open")
            return
        self._count += 1
        client = Client(self._count)
        self._clients[client.number] = client
        for kind, text in self._said.items():
            client.tell(kind, text)
        sender = asyncio.create_task(self._send(websocket, client))
        try:
            await self._receive(websocket, client)
        except (WebSocketDisconnect, OSError):
            return
        finally:
            del self._clients[client.number]
            sender.cancel()

    async def _send(self, websocket: WebSocket, client: Client) -> None:
        with suppress(WebSocketDisconnect, OSError, RuntimeError):  # it is gone: `_receive` hears of it
            while True:
                await client.wake.wait()
                client.wake.clear()
                waiting, client.waiting = client.waiting, {}
                for text in chain.from_iterable(waiting.values()):
                    await websocket.send_text(text)

    async def _receive(self, websocket: WebSocket, client: Client) -> None:
        allowance = Allowance()
        while True:
            event = await websocket.receive()
            if event["type"] != "websocket.receive":
                return
            try:
                self._take(event.get("text") or "", client)
            except MessageError as error:
                client.tell("refused", _json("refused", {"reason": str(error)[:300]}))
            await asyncio.sleep(allowance.spend())

    def _take(self, text: str, client: Client) -> None:
        message = read_message(text)
        if not isinstance(message, Change):
            self._command(message.model_dump() | {"client": client.number})
        elif not self._joins(message, client):
            changes = {message.name: message.value}
            self._command({"do": "change", "changes": changes, "client": client.number})

    def _joins(self, message: Change, client: Client) -> bool:
        """Whether a change becomes part of the last command: a slider's newest value takes the place of the one before."""
        last = self._commands[-1] if self._commands else None
        if last is None or last["do"] != "change" or last["client"] != client.number:
            return False
        # A voice or a shift goes alone: it may be refused, and other changes must not be refused with it.
        if message.name not in last["changes"] and not REFUSABLE.isdisjoint({message.name, *last["changes"]}):
            return False
        last["changes"][message.name] = message.value
        return True

    def _command(self, command: dict[str, Any]) -> None:
        if len(self._commands) >= MOST_WAITING:
            raise MessageError("too much is waiting already")
        self._commands.append(command)
        self._wake.set()

    async def forward(self) -> None:
        """Pass on what pages say, as fast as the audio's process takes it."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            commands, self._commands = self._commands, []
            with suppress(OSError):  # the other process ended: so will this one
                await loop.run_in_executor(None, self._connection.send_bytes, json.dumps(commands).encode())
            await asyncio.sleep(FORWARD_SECONDS)

    async def look(self) -> None:
        """Tell the pages which voices and presets there are."""
        before = ""
        while True:
            lists = await asyncio.get_running_loop().run_in_executor(None, _lists)
            text = json.dumps(lists)
            if text != before:
                self.hear("lists", lists)
            before = text
            await asyncio.sleep(LISTS_SECONDS)


def _json(kind: str, content: Mapping[str, Any]) -> str:
    return json.dumps({"kind": kind, **content}, allow_nan=False)


def _lists() -> dict[str, Any]:
    cards = {}
    for name in voices():
        with suppress(ValueError):  # gone between two looks
            cards[name] = find_voice(name).card
    found = {}
    for name in presets():
        with suppress(PresetError):
            found[name] = find_preset(name)
    return {
        "voices": [{"name": name, "title": _short(card.display_name), "about": card.kind} for name, card in cards.items()],
        "presets": [{"name": name, "title": preset.title, "about": preset.description} for name, preset in found.items()],
    }


def _short(display_name: str) -> str:
    """Without what is in brackets behind it: read from afar."""
    return display_name.partition(" (")[0]
