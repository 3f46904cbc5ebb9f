"""Where training starts: a generator that passes its input on, nearly unchanged.

From random weights the network spends its first thousands of steps learning to pass any waveform at all. Here the first and the
last convolution are a filterbank and its inverse, and the mask between them is nearly one, so that from the first step on it
learns what is different between the voices. Names, shapes and what can be learned are those of any other start.

A frame hears three strides and sounds in the last two of them, cross-faded with its neighbours. The ReLU behind the filterbank
lets half a wave through, so every filter is there with both signs.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from models.llvc.network import EncoderLayer, Generator

FILTER_GAIN = 0.1  # of the analysis filters: both convolutions' weights become about as large
FLOOR = 0.3  # of the analysis window at its ends, which the inverse divides by
HEARING = 30.0  # gain of the encoder's first layer: normalised is what lies up to about 34 dB under speech, below it fades
LABEL, LABEL_SPREAD = 0.03, 0.02  # how much of the encoder's output is in the mask
DECODED, DECODED_SPREAD = 0.9, 0.05  # what the decoder gives to the mask


def filterbank(stride: int, width: int, taps: int) -> tuple[Tensor, Tensor]:
    """Analysis [width, 1, 3 * stride] and synthesis [width, 1, taps * stride] weights that undo each other.

    `width` is a multiple of 4 and at least 6 * stride: a sine and a cosine at each of width / 4 frequencies, with both signs.
    """
    window = FLOOR + (1 - FLOOR) * torch.hann_window(3 * stride + 1, periodic=False, dtype=torch.float64)[1:]
    radians = (torch.arange(width // 4) + 0.5) * math.pi / (width // 4)
    angles = radians[:, None] * (torch.arange(3 * stride) - 1.5 * stride)
    analysis = torch.cat([torch.cos(angles), torch.sin(angles)]) * window * FILTER_GAIN
    fade = torch.hann_window(2 * stride, dtype=torch.float64)
    synthesis = torch.zeros(len(analysis), taps * stride, dtype=torch.float64)
    synthesis[:, : 2 * stride] = torch.linalg.pinv(analysis).T[:, stride:] * fade
    # The two signs side by side: then they are one channel to the decoder, which is half as wide.
    both = (torch.stack([weights, -weights], 1).flatten(0, 1)[:, None].float() for weights in (analysis, synthesis))
    return next(both), next(both)


@torch.no_grad()
def pass_on(generator: Generator) -> Generator:
    """Set the weights of a fresh generator so that its output is nearly its input; returns it.

    Raises ValueError if its width is too small for a filterbank of its stride.
    """
    config = generator.config
    if config.width % 4 or config.width < 6 * config.stride:
        raise ValueError(f"expected a width of a multiple of 4 from {6 * config.stride} on, got {config.width}")
    analysis, synthesis = filterbank(config.stride, config.width, config.output_context + 1)
    if config.prenet_layers:
        for block in generator.convnet_pre.down_convs:
            for parameter in cast("nn.Module", block.filter).parameters():
                parameter.zero_()  # the block is its input then, and the prenet twice its input
        synthesis /= 2
    cast("Tensor", generator.in_conv[0].weight).copy_(analysis)
    cast("Tensor", generator.out_conv[0].weight).copy_(synthesis)
    # Speech is far smaller than a bias, and than what the optimiser adds to one in a few steps: behind the first layer's
    # normalisation every frame would be the same.
    first = cast("EncoderLayer", generator.mask_gen.encoder.dcc_layers["dcc_0"]).layers[0]
    cast("Tensor", first.weight).mul_(HEARING)
    cast("Tensor", first.bias).zero_()
    label, decoded = cast("nn.LayerNorm", generator.label_embedding[4]), cast("nn.Conv1d", generator.mask_gen.proj_d2e[0])
    label.weight.fill_(LABEL_SPREAD)
    label.bias.fill_(LABEL)
    cast("Tensor", generator.mask_gen.proj_e2d_l[0].weight).div_(LABEL)  # to the decoder the label is one
    decoded.weight.mul_(DECODED_SPREAD)
    cast("Tensor", decoded.bias).fill_(DECODED)
    return generator
