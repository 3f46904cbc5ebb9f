"""Gestures in time: files that are read and refused, automation of recordings, and takes played again."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pedalboard.io import AudioFile
from pydantic import ValidationError
from typer.testing import CliRunner

from plugin_bridge import VoiceConverter, take, timeline
from plugin_bridge.cli import app
from plugin_bridge.preset import PLAIN_CHAIN, Effect
from plugin_bridge.signal_path import SignalPath
from plugin_bridge.take import TakeRecorder
from plugin_bridge.timeline import MOST_BYTES, MOST_EVENTS, Event, Timeline, TimelineError, read_timeline, replay

RATE = 48_000


def write_audio(path: Path, samples: NDArray[np.float32], rate: int = RATE) -> Path:
    with AudioFile(str(path), "w", samplerate=rate, num_channels=samples.shape[0], bit_depth=32) as file:
        file.write(samples)
    return path


def read_audio(path: Path) -> NDArray[np.float32]:
    with AudioFile(str(path)) as file:
        return file.read(file.frames)


def convert(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    return result.stderr


def test_a_csv_file_automates_a_stereo_recording_in_time_with_what_is_heard(tmp_path: Path) -> None:
    dry = np.stack([np.full(2 * RATE, 0.25), np.full(2 * RATE, 0.125)]).astype(np.float32)
    automation = tmp_path / "moves.csv"
    lines = ["time,address,value", "# a comment", "", "1.5,/vc/bypass,1", "0.5,/vc/gain,-6", "0,/vc/voice,bank_b", "1,/vc/mix/n,0"]
    automation.write_text("\n".join(lines))
    convert(write_audio(tmp_path / "in.wav", dry), tmp_path / "out.wav", "--voice", "bank_a", "--automation", automation)
    wet = read_audio(tmp_path / "out.wav")
    assert wet.shape == dry.shape
    mid, gain = (0.25 + 0.125) / 2 * 0.5, 10 ** (-6 / 20)
    late = 1536  # 30 ms of ramp, and some
    np.testing.assert_allclose(wet[:, 512 : RATE // 2], mid, atol=1e-6)
    np.testing.assert_allclose(wet[:, RATE // 2 + late : RATE], mid * gain, atol=1e-6)
    np.testing.assert_allclose(wet[:, RATE + late : RATE * 3 // 2], dry[:, RATE + late : RATE * 3 // 2] * gain, atol=1e-6)
    np.testing.assert_allclose(wet[:, RATE * 3 // 2 + late :], dry[:, RATE * 3 // 2 + late :], atol=1e-6)
    # The ramp begins with the very sample asked for.
    assert np.abs(wet[0, RATE // 2 - 1] - mid) < 1e-6 < np.abs(wet[0, RATE // 2] - mid)


def test_a_recorded_take_is_played_again_to_the_sample(tmp_path: Path) -> None:
    path = SignalPath(VoiceConverter("bank_a", pitch_shift=2), RATE, 480, 2, (*PLAIN_CHAIN, Effect(plugin="Reverb")))
    recorder = TakeRecorder(tmp_path / "take.wav", path)
    x = np.random.default_rng(1).uniform(-0.5, 0.5, 300 * 480).astype(np.float32)
    out = np.empty((2, 480), np.float32)
    gestures = {
        60: {"ramp_ms": 200.0, "gain_db": -12.0},
        120: {"voice": {"bank_a": 0.5, "bank_b": 0.5}, "bypass": False, "mix": 0.7},
        150: {"chain": PLAIN_CHAIN},
        200: {"panic": True},
    }
    for block in range(300):
        if block in gestures:
            path.post(path.ready(gestures[block]))  # type: ignore[arg-type]
        source = x[block * 480 : block * 480 + 480]
        if 100 <= block < 105:
            path.skip(480)
            out.fill(0.0)
        else:
            path.process(source, out)
        recorder.push(source, out)
    recorder.close()
    assert (recorder.problem, recorder.lost) == ("", 0)
    dry, wet = read_audio(recorder.dry_target), read_audio(recorder.target)
    np.testing.assert_array_equal(dry[0], x)
    timeline = read_timeline(recorder.timeline_target)
    np.testing.assert_array_equal(replay(timeline, dry[0]), wet)
    # The command gives the same, in time with the dry recording.
    convert(recorder.dry_target, tmp_path / "again.wav", "--automation", recorder.timeline_target)
    again = read_audio(tmp_path / "again.wav")
    assert again.shape == wet.shape
    late = path.latency_samples
    np.testing.assert_allclose(again[:, :-late], np.clip(wet[:, late:], -1, 1), atol=2**-23)  # it writes 24 bits


def test_a_take_is_played_again_where_a_voice_came_that_cannot_follow_its_glide(tmp_path: Path) -> None:
    path = SignalPath(VoiceConverter("bank_a"), RATE, 512, 1)
    recorder = TakeRecorder(tmp_path / "take.wav", path)
    x = np.random.default_rng(1).uniform(-0.5, 0.5, 100 * 512).astype(np.float32)
    out = np.empty((1, 512), np.float32)
    gestures = {20: {"ramp_ms": 400.0, "pitch_shift": 7.0}, 30: {"voice": "delay512"}, 80: {"voice": "bank_a"}}
    for block in range(100):
        if block in gestures:
            path.post(path.ready(gestures[block]))  # type: ignore[arg-type]
        source = x[block * 512 : block * 512 + 512]
        path.process(source, out)
        recorder.push(source, out)
    recorder.close()
    timeline = read_timeline(recorder.timeline_target)
    np.testing.assert_array_equal(replay(timeline, x), read_audio(recorder.target))


def test_when_the_disk_is_full_what_was_recorded_until_then_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = SignalPath(VoiceConverter("bank_a"), RATE, 512, 1)
    recorder = TakeRecorder(tmp_path / "take.wav", path)
    x, out = np.random.default_rng(1).uniform(-0.5, 0.5, 512).astype(np.float32), np.empty((1, 512), np.float32)
    end = time.monotonic() + 60
    while not recorder.problem:
        assert time.monotonic() < end
        path.process(x, out)
        recorder.push(x, out)
        time.sleep(0.01)
        if recorder.samples > 2048:
            monkeypatch.setattr(take, "RESERVE_BYTES", 1 << 62)  # a smaller disk
    path.process(x, out)
    recorder.push(x, out)
    recorder.close()
    assert recorder.problem == f"{recorder.target} ends here: the disk is full"
    dry, wet = read_audio(recorder.dry_target), read_audio(recorder.target)
    assert dry.shape == wet.shape == (1, recorder.samples)
    np.testing.assert_array_equal(replay(read_timeline(recorder.timeline_target), dry[0]), wet)


def test_of_more_gestures_than_can_be_read_the_sound_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three numbers that glide all the time are a million in half an hour."""
    monkeypatch.setattr(take, "MOST_EVENTS", 100)
    monkeypatch.setattr(take, "WRITE_SECONDS", 0.001)
    path = SignalPath(VoiceConverter("bank_a"), RATE, 512, 1)
    (tmp_path / "take.json").write_text("of the evening before")
    recorder = TakeRecorder(tmp_path / "take.wav", path)
    x, out = np.random.default_rng(1).uniform(-0.5, 0.5, 512).astype(np.float32), np.empty((1, 512), np.float32)
    end = time.monotonic() + 60
    while not recorder.problem:
        assert time.monotonic() < end
        path.post(path.ready({"mix": 0.5}))
        path.process(x, out)
        recorder.push(x, out)
    until = recorder.samples
    recorder.push(x, out)
    recorder.close()
    assert recorder.problem == f"{recorder.timeline_target} will be missing: there were more than 100 gestures"
    assert until < recorder.samples == read_audio(recorder.target).shape[1] == read_audio(recorder.dry_target).shape[1]
    assert not recorder.timeline_target.exists()


