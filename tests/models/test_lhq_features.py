"""Mel spectrograms and content features of the song engine against formulas and an independent computation."""

from __future__ import annotations

import numpy as np
import pytest

from models.lhq import features, mel
from models.lhq.mel import PRESETS, MelPreset

RATE, HOP = 40_000, 400


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def slow_log_mel(audio: np.ndarray, preset: MelPreset) -> np.ndarray:
    """By a DFT matrix in double precision and triangles drawn with `np.interp`, frame by frame."""
    size, half = preset.n_fft, preset.n_fft // 2
    n = np.arange(size)
    window = 1 - np.cos(2 * np.pi * n / size)
    dft = np.exp(-2j * np.pi * np.outer(np.arange(half + 1), n) / size)
    hz = np.arange(half + 1) * preset.sample_rate / size
    low, high = (2595 * np.log10(1 + f / 700) for f in (preset.low_hz, preset.high_hz))
    edges = 700 * (10 ** (np.linspace(low, high, preset.bins + 2) / 2595) - 1)
    padded = np.concatenate([np.zeros(half), audio.astype(np.float64), np.zeros(size)])
    rows = []
    for k in range(len(audio) // preset.hop + 1):
        magnitude = np.abs(dft @ (padded[k * preset.hop : k * preset.hop + size] * window)) * 2 / size
        row = []
        for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
            left, right = min(left, centre - hz[1]), max(right, centre + hz[1])
            weight = np.interp(hz, [left, centre, right], [0, 1, 0], left=0, right=0)
            row.append(np.log(max(1e-5, (weight * magnitude).sum() / weight.sum())))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("name", ["default", "paper"])
def test_log_mel_is_that_of_a_slow_second_implementation(name: str) -> None:
    audio = noise(3_777)
    audio[2000:] *= np.linspace(1, 1e-5, 1777, dtype=np.float32)
    np.testing.assert_allclose(mel.log_mel(audio, PRESETS[name]), slow_log_mel(audio, PRESETS[name]), atol=2e-3)


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 401, 256 * 400, 256 * 400 - 1, 40_123])
def test_there_is_a_frame_for_every_hop_begun(samples: int) -> None:
    frames = samples // 400 + 1
    assert mel.log_mel(noise(samples)).shape == (frames, 100)
    assert features.content_features(noise(samples)).shape == (frames, 80)


def test_frames_are_centred_on_their_sample() -> None:
    audio = np.zeros(40_000, np.float32)
    audio[50 * HOP] = 1.0
    energy = np.exp(mel.log_mel(audio)).sum(1)
    np.testing.assert_allclose(energy[48:53], energy[52:47:-1], rtol=1e-3)
    assert np.argmax(energy) == 50


@pytest.mark.parametrize("compute", [mel.log_mel, features.content_features])
def test_a_slice_is_a_range_of_the_takes_frames(compute) -> None:  # type: ignore[no-untyped-def]
    """Frames depend on their window alone: computed from any cut with half a window around them, they are the same numbers."""
    audio = noise(150_000, 1)
    whole, part = compute(audio), compute(audio[80 * HOP : 200 * HOP])
    np.testing.assert_array_equal(part[3:-4], whole[83 : 80 + len(part) - 4])


def test_a_sine_of_amplitude_one_is_near_zero() -> None:
    audio = np.sin(2 * np.pi * 1000 * np.arange(40_000) / RATE).astype(np.float32)
    assert mel.log_mel(audio)[20:80].max(1) == pytest.approx(np.full(60, np.log(0.55)), abs=0.25)


def test_normalised_range() -> None:
    levels = np.array([[np.log(1e-5), 0.0, -3.3]], np.float32)
    np.testing.assert_allclose(mel.normalise(levels), [[-1, 1, 1 + 2 * 3.3 / np.log(1e-5)]], atol=1e-6)
    np.testing.assert_allclose(mel.denormalise(mel.normalise(levels)), levels, atol=1e-5)


@pytest.mark.parametrize("kind", ["noise", "tone"])
def test_loudness_is_the_level_below_7600_hz(kind: str) -> None:
    if kind == "noise":
        audio = noise(400 * 200, 2)
        expected = np.log(0.1 * np.sqrt((7600 - 60) / 20_000))
    else:
        audio = (0.2 * np.sin(2 * np.pi * 1234 * np.arange(400 * 200) / RATE)).astype(np.float32)
        expected = np.log(0.2 / np.sqrt(2))
    loudness = features.loudness(features.content_features(audio))[5:-5]
    assert loudness.shape == (191,)
    assert 0.5 * np.log(np.mean(np.exp(2 * loudness))) == pytest.approx(expected, abs=0.06)


def test_what_lies_above_8_khz_is_not_heard() -> None:
    t = np.arange(40_000) / RATE
    audio = noise(40_000)
    bright = audio + np.sin(2 * np.pi * 9000 * t).astype(np.float32)
    np.testing.assert_allclose(features.content_features(bright)[5:-5], features.content_features(audio)[5:-5], atol=0.02)


def test_a_louder_take_is_louder_by_as_much_in_every_band() -> None:
    audio = noise(20_000)
    np.testing.assert_allclose(
        features.content_features(2 * audio), features.content_features(audio) + np.log(2), atol=1e-3
    )
    quiet = features.content_features(np.zeros(4_000, np.float32))
    assert np.isfinite(quiet).all() and np.ptp(quiet) == 0
