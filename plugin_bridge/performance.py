"""A live performance: device, signal path, OSC, page and recording put together, run and taken down again."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from plugin_bridge.companion import is_loopback
from plugin_bridge.control import ControlSurface, Status
from plugin_bridge.converter import Voice, VoiceConverter
from plugin_bridge.live import Device, LiveError, LiveHost, Opened, ServerLostError, find_device, load_sounddevice
from plugin_bridge.midi_control import MidiControl
from plugin_bridge.midi_map import parse_lesson
from plugin_bridge.osc import OscServer
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.preset import PLAIN_CHAIN, find_preset
from plugin_bridge.signal_path import Change, SignalPath
from plugin_bridge.take import TakeRecorder
from plugin_bridge.timeline import CHAIN, Event, events_of
from plugin_bridge.voices import find_voice, voices
from plugin_bridge.web.page import Page

STATUS_SECONDS = 10.0
RETRY_SECONDS = 1.0
# Holds what was on, as JSON, when a process takes another's place.
STATE_VARIABLE = "PLUGIN_BRIDGE_LIVE_STATE"


class Performance:
    """Everything that `plugin-bridge live` runs.

    Parameters
    ----------
    device : Device
    voice : str, mapping or None
        None: the preset's, or the default.
    preset : str or None
    numbers : mapping of str to float
        Parameters, before those of the preset.
    monitor : float
        See `LiveHost`.
    midi : str or None
        See `MidiPort`.
    lessons : sequence of str
        What the first touches of the MIDI controller are bound to, as `midi_map.parse_lesson` takes it.
    record : Path or None
        See `TakeRecorder`.
    osc, web : (str, int) or None
        Host and port to listen on, for OSC and for the page.
    freewheel : bool
        See `LiveHost`.
    tell : callable
        Takes sentences for the performer.

    Raises
    ------
    ValueError, TypeError, OSError
        With a sentence, if something asked for is not there or the port is taken.
    """

    def __init__(
        self,
        device: Device,
        *,
        voice: Voice | None = None,
        preset: str | None = None,
        numbers: Mapping[str, float],
        monitor: float = 0.0,
        record: Path | None = None,
        midi: str | None = None,
        lessons: Sequence[str] = (),
        osc: tuple[str, int] | None = None,
        web: tuple[str, int] | None = None,
        freewheel: bool = False,
        tell: Callable[[str], None],
    ) -> None:
        self._tell = tell
        state = os.environ.pop(STATE_VARIABLE, "")
        self._again = bool(state)
        found = None if preset is None else find_preset(preset)
        settings = {**({} if found is None else found.numbers()), **numbers}
        if voice is None:
            voice = str(PARAMETERS["voice"].default) if found is None or found.voice is None else found.voice
        converter = VoiceConverter(voice)
        for name, value in settings.items():
            setattr(converter, name, value)
        opened = _wait_for(device) if state else find_device(device)
        with ExitStack() as stack:
            block = device.block_size or None
            chain = PLAIN_CHAIN if found is None else found.chain
            path = SignalPath(converter, opened.sample_rate, block, opened.outputs, chain)
            self.surface = ControlSurface(path, preset or "")
            if state:
                self._restore(state)
            recorder = None
            if record is not None:
                recorder = TakeRecorder(_free(record) if state else record, path)
                stack.callback(recorder.close)
            self._recorder = recorder
            self._problem_told = ""
            self.page = None
            if web is not None:
                # The pages that are open know the token of the process whose place this one took.
                self.page = Page(self.surface, *web, token=json.loads(state)["token"] if state else "", tell=tell)
                stack.callback(self.page.close)
            tap = None if self.page is None else self.page.tap
            self.host = LiveHost(
                device, opened, path, monitor=monitor, recorder=recorder, tap=tap, freewheel=freewheel, tell=tell
            )
            self.surface.status = self.host.status
            self.server = None
            self.midi = None
            if midi is not None:
                self.midi = MidiControl(self.surface, midi, tell, wait=bool(state))
                stack.callback(self.midi.close)
                # A process in another's place has learned already.
                for address, arguments in map(parse_lesson, () if state else lessons):
                    self.midi.learn(address, *arguments)
            if osc is not None:
                try:
                    self.server = OscServer(self.surface, *osc, midi=self.midi, tell=tell)
                except OSError as error:
                    raise OSError(f"OSC cannot listen on {osc[0]} port {osc[1]}: {error}") from None
                stack.callback(self.server.close)
                if self.server.query_problem:
                    port, reason = self.server.address[1], self.server.query_problem
                    tell(f"there is no OSCQuery: TCP port {port} cannot be listened on ({reason})")
            stack.callback(self._end)
            self._stack = stack.pop_all()

    def run(self) -> None:
        """Perform until interrupted; LiveError if the device cannot be opened, ServerLostError if a JACK server ended."""
        self._load_voices()
        try:
            self.host.start()
        except ServerLostError as error:
            if not self._again:
                raise LiveError(str(error)) from None
            self._tell(f"{error}; trying again")  # a server that comes back may end again
            raise
        status = self.host.status()
        back = " is back" if self._again else ""
        self._tell(f"{status.device}{back}, {status.sample_rate:g} Hz, {_latency(status)}")
        if self.midi is not None:
            self._tell(f"MIDI from {self.midi.port or 'a port that is not there yet'}{_lesson(self.midi.learning)}")
        if self.server is not None:
            host, port = self.server.address
            open_to = "this computer alone (--osc-host opens it)" if is_loopback(host) else "everybody in its network"
            self._tell(f"OSC on {host} port {port}, open to {open_to}")
        if self.page is not None:
            open_to = "whoever has this address" if self.page.token else "this computer alone (--web-host opens it)"
            self._tell(f"page at {self.page.address} , open to {open_to}")
        told = time.monotonic()

        def ended() -> bool:
            nonlocal told
            self._tell_problem()
            if sys.stderr.isatty() and time.monotonic() - told > STATUS_SECONDS:
                told = time.monotonic()
                self._tell(_line(self.host.status()))
            return False

        self.host.watch(ended)

    def _tell_problem(self) -> None:
        """What is not recorded any more is told when it happens, while something can be done about it; and once."""
        recorder = self._recorder
        if recorder is not None and recorder.problem != self._problem_told:
            self._problem_told = recorder.problem
            self._tell(recorder.problem)

    def _load_voices(self) -> None:
        """Load every pack, so that no change of voice has to; what is broken is told when it is asked for."""
        for name in voices():
            with suppress(ValueError):
                find_voice(name).pack.stream_model()

    def close(self) -> None:
        """Stop, and complete the recording."""
        self._stack.close()

    def _end(self) -> None:
        status = self.host.status()
        self.host.close()
        if status.load_median == status.load_median:  # not before the first block
            self._tell(_line(status))
        if self.host.last_error:
            self._tell(f"blocks became silence, the last because of {self.host.last_error}")
        recorder = self._recorder
        if recorder is not None:
            recorder.close()
            self._tell_problem()
            if recorder.samples and not recorder.problem:
                self._tell(f"recorded {recorder.target}, {recorder.dry_target.name} and {recorder.timeline_target.name}")
            if recorder.lost:
                self._tell(f"{recorder.lost} samples of the recording are missing: the disk was too slow")

    def restart_process(self) -> None:
        """Begin again as a new process that waits for the device, with everything as it is now. Does not return."""
        values = {name: self.surface.value(name) for name in (*PARAMETERS, "ramp_ms", "chain")}
        events = [event.model_dump(mode="json") for event in events_of([(0, values)], 1.0)]
        self.close()
        token = "" if self.page is None else self.page.token
        os.environ[STATE_VARIABLE] = json.dumps({"preset": self.surface.preset, "events": events, "token": token})
        sys.stdout.flush()
        sys.stderr.flush()
        # As this one was begun: `-m` would take what lies in the present folder for our packages.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

    def _restore(self, state: str) -> None:
        kept = json.loads(state)
        self.surface.preset = kept["preset"]
        changes: dict[str, Change] = {}
        for given in kept["events"]:
            event = Event.model_validate_json(json.dumps(given))
            if event.address != CHAIN or event.changes()["chain"] != self.surface.path.chain:
                changes |= event.changes()
        self.surface.change(changes)  # together: a shift is for the voice that it comes with


def _wait_for(device: Device) -> Opened:
    sounddevice = load_sounddevice()
    while True:
        with suppress(LiveError):
            return find_device(device)
        time.sleep(RETRY_SECONDS)
        # PortAudio looks for devices, and for a JACK server, when it starts.
        sounddevice._terminate()
        sounddevice._initialize()


def _free(path: Path) -> Path:
    """`path`, or the first of its name with a number that no recording has."""
    number = 2
    free = path
    while free.exists():
        free = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return free


def _latency(status: Status) -> str:
    ours = f"{status.latency_samples} samples ({status.latency_ms:.1f} ms) of conversion"
    if status.round_trip_ms == status.round_trip_ms:
        return f"{ours}, {status.round_trip_ms:.1f} ms round trip"
    return ours


def _lesson(address: str) -> str:
    return f"; touch what is to steer {address}" if address else ""


def _line(status: Status) -> str:
    load = f"load {100 * status.load_median:.0f} % (one block in a hundred {100 * status.load_p99:.0f} %)"
    return f"{status.voice}: {load}, {status.xruns} blocks lost, {status.skipped} samples skipped, {status.errors} errors"
