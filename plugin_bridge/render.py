"""Whole songs with the song engine, from file to file: any length in bounded memory, on as many cores as are given.

A recording is read twice. First it is heard: pitch, levels and features of every frame, and with them where it is silent. Then
it is converted, slice by slice, each with as much of the recording around it as the networks can see, so that no seam is there
to be heard; and put back in its place, to the sample. Where the source is silent it stays as it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dsp.f0 import F0Track, Method, fill_unvoiced, read_f0_csv, write_f0_csv
from dsp.resampling import resample
from dsp.slicing import Slice, Slicing, decibels, frame_power, presence, slice_on_silence
from models.graph import ModelError
from models.lhq.encoders import Encoder, load_encoder
from models.lhq.song import HOP, MOST_STEPS, SAMPLE_RATE, Frames, SongModel
from plugin_bridge.analysis import FRAME_RATE, WINDOW_S, Analysis, Audio, Source, analyse, watched, whole_frames
from plugin_bridge.blocks import file_rate
from plugin_bridge.convert import Conversion, Transposition, automatic_transposition, voice_range_hz
from plugin_bridge.files import BIT_DEPTH, FileError, beside, check_apart, check_format, check_writable, open_writer, replacing
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.protocol import check_audio, number
from plugin_bridge.protocol import rate as checked_rate
from plugin_bridge.recording import BLOCK_SAMPLES, open_recording
from plugin_bridge.remix import Mix, mixed_channels, remix
from plugin_bridge.stages import Stages, in_order
from plugin_bridge.voices import Voice, voice_target, voice_text

if TYPE_CHECKING:
    from models.pack import Size

# A slice costs its context, of 2.5 s on each side for the content encoder and 0.8 s for what comes after: no slice is made to save
# a shorter silence, nor ended early where nothing is saved. 30 s at most, so that cores find work and memory stays small.
SLICING = Slicing(interval=80, kept=50, shortest=1000, longest=3000)
HOLD, RAMP = 12, 5  # frames around sound that are still converted, and in which the source comes back
QUIETEST_GATE_DB = -60.0  # nothing louder is silence by itself: so soft is a breath of a singer whose notes reach -15 dB
UNDER_SINGING_DB = 45.0  # ... unless the whole recording is soft: by this much silence is below the singing, at least
FLOOR, OVER_FLOOR_DB = 5.0, 8.0  # percentile: a room's noise varies by some dB around its level, all of which is silence, ...
LEAST_UNDER_DB = 33.0  # ... as long as it is this much below the singing
HEARD_DB, NEAR_DB = -90.0, 10.0  # what counts for the level of the singing, and of it what comes near the mean
SOFT_DB, SOFT_OVER_DB = 20.0, 6.0  # under the singing: from here on down, within so many dB, a conversion must not be louder ...
LOUDER_DB = 2.0  # ... than its source by more than this: what is soft in a take is breath and noise
MARGIN = 4  # frames around a slice that its levels and its resampling see
BALANCE_S = 1.0  # window in which the channels' levels are compared: notes and reverb, not single periods
MOST_GAIN = 4.0  # by which a vocal is made louder or softer for a mix; more would be no balance, but a fault
LOWEST_HZ, HIGHEST_HZ = 40.0, 2000.0  # of what is sung: a shift goes no farther
# How far up its range, in octaves, a voice is drawn from: what is sung lower gets the timbre it has there. At the lower end singers
# creak and run out of breath, and the networks know it least. On eighteen recordings DNSMOS was 3.23, 3.16, 3.16 (pjs, kerstin,
# alys) with 0.3 and 3.19, 3.14, 3.13 with 0, the speaker cosine 0.794, 0.775, 0.591 and 0.788, 0.779, 0.600.
DRAWN_FROM = 0.3
ANALYSIS_SHARE = 0.3  # of the time, about: for the time that is left


@dataclass(frozen=True)
class Progress:
    """How far a rendering is.

    Attributes
    ----------
    stage : "separating", "listening" or "converting"
    done : float
        Share (0..1) of the stage.
    whole : float
        Share of the rendering.
    seconds_left : float
        At the speed so far; infinite before there is one.
    """

    stage: Literal["separating", "listening", "converting"]
    done: float
    whole: float
    seconds_left: float


@dataclass(frozen=True)
class Rendering(Conversion):
    """What became of a recording; `samples` and `channels` are those of the target.

    Attributes
    ----------
    heard : int
        Samples of the source that were there.
    slices : int
        That were converted, apart from each other or from one another's side.
    converted_s : float
        Seconds in them; the rest was silence.
    stages : dict
        Processor seconds of each stage, on all threads together.
    threads : int
    lowered_db : float
        By which a mix with the accompaniment was made softer, so that it is not clipped.
    """

    heard: int
    slices: int
    converted_s: float
    stages: dict[str, float]
    threads: int
    lowered_db: float


def drawn_range_hz(low: float, high: float) -> tuple[float, float]:
    """Of a voice's range, the part whose timbre it is given: see `DRAWN_FROM`."""
    return low * (high / low) ** DRAWN_FROM, high


