"""Spectrogram levels and positions against sines of known level, frequency and time."""

import numpy as np
import pytest

from dsp.spectra import spectrogram

BANDS = np.geomspace(50, 16000, 256)


@pytest.mark.parametrize("hz", [100.0, 440.0, 3000.0, 12000.0])
@pytest.mark.parametrize("sample_rate", [32000, 48000, 96000])
def test_a_sine_shows_its_level_at_its_frequency(hz, sample_rate):
    t = np.arange(sample_rate) / sample_rate
    shown = spectrogram(0.1 * np.sin(2 * np.pi * hz * t), sample_rate, BANDS)
    middle = shown.level_db[:, 20:-20].mean(axis=1)
    # One band is 2.3 % wide; below 1 kHz the window's own width counts.
    assert abs(BANDS[np.argmax(middle)] - hz) < 0.03 * hz + 10
    assert abs(middle.max() - -20.0) < 1.0  # 0.1 of full scale
    assert middle[np.abs(np.log2(BANDS / hz)) > 1].max() < -65


def test_a_click_shows_at_its_time():
    audio = np.zeros(48000)
    audio[24000] = 1
    shown = spectrogram(audio, 48000, BANDS)
    energy = (10 ** (shown.level_db / 10)).sum(axis=0)
    assert shown.times_s[np.argmax(energy)] == pytest.approx(0.5, abs=0.006)
    assert abs(shown.times_s[-1] - 1.0) < 0.02


def test_a_shorter_window_shows_a_click_alone():
    audio = np.zeros(48000)
    audio[24000] = 1
    shown = spectrogram(audio, 48000, BANDS, window_s=0.005, hop_s=0.0005)
    seen_s = shown.times_s[shown.level_db.max(axis=0) > -60]
    assert 0.4975 <= seen_s[0] < seen_s[-1] <= 0.5025


def test_bands_above_half_the_rate_are_silent():
    shown = spectrogram(np.random.default_rng(0).standard_normal(16000), 16000, BANDS)
    assert (shown.level_db[BANDS > 8000] == -120).all()
    assert (shown.level_db[BANDS < 7000] > -120).all()


@pytest.mark.parametrize("samples", [0, 1, 300])
def test_hardly_any_audio_is_drawn_too(samples):
    shown = spectrogram(np.ones(samples), 48000, BANDS)
    assert shown.level_db.shape == (256, len(shown.times_s))
    assert np.isfinite(shown.level_db).all()
