"""The bundled bank, as its users rely on it: it follows the melody, keeps time, stays quiet in pauses, and fits the latency."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable

import numpy as np
import pytest

from dsp.pitch import compare_pitch, track_pitch
from dsp.singer import Note, Song, sing
from models.pack import VoicePack
from models.stream import StreamModel
from plugin_bridge import VoiceConverter

RATE = 48_000
VOICES = ("pjs", "kerstin", "alys")


@pytest.fixture(scope="module")
def model() -> StreamModel:
    return VoicePack.open(str(importlib.resources.files("presets") / "bank.voice")).stream_model()


@pytest.fixture(scope="module")
def song() -> Song:
    """Five seconds of a low tenor's melody with consonants and vibrato."""
    notes = [Note(52, 0.6, "a", "m"), Note(55, 0.5, "e", "s"), Note(59, 0.9, "o", "t"), Note(57, 0.5, "i", "n")]
    return sing([*notes, Note(52, 0.8, "u", "k"), Note(60, 1.2, "a", "r")], RATE, seed=4)


@pytest.fixture(scope="module")
def converted(song: Song) -> Callable[..., np.ndarray]:
    """By a voice and settings of a converter: the song, converted once for all tests."""
    return functools.cache(lambda voice, **settings: VoiceConverter(voice, **settings)(song.audio, RATE))


def level_db(x: np.ndarray) -> float:
    return 20 * float(np.log10(np.sqrt(np.mean(np.square(x, dtype=np.float64))) + 1e-12))


def test_the_graph_keeps_the_promised_latency(model: StreamModel) -> None:
    assert (model.sample_rate, model.voices) == (RATE, VOICES)
    assert model.chunk <= 512 and model.lookahead <= 256
    converter = VoiceConverter("pjs")
    converter.prepare(RATE, block_size=512)
    assert converter.latency_samples == model.lookahead + model.chunk - 512 <= 256
    converter.prepare(RATE)
    assert converter.latency_samples == model.lookahead + model.chunk - 1 <= 768


@pytest.mark.parametrize("voice", VOICES)
@pytest.mark.parametrize("pitch_shift", [0.0, 7.0])
def test_the_melody_is_kept(voice: str, pitch_shift: float, song: Song, converted: Callable[..., np.ndarray]) -> None:
    track = track_pitch(converted(voice, pitch_shift=pitch_shift), RATE)
    at = np.minimum(np.round(track.times_s * RATE).astype(int), len(song.f0_hz) - 1)
    wanted = song.f0_hz[at] * 2 ** (pitch_shift / 12)
    both = track.voiced & (wanted > 0)
    cents = np.abs(1200 * np.log2(track.hz[both] / wanted[both]))
    assert both.mean() > 0.5
    assert np.median(cents) <= 15
    assert np.mean(cents > 600) <= 0.02
    assert np.mean(track.voiced == (wanted > 0)) >= 0.88


