"""Envelopes of signals whose lag, pauses and levels are known by construction."""

import math

import numpy as np
import pytest

from dsp.envelope import envelope_lag_ms, level_correlation, onset_rise_ms, pause_level_db
from dsp.singer import Note, sing

RATE = 16_000
PHRASE = [Note(57, 0.5, "a", "s"), Note(60, 0.4, "i", "t"), Note(62, 0.6, "o", "m"), Note(57, 0.3, ""), Note(55, 0.7, "e", "k")]


def tone(levels_db, rate=RATE, seconds=0.05):
    """A tone of 400 Hz, each level held for some time."""
    n = round(seconds * rate)
    amplitude = np.repeat(10 ** (np.asarray(levels_db) / 20), n)
    return amplitude * np.sin(2 * np.pi * 400 * np.arange(len(amplitude)) / rate)


def noise(seconds, rms, rate=RATE):
    x = np.random.default_rng(0).standard_normal(round(seconds * rate))
    return x * rms / np.sqrt(np.mean(x**2))


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("lag_ms", [-120, -7, 0, 3, 240])
def test_a_delay_is_found_to_the_millisecond(rate, lag_ms):
    levels = tone(np.random.default_rng(0).uniform(-30, 0, 120), rate)
    moved = np.roll(levels, round(lag_ms * rate / 1000))
    assert envelope_lag_ms(levels, moved, rate) == pytest.approx(lag_ms, abs=0.6)


