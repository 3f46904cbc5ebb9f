"""The song engine's synthesis without a network: pitch, phase, levels, slices."""

from __future__ import annotations

import numpy as np
import pytest

from dsp.filters import crossfading_hann, gain_centres_hz, gain_matrix, minimum_phase_matrix
from dsp.mel import hz_to_mel
from dsp.pitch import track_pitch
from models.lhq import synthesis
from models.lhq.synthesis import FRAMES_AFTER, FRAMES_BEFORE, GAINS, HOP, NOISE_STEPS, SAMPLE_RATE, phase_of, pulses, synthesise

CLOSED = -60.0


def gliding(frames: int, seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    """f0 with vibrato on a random walk through an octave and a half."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 0.01, frames))
    return np.asarray(220 * 2 ** (np.clip(walk, -0.7, 0.7) + 0.05 * np.sin(2 * np.pi * 5.5 * np.arange(frames) / 100)))


def flat(frames: int, harmonic: float, noise: float) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return np.full((frames, GAINS), harmonic, np.float32), np.full((frames, NOISE_STEPS * GAINS), noise, np.float32)


def test_phase_is_the_integral_of_f0() -> None:
    f0 = gliding(400)
    per_sample = np.interp(np.arange(399 * 64 + 1) / 64, np.arange(400), f0)
    trapezoids = np.concatenate([[0.0], np.cumsum(0.5 * (per_sample[1:] + per_sample[:-1]) * HOP / 64 / SAMPLE_RATE)])[::64]
    distance = phase_of(f0) - trapezoids
    np.testing.assert_allclose(distance - np.round(distance), 0.0, atol=1e-9)


def test_phase_of_a_long_take_in_parts() -> None:
    f0 = gliding(360_000)
    whole = phase_of(f0)
    first = phase_of(f0[:123_457])
    second = phase_of(f0[123_456:], first[-1])
    np.testing.assert_array_equal(np.concatenate([first, second[1:]]), whole)


@pytest.mark.parametrize("f0", [61.0, 233.08, 1099.0])
def test_pulses_are_the_sum_of_all_harmonics(f0: float) -> None:
    hz = np.full(12, f0)
    made = pulses(hz, phase_of(hz))
    count = int(0.49 * SAMPLE_RATE / f0)
    seconds = np.arange(len(made)) / SAMPLE_RATE
    wanted = sum(np.cos(2 * np.pi * k * f0 * seconds) for k in range(1, count + 1)) * np.sqrt(2 / count)
    np.testing.assert_allclose(made, wanted, atol=1e-5 * np.sqrt(count))
    assert np.mean(made**2) == pytest.approx(1.0, abs=0.1)


def test_pulses_join_where_frames_meet() -> None:
    # Of a low sine's slope nothing may jump: hence the fundamental alone, from the phase that the formula gives at each sample.
    f0 = gliding(200)
    phase = phase_of(f0)
    ends = phase[:-1] + 0.5 * (f0[1:] + f0[:-1]) * HOP / SAMPLE_RATE
    distance = ends - phase[1:]
    np.testing.assert_allclose(distance - np.round(distance), 0.0, atol=1e-9)


def test_filters_are_minimum_phase_and_have_their_gains() -> None:
    gains = np.cumsum(np.random.default_rng(2).normal(0, 0.3, 64))
    log_magnitude, phase = np.split(gains @ minimum_phase_matrix(40_000, 4096, 64), 2)
    hz = np.arange(2049) * 40_000 / 4096
    wanted = np.interp(hz_to_mel(hz), hz_to_mel(gain_centres_hz(40_000, 64)), gains)
    np.testing.assert_allclose(log_magnitude, wanted, atol=1e-9)
    np.testing.assert_allclose(gains @ gain_matrix(40_000, 4096, 64), wanted, atol=1e-9)
    # Minimum phase: causal, and so is the inverse.
    for log_response in (log_magnitude + 1j * phase, -log_magnitude - 1j * phase):
        power = np.fft.irfft(np.exp(log_response)) ** 2
        assert power[2048:].sum() < 1e-4 * power.sum()


def test_windows_sum_to_one() -> None:
    window = crossfading_hann(HOP)
    np.testing.assert_allclose(window[:HOP] + window[HOP:], 1.0, atol=1e-12)


def test_pitch_of_the_sound_is_the_pitch_that_was_asked_for() -> None:
    f0 = gliding(300, seed=3)
    harmonic, noise = flat(300, 0.0, CLOSED)
    # A voice's spectrum falls by 6 dB an octave.
    harmonic -= np.log(1 + gain_centres_hz(SAMPLE_RATE, GAINS) / 300).astype(np.float32) + 2
    audio = synthesise(harmonic, noise, f0, np.ones(300), 0, 0.0)
    found = track_pitch(audio, SAMPLE_RATE)
    at = (found.times_s > 0.05) & (found.times_s < 2.95)
    assert found.voiced[at].mean() > 0.99
    wanted = np.interp(found.times_s, np.arange(300) / 100, f0)
    cents = 1200 * np.log2(found.hz[found.voiced & at] / wanted[found.voiced & at])
    assert np.median(np.abs(cents)) < 4
    assert np.percentile(np.abs(cents), 95) < 15


def test_a_gain_is_a_gain() -> None:
    frames = 200
    f0 = np.full(frames, 250.0)
    inside = slice(20 * HOP, 180 * HOP)
    sung = synthesise(*flat(frames, np.log(0.1), CLOSED), f0, np.ones(frames), 0, 0.0)[inside]
    assert np.sqrt(np.mean(sung**2)) == pytest.approx(0.1, rel=0.01)
    blown = synthesise(*flat(frames, CLOSED, np.log(0.1)), f0, np.ones(frames), 0, 0.0)[inside]
    assert np.sqrt(np.mean(blown**2)) == pytest.approx(0.1, rel=0.03)


def test_a_pulse_is_where_its_phase_says() -> None:
    # One pulse a tenth of a second, flat filters: samples 0, 4000, 8000 from the phase 0 at frame 0.
    frames = 31
    f0 = np.full(frames, 100.0)
    audio = synthesise(*flat(frames, 0.0, CLOSED), f0, np.ones(frames), 0, 0.0)
    highest = np.flatnonzero(audio > 0.9 * audio[4000:8000].max())
    assert (highest[(highest > 2000) & (highest < 10_000)] % 400 == 0).all()


def test_noise_gain_of_a_frame_is_heard_at_the_frame() -> None:
    frames = 60
    harmonic, noise = flat(frames, CLOSED, CLOSED)
    noise[30, GAINS:] = 0.0  # the second step of frame 30: 5 ms
    power = synthesise(harmonic, noise, np.full(frames, 200.0), np.zeros(frames), 0, 0.0).astype(np.float64) ** 2
    centre = (power * np.arange(len(power))).sum() / power.sum()
    assert centre == pytest.approx(30 * HOP + HOP / 4, abs=25)
    assert power[30 * HOP - HOP // 4 : 30 * HOP + 3 * HOP // 4].sum() > 0.999 * power.sum()


def test_unvoiced_frames_have_no_pulses() -> None:
    frames = 60
    voiced = np.ones(frames)
    voiced[20:40] = 0
    audio = synthesise(*flat(frames, 0.0, CLOSED), np.full(frames, 200.0), voiced, 0, 0.0)
    assert np.abs(audio[20 * HOP : 39 * HOP]).max() < 1e-6
    assert np.abs(audio[10 * HOP : 19 * HOP]).max() > 1


def test_noise_is_white_and_depends_on_the_seed() -> None:
    frames = 400
    gains = flat(frames, CLOSED, 0.0)
    one, other = (synthesise(*gains, np.full(frames, 200.0), np.zeros(frames), 0, 0.0, seed=seed) for seed in (1, 2))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    spectrum = np.abs(np.fft.rfft(one[: 390 * HOP].reshape(-1, 1000) * np.hanning(1000))) ** 2
    octaves = [spectrum[:, 2**k : 2 ** (k + 1)].mean() for k in range(2, 8)]
    assert max(octaves) / min(octaves) < 1.35


@pytest.mark.parametrize(("first", "end"), [(40, 41), (57, 203), (0, 130), (260, 300)])
def test_a_slice_is_that_stretch_of_the_whole(first: int, end: int) -> None:
    frames = 300
    rng = np.random.default_rng(7)
    harmonic = rng.normal(-3, 1, (frames, GAINS)).astype(np.float32)
    noise = rng.normal(-3, 1, (frames, NOISE_STEPS * GAINS)).astype(np.float32)
    f0, voiced = gliding(frames), (np.arange(frames) % 37 > 6).astype(np.float32)
    whole = synthesise(harmonic, noise, f0, voiced, 0, 0.0, seed=5)
    assert len(whole) == frames * HOP
    start, stop = max(0, first - FRAMES_BEFORE), min(frames, end + FRAMES_AFTER)
    context = slice(start, stop)
    phase = float(phase_of(f0)[start])
    part = synthesise(harmonic[context], noise[context], f0[context], voiced[context], start, phase, seed=5)
    wanted = whole[first * HOP : end * HOP]
    np.testing.assert_allclose(part[(first - start) * HOP : (end - start) * HOP], wanted, atol=1e-6 * np.abs(whole).max())


def test_context_is_no_longer_than_needed() -> None:
    frames, first, end = 60, 30, 32
    rng = np.random.default_rng(7)
    harmonic = rng.normal(0, 1, (frames, GAINS)).astype(np.float32)
    noise = rng.normal(0, 1, (frames, NOISE_STEPS * GAINS)).astype(np.float32)
    f0 = gliding(frames)
    whole = synthesise(harmonic, noise, f0, np.ones(frames), 0, 0.0)[first * HOP : end * HOP]
    for before, after in [(FRAMES_BEFORE - 1, FRAMES_AFTER), (FRAMES_BEFORE, FRAMES_AFTER - 1)]:
        context = slice(first - before, end + after)
        phase = float(phase_of(f0)[first - before])
        part = synthesise(harmonic[context], noise[context], f0[context], np.ones(before + after + 2), first - before, phase)
        assert np.abs(part[before * HOP : (before + end - first) * HOP] - whole).max() > 1e-5


def test_blocks_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = 50
    gains = flat(frames, -1.0, -2.0)
    whole = synthesise(*gains, gliding(frames), np.ones(frames), 0, 0.0)
    monkeypatch.setattr(synthesis, "BLOCK", 7)
    np.testing.assert_allclose(synthesise(*gains, gliding(frames), np.ones(frames), 0, 0.0), whole, atol=1e-5)
