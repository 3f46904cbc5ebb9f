"""What the README states, held against the program."""

import re
from pathlib import Path

import numpy as np
import pytest
from pedalboard.io import AudioFile
from typer.testing import CliRunner

from plugin_bridge import VoiceConverter, voices
from plugin_bridge.cli import app
from plugin_bridge.demo import demo_phrase

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
needs_bundled_voices = pytest.mark.skipif(
    not list((Path(__file__).parents[2] / "presets").glob("*.voice")), reason="no voices are bundled"
)


def test_the_latency_table_is_what_a_converter_reports():
    """delay512 has the chunk and the look-ahead that the README names."""
    assert "B = 512 samples with A = 256 samples" in README
    rows = re.findall(r"^\| (\d+|varying) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", README, re.MULTILINE)
    assert len(rows) == 6
    for block, *cells in rows:
        for rate, cell in zip((44100, 48000, 96000), cells, strict=True):
            converter = VoiceConverter("delay512")
            converter.prepare(rate, None if block == "varying" else int(block))
            samples = converter.latency_samples
            assert cell.strip(" *") == f"{samples} ({1e3 * samples / rate:.1f} ms)", (block, rate)


def test_every_option_the_readme_shows_exists():
    for line in re.findall(r"^plugin-bridge (.+?)(?:  +#.*)?$", README, re.MULTILINE):
        command, *arguments = line.split()
        help_text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
        for option in (argument for argument in arguments if argument.startswith("--")):
            assert option in help_text, line


@needs_bundled_voices
def test_the_examples_run_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    phrase, rate = demo_phrase()
    with AudioFile("lead.wav", "w", rate, 1, bit_depth=24) as file:
        file.write(phrase[:, : 2 * rate])
    names = {"block": np.zeros((1, 512), np.float32)}
    for example in re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        exec(example, names)  # one session: later examples go on with the names of earlier ones
    with AudioFile("lead as pjs.wav") as file:
        assert file.frames == 2 * rate
    assert names["singer"].latency_samples == 256


@needs_bundled_voices
def test_every_bundled_voice_is_credited():
    bundled = [name for name in voices() if f"| {name} |" in README]
    assert {"pjs", "kerstin", "alys"} <= set(bundled)


@needs_bundled_voices
def test_the_voices_are_told_in_the_order_in_which_they_are_found(monkeypatch):
    monkeypatch.delenv("PLUGIN_BRIDGE_VOICES")
    (told,) = re.findall(r"^voices\(\) +# \[(.+), \.\.\.\]$", README, re.MULTILINE)
    names = told.replace("'", "").split(", ")
    assert voices()[: len(names)] == names
