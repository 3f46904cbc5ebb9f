"""The past of a stream, addressed by sample index."""

import numpy as np

from dsp.history import History


def test_the_past_stays_readable_however_it_was_appended() -> None:
    """Sample i of channel c is i + 100000 c: every window within reach shows exactly that."""
    rng = np.random.default_rng(0)
    history = History(2, keep=50, push=30, before=20)
    for _ in range(500):
        start, n = history.end, int(rng.integers(0, 31))
        fresh = np.arange(start, start + n, dtype=np.float32)
        history.append(np.stack([fresh, fresh + 100_000]))
        end = start + n
        assert history.end == end
        first = int(rng.integers(max(-20, end - 50), end + 1))
        expected = np.arange(first, end, dtype=np.float32)
        shown = history.window(first, end)
        assert np.array_equal(shown[0], np.where(expected < 0, 0, expected))
        assert np.array_equal(shown[1], np.where(expected < 0, 0, expected + 100_000))


def test_reset_forgets() -> None:
    history = History(1, keep=8, push=8, before=8)
    history.append(np.ones((1, 8), np.float32))
    history.reset()
    assert history.end == 0
    assert not history.window(-8, 0).any()
