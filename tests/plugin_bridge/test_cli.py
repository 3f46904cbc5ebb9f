"""The command line as a user runs it: real files, real processes, exit codes, sentences."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from importlib.metadata import requires

import numpy as np
import pytest
from packs import voice_card
from pedalboard.io import AudioFile
from small_recipes import use_small_recipes
from typer.testing import CliRunner

from dsp.singer import Note, sing
from models.pack import PackManifest, VoicePack, write_pack
from plugin_bridge.cli import _say, app
from plugin_bridge.doctor import DISTRIBUTIONS, NEEDED


def run(*arguments):
    """The program in this process: exit code, standard output, standard error."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def start(*arguments, **options):
    """The program in a process of its own."""
    command = [sys.executable, "-m", "plugin_bridge", *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def write_audio(path, seconds=0.5, channels=1, rate=48000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    block = np.random.default_rng(0).uniform(-0.5, 0.5, (channels, rate)).astype(np.float32)
    with AudioFile(str(path), "w", rate, channels, **options) as file:
        for _ in range(int(seconds)):
            file.write(block)
        file.write(block[:, : round(seconds % 1 * rate)])
    return path


def read_audio(path):
    with AudioFile(str(path)) as file:
        return file.read(file.frames)


def one_sentence(result):
    """Its single complaint on standard error, which is a line of its own and no traceback."""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("plugin-bridge: "), result.stderr
    return lines[0].removeprefix("plugin-bridge: ")


def folder_is_tidy(folder):
    return not [path for path in folder.rglob("*") if ".part" in path.name or path.name.startswith(".")]


def test_a_recording_is_converted_in_a_process_of_its_own(tmp_path):
    source = write_audio(tmp_path / "a.wav", 1.0, channels=2, rate=44100)
    process = start("convert", source, tmp_path / "b.flac", "--voice", "delay512")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == ""
    for word in ("b.flac", "1.0 s", "x real time", "dBFS"):
        assert word in output
    with AudioFile(str(tmp_path / "b.flac")) as file:
        assert (file.frames, file.samplerate, file.num_channels) == (44100, 44100, 2)
    assert folder_is_tidy(tmp_path)


def test_a_folder_is_converted_in_its_tree(tmp_path):
    for name in ("a.wav", "verse/b.wav", "verse/takes/c.flac"):
        write_audio(tmp_path / "in" / name)
    result = run("convert", tmp_path / "in", tmp_path / "out", "--voice", "delay512")
    assert result.exit_code == 0 and result.stderr == ""
    for name in ("a.wav", "verse/b.wav", "verse/takes/c.flac"):
        wanted, got = read_audio(tmp_path / "in" / name), read_audio(tmp_path / "out" / name)
        assert got.shape == wanted.shape and np.abs(got - wanted).max() < 1e-4
    assert folder_is_tidy(tmp_path / "out")


def test_the_rest_of_a_batch_is_done(tmp_path):
    good = [write_audio(tmp_path / "in" / name) for name in ("a.wav", "e.wav")]
    (tmp_path / "in" / "b.wav").write_bytes(b"RIFF no audio at all")
    (tmp_path / "in" / "c.wav").touch()
    write_audio(tmp_path / "in" / "d.wav", 0.0)
    result = run("convert", tmp_path / "in", tmp_path / "missing.wav", tmp_path / "out", "--voice", "delay512")
    assert result.exit_code == 2
    assert {path.name for path in (tmp_path / "out").rglob("*.wav")} == {path.name for path in good}
    complaints = result.stderr.strip().splitlines()
    assert len(complaints) == 4 and all(line.startswith("plugin-bridge: ") for line in complaints)
    for name in ("b.wav", "c.wav", "d.wav", "missing.wav"):
        assert sum(name in line for line in complaints) == 1
    assert folder_is_tidy(tmp_path / "out")


@pytest.mark.parametrize("channels", [1, 2])
def test_one_sample_is_a_recording_too(tmp_path, channels):
    block = np.full((channels, 1), 0.25, np.float32)
    with AudioFile(str(tmp_path / "a.wav"), "w", 48000, channels) as file:
        file.write(block)
    result = run("convert", tmp_path / "a.wav", tmp_path / "b.wav", "--voice", "delay512", "--transpose", "auto")
    assert result.exit_code == 0, result.stderr
    assert np.abs(read_audio(tmp_path / "b.wav") - block).max() < 1e-4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--voice", "nobody"], r"no voice is called 'nobody', there are .*bank_a.*delay512"),
        (["--voice", "bank_a=1,nobody=1"], r"no voice is called 'nobody'"),
        (["--voice", "bank_a=much"], r"the weight of bank_a must be a number, not 'much'"),
        (["--voice", "bank_a=0.5,delay512=0.5"], r"must come from one pack"),
        (["--pitch", "25"], r"pitch_shift must be between -24 and 24 semitones, got 25"),
        (["--mix", "nan"], r"mix must be between 0 and 1"),
        (["--transpose", "up"], r"--transpose must be a number or auto, not 'up'"),
        (["--transpose", "inf"], r"--transpose must be a number or auto"),
        (["--transpose", "20", "--pitch", "20"], r"pitch_shift must be between -24 and 24 semitones, got 40"),
        (["--engine", "studio"], r"the engine must be stream or song, not 'studio'"),
        (["--engine", "song"], "has no song engine 'lhq', it has none"),
        (["--report", "lead.wav"], r"must end in \.html, not 'lead\.wav'"),
    ],
)
def test_what_makes_no_sense_is_told_once(tmp_path, options, sentence):
    sources = [write_audio(tmp_path / name) for name in ("a.wav", "b.wav")]
    voice = [] if "--voice" in options else ["--voice", "delay512"]
    result = run("convert", *sources, tmp_path / "out", *voice, *options)
    assert result.exit_code == 2 and re.search(sentence, one_sentence(result))
    assert not (tmp_path / "out").exists()


