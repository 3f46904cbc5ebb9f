"""A ring of audio between the audio thread, which never waits, and a thread that comes for it now and then."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class AudioRing:
    """What went in and what came out, side by side, for one writer and one reader.

    Parameters
    ----------
    channels : int
        Of what came out; what went in is one more.
    length : int
        Samples held. A reader that comes later than three quarters of that loses the oldest.
    """

    def __init__(self, channels: int, length: int) -> None:
        self._ring = np.zeros((1 + channels, length), np.float32)
        self._length = length
        self._pushed = self._pulled = 0

    def push(self, source: NDArray[np.float32], wet: NDArray[np.float32]) -> None:
        """From the audio thread: take source [n] and wet [channels, n]."""
        n, start = source.shape[0], self._pushed % self._length
        first = min(n, self._length - start)
        self._ring[0, start : start + first] = source[:first]
        self._ring[1:, start : start + first] = wet[:, :first]
        if first < n:
            self._ring[0, : n - first] = source[first:]
            self._ring[1:, : n - first] = wet[:, first:]
        self._pushed += n

    def pull(self) -> tuple[int, NDArray[np.float32]]:
        """How many samples were lost, and those that follow them, [1 + channels, n], the source first."""
        # A block may be half in the ring while it is written: it counts as pushed only when it is there.
        end = self._pushed
        # The audio thread is about to come round: leave out what it will write over.
        lost = max(0, end - self._pulled - self._length * 3 // 4)
        begin = self._pulled + lost
        self._pulled = end
        start, n = begin % self._length, end - begin
        first = min(n, self._length - start)
        return lost, np.concatenate([self._ring[:, start : start + first], self._ring[:, : n - first]], axis=1)
