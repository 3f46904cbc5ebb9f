"""The recipes as programs: what does not do is told in one sentence, before any work."""

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pedalboard.io import AudioFile

torch = pytest.importorskip("torch")

from lhq_training import write_takes  # noqa: E402

import models.source_filter.train  # noqa: E402
from models.blending import between  # noqa: E402
from models.lhq import adversarial, train_content, train_denoiser, train_vocoder  # noqa: E402
from models.lhq.blend import blend as blend_students  # noqa: E402
from models.lhq.data import Takes  # noqa: E402
from models.lhq.weights import load_base  # noqa: E402
from models.source_filter import train_tracker  # noqa: E402
from models.source_filter.bank import read_voices  # noqa: E402
from models.source_filter.data import Corpus, Recordings, pack, read_corpora, read_settings  # noqa: E402
from models.source_filter.features import SAMPLE_RATE  # noqa: E402
from models.source_filter.tracker import load_tracker  # noqa: E402
from models.source_filter.train import TrainingConfig  # noqa: E402
from models.source_filter.weights import load_trained  # noqa: E402

RECIPE = Path(models.source_filter.train.__file__).with_name("bank.toml")


def told(name, arguments, monkeypatch, capsys):
    """What `python -m NAME ARGUMENTS` says as it ends; that it fails is expected."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("models.source_filter.adversarial", ["--work", "none"], "expected packed recordings in none/packed, found none"),
        ("models.source_filter.bank", ["--work", "none", "--out", "a.voice"], "expected a checkpoint of this training in none"),
        ("models.source_filter.train", ["--data", "none", "--work", "w"], "expected recordings in none/pjs, found no audio file"),
        ("models.lhq.train_denoiser", ["--work", "none", "--steps", "9"], "expected packed recordings in none/packed, found none"),
        ("models.lhq.adversarial", ["--work", "none"], "expected packed recordings in none/packed, found none"),
        ("models.lhq.train_vocoder", ["--data", "none", "--work", "w"], "expected packed recordings in none, found none"),
        ("models.lhq.bank", ["--work", "none", "--out", "a.voice"], "there is no file a.voice"),
        ("models.lhq.bands", ["--work", "none"], "expected packed recordings in none/audio, found none"),
        ("models.words", ["--work", "none"], "expected packed recordings in none/audio, found none"),
        ("models.equaliser", ["none", "none"], "expected recordings in none, found no audio file there"),
        ("models.llvc.equalised", ["none", "none", "out"], "expected recordings in none, found no audio file there"),
        ("models.clear", ["--stream", "none", "--song", "none", "--out", "a.voice"], "expected packed recordings in none/packed"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # another test has imported it
def test_what_is_not_there_is_told_in_one_sentence(name, arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert f".py: error: {sentence}" in told(name, arguments, monkeypatch, capsys)


@pytest.mark.parametrize("module", [models.source_filter.train, train_content, train_denoiser, train_vocoder, adversarial])
@pytest.mark.parametrize("steps", ["0", "-3"])
def test_no_steps_are_no_training(module, steps, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "--steps", steps])
    with pytest.raises(SystemExit):
        module.main()
    assert f"argument --steps: expected at least 1, got {steps}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("learning_rate = 1e-3", "", "learning_rate: Field required"),
        ("batch = 10", "batsch = 10", "there is nothing called 'batsch'"),
        ("batch = 10", 'batch = "ten"', "batch: Input should be a valid integer"),
        ("batch = 10", "batch = true", "batch: Input should be a valid integer"),
        ("[training]", "[[training]]", "expected one table training in"),
        ("[training]", "[trainings]", "expected a recipe with a table training in"),
        ("[training]", "[training", "expected a recipe \\(TOML\\) in"),
    ],
)
def test_a_recipe_with_a_slip_says_which(before, after, problem, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(RECIPE.read_text().replace(before, after, 1))
    with pytest.raises(ValueError, match=f"{problem}.*"):
        read_settings(TrainingConfig, recipe, "training")


def test_later_tables_of_a_recipe_tell_what_is_different(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[a]\nfolder = "x"\nvoice = "y"\n[b]\nvoice = "z"\n[[corpus]]\nfolder = "x"\n')
    assert read_settings(Corpus, recipe, "a", "b") == Corpus("x", "z")
    with pytest.raises(ValueError, match=r"the tables corpus in .*mine\.toml, each of its type, but voice: Field required"):
        read_corpora(recipe)
    recipe.write_text('[[corpus]]\nfolder = "x"\nvoice = "y"\nhold_out = 0\n')
    with pytest.raises(ValueError, match=r"expected a hold_out of at least 2 for x in .*, got 0"):
        read_corpora(recipe)


def test_the_other_engines_packed_recordings_are_told_from_ours(tmp_path):
    (tmp_path / "index.json").write_text('[{"file": "a.wav", "speaker": "a"}]')
    with pytest.raises(ValueError, match=r"packed as a take each in .* but they are of another engine's training"):
        Takes(tmp_path)


def test_what_is_no_student_is_not_blended(tmp_path):
    torch.save({"step": 1}, tmp_path / "content.pt")
    with pytest.raises(ValueError, match=r"expected a student in .*content\.pt, but it lacks 'denoiser'"):
        blend_students(tmp_path / "content.pt", tmp_path / "content.pt", 0.5)


def test_a_card_with_a_slip_says_which(tmp_path):
    recipe, heard = tmp_path / "mine.toml", SimpleNamespace(f0_range_hz=lambda voice: (80.0, 200.0))
    recipe.write_text('[[voice]]\nname = "me"\ndisplay_name = "Me"\n')
    with pytest.raises(ValueError, match=r"expected the card of me in .*mine\.toml, but licence: Field required"):
        read_voices(recipe, heard, {}, "stream")


def test_networks_of_two_structures_are_not_blended():
    with pytest.raises(ValueError, match="of one structure"):
        between({"a": torch.zeros(2)}, {"a": torch.zeros(3)}, 0.5)


def test_a_voice_of_which_nothing_can_be_held_out_is_refused_before_it_is_trained(tmp_path):
    (tmp_path / "takes").mkdir()
    for number in (1, 2):
        with AudioFile(str(tmp_path / "takes" / f"{number}.wav"), "w", SAMPLE_RATE, 1) as file:
            file.write(np.zeros((1, SAMPLE_RATE), np.float32))
    out = tmp_path / "packed"
    with pytest.raises(ValueError, match=r"clips of me to train with, and one in 10 to hold out, found 2 clips in .*takes"):
        pack(tmp_path, [Corpus("takes", "me")], out)
    assert not (out / "index.json").exists()
    pack(tmp_path, [Corpus("takes", "me", hold_out=2)], out)
    assert [clip.held_out for clip in Recordings(out).clips] == [False, True]


@pytest.mark.parametrize("module", [models.source_filter.train, train_content])
def test_packing_tells_how_far_it_is_and_begins_after_the_recipe_was_read(module, tmp_path, monkeypatch, capsys):
    def packed(data, corpora, out, report):
        report(99, 200)
        report(100, 200)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "pack", packed)
    arguments = ["train", "--data", str(tmp_path), "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(KeyboardInterrupt):
        module.main()
    assert re.fullmatch(r"recording 100 of 200, \d+ s\n", capsys.readouterr().out)
    monkeypatch.setattr(module, "read_settings", lambda *names: read_settings(*names[:2], "nothing"))
    with pytest.raises(ValueError, match="with a table nothing"):
        module.main()


def test_the_content_encoders_training_ends_by_itself(tmp_path, monkeypatch):
    (tmp_path / "packed").mkdir()
    write_takes(tmp_path / "packed")
    taken = []
    monkeypatch.setattr(train_content, "fit", lambda *told, **more: taken.append(told[4]))
    monkeypatch.setattr(sys, "argv", ["train_content", "--data", "none", "--work", str(tmp_path)])
    train_content.main()
    assert taken == [2_000]  # as many as what is shipped took: presets/README.md


@pytest.mark.parametrize(
    ("load", "file"), [(load_trained, "base.npz"), (load_tracker, "tracker.npz"), (load_base, "../lhq/base.npz")]
)
@pytest.mark.parametrize("size", [0, 10_000, None])
def test_weights_that_were_cut_off_are_refused(load, file, size, tmp_path):
    path, whole = tmp_path / "cut.npz", (RECIPE.parent / file).read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(9) + whole[len(whole) // 2 + 9 :] if size is None else whole[:size])
    with pytest.raises(ValueError, match=r"expected .* in .*cut\.npz, but .* cannot be read \("):
        load(path)


def test_a_tracker_is_not_measured_on_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"expected recordings in .*, found no audio file there"):
        train_tracker.evaluate([tmp_path], None, 1, 1.0)
