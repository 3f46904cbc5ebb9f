"""`plugin-bridge train-song` as a user runs it: a folder of recordings becomes a voice for `render`, beside what `train` made."""

import re
import shutil

import numpy as np
import pytest
from pedalboard.io import AudioFile
from small_recipes import use_small_recipes
from typer.testing import CliRunner

from dsp.singer import Note, sing
from models.pack import VoicePack
from plugin_bridge import VoiceConverter
from plugin_bridge.cli import app

pytest.importorskip("torch")
pytest.importorskip("onnx")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def one_sentence(result):
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and len(lines) == 1 and lines[0].startswith("plugin-bridge: "), result.stderr
    return lines[0].removeprefix("plugin-bridge: ")


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory):
    """Small batches in both trainings."""
    with pytest.MonkeyPatch.context() as patch:
        use_small_recipes(patch, tmp_path_factory.mktemp("recipes"))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three takes of 8 s, and what `train-song me` made of them in two steps a phase."""
    folder = tmp_path_factory.mktemp("train-song")
    (folder / "takes").mkdir()
    for number in range(3):
        notes = [Note(52 + (5 * k + number) % 12, 0.5, "aeiou"[k % 5], "smtl"[k % 4]) for k in range(16)]
        with AudioFile(str(folder / "takes" / f"{number}.wav"), "w", 48_000, 1) as file:
            file.write(sing(notes, seed=number).audio)
    result = run("train-song", "me", folder / "takes", "--steps", "4", *options(folder, "songs"))
    assert result.exit_code == 0, result.stderr
    assert re.search(r"step 6 of 6: vocoder, loss \d+\.\d+, held out \d+\.\d+", result.stderr)
    assert re.search(r"\d\.\d\d dB from their spectrograms, \d+\.\d\d before", result.stdout)
    assert result.stdout.strip().splitlines()[-1] == str(folder / "me.voice")
    shutil.copy(folder / "me.voice", folder / "songs.voice")
    return folder


def options(folder, work):
    return ["--out", folder / "me.voice", "--work", folder / work, "--threads", "1"]


def test_a_voice_for_songs_alone_renders_and_says_that_it_does_not_stream(folder, tmp_path):
    voice = folder / "songs.voice"
    assert VoicePack.open(voice).manifest.songs.keys() == {"lhq", "mobile"}
    for size in ("lhq", "mobile"):
        result = run("render", folder / "takes" / "0.wav", tmp_path / "out.wav", "--voice", voice, "--size", size)
        assert result.exit_code == 0, result.stderr
        with AudioFile(str(tmp_path / "out.wav")) as file:
            audio = file.read(file.frames)
        assert audio.shape[1] == 8 * 48_000 and 0.001 < np.abs(audio).max() < 4
    converted = run("convert", folder / "takes" / "0.wav", tmp_path / "no.wav", "--voice", voice)
    assert "has no stream engine, only one for songs" in one_sentence(converted)
    with pytest.raises(ValueError, match="has no stream engine, only one for songs"):  # live, with any device
        VoiceConverter(str(voice)).prepare(48_000, 256)
    assert not (tmp_path / "no.wav").exists()


def test_doctor_knows_a_voice_for_songs_alone(folder, tmp_path, monkeypatch):
    (tmp_path / "voices").mkdir()
    shutil.copy(folder / "songs.voice", tmp_path / "voices" / "me.voice")
    monkeypatch.setenv("PLUGIN_BRIDGE_VOICES", str(tmp_path / "voices"))
    result = run("doctor")
    assert result.exit_code == 0 and "me.voice" in result.stdout.replace("\n", "").replace(" ", "")


def test_both_engines_of_a_voice_share_a_pack(folder, tmp_path):
    """Whichever is trained first; the other is kept, byte for byte."""
    before = VoicePack.open(folder / "me.voice")
    songs = {name: before.read(name) for name in before.manifest.members}
    result = run("train", "me", folder / "takes", "--steps", "1", *options(folder, "stream"))
    assert result.exit_code == 0, result.stderr
    both = VoicePack.open(folder / "me.voice")
    assert both.manifest.songs == before.manifest.songs and both.stream_model().voices == ("me",)
    assert {name: both.read(name) for name in songs} == songs
    stream = both.read("stream.onnx")
    result = run("train-song", "me", folder / "takes", "--steps", "4", "--resume", *options(folder, "songs"))
    assert result.exit_code == 0, result.stderr
    both = VoicePack.open(folder / "me.voice")
    assert both.read("stream.onnx") == stream and both.song_model("mobile").voices == ("me",)
    assert {"held_out_loss", "song_held_out_db"} <= both.manifest.voices[0].quality.keys()
    converted = run("convert", folder / "takes" / "0.wav", tmp_path / "out.wav", "--voice", folder / "me.voice")
    assert converted.exit_code == 0, converted.stderr


def test_what_cannot_be_trained_is_told_in_a_sentence(folder, tmp_path):
    assert "is not a folder" in one_sentence(run("train-song", "me", tmp_path / "nowhere"))
    assert "must end in .voice" in one_sentence(run("train-song", "me", tmp_path, "--out", tmp_path / "me.zip"))
    nowhere = run("train-song", "me", folder / "takes", "--work", tmp_path / "work", "--device", "tpu")
    assert "the device must be one of cpu, cuda, not 'tpu'" in one_sentence(nowhere)
    again = run("train-song", "me", folder / "takes", "--work", folder / "songs")
    assert "holds a training that was begun" in one_sentence(again)
    wrong = run("train-song", "me", folder / "takes", "--work", tmp_path / "work", "--encoder", folder / "takes" / "0.wav")
    assert "0.wav" in one_sentence(wrong)
