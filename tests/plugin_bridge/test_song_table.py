"""The song engine's sizes and steps side by side; copies are held against their recordings."""

import json
from pathlib import Path

import numpy as np
import pytest
from pedalboard.io import AudioFile
from song_packs import write_song_pack
from typer.testing import CliRunner

from dsp.singer import Note, sing
from models.pack import VoicePack
from plugin_bridge.cli import app
from plugin_bridge.voices import find_voice, voices

for module in ("resemblyzer", "swift_f0", "soxr", "pesq", "pystoi"):
    pytest.importorskip(module)

from plugin_bridge.song_table import COLUMNS, measure_copies  # noqa: E402

RATE = 40_000


def write(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = [Note(52 + (5 * k + seed) % 12, 0.4, "aeiou"[k % 5], "smtl"[k % 4]) for k in range(10)]
    with AudioFile(str(path), "w", RATE, 1, bit_depth=24) as file:
        file.write(sing(notes, RATE, seed=seed).audio)
    return path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.skipif("pjs" not in voices(), reason="no voices are bundled")
def test_the_shipped_vocoder_copies_what_it_never_heard(tmp_path):
    stoi, pesq = measure_copies(find_voice("pjs").pack.song_model("lhq"), [write(tmp_path / "a.wav"), write(tmp_path / "b.wav", 1)])
    assert 0.85 < stoi <= 1 and 2.5 < pesq < 4.65


def test_a_copy_that_is_none_has_low_figures_and_silence_has_none(tmp_path):
    model = VoicePack.open(write_song_pack(tmp_path / "song.voice", {"even": 0.0})).song_model("lhq")
    stoi, pesq = measure_copies(model, [write(tmp_path / "a.wav")])
    assert stoi < 0.8 and 1 <= pesq < 2.5
    with AudioFile(str(tmp_path / "silent.wav"), "w", RATE, 1) as file:
        file.write(np.zeros(RATE, np.float32))
    assert np.isnan(measure_copies(model, [tmp_path / "silent.wav"])).all()


@pytest.mark.slow
def test_the_table_has_a_row_for_each_size_and_number_of_steps(tmp_path):
    voice = write_song_pack(tmp_path / "song.voice", {"even": 0.0})
    write(tmp_path / "in" / "a.wav")
    write(tmp_path / "refs" / "b.wav", 1)
    out = tmp_path / "in" / "out"  # with the recordings: no row takes for one what another has made
    arguments = ["evaluate", voice, tmp_path / "in", "--refs", tmp_path / "refs", "--out", out, "--transpose", "0"]
    result = run(*arguments, "--song-table")
    assert result.exit_code == 0, result.stderr
    assert all(head in result.stdout for head in COLUMNS)
    rows = json.loads((out / "songs.json").read_text())
    assert [(row["size"], row["steps"]) for row in rows] == [(size, steps) for size in ("lhq", "mobile") for steps in (1, 2, 4, 16)]
    for row in rows:
        assert row["dnsmos"] is None and row["cents"] < 20 and row["times_real_time"] > 0 and 0 < row["megabytes"] < 5
        assert 0.3 < row["speaker_cosine"] <= 1
        place = out / f"{row['size']}-{row['steps']}"
        assert (place / "report.html").exists()
        assert len(json.loads((place / "figures.json").read_text())["clips"]) == 1


def test_a_table_needs_references_and_songs(tmp_path):
    write(tmp_path / "in" / "a.wav")
    result = run("evaluate", "delay512", tmp_path / "in", "--out", tmp_path / "out", "--song-table")
    assert result.exit_code == 2 and "--song-table needs --refs" in result.stderr
    result = run("evaluate", "delay512", tmp_path / "in", "--refs", tmp_path / "in", "--out", tmp_path / "out", "--song-table")
    assert result.exit_code == 2 and "has no song engine 'lhq'" in result.stderr and result.stderr.count("\n") == 1


def test_a_conversion_with_the_song_engine_is_evaluated(tmp_path):
    voice = write_song_pack(tmp_path / "song.voice", {"even": 0.0})
    write(tmp_path / "in" / "a.wav")
    arguments = ["evaluate", voice, tmp_path / "in", "--out", tmp_path / "out", "--transpose", "0", "--engine", "song"]
    result = run(*arguments, "--steps", "2")
    assert result.exit_code == 0, result.stderr
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert (figures["settings"]["engine"], figures["settings"]["steps"]) == ("song", 2)
    assert figures["mean"]["pitch_error_cents"] < 10
