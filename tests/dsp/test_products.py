"""Products in pieces: the same numbers, and no thread but the caller's."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dsp.products import product


@pytest.mark.parametrize(
    ("count", "depth", "width"), [(128, 128, 2050), (129, 128, 513), (1, 513, 80), (40, 130, 32), (0, 8, 3), (3, 1000, 7)]
)
def test_a_product_is_the_product(count, depth, width):
    rng = np.random.default_rng(0)
    rows, matrix = (rng.standard_normal(shape).astype(np.float32) for shape in ((count, depth), (depth, width)))
    made = product(rows, matrix)
    assert made.dtype == np.float32 and made.shape == (count, width)
    np.testing.assert_allclose(made, rows.astype(np.float64) @ matrix, atol=1e-3)


def test_rows_may_be_views_with_gaps():
    audio, matrix = np.arange(1000, dtype=np.float32), np.eye(20, 5, dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(audio, 20)[::30]
    np.testing.assert_array_equal(product(windows, matrix), windows[:, :5])


def test_no_other_thread_works_on_it():
    """All processor time of the process is the caller's, with a BLAS that has two threads to offer."""
    script = (
        "import time, numpy as np; from dsp.products import product\n"
        "rng = np.random.default_rng(0)\n"
        "shapes = [((128, 128), (128, 2050)), ((255, 513), (513, 80)), ((1000, 130), (130, 32))]\n"
        "pairs = [[rng.standard_normal(shape).astype(np.float32) for shape in pair] for pair in shapes]\n"
        "time.sleep(0.5)  # BLAS's threads spin for some 25 ms after they were made, too\n"
        "whole, own = time.process_time(), time.thread_time()\n"
        "for _ in range(100):\n"
        "    for rows, matrix in pairs: product(rows, matrix)\n"
        "own = time.thread_time() - own\n"
        "print((time.process_time() - whole - own) / own)\n"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    made = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    assert float(made.stdout) < 0.1
