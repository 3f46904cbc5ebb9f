"""`Board`: a list of our processors and native plugins that is called like one effect, and streamed like one."""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pedalboard
import pytest
from numpy.typing import NDArray
from pedalboard_native._internal import AddLatency

from plugin_bridge import Board, VoiceConverter

Audio = NDArray[np.float32]
RATE = 48_000

NATIVE: dict[str, Callable[[], pedalboard.Plugin]] = {
    "gain": lambda: pedalboard.Gain(-6),
    "delay": lambda: pedalboard.Delay(0.01, feedback=0.3),
    "reverb": pedalboard.Reverb,
    "limiter": lambda: pedalboard.Limiter(-12),
    "compressor": lambda: pedalboard.Compressor(-24, ratio=4),
    "lowpass": lambda: pedalboard.LowpassFilter(500),
    "chorus": pedalboard.Chorus,
    "phaser": pedalboard.Phaser,
    "gate": lambda: pedalboard.NoiseGate(-20),
    "convolution": lambda: pedalboard.Convolution(noise(3000) * 0.1, sample_rate=RATE),
    "add_latency": lambda: AddLatency(480),
    "resample": lambda: pedalboard.Resample(16_000),
    "resample_odd": lambda: pedalboard.Resample(15_999),
    "mp3": pedalboard.MP3Compressor,
    "mix": lambda: pedalboard.Mix(
        [pedalboard.Resample(16_000), None, pedalboard.Chain([AddLatency(700), pedalboard.Chorus()])]
    ),
    "chain": lambda: pedalboard.Chain([AddLatency(100), pedalboard.Chain([pedalboard.Delay(0.002)])]),
    "pedalboard": lambda: pedalboard.Pedalboard([pedalboard.Reverb(), AddLatency(33), pedalboard.Phaser()]),
}


def noise(samples: int, channels: int = 1, seed: int = 0) -> Audio:
    shape = (channels, samples)
    return (np.random.default_rng(seed).standard_normal(shape) * 0.2).astype(np.float32)


def varying(seed: int = 0) -> Iterator[int]:
    """Block lengths as a host that does not care may choose them."""
    rng = np.random.default_rng(seed)
    while True:
        yield int(rng.choice([1, 1, 2, 7, 64, 128, 300, 512, 1000, 3000]))


def pieces(x: Audio, sizes: Iterable[int]) -> Iterator[Audio]:
    start = 0
    for size in sizes:
        if start >= x.shape[1]:
            return
        yield x[:, start : start + size]
        start += size


def streamed(board: Board, x: Audio, rate: float = RATE, sizes: Iterable[int] | None = None) -> Audio:
    """All that `process(reset=False)` returns."""
    blocks = pieces(x, varying() if sizes is None else sizes)
    return np.concatenate([board.process(block, rate, reset=False) for block in blocks], axis=1)


def live(board: Board, x: Audio, sizes: Iterable[int]) -> Audio:
    """`process_block` over as much of x as fills whole blocks; the board is prepared."""
    outputs = []
    start = 0
    for size in sizes:
        if start + size > x.shape[1]:
            break
        outputs.append(board.process_block(x[:, start : start + size]))
        assert outputs[-1].shape == (x.shape[0], size)
        start += size
    return np.concatenate(outputs, axis=1)


