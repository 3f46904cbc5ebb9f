"""Whole files through the real engine, with voices whose output is known by a formula."""

import subprocess
import sys

import numpy as np
import pytest
from onnx import helper
from packs import constant, delay_model, voice_card, write_test_pack
from pedalboard.io import AudioFile

from dsp.singer import Note, sing
from models.pack import PackManifest, write_pack
from plugin_bridge.convert import Settings, automatic_transposition, convert_file, source_median_hz, voice_range_hz
from plugin_bridge.files import FileError
from plugin_bridge.recording import open_recording


def write_audio(path, audio, rate=48000, bit_depth=24):
    with AudioFile(str(path), "w", rate, audio.shape[0], bit_depth=bit_depth) as file:
        file.write(np.asarray(audio, np.float32))
    return path


def read_audio(path):
    with AudioFile(str(path)) as file:
        return file.read(file.frames), file.samplerate


def noise(samples, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)


@pytest.mark.parametrize("samples", [1, 2, 255, 257, 65536, 65537, 200_000])
@pytest.mark.parametrize("voice", ["delay512", "delay480"])
def test_the_conversion_lies_on_the_source_to_the_sample(tmp_path, samples, voice):
    """These voices give back what they get, late by their look-ahead: after alignment it is the source itself."""
    source = write_audio(tmp_path / "a.wav", noise(samples))
    result = convert_file(source, tmp_path / "b.wav", Settings(voice))
    got, rate = read_audio(tmp_path / "b.wav")
    wanted, _ = read_audio(source)
    assert rate == 48000 and got.shape == wanted.shape == (1, samples)
    assert np.abs(got - wanted).max() < 2e-6
    assert result.samples == samples
    assert result.peak == pytest.approx(np.abs(wanted).max(), abs=2e-6)


def test_gain_reaches_the_file(tmp_path):
    source = write_audio(tmp_path / "a.wav", noise(48000))
    convert_file(source, tmp_path / "b.wav", Settings("delay512", gain_db=-20.0))
    assert np.abs(read_audio(tmp_path / "b.wav")[0] - 0.1 * read_audio(source)[0]).max() < 2e-6


def test_a_mixture_of_voices_reaches_the_file(tmp_path):
    """bank_a has gain 1, bank_b 0.5: at equal weights the source comes out at 0.75."""
    source = write_audio(tmp_path / "a.wav", noise(48000))
    convert_file(source, tmp_path / "b.wav", Settings({"bank_a": 0.5, "bank_b": 0.5}))
    assert np.abs(read_audio(tmp_path / "b.wav")[0] - 0.75 * read_audio(source)[0]).max() < 2e-6


