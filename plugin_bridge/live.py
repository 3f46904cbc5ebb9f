"""Live conversion: a duplex stream of a sound card through a signal path, watched over and recorded."""

from __future__ import annotations

import atexit
import gc
import importlib
import math
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dsp.ring import AudioRing
from dsp.smoothing import add
from plugin_bridge.control import Status
from plugin_bridge.doctor import portaudio_remedy, priority_remedy
from plugin_bridge.engine import HIGHEST_SAMPLE
from plugin_bridge.priority import hurried_threads, hurry_audio
from plugin_bridge.signal_path import SignalPath
from plugin_bridge.voices import voice_text

if TYPE_CHECKING:
    from plugin_bridge.take import TakeRecorder

# A thread that computes in Python hands the interpreter over after so many seconds at the latest. With Python's 5 ms the
# callback of a 256-sample block at 48 kHz misses its time again and again (84 xruns in 4 s measured), with this it does not.
SWITCH_SECONDS = 0.0005

# When processing is behind by this much, the path is left out for as long: less would make a hiccup of every rough moment
# of the system, more would make longer freezes.
FREEZE_SECONDS = 0.05

WINDOW_SECONDS = 0.5  # in which lost frames show against the clock
LOADS = 2048  # of the latest blocks, for the percentiles
STALL_SECONDS = 2.0  # without a callback: the device is gone
RETRY_SECONDS = 1.0
# PortAudio states nonsense for some drivers: no device is this late.
LONGEST_DEVICE_LATENCY_SECONDS = 10.0


class LiveError(ValueError):
    """A device is not there or does not do what is asked; the message is one sentence."""


class ServerLostError(LiveError):
    """The JACK server ended, or does before its stream is open.

    PortAudio ends the process when it is asked to look for another, so that takes a new one.
    """


@dataclass(frozen=True)
class Device:
    """What to open.

    Attributes
    ----------
    input, output : int, str or None
        An index, part of a name (case does not matter), or the system's choice.
    input_channel : int
        Counted from 1.
    sample_rate : float or None
        Hz; None is the input device's own.
    block_size : int
        Samples; 0 leaves it to the device, block by block.
    """

    input: int | str | None = None
    output: int | str | None = None
    input_channel: int = 1
    sample_rate: float | None = None
    block_size: int = 256


def load_sounddevice() -> ModuleType:
    """The library, which needs PortAudio; LiveError says how to get that."""
    try:
        return importlib.import_module("sounddevice")
    except (ImportError, OSError) as error:
        raise LiveError(f"live conversion needs PortAudio ({error}): {portaudio_remedy()}") from None


def list_devices() -> str:
    """All devices, one on a line, with the index and the name to choose them by."""
    return str(load_sounddevice().query_devices())


@dataclass(frozen=True)
class Opened:
    """A device as it was found: what a path must be made for."""

    name: str
    sample_rate: float
    inputs: int
    outputs: int
    host_api: str


def find_device(device: Device) -> Opened:
    """Look a device up.

    Raises
    ------
    LiveError
        If it is not there, or does not have the input channel.
    """
    sounddevice = load_sounddevice()
    found = []
    for kind, wanted in (("input", device.input), ("output", device.output)):
        try:
            found.append(sounddevice.query_devices(wanted, kind))
        except (ValueError, sounddevice.PortAudioError) as error:
            shown = "the default" if wanted is None else repr(wanted)
            raise LiveError(
                f"{shown} is no {kind} device ({_first_line(error)}); plugin-bridge live --list shows what there is"
            ) from None
    source, target = found
    if not 1 <= device.input_channel <= source["max_input_channels"]:
        raise LiveError(
            f"{source['name']} has {source['max_input_channels']} input channels, so there is no channel {device.input_channel}"
        )
    if not target["max_output_channels"]:
        raise LiveError(f"{target['name']} has no outputs")
    return Opened(
        name=source["name"] if source["name"] == target["name"] else f"{source['name']} > {target['name']}",
        sample_rate=source["default_samplerate"] if device.sample_rate is None else device.sample_rate,
        inputs=device.input_channel,
        outputs=min(2, target["max_output_channels"]),
        host_api=sounddevice.query_hostapis(source["hostapi"])["name"],
    )


class Clock:
    """Counts frames against time: those that a device lost show as time without frames.

    A callback is called late now and then, never early, so that the least lateness in a window is a steady mark; when it
    rises by more than half a block from one window to the next, frames were lost. Drift between the clocks of the computer
    and of the sound card (some 0.01 %) is far below that. When it falls as much, what was missed came after all, in a burst.
    """

    def __init__(self, sample_rate: float) -> None:
        self._sample_rate = sample_rate
        self.lost = 0.0  # frames
        self.xruns = 0  # blocks
        self.restart()

    def restart(self) -> None:
        """Begin anew, as after a device came back; what was counted stays."""
        self._frames = 0
        self._least = math.inf
        self._mark: float | None = None
        self._window_end = -math.inf

    def count(self, now: float, frames: int) -> None:
        """A block of `frames` was handed over at `now`, in seconds."""
        lateness = now - self._frames / self._sample_rate
        self._frames += frames
        self._least = min(self._least, lateness)
        if self._window_end == -math.inf:
            self._window_end = now + WINDOW_SECONDS
        if now < self._window_end:
            return
        if self._mark is not None:
            rise = (self._least - self._mark) * self._sample_rate
            if abs(rise) > frames / 2:
                self.lost = max(0.0, self.lost + rise)
                self.xruns = max(0, self.xruns + (round(rise / frames) or (1 if rise > 0 else -1)))
        self._mark, self._least = self._least, math.inf
        self._window_end = now + WINDOW_SECONDS


