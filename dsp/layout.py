"""Which axis of an audio array is time: Pedalboard's rules."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class ChannelLayout:
    """Reads audio arrays as [channels, samples] and remembers, as Pedalboard's plugins do, what earlier ones looked like.

    One dimension is mono. Of two, the one as long as the last channel count is channels (the first, if both are), else the
    shorter one, but a length of 0 is always samples. A square array is read like the last array, and refused where there
    was none.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Nothing seen yet."""
        self._channels: int | None = None
        self._interleaved: bool | None = None
        self._flat = False

    def read(self, array: NDArray[np.floating]) -> NDArray[np.floating]:
        """View of `array` as [channels, samples].

        Raises
        ------
        RuntimeError
            If it has neither 1 nor 2 dimensions, or is square and nothing was seen before (Pedalboard's error).
        """
        if array.ndim not in (1, 2):
            raise RuntimeError(f"Number of input dimensions must be 1 or 2 (got {array.ndim}).")
        self._flat = array.ndim == 1
        if self._flat:
            self._channels, self._interleaved = 1, False
            return array[None, :]
        interleaved = self._is_interleaved(*array.shape)
        if array.shape != (0, 0):
            self._channels, self._interleaved = array.shape[1 if interleaved else 0], interleaved
        return array.T if interleaved else array

    def _is_interleaved(self, rows: int, columns: int) -> bool:
        if rows == columns == 1:
            return False
        if rows == columns:
            if self._interleaved is not None:
                return self._interleaved
            raise RuntimeError(
                f"Unable to determine channel layout from shape: ({rows}, {columns}). Provide a non-square array first to "
                "allow plugin_bridge to determine which dimension corresponds with the number of channels and which "
                "dimension corresponds with the number of samples."
            )
        if self._channels in (rows, columns):
            return columns == self._channels
        if rows == 0 or columns == 0:
            return rows == 0
        return columns < rows

    def restore(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """New C-contiguous array of samples [channels, n], with the axes of the array read last."""
        if self._flat:
            samples = samples[0]
        elif self._interleaved:
            samples = samples.T
        return np.array(samples, order="C")
