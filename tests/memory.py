"""What a loop allocates: the same measure for every test that says it is nothing."""

import gc
import tracemalloc
from collections.abc import Callable


def allocated(run: Callable[[int], object], first: int, then: int) -> tuple[int, int]:
    """Bytes that `run(then)` keeps, and most of those that it holds on its way, when `run(first)` has warmed it up."""
    gc.collect()
    tracemalloc.start()
    try:
        run(first)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        run(then)
        peak = tracemalloc.get_traced_memory()[1]
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    return after - before, peak - before
