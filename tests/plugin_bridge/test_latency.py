"""The reported latency is the measured one, to the sample, for every rate, block size and way of cutting."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from plugin_bridge import VoiceConverter

Audio = NDArray[np.float32]

RATES = [16_000, 22_050, 44_100, 48_000, 96_000]
BLOCKS: list[int | None] = [1, 64, 127, 256, 512, 1024, None]
# name, sample rate, chunk, look-ahead: their output is their input, that much later
VOICES = [("delay512", 48_000, 512, 256), ("delay480", 48_000, 480, 96), ("rate16k", 16_000, 208, 16)]


def chirp(n: int, rate: float, highest: float) -> Audio:
    """A tone that sweeps from 0 to `highest` Hz: its correlation with itself has one sharp peak."""
    phase = np.pi * highest / rate * np.arange(n) ** 2 / n
    return (0.5 * np.sin(phase)).astype(np.float32)


def measured_lag(late: Audio, source: Audio) -> int:
    """Samples by which `late` lies behind `source`: where their correlation is largest."""
    size = 2 * len(source)
    spectrum = np.fft.rfft(late.astype(np.float64), size) * np.conj(np.fft.rfft(source.astype(np.float64), size))
    return int(np.argmax(np.fft.irfft(spectrum, size)[: len(source)]))


def stream(converter: VoiceConverter, signal: Audio, block: int | None, seed: int = 0) -> Audio:
    """All that `process_block` gives, in blocks of this size (None: of all kinds of sizes)."""
    rng = np.random.default_rng(seed)
    pieces, start = [], 0
    while start < len(signal):
        size = block or int(rng.choice([1, 2, 63, 300, 511, 512, 513, 1500]))
        piece = signal[start : start + size]
        if block and len(piece) < block:
            piece = np.pad(piece, (0, block - len(piece)))
        pieces.append(converter.process_block(piece))
        assert pieces[-1].shape == piece.shape
        start += size
    return np.concatenate(pieces)[: len(signal)]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice[0])
def test_reported_latency_is_the_measured_one(voice: tuple[str, int, int, int], rate: int, block: int | None) -> None:
    name, model_rate, _, _ = voice
    converter = VoiceConverter(name)
    converter.prepare(rate, block)
    latency = converter.latency_samples
    assert type(latency) is int
    # 1-sample blocks on a short signal: each is a call.
    source = chirp(latency + (1500 if block == 1 else 8000), rate, 0.4 * min(rate, model_rate))
    out = stream(converter, source, block)
    assert not out[:latency].any(), "silence until the latency has passed"
    assert measured_lag(out, source) == latency
    # The chirp begins with a tone so low and ends with one so high that only the middle is free of the filters' edges.
    settled = slice(latency + 400, len(source))
    assert np.max(np.abs(out[settled] - source[400 : len(source) - latency])) < 1e-4
    assert converter.latency_samples == converter.reported_latency_samples == latency


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("name", "rate", "chunk", "lookahead"), VOICES)
def test_at_the_models_own_rate_latency_is_the_formula(
    name: str, rate: int, chunk: int, lookahead: int, block: int | None
) -> None:
    converter = VoiceConverter(name)
    converter.prepare(rate, block)
    assert converter.latency_samples == lookahead + chunk - (math.gcd(block, chunk) if block else 1)
    assert converter.lookahead_samples == lookahead


def test_flagship_budget() -> None:
    """Chunk 512 and look-ahead 256 at 48 kHz: 256 samples for blocks of 512, 767 for any."""
    converter = VoiceConverter("delay512")
    converter.prepare(48_000, 512)
    assert converter.latency_samples == 256
    converter.prepare(48_000)
    assert converter.latency_samples == 767


def test_before_anything_is_prepared_it_is_the_models_own() -> None:
    converter = VoiceConverter("rate16k")
    assert converter.latency_samples == 16 + 207
    assert converter.lookahead_samples == 16


@pytest.mark.parametrize("rate", RATES)
def test_lookahead_is_told_at_the_hosts_rate(rate: int) -> None:
    converter = VoiceConverter("delay512")
    converter.prepare(rate)
    assert converter.lookahead_samples == math.ceil(256 * rate / 48_000)


@pytest.mark.parametrize("rate", [44_100, 48_000, 16_000, 44_099, 22_050.5])
@pytest.mark.parametrize("name", ["delay512", "accumulator", "rate16k"])
def test_streaming_equals_offline(name: str, rate: float) -> None:
    """For every way of cutting the same audio into blocks, bit for bit."""
    signal = np.random.default_rng(1).uniform(-0.5, 0.5, 12_000).astype(np.float32)
    offline = VoiceConverter(name)(signal, rate)
    for block, seed in itertools.chain(((block, 0) for block in (64, 127, 512, 20_000)), ((None, s) for s in range(3))):
        converter = VoiceConverter(name)
        converter.prepare(rate, block)
        latency = converter.latency_samples
        padded = np.concatenate([signal, np.zeros(latency, np.float32)])
        assert np.array_equal(stream(converter, padded, block, seed)[latency:], offline), (block, seed)


@pytest.mark.parametrize("rate", [48_000, 44_100])
def test_one_sample_blocks_equal_offline(rate: int) -> None:
    signal = np.random.default_rng(1).uniform(-0.5, 0.5, 1500).astype(np.float32)
    converter = VoiceConverter("accumulator")
    offline = converter(signal, rate)
    converter.prepare(rate)
    padded = np.concatenate([signal, np.zeros(converter.latency_samples, np.float32)])
    assert np.array_equal(stream(converter, padded, 1)[converter.latency_samples :], offline)


def test_a_block_larger_than_any_before_loses_nothing() -> None:
    signal = np.random.default_rng(1).uniform(-0.5, 0.5, 60_000).astype(np.float32)
    converter = VoiceConverter("accumulator")
    offline = converter(signal, 44_100)
    converter.prepare(44_100)
    pieces = [converter.process_block(piece) for piece in np.split(signal, [1, 10, 200, 3000, 10_000])]
    joined = np.concatenate([*pieces, converter.flush()])[converter.latency_samples :]
    assert np.array_equal(joined, offline)
