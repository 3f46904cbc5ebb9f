"""Content encoder and condition network: from what is sung, how high and how loud, to what the denoiser is told.

The encoder ends in a narrow bottleneck, white and disturbed by noise while training: enough for the words, too little
for the speaker. Nothing here is causal; both networks see a bounded neighbourhood, `receptive_frames` to each side, so that a
slice of a song with that much context is converted like the whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.checkpoint import restoring
from models.lhq.features import BANDS
from models.lhq.mel import DEFAULT, FLOOR
from models.source_filter.whitening import Whiten

CONDITION = 256  # channels, as in the paper
MEAN_FRAMES = 128  # to each side: two and a half seconds hold enough vowels for the long-term spectrum of voice and microphone
# Energy that the mean starts from: about a frame of quiet speech, so that a pause between phrases has a mean at all.
PRIOR_ENERGY = 1e-6


@dataclass(frozen=True)
class ContentConfig:
    """Sizes of the two networks. `voices` counts the embeddings, those of helping speakers included."""

    voices: int
    content: int = 48
    content_noise: float = 0.35  # against the unit variance of the bottleneck's channels
    encoder_width: int = 256
    encoder_hidden: int = 640
    encoder_dilations: tuple[int, ...] = (1, 2, 4, 1, 2, 4)
    condition_width: int = 256
    condition_hidden: int = 640
    condition_dilations: tuple[int, ...] = (1, 2, 1, 2)
    kernel: int = 7
    embedding: int = 64


class Block(nn.Module):
    """ConvNeXt-like residual block: depthwise convolution over time, normalisation, two-layer perceptron. [batch, T, width].

    With a voice, scale and shift of the normalised channels come from its embedding.
    """

    def __init__(self, width: int, hidden: int, kernel: int, dilation: int, embedding: int = 0) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2 * dilation, dilation=dilation, groups=width)
        self.norm = nn.LayerNorm(width, elementwise_affine=not embedding)
        self.voice = nn.Linear(embedding, 2 * width) if embedding else None
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)
        # Each block starts as the identity.
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        if self.voice is not None:
            nn.init.normal_(self.voice.weight, std=0.02)
            nn.init.zeros_(self.voice.bias)

    def forward(self, x: Tensor, voice: Tensor | None = None) -> Tensor:
        y = self.norm(self.depthwise(x.transpose(1, 2)).transpose(1, 2))
        if self.voice is not None and voice is not None:
            scale, shift = self.voice(voice)[:, None].chunk(2, -1)
            y = y * (1 + scale) + shift
        return x + self.project(torch.relu(self.expand(y)))  # type: ignore[no-any-return]


def reach(kernel: int, dilations: tuple[int, ...]) -> int:
    """Frames to each side that a stack of blocks sees."""
    return kernel // 2 * sum(dilations)


def running_sum(x: Tensor, reach: int) -> Tensor:
    """Sums of x [batch, T, n] over `reach` frames, a power of two, to each side of every frame; beyond the ends is zero.

    Of two neighbouring sums of half as many frames each, and so on: an average pool, which adds up every window by itself, took
    a fifth of the encoder's time.
    """
    padded = nn.functional.pad(x, (0, 0, reach, reach))
    total, frames = padded, 1
    while frames < 2 * reach:
        total = total[:, :-frames] + total[:, frames:]
        frames *= 2
    return total[:, :-1] + padded[:, 2 * reach :]


class LongTermMean(nn.Module):
    """Takes level and long-term spectrum out of features [batch, T, BANDS].

    Each frame's loudness is taken out of it, then the energy-weighted mean over 128 frames to each side: what microphone, room
    and larynx add to every vowel. Output [batch, T, BANDS + 1], the last channel the frame's loudness against its surroundings.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prior: Tensor
        self.register_buffer("prior", torch.zeros(BANDS + 1))

    def forward(self, features: Tensor) -> Tensor:
        energy = torch.exp(2 * features).mean(2, keepdim=True)
        level = 0.5 * torch.log(energy)
        values = torch.cat([features - level, level], 2)
        # Beyond the ends the energy is zero: what is not there does not count.
        total = running_sum(torch.cat([energy * values, energy], 2), MEAN_FRAMES)
        mean = (total[..., :-1] + PRIOR_ENERGY * self.prior) / (total[..., -1:] + PRIOR_ENERGY)
        shape, relative = torch.split(values - mean, [BANDS, 1], 2)
        return torch.cat([shape, 0.5 * torch.clamp(relative, -8.0, 3.0)], 2)


