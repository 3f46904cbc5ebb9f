"""Close-ups of recordings of which it is known what is where: clicks, and conversions in which they come 5 ms late."""

import io

import numpy as np
import pytest
from matplotlib.image import imread
from pedalboard.io import AudioFile

from dsp.noises import Noise
from plugin_bridge.closeups import clearest, draw_close_ups, label

RATE = 48_000


def write(path, clicks_s):
    audio = np.zeros(2 * RATE, np.float32)
    audio[[round(time_s * RATE) for time_s in clicks_s]] = 0.5
    with AudioFile(str(path), "w", RATE, 1, bit_depth=24) as file:
        file.write(audio)
    return path


@pytest.fixture
def found(tmp_path):
    """Two recordings, each beside its conversion, with plosives in both and a breath in one."""
    clear = [Noise("plosive", time_s, rise_db) for time_s, rise_db in ((0.5, 40.0), (1.0, 39.0), (1.9, 38.0))]
    plosives = [clear, [Noise("plosive", 0.7, 21.0)]]
    breaths = [[], [Noise("breath", 0.05, -25.0)]]
    rows = []
    for number, noises in enumerate(plosives):
        times_s = [noise.time_s for noise in noises]
        source = write(tmp_path / f"{number}.wav", times_s)
        target = write(tmp_path / f"{number} after.wav", [time_s + 0.005 for time_s in times_s])
        rows.append((source, target, noises + breaths[number]))
    return rows


def test_the_three_clearest_of_each_kind_come_from_all_recordings(found):
    close_ups = clearest(found)
    assert list(close_ups) == ["plosive", "breath"]
    assert [label(pair) for pair in close_ups["plosive"]] == [
        "Plosive, 0.wav, 0:00.50", "Plosive, 1.wav, 0:00.70", "Plosive, 0.wav, 0:01.00",
    ]  # fmt: skip
    for pair in close_ups["plosive"]:
        clicks_s = [pair.start_s + int(np.argmax(audio)) / RATE for audio in (pair.before, pair.after)]
        assert clicks_s == pytest.approx([pair.noise.time_s, pair.noise.time_s + 0.005], abs=1e-4)
        assert len(pair.before) == len(pair.after) == 0.3 * RATE
    assert close_ups["breath"][0].start_s == 0  # it is nearer to the beginning than half a picture is wide


def test_five_milliseconds_are_seen(found):
    """Columns of the picture, above and below, that a click alone makes bright."""
    picture = imread(io.BytesIO(draw_close_ups(clearest(found)["plosive"][:1])))[..., :3].mean(axis=2)
    height, width = picture.shape
    assert (height, width) == (572, 1210)
    panels = [picture[round(low * height) : round(high * height), 90:400] for low, high in ((0.1, 0.4), (0.57, 0.87))]
    brightest = []
    for panel in panels:
        light = panel.mean(axis=0)
        light[light > 0.9] = 0  # the frame's white
        brightest.append(float(np.mean(np.flatnonzero(light > 0.8 * light.max()))))
    per_ms = 341 / 300
    assert brightest[1] - brightest[0] == pytest.approx(5 * per_ms, abs=1.5)
