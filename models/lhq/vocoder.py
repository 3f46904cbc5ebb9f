"""The vocoder's network: log-mel spectrogram and pitch -> the gains of its two filters, and their synthesis with gradients.

What can be read off the spectrogram is read off it: on voiced frames the harmonics' filter starts as the line through the
spectrogram at the harmonics of f0, the noise's as the line through the valleys between them. The network corrects both, where
the bands are too wide to tell harmonics from valleys and where the window has smeared time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dsp.filters import gain_centres_hz, gain_matrix, minimum_phase_matrix
from dsp.mel import hz_to_mel
from models.lhq.content import Block, pitch_features, reach
from models.lhq.mel import DEFAULT, FLOOR, log_mel
from models.lhq.noise import frame_noise
from models.lhq.synthesis import FFT, GAINS, HOP, NOISE_FFT, NOISE_HOP, NOISE_START, NOISE_STEPS, SAMPLE_RATE, phase_of, pulses

CORRECTION = 4.0  # nepers: so far, 35 dB, the network may go from what the spectrogram says
FAINTEST = 1e-9  # amplitude of what lies at the spectrogram's floor: 80 dB below that


@dataclass(frozen=True)
class VocoderConfig:
    """Sizes of the network."""

    width: int = 192
    hidden: int = 512
    kernel: int = 7
    dilations: tuple[int, ...] = (1, 1, 1, 1)


class Vocoder(nn.Module):
    """`forward(mel, f0, voiced)`: normalised mel [batch, T, 100], Hz > 0 and 0/1 [batch, T] -> log gains.

    Harmonic [batch, T, GAINS] and noise [batch, T, NOISE_STEPS * GAINS], for `models.lhq.synthesis`.
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        inputs = DEFAULT.bins + 2 * GAINS + 4
        self.enter = nn.Linear(inputs, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.hidden, config.kernel, d) for d in config.dilations)
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, (1 + NOISE_STEPS) * GAINS)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.receptive_frames = reach(config.kernel, config.dilations)
        self.centres: Tensor
        self.calibration: Tensor
        self.register_buffer("centres", torch.tensor(gain_centres_hz(SAMPLE_RATE, GAINS), dtype=torch.float32), persistent=False)
        self.register_buffer("calibration", torch.tensor(calibration(), dtype=torch.float32), persistent=False)

    def forward(self, mel: Tensor, f0: Tensor, voiced: Tensor) -> tuple[Tensor, Tensor]:
        # Natural log again, with the floor taken off: what lies on it is silence, not a noise of that level.
        amplitude = torch.exp((1 - mel) * (math.log(FLOOR) / 2)) - FLOOR
        log_amplitude = torch.log(torch.clamp(amplitude, min=FAINTEST))
        at_harmonics, between, plain = self.lines(log_amplitude, f0)
        on = voiced[..., None]
        harmonic = at_harmonics - self.calibration[0]
        noise = on * between + (1 - on) * plain - self.calibration[1]
        x = torch.cat([mel, 0.2 * harmonic + 1, 0.2 * noise + 1, pitch_features(f0, voiced)], -1)
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        correction = CORRECTION * torch.tanh(self.leave(self.norm(x)) / CORRECTION)
        return harmonic + correction[..., :GAINS], torch.cat([noise] * NOISE_STEPS, -1) + correction[..., GAINS:]

    def lines(self, spectrum: Tensor, f0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, T, bins] read at the gains' frequencies: on the lines through the harmonics, through the valleys, directly."""
        multiple = self.centres / f0[..., None]
        harmonic = torch.clamp(torch.floor(multiple), min=1.0)
        valley = torch.clamp(torch.floor(multiple - 0.5), min=0.0) + 0.5
        found = []
        for lower in (harmonic, valley):
            share = torch.clamp(multiple - lower, 0.0, 1.0)
            low, high = self.read(spectrum, lower * f0[..., None]), self.read(spectrum, (lower + 1) * f0[..., None])
            found.append(low + share * (high - low))
        plain = self.read(spectrum, self.centres.expand_as(multiple))
        return found[0], found[1], plain

    def read(self, spectrum: Tensor, hz: Tensor) -> Tensor:
        """Values of [batch, T, bins] at frequencies [batch, T, n], on straight lines between the bands' centres."""
        low, high = float(hz_to_mel(DEFAULT.low_hz)), float(hz_to_mel(DEFAULT.high_hz))
        mel = (2595.0 / math.log(10.0)) * torch.log1p(hz / 700.0)
        position = torch.clamp((mel - low) * ((DEFAULT.bins + 1) / (high - low)) - 1, 0.0, DEFAULT.bins - 1.001)
        lower = torch.floor(position)
        index = lower.long()
        below, above = torch.gather(spectrum, 2, index), torch.gather(spectrum, 2, index + 1)
        return below + (position - lower) * (above - below)


