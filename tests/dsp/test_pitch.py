"""Offline pitch tracking against signals whose pitch is known by construction."""

import math

import numpy as np
import pytest

from dsp.pitch import PitchTrack, compare_pitch, suggest_transposition, track_pitch


def sung_note(hz, sample_rate, seconds=1.0):
    """Eleven partials with vibrato of 40 cents (WORLD is made for voices: it loses dead steady tones above 600 Hz)."""
    t = np.arange(int(seconds * sample_rate)) / sample_rate
    f0 = hz * 2 ** (40 / 1200 * np.sin(2 * np.pi * 5.5 * t))
    phase = 2 * np.pi * np.cumsum(f0) / sample_rate
    audio = sum(np.sin(k * phase) / k for k in range(1, 12) if k * hz < sample_rate / 2) * 0.2
    return audio, t, f0


def track_of(hz):
    hz = np.asarray(hz, dtype=float)
    return PitchTrack(np.arange(len(hz)) * 0.005, hz, hz > 0)


@pytest.mark.parametrize("method", ["harvest", "dio"])
@pytest.mark.parametrize("sample_rate", [16000, 44100, 96000])
@pytest.mark.parametrize("hz", [82.4, 220.0, 880.0])
def test_a_sung_note_is_followed_within_ten_cents(method, sample_rate, hz):
    audio, t, f0 = sung_note(hz, sample_rate)
    track = track_pitch(audio, sample_rate, method=method)
    true_hz = np.interp(track.times_s, t, f0)
    cents = np.abs(1200 * np.log2(track.hz[track.voiced] / true_hz[track.voiced]))
    assert np.median(cents) < 5 and np.mean(cents > 50) < 0.05
    assert track.voiced.mean() > 0.9
    assert abs(1200 * math.log2(track.median_hz / hz)) < 20  # half a vibrato cycle is left over


def test_frames_lie_where_the_sound_is():
    """A tone that starts at 0.5 s is voiced from there on: times are seconds of the recording."""
    rate = 48000
    audio = np.concatenate([np.zeros(rate // 2), sung_note(200, rate, 0.5)[0]])
    track = track_pitch(audio, rate)
    assert abs(track.times_s[np.argmax(track.voiced)] - 0.5) < 0.03
    assert np.allclose(np.diff(track.times_s), 0.005)
    assert abs(track.times_s[-1] - 1.0) < 0.006


def test_channels_are_tracked_as_their_mean():
    tone, *_ = sung_note(150, 16000)
    assert abs(track_pitch(np.stack([tone, np.zeros_like(tone)]), 16000).median_hz - 150) < 0.5


@pytest.mark.parametrize("samples", [0, 1, 2, 100])
@pytest.mark.parametrize("method", ["harvest", "dio"])
def test_hardly_any_audio_has_no_pitch(samples, method):
    track = track_pitch(np.ones(samples), 48000, method=method)
    assert len(track.hz) == len(track.times_s) == (1 if samples else 0)
    assert math.isnan(track.median_hz)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_audio_that_is_not_finite_is_refused(bad):
    audio = np.zeros(4800)
    audio[7] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        track_pitch(audio, 48000)


def test_agreement_counts_cents_octaves_and_voicing():
    reference = track_of([0, 100, 100, 100, 100, 0])
    # One frame 10 cents high, two exact, one an octave high; one silent frame called voiced.
    other = track_of([0, 100 * 2 ** (10 / 1200), 100, 100, 200, 50])
    agreement = compare_pitch(reference, other)
    assert agreement.median_cents == pytest.approx(5)
    assert agreement.gross_errors == pytest.approx(1 / 4)
    assert agreement.voicing == pytest.approx(5 / 6)
    assert agreement.frames == 4


def test_agreement_correlates_melodies_whatever_their_key():
    octaves = np.array([0, 0.5, 1, 0.25, 0.75])
    other = np.array([0, 0.5, 1, 0.75, 0.25])  # two notes swapped: by hand, covariance 0.375 of variances 0.625
    assert compare_pitch(track_of(100 * 2**octaves), track_of(200 * 2**octaves)).correlation == pytest.approx(1)
    assert compare_pitch(track_of(100 * 2**octaves), track_of(150 * 2**other)).correlation == pytest.approx(0.375 / 0.625)
    assert math.isnan(compare_pitch(track_of([100] * 5), track_of(100 * 2**other)).correlation)


def test_agreement_takes_the_shift_into_account():
    assert compare_pitch(track_of([100] * 9), track_of([200] * 5), shift_semitones=12).median_cents == pytest.approx(0)


def test_agreement_without_common_voiced_frames_is_not_a_number():
    agreement = compare_pitch(track_of([100, 0]), track_of([0, 100]))
    assert math.isnan(agreement.median_cents) and math.isnan(agreement.gross_errors) and math.isnan(agreement.correlation)
    assert agreement.voicing == 0


@pytest.mark.parametrize(
    ("median", "low", "high", "semitones"),
    [
        (120, 100, 300, 0),  # in range: stays
        (100, 100, 300, 0),
        (300, 100, 300, 0),
        (85, 100, 300, 0),  # 2.8 semitones below
        (355, 100, 300, 0),  # 2.9 above
        (84, 100, 300, 12),  # 3.02 below
        (120, 200, 600, 12),  # a man for a woman's voice
        (240, 80, 200, -12),
        (60, 200, 600, 24),
        (900, 100, 300, -24),
        (100, 200, 400, 12),  # exactly to the edge
        (500, 262, 392, -12),  # 250 Hz, near enough
        (200, 262, 294, 5),  # an octave would jump over so few notes: 200 -> 267 Hz is the least that gets in
        (400, 262, 294, -6),
        (float("nan"), 100, 300, 0),
        (0, 100, 300, 0),
    ],
)
def test_transposition_brings_the_median_into_the_range(median, low, high, semitones):
    assert suggest_transposition(median, low, high) == semitones


def test_transposition_always_lands_in_reach():
    reach = 2 ** (3 / 12) * (1 + 1e-6)
    for low, high in [(80, 85), (80, 120), (100, 250), (200, 800)]:
        for median in np.geomspace(30, 2000, 97):
            moved = median * 2 ** (suggest_transposition(median, low, high) / 12)
            assert low / reach <= moved <= high * reach
