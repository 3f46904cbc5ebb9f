"""Sampling-rate conversion in a stream, with a delay that is known exactly.

A linear-phase windowed sinc, evaluated at exact rational positions (J. O. Smith, "Digital Audio Resampling";
Crochiere & Rabiner, "Multirate Digital Signal Processing", ch. 4). Output sample j is the band-limited input at input
position j * in_rate / out_rate - delay. Positions are integers over a common denominator, so nothing drifts, and every
output sample is one dot product of fixed length, so the samples do not depend on how the stream is cut into blocks.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dsp.history import History
from dsp.products import product

# Hz, both ends included: what audio hardware and plugin hosts use.
LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000

# The transition band is the top tenth below the lower Nyquist: at 44.1 kHz flat to 19.8 kHz. Narrower costs latency, in
# proportion: 1.2 ms for one filter at 44.1 kHz as it is.
PASS_BAND = 0.90
# dB. The contract is 80; the rest is for float32 rounding and the truncation of the filter to whole samples.
STOP_BAND = 86.0

# Ratios with more phases than this share a table of PHASES, read with linear interpolation. Its error is
# (pi / PHASES)^2 / 8 of the amplitude at Nyquist, -114 dB.
MOST_EXACT_PHASES, PHASES = 1024, 1024

# Output samples computed in one go, at most, and the size of the scratch for the input that they see: a step then stays in
# the processor's second-level cache.
ROWS, SCRATCH = 256, 1 << 16


def exact_rate(rate: float) -> Fraction:
    """The rate as a fraction, to the nearest 0.01 Hz (finer is below any clock, and keeps integer arithmetic small).

    Raises
    ------
    ValueError
        If `rate` is not finite or outside 8,000 to 192,000 Hz.
    """
    if not (math.isfinite(rate) and LOWEST_RATE <= rate <= HIGHEST_RATE):
        raise ValueError(f"sample rate must be between {LOWEST_RATE} and {HIGHEST_RATE} Hz, got {rate}")
    return Fraction(round(rate * 100), 100)


class _Filter(NamedTuple):
    reach: int  # W: taps on each side
    rows: NDArray[np.float32]  # [phases, 2 * W]
    slopes: NDArray[np.float32] | None  # [phases, 2 * W], difference to the next row; None where each phase has its row


def reach(in_rate: Fraction, out_rate: Fraction) -> int:
    """Input samples that the filter looks ahead, its delay: output at input position t needs input ceil(t) + reach - 1."""
    if in_rate == out_rate:
        return 1
    # Kaiser's estimate of the length of a filter for a transition band (Oppenheim & Schafer, eq. 7.76).
    lower_nyquist = min(in_rate, out_rate) / 2
    width = 2 * math.pi * (1 - PASS_BAND) * float(lower_nyquist / in_rate)
    return math.ceil((STOP_BAND - 7.95) / (2.285 * width) / 2)


@lru_cache(maxsize=16)
def _design(in_rate: Fraction, out_rate: Fraction, phases: int) -> _Filter:
    width = reach(in_rate, out_rate)
    exact = phases <= MOST_EXACT_PHASES
    count = phases if exact else PHASES
    # Row r serves positions r / count before an input sample: its tap k is k - W + r / count samples from the position.
    distance = np.arange(-width, width)[None, :] + np.arange(count + 1)[:, None] / count
    cutoff = float(min(in_rate, out_rate) / in_rate) * (1 + PASS_BAND) / 2
    beta = 0.1102 * (STOP_BAND - 8.7)  # Kaiser's (Oppenheim & Schafer, eq. 7.75)
    window = np.i0(beta * np.sqrt(np.maximum(0.0, 1 - (distance / width) ** 2)))
    window[np.abs(distance) >= width] = 0.0  # so that whole-sample positions stay symmetric
    taps = np.sinc(cutoff * distance) * window
    taps /= taps.sum(axis=1, keepdims=True)
    rows = taps[:count].astype(np.float32)
    slopes = None if exact else np.diff(taps, axis=0).astype(np.float32)
    return _Filter(width, rows, slopes)


class Resampler:
    """One stream from one rate to another: `push` input, `pull` output. Equal rates cost a copy and delay nothing.

    Drive it from one thread; nothing is allocated after construction. For the same rates, tables are shared.

    Parameters
    ----------
    in_rate, out_rate : Fraction
        Hz, see `exact_rate`.
    channels : int
    delay : Fraction
        Input samples, >= 0; output j is the input at j * in_rate / out_rate - delay. With equal rates it must be whole.
    push : int
        Most samples pushed at once.
    pending : int
        Most input samples that no output has passed yet when more are pushed, not counting those that `delay` holds back.
    """

    def __init__(
        self,
        in_rate: Fraction,
        out_rate: Fraction,
        channels: int,
        *,
        push: int,
        pending: int,
        delay: Fraction = Fraction(0),
    ) -> None:
        step = in_rate / out_rate
        # Position of output j, in input samples: (j * self._step - self._delay) / self._unit.
        self._unit = math.lcm(step.denominator, delay.denominator)
        self._step = int(step * self._unit)
        self._delay = int(delay * self._unit)
        self.reach = reach(in_rate, out_rate)
        before = max(0, math.ceil(delay)) + self.reach
        self._history = History(channels, pending + math.ceil(delay) + 2 * self.reach + 1, push, before)
        self._filter: _Filter | None = None
        if in_rate != out_rate:
            self._filter = _design(in_rate, out_rate, self._unit)
            taps = 2 * self.reach
            # Every stretch of `taps` input samples, as views into the history, and how far apart the useful ones lie.
            self._stretches = sliding_window_view(self._history.store, taps, axis=1)
            self._stride = int(step) if step.denominator == 1 else 1
            seen = step / self._stride  # stretches per output
            rows = min(ROWS, max(1, math.floor((SCRATCH // taps - 2) / seen)))
            self._steps = self._step * np.arange(rows, dtype=np.int64)
            self._behind = np.empty(rows, np.int64)
            self._whole = np.empty(rows, np.int64)
            self._phase = np.empty(rows, np.int64)
            self._fraction = np.empty(rows, np.float32)
            self._correction = np.empty(rows, np.float32)
            self._seen = np.empty((math.ceil(rows * seen) + 2, taps), np.float32)
            self._window = np.empty((rows, taps), np.float32)
            self._row = np.empty((rows, taps), np.float32)
        elif self._unit != 1:
            raise ValueError(f"delay between equal rates must be a whole number of samples, got {delay}")
        self._pulled = 0

    def reset(self) -> None:
        """Back to silence; the next output is sample 0."""
        self._history.reset()
        self._pulled = 0

    @property
    def ready(self) -> int:
        """Output samples that can be pulled now."""
        # Output j needs input ceil(position) + reach - 1, which must be below `end`.
        last = ((self._history.end - self.reach) * self._unit + self._delay) // self._step
        return max(0, last + 1 - self._pulled)

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take input [channels, n]."""
        self._history.append(samples)

    def pull(self, out: NDArray[np.float32]) -> None:
        """Write the next out.shape[1] output samples to `out` [channels, n]; n <= ready."""
        n = out.shape[1]
        if self._filter is None:
            start = self._pulled - self._delay
            out[:] = self._history.window(start, start + n)
            self._pulled += n
            return
        rows = len(self._steps)
        for first in range(0, n, rows):
            self._convolve(self._filter, out[:, first : first + rows])

    def _convolve(self, design: _Filter, out: NDArray[np.float32]) -> None:
        """The next out.shape[1] outputs, no more than there are rows in the scratch."""
        n = out.shape[1]
        behind, whole, phase = self._behind[:n], self._whole[:n], self._phase[:n]
        window, row = self._window[:n], self._row[:n]

        # How far each output lies behind the input sample just at or after the first one, split into whole input samples
        # (negative: ahead) and a phase in 0 .. unit - 1.
        position = self._pulled * self._step - self._delay
        ceiling = -(-position // self._unit)
        np.subtract(ceiling * self._unit - position, self._steps[:n], out=behind)
        np.floor_divide(behind, self._unit, out=whole)
        np.multiply(whole, -self._unit, out=phase)
        phase += behind
        # The stretches that the outputs see, counted from the first one's.
        np.floor_divide(whole, -self._stride, out=whole)
        oldest, count = self._history.column(ceiling - self.reach), int(whole[-1]) + 1
        stretches = self._stretches[:, oldest : oldest + count * self._stride : self._stride]

        seen = self._seen[:count]
        fraction, correction, index = self._fraction[:n], self._correction[:n], phase
        if design.slopes is not None:
            phase *= PHASES
            index = behind
            np.floor_divide(phase, self._unit, out=index)
            np.divide(phase, self._unit, out=fraction, casting="same_kind")
            fraction -= index

        for channel in range(out.shape[0]):
            np.copyto(seen, stretches[channel])
            np.take(seen, whole, axis=0, out=window, mode="clip")
            np.take(design.rows, index, axis=0, out=row, mode="clip")
            np.einsum("nk,nk->n", window, row, out=out[channel])
            if design.slopes is not None:
                np.take(design.slopes, index, axis=0, out=row, mode="clip")
                np.einsum("nk,nk->n", window, row, out=correction)
                correction *= fraction
                out[channel] += correction
        self._pulled += n


COLUMNS = 32  # outputs of one matrix product: more make the band in the matrix, which is all that counts of it, thinner


def resample(audio: NDArray[np.float32], in_rate: int, out_rate: int) -> NDArray[np.float32]:
    """A whole signal [n] at another rate, [ceil(n * out_rate / in_rate)]: sample j is the input at j * in_rate / out_rate.

    The same filter as `Resampler`'s, some ten times as fast where the ratio is a simple one. Outside the signal is silence.
    """
    step = Fraction(in_rate, out_rate)
    count = math.ceil(len(audio) / step)
    if in_rate == out_rate:
        return audio.astype(np.float32)
    if step.denominator > MOST_EXACT_PHASES:
        return _resample_in_stream(audio, Fraction(in_rate), Fraction(out_rate), count)
    design = _design(Fraction(in_rate), Fraction(out_rate), step.denominator)
    taps = 2 * design.reach
    # Outputs come in groups, each group's input as far behind the one before as all the others'; within a group, `COLUMNS` at a
    # time are one product of the input they see and a matrix. Groups do not overlap in what they see: BLAS asks for that.
    seen = math.ceil((COLUMNS - 1) * step) + taps + 1
    cycles = math.ceil(seen / step.numerator)
    hop, group = cycles * step.numerator, cycles * step.denominator
    groups = -(-count // group)
    padded = np.zeros(design.reach + (groups + 1) * hop + seen, np.float32)
    padded[design.reach : design.reach + len(audio)] = audio
    out = np.empty((groups, group), np.float32)
    for first in range(0, group, COLUMNS):
        outputs = range(first, min(first + COLUMNS, group))
        # Where in `padded` the window of each output begins; `behind` picks the row of the filter, as in `Resampler`.
        begins = [math.ceil(j * step) for j in outputs]
        matrix = np.zeros((seen, len(outputs)), np.float32)
        for column, (j, begin) in enumerate(zip(outputs, begins, strict=True)):
            behind = begin * step.denominator - j * step.numerator
            matrix[begin - begins[0] : begin - begins[0] + taps, column] = design.rows[behind]
        windows = np.lib.stride_tricks.as_strided(
            padded[begins[0] :], (groups, seen), (hop * padded.itemsize, padded.itemsize), writeable=False
        )
        out[:, first : first + len(outputs)] = product(windows, matrix)
    resampled: NDArray[np.float32] = out.ravel()[:count]
    return resampled


def _resample_in_stream(audio: NDArray[np.float32], in_rate: Fraction, out_rate: Fraction, count: int) -> NDArray[np.float32]:
    push = 1 << 14
    resampler = Resampler(in_rate, out_rate, 1, push=push, pending=push)
    out = np.zeros((1, count), np.float32)
    padded = np.concatenate([audio, np.zeros(resampler.reach + math.ceil(in_rate / out_rate) + 1, np.float32)])
    filled = 0
    for first in range(0, len(padded), push):
        resampler.push(padded[None, first : first + push])
        ready = min(resampler.ready, count - filled)
        resampler.pull(out[:, filled : filled + ready])
        filled += ready
    resampled: NDArray[np.float32] = out[0]
    return resampled
