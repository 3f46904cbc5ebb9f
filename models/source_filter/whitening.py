"""Whitening of a content bottleneck: no channel says what another one says, and none says nothing.

Content is asked to agree between two disturbances of a sentence. Left free, a network agrees by saying little: with layer
normalisation 93 % of its energy was one constant vector, with standardised channels nearly all of them carried one signal.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Whiten(nn.Module):
    """Channels of [batch, time, channels] made uncorrelated, of zero mean and unit variance over time and clips.

    By the Cholesky factor of their covariance (W-MSE: Ermolov et al. 2021, 3).
    """

    MOMENTUM = 0.02
    LEAST_VARIANCE = 1e-3

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.covariance: Tensor
        self.matrix: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("covariance", torch.eye(channels))
        self.register_buffer("matrix", torch.eye(channels))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.matrix

    def fit(self, x: Tensor) -> Tensor:
        """As `forward`, by the batch's own mean and covariance, which are remembered."""
        rows = x.flatten(0, 1)
        mean, covariance = rows.mean(0), torch.cov(rows.t())
        with torch.no_grad():
            self.mean.lerp_(mean, self.MOMENTUM)
            self.covariance.lerp_(covariance, self.MOMENTUM)
            self.matrix.copy_(self._inverse(self.covariance))
        return (x - mean) @ self._inverse(covariance)

    @torch.no_grad()
    def restrain(self, share: float) -> None:
        """Give `share` of what was given. A decoder that learned under noise takes less of the throat from less content, and at
        first no fewer words."""
        self.matrix.mul_(share)

    def _inverse(self, covariance: Tensor) -> Tensor:
        least = self.LEAST_VARIANCE * torch.eye(len(covariance), device=covariance.device)
        inverse: Tensor = torch.linalg.inv(torch.linalg.cholesky(covariance + least))
        return inverse.t()
