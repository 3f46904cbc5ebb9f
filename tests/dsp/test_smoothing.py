"""Ramps take their time in samples, whatever the blocks."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dsp.smoothing import Ramp, equal_power_fade

COUNT = np.arange(1000, dtype=np.float32)


def values(ramp: Ramp, start: int, sizes: list[int]) -> NDArray[np.float32]:
    pieces = []
    for size in sizes:
        piece = np.empty(size, np.float32)
        ramp.fill(start, COUNT, piece)
        pieces.append(piece)
        start += size
    return np.concatenate(pieces)


def test_a_straight_line_from_the_sample_of_the_change_to_length_samples_later() -> None:
    ramp = Ramp(10, 0.0)
    ramp.aim(1.0, 100)
    expected = np.concatenate([np.zeros(5), np.arange(1, 11) / 10, np.ones(5)])
    assert np.allclose(values(ramp, 95, [20]), expected, atol=1e-7)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_values_do_not_depend_on_the_blocks(size: int) -> None:
    def moved() -> Ramp:
        ramp = Ramp(100, -3.0)
        ramp.aim(2.5, 40)
        ramp.aim(0.1, 90)  # on the way
        return ramp

    whole = values(moved(), 90, [448])
    assert np.array_equal(values(moved(), 90, [size] * (448 // size)), whole)
    assert np.all(whole[99:] == np.float32(0.1))
    one_by_one = np.array([moved().at(position) for position in range(90, 538)])
    assert np.allclose(whole, one_by_one, atol=1e-6)


def test_a_change_on_the_way_goes_on_from_where_it_is() -> None:
    ramp = Ramp(100, 0.0)
    ramp.aim(1.0, 0)
    ramp.aim(0.0, 50)
    assert ramp.at(49) == pytest.approx(0.5)
    assert ramp.at(50) == pytest.approx(0.495)
    assert ramp.at(149) == 0.0


def test_the_same_target_again_does_not_slow_it_down() -> None:
    ramp = Ramp(100, 0.0)
    ramp.aim(1.0, 0)
    ramp.aim(1.0, 60)
    assert ramp.at(99) == 1.0


def test_it_stays_only_where_it_has_arrived() -> None:
    ramp = Ramp(10, 0.0)
    assert ramp.stays(0.0, 0)
    ramp.aim(1.0, 5)
    assert not ramp.stays(1.0, 13)
    assert ramp.stays(1.0, 14)
    assert not ramp.stays(0.0, 14)


def test_fades_keep_the_power() -> None:
    fade = equal_power_fade(1440)
    assert np.allclose(fade[0] ** 2 + fade[1] ** 2, 1.0, atol=1e-6)
    assert np.all(np.diff(fade[0]) < 0)
    assert np.all(np.diff(fade[1]) > 0)
    assert fade[0, 0] > 0.99
    assert fade[1, -1] > 0.99