@pytest.mark.parametrize("voice", VOICES)
def test_sound_comes_when_the_singer_sings(voice: str, song: Song, converted: Callable[..., np.ndarray]) -> None:
    """The energy envelopes (5 ms) of source and conversion lie over each other to 3 ms."""
    hop = 48

    def envelope(x: np.ndarray) -> np.ndarray:
        energy = np.square(x[: len(x) // hop * hop], dtype=np.float64).reshape(-1, hop).mean(1)
        smooth = np.convolve(np.log(energy + 1e-5), np.ones(10) / 10, "same")
        return smooth - smooth.mean()

    source, made = envelope(song.audio), envelope(converted(voice, pitch_shift=0.0))
    lags = np.arange(-40, 41)
    agreement = [np.dot(source[40:-40], np.roll(made, -lag)[40:-40]) for lag in lags]
    assert abs(int(lags[np.argmax(agreement)])) <= 3


@pytest.mark.parametrize("voice", VOICES)
def test_pauses_stay_quiet_and_levels_are_kept(voice: str, song: Song) -> None:
    pause = np.zeros(RATE, np.float32)
    converted = VoiceConverter(voice)(np.concatenate([pause, song.audio, pause]), RATE)
    phrase = converted[RATE : RATE + len(song.audio)]
    assert abs(level_db(phrase) - level_db(song.audio)) < 6
    assert level_db(converted[: RATE - 4800]) < level_db(phrase) - 50
    assert not converted[-RATE // 4 :].any()


@pytest.mark.parametrize("voice", [*VOICES, "pjs-clear", "kerstin-clear", "alys-clear"])
def test_an_offset_is_no_sound(voice: str) -> None:
    """A cheap interface's constant voltage under a room's noise: between phrases it stays quiet."""
    room = 1e-4 * np.random.default_rng(5).standard_normal(2 * RATE).astype(np.float32)
    made = VoiceConverter(voice)(room + np.float32(0.1), RATE)
    heard = made[RATE : -RATE // 10]  # the offset ends with the take, and its end is a sound
    assert level_db(heard) < -65 and abs(heard.mean()) < 1e-5


@pytest.mark.parametrize("voice", ["kerstin", "pjs-clear"])  # of each pack one: what is remembered of a source is of no voice
def test_a_bump_of_the_microphone_is_over_when_it_is_over(voice: str, song: Song) -> None:
    """At full scale, 26 dB above the singing: a fifth of a second later the voice is as loud as without, its quiet parts too."""
    take = song.audio * np.float32(0.05 / np.sqrt(np.mean(np.square(song.audio))))
    bumped, second = take.copy(), np.arange(RATE // 20) / RATE
    bumped[RATE : RATE + len(second)] += (np.sin(2 * np.pi * 80 * second) * np.exp(-second / 0.015)).astype(np.float32)
    levels = [
        [level_db(frame) for frame in VoiceConverter(voice)(x, RATE)[: 4 * RATE].reshape(-1, RATE // 20)] for x in (take, bumped)
    ]
    change = np.subtract(levels[1], levels[0])
    assert change[20] > 20  # it is heard itself
    assert np.abs(change[24:]).max() < 2.5


@pytest.mark.parametrize("voice", VOICES)
def test_loudspeakers_are_not_moved_by_what_nobody_hears(voice: str, converted: Callable[..., np.ndarray]) -> None:
    made = converted(voice, pitch_shift=0.0)
    spectrum = np.abs(np.fft.rfft(made)) ** 2
    hz = np.fft.rfftfreq(len(made), 1 / RATE)
    assert 10 * np.log10(spectrum[hz < 16].sum() / spectrum.sum()) < -40


def test_the_same_take_gives_the_same_samples(song: Song, converted: Callable[..., np.ndarray]) -> None:
    np.testing.assert_array_equal(converted("kerstin", pitch_shift=0.0), VoiceConverter("kerstin")(song.audio, RATE))


def test_a_louder_take_is_the_same_conversion_louder(song: Song) -> None:
    # The first two seconds still lean on the average level of the training.
    quiet, loud = (VoiceConverter("pjs")(song.audio * gain, RATE)[2 * RATE :] for gain in (0.1, 0.8))
    assert level_db(loud) - level_db(quiet) == pytest.approx(20 * np.log10(8), abs=0.5)
    # The phase of the pulses may differ, the sound may not.
    np.testing.assert_allclose(semitone_spectrum_db(loud) - semitone_spectrum_db(quiet), 20 * np.log10(8), atol=1.5)


def semitone_spectrum_db(x: np.ndarray) -> np.ndarray:
    """Long-term spectrum in semitone bands from 150 Hz up (six octaves), three semitones smooth."""
    frames = np.abs(np.fft.rfft(x[: len(x) // 4096 * 4096].reshape(-1, 4096) * np.hanning(4096), axis=1)) ** 2
    hz = np.fft.rfftfreq(4096, 1 / RATE)
    centres = 150 * 2 ** (np.arange(72) / 12)
    width = 2 ** (3 / 24)
    bands = [frames.mean(0)[(hz > c / width) & (hz < c * width)].mean() for c in centres]
    return 10 * np.log10(np.array(bands))


def test_formants_move_and_the_pitch_does_not(converted: Callable[..., np.ndarray]) -> None:
    low, high = (converted("pjs", formant_shift=shift) for shift in (-4.0, 4.0))
    middle = converted("pjs", pitch_shift=0.0)
    lower, higher = semitone_spectrum_db(low), semitone_spectrum_db(high)
    apart = [np.std(higher[20 : 72] - lower[20 - shift : 72 - shift]) for shift in range(16)]
    assert abs(int(np.argmin(apart)) - 8) <= 1
    assert compare_pitch(track_pitch(middle, RATE), track_pitch(high, RATE)).median_cents < 6


def test_a_mix_of_voices_lies_between_them(song: Song, converted: Callable[..., np.ndarray]) -> None:
    def spectrum(made: np.ndarray) -> np.ndarray:
        frames = np.abs(np.fft.rfft(made[: len(made) // 2048 * 2048].reshape(-1, 2048), axis=1))
        bands = frames[:, 4:512].reshape(len(frames), -1, 4).mean(2)
        return np.asarray(np.log(bands + 1e-3).mean(0))

    pjs, alys = (spectrum(converted(voice, pitch_shift=0.0)) for voice in ("pjs", "alys"))
    both = spectrum(VoiceConverter({"pjs": 0.5, "alys": 0.5})(song.audio, RATE))
    apart = np.linalg.norm(pjs - alys)
    assert np.linalg.norm(both - pjs) < 0.85 * apart
    assert np.linalg.norm(both - alys) < 0.85 * apart
    assert apart > 3
