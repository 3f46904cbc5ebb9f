"""Disturbed originals: other formants and another colour, the same pitch at the same moments."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.llvc.disturb import disturb  # noqa: E402

torch.set_num_threads(1)
RATE = 16_000


def vowel(formants, f0=120.0, seconds=1.0):
    """Pulses through resonances, [1, 1, samples]."""
    t = np.arange(round(RATE * seconds)) / RATE
    harmonics = np.arange(1, int(RATE / 2 / f0)) * f0
    level = sum(1 / (1 + ((harmonics - formant) / 200.0) ** 2) for formant in formants)
    audio = (level[:, None] * np.cos(2 * np.pi * harmonics[:, None] * t)).sum(0)
    return torch.from_numpy(0.1 * audio.astype(np.float32))[None, None]


def peak_hz(audio, low, high, f0=120.0):
    """The strongest harmonic between two frequencies, refined by its neighbours as a parabola in dB."""
    spectrum = np.abs(np.fft.rfft(audio[0, 0].numpy() * np.hanning(audio.shape[-1])))
    numbers = np.arange(int(low / f0), int(high / f0) + 1)
    levels = np.array([np.log(spectrum[round(n * f0) - 3 : round(n * f0) + 4].max()) for n in numbers])
    best = int(levels[1:-1].argmax()) + 1
    a, b, c = levels[best - 1 : best + 2]
    return (numbers[best] + 0.5 * (a - c) / (a - 2 * b + c)) * f0


class Fixed(np.random.Generator):
    """Draws the largest stretch."""

    def uniform(self, low=0.0, high=1.0, size=None):
        return high


def test_nothing_disturbed_is_nothing_changed():
    audio = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 1, 5000)).astype(np.float32))
    torch.testing.assert_close(disturb(audio, RATE, 0.0, 0.0, np.random.default_rng(0)), audio, rtol=0, atol=1e-5)


@pytest.mark.parametrize("warp", [0.2, -0.2])
def test_formants_move_by_the_ratio_and_pitch_stays(warp):
    made = disturb(vowel((700.0, 1800.0)), RATE, warp, 0.0, Fixed(np.random.PCG64(0)))
    ratio = np.exp(-warp)  # the envelope is read further up, so the formants come lower
    lower, upper = (peak_hz(made, 0.7 * formant * ratio, 1.3 * formant * ratio) for formant in (700.0, 1800.0))
    assert upper == pytest.approx(1800 * ratio, rel=0.04)
    # Six harmonics make the lower one: what is left of its old peak draws it back.
    assert 0.3 < (lower - 700) / (700 * ratio - 700) < 1.1
    spectrum = np.abs(np.fft.rfft(made[0, 0].numpy() * np.hanning(RATE))) ** 2
    on = sum(spectrum[n * 120 - 3 : n * 120 + 4].sum() for n in range(1, 30))
    assert on > 0.99 * spectrum[:3600].sum()


def test_colour_is_a_smooth_curve_of_the_level_asked_for():
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 1, RATE)).astype(np.float32))
    made = disturb(noise, RATE, 0.0, 3.0, np.random.default_rng(1))
    before, after = (np.abs(np.fft.rfft(x[:, 0].numpy())) ** 2 for x in (noise, made))
    bands = [slice(low, low + 200) for low in range(200, 7800, 200)]
    curve = np.array([[10 * np.log10(a[band].sum() / b[band].sum()) for band in bands] for a, b in zip(after, before, strict=True)])
    # Four waves of 3 dB, whose cosines have on average half their square: sqrt(4 * 9 / 2).
    assert np.sqrt(np.mean(curve**2)) == pytest.approx(18**0.5, rel=0.25)
    assert np.abs(np.diff(curve[:, 9:], axis=1)).max() < 3  # above 2 kHz, where bands are close to each other


def test_a_clip_is_moved_by_no_sample_and_silence_stays_silence():
    click = torch.zeros(1, 1, 4000)
    click[0, 0, 1777] = 1.0
    made = disturb(click, RATE, 0.25, 3.0, np.random.default_rng(2))[0, 0]
    assert int(made.abs().argmax()) == 1777
    assert not disturb(torch.zeros(2, 1, 4000), RATE, 0.25, 3.0, np.random.default_rng(0)).any()


def test_the_same_seed_disturbs_alike_and_every_clip_is_disturbed_otherwise():
    audio = vowel((700.0, 1800.0)).repeat(2, 1, 1)
    first, again = (disturb(audio, RATE, 0.25, 3.0, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert (first[0] - first[1]).abs().max() > 0.01
