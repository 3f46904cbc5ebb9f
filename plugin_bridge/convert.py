"""Whole recordings through a voice, from file to file, in bounded memory however long they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from dsp.pitch import suggest_transposition, track_pitch
from plugin_bridge.blocks import at_rate, file_rate, stream_rate
from plugin_bridge.converter import VoiceConverter
from plugin_bridge.files import FileError, check_apart, check_format, check_writable, open_writer, replacing
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.recording import Recording, audible, open_recording
from plugin_bridge.signal_path import SignalPath
from plugin_bridge.timeline import Player, Timeline
from plugin_bridge.voices import find_voice

# What converts with the song engine builds on this module, and is imported where it is used.
if TYPE_CHECKING:
    from models.pack import Size
    from plugin_bridge.render import Progress, SongRenderer

EXCERPT_S = 4.0  # of which the pitch is tracked for --transpose auto; a few spread over the recording ...
EXCERPTS = 6  # ... tell its median as well as all of it, in bounded time

Transposition = float | Literal["auto"]
"""Semitones, or "auto": what brings the source's median pitch into the voice's range."""


class Numbers(TypedDict):
    """Arguments of `VoiceConverter` and of `SongRenderer.render` alike."""

    pitch_shift: float
    formant_shift: float
    mix: float
    gain_db: float
    gate_db: float


@dataclass(frozen=True)
class Settings:
    """How to convert; the fields are `VoiceConverter`'s arguments, and `transpose` comes on top of `pitch_shift`.

    With `automation`, which the stream engine alone knows, the others hold until it says otherwise. `size` and `steps` are those
    of the song engine.
    """

    voice: str | dict[str, float]
    pitch_shift: float = 0.0
    formant_shift: float = 0.0
    mix: float = 1.0
    gain_db: float = 0.0
    gate_db: float = -90.0
    transpose: Transposition = 0.0
    automation: Timeline | None = None
    engine: Literal["stream", "song"] = "stream"
    size: Size = "lhq"
    steps: int = 1

    def check(self) -> None:
        """Raise, before any recording is opened, what would be wrong with each: a voice, a pack, a number."""
        converter = self.converter(0.0 if self.transpose == "auto" else self.transpose)
        if self.engine == "stream":
            converter.prepare(48_000)
        elif self.automation is not None:
            raise ValueError("gestures in time are for the stream engine, and the engine is song")
        else:
            self.renderer()

    def renderer(self) -> SongRenderer:
        """A renderer of these settings' voice."""
        from plugin_bridge.render import SongRenderer

        return SongRenderer(self.voice, size=self.size, steps=self.steps)

    def converter(self, transposition: float = 0.0) -> VoiceConverter:
        """A converter with these settings, moved by `transposition` semitones on top."""
        return VoiceConverter(self.voice, **self.numbers(transposition))

    def convert(self, audio: NDArray[np.float32], sample_rate: float, transposition: float) -> NDArray[np.float32]:
        """Audio [channels, n] converted in memory, moved by `transposition` semitones on top."""
        if self.engine == "stream":
            return self.converter(transposition)(audio, sample_rate)
        return self.renderer().convert(audio, sample_rate, **self.numbers(transposition))

    def numbers(self, transposition: float = 0.0) -> Numbers:
        """What both engines take, moved likewise."""
        return {
            "pitch_shift": self.pitch_shift + transposition,
            "formant_shift": self.formant_shift,
            "mix": self.mix,
            "gain_db": self.gain_db,
            "gate_db": self.gate_db,
        }


@dataclass(frozen=True)
class Conversion:
    """What became of a recording.

    Attributes
    ----------
    samples, sample_rate, channels
        Of source and target alike.
    promised : int
        Samples that the source's header spoke of: more than there were if the file was cut short.
    transposition : float
        Semitones that `transpose` came to; `Settings.pitch_shift` is not in it.
    peak : float
        Largest absolute sample of the conversion; above 1 it was clipped in the file.
    elapsed_s : float
        Wall-clock time, in seconds.
    """

    source: Path
    target: Path
    samples: int
    promised: int
    sample_rate: float
    channels: int
    transposition: float
    peak: float
    elapsed_s: float

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return self.samples / self.sample_rate

    @property
    def times_real_time(self) -> float:
        """Seconds of audio converted in a second."""
        return self.seconds / self.elapsed_s


