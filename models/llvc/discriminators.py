"""The two sets of discriminators that LLVC is trained against.

`periods`: one scale discriminator and eight of periods 2 to 37, as in VITS and RVC v2. `hifi-gan`: three scales and five periods
(Kong et al. 2020, 2.3). Each member gives scores, wanted 1 for recordings and 0 for what the generator makes, and its layers'
outputs, which feature matching compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

DiscriminatorSet = Literal["periods", "hifi-gan"]
SETS: tuple[DiscriminatorSet, ...] = get_args(DiscriminatorSet)

SLOPE = 0.1


class Verdict(NamedTuple):
    """Of one discriminator on a batch: `scores` [batch, n], `features` one tensor a layer."""

    scores: Tensor
    features: list[Tensor]


class Layers(nn.Module):
    """Convolutions with leaky ReLUs between them; the last one scores."""

    def __init__(self, convolutions: list[nn.Module]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convolutions[:-1])
        self.conv_post = convolutions[-1]

    def judge(self, x: Tensor) -> Verdict:
        features = []
        for convolution in self.convs:
            x = leaky_relu(convolution(x), SLOPE)
            features.append(x)
        x = self.conv_post(x)
        return Verdict(x.flatten(1), [*features, x])


class Period(Layers):
    """Sees every `period`-th sample of a waveform [batch, 1, samples] side by side."""

    def __init__(self, period: int) -> None:
        self.period = period
        sizes = [1, 32, 128, 512, 1024, 1024]
        strides = [3, 3, 3, 3, 1]
        convolutions: list[nn.Module] = [
            weight_norm(nn.Conv2d(before, after, (5, 1), (stride, 1), (2, 0)))
            for before, after, stride in zip(sizes[:-1], sizes[1:], strides, strict=True)
        ]
        super().__init__([*convolutions, weight_norm(nn.Conv2d(1024, 1, (3, 1), padding=(1, 0)))])

    def forward(self, audio: Tensor) -> Verdict:
        audio = pad(audio, (0, -audio.shape[2] % self.period), "reflect")
        return self.judge(audio.unflatten(2, (-1, self.period)))


class Convolution(NamedTuple):
    """Sizes of a layer."""

    outputs: int
    kernel: int
    stride: int
    groups: int


class Scale(Layers):
    """Sees a waveform [batch, 1, samples], after `halvings` averagings by two."""

    def __init__(self, convolutions: list[Convolution], halvings: int = 0, spectral: bool = False) -> None:
        norm = spectral_norm if spectral else weight_norm
        layers: list[nn.Module] = []
        inputs = 1
        for outputs, kernel, stride, groups in [*convolutions, Convolution(1, 3, 1, 1)]:
            layers.append(norm(nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)))
            inputs = outputs
        super().__init__(layers)
        self.halve = nn.Sequential(*(nn.AvgPool1d(4, 2, padding=2) for _ in range(halvings)))

    def forward(self, audio: Tensor) -> Verdict:
        return self.judge(self.halve(audio))


def vits_scale() -> Scale:
    """The one scale discriminator beside the periods of VITS."""
    rows = [(16, 15, 1, 1), (64, 41, 4, 4), (256, 41, 4, 16), (1024, 41, 4, 64), (1024, 41, 4, 256), (1024, 5, 1, 1)]
    return Scale([Convolution(*row) for row in rows])


def hifi_gan_scale(halvings: int) -> Scale:
    """A scale of HiFi-GAN's; the full one is normalised by its spectrum."""
    rows = [
        (128, 15, 1, 1),
        (128, 41, 2, 4),
        (256, 41, 2, 16),
        (512, 41, 4, 16),
        (1024, 41, 4, 16),
        (1024, 41, 1, 16),
        (1024, 5, 1, 1),
    ]
    return Scale([Convolution(*row) for row in rows], halvings, spectral=halvings == 0)


class Discriminators(nn.Module):
    """Several as one. Waveforms [batch, 1, samples] -> one `Verdict` a member."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, audio: Tensor) -> list[Verdict]:
        with parametrize.cached():
            # Normalised in float32 beforehand: on a GPU autocast would iterate for the largest singular value in bfloat16.
            with torch.autocast(audio.device.type, enabled=False):
                for layer in self.modules():
                    if parametrize.is_parametrized(layer):
                        _ = layer.weight
            return [member(audio) for member in self.members]


def discriminator_set(kind: DiscriminatorSet) -> Discriminators:
    """A fresh set."""
    if kind == "periods":
        return Discriminators([vits_scale(), *(Period(period) for period in (2, 3, 5, 7, 11, 17, 23, 37))])
    scales = [hifi_gan_scale(halvings) for halvings in range(3)]
    return Discriminators([*scales, *(Period(period) for period in (2, 3, 5, 7, 11))])
