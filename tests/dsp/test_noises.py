"""Sibilants, plosives and breaths are found where the synthetic singer makes them, and nowhere else."""

import numpy as np
import pytest

from dsp.noises import find_noises
from dsp.pitch import PitchTrack
from dsp.singer import Note, sing

RATE = 16_000
# The first vowel begins at 0.11 s; a consonant ends where its note's vowel begins, a breath 0.13 s before the rest does.
SONG = [
    Note(52, 0.5, "a", "s"), Note(57, 0.5, "i", "t"), Note(55, 0.8, "o", "m"), Note(52, 0.8, ""),
    Note(50, 0.5, "e", "l"), Note(52, 0.6, "a", "sh"), Note(54, 0.6, "o", "p"),
]  # fmt: skip


def sung(notes):
    song = sing(notes, RATE)
    step = RATE // 100
    times_s = np.arange(0, len(song.audio), step) / RATE
    return song.audio, PitchTrack(times_s, song.f0_hz[::step].astype(np.float64), song.voiced[::step])


def places(noises, kind):
    return sorted(noise.time_s for noise in noises if noise.kind == kind)


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_each_kind_is_found_where_it_was_sung(gain):
    audio, pitch = sung(SONG)
    noises = find_noises(gain * audio, RATE, pitch)
    assert places(noises, "sibilant") == pytest.approx([0.06], abs=0.06)
    assert places(noises, "plosive") == pytest.approx([0.46, 3.65], abs=0.03)
    assert places(noises, "breath") == pytest.approx([2.37], abs=0.1)


def test_the_clearest_come_first_and_apart():
    audio, pitch = sung([Note(52, 0.5, "a", "s"), Note(52, 0.5, "e", "s"), Note(52, 0.5, "i", "t"), Note(52, 0.5, "o", "s")])
    audio[: RATE // 8] *= 4
    noises = [noise for noise in find_noises(audio, RATE, pitch) if noise.kind == "sibilant"]
    assert len(noises) == 3 and noises[0].time_s < 0.12
    assert [noise.clarity_db for noise in noises] == sorted((noise.clarity_db for noise in noises), reverse=True)


def test_vowels_attacks_and_silence_are_none():
    audio, pitch = sung([Note(52, 0.6, "a"), Note(55, 0.3, ""), Note(57, 0.6, "i", "m"), Note(54, 0.6, "o", "n")])
    audio[: RATE // 4] = 0  # the first one is cut in, as hard as can be
    assert find_noises(audio, RATE, pitch) == []
    for length in (0, 5, RATE):
        assert find_noises(np.zeros(length), RATE, PitchTrack(np.zeros(1), np.zeros(1), np.zeros(1, bool))) == []