@dataclass(frozen=True)
class Wishes:
    """How to convert; `transpose` comes on top of `pitch_shift`, both in semitones like `formant_shift`.

    `mix`, `gain_db` and `gate_db` are `VoiceConverter`'s. `f0` is a table of the source's pitch, see `dsp.f0.read_f0_csv`, in
    place of what is tracked.
    """

    pitch_shift: float = 0.0
    formant_shift: float = 0.0
    transpose: Transposition = 0.0
    f0: Path | None = None
    mix: float = 1.0
    gain_db: float = 0.0
    gate_db: float = -90.0

    def __post_init__(self) -> None:
        for name in ("pitch_shift", "formant_shift", "mix", "gain_db", "gate_db"):
            PARAMETERS[name].number(getattr(self, name))
        if isinstance(self.transpose, str) and self.transpose != "auto":
            raise ValueError(f"transpose must be a number of semitones or 'auto', got {self.transpose!r}")
        if self.transpose != "auto":
            PARAMETERS["pitch_shift"].number(self.pitch_shift + number("transpose", self.transpose))


class SongRenderer:
    """Converts whole recordings with a voice's song engine.

    Loading takes some tenths of a second, so make one and use it for all files. Calls may come from several threads.

    Parameters
    ----------
    voice : str, Path or mapping of str to float
        As for `VoiceConverter`.
    threads : int
        CPU threads, the caller's included. The result does not depend on it.
    size : "lhq" or "mobile"
        Of the engine.
    steps : int
        Of the diffusion, 1 to 64.
    seed : int
        Of all noise, >= 0: the same seed gives the same bytes.
    method : "swift", "dio" or "harvest"
        That tracks the pitch: see `dsp.f0.track_f0`.
    encoder : path, optional
        The content encoder, ONNX file or Hugging Face folder, for a voice that was trained with one of the user's.

    Raises
    ------
    UnknownVoiceError, PackError, ModelError
        If there is no such voice, its pack has no song engine of this size that can be run, or it needs another encoder.
    ValueError, TypeError
        For a parameter out of range or of the wrong type.
    """

    def __init__(
        self,
        voice: Voice | Path = "pjs",
        *,
        threads: int = 2,
        size: Size = "lhq",
        steps: int = 1,
        seed: int = 0,
        method: Method = "swift",
        encoder: str | Path | None = None,
    ) -> None:
        self.threads = _whole("threads", threads, 1, 256)
        self.steps = _whole("steps", steps, 1, MOST_STEPS)
        self.seed = _whole("seed", seed, 0, 2**63 - 1)
        if method not in get_args(Method):
            raise ValueError(f"method must be {' or '.join(map(repr, get_args(Method)))}, got {method!r}")
        target = voice_target(voice)
        self.voice = target.shown
        self.size = size
        self.method = method
        self._model = target.pack.song_model(size)
        self._weights = np.array(target.weights, np.float32)
        self._encoder = _matching_encoder(self._model, voice_text(self.voice), None if encoder is None else Path(encoder))

    def render(
        self,
        source: str | Path,
        target: str | Path,
        *,
        pitch_shift: float = 0.0,
        formant_shift: float = 0.0,
        mix: float = 1.0,
        gain_db: float = 0.0,
        gate_db: float = -90.0,
        transpose: Transposition = 0.0,
        f0: str | Path | None = None,
        f0_out: str | Path | None = None,
        instrumental: str | Path | None = None,
        progress: Callable[[Progress], None] = lambda now: None,
    ) -> Rendering:
        """Convert a recording to a file of the same rate, channel count and length, time-aligned.

        Parameters
        ----------
        source, target
            The target's suffix gives its format: 24 bits in wav, flac and aiff. It appears when it is complete.
        pitch_shift, formant_shift, mix, gain_db, gate_db : float
            As for `VoiceConverter`; the gain comes after an accompaniment's balance.
        transpose
            Semitones on top of `pitch_shift`, or "auto".
        f0
            A table of the source's pitch to use in place of what is tracked: see `dsp.f0.read_f0_csv`.
        f0_out
            Where to write the source's pitch as such a table.
        instrumental
            The accompaniment: the target is then the mix of it and the conversion, which is as loud as its source was, all of
            it lowered if it would else be clipped.
        progress
            Called now and then, from this thread.

        Raises
        ------
        FileError
            If the source cannot be read or no voice is found in it, or the target cannot be written, or is what is read.
        ModelError
            If the song engine fails.
        ValueError
            For a value out of range, or a table that does not fit the recording.
        """
        start = time.perf_counter()
        source, target = Path(source), Path(target)
        check_apart(
            [Path(path) for path in (target, f0_out) if path is not None],
            [Path(path) for path in (source, instrumental, f0) if path is not None],
        )
        check_format(target)
        table = None if f0 is None else Path(f0)
        wishes = Wishes(pitch_shift, formant_shift, transpose, table, mix, gain_db, gate_db)
        with open_recording(source) as recording:
            channels = recording.channels if instrumental is None else mixed_channels(recording, Path(instrumental))
            check_writable(target, int(recording.sample_rate), channels)
            song = self.listen(recording, wishes, progress)
            if not song.voiced and table is not None:
                raise ValueError(f"the f0 table {table} has no voiced row, so there is nothing to sing")
            if not song.voiced:
                raise FileError(f"{source} has no voice in it: no pitch was found anywhere")
            if f0_out is not None:
                _write_table(Path(f0_out), song.pitch)
            if instrumental is None:
                written = self._write(song, target, BIT_DEPTH)
            else:
                with beside(target) as folder:
                    vocal = folder / "vocal.wav"
                    self._write(song, vocal, 32)
                    written = remix(vocal, song.gain, Path(instrumental), target, song.stages)
            return Rendering(
                source=source,
                target=target,
                samples=written.samples,
                promised=recording.promised,
                sample_rate=recording.sample_rate,
                channels=written.channels,
                transposition=song.transposition,
                peak=written.peak,
                elapsed_s=time.perf_counter() - start,
                heard=song.samples,
                slices=len(song.slices),
                # The last frame stands on the end, half of it beyond.
                converted_s=min(
                    sum(part.stop - part.start for part in song.slices) / FRAME_RATE, song.samples / recording.sample_rate
                ),
                stages=dict(song.stages.seconds),
                threads=self.threads,
                lowered_db=written.lowered_db,
            )

    def _write(self, song: Song, target: Path, bit_depth: int) -> Mix:
        peak = 0.0
        with (
            replacing(target) as file,
            open_writer(file, target, song.rate, song.channels, bit_depth) as writer,
            closing(song.convert()) as blocks,
        ):
            for block in blocks:
                peak = max(peak, float(np.abs(block).max(initial=0.0)))
                with song.stages.watch("write"):
                    writer.write(block)
        return Mix(song.samples, song.channels, peak, 0.0)

    def convert(
        self,
        audio: Audio,
        sample_rate: float,
        *,
        pitch_shift: float = 0.0,
        formant_shift: float = 0.0,
        mix: float = 1.0,
        gain_db: float = 0.0,
        gate_db: float = -90.0,
    ) -> Audio:
        """Audio [channels, n] converted, in memory; without a voice in it, as it is.

        Raises
        ------
        ModelError
            If the song engine fails.
        ValueError
            For a value or a rate out of range, or another shape.
        TypeError
            For anything but float32 or float64.
        """
        check_audio(audio)
        if audio.ndim != 2 or not audio.shape[0]:
            raise ValueError(f"audio must have the shape (channels, n), got {audio.shape}")
        source = _Array(audio, checked_rate(sample_rate))
        wishes = Wishes(pitch_shift, formant_shift, mix=mix, gain_db=gain_db, gate_db=gate_db)
        if not source.samples:
            return np.zeros(audio.shape, np.float32)
        song = self.listen(source, wishes)
        if not song.voiced:
            plain = np.concatenate(list(watched(source, song.stages)), axis=1)
            return song.finished(plain, plain, 0)
        return np.concatenate(list(song.convert()), axis=1)

    def listen(self, source: Source, wishes: Wishes, progress: Callable[[Progress], None] = lambda now: None) -> Song:
        """Hear all of a source and decide what to convert, and how."""
        if source.sample_rate != int(source.sample_rate):
            raise FileError(f"the song engine needs a sample rate of whole Hz, not {source.sample_rate} Hz")
        file_rate(source.sample_rate)  # within limits
        stages, clock, heard = Stages(), _Clock(progress), 0

        def advance(samples: int) -> None:
            nonlocal heard
            heard = min(heard + samples, source.samples)
            clock.tell("listening", heard / source.samples)

        analysis = analyse(source, self.method, self.threads, stages, advance, self._encoder)
        return Song(self, source, analysis, wishes, stages, clock)


