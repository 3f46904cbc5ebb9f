"""`plugin-bridge render` as a user runs it: files in, files out, and one sentence for whatever cannot be."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import helper
from packs import constant, value
from pedalboard.io import AudioFile
from song_packs import write_song_pack
from typer.testing import CliRunner

from dsp.resampling import resample
from dsp.singer import Note, sing
from plugin_bridge.cli import app


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    return str(write_song_pack(tmp_path_factory.mktemp("song") / "song.voice", {"even": 0.0, "soft": -12.0}))


@pytest.fixture(scope="module")
def sung():
    """1.6 s at 22.05 kHz, of which half a second is silence."""
    audio = sing([Note(60, 0.5, "a"), Note(64, 0.5, "i")], 48_000).audio
    return resample(np.concatenate([np.zeros(24_000, np.float32), audio, np.zeros(4_000, np.float32)]), 48_000, 22_050)


def run(*arguments):
    return CliRunner().invoke(app, ["render", *(str(argument) for argument in arguments)])


def write_audio(path, audio, rate=22_050):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = np.atleast_2d(audio)
    with AudioFile(str(path), "w", rate, channels.shape[0]) as file:
        file.write(channels)
    return path


def read_audio(path):
    with AudioFile(str(path)) as file:
        return file.read(file.frames)


def one_sentence(result):
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and len(lines) == 1 and lines[0].startswith("plugin-bridge: "), result.stderr
    return lines[0].removeprefix("plugin-bridge: ")


def test_stems_are_rendered_with_the_time_of_each_stage(tmp_path, voice, sung):
    first, second = write_audio(tmp_path / "a.wav", sung), write_audio(tmp_path / "b.flac", np.stack([sung, sung]))
    result = run(first, second, tmp_path / "out", "--voice", voice, "--json", tmp_path / "times.json", "--threads", 1)
    assert result.exit_code == 0, result.stderr
    assert read_audio(tmp_path / "out" / "a.wav").shape == (1, len(sung))
    assert read_audio(tmp_path / "out" / "b.flac").shape == (2, len(sung))
    assert all(stage in result.stdout for stage in ("pitch", "denoiser", "vocoder", "synthesis"))
    written = json.loads((tmp_path / "times.json").read_text())
    assert (written["size"], written["steps"], written["threads"], len(written["recordings"])) == ("lhq", 1, 1, 2)
    one = written["recordings"][0]
    assert one["seconds"] == pytest.approx(len(sung) / 22_050) and one["share_of_length"] > 0
    shares = [stage["share_of_length"] for stage in one["stages"].values()]
    assert len(shares) > 8 and sum(shares) * one["seconds"] <= one["elapsed_s"] * 1.05


def test_what_is_done_is_left_out_when_it_goes_on(tmp_path, voice, sung):
    first, second = write_audio(tmp_path / "a.wav", sung), write_audio(tmp_path / "b.wav", sung)
    assert run(first, second, tmp_path / "out", "--voice", voice).exit_code == 0
    (tmp_path / "out" / "b.wav").unlink()
    before = (tmp_path / "out" / "a.wav").stat().st_mtime_ns
    result = run(first, second, tmp_path / "out", "--voice", voice, "--resume")
    assert result.exit_code == 0 and "1 of 2 recordings were done before" in result.stderr
    assert (tmp_path / "out" / "a.wav").stat().st_mtime_ns == before and (tmp_path / "out" / "b.wav").exists()


def test_what_was_done_before_is_told_of_with_the_rest(tmp_path, voice, sung):
    source, out, figures = write_audio(tmp_path / "a.wav", sung), tmp_path / "o.wav", tmp_path / "j.json"
    assert run(source, out, "--voice", voice, "--json", figures).exit_code == 0
    told = figures.read_text()
    figures.unlink()
    result = run(source, out, "--voice", voice, "--resume", "--json", figures)
    assert result.exit_code == 0 and "1 of 1 recordings were done before" in result.stderr and "o.wav" in result.stdout
    assert figures.read_text() == told
    result = run(source, out, "--voice", voice, "--resume", "--f0-out", tmp_path / "f0.csv")
    assert result.exit_code == 0 and (tmp_path / "f0.csv").exists()


def test_what_was_written_over_since_is_rendered_again(tmp_path, voice, sung):
    """By another command, with the length and rate it had."""
    source, out = write_audio(tmp_path / "a.wav", sung), tmp_path / "o.wav"
    assert run(source, out, "--voice", voice).exit_code == 0
    rendered = out.read_bytes()
    assert CliRunner().invoke(app, ["convert", str(source), str(out), "--voice", "delay512"]).exit_code == 0
    assert out.read_bytes() != rendered
    result = run(source, out, "--voice", voice, "--resume")
    assert result.exit_code == 0 and "done before" not in result.stderr
    assert out.read_bytes() == rendered


def test_what_was_done_otherwise_is_rendered_again(tmp_path, voice, sung):
    source, out, table = write_audio(tmp_path / "a.wav", sung), tmp_path / "out.wav", tmp_path / "f0.csv"

    def rendered(*options):
        result = run(source, out, "--resume", "--method", "dio", *options)
        assert result.exit_code == 0, result.stderr
        return "done before" not in result.stderr

    assert rendered("--voice", voice, "--f0-out", table)
    assert not rendered("--voice", voice)
    assert rendered("--voice", voice, "--pitch", 1)
    assert rendered("--voice", write_song_pack(tmp_path / "other.voice", {"even": -3.0}))
    assert rendered("--voice", voice, "--f0", table)
    assert not rendered("--voice", voice, "--f0", table)
    table.write_text(table.read_text() + "\n")
    assert rendered("--voice", voice, "--f0", table)
    out.write_bytes(out.read_bytes()[:1000])
    assert rendered("--voice", voice, "--f0", table)
    write_audio(source, 0.5 * sung)
    assert rendered("--voice", voice, "--f0", table)


def test_the_rest_is_done_when_one_has_no_voice(tmp_path, voice, sung):
    silent, good = write_audio(tmp_path / "a.wav", 0 * sung), write_audio(tmp_path / "b.wav", sung)
    result = run(silent, good, tmp_path / "out", "--voice", voice)
    assert "a.wav has no voice in it" in one_sentence(result)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.wav"]


def test_pitch_goes_out_edited_and_in_again(tmp_path, voice, sung):
    source = write_audio(tmp_path / "a.wav", sung)
    assert run(source, tmp_path / "out.wav", "--voice", voice, "--f0-out", tmp_path / "f0.csv").exit_code == 0
    first = (tmp_path / "out.wav").read_bytes()
    again = ("--f0", tmp_path / "f0.csv", "--f0-out", tmp_path / "again.csv")
    assert run(source, tmp_path / "out.wav", "--voice", voice, *again).exit_code == 0
    assert (tmp_path / "out.wav").read_bytes() == first
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "f0.csv").read_bytes()
    (tmp_path / "f0.csv").write_text("time_s,hz,voiced\n0.00,220,1\n0.01,220,1\n")
    assert "ends at 0.01 s" in one_sentence(run(source, tmp_path / "out.wav", "--voice", voice, "--f0", tmp_path / "f0.csv"))
    (tmp_path / "f0.csv").write_text("time_s,hz,voiced\n0.00,,0\n1.60,,0\n")
    said = one_sentence(run(source, tmp_path / "out.wav", "--voice", voice, "--f0", tmp_path / "f0.csv"))
    assert "f0.csv has no voiced row" in said
    assert (tmp_path / "out.wav").exists()


def test_nothing_is_written_over_what_is_read_or_written(tmp_path, voice, sung):
    source, other = write_audio(tmp_path / "a.wav", sung), write_audio(tmp_path / "i.wav", 0.1 * sung)
    table, page, encoder = tmp_path / "f0.csv", tmp_path / "p.html", tmp_path / "encoder" / "config.json"
    encoder.parent.mkdir()
    for path in (table, page, encoder):
        path.write_text("a user's")
    kept = {path: path.read_bytes() for path in (source, other, table, page, encoder)}
    out = tmp_path / "out.wav"
    for target, options, said in (
        (out, ["--f0-out", source], "a.wav is both"),
        (out, ["--f0-out", other, "--instrumental", other], "i.wav is both"),
        (other, ["--instrumental", other], "i.wav is both"),
        (out, ["--json", source], "a.wav is both"),
        (out, ["--json", tmp_path / "not" / ".." / "a.wav"], "a.wav is both"),
        (out, ["--f0", table, "--f0-out", table], "f0.csv is both"),
        (out, ["--f0", page, "--report", page], "p.html is both"),
        (other, ["--f0", other], "i.wav is both"),
        (out, ["--separate", page, "--report", page], "p.html is both"),
        (out, ["--encoder", encoder.parent, "--json", encoder], "config.json is both"),
        (out, ["--json", voice], "song.voice is both"),
        (out, ["--json", out], "out.wav would be written twice"),
        (out, ["--f0-out", out], "out.wav would be written twice"),
        (out, ["--json", tmp_path / "new.html", "--report", tmp_path / "new.html"], "new.html would be written twice"),
    ):
        assert said in one_sentence(run(source, target, "--voice", voice, *options))
    assert {path: path.read_bytes() for path in kept} == kept and not out.exists()
    assert len(list(tmp_path.iterdir())) == 5


def test_a_table_goes_where_it_is_sent_or_says_why_not(tmp_path, voice, sung):
    source = write_audio(tmp_path / "a.wav", sung)
    result = run(source, tmp_path / "out.wav", "--voice", voice, "--f0-out", tmp_path / "tables" / "f0.csv")
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["f0.csv"]
    said = one_sentence(run(source, tmp_path / "no.wav", "--voice", voice, "--f0-out", source / "f0.csv"))
    assert said.endswith(("f0.csv cannot be written: File exists", "f0.csv cannot be written: Not a directory"))
    assert not (tmp_path / "no.wav").exists()


def test_over_its_accompaniment_the_vocal_is_as_loud_as_it_was(tmp_path, sung):
    """A voice 9 dB too loud: in the mix it is not."""
    loud = str(write_song_pack(tmp_path / "loud.voice", {"loud": 9.0}))
    source = write_audio(tmp_path / "a.wav", 0.3 * sung)
    silence = write_audio(tmp_path / "i.wav", np.zeros((2, len(sung) + 100)))
    result = run(source, tmp_path / "mix.wav", "--voice", loud, "--instrumental", silence)
    assert result.exit_code == 0, result.stderr
    mix = read_audio(tmp_path / "mix.wav")
    assert mix.shape == (2, len(sung) + 100)
    assert 20 * np.log10(np.std(mix[0]) / np.std(0.3 * sung)) == pytest.approx(0, abs=0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "i.wav", "loud.voice", "mix.wav"]


def test_a_mix_is_parted_rendered_and_mixed_again(tmp_path, voice, sung, monkeypatch):
    """A model for which the mix is all vocal: what comes out is the vocal's rendering, and nothing else."""
    shape = (1, 4, 2049, 33)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["input", "one"], ["output"])], "mdx", [value("input", shape)], [value("output", shape)],
        [constant("one", 1.0)],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    source = write_audio(tmp_path / "a.wav", sung)
    options = ("--voice", voice, "--method", "dio")
    separation = ("--separate", tmp_path / "m.onnx", "--separate-fft", 4096, "--separate-stem", "vocals")
    result = run(source, tmp_path / "mix.wav", *options, *separation, "--json", tmp_path / "t.json")
    assert result.exit_code == 0, result.stderr
    assert run(source, tmp_path / "stem.wav", *options).exit_code == 0
    mix, stem = read_audio(tmp_path / "mix.wav")[0], read_audio(tmp_path / "stem.wav")[0]
    mix_level, stem_level = (np.sqrt(np.mean(x[: len(x) // 800 * 800].reshape(-1, 800) ** 2, 1)) for x in (mix, stem))
    assert len(mix) == len(sung) and np.corrcoef(mix, stem)[0, 1] > 0.8
    assert np.corrcoef(mix_level, stem_level)[0, 1] > 0.95
    assert abs(20 * np.log10(np.std(mix) / np.std(stem))) < 3
    assert json.loads((tmp_path / "t.json").read_text())["recordings"][0]["stages"]["separation"]["processor_s"] > 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    result = run(source, tmp_path / "mix.wav", "--voice", voice, "--separate", tmp_path / "missing.onnx")
    assert "a vocal stem comes out of any mixing program" in one_sentence(result)
    monkeypatch.setattr("plugin_bridge.songs.separate", lambda *_: pytest.fail("it was parted"))
    odd = write_audio(tmp_path / "odd.wav", sung, 44_101)
    assert "mix.mp3 cannot hold 1 channels at 44101 Hz" in one_sentence(run(odd, tmp_path / "mix.mp3", *options, *separation))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--size", "huge"], "must be lhq or mobile"),
        (["--method", "ear"], "must be dio, harvest or swift"),
        (["--transpose", "up"], "must be a number or auto"),
        (["--pitch", "25"], "pitch_shift must be between"),
        (["--pitch", "20", "--transpose", "10"], "pitch_shift must be between"),
        (["--voice", "delay512"], "has no song engine"),
        (["--voice", "nobody"], "no voice is called"),
        (["--f0", "missing.csv"], "missing.csv"),
        (["--instrumental", "missing.wav"], "there is no file missing.wav"),
        (["--report", "page.pdf"], "must end in .html"),
        (["--separate-fft", "6144"], "about the model of --separate, which was not given"),
        (["--separate-stem", "vocals"], "about the model of --separate, which was not given"),
    ],
)
def test_what_makes_no_sense_is_told_once(tmp_path, voice, sung, options, said):
    source = write_audio(tmp_path / "a.wav", sung)
    chosen = [] if "--voice" in options else ["--voice", voice]
    assert said in one_sentence(run(source, tmp_path / "out.wav", *chosen, *options))
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_tables_and_accompaniments_are_of_one_recording(tmp_path, voice, sung):
    first, second = write_audio(tmp_path / "a.wav", sung), write_audio(tmp_path / "b.wav", sung)
    result = run(first, second, tmp_path / "out", "--voice", voice, "--f0", tmp_path / "f0.csv")
    assert "--f0 is of one recording, but there are 2" in one_sentence(result)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")
@pytest.mark.parametrize("more", [[], ["--instrumental", "a.wav"]], ids=["stem", "mix"])
def test_a_full_disk_is_told_and_nothing_is_left(tmp_path, voice, sung, more):
    """The system refuses to let the file grow, as a full disk does."""
    write_audio(tmp_path / "a.wav", np.tile(sung, 4))
    command = ["render", "a.wav", "b.wav", "--voice", voice, *more]
    limited = f"ulimit -f 100; exec {sys.executable} -m plugin_bridge {' '.join(command)}"
    done = subprocess.run(["bash", "-c", limited], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr == "plugin-bridge: b.wav cannot be written: File too large\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_bench_measures_a_song_from_file_to_file(tmp_path, voice):
    options = ["--voice", voice, "--song", "11.5", "--out", str(tmp_path / "bench.json")]
    result = CliRunner().invoke(app, ["bench", *options])
    assert result.exit_code == 0, result.stderr
    assert "from file to file" in result.stdout and "denoiser" in result.stdout
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert set(figures["threads"]) == {"1", "2"}
    for run_ in figures["threads"].values():
        assert run_["seconds"] == 11.5 and 9 < run_["converted_s"] < 11.5 and run_["share_of_length"] > 0


def test_convert_with_the_song_engine_is_render(tmp_path, voice, sung):
    source = write_audio(tmp_path / "a.wav", np.stack([sung, 0.5 * sung]))
    numbers = ("--voice", voice, "--pitch", 3, "--formant", -1, "--transpose", 12)
    assert run(source, tmp_path / "rendered.wav", *numbers).exit_code == 0
    for name, more in (("plain", ()), ("mixed", ("--mix", 0.25, "--gain", 6)), ("gated", ("--gate", -1))):
        arguments = ["convert", source, tmp_path / f"{name}.wav", "--engine", "song", *numbers, *more]
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0 and "+12 semitones" in result.stdout, result.stderr
    assert (tmp_path / "plain.wav").read_bytes() == (tmp_path / "rendered.wav").read_bytes()
    plain, mixed = read_audio(tmp_path / "plain.wav"), read_audio(tmp_path / "mixed.wav")
    expected = np.clip((0.25 * plain + 0.75 * read_audio(source)) * 10 ** (6 / 20), -1, 1)
    assert np.abs(mixed - expected).max() < 1e-5
    assert np.abs(read_audio(tmp_path / "gated.wav")).max() == 0


def test_gestures_are_for_the_stream_engine(tmp_path, voice, sung):
    source = write_audio(tmp_path / "a.wav", sung)
    (tmp_path / "take.csv").write_text("0.0,/vc/pitch,2\n")
    arguments = ["convert", source, tmp_path / "b.wav", "--voice", voice, "--engine", "song", "--automation", tmp_path / "take.csv"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert "gestures in time are for the stream engine" in one_sentence(result)
