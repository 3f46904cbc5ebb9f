"""Filters given by log gains in equal mel steps from 0 Hz to the Nyquist frequency: gains on the bins, minimum phase."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsp.mel import hz_to_mel, mel_to_hz


def gain_centres_hz(sample_rate: float, gains: int) -> NDArray[np.float64]:
    """[gains] frequencies of the log gains."""
    return mel_to_hz(np.linspace(0.0, float(hz_to_mel(sample_rate / 2)), gains))


def gain_matrix(sample_rate: float, fft: int, gains: int) -> NDArray[np.float64]:
    """[gains, fft // 2 + 1]: log gains -> log magnitudes of the bins, by straight lines between the gains."""
    hz = np.arange(fft // 2 + 1) * sample_rate / fft
    position = hz_to_mel(hz) / float(hz_to_mel(sample_rate / 2)) * (gains - 1)
    return np.maximum(0.0, 1.0 - np.abs(position[None, :] - np.arange(gains)[:, None]))


def minimum_phase_matrix(sample_rate: float, fft: int, gains: int) -> NDArray[np.float64]:
    """[gains, 2 * (fft // 2 + 1)]: log gains -> (log magnitude, phase in radians) of the minimum-phase filter.

    Both are linear in the log gains: the phase is the Hilbert transform of the log magnitude, here by folding the real
    cepstrum (Oppenheim & Schafer, Discrete-Time Signal Processing, 13.5). The fold is taken on a grid 8 times finer than
    the FFT, so that the cepstrum does not alias.
    """
    fine = 8 * fft
    cepstrum = np.fft.irfft(gain_matrix(sample_rate, fine, gains), axis=1)
    cepstrum[:, 1 : fine // 2] *= 2.0
    cepstrum[:, fine // 2 + 1 :] = 0.0
    spectrum = np.fft.rfft(cepstrum, axis=1)[:, ::8]
    return np.concatenate([spectrum.real, spectrum.imag], axis=1)


def crossfading_hann(hop: int) -> NDArray[np.float64]:
    """[2 * hop], periodic: two of them one hop apart sum to one at every sample."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2 * hop) / (2 * hop)))
