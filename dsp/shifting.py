"""Pitch and formants of one voice, moved in a stream.

Pitch-synchronous overlap-add (Moulines & Charpentier 1990, "Pitch-synchronous waveform processing techniques"): pieces two periods
long are cut from the voice, one around each of its pulses, and laid down again at the pitch that is wanted. A piece carries the
vowel, so the vowel stays; played faster or slower it moves as well. What has no pitch is laid down as it was.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dsp.history import History
from dsp.periods import PeriodTracker, peak_offset
from dsp.pitch import HIGHEST_HZ, LOWEST_HZ

# The delay. A piece begins a period before its pulse, and that pulse's period is known a period after it: down to 100 Hz all is
# as it should be, below pieces are taken a period earlier than where they are laid.
LATENCY_SECONDS = 0.020
# Of what has no pitch. Half as long, and noise begins to buzz; twice, and consonants smear.
NOISE_SECONDS = 0.005
STRIDE_SECONDS = 0.005  # the next anchor is so many whole periods on: more exact than one alone
LEAST_HALF_WINDOW = 0.002  # seconds that are compared to each side of an anchor
SEARCHED = 0.08  # of the stride to each side of where the tracker sees the next anchor, but less than half a period
ALIKE = 0.3  # correlation of two anchors, below which the tracker is believed instead
CLEAR = 0.08  # balance of a period's energy, below which it has no pulse to speak of: a flute's, or a whistle's
LATEST = 0.3  # of half a window: a piece that comes later than this is left out, for it would begin with a click
PART_SECONDS = 0.015  # of a long chunk, for which one period can stand
STEEPEST = 0.05  # most by which a period is extrapolated
TAPS, PHASES = 16, 1024  # of the interpolation: images lie 60 dB down
# Formants up is playing faster: what would pass the Nyquist frequency is filtered out first, in steps of this ratio.
CUTOFF_STEP, CUTOFFS = 2 ** (1 / 4), 5
PIECES = 16  # laid down in one go, at most


class Anchor(NamedTuple):
    """A place in the voice, in samples of the stream; from one anchor to the next it is a whole number of periods."""

    place: float
    period: float
    slope: float  # of the period, per sample
    centre: float  # where the period was measured
    pulse: float  # from the anchor to the pulse of its period
    voiced: bool


class Piece(NamedTuple):
    """A piece to be laid down, in samples of the stream; `place` of the input comes to `at` of the output."""

    place: float
    at: float
    centre: float  # of its window
    left: float  # half a window's width before the centre
    right: float
    gain: float


class PitchShifter:
    """Shifts chunk by chunk, `latency` samples late.

    With both ratios 1 the output is the input, bit for bit; to and from there it fades over a chunk. Nothing is allocated after
    construction but a few numbers. Drive it from one thread.

    Parameters
    ----------
    sample_rate : int
        Hz.
    chunk : int
        Samples of each call of `process`.
    """

    def __init__(self, sample_rate: int, chunk: int) -> None:
        self.latency = shifter_latency(sample_rate)
        self._chunk = chunk
        self._part = min(chunk, round(PART_SECONDS * sample_rate))
        self._tracker = PeriodTracker(sample_rate, self._part)
        longest = math.ceil(sample_rate / LOWEST_HZ)
        self._shortest, self._longest = sample_rate / HIGHEST_HZ, float(longest)
        self._noise = NOISE_SECONDS * sample_rate
        self._stride = STRIDE_SECONDS * sample_rate
        self._least_half = LEAST_HALF_WINDOW * sample_rate
        keep = self.latency + 2 * chunk + 8 * longest + TAPS
        self._heard = History(1, keep, chunk, before=keep)
        self._stretches = sliding_window_view(self._heard.store[0], TAPS)
        self._copies = np.empty((keep + chunk, TAPS), np.float32)
        self._tables = [interpolator(CUTOFF_STEP**-step) for step in range(CUTOFFS)]

        size = 2 * longest + 2
        self._made = np.zeros(chunk + 3 * longest + 2, np.float32)
        self._moved = np.zeros_like(self._made)
        self._count = np.arange(max(size, chunk), dtype=np.float64)
        self._position, self._floor, self._shape = (np.empty(size, np.float64) for _ in range(3))
        self._whole, self._phase = (np.empty(size, np.int64) for _ in range(2))
        self._stretch, self._row = (np.empty((size, TAPS), np.float32) for _ in range(2))
        self._pieces, self._window = (np.empty(size, np.float32) for _ in range(2))
        self._table = np.empty((6, PIECES), np.float64)
        self._waiting: deque[Piece] = deque()
        searched = 2 * math.ceil(SEARCHED * (self._stride + longest)) + 8
        self._alike, self._energy = (np.empty(searched, np.float32) for _ in range(2))
        self._steps, self._power = np.empty(longest + 2, np.float32), np.empty(longest + 2, np.float64)
        self._rise = (0.5 - 0.5 * np.cos(np.pi * np.arange(1, chunk + 1) / chunk)).astype(np.float32)
        self._fade = np.empty(chunk, np.float32)
        # As many as can lie in what is kept: a stride is no shorter than two thirds of `STRIDE_SECONDS`.
        self._anchors: deque[Anchor] = deque(maxlen=math.ceil(keep / (0.6 * self._stride)) + 2)
        self.reset()

    def reset(self) -> None:
        """Back to silence."""
        self._heard.reset()
        self._tracker.reset()
        self._made.fill(0.0)
        self._anchors.clear()
        self._anchors.append(Anchor(-self._noise, self._noise, 0.0, -self._noise, 0.0, False))
        self._balance, self._pulse_phase = 0j, 0.0  # where in a period the energy lies, of 1 if all at once; of it, the angle
        self._next: float | None = None  # where the next piece is laid; None while nothing is shifted
        self._share: float | None = None  # of what is shifted, at the end of the last chunk; None before the first

    def process(self, samples: NDArray[np.float32], pitch_ratio: float, formant_ratio: float, out: NDArray[np.float32]) -> None:
        """Take the next chunk [chunk], write the one from `latency` samples ago to out [chunk], shifted.

        Ratios are 1/4 to 4 for the pitch, 1/2 to 2 for the formants; 1 leaves either as it is.
        """
        chunk = self._chunk
        self._heard.append(samples[None])
        end = self._heard.end
        start = end - chunk - self.latency  # of the output
        for first in range(0, chunk, self._part):
            last = min(first + self._part, chunk)
            self._tracker.push(samples[None, first:last])
            self._advance(end - chunk + last)
        wanted = 0.0 if pitch_ratio == formant_ratio == 1.0 else 1.0
        share = wanted if self._share is None else self._share
        self._share = wanted
        direct = self._heard.window(start, start + chunk)[0]
        if not share and not wanted:
            self._next = None
            out[:] = direct
            return
        self._lay(start, end, pitch_ratio, formant_ratio)
        out[:] = self._made[:chunk]
        self._moved[:-chunk] = self._made[chunk:]
        self._made, self._moved = self._moved, self._made
        self._made[-chunk:] = 0.0
        if share == wanted:
            return
        np.multiply(self._rise, wanted - share, out=self._fade)
        self._fade += share
        out *= self._fade
        np.subtract(1.0, self._fade, out=self._fade)
        self._fade *= direct
        out += self._fade
        if not wanted:
            self._next = None
            self._made.fill(0.0)

    def _advance(self, end: int) -> None:
        """Set anchors as far as they can be known when the samples before `end` have come."""
        while True:
            last, period = self._anchors[-1], self._tracker.period
            if not period:
                place = last.place + self._noise
                if place > end:
                    return
                self._balance, self._pulse_phase = 0j, 0.0
                self._anchors.append(Anchor(place, self._noise, 0.0, place, 0.0, False))
                continue
            period = min(max(period, self._shortest), self._longest)
            periods = max(1, round(self._stride / period))
            half = math.ceil(max(0.5 * period, self._least_half))
            around = math.ceil(min(SEARCHED * periods, 0.4) * period) + 1
            if last.place + periods * period + around + half + 1 > end:
                return
            stride = self._find(round(last.place), periods * period, half, around)
            period = min(max(stride / periods, self._shortest), self._longest)
            place, centre = last.place + stride, last.place + 0.5 * stride
            slope = (period - last.period) / (centre - last.centre) if last.voiced else 0.0
            self._anchors.append(Anchor(place, period, slope, centre, self._pulse(place, period), True))

    def _find(self, place: int, expected: float, half: int, around: int) -> float:
        """How far after `place` the voice is as it was there, near `expected`."""
        nearest, count = round(expected), 2 * around + 1
        here = self._heard.window(place - half, place + half)[0]
        heard = self._heard.window(place + nearest - around - half, place + nearest + around + half)[0]
        there = np.ndarray((count, 2 * half), np.float32, heard, 0, 2 * heard.strides)
        alike, energy = self._alike[:count], self._energy[:count]
        np.einsum("lk,k->l", there, here, out=alike)
        np.einsum("lk,lk->l", there, there, out=energy)
        energy += 1e-12
        np.sqrt(energy, out=energy)
        alike /= energy
        best = int(np.argmax(alike))
        level = math.sqrt(float(np.dot(here, here))) + 1e-6
        if best in (0, count - 1) or alike[best] < ALIKE * level:
            return expected
        return nearest - around + best + peak_offset(*(float(alike[best + side]) for side in (-1, 0, 1)))

    def _pulse(self, place: float, period: float) -> float:
        """Where in the period around `place` its energy is, -period / 2 to period / 2, as the circular mean of some periods."""
        size = min(round(period), len(self._power))
        first = round(place - 0.5 * period)
        heard = self._heard.window(first - 1, first + size)[0]
        steps, power = self._steps[:size], self._power[:size]
        np.subtract(heard[1:], heard[:-1], out=steps)  # the closing glottis is where the treble is
        np.copyto(power, steps)  # numpy would allocate for arithmetic between two widths
        np.multiply(power, power, out=power)
        angle, turn = self._position[:size], self._shape[:size]
        np.add(self._count[:size], first - place, out=angle)
        angle *= 2 * math.pi / period
        np.cos(angle, out=turn)
        real = float(np.dot(turn, power))
        np.sin(angle, out=turn)
        total = float(power.sum()) + 1e-12
        self._balance = 0.7 * self._balance + 0.3 * complex(real, float(np.dot(turn, power))) / total
        if abs(self._balance) > CLEAR:
            self._pulse_phase = math.atan2(self._balance.imag, self._balance.real) / (2 * math.pi)
        return period * self._pulse_phase

    def _lay(self, start: int, end: int, pitch_ratio: float, formant_ratio: float) -> None:
        """Lay down every piece that begins in the chunk of output from `start` on."""
        stop = start + self._chunk
        while True:
            at = start if self._next is None else self._next
            anchor = self._nearest(at, end, formant_ratio)
            if self._next is None:
                at = anchor.place if anchor.place >= start else anchor.place + anchor.period  # in phase with the source
            period = anchor.period
            if anchor.voiced:
                change = anchor.slope * (at - anchor.centre)
                period = min(period + min(max(change, -STEEPEST * period), STEEPEST * period), self._longest)
            half = period / max(1.0, formant_ratio) if anchor.voiced else period
            centre = at + anchor.pulse / formant_ratio
            if centre - half >= stop:
                break
            left = min(half, centre - start)
            if left > LATEST * half:
                gain = math.sqrt(max(1.0, formant_ratio) / pitch_ratio) if anchor.voiced else 1.0
                self._waiting.append(Piece(anchor.place, at, centre, left, half, gain))
            self._next = at + (period / pitch_ratio if anchor.voiced else period)
        while self._waiting:
            self._add(formant_ratio, start)

    def _nearest(self, at: float, end: int, formant_ratio: float) -> Anchor:
        """The anchor nearest to `at` among those whose piece has come whole."""
        best = self._anchors[0]
        for anchor in reversed(self._anchors):
            reach = anchor.period * (min(1.0, formant_ratio) if anchor.voiced else formant_ratio)
            if anchor.place + anchor.pulse + reach + TAPS > end:
                continue
            if abs(anchor.place - at) > abs(best.place - at):
                break
            best = anchor
        return best

    def _add(self, ratio: float, start: int) -> None:
        """Add as many of the waiting pieces as the scratch holds; they end before they are as long as the longest of them."""
        table, waiting = self._table, self._waiting
        number = length = 0
        while waiting and number < table.shape[1]:
            piece = waiting[0]
            first = math.ceil(piece.centre - piece.left)
            wider = min(max(length, math.floor(piece.centre + piece.right) - first + 1), len(self._position))
            if number and (number + 1) * wider > len(self._position):
                break
            length = wider
            table[:, number] = (
                first - start,
                (first - piece.at) * ratio + piece.place,
                first - piece.centre,
                -math.pi / piece.left,
                math.pi / piece.right,
                0.5 * piece.gain,
            )
            number += 1
            waiting.popleft()
        firsts, places, to_centre, rise, fall, gains = table[:, :number, None]
        size = number * length
        position, floor, shape = (a[:size].reshape(number, length) for a in (self._position, self._floor, self._shape))
        count = self._count[:length]
        # Rows and columns are first copied to full size: numpy would allocate for arithmetic that spreads them.
        # Where each output sample lies in the input: a whole sample and a phase.
        np.copyto(position, count)
        position *= ratio
        np.copyto(shape, places)
        position += shape
        np.floor(position, out=floor)
        position -= floor
        position *= PHASES
        floor += self._heard.column(0) - (TAPS // 2 - 1)
        whole, phase = self._whole[:size], self._phase[:size]
        np.copyto(whole, floor.reshape(size), casting="unsafe")
        np.copyto(phase, position.reshape(size), casting="unsafe")
        stretch, row, pieces = self._stretch[:size], self._row[:size], self._pieces[:size]
        cutoff = min(CUTOFFS - 1, max(0, math.ceil(math.log(ratio, CUTOFF_STEP) - 1e-9)))
        # Where numpy gathers from overlapping views it first copies all of them.
        np.clip(whole, 0, len(self._stretches) - 1, out=whole)
        oldest, newest = int(whole.min()), int(whole.max())
        heard = self._copies[: newest - oldest + 1]
        np.copyto(heard, self._stretches[oldest : newest + 1])
        whole -= oldest
        np.take(heard, whole, axis=0, out=stretch, mode="clip")
        np.take(self._tables[cutoff], phase, axis=0, out=row, mode="clip")
        np.einsum("nk,nk->n", stretch, row, out=pieces)
        # Half a Hann window to each side, and nothing beyond.
        np.copyto(floor, count)
        np.copyto(shape, to_centre)
        floor += shape
        np.copyto(shape, fall)
        shape *= floor
        np.copyto(position, rise)
        floor *= position
        np.maximum(shape, floor, out=shape)
        np.minimum(shape, math.pi, out=shape)
        np.cos(shape, out=shape)
        shape += 1.0
        np.copyto(position, gains)
        shape *= position
        np.copyto(self._window[:size], shape.reshape(size), casting="same_kind")
        pieces *= self._window[:size]
        for index in range(number):
            first = int(firsts[index, 0])
            self._made[first : first + length] += pieces[index * length : (index + 1) * length]


def shifter_latency(sample_rate: int) -> int:
    """The delay of a `PitchShifter`, in samples."""
    return math.ceil(LATENCY_SECONDS * sample_rate)


def interpolator(cutoff: float) -> NDArray[np.float32]:
    """[PHASES, TAPS] windowed sinc (Kaiser, 60 dB) at positions between the two middle taps; `cutoff` 1 is all the band."""
    place = np.arange(TAPS)[None] - (TAPS // 2 - 1) - (np.arange(PHASES) + 0.5)[:, None] / PHASES
    taps = cutoff * np.sinc(cutoff * place) * np.i0(5.65 * np.sqrt(np.maximum(0.0, 1 - (place / (TAPS / 2)) ** 2)))
    return (taps / taps.sum(1, keepdims=True)).astype(np.float32)  # type: ignore[no-any-return]
