"""The generator of LLVC (Sadov, Hutter & Near 2023, arXiv:2311.00873): a waveform in, a waveform out, no pitch, no features.

The signal path is the file's order: prenet -> frames -> dilated causal encoder -> transformer decoder -> mask -> waveform.
Parameters have the names and shapes of the authors' checkpoints, so their weights load as they are.

Time is cut into frames of `stride` samples and chunks of `chunk` frames. A frame sees one stride of samples to each side of its
own: one stride of look-ahead. Inside a chunk the decoder looks both ways, so a chunk is also the least that can be streamed.

Streaming (`step`) hears the input one stride late: then each chunk's look-ahead has arrived when the chunk is full. Its output
is `forward` of the delayed input, to the rounding of floats. It is *not* `forward` of the input, shifted: the decoder's chunks
would have to end one frame earlier in the one than in the other, which no streaming of this network can do in time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

HEADS = 8
LABEL_WIDTH = 512  # of the label embedding's hidden layer
POSITIONS = 200  # length of the table of positions in the checkpoints; a window is far shorter


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes of the generator. `stride` is in samples; `chunk`, `context` and `output_context` are in frames."""

    sample_rate: int = 16_000
    stride: int = 16
    width: int = 512
    encoder_layers: int = 8  # dilations 1, 2, 4, ...: 510 frames back
    decoder_width: int = 256
    chunk: int = 13
    context: int = 13
    output_context: int = 4
    prenet_layers: int = 12
    # The authors train with 0.5 on the prenet's single channel, which silences it in all but one of 4,096 passes; at
    # conversion the network then hears a signal it was not trained on. So none by default.
    prenet_dropout: float = 0.0
    decoder_dropout: float = 0.1
    voices: int = 1

    @property
    def chunk_samples(self) -> int:
        return self.chunk * self.stride

    @property
    def receptive_field(self) -> int:
        """Samples of the past that an output sample may depend on."""
        encoder = 2 * ((1 << self.encoder_layers) - 1)
        frames = encoder + self.context + self.chunk + self.output_context
        return (frames + 2) * self.stride + 2 * self.prenet_layers


VARIANTS = {
    "llvc": GeneratorConfig(),
    "llvc-nc": GeneratorConfig(prenet_layers=0),
    "llvc-hfg": GeneratorConfig(),  # trained against other discriminators
    # Full band in 512-sample chunks. Without the prenet: 24 samples are half a millisecond here.
    "llvc-48k": GeneratorConfig(sample_rate=48_000, stride=64, chunk=8, context=16, prenet_layers=0),
}


class GeneratorState(NamedTuple):
    """What a stream remembers. `prenet` and `samples` are the raw waveform's side, the rest is frames."""

    prenet: Tensor  # [batch, 1, 2 * prenet_layers] the last two inputs of each gated block
    samples: Tensor  # [batch, 1, 2 * stride] the frames' last samples
    encoder: Tensor  # [batch, width, 510] the last inputs of each encoder layer
    decoder: Tensor  # [batch, 2, context, decoder_width] memory and target
    output: Tensor  # [batch, width, output_context]


class GatedBlock(nn.Module):
    """x -> x + tanh(filter(x)) * sigmoid(gate(x)), kernel 3. [batch, 1, 2 + samples] -> [batch, 1, samples]."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.filter = nn.Conv1d(1, 1, 3)
        self.gate = nn.Conv1d(1, 1, 3)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = x[..., 2:] + torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x))
        return self.dropout(y)  # type: ignore[no-any-return]


class Prenet(nn.Module):
    """Gated blocks in a row, added to their input. (waveform [batch, 1, samples], past) -> the same, next past."""

    def __init__(self, layers: int, dropout: float) -> None:
        super().__init__()
        self.down_convs = nn.ModuleList(GatedBlock(dropout) for _ in range(layers))

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        y, last = x, []
        for block, before in zip(self.down_convs, past.split(2, -1), strict=True):
            y = torch.cat([before, y], -1)
            last.append(y[..., -2:])
            y = block(y)
        return x + y, torch.cat(last, -1)


class EncoderLayer(nn.Module):
    """Depthwise dilated convolution, then a pointwise one. [batch, 2 * dilation + frames, width] -> [batch, frames, width].

    Frames are rows: normalisation needs no transposition, the pointwise convolution is one matrix product, and the depthwise one
    three products with its taps, which train faster on a CPU than a dilated convolution.
    """

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(width, width, 3, dilation=dilation, groups=width),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 1),
            nn.LayerNorm(width),
            nn.ReLU(),
        )
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        depthwise, pointwise = cast("nn.Conv1d", self.layers[0]), cast("nn.Conv1d", self.layers[3])
        norm, last_norm = self.layers[1], self.layers[4]
        frames = x.shape[1] - 2 * self.dilation
        y = cast("Tensor", depthwise.bias)
        for k, tap in enumerate(depthwise.weight[:, 0].unbind(1)):
            y = y + x[:, k * self.dilation :][:, :frames] * tap
        y = linear(torch.relu(norm(y)), pointwise.weight[..., 0], pointwise.bias)
        return torch.relu(last_norm(y))


class Encoder(nn.Module):
    """Residual dilated causal layers. (frames [batch, width, n], past [batch, width, 510]) -> the same, next past."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.dcc_layers = nn.ModuleDict({f"dcc_{i}": EncoderLayer(width, 2**i) for i in range(layers)})
        self.past_lengths = [2 * 2**i for i in range(layers)]

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        x, pasts = x.transpose(1, 2), past.transpose(1, 2).split(self.past_lengths, 1)
        last = []
        for layer, before in zip(self.dcc_layers.values(), pasts, strict=True):
            heard = torch.cat([before, x], 1)
            last.append(heard[:, -before.shape[1] :])
            x = x + layer(heard)
        return x.transpose(1, 2), torch.cat(last, 1).transpose(1, 2)


