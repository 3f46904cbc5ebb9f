"""What `train` and `train-song` make of somebody's own recordings: what is learned from, what is left out, what they say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("swift_f0")

import soxr
from numpy.typing import NDArray
from pedalboard.io import AudioFile
from swift_f0 import SwiftF0

from dsp.singer import Note, sing
from models.source_filter.adapt import own_recordings
from models.source_filter.cleaning import Cleaned, clean
from models.source_filter.data import Recordings

RATE = 48_000
Floats = NDArray[np.float32]


def write(path: Path, audio: Floats, rate: int = RATE, **options: int | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with AudioFile(str(path), "w", rate, 1, **options) as file:
        file.write(audio.astype(np.float32))
    return path


@pytest.fixture(scope="module")
def take() -> Floats:
    """Seven seconds of a singer in a quiet room: breath up to the top, a pause in the middle, noise 60 dB under the voice."""
    song = sing([Note(52, 0.8, "a", "s"), Note(57, 0.8, "i", "m"), Note(55, 1.5, "o", "t")], RATE).audio
    half = np.concatenate([song, np.zeros(RATE // 2, np.float32)])
    noise = 1e-4 * np.random.default_rng(0).standard_normal(2 * len(half))
    return (np.concatenate([half, half]) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def tracker() -> SwiftF0:
    return SwiftF0(threads=1, spin=False)


def cleaned(tmp_path: Path, tracker: SwiftF0, audio: Floats, rate: int = RATE, **options: int | str) -> Cleaned:
    return clean(write(tmp_path / "take.wav", audio, rate, **options), "take.wav", tracker)


def test_a_good_take_is_learned_from_as_it_is(tmp_path: Path, tracker: SwiftF0, take: Floats) -> None:
    made = cleaned(tmp_path, tracker, take, bit_depth=24)
    assert made.problem == "" and made.bandwidth_hz == 24_000
    np.testing.assert_allclose(made.audio, take[: len(made.audio)], atol=1e-6)
    assert len(take) - len(made.audio) < 512 and made.track.shape == (len(made.audio) // 256, 2)
    assert 155 < np.median(made.track[made.track[:, 1] > 0.5, 0]) < 225


def test_an_offset_is_taken_off(tmp_path: Path, tracker: SwiftF0, take: Floats) -> None:
    made = cleaned(tmp_path, tracker, take + np.float32(0.02), bit_depth=24)
    assert made.problem == ""
    np.testing.assert_allclose(made.audio, take[: len(made.audio)], atol=1e-4)


def test_a_quiet_take_is_raised_and_its_pitch_is_heard(tmp_path: Path, tracker: SwiftF0, take: Floats) -> None:
    """At 50 dB less SwiftF0 by itself hears next to none."""
    good, quiet = (cleaned(tmp_path, tracker, take * gain, bit_depth=24) for gain in (1.0, 10**-2.5))
    assert "take.wav is used, but it is quiet, its loud passages are at -6" in quiet.problem
    assert "where -36 or more are wanted: it is raised by 4" in quiet.problem
    assert 0.05 < np.abs(quiet.audio).max() <= 1
    voiced = [made.track[:, 1] > 0.5 for made in (good, quiet)]
    assert np.mean(voiced[0] == voiced[1]) > 0.97


def test_a_word_in_a_long_silence_is_not_quiet(tmp_path: Path, tracker: SwiftF0, take: Floats) -> None:
    made = cleaned(tmp_path, tracker, np.concatenate([take[:RATE], np.zeros(60 * RATE, np.float32)]))
    assert "quiet" not in made.problem and re.search("9[0-9] % of it is silence, which is cut out", made.problem)


def test_clipping_is_found_at_any_level(tmp_path: Path, tracker: SwiftF0, take: Floats) -> None:
    limit = 0.25 * np.abs(take).max()
    made = cleaned(tmp_path, tracker, 0.5 * np.clip(take, -limit, limit))
    assert "of its samples are clipped" in made.problem and len(made.audio)
    whole = cleaned(tmp_path, tracker, 4 * take, bit_depth=32)  # floats above full scale are whole
    assert whole.problem == "" and np.abs(whole.audio).max() == pytest.approx(1)


def test_noise_is_told_and_noise_alone_left_out(tmp_path: Path, tracker: SwiftF0, take: Floats) -> None:
    noise = np.random.default_rng(1).standard_normal(len(take)).astype(np.float32)
    level = np.sqrt(np.mean(take**2))
    noisy = cleaned(tmp_path, tracker, take + 0.2 * level * noise)
    assert "take.wav is used, but its noise is 1" in noisy.problem and "dB under the voice where 20 or more" in noisy.problem
    assert len(noisy.audio)
    for nobody in (noise * level, 0.1 * np.sign(np.sin(2 * np.pi * 50 * np.arange(len(take)) / RATE)) + 0.01 * noise):
        made = cleaned(tmp_path, tracker, nobody)
        assert made.problem == "take.wav is left out: no voice is heard in it" and not len(made.audio)


@pytest.mark.parametrize("room", [0.0, 3e-4])
def test_long_pauses_are_cut_out(tmp_path: Path, tracker: SwiftF0, take: Floats, room: float) -> None:
    audio = np.concatenate([take, np.zeros(20 * RATE, np.float32), take])
    audio += room * np.random.default_rng(2).standard_normal(len(audio)).astype(np.float32)
    made = cleaned(tmp_path, tracker, audio)
    assert "of it is silence, which is cut out" in made.problem
    assert 2 * len(take) < len(made.audio) + 0.2 * RATE < 2 * len(take) + 1.5 * RATE
    voiced = made.track[:, 1] > 0.5
    assert np.mean(np.square(made.audio.reshape(-1, 256)[voiced])) > 1e-3  # the track has stayed with the sound


@pytest.mark.parametrize(
    ("audio", "sentence"),
    [
        (np.zeros(RATE), "it holds no sound"),
        (np.zeros(RATE // 4), "it lasts 0.2 s, which is less than a word"),
    ],
)
def test_what_holds_nothing_is_left_out(tmp_path: Path, tracker: SwiftF0, audio: Floats, sentence: str) -> None:
    assert cleaned(tmp_path, tracker, audio).problem == f"take.wav is left out: {sentence}"


def test_bandwidth_is_that_of_the_file_or_of_what_it_was_made_from(tmp_path: Path, tracker: SwiftF0, take: Floats) -> None:
    """A rate of 16 kHz, the same resampled to 48 kHz, and what an MP3 coder leaves."""
    at16 = soxr.resample(take, RATE, 16_000)
    for audio, rate in ((at16, 16_000), (soxr.resample(at16, 16_000, RATE), RATE)):
        assert 7_000 <= cleaned(tmp_path, tracker, audio, rate).bandwidth_hz <= 7_600
    assert cleaned(tmp_path, tracker, soxr.resample(take, RATE, 44_100), 44_100).bandwidth_hz == pytest.approx(20_950, abs=500)
    coded = clean(write(tmp_path / "coded.mp3", take, quality="V6"), "coded.mp3", tracker)
    assert 15_000 <= coded.bandwidth_hz <= 18_000


def test_a_file_that_a_pipe_wrote_is_as_long_as_its_sound(tmp_path: Path, tracker: SwiftF0, take: Floats) -> None:
    """Its header speaks of 2 ** 31 samples; and of one that was cut short, what is there is learned from."""
    data = write(tmp_path / "take.wav", take).read_bytes()
    at = data.index(b"data") + 4
    whole = clean(tmp_path / "take.wav", "take.wav", tracker)
    (tmp_path / "pipe.wav").write_bytes(data[:4] + b"\xff" * 4 + data[8:at] + b"\xff" * 4 + data[at + 4 :])
    piped = clean(tmp_path / "pipe.wav", "pipe.wav", tracker)
    assert piped.problem == "" and np.array_equal(piped.audio, whole.audio)
    (tmp_path / "cut.wav").write_bytes(data[: len(data) // 2])
    cut = clean(tmp_path / "cut.wav", "cut.wav", tracker)
    assert cut.problem == "" and 0.45 < len(cut.audio) / len(whole.audio) < 0.51


@pytest.fixture
def folder(tmp_path: Path, take: Floats) -> Path:
    """Three takes of 7 s."""
    for number in range(3):
        write(tmp_path / "in" / f"{number}.wav", take)
    return tmp_path / "in"


def test_what_cannot_be_used_is_told_and_does_not_end_the_training(folder: Path, tmp_path: Path, take: Floats) -> None:
    (folder / "broken.wav").write_bytes(b"RIFF and nothing more")
    write(folder / "silent" / "room.flac", np.zeros(RATE))
    write(folder / "phone.wav", soxr.resample(take, RATE, 16_000), 16_000)
    told: list[str] = []
    recordings = own_recordings("me", folder, tmp_path / "work", told.append)
    assert told[:2] == [
        "broken.wav is left out: it cannot be read as audio",
        "silent/room.flac is left out: it holds no sound",
    ]
    assert len(told) == 3 and told[2].startswith("phone.wav holds nothing above 7.")
    assert [clip.file for clip in recordings.clips] == ["0.wav", "1.wav", "2.wav", "phone.wav"]
    assert [clip.held_out for clip in recordings.clips] == [False, False, True, False]
    assert [clip.bandwidth_hz < 7_700 for clip in recordings.clips] == [False, False, False, True]
    again: list[str] = []
    assert own_recordings("me", folder, tmp_path / "work", again.append).clips == recordings.clips and not again


def test_a_refusal_leaves_nothing_behind(folder: Path, tmp_path: Path, take: Floats) -> None:
    (folder / "2.wav").unlink()
    work = tmp_path / "work"
    with pytest.raises(ValueError, match=r"expected at least 20 s in three or more recordings of me, found 1. s in 2"):
        own_recordings("me", folder, work, print)
    assert not any(work.iterdir())
    write(folder / "2.wav", take)
    assert len(own_recordings("me", folder, work, print).clips) == 3


@pytest.mark.parametrize("change", ["added", "changed", "gone", "voice", "moved"])
def test_other_recordings_are_not_taken_for_those_of_a_training(folder: Path, tmp_path: Path, take: Floats, change: str) -> None:
    work = tmp_path / "work"
    own_recordings("me", folder, work, print)
    name, sentence = "me", f"with which the training in {work} was begun, but 1.wav is new, changed or gone"
    if change == "added":
        write(folder / "more.wav", take)
        write(folder / "most.wav", take)
        sentence = "but more.wav and 1 more are new, changed or gone"
    elif change == "changed":
        write(folder / "1.wav", -take)
    elif change == "gone":
        (folder / "1.wav").unlink()
    elif change == "voice":
        name, sentence = "you", f"expected the voice of the training in {work}, me, got you"
    else:
        folder = shutil.copytree(folder, tmp_path / "elsewhere", copy_function=shutil.copyfile)
        assert len(own_recordings(name, folder, work, print).clips) == 3
        return
    before = json.loads((work / "packed" / "index.json").read_text())
    with pytest.raises(ValueError, match=sentence):
        own_recordings(name, folder, work, print)
    assert json.loads((work / "packed" / "index.json").read_text()) == before


def test_an_interrupted_reading_begins_anew(folder: Path, tmp_path: Path) -> None:
    """Neither what is half packed nor an empty folder counts as begun."""
    write(folder / "3.wav", np.zeros(RATE))

    def interrupt(sentence: str) -> None:
        raise KeyboardInterrupt

    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        own_recordings("me", folder, work, interrupt)
    assert not any(work.iterdir())
    (work / "packed.partial").mkdir()  # of a kill
    own_recordings("me", folder, work, print)
    assert len(Recordings(work / "packed").clips) == 3 and [path.name for path in work.iterdir()] == ["packed"]


def test_a_name_and_a_folder_that_do_not_do_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        own_recordings("My Voice", tmp_path, tmp_path / "work", print)
    with pytest.raises(ValueError, match="no audio file"):
        own_recordings("me", tmp_path, tmp_path / "work", print)
    assert not (tmp_path / "work").exists()
