"""What a converter does to sound besides converting it: mixing, changes without clicks, broken input and broken models."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from packs import constant, delay_model, model_proto, stream_metadata, value, write_test_pack

from plugin_bridge import VoiceConverter

Audio = NDArray[np.float32]
RATE = 48_000
RAMP = 1440  # 30 ms
LATE = 767  # chunk 512, look-ahead 256, blocks of any size


def noise(*shape: int, seed: int = 0) -> Audio:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def sine(n: int, frequency: float = 200.0) -> Audio:
    return (0.5 * np.sin(2 * np.pi * frequency / RATE * np.arange(n))).astype(np.float32)


def late(audio: Audio, latency: int = LATE) -> Audio:
    """What comes out of a delay, at the time of the input."""
    return np.concatenate([np.zeros((*audio.shape[:-1], latency), np.float32), audio], axis=-1)[..., : audio.shape[-1]]


def play(
    converter: VoiceConverter, audio: Audio, changes: dict[int, Callable[[], None]] | None = None, size: int = 0
) -> Audio:
    """Stream it, cut where something changes, and every `size` samples between (0: not at all)."""
    cuts = sorted({0, len(audio), *(changes or {})})
    pieces = []
    for start, stop in itertools.pairwise(cuts):
        if changes and start in changes:
            changes[start]()
        for at in range(start, stop, size or stop - start):
            pieces.append(converter.process_block(audio[at : min(at + size, stop) if size else stop]))
    return np.concatenate(pieces)


def setting(converter: VoiceConverter, **values: object) -> Callable[[], None]:
    def change() -> None:
        for name, wanted in values.items():
            setattr(converter, name, wanted)

    return change


def prepared(voice: str = "delay512", **parameters: float) -> VoiceConverter:
    converter = VoiceConverter(voice, **parameters)
    converter.prepare(RATE)
    return converter


def roughness(audio: Audio) -> float:
    """Largest second difference: what a click has and a smooth change has not."""
    return float(np.max(np.abs(np.diff(audio.astype(np.float64), 2))))


def graph(path: Path, nodes: list[object], constants: list[object], lookahead: int = 0, controls: bool = False) -> str:
    """A pack of one voice `x` around these nodes; its state is one number, `state_sum`."""
    inputs = [value("audio", [1, 512]), value("voice", [1, 1]), value("state_sum", [1, 1])]
    if controls:
        inputs += [value("pitch_ratio", [1]), value("formant_ratio", [1])]
    outputs = [value("audio_out", [1, 512]), value("next_state_sum", [1, 1])]
    metadata = stream_metadata(voices=["x"], sample_rate=RATE, chunk=512, lookahead=lookahead, pitch_controls=controls)
    metadata["receptive_field"] = 1000
    return str(write_test_pack(path, model_proto(nodes, inputs, outputs, constants, metadata)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def ratios(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A voice whose every sample is pitch_ratio + 4 * formant_ratio."""
    nodes = [
        helper.make_node("Mul", ["audio", "zero"], ["nothing"]),
        helper.make_node("Mul", ["formant_ratio", "four"], ["formant"]),
        helper.make_node("Add", ["pitch_ratio", "formant"], ["sum"]),
        helper.make_node("Add", ["nothing", "sum"], ["a"]),
        helper.make_node("ReduceSum", ["voice"], ["weight"], keepdims=1),
        helper.make_node("Mul", ["a", "weight"], ["audio_out"]),
        helper.make_node("Identity", ["state_sum"], ["next_state_sum"]),
    ]
    path = tmp_path_factory.mktemp("ratios") / "ratios.voice"
    return graph(path, nodes, [constant("zero", 0.0), constant("four", [4.0])], lookahead=256, controls=True)


