"""Whole recordings with the song engine: in place to the sample, silent where their source is, the same on any number of cores."""

import itertools
import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from encoder_files import encoder_file
from onnx import TensorProto, helper
from packs import constant, value, voice_card
from pedalboard.io import AudioFile
from song_packs import CONTENT, song_graphs, song_metadata, write_song_pack

from dsp.envelope import envelope_lag_ms, level_correlation
from dsp.f0 import F0Track, track_f0, write_f0_csv
from dsp.pitch import compare_pitch, track_pitch
from dsp.resampling import resample
from dsp.singer import Note, sing
from dsp.slicing import Slicing
from models.lhq.encoders import load_encoder
from plugin_bridge import render
from plugin_bridge.files import FileError
from plugin_bridge.render import SongRenderer, drawn_range_hz
from plugin_bridge.voices import voices


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """A pack whose first voice sings as loud as its source."""
    return str(write_song_pack(tmp_path_factory.mktemp("song") / "song.voice", {"even": 0.0, "soft": -12.0}))


def phrase(rate: int, notes: int = 6, seed: int = 0) -> np.ndarray:
    """Sung notes of 0.5 s, vowels and consonants."""
    return resample(sung_phrase(notes, seed), 48_000, rate)


@lru_cache
def sung_phrase(notes: int, seed: int) -> np.ndarray:
    score = [Note(57 + 2 * (k % 4), 0.5, "aeiou"[k % 5], "msn"[k % 3]) for k in range(notes)]
    return sing(score, 48_000, seed=seed).audio


def song(rate: int) -> np.ndarray:
    """A second of digital silence, a phrase, a pause of a soft room, a phrase, silence to an odd length."""
    room = np.random.default_rng(0).standard_normal(2 * rate).astype(np.float32) * 10 ** (-80 / 20)
    return np.concatenate([np.zeros(rate, np.float32), phrase(rate), room, phrase(rate, 4, 1), np.zeros(rate + 17, np.float32)])


def write_audio(path: Path, audio: np.ndarray, rate: int) -> Path:
    channels = np.atleast_2d(audio)
    with AudioFile(str(path), "w", rate, channels.shape[0], bit_depth=24) as file:
        file.write(channels)
    return path


def read_audio(path: Path) -> np.ndarray:
    with AudioFile(str(path)) as file:
        return file.read(file.frames)


def test_the_same_bytes_whatever_the_threads(tmp_path, voice):
    source = write_audio(tmp_path / "in.wav", song(44_100), 44_100)
    made = []
    for threads in (1, 2, 3):
        SongRenderer(voice, threads=threads, seed=5).render(source, tmp_path / "out.wav")
        made.append((tmp_path / "out.wav").read_bytes())
    assert made[0] == made[1] == made[2]
    SongRenderer(voice, seed=6).render(source, tmp_path / "out.wav")
    assert (tmp_path / "out.wav").read_bytes() != made[0]


