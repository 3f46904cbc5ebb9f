"""How one recording's level over time follows another's: how late, how quiet in the pauses, how alike in phrases and onsets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]

LAG_FRAME_S = 0.001
SMOOTHING_FRAMES = 10  # 10 ms: single periods of a low voice are no events
LONGEST_LAG_S = 0.25  # farther off, it is another syllable that fits
LAG_FLOOR = 1e-5  # power, -50 dBFS: the noise of a room does not count

FRAME_S = 0.05  # some periods of the lowest voice, and no syllable is shorter
PHRASE_DB = 30.0  # under the loudest frame, where a phrase ends: consonants count, breath mostly not
PAUSE_DB = 30.0  # under the phrases, where a pause begins: rooms are seldom 40 dB quieter than who speaks in them
PAUSE_EDGE = 2  # frames: so far from what is louder, the last note's decay is over
QUIETEST_DB = -120.0  # digital silence

# Onsets: plosives and hard attacks. A level is the rms of a ms, told four times a ms.
ONSETS_PER_MS = 4
ONSET_RISE_DB = 20.0  # above the loudest of the 20 ms before: within those, the periods of any voice come again
ONSET_RANGE_DB = 30.0  # under the loudest ms of all: softer ones are not heard as bursts
ONSET_REACH_MS = 15.0  # before and after an onset: in there a burst rises, however late


def envelope_lag_ms(reference: ArrayLike, audio: ArrayLike, sample_rate: float) -> float:
    """How many ms the logarithm of the energy of `audio` [n] comes after that of `reference` [m], within ±250 ms.

    In whole frames of a ms, where their cross-correlation is highest; NaN if either's level never changes, or they are shorter
    than 250 ms, of which anything fits anywhere. What is moved out at an end is lost to the sum, so that of a lag between silent
    ends some 3 ms may be missing, never added.
    """
    frame = max(1, round(LAG_FRAME_S * sample_rate))
    first, second = _pair(reference, audio)
    envelopes = [np.log(LAG_FLOOR + _powers(x, frame)) for x in (first, second)]
    frames, longest = len(envelopes[0]), round(LONGEST_LAG_S / LAG_FRAME_S)
    if frames < longest or not all(np.ptp(envelope) > 1e-9 for envelope in envelopes):
        return float("nan")
    kernel = np.full(SMOOTHING_FRAMES, 1 / SMOOTHING_FRAMES)
    a, b = (np.convolve(envelope - envelope.mean(), kernel, "same") for envelope in envelopes)
    # Twice the length: what is moved out at one end does not come back at the other.
    correlation = np.fft.irfft(np.fft.rfft(b, 2 * frames) * np.conj(np.fft.rfft(a, 2 * frames)), 2 * frames)
    lags = np.r_[0:longest, -longest:0]
    return float(lags[np.argmax(correlation[lags])]) * 1e3 * frame / sample_rate


def pause_level_db(reference: ArrayLike, audio: ArrayLike, sample_rate: float) -> float:
    """Level of `audio` [n] in the pauses of `reference` [m], in dB against its level in the phrases; at least -120.

    Pauses are where the reference is 30 dB and more under its phrases, for 100 ms before and after too; phrases are
    within 30 dB of its loudest 50 ms. NaN if it has no pause. The noise in a reference's own pauses is what this can
    be compared with: `pause_level_db(reference, reference, sample_rate)`.
    """
    frame = max(1, round(FRAME_S * sample_rate))
    first, second = _pair(reference, audio)
    wanted, power = _powers(first, frame), _powers(second, frame)
    phrases = _phrases(wanted)
    if not phrases.any():
        return float("nan")
    loud = wanted > wanted[phrases].mean() * 10 ** (-PAUSE_DB / 10)
    pauses = np.convolve(loud, np.ones(2 * PAUSE_EDGE + 1), "same")[: len(loud)] < 0.5
    level = power[phrases].mean()
    if not pauses.any() or not level > 0:
        return float("nan")
    return float(max(10 * np.log10(max(power[pauses].mean() / level, 1e-30)), QUIETEST_DB))


def level_correlation(reference: ArrayLike, audio: ArrayLike, sample_rate: float) -> float:
    """Correlation of the levels in dB of `audio` [n] and `reference` [m], each 50 ms of the reference's phrases.

    Pauses are left out, since any conversion that falls silent with its source would score by them alone. NaN with fewer
    than three frames, or where a level never changes.
    """
    frame = max(1, round(FRAME_S * sample_rate))
    first, second = _pair(reference, audio)
    wanted, power = _powers(first, frame), _powers(second, frame)
    phrases = _phrases(wanted)
    if phrases.sum() < 3 or not power[phrases].any():
        return float("nan")
    floor = power[phrases].mean() * 10 ** (QUIETEST_DB / 10)
    a, b = np.log(wanted[phrases]), np.log(np.maximum(power[phrases], floor))
    if not (np.ptp(a) > 1e-9 and np.ptp(b) > 1e-9):
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def onset_rise_ms(reference: ArrayLike, audio: ArrayLike, sample_rate: float) -> tuple[float, float]:
    """Median rise times in ms of the onsets of `reference` [n] and, at the same places, of `audio` [m].

    An onset is where the level rises by 20 dB within 5 ms above all of the 20 ms before. Rise time is that of a step's
    response: from the last time below a tenth of the amplitude's peak until 90 % of it. NaN if there is no onset.
    """
    first, second = _pair(reference, audio)
    levels = [_amplitudes(x, sample_rate) for x in (first, second)]
    places = [at for at, _ in _onsets(levels[0])]
    rises = [[_rise_ms(level, at) for at in places] for level in levels]
    if not rises[0]:
        return float("nan"), float("nan")
    return float(np.median(rises[0])), float(np.median(rises[1]))


def onsets(audio: ArrayLike, sample_rate: float) -> list[tuple[float, float]]:
    """Time in s and rise in dB of each onset of `audio` [n], as `onset_rise_ms` finds them, in their order."""
    (x, _) = _pair(audio, audio)
    return [(at / ONSETS_PER_MS / 1e3, rise_db) for at, rise_db in _onsets(_amplitudes(x, sample_rate))]


def phrase_power(power: Floats) -> float:
    """Mean of those frames' powers [n] that belong to phrases, within 30 dB of the loudest; 0 in digital silence."""
    phrases = _phrases(power)
    return float(power[phrases].mean()) if phrases.any() else 0.0