def calibration() -> NDArray[np.float64]:
    """[2, GAINS]: what the spectrogram shows, at the gains' frequencies, of pulses and of noise under gains of zero."""
    centres = hz_to_mel(gain_centres_hz(SAMPLE_RATE, GAINS))
    edges = np.linspace(hz_to_mel(DEFAULT.low_hz), hz_to_mel(DEFAULT.high_hz), DEFAULT.bins + 2)[1:-1]
    frames = 100
    noise = log_mel(frame_noise(0, 0, 0, frames, HOP).ravel())[5:-5].mean(0)
    levels = []
    for f0 in np.geomspace(80.0, 640.0, 7):
        hz = np.full(20, f0)
        mel = log_mel(pulses(hz, phase_of(hz)).astype(np.float32))[8]
        at = np.arange(1, int(DEFAULT.high_hz * 0.9 / f0)) * f0
        through = np.interp(hz_to_mel(at), edges, mel)
        levels.append(np.interp(centres, hz_to_mel(at), through))
    return np.stack([np.mean(levels, 0), np.interp(centres, edges, noise)])


class Synthesis(nn.Module):
    """The filters of `models.lhq.synthesis` for whole batches, with gradients; the excitations come from there."""

    def __init__(self) -> None:
        super().__init__()
        self.minimum_phase: Tensor
        self.magnitudes: Tensor
        matrix = torch.tensor(minimum_phase_matrix(SAMPLE_RATE, FFT, GAINS), dtype=torch.float32)
        self.register_buffer("minimum_phase", matrix, persistent=False)
        matrix = torch.tensor(gain_matrix(SAMPLE_RATE, NOISE_FFT, GAINS), dtype=torch.float32)
        self.register_buffer("magnitudes", matrix, persistent=False)

    def forward(self, harmonic: Tensor, noise: Tensor, pulses: Tensor, hiss: Tensor) -> Tensor:
        """Gains as from the network, `pulse_frames` (zero where unvoiced) and `noise_frames`, both [batch, T, ...] -> audio.

        [batch, T * HOP], its first sample the first frame's centre.
        """
        log_magnitude, phase = torch.chunk(harmonic @ self.minimum_phase, 2, -1)
        frames = torch.fft.irfft(torch.fft.rfft(pulses, FFT) * torch.polar(torch.exp(log_magnitude), phase), FFT)
        magnitude = torch.exp(noise.unflatten(2, (NOISE_STEPS, GAINS)) @ self.magnitudes)
        margin = (NOISE_FFT - 2 * NOISE_HOP) // 2
        blown = torch.fft.irfft(torch.fft.rfft(nn.functional.pad(hiss, (margin, margin))) * magnitude, NOISE_FFT)
        sung, blown = overlap_add(frames, HOP), overlap_add(blown.flatten(1, 2), NOISE_HOP)
        samples = harmonic.shape[1] * HOP
        return sung[:, HOP : HOP + samples] + blown[:, HOP - NOISE_START : HOP - NOISE_START + samples]


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """[batch, n, length] frames, one every `hop` samples -> [batch, (n - 1) * hop + length]."""
    batch, count, length = frames.shape
    total = (count - 1) * hop + length
    return nn.functional.fold(frames.transpose(1, 2), (1, total), (1, length), stride=(1, hop)).reshape(batch, total)