class Positions(nn.Module):
    """Sinusoidal positions (Vaswani et al. 2017, 3.5) of a window, [1, POSITIONS, width]."""

    pe: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
        angles = torch.arange(POSITIONS)[:, None] * rates
        self.register_buffer("pe", torch.stack([torch.sin(angles), torch.cos(angles)], -1).reshape(1, POSITIONS, width))


class DecoderLayer(nn.Module):
    """Attention of a chunk to its window and to the memory's, then a perceptron; normalised after each.

    (target [windows, context + chunk, width], memory likewise) -> [windows, chunk, width].
    """

    def __init__(self, width: int, chunk: int, dropout: float) -> None:
        super().__init__()
        self.chunk = chunk
        self.self_attn = nn.MultiheadAttention(width, HEADS, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(width, HEADS, dropout, batch_first=True)
        self.linear1 = nn.Linear(width, 2 * width)
        self.linear2 = nn.Linear(2 * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, target: Tensor, memory: Tensor) -> Tensor:
        x = target[:, -self.chunk :]
        x = self.norm1(x + self.dropout(self.self_attn(x, target, target, need_weights=False)[0]))
        x = self.norm2(x + self.dropout(self.multihead_attn(x, memory, memory, need_weights=False)[0]))
        y = self.linear2(self.dropout(torch.relu(self.linear1(x))))
        return self.norm3(x + self.dropout(y))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Chunk by chunk over windows of context and chunk. (target, memory [batch, width, n chunks], past) -> the same, next past.

    Positions are those within the window: a frame has another one when it is context. There is no mask at the start either:
    the zeros before it are attended, as in training.
    """

    def __init__(self, width: int, context: int, chunk: int, dropout: float) -> None:
        super().__init__()
        self.context = context
        self.chunk = chunk
        self.pos_enc = Positions(width)
        self.tf_dec_layers = nn.ModuleList([DecoderLayer(width, chunk, dropout)])

    def forward(self, target: Tensor, memory: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        batch, width, frames = target.shape
        window = self.context + self.chunk
        both = torch.cat([past, torch.stack([memory, target], 1).transpose(2, 3)], 2)
        windows = both.unfold(2, window, self.chunk).transpose(3, 4).transpose(0, 1).reshape(2, -1, window, width)
        memory, target = (windows + self.pos_enc.pe[:, :window]).unbind(0)
        target = self.tf_dec_layers[0](target, memory).reshape(batch, frames, width)
        return target.transpose(1, 2), both[:, :, -self.context :]


class MaskNet(nn.Module):
    """Frames [batch, width, n chunks] and a label [batch, width] -> what the frames are multiplied by; the pasts as well."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        width, narrow = config.width, config.decoder_width
        self.encoder = Encoder(width, config.encoder_layers)
        # Each narrow channel has its own pair of wide ones.
        self.proj_e2d_e = nn.Sequential(nn.Conv1d(width, narrow, 1, groups=narrow), nn.ReLU())
        self.proj_e2d_l = nn.Sequential(nn.Conv1d(width, narrow, 1, groups=narrow), nn.ReLU())
        self.proj_d2e = nn.Sequential(nn.Conv1d(narrow, width, 1, groups=narrow), nn.ReLU())
        self.decoder = Decoder(narrow, config.context, config.chunk, config.decoder_dropout)

    def forward(self, frames: Tensor, label: Tensor, encoder: Tensor, decoder: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoded, encoder = self.encoder(frames, encoder)
        labelled = label[:, :, None] * encoded
        target, memory = self.proj_e2d_l(labelled), self.proj_e2d_e(encoded)
        # A last chunk that is not full is filled with zeros here, not with silent audio.
        missing = -frames.shape[2] % self.decoder.chunk
        decoded, decoder = self.decoder(pad(target, (0, missing)), pad(memory, (0, missing)), decoder)
        decoded = decoded[..., : frames.shape[2]]
        return labelled + self.proj_d2e(decoded), encoder, decoder


class Generator(nn.Module):
    """The whole network. Waveforms are [batch, 1, samples] within -1..1, voice weights [batch, voices]."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        if config.prenet_layers:
            self.convnet_pre = Prenet(config.prenet_layers, config.prenet_dropout)
        stride, width = config.stride, config.width
        self.in_conv = nn.Sequential(nn.Conv1d(1, width, 3 * stride, stride, bias=False), nn.ReLU())
        self.label_embedding = nn.Sequential(
            nn.Linear(config.voices, LABEL_WIDTH),
            nn.LayerNorm(LABEL_WIDTH),
            nn.ReLU(),
            nn.Linear(LABEL_WIDTH, width),
            nn.LayerNorm(width),
            nn.ReLU(),
        )
        self.mask_gen = MaskNet(config)
        taps = config.output_context + 1
        self.out_conv = nn.Sequential(
            nn.ConvTranspose1d(width, 1, taps * stride, stride, padding=(taps - 1) * stride, bias=False), nn.Tanh()
        )

    def labels(self) -> Tensor:
        """[voices, width]: what each voice multiplies the encoded frames by. A mixture of voices is a mixture of these."""
        # The authors' single voice has the label 0.
        one_hot = torch.eye(self.config.voices) if self.config.voices > 1 else torch.zeros(1, 1)
        return self.label_embedding(one_hot.to(next(self.parameters())))  # type: ignore[no-any-return]

    def zero_state(self, batch: int) -> GeneratorState:
        """What `forward` starts from."""
        config, like = self.config, next(self.parameters())
        return GeneratorState(
            prenet=like.new_zeros(batch, 1, 2 * config.prenet_layers),
            samples=like.new_zeros(batch, 1, 2 * config.stride),
            encoder=like.new_zeros(batch, config.width, sum(self.mask_gen.encoder.past_lengths)),
            decoder=like.new_zeros(batch, 2, config.context, config.decoder_width),
            output=like.new_zeros(batch, config.width, config.output_context),
        )

    def stream_state(self, batch: int) -> GeneratorState:
        """What `step` starts from: the prenet has heard the silence before the first sample, and answered it."""
        state = self.zero_state(batch)
        heard, prenet = self._prenet(state.samples, state.prenet)
        return state._replace(samples=heard, prenet=prenet)

    def forward(self, audio: Tensor, voice: Tensor | None = None) -> Tensor:
        """Convert whole waveforms; `voice` defaults to the first voice. The output has the input's length."""
        stride, samples = self.config.stride, audio.shape[-1]
        state = self.zero_state(audio.shape[0])
        heard, _ = self._prenet(pad(audio, (stride, stride + -samples % stride)), state.prenet)
        return self._convert(heard, state, voice)[0][..., :samples]

    def step(self, audio: Tensor, state: GeneratorState, voice: Tensor | None = None) -> tuple[Tensor, GeneratorState]:
        """The next samples of a stream, whole chunks of them -> as many, one stride late, and the next state."""
        if audio.shape[-1] % self.config.chunk_samples:
            raise ValueError(f"expected a multiple of {self.config.chunk_samples} samples, got {audio.shape[-1]}")
        fresh, prenet = self._prenet(audio, state.prenet)
        # The prenet's output is kept, not its input: hearing those samples again would need its earlier past.
        heard = torch.cat([state.samples, fresh], -1)
        made, state = self._convert(heard, state, voice)
        return made, state._replace(prenet=prenet, samples=heard[..., -2 * self.config.stride :])

    def _prenet(self, audio: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        return self.convnet_pre(audio, past) if self.config.prenet_layers else (audio, past)

    def _convert(self, heard: Tensor, state: GeneratorState, voice: Tensor | None) -> tuple[Tensor, GeneratorState]:
        """From the prenet's output, one stride longer to each side than the output, to the output."""
        labels = self.labels()
        label = labels[:1].expand(heard.shape[0], -1) if voice is None else voice @ labels
        frames = self.in_conv(heard)
        mask, encoder, decoder = self.mask_gen(frames, label, state.encoder, state.decoder)
        masked = torch.cat([state.output, frames * mask], -1)
        last = masked[..., masked.shape[-1] - self.config.output_context :]
        return self.out_conv(masked), state._replace(encoder=encoder, decoder=decoder, output=last)
