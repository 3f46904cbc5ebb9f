"""What Pedalboard's own tests ask of a plugin, asked of ours and of native ones alike.

Every processor here is transparent: its output is its input (at 48 kHz to the bit).
"""

import copy
import gc
import itertools
import pickle
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pedalboard
import pytest
from numpy.typing import NDArray
from pedalboard_native._internal import AddLatency

from plugin_bridge import Board, VoiceConverter

RATE = 48_000


def converter(**settings: Any) -> VoiceConverter:
    return VoiceConverter("delay512", stereo="each", **settings)


def mixed() -> Board:
    return Board([pedalboard.Gain(0), AddLatency(100), converter(), pedalboard.Chain([pedalboard.Gain(0)]), Board()])


OURS: dict[str, Callable[[], Any]] = {
    "VoiceConverter": converter,
    "Board of nothing": Board,
    "Board of a VoiceConverter": lambda: Board([converter()]),
    "Board of native plugins": lambda: Board([pedalboard.Gain(0), AddLatency(480)]),
    "Board of both": mixed,
}
ALL: dict[str, Callable[[], Any]] = {
    "native Gain": lambda: pedalboard.Gain(0),
    "native Pedalboard": lambda: pedalboard.Pedalboard([pedalboard.Gain(0), AddLatency(480)]),
    **OURS,
}

each = pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
each_of_ours = pytest.mark.parametrize("make", OURS.values(), ids=OURS.keys())


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.2).astype(np.float32)


def smooth_pulses(samples: int, rate: float) -> NDArray[np.float32]:
    """Pulses of 0.25 ms: there is nothing in them that a resampler to 48 kHz could not keep."""
    n = np.arange(samples)
    total = np.zeros(samples)
    for i, center in enumerate(np.linspace(0.1, 0.9, 7) * samples):
        total += (-0.8) ** i * np.exp(-0.5 * ((n - center) / (0.25e-3 * rate)) ** 2)
    return total.astype(np.float32)


class TestArrays:
    @each
    @pytest.mark.parametrize("shape", [(4410,), (4410, 1), (4410, 2), (1, 4410), (2, 4410), (1, 4), (2, 4)])
    @pytest.mark.parametrize("call", ["process", "__call__"])
    def test_the_output_is_a_new_array_like_the_input(
        self, make: Callable[[], Any], shape: tuple[int, ...], call: str
    ) -> None:
        x = noise(*shape)
        before = x.copy()
        y = getattr(make(), call)(x, RATE)
        assert y.shape == shape and y.dtype == np.float32 and y.flags.c_contiguous and y.flags.writeable
        assert not np.shares_memory(x, y)
        assert np.array_equal(x, before)
        np.testing.assert_allclose(y, x, atol=1e-7)

    @each
    def test_any_layout_of_memory_and_both_precisions(self, make: Callable[[], Any]) -> None:
        x = noise(2, 3000)
        read_only = x.copy()
        read_only.flags.writeable = False
        for view in (
            x.astype(np.float64),
            x.astype(">f4"),
            x.astype(">f8"),
            np.asfortranarray(x),
            np.repeat(x, 2, axis=1)[:, ::2],
            x[:, ::-1].copy()[:, ::-1],
            read_only,
        ):
            np.testing.assert_allclose(make()(view, RATE), x, atol=1e-7)
            np.testing.assert_allclose(make()(view.T, RATE), x.T, atol=1e-7)

    @each
    @pytest.mark.parametrize("dtype", ["f2", "i2", "i4", "u1", "bool", "complex64", "longdouble", "O", "U3"])
    def test_other_types_are_refused(self, make: Callable[[], Any], dtype: str) -> None:
        with pytest.raises(TypeError):
            make()(np.zeros(100, dtype), RATE)

    @each_of_ours
    @pytest.mark.parametrize("wrong", [None, [0.0, 1.0], (0.0,), "audio", 1.0, b"audio"])
    def test_what_is_no_array_is_refused(self, make: Callable[[], Any], wrong: object) -> None:
        with pytest.raises(TypeError, match="audio must be a numpy array, got "):
            make()(wrong, RATE)

    @each
    @pytest.mark.parametrize("shape", [(), (1, 2, 3), (1, 1, 1)])
    def test_one_or_two_dimensions(self, make: Callable[[], Any], shape: tuple[int, ...]) -> None:
        with pytest.raises(RuntimeError, match="Number of input dimensions must be 1 or 2"):
            make()(np.zeros(shape, np.float32), RATE)

    @each
    @pytest.mark.parametrize("shape", [(0,), (5, 0), (0, 5), (0, 1), (1, 0)])
    def test_empty_arrays_keep_their_shape(self, make: Callable[[], Any], shape: tuple[int, ...]) -> None:
        for reset in (True, False):
            assert make().process(np.zeros(shape, np.float32), RATE, reset=reset).shape == shape

    @each
    def test_one_by_one(self, make: Callable[[], Any]) -> None:
        np.testing.assert_allclose(make()(np.full((1, 1), 0.5, np.float32), RATE), [[0.5]], atol=1e-7)

    @each
    def test_a_square_needs_an_array_before_it_that_tells_the_axes_apart(self, make: Callable[[], Any]) -> None:
        square = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)
        processor = make()
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"shape: \(2, 2\).*Provide a non-square array first"):
                processor(square, RATE)
            for hint in (noise(2, 1024), noise(1024, 2)):
                processor(hint, RATE)
                np.testing.assert_allclose(processor(square, RATE), square, atol=1e-7)
            processor.reset()

    @each
    @pytest.mark.parametrize("hint", [(2, 0), (0, 2)])
    def test_an_empty_array_tells_the_axes_apart(self, make: Callable[[], Any], hint: tuple[int, int]) -> None:
        """Then squares flow as a stream: with axis 0 or axis 1 for the samples as the hint said."""
        processor = make()
        processor.process(np.zeros(hint, np.float32), RATE, reset=False)
        time_axis = hint.index(0)
        x = noise(2, 4000) if time_axis else noise(4000, 2)
        parts = [
            processor.process(part, RATE, reset=False)
            for part in np.split(x, 2000, axis=time_axis)
        ]
        y = np.concatenate(parts, axis=time_axis)
        assert 2000 < y.shape[time_axis] <= 4000
        np.testing.assert_allclose(y, np.split(x, [y.shape[time_axis]], axis=time_axis)[0], atol=1e-7)
        processor.reset()
        with pytest.raises(RuntimeError, match="Provide a non-square array first"):
            processor.process(np.zeros((2, 2), np.float32), RATE)

    @each
    def test_three_frames_at_a_time(self, make: Callable[[], Any]) -> None:
        """17 frames in reads of 3, the last of 2, in two channels."""
        x = noise(2, 17)
        processor = make()
        parts = [processor(x[:, start : start + 3], RATE) for start in range(0, 17, 3)]
        np.testing.assert_allclose(np.concatenate(parts, axis=1), x, atol=1e-7)


