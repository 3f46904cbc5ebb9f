"""Spectral features of the source: level-free log-mel frames, and the loudness that was taken out of them.

A frame ends with its hop and looks back over an asymmetric window whose peak lies one hop before the frame's end: there the
synthesis frame is centred, so feature and sound belong to the same moment. Everything is band-limited to 8 kHz, so that any
recording, telephone or studio, looks alike to the content encoder.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dsp.mel import mel_weights

SAMPLE_RATE = 48_000
HOP = 256  # 5.33 ms: half a chunk, so that the synthesis needs one hop of look-ahead and no more
CHUNK = 512  # two hops a step: the weights are read once for both
WINDOW = 1024  # 21.3 ms resolves 47 Hz; longer blurs plosives, shorter lets a bass voice's periods beat in the frames
ANALYSIS_BINS = 171  # up to 8 kHz
BANDS = 64
LOW_HZ = 60.0
TOP_HZ = 7_600.0  # a 16 kHz recording ends at 8 kHz; its anti-aliasing filter bends the last 400 Hz
# Per band; the sum lies near -112 dBFS, under the dither of 16 bits (-98). Nearer to it, a take 18 dB quieter, whose empty bands
# are its floor's and not its own, converts differently by dBs.
ENERGY_FLOOR = 1e-13

MEAN_SECONDS = 2.0  # memory of the running mean: long enough for a phrase, short enough for a change of microphone
PRIOR_ENERGY = 1e-4  # about one chunk of quiet speech: the prior gives way within the first syllable
# A chunk counts as at most so many times the mean energy. A bump of the microphone at full scale, 26 dB above the singing, would
# else be all that the next two seconds are held against: 5 dB of another colour, and 2.5 dB louder.
MOST_ENERGY = 10.0
USUAL_SUM = 0.4  # of energies, added to those heard: at the start, too, a loud chunk counts


def analysis_window() -> NDArray[np.float64]:
    """[WINDOW]: half a Hann rising over 768 samples, half a Hann falling over the last hop; unit noise has power 2 / WINDOW."""
    rise, fall = WINDOW - HOP, HOP
    up = 0.5 - 0.5 * np.cos(np.pi * (np.arange(rise) + 0.5) / rise)
    down = 0.5 + 0.5 * np.cos(np.pi * (np.arange(fall) + 0.5) / fall)
    window = np.concatenate([up, down])
    return window / math.sqrt(float(np.sum(window**2)) * WINDOW / 2)


def mel_matrix() -> NDArray[np.float64]:
    """[ANALYSIS_BINS, BANDS] triangular weights."""
    return mel_weights(WINDOW, SAMPLE_RATE, BANDS, LOW_HZ, TOP_HZ)[:ANALYSIS_BINS]


class BandEnergy(nn.Module):
    """Frames of audio [..., WINDOW] -> energies in mel bands [..., BANDS]; noise of variance 1 gives 2 / WINDOW in each."""

    def __init__(self) -> None:
        super().__init__()
        phase = 2 * np.pi * np.arange(WINDOW)[:, None] * np.arange(ANALYSIS_BINS)[None] / WINDOW
        window = analysis_window()[:, None]
        self.basis: Tensor
        self.mel: Tensor
        basis = np.concatenate([window * np.cos(phase), window * np.sin(phase)], axis=1)
        self.register_buffer("basis", torch.tensor(basis, dtype=torch.float32), persistent=False)
        # The same band weights for the cosine and the sine half: one product squares, adds and sums into bands.
        self.register_buffer("mel", torch.tensor(np.tile(mel_matrix(), (2, 1)), dtype=torch.float32), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        spectrum = frames @ self.basis
        return (spectrum * spectrum) @ self.mel


def split_loudness(energy: Tensor) -> tuple[Tensor, Tensor]:
    """Band energies [..., BANDS] -> (shape [..., BANDS], loudness [..., 1]), both natural logarithms of amplitude.

    `loudness` is the log of the root of the summed energy, `shape` what is left of each band: a louder take has the same
    shape, exactly.
    """
    energy = energy + ENERGY_FLOOR
    loudness = 0.5 * torch.log(energy.sum(-1, keepdim=True))
    return 0.5 * torch.log(energy) - loudness, loudness


def frame(audio: Tensor) -> Tensor:
    """[batch, samples] -> [batch, samples / HOP, WINDOW]: the frame of hop k ends at sample (k + 1) * HOP; before 0 is silence."""
    return nn.functional.pad(audio, (WINDOW - HOP, 0)).unfold(1, WINDOW, HOP)


class RunningMean(nn.Module):
    """Causal energy-weighted mean over time, per chunk: the speaker's and the microphone's long-term spectrum.

    With w the energy of a chunk, or less of one far above the mean, and a the memory, S1 <- a S1 + w v, S0 <- a S0 + w,
    mean = (S1 + p prior) / (S0 + p). Loud frames, the vowels, decide; pauses do not move it, and a bump hardly.
    State: [batch, values + 1], zero at the start.
    """

    def __init__(self, values: int) -> None:
        super().__init__()
        self.prior: Tensor
        self.register_buffer("prior", torch.zeros(values))
        self.memory = math.exp(-CHUNK / SAMPLE_RATE / MEAN_SECONDS)

    def forward(self, values: Tensor, loudness: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk: values [batch, values], loudness [batch, 1] -> (mean [batch, values], next state)."""
        most = MOST_ENERGY * (1 - self.memory) * (state[:, -1:] + USUAL_SUM)
        weight = torch.minimum(torch.exp(2 * loudness), most)
        state = self.memory * state + torch.cat([weight * values, weight], 1)
        total = state + PRIOR_ENERGY * torch.cat([self.prior, torch.ones_like(self.prior[:1])])
        return total[:, :-1] / total[:, -1:], state

    def sequence(self, values: Tensor, loudness: Tensor) -> Tensor:
        """All chunks from the zero state: [batch, chunks, values], [batch, chunks, 1] -> means [batch, chunks, values]."""
        state, means = values.new_zeros(len(values), values.shape[2] + 1), []
        for value, level in zip(values.unbind(1), loudness.unbind(1), strict=True):
            mean, state = self(value, level, state)
            means.append(mean)
        return torch.stack(means, 1)
