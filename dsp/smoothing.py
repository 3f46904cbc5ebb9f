"""Changes that take a fixed time and land on a sample, however the stream is cut into blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Seconds. Shorter is heard as a click on a sung vowel, longer as a lag behind the hand on the control.
RAMP_SECONDS = 0.030


class Ramp:
    """A number that moves to each new target in a straight line over `length` samples.

    Positions are stream sample indices. The value is a function of the position and of the moments at which `aim` was
    called, nothing else; the first sample after `aim` already moves, the last of `length` samples is the target exactly.
    """

    def __init__(self, length: int, value: float) -> None:
        self.length = max(1, length)
        self.snap(value)

    def snap(self, value: float) -> None:
        """Be at `value` at once."""
        self.start = self.target = float(value)
        self.origin = 0

    def aim(self, target: float, position: int) -> None:
        """From `position` on move to `target`; nothing happens when that is the target already."""
        if target == self.target:
            return
        self.start = self.at(position - 1)
        self.target, self.origin = float(target), position

    def at(self, position: float) -> float:
        """The value at a sample (between samples too, for models that are steered once a chunk)."""
        done = (position + 1 - self.origin) / self.length
        if done >= 1:
            return self.target
        return self.start + (self.target - self.start) * max(0.0, done)

    def stays(self, value: float, position: int) -> bool:
        """Whether it is `value` at `position` and from there on."""
        return self.target == value and (self.start == value or position + 1 - self.origin >= self.length)

    def fill(self, position: int, count: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Write the values at position, position + 1, ... to `out` [n]; `count` holds 0, 1, 2, ..., at least n of them.

        Exact for n + length < 2^24, where float32 counts whole samples.
        """
        if self.stays(self.target, position):
            out.fill(self.target)
            return
        np.add(count[: out.shape[0]], position + 1 - self.origin, out=out)
        np.clip(out, 0, self.length, out=out)
        out *= 1 / self.length
        out *= self.target - self.start
        out += self.start
        out[max(0, self.origin + self.length - 1 - position) :] = self.target  # not only nearly


def scale(signals: NDArray[np.float32], gain: NDArray[np.float32]) -> None:
    """Multiply signals [channels, n] by gain [n] in place.

    Channel by channel: where numpy repeats an operand it does so in a buffer that it allocates, which is not for an audio thread.
    """
    for channel in signals:
        channel *= gain


def add(signals: NDArray[np.float32], signal: NDArray[np.float32]) -> None:
    """Add a signal [n] to each of signals [channels, n] in place; as `scale`."""
    for channel in signals:
        channel += signal


def equal_power_fade(length: int) -> NDArray[np.float32]:
    """Gains [2, length] of what goes out and what comes in: their squares add up to 1, for signals that differ."""
    angle = np.pi / 2 * np.arange(1, length + 1) / (length + 1)
    return np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)
