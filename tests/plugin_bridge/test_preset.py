"""Presets: what is in the bundled ones, what is refused and how, and the user's folder."""

import json
import os
from pathlib import Path

import numpy as np
import pedalboard
import pytest
from typer.testing import CliRunner

from plugin_bridge import Board, VoiceConverter, voices
from plugin_bridge.cli import app
from plugin_bridge.control import ControlSurface
from plugin_bridge.preset import (
    EFFECTS,
    Effect,
    PresetError,
    broken_presets,
    find_preset,
    is_bundled,
    make_preset,
    presets,
    read_preset,
    save_preset,
    user_folder,
)
from plugin_bridge.signal_path import SignalPath

BUNDLED = ["choir", "deep", "natural", "octave-up", "telephone"]


@pytest.fixture(autouse=True)
def user_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of this test, not there yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return user_folder()


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "some.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_five_presets_come_with_the_program_and_sound() -> None:
    assert presets() == BUNDLED
    assert broken_presets() == []
    tone = (0.2 * np.sin(2 * np.pi * 220 * np.arange(24_000) / 48_000)).astype(np.float32)
    for name in BUNDLED:
        preset = find_preset(name)
        named = [preset.voice] if isinstance(preset.voice, str) else list(preset.voice or {})
        assert set(named) <= set(voices())
        converter = VoiceConverter("delay512", **preset.numbers())
        board = Board([e.build(48_000) for e in preset.before()] + [converter] + [e.build(48_000) for e in preset.after()])
        sound = board(tone, 48_000)
        assert np.isfinite(sound).all()
        assert 0.01 < np.abs(sound).max() <= 1


def test_every_effect_takes_both_ends_of_its_ranges_and_is_in_time() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4096).astype(np.float32)
    for name, ranges in EFFECTS.items():
        assert Effect(plugin=name).build(48_000).process(noise, 48_000, reset=False).shape == noise.shape  # no latency
        for end in (0, 1):
            values = {value: limits[end] for value, limits in ranges.items()}
            plugin = Effect(plugin=name, values=values).build(8000)
            assert {value: getattr(plugin, value) for value in values if "frequency" not in value} == pytest.approx(
                {value: limit for value, limit in values.items() if "frequency" not in value}
            )
            assert np.isfinite(plugin.process(noise, 8000)).all()


def test_effects_have_the_values_asked_for() -> None:
    plugin = Effect(plugin="Compressor", values={"threshold_db": -18, "ratio": 3}).build(48_000)
    assert isinstance(plugin, pedalboard.Compressor)
    assert (plugin.threshold_db, plugin.ratio) == (-18, 3)
    low = Effect(plugin="LowpassFilter", values={"cutoff_frequency_hz": 12_000}).build(16_000)
    assert isinstance(low, pedalboard.LowpassFilter)
    assert low.cutoff_frequency_hz == pytest.approx(7200)


