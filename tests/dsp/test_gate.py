"""The gate: open in time for what opens it, closed after what it should wait for, on a grid of time."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dsp.gate import HOLD_SECONDS, RELEASE_SECONDS, Gate

RATE = 48_000


def gains(gate: Gate, level: NDArray[np.float32], size: int | None = None) -> NDArray[np.float32]:
    gain = np.full(len(level), np.nan, np.float32)
    for start in range(0, len(level), size or len(level)):
        part = slice(start, start + (size or len(level)))
        gate.follow(level[part], gain[part])
    return gain


def bursts(latency: int) -> tuple[NDArray[np.float32], int, int]:
    """A level of 0.1 for half a second, 0.001 for a second, 0.1 again; and where it falls and rises."""
    level = np.full(2 * RATE, 0.1, np.float32)
    level[RATE // 2 : 3 * RATE // 2] = 0.001
    return level, RATE // 2 + latency, 3 * RATE // 2 + latency


@pytest.mark.parametrize("latency", [256, 767, 3000])
def test_it_closes_after_the_sound_and_is_open_before_the_next(latency: int) -> None:
    gate = Gate(RATE, latency)
    gate.threshold = 0.01
    level, falls, rises = bursts(latency)
    gain = gains(gate, level)
    assert np.all(gain[:falls] == 1.0), "nothing of the sound itself is cut"
    assert np.all(gain[falls : falls + round(HOLD_SECONDS * RATE)] == 1.0)
    closed = falls + round((HOLD_SECONDS + RELEASE_SECONDS) * RATE) + 400
    assert np.all(gain[closed : rises - latency] == 0.0)
    assert np.all(gain[rises:] == 1.0), "open in time"
    assert np.max(np.abs(np.diff(gain))) < 1 / 90, "no gain change faster than one hop"


@pytest.mark.parametrize("size", [1, 64, 127, 1024])
def test_gains_do_not_depend_on_the_blocks(size: int) -> None:
    rng = np.random.default_rng(0)
    level = (10 ** rng.uniform(-4, 0, 120)).astype(np.float32).repeat(200)
    level[9000:20000] *= 0.01
    whole, cut = Gate(RATE, 300), Gate(RATE, 300)
    whole.threshold = cut.threshold = 0.05
    gain = gains(whole, level)
    assert gain.min() == 0.0
    assert np.array_equal(gains(cut, level, size), gain)


def test_without_a_threshold_only_exact_silence_closes_it_after_the_tail() -> None:
    gate = Gate(RATE, 256)
    gate.tail = 4800
    level = np.full(RATE, 1e-30, np.float32)
    level[10_000:] = 0.0
    gain = gains(gate, level)
    assert np.all(gain[: 10_000 + 256 + 4800] == 1.0)
    assert np.all(gain[10_000 + 256 + 4800 + round(RELEASE_SECONDS * RATE) + 400 :] == 0.0)


def test_reset_opens_it() -> None:
    gate = Gate(RATE, 256)
    gain = gains(gate, np.zeros(RATE, np.float32))
    assert gain[-1] == 0.0
    gate.reset()
    assert np.all(gains(gate, np.zeros(100, np.float32)) == 1.0)
