"""Disturbances of the source's features: what they change, the content encoder learns to ignore.

Each clip of a batch gets its own: the frequency axis is warped (another vocal tract), a random equaliser is put over it
(another microphone, room, face), noise is added (another evening). The words survive all three; the speaker does not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dsp.mel import hz_to_mel, mel_centres
from models.source_filter.features import LOW_HZ, TOP_HZ

WARP = (0.66, 1.5)  # of the frequency axis: a wider range than from a child's to a bass's vocal tract
WARP_BEND = 0.12  # of log frequency: formants do not all move alike
EQUALISER_DB = 5.0  # standard deviation of each of the cosines
EQUALISER_COSINES = 10
NOISE_SNR_DB = (5.0, 60.0)


def disturb(energy: Tensor, generator: torch.Generator) -> Tensor:
    """Energies [batch, frames, bands], of mel bands from LOW_HZ to TOP_HZ -> each clip warped, equalised, noisy in its own way.

    `generator` is the CPU's, wherever the energies are.
    """
    batch, _, bands = energy.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    def cosines(count: int) -> Tensor:
        """[batch, bands]: smooth random curves, unit variance for each of `count` cosines."""
        order = torch.arange(1, count + 1)[None, :, None]
        band = (torch.arange(bands) + 0.5)[None, None] / bands
        amplitude = torch.randn(batch, count, 1, generator=generator) / torch.sqrt(order.float())
        return (amplitude * torch.cos(math.pi * order * band + uniform(0, 2 * math.pi, batch, count, 1))).sum(1)

    centres = torch.tensor(mel_centres(bands, LOW_HZ, TOP_HZ), dtype=torch.float32)
    log_ratio = uniform(math.log(WARP[0]), math.log(WARP[1]), batch, 1) + WARP_BEND * cosines(3)
    mel = 2595.0 * torch.log10(1.0 + centres * torch.exp(log_ratio) / 700.0)
    low, top = float(hz_to_mel(LOW_HZ)), float(hz_to_mel(TOP_HZ))
    position = ((mel - low) / (top - low) * (bands + 1) - 1).clamp(0, bands - 1.001).to(energy.device)
    index = position.long()
    fraction = (position - index)[:, None]
    lower = index[:, None].expand_as(energy)
    log_energy = torch.log(energy + 1e-12)
    warped = log_energy.gather(2, lower) * (1 - fraction) + log_energy.gather(2, lower + 1) * fraction

    equalised = warped + (EQUALISER_DB * math.log(10) / 10) * cosines(EQUALISER_COSINES)[:, None].to(energy.device)
    out = torch.exp(equalised)
    noise_db = uniform(*NOISE_SNR_DB, batch, 1, 1).to(energy.device)
    colour = torch.exp(0.7 * cosines(4))[:, None].to(energy.device)
    level = out.mean((1, 2), keepdim=True) * 10 ** (-noise_db / 10)
    # A chi-square with two degrees of freedom: the energy of Gaussian noise in a band.
    grain = -torch.log(torch.rand(out.shape, generator=generator).clamp(min=1e-6)).to(energy.device)
    return out + level * colour * grain
