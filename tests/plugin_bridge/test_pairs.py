"""Pairs for training: the same moments before and after, cut alike each time, and nothing done twice."""

import json

import numpy as np
import pytest
from pedalboard.io import AudioFile
from typer.testing import CliRunner

pytest.importorskip("torch")  # both come with the extra `train`
pytest.importorskip("soxr")

from models.pack import VoicePack
from plugin_bridge.cli import app
from plugin_bridge.pairs import plan_pairs

RATE = 16_000


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def flat(output):
    """Without the terminal's line breaks."""
    return " ".join(output.split())


def write(path, seconds, rate=48_000, level=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = level * np.random.default_rng(len(path.stem)).standard_normal((1, round(seconds * rate))).astype(np.float32)
    with AudioFile(str(path), "w", rate, 1, bit_depth=24) as file:
        file.write(audio)


def read(path):
    with AudioFile(str(path)) as file:
        assert file.samplerate == RATE
        return file.read(file.frames)[0]


def test_pairs_are_aligned_clips_in_three_sets_and_are_made_once(tmp_path):
    for name, seconds in {"ann-1.wav": 9.6, "ann-2.wav": 5, "bob-1.wav": 2, "cid-1.flac": 4.5}.items():
        write(tmp_path / "in" / name, seconds)
    # bank_b gives half of what it hears, so every pair is known.
    arguments = ("make-pairs", "bank_b", tmp_path / "in", tmp_path / "out", "--transpose", "0")
    code, output = run(*arguments)
    made = sorted((tmp_path / "out").rglob("*.wav"))
    # 4.096 s and twice again of 9.6 s; of 5 s the last 0.9 is too short; of 4.5 s the last 0.4.
    assert code == 0 and f"6 pairs in {tmp_path / 'out'}" in output
    assert len(made) == 12
    lengths = sorted(len(read(path)) for path in made if path.name.endswith("_original.wav"))
    assert lengths == [round(1.408 * RATE), 2 * RATE, *[65_536] * 4]
    for path in made:
        if path.name.endswith("_original.wav"):
            original, converted = read(path), read(path.with_name(path.name.replace("_original", "_converted")))
            assert len(original) == len(converted)
            assert np.abs(converted - 0.5 * original).max() < 1e-3
    sets = {
        split: {path.name.split("-")[0] for path in (tmp_path / "out" / split).glob("*.wav")} for split in ("train", "val", "dev")
    }
    assert all(sets.values())
    assert not sets["dev"] & (sets["train"] | sets["val"])
    assert json.loads((tmp_path / "out" / "teacher.json").read_text())["name"] == "bank_b"
    assert sorted(path.name for path in (tmp_path / "out").rglob(".*")) == []

    stamps = {path: path.stat().st_mtime_ns for path in made}
    missing = next(path for path in made if path.name.endswith("_000_original.wav"))
    missing.unlink()
    assert run(*arguments)[0] == 0
    again = {path for path in made if path.stat().st_mtime_ns != stamps[path]}
    assert {path.name.rsplit("_", 2)[0] for path in again} == {missing.name.rsplit("_", 2)[0]}


def test_pairs_of_another_voice_or_rate_are_not_mixed_with_those_that_are_there(tmp_path):
    for name in ("ann-1", "bob-1"):
        write(tmp_path / "in" / f"{name}.wav", 1.5)
    arguments = (tmp_path / "in", tmp_path / "out", "--transpose", "0")
    assert run("make-pairs", "bank_b", *arguments)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    code, output = run("make-pairs", "bank_a", *arguments)
    assert code == 2 and "holds pairs of the voice bank_b: those of bank_a at 16000 Hz want a folder of their own" in flat(output)
    code, output = run("make-pairs", "bank_b", *arguments, "--rate", "48000")
    assert code == 2 and "holds pairs of 16000 Hz: those of bank_b at 48000 Hz want a folder of their own" in flat(output)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == before


def test_a_recording_that_cannot_be_read_is_told_and_the_others_are_made(tmp_path):
    write(tmp_path / "in" / "ann" / "good.wav", 2)
    (tmp_path / "in" / "bob").mkdir()
    (tmp_path / "in" / "bob" / "bad.wav").write_bytes(b"no audio at all")
    code, output = run("make-pairs", "bank_a", tmp_path / "in", tmp_path / "out", "--transpose", "0")
    assert code == 2
    assert "bad.wav" in output and "1 pairs in" in output and "Traceback" not in output


def test_a_plan_hangs_on_names_alone(tmp_path):
    for speaker in range(30):
        for take in range(3):
            write(tmp_path / "in" / f"speaker{speaker}" / f"{take}.wav", 0.01)
    jobs = plan_pairs(tmp_path / "in", tmp_path / "out")
    sets = {split: {job.source for job in jobs if job.folder.name == split} for split in ("train", "val", "dev")}
    # One in twenty, rounded up: 2 of 30 speakers, and 5 of the 84 recordings of the others.
    assert {split: len(sources) for split, sources in sets.items()} == {"train": 79, "val": 5, "dev": 6}
    assert len({source.parent for source in sets["dev"]}) == 2
    assert len({job.stem for job in jobs}) == 90
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    moved = plan_pairs(tmp_path / "elsewhere", tmp_path / "out")
    assert [(job.folder, job.stem) for job in moved] == [(job.folder, job.stem) for job in jobs]


@pytest.mark.parametrize("files", [[], ["a.wav"]])
def test_too_few_recordings_are_refused(tmp_path, files):
    (tmp_path / "in").mkdir()
    for name in files:
        write(tmp_path / "in" / name, 1)
    code, output = run("make-pairs", "bank_a", tmp_path / "in", tmp_path / "out")
    assert code == 2 and "Traceback" not in output
    assert "holds no audio files" in output or "found one" in output


def test_a_training_without_pairs_or_with_an_unknown_variant_is_refused(tmp_path):
    code, output = run("train-llvc", "me", tmp_path, tmp_path / "work", "--out", tmp_path / "me.voice")
    assert code == 2 and "expected the teacher's card in" in output
    code, output = run("train-llvc", "me", tmp_path, tmp_path / "work", "--variant", "llvc-96k")
    assert code == 2 and "the variant must be one of llvc, llvc-nc, llvc-hfg, llvc-48k, not 'llvc-96k'" in output


@pytest.mark.slow
def test_pairs_train_a_voice_that_converts(tmp_path):
    """The published sizes: a step takes seconds, the optimisers' memory is a gigabyte."""
    from plugin_bridge import VoiceConverter

    for name in ("ann-1", "ann-2", "bob-1"):
        write(tmp_path / "in" / f"{name}.wav", 2)
    assert run("make-pairs", "bank_b", tmp_path / "in", tmp_path / "out", "--transpose", "0")[0] == 0
    recipe = tmp_path / "recipe.toml"
    values = {"seed": 1, "batch": 1, "clip": 4160, "segment": 2080, "judged": 2080}
    values |= {"learning_rate": 5e-4, "decay": 0.999, "adversarial": 1.0, "features": 2.0, "mel": 10.0}
    recipe.write_text("[training]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()))
    pack = tmp_path / "me.voice"
    options = ("--out", pack, "--recipe", recipe, "--steps", "2", "--chunk-factor", "2")
    code, output = run("train-llvc", "me", tmp_path / "out", tmp_path / "work", *options)
    assert code == 0, output
    assert VoicePack.open(pack).stream_model().chunk == 2 * 208
    audio = np.zeros(5000, np.float32)
    assert VoiceConverter(str(pack))(audio, RATE).shape == audio.shape
