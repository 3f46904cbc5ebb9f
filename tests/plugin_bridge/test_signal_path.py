"""The live signal path without a device: the same sound as offline, and gestures that land on their sample."""

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from dsp.singer import Note, sing
from plugin_bridge import Board, VoiceConverter
from plugin_bridge.demo import demo_phrase
from plugin_bridge.preset import PLAIN_CHAIN, Effect, find_preset
from plugin_bridge.signal_path import Changes, Mailbox, SignalPath

RATE = 48_000
LONG = 188 * 256  # about a second, in whole blocks
CHAIN = (
    Effect(plugin="HighpassFilter", values={"cutoff_frequency_hz": 90}),
    *PLAIN_CHAIN,
    Effect(plugin="Compressor", values={"threshold_db": -20, "ratio": 3}),
    Effect(plugin="Delay", values={"delay_seconds": 0.05, "mix": 0.3}),
)


def tone(n: int = LONG) -> NDArray[np.float32]:
    return (0.4 * np.sin(2 * np.pi * 330 * np.arange(n) / RATE)).astype(np.float32)


def run(
    path: SignalPath, x: NDArray[np.float32], blocks: Sequence[int], at: dict[int, Changes] | None = None
) -> NDArray[np.float32]:
    """`x` through the path in blocks of these sizes in turn; changes are posted before the block that starts at a key."""
    out = np.full((path.channels, len(x)), np.nan, np.float32)
    start, number = 0, 0
    waiting = dict(at or {})
    while start < len(x):
        for position in [position for position in waiting if position <= start]:
            path.post(path.ready(waiting.pop(position)))
        stop = min(len(x), start + blocks[number % len(blocks)])
        path.process(x[start:stop], out[:, start:stop])
        start, number = stop, number + 1
    return out


@pytest.mark.parametrize(("block", "blocks"), [(256, [256]), (None, [256]), (None, [1, 700, 64, 9000]), (8192, [8192])])
def test_blocks_give_what_a_board_gives_for_the_whole(block: int | None, blocks: list[int]) -> None:
    x = np.random.default_rng(1).uniform(-0.5, 0.5, 81_920).astype(np.float32)
    path = SignalPath(VoiceConverter("bank_b", gain_db=3), RATE, block, chain=CHAIN)
    out = run(path, x, blocks)[0]
    assert not np.isnan(out).any()
    plugins = [CHAIN[0].build(RATE), VoiceConverter("bank_b", gain_db=3), CHAIN[2].build(RATE), CHAIN[3].build(RATE)]
    whole = Board(plugins)(x, RATE)
    late = path.latency_samples
    np.testing.assert_array_equal(out[late:], whole[: len(x) - late])
    assert not out[:late].any()


def test_both_channels_carry_the_voice() -> None:
    path = SignalPath(VoiceConverter("delay512"), RATE, 256, channels=2)
    out = run(path, tone(8192), [256])
    np.testing.assert_array_equal(out[0], out[1])
    np.testing.assert_array_equal(out[0, path.latency_samples :], tone(8192)[: -path.latency_samples])


def test_changes_posted_together_happen_at_one_sample_and_are_logged_there() -> None:
    x = np.full(LONG, 0.25, np.float32)
    path = SignalPath(VoiceConverter("bank_a"), RATE, 256)
    out = run(path, x, [256], {25_600: {"gain_db": 6.0, "mix": 0.5, "voice": "bank_b"}})[0]
    assert list(path.log) == [(25_600, {"gain_db": 6.0, "mix": 0.5, "voice": "bank_b"})]
    changed = np.nonzero(out[path.latency_samples :] != 0.25)[0] + path.latency_samples
    assert changed[0] == 25_600  # the very first sample of the block
    gain = 10 ** (6 / 20)
    assert out[-1] == pytest.approx(gain * (0.5 * 0.25 + 0.5 * 0.125), rel=1e-5)


def test_a_replay_of_the_log_is_the_same_for_other_blocks() -> None:
    x = tone(2 * LONG)
    changes: dict[int, Changes] = {
        5_120: {"ramp_ms": 200.0},
        10_240: {"pitch_shift": 5.0, "gain_db": -12.0},
        40_960: {"voice": "bank_b", "chain": CHAIN},
        61_440: {"panic": True},
        75_776: {"chain": PLAIN_CHAIN, "bypass": True},
    }
    live = SignalPath(VoiceConverter("bank_a"), RATE, None)
    wet = run(live, x, [256], changes)
    again = SignalPath(VoiceConverter("bank_a"), RATE, None)
    out = np.empty_like(wet)
    events = [*live.log, (len(x), {})]
    start = 0
    for position, told in events:
        while start < position:
            stop = min(position, start + 1000)
            again.advance(x[start:stop], out[:, start:stop])
            start = stop
        if told:
            again.apply(again.ready(told))
    np.testing.assert_array_equal(out, wet)


