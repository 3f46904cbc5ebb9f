"""From the song engine's mel spectrogram to the one that Whisper hears: a line through a few frames, for training alone.

A frame of ours is twice as long as one of Whisper's, and its bands are others. Regression from seven frames to the logarithms of
Whisper's bands undoes most of that: what it hears through it is .03 from what it hears in the recording, in the unit of
`models.words.distance`, where another throat is .10.

    python -m models.lhq.bands --work FOLDER [--out models/lhq/bands.npz]

derives it from the recordings and features that `models.lhq.train_content` packed in FOLDER.
"""

from __future__ import annotations

import argparse
import importlib.resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.command import run
from models.lhq.data import Takes
from models.replacing import replacing
from models.source_filter.data import Recordings
from models.source_filter.features import SAMPLE_RATE as RECORDED_RATE
from models.whisper import LEAST_POWER, RANGE, BandPower

FILE = "bands.npz"
REACH = 3  # frames to each side
RIDGE = 1e-3  # of the mean variance: less would sharpen noise
LOUD = 5.5  # decades under the loudest band of a take: what is softer is not said
CLIPS = 270


def surrounded(mel: Tensor) -> Tensor:
    """[batch, T, bins] -> [batch, T, (2 * REACH + 1) * bins]: each frame with its neighbours; the ends are repeated."""
    padded = nn.functional.pad(mel.transpose(1, 2), (REACH, REACH), mode="replicate").transpose(1, 2)
    return torch.cat([padded[:, k : k + mel.shape[1]] for k in range(2 * REACH + 1)], 2)


class BandsOfMel(nn.Module):
    """Normalised mel [batch, T, bins] -> power in Whisper's bands [batch, T, 80]."""

    def __init__(self) -> None:
        super().__init__()
        with np.load(str(importlib.resources.files(__package__) / FILE), allow_pickle=False) as arrays:
            self.weight: Tensor
            self.bias: Tensor
            self.register_buffer("weight", torch.from_numpy(arrays["weight"].astype(np.float32)))
            self.register_buffer("bias", torch.from_numpy(arrays["bias"].astype(np.float32)))

    def forward(self, mel: Tensor) -> Tensor:
        power: Tensor = 10 ** (surrounded(mel) @ self.weight + self.bias)
        return power


@torch.no_grad()
def derive(recordings: Recordings, takes: Takes, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(weight [7 * bins, 80], bias [80]) by ridge regression over clips to train with."""
    bands, rng = BandPower(RECORDED_RATE), np.random.default_rng(seed)
    plain = [take for take in takes.takes if not take.shift]
    pairs = [(clip, take) for clip, take in zip(recordings.clips, plain, strict=True) if not clip.held_out]
    xs, ys = [], []
    for number in rng.choice(len(pairs), min(len(pairs), CLIPS), replace=False):
        clip, take = pairs[int(number)]
        mel = torch.from_numpy(takes.mel[take.start : take.start + take.frames].astype(np.float32))[None]
        power = bands(torch.from_numpy(recordings.read(clip)[0])[None])
        frames = min(mel.shape[1], power.shape[1]) - 1  # the last frame of one of them may lack its end
        decades = torch.log10(power.clamp(min=LEAST_POWER))[0, :frames]
        decades = decades.clamp(min=decades.max() - RANGE)
        loud = decades.amax(1) > decades.max() - LOUD
        xs.append(surrounded(mel)[0, :frames][loud])
        ys.append(decades[loud])
    x, y = torch.cat(xs).double(), torch.cat(ys).double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    scatter = x.t() @ x
    scatter += RIDGE * scatter.trace() / len(scatter) * torch.eye(len(scatter), dtype=scatter.dtype)
    weight = torch.linalg.solve(scatter, x.t() @ y)
    return weight.float().numpy(), (y_mean - x_mean @ weight).float().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description="Derive Whisper's bands from the song engine's.")
    parser.add_argument("--work", type=Path, required=True, help="the folder of models.lhq.train_content")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name(FILE))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    weight, bias = derive(Recordings(arguments.work / "audio"), Takes(arguments.work / "packed"), arguments.seed)
    with replacing(arguments.out) as file:
        np.savez_compressed(file, weight=weight.astype(np.float16), bias=bias.astype(np.float16))


if __name__ == "__main__":
    run(main)
