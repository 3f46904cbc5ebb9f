"""Recordings as streams of blocks: read in other lengths, and taken to other rates."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dsp.resampling import HIGHEST_RATE, LOWEST_RATE, Resampler

PUSH = 1 << 16  # samples resampled at once
LOWEST_FILE_RATE, HIGHEST_FILE_RATE = 1_000, 768_000  # Hz of recordings: more than any device's, less than a damaged header's

Audio = NDArray[np.float32]


def file_rate(rate: float) -> Fraction:
    """The rate of a recording, to the nearest 0.01 Hz.

    Raises
    ------
    ValueError
        If it is outside 1,000 to 768,000 Hz.
    """
    if not LOWEST_FILE_RATE <= rate <= HIGHEST_FILE_RATE:
        raise ValueError(f"a recording's sample rate must be between {LOWEST_FILE_RATE} and {HIGHEST_FILE_RATE} Hz, got {rate:g}")
    return Fraction(round(rate * 100), 100)


def stream_rate(rate: Fraction) -> Fraction:
    """Octaves above or below a recording's rate, if the stream engine does not take that itself."""
    while rate < LOWEST_RATE:
        rate *= 2
    while rate > HIGHEST_RATE:
        rate /= 2
    return rate


class Reader:
    """Blocks [channels, n] read in other lengths, with silence after the last."""

    def __init__(self, blocks: Iterator[Audio], channels: int) -> None:
        self._blocks = blocks
        self._rest = np.zeros((channels, 0), np.float32)

    def read(self, count: int) -> Audio:
        """The next `count` samples."""
        parts, there = [self._rest], self._rest.shape[1]
        while there < count:
            block = next(self._blocks, None)
            if block is None:
                block = np.zeros((self._rest.shape[0], count - there), np.float32)
            parts.append(block)
            there += block.shape[1]
        whole = np.concatenate(parts, axis=1)
        self._rest = whole[:, count:]
        return whole[:, :count]


def at_rate(blocks: Iterator[Audio], channels: int, from_rate: Fraction, rate: Fraction) -> Iterator[Audio]:
    """Blocks at another rate, time-aligned; at the end some samples of silence may follow."""
    if from_rate == rate:
        yield from blocks
        return
    resampler = Resampler(from_rate, rate, channels, push=PUSH, pending=PUSH)

    def pushed(block: Audio) -> Audio:
        resampler.push(block)
        out = np.empty((channels, resampler.ready), np.float32)
        resampler.pull(out)
        return out

    for block in blocks:
        for first in range(0, block.shape[1], PUSH):
            yield pushed(block[:, first : first + PUSH])
    yield pushed(np.zeros((channels, 2 * resampler.reach), np.float32))  # what the filter still holds back
