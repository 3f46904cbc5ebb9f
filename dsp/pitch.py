"""Fundamental frequency of whole recordings, and how far two pitch tracks are apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyworld
from numpy.typing import ArrayLike, NDArray

LOWEST_HZ = 60.0  # a bass's low B; below it, room rumble is taken for a voice
HIGHEST_HZ = 1100.0  # a soprano's high C; above it, overtones of lower notes are taken for the fundamental
FRAME_S = 0.005  # WORLD's own frame period: vibrato of 5-8 Hz is sampled some thirty times a cycle
SHORTEST_S = 0.1  # WORLD's filters need a few periods of LOWEST_HZ: shorter audio is padded with silence
BEYOND = 3.0  # semitones: so far a voice goes beyond its usual range at ease, while another key is heard at once
FULLY_OFF = 0.5  # octaves: nearer to another octave than to the right one


@dataclass(frozen=True)
class PitchTrack:
    """Fundamental frequency over time.

    Attributes
    ----------
    times_s : float64 [frames]
        Centre of each frame, in seconds from the first sample.
    hz : float64 [frames]
        Fundamental frequency; 0 where unvoiced.
    voiced : bool [frames]
        Where there is a pitch at all.
    """

    times_s: NDArray[np.float64]
    hz: NDArray[np.float64]
    voiced: NDArray[np.bool_]

    @property
    def median_hz(self) -> float:
        """Median over the voiced frames, in Hz; NaN where nothing is voiced."""
        return float(np.median(self.hz[self.voiced])) if self.voiced.any() else float("nan")


@dataclass(frozen=True)
class PitchAgreement:
    """How well a track follows a reference, over the frames that both call voiced (NaN without any).

    Attributes
    ----------
    median_cents : float
        Median absolute distance.
    gross_errors : float
        Share (0..1) of frames off by more than half an octave.
    voicing : float
        Share (0..1) of all frames on whose voicing the two agree.
    correlation : float
        Of the logarithms of both pitches; NaN too where one never changes.
    frames : int
        That both call voiced.
    """

    median_cents: float
    gross_errors: float
    voicing: float
    correlation: float
    frames: int


def track_pitch(audio: ArrayLike, sample_rate: float, *, method: Literal["harvest", "dio"] = "harvest") -> PitchTrack:
    """Pitch of a whole recording between 60 and 1100 Hz, one frame each 5 ms (WORLD: Morise 2016, 2017).

    Parameters
    ----------
    audio : [n] mono, or [channels, n], of which the mean is tracked
    sample_rate : Hz
    method
        "harvest" finds the octave on recordings where "dio" (with StoneMask) misses it, at some five times the cost
        (0.16 s a second of audio); only synthetic tones, dead steady above 600 Hz, it may call unvoiced.

    Raises
    ------
    ValueError
        Samples that are not finite, more than two dimensions, or a rate below 1 kHz or above 1 MHz.
    """
    x = np.asarray(audio, dtype=np.float64)
    if x.ndim == 2:
        x = x.mean(axis=0)
    if x.ndim != 1:
        raise ValueError(f"pitch needs audio shaped [n] or [channels, n], not {x.ndim} dimensions")
    if not np.isfinite(x).all():
        raise ValueError("pitch needs finite samples, but the audio contains NaN or infinity")
    if not 1e3 <= sample_rate <= 1e6:
        raise ValueError(f"pitch needs a sample rate between 1 kHz and 1 MHz, not {sample_rate} Hz")
    frames = int(len(x) / sample_rate / FRAME_S) + 1 if len(x) else 0
    rate = round(sample_rate)
    padding = max(0, int(SHORTEST_S * rate) - len(x))
    x = np.ascontiguousarray(np.pad(x, (0, padding)))
    if method == "harvest":
        hz, times_s = pyworld.harvest(x, rate, LOWEST_HZ, HIGHEST_HZ, FRAME_S * 1e3)
    else:
        coarse, times_s = pyworld.dio(x, rate, LOWEST_HZ, HIGHEST_HZ, frame_period=FRAME_S * 1e3)
        hz = pyworld.stonemask(x, coarse, times_s, rate)
    hz = hz[:frames]
    return PitchTrack(times_s[:frames], hz, hz > 0)


def compare_pitch(reference: PitchTrack, track: PitchTrack, shift_semitones: float = 0.0) -> PitchAgreement:
    """How far `track` is from `reference` moved by `shift_semitones`, frame by frame up to the shorter one's end."""
    frames = min(len(reference.hz), len(track.hz))
    a, b = reference.voiced[:frames], track.voiced[:frames]
    both = a & b
    voicing = float(np.mean(a == b)) if frames else float("nan")
    if not both.any():
        return PitchAgreement(float("nan"), float("nan"), voicing, float("nan"), 0)
    wanted, got = np.log2(reference.hz[:frames][both]), np.log2(track.hz[:frames][both])
    octaves = np.abs(got - wanted - shift_semitones / 12)
    moves = np.ptp(wanted) > 0 and np.ptp(got) > 0
    correlation = float(np.corrcoef(wanted, got)[0, 1]) if moves else float("nan")
    return PitchAgreement(
        float(np.median(octaves)) * 1200, float(np.mean(octaves > FULLY_OFF)), voicing, correlation, int(both.sum())
    )


def suggest_transposition(median_hz: float, lowest_hz: float, highest_hz: float) -> int:
    """Semitones that bring a source's median pitch into a voice's range, keeping the key where it can.

    None if it is there, or within three semitones; else the fewest whole octaves that bring it there; else, where octaves
    jump over a narrow range, the fewest semitones that bring it inside. 0 too if there is no pitch (NaN).
    """
    if not 0 < lowest_hz <= highest_hz:
        raise ValueError(f"a voice's range needs 0 < lowest <= highest, not {lowest_hz} to {highest_hz} Hz")
    if not median_hz > 0:
        return 0
    # A hair of tolerance: what lies exactly octaves from an edge lands on it, whatever the logarithm rounds to.
    to_lowest = 12 * np.log2(lowest_hz / median_hz) - 1e-9
    to_highest = 12 * np.log2(highest_hz / median_hz) + 1e-9
    least, most = to_lowest - BEYOND, to_highest + BEYOND
    if least <= 0 <= most:
        return 0
    octaves = 12 * int(np.ceil(least / 12) if least > 0 else np.floor(most / 12))
    if least <= octaves <= most:
        return octaves
    return int(np.ceil(to_lowest) if to_lowest > 0 else np.floor(to_highest))
