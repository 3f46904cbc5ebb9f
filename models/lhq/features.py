"""What the content encoder hears of a take: log-mel energies below 7.6 kHz, on the frames of the song's one grid.

Band-limited so that any recording serves. Each frame depends on its own 25.6 ms alone; level and long-term spectrum are taken
out inside the encoder, which sees its neighbourhood.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsp.mel import hz_to_mel, mel_to_hz, mel_weights
from dsp.products import product
from models.lhq.mel import DEFAULT, centred_spectra, hann

WINDOW = 1024  # 25.6 ms: short enough for plosives, long enough that the periods of a bass do not beat in the frames
BANDS = 80
LOW_HZ, TOP_HZ = 60.0, 7_600.0  # a 16 kHz recording ends at 8 kHz; its anti-aliasing filter bends the last 400 Hz
FLOOR = 1e-12  # of a band's energy, that of a sine of amplitude 1 being about 1: 120 dB down, under 16-bit dither


def content_features(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Audio [N] at 40 kHz -> float32 [N // 400 + 1, 80]: half the natural log of the energy in each mel band (log amplitude)."""
    weights = mel_weights(WINDOW, DEFAULT.sample_rate, BANDS, LOW_HZ, TOP_HZ).astype(np.float32)
    out = np.empty((DEFAULT.frames(len(audio)), BANDS), np.float32)
    for first, spectra in centred_spectra(audio, hann(WINDOW) * np.float32(2 / WINDOW), DEFAULT.hop):
        energy = product(spectra.real**2 + spectra.imag**2, weights)
        out[first : first + len(spectra)] = 0.5 * np.log(energy + FLOOR)
    return out


def loudness(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """`content_features` [.., 80] -> float32 [..]: natural log of the root mean square of the sound below 7.6 kHz, at least -11.7.

    The energy of a band times its width in bins, summed, is the energy of the frame; that of Hann-windowed sound is 3 times its
    mean square, in units where a sine of amplitude 1 has a peak of 1.
    """
    edges = mel_to_hz(np.linspace(hz_to_mel(LOW_HZ), hz_to_mel(TOP_HZ), BANDS + 2))
    width = ((edges[2:] - edges[:-2]) / 2 / (DEFAULT.sample_rate / WINDOW)).astype(np.float32)
    return np.asarray(0.5 * np.log(np.einsum("...b,b->...", np.exp(2 * features), width / 3)))
