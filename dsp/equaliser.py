"""The equaliser of a voice: what the long-term spectrum of its conversions lacks of that of its recordings.

A voice is known by its long-term spectrum, and what a network makes of other people in its stead has another one than the singer,
wherever they come from and wherever they are recorded: most of all at pitches that the singer never sang.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsp.mel import hz_to_mel, mel_centres, mel_weights

BANDS = 48
RATE, FFT, HOP = 16_000, 1024, 256  # 64 ms: the harmonics of any voice are apart
LOUD = 1e-4  # of the loudest frame's power: 40 dB under it nobody sings
LEAST_POWER = 1e-12  # of a band, against the loudest frame's: 120 dB under it
NOTHING_HZ = 12_000.0  # recordings of 16 kHz say nothing of what lies above 8 kHz: there it fades to nothing
SMOOTH = 1.0  # bands; what is finer is the harmonics of some pitch, and the vowels of some language


def centres_hz() -> NDArray[np.float64]:
    """[BANDS], equal steps in mel below 8 kHz."""
    return mel_centres(BANDS, 0.0, RATE / 2)


def long_term_spectrum_db(audio: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean level [BANDS] of what is loud in audio [n] at 16 kHz, against the mean of all bands.

    ValueError, one sentence, if it is shorter than a frame or silent.
    """
    if len(audio) < FFT or not np.any(audio):
        raise ValueError(f"expected a sound of at least {FFT / RATE * 1e3:.0f} ms, got {len(audio)} samples, or silence")
    frames = np.lib.stride_tricks.sliding_window_view(np.asarray(audio, np.float64), FFT)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(FFT + 1)[:-1])) ** 2 @ mel_weights(FFT, RATE, BANDS, 0.0, RATE / 2)
    loudness = power.sum(1)
    level = 10 * np.log10(power[loudness > LOUD * loudness.max()] / loudness.max() + LEAST_POWER).mean(0)
    return np.asarray(level - level.mean())


def equaliser_db(recordings: Sequence[NDArray[np.float64]], conversions: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """What conversions lack [BANDS], from the long-term spectra of both: smooth, and of no effect on their power."""
    converted = np.mean(conversions, axis=0)
    lack = np.mean(recordings, axis=0) - converted
    band = np.arange(BANDS)
    kernel = np.exp(-0.5 * ((band[:, None] - band) / SMOOTH) ** 2)
    lack = kernel @ lack / kernel.sum(1)
    power = 10 ** (converted / 10)
    return np.asarray(lack - 10 * np.log10((power * 10 ** (lack / 10)).sum() / power.sum()))


def gains_db(equaliser: Sequence[float], hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """An equaliser [BANDS] at any frequencies: straight lines in mel, below the first band as there."""
    at = np.append(centres_hz(), NOTHING_HZ)
    return np.asarray(np.interp(hz_to_mel(hz), hz_to_mel(at), np.append(equaliser, 0.0)))


def equalised(audio: NDArray[np.floating], equaliser: Sequence[float], rate: int = RATE) -> NDArray[np.float32]:
    """Audio [n] at a multiple of 16 kHz through an equaliser [BANDS], in its place: the filter has no phase."""
    fft, hop = FFT * rate // RATE, HOP * rate // RATE
    window = np.hanning(fft + 1)[:-1]
    gains = 10 ** (gains_db(equaliser, np.linspace(0.0, rate / 2, fft // 2 + 1, dtype=np.float64)) / 20)
    padded = np.pad(np.asarray(audio, np.float64), (fft, fft + -len(audio) % hop))
    frames = np.fft.irfft(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, fft)[::hop] * window) * gains)
    made = np.zeros(len(padded))
    for number, frame in enumerate(frames):
        made[number * hop : number * hop + fft] += frame
    # Windows a quarter apart add up to two.
    return np.asarray(made[fft : fft + len(audio)] / 2, np.float32)
