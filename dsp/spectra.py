"""Spectrograms for people to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

WINDOW_S = 0.04  # resolves the partials of a low voice (some 25 Hz apart at -6 dB), still shows consonants
HOP_S = 0.01
FLOOR_DB = -120.0  # digital silence; keeps the logarithm finite


@dataclass(frozen=True)
class Spectrogram:
    """Levels in dB, 0 for a full-scale sine.

    Attributes
    ----------
    times_s : float64 [frames]
        Centre of each frame.
    frequencies_hz : float64 [bands]
    level_db : float32 [bands, frames]
        At least -120.
    """

    times_s: NDArray[np.float64]
    frequencies_hz: NDArray[np.float64]
    level_db: NDArray[np.float32]


def spectrogram(
    audio: ArrayLike, sample_rate: float, frequencies_hz: ArrayLike, *, window_s: float = WINDOW_S, hop_s: float = HOP_S
) -> Spectrogram:
    """Spectrogram of `audio` [n] at the wanted frequencies, such as `numpy.geomspace(50, 16000, 256)`.

    A window of `window_s` each `hop_s`: a shorter one shows bursts, and no partials. Each band holds the strongest bin between its
    neighbours, so that no partial falls between two bands; frequencies above half the sample rate are silent.
    """
    x = np.asarray(audio, dtype=np.float32)
    bands = np.asarray(frequencies_hz, dtype=np.float64)
    window_length = max(16, round(window_s * sample_rate))
    hop = max(1, round(hop_s * sample_rate))
    fft_length = 2 ** int(np.ceil(np.log2(window_length))) * 2  # zero-padded: narrow bands interpolate
    window = np.hanning(window_length + 1)[:-1].astype(np.float32)
    x = np.pad(x, (window_length // 2, window_length))
    frames = np.lib.stride_tricks.sliding_window_view(x, window_length)[:-1:hop]
    edges_hz = np.append(bands[:1], np.sqrt(bands[:-1] * bands[1:]))
    first_bin = np.clip(np.rint(edges_hz * fft_length / sample_rate).astype(int), 0, fft_length // 2)
    end_bin = min(int(bands[-1] * fft_length / sample_rate) + 1, fft_length // 2 + 1)
    level = np.empty((len(bands), len(frames)), np.float32)
    for k in range(0, len(frames), 64):  # in batches: an FFT of every frame at once would take gigabytes
        magnitude = np.abs(np.fft.rfft(frames[k : k + 64] * window, fft_length))[:, :end_bin]
        level[:, k : k + 64] = np.maximum.reduceat(magnitude, np.minimum(first_bin, end_bin - 1), axis=1).T
    level *= 2 / window.sum()
    level[bands > sample_rate / 2] = 0
    db = np.maximum(20 * np.log10(np.maximum(level, 1e-9)), FLOOR_DB)
    return Spectrogram(np.arange(len(frames)) * hop / sample_rate, bands, db.astype(np.float32))
