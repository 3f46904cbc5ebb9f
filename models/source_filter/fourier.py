"""Discrete Fourier transforms of 1,024 points as two small matrix products each, for graphs without an FFT.

Cooley and Tukey's factorisation with 32 x 32: for n = 32 a + b and k = c + 32 d,
X[c + 32 d] = sum_b w(32, b d) w(1024, b c) sum_a w(32, a c) x[32 a + b],  w(N, m) = exp(-2 pi i m / N).
A transform in one product reads megabytes of table at every step, out of a cache that the host's other plugins share; these
tables are a few kilobytes. Spectra stay in the order in which the products leave them, [32 c, (real, imaginary), d]: what is
done to a spectrum here is done bin by bin, and tables can be put into that order beforehand (`bin_order`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SIDE = 32
POINTS = SIDE * SIDE


def bin_order(groups: int) -> NDArray[np.int64]:
    """[32 c, groups d]: the bin c + 32 d that stands at each place of a spectrum."""
    return np.arange(SIDE)[:, None] + SIDE * np.arange(groups)[None]


def _constant(values: NDArray[np.float64]) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float32), requires_grad=False)


def _complex_product(weights: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Complex [m, n] as a real [2 m, 2 n] that maps rows (real, imaginary) to rows (real, imaginary)."""
    return np.block([[weights.real, weights.imag], [-weights.imag, weights.real]])


class RealDFT(nn.Module):
    """[rows, samples] real -> [rows, 32, 2, groups]: bins 0 .. 32 groups - 1 of the DFT of `samples` values and zeros up to 1,024.

    `samples` must be a multiple of 32.
    """

    def __init__(self, samples: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.heights = samples // SIDE
        side = np.arange(SIDE)
        first = np.exp(-2j * np.pi * np.outer(side, np.arange(self.heights)) / SIDE)  # c x a
        twiddle = np.exp(-2j * np.pi * np.outer(side, side) / POINTS)  # c x b
        second = np.exp(-2j * np.pi * np.outer(side, np.arange(groups)) / SIDE)  # b x d
        # Four rows for each c: z, then i z, so that the complex twiddle is one product and one sum.
        self.first = _constant(np.stack([first.real, first.imag, -first.imag, first.real], 1).reshape(4 * SIDE, -1))
        self.twiddle = _constant(
            np.stack([twiddle.real, twiddle.real, twiddle.imag, twiddle.imag], 1).reshape(4 * SIDE, SIDE)
        )
        self.second = _constant(_complex_product(second))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        z = (self.first @ x.reshape(rows, self.heights, SIDE)) * self.twiddle
        z = z.reshape(rows, SIDE, 4 * SIDE)
        z = z[..., : 2 * SIDE] + z[..., 2 * SIDE :]  # [rows, c, (real, imaginary) b]
        return (z @ self.second).reshape(rows, SIDE, 2, self.groups)


class InverseRealDFT(nn.Module):
    """[rows, 32, 2, 16] -> [rows, 1024] real: x[n] = Re sum_k X[k] exp(2 pi i k n / 1024) over the bins 0 .. 511.

    For the inverse of a Hermitian spectrum scale it by `hermitian_weight` first; its bin 512 is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        half = SIDE // 2
        side = np.arange(SIDE)
        # n = a + 32 b: exp(2 pi i k n / 1024) = exp(2 pi i (d a / 32 + c a / 1024 + c b / 32)).
        first = _complex_product(np.exp(2j * np.pi * np.outer(np.arange(half), side) / SIDE))  # (re, im) d x (re, im) a
        twiddle = np.exp(2j * np.pi * np.outer(side, side) / POINTS)  # c x a
        second = np.exp(2j * np.pi * np.outer(side, side) / SIDE)  # b x c
        self.first = _constant(np.concatenate([first, -first[:, SIDE:], first[:, :SIDE]], 1))
        self.twiddle = _constant(np.concatenate([twiddle.real, twiddle.real, twiddle.imag, twiddle.imag], 1))
        # Only the real part of the last sum is wanted.
        self.second = _constant(np.stack([second.real, -second.imag], 2).reshape(SIDE, 2 * SIDE))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        z = (x.reshape(rows, SIDE, SIDE) @ self.first) * self.twiddle
        z = z[..., : 2 * SIDE] + z[..., 2 * SIDE :]  # [rows, c, (real, imaginary) a]
        return (self.second @ z.reshape(rows, 2 * SIDE, SIDE)).reshape(rows, POINTS)


def hermitian_weight() -> NDArray[np.float64]:
    """[32 c, 16 d]: what each bin counts in an inverse transform from the lower half of a real signal's spectrum."""
    weight = np.full((SIDE, SIDE // 2), 2.0 / POINTS)
    weight[0, 0] = 1.0 / POINTS
    return weight
