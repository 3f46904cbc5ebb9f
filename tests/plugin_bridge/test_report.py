"""The page shows and plays what FLAC does not hold, too."""

import base64
import re
from io import BytesIO

import numpy as np
import pytest
from pedalboard.io import AudioFile

from dsp.pitch import PitchTrack
from plugin_bridge import report
from plugin_bridge.report import Take, write_report


@pytest.mark.parametrize(
    ("channels", "rate", "played"),
    [(2, 44_100, (2, 44_100)), (9, 44_100, (1, 44_100)), (1, 768_000, (1, 192_000)), (2, 88_211, (2, 192_000))],
)
def test_any_rate_and_any_number_of_channels_is_played(monkeypatch, tmp_path, channels, rate, played):
    monkeypatch.setattr(report, "draw", lambda take: b"")
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate // 10) / rate).astype(np.float32)
    nothing = PitchTrack(np.zeros(0), np.zeros(0), np.zeros(0, bool))
    audio = np.stack([tone] * channels)
    write_report(tmp_path / "p.html", "", "", [("Recording",)], [Take("a", audio, audio, rate, nothing, nothing, 0.0, [])])
    page = (tmp_path / "p.html").read_text()
    for data in re.findall(r'src="data:audio/flac;base64,([^"]+)"', page):
        with AudioFile(BytesIO(base64.b64decode(data))) as file:
            heard = file.read(file.frames)
            assert (file.num_channels, file.samplerate) == played
        assert abs(heard.shape[1] / played[1] - 0.1) < 1e-4
        middle = slice(len(heard[0]) // 4, -len(heard[0]) // 4)
        wanted = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(heard[0])) / played[1])
        assert np.abs(heard - wanted)[:, middle].max() < 1e-3