@pytest.fixture(scope="module")
def hum(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A voice that adds 0.01 to its input, so never is silent by itself."""
    nodes = [
        helper.make_node("Add", ["audio", "floor"], ["a"]),
        helper.make_node("ReduceSum", ["voice"], ["weight"], keepdims=1),
        helper.make_node("Mul", ["a", "weight"], ["audio_out"]),
        helper.make_node("Identity", ["state_sum"], ["next_state_sum"]),
    ]
    return graph(tmp_path_factory.mktemp("hum") / "hum.voice", nodes, [constant("floor", 0.01)])


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A copy whose samples and state become NaN above 0.6, for good, and whose run fails above 0.9."""
    nodes = [
        helper.make_node("Sub", ["limit", "audio"], ["room"]),
        helper.make_node("Sqrt", ["room"], ["root"]),
        helper.make_node("ReduceSum", ["root"], ["roots"], keepdims=1),
        helper.make_node("Add", ["state_sum", "roots"], ["next_state_sum"]),
        helper.make_node("Mul", ["next_state_sum", "zero"], ["poison"]),
        helper.make_node("Mul", ["audio", "ten"], ["tenfold"]),
        helper.make_node("ReduceMax", ["tenfold"], ["highest"], keepdims=0),
        helper.make_node("Cast", ["highest"], ["row"], to=TensorProto.INT64),
        helper.make_node("Gather", ["rows", "row"], ["ok"]),  # out of range: the run fails
        helper.make_node("Add", ["audio", "poison"], ["a"]),
        helper.make_node("Add", ["a", "ok"], ["b"]),
        helper.make_node("ReduceSum", ["voice"], ["weight"], keepdims=1),
        helper.make_node("Mul", ["b", "weight"], ["audio_out"]),
    ]
    constants = [
        constant("limit", 0.6),
        constant("zero", 0.0),
        constant("ten", 10.0),
        constant("rows", np.zeros(9)),
    ]
    return graph(tmp_path_factory.mktemp("fragile") / "fragile.voice", nodes, constants)


# Mix, gain, bypass


@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_mix_is_linear_and_in_time(mix: float) -> None:
    """The mid of both channels against each channel: the two are told apart."""
    audio = noise(2, 9000)
    converter = VoiceConverter("delay512", mix=mix)
    mid = (audio[0] + audio[1]) * np.float32(0.5)
    assert np.allclose(converter(audio, RATE), mix * mid + (1 - mix) * audio, atol=1e-7)


@pytest.mark.parametrize("rate", [44_100, 96_000])
def test_the_source_in_the_mix_is_in_time_with_resampling(rate: int) -> None:
    converter = VoiceConverter("delay512", mix=0.5)
    audio = (0.5 * np.sin(0.1 * np.arange(9000))).astype(np.float32)
    assert np.allclose(converter(audio, rate)[500:-500], audio[500:-500], atol=1e-4)


def test_gain_is_in_decibels() -> None:
    audio = noise(5000)
    for gain_db in (-60, -6, 12, 24):
        assert np.allclose(VoiceConverter("delay512", gain_db=gain_db)(audio, RATE), audio * 10 ** (gain_db / 20), rtol=1e-5)


@pytest.mark.parametrize("rate", [48_000, 44_100])
def test_bypass_is_the_source_bit_for_bit_at_the_same_latency(rate: int) -> None:
    audio = noise(2, 9000)
    converter = VoiceConverter("bank_b", bypass=True, gain_db=12, mix=0.5)
    assert np.array_equal(converter(audio, rate), audio)
    converter.prepare(rate, 512, channels=2)
    out = np.concatenate([converter.process_block(block) for block in np.split(audio[:, :8704], 17, axis=1)], axis=1)
    assert np.array_equal(out, late(audio[:, :8704], converter.latency_samples))


def test_the_model_goes_on_while_bypassed() -> None:
    """Coming back it is where it would have been."""
    audio = noise(30_000)
    converter, always = prepared("accumulator"), prepared("accumulator")
    out = play(converter, audio, {8000: setting(converter, bypass=True), 16_000: setting(converter, bypass=False)})
    expected = play(always, audio)
    assert np.array_equal(out[:8000], expected[:8000])
    assert np.array_equal(out[8000 + RAMP : 16_000], late(audio, 511)[8000 + RAMP : 16_000])
    assert np.array_equal(out[16_000 + RAMP :], expected[16_000 + RAMP :])


# Changes


def test_changes_take_30_ms_from_the_sample_at_which_the_next_call_begins() -> None:
    audio = np.full(20_000, 0.5, np.float32)
    converter = prepared()
    out = play(converter, audio, {10_000: setting(converter, gain_db=-6.0)})
    gain = out[LATE:] / 0.5
    target = 10 ** (-6 / 20)
    ramp = np.clip((np.arange(LATE, 20_000) - 9_999) / RAMP, 0, 1)
    assert np.allclose(gain, 1 + (target - 1) * ramp, atol=1e-6)


@pytest.mark.parametrize("size", [1, 64, 127, 480, 1024])
def test_changes_do_not_depend_on_the_blocks(size: int, ratios: str) -> None:
    """Every kind of change at given moments: the same samples for every way of cutting between them."""
    n = 6000 if size == 1 else 24_000
    audio = noise(n)

    def run(voice: str, size: int) -> Audio:
        converter = prepared(voice)
        moments = [n // 8, n // 7, n // 4, n // 3, n // 2]
        steps = [
            setting(converter, gain_db=-20.0, pitch_shift=7.0),
            setting(converter, mix=0.3, pitch_shift=-12.0),
            setting(converter, voice="bank_b"),
            setting(converter, gate_db=-3.0, formant_shift=-5.0, bypass=True),
            # That one cannot shift by itself, and in this stream there is no latency for it.
            setting(converter, gate_db=-90.0, bypass=False, pitch_shift=0.0, formant_shift=0.0, voice="delay480"),
        ]
        return play(converter, audio, dict(zip(moments, steps, strict=True)), size)

    for voice in ("bank_a", ratios):
        assert np.array_equal(run(voice, size), run(voice, 0))


def test_pitch_and_formant_reach_the_model_along_a_ramp(ratios: str) -> None:
    """Straight lines in semitones over 30 ms, as they are where each chunk of the model begins."""
    converter = prepared(ratios)
    at = 10_000
    out = play(converter, noise(20_000), {at: setting(converter, pitch_shift=12.0, formant_shift=-6.0)})[LATE:]
    begin = (np.arange(len(out)) + 256) // 512 * 512  # of the chunk that gives each sample, 256 behind its source
    done = np.clip((begin + 1 - at) / RAMP, 0, 1)
    assert np.allclose(out, 2**done + 4 * 2 ** (-0.5 * done), rtol=1e-6)
    assert len(set(np.round(out, 4))) == 5, "three chunks begin on the way"


def test_a_model_that_joined_later_reads_the_ramps_where_its_own_chunks_begin(ratios: str) -> None:
    joined, at = 3000, 20_000
    converter = prepared()
    changes = {joined: setting(converter, voice=ratios), at: setting(converter, pitch_shift=12.0)}
    out = play(converter, noise(30_000), changes)
    source = np.arange(15_000, 30_000) - LATE
    begin = joined + (source - joined + 256) // 512 * 512
    assert np.allclose(out[15_000:], 2 ** np.clip((begin + 1 - at) / RAMP, 0, 1) + 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"bypass": True}),
        ({"bypass": True}, {"bypass": False}),
        ({}, {"mix": 0.0}),
        ({}, {"gain_db": -60.0}),
        ({}, {"gate_db": 0.0}),
        ({}, {"voice": "delay480"}),
        ({"voice": "delay512"}, {"voice": "bank_b"}),
    ],
)
def test_no_change_clicks(before: dict[str, object], after: dict[str, object]) -> None:
    """A low tone stays as smooth as it is by itself; switched at once it would be rough by 0.1 or more."""
    audio = sine(40_000, 100.0)
    converter = VoiceConverter(**({"voice": "bank_b"} | before))  # type: ignore[arg-type]
    converter.prepare(RATE)
    out = play(converter, audio, {16_123: setting(converter, **after)}, 256)[converter.latency_samples + 10 :]
    assert roughness(audio) < 1e-4
    assert roughness(out) < 2e-3


