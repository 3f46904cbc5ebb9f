"""The harmonics of a sound whose f0 is known: mixed down by it, each stands still, and what moves is the sound's own doing.

No pitch tracker is asked, so nothing of one is in the figures: what a tracker smooths away, vibrato or a step, is seen here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]

STEP_S = 0.001  # between two values
# Of the windows, in periods of the lowest f0 asked about and in seconds at least: the neighbouring harmonics fall beyond the
# window's first zeros, and what changes within some 15 ms is still seen.
WINDOW_PERIODS = 4.0
SHORTEST_WINDOW_S = 0.03


def harmonic(audio: ArrayLike, f0_hz: ArrayLike, sample_rate: float, number: float, window_s: float) -> NDArray[np.complex128]:
    """Amplitude and phase, each ms, of the partial at `number` times the f0 that `f0_hz` [n] tells for each sample of `audio` [n].

    `number` may be 1/2 or 3/2: what lies there is an octave too low. The Hann window is `window_s` long; its first zeros lie
    2 / `window_s` Hz to each side. A sine of amplitude A exactly there gives |A| and a phase that stands still.
    """
    x, f0 = _pair(audio, f0_hz)
    phase = np.concatenate([[0.0], np.cumsum(f0[:-1])]) * (number / sample_rate)
    length = max(4, round(window_s * sample_rate))
    mixed = 2 * x * np.exp(-2j * np.pi * (phase - np.floor(phase)))
    size = 1 << int(np.ceil(np.log2(len(x) + length)))
    smooth = np.fft.ifft(np.fft.fft(mixed, size) * _window_spectrum(length, size))[length // 2 :]
    at = np.round(np.arange(0.0, len(x) / sample_rate, STEP_S) * sample_rate).astype(int)
    return np.asarray(smooth[at[at < len(x)]])


def deviation_cents(audio: ArrayLike, f0_hz: ArrayLike, sample_rate: float, harmonics: int = 5) -> Array:
    """How far the pitch of `audio` [n] is from `f0_hz` [n], each ms, in cents: of the lowest harmonics, weighted by strength.

    `f0_hz` must be positive everywhere; where there is no such voice the value means nothing. Deviations of more than
    some 70 Hz at the harmonics are not followed: these have left the window. What changes faster than the window of four periods,
    or 30 ms, is averaged by it: of a deviation at 7 Hz, 4 % below 130 Hz and an eighth at 65 Hz.
    """
    x, f0 = _pair(audio, f0_hz)
    window_s = _window_s(f0)
    turned, weight = np.zeros(0), np.zeros(0)
    for number in range(1, harmonics + 1):
        partial = harmonic(x, f0, sample_rate, number, window_s)
        turn = np.angle(partial[1:] * np.conj(partial[:-1])) / (2 * np.pi * number)
        # A phase is known the better the stronger the partial; divided by its number, so much better again.
        strength = np.abs(partial[1:]) ** 2 * number**2
        turned, weight = (turn * strength, strength) if number == 1 else (turned + turn * strength, weight + strength)
    hz = np.append(turned / np.maximum(weight, 1e-30), 0.0) / STEP_S
    return np.asarray(1200 * np.log2(np.maximum(1 + hz / _each_ms(f0, sample_rate), 0.5)))


def suboctave_db(audio: ArrayLike, f0_hz: ArrayLike, sample_rate: float) -> Array:
    """Power at 1/2, 3/2 and 5/2 of `f0_hz` [n] against that of the first three harmonics, each ms, in dB; -120 at least."""
    x, f0 = _pair(audio, f0_hz)
    window_s = 2 * _window_s(f0)
    between, on = (
        sum(np.abs(harmonic(x, f0, sample_rate, number, window_s)) ** 2 for number in numbers)
        for numbers in ((0.5, 1.5, 2.5), (1.0, 2.0, 3.0))
    )
    return np.asarray(10 * np.log10(np.maximum(np.asarray(between) / np.maximum(on, 1e-30), 1e-12)))


def harmonicity_db(audio: ArrayLike, f0_hz: ArrayLike, sample_rate: float, low_hz: float, high_hz: float) -> Array:
    """Power on the harmonics of `f0_hz` [n] between two frequencies against that halfway between them, each ms, in dB.

    White noise has 0 dB; a buzz, which is all harmonics, has many.
    """
    x, f0 = _pair(audio, f0_hz)
    window_s = 2 * _window_s(f0)
    typical = float(np.median(f0))
    numbers = np.arange(max(1, int(np.ceil(low_hz / typical))), int(high_hz / typical) + 1)
    if not len(numbers):
        raise ValueError(f"no harmonic of {typical:.0f} Hz lies between {low_hz} and {high_hz} Hz")
    on, between = (
        sum(np.abs(harmonic(x, f0, sample_rate, float(number), window_s)) ** 2 for number in all_of)
        for all_of in (numbers, numbers - 0.5)
    )
    return np.asarray(10 * np.log10(np.maximum(on, 1e-30) / np.maximum(between, 1e-30)))


@lru_cache(maxsize=4)  # all harmonics of a sound ask for the same one
def _window_spectrum(length: int, size: int) -> NDArray[np.complex128]:
    window = np.hanning(length + 2)[1:-1]
    return np.fft.fft(window / window.sum(), size)


def _window_s(f0: Array) -> float:
    return max(SHORTEST_WINDOW_S, WINDOW_PERIODS / float(f0.min()))


def _each_ms(values: Array, sample_rate: float) -> Array:
    at = np.round(np.arange(0.0, len(values) / sample_rate, STEP_S) * sample_rate).astype(int)
    each: Array = values[at[at < len(values)]]
    return each


def _pair(audio: ArrayLike, f0_hz: ArrayLike) -> tuple[Array, Array]:
    """Both as float64 [n]."""
    x, f0 = np.asarray(audio, np.float64), np.asarray(f0_hz, np.float64)
    if x.ndim != 1 or x.shape != f0.shape or not len(x):
        raise ValueError(f"harmonics need audio and f0 of one length [n], not shapes {x.shape} and {f0.shape}")
    if not (f0 > 0).all():
        raise ValueError("harmonics need an f0 above 0 Hz at every sample: interpolate it through unvoiced stretches")
    return x, f0