def test_arguments_that_are_missing_are_told():
    result = run("convert", "a.wav")
    assert result.exit_code == 2 and "at least one recording and, last, the file or folder" in one_sentence(result)
    assert run("convert").exit_code == 2
    assert run("sing").exit_code == 2


@pytest.mark.parametrize(
    ("source", "target", "sentence"),
    [
        ("missing.wav", "b.wav", "there is no file"),
        ("a.wav", "a.wav", "both input and output"),
        ("a.wav", "b.xyz", "needs a suffix"),
        ("a.wav", "nowhere", None),
        ("empty", "out", "holds no audio files"),
        ("a.wav", "a.wav/b.wav", "cannot be written: "),
    ],
)
def test_files_that_cannot_be_are_told(tmp_path, source, target, sentence):
    original = write_audio(tmp_path / "a.wav").read_bytes()
    (tmp_path / "empty").mkdir()
    result = run("convert", tmp_path / source, f"{tmp_path}/{target}", "--voice", "delay512")
    if sentence is None:  # a folder that is not there yet is made
        assert result.exit_code == 0 and (tmp_path / "nowhere" / "a.wav").exists()
    else:
        assert result.exit_code == 2 and re.search(sentence, one_sentence(result))
    assert (tmp_path / "a.wav").read_bytes() == original
    assert folder_is_tidy(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    source = write_audio(tmp_path / "a.wav")
    (tmp_path / "locked").mkdir(mode=0o500)
    result = run("convert", source, tmp_path / "locked" / "b.wav", "--voice", "delay512")
    assert result.exit_code == 2 and "Permission denied" in one_sentence(result)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_or_reached_is_told_and_the_rest_is_done(tmp_path):
    good, secret = write_audio(tmp_path / "in" / "a.wav"), write_audio(tmp_path / "in" / "b.wav")
    closed = tmp_path / "in" / "closed"
    write_audio(closed / "c.wav")
    for path in (secret, closed):
        path.chmod(0)
    try:
        result = run("convert", tmp_path / "in", tmp_path / "out", "--voice", "delay512")
        assert result.exit_code == 2 and os.listdir(tmp_path / "out") == ["a.wav"]
        first, second = result.stderr.strip().splitlines()
        assert first.endswith(f"the folder {closed} cannot be read: Permission denied")
        assert second.endswith(f"{secret} cannot be read: Permission denied")
        result = run("convert", closed / "c.wav", tmp_path / "out", "--voice", "delay512")
        assert one_sentence(result).endswith("c.wav cannot be read: Permission denied")
        result = run("convert", good, closed / "b.wav", "--voice", "delay512")
        assert one_sentence(result).endswith("b.wav cannot be written: Permission denied")
    finally:
        closed.chmod(0o700)


def test_a_broken_pack_is_told(tmp_path):
    source = write_audio(tmp_path / "a.wav")
    (tmp_path / "x.voice").write_bytes(b"PK no zip")
    result = run("convert", source, source, tmp_path / "out", "--voice", tmp_path / "x.voice")
    assert result.exit_code == 2 and "x.voice" in one_sentence(result)


def test_a_pack_with_a_broken_model_is_told_once(tmp_path):
    sources = [write_audio(tmp_path / "in" / name) for name in ("a.wav", "b.wav")]
    manifest = PackManifest(title="x", voices=[voice_card("x")], sample_rate=48000, licence="CC0-1.0")
    write_pack(tmp_path / "x.voice", manifest, {"other.bin": b"no model"})
    result = run("convert", *sources, tmp_path / "out", "--voice", tmp_path / "x.voice")
    assert result.exit_code == 2 and "stream.onnx" in one_sentence(result)
    assert not (tmp_path / "out").exists()


def test_of_a_recording_cut_short_what_is_there_is_converted_and_told(tmp_path):
    source = write_audio(tmp_path / "a.wav", 2.0)
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    result = run("convert", source, tmp_path / "b.wav", "--voice", "delay512")
    assert result.exit_code == 0 and re.search(r"cut short: 1\.0 s of the 2\.0 s", one_sentence(result))
    assert read_audio(tmp_path / "b.wav").shape[1] == pytest.approx(48000, abs=100)


def test_a_damaged_recording_leaves_nothing(tmp_path):
    source = write_audio(tmp_path / "a.flac", 2.0)
    data = bytearray(source.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    source.write_bytes(data)
    result = run("convert", source, tmp_path / "b.wav", "--voice", "delay512")
    assert result.exit_code == 2 and "damaged" in one_sentence(result)
    assert [path.name for path in tmp_path.iterdir()] == ["a.flac"]


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_full_disk_is_told_and_left_as_it_was(tmp_path, tiny_disk, suffix):
    long, short = write_audio(tmp_path / "in" / "a.wav", 20.0), write_audio(tmp_path / "in" / "b.wav", 0.5)
    (tiny_disk / f"a.{suffix}").write_bytes(b"an earlier conversion")
    result = run("convert", long, tiny_disk / f"a.{suffix}", "--voice", "delay512")
    assert result.exit_code == 2 and "No space left on device" in one_sentence(result)
    assert [path.name for path in tiny_disk.iterdir()] == [f"a.{suffix}"]
    assert (tiny_disk / f"a.{suffix}").read_bytes() == b"an earlier conversion"
    # What does fit is done.
    result = run("convert", long, short, tiny_disk, "--voice", "delay512")
    assert result.exit_code == 2 and "a.wav" in one_sentence(result)
    assert read_audio(tiny_disk / "b.wav").shape == (1, 24000) and folder_is_tidy(tiny_disk)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")
def test_a_file_over_the_allowed_size_is_told(tmp_path):
    """The same path as a full disk, where no disk may be made: the system refuses to let the file grow."""
    source = write_audio(tmp_path / "a.wav", 5.0)
    command = f"ulimit -f 100; exec {sys.executable} -m plugin_bridge convert a.wav b.wav --voice delay512"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr == "plugin-bridge: b.wav cannot be written: File too large\n"
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_an_interrupted_conversion_leaves_nothing_half_written(tmp_path, name, code):
    number = getattr(signal, name)
    first, long = write_audio(tmp_path / "a.wav", 1.0), write_audio(tmp_path / "b.wav", 600.0, rate=8000)
    out = tmp_path / "out"
    # A shell that runs tests in the background has its children ignore Ctrl-C, and nohup the end of the terminal.
    listening = {"preexec_fn": lambda: signal.signal(number, signal.SIG_DFL)}
    process = start("convert", first, long, out, "--voice", "accumulator", **listening)
    deadline = time.monotonic() + 60
    while not (out / "a.wav").exists() or not list(out.glob(".*.part")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    if name == "SIGHUP":  # when a terminal is closed, it comes from the system and from the shell
        process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in errors
    assert [path.name for path in out.iterdir()] == ["a.wav"] and read_audio(out / "a.wav").shape == (1, 48000)
    if number == signal.SIGINT:
        assert "1 of 2 recordings are done" in errors and "a.wav" in output


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_closed_standard_streams_are_done_without(tmp_path):
    """As a service may start it."""
    write_audio(tmp_path / "a.wav", 0.1)
    command = f"exec {sys.executable} -m plugin_bridge convert a.wav b.wav --voice delay512 <&- >&- 2>&-"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, timeout=60)
    assert done.returncode == 0 and read_audio(tmp_path / "b.wav").shape == (1, 4800)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")
def test_a_reader_that_is_gone_does_not_end_the_work():
    """As `| head` is, after what it wanted."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "plugin_bridge", "presets"]  # a table, and lines after it
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["voices"], ["--help"], ["live", "--midi-list"]])
def test_a_full_disk_under_standard_output_is_told_in_one_sentence(arguments):
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "plugin_bridge", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "plugin-bridge: standard output cannot be written: No space left on device\n"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")
def test_a_sentence_that_nobody_reads_any_more_ends_nothing(monkeypatch, capfd):
    """What a performance has to tell goes to a terminal or a log that may be gone."""
    read, write = os.pipe()
    os.close(read)
    with suppress(BrokenPipeError), open(write, "w") as gone:
        monkeypatch.setattr(sys, "stderr", gone)
        _say("the microphone went away")
        _say("and is back")
    os.write(1, b"still there")
    assert capfd.readouterr().out == "still there"


def test_the_report_is_one_page_that_needs_nothing_else(tmp_path):
    sources = [write_audio(tmp_path / "in" / f"{name}.wav", 1.0) for name in ("a", "<b> & [red]c")]
    result = run(
        "convert", *sources, tmp_path / "out", "--voice", "delay512", "--report", tmp_path / "pages" / "page.html", "--pitch", "3"
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip().splitlines()[-1] == str(tmp_path / "pages" / "page.html")
    page = (tmp_path / "pages" / "page.html").read_text(encoding="utf-8")
    assert "&lt;b&gt; &amp; [red]c.wav" in page and "<b>" not in page
    assert page.count('src="data:audio/flac;base64,') == 4 and page.count('src="data:image/png;base64,') == 2
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|url\(|@import|https?://""", page)


def test_the_report_tells_recordings_of_one_name_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("plugin_bridge.report.draw", lambda take: b"")
    for name in ("a/lead.wav", "b/lead.wav", "b/high.wav"):
        write_audio(tmp_path / "in" / name, 0.1)
    result = run("convert", "in", "out", "--voice", "delay512", "--report", "page.html")
    assert result.exit_code == 0, result.stderr
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for name in ("in/a/lead.wav", "in/b/lead.wav", "high.wav"):
        assert f'<th scope="row">{name}</th>' in page and re.search(f"<h2[^>]*>{name}</h2>", page)


def test_a_report_that_cannot_be_written_is_told(tmp_path):
    source = write_audio(tmp_path / "a.wav")
    page = source / "page.html"
    result = run("convert", source, tmp_path / "b.wav", "--voice", "delay512", "--report", page)
    assert result.exit_code == 2 and str(page) in one_sentence(result)
    assert (tmp_path / "b.wav").exists()


def test_reports_and_gestures_keep_out_of_each_others_files(tmp_path):
    source, page = write_audio(tmp_path / "a.wav"), tmp_path / "p.html"
    page.write_text("0,/vc/pitch,2")
    result = run("convert", source, tmp_path / "b.wav", "--voice", "delay512", "--report", page, "--automation", page)
    assert result.exit_code == 2 and one_sentence(result)
    result = run("convert", source, tmp_path / "no" / ".." / "a.wav", "--voice", "delay512", "--report", page)
    assert result.exit_code == 2 and "a.wav is both input and output" in one_sentence(result)
    (tmp_path / "g.csv").write_text("0,/vc/pitch,2")
    result = run("convert", source, tmp_path / "g.csv", "--voice", "delay512", "--automation", tmp_path / "g.csv")
    assert result.exit_code == 2 and one_sentence(result)
    assert page.read_text() == (tmp_path / "g.csv").read_text() == "0,/vc/pitch,2"


def test_file_names_may_be_anything(tmp_path):
    """Markup of the terminal, umlauts, and bytes that are no text."""
    names = ["[bold]x[red].wav", "Überstück – 歌.wav"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"caf\xe9.wav"))
    plain = write_audio(tmp_path / "plain.wav")
    for name in names:
        os.makedirs(tmp_path / "in", exist_ok=True)
        (tmp_path / "in" / name).write_bytes(plain.read_bytes())
    process = start("convert", tmp_path / "in", tmp_path / "out", "--voice", "delay512")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert sorted(os.listdir(tmp_path / "out")) == sorted(names)
    assert "[bold]" in output


