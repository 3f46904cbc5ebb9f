"""More speakers than there are: originals with other formants and another colour, for the same conversion.

A few hundred speakers of ten seconds each are soon known by heart. With its spectral envelope stretched along the frequency and
its bands louder or softer, a clip comes from a throat and a microphone that the network never heard; its pitch, its timing and
what it is to become stay the same.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

WINDOW_S = 0.032
ENVELOPE_S = 0.003  # quefrencies below this are envelope, the more the lower: those of a voice's periods lie above, up to 330 Hz
LARGEST_GAIN = 2.0  # natural logarithm: 17 dB
COLOUR_WAVES = 4  # half waves of the colour's curve over the logarithm of the frequency
LOWEST_HZ = 60.0


def disturb(audio: Tensor, sample_rate: int, warp: float, colour_db: float, random: np.random.Generator) -> Tensor:
    """Clips [batch, 1, samples], each with its envelope stretched and coloured in its own way, not moved by a sample.

    `warp` is the largest stretch, as the natural logarithm of a ratio of frequencies; `colour_db` the standard deviation of each of
    the curve's waves.
    """
    size = 1 << round(math.log2(WINDOW_S * sample_rate))
    window = torch.hann_window(size, device=audio.device)
    spectrum = torch.stft(audio[:, 0], size, size // 4, window=window, return_complex=True)  # [batch, bins, frames]
    quefrency = torch.arange(size, device=audio.device) / sample_rate
    quefrency = torch.minimum(quefrency, size / sample_rate - quefrency)
    lifter = 0.5 + 0.5 * torch.cos(math.pi * (quefrency / ENVELOPE_S).clamp(max=1.0))
    cepstrum = torch.fft.irfft((spectrum.abs() + 1e-6).log(), size, dim=1)
    envelope = torch.fft.rfft(cepstrum * lifter[:, None], dim=1).real

    bins = np.arange(size // 2 + 1)
    height = np.log(np.maximum(bins * sample_rate / size, LOWEST_HZ) / LOWEST_HZ) / math.log(sample_rate / 2 / LOWEST_HZ)
    waves = np.cos(math.pi * np.arange(1, COLOUR_WAVES + 1)[:, None] * height)
    colours = random.standard_normal((len(audio), COLOUR_WAVES)) * colour_db * math.log(10) / 20 @ waves
    gains = []
    for own, colour in zip(envelope, colours, strict=True):
        at = np.minimum(bins * math.exp(random.uniform(-warp, warp)), len(bins) - 1.0)
        below = np.minimum(at.astype(np.int64), len(bins) - 2)
        part = torch.tensor(at - below, dtype=own.dtype, device=own.device)[:, None]
        stretched = torch.lerp(own[below], own[below + 1], part)
        coloured = torch.tensor(colour, dtype=own.dtype, device=own.device)[:, None]
        gains.append((stretched - own).clamp(-LARGEST_GAIN, LARGEST_GAIN) + coloured)
    made = torch.istft(spectrum * torch.stack(gains).exp(), size, size // 4, window=window, length=audio.shape[-1])
    return made[:, None]
