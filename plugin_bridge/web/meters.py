"""Levels and pitch of what goes in and what comes out, for the page."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dsp.pitch import FRAME_S, track_pitch
from dsp.resampling import Resampler, exact_rate

FLOOR_DB = -90.0
SILENT_DB = -55.0  # below which a pitch would be that of a room
PITCH_RATE = 12_000  # Hz: keeps the harmonics that a pitch is heard by, at a tenth of the cost
WINDOW_SECONDS = 0.15  # in which a bass has nine periods
# The last frames before the end of the audio have no future to be told from: they come late by as much.
EDGE_FRAMES = 6
POINT_SECONDS = 0.01
MOST_POINTS = 10  # what the window holds
MOST_SECONDS = 0.5  # worked on at once; what is older is left out


def level_db(audio: NDArray[np.float32]) -> float:
    """Highest peak of audio in dB of full scale, -90 at least."""
    peak = float(np.abs(audio).max(initial=0.0))
    return max(FLOOR_DB, 20 * math.log10(peak)) if 0 < peak < math.inf else FLOOR_DB


class PitchMeter:
    """Follows the pitch of one signal."""

    def __init__(self, sample_rate: float) -> None:
        self._rate = sample_rate
        self._most = int(MOST_SECONDS * sample_rate)
        self._resampler = Resampler(exact_rate(sample_rate), Fraction(PITCH_RATE), 1, push=self._most, pending=self._most)
        self._window = np.zeros((1, round(WINDOW_SECONDS * PITCH_RATE)), np.float32)

    def pitch_hz(self, audio: NDArray[np.float32]) -> list[float]:
        """Pitch in Hz over the time of audio [channels, n], each 10 ms to its end, 0 where there is none; 0.1 s at most."""
        audio = audio[:, -self._most :]
        points = min(MOST_POINTS, max(1, round(audio.shape[1] / self._rate / POINT_SECONDS)))
        self._resampler.push(np.mean(audio, axis=0, keepdims=True, dtype=np.float32))
        fresh = np.empty((1, self._resampler.ready), np.float32)
        self._resampler.pull(fresh)
        self._window = np.concatenate([self._window, fresh], axis=1)[:, -self._window.shape[1] :]
        if level_db(self._window) < SILENT_DB:
            return [0.0] * points
        hz = track_pitch(self._window, PITCH_RATE, method="dio").hz
        frames = len(hz) - 1 - EDGE_FRAMES - round(POINT_SECONDS / FRAME_S) * np.arange(points)[::-1]
        return [round(float(hz[frame]), 1) for frame in frames]