CHAIN = [{"plugin": "VoiceConverter"}]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"title": "x", "chain": [{"plugin": "VST3Plugin"}, *CHAIN]}, "chain.0: there is no plugin 'VST3Plugin'"),
        ({"title": "x", "chain": [{"plugin": "Reverb", "values": {"size": 1}}, *CHAIN]}, "Reverb has no value 'size'"),
        (
            {"title": "x", "chain": [{"plugin": "Delay", "values": {"delay_seconds": 1e9}}, *CHAIN]},
            "delay_seconds of Delay must be between 0 and 5, got 1e+09",
        ),
        ({"title": "x", "chain": []}, "the chain must hold one VoiceConverter, got 0"),
        ({"title": "x", "chain": CHAIN * 2}, "the chain must hold one VoiceConverter, got 2"),
        ({"title": "x", "chain": [{"plugin": "Gain"}] * 500}, "chain"),
        ({"title": "x", "chain": [{"plugin": "VoiceConverter", "values": {"mix": 1}}]}, "belong in parameters"),
        ({"title": "x", "parameters": {"pitch_shift": 25}}, "pitch_shift must be between -24 and 24 semitones, got 25"),
        ({"title": "x", "parameters": {"bypass": 1}}, "there is no parameter 'bypass'"),
        ({"title": "x", "parameters": {"mix": "1"}}, "parameters.mix"),
        ({"title": "x", "voice": "../../etc/x.voice"}, "voice"),
        ({"title": "x", "colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"title": "x", "\x1b[2J\n": 1}, r"\x1b[2J\n: Extra inputs are not permitted"),
        ({"title": "\x1b[2J"}, "title"),
        ({"title": "x", "format": 2}, "format"),
        ({}, "title: Field required"),
        ('{"title": "x", "parameters": {"mix": NaN}}', "mix"),
        ({"title": "x", "voice": {"pjs": -1}}, "voice: the weight of a voice must be finite and not negative, got 'pjs': -1"),
        ({"title": "x", "voice": {"pjs": 0, "alys": 0}}, "must add up to more than 0, got pjs=0,alys=0"),
        ({"title": "x", "voice": {"pjs": 1e308, "alys": 1e308}}, "must add up to more than 0"),
        ('{"title": "x", "voice": {"pjs": Infinity}}', "voice"),
        ("[" * 10_000, "Invalid JSON"),
        ("\x00", "Invalid JSON"),
        ('{"title": "' + "x" * 70_000 + '"}', "at most 65536 bytes"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(tmp_path: Path, content: object, told: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(PresetError) as refused:
        read_preset(path)
    sentence = str(refused.value)
    assert told in sentence
    assert str(path) in sentence
    assert "\n" not in sentence
    assert sentence.isprintable()  # a terminal acts on what is not
    assert len(sentence) < 700


def test_a_preset_saved_is_found_again_before_a_bundled_one(user_presets: Path) -> None:
    chain = (Effect(plugin="Gain", values={"gain_db": -3}), Effect(plugin="VoiceConverter"))
    mine = make_preset("Mine", {"pjs": 0.25, "kerstin": 0.75}, {"pitch_shift": -2.5, "mix": 0.5}, chain)
    assert save_preset("mine", mine) == user_presets / "mine.json"
    assert presets() == sorted([*BUNDLED, "mine"])
    assert find_preset("mine") == mine
    assert find_preset(str(user_presets / "mine.json")) == mine
    assert is_bundled("deep")
    save_preset("deep", mine)
    assert not is_bundled("deep")
    assert find_preset("deep") == mine


def test_a_broken_preset_is_left_out_until_it_is_mended(user_presets: Path) -> None:
    user_presets.mkdir(parents=True)
    (user_presets / "broken.json").write_text("{broken")
    (user_presets / "louder.json").write_text('{"title": "Louder", "voice": {"pjs": -1}}')
    assert presets() == BUNDLED
    assert [Path(problem.split()[2]).name for problem in sorted(broken_presets())] == ["broken.json", "louder.json"]
    (user_presets / "broken.json").write_text('{"title": "Whole"}')
    assert presets() == sorted([*BUNDLED, "broken"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX pipes")
def test_a_pipe_among_the_presets_is_not_waited_for(user_presets: Path) -> None:
    user_presets.mkdir(parents=True)
    os.mkfifo(user_presets / "pipe.json")
    assert presets() == BUNDLED
    assert broken_presets() == [f"the preset {user_presets / 'pipe.json'} must be a file"]


def test_a_preset_of_an_editor_that_marks_its_files_is_read(user_presets: Path) -> None:
    user_presets.mkdir(parents=True)
    (user_presets / "marked.json").write_text('{"title": "Voilà"}', encoding="utf-8-sig")
    assert find_preset("marked").title == "Voilà"


def test_steps_pass_over_what_cannot_be_on(user_presets: Path) -> None:
    """The bundled presets are in a pack of a longer latency than that which the path was prepared for."""
    user_presets.mkdir(parents=True)
    (user_presets / "b-broken.json").write_text("{broken")
    (user_presets / "c-gone.json").write_text('{"title": "Gone", "voice": "nobody"}')
    surface = ControlSurface(SignalPath(VoiceConverter("accumulator"), 48_000, 256))
    for step, nearest in ((1, "no voice is called 'nobody'"), (-1, "needs a latency of 512 samples")):
        with pytest.raises(ValueError, match=nearest):
            surface.ready_neighbour(step)
    assert surface.preset == ""
    for name in ("a", "f"):
        (user_presets / f"{name}.json").write_text('{"title": "Fine", "voice": "accumulator"}')
    for step, name in ((1, "a"), (1, "f"), (1, "a"), (-1, "f"), (-1, "a")):
        surface.post(surface.ready_neighbour(step))
        assert surface.preset == name
    (user_presets / "f.json").unlink()
    assert surface.ready_neighbour(1).changes["voice"] == "accumulator"
    assert surface.preset == "a"


@pytest.mark.parametrize("name", ["", "a b", "../x", "/tmp/x", "A", "x" * 33, "x.json", "x\n"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    preset = make_preset("Mine", "pjs", {}, (Effect(plugin="VoiceConverter"),))
    with pytest.raises(PresetError, match="name must be"):
        save_preset(name, preset)


def test_a_voice_called_by_its_path_is_not_kept() -> None:
    with pytest.raises(PresetError, match="cannot be kept"):
        make_preset("Mine", "/tmp/some.voice", {}, (Effect(plugin="VoiceConverter"),))


def test_an_unknown_name_lists_the_names_there_are() -> None:
    with pytest.raises(PresetError, match=r"no preset is called 'x', there are choir, deep, natural"):
        find_preset("x")
    with pytest.raises(PresetError, match="cannot be read"):
        find_preset("nowhere/x.json")


def test_the_command_lists_presets_and_tells_broken_ones(user_presets: Path) -> None:
    user_presets.mkdir(parents=True)
    (user_presets / "broken.json").write_text("{")
    (user_presets / "zz.json").write_text('{"title": "Last"}')
    result = CliRunner().invoke(app, ["presets"])
    assert result.exit_code == 0
    for text in (*BUNDLED, "Last", "pitch_shift 12", "HighpassFilter > VoiceConverter > Chorus > Reverb > Limiter"):
        assert text in result.stdout
    assert str(user_presets) in result.stdout
    assert "broken.json is not valid" in result.stderr
