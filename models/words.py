"""How alike two sounds are in what is said: a distance to train with.

What Whisper hears of a clip changes with the words, and less, but not little, with throat and pitch. Of its channels those
combinations count here that changed least, against all they do, when clips came from other throats and at other pitches, made by
WORLD: linear discriminants (Fisher 1936) whose classes are the moments of a clip.

    python -m models.words --work FOLDER [--out models/words.npz]

derives them from the recordings that `models.lhq.train_content` packed in FOLDER/audio.
"""

from __future__ import annotations

import argparse
import importlib.resources
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyworld
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.command import run
from models.replacing import replacing
from models.source_filter.data import Clip, Recordings, telling
from models.source_filter.features import SAMPLE_RATE as RECORDED_RATE
from models.whisper import RATE, BandPower, Whisper

FILE = "words.npz"
CHANNELS = 96  # discriminants that are kept: the last one's change is a sixth of its variance
# Of a conversion only the first of them count, which another throat hardly changes, .05 of 2, and what lies within the margin does
# not count at all: pulled closer, a conversion takes on the source's throat with the words.
CONVERTED, MARGIN = 48, 0.1
FRAME_S = 0.02
AUDIBLE = 1e-4  # of the loudest frame's power: 40 dB under it nothing is said

CLIPS, CLIP_S = 250, 7
LARGEST_PITCH, LARGEST_STRETCH = 0.6, 0.22  # natural logarithms of ratios


class Words(nn.Module):
    """What is said, [batch, frames of 20 ms, CHANNELS], each channel of about unit variance."""

    def __init__(self, whisper: Whisper | None = None) -> None:
        super().__init__()
        self.whisper = whisper or Whisper()
        with np.load(str(importlib.resources.files(__package__) / FILE), allow_pickle=False) as arrays:
            self.mean: Tensor
            self.basis: Tensor
            self.register_buffer("mean", torch.from_numpy(arrays["mean"].astype(np.float32)))
            self.register_buffer("basis", torch.from_numpy(arrays["basis"].astype(np.float32)))

    def forward(self, power: Tensor) -> Tensor:
        """Power in Whisper's mel bands [batch, T, 80], 10 ms apart -> [batch, T // 2, CHANNELS]."""
        heard: Tensor = (self.whisper(power) - self.mean) @ self.basis
        return heard


