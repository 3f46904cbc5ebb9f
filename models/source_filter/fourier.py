"""Discrete Fourier transforms of 1,024 points as two small matrix products each, for graphs without an FFT.

Cooley and Tukey's factorisation with 32 x 32: for n = 32 a + b and k = c + 32 d,
X[c + 32 d] = sum_b w(32, b d) w(1024, b c) sum_a w(32, a c) x[32 a + b],  w(N, m) = exp(-2 pi i m / N).
The inner sum at 32 - c is the conjugate of that at c, as x is real: c = 0..16 are enough, and the bins 32 - c + 32 d are the
conjugates of what d = -1, -2, ... give. A transform in one product reads megabytes of table at every step, out of a cache that
the host's other plugins share; these tables are a few kilobytes. Spectra stay in the order in which the products leave them,
[c, (real, imaginary), bins c + 32 d and then 32 - c + 32 d]: what is done to a spectrum here is done bin by bin, and tables can
be put into that order beforehand (`bin_order`). For c = 0 and 16 the second bins are the first ones again, and count nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SIDE = 32
POINTS = SIDE * SIDE
ROWS = SIDE // 2 + 1  # c


def bin_order(groups: int) -> NDArray[np.int64]:
    """[ROWS, 2 * groups]: the bin that stands at each place of a spectrum of the bins below 32 * groups."""
    c, d = np.arange(ROWS)[:, None], SIDE * np.arange(groups)
    return np.concatenate([c + d, SIDE - c + d], 1)


def counted(groups: int) -> NDArray[np.float64]:
    """[ROWS, 2 * groups]: 1 where a bin stands, 0 where one stands that counts elsewhere, or none that is wanted."""
    counts = np.ones((ROWS, 2 * groups))
    counts[[0, -1], groups:] = 0.0
    return counts


def _constant(values: NDArray[np.float64]) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float32), requires_grad=False)


def _complex_product(weights: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Complex [m, n] as a real [2 m, 2 n] that maps rows (real, imaginary) to rows (real, imaginary)."""
    return np.block([[weights.real, weights.imag], [-weights.imag, weights.real]])


class RealDFT(nn.Module):
    """[rows, samples] real -> [rows, ROWS, 2, 2 * groups]: the bins of the DFT of `samples` values and zeros up to 1,024.

    `samples` must be a multiple of 32.
    """

    def __init__(self, samples: int, groups: int) -> None:
        super().__init__()
        self.heights = samples // SIDE
        side, c, d = np.arange(SIDE), np.arange(ROWS), np.arange(groups)
        first = np.exp(-2j * np.pi * np.outer(c, np.arange(self.heights)) / SIDE)  # c x a
        twiddle = np.exp(-2j * np.pi * np.outer(c, side) / POINTS)  # c x b
        second = _complex_product(np.exp(-2j * np.pi * np.outer(side, np.append(d, -1 - d)) / SIDE))
        second[:, 3 * groups :] *= -1  # the conjugates' imaginary parts
        # Four rows for each c: z, then i z, so that the complex twiddle is one product and one sum.
        self.first = _constant(np.stack([first.real, first.imag, -first.imag, first.real], 1).reshape(4 * ROWS, -1))
        self.twiddle = _constant(np.stack([twiddle.real, twiddle.real, twiddle.imag, twiddle.imag], 1).reshape(4 * ROWS, SIDE))
        self.second = _constant(second)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        z = (self.first @ x.reshape(rows, self.heights, SIDE)) * self.twiddle
        z = z.reshape(rows, ROWS, 4 * SIDE)
        z = z[..., : 2 * SIDE] + z[..., 2 * SIDE :]  # [rows, c, (real, imaginary) b]
        return (z @ self.second).reshape(rows, ROWS, 2, -1)


class InverseRealDFT(nn.Module):
    """[rows, ROWS, 2, 32] -> [rows, 1024] real: x[n] = Re sum_k X[k] exp(2 pi i k n / 1024) over all that stand in it.

    For the inverse of a Hermitian spectrum scale it by `hermitian_weight` first; its bin 512 is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        side, c, d = np.arange(SIDE), np.arange(ROWS), np.arange(SIDE // 2)
        # n = a + 32 b: exp(2 pi i k n / 1024) = exp(2 pi i (d a / 32 + c a / 1024 + c b / 32)).
        first = _complex_product(np.exp(2j * np.pi * np.outer(np.append(d, -1 - d), side) / SIDE))  # (re, im) d x (re, im) a
        first[SIDE + SIDE // 2 :] *= -1  # the second bins' conjugates
        twiddle = np.exp(2j * np.pi * np.outer(c, side) / POINTS)  # c x a
        second = np.exp(2j * np.pi * np.outer(side, c) / SIDE)  # b x c
        self.first = _constant(np.concatenate([first, -first[:, SIDE:], first[:, :SIDE]], 1))
        self.twiddle = _constant(np.concatenate([twiddle.real, twiddle.real, twiddle.imag, twiddle.imag], 1))
        # Only the real part of the last sum is wanted.
        self.second = _constant(np.stack([second.real, -second.imag], 2).reshape(SIDE, 2 * ROWS))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        z = (x.reshape(rows, ROWS, 2 * SIDE) @ self.first) * self.twiddle
        z = z[..., : 2 * SIDE] + z[..., 2 * SIDE :]  # [rows, c, (real, imaginary) a]
        return (self.second @ z.reshape(rows, 2 * ROWS, SIDE)).reshape(rows, POINTS)


def hermitian_weight() -> NDArray[np.float64]:
    """[ROWS, 32]: what each bin counts in an inverse transform from the lower half of a real signal's spectrum."""
    weight = counted(SIDE // 2) * 2.0 / POINTS
    weight[0, 0] = 1.0 / POINTS
    return weight
