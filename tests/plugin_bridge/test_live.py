"""Live conversion on a real JACK server without a sound card: what is heard, how late, and what it outlives."""

import atexit
import gc
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from jack_server import BLOCK, RATE, SERVER, jack, jack_server, needs_jack, needs_portaudio, wait_for
from jack_server import jack_environment as jack_environment
from memory import allocated
from numpy.typing import NDArray
from pedalboard.io import AudioFile
from pythonosc.osc_message import OscMessage
from websockets.sync.client import connect

import plugin_bridge
from dsp.ring import AudioRing
from plugin_bridge import Board, VoiceConverter, performance
from plugin_bridge.control import ControlSurface
from plugin_bridge.demo import demo_phrase
from plugin_bridge.live import (
    FREEZE_SECONDS,
    Clock,
    Device,
    LiveError,
    LiveHost,
    Opened,
    Overload,
    ServerLostError,
    find_device,
)
from plugin_bridge.osc import OscServer
from plugin_bridge.osc_packets import encode
from plugin_bridge.preset import PLAIN_CHAIN, Effect
from plugin_bridge.signal_path import Changes, SignalPath
from plugin_bridge.take import TakeRecorder
from plugin_bridge.timeline import read_timeline, replay

PLAYER = Path(__file__).with_name("jack_player.py")
CLIENT = Path(__file__).with_name("osc_client.py")
FLOOD = Path(__file__).with_name("osc_flood.py")
CHAIN = (
    Effect(plugin="HighpassFilter", values={"cutoff_frequency_hz": 90}),
    *PLAIN_CHAIN,
    Effect(plugin="Compressor", values={"threshold_db": -20, "ratio": 3}),
    Effect(plugin="Delay", values={"delay_seconds": 0.05, "mix": 0.3}),
)


@pytest.fixture(scope="module")
def jack_here(jack_environment: None) -> Iterator[None]:
    """A JACK server that this process's PortAudio knows."""
    import sounddevice

    with jack_server():
        sounddevice._terminate()
        sounddevice._initialize()
        yield
        sounddevice._terminate()  # before the server goes: PortAudio does not outlive it
    sounddevice._initialize()


