"""Recordings as features, packed once and memory-mapped: training never touches a waveform.

Every frame of every take: normalised log-mel, content features of the take, content features of the take in another voice,
loudness, f0, voicing. Takes of the target voices are there twice, the second time in another key: pitch and formants shifted
together, which teaches the formant control and pitches that the singer did not sing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from models.lhq.features import BANDS, FLOOR, content_features, loudness
from models.lhq.mel import DEFAULT, log_mel, normalise
from models.lhq.others import OtherVoices, key_shifted
from models.replacing import replacing
from models.source_filter.data import INDEX, Recordings, read_index
from models.source_filter.features import HOP as TRACK_HOP
from models.source_filter.features import SAMPLE_RATE as RECORDED_RATE

LARGEST_SHIFT = 5.0  # semitones, as CoMoSVC
SILENCE = 0.5 * math.log(FLOOR)  # a feature's value
SCALARS = 3  # loudness, f0 in Hz, voiced 0 or 1


Describe = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Audio [N] at 40 kHz -> what the networks hear of it, [N // 400 + 1, width]."""


@dataclass(frozen=True)
class Take:
    """One packed recording, or a key-shifted copy of it: `frames` frames from frame `start` of the arrays on."""

    speaker: str
    target: bool
    held_out: bool
    start: int
    frames: int
    shift: float  # semitones by which pitch and formants were moved
    bandwidth_hz: float  # above this its mel says nothing about the voice


@dataclass(frozen=True)
class Batch:
    """Random stretches of takes. Features reach `margin` frames further than the rest on both sides."""

    features: NDArray[np.float32]  # [batch, frames + 2 * margin, BANDS], or content
    other: NDArray[np.float32]  # the same, spoken by another voice
    mel: NDArray[np.float32]  # [batch, frames, bins], normalised
    loudness: NDArray[np.float32]  # [batch, frames]
    f0: NDArray[np.float32]  # [batch, frames] Hz
    voiced: NDArray[np.float32]  # [batch, frames]
    speaker: NDArray[np.int64]  # [batch]
    shift: NDArray[np.float32]  # [batch]
    bandwidth_hz: NDArray[np.float32]  # [batch]


