"""What pluginval, Steinberg's validator and clap-validator ask of a plugin, asked of our processors."""

import itertools
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pedalboard
import pytest
from numpy.typing import NDArray

from plugin_bridge import Board, VoiceConverter
from plugin_bridge.parameters import PARAMETERS

Audio = NDArray[np.float32]

PROCESSORS: dict[str, Callable[[], Any]] = {
    "converter": lambda: VoiceConverter("delay512"),
    "converter at 16 kHz": lambda: VoiceConverter("rate16k", stereo="each", mix=0.5, gate_db=-60),
    "bank": lambda: VoiceConverter({"bank_a": 0.5, "bank_b": 0.5}, pitch_shift=3, formant_shift=-2),
    "board": lambda: Board([pedalboard.Compressor(), VoiceConverter("delay512"), pedalboard.Reverb()]),
    "deep board": lambda: Board(
        [
            pedalboard.Chorus(),
            pedalboard.Mix([pedalboard.Resample(16_000), None]),
            Board([VoiceConverter("bank_a"), pedalboard.LadderFilter()]),
            pedalboard.Delay(0.01, feedback=0.4),
        ]
    ),
}
each = pytest.mark.parametrize("make", PROCESSORS.values(), ids=PROCESSORS.keys())

CANARY = np.float32(-12345.0)


def noise(samples: int, channels: int = 2, seed: int = 0) -> Audio:
    return np.random.default_rng(seed).uniform(-1, 1, (channels, samples)).astype(np.float32)


def random_sizes(total: int, largest: int = 2048, seed: int = 0) -> list[int]:
    """clap-validator's: one in five is a single sample."""
    rng = np.random.default_rng(seed)
    sizes = []
    while total:
        size = 1 if rng.random() < 0.2 else int(rng.integers(1, largest + 1))
        sizes.append(min(size, total))
        total -= sizes[-1]
    return sizes


def assert_sound(y: Audio) -> None:
    """No NaN, no infinity, no subnormal number, nothing left unwritten."""
    size = np.abs(y)
    assert np.isfinite(y).all()
    assert not ((size > 0) & (size < np.finfo(np.float32).tiny)).any()
    assert not (y == CANARY).any()


def run(processor: Any, x: Audio, sizes: Iterable[int]) -> Audio:
    """Through `process_block`, into the middle of a buffer, every block checked. What fills no block is left out."""
    whole = np.empty_like(x)
    start = 0
    for size in sizes:
        if start + size > x.shape[1]:
            break
        block = x[:, start : start + size]
        before = block.copy()
        buffer = np.full((x.shape[0], size + 16), CANARY)
        out = buffer[:, 8:-8]
        assert processor.process_block(block, out) is out
        assert (buffer[:, :8] == CANARY).all() and (buffer[:, -8:] == CANARY).all(), "written outside of the block"
        assert np.array_equal(block, before, equal_nan=True), "the input was changed"
        assert_sound(out)
        whole[:, start : start + size] = out
        start += size
    assert start > 0
    return whole[:, :start]


def parameters_of(processor: Any) -> list[tuple[Any, str, tuple[Any, ...]]]:
    """Everything that can be turned: object, property, values from minimum to maximum."""
    if isinstance(processor, Board):
        return [turn for plugin in processor for turn in parameters_of(plugin)]
    if isinstance(processor, VoiceConverter):
        turns: list[tuple[Any, str, tuple[Any, ...]]] = []
        for parameter in PARAMETERS.values():
            if parameter.kind == "number":
                low, high = parameter.minimum, parameter.maximum
                turns.append((processor, parameter.name, (low, low + (high - low) / 3, parameter.default, high)))
            elif parameter.kind == "switch":
                turns.append((processor, parameter.name, (False, True)))
            elif isinstance(processor.voice, dict) or processor.voice.startswith("bank"):
                turns.append((processor, "voice", ("bank_a", "bank_b", {"bank_a": 1, "bank_b": 3}, "delay512")))
            else:
                turns.append((processor, "voice", (processor.voice,)))
        return turns
    if isinstance(processor, pedalboard.Compressor):
        return [(processor, "threshold_db", (-60, -20, 0)), (processor, "ratio", (1, 4, 20))]
    if isinstance(processor, pedalboard.Reverb):
        return [(processor, "room_size", (0, 0.5, 1)), (processor, "wet_level", (0, 1))]
    if isinstance(processor, pedalboard.Delay):
        return [(processor, "delay_seconds", (0, 0.001, 0.5)), (processor, "mix", (0, 1))]
    return []


