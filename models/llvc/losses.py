"""The losses of LLVC's training: least-squares GAN, feature matching, multi-resolution mel spectra.

The authors' code calls its discriminators with recordings and conversions exchanged, so that they teach the generator nothing;
here every argument is named by what it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.llvc.discriminators import Verdict

MEL_BANDS = 80
LEAST_POWER = 1e-8  # of a spectral bin: 80 dB under a full-scale sine's, below the noise of 16 bits


def discriminator_loss(*, recorded: list[Verdict], made: list[Verdict]) -> Tensor:
    """Least squares (Mao et al. 2017, eq. 2): recordings to 1, conversions to 0. Summed over the members."""
    losses = [
        (1 - real.scores.float()).square().mean() + fake.scores.float().square().mean()
        for real, fake in zip(recorded, made, strict=True)
    ]
    return torch.stack(losses).sum()


def generator_loss(*, made: list[Verdict]) -> Tensor:
    """The generator's side: its conversions are to be scored 1."""
    return torch.stack([(1 - fake.scores.float()).square().mean() for fake in made]).sum()


def feature_loss(*, recorded: list[Verdict], made: list[Verdict]) -> Tensor:
    """Feature matching: mean distance of every layer's outputs, summed over layers and members. The recording's are the goal."""
    losses = [
        (wanted.detach().float() - found.float()).abs().mean()
        for real, fake in zip(recorded, made, strict=True)
        for wanted, found in zip(real.features, fake.features, strict=True)
    ]
    return torch.stack(losses).sum()


class Resolution(NamedTuple):
    """Of a spectrogram, in samples."""

    fft: int
    hop: int
    window: int


# The published config's, for 16 kHz.
RESOLUTIONS = (Resolution(1024, 120, 600), Resolution(2048, 240, 1200), Resolution(512, 50, 240))


def slaney_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mel after Slaney's Auditory Toolbox: linear below 1 kHz, 27 steps to each factor of 6.4 above."""
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def mel_weights(sample_rate: int, fft: int, bands: int = MEL_BANDS) -> NDArray[np.float64]:
    """[fft // 2 + 1, bands] triangles of equal area up to the Nyquist frequency."""
    hz = np.arange(fft // 2 + 1) * sample_rate / fft
    grid = np.linspace(0, sample_rate / 2, 200_001)
    edges = np.interp(np.linspace(0, slaney_mel(np.array(sample_rate / 2)), bands + 2), slaney_mel(grid), grid)
    rise = (hz[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    fall = (edges[2:] - hz[:, None]) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rise, fall)) * 2 / (edges[2:] - edges[:-2])


class MelLoss(nn.Module):
    """Spectral convergence and log-magnitude distance of mel spectra (Yamamoto et al. 2020, eq. 4-6), mean of the resolutions.

    `forward(made, recorded)`: waveforms [batch, samples]. At other rates than 16 kHz the resolutions keep their durations.
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        factor = max(1, round(sample_rate / 16_000))
        self.resolutions = [Resolution(*(size * factor for size in resolution)) for resolution in RESOLUTIONS]
        for resolution in self.resolutions:
            weights = torch.tensor(mel_weights(sample_rate, resolution.fft), dtype=torch.float32)
            self.register_buffer(f"mel_{resolution.fft}", weights, persistent=False)
            self.register_buffer(f"window_{resolution.window}", torch.hann_window(resolution.window), persistent=False)

    @property
    def least_samples(self) -> int:
        """Of a waveform: the longest spectrum is reflected by half of itself at each end."""
        return max(resolution.fft for resolution in self.resolutions) // 2 + 1

    def spectrum(self, audio: Tensor, resolution: Resolution) -> Tensor:
        """Magnitudes in mel bands [batch, frames, MEL_BANDS]."""
        window = self.get_buffer(f"window_{resolution.window}")
        bins = torch.stft(audio, resolution.fft, resolution.hop, resolution.window, window, return_complex=True)
        power = torch.clamp(bins.real.square() + bins.imag.square(), min=LEAST_POWER)
        return power.sqrt().transpose(1, 2) @ self.get_buffer(f"mel_{resolution.fft}")

    def forward(self, made: Tensor, recorded: Tensor) -> Tensor:
        losses = []
        for resolution in self.resolutions:
            found, wanted = self.spectrum(made.float(), resolution), self.spectrum(recorded.float(), resolution)
            convergence = torch.linalg.norm(wanted - found) / torch.linalg.norm(wanted)
            # The narrowest low bands hold no bin of the short windows: they are zero in both.
            inside = self.get_buffer(f"mel_{resolution.fft}").sum(0) > 0
            distance = (torch.log(wanted[..., inside]) - torch.log(found[..., inside])).abs().mean()
            losses.append(convergence + distance)
        return torch.stack(losses).mean()


ENVELOPE_BANDS = 40
ENVELOPE = Resolution(1024, 160, 640)  # 40 ms, for 16 kHz: two periods of a low voice
PAUSE_DB = -45.0  # under a clip's mean power in a band; what is quieter in both is alike


class EnvelopeLoss(nn.Module):
    """Distance of spectral envelopes: log power in broad mel bands over two periods of the voice. Not published.

    Most of the mel loss between a filtered voice and a synthetic one lies between and within single periods, where no filter
    brings them together, and hides what one can learn. Of that little is left in broad bands.

    `forward(made, recorded)`: waveforms [batch, samples].
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        factor = max(1, round(sample_rate / 16_000))
        self.resolution = Resolution(*(size * factor for size in ENVELOPE))
        weights = mel_weights(sample_rate, self.resolution.fft, ENVELOPE_BANDS)
        self.register_buffer("mel", torch.tensor(weights / weights.sum(0), dtype=torch.float32), persistent=False)
        self.register_buffer("window", torch.hann_window(self.resolution.window), persistent=False)

    def power(self, audio: Tensor) -> Tensor:
        """[batch, frames, ENVELOPE_BANDS]."""
        bins = torch.stft(
            audio.float(),
            self.resolution.fft,
            self.resolution.hop,
            self.resolution.window,
            self.get_buffer("window"),
            return_complex=True,
        )
        return (bins.real.square() + bins.imag.square()).transpose(1, 2) @ self.get_buffer("mel")

    def forward(self, made: Tensor, recorded: Tensor) -> Tensor:
        wanted, found = self.power(recorded), self.power(made)
        floor = 10 ** (PAUSE_DB / 10) * wanted.mean((1, 2), keepdim=True) + LEAST_POWER
        return 0.5 * (torch.log(wanted + floor) - torch.log(found + floor)).abs().mean()
