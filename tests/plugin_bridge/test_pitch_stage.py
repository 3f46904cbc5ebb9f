"""Voices without control of pitch and formants: a shifter comes before them, and its latency is reported while it is there."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import pyworld
from numpy.typing import NDArray
from packs import delay_model, write_test_pack

from dsp.singer import Note, sing
from plugin_bridge import Board, VoiceConverter
from plugin_bridge.signal_path import SignalPath
from plugin_bridge.timeline import Event, Player, Timeline

Audio = NDArray[np.float32]
LATE = 320  # 20 ms at 16 kHz


@pytest.fixture(scope="module")
def sung() -> Audio:
    return sing([Note(57, 0.4, "a"), Note(60, 0.4, "o", "n")], 16_000, vibrato_cents=20).audio


def stream(converter: VoiceConverter, audio: Audio, sizes: list[int]) -> Audio:
    """All of it, in time with the source."""
    pieces, start = [], 0
    padded = np.pad(audio, (0, converter.latency_samples))
    for size in itertools.cycle(sizes):
        if start >= len(padded):
            break
        pieces.append(converter.process_block(padded[start : start + size]))
        start += size
    return np.concatenate(pieces)[converter.latency_samples :]


@pytest.mark.parametrize("block", [64, 208, 256, None])
def test_latency_is_reported_while_it_is_in_the_path(block: int | None) -> None:
    converter = VoiceConverter("rate16k")
    converter.prepare(16_000, block)
    plain = converter.latency_samples
    converter = VoiceConverter("rate16k", pitch_shift=3)
    assert converter.latency_samples == 16 + 207 + LATE, "before anything is prepared"
    converter.prepare(16_000, block)
    assert converter.latency_samples == plain + LATE
    converter.pitch_shift = 0
    assert converter.latency_samples == plain + LATE, "constant until it is prepared anew"
    converter.prepare(16_000, block)
    assert converter.latency_samples == plain
    converter.formant_shift = 0
    converter.prepare(16_000, block, steer_pitch=True)
    assert converter.latency_samples == plain + LATE


@pytest.mark.parametrize("steered", [False, True])
def test_a_voice_with_its_own_control_gets_none(steered: bool) -> None:
    converter = VoiceConverter("bank_a", pitch_shift=5)
    converter.prepare(48_000, 512, steer_pitch=steered)
    assert converter.latency_samples == 256


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_streaming_equals_offline(sung: Audio, rate: int) -> None:
    offline = VoiceConverter("rate16k", pitch_shift=4, formant_shift=-1)(sung, rate)
    assert len(offline) == len(sung)
    for sizes in ([208], [1000], [64, 300, 1, 513]):
        converter = VoiceConverter("rate16k", pitch_shift=4, formant_shift=-1)
        converter.prepare(rate)
        assert np.array_equal(stream(converter, sung, sizes), offline), sizes


@pytest.mark.parametrize("semitones", [-5, 7])
def test_pitch_moves_and_time_does_not(sung: Audio, semitones: float) -> None:
    converted = VoiceConverter("rate16k", pitch_shift=semitones)(sung, 16_000)

    def pitch(audio: Audio) -> NDArray[np.float64]:
        hz, times = pyworld.dio(audio.astype(np.float64), 16_000)
        return pyworld.stonemask(audio.astype(np.float64), hz, times, 16_000)  # type: ignore[no-any-return]

    before, after = pitch(sung), pitch(converted)
    both = (before > 0) & (after > 0)
    assert both.mean() > 0.6
    assert np.median(np.abs(1200 * np.log2(after[both] / before[both]) - 100 * semitones)) < 10


def test_steering_a_stream(sung: Audio) -> None:
    """Latency stays; with no shift the sound is what it would be without a shifter."""
    converter = VoiceConverter("rate16k")
    converter.prepare(16_000, 208, steer_pitch=True)
    latency = converter.latency_samples
    blocks = sung[: len(sung) // 208 * 208].reshape(-1, 208)
    made = []
    for number, block in enumerate(blocks):
        converter.pitch_shift = 5.0 if 10 <= number < 25 else 0.0
        made.append(converter.process_block(block))
        assert converter.latency_samples == latency
    out = np.concatenate(made)
    source = np.pad(sung, (latency, 0))
    calm = slice(latency, 10 * 208)
    assert np.array_equal(out[calm], source[calm])
    assert not np.allclose(out[20 * 208 : 25 * 208], source[20 * 208 : 25 * 208], atol=1e-2)
    again = slice(25 * 208 + latency + 5 * 208, len(out))
    assert np.array_equal(out[again], source[again])


def test_in_a_stream_prepared_without_a_shift_waits_for_the_next(sung: Audio) -> None:
    converter, plain = VoiceConverter("rate16k"), VoiceConverter("rate16k")
    for each in (converter, plain):
        each.prepare(16_000, 208)
    blocks = sung[: 20 * 208].reshape(-1, 208)
    for number, block in enumerate(blocks):
        if number == 5:
            converter.pitch_shift, converter.formant_shift = 3, -2
        assert np.array_equal(converter.process_block(block), plain.process_block(block))
        assert converter.latency_samples == 16
    converter.prepare(16_000, 208)
    assert converter.latency_samples == 16 + LATE
    path = SignalPath(VoiceConverter("rate16k"), 16_000, 208)
    with pytest.raises(ValueError, match="has no pitch_shift of its own"):
        path.ready({"pitch_shift": 3.0})
    converter = VoiceConverter("rate16k")
    converter.process(np.zeros(500, np.float32), 16_000, reset=False)
    converter.pitch_shift = 3
    assert converter.latency_samples == 16 + 207
    converter.reset()
    assert converter.latency_samples == 16 + 207 + LATE


def test_offline_it_may_be_set_at_any_time(sung: Audio) -> None:
    converter = VoiceConverter("rate16k")
    assert np.array_equal(converter(sung, 16_000), sung)
    board = Board([converter])
    assert np.array_equal(board(sung, 16_000), sung)
    converter.pitch_shift = 4
    shifted = VoiceConverter("rate16k", pitch_shift=4)(sung, 16_000)
    assert np.array_equal(converter(sung, 16_000), shifted)
    assert np.array_equal(board(sung, 16_000), shifted)
    converter.pitch_shift = 0
    assert np.array_equal(converter(sung, 16_000), sung)


def test_what_was_set_before_is_no_part_of_the_next_recording(sung: Audio) -> None:
    """Neither the shifter, once nothing is shifted any more, nor a stream that was never ended."""
    converter = VoiceConverter("rate16k", pitch_shift=4)
    shifted = converter(sung, 16_000)
    assert converter.latency_samples == 16 + 207 + LATE
    converter.pitch_shift = 0
    assert converter.latency_samples == 16 + 207
    converter.process(sung, 16_000, reset=False)
    converter.pitch_shift = 4
    assert converter.latency_samples == 16 + 207, "constant in a stream"
    assert np.array_equal(converter(sung, 16_000), shifted)


def test_every_stream_through_a_board_begins_with_the_shift_there_is(sung: Audio) -> None:
    converter = VoiceConverter("rate16k")
    boards = Board([converter]), Board([Board([converter])])
    for board, semitones in itertools.product(boards, (0.0, 4.0, 0.0)):
        converter.pitch_shift = semitones
        pieces = [board.process(piece, 16_000, reset=False) for piece in np.split(sung, [300, 5000])]
        assert board.latency_samples == 16 + 207 + (LATE if semitones else 0)
        expected = VoiceConverter("rate16k", pitch_shift=semitones)(sung, 16_000)
        assert np.array_equal(np.concatenate([*pieces, board.flush()]), expected)
        converter.pitch_shift = 4.0 - semitones
        assert np.array_equal(board(sung, 16_000), VoiceConverter("rate16k", pitch_shift=4.0 - semitones)(sung, 16_000))


def test_such_a_voice_is_heard_unshifted_where_there_is_no_latency_for_more(sung: Audio) -> None:
    converter = VoiceConverter("bank_a", pitch_shift=2)
    converter.prepare(48_000, 512)
    converter.voice = "delay512"
    made = np.concatenate([converter.process_block(block) for block in sung[: len(sung) // 512 * 512].reshape(-1, 512)])
    assert converter.latency_samples == 256
    settled = slice(20 * 512, len(made))
    np.testing.assert_allclose(made[settled], np.pad(sung, (256, 0))[settled], atol=1e-6)


def test_voice_and_shift_change_together(tmp_path: Path) -> None:
    """As a preset does: what counts is what the new voice can, with the new shift."""
    own = delay_model({"own": 1.0}, sample_rate=16_000, chunk=208, lookahead=16, pitch_controls=True)
    name = str(write_test_pack(tmp_path / "own.voice", own))
    path = SignalPath(VoiceConverter("rate16k"), 16_000, 208)
    block, out = np.zeros(208, np.float32), np.empty((1, 208), np.float32)
    path.advance(block, out)
    path.apply(path.ready({"pitch_shift": 5.0, "voice": name}))
    path.advance(block, out)
    assert path.converter.pitch_shift == 5
    path.apply(path.ready({"voice": "rate16k"}))
    path.apply(path.ready({"pitch_shift": 0.0}))
    with pytest.raises(ValueError, match="of its own"):
        path.ready({"pitch_shift": 2.0})


def test_automation_of_the_pitch(sung: Audio) -> None:
    events = (Event(time=0.3, address="/vc/pitch", value=7.0),)
    timeline = Timeline(events=events)
    assert timeline.steers_pitch()
    path = SignalPath(VoiceConverter("rate16k"), 16_000, None, steer_pitch=timeline.steers_pitch())
    out = np.empty((1, len(sung)), np.float32)
    Player(path, timeline).process(sung, out)
    late = path.latency_samples
    begun = round(0.3 * 16_000)
    assert np.array_equal(out[0, late:begun], sung[: begun - late])
    assert not np.allclose(out[0, begun + late :], sung[begun:-late], atol=1e-2)


def test_silence_that_goes_in_comes_out(sung: Audio) -> None:
    audio = np.pad(sung, (0, 16_000))
    assert not VoiceConverter("rate16k", pitch_shift=-12)(audio, 16_000)[len(sung) + 4000 :].any()


def test_every_channel_has_its_own(sung: Audio) -> None:
    stereo = np.stack([sung, 0.5 * sung[::-1]])
    converter = VoiceConverter("rate16k", pitch_shift=3, stereo="each")
    both = converter(stereo, 16_000)
    for channel, alone in zip(both, stereo, strict=True):
        assert np.array_equal(channel, VoiceConverter("rate16k", pitch_shift=3)(alone, 16_000))
