"""OSC over real sockets: what is set, asked, echoed and refused, by other people's tools too, and what it outlives."""

import json
import math
import multiprocessing
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from companions import server_process
from jack_server import wait_for
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

import presets as presets_folder
from plugin_bridge import VoiceConverter, oscquery
from plugin_bridge.control import ControlSurface
from plugin_bridge.osc import OscServer, standing_of
from plugin_bridge.osc_link import PACE_SECONDS, Item, Link
from plugin_bridge.osc_nodes import NODES
from plugin_bridge.osc_packets import MalformedPacketError, Message, decode
from plugin_bridge.oscquery import MOST_CONNECTIONS
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.preset import find_preset, presets
from plugin_bridge.signal_path import Changes, Gesture, SignalPath

RATE = 48_000
needs_liblo = pytest.mark.skipif(
    not (shutil.which("oscsend") and shutil.which("oscdump")), reason="needs oscsend and oscdump: apt-get install liblo-tools"
)


def packet(address: str, *arguments: object, types: str = "") -> bytes:
    builder = OscMessageBuilder(address)
    for index, value in enumerate(arguments):
        builder.add_arg(value, types[index] if types else None)  # type: ignore[arg-type]
    return builder.build().dgram


def raw_bundle(*elements: bytes, when: int = 1) -> bytes:
    """`when` in the format's units of 2^-32 s since 1900; 1 is at once."""
    return b"#bundle\0" + struct.pack(">Q", when) + b"".join(struct.pack(">i", len(element)) + element for element in elements)


class Stage:
    """A server whose path runs, faster than in real time, and a client."""

    def __init__(self) -> None:
        self.path = SignalPath(VoiceConverter("bank_a"), RATE, 256)
        self.surface = ControlSurface(self.path)
        self.told: list[str] = []
        self.server = OscServer(self.surface, tell=self.told.append)
        self.socket = self.client()
        self.going = True
        self.thread = threading.Thread(target=self._play)
        self.thread.start()

    def client(self) -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.bind(("127.0.0.1", 0))
        client.settimeout(20)
        return client

    def _play(self) -> None:
        x, out = np.zeros(256, np.float32), np.zeros((1, 256), np.float32)
        while self.going:
            self.path.process(x, out)
            time.sleep(0.001)

    def send(self, data: bytes) -> None:
        self.socket.sendto(data, self.server.address)

    def receive(self, client: socket.socket | None = None) -> tuple[object, ...]:
        message = OscMessage((client or self.socket).recv(65_535))
        return (message.address, *message.params)

    def ask(self, address: str, *arguments: object) -> tuple[object, ...]:
        """Send, and wait for the answer on this address or for an error."""
        self.send(packet(address, *arguments))
        return self.until(lambda got: got[0] in (address, "/vc/error"))

    def until(self, wanted: Callable[[tuple[object, ...]], bool]) -> tuple[object, ...]:
        while not wanted(got := self.receive()):
            pass
        return got

    def sync(self, number: int = 1) -> None:
        """Wait until all that was sent has reached the path."""
        self.send(packet("/vc/sync", number))
        self.until(lambda got: got == ("/vc/synced", number))

    def ping(self, number: int) -> None:
        """Wait until the server has read all that was sent."""
        self.send(packet("/vc/ping", number))
        self.until(lambda got: got == ("/vc/pong", number))

    def close(self) -> None:
        self.server.close()
        self.going = False
        self.thread.join()
        self.socket.close()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def quiet_stage() -> Iterator[Stage]:
    """One for all that must leave no trace."""
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def busy_stage() -> Iterator[Stage]:
    """One for one change after the other."""
    stage = Stage()
    yield stage
    stage.close()


