"""The song engine as an effect: whole recordings, alone and in a Board; blocks are refused in one sentence."""

from pathlib import Path

import numpy as np
import pedalboard
import pytest
from song_packs import write_song_pack

from dsp.resampling import resample
from dsp.singer import Note, sing
from plugin_bridge import Board, VoiceConverter
from plugin_bridge.render import SongRenderer

RATE = 44_100


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    return str(write_song_pack(tmp_path_factory.mktemp("song") / "song.voice", {"even": 0.0, "soft": -12.0}))


@pytest.fixture(scope="module")
def audio():
    sung = sing([Note(60, 0.4, "a"), Note(64, 0.4, "i")], 48_000).audio
    return resample(np.concatenate([np.zeros(24_000, np.float32), sung, np.zeros(24_001, np.float32)]), 48_000, RATE)


def test_it_is_the_renderer_s_sound(voice, audio):
    converter = VoiceConverter(voice, engine="song", pitch_shift=2)
    expected = SongRenderer(voice).convert(audio[None], RATE, pitch_shift=2)[0]
    assert np.array_equal(converter(audio, RATE), expected) and converter(audio, RATE).shape == audio.shape
    assert isinstance(converter, VoiceConverter) and (converter.latency_samples, converter.lookahead_samples) == (0, 0)
    assert " engine='song' at " in repr(converter)


def test_a_pack_may_be_given_as_a_path(voice):
    assert VoiceConverter(Path(voice), engine="song").voice == SongRenderer(Path(voice)).voice == voice


def test_it_takes_the_renderer_s_arguments(voice, audio):
    chosen = {"size": "mobile", "steps": 2, "seed": 7, "threads": 1, "method": "dio"}
    expected = SongRenderer(voice, **chosen).convert(audio[None], RATE)[0]
    board = Board([VoiceConverter(voice, engine="song", **chosen)])
    assert np.array_equal(board(audio, RATE), expected)
    assert not np.array_equal(VoiceConverter(voice, engine="song")(audio, RATE), expected)
    with pytest.raises(ValueError, match="steps must be between 1 and 64"):
        VoiceConverter(voice, engine="song", steps=65)
    with pytest.raises(TypeError, match="steps"):
        VoiceConverter(voice, steps=2)


def test_in_a_board_it_is_one_effect_among_others(voice, audio):
    converter = VoiceConverter(voice, engine="song")
    board = Board([converter, pedalboard.Gain(-6.0), pedalboard.Delay(0.1, mix=0.5)])
    expected = pedalboard.Pedalboard([pedalboard.Gain(-6.0), pedalboard.Delay(0.1, mix=0.5)])(converter(audio, RATE), RATE)
    assert np.max(np.abs(board(audio, RATE) - expected)) < 1e-6
    stereo = np.stack([audio, audio])
    assert board(stereo, RATE).shape == stereo.shape and board.latency_samples == 0


def test_an_offset_is_no_sound(voice, audio):
    """Pauses of a recording with one are pauses still, and its notes are converted as without."""
    converter, shifted = VoiceConverter(voice, engine="song"), audio + np.float32(0.05)
    made, plain = converter(shifted, RATE), converter(audio, RATE)
    pause, note = slice(0, round(0.2 * RATE)), slice(round(0.6 * RATE), round(1.2 * RATE))
    assert np.array_equal(made[pause], shifted[pause])
    assert np.abs(made[note] - plain[note]).max() < 1e-3 * np.abs(plain[note]).max()


def test_mix_gain_gate_and_bypass(voice, audio):
    converter = VoiceConverter(voice, engine="song")
    sung = converter(audio, RATE)
    converter.mix, converter.gain_db = 0.25, 6.0
    assert np.allclose(converter(audio, RATE), (0.25 * sung + 0.75 * audio) * 10 ** (6 / 20), atol=1e-6)
    converter.mix, converter.gain_db, converter.gate_db = 1.0, 0.0, -1.0
    assert np.abs(converter(audio, RATE)).max() == 0
    converter.bypass = True
    assert np.array_equal(converter(audio, RATE), audio)


def test_the_gate_hears_the_peaks_of_any_channel_as_that_of_the_stream_engine_does(voice, audio):
    """One channel alone is sung in, at a peak of 0 dB: the mean of both is 6 dB softer, its level some 10 dB more."""
    left = np.stack([audio / np.abs(audio).max(), 0 * audio])
    for engine, name in (("song", voice), ("stream", "delay512")):
        converter = VoiceConverter(name, engine=engine)
        plain = converter(left, RATE)
        note = slice(round(0.7 * RATE), round(0.8 * RATE))
        converter.gate_db = -3.0
        assert np.abs(plain[:, note]).max() > 0.1
        assert np.array_equal(converter(left, RATE)[:, note], plain[:, note])
        assert np.abs(converter(0.5 * left, RATE)[:, note]).max() == 0


def test_the_voice_may_be_changed(voice, audio, monkeypatch):
    converter = VoiceConverter(voice, engine="song")
    loud = np.std(converter(audio, RATE))
    monkeypatch.setenv("PLUGIN_BRIDGE_VOICES", str(Path(voice).parent))
    converter.voice = {"soft": 1.0}
    assert 20 * np.log10(loud / np.std(converter(audio, RATE))) == pytest.approx(12, abs=1)


def test_a_voice_that_sings_no_songs_is_refused_when_it_is_set(voice, audio):
    converter = VoiceConverter(voice, engine="song")
    before = converter(audio, RATE)
    with pytest.raises(ValueError, match="no song engine 'lhq', it has none"):
        converter.voice = "delay512"
    assert converter.voice == voice and np.array_equal(converter(audio, RATE), before)


@pytest.mark.parametrize("bypass", [False, True])
def test_samples_that_are_no_audio_come_out_as_silence_where_nobody_sings_too(voice, bypass):
    """Where the source is given back, it is as the stream engine would take it: finite, and at most 16 times full scale."""
    converter = VoiceConverter(voice, engine="song", bypass=bypass)
    room = (1e-4 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
    broken = room.copy()
    broken[1000:1010], broken[2000], broken[3000], broken[4000], broken[5000] = np.nan, np.inf, -np.inf, 1e-40, -20.0
    expected = room.copy()
    expected[1000:1010] = expected[[2000, 3000, 4000]] = 0.0
    expected[5000] = -16.0
    made = converter(broken, RATE)
    assert np.isfinite(made).all() and np.abs(made).max() <= 16
    if bypass:
        assert np.array_equal(made, expected)
    assert np.isfinite(SongRenderer(voice).convert(broken[None], RATE)).all()


def test_each_channel_by_itself(voice, audio):
    converter = VoiceConverter(voice, engine="song", stereo="each")
    both = converter(np.stack([audio, 0 * audio]), RATE)
    assert np.array_equal(both[0], converter(audio, RATE)) and np.abs(both[1]).max() == 0


def test_blocks_and_streams_are_refused(voice, audio):
    converter = VoiceConverter(voice, engine="song")
    calls = [
        lambda: converter.prepare(RATE, 512),
        lambda: converter.process_block(audio),
        lambda: converter.process(audio, RATE, reset=False),
        lambda: Board([converter]).prepare(RATE, 512),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="the song engine converts whole recordings"):
            call()
    assert converter.flush().size == 0
    with pytest.raises(ValueError, match="engine must be"):
        VoiceConverter(voice, engine="studio")
    with pytest.raises(ValueError, match="whole Hz"):
        converter(audio, 44_100.5)
    with pytest.raises(ValueError, match="no song engine 'lhq', it has none"):
        VoiceConverter("delay512", engine="song")(audio, RATE)
