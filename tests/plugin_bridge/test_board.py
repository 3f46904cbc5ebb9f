"""`Board`: a list of our processors and native plugins that is called like one effect, and streamed like one."""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

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
    "brickwall": lambda: pedalboard.BrickwallLimiter(-12),
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


    def test_plugins_inside_native_containers_are_not_taken_for_each_other(self) -> None:
        """pedalboard makes objects for them at every look, whose ids are free for others afterwards."""
        inside = Board([pedalboard.Chain([pedalboard.Gain(6), pedalboard.Gain(-3)]), pedalboard.Chain([pedalboard.Gain(-3)])])
        board = Board([inside, pedalboard.Chain([pedalboard.Gain(6)]), pedalboard.Mix([pedalboard.Gain(-6)])])
        x = noise(1000)
        for _ in range(3):
            np.testing.assert_allclose(board(x, RATE), x, rtol=1e-5)


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
    @pytest.mark.parametrize("name", ["chorus", "add_latency", "resample", "resample_odd", "brickwall", "mp3", "mix"])
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

    def test_the_host_may_reuse_its_block(self) -> None:
        x = noise(9000)
        for plugin, gain in ((AddLatency(100), 1), (pedalboard.Mix([None, AddLatency(100)]), 2)):
            board = Board([plugin])
            board.prepare(RATE)
            given = np.empty((1, 90), np.float32)
            outputs = []
            for start in range(0, 9000, 90):
                given[:] = x[:, start : start + 90]
                outputs.append(board.process_block(given))
                given.fill(9)
            y = np.concatenate(outputs, axis=1)
            np.testing.assert_allclose(y[:, board.latency_samples :], gain * x[:, : -board.latency_samples], atol=1e-6)

    def test_a_branch_of_a_mix_whose_latency_grows_takes_the_others_along(self) -> None:
        limiter = pedalboard.BrickwallLimiter(ceiling_db=0, lookahead_ms=1)
        board = Board([pedalboard.Mix([limiter, None])])
        board.prepare(RATE, 64)
        live(board, noise(6400), itertools.repeat(64))
        limiter.lookahead_ms = 10
        live(board, np.zeros((1, 6400), np.float32), itertools.repeat(64))
        assert board.latency_samples == 480
        x = noise(6400) * np.float32(0.1)
        y = live(board, x, itertools.repeat(64))
        np.testing.assert_allclose(y[:, 480:], 2 * x[:, :-480], atol=1e-6)

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


def delay(voice: str = "delay512", **settings: float) -> VoiceConverter:
    """A converter whose output is its input: all that can be seen of it is its latency."""
    return VoiceConverter(voice, stereo="each", **settings)  # type: ignore[arg-type]


CHAINS: dict[str, Callable[[VoiceConverter], tuple[list[object], list[pedalboard.Plugin]]]] = {
    "between": lambda vc: (
        [pedalboard.Compressor(-24, ratio=4), vc, pedalboard.Reverb()],
        [pedalboard.Compressor(-24, ratio=4), pedalboard.Reverb()],
    ),
    "with_latency": lambda vc: (
        [pedalboard.Resample(16_000), vc, pedalboard.Chorus(), AddLatency(100), pedalboard.Phaser()],
        [pedalboard.Resample(16_000), pedalboard.Chorus(), pedalboard.Phaser()],
    ),
    "nested": lambda vc: (
        [Board([pedalboard.Delay(0.01), Board([vc]), None]), pedalboard.Pedalboard([pedalboard.Chorus()])],
        [pedalboard.Delay(0.01), pedalboard.Chorus()],
    ),
    "alone": lambda vc: ([vc], []),
}


