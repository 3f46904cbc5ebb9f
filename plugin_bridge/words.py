"""Whether the words survive: what two recognisers hear before and after.

PocketSphinx, whose package holds its model, decodes single phones without a dictionary, so that it can be asked about any
language and about singing. It is wrong often, another throat alone confuses it; what counts is how much more often than after
WORLD's analysis and synthesis. Whisper writes English down as a listener would, and is hardly ever wrong about what is clear.
"""

from __future__ import annotations

import re

import numpy as np
import pyworld
from numpy.typing import NDArray

from models.whisper_weights import find_whisper

SAMPLE_RATE = 16_000
WEIGHTS = {"lw": 2.0, "pip": 0.3, "beam": 1e-20, "pbeam": 1e-20}  # as PocketSphinx' manual advises for phones alone


class PhoneRecogniser:
    """Driven from one thread. Raises ImportError if PocketSphinx is not installed."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder, get_model_path

        phones = get_model_path("en-us/en-us-phone.lm.bin")
        self._decoder = Decoder(hmm=get_model_path("en-us/en-us"), allphone=phones, loglevel="FATAL", **WEIGHTS)

    def phones(self, audio: NDArray[np.float32]) -> list[str]:
        """What is heard in `audio` [n] at 16 kHz, without silence and noises."""
        if not len(audio):
            return []
        decoder = self._decoder
        decoder.start_utt()
        decoder.process_raw((np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        heard = [segment.word for segment in decoder.seg() or ()]
        return [phone for phone in heard if phone != "SIL" and not phone.startswith(("+", "(", "<"))]


class LetterRecogniser:
    """Whisper tiny.en. Driven from one thread. Raises ImportError, naming the package, where faster-whisper or the weights lack."""

    def __init__(self) -> None:
        from faster_whisper import WhisperModel

        self._model = WhisperModel(str(find_whisper()), device="cpu", compute_type="float32", cpu_threads=1)

    def letters(self, audio: NDArray[np.float32]) -> list[str]:
        """What is written down of `audio` [n] at 16 kHz: small letters, with a space between words."""
        if not len(audio):
            return []
        # At once and without a guess at random where it is unsure: the same audio gives the same letters.
        segments, _ = self._model.transcribe(
            audio, language="en", beam_size=5, temperature=0.0, condition_on_previous_text=False, without_timestamps=True
        )
        return list(" ".join(re.findall(r"[a-z0-9']+", " ".join(segment.text for segment in segments).lower())))


def error_rate(wanted: list[str], heard: list[str]) -> float:
    """Fewest substitutions, insertions and deletions between the two, for each phone that is wanted; NaN if none is."""
    if not wanted:
        return float("nan")
    row = np.arange(len(heard) + 1)
    for done, phone in enumerate(wanted):
        before, row = row, row.copy()
        row[0] = done + 1
        for k, other in enumerate(heard):
            row[k + 1] = min(before[k + 1] + 1, row[k] + 1, before[k] + (phone != other))
    return float(row[-1]) / len(wanted)


def world_resynthesis(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """`audio` [n] at 16 kHz, taken apart by WORLD (Morise 2016) and put together again unchanged."""
    x = audio.astype(np.float64)
    hz, times_s = pyworld.dio(x, SAMPLE_RATE)
    hz = pyworld.stonemask(x, hz, times_s, SAMPLE_RATE)
    made = pyworld.synthesize(
        hz, pyworld.cheaptrick(x, hz, times_s, SAMPLE_RATE), pyworld.d4c(x, hz, times_s, SAMPLE_RATE), SAMPLE_RATE
    )
    return np.asarray(made[: len(x)], np.float32)