# Voices


def test_a_voice_of_the_same_pack_takes_over_along_a_ramp_of_the_weights() -> None:
    """From the gain 1 to 0.5 in a straight line, as it is where each chunk begins."""
    audio, at = noise(20_000), 10_000
    converter = prepared("bank_a")
    out = play(converter, audio, {at: setting(converter, voice="bank_b")})
    source = np.arange(20_000 - LATE)
    begin = (source + 256) // 512 * 512
    gain = 1 - 0.5 * np.clip((begin + 1 - at) / RAMP, 0, 1)
    assert np.allclose(out[LATE:], gain * audio[: 20_000 - LATE], atol=1e-6)


def test_a_voice_of_another_pack_is_faded_in_with_equal_power_at_the_same_latency(tmp_path: Path) -> None:
    """After its warm-up: the latency, and the 256 samples that it remembers. Before and after not a sample is missing."""
    quiet = write_test_pack(tmp_path / "quiet.voice", delay_model({"quiet": 0.25}, chunk=480, lookahead=96))
    audio, at = noise(30_000), 10_000
    converter = prepared()
    out = play(converter, audio, {at: setting(converter, voice=str(quiet))})
    warm = at + LATE + 96
    angle = np.pi / 2 * np.clip((np.arange(30_000) - warm + 1) / (RAMP + 1), 0, 1)
    assert np.allclose(out, late(audio) * (np.cos(angle) + 0.25 * np.sin(angle)), atol=1e-6)
    assert np.array_equal(out[:warm], late(audio)[:warm])
    assert converter.latency_samples == LATE


