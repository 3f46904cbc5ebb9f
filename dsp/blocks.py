"""A process with chunks and a rate of its own, inside a stream of host blocks: n samples in, n samples out.

    host samples -> resampler -> chunks -> process -> resampler -> host samples

The delay is a whole number of host samples, constant, and the least there can be: see `least_latency`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dsp.resampling import Resampler, reach


def least_latency(host_rate: Fraction, rate: Fraction, chunk: int, lookahead: int, block: int | None) -> int:
    """Least constant delay, in host samples, with which every output sample can be computed in time.

    The one place where latency is computed. At equal rates it is lookahead + chunk - gcd(block, chunk), and
    lookahead + chunk - 1 where blocks may have any size. With resampling neither chunk nor look-ahead is a whole number of
    host samples; then it is the least integer D for which this holds: host sample n of the output, the input at n - D,
    needs the process's output around (n - D) * rate / host_rate + lookahead, hence a chunk k, hence all host input up to
    the newest sample of chunk k, and that must have come by the end of the host block that n lies in.

    Parameters
    ----------
    host_rate, rate : Fraction
        Hz, outside and inside.
    chunk, lookahead : int
        Samples of the process at `rate`: it takes and gives `chunk` at a time, and its output at m is due to its input at
        m - lookahead.
    block : int or None
        Host samples in every block; None when blocks may have any size.
    """
    step = host_rate / rate  # host samples in one sample of the process
    reach_in, reach_out = reach(host_rate, rate), reach(rate, host_rate)
    # The grid of chunks meets the grid of host samples again after this many chunks, `shift` host samples later.
    period = step.denominator // math.gcd(chunk, step.denominator)
    shift = int(step * chunk * period)
    # Host blocks fall on the chunks in every multiple of this offset sooner or later; any size is like blocks of 1.
    grid = math.gcd(block or 1, shift)
    k = np.arange(period, dtype=np.int64)
    # Newest host sample that chunk k needs: ceil(its last sample's position) + reach - 1.
    newest = -(-((k + 1) * chunk - 1) * step.numerator // step.denominator) + reach_in - 1
    # First host sample, counted from the delay D, that needs chunk k: ceil(position) + reach_out - 1 >= k * chunk.
    first = (k * chunk - lookahead - reach_out) * step.numerator // step.denominator + 1
    # Sample D + first[k] is given in a block that ends at or after newest[k].
    return int(np.max(newest // grid * grid - first))


class BlockAdapter:
    """Runs `process` on chunks at its own rate. Drive it from one thread; nothing is allocated after construction.

    Parameters
    ----------
    process : callable
        Called with the chunk's number (0, 1, ...) when `chunk_in` is full; writes `chunk_out`. Both [channels, chunk].
    channels, chunk, lookahead, host_rate, rate
        See `least_latency`.
    latency : int
        Host samples between input and output, at least `least_latency`.
    capacity : int
        Most host samples in one block.
    """

    def __init__(
        self,
        process: Callable[[int], None],
        *,
        channels: int,
        host_rate: Fraction,
        rate: Fraction,
        chunk: int,
        lookahead: int,
        latency: int,
        capacity: int,
    ) -> None:
        self._process = process
        self._chunk = chunk
        self.chunk_in: NDArray[np.float32] = np.zeros((channels, chunk), np.float32)
        self.chunk_out: NDArray[np.float32] = np.zeros((channels, chunk), np.float32)
        ratio = rate / host_rate
        # Between two calls less than one chunk waits on the way in.
        self._in = Resampler(host_rate, rate, channels, push=capacity, pending=math.ceil(chunk / ratio) + 1)
        # On the way out the latency holds back what is early: `delay`, in samples of the process.
        self._out = Resampler(
            rate,
            host_rate,
            channels,
            push=chunk,
            pending=math.ceil(capacity * ratio) + chunk + 1,
            delay=latency * ratio - lookahead,
        )
        self._chunks = 0

    def reset(self) -> None:
        """Back to the start of a stream. The state of `process` is the caller's."""
        self._in.reset()
        self._out.reset()
        self._chunks = 0

    def run(self, block: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Take block [channels, n] and write what the input was `latency` samples ago, processed, to out [channels, n]."""
        self._in.push(block)
        while self._in.ready >= self._chunk:
            self._in.pull(self.chunk_in)
            self._process(self._chunks)
            self._chunks += 1
            self._out.push(self.chunk_out)
        self._out.pull(out)
