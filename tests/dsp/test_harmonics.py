"""Sounds made as Fourier sums whose pitch, sub-octave and noise are known by construction."""

import numpy as np
import pytest

from dsp.harmonics import deviation_cents, harmonic, harmonicity_db, suboctave_db

RATE = 24_000


def buzz(f0_hz, low=0.0, harmonics=8):
    """Sines at the harmonics of f0_hz [n] with amplitudes 1/k, and with amplitude `low` at half of it."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE
    return sum(np.sin(k * phase) / k for k in range(1, harmonics + 1)) + low * np.sin(0.5 * phase + 1)


@pytest.mark.parametrize("hz", [70.0, 220.0, 1000.0])
def test_a_steady_harmonic_is_told_with_its_amplitude(hz):
    f0 = np.full(RATE, hz)
    for number in (1, 3):
        amplitude = np.abs(harmonic(buzz(f0), f0, RATE, number, 0.06))[100:-100]
        assert amplitude == pytest.approx(np.full(len(amplitude), 1 / number), abs=0.01)


@pytest.mark.parametrize("hz", [65.0, 130.0, 440.0, 1050.0])
@pytest.mark.parametrize("rate_hz", [4.0, 7.0])
def test_a_vibrato_is_measured_in_cents(hz, rate_hz):
    cents = 60 if hz < 1000 else 20
    t = np.arange(2 * RATE) / RATE
    told, sung = np.full(len(t), hz), hz * 2 ** (cents / 1200 * np.sin(2 * np.pi * rate_hz * t))
    found = deviation_cents(buzz(sung), told, RATE)[200:-200]
    wave = np.exp(-2j * np.pi * rate_hz * (np.arange(len(found)) * 1e-3 + 0.2))
    depth = 2 * abs(np.mean(found * wave))
    periods = rate_hz * max(0.03, 4 / hz)
    seen = np.sinc(periods) / (1 - periods**2)  # what a Hann window that spans so much of a wave leaves of it
    assert depth == pytest.approx(cents * seen, rel=0.03)
    assert abs(deviation_cents(buzz(sung), sung, RATE)[200:-200]).max() < 1.5


def test_what_sounds_an_octave_lower_is_told_in_db():
    f0 = np.full(RATE, 200.0)
    for low in (0.03, 0.3):
        wanted = 20 * np.log10(low / np.sqrt(1 + 1 / 4 + 1 / 9))
        assert np.median(suboctave_db(buzz(f0, low), f0, RATE)) == pytest.approx(wanted, abs=0.5)
    assert np.median(suboctave_db(buzz(f0), f0, RATE)) < -60


def test_noise_has_as_much_between_the_harmonics_as_on_them():
    random = np.random.default_rng(0)
    f0 = np.full(2 * RATE, 150.0)
    noise = random.standard_normal(len(f0))
    assert abs(np.median(harmonicity_db(noise, f0, RATE, 2000, 6000))) < 1
    assert np.median(harmonicity_db(buzz(f0, harmonics=60) + 1e-4 * noise, f0, RATE, 2000, 6000)) > 30


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match=r"one length.*\(3,\) and \(4,\)"):
        deviation_cents(np.zeros(3), np.ones(4), RATE)
    with pytest.raises(ValueError, match="above 0 Hz"):
        suboctave_db(np.zeros(3), np.zeros(3), RATE)
    with pytest.raises(ValueError, match="no harmonic"):
        harmonicity_db(np.zeros(9), np.full(9, 500.0), RATE, 100, 200)
