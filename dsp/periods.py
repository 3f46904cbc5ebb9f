"""The period of one voice in a stream, at once: from the newest samples alone, to some per cent."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dsp.history import History
from dsp.pitch import HIGHEST_HZ, LOWEST_HZ

# What tells periods lies below; and the fewer formants pass, the fewer of them are taken for the fundamental.
PASS_HZ = 1200.0
LOW_RATE_HZ = 8000.0  # enough for that, and cheap
FILTER_SECONDS = 0.003
HOP_SECONDS = 0.005
WINDOW_SECONDS = 0.010  # of what is compared; shorter hears too much into noise, longer blurs fast slides
# The normalised correlation at which a voice begins, and below which it ends.
VOICED, UNVOICED = 0.65, 0.45
# Multiples of a period correlate as well as the period itself: the shorter one is wanted, and the one near the last.
LENGTH_PENALTY, CHANGE_PENALTY = 0.10, 0.06
FLOOR = 1e-8  # power, -80 dBFS: what is quieter has no pitch


class PeriodTracker:
    """Normalised cross-correlation (Talkin 1995, "A robust algorithm for pitch tracking") of low-passed samples.

    Nothing is allocated after construction; drive it from one thread.

    Parameters
    ----------
    sample_rate : int
        Hz.
    push : int
        Samples in each call of `push`, at most.

    Attributes
    ----------
    period : float
        In samples of the input, between those of `HIGHEST_HZ` and `LOWEST_HZ`; 0 where there is none.
    """

    def __init__(self, sample_rate: int, push: int) -> None:
        self._factor = max(1, round(sample_rate / LOW_RATE_HZ))
        rate = sample_rate / self._factor
        taps = max(3, round(FILTER_SECONDS * sample_rate)) | 1
        place = np.arange(taps) - taps // 2
        response = np.sinc(2 * PASS_HZ / sample_rate * place) * np.hamming(taps)
        self._response = (response / response.sum()).astype(np.float32)
        self._input = History(1, taps + self._factor, push, before=taps)
        self._windows = sliding_window_view(self._input.store[0], taps)
        self._taken = 0  # input samples from which the next low one is

        self._shortest, self._longest = math.floor(rate / HIGHEST_HZ), math.ceil(rate / LOWEST_HZ)
        self._size, self._hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
        lags = np.arange(self._longest + 1, self._shortest - 2, -1)  # one more to each side, for peaks at the ends
        self._lags = lags.astype(np.float64)
        span = self._size + int(lags[0])
        self._low = History(1, span + push, push // self._factor + 2, before=span)
        self._made = np.empty((1, push // self._factor + 2), np.float32)
        self._due = 0  # low samples at which the next look is
        self._squares, self._sums = np.empty(span, np.float64), np.zeros(span + 1, np.float64)
        self._energy = np.empty(len(lags), np.float64)
        self._products = np.empty(len(lags), np.float32)
        self._correlation, self._score, self._near = (np.empty(len(lags), np.float64) for _ in range(3))
        self._bend, self._tilt = (np.empty(len(lags) - 2, np.float64) for _ in range(2))
        self._low_before, self._low_after = (np.empty(len(lags) - 2, np.bool_) for _ in range(2))
        self._penalty = LENGTH_PENALTY * lags / lags[0]
        self.reset()

    def reset(self) -> None:
        """Back to silence."""
        self._input.reset()
        self._low.reset()
        self._taken = 0
        self._due = self._hop
        self.period = 0.0

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples [1, n], and look again when it is time."""
        self._input.append(samples)
        taps, factor = len(self._response), self._factor
        count = max(0, (self._input.end - self._taken + factor - 1) // factor)
        if count:
            first = self._input.column(self._taken + 1 - taps)
            windows = self._windows[first : first + (count - 1) * factor + 1 : factor]
            np.einsum("nk,k->n", windows, self._response, out=self._made[0, :count])
            self._low.append(self._made[:, :count])
            self._taken += count * factor
        while self._low.end >= self._due:
            self._look(self._due)
            self._due += self._hop

    def _look(self, end: int) -> None:
        lags, size = self._lags, self._size
        heard = self._low.window(end - size - int(lags[0]), end)[0]
        np.copyto(self._squares, heard)  # numpy would allocate for arithmetic between two widths
        np.multiply(self._squares, self._squares, out=self._squares)
        # np.cumsum makes the name "accumulate" anew in every call, and the interpreter's cache of attributes keeps some of them.
        np.add.accumulate(self._squares, out=self._sums[1:])
        count = len(lags)
        np.subtract(self._sums[size : size + count], self._sums[:count], out=self._energy)
        now = heard[-size:]
        floor = FLOOR * size
        energy = float(self._sums[-1] - self._sums[-1 - size]) + floor
        self._energy += floor
        self._energy *= energy
        np.sqrt(self._energy, out=self._energy)
        correlation, score = self._correlation, self._score
        past = np.ndarray((count, size), np.float32, heard, 0, 2 * heard.strides)
        np.einsum("lk,k->l", past, now, out=self._products)
        np.copyto(correlation, self._products)
        correlation /= self._energy
        self._heights(correlation, score)
        score -= self._penalty
        if self.period:
            np.divide(lags, self.period / self._factor, out=self._near)
            np.log2(self._near, out=self._near)
            np.abs(self._near, out=self._near)
            np.minimum(self._near, 1.0, out=self._near)
            self._near *= CHANGE_PENALTY
            score -= self._near
        best = 1 + int(np.argmax(score[1:-1]))
        before, at, after = (float(correlation[best + side]) for side in (-1, 0, 1))
        if at < (UNVOICED if self.period else VOICED) or at < before or at < after:
            self.period = 0.0
            return
        self.period = (float(lags[best]) - peak_offset(before, at, after)) * self._factor

    def _heights(self, values: NDArray[np.float64], out: NDArray[np.float64]) -> None:
        """What the peaks of `values` reach between the samples, -1 where there is none.

        A short period lies farther from a sample than its multiples do, and would seem to fit worse than they.
        """
        before, at, after, top = values[:-2], values[1:-1], values[2:], out[1:-1]
        bend, tilt, low, lower = self._bend, self._tilt, self._low_before, self._low_after
        np.add(before, after, out=bend)
        np.multiply(at, 2.0, out=tilt)
        np.subtract(tilt, bend, out=bend)
        np.maximum(bend, 1e-6, out=bend)
        np.subtract(before, after, out=tilt)
        np.multiply(tilt, tilt, out=tilt)
        np.divide(tilt, bend, out=tilt)
        np.multiply(tilt, 0.125, out=tilt)
        np.add(at, tilt, out=top)
        np.less(at, before, out=low)
        np.less(at, after, out=lower)
        np.logical_or(low, lower, out=low)
        np.copyto(top, -1.0, where=low)


def peak_offset(before: float, at: float, after: float) -> float:
    """Where between -1/2 and 1/2 a parabola through three neighbours, the middle one highest, has its top."""
    bend = before - 2 * at + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
