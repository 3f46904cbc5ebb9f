"""`VoiceConverter` as a thing to call: Pedalboard's protocol, the live protocol, voices, threads."""

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pedalboard
import pytest
from memory import allocated
from numpy.typing import NDArray
from packs import delay_model, write_test_pack

from models.stream import ModelStream
from plugin_bridge import Board, VoiceConverter
from plugin_bridge.voices import UnknownVoiceError

Audio = NDArray[np.float32]
RATE = 48_000


def noise(*shape: int, seed: int = 0) -> Audio:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


# Pedalboard's protocol


@pytest.mark.parametrize(
    "shape", [(0,), (1,), (700,), (1, 1), (1, 700), (700, 1), (2, 700), (700, 2), (8, 900), (0, 5), (5, 0), (2, 1), (1, 0)]
)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_any_layout_and_float_type_comes_back_as_pedalboard_gives_it(shape: tuple[int, ...], dtype: str) -> None:
    audio = noise(*shape).astype(dtype)
    before = audio.copy()
    ours, theirs = VoiceConverter("delay512")(audio, RATE), pedalboard.Gain(0)(audio, RATE)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert ours.flags.c_contiguous
    assert not np.shares_memory(ours, audio)
    assert np.array_equal(audio, before), "the input is not changed"
    if min(shape) == 1 or len(shape) == 1:
        assert np.array_equal(ours, theirs), "this voice changes nothing, and offline nothing is late"


def test_mid_of_stereo_goes_to_both_channels_in_either_layout() -> None:
    audio = noise(2, 3000)
    mid = (audio[0] + audio[1]) * np.float32(0.5)
    expected = np.stack([mid, mid])
    assert np.array_equal(VoiceConverter("delay512")(audio, RATE), expected)
    assert np.array_equal(VoiceConverter("delay512")(audio.T, RATE), expected.T)
    assert np.array_equal(VoiceConverter("delay512")(np.asfortranarray(audio)[:, ::-1], RATE), expected[:, ::-1])


@pytest.mark.parametrize("name", ["delay512", "accumulator"])
def test_each_channel_on_its_own(name: str) -> None:
    audio = noise(3, 3000)
    each = VoiceConverter(name, stereo="each")(audio, RATE)
    for channel in range(3):
        assert np.array_equal(each[channel], VoiceConverter(name)(audio[channel], RATE))


@pytest.mark.parametrize("dtype", ["f2", "i2", "i4", "?", "c8", "g", "O"])
def test_other_types_are_refused_as_pedalboard_does(dtype: str) -> None:
    if np.dtype(dtype).itemsize == 8 and dtype == "g":
        pytest.skip("long double is double here")
    with pytest.raises(TypeError, match="only supports 32-bit and 64-bit floating point audio for processing"):
        VoiceConverter("delay512")(np.zeros(10, dtype), RATE)


@pytest.mark.parametrize("audio", [[0.0, 1.0], None, 3.0, "audio", (1.0,)])
def test_what_is_no_array_is_refused(audio: object) -> None:
    with pytest.raises(TypeError, match="audio must be a numpy array, got"):
        VoiceConverter("delay512")(audio, RATE)  # type: ignore[arg-type]


def test_square_arrays_need_one_that_is_not_first() -> None:
    converter = VoiceConverter("delay512")
    with pytest.raises(RuntimeError, match="Provide a non-square array first"):
        converter(noise(2, 2), RATE)
    converter(noise(2, 50), RATE)
    assert converter(noise(2, 2), RATE).shape == (2, 2)
    converter.reset()
    with pytest.raises(RuntimeError, match="Provide a non-square array first"):
        converter(noise(2, 2), RATE)


@pytest.mark.parametrize("rate", [0, -1, 7999, 192_001, float("nan"), float("inf"), 10**400])
def test_rates_that_are_none_are_value_errors(rate: float) -> None:
    with pytest.raises(ValueError, match="sample rate must be between 8000 and 192000 Hz, got"):
        VoiceConverter("delay512")(noise(10), rate)


