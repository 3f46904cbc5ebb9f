"""The denoiser: what a noisy mel spectrogram was, given time and condition.

Two kinds of blocks, as in LHQ-SVC's formula (after SnapFusion, Li et al. 2023, eq. 4):
eps(t, z_t) = prod {p(CrossAttn(z_t, c), I), p(D(z_t, t), I)}: each is a residual x + f(x), so skipping it is the identity I,
exactly; while training each is skipped with a probability p. Their reaches and sizes differ, so that evolution has a choice.

The coarse mel that the condition net gives is known beforehand, so the network sees and predicts only what is left of it, in the
unit of its own spread: a change of unit, which the diffusion's formulas do not notice. Short training then goes into detail.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.lhq.diffusion import alpha, x_from_v

TILE = 16  # frames attended from at once; any number gives the same result, this one wastes little


@dataclass(frozen=True)
class BlockConfig:
    """One block: its kind, how many frames it sees to each side, and how much wider its perceptron is than the network."""

    kind: Literal["conv", "attention"]
    reach: int
    expansion: int = 2


# Receptive field 44 frames to each side. Narrow and wide, small and large; the condition comes in early, midway and late.
BLOCKS = (
    BlockConfig("attention", 8),
    BlockConfig("conv", 3, 2),
    BlockConfig("conv", 7, 2),
    BlockConfig("conv", 3, 3),
    BlockConfig("attention", 8),
    BlockConfig("conv", 15, 2),
    BlockConfig("conv", 3, 2),
    BlockConfig("attention", 8),
    BlockConfig("conv", 1, 3),
    BlockConfig("conv", 4, 2),
)


@dataclass(frozen=True)
class DenoiserConfig:
    """Sizes. `scale` is the standard deviation of mel minus coarse mel, the unit of the diffusion's noise."""

    scale: float
    mels: int = 100
    condition: int = 256
    width: int = 256
    heads: int = 4
    time: int = 128
    blocks: tuple[BlockConfig, ...] = BLOCKS

    @classmethod
    def from_json(cls, sizes: dict[str, Any]) -> DenoiserConfig:
        """Inverse of `dataclasses.asdict`, for checkpoints."""
        return cls(**{**sizes, "blocks": tuple(BlockConfig(**block) for block in sizes["blocks"])})


