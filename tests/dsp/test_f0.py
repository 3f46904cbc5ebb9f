"""Pitch on the song grid against singers whose pitch is known, octave repair, and the table that a producer edits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import pyworld

from dsp.f0 import (
    SWIFT_LIKELY,
    SWIFT_LINGERS,
    F0Track,
    fill_unvoiced,
    lasting_voice,
    lowered,
    read_f0_csv,
    right_octave,
    track_f0,
    write_f0_csv,
)
from dsp.resampling import resample
from dsp.singer import Note, Song, sing

RATE = 40_000


def on_grid(song: Song, rate: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    at = np.minimum(np.arange(frames) * rate // 100, len(song.f0_hz) - 1)
    return song.f0_hz[at], song.voiced[at]


@pytest.fixture(scope="module")
def phrase() -> Song:
    notes = [Note(45, 0.8, "a", "s"), Note(57, 0.7, "i", "m"), Note(64, 0.8, "o", "t"), Note(52, 0.7, "e", "n")]
    return sing(notes, RATE, seed=3)


@pytest.mark.parametrize("method", ["dio", "harvest", "swift"])
def test_a_sung_phrase_is_followed(phrase: Song, method: str) -> None:
    if method == "swift":
        pytest.importorskip("swift_f0")
    track = track_f0(phrase.audio, RATE, method)  # type: ignore[arg-type]
    frames = len(phrase.audio) // 400 + 1
    assert track.hz.shape == track.voiced.shape == (frames,)
    hz, voiced = on_grid(phrase, RATE, frames)
    both = voiced & track.voiced
    cents = np.abs(1200 * np.log2(track.hz[both] / hz[both]))
    assert np.median(cents) < 8 and np.mean(cents > 600) < 0.01
    assert np.mean(voiced == track.voiced) > 0.9
    assert (track.hz > 40).all() and np.isfinite(track.hz).all()


def test_rates_do_not_move_the_frames() -> None:
    for rate in (44_100, 16_000):
        song = sing([Note(50, 0.6), Note(62, 0.6)], rate, seed=1)
        track = track_f0(song.audio, rate)
        assert len(track.hz) == len(song.audio) * 100 // rate + 1
        hz, voiced = on_grid(song, rate, len(track.hz))
        both = voiced & track.voiced
        assert np.median(np.abs(1200 * np.log2(track.hz[both] / hz[both]))) < 8


def test_a_long_take_is_its_stretches(phrase: Song, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracked in pieces of two seconds or in one: the same within what a tracker's neighbourhood may change."""
    long = np.tile(phrase.audio, 3)
    whole = track_f0(long, RATE)
    monkeypatch.setattr("dsp.f0.STRETCH_S", 2)
    pieces = track_f0(long, RATE)
    assert len(whole.hz) == len(pieces.hz)
    assert np.mean(whole.voiced == pieces.voiced) > 0.97
    both = whole.voiced & pieces.voiced
    assert np.mean(np.abs(1200 * np.log2(whole.hz[both] / pieces.hz[both])) > 50) < 0.02