@pytest.mark.parametrize(
    ("address", "value", "name", "wanted"),
    [
        ("/vc/pitch", 3.5, "pitch_shift", 3.5),
        ("/vc/pitch", -7, "pitch_shift", -7.0),
        ("/vc/pitch/n", 0.25, "pitch_shift", -12.0),
        ("/vc/formant", -12.0, "formant_shift", -12.0),
        ("/vc/mix", 0.5, "mix", 0.5),
        ("/vc/gain/n", 1.0, "gain_db", 24.0),
        ("/vc/gate", -45.0, "gate_db", -45.0),
        ("/vc/bypass", True, "bypass", True),
        ("/vc/bypass", 1, "bypass", True),
        ("/vc/bypass/n", 0.9, "bypass", True),
        ("/vc/voice", "bank_b", "voice", "bank_b"),
        ("/vc/voice", "delay512", "voice", "delay512"),
    ],
)
def test_a_message_sets_what_it_names_and_is_echoed(
    busy_stage: Stage, address: str, value: object, name: str, wanted: object
) -> None:
    stage = busy_stage
    echo = stage.ask(address, value)
    accepted = round(value) if "bypass" in address else value  # type: ignore[call-overload]
    assert echo == (address, accepted if isinstance(accepted, str) else pytest.approx(float(accepted)))
    stage.sync()
    assert getattr(stage.path.converter, name) == wanted
    # In both forms to ask for: as it is, and between 0 and 1.
    value_now = stage.ask(PARAMETERS[name].osc)[1]
    assert value_now == (pytest.approx(wanted) if isinstance(wanted, float) else wanted)
    share = stage.ask(f"{PARAMETERS[name].osc}/n")[1]
    assert isinstance(share, float)
    assert 0 <= share <= 1


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (packet("/vc/pitch", 24.5), "pitch_shift must be between -24 and 24 semitones, got 24.5"),
        (packet("/vc/pitch", math.nan), "a finite number is needed, got nan"),
        (packet("/vc/mix", math.inf), "a finite number is needed, got inf"),
        (packet("/vc/mix/n", 1.5), "a number from 0 to 1 is needed, got 1.5"),
        (packet("/vc/pitch", "high"), "one number is needed, got 'high'"),
        (packet("/vc/pitch", 1.0, 2.0), "one number is needed, got 2 arguments"),
        (packet("/vc/pitch", b"blob"), "arguments of type 'b' are not understood"),
        (packet("/vc/bypass", 2), "bypass must be 0 or 1, got 2"),
        (packet("/vc/voice", "nobody"), "no voice is called 'nobody', there are "),
        (packet("/vc/voice", "/tmp/some.voice"), "no voice is called '/tmp/some.voice'"),
        (packet("/vc/voice", 99), "a voice's number must be a whole one from 0 to "),
        (packet("/vc/ramp", 20_000.0), "the ramp must be between 0 and 10000 ms"),
        (packet("/vc/morph", "bank_a", 0.5, "rate16k", 0.5), "voices of one mix must come from one pack"),
        (packet("/vc/morph", "bank_a", -1.0), "must be finite and not negative"),
        (packet("/vc/morph", 0.0, 0.0), "a mix of voices needs at least one voice"),
        (packet("/vc/morph", 1.0), "the pack has 2 voices (bank_a, bank_b), got 1 weights"),
        (packet("/vc/preset/load", "../x"), "a name is needed, not a path"),
        (packet("/vc/preset/load", "nothing"), "no preset is called 'nothing', there are choir"),
        (packet("/vc/preset/save", "A b"), "a preset's name must be"),
        (packet("/vc/subscribe", 0), "the port must be 1 to 65535"),
        (packet("/vc/status"), "no audio is running"),
        (packet("/vc/latency", 1), "this can only be asked for"),
        (packet("/vc/preset/save"), "an argument is needed"),
        (packet("/vc/volume", 1.0), "there is no such address"),
        (packet("/vc/*", 1.0), "there is no such address"),
        (packet("/" + "*" * 28 + "x"), "there is no such address"),
    ],
)
def test_what_is_refused_is_told_and_changes_nothing(quiet_stage: Stage, message: bytes, reason: str) -> None:
    quiet_stage.send(message)
    address, path, told = quiet_stage.receive()
    assert (address, path) == ("/vc/error", OscMessage(message).address)
    assert isinstance(told, str)
    assert reason in told
    quiet_stage.sync()
    assert not quiet_stage.path.log


def test_every_address_of_the_table_answers_and_lists(stage: Stage) -> None:
    for address, node in NODES.items():
        if node.read is not None and address != "/vc/status":
            assert stage.ask(address)[0] == address
    assert stage.ask("/vc/voice/list")[1:3] == ("accumulator", "bank_a")
    assert stage.ask("/vc/preset/list")[1:] == ("choir", "deep", "natural", "octave-up", "telephone")
    assert stage.ask("/vc/latency") == ("/vc/latency", 512, pytest.approx(1000 * 512 / 48_000))
    stage.send(packet("/vc/ping", 7, "x"))
    assert stage.receive() == ("/vc/pong", 7, "x")
    wide = (2**31, -(2**40), 1e300, -math.inf)
    stage.send(packet("/vc/ping", *wide, types="hhdd"))
    assert stage.receive() == ("/vc/pong", *wide)


