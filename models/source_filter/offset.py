"""A constant offset, and what moves slower than any voice, taken off in a streaming graph: a high-pass filter of one pole.

The features take an offset, and the rumble of a stage, for sound in their lowest bands: under 2 % of it the noise between phrases
came out at -37 dBFS.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from models.source_filter.features import CHUNK, SAMPLE_RATE

# Down by 3 dB here, by 0.1 dB at 60 Hz, the lowest voice. An offset of any size is gone, to -80 dB, after 0.15 s.
OFFSET_HZ = 10.0

ROW = 32  # samples; with one product over a whole chunk the table would be a megabyte
ROWS = CHUNK // ROW


class OffsetFilter(nn.Module):
    """One chunk [1, CHUNK] and the mean [1, 1] that ran up to it -> (the chunk less its running mean, the mean at its end).

    m[k] = r m[k - 1] + (1 - r) x[k], y[k] = x[k] - m[k], with r what a sample leaves of the mean before it.
    """

    def __init__(self) -> None:
        super().__init__()
        memory = math.exp(-2 * math.pi * OFFSET_HZ / SAMPLE_RATE)
        sample, row = np.arange(ROW), np.arange(ROWS + 1)
        within = np.where(sample[:, None] <= sample, (1 - memory) * memory ** (sample - sample[:, None]).clip(0), 0.0)
        # From the mean before the chunk, and what each row adds to it, to the mean before each row and at the end.
        across = np.where(row <= row[:, None], memory ** (ROW * (row[:, None] - row).clip(0)), 0.0)
        self.within = nn.Parameter(torch.tensor(within, dtype=torch.float32), requires_grad=False)
        self.across = nn.Parameter(torch.tensor(across, dtype=torch.float32), requires_grad=False)
        self.decay = nn.Parameter(torch.tensor(memory ** (sample + 1.0), dtype=torch.float32), requires_grad=False)

    def forward(self, audio: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        rows = audio.reshape(ROWS, ROW)
        added = rows @ self.within
        means = self.across @ torch.cat([mean, added[:, -1:]])
        return (rows - added - means[:-1] * self.decay).reshape(1, CHUNK), means[-1:]