class Song:
    """A recording that was heard, and is to be converted.

    Attributes
    ----------
    rate : int
        Hz of the recording.
    channels, samples : int
    pitch : F0Track
        Of the source.
    voiced : bool
        Whether there is a pitch anywhere.
    transposition : float
        Semitones that `Wishes.transpose` came to.
    slices : list of Slice
        That are converted; the rest is silence.
    """

    def __init__(
        self, renderer: SongRenderer, source: Source, analysis: Analysis, wishes: Wishes, stages: Stages, clock: _Clock
    ) -> None:
        self._renderer = renderer
        self._source = source
        self._clock = clock
        self._formant_shift = wishes.formant_shift
        self._mix, self._factor = np.float32(wishes.mix), np.float32(10 ** (wishes.gain_db / 20))
        self.stages = stages
        self.rate = int(source.sample_rate)
        self.channels = source.channels
        self.samples = analysis.samples
        self._before = self._after = 0.0  # energy where there is sound: of the source, and of what was made, without the gain
        self._level = decibels(analysis.power)
        self._singing = _singing_db(self._level)
        gate = _gate_db(self._level, self._singing)
        self._presence = presence(self._level, gate, HOLD, RAMP)
        self.slices = slice_on_silence(self._level, gate, SLICING)
        gated = wishes.gate_db > PARAMETERS["gate_db"].minimum
        # Of peaks, as the stream engine's gate: the level of a voice lies 10 dB and more below them.
        self._open = presence(decibels(np.square(analysis.peak)), wishes.gate_db, HOLD, RAMP) if gated else None
        hz, voiced = analysis.hz, analysis.voiced & (self._presence > 0)
        if wishes.f0 is not None:
            written = read_f0_csv(wishes.f0, len(hz))
            hz, voiced = written.hz, written.voiced
        self.pitch = F0Track(fill_unvoiced(hz, voiced), voiced)
        self.voiced = bool(voiced.any())
        self.transposition = self._transposition(wishes, float(np.median(hz[voiced])) if self.voiced else math.nan)
        wanted = self.pitch.hz * 2 ** ((wishes.pitch_shift + self.transposition) / 12)
        self._frames = Frames.of(analysis.features, np.clip(wanted, LOWEST_HZ, HIGHEST_HZ), voiced, analysis.loudness)
        self._balance = _balance(analysis.power, analysis.channel_power)

    def _transposition(self, wishes: Wishes, median_hz: float) -> float:
        if wishes.transpose != "auto":
            return wishes.transpose
        return automatic_transposition(median_hz, *voice_range_hz(self._renderer.voice), wishes.pitch_shift)

    @property
    def gain(self) -> float:
        """Factor that makes what was made, now that it is done, as loud as its source, within 12 dB, the gain apart."""
        return float(np.clip(math.sqrt(self._before / self._after), 1 / MOST_GAIN, MOST_GAIN)) if self._after > 0 else 1.0

    def convert(self) -> Generator[Audio]:
        """The conversion as blocks [channels, n], of the source's length, rate and channels all together.

        Raises
        ------
        FileError
            If the source is damaged.
        ModelError
            If the song engine fails.
        """
        position = 0
        with closing(in_order(self._slice, self.slices, self._renderer.threads)) as made:
            converted = _Joined(made, self.slices, self.rate)
            for block in watched(self._source, self.stages):
                sung = converted.read(block.shape[1])
                with self.stages.watch("mixing"):
                    mixed = self.finished(self._put(block, sung, position), block, position)
                    self._weigh(block, mixed, position)
                yield mixed
                position += block.shape[1]
                self._clock.tell("converting", position / self.samples)

    def finished(self, converted: Audio, source: Audio, position: int) -> Audio:
        """What was converted, gated, mixed with its source and at the level that was wished for."""
        if self._open is not None:
            converted = converted * self._at(self._open, position, converted.shape[1])
        if self._mix != 1:
            converted = self._mix * converted + (1 - self._mix) * source
        return converted if self._factor == 1 else self._factor * converted

    def _put(self, block: Audio, sung: Audio, position: int) -> Audio:
        """The conversion in place of its source where there is sound, with the source's balance between the channels."""
        present = self._at(self._presence, position, len(sung))
        if isinstance(present, float) and present == 0:
            return block
        out = np.empty_like(block)
        for channel, balance in enumerate(self._balance):
            np.multiply(sung, self._at(balance, position, len(sung)), out=out[channel])
        if not (isinstance(present, float) and present == 1):
            out *= present
            out += (1 - present) * block
        return out

    def _weigh(self, source: Audio, made: Audio, position: int) -> None:
        """Add up the energies of a block of the source and of what was made of it."""
        # Weighted by presence twice: what is silence is none of the loudness; nor is what the gate takes away.
        present = self._at(self._presence, position, source.shape[1])
        if self._open is not None:
            present = present * self._at(self._open, position, source.shape[1])
        self._before += float(np.square(source * present, dtype=np.float64).sum())
        self._after += float(np.square(made * (present / self._factor), dtype=np.float64).sum())

    def _at(self, values: Audio, position: int, count: int) -> Audio | float:
        """Values of frames, on straight lines between them, for samples from `position` on; a number where they are constant."""
        first = position * FRAME_RATE // self.rate
        last = min((position + count) * FRAME_RATE // self.rate + 2, len(values))
        near = values[first:last]
        if near.min() == near.max():
            return float(near[0])
        at = (position + np.arange(count)) * (FRAME_RATE / self.rate) - first
        lines: Audio = np.interp(at, np.arange(len(near)), near).astype(np.float32)
        return lines

    def _slice(self, part: Slice) -> Audio:
        """The conversion of a slice at the recording's own rate: the samples from its first frame's centre on to its end."""
        align, frames = whole_frames(self.rate), len(self._level)
        begin = max(0, (part.start - MARGIN) // align * align)
        end = min(part.stop + MARGIN, frames)
        renderer = self._renderer
        audio = renderer._model.convert(
            self._frames,
            begin,
            end,
            renderer._weights,
            range_hz=drawn_range_hz(*voice_range_hz(renderer.voice)),
            formant_shift=self._formant_shift,
            steps=renderer.steps,
            seed=renderer.seed,
            watch=self.stages.watch,
        )
        with self.stages.watch("levels"):
            audio = self._no_louder(audio, begin)
        with self.stages.watch("resampling"):
            audio = resample(audio, SAMPLE_RATE, self.rate)
        first, last = (_first_sample(frame, self.rate) for frame in part)
        offset = begin * self.rate // FRAME_RATE
        return audio[first - offset : last - offset]

    def _no_louder(self, audio: Audio, begin: int) -> Audio:
        """Where the source is soft, the conversion is no louder."""
        count = len(audio) // HOP
        source = self._level[begin : begin + count]
        got = decibels(frame_power(audio, 0, HOP, WINDOW_S * SAMPLE_RATE, count))
        softness = np.clip((self._singing - SOFT_DB - source) / SOFT_OVER_DB, 0, 1)
        change = softness * np.minimum(0.0, source + LOUDER_DB - got)
        if not change.any():
            return audio
        gain = np.ones(count + 1, np.float32)
        gain[:-1] = 10 ** (change / 20)
        ramp = np.arange(HOP, dtype=np.float32) / HOP
        return np.asarray(audio * (gain[:-1, None] + (gain[1:] - gain[:-1])[:, None] * ramp).ravel(), np.float32)


class _Joined:
    """Slices at their places, as one stream with silence between them."""

    def __init__(self, made: Iterator[Audio], slices: list[Slice], rate: int) -> None:
        self._made = zip((_first_sample(part.start, rate) for part in slices), made, strict=True)
        self._position = 0
        self._start, self._slice = 0, np.zeros(0, np.float32)

    def read(self, count: int) -> Audio:
        """The next `count` samples."""
        out = np.zeros(count, np.float32)
        begin, end = self._position, self._position + count
        self._position = end
        while True:
            first, last = max(begin, self._start), min(end, self._start + len(self._slice))
            if first < last:
                out[first - begin : last - begin] = self._slice[first - self._start : last - self._start]
            if self._start + len(self._slice) >= end:
                return out
            following = next(self._made, None)
            if following is None:
                return out
            self._start, self._slice = following


class _Array:
    """Audio [channels, n] as a source."""

    def __init__(self, audio: Audio, sample_rate: float) -> None:
        self._audio = audio
        self.sample_rate = sample_rate
        self.channels, self.samples = audio.shape

    def blocks(self) -> Iterator[Audio]:
        for first in range(0, self.samples, BLOCK_SAMPLES):
            block: Audio = self._audio[:, first : first + BLOCK_SAMPLES].astype(np.float32)
            yield block


class _Clock:
    """Tells of progress, with the time that is left at the speed so far."""

    def __init__(self, tell: Callable[[Progress], None]) -> None:
        self._tell = tell
        self._start = time.perf_counter()

    def tell(self, stage: Literal["listening", "converting"], done: float) -> None:
        whole = done * ANALYSIS_SHARE if stage == "listening" else ANALYSIS_SHARE + done * (1 - ANALYSIS_SHARE)
        spent = time.perf_counter() - self._start
        self._tell(Progress(stage, done, whole, spent * (1 / whole - 1) if whole > 0 else math.inf))


def _matching_encoder(model: SongModel, voice: str, path: Path | None) -> Encoder | None:
    """The encoder at `path`, if it is the one with which the model was trained; None for a model with its own."""
    wanted = model.encoder
    if wanted is None:
        if path is not None:
            raise ModelError(f"the voice {voice} has a content encoder of its own, so it takes none from {path}")
        return None
    if path is None:
        raise ModelError(f"the voice {voice} was trained with the content encoder {wanted}, which must be given: --encoder PATH")
    encoder = load_encoder(path)
    found = encoder.card()
    if not wanted.matches(found):
        raise ModelError(f"the voice {voice} was trained with the content encoder {wanted}, and {found} is another one")
    return encoder


def _write_table(path: Path, pitch: F0Track) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_f0_csv(path, pitch)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from None


def _first_sample(frame: int, rate: int) -> int:
    """The first sample at or after a frame's centre."""
    return -(-frame * rate // FRAME_RATE)


def _singing_db(level: NDArray[np.float64]) -> float:
    """Level of the singing, however little of a recording it is: the mean power, twice, the second time of what is near it.

    After ITU-R BS.1770's gates.
    """
    heard = level[level > HEARD_DB]
    for _ in range(2):
        if not len(heard):
            return HEARD_DB
        mean = 10 * math.log10(np.mean(10 ** (heard / 10)))
        heard = heard[heard > mean - NEAR_DB]
    return mean


def _gate_db(level: NDArray[np.float64], singing: float) -> float:
    """Level below which a frame is silent."""
    floor = float(np.percentile(level, FLOOR))
    return max(min(QUIETEST_GATE_DB, singing - UNDER_SINGING_DB), min(floor + OVER_FLOOR_DB, singing - LEAST_UNDER_DB))


def _balance(power: NDArray[np.float64], channel_power: NDArray[np.float64]) -> Audio:
    """How loud each channel is against their mean, [channels, T]: 1 where all are the same, 2 and 0 if one of two is silent."""
    channels, frames = channel_power.shape
    if np.array_equal(channel_power, np.broadcast_to(power, channel_power.shape)):
        return np.ones((channels, frames), np.float32)
    window = BALANCE_S * FRAME_RATE

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return frame_power(np.sqrt(values), 0, 1, window, frames)

    smooth = mean(power) + 1e-12
    # Beyond the number of channels the mean is what is left of channels that cancel each other.
    return np.stack([np.minimum(np.sqrt(mean(channel) / smooth), channels) for channel in channel_power]).astype(np.float32)


def _whole(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be between {least} and {most}, got {value}")
    return value
