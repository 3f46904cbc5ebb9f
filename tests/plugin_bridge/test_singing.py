"""What is said of a voice's singing, held against voices whose faults are known: none, a delay, a flat vibrato."""

import json
import re
import shutil

import numpy as np
import pytest
from song_packs import write_song_pack
from typer.testing import CliRunner

from plugin_bridge import VoiceConverter, singing
from plugin_bridge.cli import app
from plugin_bridge.convert import Settings
from plugin_bridge.voices import find_voice


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


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


def test_a_voice_that_gives_back_what_it_hears_sings_as_its_singer_does(monkeypatch, tmp_path):
    """delay512 does. The fewest songs that ask everything."""
    monkeypatch.setattr(singing, "HEIGHTS", (40, 66))
    monkeypatch.setattr(singing, "RANGE", (43, 71))
    monkeypatch.setattr(singing, "VIBRATOS", ((7.0, 60.0),))
    monkeypatch.setattr(singing, "CREAKS", (0.4,))
    findings = singing.evaluate_singing(Settings("delay512"), tmp_path)
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


def test_buzz_of_morphs_is_found(monkeypatch, tmp_path):
    """bank_b gives half of what bank_a does, so a mix of them is the singer as well."""
    monkeypatch.setattr(singing, "HEIGHTS", (40, 61))  # the first is not asked for
    (clean,) = singing._morphs(VoiceConverter("bank_a"))
    assert (clean.median, clean.worst) == pytest.approx((0, 0), abs=0.1)
    buzzing = Buzzing("bank_a")
    (found,) = singing._morphs(buzzing)
    assert found.median > 6 and buzzing.voice == "bank_a"
    elsewhere = shutil.copy(find_voice("bank_a").pack.path, tmp_path)
    for without_others in ("delay512", {"bank_a": 1.0}, elsewhere):
        assert not list(singing._morphs(VoiceConverter(without_others)))


@pytest.mark.parametrize("engine", ["stream", "song"])
def test_without_a_folder_a_synthetic_singer_is_converted_measured_and_shown(monkeypatch, tmp_path, engine):
    """The fewest songs there can be."""
    monkeypatch.setattr(singing, "TESTS", (singing._glides,))
    monkeypatch.setattr(singing, "HEIGHTS", (52,))
    monkeypatch.setattr(singing, "PHRASE", singing.PHRASE[:2])
    voice = "delay512" if engine == "stream" else write_song_pack(tmp_path / "song.voice", {"even": 0.0})  # no stream engine in it
    options = [] if engine == "stream" else ["--engine", "song", "--size", "mobile", "--steps", "2"]
    out = tmp_path / "out"
    result = run("evaluate", voice, "--out", out, *options)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"Glides over an octave in a second, off by +\d\.\d\d cents +\d\.\d\d cents +within 10 cents", result.stdout)
    assert str(out / "figures.json") in result.stdout and str(out / "report.html") in result.stdout
    figures = json.loads((out / "figures.json").read_text())
    wanted = ("stream", "lhq", 1) if engine == "stream" else ("song", "mobile", 2)
    assert tuple(figures["settings"][name] for name in ("engine", "size", "steps")) == wanted
    assert figures["findings"][0]["worst"] < 10 and figures["findings"][0]["wanted"] == "within 10"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"by the {engine} engine" in page and "Glides over an octave" in page
    assert page.count('src="data:audio/flac;base64,') == 2


def test_no_evaluation_overwrites_another(monkeypatch, tmp_path):
    """By default both kinds of each voice have folders of their own; in the same one, the other kind is refused before the work."""
    monkeypatch.setattr(singing, "TESTS", ())
    monkeypatch.setattr(singing, "_shown", lambda converter: None)
    monkeypatch.setattr(singing, "write_report", lambda *page: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    home = tmp_path / "evaluation" / "delay512"
    home.mkdir(parents=True)
    of_recordings = home / "figures.json"
    of_recordings.write_text('{"clips": []}')
    for voice in ("delay512", "bank_a"):
        result = run("evaluate", voice)
        assert result.exit_code == 0, result.stderr
    assert of_recordings.read_text() == '{"clips": []}'
    for voice in ("delay512", "bank_a"):
        of_singing = json.loads((tmp_path / "evaluation" / voice / "singing" / "figures.json").read_text())
        assert "findings" in of_singing and of_singing["settings"]["voice"] == voice
    for arguments in (["delay512", "--out", str(home)], ["delay512", "in", "--out", str(home / "singing")]):
        result = run("evaluate", *arguments)
        assert result.exit_code == 2 and "which would be lost: name another folder" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nobody"], "no voice is called 'nobody'"),
        (["delay512", "--engine", "bogus"], "the engine must be stream or song, not 'bogus'"),
        (["delay512", "--engine", "song", "--size", "huge"], "the size must be lhq or mobile, not 'huge'"),
        (["delay512", "--engine", "song"], "has no song engine 'lhq'"),
        (["delay512", "--size", "mobile"], "--size is of the song engine"),
        (["delay512", "--steps", "1"], "--steps is of the song engine"),
        (["delay512", "--refs", "nowhere"], "--refs is for recordings"),
        (["delay512", "--transpose", "0"], "--transpose is for recordings"),
        (["delay512", "--dnsmos", "none.onnx"], "--dnsmos is for recordings"),
        (["delay512", "--limit", "3"], "--limit is for recordings"),
        (["delay512", "--words"], "--words is for recordings"),
        (["delay512", "--rooms"], "--rooms is for recordings"),
        (["delay512", "--song-table"], "--song-table is for recordings"),
        (["delay512", "--out", __file__], "is a file, but the figures and the page need a folder"),
    ],
)
def test_what_the_synthetic_singer_has_no_use_for_is_refused_before_measuring(monkeypatch, arguments, sentence):
    monkeypatch.setattr(singing, "TESTS", None)  # nothing is measured
    result = run("evaluate", *arguments)
    assert result.exit_code == 2 and sentence in result.stderr and result.stderr.count("\n") == 1, result.stderr