def on_grid(track: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """f0 and voicing [hops, 2] at the recordings' hops -> [frames, 2] on the song grid, voicing 0 or 1."""
    at = np.arange(frames) * (DEFAULT.hop / DEFAULT.sample_rate * RECORDED_RATE / TRACK_HOP)
    hop = np.arange(len(track))
    f0 = np.exp(np.interp(at, hop, np.log(track[:, 0])))
    voiced = np.interp(at, hop, track[:, 1]) > 0.5
    return np.stack([f0, voiced], 1).astype(np.float32)


def pack_features(
    recordings: Recordings,
    others: OtherVoices,
    out: Path,
    seed: int,
    report: Callable[[int, int], None] | None = None,
    describe: Describe | None = None,
) -> None:
    """Pack all clips of the recordings into the folder `out`, the index last.

    Where the encoder does not learn, `describe` gives its content, which then takes the place of the features.
    """
    describe = describe or content_features
    out.mkdir(parents=True, exist_ok=True)
    takes: list[Take] = []
    start = 0
    names = ("mel.f16", "features.f16", "other.f16", "scalars.f32")
    files = [(out / name).open("wb") for name in names]
    for number, clip in enumerate(recordings.clips):
        rng = np.random.default_rng([seed, number])
        audio, track = recordings.read(clip)
        shifts = [0.0, float(rng.uniform(-LARGEST_SHIFT, LARGEST_SHIFT))] if clip.target and not clip.held_out else [0.0]
        for shift in shifts:
            heard, pitch = key_shifted(audio, track, shift) if shift else (audio, track)
            at40 = soxr.resample(heard, RECORDED_RATE, DEFAULT.sample_rate)
            other = soxr.resample(others.convert(heard, pitch, rng), RECORDED_RATE, DEFAULT.sample_rate)
            features, frames = content_features(at40), DEFAULT.frames(len(at40))
            scalars = np.concatenate([loudness(features)[:, None], on_grid(pitch, frames)], 1)
            # The resampler may round a length down by one sample.
            other = np.pad(other, (0, max(0, len(at40) - len(other))))[: len(at40)]
            arrays = (normalise(log_mel(at40)), describe(at40), describe(other), scalars)
            for file, array in zip(files, arrays, strict=True):
                array.astype("<f4" if array is scalars else "<f2").tofile(file)
            bandwidth = min(clip.bandwidth_hz * 2 ** (shift / 12), DEFAULT.high_hz)
            takes.append(Take(clip.speaker, clip.target, clip.held_out, start, frames, shift, bandwidth))
            start += frames
        if report:
            report(number + 1, len(recordings.clips))
    for file in files:
        file.close()
    with replacing(out / INDEX) as index:
        index.write(json.dumps([asdict(take) for take in takes], indent=0).encode())


class Takes:
    """A packed folder. Speakers are numbered: target voices first, in order of appearance, then the helping speakers.

    `silence` [width] is what lies around a take, if the folder was packed with another `describe` than the features.
    """

    def __init__(self, packed: Path, silence: NDArray[np.float32] | None = None) -> None:
        self._silence = np.full(BANDS, SILENCE, np.float32) if silence is None else silence
        self.takes = read_index(packed, Take)
        self.voices = list(dict.fromkeys(t.speaker for t in self.takes if t.target))
        self.speakers = self.voices + list(dict.fromkeys(t.speaker for t in self.takes if not t.target))

        def array(name: str, kind: str, width: int) -> NDArray[np.float32]:
            return np.memmap(packed / name, dtype=kind, mode="r").reshape(-1, width)

        self.mel = array("mel.f16", "<f2", DEFAULT.bins)  # [frames, bins], normalised
        self.features = array("features.f16", "<f2", len(self._silence))
        self.other = array("other.f16", "<f2", len(self._silence))
        self.scalars = array("scalars.f32", "<f4", SCALARS)
        # Pools to draw from, each with the probability of its takes by length.
        self._pools = {}
        for held_out in (False, True):
            for voice in [*self.voices, ""]:
                for moved in (False, True):
                    pool = [t for t in self.takes if t.held_out == held_out and bool(t.shift) == moved]
                    pool = [t for t in pool if (t.speaker == voice if voice else not t.target)]
                    length = np.array([t.frames for t in pool], np.float64)
                    self._pools[held_out, voice, moved] = (pool, length / length.sum() if len(pool) else length)

    def batch(
        self,
        rng: np.random.Generator,
        size: int,
        frames: int,
        margin: int,
        *,
        helpers: float,
        shifted: float,
        held_out: bool = False,
    ) -> Batch:
        """`size` random stretches: a share `helpers` of helping speakers, the rest evenly over the voices, of them a share
        `shifted` in another key. Within a voice every second is equally likely; a take shorter than `frames` is followed by
        silence.
        """
        wide = frames + 2 * margin
        silence = np.tile(self._silence, (size, wide, 1))
        batch = Batch(
            silence,
            silence.copy(),
            np.full((size, frames, DEFAULT.bins), -1, np.float32),
            loudness(np.full((size, frames, BANDS), SILENCE, np.float32)),
            np.full((size, frames), 150.0, np.float32),
            np.zeros((size, frames), np.float32),
            np.zeros(size, np.int64),
            np.zeros(size, np.float32),
            np.zeros(size, np.float32),
        )
        for row in range(size):
            voice = self.voices[int(rng.integers(len(self.voices)))]
            moved = bool(rng.random() < shifted)
            if row < round(size * helpers) and self._pools[held_out, "", False][0]:
                voice, moved = "", False
            pool, chance = self._pools[held_out, voice, moved]
            take = pool[int(rng.choice(len(pool), p=chance))]
            first = int(rng.integers(max(0, take.frames - frames) + 1))
            length = min(frames, take.frames - first)
            inside = slice(take.start + first, take.start + first + length)
            batch.mel[row, :length] = self.mel[inside]
            loud, f0, voiced = self.scalars[inside].T
            batch.loudness[row, :length], batch.f0[row, :length], batch.voiced[row, :length] = loud, f0, voiced
            batch.f0[row, length:] = f0[-1]
            low, high = max(0, first - margin), min(take.frames, first + frames + margin)
            around = slice(take.start + low, take.start + high)
            place = slice(low - first + margin, high - first + margin)
            batch.features[row, place] = self.features[around]
            batch.other[row, place] = self.other[around]
            batch.speaker[row] = self.speakers.index(take.speaker)
            batch.shift[row] = take.shift
            batch.bandwidth_hz[row] = take.bandwidth_hz
        return batch
