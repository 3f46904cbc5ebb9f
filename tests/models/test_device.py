"""A training's device is what was asked for, or what there is."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.device import pick_device  # noqa: E402


def test_a_gpu_is_taken_where_there_is_one() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told_of() -> None:
    with pytest.raises(ValueError, match="expected a GPU for the device cuda, but torch finds none"):
        pick_device("cuda")


def test_another_device_is_told_of() -> None:
    with pytest.raises(ValueError, match="the device must be one of cpu, cuda, not 'tpu'"):
        pick_device("tpu")