class Overload:
    """Says when processing is so late that it must be left out, so that delay does not build up.

    Time that blocks took beyond their own length is a debt, time to spare pays it back. Above `FREEZE_SECONDS` blocks are
    skipped until it is paid. A single block counts twice its length at most: when the whole computer stood still, the device
    has dropped what came late already.
    """

    def __init__(self) -> None:
        self.debt = 0.0
        self._skipping = False

    def spend(self, seconds: float, length: float) -> None:
        """A block of `length` seconds took `seconds`."""
        self.debt = max(0.0, self.debt + min(seconds, 2 * length) - length)

    def skips(self) -> bool:
        """Whether the next block is to be left out."""
        self._skipping = self.debt > (0.0 if self._skipping else FREEZE_SECONDS)
        return self._skipping


class LiveHost:
    """Runs a `SignalPath` on a device until it is closed, whatever happens to the device or in the path.

    The audio callback copies, calls the path and copies; it waits for nothing and writes to no file. An error becomes a
    silent block and a count. While the path is too slow for the block, blocks are left out (the source is heard instead, if
    it is monitored) and what comes late is dropped, so that the latency is what it was.

    Parameters
    ----------
    device : Device
    opened : Opened
        From `find_device`; the path is made for its rate and outputs.
    path : SignalPath
    monitor : float
        0 to 1: how much of the source is heard at once, beside the converted voice.
    recorder : TakeRecorder, optional
    tap : AudioRing, optional
        Gets source and converted voice, for meters.
    freewheel : bool
        True where the device has no clock (a JACK server that renders): then nothing is ever too late.
    tell : callable
        Takes a sentence when a device goes away or comes back.
    """

    def __init__(
        self,
        device: Device,
        opened: Opened,
        path: SignalPath,
        *,
        monitor: float = 0.0,
        recorder: TakeRecorder | None = None,
        tap: AudioRing | None = None,
        freewheel: bool = False,
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        if not 0 <= monitor <= 1:
            raise LiveError(f"the monitor level must be between 0 and 1, got {monitor:g}")
        self._device, self._opened, self._path = device, opened, path
        self._monitor, self._recorder, self._tap, self._freewheel, self._tell = monitor, recorder, tap, freewheel, tell
        self.clock = Clock(opened.sample_rate)
        self.overload = Overload()
        self.skipped = 0
        self.errors = 0
        self.last_error = ""
        self._callbacks = 0
        self._loads = np.zeros(LOADS, np.float32)
        self._capacity = max(device.block_size, 4096)
        self._source = np.zeros(self._capacity, np.float32)
        self._broken = np.empty(self._capacity, np.bool_)
        self._wet = np.zeros((opened.outputs, self._capacity), np.float32)
        self._dry = np.zeros(self._capacity, np.float32)
        self._stream: Any = None
        self._unhurried = False  # a stream was opened, and its thread did not run yet
        self._refused = False  # real-time priority
        self._before = ExitStack()  # takes back what `start` did to the process
        self._seen, self._seen_at = -1, 0.0
        self._closing = threading.Event()

    # The audio thread.

    def _callback(self, indata: NDArray[np.float32], outdata: NDArray[np.float32], frames: int, when: Any, status: Any) -> None:
        if self._unhurried:
            self._unhurried, self._refused = False, not hurry_audio()
        begun = time.perf_counter()
        self.clock.count(begun, frames)
        try:
            for start in range(0, frames, self._capacity):
                stop = min(start + self._capacity, frames)
                self._run(indata[start:stop], outdata[start:stop])
        except Exception as error:  # the stream would end, and the show with it
            outdata.fill(0.0)
            self.errors += 1
            self.last_error = repr(error)
        length = frames / self._opened.sample_rate
        elapsed = time.perf_counter() - begun
        self._loads[self._callbacks % LOADS] = elapsed / length
        self._callbacks += 1
        if not self._freewheel:
            self.overload.spend(elapsed, length)

    def _run(self, indata: NDArray[np.float32], outdata: NDArray[np.float32]) -> None:
        n = indata.shape[0]
        source, broken, wet = self._source[:n], self._broken[:n], self._wet[:, :n]
        # Here, for all that take it: an effect would keep broken numbers, and the monitor and the recording pass them on.
        np.clip(indata[:, self._opened.inputs - 1], -HIGHEST_SAMPLE, HIGHEST_SAMPLE, out=source)
        np.not_equal(source, source, out=broken)  # NaN
        np.copyto(source, 0.0, where=broken)
        if self.overload.skips():
            self._path.skip(n)
            self.skipped += n
            wet.fill(0.0)
        else:
            wet.fill(0.0)  # what is heard of a block that fails
            self._path.process(source, wet)
        if self._recorder is not None:
            self._recorder.push(source, wet)
        if self._tap is not None:
            self._tap.push(source, wet)
        if self._monitor:
            dry = self._dry[:n]
            np.multiply(source, self._monitor, out=dry)
            add(wet, dry)
        np.clip(wet, -1.0, 1.0, out=wet)
        outdata[:] = wet.T

    # Every other thread.

    def start(self) -> None:
        """Open the device; LiveError if that fails, ServerLostError if a JACK server's."""
        # Blocks would wait for the interpreter, and for its collector of garbage.
        self._before.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.collect()
        gc.freeze()
        self._before.callback(gc.unfreeze)
        self._before.enter_context(hurried_threads())
        try:
            self._open()
        except LiveError:
            self.close()
            raise

    def _open(self) -> None:
        sounddevice = load_sounddevice()
        device = self._device
        try:
            self._stream = sounddevice.Stream(
                samplerate=self._opened.sample_rate,
                blocksize=device.block_size,
                device=(device.input, device.output),
                channels=(self._opened.inputs, self._opened.outputs),
                dtype="float32",
                latency="low",
                callback=self._callback,
            )
            self.clock.restart()
            self.overload.debt = 0.0
            self._seen_at = time.monotonic()
            self._unhurried = True
            self._stream.start()
        except (ValueError, sounddevice.PortAudioError) as error:
            self._close_stream()
            at = f"{self._opened.name} cannot be opened at {self._opened.sample_rate:g} Hz"
            problem = f"{at}: {_first_line(error)}"
            if self._is_jack:
                self._leave_jack()
                raise ServerLostError(problem) from None
            raise LiveError(problem) from None

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close(ignore_errors=True)

    def close(self) -> None:
        """Stop; everything is as it was before `start`, and a recording is complete."""
        self._closing.set()
        self._close_stream()
        if self._recorder is not None:
            self._recorder.close()
        self._before.close()

    def watch(self, until: Callable[[], bool]) -> None:
        """Look after the stream until `until` says so or `close` is called; a device that went away is tried again.

        Raises
        ------
        ServerLostError
            If it was a JACK server.
        """
        while not until() and not self._closing.wait(0.1):
            if self._refused:
                self._refused = False
                self._tell(f"the audio has no real-time priority, so a busy computer may cost blocks: {priority_remedy()}")
            if not self._flows():
                self._tell(f"{self._opened.name} went away; trying to get it back")
                self._reopen(until)

    def _flows(self) -> bool:
        now = time.monotonic()
        if self._callbacks != self._seen:
            self._seen, self._seen_at = self._callbacks, now
        stream = self._stream
        return stream is not None and bool(stream.active) and now - self._seen_at < STALL_SECONDS

    def _reopen(self, until: Callable[[], bool]) -> None:
        sounddevice = load_sounddevice()
        if self._is_jack:
            self._leave_jack()
            raise ServerLostError("the JACK server ended")
        self._close_stream()
        while not until() and not self._closing.wait(RETRY_SECONDS):
            # PortAudio looks for devices when it starts, and never again.
            sounddevice._terminate()
            sounddevice._initialize()
            try:
                found = find_device(self._device)
                if found.outputs < self._opened.outputs:
                    continue
                self._path.post(self._path.ready({"panic": True}))  # what is left in it was sung long ago
                self._open()
            except LiveError:
                continue
            self._tell(f"{self._opened.name} is back")
            return

    @property
    def _is_jack(self) -> bool:
        return "JACK" in self._opened.host_api

    def _leave_jack(self) -> None:
        """Without a server PortAudio would wait for ever to close the stream, and abort the process when that ends."""
        self._stream = None
        atexit.unregister(load_sounddevice()._exit_handler)

    def status(self) -> Status:
        """How it is doing now."""
        rate = self._opened.sample_rate
        loads = self._loads[: min(self._callbacks, LOADS)]
        median, high = np.percentile(loads, [50, 99]) if len(loads) else (math.nan, math.nan)
        late = self._path.latency_samples
        round_trip = self.device_latency_seconds * rate + late
        return Status(
            running=self._flows(),
            device=self._opened.name,
            sample_rate=rate,
            block_size=self._device.block_size,
            latency_samples=late,
            latency_ms=1000 * late / rate,
            round_trip_samples=round_trip,
            round_trip_ms=1000 * round_trip / rate,
            load_median=float(median),
            load_p99=float(high),
            xruns=self.clock.xruns,
            skipped=self.skipped,
            errors=self.errors + self._path.converter.errors,
            voice=voice_text(self._path.converter.voice),
        )

    @property
    def device_latency_seconds(self) -> float:
        """Round trip of the device alone, as it states it; NaN if it states nonsense."""
        stream = self._stream
        seconds = math.nan if stream is None else sum(stream.latency)
        return seconds if 0 <= seconds < LONGEST_DEVICE_LATENCY_SECONDS else math.nan


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".: ") if lines else type(error).__name__
