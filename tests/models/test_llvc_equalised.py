"""Pairs equalised to their target: what the conversions of each recording lacked, they have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr
from pedalboard.io import AudioFile

pytest.importorskip("torch")

from dsp.equaliser import FFT, RATE, centres_hz, long_term_spectrum_db
from dsp.singer import Note, sing
from models.llvc.equalised import equalise, read, write
from models.llvc.pairs import Pairs


def through(audio: np.ndarray, corner_hz: float) -> np.ndarray:
    """A pole: darker from there on."""
    hz = np.fft.rfftfreq(len(audio), 1 / RATE)
    return np.fft.irfft(np.fft.rfft(audio) / np.sqrt(1 + (hz / corner_hz) ** 2), len(audio))


def phrase(height: float) -> np.ndarray:
    return 0.5 * sing([Note(height, 0.5, vowel) for vowel in "aeiou"], RATE, seed=int(height)).audio


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_each_recording_gets_its_targets_spectrum_and_the_pairs_stay_pairs(tmp_path: Path, rate: int) -> None:
    pairs, out = tmp_path / "pairs", tmp_path / "out"
    (pairs / "train").mkdir(parents=True)
    (pairs / "val").mkdir()
    (pairs / "teacher.json").write_text("{}")
    made = {}
    for folder, name, height, corner in (("train", "one", 50, 500.0), ("train", "two", 57, 700.0), ("val", "three", 55, 600.0)):
        whole = phrase(height)
        made[folder, name] = through(whole, corner)
        for number, part in enumerate(np.array_split(np.arange(len(whole)), 2)):
            for kind, audio in (("original", whole), ("converted", made[folder, name])):
                clip = soxr.resample(audio[part].astype(np.float32), RATE, rate)
                write(pairs / folder / f"{name}_{number:03d}_{kind}.wav", clip, rate)
    target = [long_term_spectrum_db(phrase(height)) for height in (48, 53, 59)]
    assert equalise(target, pairs, out) == 3
    assert (out / "teacher.json").read_text() == "{}"
    inside = (centres_hz() > 300) & (centres_hz() < 6_000)
    wanted = np.mean(target, axis=0)
    for (folder, name), before in made.items():
        clips = [read(out / folder / f"{name}_{number:03d}_converted.wav")[0] for number in (0, 1)]
        heard = soxr.resample(np.concatenate(clips), rate, RATE)
        # The slope, in dB from 300 Hz to 6 kHz: the rest is the harmonics of its pitch.
        before_db, after_db = (
            24 * np.polyfit(np.arange(48)[inside], (long_term_spectrum_db(audio) - wanted)[inside], 1)[0]
            for audio in (before, heard)
        )
        assert before_db < -5 and abs(after_db) < 0.4 * abs(before_db), (name, before_db, after_db)
    found = Pairs(out / "train", rate).batch([0, 1, 2, 3], 20 * FFT, np.random.default_rng(0))
    assert found.shape == (2, 4, 1, 20 * FFT) and np.isfinite(found).all() and np.abs(found).max() <= 1


def test_pairs_are_not_equalised_over_themselves(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    pair = [tmp_path / "train" / f"a_000_{kind}.wav" for kind in ("original", "converted")]
    for path in pair:
        write(path, phrase(50), RATE)
    before = [path.read_bytes() for path in pair]
    with pytest.raises(ValueError, match="the equalised pairs need another folder than those that they are made of"):
        equalise([long_term_spectrum_db(phrase(60))], tmp_path, tmp_path / "train" / "..")
    assert [path.read_bytes() for path in pair] == before


def test_pairs_of_another_rate_and_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected pairs such as train/a_000_converted\.wav"):
        equalise([np.zeros(48)], tmp_path, tmp_path / "out")
    (tmp_path / "train").mkdir()
    with AudioFile(str(tmp_path / "train" / "a_000_converted.wav"), "w", 44_100, 1) as file:
        file.write(np.zeros((1, 4_800), np.float32))
    with pytest.raises(ValueError, match=r"expected pairs of 16000 or 48000 Hz, but .* has 44100 Hz"):
        equalise([np.zeros(48)], tmp_path, tmp_path / "out")
