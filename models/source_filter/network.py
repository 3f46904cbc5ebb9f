"""The network: a causal content encoder with a narrow, noisy bottleneck, and a causal decoder to spectral envelopes.

One network frame a chunk (512 samples, two hops): the encoder sees both hops' spectra, the decoder gives both hops' filters.
What passes between them is 32 numbers a chunk, white and disturbed by noise while training: enough for the words, too
little for the speaker.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.source_filter.features import BANDS
from models.source_filter.synthesis import GAINS
from models.source_filter.whitening import Whiten


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network. `voices` counts the embeddings, those of helping speakers included."""

    voices: int
    width: int = 256
    hidden: int = 512
    kernel: int = 5  # chunks; four blocks see 17 chunks = 181 ms back
    encoder_blocks: int = 2
    decoder_blocks: int = 4
    content: int = 32
    content_noise: float = 0.3  # against the unit variance of the bottleneck's channels
    embedding: int = 64


class Block(nn.Module):
    """Residual block: causal depthwise convolution over time, normalisation, two-layer perceptron. [batch, chunks, width]."""

    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.depthwise = nn.Parameter(torch.randn(kernel, width) * kernel**-0.5)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def mix(self, x: Tensor) -> Tensor:
        # ReLU: in the step graph it is one cheap node.
        return self.project(torch.relu(self.expand(self.norm(x))))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        weight = self.depthwise.t()[:, None]
        past = nn.functional.pad(x.transpose(1, 2), (self.kernel - 1, 0))
        return x + self.mix(nn.functional.conv1d(past, weight, groups=x.shape[2]).transpose(1, 2))


class Encoder(nn.Module):
    """Normalised spectra of a chunk [batch, chunks, 2 * BANDS] -> content [batch, chunks, content], standardised."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * BANDS, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.hidden, config.kernel) for _ in range(config.encoder_blocks)
        )
        self.leave = nn.Linear(config.width, config.content)
        self.whiten = Whiten(config.content)

    def forward(self, x: Tensor) -> Tensor:
        return self.whiten(self.encode(x))  # type: ignore[no-any-return]

    def encode(self, x: Tensor) -> Tensor:
        """As `forward`, but for the whitening."""
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        return self.leave(x)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """(content, prosody [batch, chunks, PROSODY], voice [batch, chunks or 1, embedding]) -> log gains.

    The gains [batch, chunks, 2 hops, 2 filters, GAINS] (harmonic, noise) are relative to the hop's loudness.
    """

    PROSODY = 6  # for each hop: log2 f0, voicing, loudness against its running mean

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.enter = nn.Linear(config.content + self.PROSODY, config.width)
        self.voice = nn.Linear(config.embedding, config.width, bias=False)
        self.blocks = nn.ModuleList(
            Block(config.width, config.hidden, config.kernel) for _ in range(config.decoder_blocks)
        )
        self.leave = nn.Linear(config.width, 4 * GAINS)
        nn.init.normal_(self.leave.weight, std=1e-3)
        # About the level of speech under a source of unit power, the noise 20 dB under the pulses.
        nn.init.zeros_(self.leave.bias)
        with torch.no_grad():
            self.leave.bias.view(2, 2, GAINS)[:, 1] -= 2.3

    def forward(self, content: Tensor, prosody: Tensor, voice: Tensor) -> Tensor:
        x = self.enter(torch.cat([content, prosody], -1)) + self.voice(voice)
        for block in self.blocks:
            x = block(x)
        return self.leave(x).unflatten(-1, (2, 2, GAINS))  # type: ignore[no-any-return]


class Network(nn.Module):
    """Encoder, decoder and the voices' embeddings."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.voices = nn.Embedding(config.voices, config.embedding)

    def disturb(self, content: Tensor) -> Tensor:
        """Bottleneck noise: what the encoder wants to get through must be worth more than this."""
        return content + self.config.content_noise * torch.randn_like(content)


def prosody(f0: Tensor, voicing: Tensor, loudness: Tensor) -> Tensor:
    """Three tensors [batch, chunks, 2] (Hz, 0..1, log amplitude against its mean) -> the decoder's input [batch, chunks, 6]."""
    return torch.cat([torch.log2(f0 / 220.0), voicing, 0.5 * torch.clamp(loudness, -8.0, 3.0)], -1)
