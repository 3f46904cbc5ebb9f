"""The demonstration and its page, through the real chain."""

import re

import numpy as np
import pytest
from pedalboard import Compressor
from pedalboard.io import AudioFile
from typer.testing import CliRunner

from plugin_bridge.cli import app
from plugin_bridge.demo import demo_phrase
from presets.make_demo_phrase import sing_demo_phrase


def test_the_bundled_phrase_is_what_its_script_sings():
    phrase, rate = demo_phrase()
    song = sing_demo_phrase()
    assert rate == song.sample_rate and phrase.shape == (1, len(song.audio))
    assert np.abs(phrase[0] - song.audio).max() <= 2 * 2**-15  # 16 bits, and another processor's last bit


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory, voice_folder):
    """The program's output, and the folder it wrote."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    result = CliRunner().invoke(app, ["demo", "delay512", str(voice_folder / "rate16k.voice"), "--out", str(folder)])
    assert result.exit_code == 0, result.stderr
    return result.stdout, folder


def test_the_demo_tells_of_each_voice_and_ends_with_its_page(demo_run):
    output, folder = demo_run
    lines = output.strip().splitlines()
    assert lines[-1] == str(folder / "report.html")
    rows = {line.split()[0]: line for line in lines if re.match(r"\s*(delay512|rate16k) ", line)}
    # 256 samples of look-ahead, and blocks of 512 for a chunk of 512: nothing on top.
    assert "256 samples (5.3 ms)" in rows["delay512"]
    for row in rows.values():
        assert float(re.search(r"([\d.]+) cents", row).group(1)) < 5  # these voices give back the source's own pitch


def test_the_page_shows_and_plays_each_voice(demo_run):
    _, folder = demo_run
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert html.count("<section") == 2 and html.count("<audio") == 4
    alts = re.findall(r'alt="([^"]*)"', html)
    assert len(alts) == html.count("<img") == 2
    for alt in alts:
        assert re.search(r"median pitch 2[5-7]\d Hz; .* median pitch 2[5-7]\d Hz", alt)  # C4 is 262 Hz


@pytest.mark.parametrize("voice", ["delay512", "rate16k"])
def test_the_demo_is_in_time_with_its_source(demo_run, voice):
    """Against the compressor alone, the dry part of the chain's reverb stands at lag 0."""
    _, folder = demo_run
    phrase, rate = demo_phrase()
    with AudioFile(str(folder / f"demo_{voice}.wav")) as file:
        assert (file.samplerate, file.frames, file.num_channels) == (rate, phrase.shape[1], 1)
        wet = file.read(file.frames)[0]
    dry = Compressor()(phrase, rate)[0]
    n = 1 << 20
    correlation = np.fft.irfft(np.fft.rfft(wet, n) * np.conj(np.fft.rfft(dry, n)))
    assert np.argmax(correlation) == 0


@pytest.mark.parametrize("arguments", [["nobody"], ["delay512", "--out", "taken"]])
def test_a_demo_that_cannot_be_is_told(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    result = CliRunner().invoke(app, ["demo", *arguments])
    assert result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1
