"""A noise gate that looks ahead as far as the latency of what it guards allows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HOP_SECONDS = 0.002  # one level is taken per hop; opening takes one hop
HOLD_SECONDS = 0.050  # stays open this long: a period of the lowest voice is 17 ms, a plosive's closure 50
RELEASE_SECONDS = 0.100  # a tail that ends sooner is heard as cut off


class Gate:
    """Gain for a signal that comes out `latency` samples after it went in, from the level that goes in.

    Levels are taken on a grid of the stream, not of its blocks, and the gain moves in straight lines between the points of
    that grid, so it does not depend on how the stream is cut. With a latency of 4 ms or more it is open before the sound
    that opens it comes out.

    Parameters
    ----------
    rate : float
        Hz.
    latency : int
        Samples between the level and the signal that the gain is for.

    Attributes
    ----------
    threshold : float
        Absolute value. With 0 it closes only after exact digital silence.
    tail : int
        Samples for which the signal may go on after exact digital silence began; with a threshold of 0 it stays open so long.
    """

    def __init__(self, rate: float, latency: int) -> None:
        self._hop = max(16, min(latency // 2, round(HOP_SECONDS * rate)))
        self._release_step = self._hop / (RELEASE_SECONDS * rate)
        self._hold = latency + round(HOLD_SECONDS * rate)
        self._latency = latency
        self._rise = (np.arange(1, self._hop + 1) / self._hop).astype(np.float32)
        self.threshold = 0.0
        self.tail = 0
        self.reset()

    def reset(self) -> None:
        """Open, at the start of a stream."""
        self._quiet = 0  # samples since the last hop with sound
        self._peak = 0.0
        self._filled = 0  # samples of the hop under way
        self._before = self._now = 1.0  # gains at the start and at the end of the hop under way

    def follow(self, level: NDArray[np.float32], gain: NDArray[np.float32]) -> bool:
        """Take the next levels [n] (absolute values), write the gains [n]; returns whether any gain is not 1."""
        n, done, acts = level.shape[0], 0, False
        while done < n:
            stop = min(n, done + self._hop - self._filled)
            part, rise = gain[done:stop], self._rise[self._filled : self._filled + stop - done]
            if self._before == self._now:
                part.fill(self._now)
            else:
                np.multiply(rise, self._now - self._before, out=part)
                part += self._before
            acts = acts or self._before < 1.0 or self._now < 1.0
            self._peak = max(self._peak, float(level[done:stop].max()))
            self._filled += stop - done
            done = stop
            if self._filled == self._hop:
                self._end_hop()
        return acts

    def _end_hop(self) -> None:
        self._quiet = 0 if self._peak > self.threshold else self._quiet + self._hop
        hold = self._hold if self.threshold > 0 else self._latency + self.tail
        self._before = self._now
        self._now = 1.0 if self._quiet <= hold else max(0.0, self._now - self._release_step)
        self._peak, self._filled = 0.0, 0
