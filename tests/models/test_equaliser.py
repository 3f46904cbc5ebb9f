"""The command that derives a voice's equaliser, and the recipe it is kept in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from pedalboard.io import AudioFile

pytest.importorskip("torch")

import models.equaliser as command
from dsp.equaliser import BANDS, centres_hz
from dsp.singer import Note, sing

RECIPE = Path(command.__file__).parent / "source_filter" / "bank.toml"


def write(path: Path, audio: np.ndarray, rate: int) -> None:
    with AudioFile(str(path), "w", rate, 1) as file:
        file.write(audio.astype(np.float32)[None])


def test_the_command_finds_what_conversions_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("own", "made"):
        (tmp_path / name).mkdir()
    for number, height in enumerate((50, 57, 62)):
        audio = sing([Note(height, 0.4, vowel) for vowel in "aeiou"], 48_000, seed=number).audio
        write(tmp_path / "own" / f"{number}.wav", audio, 48_000)
        # A pole at 1 kHz.
        hz = np.maximum(np.fft.rfftfreq(len(audio), 1 / 48_000), 1)
        dark = np.fft.irfft(np.fft.rfft(audio) / np.sqrt(1 + (hz / 1_000) ** 2), len(audio))
        write(tmp_path / "made" / f"{number}.wav", 0.5 * dark, 48_000)
    monkeypatch.setattr(sys, "argv", ["equaliser", str(tmp_path / "own"), str(tmp_path / "made")])
    command.main()
    found = np.array([float(value) for value in capsys.readouterr().out.strip().strip("[]").split(",")])
    hz = centres_hz()
    inside = (hz > 250) & (hz < 6_000)
    assert len(found) == BANDS and np.ptp((found - 10 * np.log10(1 + (hz / 1_000) ** 2))[inside]) < 1.0


def test_a_folder_without_recordings_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected recordings in"):
        command.spectra(tmp_path)


def test_the_recipe_of_the_bank_has_equalisers_of_the_right_size() -> None:
    for network in ("stream", "song", "clear_song"):
        found = command.read_equalisers(RECIPE, network)
        assert set(found) == {"kerstin"} and all(len(levels) == BANDS for levels in found.values())
    assert command.read_equalisers(RECIPE, "another") == {}
