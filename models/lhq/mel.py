"""Log-mel spectrograms of 40 kHz audio: what the denoiser makes and the vocoder hears.

Frame k is centred on sample k * hop of the whole take; outside the take is silence. A slice of a take is a range of these
frames, never a grid of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsp.mel import mel_weights

FLOOR = 1e-5  # 100 dB below a full-scale sine: under the noise of any recording
BLOCK = 256  # frames transformed at once: an hour's frames would take gigabytes


@dataclass(frozen=True)
class MelPreset:
    """Analysis of a log-mel spectrogram.

    Attributes
    ----------
    name : str
    sample_rate : int
        Hz.
    n_fft, hop : int
        Length of the window, which is that of the transform, and distance of the frames, in samples.
    bins : int
        Mel bands between `low_hz` and `high_hz`.
    low_hz, high_hz : float
        Outer edges of the first and the last band.
    """

    name: str
    sample_rate: int
    n_fft: int
    hop: int
    bins: int
    low_hz: float
    high_hz: float

    def frames(self, samples: int) -> int:
        """How many frames `samples` samples have."""
        return samples // self.hop + 1


PRESETS = {
    # A window of 51 ms resolves the harmonics of a bass (80 Hz and up), which the paper's 12.8 ms blur below 300 Hz; and 100
    # frames a second cost the denoiser a third of the paper's 312, while nothing in a voice but a plosive changes faster.
    "default": MelPreset("default", 40_000, 2048, 400, 100, 40.0, 20_000.0),
    "paper": MelPreset("paper", 40_000, 512, 128, 80, 40.0, 20_000.0),
}
DEFAULT = PRESETS["default"]


def hann(length: int) -> NDArray[np.float32]:
    """Periodic Hann window of unit mean amplitude: a sine of amplitude 1 has a peak of 1 in `2 * |spectrum| / length`."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return np.asarray(window / window.mean(), np.float32)


def centred_spectra(
    audio: NDArray[np.float32], window: NDArray[np.float32], hop: int
) -> Iterator[tuple[int, NDArray[np.complex64]]]:
    """Blocks of windowed spectra of audio [N]: (number of the first frame, [frames, len(window) / 2 + 1]).

    Frame k is centred on sample k * hop; there are N // hop + 1 of them. Memory is bounded whatever N is.
    """
    length = len(window)
    total = len(audio) // hop + 1
    for first in range(0, total, BLOCK):
        count = min(BLOCK, total - first)
        start, end = first * hop - length // 2, (first + count - 1) * hop + length - length // 2
        stretch = np.pad(
            np.asarray(audio[max(0, start) : end], np.float32), (max(0, -start), max(0, end - max(len(audio), start)))
        )
        frames = np.lib.stride_tricks.sliding_window_view(stretch, length)[::hop]
        yield first, np.fft.rfft(frames * window, axis=1).astype(np.complex64, copy=False)


def log_mel(audio: NDArray[np.float32], preset: MelPreset = DEFAULT) -> NDArray[np.float32]:
    """Audio [N] at the preset's rate -> float32 [N // hop + 1, bins]: natural log of mel-weighted magnitude, at least log(1e-5).

    Magnitudes are those of sines: amplitude 1 gives about log(1).
    """
    weights = mel_weights(preset.n_fft, preset.sample_rate, preset.bins, preset.low_hz, preset.high_hz).astype(np.float32)
    out = np.empty((preset.frames(len(audio)), preset.bins), np.float32)
    for first, spectra in centred_spectra(audio, hann(preset.n_fft) * np.float32(2 / preset.n_fft), preset.hop):
        out[first : first + len(spectra)] = np.log(np.maximum(np.abs(spectra) @ weights, FLOOR))
    return out


def normalise(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-mel -> the denoiser's range: the floor is -1, a full-scale sine's peak 1."""
    return 1 - mel * np.float32(2 / math.log(FLOOR))


def denormalise(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverse of `normalise`."""
    return (1 - x) * np.float32(math.log(FLOOR) / 2)