def test_a_bundle_is_applied_together_whatever_its_time_says(stage: Stage) -> None:
    for when in (1, 2**64 - 1, 2**33):
        stage.send(
            raw_bundle(packet("/vc/pitch", 4), packet("/vc/gain", -6), packet("/vc/mix", 7.0), packet("/vc/formant", 2), when=when)
        )
        assert stage.until(lambda got: got[0] == "/vc/error") == ("/vc/error", "/vc/mix", "mix must be between 0 and 1, got 7")
        stage.sync()
    assert [changes for _, changes in stage.path.log] == [{"pitch_shift": 4.0, "gain_db": -6.0, "formant_shift": 2.0}] * 3


def test_what_is_saved_in_a_bundle_is_what_came_before_in_it(stage: Stage) -> None:
    four, five = packet("/vc/preset/save", "four"), packet("/vc/preset/save", "five")
    stage.send(raw_bundle(packet("/vc/pitch", 4.0), four, packet("/vc/pitch", 5.0), five, packet("/vc/pitch", 6.0)))
    stage.sync()
    assert [find_preset(name).numbers()["pitch_shift"] for name in ("four", "five")] == [4.0, 5.0]
    assert stage.path.converter.pitch_shift == 6.0


def test_subscribers_hear_every_change_at_most_thirty_times_a_second(stage: Stage) -> None:
    listener = stage.client()
    stage.send(packet("/vc/subscribe", listener.getsockname()[1]))
    told = {stage.receive(listener)[0] for _ in range(14)}  # first of all, how everything stands
    assert told == {address for parameter in PARAMETERS.values() for address in (parameter.osc, f"{parameter.osc}/n")}
    begun = time.monotonic()
    for number in range(300):
        stage.surface.change({"pitch_shift": number / 100})
        time.sleep(0.002)
    heard = []
    while not heard or heard[-1] != 2.99:
        address, *values = stage.receive(listener)
        if address == "/vc/pitch":
            heard.append(round(values[0], 5))  # type: ignore[call-overload]
    elapsed = time.monotonic() - begun
    assert heard == sorted(heard)
    assert 2 <= len(heard) <= 30 * elapsed + 2
    stage.send(packet("/vc/subscribe", listener.getsockname()[1], 0))
    stage.sync()
    listener.settimeout(0.3)
    with pytest.raises(TimeoutError):
        while True:
            listener.recv(1000)
    stage.surface.change({"pitch_shift": 0.0})
    with pytest.raises(TimeoutError):
        listener.recv(1000)
    listener.close()


def test_presets_are_loaded_stepped_through_and_saved(stage: Stage) -> None:
    # The bundled presets' voices are in a pack of a longer latency than the one prepared for.
    stage.send(packet("/vc/preset/save", "b-second"))
    stage.until(lambda got: got == ("/vc/preset/load", "b-second"))
    stage.send(raw_bundle(packet("/vc/gain", -3), packet("/vc/voice", "bank_b")))
    stage.sync()
    stage.send(packet("/vc/preset/save", "a-first"))
    stage.until(lambda got: got == ("/vc/preset/load", "a-first"))
    stage.send(packet("/vc/preset/next", 0.0))  # a button let go
    stage.send(packet("/vc/preset/next"))
    stage.until(lambda got: got == ("/vc/preset/load", "b-second"))
    stage.sync()
    assert (stage.path.converter.voice, stage.path.converter.gain_db) == ("bank_a", 0.0)
    stage.send(packet("/vc/preset/prev", 1.0))
    stage.until(lambda got: got == ("/vc/preset/load", "a-first"))
    stage.sync()
    assert (stage.path.converter.voice, stage.path.converter.gain_db) == ("bank_b", -3.0)


def test_voices_are_morphed_by_name_or_by_place(stage: Stage) -> None:
    for arguments in (("bank_a", 3.0, "bank_b", 1.0), (3.0, 1.0)):
        stage.send(packet("/vc/morph", *arguments))
        stage.sync()
        assert stage.path.converter.voice == {"bank_a": 0.75, "bank_b": 0.25}
        assert stage.ask("/vc/voice") == ("/vc/voice", "bank_a=0.75,bank_b=0.25")
        stage.send(packet("/vc/morph", 0.0, 1.0))
        stage.sync()
        assert stage.path.converter.voice == {"bank_b": 1.0}


