"""A discriminator that sees a spectrogram as an image, told whose voice it is."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.nn.utils.parametrizations import weight_norm

from models.llvc.discriminators import SLOPE, Verdict


class ImageJudge(nn.Module):
    """One member of a multi-resolution discriminator (Jang et al. 2021, UnivNet).

    Its score has a term that depends on the speaker (projection: Miyato & Koyama 2018).
    """

    def __init__(self, speakers: int) -> None:
        super().__init__()
        rows = [(1, 16, 5, (2, 1)), (16, 32, 5, (2, 2)), (32, 64, 3, (2, 2)), (64, 64, 3, (2, 1))]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(before, after, kernel, stride, kernel // 2)) for before, after, kernel, stride in rows
        )
        self.last = weight_norm(nn.Conv2d(64, 1, 3, padding=1))
        self.speaker = nn.Embedding(speakers, 64)
        nn.init.normal_(self.speaker.weight, std=0.1)

    def judge(self, x: Tensor, speaker: Tensor) -> Verdict:
        """Of images [batch, 1, bands, frames] of about unit variance in the voices `speaker`, int64 [batch]."""
        features = []
        for layer in self.layers:
            x = leaky_relu(layer(x), SLOPE)
            features.append(x)
        scores = self.last(x) + (x * self.speaker(speaker)[:, :, None, None]).mean(1, keepdim=True)
        return Verdict(scores.flatten(1), features)
