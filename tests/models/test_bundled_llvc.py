"""The bundled LLVC voices: the paper's latency, the singer's own pitch, quiet pauses, and a card that names who lent what."""

from __future__ import annotations

import numpy as np
import pytest

from dsp.pitch import track_pitch
from dsp.singer import Note, Song, sing
from plugin_bridge import VoiceConverter
from plugin_bridge.voices import find_voice

RATES = {"pjs-llvc": 16_000, "kerstin-llvc": 16_000, "pjs-llvc-48k": 48_000, "kerstin-llvc-48k": 48_000}
LATENCIES_MS = {"pjs-llvc": 14.0, "kerstin-llvc": 14.0, "pjs-llvc-48k": 12.0, "kerstin-llvc-48k": 12.0}


@pytest.fixture(scope="module", params=RATES)
def voice(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def song(voice: str) -> Song:
    notes = [Note(52, 0.6, "a", "m"), Note(55, 0.5, "e", "s"), Note(59, 0.9, "o", "t"), Note(57, 0.8, "i", "n")]
    return sing(notes, RATES[voice], seed=4)


def level_db(x: np.ndarray) -> float:
    return 20 * float(np.log10(np.sqrt(np.mean(np.square(x, dtype=np.float64))) + 1e-12))


def test_the_latency_is_the_papers(voice: str) -> None:
    converter = VoiceConverter(voice)
    converter.prepare(RATES[voice])
    assert 1000 * (converter.latency_samples + 1) / RATES[voice] == pytest.approx(LATENCIES_MS[voice], abs=1e-9)


def test_the_melody_is_the_singers(voice: str, song: Song) -> None:
    track = track_pitch(VoiceConverter(voice)(song.audio, RATES[voice]), RATES[voice])
    at = np.minimum(np.round(track.times_s * RATES[voice]).astype(int), len(song.f0_hz) - 1)
    both = track.voiced & (song.f0_hz[at] > 0)
    cents = np.abs(1200 * np.log2(track.hz[both] / song.f0_hz[at][both]))
    assert both.mean() > 0.5
    assert np.median(cents) <= 8
    assert np.mean(cents > 600) <= 0.01
    assert np.mean(track.voiced == (song.f0_hz[at] > 0)) >= 0.9


def test_it_is_another_sound_as_loud_and_pauses_stay_quiet(voice: str, song: Song) -> None:
    rate = RATES[voice]
    pause = np.zeros(rate, np.float32)
    converted = VoiceConverter(voice)(np.concatenate([pause, song.audio, pause]), rate)
    phrase = converted[rate:-rate]
    assert abs(level_db(phrase) - level_db(song.audio)) < 6
    assert level_db(phrase - song.audio) > level_db(song.audio) - 12
    assert level_db(converted[: rate - rate // 10]) < level_db(phrase) - 50
    assert level_db(converted[-rate // 2 :]) < level_db(phrase) - 50


def test_the_card_names_the_singer_the_teacher_and_the_speakers(voice: str) -> None:
    card, teacher = find_voice(voice).card, find_voice(voice.split("-")[0]).card
    assert card.licence == teacher.licence
    assert teacher.credits in card.credits
    assert "LibriSpeech" in card.credits and "CC BY 4.0" in card.credits
    assert f"taught by {teacher.name}" in card.kind
