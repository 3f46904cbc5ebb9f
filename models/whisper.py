"""What a speech recogniser hears: the encoder of Whisper (Radford et al. 2022) as a network to learn from.

A conversion whose words survive is heard by it as its source is heard. Training alone needs it, and no pack carries it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from models.llvc.losses import mel_weights
from models.whisper_weights import MODEL, find_whisper, read_ctranslate2

BANDS, RATE, FFT, HOP = 80, 16_000, 400, 160  # as Whisper hears: 25 ms windows, 10 ms apart
LEAST_POWER = 1e-10
RANGE = 8.0  # decades of power under the loudest that count
LAYERS, HEADS = 4, 6
TAIL = 50  # frames of silence after a piece: Whisper never heard one that ends with its sound


class Layer(nn.Module):
    """A layer of the encoder: self-attention and a two-layer perceptron, each normalised before. [batch, T, width]."""

    def __init__(self, arrays: dict[str, NDArray[np.float32]], name: str) -> None:
        super().__init__()
        parts = {
            "before": "self_attention/layer_norm",
            "ask": "self_attention/linear_0",
            "answer": "self_attention/linear_1",
            "between": "ffn/layer_norm",
            "expand": "ffn/linear_0",
            "project": "ffn/linear_1",
        }
        for own, theirs in parts.items():
            first, second = ("gamma", "beta") if "norm" in theirs else ("weight", "bias")
            self.register_buffer(own, torch.from_numpy(arrays[f"{name}/{theirs}/{first}"]))
            self.register_buffer(own + "_bias", torch.from_numpy(arrays[f"{name}/{theirs}/{second}"]))

    def linear(self, x: Tensor, name: str) -> Tensor:
        return nn.functional.linear(x, self.get_buffer(name), self.get_buffer(name + "_bias"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        return layer_norm(x, x.shape[-1:], self.get_buffer(name), self.get_buffer(name + "_bias"))

    def forward(self, x: Tensor) -> Tensor:
        asked = self.linear(self.norm(x, "before"), "ask").unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        heard = scaled_dot_product_attention(asked[0], asked[1], asked[2]).transpose(1, 2).flatten(2)
        x = x + self.linear(heard, "answer")
        return x + self.linear(gelu(self.linear(self.norm(x, "between"), "expand")), "project")


class Whisper(nn.Module):
    """Whisper's encoder, frozen. Gradients go through it to what it hears."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        source = path or find_whisper() / MODEL
        arrays = read_ctranslate2(source)
        try:
            for name in ("conv1", "conv2"):
                self.register_buffer(name, torch.from_numpy(arrays[f"encoder/{name}/weight"]))
                self.register_buffer(name + "_bias", torch.from_numpy(arrays[f"encoder/{name}/bias"]))
            self.register_buffer("places", torch.from_numpy(arrays["encoder/position_encodings/encodings"]))
            self.layers = nn.ModuleList(Layer(arrays, f"encoder/layer_{k}") for k in range(LAYERS))
            for own, theirs in (("last", "gamma"), ("last_bias", "beta")):
                self.register_buffer(own, torch.from_numpy(arrays[f"encoder/layer_norm/{theirs}"]))
        except KeyError as error:
            raise ValueError(f"expected the encoder of Whisper in {source}, but it has no {error}") from None

    def forward(self, power: Tensor) -> Tensor:
        """Power in Whisper's mel bands [batch, T, 80], 10 ms apart -> what is heard [batch, T // 2, 384], 20 ms apart."""
        decades = torch.log10(torch.clamp(power, min=LEAST_POWER))
        decades = torch.maximum(decades, decades.amax((1, 2), keepdim=True) - RANGE)
        silence = decades.amin((1, 2), keepdim=True).expand(-1, TAIL, BANDS)
        x = torch.cat([decades, silence], 1).transpose(1, 2) / 4 + 1
        x = gelu(nn.functional.conv1d(x, self.get_buffer("conv1"), self.get_buffer("conv1_bias"), padding=1))
        x = gelu(nn.functional.conv1d(x, self.get_buffer("conv2"), self.get_buffer("conv2_bias"), stride=2, padding=1))
        x = x.transpose(1, 2) + self.get_buffer("places")[: x.shape[2]]
        for layer in self.layers:
            x = layer(x)
        x = layer_norm(x, x.shape[-1:], self.get_buffer("last"), self.get_buffer("last_bias"))
        return x[:, : power.shape[1] // 2]


class BandPower(nn.Module):
    """Audio [batch, samples] at `sample_rate`, a multiple of 8 kHz -> power in Whisper's mel bands [batch, samples // hop, 80].

    A window of 25 ms has bins 40 Hz apart at any rate: those below 8 kHz are the ones of 16 kHz.
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.fft, self.hop = FFT * sample_rate // RATE, HOP * sample_rate // RATE
        bins = min(FFT, self.fft) // 2 + 1
        weights = mel_weights(RATE, FFT, BANDS) * (RATE / sample_rate) ** 2
        self.mel: Tensor
        self.window: Tensor
        self.register_buffer("mel", torch.tensor(weights[:bins], dtype=torch.float32), persistent=False)
        self.register_buffer("window", torch.hann_window(self.fft), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        spectrum = torch.stft(audio, self.fft, self.hop, window=self.window, pad_mode="reflect", return_complex=True)
        spectrum = spectrum[:, : len(self.mel), :-1]
        return (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2) @ self.mel
