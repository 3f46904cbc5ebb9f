"""The singer's f0 is what its audio has, by measures that share no code with it."""

import numpy as np
import pytest
import pyworld
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.singer import CONSONANTS, VOWELS, Note, Song, sing

PHRASE = [
    Note(57, 0.5, "a", "s"),
    Note(60.5, 0.4, "e", "t"),
    Note(64, 0.7, "i", "m"),
    Note(62, 0.6, ""),
    Note(62, 0.4, "u", "k"),
    Note(57, 0.8, "o", "l"),
]


def level_db(signal: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(signal, dtype=np.float64)) + 1e-20))


def seconds(song: Song, start: float, stop: float) -> slice:
    return slice(round(start * song.sample_rate), round(stop * song.sample_rate))


@pytest.mark.parametrize("sample_rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("midi", [38, 57, 74, 84])
def test_the_told_f0_is_the_phase_of_the_fundamental_through_vibrato_and_jitter(sample_rate, midi):
    song = sing([Note(midi, 1.5, "u")], sample_rate, vibrato_cents=60.0, seed=midi)
    # Mixed down by the told phase, the fundamental stands still; a wrong f0 would turn it.
    phase = np.cumsum(song.f0_hz) / sample_rate
    still = song.audio * np.exp(-2j * np.pi * phase)
    period = round(3 * sample_rate / song.f0_hz.max())
    phasor = np.convolve(still, np.hanning(period), "same")[seconds(song, 0.4, 1.3)]
    turn = np.unwrap(np.angle(phasor)) / (2 * np.pi)
    assert np.ptp(turn) < 0.15  # cycles in all, of some 65 to 950 sung
    assert np.ptp(song.f0_hz[seconds(song, 0.6, 1.3)]) > 0.04 * song.f0_hz.max()  # the vibrato was there


def test_the_told_f0_is_the_note_written():
    song = sing([Note(45, 1.0, "a"), Note(52, 1.0, "e")], vibrato_cents=0.0)
    for start, midi in ((0.3, 45), (1.3, 52)):
        told = np.mean(song.f0_hz[seconds(song, start, start + 0.5)])
        assert abs(1200 * np.log2(told / (440 * 2 ** ((midi - 69) / 12)))) < 15


@pytest.mark.parametrize(("transpose", "tract"), [(-12, 1.0), (0, 1.0), (12, 1.17)])
def test_an_independent_tracker_agrees(transpose, tract):
    notes = [Note(note.midi + transpose, note.seconds, note.vowel, note.consonant) for note in PHRASE]
    song = sing(notes, tract=tract)
    found, times = pyworld.harvest(song.audio.astype(np.float64), 48_000, f0_floor=50.0, f0_ceil=1100.0)
    told = song.f0_hz[np.minimum((times * 48_000).astype(int), len(song.f0_hz) - 1)]
    both = (found > 0) & (told > 0)
    cents = np.abs(1200 * np.log2(found[both] / told[both]))
    assert np.median(cents) < 6
    assert np.mean(cents > 600) < 0.01
    assert np.mean((found > 0) == (told > 0)) > 0.90


def test_length_is_the_sum_of_the_notes_and_the_level_is_fit_to_play():
    song = sing(PHRASE, 44_100)
    assert len(song.audio) == len(song.f0_hz) == len(song.voiced) == round(3.4 * 44_100)
    assert (song.audio.dtype, song.f0_hz.dtype, song.voiced.dtype) == (np.float32, np.float64, np.bool_)
    assert np.max(np.abs(song.audio)) == pytest.approx(0.7, abs=1e-5)
    assert np.array_equal(song.voiced, song.f0_hz > 0)


def test_rests_are_quiet_and_unvoiced():
    song = sing(PHRASE)
    rest = seconds(song, 1.75, 2.0)
    assert not song.voiced[rest].any()
    assert level_db(song.audio[rest]) < level_db(song.audio[song.voiced]) - 40


@pytest.mark.parametrize("consonant", [name for name in CONSONANTS if name])
def test_a_consonant_is_heard_between_the_vowels_and_voiced_or_not_by_its_kind(consonant):
    plain = sing([Note(57, 0.6, "a"), Note(57, 0.6, "a")], vibrato_cents=0.0)
    song = sing([Note(57, 0.6, "a"), Note(57, 0.6, "a", consonant)], vibrato_cents=0.0)
    before = seconds(song, 0.545, 0.575)
    assert song.voiced[before].all() == (consonant in {"b", "d", "g", "l", "m", "n", "r", "v", "w", "y", "z"})
    change = song.audio[before] / np.std(song.audio) - plain.audio[before] / np.std(plain.audio)
    assert np.std(change) > 0.2
    assert song.voiced[seconds(song, 0.1, 0.4)].all() and song.voiced[seconds(song, 0.7, 1.0)].all()


def test_vowels_have_their_first_two_formants():
    # A low voice draws its formants densely: the strongest harmonic near each formant lies on it, but for one harmonic.
    for vowel, (first, second, *_) in VOWELS.items():
        song = sing([Note(36, 1.2, vowel)], vibrato_cents=0.0)
        spectrum = np.abs(np.fft.rfft(song.audio[seconds(song, 0.3, 1.0)] * np.hanning(round(0.7 * 48_000))))
        frequency = np.fft.rfftfreq(round(0.7 * 48_000), 1 / 48_000)
        for formant in (first, second):
            near = (frequency > 0.8 * formant) & (frequency < 1.25 * formant)
            assert abs(frequency[near][np.argmax(spectrum[near])] - formant) < 90, (vowel, formant)


@pytest.mark.parametrize("sample_rate", [16_000, 48_000])
def test_a_high_note_does_not_alias(sample_rate):
    song = sing([Note(84.37, 2.0, "i")], sample_rate, vibrato_cents=0.0, breathiness=0.0)
    held = seconds(song, 0.5, 1.5)
    audio, f0 = song.audio[held], np.mean(song.f0_hz[held])
    power = np.abs(np.fft.rfft(audio * np.blackman(len(audio)))) ** 2
    # Below the fundamental there is nothing but what folded back from above the Nyquist frequency.
    below = np.fft.rfftfreq(len(audio), 1 / sample_rate) < 0.6 * f0
    assert 10 * np.log10(power[below].sum() / power.sum()) < -75


def test_same_arguments_same_samples_and_another_seed_another_take():
    first, again, other = sing(PHRASE, seed=1), sing(PHRASE, seed=1), sing(PHRASE, seed=2)
    assert np.array_equal(first.audio, again.audio)
    assert np.array_equal(first.f0_hz, again.f0_hz)
    assert not np.array_equal(first.f0_hz, other.f0_hz)


notes = st.one_of(
    st.builds(Note, st.floats(24, 96), st.floats(0.02, 0.8), st.sampled_from(list(VOWELS)), st.sampled_from(CONSONANTS)),
    st.builds(Note, st.floats(24, 96), st.floats(0.02, 0.8), st.just("")),
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(notes, min_size=1, max_size=6),
    st.sampled_from([8000, 16_000, 22_050, 44_100, 48_000, 96_000]),
    st.floats(0, 300),
    st.floats(0, 1),
    st.floats(0.7, 1.6),
)
def test_whatever_is_written_is_sung(phrase, sample_rate, vibrato_cents, breathiness, tract):
    song = sing(phrase, sample_rate, vibrato_cents=vibrato_cents, breathiness=breathiness, tract=tract)
    assert len(song.audio) == len(song.f0_hz) == round(np.cumsum([note.seconds for note in phrase])[-1] * sample_rate)
    assert np.isfinite(song.audio).all() and np.max(np.abs(song.audio), initial=0) <= 1
    assert np.array_equal(song.voiced, song.f0_hz > 0)
    sung = song.f0_hz[song.voiced]
    assert ((sung > 20) & (sung < 3000)).all()


@pytest.mark.parametrize(
    ("phrase", "options", "message"),
    [
        ([], {}, "at least one note"),
        ([Note(200, 1)], {}, "midi of note 0 must be within 24.0 to 96.0, got 200"),
        ([Note(float("nan"), 1)], {}, "midi of note 0"),
        ([Note(60, 1), Note(60, 0)], {}, "seconds of note 1"),
        ([Note(60, 1, "ö")], {}, "vowel of note 0"),
        ([Note(60, 1, "a", "click")], {}, "consonant of note 0"),
        ([Note(60, 1, "", "s")], {}, "rest and can have no consonant"),
        ([Note(60, 1)], {"sample_rate": 4000}, "sample_rate"),
        ([Note(60, 1)], {"vibrato_hz": float("inf")}, "vibrato_hz"),
        ([Note(60, 1)], {"breathiness": -0.1}, "breathiness"),
        ([Note(60, 1)], {"tract": 0.0}, "tract"),
    ],
)
def test_what_cannot_be_sung_is_refused_in_one_sentence(phrase, options, message):
    with pytest.raises(ValueError, match=message):
        sing(phrase, **options)


def test_portamento_lasts_as_long_as_it_is_told():
    song = sing([Note(50, 2.0), Note(62, 2.0)], vibrato_cents=0.0, portamento=1.0)
    octaves = np.log2(song.f0_hz / (440 * 2 ** ((50 - 69) / 12)))
    inside = octaves[seconds(song, 1.3, 3.0)]
    # A bell a second wide: a tenth of the way after a quarter of its time, half after half.
    assert np.flatnonzero(inside > 0.5)[0] / 48_000 + 1.3 == pytest.approx(2.0, abs=0.02)
    assert np.flatnonzero(inside > 0.0908)[0] / 48_000 + 1.3 == pytest.approx(1.75, abs=0.03)


def test_a_creaking_voice_sounds_an_octave_lower_too_and_tells_the_pitch_of_its_cycles():
    low_power = []
    for creak in (0.0, 0.5):
        song = sing([Note(50, 1.5, "a")], vibrato_cents=0.0, creak=creak)
        held = seconds(song, 0.5, 1.3)
        phase = np.cumsum(song.f0_hz)[held] / 48_000
        window = np.hanning(len(phase))
        low, fundamental = (abs(np.sum(song.audio[held] * window * np.exp(-2j * np.pi * k * phase))) for k in (2.5, 2.0))
        low_power.append(20 * np.log10(low / fundamental))
        assert np.median(song.f0_hz[held]) == pytest.approx(440 * 2 ** ((50 - 69) / 12), rel=0.01)
    assert low_power[0] < -20 and low_power[1] > -14