def test_a_message_is_heard_from_the_next_block_on_complete_after_a_ramp_and_without_a_click() -> None:
    """A voice that only delays, so that every sample is known: the message comes over the socket, the blocks by hand."""
    audio = (0.5 * np.sin(2 * np.pi * 100 / RATE * np.arange(40 * 256))).astype(np.float32)

    def blocks(path: SignalPath, first: int, last: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        out = np.empty((1, (last - first) * 256), np.float32)
        for number in range(first, last):
            path.process(audio[number * 256 : number * 256 + 256], out[:, (number - first) * 256 :][:, :256])
        return out[0]

    undisturbed = blocks(SignalPath(VoiceConverter("delay512"), RATE, 256), 0, 40)
    path = SignalPath(VoiceConverter("delay512"), RATE, 256)
    server = OscServer(ControlSurface(path))
    try:
        before = blocks(path, 0, 20)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(packet("/vc/gain", -40.0), server.address)
        while not path.posted:
            time.sleep(0.001)
        after = blocks(path, 20, 40)
    finally:
        server.close()
    out, ramp = np.concatenate([before, after]), round(0.030 * RATE)
    assert list(path.log) == [(20 * 256, {"gain_db": -40.0})]
    np.testing.assert_array_equal(before, undisturbed[: 20 * 256])
    assert out[20 * 256 + 3] != undisturbed[20 * 256 + 3], "it moves from the first sample of the block"
    np.testing.assert_array_equal(out[20 * 256 + ramp :], undisturbed[20 * 256 + ramp :] * np.float32(0.01))
    roughness = np.abs(np.diff(out[600:], 2)).max()
    assert np.abs(np.diff(undisturbed[600:], 2)).max() < 1e-4
    assert roughness < 1e-3  # switched at once it would be some 0.1


def test_ten_thousand_hostile_packets_change_nothing_but_counters(stage: Stage) -> None:
    chance = random.Random(5)
    good = packet("/vc/pitch", 12.0)
    deep = packet("/vc/pitch", 5.0)
    for _ in range(500):
        deep = raw_bundle(deep)
    many, devils = raw_bundle(*[packet("/vc/x")] * 600), packet("/vc/voice", "\N{SMILING FACE WITH HORNS}" * 50)
    hostile: list[Callable[[], bytes]] = [
        lambda: chance.randbytes(chance.randrange(1, 200)),
        lambda: b"/" + chance.randbytes(40),
        lambda: b"/vc/pitch\0\0\0,f\0\0" + chance.randbytes(chance.randrange(4)),
        lambda: bytes(b ^ (chance.random() < 0.05) * 128 for b in good[:13]) + good[13:16] + struct.pack(">f", math.nan),
        lambda: packet("/vc/pitch", chance.choice([math.nan, math.inf, -math.inf, 1e30])),
        lambda: devils,
        lambda: packet("/" + chance.choice("*?[]{}") * chance.randrange(1, 60), 1.0),
        lambda: deep,
        lambda: raw_bundle(packet("/vc/mix", 3.0), when=chance.randrange(2**63, 2**64)),
        lambda: many,
        lambda: b"#bundle\0" + chance.randbytes(chance.randrange(60)),
        lambda: b"/vc/mix\0,[[[[[[[[[[[[[[[[[[[[[\0\0",
        lambda: b"/vc/mix\0," + b"i" * 63 + b"\0" * 100,
        lambda: b"/vc/gain\0\0\0\0,m\0\0" + bytes(4),
        lambda: b"",
    ]
    for number in range(10_000):
        stage.send(chance.choice(hostile)())
        if number % 25 == 0:
            stage.ping(number)  # so that none is lost in the system's buffer
    stage.sync()
    counters = stage.server.counters
    assert counters.packets >= 10_000
    assert counters.failed == 0
    assert counters.malformed > 1000
    assert counters.refused > 1000
    assert not stage.path.log
    for name, parameter in PARAMETERS.items():
        assert stage.surface.value(name) == ("bank_a" if name == "voice" else parameter.default)
    stage.send(good)
    stage.sync()
    assert stage.path.converter.pitch_shift == 12


def test_a_flood_ends_at_the_last_value(stage: Stage) -> None:
    for number in range(5000):
        stage.send(packet("/vc/pitch", number / 500))
    for _ in range(20):  # a datagram may be lost when the buffer is full; a hand on a fader sends on
        stage.send(packet("/vc/pitch", 10.0))
        time.sleep(0.05)
    stage.sync()
    assert stage.path.converter.pitch_shift == 10


def test_a_flood_reaches_the_audio_as_few_changes(stage: Stage) -> None:
    changes: list[object] = []
    stage.surface.listeners.append(changes.append)
    begun = time.monotonic()
    for number in range(3000):
        stage.send(packet(("/vc/pitch", "/vc/gain", "/vc/mix/n")[number % 3], number / 3000))
        if number % 100 == 0:
            stage.ping(number)  # so that none is lost in the system's buffer
    stage.sync()
    elapsed = time.monotonic() - begun
    assert 1 <= len(changes) <= elapsed / PACE_SECONDS + 2


def test_a_hand_that_morphs_is_followed_however_fast_it_is(stage: Stage) -> None:
    """Weights of voices on two faders, a number on a third, for a second; then the hand rests, and so does the sound."""
    changes: list[object] = []
    stage.surface.listeners.append(changes.append)
    for number in range(200):
        share = number / 200
        named = number % 100 < 50  # half of the time by name, the rest by place
        morph = packet("/vc/morph", "bank_a", 1 - share, "bank_b", share) if named else packet("/vc/morph", 1 - share, share)
        stage.send(morph if number % 2 else packet("/vc/pitch", share))
        time.sleep(0.005)
    stage.send(packet("/vc/morph", "bank_a", 0.25, "bank_b", 0.75))
    before = len(changes)
    stage.sync()
    assert len(changes) - before <= 40  # of 201
    assert stage.path.converter.voice == {"bank_a": 0.25, "bank_b": 0.75}
    assert stage.path.converter.pitch_shift == pytest.approx(198 / 200)


def test_panic_does_not_wait_for_what_a_controller_gone_wild_put_before_it() -> None:
    here, there = multiprocessing.Pipe()
    link = Link(here, list, lambda items, result: None)
    peer = ("127.0.0.1", 9)
    for number in range(100):
        step = {"do": "step", "by": 1} if number % 2 else {"do": "load", "preset": f"preset-{number}"}
        link.put([Item(step, "/vc/preset/next", peer)])
    for _ in range(3):
        link.put([Item({"do": "change", "changes": {"panic": True}}, "/vc/panic", peer)])
    threading.Thread(target=link.forward, daemon=True).start()
    _, packets, _ = json.loads(there.recv_bytes())
    assert packets == [[{"do": "change", "changes": {"panic": True}}]]


def test_voices_and_presets_in_a_row_are_all_tried(stage: Stage) -> None:
    """What is refused leaves what came before it."""
    stage.send(packet("/vc/voice", "bank_b"))
    stage.send(packet("/vc/pitch", 2.0))
    for _ in range(3):
        stage.send(packet("/vc/voice", "rate16k"))
    stage.send(packet("/vc/pitch", 3.0))
    stage.sync()
    assert (stage.path.converter.voice, stage.path.converter.pitch_shift) == ("bank_b", 3.0)


def test_a_voice_that_others_ask_for_meanwhile_comes_after(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made ready for the one voice does not fit the other: no voice would have been heard any more but that."""
    ready = stage.path.ready
    others = [threading.Thread(target=stage.surface.change, args=({"voice": "delay512"},))]
    begun: list[threading.Thread] = []

    def interrupted(changes: Changes) -> Gesture:
        gesture = ready(changes)
        while others:
            begun.append(others.pop())
            begun[-1].start()
            time.sleep(0.2)  # for some blocks
        return gesture

    monkeypatch.setattr(stage.path, "ready", interrupted)
    stage.send(packet("/vc/morph", "bank_a", 0.5, "bank_b", 0.5))
    stage.sync(1)
    begun[0].join(10)
    stage.sync(2)
    assert stage.path.converter.voice == "delay512"


def test_touches_and_pages_of_touchosc_are_told_apart_from_its_faders(stage: Stage) -> None:
    for message in (packet("/ping"), packet("/1"), packet("/accxyz", 0.1, 0.2, 0.9), packet("/vc/pitch/n/z", 1.0)):
        stage.send(message)
        assert stage.receive()[0] == "/vc/error"
    stage.sync()
    assert not stage.path.log
    for share in (0.25, 0.5, 0.75):
        stage.send(packet("/vc/pitch/n", share))
    stage.send(packet("/vc/bypass", 1.0))
    stage.send(packet("/vc/voice", 1.0))
    assert stage.until(lambda got: got[0] == "/vc/voice") == ("/vc/voice", "bank_a")
    stage.sync()
    assert (stage.path.converter.pitch_shift, stage.path.converter.bypass) == (12.0, True)
    assert stage.path.converter.voice == "bank_a"


def test_many_strangers_and_subscribers_are_bounded(stage: Stage) -> None:
    for port in range(20_000, 20_100):
        stage.send(packet("/vc/subscribe", port))
    told = stage.until(lambda got: got[0] == "/vc/error")
    assert told == ("/vc/error", "/vc/subscribe", "there are 32 subscribers already")
    stage.sync()


def test_the_server_listens_on_loopback_alone_and_frees_its_port(stage: Stage) -> None:
    host, port = stage.server.address
    assert host == "127.0.0.1"
    with pytest.raises(OSError, match="in use"):
        OscServer(stage.surface, port=port)
    other = OscServer(stage.surface)
    port = other.address[1]
    other.close()
    OscServer(stage.surface, port=port).close()


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (packet("/a"), [Message("/a")]),
        (b"/a\0\0", [Message("/a")]),  # without type tags, as old senders do
        (packet("/a", 1, 2.5, "x", True, False, None), [Message("/a", (1, 2.5, "x", True, False, None))]),
        (b"/a\0\0,hdSI\0\0\0" + struct.pack(">qd", 2**40, 0.1) + b"sym\0", [Message("/a", (2**40, 0.1, "sym", True))]),
        (b"/a\0\0,c\0\0\0\0\0A", [Message("/a", (), "c")]),
        (raw_bundle(packet("/a"), raw_bundle(packet("/b"), packet("/c")), packet("/d")), [Message(f"/{x}") for x in "abcd"]),
        (raw_bundle(), []),
    ],
)
def test_packets_are_read_as_the_specification_says(data: bytes, messages: list[Message]) -> None:
    assert decode(data) == messages


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a\0\0\0",
        b"#bundle\0",
        raw_bundle(b""),
        raw_bundle(b"/a\0"),
        b"/\xff\xfe\0,\0\0\0",
        packet("/a", 1.0)[:-1],
        packet("/a", 1.0)[:-4],
        packet("/a", "x")[:-4],
    ],
)
def test_what_is_not_osc_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedPacketError):
        decode(data)


@needs_liblo
def test_liblo_tools_steer_it_and_hear_it(stage: Stage) -> None:
    free = stage.client()
    port = free.getsockname()[1]
    free.close()
    with subprocess.Popen(["stdbuf", "-oL", "oscdump", str(port)], stdout=subprocess.PIPE, text=True) as dump:
        assert dump.stdout is not None
        heard: list[str] = []
        reader = threading.Thread(target=lambda lines: [heard.append(line) for line in lines], args=(dump.stdout,))
        reader.start()

        def until_heard(texts: list[str], *command: str) -> None:
            """Send, again and again as datagrams may be lost, until it has heard all of these."""
            end = time.monotonic() + 30
            while not all(any(text in line for line in heard) for text in texts):
                assert time.monotonic() < end, heard
                subprocess.run(["oscsend", url, *command], check=True)
                time.sleep(0.1)

        url = f"osc.udp://127.0.0.1:{stage.server.address[1]}"
        try:
            until_heard(["/vc/bypass/n"], "/vc/subscribe", "ii", str(port), "60")  # it tells how everything stands
            until_heard(["/vc/pitch f -5.0"], "/vc/pitch", "f", "-5")
            until_heard(["/vc/pitch f 4.0"], "/vc/pitch", "i", "4")
            until_heard(["/vc/bypass i 1"], "/vc/bypass", "T")
            until_heard(['/vc/voice s "bank_b"'], "/vc/voice", "S", "bank_b")
        finally:
            dump.kill()
            reader.join()
    stage.sync()
    converter = stage.path.converter
    assert (converter.pitch_shift, converter.bypass, converter.voice) == (4.0, True, "bank_b")


def get_json(server: OscServer, path: str, *hosts: str) -> tuple[int, dict[str, Any]]:
    """Status and content, asked for under these names."""
    connection = HTTPConnection("127.0.0.1", server.address[1], timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    for host in hosts:
        connection.putheader("Host", host)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, json.loads(body) if body else {}


def test_a_page_of_another_site_learns_nothing_under_a_name_that_it_makes_point_here(stage: Stage) -> None:
    for hosts in (["localhost:9000"], ["127.0.0.1"], ["[::1]:9000"], ["LOCALHOST."], []):
        assert get_json(stage.server, "/vc/mix?VALUE", *hosts) == (200, {"VALUE": [1.0]})
    for hosts in (["evil.example"], ["evil.example:9000"], ["192.168.1.7"], ["localhost", "evil.example"], ["a b"]):
        assert get_json(stage.server, "/vc/mix?VALUE", *hosts) == (403, {})
    assert get_json(stage.server, "/?HOST_INFO", "localhost")[1]["OSC_IP"] == "127.0.0.1"
    assert get_json(stage.server, "http://[", "localhost") == (400, {})


def test_open_to_the_network_it_answers_to_its_addresses_and_names_and_tells_no_address_that_leads_elsewhere(stage: Stage) -> None:
    server = OscServer(stage.surface, "0.0.0.0")
    try:
        for host in ("192.168.1.7:9000", socket.gethostname(), f"{socket.gethostname()}.local.", "[fe80::1]"):
            info = get_json(server, "/?HOST_INFO", host)[1]
            assert (info["OSC_PORT"], "OSC_IP" in info) == (server.address[1], False)
        assert get_json(server, "/?HOST_INFO", "evil.example") == (403, {})
    finally:
        server.close()


def test_a_controller_builds_itself_from_the_tree_over_http(stage: Stage) -> None:

    def get(path: str) -> tuple[int, dict[str, Any]]:
        return get_json(stage.server, path, f"127.0.0.1:{stage.server.address[1]}")

    assert stage.server.query_problem == ""
    stage.send(packet("/vc/pitch", -3.5))
    stage.sync()
    status, pitch = get("/vc/pitch")
    assert status == 200
    assert pitch["FULL_PATH"] == "/vc/pitch"
    assert (pitch["TYPE"], pitch["ACCESS"], pitch["VALUE"]) == ("f", 3, [-3.5])
    assert pitch["RANGE"] == [{"MIN": -24, "MAX": 24}]
    assert pitch["UNIT"] == ["semitones"]
    assert pitch["CONTENTS"]["n"]["VALUE"] == [pytest.approx((-3.5 + 24) / 48)]

    tree = get("/")[1]
    listed = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if node["ACCESS"]:
            listed.add(node["FULL_PATH"])
        waiting += node.get("CONTENTS", {}).values()
    assert listed == set(NODES)
    vc = tree["CONTENTS"]["vc"]["CONTENTS"]
    assert vc["voice"]["RANGE"][0]["VALS"][:2] == ["accumulator", "bank_a"]
    assert (vc["panic"]["ACCESS"], vc["bypass"]["TYPE"], vc["bypass"]["RANGE"]) == (2, "i", [{"MIN": 0, "MAX": 1}])
    assert get("/?HOST_INFO")[1]["OSC_PORT"] == stage.server.address[1]
    assert get("/vc/mix?VALUE") == (200, {"VALUE": [1.0]})
    assert get("/vc/panic?VALUE")[0] == 204
    assert get("/vc/mix?COLOUR")[0] == 400
    assert get("/vc/volume")[0] == 404
    for line in (b"", b"POST /vc/mix HTTP/1.0\r\n\r\n", b"\xff" * 70_000, b"GET /\r\n"):
        with socket.create_connection(("127.0.0.1", stage.server.address[1])) as client, suppress(OSError):
            client.sendall(line)
    assert get("/vc/mix?VALUE")[0] == 200


def slow(port: int) -> socket.socket:
    """Somebody who begins a request and sends on a byte at a time."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(b"GET / HTTP/1.0\r\nX: ")
    return connection


def test_however_many_send_slowly_another_is_answered_at_once(stage: Stage) -> None:
    port = stage.server.address[1]
    with ExitStack() as open_connections:
        trickling = [open_connections.enter_context(slow(port)) for _ in range(2 * MOST_CONNECTIONS)]
        for _ in range(2):
            for connection in trickling:
                with suppress(OSError):
                    connection.sendall(b"x")
            assert get_json(stage.server, "/vc/mix?VALUE", "localhost") == (200, {"VALUE": [1.0]})
        for connection in trickling[:MOST_CONNECTIONS]:  # they had to go
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""


def test_who_sends_a_byte_now_and_then_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oscquery, "LONGEST_CONNECTION_SECONDS", 0.2)
    ours, theirs = Pipe()
    http = oscquery._Http(("127.0.0.1", 0), NODES, Link(ours, list, lambda items, result: None))
    serving = threading.Thread(target=http.serve_forever)
    serving.start()
    try:
        with slow(http.server_address[1]) as connection:
            begun = time.monotonic()
            with suppress(OSError):
                while select.select([connection], [], [], 0.05)[0] == []:  # until there is an end
                    connection.sendall(b"x")
                    assert time.monotonic() - begun < 20
            assert time.monotonic() - begun > 0.2
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        # Nor is a thread left of it.
        wait_for(lambda: not any("process_request_thread" in thread.name for thread in threading.enumerate()), "its thread to end")
    finally:
        http.shutdown()
        serving.join()
        http.server_close()
        ours.close()
        theirs.close()


# What a widget of each type knows (`defaults()` in Open Stage Control's sources); it drops what it does not.
EVERY_WIDGET = {"type", "id", "comments", "height", "expand", "onCreate"}
OSC_WIDGET = EVERY_WIDGET | {"address", "typeTags", "default", "decimals"}
WIDGETS = {
    "root": EVERY_WIDGET | {"layout", "widgets"},
    "panel": EVERY_WIDGET | {"layout", "widgets"},
    "text": EVERY_WIDGET | {"value"},
    "fader": OSC_WIDGET | {"design", "range", "doubleTap"},
    "switch": OSC_WIDGET | {"layout", "values"},
    "button": OSC_WIDGET | {"label", "mode", "on", "off"},
}


def test_the_layout_for_open_stage_control_is_one_that_it_knows() -> None:
    layout = json.loads((Path(presets_folder.__file__).parent / "stage" / "open-stage-control.json").read_text())
    assert layout["type"] == "session"
    assert layout["content"]["type"] == "root"
    waiting, ids = [layout["content"]], []
    while waiting:
        widget = waiting.pop()
        waiting += widget.get("widgets", [])
        ids.append(widget["id"])
        assert set(widget) <= WIDGETS[widget["type"]], widget["id"]
        if widget["type"] == "button":
            assert widget["mode"] in ("toggle", "tap")  # which send a number; "momentary" sends none
    assert len(set(ids)) == len(ids)


def test_the_layout_for_open_stage_control_fits_the_address_space(stage: Stage) -> None:
    layout = json.loads((Path(presets_folder.__file__).parent / "stage" / "open-stage-control.json").read_text())
    widgets, waiting = {}, [layout["content"]]
    while waiting:
        widget = waiting.pop()
        waiting += widget.get("widgets", [])
        if widget["type"] not in ("root", "panel", "text"):
            widgets[widget["address"]] = widget
    for parameter in PARAMETERS.values():
        assert parameter.osc in widgets
    for address, widget in widgets.items():
        node = NODES[address]
        if "range" in widget:
            assert (widget["range"]["min"], widget["range"]["max"]) == (node.minimum, node.maximum)
            assert widget["default"] == NODES[address].read(standing_of(stage.surface))[0]  # type: ignore[misc]
        if address == "/vc/voice":
            assert widget["values"] == ["pjs", "kerstin", "alys"]
        elif address == "/vc/preset/load":
            assert list(widget["values"]) == presets()


def test_a_server_that_ends_is_started_again_at_the_same_port(stage: Stage) -> None:
    address = stage.server.address
    stage.surface.change({"gain_db": -4.0})
    stage.send(packet("/vc/ping"))
    stage.until(lambda got: got == ("/vc/pong",))
    os.kill(server_process(), signal.SIGKILL)
    wait_for(lambda: stage.told, "a sentence")
    assert stage.told == ["the OSC server ended; starting it again"]
    stage.socket.settimeout(0.2)
    heard: list[tuple[object, ...]] = []

    def answers() -> bool:
        stage.send(packet("/vc/gain"))
        with suppress(OSError):
            heard.append(stage.receive())
        return bool(heard)

    wait_for(answers, "the server")
    assert stage.server.address == address
    assert heard == [("/vc/gain", -4.0)]


def test_nothing_is_left_of_a_start_that_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(connection: object, seconds: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(multiprocessing.connection.Connection, "poll", interrupted)
    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        OscServer(ControlSurface(SignalPath(VoiceConverter("bank_a"), RATE, 256)))
    assert set(multiprocessing.active_children()) <= before


def test_a_server_leaves_the_end_of_all_that_a_service_runs_to_the_performance(stage: Stage) -> None:
    os.kill(server_process(), signal.SIGTERM)
    stage.ping(1)
    time.sleep(0.1)  # in which its end would be told
    stage.ping(2)
    assert stage.told == []


def test_a_server_that_hangs_is_ended_with_the_rest(stage: Stage) -> None:
    other = OscServer(stage.surface)
    process = server_process()
    os.kill(process, signal.SIGSTOP)
    other.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


EMBEDDED = """
import time
from plugin_bridge import VoiceConverter
from plugin_bridge.control import ControlSurface
from plugin_bridge.osc import OscServer
from plugin_bridge.signal_path import SignalPath

if __name__ == "__main__":
    server = OscServer(ControlSurface(SignalPath(VoiceConverter("bank_a"), 48_000, 256)))
    print(*server.address, flush=True)
    time.sleep(3600)
"""


def test_nothing_is_left_of_a_process_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "embedded.py"
    script.write_text(EMBEDDED)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        host, port = process.stdout.readline().split()
        process.kill()
        # The server holds the other end of this, too: it ends when nobody does.
        assert process.stderr.read() == ""

    def is_free() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taker:
            try:
                taker.bind((host, int(port)))
            except OSError:
                return False
        return True

    wait_for(is_free, "the port")  # a process that ends closes one thing after the other