def test_voices_are_listed_and_broken_packs_told(tmp_path, monkeypatch):
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "bad.voice").write_bytes(b"no pack")
    monkeypatch.setenv("PLUGIN_BRIDGE_VOICES", os.pathsep.join([os.environ["PLUGIN_BRIDGE_VOICES"], str(folder)]))
    result = run("voices")
    assert result.exit_code == 0
    for name in ("delay512", "bank_a", "bank_b", "CC0-1.0", "60-1100 Hz"):
        assert name in result.stdout
    assert "bad.voice" in one_sentence(result)


def test_a_voices_card_says_who_it_is_and_what_it_asks():
    result = run("voices", "pjs", "kerstin-llvc")
    assert result.exit_code == 0, result.stderr
    told = " ".join(result.stdout.split())
    for text in ("Junya Koguchi", "CC BY-SA 4.0", "31 minutes", "Vassil Panayotov", "Kerstin", "agreed to that use"):
        assert text in told
    assert "speaker_cosine" in told and "Limits" in told
    assert run("voices", "nobody").exit_code == 2


def test_bench_prints_and_writes_what_it_measures(tmp_path):
    result = run("bench", "--voice", "delay512", "--seconds", "1", "--out", tmp_path / "bench.json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    step = figures["graph"]["step_ms"]
    assert 0 < step["p50"] <= step["p95"] <= step["p99"] <= step["max"]
    assert figures["graph"]["times_real_time"] > 0
    assert figures["graph"]["chunk_ms"] == pytest.approx(512 / 48)
    latency = {(row["sample_rate"], row["block"]): row["latency_samples"] for row in figures["latency"]}
    # Look-ahead 256, chunk 512: 256 + 512 - gcd(H, 512), and 256 + 511 where H varies.
    assert [latency[48000, block] for block in (64, 128, 256, 512, 1024, None)] == [704, 640, 512, 256, 256, 767]
    assert {rate for rate, _ in latency} == {44100, 48000, 96000}
    assert all(row["latency_ms"] == pytest.approx(1e3 * row["latency_samples"] / row["sample_rate"]) for row in figures["latency"])
    assert {row["sample_rate"] for row in figures["conversion"]} == {44100, 48000, 96000}
    if sys.platform == "linux":
        assert 10 < figures["memory_mib"]["resident"] < figures["memory_mib"]["peak"] * 1.01
    assert run("bench", "--voice", "nobody", "--out", tmp_path / "x.json").exit_code == 2
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--song", "10", "--engines"], "--engines has no place beside --song"),
        (["--song", "10", "--seconds", "5"], "--seconds has no place beside --song"),
        (["--engines", "--voice", "delay512"], "--voice has no place beside --engines"),
        (["--engines", "--size", "mobile"], "--size is of the song engine"),
        (["--size", "mobile"], "--size is of the song engine"),
        (["--song", "10", "--size", "huge"], "the size must be lhq or mobile, not 'huge'"),
        (["--out", "."], ". is a folder, so no file can take its place"),
        (["--engines", "--out", "file/x.json"], "file/x.json cannot be written"),
        (["--song", "36000", "--out", "file/x.json"], "file/x.json cannot be written"),
    ],
)
def test_what_a_bench_would_not_use_or_could_not_write_is_refused_before_it_measures(tmp_path, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    result = run("bench", *options)
    assert result.exit_code == 2 and one_sentence(result).startswith(sentence)
    assert result.stdout == "" and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_doctor_finds_an_installation_healthy():
    result = run("doctor")
    assert result.exit_code == 0, result.stdout
    for word in ("Python", "onnxruntime", "pyworld-prebuilt", "PortAudio", "CPU threads", "Training", "delay512"):
        assert word in result.stdout


def test_doctor_looks_for_every_package_that_is_required():
    named = {DISTRIBUTIONS.get(name, name) for name in NEEDED}
    required = {re.split("[>=;]", text)[0].strip() for text in requires("plugin_bridge") if "extra ==" not in text}
    assert required - named == {"rich", "typer", "sounddevice"}  # without two it cannot speak; the third is for live audio alone


def test_doctor_finds_a_broken_pack(tmp_path, monkeypatch):
    (tmp_path / "bad.voice").write_bytes(b"no pack")
    monkeypatch.setenv("PLUGIN_BRIDGE_VOICES", os.pathsep.join([os.environ["PLUGIN_BRIDGE_VOICES"], str(tmp_path)]))
    result = run("doctor")
    assert result.exit_code == 1 and "bad.voice" in result.stdout.replace("\n", "").replace(" ", "")


def test_training_without_recordings_or_with_a_training_under_way_is_told(tmp_path):
    missing = run("train", "me", tmp_path / "nowhere")
    assert missing.exit_code == 2 and "is not a folder" in one_sentence(missing)
    named = run("train", "me", tmp_path, "--out", tmp_path / "me.zip")
    assert named.exit_code == 2 and "must end in .voice, not 'me.zip'" in one_sentence(named)
    work = tmp_path / "begun"
    work.mkdir()
    nothing = run("train", "me", tmp_path, "--work", work, "--resume")
    assert nothing.exit_code == 2 and "holds no training to go on with" in one_sentence(nothing)
    empty = run("train", "me", tmp_path, "--work", tmp_path / "new")
    assert empty.exit_code == 2 and "found no audio file" in one_sentence(empty) and not (tmp_path / "new").exists()
    nowhere = run("train", "me", tmp_path, "--work", tmp_path / "new", "--device", "tpu")
    assert nowhere.exit_code == 2 and "the device must be one of cpu, cuda, not 'tpu'" in one_sentence(nowhere)
    (work / "checkpoint").touch()
    begun = run("train", "me", tmp_path, "--work", work)
    assert begun.exit_code == 2 and "--resume" in one_sentence(begun)


@pytest.mark.parametrize("command", ["train", "train-song", "train-llvc", "import-llvc"])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("../../../escaped/evil", "expected a name of up to 32 lower-case letters, digits, - and _, got '../../../escaped/evil'"),
        ("pjs", "expected a name that no bundled voice has, got 'pjs'; bundled are pjs, kerstin, alys, "),
    ],
)
def test_a_name_that_does_not_do_is_told_before_anything_is_made(tmp_path, monkeypatch, command, name, sentence):
    for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "a" / "b" / "c" / variable))
    (tmp_path / "in").mkdir()
    arguments = {
        "train-llvc": [name, tmp_path / "in", tmp_path / "work"],
        "import-llvc": [tmp_path / "G.pth", tmp_path / "config.json", name],
    }
    result = run(command, *arguments.get(command, [name, tmp_path / "in"]))
    assert result.exit_code == 2 and one_sentence(result).startswith(sentence)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--rooms"], "--rooms needs --refs"),
        (["--song-table", "--refs", ".", "--rooms"], "--rooms is not in the table of --song-table"),
        (["--song-table", "--refs", ".", "--words"], "--words is not in the table of --song-table"),
        (["--song-table", "--refs", ".", "--size", "mobile"], "--size has no place beside --song-table"),
        (["--song-table", "--refs", ".", "--engine", "song", "--steps", "4"], "--steps has no place beside --song-table"),
        (["--song-table", "--refs", ".", "--engine", "stream"], "--engine stream has no place beside --song-table"),
    ],
)
def test_what_an_evaluation_would_not_use_is_refused_before_the_work(tmp_path, options, sentence):
    write_audio(tmp_path / "in" / "a.wav")
    result = run("evaluate", "delay512", tmp_path / "in", "--out", tmp_path / "out", *options)
    assert result.exit_code == 2 and one_sentence(result).startswith(sentence)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file", "file/deeper"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "me", "in", "--work", "PLACE"],
        ["train-song", "me", "in", "--work", "PLACE"],
        ["train-llvc", "me", "in", "PLACE"],
        ["make-pairs", "delay512", "in", "PLACE"],
    ],
)
def test_a_file_where_a_folder_is_to_be_is_told(tmp_path, monkeypatch, arguments, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "file").touch()
    result = run(*(place if argument == "PLACE" else argument for argument in arguments))
    what = "the pairs" if arguments[0] == "make-pairs" else "the training"
    assert result.exit_code == 2
    assert one_sentence(result) == f"{place} is to be the folder for {what}, but {tmp_path}/file is a file"


