"""What the denoiser is trained on: recordings, or its teacher. Mels are normalised, [batch, T, bins]; errors in units of noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsp.mel import mel_centres
from models.device import half_precision
from models.lhq.data import Batch
from models.lhq.denoiser import Denoiser
from models.lhq.diffusion import diffuse, snr_plus_one, truncated_snr
from models.lhq.distillation import grid_times, other_times, two_step_target
from models.lhq.mel import DEFAULT
from models.lhq.train_content import Heard, frame_weight

SHORTEST_TIME = 0.005  # SNR + 1 is infinite at 0; here the noise is far below what anyone hears


@dataclass(frozen=True)
class Task:
    """A batch for the denoiser: what is to be found, what is known of it, and how much each value counts."""

    x: Tensor
    coarse: Tensor
    condition: Tensor
    weight: Tensor

    @classmethod
    def of(cls, heard: Heard, batch: Batch) -> Task:
        """Above a recording's bandwidth, where it says nothing about the voice, x is the coarse mel and counts nothing."""
        centres = torch.tensor(mel_centres(DEFAULT.bins, DEFAULT.low_hz, DEFAULT.high_hz), dtype=torch.float32)
        inside = (centres <= torch.from_numpy(batch.bandwidth_hz)[:, None, None]).to(heard.mel.device)
        coarse = heard.coarse.detach()
        weight = frame_weight(heard.loudness)[..., None] * inside
        return cls(torch.where(inside, heard.mel, coarse), coarse, heard.condition, weight)

    def rows(self, part: slice) -> Task:
        """Some rows of the batch."""
        return Task(self.x[part], self.coarse[part], self.condition[part], self.weight[part])

    def mean_square(self, error: Tensor) -> Tensor:
        """Weighted mean."""
        return (error.square() * self.weight).sum() / self.weight.expand_as(error).sum()


def denoising(denoiser: Denoiser, task: Task, keep: Sequence[bool] | None = None) -> Callable[[Tensor, Any], Tensor]:
    """The denoiser as a function of z and time (a number, or [batch, 1, 1]); its x clipped to the mel's range."""

    def denoise(z: Tensor, t: Any) -> Tensor:
        times = torch.as_tensor(t, dtype=torch.float32, device=z.device).flatten().expand(len(z))
        with half_precision(z.device):
            return denoiser(z, times, task.condition, task.coarse, keep).clamp(-1.0, 1.0)  # type: ignore[no-any-return]

    return denoise


def spread_times(rng: np.random.Generator, count: int) -> Tensor:
    """[count, 1, 1] times in (0, 1], one in each count-th of it, so that the loss of a batch varies less."""
    t = torch.tensor((rng.permutation(count) + rng.random(count)) / count, dtype=torch.float32)
    return t.clamp(min=SHORTEST_TIME)[:, None, None]


def teaching_loss(denoiser: Denoiser, task: Task, t: Tensor, noise: Tensor, keep: Sequence[bool] | None = None) -> Tensor:
    """Squared error of v: of x with the weight SNR + 1 (diffusion, eq. 10)."""
    scale = denoiser.config.scale
    t, noise = t.to(task.x.device), noise.to(task.x.device)
    z = diffuse(task.x, scale * noise, t)
    with half_precision(z.device):
        made = denoiser(z, t.flatten(), task.condition, task.coarse, keep)
    return task.mean_square((made - task.x) / scale * snr_plus_one(t) ** 0.5)


def distillation_loss(
    student: Denoiser, teacher: Denoiser, task: Task, rng: np.random.Generator, noise: Tensor, steps: int, kept: float, halve: bool
) -> Tensor:
    """Squared error of x with truncated SNR (eq. 9) against where the teacher leads.

    With `halve`, the target is two steps of the teacher at the student's own times, and one at a share `kept` of other times;
    without, one at all of them: a student of the same number of steps.
    """
    count, scale = len(task.x), student.config.scale
    others = round(kept * count)
    drawn = np.concatenate([grid_times(rng, count - others, steps), other_times(rng, others, steps)])
    t = torch.tensor(drawn, dtype=torch.float32, device=task.x.device)[:, None, None]
    z = diffuse(task.x, scale * noise.to(task.x.device), t)
    first, rest = slice(0, count - others if halve else 0), slice(count - others if halve else 0, None)
    with torch.no_grad():
        targets = [denoising(teacher, task.rows(rest))(z[rest], t[rest])]
        if halve:
            targets.insert(0, two_step_target(denoising(teacher, task.rows(first)), z[first], t[first], steps))
    with half_precision(z.device):
        made = student(z, t.flatten(), task.condition, task.coarse)
    return task.mean_square((made - torch.cat(targets)) / scale * truncated_snr(t) ** 0.5)