class TestWithConverters:
    """Our converter beside native plugins. The test voices give the input back, so that the native plugins alone say what
    must come out."""

    @pytest.mark.parametrize("channels", [1, 2])
    @pytest.mark.parametrize("chain", CHAINS)
    def test_whole_signals_and_streams(self, chain: str, channels: int) -> None:
        x = noise(20_000, channels)
        mixed, native = CHAINS[chain](delay())
        expected = pedalboard.Pedalboard(native)(x, RATE)
        board = Board(mixed)  # type: ignore[arg-type]
        np.testing.assert_allclose(board(x, RATE), expected, atol=1e-6)
        board.reset()
        start = streamed(board, x)
        assert start.shape[1] == x.shape[1] - board.latency_samples
        y = np.concatenate([start, board.flush()], axis=1)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("block", [1, 64, 441, 512, 1024, None])
    @pytest.mark.parametrize("chain", CHAINS)
    def test_live(self, chain: str, block: int | None) -> None:
        x = noise(3000 if block == 1 else 20_000, 2)
        mixed, native = CHAINS[chain](delay())
        expected = pedalboard.Pedalboard(native)(x, RATE)
        board = Board(mixed)  # type: ignore[arg-type]
        board.prepare(RATE, block, channels=2)
        latency = board.latency_samples
        y = live(board, x, varying() if block is None else itertools.repeat(block))
        assert board.latency_samples == latency
        assert not y[:, :latency].any()
        np.testing.assert_allclose(y[:, latency:], expected[:, : y.shape[1] - latency], rtol=0, atol=1e-6)

    @pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000, 96_000])
    @pytest.mark.parametrize("block", [64, 127, 512, None])
    def test_reported_latency_is_measured_latency(self, rate: int, block: int | None) -> None:
        """A pulse as wide as no resampler minds arrives exactly `latency_samples` late."""
        board = Board(
            [
                AddLatency(37),
                delay("delay512"),
                pedalboard.Mix([pedalboard.Gain(0), pedalboard.Chain([AddLatency(300), AddLatency(5)])]),
                Board([delay("delay480"), pedalboard.BrickwallLimiter(ceiling_db=0)]),
            ]
        )
        board.prepare(rate, block)
        latency = board.latency_samples
        assert latency == board.reported_latency_samples > 37 + 305
        assert board.lookahead_samples >= (256 + 96) * rate // 48_000
        center = 600
        n = np.arange(center + 2 * latency + 1000)
        pulse = 0.3 * np.exp(-0.5 * ((n - center) / 40) ** 2)
        y = live(board, pulse[None].astype(np.float32), varying() if block is None else itertools.repeat(block))[0]
        # The centre of gravity shows fractions of a sample as well.
        t = np.arange(y.size)
        assert float((t * y).sum() / y.sum()) - center == pytest.approx(latency, abs=0.01)

    def test_latency_of_the_model_itself(self) -> None:
        """At the model's own rate: its look-ahead, plus its chunk less gcd(block, chunk)."""
        for block, latency in ((512, 256), (1024, 256), (64, 704), (441, 767), (None, 767)):
            board = Board([pedalboard.Compressor(), delay("delay512"), pedalboard.Reverb()])
            board.prepare(RATE, block)
            assert board.latency_samples == latency
            assert board.lookahead_samples == 256
        assert Board([delay()]).latency_samples == delay().latency_samples

    @pytest.mark.parametrize("n", [0, 1, 2, 3, 255, 256, 257, 1000])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_signals_shorter_than_the_latency(self, n: int, channels: int) -> None:
        def board() -> Board:
            return Board([pedalboard.Resample(16_000), AddLatency(3), delay(), pedalboard.Gain(0)])

        x = noise(4000, channels)
        x[:, n:] = 0
        expected = board()(x, RATE)[:, :n]
        short = board()
        assert short.process(x[:, :4000], RATE, reset=True).shape == (channels, 4000)  # which axis is time
        y = short(x[:, :n], RATE)
        assert y.shape == (channels, n)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)
        short.reset()
        short.process(x[:, :0], RATE, reset=False)
        if n > channels:
            parts = [short.process(x[:, :n], RATE, reset=False), short.flush()]
            assert parts[0].shape[1] == max(0, n - short.latency_samples)
            np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, rtol=0, atol=1e-6)
        assert short.flush().size == 0

    def test_the_two_ways_to_stream_do_not_mix(self) -> None:
        """Each begins from its own start, with or without the silence before it."""
        x = noise(3000)
        board = Board([AddLatency(100), delay()])
        board.prepare(RATE)
        latency = board.latency_samples
        for _ in range(2):
            assert np.array_equal(board.process_block(x), np.pad(x, ((0, 0), (latency, 0)))[:, :3000])
            assert np.array_equal(board.process(x, RATE, reset=False), x[:, :-latency])

    def test_flush_without_a_stream(self) -> None:
        for board in (Board(), Board([delay()])):
            assert board.flush().size == 0
            for x in (noise(1000)[0], noise(1000), noise(1000, 2), noise(1000, 2).T):
                board(x, RATE)
                assert board.flush().shape == tuple(0 if n == 1000 else n for n in x.shape)

    def test_flush_ends_a_live_stream(self) -> None:
        x = noise(512 * 20)
        board = Board([AddLatency(30), delay()])
        board.prepare(RATE, 512)
        y = [live(board, x, itertools.repeat(512)), board.flush()]
        assert y[1].shape == (1, board.latency_samples)
        assert np.array_equal(np.concatenate(y, axis=1)[:, board.latency_samples :], x)
        # What follows begins from silence.
        assert np.array_equal(live(board, x, itertools.repeat(512))[:, board.latency_samples :], x[:, : -286])
        board.process_block(x[0, :512])
        assert board.flush().shape == (board.latency_samples,)

    def test_any_voice_may_follow_between_whole_signals(self) -> None:
        """Also one with more latency, which a stream under way has to refuse."""
        x = noise(5000)
        for nest in (lambda vc: [vc], lambda vc: [Board([vc])]):
            vc = delay("delay480")
            board = Board(nest(vc))
            for voice in ("delay480", "delay512", "rate16k", "delay480"):
                vc.voice = voice
                y = board(x, RATE)
                if voice != "rate16k":
                    np.testing.assert_allclose(y, x, atol=1e-7)
                assert board.latency_samples == vc.latency_samples
            board.prepare(RATE, 480)
            with pytest.raises(ValueError, match="needs a latency of 736 samples and the stream was prepared for 96"):
                vc.voice = "delay512"

    @pytest.mark.parametrize("rate", [RATE, 44_100])
    def test_a_converter_may_work_elsewhere_between_streams(self, rate: int) -> None:
        """By itself, or in another board; then it is made ready for this one again."""
        x, vc = noise(6000, 2), delay()
        board, other = Board([vc, pedalboard.Gain(-6)]), Board([vc])
        expected = board(x, RATE)
        for elsewhere in (
            lambda: vc(x[0], rate),
            lambda: np.concatenate([streamed(other, x, rate), other.flush()], axis=1),
            lambda: other.prepare(rate, 64),
        ):
            assert np.array_equal(np.concatenate([streamed(board, x), board.flush()], axis=1), expected)
            elsewhere()
        board.prepare(RATE, 480, 2)
        assert vc(x, rate).shape == x.shape and other(x, rate).shape == x.shape
        other.prepare(rate, 64)
        board.reset()
        y = live(board, np.pad(x, ((0, 0), (0, 6000))), itertools.repeat(480))
        assert np.array_equal(y[:, board.latency_samples :][:, :6000], expected)

    def test_any_voice_may_follow_between_streams_unless_a_latency_was_promised(self) -> None:
        x, vc = noise(6000), VoiceConverter("delay480")
        board = Board([vc])
        assert np.array_equal(np.concatenate([streamed(board, x), board.flush()], axis=1), x)
        assert board.latency_samples == 96 + 479
        vc.voice = "delay512"
        assert np.array_equal(np.concatenate([streamed(board, x), board.flush()], axis=1), x)
        assert board.latency_samples == 256 + 511
        vc.voice = "delay480"
        board.prepare(RATE)
        board.process_block(x)
        board.flush()
        with pytest.raises(ValueError, match="needs a latency of 767 samples and the stream was prepared for 575"):
            vc.voice = "delay512"

    def test_plugins_that_look_ahead_hear_the_ones_before_them_ring_on(self) -> None:
        """At the end of a whole signal as at the end of a stream."""
        x = noise(6000)
        board = Board([pedalboard.Delay(0.01, feedback=0.5), Board([pedalboard.Resample(8000)]), delay("rate16k")])
        whole = board(x, RATE)
        board.reset()
        y = np.concatenate([streamed(board, x), board.flush()], axis=1)
        np.testing.assert_allclose(y, whole, rtol=0, atol=1e-6)

    def test_nothing_of_one_signal_is_left_in_the_next(self) -> None:
        x = noise(6000)
        for board in (
            Board([delay(), pedalboard.Delay(0.05)]),
            Board([pedalboard.Mix([pedalboard.Resample(16_000), pedalboard.Delay(0.05)]), Board([delay()])]),
        ):
            first = board(x, RATE)
            streamed(board, noise(7000, seed=1))
            assert np.array_equal(board(x, RATE), first)
            board.prepare(RATE, 300)
            live(board, noise(6000, seed=2), itertools.repeat(300))
            board.reset()
            y = live(board, x, itertools.repeat(300))
            latency = board.latency_samples
            assert np.array_equal(y[:, latency:], first[:, :-latency])
            board.prepare(RATE, 300)
            assert np.array_equal(live(board, x, itertools.repeat(300)), y)