class TestArguments:
    @each
    @pytest.mark.parametrize("rate", [None, "44100", [44_100], 1j])
    def test_a_rate_is_a_number(self, make: Callable[[], Any], rate: object) -> None:
        with pytest.raises(TypeError):
            make()(noise(100), rate)

    @each_of_ours
    @pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), -float("inf")])
    def test_a_rate_is_finite_and_positive(self, make: Callable[[], Any], rate: float) -> None:
        """Native plugins take any."""
        for call in (make().process, lambda x, rate: make().prepare(rate)):
            with pytest.raises(ValueError, match="rate must be "):
                call(noise(100), rate)

    @each
    @pytest.mark.parametrize("buffer_size", [None, "8192", 1.5])
    def test_a_buffer_size_is_a_whole_number(self, make: Callable[[], Any], buffer_size: object) -> None:
        with pytest.raises(TypeError):
            make()(noise(100), RATE, buffer_size)

    @each_of_ours
    @pytest.mark.parametrize("buffer_size", [0, -1])
    def test_a_buffer_size_is_positive(self, make: Callable[[], Any], buffer_size: int) -> None:
        """A native plugin never returns when it is 0."""
        with pytest.raises(ValueError, match=f"buffer_size must be at least 1, got {buffer_size}"):
            make()(noise(100), RATE, buffer_size)

    @each
    def test_rates_and_sizes_of_numpy(self, make: Callable[[], Any]) -> None:
        x = noise(1000)
        y = make().process(x, sample_rate=np.float32(RATE), buffer_size=np.int64(64), reset=True)
        np.testing.assert_allclose(y, x, atol=1e-7)
        np.testing.assert_allclose(make()(x, np.int32(RATE)), x, atol=1e-7)

    @each
    def test_it_is_an_effect(self, make: Callable[[], Any]) -> None:
        processor = make()
        assert processor.is_effect is True and processor.is_instrument is False
        for name in ("is_effect", "is_instrument"):
            with pytest.raises(AttributeError):
                setattr(processor, name, False)

    @pytest.mark.parametrize(
        ("plugin", "name", "outside", "text"),
        [
            (lambda: pedalboard.PitchShift(), "semitones", (-73, 73), "between -72st and 72st"),
            (converter, "pitch_shift", (-24.1, 24.1), "must be between -24 and 24 semitones, got -?24.1"),
            (converter, "formant_shift", (-12.1, 12.1), "must be between -12 and 12 semitones"),
            (converter, "mix", (-0.1, 1.1), "must be between 0 and 1"),
            (converter, "gain_db", (-61, 25), "must be between -60 and 24 dB"),
            (converter, "gate_db", (-91, 1), "must be between -90 and 0 dB"),
        ],
    )
    def test_parameters_have_a_range(
        self, plugin: Callable[[], Any], name: str, outside: tuple[float, float], text: str
    ) -> None:
        processor = plugin()
        before = getattr(processor, name)
        for value in outside:
            with pytest.raises(ValueError, match=text):
                setattr(processor, name, value)
        with pytest.raises(TypeError):
            setattr(processor, name, "loud")
        assert getattr(processor, name) == before
        with pytest.raises(AttributeError):
            processor.no_such_parameter = 1

    @each
    def test_identity(self, make: Callable[[], Any]) -> None:
        processor = make()
        assert processor == processor and processor != make() and len({processor, processor}) == 1
        for clone in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot pickle"):
                clone(processor)

    def test_repr(self) -> None:
        vc = converter(pitch_shift=3)
        assert repr(vc).startswith("<plugin_bridge.VoiceConverter") and "pitch_shift=3.0" in repr(vc)
        assert repr(Board([vc])) == f"<Board with 1 plugin: [{vc!r}]>"


