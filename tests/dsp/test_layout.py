"""Which axis is time: the same answer as Pedalboard's own, asked of Pedalboard."""

import numpy as np
import pedalboard
import pytest

from dsp.layout import ChannelLayout


def pedalboard_reads_as_given(plugin: pedalboard.Plugin, shape: tuple[int, ...]) -> bool | None:
    """Whether it takes the array as (channels, samples): a high-pass of ones decays along the axis of time."""
    filtered = plugin.process(np.ones(shape, np.float32), 44100, reset=True)
    if len(shape) == 1 or min(shape) < 2:
        return None  # nothing to tell the axes apart by
    return not np.allclose(filtered[:, 0], filtered[:, 1])


@pytest.mark.parametrize("seed", range(300))
def test_axes_are_read_as_pedalboard_reads_them(seed: int) -> None:
    """Sequences of arrays of all small shapes, empty and square ones among them, with resets between."""
    rng = np.random.default_rng(seed)
    plugin, layout = pedalboard.HighpassFilter(8000), ChannelLayout()
    for _ in range(8):
        kind = rng.integers(10)
        if kind == 0:
            plugin.reset()
            layout.forget()
            continue
        shape = tuple(int(size) for size in rng.integers(0, 6, 1 if kind == 1 else 2))
        try:
            as_given = pedalboard_reads_as_given(plugin, shape)
        except RuntimeError:
            with pytest.raises(RuntimeError, match="Provide a non-square array first"):
                layout.read(np.ones(shape, np.float32))
            continue
        array = np.ones(shape, np.float32)
        samples = layout.read(array)
        if as_given is not None:
            assert (samples.strides == array.strides) == as_given
        assert layout.restore(samples).shape == shape


@pytest.mark.parametrize("shape", [(), (2, 3, 4)])
def test_other_numbers_of_dimensions_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match=rf"Number of input dimensions must be 1 or 2 \(got {len(shape)}\)"):
        ChannelLayout().read(np.zeros(shape, np.float32))


def test_restored_array_is_new_contiguous_and_has_the_axes_of_the_input() -> None:
    layout = ChannelLayout()
    array = np.arange(20, dtype=np.float32).reshape(10, 2)
    restored = layout.restore(layout.read(array))
    assert np.array_equal(restored, array)
    assert restored.flags.c_contiguous
    assert not np.shares_memory(restored, array)
