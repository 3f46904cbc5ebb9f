"""The pitch shifter, on singers whose pitch is known at every sample."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
import pyworld
from numpy.typing import NDArray

from dsp.envelope import envelope_lag_ms
from dsp.shifting import PitchShifter, shifter_latency
from dsp.singer import Note, Song, sing

Audio = NDArray[np.float32]
SIZES = [(16_000, 208), (48_000, 512)]


def shift(audio: Audio, rate: int, chunk: int, semitones: float, formant_semitones: float = 0.0) -> Audio:
    """All of it, in time with the source."""
    shifter = PitchShifter(rate, chunk)
    padded = np.pad(audio, (0, shifter.latency + -(len(audio) + shifter.latency) % chunk))
    out = np.empty_like(padded)
    for start in range(0, len(padded), chunk):
        part = slice(start, start + chunk)
        shifter.process(padded[part], 2 ** (semitones / 12), 2 ** (formant_semitones / 12), out[part])
    return out[shifter.latency :][: len(audio)]


def singer(hz: float, rate: int, seconds: float = 0.4) -> Song:
    """Four syllables with vibrato, near this pitch."""
    midi = 69 + 12 * np.log2(hz / 440)
    return sing([Note(midi, seconds, vowel, c) for vowel, c in zip("aiue", ["", "n", "m", "s"], strict=True)], rate)


def cents_off(audio: Audio, rate: int, wanted_hz: NDArray[np.floating]) -> NDArray[np.floating]:
    """How far the pitch that WORLD hears is from what is wanted, where both have one."""
    x = audio.astype(np.float64)
    coarse, times = pyworld.dio(x, rate, 30.0, 1400.0, frame_period=5.0)
    hz = pyworld.stonemask(x, coarse, times, rate)
    wanted = wanted_hz[np.minimum((times * rate).astype(int), len(audio) - 1)]
    both = (hz > 0) & (wanted > 0)
    assert both.mean() > 0.35  # it misses parts of what is below 45 Hz
    return np.abs(1200 * np.log2(hz[both] / wanted[both]))


@pytest.mark.parametrize(
    ("hz", "rate", "chunk"),
    [(80.0, 16_000, 208), (140.0, 16_000, 3328), (250.0, 48_000, 512), (450.0, 16_000, 4096), (600.0, 16_000, 208)],
)
def test_pitch_is_what_was_asked_for(hz: float, rate: int, chunk: int) -> None:
    song = singer(hz, rate)
    for semitones in (-12, -5, 0.3, 7, 12):
        off = cents_off(shift(song.audio, rate, chunk, semitones), rate, song.f0_hz * 2 ** (semitones / 12))
        assert np.median(off) <= 10, semitones
        assert np.mean(off > 100) <= 0.08, semitones


@pytest.mark.parametrize(("rate", "chunk"), SIZES)
def test_unshifted_it_is_a_delay_bit_for_bit(rate: int, chunk: int) -> None:
    audio = np.random.default_rng(0).uniform(-1, 1, 20 * chunk).astype(np.float32)
    assert np.array_equal(shift(audio, rate, chunk, 0.0), audio)
    assert shifter_latency(rate) == PitchShifter(rate, chunk).latency == round(0.020 * rate)


@pytest.mark.parametrize("semitones", [-7, 5, 12])
def test_vowels_stay_and_move_alone(semitones: float) -> None:
    """The mean frequency of the power between 300 and 3,500 Hz is the vowels', not the pitch's."""
    rate, chunk = 16_000, 208
    song = sing([Note(45, 1.5, "a"), Note(47, 1.5, "o")], rate, vibrato_cents=20)

    def brightness(audio: Audio) -> float:
        power = np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) ** 2
        hz = np.fft.rfftfreq(len(audio), 1 / rate)
        inside = (hz > 300) & (hz < 3500)
        return float((hz * power)[inside].sum() / power[inside].sum())

    before = brightness(song.audio)
    assert abs(brightness(shift(song.audio, rate, chunk, semitones)) / before - 1) < 0.12
    if semitones > 7:
        return  # too few harmonics to tell
    assert 1.12 < brightness(shift(song.audio, rate, chunk, semitones, 4)) / before < 1.4
    assert 0.68 < brightness(shift(song.audio, rate, chunk, semitones, -4)) / before < 0.9


@pytest.mark.parametrize("semitones", [-12, -1, 3, 12])
def test_it_comes_in_time_and_as_loud(semitones: float) -> None:
    rate, chunk = 16_000, 208
    song = singer(200.0, rate)
    shifted = shift(song.audio, rate, chunk, semitones)
    assert abs(envelope_lag_ms(song.audio, shifted, rate)) < 6
    assert abs(20 * np.log10(np.std(shifted) / np.std(song.audio))) < 2


@pytest.mark.parametrize("semitones", [-24, 5, 24])
def test_silence_stays_silence(semitones: float) -> None:
    rate, chunk = 16_000, 208
    assert not shift(np.zeros(rate, np.float32), rate, chunk, semitones, 3).any()
    sung = np.pad(singer(90.0, rate, 0.2).audio, (0, rate))
    sung[len(sung) - rate :] = 0
    assert not shift(sung, rate, chunk, semitones, 3)[-rate * 9 // 10 :].any()


@pytest.mark.parametrize(("rate", "chunk"), SIZES)
def test_no_clicks_when_it_begins_and_ends(rate: int, chunk: int) -> None:
    """A tone's second difference is its largest where it is; a click's would be far larger."""
    hz = 220.0
    tone = (0.5 * np.sin(2 * np.pi * hz / rate * np.arange(80 * chunk))).astype(np.float32)
    shifter, out = PitchShifter(rate, chunk), np.empty_like(tone)
    for number in range(80):
        part = slice(number * chunk, (number + 1) * chunk)
        ratio = (1.0, 1.06, 0.9, 1.0)[number // 20]
        shifter.process(tone[part], ratio, 1.0, out[part])
    settled = out[shifter.latency + chunk :]
    largest = 0.5 * (2 * np.pi * hz * 1.06 / rate) ** 2
    assert np.max(np.abs(np.diff(settled.astype(np.float64), 2))) < 2.5 * largest
    assert np.max(np.abs(settled)) < 0.75


def test_noise_keeps_its_level_and_gets_no_pitch() -> None:
    rate, chunk = 16_000, 208
    noise = (0.1 * np.random.default_rng(3).standard_normal(2 * rate)).astype(np.float32)
    shifted = shift(noise, rate, chunk, 7)
    assert abs(20 * np.log10(np.std(shifted) / np.std(noise))) < 1.5
    correlation = np.correlate(shifted[:4000], shifted[:4000], "full")[4000:]
    assert np.max(np.abs(correlation[20:2000])) < 0.35 * np.sum(shifted[:4000] ** 2)


def test_reset_forgets() -> None:
    rate, chunk = 16_000, 208
    audio = singer(150.0, rate, 0.1).audio[: 20 * chunk].reshape(20, chunk)
    shifter, once, again = PitchShifter(rate, chunk), np.empty_like(audio), np.empty_like(audio)
    for out in (once, again):
        shifter.reset()
        for part, made in zip(audio, out, strict=True):
            shifter.process(part, 1.5, 0.9, made)
    assert np.array_equal(once, again)


@pytest.mark.parametrize(("rate", "chunk"), SIZES)
def test_nothing_is_allocated_per_chunk(rate: int, chunk: int) -> None:
    audio = singer(300.0, rate, 0.2).audio
    parts = audio[: len(audio) // chunk * chunk].reshape(-1, chunk)
    shifter, out = PitchShifter(rate, chunk), np.empty(chunk, np.float32)

    def run() -> int:
        """The most memory that a chunk took."""
        most = 0
        for number, part in enumerate(parts):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            shifter.process(part, 1.3 if number % 9 else 1.0, 1.2, out)
            most = max(most, tracemalloc.get_traced_memory()[1] - before)
        return most

    run()
    tracemalloc.start()
    try:
        for _ in range(4):  # objects that the interpreter keeps for later are made anew until all of them are traced
            run()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        assert run() < 16_000  # numbers and views; a buffer of numpy's own is larger
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 60 * len(parts)  # the interpreter's own
    finally:
        tracemalloc.stop()
