"""The authors' way to stream (model.py and infer.py of KoeAI/LLVC), derived again: what the graphs' speed is measured against.

It does the work of their code, chunk for chunk: channels come first, and a normalisation transposes twice; the pasts of all
layers lie in one buffer; the whole window's keys and values are made anew, and attention maps averaged that nobody reads; the
label is embedded in every step; and the two strides that a chunk shares with the one before go through the prenet once more.
There they let those strides follow the end of the chunk before; here they follow what they followed, so that the numbers are
`Generator.step`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from models.llvc.network import DecoderLayer, EncoderLayer, GatedBlock, Generator


class ReferenceStream:
    """One stream of the generator's first voice."""

    def __init__(self, generator: Generator) -> None:
        state = generator.zero_state(1)
        self.generator = generator
        self.overlap, self.prenet = state.samples[0, 0], state.prenet
        self.encoder, self.decoder, self.output = state.encoder, state.decoder, state.output

    @torch.inference_mode()
    def step(self, audio: Tensor) -> Tensor:
        """The next whole chunks of samples [n] -> [n], one stride late."""
        generator, overlap = self.generator, len(self.overlap)
        heard = torch.cat([self.overlap, audio])
        self.overlap = heard[-overlap:]
        x = heard[None, None]
        if generator.config.prenet_layers:
            x = x + self._prenet(x, overlap)
        frames = generator.in_conv(x)
        masked = torch.cat([self.output, frames * self._mask(frames, generator.labels()[:1])], -1)
        self.output = masked[..., masked.shape[-1] - generator.config.output_context :]
        return cast("Tensor", generator.out_conv(masked)[0, 0])

    def _prenet(self, x: Tensor, overlap: int) -> Tensor:
        blocks = cast("Iterable[GatedBlock]", self.generator.convnet_pre.down_convs)
        for block, past in zip(blocks, parts(self.prenet, [2] * self.generator.config.prenet_layers), strict=True):
            heard = torch.cat([past, x], -1)
            past.copy_(heard[..., -overlap - 2 : -overlap])
            x = heard[..., 2:] + torch.tanh(block.filter(heard)) * torch.sigmoid(block.gate(heard))
        return x

    def _mask(self, frames: Tensor, label: Tensor) -> Tensor:
        net = self.generator.mask_gen
        layers = cast("Iterable[EncoderLayer]", net.encoder.dcc_layers.values())
        x = frames
        for layer, past in zip(layers, parts(self.encoder, net.encoder.past_lengths), strict=True):
            depthwise, norm, relu, pointwise, last_norm, last_relu = layer.layers
            heard = torch.cat([past, x], -1)
            past.copy_(heard[..., -past.shape[-1] :])
            y = relu(channel_norm(norm, depthwise(heard)))
            x = x + last_relu(channel_norm(last_norm, pointwise(y)))
        labelled = label[:, :, None] * x
        target, memory = net.proj_e2d_l(labelled), net.proj_e2d_e(x)
        return cast("Tensor", labelled + net.proj_d2e(self._decode(target, memory)))

    def _decode(self, target: Tensor, memory: Tensor) -> Tensor:
        decoder = self.generator.mask_gen.decoder
        memory, target = (self._windows(x, past) for x, past in zip((memory, target), self.decoder.unbind(1), strict=True))
        layer = cast("DecoderLayer", decoder.tf_dec_layers[0])
        x = target[:, -decoder.chunk :]
        x = layer.norm1(x + layer.self_attn(x, target, target)[0])
        x = layer.norm2(x + layer.multihead_attn(x, memory, memory)[0])
        x = layer.norm3(x + layer.linear2(torch.relu(layer.linear1(x))))
        return cast("Tensor", x.reshape(1, -1, x.shape[-1]).transpose(1, 2))

    def _windows(self, x: Tensor, past: Tensor) -> Tensor:
        """Frames [1, width, n], the context before them [1, context, width] -> windows with positions [chunks, window, width]."""
        decoder, width = self.generator.mask_gen.decoder, x.shape[1]
        heard = torch.cat([past, x.transpose(1, 2)], 1)
        past.copy_(heard[:, -decoder.context :])
        window = decoder.context + decoder.chunk
        windows = unfold(heard.transpose(1, 2)[..., None], (window, 1), stride=(decoder.chunk, 1))
        return windows.transpose(1, 2).reshape(-1, width, window).transpose(1, 2) + decoder.pos_enc.pe[:, :window].clone()


def parts(buffer: Tensor, lengths: list[int]) -> Iterator[Tensor]:
    """Views of the last axis."""
    for end, length in zip(accumulate(lengths), lengths, strict=True):
        yield buffer[..., end - length : end]


def channel_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Over the channels of [batch, channels, frames]."""
    return cast("Tensor", norm(x.transpose(1, 2)).transpose(1, 2))