@pytest.mark.parametrize("lag_ms", [-40, -3, 0, 7, 120])
def test_the_lag_is_where_the_energies_fit_best_whoever_sings(lag_ms):
    """A man and, a sixth higher and 10 dB softer, a woman; held against the definition, summed lag by lag."""
    higher = [Note(note.midi + 9, note.seconds, note.vowel, note.consonant) for note in PHRASE]
    man, woman = (np.pad(song.audio, RATE // 4) for song in (sing(PHRASE, RATE), sing(higher, RATE, tract=1.2)))
    woman = 0.3 * np.roll(woman, lag_ms * RATE // 1000)
    smoothed = []
    for audio in (man, woman):
        energy = np.array([np.log(1e-5 + np.mean(audio[k : k + 16] ** 2)) for k in range(0, len(audio) - 15, 16)])
        smoothed.append(np.convolve(energy - energy.mean(), np.ones(10), "same"))
    first, second = smoothed
    n = len(first)
    fits = {lag: sum(first[max(0, -lag) : n - max(0, lag)] * second[max(0, lag) : n + min(0, lag)]) for lag in range(-250, 250)}
    found = envelope_lag_ms(man, woman, RATE)
    assert found == max(fits, key=lambda lag: fits[lag])
    assert found == pytest.approx(lag_ms, abs=4)


@pytest.mark.parametrize("nothing", [np.zeros(RATE), np.ones(RATE), np.zeros(0), np.ones(7)])
def test_what_never_changes_has_no_lag(nothing):
    assert math.isnan(envelope_lag_ms(nothing, sing(PHRASE, RATE).audio[: len(nothing)], RATE))


def test_what_is_shorter_than_the_lags_that_are_looked_for_has_none():
    """A lone breath of 50 ms moved by 28 in the mean of a folder says nothing about when phrases come."""
    levels = tone(np.random.default_rng(0).uniform(-30, 0, 6))
    assert not math.isnan(envelope_lag_ms(levels, levels, RATE))
    assert math.isnan(envelope_lag_ms(levels[: RATE // 5], levels[: RATE // 5], RATE))


@pytest.mark.parametrize("level_db", [-75.0, -50.0, -20.0])
@pytest.mark.parametrize("gain", [0.1, 1.0])
def test_pauses_are_measured_against_the_phrases_of_the_same_recording(level_db, gain):
    phrase, silence = tone([-6] * 40), np.zeros(2 * RATE)
    rms = 10 ** ((-6 + level_db) / 20) / math.sqrt(2)
    converted = gain * np.concatenate([phrase, noise(2.0, rms), phrase])
    assert pause_level_db(np.concatenate([phrase, silence, phrase]), converted, RATE) == pytest.approx(level_db, abs=0.15)


def test_pauses_begin_a_tenth_of_a_second_after_the_phrase():
    """What rings on for 80 ms is the note's end; what does so for 200 ms is heard in the pause."""
    phrase, silence = tone([-6] * 40), np.zeros(2 * RATE)
    source = np.concatenate([phrase, silence, phrase])
    for seconds, heard in ((0.08, False), (0.2, True)):
        ringing = source.copy()
        ringing[len(phrase) : len(phrase) + round(seconds * RATE)] = tone([-26], seconds=seconds)
        assert (pause_level_db(source, ringing, RATE) > -60) == heard
    assert pause_level_db(source, source, RATE) == -120


def test_a_recording_without_pauses_or_without_anything_has_no_pause_level():
    phrase = tone([-6] * 40)
    for source in (phrase, np.zeros(RATE), np.zeros(0), np.ones(3)):
        assert math.isnan(pause_level_db(source, source, RATE))
    assert math.isnan(pause_level_db(np.concatenate([phrase, np.zeros(RATE)]), np.zeros(3 * RATE), RATE))


def test_levels_are_correlated_in_db_within_the_phrases_alone():
    random = np.random.default_rng(1)
    levels = random.uniform(-25, 0, 60)
    followed = 0.5 * levels + random.uniform(-8, 0, 60)
    wanted = np.corrcoef(levels, followed)[0, 1]
    assert 0.3 < wanted < 0.95
    assert level_correlation(tone(levels), tone(followed), RATE) == pytest.approx(wanted, abs=1e-6)
    silence = np.zeros(3 * RATE)
    paused = [np.concatenate([tone(part), silence]) for part in (levels, followed)]
    assert level_correlation(*paused, RATE) == pytest.approx(wanted, abs=1e-6)
    assert level_correlation(tone(levels), 0.01 * tone(levels), RATE) == pytest.approx(1)


def test_levels_that_never_change_have_no_correlation():
    steady, moving = tone([-6] * 20), tone(np.linspace(-20, 0, 20))
    silence, short = np.zeros(RATE), moving[:900]
    for first, second in ((steady, moving), (moving, steady), (moving, silence), (silence, moving), (short, short)):
        assert math.isnan(level_correlation(first, second, RATE))


def test_channels_are_refused():
    with pytest.raises(ValueError, match=r"shaped \[n\], not 2 and 1 dimensions"):
        envelope_lag_ms(np.zeros((2, 100)), np.zeros(100), RATE)


def bursts(rise_ms, rate=RATE, count=6):
    """Noise that rises in proportion within some time, every 300 ms, from 60 dB below."""
    n = round(0.3 * rate)
    t = np.arange(n) / rate * 1e3
    gain = np.clip((t - 150) / max(rise_ms, 1e-6), 1e-3, 1) * np.where(t < 250, 1, 1e-3)
    return np.tile(gain, count) * np.random.default_rng(3).uniform(0.9, 1.1, n * count) * (-1.0) ** np.arange(n * count)


@pytest.mark.parametrize("rate", [16_000, 48_000])
@pytest.mark.parametrize("rise_ms", [0, 4, 12])
def test_rise_times_are_those_from_a_tenth_to_nine_tenths(rate, rise_ms):
    """Of a line that is 80 % of it; a ms of averaging makes a step as long as that."""
    found = onset_rise_ms(bursts(0, rate), bursts(rise_ms, rate), rate)
    assert found[0] == pytest.approx(1.0, abs=0.5)
    assert found[1] == pytest.approx(max(1.0, 0.8 * rise_ms), abs=1.0)


def test_a_voice_that_goes_on_has_no_onsets_and_a_plosive_has_one():
    held = sing([Note(40, 1.0, "a")], RATE, vibrato_cents=0).audio[RATE // 4 : -RATE // 4]
    assert math.isnan(onset_rise_ms(held, held, RATE)[0])
    plosive = sing([Note(52, 0.6, "a"), Note(52, 0.6, "a", "t")], RATE).audio
    rise, same = onset_rise_ms(plosive, plosive, RATE)
    assert rise == same and 1 <= rise <= 12
    assert math.isnan(onset_rise_ms(np.zeros(RATE), plosive, RATE)[1])
    assert math.isnan(onset_rise_ms(np.zeros(5), np.zeros(5), RATE)[0])