def turn_some(processor: Any, rng: np.random.Generator, count: int) -> None:
    turns = parameters_of(processor)
    for _ in range(count):
        owner, name, values = turns[rng.integers(len(turns))]
        setattr(owner, name, values[rng.integers(len(values))])


class TestProcessing:
    @each
    @pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
    @pytest.mark.parametrize("block", [64, 128, 256, 512, 1024])
    def test_noise_at_common_rates_and_blocks(self, make: Callable[[], Any], rate: int, block: int) -> None:
        processor = make()
        processor.prepare(rate, block, channels=2)
        y = run(processor, noise(10 * max(block, processor.latency_samples)), itertools.repeat(block))
        assert np.abs(y).max() > 0.05

    @each
    @pytest.mark.parametrize("block", [1, 256, 1024, 4096, 16_384, 1536, 10, 17, 2027])
    def test_odd_blocks(self, make: Callable[[], Any], block: int) -> None:
        processor = make()
        processor.prepare(48_000, block, channels=1)
        run(processor, noise(3 * block if block > 100 else 500 // block * block, 1), itertools.repeat(block))

    @each
    @pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 32_000, 44_100.5, 47_999.9, 88_200, 176_400, 192_000])
    def test_varying_rates(self, make: Callable[[], Any], rate: float) -> None:
        processor = make()
        processor.prepare(rate, None, channels=2)
        y = run(processor, noise(n := 8000 + processor.latency_samples), random_sizes(n))
        assert np.abs(y).max() > 0.01

    @each
    @pytest.mark.parametrize("rate", [1000, 1234.5678, 7999.9, 192_000.1, 768_000])
    def test_rates_that_are_not_ours_are_refused_and_do_no_harm(self, make: Callable[[], Any], rate: float) -> None:
        processor, x = make(), noise(4000)
        expected = make()(x, 48_000)
        for call in (
            lambda: processor.prepare(rate),
            lambda: processor(x, rate),
            lambda: processor.process(x, rate, reset=False),
        ):
            with pytest.raises(ValueError, match=r"rate must be between 8000 and 192000 Hz, got \d"):
                call()
        assert np.array_equal(processor(x, 48_000), expected)

    @each
    def test_random_blocks_are_the_same_audio(self, make: Callable[[], Any]) -> None:
        x = noise(20_000)
        outputs = []
        for seed in range(3):
            processor = make()
            processor.prepare(48_000, None, channels=2)
            outputs.append(run(processor, x, random_sizes(20_000, seed=seed)))
        np.testing.assert_allclose(outputs[1], outputs[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(outputs[2], outputs[0], rtol=0, atol=1e-6)

    @each
    def test_blocks_twice_as_long_as_prepared(self, make: Callable[[], Any]) -> None:
        x = noise(512 * 20)
        single, double = make(), make()
        single.prepare(48_000, 512, channels=2)
        double.prepare(48_000, 512, channels=2)
        y = run(single, x, itertools.repeat(512))
        assert np.array_equal(run(double, x, itertools.repeat(1024)), y)

    @each
    def test_blocks_that_were_not_prepared_for_are_refused_and_do_no_harm(self, make: Callable[[], Any]) -> None:
        x = noise(512 * 10)
        clean, disturbed = make(), make()
        for processor in (clean, disturbed):
            with pytest.raises(RuntimeError, match="prepare"):
                processor.process_block(x)
            processor.prepare(48_000, 512, channels=2)
        expected = run(clean, x, itertools.repeat(512))
        parts = []
        for start in range(0, x.shape[1], 512):
            for wrong in (noise(511), noise(1), noise(512, 1), noise(512, 3), noise(512, 1)[0], noise(512)[None]):
                with pytest.raises(ValueError, match=r"block must have .* as prepared.*, got"):
                    disturbed.process_block(wrong)
            block = x[:, start : start + 512]
            for array in (block.astype(np.int32), block.tolist(), None):
                with pytest.raises(TypeError):
                    disturbed.process_block(array)
            for out in (np.empty((2, 512)), [0.0]):
                with pytest.raises(TypeError, match="out must be a float32 array"):
                    disturbed.process_block(block, out)
            with pytest.raises(ValueError, match="out must be writeable"):
                disturbed.process_block(block, np.empty((2, 511), np.float32))
            parts.append(disturbed.process_block(block))
        assert np.array_equal(np.concatenate(parts, axis=1), expected)

    @each
    def test_in_place_and_in_double_precision(self, make: Callable[[], Any]) -> None:
        x = noise(512 * 10)
        outputs = []
        for how in ("apart", "in place", "double"):
            processor = make()
            processor.prepare(44_100, 512, channels=2)
            parts = []
            for start in range(0, x.shape[1], 512):
                block = x[:, start : start + 512].copy()
                if how == "in place":
                    assert processor.process_block(block, block) is block
                    parts.append(block)
                else:
                    parts.append(processor.process_block(block.astype(np.float64) if how == "double" else block))
                    assert parts[-1].dtype == np.float32
            outputs.append(np.concatenate(parts, axis=1))
        assert np.array_equal(outputs[0], outputs[1]) and np.array_equal(outputs[0], outputs[2])

    @each
    def test_earlier_blocks_do_not_change_afterwards(self, make: Callable[[], Any]) -> None:
        """The host may keep what it got, and reuse what it gave."""
        processor = make()
        processor.prepare(48_000, None, channels=2)
        given = np.empty((2, 700), np.float32)
        parts, copies = [], []
        x = noise(700 * 8)
        for start in range(0, x.shape[1], 700):
            given[:] = x[:, start : start + 700]
            parts.append(processor.process_block(given))
            copies.append(parts[-1].copy())
            given.fill(np.nan)
        assert np.array_equal(np.concatenate(parts, axis=1), np.concatenate(copies, axis=1))
        whole = make()
        whole.prepare(48_000, None, channels=2)
        np.testing.assert_allclose(np.concatenate(parts, axis=1), run(whole, x, [5600]), rtol=0, atol=1e-6)


class TestHostileAudio:
    @each
    def test_silence_gives_silence(self, make: Callable[[], Any]) -> None:
        processor = make()
        processor.prepare(44_100, None, channels=2)
        assert not run(processor, np.zeros((2, 20_000), np.float32), random_sizes(20_000)).any()
        assert not processor(np.zeros((2, 20_000), np.float32), 44_100).any()

    @pytest.mark.parametrize("voice", ["delay512", "rate16k", "bank_a"])
    def test_silence_after_the_declared_tail(self, voice: str) -> None:
        """After the last sample: the latency, then what a model and two resamplers remember, then nothing."""
        processor = VoiceConverter(voice)
        processor.prepare(44_100, 441, channels=1)
        run(processor, noise(44_100, 1), itertools.repeat(441))
        run(processor, np.zeros((1, 4410), np.float32), itertools.repeat(441))
        assert not run(processor, np.zeros((1, 4410), np.float32), itertools.repeat(441)).any()

    @each
    def test_subnormal_input(self, make: Callable[[], Any]) -> None:
        processor = make()
        processor.prepare(48_000, None, channels=2)
        run(processor, noise(20_000) * np.float32(1e-38), random_sizes(20_000, 1024))
        run(processor, np.full((2, 20_000), 1e-45, np.float32), random_sizes(20_000, 1024))

    @each
    def test_a_long_decay_has_no_subnormal_end(self, make: Callable[[], Any]) -> None:
        processor = make()
        processor.prepare(48_000, 4096, channels=1)
        run(processor, noise(4096, 1), [4096])
        run(processor, np.zeros((1, 4096 * 60), np.float32), itertools.repeat(4096))

    @each
    @pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_like_silence(self, make: Callable[[], Any], poison: float) -> None:
        x = noise(6000)
        x[:, 1000:1003] = 0
        x[1, 2000:2500] = 0
        bad = x.copy()
        bad[0, 1000], bad[1, 1001], bad[:, 1002] = poison, -poison, poison
        bad[1, 2000:2500] = np.nan
        clean, poisoned = make(), make()
        if not np.isnan(poison):
            # A converter takes infinity for very loud; afterwards all must be as before.
            y = poisoned(bad, 48_000)
            assert_sound(y)
            assert np.array_equal(poisoned(x, 48_000), clean(x, 48_000))
            return
        for processor in (clean, poisoned):
            processor.prepare(48_000, None, channels=2)
        y = run(poisoned, bad, random_sizes(6000, 512))
        np.testing.assert_allclose(y, run(clean, x, random_sizes(6000, 512)), rtol=0, atol=1e-6)

    @each
    @pytest.mark.parametrize("loud", [16.0, 1e4, 1e33, 3e38])
    def test_what_is_too_loud_ends(self, make: Callable[[], Any], loud: float) -> None:
        processor, fresh = make(), make()
        for each_of_both in (processor, fresh):
            each_of_both.prepare(48_000, 512, channels=2)
        x = noise(512 * 4) * np.float32(loud)
        run(processor, x, itertools.repeat(512))
        processor.reset()
        y = noise(512 * 10, seed=1)
        assert np.array_equal(run(processor, y, itertools.repeat(512)), run(fresh, y, itertools.repeat(512)))


class TestLife:
    @each
    def test_reset_and_prepare_begin_anew(self, make: Callable[[], Any]) -> None:
        processor = make()
        x = noise(300 * 20)
        processor.prepare(48_000, 300, channels=2)
        latency = processor.latency_samples
        first = run(processor, x, itertools.repeat(300))
        for again in (
            processor.reset,
            lambda: processor.prepare(48_000, 300, channels=2),
            lambda: (processor.reset(), processor.reset()),
            lambda: (processor(noise(3000), 48_000), processor.prepare(48_000, 300, 2)),
            lambda: (processor.prepare(22_050, 17, 1), processor.prepare(48_000, 300, 2)),
            lambda: (processor.flush(), processor.prepare(48_000, 300, 2)),
            processor.flush,
        ):
            again()
            assert processor.latency_samples == latency
            assert np.array_equal(run(processor, x, itertools.repeat(300)), first)

    @each
    def test_rate_and_block_change_without_a_reset(self, make: Callable[[], Any]) -> None:
        processor = make()
        for rate, block in itertools.product((44_100, 48_000, 96_000), (64, 127, 512)):
            processor.prepare(rate, block, channels=2)
            y = run(processor, noise(block * 3), itertools.repeat(block))
            fresh = make()
            fresh.prepare(rate, block, channels=2)
            assert fresh.latency_samples == processor.latency_samples
            assert np.array_equal(run(fresh, noise(block * 3), itertools.repeat(block)), y)

    @each
    def test_another_thread_prepares_another_one_processes(self, make: Callable[[], Any]) -> None:
        x = noise(512 * 10)
        expected, processor = make(), make()
        expected.prepare(48_000, 512, channels=2)
        y = run(expected, x, itertools.repeat(512))
        results: list[Audio] = []
        for job in (
            lambda: processor.prepare(48_000, 512, channels=2),
            lambda: results.append(run(processor, x, itertools.repeat(512))),
        ):
            thread = threading.Thread(target=job)
            thread.start()
            thread.join()
        assert np.array_equal(results[0], y)


class TestParameters:
    def test_the_table(self) -> None:
        assert list(PARAMETERS) == [parameter.name for parameter in PARAMETERS.values()]
        assert len({parameter.osc for parameter in PARAMETERS.values()}) == len(PARAMETERS)
        assert [name for name in PARAMETERS if name == "bypass"] == ["bypass"]
        fresh = VoiceConverter("delay512")
        for name, parameter in PARAMETERS.items():
            assert parameter.description
            if parameter.kind == "number":
                assert parameter.minimum <= parameter.default <= parameter.maximum  # type: ignore[operator]
            if parameter.kind != "voice":
                assert getattr(fresh, name) == parameter.default

    @pytest.mark.parametrize("name", [name for name, p in PARAMETERS.items() if p.kind == "number"])
    def test_the_ends_of_a_range_are_inside(self, name: str) -> None:
        parameter = PARAMETERS[name]
        x = noise(4000, 1)
        for value in (parameter.minimum, parameter.maximum, np.float32(parameter.maximum), int(parameter.minimum)):
            vc = VoiceConverter("bank_a", **{name: value})  # type: ignore[arg-type]
            assert getattr(vc, name) == value
            assert_sound(vc(x, 48_000))
        for value in (parameter.minimum - 1e-3, parameter.maximum + 1e-3, float("nan"), float("inf"), -float("inf")):
            with pytest.raises(ValueError, match=f"{name} must be between"):
                setattr(vc, name, value)
            with pytest.raises(ValueError, match=f"{name} must be between"):
                VoiceConverter("bank_a", **{name: value})  # type: ignore[arg-type]

    @each
    def test_fuzz(self, make: Callable[[], Any]) -> None:
        """50 settings at random, 5 blocks each; then the latency is what it was."""
        rng = np.random.default_rng(0)
        processor = make()
        processor.prepare(44_100, 256, channels=2)
        latency = processor.latency_samples
        x = noise(256 * 5)
        for _ in range(50):
            turn_some(processor, rng, 10)
            run(processor, x, itertools.repeat(256))
            assert processor.latency_samples == latency

    @each
    def test_automation_every_32_samples(self, make: Callable[[], Any]) -> None:
        rng = np.random.default_rng(1)
        processor = make()
        processor.prepare(48_000, 32, channels=2)
        x = noise(32 * 300)
        for start in range(0, x.shape[1], 32):
            turn_some(processor, rng, int(rng.integers(10)))
            run(processor, x[:, start : start + 32], [32])

    @each
    def test_500_blocks_while_another_thread_turns_everything(self, make: Callable[[], Any]) -> None:
        processor = make()
        processor.prepare(48_000, 32, channels=2)
        stop = threading.Event()
        failures: list[BaseException] = []

        def turn() -> None:
            rng = np.random.default_rng(2)
            try:
                while not stop.is_set():
                    turn_some(processor, rng, 1)
                    for owner, name, _ in parameters_of(processor):
                        getattr(owner, name)
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=turn)
        thread.start()
        try:
            run(processor, noise(32 * 500), itertools.repeat(32))
        finally:
            stop.set()
            thread.join()
        assert not failures

    def test_a_parameter_set_while_running_ends_where_one_set_at_the_start_begins(self) -> None:
        """Through `flush` or through `process`: the same setting, and 30 ms later the same sound."""
        x = noise(48_000, 1)
        early = VoiceConverter("bank_b", mix=0.7, gain_db=-7)
        late = VoiceConverter("bank_a")
        for processor in (early, late):
            processor.prepare(48_000, None)
        y = run(early, x, random_sizes(48_000, 512))
        first = run(late, x[:, :20_000], random_sizes(20_000, 512))
        late.voice, late.mix, late.gain_db = "bank_b", 0.7, -7
        z = np.concatenate([first, run(late, x[:, 20_000:], random_sizes(28_000, 512))], axis=1)
        settled = 20_000 + 1440 + late.latency_samples
        np.testing.assert_allclose(z[:, settled:], y[:, settled:], atol=1e-6)
        assert np.abs(z[:, 15_000:20_000] - y[:, 15_000:20_000]).max() > 0.1

    @each
    def test_settings_can_be_saved_and_restored(self, make: Callable[[], Any]) -> None:
        rng = np.random.default_rng(3)
        saved, restored = make(), make()
        turn_some(saved, rng, 30)
        state = [getattr(owner, name) for owner, name, _ in parameters_of(saved)]
        turn_some(restored, rng, 30)
        for (owner, name, _), value in zip(parameters_of(restored), state, strict=True):
            setattr(owner, name, value)
        assert [getattr(owner, name) for owner, name, _ in parameters_of(restored)] == state
        x = noise(5000)
        assert np.array_equal(saved(x, 48_000), restored(x, 48_000))

    def test_garbage_is_refused_and_changes_nothing(self) -> None:
        vc = VoiceConverter("bank_a", pitch_shift=2)
        x = noise(5000)
        expected = vc(x, 48_000)
        rng = np.random.default_rng(4)
        garbage: list[object] = [rng.bytes(1000), "\x00" * 1000, "../../etc/passwd", "", None, object(), [], {}, 1j]
        garbage += [rng.bytes(20).decode("latin-1") for _ in range(20)]
        garbage += [{"bank_a": -1}, {"bank_a": float("nan")}, {"bank_a": 0}, {"bank_a": "much"}, {"no such": 1}, {3: 1}]
        for value in garbage:
            for name in PARAMETERS:
                with pytest.raises((TypeError, ValueError)) as error:
                    setattr(vc, name, value)
                assert "\n" not in str(error.value)
        assert np.array_equal(vc(x, 48_000), expected)