class TestList:
    def test_it_is_a_list(self) -> None:
        a, b, c, d = (pedalboard.Gain(i) for i in range(4))
        board = Board([a, b])
        board.append(c)
        board.insert(0, d)
        assert list(board) == [d, a, b, c]
        assert len(board) == 4 and board[0] is d and board[-1] is c and board[1:3] == [a, b]
        assert a in board and pedalboard.Gain(0) not in board
        assert board.index(b) == 2 and board.count(b) == 1
        assert list(reversed(board)) == [c, b, a, d]
        del board[0]
        board[0], board[1] = board[1], board[0]
        assert list(board) == [b, a, c]
        board[1:] = [d]
        board.extend([a, None])
        board += [c]
        assert list(board) == [b, d, a, None, c]
        del board[1:3]
        board.remove(b)
        assert board.pop() is c and list(board) == [None]
        board.clear()
        assert not board and list(Board()) == list(Board(None)) == []
        with pytest.raises(ValueError, match="not in list"):
            board.remove(a)
        for index in (0, -1):
            with pytest.raises(IndexError):
                board[index]

    def test_boards_are_equal_only_to_themselves(self) -> None:
        assert Board() != Board() and len({Board(), Board()}) == 2

    @pytest.mark.parametrize(
        "wrong", ["reverb", 1, pedalboard.Gain, VoiceConverter, [pedalboard.Gain()], np.zeros(3), lambda x: x]
    )
    def test_only_processors_go_in(self, wrong: object) -> None:
        board = Board([pedalboard.Gain()])
        for put in (
            lambda: Board([wrong]),  # type: ignore[list-item]
            lambda: board.append(wrong),  # type: ignore[arg-type]
            lambda: board.insert(0, wrong),  # type: ignore[arg-type]
            lambda: board.__setitem__(0, wrong),  # type: ignore[arg-type]
            lambda: board.__setitem__(slice(0, 1), [wrong]),  # type: ignore[list-item]
        ):
            with pytest.raises(TypeError, match="a Board takes pedalboard plugins, VoiceConverters and Boards, got "):
                put()
        assert len(board) == 1

    def test_an_instrument_is_refused(self) -> None:
        class Instrument(Board):
            is_effect = False
            is_instrument = True  # type: ignore[assignment]

        with pytest.raises(ValueError, match="got an instrument"):
            Board([Instrument()])

    def test_repr_names_the_plugins(self) -> None:
        gain = pedalboard.Gain(-6)
        assert repr(Board([gain])) == f"<Board with 1 plugin: [{gain!r}]>"
        assert repr(Board([gain, Board()])) == f"<Board with 2 plugins: [{gain!r}, <Board with 0 plugins: []>]>"

    def test_it_is_an_effect(self) -> None:
        board = Board()
        assert board.is_effect is True and board.is_instrument is False
        for name in ("is_effect", "is_instrument", "latency_samples", "reported_latency_samples", "lookahead_samples"):
            with pytest.raises(AttributeError):
                setattr(board, name, 1)

    def test_a_plugin_used_twice_is_refused_when_processed_as_pedalboard_does(self) -> None:
        gain = pedalboard.Gain()
        with pytest.raises(RuntimeError) as theirs:
            pedalboard.Pedalboard([gain, gain])(noise(100), RATE)
        converter = VoiceConverter("delay512")
        inner = Board([converter])
        itself = Board()
        itself.append(itself)
        for board in (
            Board([gain, gain]),
            Board([gain, pedalboard.Chain([gain])]),
            Board([pedalboard.Mix([pedalboard.Pedalboard([gain]), gain])]),
            Board([converter, None, converter]),
            Board([inner, converter]),
            Board([Board([gain]), Board([gain])]),
            itself,
        ):
            for call in (
                lambda: board(noise(100), RATE),  # noqa: B023
                lambda: board.process(noise(100), RATE, reset=False),  # noqa: B023
                lambda: board.prepare(RATE),  # noqa: B023
            ):
                with pytest.raises(RuntimeError) as ours:
                    call()
                assert str(ours.value) == str(theirs.value)