@pytest.mark.parametrize("rate", ["48000", None, 1j, [1]])
def test_rates_of_other_types_are_type_errors(rate: object) -> None:
    with pytest.raises(TypeError, match="sample_rate must be a number, got"):
        VoiceConverter("delay512")(noise(10), rate)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1])
def test_buffer_sizes_below_1_are_value_errors(size: int) -> None:
    with pytest.raises(ValueError, match=f"buffer_size must be at least 1, got {size}"):
        VoiceConverter("delay512")(noise(10), RATE, size)


@pytest.mark.parametrize("size", [1.5, None, "8", 2.0])
def test_buffer_sizes_of_other_types_are_type_errors(size: object) -> None:
    with pytest.raises(TypeError, match="buffer_size must be a whole number, got"):
        VoiceConverter("delay512")(noise(10), RATE, size)  # type: ignore[arg-type]


def test_more_than_8_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="audio must have at most 8 channels, got 9"):
        VoiceConverter("delay512")(noise(9, 20), RATE)


@pytest.mark.parametrize("n", [1, 5, 255, 256, 768, 8192, 8193, 20_000])
@pytest.mark.parametrize("block", [None, 512])
def test_reset_true_is_as_long_as_the_input_and_in_time(n: int, block: int | None) -> None:
    converter = VoiceConverter("delay512")
    converter.prepare(RATE, block)
    audio = noise(n)
    assert np.array_equal(converter(audio, RATE), audio)
    assert converter.latency_samples == (767 if block is None else 256), "what was prepared stays prepared"


@pytest.mark.parametrize("rate", [48_000, 44_100])
def test_output_does_not_depend_on_buffer_size(rate: int) -> None:
    audio = noise(2, 10_000)
    converter = VoiceConverter("accumulator")
    outs = [converter(audio, rate, size) for size in (1, 64, 65, 128, 480, 8192, 8193, 1 << 40)]
    assert all(np.array_equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("size", [1, 64, 127, 512, 5000, 9000])
@pytest.mark.parametrize("rate", [48_000, 44_100])
def test_reset_false_leaves_out_the_latency_and_flush_gives_the_rest(size: int, rate: int) -> None:
    audio = noise(1700 if size == 1 else 20_000)
    whole = VoiceConverter("accumulator")(audio, rate)
    converter = VoiceConverter("accumulator")
    pieces = [converter(audio[start : start + size], rate, reset=False) for start in range(0, len(audio), size)]
    streamed = np.concatenate(pieces)
    assert all(len(piece) <= size for piece in pieces)
    assert len(audio) - len(streamed) == converter.latency_samples
    assert np.array_equal(streamed, whole[: len(streamed)])
    assert np.array_equal(np.concatenate([streamed, converter.flush()]), whole)
    assert converter.flush().shape == (0,), "nothing is owed twice"


def test_process_in_a_stream_ends_what_was_prepared_for_one_block_size() -> None:
    """Its pieces may have any size; who goes on with blocks prepares again, and learns the latency anew."""
    audio = noise(5000)
    converter = VoiceConverter("delay512")
    converter.prepare(RATE, 512)
    pieces = [converter(piece, RATE, reset=False) for piece in np.split(audio, [512, 612, 1000, 4000])]
    assert converter.latency_samples == 767
    assert np.array_equal(np.concatenate([*pieces, converter.flush()]), audio)
    with pytest.raises(RuntimeError, match="prepare"):
        converter.process_block(noise(512))


def test_flush_of_a_stream_shorter_than_the_latency() -> None:
    converter = VoiceConverter("delay512")
    audio = noise(100)
    assert converter(audio, RATE, reset=False).shape == (0,)
    assert np.array_equal(converter.flush(), audio)


def test_flush_has_the_axes_of_the_input() -> None:
    converter = VoiceConverter("delay512", stereo="each")
    audio = noise(2000, 2)
    assert np.array_equal(np.concatenate([converter(audio, RATE, reset=False), converter.flush()]), audio)
    converter.prepare(RATE, 512, channels=2)
    block = converter.process_block(audio.T[:, :512].copy())
    assert np.array_equal(np.concatenate([block, converter.flush()], axis=1)[:, 256:], audio.T[:, :512])


def test_flush_of_nothing_is_empty() -> None:
    converter = VoiceConverter("delay512")
    assert converter.flush().shape == (0,)
    converter(noise(100), RATE)
    assert converter.flush().shape == (0,), "reset=True leaves nothing over"
    converter(noise(100, 2), RATE)
    assert converter.flush().shape == (0, 2)


def test_an_empty_recording_resets_too() -> None:
    converter = VoiceConverter("accumulator")
    converter(np.ones(20_000, np.float32), RATE, reset=False)
    assert converter(np.zeros(0, np.float32), RATE).shape == (0,)
    assert not np.any(converter(np.zeros(2000, np.float32), RATE, reset=False))


@pytest.mark.parametrize("reset", [True, False])
def test_state_between_calls(reset: bool) -> None:
    """As Pedalboard's own test of its reverb: the tail of the first call sounds in the second only with reset=False."""
    converter = VoiceConverter("accumulator")
    converter(np.ones(20_000, np.float32), RATE, reset=reset)
    second = converter(np.zeros(2000, np.float32), RATE, reset=reset)
    assert (np.max(np.abs(second)) > 0.1) == (not reset)


def test_another_rate_or_channel_count_starts_a_new_stream() -> None:
    converter = VoiceConverter("accumulator")
    for audio, rate in [(noise(1, 5000), 48_000), (noise(1, 5000), 44_100), (noise(2, 5000), 44_100)]:
        streamed = converter(audio, rate, reset=False)
        assert np.array_equal(streamed, VoiceConverter("accumulator")(audio, rate)[:, : streamed.shape[1]])


def test_identity_of_an_effect() -> None:
    converter = VoiceConverter("delay512", pitch_shift=3)
    assert converter.is_effect
    assert not converter.is_instrument
    for name in ("is_effect", "is_instrument", "latency_samples", "errors"):
        with pytest.raises(AttributeError):
            setattr(converter, name, True)
    assert repr(converter) == (
        "<plugin_bridge.VoiceConverter voice='delay512' pitch_shift=3.0 formant_shift=0.0 mix=1.0 gain_db=0.0 "
        f"gate_db=-90.0 bypass=False at {id(converter):#x}>"
    )
    assert converter != VoiceConverter("delay512", pitch_shift=3)
    assert len({converter, converter}) == 1
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"cannot pickle 'plugin_bridge\.VoiceConverter' object"):
            duplicate(converter)
    with pytest.raises(ValueError, match="stereo must be 'mid' or 'each', got 'left'"):
        VoiceConverter("delay512", stereo="left")  # type: ignore[arg-type]