def test_as_many_gestures_as_are_written_can_be_read() -> None:
    longest = Event(time=123_456.78901234567, address="/vc/formant", value=-11.123456789012345)
    written = Timeline(sample_rate=RATE, events=(longest,) * 1000).model_dump_json(indent=1)
    assert len(written) * MOST_EVENTS / 1000 <= MOST_BYTES


def test_a_performance_that_did_not_begin_leaves_an_earlier_take(tmp_path: Path) -> None:
    takes = [tmp_path / name for name in ("take.wav", "take.dry.wav", "take.json")]
    for file in takes:
        file.write_text("of the evening before")
    recorder = TakeRecorder(takes[0], SignalPath(VoiceConverter("bank_a"), RATE, 512, 1))
    recorder.close()
    assert (recorder.samples, recorder.problem) == (0, "")
    assert sorted(tmp_path.iterdir()) == sorted(takes)
    assert {file.read_text() for file in takes} == {"of the evening before"}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "{", "Invalid JSON"),
        ("a.json", '{"events": [{"time": -1, "address": "/vc/pitch", "value": 1}]}', "events.0.time"),
        ("a.json", '{"events": [{"time": NaN, "address": "/vc/pitch", "value": 1}]}', "time"),
        ("a.json", '{"events": [{"time": 1, "address": "/vc/volume", "value": 1}]}', "'1.0' is nothing that can be automated"),
        ("a.json", '{"events": [{"time": 1, "address": "/vc/pitch", "value": "up"}]}', "'up' is nothing that can be"),
        ("a.json", '{"events": [{"time": 1, "address": "/vc/mix/n", "value": 2}]}', "/vc/mix/n takes 0 to 1, got 2"),
        ("a.json", '{"events": [{"time": 1, "address": "/vc/preset/load", "value": "none"}]}', "no preset is called 'none'"),
        ("a.json", '{"tempo": 120}', "tempo: Extra inputs"),
        ("a.csv", "0.5,/vc/skip,-48000", "/vc/skip with '-48000.0' is nothing that can be automated"),
        ("a.csv", "one,/vc/pitch,1", "line 1: the time must be a number of seconds, not 'one'"),
        ("a.csv", "1", "line 1 must have time, address and value"),
        ("a.csv", "1,/vc/pitch,nan", "line 1: value"),
        ("a.csv", "inf,/vc/pitch,1", "line 1: time"),
        ("a.csv", "0,/vc/voice,pjs=x", "the weight of pjs must be a number"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_in_one_sentence(tmp_path: Path, name: str, content: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(TimelineError) as refused:
        read_timeline(path)
    sentence = str(refused.value)
    assert told in sentence
    assert str(path) in sentence
    assert "\n" not in sentence
    result = CliRunner().invoke(app, ["convert", "in.wav", "out.wav", "--automation", str(path)])
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_hostile_file_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError) as refused:
        Timeline.model_validate_json(json.dumps({"events": [{}] * 1000}))
    assert {problem["loc"][:2] for problem in refused.value.errors()} == {("events", 0)}
    table = tmp_path / "a.csv"
    monkeypatch.setattr(timeline, "MOST_EVENTS", 3)
    table.write_text("# four\n" + "0,/vc/mix\n" * 4)
    with pytest.raises(TimelineError, match="line 5 is one too many, there may be 3 events"):
        read_timeline(table)


def test_binary_files_and_missing_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(TimelineError, match="not text in UTF-8"):
        read_timeline(tmp_path / "a.csv")
    with pytest.raises(TimelineError, match="cannot be read: No such file"):
        read_timeline(tmp_path / "b.csv")


def test_a_mix_in_csv_keeps_its_commas_and_a_take_needs_its_rate(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("0,/vc/voice,bank_a=0.25,bank_b=0.75\n")
    assert read_timeline(tmp_path / "a.csv").first_voice() == {"bank_a": 0.25, "bank_b": 0.75}
    take = tmp_path / "take.json"
    take.write_text(json.dumps({"sample_rate": 44_100, "events": [{"time": 0, "address": "/vc/voice", "value": "bank_a"}]}))
    write_audio(tmp_path / "in.wav", np.zeros((1, 4800), np.float32))
    arguments = ["convert", str(tmp_path / "in.wav"), str(tmp_path / "out.wav"), "--automation", str(take)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "the take was recorded at 44100 Hz" in " ".join(result.stderr.split())
