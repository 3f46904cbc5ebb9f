"""What the song engine hears of a recording, frame by frame, in one pass over it and in pieces that are worked on side by side.

Frames are those of the song engine: 100 a second, each centred on its moment, the first on the first sample. A piece is heard
with the recording on both sides of it, so that nothing depends on where it begins but the tracking of pitch and what counts as
its offset; and pieces are the same whoever works on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dsp.f0 import Method, track_f0
from dsp.resampling import resample
from dsp.slicing import frame_peak, frame_power
from models.lhq.encoders import RATE as ENCODER_RATE
from models.lhq.encoders import Encoder
from models.lhq.features import content_features, loudness
from models.lhq.song import HOP, SAMPLE_RATE
from plugin_bridge.engine import HIGHEST_SAMPLE
from plugin_bridge.protocol import normal
from plugin_bridge.recording import audible
from plugin_bridge.stages import Stages, in_order

Audio = NDArray[np.float32]

FRAME_RATE = SAMPLE_RATE // HOP
PIECE = 1500  # frames: an hour is hundreds of pieces, and the context around each adds little
CONTEXT = 50  # frames on each side at least: pitch tracking wants some periods of the lowest voice
ENCODER_CONTEXT = 200  # the same for a user's encoder, in which every frame attends to all others
WINDOW_S = 0.04  # of the levels: two periods of the lowest voice


class Source(Protocol):
    """Audio that can be read from its beginning again and again: a `Recording`, or an array."""

    @property
    def sample_rate(self) -> float: ...
    @property
    def channels(self) -> int: ...
    @property
    def samples(self) -> int: ...
    def blocks(self) -> Iterator[Audio]: ...


@dataclass(frozen=True)
class Analysis:
    """A recording in frames.

    Attributes
    ----------
    samples : int
        That were there.
    features, loudness : float32 [T, 80], [T]
        See `models.lhq.features`; with an encoder that the user has, its `frames` in place of features.
    hz : float64 [T]
        Pitch; positive everywhere.
    voiced : bool [T]
    power : float64 [T]
        Mean square of the mean of all channels; this and what follows without their offset.
    channel_power : float64 [channels, T]
    peak : float64 [T]
        Largest absolute sample of any channel.
    """

    samples: int
    features: NDArray[np.floating]
    loudness: Audio
    hz: NDArray[np.float64]
    voiced: NDArray[np.bool_]
    power: NDArray[np.float64]
    channel_power: NDArray[np.float64]
    peak: NDArray[np.float64]


@dataclass(frozen=True)
class _Piece:
    """Frames `first` to `stop` - 1, and `audio` [channels, n] from frame `begin` on, at the recording's own rate."""

    first: int
    stop: int
    begin: int
    audio: Audio


def whole_frames(rate: int) -> int:
    """Every how many frames one is centred on a sample at `rate` that is a sample at 40 kHz too; it divides 100."""
    return Fraction(math.gcd(rate, SAMPLE_RATE) * HOP, SAMPLE_RATE).denominator