def _amplitudes(audio: Floats, sample_rate: float) -> Floats:
    """Root mean square of each ms, `ONSETS_PER_MS` times a ms."""
    energy = np.concatenate([[0.0], np.cumsum(np.square(audio))])
    centre = np.arange(0.0, len(audio), sample_rate / 1e3 / ONSETS_PER_MS)
    half = 0.5e-3 * sample_rate
    low, high = (np.clip(np.round(centre + side), 0, len(audio)).astype(int) for side in (-half, half))
    amplitudes: Floats = np.sqrt(np.maximum(energy[high] - energy[low], 0.0) / np.maximum(high - low, 1))
    return amplitudes


def _onsets(amplitude: Floats) -> list[tuple[int, float]]:
    """Where they are, in steps of `amplitude`, and their rise in dB: each the steepest within its 50 ms."""
    before, within = 20 * ONSETS_PER_MS, 5 * ONSETS_PER_MS
    if len(amplitude) < before + within + 1:
        return []
    db = 20 * np.log10(np.maximum(amplitude, 1e-6))
    past = np.lib.stride_tricks.sliding_window_view(db, before).max(axis=1)[: -within - 1]
    now = db[before + within :][: len(past)]
    rise = np.where((now - past > ONSET_RISE_DB) & (now > db.max() - ONSET_RANGE_DB), now - past, 0.0)
    found = []
    while rise.any():
        at = int(np.argmax(rise))
        found.append((at + before + within // 2, float(rise[at])))
        rise[max(0, at - 50 * ONSETS_PER_MS) : at + 50 * ONSETS_PER_MS] = 0.0
    return sorted(found)


def _rise_ms(amplitude: Floats, at: int) -> float:
    reach = round(ONSET_REACH_MS * ONSETS_PER_MS)
    around = amplitude[max(0, at - reach) : at + reach]
    top = int(np.argmax(around >= 0.9 * around.max()))
    low = np.flatnonzero(around[:top] < 0.1 * around.max())
    return (top - (int(low[-1]) if len(low) else 0)) / ONSETS_PER_MS


def _phrases(power: Floats) -> NDArray[np.bool_]:
    """Where frames of this power belong to phrases; nowhere in digital silence."""
    phrases: NDArray[np.bool_] = power > power.max(initial=0.0) * 10 ** (-PHRASE_DB / 10)
    return phrases


def _pair(reference: ArrayLike, audio: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 [n], up to the shorter one's end."""
    first, second = np.asarray(reference, np.float64), np.asarray(audio, np.float64)
    if first.ndim != 1 or second.ndim != 1:
        raise ValueError(f"envelopes need audio shaped [n], not {first.ndim} and {second.ndim} dimensions")
    length = min(len(first), len(second))
    return first[:length], second[:length]


def _powers(audio: Floats, frame: int) -> Floats:
    """Mean power of each whole frame."""
    frames = len(audio) // frame
    powers: Floats = np.square(audio[: frames * frame]).reshape(frames, frame).mean(axis=1)
    return powers
