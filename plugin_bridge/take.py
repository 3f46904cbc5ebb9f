"""Records a performance: what went in, what came out, and every gesture, without holding the audio thread up."""

from __future__ import annotations

import shutil
import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pedalboard.io import AudioFile, WriteableAudioFile

from dsp.ring import AudioRing
from plugin_bridge.files import replacing
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.signal_path import Changes, SignalPath
from plugin_bridge.timeline import MOST_EVENTS, Event, Timeline, events_of

RING_SECONDS = 20.0  # for which a disk may stall
WRITE_SECONDS = 0.1
# Left free on the disk: a file that cannot be written to its end is no recording, and hours of a show would be lost.
RESERVE_BYTES = 1 << 25


class _NothingHeardError(Exception):
    """No sample came, as when a device cannot be opened: no reason to write over an earlier take of the name."""


class TakeRecorder:
    """Writes `NAME.wav` (converted), `NAME.dry.wav` (source) and `NAME.json` (gestures) when closed, if anything was heard.

    `push` belongs to the audio thread: it copies into a ring, from which another thread writes.

    Parameters
    ----------
    target : Path
        `NAME.wav`.
    path : SignalPath
        Before its first block. Its log is emptied here.

    Attributes
    ----------
    samples : int
        Recorded so far.
    lost : int
        Samples that are silence in the files because the disk was too slow.
    problem : str
        Why nothing more is recorded, if so; on a disk that is full, what was until then is complete. Of more gestures than can be
        read again none are kept, and the sound is recorded on.
    """

    def __init__(self, target: Path, path: SignalPath) -> None:
        if target.suffix.lower() != ".wav":
            raise ValueError(f"a recording's name must end in .wav, not {target.name!r}")
        self.target, self.samples, self.lost, self.problem = target, 0, 0, ""
        self._path = path
        self._rate = int(path.sample_rate)
        if self._rate != path.sample_rate:
            raise ValueError(f"only a whole number of Hz can be recorded, not {path.sample_rate:g}")
        self._ring = AudioRing(path.channels, int(RING_SECONDS * path.sample_rate))
        start: Changes = {name: getattr(path.converter, name) for name in PARAMETERS}
        self._log: list[tuple[int, Changes]] = [(0, {**start, "chain": path.chain})]
        self._events = len(start) + 1
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    @property
    def dry_target(self) -> Path:
        return self.target.with_suffix(".dry.wav")

    @property
    def timeline_target(self) -> Path:
        return self.target.with_suffix(".json")

    def push(self, source: NDArray[np.float32], wet: NDArray[np.float32]) -> None:
        """Record source [n] and wet [channels, n]."""
        self._ring.push(source, wet)

    def close(self) -> None:
        """Write the rest and finish the files."""
        self._done.set()
        self._thread.join()

    def _write(self) -> None:
        try:
            with ExitStack() as files:
                wet = self._open(files, self.target, self._path.channels)
                dry = self._open(files, self.dry_target, 1)
                last = False
                while not last:
                    last = self._done.wait(WRITE_SECONDS)
                    self._drain(dry, wet)
                    if self._events > MOST_EVENTS and not self.problem:
                        self._log.clear()
                        self.problem = f"{self.timeline_target} will be missing: there were more than {MOST_EVENTS} gestures"
                    if shutil.disk_usage(self.target.parent).free < RESERVE_BYTES:
                        self.problem = f"{self.target} ends here: the disk is full"
                        break
                if not self.samples:
                    raise _NothingHeardError
            if self._events > MOST_EVENTS:
                self.timeline_target.unlink(missing_ok=True)  # an earlier take's would be taken for this one's
                return
            events: list[Event] = list(events_of(self._log, self._rate))
            timeline = Timeline(
                sample_rate=self._rate,
                block_size=self._path.block_size or 0,
                channels=self._path.channels,
                events=tuple(events),
            )
            with replacing(self.timeline_target) as file:
                file.write(timeline.model_dump_json(indent=1).encode() + b"\n")
        except _NothingHeardError:
            pass
        except Exception as error:  # the show goes on without
            self.problem = f"{self.target} could not be recorded: {error}"

    def _open(self, files: ExitStack, target: Path, channels: int) -> WriteableAudioFile:
        file = files.enter_context(replacing(target))
        # 32 bits are floating point: what was heard, exactly.
        writer = AudioFile(file, "w", samplerate=self._rate, num_channels=channels, bit_depth=32, format="wav")
        return files.enter_context(writer)

    def _drain(self, dry: WriteableAudioFile, wet: WriteableAudioFile) -> None:
        while self._path.log:
            position, changes = self._path.log.popleft()
            self._events += len(changes)
            if self._events <= MOST_EVENTS:
                self._log.append((position, changes))
        lost, audio = self._ring.pull()
        self.lost += lost
        self.samples += lost + audio.shape[1]
        for part in (np.zeros((len(audio), lost), np.float32), audio):
            if part.size:
                dry.write(part[:1])
                wet.write(part[1:])