def test_the_new_voice_is_in_time_through_its_own_resamplers() -> None:
    audio = sine(40_000)
    converter = VoiceConverter("delay512")
    converter.prepare(44_100)
    latency = converter.latency_samples
    out = play(converter, audio, {10_000: setting(converter, voice="delay480")}, 512)
    assert np.allclose(out[20_000:], late(audio, latency)[20_000:], atol=1e-4)


@pytest.mark.parametrize(("rate", "block"), [(48_000, 512), (44_100, 441), (48_000, 100)])
def test_voices_change_in_blocks_of_a_prepared_size(rate: int, block: int) -> None:
    """One change right after the other, in blocks and in multiples of them: in time, and the same samples."""
    outs = []
    audio = sine(60 * block * (1 + 512 // block))
    for several in (1, 3):
        converter = VoiceConverter("bank_a")
        converter.prepare(rate, block)
        latency = converter.latency_samples
        changes = {
            12 * block: setting(converter, voice="delay512"),
            15 * block: setting(converter, voice="bank_b"),
            18 * block: setting(converter, voice={"bank_a": 1, "bank_b": 1}),
        }
        outs.append(play(converter, audio, changes, several * block))
        assert np.allclose(outs[-1][-10 * block :], 0.75 * late(audio, latency)[-10 * block :], atol=1e-4)
    assert np.array_equal(*outs)


def test_the_last_of_several_voices_wins() -> None:
    audio = noise(40_000)
    converter = prepared()

    def hurry() -> None:
        for voice in ("bank_a", "delay480", "bank_a", "bank_b", "delay512", "bank_b"):
            converter.voice = voice

    out = play(converter, audio, {8000: setting(converter, voice="delay480"), 8500: hurry}, 512)
    assert np.allclose(out[-10_000:], 0.5 * late(audio)[-10_000:], atol=1e-7)
    assert converter.voice == "bank_b"


def test_a_voice_set_before_the_first_block_is_there_from_the_first_sample() -> None:
    audio = noise(5000)
    converter = prepared()
    converter.voice, converter.gain_db = "bank_b", -6.0
    assert np.allclose(play(converter, audio), 0.5 * 10 ** (-6 / 20) * late(audio), atol=1e-6)


# The gate, and silence


def test_the_gate_mutes_what_is_below_and_passes_what_is_above() -> None:
    quiet, loud = noise(RATE) * 0.01, noise(RATE)
    audio = np.concatenate([quiet, loud, quiet])
    out = VoiceConverter("delay512", gate_db=-30.0)(audio, RATE)
    assert not out[RATE // 2 : RATE - 2000].any()
    assert np.array_equal(out[RATE : 2 * RATE], loud), "nothing is cut off the beginning or the end"
    assert not out[-RATE // 2 :].any()
    assert np.array_equal(VoiceConverter("delay512")(audio, RATE), audio), "at -90 dB it is off"


def test_silence_becomes_silence_even_if_the_model_hums(hum: str) -> None:
    audio = np.zeros(4 * RATE, np.float32)
    audio[:RATE] = sine(RATE)
    audio[3 * RATE :] = sine(RATE)
    out = VoiceConverter(hum)(audio, RATE)
    tail = RATE + 1000  # what the model remembers
    assert np.array_equal(out[:tail], audio[:tail] + np.float32(0.01))
    assert not out[tail + RATE // 5 : 3 * RATE - LATE].any()
    assert roughness(out[RATE + 10 : 3 * RATE - LATE - 10]) < 1e-4, "it fades"
    assert np.array_equal(out[3 * RATE :], audio[3 * RATE :] + np.float32(0.01)), "and is back in time"


def test_a_voice_that_joined_is_given_its_own_time_to_fall_silent(hum: str) -> None:
    """1000 samples, more than the voice before it remembers."""
    audio = noise(40_000)
    audio[20_000:] = 0.0
    converter = prepared()
    out = play(converter, audio, {5000: setting(converter, voice=hum)})
    assert np.all(out[20_000 + LATE : 21_000 + LATE] == np.float32(0.01))
    assert not out[30_000:].any()


# Broken input


BROKEN = [np.nan, np.inf, -np.inf, 1e33, -1e33, 1e300, -1e300, 17.0, 16.0, 1e-40, -1e-40, 5e-324, 0.3]
CLEANED = [0, 16, -16, 16, -16, 16, -16, 16, 16, 0, 0, 0, 0.3]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bypass", [False, True])
@pytest.mark.filterwarnings("error")
def test_broken_samples_reach_neither_model_nor_output(dtype: type, bypass: bool) -> None:
    """This model's output is its input: what it was given shows. Every sample beside them is untouched."""
    with np.errstate(all="ignore"):
        broken = np.array(BROKEN, np.float64).astype(dtype)
    audio = noise(9000).astype(dtype)
    expected = audio.astype(np.float32)
    audio[4000 : 4000 + len(broken)] = broken
    expected[4000 : 4000 + len(broken)] = np.array(CLEANED, np.float32)
    converter = VoiceConverter("delay512", bypass=bypass)
    assert np.array_equal(converter(audio, RATE), expected)
    assert converter.errors == 0


@pytest.mark.filterwarnings("error")
def test_all_kinds_of_bits_give_finite_normal_output() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 50_000, dtype=np.uint32).view(np.float32)
    for rate in (48_000, 44_100):
        for name in ("delay512", "accumulator"):
            converter = VoiceConverter(name, gain_db=-60.0, mix=0.7)
            out = converter(bits, rate)
            assert np.all(np.isfinite(out))
            assert not np.any((out != 0) & (np.abs(out) < np.finfo(np.float32).tiny))
            assert converter.errors == 0


# Broken models


@pytest.mark.parametrize("spike", [0.7, 0.95])
@pytest.mark.parametrize("bypassed", [False, True])
def test_a_model_that_fails_is_silent_for_that_chunk_and_goes_on(fragile: str, spike: float, bypassed: bool) -> None:
    """Through NaN in its samples and state (0.7) or an error of the runtime (0.95)."""
    audio = noise(12_000) * 0.5
    audio[5 * 512 + 100] = spike
    converter = VoiceConverter(fragile, bypass=bypassed)
    out = converter(audio, RATE)
    assert converter.errors == 1
    if bypassed:
        assert np.array_equal(out, audio)
        return
    expected = audio.copy()
    expected[5 * 512 : 6 * 512] = 0.0
    expected[6 * 512 : 7 * 512] *= np.arange(1, 513, dtype=np.float32) / 512  # comes back over one chunk
    assert np.allclose(out, expected, atol=1e-7)
    assert np.array_equal(out[7 * 512 :], audio[7 * 512 :])


def test_a_model_that_always_fails_leaves_silence(fragile: str) -> None:
    converter = VoiceConverter(fragile)
    assert not converter(np.full(5120, 0.8, np.float32), RATE).any()
    assert converter.errors == 5120 // 512
