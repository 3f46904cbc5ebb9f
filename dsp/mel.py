"""The mel scale, and triangular bands on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def hz_to_mel(hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """O'Shaughnessy's mel scale."""
    return 2595.0 * np.log10(1.0 + np.asarray(hz, dtype=np.float64) / 700.0)


def mel_to_hz(mel: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Inverse of `hz_to_mel`."""
    return 700.0 * (10.0 ** (np.asarray(mel, dtype=np.float64) / 2595.0) - 1.0)


def mel_centres(bands: int, low_hz: float, high_hz: float) -> NDArray[np.float64]:
    """[bands] centre frequencies in Hz of bands that lie between `low_hz` and `high_hz`, equal steps in mel."""
    return mel_to_hz(np.linspace(hz_to_mel(low_hz), hz_to_mel(high_hz), bands + 2))[1:-1]


def mel_weights(n_fft: int, sample_rate: float, bands: int, low_hz: float, high_hz: float) -> NDArray[np.float64]:
    """[n_fft / 2 + 1, bands] triangular weights, each band normalised to unit sum, never narrower than one bin to each side."""
    spacing = sample_rate / n_fft
    hz = np.arange(n_fft // 2 + 1) * spacing
    edges = mel_to_hz(np.linspace(hz_to_mel(low_hz), hz_to_mel(high_hz), bands + 2))
    centre = edges[1:-1]
    low = np.minimum(edges[:-2], centre - spacing)
    high = np.maximum(edges[2:], centre + spacing)
    up = (hz[:, None] - low) / (centre - low)
    down = (high - hz[:, None]) / (high - centre)
    weights = np.maximum(0.0, np.minimum(up, down))
    return np.asarray(weights / weights.sum(0, keepdims=True))