@pytest.mark.parametrize("rate", [4000, 8000, 16000, 22050, 44100, 88200, 96000, 192000, 200_000, 384_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_rate_channels_and_length_stay(tmp_path, rate, channels):
    t = np.arange(rate) / rate
    tone = np.tile(0.5 * np.sin(2 * np.pi * 440 * t), (channels, 1))
    source = write_audio(tmp_path / "a.wav", tone, rate)
    convert_file(source, tmp_path / "b.wav", Settings("delay512"))
    got, got_rate = read_audio(tmp_path / "b.wav")
    assert got_rate == rate and got.shape == tone.shape
    # Aligned: the tone's middle is where it was (the edges hold the resampler's ringing).
    middle = slice(rate // 4, -rate // 4)
    assert np.abs(got[:, middle] - tone[:, middle]).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "dtype"), [("b.wav", "int24"), ("b.flac", "int24"), ("b.aiff", "int24"), ("b.aif", "int24"), ("b.WAV", "int24")]
)
def test_lossless_formats_are_written_at_24_bits(tmp_path, name, dtype):
    source = write_audio(tmp_path / "a.wav", noise(5000, 2))
    convert_file(source, tmp_path / name, Settings("delay512"))
    with AudioFile(str(tmp_path / name)) as file:
        assert file.file_dtype == dtype and file.frames == 5000 and file.num_channels == 2


@pytest.mark.parametrize("name", ["b.ogg", "b.mp3"])
def test_lossy_formats_can_be_written_and_read(tmp_path, name):
    source = write_audio(tmp_path / "a.wav", noise(48000))
    convert_file(source, tmp_path / name, Settings("delay512"))
    got, rate = read_audio(tmp_path / name)
    assert rate == 48000 and got.shape[1] >= 48000
    again = convert_file(tmp_path / name, tmp_path / "c.wav", Settings("delay512"))
    assert again.samples == got.shape[1]


def test_what_is_not_finite_never_reaches_the_file(tmp_path):
    audio = noise(48000)
    audio[0, 1000:1003] = [np.nan, np.inf, 1e33]
    source = write_audio(tmp_path / "a.wav", audio, bit_depth=32)
    with AudioFile(str(source)) as file:
        assert not np.isfinite(file.read(48000)).all()  # the file does hold them
    convert_file(source, tmp_path / "b.wav", Settings("delay512", transpose="auto"))
    got, _ = read_audio(tmp_path / "b.wav")
    assert np.isfinite(got).all()
    assert np.abs(got[0, 24000:] - audio[0, 24000:]).max() < 2e-6


def test_progress_counts_every_sample_once(tmp_path):
    source = write_audio(tmp_path / "a.wav", noise(150_000))
    counted = []
    convert_file(source, tmp_path / "b.wav", Settings("delay512"), counted.append)
    assert sum(counted) == 150_000 and len(counted) > 1


def test_a_format_that_cannot_hold_the_recording_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("plugin_bridge.convert.track_pitch", lambda *_: pytest.fail("it was listened to"))
    source = write_audio(tmp_path / "a.wav", noise(5000), rate=96000)
    with pytest.raises(FileError, match=r"b\.mp3 cannot hold 1 channels at 96000 Hz"):
        convert_file(source, tmp_path / "b.mp3", Settings("delay512", transpose="auto"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def sung(midi, seconds=1.5, rate=48000):
    return sing([Note(midi, seconds, "a")], rate).audio[None]


def test_the_median_pitch_of_a_long_recording_is_that_of_its_notes(tmp_path):
    """Silence and A3, most of it beyond the first excerpt."""
    pause = np.zeros((1, 48000 * 6), np.float32)
    note = sung(57, 4.0)
    source = write_audio(tmp_path / "a.wav", np.concatenate([pause, note, note, pause, note, note, note, pause], axis=1))
    with open_recording(source) as recording:
        assert abs(12 * np.log2(source_median_hz(recording) / 220.0)) < 0.5


def test_silence_has_no_median_pitch(tmp_path):
    with open_recording(write_audio(tmp_path / "a.wav", np.zeros((2, 48000)))) as recording:
        assert np.isnan(source_median_hz(recording))


def test_transposition_keeps_within_what_the_converter_shifts():
    assert automatic_transposition(50, 400, 900) == 24  # three octaves are wanted, two can be had
    assert automatic_transposition(100, 200, 400, pitch_shift=20) == 0
    assert automatic_transposition(100, 200, 400, pitch_shift=-20) == 12
    assert automatic_transposition(900, 60, 200, pitch_shift=-1) == -12


@pytest.fixture(scope="module")
def ranged_voices(voice_folder):
    """Two voices of one pack at home in 100-200 Hz and 400-800 Hz."""
    cards = [
        voice_card(name).model_copy(update={"f0_range_hz": range_hz})
        for name, range_hz in (("ranged_low", (100.0, 200.0)), ("ranged_high", (400.0, 800.0)))
    ]
    manifest = PackManifest(title="Ranged", voices=cards, sample_rate=48000, licence="CC0-1.0")
    model = delay_model({"ranged_low": 1.0, "ranged_high": 1.0}, pitch_controls=True)
    path = voice_folder / "ranged.voice"
    write_pack(path, manifest, {"stream.onnx": model.SerializeToString()})
    yield "ranged_low", "ranged_high"
    path.unlink()


def test_a_recording_is_moved_into_the_range_of_its_voice(tmp_path, ranged_voices):
    source = write_audio(tmp_path / "a.wav", sung(64))  # E4, 330 Hz
    low, high = ranged_voices
    for voice, semitones in ((low, -12), (high, 12), ("delay512", 0)):
        assert convert_file(source, tmp_path / "b.wav", Settings(voice, transpose="auto")).transposition == semitones
    assert convert_file(source, tmp_path / "b.wav", Settings(high, transpose=-5.0)).transposition == -5


def test_the_range_of_a_mixture_lies_between_its_voices(ranged_voices):
    low, high = ranged_voices
    assert voice_range_hz(low) == pytest.approx((100, 200))
    # Equal weights: the geometric means of 100 and 400, and of 200 and 800.
    assert voice_range_hz({low: 2.0, high: 2.0}) == pytest.approx((200, 400))
    assert voice_range_hz({low: 1.0, high: 0.0}) == pytest.approx((100, 200))


def test_a_model_that_fails_leaves_nothing(tmp_path):
    """sqrt(1/4 - x): fine on silence, not a number where the recording is louder."""
    model = delay_model({"fragile": 1.0})
    model.graph.node[-1].output[0] = "fine"
    model.graph.node.extend(
        [helper.make_node("Sub", ["quarter", "fine"], ["less"]), helper.make_node("Sqrt", ["less"], ["audio_out"])]
    )
    model.graph.initializer.append(constant("quarter", [0.25]))
    pack = write_test_pack(tmp_path / "fragile.voice", model)
    source = write_audio(tmp_path / "a.wav", noise(48000))
    with pytest.raises(FileError, match=r"a\.wav was not converted: the voice's model failed on 9\d of its chunks"):
        convert_file(source, tmp_path / "b.wav", Settings(str(pack)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "fragile.voice"]
    quiet = write_audio(tmp_path / "c.wav", 0.4 * noise(48000))
    convert_file(quiet, tmp_path / "d.wav", Settings(str(pack)))


def test_memory_does_not_grow_with_the_recording(tmp_path):
    """Ninety seconds in stereo are 35 MB as samples; what they take more than one second does stays far below."""
    pytest.importorskip("resource")
    peaks = []
    for seconds in (1, 90):
        source = tmp_path / f"{seconds}.wav"
        with AudioFile(str(source), "w", 48000, 2) as file:
            for _ in range(seconds):
                file.write(noise(48000, 2))
        script = (
            "import resource, sys; from pathlib import Path\n"
            "from plugin_bridge.convert import Settings, convert_file\n"
            "convert_file(Path(sys.argv[1]), Path(sys.argv[2]), Settings('delay512'))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        run = [sys.executable, "-c", script, str(source), str(tmp_path / "out.wav")]
        peaks.append(int(subprocess.run(run, check=True, capture_output=True, text=True).stdout))
    unit = 1024 if sys.platform != "darwin" else 1
    assert (peaks[1] - peaks[0]) * unit < 15e6
