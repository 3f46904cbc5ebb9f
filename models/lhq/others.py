"""The same take in another voice: the stream engine converts recordings into random voices, as sources for training.

A sentence that another voice has spoken keeps its words and loses its speaker, which no equaliser or warp achieves. The copies
are frame-aligned, so both can be asked for the same content.
"""

from __future__ import annotations

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import nn

from models.source_filter.features import CHUNK, HOP, SAMPLE_RATE, frame
from models.source_filter.train import SETTLING, Trainer, TrainingConfig
from models.source_filter.weights import Trained

BLENDS = 512  # random voices to draw from
PITCH_RANGE_HZ = (90.0, 350.0)  # where the middle of a converted clip may lie: the network has heard people there
# Only what conversion needs of the recipe: two chunks of warm-up and no context of its own.
CONVERSION = TrainingConfig(
    seed=0, batch=1, context_chunks=0, warm_chunks=2, chunks=0, helpers=0.0, learning_rate=0.0, average=0.0, consistency=0.0
)


class OtherVoices:
    """Converts clips into random voices: blends of two of the stream network's embeddings. Beyond them nobody has a voice."""

    def __init__(self, trained: Trained, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        table = trained.network.voices.weight.detach()
        pairs = torch.randint(len(table), (2, BLENDS), generator=generator)
        amount = torch.rand(BLENDS, 1, generator=generator)
        self.trainer = Trainer(trained.network, CONVERSION)
        self.trainer.network.voices = nn.Embedding.from_pretrained(torch.lerp(table[pairs[0]], table[pairs[1]], amount))
        self.trainer.mean.prior.copy_(trained.prior)

    @torch.no_grad()
    def convert(
        self, audio: NDArray[np.float32], track: NDArray[np.float32], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Audio [samples] at 48 kHz, f0 and voicing [hops, 2] -> the clip in another voice and pitch, as long as it was."""
        hops = len(track)
        lead = 2 * self.trainer.config.warm_chunks + SETTLING
        tail = 2 + (hops + lead) % 2
        x = np.zeros(((hops + lead + tail) * HOP), np.float32)
        x[lead * HOP : (lead + hops) * HOP] = audio[: hops * HOP]
        f0, voicing = np.pad(track, ((lead, tail), (0, 0)), mode="edge").T
        voiced = track[:, 1] > 0.5
        middle = float(np.median(track[voiced, 0])) if voiced.any() else 150.0
        f0 = f0 * (np.exp(rng.uniform(*np.log(PITCH_RANGE_HZ))) / middle)
        trainer = self.trainer
        spectra, loudness, relative = trainer.normalised(trainer.energy(frame(torch.from_numpy(x)[None])))
        made = trainer.synthesise(
            trainer.network.encoder(spectra),
            torch.from_numpy(np.clip(f0, 50.0, 1000.0).astype(np.float32))[None],
            torch.from_numpy(np.ascontiguousarray(voicing))[None],
            loudness,
            relative,
            rng.integers(BLENDS, size=1),
            torch.Generator().manual_seed(int(rng.integers(2**31))),
        )
        return made[0, : hops * HOP].numpy()


def key_shifted(
    audio: NDArray[np.float32], track: NDArray[np.float32], semitones: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A clip played faster or slower: pitch and formants `semitones` higher, in whole chunks; and its track likewise."""
    ratio = 2 ** (semitones / 12)
    faster = soxr.resample(audio, SAMPLE_RATE * ratio, SAMPLE_RATE)
    faster = faster[: len(faster) // CHUNK * CHUNK]
    at = np.arange(len(faster) // HOP) * ratio
    hop = np.arange(len(track))
    f0 = ratio * np.exp(np.interp(at, hop, np.log(track[:, 0])))
    return faster, np.stack([f0, np.interp(at, hop, track[:, 1])], 1).astype(np.float32)
