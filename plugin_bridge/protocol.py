"""What comes in through the call protocol of our processors, checked: one sentence says what was expected and what came."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray


def check_audio(array: object) -> None:
    """TypeError for anything but an array of float32 or float64."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"audio must be a numpy array, got {type(array).__name__}")
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise TypeError(
            f"plugin_bridge only supports 32-bit and 64-bit floating point audio for processing, got {array.dtype}."
        )


def check_block(x: object, out: object, channels: int, block_size: int | None) -> None:
    """TypeError or ValueError for what `process_block` cannot take, or cannot write to, in a stream prepared so."""
    check_audio(x)
    assert isinstance(x, np.ndarray)
    if x.ndim not in (1, 2) or (1 if x.ndim == 1 else x.shape[0]) != channels:
        raise ValueError(f"block must have the shape ({channels}, n) as prepared, got {x.shape}")
    if block_size is not None and x.shape[-1] % block_size:
        raise ValueError(f"block must have {block_size} samples as prepared, or a multiple of that, got {x.shape[-1]}")
    if out is None:
        return
    if not isinstance(out, np.ndarray) or out.dtype != np.float32:
        raise TypeError("out must be a float32 array")
    if out.shape != x.shape or not out.flags.writeable:
        raise ValueError(f"out must be writeable and have the shape of the block, {x.shape}, got {out.shape}")


def apart_from(out: NDArray[np.float32], x: NDArray[np.floating]) -> NDArray[np.floating]:
    """`x`, or a copy where `out`, written piece by piece, would lie over pieces of it that are still to be read."""
    if not np.may_share_memory(x, out):
        return x
    same_place = x.strides == out.strides and x.ctypes.data == out.ctypes.data
    return x if same_place else x.copy()


def number(name: str, value: object) -> float:
    """TypeError for anything but a real number; infinity for what is too large for a float."""
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        return -math.inf if value < 0 else math.inf


def rate(sample_rate: object) -> float:
    """Hz, finite and > 0, else ValueError; TypeError for anything but a number."""
    hertz = number("sample_rate", sample_rate)
    if not (math.isfinite(hertz) and hertz > 0):
        raise ValueError(f"sample_rate must be finite and above 0 Hz, got {hertz:g}")
    return hertz


def positive(name: str, value: SupportsIndex) -> int:
    """TypeError for anything but a whole number, ValueError below 1."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__}") from None
    if whole < 1:
        raise ValueError(f"{name} must be at least 1, got {whole}")
    return whole


def normal(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """`audio`, with 0 for NaN, infinities and subnormal numbers.

    A filter that heard one of the former never sounds again; the latter make everything after them slow.
    """
    size = np.abs(audio)
    good = (size >= np.finfo(np.float32).tiny) & (size <= np.finfo(np.float32).max)
    return audio if good.all() else np.where(good, audio, np.float32(0))