class Rig:
    """A host on the server, with a player (of noise, if nothing else is said) at its input, recording."""

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        voice: str = "bank_a",
        *,
        audio: NDArray[np.float32] | None = None,
        freewheel: bool = False,
        slow: float = 0.0,
        steered: bool = False,
    ) -> None:
        device = Device("system", "system", block_size=BLOCK)
        opened = find_device(device)
        chain = CHAIN if freewheel else PLAIN_CHAIN
        self.path = SignalPath(VoiceConverter(voice), opened.sample_rate, BLOCK, opened.outputs, chain)
        self.surface = ControlSurface(self.path)
        self.recorder = TakeRecorder(folder / "take.wav", self.path)
        self.host = LiveHost(device, opened, self.path, recorder=self.recorder, freewheel=freewheel)
        if steered:  # before it starts, as in a performance
            self.server = OscServer(self.surface)
            stack.callback(self.server.close)
        stack.callback(self.host.close)
        self.host.start()
        played = folder / "played.npy"
        noise = np.random.default_rng(2).uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)
        np.save(played, noise if audio is None else audio)
        command = [sys.executable, str(PLAYER), str(played), str(slow)]
        player = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
        stack.callback(player.kill)
        assert player.stdout is not None
        assert player.stdout.readline() == b"playing\n"
        ports = jack("jack_lsp").stdout.split()
        self.inlet, self.outlet, self.played = (
            next(port for port in ports if port.startswith(start))
            for start in ("PortAudio:in_", "PortAudio:out_", "PortAudio-01:out_")
        )
        jack("jack_disconnect", "system:capture_1", self.inlet)
        jack("jack_connect", self.played, self.inlet)
        self.runs_on(20)

    def runs_on(self, blocks: int) -> None:
        """Wait until so many blocks more have gone through."""
        end = self.path.position + blocks * BLOCK
        wait_for(lambda: self.path.position >= end, "audio to flow")

    def take(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The dry and the wet recording, once closed."""
        self.host.close()
        assert self.recorder.problem == ""
        assert self.recorder.lost == 0
        with AudioFile(str(self.recorder.dry_target)) as dry, AudioFile(str(self.recorder.target)) as wet:
            return dry.read(dry.frames)[0], wet.read(wet.frames)


@needs_jack
def test_a_freewheeling_server_hears_what_is_rendered_offline_bit_for_bit(jack_here: None, tmp_path: Path) -> None:
    with ExitStack() as stack:
        rig = Rig(tmp_path, stack, freewheel=True, slow=0.001)
        jack("jack_freewheel", "y")
        stack.callback(jack, "jack_freewheel", "n")
        rig.runs_on(200)
        changed = rig.path.position
        rig.surface.change({"voice": "bank_b", "pitch_shift": 3.0})
        rig.runs_on(50)
        rig.surface.change({"ramp_ms": 300.0})
        rig.surface.change({"gain_db": -9.0, "chain": PLAIN_CHAIN})
        rig.runs_on(100)
        rig.surface.change({"voice": "delay512", "panic": True})
        rig.runs_on(200)
        jack("jack_freewheel", "n")
        dry, wet = rig.take()
        late = rig.path.latency_samples
    assert len(dry) == wet.shape[1] >= 570 * BLOCK
    assert np.abs(dry[changed - 100 * BLOCK : changed]).max() > 0.4, "the player was heard"
    board = Board([CHAIN[0].build(RATE), VoiceConverter("bank_a"), CHAIN[2].build(RATE), CHAIN[3].build(RATE)])
    offline = board(dry[: changed - BLOCK], RATE)
    np.testing.assert_array_equal(wet[0, late : changed - BLOCK], offline[: changed - BLOCK - late])
    # The whole take, with every gesture on its sample.
    timeline = read_timeline(rig.recorder.timeline_target)
    assert [event.address for event in timeline.events if event.time > 0][:2] == ["/vc/voice", "/vc/pitch"]
    np.testing.assert_array_equal(replay(timeline, dry), wet)


@needs_jack
def test_the_reported_round_trip_is_what_jack_measures(jack_here: None, tmp_path: Path) -> None:
    with ExitStack() as stack:
        rig = Rig(tmp_path, stack, voice="delay512")
        status = rig.host.status()
        assert status.latency_samples == 512  # 256 of the chunk's, 256 of the model's look-ahead
        meter = stack.enter_context(subprocess.Popen(["stdbuf", "-oL", "jack_iodelay"], stdout=subprocess.PIPE, text=True))
        stack.callback(meter.kill)
        wait_for(lambda: "jack_delay:in" in jack("jack_lsp").stdout, "jack_iodelay")
        jack("jack_disconnect", rig.played, rig.inlet)
        jack("jack_disconnect", rig.outlet, "system:playback_1")
        jack("jack_connect", "jack_delay:out", rig.inlet)
        jack("jack_connect", rig.outlet, "jack_delay:in")
        assert meter.stdout is not None
        measured: list[float] = []
        end = time.monotonic() + 60
        # The first numbers after connecting, and those after a lost block, are not settled.
        while len(measured) < 3 or len(set(measured[-3:])) > 1:
            line = meter.stdout.readline()
            assert line and time.monotonic() < end, f"jack_iodelay measured {measured}"
            if found := re.match(r"\s*([\d.]+) frames .* total roundtrip latency", line):
                measured.append(float(found[1]))
    assert measured[-1] == status.round_trip_samples == status.round_trip_ms * RATE / 1000
    assert status.round_trip_samples - 512 == 2 * BLOCK  # the device's own part


@needs_jack
def test_an_error_is_a_silent_block_and_the_stream_goes_on(jack_here: None, tmp_path: Path) -> None:
    with ExitStack() as stack:
        rig = Rig(tmp_path, stack)
        process, failures = rig.path.process, iter(range(3))

        def failing(source: NDArray[np.float32], out: NDArray[np.float32]) -> None:
            if next(failures, None) is not None:
                raise RuntimeError("broken")
            process(source, out)

        rig.path.process = failing  # type: ignore[method-assign]
        rig.runs_on(20)
        status = rig.host.status()
        assert (status.errors, status.running, rig.host.last_error) == (3, True, "RuntimeError('broken')")


@needs_jack
def test_after_an_overload_the_latency_is_what_it_was(jack_here: None, tmp_path: Path) -> None:
    with ExitStack() as stack:
        rig = Rig(tmp_path, stack, voice="delay512")
        process = rig.path.process
        slow = True

        def sleeping(source: NDArray[np.float32], out: NDArray[np.float32]) -> None:
            if slow:
                time.sleep(0.015)
            process(source, out)

        rig.path.process = sleeping  # type: ignore[method-assign]
        wait_for(lambda: rig.host.skipped, "blocks to be left out")
        slow = False
        wait_for(lambda: not rig.host.overload.skips(), "the debt to be paid")
        skipped, calm = -1, 0
        while skipped != rig.host.skipped:  # on a busy machine it may happen again
            skipped, calm = rig.host.skipped, rig.path.position
            rig.runs_on(100)
        end = rig.path.position
        assert rig.host.status().running
        dry, wet = rig.take()
    start = calm + 512 + 1440 + 10 * BLOCK  # muted for the latency, then a fade of 30 ms
    np.testing.assert_array_equal(wet[0, start:end], dry[start - 512 : end - 512])
    assert np.abs(wet[0, start:end]).max() > 0.4


@needs_jack
def test_a_server_that_dies_is_waited_for_and_everything_is_as_it_was(
    jack_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JACK_DEFAULT_SERVER", f"{SERVER}-mortal")  # the other tests' goes on
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        client.settimeout(0.5)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken, socket.socket() as taken_too:
            taken.bind(("127.0.0.1", 0))
            taken_too.bind(("127.0.0.1", 0))
            port, web_port = taken.getsockname()[1], taken_too.getsockname()[1]

        def ask(address: str, *arguments: float) -> tuple[object, ...]:
            client.sendto(encode(address, arguments), ("127.0.0.1", port))
            with suppress(OSError):
                while True:
                    message = OscMessage(client.recv(65_535))
                    if message.address == address:
                        return tuple(message.params)
            return ()

        def running() -> bool:
            status = ask("/vc/status")
            return bool(status) and dict(zip(status[::2], status[1::2], strict=True))["running"] == 1

        options = ["--input", "system", "--output", "system", "--voice", "bank_a", "--osc-port", str(port)]
        options += ["--web-host", "0.0.0.0", "--web-port", str(web_port)]
        # As `plugin-bridge` begins, in a folder with a file that is called like ours.
        script = tmp_path / "bin" / "plugin-bridge"
        script.parent.mkdir()
        script.write_text("from plugin_bridge.cli import main\nif __name__ == '__main__':\n    main()\n")
        (tmp_path / "plugin_bridge.py").touch()
        command = [sys.executable, str(script), "live", *options, "--record", "take.wav"]
        if find_spec("rtmidi") is not None:
            command += ["--midi", "virtual"]
        with ExitStack() as stack:
            with jack_server() as server:
                live = stack.enter_context(
                    # Tests that run in the background ignore Ctrl-C, and so would all that they start.
                    subprocess.Popen(
                        command,
                        cwd=tmp_path,
                        env={**os.environ, "PYTHONPATH": str(Path(plugin_bridge.__file__).parents[1])},
                        stderr=subprocess.PIPE,
                        text=True,
                        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                    )
                )
                stack.callback(live.kill)
                wait_for(running, "live conversion")
                wait_for(lambda: ask("/vc/pitch", 5.0) == (5.0,), "the new pitch")
                server.send_signal(signal.SIGKILL)
                server.wait()
                wait_for(lambda: not running(), "the loss to be noticed")
            with jack_server():
                wait_for(running, "live conversion again")
                wait_for(lambda: ask("/vc/pitch") == (5.0,), "the pitch as it was")
                while live.poll() is None:  # impatiently
                    live.send_signal(signal.SIGINT)
                    time.sleep(0.02)
                told = live.communicate(timeout=60)[1]
    assert "OSC on 127.0.0.1" in told
    # The same token: pages that are open come back.
    before, after = re.findall(rf"page at (http://\S+:{web_port}/\?token=\S+) ,", told)
    assert before == after
    assert "system went away; trying to get it back" in told
    assert f"system is back, {RATE} Hz, 512 samples" in told
    assert told.splitlines()[-1].startswith("plugin-bridge: recorded ")
    assert "Traceback" not in told
    assert live.returncode == 0
    assert read_timeline(tmp_path / "take.json").events
    assert json.loads((tmp_path / "take-2.json").read_text())["sample_rate"] == RATE


@needs_jack
def test_the_page_steers_a_live_conversion(jack_here: None, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    options = ["--input", "system", "--output", "system", "--voice", "bank_a", "--osc-port", "0", "--web-port", "0"]
    options += ["--record", str(tmp_path / "file" / "take.wav")]
    with ExitStack() as stack:
        live = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "plugin_bridge", "live", *options],
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )
        stack.callback(live.kill)
        assert live.stderr is not None
        told = ""
        while not (found := re.search(r"page at http://(127\.0\.0\.1:\d+)/ , open to this computer alone", told)):
            line = live.stderr.readline()
            assert line, told
            told += line
        page = stack.enter_context(connect(f"ws://{found[1]}/socket", max_queue=None, open_timeout=60))

        def until(kind: str, wanted: Callable[[dict[str, Any]], object]) -> None:
            end = time.monotonic() + 60
            while (message := json.loads(page.recv(60)))["kind"] != kind or not wanted(message):
                assert time.monotonic() < end, f"waited in vain for {kind}"

        until("status", lambda status: status["running"] and status["latency_samples"] == 512 and status["load_median"] > 0)
        page.send(json.dumps({"do": "change", "name": "voice", "value": "bank_b"}))
        until("status", lambda status: status["voice"] == "bank_b")
        until("meters", lambda meters: meters["in"]["level_db"] == -90)
        while "could not be recorded" not in told:  # while something can be done about it
            line = live.stderr.readline()
            assert line, told
            told += line
        live.send_signal(signal.SIGINT)
        told += live.communicate(timeout=60)[1]
    assert live.returncode == 0
    assert "Traceback" not in told
    assert told.count("could not be recorded") == 1
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(found[1].split(":")[1])), 1).close()


@needs_portaudio
@pytest.mark.parametrize(
    ("device", "told"),
    [
        (Device(input="no such device"), "'no such device' is no input device"),
        (Device(input=9999), "9999 is no input device"),
    ],
)
def test_a_device_that_is_not_there_is_told_in_one_sentence(device: Device, told: str) -> None:
    with pytest.raises(LiveError) as refused:
        find_device(device)
    assert told in str(refused.value)
    assert "--list" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_process_in_anothers_place_begins_as_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "find_device", lambda device: Opened("none", RATE, 1, 1, "none"))
    monkeypatch.setattr(os, "execv", lambda program, arguments: None)
    wanted: Changes = {"voice": "bank_a", "pitch_shift": 3.0, "mix": 0.5, "bypass": True, "ramp_ms": 400.0, "chain": CHAIN}

    def begun() -> performance.Performance:
        return performance.Performance(Device(), voice="delay512", numbers={}, tell=lambda sentence: None)

    first = begun()
    for name, value in wanted.items():
        first.surface.change({name: value})
    first.restart_process()
    second = begun()
    assert {name: second.surface.value(name) for name in wanted} == wanted
    second.close()


@needs_portaudio
def test_a_server_that_ends_once_more_while_it_comes_back_is_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that ends while the first process begins is told of, and does not abort that."""
    monkeypatch.setattr(performance, "find_device", lambda device: Opened("none", RATE, 1, 1, "JACK Audio Connection Kit"))
    monkeypatch.setattr(performance.Performance, "_load_voices", lambda performance: None)
    left: list[object] = []
    monkeypatch.setattr(atexit, "unregister", left.append)
    for state, raised in (("", LiveError), (json.dumps({"preset": "", "events": [], "token": ""}), ServerLostError)):
        monkeypatch.setenv(performance.STATE_VARIABLE, state)
        told: list[str] = []
        begun = performance.Performance(Device(input="gone"), voice="bank_a", numbers={}, tell=told.append)
        with pytest.raises(LiveError, match="none cannot be opened at 48000 Hz") as refused:
            begun.run()
        begun.close()
        assert type(refused.value) is raised
        assert len(told) == (raised is ServerLostError)
    assert len(left) == 2


def arrays_of(root: object) -> dict[int, int]:
    """Where in memory the samples of every array lie that an object holds, directly or not."""
    found: dict[int, int] = {}
    seen, waiting = {id(root)}, [root]
    while waiting:
        for held in gc.get_referents(waiting.pop()):
            if id(held) in seen or isinstance(held, (type, ModuleType, FunctionType)):
                continue
            seen.add(id(held))
            waiting.append(held)
            if isinstance(held, np.ndarray):
                found[id(held)] = held.ctypes.data
    return found


def test_the_callback_works_in_the_memory_it_has() -> None:
    """With a voice that was trained, into two channels, with a monitor, while everything moves that needs no loading."""
    block = 4096
    path = SignalPath(VoiceConverter("pjs"), RATE, block, 2)
    opened = Opened("none", RATE, 1, 2, "none")
    # Freewheeling, so that a slow machine leaves nothing out.
    host = LiveHost(Device(block_size=block), opened, path, monitor=0.3, freewheel=True)
    source = np.random.default_rng(6).uniform(-0.3, 0.3, (block, 1)).astype(np.float32)
    out = np.empty((block, 2), np.float32)
    converter = path.converter

    def run(blocks: int) -> None:
        for number in range(blocks):
            converter.pitch_shift, converter.formant_shift = float(number % 3), float(number % 2)
            converter.mix, converter.gain_db = number % 5 / 5, -float(number % 4)
            converter.bypass, converter.gate_db = number % 7 == 0, -40.0 if number % 2 else -90.0
            host._callback(source, out, block, None, None)

    path.post(path.ready({"voice": "alys"}))
    run(5)
    path.post(path.ready({"panic": True}))
    run(10)
    before = arrays_of(host)
    kept, peak = allocated(run, 5, 25)
    assert (host.errors, host.skipped) == (0, 0)
    assert len(before) > 50
    assert arrays_of(host) == before
    assert kept < 25 * 50  # some bytes a block are the interpreter's own
    assert peak < 4 * block, "views and numbers pass through, never a block of samples"


@pytest.mark.parametrize("broken", [np.nan, np.inf, -1e33])
def test_broken_numbers_from_a_device_are_gone_with_their_block(broken: float) -> None:
    gate = Effect(plugin="NoiseGate", values={"threshold_db": -60, "attack_ms": 1})
    path = SignalPath(VoiceConverter("bank_a"), RATE, 256, chain=(gate, *PLAIN_CHAIN))
    tap = AudioRing(1, RATE)
    host = LiveHost(Device(), Opened("none", RATE, 1, 1, "none"), path, monitor=0.5, tap=tap, freewheel=True)
    source = np.random.default_rng(3).uniform(-0.3, 0.3, (400, 256, 1)).astype(np.float32)
    source[10, 100:110] = broken
    out = np.empty((256, 1), np.float32)
    for number in range(len(source)):
        host._callback(source[number], out, 256, None, None)
        assert np.isfinite(out).all()
    assert np.isfinite(tap.pull()[1]).all()
    assert np.abs(out - 0.5 * source[-1]).max() > 0.1, "the gate never opens again"


def test_lost_frames_are_counted_against_the_clock_and_jitter_is_not() -> None:
    chance = np.random.default_rng(4)
    clock, block, now = Clock(RATE), 256, 100.0
    for number in range(4000):
        now += block / RATE * 1.0001  # a sound card's clock is a little off
        if number in (1000, 2000, 2001, 2002):
            now += block / RATE  # a block that nobody processed
        clock.count(now + chance.exponential(0.001), block)
    assert clock.xruns == 4
    assert clock.lost == pytest.approx(4 * block, abs=block / 2)


def test_what_comes_late_in_a_burst_was_not_lost() -> None:
    clock, block, now = Clock(RATE), 512, 100.0
    for number in range(4000):
        due = 100.0 + number * block / RATE
        # As a sound server does that keeps much audio: a second late for a while, now and then, then all of that at once.
        now = max(now, due + (1.0 if 500 <= number % 1000 < 700 else 0.0))
        clock.count(now, block)
    assert (clock.xruns, clock.lost) == (0, 0.0)


def test_a_lasting_overload_is_paid_back_and_a_single_stall_is_not() -> None:
    overload, length = Overload(), 256 / RATE
    overload.spend(30.0, length)  # the lid was closed
    assert not overload.skips()
    overload.spend(0.0, length)
    late, skipped = 0.0, 0
    for _ in range(1000):
        if overload.skips():
            skipped += 1
            late = max(0.0, late - length)
            overload.spend(0.0, length)
        else:
            late += 0.5 * length
            overload.spend(1.5 * length, length)
        assert late < FREEZE_SECONDS + 2 * length  # never further behind
    assert skipped == pytest.approx(1000 / 3, rel=0.1)  # half a block paid back for each one processed


@needs_jack
@pytest.mark.slow
def test_ten_minutes_steered_over_osc_lose_nothing_that_is_not_counted(
    jack_here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Voices of two packs, one of them trained, a sung phrase, and another program at the controls, twice a second."""
    seconds = 600
    voices = ("kerstin", "bank_b", "alys", "bank_a", "pjs")
    phrase, rate = demo_phrase()
    assert rate == RATE
    with ExitStack() as stack:
        rig = Rig(tmp_path, stack, voice="pjs", audio=phrase[0], steered=True)
        command = [sys.executable, str(CLIENT), str(rig.server.address[1])]
        client = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, text=True))
        stack.callback(client.kill)
        assert client.stdin is not None
        rig.runs_on(100)
        begun, first, lost, skipped = time.monotonic(), rig.path.position, rig.host.clock.lost, rig.host.skipped
        early = sent = 0
        while time.monotonic() - begun < seconds:
            voice, pitch = voices[sent % len(voices)], sent % 25 - 12
            client.stdin.write(f"{voice} {pitch}\n")
            client.stdin.flush()
            sent += 1
            wait_for(lambda: (rig.surface.voice_text, rig.surface.value("pitch_shift")) == (voice, pitch), "both")  # noqa: B023
            time.sleep(0.5)
            if not early and time.monotonic() - begun > seconds / 10:
                early = resident()
        late, elapsed = resident(), time.monotonic() - begun
        status = rig.host.status()
        taken, lost, skipped = rig.path.position - first, rig.host.clock.lost - lost, rig.host.skipped - skipped
        dry, wet = rig.take()
    again = replay(read_timeline(rig.recorder.timeline_target), dry)
    due = elapsed * RATE
    with capsys.disabled():
        print(
            f"\n{elapsed:.1f} s, {sent} voices and pitches, {taken} frames taken ({skipped} of them left out as late), "
            f"{lost:.0f} lost by the device in {status.xruns} blocks, {due - taken - lost:.0f} more or less than "
            f"the clock's; load {status.load_median:.0%}, p99 {status.load_p99:.0%}; memory {early / 2**20:.0f} MiB after a "
            f"tenth, {late / 2**20:.0f} at the end; {status.errors} errors"
        )
    # Each frame was taken, or counted as lost, to a second in ten minutes.
    assert taken + lost == pytest.approx(due, abs=RATE)
    assert lost + skipped <= 0.01 * due, "on two cores with nothing else to do; measured 0.003"
    assert sent > 100
    assert status.errors == 0
    assert late - early < 16 * 2**20
    np.testing.assert_array_equal(again, wet)


@needs_jack
@pytest.mark.slow
def test_neither_a_flood_of_messages_nor_recording_costs_blocks(
    jack_here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seconds with and without in turn, so that whatever else the computer does is in all of them.

    What it does comes in bursts, tens of blocks now in one kind and now in another; what a flood costs, every second of it does.
    So the medians of the windows are compared beside the sums.
    """
    kinds, rounds = ("quiet", "hostile", "valid", "unrecorded"), 9
    lost: dict[str, list[float]] = {kind: [] for kind in kinds}
    due: dict[str, list[float]] = {kind: [] for kind in kinds}
    sent = 0
    with ExitStack() as stack:
        rig = Rig(tmp_path, stack, voice="pjs", audio=demo_phrase()[0][0], steered=True)
        command = [sys.executable, str(FLOOD), str(rig.server.address[1])]
        flood = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        stack.callback(flood.kill)
        assert flood.stdin is not None
        assert flood.stdout is not None
        rig.runs_on(100)
        for number in range(len(kinds) * rounds):
            kind = kinds[(number + number // len(kinds)) % len(kinds)]
            time.sleep(0.2)
            begun, first = time.monotonic(), rig.path.position
            if kind in ("hostile", "valid"):
                flood.stdin.write(f"{kind}\n")
                flood.stdin.flush()
                sent += int(flood.stdout.readline())
            else:
                rig.host._recorder = rig.recorder if kind == "quiet" else None
                time.sleep(2)
                rig.host._recorder = rig.recorder
            frames = (time.monotonic() - begun) * RATE
            due[kind].append(frames)
            lost[kind].append(frames - (rig.path.position - first))
        counters, status = rig.server.counters, rig.host.status()
    with capsys.disabled():
        told = ", ".join(f"{kind} {sum(lost[kind]) / BLOCK:.1f} of {sum(due[kind]) / BLOCK:.0f}" for kind in kinds)
        print(f"\nblocks lost: {told}; {sent} packets sent, {counters}, load p99 {status.load_p99:.0%}")
    assert counters.packets > 10_000
    assert counters.failed == status.errors == 0
    for kind in kinds:
        assert sum(lost[kind]) <= sum(lost["quiet"]) + 0.01 * sum(due[kind]), "one in a hundred may be chance"
        assert np.median(lost[kind]) <= np.median(lost["quiet"]) + 0.01 * np.median(due[kind]), "one in a hundred may be chance"


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
