"""What is said of a voice's singing, held against voices whose faults are known: none, a delay, a flat vibrato."""

import re
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from plugin_bridge import VoiceConverter, singing
from plugin_bridge.cli import app
from plugin_bridge.voices import find_voice


@pytest.mark.parametrize(("depth", "lag_ms"), [(1.0, 0), (0.8, 0), (1.1, 7), (0.5, -12)])
def test_vibrato_is_compared_in_depth_time_and_rate(depth, lag_ms):
    t = np.arange(2500) / 1000
    sung = 300 * t + 60 * np.sin(2 * np.pi * 5.5 * t)  # over a glide
    made = 300 * t + 60 * depth * np.sin(2 * np.pi * 5.5 * (t - lag_ms / 1000))
    found = singing.compare_waves(sung, made)
    assert found[0] == pytest.approx(depth, abs=0.02)
    assert found[1] == pytest.approx(lag_ms, abs=1)
    assert found[2] == pytest.approx(1, abs=0.005)
    faster = singing.compare_waves(sung, 60 * np.sin(2 * np.pi * 6.05 * t))
    assert faster[2] == pytest.approx(1.1, abs=0.01)


def test_a_voice_that_gives_back_what_it_hears_sings_as_its_singer_does(monkeypatch):
    """delay512 does. The fewest songs that ask everything."""
    monkeypatch.setattr(singing, "HEIGHTS", (40, 54, 66))
    monkeypatch.setattr(singing, "RANGE", (43, 71))
    monkeypatch.setattr(singing, "VIBRATOS", ((7.0, 60.0),))
    monkeypatch.setattr(singing, "CREAKS", (0.4,))
    findings = singing.evaluate_singing("delay512")
    assert len(findings) == len({finding.what for finding in findings}) == 14
    for finding in findings:
        if finding.what.startswith("Formants"):  # the pack has none to move
            continue
        bound = float(re.findall(r"-?[\d.]+", finding.wanted)[0])
        value = finding.worst
        kept = value >= bound if "least" in finding.wanted else value <= bound if "below" in finding.wanted else abs(value) <= bound
        assert kept, finding
    exact = {finding.what: finding.worst for finding in findings}
    assert exact["Creaking voice: octave too low, beyond the singer's own"] == pytest.approx(0, abs=0.01)
    assert exact["Plosives rise more slowly by"] == 0
    assert exact["Loudness contour's correlation with the singer's"] == pytest.approx(1)


class Buzzing(VoiceConverter):
    """Its voices are breathy, its mixes of them are not."""

    def __call__(self, *arguments, **named):
        made = super().__call__(*arguments, **named)
        breath = 0.0 if isinstance(self.voice, dict) else 0.1 * np.std(made)
        return made + breath * np.random.default_rng(0).standard_normal(made.shape)


def test_buzz_of_morphs_is_found(tmp_path):
    """bank_b gives half of what bank_a does, so a mix of them is the singer as well."""
    (clean,) = singing._morphs(VoiceConverter("bank_a"))
    assert (clean.median, clean.worst) == pytest.approx((0, 0), abs=0.1)
    buzzing = Buzzing("bank_a")
    (found,) = singing._morphs(buzzing)
    assert found.median > 6 and buzzing.voice == "bank_a"
    elsewhere = shutil.copy(find_voice("bank_a").pack.path, tmp_path)
    for without_others in ("delay512", {"bank_a": 1.0}, elsewhere):
        assert not list(singing._morphs(VoiceConverter(without_others)))


def test_without_a_folder_the_synthetic_singer_is_converted(monkeypatch):
    only = singing.Finding("Pauses against the phrases", "dB", -70.0, -60.0, "below -50")
    monkeypatch.setattr(singing, "evaluate_singing", lambda voice, advance: [only])
    result = CliRunner().invoke(app, ["evaluate", "delay512"])
    assert result.exit_code == 0, result.stderr
    assert "-70.00 dB" in result.stdout and "-60.00 dB" in result.stdout and "below -50 dB" in result.stdout
    monkeypatch.undo()
    result = CliRunner().invoke(app, ["evaluate", "nobody"])
    assert result.exit_code == 2 and "no voice is called 'nobody'" in result.stderr