@pytest.mark.parametrize("rate", [40_000, 44_100, 44_101])
def test_slices_of_a_take_are_the_take_in_one_piece(voice, rate, monkeypatch):
    renderer, audio = SongRenderer(voice), 0.25 * phrase(rate, 12)[None]  # so that what comes out is within full scale
    monkeypatch.setattr(render, "SLICING", Slicing(longest=1_000_000))
    whole = renderer.convert(audio, rate)
    monkeypatch.setattr(render, "SLICING", Slicing(shortest=0, longest=70))
    assert np.max(np.abs(renderer.convert(audio, rate) - whole)) <= 1e-6
    assert np.sqrt(np.mean(whole**2)) > 0.01 and np.max(np.abs(whole)) <= 1


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 44_101, 48_000, 96_000, 384_000])
def test_at_any_rate_it_is_as_long_and_lies_where_its_source_does(tmp_path, voice, rate):
    """The same take at two rates, with the same pitch, is the same conversion at two rates: any delay would part them."""
    at_40k = phrase(40_000)
    audio = resample(at_40k, 40_000, rate)[: -(7 + rate % 5)]
    track = track_f0(at_40k, 40_000)
    converted = []
    for name, take, take_rate in (("a", at_40k, 40_000), ("b", audio, rate)):
        source = write_audio(tmp_path / f"{name}.wav", take, take_rate)
        write_f0_csv(tmp_path / f"{name}.csv", track)
        result = SongRenderer(voice).render(source, tmp_path / f"{name}-out.flac", f0=tmp_path / f"{name}.csv")
        converted.append(read_audio(result.target)[0])
        assert result.sample_rate == take_rate and len(converted[-1]) == result.samples == len(take)
    low = min(rate, 40_000)
    first, second = resample(converted[0], 40_000, low), resample(converted[1], rate, low)
    count = min(len(first), len(second))
    lags = range(-40, 41)
    middle = slice(count // 4, 3 * count // 4)
    likeness = [np.corrcoef(first[middle], np.roll(second[:count], -lag)[middle])[0, 1] for lag in lags]
    assert lags[int(np.argmax(likeness))] == 0 and max(likeness) > 0.9


def test_it_sings_what_the_source_sings_when_it_does(voice):
    rate, audio = 48_000, phrase(48_000)
    sung = SongRenderer(voice).convert(audio[None], rate)[0]
    assert abs(envelope_lag_ms(audio, sung, rate)) <= 3
    assert level_correlation(audio, sung, rate) > 0.9
    assert compare_pitch(track_pitch(audio, rate, method="dio"), track_pitch(sung, rate, method="dio")).median_cents < 10
    higher = SongRenderer(voice).convert(audio[None], rate, pitch_shift=4)[0]
    assert compare_pitch(track_pitch(audio, rate, method="dio"), track_pitch(higher, rate, method="dio"), 4).median_cents < 10


def test_silence_and_rooms_stay_as_they_are(tmp_path, voice):
    rate = 44_100
    source = write_audio(tmp_path / "in.wav", song(rate), rate)
    result = SongRenderer(voice).render(source, tmp_path / "out.wav")
    before, after = read_audio(source)[0], read_audio(result.target)[0]
    sung = len(phrase(rate))
    pauses = [slice(0, rate // 2), slice(int(rate * 1.5) + sung, int(rate * 2.5) + sung), slice(-rate // 2, None)]
    for pause in pauses:
        assert np.array_equal(before[pause], after[pause])
    assert np.abs(after[: rate // 2]).max() == 0 and np.abs(after[pauses[1]]).max() > 0
    assert not np.allclose(before, after, atol=0.05)
    assert result.converted_s < len(before) / rate - 1 and result.slices >= 2


def test_what_is_soft_in_the_source_is_no_louder_converted(tmp_path):
    """Breath between notes, with a voice that is 20 dB too loud."""
    rate, gap = 40_000, 20_000
    loud = str(write_song_pack(tmp_path / "loud.voice", {"loud": 20.0}))
    breath = np.random.default_rng(0).standard_normal(gap).astype(np.float32) * 10 ** (-48 / 20)
    audio = np.concatenate([phrase(rate, 3), breath, phrase(rate, 3)])
    sung = SongRenderer(loud).convert(audio[None], rate)[0]
    middle = slice(len(phrase(rate, 3)) + gap // 4, len(phrase(rate, 3)) + 3 * gap // 4)
    assert 20 * np.log10(np.std(sung[middle]) / np.std(audio[middle])) < 4
    assert 20 * np.log10(np.std(sung) / np.std(audio)) > 10


def test_a_little_singing_in_a_noisy_room_is_told_from_it(voice):
    """Three notes in half a minute of noise 45 dB below them: the noise stays, sample by sample."""
    rate = 16_000
    audio = np.random.default_rng(0).standard_normal(30 * rate).astype(np.float32) * 10 ** (-62 / 20)
    sung = phrase(rate, 3)
    audio[10 * rate : 10 * rate + len(sung)] += sung
    converted = SongRenderer(voice).convert(audio[None], rate)[0]
    for noise in (slice(0, 9 * rate), slice(12 * rate, None)):
        assert np.array_equal(converted[noise], audio[noise])
    assert np.std((converted - audio)[10 * rate : 11 * rate]) > 0.01


def test_stereo_keeps_its_place(voice):
    rate, audio = 44_100, phrase(44_100)
    renderer = SongRenderer(voice)
    mono = renderer.convert(audio[None], rate)[0]
    both = renderer.convert(np.stack([audio, audio]), rate)
    assert np.array_equal(both[0], mono) and np.array_equal(both[1], mono)
    left = renderer.convert(np.stack([audio, np.zeros_like(audio)]), rate)
    assert np.abs(left[1]).max() < 1e-6
    assert 20 * np.log10(np.std(left[0]) / np.std(mono)) == pytest.approx(0, abs=1)
    wide = renderer.convert(np.stack([audio, 0.5 * audio]), rate)
    assert 20 * np.log10(np.std(wide[0]) / np.std(wide[1])) == pytest.approx(6, abs=0.5)


def test_a_table_of_pitch_is_what_is_sung(tmp_path, voice):
    audio = phrase(40_000)
    source = write_audio(tmp_path / "in.wav", audio, 40_000)
    track = track_f0(audio, 40_000)
    write_f0_csv(tmp_path / "f0.csv", F0Track(np.full_like(track.hz, 330.0), track.voiced))
    result = SongRenderer(voice).render(source, tmp_path / "out.wav", f0=tmp_path / "f0.csv")
    assert track_pitch(read_audio(result.target)[0], 40_000, method="dio").median_hz == pytest.approx(330, rel=0.005)


def test_a_table_that_ends_elsewhere_is_refused(tmp_path, voice):
    source = write_audio(tmp_path / "in.wav", phrase(40_000), 40_000)
    write_f0_csv(tmp_path / "f0.csv", F0Track(np.full(700, 330.0), np.ones(700, bool)))
    with pytest.raises(ValueError, match="ends at"):
        SongRenderer(voice).render(source, tmp_path / "out.wav", f0=tmp_path / "f0.csv")
    assert not (tmp_path / "out.wav").exists()


def test_transposition_moves_the_song_into_the_range_of_the_voice(tmp_path):
    card = voice_card("high").model_copy(update={"f0_range_hz": (500.0, 900.0)})
    high = str(write_song_pack(tmp_path / "high.voice", {"high": 0.0}, cards=[card]))
    audio = phrase(40_000)
    source = write_audio(tmp_path / "in.wav", audio, 40_000)
    result = SongRenderer(high).render(source, tmp_path / "out.wav", transpose="auto", f0_out=tmp_path / "f0.csv")
    assert result.transposition == 12
    median = np.median(track_pitch(audio, 40_000, method="dio").median_hz)
    assert track_pitch(read_audio(result.target)[0], 40_000, method="dio").median_hz == pytest.approx(2 * median, rel=0.02)
    # The table is of what was sung in the source.
    rows = np.loadtxt(tmp_path / "f0.csv", delimiter=",", skiprows=1)
    assert np.median(rows[rows[:, 2] > 0, 1]) == pytest.approx(median, rel=0.02)


def test_a_voice_is_drawn_from_three_tenths_of_its_octaves_on():
    low, high = drawn_range_hz(100.0, 3200.0)  # five octaves
    assert (low, high) == (pytest.approx(100 * 2**1.5), 3200)
    assert drawn_range_hz(300.0, 300.0) == (300, 300)


@pytest.mark.parametrize("level", [0, 0.1], ids=["silence", "noise"])
def test_a_recording_without_a_voice_says_so(tmp_path, voice, level):
    audio = level * np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    source = write_audio(tmp_path / "in.wav", audio, 44_100)
    with pytest.raises(FileError, match="has no voice in it"):
        SongRenderer(voice).render(source, tmp_path / "out.wav")
    assert [path.name for path in tmp_path.iterdir()] == ["in.wav"]


@pytest.mark.parametrize("samples", [1, 2, 399, 401, 12_345])
def test_the_shortest_recordings_are_as_long_as_they_were(voice, samples):
    audio = phrase(44_100)[None, 20_000 : 20_000 + samples]
    assert SongRenderer(voice).convert(audio, 44_100).shape == (1, samples)


def test_samples_that_are_no_audio_do_no_harm(voice):
    audio = phrase(44_100)
    audio[[30_000, 40_000, 50_000]] = [np.nan, np.inf, 1e30]
    converted = SongRenderer(voice).convert(audio[None], 44_100)
    assert np.isfinite(converted).all() and np.abs(converted).max() <= 20


def test_progress_grows_to_the_end(tmp_path, voice):
    source = write_audio(tmp_path / "in.wav", song(22_050), 22_050)
    told = []
    SongRenderer(voice).render(source, tmp_path / "out.wav", progress=told.append)
    assert [now.stage for now in told] == sorted((now.stage for now in told), reverse=True)
    assert all(before.whole <= after.whole for before, after in itertools.pairwise(told))
    assert told[-1].whole == 1 and told[-1].seconds_left == 0


def test_every_stage_is_counted(tmp_path, voice):
    source = write_audio(tmp_path / "in.wav", song(44_100), 44_100)
    result = SongRenderer(voice, threads=2).render(source, tmp_path / "out.flac")
    stages = {"read", "levels", "resampling", "pitch", "features", "content", "condition", "denoiser", "vocoder", "synthesis"}
    assert set(result.stages) == stages | {"mixing", "write"} and min(result.stages.values()) > 0


def test_a_model_that_fails_half_way_leaves_nothing(tmp_path):
    """It takes a slice of a second, not the longer one after it."""
    graphs = song_graphs({"a": 0.0})
    content = graphs["content"].graph
    content.node[-1].output[0] = "raw"
    content.initializer.extend([constant("one", [1], np.int64), constant("limit", [500], np.int64)])
    content.node.extend(
        [
            helper.make_node("Shape", ["raw"], ["shape"]),
            helper.make_node("Gather", ["shape", "one"], ["frames"]),
            helper.make_node("Less", ["frames", "limit"], ["short"]),
            helper.make_node("Cast", ["short"], ["good"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["raw", "good"], ["content"]),
        ]
    )
    voice = str(write_song_pack(tmp_path / "fails.voice", {"a": 0.0}, graphs))
    audio = np.concatenate([phrase(40_000, 3), np.zeros(80_000, np.float32), phrase(40_000, 14)])
    source = write_audio(tmp_path / "in.wav", audio, 40_000)
    for threads in (1, 2):
        with pytest.raises(ValueError, match="not finite"):
            SongRenderer(voice, threads=threads).render(source, tmp_path / "out.wav")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fails.voice", "in.wav"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"threads": 0}, "threads must be between 1 and 256"),
        ({"steps": 65}, "steps must be between 1 and 64"),
        ({"seed": -1}, "seed"),
        ({"size": "huge"}, "no song engine 'huge', it has lhq, mobile"),
        ({"method": "crepe"}, "method must be 'dio' or 'harvest' or 'swift', got 'crepe'"),
    ],
)
def test_values_out_of_range_are_refused(voice, wrong, said):
    with pytest.raises(ValueError, match=said):
        SongRenderer(voice, **wrong)


@pytest.mark.parametrize(
    ("audio", "rate", "kind", "said"),
    [
        (np.zeros(4000, np.float32), 48_000, ValueError, r"shape \(channels, n\), got \(4000,\)"),
        (np.zeros((0, 4000), np.float32), 48_000, ValueError, r"shape \(channels, n\), got \(0, 4000\)"),
        (np.zeros((1, 4000), np.int16), 48_000, TypeError, "32-bit and 64-bit floating point audio .* got int16"),
        ([[0.0, 0.5]], 48_000, TypeError, "must be a numpy array, got list"),
        (np.zeros((1, 4000)), float("nan"), ValueError, "must be finite and above 0 Hz, got nan"),
        (np.zeros((1, 4000)), "48000", TypeError, "sample_rate must be a number, got str"),
    ],
)
def test_what_is_no_audio_is_refused(voice, audio, rate, kind, said):
    """Whole numbers too: a rendering of them would be thousands of times too loud."""
    with pytest.raises(kind, match=said):
        SongRenderer(voice).convert(audio, rate)


def test_of_nothing_there_is_nothing_to_convert(voice):
    assert SongRenderer(voice).convert(np.zeros((2, 0)), 48_000).shape == (2, 0)


@pytest.mark.parametrize(
    ("target", "wishes", "kind", "said"),
    [
        ("out.wav", {"transpose": "foo"}, ValueError, "transpose must be a number of semitones or 'auto', got 'foo'"),
        ("out.wav", {"transpose": [1]}, TypeError, "transpose must be a number, got list"),
        ("out.wav", {"transpose": 25.0}, ValueError, "pitch_shift must be between"),
        ("out.xyz", {}, FileError, r"out\.xyz needs a suffix that names its format \(wav, flac, .*\), not '\.xyz'"),
    ],
)
def test_wishes_that_cannot_be_are_refused(tmp_path, voice, target, wishes, kind, said):
    source = write_audio(tmp_path / "in.wav", phrase(40_000), 40_000)
    with pytest.raises(kind, match=said):
        SongRenderer(voice).render(source, tmp_path / target, **wishes)
    assert [path.name for path in tmp_path.iterdir()] == ["in.wav"]


@pytest.mark.parametrize(
    ("target", "instrumental", "said"),
    [
        ("out.mp3", None, r"out\.mp3 cannot hold 1 channels at 40000 Hz"),
        ("out.wav", "missing.wav", r"there is no file .*missing\.wav"),
        ("out.flac", "nine.wav", "cannot hold 9 channels"),
    ],
)
def test_what_cannot_be_written_or_mixed_is_refused_before_it_is_heard(tmp_path, voice, target, instrumental, said):
    source = write_audio(tmp_path / "in.wav", phrase(40_000), 40_000)
    write_audio(tmp_path / "nine.wav", np.zeros((9, 100), np.float32), 40_000)
    told = []
    with pytest.raises(FileError, match=said):
        SongRenderer(voice).render(
            source, tmp_path / target, instrumental=instrumental and tmp_path / instrumental, progress=told.append
        )
    assert not told


def test_what_is_left_of_the_source_keeps_its_balance_with_the_accompaniment(tmp_path):
    """A voice 9 dB too soft is made louder in a mix; what is mixed into it from its source is not."""
    soft = SongRenderer(write_song_pack(tmp_path / "soft.voice", {"soft": -9.0}))
    source = write_audio(tmp_path / "in.wav", 0.5 * phrase(40_000), 40_000)
    silence = write_audio(tmp_path / "i.wav", np.zeros(100, np.float32), 40_000)
    sung = read_audio(source)
    soft.render(source, tmp_path / "out.wav", instrumental=silence, mix=0.0, gain_db=-6.0)
    assert np.abs(read_audio(tmp_path / "out.wav") - 10 ** (-6 / 20) * sung).max() < 1e-5
    soft.render(source, tmp_path / "out.wav", instrumental=silence, mix=0.5)
    assert abs(20 * np.log10(np.std(read_audio(tmp_path / "out.wav")) / np.std(sung))) < 0.3
    made = []
    for gate_db in (-90.0, -20.0):  # the latter closes half of the time
        soft.render(source, tmp_path / "out.wav", instrumental=silence, gate_db=gate_db)
        made.append(read_audio(tmp_path / "out.wav"))
    heard = np.abs(made[1]) > 0.01
    assert 20 * np.log10(np.std(made[1][heard]) / np.std(made[0][heard])) < 1


def peak_mib(tmp_path: Path, voice: str, seconds: int) -> float:
    """Memory at most resident in a process that renders so long a recording, in stereo; its length is kept to the sample."""
    source, piece = tmp_path / f"{seconds}.flac", np.concatenate([phrase(44_100, 12), np.zeros(3 * 44_100, np.float32)])
    with AudioFile(str(source), "w", 44_100, 2) as file:
        for _ in range(seconds * 44_100 // len(piece)):
            file.write(np.stack([piece, piece]))
    script = (
        "import resource, sys\n"
        "from plugin_bridge.render import SongRenderer\n"
        "result = SongRenderer(sys.argv[1]).render(sys.argv[2], sys.argv[3])\n"
        "assert result.samples == result.promised\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    run = [sys.executable, "-c", script, voice, str(source), str(tmp_path / "out.flac")]
    resident = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    with AudioFile(str(source)) as before, AudioFile(str(tmp_path / "out.flac")) as after:
        assert (after.frames, after.samplerate, after.num_channels) == (before.frames, 44_100, 2)
        assert before.frames > (seconds - 12) * 44_100  # whole phrases
    return resident / (2**10 if sys.platform != "darwin" else 2**20)


def test_memory_grows_by_what_is_kept_of_each_frame_alone(tmp_path, voice):
    """A minute more is 21 MB of samples in stereo and 2 MB of frames, held twice for a moment."""
    pytest.importorskip("resource")
    assert peak_mib(tmp_path, voice, 90) - peak_mib(tmp_path, voice, 30) < 16


@pytest.mark.slow
def test_an_hour_fits_into_memory(tmp_path, voice):
    """With small graphs; and with those that ship, where they are."""
    pytest.importorskip("resource")
    for name in (voice, *({"pjs"} & set(voices()))):
        assert peak_mib(tmp_path, name, 3600) < 1536


@pytest.fixture
def foreign(tmp_path):
    """(voice, encoder): a pack without a content graph, trained with that encoder of 256 values."""
    path = encoder_file(tmp_path / "vec-256-layer-9.onnx")
    return foreign_pack(tmp_path / "foreign.voice", path), path


def foreign_pack(path, encoder):
    graphs = song_graphs({"far": 0.0})
    del graphs["content"]
    card = load_encoder(encoder).card()
    condition = graphs["condition"]
    condition.graph.input[0].CopyFrom(value("content", [1, "T", card.dimensions]))
    # Wider content, of which the graph hears the first channels.
    for node in condition.graph.node:
        node.input[:] = ["few" if name == "content" else name for name in node.input]
    condition.graph.initializer.extend([constant(name, [k], np.int64) for name, k in (("zero", 0), ("some", CONTENT), ("axis", 2))])
    condition.graph.node.insert(0, helper.make_node("Slice", ["content", "zero", "some", "axis"], ["few"]))
    about = song_metadata("condition", ["far"]) | {"encoder": card.model_dump()}
    helper.set_model_props(condition, {"plugin_bridge": json.dumps(about)})
    return str(write_song_pack(path, {"far": 0.0}, graphs))


def test_a_voice_hears_with_the_encoder_it_was_trained_with(foreign, tmp_path):
    voice, encoder = foreign
    rate = 44_101
    audio = np.concatenate([phrase(rate, 12)] * 3)[None]  # 18 s: two pieces of the analysis
    heard = SongRenderer(voice, encoder=encoder, threads=2).convert(audio, rate)
    assert heard.shape == audio.shape and level_correlation(audio[0], heard[0], rate) > 0.9
    assert np.array_equal(heard, SongRenderer(voice, encoder=str(encoder), threads=1).convert(audio, rate))
    # What it hears does count: an encoder that hears all forty times as loud makes another sound. It is another one,
    # so the pack must say that it is wanted.
    louder = encoder_file(tmp_path / "louder.onnx", gain=40.0)
    other = SongRenderer(foreign_pack(tmp_path / "louder.voice", louder), encoder=louder).convert(audio, rate)
    assert np.max(np.abs(other - heard)) > 1e-3


def test_slices_with_a_given_encoder_are_the_take_in_one_piece(foreign, monkeypatch):
    voice, encoder = foreign
    renderer, audio = SongRenderer(voice, encoder=encoder), phrase(40_000, 8)[None, 4321:]
    whole = renderer.convert(audio, 40_000)
    monkeypatch.setattr(render, "SLICING", Slicing(shortest=0, longest=71))
    assert np.max(np.abs(renderer.convert(audio, 40_000) - whole)) <= 1e-6


@pytest.mark.parametrize("samples", [1, 2, 399, 400, 401, 12_345, 600_000, 600_400])
def test_any_length_is_heard_by_a_given_encoder(foreign, samples):
    voice, encoder = foreign
    audio = np.tile(phrase(40_000, 6), 6)[None, 20_000 : 20_000 + samples]
    assert SongRenderer(voice, encoder=encoder).convert(audio, 40_000).shape == (1, samples)


def test_another_encoder_than_the_voices_is_refused(foreign, voice, tmp_path):
    trained, encoder = foreign
    wanted = r"vec-256-layer-9\.onnx \(256 values a frame of layer 9\)"
    with pytest.raises(ValueError, match=rf"was trained with the content encoder {wanted}, which must be given"):
        SongRenderer(trained)
    for other in (encoder_file(tmp_path / "wide.onnx", 768), encoder_file(tmp_path / "vec-256-layer-12.onnx", gain=-1.0)):
        with pytest.raises(ValueError, match=rf"content encoder {wanted}, and {other.name} .* is another one"):
            SongRenderer(trained, encoder=other)
    # The same network under another name is the same.
    encoder.rename(tmp_path / "renamed.onnx")
    SongRenderer(trained, encoder=tmp_path / "renamed.onnx")
    with pytest.raises(ValueError, match=r"has a content encoder of its own, so it takes none from .*renamed\.onnx"):
        SongRenderer(voice, encoder=tmp_path / "renamed.onnx")
