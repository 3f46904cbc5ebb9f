"""Matrix products that stay on the thread that wants them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Multiply-adds up to which OpenBLAS, the BLAS in numpy's wheels, leaves its threads alone (its interface/gemm.c: 65536 times a
# GEMM_MULTITHREAD_THRESHOLD of 4). Once called they spin for some 25 ms, after every product, and they serve one caller at a
# time: beside threads of ours they took a third of two cores for nothing.
LARGEST = 1 << 18
COLUMNS = 96  # at a time, about: with many more hardly a row fits under the limit, and each product is mostly overhead


def product(rows: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """`rows` [n, k] @ `matrix` [k, m] in pieces that BLAS takes for small; k up to a thousand, or there is little left of them."""
    (count, depth), width = rows.shape, matrix.shape[1]
    columns = -(-width // -(-width // COLUMNS))
    height = max(1, min(count, LARGEST // (depth * columns)))
    whole = count // height * height
    out = np.empty((count, width), np.float32)
    for first in range(0, width, columns):
        part = matrix[:, first : first + columns]
        stacked = rows[:whole].reshape(whole // height, height, depth) @ part
        out[:whole, first : first + columns] = stacked.reshape(whole, part.shape[1])
        if whole < count:  # as many rows again: one by itself would be a product of another kind, with a lower threshold
            out[-height:, first : first + columns] = rows[-height:] @ part
    return out
