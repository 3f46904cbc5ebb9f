"""Noise that belongs to a song, not to the slice that is being rendered: a function of seed, stream and global index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROWS = 64  # drawn at a time: a generator costs some 20 µs to set up


def frame_noise(seed: int, stream: int, first: int, frames: int, width: int) -> NDArray[np.float32]:
    """Standard normal noise [frames, width] of the frames from `first` on.

    The same frame of the same `seed` and `stream` has the same noise, however the song is cut. Different streams are
    independent. Philox (Salmon et al. 2011) reaches any index directly.
    """
    if first < 0:
        raise ValueError(f"frames are counted from 0 on, got {first}")
    blocks = range(first // ROWS, -(-(first + frames) // ROWS))
    if not blocks:
        return np.zeros((0, width), np.float32)
    drawn = np.concatenate([_block(seed, stream, block, width) for block in blocks])
    start = first - blocks.start * ROWS
    return drawn[start : start + frames]


def _block(seed: int, stream: int, block: int, width: int) -> NDArray[np.float32]:
    # Of numpy's random numbers only the raw bits are promised to stay; hence Box and Muller here.
    bits = np.random.Philox(key=[seed, stream], counter=[0, 0, block, 0]).random_raw(ROWS * width)
    radius = np.sqrt(-2 * np.log1p(-((bits >> np.uint64(32)) * 2.0**-32)))
    # numpy's cosine of float32 is ten times as fast, and its rounding nobody hears.
    angle = ((bits & np.uint64(0xFFFFFFFF)) * (2 * np.pi * 2.0**-32)).astype(np.float32)
    return np.asarray(radius * np.cos(angle), np.float32).reshape(ROWS, width)