class TestEdits:
    def test_the_plugins_that_stay_keep_their_sound(self) -> None:
        echo = pedalboard.Delay(0.1, mix=1.0)
        extra = pedalboard.Gain(0)
        board = Board([echo])
        board.prepare(RATE, 480)
        x = noise(4800)
        live(board, x, itertools.repeat(480))
        nothing = np.zeros((1, 480), np.float32)
        edits: list[Callable[[], object]] = [
            lambda: board.append(extra),
            lambda: board.insert(0, pedalboard.Gain(0)),
            lambda: board.remove(extra),
            lambda: board.__setitem__(slice(0, 2), [board[1], board[0]]),
            lambda: board.append(pedalboard.Chain([pedalboard.Gain(0)])),
            lambda: board[2].append(pedalboard.Gain(0)),  # type: ignore[union-attr]
            lambda: board.append(Board([pedalboard.Gain(0)])),
            lambda: board[3].clear(),  # type: ignore[union-attr]
            lambda: board.__delitem__(slice(1, None)),
            lambda: None,
        ]
        out = []
        for edit in edits:
            out.append(board.process_block(nothing))
            edit()
        assert list(board) == [echo]
        np.testing.assert_allclose(np.concatenate(out, axis=1), x, atol=1e-6)

    def test_latency_follows_the_list(self) -> None:
        board = Board([delay()])
        board.prepare(RATE, 512)
        assert board.latency_samples == 256
        board.append(AddLatency(100))
        assert board.latency_samples == 356
        board.insert(0, delay("delay480"))
        x = noise(512 * 40)
        latency = board.latency_samples
        y = live(board, x, itertools.repeat(512))
        # 480 and 512 meet every 32 samples.
        assert latency == 356 + 96 + 480 - 32
        assert np.array_equal(y[:, latency:], x[:, :-latency])
        del board[0]
        assert board.latency_samples == 356
        y = live(board, x, itertools.repeat(512))
        assert np.array_equal(y[:, 1000:], x[:, 1000 - 356 : -356])

    def test_what_is_new_is_made_ready_by_the_thread_that_brings_it(self) -> None:
        """Not by the one that processes, which has no time."""
        ready_in = []

        class Slow(Board):
            def prepare(self, sample_rate: float, block_size: int | None = None, channels: int = 1) -> None:
                ready_in.append(threading.get_ident())
                super().prepare(sample_rate, block_size, channels)

        board = Board([pedalboard.Gain(0)])
        for block in (64, None):
            board.prepare(RATE, block)
            board.process_block(noise(64))
            slow = Slow([pedalboard.Resample(16_000)])
            thread = threading.Thread(target=board.append, args=[slow])
            thread.start()
            thread.join()
            board.process_block(noise(64))
            assert ready_in == [thread.ident]
            ready_in.clear()
            board.remove(slow)

    def test_a_plugin_that_joins_a_running_stream(self) -> None:
        x = noise(20_000)
        board = Board([delay()])
        board.process(x[:, :7000], RATE, reset=False)
        reverb = pedalboard.Reverb()
        board.append(reverb)
        start = 7000 - board.latency_samples
        y = [board.process(block, RATE, reset=False) for block in pieces(x[:, 7000:], varying())]
        y.append(board.flush())
        expected = pedalboard.Reverb()(x[:, start:], RATE)
        assert np.array_equal(np.concatenate(y, axis=1), expected)

    def test_a_plugin_taken_out_again_may_join_the_stream_that_began_meanwhile(self) -> None:
        x, vc = noise(6000), delay()
        board = Board()
        board(x, RATE)
        board.append(vc)
        board.remove(vc)
        assert np.array_equal(board.process(x, RATE, reset=False), x)
        board.append(vc)
        y = np.concatenate([board.process(x, RATE, reset=False), board.flush()], axis=1)
        assert np.array_equal(y, np.pad(x, ((0, 0), (vc.latency_samples, 0)))[:, -y.shape[1] :])

    def test_a_plugin_joins_while_another_thread_begins_another_stream(self) -> None:
        x, board = noise(1000), Board([delay()])
        board(x, RATE)

        class Late(Board):
            """In the list just when the stream of the board ends."""

            looks = 0

            def __iter__(self) -> Iterator[pedalboard.Plugin]:
                self.looks += 1
                if self.looks == 1:
                    with pytest.raises(ValueError, match="sample rate"):
                        board(x, 1000)
                return super().__iter__()

        board.append(Late())
        np.testing.assert_allclose(board(x, RATE), x, atol=1e-6)

    def test_a_rejected_stream_leaves_a_board_that_works(self) -> None:
        x = noise(6000)
        board = Board([pedalboard.Delay(0.01), delay()])
        first = board(x, RATE)
        for call in (lambda: board(x, 1000), lambda: board.prepare(500_000)):
            with pytest.raises(ValueError, match="sample rate must be between 8000 and 192000 Hz"):
                call()
        board.reset()
        assert np.array_equal(np.concatenate([streamed(board, x), board.flush()], axis=1), first)