def convert_file(
    source: Path, target: Path, settings: Settings, advance: Callable[[int], None] = lambda samples: None
) -> Conversion:
    """Convert a recording to a file of the same rate, channel count and length, time-aligned, with the engine of the settings.

    Parameters
    ----------
    source, target
        The target's suffix gives its format: 24 bits in wav, flac and aiff. It appears when it is complete.
    settings
    advance
        Called with the number of samples read since its last call.

    Raises
    ------
    FileError
        If the source cannot be read, the voice's model fails on it, or the target cannot be written, or is the source; the song
        engine needs a voice in it, too.
    ValueError
        From `VoiceConverter`: an unknown voice, a value out of range, a rate that is not supported.
    """
    if settings.engine == "song":
        return _convert_song(source, target, settings, advance)
    check_apart([target], [source])
    check_format(target)
    start = time.perf_counter()
    with open_recording(source) as recording:
        rate = recording.sample_rate
        if rate != int(rate):
            raise FileError(f"{source} has the sample rate {rate} Hz, but only whole numbers of Hz can be written")
        check_writable(target, int(rate), recording.channels)
        transposition = find_transposition(recording, settings)
        stream = _prepared(recording, settings, transposition)
        with replacing(target) as file:
            samples, peak = _convert_stream(recording, file, target, stream, advance)
            if stream.converter.errors:
                failed = f"the voice's model failed on {stream.converter.errors} of its chunks"
                raise FileError(f"{source} was not converted: {failed}")
        return Conversion(
            source=source,
            target=target,
            samples=samples,
            promised=recording.promised,
            sample_rate=rate,
            channels=stream.channels,
            transposition=transposition,
            peak=peak,
            elapsed_s=time.perf_counter() - start,
        )


def _convert_song(source: Path, target: Path, settings: Settings, advance: Callable[[int], None]) -> Conversion:
    with open_recording(source) as recording:
        samples = recording.samples
    told = 0

    def progress(now: Progress) -> None:
        nonlocal told
        done = int(now.whole * samples)
        advance(done - told)
        told = done

    return settings.renderer().render(source, target, **settings.numbers(), transpose=settings.transpose, progress=progress)


def find_transposition(recording: Recording, settings: Settings) -> float:
    """Semitones that `settings.transpose` comes to for a recording."""
    if settings.transpose != "auto":
        return settings.transpose
    low, high = voice_range_hz(settings.voice)
    return automatic_transposition(source_median_hz(recording), low, high, settings.pitch_shift)


def automatic_transposition(median_hz: float, low_hz: float, high_hz: float, pitch_shift: float = 0.0) -> float:
    """`dsp.pitch.suggest_transposition`, less the octaves by which it and `pitch_shift` would exceed the allowed shift."""
    semitones = suggest_transposition(median_hz, low_hz, high_hz)
    limits = PARAMETERS["pitch_shift"]
    while semitones >= 12 and semitones + pitch_shift > limits.maximum:
        semitones -= 12
    while semitones <= -12 and semitones + pitch_shift < limits.minimum:
        semitones += 12
    return float(semitones)


def voice_range_hz(voice: str | dict[str, float]) -> tuple[float, float]:
    """Lowest and highest pitch a voice is at home in, in Hz; of a mixture, the weighted geometric mean."""
    weights = {voice: 1.0} if isinstance(voice, str) else voice
    total = sum(weights.values())
    logs = [np.log(find_voice(name).card.f0_range_hz) * weight / total for name, weight in weights.items()]
    low, high = np.exp(np.sum(logs, axis=0))
    return float(low), float(high)