class ContentEncoder(nn.Module):
    """Content features [batch, T, BANDS] -> content [batch, T, content], its channels uncorrelated and of unit variance."""

    def __init__(self, config: ContentConfig) -> None:
        super().__init__()
        self.normalise = LongTermMean()
        self.enter = nn.Linear(BANDS + 1, config.encoder_width)
        self.blocks = nn.ModuleList(
            Block(config.encoder_width, config.encoder_hidden, config.kernel, d) for d in config.encoder_dilations
        )
        self.leave = nn.Linear(config.encoder_width, config.content)
        self.whiten = Whiten(config.content)
        self.receptive_frames = MEAN_FRAMES + reach(config.kernel, config.encoder_dilations)

    def forward(self, features: Tensor) -> Tensor:
        return self.whiten(self.encode(self.normalise(features)))  # type: ignore[no-any-return]

    def encode(self, x: Tensor) -> Tensor:
        """From what `normalise` gives to what `whiten` takes."""
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        return self.leave(x)  # type: ignore[no-any-return]


def pitch_features(f0: Tensor, voiced: Tensor) -> Tensor:
    """f0 in Hz and voicing 0..1 [batch, T] -> [batch, T, 4]: the paper's log(1 + f0 / 700), pitch class as a point on a circle,
    voicing.

    Pitch class says where the harmonics lie within an octave, the same for all octaves: a singer's rare heights learn from
    the middle of the voice.
    """
    angle = 2 * math.pi * torch.log2(f0 / 440.0)
    height = 4 * torch.log1p(f0 / 700.0) - 1.5  # about -1 at 80 Hz, 1 at 600 Hz
    return torch.stack([height, torch.sin(angle), torch.cos(angle), voiced], -1)


class ConditionNet(nn.Module):
    """Content, pitch, loudness, formant shift and voice -> condition and a coarse mel spectrogram."""

    SCALARS = 6  # pitch features, loudness, formant shift

    def __init__(self, config: ContentConfig) -> None:
        super().__init__()
        self.enter = nn.Linear(config.content + self.SCALARS, config.condition_width)
        self.voice = nn.Linear(config.embedding, config.condition_width, bias=False)
        self.blocks = nn.ModuleList(
            Block(config.condition_width, config.condition_hidden, config.kernel, d, config.embedding)
            for d in config.condition_dilations
        )
        self.norm = nn.LayerNorm(config.condition_width)
        self.leave = nn.Linear(config.condition_width, CONDITION)
        self.coarse = nn.Linear(CONDITION, DEFAULT.bins)
        nn.init.normal_(self.coarse.weight, std=1e-2)
        nn.init.zeros_(self.coarse.bias)
        self.receptive_frames = reach(config.kernel, config.condition_dilations)

    def forward(
        self, content: Tensor, f0: Tensor, voiced: Tensor, loudness: Tensor, shift: Tensor, voice: Tensor
    ) -> Tensor:
        """Condition [batch, T, 256] of content [batch, T, content], f0 in Hz, voiced 0..1 and loudness [batch, T], formant shift
        in semitones [batch], voice embedding [batch, embedding]."""
        shift = (shift / 5.0)[:, None].expand_as(f0)
        scalars = torch.cat([pitch_features(f0, voiced), torch.stack([0.5 * loudness + 2.0, shift], -1)], -1)
        x = self.enter(torch.cat([content, scalars], -1)) + self.voice(voice)[:, None]
        for block in self.blocks:
            x = block(x, voice)
        return self.leave(self.norm(x))  # type: ignore[no-any-return]

    def mel(self, condition: Tensor, loudness: Tensor) -> Tensor:
        """Coarse normalised mel [batch, T, bins]; the loudness is added, so that the head only learns the shape."""
        return self.coarse(condition) - 1 + (loudness[..., None] - math.log(FLOOR)) * (-2 / math.log(FLOOR))  # type: ignore[no-any-return]


class Conditioning(nn.Module):
    """The condition network and the voices' embeddings, for content that is given: what a new voice learns."""

    def __init__(self, config: ContentConfig) -> None:
        super().__init__()
        self._build(config)

    def _build(self, config: ContentConfig) -> None:
        self.config = config
        self.condition = ConditionNet(config)
        self.voices = nn.Embedding(config.voices, config.embedding)

    def disturb(self, content: Tensor) -> Tensor:
        """Bottleneck noise: what the encoder wants to get through must be worth more than this."""
        return content + self.config.content_noise * torch.randn_like(content)


class Conditioner(Conditioning):
    """With the encoder of the content: what stage 1 trains and a song pack carries."""

    def __init__(self, config: ContentConfig) -> None:
        nn.Module.__init__(self)
        self.encoder = ContentEncoder(config)  # the first: an optimiser's checkpoint knows parameters by their order
        self._build(config)


def load_content(path: Path) -> tuple[Conditioner, list[str]]:
    """The averaged networks of a stage-1 checkpoint, and the names of its voices, the first embeddings in order.

    Raises CheckpointError if the file does not hold them.
    """
    with restoring(path, "a stage-1 checkpoint") as state:
        model = Conditioner(ContentConfig(**state["config"]))
        model.load_state_dict(state["average"])
        if not all(isinstance(voice, str) for voice in state["voices"]):
            raise TypeError("its voices have no names")
        return model.eval(), list(state["voices"])