class TestThreads:
    def test_boards_side_by_side_give_what_they_give_one_after_the_other(self) -> None:
        def board() -> Board:
            return Board([pedalboard.Chorus(), delay(), pedalboard.Reverb()])

        signals = [noise(20_000, 2, seed) for seed in range(8)]
        expected = [board()(x, RATE) for x in signals]
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda x: board()(x, RATE), signals))
            streams = list(pool.map(lambda x: streamed(board(), x), signals))
        for result, stream, whole in zip(results, streams, expected, strict=True):
            assert np.array_equal(result, whole)
            assert np.array_equal(stream, whole[:, : stream.shape[1]])

    def test_one_board_called_from_many_threads(self) -> None:
        board = Board([pedalboard.Delay(0.01), delay(), AddLatency(10)])
        x = noise(10_000)
        expected = board(x, RATE)
        with ThreadPoolExecutor(8) as pool:
            for result in pool.map(lambda _: board(x, RATE), range(16)):
                assert np.array_equal(result, expected)

    def test_plugins_shared_by_boards_in_any_order_do_not_lock_up(self) -> None:
        plugins = [pedalboard.Reverb() for _ in range(10)] + [delay() for _ in range(3)]
        rng = np.random.default_rng(0)
        boards = [Board(plugins), Board(plugins[::-1])]
        boards += [Board([plugins[i] for i in rng.permutation(len(plugins))]) for _ in range(6)]
        x = noise(5000)
        expected = boards[0](x, RATE)
        with ThreadPoolExecutor(len(boards)) as pool:
            futures = [pool.submit(board, x, RATE) for board in boards]
            for future in futures:
                np.testing.assert_allclose(future.result(timeout=60), expected, atol=1e-5)

    def test_the_list_changes_while_another_thread_processes(self) -> None:
        """Every plugin is transparent, so that whatever stands in the list the output is the input, late by its latency."""
        stay, inner = delay(), Board()
        board = Board([stay, inner])
        board.prepare(RATE, 64)
        stop = threading.Event()
        failures: list[BaseException] = []

        def edit() -> None:
            rng = np.random.default_rng(0)
            try:
                while not stop.is_set():
                    board.insert(int(rng.integers(len(board) + 1)), pedalboard.Gain(0))
                    board.append(pedalboard.Chain([pedalboard.Mix([pedalboard.Gain(0)]), None]))
                    inner[:] = [pedalboard.Gain(0), *inner[:2]]
                    assert board.latency_samples == stay.latency_samples
                    while len(board) > 5:
                        index = int(rng.integers(len(board)))
                        if board[index] not in (stay, inner):
                            del board[index]
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=edit)
        thread.start()
        x = noise(64 * 1500)
        try:
            y = live(board, x, itertools.repeat(64))
        finally:
            stop.set()
            thread.join()
        assert not failures
        latency = board.latency_samples
        np.testing.assert_allclose(y[:, latency:], x[:, :-latency], atol=1e-6)