def test_swift_hears_the_stretches_of_sound_as_it_hears_the_whole(phrase: Song, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence and faint noise between phrases is left out, and sound cut into pieces: no frame is other than in one piece."""
    swift_f0 = pytest.importorskip("swift_f0")
    faint = (1e-4 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
    take = np.concatenate([np.zeros(RATE // 3, np.float32), phrase.audio, faint, phrase.audio[:-777], np.zeros(RATE, np.float32)])
    whole = swift_f0.SwiftF0(threads=1, spin=False).detect(resample(take, RATE, 16_000), 16_000, fmin=60, fmax=1100)
    monkeypatch.setattr("dsp.f0.SWIFT_FRAMES", 50)
    track = track_f0(take, RATE)
    seconds = np.arange(len(track.hz)) / 100
    share = np.interp(seconds, whole.timestamps, (whole.confidence >= 0.5).astype(float))
    np.testing.assert_array_equal(track.voiced, share > 0.5)
    inside = share == 1
    hz = np.exp(np.interp(seconds, whole.timestamps, np.log(whole.pitch_hz)))
    low, rate = lowered(take, RATE)
    refined = pyworld.stonemask(low, np.where(share > 0.5, hz, 0.0), seconds, rate)
    near = inside & (np.abs(1200 * np.log2(np.where(refined > 0, refined, 1.0) / hz)) < 50)
    np.testing.assert_allclose(track.hz[inside], np.where(near, refined, hz)[inside], rtol=1e-5)
    assert near.sum() > 0.9 * inside.sum()
    assert inside.sum() > 300


@pytest.mark.parametrize("midi", [40, 52, 64, 76])
@pytest.mark.parametrize(("hz", "cents"), [(5.5, 60.0), (7.0, 30.0)])
def test_a_vibrato_is_as_deep_as_it_was_sung(midi: int, hz: float, cents: float) -> None:
    """Within the tenth that a singer's vibrato may change by; SwiftF0 alone tells a quick one some 20 % shallower."""
    song = sing([Note(midi, 1.5)], RATE, vibrato_hz=hz, vibrato_cents=cents, vibrato_delay=0.1, seed=midi)
    track = track_f0(song.audio, RATE)
    sung, voiced = on_grid(song, RATE, len(track.hz))
    inside = slice(40, 130)  # the vibrato is there, and the note neither begins nor ends
    assert (track.voiced & voiced)[inside].all()
    true, found = (np.log2(f[inside]) - np.log2(f[inside]).mean() for f in (sung, track.hz))
    assert np.dot(found, true) / np.dot(true, true) == pytest.approx(1.0, abs=0.1)


def test_a_voice_that_dies_away_is_one_and_a_breath_is_none() -> None:
    confidence = np.full(100, 0.01)
    confidence[30:40] = 0.9
    confidence[40:90] = SWIFT_LIKELY + 0.01  # far on, what is likely is not heard as the note any more
    confidence[20:29] = SWIFT_LIKELY + 0.01  # parted from the note by a frame that is none
    wanted = np.zeros(100, bool)
    wanted[30 : 40 + SWIFT_LINGERS] = True
    np.testing.assert_array_equal(lasting_voice(confidence), wanted)


def test_swift_needs_nothing_that_comes_with_it_on_demand() -> None:
    """SwiftF0 by itself takes audio at 16 kHz alone; at other rates it asks for soxr, which nobody gets by installing us."""
    pytest.importorskip("swift_f0")
    script = (
        "import sys; sys.modules['soxr'] = None\n"
        "import numpy as np; from dsp.f0 import track_f0\n"
        "tone = np.sin(2 * np.pi * 220 * np.arange(44_100) / 44_100).cumsum().astype(np.float32)\n"
        "print(np.median(track_f0(tone / np.abs(tone).max(), 44_100).hz))\n"
    )
    made = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert float(made.stdout) == pytest.approx(220, rel=0.01)


@pytest.mark.parametrize("method", ["dio", "swift"])
def test_audio_that_is_none_is_refused(method: Literal["dio", "swift"]) -> None:
    audio = np.zeros(RATE, np.float32)
    audio[5_000] = np.nan
    with pytest.raises(ValueError, match="pitch needs finite samples"):
        track_f0(audio, RATE, method)


@pytest.mark.parametrize("octave", [-1, 1])
def test_a_tracker_an_octave_off_is_set_right(phrase: Song, octave: int) -> None:
    low, rate = lowered(phrase.audio, RATE)
    frames = len(phrase.audio) // 400 + 1
    hz, voiced = on_grid(phrase, RATE, frames)
    wrong = np.where(voiced, hz, 0.0)
    part = slice(60, 160)
    wrong[part] *= 2.0**octave
    wrong[(wrong < 60) | (wrong > 1100)] = 0
    right = right_octave(low, rate, wrong)
    both = voiced & (right > 0)
    assert np.mean(np.abs(np.log2(right[both] / hz[both])) > 0.5) < 0.02
    assert both.sum() > 0.8 * (wrong > 0).sum()


def test_breath_is_no_voice() -> None:
    rng = np.random.default_rng(0)
    hiss = (0.05 * rng.standard_normal(2 * RATE)).astype(np.float32)
    assert track_f0(hiss, RATE).voiced.mean() < 0.05


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 5_000])
@pytest.mark.parametrize("method", ["dio", "swift"])
def test_silence_and_hardly_any_audio(samples: int, method: str) -> None:
    if method == "swift":
        pytest.importorskip("swift_f0")
    track = track_f0(np.zeros(samples, np.float32), RATE, method)  # type: ignore[arg-type]
    assert len(track.hz) == samples // 400 + 1
    assert not track.voiced.any() and (track.hz == 150).all()


def test_pitch_runs_straight_through_a_gap() -> None:
    hz = np.array([0, 100.0, 0, 0, 0, 1600.0, 0])
    np.testing.assert_allclose(fill_unvoiced(hz, hz > 0), [100, 100, 200, 400, 800, 1600, 1600])


def test_lowered_audio_keeps_its_place_and_its_low_tones() -> None:
    t = np.arange(RATE) / RATE
    low, rate = lowered((np.sin(2 * np.pi * 2000 * t) + np.sin(2 * np.pi * 8100 * t)).astype(np.float32), RATE)
    assert rate == 10_000 and len(low) == 10_000
    expected = np.sin(2 * np.pi * 2000 * np.arange(10_000) / rate)
    np.testing.assert_allclose(low[50:-50], expected[50:-50], atol=0.02)
    assert lowered(np.zeros(10, np.float32), 44_100)[1] == 11_025