class TestTime:
    @each
    @pytest.mark.parametrize("rate", [22_050, 44_100, 96_000])
    @pytest.mark.parametrize("buffer_size", [128, 8192, 65_536])
    @pytest.mark.parametrize("seconds", [0.05, 0.3])
    def test_latency_is_compensated(
        self, make: Callable[[], Any], rate: int, buffer_size: int, seconds: float
    ) -> None:
        x = smooth_pulses(int(seconds * rate), rate)
        y = make()(x, rate, buffer_size=buffer_size)
        # What the edges of the signal cut off is not smooth, and a resampler may not keep it.
        inside = slice(x.size // 20, -x.size // 20)
        assert y.shape == x.shape
        np.testing.assert_allclose(y[inside], x[inside], atol=2e-3)

    @each
    @pytest.mark.parametrize("channels", [1, 2])
    def test_the_buffer_size_changes_nothing(self, make: Callable[[], Any], channels: int) -> None:
        x = noise(channels, 3000)
        expected = make()(x, 44_100)
        for buffer_size in (1, 7, 64, 65, 128, 480, 8192, 8193, 1_000_000):
            assert np.array_equal(make()(x, 44_100, buffer_size=buffer_size), expected)

    @each
    @pytest.mark.parametrize("n", [1, 4, 256, 8192])
    def test_a_stream_is_the_signal_without_its_last_samples(self, make: Callable[[], Any], n: int) -> None:
        x = noise(1, 2000 if n < 100 else 30_000)
        expected = make()(x, RATE)
        processor = make()
        parts = []
        for start in range(0, x.shape[1], n):
            block = x[:, start : start + n]
            parts.append(processor.process(block, RATE, reset=False))
            assert parts[-1].shape[1] <= block.shape[1]
        y = np.concatenate(parts, axis=1)
        assert np.array_equal(y, expected[:, : y.shape[1]])
        if isinstance(processor, (VoiceConverter, Board)):
            assert x.shape[1] - y.shape[1] == processor.latency_samples
            assert np.array_equal(np.concatenate([y, processor.flush()], axis=1), expected)

    @each
    def test_the_same_again_after_reset(self, make: Callable[[], Any]) -> None:
        x, other = noise(2, 5000), noise(2, 3000, seed=1)
        processor = make()
        first = processor(x, 44_100)
        processor(other, 44_100)
        assert np.array_equal(processor(x, 44_100), first)
        processor.process(other, 44_100, reset=False)
        assert np.array_equal(processor(x, 44_100), first)
        processor.process(other, 44_100, reset=False)
        processor.reset()
        y = processor.process(x, 44_100, reset=False)
        assert np.array_equal(y, first[:, : y.shape[1]])

    @each
    def test_channels_and_rate_may_change_from_call_to_call(self, make: Callable[[], Any]) -> None:
        processor = make()
        shapes = [(1000,), (2, 1000), (1000, 1), (3, 1000), (1000, 8)]
        for shape, rate, reset in itertools.product(shapes, [RATE, 16_000], [True, False]):
            x = noise(*shape)
            y = processor.process(x, rate, reset=reset)
            assert y.shape == shape if reset else y.size <= x.size
            if rate == RATE and reset:
                np.testing.assert_allclose(y, x, atol=1e-7)


TAILS: dict[str, Callable[[], Any]] = {
    "native Reverb": pedalboard.Reverb,
    "native Pedalboard": lambda: pedalboard.Pedalboard([pedalboard.Reverb()]),
    "VoiceConverter": lambda: VoiceConverter("accumulator"),
    "Board of a Reverb": lambda: Board([pedalboard.Reverb()]),
    "Board of both": lambda: Board([converter(), pedalboard.Reverb()]),
    "Board of Boards": lambda: Board([Board([pedalboard.Reverb()])]),
}
each_tail = pytest.mark.parametrize("make", TAILS.values(), ids=TAILS.keys())


class TestState:
    """State is kept from call to call with reset=False alone."""

    @each_tail
    @pytest.mark.parametrize("reset", [True, False])
    def test_between_calls(self, make: Callable[[], Any], reset: bool) -> None:
        loud, silence = np.abs(noise(RATE)), np.zeros(RATE, np.float32)
        processor = make()
        assert np.abs(processor(silence, RATE)).max() == 0
        assert np.abs(processor.process(loud, RATE, reset=reset)).max() > 0.1
        tail = np.abs(processor.process(silence, RATE, reset=reset)).max()
        assert tail == 0 if reset else tail > 0.05

    @each_tail
    @pytest.mark.parametrize("sizes", [[8192], [64] * 128, [1, 8191]])
    def test_with_smaller_blocks_and_larger_ones(self, make: Callable[[], Any], sizes: list[int]) -> None:
        """How a tail sounds does not depend on the blocks it comes in. In native plugins a longer block ends it."""
        loud, silence = np.abs(noise(4096)), np.zeros(8192, np.float32)
        processor = make()
        if isinstance(processor, pedalboard.Plugin) and max(sizes) > loud.size:
            pytest.skip("native plugins forget their state here")
        whole = processor(np.concatenate([loud, silence]), RATE)
        processor.reset()
        parts = [processor.process(loud, RATE, reset=False)]
        parts += [processor.process(silence[:size], RATE, reset=False) for size in sizes]
        y = np.concatenate(parts)
        np.testing.assert_allclose(y, whole[: y.size], atol=1e-6)

    @pytest.mark.parametrize("name", ["native Reverb", "VoiceConverter", "Board of a Reverb", "Board of both"])
    def test_after_a_whole_signal(self, name: str) -> None:
        processor = TAILS[name]()
        processor(np.abs(noise(RATE)), RATE)
        tail = processor.process(np.zeros(4800, np.float32), RATE, reset=False)
        assert np.abs(tail).max() > 0.02
        processor.reset()
        assert not processor.process(np.zeros(4800, np.float32), RATE, reset=False).any()


class TestStreamsAfterOtherCalls:
    """The pieces of a stream are in time with the input, whatever the processor was used for before."""

    @pytest.mark.parametrize("make", [lambda: VoiceConverter("delay512", bypass=True), lambda: Board([converter(bypass=True)])])
    @pytest.mark.parametrize("before", ["a whole signal", "live blocks", "nothing to convert"])
    def test_are_in_time(self, make: Callable[[], Any], before: str) -> None:
        x, processor = noise(24_000), make()
        if before == "a whole signal":
            processor(noise(RATE), RATE)
        elif before == "live blocks":
            processor.prepare(RATE)
            processor.process_block(noise(1, 5000))
        else:
            processor.process(noise(5000), RATE, reset=False)
            assert processor(np.zeros(0, np.float32), RATE).size == 0
        pieces = [processor.process(piece, RATE, reset=False) for piece in np.split(x, [7, 300, 9000])]
        y = np.concatenate([*pieces, processor.flush()])
        assert len(y) == len(x)
        # Bypass comes in with a short fade.
        np.testing.assert_allclose(y[4800:], x[4800:], atol=1e-6)


class TestContainers:
    """Pedalboard's tests of chains and mixes, with a Board around them."""

    def test_nested_gains(self) -> None:
        x = noise(2, 5000)

        def gains(db: float, count: int) -> list[pedalboard.Plugin]:
            return [pedalboard.Gain(db) for _ in range(count)]

        y = Board([pedalboard.Gain(6), pedalboard.Mix(gains(-6, 2)), pedalboard.Gain(-6)])(x, RATE)
        np.testing.assert_allclose(y, x, rtol=0.01)
        for container in (pedalboard.Chain, pedalboard.Pedalboard):
            up = pedalboard.Mix([container(gains(1, 6)), container(gains(1, 6))])
            down = pedalboard.Mix([container(gains(-1, 24)), container(gains(-1, 24))])
            # +6 dB twice is +12 dB, -24 dB twice -18 dB.
            np.testing.assert_allclose(Board([up, down])(x, RATE), x * 0.5, rtol=0.01)
            down = Board([Board(gains(-1, 3)), Board([Board(gains(-1, 3))])])
            np.testing.assert_allclose(Board([up, down])(x, RATE), x * 2, rtol=0.01)

    @pytest.mark.parametrize("rate", [22_050, 48_000])
    @pytest.mark.parametrize("buffer_size", [128, 65_536])
    @pytest.mark.parametrize(("a", "b"), [(0.25, 2), (1, 0.25), (10, 0.25)])
    def test_latencies_longer_than_the_signal(self, rate: int, buffer_size: int, a: float, b: float) -> None:
        x = noise(1, rate // 2)

        def late(seconds: float) -> AddLatency:
            return AddLatency(int(seconds * rate))

        y = Board([pedalboard.Mix([late(a), late(b)])])(x, rate, buffer_size=buffer_size)
        np.testing.assert_allclose(y, x * 2, rtol=0.01)
        chain = Board([pedalboard.Chain([late(a), late(b)]), Board([late(b)])])
        assert np.array_equal(chain(x, rate, buffer_size=buffer_size), x)

    @pytest.mark.parametrize("inside", [[], [None], [None, None]])
    def test_nothing_is_transparent(self, inside: list[None]) -> None:
        x = noise(2, 1000)
        board = Board(inside)
        assert len(board) == len(inside)
        assert np.array_equal(board(x, RATE), x)
        assert np.array_equal(board.process(x, RATE, reset=False), x)
        board.prepare(RATE, 1000, channels=2)
        assert np.array_equal(board.process_block(x), x)

    @pytest.mark.parametrize("buffer_size", [128, 8192])
    def test_the_example_of_pedalboards_readme(self, buffer_size: int) -> None:
        """PitchShift needs what comes after the end of the signal: the echoes of the Delay before it."""

        def boards() -> list[Any]:
            shifted = pedalboard.Pedalboard(
                [pedalboard.Delay(0.05, mix=1.0), pedalboard.PitchShift(7), pedalboard.Gain(-3)]
            )
            higher = pedalboard.Chain([pedalboard.Delay(0.1, mix=1.0), pedalboard.PitchShift(12), pedalboard.Gain(-6)])
            return [
                pedalboard.Compressor(),
                pedalboard.Mix(
                    [
                        pedalboard.Pedalboard([pedalboard.Gain(0), pedalboard.Distortion(36)]),
                        pedalboard.Pedalboard([shifted, pedalboard.Reverb(1)]),
                        higher,
                    ]
                ),
                pedalboard.Reverb(),
            ]

        x = noise(RATE // 2)
        y = Board(boards())(x, RATE, buffer_size=buffer_size)
        expected = pedalboard.Pedalboard(boards())(x, RATE, buffer_size=buffer_size)
        np.testing.assert_allclose(y, expected, atol=1e-5)


class TestUse:
    @each
    def test_ten_at_once_give_what_one_gives_ten_times(self, make: Callable[[], Any]) -> None:
        signals = [noise(2, 5000, seed=seed) for seed in range(10)]
        expected = [make()(x, 44_100) for x in signals]
        with ThreadPoolExecutor(10) as pool:
            results = list(pool.map(lambda x: make()(x, 44_100), signals))
        assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))

    @each_of_ours
    def test_nothing_keeps_it_alive(self, make: Callable[[], Any]) -> None:
        processor = make()
        processor(noise(2, 1000), RATE)
        processor.prepare(RATE, 64)
        processor.process_block(noise(64))
        gone = weakref.ref(processor)
        del processor
        gc.collect()
        assert gone() is None

    def test_a_board_lets_go_of_what_is_taken_out(self) -> None:
        board = Board([pedalboard.Gain(0), converter()])
        board(noise(1000), RATE)
        gone = weakref.ref(board[1])
        del board[1]
        board(noise(1000), RATE)
        gc.collect()
        assert gone() is None
