"""Matrix products that stay on the thread that wants them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Multiply-adds up to which OpenBLAS, the BLAS in numpy's wheels, leaves its threads alone (its interface/gemm.c: 65536 times a
# GEMM_MULTITHREAD_THRESHOLD of 4). Once called they spin for some 25 ms, after every product, and they serve one caller at a
# time: beside threads of ours they took a third of two cores for nothing.
LARGEST = 1 << 18
ROWS = 16  # at a time: as BLAS takes them, so that a row's numbers do not depend, by a rounding, on how many others there are


def product(rows: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """`rows` [n, k] @ `matrix` [k, m] in pieces that BLAS takes for small; k up to a thousand, or there is little left of them."""
    (count, depth), width = rows.shape, matrix.shape[1]
    columns = max(1, min(width, LARGEST // (ROWS * depth)))
    whole = count // ROWS * ROWS
    out = np.empty((count, width), np.float32)
    for first in range(0, width, columns):
        part = matrix[:, first : first + columns]
        stacked = rows[:whole].reshape(whole // ROWS, ROWS, depth) @ part
        out[:whole, first : first + columns] = stacked.reshape(whole, part.shape[1])
        if whole < count:
            out[-ROWS:, first : first + columns] = rows[-ROWS:] @ part
    return out
