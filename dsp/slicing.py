"""Cutting a recording at its silences, by RMS levels on a grid of frames (after openvpi's audio-slicer)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

QUIETEST_DB = -120.0  # digital silence; keeps the logarithm finite


class Slice(NamedTuple):
    """Frames `start` to `stop` - 1."""

    start: int
    stop: int


@dataclass(frozen=True)
class Slicing:
    """How to cut; all lengths in frames.

    Attributes
    ----------
    interval : int
        A silence that is shorter is a gap between words, and stays whole.
    kept : int
        Frames that a slice keeps of the silence on each side: the soft end of a note, and the breath before it. What is
        left between is removed if that is an `interval` too.
    shortest : int
        A slice that is shorter is not ended at a silence of which nothing is removed.
    longest : int
        Longer slices are cut at their quietest frame.
    """

    interval: int = 30
    kept: int = 50
    shortest: int = 500
    longest: int = 3000

    def __post_init__(self) -> None:
        if not (self.interval >= 1 and self.kept >= 0 and self.shortest >= 0 and self.longest >= 2):
            raise ValueError(f"a slicing needs lengths that are not negative, interval >= 1 and longest >= 2, not {self}")


def frame_power(audio: NDArray[np.floating], first: float, hop: float, window: float, frames: int) -> NDArray[np.float64]:
    """Mean square [frames] in windows of `window` samples around sample `first` + k * `hop` of `audio` [n], zeros outside it.

    From a running sum, so that overlapping windows cost nothing; `first` and `hop` need not be whole.
    """
    total = np.concatenate([[0.0], np.cumsum(np.square(audio, dtype=np.float64))])
    centres = first + hop * np.arange(frames)
    last = len(audio)
    begin = np.clip(np.rint(centres - window / 2).astype(np.int64), 0, last)
    end = np.clip(np.rint(centres + window / 2).astype(np.int64), 0, last)
    power: NDArray[np.float64] = (total[end] - total[begin]) / window
    return power


def frame_peak(audio: NDArray[np.floating], first: float, hop: float, frames: int) -> NDArray[np.float64]:
    """Largest absolute value [frames] of the `hop` samples around sample `first` + k * `hop` of `audio` [n], zeros outside it."""
    edges = np.clip(np.rint(first + hop * (np.arange(frames + 1) - 0.5)).astype(np.int64), 0, len(audio))
    peaks = np.maximum.reduceat(np.append(np.abs(audio), 0.0), edges)[:-1]
    return np.where(edges[1:] > edges[:-1], peaks, 0.0).astype(np.float64)


def decibels(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Levels of mean squares in dB of full scale, at least -120."""
    level: NDArray[np.float64] = 10 * np.log10(np.maximum(power, 10 ** (QUIETEST_DB / 10)))
    return level


def slice_on_silence(level_db: NDArray[np.float64], threshold_db: float, slicing: Slicing = Slicing()) -> list[Slice]:
    """Slices of sound, in order and apart; with the silences between them they make up all frames.

    Parameters
    ----------
    level_db : [frames]
    threshold_db
        A frame below it is silent.
    slicing
    """
    slices: list[Slice] = []
    start: int | None = None  # of the slice under way
    for begin, end in _silences(level_db < threshold_db):
        at_start, at_end = begin == 0, end == len(level_db)
        removed = Slice(0 if at_start else begin + slicing.kept, end if at_end else end - slicing.kept)
        # At the ends nothing is parted by removing.
        if removed.stop - removed.start >= (1 if at_start or at_end else slicing.interval):
            if not at_start:
                slices += _cut(level_db, start or 0, removed.start, slicing.longest)
            start = removed.stop
        elif end - begin >= slicing.interval and end - (start or 0) >= slicing.shortest and not (at_start or at_end):
            quietest = begin + int(np.argmin(level_db[begin:end]))
            slices += _cut(level_db, start or 0, quietest, slicing.longest)
            start = quietest
    if (start or 0) < len(level_db):
        slices += _cut(level_db, start or 0, len(level_db), slicing.longest)
    return slices


def presence(level_db: NDArray[np.float64], threshold_db: float, hold: int, ramp: int) -> NDArray[np.float32]:
    """1 [frames] up to `hold` frames from a frame that reaches the threshold, then down to 0 within `ramp` frames."""
    frames = len(level_db)
    index = np.arange(frames)
    sound = level_db >= threshold_db
    far = hold + ramp
    before = index - np.maximum.accumulate(np.where(sound, index, -far))
    after = np.minimum.accumulate(np.where(sound, index, frames + far)[::-1])[::-1] - index
    gain: NDArray[np.float32] = np.clip((far - np.minimum(before, after)) / ramp, 0, 1).astype(np.float32)
    return gain


def _silences(silent: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(silent, prepend=False, append=False))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _cut(level_db: NDArray[np.float64], start: int, stop: int, longest: int) -> list[Slice]:
    """Frames `start` to `stop` - 1 as slices of at most `longest`, cut at the quietest frame of each one's second half."""
    slices: list[Slice] = []
    while stop - start > longest:
        half = start + (longest + 1) // 2
        cut = half + int(np.argmin(level_db[half : start + longest + 1]))
        slices.append(Slice(start, cut))
        start = cut
    return [*slices, Slice(start, stop)] if stop > start else slices