def source_median_hz(recording: Recording) -> float:
    """Median pitch of up to six excerpts spread over a recording, in Hz; NaN without any."""
    length = int(EXCERPT_S * recording.sample_rate)
    if recording.samples <= EXCERPTS * length:
        starts = list(range(0, recording.samples, length))
    else:
        starts = [round((recording.samples - length) * k / (EXCERPTS - 1)) for k in range(EXCERPTS)]
    voiced: list[NDArray[np.float64]] = []
    for start in starts:
        excerpt = recording.read(start, length).mean(axis=0)
        track = track_pitch(audible(excerpt), recording.sample_rate)
        voiced.append(track.hz[track.voiced])
    hz = np.concatenate(voiced)
    return float(np.median(hz)) if len(hz) else float("nan")


Process = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class _Stream:
    """A converter made ready for a recording.

    Attributes
    ----------
    rate : Fraction
        At which it runs.
    process
        What to send blocks through, whose lengths are multiples of `block`; they come out with so many `channels`.
    """

    converter: VoiceConverter
    rate: Fraction
    process: Process
    channels: int
    block: int


def _prepared(recording: Recording, settings: Settings, transposition: float) -> _Stream:
    exact, inputs, timeline = stream_rate(file_rate(recording.sample_rate)), recording.channels, settings.automation
    rate = float(exact)
    if timeline is None:
        converter = settings.converter(transposition)
        converter.prepare(rate, None, inputs)
        return _Stream(converter, exact, converter.process_block, inputs, 1)
    if timeline.sample_rate not in (None, recording.sample_rate):
        found = f"{recording.path} has {recording.sample_rate:g} Hz"
        raise FileError(f"the take was recorded at {timeline.sample_rate} Hz, but {found}")
    voice = timeline.first_voice()
    converter = (settings if voice is None else replace(settings, voice=voice)).converter(transposition)
    channels = timeline.channels if inputs == 1 else inputs
    steers = timeline.steers_pitch()
    path = SignalPath(converter, rate, timeline.block_size or None, channels, inputs=inputs, steer_pitch=steers)
    player = Player(path, timeline)

    def process(block: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.empty((channels, block.shape[1]), np.float32)
        player.process(block, out)
        return out

    return _Stream(converter, exact, process, channels, timeline.block_size or 1)


def _whole(blocks: Iterable[NDArray[np.float32]], length: int) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Blocks [channels, n] cut anew to multiples of `length`, the last filled up with silence; and how many samples count."""
    rest: NDArray[np.float32] | None = None
    for block in blocks:
        rest = block if rest is None or not rest.shape[1] else np.concatenate([rest, block], axis=1)
        count = rest.shape[1] // length * length
        if count:
            yield rest[:, :count], count
        rest = rest[:, count:]
    if rest is not None and rest.shape[1]:
        yield np.pad(rest, ((0, 0), (0, length - rest.shape[1]))), rest.shape[1]


def _convert_stream(
    recording: Recording, file: BinaryIO, target: Path, stream: _Stream, advance: Callable[[int], None]
) -> tuple[int, float]:
    """All of `recording` through `stream` into `file`; returns the number of samples and the peak."""
    heard = 0  # at most as many as it promises

    def source() -> Iterator[NDArray[np.float32]]:
        nonlocal heard
        for block in recording.blocks():
            heard += block.shape[1]
            yield audible(block)

    own = file_rate(recording.sample_rate)
    taken = at_rate(source(), recording.channels, own, stream.rate)
    samples, peak = 0, 0.0
    with open_writer(file, target, int(own), stream.channels) as writer:
        for block in at_rate(_converted(taken, recording.channels, stream), stream.channels, stream.rate, own):
            converted = block[:, : heard - samples]  # silence may follow what went through a resampler
            samples += converted.shape[1]
            peak = max(peak, float(np.abs(converted).max(initial=0.0)))
            writer.write(converted)
            advance(converted.shape[1])
    return samples, peak


def _converted(blocks: Iterator[NDArray[np.float32]], channels: int, stream: _Stream) -> Iterator[NDArray[np.float32]]:
    """Blocks through `stream`, at its rate."""
    # What the converter holds back at the start is pushed out by silence at the end: output lies on input.
    skip = stream.converter.latency_samples
    end = np.zeros((channels, skip), np.float32)
    for block, count in _whole(chain(blocks, [end]), stream.block):
        converted = stream.process(block)[:, skip:count]
        skip -= count - converted.shape[1]
        yield converted