def analyse(
    source: Source, method: Method, threads: int, stages: Stages, advance: Callable[[int], None], encoder: Encoder | None = None
) -> Analysis:
    """Listen to all of a source; `advance` is called with the number of samples heard since its last call.

    Raises
    ------
    FileError
        If it is damaged.
    ModelError
        If the encoder fails.
    """
    rate = int(source.sample_rate)
    samples = 0

    def blocks() -> Iterator[Audio]:
        nonlocal samples
        for block in watched(source, stages):
            samples += block.shape[1]
            yield block

    pieces = _pieces(blocks(), rate, CONTEXT if encoder is None else ENCODER_CONTEXT)
    heard: list[_Heard] = []
    for found in in_order(lambda piece: _listen(piece, rate, method, stages, encoder), pieces, threads):
        heard.append(found)
        advance(len(found.power) * rate // FRAME_RATE)
    return Analysis(
        samples=samples,
        features=np.concatenate([part.features for part in heard]),
        loudness=np.concatenate([part.loudness for part in heard]),
        hz=np.concatenate([part.hz for part in heard]),
        voiced=np.concatenate([part.voiced for part in heard]),
        power=np.concatenate([part.power for part in heard]),
        channel_power=np.concatenate([part.channel_power for part in heard], axis=1),
        peak=np.concatenate([part.peak for part in heard]),
    )


def watched(source: Source, stages: Stages) -> Iterator[Audio]:
    """Blocks of a source, without samples that are no audio."""
    blocks = source.blocks()
    while True:
        with stages.watch("read"):
            block = next(blocks, None)
            if block is None:
                return
            block = cleaned(block)
        yield block


def cleaned(audio: Audio) -> Audio:
    """Audio without samples that are no audio; what is left is as `VoiceConverter` takes it."""
    return normal(np.clip(audible(audio), -HIGHEST_SAMPLE, HIGHEST_SAMPLE))


def _pieces(blocks: Iterator[Audio], rate: int, least: int) -> Iterator[_Piece]:
    align = whole_frames(rate)
    context = -(-least // align) * align
    held: list[Audio] = []
    first, begin, samples = 0, 0, 0  # `begin`: the frame with which what is held begins
    for block in blocks:
        held.append(block)
        samples += block.shape[1]
        while samples >= (first + PIECE + context) * rate // FRAME_RATE:
            audio = np.concatenate(held, axis=1)
            yield _Piece(first, first + PIECE, begin, audio[:, : (first + PIECE + context - begin) * rate // FRAME_RATE])
            first += PIECE
            held = [audio[:, (first - context - begin) * rate // FRAME_RATE :]]
            begin = first - context
    # What is left is at most a piece and its context, but for the last frames, which want no context.
    frames = -(-samples * SAMPLE_RATE // rate) // HOP + 1
    audio = np.concatenate(held, axis=1)
    for start in range(first, frames, PIECE):
        stop = min(start + PIECE, frames)
        offset = max(0, start - context - begin) * rate // FRAME_RATE
        end = audio.shape[1] if stop == frames else (stop + context - begin) * rate // FRAME_RATE
        yield _Piece(start, stop, max(begin, start - context), audio[:, offset:end])


@dataclass(frozen=True)
class _Heard:
    """`Analysis` of one piece."""

    features: NDArray[np.floating]
    loudness: Audio
    hz: NDArray[np.float64]
    voiced: NDArray[np.bool_]
    power: NDArray[np.float64]
    channel_power: NDArray[np.float64]
    peak: NDArray[np.float64]


def _listen(piece: _Piece, rate: int, method: Method, stages: Stages, encoder: Encoder | None) -> _Heard:
    own = slice(piece.first - piece.begin, piece.stop - piece.begin)
    count = piece.stop - piece.first
    with stages.watch("levels"):
        # An offset is no sound: the pauses of a recording with one are silence. (A high-pass filter at 10 Hz in its place took the
        # rumble from the features as well, and .05 of the conversions' DNSMOS.)
        heard = piece.audio - piece.audio.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        mid = heard.mean(axis=0)
        where = (own.start * rate / FRAME_RATE, rate / FRAME_RATE, WINDOW_S * rate, count)
        power = frame_power(mid, *where)
        channel_power = np.stack([frame_power(channel, *where) for channel in heard])
        peak = frame_peak(np.abs(heard).max(axis=0), where[0], where[1], count)
    with stages.watch("resampling"):
        audio = resample(mid, rate, SAMPLE_RATE)
    with stages.watch("pitch"):
        # What dies away is a voice, not a breath. On five takes DNSMOS of pjs and kerstin is .05 and .07 higher, of alys .04 lower;
        # PESQ of ten copies of kerstin 2.97, not 2.85. Voicing agrees on 96 % of frames instead of 98.
        pitch = track_f0(audio, SAMPLE_RATE, method, lasting=True)
    with stages.watch("features"):
        features: NDArray[np.floating] = content_features(audio)[own]
        loud = loudness(features)
    if encoder is not None:
        with stages.watch("content"):
            features = _encoded(encoder, resample(audio, SAMPLE_RATE, ENCODER_RATE), own)
    return _Heard(features, loud, pitch.hz[own], pitch.voiced[own], power, channel_power, peak)


def _encoded(encoder: Encoder, audio: Audio, own: slice) -> NDArray[np.float16]:
    """Content of the frames `own` of audio at 16 kHz, one for two of them: halved twice, an hour of it is no more than 300 MB."""
    content, wanted = encoder.frames(audio), -(-own.stop // 2)
    # A frame at the very end of the audio is one of ours, and none of the encoder's.
    content = np.pad(content, ((0, max(0, wanted - len(content))), (0, 0)), mode="edge")[own.start // 2 : wanted]
    largest = np.finfo(np.float16).max
    return np.clip(content, -largest, largest).astype(np.float16)
