"""Cutting at silences: nothing is lost, silences go, sound never does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.slicing import Slice, Slicing, decibels, frame_peak, frame_power, presence, slice_on_silence

runs = st.lists(st.tuples(st.booleans(), st.integers(1, 80)), max_size=12)
slicings = st.builds(Slicing, st.integers(1, 20), st.integers(0, 20), st.integers(0, 60), st.integers(2, 70))


def levels(parts: list[tuple[bool, int]], seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate([np.zeros(0), *(random.uniform(-30, 0, n) - (0 if sound else 60) for sound, n in parts)])


@given(runs, slicings)
@settings(max_examples=300, deadline=None)
def test_slices_and_the_silences_between_them_are_the_whole_input(parts, slicing):
    level = levels(parts)
    slices = slice_on_silence(level, -45.0, slicing)
    covered = np.zeros(len(level), int)
    for start, stop in slices:
        assert 0 <= start < stop <= len(level) and stop - start <= slicing.longest
        covered[start:stop] += 1
    assert slices == sorted(slices) and covered.max(initial=0) <= 1
    assert (level[covered == 0] < -45).all()
    # What is removed is silence for as long as asked, and leaves as much on the sides that border on sound.
    edges = np.flatnonzero(np.diff(covered == 0, prepend=False, append=False)).reshape(-1, 2)
    for begin, end in edges:
        assert end - begin >= slicing.interval or begin == 0 or end == len(level)
        first, last = max(0, begin - slicing.kept), min(len(level), end + slicing.kept)
        assert (level[first:last] < -45).all()


def test_a_long_pause_is_removed_but_for_what_is_kept_of_it():
    level = levels([(True, 100), (False, 300), (True, 50)])
    assert slice_on_silence(level, -45, Slicing(30, 50, 500, 3000)) == [Slice(0, 150), Slice(350, 450)]


def test_silence_alone_leaves_nothing_and_sound_alone_is_one_slice():
    assert slice_on_silence(np.full(400, -90.0), -45) == []
    assert slice_on_silence(np.full(400, -10.0), -45) == [Slice(0, 400)]
    assert slice_on_silence(np.zeros(0), -45) == []


def test_a_short_silence_cuts_a_long_slice_at_its_quietest_frame():
    level = levels([(True, 600), (False, 60), (True, 100)])
    level[642] = -110
    assert slice_on_silence(level, -45, Slicing(30, 50, 500, 3000)) == [Slice(0, 642), Slice(642, 760)]


def test_unbroken_singing_is_cut_at_the_quietest_frame_of_the_second_half():
    level = np.full(5000, -10.0)
    level[[100, 1800, 2900]] = [-40, -30, -20]
    assert slice_on_silence(level, -45, Slicing(longest=3000))[0] == Slice(0, 1800)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_power_is_the_mean_square_in_each_window_zeros_outside(rate):
    audio = np.random.default_rng(1).standard_normal(rate).astype(np.float32)
    hop, window = rate / 100, rate * 0.04
    power = frame_power(audio, 0.0, hop, window, 101)
    for k in (0, 1, 50, 100):
        first, last = round(k * hop - window / 2), round(k * hop + window / 2)
        inside = audio[max(0, first) : last].astype(np.float64)
        assert power[k] == pytest.approx(np.square(inside).sum() / window, rel=1e-9)


def test_digital_silence_after_sound_has_no_power_at_all():
    audio = np.r_[np.random.default_rng(0).standard_normal(4000), np.zeros(4000)].astype(np.float32)
    assert decibels(frame_power(audio, 6000, 100, 400, 10)).max() == -120


def test_peaks_of_frames_are_those_of_their_samples():
    hop = 44_100 / 400  # not whole
    audio = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    peaks = frame_peak(audio, 0.0, hop, 60)
    for k, peak in enumerate(peaks):
        own = audio[max(0, round((k - 0.5) * hop)) : max(0, round((k + 0.5) * hop))]
        assert peak == np.abs(own).max(initial=0.0)
    assert not peaks[46:].any()


def test_presence_holds_then_falls_and_is_certain_where_there_is_sound():
    level = np.full(60, -90.0)
    level[30] = -10
    gain = presence(level, -60, hold=5, ramp=4)
    assert (gain[25:36] == 1).all() and gain[36:40] == pytest.approx([0.75, 0.5, 0.25, 0])
    assert (gain[:22] == 0).all() and np.array_equal(gain[1:], gain[:0:-1])
    assert (presence(np.full(5, -90.0), -60, 5, 4) == 0).all()
