"""Parallel recordings, laid out as by the authors: `NAME_original.wav` beside `NAME_converted.wav`, alike to the sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pedalboard.io import AudioFile
from pydantic import ValidationError

from models.pack import VoiceCard
from models.schema import first_problem, read_bounded

ORIGINAL, CONVERTED = "_original.wav", "_converted.wav"
TRAINING, VALIDATION = "train", "val"  # folders of a data set; the third, dev, is for listening to strangers
TEACHER = "teacher.json"  # beside them: the card of the voice that made the conversions
MAX_CARD_BYTES = 1 << 20


@dataclass(frozen=True)
class Pair:
    """A recording, what the generator is to make of it, and in which of its voices."""

    original: Path
    converted: Path
    voice: int


class Pairs:
    """The pairs in a folder, in a fixed order; those of a second voice in one of `others`, and so on.

    Raises ValueError, one sentence, if there is none, or if one lacks its other half.
    """

    def __init__(self, folder: Path, sample_rate: int, *others: Path) -> None:
        self.sample_rate = sample_rate
        self.pairs: list[Pair] = []
        for voice, place in enumerate((folder, *others)):
            originals = sorted(place.glob(f"*{ORIGINAL}"))
            if not originals:
                raise ValueError(f"expected pairs such as a{ORIGINAL} and a{CONVERTED} in {place}, found none")
            self.pairs += [Pair(path, path.with_name(path.name.removesuffix(ORIGINAL) + CONVERTED), voice) for path in originals]
        self.pairs.sort(key=lambda pair: pair.original.name)  # so that the first few are of every voice
        for pair in self.pairs:
            if not pair.converted.is_file():
                raise ValueError(f"expected {pair.converted.name} beside {pair.original}, found no such file")

    def __len__(self) -> int:
        return len(self.pairs)

    def voices(self, numbers: list[int]) -> list[int]:
        """The voices of the pairs with these numbers."""
        return [self.pairs[number].voice for number in numbers]

    def batch(self, numbers: list[int], clip: int, random: np.random.Generator) -> NDArray[np.float32]:
        """A random clip of each pair with these numbers: [2, batch, 1, clip], originals first; silence follows what is shorter."""
        clips = np.zeros((2, len(numbers), 1, clip), np.float32)
        for row, number in enumerate(numbers):
            both = self._read(self.pairs[number], clip, random)
            clips[:, row, 0, : both.shape[1]] = both
        return clips

    def _read(self, pair: Pair, clip: int, random: np.random.Generator) -> NDArray[np.float32]:
        with AudioFile(str(pair.original)) as original, AudioFile(str(pair.converted)) as converted:
            for path, file in ((pair.original, original), (pair.converted, converted)):
                if file.samplerate != self.sample_rate:
                    raise ValueError(f"expected recordings of {self.sample_rate} Hz, but {path} has {file.samplerate:g} Hz")
            if original.frames != converted.frames:
                raise ValueError(f"expected {original.frames} samples in {pair.converted}, got {converted.frames}")
            start = int(random.integers(max(0, original.frames - clip) + 1))
            both = []
            for file in (original, converted):
                file.seek(start)
                both.append(file.read(min(clip, file.frames - start)).mean(0, dtype=np.float32))
        return np.stack(both)


def read_teacher(path: Path) -> VoiceCard:
    """The card of the voice that the pairs were made with: licence, credits and range are its pupil's too."""
    try:
        return VoiceCard.model_validate_json(read_bounded(path, MAX_CARD_BYTES))
    except OSError:
        raise ValueError(f"expected the teacher's card in {path}, as plugin-bridge make-pairs writes it, found none") from None
    except ValidationError as error:
        raise ValueError(f"expected the teacher's card in {path}, but {first_problem(error)}") from None