class TestNativePlugins:
    """However the audio is cut, a native plugin gives what it gives for the whole signal."""

    @pytest.mark.parametrize("channels", [1, 2])
    @pytest.mark.parametrize("name", NATIVE)
    def test_a_stream_is_the_whole_signal_without_its_end_and_flush_gives_that(self, name: str, channels: int) -> None:
        x = noise(20_000, channels)
        whole = NATIVE[name]()(x, RATE)
        board = Board([NATIVE[name]()])
        assert np.array_equal(board(x, RATE), whole)
        board.reset()
        start = streamed(board, x)
        assert start.shape[1] == x.shape[1] - board.latency_samples
        end = board.flush()
        assert end.shape == (channels, board.latency_samples)
        # Convolution in blocks rounds otherwise than in one piece; all else is the same to the bit.
        tolerance = 1e-6 if name == "convolution" else 0.0
        np.testing.assert_allclose(np.concatenate([start, end], axis=1), whole, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("block", [1, 2, 64, 441, 512, 4096, None])
    @pytest.mark.parametrize("name", ["chorus", "add_latency", "resample", "resample_odd", "mp3", "mix"])
    def test_live_is_the_whole_signal_late_by_the_latency(self, name: str, block: int | None) -> None:
        x = noise(2000 if block in (1, 2) else 20_000, 2)
        whole = NATIVE[name]()(x, RATE)
        board = Board([NATIVE[name]()])
        board.prepare(RATE, block, channels=2)
        latency = board.latency_samples
        y = live(board, x, varying() if block is None else itertools.repeat(block))
        assert board.latency_samples == board.reported_latency_samples == latency
        assert not y[:, :latency].any()
        assert np.array_equal(y[:, latency:], whole[:, : max(y.shape[1] - latency, 0)])

    @pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000, 96_000])
    def test_latencies_that_are_known(self, rate: int) -> None:
        def latency(block: int | None, *plugins: pedalboard.Plugin) -> int:
            board = Board(plugins)
            board.prepare(rate, block)
            return board.latency_samples

        for block in (64, 512, 1000):
            assert latency(block) == latency(block, pedalboard.Reverb(), pedalboard.Limiter()) == 0
            assert latency(block, AddLatency(480)) == 480
            assert latency(block, AddLatency(480), pedalboard.Gain(), AddLatency(3)) == 483
            assert latency(block, pedalboard.Mix([AddLatency(480), AddLatency(1000)])) == 1000
            assert latency(block, pedalboard.Mix([])) == latency(block, pedalboard.Mix([None])) == 0
            # 5 ms of look-ahead.
            assert latency(block, pedalboard.BrickwallLimiter()) == int(0.005 * rate)

    def test_a_mix_keeps_time_where_the_native_one_does_not(self) -> None:
        """Dry plus late copies of itself: only if all branches are aligned is the sum a multiple of the input."""
        x = noise(20_000)
        board = Board([pedalboard.Mix([pedalboard.Gain(0), AddLatency(480), AddLatency(31)])])
        np.testing.assert_allclose(streamed(board, x), 3 * x[:, : 20_000 - board.latency_samples], atol=1e-6)

    def test_a_mix_can_grow(self) -> None:
        x = noise(5000)
        mix = pedalboard.Mix([AddLatency(100)])
        board = Board([mix])
        board.prepare(RATE, 100)
        assert np.array_equal(live(board, x, [100] * 20)[:, 100:], x[:, :1900])
        mix.append(pedalboard.Gain(0))
        assert board.latency_samples == 100
        y = live(board, x[:, 2000:], [100] * 20)
        # The old branch goes on; the new one starts with the silence that lets the old one catch up.
        np.testing.assert_allclose(y[:, :100], x[:, 1900:2000], atol=1e-6)
        np.testing.assert_allclose(y[:, 100:], 2 * x[:, 2000:3900], atol=1e-6)
        np.testing.assert_allclose(board(x, RATE), 2 * x, atol=1e-6)

    def test_pitch_shift_works_on_a_whole_signal(self) -> None:
        x = noise(30_000)
        shifted = Board([pedalboard.Gain(3), pedalboard.PitchShift(5), AddLatency(50)])(x, RATE)
        theirs = pedalboard.Pedalboard([pedalboard.Gain(3), pedalboard.PitchShift(5), AddLatency(50)])(x, RATE)
        assert np.array_equal(shifted, theirs) and np.abs(shifted).max() > 0.1

    def test_a_parameter_turned_is_heard_in_the_next_block(self) -> None:
        gain = pedalboard.Gain(0)
        board = Board([gain, pedalboard.Chain([pedalboard.Gain(0)])])
        x = np.ones((1, 256), np.float32)
        board.prepare(RATE, 256)
        assert np.array_equal(board.process_block(x), x)
        gain.gain_db = 6
        # Gain moves to its new value within 50 ms.
        blocks = [board.process_block(x) for _ in range(20)]
        np.testing.assert_allclose(blocks[-1], 10 ** (6 / 20), rtol=1e-3)
        board[1][0].gain_db = -6  # type: ignore[index,union-attr]
        blocks = [board.process_block(x) for _ in range(20)]
        np.testing.assert_allclose(blocks[-1], 1, rtol=1e-3)

    @pytest.mark.parametrize(("before", "after"), [(5, 20), (20, 5)])
    def test_latency_that_a_parameter_changed_is_reported_and_true(self, before: float, after: float) -> None:
        limiter = pedalboard.BrickwallLimiter(lookahead_ms=before)
        board = Board([limiter, AddLatency(100)])
        board.prepare(RATE, 64)
        assert board.latency_samples == before * 48 + 100
        live(board, noise(6400), itertools.repeat(64))
        limiter.lookahead_ms = after
        live(board, np.zeros((1, 6400), np.float32), itertools.repeat(64))
        assert board.latency_samples == after * 48 + 100
        click = np.zeros((1, 12_800), np.float32)
        click[0, 6000] = 0.5
        assert np.abs(live(board, click, itertools.repeat(64))[0]).argmax() == 6000 + board.latency_samples
