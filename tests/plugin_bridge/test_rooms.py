"""Noise and rooms whose level and length are told by formula."""

import numpy as np
import pytest

from plugin_bridge.rooms import NOISE_DB, REVERB_DB, REVERB_S, with_noise, with_reverb

RATE = 16_000


def test_the_noise_lies_so_many_db_under_the_recording_in_every_channel():
    audio = np.stack([np.sin(np.arange(RATE) / 5), np.sin(np.arange(RATE) / 5)]).astype(np.float32)
    noise = with_noise(audio, RATE) - audio
    assert 20 * np.log10(np.std(noise[0]) / np.std(audio)) == pytest.approx(-NOISE_DB, abs=0.1)
    assert noise[0] == pytest.approx(noise[1], abs=1e-6)
    spectrum = np.abs(np.fft.rfft(noise[0])) ** 2
    assert spectrum[100:200].mean() > 20 * spectrum[2000:4000].mean()  # of a fan more than of a kettle
    assert not with_noise(np.zeros((1, 100), np.float32), RATE).any()


def test_a_click_in_a_room_is_the_click_and_a_tail_that_dies_away():
    click = np.zeros((1, 2 * RATE), np.float32)
    click[0, 0] = 1
    heard = with_reverb(click, RATE)[0]
    assert heard.dtype == np.float32 and len(heard) == 2 * RATE and heard[0] == pytest.approx(1)
    assert 10 * np.log10(np.sum(heard[1:] ** 2)) == pytest.approx(-REVERB_DB, abs=0.1)
    early, late = (np.mean(np.square(heard[round(at * RATE) :][:800])) for at in (0.05, 0.05 + REVERB_S / 2))
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=2)
