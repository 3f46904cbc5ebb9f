"""MIDI: what messages say, what may be bound, and a controller on a real JACK server that steers."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from jack_server import jack, jack_server, needs_jack, wait_for
from jack_server import jack_environment as jack_environment
from pythonosc.osc_message import OscMessage
from typer.testing import CliRunner

from plugin_bridge import VoiceConverter, midi_control
from plugin_bridge.cli import app
from plugin_bridge.control import ControlSurface
from plugin_bridge.midi import Message, MidiPort, decode
from plugin_bridge.midi_control import MidiControl
from plugin_bridge.midi_map import ADDRESSES, Binding, MidiError, make_binding, parse_lesson, read_map, save_map
from plugin_bridge.osc import OscServer
from plugin_bridge.osc_packets import encode
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.signal_path import SignalPath

needs_rtmidi = pytest.mark.skipif(find_spec("rtmidi") is None, reason="needs python-rtmidi: pip install '.[midi]'")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([0x90, 60, 1], Message(("note", 1, 60), 1.0)),
        ([0x9F, 127, 127], Message(("note", 16, 127), 1.0)),
        ([0xB0, 7, 0], Message(("control", 1, 7), 0.0)),
        ([0xB3, 7, 64], Message(("control", 4, 7), 0.5)),
        ([0xB0, 119, 127], Message(("control", 1, 119), 1.0)),
        ([0xB0, 1, 32], Message(("control", 1, 1), 0.25)),
        ([0xC9, 5], Message(("program", 10, 5), 1.0)),
        ([0xE0, 0, 0], Message(("bend", 1, 0), 0.0)),
        ([0xE0, 0, 64], Message(("bend", 1, 0), 0.5)),
        ([0xE0, 127, 127], Message(("bend", 1, 0), 1.0)),
        ([0x90, 60, 0], None),  # a key let go, as many keyboards say it
        ([0x80, 60, 64], None),
        ([0xA0, 60, 64], None),
        ([0xB0, 123, 0], None),  # all notes off
        ([0xD0, 3], None),
        ([0xF8], None),
        ([0xF0, 1, 2, 0xF7], None),
        ([0x90, 60], None),
        ([0xB0, 200, 1], None),
        ([300, 1, 1], None),
        ([], None),
    ],
)
def test_messages_say_what_the_midi_specification_says(data: list[int], message: Message | None) -> None:
    assert decode(data) == message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not valid: Invalid JSON"),
        ({"format": 2}, "format: Input should be 1"),
        ({"kind": "key", "channel": 1, "address": "/vc/mix"}, "bindings.0.kind: Input should be 'note'"),
        ({"kind": "control", "channel": 0, "address": "/vc/mix"}, "bindings.0.channel"),
        ({"kind": "control", "channel": 1, "number": 128, "address": "/vc/mix"}, "bindings.0.number"),
        ({"kind": "control", "channel": 1, "number": 120, "address": "/vc/mix"}, "controllers are 0 to 119, got 120"),
        ({"kind": "control", "channel": 1, "address": "/vc/volume"}, "'/vc/volume' is nothing that MIDI steers"),
        ({"kind": "control", "channel": 1, "address": "/vc/pitch", "low": -30.0}, "pitch_shift must be between -24 and 24"),
        ({"kind": "control", "channel": 1, "address": "/vc/bypass", "low": 0.0}, "only a number goes from low to high"),
        ({"kind": "note", "channel": 1, "address": "/vc/pitch"}, "a button for /vc/pitch needs a number as its value"),
        ({"kind": "note", "channel": 1, "address": "/vc/pitch", "value": "high"}, "a button for /vc/pitch needs a number"),
        ({"kind": "note", "channel": 1, "address": "/vc/voice"}, "/vc/voice needs the name of a voice, got 'None'"),
        ({"kind": "note", "channel": 1, "address": "/vc/panic", "value": 1.0}, "/vc/panic needs no value, got '1.0'"),
        ({"kind": "control", "channel": 1, "address": "/vc/preset/load"}, "/vc/preset/load needs the name of a preset"),
        ({"kind": "program", "channel": 1, "address": "/vc/bypass", "value": "on"}, "/vc/bypass needs true, false or no value"),
        ({"kind": "bend", "channel": 1, "address": "/vc/voice"}, "the wheel has no number and no value, and moves numbers alone"),
        ({"kind": "control", "channel": 1, "address": "/vc/mix", "colour": "red"}, "bindings.0.colour: Extra inputs"),
    ],
)
def test_what_is_wrong_in_a_map_is_told_in_one_sentence(tmp_path: Path, content: object, told: str) -> None:
    path = tmp_path / "midi.json"
    if isinstance(content, dict) and "kind" in content:
        content = {"format": 1, "bindings": [content]}
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(MidiError) as refused:
        read_map(path)
    assert told in str(refused.value)
    assert str(refused.value).startswith(f"the MIDI map {path} is not valid: ")
    assert "\n" not in str(refused.value)


def test_one_source_steers_one_thing(tmp_path: Path) -> None:
    path = tmp_path / "midi.json"
    knob = {"kind": "control", "channel": 1, "number": 7, "address": "/vc/mix"}
    path.write_text(json.dumps({"bindings": [knob, {**knob, "address": "/vc/gain"}]}))
    with pytest.raises(MidiError, match="two bindings of one source: control 7 on channel 1: /vc/mix, and control 7"):
        read_map(path)
    path.write_text(json.dumps({"bindings": [knob]}))
    again = read_map(path).bound(make_binding(("control", 1, 7), "/vc/gain", ()))
    assert [binding.address for binding in again.bindings] == ["/vc/gain"]
    assert not again.without("/vc/gain").bindings
    assert not read_map(tmp_path / "nothing.json").bindings


def test_a_controller_reaches_both_ends_of_its_range_and_the_middle() -> None:
    for name, parameter in PARAMETERS.items():
        if parameter.kind != "number":
            continue
        binding = make_binding(("control", 1, 7), parameter.osc, ())
        ends = [binding.at(decode([0xB0, 7, value]).level) for value in (0, 64, 127)]  # type: ignore[union-attr]
        middle = (parameter.minimum + parameter.maximum) / 2
        assert ends == pytest.approx([parameter.minimum, middle, parameter.maximum]), name
        assert [parameter.number(end) for end in ends] == ends
    reversed_fader = make_binding(("bend", 1, 0), "/vc/pitch", (12.0, -12.0))
    assert [reversed_fader.at(share) for share in (0.0, 0.25, 1.0)] == [12.0, 6.0, -12.0]


@pytest.mark.parametrize(
    ("text", "lesson"),
    [
        ("/vc/bypass", ("/vc/bypass", ())),
        ("/vc/pitch=-12..12", ("/vc/pitch", (-12.0, 12.0))),
        ("/vc/pitch=7", ("/vc/pitch", (7.0,))),
        ("/vc/voice=pjs", ("/vc/voice", ("pjs",))),
        ("/vc/voice=pjs=0.5,alys=0.5", ("/vc/voice", ("pjs=0.5,alys=0.5",))),
    ],
)
def test_lessons_are_read_from_the_command_line(text: str, lesson: tuple[str, tuple[object, ...]]) -> None:
    assert parse_lesson(text) == lesson


def test_without_the_library_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rtmidi", None)
    shown = CliRunner().invoke(app, ["live", "--midi-list"])
    assert shown.exit_code == 2
    assert "MIDI needs python-rtmidi" in shown.stderr
    assert "install it with: pip install" in shown.stderr


def test_what_is_refused_does_not_take_along_what_moved_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [[Message(("control", 1, number), 1.0) for number in (1, 2)]]
    port = SimpleNamespace(name="virtual", is_there=True, close=lambda: None)
    port.messages = lambda: waiting.pop() if waiting else []
    monkeypatch.setattr(midi_control, "MidiPort", lambda wanted: port)
    file = tmp_path / "midi.json"
    for number, address in ((1, "/vc/pitch"), (2, "/vc/mix")):
        save_map(file, read_map(file).bound(Binding(kind="control", channel=1, number=number, address=address)))
    surface = ControlSurface(SignalPath(VoiceConverter("delay512", mix=0.5), 48_000, 256))
    told: list[str] = []
    midi = MidiControl(surface, "virtual", told.append, path=file)
    wait_for(lambda: surface.value("mix") == 1.0, "mix to be 1")
    midi.close()
    assert len(told) == 1
    assert "'delay512' has no pitch_shift" in told[0]


class Desk:
    """A controller at a surface's MIDI port."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        import rtmidi

        self.surface = ControlSurface(SignalPath(VoiceConverter("bank_a"), 48_000, 256))
        self.file = folder / "midi.json"
        self.told: list[str] = []
        self.midi = MidiControl(self.surface, "virtual", self.told.append, path=self.file)
        stack.callback(self.midi.close)
        self.controller = rtmidi.MidiOut(rtmidi.API_UNIX_JACK, name="controller")
        stack.callback(self.controller.delete)
        self.controller.open_virtual_port("out")
        jack("jack_connect", "controller:out", "plugin_bridge:control")

    def send(self, *messages: list[int]) -> None:
        for message in messages:
            self.controller.send_message(message)

    def teach(self, address: str, *arguments: object, touch: list[int]) -> None:
        self.midi.learn(address, *arguments)
        assert self.midi.learning == address
        self.send(touch)
        wait_for(lambda: not self.midi.learning, f"{address} to be learned")

    def wait(self, name: str, value: object) -> None:
        wait_for(lambda: self.surface.value(name) == value, f"{name} to be {value}")


