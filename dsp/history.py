"""The recent past of a stream, addressed by sample index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class History:
    """Append-only stream of which the newest samples can be read as contiguous views.

    Sample indices count from the start of the stream; everything before index 0 is silence. Nothing is allocated after
    construction: when the end of the store is reached, the samples still wanted move to its front, which costs one copy
    every so often and, unlike a ring that wraps, lets a filter see its whole window in one piece.

    Parameters
    ----------
    channels : int
    keep : int
        Samples before the newest one that stay readable at least.
    push : int
        Most samples `append` takes at once.
    before : int
        Readable samples of silence before index 0.
    """

    def __init__(self, channels: int, keep: int, push: int, before: int = 0) -> None:
        self._keep = max(keep, before, 1)
        self._before = before
        # Twice `keep`, so that the move to the front never overlaps itself: numpy would allocate a copy if it did.
        self._store: NDArray[np.float32] = np.zeros((channels, 2 * self._keep + push), np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next sample appended is index 0."""
        self._store[:, : self._before] = 0.0
        self._fill = self._before
        self._first = -self._before  # the stream index of column 0

    @property
    def end(self) -> int:
        """Samples appended so far."""
        return self._first + self._fill

    @property
    def store(self) -> NDArray[np.float32]:
        """[channels, columns], for gathers by column; see `column`."""
        return self._store

    def column(self, index: int) -> int:
        """Column of `store` that holds stream sample `index` until the next `append`."""
        return index - self._first

    def append(self, samples: NDArray[np.float32]) -> None:
        """Take samples [channels, n], n <= push."""
        n = samples.shape[-1]
        if self._fill + n > self._store.shape[1]:
            start = self._fill - self._keep
            self._store[:, : self._keep] = self._store[:, start : self._fill]
            self._first += start
            self._fill = self._keep
        self._store[:, self._fill : self._fill + n] = samples
        self._fill += n

    def window(self, start: int, stop: int) -> NDArray[np.float32]:
        """View [channels, stop - start] of the samples with these stream indices, valid until the next `append`."""
        return self._store[:, start - self._first : stop - self._first]