def test_a_ramp_glides_as_long_as_asked() -> None:
    x = np.full(LONG, 0.25, np.float32)
    path = SignalPath(VoiceConverter("delay512"), RATE, 256)
    out = run(path, x, [256], {0: {"ramp_ms": 500.0}, 9_728: {"gain_db": -20.0}})[0]
    end = 9_728 + RATE // 2
    level = 20 * np.log10(out[path.latency_samples :] / 0.25)
    assert level[end - path.latency_samples - 1] > -20
    halfway = level[9_728 + RATE // 4 - path.latency_samples]
    assert halfway == pytest.approx(-10, abs=1.5)  # late by the converter's own ramp, 30 ms, which is 1.2 dB
    assert level[-1] == pytest.approx(-20, abs=0.01)
    assert np.abs(np.diff(level)).max() < 0.01


def test_panic_is_silent_at_once_and_comes_back_without_what_was_before() -> None:
    x = np.concatenate([np.full(24_576, 0.25), np.full(24_576, -0.125)]).astype(np.float32)
    path = SignalPath(VoiceConverter("delay512"), RATE, 256, chain=(*PLAIN_CHAIN, Effect(plugin="Delay", values={"mix": 0.0})))
    out = run(path, x, [256], {24_576: {"panic": True}})[0]
    late = path.latency_samples
    faded = 24_576 + 240
    assert np.abs(np.diff(out[late:])).max() < 0.0012  # 5 ms down, 30 ms up
    assert not out[faded : faded + late].any()
    # What is heard afterwards is what was said afterwards, as late as ever.
    assert (out[faded + late :] <= 0).all()
    assert out[-1] == -0.125
    assert path.latency_samples == late


@pytest.mark.parametrize("voice", ["pjs", "kerstin", "alys"])
def test_after_a_panic_a_singer_is_as_loud_as_without(voice: str) -> None:
    phrase = demo_phrase()[0][0, : 560 * 256]
    panicked = 300 * 256
    path = SignalPath(VoiceConverter(voice), RATE, 256)
    undisturbed = run(SignalPath(VoiceConverter(voice), RATE, 256), phrase, [256])[0]
    out = run(path, phrase, [256], {panicked: {"panic": True}})[0]
    np.testing.assert_array_equal(out[:panicked], undisturbed[:panicked])
    silent = panicked + round(0.005 * RATE)
    back = silent + path.latency_samples + round(0.2 * RATE)
    assert not out[silent + 256 : back].any()

    def levels(audio: NDArray[np.float32]) -> NDArray[np.float64]:
        windows = audio[back + round(0.030 * RATE) :]  # the ramp
        tenths = windows[: len(windows) // 4800 * 4800].reshape(-1, 4800)
        return np.asarray(10 * np.log10(np.square(tenths).mean(1) + 1e-9))

    sung = levels(undisturbed) > -30
    assert sung.sum() >= 5
    assert np.abs(levels(out) - levels(undisturbed))[sung].max() < 1  # dB


def test_skipped_samples_are_gone_and_the_latency_is_what_it_was() -> None:
    x = np.random.default_rng(3).uniform(-0.5, 0.5, LONG).astype(np.float32)
    path = SignalPath(VoiceConverter("delay512"), RATE, 256)
    late = path.latency_samples
    before = run(path, x[:10_240], [256])[0]
    path.skip(2560)
    after = run(path, x[12_800:], [256])[0]
    np.testing.assert_array_equal(before[late:], x[: 10_240 - late])
    assert not after[:late].any()  # late samples are dropped, not played
    settled = late + 1440 + 512
    np.testing.assert_array_equal(after[settled:], x[12_800 + settled - late : len(x) - late])


def test_a_change_of_effects_fades() -> None:
    x = np.full(LONG, 0.25, np.float32)
    loud = (Effect(plugin="Gain", values={"gain_db": 6}), *PLAIN_CHAIN, Effect(plugin="Gain", values={"gain_db": -12}))
    path = SignalPath(VoiceConverter("delay512"), RATE, 256)
    # The second comes while the first fades in, and the third takes its place.
    out = run(path, x, [256], {12_800: {"chain": loud}, 13_056: {"chain": PLAIN_CHAIN}, 13_312: {"chain": loud}})[0]
    assert np.abs(np.diff(out[path.latency_samples :])).max() < 0.001
    assert out[-1] == pytest.approx(0.25 * 10 ** (-6 / 20), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pitch_shift": 25.0}, "pitch_shift must be between -24 and 24"),
        ({"pitch_shift": float("nan")}, "pitch_shift must be between"),
        ({"mix": "1"}, "mix must be a number, got str"),
        ({"bypass": 1.0}, "bypass must be True or False"),
        ({"ramp_ms": -1.0}, "the ramp must be between 0 and 10000 ms"),
        ({"ramp_ms": float("nan")}, "the ramp must be"),
        ({"voice": "nobody"}, "no voice is called 'nobody'"),
        ({"volume": 1.0}, "nothing called 'volume'"),
    ],
)
def test_what_cannot_be_is_refused_before_it_reaches_the_audio(changes: Changes, told: str) -> None:
    path = SignalPath(VoiceConverter("bank_a"), RATE, 256)
    with pytest.raises((ValueError, TypeError), match=told):
        path.ready(changes)


def test_a_voice_of_another_pack_joins_at_a_known_sample() -> None:
    x = tone(2 * LONG)
    outputs = []
    for blocks in ([256], [512, 256, 256]):
        path = SignalPath(VoiceConverter("bank_a"), RATE, 256)
        outputs.append(run(path, x, blocks, {10_240: {"voice": "delay512"}}))
        assert path.converter.voice == "delay512"
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_a_shift_is_for_the_voice_that_was_asked_for_before_it() -> None:
    """Though no block came in between that would have it on already."""
    path = SignalPath(VoiceConverter("delay512"), RATE, 256)
    run(path, tone(4096), [256])
    with pytest.raises(ValueError, match="'delay512' has no pitch_shift"):
        path.ready({"pitch_shift": 3.0})
    path.post(path.ready({"voice": "bank_a"}))
    path.post(path.ready({"pitch_shift": 3.0}))
    path.post(path.ready({"voice": "delay512"}))
    with pytest.raises(ValueError, match="'delay512' has no pitch_shift"):
        path.ready({"pitch_shift": 4.0})


def test_of_voices_loaded_in_a_row_the_last_is_taken_whether_or_not_the_others_were() -> None:
    for taken in ([], [0], [1], [0, 1]):
        path = SignalPath(VoiceConverter("bank_a"), RATE, None)
        run(path, tone(4096), [256])
        gestures = [path.ready({"voice": name}) for name in ("delay512", "bank_b", "delay512", "bank_a")]
        for number in taken:
            path.apply(gestures[number])
        path.apply(gestures[-1])
        out = run(path, tone(LONG), [256])
        assert path.converter.voice == "bank_a"
        np.testing.assert_array_equal(out[0, -1000:], tone(LONG)[-1000 - path.latency_samples : -path.latency_samples])


def test_nothing_posted_is_lost_between_threads() -> None:
    path = SignalPath(VoiceConverter("bank_a"), RATE, 256)
    box = Mailbox()
    names = ("pitch_shift", "formant_shift", "gain_db", "mix")

    def post() -> Iterator[None]:
        for number in range(2000):
            box.post(path.ready({names[number % 4]: number / 2000}))
            yield

    got: dict[str, object] = {}
    thread = threading.Thread(target=lambda: list(post()))
    thread.start()
    while thread.is_alive() or len(got) < 4:
        if (gesture := box.take()) is not None:
            got |= gesture.changes
    thread.join()
    if (gesture := box.take()) is not None:
        got |= gesture.changes
    assert got == {"pitch_shift": 1996 / 2000, "formant_shift": 1997 / 2000, "gain_db": 1998 / 2000, "mix": 1999 / 2000}


def test_no_gesture_clicks_on_trained_voices() -> None:
    """A click sounds above all voices: from 15 kHz up, where there is next to nothing of them, none of it may be seen.

    A synthetic singer is converted with a change at random blocks, and beside that with each of the two states throughout.
    Cut over from one to the other at once, the same voices click.
    """
    song = sing([Note(57, 0.7, "a"), Note(60, 0.7, "o")], RATE, seed=3).audio.astype(np.float32)
    song = song[: len(song) // 256 * 256]
    telephone = find_preset("telephone")
    gestures: list[Changes] = [
        {"voice": "kerstin"},
        {"voice": "bank_b"},  # another model
        {"pitch_shift": 7.0},
        {"pitch_shift": -12.0, "formant_shift": -2.0},
        {"bypass": True},
        {"mix": 0.0, "gain_db": -12.0},
        {**telephone.numbers(), "voice": telephone.voice or "pjs", "chain": telephone.chain},
    ]

    def render(start: Changes, gestures: dict[int, Changes] | None = None) -> NDArray[np.float32]:
        path = SignalPath(VoiceConverter("pjs"), RATE, 256)
        path.apply(path.ready(start))
        return run(path, song, [256], gestures)[0]

    taps = np.arange(-63, 64)
    above = (taps == 0) - 2 * 15 / 48 * np.sinc(2 * 15 / 48 * taps)
    above = above * np.kaiser(127, 8)

    def loudest(x: NDArray[np.float32], around: int) -> float:
        return float(np.abs(np.convolve(x[around - RATE // 8 : around + RATE // 3], above, "valid")).max())

    chance, before, cuts = np.random.default_rng(8), render({}), []
    for gesture in gestures:
        after = render(gesture)
        for at in chance.integers(RATE // 3, len(song) - RATE // 2, 2) // 256 * 256:
            natural = max(loudest(before, at), loudest(after, at))
            assert loudest(render({}, {int(at): gesture}), at) < 1.5 * natural, (gesture, at)
            cut = int(at) + 1200
            cuts.append(loudest(np.concatenate([before[:cut], after[cut:]]), at) / natural)
    assert max(cuts) > 4, "where it falls on the slope of a pulse; elsewhere it may not be heard"
