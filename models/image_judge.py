"""Discriminators that see a spectrogram as an image, told whose voice it is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.nn.utils.parametrizations import weight_norm

from dsp.mel import hz_to_mel, mel_to_hz
from models.llvc.discriminators import SLOPE, Discriminators, Verdict

RESOLUTIONS_S = (0.012, 0.024, 0.048)  # of the FFT: pulses and plosives up to single harmonics
BANDS = 96
LEAST_AMPLITUDE = 1e-4  # of a band, 80 dB under full scale


class ImageJudge(nn.Module):
    """One member of a multi-resolution discriminator (Jang et al. 2021, UnivNet).

    Its score has a term that depends on the speaker (projection: Miyato & Koyama 2018).
    """

    def __init__(self, speakers: int) -> None:
        super().__init__()
        rows = [(1, 16, 5, (2, 1)), (16, 32, 5, (2, 2)), (32, 64, 3, (2, 2)), (64, 64, 3, (2, 1))]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(before, after, kernel, stride, kernel // 2)) for before, after, kernel, stride in rows
        )
        self.last = weight_norm(nn.Conv2d(64, 1, 3, padding=1))
        self.speaker = nn.Embedding(speakers, 64)
        nn.init.normal_(self.speaker.weight, std=0.1)

    def judge(self, x: Tensor, speaker: Tensor) -> Verdict:
        """Of images [batch, 1, bands, frames] of about unit variance in the voices `speaker`, int64 [batch]."""
        features = []
        for layer in self.layers:
            x = leaky_relu(layer(x), SLOPE)
            features.append(x)
        scores = self.last(x) + (x * self.speaker(speaker)[:, :, None, None]).mean(1, keepdim=True)
        return Verdict(scores.flatten(1), features)


class SpectrogramJudge(ImageJudge):
    """One resolution of audio [batch, samples], which sees log magnitudes in mel-spaced bands."""

    def __init__(self, sample_rate: int, fft: int, speakers: int) -> None:
        super().__init__(speakers)
        self.fft = fft
        bins = fft // 2 + 1
        edges = mel_to_hz(np.linspace(0.0, float(hz_to_mel(sample_rate / 2)), BANDS + 2)) / sample_rate * fft
        # Bands narrower than a bin take the bin's own width, or they would be empty.
        low, high = np.minimum(edges[:-2], edges[1:-1] - 1), np.maximum(edges[2:], edges[1:-1] + 1)
        at = np.arange(bins)[:, None]
        weights = np.maximum(0.0, np.minimum((at - low) / (edges[1:-1] - low), (high - at) / (high - edges[1:-1])))
        self.bands: Tensor
        self.register_buffer("bands", torch.tensor(weights / weights.sum(0), dtype=torch.float32), persistent=False)

    def forward(self, audio: Tensor, speaker: Tensor) -> Verdict:
        window = torch.hann_window(self.fft, device=audio.device)
        spectrum = torch.stft(audio, self.fft, self.fft // 4, window=window, center=False, return_complex=True).abs()
        amplitude = spectrum.transpose(1, 2) @ self.bands / self.fft**0.5
        # To about zero mean and unit variance.
        x = (0.4 * torch.log(amplitude + LEAST_AMPLITUDE) + 2.2).transpose(1, 2)[:, None]
        return self.judge(x, speaker)


def spectrogram_judges(sample_rate: int, speakers: int) -> list[SpectrogramJudge]:
    """One for each of `RESOLUTIONS_S`, at the nearest powers of two."""
    return [SpectrogramJudge(sample_rate, 1 << round(np.log2(seconds * sample_rate)), speakers) for seconds in RESOLUTIONS_S]


class Spectrograms(Discriminators):
    """All resolutions, of one voice: in place of a set that sees waveforms. Waveforms [batch, 1, samples] -> one `Verdict` each."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__(spectrogram_judges(sample_rate, 1))

    def forward(self, audio: Tensor) -> list[Verdict]:
        nobody = torch.zeros(len(audio), dtype=torch.int64, device=audio.device)
        with torch.autocast(audio.device.type, enabled=False):  # an FFT wants float32
            return [member(audio[:, 0].float(), nobody) for member in self.members]