def test_table_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    track = F0Track(rng.uniform(60, 1100, 500), rng.random(500) < 0.7)
    write_f0_csv(tmp_path / "f0.csv", track)
    assert (tmp_path / "f0.csv").read_text().splitlines()[0] == "time_s,hz,voiced"
    again = read_f0_csv(tmp_path / "f0.csv", 500)
    np.testing.assert_array_equal(again.voiced, track.voiced)
    np.testing.assert_array_equal(again.hz, fill_unvoiced(track.hz, track.voiced))
    write_f0_csv(tmp_path / "again.csv", again)
    write_f0_csv(tmp_path / "f0.csv", read_f0_csv(tmp_path / "again.csv", 500))
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "f0.csv").read_bytes()
    (tmp_path / "again.csv").unlink()
    assert [p.name for p in tmp_path.iterdir()] == ["f0.csv"]


def test_an_edited_table_may_be_sparse(tmp_path: Path) -> None:
    """Three rows a person wrote: a glide of an octave, then a rest."""
    path = tmp_path / "f0.csv"
    path.write_text("\ufefftime_s, hz, voiced\n0,200,1\n\n1.00,400,1\n1.50,,0\n", encoding="utf-8")
    track = read_f0_csv(path, 151)
    np.testing.assert_allclose(track.hz[[0, 50, 100]], [200, 200 * 2**0.5, 400])
    assert track.voiced[:125].all() and not track.voiced[126:].any()


def test_a_table_without_voice(tmp_path: Path) -> None:
    path = tmp_path / "f0.csv"
    path.write_text("time_s,hz,voiced\n0,0,0\n0.3,none,0\n")
    track = read_f0_csv(path, 31)
    assert not track.voiced.any() and (track.hz == 150).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns time_s,hz,voiced"),
        ("time,pitch\n0,1\n", r"expected the columns time_s,hz,voiced in .*, found 'time,pitch'"),
        ("time_s,hz,voiced\n", "expected rows of time_s, hz, voiced .*, found none"),
        ("time_s,hz,voiced\n0,200,1\n0.5,two hundred,1\n", r"line 3: expected three numbers, found '0.5,two hundred,1'"),
        ("time_s,hz,voiced\n0,200\n", "line 2: expected three numbers"),
        ("time_s,hz,voiced\n0,200,1,1\n", "line 2: expected three numbers"),
        ("time_s,hz,voiced\n0,,1\n", "line 2: expected three numbers"),
        ("time_s,hz,voiced\n0.6,200,1\n1,200,1\n", r"begins at 0\.60 s, but the take at 0\.00 s"),
        ("time_s,hz,voiced\n0,nan,1\n", "line 2: expected a pitch of 20 to 4000 Hz, found nan"),
        ("time_s,hz,voiced\n0,5,1\n", "line 2: expected a pitch of 20 to 4000 Hz, found 5"),
        ("time_s,hz,voiced\n0,200,2\n", "line 2: expected voiced 0 or 1, found 2"),
        ("time_s,hz,voiced\n0,200,1\n0,210,1\n", "line 3: expected times that grow"),
        ("time_s,hz,voiced\ninf,200,1\n", "line 2: expected times that grow"),
        ("time_s,hz,voiced\n0,200,1\n9,200,1\n", r"ends at 9\.00 s, but the take at 1\.00 s"),
        ("time_s,hz,voiced\n0,200,1\n", r"ends at 0\.00 s, but the take at 1\.00 s"),
        ("time_s,hz,voiced\n" + "0" * 200_000 + ",1,1\n", "cannot be read|ends at"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f0.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_f0_csv(path, 101)
    assert "\n" not in str(caught.value) and "f0.csv" in str(caught.value)


def test_a_table_that_lost_a_part_is_refused(tmp_path: Path) -> None:
    write_f0_csv(tmp_path / "f0.csv", F0Track(np.full(900, 200.0), np.ones(900, bool)))
    head, *rows = (tmp_path / "f0.csv").read_text().splitlines()
    (tmp_path / "f0.csv").write_text("\n".join([head, *rows[:301], *rows[600:]]))
    with pytest.raises(ValueError, match=r"has no row between 3\.00 and 6\.00 s, but must have one every 2 s at least"):
        read_f0_csv(tmp_path / "f0.csv", 900)
    (tmp_path / "f0.csv").write_text("\n".join([head, *rows[:301], *rows[500:]]))
    np.testing.assert_allclose(read_f0_csv(tmp_path / "f0.csv", 900).hz, 200)


def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f0.csv").write_bytes(b"\xff\xfe\x00RIFF")
    for path in (tmp_path / "f0.csv", tmp_path / "none.csv", tmp_path):
        with pytest.raises(ValueError, match=r"expected an f0 table in .*, but it cannot be read"):
            read_f0_csv(path, 101)
