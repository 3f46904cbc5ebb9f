"""The block adapter: the latency is what theory says, the least there can be, and kept."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dsp.blocks import BlockAdapter, least_latency
from dsp.resampling import exact_rate, reach


class DelayedCopy:
    """A process with a look-ahead: its output at m is its input at m - lookahead."""

    def __init__(
        self, chunk: int, lookahead: int, rate: float, host_rate: float, block: int | None, channels: int, capacity: int
    ) -> None:
        rates = exact_rate(host_rate), exact_rate(rate)
        self.latency = least_latency(*rates, chunk, lookahead, block)
        self.line = np.zeros((channels, lookahead), np.float32)
        self.adapter = BlockAdapter(
            self.process,
            channels=channels,
            host_rate=rates[0],
            rate=rates[1],
            chunk=chunk,
            lookahead=lookahead,
            latency=self.latency,
            capacity=capacity,
        )
        self.chunks: list[int] = []

    def process(self, chunk: int) -> None:
        self.chunks.append(chunk)
        line = np.concatenate([self.line, self.adapter.chunk_in], axis=1)
        size = self.adapter.chunk_in.shape[1]
        self.adapter.chunk_out[:] = line[:, :size]
        self.line = line[:, size:]

    def run(self, signal: NDArray[np.float32], sizes: list[int]) -> NDArray[np.float32]:
        out = np.full_like(signal, np.nan)
        start = 0
        for size in sizes:
            self.adapter.run(signal[:, start : start + size], out[:, start : start + size])
            start += size
        return out[:, :start]


@given(
    chunk=st.integers(1, 40), lookahead=st.integers(0, 30), block=st.integers(1, 50), blocks=st.integers(1, 60)
)
@settings(max_examples=60, deadline=None)
def test_at_equal_rates_the_delay_is_lookahead_plus_chunk_minus_gcd(
    chunk: int, lookahead: int, block: int, blocks: int
) -> None:
    copy = DelayedCopy(chunk, lookahead, 48_000, 48_000, block, channels=2, capacity=block)
    expected = lookahead + chunk - math.gcd(chunk, block)
    assert copy.latency == expected
    signal = np.random.default_rng(0).uniform(-1, 1, (2, block * blocks)).astype(np.float32)
    out = copy.run(signal, [block] * blocks)
    late = np.concatenate([np.zeros((2, expected), np.float32), signal], axis=1)[:, : out.shape[1]]
    assert np.array_equal(out, late)
    assert copy.chunks == list(range(block * blocks // chunk))


@given(chunk=st.integers(1, 40), lookahead=st.integers(0, 30), sizes=st.lists(st.integers(0, 100), max_size=40))
@settings(max_examples=60, deadline=None)
def test_with_blocks_of_any_size_the_delay_is_lookahead_plus_chunk_minus_one(
    chunk: int, lookahead: int, sizes: list[int]
) -> None:
    copy = DelayedCopy(chunk, lookahead, 48_000, 48_000, None, channels=1, capacity=100)
    expected = lookahead + chunk - 1
    assert copy.latency == expected
    signal = np.random.default_rng(0).uniform(-1, 1, (1, sum(sizes))).astype(np.float32)
    out = copy.run(signal, sizes)
    assert np.array_equal(out, np.concatenate([np.zeros((1, expected), np.float32), signal], axis=1)[:, : out.shape[1]])


def served(host_rate: Fraction, rate: Fraction, chunk: int, lookahead: int, block: int | None, delay: int) -> bool:
    """Whether every output sample of a long stream can be computed in time, looked at one by one."""
    step = host_rate / rate
    reach_in, reach_out = reach(host_rate, rate), reach(rate, host_rate)
    chunks = step.denominator // math.gcd(chunk, step.denominator)
    period = int(step * chunk * chunks)
    period = math.lcm(period, block or 1)
    start = period * (delay // period + 2)  # past the start, so that no chunk number is negative
    for n in range(start, start + period):
        newest_out = -((delay - n) * step.denominator // step.numerator) + lookahead + reach_out - 1
        last = (newest_out // chunk + 1) * chunk - 1
        newest_in = -(-last * step.numerator // step.denominator) + reach_in - 1
        if newest_in > (n if block is None else n // block * block + block - 1):
            return False
    return True


@pytest.mark.parametrize(
    ("host_rate", "rate", "chunk", "lookahead"),
    [
        (44_100, 48_000, 512, 256),
        (44_100, 48_000, 480, 96),
        (16_000, 48_000, 512, 256),
        (22_050, 48_000, 512, 256),
        (96_000, 48_000, 512, 256),
        (48_000, 16_000, 208, 16),
        (44_100, 16_000, 208, 16),
        (48_000, 48_000, 480, 7),
    ],
)
@pytest.mark.parametrize("block", [None, 1, 64, 96, 127, 480, 512])
def test_with_resampling_it_is_the_least_that_serves_every_sample(
    host_rate: int, rate: int, chunk: int, lookahead: int, block: int | None
) -> None:
    rates = Fraction(host_rate), Fraction(rate)
    latency = least_latency(*rates, chunk, lookahead, block)
    assert served(*rates, chunk, lookahead, block, latency)
    assert not served(*rates, chunk, lookahead, block, latency - 1)


@pytest.mark.parametrize("host_rate", [44_100, 48_000])
def test_round_trip_of_the_resamplers_is_3_ms_at_most(host_rate: int) -> None:
    """A process of one sample without look-ahead leaves the delay of the two resamplers alone."""
    other = 92_100 - host_rate
    assert least_latency(Fraction(host_rate), Fraction(other), 1, 0, None) <= 0.003 * host_rate


def test_no_resampler_costs_nothing_at_equal_rates() -> None:
    assert least_latency(Fraction(48_000), Fraction(48_000), 1, 0, None) == 0


@pytest.mark.parametrize("host_rate", [8_000, 22_050.5, 44_099, 44_100, 96_000, 192_000])
def test_with_resampling_the_output_is_the_input_that_much_later(host_rate: float) -> None:
    """A tone within the band of both rates comes back at exactly the reported delay, for one way of cutting and another."""
    outs = []
    for seed in (0, 1):
        copy = DelayedCopy(160, 48, 16_000, host_rate, None, channels=1, capacity=4000)
        n = copy.latency + int(host_rate * 0.1)
        tone = np.sin(2 * np.pi * 0.05 * min(host_rate, 16_000) / host_rate * np.arange(n))
        rng = np.random.default_rng(seed)
        sizes = []
        while sum(sizes) < n:
            sizes.append(min(int(rng.integers(1, 700)), n - sum(sizes)))
        outs.append(copy.run(tone[None].astype(np.float32), sizes)[0])
        settled = copy.latency + int(0.03 * host_rate)
        assert np.max(np.abs(outs[-1][settled:] - tone[settled - copy.latency : n - copy.latency])) < 2e-4
    assert np.array_equal(outs[0], outs[1])


def test_reset_starts_again() -> None:
    copy = DelayedCopy(160, 48, 16_000, 44_100, None, channels=1, capacity=3000)
    signal = np.random.default_rng(0).uniform(-1, 1, (1, 3000)).astype(np.float32)
    first = copy.run(signal, [3000])
    copy.adapter.reset()
    copy.line[:] = 0
    assert np.array_equal(copy.run(signal, [1000, 2000]), first)