@pytest.fixture(scope="module")
def jack_here(jack_environment: None) -> Iterator[None]:
    with jack_server():
        yield


@pytest.fixture
def desk(jack_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with ExitStack() as stack:
        yield Desk(stack, tmp_path)


@needs_jack
@needs_rtmidi
def test_what_was_learned_steers_and_is_kept(desk: Desk, tmp_path: Path) -> None:
    desk.teach("/vc/pitch", -12.0, 12.0, touch=[0xB0, 1, 3])
    desk.teach("/vc/formant", touch=[0xE0, 0, 64])
    desk.teach("/vc/bypass", touch=[0x90, 36, 100])
    desk.teach("/vc/voice", "bank_b", touch=[0x90, 37, 100])
    desk.teach("/vc/voice", touch=[0xC0, 4])  # the one that is on: bank_a
    desk.teach("/vc/gain", -6, touch=[0xB0, 64, 127])  # a pedal
    assert desk.surface.value("pitch_shift") == 0.0, "the touch that teaches does nothing else"
    desk.send([0xB0, 1, 127], [0xE0, 0, 96], [0x90, 36, 1], [0x80, 36, 0], [0x90, 37, 9], [0x80, 37, 0])
    desk.send([0xB0, 64, 0], [0xB0, 64, 90])
    desk.wait("pitch_shift", 12.0)
    desk.wait("formant_shift", pytest.approx(6.0, abs=0.01))
    desk.wait("bypass", True)
    desk.wait("voice", "bank_b")
    desk.wait("gain_db", -6.0)
    desk.send([0x90, 36, 1], [0xC0, 4], [0xB0, 1, 64], [0xB1, 1, 0], [0x91, 37, 9])  # the last two on a channel nobody taught
    desk.wait("bypass", False)
    desk.wait("voice", "bank_a")
    desk.wait("pitch_shift", 0.0)
    kept = read_map(desk.file).bindings
    assert list(map(str, kept)) == [
        "control 1 on channel 1: /vc/pitch",
        "bend on channel 1: /vc/formant",
        "note 36 on channel 1: /vc/bypass",
        "note 37 on channel 1: /vc/voice bank_b",
        "program 4 on channel 1: /vc/voice bank_a",
        "control 64 on channel 1: /vc/gain -6.0",
    ]
    assert desk.told == [f"MIDI: {binding}" for binding in kept]
    assert not list(tmp_path.glob("*.part"))
    desk.midi.forget("/vc/voice")
    assert len(read_map(desk.file).bindings) == 4


@needs_jack
@needs_rtmidi
def test_a_thousand_moves_end_where_the_hand_ends(desk: Desk) -> None:
    desk.teach("/vc/mix", touch=[0xB0, 2, 0])
    changes: list[object] = []
    desk.surface.listeners.append(changes.append)
    for step in range(1000):
        desk.send([0xB0, 2, step % 128])
    desk.send([0xB0, 2, 127])
    desk.wait("mix", 1.0)
    assert len(changes) < 1000, "many at once are one change"
    desk.teach("/vc/preset/next", touch=[0xB0, 3, 127])
    desk.send([0xB0, 3, 127])  # it was down already
    desk.send([0xB0, 3, 0], [0xB0, 3, 127], [0xB0, 3, 100])
    wait_for(lambda: desk.surface.preset, "the first preset, or why it cannot be loaded")


@needs_jack
@needs_rtmidi
def test_a_sequencer_of_other_people_plays_voices(desk: Desk, jack_here: None) -> None:
    desk.teach("/vc/voice", "bank_a", touch=[0x90, 60, 1])
    desk.teach("/vc/voice", "bank_b", touch=[0x90, 62, 1])
    heard: set[object] = set()
    desk.surface.listeners.append(lambda changes: heard.add(changes["voice"]))
    # Two notes in turn, for ever: name, length of the loop, then start, key and length of each, in samples.
    command = ["jack_midiseq", "sequencer", "9600", "0", "60", "2000", "4800", "62", "2000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as sequencer:
        try:
            wait_for(lambda: "sequencer:out" in jack("jack_lsp").stdout, "the sequencer")
            jack("jack_connect", "sequencer:out", "plugin_bridge:control")
            wait_for(lambda: heard == {"bank_a", "bank_b"}, "both notes")
        finally:
            sequencer.kill()


@needs_jack
@needs_rtmidi
def test_it_is_taught_over_osc_and_refuses_what_cannot_be(desk: Desk) -> None:
    server = OscServer(desk.surface, midi=desk.midi)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        client.settimeout(20)

        def ask(address: str, *arguments: float | str) -> tuple[object, ...]:
            client.sendto(encode(address, arguments), server.address)
            message = OscMessage(client.recv(65_535))
            return (message.address, *message.params)

        def send(address: str, *arguments: float | str) -> None:
            client.sendto(encode(address, arguments), server.address)
            assert ask("/vc/ping", 3) == ("/vc/pong", 3)

        try:
            send("/vc/midi/learn", "/vc/pitch", -3, 3)
            assert ask("/vc/midi/learn") == ("/vc/midi/learn", "/vc/pitch")
            desk.send([0xB0, 9, 5])
            wait_for(lambda: ask("/vc/midi/learn") == ("/vc/midi/learn", ""), "the touch")
            assert ask("/vc/midi/list") == ("/vc/midi/list", "control 9 on channel 1: /vc/pitch")
            desk.send([0xB0, 9, 0])
            wait_for(lambda: ask("/vc/pitch") == ("/vc/pitch", -3.0), "the pitch")
            for arguments, told in (
                (("/vc/volume",), "'/vc/volume' is nothing that MIDI steers"),
                (("/vc/pitch", 30), "pitch_shift must be between -24 and 24"),
                (("/vc/pitch", 1, 2, 3), "/vc/pitch takes a value, or low and high, got 3 arguments"),
                (("/vc/voice", "some/where.voice"), "a name is needed, not a path"),
                (("/vc/preset/load", "../x"), "a name is needed, not a path"),
                (("/vc/panic", "x"), "/vc/panic needs no value"),
                ((1.0,), "an address is needed, got 1.0"),
            ):
                assert told in str(ask("/vc/midi/learn", *arguments)[2])
            send("/vc/midi/learn", "/vc/mix")
            send("/vc/midi/learn", "")
            assert desk.midi.learning == ""
            send("/vc/midi/forget", "/vc/pitch")
            assert ask("/vc/midi/list") == ("/vc/midi/list",)
            assert not read_map(desk.file).bindings
        finally:
            server.close()


@needs_jack
@needs_rtmidi
def test_a_lesson_waits_for_a_touch_that_fits(desk: Desk) -> None:
    desk.midi.learn("/vc/preset/load", "choir")
    desk.send([0xE0, 0, 10])
    wait_for(lambda: desk.told, "the refusal")
    assert desk.told == ["MIDI: this cannot be bound: the wheel has no number and no value, and moves numbers alone"]
    assert desk.midi.learning == "/vc/preset/load"
    desk.send([0x90, 40, 1])
    wait_for(lambda: not desk.midi.learning, "the key")
    desk.send([0x90, 40, 1])  # choir's voice is of no pack that is there: told, and nothing ends
    desk.teach("/vc/mix", touch=[0xB0, 2, 0])
    desk.send([0xB0, 2, 127])
    desk.wait("mix", 1.0)
    for address in ADDRESSES:
        desk.midi.forget(address)
    assert not desk.midi.bindings.bindings


@needs_jack
@needs_rtmidi
def test_a_controller_that_is_unplugged_is_waited_for(jack_here: None, tmp_path: Path) -> None:
    import rtmidi

    def plugged() -> rtmidi.MidiOut:
        controller = rtmidi.MidiOut(rtmidi.API_UNIX_JACK, name="keys")
        controller.open_virtual_port("out")
        return controller

    with pytest.raises(MidiError, match="'KEYS' is no MIDI port, there are none"):
        MidiPort("KEYS")
    controller = plugged()
    with ExitStack() as stack:
        surface, told = ControlSurface(SignalPath(VoiceConverter("bank_a"), 48_000, 256)), list[str]()
        midi = MidiControl(surface, "KEYS", told.append, path=tmp_path / "midi.json")
        stack.callback(midi.close)
        assert midi.port == "keys:out"
        shown = CliRunner().invoke(app, ["live", "--midi-list"], env={"XDG_DATA_HOME": str(tmp_path)})
        assert shown.stdout.splitlines()[0] == "0 keys:out"
        midi.learn("/vc/mix")
        controller.send_message([0xB0, 7, 1])
        wait_for(lambda: not midi.learning, "the touch")
        controller.close_port()
        controller.delete()
        wait_for(lambda: not midi.port, "the loss to be noticed")
        controller = plugged()
        wait_for(lambda: midi.port, "the controller to be found again")
        stack.callback(controller.delete)
        controller.send_message([0xB0, 7, 0])
        wait_for(lambda: surface.value("mix") == 0.0, "the knob")
    assert told[1:] == ["MIDI: keys:out went away; trying to get it back", "MIDI: keys:out is there"]
