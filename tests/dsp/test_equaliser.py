"""The equaliser of a voice gives back what a filter took away."""

from __future__ import annotations

import numpy as np
import pytest

from dsp.equaliser import BANDS, FFT, HOP, NOTHING_HZ, RATE, centres_hz, equalised, equaliser_db, gains_db, long_term_spectrum_db
from dsp.singer import Note, sing


def phrase(height: float, seed: int) -> np.ndarray:
    """Sung vowels of another pitch each time, at 16 kHz."""
    notes = [Note(height + k, 0.6, vowel) for k, vowel in enumerate("aeiou")]
    return sing(notes, RATE, seed=seed).audio


def tilted(audio: np.ndarray, db_an_octave: float) -> np.ndarray:
    """Through a filter of so many dB an octave around 1 kHz, none outside 100 Hz to 7 kHz."""
    hz = np.clip(np.fft.rfftfreq(len(audio), 1 / RATE), 100, 7_000)
    return np.fft.irfft(np.fft.rfft(audio) * 10 ** (db_an_octave * np.log2(hz / 1_000) / 20), len(audio))


def test_what_a_filter_took_is_what_is_lacking() -> None:
    takes = [phrase(height, seed) for seed, height in enumerate((45, 52, 57, 64))]
    spectra = [long_term_spectrum_db(take) for take in takes]
    filtered = [long_term_spectrum_db(tilted(take, -3.0)) for take in takes]
    found = equaliser_db(spectra, filtered)
    hz = centres_hz()
    inside = (hz > 200) & (hz < 6_000)
    wanted = 3.0 * np.log2(hz / 1_000)
    off = (found - wanted)[inside]
    assert np.ptp(off) < 1.0  # but for a constant, which leaves the power as it was
    lack = equaliser_db(spectra, spectra)
    assert np.abs(lack).max() < 1e-9


def test_the_power_of_what_is_converted_stays() -> None:
    random = np.random.default_rng(1)
    converted = [random.normal(0, 10, BANDS) for _ in range(3)]
    found = equaliser_db([random.normal(0, 10, BANDS) for _ in range(2)], converted)
    power = 10 ** (np.mean(converted, axis=0) / 10)
    assert (power * 10 ** (found / 10)).sum() == pytest.approx(power.sum())


def test_a_spectrum_does_not_depend_on_level_or_pauses() -> None:
    take = phrase(57, 3)
    pause = np.zeros(64 * HOP)
    first, second = long_term_spectrum_db(take), long_term_spectrum_db(np.concatenate([pause, 0.1 * take, pause]))
    assert np.abs(first - second).max() < 1.0


def test_between_the_bands_are_straight_lines_and_far_above_is_nothing() -> None:
    levels = list(np.linspace(-6, 6, BANDS))
    assert np.allclose(gains_db(levels, centres_hz()), levels)
    assert gains_db(levels, np.array([0.0]))[0] == -6
    assert np.all(gains_db(levels, np.array([NOTHING_HZ, 20_000.0])) == 0)
    assert 0 < gains_db(levels, np.array([10_000.0]))[0] < 6


@pytest.mark.parametrize("audio", [np.zeros(RATE), np.ones(FFT - 1)])
def test_silence_has_no_spectrum(audio: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected a sound of at least 64 ms"):
        long_term_spectrum_db(audio)


@pytest.mark.parametrize("rate", [RATE, 48_000])
@pytest.mark.parametrize("samples", [RATE, RATE + 77, 300])
def test_an_equaliser_filters_in_place(samples: int, rate: int) -> None:
    random = np.random.default_rng(4)
    audio = random.normal(0, 0.1, samples)
    assert np.abs(equalised(audio, [0.0] * BANDS, rate) - audio).max() < 1e-6
    tone = np.sin(2 * np.pi * 500 / rate * np.arange(samples))
    assert np.abs(equalised(tone, [6.0] * BANDS, rate)[100:-100]).max() > 1.5
    time = np.arange(rate) / rate
    for hz, wanted in ((500.0, 0.0), (4_000.0, -12.0)) + ((20_000.0, 0.0),) * (rate > 40_000):
        tone = np.sin(2 * np.pi * hz * time)
        made = equalised(tone, list(np.where(centres_hz() < 1_500, 0.0, -12.0)), rate)
        assert np.abs(made - 10 ** (wanted / 20) * tone)[2_000:-2_000].max() < 0.01  # of its phase, too