def test_a_class_of_the_user_s_own_does_not_take_the_stream_engine_for_the_song_engine() -> None:
    class Mine(VoiceConverter):
        pass

    assert Mine("delay512", engine="stream")(noise(100), RATE).shape == (100,)
    with pytest.raises(ValueError, match="the engine of a Mine must be 'stream', got 'song'"):
        Mine("delay512", engine="song")


# Live


def test_blocks_need_prepare_and_the_shape_prepared() -> None:
    converter = VoiceConverter("delay512")
    with pytest.raises(RuntimeError, match="prepare"):
        converter.process_block(noise(64))
    converter.prepare(RATE, 64, channels=2)
    for shape in [(64,), (1, 64), (3, 64), (2, 64, 1)]:
        with pytest.raises(ValueError, match=r"block must have the shape \(2, n\) as prepared, got"):
            converter.process_block(noise(*shape))
    for n in (63, 65, 1):
        with pytest.raises(ValueError, match=f"block must have 64 samples as prepared, or a multiple of that, got {n}"):
            converter.process_block(noise(2, n))
    assert converter.process_block(noise(2, 192)).shape == (2, 192)
    assert converter.process_block(noise(2, 0)).shape == (2, 0)
    with pytest.raises(TypeError, match="float32"):
        converter.process_block(noise(2, 64), np.zeros((2, 64)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape of the block"):
        converter.process_block(noise(2, 64), np.zeros((2, 32), np.float32))
    with pytest.raises(TypeError, match="only supports 32-bit and 64-bit"):
        converter.process_block(np.zeros((2, 64), np.int16))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_rate": 0}, "sample rate must be between"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"block_size": 1 << 20}, "block_size must be at most 65536 samples"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"channels": 9}, "channels must be 1 to 8, got 9"),
    ],
)
def test_prepare_refuses_what_it_cannot_do(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VoiceConverter("delay512").prepare(**({"sample_rate": RATE} | arguments))


def test_output_may_be_given_strided_or_the_input_itself() -> None:
    audio = noise(2, 1024)
    expected = VoiceConverter("delay512", stereo="each")
    expected.prepare(RATE, 512, 2)
    late = np.concatenate([np.zeros((2, 256), np.float32), audio], axis=1)[:, :1024]
    assert np.array_equal(expected.process_block(audio), late)

    converter = VoiceConverter("delay512", stereo="each")
    converter.prepare(RATE, 512, 2)
    interleaved = np.full((512, 2), np.nan, np.float32)  # as a sound card's callback has it
    for start in (0, 512):
        assert converter.process_block(audio[:, start : start + 512], interleaved.T) is not None
        assert np.array_equal(interleaved.T, late[:, start : start + 512])

    converter.reset()
    in_place = audio.copy()
    assert converter.process_block(in_place, in_place) is in_place
    assert np.array_equal(in_place, late)


@pytest.mark.parametrize("n", [700, 20_000])  # the longer is worked on in pieces
@pytest.mark.parametrize("where", ["later", "earlier", "backwards"])
def test_output_may_lie_anywhere_over_the_input(where: str, n: int) -> None:
    memory = np.zeros(n + 64, np.float32)
    places = {
        "later": (memory[:n], memory[64:]),
        "earlier": (memory[64:], memory[:n]),
        "backwards": (memory[:n], memory[:n][::-1]),
    }
    block, out = places[where]
    block[:] = noise(n)
    converter = VoiceConverter("delay512")
    converter.prepare(RATE)
    expected = converter.process_block(noise(n))
    converter.reset()
    assert np.array_equal(converter.process_block(block, out), expected)


def test_output_over_the_input_while_the_voice_changes() -> None:
    converter, other = VoiceConverter("delay512"), VoiceConverter("delay512")
    memory, out = np.zeros(20_064, np.float32), np.empty(20_000, np.float32)
    for one in (converter, other):
        one.prepare(RATE)
        one.process_block(noise(700))
        one.voice = "bank_b"
    memory[:20_000] = noise(20_000)
    other.process_block(noise(20_000), out)
    assert np.array_equal(converter.process_block(memory[:20_000], memory[64:]), out)


def test_reset_starts_again_with_the_same_latency() -> None:
    converter = VoiceConverter("accumulator")
    converter.prepare(44_100, 256)
    audio = noise(2560)
    first = converter.process_block(audio)
    assert not np.array_equal(converter.process_block(audio), first)
    converter.reset()
    assert np.array_equal(converter.process_block(audio), first)


@pytest.mark.parametrize(
    ("rate", "prepared", "size", "channels"),
    [(48_000, 512, 512, 1), (44_100, 256, 256, 2), (44_100, None, 5000, 2), (44_099, None, 777, 1), (96_000, 64, 64, 1)],
)
def test_no_memory_is_allocated_per_block(rate: int, prepared: int | None, size: int, channels: int) -> None:
    """Nothing is kept (some 50 bytes a block are the interpreter's own), and what passes through is views and numbers."""
    converter = VoiceConverter("bank_a")
    converter.prepare(rate, prepared, channels)
    block, out = noise(channels, size), np.empty((channels, size), np.float32)

    def run(blocks: int) -> None:
        for number in range(blocks):
            converter.mix, converter.pitch_shift = (number % 5) / 5, float(number % 3)
            converter.bypass, converter.gate_db = number % 7 == 0, -40.0 if number % 2 else -90.0
            converter.process_block(block, out)

    converter.voice = "bank_b"  # the setter allocates, the ramp to it must not
    run(20)
    kept, peak = allocated(run, 20, 200)
    assert kept < 200 * 50
    # numpy's buffers for conversions are 8192 numbers wide; none is used here.
    assert peak < 24_000


class InterruptAt:
    """In place of `ModelStream.step`: Ctrl-C after so many steps, once."""

    def __init__(self, patch: pytest.MonkeyPatch, steps: int) -> None:
        self._step, self._left = ModelStream.step, steps
        patch.setattr(ModelStream, "step", lambda stream: self(stream))

    def __call__(self, stream: ModelStream) -> None:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt
        self._step(stream)


@pytest.mark.parametrize("processor", [lambda: VoiceConverter("accumulator"), lambda: Board([VoiceConverter("accumulator")])])
@pytest.mark.parametrize("reset", [True, False])
def test_an_interrupted_stream_begins_anew(
    processor: Callable[[], VoiceConverter | Board], reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = noise(20_000)
    expected = processor()(audio, RATE)
    converter = processor()
    converter.process(audio, RATE, reset=reset)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        InterruptAt(patch, 10)
        converter.process(audio, RATE, reset=reset)
    pieces = [converter.process(audio, RATE, reset=False), converter.flush()]
    assert np.array_equal(np.concatenate(pieces), expected)


@pytest.mark.parametrize("processor", [lambda: VoiceConverter("accumulator"), lambda: Board([VoiceConverter("accumulator")])])
def test_interrupted_live_blocks_begin_anew(
    processor: Callable[[], VoiceConverter | Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    audio, converter = noise(20_000), processor()
    converter.prepare(RATE)
    expected = converter.process_block(audio)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        InterruptAt(patch, 10)
        converter.process_block(audio)
    assert np.array_equal(converter.process_block(audio), expected)


# Voices


def test_unknown_voices_are_refused_with_the_names_there_are() -> None:
    with pytest.raises(UnknownVoiceError, match="delay512"):
        VoiceConverter("nobody")
    converter = VoiceConverter("delay512")
    with pytest.raises(UnknownVoiceError, match="bank_a"):
        converter.voice = "nobody"
    assert converter.voice == "delay512"


def test_voices_of_a_pack_can_be_mixed() -> None:
    """bank_a has the gain 1, bank_b 0.5: equal weights give 0.75, whatever they add up to."""
    audio = noise(3000)
    converter = VoiceConverter({"bank_a": 2, "bank_b": 2})
    assert converter.voice == {"bank_a": 0.5, "bank_b": 0.5}
    assert np.allclose(converter(audio, RATE), 0.75 * audio, atol=1e-7)
    converter.voice = "bank_b"
    assert np.allclose(converter(audio, RATE), 0.5 * audio, atol=1e-7)


@pytest.mark.parametrize(
    ("mix", "error", "message"),
    [
        ({}, ValueError, "at least one voice"),
        ({"bank_a": -1}, ValueError, "must be finite and not negative, got 'bank_a'"),
        ({"bank_a": float("nan")}, ValueError, "must be finite and not negative"),
        ({"bank_a": float("inf")}, ValueError, "must be finite and not negative"),
        ({"bank_a": 0, "bank_b": 0}, ValueError, "add up to more than 0"),
        ({"bank_a": 1, "delay512": 1}, ValueError, "'bank_a' is in bank.voice and 'delay512' in delay512.voice"),
        ({"bank_a": "1"}, TypeError, "must map names to numbers"),
        ({1: 1.0}, TypeError, "must map names to numbers"),
        (["bank_a"], TypeError, "voice must be a name or a mapping of names to weights, got list"),
        (None, TypeError, "voice must be a name or a mapping"),
    ],
)
def test_mixes_that_are_none_are_refused(mix: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        VoiceConverter(mix)  # type: ignore[arg-type]
    converter = VoiceConverter("bank_a")
    with pytest.raises(error, match=message):
        converter.voice = mix  # type: ignore[assignment]
    assert converter.voice == "bank_a"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_pack_may_be_given_by_its_path(kind: type, tmp_path: Path) -> None:
    path = write_test_pack(tmp_path / "half.voice", delay_model({"half": 0.5}))
    converter = VoiceConverter("delay512")
    converter.voice = kind(path)
    assert VoiceConverter(kind(path)).voice == str(path)
    audio = noise(3000)
    assert np.allclose(converter(audio, RATE), 0.5 * audio, atol=1e-7)
    assert converter.voice == str(path)


def test_another_voice_offline_is_heard_from_the_first_sample() -> None:
    audio = noise(3000)
    converter = VoiceConverter("bank_b")
    converter(audio, RATE)
    for voice, gain in [("delay512", 1.0), ("rate16k", None), ("bank_b", 0.5), ("accumulator", None)]:
        converter.voice = voice
        out = converter(audio, RATE)
        assert np.array_equal(out, VoiceConverter(voice)(audio, RATE))
        if gain:
            assert np.allclose(out, gain * audio, atol=1e-7)


def test_a_voice_set_in_a_stream_that_is_then_reset_does_not_join_again() -> None:
    audio = noise(5000)
    converter, fresh = VoiceConverter("delay512"), VoiceConverter("bank_b")
    converter(audio, RATE, reset=False)
    converter.voice = "bank_b"
    for piece in np.split(audio, [2000, 2500]):
        assert np.array_equal(converter(audio, RATE), fresh(audio, RATE))
        assert np.array_equal(converter(piece, RATE, reset=False), fresh(piece, RATE, reset=False))


def test_a_voice_that_needs_more_latency_than_a_running_stream_has_is_refused() -> None:
    converter = VoiceConverter("delay480")
    converter.prepare(RATE, 480)
    converter.process_block(noise(480))
    with pytest.raises(ValueError, match=r"'delay512' needs a latency of 736 samples and the stream was prepared for 96"):
        converter.voice = "delay512"
    assert converter.voice == "delay480"
    assert converter.latency_samples == 96
    assert converter.process_block(noise(480)).any()


def test_between_recordings_any_voice_may_be_set() -> None:
    audio = noise(3000)
    converter = VoiceConverter("delay480")
    converter(audio, RATE)
    assert converter.latency_samples == 575
    converter.voice = "delay512"
    assert converter.latency_samples == 767
    assert np.array_equal(converter(audio, RATE), audio)
    converter.reset()
    pieces = [converter(piece, RATE, reset=False) for piece in np.split(audio, 3)]
    assert np.array_equal(np.concatenate([*pieces, converter.flush()]), audio)


# Threads


def test_instances_in_threads_give_what_they_give_alone() -> None:
    signals = [noise(2, 30_000, seed=seed) for seed in range(6)]
    alone = [VoiceConverter("accumulator")(signal, 44_100) for signal in signals]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda signal: VoiceConverter("accumulator")(signal, 44_100), signals))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_one_instance_from_many_threads_takes_one_call_at_a_time() -> None:
    signals = [noise(20_000, seed=seed) for seed in range(6)]
    converter = VoiceConverter("accumulator")
    alone = [converter(signal, 44_100) for signal in signals]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda signal: converter(signal, 44_100), signals))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_every_parameter_may_be_set_from_other_threads_while_audio_runs(tmp_path: Path) -> None:
    other = str(write_test_pack(tmp_path / "other.voice", delay_model({"other": 1.0}, pitch_controls=True)))
    converter = VoiceConverter("bank_a")
    converter.prepare(44_100, 256, channels=2)
    stop, failures = threading.Event(), []

    def turn(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            while not stop.is_set():
                converter.pitch_shift, converter.formant_shift = rng.uniform(-24, 24), rng.uniform(-12, 12)
                converter.mix, converter.gain_db = rng.uniform(0, 1), rng.uniform(-60, 0)
                converter.gate_db, converter.bypass = rng.uniform(-90, -50), bool(rng.integers(2))
                converter.voice = ["bank_a", "bank_b", other, {"bank_a": 0.3, "bank_b": 0.7}][rng.integers(4)]
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=turn, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    tone = (0.5 * np.sin(0.02 * np.arange(256 * 400))).astype(np.float32)
    out = [converter.process_block(np.stack([block, block])) for block in tone.reshape(400, 256)]
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert converter.errors == 0
    assert np.all(np.isfinite(out))
    # The largest gain of any setting is 1, and an equal-power fade of the signal with itself peaks at sqrt(2).
    assert np.max(np.abs(out)) < 0.5 * 1.42