def test_help_is_there_for_every_command():
    commands = ("voices", "convert", "render", "demo", "bench", "evaluate", "train", "train-song", "make-pairs", "train-llvc")
    for command in (*commands, "import-llvc", "doctor"):
        result = run(command, "--help")
        assert result.exit_code == 0 and "Usage" in result.stdout


def test_training_without_torch_says_how_to_install_it(tmp_path):
    """In a process where torch cannot be imported, as after a plain installation."""
    script = "import sys; sys.modules['torch'] = None; from plugin_bridge.cli import main; main()"
    command = [sys.executable, "-c", script, "train", "me", str(tmp_path), "--work", str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "training needs torch, which is not there" in done.stderr
    assert "pip install torch==2.13.0 'onnx>=1.17'" in done.stderr
    assert not (tmp_path / "work").exists()


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """What training prints after two small steps on three synthetic recordings: no good voice, but the whole way to one."""
    pytest.importorskip("torch")
    use_small_recipes(monkeypatch, tmp_path)
    for number in range(3):
        notes = [Note(52 + (5 * k + number) % 12, 0.5, "aeiou"[k % 5], ("s", "m", "t", "l")[k % 4]) for k in range(16)]
        with AudioFile(str(tmp_path / f"{number}.wav"), "w", 48000, 1) as file:
            file.write(sing(notes, seed=number).audio)
    result = run("train", "me", tmp_path, "--steps", "2", *training_options(tmp_path))
    assert result.exit_code == 0, result.stderr
    return result


def training_options(folder):
    return ["--out", folder / "voices" / "me.voice", "--work", folder / "work", "--threads", "1"]


def test_a_trained_voice_sings(trained, tmp_path, monkeypatch):
    assert re.search(r"step 2 of 2: loss \d+\.\d+, held out \d+\.\d+, .* left", trained.stderr)
    figures, place = trained.stdout.strip().splitlines()
    heads = r"Recordings that were not trained on, 8\.0 s of them, converted: pitch \d+\.\d cents off, \d+\.\d % octave errors, "
    assert re.match(heads, figures)
    assert place == str(tmp_path / "voices" / "me.voice")
    quality = VoicePack.open(place).manifest.voices[0].quality
    assert quality["held_out_pitch_error_cents"] < 50 and quality["held_out_voicing_agreement"] > 0.8
    assert 0 < quality["held_out_spectral_distance_db"] < 20 and quality["held_out_loss"] > 0
    monkeypatch.setenv("PLUGIN_BRIDGE_VOICES", str(tmp_path / "voices"))
    assert "me " in run("voices").stdout
    converted = run("convert", tmp_path / "0.wav", tmp_path / "out.wav", "--voice", "me")
    assert converted.exit_code == 0, converted.stderr
    assert 0.001 < np.abs(read_audio(tmp_path / "out.wav")).max() < 4


def test_recordings_that_do_not_do_are_told_one_by_one_and_may_be_replaced(tmp_path):
    """In their order, each in a line, before what ends the command; and what was refused has not been begun."""
    pytest.importorskip("torch")
    for name, audio in (("0.wav", np.zeros(48_000, np.float32)), ("1.wav", np.zeros(4_800, np.float32))):
        with AudioFile(str(tmp_path / name), "w", 48_000, 1) as file:
            file.write(audio)
    (tmp_path / "2.wav").write_bytes(b"no audio")
    for command in ("train", "train-song"):
        for _ in range(2):
            result = run(command, "me", tmp_path, "--work", tmp_path / "work")
            assert result.exit_code == 2
            assert result.stderr.splitlines() == [
                "plugin-bridge: 0.wav is left out: it holds no sound",
                "plugin-bridge: 1.wav is left out: it lasts 0.1 s, which is less than a word",
                "plugin-bridge: 2.wav is left out: it cannot be read as audio",
                "plugin-bridge: expected at least 20 s in three or more recordings of me, found 0 s in 0",
            ]


def test_ctrl_c_says_how_to_go_on(tmp_path):
    """A real one, once there is something to go on with."""
    pytest.importorskip("torch")
    for number in range(3):
        with AudioFile(str(tmp_path / f"{number}.wav"), "w", 48_000, 1) as file:
            file.write(sing([Note(52 + number, 3.5, "a", "s"), Note(57, 3.5, "i", "m")], seed=number).audio)
    ready, ended = tmp_path / "work" / "packed", threading.Event()

    def interrupt():
        while not ready.exists():
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGINT)

    waiting = threading.Thread(target=interrupt, daemon=True)
    waiting.start()
    result = run("train", "me", tmp_path, *training_options(tmp_path))
    ended.set()
    waiting.join()
    assert result.exit_code == 130
    assert one_sentence(result) == "interrupted: the same command with --resume goes on"
    assert not (tmp_path / "voices").exists()


@pytest.mark.slow
def test_a_training_goes_on_where_it_stopped(trained, tmp_path):
    again = run("train", "me", tmp_path, "--steps", "3", "--resume", *training_options(tmp_path))
    assert again.exit_code == 0, again.stderr
    assert "step 3 of 3" in again.stderr and "step 2 of 3" not in again.stderr