def said(power: Tensor) -> Tensor:
    """[batch, T // 2, 1]: 1 where anything is said in power [batch, T, 80], else 0."""
    level = power.sum(2)[:, : power.shape[1] // 2 * 2].unflatten(1, (-1, 2)).mean(2, keepdim=True)
    audible: Tensor = level > AUDIBLE * level.amax(1, keepdim=True)
    return audible.float()


def distance(made: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Mean square between what is heard, [batch, frames, CHANNELS], where `weight` [batch, frames, 1] is 1: 0 for the same words,
    2 for others."""
    frames = min(made.shape[1], wanted.shape[1], weight.shape[1])
    apart = (made[:, :frames] - wanted[:, :frames]).square().mean(2, keepdim=True) * weight[:, :frames]
    mean: Tensor = apart.sum() / (weight[:, :frames].sum() + 1e-6)
    return mean


def misheard(made: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """As `distance`, of a conversion: by what another throat leaves alone, and beyond a margin in each frame."""
    frames = min(made.shape[1], wanted.shape[1], weight.shape[1])
    apart = made[:, :frames, :CONVERTED] - wanted[:, :frames, :CONVERTED]
    beyond = torch.relu(apart.square().mean(2, keepdim=True) - MARGIN) * weight[:, :frames]
    mean: Tensor = beyond.sum() / (weight[:, :frames].sum() + 1e-6)
    return mean


class WordsLost(nn.Module):
    """How far what is said in a conversion is from what is said in its source, both [batch, samples] at the rate of `bands`."""

    def __init__(self, words: Words, bands: BandPower) -> None:
        super().__init__()
        self.words, self.bands = words, bands

    def forward(self, source: Tensor, made: Tensor) -> Tensor:
        with torch.no_grad():
            power = self.bands(source)
            wanted, weight = self.words(power), said(power)
        return misheard(self.words(self.bands(made)), wanted, weight)


def from_another_throat(audio: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Audio [n] at 16 kHz, its pitch and its formants moved by WORLD (Morise 2016)."""
    hz, times_s = pyworld.dio(audio, RATE)
    hz = pyworld.stonemask(audio, hz, times_s, RATE)
    envelope = pyworld.cheaptrick(audio, hz, times_s, RATE)
    breath = pyworld.d4c(audio, hz, times_s, RATE)
    hz = hz * np.exp(rng.uniform(-LARGEST_PITCH, LARGEST_PITCH))
    bins = envelope.shape[1]
    at = np.minimum(np.arange(bins) * np.exp(rng.uniform(-LARGEST_STRETCH, LARGEST_STRETCH)), bins - 1.001)
    below = at.astype(np.int64)
    moved = envelope[:, below] * (below + 1 - at) + envelope[:, below + 1] * (at - below)
    return np.asarray(pyworld.synthesize(hz, np.ascontiguousarray(moved), breath, RATE)[: len(audio)], np.float32)


def discriminants(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float32]:
    """[channels, CHANNELS] combinations of unit variance, from the same frames [frames, channels] before and after the change."""
    change = after - before
    within = change.T @ change / (2 * len(change))
    within += 1e-3 * np.trace(within) / len(within) * np.eye(len(within))
    whitening = np.linalg.inv(np.linalg.cholesky(within))
    ratio, vectors = np.linalg.eigh(whitening @ np.cov(before.T) @ whitening.T)
    best = np.argsort(-ratio)[:CHANNELS]
    return np.asarray(whitening.T @ vectors[:, best] / np.sqrt(ratio[best]), np.float32)


def some_clips(recordings: Recordings, rng: np.random.Generator) -> list[Clip]:
    """`CLIPS` of those to train with, half of them by helping speakers."""
    pools = [[c for c in recordings.clips if not c.held_out and c.target == target] for target in (False, True)]
    return [pool[int(k)] for pool in pools if pool for k in rng.choice(len(pool), min(len(pool), CLIPS // 2), replace=False)]


@torch.no_grad()
def derive(
    recordings: Recordings, seed: int, report: Callable[[int, int], None] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(mean [channels], discriminants [channels, CHANNELS]) from clips of the recordings."""
    whisper, bands, rng = Whisper(), BandPower(RATE), np.random.default_rng(seed)
    before, after = [], []
    clips = some_clips(recordings, rng)
    for number, clip in enumerate(clips, 1):
        audio = soxr.resample(recordings.read(clip)[0], RECORDED_RATE, RATE)[: CLIP_S * RATE]
        other = from_another_throat(audio.astype(np.float64), rng)
        power = bands(torch.from_numpy(np.stack([audio.astype(np.float32), other])))
        loud = said(power[:1])[0, :, 0].numpy() > 0
        own, moved = whisper(power).numpy()
        before.append(own[loud])
        after.append(moved[loud])
        if report:
            report(number, len(clips))
    first, second = (np.concatenate(rows).astype(np.float64) for rows in (before, after))
    return first.mean(0).astype(np.float32), discriminants(first, second)


def main() -> None:
    parser = argparse.ArgumentParser(description="Derive which of Whisper's channels tell what is said.")
    parser.add_argument("--work", type=Path, required=True, help="the folder of models.lhq.train_content")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name(FILE))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    mean, basis = derive(Recordings(arguments.work / "audio"), arguments.seed, telling("clip"))
    with replacing(arguments.out) as file:
        np.savez_compressed(file, mean=mean.astype(np.float16), basis=basis.astype(np.float16))


if __name__ == "__main__":
    run(main)