class TimeEmbedding(nn.Module):
    """Time [batch] in [0, 1] -> [batch, size]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        # From a quarter turn over all of time to one turn per sixteenth, the finest grid that is sampled on.
        frequency = 2 * math.pi * torch.logspace(-2, 4, 32, base=2.0)
        self.frequency: Tensor
        self.register_buffer("frequency", frequency, persistent=False)
        self.layers = nn.Sequential(nn.Linear(64, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None] * self.frequency
        return self.layers(torch.cat([angle.sin(), angle.cos()], 1))  # type: ignore[no-any-return]


class ConvBlock(nn.Module):
    """D(z, t): depthwise convolution over time, normalisation modulated by time, two-layer perceptron (after ConvNeXt)."""

    def __init__(self, config: DenoiserConfig, block: BlockConfig) -> None:
        super().__init__()
        width, hidden = config.width, block.expansion * config.width
        # Two-dimensional with a height of 1: torch and onnxruntime are three times faster so.
        self.depthwise = nn.Conv2d(width, width, (1, 2 * block.reach + 1), padding=(0, block.reach), groups=width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(config.time, 2 * width)
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)
        self.gain = nn.Parameter(torch.full((width,), len(config.blocks) ** -0.5))
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulate(time)[:, None].chunk(2, 2)
        h = self.depthwise(x.transpose(1, 2)[:, :, None])[:, :, 0].transpose(1, 2)
        h = self.norm(h) * (1 + scale) + shift
        return self.gain * self.project(nn.functional.gelu(self.expand(h)))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """CrossAttn(z, c): every frame asks the condition's frames within `reach` of it.

    Which frames those are depends on the frame alone, not on where the slice begins. They are computed in tiles of `TILE`
    frames and their surroundings, of which each frame masks what is out of its reach.
    """

    def __init__(self, config: DenoiserConfig, block: BlockConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.reach = block.reach
        self.norm = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.condition, config.width)
        self.value = nn.Linear(config.condition, config.width)
        self.project = nn.Linear(config.width, config.width)
        self.gain = nn.Parameter(torch.full((config.width,), len(config.blocks) ** -0.5))
        # Heads start out from looking at the frame itself to looking around evenly.
        distance = torch.arange(-block.reach, block.reach + 1).abs()
        self.nearness = nn.Parameter(-distance * torch.logspace(0, -3, config.heads, base=2.0)[:, None])
        self.offset: Tensor
        self.mask: Tensor
        offset = torch.arange(TILE + 2 * block.reach) - torch.arange(TILE)[:, None]
        self.register_buffer("offset", offset.clamp(0, 2 * block.reach), persistent=False)
        mask = torch.where((offset < 0) | (offset > 2 * block.reach), -1e4, 0.0)
        self.register_buffer("mask", mask, persistent=False)

    def tiles(self, x: Tensor) -> Tensor:
        """[batch, n * TILE, width] -> [batch, n, heads, TILE, width / heads]."""
        return x.unflatten(1, (-1, TILE)).unflatten(3, (self.heads, -1)).transpose(2, 3)  # type: ignore[no-any-return]

    def surroundings(self, x: Tensor) -> Tensor:
        """[batch, n * TILE, width] -> [batch, n, heads, TILE + 2 * reach, width / heads]."""
        padded = self.tiles(nn.functional.pad(x, (0, 0, TILE, TILE)))
        before, after = padded[:, :-2, :, -self.reach :], padded[:, 2:, :, : self.reach]
        return torch.cat([before, padded[:, 1:-1], after], 3)

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        frames = x.shape[1]
        whole = (frames + TILE - 1) // TILE * TILE
        q, k, v = (
            nn.functional.pad(h, (0, 0, 0, TILE - 1))[:, :whole]
            for h in (self.query(self.norm(x)), self.key(condition), self.value(condition))
        )
        scores = self.tiles(q) @ self.surroundings(k).transpose(3, 4) * (q.shape[2] // self.heads) ** -0.5
        weights = torch.softmax(scores + self.nearness[:, self.offset] + self.mask, 4)
        heard = (weights @ self.surroundings(v)).transpose(2, 3).flatten(3).flatten(1, 2)[:, :frames]
        return self.gain * self.project(heard)  # type: ignore[no-any-return]


class Denoiser(nn.Module):
    """(z [batch, frames, mels], t [batch], condition [batch, frames, condition], coarse mel like z) -> x like z.

    Mels are normalised to [-1, 1]; z's noise has the standard deviation `config.scale` at t = 1.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        self.time = TimeEmbedding(config.time)
        self.norm = nn.LayerNorm(config.condition)
        self.enter = nn.Linear(2 * config.mels + config.condition, config.width)
        kinds = {"conv": ConvBlock, "attention": CrossAttention}
        self.blocks = nn.ModuleList(kinds[block.kind](config, block) for block in config.blocks)
        self.leave_norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, 2 * config.mels)
        # v = 0: the best guess for white noise of this scale.
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    @property
    def receptive_frames(self) -> int:
        """Frames to each side on which a frame of the output depends."""
        conv, attention = (
            [block.reach for block in self.config.blocks if block.kind == kind] for kind in ("conv", "attention")
        )
        return sum(conv) + max(attention, default=0)

    def forward(
        self, z: Tensor, t: Tensor, condition: Tensor, coarse: Tensor, keep: Sequence[bool] | None = None
    ) -> Tensor:
        """`keep` says which blocks take part; None means all of them."""
        at = t[:, None, None]
        rest = (z - alpha(at) * coarse) / self.config.scale
        condition = self.norm(condition)
        time = self.time(t)
        x = self.enter(torch.cat([rest, coarse, condition], 2))
        for number, block in enumerate(self.blocks):
            if keep is None or keep[number]:
                x = x + block(x, time, condition)
        # For Gaussian data of known mean and spread the best v is a line in z, both of whose coefficients the condition tells.
        mean, slope = self.leave(self.leave_norm(x)).chunk(2, 2)
        return coarse + self.config.scale * x_from_v(rest, mean + slope * rest, at)  # type: ignore[no-any-return]

    def without(self, number: int) -> Denoiser:
        """A copy that lacks a block: the function of skipping it."""
        return self.with_blocks([k for k in range(len(self.blocks)) if k != number])

    def duplicated(self, number: int) -> Denoiser:
        """A copy with a block doubled. The second starts with a gain of 0, so the function is the same at its birth."""
        order = [*range(number + 1), *range(number, len(self.blocks))]
        grown = self.with_blocks(order)
        with torch.no_grad():
            grown.blocks[number + 1].gain.zero_()  # type: ignore[operator]
        return grown

    def with_blocks(self, order: Sequence[int]) -> Denoiser:
        """A copy whose blocks are these of its own, in this order."""
        made = copy.deepcopy(self)
        made.config = replace(self.config, blocks=tuple(self.config.blocks[k] for k in order))
        made.blocks = nn.ModuleList(copy.deepcopy(self.blocks[k]) for k in order)
        return made
